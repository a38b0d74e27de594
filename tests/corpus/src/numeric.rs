//! Bodies, fractals, transforms, finance, number theory.
use crate::element::Tolerance;
use crate::erf::erfc;
use crate::random::Random;
use crate::setup::{Setup, cover};
use crate::table::{Size, entries};
use std::f64::consts::PI;

entries! {
    nbody in nbody "accelerations of n bodies, dynamic shared tiles, rsqrtf" [] nbody;
    mandelbrot in mandelbrot "escape counts with every rounding written out" [] mandelbrot;
    fft512 in fft "radix-2 FFT of 512 points a block in shared memory, sincospif" [] fft512;
    black_scholes in blackscholes "European calls: expf, logf, sqrtf, erfcf" [] black_scholes;
    collatz in collatz "Collatz chain lengths: very uneven loops, 64-bit" [] collatz;
}

fn nbody(size: Size) -> Setup {
    let (n, block) = size.pick((128, 64), (2048, 128));
    let mut r = Random::new("nbody");
    let bodies: Vec<f32> =
        (0..n * 4).map(|i| if i % 4 == 3 { r.f32(0.1, 1.0) } else { r.f32(-1.0, 1.0) }).collect();
    let body = |i: usize| -> [f64; 4] { std::array::from_fn(|c| f64::from(bodies[i * 4 + c])) };
    let want: Vec<f32> = (0..n)
        .flat_map(|i| {
            let me = body(i);
            let mut a = [0.0f64; 4];
            for j in 0..n {
                let other = body(j);
                let d: [f64; 3] = std::array::from_fn(|c| other[c] - me[c]);
                let inv = 1.0 / (d.iter().map(|v| v * v).sum::<f64>() + f64::from(0.01f32)).sqrt();
                for c in 0..3 {
                    a[c] += d[c] * other[3] * inv * inv * inv;
                }
            }
            a.map(|v| v as f32)
        })
        .collect();
    let near = Tolerance::Near { relative: 1e-4, absolute: n as f64 * 2e-5 };
    Setup::line((n / block) as u32, block as u32)
        .shared(block as u32 * 16)
        .input(&bodies)
        .output(&want, near)
        .arg(n as u32)
        .arg(0.01f32)
}

fn mandelbrot(size: Size) -> Setup {
    let (w, h, limit) = size.pick((48, 30, 64), (512, 256, 256));
    let step = 3.0 / w as f32;
    let want: Vec<u32> = (0..w * h)
        .map(|p| {
            let (cx, cy) =
                (((p % w) as f32).mul_add(step, -2.0), ((p / w) as f32).mul_add(step, -1.0));
            let (mut x, mut y) = (0.0f32, 0.0f32);
            for i in 0..limit {
                let (xx, yy) = (x * x, y * y);
                if xx + yy > 4.0 {
                    return i;
                }
                y = (2.0 * x).mul_add(y, cy);
                x = (xx - yy) + cx;
            }
            limit
        })
        .collect();
    Setup::new([cover(w, 16), cover(h, 8), 1], [16, 8, 1])
        .exact(&want)
        .arg(w as u32)
        .arg(h as u32)
        .arg(-2.0f32)
        .arg(-1.0f32)
        .arg(step)
        .arg(limit)
}

type Complex = (f64, f64);

/// Recursive FFT of a power of two of points.
fn fft(x: &[Complex]) -> Vec<Complex> {
    if x.len() == 1 {
        return x.to_vec();
    }
    let half = x.len() / 2;
    let even = fft(&x.iter().copied().step_by(2).collect::<Vec<_>>());
    let odd = fft(&x.iter().copied().skip(1).step_by(2).collect::<Vec<_>>());
    let mut out = vec![(0.0, 0.0); x.len()];
    for k in 0..half {
        let (s, c) = (-PI * k as f64 / half as f64).sin_cos();
        let t = (odd[k].0 * c - odd[k].1 * s, odd[k].0 * s + odd[k].1 * c);
        out[k] = (even[k].0 + t.0, even[k].1 + t.1);
        out[k + half] = (even[k].0 - t.0, even[k].1 - t.1);
    }
    out
}

