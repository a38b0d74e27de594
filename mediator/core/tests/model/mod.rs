//! A backend that does nothing but check: every operation must name live objects of its own space,
//! in range, and host memory of the right tenant. Answers come when the test says so.

pub(crate) mod action;
pub(crate) mod world;

use std::collections::HashMap;

use turnstile_abi::Status;
use turnstile_backend_api::{
    BackendEvent, BackendOp, Code, Done, Home, MemoryId, Outcome, Place, SpaceId, Ticket,
};
use turnstile_core::{AuditEvent, Effects, Finished, ProgramRefused, TenantId, VerifyJob};

#[derive(Debug, Default)]
struct Space {
    buffers: HashMap<u64, u64>,
    regions: HashMap<u64, (u64, bool, bool)>,
    programs: HashMap<u64, ()>,
    functions: HashMap<u64, u64>,
    queues: HashMap<u64, ()>,
    memory: Option<MemoryId>,
}

/// The model and everything the mediator asked of it.
#[derive(Debug, Default)]
pub(crate) struct Model {
    spaces: HashMap<SpaceId, Space>,
    /// Not answered yet, in order.
    pub(crate) pending: Vec<(Ticket, BackendOp)>,
    pub(crate) checks: Vec<Ticket>,
    pub(crate) aborted: Vec<SpaceId>,
    pub(crate) detached: Vec<TenantId>,
    pub(crate) removed: Vec<u64>,
    pub(crate) interrupts: u64,
    pub(crate) denied: u64,
    /// Which guest memory and aperture belong together: region of RAM -> aperture.
    pub(crate) partner: HashMap<MemoryId, MemoryId>,
}

impl Model {
    /// Nothing is left in the backend.
    pub(crate) fn is_empty(&self) -> bool {
        self.spaces.is_empty() && self.pending.is_empty() && self.checks.is_empty()
    }

    /// Objects of any kind that are alive.
    pub(crate) fn regions(&self) -> usize {
        self.spaces.values().map(|s| s.regions.len()).sum()
    }

    fn place(space: &Space, place: Place, bytes: u64, write: bool) {
        match place {
            Place::Buffer(id, offset) => {
                let size = space.buffers.get(&id.0).expect("a live buffer of this space");
                assert!(offset.checked_add(bytes).is_some_and(|end| end <= *size));
            }
            Place::Region(id, offset) => {
                let (size, r, w) = space.regions.get(&id.0).expect("a live region of this space");
                assert!(offset.checked_add(bytes).is_some_and(|end| end <= *size));
                assert!(if write { *w } else { *r }, "access beyond the region's");
            }
        }
    }

    fn one_tenant(&self, space: &mut Space, memory: MemoryId) {
        let owner = *self.partner.get(&memory).unwrap_or(&memory);
        assert_eq!(*space.memory.get_or_insert(owner), owner, "memory of two tenants in one space");
    }

    fn check(&mut self, op: &BackendOp) {
        if let BackendOp::SpaceOpen { space, .. } = op {
            assert!(self.spaces.insert(*space, Space::default()).is_none());
            return;
        }
        let mut space = self.spaces.remove(&op.space()).expect("an open space");
        match op {
            BackendOp::SpaceOpen { .. } | BackendOp::SpaceClose { .. } => {}
            BackendOp::BufferCreate { buffer, bytes, home, .. } => {
                if let Home::Shared(piece) = home {
                    self.one_tenant(&mut space, piece.memory);
                    assert!(piece.offset + piece.bytes <= world::APERTURE);
                }
                assert!(space.buffers.insert(buffer.0, *bytes).is_none());
            }
            BackendOp::BufferDestroy { buffer, .. } => {
                space.buffers.remove(&buffer.0).expect("destroyed once");
            }
            BackendOp::DmaMap { region, pieces, access, .. } => {
                let mut total = 0;
                for piece in pieces {
                    self.one_tenant(&mut space, piece.memory);
                    assert!(self.partner.contains_key(&piece.memory), "DMA is to guest memory");
                    assert!(piece.offset + piece.bytes <= world::RAM);
                    total += piece.bytes;
                }
                let rights = access.rights();
                let r = rights.contains(turnstile_abi::Rights::READ);
                let w = rights.contains(turnstile_abi::Rights::WRITE);
                assert!(space.regions.insert(region.0, (total, r, w)).is_none());
            }
            BackendOp::DmaUnmap { region, .. } => {
                space.regions.remove(&region.0).expect("unmapped once");
            }
            BackendOp::ProgramLoad { program, .. } => {
                assert!(space.programs.insert(program.0, ()).is_none());
            }
            BackendOp::ProgramUnload { program, .. } => {
                space.programs.remove(&program.0).expect("unloaded once");
                space.functions.retain(|_, p| *p != program.0);
            }
            BackendOp::FunctionGet { program, function, .. } => {
                assert!(space.programs.contains_key(&program.0));
                space.functions.insert(function.0, program.0);
            }
            BackendOp::QueueOpen { queue, .. } => {
                assert!(space.queues.insert(queue.0, ()).is_none());
            }
            BackendOp::QueueClose { queue, .. } => {
                space.queues.remove(&queue.0).expect("closed once");
            }
            BackendOp::Copy { queue, dst, src, bytes, .. } => {
                assert!(space.queues.contains_key(&queue.0));
                Model::place(&space, *dst, *bytes, true);
                Model::place(&space, *src, *bytes, false);
            }
            BackendOp::Fill { queue, dst, bytes, .. } => {
                assert!(space.queues.contains_key(&queue.0));
                Model::place(&space, *dst, *bytes, true);
            }
            BackendOp::Launch { queue, function, .. } => {
                assert!(space.queues.contains_key(&queue.0));
                assert!(space.functions.contains_key(&function.0));
            }
            BackendOp::Timestamp { queue, .. } => assert!(space.queues.contains_key(&queue.0)),
        }
        self.spaces.insert(op.space(), space);
    }

