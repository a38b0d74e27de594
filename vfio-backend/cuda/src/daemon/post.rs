//! What the backend's own threads report to the dispatcher: a list, and an eventfd for when it sleeps.
//! No worker holds this descriptor.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, unbounded};
use rustix::event::EventfdFlags;
use turnstile_backend_api::{SpaceId, Ticket};

use super::porter::Prepared;
use super::staff::{Link, WorkerId};
use crate::driver::DeviceInfo;

/// Something that happened outside the dispatcher.
pub(super) enum Happening {
    /// A worker is ready.
    Ready { worker: WorkerId, link: Box<Link>, info: DeviceInfo },
    /// A worker's process is gone.
    Exited { worker: WorkerId, why: String },
    /// A program is ready to be handed to its worker.
    Prepared { space: SpaceId, ticket: Ticket, prepared: Box<Prepared> },
    /// A program could not be made ready.
    NotPrepared { space: SpaceId, ticket: Ticket },
}

pub(super) struct Post {
    sender: Sender<Happening>,
    receiver: Receiver<Happening>,
    /// The dispatcher sleeps, or is about to.
    asleep: AtomicBool,
    fd: OwnedFd,
}

impl Post {
    pub(super) fn new() -> std::io::Result<Post> {
        let fd = rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        let (sender, receiver) = unbounded();
        Ok(Post { sender, receiver, asleep: AtomicBool::new(false), fd })
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    pub(super) fn put(&self, happening: Happening) {
        // The receiver lives as long as the sender.
        let _ = self.sender.send(happening);
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) {
            // A full counter wakes just as well.
            let _ = rustix::io::write(&self.fd, &1_u64.to_ne_bytes());
        }
    }

    pub(super) fn sleeping(&self, asleep: bool) {
        self.asleep.store(asleep, Ordering::SeqCst);
        std::sync::atomic::fence(Ordering::SeqCst);
        if !asleep {
            let _ = rustix::io::read(&self.fd, &mut [0; 8]);
        }
    }

    pub(super) fn take(&self) -> Option<Happening> {
        self.receiver.try_recv().ok()
    }

    /// Waits for the next; only where the dispatcher does not run yet.
    pub(super) fn wait(&self, time: std::time::Duration) -> Option<Happening> {
        self.receiver.recv_timeout(time).ok()
    }
}
