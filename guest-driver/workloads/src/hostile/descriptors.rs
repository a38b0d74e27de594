//! Attacks with the 64 bytes of a command.

use core::sync::atomic::{AtomicBool, Ordering};

use turnstile_abi::memory::SharedMemory;
use turnstile_abi::op::{self, Class, TABLE};
use turnstile_abi::request::{Access, Format, Usage};
use turnstile_abi::{Descriptor, Handle, Opcode, Request, Rights, Status};
use turnstile_driver::{DeviceManager, Pattern, Queue, Slot, Transport};

use super::Outcome;
use super::lab::{BYTES, Lab, SLOTS, admin, is_refusal, null_launch, raw, two_buffers, work};
use crate::env::Env;
use crate::failure::{During, Failure, among};

/// Every operation once, well formed, with null handles.
pub(super) fn every_request() -> [Request; 25] {
    let null = Handle::NULL;
    [
        op::identify::Args { offset: u64::MAX - 7, bytes: 128 }.into(),
        op::session_open::Args {}.into(),
        op::session_close::Args { session: null }.into(),
        op::buffer_create::Args { session: null, bytes: 1, usage: Usage::Device }.into(),
        op::buffer_destroy::Args { buffer: null }.into(),
        op::buffer_map::Args { buffer: null }.into(),
        op::buffer_unmap::Args { buffer: null }.into(),
        op::dma_register::Args { session: null, list: 0, extents: 1, access: Access::Read }.into(),
        op::dma_unregister::Args { region: null }.into(),
        op::program_load::Args { session: null, image: 0, bytes: 1, format: Format::Ptx }.into(),
        op::program_unload::Args { program: null }.into(),
        op::function_get::Args { program: null, name: 0, bytes: 1 }.into(),
        op::function_release::Args { function: null }.into(),
        op::queue_create::Args { session: null, ring: 0, depth: 1, vector: 0 }.into(),
        op::queue_destroy::Args { queue: null }.into(),
        op::fence_create::Args { session: null, initial: 0, mirror: u64::MAX }.into(),
        op::fence_destroy::Args { fence: null }.into(),
        op::derive::Args { source: null, rights: Rights::empty() }.into(),
        op::nop::Args {}.into(),
        op::copy::Args { dst: null, dst_offset: 0, src: null, src_offset: 0, bytes: 1 }.into(),
        op::fill::Args { dst: null, offset: 0, bytes: 1, pattern: 0, width: 1 }.into(),
        null_launch().into(),
        op::fence_signal::Args { fence: null, value: 1 }.into(),
        op::fence_wait::Args { fence: null, value: 1, timeout_ns: 1 }.into(),
        op::timestamp::Args {}.into(),
    ]
}

