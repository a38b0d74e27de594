//! The second processor: runs one job at a time beside the boot processor.
#![allow(unsafe_code)]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::clock::Clock;
use crate::fault::Stack;
use crate::start::STACK_BYTES;
use crate::{call, interrupt};

/// Stack of the second processor in ring 3.
pub(crate) static STACK: Stack<STACK_BYTES> = Stack::new();
/// Address of the [`Job`] to run next; 0: none. Set here, taken by `start`.
pub(crate) static JOB: AtomicU64 = AtomicU64::new(0);
/// 1 once the second processor waits for work.
pub(crate) static AWAKE: AtomicU32 = AtomicU32::new(0);

/// APIC id of the second processor.
const SECOND: u8 = 1;
/// How long the second processor may take to start, in nanoseconds.
const START_NS: u64 = 2_000_000_000;
/// How long to wait for a job to be taken before waking again, in nanoseconds.
const TAKE_NS: u64 = 20_000_000;

/// Something to run, and whether it has.
pub(crate) struct Job<'a> {
    body: &'a (dyn Fn() + Sync),
    done: AtomicU32,
}

/// Runs `other` on the second processor while `body` runs on this one, and returns when both are
/// done. `false`: there is no second processor, and neither ran.
pub(crate) fn alongside(
    clock: &Clock,
    cpus: u64,
    other: &(dyn Fn() + Sync),
    body: &mut dyn FnMut(),
) -> bool {
    if cpus < 2 || !wait(clock, START_NS, || AWAKE.load(Ordering::Acquire) != 0) {
        return false;
    }
    let job = Job { body: other, done: AtomicU32::new(0) };
    JOB.store(&raw const job as u64, Ordering::Release);
    interrupt::wake(SECOND);
    // Beside the other, not before it: wait until it has taken the job.
    while !wait(clock, TAKE_NS, || JOB.load(Ordering::Acquire) == 0) {
        interrupt::wake(SECOND);
    }
    body();
    while job.done.load(Ordering::Acquire) == 0 {
        core::hint::spin_loop();
    }
    true
}

fn wait(clock: &Clock, bound_ns: u64, ready: impl Fn() -> bool) -> bool {
    let end = clock.now_ns() + bound_ns;
    while !ready() {
        if clock.now_ns() >= end {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}

/// The second processor starts here, in ring 3, with the address it took out of [`JOB`].
pub(crate) extern "sysv64" fn run_job(job: *const Job<'static>) -> ! {
    // SAFETY: `alongside` stored the address and keeps the job alive until `done` is set.
    let job = unsafe { &*job };
    (job.body)();
    job.done.store(1, Ordering::Release);
    call::park()
}
