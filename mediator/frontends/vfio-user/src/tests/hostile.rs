//! What clients that break the rules achieve: nothing, beyond their own connection.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rustix::fs::{OFlags, SealFlags};
use rustix::io::Errno;
use turnstile_abi::regs::{MAGIC_VALUE, offset};

use super::client::TestClient;
use super::protocol::{event, memfd, sealed};
use super::{Bench, Fake};
use crate::Left;
use crate::fields;
use crate::wire::{HEADER_BYTES, MAX_PAYLOAD, command};

const MIB: u64 = 1 << 20;

/// The server still serves.
fn alive(bench: &Bench) {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let mut c = TestClient::silent(&bench.path);
        if c.negotiate().is_ok() {
            assert_eq!(c.register(offset::MAGIC), MAGIC_VALUE);
            return;
        }
        assert!(Instant::now() < until, "nobody is served any more");
    }
}

#[test]
fn whoever_does_not_negotiate_gets_no_device() {
    let bench = Bench::new();
    for (number, payload, errno) in [
        (command::REGION_READ, fields![0_u64, 0_u32, 4_u32], Errno::INVAL),
        (99, vec![], Errno::NOTSUP),
        (command::VERSION, vec![], Errno::INVAL),
        (command::VERSION, fields![1_u16, 0_u16], Errno::PROTONOSUPPORT),
        (command::VERSION, b"\0\0\0\0{\"capabilities\":7}\0".to_vec(), Errno::INVAL),
        (command::VERSION, b"\0\0\0\0{}".to_vec(), Errno::INVAL),
    ] {
        let mut c = TestClient::silent(&bench.path);
        assert_eq!(c.ask(number, &payload).unwrap_err(), errno, "{number}");
        assert!(c.is_closed());
    }
    // Silence, half a header, half a message: the patience of the server, then the end.
    for bytes in [&[][..], &[1; 7], &[1, 0, 1, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]] {
        let mut c = TestClient::silent(&bench.path);
        c.socket.write_all(bytes).unwrap();
        let start = Instant::now();
        assert!(c.is_closed());
        assert!(start.elapsed() < Duration::from_secs(3));
    }
    assert!(bench.fake.seen.lock().unwrap().devices.is_empty());
    alive(&bench);
}

#[test]
fn strangers_are_turned_away() {
    let bench = Bench::new();
    let nobody = rustix::process::getuid().as_raw().wrapping_add(1);
    bench.fake.seen.lock().unwrap().users = vec![nobody];
    let mut c = TestClient::silent(&bench.path);
    assert!(c.negotiate().is_err());
    assert!(bench.fake.seen.lock().unwrap().devices.is_empty());
}

#[test]
fn a_tenant_that_cannot_be_attached_is_told() {
    let bench = Bench::with(Fake::default(), "absent");
    let mut c = TestClient::silent(&bench.path);
    assert_eq!(c.negotiate().unwrap_err(), Errno::NODEV);
}

#[test]
fn sizes_that_cannot_be_end_the_connection() {
    let bench = Bench::new();
    for (n, (size, flags, errno)) in
        [(4_u32, 0_u32, Errno::MSGSIZE), (u32::MAX, 0, Errno::MSGSIZE), (16, 1, Errno::PROTO)]
            .into_iter()
            .enumerate()
    {
        let mut c = TestClient::connect(&bench.path);
        c.send(&fields![7_u16, command::REGION_READ, size, flags, 0_u32], &[]).unwrap();
        match flags {
            // A reply is not answered: two that answer each other would never end.
            1 => {}
            _ => assert_eq!(c.next().unwrap().1.unwrap_err(), errno),
        }
        assert!(c.is_closed());
        assert!(matches!(bench.left(n), Left::Expelled(_)));
    }
    alive(&bench);
}

#[test]
fn accesses_outside_a_region_are_refused() {
    let bench = Bench::new();
    let mut c = TestClient::connect(&bench.path);
    for (region, at, n) in [
        (0, 0x8_0000, 4),
        (0, u64::MAX, 4),
        (1, 0, 4),
        (2, super::APERTURE, 1),
        (2, u64::MAX - 2, 4),
        (4, 0x2000, 8),
        (6, 0, 4),
        (7, 255, 2),
        (9, 0, 4),
        (u32::MAX, 0, 4),
        (0, 0, 0),
        (0, 0, 4097),
        (0, 0, u32::MAX),
    ] {
        assert_eq!(c.region_read(region, at, n).unwrap_err(), Errno::INVAL, "{region} {at} {n}");
        if n <= 4096 && n > 0 {
            let data = vec![0; n as usize];
            assert_eq!(c.region_write(region, at, &data).unwrap_err(), Errno::INVAL);
        }
    }
    // Odd widths of registers read as all-ones, as on a bus.
    assert_eq!(c.region_read(0, 1, 3).unwrap(), [0xff; 3]);
    assert_eq!(c.region_read(0, 0, 64).unwrap(), [0xff; 64]);
    c.region_write(0, 0x24, &[0; 64]).unwrap();
    assert_eq!(c.register(offset::MAGIC), MAGIC_VALUE);
}

