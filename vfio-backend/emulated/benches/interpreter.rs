//! Speed of the executor: thread-instructions per second on one host thread, for kernels of different character, in the
//! interpreter and as machine code; and what starting a launch costs.

#[path = "../tests/corpus/runner.rs"]
mod runner;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use runner::Prepared;
use turnstile_corpus::{Size, find};
use turnstile_emulated::Engine;

/// One kernel of each character: streaming, reduction, tiled, divergent, atomics, double precision.
const KERNELS: &[&str] =
    &["vecadd", "saxpy", "reduce_f32", "sgemm_tiled", "mandelbrot", "histogram", "softmax"];

fn speeds(c: &mut Criterion) {
    for (title, engine) in [("interpreter", Engine::Interpreter), ("compiled", Engine::Compiled)] {
        let mut group = c.benchmark_group(title);
        group.sample_size(10);
        for name in KERNELS {
            let Some(kernel) = find(name) else { continue };
            let case = kernel.case(Size::Large);
            let mut prepared = Prepared::new(&case).expect("the corpus loads");
            let report = prepared.launch_on(engine, 1).expect("the corpus runs");
            group.throughput(Throughput::Elements(report.thread_instructions));
            group.bench_function(*name, |b| {
                b.iter(|| prepared.launch_on(engine, 1).expect("the corpus runs"));
            });
        }
        group.finish();
    }
}

/// A launch of one warp, for which starting is nearly all there is to do.
fn start(c: &mut Criterion) {
    let Some(kernel) = find("params") else { return };
    let case = kernel.case(Size::Small);
    let mut prepared = Prepared::new(&case).expect("the corpus loads");
    let mut group = c.benchmark_group("start of a launch");
    for (title, engine) in [("interpreter", Engine::Interpreter), ("compiled", Engine::Compiled)] {
        prepared.launch_on(engine, 1).expect("the corpus runs");
        group.bench_function(title, |b| {
            b.iter(|| prepared.launch_on(engine, 1).expect("the corpus runs"));
        });
    }
    group.finish();
}

criterion_group!(benches, start, speeds);
criterion_main!(benches);
