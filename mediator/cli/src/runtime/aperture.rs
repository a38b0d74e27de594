//! A tenant's aperture as the mediator holds it.

use std::sync::Arc;

use turnstile_abi::memory::{OutOfBounds, SharedMemory};
use turnstile_backend_api::SharedRegion;

/// A shared region that the front end, the backend and the mediator hold together.
#[derive(Clone, Debug)]
pub struct Aperture(pub Arc<SharedRegion>);

impl SharedMemory for Aperture {
    #[inline]
    fn size(&self) -> u64 {
        self.0.size()
    }
    #[inline]
    fn load32(&self, offset: u64) -> Result<u32, OutOfBounds> {
        self.0.load32(offset)
    }
    #[inline]
    fn store32(&self, offset: u64, value: u32) -> Result<(), OutOfBounds> {
        self.0.store32(offset, value)
    }
    #[inline]
    fn load64(&self, offset: u64) -> Result<u64, OutOfBounds> {
        self.0.load64(offset)
    }
    #[inline]
    fn store64(&self, offset: u64, value: u64) -> Result<(), OutOfBounds> {
        self.0.store64(offset, value)
    }
    #[inline]
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), OutOfBounds> {
        self.0.read(offset, into)
    }
    #[inline]
    fn write(&self, offset: u64, from: &[u8]) -> Result<(), OutOfBounds> {
        self.0.write(offset, from)
    }
}
