//! The lowered form of a PTX module: flat code over register slots, typed, labels resolved, lines kept.
//!
//! What lowering makes and the interpreter (and any compiler beside it) executes. It is data only.
//!
//! # Meaning
//! - Code of all functions lies in one array; a program counter (`pc`) is an index into it.
//! - Each frame has three register files: 32-bit slots, 64-bit slots and predicates. Values narrower than 32 bits live in
//!   32-bit slots; `.b16` registers have zero upper halves. A [`Slot`] with [`CONSTANT`] set names a constant.
//! - An instruction acts on the lanes of its group whose [`Guard`] holds. It reads all sources before it writes.
//! - A slot may stand for several PTX registers whose lives do not overlap *for a single thread*, so a lane outside the
//!   mask must keep its old value.
//! - `.param` variables of device functions and `.local` variables live in the frame's local memory at fixed offsets:
//!   parameters first, then results, then the rest (see [`Function`]).

use crate::fault::Space;
use crate::ops::compare::Compare;
use crate::ops::convert::Convert;
use crate::ops::float32::Float32;
use crate::ops::float64::Float64;
use crate::ops::half::Half;
use crate::ops::int32::Int32;
use crate::ops::int64::Int64;

/// A register slot of the class that the instruction implies.
pub(crate) type Slot = u16;
/// Set in a source slot that names a constant.
pub(crate) const CONSTANT: Slot = 0x8000;
/// No slot: a result not wanted, an operand not given.
pub(crate) const NONE: Slot = 0x7fff;
/// Slots and constants each class may have.
pub(crate) const MAX_SLOTS: usize = 0x7ff0;

/// The condition of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Guard(u16);

impl Guard {
    /// Always.
    pub(crate) const ALWAYS: Self = Self(NONE);

    /// When the predicate is true (or false, `negated`).
    pub(crate) fn new(pred: Slot, negated: bool) -> Self {
        Self(pred | if negated { CONSTANT } else { 0 })
    }

    /// Whether the instruction is unconditional.
    #[inline(always)]
    pub(crate) fn is_always(self) -> bool {
        self.0 == NONE
    }

    /// The predicate and whether it is negated.
    #[inline(always)]
    pub(crate) fn parts(self) -> (Slot, bool) {
        (self.0 & !CONSTANT, self.0 & CONSTANT != 0)
    }
}

/// An arithmetic instruction: the same operation on every lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lanes<T> {
    pub(crate) op: T,
    /// Mode, truth table, byte number …: see the family.
    pub(crate) x: u8,
    pub(crate) d: Slot,
    pub(crate) a: Slot,
    pub(crate) b: Slot,
    pub(crate) c: Slot,
}

/// How a comparison is combined with a third predicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Combine {
    /// Not at all.
    None,
    And,
    Or,
    Xor,
}

/// Where an access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// One state space.
    Space(Space),
    /// Whichever window the address lies in.
    Generic,
    /// The frame's own local memory: the offset counts from the frame's base and was checked when lowering.
    Frame,
}

/// The registers of a load or store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Value {
    /// 32-bit slots, zero-extended from memory.
    Zero32,
    /// 32-bit slots, sign-extended from memory.
    Sign32,
    /// 32-bit slots that hold 16 bits, sign-extended to those from memory.
    Sign16,
    /// 64-bit slots, zero-extended from memory.
    Zero64,
    /// 64-bit slots, sign-extended from memory.
    Sign64,
}

impl Value {
    /// Whether the slots are 64 bits wide.
    pub(crate) fn is_wide(self) -> bool {
        matches!(self, Value::Zero64 | Value::Sign64)
    }
}

/// A memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) target: Target,
    /// The base register, or [`NONE`]: then the offset is the address.
    pub(crate) base: Slot,
    /// Whether the base is a 64-bit slot.
    pub(crate) wide: bool,
    /// Bytes added to the base.
    pub(crate) offset: i32,
}

/// A load or store of one to four elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transfer {
    pub(crate) memory: Memory,
    /// Bytes of an element in memory: 1, 2, 4 or 8.
    pub(crate) width: u8,
    /// Elements: 1, 2 or 4.
    pub(crate) count: u8,
    pub(crate) value: Value,
    /// Volatile, relaxed or stronger: another thread may answer, so a loop around it may be waiting.
    pub(crate) polls: bool,
    /// Slots, as many as elements; [`NONE`] where a loaded element is not wanted.
    pub(crate) slots: [Slot; 4],
}

/// A read-modify-write operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum AtomicOp {
    Add,
    /// Wrap to zero above the operand.
    Inc,
    /// Wrap to the operand below zero.
    Dec,
    MinU,
    MinS,
    MaxU,
    MaxS,
    And,
    Or,
    Xor,
    Exchange,
    CompareSwap,
    AddF32,
    AddF64,
    AddF16,
    AddF16x2,
    AddBf16,
    AddBf16x2,
    MinF16x2,
    MaxF16x2,
    MinBf16x2,
    MaxBf16x2,
    MinF16,
    MaxF16,
    MinBf16,
    MaxBf16,
}

