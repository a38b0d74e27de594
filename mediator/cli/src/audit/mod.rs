//! The audit log: append-only JSON lines, each sealed with the hash of the one before.
//!
//! A line is one JSON object: `seq`, `time`, `tenant` (absent for the daemon's own), the event's
//! fields, `prev` and, always last, `hash`. `hash` is the SHA-256 of the line's bytes without the
//! hash member itself (`,"hash":"…"`), so a change of any byte shows, white space included; `prev`
//! repeats the hash of the line before, so a missing, moved or repeated line shows too.
//!
//! The chain is not keyed: whoever can rewrite the whole file can make a new, consistent one. Keep
//! the head that the daemon prints when it stops, or copy the log off the machine as it grows, and
//! compare. The log says what tenants asked for and were refused; it never holds guest bytes.
//!
//! The writer has a thread of its own behind a bounded channel. Sending never blocks: what a tenant
//! sends beyond its rate, and what does not fit into the channel, is counted, and the count is a
//! record of the log.

mod chain;
mod device_event;
mod event;
mod file;
pub mod ocsf;
mod sender;
mod tap;
#[cfg(test)]
mod tests;
pub mod verify;
mod writer;

pub use chain::{Hash, MAX_LINE};
pub use device_event::DeviceEvent;
pub use event::{Event, LogEvent, OperatorEvent, TenantEvent};
pub use sender::{AuditHandle, TenantAudit};
pub use tap::{Closed, MAX_SUBSCRIBERS, MAX_WAITING, SubscribeError, Subscription};
pub use writer::{AuditError, AuditLog, OnStop, Options, Summary};
