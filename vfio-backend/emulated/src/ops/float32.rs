//! Single-precision arithmetic. Results that are NaN are the canonical one, 0x7fffffff, as on the GPU, and so the same
//! on every host. Source: PTX ISA 9.0, section 9.7.3.
//!
//! `x` of the operations whose names end in `X`: bits 0 and 1 rounding (rn, rz, rm, rp), then [`FTZ`] and [`SAT`].

use super::lane_ops;
use super::rounding::{Rounding, add_odd, div_odd, round_f64_to_f32, sqrt_odd};
use super::transcendental as fun;

/// In `x`: subnormal operands and results become zero.
pub(crate) const FTZ: u8 = 4;
/// In `x`: the result is clamped to 0..=1, a NaN becomes zero.
pub(crate) const SAT: u8 = 8;
/// In `x` of min and max: a NaN operand gives a NaN.
pub(crate) const NAN: u8 = 16;
/// In `x` of min and max: the magnitudes are compared and the sign is the xor of the signs.
pub(crate) const XORSIGN: u8 = 32;

/// The canonical NaN.
pub(crate) const CANONICAL: u32 = 0x7fff_ffff;

#[inline(always)]
fn f(a: u32) -> f32 {
    f32::from_bits(a)
}

/// Bits with every NaN made canonical.
#[inline(always)]
pub(crate) fn bits(v: f32) -> u32 {
    if v.is_nan() { CANONICAL } else { v.to_bits() }
}

/// Subnormals made zero when `x` says so.
#[inline(always)]
pub(crate) fn flush(a: u32, x: u8) -> u32 {
    if x & FTZ != 0 && a & 0x7f80_0000 == 0 { a & 0x8000_0000 } else { a }
}

#[inline(always)]
fn input(a: u32, x: u8) -> f32 {
    f(flush(a, x))
}

/// Saturates and flushes as `x` says.
#[inline(always)]
fn finish(v: f32, x: u8) -> u32 {
    let v =
        if x & SAT != 0 { if v > 0.0 { if v < 1.0 { v } else { 1.0 } } else { 0.0 } } else { v };
    flush(bits(v), x)
}

/// A sum of exact products or operands, rounded as `x` says. `exact` was rounded to odd.
#[inline(always)]
fn round_sum(exact: f64, zero_sign: bool, x: u8) -> u32 {
    let mode = Rounding::from_bits(x);
    // An exact zero from operands of different signs is -0 only when rounding down.
    let v = round_f64_to_f32(exact, mode);
    let v = if exact == 0.0 && zero_sign {
        if matches!(mode, Rounding::Down) { -0.0 } else { 0.0 }
    } else {
        v
    };
    finish(v, x)
}

#[inline(always)]
fn add_x(a: u32, b: u32, x: u8) -> u32 {
    let (a, b) = (input(a, x), input(b, x));
    if x & 3 == 0 {
        return finish(a + b, x);
    }
    let differ = a.is_sign_negative() != b.is_sign_negative();
    round_sum(add_odd(f64::from(a), f64::from(b)), differ, x)
}

#[inline(always)]
fn fma_x(a: u32, b: u32, c: u32, x: u8) -> u32 {
    let (a, b, c) = (input(a, x), input(b, x), input(c, x));
    if x & 3 == 0 {
        return finish(a.mul_add(b, c), x);
    }
    let product = f64::from(a) * f64::from(b);
    let differ = product.is_sign_negative() != c.is_sign_negative();
    round_sum(add_odd(product, f64::from(c)), differ, x)
}

