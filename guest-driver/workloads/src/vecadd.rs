//! Four kernels on the GPU, every element checked on the CPU.
//!
//! The numbers are small whole ones, so that sums and products are exact in any order and with or
//! without fused multiply-add.

use turnstile_abi::request::{Access, Format, Usage};
use turnstile_driver::{Buffer, DeviceManager, Function, Queue, Session, Slot, Token, Transport};

use crate::env::{Env, number};
use crate::failure::{During, Failure, same};
use crate::staging::{self, Staging};

const VECADD: &str = include_str!("../../../tests/kernels/ptx/vecadd.ptx");
const SAXPY: &str = include_str!("../../../tests/kernels/ptx/saxpy.ptx");
const REDUCE: &str = include_str!("../../../tests/kernels/ptx/reduce.ptx");

/// Longest wait for one command, in nanoseconds.
const PATIENCE: u64 = 30_000_000_000;
const THREADS: u64 = 256;

fn x(i: u64) -> f32 {
    (i % 251) as f32
}
fn y(i: u64) -> f32 {
    (i % 127) as f32 - 60.0
}

/// Runs the workload.
pub(crate) fn run<T: Transport, E: Env>(transport: &T, env: &E) -> Result<(), Failure> {
    let n = number(env, "n", 10_000).clamp(1, 1 << 20);
    let device = DeviceManager::start(transport).during("start the device")?;
    let limits = device.identify().during("identify")?;
    env.print(format_args!(
        "device: ABI {}.{}, {} bytes of memory, {} multiprocessors",
        device.version().major(),
        device.version().minor(),
        limits.memory_bytes,
        limits.multiprocessors
    ));
    let session = device.open_session().during("open a session")?;
    let mut slots = [Slot::NEW; 16];
    let mut queue = session.create_queue(&mut slots).during("create a queue")?;
    staging::with(&session, env, n * 4, |staging| {
        env.print(format_args!("staging: {}", staging.kind()));
        kernels(env, &session, &mut queue, staging, n)
    })?;
    queue.destroy().during("destroy the queue")?;
    session.close().during("close the session")
}

/// Launches a kernel over `n` elements, in at most `most` blocks.
fn blocks(n: u64, most: u64) -> [u32; 3] {
    [n.div_ceil(THREADS).min(most) as u32, 1, 1]
}

