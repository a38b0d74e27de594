//! Bytes on every path the policy grants: own pages in and out, host-visible buffers, device
//! buffers, fills, fences across two queues. What comes back is checked byte by byte.

use turnstile_abi::launch::DmaExtent;
use turnstile_abi::memory::SharedMemory;
use turnstile_abi::regs::PAGE;
use turnstile_abi::request::{Access, Usage};
use turnstile_driver::{
    Buffer, DeviceManager, DmaRegion, Error, Pattern, Queue, Session, Slot, Token, Transport,
};

use crate::env::{Env, number};
use crate::failure::{During, Failure, if_granted, same};
use crate::staging::Staging;

const PATIENCE: u64 = 30_000_000_000;
const CHUNK: usize = 512;

/// The byte at `i` of the pattern number `n`: no period that a mixed-up page would hide in.
fn byte(n: u64, i: u64) -> u8 {
    (i.wrapping_mul(0x9e37_79b9).wrapping_add(i >> 8).wrapping_add(n.wrapping_mul(0x51)) >> 3) as u8
}

/// Runs the workload.
pub(crate) fn run<T: Transport, E: Env>(transport: &T, env: &E) -> Result<(), Failure> {
    let asked = number(env, "bytes", 65_536).next_multiple_of(PAGE);
    let device = DeviceManager::start(transport).during("start the device")?;
    let limits = device.identify().during("identify")?;
    let bytes = asked.min(limits.memory_bytes / 4 / PAGE * PAGE);
    if bytes == 0 {
        return Err(Failure::Needs("16 KiB of buffers"));
    }
    let session = device.open_session().during("open a session")?;
    let mut slots = [Slot::NEW; 16];
    let mut queue = session.create_queue(&mut slots).during("create a queue")?;

    // Every way in and out that the policy grants.
    let host =
        if_granted("create a host-visible buffer", session.create_buffer(bytes, Usage::Host))?;
    let mapping = host.as_ref().map(Buffer::map).transpose().during("map")?;
    let pages = env.pages();
    let mut regions = [None, None];
    if let Some(pages) = &pages {
        let half = (pages.memory.size() / 2 / PAGE * PAGE).min(bytes).min(limits.dma_bytes / 2);
        let extent = |i: u64| DmaExtent { gpa: pages.gpa + i * half, bytes: half };
        if half > 0 && limits.dma_bytes > 0 {
            for (i, first, second) in
                [(0, Access::ReadWrite, Access::Read), (1, Access::Write, Access::Write)]
            {
                regions[i as usize] = register(&session, extent(i), first, second)?;
            }
        }
    }
    {
        let mut ways: [Option<Staging<'_, &T, E::Memory>>; 3] = [None, None, None];
        if let (Some(host), Some(mapping)) = (&host, &mapping) {
            ways[0] = Some(Staging::mapped(host.handle(), mapping));
        }
        if let Some(pages) = &pages {
            let mut base = 0;
            for (way, region) in ways[1..].iter_mut().zip(&regions) {
                if let Some(region) = region {
                    *way = Some(Staging::pages(region, pages.memory, base));
                }
                base +=
                    (pages.memory.size() / 2 / PAGE * PAGE).min(bytes).min(limits.dma_bytes / 2);
            }
        }
        let ends = Ends {
            ways,
            readable: [true, regions[0].is_some(), false],
            writable: [
                true,
                regions[0].as_ref().is_some_and(|r| r.access() != Access::Read),
                regions[1].is_some(),
            ],
            lengths: [bytes, region_bytes(&regions[0]), region_bytes(&regions[1])],
        };
        through_buffers(env, &session, &mut queue, &ends, bytes)?;
    }

    for region in regions.into_iter().flatten() {
        region.unregister().during("unregister pages")?;
    }
    if let Some(mapping) = mapping {
        mapping.unmap().during("unmap")?;
    }
    if let Some(host) = host {
        host.destroy().during("destroy the host-visible buffer")?;
    }
    if limits.queues >= 2 {
        fences(env, &session, &mut queue)?;
    }
    queue.destroy().during("destroy the queue")?;
    session.close().during("close the session")
}

fn region_bytes<T: Transport>(region: &Option<DmaRegion<'_, T>>) -> u64 {
    region.as_ref().map_or(0, DmaRegion::bytes)
}

/// Registers with the first access the policy grants of two.
fn register<'d, T: Transport>(
    session: &Session<'d, T>,
    extent: DmaExtent,
    first: Access,
    second: Access,
) -> Result<Option<DmaRegion<'d, T>>, Failure> {
    let what = "register pages";
    match if_granted(what, session.register_dma(&[extent], first))? {
        Some(region) => Ok(Some(region)),
        None if first != second => if_granted(what, session.register_dma(&[extent], second)),
        None => Ok(None),
    }
}

