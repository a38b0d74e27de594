//! The error function, which the standard library lacks.

/// erf(x) to about 1e-15 (power series below 2, 1 - erfc above).
pub(crate) fn erf(x: f64) -> f64 {
    if x.abs() > 2.0 {
        return (1.0 - erfc_tail(x.abs())).copysign(x);
    }
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > 1e-17 * sum.abs() {
        n += 1.0;
        term *= -x * x / n;
        sum += term / (2.0 * n + 1.0);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

/// erfc(x) = 1 - erf(x), without cancellation for large x.
pub(crate) fn erfc(x: f64) -> f64 {
    if x > 2.0 {
        erfc_tail(x)
    } else if x < -2.0 {
        2.0 - erfc_tail(-x)
    } else {
        1.0 - erf(x)
    }
}

/// Continued fraction of erfc for x > 2, evaluated from the far end.
fn erfc_tail(x: f64) -> f64 {
    let mut f = 0.0;
    for k in (1..=200).rev() {
        f = f64::from(k) / 2.0 / (x + f);
    }
    (-x * x).exp() / (x + f) / std::f64::consts::PI.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        // Abramowitz and Stegun, Handbook of Mathematical Functions, table 7.1.
        for (x, want) in
            [(0.0, 0.0), (0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0)]
        {
            assert!((erf(x) - want).abs() < 1e-10, "erf({x}) = {}", erf(x));
            assert!((erf(-x) + want).abs() < 1e-10);
        }
        assert!((erfc(3.0) / 2.209_049_699_858_544e-5 - 1.0).abs() < 1e-12);
        assert!((erf(2.0 + 1e-9) - erf(2.0 - 1e-9)).abs() < 1e-10);
    }
}