/// `atom` or `red`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Atomic {
    pub(crate) op: AtomicOp,
    pub(crate) memory: Memory,
    /// Bytes: 2, 4 or 8; 8 means 64-bit slots.
    pub(crate) width: u8,
    /// The old value, or [`NONE`].
    pub(crate) d: Slot,
    /// The operand.
    pub(crate) b: Slot,
    /// The new value of a compare-and-swap.
    pub(crate) c: Slot,
}

/// How `shfl` picks its source lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

/// What `vote` computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vote {
    /// To a predicate.
    All,
    Any,
    Uni,
    /// To a 32-bit slot.
    Ballot,
}

/// What `redux` computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Redux {
    Add,
    MinU,
    MinS,
    MaxU,
    MaxS,
    And,
    Or,
    Xor,
}

/// What a block-wide barrier does besides counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Barrier {
    /// Wait.
    Sync,
    /// Count and go on.
    Arrive,
    /// Wait; how many threads had the predicate true (32-bit slot).
    Popc,
    /// Wait; whether all had (predicate).
    And,
    /// Wait; whether any had (predicate).
    Or,
}

/// What an mbarrier instruction does. Objects are 64 bits in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mbarrier {
    Init,
    Invalidate,
    /// Arrive, state to a 64-bit slot or [`NONE`].
    Arrive,
    ArriveDrop,
    ArriveNoComplete,
    ArriveDropNoComplete,
    /// Add expected bytes, then arrive once.
    ArriveExpectTx,
    ArriveDropExpectTx,
    ExpectTx,
    CompleteTx,
    /// Predicate: whether the phase in `a` (64-bit state) is over.
    TestState,
    /// Predicate: whether the phase with parity `a` (32-bit slot) is over.
    TestParity,
    /// Arrivals missing in the state `a`.
    PendingCount,
    /// What `cp.async.mbarrier.arrive` does: copies here are done when issued. `true`: `.noinc`.
    CopyArrive(bool),
}

/// Element types of a matrix multiplication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MatrixType {
    F16,
    Bf16,
    Tf32,
    F64,
    S8,
    U8,
    S4,
    U4,
    B1Xor,
    B1And,
    E4m3,
    E5m2,
    F32,
    S32,
}

/// `mma.sync` or `wmma.mma`: a table row of its own, because it has many registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Matrix {
    /// Rows of a and d, columns of b and d, inner dimension.
    pub(crate) shape: (u16, u16, u16),
    /// `wmma.mma`: fragments as [`Fragment`] lays them out, not as `mma.sync` does.
    pub(crate) opaque: bool,
    pub(crate) a_type: MatrixType,
    pub(crate) b_type: MatrixType,
    /// Type of c and d: `F16`, `F32`, `F64` or `S32`.
    pub(crate) c_type: MatrixType,
    pub(crate) d_type: MatrixType,
    /// Integer results are clamped instead of wrapped.
    pub(crate) saturate: bool,
    pub(crate) a: Vec<Slot>,
    pub(crate) b: Vec<Slot>,
    pub(crate) c: Vec<Slot>,
    pub(crate) d: Vec<Slot>,
}

/// `wmma.load` or `wmma.store`: a fragment, whose layout is ours. Of an R x C matrix, lane l holds the elements l * R * C
/// / 32 and following in row-major order, packed into as few registers as hold them; more registers are zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    pub(crate) load: bool,
    pub(crate) rows: u16,
    pub(crate) columns: u16,
    pub(crate) ty: MatrixType,
    /// Columns, not rows, are contiguous in memory.
    pub(crate) by_columns: bool,
    /// Address of the first element, the same for every lane.
    pub(crate) memory: Memory,
    /// Elements from one row (or column) to the next, a 32-bit slot, or [`NONE`] for none between.
    pub(crate) stride: Slot,
    pub(crate) slots: Vec<Slot>,
}

/// Special registers. 64-bit ones are written to 64-bit slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    /// Thread index in dimension 0, 1 or 2.
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    Laneid,
    Warpid,
    Nwarpid,
    Smid,
    Nsmid,
    LanemaskEq,
    LanemaskLe,
    LanemaskLt,
    LanemaskGe,
    LanemaskGt,
    /// Low and high word of the cycle counter, and all of it.
    Clock,
    ClockHi,
    Clock64,
    /// Nanoseconds: all, low and high word.
    Globaltimer,
    GlobaltimerLo,
    GlobaltimerHi,
    Gridid,
    TotalSharedSize,
    DynamicSharedSize,
    /// Where dynamic shared memory begins.
    DynamicSharedBase,
    /// Driver-defined registers; 1 and 2 point to the grid's cooperative workspace.
    Env(u8),
}

