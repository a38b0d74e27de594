//! Attacks with memory for DMA.

use core::sync::atomic::{AtomicBool, Ordering};

use turnstile_abi::launch::DmaExtent;
use turnstile_abi::memory::SharedMemory;
use turnstile_abi::regs::PAGE;
use turnstile_abi::request::Access;
use turnstile_abi::{Handle, Status, op};
use turnstile_driver::{DeviceManager, Error, Session, Slot, Transport};

use super::Outcome;
use super::lab::{Lab, PATIENCE, SLOTS, admin, copy_byte, work};
use super::ranges::boundaries;
use crate::env::{Env, GuestPages};
use crate::failure::{During, Failure, among, same};

/// What a tenant needs for these: a grant, and pages to try it with.
fn pages<'e, T: Transport, E: Env>(
    lab: &Lab<'_, T, E>,
    env: &'e E,
) -> Result<(GuestPages<'e, E::Memory>, Access), Outcome> {
    let access = match (lab.granted.dma_read, lab.granted.dma_write) {
        (true, true) => Access::ReadWrite,
        (true, false) => Access::Read,
        (false, true) => Access::Write,
        (false, false) => return Err(Outcome::Skipped("DMA is not granted")),
    };
    match env.pages() {
        Some(pages) if pages.memory.size() >= 4 * PAGE => Ok((pages, access)),
        _ => Err(Outcome::Skipped("needs four pages")),
    }
}

/// Registers a list of extents, whatever it ends with. A region that came of it is left to the reset.
fn register<T: Transport>(
    device: &DeviceManager<T>,
    session: &Session<'_, T>,
    extents: &[DmaExtent],
    access: Access,
) -> Result<Status, Failure> {
    let list = device.block(extents.len() as u64 * DmaExtent::BYTES).during("reserve a list")?;
    for (i, extent) in extents.iter().enumerate() {
        let at = list.offset() + i as u64 * DmaExtent::BYTES;
        let aperture = device.transport().aperture();
        aperture.write(at, &extent.to_bytes()).map_err(Error::from).during("write a list")?;
    }
    let args = op::dma_register::Args {
        session: session.handle(),
        list: list.offset(),
        extents: extents.len() as u64,
        access,
    };
    Ok(admin(device, args)?.status)
}

pub(super) fn twice<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    let (pages, access) = match pages(lab, lab.env) {
        Ok(found) => found,
        Err(outcome) => return Ok(outcome),
    };
    let device = lab.start()?;
    let session = device.open_session().during("open a session")?;
    let page = |i: u64, n: u64| DmaExtent { gpa: pages.gpa + i * PAGE, bytes: n * PAGE };
    let region = session.register_dma(&[page(1, 2)], access).during("register two pages")?;
    let refused = &[Status::Busy, Status::Quota];
    for (i, extents) in [
        &[page(1, 1)][..],
        &[page(2, 1)],
        &[page(1, 2)],
        &[page(0, 2)],
        &[page(2, 2)],
        &[page(0, 4)],
        &[page(0, 1), page(2, 1)],
        &[page(0, 1), page(0, 1)],
        &[page(3, 1), page(0, 1), page(3, 1)],
    ]
    .into_iter()
    .enumerate()
    {
        let status = register(&device, &session, extents, access)?;
        among("pages registered already", i as u64, status, refused)?;
    }
    region.unregister().during("unregister")?;
    let again = session.register_dma(&[page(1, 2)], access).during("register them again")?;
    again.unregister().during("unregister")?;
    Ok(Outcome::Refused("busy"))
}

pub(super) fn outside<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    let (pages, access) = match pages(lab, lab.env) {
        Ok(found) => found,
        Err(outcome) => return Ok(outcome),
    };
    let device = lab.start()?;
    let session = device.open_session().during("open a session")?;
    let refused = &[Status::BadAddress, Status::Quota, Status::OutOfRange, Status::Busy];
    let far = |gpa: u64| gpa >= 1 << 42;
    for at in boundaries() {
        let mut tries = [None; 4];
        if !at.is_multiple_of(PAGE) {
            tries[0] = Some(DmaExtent { gpa: pages.gpa.wrapping_add(at % PAGE), bytes: PAGE });
            tries[1] = Some(DmaExtent { gpa: pages.gpa, bytes: at % PAGE });
        }
        if far(at) {
            tries[2] = Some(DmaExtent { gpa: at & !(PAGE - 1), bytes: PAGE });
            tries[3] = Some(DmaExtent { gpa: pages.gpa, bytes: at & !(PAGE - 1) });
        }
        for extent in tries.into_iter().flatten() {
            let status = register(&device, &session, &[extent], access)?;
            among("not this tenant's memory", at, status, refused)?;
        }
    }
    let zero = DmaExtent { gpa: pages.gpa, bytes: 0 };
    let status = register(&device, &session, &[zero], access)?;
    among("no bytes", 0, status, &[Status::BadAddress])?;
    Ok(Outcome::Refused("bad_address"))
}

