//! A random mix of every operation, against a model of what memory must hold.
//!
//! Commands go out in batches on one queue, which runs them in order, so the model is applied in
//! the same order. Some are wrong on purpose (`mischief`, in percent); each of those must end with
//! the one status that the model predicts and change nothing.

use turnstile_abi::launch::DmaExtent;
use turnstile_abi::memory::{SharedMemory, contains};
use turnstile_abi::regs::PAGE;
use turnstile_abi::request::{Access, Usage};
use turnstile_abi::{Handle, Rights, Status};
use turnstile_driver::{
    Buffer, DeviceManager, Fence, Pattern, Place, Queue, Session, Slot, Token, Transport,
};

use crate::env::{Env, number};
use crate::failure::{During, Failure, among, if_granted, same};
use crate::random::Random;
use crate::staging::Staging;

const PATIENCE: u64 = 30_000_000_000;
/// Size of every object.
const BYTES: usize = 4096;
/// Device buffers, then a host-visible one, then a region, as far as the policy grants them.
const OBJECTS: usize = 5;
const BATCH: usize = 16;

/// One object and what it must hold.
struct Object<'d, T: Transport> {
    handle: Handle,
    buffer: Option<Buffer<'d, T>>,
    bytes: [u8; BYTES],
}

/// What a command must end with.
#[derive(Clone, Copy)]
struct Expected {
    token: Token,
    status: Status,
    value: Option<u64>,
}

/// Counts of what was done.
#[derive(Default)]
struct Tally {
    work: u64,
    refused: u64,
    admin: u64,
    compared: u64,
}

/// Runs the workload.
pub(crate) fn run<T: Transport, E: Env>(transport: &T, env: &E) -> Result<(), Failure> {
    let n = number(env, "n", 2000).clamp(1, 10_000_000);
    let seed = number(env, "seed", 1);
    let mischief = number(env, "mischief", 5).min(100);
    let device = DeviceManager::start(transport).during("start the device")?;
    let limits = device.identify().during("identify")?;
    let session = device.open_session().during("open a session")?;
    let mut slots = [Slot::NEW; BATCH];
    let queue = session.create_queue(&mut slots).during("create a queue")?;
    let window = session.create_buffer(BYTES as u64, Usage::Host).during("create the window")?;
    let mapping = window.map().during("map the window")?;
    let mut stress = Stress {
        env,
        session: &session,
        queue,
        window: Staging::mapped(window.handle(), &mapping),
        random: Random::new(seed),
        objects: [const { None }; OBJECTS],
        fence: if_granted("create a fence", session.create_fence(0))?,
        fence_value: 0,
        clock: 0,
        fill: true,
        mischief,
        tally: Tally::default(),
    };
    // One buffer is the window; leave room for the rest as the quota has it.
    let count = OBJECTS.min(limits.buffers.saturating_sub(1) as usize).max(1);
    for i in 0..count {
        stress.objects[i] = Some(stress.create()?);
    }
    env.print(format_args!("seed {seed}, {n} commands, {count} objects"));
    while stress.tally.work < n {
        stress.batch()?;
        if stress.random.chance(30) {
            stress.admin(count)?;
        }
        if stress.random.chance(10) {
            stress.compare(None)?;
        }
    }
    stress.compare(Some(()))?;
    stress.finish()?;
    mapping.unmap().during("unmap the window")?;
    window.destroy().during("destroy the window")?;
    session.close().during("close the session")
}

struct Stress<'d, T: Transport, E: Env> {
    env: &'d E,
    session: &'d Session<'d, T>,
    queue: Queue<'d, T>,
    window: Staging<'d, T, E::Memory>,
    random: Random,
    objects: [Option<Object<'d, T>>; OBJECTS],
    fence: Option<Fence<'d, T>>,
    fence_value: u64,
    clock: u64,
    /// Whether fills are granted; found out by the first.
    fill: bool,
    mischief: u64,
    tally: Tally,
}