#[test]
fn descriptors_that_are_no_eventfds_are_refused() {
    let bench = Bench::new();
    let mut c = TestClient::connect(&bench.path);
    let file: OwnedFd = tempfile::tempfile().unwrap().into();
    let (pipe, _other) = rustix::pipe::pipe().unwrap();
    let socket: OwnedFd = c.socket.try_clone().unwrap().into();
    for bad in [&file, &pipe, &socket, &sealed(4096)] {
        assert_eq!(c.irqs(36, 0, 1, &[bad]), Err(Errno::INVAL));
    }
    let good = event();
    assert_eq!(c.irqs(36, 0, 2, &[&good]), Err(Errno::INVAL), "one too few");
    assert_eq!(c.irqs(36, 0, 1, &[&good, &good]), Err(Errno::INVAL), "one too many");
    assert_eq!(c.irqs(36, 15, 2, &[&good, &good]), Err(Errno::INVAL), "beyond the last");
    assert_eq!(c.irqs(36, u32::MAX, 2, &[&good, &good]), Err(Errno::INVAL));
    for flags in [0, 7, 36 | 1, 36 | 8, 34, 12, 20, 64, u32::MAX] {
        assert_eq!(c.irqs(flags, 0, 1, &[]), Err(Errno::INVAL), "{flags}");
    }
    // With a command that takes none.
    let read = fields![0_u64, 0_u32, 4_u32];
    let refused = c.ask_with(command::REGION_READ, &read, &[good.as_fd()]).unwrap_err();
    assert_eq!(refused, Errno::INVAL);
    // More than a message can have: the rest is lost, and with it the order of things.
    let many = vec![good.as_fd(); 40];
    c.tell(command::DMA_MAP, &fields![32_u32, 3_u32, 0_u64, 0_u64, 4096_u64], &many).unwrap();
    assert!(c.is_closed());
    alive(&bench);
}

#[test]
fn an_eventfd_that_blocks_hurts_its_own_client_only() {
    let bench = Bench::new();
    let mut c = TestClient::connect(&bench.path);
    let trap = event();
    c.irqs(36, 0, 1, &[&trap]).unwrap();
    rustix::io::write(&trap, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    rustix::fs::fcntl_setfl(&trap, OFlags::empty()).unwrap();
    let device = bench.device();
    let start = Instant::now();
    for _ in 0..1000 {
        device.raise(0);
    }
    assert!(start.elapsed() < Duration::from_secs(1), "the dispatcher does not wait");
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(c.register(offset::MAGIC), MAGIC_VALUE, "traps go on");
    drop(c);
    assert_eq!(bench.left(0), Left::Closed);
    alive(&bench);
}

#[test]
fn memory_that_is_none_or_can_vanish_is_not_mapped() {
    let bench = Bench::new();
    let mut c = TestClient::connect(&bench.path);
    let memory = || bench.fake.seen.lock().unwrap().memory.len();
    let vanishing = memfd(MIB, SealFlags::empty());
    c.map(0, MIB, 0, Some(&vanishing)).unwrap();
    rustix::fs::ftruncate(&vanishing, 0).unwrap();
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    c.map(MIB, MIB, 0, Some(&socket.into())).unwrap();
    c.map(2 * MIB, MIB, 0, Some(&event())).unwrap();
    assert_eq!(memory(), 0, "known, not mapped");
    let small = sealed(4096);
    assert_eq!(c.map(8 * MIB, 8192, 0, Some(&small)), Err(Errno::INVAL));
    assert_eq!(c.map(8 * MIB, 4096, 4096, Some(&small)), Err(Errno::INVAL));
    assert_eq!(c.map(8 * MIB, 4096, u64::MAX - 4095, Some(&small)), Err(Errno::INVAL));
    assert_eq!(c.map(u64::MAX - 4095, 8192, 0, Some(&small)), Err(Errno::INVAL));
    assert_eq!(c.map(0, 4096, 0, Some(&small)), Err(Errno::EXIST));
    let huge = sealed(1 << 45);
    assert_eq!(c.map(8 * MIB, 1 << 45, 0, Some(&huge)), Err(Errno::NOSPC));
    let holding = sealed(MIB);
    assert!(rustix::fs::ftruncate(&holding, 0).is_err());
    c.map(8 * MIB, MIB, 0, Some(&holding)).unwrap();
    assert_eq!(memory(), 1);
    // Holes are zeroes, not SIGBUS.
    let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&holding, punch, 0, MIB).unwrap();
    // Windows are bounded.
    let mut result = Ok(());
    for i in 0..40 {
        result = c.map(64 * MIB + i * MIB, MIB, 0, None);
    }
    assert_eq!(result, Err(Errno::NOSPC));
    assert_eq!(c.register(offset::MAGIC), MAGIC_VALUE);
}

