//! What needs `unsafe`: memory that a device reaches by itself.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

use turnstile_abi::Rights;
use turnstile_abi::memory::{SharedMemory, check};
use turnstile_abi::request::Access;
use turnstile_backend_api::SharedRegion;
use turnstile_linux::ioctl;
use vfio_ioctls::{VfioContainer, VfioDevice, VfioIommufd};

/// The function's own address space.
pub(crate) enum Iommu {
    /// Group and container.
    Container(Arc<VfioContainer>),
    /// An I/O address space of iommufd.
    Iommufd(Arc<VfioIommufd>),
}

impl Iommu {
    fn unmap(&self, iova: u64, bytes: u64) -> io::Result<()> {
        match self {
            Iommu::Container(container) => ioctl::unmap_dma(&**container, iova, bytes),
            Iommu::Iommufd(iommufd) => {
                // CAST: it was mapped with this length, which is that of a mapping.
                iommufd.vfio_dma_unmap(iova, bytes as usize).map_err(io::Error::other)
            }
        }
    }
}

/// What the function can reach, by I/O virtual address. Memory in here stays mapped in this process
/// until the IOMMU has let go of it.
pub(crate) struct Mappings {
    iommu: Iommu,
    live: Mutex<HashMap<u64, (u64, Arc<SharedRegion>)>>,
}

impl Mappings {
    pub(crate) fn new(iommu: Iommu) -> Mappings {
        Mappings { iommu, live: Mutex::default() }
    }

    /// Lets the function reach `bytes` of a region from `offset` on, at `iova`; all of them multiples
    /// of a page.
    pub(crate) fn map(
        &self,
        iova: u64,
        region: &Arc<SharedRegion>,
        offset: u64,
        bytes: u64,
        access: Access,
    ) -> io::Result<()> {
        let outside = |_| io::Error::from(io::ErrorKind::InvalidInput);
        check(region.size(), offset, bytes).map_err(outside)?;
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if live.contains_key(&iova) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        // CAST: an offset inside a mapping is a usize.
        let at = region.mapping().as_ptr().wrapping_add(offset as usize);
        let mut flags = 0;
        if access.rights().contains(Rights::READ) {
            flags |= ioctl::DMA_READ;
        }
        if access.rights().contains(Rights::WRITE) {
            flags |= ioctl::DMA_WRITE;
        }
        match &self.iommu {
            // SAFETY: the range lies in the region's mapping, as was just checked, and that stays:
            // the map keeps the region until the IOMMU has unmapped it. A SharedRegion is reached by
            // volatile and atomic accesses only.
            Iommu::Container(container) => unsafe {
                ioctl::map_dma(&**container, iova, at as u64, bytes, flags)?;
            },
            // SAFETY: as above. The crate maps for reading and writing, whatever `access` says.
            Iommu::Iommufd(iommufd) => unsafe {
                iommufd.vfio_dma_map(iova, bytes as usize, at).map_err(io::Error::other)?;
            },
        }
        live.insert(iova, (bytes, region.clone()));
        Ok(())
    }

    /// Takes away what was mapped at `iova`. When this returns the function cannot reach it.
    pub(crate) fn unmap(&self, iova: u64) -> io::Result<()> {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((bytes, _)) = live.get(&iova) else { return Ok(()) };
        self.iommu.unmap(iova, *bytes)?;
        live.remove(&iova);
        Ok(())
    }
}

impl Drop for Mappings {
    fn drop(&mut self) {
        let live = self.live.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (iova, (bytes, region)) in live.drain() {
            if self.iommu.unmap(iova, bytes).is_err() {
                // It may still be reachable: then it stays where it is for good.
                std::mem::forget(region);
            }
        }
    }
}

/// Another descriptor of an open function.
pub(crate) fn file(device: &VfioDevice) -> io::Result<File> {
    // SAFETY: the descriptor is the device's, which lives across the call.
    let borrowed = unsafe { BorrowedFd::borrow_raw(device.as_raw_fd()) };
    Ok(borrowed.try_clone_to_owned()?.into())
}
