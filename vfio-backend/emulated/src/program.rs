//! A program in an address space: its variables have addresses and initial contents, its kernels can be launched.
//!
//! [`LoadedProgram::launch`] blocks until the kernel is over; the device runs it on threads of its own. Loading checks
//! nothing about permission: callers hand over modules that the verifier admitted.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use thiserror::Error;
use turnstile_ptx::tree::Module;
use turnstile_ptx::view::ModuleView;

use crate::exec::launch::{Failure, Launch, Linked};
use crate::exec::levels::Level;
use crate::fault::Fault;
use crate::ir::{Function, Program, Relocation, RelocationTarget, window};
use crate::lower::{LowerError, lower};
use crate::memory::{Access, AddressSpace, Arena, MemoryError, MemoryMap};
use crate::raw::Segment;

/// Most shared memory of a block, static and dynamic, in bytes (227 KiB, as sm_90).
pub const MAX_SHARED_BYTES: u32 = 227 << 10;
/// Most threads of a block.
pub const MAX_BLOCK_THREADS: u32 = 1024;
/// Largest grid along x, and along y and z (CUDA C++ Programming Guide, technical specifications).
pub const MAX_GRID: [u32; 3] = [0x7fff_ffff, 0xffff, 0xffff];
/// Memory that the resident blocks of a launch may take, in bytes.
const RESIDENT_BYTES: u64 = 1 << 30;
/// GPU threads for which another host thread is started.
const THREADS_PER_WORKER: u64 = 4096;
/// Bytes of the workspace that cooperative kernels find through `%envreg1` and `%envreg2`.
const WORKSPACE_BYTES: u64 = 256;

/// Why a program was not loaded.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LoadError {
    /// The executor does not run it.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// Its variables do not fit.
    #[error("variable `{name}` does not fit: {source}")]
    Memory {
        /// The variable.
        name: String,
        /// Why.
        source: MemoryError,
    },
}

/// Why a launch was refused or ended early.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LaunchError {
    /// No such kernel.
    #[error("no kernel `{name}` in the program: use a name it defines with .entry")]
    NoKernel {
        /// The name asked for.
        name: String,
    },
    /// The launch does not fit the kernel or the GPU.
    #[error("{what} is {value}, the limit is {limit}: change the launch")]
    Limit {
        /// Which quantity.
        what: &'static str,
        /// What was asked for.
        value: u64,
        /// What is possible.
        limit: u64,
    },
    /// The kernel must be launched with another block shape (`.reqntid`).
    #[error("the kernel requires blocks of {required:?} threads")]
    BlockShape {
        /// Threads along x, y, z.
        required: [u32; 3],
    },
    /// The parameters have the wrong size.
    #[error(
        "{given} bytes of parameters, the kernel takes {wanted}: pack them at their natural alignment"
    )]
    Params {
        /// Bytes given.
        given: usize,
        /// Bytes wanted.
        wanted: usize,
    },
    /// A thread did something it must not.
    #[error(transparent)]
    Fault(#[from] Box<Fault>),
    /// The time or instruction limit was reached.
    #[error("the kernel was stopped at its time or instruction limit")]
    Timeout,
    /// Somebody stopped it.
    #[error("the kernel was stopped")]
    Stopped,
    /// The host has no memory for the blocks.
    #[error("no host memory for the blocks of the launch: launch smaller blocks")]
    HostMemory,
}

/// What executes a kernel. All give the same results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// Whichever is faster for the kernel, as its first blocks find out. The first launch of a program asks for it to be
    /// compiled in the background; until then it is interpreted.
    #[default]
    Auto,
    /// The interpreter alone.
    Interpreter,
    /// Machine code for every piece that has any, the interpreter for the rest; waits for the compiler.
    Compiled,
}

/// How a kernel is launched.
#[derive(Clone, Debug)]
pub struct LaunchConfig {
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block in bytes.
    pub dynamic_shared_bytes: u32,
    /// Whether blocks may wait for each other: all of them are resident at once.
    pub cooperative: bool,
    /// Parameters, each at its natural alignment.
    pub params: Vec<u8>,
    /// Run time after which the kernel is stopped.
    pub time_limit: Duration,
    /// Instructions of a warp, in all, after which the kernel is stopped.
    pub instruction_limit: u64,
    /// Every global access outside is a fault, if given: the oracle for guarded modules.
    pub arena: Option<Arena>,
    /// Bytes of stack per thread.
    pub stack_bytes: u32,
    /// Host threads that run blocks at the same time; at least one.
    pub workers: u32,
    /// What executes it.
    pub engine: Engine,
}