#[test]
fn floods_of_connections_leave_the_client_alone() {
    let bench = Bench::new();
    let mut c = TestClient::connect(&bench.path);
    let crowd: Vec<_> = (0..600)
        .map(|_| {
            let worst = Instant::now();
            assert_eq!(c.register(offset::MAGIC), MAGIC_VALUE);
            assert!(worst.elapsed() < Duration::from_secs(2));
            // A full backlog refuses; that is an answer as well.
            std::os::unix::net::UnixStream::connect(&bench.path).ok()
        })
        .collect();
    drop(c);
    drop(crowd);
    alive(&bench);
}

#[test]
fn a_client_that_does_not_read_is_left() {
    let bench = Bench::new();
    let mut c = TestClient::connect(&bench.path);
    c.socket.set_nonblocking(true).unwrap();
    let header = c.header(command::REGION_READ, 16);
    let mut one = header.encode().to_vec();
    one.extend_from_slice(&fields![0_u64, 2_u32, 4096_u32]);
    let until = Instant::now() + Duration::from_secs(10);
    // Requests until both directions are full, and a while longer.
    while bench.fake.seen.lock().unwrap().left.is_empty() && Instant::now() < until {
        let _ = c.socket.write(&one);
        std::thread::sleep(Duration::from_micros(50));
    }
    assert!(matches!(bench.left(0), Left::Expelled(_)));
    alive(&bench);
}

#[test]
fn a_client_that_dribbles_is_left() {
    let bench = Bench::new();
    let mut c = TestClient::connect(&bench.path);
    let bytes = c.header(command::REGION_WRITE, 4000).encode();
    let start = Instant::now();
    for byte in bytes.iter().cycle() {
        if c.socket.write_all(&[*byte]).is_err() {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(5), "it is still listened to");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(matches!(bench.left(0), Left::Expelled(_)));
}

// --- At random --------------------------------------------------------------------------------

/// One message of a sequence: nearly right, or right.
#[derive(Clone, Debug)]
struct Message {
    command: u16,
    payload: Vec<u8>,
    fds: Vec<Fd>,
    reply: bool,
}

#[derive(Clone, Copy, Debug)]
enum Fd {
    Sealed,
    Unsealed,
    Event,
    Socket,
}

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (0..64_u64).prop_map(|p| p * 0x4_0000),
        1 => any::<u64>(),
        1 => (0..64_u32).prop_map(|b| 1_u64 << b),
        1 => (0..64_u32).prop_map(|b| (1_u64 << b).wrapping_sub(1)),
    ]
}

fn small() -> impl Strategy<Value = u32> {
    prop_oneof![8 => 0..20_u32, 1 => any::<u32>()]
}

/// A message that could be right.
fn sensible() -> impl Strategy<Value = (u16, Vec<u8>)> {
    let window = || (address(), address());
    prop_oneof![
        (0..4_u32, window(), address())
            .prop_map(|(f, (a, n), o)| (command::DMA_MAP, fields![32_u32, f, o, a, n])),
        (0..4_u32, window()).prop_map(|(f, (a, n))| (command::DMA_UNMAP, fields![24_u32, f, a, n])),
        Just((command::DMA_UNMAP, fields![24_u32, 2_u32, 0_u64, 0_u64])),
        Just((command::DEVICE_GET_INFO, fields![16_u32, 0_u32, 0_u64])),
        (small(), small()).prop_map(|(z, i)| (
            command::DEVICE_GET_REGION_INFO,
            fields![z.wrapping_mul(8), 0_u32, i, 0_u32, 0_u64, 0_u64]
        )),
        (small(), small()).prop_map(|(z, i)| (
            command::DEVICE_GET_REGION_IO_FDS,
            fields![z.wrapping_mul(200), 0_u32, i, 0_u32]
        )),
        small().prop_map(|i| (command::DEVICE_GET_IRQ_INFO, fields![16_u32, 0_u32, i, 0_u32])),
        (prop_oneof![Just(33_u32), Just(36), Just(34), any::<u32>()], small(), small(), small())
            .prop_map(|(f, i, s, n)| (command::DEVICE_SET_IRQS, fields![20_u32, f, i, s, n])),
        (0..9_u32, address(), small())
            .prop_map(|(r, at, n)| (command::REGION_READ, fields![at % 0x1_0000, r, n])),
        (0..9_u32, address(), prop::collection::vec(any::<u8>(), 0..16)).prop_map(|(r, at, d)| {
            let mut payload = fields![at % 0x1_0000, r, d.len() as u32];
            payload.extend_from_slice(&d);
            (command::REGION_WRITE, payload)
        }),
        Just((command::DEVICE_RESET, Vec::new())),
        Just((command::VERSION, b"\0\0\0\0{}\0".to_vec())),
        (0..20_u16, prop::collection::vec(any::<u8>(), 0..64)),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    let fd = prop_oneof![Just(Fd::Sealed), Just(Fd::Unsealed), Just(Fd::Event), Just(Fd::Socket)];
    let mutation = prop::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>()));
    let cut = prop::option::weighted(0.1, any::<prop::sample::Index>());
    (sensible(), mutation, cut, prop::collection::vec(fd, 0..4), prop::bool::weighted(0.9))
        .prop_map(|((command, mut payload), mutation, cut, fds, reply)| {
            if let (Some((at, byte)), false) = (mutation, payload.is_empty()) {
                let at = at.index(payload.len());
                payload[at] = byte;
            }
            if let (Some(cut), false) = (cut, payload.is_empty()) {
                payload.truncate(cut.index(payload.len()));
            }
            Message { command, payload, fds, reply }
        })
}