    /// Answers the pending operation at `index` (modulo what is there), in order within a queue.
    pub(crate) fn answer(&mut self, index: usize, fail: bool) -> Option<BackendEvent> {
        if self.pending.is_empty() {
            return None;
        }
        let mut index = index % self.pending.len();
        // A space's close is answered last, and queues run in order: take the first of the space.
        let space = self.pending[index].1.space();
        index = self.pending.iter().position(|(_, op)| op.space() == space)?;
        let (ticket, op) = self.pending.remove(index);
        let creation = matches!(
            op,
            BackendOp::BufferCreate { .. }
                | BackendOp::DmaMap { .. }
                | BackendOp::ProgramLoad { .. }
                | BackendOp::FunctionGet { .. }
                | BackendOp::QueueOpen { .. }
        );
        let mut outcome = Outcome::ok(match &op {
            BackendOp::SpaceOpen { .. } => 1 << 40,
            BackendOp::BufferCreate { buffer, .. } => (1 << 40) + (buffer.0 << 20),
            BackendOp::FunctionGet { .. } => 16,
            _ => 0,
        });
        outcome.detail = 1 << 32;
        if fail && (creation || matches!(op, BackendOp::Copy { .. } | BackendOp::Launch { .. })) {
            outcome = Outcome::failed(Status::Backend, 0);
            if let Some(space) = self.spaces.get_mut(&op.space()) {
                match &op {
                    BackendOp::BufferCreate { buffer, .. } => {
                        space.buffers.remove(&buffer.0);
                    }
                    BackendOp::DmaMap { region, .. } => {
                        space.regions.remove(&region.0);
                    }
                    BackendOp::ProgramLoad { program, .. } => {
                        {
                            space.programs.remove(&program.0);
                        };
                    }
                    BackendOp::FunctionGet { function, .. } => {
                        {
                            space.functions.remove(&function.0);
                        };
                    }
                    BackendOp::QueueOpen { queue, .. } => {
                        space.queues.remove(&queue.0);
                    }
                    _ => {}
                }
            }
        }
        if let BackendOp::SpaceClose { space } = op {
            self.spaces.remove(&space);
        }
        Some(BackendEvent::Done(Done { ticket, outcome }))
    }

    /// A space that dies: its open operations are answered with `DeviceLost`, in any case.
    pub(crate) fn kill_space(&mut self, index: usize) -> Vec<BackendEvent> {
        let mut ids: Vec<_> = self.spaces.keys().copied().collect();
        ids.sort();
        let Some(&space) = ids.get(index % ids.len().max(1)) else { return Vec::new() };
        let mut events = vec![BackendEvent::SpaceLost { space, why: "test".into() }];
        let mut keep = Vec::new();
        for (ticket, op) in self.pending.drain(..) {
            if op.space() == space && !matches!(op, BackendOp::SpaceClose { .. }) {
                let outcome = Outcome::failed(Status::DeviceLost, 0);
                events.push(BackendEvent::Done(Done { ticket, outcome }));
            } else {
                keep.push((ticket, op));
            }
        }
        self.pending = keep;
        events
    }

    /// The verdict on the oldest program.
    pub(crate) fn verdict(&mut self, good: bool) -> Option<(Ticket, Result<Code, ProgramRefused>)> {
        let ticket = (!self.checks.is_empty()).then(|| self.checks.remove(0))?;
        let code = Code::Listed(Box::new([]));
        Some((
            ticket,
            if good { Ok(code) } else { Err(ProgramRefused { line: 3, why: "no".into() }) },
        ))
    }
}

impl Effects for Model {
    fn submit(&mut self, ticket: Ticket, op: BackendOp) {
        self.check(&op);
        assert!(self.pending.iter().all(|(t, _)| *t != ticket), "a ticket is open once");
        self.pending.push((ticket, op));
    }
    fn abort(&mut self, space: SpaceId) {
        self.aborted.push(space);
    }
    fn verify(&mut self, ticket: Ticket, _job: VerifyJob) {
        self.checks.push(ticket);
    }
    fn interrupt(&mut self, _tenant: TenantId, _vector: u16) {
        self.interrupts += 1;
    }
    fn audit(&mut self, _event: AuditEvent<'_>) {}
    fn finished(&mut self, finished: Finished) {
        self.denied += u64::from(!finished.status.is_ok());
    }
    fn detached(&mut self, tenant: TenantId) {
        self.detached.push(tenant);
    }
    fn memory_removed(&mut self, _tenant: TenantId, request: u64) {
        self.removed.push(request);
    }
}
