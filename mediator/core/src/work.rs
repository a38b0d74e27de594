//! Work queues: fetch, decode, authorize, translate, submit; and completion in order.

use turnstile_abi::launch::{LaunchFlags, MAX_PARAMS, Relocation, relocations_offset};
use turnstile_abi::op::{self, Class, OpInfo};
use turnstile_abi::ring::{Permit, RingError};
use turnstile_abi::{Completion, Descriptor, Opcode, Request, Rights, SharedMemory, Status};
use turnstile_backend_api::op::Params;
use turnstile_backend_api::{BackendOp, Outcome, Place};
use turnstile_policy::{AuditLevel, Authorized, authorize};

use crate::context::{Context, Pins, Purpose};
use crate::effects::{Effects, What};
use crate::object::{Body, ObjKey, Object};
use crate::queue::{Entry, EntryState, Origin, post};
use crate::tenant::Refusal;

/// A translated command: everything about it has been checked.
#[allow(clippy::large_enum_variant)] // Moved once, into the backend.
enum Action {
    /// Done at once.
    Done,
    /// The backend's turn.
    Submit { op: BackendOp, pins: Pins, bytes: u64, allowed_ns: u64 },
    /// Raise a fence in order.
    Signal { fence: ObjKey, value: u64 },
    /// Hold the queue.
    Wait { fence: ObjKey, value: u64, timeout_ns: u64 },
}

/// What a fetch found.
pub(crate) enum Fetched {
    /// Nothing to do.
    Nothing,
    /// A command of this cost.
    Command(u32),
}

/// Payload bytes that cost as much as one `Nop`.
const BYTES_PER_COST: u64 = 4096;

