//! The daemon's side: accepts, admits, and starts one thread a client.
//!
//! One thread accepts and waits for hellos, so that connections that never speak cost a descriptor
//! each and no thread; there is a bound on them, and the oldest makes room for the newest. A peer
//! that no tenant lets in is turned away before it is read from.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::net::Shutdown;
use turnstile_backend_api::SharedRegion;
use turnstile_device::Device;

use crate::connection::{self, Hello};
use crate::peer::Peer;
use crate::socket::{self, Listener, SocketError};
use crate::wire::Message;

/// Why a server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A socket could not be set up.
    #[error("cannot listen: {0}")]
    Socket(#[from] SocketError),
    /// No thread or eventfd is to be had.
    #[error("cannot start: {0}; raise the limits on processes and open files")]
    System(#[from] std::io::Error),
    /// The server is stopping, or has as many clients as it may.
    #[error("no room for another client ({0} connected)")]
    Full(usize),
}

/// Bounds of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Clients at once.
    pub clients: usize,
    /// Connections that have not said hello yet.
    pub pending: usize,
    /// Time to say hello, and to read an answer.
    pub patience: Duration,
    /// Pieces of memory a client may add.
    pub pieces: usize,
    /// Bytes of memory a client may add, all pieces together.
    pub memory_bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            clients: 256,
            pending: 64,
            patience: Duration::from_secs(2),
            pieces: 64,
            memory_bytes: 64 << 30,
        }
    }
}

/// Decides who may be whom. Called by the server; shared between its threads.
pub trait Admission: Send + Sync {
    /// Whether any tenant lets this peer in through listener `door` (counted in the order given to
    /// [`Server::start`]). Must be quick.
    fn knows(&self, door: usize, peer: &Peer) -> bool;

    /// Which tenant the peer becomes when it asks for `wanted`, which may be empty. Must be quick.
    ///
    /// # Errors
    /// The reason, told to the peer.
    fn identify(&self, door: usize, peer: &Peer, wanted: &str) -> Result<String, String>;

    /// Brings the tenant's device to life. May block; no other client is this tenant meanwhile.
    ///
    /// # Errors
    /// The reason, told to the peer.
    fn attach(&self, tenant: &str, peer: &Peer) -> Result<Seat, String>;
}

/// What an admitted client gets.
pub struct Seat {
    /// Its device, freshly made: nothing in the aperture is another client's.
    pub device: Arc<Device>,
    /// Where news of its memory goes.
    pub events: Box<dyn MemoryEvents>,
}

/// A client's guest memory and its end, for the dispatcher. Called from the client's thread; may
/// block until the dispatcher has answered.
pub trait MemoryEvents: Send {
    /// Memory appeared at `gpa`. Only such memory can be registered for DMA.
    ///
    /// # Errors
    /// The reason, told to the client.
    fn add(&mut self, gpa: u64, bytes: u64, region: SharedRegion) -> Result<(), String>;

    /// The memory added at `gpa` is to go. Returns once no backend can reach it.
    ///
    /// # Errors
    /// The reason, told to the client.
    fn remove(&mut self, gpa: u64) -> Result<(), String>;

    /// The client is gone. Returns once everything it held is reclaimed. The last call.
    fn left(&mut self, how: Left);
}

/// How a client went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    /// It closed its socket, or died.
    Closed,
    /// It broke the protocol or a bound; the reason is for the log.
    Expelled(String),
    /// The server stopped.
    Stopped,
}

/// Clients that are connected, by tenant, with what ends their connection.
#[derive(Default)]
struct Clients {
    by_tenant: HashMap<String, Arc<OwnedFd>>,
    threads: HashMap<u64, JoinHandle<()>>,
}

pub(crate) struct Shared {
    pub(crate) admission: Arc<dyn Admission>,
    pub(crate) limits: Limits,
    pub(crate) stopping: AtomicBool,
    clients: Mutex<Clients>,
    next: AtomicU64,
    /// An eventfd, written once: when the server stops.
    wake: OwnedFd,
}

