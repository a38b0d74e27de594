//! Work that takes time: copies, fills, loading and launching, run outside the books' lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use turnstile_abi::Status;
use turnstile_backend_api::{Fault, Outcome, ProgramId, QueueId, SpaceId};
use turnstile_ptx::{BlockShape, GuardMode, Terms, Variants, VerifiedModule, WIDE_RED_ZONE};

use super::script::Trouble;
use super::space::{Kernel, Loaded, Placed};
use super::{Books, Device};
use crate::fault::FaultKind;
use crate::memory::Access;
use crate::program::{LaunchConfig, LaunchError, LoadedProgram, LoweredProgram};
use crate::raw::Segment;

/// Bytes moved between looks at the stop flag.
const CHUNK: usize = 64 << 10;
/// Where a guarded program in check mode records its first violation, from the arena's base.
const RECORD_OFFSET: u64 = turnstile_ptx::RED_ZONE;
const RECORD_BYTES: u64 = turnstile_ptx::guard::RECORD_BYTES;

/// A range of bytes.
pub(super) struct Range {
    pub(super) segment: Segment,
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// What is to be done.
pub(super) enum Work {
    /// Zeroes a shared buffer, then announces its address.
    Clear { range: Range, address: u64 },
    /// Copies; both lists have the same length in all.
    Copy { to: Vec<Range>, from: Vec<Range> },
    /// Fills with a repeated pattern.
    Fill { to: Vec<Range>, pattern: u64, width: u8 },
    /// Lowers and places a program.
    Load { program: ProgramId, module: Box<VerifiedModule> },
    /// Runs a kernel.
    Launch(Box<LaunchWork>),
    /// Reads the clock.
    Timestamp,
}

/// A launch.
pub(super) struct LaunchWork {
    pub(super) kernel: Arc<Kernel>,
    pub(super) loaded: Arc<Loaded>,
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    pub(super) shared_bytes: u32,
    pub(super) cooperative: bool,
    pub(super) timeout_ns: u64,
    pub(super) params: Vec<u8>,
}

/// Work that was started.
pub(super) struct Job {
    pub(super) space: SpaceId,
    pub(super) queue: QueueId,
    pub(super) work: Work,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) trouble: Option<Trouble>,
}

fn stopped() -> Outcome {
    Outcome::failed(Status::Timeout, 0)
}

impl Job {
    /// Does it. The second result says that its space dies of it.
    pub(super) fn execute(self, device: &Device) -> (Outcome, bool) {
        let begun = Instant::now();
        let (mut outcome, killed) = match self.trouble {
            None => (self.work(device), false),
            Some(Trouble::Late(by)) => {
                std::thread::sleep(by);
                (self.work(device), false)
            }
            Some(Trouble::Fail(status)) => (Outcome::failed(status, 0), false),
            Some(Trouble::Death) => (Outcome::failed(Status::DeviceLost, 0), true),
            Some(Trouble::Hang) => {
                while !self.stop.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                (stopped(), false)
            }
        };
        outcome.busy_ns = nanoseconds(begun.elapsed());
        (outcome, killed)
    }

