//! Attacks with the indices of a ring. The driver's own ring code is left aside: these write where
//! the ABI says the fields are.

use core::sync::atomic::{AtomicBool, Ordering};

use turnstile_abi::memory::SharedMemory;
use turnstile_abi::regs::offset;
use turnstile_abi::ring::Layout;
use turnstile_abi::{Handle, Kind, Status, op};
use turnstile_driver::{DeviceManager, Error, Queue, Session, Slot, Transport};

use super::Outcome;
use super::lab::{Lab, SLOTS, admin, work};
use crate::env::Env;
use crate::failure::{During, Failure, among, same};

/// Fields of a ring, by their offset (abi, `ring`).
const TAIL: u64 = 0x00;
const HEAD: u64 = 0x40;
const PARKED: u64 = 0x44;
const CONSUMED: u64 = 0x80;
/// How long a broken ring may take to be noticed, in nanoseconds.
const NOTICED: u64 = 5_000_000_000;

struct Bench<'q, T: Transport> {
    device: &'q DeviceManager<T>,
    session: &'q Session<'q, T>,
}

impl<T: Transport> Bench<'_, T> {
    fn store(&self, layout: &Layout, field: u64, value: u32) -> Result<(), Failure> {
        let aperture = self.device.transport().aperture();
        aperture.store32(layout.base() + field, value).map_err(Error::from).during("write a field")
    }

    /// Rings until the device says that a ring is broken.
    fn noticed(&self, queue: u32) -> Result<(), Failure> {
        let t = self.device.transport();
        let start = t.now_ns();
        while self.device.last_error() != Some(Status::RingBroken) {
            if t.now_ns().saturating_sub(start) > NOTICED {
                return Err(Failure::Not("the broken ring was not noticed"));
            }
            t.doorbell(queue);
            for _ in 0..100 {
                t.relax();
            }
        }
        Ok(())
    }

    /// The rest of the device goes on: the admin queue, and a new work queue.
    fn goes_on(&self) -> Result<(), Failure> {
        self.device.check().during("check the device")?;
        self.device.identify().during("identify after a broken ring")?;
        let mut slots = [Slot::NEW; 4];
        let mut queue = self.session.create_queue(&mut slots).during("create another queue")?;
        among("a nop on another queue", 0, work(&mut queue, op::nop::Args {})?, &[Status::Ok])?;
        queue.destroy().during("destroy the other queue")
    }
}

/// Breaks a queue's ring with `attack` and checks that it is noticed, that the queue can still be
/// destroyed, and that everything else goes on.
fn broken<T: Transport, E: Env>(
    lab: &Lab<'_, T, E>,
    depth: u32,
    attack: impl FnOnce(&Bench<'_, &T>, &mut Queue<'_, &T>) -> Result<(), Failure>,
) -> Result<Outcome, Failure> {
    if lab.limits.queues < 2 {
        return Ok(Outcome::Skipped("needs two queues"));
    }
    let device = lab.start()?;
    let session = device.open_session().during("open a session")?;
    let bench = Bench { device: &device, session: &session };
    let mut slots = [Slot::NEW; SLOTS];
    let mut queue = session.create_queue_with(&mut slots, depth, 1).during("create a queue")?;
    attack(&bench, &mut queue)?;
    bench.noticed(queue.number())?;
    bench.goes_on()?;
    queue.destroy().during("destroy the broken queue")?;
    bench.goes_on()?;
    Ok(Outcome::Refused("ring_broken; the rest of the device goes on"))
}

pub(super) fn tail_beyond<T: Transport, E: Env>(
    lab: &mut Lab<'_, T, E>,
) -> Result<Outcome, Failure> {
    for beyond in [5, 6, 1 << 16, 1 << 31, u32::MAX] {
        match broken(lab, 4, |bench, queue| bench.store(queue.layout(), TAIL, beyond))? {
            Outcome::Skipped(why) => return Ok(Outcome::Skipped(why)),
            _ => continue,
        }
    }
    Ok(Outcome::Refused("ring_broken; the rest of the device goes on"))
}

pub(super) fn tail_backwards<T: Transport, E: Env>(
    lab: &mut Lab<'_, T, E>,
) -> Result<Outcome, Failure> {
    broken(lab, 8, |bench, queue| {
        for _ in 0..5 {
            among("a nop", 0, work(queue, op::nop::Args {})?, &[Status::Ok])?;
        }
        bench.store(queue.layout(), TAIL, 4)
    })
}

/// The driver claims completions that were never posted. The device looks at that index only when
/// it runs out of slots, so one slot is used up first.
pub(super) fn head_ahead<T: Transport, E: Env>(
    lab: &mut Lab<'_, T, E>,
) -> Result<Outcome, Failure> {
    broken(lab, 1, |bench, queue| {
        among("a nop", 0, work(queue, op::nop::Args {})?, &[Status::Ok])?;
        bench.store(queue.layout(), CONSUMED, 7)?;
        bench.store(queue.layout(), TAIL, 2)
    })
}

