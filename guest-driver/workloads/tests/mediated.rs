//! The workloads against the real mediator and a real policy, with a backend that moves bytes and
//! runs no kernels. Everything is stepped from the driver's own busy waits, so only a racing second
//! "vCPU" is a thread.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use turnstile_abi::memory::SharedMemory;
use turnstile_abi::version::Features;
use turnstile_backend_api::{
    BackendEvent, BackendOp, BufferId, Done, Home, MemoryId, Outcome, Piece, Place, RegionId,
    SharedRegion, SpaceId, Ticket,
};
use turnstile_core::{
    Attachment, AuditEvent, Effects, Finished, GuestMemory, Mediator, ProgramRefused, Registers,
    Settings, TenantId, VerifyJob, Wrote,
};
use turnstile_driver::Transport;
use turnstile_policy::Policy;
use turnstile_workloads::{Env, GuestPages, Workload, run};

const PAGES_GPA: u64 = 0x10_0000;
const PAGES_BYTES: u64 = 1 << 20;
const APERTURE_ID: MemoryId = MemoryId(1);
const PAGES_ID: MemoryId = MemoryId(2);

enum Memory {
    Own(Vec<u8>),
    Shared(Vec<Piece>),
}

/// Moves bytes between buffers and regions; late, so that commands are in flight for a while.
#[derive(Default)]
struct Mover {
    waiting: VecDeque<(Ticket, BackendOp)>,
    refused: Vec<Ticket>,
    shared: HashMap<MemoryId, Arc<SharedRegion>>,
    buffers: HashMap<BufferId, Memory>,
    regions: HashMap<RegionId, Memory>,
    next_address: u64,
    clock: u64,
}

impl Mover {
    fn span(&self, memory: &Memory, offset: u64, bytes: u64) -> Vec<u8> {
        match memory {
            Memory::Own(own) => own[offset as usize..][..bytes as usize].to_vec(),
            Memory::Shared(pieces) => {
                let mut all = Vec::new();
                for piece in pieces {
                    let mut part = vec![0; piece.bytes as usize];
                    self.shared[&piece.memory].read(piece.offset, &mut part).unwrap();
                    all.extend(part);
                }
                all[offset as usize..][..bytes as usize].to_vec()
            }
        }
    }

    fn read(&self, place: Place, bytes: u64) -> Vec<u8> {
        match place {
            Place::Buffer(id, offset) => self.span(&self.buffers[&id], offset, bytes),
            Place::Region(id, offset) => self.span(&self.regions[&id], offset, bytes),
        }
    }

    fn write(&mut self, place: Place, from: &[u8]) {
        let (memory, offset) = match place {
            Place::Buffer(id, offset) => (self.buffers.get_mut(&id).unwrap(), offset),
            Place::Region(id, offset) => (self.regions.get_mut(&id).unwrap(), offset),
        };
        match memory {
            Memory::Own(own) => own[offset as usize..][..from.len()].copy_from_slice(from),
            Memory::Shared(pieces) => {
                let mut at = 0;
                for piece in pieces {
                    let start = offset.max(at);
                    let end = (offset + from.len() as u64).min(at + piece.bytes);
                    if start < end {
                        let part = &from[(start - offset) as usize..(end - offset) as usize];
                        self.shared[&piece.memory].write(piece.offset + start - at, part).unwrap();
                    }
                    at += piece.bytes;
                }
            }
        }
    }

    fn perform(&mut self, op: BackendOp) -> Outcome {
        self.clock += 100;
        match op {
            BackendOp::SpaceOpen { .. } => Outcome { detail: 1 << 40, ..Outcome::ok(1 << 44) },
            BackendOp::BufferCreate { buffer, bytes, home, .. } => {
                let memory = match home {
                    Home::Device => Memory::Own(vec![0; bytes as usize]),
                    Home::Shared(piece) => {
                        self.shared[&piece.memory].zero(piece.offset, piece.bytes).unwrap();
                        Memory::Shared(vec![piece])
                    }
                };
                self.buffers.insert(buffer, memory);
                self.next_address += bytes.next_multiple_of(4096);
                Outcome::ok((1 << 44) + self.next_address)
            }
            BackendOp::BufferDestroy { buffer, .. } => {
                assert!(self.buffers.remove(&buffer).is_some());
                Outcome::ok(0)
            }
            BackendOp::DmaMap { region, pieces, .. } => {
                self.regions.insert(region, Memory::Shared(pieces.to_vec()));
                Outcome::ok(0)
            }
            BackendOp::DmaUnmap { region, .. } => {
                assert!(self.regions.remove(&region).is_some());
                Outcome::ok(0)
            }
            BackendOp::Copy { dst, src, bytes, .. } => {
                let moved = self.read(src, bytes);
                self.write(dst, &moved);
                Outcome::ok(bytes)
            }
            BackendOp::Fill { dst, bytes, pattern, width, .. } => {
                let element = pattern.to_le_bytes();
                let filled: Vec<u8> = element[..usize::from(width)]
                    .iter()
                    .copied()
                    .cycle()
                    .take(bytes as usize)
                    .collect();
                self.write(dst, &filled);
                Outcome::ok(bytes)
            }
            BackendOp::Timestamp { .. } => Outcome::ok(self.clock),
            _ => Outcome::ok(0),
        }
    }
}

