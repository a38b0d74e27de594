//! Attacks with time and order: fences, resets, closing in the middle of work, what others left.

use turnstile_abi::request::Usage;
use turnstile_abi::{Handle, Status, op};
use turnstile_driver::{Buffer, Pattern, Queue, Session, Slot, Token, Transport};

use super::Outcome;
use super::lab::{BYTES, Lab, SLOTS, admin, finish};
use crate::env::Env;
use crate::failure::{During, Failure, among, same};
use crate::staging;

pub(super) fn backwards<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    if !lab.granted.fence || !lab.granted.queue {
        return Ok(Outcome::Skipped("needs fences"));
    }
    let device = lab.start()?;
    let session = device.open_session().during("open a session")?;
    let mut slots = [Slot::NEW; SLOTS];
    let mut queue = session.create_queue(&mut slots).during("create a queue")?;
    let fence = session.create_fence(100).during("create a fence")?;
    let mut now = 100;
    for bit in 0..64 {
        let to = 1_u64 << bit;
        let token = queue.signal(&fence, to).during("submit")?;
        let want = if to < now { Status::OutOfRange } else { Status::Ok };
        among("a signal", to, finish(&mut queue, token)?, &[want])?;
        now = now.max(to);
        same("the fence", bit, fence.value().during("read it")?.unwrap_or(0), now)?;
    }
    for to in [0, now - 1] {
        let token = queue.signal(&fence, to).during("submit")?;
        among("a signal backwards", to, finish(&mut queue, token)?, &[Status::OutOfRange])?;
    }
    Ok(Outcome::Refused("out_of_range"))
}

pub(super) fn forever<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    if !lab.granted.fence || !lab.granted.queue {
        return Ok(Outcome::Skipped("needs fences"));
    }
    let device = lab.start()?;
    let session = device.open_session().during("open a session")?;
    let mut slots = [Slot::NEW; SLOTS];
    let mut queue = session.create_queue(&mut slots).during("create a queue")?;
    let fence = session.create_fence(0).during("create a fence")?;
    // For a value that only a command behind the wait would bring.
    let wait = queue.wait_fence(&fence, 1, 1_000_000).during("submit")?;
    let signal = queue.signal(&fence, 1).during("submit")?;
    among("a wait for oneself", 0, finish(&mut queue, wait)?, &[Status::Timeout])?;
    among("the signal behind it", 0, finish(&mut queue, signal)?, &[Status::Ok])?;
    // For ever, or as long as the policy lets; the fence goes away under it.
    let wait = queue.wait_fence(&fence, u64::MAX, u64::MAX).during("submit")?;
    let behind = queue.nop().during("submit")?;
    queue.ring().during("ring")?;
    fence.destroy().during("destroy the fence under its wait")?;
    let may = &[Status::Revoked, Status::Timeout, Status::BadHandle];
    among("a wait on a fence that is gone", 0, finish(&mut queue, wait)?, may)?;
    among("a nop behind it", 0, finish(&mut queue, behind)?, &[Status::Ok])?;
    Ok(Outcome::Refused("timeout, revoked"))
}

/// Commands in flight, and the buffer they work on.
type Busy<'d, T> = ([Option<Token>; SLOTS], Option<Buffer<'d, &'d T>>);

/// Fills a queue with work that takes a while.
fn busy<'d, T: Transport, E: Env>(
    lab: &Lab<'_, T, E>,
    session: &Session<'d, &'d T>,
    queue: &mut Queue<'_, &'d T>,
) -> Result<Busy<'d, T>, Failure> {
    let mut tokens = [None; SLOTS];
    let buffer = if lab.granted.fill && (lab.granted.device || lab.granted.host) {
        let bytes = (lab.limits.memory_bytes / 4).clamp(BYTES, 8 << 20) / 8 * 8;
        Some(session.create_buffer(bytes, lab.usage()).during("create a buffer")?)
    } else {
        None
    };
    for (i, token) in tokens.iter_mut().enumerate() {
        let submitted = match &buffer {
            Some(buffer) if i % 4 != 3 => {
                queue.fill(buffer.at(0), buffer.bytes(), Pattern::U64(i as u64))
            }
            _ => queue.timestamp(),
        };
        *token = Some(submitted.during("submit")?);
    }
    queue.ring().during("ring")?;
    Ok((tokens, buffer))
}

/// What becomes of commands when what they run in is taken away.
const CUT_SHORT: &[Status] = &[Status::Ok, Status::Revoked, Status::BadHandle, Status::Reset];

pub(super) fn reset<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    if !lab.granted.queue {
        return Ok(Outcome::Skipped("needs queues"));
    }
    let mut stale = [Handle::NULL; 2];
    for i in 0..10 {
        let device = lab.start()?;
        let session = device.open_session().during("open a session")?;
        if i > 0 {
            // Handles from before the reset name nothing now, though their slots are used again.
            for handle in stale.into_iter().filter(|&h| h != session.handle()) {
                let args = op::session_close::Args { session: handle };
                let may = &[Status::BadHandle, Status::Reset];
                among("a handle from before the reset", i, admin(&device, args)?.status, may)?;
            }
        }
        let mut slots = [Slot::NEW; SLOTS];
        let mut queue = session.create_queue(&mut slots).during("create a queue")?;
        busy(lab, &session, &mut queue)?;
        stale = [session.handle(), queue.handle()];
        // The next turn's start resets the device in the middle of this.
    }
    let device = lab.start()?;
    let session = device.open_session().during("open a session after resets")?;
    let mut slots = [Slot::NEW; SLOTS];
    let mut queue = session.create_queue(&mut slots).during("create a queue after resets")?;
    busy(lab, &session, &mut queue)?;
    queue.idle(super::lab::PATIENCE).during("work after resets")?;
    Ok(Outcome::Harmless("everything is given back; old handles are bad_handle"))
}