fn kernels<T: Transport, E: Env>(
    env: &E,
    session: &Session<'_, T>,
    queue: &mut Queue<'_, T>,
    staging: &Staging<'_, T, E::Memory>,
    n: u64,
) -> Result<(), Failure> {
    let create = || session.create_buffer(n * 4, Usage::Device).during("create a buffer");
    let (a, b, c) = (create()?, create()?, create()?);
    let sum = session.create_buffer(64, Usage::Device).during("create a buffer")?;
    upload(queue, staging, &a, n, |i| x(i).to_bits())?;
    upload(queue, staging, &b, n, |i| y(i).to_bits())?;
    let threads = [THREADS as u16, 1, 1];

    with_kernel(session, VECADD, "vecadd", |vecadd| {
        let mut launch = vecadd.launch(blocks(n, u64::MAX), threads).during("launch vecadd")?;
        launch
            .buffer(&a, 0, Access::Read)
            .and_then(|l| l.buffer(&b, 0, Access::Read))
            .and_then(|l| l.buffer(&c, 0, Access::Write))
            .and_then(|l| l.value(n as u32))
            .during("arguments of vecadd")?;
        let token = queue.launch(launch);
        let ns = finish(queue, token, "vecadd")?;
        check(queue, staging, &c, n, "vecadd", |i| (x(i) + y(i)).to_bits())?;
        env.print(format_args!("vecadd: {n} elements right, {ns} ns"));
        Ok(())
    })?;

    with_kernel(session, SAXPY, "saxpy", |saxpy| {
        let mut launch = saxpy.launch(blocks(n, 16), threads).during("launch saxpy")?;
        launch
            .value(3.0_f32)
            .and_then(|l| l.buffer(&a, 0, Access::Read))
            .and_then(|l| l.buffer(&b, 0, Access::ReadWrite))
            .and_then(|l| l.value(n as u32))
            .during("arguments of saxpy")?;
        let token = queue.launch(launch);
        let ns = finish(queue, token, "saxpy")?;
        check(queue, staging, &b, n, "saxpy", |i| (3.0 * x(i) + y(i)).to_bits())?;
        env.print(format_args!("saxpy: {n} elements right, {ns} ns"));
        Ok(())
    })?;

    // The sum of x stays below 2^24, the last whole number that all smaller ones are exact up to.
    let m = n.min(60_000);
    let total: u64 = (0..m).map(|i| i % 251).sum();
    let reduce = |queue: &mut Queue<'_, T>, f: &Function<'_, T>, what| {
        // Memory of a new buffer is zero, and that is what the sum starts from.
        let mut launch = f.launch(blocks(m, 8), threads).during(what)?;
        launch
            .buffer(&a, 0, Access::Read)
            .and_then(|l| {
                l.buffer(&sum, if what == "reduce_f32" { 0 } else { 4 }, Access::ReadWrite)
            })
            .and_then(|l| l.value(m as u32))
            .during(what)?;
        let token = queue.launch(launch);
        finish(queue, token, what)
    };
    with_kernel(session, REDUCE, "reduce_f32", |f| reduce(queue, f, "reduce_f32").map(drop))?;
    upload(queue, staging, &a, n, |i| (i % 251) as u32)?;
    with_kernel(session, REDUCE, "reduce_u32", |f| reduce(queue, f, "reduce_u32").map(drop))?;
    let sums = [(total as f32).to_bits(), total as u32];
    check(queue, staging, &sum, 2, "reduce", |i| sums[i as usize])?;
    env.print(format_args!("reduce: sums of {m} elements right"));

    for buffer in [a, b, c, sum] {
        buffer.destroy().during("destroy a buffer")?;
    }
    Ok(())
}

fn with_kernel<T: Transport>(
    session: &Session<'_, T>,
    image: &str,
    name: &'static str,
    body: impl FnOnce(&Function<'_, T>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let program = session.load_program(image.as_bytes(), Format::Ptx).during(name)?;
    let function = program.function(name).during(name)?;
    body(&function)?;
    function.release().during(name)?;
    program.unload().during(name)
}

fn finish<T: Transport>(
    queue: &mut Queue<'_, T>,
    token: Result<Token, turnstile_driver::Error>,
    what: &'static str,
) -> Result<u64, Failure> {
    token.and_then(|token| queue.wait(token, PATIENCE)).map(|done| done.value).during(what)
}

/// Puts `n` words into a buffer through staging memory.
fn upload<T: Transport, M: turnstile_abi::SharedMemory>(
    queue: &mut Queue<'_, T>,
    staging: &Staging<'_, T, M>,
    buffer: &Buffer<'_, T>,
    n: u64,
    word: impl Fn(u64) -> u32,
) -> Result<(), Failure> {
    for i in 0..n {
        staging.write(i * 4, &word(i).to_le_bytes())?;
    }
    let token = queue.copy(buffer.at(0), staging.at(0), n * 4);
    finish(queue, token, "copy to the device").map(drop)
}

/// Fetches `n` words of a buffer through staging memory and checks each.
fn check<T: Transport, M: turnstile_abi::SharedMemory>(
    queue: &mut Queue<'_, T>,
    staging: &Staging<'_, T, M>,
    buffer: &Buffer<'_, T>,
    n: u64,
    what: &'static str,
    word: impl Fn(u64) -> u32,
) -> Result<(), Failure> {
    let token = queue.copy(staging.at(0), buffer.at(0), n * 4);
    finish(queue, token, "copy from the device")?;
    for i in 0..n {
        let mut bytes = [0; 4];
        staging.read(i * 4, &mut bytes)?;
        same(what, i, u32::from_le_bytes(bytes).into(), word(i).into())?;
    }
    Ok(())
}
