//! Attacks on quotas: take until refused, see that everything comes back, take again.

use turnstile_abi::launch::DmaExtent;
use turnstile_abi::regs::PAGE;
use turnstile_abi::request::{Access, Format};
use turnstile_abi::{Handle, Rights, Status, op, ring};
use turnstile_driver::{DeviceManager, Session, Slot, Transport};

use super::Outcome;
use super::lab::{Lab, admin, finish};
use crate::env::Env;
use crate::failure::{During, Failure, among, same};

/// More objects than any policy in a test grants.
const ENDLESS: u64 = 100_000;
/// How a quota says no.
const FULL: &[Status] = &[Status::Quota, Status::NoMemory];
const KERNEL: &str = ".version 8.0\n.target sm_80\n.address_size 64\n\
                      .visible .entry nothing()\n{\n\tret;\n}\n";

/// Takes things in a session until the quota is used up, closes the session, and takes as many again.
fn exhaust<T: Transport, E: Env>(
    lab: &Lab<'_, T, E>,
    what: &'static str,
    limit: Option<u64>,
    take: impl Fn(&DeviceManager<&T>, &Session<'_, &T>) -> Result<Status, Failure>,
) -> Result<Outcome, Failure> {
    let device = lab.start()?;
    let mut first = None;
    for _ in 0..3 {
        let session = device.open_session().during("open a session")?;
        let mut taken = 0;
        let status = loop {
            match take(&device, &session)? {
                Status::Ok if taken < ENDLESS => taken += 1,
                other => break other,
            }
        };
        among(what, taken, status, FULL)?;
        // Refused once, refused again, and nothing is lost by asking.
        for _ in 0..10 {
            among(what, taken, take(&device, &session)?, FULL)?;
        }
        if let Some(limit) = limit {
            same(what, 0, taken.min(limit), taken)?;
        }
        same(what, 1, taken, *first.get_or_insert(taken))?;
        if taken == 0 {
            return Err(Failure::Not("not even one was granted"));
        }
        session.close().during("close the session")?;
    }
    Ok(Outcome::Refused("quota; all of it comes back with the session"))
}

pub(super) fn sessions<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    let device = lab.start()?;
    let mut opened = 0;
    loop {
        let done = admin(&device, op::session_open::Args {})?;
        if !done.status.is_ok() {
            among("one session too many", opened, done.status, FULL)?;
            break;
        }
        opened += 1;
        if opened > 4096 {
            return Err(Failure::Not("sessions are without end"));
        }
    }
    // A reset gives them back.
    let device = lab.start()?;
    for i in 0..opened {
        let status = admin(&device, op::session_open::Args {})?.status;
        among("a session after a reset", i, status, &[Status::Ok])?;
    }
    Ok(Outcome::Refused("quota; all of it comes back with a reset"))
}

pub(super) fn buffers<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    if lab.limits.buffers == 0 {
        return Ok(Outcome::Skipped("buffers are not granted"));
    }
    let usage = lab.usage();
    exhaust(lab, "one buffer too many", Some(lab.limits.buffers), |device, session| {
        let args = op::buffer_create::Args { session: session.handle(), bytes: 1, usage };
        Ok(admin(device, args)?.status)
    })
}

pub(super) fn bytes<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    if lab.limits.buffers < 2 {
        return Ok(Outcome::Skipped("needs two buffers"));
    }
    let (usage, most) = (lab.usage(), lab.limits.memory_bytes);
    // A little over half: the second does not fit.
    let bytes = most / 2 + 1;
    exhaust(lab, "one byte too many", Some(1), |device, session| {
        let args = op::buffer_create::Args { session: session.handle(), bytes, usage };
        Ok(admin(device, args)?.status)
    })
}

pub(super) fn queues<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    if !lab.granted.queue {
        return Ok(Outcome::Skipped("queues are not granted"));
    }
    exhaust(lab, "one queue too many", Some(lab.limits.queues), |device, session| {
        // The ring is given back at once: nobody is going to use the queue.
        let block = device.block(ring::bytes(1)).during("reserve a ring")?;
        let args = op::queue_create::Args {
            session: session.handle(),
            ring: block.offset(),
            depth: 1,
            vector: 1,
        };
        Ok(admin(device, args)?.status)
    })
}

pub(super) fn fences<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    if !lab.granted.fence {
        return Ok(Outcome::Skipped("fences are not granted"));
    }
    exhaust(lab, "one fence too many", None, |device, session| {
        let session = session.handle();
        let args = op::fence_create::Args { session, initial: 0, mirror: u64::MAX };
        Ok(admin(device, args)?.status)
    })
}

