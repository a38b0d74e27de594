//! Directed rounding, computed exactly: a result is a nearest value and an exact remainder, then
//! moved by one step.

use crate::element::Elem;
use half::{bf16, f16};

/// IEEE 754 rounding directions as PTX names them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// `.rn`
    Nearest,
    /// `.rz`
    Zero,
    /// `.rm`
    Down,
    /// `.rp`
    Up,
}

/// a + b as a double and the exact error (D. Knuth, TAOCP volume 2, 4.2.2, theorem B).
pub(crate) fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let s = a + b;
    let bb = s - a;
    (s, (a - (s - bb)) + (b - bb))
}

/// The exact value `hi + lo` (`lo` below half a step of `hi`) as f32 in a directed mode.
pub(crate) fn narrow(hi: f64, lo: f64, mode: Mode) -> f32 {
    let near = hi as f32;
    if !hi.is_finite() || mode == Mode::Nearest {
        return near;
    }
    let wide = f64::from(near);
    // -1 if the candidate lies below the exact value, 1 if above.
    let side = if wide < hi || (wide == hi && lo > 0.0) {
        -1
    } else if wide > hi || (wide == hi && lo < 0.0) {
        1
    } else {
        0
    };
    match (mode, side) {
        (Mode::Up, -1) => near.next_up(),
        (Mode::Down, 1) => near.next_down(),
        (Mode::Zero, 1) if hi > 0.0 => near.next_down(),
        (Mode::Zero, -1) if hi < 0.0 => near.next_up(),
        _ => near,
    }
}

/// The sign of an exact zero sum of `a` and `b`.
fn zero_sum(a: f64, b: f64, mode: Mode) -> f32 {
    if a == 0.0 && b == 0.0 && a.is_sign_negative() == b.is_sign_negative() {
        return a as f32;
    }
    if mode == Mode::Down { -0.0 } else { 0.0 }
}

pub(crate) fn add(a: f32, b: f32, mode: Mode) -> f32 {
    if mode == Mode::Nearest {
        return a + b;
    }
    fma(a, 1.0, b, mode)
}

pub(crate) fn mul(a: f32, b: f32, mode: Mode) -> f32 {
    if mode == Mode::Nearest {
        return a * b;
    }
    // 48 significant bits and exponents above -300: the double is exact.
    narrow(f64::from(a) * f64::from(b), 0.0, mode)
}

pub(crate) fn fma(a: f32, b: f32, c: f32, mode: Mode) -> f32 {
    if mode == Mode::Nearest {
        return a.mul_add(b, c);
    }
    let (p, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let (hi, lo) = two_sum(p, c);
    if !hi.is_finite() {
        return hi as f32;
    }
    if hi == 0.0 && lo == 0.0 {
        return zero_sum(p, c, mode);
    }
    narrow(hi, lo, mode)
}

/// Moves the nearest double to the directed one, given the exact remainder.
fn shift(near: f64, rest: f64, mode: Mode) -> f64 {
    if !near.is_finite() || rest == 0.0 {
        return near;
    }
    match mode {
        Mode::Up if rest > 0.0 => near.next_up(),
        Mode::Down if rest < 0.0 => near.next_down(),
        Mode::Zero if rest < 0.0 && near > 0.0 => near.next_down(),
        Mode::Zero if rest > 0.0 && near < 0.0 => near.next_up(),
        _ => near,
    }
}

/// a + b in double precision, no overflow near the limits expected.
pub(crate) fn add64(a: f64, b: f64, mode: Mode) -> f64 {
    let (near, rest) = two_sum(a, b);
    if near == 0.0 && mode != Mode::Nearest {
        return f64::from(zero_sum(a, b, mode));
    }
    shift(near, rest, mode)
}

/// a * b in double precision, no underflow expected.
pub(crate) fn mul64(a: f64, b: f64, mode: Mode) -> f64 {
    let near = a * b;
    shift(near, a.mul_add(b, -near), mode)
}

/// Subnormals become zero and keep their sign (`.ftz`).
pub(crate) fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0.0f32.copysign(x) } else { x }
}

/// Clamps to [0, 1]; NaN becomes 0 (`.sat`).
pub(crate) fn saturate(x: f32) -> f32 {
    if x > 0.0 { x.min(1.0) } else { 0.0 }
}

/// A 16-bit float type that counts along the number line by its bits.
pub(crate) trait Half: Elem + PartialOrd {
    /// Its value.
    fn wide(self) -> f64;
    /// The number whose bits are `x`.
    fn raw(x: u16) -> Self;
    /// Bits of infinity.
    const INFINITE: u16;
    /// What the next finite number after the largest would be.
    const LIMIT: f64;
}

impl Half for f16 {
    fn wide(self) -> f64 {
        self.to_f64()
    }
    fn raw(x: u16) -> Self {
        Self::from_bits(x)
    }
    const INFINITE: u16 = 0x7c00;
    const LIMIT: f64 = 65536.0;
}