impl Shared {
    fn clients(&self) -> MutexGuard<'_, Clients> {
        // What the lock guards is whole between any two statements.
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running server. Dropping it disconnects every client and waits until each is reclaimed.
pub struct Server {
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves these listeners; without any, only [`adopt`](Self::adopt)ed clients.
    pub fn start(
        listeners: Vec<Listener>,
        admission: Arc<dyn Admission>,
        limits: Limits,
    ) -> Result<Server, ServerError> {
        let shared = Arc::new(Shared {
            admission,
            limits,
            stopping: AtomicBool::new(false),
            clients: Mutex::default(),
            next: AtomicU64::new(0),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .map_err(std::io::Error::from)?,
        });
        let for_thread = Arc::clone(&shared);
        let accepting = std::thread::Builder::new()
            .name("process-accept".into())
            .spawn(move || accept_loop(&for_thread, &listeners))?;
        Ok(Server { shared, accepting: Some(accepting) })
    }

    /// Serves a client whose socket the daemon made itself, as `tenant`. The client still has to
    /// say hello.
    pub fn adopt(&self, socket: OwnedFd, tenant: &str) -> Result<(), ServerError> {
        let peer = Peer::of(socket.as_fd())?;
        let claim =
            claim(&self.shared, tenant, socket).map_err(|_| ServerError::Full(self.clients()))?;
        start_client(&self.shared, claim, tenant.to_owned(), peer, None)?;
        Ok(())
    }

    /// Clients connected now.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.shared.clients().by_tenant.len()
    }

    /// Ends a tenant's connection, if it has one. Its memory events learn of it as usual.
    pub fn disconnect(&self, tenant: &str) {
        if let Some(socket) = self.shared.clients().by_tenant.get(tenant) {
            let _ = rustix::net::shutdown(socket, Shutdown::Both);
        }
    }

