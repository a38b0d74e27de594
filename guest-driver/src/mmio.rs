//! Registers and aperture behind raw mappings: for bare-metal guests and for VFIO.
//!
//! The one module of the driver with unsafe code. It owns no mapping; whoever makes a value here
//! promises that the mapping stays.
#![allow(unsafe_code)]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use turnstile_abi::memory::{OutOfBounds, SharedMemory, check};

/// BAR0, mapped at an address.
#[derive(Debug)]
pub struct Registers {
    base: *mut u8,
    bytes: u64,
}

// SAFETY: registers are reached by single accesses only, each complete in itself, so threads that
// share the address share no Rust value.
unsafe impl Send for Registers {}
// SAFETY: as for Send.
unsafe impl Sync for Registers {}

impl Registers {
    /// Takes a mapping of BAR0 over.
    ///
    /// # Safety
    /// `base` is aligned to a page and maps `bytes` of device registers, readable and writable, for
    /// as long as the value lives.
    #[must_use]
    pub const unsafe fn new(base: *mut u8, bytes: u64) -> Registers {
        Registers { base, bytes }
    }

    /// Reads `bytes` (1, 2, 4 or 8) at `at` in one access. Another width, or what lies outside,
    /// reads as all-ones. On x86-64 the access may be unaligned; elsewhere that reads as all-ones.
    #[must_use]
    pub fn read(&self, at: u64, bytes: u8) -> u64 {
        if check(self.bytes, at, bytes.into()).is_err() {
            return u64::MAX;
        }
        let address = self.base.wrapping_add(at as usize);
        // SAFETY: the range was just checked to lie in the mapping that `new` was promised.
        unsafe { access::load(address, bytes) }
    }

    /// Writes the low `bytes` (1, 2, 4 or 8) of `value` at `at` in one access. Another width, or
    /// what lies outside, is dropped.
    pub fn write(&self, at: u64, bytes: u8, value: u64) {
        if check(self.bytes, at, bytes.into()).is_ok() {
            let address = self.base.wrapping_add(at as usize);
            // SAFETY: the range was just checked to lie in the mapping that `new` was promised.
            unsafe { access::store(address, bytes, value) }
        }
    }
}

/// One access of a given width, as one plain move: the form that every hypervisor emulates, and
/// that may be unaligned.
#[cfg(target_arch = "x86_64")]
mod access {
    use core::arch::asm;

    /// # Safety
    /// `at` maps `bytes` of device registers.
    pub(super) unsafe fn load(at: *const u8, bytes: u8) -> u64 {
        let (narrow, wide): (u32, u64);
        // SAFETY: each move reads `bytes` at `at`, which the caller vouches for, and nothing else.
        unsafe {
            match bytes {
                1 => {
                    asm!("movzx {0:e}, byte ptr [{1}]", out(reg) narrow, in(reg) at, options(nostack, preserves_flags))
                }
                2 => {
                    asm!("movzx {0:e}, word ptr [{1}]", out(reg) narrow, in(reg) at, options(nostack, preserves_flags))
                }
                4 => {
                    asm!("mov {0:e}, dword ptr [{1}]", out(reg) narrow, in(reg) at, options(nostack, preserves_flags))
                }
                8 => {
                    asm!("mov {0}, qword ptr [{1}]", out(reg) wide, in(reg) at, options(nostack, preserves_flags));
                    return wide;
                }
                _ => return u64::MAX,
            }
        }
        narrow.into()
    }

    /// # Safety
    /// `at` maps `bytes` of device registers.
    pub(super) unsafe fn store(at: *mut u8, bytes: u8, value: u64) {
        // SAFETY: each move writes `bytes` at `at`, which the caller vouches for, and nothing else.
        unsafe {
            match bytes {
                1 => {
                    asm!("mov byte ptr [{0}], {1}", in(reg) at, in(reg_byte) value as u8, options(nostack, preserves_flags))
                }
                2 => {
                    asm!("mov word ptr [{0}], {1:x}", in(reg) at, in(reg) value as u16, options(nostack, preserves_flags))
                }
                4 => {
                    asm!("mov dword ptr [{0}], {1:e}", in(reg) at, in(reg) value as u32, options(nostack, preserves_flags))
                }
                8 => {
                    asm!("mov qword ptr [{0}], {1}", in(reg) at, in(reg) value, options(nostack, preserves_flags))
                }
                _ => {}
            }
        }
    }
}

