//! The server against clients that work, lie, stay silent, flood and die; over real sockets.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use turnstile_abi::memory::SharedMemory;
use turnstile_abi::regs::{self, offset};
use turnstile_abi::ring::{DeviceRing, DriverRing, Layout};
use turnstile_abi::version::{Features, Version};
use turnstile_abi::{Completion, Request, Status, op};
use turnstile_backend_api::SharedRegion;
use turnstile_core::Registers;
use turnstile_device::Device;
use turnstile_driver::Transport;

use crate::client::{ClientError, ProcessTransport};
use crate::peer::Peer;
use crate::server::{Admission, Left, Limits, MemoryEvents, Seat, Server, ServerError};
use crate::socket::{self, Address, Listener, SocketError};
use crate::wire::{MAX_MESSAGE, Message};

const APERTURE: u64 = 1 << 20;

/// What the daemon would see of its clients.
#[derive(Default)]
struct Log {
    devices: Mutex<Vec<Arc<Device>>>,
    memory: Mutex<Vec<(u64, u64)>>,
    left: Mutex<Vec<Left>>,
    attached: AtomicUsize,
    locked_out: AtomicBool,
}

struct Doorkeeper(Arc<Log>);
struct Events(Arc<Log>);

impl Admission for Doorkeeper {
    fn knows(&self, _: usize, peer: &Peer) -> bool {
        assert_eq!(peer.uid, rustix::process::getuid().as_raw());
        assert_eq!(peer.pid, std::process::id());
        !self.0.locked_out.load(Ordering::SeqCst)
    }
    fn identify(&self, door: usize, _: &Peer, wanted: &str) -> Result<String, String> {
        match wanted {
            "" => Ok(format!("door-{door}")),
            "nobody" => Err("no tenant is called that".into()),
            name => Ok(name.into()),
        }
    }
    fn attach(&self, tenant: &str, _: &Peer) -> Result<Seat, String> {
        if tenant == "broken" {
            return Err("no memory".into());
        }
        assert_ne!(tenant, "bug", "a bug in the daemon");
        let registers = Arc::new(Registers::new(Features::DMA, APERTURE, APERTURE / 2));
        let aperture = Arc::new(SharedRegion::create("aperture", APERTURE).unwrap());
        let device = Arc::new(Device::new(registers, aperture).unwrap());
        self.0.devices.lock().unwrap().push(Arc::clone(&device));
        self.0.attached.fetch_add(1, Ordering::SeqCst);
        Ok(Seat { device, events: Box::new(Events(Arc::clone(&self.0))) })
    }
}

impl MemoryEvents for Events {
    fn add(&mut self, gpa: u64, bytes: u64, region: SharedRegion) -> Result<(), String> {
        assert_eq!(region.size(), bytes);
        // The daemon reaches what the client wrote.
        if region.load64(0) == Ok(0xbad) {
            return Err("overlaps memory that is already mapped".into());
        }
        self.0.memory.lock().unwrap().push((gpa, bytes));
        Ok(())
    }
    fn remove(&mut self, gpa: u64) -> Result<(), String> {
        self.0.memory.lock().unwrap().retain(|&(g, _)| g != gpa);
        Ok(())
    }
    fn left(&mut self, how: Left) {
        self.0.left.lock().unwrap().push(how);
    }
}

struct Daemon {
    log: Arc<Log>,
    server: Server,
    address: Address,
    _dir: tempfile::TempDir,
}

fn daemon() -> Daemon {
    daemon_with(Limits { patience: Duration::from_millis(300), ..Limits::default() })
}

fn daemon_with(limits: Limits) -> Daemon {
    let dir = tempfile::tempdir().unwrap();
    let address = Address::Path(dir.path().join("socket"));
    let log = Arc::new(Log::default());
    let listener = Listener::bind(&address, 0o600).unwrap();
    let admission = Arc::new(Doorkeeper(Arc::clone(&log)));
    let server = Server::start(vec![listener], admission, limits).unwrap();
    Daemon { log, server, address, _dir: dir }
}

