//! Every row of every table: the loop over lanes against the scalar meaning, and the scalar meaning against
//! independently computed expectations where the host offers one.

use super::compare::Compare;
use super::convert::{self, Convert};
use super::float32::{self, Float32};
use super::float64::Float64;
use super::half::{self, Half, bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use super::int32::Int32;
use super::int64::Int64;
use super::{Class, Signature, transcendental};
use crate::exec::registers::{Registers, V32, V64};
use crate::ir::{Lanes, Slot};
use proptest::prelude::*;

/// Values that arithmetic trips over, and arbitrary ones.
fn word() -> impl Strategy<Value = u64> {
    let special = prop::sample::select(vec![
        0u64,
        1,
        2,
        31,
        32,
        33,
        63,
        64,
        255,
        0x7fff,
        0x8000,
        0xffff,
        0x3c00,
        0x7c00,
        0x7e00,
        0x3f80_0000,
        0x7f80_0000,
        0xff80_0000,
        0x7fc0_0000,
        0x8000_0000,
        0x7fff_ffff,
        0xffff_ffff,
        0x0000_0001_0000_0000,
        0x3ff0_0000_0000_0000,
        0x7ff0_0000_0000_0000,
        0x7ff8_0000_0000_0000,
        0x8000_0000_0000_0000,
        0x7fff_ffff_ffff_ffff,
        u64::MAX,
    ]);
    prop_oneof![
        special,
        any::<u64>(),
        any::<u32>().prop_map(u64::from),
        any::<f32>().prop_map(|v| u64::from(v.to_bits())),
        any::<f64>().prop_map(f64::to_bits)
    ]
}

/// A register file of three operands of 32 lanes in both widths.
struct File {
    r32: Vec<V32>,
    r64: Vec<V64>,
    preds: Vec<u32>,
}

impl File {
    fn new(values: &[u64]) -> Self {
        let lane = |slot: usize, i: usize| {
            values[(slot * 32 + i) % values.len()].rotate_left((slot * 7 + i) as u32 & 3)
        };
        let exact = |slot: usize, i: usize| {
            if i < 16 { values[(slot * 32 + i) % values.len()] } else { lane(slot, i) }
        };
        Self {
            r32: (0..4).map(|s| V32(std::array::from_fn(|i| exact(s, i) as u32))).collect(),
            r64: (0..4).map(|s| V64(std::array::from_fn(|i| exact(s, i)))).collect(),
            preds: vec![0; 4],
        }
    }

    fn registers(&mut self) -> Registers<'_> {
        Registers {
            r32: &mut self.r32,
            r64: &mut self.r64,
            preds: &mut self.preds,
            c32: &[],
            c64: &[],
        }
    }

    fn read(&self, class: Class, slot: usize, lane: usize) -> u64 {
        match class {
            Class::W32 => u64::from(self.r32[slot].0[lane]),
            Class::W64 => self.r64[slot].0[lane],
            Class::Pred => u64::from(self.preds[slot] >> lane & 1),
        }
    }
}

