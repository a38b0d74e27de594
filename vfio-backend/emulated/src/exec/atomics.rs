//! `atom` and `red`: read-modify-write, lane by lane in lane order.
//!
//! In device memory they are the processor's atomics, because other blocks, the host and the guest run at the same
//! time. A block's shared memory belongs to the thread that runs the block, so plain loads and stores suffice there.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::memory_ops::{View, addresses};
use super::registers::{Lane, Registers};
use super::warp::{Outcome, fault};
use crate::fault::{FaultKind, Intent, Space};
use crate::ir::{Atomic, AtomicOp, Memory, NONE, Slot, Target, window};
use crate::ops::float32::Float32;
use crate::ops::float64::Float64;
use crate::ops::half::{BF16, Half};
use crate::raw::{LANES, Segment};

/// The new value, on the low `bits` bits.
#[inline(always)]
fn combine(op: AtomicOp, bits: u32, old: u64, b: u64, c: u64) -> u64 {
    let ones = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
    let signed = |v: u64| (v << (64 - bits)) as i64 >> (64 - bits);
    let half = |op: Half, x: u8| op.scalar([old, b, 0], x) & ones;
    match op {
        AtomicOp::Add => old.wrapping_add(b) & ones,
        AtomicOp::Inc => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        AtomicOp::Dec => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
        AtomicOp::MinU => old.min(b),
        AtomicOp::MaxU => old.max(b),
        AtomicOp::MinS => signed(old).min(signed(b)) as u64 & ones,
        AtomicOp::MaxS => signed(old).max(signed(b)) as u64 & ones,
        AtomicOp::And => old & b,
        AtomicOp::Or => old | b,
        AtomicOp::Xor => old ^ b,
        AtomicOp::Exchange => b,
        AtomicOp::CompareSwap => {
            if old == b {
                c
            } else {
                old
            }
        }
        AtomicOp::AddF32 => Float32::Add.scalar([old, b, 0], 0),
        AtomicOp::AddF64 => Float64::Add.scalar([old, b, 0], 0),
        AtomicOp::AddF16 => half(Half::Add, 0),
        AtomicOp::AddF16x2 => half(Half::Add2, 0),
        AtomicOp::AddBf16 => half(Half::Add, BF16),
        AtomicOp::AddBf16x2 => half(Half::Add2, BF16),
        AtomicOp::MinF16 => half(Half::Min, 0),
        AtomicOp::MaxF16 => half(Half::Max, 0),
        AtomicOp::MinBf16 => half(Half::Min, BF16),
        AtomicOp::MaxBf16 => half(Half::Max, BF16),
        AtomicOp::MinF16x2 => half(Half::Min2, 0),
        AtomicOp::MaxF16x2 => half(Half::Max2, 0),
        AtomicOp::MinBf16x2 => half(Half::Min2, BF16),
        AtomicOp::MaxBf16x2 => half(Half::Max2, BF16),
    }
}

/// One atomic operation on a segment; the old value. `None` outside or misaligned.
#[inline(always)]
fn rmw(segment: &Segment, offset: u64, width: u8, op: AtomicOp, b: u64, c: u64) -> Option<u64> {
    match width {
        4 => {
            let cell = segment.atomic32(offset)?;
            let (v, new) = (b as u32, c as u32);
            let old = match op {
                AtomicOp::Add => cell.fetch_add(v, SeqCst),
                AtomicOp::And => cell.fetch_and(v, SeqCst),
                AtomicOp::Or => cell.fetch_or(v, SeqCst),
                AtomicOp::Xor => cell.fetch_xor(v, SeqCst),
                AtomicOp::Exchange => cell.swap(v, SeqCst),
                AtomicOp::CompareSwap => match cell.compare_exchange(v, new, SeqCst, SeqCst) {
                    Ok(old) | Err(old) => old,
                },
                _ => {
                    let mut old = cell.load(Relaxed);
                    loop {
                        let next = combine(op, 32, u64::from(old), b, c) as u32;
                        match cell.compare_exchange_weak(old, next, SeqCst, Relaxed) {
                            Ok(_) => break old,
                            Err(seen) => old = seen,
                        }
                    }
                }
            };
            Some(u64::from(old))
        }
        8 => {
            let cell = segment.atomic64(offset)?;
            Some(match op {
                AtomicOp::Add => cell.fetch_add(b, SeqCst),
                AtomicOp::And => cell.fetch_and(b, SeqCst),
                AtomicOp::Or => cell.fetch_or(b, SeqCst),
                AtomicOp::Xor => cell.fetch_xor(b, SeqCst),
                AtomicOp::Exchange => cell.swap(b, SeqCst),
                AtomicOp::CompareSwap => match cell.compare_exchange(b, c, SeqCst, SeqCst) {
                    Ok(old) | Err(old) => old,
                },
                _ => {
                    let mut old = cell.load(Relaxed);
                    loop {
                        match cell.compare_exchange_weak(
                            old,
                            combine(op, 64, old, b, c),
                            SeqCst,
                            Relaxed,
                        ) {
                            Ok(_) => break old,
                            Err(seen) => old = seen,
                        }
                    }
                }
            })
        }
        _ => {
            let cell = segment.atomic16(offset)?;
            let mut old = cell.load(Relaxed);
            loop {
                let next = combine(op, 16, u64::from(old), b & 0xffff, c & 0xffff) as u16;
                match cell.compare_exchange_weak(old, next, SeqCst, Relaxed) {
                    Ok(_) => break Some(u64::from(old)),
                    Err(seen) => old = seen,
                }
            }
        }
    }
}

