//! `turnstile serve`: keeps the GPU and its tenants until it is told to stop.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use crossbeam_channel::{Receiver, bounded, unbounded};
use turnstile_policy::{Attach, Policy};

use super::failure::Failure;
use super::machine;
use super::run::progress::Progress;
use super::run::session::{open_audit, watch_signals};
use super::table::{bytes, count};
use crate::audit::AuditHandle;
use crate::control::{ControlServer, Socket};
use crate::daemon::{self, Daemon, FrontEndError};
use crate::runtime::{Milestone, Report, Runtime, Settings, Wake};
use crate::state::{self, Recovered, StateDirectory};
use crate::tenants::News;

/// Serve every tenant of a policy until stopped
///
/// Opens the sockets of tenants that attach over vfio-user, for QEMU or Cloud Hypervisor to connect
/// to, whenever they come and as often as they come back; starts the microVMs and processes that the
/// policy names, once. Operators look and give orders through the control socket, with the commands
/// `tenants`, `top`, `stats`, `pause`, `resume`, `revoke`, `kill`, `reload` and `audit tail`. Progress
/// goes to stderr. SIGINT or SIGTERM ends every tenant, gives everything back, and is a success.
#[derive(Args)]
pub(super) struct Serve {
    /// The policy, a JSON document
    config: PathBuf,
    /// Write the audit log here, whatever the policy says
    #[arg(long, value_name = "FILE")]
    audit: Option<PathBuf>,
    /// Keep lock, process id and sockets here; each daemon has a directory of its own
    /// [default: $XDG_RUNTIME_DIR/turnstile, else /run/turnstile]
    #[arg(long, value_name = "DIR", env = "TURNSTILE_STATE")]
    state: Option<PathBuf>,
    /// Listen for operators here [default: control.sock in the state directory]
    #[arg(long, value_name = "SOCKET")]
    control: Option<PathBuf>,
    /// Permission bits of the control socket; whoever can write to it controls the daemon
    #[arg(long, value_name = "MODE", default_value = "0600", value_parser = mode)]
    control_mode: u32,
    /// Group of the control socket, a name or number; give it 0660 as mode
    #[arg(long, value_name = "GROUP", value_parser = group)]
    control_group: Option<u32>,
    /// Serve no operators
    #[arg(long, conflicts_with_all = ["control", "control_mode", "control_group"])]
    no_control: bool,
    /// No progress on stderr
    #[arg(long, short)]
    quiet: bool,
}

/// How long the last tenants' news may take after they were stopped.
const GOODBYE: Duration = Duration::from_secs(1);

fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| "write octal permission bits, such as 0660".into())
}

fn group(text: &str) -> Result<u32, String> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    // group(5): name, password, id, members.
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let found = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(text)).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    found.ok_or_else(|| "there is no such group in /etc/group; write its number".into())
}

fn cannot_serve(error: FrontEndError) -> Failure {
    let text = error.to_string();
    match error {
        FrontEndError::NoKvm { .. } => Failure::machine(text, ""),
        FrontEndError::Waits { .. }
        | FrontEndError::Workload { .. }
        | FrontEndError::File { .. } => Failure::input(text, ""),
        _ => Failure::machine(text, ""),
    }
}

impl Serve {
    pub(super) fn run(self) -> Result<(), Failure> {
        let policy = super::policy::load(&self.config)?;
        daemon::check(&policy.tenants).map_err(cannot_serve)?;
        let width = policy.tenants.iter().map(|t| t.name.len()).max().unwrap_or(0).max(9);
        let progress = Progress::new(self.quiet, width);
        let state = self.state.clone().unwrap_or_else(state::default_path);
        let (state, recovered) =
            StateDirectory::open(&state).map_err(|e| Failure::input(e.to_string(), ""))?;
        let state = Arc::new(state);
        tell_recovered(&recovered, &progress);
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
        let waiting = waiting(&policy);
        let daemon =
            Daemon::start(policy, runtime.handle(), audit_handle, news, Some(state.clone()));
        let served = daemon.map_err(cannot_serve).map(Arc::new).and_then(|daemon| {
            let control = self.control(&daemon, &state)?;
            for (tenant, what, socket) in waiting {
                progress.say(&tenant, format_args!("waits for {what} at {}", socket.display()));
            }
            if let Some(control) = &control {
                progress.say("turnstile", format_args!("control: {}", control.path().display()));
            }
            progress.say("turnstile", "serving; stop with Ctrl-C or SIGTERM");
            follow(&happenings, &milestones, &progress);
            progress.say("turnstile", "stopping: every tenant is ended, everything given back");
            drop(control);
            daemon.stop();
            drain(&happenings, &milestones, &progress);
            Ok(())
        });
        signals.close();
        runtime.stop();
        if let Some((path, log)) = audit {
            let summary = log.close();
            let (records, path) = (count(summary.records), path.display());
            progress.say("turnstile", format_args!("audit: {records} records in {path}"));
        }
        served
    }

    fn control(
        &self,
        daemon: &Arc<Daemon>,
        state: &StateDirectory,
    ) -> Result<Option<ControlServer>, Failure> {
        if self.no_control {
            return Ok(None);
        }
        let ours = state::control_socket(state.path());
        let failed = |e: &dyn std::fmt::Display| Failure::input(e.to_string(), "");
        if let (None, Some(group)) = (&self.control, self.control_group) {
            state.let_group_pass(group).map_err(|e| failed(&e))?;
        }
        let path = self.control.clone().unwrap_or(ours);
        let socket = Socket { path, mode: self.control_mode, group: self.control_group };
        let server = ControlServer::start(daemon.clone(), &socket).map_err(|e| failed(&e))?;
        state.note_socket(server.path());
        Ok(Some(server))
    }
}

fn tell_recovered(recovered: &Recovered, progress: &Progress) {
    if let Some(pid) = recovered.died {
        progress.say("turnstile", format_args!("the last daemon ({pid}) did not stop in order"));
    }
    for pid in &recovered.ended {
        progress.say("turnstile", format_args!("ended its tenant's process {pid}"));
    }
    for socket in &recovered.sockets {
        progress.say("turnstile", format_args!("removed its socket {}", socket.display()));
    }
}

/// Tenants that somebody else starts, and where they connect.
fn waiting(policy: &Policy) -> Vec<(String, &'static str, PathBuf)> {
    let socket = |attach: &Attach| match attach {
        Attach::VfioUser(vm) => Some(("a VM", vm.socket.clone())),
        Attach::Rpc(rpc) => Some(("an RPC client", rpc.socket.clone())),
        _ => None,
    };
    let waits = |tenant: &Arc<turnstile_policy::TenantPolicy>| {
        let (what, socket) = socket(&tenant.attach)?;
        Some((tenant.name.to_string(), what, socket))
    };
    policy.tenants.iter().filter_map(waits).collect()
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
