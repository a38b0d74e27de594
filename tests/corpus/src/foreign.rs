//! Kernels that Triton and numba wrote. Triton hands every kernel two more pointers (scratch
//! memory, null here) and fixes the block size in the text; numba passes an array as seven
//! parameters or nine.
use crate::element::{Elem, Tolerance};
use crate::gemm::product;
use crate::nn::{layernorm_rows, softmax_rows};
use crate::random::Random;
use crate::setup::{Setup, cover};
use crate::table::{Size, entries};
use half::{bf16, f16};

entries! {
    triton_vecadd in triton_vecadd "c = a + b, masked, scalar accesses" [Sm90a] triton_vecadd;
    triton_vecadd_aligned = "triton_vecadd" in triton_vecadd_aligned
        "the same with 16-byte accesses" [Sm90a] triton_vecadd;
    triton_softmax in triton_softmax "softmax of rows" [Sm90a] triton_softmax;
    triton_matmul in triton_matmul "C = A B in f32 (fma)" [Sm90a] |size| matmul(size, false);
    triton_matmul_f16 = "triton_matmul" in triton_matmul_f16
        "C = A B in f16 -> f32 (mma.sync, two warps)"
        [Sm90a, TensorCore] |size| matmul(size, true);
    triton_layernorm in triton_layernorm "layer norm of bf16 rows" [Sm90a] triton_layernorm;
    triton_histogram in triton_histogram "64 bins by global atomics" [Sm90a] triton_histogram;
    triton_scan in triton_scan "prefix sums of blocks of 512" [Sm90a] triton_scan;
    numba_vecadd = "_ZN8__main__12numba_vecaddB2v1B92cw51cXTLSUwv1sDUaKthqaNgoKmjgOR3W3CwAkMXLaJtQYkOIgxJU0gCqOkEJoHkbttqdVhoqlspQGNFHSgJ5BnXagIAE5ArrayIfLi1E1C7mutable7alignedE5ArrayIfLi1E1C7mutable7alignedE5ArrayIfLi1E1C7mutable7alignedE"
        in numba_vecadd "c = a + b" [] numba_vecadd;
    numba_reduce = "_ZN8__main__12numba_reduceB2v2B92cw51cXTLSUwv1sDUaKthqaNgoKmjgOR3W3CwAkMXLaJtQYkOIgxJU0gCqOkEJoHkbttqdVhoqlspQGNFHSgJ5BnXagIAE5ArrayIdLi1E1C7mutable7alignedE5ArrayIdLi1E1C7mutable7alignedE"
        in numba_reduce "sum of doubles, shared tree, f64 atomic" [] numba_reduce;
    numba_matmul = "_ZN8__main__12numba_matmulB2v3B92cw51cXTLSUwv1sDUaKthqaNgoKmjgOR3W3CwAkMXLaJtQYkOIgxJU0gCqOkEJoHkbttqdVhoqlspQGNFHSgJ5BnXagIAE5ArrayIfLi2E1C7mutable7alignedE5ArrayIfLi2E1C7mutable7alignedE5ArrayIfLi2E1C7mutable7alignedE"
        in numba_matmul "C = A B, one thread an element" [] numba_matmul;
    numba_julia = "_ZN8__main__11numba_juliaB2v4B92cw51cXTLSUwv1sDUaKthqaNgoKmjgOR3W3CwAkMXLaJtQYkOIgxJU0gCqOkEJoHkbttqdVhoqlspQGNFHSgJ5BnXagIAE5ArrayIjLi2E1C7mutable7alignedEddj"
        in numba_julia "Julia set in complex doubles" [] numba_julia;
    numba_local = "_ZN8__main__11numba_localB2v5B92cw51cXTLSUwv1sDUaKthqaNgoKmjgOR3W3CwAkMXLaJtQYkOIgxJU0gCqOkEJoHkbttqdVhoqlspQGNFHSgJ5BnXagIAE5ArrayIiLi1E1C7mutable7alignedE5ArrayIiLi1E1C7mutable7alignedE"
        in numba_local "a local array indexed at run time" [] numba_local;
}

/// The two scratch pointers at the end of a Triton kernel's parameters.
fn scratch(setup: Setup) -> Setup {
    setup.arg(0u64).arg(0u64)
}

fn triton_vecadd(size: Size) -> Setup {
    let n = size.pick(2500, 4 << 20);
    let mut r = Random::new("triton_vecadd");
    let (a, b) = (r.f32s(n, -1.0, 1.0), r.f32s(n, -1.0, 1.0));
    let c: Vec<f32> = a.iter().zip(&b).map(|(x, y)| x + y).collect();
    scratch(Setup::line(cover(n, 1024), 128).input(&a).input(&b).exact(&c).arg(n as u32))
}