/// The same where nobody else can interfere.
#[inline(always)]
fn exclusive(
    segment: &Segment,
    offset: u64,
    width: u8,
    op: AtomicOp,
    b: u64,
    c: u64,
) -> Option<u64> {
    Some(match width {
        4 => {
            let old = u64::from(segment.load::<u32>(offset)?);
            segment.store(offset, combine(op, 32, old, b, c) as u32)?;
            old
        }
        8 => {
            let old = segment.load::<u64>(offset)?;
            segment.store(offset, combine(op, 64, old, b, c))?;
            old
        }
        _ => {
            let old = u64::from(segment.load::<u16>(offset)?);
            segment.store(offset, combine(op, 16, old, b & 0xffff, c & 0xffff) as u16)?;
            old
        }
    })
}

/// What every lane does in one instruction.
struct Lanes<'a> {
    offsets: &'a [u64; LANES],
    mask: u32,
    b: &'a [u64; LANES],
    c: &'a [u64; LANES],
}

/// The operation for every lane in order, up to the first that is outside or misaligned: the lanes that were not done.
/// `shared`: nobody else can interfere.
fn all(
    segment: &Segment,
    (width, op, shared): (u8, AtomicOp, bool),
    l: &Lanes<'_>,
    old: &mut [u64; LANES],
) -> u32 {
    /// The loop for one operation, which the compiler then knows.
    macro_rules! known {
        ($($name:ident),*) => {
            match (op, width) {
                $(
                    (AtomicOp::$name, 4) if shared => each(l, old, |at, b, c| exclusive(segment, at, 4, AtomicOp::$name, b, c)),
                    (AtomicOp::$name, 4) => each(l, old, |at, b, c| rmw(segment, at, 4, AtomicOp::$name, b, c)),
                )*
                (op, width) if shared => each(l, old, |at, b, c| exclusive(segment, at, width, op, b, c)),
                (op, width) => each(l, old, |at, b, c| rmw(segment, at, width, op, b, c)),
            }
        };
    }
    known!(Add, MinS, MaxS, MinU, MaxU, Or, And, Exchange, CompareSwap, AddF32)
}

#[inline(always)]
fn each(l: &Lanes<'_>, old: &mut [u64; LANES], f: impl Fn(u64, u64, u64) -> Option<u64>) -> u32 {
    let mut left = l.mask;
    while left != 0 {
        let lane = left.trailing_zeros() as usize & 31;
        match f(l.offsets[lane], l.b[lane], l.c[lane]) {
            Some(v) => old[lane] = v,
            None => return left,
        }
        left &= left - 1;
    }
    0
}

/// The operands of all lanes.
fn operands(registers: &Registers<'_>, slot: Slot, width: u8) -> [u64; LANES] {
    match (slot, width) {
        (NONE, _) => [0; LANES],
        (slot, 8) => *u64::read(registers, slot),
        (slot, _) => u32::read(registers, slot).map(u64::from),
    }
}

