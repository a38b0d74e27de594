//! The mediator as a sans-I/O state machine.
//!
//! [`Mediator`] owns every tenant's device: registers, rings, handle tables, objects, quotas, the
//! registry of DMA memory and the scheduler. Bytes from a tenant become a descriptor copied once,
//! then a typed request, then an authorized one, then a backend operation; each step consumes the
//! one before. It does no I/O, starts no thread, reads no clock and has no unsafe code: the caller
//! passes events and time in and carries out the [`Effects`].
//!
//! What it is not: it does not decide what is allowed (`turnstile-policy`), does not run anything
//! (a backend does) and does not know what a front end is.
#![forbid(unsafe_code)]

mod admin;
mod capability;
mod context;
mod effects;
mod heap;
mod lifecycle;
mod mediator;
mod memory_map;
mod object;
mod queue;
mod registers;
mod schedule;
mod tenant;
mod view;
mod work;

pub use effects::{AuditEvent, Effects, Finished, ProgramRefused, TenantId, VerifyJob, What};
pub use mediator::{Mediator, Poll, Settings};
pub use memory_map::{GuestMemory, MAX_PIECES, MapError};
pub use registers::{Registers, Wrote};
pub use tenant::{Attachment, Counters, Life};
pub use view::{ObjectView, SessionView, TenantView};