/// Runs `attack` with a fresh device and, if the policy grants one, a work queue.
fn with_queue<T: Transport, E: Env>(
    lab: &Lab<'_, T, E>,
    attack: impl FnOnce(&DeviceManager<&T>, Option<&mut Queue<'_, &T>>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let device = lab.start()?;
    if !lab.granted.queue {
        return attack(&device, None);
    }
    let session = device.open_session().during("open a session")?;
    let mut slots = [Slot::NEW; SLOTS];
    let mut queue = session.create_queue(&mut slots).during("create a queue")?;
    attack(&device, Some(&mut queue))
}

/// Tries one descriptor on both kinds of queue; each must answer with one of `allowed`.
fn both<T: Transport>(
    device: &DeviceManager<&T>,
    queue: &mut Option<&mut Queue<'_, &T>>,
    what: &'static str,
    descriptor: &Descriptor,
    allowed: &[Status],
) -> Result<(), Failure> {
    let status = device.exchange(descriptor).during(what)?.status;
    among(what, descriptor.head, status, allowed)?;
    match queue {
        Some(queue) => among(what, descriptor.head, raw(queue, descriptor)?, allowed),
        None => Ok(()),
    }
}

pub(super) fn unknown_operations<T: Transport, E: Env>(
    lab: &mut Lab<'_, T, E>,
) -> Result<Outcome, Failure> {
    let mut random = lab.random.clone();
    with_queue(lab, |device, mut queue| {
        let random = core::iter::repeat_with(|| random.bits() as u16).take(100);
        let codes = (0..=0x40).chain([0x7fff, 0x8000, 0xffff]).chain(random);
        for code in codes.filter(|&c| Opcode::from_code(c).is_none()) {
            let descriptor = Descriptor { head: code.into(), ..Descriptor::default() };
            both(device, &mut queue, "an unknown code", &descriptor, &[Status::UnknownOp])?;
        }
        Ok(())
    })?;
    Ok(Outcome::Refused("unknown_op"))
}

pub(super) fn reserved_bits<T: Transport, E: Env>(
    lab: &mut Lab<'_, T, E>,
) -> Result<Outcome, Failure> {
    with_queue(lab, |device, mut queue| {
        for request in every_request() {
            for bit in [16, 17, 31, 32, 47, 48, 62, 63] {
                let clean = request.encode(0);
                let descriptor = Descriptor { head: clean.head | 1 << bit, ..clean };
                both(device, &mut queue, "a reserved bit", &descriptor, &[Status::Malformed])?;
            }
        }
        Ok(())
    })?;
    Ok(Outcome::Refused("malformed"))
}

pub(super) fn stray_words<T: Transport, E: Env>(
    lab: &mut Lab<'_, T, E>,
) -> Result<Outcome, Failure> {
    with_queue(lab, |device, mut queue| {
        for request in every_request() {
            let used: usize = request.opcode().info().operands.iter().map(|o| o.words).sum();
            for word in used..6 {
                let mut descriptor = request.encode(0);
                descriptor.words[word] = 1 << (word * 9);
                both(device, &mut queue, "a stray word", &descriptor, &[Status::Malformed])?;
            }
        }
        Ok(())
    })?;
    Ok(Outcome::Refused("malformed"))
}

pub(super) fn wrong_queue<T: Transport, E: Env>(
    lab: &mut Lab<'_, T, E>,
) -> Result<Outcome, Failure> {
    with_queue(lab, |device, mut queue| {
        for request in every_request() {
            let what = "on the wrong queue";
            let code = request.opcode() as u64;
            let status = match (request.opcode().info().class, &mut queue) {
                (Class::Work, _) => admin(device, request)?.status,
                (Class::Admin, Some(queue)) => work(queue, request)?,
                (Class::Admin, None) => continue,
            };
            among(what, code, status, &[Status::WrongQueue])?;
        }
        Ok(())
    })?;
    Ok(Outcome::Refused("wrong_queue"))
}

/// Random bits, and known codes with random operands. Nothing of it can be right by chance, except
/// operations without operands, which are left out.
pub(super) fn random<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    let mut random = lab.random.clone();
    with_queue(lab, |device, mut queue| {
        for i in 0..1500_u64 {
            let mut descriptor = Descriptor { head: random.bits(), ..Descriptor::default() };
            if i % 4 != 0 {
                let with_operands = TABLE.iter().filter(|op| !op.operands.is_empty());
                let count = with_operands.clone().count() as u64;
                let op = with_operands.clone().nth(random.below(count) as usize);
                descriptor.head = op.map_or(0, |op| op.opcode as u64);
            }
            for word in &mut descriptor.words {
                *word = match random.below(4) {
                    0 => 0,
                    1 => 1 << random.below(64),
                    2 => random.below(1 << 20),
                    _ => random.bits(),
                };
            }
            // The one operation with operands but no handle may be right: it writes to the aperture.
            if descriptor.head as u16 == Opcode::Identify as u16 {
                continue;
            }
            let status = device.exchange(&descriptor).during("a random descriptor")?.status;
            refusal("a random descriptor", i, status)?;
            if let Some(queue) = &mut queue {
                refusal("a random descriptor", i, raw(queue, &descriptor)?)?;
            }
        }
        Ok(())
    })?;
    lab.random.bits();
    Ok(Outcome::Refused("malformed, unknown_op, bad_handle and others"))
}

/// Fails unless a status is a refusal that blames the tenant or the policy.
fn refusal(what: &'static str, at: u64, status: Status) -> Result<(), Failure> {
    if is_refusal(status) { Ok(()) } else { among(what, at, status, &[Status::Malformed]) }
}