impl Effects for Mover {
    fn submit(&mut self, ticket: Ticket, op: BackendOp) {
        self.waiting.push_back((ticket, op));
    }
    fn abort(&mut self, _: SpaceId) {}
    fn verify(&mut self, ticket: Ticket, _: VerifyJob) {
        self.refused.push(ticket);
    }
    fn interrupt(&mut self, _: TenantId, _: u16) {}
    fn audit(&mut self, _: AuditEvent<'_>) {}
    fn finished(&mut self, _: Finished) {}
    fn detached(&mut self, _: TenantId) {}
    fn memory_removed(&mut self, _: TenantId, _: u64) {}
}

struct World {
    mediator: Mediator<Arc<SharedRegion>>,
    mover: Mover,
    tenant: TenantId,
    start: Instant,
    ticked: u64,
}

impl World {
    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn step(&mut self) {
        let now = self.now();
        self.mediator.poll(now, &mut self.mover);
        self.mediator.announce(&mut self.mover);
        // A few at a time: the rest stays in flight.
        for _ in 0..4 {
            let Some((ticket, op)) = self.mover.waiting.pop_front() else { break };
            let outcome = self.mover.perform(op);
            let done = BackendEvent::Done(Done { ticket, outcome });
            self.mediator.backend(done, now, &mut self.mover);
        }
        for ticket in std::mem::take(&mut self.mover.refused) {
            let refused = ProgramRefused { line: 1, why: "no programs here".into() };
            self.mediator.verified(ticket, Err(refused), now, &mut self.mover);
        }
        if now - self.ticked > 1_000_000 {
            self.ticked = now;
            self.mediator.tick(now, &mut self.mover);
        }
    }
}

struct Bench {
    world: RefCell<World>,
    registers: Arc<Registers>,
    aperture: Arc<SharedRegion>,
    pages: Arc<SharedRegion>,
    args: &'static str,
    printed: Mutex<Vec<String>>,
}

impl Bench {
    fn new(grants: &str, args: &'static str) -> Bench {
        let text = format!(
            r#"{{ "version": 1, "device": {{ "backend": "emulated", "memory": "1GiB" }},
            "tenants": [ {{ "name": "t", "attach": {{ "kind": "process" }}, "aperture": "8MiB",
            "rate": "unlimited", "grants": {{ {grants} }} }} ] }}"#
        );
        let policy = Policy::parse(&text).unwrap_or_else(|e| panic!("{e}")).tenants[0].clone();
        let bytes = policy.aperture_bytes;
        let aperture = Arc::new(SharedRegion::create("aperture", bytes).unwrap());
        let pages = Arc::new(SharedRegion::create("pages", PAGES_BYTES).unwrap());
        let features = Features::DMA | Features::COMPUTE;
        let registers = Arc::new(Registers::new(features, bytes, bytes / 2));
        let mut mover = Mover::default();
        mover.shared.insert(APERTURE_ID, Arc::clone(&aperture));
        mover.shared.insert(PAGES_ID, Arc::clone(&pages));
        let mut mediator = Mediator::new(Settings { spin_ns: 20_000, ..Settings::default() });
        let attachment = Attachment {
            policy,
            registers: Arc::clone(&registers),
            aperture: Arc::clone(&aperture),
            aperture_memory: APERTURE_ID,
        };
        let tenant = mediator.attach(attachment, 0, &mut mover);
        let memory =
            GuestMemory { gpa: PAGES_GPA, bytes: PAGES_BYTES, memory: PAGES_ID, offset: 0 };
        mediator.add_memory(tenant, memory).unwrap();
        let world = World { mediator, mover, tenant, start: Instant::now(), ticked: 0 };
        let world = RefCell::new(world);
        Bench { world, registers, aperture, pages, args, printed: Mutex::default() }
    }

    /// Runs a workload; it must pass, and leave nothing behind once its device is detached.
    fn passes(self, workload: Workload) -> Vec<String> {
        let passed = run(workload, &self, &self);
        let printed = self.printed.lock().unwrap().clone();
        assert!(passed, "{}", printed.join("\n"));
        let world = &mut *self.world.borrow_mut();
        let view = world.mediator.view(world.tenant).unwrap();
        assert_eq!(view.counters.fetched, view.counters.completed + u64::from(view.in_flight));
        let now = world.now();
        world.mediator.detach(world.tenant, now, &mut world.mover);
        for _ in 0..100_000 {
            world.step();
        }
        assert!(world.mediator.view(world.tenant).is_none(), "the tenant is gone");
        assert!(world.mover.waiting.is_empty() && world.mediator.open_operations() == 0);
        printed
    }
}