pub(super) fn all_indices<T: Transport, E: Env>(
    lab: &mut Lab<'_, T, E>,
) -> Result<Outcome, Failure> {
    let wild = lab.random.bits() as u32 | 1 << 20;
    broken(lab, 4, |bench, queue| {
        for field in [HEAD, CONSUMED, 0x84, TAIL] {
            bench.store(queue.layout(), field, wild)?;
        }
        Ok(())
    })
}

pub(super) fn admin_broken<T: Transport, E: Env>(
    lab: &mut Lab<'_, T, E>,
) -> Result<Outcome, Failure> {
    // One command was fetched: these lie more than a ring ahead of it, or behind it.
    for wild in [67, 1 << 20, u32::MAX] {
        let device = lab.start()?;
        let session = device.open_session().during("open a session")?;
        let bench = Bench { device: &device, session: &session };
        let admin_ring = Layout::new(0, turnstile_abi::regs::ADMIN_DEPTH.into(), 1 << 20);
        let admin_ring = admin_ring.map_err(Error::from).during("lay the admin ring out")?;
        bench.store(&admin_ring, TAIL, wild)?;
        bench.noticed(0)?;
        // A reset brings it back.
        let device = lab.start()?;
        device.open_session().during("open a session after a reset")?.close().during("close it")?;
        same(
            "the error register after a reset",
            0,
            lab.transport.read32(offset::LAST_ERROR).into(),
            0,
        )?;
    }
    Ok(Outcome::Refused("ring_broken; a reset brings it back"))
}

/// The fields the device writes are for reading: it never believes what is found there.
pub(super) fn device_fields<T: Transport, E: Env>(
    lab: &mut Lab<'_, T, E>,
) -> Result<Outcome, Failure> {
    if !lab.granted.queue {
        return Ok(Outcome::Skipped("needs queues"));
    }
    let device = lab.start()?;
    let session = device.open_session().during("open a session")?;
    let bench = Bench { device: &device, session: &session };
    let mut slots = [Slot::NEW; SLOTS];
    let mut queue = session.create_queue(&mut slots).during("create a queue")?;
    for i in 0..200 {
        bench.store(queue.layout(), HEAD, lab.random.bits() as u32)?;
        // Parked or not, as the tenant likes it; ringing makes up for it.
        bench.store(queue.layout(), PARKED, (i % 2) as u32)?;
        let token = queue.nop().during("submit")?;
        device.transport().doorbell(queue.number());
        among("a nop", i, super::lab::finish(&mut queue, token)?, &[Status::Ok])?;
    }
    Ok(Outcome::Harmless("the device keeps its own counters"))
}

/// A second vCPU writes random words all over the rings while commands go through. What becomes of
/// this tenant's commands is its own fault; the device must survive and come back.
pub(super) fn raced<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure>
where
    T::Aperture: Sync,
{
    if !lab.granted.queue {
        return Ok(Outcome::Skipped("needs queues"));
    }
    for round in 0..5 {
        let device = lab.start()?;
        let session = device.open_session().during("open a session")?;
        let mut slots = [Slot::NEW; SLOTS];
        let mut queue = session.create_queue(&mut slots).during("create a queue")?;
        let (layout, stop) = (*queue.layout(), AtomicBool::new(false));
        let aperture = lab.transport.aperture();
        let random = lab.random.clone();
        lab.random.bits();
        let scribble = || {
            let mut random = random.clone();
            while !stop.load(Ordering::Relaxed) {
                let at = layout.base() + random.below(layout.bytes() / 4) * 4;
                let value = random.bits() as u32 >> random.below(32);
                let _ = aperture.store32(at, value);
            }
        };
        let mut body = || {
            for _ in 0..300 {
                let Ok(token) = queue.nop() else { break };
                let _ = queue.ring();
                lab.transport.doorbell(queue.number());
                // Not waited for: the answer may have been scribbled over.
                let _ = queue.complete(token, 200_000);
            }
            stop.store(true, Ordering::Relaxed);
        };
        if !lab.env.alongside(&scribble, &mut body) {
            return Ok(Outcome::Skipped("no second vCPU"));
        }
        device.check().during("check the device")?;
        let forged = Handle::new(Kind::Queue, round, 9);
        let destroy = op::queue_destroy::Args { queue: forged };
        // A slot that was used before the last reset says so.
        let may = &[Status::BadHandle, Status::Reset];
        among("the admin queue", 0, admin(&device, destroy)?.status, may)?;
    }
    Ok(Outcome::Harmless("the device survives; a reset brings the queue back"))
}
