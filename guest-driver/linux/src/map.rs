//! Mappings: of BARs, and of memory for DMA.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use turnstile_driver::mmio::{Memory, Registers};

/// A mapping, unmapped when dropped.
#[derive(Debug)]
struct Mapping {
    at: NonNull<c_void>,
    bytes: usize,
}

// SAFETY: the value only owns the address range; nothing is reached through it except by Registers
// and Memory, which say themselves why they may be shared.
unsafe impl Send for Mapping {}
// SAFETY: as for Send.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn of(fd: impl AsFd, offset: u64, bytes: u64) -> io::Result<Mapping> {
        let bytes = usize::try_from(bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing one.
        let at = unsafe {
            mmap(std::ptr::null_mut(), bytes, prot, MapFlags::SHARED, fd.as_fd(), offset)
        }?;
        NonNull::new(at).map(|at| Mapping { at, bytes }).ok_or(io::ErrorKind::OutOfMemory.into())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is this value's own mapping, and whoever reaches into it lives in the
        // same struct and goes with it.
        let _ = unsafe { munmap(self.at.as_ptr(), self.bytes) };
    }
}

/// BAR0, mapped.
#[derive(Debug)]
pub struct MappedRegisters {
    registers: Registers,
    _mapping: Mapping,
}

impl MappedRegisters {
    /// Maps `bytes` at `offset` of a file that is device registers.
    ///
    /// # Errors
    /// The kernel's.
    pub fn map(fd: impl AsFd, offset: u64, bytes: u64) -> io::Result<MappedRegisters> {
        let mapping = Mapping::of(fd, offset, bytes)?;
        // SAFETY: page-aligned, readable and writable for `bytes`, and mapped until this struct,
        // which does not give the registers away, is dropped.
        let registers = unsafe { Registers::new(mapping.at.as_ptr().cast(), bytes) };
        Ok(MappedRegisters { registers, _mapping: mapping })
    }
    /// The registers.
    #[must_use]
    pub fn get(&self) -> &Registers {
        &self.registers
    }
}

/// Memory shared with the device, mapped.
#[derive(Debug)]
pub struct MappedMemory {
    memory: Memory,
    mapping: Mapping,
}

impl MappedMemory {
    /// Maps `bytes` at `offset` of a file that is memory of a device.
    ///
    /// # Errors
    /// The kernel's.
    pub fn map(fd: impl AsFd, offset: u64, bytes: u64) -> io::Result<MappedMemory> {
        Ok(MappedMemory::over(Mapping::of(fd, offset, bytes)?, bytes))
    }

    /// Takes `bytes` of new zeroed memory, present from the start.
    ///
    /// # Errors
    /// The kernel's.
    pub fn anonymous(bytes: u64) -> io::Result<MappedMemory> {
        let length = usize::try_from(bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing one.
        let at = unsafe { mmap_anonymous(std::ptr::null_mut(), length, prot, flags) }?;
        let at = NonNull::new(at).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(MappedMemory::over(Mapping { at, bytes: length }, bytes))
    }

    fn over(mapping: Mapping, bytes: u64) -> MappedMemory {
        // SAFETY: page-aligned, readable and writable for `bytes`, and mapped until this struct,
        // which does not give the memory away, is dropped; no reference into it exists.
        let memory = unsafe { Memory::new(mapping.at.as_ptr().cast(), bytes) };
        MappedMemory { memory, mapping }
    }

    /// The memory.
    #[must_use]
    pub fn get(&self) -> &Memory {
        &self.memory
    }
    /// Its address in this process, for the kernel.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.mapping.at.as_ptr() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use turnstile_abi::memory::SharedMemory;

    #[test]
    fn memory_is_zeroed_and_bounded() {
        let memory = MappedMemory::anonymous(8192).unwrap();
        assert_eq!(memory.get().load64(8184), Ok(0));
        memory.get().store32(8188, 7).unwrap();
        assert!(memory.get().load32(8192).is_err());
        assert_eq!(memory.address() % 4096, 0);
    }
}