    fn work(self, device: &Device) -> Outcome {
        let Job { space, work, stop, .. } = self;
        match work {
            Work::Clear { range, address } => match fill(&[range], 0, 8, &stop) {
                Some(_) => Outcome::ok(address),
                None => stopped(),
            },
            Work::Copy { to, from } => copy(&to, &from, &stop).map_or_else(stopped, Outcome::ok),
            Work::Fill { to, pattern, width } => {
                fill(&to, pattern, width, &stop).map_or_else(stopped, Outcome::ok)
            }
            Work::Load { program, module } => load(device, space, program, *module),
            Work::Launch(launch) => launch.run(device, space, &stop),
            Work::Timestamp => Outcome::ok(nanoseconds(device.begun.elapsed())),
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Copies between lists of ranges. `None` when stopped. Ranges were checked against their segments.
fn copy(to: &[Range], from: &[Range], stop: &AtomicBool) -> Option<u64> {
    let mut buffer = vec![0; CHUNK];
    let (mut to_at, mut from_at) = ((0, 0), (0, 0));
    let mut moved = 0;
    while let (Some(dst), Some(src)) = (to.get(to_at.0), from.get(from_at.0)) {
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        let bytes = (dst.bytes - to_at.1).min(src.bytes - from_at.1).min(CHUNK as u64);
        let chunk = &mut buffer[..bytes as usize];
        src.segment.read(src.offset + from_at.1, chunk)?;
        dst.segment.write(dst.offset + to_at.1, chunk)?;
        moved += bytes;
        let step = |(index, at): (usize, u64), range: &Range| {
            if at + bytes == range.bytes { (index + 1, 0) } else { (index, at + bytes) }
        };
        (to_at, from_at) = (step(to_at, dst), step(from_at, src));
    }
    Some(moved)
}

/// Fills ranges with the low `width` bytes of `pattern`. `None` when stopped.
fn fill(to: &[Range], pattern: u64, width: u8, stop: &AtomicBool) -> Option<u64> {
    let unit = &pattern.to_le_bytes()[..usize::from(width.clamp(1, 8))];
    let buffer: Vec<u8> = unit.iter().copied().cycle().take(CHUNK).collect();
    let mut filled = 0;
    for range in to {
        let mut at = 0;
        while at < range.bytes {
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            // Pieces and chunks are multiples of every width, so the phase of the pattern is kept.
            let bytes = (range.bytes - at).min(CHUNK as u64);
            range.segment.write(range.offset + at, &buffer[..bytes as usize])?;
            at += bytes;
        }
        filled += range.bytes;
    }
    Some(filled)
}

fn load(device: &Device, id: SpaceId, program: ProgramId, module: VerifiedModule) -> Outcome {
    // Without the books: lowering a large program takes milliseconds.
    let lowered = match LoweredProgram::lower(module.module(), module.view()) {
        Ok(lowered) => lowered,
        Err(error) => {
            tracing::debug!(%error, "program not loaded");
            return Outcome::failed(Status::BadProgram, 0);
        }
    };
    let variables = module.report().variables.iter();
    let bytes = variables.fold(lowered.variable_bytes(), |sum, v| sum.saturating_add(v.bytes));
    let mut books = device.books();
    let Books { spaces, used, .. } = &mut *books;
    let Some(space) = spaces.get_mut(&id).filter(|s| !s.dead) else {
        return Outcome::failed(Status::DeviceLost, 0);
    };
    // Variables are device memory like buffers, and count as such.
    if !space.has_room(bytes, *used, device.settings.memory_bytes) {
        return Outcome::failed(Status::NoMemory, bytes);
    }
    let mut placed = Vec::new();
    let undo = |space: &mut super::Space, placed: &[u64], status, why: String| {
        for &address in placed {
            let _ = space.memory.unmap(address);
        }
        tracing::debug!(why, "program not loaded");
        Outcome::failed(status, 0)
    };
    for variable in &module.report().variables {
        let (address, bytes) = (variable.address, variable.bytes.max(1));
        if let Err(e) = space.memory.allocate_at(address, bytes, Access::READ_WRITE) {
            return undo(space, &placed, Status::NoMemory, e.to_string());
        }
        placed.push(address);
        if let Err(e) = space.memory.write(address, &variable.init) {
            return undo(space, &placed, Status::Backend, e.to_string());
        }
    }
    let record = (module.mode() == GuardMode::Check)
        .then(|| space.memory.arena().base + RECORD_OFFSET)
        .inspect(|&at| {
            // All programs of a space share the record; it is there once.
            let _ = space.memory.allocate_at(at, RECORD_BYTES, Access::READ_WRITE);
        });
    let loaded = match LoadedProgram::place(lowered, &mut space.memory) {
        Ok(loaded) => loaded,
        Err(error) => return undo(space, &placed, Status::NoMemory, error.to_string()),
    };
    let regions = [placed, loaded.regions().to_vec()].concat();
    // Every access is checked: nothing around an arena is anyone else's, whatever its width.
    let variants = Variants::new(module, Arc::new(loaded), WIDE_RED_ZONE);
    let loaded = Arc::new(Loaded { variants, record });
    space.programs.insert(program, Placed { loaded, regions, bytes });
    space.used_bytes += bytes;
    *used += bytes;
    Outcome::ok(0)
}

/// Places a variant of a loaded program; why not is of no interest, since the program itself serves.
fn load_variant(
    device: &Device,
    id: SpaceId,
    program: ProgramId,
    loaded: &Arc<Loaded>,
    module: &VerifiedModule,
) -> Result<LoadedProgram, Outcome> {
    let lowered = LoweredProgram::lower(module.module(), module.view())
        .map_err(|_| Outcome::failed(Status::BadProgram, 0))?;
    let bytes = lowered.variable_bytes();
    let mut books = device.books();
    let Books { spaces, used, .. } = &mut *books;
    let lost = || Outcome::failed(Status::DeviceLost, 0);
    let space = spaces.get_mut(&id).filter(|s| !s.dead).ok_or_else(lost)?;
    if !space.has_room(bytes, *used, device.settings.memory_bytes) {
        return Err(Outcome::failed(Status::NoMemory, bytes));
    }
    // Unloaded meanwhile: nobody would free what is placed now.
    let placed = space.programs.get_mut(&program).filter(|p| Arc::ptr_eq(&p.loaded, loaded));
    let placed = placed.ok_or_else(lost)?;
    let variant = LoadedProgram::place(lowered, &mut space.memory)
        .map_err(|_| Outcome::failed(Status::NoMemory, bytes))?;
    placed.regions.extend(variant.regions());
    placed.bytes += bytes;
    space.used_bytes += bytes;
    *used += bytes;
    Ok(variant)
}

impl LaunchWork {
    fn run(self, device: &Device, id: SpaceId, stop: &Arc<AtomicBool>) -> Outcome {
        let [x, y, z] = self.block;
        let terms = Terms {
            block: BlockShape { x, y, z },
            dynamic_shared: self.shared_bytes.into(),
            params: &self.params,
        };
        let load = |module: &_| load_variant(device, id, self.kernel.program, &self.loaded, module);
        let chosen = match self.loaded.variants.choose(&self.kernel.name, &terms, load) {
            Ok(chosen) => chosen,
            Err(broken) => {
                tracing::debug!(%broken, kernel = self.kernel.name, "launch refused");
                return Outcome::failed(Status::OutOfRange, 0);
            }
        };
        let (map, record) = {
            let mut books = device.books();
            let Some(space) = books.spaces.get_mut(&id).filter(|s| !s.dead) else {
                return Outcome::failed(Status::DeviceLost, 0);
            };
            if let Some(at) = self.loaded.record {
                let _ = space.memory.write(at, &[0; RECORD_BYTES as usize]);
            }
            (space.memory.snapshot(), self.loaded.record)
        };
        let config = LaunchConfig {
            dynamic_shared_bytes: u32::try_from(chosen.dynamic_shared).unwrap_or(u32::MAX),
            cooperative: self.cooperative,
            time_limit: Duration::from_nanos(self.timeout_ns),
            workers: device.settings.threads.max(1),
            ..LaunchConfig::new(self.grid, self.block, self.params)
        };
        let begun = Instant::now();
        let result = chosen.loaded.launch(&self.kernel.name, &config, map.clone(), stop);
        let elapsed = nanoseconds(begun.elapsed());
        match result {
            Ok(_) => {
                let mut bytes = [0; RECORD_BYTES as usize];
                let seen = record
                    .and_then(|at| map.locate(at, RECORD_BYTES))
                    .and_then(|(region, offset)| region.segment.read(offset, &mut bytes));
                match seen {
                    Some(()) if bytes[0] == 2 => violation(&self.kernel.name, &bytes),
                    _ => Outcome::ok(elapsed),
                }
            }
            Err(LaunchError::Timeout | LaunchError::Stopped) => stopped(),
            Err(LaunchError::HostMemory) => Outcome::failed(Status::NoMemory, 0),
            Err(LaunchError::NoKernel { .. }) => Outcome::failed(Status::NotFound, 0),
            Err(LaunchError::Limit { limit, .. }) => Outcome::failed(Status::OutOfRange, limit),
            Err(LaunchError::BlockShape { .. }) => Outcome::failed(Status::OutOfRange, 0),
            Err(LaunchError::Params { wanted, .. }) => {
                Outcome::failed(Status::OutOfRange, wanted as u64)
            }
            Err(LaunchError::Fault(fault)) => {
                let address = match fault.kind {
                    FaultKind::Unmapped { address, .. }
                    | FaultKind::Misaligned { address, .. }
                    | FaultKind::Forbidden { address, .. }
                    | FaultKind::OutsideArena { address, .. }
                    | FaultKind::BadCallTarget { address } => address,
                    _ => 0,
                };
                let mut outcome = Outcome::failed(Status::KernelFault, address);
                outcome.fault = Some(Box::new(Fault {
                    kernel: fault.kernel.clone(),
                    line: fault.line,
                    block: fault.block,
                    thread: fault.thread,
                    address,
                    what: fault.kind.to_string(),
                }));
                outcome
            }
        }
    }
}

/// A violation that a guarded kernel recorded (layout: `turnstile_ptx::guard`). It lies in the tenant's own arena: a
/// tenant can forge it, to its own loss only.
fn violation(kernel: &str, record: &[u8; RECORD_BYTES as usize]) -> Outcome {
    let word =
        |i: usize| u32::from_le_bytes([record[i], record[i + 1], record[i + 2], record[i + 3]]);
    let address = u64::from(word(16)) | u64::from(word(20)) << 32;
    let mut outcome = Outcome::failed(Status::KernelFault, address);
    outcome.fault = Some(Box::new(Fault {
        kernel: kernel.to_owned(),
        line: word(8),
        block: [word(24), word(28), word(32)],
        thread: [word(36), word(40), word(44)],
        address,
        what: "the guard found an access outside what the tenant may touch".into(),
    }));
    outcome
}