/// Good commands with one bit flipped: each ends in order, well or refused, and the buffer behind
/// the ones it may touch keeps its bytes.
pub(super) fn mutated<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    if !lab.can_copy() {
        return Ok(Outcome::Skipped("needs copies"));
    }
    let device = lab.start()?;
    let session = device.open_session().during("open a session")?;
    let mut slots = [Slot::NEW; SLOTS];
    let mut queue = session.create_queue(&mut slots).during("create a queue")?;
    let (a, b) = two_buffers(&session, lab.usage())?;
    let good = op::copy::Args {
        dst: b.handle(),
        dst_offset: 1024,
        src: a.handle(),
        src_offset: 512,
        bytes: 1024,
    };
    let good = Request::from(good).encode(0);
    for word in 0..=6 {
        for bit in 0..64 {
            let mut bad = good;
            match word {
                6 => bad.head ^= 1 << bit,
                _ => bad.words[word] ^= 1 << bit,
            }
            let status = raw(&mut queue, &bad)?;
            // What the model of the operation says about the mutant.
            let want: &[Status] = match Request::decode(&bad) {
                Err(e) if e.status() == Status::UnknownOp => &[Status::UnknownOp],
                Err(_) => &[Status::Malformed],
                Ok(Request::Copy(c)) if c.dst != b.handle() || c.src != a.handle() => {
                    // One bit makes the other buffer's handle, perhaps; then the ranges overlap.
                    &[Status::BadHandle, Status::OutOfRange, Status::Ok]
                }
                Ok(Request::Copy(c)) => {
                    let fits = |offset| turnstile_abi::memory::contains(BYTES, offset, c.bytes);
                    if c.bytes > 0 && fits(c.dst_offset) && fits(c.src_offset) {
                        &[Status::Ok]
                    } else {
                        &[Status::OutOfRange]
                    }
                }
                // Another operation with a copy's operands.
                Ok(_) => continue,
            };
            among("a flipped bit", word as u64 * 64 + bit, status, want)?;
        }
    }
    Ok(Outcome::Refused("bad_handle, out_of_range, malformed, unknown_op"))
}

