//! The 16-bit floats: conversions written without branches so that they vectorise, and arithmetic through wider types.
//! f16 is IEEE binary16, bf16 the upper half of binary32. Source: PTX ISA 9.0, sections 5.2.3 and 9.7.4.

use super::lane_ops;
use super::rounding::{Rounding, add_odd, round_f64_to_f32};

/// The canonical NaN of both formats.
pub(crate) const NAN16: u32 = 0x7fff;

/// Widens the low half; exact.
#[inline(always)]
pub(crate) fn f16_to_f32(h: u32) -> f32 {
    let sign = (h & 0x8000) << 16;
    let magnitude = (h & 0x7fff) << 13;
    // Multiplying by 2^112 moves the exponent and normalises subnormals in one go; infinity and NaN need their own
    // exponent.
    let scaled = f32::from_bits(magnitude) * f32::from_bits(0x7780_0000);
    let special = if magnitude >= 0x0f80_0000 { 0x7f80_0000 } else { 0 };
    f32::from_bits(scaled.to_bits() | special | sign)
}

/// Narrows to the nearest f16, ties to even; a NaN becomes the canonical one.
#[inline(always)]
pub(crate) fn f32_to_f16(v: f32) -> u32 {
    let bits = v.to_bits();
    let sign = bits >> 16 & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    // Normal results: add half of the last place kept, less one when it is even.
    let normal = magnitude.wrapping_sub(0x3800_0000);
    let normal = normal.wrapping_add(0xfff + (normal >> 13 & 1)) >> 13;
    // Subnormal results: adding 0.5 leaves the rounded value in the low bits.
    let tiny = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let finite = if magnitude < 0x3880_0000 { tiny } else { normal };
    let finite = if finite > 0x7c00 { 0x7c00 } else { finite };
    let result = if magnitude > 0x7f80_0000 {
        return NAN16;
    } else if magnitude >= 0x4780_0000 {
        0x7c00
    } else {
        finite
    };
    result | sign
}

/// Widens the low half; exact.
#[inline(always)]
pub(crate) fn bf16_to_f32(h: u32) -> f32 {
    f32::from_bits(h << 16)
}

/// Narrows to the nearest bf16, ties to even; a NaN becomes the canonical one.
#[inline(always)]
pub(crate) fn f32_to_bf16(v: f32) -> u32 {
    let bits = v.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if v.is_nan() { NAN16 } else { rounded }
}

/// In `x`: subnormals become zero (f16 only).
pub(crate) const FTZ: u8 = 1;
/// In `x`: the result is clamped to 0..=1, a NaN becomes zero.
pub(crate) const SAT: u8 = 2;
/// In `x`: a negative result becomes zero, a NaN stays.
pub(crate) const RELU: u8 = 4;
/// In `x`: the operands are bf16 instead of f16.
pub(crate) const BF16: u8 = 8;
/// In `x` of min and max: a NaN operand gives a NaN.
pub(crate) const NAN: u8 = 16;
/// In `x` of min and max: the magnitudes are compared and the sign is the xor of the signs.
pub(crate) const XORSIGN: u8 = 32;

#[inline(always)]
fn widen(h: u32, x: u8) -> f32 {
    if x & BF16 != 0 {
        bf16_to_f32(h & 0xffff)
    } else {
        let v = f16_to_f32(h & 0xffff);
        if x & FTZ != 0 && v.abs() < 6.103_515_6e-5 { 0.0f32.copysign(v) } else { v }
    }
}

#[inline(always)]
fn narrow(v: f32, x: u8) -> u32 {
    let v = if x & SAT != 0 { if v > 0.0 { v.min(1.0) } else { 0.0 } } else { v };
    // A zero of either sign becomes +0, as on the GPU (H200, corpus kernel f16_ops).
    let v = if x & RELU != 0 && v <= 0.0 { 0.0 } else { v };
    if x & BF16 != 0 {
        f32_to_bf16(v)
    } else {
        let h = f32_to_f16(v);
        if x & FTZ != 0 && h & 0x7c00 == 0 { h & 0x8000 } else { h }
    }
}

