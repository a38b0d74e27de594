//! Attacks with handles: null, forged, guessed, stale, of the wrong kind, without the right.

use turnstile_abi::request::Usage;
use turnstile_abi::{Handle, Kind, Request, Rights, Status, op};
use turnstile_driver::{DeviceManager, Pattern, Slot, Transport};

use super::Outcome;
use super::descriptors::every_request;
use super::lab::{BYTES, Lab, PATIENCE, SLOTS, admin, copy_byte, finish, two_buffers, work};
use crate::env::Env;
use crate::failure::{During, Failure, among};

/// A handle that names nothing live answers like this: never minted, or closed by a reset.
const DEAD: &[Status] = &[Status::BadHandle, Status::Reset, Status::Revoked];
/// The same where the operation itself is not granted.
const DEAD_OR_DENIED: &[Status] =
    &[Status::BadHandle, Status::Denied, Status::Reset, Status::Revoked];

/// Puts `handle` into every handle operand of an operation.
fn with_handle(request: &Request, handle: Handle) -> turnstile_abi::Descriptor {
    let mut descriptor = request.encode(0);
    let mut word = 0;
    for operand in request.opcode().info().operands {
        if matches!(operand.usage, op::Use::Cap(_)) {
            descriptor.words[word] = handle.raw();
        }
        word += operand.words;
    }
    descriptor
}

/// Every operation that takes a handle, with this one; each must end with one of `allowed`.
fn everywhere<T: Transport>(
    device: &DeviceManager<&T>,
    mut queue: Option<&mut turnstile_driver::Queue<'_, &T>>,
    what: &'static str,
    handle: Handle,
    allowed: &[Status],
) -> Result<(), Failure> {
    for request in every_request() {
        let info = request.opcode().info();
        if !info.operands.iter().any(|o| matches!(o.usage, op::Use::Cap(_))) {
            continue;
        }
        let descriptor = with_handle(&request, handle);
        let status = match (info.class, &mut queue) {
            (op::Class::Admin, _) => device.exchange(&descriptor).during(what)?.status,
            (op::Class::Work, Some(queue)) => super::lab::raw(queue, &descriptor)?,
            (op::Class::Work, None) => continue,
        };
        among(what, handle.raw(), status, allowed)?;
    }
    Ok(())
}

macro_rules! setup {
    ($lab:ident, $device:ident, $session:ident, $queue:ident) => {
        if !$lab.can_copy() {
            return Ok(Outcome::Skipped("needs copies"));
        }
        let $device = $lab.start()?;
        let $session = $device.open_session().during("open a session")?;
        let mut slots = [Slot::NEW; SLOTS];
        #[allow(unused_mut)]
        let mut $queue = $session.create_queue(&mut slots).during("create a queue")?;
    };
}

pub(super) fn null<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    let device = lab.start()?;
    everywhere(&device, None, "a null handle", Handle::NULL, DEAD_OR_DENIED)?;
    if lab.granted.queue {
        let session = device.open_session().during("open a session")?;
        let mut slots = [Slot::NEW; 4];
        let mut queue = session.create_queue(&mut slots).during("create a queue")?;
        everywhere(&device, Some(&mut queue), "a null handle", Handle::NULL, DEAD_OR_DENIED)?;
    }
    Ok(Outcome::Refused("bad_handle"))
}