/// One volatile access of a given width, aligned.
#[cfg(not(target_arch = "x86_64"))]
mod access {
    /// # Safety
    /// `at` maps `bytes` of device registers.
    pub(super) unsafe fn load(at: *const u8, bytes: u8) -> u64 {
        if bytes == 0 || !(at as usize).is_multiple_of(bytes.into()) {
            return u64::MAX;
        }
        // SAFETY: mapped as the caller vouches, and aligned as just checked.
        unsafe {
            match bytes {
                1 => at.read_volatile().into(),
                2 => at.cast::<u16>().read_volatile().into(),
                4 => at.cast::<u32>().read_volatile().into(),
                8 => at.cast::<u64>().read_volatile(),
                _ => u64::MAX,
            }
        }
    }

    /// # Safety
    /// `at` maps `bytes` of device registers.
    pub(super) unsafe fn store(at: *mut u8, bytes: u8, value: u64) {
        if bytes == 0 || !(at as usize).is_multiple_of(bytes.into()) {
            return;
        }
        // SAFETY: mapped as the caller vouches, and aligned as just checked.
        unsafe {
            match bytes {
                1 => at.write_volatile(value as u8),
                2 => at.cast::<u16>().write_volatile(value as u16),
                4 => at.cast::<u32>().write_volatile(value as u32),
                8 => at.cast::<u64>().write_volatile(value),
                _ => {}
            }
        }
    }
}

/// Memory shared with a device, mapped at an address: an aperture, or pages for DMA.
#[derive(Debug)]
pub struct Memory {
    base: *mut u8,
    bytes: u64,
}

// SAFETY: the memory is reached by atomic and volatile accesses only and never lent out as a Rust
// reference, so threads that share the address share no Rust value.
unsafe impl Send for Memory {}
// SAFETY: as for Send.
unsafe impl Sync for Memory {}

impl Memory {
    /// Takes a mapping over.
    ///
    /// # Safety
    /// `base` is aligned to 8 bytes and maps `bytes` of memory, readable and writable, for as long
    /// as the value lives; no Rust reference into it exists meanwhile. Others may change it.
    #[must_use]
    pub const unsafe fn new(base: *mut u8, bytes: u64) -> Memory {
        Memory { base, bytes }
    }

    /// The address of an aligned word.
    fn word(&self, offset: u64, bytes: u64) -> Result<*mut u8, OutOfBounds> {
        check(self.bytes, offset, bytes)?;
        if offset.is_multiple_of(bytes) {
            Ok(self.base.wrapping_add(offset as usize))
        } else {
            Err(OutOfBounds { offset, bytes })
        }
    }

    fn word32(&self, offset: u64) -> Result<&AtomicU32, OutOfBounds> {
        // SAFETY: in bounds and aligned, as `word` checked; alive as `new` was promised; memory of
        // a mapping is only ever reached through atomics or volatile accesses.
        self.word(offset, 4).map(|at| unsafe { AtomicU32::from_ptr(at.cast()) })
    }

    fn word64(&self, offset: u64) -> Result<&AtomicU64, OutOfBounds> {
        // SAFETY: as in `word32`.
        self.word(offset, 8).map(|at| unsafe { AtomicU64::from_ptr(at.cast()) })
    }
}

