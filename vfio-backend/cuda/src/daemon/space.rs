//! One address space as the daemon sees it: the worker it has, what is open there, what waits here.
//!
//! Every submission is in exactly one place: `open` (at the worker), `waiting` (here), or answered.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Instant;

use foldhash::{HashMap, HashMapExt};
use turnstile_abi::descriptor::{Completion, Descriptor};
use turnstile_abi::{SharedMemory, Status};
use turnstile_backend_api::{
    BackendEvent, Done, FunctionId, MemoryId, Outcome, ProgramId, QueueId, SpaceId, Ticket,
};

use super::cache::Key;
use super::porter::{KernelInfo, ProgramInfo};
use super::share::{Account, Floor};
use super::staff::{Kind, Link, WorkerId};
use crate::socket;
use crate::wire::{self, Command, DEPTH, Note};

/// What an answer of the worker is to be made into.
#[derive(Debug)]
pub(super) enum Expected {
    /// Nothing but success.
    Nothing,
    /// The arena.
    Opened,
    /// The address of a buffer in device memory, of so many bytes.
    Device(u64),
    /// The address of a buffer in host memory.
    Shared,
    /// A program, and what to keep of it.
    Program(ProgramId, ProgramInfo, Option<(Key, OwnedFd)>),
    /// A kernel's parameters.
    Function(FunctionId, ProgramId, Option<KernelInfo>, bool),
    /// A copy or fill of so many bytes.
    Moved(u64),
    /// A launch; the kernel's name is for reports.
    Launched,
    /// A clock.
    Clock,
    /// The goodbye; the answer is the process's end.
    Closed,
}

/// A command at the worker.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) expected: Expected,
    pub(super) slot: Option<u32>,
    /// Whether it is work of a queue.
    pub(super) work: bool,
    pub(super) since: Instant,
}

/// A command that waits here.
pub(super) struct Waiting {
    ticket: Ticket,
    command: Command,
    expected: Expected,
    /// Parameters or a name, to be put into a slot.
    content: Option<Box<[u8]>>,
    queue: Option<QueueId>,
}

impl Waiting {
    /// Its answer when it never starts.
    pub(super) fn revoked(self) -> BackendEvent {
        answered(self.ticket, Outcome::failed(Status::Revoked, 0))
    }
}

/// A kernel that was looked up.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) program: ProgramId,
    /// `None` for machine code.
    pub(super) info: Option<KernelInfo>,
    pub(super) checked: bool,
}

/// Why a space is not to be used any more.
#[derive(Debug)]
pub(super) struct Lost(pub(super) String);

pub(super) struct Space {
    pub(super) id: SpaceId,
    pub(super) kind: Kind,
    pub(super) memory_bytes: u64,
    pub(super) worker: Option<WorkerId>,
    pub(super) link: Option<Box<Link>>,
    pub(super) open: HashMap<u64, Open>,
    pub(super) waiting: VecDeque<Waiting>,
    pub(super) account: Account,
    pub(super) programs: HashMap<ProgramId, ProgramInfo>,
    pub(super) functions: HashMap<FunctionId, Known>,
    /// Regions of host memory the worker was handed.
    pub(super) handed: Vec<MemoryId>,
    /// Base and size of the arena, once it is open.
    pub(super) arena: (u64, u64),
    /// The submission that opened it, while it waits for a worker.
    pub(super) opening: Option<Ticket>,
    /// The submission that closes it.
    pub(super) closing: Option<Ticket>,
    /// It is lost: nothing is submitted any more.
    pub(super) dead: bool,
    slots: Vec<u32>,
}

impl Space {
    pub(super) fn new(id: SpaceId, kind: Kind, memory_bytes: u64, weight: u32) -> Space {
        Space {
            id,
            kind,
            memory_bytes,
            worker: None,
            link: None,
            open: HashMap::new(),
            waiting: VecDeque::new(),
            account: Account::new(weight),
            programs: HashMap::new(),
            functions: HashMap::new(),
            handed: Vec::new(),
            arena: (0, 0),
            opening: None,
            closing: None,
            dead: false,
            slots: (0..DEPTH).rev().collect(),
        }
    }

    /// Sends a datagram to the worker.
    pub(super) fn note(
        &self,
        note: Note,
        fd: Option<std::os::fd::BorrowedFd<'_>>,
    ) -> Result<(), Lost> {
        let link = self.link.as_ref().ok_or_else(|| Lost("there is no worker".into()))?;
        socket::send(&link.socket, &note.encode(), fd)
            .map_err(|e| Lost(format!("its worker does not listen: {e}")))
    }

    /// Takes a command: hands it to the worker, or keeps it until there is room or its turn.
    pub(super) fn submit(
        &mut self,
        ticket: Ticket,
        command: Command,
        expected: Expected,
        content: Option<&[u8]>,
        queue: Option<QueueId>,
        floor: &Floor,
    ) -> Result<(), Lost> {
        if queue.is_some() {
            self.account.arrive(floor);
        }
        // Order holds within a queue; what is no work of a queue may overtake what waits.
        let behind = queue.is_some() && !self.waiting.is_empty();
        if behind || !self.may(queue.is_some(), floor) {
            let content = content.map(Box::from);
            self.waiting.push_back(Waiting { ticket, command, expected, content, queue });
            return Ok(());
        }
        self.issue(ticket, command, expected, content, queue.is_some())
    }

