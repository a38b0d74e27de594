//! What one command costs in the mediator: fetch, decode, authorize, translate, submit, answer,
//! complete. The driver's pushing and popping is not in the figure.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use turnstile_abi::regs::{ADMIN_DEPTH, offset};
use turnstile_abi::request::{Request, Usage};
use turnstile_abi::ring::{DriverRing, Layout};
use turnstile_abi::version::{Features, Version};
use turnstile_abi::{Completion, Handle, SharedMemory, op};
use turnstile_backend_api::{
    BackendEvent, BackendOp, Done, MemoryId, Outcome, SharedRegion, SpaceId, Ticket,
};
use turnstile_core::{
    Attachment, AuditEvent, Effects, Finished, Mediator, Registers, Settings, TenantId, VerifyJob,
};
use turnstile_policy::Policy;

const APERTURE: u64 = 4 << 20;
const HEAP: u64 = 2 << 20;

/// A backend that is done at once.
#[derive(Default)]
struct Instantly {
    done: Vec<BackendEvent>,
    finished: u64,
}

impl Effects for Instantly {
    fn submit(&mut self, ticket: Ticket, op: BackendOp) {
        let value = if matches!(op, BackendOp::BufferCreate { .. }) { 1 << 40 } else { 0 };
        black_box(&op);
        self.done.push(BackendEvent::Done(Done { ticket, outcome: Outcome::ok(value) }));
    }
    fn abort(&mut self, _: SpaceId) {}
    fn verify(&mut self, _: Ticket, _: VerifyJob) {}
    fn interrupt(&mut self, _: TenantId, _: u16) {}
    fn audit(&mut self, _: AuditEvent<'_>) {}
    fn finished(&mut self, f: Finished) {
        self.finished += u64::from(f.status.is_ok());
    }
    fn detached(&mut self, _: TenantId) {}
    fn memory_removed(&mut self, _: TenantId, _: u64) {}
}

struct Guest {
    id: TenantId,
    aperture: Arc<SharedRegion>,
    admin: DriverRing,
    work: Option<DriverRing>,
    session: Handle,
    buffers: Vec<Handle>,
}

struct World {
    mediator: Mediator<Arc<SharedRegion>>,
    fx: Instantly,
    guests: Vec<Guest>,
    now: u64,
}

impl World {
    fn new(tenants: usize, handles: usize) -> World {
        let policy = Policy::parse(
            r#"{ "version": 1, "device": { "backend": "emulated", "memory": "1GiB" },
            "tenants": [ { "name": "a", "attach": { "kind": "process" }, "aperture": "4MiB",
              "grants": { "max_handles": 2000000, "copy": true, "derive": true,
                "buffer": { "max_bytes": "1GiB", "max_count": 1000000, "usage": ["device"] },
                "queue": { "max_count": 1, "max_depth": 256, "max_in_flight": 256 } } } ] }"#,
        )
        .expect("the bench's policy");
        let mut world = World {
            mediator: Mediator::new(Settings { spin_ns: u64::MAX, multiprocessors: 1 }),
            fx: Instantly::default(),
            guests: Vec::new(),
            now: 1,
        };
        for i in 0..tenants {
            let registers = Arc::new(Registers::new(Features::empty(), APERTURE, HEAP));
            let aperture = Arc::new(SharedRegion::create("aperture", APERTURE).unwrap());
            let attachment = Attachment {
                policy: policy.tenants[0].clone(),
                registers: registers.clone(),
                aperture: aperture.clone(),
                aperture_memory: MemoryId(i as u32),
            };
            let id = world.mediator.attach(attachment, 0, &mut world.fx);
            let _ = registers.write(offset::DRIVER_VERSION, 4, Version::CURRENT.0.into());
            let _ = registers.write(offset::CONTROL, 4, 1);
            world.mediator.attention(id, 0, &mut world.fx);
            let layout = Layout::new(0, ADMIN_DEPTH.into(), HEAP).unwrap();
            let guest = Guest {
                id,
                aperture,
                admin: DriverRing::new(layout),
                work: None,
                session: Handle::NULL,
                buffers: Vec::new(),
            };
            world.guests.push(guest);
            let session = world.admin(i, op::session_open::Args {}.into()).value;
            world.guests[i].session = Handle::from_raw(session);
            let session = Handle::from_raw(session);
            let create = op::queue_create::Args { session, ring: 0x4000, depth: 256, vector: 1 };
            world.admin(i, create.into());
            let layout = Layout::new(0x4000, 256, HEAP).unwrap();
            world.guests[i].work = Some(DriverRing::new(layout));
            for _ in 0..2 {
                let usage = Usage::Device;
                let create = op::buffer_create::Args { session, bytes: 1024, usage };
                let buffer = world.admin(i, create.into()).value;
                world.guests[i].buffers.push(Handle::from_raw(buffer));
            }
            for _ in 0..handles / tenants {
                let source = world.guests[i].buffers[0];
                let derive =
                    op::derive::Args { source, rights: turnstile_abi::Rights::from_bits_retain(3) };
                world.admin(i, derive.into());
            }
        }
        world
    }

