//! `cvt`: between integers and floats of every width. Source: PTX ISA 9.0, section 9.7.9.21.
//!
//! Integer to integer without saturation is sign or zero extension and lives in [`super::int32`] and [`super::int64`].
//! A NaN becomes the integer 0, or the lowest `.s64` / 2^63 where a 64-bit type takes part, as the specification says.

use super::float32::{self, CANONICAL};
use super::float64;
use super::half::{NAN16, bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use super::lane_ops;
use super::rounding::{Rounding, round_f64_to_f32};

/// In `x`: subnormals become zero.
pub(crate) const FTZ: u8 = 4;
/// In `x`: floats are clamped to 0..=1, a NaN becomes zero.
pub(crate) const SAT: u8 = 8;
/// In `x` of narrowing conversions: a negative result becomes zero.
pub(crate) const RELU: u8 = 16;
/// In `x` of narrowing conversions: overflow gives the largest finite value.
pub(crate) const SATFINITE: u8 = 32;
/// In `x` of `ToTf32`: ties away from zero.
pub(crate) const AWAY: u8 = 64;

/// Integer ranges for `Clamp…`, in `x`.
pub(crate) const RANGE_U8: u8 = 0;
pub(crate) const RANGE_S8: u8 = 1;
pub(crate) const RANGE_U16: u8 = 2;
pub(crate) const RANGE_S16: u8 = 3;
pub(crate) const RANGE_U32: u8 = 4;
pub(crate) const RANGE_S32: u8 = 5;
pub(crate) const RANGE_U64: u8 = 6;
pub(crate) const RANGE_S64: u8 = 7;

#[inline(always)]
fn range(x: u8) -> (i128, i128) {
    match x & 7 {
        RANGE_U8 => (0, 0xff),
        RANGE_S8 => (-0x80, 0x7f),
        RANGE_U16 => (0, 0xffff),
        RANGE_S16 => (-0x8000, 0x7fff),
        RANGE_U32 => (0, 0xffff_ffff),
        RANGE_S32 => (-0x8000_0000, 0x7fff_ffff),
        RANGE_U64 => (0, u64::MAX as i128),
        _ => (i64::MIN as i128, i64::MAX as i128),
    }
}

#[inline(always)]
fn whole32(v: f32, x: u8) -> f32 {
    match x & 3 {
        0 => v.round_ties_even(),
        1 => v.trunc(),
        2 => v.floor(),
        _ => v.ceil(),
    }
}

#[inline(always)]
fn whole64(v: f64, x: u8) -> f64 {
    match x & 3 {
        0 => v.round_ties_even(),
        1 => v.trunc(),
        2 => v.floor(),
        _ => v.ceil(),
    }
}

#[inline(always)]
fn f(a: u32, x: u8) -> f32 {
    f32::from_bits(if x & FTZ != 0 && a & 0x7f80_0000 == 0 { a & 0x8000_0000 } else { a })
}

/// An integer's magnitude to single precision, rounded as the low bits of `x` say.
#[inline(always)]
fn integer(negative: bool, magnitude: u64, mode: Rounding) -> f32 {
    // Bits beyond double precision are folded into one sticky bit: rounding to odd.
    let low = magnitude & 0x7ff;
    let sticky =
        if magnitude >> 53 != 0 && low != 0 { (magnitude & !0x7ff) | 0x800 } else { magnitude };
    let v = sticky as f64;
    round_f64_to_f32(if negative { -v } else { v }, mode)
}

/// An integer's magnitude to double precision.
#[inline(always)]
fn integer64(negative: bool, magnitude: u64, x: u8) -> f64 {
    let v = magnitude as f64;
    let exact = v as u128 == u128::from(magnitude);
    let grew = v as u128 > u128::from(magnitude);
    let up = match x & 3 {
        0 => grew,
        1 => false,
        2 => negative,
        _ => !negative,
    };
    let v = if exact || up == grew {
        v
    } else if up {
        v.next_up()
    } else {
        v.next_down()
    };
    if negative { -v } else { v }
}

/// Narrows to a 16-bit float: `nearest` and `widen` give the format.
#[inline(always)]
fn narrow(
    v: f32,
    x: u8,
    limit: u32,
    nearest: impl Fn(f32) -> u32,
    widen: impl Fn(u32) -> f32,
) -> u32 {
    if v.is_nan() {
        return NAN16;
    }
    let h = nearest(v);
    let back = widen(h);
    let h = if x & 3 == 0 || back == v {
        h
    } else {
        let toward = if back.abs() > v.abs() { h.wrapping_sub(1) } else { h };
        let away = match x & 3 {
            2 => v < 0.0,
            3 => v > 0.0,
            _ => false,
        };
        toward.wrapping_add(u32::from(away)) & 0xffff
    };
    let h = if x & SATFINITE != 0 && h & 0x7fff > limit { (h & 0x8000) | limit } else { h };
    if x & RELU != 0 && h & 0x8000 != 0 { 0 } else { h }
}

#[inline(always)]
fn to_f16(v: f32, x: u8) -> u32 {
    narrow(saturated(v, x), x, 0x7bff, f32_to_f16, f16_to_f32)
}

#[inline(always)]
fn to_bf16(v: f32, x: u8) -> u32 {
    narrow(saturated(v, x), x, 0x7f7f, f32_to_bf16, bf16_to_f32)
}

#[inline(always)]
fn saturated(v: f32, x: u8) -> f32 {
    if x & SAT != 0 { if v > 0.0 { if v < 1.0 { v } else { 1.0 } } else { 0.0 } } else { v }
}

/// An 8-bit float's parameters.
struct Small {
    mantissa: i32,
    bias: i32,
    largest: f64,
    nan: u32,
}

const E4M3: Small = Small { mantissa: 3, bias: 7, largest: 448.0, nan: 0x7f };
const E5M2: Small = Small { mantissa: 2, bias: 15, largest: 57_344.0, nan: 0x7f };

/// Narrows to the nearest 8-bit float; overflow gives the largest finite value (`.satfinite`).
fn to_small(v: f32, x: u8, format: &Small) -> u32 {
    if v.is_nan() {
        return format.nan;
    }
    let v = if x & RELU != 0 && v < 0.0 { 0.0 } else { v };
    let magnitude = f64::from(v).abs();
    let sign = u32::from(v.is_sign_negative()) << 7;
    // The exponent of the last place: of the number itself, or of the subnormals.
    let exponent = ((magnitude.to_bits() >> 52) as i32 - 1023).max(1 - format.bias);
    let quantum = f64::from_bits(((exponent - format.mantissa + 1023) as u64) << 52);
    let steps = (magnitude / quantum).round_ties_even();
    if steps * quantum > format.largest {
        return sign | small_bits(format.largest, format);
    }
    sign | small_bits(steps * quantum, format)
}

/// Bits of a representable non-negative value.
fn small_bits(v: f64, format: &Small) -> u32 {
    let exponent = (v.to_bits() >> 52) as i32 - 1023;
    if exponent < 1 - format.bias {
        let quantum = f64::from_bits(((1 - format.bias - format.mantissa + 1023) as u64) << 52);
        return (v / quantum) as u32;
    }
    let mantissa = (v.to_bits() >> (52 - format.mantissa)) as u32 & ((1 << format.mantissa) - 1);
    ((exponent + format.bias) as u32) << format.mantissa | mantissa
}

/// Widens an 8-bit float to f16 bits; exact.
fn small_to_f16(bits: u32, x: u8) -> u32 {
    let (sign, magnitude) = ((bits & 0x80) << 8, bits & 0x7f);
    let h = if x & 1 != 0 {
        // e5m2 is the upper byte of f16.
        if magnitude > 0x7c { return NAN16 } else { magnitude << 8 }
    } else if magnitude == 0x7f {
        return NAN16;
    } else {
        let (exponent, mantissa) = ((magnitude >> 3) as i32, magnitude & 7);
        let v = if exponent == 0 {
            f32::from(mantissa as u16) / 512.0
        } else {
            f32::from_bits(((exponent - 7 + 127) as u32) << 23 | mantissa << 20)
        };
        f32_to_f16(v)
    };
    let h = if x & RELU != 0 && sign != 0 { return 0 } else { h };
    h | sign
}

/// Keeps tf32's ten mantissa bits.
#[inline(always)]
fn to_tf32(a: u32, x: u8) -> u32 {
    let v = f32::from_bits(a);
    if v.is_nan() {
        return CANONICAL;
    }
    let r = if x & AWAY != 0 {
        a.wrapping_add(0x1000)
    } else if x & 3 == 0 {
        a.wrapping_add(0xfff + (a >> 13 & 1))
    } else {
        a
    };
    let r = if v.is_infinite() { a } else { r & !0x1fff };
    if x & RELU != 0 && r >> 31 != 0 { 0 } else { r }
}

lane_ops! {
    /// Conversions; x: rounding in bits 0 and 1 (nearest, zero, down, up), then the flags of this module.
    Convert, x;

    S32ToF32(a: u32) -> u32 { if x & 3 == 0 { (a as i32 as f32).to_bits() } else {
        integer((a as i32) < 0, u64::from((a as i32).unsigned_abs()), Rounding::from_bits(x)).to_bits()
    } }
    U32ToF32(a: u32) -> u32 { if x & 3 == 0 { (a as f32).to_bits() } else {
        integer(false, u64::from(a), Rounding::from_bits(x)).to_bits()
    } }
    S64ToF32(a: u64) -> u32 { integer((a as i64) < 0, (a as i64).unsigned_abs(), Rounding::from_bits(x)).to_bits() }
    U64ToF32(a: u64) -> u32 { integer(false, a, Rounding::from_bits(x)).to_bits() }
    S32ToF64(a: u32) -> u64 { f64::from(a as i32).to_bits() }
    U32ToF64(a: u32) -> u64 { f64::from(a).to_bits() }
    S64ToF64(a: u64) -> u64 { if x & 3 == 0 { (a as i64 as f64).to_bits() } else {
        integer64((a as i64) < 0, (a as i64).unsigned_abs(), x).to_bits()
    } }
    U64ToF64(a: u64) -> u64 { if x & 3 == 0 { (a as f64).to_bits() } else { integer64(false, a, x).to_bits() } }
    /// Through single precision rounded to odd, which leaves the second rounding correct.
    S64ToF16(a: u64) -> u32 { to_f16(integer((a as i64) < 0, (a as i64).unsigned_abs(), Rounding::Odd), x) }
    U64ToF16(a: u64) -> u32 { to_f16(integer(false, a, Rounding::Odd), x) }
    S64ToBf16(a: u64) -> u32 { to_bf16(integer((a as i64) < 0, (a as i64).unsigned_abs(), Rounding::Odd), x) }
    U64ToBf16(a: u64) -> u32 { to_bf16(integer(false, a, Rounding::Odd), x) }

    F32ToS32(a: u32) -> u32 { whole32(f(a, x), x) as i32 as u32 }
    F32ToU32(a: u32) -> u32 { whole32(f(a, x), x) as u32 }
    F32ToS64(a: u32) -> u64 { let v = f(a, x); if v.is_nan() { 1 << 63 } else { whole32(v, x) as i64 as u64 } }
    F32ToU64(a: u32) -> u64 { let v = f(a, x); if v.is_nan() { 1 << 63 } else { whole32(v, x) as u64 } }
    F32ToS16(a: u32) -> u32 { u32::from(whole32(f(a, x), x) as i16 as u16) }
    F32ToU16(a: u32) -> u32 { u32::from(whole32(f(a, x), x) as u16) }
    /// An 8-bit result, sign-extended to 32 bits.
    F32ToS8(a: u32) -> u32 { whole32(f(a, x), x) as i8 as i32 as u32 }
    F32ToU8(a: u32) -> u32 { u32::from(whole32(f(a, x), x) as u8) }
    F64ToS32(a: u64) -> u32 { let v = f64::from_bits(a); if v.is_nan() { 1 << 31 } else { whole64(v, x) as i32 as u32 } }
    F64ToU32(a: u64) -> u32 { let v = f64::from_bits(a); if v.is_nan() { 1 << 31 } else { whole64(v, x) as u32 } }
    F64ToS64(a: u64) -> u64 { let v = f64::from_bits(a); if v.is_nan() { 1 << 63 } else { whole64(v, x) as i64 as u64 } }
    F64ToU64(a: u64) -> u64 { let v = f64::from_bits(a); if v.is_nan() { 1 << 63 } else { whole64(v, x) as u64 } }
    F64ToS16(a: u64) -> u32 {
        let v = f64::from_bits(a);
        if v.is_nan() { 1 << 15 } else { u32::from(whole64(v, x) as i16 as u16) }
    }
    F64ToU16(a: u64) -> u32 { let v = f64::from_bits(a); if v.is_nan() { 1 << 15 } else { u32::from(whole64(v, x) as u16) } }

    F32ToF64(a: u32) -> u64 { float64::bits(f64::from(f(a, x))) }
    F64ToF32(a: u64) -> u32 {
        let v = saturated(round_f64_to_f32(f64::from_bits(a), Rounding::from_bits(x)), x);
        float32::flush(float32::bits(v), x)
    }
    /// Saturation and flushing only.
    F32ToF32(a: u32) -> u32 { float32::flush(float32::bits(saturated(f(a, x), x)), x) }
    /// To a whole number.
    WholeF32(a: u32) -> u32 { float32::flush(float32::bits(saturated(whole32(f(a, x), x), x)), x) }
    WholeF64(a: u64) -> u64 {
        let v = whole64(f64::from_bits(a), x);
        float64::bits(if x & SAT != 0 { if v > 0.0 { v.min(1.0) } else { 0.0 } } else { v })
    }
    SatF64(a: u64) -> u64 { let v = f64::from_bits(a); (if v > 0.0 { v.min(1.0) } else { 0.0 }).to_bits() }
    F16ToF32(a: u32) -> u32 { float32::bits(saturated(f16_to_f32(a & 0xffff), x)) }
    Bf16ToF32(a: u32) -> u32 { float32::bits(saturated(bf16_to_f32(a & 0xffff), x)) }
    F32ToF16(a: u32) -> u32 { to_f16(f(a, x), x) }
    F32ToBf16(a: u32) -> u32 { to_bf16(f(a, x), x) }
    F64ToF16(a: u64) -> u32 { to_f16(round_f64_to_f32(f64::from_bits(a), Rounding::Odd), x) }
    F64ToBf16(a: u64) -> u32 { to_bf16(round_f64_to_f32(f64::from_bits(a), Rounding::Odd), x) }
    WholeF16(a: u32) -> u32 { to_f16(whole32(f16_to_f32(a & 0xffff), x), x & !3) }
    WholeBf16(a: u32) -> u32 { to_bf16(whole32(bf16_to_f32(a & 0xffff), x), x & !3) }
    /// a into the upper half, b into the lower.
    F32ToF16x2(a: u32, b: u32) -> u32 { to_f16(f(a, x), x) << 16 | to_f16(f(b, x), x) }
    F32ToBf16x2(a: u32, b: u32) -> u32 { to_bf16(f(a, x), x) << 16 | to_bf16(f(b, x), x) }
    ToTf32(a: u32) -> u32 { to_tf32(a, x) }
    /// a into the upper byte, b into the lower.
    F32ToE4m3x2(a: u32, b: u32) -> u32 {
        to_small(f32::from_bits(a), x, &E4M3) << 8 | to_small(f32::from_bits(b), x, &E4M3)
    }
    F32ToE5m2x2(a: u32, b: u32) -> u32 {
        to_small(f32::from_bits(a), x, &E5M2) << 8 | to_small(f32::from_bits(b), x, &E5M2)
    }
    F16x2ToE4m3x2(a: u32) -> u32 {
        to_small(f16_to_f32(a >> 16), x, &E4M3) << 8 | to_small(f16_to_f32(a & 0xffff), x, &E4M3)
    }
    F16x2ToE5m2x2(a: u32) -> u32 {
        to_small(f16_to_f32(a >> 16), x, &E5M2) << 8 | to_small(f16_to_f32(a & 0xffff), x, &E5M2)
    }
    /// Two 8-bit floats to f16x2; x bit 0: e5m2 instead of e4m3.
    SmallToF16x2(a: u32) -> u32 { small_to_f16(a & 0xff, x) | small_to_f16(a >> 8 & 0xff, x) << 16 }

    /// a and b clamped to 16 bits (x: a `RANGE_`) into the upper and lower half.
    PackSat16(a: u32, b: u32) -> u32 {
        let (low, high) = range(x);
        let part = |v: u32| i128::from(v as i32).clamp(low, high) as u32 & 0xffff;
        part(a) << 16 | part(b)
    }
    /// a and b clamped to 8 bits into bytes 1 and 0, c's lower half above them.
    PackSat8(a: u32, b: u32, c: u32) -> u32 {
        let (low, high) = range(x);
        let part = |v: u32| i128::from(v as i32).clamp(low, high) as u32 & 0xff;
        c << 16 | part(a) << 8 | part(b)
    }

    /// A signed integer into the range coded in x.
    ClampS(a: u64) -> u64 { let (low, high) = range(x); i128::from(a as i64).clamp(low, high) as u64 }
    /// An unsigned integer into the range coded in x.
    ClampU(a: u64) -> u64 { let (_, high) = range(x); i128::from(a).min(high) as u64 }
}
