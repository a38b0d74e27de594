//! 32 accesses of a warp at once: proved against a segment together, then made without further checks.

use super::{Cell, LANES, Segment, block};

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
    pub(super) pattern: Pattern,
}

impl Segment {
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