impl Daemon {
    fn connect(&self, tenant: &str) -> Result<ProcessTransport, ClientError> {
        ProcessTransport::connect(&self.address, tenant)
    }
    fn refused(&self, tenant: &str) -> String {
        match self.connect(tenant) {
            Err(ClientError::Refused(why)) => why,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }
    fn device(&self) -> Arc<Device> {
        self.log.devices.lock().unwrap().last().unwrap().clone()
    }
    fn wait_left(&self, count: usize) -> Vec<Left> {
        eventually(|| self.log.left.lock().unwrap().len() >= count);
        self.log.left.lock().unwrap().clone()
    }
}

fn eventually(mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < until, "it never happened");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn sealed(bytes: u64, seals: SealFlags) -> OwnedFd {
    let fd = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&fd, bytes).unwrap();
    fcntl_add_seals(&fd, seals).unwrap();
    fd
}

#[test]
fn a_client_reaches_its_registers_aperture_doorbell_and_interrupts() {
    let daemon = daemon();
    let client = daemon.connect("").unwrap();
    let device = daemon.device();
    assert_eq!(client.read32(offset::MAGIC), regs::MAGIC_VALUE);
    assert_eq!(client.read64(offset::APERTURE_BYTES), APERTURE);
    client.write32(offset::DRIVER_FEATURES, 5);
    assert_eq!(client.read64(offset::DRIVER_FEATURES), 5);
    // What is no register reads as all-ones of its width.
    assert_eq!(client.read(0, 1), 0xff);
    assert_eq!(client.read(1, 4), 0xffff_ffff);
    assert_eq!(client.read(u64::MAX, 8), u64::MAX);
    assert_eq!(client.read(0, 0), 0);

    client.aperture().store64(64, 0x1234).unwrap();
    assert_eq!(device.aperture().load64(64), Ok(0x1234));
    device.aperture().write(100, b"hello").unwrap();
    let mut text = [0; 5];
    client.aperture().read(100, &mut text).unwrap();
    assert_eq!(&text, b"hello");

    client.doorbell(3);
    eventually(|| device.kick().eventfd().read().is_ok());
    device.raise(2);
    let started = Instant::now();
    client.wait_for_interrupt(2, 5_000_000_000);
    assert!(started.elapsed() < Duration::from_secs(2));
    client.wait_for_interrupt(2, 20_000_000);
    assert!(started.elapsed() >= Duration::from_millis(20), "the interrupt was consumed");
}

#[test]
fn nothing_a_client_does_with_its_pipes_blocks_the_dispatcher() {
    let daemon = daemon();
    let socket = socket::connect(&daemon.address).unwrap();
    let hello = Message::Hello { version: Version::CURRENT, vectors: 1, tenant: "a" };
    socket::send(socket.as_fd(), &hello, &[], Duration::ZERO).unwrap();
    let packet = socket::receive(socket.as_fd(), None).unwrap();
    let device = daemon.device();
    // The client makes its end blocking; the daemon's end is another open file.
    rustix::fs::fcntl_setfl(&packet.fds[1], rustix::fs::OFlags::empty()).unwrap();
    let started = Instant::now();
    for _ in 0..100_000 {
        device.raise(0);
    }
    assert!(started.elapsed() < Duration::from_secs(5), "a full pipe does not block");
    // A client that closes its end does not raise SIGPIPE, because the server keeps one.
    drop(packet);
    let mut drained = 0;
    while drained < 100 {
        device.raise(0);
        drained += 1;
    }
    drop(socket);
    daemon.wait_left(1);
    device.raise(0);
}

