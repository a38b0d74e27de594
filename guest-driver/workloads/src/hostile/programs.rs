//! Attacks with program images and kernel names.

use turnstile_abi::memory::SharedMemory;
use turnstile_abi::request::Format;
use turnstile_abi::{Handle, Status, op};
use turnstile_driver::{DeviceManager, Error, Session, Transport};

use super::Outcome;
use super::lab::{Lab, admin};
use super::ranges::boundaries;
use crate::env::Env;
use crate::failure::{During, Failure, among};

const VECADD: &str = include_str!("../../../../tests/kernels/ptx/vecadd.ptx");

fn no_programs<T: Transport, E: Env>(lab: &Lab<'_, T, E>) -> Option<Outcome> {
    (!lab.granted.ptx).then_some(Outcome::Skipped("programs are not granted"))
}

/// Loads what is in `image`, whatever it ends with.
fn load<T: Transport>(
    device: &DeviceManager<&T>,
    session: &Session<'_, &T>,
    image: &[u8],
    format: Format,
) -> Result<Status, Failure> {
    let block = device.block(image.len() as u64).during("reserve room for an image")?;
    let aperture = device.transport().aperture();
    aperture.write(block.offset(), image).map_err(Error::from).during("write an image")?;
    let args = op::program_load::Args {
        session: session.handle(),
        image: block.offset(),
        bytes: image.len() as u64,
        format,
    };
    let done = admin(device, args)?;
    if done.status.is_ok() {
        let program = Handle::from_raw(done.value);
        let status = admin(device, op::program_unload::Args { program })?.status;
        among("unload it", 0, status, &[Status::Ok])?;
    }
    Ok(done.status)
}

pub(super) fn garbage<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    if let Some(outcome) = no_programs(lab) {
        return Ok(outcome);
    }
    let device = lab.start()?;
    let session = device.open_session().during("open a session")?;
    let bad = &[Status::BadProgram];
    let mut noise = [0_u8; 4096];
    for b in &mut noise {
        *b = lab.random.bits() as u8;
    }
    for (i, image) in [
        &b"\0"[..],
        b"garbage",
        b".version",
        b".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry f() { bra",
        b"\x7fELF\x02\x01\x01",
        b"// only a comment",
        b"\xff\xfe\xfd",
        &noise,
    ]
    .into_iter()
    .enumerate()
    {
        let status = load(&device, &session, image, Format::Ptx)?;
        among("garbage", i as u64, status, bad)?;
    }
    // A good program, cut off anywhere before its last brace.
    let last = VECADD.rfind('}').unwrap_or(0);
    for cut in (VECADD.find(".target").unwrap_or(0)..last).step_by(97) {
        let status = load(&device, &session, &VECADD.as_bytes()[..cut], Format::Ptx)?;
        // A cut right after the directives leaves a program with nothing in it, which is one.
        let empty = !VECADD[..cut].contains(".entry");
        among(
            "a program cut off",
            cut as u64,
            status,
            if empty { &[Status::BadProgram, Status::Ok] } else { bad },
        )?;
    }
    // As much garbage as there is room for, 4 MiB at most.
    let most = device.aperture_free().min(4 << 20) / 4096 * 4096;
    if most > 0 {
        let block = device.block(most).during("reserve room for an image")?;
        let aperture = device.transport().aperture();
        for at in (0..most).step_by(4096) {
            let place = block.offset() + at;
            aperture.write(place, &noise).map_err(Error::from).during("write an image")?;
        }
        let args = op::program_load::Args {
            session: session.handle(),
            image: block.offset(),
            bytes: most,
            format: Format::Ptx,
        };
        let status = admin(&device, args)?.status;
        among("megabytes of garbage", most, status, &[Status::BadProgram, Status::Quota])?;
        // The same, of something that parses for a while: braces, and directives without end.
        for text in [&b"{"[..], b"(", b".reg .b32 %r;\n", b".version 8.0\n", b"//", b"/*", b"\""] {
            for at in (0..most.min(256 << 10)).step_by(text.len()) {
                let end = (at + text.len() as u64).min(most);
                let part = &text[..(end - at) as usize];
                aperture.write(block.offset() + at, part).map_err(Error::from).during("write")?;
            }
            let args = op::program_load::Args { bytes: most.min(256 << 10), ..args };
            let status = admin(&device, args)?.status;
            let may = &[Status::BadProgram, Status::Quota, Status::Ok];
            // Comments alone are a program without a version, or none: either is fine.
            among("nested garbage", text[0].into(), status, may)?;
        }
    }
    let program = session.load_program(VECADD.as_bytes(), Format::Ptx).during("a good program")?;
    program.function("vecadd").during("its kernel")?;
    Ok(Outcome::Refused("bad_program"))
}

