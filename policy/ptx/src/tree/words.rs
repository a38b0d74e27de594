//! The closed vocabularies of PTX: base opcodes, scalar types, state spaces, modifier flags and
//! special registers, each as a small `Copy` enum that knows its spelling.
//!
//! A word being listed here means that it can be *named*, not that it is allowed: what a module
//! may use is decided by the table in [`crate::opcode`]. Words that are not listed survive parsing
//! as text and are refused later, by name. Source: PTX ISA 9.0, sections 4, 5, 9 and 10.

/// Slots of a look-up table; at least twice the largest vocabulary.
const SLOTS: usize = 512;
/// An empty slot.
const EMPTY: u8 = u8::MAX;

/// Where the search for a word begins: length, ends and middle tell PTX's words well apart.
const fn slot(text: &[u8]) -> usize {
    let len = text.len();
    if len == 0 {
        return 0;
    }
    let (first, last) = (text[0] as usize, text[len - 1] as usize);
    let (half, third) = (text[len / 2] as usize, text[len / 3] as usize);
    let mix = first * 31 + last * 131 + half * 67 + third * 17 + len * 241;
    (mix ^ (mix >> 7)) % SLOTS
}

/// A table from [`slot`] to the position of a word, with linear probing.
const fn slots(texts: &[&str]) -> [u8; SLOTS] {
    assert!(texts.len() < EMPTY as usize && texts.len() * 2 <= SLOTS);
    let mut table = [EMPTY; SLOTS];
    let mut index = 0;
    while index < texts.len() {
        let mut at = slot(texts[index].as_bytes());
        while table[at] != EMPTY {
            at = (at + 1) % SLOTS;
        }
        table[at] = index as u8;
        index += 1;
    }
    table
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        #[allow(missing_docs)] // Each variant is the word it is named after; see `text`.
        pub enum $name { $($variant),+ }
        impl $name {
            /// Every word of this vocabulary, in declaration order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            const TEXTS: &'static [&'static str] = &[$($text),+];
            /// The spelling in PTX text (without a leading dot).
            pub const fn text(self) -> &'static str {
                Self::TEXTS[self as usize]
            }
            /// The word with this spelling (without a leading dot), if it is one of these.
            pub fn from_text(text: &str) -> Option<Self> {
                static TABLE: [u8; SLOTS] = slots($name::TEXTS);
                let mut at = slot(text.as_bytes());
                // The table is at most half full, so the probing ends.
                while TABLE[at] != EMPTY {
                    let index = usize::from(TABLE[at]);
                    if Self::TEXTS[index] == text {
                        return Some(Self::ALL[index]);
                    }
                    at = (at + 1) % SLOTS;
                }
                None
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.text())
            }
        }
    };
}

words! {
    /// A base opcode: the part of an instruction before the first dot (PTX ISA section 9.7).
    Op {
        Abs = "abs", Activemask = "activemask", Add = "add", Addc = "addc", Alloca = "alloca",
        And = "and", Applypriority = "applypriority", Atom = "atom", Bar = "bar",
        Barrier = "barrier", Bfe = "bfe", Bfi = "bfi", Bfind = "bfind", Bmsk = "bmsk",
        Bra = "bra", Brev = "brev", Brkpt = "brkpt", Brx = "brx", Call = "call", Clz = "clz",
        Clusterlaunchcontrol = "clusterlaunchcontrol", Cnot = "cnot", Copysign = "copysign",
        Cos = "cos", Cp = "cp", Createpolicy = "createpolicy", Cvt = "cvt", Cvta = "cvta",
        Discard = "discard", Div = "div", Dp2a = "dp2a", Dp4a = "dp4a", Elect = "elect",
        Ex2 = "ex2", Exit = "exit", Fence = "fence", Fma = "fma", Fns = "fns",
        Getctarank = "getctarank", Griddepcontrol = "griddepcontrol", Isspacep = "isspacep",
        Istypep = "istypep", Ld = "ld", Ldmatrix = "ldmatrix", Ldu = "ldu", Lg2 = "lg2",
        Lop3 = "lop3", Mad = "mad", Mad24 = "mad24", Madc = "madc", Mapa = "mapa",
        Match = "match", Max = "max", Mbarrier = "mbarrier", Membar = "membar", Min = "min",
        Mma = "mma", Mov = "mov", Movmatrix = "movmatrix", Mul = "mul", Mul24 = "mul24",
        Multimem = "multimem", Nanosleep = "nanosleep", Neg = "neg", Not = "not", Or = "or",
        Pmevent = "pmevent", Popc = "popc", Prefetch = "prefetch", Prefetchu = "prefetchu",
        Prmt = "prmt", Rcp = "rcp", Red = "red", Redux = "redux", Rem = "rem", Ret = "ret",
        Rsqrt = "rsqrt", Sad = "sad", Selp = "selp", Set = "set", Setmaxnreg = "setmaxnreg",
        Setp = "setp", Shf = "shf", Shfl = "shfl", Shl = "shl", Shr = "shr", Sin = "sin",
        Slct = "slct", Sqrt = "sqrt", St = "st", Stackrestore = "stackrestore",
        Stacksave = "stacksave", Stmatrix = "stmatrix", Sub = "sub", Subc = "subc",
        Suld = "suld", Suq = "suq", Sured = "sured", Sust = "sust", Szext = "szext",
        Tanh = "tanh", Tcgen05 = "tcgen05", Tensormap = "tensormap", Testp = "testp",
        Tex = "tex", Tld4 = "tld4", Trap = "trap", Txq = "txq", Vabsdiff = "vabsdiff",
        Vabsdiff2 = "vabsdiff2", Vabsdiff4 = "vabsdiff4", Vadd = "vadd", Vadd2 = "vadd2",
        Vadd4 = "vadd4", Vavrg2 = "vavrg2", Vavrg4 = "vavrg4", Vmad = "vmad", Vmax = "vmax",
        Vmax2 = "vmax2", Vmax4 = "vmax4", Vmin = "vmin", Vmin2 = "vmin2", Vmin4 = "vmin4",
        Vote = "vote", Vset = "vset", Vset2 = "vset2", Vset4 = "vset4", Vshl = "vshl",
        Vshr = "vshr", Vsub = "vsub", Vsub2 = "vsub2", Vsub4 = "vsub4", Wgmma = "wgmma",
        Wmma = "wmma", Xor = "xor",
    }
}

