//! Host memory that tenants share with the mediator: apertures and guest RAM.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, SealFlags};
use turnstile_abi::memory::{OutOfBounds, SharedMemory, check};
use vm_memory::{AtomicInteger, Bytes, FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

/// Why memory cannot be shared.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The kernel refused to create or seal the memfd.
    #[error(
        "cannot create {bytes} bytes of shared memory: {source}; check the memory limit of the process"
    )]
    Create {
        /// Bytes asked for.
        bytes: u64,
        /// The kernel's reason.
        source: rustix::io::Errno,
    },
    /// The kernel refused the mapping.
    #[error("cannot map {bytes} bytes at offset {offset} of shared memory: {reason}")]
    Map {
        /// Offset in the file.
        offset: u64,
        /// Bytes asked for.
        bytes: u64,
        /// The kernel's reason.
        reason: String,
    },
    /// The file could shrink under the mapping, which would kill the daemon with SIGBUS.
    #[error(
        "the memory's file is not sealed against shrinking (F_SEAL_SHRINK); pass a memfd sealed with it"
    )]
    NotSealed,
    /// The range does not lie inside the file.
    #[error("bytes {offset}..+{bytes} lie outside the memory's file of {file_bytes} bytes")]
    Beyond {
        /// Offset asked for.
        offset: u64,
        /// Length asked for.
        bytes: u64,
        /// Size of the file.
        file_bytes: u64,
    },
}

/// A region of host memory that a backend may be told about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemoryId(pub u32);

/// A contiguous part of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Piece {
    /// The region.
    pub memory: MemoryId,
    /// Byte offset in it.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// Memory shared with a tenant: a mapped range of a file that cannot shrink.
///
/// The tenant may rewrite it at any instant, so it is only ever reached through [`SharedMemory`]
/// (volatile and atomic accesses) or, in a backend, through raw pointers with the same discipline.
#[derive(Debug)]
pub struct SharedRegion {
    mapping: MmapRegion,
    file: File,
    offset: u64,
}

impl SharedRegion {
    /// Creates `bytes` of zeroed memory in a memfd sealed against resizing.
    pub fn create(name: &str, bytes: u64) -> Result<SharedRegion, MemoryError> {
        let failed = |source| MemoryError::Create { bytes, source };
        let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(failed)?;
        rustix::fs::ftruncate(&fd, bytes).map_err(failed)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .map_err(failed)?;
        SharedRegion::map(fd, 0, bytes)
    }

    /// Maps `bytes` at `offset` of a file somebody else made.
    ///
    /// The file must be sealed against shrinking: a tenant that truncates it must not be able to
    /// take the daemon down.
    pub fn map(fd: OwnedFd, offset: u64, bytes: u64) -> Result<SharedRegion, MemoryError> {
        let seals = rustix::fs::fcntl_get_seals(&fd).unwrap_or(SealFlags::empty());
        if !seals.contains(SealFlags::SHRINK) {
            return Err(MemoryError::NotSealed);
        }
        SharedRegion::map_unsealed(fd, offset, bytes)
    }

    /// Like [`map`](Self::map) for a file that may shrink. Only for a caller that survives SIGBUS
    /// on this memory, or that owns the file.
    pub fn map_unsealed(fd: OwnedFd, offset: u64, bytes: u64) -> Result<SharedRegion, MemoryError> {
        let file = File::from(fd);
        let file_bytes = file.metadata().map(|m| m.len()).unwrap_or(0);
        if check(file_bytes, offset, bytes).is_err() || bytes == 0 {
            return Err(MemoryError::Beyond { offset, bytes, file_bytes });
        }
        let map_error = |reason: String| MemoryError::Map { offset, bytes, reason };
        let size = usize::try_from(bytes).map_err(|e| map_error(e.to_string()))?;
        let backing = file.try_clone().map_err(|e| map_error(e.to_string()))?;
        let mapping = MmapRegion::from_file(FileOffset::new(backing, offset), size)
            .map_err(|e| map_error(e.to_string()))?;
        Ok(SharedRegion { mapping, file, offset })
    }

