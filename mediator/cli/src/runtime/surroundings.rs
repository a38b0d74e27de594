//! The mediator's surroundings: carries out what it asks for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use slotmap::SecondaryMap;
use turnstile_backend_api::{Backend, BackendOp, MemoryId, SharedRegion, SpaceId, Ticket};
use turnstile_core::{AuditEvent, Effects, Finished, TenantId, VerifyJob, What};
use turnstile_policy::AuditLevel;

use super::checker::Checkers;
use super::seat::Seat;
use crate::audit::DeviceEvent;

/// A step in a tenant's life, for whoever watches.
#[derive(Clone, Debug)]
pub struct Milestone {
    /// Time since the dispatcher started.
    pub at: Duration,
    /// The tenant.
    pub tenant: Arc<str>,
    /// What happened.
    pub event: DeviceEvent,
}

pub(super) struct Surroundings {
    pub(super) backend: Box<dyn Backend>,
    pub(super) checkers: Checkers,
    pub(super) seats: SecondaryMap<TenantId, Seat>,
    /// The seat of the tenant that is being attached; it gets its id on the way.
    pub(super) arriving: Option<Seat>,
    /// Tenants that are gone and not yet cleaned up.
    pub(super) gone: Vec<TenantId>,
    /// Removals of guest memory that are done and not yet answered.
    pub(super) removed: Vec<u64>,
    /// Who watches the tenants' lives. What it does not take at once is not shown.
    watcher: Option<Sender<Milestone>>,
    /// When the clock began.
    pub(super) start: Instant,
    /// Time of the current round, in nanoseconds since then.
    pub(super) now: u64,
    next_memory: u32,
}

impl Surroundings {
    pub(super) fn new(
        backend: Box<dyn Backend>,
        checkers: Checkers,
        watcher: Option<Sender<Milestone>>,
    ) -> Surroundings {
        Surroundings {
            backend,
            checkers,
            seats: SecondaryMap::new(),
            arriving: None,
            gone: Vec::new(),
            removed: Vec::new(),
            watcher,
            start: Instant::now(),
            now: 0,
            next_memory: 0,
        }
    }

    /// Makes memory known to the backend, under a new id.
    pub(super) fn add_memory(&mut self, region: Arc<SharedRegion>) -> MemoryId {
        // Four thousand million registrations in the life of a daemon are not reached; if they were,
        // the backend would be asked to replace its oldest region, so stop counting instead.
        self.next_memory = self.next_memory.saturating_add(1);
        let id = MemoryId(self.next_memory);
        self.backend.add_memory(id, region);
        id
    }

    fn seat(&mut self, id: TenantId) -> Option<&mut Seat> {
        if let Some(seat) = self.arriving.take() {
            self.seats.insert(id, seat);
        }
        self.seats.get_mut(id)
    }
}

impl Effects for Surroundings {
    fn submit(&mut self, ticket: Ticket, op: BackendOp) {
        self.backend.submit(ticket, op);
    }

    fn abort(&mut self, space: SpaceId) {
        self.backend.abort(space);
    }

    fn verify(&mut self, ticket: Ticket, job: VerifyJob) {
        self.checkers.submit(ticket, job);
    }

    fn interrupt(&mut self, tenant: TenantId, vector: u16) {
        if let Some(seat) = self.seats.get(tenant) {
            seat.device.raise(vector);
        }
    }

    fn audit(&mut self, event: AuditEvent<'_>) {
        let AuditEvent { tenant, what } = event;
        let now = self.now;
        if self.seat(tenant).is_none() {
            return;
        }
        let Some(seat) = self.seats.get_mut(tenant) else { return };
        match what {
            What::Refused { opcode: Some(opcode), .. } => seat.tally.op(opcode).refused += 1,
            What::Failed { opcode, .. } => seat.tally.op(opcode).failed += 1,
            _ => {}
        }
        let (wanted, life) = match what {
            What::Refused { .. } | What::Failed { .. } => {
                (seat.policy.audit != AuditLevel::None, false)
            }
            What::Accepted { .. } => (seat.policy.audit == AuditLevel::All, false),
            What::ProgramRefused { .. } => (seat.policy.audit != AuditLevel::None, true),
            // Life and death always.
            _ => (true, true),
        };
        tracing::debug!(tenant = %seat.policy.name, ?what, "audit");
        if wanted {
            seat.audit.record(now, || DeviceEvent::from(what).into());
        }
        if life
            && let Some(watcher) = &self.watcher
            && seat.milestones.take(1, now).is_ok()
        {
            let tenant = seat.audit.name().clone();
            let event = DeviceEvent::from(what);
            let _ = watcher.try_send(Milestone { at: Duration::from_nanos(now), tenant, event });
        }
    }

    fn finished(&mut self, finished: Finished) {
        let (start, now) = (self.start, self.now);
        if let Some(seat) = self.seats.get_mut(finished.tenant) {
            // CAST: 584 years of uptime fit.
            seat.finished(&finished, || (start.elapsed().as_nanos() as u64).saturating_sub(now));
        }
    }

    fn detached(&mut self, tenant: TenantId) {
        self.gone.push(tenant);
    }

    fn memory_removed(&mut self, _tenant: TenantId, request: u64) {
        self.removed.push(request);
    }
}