/// Every handle one bit away from a live one, and random ones.
pub(super) fn forged<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    setup!(lab, device, session, queue);
    let (a, b) = two_buffers(&session, lab.usage())?;
    let live = [session.handle(), queue.handle(), a.handle(), b.handle()];
    for bit in 0..64 {
        let forged = Handle::from_raw(a.handle().raw() ^ 1 << bit);
        if !live.contains(&forged) {
            let status = work(&mut queue, copy_byte(forged, b.handle()))?;
            among("a forged destination", bit, status, DEAD)?;
            let status = work(&mut queue, copy_byte(b.handle(), forged))?;
            among("a forged source", bit, status, DEAD)?;
            let destroy = op::buffer_destroy::Args { buffer: forged };
            among("a forged handle to close", bit, admin(&device, destroy)?.status, DEAD)?;
        }
        let forged = Handle::from_raw(session.handle().raw() ^ 1 << bit);
        if !live.contains(&forged) {
            let create = op::buffer_create::Args { session: forged, bytes: 1, usage: lab.usage() };
            among("a forged session", bit, admin(&device, create)?.status, DEAD)?;
        }
    }
    for i in 0..500 {
        let forged = Handle::from_raw(lab.random.bits());
        if !live.contains(&forged) {
            among("a random handle", i, work(&mut queue, copy_byte(forged, forged))?, DEAD)?;
        }
    }
    Ok(Outcome::Refused("bad_handle"))
}

/// The handles that other tenants are likely to hold: small indices and generations, all kinds.
pub(super) fn guessed<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    setup!(lab, device, session, queue);
    let mine = session.create_buffer(BYTES, lab.usage()).during("create a buffer")?;
    let own = [session.handle(), queue.handle(), mine.handle()];
    for index in 0..24 {
        for generation in 1..4 {
            for &kind in Kind::ALL {
                let guess = Handle::new(kind, index, generation);
                if own.contains(&guess) {
                    continue;
                }
                let status = work(&mut queue, copy_byte(mine.handle(), guess))?;
                among("a guessed source", guess.raw(), status, DEAD)?;
                let status = work(&mut queue, copy_byte(guess, mine.handle()))?;
                among("a guessed destination", guess.raw(), status, DEAD)?;
            }
        }
    }
    Ok(Outcome::Refused("bad_handle"))
}

pub(super) fn stale<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    setup!(lab, device, session, queue);
    let keep = session.create_buffer(BYTES, lab.usage()).during("create a buffer")?;
    for i in 0..100 {
        let buffer = session.create_buffer(BYTES, lab.usage()).during("create a buffer")?;
        let old = buffer.handle();
        buffer.destroy().during("destroy it")?;
        let try_old = |queue: &mut turnstile_driver::Queue<'_, _>, when| -> Result<(), Failure> {
            among(when, i, work(queue, copy_byte(keep.handle(), old))?, DEAD)?;
            among(when, i, work(queue, copy_byte(old, keep.handle()))?, DEAD)
        };
        try_old(&mut queue, "a closed handle")?;
        // Its slot has a new owner now, very likely.
        let new = session.create_buffer(BYTES, lab.usage()).during("create a buffer")?;
        try_old(&mut queue, "a closed handle whose slot was reused")?;
        let destroy = op::buffer_destroy::Args { buffer: old };
        among("closing a stale handle", i, admin(&device, destroy)?.status, DEAD)?;
        let status = work(&mut queue, copy_byte(new.handle(), keep.handle()))?;
        among("the slot's new owner", i, status, &[Status::Ok])?;
        new.destroy().during("destroy it")?;
    }
    Ok(Outcome::Refused("bad_handle"))
}

