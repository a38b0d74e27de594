//! The driver against a device that answers, refuses, stalls and lies.

use core::cell::Cell;
use std::rc::Rc;
use std::vec::Vec;

use turnstile_abi::identify::Identity;
use turnstile_abi::launch::{DmaExtent, Relocation, relocations_offset};
use turnstile_abi::memory::SharedMemory;
use turnstile_abi::regs::{DeviceStatus, offset};
use turnstile_abi::request::{Access, Format, Usage};
use turnstile_abi::ring::LayoutError;
use turnstile_abi::version::Version;
use turnstile_abi::{Completion, Descriptor, Opcode, Request, Rights, Status, op};

use crate::fake::{APERTURE, Fake, HEAP, Reply, ok, refuse, willing};
use crate::{DeviceManager, Error, Lie, Patience, Pattern, Slot, Transport};

const SECOND: u64 = 1_000_000_000;

#[test]
fn what_is_no_device_is_refused() {
    let probe = |at, value| {
        let fake = Fake::willing();
        fake.set(at, value);
        DeviceManager::probe(fake).map(drop)
    };
    assert_eq!(probe(offset::MAGIC, 7), Err(Error::NotADevice(7)));
    assert_eq!(probe(offset::MAGIC, u32::MAX), Err(Error::Gone));
    assert_eq!(probe(offset::VERSION, 0x2_0000), Err(Error::Version(Version::new(2, 0))));
    assert_eq!(probe(offset::VERSION, 0x1_0007), Ok(()), "a newer minor serves us");
    assert_eq!(probe(offset::QUEUES, 0), Err(Lie::Queues(0).into()));
    assert_eq!(probe(offset::QUEUES, 65), Err(Lie::Queues(65).into()));
    let aperture = |bytes, heap| Err(Lie::Aperture { bytes, heap, mapped: APERTURE }.into());
    assert_eq!(probe(offset::APERTURE_BYTES, 2 << 20), aperture(2 << 20, HEAP));
    assert_eq!(probe(offset::HEAP_OFFSET, 2 << 20), aperture(APERTURE, 2 << 20));
    assert_eq!(probe(offset::HEAP_OFFSET, 0x1000), aperture(APERTURE, 0x1000));
    assert_eq!(probe(offset::HEAP_OFFSET + 4, 1), aperture(APERTURE, HEAP + (1 << 32)));
}

#[test]
fn negotiation_is_written_and_its_refusal_understood() {
    let mut device = DeviceManager::probe(Fake::willing()).unwrap();
    assert_eq!(device.open_session().map(drop), Err(Error::NotEnabled));
    let all = turnstile_abi::version::Features::all();
    assert_eq!(device.enable(all), Err(Error::Features { wanted: 7, offered: 3 }));
    device.enable(device.offered()).unwrap();
    let t = device.transport();
    assert_eq!(
        (t.read32(offset::DRIVER_VERSION), t.read32(offset::DRIVER_FEATURES)),
        (0x1_0000, 3)
    );
    device.open_session().unwrap().close().unwrap();

    let fake = Fake::willing();
    fake.frozen.set(true);
    fake.set(offset::STATUS, DeviceStatus::FAILED.bits());
    fake.set(offset::LAST_ERROR, Status::Unsupported as u32);
    let mut device = DeviceManager::probe(fake).unwrap();
    device.set_patience(Patience { spins: 5, timeout_ns: SECOND / 100 });
    let refused = Err(Error::EnableRefused(Status::Unsupported));
    assert_eq!(device.enable(device.offered()), refused);
    device.transport().set(offset::STATUS, DeviceStatus::BUSY.bits());
    assert_eq!(device.reset(), Err(Error::Timeout { ns: SECOND / 100 }));
    device.transport().set(offset::STATUS, DeviceStatus::LOST.bits());
    assert_eq!(device.reset(), Err(Error::Lost));
    device.transport().set(offset::STATUS, u32::MAX);
    assert_eq!(device.reset(), Err(Error::Gone));
}

#[test]
fn identity_comes_through_the_aperture() {
    let identity = Identity { memory_bytes: 77, queues: 3, ..Identity::default() };
    let fake = Fake::new(move |d, memory| match Request::decode(d) {
        Ok(Request::Identify(args)) => {
            memory.write(args.offset, &identity.to_bytes()).unwrap();
            ok(d, args.bytes, 0)
        }
        _ => willing(d, memory),
    });
    let device = DeviceManager::start(fake).unwrap();
    let free = device.aperture_free();
    assert_eq!(device.identify(), Ok(identity));
    assert_eq!(device.aperture_free(), free);
}

