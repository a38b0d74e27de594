//! A lowered module around its code: functions, calls, variables, constants.

use super::{Fragment, Inst, Matrix, Memory, Slot};

/// A run of words moved between frames by a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameCopy {
    /// Byte offset in the caller's frame.
    pub(crate) caller: u32,
    /// Byte offset in the callee's frame.
    pub(crate) callee: u32,
    /// 32-bit words.
    pub(crate) words: u32,
}

/// A call instruction's details.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CallSite {
    /// Index into [`Program::functions`]; meaningless for indirect calls.
    pub(crate) function: u32,
    /// What the callee must take and give.
    pub(crate) signature: Shape,
    /// Arguments, copied before.
    pub(crate) args: Vec<FrameCopy>,
    /// Results, copied after.
    pub(crate) results: Vec<FrameCopy>,
}

/// Sizes and alignments of parameters and results: what caller and callee must agree on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    /// (bytes, alignment) of each parameter.
    pub(crate) params: Vec<(u32, u32)>,
    /// The same of each result.
    pub(crate) results: Vec<(u32, u32)>,
}

/// A bulk copy's operands. Addresses are 64-bit slots in their spaces (shared: offsets).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BulkCopy {
    pub(crate) dest: Memory,
    pub(crate) source: Memory,
    /// Bytes, a 32-bit slot.
    pub(crate) size: Slot,
    /// Told of the bytes when done, if given.
    pub(crate) mbarrier: Option<Memory>,
}

/// A kernel's parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KernelParam {
    /// Byte offset in the parameter block.
    pub(crate) offset: u32,
    /// Bytes.
    pub(crate) bytes: u32,
}

/// A kernel or device function.
#[derive(Clone, Debug)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) is_kernel: bool,
    /// First instruction.
    pub(crate) entry: u32,
    /// Slots of a frame.
    pub(crate) slots32: u32,
    pub(crate) slots64: u32,
    pub(crate) preds: u32,
    /// Bytes of local memory of a frame, a multiple of 16.
    pub(crate) frame_bytes: u32,
    /// Parameters and results of a device function, at the start of its frame in this order.
    pub(crate) shape: Shape,
    /// Parameters of a kernel.
    pub(crate) params: Vec<KernelParam>,
    /// Bytes of a kernel's parameters.
    pub(crate) param_bytes: u32,
    /// Bytes of shared memory that the functions it may call declare, and their alignment; dynamic shared memory follows.
    pub(crate) shared_bytes: u32,
    /// Where dynamic shared memory begins.
    pub(crate) dynamic_base: u32,
    /// `.reqntid`: the block shape it must be launched with.
    pub(crate) required_block: Option<[u32; 3]>,
    /// `.maxntid`: most threads of a block.
    pub(crate) max_threads: Option<u32>,
}

/// A module variable in `.global` or `.const`.
#[derive(Clone, Debug)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    /// `.const`: kernels may only read it.
    pub(crate) read_only: bool,
    /// Initial contents, zeros after the end.
    pub(crate) init: Vec<u8>,
    /// Addresses inside the initial contents.
    pub(crate) relocations: Vec<Relocation>,
}

/// An address to be filled in when the program is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Relocation {
    /// Where: byte offset in the variable, or index of the 64-bit constant.
    pub(crate) at: u64,
    /// What it points to.
    pub(crate) target: RelocationTarget,
    /// Bytes added.
    pub(crate) addend: i64,
    /// Bytes of the address that are stored: 8, or 1 to 4 of a `mask(…)` or narrower element.
    pub(crate) bytes: u8,
    /// Bits the address is shifted right by first.
    pub(crate) shift: u8,
}

/// What an address points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum RelocationTarget {
    /// Index into [`Program::variables`].
    Variable(u32),
    /// Index into [`Program::functions`].
    Function(u32),
}

/// A lowered module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Program {
    pub(crate) code: Vec<Inst>,
    /// Source line of each instruction.
    pub(crate) lines: Vec<u32>,
    pub(crate) functions: Vec<Function>,
    pub(crate) variables: Vec<Variable>,
    /// Constants, before relocation.
    pub(crate) constants32: Vec<u32>,
    pub(crate) constants64: Vec<u64>,
    /// 64-bit constants that are addresses of variables.
    pub(crate) relocations: Vec<Relocation>,
    pub(crate) tables: Vec<Vec<u32>>,
    pub(crate) calls: Vec<CallSite>,
    pub(crate) matrices: Vec<Matrix>,
    pub(crate) fragments: Vec<Fragment>,
    pub(crate) bulk: Vec<BulkCopy>,
}

/// Where the windows of generic addressing lie: above every arena.
pub(crate) mod window {
    /// Bytes of each window.
    pub(crate) const SIZE: u64 = 1 << 32;
    /// Shared memory.
    pub(crate) const SHARED: u64 = 0x0004_0000_0000_0000;
    /// Local memory.
    pub(crate) const LOCAL: u64 = 0x0004_0100_0000_0000;
    /// Kernel parameters.
    pub(crate) const PARAM: u64 = 0x0004_0200_0000_0000;
    /// Functions: 16 bytes each.
    pub(crate) const FUNCTION: u64 = 0x0004_0300_0000_0000;
}
