//! One tenant's device: what the trap handler, the dispatcher and the tenant share.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::Mutex;

use turnstile_abi::regs;
use turnstile_backend_api::{MemoryError, SharedRegion};
use turnstile_core::{Registers, Wrote};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Why a device cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The aperture's memory is not to be had.
    #[error("the aperture: {0}")]
    Aperture(#[from] MemoryError),
    /// The process has no file descriptor left.
    #[error("cannot create an eventfd: {0}; raise the limit on open files (ulimit -n)")]
    EventFd(std::io::Error),
}

/// Wakes the dispatcher for one tenant: doorbells and posted register writes.
///
/// One eventfd serves all queues of a tenant; a front end registers it as an ioeventfd on every
/// doorbell page, and the dispatcher then looks at the tenant's parked rings.
#[derive(Debug)]
pub struct Kick(EventFd);

impl Kick {
    /// Wakes the dispatcher. Never blocks; a full counter is as good as one more.
    pub fn kick(&self) {
        // EAGAIN means the counter is at its limit, so the dispatcher is being woken anyway.
        let _ = self.0.write(1);
    }
    /// The eventfd, for `KVM_IOEVENTFD`, epoll, or handing to a process tenant.
    #[must_use]
    pub fn eventfd(&self) -> &EventFd {
        &self.0
    }
    /// Resets the counter after the dispatcher was woken.
    pub fn clear(&self) {
        let _ = self.0.read();
    }
}

/// One tenant's device.
#[derive(Debug)]
pub struct Device {
    registers: Arc<Registers>,
    aperture: Arc<SharedRegion>,
    kick: Kick,
    /// One eventfd a vector, signalled by the dispatcher. The front end may put its client's own
    /// eventfd in place (vfio-user). Locked only to raise or replace, never on a tenant's command.
    vectors: Mutex<Vec<Arc<EventFd>>>,
}

impl Device {
    /// Puts a device together over its registers and aperture.
    pub fn new(
        registers: Arc<Registers>,
        aperture: Arc<SharedRegion>,
    ) -> Result<Device, DeviceError> {
        let eventfd = || EventFd::new(EFD_NONBLOCK).map_err(DeviceError::EventFd);
        let vectors =
            (0..regs::VECTORS).map(|_| eventfd().map(Arc::new)).collect::<Result<_, _>>()?;
        Ok(Device { registers, aperture, kick: Kick(eventfd()?), vectors: Mutex::new(vectors) })
    }

    /// A trapped BAR0 read of `data.len()` bytes. A refused read gives all-ones.
    pub fn bar0_read(&self, at: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some(value) = self.registers.read(at, data.len()) {
            let bytes = value.to_le_bytes();
            let n = data.len().min(8);
            data[..n].copy_from_slice(&bytes[..n]);
        }
    }

    /// A trapped BAR0 write.
    pub fn bar0_write(&self, at: u64, data: &[u8]) {
        let mut bytes = [0; 8];
        let n = data.len().min(8);
        bytes[..n].copy_from_slice(&data[..n]);
        if self.registers.write(at, data.len(), u64::from_le_bytes(bytes)) == Wrote::Kick {
            self.kick.kick();
        }
    }

    /// The registers.
    #[must_use]
    pub fn registers(&self) -> &Arc<Registers> {
        &self.registers
    }
    /// The aperture (BAR2).
    #[must_use]
    pub fn aperture(&self) -> &Arc<SharedRegion> {
        &self.aperture
    }
    /// The doorbell.
    #[must_use]
    pub fn kick(&self) -> &Kick {
        &self.kick
    }

    /// The eventfd of an interrupt vector, for irqfd or for handing to the tenant.
    #[must_use]
    pub fn vector(&self, vector: u16) -> Option<Arc<EventFd>> {
        self.lock().get(usize::from(vector)).cloned()
    }

    /// Replaces a vector's eventfd by one that the tenant's VMM gave.
    pub fn set_vector(&self, vector: u16, eventfd: EventFd) {
        if let Some(slot) = self.lock().get_mut(usize::from(vector)) {
            *slot = Arc::new(eventfd);
        }
    }

    /// Raises an interrupt. Called by the dispatcher; never blocks.
    pub fn raise(&self, vector: u16) {
        if let Some(eventfd) = self.lock().get(usize::from(vector)) {
            let _ = eventfd.write(1);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<EventFd>>> {
        // The guarded code cannot panic half-way, so a poisoned lock still holds a whole vector.
        self.vectors.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl AsRawFd for Kick {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
