//! Rounding other than to nearest, without touching the processor's rounding mode: results are computed in double
//! precision *rounded to odd* and then rounded once to where they belong.
//!
//! Rounding to odd to at least p + 2 bits followed by any rounding to p bits equals rounding once (Boldo and Melquiond,
//! "Emulation of a FMA and correctly rounded sums: proved algorithms using rounding to odd").

/// A rounding mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// To nearest, ties to even.
    Nearest,
    /// Towards zero.
    Zero,
    /// Down.
    Down,
    /// Up.
    Up,
    /// Towards zero with the last bit set when inexact: an intermediate for a second rounding.
    Odd,
}

impl Rounding {
    /// From the low two bits of an instruction's `x`: 0 rn, 1 rz, 2 rm, 3 rp.
    #[inline(always)]
    pub(crate) fn from_bits(x: u8) -> Self {
        match x & 3 {
            0 => Self::Nearest,
            1 => Self::Zero,
            2 => Self::Down,
            _ => Self::Up,
        }
    }
}

/// `v` with `error` (the exact remainder) folded in by rounding to odd.
#[inline(always)]
fn to_odd(v: f64, error: f64) -> f64 {
    let bits = v.to_bits();
    // The remainder points away from zero when its sign is v's.
    let away = (error.to_bits() ^ bits) >> 63 == 0;
    let truncated = if away { bits } else { bits.wrapping_sub(1) };
    let inexact = error != 0.0 && v.is_finite();
    f64::from_bits(if inexact { truncated | 1 } else { bits })
}

/// a + b in double precision, rounded to odd. Exact operands of f32 products never overflow here.
#[inline(always)]
pub(crate) fn add_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    let b_part = sum - a;
    let error = (a - (sum - b_part)) + (b - b_part);
    to_odd(sum, if error.is_nan() { 0.0 } else { error })
}

/// a / b for f32 operands, rounded to odd in double precision.
#[inline(always)]
pub(crate) fn div_odd(a: f32, b: f32) -> f64 {
    let (a, b) = (f64::from(a), f64::from(b));
    let q = a / b;
    let rest = (-q).mul_add(b, a);
    // The remainder's sign relative to the quotient's: dividing by b carries b's sign.
    let error = if b < 0.0 { -rest } else { rest };
    to_odd(q, if error.is_nan() { 0.0 } else { error })
}

/// Square root of an f32, rounded to odd in double precision.
#[inline(always)]
pub(crate) fn sqrt_odd(a: f32) -> f64 {
    let a = f64::from(a);
    let r = a.sqrt();
    let error = (-r).mul_add(r, a);
    to_odd(r, if error.is_nan() { 0.0 } else { error })
}

/// Rounds a double to single precision. The double is exact, or was rounded to odd.
#[inline(always)]
pub(crate) fn round_f64_to_f32(v: f64, mode: Rounding) -> f32 {
    let nearest = v as f32;
    if matches!(mode, Rounding::Nearest) {
        return nearest;
    }
    let back = f64::from(nearest);
    if back == v || v.is_nan() {
        return nearest;
    }
    let bits = nearest.to_bits();
    // Neighbours by magnitude: `toward` is the one nearer to zero of the two that enclose v.
    let grew = back.abs() > v.abs();
    let toward = if grew { bits.wrapping_sub(1) } else { bits };
    let negative = v < 0.0;
    let out = match mode {
        Rounding::Zero => toward,
        Rounding::Down if negative => toward + 1,
        Rounding::Down => toward,
        Rounding::Up if negative => toward,
        Rounding::Up => toward + 1,
        Rounding::Odd => toward | 1,
        Rounding::Nearest => bits,
    };
    f32::from_bits(out)
}
