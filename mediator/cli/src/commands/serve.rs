//! `turnstile serve`: keeps the GPU and its tenants until it is told to stop.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use crossbeam_channel::{Receiver, bounded, unbounded};
use turnstile_policy::{Attach, MicroVm, Policy, Process, Program};

use super::failure::Failure;
use super::machine;
use super::run::progress::Progress;
use super::run::session::{open_audit, watch_signals};
use super::table::{bytes, count};
use crate::audit::AuditHandle;
use crate::runtime::{Handle, Milestone, Report, Runtime, Settings, Wake};
use crate::tenants::News;
use crate::tenants::kvm::VmTenants;
use crate::tenants::process::ProcessTenants;
use crate::tenants::rpc::RpcTenants;
use crate::tenants::vfio_user::VfioUserTenants;

/// Serve every tenant of a policy until stopped
///
/// Opens the sockets of tenants that attach over vfio-user, for QEMU or Cloud Hypervisor to connect
/// to, whenever they come and as often as they come back; starts the microVMs and processes that the
/// policy names, once. Progress goes to stderr. SIGINT or SIGTERM ends every tenant, gives everything
/// back, and is a success.
#[derive(Args)]
pub(super) struct Serve {
    /// The policy, a JSON document
    config: PathBuf,
    /// Write the audit log here, whatever the policy says
    #[arg(long, value_name = "FILE")]
    audit: Option<PathBuf>,
    /// No progress on stderr
    #[arg(long, short)]
    quiet: bool,
}

/// How long the last tenants' news may take after they were stopped.
const GOODBYE: Duration = Duration::from_secs(1);

impl Serve {
    pub(super) fn run(self) -> Result<(), Failure> {
        let policy = super::policy::load(&self.config)?;
        check(&policy)?;
        let width = policy.tenants.iter().map(|t| t.name.len()).max().unwrap_or(0).max(9);
        let progress = Progress::new(self.quiet, width);
        let backend = machine::backend(&policy.device, &[])?;
        let wake = Wake::new().map_err(|e| machine::out_of("file descriptors", &e))?;
        let audit = open_audit(&policy, self.audit.as_deref(), &wake)?;
        let audit_handle = audit.as_ref().map_or(AuditHandle::none(), |(_, log)| log.handle());
        let (news, happenings) = unbounded();
        // Milestones are for people: a few may be lost when thousands happen at once.
        let (watcher, milestones) = bounded(1024);
        let settings = Settings {
            audit_rate: policy.audit.rate,
            watchdog: Duration::from_nanos(policy.device.watchdog_ns),
            ..Settings::default()
        };
        let runtime = Runtime::start(backend, audit_handle.clone(), wake, Some(watcher), settings)
            .map_err(|e| Failure::machine(e.to_string(), "raise the limit and try again"))?;
        let device = runtime.handle().description().clone();
        progress.say(
            "turnstile",
            format_args!("{} ({}), {}", device.name, device.kind, bytes(device.memory_bytes)),
        );
        let signals = watch_signals(news.clone())?;
        let tenants = Tenants::start(&policy, &runtime.handle(), &audit_handle, &news, &progress);
        if let Ok(tenants) = tenants {
            progress.say("turnstile", "serving; stop with Ctrl-C or SIGTERM");
            follow(&happenings, &milestones, &progress);
            progress.say("turnstile", "stopping: every tenant is ended, everything given back");
            tenants.stop();
            drain(&happenings, &milestones, &progress);
            signals.close();
            runtime.stop();
            if let Some((path, log)) = audit {
                let summary = log.close();
                let (records, path) = (count(summary.records), path.display());
                progress.say("turnstile", format_args!("audit: {records} records in {path}"));
            }
            return Ok(());
        }
        signals.close();
        runtime.stop();
        tenants.map(drop)
    }
}

/// Refuses what `serve` cannot do, before anything starts.
fn check(policy: &Policy) -> Result<(), Failure> {
    for tenant in &policy.tenants {
        match &tenant.attach {
            Attach::MicroVm(_) => machine::needs_kvm()?,
            Attach::Process(Process { program: None, .. }) => {
                return Err(Failure::input(
                    format!("tenant {} waits for a process, which is not served yet", tenant.name),
                    "name a \"guest\" or \"program\" in its attach",
                ));
            }
            Attach::Process(_) | Attach::VfioUser(_) | Attach::Rpc(_) => {}
        }
        let payload = match &tenant.attach {
            Attach::MicroVm(MicroVm { guest: turnstile_policy::Guest::Payload(name), .. })
            | Attach::Process(Process { program: Some(Program::Payload(name)), .. }) => name,
            _ => continue,
        };
        crate::tenants::workload::find(payload)
            .map_err(|e| Failure::input(e.to_string(), "name one of these in attach.guest"))?;
    }
    Ok(())
}

