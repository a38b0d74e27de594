//! Double-precision arithmetic in integers, for the rounding modes that the processor is not set to. Slow and exact;
//! only `.rz`, `.rm` and `.rp` instructions come here. Operands that are infinite or NaN, and exact zeros, are left to the
//! processor by [`super::float64`].

use super::rounding::Rounding;

/// A non-zero finite number: (-1)^negative * significand * 2^exponent; `sticky` says that a little more follows.
#[derive(Clone, Copy, Debug)]
struct Exact {
    negative: bool,
    significand: u128,
    exponent: i32,
    sticky: bool,
}

/// Takes a finite, non-zero double apart.
fn unpack(v: f64) -> Exact {
    let bits = v.to_bits();
    let field = (bits >> 52 & 0x7ff) as i32;
    let low = bits & 0x000f_ffff_ffff_ffff;
    let (significand, exponent) =
        if field == 0 { (low, -1074) } else { (low | 1 << 52, field - 1075) };
    Exact {
        negative: v.is_sign_negative(),
        significand: u128::from(significand),
        exponent,
        sticky: false,
    }
}

/// Rounds to double precision, subnormals and overflow included.
fn pack(v: Exact, mode: Rounding) -> f64 {
    let sign = u64::from(v.negative) << 63;
    let width = 128 - v.significand.leading_zeros() as i32;
    if width == 0 {
        return f64::from_bits(sign | u64::from(v.sticky && away(v.negative, mode)));
    }
    // The last place kept: 53 bits, but never below 2^-1074.
    let shift = (width - 53).max(-1074 - v.exponent);
    let (kept, rest, half) = if shift <= 0 {
        (v.significand << -shift, 0, 0)
    } else if shift > 127 {
        (0, v.significand, u128::MAX)
    } else {
        (v.significand >> shift, v.significand & ((1 << shift) - 1), 1 << (shift - 1))
    };
    let inexact = rest != 0 || v.sticky;
    let up = match mode {
        Rounding::Nearest => {
            shift > 0 && (rest > half || (rest == half && (v.sticky || kept & 1 != 0)))
        }
        Rounding::Odd => inexact && kept & 1 == 0,
        _ => inexact && away(v.negative, mode),
    };
    let kept = kept as u64 + u64::from(up);
    let exponent = v.exponent + shift;
    // Adding the field to the significand carries into the exponent by itself.
    let field = (exponent + 1074) as i64;
    let (field, kept) = if kept < 1 << 52 { (0, kept) } else { (field, kept) };
    if field >= 2046 || (field == 2045 && kept == 1 << 53) {
        let infinite = mode == Rounding::Nearest || away(v.negative, mode);
        return f64::from_bits(
            sign | if infinite { 0x7ff0_0000_0000_0000 } else { 0x7fef_ffff_ffff_ffff },
        );
    }
    f64::from_bits(sign | ((field as u64) << 52).wrapping_add(kept))
}

/// Whether a directed mode grows the magnitude of an inexact number.
fn away(negative: bool, mode: Rounding) -> bool {
    matches!((mode, negative), (Rounding::Up, false) | (Rounding::Down, true))
}

/// Adds two exact numbers. The larger is kept in the upper bits, the smaller shifted with a sticky bit.
fn sum(a: Exact, b: Exact, mode: Rounding) -> f64 {
    // Both left-justified below the top two bits.
    let lift = |v: Exact| {
        let shift = v.significand.leading_zeros() as i32 - 2;
        Exact { significand: v.significand << shift, exponent: v.exponent - shift, ..v }
    };
    let (a, b) = (lift(a), lift(b));
    let (large, small) =
        if (a.exponent, a.significand) >= (b.exponent, b.significand) { (a, b) } else { (b, a) };
    let distance = (large.exponent - small.exponent) as u32;
    let (aligned, lost) = if distance > 127 {
        (0, true)
    } else {
        let kept = small.significand >> distance;
        (kept, kept << distance != small.significand)
    };
    let same = large.negative == small.negative;
    let significand = if same {
        large.significand + aligned
    } else {
        // The bits lost belong to what is taken away.
        large.significand - aligned - u128::from(lost)
    };
    if significand == 0 && !lost {
        return if matches!(mode, Rounding::Down) { -0.0 } else { 0.0 };
    }
    pack(
        Exact { negative: large.negative, significand, exponent: large.exponent, sticky: lost },
        mode,
    )
}

/// a + b for finite non-zero operands.
pub(crate) fn add(a: f64, b: f64, mode: Rounding) -> f64 {
    sum(unpack(a), unpack(b), mode)
}

/// a * b for finite non-zero operands.
pub(crate) fn mul(a: f64, b: f64, mode: Rounding) -> f64 {
    pack(product(a, b), mode)
}

