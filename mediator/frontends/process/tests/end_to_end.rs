//! A process tenant end to end: workloads in a client, over a real socket, through the real mediator
//! on a dispatcher thread of its own, to a backend that moves nothing.

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use turnstile_abi::version::Features;
use turnstile_backend_api::{
    BackendEvent, BackendOp, Done, MemoryId, Outcome, SharedRegion, SpaceId, Ticket,
};
use turnstile_core::{
    Attachment, AuditEvent, Effects, Finished, Mediator, Registers, Settings, TenantId, VerifyJob,
};
use turnstile_device::Device;
use turnstile_policy::Policy;
use turnstile_process::{
    Admission, Left, Limits, MemoryEvents, Peer, ProcessTransport, Seat, Server, socket,
};
use turnstile_workloads::{Env, Workload};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

const POLICY: &str = r#"{ "version": 1, "device": { "backend": "emulated", "memory": "1GiB" },
    "tenants": [ { "name": "t", "attach": { "kind": "process" }, "aperture": "4MiB",
    "rate": "unlimited", "grants": {
    "queue": { "max_count": 4, "max_depth": 256, "max_in_flight": 256 } } } ] }"#;

/// Answers at once and raises interrupts.
struct Surroundings {
    device: Arc<Device>,
    answers: VecDeque<Ticket>,
    gone: bool,
}

