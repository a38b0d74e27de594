//! Timeline fences.

use turnstile_abi::memory::SharedMemory;
use turnstile_abi::{Handle, Rights, op};

use crate::arena::Area;
use crate::device::DeviceManager;
use crate::error::Error;
use crate::session::{derive, give_back};
use crate::transport::Transport;

/// A 64-bit value that only grows. Queues raise it and wait for it; the driver reads it without a
/// command, from its mirror in the aperture.
#[derive(Debug)]
pub struct Fence<'d, T: Transport> {
    device: &'d DeviceManager<T>,
    handle: Handle,
    mirror: Option<Area>,
}

impl<'d, T: Transport> Fence<'d, T> {
    pub(crate) const fn new(
        device: &'d DeviceManager<T>,
        handle: Handle,
        mirror: Option<Area>,
    ) -> Fence<'d, T> {
        Fence { device, handle, mirror }
    }
    /// Its handle.
    #[must_use]
    pub const fn handle(&self) -> Handle {
        self.handle
    }
    /// The value the device last showed. `None` for a derived capability, which has no mirror.
    pub fn value(&self) -> Result<Option<u64>, Error> {
        let load = |area: Area| self.device.transport().aperture().load64(area.offset);
        Ok(self.mirror.map(load).transpose()?)
    }
    /// Derives a weaker capability to the same fence.
    pub fn derive(&self, rights: Rights) -> Result<Fence<'d, T>, Error> {
        Ok(Fence::new(self.device, derive(self.device, self.handle, rights)?, None))
    }
    /// Closes it; waits for it end with `revoked`.
    pub fn destroy(self) -> Result<(), Error> {
        self.device.call(op::fence_destroy::Args { fence: self.handle })?;
        give_back(self.device.arena(), self.mirror);
        Ok(())
    }
}
