//! What a command costs in the mediator: fetch, decode, authorize, translate, submit, answer,
//! complete. Pushing and popping on the driver's side are not in the figure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use turnstile_abi::regs::{ADMIN_DEPTH, offset};
use turnstile_abi::request::{Request, Usage};
use turnstile_abi::ring::{DeviceRing, DriverRing, Layout};
use turnstile_abi::version::{Features, Version};
use turnstile_abi::{Completion, Handle, Rights, Status, op};
use turnstile_backend_api::{
    BackendEvent, BackendOp, Done, MemoryId, Outcome, SharedRegion, SpaceId, Ticket,
};
use turnstile_core::{
    Attachment, AuditEvent, Effects, Finished, Mediator, Registers, Settings, TenantId, VerifyJob,
};
use turnstile_policy::Policy;

use super::Figure;

const APERTURE: u64 = 1 << 20;
const HEAP: u64 = 512 << 10;
const RING: u64 = 0x4000;
const DEPTH: u32 = 256;
/// Most commands each tenant has waiting when the clock starts, and least.
const BATCH: u64 = 128;
const LEAST: u64 = 8;
/// Commands waiting at once, over all tenants, as far as [`LEAST`] allows.
const WAITING: u64 = 4096;

const POLICY: &str = r#"{ "version": 1, "device": { "backend": "emulated", "memory": "1GiB" },
    "tenants": [ { "name": "bench", "attach": { "kind": "process" }, "aperture": "1MiB",
      "grants": { "max_handles": 2000000, "copy": true, "derive": true,
        "buffer": { "max_bytes": "1GiB", "max_count": 1000, "usage": ["device"] },
        "queue": { "max_count": 1, "max_depth": 256, "max_in_flight": 256 } } } ] }"#;

pub(super) fn measure(effort: u32) -> Result<Vec<Figure>, String> {
    let commands = u64::from(effort) * 100_000;
    let ring = bare_ring(commands)?;
    let mut figures = Vec::new();
    let mut add = |what: String, ns: f64| {
        let figure = Figure::new("command", what, ns, "ns");
        figures.push(figure.against("ring alone: fetch, complete", ring).at_most(250.0));
    };
    for tenants in [1, 10, 100, 1000] {
        let mut world = World::new(tenants, 0)?;
        let name = super::count(tenants as u64);
        let each = (WAITING / tenants as u64).clamp(LEAST, BATCH);
        add(format!("nop, {name} tenants"), world.run(commands, each, nop)?);
        add(format!("copy, {name} tenants"), world.run(commands, each, copy)?);
    }
    // Every tenant with a single command at a time: its rings are cold each time.
    let mut world = World::new(1000, 0)?;
    add("copy, 1,000 tenants, one each".into(), world.run(commands, 1, copy)?);
    for handles in [10, 1_000, 100_000, 1_000_000] {
        let mut world = World::new(1, handles)?;
        let what = format!("copy, {} handles", super::count(handles as u64));
        add(what, world.run(commands, BATCH, copy)?);
    }
    Ok(figures)
}

fn nop(_: &Guest, _: u64) -> Request {
    op::nop::Args {}.into()
}

/// A copy between two of the guest's handles, other ones each time.
fn copy(guest: &Guest, turn: u64) -> Request {
    let pick = |salt: u64| {
        let at = (turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt) >> 20;
        // CAST: an index below the length.
        guest.readable[(at % guest.readable.len() as u64) as usize]
    };
    let args =
        op::copy::Args { dst: guest.target, dst_offset: 0, src: pick(7), src_offset: 0, bytes: 64 };
    args.into()
}

/// Answers at once: what is measured is the mediator.
#[derive(Default)]
struct Instantly {
    done: Vec<BackendEvent>,
    finished: u64,
}