impl LaunchConfig {
    /// A launch of `grid` blocks of `block` threads with nothing else, one worker, ten seconds.
    pub fn new(grid: [u32; 3], block: [u32; 3], params: Vec<u8>) -> Self {
        Self {
            grid,
            block,
            dynamic_shared_bytes: 0,
            cooperative: false,
            params,
            time_limit: Duration::from_secs(10),
            instruction_limit: u64::MAX,
            arena: None,
            stack_bytes: 64 << 10,
            workers: 1,
            engine: Engine::Auto,
        }
    }
}

/// What a finished launch did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaunchReport {
    /// Run time.
    pub elapsed: Duration,
    /// Instructions issued for warps.
    pub warp_instructions: u64,
    /// Instructions executed by threads.
    pub thread_instructions: u64,
    /// What the kernel printed, at most 64 KiB.
    pub printed: Vec<u8>,
}

/// A kernel's launch requirements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelInfo {
    /// Name.
    pub name: String,
    /// Bytes of its parameters.
    pub param_bytes: u32,
    /// (offset, bytes) of each parameter.
    pub params: Vec<(u32, u32)>,
    /// Static shared memory in bytes.
    pub shared_bytes: u32,
    /// Block shape it must have.
    pub required_block: Option<[u32; 3]>,
    /// Most threads of a block.
    pub max_threads: u32,
}

/// A program that is ready to be placed. Lowering takes milliseconds for a large module and needs no address space.
#[derive(Debug)]
pub struct LoweredProgram {
    program: Program,
}

impl LoweredProgram {
    /// Lowers a module.
    pub fn lower(module: &Module, view: &ModuleView) -> Result<Self, LoadError> {
        Ok(Self { program: lower(module, view)? })
    }

    /// Device memory its variables take, in bytes.
    pub fn variable_bytes(&self) -> u64 {
        self.program.variables.iter().fold(0, |sum, v| sum.saturating_add(v.bytes))
    }
}

/// A program whose variables live in an address space.
#[derive(Debug)]
pub struct LoadedProgram {
    linked: Arc<Linked>,
    /// Address and length of each variable, in declaration order.
    variables: Vec<(String, u64, u64)>,
    /// The cooperative workspace.
    workspace: u64,
    /// Addresses to unmap.
    regions: Vec<u64>,
    level: Level,
}

/// Numbers launches for `%gridid`.
static GRID_ID: AtomicU64 = AtomicU64::new(1);

impl LoadedProgram {
    /// Lowers a module and places its variables.
    pub fn load(
        module: &Module,
        view: &ModuleView,
        space: &mut AddressSpace,
    ) -> Result<Self, LoadError> {
        Self::place(LoweredProgram::lower(module, view)?, space)
    }

    /// Places the variables of a lowered program: the part of loading that needs the address space, microseconds.
    pub fn place(program: LoweredProgram, space: &mut AddressSpace) -> Result<Self, LoadError> {
        let LoweredProgram { program } = program;
        let mut loaded = Self {
            linked: Arc::new(Linked::new(Arc::new(Program::default()), &[])),
            variables: Vec::new(),
            workspace: 0,
            regions: Vec::new(),
            level: Level::detect(),
        };
        if let Err(error) = loaded.fill(program, space) {
            loaded.unload(space);
            return Err(error);
        }
        Ok(loaded)
    }

    fn fill(&mut self, program: Program, space: &mut AddressSpace) -> Result<(), LoadError> {
        let failed = |name: &str| {
            let name = name.to_owned();
            move |source| LoadError::Memory { name, source }
        };
        for v in &program.variables {
            let access = if v.read_only { Access::READ } else { Access::READ_WRITE };
            let address = space.allocate(v.bytes.max(1), access).map_err(failed(&v.name))?;
            self.regions.push(address);
            self.variables.push((v.name.clone(), address, v.bytes));
        }
        self.workspace =
            space.allocate(WORKSPACE_BYTES, Access::READ_WRITE).map_err(failed("workspace"))?;
        self.regions.push(self.workspace);
        let address = |r: &Relocation| {
            let base = match r.target {
                RelocationTarget::Variable(i) => self.variables.get(i as usize).map_or(0, |v| v.1),
                RelocationTarget::Function(i) => window::FUNCTION + 16 * u64::from(i),
            };
            base.wrapping_add_signed(r.addend) >> r.shift.min(63)
        };
        for (v, (name, at, _)) in program.variables.iter().zip(&self.variables) {
            if !v.init.is_empty() {
                space.write(*at, &v.init).map_err(failed(name))?;
            }
            for r in &v.relocations {
                let bytes = address(r).to_le_bytes();
                let len = usize::from(r.bytes).min(8);
                space.write(at + r.at, &bytes[..len]).map_err(failed(name))?;
            }
        }
        let mut constants = program.constants64.clone();
        for r in &program.relocations {
            if let Some(constant) = constants.get_mut(r.at as usize) {
                *constant = address(r);
            }
        }
        self.linked = Arc::new(Linked::new(Arc::new(program), &constants));
        Ok(())
    }