pub(super) fn session<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    if !lab.granted.queue {
        return Ok(Outcome::Skipped("needs queues"));
    }
    let device = lab.start()?;
    for i in 0..10 {
        let session = device.open_session().during("open a session")?;
        let mut slots = [Slot::NEW; SLOTS];
        let mut queue = session.create_queue(&mut slots).during("create a queue")?;
        let (tokens, _) = busy(lab, &session, &mut queue)?;
        let handle = session.handle();
        session.close().during("close a session in use")?;
        for token in tokens.into_iter().flatten() {
            // Commands that were never fetched have no completion; all fetched ones have theirs.
            if let Some(done) = queue.poll(token).during("poll")? {
                among("a command of a closed session", i, done.status, CUT_SHORT)?;
            }
        }
        let args = op::session_close::Args { session: handle };
        among("closing it again", i, admin(&device, args)?.status, &[Status::BadHandle])?;
    }
    Ok(Outcome::Harmless("each fetched command ended once: ok or revoked"))
}

pub(super) fn queue<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    if !lab.granted.queue {
        return Ok(Outcome::Skipped("needs queues"));
    }
    let device = lab.start()?;
    let session = device.open_session().during("open a session")?;
    for i in 0..10 {
        let mut slots = [Slot::NEW; SLOTS];
        let mut queue = session.create_queue(&mut slots).during("create a queue")?;
        let (tokens, buffer) = busy(lab, &session, &mut queue)?;
        let destroy = op::queue_destroy::Args { queue: queue.handle() };
        among("destroying a busy queue", i, admin(&device, destroy)?.status, &[Status::Ok])?;
        for token in tokens.into_iter().flatten() {
            if let Some(done) = queue.poll(token).during("poll")? {
                among("a command of a destroyed queue", i, done.status, CUT_SHORT)?;
            }
        }
        among("destroying it again", i, admin(&device, destroy)?.status, &[Status::BadHandle])?;
        if let Some(buffer) = buffer {
            buffer.destroy().during("destroy its buffer")?;
        }
    }
    Ok(Outcome::Harmless("each fetched command ended once: ok or revoked"))
}

/// New memory is zero, whatever it held before: this tenant's own bytes stand for everybody's.
pub(super) fn stale_bytes<T: Transport, E: Env>(
    lab: &mut Lab<'_, T, E>,
) -> Result<Outcome, Failure> {
    if !lab.can_copy() {
        return Ok(Outcome::Skipped("needs copies"));
    }
    let both_ways = lab.granted.dma_read && lab.granted.dma_write;
    if !lab.granted.host && !both_ways {
        return Ok(Outcome::Skipped("the policy grants no way to look at bytes"));
    }
    let bytes = (lab.limits.memory_bytes / 8).clamp(BYTES, 1 << 20) / BYTES * BYTES;
    for round in 0..8 {
        // Through destroy, session close and reset: each way of giving memory back.
        let device = lab.start()?;
        let session = device.open_session().during("open a session")?;
        let mut slots = [Slot::NEW; SLOTS];
        let mut queue = session.create_queue(&mut slots).during("create a queue")?;
        for usage in [Usage::Device, Usage::Host] {
            let granted = match usage {
                Usage::Device => lab.granted.device,
                Usage::Host => lab.granted.host,
            };
            if !granted {
                continue;
            }
            for _ in 0..3 {
                let buffer = session.create_buffer(bytes, usage).during("create a buffer")?;
                staging::with(&session, lab.env, BYTES, |window| {
                    let mut chunk = [0; 512];
                    for at in (0..bytes).step_by(BYTES as usize) {
                        let token = queue.copy(window.at(0), buffer.at(at), BYTES);
                        let token = token.during("submit")?;
                        among("look at a buffer", at, finish(&mut queue, token)?, &[Status::Ok])?;
                        for part in (0..BYTES).step_by(512) {
                            window.read(part, &mut chunk)?;
                            let dirty = chunk.iter().position(|&b| b != 0);
                            if let Some(i) = dirty {
                                let here = at + part + i as u64;
                                same("a byte of a new buffer", here, chunk[i].into(), 0)?;
                            }
                        }
                        // Leave something behind.
                        window.write(0, &[0x5e; 512])?;
                        let token = queue.copy(buffer.at(at), window.at(0), BYTES);
                        let token = token.during("submit")?;
                        among("soil a buffer", at, finish(&mut queue, token)?, &[Status::Ok])?;
                    }
                    Ok(())
                })?;
                if round % 2 == 0 || lab.limits.buffers < 8 {
                    buffer.destroy().during("destroy a buffer")?;
                }
            }
        }
        if round % 3 == 0 {
            session.close().during("close the session")?;
        }
    }
    Ok(Outcome::Harmless("every byte of every new buffer was zero"))
}
