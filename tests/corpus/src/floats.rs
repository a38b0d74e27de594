//! f32 and f64 arithmetic (PTX ISA, Floating-Point Instructions) and the math library's functions.
use crate::element::Tolerance;
use crate::erf::erf;
use crate::integers::planes;
use crate::random::Random;
use crate::rounding::{Mode, add, add64, flush, fma, mul, mul64, saturate};
use crate::setup::{Setup, cover};
use crate::table::{Size, entries};

entries! {
    float_exact in op_float
        "f32 in all roundings, ftz, sat, min and max with NaN, testp" [] float_exact;
    float_approx in op_float "f32 approximations and library functions" [] float_approx;
    double_exact in op_double "f64 in all roundings, division, root" [] double_exact;
    double_math in op_double "f64 library functions" [] double_math;
}

const NEAREST: Mode = Mode::Nearest;

/// IEEE 754-2019 minimumNumber: a number before a NaN, -0 below +0.
pub(crate) fn min(a: f32, b: f32) -> f32 {
    if a.is_nan() || (!b.is_nan() && (b < a || (a == b && b.is_sign_negative()))) { b } else { a }
}

pub(crate) fn max(a: f32, b: f32) -> f32 {
    -min(-a, -b)
}

fn exact(a: f32, b: f32, c: f32) -> Vec<f32> {
    let nan = a.is_nan() || b.is_nan();
    let xorsign = min(a.abs(), b.abs());
    let sign = a.is_sign_negative() != b.is_sign_negative();
    vec![
        add(a, b, NEAREST),
        add(a, b, Mode::Zero),
        add(a, b, Mode::Down),
        add(a, b, Mode::Up),
        flush(flush(a) + flush(b)),
        saturate(a + b),
        a - b,
        add(a, -b, Mode::Up),
        mul(a, b, NEAREST),
        mul(a, b, Mode::Zero),
        mul(a, b, Mode::Down),
        mul(a, b, Mode::Up),
        flush(flush(a) * flush(b)),
        saturate(a * b),
        fma(a, b, c, NEAREST),
        fma(a, b, c, Mode::Zero),
        fma(a, b, c, Mode::Down),
        fma(a, b, c, Mode::Up),
        flush(flush(a).mul_add(flush(b), flush(c))),
        saturate(a.mul_add(b, c)),
        a / b,
        1.0 / a,
        a.sqrt(),
        min(a, b),
        max(a, b),
        if nan { f32::NAN } else { min(a, b) },
        if nan { f32::NAN } else { max(a, b) },
        if sign { -xorsign } else { xorsign },
        a.abs(),
        -a,
        flush(a.abs()),
        b.copysign(a),
    ]
}

fn float_exact(size: Size) -> Setup {
    let n = size.pick(1500, 1 << 15);
    let mut r = Random::new("float_exact");
    let special = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MAX,
        f32::MIN_POSITIVE,
        -f32::MIN_POSITIVE / 2.0,
        f32::from_bits(1),
        -f32::from_bits(3),
        1.0 + f32::EPSILON,
        16_777_216.0,
        -1e30,
    ];
    let mut floats = || -> Vec<f32> {
        (0..n)
            .map(|_| match r.below(4) {
                0 => special[r.below(16) as usize],
                1 => r.f32(-2.0, 2.0),
                2 => r.f32(-2.0, 2.0) * 2f32.powi(r.below(60) as i32 - 30),
                _ => r.f32(1.0, 2.0) * 2f32.powi(r.below(240) as i32 - 120),
            })
            .collect()
    };
    let (a, b, c) = (floats(), floats(), floats());
    let rows: Vec<Vec<f32>> = (0..n).map(|i| exact(a[i], b[i], c[i])).collect();
    // PTX ISA, testp: zeros count as normal.
    let tests: Vec<u32> = a
        .iter()
        .map(|x| {
            [
                x.is_finite(),
                x.is_infinite(),
                !x.is_nan(),
                x.is_nan(),
                x.is_normal() || *x == 0.0,
                x.is_subnormal(),
            ]
            .iter()
            .enumerate()
            .fold(0, |w, (i, &t)| w | u32::from(t) << i)
        })
        .collect();
    Setup::line(cover(n, 64), 64)
        .input(&a)
        .input(&b)
        .input(&c)
        .exact(&planes(&rows))
        .exact(&tests)
        .arg(n as u32)
}

fn near(relative: f64, absolute: f64) -> Tolerance {
    Tolerance::Near { relative, absolute }
}

