//! f16 and bf16 arithmetic (PTX ISA, Half Precision Floating-Point Instructions).
use crate::element::Tolerance;
use crate::floats::{max, min};
use crate::integers::planes;
use crate::random::Random;
use crate::rounding::{Half, fused_half, to_half};
use crate::setup::{Setup, cover};
use crate::table::{Size, entries};
use half::{bf16, f16};

entries! {
    f16_ops in op_half "f16 and f16x2 arithmetic, relu, sat, comparisons" [] f16_ops;
    bf16_ops in op_half "bf16 and bf16x2 arithmetic, comparisons" [] bf16_ops;
    f16_approx in op_half "ex2, tanh, exp, square roots in f16" [] f16_approx;
}

fn least<H: Half>(a: H, b: H) -> H {
    // Every half is an f32.
    to_half(f64::from(min(a.wide() as f32, b.wide() as f32)))
}

fn most<H: Half>(a: H, b: H) -> H {
    to_half(f64::from(max(a.wide() as f32, b.wide() as f32)))
}

fn values<H: Half>(r: &mut Random, n: usize) -> Vec<H> {
    let special =
        [0.0, -0.0, 1.0, -1.0, 0.5, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 6e-8, 60000.0];
    (0..n)
        .map(|_| match r.below(4) {
            0 => to_half(special[r.below(10) as usize]),
            1 => to_half(r.f64(-1.5, 1.5)),
            _ => to_half(r.f64(-2.0, 2.0) * 2f64.powi(r.below(16) as i32 - 8)),
        })
        .collect()
}

fn f16_row(a: f16, b: f16, c: f16) -> Vec<f16> {
    let sum = a.to_f64() + b.to_f64();
    // .relu clamps negative results to +0 and keeps NaN (as the canonical one).
    let relu = fused_half(a, b, c);
    vec![
        to_half(sum),
        to_half(a.wide() - b.wide()),
        to_half(a.wide() * b.wide()),
        fused_half(a, b, c),
        if relu.is_nan() { relu } else { most(relu, f16::ZERO) },
        to_half(if sum > 0.0 { sum.min(1.0) } else { 0.0 }),
        least(a, b),
        most(a, b),
        if a.is_nan() || b.is_nan() { f16::NAN } else { most(a, b) },
        -a,
        to_half(a.wide().abs()),
        to_half(sum),
        to_half(b.wide() + c.wide()),
        fused_half(a, b, c),
        fused_half(b, c, a),
        least(a, b),
        least(b, c),
        f16::raw(u16::from(a < b) | u16::from(b < c) << 1),
        f16::raw(u16::from(a >= b)),
    ]
}

fn f16_ops(size: Size) -> Setup {
    let n = size.pick(600, 1 << 15);
    let mut r = Random::new("f16_ops");
    let (a, b, c): (Vec<f16>, Vec<f16>, Vec<f16>) =
        (values(&mut r, n), values(&mut r, n), values(&mut r, n));
    let rows: Vec<Vec<f16>> = (0..n).map(|i| f16_row(a[i], b[i], c[i])).collect();
    Setup::line(cover(n, 64), 64).input(&a).input(&b).input(&c).exact(&planes(&rows)).arg(n as u32)
}

fn bf16_row(a: bf16, b: bf16, c: bf16) -> Vec<bf16> {
    vec![
        to_half(a.wide() + b.wide()),
        to_half(a.wide() - b.wide()),
        to_half(a.wide() * b.wide()),
        fused_half(a, b, c),
        least(a, b),
        most(a, b),
        -a,
        to_half(a.wide().abs()),
        fused_half(a, b, c),
        fused_half(b, c, a),
        most(a, b),
        most(b, c),
        bf16::raw(u16::from(a < b)),
    ]
}

fn bf16_ops(size: Size) -> Setup {
    let n = size.pick(600, 1 << 15);
    let mut r = Random::new("bf16_ops");
    let (a, b, c): (Vec<bf16>, Vec<bf16>, Vec<bf16>) =
        (values(&mut r, n), values(&mut r, n), values(&mut r, n));
    let rows: Vec<Vec<bf16>> = (0..n).map(|i| bf16_row(a[i], b[i], c[i])).collect();
    Setup::line(cover(n, 64), 64).input(&a).input(&b).input(&c).exact(&planes(&rows)).arg(n as u32)
}

fn f16_approx(size: Size) -> Setup {
    let n = size.pick(300, 1 << 15);
    let mut r = Random::new("f16_approx");
    let a: Vec<f16> = (0..n).map(|_| to_half(r.f64(0.1, 4.0))).collect();
    let functions: [fn(f64) -> f64; 5] =
        [f64::exp2, f64::tanh, f64::exp, |x| 1.0 / x.sqrt(), f64::sqrt];
    let near = Tolerance::Near { relative: 2e-3, absolute: 0.0 };
    let out: Vec<(Vec<f16>, Tolerance)> = functions
        .iter()
        .map(|f| (a.iter().map(|x| to_half(f(x.to_f64()))).collect(), near))
        .collect();
    Setup::line(cover(n, 64), 64).input(&a).planes(&out).arg(n as u32)
}
