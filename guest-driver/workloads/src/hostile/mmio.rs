//! Attacks with registers and doorbells.

use turnstile_abi::regs::{self, BAR0_SIZE, Control, DeviceStatus, MAX_QUEUES, offset};
use turnstile_abi::version::Version;
use turnstile_abi::{Status, op};
use turnstile_driver::{DeviceManager, Slot, Transport};

use super::Outcome;
use super::lab::{Lab, SLOTS, work};
use crate::env::Env;
use crate::failure::{During, Failure, among, same};

/// Rings every doorbell there is, and pages that are none, many times over.
pub(super) fn doorbells<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    let device = lab.start()?;
    let session = device.open_session().during("open a session")?;
    for i in 0..4000_u32 {
        lab.transport.doorbell(i % MAX_QUEUES);
        if i.is_multiple_of(7) {
            lab.transport.write32(regs::doorbell(0) + 4 + u64::from(i % 1023) * 4, i);
        }
    }
    device.identify().during("identify after the storm")?;
    if lab.granted.queue {
        let mut slots = [Slot::NEW; SLOTS];
        let mut queue = session.create_queue(&mut slots).during("create a queue")?;
        for i in 0..300_u32 {
            let token = queue.nop().during("submit")?;
            for q in 0..4 {
                lab.transport.doorbell((i + q) % MAX_QUEUES);
            }
            among(
                "a nop in the storm",
                i.into(),
                super::lab::finish(&mut queue, token)?,
                &[Status::Ok],
            )?;
        }
    }
    Ok(Outcome::Harmless("each costs a bit that is set already"))
}

/// Widths, alignments and offsets that no register has. Reads give all-ones, writes do nothing.
pub(super) fn odd<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    let device = lab.start()?;
    if lab.env.mmio_read(offset::MAGIC, 4) != Some(regs::MAGIC_VALUE.into()) {
        return Ok(Outcome::Skipped("no raw register accesses here"));
    }
    let before = snapshot(lab.transport);
    let ones = |bytes: u8| if bytes >= 8 { u64::MAX } else { (1 << (bytes * 8)) - 1 };
    for at in (0..0x48).chain([0xffe, 0xfff, 0x1000, 0x1001, 0x1ffd, BAR0_SIZE - 8]) {
        for bytes in [1, 2, 4, 8] {
            let within = at / 4096 == (at + u64::from(bytes) - 1) / 4096;
            let real = match bytes {
                4 => at.is_multiple_of(4) && at < offset::END && at != offset::CONTROL,
                8 => at.is_multiple_of(8) && at < offset::END && at != 0x20,
                _ => false,
            };
            let got = lab.env.mmio_read(at, bytes);
            // An access across a page is split on its way, differently everywhere.
            // Where no such access can be made, nothing was asked.
            if let (false, true, Some(got)) = (real, within, got) {
                same("an odd read", at << 8 | u64::from(bytes), got, ones(bytes))?;
            }
            // The registers that may be written are left alone, and so are their halves.
            let writable = (0x10..0x1c).contains(&at) || (0x0d..0x28).contains(&at);
            if !writable {
                lab.env.mmio_write(at, bytes, lab.random.bits());
            }
        }
    }
    for at in [0x11, 0x12, 0x19, 0x21, 0x22, 0x23, 0x25, 0x26] {
        lab.env.mmio_write(at, 1, 0xff);
        lab.env.mmio_write(at, 2, 0xffff);
    }
    for (i, (now, was)) in snapshot(lab.transport).into_iter().zip(before).enumerate() {
        same("a register after odd accesses", i as u64 * 4, now.into(), was.into())?;
    }
    device.identify().during("identify")?;
    Ok(Outcome::Refused("all-ones, dropped and counted"))
}

fn snapshot<T: Transport>(transport: &T) -> [u32; 15] {
    // STATUS is left out: its BUSY bit comes and goes.
    const AT: [u64; 15] =
        [0x00, 0x04, 0x08, 0x0c, 0x10, 0x14, 0x18, 0x1c, 0x28, 0x2c, 0x30, 0x34, 0x38, 0x3c, 0x40];
    AT.map(|at| transport.read32(at))
}

