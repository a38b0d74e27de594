//! The table: what a module may use, one row per form of an opcode; anything else is refused.
//!
//! Shapes name operands by one letter each, alternatives divided by `/`:
//! `d` a register written (or `_`); `D` the same or a vector of them; `P` one predicate written, or
//! two as `p|q`; `x` a register, or `d|p`; `s` a value: register, special register or number; `q` a
//! predicate, perhaps negated; `S` a value or vector of values; `m` whatever `mov` can read; `A` an
//! address; `i` an integer constant; `y` a symbol or label. Source: PTX ISA 9.0, section 9.7.

use super::{Class, Row};
use crate::tree::Flag::*;
use crate::tree::ScalarType::{self, *};
use crate::tree::{Flag, Op, Space};

/// A set of types, one bit each.
pub(super) const fn types(lists: &[&[ScalarType]]) -> u64 {
    let mut set = 0;
    let mut i = 0;
    while i < lists.len() {
        let mut j = 0;
        while j < lists[i].len() {
            set |= 1 << lists[i][j] as u8;
            j += 1;
        }
        i += 1;
    }
    set
}

/// A set of state spaces, one bit each.
const fn spaces(list: &[Space]) -> u16 {
    let mut set = 0;
    let mut i = 0;
    while i < list.len() {
        set |= 1 << list[i] as u8;
        i += 1;
    }
    set
}

/// A set of flags, one bit each.
pub(super) const fn flags(lists: &[&[Flag]]) -> [u64; 4] {
    let mut set = [0; 4];
    let mut i = 0;
    while i < lists.len() {
        let mut j = 0;
        while j < lists[i].len() {
            let bit = lists[i][j] as usize;
            set[bit / 64] |= 1 << (bit % 64);
            j += 1;
        }
        i += 1;
    }
    set
}

const INT: &[ScalarType] = &[U16, U32, U64, S16, S32, S64];
const INT32: &[ScalarType] = &[U32, S32, U64, S64];
const PACKED_INT: &[ScalarType] = &[U16x2, S16x2];
const BITS: &[ScalarType] = &[B16, B32, B64];
const BITS32: &[ScalarType] = &[B32, B64];
const FLOAT: &[ScalarType] = &[F32, F64];
const HALF: &[ScalarType] = &[F16, F16x2, ScalarType::Bf16, ScalarType::Bf16x2];
const NARROW: &[ScalarType] = &[U8, S8, E4m3x2, E5m2x2, Tf32, F32x2];
const MEMORY: &[ScalarType] = &[
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F32,
    F64,
    F16,
    F16x2,
    ScalarType::Bf16,
    ScalarType::Bf16x2,
];
const ROUND: &[Flag] = &[Rn, Rz, Rm, Rp];
const ROUND_INT: &[Flag] = &[Rni, Rzi, Rmi, Rpi];
const COMPARE: &[Flag] =
    &[Eq, Ne, Lt, Le, Gt, Ge, Lo, Ls, Hi, Hs, Equ, Neu, Ltu, Leu, Gtu, Geu, Num, IsNan];
const BOOL: &[Flag] = &[And, Or, Xor];
const ORDER: &[Flag] = &[Weak, Volatile, Relaxed, Acquire, Release, AcqRel, Sc];
const SCOPE: &[Flag] = &[Cta, Cluster, Gpu, Sys];
const CACHE: &[Flag] = &[
    Ca,
    Cg,
    Cs,
    Lu,
    Cv,
    Wb,
    Wt,
    Nc,
    L1EvictNormal,
    L1EvictUnchanged,
    L1EvictFirst,
    L1EvictLast,
    L1NoAllocate,
    L2EvictNormal,
    L2EvictFirst,
    L2EvictLast,
    L2CacheHint,
    L2x64B,
    L2x128B,
    L2x256B,
];
const VECTOR: &[Flag] = &[V2, V4, V8];
const ATOMIC: &[Flag] = &[And, Or, Xor, Cas, Exch, Add, Inc, Dec, Min, Max, Noftz, L2CacheHint];
const SHAPES: &[Flag] = &[
    M8n8k4, M8n8k16, M8n8k32, M8n8k128, M16n8k4, M16n8k8, M16n8k16, M16n8k32, M16n8k64, M16n8k128,
    M16n8k256, M16n16k8, M16n16k16, M8n32k16, M32n8k16,
];
const MATRIX_TYPES: &[ScalarType] =
    &[B1, U4, S4, U8, S8, S32, F16, ScalarType::Bf16, Tf32, F32, F64, E4m3, E5m2];
