//! The one place of this crate that touches raw memory: segments of bytes that other threads, the guest or another
//! process may change at any instant.
//!
//! A [`Segment`] never hands out a reference to its bytes. It copies in and out with relaxed atomic accesses, so a
//! concurrent writer gives an old or a new value, never undefined behaviour. Bounds and alignment are checked here, in
//! safe functions; callers above add permissions and name faults. It does not know addresses, regions or tenants.
//!
//! Ownership: a segment keeps its bytes alive through an `Arc` of whoever allocated or mapped them.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

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

/// How the 32 offsets of one access lie to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// Every lane reads the next element: one run of bytes.
    Run,
    /// Every lane uses the same offset.
    Same,
    /// Anything else.
    Scattered,
}

/// 32 offsets proved to lie inside one segment, aligned for the access. Made by [`Segment::check`] alone.
pub(crate) struct Checked<'s> {
    segment: &'s Segment,
    offsets: &'s [u64; LANES],
    /// Bytes each lane may touch from its offset.
    width: u64,
    pattern: Pattern,
}

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

    /// Proves 32 accesses of `width` bytes, each aligned to `align` (a power of two, at most 16), against the
    /// segment. `None` when any is outside or misaligned. `element` is the distance that makes a run.
    #[inline(always)]
    pub(crate) fn check<'s>(
        &'s self,
        offsets: &'s [u64; LANES],
        width: u64,
        align: u64,
    ) -> Option<Checked<'s>> {
        if width > self.len {
            return None;
        }
        let limit = self.len - width;
        let first = offsets[0];
        let (mut bad, mut run) = ([0u64; LANES], [0u64; LANES]);
        for i in 0..LANES {
            // Beyond the limit, or a low bit set.
            bad[i] = u64::from(offsets[i] > limit) | (offsets[i] & (align - 1));
            run[i] = offsets[i].wrapping_sub(first) ^ (i as u64).wrapping_mul(width);
        }
        if fold(&bad) != 0 {
            return None;
        }
        let pattern = if fold(&run) == 0 {
            Pattern::Run
        } else if offsets[1] == first && offsets[LANES - 1] == first {
            let mut same = [0u64; LANES];
            for i in 0..LANES {
                same[i] = offsets[i] ^ first;
            }
            if fold(&same) == 0 { Pattern::Same } else { Pattern::Scattered }
        } else {
            Pattern::Scattered
        };
        Some(Checked { segment: self, offsets, width, pattern })
    }
}

impl Checked<'_> {
    /// Loads element `index` of every lane (elements of `T` inside the checked width).
    #[inline(always)]
    pub(crate) fn gather<T: Cell>(&self, index: u64) -> [T; LANES] {
        let skip = index * T::SIZE;
        assert!(skip + T::SIZE <= self.width, "element outside the checked width");
        let base = self.segment.base.as_ptr();
        let mut out = [T::default(); LANES];
        match self.pattern {
            Pattern::Same => {
                // SAFETY: `check` proved `offsets[0] + width` inside and aligned, `skip + SIZE <= width`.
                out = [unsafe { T::load(base.add((self.offsets[0] + skip) as usize)) }; LANES];
            }
            Pattern::Run if T::SIZE == self.width => {
                // SAFETY: in a run lane i's offset is `offsets[0] + i * width`, and `check` proved the last lane's `width`
                // bytes inside: all 32 * SIZE bytes are. `out` has as many.
                unsafe {
                    let first = base.add(self.offsets[0] as usize);
                    block::load(first, out.as_mut_ptr().cast(), size_of_val(&out));
                }
            }
            Pattern::Run => {
                // SAFETY: as above, for lane 0.
                let first = unsafe { base.add((self.offsets[0] + skip) as usize) };
                let step = self.width as usize;
                for (i, o) in out.iter_mut().enumerate() {
                    // SAFETY: in a run lane i's offset is `offsets[0] + i * width`, proved inside by `check`.
                    *o = unsafe { T::load(first.add(i * step)) };
                }
            }
            Pattern::Scattered => {
                for (i, o) in out.iter_mut().enumerate() {
                    // SAFETY: `check` proved every lane's offset inside and aligned, `skip + SIZE <= width`.
                    *o = unsafe { T::load(base.add((self.offsets[i] + skip) as usize)) };
                }
            }
        }
        out
    }

    /// Stores element `index` of every lane whose bit is set in `mask`, in lane order.
    #[inline(always)]
    pub(crate) fn scatter<T: Cell>(&self, index: u64, mask: u32, values: &[T; LANES]) {
        let skip = index * T::SIZE;
        assert!(skip + T::SIZE <= self.width, "element outside the checked width");
        let base = self.segment.base.as_ptr();
        if mask == u32::MAX && self.pattern == Pattern::Run {
            // SAFETY: `check` proved `offsets[0] + width` inside and aligned, `skip + SIZE <= width`.
            let first = unsafe { base.add((self.offsets[0] + skip) as usize) };
            if T::SIZE == self.width {
                // SAFETY: a run of `width` each, the last proved inside by `check`: all 32 * SIZE bytes are.
                unsafe { block::store(first, values.as_ptr().cast(), size_of_val(values)) };
                return;
            }
            let step = self.width as usize;
            for (i, v) in values.iter().enumerate() {
                // SAFETY: in a run lane i's offset is `offsets[0] + i * width`, proved inside by `check`.
                unsafe { T::store(first.add(i * step), *v) };
            }
            return;
        }
        if mask == u32::MAX {
            for (i, v) in values.iter().enumerate() {
                // SAFETY: `check` proved every lane's offset inside and aligned, `skip + SIZE <= width`.
                unsafe { T::store(base.add((self.offsets[i] + skip) as usize), *v) };
            }
            return;
        }
        for (i, v) in values.iter().enumerate() {
            if mask >> i & 1 != 0 {
                // SAFETY: `check` proved every lane's offset inside and aligned, `skip + SIZE <= width`.
                unsafe { T::store(base.add((self.offsets[i] + skip) as usize), *v) };
            }
        }
    }
}

