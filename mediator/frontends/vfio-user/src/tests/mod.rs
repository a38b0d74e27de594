//! The server against a small client: right, wrong, slow, many, and at random.

mod client;
mod hostile;
mod protocol;
mod second;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use turnstile_abi::memory::SharedMemory;
use turnstile_abi::version::Features;
use turnstile_backend_api::{BackendOp, MemoryId, SharedRegion, SpaceId, Ticket};
use turnstile_core::{
    Attachment, AuditEvent, Effects, Finished, Mediator, Registers, Settings, TenantId, VerifyJob,
};
use turnstile_device::Device;
use turnstile_policy::Policy;
use turnstile_process::Peer;

use crate::{Admission, Door, Left, Limits, Listener, MemoryEvents, MemoryLimits, Seat, Server};

/// What the fake dispatcher saw.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) devices: Vec<Arc<Device>>,
    /// Memory that is there: address to length and offset.
    pub(crate) memory: BTreeMap<u64, (u64, u64)>,
    pub(crate) left: Vec<Left>,
    /// Users to let in; empty: all.
    pub(crate) users: Vec<u32>,
}

/// A dispatcher that gives out devices and acts on their control registers.
#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) seen: Mutex<Seen>,
    /// How long a client that left takes to reclaim.
    pub(crate) reclaim: Duration,
    pub(crate) attached: AtomicUsize,
}

pub(crate) const APERTURE: u64 = 1 << 20;

impl Admission for Arc<Fake> {
    fn admits(&self, _tenant: &str, peer: &Peer) -> Result<(), String> {
        let users = &self.seen.lock().unwrap().users;
        let may = users.is_empty() || users.contains(&peer.uid);
        may.then_some(()).ok_or_else(|| "another user".to_owned())
    }
    fn attach(&self, tenant: &str, _peer: &Peer) -> Result<Seat, String> {
        if tenant == "absent" {
            return Err("no such tenant".into());
        }
        let aperture = Arc::new(SharedRegion::create("t", APERTURE).unwrap());
        let registers = Arc::new(Registers::new(Features::DMA, APERTURE, APERTURE / 4));
        let device = Arc::new(Device::new(registers, aperture).unwrap());
        assert_eq!(self.attached.fetch_add(1, Ordering::AcqRel), 0, "one client at a time");
        let mut seen = self.seen.lock().unwrap();
        // The last two: each holds descriptors.
        if seen.devices.len() == 2 {
            seen.devices.remove(0);
        }
        seen.devices.push(device.clone());
        drop(seen);
        let over = Arc::new(AtomicBool::new(false));
        let (ours, until) = (device.clone(), over.clone());
        std::thread::spawn(move || mediate(&ours, &until));
        Ok(Seat { device, events: Box::new(Events(self.clone(), over)) })
    }
}

/// Acts on control registers as the dispatcher does, with a real mediator, until the client is gone.
/// Leaves the doorbell alone: the tests read it.
fn mediate(device: &Device, over: &AtomicBool) {
    const POLICY: &str = r#"{ "version": 1, "device": { "backend": "emulated", "memory": "1GiB" },
        "tenants": [ { "name": "t", "attach": { "kind": "process" }, "aperture": "1MiB",
        "grants": {} } ] }"#;
    let attachment = Attachment {
        policy: Policy::parse(POLICY).unwrap_or_else(|e| panic!("{e}")).tenants[0].clone(),
        registers: device.registers().clone(),
        aperture: device.aperture().clone(),
        aperture_memory: MemoryId(1),
    };
    let mut mediator =
        Mediator::new(Settings { spin_ns: 0, multiprocessors: 1, watchdog_ns: u64::MAX });
    let id = mediator.attach(attachment, 0, &mut Ignored);
    while !over.load(Ordering::Acquire) {
        mediator.attention(id, 0, &mut Ignored);
        std::thread::sleep(Duration::from_millis(1));
    }
}

struct Ignored;

impl Effects for Ignored {
    fn submit(&mut self, _: Ticket, _: BackendOp) {}
    fn abort(&mut self, _: SpaceId) {}
    fn verify(&mut self, _: Ticket, _: VerifyJob) {}
    fn interrupt(&mut self, _: TenantId, _: u16) {}
    fn audit(&mut self, _: AuditEvent<'_>) {}
    fn finished(&mut self, _: Finished) {}
    fn detached(&mut self, _: TenantId) {}
    fn memory_removed(&mut self, _: TenantId, _: u64) {}
}

struct Events(Arc<Fake>, Arc<AtomicBool>);

impl MemoryEvents for Events {
    fn add(
        &mut self,
        address: u64,
        region: Arc<SharedRegion>,
        offset: u64,
        bytes: u64,
    ) -> Result<(), String> {
        assert!(turnstile_abi::memory::contains(region.size(), offset, bytes));
        let mut seen = self.0.seen.lock().unwrap();
        assert_eq!(seen.memory.insert(address, (bytes, offset)), None);
        Ok(())
    }
    fn remove(&mut self, address: u64, bytes: u64) -> Result<(), String> {
        let gone = self.0.seen.lock().unwrap().memory.remove(&address);
        assert_eq!(gone.map(|(b, _)| b), Some(bytes));
        Ok(())
    }
    fn left(&mut self, how: Left) {
        self.1.store(true, Ordering::Release);
        std::thread::sleep(self.0.reclaim);
        let mut seen = self.0.seen.lock().unwrap();
        seen.memory.clear();
        seen.left.push(how);
        self.0.attached.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A server with one tenant.
pub(crate) struct Bench {
    pub(crate) fake: Arc<Fake>,
    pub(crate) server: Server,
    pub(crate) path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new() -> Bench {
        Bench::with(Fake::default(), "tenant")
    }
    pub(crate) fn with(fake: Fake, tenant: &str) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = Listener::bind(&path, 0o600, None).unwrap();
        let fake = Arc::new(fake);
        let limits = Limits {
            patience: Duration::from_millis(300),
            memory: MemoryLimits { windows: 32, files: 4, bytes: 1 << 30 },
        };
        let doors = vec![Door { tenant: tenant.into(), listener }];
        let server = Server::start(doors, Arc::new(fake.clone()), limits).unwrap();
        Bench { fake, server, path, _dir: dir }
    }
    /// The newest client's device.
    pub(crate) fn device(&self) -> Arc<Device> {
        self.fake.seen.lock().unwrap().devices.last().unwrap().clone()
    }
    /// How client number `n` left; waits for it.
    pub(crate) fn left(&self, n: usize) -> Left {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(left) = self.fake.seen.lock().unwrap().left.get(n) {
                return left.clone();
            }
            assert!(Instant::now() < until, "it did not leave");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
