//! What a decision costs: authorize, charge and release, take a token.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use turnstile_abi::launch::{Block, Extras, Grid};
use turnstile_abi::{Handle, Request, op};
use turnstile_policy::{
    Ledger, Policy, Rate, Resource, TenantPolicy, TokenBucket, authorize, explain,
};

const TWO: &str = include_str!("../examples/two-tenants.json");

fn tenant(name: &str) -> Arc<TenantPolicy> {
    let policy = Policy::parse(TWO).expect("the example is valid");
    policy.tenant(name).expect("the example has this tenant").clone()
}

fn launch(threads: u16) -> Request {
    Request::from(op::launch::Args {
        function: Handle::NULL,
        grid: Grid { blocks: [64, 8, 2], shared_bytes: 4096 },
        block: Block { threads: [threads, 1, 1], params_bytes: 64 },
        params: 0,
        extras: Extras { relocations: 3, flags: 0 },
    })
}

fn copy() -> Request {
    Request::from(op::copy::Args {
        dst: Handle::NULL,
        dst_offset: 0,
        src: Handle::NULL,
        src_offset: 0,
        bytes: 4096,
    })
}

fn decisions(c: &mut Criterion) {
    let (trainer, copier) = (tenant("trainer"), tenant("copier"));
    let mut group = c.benchmark_group("authorize");
    for (name, tenant, request) in [
        ("nop", &trainer, Request::from(op::nop::Args {})),
        ("copy", &trainer, copy()),
        ("launch", &trainer, launch(256)),
        ("launch, refused by shape", &trainer, launch(2048)),
        ("launch, not granted", &copier, launch(256)),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| authorize(black_box(tenant), black_box(request)).is_ok());
        });
    }
    group.finish();

    let mut ledger = Ledger::new();
    c.bench_function("ledger/charge and release", |b| {
        b.iter(|| {
            let charged = ledger.charge(black_box(&trainer.grants), Resource::InFlight, 1);
            ledger.release(black_box(Resource::InFlight), 1);
            charged.is_ok()
        });
    });
    let mut bucket = TokenBucket::new(Rate { per_second: 1_000_000, burst: 4096 }, 0);
    let mut now = 0;
    c.bench_function("bucket/take", |b| {
        b.iter(|| {
            now += 1000;
            bucket.take(black_box(1), black_box(now)).is_ok()
        });
    });
}

/// `count` tenants like the example's first.
fn document(count: usize) -> String {
    let document: serde_json::Value = serde_json::from_str(TWO).expect("the example is JSON");
    let tenants: Vec<_> = (0..count)
        .map(|n| {
            let mut tenant = document["tenants"][0].clone();
            tenant["name"] = format!("tenant-{n}").into();
            tenant
        })
        .collect();
    let mut document = document;
    document["device"]["overcommit"] = true.into();
    document["tenants"] = tenants.into();
    serde_json::to_string_pretty(&document).expect("a value is JSON")
}

fn documents(c: &mut Criterion) {
    let text = document(1000);
    c.bench_function("parse 1000 tenants", |b| b.iter(|| Policy::parse(black_box(&text)).is_ok()));
    let policy = Policy::parse(&text).expect("it is valid");
    c.bench_function("explain one of 1000", |b| b.iter(|| explain(&policy, "tenant-999")));
}

criterion_group!(benches, decisions, documents);
criterion_main!(benches);
