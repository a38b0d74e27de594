//! A mediator on top of a mediator: the inner one's backend drives the outer one's device, with an
//! IOMMU in between that maps what the inner one registers and nothing else.

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use turnstile::audit::AuditHandle;
use turnstile::runtime::{Handle, Runtime, Settings, Wake};
use turnstile::tenants::local::LocalTransport;
use turnstile_abi::Status;
use turnstile_abi::request::{Access, Usage};
use turnstile_backend_api::SharedRegion;
use turnstile_core::TenantId;
use turnstile_driver::{DeviceManager, Pattern, Slot, Transport};
use turnstile_emulated::device::{EmulatedGpu, Script};
use turnstile_policy::{Policy, TenantPolicy};
use turnstile_vfio::{Mediated, Outer};
use turnstile_workloads::{Env, GuestPages, Workload};

const LIMIT: u64 = 20_000_000_000;

fn policy(backend: &str, name: &str, guard: &str) -> Arc<TenantPolicy> {
    let text = format!(
        r#"{{ "version": 1, "device": {{ {backend}, "memory": "256MiB" }},
        "tenants": [ {{ "name": "{name}", "attach": {{ "kind": "process" }}, "aperture": "16MiB",
          "grants": {{ "sessions": 8,
            "buffer": {{ "max_bytes": "64MiB", "max_count": 64, "usage": ["device", "host"] }},
            "dma": {{ "max_bytes": "32MiB", "max_regions": 64, "access": ["read", "write"] }},
            "program": {{ "formats": ["ptx"], "guard": "{guard}", "max_bytes": "4MiB" }},
            "launch": {{ "max_blocks": 65535, "timeout": "5s" }},
            "queue": {{ "max_count": 8, "max_depth": 256, "max_in_flight": 256 }},
            "fence": {{ "max_count": 16, "max_wait": "5s" }},
            "copy": true, "fill": true, "derive": true }} }} ] }}"#
    );
    Policy::parse(&text).unwrap_or_else(|e| panic!("{e}")).tenants[0].clone()
}

fn runtime(backend: Box<dyn turnstile_backend_api::Backend>) -> Runtime {
    let (wake, audit) = (Wake::new().unwrap(), AuditHandle::none());
    Runtime::start(backend, audit, wake, None, Settings::default()).unwrap()
}

/// A transport to a device that can be gone.
struct Wire {
    local: LocalTransport,
    gone: Arc<AtomicBool>,
}

impl Transport for Wire {
    type Aperture = SharedRegion;
    fn read32(&self, at: u64) -> u32 {
        if self.gone.load(Ordering::Relaxed) { u32::MAX } else { self.local.read32(at) }
    }
    fn write32(&self, at: u64, value: u32) {
        if !self.gone.load(Ordering::Relaxed) {
            self.local.write32(at, value);
        }
    }
    fn aperture(&self) -> &SharedRegion {
        self.local.aperture()
    }
    fn wait_for_interrupt(&self, vector: u16, bound_ns: u64) {
        self.local.wait_for_interrupt(vector, bound_ns);
    }
    fn now_ns(&self) -> u64 {
        self.local.now_ns()
    }
}

/// Windows of the IOMMU: address to bytes.
type Windows = Arc<Mutex<HashMap<u64, u64>>>;

/// The outer mediator's device, with the outer machine's vIOMMU.
struct Nested {
    wire: Wire,
    tenant: TenantId,
    outer: Handle,
    windows: Windows,
    wanted: Arc<AtomicBool>,
    /// Told when the device is let go.
    let_go: Sender<()>,
}

impl Drop for Nested {
    fn drop(&mut self) {
        let _ = self.let_go.send(());
    }
}

impl Outer for Nested {
    type Transport = Wire;
    fn name(&self) -> String {
        "nested".into()
    }
    fn transport(&self) -> &Wire {
        &self.wire
    }
    fn map(
        &self,
        iova: u64,
        region: &Arc<SharedRegion>,
        offset: u64,
        bytes: u64,
        _: Access,
    ) -> io::Result<()> {
        self.outer
            .add_memory(self.tenant, iova, region.clone(), offset, bytes)
            .map_err(io::Error::other)?;
        assert!(self.windows.lock().unwrap().insert(iova, bytes).is_none());
        Ok(())
    }
    fn unmap(&self, iova: u64, bytes: u64) -> io::Result<()> {
        assert_eq!(self.windows.lock().unwrap().remove(&iova), Some(bytes));
        self.outer.remove_memory(self.tenant, iova, bytes).map_err(io::Error::other)
    }
    fn reserved(&self) -> &[(u64, u64)] {
        &[(0xfee0_0000, 0xfeef_ffff)]
    }
    fn trouble(&self) -> Option<&'static str> {
        self.wanted.load(Ordering::Relaxed).then_some("wanted back")
    }
    fn wait(&self, inbox: BorrowedFd<'_>, _: u16, bound_ns: u64) {
        let bound = bound_ns.min(1_000_000);
        let time = Timespec { tv_sec: 0, tv_nsec: bound as i64 };
        let _ = poll(&mut [PollFd::from_borrowed_fd(inbox, PollFlags::IN)], Some(&time));
    }
}