fn product(a: f64, b: f64) -> Exact {
    let (a, b) = (unpack(a), unpack(b));
    Exact {
        negative: a.negative != b.negative,
        significand: a.significand * b.significand,
        exponent: a.exponent + b.exponent,
        sticky: false,
    }
}

/// a * b + c for finite non-zero operands.
pub(crate) fn fma(a: f64, b: f64, c: f64, mode: Rounding) -> f64 {
    sum(product(a, b), unpack(c), mode)
}

/// a / b for finite non-zero operands.
pub(crate) fn div(a: f64, b: f64, mode: Rounding) -> f64 {
    let (a, b) = (unpack(a), unpack(b));
    // 75 bits of head room: the quotient has at least 75 - 53 + ... = 64 significant bits even for subnormals.
    let top = a.significand.leading_zeros() as i32;
    let numerator = a.significand << top;
    let quotient = numerator / b.significand;
    let sticky = !numerator.is_multiple_of(b.significand);
    let negative = a.negative != b.negative;
    pack(
        Exact { negative, significand: quotient, exponent: a.exponent - top - b.exponent, sticky },
        mode,
    )
}

/// Square root of a finite positive operand.
pub(crate) fn sqrt(a: f64, mode: Rounding) -> f64 {
    let a = unpack(a);
    let mut shift = a.significand.leading_zeros() as i32;
    if (a.exponent - shift) % 2 != 0 {
        shift -= 1;
    }
    let radicand = a.significand << shift;
    let root = radicand.isqrt();
    let sticky = root * root != radicand;
    pack(
        Exact { negative: false, significand: root, exponent: (a.exponent - shift) / 2, sticky },
        mode,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number() -> impl Strategy<Value = f64> {
        any::<u64>().prop_map(f64::from_bits).prop_filter("finite", |v| v.is_finite() && *v != 0.0)
    }

    /// Numbers near each other, where cancellation happens.
    fn near() -> impl Strategy<Value = (f64, f64)> {
        (number(), -4i64..4, any::<bool>()).prop_map(|(a, d, n)| {
            let b = f64::from_bits(a.to_bits().wrapping_add_signed(d));
            (a, if n { -b } else { b })
        })
    }

    proptest! {
        #[test]
        fn nearest_is_the_processors(a in number(), b in number(), c in number()) {
            let m = Rounding::Nearest;
            prop_assert_eq!(add(a, b, m).to_bits(), (a + b).to_bits());
            prop_assert_eq!(mul(a, b, m).to_bits(), (a * b).to_bits());
            prop_assert_eq!(div(a, b, m).to_bits(), (a / b).to_bits());
            prop_assert_eq!(fma(a, b, c, m).to_bits(), a.mul_add(b, c).to_bits());
            prop_assert_eq!(sqrt(a.abs(), m).to_bits(), a.abs().sqrt().to_bits());
        }

        #[test]
        fn cancellation_is_exact((a, b) in near(), (c, _) in near()) {
            let m = Rounding::Nearest;
            prop_assume!(b.is_finite() && b != 0.0);
            prop_assert_eq!(add(a, b, m).to_bits(), (a + b).to_bits());
            // The functions take finite operands that are not zero; their callers see to that.
            let rest = -(a * c);
            prop_assume!(rest.is_finite() && rest != 0.0);
            prop_assert_eq!(fma(a, c, rest, m).to_bits(), a.mul_add(c, rest).to_bits());
        }

        #[test]
        fn directed_cancellation_encloses((a, b) in near(), (c, _) in near()) {
            prop_assume!(b.is_finite() && b != 0.0);
            let rest = -(a * c).next_up();
            prop_assume!(rest.is_finite() && rest != 0.0);
            let (down, up) = (add(a, b, Rounding::Down), add(a, b, Rounding::Up));
            prop_assert!(down <= a + b && a + b <= up);
            prop_assert!(down == up || down.next_up() == up);
            let nearest = a.mul_add(c, rest);
            let (down, up) = (fma(a, c, rest, Rounding::Down), fma(a, c, rest, Rounding::Up));
            prop_assert!(down <= nearest && nearest <= up);
            prop_assert!(down == up || down.next_up() == up);
            if nearest == 0.0 && down == up {
                // An exact zero from operands of different signs.
                prop_assert!(down.is_sign_negative() && up.is_sign_positive());
            }
        }

        #[test]
        fn directed_results_enclose(a in number(), b in number()) {
            for (f, nearest) in [
                (add as fn(f64, f64, Rounding) -> f64, a + b), (mul, a * b), (div, a / b),
            ] {
                let (down, up) = (f(a, b, Rounding::Down), f(a, b, Rounding::Up));
                prop_assert!(down <= nearest && nearest <= up);
                prop_assert!(down == up || down.next_up() == up);
                let zero = f(a, b, Rounding::Zero);
                let toward = if nearest.is_sign_negative() { up } else { down };
                prop_assert!(zero == toward);
            }
        }
    }
}