#[test]
fn who_is_not_let_in_learns_why() {
    let daemon = daemon();
    assert_eq!(daemon.refused("nobody"), "no tenant is called that");
    assert_eq!(daemon.refused("broken"), "no memory");
    let first = daemon.connect("a").unwrap();
    assert!(daemon.refused("a").contains("one at a time"));
    assert!(daemon.connect("b").is_ok());
    drop(first);
    daemon.wait_left(2);
    eventually(|| daemon.server.clients() == 0);
    assert!(daemon.connect("a").is_ok(), "the seat is free again");
    daemon.log.locked_out.store(true, Ordering::SeqCst);
    assert!(daemon.refused("c").contains("no tenant"));
    assert_eq!(daemon.log.attached.load(Ordering::SeqCst), 3);
}

#[test]
fn a_bug_in_the_daemon_costs_one_client() {
    let daemon = daemon();
    assert!(daemon.connect("bug").is_err());
    eventually(|| daemon.server.clients() == 0);
    assert!(daemon.connect("a").is_ok());
}

#[test]
fn a_hello_of_another_kind_is_refused() {
    let daemon = daemon();
    let try_hello = |message: Message<'_>| {
        let socket = socket::connect(&daemon.address).unwrap();
        socket::send(socket.as_fd(), &message, &[], Duration::ZERO).unwrap();
        let packet = socket::receive(socket.as_fd(), None).unwrap();
        match packet.message().unwrap() {
            Message::Refused(why) => why.to_owned(),
            other => panic!("{other:?}"),
        }
    };
    let hello = |version, vectors| Message::Hello { version, vectors, tenant: "x" };
    assert!(try_hello(hello(Version::new(2, 0), 1)).contains("ABI"));
    assert!(try_hello(hello(Version::CURRENT, 0)).contains("vectors"));
    assert!(try_hello(hello(Version::CURRENT, 17)).contains("vectors"));
    assert!(try_hello(Message::Done).contains("hello"));
    assert_eq!(daemon.log.attached.load(Ordering::SeqCst), 0);
}

#[test]
fn memory_must_be_sealed_ordinary_memory_within_bounds() {
    let limits = Limits { pieces: 3, memory_bytes: 1 << 20, ..Limits::default() };
    let daemon = daemon_with(limits);
    let client = daemon.connect("a").unwrap();
    let refused = |fd: &OwnedFd, gpa, offset, bytes| match client.add_memory(
        gpa,
        fd.as_fd(),
        offset,
        bytes,
    ) {
        Err(ClientError::Refused(why)) => why,
        other => panic!("expected a refusal, got {other:?}"),
    };
    let good = sealed(0x10000, SealFlags::SHRINK);
    client.add_memory(0x10000, good.as_fd(), 0x1000, 0x2000).unwrap();
    assert_eq!(*daemon.log.memory.lock().unwrap(), [(0x10000, 0x2000)]);

    assert!(refused(&good, 0x10000, 0, 0x1000).contains("already"));
    for (gpa, offset, bytes) in [
        (1, 0, 0x1000),
        (0x50000, 1, 0x1000),
        (0x50000, 0, 1),
        (0x50000, 0, 0),
        (!0xfff, 0, 0x1000),
        (0x50000, 0, !0xfff),
    ] {
        refused(&good, gpa, offset, bytes);
    }
    assert!(refused(&good, 0x50000, 0x10000, 0x1000).contains("outside"));
    assert!(refused(&good, 0x50000, 0, 0x200_0000).contains("may add"));
    let bad = sealed(0x1000, SealFlags::SHRINK);
    rustix::io::pwrite(&bad, &0xbad_u64.to_le_bytes(), 0).unwrap();
    assert!(refused(&bad, 0x50000, 0, 0x1000).contains("overlaps"), "the dispatcher's refusal");

    let soft = sealed(0x1000, SealFlags::GROW);
    assert!(refused(&soft, 0x50000, 0, 0x1000).contains("F_SEAL_SHRINK"));
    let read_only = sealed(0x1000, SealFlags::SHRINK | SealFlags::WRITE);
    refused(&read_only, 0x50000, 0, 0x1000);
    let file: OwnedFd = tempfile::tempfile().unwrap().into();
    ftruncate(&file, 0x1000).unwrap();
    refused(&file, 0x50000, 0, 0x1000);
    let (a, b) = socket::pair().unwrap();
    refused(&a, 0x50000, 0, 0x1000);
    refused(&b, 0x50000, 0, 0x1000);
    let eventfd = rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).unwrap();
    refused(&eventfd, 0x50000, 0, 0x1000);
    let directory = std::fs::File::open("/").unwrap().into();
    refused(&directory, 0x50000, 0, 0x1000);
    let zero = std::fs::File::options().read(true).write(true).open("/dev/zero").unwrap().into();
    refused(&zero, 0x50000, 0, 0x1000);

    client.add_memory(0x20000, good.as_fd(), 0, 0x1000).unwrap();
    client.add_memory(0x30000, good.as_fd(), 0, 0x1000).unwrap();
    assert!(refused(&good, 0x40000, 0, 0x1000).contains("3 pieces"));
    client.remove_memory(0x20000).unwrap();
    assert!(matches!(client.remove_memory(0x20000), Err(ClientError::Refused(_))));
    client.add_memory(0x40000, good.as_fd(), 0, 0x1000).unwrap();
    drop(client);
    assert_eq!(daemon.wait_left(1), [Left::Closed]);
}