impl SharedMemory for Memory {
    fn size(&self) -> u64 {
        self.bytes
    }
    fn load32(&self, offset: u64) -> Result<u32, OutOfBounds> {
        Ok(u32::from_le(self.word32(offset)?.load(Ordering::Acquire)))
    }
    fn store32(&self, offset: u64, value: u32) -> Result<(), OutOfBounds> {
        self.word32(offset)?.store(value.to_le(), Ordering::Release);
        Ok(())
    }
    fn load64(&self, offset: u64) -> Result<u64, OutOfBounds> {
        Ok(u64::from_le(self.word64(offset)?.load(Ordering::Acquire)))
    }
    fn store64(&self, offset: u64, value: u64) -> Result<(), OutOfBounds> {
        self.word64(offset)?.store(value.to_le(), Ordering::Release);
        Ok(())
    }
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), OutOfBounds> {
        check(self.bytes, offset, into.len() as u64)?;
        let mut at = self.base.wrapping_add(offset as usize);
        let (head, body) = split(at, into.len());
        let (first, rest) = into.split_at_mut(head);
        let (words, last) = rest.split_at_mut(body);
        for byte in first {
            // SAFETY: `into.len()` bytes from `offset` were checked to lie in the mapping.
            *byte = unsafe { at.read_volatile() };
            at = at.wrapping_add(1);
        }
        for word in words.chunks_exact_mut(8) {
            // SAFETY: as above, and `split` made `at` a multiple of 8 here.
            word.copy_from_slice(&unsafe { at.cast::<u64>().read_volatile() }.to_ne_bytes());
            at = at.wrapping_add(8);
        }
        for byte in last {
            // SAFETY: as for the first bytes.
            *byte = unsafe { at.read_volatile() };
            at = at.wrapping_add(1);
        }
        Ok(())
    }
    fn write(&self, offset: u64, from: &[u8]) -> Result<(), OutOfBounds> {
        check(self.bytes, offset, from.len() as u64)?;
        let mut at = self.base.wrapping_add(offset as usize);
        let (head, body) = split(at, from.len());
        let (first, rest) = from.split_at(head);
        let (words, last) = rest.split_at(body);
        for &byte in first {
            // SAFETY: `from.len()` bytes from `offset` were checked to lie in the mapping.
            unsafe { at.write_volatile(byte) };
            at = at.wrapping_add(1);
        }
        for chunk in words.chunks_exact(8) {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            // SAFETY: as above, and `split` made `at` a multiple of 8 here.
            unsafe { at.cast::<u64>().write_volatile(u64::from_ne_bytes(word)) };
            at = at.wrapping_add(8);
        }
        for &byte in last {
            // SAFETY: as for the first bytes.
            unsafe { at.write_volatile(byte) };
            at = at.wrapping_add(1);
        }
        Ok(())
    }
}

/// Bytes before the first aligned word of `[at, at + bytes)`, and bytes in whole words after that.
fn split(at: *const u8, bytes: usize) -> (usize, usize) {
    let head = (at as usize).wrapping_neg() % 8;
    let head = head.min(bytes);
    (head, (bytes - head) / 8 * 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    #[test]
    fn copies_of_every_alignment_and_length_are_exact() {
        let mut backing = vec![0_u64; 16];
        // SAFETY: the vector outlives the value and is not touched otherwise until it is gone.
        let memory = unsafe { Memory::new(backing.as_mut_ptr().cast(), 128) };
        for offset in 0..24 {
            for bytes in 0..40 {
                let pattern: vec::Vec<u8> = (0..bytes).map(|i| (i + offset + 1) as u8).collect();
                memory.write(0, &[0; 128]).unwrap();
                memory.write(offset, &pattern).unwrap();
                let mut all = [0; 128];
                memory.read(0, &mut all).unwrap();
                let end = offset as usize + bytes as usize;
                assert_eq!(all[offset as usize..end], pattern[..]);
                assert!(all[..offset as usize].iter().chain(&all[end..]).all(|&b| b == 0));
                let mut back = vec![0; bytes as usize];
                memory.read(offset, &mut back).unwrap();
                assert_eq!(back, pattern);
            }
        }
        assert!(memory.load32(126).is_err() && memory.load32(2).is_err());
        assert!(memory.store64(128, 0).is_err() && memory.store64(4, 0).is_err());
        assert!(memory.read(u64::MAX, &mut [0; 2]).is_err() && memory.write(127, &[0; 2]).is_err());
        memory.store64(8, 0x0807_0605_0403_0201).unwrap();
        assert_eq!(memory.load32(12), Ok(0x0807_0605));
    }

    #[test]
    fn registers_of_every_width_and_nothing_outside() {
        let mut backing = vec![0x8877_6655_4433_2211_u64; 2];
        // SAFETY: the vector outlives the value and is not touched otherwise until it is gone.
        let registers = unsafe { Registers::new(backing.as_mut_ptr().cast(), 16) };
        assert_eq!(registers.read(0, 1), 0x11);
        assert_eq!(registers.read(2, 2), 0x4433);
        assert_eq!(registers.read(4, 4), 0x8877_6655);
        assert_eq!(registers.read(8, 8), 0x8877_6655_4433_2211);
        assert_eq!(registers.read(16, 1), u64::MAX);
        assert_eq!(registers.read(u64::MAX, 4), u64::MAX);
        assert_eq!(registers.read(0, 3), u64::MAX);
        registers.write(1, 1, 0xaa);
        registers.write(2, 2, 0xbbbb);
        registers.write(4, 4, 0xcccc_cccc);
        registers.write(8, 8, 1);
        registers.write(16, 8, 1);
        registers.write(0, 5, 1);
        assert_eq!((registers.read(0, 8), registers.read(8, 8)), (0xcccc_cccc_bbbb_aa11, 1));
    }
}
