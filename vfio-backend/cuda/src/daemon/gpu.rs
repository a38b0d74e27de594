//! The backend: spaces, workers, and the way between them. Owned by the dispatcher; nothing here waits
//! for a worker, the GPU or a disk.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::{HashMap, HashMapExt};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use turnstile_abi::Status;
use turnstile_abi::version::Features;
use turnstile_backend_api::{
    Backend, BackendEvent, BackendOp, Description, Isolation, MemoryId, Outcome, SharedRegion,
    SpaceId, Ticket,
};

use super::cache::{Cache, CacheError};
use super::mps::{self, MpsError};
use super::porter::{Porter, Prepared};
use super::post::{Happening, Post};
use super::reaper;
use super::share::Floor;
use super::space::{Expected, Lost, Space, answered};
use super::staff::{Kind, Link, Staff, WorkerId};
use crate::driver::{self, DeviceInfo};
use crate::socket::{self, Received};
use crate::wire::{Command, Hello};

/// How long the first worker may take at the start.
const FIRST_WORKER: Duration = Duration::from_secs(60);
/// How long workers may take to end when the backend is dropped.
const GOODBYE: Duration = Duration::from_secs(5);
/// Datagrams of one worker looked at in one round.
const NOTES: u32 = 16;
/// The post's token in the epoll; workers' are their numbers.
const POST: u64 = 0;

/// Use of the Multi-Process Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mps {
    /// If it is installed; if not, all sessions take turns.
    Auto,
    /// Or else the backend does not start.
    Require,
    /// Never.
    Off,
}

/// Settings of the backend.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Ordinal of the GPU, as the CUDA driver counts.
    pub device: u32,
    /// Device memory to say that there is, in bytes; the GPU's own if that is less.
    pub memory_bytes: u64,
    /// Use of MPS.
    pub mps: Mps,
    /// Workers kept ready for new sessions.
    pub warm_workers: u32,
    /// Where compiled programs are kept.
    pub cache: Option<PathBuf>,
    /// Whether spaces may be promised more memory than there is: it is then taken as it is used, not when a
    /// space is opened.
    pub overcommit: bool,
    /// Program and arguments that run [`crate::worker::main`]; the ordinal follows them.
    pub worker: (PathBuf, Vec<OsString>),
}

