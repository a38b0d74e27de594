//! Process tenants that Turnstile starts itself: children that speak over the real Unix socket.
//!
//! A child is let in by its peer credentials: the kernel's word for the connecting process id, which
//! must be the child that was started for that tenant. The socket lies in a directory only this user
//! can enter, and goes with it.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::Sender;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use turnstile_backend_api::SharedRegion;
use turnstile_core::TenantId;
use turnstile_policy::{Program, TenantPolicy};
use turnstile_process::socket::{Address, Listener};
use turnstile_process::{Admission, Left, Limits, MemoryEvents, Peer, Seat, Server};

use super::{Ended, MAX_TEXT, News, clean};
use crate::audit::{AuditHandle, TenantEvent};
use crate::runtime::Handle;
use crate::state::StateDirectory;

/// Lines a child may print before the rest is dropped.
const MAX_LINES: usize = 2000;

/// Why process tenants cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// No place for the socket.
    #[error(
        "cannot make a directory for the socket: {0}; set XDG_RUNTIME_DIR or TMPDIR to one you can write"
    )]
    Directory(std::io::Error),
    /// The server cannot run.
    #[error("the process front end: {0}")]
    Server(String),
    /// A child cannot be started.
    #[error(
        "cannot start {program}: {source}; check the path and the limit on processes (ulimit -u)"
    )]
    Spawn {
        /// What was to be started.
        program: String,
        /// Why not.
        source: std::io::Error,
    },
}

/// What the doorman knows of a tenant.
pub(super) struct Guest {
    pub(super) policy: Arc<TenantPolicy>,
    /// The process that may be this tenant.
    pub(super) pid: u32,
}

/// Lets children in, each as its own tenant.
pub(super) struct Doorman {
    runtime: Handle,
    pub(super) audit: AuditHandle,
    pub(super) news: Sender<News>,
    guests: Mutex<HashMap<String, Guest>>,
}

impl Doorman {
    pub(super) fn new(runtime: Handle, audit: AuditHandle, news: Sender<News>) -> Doorman {
        Doorman { runtime, audit, news, guests: Mutex::default() }
    }

    pub(super) fn guests(&self) -> MutexGuard<'_, HashMap<String, Guest>> {
        // Each entry is whole between any two statements.
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admission for Doorman {
    fn knows(&self, _door: usize, peer: &Peer) -> bool {
        self.guests().values().any(|guest| guest.pid == peer.pid)
    }

    fn identify(&self, _door: usize, peer: &Peer, wanted: &str) -> Result<String, String> {
        let guests = self.guests();
        let found = guests.iter().find(|(_, guest)| guest.pid == peer.pid);
        match found {
            Some((name, _)) if wanted.is_empty() || wanted == name => Ok(name.clone()),
            Some((name, _)) => Err(format!("this process is the tenant {name}, not {wanted}")),
            None => Err("this process was not started as a tenant".into()),
        }
    }

    fn attach(&self, tenant: &str, _peer: &Peer) -> Result<Seat, String> {
        let policy = self.guests().get(tenant).map(|guest| guest.policy.clone());
        let policy = policy.ok_or("no such tenant")?;
        let attached = self.runtime.attach(policy, true).map_err(|e| e.to_string())?;
        let tenant: Arc<str> = tenant.into();
        let _ = self.news.send(News::Attached { tenant: tenant.clone() });
        let events = Events {
            runtime: self.runtime.clone(),
            audit: self.audit.clone(),
            news: self.news.clone(),
            id: attached.tenant,
            tenant,
            memory: HashMap::new(),
        };
        Ok(Seat { device: attached.device, events: Box::new(events) })
    }
}

/// A connected client, towards the dispatcher.
struct Events {
    runtime: Handle,
    audit: AuditHandle,
    news: Sender<News>,
    id: TenantId,
    tenant: Arc<str>,
    memory: HashMap<u64, u64>,
}

impl MemoryEvents for Events {
    fn add(&mut self, gpa: u64, bytes: u64, region: SharedRegion) -> Result<(), String> {
        self.runtime
            .add_memory(self.id, gpa, Arc::new(region), 0, bytes)
            .map_err(|e| e.to_string())?;
        self.memory.insert(gpa, bytes);
        Ok(())
    }

    fn remove(&mut self, gpa: u64) -> Result<(), String> {
        let bytes = self.memory.get(&gpa).copied().ok_or("no memory was added there")?;
        self.runtime.remove_memory(self.id, gpa, bytes).map_err(|e| e.to_string())?;
        self.memory.remove(&gpa);
        Ok(())
    }