#[test]
fn refusals_carry_operation_status_and_detail() {
    let fake = Fake::new(|d, memory| match Request::decode(d) {
        Ok(Request::BufferCreate(_)) => refuse(d, Status::Quota, 42),
        _ => willing(d, memory),
    });
    let device = DeviceManager::start(fake).unwrap();
    let session = device.open_session().unwrap();
    let error = session.create_buffer(4096, Usage::Device).unwrap_err();
    let quota = Error::Status { op: Opcode::BufferCreate, status: Status::Quota, detail: 42 };
    assert_eq!((error, error.status()), (quota, Some(Status::Quota)));
    let raw = device.exchange(&Descriptor { head: 0xffff, ..Descriptor::default() }).unwrap();
    assert_eq!((raw.status, raw.detail), (Status::UnknownOp, 0xffff));
}

#[test]
fn results_come_in_any_order_and_once() {
    let fake = Fake::new(|d, memory| match Request::decode(d) {
        Ok(Request::Nop(_)) => Reply::Hold,
        _ => willing(d, memory),
    });
    let device = DeviceManager::start(fake).unwrap();
    let session = device.open_session().unwrap();
    let mut slots = [Slot::NEW; 6];
    let mut queue = session.create_queue(&mut slots).unwrap();
    assert_eq!(queue.layout().depth(), 4, "a power of two");
    let t = device.transport();
    let before = t.doorbells.get();
    let tokens: Vec<_> = (0..4).map(|_| queue.nop().unwrap()).collect();
    assert_eq!(queue.nop(), Err(Error::Full));
    assert_eq!(t.doorbells.get(), before, "nothing rings before the batch is whole");
    queue.ring().unwrap();
    queue.ring().unwrap();
    assert_eq!(t.doorbells.get(), before + 1, "one doorbell a batch");

    assert_eq!(queue.poll(tokens[0]), Ok(None));
    t.release(3, Status::Ok, 33);
    t.release(1, Status::Timeout, 11);
    assert_eq!(queue.wait(tokens[3], SECOND).unwrap().value, 33);
    let timeout = Error::Status { op: Opcode::Nop, status: Status::Timeout, detail: 0 };
    assert_eq!(queue.wait(tokens[1], SECOND), Err(timeout));
    assert_eq!(queue.wait(tokens[1], SECOND), Err(Error::BadToken), "taken already");
    assert_eq!(queue.wait(tokens[0], SECOND), Err(Error::Timeout { ns: SECOND }));
    assert!(t.sleeps.get() > 0);
    t.release(0, Status::Ok, 0);
    t.release(0, Status::Ok, 2);
    queue.idle(SECOND).unwrap();
    let mut rest = [queue.poll_any().unwrap().unwrap(), queue.poll_any().unwrap().unwrap()];
    rest.sort_by_key(|(_, c)| c.value);
    assert_eq!((rest[0].0, rest[1].0), (tokens[0], tokens[2]));
    assert_eq!(queue.poll_any(), Ok(None));
    assert_eq!(queue.in_flight(), 0);
    let again = queue.nop().unwrap();
    assert!(!tokens.contains(&again), "a token is never reused");
    assert_eq!(queue.poll(tokens[0]), Err(Error::BadToken));
    queue.destroy().unwrap();
}

#[test]
fn a_launch_is_laid_out_as_the_abi_says() {
    let seen = Rc::new(Cell::new(None));
    let sink = Rc::clone(&seen);
    let fake = Fake::new(move |d, memory| match Request::decode(d) {
        Ok(Request::Launch(args)) => {
            let mut params = [0; 32];
            memory.read(args.params, &mut params).unwrap();
            let mut relocations = [0; 48];
            let at = args.params + relocations_offset(args.block.params_bytes);
            memory.read(at, &mut relocations).unwrap();
            sink.set(Some((args, params, relocations)));
            ok(d, 5, 0)
        }
        _ => willing(d, memory),
    });
    let device = DeviceManager::start(fake).unwrap();
    let session = device.open_session().unwrap();
    let mut slots = [Slot::NEW; 4];
    let mut queue = session.create_queue(&mut slots).unwrap();
    let buffer = session.create_buffer(4096, Usage::Device).unwrap();
    let program = session.load_program(b".version 9.0", Format::Ptx).unwrap();
    let function = program.function("saxpy").unwrap();
    let free = device.aperture_free();

    let mut launch = function.launch([3, 2, 1], [256, 1, 1]).unwrap();
    launch.value(1.5_f32).unwrap().buffer(&buffer, 64, Access::Read).unwrap();
    launch.buffer(&buffer, 0, Access::ReadWrite).unwrap().shared(512).cooperative();
    let short = function.launch([1, 1, 1], [1, 1, 1]).unwrap();
    assert_eq!(queue.launch(short), Err(Error::Arguments { given: 0, taken: 28 }));
    launch.value(9_u32).unwrap();
    assert_eq!(launch.value(9_u32).map(drop), Err(Error::Arguments { given: 32, taken: 28 }));
    let token = queue.launch(launch).unwrap();
    assert_eq!(queue.wait(token, SECOND).unwrap().value, 5);
    assert_eq!(device.aperture_free(), free, "parameters are given back on completion");

    let (args, params, relocations) = seen.get().unwrap();
    assert_eq!((args.grid.blocks, args.grid.shared_bytes), ([3, 2, 1], 512));
    assert_eq!((args.block.threads, args.block.params_bytes), ([256, 1, 1], 28));
    assert_eq!((args.extras.relocations, args.extras.flags), (2, 1));
    assert_eq!(params[..4], 1.5_f32.to_le_bytes());
    assert_eq!(params[24..28], 9_u32.to_le_bytes());
    assert!(params[4..24].iter().all(|&b| b == 0));
    let relocation = |i: usize| {
        let mut bytes = [0; 24];
        bytes.copy_from_slice(&relocations[i * 24..][..24]);
        Relocation::from_bytes(&bytes)
    };
    let buffer = buffer.handle();
    assert_eq!(relocation(0), Relocation { at: 8, access: 1, buffer, offset: 64 });
    assert_eq!(relocation(1), Relocation { at: 16, access: 3, buffer, offset: 0 });
}

