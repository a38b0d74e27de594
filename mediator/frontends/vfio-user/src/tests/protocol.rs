//! What a client that keeps the rules sees.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use turnstile_abi::memory::SharedMemory;
use turnstile_abi::regs::{BAR0_SIZE, MAGIC_VALUE, PBA_OFFSET, doorbell, offset};
use turnstile_backend_api::SharedRegion;

use super::client::TestClient;
use super::{APERTURE, Bench, Fake};
use crate::Left;
use crate::fields;
use crate::wire::command;

const MIB: u64 = 1 << 20;

pub(super) fn memfd(bytes: u64, seals: SealFlags) -> OwnedFd {
    let fd = rustix::fs::memfd_create("t", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&fd, bytes).unwrap();
    rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
    fd
}
pub(super) fn sealed(bytes: u64) -> OwnedFd {
    memfd(bytes, SealFlags::SHRINK)
}
pub(super) fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::NONBLOCK).unwrap()
}
/// Waits for an eventfd and reads it.
pub(super) fn count(fd: &OwnedFd, within: Duration) -> Option<u64> {
    let until = Instant::now() + within;
    let mut bytes = [0; 8];
    while rustix::io::read(fd, &mut bytes).is_err() {
        if Instant::now() >= until {
            return None;
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    Some(u64::from_ne_bytes(bytes))
}
const SOON: Duration = Duration::from_secs(5);
const NEVER: Duration = Duration::from_millis(30);

#[test]
fn the_device_is_described_read_and_written() {
    let bench = Bench::new();
    let mut c = TestClient::connect(&bench.path);
    let (info, _) = c.ask(command::DEVICE_GET_INFO, &fields![16_u32, 0_u32, 0_u32, 0_u32]).unwrap();
    assert_eq!(info, fields![16_u32, 3_u32, 9_u32, 5_u32]);
    assert_eq!(c.register(offset::MAGIC), MAGIC_VALUE);
    assert_eq!(c.region_read(7, 0, 4).unwrap(), [0x34, 0x12, 0x73, 0x74]);
    // Doorbells reach the kick.
    c.region_write(0, doorbell(3), &[0; 4]).unwrap();
    assert!(bench.device().kick().eventfd().read().is_ok());
    // The MSI-X table keeps what is written.
    c.region_write(4, 16, &[1, 2, 3, 4]).unwrap();
    assert_eq!(c.region_read(4, 16, 4).unwrap(), [0, 2, 3, 4]);
    // Configuration space: the size of BAR0.
    c.region_write(7, 0x10, &[0xff; 4]).unwrap();
    let bar = u32::from_le_bytes(c.region_read(7, 0x10, 4).unwrap().try_into().unwrap());
    assert_eq!(u64::from(!(bar & !0xf)) + 1, BAR0_SIZE);
    let (irqs, _) =
        c.ask(command::DEVICE_GET_IRQ_INFO, &fields![16_u32, 0_u32, 2_u32, 0_u32]).unwrap();
    assert_eq!(irqs, fields![16_u32, 1_u32, 2_u32, 16_u32]);
}

#[test]
fn the_aperture_is_one_memory_mapped_or_through_messages() {
    let bench = Bench::new();
    let mut c = TestClient::connect(&bench.path);
    let ask = fields![64_u32, 0_u32, 2_u32, 0_u32, 0_u64, 0_u64];
    let (info, mut fds) = c.ask(command::DEVICE_GET_REGION_INFO, &ask).unwrap();
    assert_eq!(info.len(), 64);
    let mapped = SharedRegion::map(fds.remove(0), 0, APERTURE).unwrap();
    mapped.write(4096, b"hello").unwrap();
    assert_eq!(c.region_read(2, 4096, 5).unwrap(), b"hello");
    c.region_write(2, 8192, b"world").unwrap();
    let mut back = [0; 5];
    mapped.read(8192, &mut back).unwrap();
    assert_eq!(&back, b"world");
    assert!(rustix::fs::ftruncate(mapped.fd(), 0).is_err(), "sealed");
}

#[test]
fn interrupts_reach_the_clients_eventfds_and_wait_while_there_are_none() {
    let bench = Bench::new();
    let mut c = TestClient::connect(&bench.path);
    let device = bench.device();
    device.raise(2);
    assert_eq!(c.region_read(4, PBA_OFFSET, 8).unwrap()[0], 4, "pending");
    let (two, three) = (event(), event());
    // Data: eventfd (4), action: trigger (32).
    c.irqs(36, 2, 2, &[&two, &three]).unwrap();
    assert_eq!(count(&two, SOON), Some(1), "it waited for the eventfd");
    device.raise(3);
    assert_eq!(count(&three, SOON), Some(1));
    assert_eq!(c.region_read(4, PBA_OFFSET, 8).unwrap()[0], 0);
    // Replaced, taken away one by one, and all at once.
    let other = event();
    c.irqs(36, 3, 1, &[&other]).unwrap();
    device.raise(3);
    assert_eq!((count(&other, SOON), count(&three, NEVER)), (Some(1), None));
    c.irqs(36, 3, 1, &[]).unwrap();
    device.raise(3);
    assert_eq!(count(&other, NEVER), None);
    c.irqs(33, 0, 0, &[]).unwrap();
    device.raise(2);
    assert_eq!(count(&two, NEVER), None);
    assert_eq!(c.region_read(4, PBA_OFFSET, 8).unwrap()[0], 12);
    // The client can raise one itself.
    c.irqs(36, 5, 1, &[&three]).unwrap();
    c.irqs(33, 5, 1, &[]).unwrap();
    assert_eq!(count(&three, SOON), Some(1));
}

#[test]
fn doorbells_can_be_eventfds() {
    let bench = Bench::new();
    let mut c = TestClient::connect(&bench.path);
    let ask = fields![4096_u32, 0_u32, 0_u32, 0_u32];
    let (reply, fds) = c.ask(command::DEVICE_GET_REGION_IO_FDS, &ask).unwrap();
    assert_eq!((reply.len(), fds.len()), (16 + 64 * 40, 1));
    for _ in 0..3 {
        rustix::io::write(&fds[0], &1_u64.to_ne_bytes()).unwrap();
        let until = Instant::now() + SOON;
        while bench.device().kick().eventfd().read().is_err() {
            assert!(Instant::now() < until);
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

#[test]
fn memory_is_made_known_and_taken_away() {
    let bench = Bench::new();
    let mut c = TestClient::connect(&bench.path);
    let ram = sealed(8 * MIB);
    c.map(0, 4 * MIB, 0, Some(&ram)).unwrap();
    c.map(16 * MIB, 4 * MIB, 4 * MIB, Some(&ram)).unwrap();
    c.map(32 * MIB, MIB, 0, None).unwrap();
    let memory = || bench.fake.seen.lock().unwrap().memory.clone();
    let want = [(0, (4 * MIB, 0)), (16 * MIB, (4 * MIB, 4 * MIB))];
    assert_eq!(memory().into_iter().collect::<Vec<_>>(), want);
    assert_eq!(c.map(MIB, MIB, 0, Some(&ram)), Err(Errno::EXIST));
    assert_eq!(c.unmap(MIB, MIB), Err(Errno::INVAL), "a part of a window");
    c.unmap(0, 4 * MIB).unwrap();
    c.unmap(32 * MIB, MIB).unwrap();
    c.unmap(0, 4 * MIB).unwrap();
    assert_eq!(memory().len(), 1);
    let all = fields![24_u32, 2_u32, 0_u64, 0_u64];
    assert_eq!(c.ask(command::DMA_UNMAP, &all).unwrap().0, all);
    assert!(memory().is_empty());
}

#[test]
fn a_reset_forgets_what_the_guest_did() {
    let bench = Bench::new();
    let mut c = TestClient::connect(&bench.path);
    c.region_write(7, 4, &[6, 0]).unwrap();
    c.region_write(4, 0, &[4, 0, 0, 0]).unwrap();
    bench.device().raise(1);
    let own = event();
    c.irqs(36, 7, 1, &[&own]).unwrap();
    assert!(c.ask(command::DEVICE_RESET, &[]).is_ok());
    assert_eq!(c.region_read(7, 4, 2).unwrap(), [0, 0]);
    assert_eq!(c.region_read(4, 0, 4).unwrap(), [0; 4]);
    assert_eq!(c.region_read(4, PBA_OFFSET, 8).unwrap(), [0; 8]);
    bench.device().raise(7);
    assert_eq!(count(&own, SOON), Some(1), "wired interrupts stay");
}

#[test]
fn posted_commands_are_carried_out_and_not_answered() {
    let bench = Bench::new();
    let mut c = TestClient::connect(&bench.path);
    let mut payload = fields![doorbell(1), 0_u32, 4_u32];
    payload.extend_from_slice(&[0; 4]);
    let mut header = c.header(command::REGION_WRITE, payload.len());
    header.wants_reply = false;
    let mut bytes = header.encode().to_vec();
    bytes.extend_from_slice(&payload);
    // A wrong one too: nobody hears of it.
    let mut wrong = c.header(99, 0);
    wrong.wants_reply = false;
    bytes.extend_from_slice(&wrong.encode());
    c.send(&bytes, &[]).unwrap();
    assert_eq!(c.register(offset::MAGIC), MAGIC_VALUE, "the next reply is the next command's");
    assert!(bench.device().kick().eventfd().read().is_ok());
}

#[test]
fn migration_is_refused() {
    let bench = Bench::new();
    let mut c = TestClient::connect(&bench.path);
    // VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIGRATION.
    let probe = fields![16_u32, 0x1_0001_u32, 0_u64];
    assert_eq!(c.ask(command::DEVICE_FEATURE, &probe).unwrap_err(), Errno::NOTTY);
    assert_eq!(c.ask(command::MIG_DATA_READ, &fields![8_u32, 8_u32]).unwrap_err(), Errno::NOTSUP);
    assert_eq!(c.ask(command::MIG_DATA_WRITE, &fields![8_u32, 0_u32]).unwrap_err(), Errno::NOTSUP);
}

#[test]
fn a_second_client_waits_a_moment_and_a_reconnect_starts_clean() {
    let fake = Fake { reclaim: Duration::from_millis(100), ..Fake::default() };
    let bench = Bench::with(fake, "tenant");
    let mut first = TestClient::connect(&bench.path);
    first.region_write(7, 4, &[6, 0]).unwrap();
    first.region_write(2, 0, b"secret").unwrap();
    first.map(0, MIB, 0, Some(&sealed(MIB))).unwrap();
    assert_eq!(bench.server.clients(), 1);
    // One waits in vain, a third is closed at once.
    let mut second = TestClient::silent(&bench.path);
    let mut third = TestClient::silent(&bench.path);
    assert!(third.is_closed());
    assert!(second.is_closed());
    assert_eq!(first.register(offset::MAGIC), MAGIC_VALUE, "the first is not disturbed");
    // A VM that is started again gets its seat as soon as the last one is reclaimed.
    drop(first);
    let mut next = TestClient::connect(&bench.path);
    assert_eq!(bench.left(0), Left::Closed);
    assert_eq!(next.region_read(7, 4, 2).unwrap(), [0, 0]);
    assert_eq!(next.region_read(2, 0, 6).unwrap(), [0; 6], "zeroed memory");
    assert!(bench.fake.seen.lock().unwrap().memory.is_empty());
    let seen = bench.fake.seen.lock().unwrap();
    assert!(!Arc::ptr_eq(&seen.devices[0], &seen.devices[1]));
}

#[test]
fn a_server_that_stops_reclaims_its_clients() {
    let mut bench = Bench::new();
    let mut c = TestClient::connect(&bench.path);
    bench.server.disconnect("somebody else");
    assert_eq!(c.register(offset::MAGIC), MAGIC_VALUE);
    bench.server.stop();
    assert_eq!(bench.left(0), Left::Stopped);
    assert!(c.is_closed());
    assert!(!bench.path.exists());
    let _ = c.socket.as_fd();
}
