//! Messages from one thread to another: a list, and an eventfd for when the receiver sleeps.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::event::EventfdFlags;

/// Answers of a backend on their way to the dispatcher, or orders on theirs to a worker.
#[derive(Debug)]
pub struct Mailbox<T> {
    messages: Mutex<Vec<T>>,
    /// Something is in the list.
    any: AtomicBool,
    /// The receiver sleeps, or is about to.
    asleep: AtomicBool,
    fd: OwnedFd,
}

impl<T> Mailbox<T> {
    /// An empty one, whose receiver is awake.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> std::io::Result<Mailbox<T>> {
        let fd = rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Mailbox {
            messages: Mutex::new(Vec::new()),
            any: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            fd,
        })
    }

    /// Readable when something was put while the receiver slept.
    #[must_use]
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Adds a message, and wakes the receiver if it sleeps.
    pub fn put(&self, message: T) {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner).push(message);
        // Either the receiver's last drain before it sleeps sees `any`, or this sees `asleep`.
        self.any.store(true, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) {
            // A full counter wakes just as well.
            let _ = rustix::io::write(&self.fd, &1_u64.to_ne_bytes());
        }
    }

    /// The receiver says whether it is about to sleep. After announcing sleep it drains once more.
    pub fn sleeping(&self, asleep: bool) {
        let was = self.asleep.swap(asleep, Ordering::SeqCst);
        if was && !asleep {
            // A sender that saw the sleep may have written after the last drain took its message;
            // left there, the receiver would never sleep again.
            let _ = rustix::io::read(&self.fd, &mut [0; 8]);
        }
    }

    /// Passes on what has come since the last call, in order. Cheap when nothing has.
    pub fn drain(&self, sink: &mut dyn FnMut(T)) {
        if !self.any.load(Ordering::SeqCst) {
            return;
        }
        // Reset before the list is taken: what comes after sets them again.
        let _ = rustix::io::read(&self.fd, &mut [0; 8]);
        self.any.store(false, Ordering::SeqCst);
        let messages = {
            let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *messages)
        };
        messages.into_iter().for_each(sink);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readable(mailbox: &Mailbox<u32>) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(mailbox.fd(), PollFlags::IN)], Some(&now)).is_ok_and(|n| n > 0)
    }

    #[test]
    fn a_sleeper_is_woken_once_and_can_sleep_again() {
        let mailbox = Mailbox::new().unwrap();
        mailbox.put(1);
        assert!(!readable(&mailbox), "the receiver is awake");
        mailbox.sleeping(true);
        mailbox.put(2);
        assert!(readable(&mailbox));
        let mut got = Vec::new();
        mailbox.drain(&mut |n| got.push(n));
        assert_eq!(got, [1, 2]);
        // What a sender writes late must not keep the receiver awake for ever.
        rustix::io::write(mailbox.fd(), &1_u64.to_ne_bytes()).unwrap();
        mailbox.sleeping(false);
        mailbox.sleeping(true);
        assert!(!readable(&mailbox));
    }
}
