//! Matrix products through mma.sync and wmma. Whole numbers again, so that the tensor core's order
//! does not matter; A is row-major, B is handed over column-major, one warp computes one tile.
use crate::gemm::product;
use crate::random::Random;
use crate::setup::Setup;
use crate::table::{Size, entries};
use half::{bf16, f16};

entries! {
    hgemm_mma in mma "mma.sync m16n8k16 f16 -> f32, operands by ldmatrix" [TensorCore] hgemm_mma;
    bgemm_mma in mma "mma.sync m16n8k16 bf16 -> f32" [TensorCore] bgemm_mma;
    tgemm_mma in mma "mma.sync m16n8k8 tf32 -> f32" [TensorCore] tgemm_mma;
    hgemm_f16 in mma "mma.sync m16n8k8 f16 -> f16" [TensorCore] hgemm_f16;
    igemm_mma in mma "mma.sync m16n8k32 s8 -> s32" [TensorCore] igemm_mma;
    dgemm_mma in mma "mma.sync m8n8k4 f64" [TensorCore] dgemm_mma;
    hgemm_wmma in wmma
        "wmma 16x16x16 f16 -> f32, fragments straight from global memory" [Wmma] hgemm_wmma;
}

struct Shape {
    m: usize,
    n: usize,
    k: usize,
    a: Vec<f32>,
    /// Column-major.
    b: Vec<f32>,
    c: Vec<f32>,
}

fn shape(name: &str, size: Size, bound: u32) -> Shape {
    let (m, n, k) = size.pick((32, 32, 64), (256, 256, 256));
    let mut r = Random::new(name);
    let (a, row_major) = (r.whole(m * k, bound), r.whole(k * n, bound));
    let b = (0..n * k).map(|i| row_major[i % k * n + i / k]).collect();
    let c = product(&a, &row_major, m, n, k);
    Shape { m, n, k, a, b, c }
}

impl Shape {
    fn grid(&self, rows: usize, cols: usize) -> Setup {
        Setup::new([(self.n / cols) as u32, (self.m / rows) as u32, 1], [32, 1, 1])
    }

    fn sizes(&self, setup: Setup) -> Setup {
        setup.arg(self.n as u32).arg(self.k as u32)
    }
}

fn each<T>(values: &[f32], f: impl Fn(f32) -> T) -> Vec<T> {
    values.iter().map(|&v| f(v)).collect()
}

fn hgemm_mma(size: Size) -> Setup {
    let s = shape("hgemm_mma", size, 8);
    let (a, b) = (each(&s.a, f16::from_f32), each(&s.b, f16::from_f32));
    s.sizes(s.grid(16, 8).input(&a).input(&b).exact(&s.c))
}

fn bgemm_mma(size: Size) -> Setup {
    let s = shape("bgemm_mma", size, 8);
    let (a, b) = (each(&s.a, bf16::from_f32), each(&s.b, bf16::from_f32));
    s.sizes(s.grid(16, 8).input(&a).input(&b).exact(&s.c))
}

fn tgemm_mma(size: Size) -> Setup {
    let s = shape("tgemm_mma", size, 100);
    s.sizes(s.grid(16, 8).input(&s.a).input(&s.b).exact(&s.c))
}

fn hgemm_f16(size: Size) -> Setup {
    // Sums stay below 2048, where f16 holds every whole number.
    let s = shape("hgemm_f16", size, 2);
    assert!(s.c.iter().all(|v| v.abs() < 2048.0));
    let (a, b, c) =
        (each(&s.a, f16::from_f32), each(&s.b, f16::from_f32), each(&s.c, f16::from_f32));
    s.sizes(s.grid(16, 8).input(&a).input(&b).exact(&c))
}

fn igemm_mma(size: Size) -> Setup {
    let s = shape("igemm_mma", size, 127);
    let (a, b) = (each(&s.a, |v| v as i8 as u8), each(&s.b, |v| v as i8 as u8));
    s.sizes(s.grid(16, 8).input(&a).input(&b).exact(&each(&s.c, |v| v as i32)))
}

fn dgemm_mma(size: Size) -> Setup {
    let s = shape("dgemm_mma", size, 100);
    let (a, b, c) = (each(&s.a, f64::from), each(&s.b, f64::from), each(&s.c, f64::from));
    s.sizes(s.grid(8, 8).input(&a).input(&b).exact(&c))
}

fn hgemm_wmma(size: Size) -> Setup {
    let s = shape("hgemm_wmma", size, 8);
    let (a, b) = (each(&s.a, f16::from_f32), each(&s.b, f16::from_f32));
    s.sizes(s.grid(16, 16).input(&a).input(&b).exact(&s.c))
}