/// Where bytes come from and go to.
struct Ends<'s, T: Transport, M> {
    ways: [Option<Staging<'s, T, M>>; 3],
    /// The device may read it: it can be a source.
    readable: [bool; 3],
    /// The device may write it: it can be a destination.
    writable: [bool; 3],
    lengths: [u64; 3],
}

fn through_buffers<T: Transport, E: Env>(
    env: &E,
    session: &Session<'_, T>,
    queue: &mut Queue<'_, T>,
    ends: &Ends<'_, T, E::Memory>,
    bytes: u64,
) -> Result<(), Failure> {
    let create = |what| session.create_buffer(bytes, Usage::Device).during(what);
    let (a, b) = (create("create a buffer")?, create("create another buffer")?);
    let mut number = 1;
    let mut checked = 0;
    let mut unchecked = 0;
    for (from, source) in ends.ways.iter().enumerate() {
        let Some(source) = source.as_ref().filter(|_| ends.readable[from]) else { continue };
        let mut back = false;
        for (to, sink) in ends.ways.iter().enumerate() {
            let Some(sink) = sink.as_ref().filter(|_| ends.writable[to]) else { continue };
            let length = ends.lengths[from].min(ends.lengths[to]).min(bytes);
            // Whole, and a piece with no alignment at all.
            for (offset, length) in [(0, length), (1, 1), (4093, length.saturating_sub(4096 + 7))] {
                if length == 0 || offset + length > ends.lengths[from].min(ends.lengths[to]) {
                    continue;
                }
                number += 1;
                put(source, offset, length, |i| byte(number, i))?;
                run_copy(queue, |q| q.copy(a.at(offset), source.at(offset), length))?;
                run_copy(queue, |q| q.copy(b.at(0), a.at(offset), length))?;
                // What the sink held before must not pass for the result.
                put(sink, offset, length, |i| !byte(number, i))?;
                run_copy(queue, |q| q.copy(sink.at(offset), b.at(0), length))?;
                check("bytes that came back", sink, offset, length, |i| byte(number, i))?;
                checked += length;
            }
            back = true;
            fills(queue, &b, sink, ends.lengths[to].min(bytes))?;
            env.print(format_args!("{} -> buffers -> {}: right", source.kind(), sink.kind()));
        }
        if !back {
            put(source, 0, ends.lengths[from].min(bytes), |i| byte(0, i))?;
            let length = ends.lengths[from].min(bytes);
            run_copy(queue, |q| q.copy(a.at(0), source.at(0), length))?;
            run_copy(queue, |q| q.copy(b.at(0), a.at(0), length))?;
            unchecked += length;
        }
    }
    a.destroy().during("destroy a buffer")?;
    b.destroy().during("destroy a buffer")?;
    if checked == 0 && unchecked == 0 {
        return Err(Failure::Needs("pages or host-visible buffers to copy from"));
    }
    if checked == 0 {
        env.print(format_args!(
            "{unchecked} bytes copied; the policy grants no way back, so none were compared"
        ));
    } else {
        env.print(format_args!("{checked} bytes came back right"));
    }
    Ok(())
}

/// Fills of every width, if they are granted.
fn fills<T: Transport, M: SharedMemory>(
    queue: &mut Queue<'_, T>,
    buffer: &Buffer<'_, T>,
    sink: &Staging<'_, T, M>,
    length: u64,
) -> Result<(), Failure> {
    let length = length.min(4096);
    let patterns = [
        Pattern::U8(0x5a),
        Pattern::U16(0x1234),
        Pattern::U32(0xdead_beef),
        Pattern::U64(0x0123_4567_89ab_cdef),
    ];
    for pattern in patterns {
        let (value, width) = pattern.parts();
        let Some(clear) = granted_copy(queue, |q| q.fill(buffer.at(0), length, Pattern::U8(0)))?
        else {
            return Ok(());
        };
        same("bytes filled", 0, clear, length)?;
        // All but the first and the last element.
        let (start, end) = (width, length - width);
        run_copy(queue, |q| q.fill(buffer.at(start), end - start, pattern))?;
        run_copy(queue, |q| q.copy(sink.at(0), buffer.at(0), length))?;
        let bytes = value.to_le_bytes();
        check("filled bytes", sink, 0, length, |i| {
            if i < start || i >= end { 0 } else { bytes[(i % width) as usize] }
        })?;
    }
    Ok(())
}