fn float_approx(size: Size) -> Setup {
    let n = size.pick(300, 1 << 15);
    let mut r = Random::new("float_approx");
    let (a, b) = (r.f32s(n, 0.01, 3.0), r.f32s(n, 0.1, 4.0));
    type Function = fn(f64, f64) -> f64;
    // Bounds: PTX ISA for the instructions, CUDA Programming Guide (Mathematical Functions) for the
    // library, with a little room for emulators whose approximations round otherwise.
    let functions: [(Function, Tolerance); 21] = [
        (|a, b| a / b, Tolerance::Ulp(2)),
        (|a, b| a / b, Tolerance::Ulp(2)),
        (|a, _| 1.0 / a, Tolerance::Ulp(1)),
        (|a, _| 1.0 / a, Tolerance::Ulp(1)),
        (|a, _| a.sqrt(), Tolerance::Ulp(3)),
        (|a, _| 1.0 / a.sqrt(), near(2.5e-7, 0.0)),
        (|a, _| a.sin(), near(0.0, 6e-7)),
        (|a, _| a.cos(), near(0.0, 6e-7)),
        (|a, _| a.log2(), near(3e-7, 3e-7)),
        (|a, _| a.exp2(), near(3e-7, 0.0)),
        (|a, _| (-a).exp2(), near(3e-7, 0.0)),
        (|a, _| a.tanh(), near(6e-4, 0.0)),
        (|a, _| (-a).exp(), near(4e-7, 0.0)),
        (|a, _| a.ln(), near(3e-7, 3e-7)),
        (|a, _| f64::from(a as f32 * 3.0).sin(), near(3e-7, 1e-7)),
        (|a, _| f64::from(a as f32 * 3.0).cos(), near(3e-7, 1e-7)),
        (|a, _| a.tanh(), near(3e-7, 0.0)),
        (|a, b| a.powf(b), near(1e-6, 0.0)),
        (|a, b| a.atan2(b), near(4e-7, 0.0)),
        (|a, _| erf(a), near(3e-7, 0.0)),
        (|a, _| a.cbrt(), near(3e-7, 0.0)),
    ];
    let mut out: Vec<(Vec<f32>, Tolerance)> = functions
        .iter()
        .map(|(f, t)| {
            (a.iter().zip(&b).map(|(&a, &b)| f(f64::from(a), f64::from(b)) as f32).collect(), *t)
        })
        .collect();
    out.push((a.iter().zip(&b).map(|(&a, &b)| (a * 10.0) % b).collect(), Tolerance::Exact));
    Setup::line(cover(n, 64), 64).input(&a).input(&b).planes(&out).arg(n as u32)
}

fn double_exact(size: Size) -> Setup {
    let n = size.pick(800, 1 << 14);
    let mut r = Random::new("double_exact");
    let special = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        2.5,
        -3.5,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        1e-200,
        0.5,
        1e16,
    ];
    let mut doubles = |edges: u32| -> Vec<f64> {
        (0..n)
            .map(|_| match r.below(4) {
                0 => special[r.below(edges) as usize],
                1 => r.f64(-9.0, 9.0),
                _ => r.f64(-2.0, 2.0) * 2f64.powi(r.below(120) as i32 - 60),
            })
            .collect()
    };
    // b has no 1e-200: products of two such would underflow, where the remainder is no longer
    // exact.
    let (a, b, c) = (doubles(12), doubles(9), doubles(12));
    let number = |x: f64, y: f64| {
        if x.is_nan() || (!y.is_nan() && (y < x || (x == y && y.is_sign_negative()))) {
            y
        } else {
            x
        }
    };
    let rows: Vec<Vec<f64>> = (0..n)
        .map(|i| {
            let (a, b, c) = (a[i], b[i], c[i]);
            vec![
                add64(a, b, Mode::Nearest),
                add64(a, b, Mode::Zero),
                add64(a, b, Mode::Down),
                add64(a, b, Mode::Up),
                a - b,
                mul64(a, b, Mode::Nearest),
                mul64(a, b, Mode::Zero),
                mul64(a, b, Mode::Down),
                mul64(a, b, Mode::Up),
                a.mul_add(b, c),
                a / b,
                1.0 / a,
                a.abs().sqrt(),
                number(a, b),
                -number(-a, -b),
                a.abs(),
                -a,
                b.copysign(a),
                a.floor(),
                a.ceil(),
                a.round_ties_even(),
                a.trunc(),
            ]
        })
        .collect();
    Setup::line(cover(n, 64), 64).input(&a).input(&b).input(&c).exact(&planes(&rows)).arg(n as u32)
}

fn double_math(size: Size) -> Setup {
    let n = size.pick(200, 1 << 12);
    let mut r = Random::new("double_math");
    let a: Vec<f64> = (0..n).map(|_| r.f64(0.01, 3.0)).collect();
    let b: Vec<f64> = (0..n).map(|_| r.f64(0.1, 4.0)).collect();
    type Function = fn(f64, f64) -> f64;
    let functions: [(Function, f64); 12] = [
        (|a, _| (-a).exp(), 1e-15),
        (|a, _| a.ln(), 1e-15),
        (|a, _| a.sin(), 1e-15),
        (|a, _| (a * 1000.0).cos(), 1e-15),
        (|a, _| a.tanh(), 1e-15),
        (|a, b| a.powf(b), 1e-15),
        (|a, b| a.atan2(b), 1e-15),
        (|a, _| erf(a), 4e-15),
        (|a, _| a.cbrt(), 1e-15),
        (|a, _| 1.0 / a.sqrt(), 1e-15),
        (|a, _| 1.0 / a, 1e-6),
        (|a, _| 1.0 / a.sqrt(), 1e-6),
    ];
    let out: Vec<(Vec<f64>, Tolerance)> = functions
        .iter()
        .map(|&(f, relative)| {
            (a.iter().zip(&b).map(|(&a, &b)| f(a, b)).collect(), near(relative, 1e-15))
        })
        .collect();
    Setup::line(cover(n, 64), 64).input(&a).input(&b).planes(&out).arg(n as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minimum_prefers_numbers_and_negative_zero() {
        assert_eq!(min(0.0, -0.0).to_bits(), (-0.0f32).to_bits());
        assert_eq!(max(-0.0, 0.0).to_bits(), 0);
        assert_eq!((min(f32::NAN, 3.0), min(3.0, f32::NAN), max(f32::NAN, 3.0)), (3.0, 3.0, 3.0));
        assert!(min(f32::NAN, f32::NAN).is_nan());
        assert_eq!((min(2.0, 5.0), max(2.0, 5.0)), (2.0, 5.0));
    }
}