words! {
    /// A scalar (or packed, or opaque) type (PTX ISA section 5.2).
    ScalarType {
        B1 = "b1", B8 = "b8", B16 = "b16", B32 = "b32", B64 = "b64", B128 = "b128",
        U4 = "u4", U8 = "u8", U16 = "u16", U32 = "u32", U64 = "u64",
        S4 = "s4", S8 = "s8", S16 = "s16", S32 = "s32", S64 = "s64",
        U16x2 = "u16x2", S16x2 = "s16x2",
        F16 = "f16", F16x2 = "f16x2", Bf16 = "bf16", Bf16x2 = "bf16x2", Tf32 = "tf32",
        F32 = "f32", F32x2 = "f32x2", F64 = "f64",
        E4m3 = "e4m3", E5m2 = "e5m2", E4m3x2 = "e4m3x2", E5m2x2 = "e5m2x2",
        Pred = "pred", Texref = "texref", Samplerref = "samplerref", Surfref = "surfref",
    }
}

impl ScalarType {
    /// Width in bits; 0 for predicates and opaque types, which have no storage size.
    pub const fn bits(self) -> u32 {
        use ScalarType::*;
        match self {
            B1 => 1,
            U4 | S4 => 4,
            B8 | U8 | S8 | E4m3 | E5m2 => 8,
            B16 | U16 | S16 | F16 | Bf16 | E4m3x2 | E5m2x2 => 16,
            B32 | U32 | S32 | U16x2 | S16x2 | F16x2 | Bf16x2 | Tf32 | F32 => 32,
            B64 | U64 | S64 | F32x2 | F64 => 64,
            B128 => 128,
            Pred | Texref | Samplerref | Surfref => 0,
        }
    }

    /// Width in bytes in memory (0 for sub-byte, predicate and opaque types).
    pub const fn bytes(self) -> u32 {
        self.bits() / 8
    }

    /// True for a two's complement type.
    pub const fn is_signed(self) -> bool {
        matches!(self, Self::S4 | Self::S8 | Self::S16 | Self::S32 | Self::S64 | Self::S16x2)
    }

    /// True for a floating-point type, packed ones included.
    pub const fn is_float(self) -> bool {
        use ScalarType::*;
        matches!(
            self,
            F16 | F16x2 | Bf16 | Bf16x2 | Tf32 | F32 | F32x2 | F64 | E4m3 | E5m2 | E4m3x2 | E5m2x2
        )
    }

    /// True for a type whose values are opaque handles.
    pub const fn is_opaque(self) -> bool {
        matches!(self, Self::Texref | Self::Samplerref | Self::Surfref)
    }
}

words! {
    /// A state space, with sub-qualifiers where PTX has them (PTX ISA section 5.1).
    Space {
        Reg = "reg", Const = "const", Global = "global", Local = "local", Param = "param",
        ParamEntry = "param::entry", ParamFunc = "param::func", Shared = "shared",
        SharedCta = "shared::cta", SharedCluster = "shared::cluster", Tex = "tex",
    }
}

