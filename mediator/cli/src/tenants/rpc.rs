//! Tenants that speak Cap'n Proto RPC: a socket each, and a process of ours for each client.
//!
//! What a client sends is parsed in a child that is a process tenant like any other: it holds the
//! tenant's aperture and a socket to this daemon, and nothing else. Here nothing of it is read. One
//! client at a time is the tenant, because the tenant's quotas are one device's.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::process::{PidfdFlags, Resource, Rlimit, Signal, pidfd_open, pidfd_send_signal};
use turnstile_capnp::{Client, Limits, refusal};
use turnstile_policy::{Attach, Rate, Rpc, TenantPolicy, TokenBucket};
use turnstile_process::{Address, ClientError, Peer, ProcessTransport, Server};
use turnstile_vfio_user::Listener;
use turnstile_vfio_user::listener::ListenError;

use super::News;
use super::process::{Doorman, Guest, Home, ProcessError, pid_of, private_server};
use crate::audit::{AuditHandle, TenantEvent};
use crate::runtime::Handle;
use crate::state::StateDirectory;

/// How fast a tenant's clients may come. Each is a new process.
const ARRIVALS: Rate = Rate { per_second: 10, burst: 20 };
/// Memory of a client's process, without what is shared with the daemon, in bytes.
const MEMORY: u64 = 512 << 20;
/// How long the predecessor's device may take to go.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the sockets cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// A tenant's socket cannot be opened.
    #[error("tenant {tenant}: {source}")]
    Listen {
        /// The tenant.
        tenant: String,
        /// Why not.
        source: ListenError,
    },
    /// There is no way for the children to reach the daemon.
    #[error("the RPC front end: {0}")]
    Process(#[from] ProcessError),
    /// Threads or descriptors run out.
    #[error("the RPC front end: {0}; raise the limits on processes and open files")]
    System(#[from] std::io::Error),
}

/// The sockets of all tenants that attach over RPC.
pub struct RpcTenants {
    runtime: Handle,
    audit: AuditHandle,
    news: Sender<News>,
    state: Option<Arc<StateDirectory>>,
    /// From the first tenant on.
    running: Option<Running>,
}

struct Running {
    orders: Sender<Order>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    server: Server,
    /// Goes last: nobody serves a socket whose directory is gone.
    _home: Home,
}

/// What the porter is told.
enum Order {
    Open(Box<Door>),
    Update(Arc<TenantPolicy>),
    /// Ends the client; with `close`, for good. Answered when it is done.
    End {
        tenant: String,
        close: bool,
        done: Sender<()>,
    },
    Stop,
}

/// A tenant's sockets, bound and not served yet.
pub struct Prepared(Box<Door>);

impl RpcTenants {
    /// Serves nobody yet. Sockets are written down in the daemon's state directory, if it has one.
    #[must_use]
    pub fn new(
        runtime: Handle,
        audit: AuditHandle,
        news: Sender<News>,
        state: Option<Arc<StateDirectory>>,
    ) -> RpcTenants {
        RpcTenants { runtime, audit, news, state, running: None }
    }

    /// Binds a tenant's sockets; `None` if it does not attach over RPC. Dropping what comes back
    /// removes them again.
    ///
    /// # Errors
    /// When a socket cannot be bound.
    pub fn prepare(&self, policy: &Arc<TenantPolicy>) -> Result<Option<Prepared>, RpcError> {
        let Attach::Rpc(rpc) = &policy.attach else { return Ok(None) };
        let door = Door::open(policy, rpc)?;
        if let Some(state) = &self.state {
            state.note_socket(door.listener.path());
            state.note_socket(door.maps.path());
        }
        Ok(Some(Prepared(Box::new(door))))
    }

    /// Serves whoever connects to a tenant's sockets and may.
    ///
    /// # Errors
    /// When threads or descriptors run out.
    pub fn open(&mut self, prepared: Prepared) -> Result<(), RpcError> {
        let running = match &mut self.running {
            Some(running) => running,
            none => {
                let (r, a, n) = (self.runtime.clone(), self.audit.clone(), self.news.clone());
                none.insert(Running::start(Arc::new(Doorman::new(r, a, n)), self.state.clone())?)
            }
        };
        running.tell(Order::Open(prepared.0));
        Ok(())
    }

    /// Lets in whom a tenant's new policy names from now on.
    pub fn update(&self, policy: &Arc<TenantPolicy>) {
        if let (Attach::Rpc(_), Some(running)) = (&policy.attach, &self.running) {
            running.tell(Order::Update(policy.clone()));
        }
    }

    /// Ends a tenant's client and closes its sockets.
    pub fn close(&self, tenant: &str) {
        self.end(tenant, true);
    }

    /// Ends a tenant's client, if it has one; it may come back.
    pub fn kill_tenant(&self, tenant: &str) {
        self.end(tenant, false);
    }

    fn end(&self, tenant: &str, close: bool) {
        let Some(running) = &self.running else { return };
        let (done, answer) = bounded(1);
        running.tell(Order::End { tenant: tenant.to_owned(), close, done });
        let _ = answer.recv_timeout(PATIENCE);
    }

    /// Ends every client, waits until everything is reclaimed, and closes the sockets.
    pub fn stop(self) {
        let RpcTenants { running, .. } = self;
        drop(running);
    }
}

impl Running {
    fn start(
        doorman: Arc<Doorman>,
        state: Option<Arc<StateDirectory>>,
    ) -> Result<Running, RpcError> {
        let (home, server) = private_server(doorman.clone(), state, "rpc")?;
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = Arc::new(eventfd(0, flags).map_err(std::io::Error::from)?);
        // A handful an operator's command; never waited for by the porter.
        let (orders, inbox) = unbounded();
        let porter = Porter {
            doors: Vec::new(),
            doorman,
            socket: home.socket(),
            inbox,
            wake: wake.clone(),
            start: Instant::now(),
        };
        let thread =
            std::thread::Builder::new().name("rpc-accept".into()).spawn(move || porter.run())?;
        Ok(Running { orders, wake, thread: Some(thread), server, _home: home })
    }

    fn tell(&self, order: Order) {
        let _ = self.orders.send(order);
        let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tell(Order::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.server.stop();
    }
}

/// A tenant's sockets and who is in.
struct Door {
    name: Arc<str>,
    policy: Arc<TenantPolicy>,
    users: Vec<u32>,
    listener: Listener,
    maps: Listener,
    arrivals: TokenBucket,
    client: Option<Served>,
}

/// A client and the process that serves it.
struct Served {
    child: Child,
    pidfd: OwnedFd,
}

impl Door {
    fn open(policy: &Arc<TenantPolicy>, rpc: &Rpc) -> Result<Door, RpcError> {
        let Rpc { socket, mode, group, users } = rpc;
        let failed = |source| RpcError::Listen { tenant: policy.name.to_string(), source };
        let mut maps = socket.clone().into_os_string();
        maps.push(".map");
        let maps = Listener::bind(maps.as_ref(), *mode, *group).map_err(failed)?;
        let listener = Listener::bind(socket, *mode, *group).map_err(failed)?;
        Ok(Door {
            name: (&*policy.name).into(),
            policy: policy.clone(),
            users: users.clone(),
            listener,
            maps,
            arrivals: TokenBucket::new(ARRIVALS, 0),
            client: None,
        })
    }

    /// Whether this peer may come in now.
    fn admits(&mut self, peer: &Peer, now_ns: u64) -> Result<(), (String, bool)> {
        if !self.users.is_empty() && !self.users.contains(&peer.uid) {
            return Err((format!("denied: user {} is not in attach.users", peer.uid), false));
        }
        if self.client.is_some() {
            return Err(("busy: another client is this tenant; one at a time".into(), true));
        }
        if self.arrivals.take(1, now_ns).is_err() {
            return Err(("busy: clients come too fast; wait a second".into(), true));
        }
        Ok(())
    }
}

/// Lets clients in, on a thread of its own.
struct Porter {
    doors: Vec<Door>,
    doorman: Arc<Doorman>,
    socket: PathBuf,
    inbox: Receiver<Order>,
    wake: Arc<OwnedFd>,
    start: Instant,
}

impl Porter {
    fn run(mut self) {
        while self.obey() {
            let (knocks, ends) = self.wait();
            for (at, ended) in ends.into_iter().enumerate() {
                if ended {
                    self.ended(at);
                }
            }
            for (at, knocked) in knocks.into_iter().enumerate() {
                // One a turn, so that every door gets its own.
                if knocked && let Ok(stream) = self.doors[at].listener.accept() {
                    self.knock(at, stream);
                }
            }
        }
        (0..self.doors.len()).for_each(|at| self.kill(at));
    }

    /// Carries out what was ordered; `false`: it is over.
    fn obey(&mut self) -> bool {
        let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
        while let Ok(order) = self.inbox.try_recv() {
            let find = |doors: &[Door], name: &str| doors.iter().position(|d| &*d.name == name);
            match order {
                Order::Open(door) => self.doors.push(*door),
                Order::Update(policy) => {
                    if let Some(at) = find(&self.doors, &policy.name)
                        && let Attach::Rpc(Rpc { users, .. }) = &policy.attach
                    {
                        self.doors[at].users.clone_from(users);
                        self.doors[at].policy = policy;
                    }
                }
                Order::End { tenant, close, done } => {
                    if let Some(at) = find(&self.doors, &tenant) {
                        self.kill(at);
                        if close {
                            self.doors.remove(at);
                        }
                    }
                    let _ = done.send(());
                }
                Order::Stop => return false,
            }
        }
        true
    }

    /// Ends a client's process, if there is one, and waits for its end.
    fn kill(&mut self, at: usize) {
        if let Some(client) = &self.doors[at].client {
            let _ = pidfd_send_signal(&client.pidfd, Signal::KILL);
            self.ended(at);
        }
    }

    /// Which doors have connections waiting, and at which the client's process has ended.
    fn wait(&self) -> (Vec<bool>, Vec<bool>) {
        let mut fds = vec![PollFd::new(&*self.wake, PollFlags::IN)];
        fds.extend(self.doors.iter().map(|door| PollFd::new(&door.listener, PollFlags::IN)));
        let served = || self.doors.iter().filter_map(|door| door.client.as_ref());
        fds.extend(served().map(|client| PollFd::new(&client.pidfd, PollFlags::IN)));
        // A bound, in case descriptors run out and a connection stays where it is.
        let bound = Timespec { tv_sec: 1, tv_nsec: 0 };
        if poll(&mut fds, Some(&bound)).is_err() {
            return (Vec::new(), Vec::new());
        }
        let ready: Vec<bool> = fds[1..].iter().map(|fd| !fd.revents().is_empty()).collect();
        let (knocks, pids) = ready.split_at(self.doors.len());
        let mut pids = pids.iter().copied();
        let ended = |door: &Door| door.client.is_some() && pids.next().unwrap_or(false);
        (knocks.to_vec(), self.doors.iter().map(ended).collect())
    }

    fn knock(&mut self, at: usize, stream: OwnedFd) {
        // CAST: 584 years of uptime fit.
        let now_ns = self.start.elapsed().as_nanos() as u64;
        let door = &mut self.doors[at];
        let Ok(peer) = Peer::of(stream.as_fd()) else { return };
        let admitted = door.admits(&peer, now_ns).and_then(|()| {
            serve(door, &self.doorman, &self.socket, &stream).map_err(|e| {
                tracing::warn!(tenant = %door.name, error = %e, "no process for an RPC client");
                ("no_memory: the daemon has no room for a client".to_owned(), true)
            })
        });
        match admitted {
            Ok(()) => {
                let started = TenantEvent::Started { frontend: "rpc".into() };
                self.doorman.audit.record(Some(&door.name), started.into());
            }
            Err((why, busy)) => {
                tracing::info!(tenant = %door.name, uid = peer.uid, why, "an RPC client is refused");
                let mut stream = UnixStream::from(stream);
                // Best effort: it fits into an empty socket, or the client does not learn why.
                let _ = stream.set_nonblocking(true);
                let _ = stream.write_all(&refusal(&why, busy));
            }
        }
    }

    fn ended(&mut self, at: usize) {
        let door = &mut self.doors[at];
        let Some(mut client) = door.client.take() else { return };
        let how = match client.child.wait() {
            Ok(status) if status.success() => "disconnected".to_owned(),
            Ok(status) => how(status),
            Err(error) => error.to_string(),
        };
        // The process id may be another process's from now on.
        self.doorman.guests().remove(&*door.name);
        let text = format!("the RPC client is gone: {how}");
        self.doorman.audit.record(Some(&door.name), TenantEvent::Left { how }.into());
        let _ = self.doorman.news.send(News::Line { tenant: door.name.clone(), text });
    }
}

fn how(status: ExitStatus) -> String {
    match status.code() {
        Some(_) => "expelled: it broke the protocol or a bound".into(),
        None => format!("its process ended: {status}"),
    }
}

/// Starts the process that serves a client.
fn serve(
    door: &mut Door,
    doorman: &Doorman,
    socket: &std::path::Path,
    stream: &OwnedFd,
) -> std::io::Result<()> {
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["rpc-client", "--socket"])
        .arg(socket)
        .args(["--name", &door.name, "--maps"])
        .arg(door.maps.path())
        .env_clear()
        // The client's connection and the listener for mappings come in as standard input and output:
        // the two descriptors that the standard library passes on safely.
        .stdin(Stdio::from(stream.try_clone()?))
        .stdout(Stdio::from(door.maps.as_fd().try_clone_to_owned()?));
    // Held until the child is in the list, so that it cannot knock before it is known.
    let mut guests = doorman.guests();
    let mut child = command.spawn()?;
    let pidfd = pid_of(&child)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).map_err(std::io::Error::from));
    let pidfd = pidfd.inspect_err(|_| {
        let _ = child.kill();
        let _ = child.wait();
    })?;
    guests.insert(door.name.to_string(), Guest { policy: door.policy.clone(), pid: child.id() });
    door.client = Some(Served { child, pidfd });
    Ok(())
}

/// What the child does: serves the client on its standard input until it goes.
///
/// # Errors
/// When the daemon does not let it in, or the client breaks the protocol or a bound.
pub fn serve_client(socket: PathBuf, tenant: &str, maps_path: String) -> anyhow::Result<()> {
    // When the daemon dies, its tenants must not linger.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let bound = Rlimit { current: Some(MEMORY), maximum: Some(MEMORY) };
    rustix::process::setrlimit(Resource::Data, bound)?;
    rustix::thread::set_no_new_privs(true)?;
    let stream = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let maps = UnixListener::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    let until = Instant::now() + PATIENCE;
    let transport = loop {
        match ProcessTransport::connect(&Address::Path(socket.clone()), tenant) {
            // The device of the client before goes when everything of it is reclaimed.
            Err(ClientError::Refused(_)) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => break other?,
        }
    };
    let client = Client { stream, maps, maps_path };
    Ok(turnstile_capnp::serve(client, transport, Limits::default())?)
}
