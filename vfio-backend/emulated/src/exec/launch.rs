//! What every worker thread of one launch shares: the linked program, the launch's shape and its limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Instant;

use super::registers::{V32, V64};
use crate::fault::Fault;
use crate::ir::Program;
use crate::jit::{Compiled, background::Machine};
use crate::memory::{Arena, MemoryMap};
use crate::raw::{LANES, Segment};

/// A program whose variables have addresses.
#[derive(Debug)]
pub(crate) struct Linked {
    pub(crate) program: Arc<Program>,
    /// Constants with addresses filled in, one copy per lane.
    pub(crate) constants32: Vec<V32>,
    pub(crate) constants64: Vec<V64>,
    /// The program's machine code, when there is any.
    pub(crate) machine: Machine,
}

impl Linked {
    /// Gives every 64-bit constant its value: `values` are the program's with addresses filled in.
    pub(crate) fn new(program: Arc<Program>, values: &[u64]) -> Self {
        let constants32 = program.constants32.iter().map(|&v| V32([v; LANES])).collect();
        let constants64 = values.iter().map(|&v| V64([v; LANES])).collect();
        Self { program, constants32, constants64, machine: Machine::default() }
    }
}

/// A launch while it runs.
pub(crate) struct Launch {
    pub(crate) linked: Arc<Linked>,
    /// Machine code for parts of it, if the launch uses any.
    pub(crate) compiled: Option<Arc<Compiled>>,
    /// Index of the kernel in the program's functions.
    pub(crate) kernel: u32,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    /// Static and dynamic shared memory of a block in bytes.
    pub(crate) shared_bytes: u32,
    pub(crate) dynamic_bytes: u32,
    /// Where dynamic shared memory begins.
    pub(crate) dynamic_base: u32,
    /// Parameter block, padded.
    pub(crate) params: Segment,
    pub(crate) map: Arc<MemoryMap>,
    /// Accesses outside it are violations, if given.
    pub(crate) arena: Option<Arena>,
    /// Bytes of stack per thread.
    pub(crate) stack_bytes: u32,
    /// Values of `%envreg0` to `%envreg3`.
    pub(crate) env: [u32; 4],
    /// Worker threads it may use, as `%nsmid`.
    pub(crate) workers: u32,
    /// Whether every block stays resident.
    pub(crate) cooperative: bool,
    /// Number of the launch.
    pub(crate) grid_id: u64,
    /// When it must be over.
    pub(crate) deadline: Instant,
    /// Warp instructions it may execute in all.
    pub(crate) instruction_limit: u64,
    /// When it began.
    pub(crate) begun: Instant,
    /// Set by others to make every worker stop soon.
    pub(crate) stop: Arc<AtomicBool>,
    /// Set by a worker whose block failed.
    pub(crate) halted: AtomicBool,
    /// Next block to run.
    pub(crate) next: AtomicU64,
    /// Work done by blocks that are over or have yielded.
    pub(crate) warp_instructions: AtomicU64,
    pub(crate) thread_instructions: AtomicU64,
    /// What the kernel printed, bounded.
    pub(crate) printed: std::sync::Mutex<Vec<u8>>,
    /// The first thing that went wrong.
    pub(crate) failure: std::sync::Mutex<Option<Failure>>,
}

/// Why a launch ended early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// A thread did something it must not.
    Fault(Box<Fault>),
    /// The time or instruction limit was reached.
    Timeout,
    /// The host has no memory for another block.
    HostMemory,
}

impl Launch {
    /// Blocks in all.
    pub(crate) fn blocks(&self) -> u64 {
        self.grid.iter().map(|&n| u64::from(n)).product()
    }

    /// The index of the n-th block.
    pub(crate) fn block_index(&self, n: u64) -> [u32; 3] {
        let [x, y, _] = self.grid.map(u64::from);
        [(n % x) as u32, (n / x % y) as u32, (n / x / y) as u32]
    }

    /// Warps of a block.
    pub(crate) fn warps(&self) -> u32 {
        self.block.iter().product::<u32>().div_ceil(LANES as u32)
    }

    /// Whether workers must stop.
    pub(crate) fn is_over(&self) -> bool {
        use std::sync::atomic::Ordering::Relaxed;
        self.stop.load(Relaxed) || self.halted.load(Relaxed)
    }

    /// Ends the launch with the first failure reported.
    pub(crate) fn fail(&self, failure: Failure) {
        let mut slot = self.failure.lock().unwrap_or_else(|e| e.into_inner());
        slot.get_or_insert(failure);
        self.halted.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}
