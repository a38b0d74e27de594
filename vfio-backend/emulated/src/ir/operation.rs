//! What the rarer instructions do: their modes, and those of them that have a table row of their own.

use super::{Memory, Slot};

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