/// Sequences of nearly right messages: each that wants a reply gets exactly one of its own, the
/// fake dispatcher's own assertions hold, and the next client is served. `VFIO_USER_FUZZ_CASES`
/// sets how many sequences (scripts/fuzz-vfio-user runs many).
#[test]
fn any_sequence_is_answered_message_by_message() {
    let cases = std::env::var("VFIO_USER_FUZZ_CASES").ok().and_then(|n| n.parse().ok());
    let config =
        Config { cases: cases.unwrap_or(60), failure_persistence: None, ..Config::default() };
    let bench = Bench::new();
    let kinds: [OwnedFd; 4] = [
        sealed(16 * MIB),
        memfd(16 * MIB, SealFlags::empty()),
        event(),
        std::os::unix::net::UnixStream::pair().unwrap().0.into(),
    ];
    let sequences = prop::collection::vec(message(), 1..60);
    let mut messages = 0_u64;
    let result = TestRunner::new(config).run(&sequences, |sequence| {
        // On a busy machine the last client may be reclaimed later than the next one may wait.
        let until = Instant::now() + Duration::from_secs(10);
        let mut c = loop {
            let mut c = TestClient::silent(&bench.path);
            if c.negotiate().is_ok() {
                break c;
            }
            prop_assert!(Instant::now() < until, "nobody is served any more");
        };
        for m in &sequence {
            if m.payload.len() > MAX_PAYLOAD - HEADER_BYTES {
                continue;
            }
            let fds: Vec<_> = m.fds.iter().map(|fd| kinds[*fd as usize].as_fd()).collect();
            let mut header = c.header(m.command, m.payload.len());
            header.wants_reply = m.reply;
            let mut bytes = header.encode().to_vec();
            bytes.extend_from_slice(&m.payload);
            c.send(&bytes, &fds).map_err(|e| TestCaseError::fail(e.to_string()))?;
            if m.reply {
                let next = c.next();
                prop_assert!(next.is_some(), "closed after {:?}", m);
                let (who, _) = next.unwrap_or(((0, 0), Err(Errno::INVAL)));
                prop_assert_eq!(who, (header.id, header.command));
            }
        }
        prop_assert_eq!(c.register(offset::MAGIC), MAGIC_VALUE);
        Ok(())
    });
    for left in &bench.fake.seen.lock().unwrap().left {
        messages += 1;
        assert_eq!(*left, Left::Closed);
    }
    eprintln!("{messages} sequences");
    result.unwrap();
}

/// Raw bytes after a negotiation, or instead of one: no answer is promised, and the server lives.
#[test]
fn any_bytes_end_a_connection_at_most() {
    let cases = std::env::var("VFIO_USER_FUZZ_CASES").ok().and_then(|n| n.parse().ok());
    let config =
        Config { cases: cases.unwrap_or(40), failure_persistence: None, ..Config::default() };
    let bench = Bench::new();
    let strategy = (any::<bool>(), prop::collection::vec(any::<u8>(), 0..200));
    let result = TestRunner::new(config).run(&strategy, |(negotiate, bytes)| {
        let mut c = TestClient::silent(&bench.path);
        if negotiate && c.negotiate().is_err() {
            return Ok(());
        }
        let _ = c.send(&bytes, &[]);
        Ok(())
    });
    result.unwrap();
    alive(&bench);
}