/// Any byte of a good program may be another: it loads or it is refused.
pub(super) fn flipped<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    if let Some(outcome) = no_programs(lab) {
        return Ok(outcome);
    }
    let device = lab.start()?;
    let session = device.open_session().during("open a session")?;
    let mut text = [0; 2048];
    let image = &mut text[..VECADD.len().min(2048)];
    image.copy_from_slice(&VECADD.as_bytes()[..image.len()]);
    for i in 0..150 {
        let at = lab.random.below(image.len() as u64) as usize;
        let was = image[at];
        image[at] = match i % 3 {
            0 => lab.random.bits() as u8,
            1 => was ^ 1 << lab.random.below(8),
            _ => *lab.random.pick(b"0123456789.,;[]{}%$_u").unwrap_or(&b' '),
        };
        let status = load(&device, &session, image, Format::Ptx)?;
        among("a changed program", at as u64, status, &[Status::BadProgram, Status::Ok])?;
        image[at] = was;
    }
    Ok(Outcome::Refused("bad_program, or it is still a program"))
}

pub(super) fn unlisted<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    let device = lab.start()?;
    let session = device.open_session().during("open a session")?;
    for (i, image) in
        [&b"\x7fELF\x02\x01\x01\x41\x08\0\0\0\0\0\0\0"[..], b"\x50\xed\x55\xba", VECADD.as_bytes()]
            .into_iter()
            .enumerate()
    {
        let status = load(&device, &session, image, Format::Image)?;
        let may = &[Status::Denied, Status::BadProgram];
        among("an image the policy does not list", i as u64, status, may)?;
    }
    Ok(Outcome::Refused("denied"))
}

pub(super) fn names<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    if let Some(outcome) = no_programs(lab) {
        return Ok(outcome);
    }
    let device = lab.start()?;
    let session = device.open_session().during("open a session")?;
    let program = session.load_program(VECADD.as_bytes(), Format::Ptx).during("load")?;
    let block = device.block(512).during("reserve room for a name")?;
    let aperture = device.transport().aperture();
    for (i, name) in
        [&b"vecad"[..], b"vecadd\0", b"vecadd ", b"VECADD", b"\xff\xff", b"vecadd_param_0", b"$L"]
            .into_iter()
            .enumerate()
    {
        aperture.write(block.offset(), name).map_err(Error::from).during("write a name")?;
        let (name, bytes) = (block.offset(), name.len() as u64);
        let args = op::function_get::Args { program: program.handle(), name, bytes };
        among("a name", i as u64, admin(&device, args)?.status, &[Status::NotFound])?;
    }
    for bytes in boundaries().filter(|&b| b == 0 || b > 256) {
        let name = block.offset();
        let args = op::function_get::Args { program: program.handle(), name, bytes };
        let may = &[Status::OutOfRange, Status::BadAddress];
        among("a name's length", bytes, admin(&device, args)?.status, may)?;
    }
    for name in boundaries().filter(|&n| n > device.aperture_bytes()) {
        let args = op::function_get::Args { program: program.handle(), name, bytes: 16 };
        among("a name's place", name, admin(&device, args)?.status, &[Status::BadAddress])?;
    }
    Ok(Outcome::Refused("not_found, out_of_range, bad_address"))
}
