//! Attacks with offsets, lengths and places.

use turnstile_abi::memory::contains;
use turnstile_abi::regs::VECTORS;
use turnstile_abi::request::{Access, Format, Usage};
use turnstile_abi::{Handle, Request, Rights, Status, op, ring};
use turnstile_driver::{Slot, Transport};

use super::Outcome;
use super::lab::{BYTES, Lab, SLOTS, admin, two_buffers, work};
use crate::env::Env;
use crate::failure::{During, Failure, among, if_granted};

/// 0, and every power of two with its neighbours.
pub(super) fn boundaries() -> impl Iterator<Item = u64> + Clone {
    let around = |n: u32| {
        let power = 1_u64 << n;
        [power.wrapping_sub(1), power, power.wrapping_add(1)]
    };
    (0..64).flat_map(around).chain([u64::MAX])
}

pub(super) fn copies<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    if !lab.can_copy() {
        return Ok(Outcome::Skipped("needs copies"));
    }
    let device = lab.start()?;
    let session = device.open_session().during("open a session")?;
    let mut slots = [Slot::NEW; SLOTS];
    let mut queue = session.create_queue(&mut slots).during("create a queue")?;
    let (a, b) = two_buffers(&session, lab.usage())?;
    for offset in boundaries() {
        for bytes in [0, 1, BYTES - 1, BYTES, BYTES + 1, offset, u64::MAX - offset, u64::MAX] {
            let fits = bytes > 0 && contains(BYTES, offset, bytes);
            let want = if fits { Status::Ok } else { Status::OutOfRange };
            let mut args = op::copy::Args {
                dst: b.handle(),
                dst_offset: offset,
                src: a.handle(),
                src_offset: 0,
                bytes,
            };
            let status = work(&mut queue, args)?;
            let fits_source = bytes > 0 && bytes <= BYTES;
            let want_both = if fits_source { want } else { Status::OutOfRange };
            among("a destination offset", offset, status, &[want_both])?;
            (args.dst_offset, args.src_offset) = (0, offset);
            among("a source offset", offset, work(&mut queue, args)?, &[want_both])?;
        }
    }
    Ok(Outcome::Refused("out_of_range"))
}

pub(super) fn fills<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    if !lab.can_copy() || !lab.granted.fill {
        return Ok(Outcome::Skipped("needs fills"));
    }
    let device = lab.start()?;
    let session = device.open_session().during("open a session")?;
    let mut slots = [Slot::NEW; SLOTS];
    let mut queue = session.create_queue(&mut slots).during("create a queue")?;
    let (a, _) = two_buffers(&session, lab.usage())?;
    let dst = a.handle();
    for offset in boundaries() {
        for (bytes, width) in [(8, 8), (8, 4), (2, 2), (1, 1), (BYTES, 8), (0, 8), (12, 8)] {
            let args = op::fill::Args { dst, offset, bytes, pattern: 1, width };
            let fits = bytes > 0 && contains(BYTES, offset, bytes);
            let aligned = offset.is_multiple_of(width) && bytes.is_multiple_of(width);
            let want = if fits && aligned { Status::Ok } else { Status::OutOfRange };
            among("a fill", offset, work(&mut queue, args)?, &[want])?;
        }
        if !matches!(offset, 1 | 2 | 4 | 8) {
            let args = op::fill::Args { dst, offset: 0, bytes: 64, pattern: 1, width: offset };
            let allowed = &[Status::Malformed, Status::OutOfRange];
            among("a fill's width", offset, work(&mut queue, args)?, allowed)?;
        }
    }
    Ok(Outcome::Refused("out_of_range, malformed"))
}

pub(super) fn overlapping<T: Transport, E: Env>(
    lab: &mut Lab<'_, T, E>,
) -> Result<Outcome, Failure> {
    if !lab.can_copy() {
        return Ok(Outcome::Skipped("needs copies"));
    }
    let device = lab.start()?;
    let session = device.open_session().during("open a session")?;
    let mut slots = [Slot::NEW; SLOTS];
    let mut queue = session.create_queue(&mut slots).during("create a queue")?;
    let (a, _) = two_buffers(&session, lab.usage())?;
    // A second name of the same bytes, where the policy lets a tenant have one.
    let again = if_granted("derive", a.derive(Rights::READ | Rights::CLOSE))?;
    let src = again.as_ref().map_or(a.handle(), |other| other.handle());
    for distance in [0, 1, 7, 8, 1023, 1024, 1025] {
        for (dst_offset, src_offset) in [(distance, 0), (0, distance)] {
            let dst = a.handle();
            let args = op::copy::Args { dst, dst_offset, src, src_offset, bytes: 1024 };
            let want = if distance < 1024 { Status::OutOfRange } else { Status::Ok };
            among("an overlapping copy", distance, work(&mut queue, args)?, &[want])?;
        }
    }
    Ok(Outcome::Refused("out_of_range, through another capability too"))
}

