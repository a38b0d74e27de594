//! The dispatcher: the one thread that owns the mediator and the backend.
//!
//! It polls the rings of tenants that have work, without a lock, an allocation or a system call for
//! a command, for a bounded time after the last one (`spin`); then rings are parked and it sleeps in
//! epoll until a doorbell, the backend, the program checkers, a command of the operator or a deadline
//! wakes it.
//!
//! epoll is used directly rather than through event-manager: every event here ends in the one owner
//! of the state, tenants come and go while it runs, and it must be able to look without waiting
//! between two rounds of polling. event-manager hands each event to a subscriber of its own and
//! always waits at least for its own dispatch; it would hold the mediator behind a mutex.
//!
//! Threads: `dispatcher` (this), `check-N` (parse, guard and verify programs), `audit` (the log), the
//! backend's own, and the front ends'. Only the dispatcher touches the mediator; front ends reach it
//! through [`Handle`] or, on a tenant's command path, through eventfds and shared memory alone. The
//! dispatcher wants a core to itself when tenants are busy; nothing here changes priorities or
//! affinities, so `taskset` and `chrt` on the daemon work as usual.

mod checker;
mod command;
mod dispatcher;
mod orders;
mod roster;
mod seat;
mod surroundings;
mod tally;
#[cfg(test)]
mod tests;
mod wake;

pub use checker::check_program;
pub use command::{Attached, Handle, Order, Pauses, RuntimeError};
pub use dispatcher::{Runtime, Settings};
pub use roster::{Holdings, Standing, Switched};
pub use seat::{Latency, Report};
pub use surroundings::Milestone;
pub use tally::{BUCKETS, OpTally, Tally, bucket_bound_ns};
pub use wake::Wake;
