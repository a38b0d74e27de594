//! The one place of this crate that touches raw memory: segments of bytes that other threads, the guest or another
//! process may change at any instant.
//!
//! A [`Segment`] never hands out a reference to its bytes. It copies in and out with relaxed atomic accesses, so a
//! concurrent writer gives an old or a new value, never undefined behaviour. Bounds and alignment are checked here, in
//! safe functions; callers above add permissions and name faults. It does not know addresses, regions or tenants.
//!
//! Ownership: a segment keeps its bytes alive through an `Arc` of whoever allocated or mapped them.
#![allow(unsafe_code)]

mod block;
mod checked;
#[cfg(test)]
mod tests;
mod wide;

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

pub(crate) use checked::{Checked, fold};

/// Lanes of a warp.
pub(crate) const LANES: usize = 32;

/// Host alignment of every segment's first byte, in bytes: what the widest single access needs.
const HOST_ALIGN: usize = 16;

/// Bytes copied at a time.
const CHUNK: usize = 16 << 10;

/// A range of bytes somebody else may change at any time.
#[derive(Clone)]
pub struct Segment {
    base: NonNull<u8>,
    len: u64,
    /// Keeps `base..base + len` valid; never looked at.
    _owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the bytes are only reached through atomic accesses, and the owner is itself Send + Sync.
unsafe impl Send for Segment {}
// SAFETY: as above; a shared reference gives no way to the bytes but atomic accesses.
unsafe impl Sync for Segment {}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Segment").field("len", &self.len).finish_non_exhaustive()
    }
}

/// An own allocation, freed with its last segment.
struct Allocation {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the allocation is plain memory; nothing about it belongs to one thread.
unsafe impl Send for Allocation {}
// SAFETY: as above, and `Allocation` gives no access at all.
unsafe impl Sync for Allocation {}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: `base` came from `alloc_zeroed` with this very layout, and every segment that could reach it is gone.
        unsafe { dealloc(self.base.as_ptr(), self.layout) }
    }
}

/// A value that one atomic access moves.
pub(crate) trait Cell: Copy + Default {
    /// Its size in bytes.
    const SIZE: u64;
    /// Loads it.
    ///
    /// # Safety
    /// `at` is valid for reads of `SIZE` bytes and aligned to `SIZE`.
    unsafe fn load(at: *mut u8) -> Self;
    /// Stores it.
    ///
    /// # Safety
    /// `at` is valid for writes of `SIZE` bytes and aligned to `SIZE`.
    unsafe fn store(at: *mut u8, value: Self);
}

macro_rules! cell {
    ($($int:ty, $atomic:ty);*) => {$(
        impl Cell for $int {
            const SIZE: u64 = size_of::<$int>() as u64;
            #[inline(always)]
            unsafe fn load(at: *mut u8) -> Self {
                // SAFETY: the caller promises validity and alignment; concurrent accesses are atomic as well.
                unsafe { <$atomic>::from_ptr(at.cast()) }.load(Ordering::Relaxed)
            }
            #[inline(always)]
            unsafe fn store(at: *mut u8, value: Self) {
                // SAFETY: the caller promises validity and alignment; concurrent accesses are atomic as well.
                unsafe { <$atomic>::from_ptr(at.cast()) }.store(value, Ordering::Relaxed)
            }
        }
    )*};
}
cell!(u8, AtomicU8; u16, AtomicU16; u32, AtomicU32; u64, AtomicU64);

impl Segment {
    /// Allocates `len` zero bytes. `None` when the host has no memory or `len` is zero or absurd.
    pub fn zeroed(len: u64) -> Option<Self> {
        // Room for one access of the widest kind, so that a tiny segment still has an aligned base.
        let size = usize::try_from(len).ok().filter(|&n| n > 0)?;
        let layout = Layout::from_size_align(size, HOST_ALIGN).ok()?;
        // SAFETY: the layout has a size above zero.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Self { base, len, _owner: Arc::new(Allocation { base, layout }) })
    }