/// What an instruction does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Op {
    Int32(Lanes<Int32>),
    Int64(Lanes<Int64>),
    Float32(Lanes<Float32>),
    Float64(Lanes<Float64>),
    Half(Lanes<Half>),
    Convert(Lanes<Convert>),
    /// d = (a op b) combined with c; not_d = !(a op b) combined with c.
    Compare {
        op: Compare,
        x: u8,
        combine: Combine,
        /// The third predicate is negated.
        negate: bool,
        d: Slot,
        not_d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
    },
    /// d = p ? a : b in 32-bit slots.
    Select32 {
        d: Slot,
        a: Slot,
        b: Slot,
        p: Slot,
    },
    /// The same in 64-bit slots.
    Select64 {
        d: Slot,
        a: Slot,
        b: Slot,
        p: Slot,
    },
    /// d = bit (2a + b) of the truth table, on predicates.
    Logic {
        table: u8,
        d: Slot,
        a: Slot,
        b: Slot,
    },
    Special {
        which: Special,
        d: Slot,
    },
    /// Address, in local space, of the byte at `offset` of the frame; to a 64-bit slot.
    FrameAddress {
        d: Slot,
        offset: u32,
    },
    /// d = the lanes whose address in `a` (64-bit) lies in the window of the space.
    IsSpace {
        space: Space,
        d: Slot,
        a: Slot,
    },
    /// Kernel parameter bytes, the same for every thread.
    Param {
        width: u8,
        count: u8,
        value: Value,
        offset: u32,
        slots: [Slot; 4],
    },
    Load(Transfer),
    Store(Transfer),
    Atomic(Atomic),
    /// 128-bit exchange, or compare-and-swap when `c` is given. Slots are the first of two.
    Atomic128 {
        memory: Memory,
        d: Slot,
        b: Slot,
        c: Slot,
    },
    /// Copies `bytes` from global `source` to shared `dest`, zero-filling beyond the 32-bit slot `size` if given.
    AsyncCopy {
        dest: Memory,
        source: Slot,
        source_offset: i32,
        bytes: u8,
        size: Slot,
    },
    /// Copies a run of bytes between global and shared memory; index into [`Program::bulk`].
    BulkCopy(u32),
    /// Orders memory for all threads.
    Fence,
    /// Gives other threads a turn.
    Pause,
    Shuffle {
        mode: Shuffle,
        d: Slot,
        p: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
        members: Slot,
    },
    /// `a` is a predicate ([`NONE`]: true), negated if `negate`.
    Vote {
        mode: Vote,
        negate: bool,
        d: Slot,
        a: Slot,
        members: Slot,
    },
    /// Lanes with the same value; `all`: every member, with predicate p.
    Match {
        all: bool,
        wide: bool,
        d: Slot,
        p: Slot,
        a: Slot,
        members: Slot,
    },
    Redux {
        op: Redux,
        d: Slot,
        a: Slot,
        members: Slot,
    },
    ActiveMask {
        d: Slot,
    },
    /// Leader's lane number to d, whether this is the leader to p.
    Elect {
        d: Slot,
        p: Slot,
        members: Slot,
    },
    /// Warp-wide barrier.
    WarpSync {
        members: Slot,
    },
    /// `id` and `count` are 32-bit slots; `count` [`NONE`] means the whole block.
    Barrier {
        kind: Barrier,
        id: Slot,
        count: Slot,
        d: Slot,
        p: Slot,
        negate: bool,
    },
    Mbarrier {
        kind: Mbarrier,
        memory: Memory,
        d: Slot,
        a: Slot,
    },
    /// Index into [`Program::matrices`].
    Matrix(u32),
    /// Index into [`Program::fragments`].
    Fragment(u32),
    /// Loads `count` 8x8 matrices of 16-bit elements from shared memory.
    LoadMatrix {
        memory: Memory,
        count: u8,
        transpose: bool,
        slots: [Slot; 4],
    },
    /// Stores them.
    StoreMatrix {
        memory: Memory,
        count: u8,
        transpose: bool,
        slots: [Slot; 4],
    },
    /// Transposes one 8x8 matrix of 16-bit elements held across the warp.
    MoveMatrix {
        d: Slot,
        a: Slot,
    },
    Branch {
        to: u32,
    },
    /// Jumps by index through [`Program::tables`].
    BranchTable {
        index: Slot,
        table: u32,
    },
    /// Direct call; index into [`Program::calls`].
    Call {
        site: u32,
    },
    /// The same to the function address in a 64-bit slot.
    CallIndirect {
        site: u32,
        target: Slot,
    },
    Return,
    Exit,
    Trap,
    /// `__assertfail`: message, file, line, function at these offsets of the frame.
    AssertFail {
        message: u32,
        file: u32,
        line: u32,
        function: u32,
    },
    /// `vprintf`: format and argument pointers at these offsets of the frame; characters written to `d`'s offset.
    Print {
        format: u32,
        args: u32,
        result: u32,
    },
    Nop,
    /// A compiled region begins here; index into the compiled form's regions. Never in [`Program::code`].
    Compiled(u32),
}

/// One instruction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Inst {
    pub(crate) guard: Guard,
    pub(crate) op: Op,
}

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
