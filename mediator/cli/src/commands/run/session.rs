//! One run: backend, audit log, dispatcher and tenants brought up, watched and taken down in order.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use turnstile_emulated::device::Scripted;
use turnstile_policy::{Attach, Guest, MicroVm, Policy, Program, TenantPolicy};

use super::progress::Progress;
use super::{Frontend, Outcome};
use crate::audit::{AuditHandle, AuditLog, Options, Summary};
use crate::commands::failure::Failure;
use crate::commands::machine;
use crate::runtime::{Handle, Milestone, Report, Runtime, Settings, Wake};
use crate::tenants::kvm::VmTenants;
use crate::tenants::process::ProcessTenants;
use crate::tenants::{Ended, News, workload};

/// How long tenants that were told to stop may take.
const GOODBYE: Duration = Duration::from_secs(10);

/// A run that is over.
pub(super) struct Done {
    pub(super) outcomes: Vec<Outcome>,
    pub(super) audit: Option<(PathBuf, Summary)>,
    pub(super) elapsed: Duration,
    pub(super) peak_rss_bytes: Option<u64>,
    pub(super) interrupted: bool,
}

/// What a tenant is started as.
enum Plan {
    MicroVm(MicroVm),
    Process { program: Program, args: Vec<String> },
}

/// A tenant while it runs.
struct Running {
    name: Arc<str>,
    policy: Arc<TenantPolicy>,
    frontend: &'static str,
    attached: bool,
    gone: bool,
    ended: Option<Ended>,
    report: Option<Report>,
}

impl Running {
    fn is_done(&self) -> bool {
        self.ended.is_some() && (self.gone || !self.attached)
    }
}

/// Decides how each tenant is run, before anything starts.
fn plan(policy: &TenantPolicy, frontend: Frontend) -> Result<Plan, Failure> {
    let name = &policy.name;
    match (&policy.attach, frontend) {
        (Attach::MicroVm(vm), Frontend::Process) => match &vm.guest {
            Guest::Payload(payload) => Ok(Plan::Process {
                program: Program::Payload(payload.clone()),
                args: vm.args.clone(),
            }),
            _ => Err(Failure::input(
                format!("tenant {name} boots a kernel of its own, which cannot run as a process"),
                "run it with --frontend kvm, or name a built-in guest in attach.guest",
            )),
        },
        (Attach::MicroVm(vm), Frontend::Kvm) => Ok(Plan::MicroVm(vm.clone())),
        (Attach::Process(process), _) => match &process.program {
            Some(program) => {
                Ok(Plan::Process { program: program.clone(), args: process.args.clone() })
            }
            None => Err(Failure::input(
                format!("tenant {name} waits for a process of your own, which `run` does not"),
                "name a \"guest\" or \"program\" in its attach",
            )),
        },
        (Attach::VfioUser(_), _) => Err(Failure::input(
            format!("tenant {name} waits for a VMM of your own, which `run` does not"),
            "give it a microvm or a process to run",
        )),
        (Attach::Rpc(_), _) => Err(Failure::input(
            format!("tenant {name} waits for an RPC client of your own, which `run` does not"),
            "give it a microvm or a process to run, or use `serve`",
        )),
    }
}

pub(super) fn run(
    policy: &Policy,
    frontend: Frontend,
    audit_file: Option<&Path>,
    faults: &[Scripted],
    quiet: bool,
) -> Result<Done, Failure> {
    let plans: Vec<Plan> =
        policy.tenants.iter().map(|t| plan(t, frontend)).collect::<Result<_, _>>()?;
    for plan in &plans {
        let (payload, args) = match plan {
            Plan::Process { program: Program::Payload(name), args }
            | Plan::MicroVm(MicroVm { guest: Guest::Payload(name), args, .. }) => (name, args),
            _ => continue,
        };
        let workload = workload::find(payload)
            .map_err(|e| Failure::input(e.to_string(), "name one of these in attach.guest"))?;
        workload::check(workload, args)
            .map_err(|e| Failure::input(e.to_string(), "correct attach.args"))?;
    }
    if plans.iter().any(|plan| matches!(plan, Plan::MicroVm(_))) {
        machine::needs_kvm()?;
    }
    let width = policy.tenants.iter().map(|t| t.name.len()).max().unwrap_or(0).max(9);
    let progress = Progress::new(quiet, width);
    let backend = machine::backend(&policy.device, faults)?;
    let wake = Wake::new().map_err(|e| machine::out_of("file descriptors", &e))?;
    let audit = open_audit(policy, audit_file, &wake)?;
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
        format_args!(
            "{} ({}), {} of memory, {} tenants",
            device.name,
            device.kind,
            crate::commands::table::bytes(device.memory_bytes),
            policy.tenants.len()
        ),
    );
    let signals = watch_signals(news.clone())?;

    let result = tenants(
        policy,
        plans,
        &runtime.handle(),
        &audit_handle,
        &news,
        &happenings,
        &milestones,
        &progress,
    );
    signals.close();
    runtime.stop();
    for milestone in milestones.try_iter() {
        progress.milestone(&milestone);
    }
    let audit = audit.map(|(path, log)| (path, log.close()));
    let (outcomes, interrupted) = result?;
    Ok(Done {
        outcomes,
        audit,
        elapsed: progress.elapsed(),
        peak_rss_bytes: machine::peak_rss_bytes(),
        interrupted,
    })
}

