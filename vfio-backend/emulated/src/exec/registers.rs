//! A warp's registers, 32 lanes side by side, and the loops over lanes that every arithmetic instruction is made of.
//!
//! The loops are written so that compilers turn them into vector instructions: whole arrays in, whole array out, then
//! one masked write. Inactive lanes are computed as well and thrown away, so every operation must be total.

use crate::ir::{CONSTANT, Slot};
use crate::raw::LANES;

/// 32 lanes of 32 bits.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(crate) struct V32(pub(crate) [u32; LANES]);

/// 32 lanes of 64 bits.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(crate) struct V64(pub(crate) [u64; LANES]);

/// Lane i's bit.
pub(crate) static BITS: [u32; LANES] = {
    let mut bits = [0; LANES];
    let mut lane = 0;
    while lane < LANES {
        bits[lane] = 1 << lane;
        lane += 1;
    }
    bits
};

/// The registers of one frame and the program's constants.
pub(crate) struct Registers<'a> {
    pub(crate) r32: &'a mut [V32],
    pub(crate) r64: &'a mut [V64],
    pub(crate) preds: &'a mut [u32],
    pub(crate) c32: &'a [V32],
    pub(crate) c64: &'a [V64],
}

/// A lane's value: which register file it lives in.
pub(crate) trait Lane: Copy + Default {
    fn read<'r>(registers: &'r Registers<'_>, slot: Slot) -> &'r [Self; LANES];
    fn write(registers: &mut Registers<'_>, slot: Slot, mask: u32, values: [Self; LANES]);
}

impl Lane for u32 {
    #[inline(always)]
    fn read<'r>(registers: &'r Registers<'_>, slot: Slot) -> &'r [u32; LANES] {
        let file: &[V32] = if slot & CONSTANT != 0 { registers.c32 } else { registers.r32 };
        &file[usize::from(slot & !CONSTANT)].0
    }

    #[inline(always)]
    fn write(registers: &mut Registers<'_>, slot: Slot, mask: u32, values: [u32; LANES]) {
        let out = &mut registers.r32[usize::from(slot)].0;
        if mask == u32::MAX {
            *out = values;
        } else {
            let old = *out;
            let mut new = [0; LANES];
            for i in 0..LANES {
                new[i] = if mask & BITS[i] != 0 { values[i] } else { old[i] };
            }
            *out = new;
        }
    }
}

impl Lane for u64 {
    #[inline(always)]
    fn read<'r>(registers: &'r Registers<'_>, slot: Slot) -> &'r [u64; LANES] {
        let file: &[V64] = if slot & CONSTANT != 0 { registers.c64 } else { registers.r64 };
        &file[usize::from(slot & !CONSTANT)].0
    }

    #[inline(always)]
    fn write(registers: &mut Registers<'_>, slot: Slot, mask: u32, values: [u64; LANES]) {
        let out = &mut registers.r64[usize::from(slot)].0;
        if mask == u32::MAX {
            *out = values;
        } else {
            let old = *out;
            let mut new = [0; LANES];
            for i in 0..LANES {
                new[i] = if mask & BITS[i] != 0 { values[i] } else { old[i] };
            }
            *out = new;
        }
    }
}

impl Registers<'_> {
    /// A predicate's 32 lanes.
    #[inline(always)]
    pub(crate) fn pred(&self, slot: Slot) -> u32 {
        self.preds[usize::from(slot)]
    }

    /// Writes a predicate in the lanes of `mask`.
    #[inline(always)]
    pub(crate) fn set_pred(&mut self, slot: Slot, mask: u32, value: u32) {
        let out = &mut self.preds[usize::from(slot)];
        *out = (*out & !mask) | (value & mask);
    }

    #[inline(always)]
    pub(crate) fn map1<A: Lane, D: Lane>(
        &mut self,
        d: Slot,
        a: Slot,
        mask: u32,
        f: impl Fn(A) -> D,
    ) {
        let a = A::read(self, a);
        let mut out = [D::default(); LANES];
        for i in 0..LANES {
            out[i] = f(a[i]);
        }
        D::write(self, d, mask, out);
    }

    #[inline(always)]
    pub(crate) fn map2<A: Lane, B: Lane, D: Lane>(
        &mut self,
        d: Slot,
        (a, b): (Slot, Slot),
        mask: u32,
        f: impl Fn(A, B) -> D,
    ) {
        let (a, b) = (A::read(self, a), B::read(self, b));
        let mut out = [D::default(); LANES];
        for i in 0..LANES {
            out[i] = f(a[i], b[i]);
        }
        D::write(self, d, mask, out);
    }

    #[inline(always)]
    pub(crate) fn map3<A: Lane, B: Lane, C: Lane, D: Lane>(
        &mut self,
        d: Slot,
        (a, b, c): (Slot, Slot, Slot),
        mask: u32,
        f: impl Fn(A, B, C) -> D,
    ) {
        let (a, b, c) = (A::read(self, a), B::read(self, b), C::read(self, c));
        let mut out = [D::default(); LANES];
        for i in 0..LANES {
            out[i] = f(a[i], b[i], c[i]);
        }
        D::write(self, d, mask, out);
    }

    /// The lanes for which `f` holds.
    #[inline(always)]
    pub(crate) fn test2<A: Lane, B: Lane>(
        &self,
        a: Slot,
        b: Slot,
        f: impl Fn(A, B) -> bool,
    ) -> u32 {
        let (a, b) = (A::read(self, a), B::read(self, b));
        let mut bits = [0u32; LANES];
        for i in 0..LANES {
            bits[i] = if f(a[i], b[i]) { BITS[i] } else { 0 };
        }
        fold(&bits)
    }
}

/// Bitwise or of 32 values, in the shape that compilers turn into a vector tree.
#[inline(always)]
pub(crate) fn fold(t: &[u32; LANES]) -> u32 {
    let mut h = [0u32; 16];
    for i in 0..16 {
        h[i] = t[i] | t[i + 16];
    }
    let mut q = [0u32; 8];
    for i in 0..8 {
        q[i] = h[i] | h[i + 8];
    }
    let mut e = [0u32; 4];
    for i in 0..4 {
        e[i] = q[i] | q[i + 4];
    }
    e[0] | e[1] | e[2] | e[3]
}
