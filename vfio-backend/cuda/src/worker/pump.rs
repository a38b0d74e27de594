//! The worker's main loop: commands out of the ring, work into streams, answers back.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use foldhash::{HashMap, HashMapExt};
use turnstile_abi::descriptor::Completion;
use turnstile_abi::ring::{DeviceRing, Layout, Permit};
use turnstile_abi::{SharedMemory, Status};
use turnstile_backend_api::{Place, SharedRegion};
use turnstile_ptx::guard::RECORD_BYTES;

use super::arena::{Arena, ArenaError, RECORD};
use super::clerk::{Clerk, Job, Result as Done, Variable};
use super::host::{Registered, Slice};
use super::queue::{Ending, Events, Landed, Queue};
use crate::driver::{DriverError, Function, Gpu, Module};
use crate::socket::{self, Received};
use crate::wire::{self, Command, DEPTH, Launch, Note};

/// Commands taken from the ring between two looks at the streams.
const BATCH: u32 = 16;
/// Without anything to do: spin, then give the processor to others, then sleep.
const SPIN: Duration = Duration::from_micros(5);
const YIELD: Duration = Duration::from_micros(100);
/// While the GPU works: look without a pause for so long, then with pauses that grow with the time waited. A pause
/// can be a millisecond at least (kernels without high-resolution timers): too long for what takes less than a few.
const EAGER: Duration = Duration::from_millis(4);
const LONGEST_PAUSE: Duration = Duration::from_micros(500);
/// `CUDA_ERROR_MPS_CLIENT_TERMINATED`.
const MPS_CLIENT_TERMINATED: u32 = 810;
/// Dynamic shared memory that needs no permission, in bytes.
const FREE_SHARED: u32 = 48 << 10;

struct Buffer {
    address: u64,
    bytes: u64,
    /// The host memory it lies in, if it does not lie in the device's.
    host: Option<Registered>,
}

struct Program {
    module: Module,
    code_bytes: u64,
    /// Where its variables lie: first address and length over all.
    variables: Option<(u64, u64)>,
}

struct Kernel {
    program: u64,
    function: Function,
    /// Dynamic shared memory it was given permission for.
    shared: u32,
}

/// What has to wait until nothing of the tenant runs (see `arena`).
enum Quiet {
    /// Commit more memory to the heap, then make the buffer.
    Buffer { id: u64, bytes: u64 },
    /// Put a program's variables in place.
    Program { id: u64, module: Module, code_bytes: u64, image_bytes: u64, variables: Vec<Variable> },
    /// Take a program's variables away, then unload it.
    Unload(Program),
}

/// A command's place in the ring and its cookie.
type Owed = (Permit, u64);

/// How a command ended that is answered at once: value and detail, or why not.
type Answer = Result<(u64, u64), Refusal>;

enum Refusal {
    Status(Status, u64),
    Arena(ArenaError),
    Driver(DriverError),
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Refusal {
        Refusal::Status(status, 0)
    }
}
impl From<ArenaError> for Refusal {
    fn from(error: ArenaError) -> Refusal {
        match error {
            ArenaError::Driver(error) => Refusal::Driver(error),
            other => Refusal::Arena(other),
        }
    }
}
impl From<DriverError> for Refusal {
    fn from(error: DriverError) -> Refusal {
        Refusal::Driver(error)
    }
}

pub(super) struct Pump<'s> {
    socket: &'s OwnedFd,
    shared: SharedRegion,
    ring: DeviceRing,
    gpu: Gpu,
    arena: Arena,
    clerk: Clerk,
    events: Events,
    /// Zeroing of new buffers.
    service: Queue,
    queues: HashMap<u64, Queue>,
    buffers: HashMap<u64, Buffer>,
    regions: HashMap<u64, Registered>,
    programs: HashMap<u64, Program>,
    kernels: HashMap<u64, Kernel>,
    payloads: HashMap<u64, OwnedFd>,
    quiet: Option<(Owed, Quiet)>,
    /// Streams that are to end when they are idle.
    ending: Vec<(Owed, u64)>,
    closing: bool,
    /// A command ran too long: nothing more is done, the daemon ends this process.
    runaway: bool,
    posted: bool,
    began: Instant,
}

