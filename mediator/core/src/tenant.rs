//! Everything the mediator holds for one tenant.

use std::sync::Arc;

use slotmap::SlotMap;
use turnstile_abi::regs::{ADMIN_DEPTH, DeviceStatus, MAX_QUEUES};
use turnstile_abi::ring::{DeviceRing, Layout, Permit};
use turnstile_abi::{Opcode, SharedMemory, Status};
use turnstile_backend_api::MemoryId;
use turnstile_policy::{Ledger, TenantPolicy, TokenBucket};

use crate::capability::CapTable;
use crate::heap::Heap;
use crate::mediator::Settings;
use crate::memory_map::MemoryMap;
use crate::object::{ObjKey, Object};
use crate::queue::WorkQueue;
use crate::registers::Registers;

/// What a tenant is attached with.
pub struct Attachment<M> {
    /// Its policy.
    pub policy: Arc<TenantPolicy>,
    /// Its registers, shared with the front end.
    pub registers: Arc<Registers>,
    /// Its aperture.
    pub aperture: M,
    /// The aperture as the backend knows it.
    pub aperture_memory: MemoryId,
}

/// Where a device is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Waiting for the driver.
    Disabled,
    /// Serving.
    Enabled,
    /// Sessions are closing after a reset; then disabled, or enabled again if asked for.
    Resetting {
        /// The driver asked to be enabled as well.
        enable: bool,
    },
    /// Revoked by the operator, or its backend lost under a policy without `recover`: nothing is served
    /// any more unless the operator pardons it.
    Revoked,
    /// The tenant is gone; sessions are closing.
    Detaching,
}

/// Commands and bytes of one tenant, since it was attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Commands fetched.
    pub fetched: u64,
    /// Commands completed.
    pub completed: u64,
    /// Commands refused before they ran.
    pub denied: u64,
    /// Commands that failed while they ran.
    pub failed: u64,
    /// Bytes moved by copies and fills.
    pub bytes: u64,
    /// GPU time used, in nanoseconds.
    pub busy_ns: u64,
    /// Sessions opened.
    pub sessions: u64,
    /// Resets by the driver.
    pub resets: u64,
    /// Rings found broken.
    pub broken_rings: u64,
}

/// The admin command in flight: there is one at most.
#[derive(Debug)]
pub(crate) struct AdminCommand {
    pub(crate) cookie: u64,
    pub(crate) opcode: Opcode,
    pub(crate) fetched_ns: u64,
    pub(crate) permit: Permit,
    pub(crate) wait: AdminWait,
}

/// What it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AdminWait {
    /// An object to become live.
    Created(ObjKey, turnstile_abi::Handle),
    /// An object to be gone.
    Gone(ObjKey),
}

/// The admin queue.
#[derive(Debug)]
pub(crate) struct AdminQueue {
    pub(crate) ring: DeviceRing,
    pub(crate) command: Option<AdminCommand>,
    pub(crate) broken: bool,
}

impl AdminQueue {
    pub(crate) fn new(limit: u64) -> Option<AdminQueue> {
        let layout = Layout::new(0, u64::from(ADMIN_DEPTH), limit).ok()?;
        Some(AdminQueue { ring: DeviceRing::new(layout), command: None, broken: false })
    }
}

/// Removal of guest memory that waits for DMA regions to go.
#[derive(Debug)]
pub(crate) struct Removal {
    pub(crate) request: u64,
    pub(crate) regions: Vec<ObjKey>,
}

/// Place in the scheduler.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// Cost units left in this round; negative after an expensive command.
    pub(crate) deficit: i64,
    /// Whether the tenant is in the dispatcher's round.
    pub(crate) hot: bool,
    /// When work was last found.
    pub(crate) last_work_ns: u64,
    /// No fetch before this time: the rate is used up.
    pub(crate) throttled_until_ns: u64,
    /// A command was fetched that the rate has not paid for yet.
    pub(crate) owes: bool,
    /// Queue to look at first, so that a tenant's own queues take turns.
    pub(crate) next_queue: u32,
}

