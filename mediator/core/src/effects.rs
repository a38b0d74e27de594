//! What the mediator asks of its surroundings, and what it tells them.

use std::sync::Arc;

use turnstile_abi::request::Format;
use turnstile_abi::{Opcode, Status};
use turnstile_backend_api::{BackendOp, Fault, SpaceId, Ticket};
use turnstile_policy::{Denial, TenantPolicy};

slotmap::new_key_type! {
    /// Names an attached tenant. Never resolves again once the tenant is detached.
    pub struct TenantId;
}

/// Something for the audit log. Plain data, no allocation; the receiver formats and rate-limits.
#[derive(Clone, Copy, Debug)]
pub struct AuditEvent<'a> {
    /// Whose doing it was.
    pub tenant: TenantId,
    /// What happened.
    pub what: What<'a>,
}

/// Kinds of audit events.
#[derive(Clone, Copy, Debug)]
pub enum What<'a> {
    /// A device came to life for the tenant.
    Attached,
    /// Everything of the tenant is gone.
    Detached,
    /// The driver negotiated and enabled the device.
    Enabled,
    /// The driver reset the device.
    Reset,
    /// A session opened.
    SessionOpened,
    /// A session closed and everything of it was reclaimed.
    SessionClosed,
    /// A command was refused before it ran.
    Refused {
        /// The operation, if the code is a known one.
        opcode: Option<Opcode>,
        /// Why.
        status: Status,
        /// More about it.
        detail: u64,
        /// The policy's reason, if the policy refused.
        denial: Option<Denial>,
    },
    /// A program did not pass the check.
    ProgramRefused {
        /// Line in the image, 0 if none.
        line: u32,
        /// Why.
        why: &'a str,
    },
    /// A command was accepted (only if the policy audits everything).
    Accepted {
        /// The operation.
        opcode: Opcode,
    },
    /// A command failed while it ran.
    Failed {
        /// The operation.
        opcode: Opcode,
        /// How.
        status: Status,
        /// More about it.
        detail: u64,
        /// The kernel's fault, if it was one.
        fault: Option<&'a Fault>,
    },
    /// The operator revoked the tenant or one of its sessions.
    Revoked,
    /// A backend's address space died.
    BackendLost {
        /// Why.
        why: &'a str,
    },
    /// A ring's indices make no sense; the queue is stopped.
    RingBroken {
        /// Queue number.
        queue: u8,
    },
    /// The driver asked for a version or feature the device does not have.
    NegotiationFailed {
        /// Version word the driver wrote.
        version: u32,
        /// Features the driver wants.
        features: u64,
    },
}

/// A program image to check before it may be loaded. Done outside the dispatcher: guarding takes
/// milliseconds.
#[derive(Debug)]
pub struct VerifyJob {
    /// A private copy of the image.
    pub image: Box<[u8]>,
    /// What the tenant says it is.
    pub format: Format,
    /// The tenant's policy: guard mode, listed images.
    pub policy: Arc<TenantPolicy>,
    /// Base and size of the address space it will run in.
    pub arena: (u64, u64),
    /// Counts the programs of the tenant, so that each can have a place of its own for its variables.
    pub serial: u64,
}

/// A program that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramRefused {
    /// Line in the image, 0 if none.
    pub line: u32,
    /// Why, for the audit log.
    pub why: String,
}

/// A command's life, for statistics.
#[derive(Clone, Copy, Debug)]
pub struct Finished {
    /// Whose.
    pub tenant: TenantId,
    /// The operation.
    pub opcode: Opcode,
    /// How it ended.
    pub status: Status,
    /// Bytes it moved.
    pub bytes: u64,
    /// From fetch to completion, in nanoseconds of the dispatcher's clock.
    pub latency_ns: u64,
}

/// The mediator's surroundings. Nothing here may block.
pub trait Effects {
    /// Starts a backend operation.
    fn submit(&mut self, ticket: Ticket, op: BackendOp);
    /// Ends whatever runs in a space.
    fn abort(&mut self, space: SpaceId);
    /// Checks a program; the answer goes to [`crate::Mediator::verified`].
    fn verify(&mut self, ticket: Ticket, job: VerifyJob);
    /// Raises an interrupt vector of a tenant.
    fn interrupt(&mut self, tenant: TenantId, vector: u16);
    /// Records an event.
    fn audit(&mut self, event: AuditEvent<'_>);
    /// Records a finished command.
    fn finished(&mut self, finished: Finished);
    /// Everything of a detaching tenant has been reclaimed; its memory may go.
    fn detached(&mut self, tenant: TenantId);
    /// Guest memory whose removal was asked for is no longer reachable by the backend.
    fn memory_removed(&mut self, tenant: TenantId, request: u64);
}