impl Space {
    /// True for `.shared` with or without sub-qualifier.
    pub const fn is_shared(self) -> bool {
        matches!(self, Self::Shared | Self::SharedCta | Self::SharedCluster)
    }

    /// True for `.param` with or without sub-qualifier.
    pub const fn is_param(self) -> bool {
        matches!(self, Self::Param | Self::ParamEntry | Self::ParamFunc)
    }
}

words! {
    /// A modifier that is neither a type nor a state space.
    Flag {
        V2 = "v2", V4 = "v4", V8 = "v8",
        // Rounding, saturation, range.
        Rn = "rn", Rna = "rna", Rz = "rz", Rm = "rm", Rp = "rp", Rni = "rni", Rzi = "rzi",
        Rmi = "rmi", Rpi = "rpi", Rs = "rs", Ftz = "ftz", Sat = "sat", Satfinite = "satfinite",
        Approx = "approx", Full = "full", Nan = "NaN", IsNan = "nan", Xorsign = "xorsign", Abs = "abs",
        Relu = "relu", Oob = "oob", Pack = "pack",
        // Integer arithmetic.
        Cc = "cc", Hi = "hi", Lo = "lo", Wide = "wide", L = "l", R = "r", Clamp = "clamp",
        Wrap = "wrap", Shiftamt = "shiftamt", F4e = "f4e", B4e = "b4e", Rc8 = "rc8",
        Ecl = "ecl", Ecr = "ecr", Rc16 = "rc16", Mask = "mask",
        // Comparison and boolean operators.
        Eq = "eq", Ne = "ne", Lt = "lt", Le = "le", Gt = "gt", Ge = "ge", Ls = "ls", Hs = "hs",
        Equ = "equ", Neu = "neu", Ltu = "ltu", Leu = "leu", Gtu = "gtu", Geu = "geu",
        Num = "num", And = "and", Or = "or", Xor = "xor", Not = "not",
        Finite = "finite", Infinite = "infinite", Number = "number", Notanumber = "notanumber",
        Normal = "normal", Subnormal = "subnormal",
        // Memory order, scope and cache operators.
        Weak = "weak", Volatile = "volatile", Relaxed = "relaxed", Acquire = "acquire",
        Release = "release", AcqRel = "acq_rel", Sc = "sc", Mmio = "mmio", Cta = "cta",
        Cluster = "cluster", Gpu = "gpu", Sys = "sys", Gl = "gl", Ca = "ca", Cg = "cg",
        Cs = "cs", Lu = "lu", Cv = "cv", Wb = "wb", Wt = "wt", Nc = "nc", Unified = "unified",
        L1 = "L1", L2 = "L2", L1EvictNormal = "L1::evict_normal",
        L1EvictUnchanged = "L1::evict_unchanged", L1EvictFirst = "L1::evict_first",
        L1EvictLast = "L1::evict_last", L1NoAllocate = "L1::no_allocate",
        L2EvictNormal = "L2::evict_normal", L2EvictFirst = "L2::evict_first",
        L2EvictLast = "L2::evict_last", L2EvictUnchanged = "L2::evict_unchanged",
        L2CacheHint = "L2::cache_hint", L2x64B = "L2::64B", L2x128B = "L2::128B",
        L2x256B = "L2::256B", Tensormap = "tensormap", Fractional = "fractional",
        Range = "range", Noftz = "noftz",
        // Atomics and reductions.
        Add = "add", Inc = "inc", Dec = "dec", Min = "min", Max = "max", Exch = "exch",
        Cas = "cas",
        // Control, barriers, warps.
        Uni = "uni", Idx = "idx", Sync = "sync", Arrive = "arrive", Red = "red",
        Popc = "popc", Warp = "warp", Aligned = "aligned", All = "all", Any = "any",
        Ballot = "ballot", Up = "up", Down = "down", Bfly = "bfly", Wait = "wait",
        Alias = "alias", Proxy = "proxy", Async = "async", MbarrierInit = "mbarrier_init",
        SyncRestrict = "sync_restrict",
        LaunchDependents = "launch_dependents", To = "to", Params = "params",
        // Asynchronous copies and mbarrier.
        Bulk = "bulk", CommitGroup = "commit_group", WaitGroup = "wait_group",
        WaitAll = "wait_all", BulkGroup = "bulk_group", Read = "read", Reduce = "reduce",
        Prefetch = "prefetch", Tensor = "tensor", Mbarrier = "mbarrier",
        MbarrierCompleteTx = "mbarrier::complete_tx::bytes", CpMask = "cp_mask",
        MulticastCluster = "multicast::cluster", Noinc = "noinc", Init = "init",
        Inval = "inval", ExpectTx = "expect_tx", CompleteTx = "complete_tx",
        ArriveDrop = "arrive_drop", NoComplete = "noComplete", TestWait = "test_wait",
        TryWait = "try_wait", Parity = "parity", PendingCount = "pending_count",
        CpFenceproxy = "cp_fenceproxy", Replace = "replace",
        // Matrix instructions.
        Row = "row", Col = "col", Load = "load", Store = "store", Mma = "mma", A = "a",
        B = "b", C = "c", D = "d", Trans = "trans", X1 = "x1", X2 = "x2", X4 = "x4",
        M8n8 = "m8n8", M8n16 = "m8n16", M16n16 = "m16n16", M8n8k4 = "m8n8k4",
        M8n8k16 = "m8n8k16", M8n8k32 = "m8n8k32", M8n8k128 = "m8n8k128",
        M16n8k4 = "m16n8k4", M16n8k8 = "m16n8k8", M16n8k16 = "m16n8k16",
        M16n8k32 = "m16n8k32", M16n8k64 = "m16n8k64", M16n8k128 = "m16n8k128",
        M16n8k256 = "m16n8k256", M16n16k8 = "m16n16k8", M16n16k16 = "m16n16k16",
        M8n32k16 = "m8n32k16", M32n8k16 = "m32n8k16", Sp = "sp",
        SpOrdered = "sp::ordered_metadata",
        // Refused operations are still named in full.
        Fence = "fence", Ldreduce = "ld_reduce", Inc1 = "increment", Dec1 = "decrement",
        Byte0 = "b0", Byte2 = "b2", Byte3 = "b3", Half0 = "h0", Half1 = "h1", Po = "po",
    }
}