/// One tenant.
pub(crate) struct Tenant<M> {
    pub(crate) policy: Arc<TenantPolicy>,
    pub(crate) registers: Arc<Registers>,
    pub(crate) aperture: M,
    pub(crate) aperture_memory: MemoryId,
    pub(crate) life: Life,
    pub(crate) paused: bool,
    /// The operator lets it start over after a revocation.
    pub(crate) pardoned: bool,
    pub(crate) caps: CapTable,
    pub(crate) objects: SlotMap<ObjKey, Object>,
    /// Live sessions, closing ones included.
    pub(crate) sessions: Vec<ObjKey>,
    pub(crate) admin: Option<AdminQueue>,
    /// Work queues by number; slot 0 stays empty.
    pub(crate) queues: Vec<Option<WorkQueue>>,
    /// Bit `n` set: queue `n` exists.
    pub(crate) queue_mask: u64,
    /// Queues with completions whose drivers may sleep, by number; bit 0 is the admin queue.
    pub(crate) unannounced: u64,
    pub(crate) map: MemoryMap,
    pub(crate) removals: Vec<Removal>,
    pub(crate) heap: Heap,
    pub(crate) ledger: Ledger,
    pub(crate) bucket: Option<TokenBucket>,
    /// Work commands submitted to the backend and not answered.
    pub(crate) in_flight: u32,
    pub(crate) turn: Turn,
    /// Multiprocessors of the device, for `Identify`.
    pub(crate) multiprocessors: u32,
    /// How long the backend may be silent about a command beyond the command's own limit.
    pub(crate) watchdog_ns: u64,
    /// Nothing is left: the mediator may forget this tenant.
    pub(crate) detached: bool,
    /// Programs checked so far.
    pub(crate) programs: u64,
    pub(crate) counters: Counters,
}

impl<M> Tenant<M> {
    pub(crate) fn new(attachment: Attachment<M>, settings: &Settings, now: u64) -> Tenant<M> {
        let Attachment { policy, registers, aperture, aperture_memory } = attachment;
        let heap = Heap::new(registers.heap_offset(), registers.aperture_bytes());
        Tenant {
            bucket: policy.rate.map(|rate| TokenBucket::new(rate, now)),
            policy,
            registers,
            aperture,
            aperture_memory,
            life: Life::Disabled,
            paused: false,
            pardoned: false,
            caps: CapTable::default(),
            objects: SlotMap::with_key(),
            sessions: Vec::new(),
            admin: None,
            queues: (0..MAX_QUEUES).map(|_| None).collect(),
            queue_mask: 0,
            unannounced: 0,
            map: MemoryMap::default(),
            removals: Vec::new(),
            heap,
            ledger: Ledger::new(),
            in_flight: 0,
            turn: Turn::default(),
            multiprocessors: settings.multiprocessors,
            watchdog_ns: settings.watchdog_ns,
            detached: false,
            programs: 0,
            counters: Counters::default(),
        }
    }

    /// The status register this life shows.
    pub(crate) fn device_status(&self) -> DeviceStatus {
        match self.life {
            Life::Disabled | Life::Detaching => DeviceStatus::empty(),
            Life::Enabled => DeviceStatus::ENABLED,
            Life::Resetting { .. } => DeviceStatus::BUSY,
            Life::Revoked => DeviceStatus::LOST,
        }
    }

    /// Asks each queue that has something new whether its driver sleeps; `interrupt` gets the vector.
    pub(crate) fn announce(&mut self, mut interrupt: impl FnMut(u16))
    where
        M: SharedMemory,
    {
        let mut mask = std::mem::take(&mut self.unannounced);
        if mask & ADMIN_BIT != 0 {
            mask &= !ADMIN_BIT;
            let admin = self.admin.as_ref();
            if admin.is_some_and(|a| a.ring.interrupt_wanted(&self.aperture).unwrap_or(false)) {
                interrupt(0);
            }
        }
        while mask != 0 {
            let queue = self.queues[mask.trailing_zeros() as usize].as_ref();
            mask &= mask - 1;
            let Some(queue) = queue else { continue };
            if queue.ring.interrupt_wanted(&self.aperture).unwrap_or(false) {
                interrupt(queue.vector);
            }
        }
    }

    /// A free work queue number.
    pub(crate) fn free_queue(&self) -> Option<u8> {
        let n = (self.queue_mask | 1).trailing_ones();
        (n < MAX_QUEUES).then_some(n as u8)
    }
}

/// The admin queue among [`Tenant::unannounced`].
pub(crate) const ADMIN_BIT: u64 = 1;

/// A command refused before it changed anything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    pub(crate) status: Status,
    pub(crate) detail: u64,
    pub(crate) denial: Option<turnstile_policy::Denial>,
}

impl Refusal {
    pub(crate) const fn new(status: Status, detail: u64) -> Refusal {
        Refusal { status, detail, denial: None }
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Refusal {
        Refusal::new(status, 0)
    }
}

impl From<turnstile_policy::Denial> for Refusal {
    fn from(denial: turnstile_policy::Denial) -> Refusal {
        Refusal { status: denial.status, detail: denial.limit, denial: Some(denial) }
    }
}

impl From<turnstile_abi::OutOfBounds> for Refusal {
    fn from(_: turnstile_abi::OutOfBounds) -> Refusal {
        Refusal::new(Status::BadAddress, 0)
    }
}