impl<M: SharedMemory, F: Effects> Context<'_, M, F> {
    /// Serves one command of work queue `number`.
    pub(crate) fn serve_work(&mut self, number: u8) -> Fetched {
        let Some(queue) = self.t.queues[usize::from(number)].as_mut() else {
            return Fetched::Nothing;
        };
        if !queue.open() {
            return Fetched::Nothing;
        }
        let origin = queue.origin;
        let (descriptor, permit) = match queue.ring.fetch(&self.t.aperture) {
            Ok(Some(fetched)) => fetched,
            Ok(None) => return Fetched::Nothing,
            Err(error) => {
                self.ring_broken(number, error);
                return Fetched::Nothing;
            }
        };
        self.t.counters.fetched += 1;
        Fetched::Command(self.work_command(origin, &descriptor, permit))
    }

    fn work_command(&mut self, origin: Origin, descriptor: &Descriptor, permit: Permit) -> u32 {
        let cookie = descriptor.cookie;
        let number = origin.number;
        let (opcode, action) = match Request::decode(descriptor) {
            Err(malformed) => {
                let opcode = Opcode::from_code(descriptor.head as u16);
                (opcode, Err(Refusal::new(malformed.status(), malformed.detail())))
            }
            Ok(request) => (Some(request.opcode()), self.authorize_work(request, origin)),
        };
        let mut cost = opcode.map_or(1, |opcode| opcode.info().cost);
        let fetched_ns = self.now;
        let state = match action {
            Err(refusal) => {
                self.refused(opcode, &refusal);
                EntryState::Ready {
                    status: refusal.status,
                    value: 0,
                    detail: refusal.detail,
                    bytes: 0,
                }
            }
            Ok(Action::Done) => {
                EntryState::Ready { status: Status::Ok, value: 0, detail: 0, bytes: 0 }
            }
            Ok(Action::Signal { fence, value }) => EntryState::Signal { fence, value },
            Ok(Action::Wait { fence, value, timeout_ns }) => EntryState::Wait {
                fence,
                value,
                deadline_ns: fetched_ns.saturating_add(timeout_ns),
            },
            Ok(Action::Submit { op, pins, bytes, allowed_ns }) => {
                cost =
                    cost.saturating_add(u32::try_from(bytes / BYTES_PER_COST).unwrap_or(u32::MAX));
                self.submit_work(number, op, pins, bytes, opcode);
                EntryState::Submitted { allowed_ns }
            }
        };
        let accepted = !matches!(state, EntryState::Ready { status, .. } if !status.is_ok());
        if accepted
            && self.t.policy.audit == AuditLevel::All
            && let Some(opcode) = opcode
        {
            self.audit(What::Accepted { opcode });
        }
        if let Some(queue) = self.t.queues[usize::from(number)].as_mut() {
            queue.push(Entry { cookie, opcode, fetched_ns, permit, state });
        }
        self.retire(number);
        cost
    }

    fn submit_work(
        &mut self,
        number: u8,
        op: BackendOp,
        pins: Pins,
        bytes: u64,
        opcode: Option<Opcode>,
    ) {
        let (Some(opcode), Some(queue)) = (opcode, self.t.queues[usize::from(number)].as_ref())
        else {
            return;
        };
        let (id, sequence) = (queue.origin.queue, queue.next_sequence());
        for &key in &pins {
            self.pin(key);
        }
        self.t.in_flight += 1;
        self.submit(Purpose::Work { number, queue: id, sequence, opcode, bytes, pins }, op);
    }

    fn authorize_work(&mut self, request: Request, origin: Origin) -> Result<Action, Refusal> {
        if request.opcode().info().class != Class::Work {
            return Err(Status::WrongQueue.into());
        }
        if self.t.policy.grants.queue.is_none() {
            // The queue is from before a reload that took the grant away.
            return Err(Status::Denied.into());
        }
        let authorized = authorize(&self.t.policy, request)?;
        self.translate_work(authorized, origin)
    }

    /// Resolves handles and ranges. Changes nothing.
    fn translate_work(
        &mut self,
        request: Authorized<Request>,
        origin: Origin,
    ) -> Result<Action, Refusal> {
        match request.into_inner() {
            Request::Nop(_) => Ok(Action::Done),
            Request::Copy(args) => self.translate_copy(&args, origin),
            Request::Fill(args) => self.translate_fill(&args, origin),
            Request::Launch(args) => self.translate_launch(&args, origin),
            Request::FenceSignal(args) => {
                let need = const { op::fence_signal::Args::INFO.need(0) };
                let (_, fence, _) = self.resolve(args.fence, need)?;
                Ok(Action::Signal { fence, value: args.value })
            }
            Request::FenceWait(args) => {
                let need = const { op::fence_wait::Args::INFO.need(0) };
                let (_, fence, _) = self.resolve(args.fence, need)?;
                let timeout_ns = self.t.policy.grants.wait_timeout_ns(args.timeout_ns);
                Ok(Action::Wait { fence, value: args.value, timeout_ns })
            }
            Request::Timestamp(_) => {
                let op = BackendOp::Timestamp { space: origin.space, queue: origin.queue };
                Ok(Action::Submit {
                    op,
                    pins: Pins::new(),
                    bytes: 0,
                    allowed_ns: self.t.watchdog_ns,
                })
            }
            // Admin requests were turned away by class.
            _ => Err(Status::WrongQueue.into()),
        }
    }

    /// The range `[offset, offset + bytes)` of a buffer or region, as the backend names it.
    fn place(&self, key: ObjKey, offset: u64, bytes: u64) -> Result<Place, Refusal> {
        let object = self.t.objects.get(key).ok_or(Refusal::from(Status::BadHandle))?;
        let (place, size) = match &object.body {
            Body::Buffer { id, bytes, .. } => (Place::Buffer(*id, offset), *bytes),
            Body::Region { id, bytes, .. } => (Place::Region(*id, offset), *bytes),
            _ => return Err(Status::BadHandle.into()),
        };
        if bytes == 0 || !turnstile_abi::memory::contains(size, offset, bytes) {
            return Err(Refusal::new(Status::OutOfRange, size));
        }
        Ok(place)
    }

    fn translate_copy(&self, args: &op::copy::Args, origin: Origin) -> Result<Action, Refusal> {
        const INFO: &OpInfo = op::copy::Args::INFO;
        let op::copy::Args { dst, dst_offset, src, src_offset, bytes } = *args;
        let (_, to, to_object) = self.resolve(dst, const { INFO.need(0) })?;
        let (_, from, from_object) = self.resolve(src, const { INFO.need(2) })?;
        own_session(origin, to_object)?;
        own_session(origin, from_object)?;
        let dst = self.place(to, dst_offset, bytes)?;
        let src = self.place(from, src_offset, bytes)?;
        // Ranges are inside their objects, so the differences below cannot wrap.
        if to == from && dst_offset.abs_diff(src_offset) < bytes {
            return Err(Refusal::new(Status::OutOfRange, bytes));
        }
        Ok(Action::Submit {
            op: BackendOp::Copy { space: origin.space, queue: origin.queue, dst, src, bytes },
            pins: Pins::from_slice(&[to, from]),
            bytes,
            allowed_ns: self.t.watchdog_ns,
        })
    }

    fn translate_fill(&self, args: &op::fill::Args, origin: Origin) -> Result<Action, Refusal> {
        let op::fill::Args { dst, offset, bytes, pattern, width } = *args;
        let (_, to, object) = self.resolve(dst, const { op::fill::Args::INFO.need(0) })?;
        own_session(origin, object)?;
        if !matches!(width, 1 | 2 | 4 | 8) {
            return Err(Refusal::new(Status::Malformed, 4));
        }
        if !offset.is_multiple_of(width) || !bytes.is_multiple_of(width) {
            return Err(Refusal::new(Status::OutOfRange, width));
        }
        let dst = self.place(to, offset, bytes)?;
        Ok(Action::Submit {
            op: BackendOp::Fill {
                space: origin.space,
                queue: origin.queue,
                dst,
                bytes,
                pattern,
                width: width as u8,
            },
            pins: Pins::from_slice(&[to]),
            bytes,
            allowed_ns: self.t.watchdog_ns,
        })
    }

    fn translate_launch(&self, args: &op::launch::Args, origin: Origin) -> Result<Action, Refusal> {
        let op::launch::Args { function, grid, block, params: at, extras } = *args;
        let (_, key, object) = self.resolve(function, const { op::launch::Args::INFO.need(0) })?;
        own_session(origin, object)?;
        let Body::Function { id, program, params: expected } = object.body else {
            return Err(Status::BadHandle.into());
        };
        let arena = self.session(object.session).map_or((0, 0), |s| s.arena);
        if u64::from(block.params_bytes) != expected {
            return Err(Refusal::new(Status::OutOfRange, expected));
        }
        let mut pins = Pins::from_slice(&[key, program]);
        let params =
            self.launch_params(at, block.params_bytes, extras.relocations, arena, &mut pins)?;
        let timeout_ns = self.t.policy.grants.launch_timeout_ns();
        Ok(Action::Submit {
            op: BackendOp::Launch {
                space: origin.space,
                queue: origin.queue,
                function: id,
                grid: grid.blocks,
                block: block.threads.map(u32::from),
                shared_bytes: grid.shared_bytes,
                cooperative: extras.flags & LaunchFlags::COOPERATIVE.bits() != 0,
                timeout_ns,
                params,
            },
            pins,
            bytes: 0,
            allowed_ns: timeout_ns.saturating_add(self.t.watchdog_ns),
        })
    }

    /// Copies the parameter block out of the aperture, once, and puts buffer addresses into the copy.
    fn launch_params(
        &self,
        at: u64,
        bytes: u16,
        relocations: u32,
        arena: (u64, u64),
        pins: &mut Pins,
    ) -> Result<Params, Refusal> {
        debug_assert!(bytes <= MAX_PARAMS, "decode bounds it");
        let list_bytes = u64::from(relocations) * Relocation::BYTES;
        let list = at
            .checked_add(relocations_offset(bytes))
            .filter(|_| at.is_multiple_of(8))
            .filter(|list| list.checked_add(list_bytes).is_some())
            .ok_or(Refusal::new(Status::BadAddress, at))?;
        let mut params = Params::from_elem(0, usize::from(bytes));
        if bytes > 0 {
            self.t.aperture.read(at, &mut params)?;
        }
        if !self.t.policy.grants.launch.is_some_and(|l| l.raw_addresses) {
            refuse_raw_addresses(&params, arena)?;
        }
        for i in 0..relocations {
            let mut copy = [0; Relocation::BYTES as usize];
            self.t.aperture.read(list + u64::from(i) * Relocation::BYTES, &mut copy)?;
            let Relocation { at, access, buffer, offset } = Relocation::from_bytes(&copy);
            let bad = Refusal::new(Status::Malformed, i.into());
            let rights = match access {
                1 => Rights::READ,
                2 => Rights::WRITE,
                3 => Rights::READ | Rights::WRITE,
                _ => return Err(bad),
            };
            let need = op::Need { kinds: turnstile_abi::KindSet::BUFFER, rights };
            let (_, key, object) = self.resolve(buffer, need)?;
            let Body::Buffer { address, bytes: size, .. } = object.body else { return Err(bad) };
            if offset > size {
                return Err(Refusal::new(Status::OutOfRange, size));
            }
            if address == 0 {
                // The backend's kernels do not reach this buffer; copies do.
                return Err(Status::Unsupported.into());
            }
            let at = at as usize;
            let slot = params.get_mut(at..at.saturating_add(8)).filter(|_| at.is_multiple_of(8));
            slot.ok_or(bad)?.copy_from_slice(&(address + offset).to_le_bytes());
            pins.push(key);
        }
        Ok(params)
    }

    /// Completes whatever is done at the front of a queue, and what that sets free elsewhere.
    pub(crate) fn retire(&mut self, number: u8) {
        if !self.retire_one(number) {
            return;
        }
        // A fence moved: queues that wait may go on, and may signal in their turn. Every pass
        // completes at least one command, so this ends.
        loop {
            let mut signalled = false;
            let mut mask = self.t.queue_mask;
            while mask != 0 {
                let n = mask.trailing_zeros() as u8;
                mask &= mask - 1;
                signalled |= self.retire_one(n);
            }
            if !signalled {
                return;
            }
        }
    }

    /// Returns whether a fence was raised.
    fn retire_one(&mut self, number: u8) -> bool {
        let mut signalled = false;
        loop {
            let Some(queue) = self.t.queues[usize::from(number)].as_ref() else { return signalled };
            let Some(entry) = queue.front() else { return signalled };
            let (status, value, detail, bytes) = match entry.state {
                EntryState::Submitted { .. } => return signalled,
                EntryState::Ready { status, value, detail, bytes } => {
                    (status, value, detail, bytes)
                }
                EntryState::Signal { fence, value } => {
                    let (status, value) = self.raise_fence(fence, value);
                    signalled |= status.is_ok();
                    (status, value, 0, 0)
                }
                EntryState::Wait { fence, value, deadline_ns } => match self.fence_value(fence) {
                    None => (Status::Revoked, 0, 0, 0),
                    Some(now) if now >= value => (Status::Ok, now, 0, 0),
                    Some(now) if self.now >= deadline_ns => (Status::Timeout, now, 0, 0),
                    Some(_) => return signalled,
                },
            };
            self.complete_front(number, status, value, detail, bytes);
        }
    }

    fn complete_front(&mut self, number: u8, status: Status, value: u64, detail: u64, bytes: u64) {
        let Some(queue) = self.t.queues[usize::from(number)].as_mut() else { return };
        let Some(entry) = queue.pop(self.now) else { return };
        let Entry { cookie, opcode, fetched_ns, permit, state: _ } = entry;
        let completion = Completion { cookie, value, detail, status };
        post(&mut queue.ring, &self.t.aperture, permit, &completion);
        self.t.unannounced |= 1 << number;
        self.completed(opcode, &completion, bytes, fetched_ns);
    }

    /// Completes everything in a queue's flight with `status`; nothing of it succeeds any more.
    pub(crate) fn drain_queue(&mut self, number: u8, status: Status) {
        if let Some(queue) = self.t.queues[usize::from(number)].as_mut() {
            queue.stopped = true;
        }
        while self.t.queues[usize::from(number)].as_ref().is_some_and(|q| !q.is_empty()) {
            self.complete_front(number, status, 0, 0, 0);
        }
    }

    fn fence_value(&self, fence: ObjKey) -> Option<u64> {
        let object = self.t.objects.get(fence)?;
        match object.body {
            Body::Fence { value, .. } if object.phase == crate::object::Phase::Live => Some(value),
            _ => None,
        }
    }

    fn raise_fence(&mut self, fence: ObjKey, to: u64) -> (Status, u64) {
        if self.fence_value(fence).is_none() {
            return (Status::Revoked, 0);
        }
        let Some(object) = self.t.objects.get_mut(fence) else { return (Status::Revoked, 0) };
        let Body::Fence { value, mirror } = &mut object.body else { return (Status::Revoked, 0) };
        if to < *value {
            let present = *value;
            self.refused(Some(Opcode::FenceSignal), &Refusal::new(Status::OutOfRange, present));
            return (Status::OutOfRange, present);
        }
        *value = to;
        if let Some(at) = *mirror {
            // The place was checked when the fence was made; the aperture does not shrink.
            let _ = self.t.aperture.store64(at, to);
        }
        (Status::Ok, to)
    }

    /// The backend answered a work command.
    pub(crate) fn work_done(&mut self, purpose: Purpose, outcome: Outcome) {
        let Purpose::Work { number, queue: id, sequence, opcode, bytes, pins } = purpose else {
            return;
        };
        self.t.in_flight -= 1;
        self.t.counters.busy_ns += outcome.busy_ns;
        let Outcome { status, value, detail, busy_ns: _, ref fault } = outcome;
        let ours = self.t.queues[usize::from(number)].as_mut().filter(|q| q.origin.queue == id);
        // An entry that is gone was completed when its queue was revoked: the answer only frees
        // what the command used.
        if let Some(entry) = ours.and_then(|q| q.entry_mut(sequence)) {
            entry.state = EntryState::Ready { status, value, detail, bytes };
            if !status.is_ok() {
                self.t.counters.failed += 1;
                self.audit(What::Failed { opcode, status, detail, fault: fault.as_deref() });
            }
            self.retire(number);
        }
        for key in pins {
            self.unpin(key);
        }
    }

    fn ring_broken(&mut self, number: u8, _error: RingError) {
        if let Some(queue) = self.t.queues[usize::from(number)].as_mut() {
            queue.stopped = true;
        }
        self.t.counters.broken_rings += 1;
        self.t.registers.set_last_error(Status::RingBroken);
        self.audit(What::RingBroken { queue: number });
    }

    /// Looks at waits and silent backends. Called a few times a second at most per tenant.
    pub(crate) fn check_deadlines(&mut self) {
        let mut mask = self.t.queue_mask;
        while mask != 0 {
            let number = mask.trailing_zeros() as u8;
            mask &= mask - 1;
            self.retire(number);
            let Some(queue) = self.t.queues[usize::from(number)].as_mut() else { continue };
            let late = match queue.front().map(|entry| entry.state) {
                Some(EntryState::Submitted { allowed_ns }) => {
                    self.now.saturating_sub(queue.front_since_ns) > allowed_ns
                }
                _ => false,
            };
            if !late {
                continue;
            }
            let second = std::mem::replace(&mut queue.aborted, true);
            queue.front_since_ns = self.now;
            let Origin { space, session, .. } = queue.origin;
            if second {
                self.lose_session(session, "the backend does not answer");
            } else {
                self.fx.abort(space);
            }
        }
    }
}

/// Objects of one session cannot be used on another's queue.
fn own_session(origin: Origin, object: &Object) -> Result<(), Refusal> {
    if object.session == origin.session { Ok(()) } else { Err(Status::BadHandle.into()) }
}

/// Without `grants.launch.raw_addresses`, no aligned parameter word may hold an address of the
/// tenant's arena: addresses come from relocations alone.
fn refuse_raw_addresses(params: &[u8], (base, size): (u64, u64)) -> Result<(), Refusal> {
    for (i, chunk) in params.chunks_exact(8).enumerate() {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        if u64::from_le_bytes(word).wrapping_sub(base) < size {
            return Err(Refusal::new(Status::Denied, i as u64 * 8));
        }
    }
    Ok(())
}