#[test]
fn descriptors_come_one_with_memory_and_not_otherwise() {
    let daemon = daemon();
    let socket = socket::connect(&daemon.address).unwrap();
    let hello = Message::Hello { version: Version::CURRENT, vectors: 1, tenant: "a" };
    let fds: Vec<OwnedFd> = (0..5).map(|_| sealed(0x1000, SealFlags::SHRINK)).collect();
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    // With the hello: closed, and no harm done.
    socket::send(socket.as_fd(), &hello, &fds, Duration::ZERO).unwrap();
    socket::receive(socket.as_fd(), None).unwrap();
    let memory = Message::AddMemory { gpa: 0x1000, offset: 0, bytes: 0x1000 };
    for wrong in [&fds[..], &fds[..2], &fds[..0]] {
        socket::send(socket.as_fd(), &memory, wrong, Duration::ZERO).unwrap();
        let packet = socket::receive(socket.as_fd(), None).unwrap();
        assert!(matches!(packet.message(), Ok(Message::Refused(_))));
    }
    socket::send(socket.as_fd(), &memory, &fds[..1], Duration::ZERO).unwrap();
    let packet = socket::receive(socket.as_fd(), None).unwrap();
    assert_eq!(packet.message(), Ok(Message::Done));
}

#[test]
fn garbage_expels_its_sender_only() {
    let daemon = daemon();
    let neighbour = daemon.connect("neighbour").unwrap();
    let mut seed = 42_u64;
    for i in 0..60 {
        let socket = socket::connect(&daemon.address).unwrap();
        if i % 2 == 0 {
            let hello = Message::Hello { version: Version::CURRENT, vectors: 1, tenant: "liar" };
            socket::send(socket.as_fd(), &hello, &[], Duration::ZERO).unwrap();
            let packet = socket::receive(socket.as_fd(), None).unwrap();
            assert!(matches!(packet.message(), Ok(Message::Welcome { .. })), "{i}");
        }
        let mut bytes = vec![0; [1, 39, 40, 100, MAX_MESSAGE, MAX_MESSAGE + 1, 4000][i % 7]];
        for b in &mut bytes {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *b = (seed >> 56) as u8;
        }
        rustix::net::send(&socket, &bytes, rustix::net::SendFlags::NOSIGNAL).unwrap();
        // The end comes, after a refusal perhaps.
        loop {
            match socket::receive(socket.as_fd(), Some(Instant::now() + Duration::from_secs(5))) {
                Ok(packet) => assert!(matches!(packet.message(), Ok(Message::Refused(_)))),
                Err(SocketError::Closed) => break,
                Err(e) => panic!("{e}"),
            }
        }
        eventually(|| daemon.server.clients() == 1);
    }
    assert!(daemon.wait_left(30).iter().all(|left| matches!(left, Left::Expelled(_))));
    assert_eq!(neighbour.read32(offset::MAGIC), regs::MAGIC_VALUE);
}

