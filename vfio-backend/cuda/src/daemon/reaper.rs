//! Ending workers, each on a thread of its own, since it can take a while.

use std::sync::Arc;
use std::time::Duration;

use super::mps::Mps;
use super::staff::Process;

/// How long what runs in a worker that was asked to end may go on.
pub(super) const GRACE: Duration = Duration::from_millis(30);
/// How long a worker in which nothing runs may take to destroy its context. Many at once take long.
pub(super) const LEAVE: Duration = Duration::from_secs(3);
/// How long a worker whose context is being destroyed may take.
const DESTROY: Duration = Duration::from_secs(2);

/// Ends a worker that was asked to end, or that must: after `grace` the service ends what it runs, and if
/// that does not help, it is killed. Under MPS a kill is the last resort: with a kernel running it would
/// take the other clients with it.
pub(super) fn end(process: Process, mps: Option<Arc<Mps>>, grace: Duration) {
    let thread = std::thread::Builder::new().name("reaper".into());
    let last_resort = process.clone();
    let started = thread.spawn(move || {
        if process.ended_within(grace) {
            return;
        }
        if process.concurrent
            && let Some(mps) = &mps
            && mps.terminate(process.pid)
            && process.ended_within(DESTROY)
        {
            return;
        }
        if process.concurrent {
            tracing::warn!(pid = process.pid, "a worker under MPS has to be killed");
        }
        process.kill();
    });
    if started.is_err() {
        last_resort.kill();
    }
}
