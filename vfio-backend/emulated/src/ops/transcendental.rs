//! The approximate functions of the GPU (`ex2`, `lg2`, `sin`, `cos`, `tanh`), as polynomials in double precision that
//! vectorise and give the same bits on every host.
//!
//! They are nearer to the true value than the GPU's tables, so last bits differ from real hardware within the errors
//! that PTX ISA 9.0, sections 9.7.3.17 to 9.7.3.22, allows.

/// 2^x. Error below 1 ulp of f32.
#[inline(always)]
pub(crate) fn ex2(x: f32) -> f32 {
    let v = f64::from(x.clamp(-200.0, 200.0));
    let n = round(v);
    let f = (v - n) * std::f64::consts::LN_2;
    // e^f for |f| <= 0.347, Taylor to the tenth order: remainder below 1e-13.
    let mut p = 1.0 / 3_628_800.0;
    for c in [362_880.0, 40_320.0, 5_040.0, 720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0] {
        p = p * f + 1.0 / c;
    }
    // n is within -200..=200: a normal power of two.
    let scale = f64::from_bits(((n as i64 + 1023) as u64) << 52);
    (p * scale) as f32
}

/// Nearest integer for |v| < 2^51, ties to even, by adding and removing a large number.
#[inline(always)]
fn round(v: f64) -> f64 {
    const MAGIC: f64 = 6_755_399_441_055_744.0;
    (v + MAGIC) - MAGIC
}

/// Base-2 logarithm. Error below 1 ulp of f32.
#[inline(always)]
pub(crate) fn lg2(x: f32) -> f32 {
    // Subnormal floats are normal doubles.
    let bits = f64::from(x).to_bits();
    let low = bits & 0x000f_ffff_ffff_ffff;
    // Mantissa in sqrt(1/2)..sqrt(2).
    let up = u64::from(low >= 0x6_a09e_667f_3bcd);
    let m = f64::from_bits(low | (1023 - up) << 52);
    let e = (bits >> 52 & 0x7ff) as i64 - 1023 + up as i64;
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let mut p = 1.0 / 15.0;
    for c in [13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        p = p * z + 1.0 / c;
    }
    let value = (e as f64 + 2.0 * std::f64::consts::LOG2_E * s * p) as f32;
    let value = if x == 0.0 { f32::NEG_INFINITY } else { value };
    let value = if x == f32::INFINITY { f32::INFINITY } else { value };
    if x < 0.0 || x.is_nan() { f32::NAN } else { value }
}

/// Quadrant and remainder of x over pi / 2. Beyond about 2^50 the remainder is arbitrary but bounded.
#[inline(always)]
fn reduce(x: f32) -> (i64, f64) {
    let v = f64::from(x);
    let q = round((v * std::f64::consts::FRAC_2_PI).clamp(-1e15, 1e15));
    let r = v - q * 1.570_796_326_734_125_6;
    let r = r - q * 6.077_100_506_506_192e-11;
    (q as i64, r.clamp(-0.8, 0.8))
}

/// sin and cos on |r| <= pi / 4.
#[inline(always)]
fn kernels(r: f64) -> (f64, f64) {
    let z = r * r;
    let (mut s, mut c) = (-1.0 / 39_916_800.0, -1.0 / 3_628_800.0);
    for (a, b) in
        [(362_880.0, 40_320.0), (-5_040.0, -720.0), (120.0, 24.0), (-6.0, -2.0), (1.0, 1.0)]
    {
        s = s * z + 1.0 / a;
        c = c * z + 1.0 / b;
    }
    (s * r, c)
}

/// Sine; absolute error below 2^-24 for |x| < 2^20.
#[inline(always)]
pub(crate) fn sin(x: f32) -> f32 {
    let (q, r) = reduce(x);
    let (s, c) = kernels(r);
    let v = if q & 1 != 0 { c } else { s };
    let v = if q & 2 != 0 { -v } else { v };
    if x.is_finite() { v as f32 } else { f32::NAN }
}

/// Cosine; absolute error below 2^-24 for |x| < 2^20.
#[inline(always)]
pub(crate) fn cos(x: f32) -> f32 {
    let (q, r) = reduce(x);
    let (s, c) = kernels(r);
    let v = if q & 1 != 0 { s } else { c };
    let v = if (q + 1) & 2 != 0 { -v } else { v };
    if x.is_finite() { v as f32 } else { f32::NAN }
}

/// Hyperbolic tangent. Error below 2 ulp of f32.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let v = f64::from(x.clamp(-30.0, 30.0));
    let n = round(v * 2.0 * std::f64::consts::LOG2_E);
    let f = v * 2.0 - n * std::f64::consts::LN_2;
    let mut p = 1.0 / 3_628_800.0;
    for c in [362_880.0, 40_320.0, 5_040.0, 720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0] {
        p = p * f + 1.0 / c;
    }
    let e = p * f64::from_bits(((n as i64 + 1023) as u64) << 52);
    let large = 1.0 - 2.0 / (e + 1.0);
    // Near zero the subtraction above cancels; the series does not.
    let z = v * v;
    let small =
        v * (1.0 - z * (1.0 / 3.0 - z * (2.0 / 15.0 - z * (17.0 / 315.0 - z * (62.0 / 2835.0)))));
    let value = if z < 0.01 { small } else { large };
    if x.is_nan() { f32::NAN } else { value as f32 }
}
