//! Host memory in a worker: regions known by descriptor, and the pieces of them that are registered for
//! DMA. Nothing else of a region is ever mapped here, so nothing else can be touched.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::c_void;
use std::os::fd::OwnedFd;
use std::ptr::null_mut;

use rustix::mm::{MapFlags, ProtFlags};

use crate::driver::{DevicePtr, DriverError, Gpu};

/// Pages of host memory, in bytes.
const PAGE: u64 = 4096;

/// Why host memory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostError {
    /// The daemon named a region it never handed over.
    #[error("memory {0} was never handed over")]
    Unknown(u32),
    /// A piece is no whole number of pages, or there is none.
    #[error("a piece at {offset} of {bytes} bytes is no whole number of pages")]
    Unaligned {
        /// Offset in the file.
        offset: u64,
        /// Length.
        bytes: u64,
    },
    /// The kernel refused a mapping.
    #[error("mapping: {0}")]
    Map(#[from] rustix::io::Errno),
    /// The driver refused to register it.
    #[error(transparent)]
    Driver(#[from] DriverError),
}

/// A piece of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    pub(crate) memory: u32,
    /// Offset in the file.
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// The regions the daemon handed over.
#[derive(Default)]
pub(crate) struct Memory(HashMap<u32, OwnedFd>);

impl Memory {
    pub(crate) fn add(&mut self, id: u32, fd: OwnedFd) {
        self.0.insert(id, fd);
    }

    pub(crate) fn forget(&mut self, id: u32) {
        self.0.remove(&id);
    }

    /// Registers the pages around a range that need not begin or end at a page. Returns how far into them it begins.
    pub(crate) fn register_around(
        &self,
        gpu: &Gpu,
        slice: Slice,
    ) -> Result<(Registered, u64), HostError> {
        let Slice { memory, offset, bytes } = slice;
        let skip = offset % PAGE;
        let around = (skip + bytes.max(1)).checked_next_multiple_of(PAGE);
        let bytes = around.ok_or(HostError::Unaligned { offset, bytes })?;
        let pages = Slice { memory, offset: offset - skip, bytes };
        Ok((self.register(gpu, &[pages])?, skip))
    }

    /// Maps pieces one behind the other and registers the whole, so that a copy is one copy however many
    /// pieces it crosses.
    pub(crate) fn register(&self, gpu: &Gpu, pieces: &[Slice]) -> Result<Registered, HostError> {
        let mut bytes = 0_u64;
        for piece in pieces {
            let Slice { offset, bytes: length, .. } = *piece;
            let whole = offset % PAGE == 0 && length % PAGE == 0 && length > 0;
            bytes = bytes
                .checked_add(length)
                .filter(|_| whole)
                .ok_or(HostError::Unaligned { offset, bytes: length })?;
        }
        if bytes == 0 {
            return Err(HostError::Unaligned { offset: 0, bytes: 0 });
        }
        let mapping = Mapping::reserve(bytes)?;
        let mut at = 0;
        for run in runs(pieces) {
            let fd = self.0.get(&run.memory).ok_or(HostError::Unknown(run.memory))?;
            mapping.put(at, fd, run.offset, run.bytes)?;
            at += run.bytes;
        }
        // SAFETY: the mapping is page aligned, shared memory, and goes only after `unregister` (see `Registered`).
        let device = unsafe { gpu.register(mapping.start.cast(), bytes) }?;
        Ok(Registered { gpu: *gpu, mapping, device, bytes })
    }
}

/// Pieces that follow each other in one file are one mapping.
fn runs(pieces: &[Slice]) -> Vec<Slice> {
    let mut runs: Vec<Slice> = Vec::new();
    for piece in pieces {
        match runs.last_mut() {
            Some(last)
                if last.memory == piece.memory && last.offset + last.bytes == piece.offset =>
            {
                last.bytes += piece.bytes;
            }
            _ => runs.push(*piece),
        }
    }
    runs
}

/// A range of this process's addresses, unmapped when dropped.
struct Mapping {
    start: *mut u8,
    bytes: u64,
}

// SAFETY: a range of addresses; whoever uses it goes by the driver, which any thread may call.
unsafe impl Send for Mapping {}

impl Mapping {
    fn reserve(bytes: u64) -> Result<Mapping, HostError> {
        let length = usize::try_from(bytes).map_err(|_| rustix::io::Errno::NOMEM)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new range at an address of the kernel's choice replaces nothing.
        let start =
            unsafe { rustix::mm::mmap_anonymous(null_mut(), length, ProtFlags::empty(), flags) }?;
        Ok(Mapping { start: start.cast(), bytes })
    }

    /// Maps a piece of a file at an offset of the range.
    fn put(&self, at: u64, fd: &OwnedFd, offset: u64, bytes: u64) -> Result<(), HostError> {
        debug_assert!(at + bytes <= self.bytes);
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: the place lies in our own reservation, so it replaces nothing but that.
        unsafe {
            let place = self.start.add(at as usize).cast::<c_void>();
            rustix::mm::mmap(place, bytes as usize, access, flags, fd, offset)?;
        }
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own reservation; nothing refers to it any more.
        let _ = unsafe { rustix::mm::munmap(self.start.cast(), self.bytes as usize) };
    }
}

/// Host memory that is registered, until it is [`end`](Self::end)ed.
pub(crate) struct Registered {
    gpu: Gpu,
    mapping: Mapping,
    /// Where copies (and kernels of a tenant without a guard) reach it.
    pub(crate) device: DevicePtr,
    pub(crate) bytes: u64,
}

impl Registered {
    /// Zeroes `bytes` at `offset`.
    pub(crate) fn zero(&self, offset: u64, bytes: u64) {
        if offset.checked_add(bytes).is_some_and(|end| end <= self.bytes) {
            // SAFETY: inside our mapping, which is writable; nobody relies on what it holds.
            unsafe { self.mapping.start.add(offset as usize).write_bytes(0, bytes as usize) };
        }
    }

    /// Unregisters and unmaps it. Nothing under way uses it.
    pub(crate) fn end(self) -> Result<(), DriverError> {
        let Registered { gpu, mapping, .. } = self;
        // SAFETY: registered in `Memory::register`; the mediator has no command open that names it.
        let result = unsafe { gpu.unregister(mapping.start.cast()) };
        drop(mapping);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_that_follow_each_other_are_one_run() {
        let piece = |memory, offset, bytes| Slice { memory, offset, bytes };
        let pieces =
            [piece(1, 0, 4096), piece(1, 4096, 8192), piece(2, 12_288, 4096), piece(1, 0, 4096)];
        let want = [piece(1, 0, 12_288), piece(2, 12_288, 4096), piece(1, 0, 4096)];
        assert_eq!(runs(&pieces), want);
    }
}