    fn may(&self, work: bool, floor: &Floor) -> bool {
        let room = self.link.as_ref().is_some_and(|link| link.ring.in_flight() < DEPTH);
        room && (!work || self.account.may(floor))
    }

    fn issue(
        &mut self,
        ticket: Ticket,
        mut command: Command,
        expected: Expected,
        content: Option<&[u8]>,
        work: bool,
    ) -> Result<(), Lost> {
        let broken = || Lost("the ring to its worker is broken".into());
        let link = self.link.as_mut().ok_or_else(broken)?;
        let mut slot = None;
        if let Some(content) = content {
            // There are as many slots as places in the ring.
            let free = self.slots.pop().ok_or_else(broken)?;
            slot = Some(free);
            link.shared.write(wire::slot_offset(free), content).map_err(|_| broken())?;
            match &mut command {
                Command::Launch(launch) => launch.slot = free as u16, // CAST: below DEPTH.
                Command::Function { slot, .. } => *slot = free,
                _ => {}
            }
        }
        let descriptor: Descriptor = command.encode(ticket.0);
        match link.ring.push(&link.shared, &descriptor) {
            Ok(Ok(())) => {}
            _ => return Err(broken()),
        }
        if work {
            self.account.issue();
        }
        self.open.insert(ticket.0, Open { expected, slot, work, since: Instant::now() });
        if link.ring.doorbell_needed(&link.shared).unwrap_or(true) {
            self.note(Note::Wake, None)?;
        }
        Ok(())
    }

    /// Hands over what waited and may go now.
    pub(super) fn release(&mut self, floor: &Floor) -> Result<(), Lost> {
        while let Some(first) = self.waiting.front() {
            if !self.may(first.queue.is_some(), floor) {
                break;
            }
            let Some(Waiting { ticket, command, expected, content, queue }) =
                self.waiting.pop_front()
            else {
                break;
            };
            self.issue(ticket, command, expected, content.as_deref(), queue.is_some())?;
        }
        Ok(())
    }

    /// Takes what waits in a queue that is closing; it is answered without having run.
    pub(super) fn forget(&mut self, queue: QueueId, events: &mut Vec<BackendEvent>) {
        self.waiting.retain(|waiting| {
            let gone = waiting.queue == Some(queue);
            if gone {
                events.push(answered(waiting.ticket, Outcome::failed(Status::Revoked, 0)));
            }
            !gone
        });
    }

    /// The next answer of the worker with what it answers.
    pub(super) fn next(&mut self) -> Result<Option<(Ticket, Open, Completion)>, Lost> {
        let Some(link) = self.link.as_mut() else { return Ok(None) };
        // More answers than commands would be the worker's fault, and are never looked at.
        if link.ring.in_flight() == 0 {
            return Ok(None);
        }
        let popped = link.ring.pop(&link.shared);
        let popped = popped.map_err(|_| Lost("the ring to its worker is broken".into()))?;
        let Some(completion) = popped else { return Ok(None) };
        let Some(open) = self.open.remove(&completion.cookie) else {
            return Err(Lost("its worker answers what was not asked".into()));
        };
        Ok(Some((Ticket(completion.cookie), open, completion)))
    }

    /// Reads a slot.
    pub(super) fn read_slot<const N: usize>(&self, slot: u32) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.link.as_ref()?.shared.read(wire::slot_offset(slot), &mut bytes).ok()?;
        Some(bytes)
    }

    /// A command is over: its slot is free again, its time is charged.
    pub(super) fn finish(&mut self, open: &Open, busy_ns: u64) {
        self.slots.extend(open.slot);
        if open.work {
            self.account.finish(busy_ns);
            self.rest();
        }
    }

    fn rest(&mut self) {
        if self.waiting.is_empty() && self.account.issued() == 0 {
            self.account.rest();
        }
    }

    /// Answers everything that is open or waits.
    pub(super) fn fail_all(&mut self, status: Status, events: &mut Vec<BackendEvent>) {
        let open = self.open.drain().map(|(ticket, open)| (Ticket(ticket), open.expected));
        let waiting = self.waiting.drain(..).map(|w| (w.ticket, w.expected));
        let mut tickets: Vec<Ticket> = open
            .chain(waiting)
            .filter(|(_, expected)| !matches!(expected, Expected::Closed))
            .map(|(ticket, _)| ticket)
            .collect();
        tickets.extend(self.opening.take());
        tickets.sort_unstable_by_key(|ticket| ticket.0);
        events.extend(tickets.into_iter().map(|t| answered(t, Outcome::failed(status, 0))));
        self.account.rest();
    }

    /// Whether answers are awaited.
    pub(super) fn is_busy(&self) -> bool {
        !self.open.is_empty()
    }

    /// Asks the worker to wake the dispatcher with its next answer, or not to.
    pub(super) fn arm(&self, armed: bool) {
        if let Some(link) = &self.link {
            // The memory is ours and does not shrink.
            let _ = link.ring.arm(&link.shared, armed);
        }
    }
}

pub(super) fn answered(ticket: Ticket, outcome: Outcome) -> BackendEvent {
    BackendEvent::Done(Done { ticket, outcome })
}
