//! One address space: memory, programs, and streams of work in order.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use turnstile_backend_api::{BufferId, FunctionId, ProgramId, QueueId, RegionId, SpaceId, Ticket};
use turnstile_ptx::Variants;

use super::job::{Job, Work};
use super::script::Trouble;
use crate::memory::AddressSpace;
use crate::program::LoadedProgram;
use crate::raw::Segment;

/// The stream of a space's own affairs: loading programs, clearing shared buffers.
pub(super) const CONTROL: QueueId = QueueId(0);

/// A buffer.
pub(super) struct Buffer {
    pub(super) address: u64,
    pub(super) bytes: u64,
    /// Whether it counts as device memory.
    pub(super) device: bool,
}

/// A loaded program.
pub(super) struct Loaded {
    /// As it was given, and as guarded for launches that came.
    pub(super) variants: Variants<LoadedProgram>,
    /// Where a guarded program in check mode records its first violation.
    pub(super) record: Option<u64>,
}

/// What a loaded program takes of its space.
pub(super) struct Placed {
    pub(super) loaded: Arc<Loaded>,
    /// Regions: those that the guard's layout asked for, and the variables of each variant.
    pub(super) regions: Vec<u64>,
    /// Device memory its variables take.
    pub(super) bytes: u64,
}

/// A kernel.
pub(super) struct Kernel {
    pub(super) program: ProgramId,
    pub(super) name: String,
}

#[derive(Default)]
struct Stream {
    waiting: VecDeque<(Ticket, Work, bool)>,
    running: bool,
    /// Answered once nothing of the stream runs.
    closing: Option<Ticket>,
}

/// The space.
pub(super) struct Space {
    pub(super) memory: AddressSpace,
    pub(super) limit_bytes: u64,
    pub(super) used_bytes: u64,
    weight: u32,
    busy_ns: u64,
    /// Head start given to spaces that were here before, so that a newcomer does not take everything.
    behind: u64,
    pub(super) buffers: HashMap<BufferId, Buffer>,
    pub(super) regions: HashMap<RegionId, Vec<Segment>>,
    pub(super) programs: HashMap<ProgramId, Placed>,
    pub(super) functions: HashMap<FunctionId, Arc<Kernel>>,
    streams: HashMap<QueueId, Stream>,
    /// Stop flags of what runs.
    running: Vec<(QueueId, Arc<AtomicBool>)>,
    /// It died; nothing runs in it any more.
    pub(super) dead: bool,
    /// Its close was asked for.
    pub(super) closing: Option<Ticket>,
}

impl Space {
    /// Whether `bytes` more of device memory are within the space's limit, and the device's, of which
    /// all spaces together use `used`.
    pub(super) fn has_room(&self, bytes: u64, used: u64, device_bytes: u64) -> bool {
        let fits = |used: u64, limit: u64| used.checked_add(bytes).is_some_and(|sum| sum <= limit);
        fits(self.used_bytes, self.limit_bytes) && fits(used, device_bytes)
    }

    pub(super) fn new(memory: AddressSpace, limit_bytes: u64, weight: u32) -> Space {
        Space {
            memory,
            limit_bytes,
            used_bytes: 0,
            weight: weight.max(1),
            busy_ns: 0,
            behind: 0,
            buffers: HashMap::new(),
            regions: HashMap::new(),
            programs: HashMap::new(),
            functions: HashMap::new(),
            streams: HashMap::from([(CONTROL, Stream::default())]),
            running: Vec::new(),
            dead: false,
            closing: None,
        }
    }

    pub(super) fn open_stream(&mut self, queue: QueueId) {
        self.streams.entry(queue).or_default();
    }

    /// Ends a stream; what waits in it is returned to be answered.
    pub(super) fn close_stream(&mut self, queue: QueueId, ticket: Ticket) -> Vec<Ticket> {
        let stream = self.streams.entry(queue).or_default();
        stream.closing = Some(ticket);
        stream.waiting.drain(..).map(|(ticket, ..)| ticket).collect()
    }

    /// Streams that are closing and have nothing running any more.
    pub(super) fn closed_streams(&mut self) -> Vec<Ticket> {
        let mut tickets = Vec::new();
        self.streams.retain(|_, stream| match stream.closing {
            Some(ticket) if !stream.running => {
                tickets.push(ticket);
                false
            }
            _ => true,
        });
        tickets
    }

    /// Puts work at the end of a stream. `false`: there is no such stream.
    pub(super) fn push(
        &mut self,
        queue: QueueId,
        ticket: Ticket,
        work: Work,
        counts: bool,
    ) -> bool {
        match self.streams.get_mut(&queue).filter(|s| s.closing.is_none()) {
            Some(stream) => {
                stream.waiting.push_back((ticket, work, counts));
                true
            }
            None => false,
        }
    }

    /// Whether some stream has work that may start.
    pub(super) fn ready(&self) -> bool {
        !self.dead && self.streams.values().any(|s| !s.running && !s.waiting.is_empty())
    }

    /// Time used over weight.
    pub(super) fn virtual_time(&self) -> u64 {
        self.behind.saturating_add(self.busy_ns / u64::from(self.weight))
    }

    /// A space that was idle does not save up time.
    pub(super) fn catch_up(&mut self, floor: u64) {
        let now = self.virtual_time();
        if now < floor {
            self.behind = self.behind.saturating_add(floor - now);
        }
    }

    /// Starts the next piece of work.
    pub(super) fn take(&mut self, id: SpaceId, trouble: Option<Trouble>) -> Option<(Ticket, Job)> {
        let ready = self.streams.iter_mut().filter(|(_, s)| !s.running && !s.waiting.is_empty());
        // The oldest ticket first would need an order among streams; the smallest id is as good and repeatable.
        let (&queue, stream) = ready.min_by_key(|(queue, _)| queue.0)?;
        let (ticket, work, counts) = stream.waiting.pop_front()?;
        stream.running = true;
        let stop = Arc::new(AtomicBool::new(false));
        self.running.push((queue, stop.clone()));
        let trouble = trouble.filter(|_| counts);
        Some((ticket, Job { space: id, queue, work, stop, trouble }))
    }

    /// Notes that a stream's work ended.
    pub(super) fn finished(&mut self, queue: QueueId, busy_ns: u64) {
        self.busy_ns = self.busy_ns.saturating_add(busy_ns);
        self.running.retain(|(q, _)| *q != queue);
        if let Some(stream) = self.streams.get_mut(&queue) {
            stream.running = false;
        }
    }

    pub(super) fn stop_running(&self) {
        for (_, stop) in &self.running {
            stop.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// Takes out everything that waits.
    pub(super) fn forget_waiting(&mut self) -> Vec<Ticket> {
        let streams = self.streams.values_mut();
        streams.flat_map(|s| s.waiting.drain(..).map(|(ticket, ..)| ticket)).collect()
    }
}