fn triton_softmax(size: Size) -> Setup {
    let (rows, cols) = size.pick((5, 333), (2048, 512));
    let x = Random::new("triton_softmax").f32s(rows * cols, -8.0, 8.0);
    let near = Tolerance::Near { relative: 1e-5, absolute: 1e-12 };
    scratch(
        Setup::line(rows as u32, 128)
            .shared(16)
            .input(&x)
            .output(&softmax_rows(&x, cols), near)
            .arg(cols as u32),
    )
}

fn matmul(size: Size, halves: bool) -> Setup {
    let (m, n, k) = size.pick((40, 72, 48), (256, 256, 256));
    // What Triton's launcher assumes of the aligned build: sizes are multiples of 16.
    let (m, n, k) = if halves { size.pick((48, 80, 48), (256, 256, 256)) } else { (m, n, k) };
    let mut r = Random::new("triton_matmul");
    let (a, b) = (r.whole(m * k, 8), r.whole(k * n, 8));
    let c = product(&a, &b, m, n, k);
    let setup = Setup::new([cover(m, 32), cover(n, 32), 1], [if halves { 64 } else { 128 }, 1, 1])
        .shared(8192);
    let setup = if halves {
        let half = |v: &[f32]| -> Vec<f16> { v.iter().map(|&x| f16::from_f32(x)).collect() };
        setup.input(&half(&a)).input(&half(&b))
    } else {
        setup.input(&a).input(&b)
    };
    scratch(setup.exact(&c).arg(m as u32).arg(n as u32).arg(k as u32))
}

fn triton_layernorm(size: Size) -> Setup {
    let (rows, cols) = size.pick((7, 200), (4096, 256));
    let mut r = Random::new("triton_layernorm");
    let x: Vec<bf16> = (0..rows * cols).map(|_| bf16::from_f64(r.f64(-3.0, 5.0))).collect();
    let (gamma, beta) = (r.f32s(cols, 0.5, 1.5), r.f32s(cols, -1.0, 1.0));
    let wide: Vec<f32> = x.iter().map(|v| v.to_f32()).collect();
    let want: Vec<bf16> = layernorm_rows(&wide, &gamma, &beta, f64::from(1e-5f32))
        .iter()
        .map(|&v| bf16::from_f32(v))
        .collect();
    // A last bit of bf16, as the rounding to it may fall either way.
    let near = Tolerance::Near { relative: 0.008, absolute: 1e-4 };
    scratch(
        Setup::line(rows as u32, 128)
            .shared(16)
            .input(&x)
            .input(&gamma)
            .input(&beta)
            .output(&want, near)
            .arg(cols as u32)
            .arg(1e-5f32),
    )
}

fn triton_histogram(size: Size) -> Setup {
    let n = size.pick(1000, 1 << 20);
    let x = Random::new("triton_histogram").u32s(n);
    let mut bins = vec![0u32; 64];
    x.iter().for_each(|v| bins[(v & 63) as usize] += 1);
    scratch(
        Setup::line(cover(n, 256), 128)
            .input(&x)
            .inout(&[0u32; 64], &bins, Tolerance::Exact)
            .arg(n as u32),
    )
}

fn triton_scan(size: Size) -> Setup {
    let blocks = size.pick(3, 2048);
    let x = Random::new("triton_scan").u32s(blocks * 512);
    let want: Vec<u32> = x
        .chunks(512)
        .flat_map(|c| {
            c.iter().scan(0u32, |s, &v| {
                *s = s.wrapping_add(v);
                Some(*s)
            })
        })
        .collect();
    scratch(Setup::line(blocks as u32, 128).shared(64).input(&x).exact(&want))
}

/// The parameters before and after the data pointer of a contiguous array.
fn array<E: Elem>(setup: Setup, shape: &[usize], data: impl FnOnce(Setup) -> Setup) -> Setup {
    let items: usize = shape.iter().product();
    let mut setup = setup.arg(0u64).arg(0u64).arg(items as u64).arg(E::KIND.size() as u64);
    setup = shape.iter().fold(data(setup), |s, &n| s.arg(n as u64));
    (0..shape.len()).fold(setup, |s, d| {
        s.arg((shape[d + 1..].iter().product::<usize>() * E::KIND.size()) as u64)
    })
}