    fn left(&mut self, how: Left) {
        if let Left::Expelled(why) = how {
            let how = format!("expelled: {}", clean(why.as_bytes()));
            self.audit.record(Some(&self.tenant), TenantEvent::Ended { how, passed: false }.into());
        }
        let report = self.runtime.detach(self.id).inspect_err(|error| {
            tracing::error!(tenant = %self.tenant, %error, "the tenant could not be detached");
        });
        let _ = self.news.send(News::Gone { tenant: self.tenant.clone(), report: report.ok() });
    }
}

/// A child and the threads that watch it.
struct Child {
    tenant: Arc<str>,
    stopped: Arc<AtomicBool>,
    pidfd: OwnedFd,
    threads: Vec<JoinHandle<()>>,
}

impl Child {
    fn kill(&self) {
        self.stopped.store(true, Ordering::Release);
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

/// The tenants that are children of this process, and the socket they connect to.
pub struct ProcessTenants {
    // Dropped in this order: nobody serves a socket whose directory is gone.
    server: Server,
    doorman: Arc<Doorman>,
    children: Vec<Child>,
    home: Home,
}

/// Where the socket lies.
pub(super) enum Home {
    /// In the daemon's state directory, which also remembers the children.
    State(Arc<StateDirectory>, PathBuf),
    /// In a directory that goes with this.
    Own(tempfile::TempDir),
}

impl Home {
    pub(super) fn socket(&self) -> PathBuf {
        match self {
            Home::State(_, path) => path.join("socket"),
            Home::Own(directory) => directory.path().join("socket"),
        }
    }
}

impl ProcessTenants {
    /// Opens the socket, in the daemon's state directory if it has one. No tenant runs yet.
    ///
    /// # Errors
    /// When there is no place for the socket, or threads or descriptors run out.
    pub fn start(
        runtime: Handle,
        audit: AuditHandle,
        news: Sender<News>,
        state: Option<Arc<StateDirectory>>,
    ) -> Result<ProcessTenants, ProcessError> {
        let doorman = Arc::new(Doorman::new(runtime, audit, news));
        let (home, server) = private_server(doorman.clone(), state, "tenants")?;
        Ok(ProcessTenants { server, doorman, children: Vec::new(), home })
    }

    /// Starts a tenant's process: a workload of our own in another copy of this program, or a
    /// program of the user's, which finds the socket and its name in `TURNSTILE_SOCKET` and
    /// `TURNSTILE_TENANT`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(
        &mut self,
        policy: &Arc<TenantPolicy>,
        program: &Program,
        args: &[String],
    ) -> Result<(), ProcessError> {
        let socket = self.home.socket();
        let mut command = match program {
            Program::Payload(workload) => {
                let mut command = Command::new("/proc/self/exe");
                command.args(["tenant", "--socket"]).arg(&socket);
                command.args(["--name", &policy.name, "--workload", workload, "--"]).args(args);
                command
            }
            Program::File(path) => {
                let mut command = Command::new(path);
                command.args(args);
                command
            }
        };
        command
            .env("TURNSTILE_SOCKET", &socket)
            .env("TURNSTILE_TENANT", &*policy.name)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let failed = |source| ProcessError::Spawn { program: command_name(program), source };
        // Held until the child is in the list, so that it cannot knock before it is known.
        let mut guests = self.doorman.guests();
        let mut child = command.spawn().map_err(failed)?;
        let pidfd = match pid_of(&child)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).map_err(std::io::Error::from))
        {
            Ok(pidfd) => pidfd,
            Err(source) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(source));
            }
        };
        guests.insert(policy.name.to_string(), Guest { policy: policy.clone(), pid: child.id() });
        drop(guests);
        if let Home::State(state, _) = &self.home {
            state.note_child(child.id());
        }
        let tenant: Arc<str> = (&*policy.name).into();
        let started = TenantEvent::Started { frontend: "process".into() };
        self.doorman.audit.record(Some(&tenant), started.into());
        let stopped = Arc::new(AtomicBool::new(false));
        let threads = self.watch(child, &tenant, stopped.clone()).map_err(failed)?;
        self.children.retain(|c| c.threads.iter().any(|thread| !thread.is_finished()));
        self.children.push(Child { tenant, stopped, pidfd, threads });
        Ok(())
    }

    /// Starts the threads that pass a child's lines on and wait for its end.
    fn watch(
        &self,
        mut child: std::process::Child,
        tenant: &Arc<str>,
        stopped: Arc<AtomicBool>,
    ) -> std::io::Result<Vec<JoinHandle<()>>> {
        let thread = |name: String| std::thread::Builder::new().name(name);
        let mut readers = Vec::new();
        let streams: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|s| Box::new(s) as _),
            child.stderr.take().map(|s| Box::new(s) as _),
        ];
        for stream in streams.into_iter().flatten() {
            let (tenant, news) = (tenant.clone(), self.doorman.news.clone());
            readers.push(
                thread(format!("out-{tenant}")).spawn(move || pass_on(stream, &tenant, &news))?,
            );
        }
        let (tenant, doorman) = (tenant.clone(), self.doorman.clone());
        let waiter = thread(format!("wait-{tenant}")).spawn(move || {
            let status = child.wait();
            for reader in readers {
                let _ = reader.join();
            }
            let ended = match status {
                _ if stopped.load(Ordering::Acquire) => Ended::Stopped,
                Ok(status) if status.success() => Ended::Passed,
                Ok(status) if status.code() == Some(1) => Ended::Failed("its check failed".into()),
                Ok(status) => Ended::Broken(status.to_string()),
                Err(error) => Ended::Broken(error.to_string()),
            };
            // The process id may be another process's from now on.
            doorman.guests().remove(&*tenant);
            let how = match &ended {
                Ended::Passed => "passed".to_owned(),
                Ended::Failed(why) | Ended::Broken(why) => why.clone(),
                Ended::Stopped => "stopped".to_owned(),
            };
            let event = TenantEvent::Ended { how, passed: ended == Ended::Passed };
            doorman.audit.record(Some(&tenant), event.into());
            let _ = doorman.news.send(News::Ended { tenant, ended });
        })?;
        Ok(vec![waiter])
    }

    /// Kills every child. Their ends come as news, as usual.
    pub fn kill(&self) {
        self.children.iter().for_each(Child::kill);
    }

    /// Kills a tenant's child, if it has one, and ends its connection. Its end comes as news.
    pub fn kill_tenant(&self, tenant: &str) {
        self.children.iter().filter(|c| &*c.tenant == tenant).for_each(Child::kill);
        self.server.disconnect(tenant);
    }

    /// Kills every child, waits for all, and closes the socket.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.kill();
        for child in self.children.drain(..) {
            for thread in child.threads {
                let _ = thread.join();
            }
        }
        self.server.stop();
    }
}