    /// Wraps memory that `owner` keeps valid. `None` when `base` is null or not aligned to 16 bytes.
    ///
    /// # Safety
    /// `base..base + len` stays mapped, readable and writable, as long as `owner` lives, and every other access to it
    /// from this process is atomic or volatile.
    pub unsafe fn foreign(
        base: *mut u8,
        len: u64,
        owner: Arc<dyn Any + Send + Sync>,
    ) -> Option<Self> {
        let base = NonNull::new(base).filter(|b| b.as_ptr().addr().is_multiple_of(HOST_ALIGN))?;
        isize::try_from(len).ok()?;
        Some(Self { base, len, _owner: owner })
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The host address of its first byte, for compiled code. It is valid as long as a segment of these bytes is.
    pub(crate) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// A part of it, sharing the bytes. `None` when it does not lie inside or would not be aligned to 16 bytes.
    pub fn part(&self, offset: u64, len: u64) -> Option<Self> {
        if offset.checked_add(len)? > self.len || !offset.is_multiple_of(HOST_ALIGN as u64) {
            return None;
        }
        // SAFETY: `offset` is at most `len`, which the constructor's promise covers.
        let base = unsafe { self.base.add(offset as usize) };
        Some(Self { base, len, _owner: self._owner.clone() })
    }

    /// The host address of a byte whose access of `size` bytes is inside and aligned.
    #[inline(always)]
    fn place(&self, offset: u64, size: u64) -> Option<*mut u8> {
        if offset.checked_add(size)? > self.len || !offset.is_multiple_of(size) {
            return None;
        }
        // SAFETY: checked just above to stay inside the segment.
        Some(unsafe { self.base.as_ptr().add(offset as usize) })
    }

    /// Loads one value; `None` outside the segment or misaligned.
    #[inline(always)]
    pub(crate) fn load<T: Cell>(&self, offset: u64) -> Option<T> {
        let at = self.place(offset, T::SIZE)?;
        // SAFETY: `place` checked bounds and alignment (the base is aligned to 16).
        Some(unsafe { T::load(at) })
    }

    /// Stores one value; `None` outside the segment or misaligned.
    #[inline(always)]
    pub(crate) fn store<T: Cell>(&self, offset: u64, value: T) -> Option<()> {
        let at = self.place(offset, T::SIZE)?;
        // SAFETY: `place` checked bounds and alignment (the base is aligned to 16).
        unsafe { T::store(at, value) };
        Some(())
    }

    /// The 16-bit cell at `offset`, for read-modify-write.
    #[inline(always)]
    pub(crate) fn atomic16(&self, offset: u64) -> Option<&AtomicU16> {
        let at = self.place(offset, 2)?;
        // SAFETY: `place` checked bounds and alignment; the borrow of `self` keeps the memory alive.
        Some(unsafe { AtomicU16::from_ptr(at.cast()) })
    }

    /// The 32-bit cell at `offset`, for read-modify-write.
    #[inline(always)]
    pub(crate) fn atomic32(&self, offset: u64) -> Option<&AtomicU32> {
        let at = self.place(offset, 4)?;
        // SAFETY: `place` checked bounds and alignment; the borrow of `self` keeps the memory alive.
        Some(unsafe { AtomicU32::from_ptr(at.cast()) })
    }

    /// The 64-bit cell at `offset`, for read-modify-write.
    #[inline(always)]
    pub(crate) fn atomic64(&self, offset: u64) -> Option<&AtomicU64> {
        let at = self.place(offset, 8)?;
        // SAFETY: `place` checked bounds and alignment; the borrow of `self` keeps the memory alive.
        Some(unsafe { AtomicU64::from_ptr(at.cast()) })
    }

    /// Replaces 16 bytes by `new`, if they are `expected` or that is not given. The old value; `None` outside the segment
    /// or misaligned. One atomic access to every other processor, and to the narrower accesses of this module.
    pub(crate) fn exchange128(
        &self,
        offset: u64,
        expected: Option<u128>,
        new: u128,
    ) -> Option<u128> {
        let at = self.place(offset, 16)?;
        // What a first guess at the old value costs when it is wrong is one more round.
        let mut guess = match expected {
            Some(expected) => expected,
            None => {
                let (low, high) = (self.load::<u64>(offset)?, self.load::<u64>(offset + 8)?);
                u128::from(low) | u128::from(high) << 64
            }
        };
        loop {
            // SAFETY: `place` checked bounds and alignment to 16 (the base is aligned to 16).
            let old = unsafe { wide::compare_exchange(at, guess, new) };
            if old == guess || expected.is_some() {
                return Some(old);
            }
            guess = old;
        }
    }

    /// Copies bytes out. `None` (and nothing copied) when the range leaves the segment.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Option<()> {
        let at = self.range(offset, into.len() as u64)?;
        let (head, body) = split(at, into.len());
        let (first, rest) = into.split_at_mut(head);
        let (middle, last) = rest.split_at_mut(body);
        for (i, byte) in first.iter_mut().enumerate() {
            // SAFETY: `range` checked that all `into.len()` bytes from `at` are inside.
            *byte = unsafe { u8::load(at.add(i)) };
        }
        for (i, word) in middle.chunks_exact_mut(8).enumerate() {
            // SAFETY: inside as above; `split` made `at + head` a multiple of eight.
            word.copy_from_slice(&unsafe { u64::load(at.add(head + i * 8)) }.to_ne_bytes());
        }
        for (i, byte) in last.iter_mut().enumerate() {
            // SAFETY: inside as above.
            *byte = unsafe { u8::load(at.add(head + body + i)) };
        }
        Some(())
    }

