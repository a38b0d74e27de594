//! How long a module takes from text to verified text, part by part. The budget for a module of 500
//! lines is 1 ms for parse, guard and verify together.

use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use turnstile_ptx::guard::{GuardOptions, guard};
use turnstile_ptx::{
    Admission, Arena, BlockShape, GuardMode, Limits, admit, check, parse, parse_guarded, print,
};

/// About 500 lines each: barriers and shared memory, matrix products, calls.
const MODULES: &[(&str, (u32, u32, u32))] =
    &[("radix", (256, 1, 1)), ("sgemm_regs", (256, 1, 1)), ("op_half", (128, 1, 1))];

fn modules(c: &mut Criterion) {
    let arena = Arena::new(4 << 32, 4 << 30).expect("an arena");
    let limits = Limits::default();
    for (name, (x, y, z)) in MODULES {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/kernels/ptx");
        let text = std::fs::read(format!("{root}/{name}.ptx")).expect("a corpus file");
        let lines = text.iter().filter(|b| **b == b'\n').count();
        let mut group = c.benchmark_group(format!("{name} ({lines} lines)"));
        let tree = parse(&text, &limits).expect("it parses");
        let mut options = GuardOptions::new(GuardMode::Fence, arena);
        options.block = Some(BlockShape { x: *x, y: *y, z: *z });
        let (guarded, _) = guard(&tree, &options).expect("it can be guarded");
        let printed = print(&guarded).text;
        group.bench_function("parse", |b| b.iter(|| parse(black_box(&text), &limits)));
        group.bench_function("check", |b| b.iter(|| check(black_box(&tree))));
        group.bench_function("guard", |b| b.iter(|| guard(black_box(&tree), &options)));
        group.bench_function("print", |b| b.iter(|| print(black_box(&guarded))));
        group.bench_function("parse final", |b| {
            b.iter(|| parse_guarded(black_box(printed.as_bytes()), &limits))
        });
        let mut admission = Admission::guarded(GuardMode::Fence, arena, limits);
        admission.block = options.block;
        group.bench_function("admit", |b| b.iter(|| admit(black_box(&text), &admission)));
        group.finish();
    }
}

criterion_group!(benches, modules);
criterion_main!(benches);