/// Loads a kernel that does nothing.
fn load<T: Transport>(
    device: &DeviceManager<&T>,
    session: &Session<'_, &T>,
) -> Result<(Status, Handle), Failure> {
    use turnstile_abi::memory::SharedMemory;
    let block = device.block(KERNEL.len() as u64).during("reserve room for an image")?;
    let aperture = device.transport().aperture();
    aperture
        .write(block.offset(), KERNEL.as_bytes())
        .map_err(turnstile_driver::Error::from)
        .during("write an image")?;
    let args = op::program_load::Args {
        session: session.handle(),
        image: block.offset(),
        bytes: KERNEL.len() as u64,
        format: Format::Ptx,
    };
    let done = admin(device, args)?;
    Ok((done.status, Handle::from_raw(done.value)))
}

pub(super) fn programs<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    if !lab.granted.ptx {
        return Ok(Outcome::Skipped("programs are not granted"));
    }
    exhaust(lab, "one program too many", None, |device, session| Ok(load(device, session)?.0))
}

pub(super) fn functions<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    if !lab.granted.ptx {
        return Ok(Outcome::Skipped("programs are not granted"));
    }
    let program = core::cell::Cell::new(None);
    exhaust(lab, "one function too many", None, |device, session| {
        use turnstile_abi::memory::SharedMemory;
        let loaded = match program.get() {
            Some((of, handle)) if of == session.handle() => handle,
            _ => {
                let (status, handle) = load(device, session)?;
                among("load a program", 0, status, &[Status::Ok])?;
                program.set(Some((session.handle(), handle)));
                handle
            }
        };
        let name = device.block(8).during("reserve room for a name")?;
        let aperture = device.transport().aperture();
        aperture
            .write(name.offset(), b"nothing")
            .map_err(turnstile_driver::Error::from)
            .during("write a name")?;
        let args = op::function_get::Args { program: loaded, name: name.offset(), bytes: 7 };
        Ok(admin(device, args)?.status)
    })
}

pub(super) fn handles<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    if !lab.granted.derive {
        return Ok(Outcome::Skipped("derive is not granted"));
    }
    exhaust(lab, "one handle too many", None, |device, session| {
        let args = op::derive::Args { source: session.handle(), rights: Rights::empty() };
        Ok(admin(device, args)?.status)
    })
}

pub(super) fn regions<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    let access = match (lab.granted.dma_read, lab.granted.dma_write) {
        (true, _) => Access::Read,
        (_, true) => Access::Write,
        _ => return Ok(Outcome::Skipped("DMA is not granted")),
    };
    let Some(pages) = lab.env.pages() else { return Ok(Outcome::Skipped("needs pages")) };
    let count = turnstile_abi::memory::SharedMemory::size(pages.memory) / PAGE;
    let device = lab.start()?;
    for _ in 0..3 {
        let session = device.open_session().during("open a session")?;
        let mut bytes = 0;
        for i in 0..count {
            let extent = DmaExtent { gpa: pages.gpa + i * PAGE, bytes: PAGE };
            match session.register_dma(&[extent], access) {
                Ok(region) => bytes += region.bytes(),
                Err(e) => {
                    let status = e.status().unwrap_or(Status::Backend);
                    among("one region too many", i, status, FULL)?;
                    break;
                }
            }
        }
        let limit = lab.limits.dma_bytes;
        same("registered bytes", 0, bytes.min(limit), bytes)?;
        session.close().during("close the session")?;
    }
    Ok(Outcome::Refused("quota, or no pages left to register; all of it comes back"))
}

/// More commands at once than may be in flight: they wait their turn, none is lost.
pub(super) fn in_flight<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    if !lab.granted.queue {
        return Ok(Outcome::Skipped("queues are not granted"));
    }
    let device = lab.start()?;
    let session = device.open_session().during("open a session")?;
    let mut slots = [Slot::NEW; 256];
    let depth = lab.limits.queue_depth.min(256) as u32;
    let mut queue = session.create_queue_with(&mut slots, depth, 1).during("create a queue")?;
    let mut tokens = [None; 256];
    for round in 0..20 {
        for token in tokens.iter_mut().take(depth as usize) {
            *token = Some(queue.timestamp().during("submit")?);
        }
        same("one more", round, queue.nop().is_err().into(), 1)?;
        for token in tokens.iter().take(depth as usize).flatten() {
            among("a command of a full ring", round, finish(&mut queue, *token)?, &[Status::Ok])?;
        }
    }
    Ok(Outcome::Harmless("all wait their turn and complete once"))
}