/// Bitwise or of 32 values, in the shape that compilers turn into a vector tree.
#[inline(always)]
pub(crate) fn fold(t: &[u64; LANES]) -> u64 {
    let mut h = [0u64; 16];
    for i in 0..16 {
        h[i] = t[i] | t[i + 16];
    }
    let mut q = [0u64; 8];
    for i in 0..8 {
        q[i] = h[i] | h[i + 8];
    }
    let mut e = [0u64; 4];
    for i in 0..4 {
        e[i] = q[i] | q[i + 4];
    }
    e[0] | e[1] | e[2] | e[3]
}

/// Runs of bytes in vector moves. In assembly, so that a byte somebody else writes meanwhile is an old or a new one and
/// never undefined behaviour; aligned elements are not torn.
mod block {
    /// Copies `len` bytes, a multiple of 32, out of shared memory.
    ///
    /// # Safety
    /// `from` is valid for reads and `to`, which nobody else reaches, for writes of `len` bytes.
    #[inline(always)]
    pub(super) unsafe fn load(from: *const u8, to: *mut u8, len: usize) {
        // SAFETY: the caller's promise.
        unsafe { copy(from, to, len) }
    }

    /// Copies `len` bytes, a multiple of 32, into shared memory.
    ///
    /// # Safety
    /// `to` is valid for writes and `from`, which nobody else writes, for reads of `len` bytes.
    #[inline(always)]
    pub(super) unsafe fn store(to: *mut u8, from: *const u8, len: usize) {
        // SAFETY: the caller's promise.
        unsafe { copy(from, to, len) }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
        let mut at = 0;
        while at < len {
            // SAFETY: 32 bytes at a time below `len`, which the caller vouches for; SSE2 is part of the architecture.
            unsafe {
                std::arch::asm!(
                    "movups {a}, [{from}]",
                    "movups {b}, [{from} + 16]",
                    "movups [{to}], {a}",
                    "movups [{to} + 16], {b}",
                    from = in(reg) from.add(at),
                    to = in(reg) to.add(at),
                    a = out(xmm_reg) _,
                    b = out(xmm_reg) _,
                    options(nostack, preserves_flags),
                );
            }
            at += 32;
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    #[inline(always)]
    unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
        use super::Cell;
        for at in 0..len {
            // SAFETY: below `len`, which the caller vouches for; a byte is always aligned.
            unsafe { u8::store(to.add(at), u8::load(from.cast_mut().add(at))) };
        }
    }
}

/// 16 bytes at once.
mod wide {
    /// Stores `new` if the 16 bytes at `at` are `expected`; what they were.
    ///
    /// # Safety
    /// `at` is valid for reads and writes of 16 bytes and aligned to 16; every other access to them is atomic.
    #[cfg(target_arch = "x86_64")]
    pub(super) unsafe fn compare_exchange(at: *mut u8, expected: u128, new: u128) -> u128 {
        if !is_x86_feature_detected!("cmpxchg16b") {
            // SAFETY: the caller's promise.
            return unsafe { locked(at, expected, new) };
        }
        let (mut low, mut high) = (expected as u64, (expected >> 64) as u64);
        // SAFETY: the processor has the instruction, the caller promises 16 valid, aligned bytes, and rbx, which the compiler
        // keeps for itself, is put back. In assembly because the intrinsic becomes a call to a library that is not linked.
        unsafe {
            std::arch::asm!(
                "xchg rsi, rbx",
                "lock cmpxchg16b [rdi]",
                "mov rbx, rsi",
                in("rdi") at,
                inout("rsi") new as u64 => _,
                in("rcx") (new >> 64) as u64,
                inout("rax") low,
                inout("rdx") high,
                options(nostack),
            );
        }
        u128::from(low) | u128::from(high) << 64
    }