/// Every front end.
struct Tenants {
    vms: VmTenants,
    processes: Option<ProcessTenants>,
    vfio_user: VfioUserTenants,
    rpc: RpcTenants,
}

impl Tenants {
    fn start(
        policy: &Policy,
        runtime: &Handle,
        audit: &AuditHandle,
        news: &crossbeam_channel::Sender<News>,
        progress: &Progress,
    ) -> Result<Tenants, Failure> {
        let parts = || (runtime.clone(), audit.clone(), news.clone());
        let (r, a, n) = parts();
        let vfio_user = VfioUserTenants::start(&policy.tenants, r, a, n)
            .map_err(|e| Failure::machine(e.to_string(), "check attach.socket in the policy"))?;
        let (r, a, n) = parts();
        let rpc = RpcTenants::start(&policy.tenants, r, a, n)
            .map_err(|e| Failure::machine(e.to_string(), "check attach.socket in the policy"))?;
        let (r, a, n) = parts();
        let mut vms = VmTenants::new(r, a, n);
        let mut processes = None;
        for tenant in &policy.tenants {
            let failed = |e: &dyn std::fmt::Display| Failure::machine(e.to_string(), "");
            match &tenant.attach {
                Attach::MicroVm(vm) => vms.boot(tenant, vm).map_err(|e| failed(&e))?,
                Attach::Process(Process { program: Some(program), args, .. }) => {
                    if processes.is_none() {
                        let (r, a, n) = parts();
                        let started = ProcessTenants::start(r, a, n).map_err(|e| failed(&e))?;
                        processes = Some(started);
                    }
                    if let Some(processes) = &mut processes {
                        processes.spawn(tenant, program, args).map_err(|e| failed(&e))?;
                    }
                }
                // Refused by `check`.
                Attach::Process(_) => {}
                Attach::Rpc(rpc) => progress.say(
                    &tenant.name,
                    format_args!("waits for an RPC client at {}", rpc.socket.display()),
                ),
                Attach::VfioUser(vfio) => progress
                    .say(&tenant.name, format_args!("waits for a VM at {}", vfio.socket.display())),
            }
        }
        Ok(Tenants { vms, processes, vfio_user, rpc })
    }

    fn stop(self) {
        let Tenants { vms, processes, vfio_user, rpc } = self;
        vms.kill();
        processes.iter().for_each(ProcessTenants::kill);
        vfio_user.stop();
        rpc.stop();
        vms.stop();
        drop(processes);
    }
}

/// Shows what happens until the user wants an end.
fn follow(news: &Receiver<News>, milestones: &Receiver<Milestone>, progress: &Progress) {
    loop {
        crossbeam_channel::select! {
            recv(milestones) -> milestone => {
                if let Ok(milestone) = milestone {
                    progress.milestone(&milestone);
                }
            }
            recv(news) -> happening => match happening {
                Ok(News::Signal) | Err(_) => return,
                Ok(happening) => show(happening, progress),
            },
        }
    }
}

/// Shows what is left to show.
fn drain(news: &Receiver<News>, milestones: &Receiver<Milestone>, progress: &Progress) {
    let until = Instant::now() + GOODBYE;
    while let Ok(happening) = news.try_recv() {
        show(happening, progress);
        if Instant::now() > until {
            break;
        }
    }
    milestones.try_iter().for_each(|milestone| progress.milestone(&milestone));
}

fn show(happening: News, progress: &Progress) {
    match happening {
        News::Life(milestone) => progress.milestone(&milestone),
        News::Line { tenant, text } => progress.say(&tenant, format_args!("| {text}")),
        // The mediator's own milestone says it better.
        News::Attached { .. } | News::Signal => {}
        News::Ended { tenant, ended } => progress.ended(&tenant, &ended),
        News::Gone { tenant, report } => gone(&tenant, report.as_ref(), progress),
    }
}

fn gone(tenant: &Arc<str>, report: Option<&Report>, progress: &Progress) {
    let Some(report) = report else {
        return progress.say(tenant, "could not be detached; see the log");
    };
    let c = &report.counters;
    progress.say(
        tenant,
        format_args!(
            "gone: {} commands, {} moved, {} denied, {} failed",
            count(c.completed),
            bytes(c.bytes),
            count(c.denied),
            count(c.failed)
        ),
    );
}