fn numba_vecadd(size: Size) -> Setup {
    let n = size.pick(700, 4 << 20);
    let mut r = Random::new("numba_vecadd");
    let (a, b) = (r.f32s(n, -1.0, 1.0), r.f32s(n, -1.0, 1.0));
    let c: Vec<f32> = a.iter().zip(&b).map(|(x, y)| x + y).collect();
    let setup = array::<f32>(Setup::line(cover(n, 128), 128), &[n], |s| s.input(&a));
    let setup = array::<f32>(setup, &[n], |s| s.input(&b));
    array::<f32>(setup, &[n], |s| s.exact(&c))
}

fn numba_reduce(size: Size) -> Setup {
    let n = size.pick(1500, 2 << 20);
    let mut r = Random::new("numba_reduce");
    let x: Vec<f64> = (0..n).map(|_| r.f64(0.0, 1.0)).collect();
    let near = Tolerance::Near { relative: 1e-12, absolute: 0.0 };
    let setup = array::<f64>(Setup::line(size.pick(3, 256), 128), &[n], |s| s.input(&x));
    array::<f64>(setup, &[1], |s| s.inout(&[0.0], &[x.iter().sum::<f64>()], near))
}

fn numba_matmul(size: Size) -> Setup {
    let (m, n, k) = size.pick((19, 23, 17), (160, 160, 160));
    let mut r = Random::new("numba_matmul");
    let (a, b) = (r.whole(m * k, 8), r.whole(k * n, 8));
    let c = product(&a, &b, m, n, k);
    let setup = Setup::new([cover(m, 8), cover(n, 16), 1], [8, 16, 1]);
    let setup = array::<f32>(setup, &[m, k], |s| s.input(&a));
    let setup = array::<f32>(setup, &[k, n], |s| s.input(&b));
    array::<f32>(setup, &[m, n], |s| s.exact(&c))
}

/// Escape count of one point; `fused` contracts products and sums where a compiler might.
fn julia(x: f64, y: f64, c: (f64, f64), limit: u32, fused: bool) -> u32 {
    let (mut re, mut im) = (x, y);
    let norm = |re: f64, im: f64| if fused { re.mul_add(re, im * im) } else { re * re + im * im };
    let mut n = 0;
    while n < limit && norm(re, im) <= 4.0 {
        let cross = if fused { re.mul_add(im, re * im) } else { re * im + re * im };
        (re, im) = (re * re - im * im + c.0, cross + c.1);
        n += 1;
    }
    n
}

// A constant inside the main cardioid: orbits either settle or leave, so roundings do not decide
// the counts.
const JULIA: (f64, f64) = (-0.4, 0.1);

fn julia_point(i: usize, w: usize, h: usize) -> (f64, f64) {
    (-1.5 + 3.0 * (i % w) as f64 / w as f64, -1.0 + 2.0 * (i / w) as f64 / h as f64)
}

fn numba_julia(size: Size) -> Setup {
    let (w, h, limit) = size.pick((40, 30, 64), (512, 384, 256));
    let want: Vec<u32> = (0..w * h)
        .map(|i| {
            let (x, y) = julia_point(i, w, h);
            julia(x, y, JULIA, limit, false)
        })
        .collect();
    let setup = Setup::new([cover(w, 16), cover(h, 8), 1], [16, 8, 1]);
    array::<u32>(setup, &[h, w], |s| s.exact(&want)).arg(JULIA.0).arg(JULIA.1).arg(limit)
}

fn numba_local(size: Size) -> Setup {
    let n = size.pick(300, 1 << 16);
    let x: Vec<i32> =
        Random::new("numba_local").below_each(n, 100_000).iter().map(|&v| v as i32).collect();
    let want: Vec<i32> = (0..n)
        .map(|i| {
            let at = |j: usize| x[(i + j) % n];
            let start = x[i] as usize;
            (0..8).map(|j| at((j + start) % 8) - j as i32).fold(at(start % 8), i32::max)
        })
        .collect();
    let setup = array::<i32>(Setup::line(cover(n, 64), 64), &[n], |s| s.input(&x));
    array::<i32>(setup, &[n], |s| s.exact(&want))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_does_not_decide_the_julia_counts() {
        for (w, h, limit) in [(40, 30, 64), (512, 384, 256)] {
            for i in 0..w * h {
                let (x, y) = julia_point(i, w, h);
                assert_eq!(julia(x, y, JULIA, limit, false), julia(x, y, JULIA, limit, true));
            }
        }
    }
}
