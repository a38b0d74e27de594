//! Operations, translated: no guest bytes, no guest names.

use smallvec::SmallVec;
use turnstile_abi::request::Access;
use turnstile_ptx::VerifiedModule;

use crate::memory::Piece;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u64);
    )* };
}

ids! {
    /// A GPU address space: one per session. Never reused.
    SpaceId;
    /// A buffer. Ids are never reused.
    BufferId;
    /// A DMA region. Never reused.
    RegionId;
    /// A loaded program. Never reused.
    ProgramId;
    /// A function of a program. Never reused.
    FunctionId;
    /// A stream of commands that run in order. Never reused.
    QueueId;
}

/// Where a buffer's memory lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// In the GPU's own memory.
    Device,
    /// In host memory shared with the tenant (its aperture). The backend zeroes it before it answers.
    Shared(Piece),
}

/// A byte position in an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a buffer.
    Buffer(BufferId, u64),
    /// In registered guest memory.
    Region(RegionId, u64),
}

/// Code that may be loaded.
#[derive(Debug)]
pub enum Code {
    /// PTX that passed the verifier.
    Ptx(Box<VerifiedModule>),
    /// Machine code whose SHA-256 the policy lists.
    Listed(Box<[u8]>),
}

/// How a space shares the GPU with others. A backend with no such choice pays it no attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// At the same time as others, which a fault would end too: only programs that cannot fault are
    /// loaded.
    Concurrent {
        /// Most of the multiprocessors, in percent; `None`: all.
        sm_percent: Option<u8>,
    },
    /// In turns: a fault stays in the space.
    Exclusive,
}

/// Kernel parameters: a private copy, relocations applied. Up to 128 bytes need no allocation.
pub type Params = SmallVec<[u8; 128]>;

/// What a backend is asked to do. Each operation is submitted with a ticket and answered by exactly
/// one [`crate::Done`]. Operations with a queue run in submission order within that queue; the
/// others run when they are ready.
#[derive(Debug)]
// A launch is large because its parameters are in it: a box would be an allocation a launch.
#[allow(clippy::large_enum_variant)]
pub enum BackendOp {
    /// Opens an address space. Answer: value = base of the arena, detail = its size in bytes.
    SpaceOpen {
        /// Its id from now on.
        space: SpaceId,
        /// Device memory it may hold, in bytes.
        memory_bytes: u64,
        /// Share relative to other spaces, 1 to 1000.
        weight: u32,
        /// How it shares the GPU.
        isolation: Isolation,
    },
    /// Ends everything that runs in a space and frees it. Answered when nothing of it is left: no
    /// memory, no mapping, nothing running.
    SpaceClose {
        /// The space.
        space: SpaceId,
    },
    /// Creates a zeroed buffer. Answer: value = device address.
    BufferCreate {
        /// The space.
        space: SpaceId,
        /// Its id from now on.
        buffer: BufferId,
        /// Size in bytes.
        bytes: u64,
        /// Where it lives.
        home: Home,
    },
    /// Frees a buffer.
    BufferDestroy {
        /// The space.
        space: SpaceId,
        /// The buffer.
        buffer: BufferId,
    },
    /// Makes host memory reachable by DMA.
    DmaMap {
        /// The space.
        space: SpaceId,
        /// Its id from now on.
        region: RegionId,
        /// The memory, in order; offsets in the region count across pieces.
        pieces: Box<[Piece]>,
        /// What the device may do.
        access: Access,
    },
    /// Takes it away. Answered when no access is possible any more.
    DmaUnmap {
        /// The space.
        space: SpaceId,
        /// The region.
        region: RegionId,
    },
    /// Loads a program.
    ProgramLoad {
        /// The space.
        space: SpaceId,
        /// Its id from now on.
        program: ProgramId,
        /// The code.
        code: Code,
    },
    /// Unloads a program and its functions.
    ProgramUnload {
        /// The space.
        space: SpaceId,
        /// The program.
        program: ProgramId,
    },
    /// Looks a kernel up. Answer: value = bytes of parameters it takes.
    FunctionGet {
        /// The space.
        space: SpaceId,
        /// The program.
        program: ProgramId,
        /// Its id from now on.
        function: FunctionId,
        /// The kernel's name.
        name: Box<str>,
    },
    /// Opens a queue.
    QueueOpen {
        /// The space.
        space: SpaceId,
        /// Its id from now on.
        queue: QueueId,
    },
    /// Closes a queue. Answered when nothing of it runs.
    QueueClose {
        /// The space.
        space: SpaceId,
        /// The queue.
        queue: QueueId,
    },
    /// Copies bytes. Ranges are checked. Answer: value = bytes.
    Copy {
        /// The space.
        space: SpaceId,
        /// The queue.
        queue: QueueId,
        /// Destination.
        dst: Place,
        /// Source.
        src: Place,
        /// Length in bytes.
        bytes: u64,
    },
    /// Fills bytes. The range is checked. Answer: value = bytes.
    Fill {
        /// The space.
        space: SpaceId,
        /// The queue.
        queue: QueueId,
        /// Destination.
        dst: Place,
        /// Length in bytes, a multiple of `width`.
        bytes: u64,
        /// Pattern in the low bits.
        pattern: u64,
        /// 1, 2, 4 or 8 bytes.
        width: u8,
    },
    /// Runs a kernel. Answer: value = run time in nanoseconds.
    Launch {
        /// The space.
        space: SpaceId,
        /// The queue.
        queue: QueueId,
        /// The kernel.
        function: FunctionId,
        /// Blocks in x, y, z.
        grid: [u32; 3],
        /// Threads in x, y, z.
        block: [u32; 3],
        /// Dynamic shared memory in bytes.
        shared_bytes: u32,
        /// Whether blocks may wait for each other.
        cooperative: bool,
        /// Run time after which the launch is ended with [`turnstile_abi::Status::Timeout`].
        timeout_ns: u64,
        /// Kernel parameters.
        params: Params,
    },
    /// Reads the device clock. Answer: value = nanoseconds.
    Timestamp {
        /// The space.
        space: SpaceId,
        /// The queue.
        queue: QueueId,
    },
}

impl BackendOp {
    /// The space an operation belongs to.
    #[must_use]
    pub const fn space(&self) -> SpaceId {
        match self {
            BackendOp::SpaceOpen { space, .. }
            | BackendOp::SpaceClose { space }
            | BackendOp::BufferCreate { space, .. }
            | BackendOp::BufferDestroy { space, .. }
            | BackendOp::DmaMap { space, .. }
            | BackendOp::DmaUnmap { space, .. }
            | BackendOp::ProgramLoad { space, .. }
            | BackendOp::ProgramUnload { space, .. }
            | BackendOp::FunctionGet { space, .. }
            | BackendOp::QueueOpen { space, .. }
            | BackendOp::QueueClose { space, .. }
            | BackendOp::Copy { space, .. }
            | BackendOp::Fill { space, .. }
            | BackendOp::Launch { space, .. }
            | BackendOp::Timestamp { space, .. } => *space,
        }
    }
}
