//! Answers on their way to the dispatcher: a list, and an eventfd for when it sleeps.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::event::EventfdFlags;
use turnstile_backend_api::BackendEvent;

pub(super) struct Post {
    events: Mutex<Vec<BackendEvent>>,
    /// Something is in the list.
    any: AtomicBool,
    /// The dispatcher sleeps, or is about to.
    asleep: AtomicBool,
    fd: OwnedFd,
}

impl Post {
    pub(super) fn new() -> std::io::Result<Post> {
        let fd = rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Post {
            events: Mutex::default(),
            any: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            fd,
        })
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    pub(super) fn put(&self, event: BackendEvent) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        // Either the dispatcher's last drain before it sleeps sees `any`, or this sees `asleep`.
        self.any.store(true, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) {
            // A full counter wakes just as well.
            let _ = rustix::io::write(&self.fd, &1_u64.to_ne_bytes());
        }
    }

    pub(super) fn sleeping(&self, asleep: bool) {
        self.asleep.store(asleep, Ordering::SeqCst);
    }

    pub(super) fn drain(&self, sink: &mut dyn FnMut(BackendEvent)) {
        if !self.any.load(Ordering::SeqCst) {
            return;
        }
        // Reset before the list is taken: what comes after writes the counter again.
        let _ = rustix::io::read(&self.fd, &mut [0; 8]);
        self.any.store(false, Ordering::SeqCst);
        let events = {
            let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *events)
        };
        events.into_iter().for_each(sink);
    }
}