pub(super) fn read_only<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    let device = lab.start()?;
    let before = snapshot(lab.transport);
    for at in [0x00, 0x04, 0x08, 0x0c, 0x20, 0x28, 0x2c, 0x30, 0x34, 0x38, 0x3c, 0x40, 0x44, 0xffc]
    {
        for value in [0, 1, u32::MAX, lab.random.bits() as u32] {
            lab.transport.write32(at, value);
        }
    }
    for bit in 2..32 {
        lab.transport.write32(offset::CONTROL, 1 << bit);
        lab.transport.write32(offset::CONTROL, 1 << bit | Control::RESET.bits());
    }
    lab.transport.write32(offset::CONTROL, 0);
    for (i, (now, was)) in snapshot(lab.transport).into_iter().zip(before).enumerate() {
        same("a register", i as u64, now.into(), was.into())?;
    }
    device.check().during("still enabled")?;
    device.identify().during("identify")?;
    Ok(Outcome::Refused("dropped and counted"))
}

/// Versions and features that were not offered, and enabling what is enabled.
pub(super) fn negotiation<T: Transport, E: Env>(
    lab: &mut Lab<'_, T, E>,
) -> Result<Outcome, Failure> {
    let t = lab.transport;
    let control = |control: Control| -> Result<DeviceStatus, Failure> {
        t.write32(offset::CONTROL, control.bits());
        let start = t.now_ns();
        loop {
            let status = DeviceStatus::from_bits_truncate(t.read32(offset::STATUS));
            if !status.contains(DeviceStatus::BUSY) {
                return Ok(status);
            }
            if t.now_ns().saturating_sub(start) > 10_000_000_000 {
                return Err(Failure::Not("the device stays busy"));
            }
            t.relax();
        }
    };
    let Version(current) = Version::CURRENT;
    let offered = t.read64(offset::FEATURES);
    for (i, (version, features)) in [
        (Version::new(0, 0).0, offered),
        (Version::new(2, 0).0, offered),
        (Version::new(1, 1).0, offered),
        (u32::MAX, offered),
        (current, !offered),
        (current, offered | 1 << 63),
        (current, u64::MAX),
    ]
    .into_iter()
    .enumerate()
    {
        control(Control::RESET)?;
        t.write32(offset::DRIVER_VERSION, version);
        t.write32(offset::DRIVER_FEATURES, features as u32);
        t.write32(offset::DRIVER_FEATURES + 4, (features >> 32) as u32);
        let status = control(Control::ENABLE)?;
        same(
            "status after a bad negotiation",
            i as u64,
            status.bits().into(),
            DeviceStatus::FAILED.bits().into(),
        )?;
        let error = t.read32(offset::LAST_ERROR);
        same("the error register", i as u64, error.into(), Status::Unsupported as u64)?;
        // A device that is not enabled serves nobody.
        t.doorbell(0);
    }
    let device = lab.start()?;
    // Enabled already: changing one's mind now changes nothing.
    t.write32(offset::DRIVER_VERSION, Version::new(2, 0).0);
    t.write32(offset::DRIVER_FEATURES, u32::MAX);
    control(Control::ENABLE)?;
    device.check().during("still enabled")?;
    device.identify().during("identify")?;
    Ok(Outcome::Refused("failed, with unsupported in the error register"))
}

/// Resets and enables as fast as the registers take them, in the middle of work.
pub(super) fn control_storm<T: Transport, E: Env>(
    lab: &mut Lab<'_, T, E>,
) -> Result<Outcome, Failure> {
    let device = lab.start()?;
    let session = device.open_session().during("open a session")?;
    if lab.granted.queue {
        let mut slots = [Slot::NEW; SLOTS];
        let mut queue = session.create_queue(&mut slots).during("create a queue")?;
        for _ in 0..SLOTS {
            queue.nop().during("submit")?;
        }
        queue.ring().during("ring")?;
    }
    for i in 0..500_u32 {
        lab.transport.write32(offset::CONTROL, 1 + i % 3);
        if i.is_multiple_of(50) {
            lab.transport.doorbell(i % MAX_QUEUES);
        }
    }
    let device: DeviceManager<&T> = lab.start()?;
    let session = device.open_session().during("open a session after the storm")?;
    if lab.granted.queue {
        let mut slots = [Slot::NEW; SLOTS];
        let mut queue = session.create_queue(&mut slots).during("create a queue")?;
        among("a nop", 0, work(&mut queue, op::nop::Args {})?, &[Status::Ok])?;
    }
    Ok(Outcome::Harmless("the last reset wins"))
}