pub(super) fn sizes<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    if !lab.granted.device && !lab.granted.host {
        return Ok(Outcome::Skipped("needs buffers"));
    }
    let device = lab.start()?;
    let session = device.open_session().during("open a session")?;
    let s = session.handle();
    for usage in [Usage::Device, Usage::Host] {
        let granted = match usage {
            Usage::Device => lab.granted.device,
            Usage::Host => lab.granted.host,
        };
        for bytes in boundaries() {
            let done = admin(&device, op::buffer_create::Args { session: s, bytes, usage })?;
            let want: &[Status] = if !granted {
                &[Status::Denied]
            } else if bytes == 0 {
                &[Status::OutOfRange]
            } else if bytes > lab.limits.memory_bytes {
                &[Status::Quota]
            } else {
                // Within the quota the aperture's heap, or the device, may still be too small.
                &[Status::Ok, Status::NoMemory]
            };
            among("a buffer's size", bytes, done.status, want)?;
            if done.status.is_ok() {
                let buffer = Handle::from_raw(done.value);
                let destroy = op::buffer_destroy::Args { buffer };
                among("destroying it", bytes, admin(&device, destroy)?.status, &[Status::Ok])?;
            }
        }
    }
    Ok(Outcome::Refused("out_of_range, quota"))
}

/// Offsets into the aperture that name nothing there, in every operation that takes one.
pub(super) fn aperture<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    let device = lab.start()?;
    let session = device.open_session().during("open a session")?;
    let (s, end) = (session.handle(), device.aperture_bytes());
    let block = device.block(256).during("reserve aperture")?;
    // Every denial the policy may raise first is a refusal as well.
    let bad = &[Status::BadAddress, Status::OutOfRange, Status::Denied, Status::Quota];
    let tried = |what, at: u64, request: Request, wrong: bool| -> Result<(), Failure> {
        if wrong { among(what, at, admin(&device, request)?.status, bad) } else { Ok(()) }
    };
    for at in boundaries() {
        let outside = |bytes| !contains(end, at, bytes);
        let crooked = !at.is_multiple_of(8);
        let offset = at;
        let identify = op::identify::Args { offset, bytes: 128 };
        tried("identify", at, identify.into(), outside(128) || crooked)?;
        // Lengths that wrap; the place itself is good.
        if at < 128 {
            let identify = op::identify::Args { offset: block.offset(), bytes: at };
            tried("identify's length", at, identify.into(), true)?;
        }
        let image =
            op::program_load::Args { session: s, image: at, bytes: 64, format: Format::Ptx };
        tried("an image", at, image.into(), outside(64))?;
        let image = op::program_load::Args {
            session: s,
            image: block.offset(),
            bytes: at,
            format: Format::Ptx,
        };
        tried("an image's length", at, image.into(), !contains(end, block.offset(), at))?;
        let list =
            op::dma_register::Args { session: s, list: at, extents: 1, access: Access::Read };
        tried("an extent list", at, list.into(), outside(16) || crooked)?;
        let fence = op::fence_create::Args { session: s, initial: 0, mirror: at };
        // All-ones means no mirror at all.
        tried("a mirror", at, fence.into(), (outside(8) || crooked) && at != u64::MAX)?;
    }
    Ok(Outcome::Refused("bad_address"))
}

pub(super) fn rings<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    if !lab.granted.queue {
        return Ok(Outcome::Skipped("needs queues"));
    }
    let device = lab.start()?;
    let session = device.open_session().during("open a session")?;
    let s = session.handle();
    let depth = 4;
    let block = device.block(ring::bytes(depth)).during("reserve a ring")?;
    let bad = &[Status::BadAddress, Status::OutOfRange, Status::Denied];
    let create = |what, at, ring, depth, vector| -> Result<(), Failure> {
        let args = op::queue_create::Args { session: s, ring, depth, vector };
        among(what, at, admin(&device, args)?.status, bad)
    };
    let good = block.offset();
    for at in boundaries() {
        let here = ring::Layout::new(at, depth.into(), device.heap_offset());
        if here.is_err() {
            create("a ring's place", at, at, depth.into(), 1)?;
        }
        if !at.is_power_of_two() || at > u64::from(turnstile_abi::regs::MAX_DEPTH) {
            create("a ring's depth", at, good, at, 1)?;
        }
        if at >= u64::from(VECTORS) {
            create("a ring's vector", at, good, depth.into(), at)?;
        }
    }
    create("a ring in the heap", 0, device.heap_offset(), depth.into(), 1)?;
    create("a ring across the heap's border", 0, device.heap_offset() - 64, depth.into(), 1)?;
    Ok(Outcome::Refused("bad_address, out_of_range, denied"))
}