#[test]
fn objects_say_what_they_are_and_go_away() {
    let device = DeviceManager::start(Fake::willing()).unwrap();
    let free = device.aperture_free();
    let session = device.open_session().unwrap();
    assert_eq!(session.arena_base(), 0x7000_0000);
    let extents = [DmaExtent { gpa: 0x1000, bytes: 4096 }, DmaExtent { gpa: 0x8000, bytes: 4096 }];
    let region = session.register_dma(&extents, Access::Read).unwrap();
    assert_eq!((region.bytes(), region.at(5).offset), (8192, 5));
    region.derive(Rights::READ).unwrap().unregister().unwrap();
    region.unregister().unwrap();
    let fence = session.create_fence(7).unwrap();
    assert_eq!(fence.value(), Ok(Some(7)));
    assert_eq!(fence.derive(Rights::WAIT).unwrap().value(), Ok(None));
    fence.destroy().unwrap();
    let buffer = session.create_buffer(4096, Usage::Host).unwrap();
    let mapping = buffer.map().unwrap();
    mapping.write(4090, &[1; 6]).unwrap();
    assert!(mapping.write(4090, &[1; 7]).is_err());
    assert!(mapping.read(u64::MAX, &mut [0]).is_err());
    mapping.unmap().unwrap();
    buffer.destroy().unwrap();
    let mut slots = [Slot::NEW; 4];
    let mut queue = session.create_queue(&mut slots).unwrap();
    let token = queue.fill(buffer_place(), 8, Pattern::U32(1)).unwrap();
    assert_eq!(queue.wait(token, SECOND).unwrap().value, 0);
    queue.destroy().unwrap();
    session.close().unwrap();
    assert_eq!(device.aperture_free(), free);
}

fn buffer_place() -> crate::Place {
    crate::Place {
        handle: turnstile_abi::Handle::new(turnstile_abi::Kind::Buffer, 1, 1),
        offset: 0,
    }
}

#[test]
fn queues_of_impossible_depth_are_refused_before_the_device_sees_them() {
    let device = DeviceManager::start(Fake::willing()).unwrap();
    let session = device.open_session().unwrap();
    let depth = Err(Error::Ring(LayoutError::Depth));
    assert_eq!(session.create_queue(&mut []).map(drop), depth);
    for bad in [0, 3, 8192, u32::MAX] {
        let mut slots = [Slot::NEW; 4];
        assert_eq!(session.create_queue_with(&mut slots, bad, 1).map(drop), depth);
    }
}