pub(super) fn aperture<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    let (_, access) = match pages(lab, lab.env) {
        Ok(found) => found,
        Err(outcome) => return Ok(outcome),
    };
    let Some(gpa) = lab.env.aperture_gpa() else {
        return Ok(Outcome::Skipped("the aperture has no guest address here"));
    };
    let device = lab.start()?;
    let session = device.open_session().during("open a session")?;
    let end = device.aperture_bytes();
    for offset in [0, PAGE, device.heap_offset(), end - PAGE] {
        let extent = DmaExtent { gpa: gpa + offset / PAGE * PAGE, bytes: PAGE };
        let status = register(&device, &session, &[extent], access)?;
        among("a page of the aperture", offset, status, &[Status::BadAddress])?;
    }
    Ok(Outcome::Refused("bad_address"))
}

/// Lists that are empty, too long, full of garbage, and as long as a list may be.
pub(super) fn lists<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    let (_, access) = match pages(lab, lab.env) {
        Ok(found) => found,
        Err(outcome) => return Ok(outcome),
    };
    let device = lab.start()?;
    let session = device.open_session().during("open a session")?;
    let most = DmaExtent::MAX;
    let list = device.block(most * DmaExtent::BYTES).during("reserve a list")?;
    let aperture = device.transport().aperture();
    for i in 0..most {
        let extent = DmaExtent { gpa: lab.random.bits(), bytes: lab.random.bits() };
        let at = list.offset() + i * DmaExtent::BYTES;
        aperture.write(at, &extent.to_bytes()).map_err(Error::from).during("write a list")?;
    }
    let refused =
        &[Status::OutOfRange, Status::Quota, Status::BadAddress, Status::Busy, Status::Denied];
    for extents in boundaries().chain([most - 1, most, most + 1]) {
        let args = op::dma_register::Args {
            session: session.handle(),
            list: list.offset(),
            extents,
            access,
        };
        among("a list's length", extents, admin(&device, args)?.status, refused)?;
    }
    Ok(Outcome::Refused("out_of_range, quota, bad_address"))
}