/// Live handles of every kind, where another kind belongs.
pub(super) fn wrong_kind<T: Transport, E: Env>(
    lab: &mut Lab<'_, T, E>,
) -> Result<Outcome, Failure> {
    setup!(lab, device, session, queue);
    let buffer = session.create_buffer(BYTES, lab.usage()).during("create a buffer")?;
    let fence = match lab.granted.fence {
        true => Some(session.create_fence(0).during("create a fence")?),
        false => None,
    };
    let fence = fence.as_ref().map_or(Handle::NULL, |f| f.handle());
    let live = [session.handle(), queue.handle(), buffer.handle(), fence];
    for handle in live {
        // The operations that close are left for last, with handles of other kinds only.
        for request in every_request() {
            let info = request.opcode().info();
            let takes = |o: &op::OperandInfo| match (o.usage, handle.kind()) {
                (op::Use::Cap(need), Some(kind)) => need.kinds.contains(kind.set()),
                (op::Use::Cap(_), None) => false,
                (op::Use::Scalar, _) => false,
            };
            let caps = info.operands.iter().filter(|o| matches!(o.usage, op::Use::Cap(_)));
            if caps.clone().count() == 0 || caps.clone().any(takes) {
                continue;
            }
            let descriptor = with_handle(&request, handle);
            let status = match info.class {
                op::Class::Admin => device.exchange(&descriptor).during("wrong kind")?.status,
                op::Class::Work => super::lab::raw(&mut queue, &descriptor)?,
            };
            among("a handle of the wrong kind", handle.raw(), status, DEAD_OR_DENIED)?;
        }
    }
    among("a nop after that", 0, work(&mut queue, op::nop::Args {})?, &[Status::Ok])?;
    Ok(Outcome::Refused("bad_handle"))
}

pub(super) fn without_right<T: Transport, E: Env>(
    lab: &mut Lab<'_, T, E>,
) -> Result<Outcome, Failure> {
    setup!(lab, device, session, queue);
    if !lab.granted.derive {
        return Ok(Outcome::Skipped("needs derive"));
    }
    let (a, b) = two_buffers(&session, lab.usage())?;
    let no = &[Status::NoRight];
    let read = a.derive(Rights::READ).during("derive")?.handle();
    let write = a.derive(Rights::WRITE).during("derive")?.handle();
    let none = a.derive(Rights::empty()).during("derive")?.handle();
    for (i, (dst, src, allowed)) in [
        (read, b.handle(), false),
        (none, b.handle(), false),
        (b.handle(), write, false),
        (b.handle(), none, false),
        (b.handle(), read, true),
        (write, b.handle(), true),
    ]
    .into_iter()
    .enumerate()
    {
        let want: &[Status] = if allowed { &[Status::Ok] } else { no };
        among("a copy", i as u64, work(&mut queue, copy_byte(dst, src))?, want)?;
    }
    if lab.granted.fill {
        let fill = op::fill::Args { dst: read, offset: 0, bytes: 8, pattern: 0, width: 1 };
        among("a fill", 0, work(&mut queue, fill)?, no)?;
    }
    for (i, handle) in [read, write, none].into_iter().enumerate() {
        let at = i as u64;
        let status = |request: Request| admin(&device, request).map(|c| c.status);
        let destroy = op::buffer_destroy::Args { buffer: handle };
        among("closing without the right", at, status(destroy.into())?, no)?;
        let map = op::buffer_map::Args { buffer: handle };
        among("mapping without the right", at, status(map.into())?, no)?;
        let derive = op::derive::Args { source: handle, rights: Rights::empty() };
        among("deriving without the right", at, status(derive.into())?, no)?;
    }
    let weak = session.derive(Rights::DERIVE).during("derive a session")?;
    let create =
        op::buffer_create::Args { session: weak.handle(), bytes: BYTES, usage: lab.usage() };
    among("creating without the right", 0, admin(&device, create)?.status, no)?;
    let close = op::session_close::Args { session: weak.handle() };
    among("closing a session without the right", 0, admin(&device, close)?.status, no)?;
    if lab.granted.fence {
        let fence = session.create_fence(0).during("create a fence")?;
        let wait = fence.derive(Rights::WAIT).during("derive a fence")?;
        let token = queue.signal(&wait, 1).during("submit")?;
        among("signalling without the right", 0, finish(&mut queue, token)?, no)?;
        let signal = fence.derive(Rights::SIGNAL).during("derive a fence")?;
        let token = queue.wait_fence(&signal, 0, PATIENCE).during("submit")?;
        among("waiting without the right", 0, finish(&mut queue, token)?, no)?;
    }
    Ok(Outcome::Refused("no_right"))
}

