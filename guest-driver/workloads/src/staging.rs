//! Memory that both the tenant and the GPU can reach: a host-visible buffer, or registered pages,
//! whichever the policy grants.

use turnstile_abi::launch::DmaExtent;
use turnstile_abi::memory::SharedMemory;
use turnstile_abi::regs::PAGE;
use turnstile_abi::request::{Access, Usage};
use turnstile_abi::{Handle, Status};
use turnstile_driver::{DmaRegion, Error, Mapping, Place, Session, Transport};

use crate::env::Env;
use crate::failure::{During, Failure};

/// Staging memory.
pub(crate) struct Staging<'s, T: Transport, M> {
    handle: Handle,
    side: Side<'s, T, M>,
}

enum Side<'s, T: Transport, M> {
    Aperture(&'s Mapping<'s, T>),
    /// The pages, and where in them the region begins.
    Pages(&'s M, u64),
}

impl<'s, T: Transport, M: SharedMemory> Staging<'s, T, M> {
    /// A mapped host-visible buffer.
    pub(crate) const fn mapped(handle: Handle, mapping: &'s Mapping<'s, T>) -> Self {
        Staging { handle, side: Side::Aperture(mapping) }
    }
    /// A region over pages that begins at byte `base` of `memory`.
    pub(crate) const fn pages(region: &DmaRegion<'_, T>, memory: &'s M, base: u64) -> Self {
        Staging { handle: region.handle(), side: Side::Pages(memory, base) }
    }
    pub(crate) const fn at(&self, offset: u64) -> Place {
        Place { handle: self.handle, offset }
    }
    pub(crate) const fn kind(&self) -> &'static str {
        match self.side {
            Side::Aperture(_) => "host-visible buffer",
            Side::Pages(..) => "registered pages",
        }
    }
    pub(crate) fn write(&self, offset: u64, from: &[u8]) -> Result<(), Failure> {
        match &self.side {
            Side::Aperture(mapping) => mapping.write(offset, from),
            Side::Pages(memory, base) => memory.write(base + offset, from).map_err(Error::from),
        }
        .during("write to staging memory")
    }
    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Failure> {
        match &self.side {
            Side::Aperture(mapping) => mapping.read(offset, into),
            Side::Pages(memory, base) => memory.read(base + offset, into).map_err(Error::from),
        }
        .during("read from staging memory")
    }
}

/// Runs `body` with `bytes` of staging memory and gives the memory back.
pub(crate) fn with<T: Transport, E: Env, R>(
    session: &Session<'_, T>,
    env: &E,
    bytes: u64,
    body: impl FnOnce(&Staging<'_, T, E::Memory>) -> Result<R, Failure>,
) -> Result<R, Failure> {
    match session.create_buffer(bytes, Usage::Host) {
        Ok(buffer) => {
            let mapping = buffer.map().during("map the staging buffer")?;
            let result = body(&Staging::mapped(buffer.handle(), &mapping))?;
            mapping.unmap().during("unmap the staging buffer")?;
            buffer.destroy().during("destroy the staging buffer")?;
            return Ok(result);
        }
        Err(Error::Status { status: Status::Denied | Status::Quota, .. }) => {}
        Err(error) => return Err(Failure::Driver { what: "create the staging buffer", error }),
    }
    let pages = env.pages().ok_or(Failure::Needs("host-visible buffers, or pages for DMA"))?;
    let bytes = bytes.next_multiple_of(PAGE);
    if bytes > pages.memory.size() {
        return Err(Failure::Needs("more pages for DMA"));
    }
    let extent = DmaExtent { gpa: pages.gpa, bytes };
    let region = session
        .register_dma(&[extent], Access::ReadWrite)
        .during("register pages for staging, readable and writable")?;
    let result = body(&Staging::pages(&region, pages.memory, 0))?;
    region.unregister().during("unregister the staging pages")?;
    Ok(result)
}