/// A second vCPU swaps a page of the list for one outside memory while it is read.
pub(super) fn raced<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure>
where
    T::Aperture: Sync,
{
    let (pages, access) = match pages(lab, lab.env) {
        Ok(found) => found,
        Err(outcome) => return Ok(outcome),
    };
    let device = lab.start()?;
    let session = device.open_session().during("open a session")?;
    let list = device.block(DmaExtent::BYTES).during("reserve a list")?;
    let (stop, aperture) = (AtomicBool::new(false), lab.transport.aperture());
    let (good, at) = (pages.gpa, list.offset());
    let swap = || {
        let mut i = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            i = i.wrapping_add(1);
            let _ = aperture.store64(at, if i.is_multiple_of(2) { good } else { 1 << 51 });
            let _ =
                aperture.store64(at + 8, if i.is_multiple_of(3) { PAGE } else { PAGE << (i % 40) });
        }
    };
    let mut result = Ok(());
    let mut body = || {
        result = (|| {
            for i in 0..200 {
                let args = op::dma_register::Args {
                    session: session.handle(),
                    list: at,
                    extents: 1,
                    access,
                };
                let done = admin(&device, args)?;
                let may = &[Status::Ok, Status::BadAddress, Status::Quota, Status::OutOfRange];
                among("a raced list", i, done.status, may)?;
                if done.status.is_ok() {
                    // Whatever was read, it lay inside the pages that exist.
                    if done.detail > pages.memory.size() {
                        let ram = lab.limits.dma_bytes;
                        same("bytes of a raced region", i, done.detail.max(ram), ram)?;
                    }
                    let region = Handle::from_raw(done.value);
                    let gone = admin(&device, op::dma_unregister::Args { region })?.status;
                    among("unregistering it", i, gone, &[Status::Ok])?;
                }
            }
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
    };
    if !lab.env.alongside(&swap, &mut body) {
        return Ok(Outcome::Skipped("no second vCPU"));
    }
    result?;
    Ok(Outcome::Refused("ok, bad_address or quota, by what was read once"))
}

/// Reading what may only be written, and the reverse.
pub(super) fn access<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    let (pages, _) = match pages(lab, lab.env) {
        Ok(found) => found,
        Err(outcome) => return Ok(outcome),
    };
    if !lab.can_copy() {
        return Ok(Outcome::Skipped("needs copies"));
    }
    let device = lab.start()?;
    let session = device.open_session().during("open a session")?;
    let mut slots = [Slot::NEW; SLOTS];
    let mut queue = session.create_queue(&mut slots).during("create a queue")?;
    let buffer = session.create_buffer(PAGE, lab.usage()).during("create a buffer")?;
    let zero = [0x11; 64];
    pages.memory.write(0, &zero).map_err(Error::from).during("write a page")?;
    let extent = DmaExtent { gpa: pages.gpa, bytes: PAGE };
    if lab.granted.dma_read {
        let region = session.register_dma(&[extent], Access::Read).during("register")?;
        let status = work(&mut queue, copy_byte(region.handle(), buffer.handle()))?;
        among("a write to read-only memory", 0, status, &[Status::NoRight])?;
        if lab.granted.fill {
            let dst = region.handle();
            let fill = op::fill::Args { dst, offset: 0, bytes: 64, pattern: 0xff, width: 1 };
            among("a fill of read-only memory", 0, work(&mut queue, fill)?, &[Status::NoRight])?;
        }
        let mut held = [0; 64];
        pages.memory.read(0, &mut held).map_err(Error::from).during("read a page")?;
        same("read-only memory", 0, held[0].into(), 0x11)?;
        region.unregister().during("unregister")?;
    }
    if lab.granted.dma_write {
        let region = session.register_dma(&[extent], Access::Write).during("register")?;
        let status = work(&mut queue, copy_byte(buffer.handle(), region.handle()))?;
        among("a read of write-only memory", 0, status, &[Status::NoRight])?;
        region.unregister().during("unregister")?;
    }
    Ok(Outcome::Refused("no_right"))
}

/// A region is closed under copies into it. Once that returns, its pages do not change any more.
pub(super) fn after<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    let (pages, _) = match pages(lab, lab.env) {
        Ok(found) => found,
        Err(outcome) => return Ok(outcome),
    };
    if !lab.can_copy() || !lab.granted.dma_write {
        return Ok(Outcome::Skipped("needs copies into own memory"));
    }
    let bytes = pages.memory.size().min(lab.limits.dma_bytes).min(1 << 20) / PAGE * PAGE;
    let bytes = bytes.min(lab.limits.memory_bytes);
    let device = lab.start()?;
    let session = device.open_session().during("open a session")?;
    let mut slots = [Slot::NEW; SLOTS];
    let mut queue = session.create_queue(&mut slots).during("create a queue")?;
    // A new buffer is zero; the pages get ones after the region is gone.
    let buffer = session.create_buffer(bytes, lab.usage()).during("create a buffer")?;
    let ones = [0xff_u8; 512];
    for i in 0..20 {
        let extent = DmaExtent { gpa: pages.gpa, bytes };
        let region = session.register_dma(&[extent], Access::Write).during("register")?;
        let mut tokens = [None; SLOTS];
        for token in &mut tokens {
            let copy = queue.copy(region.at(0), buffer.at(0), bytes);
            *token = Some(copy.during("submit")?);
        }
        queue.ring().during("ring")?;
        region.unregister().during("unregister under copies")?;
        for at in (0..bytes).step_by(512) {
            pages.memory.write(at, &ones).map_err(Error::from).during("write a page")?;
        }
        for token in tokens.into_iter().flatten() {
            let status = queue.complete(token, PATIENCE).during("wait")?.status;
            let may = &[Status::Ok, Status::BadHandle, Status::Revoked];
            among("a copy into a closed region", i, status, may)?;
        }
        let mut held = [0; 512];
        for at in (0..bytes).step_by(512) {
            pages.memory.read(at, &mut held).map_err(Error::from).during("read a page")?;
            let clean = held.iter().all(|&b| b == 0xff);
            same("a page after its region was closed", at, (!clean).into(), 0)?;
        }
    }
    Ok(Outcome::Harmless("no byte moves after the region is closed"))
}
