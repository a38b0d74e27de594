//! Matrix products in f32. Elements are whole numbers: every order of summation gives the same
//! exact result.
use crate::random::Random;
use crate::setup::Setup;
use crate::table::{Size, entries};

entries! {
    sgemm_naive in sgemm_naive "C = A B, one thread an element" [] sgemm_naive;
    sgemm_tiled in sgemm_tiled "C = A B, 16x16 shared tiles, any sizes" [] sgemm_tiled;
    sgemm_regs in sgemm_regs "C = A B, 64x64 tiles, 4x4 results a thread, float4" [] sgemm_regs;
}

/// Row-major A [m x k] times row-major B [k x n], summed in double precision.
pub(crate) fn product(a: &[f32], b: &[f32], m: usize, n: usize, k: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(m * n);
    let mut row = vec![0.0f64; n];
    for i in 0..m {
        row.fill(0.0);
        for p in 0..k {
            let x = f64::from(a[i * k + p]);
            for (sum, &y) in row.iter_mut().zip(&b[p * n..(p + 1) * n]) {
                *sum += x * f64::from(y);
            }
        }
        out.extend(row.iter().map(|&v| v as f32));
    }
    out
}

fn shape(name: &str, m: usize, n: usize, k: usize) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let mut r = Random::new(name);
    let (a, b) = (r.whole(m * k, 8), r.whole(k * n, 8));
    let c = product(&a, &b, m, n, k);
    (a, b, c)
}

fn sgemm_naive(size: Size) -> Setup {
    let (m, n, k) = size.pick((37, 41, 29), (192, 192, 192));
    let (a, b, c) = shape("sgemm_naive", m, n, k);
    Setup::new([(n as u32).div_ceil(16), (m as u32).div_ceil(8), 1], [16, 8, 1])
        .input(&a)
        .input(&b)
        .exact(&c)
        .arg(m as u32)
        .arg(n as u32)
        .arg(k as u32)
}

fn sgemm_tiled(size: Size) -> Setup {
    let (m, n, k) = size.pick((37, 41, 29), (256, 256, 256));
    let (a, b, c) = shape("sgemm_tiled", m, n, k);
    Setup::new([(n as u32).div_ceil(16), (m as u32).div_ceil(16), 1], [16, 16, 1])
        .input(&a)
        .input(&b)
        .exact(&c)
        .arg(m as u32)
        .arg(n as u32)
        .arg(k as u32)
}

fn sgemm_regs(size: Size) -> Setup {
    let (m, n, k) = size.pick((64, 128, 48), (512, 512, 256));
    let (a, b, c) = shape("sgemm_regs", m, n, k);
    Setup::new([(n / 64) as u32, (m / 64) as u32, 1], [256, 1, 1])
        .input(&a)
        .input(&b)
        .exact(&c)
        .arg(n as u32)
        .arg(k as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_product_agrees_with_the_definition() {
        let (m, n, k) = (5, 7, 3);
        let (a, b, c) = shape("test", m, n, k);
        for i in 0..m {
            for j in 0..n {
                let want: f64 =
                    (0..k).map(|p| f64::from(a[i * k + p]) * f64::from(b[p * n + j])).sum();
                assert_eq!(f64::from(c[i * n + j]), want);
            }
        }
    }

    #[test]
    fn a_product_with_the_identity_changes_nothing() {
        let a = Random::new("identity").whole(16, 8);
        let one: Vec<f32> = (0..16).map(|i| if i % 5 == 0 { 1.0 } else { 0.0 }).collect();
        assert_eq!(product(&a, &one, 4, 4, 4), a);
    }
}