/// a * b + c with one rounding: the product is exact in double precision, the sum is rounded to odd there.
#[inline(always)]
fn fused(a: f32, b: f32, c: f32, x: u8) -> u32 {
    let exact = add_odd(f64::from(a) * f64::from(b), f64::from(c));
    // Rounding to odd keeps enough of the value for the second rounding to be the only one that counts.
    narrow(round_f64_to_f32(exact, Rounding::Odd), x)
}

#[inline(always)]
fn extremum(a: u32, b: u32, x: u8, max: bool) -> u32 {
    let (mut va, mut vb) = (widen(a, x), widen(b, x));
    let sign = (a ^ b) & 0x8000;
    if x & XORSIGN != 0 {
        (va, vb) = (va.abs(), vb.abs());
    }
    // With equal values the bits decide, so that -0 is below +0.
    let a_first = if va == vb { va.is_sign_negative() } else { va < vb };
    let v = if va.is_nan() || vb.is_nan() {
        if x & NAN != 0 || (va.is_nan() && vb.is_nan()) {
            return NAN16;
        }
        if va.is_nan() { vb } else { va }
    } else if a_first != max {
        va
    } else {
        vb
    };
    let out = narrow(v, x);
    if x & XORSIGN != 0 { (out & 0x7fff) | sign } else { out }
}

#[inline(always)]
fn both(a: u32, b: u32, f: impl Fn(u32, u32) -> u32) -> u32 {
    f(a & 0xffff, b & 0xffff) | f(a >> 16, b >> 16) << 16
}

lane_ops! {
    /// Arithmetic on f16 and bf16 (x bit 3), one value or, as `…2`, two packed ones.
    Half, x;

    Add(a: u32, b: u32) -> u32 { narrow(widen(a, x) + widen(b, x), x) }
    Sub(a: u32, b: u32) -> u32 { narrow(widen(a, x) - widen(b, x), x) }
    Mul(a: u32, b: u32) -> u32 { narrow(widen(a, x) * widen(b, x), x) }
    Fma(a: u32, b: u32, c: u32) -> u32 { fused(widen(a, x), widen(b, x), widen(c, x), x) }
    Min(a: u32, b: u32) -> u32 { extremum(a, b, x, false) }
    Max(a: u32, b: u32) -> u32 { extremum(a, b, x, true) }
    Add2(a: u32, b: u32) -> u32 { both(a, b, |a, b| narrow(widen(a, x) + widen(b, x), x)) }
    Sub2(a: u32, b: u32) -> u32 { both(a, b, |a, b| narrow(widen(a, x) - widen(b, x), x)) }
    Mul2(a: u32, b: u32) -> u32 { both(a, b, |a, b| narrow(widen(a, x) * widen(b, x), x)) }
    Fma2(a: u32, b: u32, c: u32) -> u32 {
        fused(widen(a, x), widen(b, x), widen(c, x), x)
            | fused(widen(a >> 16, x), widen(b >> 16, x), widen(c >> 16, x), x) << 16
    }
    Min2(a: u32, b: u32) -> u32 { both(a, b, |a, b| extremum(a, b, x, false)) }
    Max2(a: u32, b: u32) -> u32 { both(a, b, |a, b| extremum(a, b, x, true)) }
    /// Clears the signs of both halves.
    Abs2(a: u32) -> u32 { a & 0x7fff_7fff }
    /// Clears the sign of the low half.
    Abs(a: u32) -> u32 { a & 0x7fff }
    Neg2(a: u32) -> u32 { a ^ 0x8000_8000 }
    Neg(a: u32) -> u32 { (a ^ 0x8000) & 0xffff }
    /// 2 to the power of.
    Ex2(a: u32) -> u32 { narrow(super::transcendental::ex2(widen(a, x)), x) }
    Ex2x2(a: u32) -> u32 {
        narrow(super::transcendental::ex2(widen(a, x)), x)
            | narrow(super::transcendental::ex2(widen(a >> 16, x)), x) << 16
    }
    Tanh(a: u32) -> u32 { narrow(super::transcendental::tanh(widen(a, x)), x) }
    Tanhx2(a: u32) -> u32 {
        narrow(super::transcendental::tanh(widen(a, x)), x)
            | narrow(super::transcendental::tanh(widen(a >> 16, x)), x) << 16
    }
}