struct World {
    // The inner one ends first.
    inner: Runtime,
    outer: Runtime,
    windows: Windows,
    gone: Arc<AtomicBool>,
    wanted: Arc<AtomicBool>,
    is_let_go: Receiver<()>,
    device: Arc<turnstile_device::Device>,
    tenant: TenantId,
}

impl World {
    fn new() -> World {
        let settings = turnstile_emulated::device::Settings {
            memory_bytes: 256 << 20,
            threads: 1,
            script: Script(Vec::new()),
        };
        let outer = runtime(Box::new(EmulatedGpu::start(settings).unwrap()));
        let claimant = policy(r#""backend": "emulated""#, "outer", "fence");
        let attached = outer.handle().attach(claimant, true).unwrap();
        let (windows, gone) = (Windows::default(), Arc::new(AtomicBool::new(false)));
        let (wanted, (let_go, is_let_go)) = (Arc::new(AtomicBool::new(false)), channel());
        let nested = Nested {
            wire: Wire { local: LocalTransport::new(attached.device.clone()), gone: gone.clone() },
            tenant: attached.tenant,
            outer: outer.handle(),
            windows: windows.clone(),
            wanted: wanted.clone(),
            let_go,
        };
        let mediated = Mediated::start(move || Ok::<_, io::Error>(nested)).unwrap();
        let inner = runtime(Box::new(mediated));
        let (device, tenant) = (attached.device, attached.tenant);
        World { inner, outer, windows, gone, wanted, is_let_go, device, tenant }
    }

    fn tenant(&self, name: &str) -> Tenant {
        let options = r#""backend": "vfio", "vfio": { "function": "0000:00:04.0" }"#;
        let handle = self.inner.handle();
        let attached = handle.attach(policy(options, name, "fence"), true).unwrap();
        let pages = Arc::new(SharedRegion::create("pages", 1 << 20).unwrap());
        handle.add_memory(attached.tenant, PAGES, pages.clone(), 0, 1 << 20).unwrap();
        Tenant { transport: LocalTransport::new(attached.device), pages, id: attached.tenant }
    }

    fn end(self) {
        self.inner.stop();
        assert!(self.windows.lock().unwrap().is_empty(), "memory stays reachable");
        self.outer.stop();
    }
}

const PAGES: u64 = 0x10_0000;

struct Tenant {
    transport: LocalTransport,
    pages: Arc<SharedRegion>,
    id: TenantId,
}

impl Env for Tenant {
    type Memory = Arc<SharedRegion>;
    fn print(&self, line: std::fmt::Arguments<'_>) {
        println!("{line}");
    }
    fn arg(&self, key: &str) -> Option<&str> {
        match key {
            "n" => Some("5000"),
            _ => None,
        }
    }
    fn pages(&self) -> Option<GuestPages<'_, Arc<SharedRegion>>> {
        Some(GuestPages { memory: &self.pages, gpa: PAGES })
    }
}

#[test]
fn two_tenants_compute_and_copy_at_once_and_leave_nothing_mapped() {
    let world = World::new();
    let (a, b) = (world.tenant("a"), world.tenant("b"));
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(turnstile_workloads::run(Workload::Vecadd, &a.transport, &a)));
        scope.spawn(|| assert!(turnstile_workloads::run(Workload::Copy, &b.transport, &b)));
    });
    let outer = world.outer.handle().report(world.tenant).unwrap().unwrap();
    assert!(outer.counters.completed > 20, "{outer:?}");
    for tenant in [&a, &b] {
        world.inner.handle().detach(tenant.id).unwrap();
    }
    assert!(world.windows.lock().unwrap().is_empty());
    world.end();
}

#[test]
fn random_work_agrees_with_its_model() {
    let world = World::new();
    let tenant = world.tenant("stress");
    assert!(turnstile_workloads::run(Workload::Stress, &tenant.transport, &tenant));
    world.end();
}