impl View<'_> {
    /// Runs an atomic for the lanes of `mask`.
    pub(crate) fn atomic(
        &mut self,
        registers: &mut Registers<'_>,
        a: &Atomic,
        mask: u32,
    ) -> Outcome<()> {
        let at = addresses(registers, &a.memory, mask);
        match a.memory.target {
            Target::Space(space) => self.atomic_in(registers, a, space, &at, mask),
            Target::Generic => self.split(&at, mask, |view, space, at, mask| {
                view.atomic_in(registers, a, space, at, mask)
            }),
            Target::Frame => fault(mask, FaultKind::Undefined { what: "atomic on a parameter" }),
        }
    }

    /// Runs a 128-bit exchange or compare-and-swap for the lanes of `mask`.
    pub(crate) fn atomic128(
        &mut self,
        registers: &mut Registers<'_>,
        memory: &Memory,
        [d, b, c]: [Slot; 3],
        mask: u32,
    ) -> Outcome<()> {
        let at = addresses(registers, memory, mask);
        let pair = |registers: &Registers<'_>, slot: Slot, lane: usize| {
            u128::from(u64::read(registers, slot)[lane])
                | u128::from(u64::read(registers, slot + 1)[lane]) << 64
        };
        let (intent, width) = (Intent::Atomic, 16);
        for lane in (0..LANES).filter(|l| mask >> l & 1 != 0) {
            let (mut address, mut space) = (
                at[lane],
                match memory.target {
                    Target::Space(space) => space,
                    _ => Space::Global,
                },
            );
            if memory.target == Target::Generic
                && address.wrapping_sub(window::SHARED) < window::SIZE
            {
                (address, space) = (address - window::SHARED, Space::Shared);
            }
            let first = pair(registers, b, lane);
            let (expected, new) =
                if c == NONE { (None, first) } else { (Some(first), pair(registers, c, lane)) };
            let old = match space {
                Space::Shared => self.shared.exchange128(address, expected, new),
                Space::Global => {
                    let (region, offset) =
                        self.place(address, width, width, intent, lane as u32)?;
                    region.segment.exchange128(offset, expected, new)
                }
                _ => None,
            };
            let Some(old) = old else {
                return fault(1 << lane, FaultKind::Unmapped { space, intent, address, width });
            };
            u64::write(registers, d, 1 << lane, [old as u64; LANES]);
            u64::write(registers, d + 1, 1 << lane, [(old >> 64) as u64; LANES]);
        }
        Ok(())
    }

    fn atomic_in(
        &mut self,
        registers: &mut Registers<'_>,
        a: &Atomic,
        space: Space,
        at: &[u64; LANES],
        mask: u32,
    ) -> Outcome<()> {
        let width = u32::from(a.width);
        let (b, c) = (operands(registers, a.b, a.width), operands(registers, a.c, a.width));
        let mut old = [0u64; LANES];
        let mut left = mask;
        let kind = (a.width, a.op, space == Space::Shared);
        if space == Space::Shared {
            left = all(self.shared, kind, &Lanes { offsets: at, mask, b: &b, c: &c }, &mut old);
        } else if space == Space::Global && self.launch.arena.is_none() {
            // As far as the region goes that the last access hit.
            let region = self.launch.map.region(*self.region);
            if let Some(region) = region.filter(|r| r.permits(Intent::Atomic)) {
                let offsets: [u64; LANES] =
                    std::array::from_fn(|i| at[i].wrapping_sub(region.start));
                let lanes = Lanes { offsets: &offsets, mask, b: &b, c: &c };
                left = all(&region.segment, kind, &lanes, &mut old);
            }
        }
        for lane in (0..LANES).filter(|l| left >> l & 1 != 0) {
            let (b, c) = (b[lane], c[lane]);
            let address = at[lane];
            let done = match space {
                Space::Shared => exclusive(self.shared, address, a.width, a.op, b, c),
                Space::Global => {
                    let cached = self.launch.map.region(*self.region).and_then(|r| {
                        let offset = r.offset_of(address, u64::from(width))?;
                        (self.launch.arena.is_none() && r.access.read && r.access.write)
                            .then_some((r, offset))
                    });
                    let (region, offset) = match cached {
                        Some(hit) => hit,
                        None => {
                            if let Some(found) = self.launch.map.find(address) {
                                *self.region = found;
                            }
                            self.place(address, width, width, Intent::Atomic, lane as u32)?
                        }
                    };
                    rmw(&region.segment, offset, a.width, a.op, b, c)
                }
                Space::Local => self.local_atomic(address, lane, a, b, c),
                Space::Const | Space::Param => None,
            };
            match done {
                Some(value) => old[lane] = value,
                None => {
                    let (intent, lane) = (Intent::Atomic, 1 << lane);
                    let misaligned = !address.is_multiple_of(u64::from(width));
                    return fault(
                        lane,
                        if misaligned {
                            FaultKind::Misaligned { space, intent, address, width }
                        } else {
                            FaultKind::Unmapped { space, intent, address, width }
                        },
                    );
                }
            }
        }
        if a.d != NONE {
            if a.width == 8 {
                u64::write(registers, a.d, mask, old);
            } else {
                u32::write(registers, a.d, mask, old.map(|v| v as u32));
            }
        }
        Ok(())
    }

    /// An atomic on a thread's own memory, as generic addresses allow. `None` outside or misaligned.
    fn local_atomic(
        &mut self,
        address: u64,
        lane: usize,
        a: &Atomic,
        b: u64,
        c: u64,
    ) -> Option<u64> {
        let width = u64::from(a.width);
        let word = usize::try_from(address / 4).ok()?;
        if !address.is_multiple_of(width) || (address + width).div_ceil(4) > self.local.len() as u64
        {
            return None;
        }
        let low = self.local[word].0[lane];
        Some(match a.width {
            8 => {
                let old = u64::from(low) | u64::from(self.local[word + 1].0[lane]) << 32;
                let new = combine(a.op, 64, old, b, c);
                self.local[word].0[lane] = new as u32;
                self.local[word + 1].0[lane] = (new >> 32) as u32;
                old
            }
            4 => {
                self.local[word].0[lane] = combine(a.op, 32, u64::from(low), b, c) as u32;
                u64::from(low)
            }
            _ => {
                let shift = 8 * (address as u32 & 2);
                let old = low >> shift & 0xffff;
                let new = combine(a.op, 16, u64::from(old), b & 0xffff, c & 0xffff) as u32;
                self.local[word].0[lane] = (low & !(0xffff << shift)) | new << shift;
                u64::from(old)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapping_counters_follow_the_specification() {
        assert_eq!(combine(AtomicOp::Inc, 32, 5, 5, 0), 0);
        assert_eq!(combine(AtomicOp::Inc, 32, 4, 5, 0), 5);
        assert_eq!(combine(AtomicOp::Dec, 32, 0, 5, 0), 5);
        assert_eq!(combine(AtomicOp::Dec, 32, 9, 5, 0), 5);
        assert_eq!(combine(AtomicOp::Dec, 32, 3, 5, 0), 2);
        assert_eq!(combine(AtomicOp::MinS, 32, 1, 0xffff_ffff, 0), 0xffff_ffff);
        assert_eq!(combine(AtomicOp::MaxS, 64, 1, u64::MAX, 0), 1);
        assert_eq!(combine(AtomicOp::Add, 32, 0xffff_ffff, 2, 0), 1);
    }

    #[test]
    fn threads_never_lose_an_update() {
        let segment = Segment::zeroed(64).unwrap();
        std::thread::scope(|s| {
            for _ in 0..2 {
                s.spawn(|| {
                    for _ in 0..10_000 {
                        rmw(&segment, 0, 4, AtomicOp::Add, 1, 0).unwrap();
                        rmw(&segment, 8, 4, AtomicOp::AddF32, u64::from(1f32.to_bits()), 0)
                            .unwrap();
                        rmw(&segment, 16, 8, AtomicOp::AddF64, 1f64.to_bits(), 0).unwrap();
                        rmw(&segment, 26, 2, AtomicOp::Inc, 0xffff, 0).unwrap();
                    }
                });
            }
        });
        assert_eq!(segment.load::<u32>(0), Some(20_000));
        assert_eq!(segment.load::<u32>(8), Some(20_000f32.to_bits()));
        assert_eq!(segment.load::<u64>(16), Some(20_000f64.to_bits()));
        assert_eq!(segment.load::<u16>(26), Some(20_000));
        assert_eq!(segment.load::<u16>(24), Some(0), "the neighbour is untouched");
    }

    #[test]
    fn exclusive_and_atomic_agree() {
        let segment = Segment::zeroed(64).unwrap();
        let ops =
            [AtomicOp::Add, AtomicOp::Inc, AtomicOp::MinS, AtomicOp::Xor, AtomicOp::CompareSwap];
        for op in ops {
            for width in [2u8, 4, 8] {
                segment.fill(0, 64, 0x1234_5678, 4).unwrap();
                let a = rmw(&segment, 0, width, op, 0x5678, 0x9999);
                let b = exclusive(&segment, 16, width, op, 0x5678, 0x9999);
                assert_eq!(a, b);
                assert_eq!(segment.load::<u64>(0), segment.load::<u64>(16));
            }
        }
        assert_eq!(rmw(&segment, 2, 4, AtomicOp::Add, 1, 0), None);
        assert_eq!(rmw(&segment, 64, 4, AtomicOp::Add, 1, 0), None);
    }
}
