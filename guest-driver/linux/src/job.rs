//! One kernel, from host memory to host memory: what a program without a Rust driver wants.

use turnstile_abi::request::{Access, Format, Usage};
use turnstile_driver::{Buffer, DeviceManager, Error, Queue, Slot, Transport};

/// An argument of a kernel.
#[derive(Debug)]
pub enum Argument<'a> {
    /// A number of 1, 2, 4 or 8 bytes, little-endian.
    Value(&'a [u8]),
    /// Memory the kernel reads.
    In(&'a [u8]),
    /// Memory the kernel writes.
    Out(&'a mut [u8]),
    /// Memory the kernel reads and writes.
    InOut(&'a mut [u8]),
}

impl Argument<'_> {
    fn memory(&self) -> Option<(u64, Access)> {
        let (bytes, access) = match self {
            Argument::Value(_) => return None,
            Argument::In(data) => (data.len(), Access::Read),
            Argument::Out(data) => (data.len(), Access::Write),
            Argument::InOut(data) => (data.len(), Access::ReadWrite),
        };
        Some((bytes as u64, access))
    }
}

/// A kernel to run.
#[derive(Debug)]
pub struct Job<'a> {
    /// The module, PTX.
    pub ptx: &'a [u8],
    /// The kernel in it.
    pub kernel: &'a str,
    /// Blocks of the grid.
    pub blocks: [u32; 3],
    /// Threads of a block.
    pub threads: [u16; 3],
    /// Dynamic shared memory, in bytes.
    pub shared_bytes: u32,
    /// Longest wait for the kernel, in nanoseconds.
    pub timeout_ns: u64,
}

/// Resets the device, runs a kernel on it in a session of its own, and closes that again. Memory
/// arguments are copied to the device before and, those it may write, back after.
///
/// # Errors
/// The driver's: what the policy refused, or what failed.
pub fn run<T: Transport>(
    transport: &T,
    job: &Job<'_>,
    args: &mut [Argument<'_>],
) -> Result<(), Error> {
    let device = DeviceManager::start(transport)?;
    let session = device.open_session()?;
    let mut slots = [Slot::NEW; 4];
    let mut queue = session.create_queue(&mut slots)?;
    let program = session.load_program(job.ptx, Format::Ptx)?;
    let function = program.function(job.kernel)?;
    let most = args.iter().filter_map(|arg| arg.memory()).map(|(bytes, _)| bytes).max();
    let staging = session.create_buffer(most.unwrap_or(1).max(1), Usage::Host)?;
    let mut buffers = Vec::with_capacity(args.len());
    for arg in &*args {
        let buffer = match arg.memory() {
            Some((bytes, _)) => Some(session.create_buffer(bytes.max(1), Usage::Device)?),
            None => None,
        };
        if let (Some(buffer), Argument::In(data)) = (&buffer, arg) {
            upload(&mut queue, &staging, buffer, data, job.timeout_ns)?;
        }
        if let (Some(buffer), Argument::InOut(data)) = (&buffer, arg) {
            upload(&mut queue, &staging, buffer, data, job.timeout_ns)?;
        }
        buffers.push(buffer);
    }
    let mut launch = function.launch(job.blocks, job.threads)?;
    launch.shared(job.shared_bytes);
    for (arg, buffer) in args.iter().zip(&buffers) {
        match (arg, buffer, arg.memory()) {
            (Argument::Value(data), ..) => match **data {
                [a] => launch.value(a)?,
                [a, b] => launch.value(u16::from_le_bytes([a, b]))?,
                [a, b, c, d] => launch.value(u32::from_le_bytes([a, b, c, d]))?,
                _ => {
                    let mut word = [0; 8];
                    word.iter_mut().zip(*data).for_each(|(w, d)| *w = *d);
                    launch.value(u64::from_le_bytes(word))?
                }
            },
            (_, Some(buffer), Some((_, access))) => launch.buffer(buffer, 0, access)?,
            _ => continue,
        };
    }
    let token = queue.launch(launch)?;
    queue.wait(token, job.timeout_ns)?;
    for (arg, buffer) in args.iter_mut().zip(&buffers) {
        if let (Argument::Out(data) | Argument::InOut(data), Some(buffer)) = (arg, buffer) {
            download(&mut queue, &staging, buffer, data, job.timeout_ns)?;
        }
    }
    for buffer in buffers.into_iter().flatten() {
        buffer.destroy()?;
    }
    staging.destroy()?;
    function.release()?;
    program.unload()?;
    queue.destroy()?;
    session.close()
}

fn upload<T: Transport>(
    queue: &mut Queue<'_, T>,
    staging: &Buffer<'_, T>,
    buffer: &Buffer<'_, T>,
    data: &[u8],
    timeout_ns: u64,
) -> Result<(), Error> {
    if data.is_empty() {
        return Ok(());
    }
    let mapping = staging.map()?;
    mapping.write(0, data)?;
    mapping.unmap()?;
    let token = queue.copy(buffer.at(0), staging.at(0), data.len() as u64)?;
    queue.wait(token, timeout_ns).map(drop)
}

fn download<T: Transport>(
    queue: &mut Queue<'_, T>,
    staging: &Buffer<'_, T>,
    buffer: &Buffer<'_, T>,
    data: &mut [u8],
    timeout_ns: u64,
) -> Result<(), Error> {
    if data.is_empty() {
        return Ok(());
    }
    let token = queue.copy(staging.at(0), buffer.at(0), data.len() as u64)?;
    queue.wait(token, timeout_ns)?;
    let mapping = staging.map()?;
    mapping.read(0, data)?;
    mapping.unmap()
}