fn fft512(size: Size) -> Setup {
    let blocks = size.pick(2, 512);
    let x = Random::new("fft512").f32s(blocks * 1024, -1.0, 1.0);
    let want: Vec<f32> = x
        .chunks(1024)
        .flat_map(|run| {
            let points: Vec<Complex> =
                run.chunks(2).map(|p| (f64::from(p[0]), f64::from(p[1]))).collect();
            fft(&points).into_iter().flat_map(|(re, im)| [re as f32, im as f32])
        })
        .collect();
    // The norm of the output is about 20; rounding grows with the logarithm of the length.
    let near = Tolerance::Near { relative: 1e-6, absolute: 5e-5 };
    Setup::line(blocks as u32, 256).input(&x).output(&want, near)
}

fn black_scholes(size: Size) -> Setup {
    let n = size.pick(500, 1 << 19);
    let mut r = Random::new("black_scholes");
    let (spot, strike, years) =
        (r.f32s(n, 50.0, 150.0), r.f32s(n, 50.0, 150.0), r.f32s(n, 0.1, 3.0));
    let (rate, vol) = (0.02f32, 0.3f32);
    let want: Vec<f32> = (0..n)
        .map(|i| {
            let (s, k, t) = (f64::from(spot[i]), f64::from(strike[i]), f64::from(years[i]));
            let (rate, vol) = (f64::from(rate), f64::from(vol));
            let d1 = ((s / k).ln() + (rate + 0.5 * vol * vol) * t) / (vol * t.sqrt());
            let d2 = d1 - vol * t.sqrt();
            let normal = |d: f64| 0.5 * erfc(-d / 2f64.sqrt());
            (s * normal(d1) - k * (-rate * t).exp() * normal(d2)) as f32
        })
        .collect();
    let near = Tolerance::Near { relative: 1e-5, absolute: 2e-4 };
    Setup::line(cover(n, 128), 128)
        .input(&spot)
        .input(&strike)
        .input(&years)
        .output(&want, near)
        .arg(rate)
        .arg(vol)
        .arg(n as u32)
}

fn collatz(size: Size) -> Setup {
    let (n, start) = size.pick((500, 1u32), (1 << 18, 1_000_000));
    let want: Vec<u32> = (0..n)
        .map(|i| {
            let (mut v, mut steps) = (u64::from(start) + i as u64, 0);
            while v > 1 {
                v = if v % 2 == 1 { 3 * v + 1 } else { v / 2 };
                steps += 1;
            }
            steps
        })
        .collect();
    Setup::line(cover(n, 128), 128).exact(&want).arg(start).arg(n as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fft_agrees_with_the_definition() {
        let mut r = Random::new("dft");
        let x: Vec<Complex> = (0..64).map(|_| (r.f64(-1.0, 1.0), r.f64(-1.0, 1.0))).collect();
        for (k, got) in fft(&x).into_iter().enumerate() {
            let want = x.iter().enumerate().fold((0.0, 0.0), |sum, (j, v)| {
                let (s, c) = (-2.0 * PI * (j * k) as f64 / 64.0).sin_cos();
                (sum.0 + v.0 * c - v.1 * s, sum.1 + v.0 * s + v.1 * c)
            });
            assert!((got.0 - want.0).abs() < 1e-12 && (got.1 - want.1).abs() < 1e-12);
        }
    }

    #[test]
    fn two_bodies_attract_each_other() {
        let case = crate::find("nbody").unwrap().case(Size::Small);
        let want = &case.expects[0].values;
        let a: Vec<f32> =
            want.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let m: Vec<f32> = case.buffers[0]
            .initial
            .chunks(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        // Newton's third law: the sum of mass times acceleration vanishes.
        for c in 0..3 {
            let total: f64 =
                (0..128).map(|i| f64::from(m[i * 4 + 3]) * f64::from(a[i * 4 + c])).sum();
            assert!(total.abs() < 1e-2, "{total}");
        }
    }
}
