//! What one address space holds on the outer device.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Instant;

use turnstile_backend_api::{
    BackendOp, BufferId, FunctionId, Outcome, ProgramId, QueueId, RegionId, Ticket,
};
use turnstile_driver::{
    Buffer, DmaRegion, Function, Place, Program, Queue, Session, Token, Transport,
};
use turnstile_ptx::Arena;

/// Memory of this machine that the outer device reaches.
pub(super) struct Shared<'d, T: Transport> {
    pub(super) region: DmaRegion<'d, T>,
    /// Where its windows lie, and their lengths.
    pub(super) windows: Vec<(u64, u64)>,
    /// How far into the first window it begins.
    pub(super) skip: u64,
    pub(super) bytes: u64,
}

impl<T: Transport> Shared<'_, T> {
    pub(super) fn at(&self, offset: u64) -> Place {
        self.region.at(self.skip + offset)
    }
}

/// A buffer, where it lives.
pub(super) enum Held<'d, T: Transport> {
    /// In the outer device's memory.
    Device(Buffer<'d, T>),
    /// In this machine's.
    Shared(Shared<'d, T>),
}

/// A program, and how much dynamic shared memory its guard wants for each kernel.
pub(super) struct Loaded<'d, T: Transport> {
    pub(super) program: Program<'d, T>,
    pub(super) dynamic_shared: HashMap<String, u64>,
}

/// A kernel.
pub(super) struct Kernel<'d, T: Transport> {
    pub(super) function: Function<'d, T>,
    pub(super) program: ProgramId,
    pub(super) dynamic_shared: u64,
}

/// A command in flight.
pub(super) struct Flying {
    pub(super) ticket: Ticket,
    /// What its answer's value is; `None`: what the device says.
    pub(super) value: Option<u64>,
    /// When it was handed over, for commands whose time counts.
    pub(super) since: Option<Instant>,
}

/// A queue, what waits for room in it, and what is in flight.
pub(super) struct Lane<'d, T: Transport> {
    pub(super) queue: Queue<'d, T>,
    pub(super) waiting: VecDeque<(Ticket, BackendOp)>,
    pub(super) flying: HashMap<Token, Flying>,
    /// Answered once nothing of it runs.
    pub(super) closing: Option<Ticket>,
}

/// An address space: a session of the outer device.
pub(super) struct Space<'d, T: Transport> {
    /// `None`: it died, and waits to be closed.
    pub(super) session: Option<Session<'d, T>>,
    /// Its device addresses.
    pub(super) arena: Arena,
    pub(super) buffers: HashMap<BufferId, Held<'d, T>>,
    /// Buffers by the address that the mediator was told.
    pub(super) addresses: BTreeMap<u64, BufferId>,
    pub(super) regions: HashMap<RegionId, Shared<'d, T>>,
    pub(super) programs: HashMap<ProgramId, Loaded<'d, T>>,
    pub(super) functions: HashMap<FunctionId, Kernel<'d, T>>,
    pub(super) lanes: HashMap<QueueId, Lane<'d, T>>,
}

impl<'d, T: Transport> Space<'d, T> {
    pub(super) fn new(session: Session<'d, T>, arena: Arena) -> Space<'d, T> {
        Space {
            session: Some(session),
            arena,
            buffers: HashMap::new(),
            addresses: BTreeMap::new(),
            regions: HashMap::new(),
            programs: HashMap::new(),
            functions: HashMap::new(),
            lanes: HashMap::new(),
        }
    }

    /// Where the outer device finds a byte.
    pub(super) fn place(&self, place: turnstile_backend_api::Place) -> Option<Place> {
        use turnstile_backend_api::Place as Named;
        match place {
            Named::Buffer(id, offset) => match self.buffers.get(&id)? {
                Held::Device(buffer) => Some(buffer.at(offset)),
                Held::Shared(shared) => Some(shared.at(offset)),
            },
            Named::Region(id, offset) => Some(self.regions.get(&id)?.at(offset)),
        }
    }

    /// Takes out every window onto this machine's memory.
    pub(super) fn take_windows(&mut self) -> Vec<(u64, u64)> {
        let mut windows = Vec::new();
        self.addresses.clear();
        for (_, held) in self.buffers.drain() {
            if let Held::Shared(shared) = held {
                windows.extend(shared.windows);
            }
        }
        for (_, shared) in self.regions.drain() {
            windows.extend(shared.windows);
        }
        windows
    }

    /// Whether the device has commands of it.
    pub(super) fn is_busy(&self) -> bool {
        self.lanes.values().any(|lane| !lane.flying.is_empty())
    }

    /// Answers everything that is open: commands with `running`, queues that close with success.
    pub(super) fn take_tickets(
        &mut self,
        running: &Outcome,
        answer: &mut dyn FnMut(Ticket, Outcome),
    ) {
        for lane in self.lanes.values_mut() {
            for (_, flying) in lane.flying.drain() {
                answer(flying.ticket, running.clone());
            }
            for (ticket, _) in lane.waiting.drain(..) {
                answer(ticket, running.clone());
            }
            if let Some(ticket) = lane.closing.take() {
                answer(ticket, Outcome::ok(0));
            }
        }
    }
}