    /// Takes the program's variables out of the space again. Launches under way keep what they use.
    pub fn unload(&mut self, space: &mut AddressSpace) {
        for address in self.regions.drain(..) {
            // Only regions that loading made are listed.
            let _ = space.unmap(address);
        }
    }

    /// Device addresses of the regions that loading placed.
    pub fn regions(&self) -> &[u64] {
        &self.regions
    }

    /// Address and length of a module variable.
    pub fn variable(&self, name: &str) -> Option<(u64, u64)> {
        self.variables.iter().find(|v| v.0 == name).map(|v| (v.1, v.2))
    }

    /// The kernels' names and requirements.
    pub fn kernels(&self) -> Vec<KernelInfo> {
        self.linked.program.functions.iter().filter(|f| f.is_kernel).map(info).collect()
    }

    /// How many pieces of the program are compiled to machine code, after compiling it if that has not happened yet.
    pub fn compiled_regions(&self) -> usize {
        self.linked.machine.wait(&self.linked).map_or(0, |c| c.regions.len())
    }

    /// One kernel's requirements.
    pub fn kernel(&self, name: &str) -> Option<KernelInfo> {
        self.find(name).map(|(_, f)| info(f))
    }

    fn find(&self, name: &str) -> Option<(u32, &Function)> {
        let functions = self.linked.program.functions.iter().enumerate();
        functions.filter(|(_, f)| f.is_kernel && f.name == name).map(|(i, f)| (i as u32, f)).next()
    }

    /// Runs a kernel on the memory of `map` until it is over, on `config.workers` threads. Setting `stop` ends it soon.
    pub fn launch(
        &self,
        name: &str,
        config: &LaunchConfig,
        map: Arc<MemoryMap>,
        stop: &Arc<AtomicBool>,
    ) -> Result<LaunchReport, LaunchError> {
        let launch = self.prepare(name, config, map, stop.clone())?;
        let level = self.level;
        if launch.workers == 1 {
            launch.work(0, level);
        } else {
            std::thread::scope(|scope| {
                for worker in 1..launch.workers {
                    let launch = &launch;
                    scope.spawn(move || launch.work(worker, level));
                }
                launch.work(0, level);
            });
        }
        finish(&launch)
    }

    /// A launch that is checked and ready for [`Launch::work`] on up to `config.workers` threads.
    pub(crate) fn prepare(
        &self,
        name: &str,
        config: &LaunchConfig,
        map: Arc<MemoryMap>,
        stop: Arc<AtomicBool>,
    ) -> Result<Launch, LaunchError> {
        let (kernel, function) =
            self.find(name).ok_or_else(|| LaunchError::NoKernel { name: name.to_owned() })?;
        check(function, config)?;
        // Waiting for the compiler is no part of the launch's time.
        let compiled = match config.engine {
            Engine::Interpreter => None,
            Engine::Auto => self.linked.machine.get_or_request(&self.linked),
            Engine::Compiled => self.linked.machine.wait(&self.linked),
        };
        let begun = Instant::now();
        let params = Segment::zeroed(u64::from(function.param_bytes).max(16))
            .ok_or(LaunchError::HostMemory)?;
        params.write(0, &config.params).ok_or(LaunchError::HostMemory)?;
        let params =
            params.part(0, u64::from(function.param_bytes)).ok_or(LaunchError::HostMemory)?;
        if config.cooperative
            && let Some((region, offset)) = map.locate(self.workspace, WORKSPACE_BYTES)
        {
            let _ = region.segment.fill(offset, WORKSPACE_BYTES, 0, 1);
        }
        let blocks: u64 = config.grid.iter().map(|&n| u64::from(n)).product();
        // A thread costs more to start than a few blocks to run.
        let threads = blocks.saturating_mul(config.block.iter().map(|&n| u64::from(n)).product());
        let worth = (threads / THREADS_PER_WORKER).max(1);
        let workers = u64::from(config.workers.max(1)).min(blocks).min(worth) as u32;
        let launch = Launch {
            linked: self.linked.clone(),
            compiled,
            choose: config.engine == Engine::Auto,
            kernel,
            grid: config.grid,
            block: config.block,
            shared_bytes: function.dynamic_base.max(function.shared_bytes)
                + config.dynamic_shared_bytes,
            dynamic_bytes: config.dynamic_shared_bytes,
            dynamic_base: function.dynamic_base,
            params,
            map,
            arena: config.arena,
            stack_bytes: config.stack_bytes,
            // Cooperative groups read the workspace's address as high and low word.
            env: [0, (self.workspace >> 32) as u32, self.workspace as u32, 0],
            workers,
            cooperative: config.cooperative,
            grid_id: GRID_ID.fetch_add(1, Relaxed),
            deadline: begun + config.time_limit.min(Duration::from_secs(1 << 30)),
            instruction_limit: config.instruction_limit,
            begun,
            stop,
            halted: AtomicBool::new(false),
            next: AtomicU64::new(0),
            warp_instructions: AtomicU64::new(0),
            thread_instructions: AtomicU64::new(0),
            printed: Mutex::new(Vec::new()),
            failure: Mutex::new(None),
        };
        if config.cooperative {
            let value = launch.block_footprint().saturating_mul(blocks);
            if value > RESIDENT_BYTES {
                let what = "memory of a cooperative grid's blocks in bytes";
                return Err(LaunchError::Limit { what, value, limit: RESIDENT_BYTES });
            }
        }
        Ok(launch)
    }
}

