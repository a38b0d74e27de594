//! The daemon's side: accepts, admits, and serves each tenant's client on a thread of its own.
//!
//! One thread accepts for all tenants. A tenant has one client at a time; a second connection waits
//! a moment, because it may be the next life of a VM whose last one is still being reclaimed, and is
//! then closed. A peer that the policy does not let in is closed before it is read from. A device is
//! made only once a client has negotiated, so connections that never speak cost a descriptor each,
//! and those of one tenant cost nobody else anything.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::net::Shutdown;
use turnstile_backend_api::SharedRegion;
use turnstile_device::Device;
use turnstile_process::Peer;

use crate::connection;
use crate::listener::Listener;
use crate::memory::MemoryLimits;
use crate::stream;

/// Why a server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// No thread or eventfd is to be had.
    #[error("cannot start: {0}; raise the limits on processes and open files (ulimit -u, -n)")]
    System(#[from] std::io::Error),
}

/// Bounds of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Time to negotiate, to finish a message, to read a reply; and how long a second connection
    /// waits for the first to be gone.
    pub patience: Duration,
    /// Bounds of each client's memory.
    pub memory: MemoryLimits,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { patience: Duration::from_secs(2), memory: MemoryLimits::default() }
    }
}

/// Decides who may be a tenant. Called by the server; shared between its threads.
pub trait Admission: Send + Sync {
    /// Whether a peer that reached the tenant's socket may be its client. Must be quick.
    ///
    /// # Errors
    /// The reason, for the log: the protocol has no place for it.
    fn admits(&self, tenant: &str, peer: &Peer) -> Result<(), String>;

    /// Brings the tenant's device to life. May block; nobody else is this tenant meanwhile.
    ///
    /// # Errors
    /// The reason, for the log.
    fn attach(&self, tenant: &str, peer: &Peer) -> Result<Seat, String>;
}

/// What an admitted client gets.
pub struct Seat {
    /// Its device, freshly made: nothing in the aperture is another client's.
    pub device: Arc<Device>,
    /// Where news of its memory goes.
    pub events: Box<dyn MemoryEvents>,
}

/// A client's memory and its end, for the dispatcher. Called from the client's thread; may block
/// until the dispatcher has answered.
pub trait MemoryEvents: Send {
    /// `bytes` of `region` from `offset` on appeared at the DMA address `address`.
    ///
    /// # Errors
    /// The reason, for the log.
    fn add(
        &mut self,
        address: u64,
        region: Arc<SharedRegion>,
        offset: u64,
        bytes: u64,
    ) -> Result<(), String>;

    /// Memory that was added there is to go. Returns once no backend can reach it.
    ///
    /// # Errors
    /// The reason, for the log. The memory then stays.
    fn remove(&mut self, address: u64, bytes: u64) -> Result<(), String>;

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

/// One tenant's way in.
pub struct Door {
    /// The tenant.
    pub tenant: String,
    /// Its socket.
    pub listener: Listener,
}

/// The client of one tenant, while there is one.
struct Occupant {
    tenant: String,
    socket: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    /// Its thread is about to end; nothing of the client is left.
    done: bool,
}

pub(crate) struct Shared {
    pub(crate) admission: Arc<dyn Admission>,
    pub(crate) limits: Limits,
    pub(crate) stopping: AtomicBool,
    /// By door.
    occupants: Mutex<Vec<Option<Occupant>>>,
    /// Doors that open and close while the server runs, for the accepting thread.
    orders: Mutex<Vec<Order>>,
    /// An eventfd: a client has gone, there are orders, or the server stops.
    wake: OwnedFd,
}

impl Shared {
    fn occupants(&self) -> MutexGuard<'_, Vec<Option<Occupant>>> {
        // What the lock guards is whole between any two statements.
        self.occupants.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn wake(&self) {
        // Full is as good as one more.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

/// What the accepting thread is to do.
enum Order {
    Open(Door),
    Close(String),
}

/// A running server. Dropping it disconnects every client and waits until each is reclaimed.
pub struct Server {
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves these doors.
    ///
    /// # Errors
    /// When threads or file descriptors run out.
    pub fn start(
        doors: Vec<Door>,
        admission: Arc<dyn Admission>,
        limits: Limits,
    ) -> Result<Server, ServerError> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(std::io::Error::from)?;
        let shared = Arc::new(Shared {
            admission,
            limits,
            stopping: AtomicBool::new(false),
            occupants: Mutex::new(doors.iter().map(|_| None).collect()),
            orders: Mutex::default(),
            wake,
        });
        let for_thread = shared.clone();
        let accepting = std::thread::Builder::new()
            .name("vfio-user".into())
            .spawn(move || Doorman::new(for_thread, doors).run())?;
        Ok(Server { shared, accepting: Some(accepting) })
    }

    /// Tenants whose client is connected now.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.shared.occupants().iter().flatten().filter(|o| !o.done).count()
    }

