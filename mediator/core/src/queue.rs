//! A work queue: its ring and the commands in flight, completed in order and exactly once.

use std::collections::VecDeque;

use turnstile_abi::ring::{DeviceRing, Layout, Permit};
use turnstile_abi::{Completion, Opcode, SharedMemory, Status};
use turnstile_backend_api::{QueueId, SpaceId};

use crate::object::ObjKey;

/// A command that was fetched and has not completed.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) cookie: u64,
    pub(crate) opcode: Option<Opcode>,
    pub(crate) fetched_ns: u64,
    pub(crate) permit: Permit,
    pub(crate) state: EntryState,
}

/// What a command waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryState {
    /// The backend.
    Submitted {
        /// How long the backend may take once this is at the front; past it, the space is aborted.
        allowed_ns: u64,
    },
    /// Its turn: the outcome is known.
    Ready { status: Status, value: u64, detail: u64, bytes: u64 },
    /// Its turn; then it raises a fence.
    Signal { fence: ObjKey, value: u64 },
    /// Its turn, and a fence's value.
    Wait { fence: ObjKey, value: u64, deadline_ns: u64 },
}

/// Where a command came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Queue number, which is its doorbell.
    pub(crate) number: u8,
    /// The queue as the backend knows it.
    pub(crate) queue: QueueId,
    /// Its address space.
    pub(crate) space: SpaceId,
    /// Its session: only objects of that session can be used on it.
    pub(crate) session: ObjKey,
}

/// The queue.
#[derive(Debug)]
pub(crate) struct WorkQueue {
    pub(crate) origin: Origin,
    pub(crate) ring: DeviceRing,
    pub(crate) vector: u16,
    /// The ring is broken or the queue is closing: nothing more is fetched.
    pub(crate) stopped: bool,
    /// A `FenceWait` is in flight: nothing is fetched behind it.
    pub(crate) waiting: bool,
    fifo: VecDeque<Entry>,
    /// Sequence number of the entry at the front.
    front: u64,
    /// When that entry got there.
    pub(crate) front_since_ns: u64,
    /// Its space was aborted because it took too long.
    pub(crate) aborted: bool,
}

impl WorkQueue {
    pub(crate) fn new(origin: Origin, layout: Layout, vector: u16) -> WorkQueue {
        WorkQueue {
            origin,
            ring: DeviceRing::new(layout),
            vector,
            stopped: false,
            waiting: false,
            // Room for every command the ring can hold: pushing never allocates.
            fifo: VecDeque::with_capacity(layout.depth() as usize),
            front: 0,
            front_since_ns: 0,
            aborted: false,
        }
    }

    /// Whether the queue may fetch.
    pub(crate) fn open(&self) -> bool {
        !self.stopped && !self.waiting
    }
    /// Sequence number the next entry will get.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.front + self.fifo.len() as u64
    }
    pub(crate) fn push(&mut self, entry: Entry) {
        self.waiting |= matches!(entry.state, EntryState::Wait { .. });
        if self.fifo.is_empty() {
            self.front_since_ns = entry.fetched_ns;
        }
        self.fifo.push_back(entry);
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.fifo.is_empty()
    }
    pub(crate) fn front(&self) -> Option<&Entry> {
        self.fifo.front()
    }
    pub(crate) fn pop(&mut self, now: u64) -> Option<Entry> {
        let entry = self.fifo.pop_front()?;
        self.front += 1;
        self.front_since_ns = now;
        self.aborted = false;
        if self.fifo.is_empty() {
            // Begins at the front of its memory again: a queue that keeps up stays in the cache.
            self.fifo.clear();
        }
        if matches!(entry.state, EntryState::Wait { .. }) {
            self.waiting = false;
        }
        Some(entry)
    }
    pub(crate) fn entry_mut(&mut self, sequence: u64) -> Option<&mut Entry> {
        let index = usize::try_from(sequence.checked_sub(self.front)?).ok()?;
        self.fifo.get_mut(index)
    }
}

/// Spends a permit: the one place where a command completes. Memory that went away under the ring is
/// the tenant's own loss.
pub(crate) fn post<M: SharedMemory>(
    ring: &mut DeviceRing,
    memory: &M,
    permit: Permit,
    completion: &Completion,
) {
    let _ = ring.complete(memory, permit, completion);
}