impl Transport for Bench {
    type Aperture = SharedRegion;
    fn read32(&self, at: u64) -> u32 {
        self.world.borrow_mut().step();
        self.registers.read(at, 4).map_or(u32::MAX, |v| v as u32)
    }
    fn write32(&self, at: u64, value: u32) {
        self.mmio_write(at, 4, value.into());
    }
    fn aperture(&self) -> &SharedRegion {
        &self.aperture
    }
    fn relax(&self) {
        self.world.borrow_mut().step();
    }
    fn now_ns(&self) -> u64 {
        self.world.borrow().now()
    }
}

impl Env for Bench {
    type Memory = SharedRegion;
    fn print(&self, line: fmt::Arguments<'_>) {
        println!("{line}");
        self.printed.lock().unwrap().push(line.to_string());
    }
    fn arg(&self, key: &str) -> Option<&str> {
        let mut pairs = self.args.split_whitespace().filter_map(|a| a.split_once('='));
        pairs.find(|(k, _)| *k == key).map(|(_, value)| value)
    }
    fn pages(&self) -> Option<GuestPages<'_, SharedRegion>> {
        Some(GuestPages { memory: &self.pages, gpa: PAGES_GPA })
    }
    fn aperture_gpa(&self) -> Option<u64> {
        Some(0x1_0000_0000)
    }
    fn alongside(&self, other: &(dyn Fn() + Sync), body: &mut dyn FnMut()) -> bool {
        std::thread::scope(|scope| {
            scope.spawn(other);
            body();
        });
        true
    }
    fn mmio_read(&self, at: u64, bytes: u8) -> Option<u64> {
        let ones = if bytes >= 8 { u64::MAX } else { (1 << (bytes * 8)) - 1 };
        Some(self.registers.read(at, bytes.into()).unwrap_or(ones))
    }
    fn mmio_write(&self, at: u64, bytes: u8, value: u64) -> bool {
        if self.registers.write(at, bytes.into(), value) == Wrote::Kick {
            let world = &mut *self.world.borrow_mut();
            let now = world.now();
            world.mediator.attention(world.tenant, now, &mut world.mover);
            world.step();
        }
        true
    }
}

const EVERYTHING: &str = r#"
    "sessions": 2, "max_handles": 300,
    "buffer": { "max_bytes": "16MiB", "max_count": 24, "usage": ["device", "host"] },
    "dma": { "max_bytes": "1MiB", "max_regions": 8, "access": ["read", "write"] },
    "queue": { "max_count": 4, "max_depth": 256, "max_in_flight": 16 },
    "fence": { "max_count": 8, "max_wait": "200ms" },
    "copy": true, "fill": true, "derive": true"#;

const LITTLE: &str = r#"
    "buffer": { "max_bytes": "64KiB", "max_count": 4, "usage": ["device"] },
    "dma": { "max_bytes": "64KiB", "max_regions": 1, "access": ["read"] },
    "queue": { "max_count": 1, "max_depth": 32, "max_in_flight": 8 },
    "copy": true"#;

fn find<'a>(printed: &'a [String], what: &str) -> &'a str {
    printed.iter().find(|line| line.contains(what)).unwrap_or_else(|| panic!("no line: {what}"))
}

#[test]
fn copies_come_back_on_every_path() {
    let printed = Bench::new(EVERYTHING, "").passes(Workload::Copy);
    find(&printed, "registered pages -> buffers -> host-visible buffer: right");
    find(&printed, "host-visible buffer -> buffers -> registered pages: right");
    find(&printed, "ten waits");
}

#[test]
fn a_policy_without_a_way_back_is_said_so() {
    let printed = Bench::new(LITTLE, "bytes=16384").passes(Workload::Copy);
    find(&printed, "no way back");
}

#[test]
fn stress_agrees_with_its_model() {
    Bench::new(EVERYTHING, "n=20000 seed=7 mischief=10").passes(Workload::Stress);
}

#[test]
fn nops_are_counted() {
    let printed = Bench::new(EVERYTHING, "n=5000").passes(Workload::Nop);
    find(&printed, "metric: nop.round_trip p50_ns=");
    find(&printed, "metric: nop.throughput per_second=");
}

#[test]
fn the_hostile_tenant_is_refused_everything() {
    let printed = Bench::new(EVERYTHING, "deny=ptx,image,launch").passes(Workload::Hostile);
    find(&printed, "0 failed");
}

#[test]
fn the_hostile_tenant_is_refused_everything_under_a_narrow_policy() {
    let deny = "deny=fill,fence,derive,host,dma-write,ptx,image,launch";
    let printed = Bench::new(LITTLE, deny).passes(Workload::Hostile);
    find(&printed, "what the policy does not grant                   refused: denied");
}

/// The check of the check: an expectation that is wrong fails the workload.
#[test]
fn a_policy_that_grants_too_much_fails_the_hostile_tenant() {
    let bench = Bench::new(EVERYTHING, "deny=fill only=grant");
    assert!(!run(Workload::Hostile, &bench, &bench));
}