    /// The same on processors without such an instruction.
    ///
    /// # Safety
    /// As on the others.
    #[cfg(not(target_arch = "x86_64"))]
    pub(super) unsafe fn compare_exchange(at: *mut u8, expected: u128, new: u128) -> u128 {
        // SAFETY: the caller's promise.
        unsafe { locked(at, expected, new) }
    }

    /// The same under a lock: atomic against other calls of this function only.
    ///
    /// # Safety
    /// As above.
    unsafe fn locked(at: *mut u8, expected: u128, new: u128) -> u128 {
        use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
        static LOCK: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let _held = LOCK.lock().unwrap_or_else(|e| e.into_inner());
        // SAFETY: the caller promises 16 valid bytes, aligned to 16: two aligned words.
        let (low, high) =
            unsafe { (AtomicU64::from_ptr(at.cast()), AtomicU64::from_ptr(at.add(8).cast())) };
        let old = u128::from(low.load(SeqCst)) | u128::from(high.load(SeqCst)) << 64;
        if old == expected {
            low.store(new as u64, SeqCst);
            high.store((new >> 64) as u64, SeqCst);
        }
        old
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_every_alignment() {
        let segment = Segment::zeroed(64).unwrap();
        let bytes: Vec<u8> = (1..=33).collect();
        for offset in 0..31 {
            segment.fill(0, 64, 0, 1).unwrap();
            segment.write(offset, &bytes).unwrap();
            let mut all = [0u8; 64];
            segment.read(0, &mut all).unwrap();
            let at = offset as usize;
            assert_eq!(&all[at..at + 33], &bytes[..]);
            assert!(all[..at].iter().chain(&all[at + 33..]).all(|&b| b == 0));
        }
        assert_eq!(segment.write(32, &bytes), None);
        assert_eq!(segment.read(u64::MAX, &mut [0]), None);
    }

    #[test]
    fn fill_repeats_the_pattern_from_its_start() {
        let segment = Segment::zeroed(64).unwrap();
        for (offset, len, width) in
            [(4, 40, 4u32), (2, 42, 2), (1, 63, 1), (12, 4, 4), (3, 40, 8), (5, 59, 4)]
        {
            segment.fill(0, 64, 0, 1).unwrap();
            segment.fill(offset, len, 0x8877_6655_4433_2211, width).unwrap();
            let mut all = [0u8; 64];
            segment.read(0, &mut all).unwrap();
            for (i, byte) in all.iter().enumerate() {
                let inside = (offset..offset + len).contains(&(i as u64));
                let expect =
                    if inside { 0x11 * (1 + (i as u64 - offset) % u64::from(width)) } else { 0 };
                assert_eq!(u64::from(*byte), expect, "byte {i} of {offset}+{len} by {width}");
            }
        }
        assert_eq!(segment.fill(60, 8, 0, 4), None);
        assert_eq!(segment.fill(0, 8, 0, 3), None);
    }

    #[test]
    fn overlapping_copies_move_the_old_bytes() {
        let len = 3 * CHUNK as u64;
        for (from, to) in [(0u64, 5u64), (5, 0), (0, len / 2), (len / 2, 0), (7, 7)] {
            let segment = Segment::zeroed(len + 64).unwrap();
            let before: Vec<u8> = (0..len + 64).map(|i| (i * 31 + i / 251) as u8).collect();
            segment.write(0, &before).unwrap();
            let count = len / 2;
            assert_eq!(segment.copy_to(from, &segment, to, count, || true), Some(true));
            let mut after = vec![0; before.len()];
            segment.read(0, &mut after).unwrap();
            let mut expect = before.clone();
            expect.copy_within(from as usize..(from + count) as usize, to as usize);
            assert!(after == expect, "{from} to {to}");
        }
        let small = Segment::zeroed(16).unwrap();
        assert_eq!(small.copy_to(0, &small, 9, 8, || true), None);
        assert_eq!(small.copy_to(0, &small, 8, 8, || false), Some(false));
    }

    #[test]
    fn wide_exchanges_are_whole() {
        let segment = Segment::zeroed(64).unwrap();
        assert_eq!(segment.exchange128(8, None, 1), None);
        assert_eq!(segment.exchange128(64, None, 1), None);
        let both = |n: u64| u128::from(n) << 64 | u128::from(n);
        assert_eq!(segment.exchange128(16, Some(1), both(7)), Some(0));
        assert_eq!(segment.load::<u64>(16), Some(0));
        assert_eq!(segment.exchange128(16, Some(0), both(7)), Some(0));
        assert_eq!(segment.exchange128(16, None, both(0)), Some(both(7)));
        // Every thread adds one to both halves, or swaps in a pair; nobody ever sees halves of two writers, and a
        // 64-bit writer beside them loses nothing.
        const ROUNDS: u64 = 20_000;
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let mut seen = both(0);
                    for _ in 0..ROUNDS {
                        loop {
                            let next = both((seen as u64).wrapping_add(1));
                            let old = segment.exchange128(16, Some(seen), next).unwrap();
                            assert_eq!(old as u64, (old >> 64) as u64);
                            if std::mem::replace(&mut seen, old) == old {
                                seen = next;
                                break;
                            }
                        }
                    }
                });
            }
        });
        assert_eq!(segment.load::<u64>(16), Some(3 * ROUNDS));
        assert_eq!(segment.load::<u64>(24), Some(3 * ROUNDS));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    segment.atomic64(32).unwrap().fetch_add(1, Ordering::Relaxed);
                }
            });
            scope.spawn(|| {
                for n in 0..ROUNDS {
                    loop {
                        let low = segment.load::<u64>(32).unwrap();
                        let old = u128::from(low) | u128::from(n) << 64;
                        let new = u128::from(low) | u128::from(n + 1) << 64;
                        if segment.exchange128(32, Some(old), new) == Some(old) {
                            break;
                        }
                    }
                }
            });
        });
        assert_eq!(segment.load::<u64>(32), Some(ROUNDS));
        assert_eq!(segment.load::<u64>(40), Some(ROUNDS));
    }

    #[test]
    fn check_refuses_one_byte_too_far_and_misalignment() {
        let segment = Segment::zeroed(256).unwrap();
        let run: [u64; LANES] = std::array::from_fn(|i| i as u64 * 4);
        assert_eq!(segment.check(&run, 4, 4).unwrap().pattern, Pattern::Run);
        assert_eq!(segment.check(&[8; LANES], 4, 4).unwrap().pattern, Pattern::Same);
        for lane in 0..LANES {
            let mut bad = run;
            bad[lane] = 253;
            assert!(segment.check(&bad, 4, 1).is_none());
            bad[lane] = u64::MAX;
            assert!(segment.check(&bad, 4, 1).is_none());
            bad[lane] = 6;
            assert!(segment.check(&bad, 4, 4).is_none());
            assert_eq!(segment.check(&bad, 2, 2).unwrap().pattern, Pattern::Scattered);
        }
    }

    #[test]
    #[allow(clippy::needless_range_loop)] // A lane number, not an index.
    fn gather_and_scatter_agree_in_every_pattern() {
        let segment = Segment::zeroed(1024).unwrap();
        for i in 0..256u64 {
            segment.store(i * 4, i as u32).unwrap();
        }
        let shuffled: [u64; LANES] = std::array::from_fn(|i| (i as u64 * 7 % 32) * 16);
        let got = segment.check(&shuffled, 8, 8).unwrap().gather::<u32>(1);
        assert!((0..LANES).all(|i| u64::from(got[i]) == shuffled[i] / 4 + 1));
        segment.check(&shuffled, 8, 8).unwrap().scatter(0, 0xffff_0000, &[77u32; LANES]);
        for i in 0..LANES {
            let expect = if i >= 16 { 77 } else { (shuffled[i] / 4) as u32 };
            assert_eq!(segment.load::<u32>(shuffled[i]), Some(expect));
        }
    }
}
