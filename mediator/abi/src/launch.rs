//! Operands of a kernel launch.

/// Grid size and dynamic shared memory: two operand words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Blocks in x, y, z.
    pub blocks: [u32; 3],
    /// Dynamic shared memory a block, in bytes.
    pub shared_bytes: u32,
}

/// Block size and length of the parameter block: one operand word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Threads in x, y, z.
    pub threads: [u16; 3],
    /// Bytes of kernel parameters ([`MAX_PARAMS`] at most).
    pub params_bytes: u16,
}

/// Relocation count and launch flags: one operand word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extras {
    /// [`Relocation`]s that follow the parameter block ([`MAX_RELOCATIONS`] at most).
    pub relocations: u32,
    /// [`LaunchFlags`] bits; unknown ones are refused.
    pub flags: u32,
}

bitflags::bitflags! {
    /// How to launch.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct LaunchFlags: u32 {
        /// All blocks are resident at once, so they may wait for each other.
        const COOPERATIVE = 1 << 0;
    }
}

/// Largest parameter block, in bytes (CUDA's limit before 12.1).
pub const MAX_PARAMS: u16 = 4096;
/// Most relocations of one launch.
pub const MAX_RELOCATIONS: u32 = 128;

/// "Put the device address of this buffer into the parameters": 24 bytes in the aperture, directly
/// after the parameter block rounded up to 8 bytes. The address never passes through the tenant.
///
/// | bytes | field |
/// |---|---|
/// | 0–3 | offset into the parameter block, a multiple of 8 |
/// | 4–7 | access the kernel needs: bit 0 read, bit 1 write |
/// | 8–15 | buffer handle |
/// | 16–23 | offset into the buffer |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relocation {
    /// Where the address goes in the parameter block.
    pub at: u32,
    /// Rights needed on the buffer: bit 0 read, bit 1 write.
    pub access: u32,
    /// The buffer.
    pub buffer: crate::Handle,
    /// Byte offset added to its address; at most the buffer's size.
    pub offset: u64,
}

impl Relocation {
    /// Size in the aperture, in bytes.
    pub const BYTES: u64 = 24;

    /// Reads a relocation out of a private copy of its bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 24]) -> Relocation {
        let word = |i: usize| {
            let mut w = [0; 8];
            w.copy_from_slice(&bytes[i * 8..i * 8 + 8]);
            u64::from_le_bytes(w)
        };
        Relocation {
            at: word(0) as u32,
            access: (word(0) >> 32) as u32,
            buffer: crate::Handle::from_raw(word(1)),
            offset: word(2),
        }
    }

    /// The bytes as they go into the aperture.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[0..4].copy_from_slice(&self.at.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.access.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.buffer.raw().to_le_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_le_bytes());
        bytes
    }
}

/// Offset of the relocations from the start of a parameter block of `params_bytes`.
#[must_use]
pub const fn relocations_offset(params_bytes: u16) -> u64 {
    (params_bytes as u64).next_multiple_of(8)
}

/// One contiguous piece of guest memory in a `DmaRegister` list: 16 bytes in the aperture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaExtent {
    /// Guest physical address, page aligned.
    pub gpa: u64,
    /// Length in bytes, a non-zero multiple of the page size.
    pub bytes: u64,
}

impl DmaExtent {
    /// Size in the aperture, in bytes.
    pub const BYTES: u64 = 16;
    /// Most extents of one region.
    pub const MAX: u64 = 4096;

    /// Reads an extent out of a private copy of its bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 16]) -> DmaExtent {
        let (mut gpa, mut len) = ([0; 8], [0; 8]);
        gpa.copy_from_slice(&bytes[..8]);
        len.copy_from_slice(&bytes[8..]);
        DmaExtent { gpa: u64::from_le_bytes(gpa), bytes: u64::from_le_bytes(len) }
    }

    /// The bytes as they go into the aperture.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.gpa.to_le_bytes());
        bytes[8..].copy_from_slice(&self.bytes.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Handle, Kind};

    #[test]
    fn golden_relocation() {
        let r =
            Relocation { at: 8, access: 3, buffer: Handle::new(Kind::Buffer, 1, 1), offset: 0x40 };
        let bytes = r.to_bytes();
        assert_eq!(bytes[..8], *b"\x08\0\0\0\x03\0\0\0");
        assert_eq!(bytes[8..16], *b"\x01\0\0\x01\0\0\0\x02");
        assert_eq!(Relocation::from_bytes(&bytes), r);
        assert_eq!(relocations_offset(13), 16);
    }
}