/// Checks one row: slot 3 is the result, slots 0 to 2 the operands.
fn check_row<T: Copy + std::fmt::Debug>(
    op: T,
    signature: Signature,
    values: &[u64],
    mask: u32,
    x: u8,
    vector: impl Fn(&mut Registers<'_>, &Lanes<T>, u32),
    scalar: impl Fn([u64; 3]) -> u64,
) {
    let mut file = File::new(values);
    let before = File::new(values);
    let slots: [Slot; 3] = [0, 1, 2];
    let lanes = Lanes { op, x, d: 3, a: slots[0], b: slots[1], c: slots[2] };
    vector(&mut file.registers(), &lanes, mask);
    for lane in 0..32 {
        let mut operands = [0; 3];
        for (i, class) in signature.sources.iter().enumerate() {
            operands[i] = before.read(*class, i, lane);
        }
        let got = file.read(signature.result, 3, lane);
        let want = if mask >> lane & 1 != 0 {
            scalar(operands)
        } else {
            before.read(signature.result, 3, lane)
        };
        assert_eq!(got, want, "{op:?} x={x} lane {lane} operands {operands:x?}");
    }
}

macro_rules! loops_agree {
    ($name:ident, $family:ident, $cases:expr) => {
        proptest! {
            #![proptest_config(ProptestConfig::with_cases($cases))]
            #[test]
            fn $name(values in prop::collection::vec(word(), 96), mask in prop_oneof![Just(u32::MAX), any::<u32>()], x: u8) {
                for &op in $family::ALL {
                    check_row(op, op.signature(), &values, mask, x, |r, l, m| op.vector(r, l, m), |o| op.scalar(o, x));
                }
            }
        }
    };
}
loops_agree!(int32_loops_agree_with_the_scalar_meaning, Int32, 24);
loops_agree!(int64_loops_agree_with_the_scalar_meaning, Int64, 24);
loops_agree!(float32_loops_agree_with_the_scalar_meaning, Float32, 24);
loops_agree!(float64_loops_agree_with_the_scalar_meaning, Float64, 24);
loops_agree!(half_loops_agree_with_the_scalar_meaning, Half, 24);
loops_agree!(convert_loops_agree_with_the_scalar_meaning, Convert, 24);

proptest! {
    #[test]
    fn comparisons_agree_with_the_scalar_meaning(values in prop::collection::vec(word(), 96), x: u8) {
        let mut file = File::new(&values);
        for &op in Compare::ALL {
            let mask = op.vector(&file.registers(), 0, 1, x);
            for lane in 0..32 {
                let (a, b) = (file.read(op.class(), 0, lane), file.read(op.class(), 1, lane));
                prop_assert_eq!(mask >> lane & 1 != 0, op.scalar(a, b, x), "{:?} {:x} {:x}", op, a, b);
            }
        }
    }

    #[test]
    fn integers_are_the_hosts(a: u32, b: u32, c: u32, w: u64, v: u64) {
        let r = |op: Int32, x| op.scalar([a.into(), b.into(), c.into()], x) as u32;
        let (sa, sb) = (a as i32, b as i32);
        prop_assert_eq!(r(Int32::Add, 0), a.wrapping_add(b));
        prop_assert_eq!(r(Int32::MulHiS, 0), ((i64::from(sa) * i64::from(sb)) >> 32) as u32);
        prop_assert_eq!(r(Int32::DivU, 0), a.checked_div(b).unwrap_or(u32::MAX));
        prop_assert_eq!(r(Int32::DivS, 0), if b == 0 { u32::MAX } else { sa.wrapping_div(sb) as u32 });
        prop_assert_eq!(r(Int32::RemU, 0), a.checked_rem(b).unwrap_or(a));
        prop_assert_eq!(r(Int32::RemS, 0), if b == 0 { a } else { sa.wrapping_rem(sb) as u32 });
        prop_assert_eq!(r(Int32::SadS, 0), c.wrapping_add((i64::from(sa) - i64::from(sb)).unsigned_abs() as u32));
        let carry = Int32::CarryAdd.scalar([a.into(), b.into(), 1], 0);
        prop_assert_eq!(carry, (u64::from(a) + u64::from(b) + 1) >> 32);
        let wide = |op: Int64| op.scalar([w, v, 0], 0);
        prop_assert_eq!(wide(Int64::MulHiU), ((u128::from(w) * u128::from(v)) >> 64) as u64);
        prop_assert_eq!(wide(Int64::MulHiS), ((i128::from(w as i64) * i128::from(v as i64)) >> 64) as u64);
        // The funnel against 64-bit shifts.
        let both = u64::from(b) << 32 | u64::from(a);
        prop_assert_eq!(r(Int32::ShfR, 0), (both >> (c & 31)) as u32);
        prop_assert_eq!(r(Int32::ShfL, 1), ((u128::from(both) << c.min(32)) >> 32) as u32);
        for x in 0..=255u8 {
            let bit = |n: u32| x >> (4 * (a >> n & 1) + 2 * (b >> n & 1) + (c >> n & 1)) & 1;
            let want = (0..32).fold(0, |m, n| m | u32::from(bit(n)) << n);
            prop_assert_eq!(r(Int32::Lop3, x), want);
        }
    }

    #[test]
    fn bit_fields_are_what_bit_by_bit_gives(a: u32, b: u32, pos in 0u32..300, len in 0u32..300, w: u64) {
        // PTX ISA 9.0, section 9.7.1.22: positions and lengths count modulo 256; beyond the top the sign repeats.
        let (p, n) = (pos & 0xff, len & 0xff);
        let top = if n == 0 { 0 } else { (p + n - 1).min(31) };
        for signed in [false, true] {
            let sign = signed && n != 0 && a >> top & 1 != 0;
            let want = (0..32).fold(0u32, |m, i| {
                let bit = if i < n && p + i <= 31 { a >> (p + i) & 1 != 0 } else { sign };
                m | u32::from(bit) << i
            });
            let op = if signed { Int32::BfeS } else { Int32::BfeU };
            prop_assert_eq!(op.scalar([a.into(), pos.into(), len.into()], 0) as u32, want);
        }
        let packed = Int32::Pair8.scalar([pos.into(), len.into(), 0], 0);
        let want = (0..32).fold(0u32, |m, i| {
            let bit = if i >= p && i < p + n { a >> (i - p) & 1 } else { b >> i & 1 };
            m | bit << i
        });
        prop_assert_eq!(Int32::Bfi.scalar([a.into(), b.into(), packed], 0) as u32, want);
        let want = (0..64).fold(0u64, |m, i| {
            let bit = if i < n && p + i <= 63 { w >> (p + i) & 1 } else { 0 };
            m | bit << i
        });
        prop_assert_eq!(Int64::BfeU.scalar([w, pos.into(), len.into()], 0), want);
    }

    #[test]
    fn halves_round_as_the_half_crate_does(v: f32, w: f64) {
        let h = ::half::f16::from_f32(v);
        if !v.is_nan() {
            prop_assert_eq!(f32_to_f16(v), u32::from(h.to_bits()));
            prop_assert_eq!(f32_to_bf16(v), u32::from(::half::bf16::from_f32(v).to_bits()));
            let near = f64::from(v) * (1.0 + w.fract() * 1e-9);
            if near.is_finite() {
                let want = ::half::f16::from_f64(near).to_bits();
                prop_assert_eq!(Convert::F64ToF16.scalar([near.to_bits(), 0, 0], 0), u64::from(want));
            }
        }
    }

    #[test]
    fn directed_single_precision_encloses(a: f32, b: f32, c: f32) {
        let bits = |v: f32| u64::from(v.to_bits());
        let f = |v: u64| f32::from_bits(v as u32);
        for (op, exact) in [
            (Float32::AddX, a + b), (Float32::MulX, a * b), (Float32::DivX, a / b), (Float32::FmaX, a.mul_add(b, c)),
        ] {
            let run = |x: u8| f(op.scalar([bits(a), bits(b), bits(c)], x));
            if exact.is_nan() { continue }
            let (zero, down, up) = (run(1), run(2), run(3));
            prop_assert!(down <= exact && exact <= up, "{op:?} {a:e} {b:e} {c:e}: {down:e} {exact:e} {up:e}");
            prop_assert!(down == up || down.next_up() == up, "{op:?} {a:e} {b:e} {c:e}: {down:e} {up:e}");
            prop_assert_eq!(zero.abs(), down.abs().min(up.abs()));
        }
        if a >= 0.0 && a.is_finite() {
            let run = |x: u8| f(Float32::SqrtX.scalar([bits(a), 0, 0], x));
            let root = f64::from(a).sqrt();
            prop_assert!(f64::from(run(2)) <= root && root <= f64::from(run(3)));
            prop_assert!(run(2) == run(3) || run(2).next_up() == run(3));
        }
    }

    #[test]
    fn approximations_are_close(v in -100f32..100.0) {
        let wide = f64::from(v);
        let close = |got: f32, want: f64, ulps: f64| {
            let unit = f64::from((want as f32).abs().next_up()) - f64::from((want as f32).abs());
            (f64::from(got) - want).abs() <= ulps * unit.max(1e-45)
        };
        prop_assert!(close(transcendental::ex2(v), wide.exp2(), 1.0));
        prop_assert!(close(transcendental::tanh(v), wide.tanh(), 2.0));
        prop_assert!(close(transcendental::lg2(v.abs()), wide.abs().log2(), 1.0));
        prop_assert!((f64::from(transcendental::sin(v)) - wide.sin()).abs() < 6e-8);
        prop_assert!((f64::from(transcendental::cos(v)) - wide.cos()).abs() < 6e-8);
    }

    #[test]
    fn integers_become_floats_with_one_rounding(v: i64, shift in 0u32..63) {
        let v = v >> shift;
        let run = |op: Convert, x: u8| op.scalar([v as u64, 0, 0], x);
        prop_assert_eq!(run(Convert::S64ToF32, 0) as u32, (v as f32).to_bits());
        prop_assert_eq!(run(Convert::U64ToF32, 0) as u32, (v as u64 as f32).to_bits());
        prop_assert_eq!(run(Convert::S64ToF64, 0), (v as f64).to_bits());
        for (x, sign) in [(2u8, -1i128), (3, 1)] {
            let f = f32::from_bits(run(Convert::S64ToF32, x) as u32);
            prop_assert!((f as i128 - i128::from(v)) * sign >= 0);
            let d = f64::from_bits(run(Convert::S64ToF64, x));
            prop_assert!((d as i128 - i128::from(v)) * sign >= 0);
        }
    }
}

#[test]
fn every_half_survives_widening() {
    for h in 0..=0xffffu32 {
        let wide = ::half::f16::from_bits(h as u16);
        if !wide.is_nan() {
            assert_eq!(f16_to_f32(h).to_bits(), wide.to_f32().to_bits(), "{h:x}");
            assert_eq!(f32_to_f16(f16_to_f32(h)), h);
            assert_eq!(
                Convert::F16ToF32.scalar([u64::from(h), 0, 0], 0) as u32,
                wide.to_f32().to_bits()
            );
        }
        let wide = ::half::bf16::from_bits(h as u16);
        if !wide.is_nan() {
            assert_eq!(bf16_to_f32(h), wide.to_f32());
            assert_eq!(f32_to_bf16(wide.to_f32()), h);
        }
    }
}

#[test]
fn half_arithmetic_is_rounded_once() {
    // 1 + 2^-11 is a tie in f16 and goes to even; with another 2^-24 it must not.
    let h = |v: f32| u64::from(f32_to_f16(v));
    let fma = |a: f32, b: f32, c: f32| Half::Fma.scalar([h(a), h(b), h(c)], 0) as u32;
    let tiny = 2f32.powi(-12);
    assert_eq!(fma(tiny, 2.0, 1.0), f32_to_f16(1.0));
    assert_eq!(fma(tiny * 1.001, 2.0, 1.0), f32_to_f16(1.0 + 2f32.powi(-10)));
    assert_eq!(Half::Add.scalar([h(65504.0), h(16.0), 0], 0) as u32, 0x7c00);
    assert_eq!(Half::Min.scalar([h(-0.0), h(0.0), 0], 0) as u32, 0x8000);
    assert_eq!(Half::Max.scalar([0x7e00, h(1.0), 0], 0) as u32, f32_to_f16(1.0));
    assert_eq!(Half::Max.scalar([0x7e00, h(1.0), 0], half::NAN) as u32, half::NAN16);
}

#[test]
fn minimum_and_maximum_follow_the_specification() {
    let b = |v: f32| u64::from(v.to_bits());
    let run = |op: Float32, p: f32, q: f32, x| op.scalar([b(p), b(q), 0], x) as u32;
    assert_eq!(run(Float32::Min, 0.0, -0.0, 0), (-0.0f32).to_bits());
    assert_eq!(run(Float32::Max, -0.0, 0.0, 0), 0);
    assert_eq!(run(Float32::Min, f32::NAN, 2.0, 0), 2f32.to_bits());
    assert_eq!(run(Float32::Min, 2.0, f32::NAN, 0), 2f32.to_bits());
    assert_eq!(run(Float32::Min, f32::NAN, f32::NAN, 0), float32::CANONICAL);
    assert_eq!(run(Float32::Min, 2.0, f32::NAN, float32::NAN), float32::CANONICAL);
    assert_eq!(run(Float32::Min, -3.0, 2.0, float32::XORSIGN), (-2f32).to_bits());
    assert_eq!(run(Float32::Max, -3.0, -2.0, float32::XORSIGN), 3f32.to_bits());
    assert_eq!(run(Float32::Min, -5.0, -7.0, 0), (-7f32).to_bits());
}

#[test]
fn conversions_clamp_and_map_nan() {
    let f = |v: f32| [u64::from(v.to_bits()), 0, 0];
    let d = |v: f64| [v.to_bits(), 0, 0];
    assert_eq!(Convert::F32ToS32.scalar(f(3e9), 1) as u32, i32::MAX as u32);
    assert_eq!(Convert::F32ToU32.scalar(f(-5.0), 1), 0);
    assert_eq!(Convert::F32ToS32.scalar(f(f32::NAN), 1), 0);
    assert_eq!(Convert::F32ToS64.scalar(f(f32::NAN), 1), 1 << 63);
    assert_eq!(Convert::F64ToS64.scalar(d(-1e300), 1), 1 << 63);
    for (v, x, want) in [(2.5, 0, 2), (3.5, 0, 4), (-2.5, 1, -2), (-2.1, 2, -3), (2.1, 3, 3)] {
        assert_eq!(Convert::F32ToS32.scalar(f(v), x) as u32 as i32, want);
        assert_eq!(Convert::F64ToS32.scalar(d(f64::from(v)), x) as u32 as i32, want);
    }
    assert_eq!(Convert::ClampS.scalar([(-5i64) as u64, 0, 0], convert::RANGE_U8), 0);
    assert_eq!(Convert::ClampS.scalar([300, 0, 0], convert::RANGE_S8), 127);
    assert_eq!(Convert::ClampU.scalar([u64::MAX, 0, 0], convert::RANGE_S32), i32::MAX as u64);
    // The largest e4m3 is 448, the largest e5m2 57344.
    let pair = |a: f32, b: f32| [u64::from(a.to_bits()), u64::from(b.to_bits()), 0];
    assert_eq!(Convert::F32ToE4m3x2.scalar(pair(1000.0, -1.0), 0), 0x7eb8);
    assert_eq!(Convert::F32ToE5m2x2.scalar(pair(1e9, 0.0), 0), 0x7b00);
}
