//! The worker's second thread: compiling, loading, registering. These take milliseconds, and the tenant's
//! queues go on meanwhile.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use crossbeam_channel::{Receiver, Sender, unbounded};
use turnstile_abi::Status;
use turnstile_abi::ring::Permit;

use super::host::{Memory, Registered, Slice};
use crate::driver::{DriverError, Gpu, Module};
use crate::wire::ProgramKind;

/// A variable of a program, in the arena.
pub(crate) struct Variable {
    pub(crate) address: u64,
    pub(crate) bytes: u64,
    pub(crate) init: Vec<u8>,
}

/// Something to be done.
pub(crate) enum Job {
    /// Compile if needed, and load.
    Program { id: u64, kind: ProgramKind, bytes: u64, variables: u32, payload: OwnedFd },
    /// Unload.
    Unload(Module),
    /// Map and register pieces that are listed in a payload.
    Map { id: u64, pieces: u32, payload: OwnedFd },
    /// Map, register and zero a buffer in host memory.
    Shared { id: u64, slice: Slice },
    /// Unregister and unmap.
    End(Registered),
    /// A region was handed over.
    Memory { id: u32, fd: OwnedFd },
    /// A region is not needed any more.
    Forget { id: u32 },
}

/// What came of a job.
pub(crate) enum Result {
    /// A program is loaded; `image_bytes` were put into its payload, 0 if it was none to be compiled.
    Program { id: u64, module: Module, code_bytes: u64, image_bytes: u64, variables: Vec<Variable> },
    /// Host memory is registered.
    Region { id: u64, registered: Registered },
    /// A buffer in host memory is ready.
    Shared { id: u64, registered: Registered, skip: u64, bytes: u64 },
    /// Done, nothing to keep.
    Done,
    /// It failed.
    Failed { status: Status, detail: u64, spoilt: Option<DriverError> },
}

/// A job with the answer it owes.
type Owed<T> = (Option<(Permit, u64)>, T);

/// The thread.
pub(crate) struct Clerk {
    jobs: Sender<Owed<Job>>,
    results: Receiver<Owed<Result>>,
    /// Jobs whose results were not taken.
    open: usize,
}

impl Clerk {
    pub(crate) fn start(gpu: Gpu) -> std::io::Result<Clerk> {
        let (jobs, todo) = unbounded();
        let (done, results) = unbounded();
        std::thread::Builder::new().name("clerk".into()).spawn(move || work(gpu, &todo, &done))?;
        Ok(Clerk { jobs, results, open: 0 })
    }

    pub(crate) fn submit(&mut self, owed: Option<(Permit, u64)>, job: Job) {
        // The thread lives as long as this sender.
        if self.jobs.send((owed, job)).is_ok() {
            self.open += 1;
        }
    }

    pub(crate) fn next(&mut self) -> Option<Owed<Result>> {
        if self.open == 0 {
            return None;
        }
        let result = self.results.try_recv().ok()?;
        self.open -= 1;
        Some(result)
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.open == 0
    }
}

fn work(gpu: Gpu, todo: &Receiver<Owed<Job>>, done: &Sender<Owed<Result>>) {
    let mut memory = Memory::default();
    let current = gpu.make_current();
    for (owed, job) in todo {
        let result = match current {
            Ok(()) => perform(&gpu, &mut memory, job),
            Err(error) => failed(Status::Backend, 0, error),
        };
        if done.send((owed, result)).is_err() {
            return;
        }
    }
}

fn failed(status: Status, detail: u64, error: DriverError) -> Result {
    Result::Failed { status, detail, spoilt: Some(error).filter(|e| e.is_fatal()) }
}

fn perform(gpu: &Gpu, memory: &mut Memory, job: Job) -> Result {
    match job {
        Job::Memory { id, fd } => {
            memory.add(id, fd);
            Result::Done
        }
        Job::Forget { id } => {
            memory.forget(id);
            Result::Done
        }
        Job::Program { id, kind, bytes, variables, payload } => {
            program(gpu, id, kind, bytes, variables, &File::from(payload))
        }
        Job::Unload(module) => ended(gpu.unload(module)),
        Job::End(registered) => ended(registered.end()),
        Job::Map { id, pieces, payload } => {
            let Some(pieces) = slices(&File::from(payload), pieces) else { return garbled() };
            match memory.register(gpu, &pieces) {
                Ok(registered) => Result::Region { id, registered },
                Err(error) => refused(&error),
            }
        }
        Job::Shared { id, slice } => match memory.register_around(gpu, slice) {
            Ok((registered, skip)) => {
                registered.zero(skip, slice.bytes);
                Result::Shared { id, registered, skip, bytes: slice.bytes }
            }
            Err(error) => refused(&error),
        },
    }
}