    /// The file, to hand to another process or to KVM.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
    /// Where the mapping begins in the file, in bytes.
    #[must_use]
    pub fn file_offset(&self) -> u64 {
        self.offset
    }
    /// The mapping, for code that must hand its address to the kernel or a driver.
    #[must_use]
    pub fn mapping(&self) -> &MmapRegion {
        &self.mapping
    }
    /// The whole region for volatile access.
    #[must_use]
    pub fn slice(&self) -> VolatileSlice<'_> {
        self.mapping.as_volatile_slice()
    }
    /// The aligned word at `offset`. Inlined with the access that follows: rings live on these.
    #[inline]
    fn word<T: AtomicInteger>(&self, offset: u64) -> Result<&T, OutOfBounds> {
        let bytes = size_of::<T>() as u64;
        check(self.size(), offset, bytes)?;
        // CAST: the offset lies inside a mapping, whose size is a usize.
        self.mapping.get_atomic_ref::<T>(offset as usize).map_err(|_| OutOfBounds { offset, bytes })
    }
    /// Zeroes a range.
    pub fn zero(&self, offset: u64, bytes: u64) -> Result<(), OutOfBounds> {
        check(self.size(), offset, bytes)?;
        const ZEROES: [u8; 4096] = [0; 4096];
        let mut at = offset;
        let end = offset + bytes;
        while at < end {
            let step = (end - at).min(4096);
            self.write(at, &ZEROES[..step as usize])?;
            at += step;
        }
        Ok(())
    }
}

impl SharedMemory for SharedRegion {
    #[inline]
    fn size(&self) -> u64 {
        self.mapping.size() as u64
    }
    #[inline]
    fn load32(&self, offset: u64) -> Result<u32, OutOfBounds> {
        Ok(u32::from_le(self.word::<AtomicU32>(offset)?.load(Ordering::Acquire)))
    }
    #[inline]
    fn store32(&self, offset: u64, value: u32) -> Result<(), OutOfBounds> {
        self.word::<AtomicU32>(offset)?.store(value.to_le(), Ordering::Release);
        Ok(())
    }
    #[inline]
    fn load64(&self, offset: u64) -> Result<u64, OutOfBounds> {
        Ok(u64::from_le(self.word::<AtomicU64>(offset)?.load(Ordering::Acquire)))
    }
    #[inline]
    fn store64(&self, offset: u64, value: u64) -> Result<(), OutOfBounds> {
        self.word::<AtomicU64>(offset)?.store(value.to_le(), Ordering::Release);
        Ok(())
    }
    #[inline]
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), OutOfBounds> {
        check(self.size(), offset, into.len() as u64)?;
        let bytes = into.len() as u64;
        self.slice().read_slice(into, offset as usize).map_err(|_| OutOfBounds { offset, bytes })
    }
    #[inline]
    fn write(&self, offset: u64, from: &[u8]) -> Result<(), OutOfBounds> {
        check(self.size(), offset, from.len() as u64)?;
        let bytes = from.len() as u64;
        self.slice().write_slice(from, offset as usize).map_err(|_| OutOfBounds { offset, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_bounded_and_aligned() {
        let region = SharedRegion::create("test", 8192).unwrap();
        region.store32(8188, 7).unwrap();
        assert_eq!(region.load32(8188), Ok(7));
        assert!(region.load32(8189).is_err());
        assert!(region.load64(8188).is_err());
        assert!(region.store32(2, 1).is_err(), "misaligned");
        assert!(region.read(u64::MAX, &mut [0; 2]).is_err());
        assert!(region.write(8191, &[1, 2]).is_err());
        region.write(4095, &[0xff; 2]).unwrap();
        region.zero(4095, 1).unwrap();
        let mut two = [1; 2];
        region.read(4095, &mut two).unwrap();
        assert_eq!(two, [0, 0xff]);
    }

    #[test]
    fn a_file_that_can_shrink_is_refused() {
        let fd = rustix::fs::memfd_create("t", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&fd, 4096).unwrap();
        assert!(matches!(SharedRegion::map(fd, 0, 4096), Err(MemoryError::NotSealed)));
        let region = SharedRegion::create("t", 4096).unwrap();
        let fd = region.fd().try_clone_to_owned().unwrap();
        assert!(rustix::fs::ftruncate(&fd, 0).is_err());
        assert!(matches!(SharedRegion::map(fd, 4096, 1), Err(MemoryError::Beyond { .. })));
    }
}