impl<'d, T: Transport, E: Env> Stress<'d, T, E> {
    fn create(&mut self) -> Result<Object<'d, T>, Failure> {
        let usage = if self.random.chance(25) { Usage::Host } else { Usage::Device };
        let buffer = self.session.create_buffer(BYTES as u64, usage).during("create a buffer")?;
        Ok(Object { handle: buffer.handle(), buffer: Some(buffer), bytes: [0; BYTES] })
    }

    /// A live object's index.
    fn any(&mut self) -> usize {
        loop {
            let i = self.random.below(OBJECTS as u64) as usize;
            if self.objects[i].is_some() {
                return i;
            }
        }
    }

    fn place(&self, i: usize, offset: u64) -> Place {
        let handle = self.objects[i].as_ref().map_or(Handle::NULL, |o| o.handle);
        Place { handle, offset }
    }

    /// Submits a batch, applies it to the model, and checks how each command ended.
    fn batch(&mut self) -> Result<(), Failure> {
        let mut expected = [None; BATCH];
        let count = 1 + self.random.below(BATCH as u64) as usize;
        for slot in expected.iter_mut().take(count) {
            *slot = Some(self.command()?);
            self.tally.work += 1;
        }
        for Expected { token, status, value } in expected.into_iter().flatten() {
            let done = self.queue.complete(token, PATIENCE).during("wait for a command")?;
            if done.status == Status::Denied && status.is_ok() {
                return Err(Failure::Needs("copies and fills"));
            }
            among("a command", self.tally.work, done.status, &[status])?;
            if status.is_ok() {
                if let Some(value) = value {
                    same("result of a command", self.tally.work, done.value, value)?;
                }
            } else {
                self.tally.refused += 1;
            }
        }
        Ok(())
    }

    fn command(&mut self) -> Result<Expected, Failure> {
        match self.random.below(10) {
            0..4 => self.copy(),
            4..7 if self.fill => self.fill(),
            7 if self.fence.is_some() => self.signal(),
            8 if self.fence.is_some() => self.wait(),
            9 => {
                let token = self.queue.timestamp().during("submit a timestamp")?;
                let done = self.queue.complete(token, PATIENCE).during("timestamp")?;
                among("timestamp", 0, done.status, &[Status::Ok])?;
                if done.value < self.clock {
                    return Err(Failure::Not("the device clock went backwards"));
                }
                self.clock = done.value;
                self.nop()
            }
            _ => self.nop(),
        }
    }

    fn nop(&mut self) -> Result<Expected, Failure> {
        let token = self.queue.nop().during("submit a nop")?;
        Ok(Expected { token, status: Status::Ok, value: Some(0) })
    }

    /// A length and an offset; out of range now and then.
    fn range(&mut self) -> (u64, u64) {
        if self.random.chance(self.mischief) {
            let wild = 1 << self.random.below(64);
            return (self.random.below(8192), wild);
        }
        let length = 1 + self.random.below(BYTES as u64);
        (self.random.below(BYTES as u64 - length + 1), length)
    }

    fn copy(&mut self) -> Result<Expected, Failure> {
        let (to, from) = (self.any(), self.any());
        let (src_offset, bytes) = self.range();
        let room = (BYTES as u64).saturating_sub(bytes) + 1;
        let dst_offset = self.random.below(room);
        let (dst, src) = (self.place(to, dst_offset), self.place(from, src_offset));
        let token = self.queue.copy(dst, src, bytes).during("submit a copy")?;
        let inside = bytes > 0
            && contains(BYTES as u64, src_offset, bytes)
            && contains(BYTES as u64, dst_offset, bytes);
        let overlap = to == from && dst_offset.abs_diff(src_offset) < bytes;
        if !inside || overlap {
            return Ok(Expected { token, status: Status::OutOfRange, value: None });
        }
        let mut moved = [0; BYTES];
        let moved = &mut moved[..bytes as usize];
        if let Some(from) = &self.objects[from] {
            moved.copy_from_slice(&from.bytes[src_offset as usize..][..bytes as usize]);
        }
        if let Some(to) = &mut self.objects[to] {
            to.bytes[dst_offset as usize..][..bytes as usize].copy_from_slice(moved);
        }
        Ok(Expected { token, status: Status::Ok, value: Some(bytes) })
    }

    fn fill(&mut self) -> Result<Expected, Failure> {
        let to = self.any();
        let word = self.random.bits();
        let pattern = match self.random.below(4) {
            0 => Pattern::U8(word as u8),
            1 => Pattern::U16(word as u16),
            2 => Pattern::U32(word as u32),
            _ => Pattern::U64(word),
        };
        let (value, width) = pattern.parts();
        let (mut offset, mut bytes) = self.range();
        if !self.random.chance(self.mischief) {
            offset -= offset % width;
            bytes -= bytes % width;
        }
        let token =
            self.queue.fill(self.place(to, offset), bytes, pattern).during("submit a fill")?;
        let good = bytes > 0
            && offset.is_multiple_of(width)
            && bytes.is_multiple_of(width)
            && contains(BYTES as u64, offset, bytes);
        if !good {
            return Ok(Expected { token, status: Status::OutOfRange, value: None });
        }
        if let Some(to) = &mut self.objects[to] {
            let element = value.to_le_bytes();
            let range = &mut to.bytes[offset as usize..][..bytes as usize];
            for chunk in range.chunks_exact_mut(width as usize) {
                chunk.copy_from_slice(&element[..width as usize]);
            }
        }
        Ok(Expected { token, status: Status::Ok, value: Some(bytes) })
    }

    fn signal(&mut self) -> Result<Expected, Failure> {
        let Some(fence) = &self.fence else { return self.nop() };
        let back = self.fence_value > 0 && self.random.chance(self.mischief);
        let to = match back {
            true => self.random.below(self.fence_value),
            false => self.fence_value + self.random.below(3),
        };
        let token = self.queue.signal(fence, to).during("submit a signal")?;
        if back {
            return Ok(Expected { token, status: Status::OutOfRange, value: None });
        }
        self.fence_value = to;
        Ok(Expected { token, status: Status::Ok, value: Some(to) })
    }

    /// Waits for a value the fence has reached by then, or (mischief) for one it never reaches.
    fn wait(&mut self) -> Result<Expected, Failure> {
        let Some(fence) = &self.fence else { return self.nop() };
        if self.random.chance(self.mischief) {
            let token = self.queue.wait_fence(fence, u64::MAX, 20_000).during("submit a wait")?;
            return Ok(Expected { token, status: Status::Timeout, value: None });
        }
        let value = self.random.below(self.fence_value + 1);
        let token = self.queue.wait_fence(fence, value, PATIENCE).during("submit a wait")?;
        Ok(Expected { token, status: Status::Ok, value: Some(self.fence_value) })
    }

    /// Something on the admin queue: replace an object, derive and close, map, register.
    fn admin(&mut self, count: usize) -> Result<(), Failure> {
        self.tally.admin += 1;
        let i = self.random.below(count as u64) as usize;
        match self.random.below(4) {
            0 => {
                let old = self.objects[i].take().and_then(|o| o.buffer);
                let stale = old.as_ref().map(|b| b.at(0));
                if let Some(old) = old {
                    old.destroy().during("destroy a buffer")?;
                }
                if let Some(stale) = stale.filter(|_| self.mischief > 0) {
                    let to = self.window.at(0);
                    let token = self.queue.copy(to, stale, 1).during("submit a stale copy")?;
                    let done = self.queue.complete(token, PATIENCE).during("stale copy")?;
                    among("a copy from a closed buffer", 0, done.status, &[Status::BadHandle])?;
                    self.tally.refused += 1;
                }
                let new = self.create()?;
                self.objects[i] = Some(new);
            }
            1 => {
                let Some(buffer) = self.objects[i].as_ref().and_then(|o| o.buffer.as_ref()) else {
                    return Ok(());
                };
                let rights = Rights::READ | Rights::CLOSE;
                let Some(weak) = if_granted("derive", buffer.derive(rights))? else {
                    return Ok(());
                };
                let (weak_place, window) = (weak.at(0), self.window.at(0));
                let read = self.queue.copy(window, weak_place, BYTES as u64).during("submit")?;
                let write = self.queue.copy(weak_place, window, 1).during("submit")?;
                let read = self.queue.complete(read, PATIENCE).during("read a derived buffer")?;
                among("a read through a read capability", 0, read.status, &[Status::Ok])?;
                let write = self.queue.complete(write, PATIENCE).during("write")?;
                among("a write through a read capability", 0, write.status, &[Status::NoRight])?;
                self.tally.refused += 1;
                weak.destroy().during("close a derived capability")?;
            }
            2 => self.pages(i)?,
            _ => {
                self.session.device().identify().during("identify")?;
            }
        }
        Ok(())
    }

    /// Registers a page, moves an object through it and back, unregisters it.
    fn pages(&mut self, i: usize) -> Result<(), Failure> {
        let env = self.env;
        let Some(pages) = env.pages() else { return Ok(()) };
        let page = self.random.below(pages.memory.size() / PAGE) * PAGE;
        let extent = DmaExtent { gpa: pages.gpa + page, bytes: PAGE };
        let registered = self.session.register_dma(&[extent], Access::ReadWrite);
        let Some(region) = if_granted("register a page", registered)? else { return Ok(()) };
        let object = self.place(i, 0);
        let out = self.queue.copy(region.at(0), object, PAGE).during("submit")?;
        let out = self.queue.complete(out, PATIENCE).during("copy to a page")?;
        among("a copy to a page", 0, out.status, &[Status::Ok])?;
        let mut held = [0; BYTES];
        pages.memory.read(page, &mut held).map_err(turnstile_driver::Error::from).during("read")?;
        if let Some(object) = &self.objects[i] {
            compare("a page", &held, &object.bytes)?;
        }
        let back = self.queue.copy(object, region.at(0), PAGE).during("submit")?;
        let back = self.queue.complete(back, PATIENCE).during("copy from a page")?;
        among("a copy from a page", 0, back.status, &[Status::Ok])?;
        region.unregister().during("unregister a page")
    }

    /// Compares one object, or all, with the model.
    fn compare(&mut self, all: Option<()>) -> Result<(), Failure> {
        let range = match all {
            Some(()) => 0..OBJECTS,
            None => {
                let i = self.any();
                i..i + 1
            }
        };
        for i in range {
            if self.objects[i].is_none() {
                continue;
            }
            let (to, from) = (self.window.at(0), self.place(i, 0));
            let token = self.queue.copy(to, from, BYTES as u64).during("submit")?;
            self.queue.wait(token, PATIENCE).during("copy to the window")?;
            let mut held = [0; BYTES];
            self.window.read(0, &mut held)?;
            if let Some(object) = &self.objects[i] {
                compare("an object", &held, &object.bytes)?;
                self.tally.compared += 1;
            }
        }
        if let Some(fence) = &self.fence {
            let value = fence.value().during("read the fence")?.unwrap_or(0);
            same("the fence", 0, value, self.fence_value)?;
        }
        Ok(())
    }

    fn finish(self) -> Result<(), Failure> {
        let Tally { work, refused, admin, compared } = self.tally;
        self.env.print(format_args!(
            "{work} commands, {admin} admin commands, {refused} refused as expected, \
             {compared} objects compared"
        ));
        self.queue.destroy().during("destroy the queue")?;
        for object in self.objects.into_iter().flatten() {
            if let Some(buffer) = object.buffer {
                buffer.destroy().during("destroy a buffer")?;
            }
        }
        match self.fence {
            Some(fence) => fence.destroy().during("destroy the fence"),
            None => Ok(()),
        }
    }
}

fn compare(what: &'static str, got: &[u8], want: &[u8]) -> Result<(), Failure> {
    match got.iter().zip(want).position(|(a, b)| a != b) {
        Some(i) => same(what, i as u64, got[i].into(), want[i].into()),
        None => Ok(()),
    }
}