impl<'s> Pump<'s> {
    pub(super) fn new(
        socket: &'s OwnedFd,
        shared: SharedRegion,
        gpu: Gpu,
        arena: Arena,
        clerk: Clerk,
    ) -> Result<Pump<'s>, String> {
        let layout = Layout::new(0, DEPTH.into(), wire::SLOTS).map_err(|e| format!("{e:?}"))?;
        Ok(Pump {
            socket,
            shared,
            ring: DeviceRing::new(layout),
            gpu,
            arena,
            clerk,
            events: Events::default(),
            service: Queue::new(&gpu).map_err(|e| e.to_string())?,
            queues: HashMap::new(),
            buffers: HashMap::new(),
            regions: HashMap::new(),
            programs: HashMap::new(),
            kernels: HashMap::new(),
            payloads: HashMap::new(),
            quiet: None,
            ending: Vec::new(),
            closing: false,
            runaway: false,
            posted: false,
            began: Instant::now(),
        })
    }

    /// Serves until the session is closed or the context is spoilt; the error says by what.
    pub(super) fn run(mut self) -> Result<(), String> {
        let broken = |what: &str| format!("the ring to the daemon is broken: {what}");
        let mut idle_since = Instant::now();
        loop {
            let mut busy = false;
            for _ in 0..BATCH {
                if self.quiet.is_some() || self.closing || self.runaway {
                    break;
                }
                let fetched =
                    self.ring.fetch(&self.shared).map_err(|e| broken(&format!("{e:?}")))?;
                let Some((descriptor, permit)) = fetched else { break };
                busy = true;
                let command =
                    Command::decode(&descriptor).ok_or_else(|| broken("an unknown command"))?;
                let owed = (permit, descriptor.cookie);
                self.command(owed, command).map_err(farewell)?;
            }
            if busy {
                self.seal().map_err(farewell)?;
            }
            busy |= self.advance().map_err(farewell)?;
            if self.posted {
                self.posted = false;
                let wanted = self.ring.interrupt_wanted(&self.shared);
                if wanted.map_err(|e| broken(&format!("{e:?}")))? {
                    // A daemon that does not read is woken by what it has not read.
                    let _ = socket::send(self.socket, &Note::Wake.encode(), None);
                }
            }
            if self.closing && self.is_quiet() {
                return Ok(());
            }
            if busy {
                idle_since = Instant::now();
            } else {
                let woken = self.pause(idle_since).map_err(|what| broken(what))?;
                // A runaway is ended by MPS: the driver says so here, and this process must go for the service to
                // go on. The daemon also wakes workers when another had an accident that may be theirs too.
                if woken || self.runaway {
                    self.gpu.health(&self.service.stream).map_err(farewell)?;
                }
            }
        }
    }

    fn is_quiet(&self) -> bool {
        self.service.is_idle() && self.clerk.is_idle() && self.queues.values().all(Queue::is_idle)
    }

    /// Waits a little, in a way that suits how long nothing has happened.
    /// Returns whether the daemon woke it.
    fn pause(&mut self, idle_since: Instant) -> Result<bool, &'static str> {
        let working = self.queues.values().chain([&self.service]).filter_map(Queue::since).min();
        let working = working.filter(|_| !self.runaway);
        let idle = idle_since.elapsed();
        let sleep = match working {
            Some(since) => {
                let waited = since.elapsed();
                if waited < EAGER {
                    if waited > SPIN {
                        std::thread::yield_now();
                    } else {
                        std::hint::spin_loop();
                    }
                    return Ok(false);
                }
                Some((waited / 16).min(LONGEST_PAUSE))
            }
            None if self.runaway || !self.clerk.is_idle() => Some(LONGEST_PAUSE),
            None if idle < SPIN => {
                std::hint::spin_loop();
                return Ok(false);
            }
            None if idle < YIELD => {
                std::thread::yield_now();
                return Ok(false);
            }
            None => None,
        };
        let stopped = self.quiet.is_some() || self.closing || self.runaway;
        if !stopped && !self.ring.park(&self.shared).map_err(|_| "parking")? {
            return Ok(false);
        }
        let woken = socket::wait(self.socket, sleep);
        if woken {
            self.listen()?;
        }
        self.ring.unpark(&self.shared).map_err(|_| "unparking")?;
        Ok(woken)
    }

    /// Takes what the daemon sent beside the ring.
    fn listen(&mut self) -> Result<(), &'static str> {
        let mut bytes = [0; Note::BYTES];
        loop {
            match socket::receive(self.socket, &mut bytes) {
                Received::Nothing => return Ok(()),
                Received::Closed => {
                    // The daemon let go: what runs may end, nothing new comes.
                    self.closing = true;
                    return Ok(());
                }
                Received::Datagram(n, fd) => match (Note::decode(&bytes[..n]), fd) {
                    (Some(Note::Wake), _) => {}
                    (Some(Note::Memory { id }), Some(fd)) => {
                        self.clerk.submit(None, Job::Memory { id, fd });
                    }
                    (Some(Note::Forget { id }), _) => self.clerk.submit(None, Job::Forget { id }),
                    (Some(Note::Payload { cookie }), Some(fd)) => {
                        self.payloads.insert(cookie, fd);
                    }
                    _ => return Err("an unknown note"),
                },
            }
        }
    }

    fn post(&mut self, (permit, cookie): Owed, status: Status, value: u64, detail: u64) {
        let completion = Completion { cookie, value, detail, status };
        // The memory was checked when it was mapped; it cannot shrink.
        let _ = self.ring.complete(&self.shared, permit, &completion);
        self.posted = true;
    }

    /// Answers; a driver error that spoils the context is passed on.
    fn answer(&mut self, owed: Owed, answer: Answer) -> Result<(), DriverError> {
        match answer {
            Ok((value, detail)) => self.post(owed, Status::Ok, value, detail),
            Err(Refusal::Status(status, detail)) => self.post(owed, status, 0, detail),
            Err(Refusal::Arena(error)) => {
                tracing::debug!(%error, "refused");
                self.post(owed, error.status(), 0, 0);
            }
            Err(Refusal::Driver(error)) => {
                self.post(owed, status_of(error), 0, error.code.into());
                if error.is_fatal() {
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    // --- Commands ------------------------------------------------------------------------------

    fn command(&mut self, owed: Owed, command: Command) -> Result<(), DriverError> {
        let answer: Answer = match command {
            Command::Launch(launch) => return self.launch(owed, &launch),
            Command::Copy { stream, to, from, bytes } => {
                return self.copy(owed, stream, to, from, bytes);
            }
            Command::Fill { stream, to, bytes, pattern, width } => {
                return self.fill(owed, stream, to, bytes, (pattern, width));
            }
            Command::Timestamp { stream } => {
                return self.start(owed, stream, (Ending::Clock, None), |_, _| Ok(()));
            }
            Command::Buffer { id, bytes } => return self.buffer(owed, id, bytes),
            Command::Program { id, kind, bytes, variables } => match self.payload(owed.1) {
                Some(payload) => {
                    let job = Job::Program { id, kind, bytes, variables, payload };
                    self.clerk.submit(Some(owed), job);
                    return Ok(());
                }
                None => Err(Status::Backend.into()),
            },
            Command::Map { id, pieces } => match self.payload(owed.1) {
                Some(payload) => {
                    self.clerk.submit(Some(owed), Job::Map { id, pieces, payload });
                    return Ok(());
                }
                None => Err(Status::Backend.into()),
            },
            Command::SharedBuffer { id, memory, offset, bytes } => {
                // The region came before the command.
                let _ = self.listen();
                let slice = Slice { memory, offset, bytes };
                self.clerk.submit(Some(owed), Job::Shared { id, slice });
                return Ok(());
            }
            Command::Unmap { id } => match self.regions.remove(&id) {
                Some(registered) => {
                    self.clerk.submit(Some(owed), Job::End(registered));
                    return Ok(());
                }
                None => Err(Status::NotFound.into()),
            },
            Command::BufferEnd { id } => match self.buffers.remove(&id) {
                Some(Buffer { host: Some(registered), .. }) => {
                    self.clerk.submit(Some(owed), Job::End(registered));
                    return Ok(());
                }
                Some(Buffer { address, bytes, host: None }) => {
                    self.arena.free(address, bytes);
                    Ok((0, 0))
                }
                None => Err(Status::NotFound.into()),
            },
            Command::ProgramEnd { id } => match self.programs.remove(&id) {
                Some(program) => {
                    self.kernels.retain(|_, kernel| kernel.program != id);
                    self.quiet = Some((owed, Quiet::Unload(program)));
                    return Ok(());
                }
                None => Err(Status::NotFound.into()),
            },
            Command::Function { id, program, slot, name_bytes } => {
                self.function(id, program, slot, name_bytes)
            }
            Command::Open { limit, commit } => {
                let (base, size) = match self.arena.open(limit, commit) {
                    Ok(()) => self.arena.bounds(),
                    Err(error) => return self.answer(owed, Err(error.into())),
                };
                Ok((base, size))
            }
            Command::Stream { id } => Queue::new(&self.gpu).map_err(Refusal::from).map(|queue| {
                self.queues.insert(id, queue);
                (0, 0)
            }),
            Command::StreamEnd { id } => match self.queues.remove(&id) {
                Some(queue) if queue.is_idle() => {
                    self.gpu.end_stream(queue.stream).map(|()| (0, 0)).map_err(Refusal::from)
                }
                Some(queue) => {
                    // Answered when it is idle.
                    self.queues.insert(id, queue);
                    self.ending.push((owed, id));
                    return Ok(());
                }
                None => Err(Status::NotFound.into()),
            },
            Command::Close => {
                self.closing = true;
                Ok((0, 0))
            }
        };
        self.answer(owed, answer)
    }

    fn payload(&mut self, cookie: u64) -> Option<OwnedFd> {
        // It was sent before the command was put into the ring.
        let _ = self.listen();
        self.payloads.remove(&cookie)
    }

    fn buffer(&mut self, owed: Owed, id: u64, bytes: u64) -> Result<(), DriverError> {
        match self.arena.allocate(bytes) {
            Ok(Some(address)) => {
                self.buffers.insert(id, Buffer { address, bytes, host: None });
                let ending = (Ending::Value(address), None);
                let cookie = owed.1;
                let Pump { gpu, events, service, .. } = self;
                let clear = service.start(gpu, events, owed, ending, |stream| {
                    gpu.fill(address, bytes, 0, 1, stream)
                });
                clear.or_else(|(permit, error)| self.answer((permit, cookie), Err(error.into())))
            }
            Ok(None) => {
                self.quiet = Some((owed, Quiet::Buffer { id, bytes }));
                Ok(())
            }
            Err(error) => self.answer(owed, Err(error.into())),
        }
    }

    fn function(&mut self, id: u64, program: u64, slot: u32, name_bytes: u32) -> Answer {
        let loaded = self.programs.get(&program).ok_or(Status::NotFound)?;
        let mut name = vec![0; name_bytes.min(wire::SLOT_BYTES as u32) as usize];
        self.shared.read(wire::slot_offset(slot), &mut name).map_err(|_| Status::Backend)?;
        let name = String::from_utf8(name).map_err(|_| Status::NotFound)?;
        let function = self.gpu.function(&loaded.module, &name)?.ok_or(Status::NotFound)?;
        let bytes = self.gpu.parameter_bytes(&function)?;
        self.kernels.insert(id, Kernel { program, function, shared: FREE_SHARED });
        Ok((bytes, 0))
    }

    // --- Work ----------------------------------------------------------------------------------

    /// Puts work into a queue's stream.
    fn start(
        &mut self,
        owed: Owed,
        stream: u64,
        ending: (Ending, Option<Duration>),
        work: impl FnOnce(&Gpu, &crate::driver::Stream) -> Result<(), DriverError>,
    ) -> Result<(), DriverError> {
        let Pump { gpu, events, queues, .. } = self;
        let Some(queue) = queues.get_mut(&stream) else {
            return self.answer(owed, Err(Status::Revoked.into()));
        };
        let cookie = owed.1;
        match queue.start(gpu, events, owed, ending, |stream| work(gpu, stream)) {
            Ok(()) => Ok(()),
            Err((permit, error)) => self.answer((permit, cookie), Err(error.into())),
        }
    }

    /// The device address of a range.
    fn resolve(&self, place: Place, bytes: u64) -> Result<u64, Refusal> {
        let (address, size, offset) = match place {
            Place::Buffer(id, offset) => {
                let buffer = self.buffers.get(&id.0).ok_or(Status::NotFound)?;
                (buffer.address, buffer.bytes, offset)
            }
            Place::Region(id, offset) => {
                let region = self.regions.get(&id.0).ok_or(Status::NotFound)?;
                (region.device, region.bytes, offset)
            }
        };
        let inside = turnstile_abi::memory::contains(size, offset, bytes);
        if inside { Ok(address + offset) } else { Err(Status::OutOfRange.into()) }
    }

    fn copy(
        &mut self,
        owed: Owed,
        stream: u64,
        to: Place,
        from: Place,
        bytes: u64,
    ) -> Result<(), DriverError> {
        match (self.resolve(to, bytes), self.resolve(from, bytes)) {
            (Ok(to), Ok(from)) => self.start(owed, stream, (Ending::Time, None), |gpu, stream| {
                gpu.copy(to, from, bytes, stream)
            }),
            (Err(refusal), _) | (_, Err(refusal)) => self.answer(owed, Err(refusal)),
        }
    }

    fn fill(
        &mut self,
        owed: Owed,
        stream: u64,
        to: Place,
        bytes: u64,
        (pattern, width): (u64, u8),
    ) -> Result<(), DriverError> {
        let aligned =
            |at: u64| at.is_multiple_of(width.into()) && bytes.is_multiple_of(width.into());
        match self.resolve(to, bytes) {
            Ok(at) if matches!(width, 1 | 2 | 4 | 8) && aligned(at) => {
                self.start(owed, stream, (Ending::Time, None), |gpu, stream| {
                    gpu.fill(at, bytes, pattern, width, stream)
                })
            }
            Ok(_) => self.answer(owed, Err(Status::OutOfRange.into())),
            Err(refusal) => self.answer(owed, Err(refusal)),
        }
    }

    fn launch(&mut self, owed: Owed, launch: &Launch) -> Result<(), DriverError> {
        let Launch {
            stream,
            function,
            grid,
            block,
            shared_bytes,
            cooperative,
            timeout_us,
            slot,
            params_bytes,
            checked,
        } = *launch;
        let Some(kernel) = self.kernels.get_mut(&function) else {
            return self.answer(owed, Err(Status::NotFound.into()));
        };
        if shared_bytes > kernel.shared {
            if let Err(error) = self.gpu.allow_shared(&kernel.function, shared_bytes) {
                return self.answer(owed, Err(error.into()));
            }
            kernel.shared = shared_bytes;
        }
        let function = kernel.function;
        let mut params = [0; wire::SLOT_BYTES as usize];
        let params = &mut params[..usize::from(params_bytes).min(wire::SLOT_BYTES as usize)];
        if self.shared.read(wire::slot_offset(slot.into()), params).is_err() {
            return self.answer(owed, Err(Status::Backend.into()));
        }
        let ending = if checked { Ending::Checked(slot.into()) } else { Ending::Time };
        let limit = Some(Duration::from_micros(timeout_us.into()));
        let block = block.map(u32::from);
        self.start(owed, stream, (ending, limit), |gpu, stream| {
            gpu.launch(&function, (grid, block), shared_bytes, cooperative, params, stream)
        })
    }

    // --- What happened -------------------------------------------------------------------------

    /// Marks where what was just put into streams ends.
    fn seal(&mut self) -> Result<(), DriverError> {
        let Pump { gpu, events, queues, service, .. } = self;
        queues.values_mut().chain([service]).try_for_each(|queue| queue.seal(gpu, events))
    }

    /// Answers what is over. Returns whether anything was.
    fn advance(&mut self) -> Result<bool, DriverError> {
        let mut any = false;
        while let Some((owed, result)) = self.clerk.next() {
            any = true;
            self.clerk_done(owed, result)?;
        }
        let ids: smallvec::SmallVec<[u64; 8]> = self.busy();
        for id in ids {
            loop {
                let Pump { gpu, events, queues, service, .. } = self;
                let queue = if id == 0 { Some(&mut *service) } else { queues.get_mut(&id) };
                let Some(queue) = queue else { break };
                match queue.land(gpu, events) {
                    Ok(Some(landed)) => {
                        any = true;
                        self.landed(landed)?;
                    }
                    Ok(None) => break,
                    Err(error) => {
                        if let Some(owed) = queue.blame() {
                            self.post(owed, status_of(error), 0, error.code.into());
                        }
                        return Err(error);
                    }
                }
            }
        }
        if any && !self.ending.is_empty() {
            for (owed, id) in std::mem::take(&mut self.ending) {
                self.command(owed, Command::StreamEnd { id })?;
            }
        }
        if self.quiet.is_some() && self.is_quiet() {
            any = true;
            self.quietly()?;
        }
        Ok(any)
    }

    fn busy(&self) -> smallvec::SmallVec<[u64; 8]> {
        let queues = self.queues.iter().filter(|(_, queue)| !queue.is_idle()).map(|(&id, _)| id);
        let service = (!self.service.is_idle()).then_some(0);
        if self.runaway { smallvec::SmallVec::new() } else { queues.chain(service).collect() }
    }

    fn landed(&mut self, landed: Landed) -> Result<(), DriverError> {
        let Landed { permit, cookie, ending, busy_ns, status } = landed;
        let owed = (permit, cookie);
        if status == Status::Timeout {
            self.runaway = true;
            self.post(owed, status, busy_ns, 0);
            return Ok(());
        }
        match ending {
            Ending::Time => self.post(owed, status, busy_ns, 0),
            Ending::Value(value) => self.post(owed, status, value, 0),
            Ending::Clock => {
                // CAST: 584 years of uptime fit.
                let now = self.began.elapsed().as_nanos() as u64;
                self.post(owed, status, now, 0);
            }
            Ending::Checked(slot) => return self.checked(owed, busy_ns, slot),
        }
        Ok(())
    }

    /// Looks whether the guard recorded a violation, and makes room for the next record.
    fn checked(&mut self, owed: Owed, busy_ns: u64, slot: u32) -> Result<(), DriverError> {
        let mut record = [0; RECORD_BYTES as usize];
        self.gpu.read(RECORD, &mut record)?;
        if record[0] == 0 {
            self.post(owed, Status::Ok, busy_ns, 0);
            return Ok(());
        }
        self.gpu.write(RECORD, &[0; RECORD_BYTES as usize])?;
        let _ = self.shared.write(wire::slot_offset(slot), &record);
        self.post(owed, Status::KernelFault, busy_ns, RECORD_BYTES);
        Ok(())
    }

    fn clerk_done(&mut self, owed: Option<Owed>, result: Done) -> Result<(), DriverError> {
        let Some(owed) = owed else { return Ok(()) };
        let answer = match result {
            Done::Done => Ok((0, 0)),
            Done::Region { id, registered } => {
                self.regions.insert(id, registered);
                Ok((0, 0))
            }
            Done::Shared { id, registered, skip, bytes } => {
                let address = registered.device + skip;
                self.buffers.insert(id, Buffer { address, bytes, host: Some(registered) });
                Ok((address, 0))
            }
            Done::Program { id, module, code_bytes, image_bytes, variables } => {
                if let Err(error) = self.arena.charge(code_bytes) {
                    self.clerk.submit(None, Job::Unload(module));
                    return self.answer(owed, Err(error.into()));
                }
                if !variables.is_empty() {
                    let quiet = Quiet::Program { id, module, code_bytes, image_bytes, variables };
                    self.quiet = Some((owed, quiet));
                    return Ok(());
                }
                self.programs.insert(id, Program { module, code_bytes, variables: None });
                Ok((code_bytes, image_bytes))
            }
            Done::Failed { status, detail, spoilt } => {
                self.post(owed, status, 0, detail);
                return spoilt.map_or(Ok(()), Err);
            }
        };
        self.answer(owed, answer)
    }

    /// Does what waited until nothing runs.
    fn quietly(&mut self) -> Result<(), DriverError> {
        let Some((owed, quiet)) = self.quiet.take() else { return Ok(()) };
        match quiet {
            Quiet::Buffer { id, bytes } => {
                // Charged before memory is committed, so that what exceeds the quota commits nothing.
                let grown = self.arena.charge(bytes).and_then(|()| {
                    self.arena.discharge(bytes);
                    self.arena.commit(self.arena.wanted(bytes))
                });
                match grown {
                    Ok(()) => self.buffer(owed, id, bytes),
                    Err(error) => self.answer(owed, Err(error.into())),
                }
            }
            Quiet::Program { id, module, code_bytes, image_bytes, variables } => {
                match self.place(&variables) {
                    Ok(range) => {
                        let program = Program { module, code_bytes, variables: Some(range) };
                        self.programs.insert(id, program);
                        self.answer(owed, Ok((code_bytes, image_bytes)))
                    }
                    Err(error) => {
                        self.arena.discharge(code_bytes);
                        self.clerk.submit(None, Job::Unload(module));
                        self.answer(owed, Err(error.into()))
                    }
                }
            }
            Quiet::Unload(Program { module, code_bytes, variables }) => {
                self.arena.discharge(code_bytes);
                if let Some((at, bytes)) = variables
                    && let Err(error) = self.arena.remove(at, bytes)
                {
                    return self.answer(owed, Err(error.into()));
                }
                self.clerk.submit(Some(owed), Job::Unload(module));
                Ok(())
            }
        }
    }

    /// Puts a program's variables into the arena. Returns where.
    fn place(&mut self, variables: &[Variable]) -> Result<(u64, u64), ArenaError> {
        let start = variables.iter().map(|v| v.address).min().unwrap_or(0);
        let end = variables.iter().map(|v| v.address.saturating_add(v.bytes)).max().unwrap_or(0);
        let bytes = end.saturating_sub(start);
        self.arena.place(start, bytes)?;
        for Variable { address, bytes: size, init } in variables {
            debug_assert!(init.len() as u64 <= *size);
            if !init.is_empty() {
                self.gpu.write(*address, init)?;
            }
        }
        Ok((start, bytes))
    }
}

/// The context is spoilt. What MPS is ending has ended only a while after the driver says so, and a client that
/// goes earlier takes the others with it (seen on an H100).
fn farewell(error: DriverError) -> String {
    if error.code == MPS_CLIENT_TERMINATED {
        std::thread::sleep(Duration::from_millis(150));
    }
    error.to_string()
}

/// What a tenant is told about a driver error.
fn status_of(error: DriverError) -> Status {
    match error.code {
        2 => Status::NoMemory,
        // Arguments of a launch that this device or this kernel does not take.
        1 | 701 | 720 => Status::OutOfRange,
        700 | 714..=719 => Status::KernelFault,
        _ if error.is_fatal() => Status::DeviceLost,
        _ => Status::Backend,
    }
}