#[test]
fn memory_is_mapped_while_it_is_registered_and_no_longer() {
    let world = World::new();
    let tenant = world.tenant("t");
    let device = DeviceManager::start(&tenant.transport).unwrap();
    let session = device.open_session().unwrap();
    assert!(world.windows.lock().unwrap().is_empty());
    // Pages that lie side by side are one window, whatever the tenant's list looks like.
    let extent =
        |page: u64| turnstile_abi::launch::DmaExtent { gpa: PAGES + page * 4096, bytes: 4096 };
    let region =
        session.register_dma(&[extent(0), extent(1), extent(9)], Access::ReadWrite).unwrap();
    let mut windows: Vec<u64> = world.windows.lock().unwrap().values().copied().collect();
    windows.sort_unstable();
    assert_eq!(windows, [4096, 8192]);
    let mut slots = [Slot::NEW; 8];
    let mut queue = session.create_queue(&mut slots).unwrap();
    let token = queue.fill(region.at(4096), 8192, Pattern::U32(0xabcd_1234)).unwrap();
    queue.wait(token, LIMIT).unwrap();
    let word = |page: u64| {
        turnstile_abi::memory::SharedMemory::load32(&tenant.pages, page * 4096).unwrap()
    };
    assert_eq!([word(0), word(1), word(2), word(9)], [0, 0xabcd_1234, 0, 0xabcd_1234]);
    region.unregister().unwrap();
    assert!(world.windows.lock().unwrap().is_empty());
    let buffer = session.create_buffer(100, Usage::Host).unwrap();
    assert_eq!(world.windows.lock().unwrap().len(), 1);
    buffer.destroy().unwrap();
    assert!(world.windows.lock().unwrap().is_empty());
    queue.destroy().unwrap();
    session.close().unwrap();
    world.end();
}

/// Opens a session, puts memory into it, and starts work that the outer device will not finish.
fn lose(world: &World, tenant: &Tenant, trouble: impl FnOnce()) {
    let device = DeviceManager::start(&tenant.transport).unwrap();
    let session = device.open_session().unwrap();
    let buffer = session.create_buffer(1 << 20, Usage::Host).unwrap();
    let mut slots = [Slot::NEW; 8];
    let mut queue = session.create_queue(&mut slots).unwrap();
    let token = queue.fill(buffer.at(0), 4096, Pattern::U8(1)).unwrap();
    queue.wait(token, LIMIT).unwrap();
    trouble();
    let token = queue.fill(buffer.at(0), 1 << 20, Pattern::U8(2)).unwrap();
    let done = queue.complete(token, LIMIT).unwrap();
    assert_eq!(done.status, Status::DeviceLost);
    assert!(world.windows.lock().unwrap().is_empty(), "a lost device still reaches memory");
}

#[test]
fn a_device_that_is_gone_is_lost_and_one_that_is_back_serves_again() {
    let world = World::new();
    let tenant = world.tenant("t");
    lose(&world, &tenant, || world.gone.store(true, Ordering::Relaxed));
    world.gone.store(false, Ordering::Relaxed);
    assert!(turnstile_workloads::run(Workload::Vecadd, &tenant.transport, &tenant));
    world.end();
}

#[test]
fn a_device_that_is_wanted_back_is_let_go_at_once_and_the_daemon_lives() {
    let world = World::new();
    let tenant = world.tenant("t");
    let device = DeviceManager::start(&tenant.transport).unwrap();
    let session = device.open_session().unwrap();
    session.create_buffer(4096, Usage::Host).unwrap();
    world.wanted.store(true, Ordering::Relaxed);
    world.is_let_go.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(world.windows.lock().unwrap().is_empty());
    let late = session.create_buffer(4096, Usage::Host).unwrap_err();
    assert_eq!(late.status(), Some(Status::DeviceLost));
    let device = DeviceManager::start(&tenant.transport).unwrap();
    assert_eq!(device.open_session().unwrap_err().status(), Some(Status::DeviceLost));
    world.end();
}

#[test]
fn a_device_that_lies_is_lost_and_the_daemon_lives() {
    // A slot that is free, one that there is not, and one far off.
    for lie in [1, 64, 0x8000_0000] {
        let world = World::new();
        let tenant = world.tenant("t");
        // What the device would truly say comes later than the lie.
        let outer = world.outer.handle();
        lose(&world, &tenant, || {
            outer.pause(world.tenant, true).unwrap();
            scramble(&world, lie);
        });
        outer.pause(world.tenant, false).unwrap();
        assert!(turnstile_workloads::run(Workload::Vecadd, &tenant.transport, &tenant), "{lie}");
        world.end();
    }
}

/// Forges the next completion in the first ring behind the admin queue's, where one command was
/// completed before: for a command that nobody made.
fn scramble(world: &World, cookie: u32) {
    use turnstile_abi::memory::SharedMemory;
    let admin = turnstile_abi::ring::bytes(turnstile_abi::regs::ADMIN_DEPTH);
    let completions = admin.next_multiple_of(64) + 0x100 + 64 * 64;
    let mut forged = [0; 32];
    forged[0..4].copy_from_slice(&cookie.to_le_bytes());
    forged[28..32].copy_from_slice(&2_u32.to_le_bytes());
    world.device.aperture().write(completions + 32, &forged).unwrap();
}
