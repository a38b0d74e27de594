//! What stops a kernel, and where: the fault a launch ends with.
//!
//! A fault names the kernel, the line of its PTX, the block, the thread and, for memory, the address. It is data for
//! the tenant and the audit log; nothing here decides what happens next.

use std::fmt;

use thiserror::Error;

/// The state space an access went to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Device memory.
    Global,
    /// The block's shared memory.
    Shared,
    /// The thread's own stack.
    Local,
    /// Constant memory.
    Const,
    /// Kernel parameters.
    Param,
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Space::Global => "global",
            Space::Shared => "shared",
            Space::Local => "local",
            Space::Const => "const",
            Space::Param => "param",
        })
    }
}

/// What an access wanted to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Load.
    Read,
    /// Store.
    Write,
    /// Read-modify-write.
    Atomic,
}

impl fmt::Display for Intent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Intent::Read => "read",
            Intent::Write => "write",
            Intent::Atomic => "atomic",
        })
    }
}

/// Why a kernel was stopped.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum FaultKind {
    /// No mapped bytes there.
    #[error("{intent} of {width} bytes at unmapped {space} address {address:#x}")]
    Unmapped {
        /// Address space.
        space: Space,
        /// Load, store or atomic.
        intent: Intent,
        /// First address, as the instruction's space counts it.
        address: u64,
        /// Bytes.
        width: u32,
    },
    /// The address is no multiple of the access's size.
    #[error("{intent} of {width} bytes at misaligned {space} address {address:#x}")]
    Misaligned {
        /// Address space.
        space: Space,
        /// Load, store or atomic.
        intent: Intent,
        /// First address.
        address: u64,
        /// Bytes.
        width: u32,
    },
    /// The region may not be used so.
    #[error(
        "{intent} of {width} bytes at {space} address {address:#x} is not permitted by its mapping"
    )]
    Forbidden {
        /// Address space.
        space: Space,
        /// Load, store or atomic.
        intent: Intent,
        /// First address.
        address: u64,
        /// Bytes.
        width: u32,
    },
    /// The launch was confined to an arena and an access left it (the guard's oracle).
    #[error("{intent} of {width} bytes at {address:#x} leaves the launch's arena")]
    OutsideArena {
        /// Load, store or atomic.
        intent: Intent,
        /// First address.
        address: u64,
        /// Bytes.
        width: u32,
    },
    /// `trap` or `brkpt`.
    #[error("trap")]
    Trap,
    /// `__assertfail`.
    #[error("assertion failed: {message}")]
    Assert {
        /// Text, file, line and function as the kernel gave them, shortened.
        message: String,
    },
    /// Calls nest too deep, or the stack is full.
    #[error("stack overflow: calls nest too deep for {limit} bytes of stack per thread")]
    StackOverflow {
        /// Bytes of stack per thread.
        limit: u32,
    },
    /// A call through a register to something that is no function of the module.
    #[error("indirect call to {address:#x}, which is no function of the module")]
    BadCallTarget {
        /// The register's value.
        address: u64,
    },
    /// `brx.idx` beyond its table.
    #[error("branch index {index} is beyond the table of {targets} targets")]
    BadBranchIndex {
        /// The index.
        index: u32,
        /// Targets in the table.
        targets: u32,
    },
    /// Threads wait for each other and none can go on.
    #[error("deadlock: {waits}")]
    Deadlock {
        /// What they wait for.
        waits: &'static str,
    },
    /// A barrier number, thread count or mbarrier state that the instruction does not allow.
    #[error("bad synchronisation: {what}")]
    BadSync {
        /// What was wrong.
        what: &'static str,
    },
    /// Operand values that the instruction leaves undefined and this GPU refuses.
    #[error("undefined operation: {what}")]
    Undefined {
        /// What was wrong.
        what: &'static str,
    },
}

/// Where and why a kernel stopped.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{kernel}: line {line}: block ({},{},{}) thread ({},{},{}): {kind}",
    block[0], block[1], block[2], thread[0], thread[1], thread[2])]
pub struct Fault {
    /// The kernel's name.
    pub kernel: String,
    /// Line of the PTX text, counted from 1.
    pub line: u32,
    /// Block index (x, y, z).
    pub block: [u32; 3],
    /// Thread index in the block (x, y, z).
    pub thread: [u32; 3],
    /// What happened.
    pub kind: FaultKind,
}