pub(super) fn amplified<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    setup!(lab, device, session, queue);
    if !lab.granted.derive {
        return Ok(Outcome::Skipped("needs derive"));
    }
    let buffer = session.create_buffer(BYTES, lab.usage()).during("create a buffer")?;
    let weak = Rights::READ | Rights::DERIVE;
    let read = buffer.derive(weak).during("derive")?;
    for right in Rights::all().iter() {
        let source = read.handle();
        let status = admin(&device, op::derive::Args { source, rights: right })?.status;
        let want = if weak.contains(right) { Status::Ok } else { Status::NoRight };
        among("one more right", right.bits().into(), status, &[want])?;
        let both = right | Rights::READ;
        let status = admin(&device, op::derive::Args { source, rights: both })?.status;
        let want = if weak.contains(both) { Status::Ok } else { Status::NoRight };
        among("one more right beside another", both.bits().into(), status, &[want])?;
    }
    // Rights of other kinds, and bits that are no rights.
    let source = buffer.handle();
    let launch = op::derive::Args { source, rights: Rights::LAUNCH };
    among("a right of another kind", 0, admin(&device, launch)?.status, &[Status::NoRight])?;
    for bit in 9..64 {
        let mut descriptor = Request::from(op::derive::Args { source, rights: weak }).encode(0);
        descriptor.words[1] |= 1 << bit;
        let status = device.exchange(&descriptor).during("derive")?.status;
        among("a bit that is no right", bit, status, &[Status::Malformed])?;
    }
    let derive = op::derive::Args { source: queue.handle(), rights: Rights::empty() };
    among("deriving a queue", 0, admin(&device, derive)?.status, &[Status::BadHandle])?;
    Ok(Outcome::Refused("no_right"))
}

pub(super) fn closed_twice<T: Transport, E: Env>(
    lab: &mut Lab<'_, T, E>,
) -> Result<Outcome, Failure> {
    setup!(lab, device, session, queue);
    let twice = |request: Request| -> Result<(), Failure> {
        let at = request.opcode() as u64;
        among("closing once", at, admin(&device, request)?.status, &[Status::Ok])?;
        for _ in 0..3 {
            among("closing again", at, admin(&device, request)?.status, DEAD)?;
        }
        Ok(())
    };
    let buffer = session.create_buffer(BYTES, lab.usage()).during("create a buffer")?.handle();
    twice(op::buffer_destroy::Args { buffer }.into())?;
    if lab.granted.fence {
        let fence = session.create_fence(0).during("create a fence")?.handle();
        twice(op::fence_destroy::Args { fence }.into())?;
    }
    twice(op::queue_destroy::Args { queue: queue.handle() }.into())?;
    twice(op::session_close::Args { session: session.handle() }.into())?;
    Ok(Outcome::Refused("bad_handle"))
}

pub(super) fn closed_mapped<T: Transport, E: Env>(
    lab: &mut Lab<'_, T, E>,
) -> Result<Outcome, Failure> {
    if !lab.granted.host {
        return Ok(Outcome::Skipped("needs host-visible buffers"));
    }
    let device = lab.start()?;
    let session = device.open_session().during("open a session")?;
    let buffer = session.create_buffer(BYTES, Usage::Host).during("create a buffer")?;
    let mapping = buffer.map().during("map")?;
    let destroy = op::buffer_destroy::Args { buffer: buffer.handle() };
    among("closing a mapped buffer", 0, admin(&device, destroy)?.status, &[Status::Busy])?;
    mapping.write(0, &[7; 64]).during("write through the mapping")?;
    mapping.unmap().during("unmap")?;
    let unmap = op::buffer_unmap::Args { buffer: buffer.handle() };
    among("unmapping again", 0, admin(&device, unmap)?.status, &[Status::NotFound])?;
    buffer.destroy().during("destroy")?;
    if lab.granted.device {
        let hidden = session.create_buffer(BYTES, Usage::Device).during("create a buffer")?;
        let map = op::buffer_map::Args { buffer: hidden.handle() };
        let status = admin(&device, map)?.status;
        among("mapping device memory", 0, status, &[Status::Unsupported])?;
    }
    Ok(Outcome::Refused("busy, not_found, unsupported"))
}