    /// Copies bytes in. `None` (and nothing copied) when the range leaves the segment.
    pub fn write(&self, offset: u64, from: &[u8]) -> Option<()> {
        let at = self.range(offset, from.len() as u64)?;
        let (head, body) = split(at, from.len());
        for (i, byte) in from[..head].iter().enumerate() {
            // SAFETY: `range` checked that all `from.len()` bytes from `at` are inside.
            unsafe { u8::store(at.add(i), *byte) };
        }
        for (i, word) in from[head..head + body].chunks_exact(8).enumerate() {
            let word = u64::from_ne_bytes(word.try_into().unwrap_or_default());
            // SAFETY: inside as above; `split` made `at + head` a multiple of eight.
            unsafe { u64::store(at.add(head + i * 8), word) };
        }
        for (i, byte) in from[head + body..].iter().enumerate() {
            // SAFETY: inside as above.
            unsafe { u8::store(at.add(head + body + i), *byte) };
        }
        Some(())
    }

    /// Repeats the low `width` bytes (1, 2, 4 or 8) of `pattern` over a range. The pattern begins at `offset`.
    /// `None` (and nothing written) when the range leaves the segment or `width` is another.
    pub fn fill(&self, offset: u64, len: u64, pattern: u64, width: u32) -> Option<()> {
        let at = self.range(offset, len)?;
        let word = match width {
            1 => u64::from(pattern as u8) * 0x0101_0101_0101_0101,
            2 => u64::from(pattern as u16) * 0x0001_0001_0001_0001,
            4 => u64::from(pattern as u32) * 0x1_0000_0001,
            8 => pattern,
            _ => return None,
        };
        let word = word.to_le();
        let (head, body) = split(at, len as usize);
        let bytes = word.to_ne_bytes();
        for i in (0..head).chain(head + body..len as usize) {
            // SAFETY: `range` checked that all `len` bytes from `at` are inside.
            unsafe { u8::store(at.add(i), bytes[i & 7]) };
        }
        // Whole words continue the pattern where the head left it.
        let mut turned = [0; 8];
        for (i, byte) in turned.iter_mut().enumerate() {
            *byte = bytes[(head + i) & 7];
        }
        for i in (head..head + body).step_by(8) {
            // SAFETY: inside as above; `split` made `at + head` a multiple of eight.
            unsafe { u64::store(at.add(i), u64::from_ne_bytes(turned)) };
        }
        Some(())
    }

    /// Copies `len` bytes to another segment, or within this one, whether or not the ranges overlap. `None` (and nothing
    /// copied) when either range leaves its segment. Stops early, and says so with `Some(false)`, when `go_on` does.
    pub fn copy_to(
        &self,
        offset: u64,
        to: &Segment,
        to_offset: u64,
        len: u64,
        go_on: impl Fn() -> bool,
    ) -> Option<bool> {
        let from = self.range(offset, len)?;
        let dest = to.range(to_offset, len)?;
        // Towards higher addresses of the same memory: from the end, so that nothing is read after it was written.
        let backward = dest.addr() > from.addr() && dest.addr() - from.addr() < len as usize;
        let mut chunk = [0u8; CHUNK];
        let mut done = 0;
        while done < len {
            if !go_on() {
                return Some(false);
            }
            let n = (len - done).min(CHUNK as u64);
            let at = if backward { len - done - n } else { done };
            let bytes = &mut chunk[..n as usize];
            self.read(offset + at, bytes)?;
            to.write(to_offset + at, bytes)?;
            done += n;
        }
        Some(true)
    }

    /// The host address of `offset` when `len` bytes from it are inside.
    fn range(&self, offset: u64, len: u64) -> Option<*mut u8> {
        if offset.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: checked just above to stay inside the segment.
        Some(unsafe { self.base.as_ptr().add(offset as usize) })
    }
}

/// Orders every access before against every access after, for all cores.
pub(crate) fn full_fence() {
    fence(Ordering::SeqCst);
}

/// Bytes before the first host word boundary, and the bytes of whole words after it.
fn split(at: *mut u8, len: usize) -> (usize, usize) {
    let head = at.align_offset(8).min(len);
    (head, (len - head) & !7)
}
