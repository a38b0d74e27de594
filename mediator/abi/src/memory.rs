//! Access to memory that the other side may rewrite at any instant.
//!
//! Whoever owns a mapping (a front end, the guest driver's transport) implements [`SharedMemory`];
//! everything above it, rings included, is safe code that copies out of it and never holds a
//! reference into it.

/// An access that does not lie wholly inside the memory, or a word access that is misaligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfBounds {
    /// Byte offset of the refused access.
    pub offset: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

/// Memory shared with an untrusted peer, addressed by byte offset.
///
/// Word accesses are single atomic accesses, little endian, aligned to their size: loads acquire,
/// stores release. Bulk accesses are volatile copies with no atomicity. Every method checks bounds.
pub trait SharedMemory {
    /// Size in bytes. Constant for the life of the value.
    fn size(&self) -> u64;
    /// Loads the aligned 32-bit word at `offset` (acquire).
    fn load32(&self, offset: u64) -> Result<u32, OutOfBounds>;
    /// Stores the aligned 32-bit word at `offset` (release).
    fn store32(&self, offset: u64, value: u32) -> Result<(), OutOfBounds>;
    /// Loads the aligned 64-bit word at `offset` (acquire).
    fn load64(&self, offset: u64) -> Result<u64, OutOfBounds>;
    /// Stores the aligned 64-bit word at `offset` (release).
    fn store64(&self, offset: u64, value: u64) -> Result<(), OutOfBounds>;
    /// Copies `into.len()` bytes out, each read once.
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), OutOfBounds>;
    /// Copies `from` in.
    fn write(&self, offset: u64, from: &[u8]) -> Result<(), OutOfBounds>;
}

macro_rules! forwarded {
    ($pointer:ty) => {
        impl<M: SharedMemory + ?Sized> SharedMemory for $pointer {
            #[inline]
            fn size(&self) -> u64 {
                (**self).size()
            }
            #[inline]
            fn load32(&self, offset: u64) -> Result<u32, OutOfBounds> {
                (**self).load32(offset)
            }
            #[inline]
            fn store32(&self, offset: u64, value: u32) -> Result<(), OutOfBounds> {
                (**self).store32(offset, value)
            }
            #[inline]
            fn load64(&self, offset: u64) -> Result<u64, OutOfBounds> {
                (**self).load64(offset)
            }
            #[inline]
            fn store64(&self, offset: u64, value: u64) -> Result<(), OutOfBounds> {
                (**self).store64(offset, value)
            }
            #[inline]
            fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), OutOfBounds> {
                (**self).read(offset, into)
            }
            #[inline]
            fn write(&self, offset: u64, from: &[u8]) -> Result<(), OutOfBounds> {
                (**self).write(offset, from)
            }
        }
    };
}

forwarded!(&M);
#[cfg(feature = "alloc")]
forwarded!(alloc::sync::Arc<M>);

/// Whether `[offset, offset + bytes)` lies inside `[0, size)`, without wrapping.
#[must_use]
pub const fn contains(size: u64, offset: u64, bytes: u64) -> bool {
    match offset.checked_add(bytes) {
        Some(end) => end <= size,
        None => false,
    }
}

/// [`contains`] as a check: the error names the refused range.
pub const fn check(size: u64, offset: u64, bytes: u64) -> Result<(), OutOfBounds> {
    if contains(size, offset, bytes) { Ok(()) } else { Err(OutOfBounds { offset, bytes }) }
}