impl Half for bf16 {
    fn wide(self) -> f64 {
        self.to_f64()
    }
    fn raw(x: u16) -> Self {
        Self::from_bits(x)
    }
    const INFINITE: u16 = 0x7f80;
    const LIMIT: f64 = 340_282_366_920_938_463_463_374_607_431_768_211_456.0;
}

/// The exact value `hi + lo` (`lo` below half a step of `hi`) rounded once to the nearest, ties to
/// even. (The `half` crate's conversions from f64 may go through f32 and round twice.)
pub(crate) fn half_of<H: Half>(hi: f64, lo: f64) -> H {
    if hi.is_nan() {
        return H::raw(0x7fff);
    }
    let sign = if hi.is_sign_negative() { 0x8000 } else { 0 };
    let (x, rest) = (hi.abs(), if sign == 0 { lo } else { -lo });
    let value = |bits: u16| if bits == H::INFINITE { H::LIMIT } else { H::raw(bits).wide() };
    // The largest finite number not above x, by bisection.
    let (mut low, mut high) = (0, H::INFINITE);
    while high - low > 1 {
        let middle = (low + high) / 2;
        if value(middle) <= x { low = middle } else { high = middle }
    }
    let halfway = f64::midpoint(value(low), value(low + 1));
    let up = x > halfway || (x == halfway && (rest > 0.0 || (rest == 0.0 && low % 2 == 1)));
    H::raw(sign | if up { low + 1 } else { low })
}

/// The nearest half of a double.
pub(crate) fn to_half<H: Half>(x: f64) -> H {
    half_of(x, 0.0)
}

/// a * b + c rounded once.
pub(crate) fn fused_half<H: Half>(a: H, b: H, c: H) -> H {
    // 22 bits of product are exact; the sum's remainder decides ties.
    let (hi, lo) = two_sum(a.wide() * b.wide(), c.wide());
    half_of(hi, lo)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn directed_results_enclose_the_exact_one_by_at_most_one_step() {
        let mut r = Random::new("rounding");
        for _ in 0..20_000 {
            let (a, b, c) = (r.f32(-2.0, 2.0), r.f32(-1e-3, 1e3), r.f32(-1e-4, 1e2));
            for (down, up, near, zero) in [
                (add(a, b, Mode::Down), add(a, b, Mode::Up), a + b, add(a, b, Mode::Zero)),
                (mul(a, b, Mode::Down), mul(a, b, Mode::Up), a * b, mul(a, b, Mode::Zero)),
                (
                    fma(a, b, c, Mode::Down),
                    fma(a, b, c, Mode::Up),
                    a.mul_add(b, c),
                    fma(a, b, c, Mode::Zero),
                ),
            ] {
                assert!(down <= near && near <= up);
                assert!(up == down || up == down.next_up());
                assert!(near == down || near == up);
                assert_eq!(zero, if near > 0.0 { down } else { up });
            }
            let exact = f64::from(a) + f64::from(b);
            assert!(
                f64::from(add(a, b, Mode::Down)) <= exact
                    && exact <= f64::from(add(a, b, Mode::Up))
            );
        }
    }

    #[test]
    fn zeros_overflow_and_the_last_bit() {
        assert_eq!(add(1.0, -1.0, Mode::Down).to_bits(), (-0.0f32).to_bits());
        assert_eq!(add(1.0, -1.0, Mode::Up).to_bits(), 0);
        assert_eq!(mul(f32::MAX, 2.0, Mode::Zero), f32::MAX);
        assert_eq!(mul(f32::MAX, 2.0, Mode::Up), f32::INFINITY);
        assert_eq!(mul(-f32::MAX, 2.0, Mode::Up), -f32::MAX);
        assert_eq!(add(1.0, f32::from_bits(1), Mode::Up), 1.0f32.next_up());
        assert_eq!(add(1.0, -f32::from_bits(1), Mode::Zero), 1.0f32.next_down());
        assert_eq!(add64(1.0, 1e-300, Mode::Up), 1.0f64.next_up());
    }

    #[test]
    fn halves_survive_and_midpoints_go_to_the_even_one() {
        for bits in 0..0x7c00u16 {
            let x = f16::from_bits(bits);
            assert_eq!(to_half::<f16>(-x.to_f64()).to_bits(), bits | 0x8000);
            let next = f16::from_bits(bits + 1);
            if next.is_finite() {
                let middle = f64::midpoint(x.to_f64(), next.to_f64());
                assert_eq!(to_half::<f16>(middle).to_bits(), bits + bits % 2);
                assert_eq!(half_of::<f16>(middle, 1e-30), next);
                assert_eq!(half_of::<f16>(middle, -1e-30), x);
                assert_eq!(to_half::<f16>(middle.next_down()), x);
            }
        }
        assert_eq!(to_half::<f16>(65519.0).to_bits(), 0x7bff);
        assert_eq!(to_half::<f16>(65520.0), f16::INFINITY);
        assert_eq!(to_half::<f16>(f64::NEG_INFINITY), f16::NEG_INFINITY);
        assert_eq!(to_half::<bf16>(1.0 + 1.0 / 256.0).to_f64(), 1.0);
        assert_eq!(to_half::<bf16>(1e39), bf16::INFINITY);
    }
}
