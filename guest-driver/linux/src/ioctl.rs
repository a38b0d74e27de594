//! The ioctls of VFIO (`<linux/vfio.h>`) that the transport uses.
//!
//! By hand, because the wrappers there are do not do the group that has no IOMMU, hide the errors of
//! region accesses, and would bring a VMM's memory model along into a guest's tool.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `_IO(';', 100 + n)`.
const fn request(n: u32) -> libc::Ioctl {
    // CAST: the width differs between C libraries; the value fits both.
    ((b';' as u32) << 8 | (100 + n)) as libc::Ioctl
}

/// An IOMMU that maps and unmaps (`VFIO_TYPE1v2_IOMMU`).
pub const TYPE1V2: u64 = 3;
/// No IOMMU at all (`VFIO_NOIOMMU_IOMMU`).
pub const NOIOMMU: u64 = 8;
/// MSI-X (`VFIO_PCI_MSIX_IRQ_INDEX`).
pub const MSIX: u32 = 2;

fn result(code: libc::c_int) -> io::Result<libc::c_int> {
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(code) }
}

/// The kernel's VFIO speaks the version this is written for (`VFIO_GET_API_VERSION`).
pub fn api_version(container: &File) -> io::Result<i32> {
    // SAFETY: takes no argument.
    result(unsafe { libc::ioctl(container.as_raw_fd(), request(0)) })
}

/// Whether a container can have this kind of IOMMU (`VFIO_CHECK_EXTENSION`).
#[must_use]
pub fn has_iommu(container: &File, kind: u64) -> bool {
    // SAFETY: the argument is a number.
    unsafe { libc::ioctl(container.as_raw_fd(), request(1), kind) > 0 }
}

/// Chooses the kind of IOMMU (`VFIO_SET_IOMMU`).
pub fn set_iommu(container: &File, kind: u64) -> io::Result<()> {
    // SAFETY: the argument is a number.
    result(unsafe { libc::ioctl(container.as_raw_fd(), request(2), kind) }).map(drop)
}

/// Whether every function of a group is VFIO's (`VFIO_GROUP_GET_STATUS`).
pub fn is_viable(group: &File) -> io::Result<bool> {
    #[repr(C)]
    struct Status {
        argsz: u32,
        flags: u32,
    }
    let mut status = Status { argsz: size_of::<Status>() as u32, flags: 0 };
    // SAFETY: the kernel writes a structure of the size that `argsz` says, which is this one's.
    result(unsafe { libc::ioctl(group.as_raw_fd(), request(3), &raw mut status) })?;
    Ok(status.flags & 1 != 0)
}

/// Puts a group into a container (`VFIO_GROUP_SET_CONTAINER`).
pub fn set_container(group: &File, container: &File) -> io::Result<()> {
    let fd = container.as_raw_fd();
    // SAFETY: the kernel reads one integer, which lives across the call.
    result(unsafe { libc::ioctl(group.as_raw_fd(), request(4), &raw const fd) }).map(drop)
}

/// Opens a function of a group (`VFIO_GROUP_GET_DEVICE_FD`).
pub fn device(group: &File, address: &str) -> io::Result<File> {
    let name = CString::new(address).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the kernel reads a C string, which lives across the call.
    let fd = result(unsafe { libc::ioctl(group.as_raw_fd(), request(6), name.as_ptr()) })?;
    // SAFETY: the kernel has just made the descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
}

/// A region of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Size in bytes.
    pub bytes: u64,
    /// Where it begins in the function's file.
    pub offset: u64,
    /// Whether it can be mapped.
    pub mappable: bool,
}