/// min or max with PTX's NaN and zero rules.
#[inline(always)]
fn extremum(a: u32, b: u32, max: bool, x: u8) -> u32 {
    let (a, b) = (flush(a, x), flush(b, x));
    let sign = (a ^ b) & 0x8000_0000;
    let (a, b) = if x & XORSIGN != 0 { (a & !0x8000_0000, b & !0x8000_0000) } else { (a, b) };
    // As integers with the order of the floats: -0 comes out below +0.
    let key = |v: u32| (v as i32) ^ (((v as i32) >> 31) as u32 >> 1) as i32;
    let a_wins = if max { key(a) > key(b) } else { key(a) < key(b) };
    let (a_nan, b_nan) = (f(a).is_nan(), f(b).is_nan());
    let v = if a_wins { a } else { b };
    let v = if b_nan { a } else { v };
    let v = if a_nan { b } else { v };
    if (a_nan & b_nan) | (x & NAN != 0 && (a_nan | b_nan)) {
        CANONICAL
    } else if x & XORSIGN != 0 {
        v | sign
    } else {
        v
    }
}

lane_ops! {
    /// Single-precision operations.
    Float32, x;

    Add(a: u32, b: u32) -> u32 { bits(f(a) + f(b)) }
    Sub(a: u32, b: u32) -> u32 { bits(f(a) - f(b)) }
    Mul(a: u32, b: u32) -> u32 { bits(f(a) * f(b)) }
    Fma(a: u32, b: u32, c: u32) -> u32 { bits(f(a).mul_add(f(b), f(c))) }
    Div(a: u32, b: u32) -> u32 { bits(f(a) / f(b)) }
    Sqrt(a: u32) -> u32 { bits(f(a).sqrt()) }
    Rcp(a: u32) -> u32 { bits(1.0 / f(a)) }
    AddX(a: u32, b: u32) -> u32 { add_x(a, b, x) }
    SubX(a: u32, b: u32) -> u32 { add_x(a, b ^ 0x8000_0000, x) }
    MulX(a: u32, b: u32) -> u32 {
        let (a, b) = (input(a, x), input(b, x));
        // The product of two floats is exact in double precision.
        let v = if x & 3 == 0 { a * b } else { round_f64_to_f32(f64::from(a) * f64::from(b), Rounding::from_bits(x)) };
        finish(v, x)
    }
    FmaX(a: u32, b: u32, c: u32) -> u32 { fma_x(a, b, c, x) }
    DivX(a: u32, b: u32) -> u32 {
        let (a, b) = (input(a, x), input(b, x));
        finish(if x & 3 == 0 { a / b } else { round_f64_to_f32(div_odd(a, b), Rounding::from_bits(x)) }, x)
    }
    RcpX(a: u32) -> u32 {
        let a = input(a, x);
        finish(if x & 3 == 0 { 1.0 / a } else { round_f64_to_f32(div_odd(1.0, a), Rounding::from_bits(x)) }, x)
    }
    SqrtX(a: u32) -> u32 {
        let a = input(a, x);
        finish(if x & 3 == 0 { a.sqrt() } else { round_f64_to_f32(sqrt_odd(a), Rounding::from_bits(x)) }, x)
    }
    /// 1 / sqrt(a).
    Rsqrt(a: u32) -> u32 { finish(1.0 / input(a, x).sqrt(), x) }
    Min(a: u32, b: u32) -> u32 { extremum(a, b, false, x) }
    Max(a: u32, b: u32) -> u32 { extremum(a, b, true, x) }
    Abs(a: u32) -> u32 { flush(a, x) & 0x7fff_ffff }
    Neg(a: u32) -> u32 { flush(a, x) ^ 0x8000_0000 }
    /// b with the sign of a.
    CopySign(a: u32, b: u32) -> u32 { (a & 0x8000_0000) | (b & 0x7fff_ffff) }
    Ex2(a: u32) -> u32 { finish(fun::ex2(input(a, x)), x) }
    Lg2(a: u32) -> u32 { finish(fun::lg2(input(a, x)), x) }
    Sin(a: u32) -> u32 { finish(fun::sin(input(a, x)), x) }
    Cos(a: u32) -> u32 { finish(fun::cos(input(a, x)), x) }
    Tanh(a: u32) -> u32 { finish(fun::tanh(input(a, x)), x) }
}
