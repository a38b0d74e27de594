//! Wakes the dispatcher from any thread.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// An eventfd in the dispatcher's epoll. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Wake(Arc<EventFd>);

impl Wake {
    /// Makes one.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> std::io::Result<Wake> {
        Ok(Wake(Arc::new(EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC)?)))
    }
    /// Wakes the dispatcher. Never blocks.
    pub fn wake(&self) {
        // EAGAIN: the counter is at its limit, so the dispatcher is being woken anyway.
        let _ = self.0.write(1);
    }
    pub(super) fn clear(&self) {
        let _ = self.0.read();
    }
}

impl AsRawFd for Wake {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