impl Effects for Surroundings {
    fn submit(&mut self, ticket: Ticket, _: BackendOp) {
        self.answers.push_back(ticket);
    }
    fn abort(&mut self, _: SpaceId) {}
    fn verify(&mut self, _: Ticket, _: VerifyJob) {}
    fn interrupt(&mut self, _: TenantId, vector: u16) {
        self.device.raise(vector);
    }
    fn audit(&mut self, _: AuditEvent<'_>) {}
    fn finished(&mut self, _: Finished) {}
    fn detached(&mut self, _: TenantId) {
        self.gone = true;
    }
    fn memory_removed(&mut self, _: TenantId, _: u64) {}
}

/// One tenant's mediator on a thread: polls while there is work, sleeps on the doorbell otherwise.
fn dispatch(device: &Arc<Device>, leave: &AtomicBool) {
    let policy = Policy::parse(POLICY).unwrap_or_else(|e| panic!("{e}")).tenants[0].clone();
    let start = Instant::now();
    let now = || start.elapsed().as_nanos() as u64;
    let mut fx = Surroundings { device: device.clone(), answers: VecDeque::new(), gone: false };
    let mut mediator = Mediator::new(Settings::default());
    let attachment = Attachment {
        policy,
        registers: device.registers().clone(),
        aperture: device.aperture().clone(),
        aperture_memory: MemoryId(1),
    };
    let tenant = mediator.attach(attachment, now(), &mut fx);
    let epoll = Epoll::new().unwrap();
    let kick = device.kick().as_raw_fd();
    epoll.ctl(ControlOperation::Add, kick, EpollEvent::new(EventSet::IN, 0)).unwrap();
    let mut turns = 0_u64;
    while !fx.gone {
        turns += 1;
        let round = mediator.poll(now(), &mut fx);
        while let Some(ticket) = fx.answers.pop_front() {
            let done = Done { ticket, outcome: Outcome::ok(1) };
            mediator.backend(BackendEvent::Done(done), now(), &mut fx);
        }
        mediator.announce(&mut fx);
        if round.hot == 0 || turns.is_multiple_of(64) {
            let wait = if round.hot == 0 { 5 } else { 0 };
            if epoll.wait(wait, &mut [EpollEvent::default()]).unwrap_or(0) > 0 {
                device.kick().clear();
                mediator.attention(tenant, now(), &mut fx);
            }
            if leave.load(Ordering::Acquire) {
                mediator.detach(tenant, now(), &mut fx);
            }
        }
    }
}

/// Brings the tenant to life on a dispatcher thread.
struct Doorman;

impl Admission for Doorman {
    fn knows(&self, _: usize, _: &Peer) -> bool {
        true
    }
    fn identify(&self, _: usize, _: &Peer, _: &str) -> Result<String, String> {
        Ok("t".into())
    }
    fn attach(&self, _: &str, _: &Peer) -> Result<Seat, String> {
        let bytes = 4 << 20;
        let features = Features::DMA | Features::COMPUTE;
        let registers = Arc::new(Registers::new(features, bytes, bytes / 2));
        let aperture = SharedRegion::create("aperture", bytes).map_err(|e| e.to_string())?;
        let device = Device::new(registers, Arc::new(aperture)).map_err(|e| e.to_string())?;
        let device = Arc::new(device);
        let leave = Arc::new(AtomicBool::new(false));
        let (for_thread, told) = (Arc::clone(&device), Arc::clone(&leave));
        let thread = std::thread::spawn(move || dispatch(&for_thread, &told));
        Ok(Seat { device, events: Box::new(Dispatched { leave, thread: Some(thread) }) })
    }
}

struct Dispatched {
    leave: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl MemoryEvents for Dispatched {
    fn add(&mut self, _: u64, _: u64, _: SharedRegion) -> Result<(), String> {
        Err("no DMA here".into())
    }
    fn remove(&mut self, _: u64) -> Result<(), String> {
        Err("no DMA here".into())
    }
    fn left(&mut self, how: Left) {
        self.leave.store(true, Ordering::Release);
        let dispatcher = self.thread.take().map(JoinHandle::join);
        assert!(matches!(dispatcher, Some(Ok(()))), "the dispatcher survived its tenant: {how:?}");
    }
}

struct Client<'t> {
    transport: &'t ProcessTransport,
    args: &'static str,
    printed: Mutex<Vec<String>>,
}

impl Env for Client<'_> {
    type Memory = SharedRegion;
    fn print(&self, line: fmt::Arguments<'_>) {
        println!("{line}");
        self.printed.lock().unwrap().push(line.to_string());
    }
    fn arg(&self, key: &str) -> Option<&str> {
        let mut pairs = self.args.split_whitespace().filter_map(|a| a.split_once('='));
        pairs.find(|(k, _)| *k == key).map(|(_, value)| value)
    }
    fn alongside(&self, other: &(dyn Fn() + Sync), body: &mut dyn FnMut()) -> bool {
        std::thread::scope(|scope| {
            scope.spawn(other);
            body();
        });
        true
    }
    fn mmio_read(&self, at: u64, bytes: u8) -> Option<u64> {
        Some(self.transport.read(at, bytes))
    }
    fn mmio_write(&self, at: u64, bytes: u8, value: u64) -> bool {
        self.transport.write(at, bytes, value);
        true
    }
}

/// Runs a workload as a client; it must pass.
fn passes(workload: Workload, args: &'static str) -> Vec<String> {
    let server = Server::start(Vec::new(), Arc::new(Doorman), Limits::default()).unwrap();
    let (ours, theirs) = socket::pair().unwrap();
    server.adopt(theirs, "t").unwrap();
    let transport = ProcessTransport::over(ours, "t", 4).unwrap();
    let client = Client { transport: &transport, args, printed: Mutex::default() };
    assert!(turnstile_workloads::run(workload, &transport, &client));
    client.printed.into_inner().unwrap()
}

#[test]
fn nops_go_through_a_busy_ring() {
    let printed = passes(Workload::Nop, "n=20000");
    assert!(printed.iter().any(|line| line.starts_with("metric: nop.round_trip p50_ns=")));
}

#[test]
fn a_hostile_client_is_refused_everything() {
    let args = "deny=copy,fill,fence,derive,device,host,dma-read,dma-write,ptx,image,launch";
    let printed = passes(Workload::Hostile, args);
    assert!(printed.iter().any(|line| line.ends_with(" 0 failed")));
}