    /// Disconnects everybody and waits until each client is reclaimed.
    pub fn stop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        let _ = rustix::io::write(&self.shared.wake, &1_u64.to_ne_bytes());
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
        let threads: Vec<_> = {
            let mut clients = self.shared.clients();
            for socket in clients.by_tenant.values() {
                let _ = rustix::net::shutdown(socket, Shutdown::Both);
            }
            clients.threads.drain().map(|(_, thread)| thread).collect()
        };
        for thread in threads {
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A connection that has not said hello.
struct Pending {
    socket: OwnedFd,
    peer: Peer,
    door: usize,
    until: Instant,
}

fn accept_loop(shared: &Arc<Shared>, listeners: &[Listener]) {
    let mut pending: Vec<Pending> = Vec::new();
    while !shared.stopping.load(Ordering::Acquire) {
        let (doors, ready) = wait(shared, listeners, &pending);
        let now = Instant::now();
        let mut quiet = Vec::with_capacity(pending.len());
        for (connection, ready) in pending.drain(..).zip(ready) {
            if ready {
                hello(shared, connection);
            } else if connection.until > now {
                quiet.push(connection);
            }
        }
        pending = quiet;
        for door in doors {
            // A bounded number a turn, so that hellos get theirs.
            for _ in 0..16 {
                match listeners[door].accept() {
                    Ok(socket) => admit(shared, &mut pending, socket, door),
                    Err(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) => {
                        // Out of descriptors: the silent ones have to make room.
                        tracing::warn!("out of file descriptors; dropping silent connections");
                        pending.clear();
                        std::thread::sleep(Duration::from_millis(10));
                        break;
                    }
                    Err(_) => break,
                }
            }
        }
    }
}

/// Waits for something to happen: listeners that have connections, and which of `pending` spoke.
fn wait(shared: &Shared, listeners: &[Listener], pending: &[Pending]) -> (Vec<usize>, Vec<bool>) {
    let mut fds = Vec::with_capacity(1 + listeners.len() + pending.len());
    fds.push(PollFd::new(&shared.wake, PollFlags::IN));
    fds.extend(listeners.iter().map(|l| PollFd::new(l, PollFlags::IN)));
    fds.extend(pending.iter().map(|p| PollFd::new(&p.socket, PollFlags::IN)));
    let until = pending.iter().map(|p| p.until).min();
    let left = until.map(|u| u.saturating_duration_since(Instant::now()));
    let timeout = left.map(|l| socket::timespec(l + Duration::from_millis(1)));
    if poll(&mut fds, timeout.as_ref()).is_err() {
        return (Vec::new(), vec![false; pending.len()]);
    }
    let spoke = |fd: &PollFd<'_>| !fd.revents().is_empty();
    let (doors, connections) = fds[1..].split_at(listeners.len());
    let doors = doors.iter().enumerate().filter(|(_, fd)| spoke(fd)).map(|(i, _)| i).collect();
    (doors, connections.iter().map(spoke).collect())
}

/// A new connection: known peers wait for their hello, others are turned away.
fn admit(shared: &Shared, pending: &mut Vec<Pending>, socket: OwnedFd, door: usize) {
    let Ok(peer) = Peer::of(socket.as_fd()) else { return };
    if !shared.admission.knows(door, &peer) {
        tracing::info!(uid = peer.uid, pid = peer.pid, "no tenant lets this peer in");
        refuse(&socket, "no tenant of the policy lets this user in; see attach.users and .groups");
        return;
    }
    if pending.len() >= shared.limits.pending.max(1) {
        pending.remove(0);
    }
    pending.push(Pending { socket, peer, door, until: Instant::now() + shared.limits.patience });
}

fn refuse(socket: &OwnedFd, why: &str) {
    // Best effort: whoever does not read does not learn.
    let _ = socket::send(socket.as_fd(), &Message::Refused(why), &[], Duration::ZERO);
}

/// A connection spoke: it becomes a client, or is refused.
fn hello(shared: &Arc<Shared>, connection: Pending) {
    let Pending { socket, peer, door, .. } = connection;
    let packet = match socket::receive(socket.as_fd(), Some(Instant::now())) {
        Ok(packet) => packet,
        Err(SocketError::Closed) => return,
        Err(e) => return refuse(&socket, &e.to_string()),
    };
    let (hello, wanted) = match Hello::read(&packet) {
        Ok(hello) => hello,
        Err(why) => return refuse(&socket, &why),
    };
    let tenant = match shared.admission.identify(door, &peer, wanted) {
        Ok(tenant) => tenant,
        Err(why) => {
            tracing::info!(uid = peer.uid, pid = peer.pid, wanted, why, "refused");
            return refuse(&socket, &why);
        }
    };
    match claim(shared, &tenant, socket) {
        Ok(socket) => {
            if let Err(e) = start_client(shared, socket, tenant, peer, Some(hello)) {
                tracing::warn!("no thread for a client: {e}");
            }
        }
        Err((socket, why)) => refuse(&socket, why),
    }
}

/// Takes a tenant's one seat.
fn claim(
    shared: &Shared,
    tenant: &str,
    socket: OwnedFd,
) -> Result<Arc<OwnedFd>, (OwnedFd, &'static str)> {
    let mut clients = shared.clients();
    if shared.stopping.load(Ordering::Acquire) {
        return Err((socket, "the daemon is stopping"));
    }
    if clients.by_tenant.contains_key(tenant) {
        return Err((socket, "another client is this tenant; one at a time"));
    }
    if clients.by_tenant.len() >= shared.limits.clients {
        return Err((socket, "the daemon has as many clients as it may; try again later"));
    }
    let socket = Arc::new(socket);
    clients.by_tenant.insert(tenant.to_owned(), Arc::clone(&socket));
    Ok(socket)
}

fn start_client(
    shared: &Arc<Shared>,
    socket: Arc<OwnedFd>,
    tenant: String,
    peer: Peer,
    hello: Option<Hello>,
) -> Result<(), std::io::Error> {
    let id = shared.next.fetch_add(1, Ordering::Relaxed);
    let ours = Arc::clone(shared);
    let name = tenant.clone();
    let serve = move || {
        // A panic in what the daemon plugged in must not keep the seat taken.
        let run = std::panic::AssertUnwindSafe(|| {
            connection::serve(&ours, &socket, &tenant, &peer, hello);
        });
        if std::panic::catch_unwind(run).is_err() {
            tracing::error!(tenant, "the client's thread panicked");
        }
        let mut clients = ours.clients();
        clients.by_tenant.remove(&tenant);
        clients.threads.remove(&id);
    };
    // The lock is held until the thread is in the table, so the thread cannot leave before that.
    let mut clients = shared.clients();
    if shared.stopping.load(Ordering::Acquire) {
        clients.by_tenant.remove(&name);
        return Ok(());
    }
    let spawned = std::thread::Builder::new()
        .name(format!("process-{name:.8}"))
        .stack_size(512 * 1024)
        .spawn(serve);
    match spawned {
        Ok(thread) => {
            clients.threads.insert(id, thread);
            Ok(())
        }
        Err(e) => {
            clients.by_tenant.remove(&name);
            Err(e)
        }
    }
}
