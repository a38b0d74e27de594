//! Memory the GPU can reach: device buffers and registered guest memory.

use turnstile_abi::memory::{SharedMemory, check};
use turnstile_abi::request::Access;
use turnstile_abi::{Handle, Opcode, Rights, op};

use crate::device::DeviceManager;
use crate::error::{Error, Lie};
use crate::session::derive;
use crate::transport::Transport;

/// A byte position in a buffer or region, for the commands of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The object.
    pub handle: Handle,
    /// Byte offset in it.
    pub offset: u64,
}

/// Device memory, or host-visible memory in the aperture.
#[derive(Debug)]
pub struct Buffer<'d, T: Transport> {
    device: &'d DeviceManager<T>,
    handle: Handle,
    bytes: u64,
    address: u64,
}

impl<'d, T: Transport> Buffer<'d, T> {
    pub(crate) const fn new(
        device: &'d DeviceManager<T>,
        handle: Handle,
        bytes: u64,
        address: u64,
    ) -> Buffer<'d, T> {
        Buffer { device, handle, bytes, address }
    }
    /// Its handle.
    #[must_use]
    pub const fn handle(&self) -> Handle {
        self.handle
    }
    /// Size in bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
    /// Device address, for pointers inside a tenant's own data structures. Launch arguments name
    /// buffers by handle instead ([`crate::Launch::buffer`]).
    #[must_use]
    pub const fn address(&self) -> u64 {
        self.address
    }
    /// A byte position in it.
    #[must_use]
    pub const fn at(&self, offset: u64) -> Place {
        Place { handle: self.handle, offset }
    }

    /// Finds a host-visible buffer in the aperture. While mapped it cannot be destroyed.
    pub fn map(&self) -> Result<Mapping<'_, T>, Error> {
        let done = self.device.call(op::buffer_map::Args { buffer: self.handle })?;
        let lie = |value| Error::from(Lie::Result { op: Opcode::BufferMap, value });
        if done.detail != self.bytes {
            return Err(lie(done.detail));
        }
        if done.value < self.device.heap_offset() || !done.value.is_multiple_of(8) {
            return Err(lie(done.value));
        }
        check(self.device.aperture_bytes(), done.value, self.bytes).map_err(|_| lie(done.value))?;
        Ok(Mapping { buffer: self, offset: done.value })
    }

    /// Derives a weaker capability to the same memory.
    pub fn derive(&self, rights: Rights) -> Result<Buffer<'d, T>, Error> {
        let handle = derive(self.device, self.handle, rights)?;
        Ok(Buffer::new(self.device, handle, self.bytes, self.address))
    }

    /// Closes this capability; closing the one the buffer was created with frees the memory.
    pub fn destroy(self) -> Result<(), Error> {
        self.device.call(op::buffer_destroy::Args { buffer: self.handle }).map(drop)
    }
}

/// A host-visible buffer's bytes in the aperture. The device may change them at any time.
///
/// Dropping it leaves the buffer mapped; [`unmap`](Self::unmap) gives the mapping back.
#[derive(Debug)]
pub struct Mapping<'b, T: Transport> {
    buffer: &'b Buffer<'b, T>,
    offset: u64,
}

impl<T: Transport> Mapping<'_, T> {
    /// Where it lies in the aperture, in bytes.
    #[must_use]
    pub const fn aperture_offset(&self) -> u64 {
        self.offset
    }
    /// Copies bytes out, from `offset` in the buffer on.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        check(self.buffer.bytes, offset, into.len() as u64)?;
        Ok(self.aperture().read(self.offset + offset, into)?)
    }
    /// Copies bytes in.
    pub fn write(&self, offset: u64, from: &[u8]) -> Result<(), Error> {
        check(self.buffer.bytes, offset, from.len() as u64)?;
        Ok(self.aperture().write(self.offset + offset, from)?)
    }
    /// Gives the mapping back.
    pub fn unmap(self) -> Result<(), Error> {
        self.buffer.device.call(op::buffer_unmap::Args { buffer: self.buffer.handle }).map(drop)
    }
    fn aperture(&self) -> &T::Aperture {
        self.buffer.device.transport().aperture()
    }
}

/// Guest memory registered for DMA.
#[derive(Debug)]
pub struct DmaRegion<'d, T: Transport> {
    device: &'d DeviceManager<T>,
    handle: Handle,
    bytes: u64,
    access: Access,
}

impl<'d, T: Transport> DmaRegion<'d, T> {
    pub(crate) const fn new(
        device: &'d DeviceManager<T>,
        handle: Handle,
        bytes: u64,
        access: Access,
    ) -> DmaRegion<'d, T> {
        DmaRegion { device, handle, bytes, access }
    }
    /// Its handle.
    #[must_use]
    pub const fn handle(&self) -> Handle {
        self.handle
    }
    /// Size in bytes: the extents together.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
    /// What the device may do with it.
    #[must_use]
    pub const fn access(&self) -> Access {
        self.access
    }
    /// A byte position in it, counted across its extents.
    #[must_use]
    pub const fn at(&self, offset: u64) -> Place {
        Place { handle: self.handle, offset }
    }
    /// Derives a weaker capability to the same memory.
    pub fn derive(&self, rights: Rights) -> Result<DmaRegion<'d, T>, Error> {
        let handle = derive(self.device, self.handle, rights)?;
        Ok(DmaRegion::new(self.device, handle, self.bytes, self.access))
    }
    /// Closes this capability; for the one the region was registered with, the device has lost
    /// access to the memory when this returns.
    pub fn unregister(self) -> Result<(), Error> {
        self.device.call(op::dma_unregister::Args { region: self.handle }).map(drop)
    }
}