/// Why the backend does not start.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    /// There is no driver.
    #[error(
        "no CUDA driver: {0}; install NVIDIA's driver, or write \"backend\": \"emulated\" in device"
    )]
    NoDriver(String),
    /// The first worker fails.
    #[error("the GPU cannot be used: {0}")]
    NoWorker(String),
    /// MPS is required and cannot be used.
    #[error("device.cuda.mps is \"require\": {0}")]
    Mps(#[from] MpsError),
    /// The cache cannot be used.
    #[error("device.cuda.cache: {0}")]
    Cache(#[from] CacheError),
    /// Threads or file descriptors ran out.
    #[error("{0}; raise the limits (ulimit -n, ulimit -u)")]
    System(#[from] std::io::Error),
}

/// A worker as the backend knows it.
enum Hired {
    /// Being started, for the first space that asks.
    Starting(Kind),
    /// Ready, nobody's.
    Warm(Kind, Box<Link>),
    /// A space's.
    Taken(SpaceId),
}

/// An NVIDIA GPU.
pub struct CudaGpu {
    settings: Settings,
    info: DeviceInfo,
    staff: Staff,
    porter: Porter,
    post: Arc<Post>,
    epoll: OwnedFd,
    workers: HashMap<WorkerId, Hired>,
    next_worker: u64,
    spaces: HashMap<SpaceId, Space>,
    memory: HashMap<MemoryId, Arc<SharedRegion>>,
    events: Vec<BackendEvent>,
    floor: Floor,
    /// The dispatcher slept: datagrams may have come.
    look: bool,
}

impl CudaGpu {
    /// Starts MPS as the settings say, and the first worker, and waits until that is ready.
    ///
    /// # Errors
    /// [`CudaError`]: what is missing and what to do about it.
    pub fn start(settings: Settings) -> Result<CudaGpu, CudaError> {
        driver::library().map_err(CudaError::NoDriver)?;
        CudaGpu::start_unchecked(settings)
    }

    /// Like [`start`](Self::start), where the daemon itself need not be able to load the driver.
    pub(super) fn start_unchecked(settings: Settings) -> Result<CudaGpu, CudaError> {
        let cache = settings.cache.as_deref().map(Cache::open).transpose()?;
        let mps = match settings.mps {
            Mps::Off => None,
            Mps::Auto | Mps::Require => match mps::Mps::start() {
                Ok(mps) => Some(Arc::new(mps)),
                Err(error) if settings.mps == Mps::Require => return Err(error.into()),
                Err(error) => {
                    tracing::warn!("no MPS: {error}; tenants take turns on the GPU, which is slow");
                    None
                }
            },
        };
        let post = Arc::new(Post::new()?);
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(std::io::Error::from)?;
        epoll::add(&epoll, post.fd(), EventData::new_u64(POST), EventFlags::IN)
            .map_err(std::io::Error::from)?;
        let (program, mut args) = settings.worker.clone();
        args.push(settings.device.to_string().into());
        let staff = Staff { program, args, mps, post: post.clone() };
        let kind = usual(&staff);
        let first = WorkerId(1);
        staff.hire(first, kind);
        let (link, info) = match post.wait(FIRST_WORKER) {
            Some(Happening::Ready { link, info, .. }) => (link, info),
            Some(Happening::Exited { why, .. }) => return Err(CudaError::NoWorker(why)),
            _ => return Err(CudaError::NoWorker(format!("no answer in {FIRST_WORKER:?}"))),
        };
        let porter = Porter::start(cache, (info.compute, info.driver), post.clone())?;
        let mut gpu = CudaGpu {
            settings,
            info,
            staff,
            porter,
            post,
            epoll,
            workers: HashMap::new(),
            next_worker: 1,
            spaces: HashMap::new(),
            memory: HashMap::new(),
            events: Vec::new(),
            floor: Floor::default(),
            look: false,
        };
        gpu.watch(first, &link);
        gpu.workers.insert(first, Hired::Warm(kind, link));
        gpu.refill();
        Ok(gpu)
    }

    /// Whether tenants can run at the same time.
    #[must_use]
    pub fn has_mps(&self) -> bool {
        self.staff.mps.is_some()
    }

    // --- Workers -------------------------------------------------------------------------------

    fn hire(&mut self, kind: Kind) {
        self.next_worker += 1;
        let worker = WorkerId(self.next_worker);
        self.workers.insert(worker, Hired::Starting(kind));
        self.staff.hire(worker, kind);
    }

    /// Keeps as many workers ready or on their way as the settings say, beside those that spaces wait for.
    fn refill(&mut self) {
        let kind = usual(&self.staff);
        let spare = |hired: &&Hired| match hired {
            Hired::Starting(k) | Hired::Warm(k, _) => *k == kind,
            _ => false,
        };
        let there = self.workers.values().filter(spare).count();
        let awaited =
            self.spaces.values().filter(|s| s.opening.is_some() && s.kind == kind).count();
        for _ in there..awaited + self.settings.warm_workers as usize {
            self.hire(kind);
        }
    }

    fn watch(&self, worker: WorkerId, link: &Link) {
        let added =
            epoll::add(&self.epoll, &link.socket, EventData::new_u64(worker.0), EventFlags::IN);
        if let Err(error) = added {
            // Its end is heard of through its keeper; only waking by it does not work.
            tracing::error!(%error, "epoll");
        }
    }

    /// Gives waiting spaces the workers that are ready for them.
    fn assign(&mut self) {
        let mut waiting: Vec<SpaceId> =
            self.spaces.values().filter(|s| s.opening.is_some()).map(|s| s.id).collect();
        waiting.sort_unstable();
        for id in waiting {
            let Some(space) = self.spaces.get_mut(&id) else { continue };
            let fits = |(_, hired): &(&WorkerId, &Hired)| matches!(hired, Hired::Warm(kind, _) if *kind == space.kind);
            let Some(worker) = self.workers.iter().find(fits).map(|(&worker, _)| worker) else {
                continue;
            };
            let Some(Hired::Warm(_, link)) = self.workers.insert(worker, Hired::Taken(id)) else {
                continue;
            };
            space.worker = Some(worker);
            space.link = Some(link);
            let Some(ticket) = space.opening.take() else { continue };
            let limit = space.memory_bytes;
            // What is promised is there, unless the operator promises more than there is.
            let commit = if self.settings.overcommit { limit.min(64 << 20) } else { limit };
            let command = Command::Open { limit, commit };
            let sent = space.submit(ticket, command, Expected::Opened, None, None, &self.floor);
            if let Err(lost) = sent {
                self.lose(id, lost);
            }
        }
        self.refill();
    }

    /// Something that happened outside.
    fn hear(&mut self, happening: Happening) {
        match happening {
            Happening::Ready { worker, link, .. } => {
                self.watch(worker, &link);
                if let Some(Hired::Starting(kind)) = self.workers.get(&worker) {
                    let kind = *kind;
                    self.workers.insert(worker, Hired::Warm(kind, link));
                }
                self.assign();
            }
            Happening::Exited { worker, why } => self.exited(worker, why),
            Happening::Prepared { space, ticket, prepared } => {
                self.prepared(space, ticket, *prepared)
            }
            Happening::NotPrepared { space, ticket } => {
                if self.spaces.get_mut(&space).is_some_and(|s| s.open.remove(&ticket.0).is_some()) {
                    self.events.push(answered(ticket, Outcome::failed(Status::NoMemory, 0)));
                }
            }
        }
    }

    /// Has workers that share the MPS server look whether their contexts are still good: those of a server that had an
    /// accident must go before it takes new clients, and an idle one would not notice.
    fn call_the_roll(&self) {
        let warm = self.workers.values().filter_map(|hired| match hired {
            Hired::Warm(kind, link) if kind.concurrent => Some(&link.socket),
            _ => None,
        });
        let taken =
            self.spaces.values().filter(|s| s.kind.concurrent).filter_map(|s| s.link.as_ref());
        for socket in warm.chain(taken.map(|link| &link.socket)) {
            // One that does not read has something to do, and finds out by itself.
            let _ = socket::send(socket, &crate::wire::Note::Wake.encode(), None);
        }
    }

    fn exited(&mut self, worker: WorkerId, why: String) {
        let orderly = match self.workers.get(&worker) {
            Some(Hired::Taken(id)) => {
                self.spaces.get(id).is_some_and(|s| s.closing.is_some() && !s.dead)
            }
            _ => false,
        };
        if !orderly {
            self.call_the_roll();
        }
        match self.workers.remove(&worker) {
            Some(Hired::Taken(id)) => {
                // What it answered before its end counts.
                self.collect(id);
                let why = self.last_words(id).unwrap_or(why);
                self.lose(id, Lost(why));
                let Some(space) = self.spaces.get_mut(&id) else { return };
                space.worker = None;
                space.link = None;
                if let Some(ticket) = space.closing {
                    self.spaces.remove(&id);
                    self.events.push(answered(ticket, Outcome::ok(0)));
                }
            }
            Some(Hired::Starting(kind)) => {
                tracing::error!(why, "a worker does not start");
                // One space learns of it; the others wait for the next worker.
                let first =
                    self.spaces.values_mut().filter(|s| s.opening.is_some() && s.kind == kind);
                if let Some(space) = first.min_by_key(|s| s.id)
                    && let Some(ticket) = space.opening.take()
                {
                    let id = space.id;
                    self.spaces.remove(&id);
                    self.events.push(answered(ticket, Outcome::failed(Status::NoMemory, 0)));
                    self.refill_for_waiting();
                }
            }
            Some(Hired::Warm(..)) => {
                tracing::warn!(why, "a worker that was ready ended");
                self.refill_for_waiting();
            }
            None => {}
        }
    }

    /// After a failure: workers for those that wait, none in reserve until somebody asks again.
    fn refill_for_waiting(&mut self) {
        if self.spaces.values().any(|s| s.opening.is_some()) {
            self.refill();
        }
    }

    /// What a worker said about its end.
    fn last_words(&self, id: SpaceId) -> Option<String> {
        let link = self.spaces.get(&id)?.link.as_ref()?;
        let mut bytes = [0; Hello::MOST];
        for _ in 0..NOTES {
            match socket::receive(&link.socket, &mut bytes) {
                Received::Datagram(n, _) => match Hello::decode(&bytes[..n]) {
                    Some(Hello::Failed { why }) => return Some(why),
                    _ => continue,
                },
                Received::Nothing | Received::Closed => return None,
            }
        }
        None
    }

    // --- Spaces --------------------------------------------------------------------------------

    /// A space is not to be used any more: everything open is answered, its worker ends.
    fn lose(&mut self, id: SpaceId, Lost(why): Lost) {
        let Some(space) = self.spaces.get_mut(&id) else { return };
        let status = if space.closing.is_some() { Status::Revoked } else { Status::DeviceLost };
        space.fail_all(status, &mut self.events);
        if std::mem::replace(&mut space.dead, true) {
            return;
        }
        if let Some(link) = &space.link {
            reaper::end(link.process.clone(), self.staff.mps.clone(), Duration::ZERO);
        }
        if space.closing.is_none() {
            tracing::warn!(space = id.0, why, "a space is lost");
            self.events.push(BackendEvent::SpaceLost { space: id, why });
        }
    }

    fn kind(&self, isolation: Isolation, memory_bytes: u64) -> Kind {
        let mut kind = Kind { concurrent: false, sm_percent: None, memory_bytes: None };
        if let Isolation::Concurrent { sm_percent } = isolation
            && self.staff.mps.is_some()
        {
            kind.concurrent = true;
            kind.sm_percent = sm_percent.filter(|&percent| percent < 100);
            if kind.sm_percent.is_some() {
                // Started for this tenant, so the service itself can hold it to its memory: what it may have, and what
                // code, the sink and the driver take.
                kind.memory_bytes = Some(memory_bytes.saturating_add(1 << 30));
            }
        }
        kind
    }

    fn open(
        &mut self,
        ticket: Ticket,
        id: SpaceId,
        memory_bytes: u64,
        weight: u32,
        isolation: Isolation,
    ) {
        let kind = self.kind(isolation, memory_bytes);
        let mut space = Space::new(id, kind, memory_bytes, weight);
        space.opening = Some(ticket);
        self.spaces.insert(id, space);
        if kind != usual(&self.staff) {
            self.hire(kind);
        }
        self.assign();
    }

    fn close(&mut self, ticket: Ticket, id: SpaceId) {
        let Some(space) = self.spaces.get_mut(&id) else {
            self.events.push(answered(ticket, Outcome::failed(Status::DeviceLost, 0)));
            return;
        };
        space.closing = Some(ticket);
        // What is under way may end by itself; what waits does not start any more.
        self.events.extend(space.waiting.drain(..).map(super::space::Waiting::revoked));
        if let Some(opening) = space.opening.take() {
            self.events.push(answered(opening, Outcome::failed(Status::Revoked, 0)));
        }
        let Some(link) = &space.link else {
            // No worker was given to it yet, or it is gone.
            self.spaces.remove(&id);
            self.events.push(answered(ticket, Outcome::ok(0)));
            return;
        };
        let grace = if space.account.issued() > 0 { reaper::GRACE } else { reaper::LEAVE };
        reaper::end(link.process.clone(), self.staff.mps.clone(), grace);
        // The answer is the end of the process; this one only makes it end. Its cookie is the ticket's own.
        let sent = space.submit(ticket, Command::Close, Expected::Closed, None, None, &self.floor);
        if let Err(lost) = sent {
            self.lose(id, lost);
        }
    }

    /// A program is ready: it goes to the worker.
    fn prepared(&mut self, id: SpaceId, ticket: Ticket, prepared: Prepared) {
        let Prepared { payload, kind, bytes, variables, info, key } = prepared;
        let Some(space) = self.spaces.get_mut(&id) else { return };
        // Answered meanwhile, because the space was lost or closed.
        let Some(open) = space.open.remove(&ticket.0) else { return };
        let Expected::Program(program, ..) = open.expected else { return };
        let sent = space
            .note(crate::wire::Note::Payload { cookie: ticket.0 }, Some(payload.as_fd()))
            .and_then(|()| {
                let command = Command::Program { id: program.0, kind, bytes, variables };
                let expected = Expected::Program(program, info, key.map(|key| (key, payload)));
                space.submit(ticket, command, expected, None, None, &self.floor)
            });
        if let Err(lost) = sent {
            self.events.push(answered(ticket, Outcome::failed(Status::DeviceLost, 0)));
            self.lose(id, lost);
        }
    }

    /// Takes the answers of a space's worker.
    fn collect(&mut self, id: SpaceId) {
        loop {
            let Some(space) = self.spaces.get_mut(&id) else { return };
            let next = match space.next() {
                Ok(Some(next)) => next,
                Ok(None) => return,
                Err(lost) => return self.lose(id, lost),
            };
            let (ticket, mut open, completion) = next;
            let outcome = match space.outcome(&mut open, &completion) {
                Ok(outcome) => outcome,
                Err(lost) => {
                    self.events.push(answered(ticket, Outcome::failed(Status::DeviceLost, 0)));
                    return self.lose(id, lost);
                }
            };
            space.finish(&open, outcome.busy_ns);
            if matches!(open.expected, Expected::Closed) {
                continue;
            }
            if let Expected::Program(_, _, Some((key, payload))) = open.expected
                && outcome.status.is_ok()
                && completion.detail > 0
            {
                self.porter.keep(key, payload, completion.detail);
            }
            let runaway = outcome.status == Status::Timeout && open.work;
            self.events.push(answered(ticket, outcome));
            if runaway {
                return self.lose(id, Lost("a kernel ran longer than its policy allows".into()));
            }
        }
    }

    /// Reads what workers sent beside their rings, which only says that there is something to see.
    fn listen(&mut self) {
        let mut ready = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 64];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let Ok(n) = epoll::wait(&self.epoll, &mut ready[..], Some(&now)) else { return };
        for event in &ready[..n] {
            let worker = WorkerId(event.data.u64());
            if worker.0 == POST {
                continue;
            }
            let link = match self.workers.get(&worker) {
                Some(Hired::Warm(_, link)) => Some(&**link),
                Some(Hired::Taken(id)) => self.spaces.get(id).and_then(|s| s.link.as_deref()),
                _ => None,
            };
            let Some(link) = link else { continue };
            let mut bytes = [0; 16];
            for _ in 0..NOTES {
                match socket::receive(&link.socket, &mut bytes) {
                    // Longer than a note: its last words, which `exited` would have wanted. Its end follows.
                    Received::Datagram(..) => {}
                    Received::Nothing => break,
                    Received::Closed => {
                        // Its keeper reports its end; nothing more comes from here.
                        let _ = epoll::delete(&self.epoll, &link.socket);
                        break;
                    }
                }
            }
        }
    }
}

/// The kind of worker that is kept ready.
fn usual(staff: &Staff) -> Kind {
    Kind { concurrent: staff.mps.is_some(), sm_percent: None, memory_bytes: None }
}

impl Backend for CudaGpu {
    fn describe(&self) -> Description {
        Description {
            kind: "cuda",
            name: self.info.name.clone(),
            memory_bytes: self.info.memory_bytes.min(self.settings.memory_bytes),
            multiprocessors: self.info.multiprocessors,
            features: Features::DMA | Features::COMPUTE | Features::COOPERATIVE,
        }
    }

    fn add_memory(&mut self, id: MemoryId, region: Arc<SharedRegion>) {
        self.memory.insert(id, region);
    }

    fn remove_memory(&mut self, id: MemoryId) {
        self.memory.remove(&id);
        for space in self.spaces.values_mut().filter(|s| s.handed.contains(&id)) {
            space.handed.retain(|&handed| handed != id);
            // A worker that does not listen is found out with the next command.
            let _ = space.note(crate::wire::Note::Forget { id: id.0 }, None);
        }
    }

    fn submit(&mut self, ticket: Ticket, op: BackendOp) {
        let id = op.space();
        match op {
            BackendOp::SpaceOpen { space, memory_bytes, weight, isolation } => {
                return self.open(ticket, space, memory_bytes, weight, isolation);
            }
            BackendOp::SpaceClose { space } => return self.close(ticket, space),
            _ => {}
        }
        let refused = match self.spaces.get_mut(&id) {
            Some(space) if !space.dead && space.closing.is_none() => {
                let CudaGpu { memory, porter, events, floor, .. } = self;
                super::submit::Desk { space, memory, porter, events, floor }.take(ticket, op)
            }
            _ => Err(super::submit::Refused::Status(Status::DeviceLost)),
        };
        match refused {
            Ok(()) => {}
            Err(super::submit::Refused::Status(status)) => {
                self.events.push(answered(ticket, Outcome::failed(status, 0)));
            }
            Err(super::submit::Refused::Lost(lost)) => {
                // It may be among the open ones already.
                let known = self.spaces.get(&id).is_some_and(|s| s.open.contains_key(&ticket.0));
                if !known {
                    self.events.push(answered(ticket, Outcome::failed(Status::DeviceLost, 0)));
                }
                self.lose(id, lost);
            }
        }
    }

    fn abort(&mut self, space: SpaceId) {
        if self.spaces.get(&space).is_some_and(Space::is_busy) {
            self.lose(space, Lost("its worker was given up".into()));
        }
    }

    fn drain(&mut self, sink: &mut dyn FnMut(BackendEvent)) {
        if std::mem::take(&mut self.look) {
            self.listen();
        }
        while let Some(happening) = self.post.take() {
            self.hear(happening);
        }
        let busy: smallvec::SmallVec<[SpaceId; 64]> =
            self.spaces.values().filter(|s| s.is_busy()).map(|s| s.id).collect();
        for id in busy {
            self.collect(id);
        }
        self.floor = self.floor.under(self.spaces.values().map(|s| &s.account));
        let waiting: smallvec::SmallVec<[SpaceId; 8]> =
            self.spaces.values().filter(|s| !s.waiting.is_empty()).map(|s| s.id).collect();
        for id in waiting {
            if let Some(space) = self.spaces.get_mut(&id)
                && let Err(lost) = space.release(&self.floor)
            {
                self.lose(id, lost);
            }
        }
        self.events.drain(..).for_each(sink);
    }

    fn sleeping(&mut self, asleep: bool) {
        self.post.sleeping(asleep);
        for space in self.spaces.values().filter(|s| s.is_busy() || !asleep) {
            space.arm(asleep);
        }
        self.look |= !asleep;
    }

    fn wake_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl Drop for CudaGpu {
    fn drop(&mut self) {
        // Each with its own reaper; the service ends when the last is gone, or after a while.
        let taken = self.spaces.values().filter_map(|s| s.link.as_ref());
        let warm = self.workers.values().filter_map(|hired| match hired {
            Hired::Warm(_, link) => Some(link),
            _ => None,
        });
        let working = self.spaces.values().any(|s| s.account.issued() > 0);
        let grace = if working { reaper::GRACE } else { reaper::LEAVE };
        let processes: Vec<_> = taken.chain(warm).map(|link| link.process.clone()).collect();
        // Closing the sockets asks them all to end; what runs in them is ended after the grace.
        self.spaces.clear();
        self.workers.clear();
        for process in &processes {
            reaper::end(process.clone(), self.staff.mps.clone(), grace);
        }
        let begun = Instant::now();
        for process in processes {
            let left = GOODBYE.saturating_sub(begun.elapsed());
            process.ended_within(left);
        }
    }
}
