//! Double-precision arithmetic. Results that are NaN are the canonical one, so the same on every host.
//! Source: PTX ISA 9.0, section 9.7.3.
//!
//! `x` of the operations whose names end in `X`: bits 0 and 1 rounding (rz, rm, rp; never rn).

use super::lane_ops;
use super::rounding::Rounding;
use super::soft64;

/// The NaN the GPU makes (the runtime headers' `CUDART_NAN`).
pub(crate) const CANONICAL: u64 = 0xfff8_0000_0000_0000;

#[inline(always)]
fn d(a: u64) -> f64 {
    f64::from_bits(a)
}

/// Bits with every NaN made canonical.
#[inline(always)]
pub(crate) fn bits(v: f64) -> u64 {
    if v.is_nan() { CANONICAL } else { v.to_bits() }
}

/// Whether a result needs no rounding: an operand is zero, infinite or NaN.
#[inline(always)]
fn plain(v: f64) -> bool {
    v == 0.0 || !v.is_finite()
}

fn add_x(a: f64, b: f64, x: u8) -> u64 {
    let mode = Rounding::from_bits(x);
    if a == 0.0 && b == 0.0 {
        let differ = a.is_sign_negative() != b.is_sign_negative();
        return if differ && matches!(mode, Rounding::Down) { 1 << 63 } else { (a + b).to_bits() };
    }
    if plain(a) || plain(b) { bits(a + b) } else { soft64::add(a, b, mode).to_bits() }
}

fn mul_x(a: f64, b: f64, x: u8) -> u64 {
    if plain(a) || plain(b) {
        bits(a * b)
    } else {
        soft64::mul(a, b, Rounding::from_bits(x)).to_bits()
    }
}

fn fma_x(a: f64, b: f64, c: f64, x: u8) -> u64 {
    let mode = Rounding::from_bits(x);
    if plain(a) || plain(b) {
        return add_x(a * b, c, x);
    }
    if !c.is_finite() {
        return bits(a.mul_add(b, c));
    }
    if c == 0.0 { mul_x(a, b, x) } else { soft64::fma(a, b, c, mode).to_bits() }
}

fn div_x(a: f64, b: f64, x: u8) -> u64 {
    if plain(a) || plain(b) {
        bits(a / b)
    } else {
        soft64::div(a, b, Rounding::from_bits(x)).to_bits()
    }
}

fn sqrt_x(a: f64, x: u8) -> u64 {
    if plain(a) || a < 0.0 {
        bits(a.sqrt())
    } else {
        soft64::sqrt(a, Rounding::from_bits(x)).to_bits()
    }
}

/// min or max with PTX's NaN and zero rules.
#[inline(always)]
fn extremum(a: u64, b: u64, max: bool) -> u64 {
    let key = |v: u64| (v as i64) ^ (((v as i64) >> 63) as u64 >> 1) as i64;
    let a_wins = if max { key(a) > key(b) } else { key(a) < key(b) };
    let v = if a_wins { a } else { b };
    let v = if d(b).is_nan() { a } else { v };
    let v = if d(a).is_nan() { b } else { v };
    if d(a).is_nan() & d(b).is_nan() { CANONICAL } else { v }
}

lane_ops! {
    /// Double-precision operations.
    Float64, x;

    Add(a: u64, b: u64) -> u64 { bits(d(a) + d(b)) }
    Sub(a: u64, b: u64) -> u64 { bits(d(a) - d(b)) }
    Mul(a: u64, b: u64) -> u64 { bits(d(a) * d(b)) }
    Fma(a: u64, b: u64, c: u64) -> u64 { bits(d(a).mul_add(d(b), d(c))) }
    Div(a: u64, b: u64) -> u64 { bits(d(a) / d(b)) }
    Sqrt(a: u64) -> u64 { bits(d(a).sqrt()) }
    Rcp(a: u64) -> u64 { bits(1.0 / d(a)) }
    AddX(a: u64, b: u64) -> u64 { add_x(d(a), d(b), x) }
    SubX(a: u64, b: u64) -> u64 { add_x(d(a), -d(b), x) }
    MulX(a: u64, b: u64) -> u64 { mul_x(d(a), d(b), x) }
    FmaX(a: u64, b: u64, c: u64) -> u64 { fma_x(d(a), d(b), d(c), x) }
    DivX(a: u64, b: u64) -> u64 { div_x(d(a), d(b), x) }
    RcpX(a: u64) -> u64 { div_x(1.0, d(a), x) }
    SqrtX(a: u64) -> u64 { sqrt_x(d(a), x) }
    /// `rcp.approx.ftz`: the upper word of 1 / a, subnormals flushed.
    RcpApprox(a: u64) -> u64 {
        let a = if a & 0x7ff0_0000_0000_0000 == 0 { a & 1 << 63 } else { a };
        let r = bits(1.0 / d(a)) & 0xffff_ffff_0000_0000;
        if r & 0x7ff0_0000_0000_0000 == 0 { r & 1 << 63 } else { r }
    }
    /// `rsqrt.approx`.
    Rsqrt(a: u64) -> u64 { bits(1.0 / d(a).sqrt()) }
    Min(a: u64, b: u64) -> u64 { extremum(a, b, false) }
    Max(a: u64, b: u64) -> u64 { extremum(a, b, true) }
    Abs(a: u64) -> u64 { a & !(1 << 63) }
    Neg(a: u64) -> u64 { a ^ 1 << 63 }
    /// b with the sign of a.
    CopySign(a: u64, b: u64) -> u64 { (a & 1 << 63) | (b & !(1 << 63)) }
}