#[test]
fn silent_connections_cost_no_thread_and_lock_nobody_out() {
    let limits = Limits { pending: 32, patience: Duration::from_secs(60), ..Limits::default() };
    let daemon = daemon_with(limits);
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let before = threads();
    // Other tests' threads come and go; 300 are not to be overlooked.
    let silent: Vec<_> = (0..300).map(|_| socket::connect(&daemon.address).unwrap()).collect();
    assert!(threads() < before + 150);
    let client = daemon.connect("a").unwrap();
    assert_eq!(client.read32(offset::MAGIC), regs::MAGIC_VALUE);
    // All but the youngest were dropped to make room.
    eventually(|| {
        let closed = |s: &OwnedFd| {
            matches!(socket::receive(s.as_fd(), Some(Instant::now())), Err(SocketError::Closed))
        };
        silent.iter().filter(|s| closed(s)).count() >= 300 - 32
    });
}

#[test]
fn who_never_speaks_is_dropped_after_a_while() {
    let daemon = daemon();
    let silent = socket::connect(&daemon.address).unwrap();
    let started = Instant::now();
    let end = socket::receive(silent.as_fd(), Some(started + Duration::from_secs(10)));
    assert!(matches!(end, Err(SocketError::Closed)));
    assert!(started.elapsed() >= Duration::from_millis(250));
    // An adopted client has to speak as well.
    let (ours, theirs) = socket::pair().unwrap();
    daemon.server.adopt(theirs, "child").unwrap();
    let until = Some(Instant::now() + Duration::from_secs(10));
    assert!(matches!(socket::receive(ours.as_fd(), until), Ok(p) if p.message().is_ok()));
    assert!(matches!(socket::receive(ours.as_fd(), until), Err(SocketError::Closed)));
}

#[test]
fn a_client_that_does_not_read_its_answers_is_expelled() {
    let daemon = daemon();
    let socket = socket::connect(&daemon.address).unwrap();
    let hello = Message::Hello { version: Version::CURRENT, vectors: 1, tenant: "a" };
    socket::send(socket.as_fd(), &hello, &[], Duration::ZERO).unwrap();
    socket::receive(socket.as_fd(), None).unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    let read = Message::Read { at: 0, bytes: 4 };
    loop {
        assert!(Instant::now() < until);
        match socket::send(socket.as_fd(), &read, &[], Duration::from_millis(5)) {
            Ok(()) | Err(SocketError::Timeout(_)) => {}
            Err(SocketError::Closed) => break,
            Err(e) => panic!("{e}"),
        }
    }
    assert!(matches!(daemon.wait_left(1)[0], Left::Expelled(_)));
}

#[test]
fn a_killed_client_is_reclaimed() {
    let daemon = daemon();
    let (ours, theirs) = socket::pair().unwrap();
    daemon.server.adopt(theirs, "child").unwrap();
    let hello = Message::Hello { version: Version::CURRENT, vectors: 2, tenant: "ignored" };
    socket::send(ours.as_fd(), &hello, &[], Duration::ZERO).unwrap();
    let welcome = socket::receive(ours.as_fd(), None).unwrap();
    // A process that holds the connection and everything that came with it.
    let mut child = std::process::Command::new("sleep")
        .arg("1000")
        .stdin(ours)
        .stdout(welcome.fds[0].try_clone().unwrap())
        .spawn()
        .unwrap();
    drop(welcome);
    assert!(matches!(
        daemon.server.adopt(socket::pair().unwrap().0, "child"),
        Err(ServerError::Full(1))
    ));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(daemon.wait_left(1), [Left::Closed]);
}

