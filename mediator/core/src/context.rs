//! One step of one tenant: what every operation gets its hands on.

use slotmap::{Key, SlotMap, new_key_type};
use smallvec::SmallVec;
use turnstile_abi::op::Need;
use turnstile_abi::{Completion, Handle, Opcode, SharedMemory, Status};
use turnstile_backend_api::{BackendOp, QueueId, Ticket};

use crate::capability::CapIndex;
use crate::effects::{AuditEvent, Effects, Finished, TenantId, What};
use crate::object::{Body, ObjKey, Object, Phase, Session};
use crate::tenant::{Refusal, Tenant};

new_key_type! {
    /// Names an operation the backend (or the program checker) has not answered yet.
    pub(crate) struct OpenKey;
}

/// Objects one operation uses.
pub(crate) type Pins = SmallVec<[ObjKey; 4]>;

/// An operation the backend has not answered.
#[derive(Debug)]
pub(crate) struct OpenOp {
    pub(crate) tenant: TenantId,
    pub(crate) purpose: Purpose,
}

/// What the answer is for.
#[derive(Debug)]
pub(crate) enum Purpose {
    /// A command of a work queue.
    Work { number: u8, queue: QueueId, sequence: u64, opcode: Opcode, bytes: u64, pins: Pins },
    /// An object is being made.
    Create(ObjKey),
    /// A program is being checked.
    Check(ObjKey),
    /// An object is being destroyed.
    Destroy(ObjKey),
    /// A session's address space is being closed.
    Close(ObjKey),
}

/// Ids for backend objects, never reused.
#[derive(Debug, Default)]
pub(crate) struct Ids(u64);

impl Ids {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }
}

/// One tenant's step.
pub(crate) struct Context<'a, M, F> {
    pub(crate) id: TenantId,
    pub(crate) t: &'a mut Tenant<M>,
    pub(crate) open: &'a mut SlotMap<OpenKey, OpenOp>,
    pub(crate) ids: &'a mut Ids,
    pub(crate) fx: &'a mut F,
    pub(crate) now: u64,
}

impl<M: SharedMemory, F: Effects> Context<'_, M, F> {
    /// Reserves a ticket; the operation must be submitted with it.
    pub(crate) fn ticket(&mut self, purpose: Purpose) -> Ticket {
        let key = self.open.insert(OpenOp { tenant: self.id, purpose });
        Ticket(key.data().as_ffi())
    }

    pub(crate) fn submit(&mut self, purpose: Purpose, op: BackendOp) {
        let ticket = self.ticket(purpose);
        self.fx.submit(ticket, op);
    }

    pub(crate) fn audit(&mut self, what: What<'_>) {
        self.fx.audit(AuditEvent { tenant: self.id, what });
    }

    /// Resolves a handle to a live object.
    pub(crate) fn resolve(
        &self,
        handle: Handle,
        need: Need,
    ) -> Result<(CapIndex, ObjKey, &Object), Refusal> {
        let refused = |status| Refusal::new(status, handle.raw());
        let (index, cap) = self.t.caps.resolve(handle, need).map_err(refused)?;
        let object = self.t.objects.get(cap.object).ok_or(refused(Status::BadHandle))?;
        match object.phase {
            Phase::Live => Ok((index, cap.object, object)),
            // Not announced yet: the handle was guessed.
            _ => Err(refused(Status::BadHandle)),
        }
    }

    pub(crate) fn session(&self, key: ObjKey) -> Option<&Session> {
        match &self.t.objects.get(key)?.body {
            Body::Session(session) => Some(session),
            _ => None,
        }
    }

    pub(crate) fn session_mut(&mut self, key: ObjKey) -> Option<&mut Session> {
        match &mut self.t.objects.get_mut(key)?.body {
            Body::Session(session) => Some(session),
            _ => None,
        }
    }

    pub(crate) fn pin(&mut self, key: ObjKey) {
        if let Some(object) = self.t.objects.get_mut(key) {
            object.pins += 1;
        }
    }

    /// Counts and records a refusal.
    pub(crate) fn refused(&mut self, opcode: Option<Opcode>, refusal: &Refusal) {
        let Refusal { status, detail, denial } = *refusal;
        self.t.counters.denied += 1;
        self.audit(What::Refused { opcode, status, detail, denial });
    }

    /// Counts and reports a completion that was just posted.
    pub(crate) fn completed(
        &mut self,
        opcode: Option<Opcode>,
        completion: &Completion,
        bytes: u64,
        fetched_ns: u64,
    ) {
        self.t.counters.completed += 1;
        if completion.status.is_ok() {
            self.t.counters.bytes += bytes;
        }
        if let Some(opcode) = opcode {
            self.fx.finished(Finished {
                tenant: self.id,
                opcode,
                status: completion.status,
                bytes,
                latency_ns: self.now.saturating_sub(fetched_ns),
            });
        }
    }
}
