//! Vectors: elementwise updates, dot products, matrix times vector, gather and scatter.
use crate::element::Tolerance;
use crate::random::Random;
use crate::rounding::{fused_half, to_half};
use crate::setup::{Setup, cover};
use crate::table::{Size, entries};
use half::{bf16, f16};

entries! {
    vecadd in vecadd "c = a + b" [] vecadd;
    saxpy in saxpy "y = alpha x + y, grid-stride loop" [] saxpy;
    dot_f32 in dot "dot product, warp shuffles, one f32 atomic a block" [] dot_f32;
    dreduce in dot "sum of doubles, shared tree, f64 atomics" [] dreduce;
    dot_s8 in dot "dot product of bytes by dp4a and redux" [] dot_s8;
    gemv in gemv "matrix times vector, one warp a row, float4 loads" [] gemv;
    gather in gather "out[i] = in[index[i]]" [] gather;
    scatter in gather "out[index[i]] = in[i]" [] scatter;
    half2_axpy in op_half "y = alpha x + y in packed f16" [] half2_axpy;
    bf16_axpy in op_half "y = alpha x + y in packed bf16" [] bf16_axpy;
}

fn vecadd(size: Size) -> Setup {
    let n = size.pick(1000, 256 << 10);
    let mut r = Random::new("vecadd");
    let (a, b) = (r.f32s(n, -1.0, 1.0), r.f32s(n, -1.0, 1.0));
    let c: Vec<f32> = a.iter().zip(&b).map(|(x, y)| x + y).collect();
    Setup::line(cover(n, 256), 256).input(&a).input(&b).exact(&c).arg(n as u32)
}

fn saxpy(size: Size) -> Setup {
    let n = size.pick(1000, 256 << 10);
    let mut r = Random::new("saxpy");
    let (x, y) = (r.f32s(n, -1.0, 1.0), r.f32s(n, -1.0, 1.0));
    let want: Vec<f32> = x.iter().zip(&y).map(|(&x, &y)| 2.5f32.mul_add(x, y)).collect();
    Setup::line(size.pick(3, 128), 128)
        .arg(2.5f32)
        .input(&x)
        .inout(&y, &want, Tolerance::Exact)
        .arg(n as u32)
}

fn dot_f32(size: Size) -> Setup {
    let n = size.pick(3000, 256 << 10);
    let mut r = Random::new("dot_f32");
    let (a, b) = (r.whole(n, 4), r.whole(n, 4));
    let sum: f64 = a.iter().zip(&b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
    Setup::line(size.pick(4, 64), 256)
        .input(&a)
        .input(&b)
        .inout(&[0.0f32], &[sum as f32], Tolerance::Exact)
        .arg(n as u32)
}

fn dreduce(size: Size) -> Setup {
    let n = size.pick(1500, 128 << 10);
    let mut r = Random::new("dreduce");
    let x: Vec<f64> = (0..n).map(|_| r.f64(0.0, 1.0)).collect();
    let near = Tolerance::Near { relative: 1e-12, absolute: 0.0 };
    Setup::line(size.pick(3, 64), 128)
        .input(&x)
        .inout(&[0.0], &[x.iter().sum::<f64>()], near)
        .arg(n as u32)
}

fn dot_s8(size: Size) -> Setup {
    let words = size.pick(1000, 128 << 10);
    let mut r = Random::new("dot_s8");
    let (a, b): (Vec<u32>, Vec<u32>) = (r.u32s(words), r.u32s(words));
    let sum = a.iter().zip(&b).fold(0i32, |sum, (x, y)| {
        let (x, y) = (x.to_le_bytes(), y.to_le_bytes());
        sum.wrapping_add((0..4).map(|i| i32::from(x[i] as i8) * i32::from(y[i] as i8)).sum())
    });
    Setup::line(size.pick(3, 64), 128)
        .input(&a)
        .input(&b)
        .inout(&[0i32], &[sum], Tolerance::Exact)
        .arg(words as u32)
}

fn gemv(size: Size) -> Setup {
    let (rows, cols) = size.pick((37, 132), (2048, 1024));
    let mut r = Random::new("gemv");
    let (a, x) = (r.f32s(rows * cols, -1.0, 1.0), r.f32s(cols, -1.0, 1.0));
    let y: Vec<f32> = a
        .chunks(cols)
        .map(|row| {
            row.iter().zip(&x).map(|(&p, &q)| f64::from(p) * f64::from(q)).sum::<f64>() as f32
        })
        .collect();
    let near = Tolerance::Near { relative: 1e-5, absolute: 1e-4 };
    Setup::line(cover(rows * 32, 128), 128)
        .input(&a)
        .input(&x)
        .output(&y, near)
        .arg(rows as u32)
        .arg((cols / 4) as u32)
}

fn gather(size: Size) -> Setup {
    let n = size.pick(1000, 128 << 10);
    let mut r = Random::new("gather");
    let (x, index) = (r.f32s(n, -1.0, 1.0), r.below_each(n, n as u32));
    let want: Vec<f32> = index.iter().map(|&i| x[i as usize]).collect();
    Setup::line(cover(n, 256), 256).input(&x).input(&index).exact(&want).arg(n as u32)
}

fn scatter(size: Size) -> Setup {
    let n = size.pick(1000, 128 << 10);
    let mut r = Random::new("scatter");
    let (x, index) = (r.f32s(n, -1.0, 1.0), r.permutation(n));
    let mut want = vec![0.0f32; n];
    for (v, &i) in x.iter().zip(&index) {
        want[i as usize] = *v;
    }
    Setup::line(cover(n, 256), 256).input(&x).input(&index).exact(&want).arg(n as u32)
}

fn half2_axpy(size: Size) -> Setup {
    let n = size.pick(600, 128 << 10);
    let mut r = Random::new("half2_axpy");
    let mut halves = |_| -> Vec<f16> { (0..n).map(|_| to_half(r.f64(-4.0, 4.0))).collect() };
    let (x, y, alpha) = (halves(0), halves(1), f16::from_f32(1.625));
    let want: Vec<f16> = x.iter().zip(&y).map(|(x, y)| fused_half(alpha, *x, *y)).collect();
    Setup::line(cover(n / 2, 128), 128)
        .arg(alpha)
        .input(&x)
        .inout(&y, &want, Tolerance::Exact)
        .arg((n / 2) as u32)
}

fn bf16_axpy(size: Size) -> Setup {
    let n = size.pick(600, 128 << 10);
    let mut r = Random::new("bf16_axpy");
    let mut halves = |_| -> Vec<bf16> { (0..n).map(|_| to_half(r.f64(-4.0, 4.0))).collect() };
    let (x, y, alpha) = (halves(0), halves(1), bf16::from_f32(1.625));
    let want: Vec<bf16> = x.iter().zip(&y).map(|(x, y)| fused_half(alpha, *x, *y)).collect();
    Setup::line(cover(n / 2, 128), 128)
        .arg(alpha)
        .input(&x)
        .inout(&y, &want, Tolerance::Exact)
        .arg((n / 2) as u32)
}