impl Effects for Instantly {
    fn submit(&mut self, ticket: Ticket, op: BackendOp) {
        let value = if matches!(op, BackendOp::BufferCreate { .. }) { 1 << 40 } else { 0 };
        self.done.push(BackendEvent::Done(Done { ticket, outcome: Outcome::ok(value) }));
    }
    fn abort(&mut self, _: SpaceId) {}
    fn verify(&mut self, _: Ticket, _: VerifyJob) {}
    fn interrupt(&mut self, _: TenantId, _: u16) {}
    fn audit(&mut self, _: AuditEvent<'_>) {}
    fn finished(&mut self, finished: Finished) {
        self.finished += u64::from(finished.status == Status::Ok);
    }
    fn detached(&mut self, _: TenantId) {}
    fn memory_removed(&mut self, _: TenantId, _: u64) {}
}

struct Guest {
    aperture: Arc<SharedRegion>,
    admin: DriverRing,
    work: DriverRing,
    target: Handle,
    /// Handles a copy may read from.
    readable: Vec<Handle>,
}

struct World {
    mediator: Mediator<Arc<SharedRegion>>,
    fx: Instantly,
    guests: Vec<Guest>,
    now: u64,
}

fn layout(base: u64, depth: u32) -> Result<Layout, String> {
    Layout::new(base, depth.into(), HEAP).map_err(|e| format!("{e:?}"))
}

impl World {
    /// So many tenants, each with a queue and two buffers, and so many handles among them.
    fn new(tenants: usize, handles: usize) -> Result<World, String> {
        let policy = Policy::parse(POLICY).map_err(|e| e.to_string())?;
        let mut world = World {
            mediator: Mediator::new(Settings { spin_ns: u64::MAX, ..Settings::default() }),
            fx: Instantly::default(),
            guests: Vec::with_capacity(tenants),
            now: 1,
        };
        for at in 0..tenants {
            let registers = Arc::new(Registers::new(Features::empty(), APERTURE, HEAP));
            let region = SharedRegion::create("bench", APERTURE).map_err(|e| e.to_string())?;
            let aperture = Arc::new(region);
            let attachment = Attachment {
                policy: policy.tenants[0].clone(),
                registers: registers.clone(),
                aperture: aperture.clone(),
                aperture_memory: MemoryId(at as u32),
            };
            let id = world.mediator.attach(attachment, world.now, &mut world.fx);
            let _ = registers.write(offset::DRIVER_VERSION, 4, Version::CURRENT.0.into());
            let _ = registers.write(offset::CONTROL, 4, 1);
            world.mediator.attention(id, world.now, &mut world.fx);
            world.guests.push(Guest {
                aperture,
                admin: DriverRing::new(layout(0, ADMIN_DEPTH)?),
                work: DriverRing::new(layout(RING, DEPTH)?),
                target: Handle::NULL,
                readable: Vec::new(),
            });
            let session = world.create(at, op::session_open::Args {})?;
            let create =
                op::queue_create::Args { session, ring: RING, depth: DEPTH.into(), vector: 1 };
            world.create(at, create)?;
            let buffer = op::buffer_create::Args { session, bytes: 4096, usage: Usage::Device };
            world.guests[at].target = world.create(at, buffer)?;
            let source = world.create(at, buffer)?;
            world.guests[at].readable.push(source);
            for _ in 3..handles / tenants {
                let derive = op::derive::Args { source, rights: Rights::READ };
                let handle = world.create(at, derive)?;
                world.guests[at].readable.push(handle);
            }
        }
        Ok(world)
    }

    fn serve(&mut self) {
        self.now += 1000;
        self.mediator.poll(self.now, &mut self.fx);
        self.mediator.announce(&mut self.fx);
        let mut done = std::mem::take(&mut self.fx.done);
        for event in done.drain(..) {
            self.mediator.backend(event, self.now, &mut self.fx);
        }
        self.fx.done = done;
    }

    /// Runs an admin command and returns the handle it made.
    fn create(&mut self, at: usize, request: impl Into<Request>) -> Result<Handle, String> {
        let Guest { aperture, admin, .. } = &mut self.guests[at];
        let pushed = admin.push(aperture, &request.into().encode(1));
        if !matches!(pushed, Ok(Ok(()))) {
            return Err("the admin ring is full".into());
        }
        for _ in 0..1000 {
            self.serve();
            let Guest { aperture, admin, .. } = &mut self.guests[at];
            match admin.pop(aperture) {
                Ok(Some(Completion { status: Status::Ok, value, .. })) => {
                    return Ok(Handle::from_raw(value));
                }
                Ok(None) => {}
                other => return Err(format!("preparing: {other:?}")),
            }
        }
        Err("preparing: no answer".into())
    }

    /// Nanoseconds a command; the median of the batches. A batch is `each` commands for every guest.
    fn run(
        &mut self,
        commands: u64,
        each: u64,
        make: fn(&Guest, u64) -> Request,
    ) -> Result<f64, String> {
        let batch = each * self.guests.len() as u64;
        let mut times = Vec::new();
        let mut turn = 0_u64;
        while turn < commands || times.len() < 5 {
            for guest in &mut self.guests {
                for _ in 0..each {
                    let descriptor = make(guest, turn).encode(turn);
                    if !matches!(guest.work.push(&guest.aperture, &descriptor), Ok(Ok(()))) {
                        return Err("a work ring is full".into());
                    }
                    turn += 1;
                }
            }
            let want = self.fx.finished + batch;
            let start = Instant::now();
            while self.fx.finished < want {
                self.serve();
                if start.elapsed() > Duration::from_secs(10) {
                    return Err("the mediator does not complete every command".into());
                }
            }
            times.push(start.elapsed());
            for guest in &mut self.guests {
                while matches!(guest.work.pop(&guest.aperture), Ok(Some(_))) {}
            }
        }
        Ok(median(times) / batch as f64)
    }
}

/// What the ring alone takes: fetch a descriptor, post a completion.
fn bare_ring(commands: u64) -> Result<f64, String> {
    let region = SharedRegion::create("bench", APERTURE).map_err(|e| e.to_string())?;
    let layout = layout(RING, DEPTH)?;
    let (mut driver, mut device) = (DriverRing::new(layout), DeviceRing::new(layout));
    let descriptor = Request::from(op::nop::Args {}).encode(1);
    let mut times = Vec::new();
    for _ in 0..commands / BATCH {
        for _ in 0..BATCH {
            let _ = driver.push(&region, &descriptor);
        }
        let start = Instant::now();
        while let Ok(Some((descriptor, permit))) = device.fetch(&region) {
            let completion =
                Completion { cookie: descriptor.cookie, value: 0, detail: 0, status: Status::Ok };
            device.complete(&region, permit, &completion).map_err(|e| format!("{e:?}"))?;
        }
        device.interrupt_wanted(&region).map_err(|e| format!("{e:?}"))?;
        times.push(start.elapsed());
        while matches!(driver.pop(&region), Ok(Some(_))) {}
    }
    Ok(median(times) / BATCH as f64)
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(f64::NAN, |time| time.as_nanos() as f64)
}