pub(in crate::commands) fn open_audit(
    policy: &Policy,
    file: Option<&Path>,
    wake: &Wake,
) -> Result<Option<(PathBuf, AuditLog)>, Failure> {
    let Some(path) = file.or(policy.audit.path.as_deref()) else { return Ok(None) };
    let wake = wake.clone();
    // The dispatcher looks at the log's state itself; it only has to be awake for that.
    let log = AuditLog::open(path, Options::of(&policy.audit), Box::new(move |_| wake.wake()))
        .map_err(|e| Failure::input(e.to_string(), "name another file with --audit"))?;
    Ok(Some((path.into(), log)))
}

/// Turns the first SIGINT or SIGTERM into news; the second ends the program at once.
pub(in crate::commands) fn watch_signals(
    news: Sender<News>,
) -> Result<signal_hook::iterator::Handle, Failure> {
    let mut signals =
        Signals::new([SIGINT, SIGTERM]).map_err(|e| machine::out_of("signal handlers", &e))?;
    let handle = signals.handle();
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            let mut asked = false;
            for _ in &mut signals {
                if asked {
                    // The user means it. Children die with us, the kernel takes the rest back.
                    std::process::exit(130);
                }
                asked = true;
                let _ = news.send(News::Signal);
            }
        })
        .map_err(|e| machine::out_of("threads", &e))?;
    Ok(handle)
}

/// Starts every tenant and follows them to their ends. `true`: the user stopped them.
#[allow(clippy::too_many_arguments)] // Called once; a struct would only name the same eight things.
fn tenants(
    policy: &Policy,
    plans: Vec<Plan>,
    runtime: &Handle,
    audit: &AuditHandle,
    news: &Sender<News>,
    happenings: &Receiver<News>,
    milestones: &Receiver<Milestone>,
    progress: &Progress,
) -> Result<(Vec<Outcome>, bool), Failure> {
    let mut running: Vec<Running> = Vec::new();
    let mut vms = VmTenants::new(runtime.clone(), audit.clone(), news.clone());
    let mut processes = match plans.iter().any(|plan| matches!(plan, Plan::Process { .. })) {
        true => Some(
            ProcessTenants::start(runtime.clone(), audit.clone(), news.clone(), None)
                .map_err(|e| Failure::machine(e.to_string(), "run it where sockets can be made"))?,
        ),
        false => None,
    };
    for (tenant, plan) in policy.tenants.iter().zip(plans) {
        let mut entry = Running {
            name: (&*tenant.name).into(),
            policy: tenant.clone(),
            frontend: "process",
            attached: false,
            gone: false,
            ended: None,
            report: None,
        };
        let started = match &plan {
            Plan::MicroVm(vm) => {
                entry.frontend = "microvm";
                vms.boot(tenant, vm).map_err(|e| e.to_string())
            }
            Plan::Process { program, args } => processes
                .as_mut()
                .map_or(Ok(()), |p| p.spawn(tenant, program, args).map_err(|e| e.to_string())),
        };
        if let Err(why) = started {
            entry.ended = Some(Ended::Broken(why));
        }
        running.push(entry);
    }
    let stop = || {
        vms.kill();
        processes.iter().for_each(ProcessTenants::kill);
    };
    let interrupted = follow(&mut running, happenings, milestones, progress, &stop);
    vms.stop();
    drop(processes);
    let outcomes = running
        .into_iter()
        .map(|r| Outcome {
            runs: crate::commands::policy::runs(&r.policy.attach),
            name: r.name.to_string(),
            frontend: r.frontend,
            ended: r.ended.unwrap_or(Ended::Stopped),
            report: r.report,
        })
        .collect();
    Ok((outcomes, interrupted))
}

/// Follows the news until every tenant is done, or all had time enough to stop.
fn follow(
    running: &mut [Running],
    happenings: &Receiver<News>,
    milestones: &Receiver<Milestone>,
    progress: &Progress,
    stop: &dyn Fn(),
) -> bool {
    let mut until: Option<Instant> = None;
    while !running.iter().all(Running::is_done) {
        let patience = match until {
            Some(until) => until.saturating_duration_since(Instant::now()),
            None => Duration::from_secs(3600),
        };
        crossbeam_channel::select! {
            recv(milestones) -> milestone => {
                if let Ok(milestone) = milestone {
                    progress.milestone(&milestone);
                }
            }
            recv(happenings) -> happening => match happening {
                Ok(News::Signal) => {
                    progress.say("turnstile", "stopping: every tenant is ended, everything given back");
                    until = Some(Instant::now() + GOODBYE);
                    stop();
                }
                Ok(happening) => note(running, happening, progress),
                // Every sender is gone, so is everyone who could end.
                Err(_) => break,
            },
            default(patience) => {
                if until.is_some() {
                    progress.say("turnstile", "some tenant does not end; leaving it to the kernel");
                    break;
                }
            }
        }
    }
    until.is_some()
}

fn note(running: &mut [Running], happening: News, progress: &Progress) {
    match happening {
        News::Life(milestone) => progress.milestone(&milestone),
        News::Line { tenant, text } => progress.say(&tenant, format_args!("| {text}")),
        News::Attached { tenant } => {
            if let Some(tenant) = find(running, &tenant) {
                tenant.attached = true;
                tenant.gone = false;
            }
        }
        News::Ended { tenant, ended } => {
            progress.ended(&tenant, &ended);
            if let Some(tenant) = find(running, &tenant) {
                tenant.ended = Some(ended);
            }
        }
        News::Gone { tenant, report } => {
            if let Some(tenant) = find(running, &tenant) {
                tenant.gone = true;
                tenant.report = report.or(tenant.report.take());
            }
        }
        News::Signal => {}
    }
}

fn find<'r>(running: &'r mut [Running], name: &str) -> Option<&'r mut Running> {
    running.iter_mut().find(|r| &*r.name == name)
}
