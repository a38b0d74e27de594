//! Getting a vCPU out of the guest: a signal and the `immediate_exit` flag.
//!
//! The flag covers the moment between a vCPU's last look at whether it shall stop and its entry into
//! the guest; the signal covers the time in the guest. The process must not use the signal for
//! anything else.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

use super::raw::{ImmediateExit, Thread};
use crate::KvmError;

/// The signal that gets a vCPU out: the first real-time signal.
fn signal() -> i32 {
    SIGRTMIN()
}

extern "C" fn nothing(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// Makes the signal harmless: it interrupts `KVM_RUN` and does nothing else. Once a process.
pub(crate) fn install() -> Result<(), KvmError> {
    static DONE: OnceLock<Result<(), i32>> = OnceLock::new();
    DONE.get_or_init(|| register_signal_handler(signal(), nothing).map_err(|e| e.errno()))
        .map_err(std::io::Error::from_raw_os_error)
        .map_err(KvmError::host("install the signal handler that stops vCPUs"))
}

#[derive(Debug)]
struct Target {
    exit: ImmediateExit,
    thread: Thread,
}

/// A handle by which other threads get one vCPU out of the guest.
#[derive(Debug, Default)]
pub(crate) struct Kicker {
    /// `Some` while the vCPU's thread runs, and only then.
    target: Mutex<Option<Target>>,
}

impl Kicker {
    /// Gets the vCPU out of the guest, if it is in there or about to enter.
    pub(crate) fn kick(&self) {
        if let Some(target) = &*self.lock() {
            target.exit.set();
            // SAFETY: `enter`'s guard takes the target away before the thread ends, and needs the
            // lock for it, which we hold.
            unsafe { target.thread.signal(signal()) };
        }
    }

    /// Called by the vCPU's thread: it can be kicked until the guard is dropped.
    pub(crate) fn enter<'k>(&'k self, vcpu: &mut VcpuFd) -> Entered<'k> {
        // SAFETY: the guard is dropped before the descriptor: the only caller, `vcpu::run`, owns
        // both, the guard declared last.
        let exit = unsafe { ImmediateExit::new(vcpu) };
        *self.lock() = Some(Target { exit, thread: Thread::current() });
        Entered(self)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Target>> {
        // Nothing panics while it holds the lock; a poisoned one still holds a whole value.
        self.target.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// While it lives, the vCPU can be kicked.
#[derive(Debug)]
pub(crate) struct Entered<'k>(&'k Kicker);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}