    /// Opens another tenant's door. Connections are accepted from soon after.
    pub fn open(&self, door: Door) {
        self.order(Order::Open(door));
    }

    /// Closes a tenant's door for good and ends its connection, if it has one. Its memory events learn
    /// of it as usual.
    pub fn close(&self, tenant: &str) {
        self.order(Order::Close(tenant.to_owned()));
    }

    fn order(&self, order: Order) {
        self.shared.orders.lock().unwrap_or_else(PoisonError::into_inner).push(order);
        self.shared.wake();
    }

    /// Ends a tenant's connection, if it has one. Its memory events learn of it as usual.
    pub fn disconnect(&self, tenant: &str) {
        for occupant in self.shared.occupants().iter().flatten().filter(|o| o.tenant == tenant) {
            let _ = rustix::net::shutdown(&occupant.socket, Shutdown::Both);
        }
    }

    /// Disconnects everybody and waits until each client is reclaimed.
    pub fn stop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.wake();
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
        let threads: Vec<_> = {
            let mut occupants = self.shared.occupants();
            let shut = |o: &mut Occupant| {
                let _ = rustix::net::shutdown(&o.socket, Shutdown::Both);
                o.thread.take()
            };
            occupants.iter_mut().flatten().filter_map(shut).collect()
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

/// A connection whose tenant has a client still.
struct Waiting {
    socket: OwnedFd,
    peer: Peer,
    until: Instant,
}

/// The accepting thread.
struct Doorman {
    shared: Arc<Shared>,
    /// A door that was closed leaves its place to the next one.
    doors: Vec<Option<Door>>,
    /// By door: at most one.
    waiting: Vec<Option<Waiting>>,
}

impl Doorman {
    fn new(shared: Arc<Shared>, doors: Vec<Door>) -> Doorman {
        let waiting = doors.iter().map(|_| None).collect();
        Doorman { shared, doors: doors.into_iter().map(Some).collect(), waiting }
    }

    fn run(mut self) {
        while !self.shared.stopping.load(Ordering::Acquire) {
            let knocked = self.wait();
            let _ = rustix::io::read(&self.shared.wake, &mut [0_u8; 8]);
            for door in knocked {
                // A bounded number a turn, so that other doors get theirs.
                for _ in 0..8 {
                    let Some(open) = &self.doors[door] else { break };
                    match open.listener.accept() {
                        Ok(socket) => self.knock(door, socket),
                        Err(Errno::MFILE | Errno::NFILE) => {
                            tracing::warn!("out of file descriptors; raise ulimit -n");
                            self.waiting.iter_mut().for_each(|w| *w = None);
                            std::thread::sleep(Duration::from_millis(10));
                            break;
                        }
                        Err(_) => break,
                    }
                }
            }
            self.obey();
            self.seat_waiting();
        }
    }

    /// Opens and closes doors.
    fn obey(&mut self) {
        let orders =
            std::mem::take(&mut *self.shared.orders.lock().unwrap_or_else(PoisonError::into_inner));
        for order in orders {
            match order {
                Order::Open(door) => {
                    let mut occupants = self.shared.occupants();
                    // A closed door's place is free once its last client is gone.
                    let free = (0..self.doors.len())
                        .find(|&at| self.doors[at].is_none() && occupants[at].is_none());
                    match free {
                        Some(at) => self.doors[at] = Some(door),
                        None => {
                            self.doors.push(Some(door));
                            self.waiting.push(None);
                            occupants.push(None);
                        }
                    }
                }
                Order::Close(tenant) => {
                    let named = |d: &Option<Door>| d.as_ref().is_some_and(|d| d.tenant == tenant);
                    let Some(at) = self.doors.iter().position(named) else { continue };
                    self.doors[at] = None;
                    self.waiting[at] = None;
                    if let Some(occupant) = &self.shared.occupants()[at] {
                        let _ = rustix::net::shutdown(&occupant.socket, Shutdown::Both);
                    }
                }
            }
        }
    }

    /// Waits for something to happen. Returns the doors with connections.
    fn wait(&self) -> Vec<usize> {
        let open = || self.doors.iter().enumerate().filter_map(|(n, d)| Some((n, d.as_ref()?)));
        let mut fds = Vec::with_capacity(1 + self.doors.len());
        fds.push(PollFd::new(&self.shared.wake, PollFlags::IN));
        fds.extend(open().map(|(_, d)| PollFd::new(&d.listener, PollFlags::IN)));
        let until = self.waiting.iter().flatten().map(|w| w.until).min();
        let left = until.map(|u| u.saturating_duration_since(Instant::now()));
        let timeout = left.map(|l| stream::timespec(l + Duration::from_millis(1)));
        if poll(&mut fds, timeout.as_ref()).is_err() {
            return Vec::new();
        }
        let knocked = open().zip(&fds[1..]).filter(|(_, fd)| !fd.revents().is_empty());
        knocked.map(|((door, _), _)| door).collect()
    }

    /// A new connection at a door.
    fn knock(&mut self, door: usize, socket: OwnedFd) {
        let Some(Door { tenant, .. }) = &self.doors[door] else { return };
        let Ok(peer) = Peer::of(socket.as_fd()) else { return };
        if let Err(why) = self.shared.admission.admits(tenant, &peer) {
            tracing::info!(tenant, uid = peer.uid, pid = peer.pid, why, "not let in");
            return;
        }
        // The first to wait keeps its place; whoever comes third is told at once, by the end of its
        // connection.
        let slot = &mut self.waiting[door];
        if slot.is_none() {
            let until = Instant::now() + self.shared.limits.patience;
            *slot = Some(Waiting { socket, peer, until });
            self.seat_waiting();
        } else {
            tracing::info!(tenant, pid = peer.pid, "the tenant has a client already");
        }
    }

    /// Seats those who wait where a seat is free, and sends away those who waited long enough.
    fn seat_waiting(&mut self) {
        let now = Instant::now();
        for door in 0..self.doors.len() {
            let finished = {
                let mut occupants = self.shared.occupants();
                let done = occupants[door].as_ref().is_some_and(|o| o.done);
                if done { occupants[door].take().and_then(|o| o.thread) } else { None }
            };
            if let Some(thread) = finished {
                let _ = thread.join();
            }
            if self.waiting[door].is_none() {
                continue;
            }
            if self.shared.occupants()[door].is_none() {
                if let Some(Waiting { socket, peer, .. }) = self.waiting[door].take()
                    && let Err(error) = self.seat(door, socket, peer)
                {
                    tracing::error!(%error, "cannot start a client's thread");
                }
            } else if self.waiting[door].as_ref().is_some_and(|w| w.until <= now) {
                if let Some(Door { tenant, .. }) = &self.doors[door] {
                    tracing::info!(tenant, "the tenant has a client already");
                }
                self.waiting[door] = None;
            }
        }
    }

    fn seat(&self, door: usize, socket: OwnedFd, peer: Peer) -> std::io::Result<()> {
        let socket = Arc::new(socket);
        let (shared, ours) = (self.shared.clone(), socket.clone());
        let Some(tenant) = self.doors[door].as_ref().map(|d| d.tenant.clone()) else {
            return Ok(());
        };
        let name = format!("vfu-{tenant:.11}");
        let who = tenant.clone();
        let serve = move || {
            // A panic in what the daemon plugged in must not keep the seat taken.
            let run = std::panic::AssertUnwindSafe(|| {
                connection::serve(&shared, ours.as_fd(), &tenant, &peer);
            });
            if std::panic::catch_unwind(run).is_err() {
                tracing::error!(tenant, "the client's thread panicked");
            }
            // The client learns that it is over even while its descriptor is still open here.
            let _ = rustix::net::shutdown(&ours, Shutdown::Both);
            if let Some(occupant) = &mut shared.occupants()[door] {
                occupant.done = true;
            }
            shared.wake();
        };
        // The lock is held until the thread is in the table, so it cannot be done before that.
        let mut occupants = self.shared.occupants();
        let thread = std::thread::Builder::new().name(name).stack_size(512 * 1024).spawn(serve)?;
        occupants[door] = Some(Occupant { tenant: who, socket, thread: Some(thread), done: false });
        Ok(())
    }
}