/// A second vCPU rewrites the descriptors in the ring while they are fetched. The device may see any
/// mixture, but checks what it uses: a buffer that no mixture can name keeps its bytes.
pub(super) fn raced<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure>
where
    T::Aperture: Sync,
{
    if !lab.can_copy() || !lab.granted.fill {
        return Ok(Outcome::Skipped("needs copies and fills"));
    }
    let device = lab.start()?;
    let session = device.open_session().during("open a session")?;
    let mut slots = [Slot::NEW; SLOTS];
    let mut queue = session.create_queue(&mut slots).during("create a queue")?;
    let (a, b) = two_buffers(&session, lab.usage())?;
    let (layout, stop) = (*queue.layout(), AtomicBool::new(false));
    let good = Request::from(op::copy::Args {
        dst: b.handle(),
        dst_offset: 0,
        src: a.handle(),
        src_offset: 0,
        bytes: 2048,
    })
    .encode(0);
    let aperture = lab.transport.aperture();
    let source = a.handle().raw();
    let forged = source ^ 1 << 24;
    let rewrite = || {
        let mut i = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            i = i.wrapping_add(1);
            let slot = layout.base() + 0x100 + (i % u64::from(layout.depth())) * 64;
            let wild = 1_u64 << (i % 64);
            for (word, value) in [
                (1, if i.is_multiple_of(3) { wild } else { 0 }),
                (3, if i.is_multiple_of(5) { u64::MAX - wild } else { 0 }),
                (4, if i.is_multiple_of(7) { u64::MAX } else { 2048 }),
                (2, if i.is_multiple_of(11) { forged } else { source }),
            ] {
                // The cookie stays, so that the driver can tell the completions apart.
                let _ = aperture.store64(slot + 16 + word * 8, value);
            }
        }
    };
    let mut result = Ok(());
    let mut body = || {
        result = (|| {
            for i in 0..200 {
                let mut tokens = [None; SLOTS];
                for token in &mut tokens {
                    *token = Some(queue.submit_raw(&good).during("submit")?);
                }
                for token in tokens.into_iter().flatten() {
                    let status = super::lab::finish(&mut queue, token)?;
                    among("a raced copy", i, status, RACED)?;
                }
            }
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
    };
    if !lab.env.alongside(&rewrite, &mut body) {
        return Ok(Outcome::Skipped("no second vCPU"));
    }
    result?;
    device.check().during("check the device")?;
    Ok(Outcome::Refused("every one completed once: ok, bad_handle or out_of_range"))
}

/// How a copy may end whose operands were mixed.
const RACED: &[Status] =
    &[Status::Ok, Status::OutOfRange, Status::BadHandle, Status::Malformed, Status::UnknownOp];

/// Every operation and every variant that the policy does not grant ends with `denied`.
pub(super) fn not_granted<T: Transport, E: Env>(
    lab: &mut Lab<'_, T, E>,
) -> Result<Outcome, Failure> {
    // The operator says what is withheld; finding it denied here is the check. Without the
    // argument the probe's own findings stand, which at least must not change with real handles.
    let withheld = |name: &str, granted: bool| {
        let said = lab.env.arg("deny").map(|_| crate::env::lists(lab.env, "deny", name));
        match said {
            Some(said) if said == granted => Err(Failure::Not("a grant is not as `deny` says")),
            _ => Ok(()),
        }
    };
    let g = lab.granted;
    for (name, granted) in [
        ("queue", g.queue),
        ("copy", g.copy || !g.queue),
        ("fill", g.fill || !g.queue),
        ("fence", g.fence),
        ("derive", g.derive),
        ("device", g.device),
        ("host", g.host),
        ("dma-read", g.dma_read),
        ("dma-write", g.dma_write),
        ("ptx", g.ptx),
        ("image", g.image),
        ("launch", g.launch || !g.queue),
    ] {
        withheld(name, granted)?;
    }
    let device = lab.start()?;
    let session = device.open_session().during("open a session")?;
    let mut denied = 0;
    let mut admin_denied = |granted: bool, request: Request| -> Result<(), Failure> {
        if !granted {
            denied += 1;
            let status = admin(&device, request)?.status;
            among("not granted", request.opcode() as u64, status, &[Status::Denied])?;
        }
        Ok(())
    };
    let s = session.handle();
    let buffer = |usage| op::buffer_create::Args { session: s, bytes: BYTES, usage }.into();
    let dma =
        |access| op::dma_register::Args { session: s, list: 1 << 16, extents: 1, access }.into();
    let load =
        |format| op::program_load::Args { session: s, image: 1 << 16, bytes: 64, format }.into();
    admin_denied(g.device, buffer(Usage::Device))?;
    admin_denied(g.host, buffer(Usage::Host))?;
    admin_denied(g.dma_read, dma(Access::Read))?;
    admin_denied(g.dma_write, dma(Access::Write))?;
    admin_denied(g.dma_read && g.dma_write, dma(Access::ReadWrite))?;
    admin_denied(g.ptx, load(Format::Ptx))?;
    admin_denied(g.image, load(Format::Image))?;
    admin_denied(
        g.fence,
        op::fence_create::Args { session: s, initial: 0, mirror: u64::MAX }.into(),
    )?;
    admin_denied(g.derive, op::derive::Args { source: s, rights: Rights::empty() }.into())?;
    admin_denied(
        g.queue,
        op::queue_create::Args { session: s, ring: 8192, depth: 1, vector: 0 }.into(),
    )?;
    if g.queue {
        let mut slots = [Slot::NEW; 4];
        let mut queue = session.create_queue(&mut slots).during("create a queue")?;
        let buffer = match g.device || g.host {
            true => Some(session.create_buffer(BYTES, lab.usage()).during("create a buffer")?),
            false => None,
        };
        let handle = buffer.as_ref().map_or(Handle::NULL, |b| b.handle());
        let place = turnstile_driver::Place { handle, offset: 0 };
        let to = turnstile_driver::Place { handle, offset: 2048 };
        if !g.copy {
            denied += 1;
            let token = queue.copy(to, place, 1).during("submit")?;
            let status = super::lab::finish(&mut queue, token)?;
            among("a copy", 0, status, &[Status::Denied])?;
        }
        if !g.fill {
            denied += 1;
            let token = queue.fill(place, 8, Pattern::U8(1)).during("submit")?;
            let status = super::lab::finish(&mut queue, token)?;
            among("a fill", 0, status, &[Status::Denied])?;
        }
        if !g.fence {
            denied += 1;
            let signal = op::fence_signal::Args { fence: Handle::NULL, value: 1 };
            among("a signal", 0, work(&mut queue, signal)?, &[Status::Denied])?;
        }
        if !g.launch {
            denied += 1;
            among("a launch", 0, work(&mut queue, null_launch())?, &[Status::Denied])?;
        }
    }
    Ok(match denied {
        0 => Outcome::Skipped("the policy grants everything"),
        _ => Outcome::Refused("denied"),
    })
}
