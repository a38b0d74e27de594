//! The end of a VM: who may end it, who is told, and what is left to say.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::EventFd;

use crate::sys::Kicker;

/// Why a VM ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The guest wrote this code to the exit port ([`turnstile_boot::EXIT_PORT`]).
    Code(u32),
    /// The guest asked for a reset through the keyboard controller, as Linux with `reboot=k` does.
    Reset,
    /// The guest's processor shut down: a fault while handling a fault while handling a fault.
    Shutdown,
    /// The host stopped it.
    Stopped,
    /// KVM cannot go on with it; the text says why.
    Failed(String),
}

/// How a VM ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Why.
    pub reason: Reason,
    /// The last of what it printed, at most [`crate::console::KEPT_BYTES`] of the guest's bytes.
    pub console: String,
}

impl Exit {
    /// The guest's exit code, if it ended with one.
    #[must_use]
    pub fn code(&self) -> Option<u32> {
        match self.reason {
            Reason::Code(code) => Some(code),
            _ => None,
        }
    }
    /// Whether the guest itself says that it did what it should.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.code() == Some(turnstile_boot::ExitCode::Pass as u32)
    }
}

/// Shared by the vCPUs of a VM and its owner.
#[derive(Debug)]
pub(crate) struct Life {
    stop: AtomicBool,
    reason: Mutex<Option<Reason>>,
    ended: Condvar,
    event: EventFd,
    kickers: Vec<Kicker>,
}

impl Life {
    /// The life of a VM of so many vCPUs; `event` is signalled when it ends.
    pub(crate) fn new(vcpus: u8, event: EventFd) -> Life {
        Life {
            stop: AtomicBool::new(false),
            reason: Mutex::new(None),
            ended: Condvar::new(),
            event,
            kickers: (0..vcpus).map(|_| Kicker::default()).collect(),
        }
    }

    /// Whether vCPUs shall stop.
    pub(crate) fn stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Ends the VM. The first reason stands. Gets every vCPU out of the guest.
    pub(crate) fn end(&self, reason: Reason) {
        self.lock().get_or_insert(reason);
        self.stop.store(true, Ordering::SeqCst);
        self.ended.notify_all();
        // Non-blocking; a full counter means that it is signalled already.
        let _ = self.event.write(1);
        self.kick();
    }

    /// Gets every vCPU out of the guest.
    pub(crate) fn kick(&self) {
        self.kickers.iter().for_each(Kicker::kick);
    }

    /// The kicker of a vCPU.
    pub(crate) fn kicker(&self, index: u8) -> &Kicker {
        &self.kickers[usize::from(index)]
    }

    /// Signalled when the VM has ended.
    pub(crate) fn event(&self) -> &EventFd {
        &self.event
    }

    /// Why it ended, if it has.
    pub(crate) fn reason(&self) -> Option<Reason> {
        self.lock().clone()
    }

    /// Waits for the end, at most this long.
    pub(crate) fn wait(&self, timeout: Duration) -> Option<Reason> {
        let end = Instant::now().checked_add(timeout);
        let mut reason = self.lock();
        while reason.is_none() {
            let left = match end {
                Some(end) => end.saturating_duration_since(Instant::now()),
                None => timeout,
            };
            if left.is_zero() {
                return None;
            }
            let waited = self.ended.wait_timeout(reason, left);
            reason = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        reason.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Reason>> {
        // Nothing panics while it holds the lock.
        self.reason.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn the_first_reason_stands_and_everybody_hears() {
        let life = Arc::new(Life::new(2, EventFd::new(libc::EFD_NONBLOCK).unwrap()));
        assert_eq!(life.wait(Duration::from_millis(5)), None);
        let waiter = std::thread::spawn({
            let life = life.clone();
            move || life.wait(Duration::from_secs(10))
        });
        life.end(Reason::Code(3));
        life.end(Reason::Stopped);
        assert!(life.stopping());
        assert_eq!(waiter.join().unwrap(), Some(Reason::Code(3)));
        assert_eq!(life.wait(Duration::ZERO), Some(Reason::Code(3)));
        assert_eq!(life.event().read().unwrap(), 2);
    }
}
