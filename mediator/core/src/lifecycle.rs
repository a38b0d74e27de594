//! The ends of things: closing, revocation, reset, loss, and giving back what was held.

use turnstile_abi::launch::DmaExtent;
use turnstile_abi::regs::{Control, DeviceStatus};
use turnstile_abi::version::Version;
use turnstile_abi::{Handle, SharedMemory, Status};
use turnstile_backend_api::{BackendOp, Code, Outcome};
use turnstile_policy::Resource;

use crate::capability::{Cap, CapIndex};
use crate::context::{Context, Purpose};
use crate::effects::{Effects, ProgramRefused, What};
use crate::object::{Body, ObjKey, Phase, Session};
use crate::tenant::{AdminQueue, AdminWait, Life, Removal};

impl<M: SharedMemory, F: Effects> Context<'_, M, F> {
    // --- Creation, the backend's answers -------------------------------------------------------

    /// The backend made an object, or could not.
    pub(crate) fn created(&mut self, key: ObjKey, outcome: Outcome) {
        let Some(object) = self.t.objects.get_mut(key) else { return };
        object.pins -= 1;
        let creating = object.phase == Phase::Creating;
        if creating && outcome.status.is_ok() {
            object.phase = Phase::Live;
            let session = object.session;
            let detail = self.became_live(key, session, &outcome);
            self.answer_created(key, Status::Ok, |handle| (handle.raw(), detail));
        } else if creating {
            let cap = object.cap;
            self.answer_created(key, outcome.status, |_| (0, outcome.detail));
            if self.session(key).is_some() {
                self.close_session(key, Status::DeviceLost);
            } else {
                // The backend has nothing to destroy.
                self.forget_capability(cap);
                self.free(key);
            }
        } else {
            // Closed or doomed meanwhile: carry on with its end. What could not be made is not there
            // to be destroyed.
            if object.phase == Phase::Draining && !outcome.status.is_ok() {
                object.phase = Phase::Destroying;
            }
            self.settle_unpinned(key);
        }
    }

    /// Fills in what the backend said about a new object. Returns the completion's detail.
    fn became_live(&mut self, key: ObjKey, session: ObjKey, outcome: &Outcome) -> u64 {
        let Outcome { value, detail, .. } = *outcome;
        let mut opened = false;
        let Some(object) = self.t.objects.get_mut(key) else { return 0 };
        let answer = match &mut object.body {
            Body::Session(session) => {
                session.arena = (value, detail);
                opened = true;
                value
            }
            Body::Buffer { address, .. } => {
                *address = value;
                value
            }
            Body::Region { bytes, .. } => *bytes,
            Body::Function { params, .. } => {
                *params = value;
                value
            }
            Body::Queue { number } => {
                let number = *number;
                if let Some(queue) = self.t.queues[usize::from(number)].as_mut() {
                    queue.stopped = false;
                }
                number.into()
            }
            Body::Program { .. } | Body::Fence { .. } => 0,
        };
        debug_assert!(opened == (key == session));
        if opened {
            self.t.counters.sessions += 1;
            self.audit(What::SessionOpened);
        }
        answer
    }

    fn answer_created(
        &mut self,
        key: ObjKey,
        status: Status,
        results: impl FnOnce(Handle) -> (u64, u64),
    ) {
        let Some(command) = self.t.admin.as_ref().and_then(|a| a.command.as_ref()) else { return };
        let AdminWait::Created(waits_for, handle) = command.wait else { return };
        if waits_for == key {
            let (value, detail) = results(handle);
            self.answer_admin(|_| true, status, value, detail);
        }
    }

    /// A program was checked.
    pub(crate) fn checked(&mut self, key: ObjKey, result: Result<Code, ProgramRefused>) {
        let Some(object) = self.t.objects.get(key) else { return };
        let session = object.session;
        let (phase, program) = match object.body {
            Body::Program { id, .. } => (object.phase, id),
            _ => return,
        };
        let space = self.session(session).map(|s| s.space);
        match (result, space) {
            (Ok(code), Some(space)) if phase == Phase::Creating => {
                // The pin goes on to the load.
                self.submit(Purpose::Create(key), BackendOp::ProgramLoad { space, program, code });
            }
            (Ok(_), _) => self.created(key, Outcome::failed(Status::Revoked, 0)),
            (Err(refused), _) => {
                self.t.counters.denied += 1;
                self.audit(What::ProgramRefused { line: refused.line, why: &refused.why });
                self.created(key, Outcome::failed(Status::BadProgram, refused.line.into()));
            }
        }
    }

    // --- Closing -------------------------------------------------------------------------------

    /// Closes a capability; where it is an object's root, the object ends too. Sessions end through
    /// [`close_session`](Self::close_session).
    pub(crate) fn close_capability(&mut self, index: CapIndex, tombstone: Status) {
        for cap in self.close_tree(index, tombstone) {
            if cap.root {
                self.end_object(cap.object, Phase::Draining, Status::Revoked);
            }
        }
    }

    /// Closes a capability whose object never came to be.
    fn forget_capability(&mut self, index: CapIndex) {
        let closed = self.close_tree(index, Status::BadHandle);
        debug_assert_eq!(closed.len(), 1, "nothing can be derived from what was never announced");
    }

    fn close_tree(&mut self, index: CapIndex, tombstone: Status) -> Vec<Cap> {
        let mut closed = Vec::new();
        self.t.caps.close(index, tombstone, |cap| closed.push(cap));
        self.t.ledger.release(Resource::Handles, closed.len() as u64);
        closed
    }

    /// Ends an object whose root capability was just closed.
    fn end_object(&mut self, key: ObjKey, phase: Phase, status: Status) {
        let Some(object) = self.t.objects.get_mut(key) else { return };
        object.phase = phase;
        if let Body::Queue { number } = object.body {
            self.drain_queue(number, status);
        }
        if matches!(self.t.objects.get(key), Some(o) if matches!(o.body, Body::Fence { .. })) {
            self.release_waiters();
        }
        self.settle_unpinned(key);
    }

    /// Ends the waits on fences that are gone.
    fn release_waiters(&mut self) {
        let mut mask = self.t.queue_mask;
        while mask != 0 {
            let number = mask.trailing_zeros() as u8;
            mask &= mask - 1;
            self.retire(number);
        }
    }

    /// Drops one use of an object.
    pub(crate) fn unpin(&mut self, key: ObjKey) {
        if let Some(object) = self.t.objects.get_mut(key) {
            object.pins -= 1;
            self.settle_unpinned(key);
        }
    }

    /// Takes the next step towards an object's end, if nothing uses it.
    fn settle_unpinned(&mut self, key: ObjKey) {
        let Some(object) = self.t.objects.get(key) else { return };
        if object.pins > 0 {
            return;
        }
        match object.phase {
            Phase::Creating | Phase::Live => {}
            Phase::Draining => self.destroy(key),
            Phase::Destroying => self.free(key),
            Phase::Doomed => {
                // A session goes last.
                let own = key == object.session;
                let over = |s: &Session| s.closed && (!own || s.members == 0);
                if self.session(object.session).is_some_and(over) {
                    self.free(key);
                }
            }
        }
    }

    fn destroy(&mut self, key: ObjKey) {
        let Some(object) = self.t.objects.get(key) else { return };
        let Some(space) = self.session(object.session).map(|s| s.space) else { return };
        let op = match object.body {
            Body::Buffer { id, .. } => Some(BackendOp::BufferDestroy { space, buffer: id }),
            Body::Region { id, .. } => Some(BackendOp::DmaUnmap { space, region: id }),
            Body::Program { id, .. } => Some(BackendOp::ProgramUnload { space, program: id }),
            Body::Queue { number } => self.t.queues[usize::from(number)]
                .as_ref()
                .map(|q| BackendOp::QueueClose { space, queue: q.origin.queue }),
            // Nothing of these is in the backend.
            Body::Function { .. } | Body::Fence { .. } | Body::Session(_) => None,
        };
        let Some(op) = op else { return self.free(key) };
        if let Some(object) = self.t.objects.get_mut(key) {
            object.phase = Phase::Destroying;
            object.pins += 1;
        }
        self.submit(Purpose::Destroy(key), op);
    }

    /// Gives back what an object held and forgets it.
    fn free(&mut self, key: ObjKey) {
        let Some(object) = self.t.objects.remove(key) else { return };
        let session = object.session;
        let ledger = &mut self.t.ledger;
        match object.body {
            Body::Session(_) => {
                ledger.release(Resource::Sessions, 1);
                self.t.sessions.retain(|&s| s != key);
                self.audit(What::SessionClosed);
            }
            Body::Buffer { bytes, aperture, .. } => {
                ledger.release(Resource::Buffers, 1);
                ledger.release(Resource::BufferBytes, bytes);
                if let Some(offset) = aperture {
                    self.t.heap.release(offset, bytes);
                }
            }
            Body::Region { bytes, ref extents, .. } => {
                ledger.release(Resource::DmaRegions, 1);
                ledger.release(Resource::DmaBytes, bytes);
                self.t.map.unregister(extents);
                self.region_gone(key);
            }
            Body::Program { bytes, .. } => {
                ledger.release(Resource::Programs, 1);
                ledger.release(Resource::ProgramBytes, bytes);
            }
            Body::Function { .. } => ledger.release(Resource::Functions, 1),
            Body::Queue { number } => {
                ledger.release(Resource::Queues, 1);
                // Nobody can ask the ring once it is gone.
                let Context { t, fx, id, .. } = self;
                t.announce(|vector| fx.interrupt(*id, vector));
                self.t.queues[usize::from(number)] = None;
                self.t.queue_mask &= !(1 << number);
            }
            Body::Fence { .. } => ledger.release(Resource::Fences, 1),
        }
        self.answer_admin(|wait| *wait == AdminWait::Gone(key), Status::Ok, 0, 0);
        if session != key {
            let last = self.session_mut(session).is_some_and(|s| {
                s.members -= 1;
                s.closed && s.members == 0
            });
            if last && self.t.objects.get(session).is_some_and(|o| o.pins == 0) {
                self.free(session);
            }
        } else {
            self.end_life();
        }
    }

    // --- Sessions ------------------------------------------------------------------------------

    /// Ends a session: from here on nothing of it resolves or succeeds; then the backend closes its
    /// address space, and only then its memory and quotas are given back.
    pub(crate) fn close_session(&mut self, key: ObjKey, status: Status) {
        let Some(object) = self.t.objects.get(key) else { return };
        let cap = object.cap;
        let space = match self.session_mut(key) {
            Some(session) if session.dead.is_none() => {
                session.dead = Some(status);
                session.space
            }
            // Already on its way out.
            _ => return,
        };
        for cap in self.close_tree(cap, status) {
            if cap.root {
                let status = if status == Status::BadHandle { Status::Revoked } else { status };
                self.end_object(cap.object, Phase::Doomed, status);
            }
        }
        // Objects that were closed before and still drain go with the session.
        for object in self.t.objects.values_mut() {
            if object.session == key {
                object.phase = Phase::Doomed;
            }
        }
        self.pin(key);
        self.submit(Purpose::Close(key), BackendOp::SpaceClose { space });
    }

    /// The backend has nothing of a session any more.
    pub(crate) fn session_closed(&mut self, key: ObjKey) {
        let Some(session) = self.session_mut(key) else { return };
        session.closed = true;
        if let Some(object) = self.t.objects.get_mut(key) {
            object.pins -= 1;
        }
        let unpinned: Vec<ObjKey> = self
            .t
            .objects
            .iter()
            .filter(|(k, o)| *k != key && o.session == key && o.pins == 0)
            .map(|(k, _)| k)
            .collect();
        for member in unpinned {
            self.free(member);
        }
        self.settle_unpinned(key);
    }

    /// A session's address space died under it.
    pub(crate) fn lose_session(&mut self, key: ObjKey, why: &str) {
        if self.session(key).is_some_and(|s| s.dead.is_none()) {
            self.audit(What::BackendLost { why });
            self.close_session(key, Status::DeviceLost);
            if !self.t.policy.recover && matches!(self.t.life, Life::Enabled) {
                // For good, unless the operator lets it start over.
                self.t.life = Life::Revoked;
                self.close_all(Status::DeviceLost);
                self.t.registers.set_last_error(Status::DeviceLost);
                self.t.registers.settle(self.t.device_status());
            }
        }
    }

    /// Ends every session.
    pub(crate) fn close_all(&mut self, status: Status) {
        self.answer_admin(|_| true, status, 0, 0);
        for key in self.t.sessions.clone() {
            self.close_session(key, status);
        }
        self.end_life();
    }

    // --- The device ----------------------------------------------------------------------------

    /// Acts on control bits the driver wrote.
    pub(crate) fn control(&mut self) {
        let control = self.t.registers.take_control();
        if control.is_empty() {
            return;
        }
        if self.t.life == Life::Revoked && self.t.pardoned && self.t.sessions.is_empty() {
            // The operator lets a revoked driver start over, after a reset.
            if control.contains(Control::RESET) {
                self.t.life = Life::Disabled;
            }
        }
        match self.t.life {
            Life::Revoked | Life::Detaching => {}
            _ if control.contains(Control::RESET) => {
                self.t.counters.resets += 1;
                self.audit(What::Reset);
                self.t.life = Life::Resetting { enable: control.contains(Control::ENABLE) };
                self.t.registers.set_last_error(Status::Ok);
                self.close_all(Status::Reset);
                if !matches!(self.t.life, Life::Resetting { .. }) {
                    return; // Settled on the way.
                }
            }
            Life::Resetting { .. } => self.t.life = Life::Resetting { enable: true },
            Life::Disabled => return self.enable(),
            Life::Enabled => {}
        }
        self.t.registers.settle(self.t.device_status());
    }

    fn enable(&mut self) {
        let (version, features) = self.t.registers.negotiation();
        let offered = self.t.registers.features().bits();
        let admin = AdminQueue::new(self.t.registers.heap_offset());
        match admin {
            Some(admin) if Version::CURRENT.serves(version) && features & !offered == 0 => {
                self.t.admin = Some(admin);
                self.t.life = Life::Enabled;
                self.audit(What::Enabled);
                self.t.registers.settle(DeviceStatus::ENABLED);
            }
            _ => {
                self.t.registers.set_last_error(Status::Unsupported);
                self.audit(What::NegotiationFailed { version: version.0, features });
                self.t.registers.settle(DeviceStatus::FAILED);
            }
        }
    }

    /// Moves on once the last session is gone.
    fn end_life(&mut self) {
        if !self.t.sessions.is_empty() {
            return;
        }
        match self.t.life {
            Life::Resetting { enable } => {
                self.t.admin = None;
                self.t.life = Life::Disabled;
                if enable {
                    self.enable();
                } else {
                    self.t.registers.forget_driver();
                    self.t.registers.settle(DeviceStatus::empty());
                }
            }
            Life::Detaching => self.t.detached = true,
            Life::Disabled | Life::Enabled | Life::Revoked => {}
        }
    }

    /// The operator takes everything away.
    pub(crate) fn revoke(&mut self) {
        if matches!(self.t.life, Life::Revoked | Life::Detaching) {
            return;
        }
        self.t.life = Life::Revoked;
        self.t.pardoned = false;
        self.audit(What::Revoked);
        self.close_all(Status::Revoked);
        self.t.registers.set_last_error(Status::Revoked);
        self.t.registers.settle(self.t.device_status());
    }

    /// The operator takes one session away. `false`: there is none of that number that is open.
    pub(crate) fn revoke_session(&mut self, number: u64) -> bool {
        let wanted = |key: &ObjKey| self.session(*key).is_some_and(|s| s.space.0 == number);
        let Some(key) = self.t.sessions.iter().copied().find(wanted) else { return false };
        if self.session(key).is_none_or(|s| s.dead.is_some()) {
            return false;
        }
        self.audit(What::Revoked);
        // A creation or an end in this session that the driver waits for is over.
        let own = |wait: &AdminWait| match *wait {
            AdminWait::Created(object, _) | AdminWait::Gone(object) => {
                self.t.objects.get(object).is_some_and(|o| o.session == key)
            }
        };
        let waits = self.t.admin.as_ref().and_then(|a| a.command.as_ref()).map(|c| c.wait);
        if waits.is_some_and(|wait| own(&wait)) {
            self.answer_admin(|_| true, Status::Revoked, 0, 0);
        }
        self.close_session(key, Status::Revoked);
        self.t.registers.set_last_error(Status::Revoked);
        true
    }

    // --- Guest memory --------------------------------------------------------------------------

    /// Guest memory goes away: regions over it close, and the front end is told once the backend
    /// cannot reach it.
    pub(crate) fn remove_memory(&mut self, gpa: u64, bytes: u64, request: u64) {
        self.t.map.remove(gpa, bytes);
        let end = gpa.saturating_add(bytes);
        let touches = |e: &DmaExtent| e.gpa < end && e.gpa + e.bytes > gpa;
        let regions: Vec<ObjKey> = self
            .t
            .objects
            .iter()
            .filter(|(_, o)| matches!(&o.body, Body::Region { extents, .. } if extents.iter().any(touches)))
            .map(|(key, _)| key)
            .collect();
        if regions.is_empty() {
            return self.fx.memory_removed(self.id, request);
        }
        self.t.removals.push(Removal { request, regions: regions.clone() });
        for key in regions {
            let open = self
                .t
                .objects
                .get(key)
                .filter(|o| matches!(o.phase, Phase::Live | Phase::Creating));
            if let Some(cap) = open.map(|o| o.cap) {
                self.answer_created(key, Status::Revoked, |_| (0, 0));
                self.close_capability(cap, Status::Revoked);
            }
        }
    }

    fn region_gone(&mut self, key: ObjKey) {
        let mut done = Vec::new();
        self.t.removals.retain_mut(|removal| {
            removal.regions.retain(|&r| r != key);
            if removal.regions.is_empty() {
                done.push(removal.request);
            }
            !removal.regions.is_empty()
        });
        for request in done {
            self.fx.memory_removed(self.id, request);
        }
    }
}