const SHARED: &[Space] = &[Space::Shared, Space::SharedCta];
const DATA: &[Space] = &[Space::Global, Space::Shared, Space::SharedCta];

const fn row(op: Op, class: Class, shapes: &'static str) -> Row {
    Row { op, class, shapes, types: 0, spaces: 0, flags: [0; 4], needs: [0; 4] }
}

impl Row {
    const fn t(mut self, lists: &[&[ScalarType]]) -> Self {
        self.types = types(lists);
        self
    }
    const fn f(mut self, lists: &[&[Flag]]) -> Self {
        self.flags = flags(lists);
        self
    }
    const fn s(mut self, list: &[Space]) -> Self {
        self.spaces = spaces(list);
        self
    }
    /// Flags that this form must have.
    const fn n(mut self, list: &[Flag]) -> Self {
        self.needs = flags(&[list]);
        let mut i = 0;
        while i < 4 {
            self.flags[i] |= self.needs[i];
            i += 1;
        }
        self
    }
}

use Class::{Alu, Async, Barrier, Control, Memory, Tensor, Warp};

/// Every form that a module may use. Rows of one opcode stand together.
pub(super) const TABLE: &[Row] = &[
    // Integer and floating-point arithmetic.
    row(Op::Abs, Alu, "ds").t(&[&[S16, S32, S64], FLOAT, HALF]).f(&[&[Ftz]]),
    row(Op::Add, Alu, "dss")
        .t(&[INT, PACKED_INT, FLOAT, HALF, &[F32x2]])
        .f(&[ROUND, &[Sat, Cc, Ftz]]),
    row(Op::Addc, Alu, "dss").t(&[INT32]).f(&[&[Cc]]),
    row(Op::Sub, Alu, "dss")
        .t(&[INT, PACKED_INT, FLOAT, HALF, &[F32x2]])
        .f(&[ROUND, &[Sat, Cc, Ftz]]),
    row(Op::Subc, Alu, "dss").t(&[INT32]).f(&[&[Cc]]),
    row(Op::Mul, Alu, "dss")
        .t(&[INT, FLOAT, HALF, &[F32x2]])
        .f(&[ROUND, &[Sat, Ftz, Hi, Lo, Wide]]),
    row(Op::Mul24, Alu, "dss").t(&[&[U32, S32]]).f(&[&[Hi, Lo]]),
    row(Op::Mad, Alu, "dsss").t(&[INT, FLOAT]).f(&[ROUND, &[Sat, Ftz, Hi, Lo, Wide, Cc]]),
    row(Op::Mad24, Alu, "dsss").t(&[&[U32, S32]]).f(&[&[Hi, Lo, Sat]]),
    row(Op::Madc, Alu, "dsss").t(&[INT32]).f(&[&[Hi, Lo, Cc]]),
    row(Op::Fma, Alu, "dsss").t(&[FLOAT, HALF, &[F32x2]]).f(&[ROUND, &[Ftz, Sat, Relu, Oob]]),
    row(Op::Sad, Alu, "dsss").t(&[INT]),
    row(Op::Div, Alu, "dss").t(&[INT, FLOAT]).f(&[ROUND, &[Approx, Full, Ftz]]),
    row(Op::Rem, Alu, "dss").t(&[INT]),
    row(Op::Neg, Alu, "ds").t(&[&[S16, S32, S64], FLOAT, HALF]).f(&[&[Ftz]]),
    row(Op::Min, Alu, "dss/dsss").t(&[INT, PACKED_INT, FLOAT, HALF]).f(&[&[
        Ftz,
        Nan,
        Xorsign,
        Flag::Abs,
        Relu,
    ]]),
    row(Op::Max, Alu, "dss/dsss").t(&[INT, PACKED_INT, FLOAT, HALF]).f(&[&[
        Ftz,
        Nan,
        Xorsign,
        Flag::Abs,
        Relu,
    ]]),
    row(Op::Popc, Alu, "ds").t(&[BITS32]),
    row(Op::Clz, Alu, "ds").t(&[BITS32]),
    row(Op::Bfind, Alu, "ds").t(&[INT32]).f(&[&[Shiftamt]]),
    row(Op::Brev, Alu, "ds").t(&[BITS32]),
    row(Op::Fns, Alu, "dsss").t(&[&[B32]]),
    row(Op::Bfe, Alu, "dsss").t(&[INT32]),
    row(Op::Bfi, Alu, "dssss").t(&[BITS32]),
    row(Op::Szext, Alu, "dss").t(&[&[U32, S32]]).f(&[&[Clamp, Wrap]]),
    row(Op::Bmsk, Alu, "dss").t(&[&[B32]]).f(&[&[Clamp, Wrap]]),
    row(Op::Dp4a, Alu, "dsss").t(&[&[U32, S32]]),
    row(Op::Dp2a, Alu, "dsss").t(&[&[U32, S32]]).f(&[&[Lo, Hi]]),
    row(Op::Testp, Alu, "ds")
        .t(&[FLOAT])
        .f(&[&[Finite, Infinite, Number, Notanumber, Normal, Subnormal]]),
    row(Op::Copysign, Alu, "dss").t(&[FLOAT]),
    row(Op::Rcp, Alu, "ds").t(&[FLOAT]).f(&[ROUND, &[Approx, Ftz]]),
    row(Op::Sqrt, Alu, "ds").t(&[FLOAT]).f(&[ROUND, &[Approx, Ftz]]),
    row(Op::Rsqrt, Alu, "ds").t(&[FLOAT]).f(&[&[Approx, Ftz]]),
    row(Op::Sin, Alu, "ds").t(&[&[F32]]).f(&[&[Approx, Ftz]]),
    row(Op::Cos, Alu, "ds").t(&[&[F32]]).f(&[&[Approx, Ftz]]),
    row(Op::Lg2, Alu, "ds").t(&[&[F32]]).f(&[&[Approx, Ftz]]),
    row(Op::Ex2, Alu, "ds").t(&[&[F32], HALF]).f(&[&[Approx, Ftz]]),
    row(Op::Tanh, Alu, "ds").t(&[&[F32], HALF]).f(&[&[Approx]]),
    // Packed integers, as the `__v…` intrinsics use them.
    row(Op::Vadd2, Alu, "dsss").t(&[&[U32, S32]]).f(&[&[Sat, Add]]),
    row(Op::Vadd4, Alu, "dsss").t(&[&[U32, S32]]).f(&[&[Sat, Add]]),
    row(Op::Vsub2, Alu, "dsss").t(&[&[U32, S32]]).f(&[&[Sat, Add]]),
    row(Op::Vsub4, Alu, "dsss").t(&[&[U32, S32]]).f(&[&[Sat, Add]]),
    row(Op::Vavrg2, Alu, "dsss").t(&[&[U32, S32]]).f(&[&[Sat, Add]]),
    row(Op::Vavrg4, Alu, "dsss").t(&[&[U32, S32]]).f(&[&[Sat, Add]]),
    row(Op::Vabsdiff2, Alu, "dsss").t(&[&[U32, S32]]).f(&[&[Sat, Add]]),
    row(Op::Vabsdiff4, Alu, "dsss").t(&[&[U32, S32]]).f(&[&[Sat, Add]]),
    row(Op::Vmin2, Alu, "dsss").t(&[&[U32, S32]]).f(&[&[Sat, Add]]),
    row(Op::Vmin4, Alu, "dsss").t(&[&[U32, S32]]).f(&[&[Sat, Add]]),
    row(Op::Vmax2, Alu, "dsss").t(&[&[U32, S32]]).f(&[&[Sat, Add]]),
    row(Op::Vmax4, Alu, "dsss").t(&[&[U32, S32]]).f(&[&[Sat, Add]]),
    row(Op::Vset2, Alu, "dsss").t(&[&[U32, S32]]).f(&[COMPARE, &[Add]]),
    row(Op::Vset4, Alu, "dsss").t(&[&[U32, S32]]).f(&[COMPARE, &[Add]]),
    // Comparison, selection, logic, shifts.
    row(Op::Set, Alu, "dss/dssq").t(&[INT, BITS, FLOAT, HALF]).f(&[COMPARE, BOOL, &[Ftz]]),
    row(Op::Setp, Alu, "Pss/Pssq").t(&[INT, BITS, FLOAT, HALF]).f(&[COMPARE, BOOL, &[Ftz]]),
    row(Op::Selp, Alu, "dssq").t(&[INT, BITS, FLOAT]),
    row(Op::Slct, Alu, "dsss").t(&[INT, BITS, FLOAT]).f(&[&[Ftz]]),
    row(Op::And, Alu, "dss").t(&[BITS, &[Pred]]),
    row(Op::Or, Alu, "dss").t(&[BITS, &[Pred]]),
    row(Op::Xor, Alu, "dss").t(&[BITS, &[Pred]]),
    row(Op::Not, Alu, "ds").t(&[BITS, &[Pred]]),
    row(Op::Cnot, Alu, "ds").t(&[BITS]),
    row(Op::Lop3, Alu, "xsssi/xsssiq").t(&[&[B32]]).f(&[&[And, Or]]),
    row(Op::Shf, Alu, "dsss").t(&[&[B32]]).f(&[&[L, R, Clamp, Wrap]]),
    row(Op::Shl, Alu, "dss").t(&[BITS]),
    row(Op::Shr, Alu, "dss").t(&[BITS, INT]),
    row(Op::Prmt, Alu, "dsss").t(&[&[B32]]).f(&[&[F4e, B4e, Rc8, Ecl, Ecr, Rc16]]),
    // Data movement without memory.
    row(Op::Mov, Alu, "Dm").t(&[INT, BITS, FLOAT, HALF, &[Pred, B128]]),
    row(Op::Cvt, Alu, "ds/dss/dsss").t(&[INT, BITS, FLOAT, HALF, NARROW]).f(&[
        ROUND,
        ROUND_INT,
        &[Rna, Rs, Ftz, Sat, Satfinite, Relu, Pack],
    ]),
    row(Op::Cvta, Alu, "dm").t(&[&[U32, U64]]).f(&[&[To]]).s(&[
        Space::Const,
        Space::Global,
        Space::Local,
        Space::Shared,
        Space::SharedCta,
        Space::Param,
        Space::ParamEntry,
    ]),
    row(Op::Isspacep, Alu, "ds").s(&[
        Space::Const,
        Space::Global,
        Space::Local,
        Space::Shared,
        Space::SharedCta,
        Space::Param,
        Space::ParamEntry,
    ]),
    row(Op::Createpolicy, Alu, "d/ds")
        .t(&[&[B64]])
        .f(&[&[L2EvictNormal, L2EvictFirst, L2EvictLast, L2EvictUnchanged]])
        .n(&[Fractional]),
    // Memory.
    row(Op::Ld, Memory, "DA/DAs").t(&[MEMORY]).f(&[ORDER, SCOPE, CACHE, VECTOR]).s(&[
        Space::Const,
        Space::Global,
        Space::Local,
        Space::Param,
        Space::ParamEntry,
        Space::ParamFunc,
        Space::Shared,
        Space::SharedCta,
    ]),
    row(Op::Ldu, Memory, "DA").t(&[MEMORY]).f(&[VECTOR]).s(&[Space::Global]),
    row(Op::St, Memory, "AS/ASs").t(&[MEMORY]).f(&[ORDER, SCOPE, CACHE, VECTOR]).s(&[
        Space::Global,
        Space::Local,
        Space::Param,
        Space::ParamFunc,
        Space::Shared,
        Space::SharedCta,
    ]),
    row(Op::Atom, Memory, "DAS/DASS/DASSs")
        .t(&[INT32, BITS, FLOAT, HALF, &[B128]])
        .f(&[ORDER, SCOPE, ATOMIC, VECTOR])
        .s(DATA),
    row(Op::Red, Memory, "AS/ASs")
        .t(&[INT32, BITS, FLOAT, HALF])
        .f(&[ORDER, SCOPE, ATOMIC, VECTOR])
        .s(DATA),
    row(Op::Prefetch, Memory, "A")
        .f(&[&[L1, L2, L2EvictLast, L2EvictNormal]])
        .s(&[Space::Global, Space::Local]),
    row(Op::Prefetchu, Memory, "A").n(&[L1]),
    row(Op::Membar, Barrier, "").f(&[&[Cta, Gl, Sys]]),
    row(Op::Fence, Barrier, "").f(&[SCOPE, &[Sc, AcqRel, Acquire, Release, MbarrierInit]]),
    row(Op::Fence, Barrier, "").f(&[&[Flag::Async, Alias]]).s(DATA).n(&[Proxy]),
    // Control.
    row(Op::Bra, Control, "y").f(&[&[Uni]]),
    row(Op::Brx, Control, "sy").f(&[&[Uni]]).n(&[Idx]),
    row(Op::Call, Control, "*").f(&[&[Uni]]),
    row(Op::Ret, Control, "").f(&[&[Uni]]),
    row(Op::Exit, Control, ""),
    row(Op::Trap, Control, ""),
    row(Op::Nanosleep, Control, "s").t(&[&[U32]]),
    row(Op::Griddepcontrol, Control, "").f(&[&[LaunchDependents, Wait]]),
    // Barriers.
    row(Op::Bar, Barrier, "s").n(&[Flag::Warp, Sync]),
    row(Op::Bar, Barrier, "s/ss").f(&[&[Cta, Arrive, Aligned]]).n(&[Sync]),
    row(Op::Bar, Barrier, "ss").f(&[&[Cta, Aligned]]).n(&[Arrive]),
    row(Op::Bar, Barrier, "dsq/dssq")
        .t(&[&[U32, Pred]])
        .f(&[&[Cta, Aligned, Popc, And, Or]])
        .n(&[Flag::Red]),
    row(Op::Barrier, Barrier, "")
        .f(&[&[Arrive, Wait, Release, Relaxed, Acquire, Aligned]])
        .n(&[Cluster]),
    row(Op::Barrier, Barrier, "s/ss").f(&[&[Cta, Aligned]]).n(&[Sync]),
    row(Op::Barrier, Barrier, "ss").f(&[&[Cta, Aligned]]).n(&[Arrive]),
    row(Op::Barrier, Barrier, "dsq/dssq")
        .t(&[&[U32, Pred]])
        .f(&[&[Cta, Aligned, Popc, And, Or]])
        .n(&[Flag::Red]),
    // Warp-wide.
    row(Op::Activemask, Warp, "d").t(&[&[B32]]),
    row(Op::Vote, Warp, "dqs").t(&[&[Pred, B32]]).f(&[&[All, Any, Uni, Ballot]]).n(&[Sync]),
    row(Op::Match, Warp, "xss").t(&[BITS32]).f(&[&[Any, All]]).n(&[Sync]),
    row(Op::Redux, Warp, "dss")
        .t(&[&[U32, S32, B32, F32]])
        .f(&[&[Add, Min, Max, And, Or, Xor, Flag::Abs, Nan]])
        .n(&[Sync]),
    row(Op::Shfl, Warp, "xssss").t(&[&[B32]]).f(&[&[Up, Down, Bfly, Idx]]).n(&[Sync]),
    row(Op::Elect, Warp, "xs").n(&[Sync]),
    // Asynchronous copies and mbarrier.
    row(Op::Cp, Async, "AAi/AAis/AAiq/AAiss")
        .f(&[&[Ca, Cg, L2CacheHint, L2x64B, L2x128B, L2x256B]])
        .s(DATA)
        .n(&[Flag::Async]),
    row(Op::Cp, Async, "").n(&[Flag::Async, CommitGroup]),
    row(Op::Cp, Async, "i").n(&[Flag::Async, WaitGroup]),
    row(Op::Cp, Async, "").n(&[Flag::Async, WaitAll]),
    row(Op::Cp, Async, "A").t(&[&[B64]]).f(&[&[Noinc]]).s(SHARED).n(&[
        Flag::Async,
        Flag::Mbarrier,
        Arrive,
    ]),
    row(Op::Cp, Async, "").n(&[Flag::Async, Bulk, CommitGroup]),
    row(Op::Cp, Async, "i").f(&[&[Read]]).n(&[Flag::Async, Bulk, WaitGroup]),
    row(Op::Cp, Async, "As/Ass").f(&[&[L2CacheHint]]).s(&[Space::Global]).n(&[
        Flag::Async,
        Bulk,
        Flag::Prefetch,
        L2,
    ]),
    row(Op::Cp, Async, "AAsA/AAsAs")
        .f(&[&[L2CacheHint]])
        .s(&[Space::Global, Space::SharedCta, Space::SharedCluster])
        .n(&[Flag::Async, Bulk, MbarrierCompleteTx]),
    row(Op::Cp, Async, "AAs/AAss").f(&[&[L2CacheHint]]).s(&[Space::Global, Space::SharedCta]).n(&[
        Flag::Async,
        Bulk,
        BulkGroup,
    ]),
    row(Op::Cp, Async, "AAs/AAss")
        .t(&[INT32, BITS32, FLOAT, HALF])
        .f(&[ATOMIC])
        .s(&[Space::Global, Space::SharedCta])
        .n(&[Flag::Reduce, Flag::Async, Bulk, BulkGroup]),
    row(Op::Mbarrier, Async, "As").t(&[&[B64]]).s(SHARED).n(&[Init]),
    row(Op::Mbarrier, Async, "A").t(&[&[B64]]).s(SHARED).n(&[Inval]),
    row(Op::Mbarrier, Async, "dA/dAs")
        .t(&[&[B64]])
        .f(&[&[ExpectTx, NoComplete, Release, Relaxed, Cta, Cluster]])
        .s(SHARED)
        .n(&[Arrive]),
    row(Op::Mbarrier, Async, "dA/dAs")
        .t(&[&[B64]])
        .f(&[&[ExpectTx, NoComplete, Release, Relaxed, Cta, Cluster]])
        .s(SHARED)
        .n(&[ArriveDrop]),
    row(Op::Mbarrier, Async, "As")
        .t(&[&[B64]])
        .f(&[&[Relaxed, Cta, Cluster]])
        .s(SHARED)
        .n(&[ExpectTx]),
    row(Op::Mbarrier, Async, "As")
        .t(&[&[B64]])
        .f(&[&[Relaxed, Cta, Cluster]])
        .s(SHARED)
        .n(&[CompleteTx]),
    row(Op::Mbarrier, Async, "dAs")
        .t(&[&[B64]])
        .f(&[&[Parity, Acquire, Relaxed, Cta, Cluster]])
        .s(SHARED)
        .n(&[TestWait]),
    row(Op::Mbarrier, Async, "dAs/dAss")
        .t(&[&[B64]])
        .f(&[&[Parity, Acquire, Relaxed, Cta, Cluster]])
        .s(SHARED)
        .n(&[TryWait]),
    row(Op::Mbarrier, Async, "ds").t(&[&[B64]]).n(&[PendingCount]),
    // Matrices.
    row(Op::Ldmatrix, Tensor, "DA")
        .t(&[&[B16]])
        .f(&[&[X1, X2, X4, Trans, Aligned]])
        .s(SHARED)
        .n(&[Sync, M8n8]),
    row(Op::Stmatrix, Tensor, "AS")
        .t(&[&[B16]])
        .f(&[&[X1, X2, X4, Trans, Aligned]])
        .s(SHARED)
        .n(&[Sync, M8n8]),
    row(Op::Movmatrix, Tensor, "ds").t(&[&[B16]]).f(&[&[Trans, Aligned]]).n(&[Sync, M8n8]),
    row(Op::Mma, Tensor, "DSSS/DSSSSi")
        .t(&[MATRIX_TYPES])
        .f(&[SHAPES, &[Aligned, Row, Col, Satfinite, And, Xor, Popc, Sp, SpOrdered]])
        .n(&[Sync]),
    row(Op::Wmma, Tensor, "DA/DAs")
        .t(&[MATRIX_TYPES])
        .f(&[SHAPES, &[A, B, C, Row, Col, Aligned]])
        .s(DATA)
        .n(&[Load, Sync]),
    row(Op::Wmma, Tensor, "AS/ASs")
        .t(&[MATRIX_TYPES])
        .f(&[SHAPES, &[D, Row, Col, Aligned]])
        .s(DATA)
        .n(&[Store, Sync]),
    row(Op::Wmma, Tensor, "DSSS")
        .t(&[MATRIX_TYPES])
        .f(&[SHAPES, ROUND, &[Row, Col, Aligned, Satfinite, And, Xor, Popc]])
        .n(&[Flag::Mma, Sync]),
];