    fn serve(&mut self) {
        self.now += 1000;
        self.mediator.poll(self.now, &mut self.fx);
        for event in std::mem::take(&mut self.fx.done) {
            self.mediator.backend(event, self.now, &mut self.fx);
        }
    }

    fn admin(&mut self, guest: usize, request: Request) -> Completion {
        let g = &mut self.guests[guest];
        g.admin.push(&*g.aperture, &request.encode(1)).unwrap().unwrap();
        loop {
            self.serve();
            let g = &mut self.guests[guest];
            if let Some(done) = g.admin.pop(&*g.aperture).unwrap() {
                assert!(done.status.is_ok(), "{done:?}");
                return done;
            }
        }
    }

    /// Runs `commands` commands spread over all guests; the time spent in the mediator.
    fn run(&mut self, commands: u64, request: impl Fn(&Guest) -> Request) -> Duration {
        let mut spent = Duration::ZERO;
        let mut left = commands;
        let batch = 128;
        let mut turn = 0;
        while left > 0 {
            let count = left.min(batch);
            for _ in 0..count {
                let at = turn % self.guests.len();
                turn += 1;
                let g = &mut self.guests[at];
                let descriptor = request(g).encode(7);
                let ring = g.work.as_mut().unwrap();
                ring.push(&*g.aperture, &descriptor).unwrap().unwrap();
            }
            let before = self.fx.finished;
            let mut done = std::mem::take(&mut self.fx.done);
            let start = Instant::now();
            while self.fx.finished < before + count {
                self.now += 1000;
                self.mediator.poll(self.now, &mut self.fx);
                std::mem::swap(&mut done, &mut self.fx.done);
                for event in done.drain(..) {
                    self.mediator.backend(event, self.now, &mut self.fx);
                }
            }
            spent += start.elapsed();
            for g in &mut self.guests {
                let ring = g.work.as_mut().unwrap();
                while ring.pop(&*g.aperture).unwrap().is_some() {}
            }
            left -= count;
        }
        spent
    }
}

fn copy(g: &Guest) -> Request {
    op::copy::Args { dst: g.buffers[0], dst_offset: 0, src: g.buffers[1], src_offset: 0, bytes: 64 }
        .into()
}

fn nop(_: &Guest) -> Request {
    op::nop::Args {}.into()
}

fn commands(c: &mut Criterion) {
    let mut group = c.benchmark_group("command");
    group.sample_size(20).measurement_time(Duration::from_secs(2));
    for tenants in [1, 1000] {
        let mut world = World::new(tenants, 0);
        group.bench_function(BenchmarkId::new("nop, tenants", tenants), |b| {
            b.iter_custom(|n| world.run(n, nop));
        });
        group.bench_function(BenchmarkId::new("copy, tenants", tenants), |b| {
            b.iter_custom(|n| world.run(n, copy));
        });
        let _ = world.guests[0].id;
        let _ = world.guests[0].aperture.size();
    }
    for handles in [10, 1_000_000] {
        let mut world = World::new(1, handles);
        group.bench_function(BenchmarkId::new("copy, handles", handles), |b| {
            b.iter_custom(|n| world.run(n, copy));
        });
    }
    group.finish();
}

criterion_group!(benches, commands);
criterion_main!(benches);
