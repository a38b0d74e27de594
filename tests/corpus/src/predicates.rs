//! Comparison and selection (PTX ISA, Comparison and Selection Instructions).
use crate::integers::planes;
use crate::random::Random;
use crate::rounding::flush;
use crate::setup::{Setup, cover};
use crate::table::{Size, entries};

entries! {
    pred_ops in op_pred
        "setp in all comparisons, combined predicates, set, selp, slct, guards" [] pred_ops;
}

/// Bits in order, first one lowest.
fn word(bits: &[bool]) -> u32 {
    bits.iter().enumerate().fold(0, |w, (i, &b)| w | u32::from(b) << i)
}

fn row(a: u32, b: u32, f: f32, g: f32) -> Vec<u32> {
    let (sa, sb) = (a as i32, b as i32);
    let nan = f.is_nan() || g.is_nan();
    let positive = sa > 0;
    let mask = |yes: bool| if yes { u32::MAX } else { 0 };
    let (ua, ub) = (a < b, sa < sb);
    vec![
        word(&[
            a == b,
            a != b,
            sa < sb,
            sa <= sb,
            sa > sb,
            sa >= sb,
            a < b,
            a <= b,
            a > b,
            a >= b,
            a < b,
            a >= b,
        ]),
        word(&[
            f == g,
            f != g && !nan,
            f < g,
            f <= g,
            f > g,
            f >= g,
            f == g || nan,
            f != g,
            f < g || nan,
            f <= g || nan,
            f > g || nan,
            f >= g || nan,
            !nan,
            nan,
            f < g,
            f != g,
            flush(f) < flush(g),
        ]),
        word(&[sa < sb && positive, sa >= sb && positive]),
        word(&[sa < sb || !positive, sa >= sb || !positive]),
        word(&[(sa < sb) != positive]),
        mask(sa < sb),
        if a > b { 1.0f32.to_bits() } else { 0 },
        mask(f <= g),
        a,
        if (a ^ b) as i32 >= 0 { a } else { b },
        // slct looks at the sign by `c >= 0`: false for NaN.
        if f >= 0.0 { a } else { b },
        word(&[!((ua || ub) ^ (ua && ub))]),
        5u32.wrapping_add(if ua { a } else { b }),
        u32::from((a as u16 as i16).max(b as u16 as i16) as u16),
        a.max(b),
    ]
}

fn pred_ops(size: Size) -> Setup {
    let n = size.pick(500, 1 << 15);
    let mut r = Random::new("pred_ops");
    let a = r.edgy(n);
    let b: Vec<u32> =
        r.edgy(n).iter().zip(&a).map(|(&b, &a)| if b % 5 == 0 { a } else { b }).collect();
    let special =
        [0.0, -0.0, 1.0, -1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-40, -1e-40, 3.5];
    let mut floats = || -> Vec<f32> {
        (0..n)
            .map(|_| if r.below(3) == 0 { r.f32(-9.0, 9.0) } else { special[r.below(10) as usize] })
            .collect()
    };
    let (f, g) = (floats(), floats());
    let rows: Vec<Vec<u32>> = (0..n).map(|i| row(a[i], b[i], f[i], g[i])).collect();
    Setup::line(cover(n, 64), 64)
        .input(&a)
        .input(&b)
        .input(&f)
        .input(&g)
        .exact(&planes(&rows))
        .arg(n as u32)
}