/// Opcodes that have no row on purpose, and why.
pub(super) const REFUSED: &[(Op, &str)] = &[
    (Op::Alloca, "the stack has a fixed size; use a .local array"),
    (Op::Stacksave, "the stack has a fixed size; use a .local array"),
    (Op::Stackrestore, "the stack has a fixed size; use a .local array"),
    (Op::Applypriority, "it acts on cache lines of others; leave it out"),
    (Op::Discard, "it destroys cache lines, which others may share; leave it out"),
    (Op::Brkpt, "it stops the whole GPU; leave it out"),
    (Op::Pmevent, "it writes the GPU's performance monitors; leave it out"),
    (Op::Clusterlaunchcontrol, "it takes over other blocks' launches and is not supported"),
    (Op::Getctarank, "distributed shared memory is not supported"),
    (Op::Mapa, "distributed shared memory is not supported"),
    (Op::Istypep, "texture, sampler and surface handles are not supported"),
    (Op::Multimem, "it reaches memory of other GPUs and is not supported"),
    (Op::Setmaxnreg, "it can stop a block for ever and is not supported"),
    (Op::Suld, "surfaces are not supported; use global memory"),
    (Op::Suq, "surfaces are not supported; use global memory"),
    (Op::Sured, "surfaces are not supported; use global memory"),
    (Op::Sust, "surfaces are not supported; use global memory"),
    (Op::Tcgen05, "tensor memory (sm_100) is not supported; use mma"),
    (Op::Tensormap, "tensor maps (TMA) are not supported; use cp.async"),
    (Op::Tex, "textures are not supported; use global memory"),
    (Op::Tld4, "textures are not supported; use global memory"),
    (Op::Txq, "textures are not supported; use global memory"),
    (Op::Vabsdiff, "scalar video instructions are not supported"),
    (Op::Vadd, "scalar video instructions are not supported"),
    (Op::Vmad, "scalar video instructions are not supported"),
    (Op::Vmax, "scalar video instructions are not supported"),
    (Op::Vmin, "scalar video instructions are not supported"),
    (Op::Vset, "scalar video instructions are not supported"),
    (Op::Vshl, "scalar video instructions are not supported"),
    (Op::Vshr, "scalar video instructions are not supported"),
    (Op::Vsub, "scalar video instructions are not supported"),
    (Op::Wgmma, "its operands are descriptors that cannot be checked; use mma"),
];