#[test]
fn a_daemon_that_stops_or_disconnects_reads_as_all_ones() {
    let mut daemon = daemon();
    let client = daemon.connect("a").unwrap();
    let other = daemon.connect("b").unwrap();
    daemon.server.disconnect("b");
    assert_eq!(daemon.wait_left(1), [Left::Closed]);
    assert_eq!(other.read32(offset::MAGIC), u32::MAX);
    daemon.server.stop();
    assert_eq!(daemon.wait_left(2)[1], Left::Stopped);
    assert_eq!(client.read32(offset::STATUS), u32::MAX);
    assert_eq!(client.read(0, 2), 0xffff);
    client.write32(offset::CONTROL, 1);
    client.doorbell(0);
    let fd = sealed(0x1000, SealFlags::SHRINK);
    assert!(client.add_memory(0, fd.as_fd(), 0, 0x1000).is_err());
    let started = Instant::now();
    client.wait_for_interrupt(0, 3_000_000);
    assert!(started.elapsed() < Duration::from_secs(1));
    assert!(daemon.connect("a").is_err());
}

#[test]
fn sockets_have_their_mode_and_are_replaced_only_when_dead() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let address = Address::Path(path.clone());
    let listener = Listener::bind(&address, 0o640).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(Listener::bind(&address, 0o640).is_err(), "in use");
    drop(listener);
    assert!(!path.exists());
    // A socket file whose listener is gone.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    drop(Listener::bind(&address, 0o600).unwrap());
    // A file that is no socket stays.
    std::fs::write(&path, "precious").unwrap();
    assert!(Listener::bind(&address, 0o600).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");

    let name = format!("@turnstile-test-{}", std::process::id());
    let listener = Listener::bind(&Address::parse(&name), 0o600).unwrap();
    assert_eq!(listener.address().to_string(), name);
    assert!(socket::connect(&Address::parse(&name)).is_ok());
}

/// The ring end to end across the socket's memory: commands, parking, doorbell, interrupt.
#[test]
fn commands_travel_through_the_handed_over_aperture() {
    let daemon = daemon();
    let client = daemon.connect("a").unwrap();
    let device = daemon.device();
    let layout = Layout::new(0, 64, APERTURE).unwrap();
    const COUNT: u64 = 2000;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut ring = DeviceRing::new(layout);
            let memory = device.aperture();
            let mut done = 0;
            while done < COUNT {
                while let Some((d, permit)) = ring.fetch(&**memory).unwrap() {
                    let cookie = d.cookie;
                    let c = Completion { cookie, value: cookie * 2, detail: 0, status: Status::Ok };
                    ring.complete(&**memory, permit, &c).unwrap();
                    if ring.interrupt_wanted(&**memory).unwrap() {
                        device.raise(1);
                    }
                    done += 1;
                }
                if done < COUNT && ring.park(&**memory).unwrap() {
                    eventually(|| device.kick().eventfd().read().is_ok());
                    ring.unpark(&**memory).unwrap();
                }
            }
        });
        let mut ring = DriverRing::new(layout);
        let memory = client.aperture();
        let nop = Request::from(op::nop::Args {});
        for cookie in 0..COUNT {
            ring.push(memory, &nop.encode(cookie)).unwrap().unwrap();
            if ring.doorbell_needed(memory).unwrap() {
                client.doorbell(1);
            }
            ring.arm(memory, true).unwrap();
            let completion = loop {
                match ring.pop(memory).unwrap() {
                    Some(completion) => break completion,
                    None => client.wait_for_interrupt(1, 5_000_000_000),
                }
            };
            assert_eq!((completion.cookie, completion.value), (cookie, cookie * 2));
        }
    });
}