impl Drop for ProcessTenants {
    fn drop(&mut self) {
        self.end();
    }
}

/// A socket for children of this process, in a directory that only this user can enter: a part of the
/// daemon's state directory, if it has one.
pub(super) fn private_server(
    doorman: Arc<Doorman>,
    state: Option<Arc<StateDirectory>>,
    part: &str,
) -> Result<(Home, Server), ProcessError> {
    let home = match state {
        Some(state) => {
            let path = state.part(part).map_err(ProcessError::Directory)?;
            Home::State(state, path)
        }
        None => {
            let root = std::env::var_os("XDG_RUNTIME_DIR")
                .map(PathBuf::from)
                .filter(|path| path.is_dir())
                .unwrap_or_else(std::env::temp_dir);
            let directory = tempfile::Builder::new().prefix("turnstile-").tempdir_in(root);
            Home::Own(directory.map_err(ProcessError::Directory)?)
        }
    };
    let failed = |e: &dyn std::fmt::Display| ProcessError::Server(e.to_string());
    let listener = Listener::bind(&Address::Path(home.socket()), 0o600).map_err(|e| failed(&e))?;
    let limits = Limits { memory_bytes: 1 << 30, ..Limits::default() };
    let server = Server::start(vec![listener], doorman, limits).map_err(|e| failed(&e))?;
    Ok((home, server))
}

fn command_name(program: &Program) -> String {
    match program {
        Program::Payload(name) => format!("the workload {name}"),
        Program::File(path) => path.display().to_string(),
    }
}

pub(super) fn pid_of(child: &std::process::Child) -> std::io::Result<Pid> {
    i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| std::io::Error::other("no process id"))
}

/// Passes a stream on line by line, bounded in length and number.
fn pass_on(stream: impl Read, tenant: &Arc<str>, news: &Sender<News>) {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    let mut left = MAX_LINES;
    loop {
        line.clear();
        match (&mut stream).take(MAX_TEXT as u64).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        // Whatever it prints is read to the end, so that it never blocks on us.
        if left > 0 {
            left -= 1;
            let text = clean(line.strip_suffix(b"\n").unwrap_or(&line));
            let text = if left == 0 { "(prints no more)".into() } else { text };
            let _ = news.send(News::Line { tenant: tenant.clone(), text });
        }
    }
}