/// The device returns a result that cannot be; the driver says so and believes none of it.
#[test]
fn lies_are_told_from_answers() {
    let liar = |opcode: Opcode, value: u64, detail: u64| {
        let fake = Fake::new(move |d, memory| {
            if d.head == opcode as u64 { ok(d, value, detail) } else { willing(d, memory) }
        });
        DeviceManager::start(fake).unwrap()
    };
    let lied = |e: Error| assert!(matches!(e, Error::Lied(_)), "{e:?}");
    lied(liar(Opcode::SessionOpen, 0, 0).open_session().unwrap_err());
    lied(liar(Opcode::SessionOpen, 2 << 56, 0).open_session().unwrap_err());
    let device = liar(Opcode::QueueCreate, 6 << 56, 99);
    let mut slots = [Slot::NEW; 4];
    let session = device.open_session().unwrap();
    lied(session.create_queue(&mut slots).unwrap_err());
    let device = liar(Opcode::FunctionGet, 5 << 56, 4097);
    let program = device.open_session().unwrap().load_program(b"x", Format::Ptx).unwrap();
    lied(program.function("f").unwrap_err());
    for (offset, bytes) in [
        (0, 4096),
        (HEAP, 4097),
        (HEAP, 0),
        (APERTURE - 8, 4096),
        (u64::MAX - 7, 4096),
        (HEAP + 1, 4096),
    ] {
        let device = liar(Opcode::BufferMap, offset, bytes);
        let buffer = device.open_session().unwrap().create_buffer(4096, Usage::Host).unwrap();
        lied(buffer.map().unwrap_err());
    }
    let device = liar(Opcode::DmaRegister, 3 << 56, 1);
    let extent = DmaExtent { gpa: 0, bytes: 4096 };
    lied(device.open_session().unwrap().register_dma(&[extent], Access::Read).unwrap_err());
    let device = liar(Opcode::Derive, 3 << 56, 0);
    lied(device.open_session().unwrap().derive(Rights::CREATE).unwrap_err());
}

#[test]
fn a_wrong_cookie_stops_the_stream_until_reset() {
    let fake = Fake::new(|d, memory| match Request::decode(d) {
        Ok(Request::SessionOpen(_)) => {
            Reply::Now(Completion { cookie: 999, value: 0, detail: 0, status: Status::Ok })
        }
        _ => willing(d, memory),
    });
    let mut device = DeviceManager::start(fake).unwrap();
    assert_eq!(device.open_session().map(drop), Err(Lie::Cookie(999).into()));
    assert_eq!(device.open_session().map(drop), Err(Error::OutOfStep));
    device.reset().unwrap();
    device.enable(device.offered()).unwrap();
    assert_eq!(device.open_session().map(drop), Err(Lie::Cookie(999).into()));
}

#[test]
fn a_silent_device_is_given_up_after_the_bound() {
    let mut device = DeviceManager::start(Fake::willing()).unwrap();
    device.set_patience(Patience { spins: 10, timeout_ns: SECOND });
    device.transport().frozen.set(true);
    assert_eq!(device.open_session().map(drop), Err(Error::Timeout { ns: SECOND }));
    assert_eq!(device.open_session().map(drop), Err(Error::OutOfStep));

    for (status, error) in [
        (DeviceStatus::LOST | DeviceStatus::ENABLED, Error::Lost),
        (DeviceStatus::empty(), Error::NotEnabled),
        (DeviceStatus::from_bits_retain(u32::MAX), Error::Gone),
    ] {
        let device = DeviceManager::start(Fake::willing()).unwrap();
        device.transport().frozen.set(true);
        device.transport().set(offset::STATUS, status.bits());
        assert_eq!(device.open_session().map(drop), Err(error), "long before the timeout");
        assert!(device.transport().clock.get() < SECOND);
    }
}

/// A device that writes anything anywhere into the aperture, at any time.
#[test]
fn random_scribbling_never_panics_the_driver() {
    for seed in 1..200_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let fake = Fake::new(move |d, memory| {
            for _ in 0..next() % 8 {
                // Mostly the completion fields, so that forged completions get through.
                let at = next() % 0x4000 / 8 * 8;
                let sequence = ((next() % 8) << 32) | (next() % 24);
                memory.store64(at, if next() % 2 == 0 { sequence } else { next() }).unwrap();
            }
            match next() % 3 {
                0 => ok(d, next(), next()),
                1 => Reply::Now(Completion {
                    cookie: next() % 9,
                    value: 0,
                    detail: 0,
                    status: Status::Ok,
                }),
                _ => willing(d, memory),
            }
        });
        for _ in 0..20 {
            fake.frozen.set(false);
            let Ok(mut device) = DeviceManager::probe(&fake) else { break };
            device.set_patience(Patience { spins: 5, timeout_ns: SECOND / 10 });
            let _ = device.reset();
            let _ = device.enable(device.offered());
            let _ = exercise(&device);
        }
    }
}

fn exercise(device: &DeviceManager<&Fake>) -> Result<(), Error> {
    let _ = device.identify();
    let session = device.open_session()?;
    let buffer = session.create_buffer(4096, Usage::Host)?;
    let mapping = buffer.map()?;
    mapping.write(0, &[1; 4096])?;
    let mut slots = [Slot::NEW; 4];
    let mut queue = session.create_queue(&mut slots)?;
    for _ in 0..20 {
        let token = queue.submit(op::nop::Args {})?;
        let _ = queue.poll_any();
        let _ = queue.wait(token, 1000);
    }
    queue.destroy()
}
