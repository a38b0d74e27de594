use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use turnstile_abi::Status;
use turnstile_abi::request::Format;
use turnstile_abi::version::Features;
use turnstile_backend_api::{
    Backend, BackendEvent, BackendOp, Code, Description, Done, MemoryId, Outcome, SharedRegion,
    SpaceId, Ticket,
};
use turnstile_core::VerifyJob;
use turnstile_driver::{DeviceManager, Slot};
use turnstile_policy::{Policy, TenantPolicy};

use super::*;
use crate::audit::AuditHandle;
use crate::tenants::local::LocalTransport;

/// Answers everything at once, except while it is told to hold answers back.
struct Instantly {
    done: VecDeque<BackendEvent>,
    wake: OwnedFd,
    memory: Arc<std::sync::Mutex<Vec<MemoryId>>>,
}

impl Instantly {
    fn new() -> (Instantly, Arc<std::sync::Mutex<Vec<MemoryId>>>) {
        let wake = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
        let memory = Arc::default();
        (Instantly { done: VecDeque::new(), wake, memory: Arc::clone(&memory) }, memory)
    }
}

impl Backend for Instantly {
    fn describe(&self) -> Description {
        Description {
            kind: "test",
            name: "answers at once".into(),
            memory_bytes: 1 << 30,
            multiprocessors: 1,
            features: Features::DMA | Features::COMPUTE,
        }
    }
    fn add_memory(&mut self, id: MemoryId, _: Arc<SharedRegion>) {
        self.memory.lock().unwrap().push(id);
    }
    fn remove_memory(&mut self, id: MemoryId) {
        self.memory.lock().unwrap().retain(|&m| m != id);
    }
    fn submit(&mut self, ticket: Ticket, op: BackendOp) {
        let value = match op {
            BackendOp::SpaceOpen { .. } => 4 << 30,
            _ => 1,
        };
        let outcome = Outcome { detail: 4 << 30, ..Outcome::ok(value) };
        self.done.push_back(BackendEvent::Done(Done { ticket, outcome }));
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
    fn abort(&mut self, _: SpaceId) {}
    fn drain(&mut self, sink: &mut dyn FnMut(BackendEvent)) {
        let _ = rustix::io::read(&self.wake, &mut [0_u8; 8]);
        self.done.drain(..).for_each(sink);
    }
    fn sleeping(&mut self, _: bool) {}
    fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

fn policy() -> Arc<TenantPolicy> {
    let text = r#"{ "version": 1, "device": { "backend": "emulated", "memory": "1GiB" },
        "tenants": [ { "name": "t", "attach": { "kind": "process" }, "aperture": "4MiB",
          "grants": {
            "buffer": { "max_bytes": "1MiB", "max_count": 8, "usage": ["device"] },
            "dma": { "max_bytes": "1MiB", "max_regions": 4, "access": ["read", "write"] },
            "program": { "formats": ["ptx"], "guard": "none", "max_bytes": "1MiB" },
            "queue": { "max_count": 4, "max_depth": 64, "max_in_flight": 64 } } } ] }"#;
    Policy::parse(text).unwrap_or_else(|e| panic!("{e}")).tenants[0].clone()
}

struct World {
    runtime: Runtime,
    memory: Arc<std::sync::Mutex<Vec<MemoryId>>>,
}

impl World {
    fn new() -> World {
        let (backend, memory) = Instantly::new();
        let wake = Wake::new().unwrap();
        let settings = Settings::default();
        let audit = AuditHandle::none();
        let runtime = Runtime::start(Box::new(backend), audit, wake, None, settings).unwrap();
        World { runtime, memory }
    }
}

#[test]
fn commands_go_through_busy_and_parked_rings_and_are_counted() {
    let world = World::new();
    let handle = world.runtime.handle();
    let attached = handle.attach(policy(), false).unwrap();
    let device = DeviceManager::start(LocalTransport::new(attached.device)).unwrap();
    let session = device.open_session().unwrap();
    let mut slots = [Slot::NEW; 64];
    let mut queue = session.create_queue(&mut slots).unwrap();
    for i in 0..300 {
        let token = queue.nop().unwrap();
        queue.wait(token, 5_000_000_000).unwrap();
        if i % 100 == 0 {
            // Long enough for the dispatcher to park the ring and sleep.
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    queue.destroy().unwrap();
    session.close().unwrap();
    let report = handle.detach(attached.tenant).unwrap();
    // Session, queue, 300 Nops, and the two ends; the driver may ask for more.
    assert!(report.counters.completed >= 304, "{report:?}");
    assert_eq!((report.counters.denied, report.counters.failed), (0, 0));
    let latency = report.latency.unwrap();
    assert!(latency.p50_ns > 0 && latency.p50_ns <= latency.p99_ns);
    assert_eq!(*world.memory.lock().unwrap(), [], "the backend forgot the aperture");
    assert!(matches!(handle.detach(attached.tenant), Err(RuntimeError::NoTenant)));
    assert!(handle.report(attached.tenant).unwrap().is_none());
}

#[test]
fn after_a_revoke_returns_nothing_works() {
    let world = World::new();
    let handle = world.runtime.handle();
    let attached = handle.attach(policy(), false).unwrap();
    let device = DeviceManager::start(LocalTransport::new(attached.device)).unwrap();
    let session = device.open_session().unwrap();
    let start = Instant::now();
    handle.revoke(attached.tenant).unwrap();
    let took = start.elapsed();
    assert!(session.create_buffer(4096, turnstile_abi::request::Usage::Device).is_err());
    assert!(device.open_session().is_err());
    // The bound is 1 ms; a machine under load gets some slack here, the benchmark none.
    assert!(took < Duration::from_millis(100), "{took:?}");
}

#[test]
fn guest_memory_comes_and_goes() {
    let world = World::new();
    let handle = world.runtime.handle();
    let attached = handle.attach(policy(), true).unwrap();
    let region = Arc::new(SharedRegion::create("ram", 1 << 20).unwrap());
    handle.add_memory(attached.tenant, 0x10_0000, region.clone(), 0, 1 << 20).unwrap();
    let again = handle.add_memory(attached.tenant, 0x10_1000, region, 0, 4096);
    assert!(matches!(again, Err(RuntimeError::Map(_))), "{again:?}");
    assert_eq!(world.memory.lock().unwrap().len(), 2, "aperture and RAM, not the refused one");
    handle.remove_memory(attached.tenant, 0x10_0000, 1 << 20).unwrap();
    assert_eq!(world.memory.lock().unwrap().len(), 1);
}

#[test]
fn stopping_takes_every_tenant_along() {
    let world = World::new();
    let handle = world.runtime.handle();
    let mut devices = Vec::new();
    for _ in 0..5 {
        let attached = handle.attach(policy(), false).unwrap();
        let device = DeviceManager::start(LocalTransport::new(attached.device)).unwrap();
        let _ = device.open_session().unwrap(); // Stays open: a session closes by command alone.
        devices.push(device);
    }
    assert_eq!(handle.tenants().unwrap().len(), 5);
    let start = Instant::now();
    world.runtime.stop();
    assert!(start.elapsed() < Duration::from_secs(3));
    assert_eq!(*world.memory.lock().unwrap(), []);
    assert!(matches!(handle.tenants(), Err(RuntimeError::Silent)));
}

fn job(image: &[u8], format: Format) -> VerifyJob {
    VerifyJob {
        image: image.into(),
        format,
        policy: policy(),
        arena: (4 << 30, 4 << 30),
        serial: 1,
    }
}

#[test]
fn programs_are_checked_and_refusals_name_the_line() {
    let vecadd = include_bytes!("../../../../tests/kernels/ptx/vecadd.ptx");
    assert!(matches!(check_program(job(vecadd, Format::Ptx)), Ok(Code::Ptx(_))));
    let text = String::from_utf8_lossy(vecadd).replace("ret;", "bogus.u32 %r1;\n\tret;");
    let refused = check_program(job(text.as_bytes(), Format::Ptx)).unwrap_err();
    let line = text.lines().position(|l| l.contains("bogus")).unwrap() as u32 + 1;
    assert_eq!(refused.line, line, "{}", refused.why);
    let refused = check_program(job(b"\x7fELF", Format::Image)).unwrap_err();
    assert!(refused.why.contains("SHA-256"), "{}", refused.why);
    assert!(check_program(job(b"", Format::Ptx)).is_err());
}

#[test]
fn a_refused_program_reaches_the_tenant_as_such() {
    let world = World::new();
    let handle = world.runtime.handle();
    let attached = handle.attach(policy(), false).unwrap();
    let device = DeviceManager::start(LocalTransport::new(attached.device)).unwrap();
    let session = device.open_session().unwrap();
    let error = session.load_program(b"not ptx\n", Format::Ptx).unwrap_err();
    match error {
        turnstile_driver::Error::Status { status, detail, .. } => {
            assert_eq!((status, detail), (Status::BadProgram, 1));
        }
        other => panic!("{other}"),
    }
    let vecadd = include_bytes!("../../../../tests/kernels/ptx/vecadd.ptx");
    session.load_program(vecadd, Format::Ptx).unwrap().unload().unwrap();
}