/// About a region (`VFIO_DEVICE_GET_REGION_INFO`).
pub fn region(device: &File, index: u32) -> io::Result<Region> {
    #[repr(C)]
    struct Info {
        argsz: u32,
        flags: u32,
        index: u32,
        cap_offset: u32,
        size: u64,
        offset: u64,
    }
    let argsz = size_of::<Info>() as u32;
    let mut info = Info { argsz, flags: 0, index, cap_offset: 0, size: 0, offset: 0 };
    // SAFETY: the kernel writes a structure of the size that `argsz` says, which is this one's.
    result(unsafe { libc::ioctl(device.as_raw_fd(), request(8), &raw mut info) })?;
    Ok(Region { bytes: info.size, offset: info.offset, mappable: info.flags & 4 != 0 })
}

/// Most vectors of [`wire`].
pub const MAX_VECTORS: usize = 16;

/// Sends the vectors of a kind of interrupts, such as [`MSIX`], to these eventfds, from vector 0 on;
/// none: turns them off (`VFIO_DEVICE_SET_IRQS`).
pub fn wire(device: &File, index: u32, eventfds: &[OwnedFd]) -> io::Result<()> {
    #[repr(C)]
    struct Set {
        argsz: u32,
        flags: u32,
        index: u32,
        start: u32,
        count: u32,
        data: [i32; MAX_VECTORS],
    }
    if eventfds.len() > MAX_VECTORS {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // Action: trigger (bit 5). Data: eventfds (bit 2), or nothing (bit 0) for turning off.
    let flags = 1 << 5 | if eventfds.is_empty() { 1 } else { 4 };
    let count = eventfds.len() as u32;
    let mut set = Set { argsz: 20 + count * 4, flags, index, start: 0, count, data: [-1; 16] };
    set.data.iter_mut().zip(eventfds).for_each(|(slot, fd)| *slot = fd.as_raw_fd());
    // SAFETY: the kernel reads as many bytes as `argsz` says, at most the structure's.
    result(unsafe { libc::ioctl(device.as_raw_fd(), request(10), &raw const set) }).map(drop)
}

/// Resets a function (`VFIO_DEVICE_RESET`).
pub fn reset(device: &File) -> io::Result<()> {
    // SAFETY: takes no argument.
    result(unsafe { libc::ioctl(device.as_raw_fd(), request(11)) }).map(drop)
}

/// The function may read memory (`VFIO_DMA_MAP_FLAG_READ`).
pub const DMA_READ: u32 = 1;
/// The function may write memory (`VFIO_DMA_MAP_FLAG_WRITE`).
pub const DMA_WRITE: u32 = 2;

/// Lets the function reach memory of this process (`VFIO_IOMMU_MAP_DMA`), as `access` says.
///
/// # Safety
/// `[address, address + bytes)` stays mapped, and no Rust reference into it exists, until it is
/// unmapped here or the container is closed: the device reads and writes it whenever it likes.
pub unsafe fn map_dma(
    container: &impl AsRawFd,
    iova: u64,
    address: u64,
    bytes: u64,
    access: u32,
) -> io::Result<()> {
    #[repr(C)]
    struct Map {
        argsz: u32,
        flags: u32,
        vaddr: u64,
        iova: u64,
        size: u64,
    }
    let argsz = size_of::<Map>() as u32;
    let map = Map { argsz, flags: access, vaddr: address, iova, size: bytes };
    // SAFETY: the kernel reads one structure; what it is about is the caller's promise.
    result(unsafe { libc::ioctl(container.as_raw_fd(), request(13), &raw const map) }).map(drop)
}

/// Takes memory away from the function again (`VFIO_IOMMU_UNMAP_DMA`).
pub fn unmap_dma(container: &impl AsRawFd, iova: u64, bytes: u64) -> io::Result<()> {
    #[repr(C)]
    struct Unmap {
        argsz: u32,
        flags: u32,
        iova: u64,
        size: u64,
    }
    let mut unmap = Unmap { argsz: size_of::<Unmap>() as u32, flags: 0, iova, size: bytes };
    // SAFETY: the kernel reads and writes one structure of the size that `argsz` says.
    result(unsafe { libc::ioctl(container.as_raw_fd(), request(14), &raw mut unmap) }).map(drop)
}