words! {
    /// A special register, component included (PTX ISA section 10), with its leading `%`.
    Special {
        TidX = "%tid.x", TidY = "%tid.y", TidZ = "%tid.z",
        NtidX = "%ntid.x", NtidY = "%ntid.y", NtidZ = "%ntid.z",
        CtaidX = "%ctaid.x", CtaidY = "%ctaid.y", CtaidZ = "%ctaid.z",
        NctaidX = "%nctaid.x", NctaidY = "%nctaid.y", NctaidZ = "%nctaid.z",
        ClusteridX = "%clusterid.x", ClusteridY = "%clusterid.y", ClusteridZ = "%clusterid.z",
        NclusteridX = "%nclusterid.x", NclusteridY = "%nclusterid.y",
        NclusteridZ = "%nclusterid.z",
        ClusterCtaidX = "%cluster_ctaid.x", ClusterCtaidY = "%cluster_ctaid.y",
        ClusterCtaidZ = "%cluster_ctaid.z", ClusterNctaidX = "%cluster_nctaid.x",
        ClusterNctaidY = "%cluster_nctaid.y", ClusterNctaidZ = "%cluster_nctaid.z",
        ClusterCtarank = "%cluster_ctarank", ClusterNctarank = "%cluster_nctarank",
        IsExplicitCluster = "%is_explicit_cluster",
        Laneid = "%laneid", Warpid = "%warpid", Nwarpid = "%nwarpid", Smid = "%smid",
        Nsmid = "%nsmid", Gridid = "%gridid",
        LanemaskEq = "%lanemask_eq", LanemaskLe = "%lanemask_le", LanemaskLt = "%lanemask_lt",
        LanemaskGe = "%lanemask_ge", LanemaskGt = "%lanemask_gt",
        Clock = "%clock", ClockHi = "%clock_hi", Clock64 = "%clock64",
        Globaltimer = "%globaltimer", GlobaltimerLo = "%globaltimer_lo",
        GlobaltimerHi = "%globaltimer_hi",
        TotalSmemSize = "%total_smem_size", DynamicSmemSize = "%dynamic_smem_size",
        AggrSmemSize = "%aggr_smem_size",
        // Low and high half of the address of a cooperative launch's workspace (measured: nvcc's
        // `grid_group::sync` reads them).
        Envreg1 = "%envreg1", Envreg2 = "%envreg2",
    }
}

impl Special {
    /// Width of the register: `%clock64`, `%globaltimer` and `%gridid` are 64 bits, `%is_explicit_
    /// cluster` is a predicate, everything else 32 bits.
    pub const fn scalar_type(self) -> ScalarType {
        match self {
            Self::Clock64 | Self::Globaltimer | Self::Gridid => ScalarType::U64,
            Self::IsExplicitCluster => ScalarType::Pred,
            _ => ScalarType::U32,
        }
    }
}