/// What became of a launch on which no thread works any more.
pub(crate) fn finish(launch: &Launch) -> Result<LaunchReport, LaunchError> {
    match launch.failure.lock().unwrap_or_else(|e| e.into_inner()).take() {
        Some(Failure::Fault(fault)) => return Err(LaunchError::Fault(fault)),
        Some(Failure::Timeout) => return Err(LaunchError::Timeout),
        Some(Failure::HostMemory) => return Err(LaunchError::HostMemory),
        None if launch.stop.load(Relaxed) => return Err(LaunchError::Stopped),
        None => {}
    }
    Ok(LaunchReport {
        elapsed: launch.begun.elapsed(),
        warp_instructions: launch.warp_instructions.load(Relaxed),
        thread_instructions: launch.thread_instructions.load(Relaxed),
        printed: std::mem::take(&mut *launch.printed.lock().unwrap_or_else(|e| e.into_inner())),
    })
}

fn info(f: &Function) -> KernelInfo {
    KernelInfo {
        name: f.name.clone(),
        param_bytes: f.param_bytes,
        params: f.params.iter().map(|p| (p.offset, p.bytes)).collect(),
        shared_bytes: f.shared_bytes,
        required_block: f.required_block,
        max_threads: f.max_threads.unwrap_or(MAX_BLOCK_THREADS).min(MAX_BLOCK_THREADS),
    }
}

/// Whether the launch fits kernel and GPU.
fn check(function: &Function, config: &LaunchConfig) -> Result<(), LaunchError> {
    let limit = |what, value: u64, limit: u64| {
        if value == 0 || value > limit {
            Err(LaunchError::Limit { what, value, limit })
        } else {
            Ok(())
        }
    };
    for (n, most) in config.grid.iter().zip(MAX_GRID) {
        limit("grid dimension", u64::from(*n), u64::from(most))?;
    }
    for (n, most) in config.block.iter().zip([1024, 1024, 64]) {
        limit("block dimension", u64::from(*n), most)?;
    }
    let threads: u64 = config.block.iter().map(|&n| u64::from(n)).product();
    let most = function.max_threads.unwrap_or(MAX_BLOCK_THREADS).min(MAX_BLOCK_THREADS);
    limit("threads of a block", threads, u64::from(most))?;
    if let Some(required) = function.required_block
        && required != config.block
    {
        return Err(LaunchError::BlockShape { required });
    }
    let shared = u64::from(function.dynamic_base.max(function.shared_bytes))
        + u64::from(config.dynamic_shared_bytes);
    if shared > u64::from(MAX_SHARED_BYTES) + 256 {
        let what = "shared memory of a block in bytes";
        return Err(LaunchError::Limit { what, value: shared, limit: u64::from(MAX_SHARED_BYTES) });
    }
    if config.params.len() != function.param_bytes as usize {
        let (given, wanted) = (config.params.len(), function.param_bytes as usize);
        return Err(LaunchError::Params { given, wanted });
    }
    Ok(())
}