/// Two queues, ordered by a fence only.
fn fences<T: Transport, E: Env>(
    env: &E,
    session: &Session<'_, T>,
    first: &mut Queue<'_, T>,
) -> Result<(), Failure> {
    let Some(fence) = if_granted("create a fence", session.create_fence(5))? else { return Ok(()) };
    same("value of a new fence", 0, fence.value().during("read a fence")?.unwrap_or(0), 5)?;
    let mut slots = [Slot::NEW; 16];
    let mut second = session.create_queue(&mut slots).during("create a second queue")?;
    for round in 6..16 {
        // The waiter goes first, so that only the fence can hold it.
        let wait = second.wait_fence(&fence, round, PATIENCE).during("submit a wait")?;
        let after = second.nop().during("submit a nop")?;
        second.ring().during("ring")?;
        for _ in 0..200 {
            if second.poll(after).during("poll")?.is_some() {
                return Err(Failure::Not("a command overtook the wait before it"));
            }
        }
        let signal = first.signal(&fence, round).during("submit a signal")?;
        let done = first.wait(signal, PATIENCE).during("signal")?;
        same("value after a signal", round, done.value, round)?;
        let done = second.wait(wait, PATIENCE).during("wait for the fence")?;
        same("value after a wait", round, done.value, round)?;
        second.wait(after, PATIENCE).during("nop after the wait")?;
        let seen = fence.value().during("read a fence")?.unwrap_or(0);
        same("mirror of the fence", round, seen, round)?;
    }
    second.destroy().during("destroy the second queue")?;
    fence.destroy().during("destroy the fence")?;
    env.print(format_args!("fences: ten waits across two queues, in order"));
    Ok(())
}

fn run_copy<T: Transport>(
    queue: &mut Queue<'_, T>,
    submit: impl FnOnce(&mut Queue<'_, T>) -> Result<Token, Error>,
) -> Result<u64, Failure> {
    let token = submit(queue).during("submit")?;
    queue.wait(token, PATIENCE).map(|done| done.value).during("move bytes")
}

fn granted_copy<T: Transport>(
    queue: &mut Queue<'_, T>,
    submit: impl FnOnce(&mut Queue<'_, T>) -> Result<Token, Error>,
) -> Result<Option<u64>, Failure> {
    let token = submit(queue).during("submit")?;
    let done = if_granted("move bytes", queue.wait(token, PATIENCE))?;
    Ok(done.map(|done| done.value))
}

fn put<T: Transport, M: SharedMemory>(
    staging: &Staging<'_, T, M>,
    offset: u64,
    length: u64,
    byte: impl Fn(u64) -> u8,
) -> Result<(), Failure> {
    let mut chunk = [0; CHUNK];
    let mut at = 0;
    while at < length {
        let step = (length - at).min(CHUNK as u64);
        for (i, b) in chunk[..step as usize].iter_mut().enumerate() {
            *b = byte(at + i as u64);
        }
        staging.write(offset + at, &chunk[..step as usize])?;
        at += step;
    }
    Ok(())
}

fn check<T: Transport, M: SharedMemory>(
    what: &'static str,
    staging: &Staging<'_, T, M>,
    offset: u64,
    length: u64,
    byte: impl Fn(u64) -> u8,
) -> Result<(), Failure> {
    let mut chunk = [0; CHUNK];
    let mut at = 0;
    while at < length {
        let step = (length - at).min(CHUNK as u64);
        staging.read(offset + at, &mut chunk[..step as usize])?;
        for (i, &b) in chunk[..step as usize].iter().enumerate() {
            let i = at + i as u64;
            same(what, i, b.into(), byte(i).into())?;
        }
        at += step;
    }
    Ok(())
}
