//! Speed of the interpreter: thread-instructions per second on one host thread, for kernels of different character.

#[path = "../tests/corpus/runner.rs"]
mod runner;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use runner::Prepared;
use turnstile_corpus::{Size, find};

/// One kernel of each character: streaming, reduction, tiled, divergent, atomics, double precision.
const KERNELS: &[&str] =
    &["vecadd", "saxpy", "reduce_f32", "sgemm_tiled", "mandelbrot", "histogram", "softmax"];

fn interpreter(c: &mut Criterion) {
    let mut group = c.benchmark_group("interpreter");
    group.sample_size(10);
    for name in KERNELS {
        let Some(kernel) = find(name) else { continue };
        let case = kernel.case(Size::Large);
        let mut prepared = Prepared::new(&case).expect("the corpus loads");
        let report = prepared.launch(1).expect("the corpus runs");
        group.throughput(Throughput::Elements(report.thread_instructions));
        group.bench_function(*name, |b| b.iter(|| prepared.launch(1).expect("the corpus runs")));
    }
    group.finish();
}

criterion_group!(benches, interpreter);
criterion_main!(benches);
