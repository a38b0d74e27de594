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

mod operation;
mod program;

use crate::fault::Space;
use crate::ops::compare::Compare;
use crate::ops::convert::Convert;
use crate::ops::float32::Float32;
use crate::ops::float64::Float64;
use crate::ops::half::Half;
use crate::ops::int32::Int32;
use crate::ops::int64::Int64;

pub(crate) use operation::*;
pub(crate) use program::*;

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
