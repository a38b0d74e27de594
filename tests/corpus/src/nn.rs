//! Softmax and layer norm.
use crate::element::Tolerance;
use crate::random::Random;
use crate::setup::{Setup, cover};
use crate::table::{Size, entries};

entries! {
    softmax in softmax "softmax of rows, one block a row, expf" [] softmax;
    layernorm in layernorm "layer norm of rows, one warp a row, rsqrtf" [] layernorm;
}

/// Softmax of each row in double precision.
pub(crate) fn softmax_rows(x: &[f32], cols: usize) -> Vec<f32> {
    x.chunks(cols)
        .flat_map(|row| {
            let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let e: Vec<f64> = row.iter().map(|&v| (f64::from(v) - f64::from(top)).exp()).collect();
            let sum: f64 = e.iter().sum();
            e.into_iter().map(move |v| (v / sum) as f32)
        })
        .collect()
}

/// Layer norm of each row in double precision.
pub(crate) fn layernorm_rows(x: &[f32], gamma: &[f32], beta: &[f32], eps: f64) -> Vec<f32> {
    let cols = gamma.len();
    x.chunks(cols)
        .flat_map(|row| {
            let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / cols as f64;
            let var = row.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / cols as f64;
            let scale = 1.0 / (var + eps).sqrt();
            row.iter().zip(gamma).zip(beta).map(move |((&v, &g), &b)| {
                ((f64::from(v) - mean) * scale * f64::from(g) + f64::from(b)) as f32
            })
        })
        .collect()
}

fn softmax(size: Size) -> Setup {
    let (rows, cols) = size.pick((5, 333), (512, 2048));
    let x = Random::new("softmax").f32s(rows * cols, -8.0, 8.0);
    let near = Tolerance::Near { relative: 1e-5, absolute: 1e-12 };
    Setup::line(rows as u32, 128).input(&x).output(&softmax_rows(&x, cols), near).arg(cols as u32)
}

fn layernorm(size: Size) -> Setup {
    let (rows, cols) = size.pick((7, 100), (2048, 768));
    let mut r = Random::new("layernorm");
    let (x, gamma, beta) =
        (r.f32s(rows * cols, -3.0, 5.0), r.f32s(cols, 0.5, 1.5), r.f32s(cols, -1.0, 1.0));
    let want = layernorm_rows(&x, &gamma, &beta, f64::from(1e-5f32));
    let near = Tolerance::Near { relative: 1e-5, absolute: 1e-5 };
    Setup::new([cover(rows, 4), 1, 1], [32, 4, 1])
        .input(&x)
        .input(&gamma)
        .input(&beta)
        .output(&want, near)
        .arg(rows as u32)
        .arg(cols as u32)
        .arg(1e-5f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_softmax_add_up_to_one_and_keep_their_order() {
        let x = Random::new("t").f32s(40, -5.0, 5.0);
        for (row, y) in x.chunks(10).zip(softmax_rows(&x, 10).chunks(10)) {
            assert!((y.iter().sum::<f32>() - 1.0).abs() < 1e-6);
            for i in 1..10 {
                assert_eq!(row[i] > row[i - 1], y[i] > y[i - 1]);
            }
        }
    }

    #[test]
    fn a_normalised_row_has_mean_zero_and_variance_one() {
        let x = Random::new("t").f32s(64, 3.0, 9.0);
        let y = layernorm_rows(&x, &[1.0; 64], &[0.0; 64], 0.0);
        let mean = y.iter().sum::<f32>() / 64.0;
        let var = y.iter().map(|v| v * v).sum::<f32>() / 64.0;
        assert!(mean.abs() < 1e-6 && (var - 1.0).abs() < 1e-5);
    }
}