fn ended(result: std::result::Result<(), DriverError>) -> Result {
    result.map_or_else(|error| failed(Status::Backend, error.code.into(), error), |()| Result::Done)
}

fn garbled() -> Result {
    Result::Failed { status: Status::Backend, detail: 0, spoilt: None }
}

fn refused(error: &super::host::HostError) -> Result {
    use super::host::HostError as E;
    tracing::warn!(%error, "host memory not registered");
    match error {
        E::Driver(error) if error.code == 2 => failed(Status::NoMemory, 0, *error),
        E::Driver(error) => failed(Status::Backend, error.code.into(), *error),
        E::Map(rustix::io::Errno::NOMEM) => {
            Result::Failed { status: Status::NoMemory, detail: 0, spoilt: None }
        }
        _ => garbled(),
    }
}

/// Reads `N` little-endian words at an offset.
fn words<const N: usize>(file: &File, at: u64) -> Option<[u64; N]> {
    let mut bytes = vec![0; N * 8];
    file.read_exact_at(&mut bytes, at).ok()?;
    let mut words = [0; N];
    for (word, chunk) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*chunk);
    }
    Some(words)
}

/// The pieces in a payload: memory, offset, length of each.
fn slices(file: &File, count: u32) -> Option<Vec<Slice>> {
    let one = |i: u32| {
        let [memory, offset, bytes] = words(file, u64::from(i) * 24)?;
        Some(Slice { memory: memory.try_into().ok()?, offset, bytes })
    };
    (0..count).map(one).collect()
}

fn bytes_of(file: &File, at: u64, bytes: u64) -> Option<Vec<u8>> {
    let end = at.checked_add(bytes)?;
    if end > file.metadata().ok()?.len() {
        return None;
    }
    let mut content = vec![0; usize::try_from(bytes).ok()?];
    file.read_exact_at(&mut content, at).ok()?;
    Some(content)
}

/// The variables in a payload, behind the program.
fn variables_of(file: &File, mut at: u64, count: u32) -> Option<Vec<Variable>> {
    let mut variables = Vec::new();
    for _ in 0..count {
        let [address, bytes, init] = words(file, at)?;
        let content = bytes_of(file, at + 24, init).filter(|_| init <= bytes)?;
        at = (at + 24 + init).next_multiple_of(8);
        variables.push(Variable { address, bytes, init: content });
    }
    Some(variables)
}

fn program(
    gpu: &Gpu,
    id: u64,
    kind: ProgramKind,
    bytes: u64,
    count: u32,
    payload: &File,
) -> Result {
    let content = bytes_of(payload, 0, bytes);
    let variables = variables_of(payload, bytes.next_multiple_of(8), count);
    let (Some(content), Some(variables)) = (content, variables) else { return garbled() };
    let (image, image_bytes) = match kind {
        ProgramKind::Image => (content, 0),
        ProgramKind::Ptx => {
            let Ok(text) = CString::new(content) else { return garbled() };
            let image = match gpu.compile(&text) {
                Ok(image) => image,
                Err((error, log)) => {
                    tracing::warn!(%error, log, "the driver's compiler refuses a program");
                    return failed(Status::BadProgram, 0, error);
                }
            };
            // The daemon puts it into its cache; that it cannot have it is no reason to fail.
            let kept = payload.set_len(0).and_then(|()| payload.write_all_at(&image, 0));
            let kept = if kept.is_ok() { image.len() as u64 } else { 0 };
            (image, kept)
        }
    };
    match gpu.load(&image) {
        Ok(module) => {
            let code_bytes = image.len() as u64;
            Result::Program { id, module, code_bytes, image_bytes, variables }
        }
        Err(error) if error.code == 2 => failed(Status::NoMemory, image.len() as u64, error),
        Err(error) => {
            tracing::warn!(%error, "a program does not load");
            failed(Status::BadProgram, 0, error)
        }
    }
}