/// Buffers are closed under a queue full of commands on them.
pub(super) fn closed_in_flight<T: Transport, E: Env>(
    lab: &mut Lab<'_, T, E>,
) -> Result<Outcome, Failure> {
    setup!(lab, device, session, queue);
    if !lab.granted.fill {
        return Ok(Outcome::Skipped("needs fills"));
    }
    let bytes = (lab.limits.memory_bytes / 8).clamp(BYTES, 4 << 20) / 8 * 8;
    for i in 0..20 {
        let a = session.create_buffer(bytes, lab.usage()).during("create a buffer")?;
        let b = session.create_buffer(bytes, lab.usage()).during("create a buffer")?;
        let mut tokens = [None; SLOTS];
        for (n, token) in tokens.iter_mut().enumerate() {
            let submitted = match n % 2 {
                0 => queue.fill(a.at(0), bytes, Pattern::U64(i)),
                _ => queue.copy(b.at(0), a.at(0), bytes),
            };
            *token = Some(submitted.during("submit")?);
        }
        queue.ring().during("ring")?;
        a.destroy().during("destroy a buffer in use")?;
        b.destroy().during("destroy a buffer in use")?;
        for token in tokens.into_iter().flatten() {
            let allowed = &[Status::Ok, Status::BadHandle, Status::Revoked];
            among("a command on a closed buffer", i, finish(&mut queue, token)?, allowed)?;
        }
    }
    // Whatever was in use is free again.
    let a = session.create_buffer(bytes, lab.usage()).during("create a buffer")?;
    a.destroy().during("destroy it")?;
    Ok(Outcome::Harmless("each command ended once: ok, bad_handle or revoked"))
}

/// Closing a capability closes what was derived from it and created through it.
pub(super) fn orphans<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    setup!(lab, device, session, queue);
    if !lab.granted.derive {
        return Ok(Outcome::Skipped("needs derive"));
    }
    let (a, b) = two_buffers(&session, lab.usage())?;
    let child = a.derive(Kind::Buffer.full_rights()).during("derive")?;
    let grandchild = child.derive(Kind::Buffer.full_rights()).during("derive")?;
    let sibling = a.derive(Rights::READ).during("derive")?;
    let (c, g, s) = (child.handle(), grandchild.handle(), sibling.handle());
    child.destroy().during("close the child")?;
    for (at, (handle, want)) in
        [(c, DEAD), (g, DEAD), (s, &[Status::Ok][..]), (a.handle(), &[Status::Ok][..])]
            .into_iter()
            .enumerate()
    {
        let status = work(&mut queue, copy_byte(b.handle(), handle))?;
        among("after closing a child", at as u64, status, want)?;
    }
    let root = a.handle();
    a.destroy().during("close the root")?;
    for (at, handle) in [root, s].into_iter().enumerate() {
        let status = work(&mut queue, copy_byte(b.handle(), handle))?;
        among("after closing the root", at as u64, status, DEAD)?;
    }
    // A session's capability, derived: what was created through it goes with it.
    let door = session.derive(Rights::CREATE | Rights::CLOSE).during("derive a session")?;
    let through = door.create_buffer(BYTES, lab.usage()).during("create through it")?.handle();
    let status = work(&mut queue, copy_byte(b.handle(), through))?;
    among("a buffer created through a derived session", 0, status, &[Status::Ok])?;
    door.close().during("close the derived session")?;
    let status = work(&mut queue, copy_byte(b.handle(), through))?;
    among("a buffer whose session capability is closed", 0, status, DEAD)?;
    among(
        "the session itself",
        0,
        work(&mut queue, copy_byte(b.handle(), b.handle()))?,
        &[Status::OutOfRange],
    )?;
    Ok(Outcome::Refused("bad_handle"))
}
