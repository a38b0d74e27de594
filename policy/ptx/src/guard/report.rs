//! What the guard did: counts for each function, where variables went, what launches must promise.

use crate::hash::HashMap;

use crate::contract::Contract;
use crate::tree::{Name, Space};

/// A kind of rewriting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// A fence of a `.global` address.
    GlobalFence,
    /// A `.global` access that uses a fence made for another.
    GlobalShared,
    /// A generic access confined to the spaces it may reach.
    Generic,
    /// A shared access clamped.
    SharedClamp,
    /// A local access clamped.
    LocalClamp,
    /// A parameter access clamped.
    ParamClamp,
    /// A shared, local or parameter access that uses a clamp made for another.
    ClampShared,
    /// A shared, local, parameter or generic access proved to be inside its object and left alone.
    Proved,
    /// An access to a relocated variable.
    Variable,
    /// A bulk copy whose size was bounded.
    CopySize,
    /// A matrix fragment whose row distance was bounded.
    Stride,
    /// A `brx.idx` whose index was bounded.
    BranchIndex,
    /// An indirect call made direct.
    IndirectCall,
    /// A call replaced by the function's body.
    Inlined,
    /// A barrier whose number is no constant, compared with all sixteen.
    Barrier,
    /// An mbarrier operation, or a copy that completes on one, in ordinary instructions.
    Mbarrier,
    /// A `trap` or assertion made into an exit.
    Trap,
    /// An external function given a body.
    Extern,
}

impl Change {
    /// Every kind, in the order of a table's columns.
    pub const ALL: [Self; 18] = [
        Self::GlobalFence,
        Self::GlobalShared,
        Self::Generic,
        Self::SharedClamp,
        Self::LocalClamp,
        Self::ParamClamp,
        Self::ClampShared,
        Self::Proved,
        Self::Variable,
        Self::CopySize,
        Self::Stride,
        Self::BranchIndex,
        Self::IndirectCall,
        Self::Inlined,
        Self::Barrier,
        Self::Mbarrier,
        Self::Trap,
        Self::Extern,
    ];

    /// A short name for tables.
    pub const fn text(self) -> &'static str {
        match self {
            Self::GlobalFence => "global fences",
            Self::GlobalShared => "global, fence shared",
            Self::Generic => "generic",
            Self::SharedClamp => "shared clamps",
            Self::LocalClamp => "local clamps",
            Self::ParamClamp => "param clamps",
            Self::ClampShared => "clamp shared",
            Self::Proved => "proved",
            Self::Variable => "variables",
            Self::CopySize => "copy sizes",
            Self::Stride => "strides",
            Self::BranchIndex => "brx indices",
            Self::IndirectCall => "indirect calls",
            Self::Inlined => "inlined calls",
            Self::Barrier => "barrier numbers",
            Self::Mbarrier => "mbarriers",
            Self::Trap => "traps",
            Self::Extern => "externs",
        }
    }
}

/// Counts of one function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionReport {
    /// The function; its position in [`Report::functions`] is the number that violation records carry.
    pub name: Name,
    counts: [u32; Change::ALL.len()],
}

impl FunctionReport {
    /// How often a kind of rewriting was done.
    pub fn get(&self, change: Change) -> u32 {
        self.counts[change as usize]
    }

    pub(super) fn count(&mut self, change: Change) {
        self.counts[change as usize] = self.counts[change as usize].saturating_add(1);
    }
}

/// A `.global` or `.const` variable moved into the arena. The backend reserves
/// [`Report::variable_bytes`] at [`super::GuardOptions::variables`], zeroes them and writes
/// [`RelocatedVariable::init`] before the first launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelocatedVariable {
    /// Name in the tenant's module.
    pub name: Name,
    /// The function that declares it, if any.
    pub function: Option<Name>,
    /// `.global` or `.const`.
    pub space: Space,
    /// Device address.
    pub address: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// Initial bytes; what is missing at the end is zero.
    pub init: Vec<u8>,
    /// True when the host may look it up by name.
    pub visible: bool,
}

/// What the guard did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Counts by function.
    pub functions: Vec<FunctionReport>,
    /// Relocated variables, in order of address.
    pub variables: Vec<RelocatedVariable>,
    /// Bytes that the relocated variables take from [`super::GuardOptions::variables`] on.
    pub variable_bytes: u64,
    /// Constants that stayed in the module's own constant memory.
    pub constants: Vec<Name>,
    /// What launches must promise.
    pub contract: Contract,
    /// Most bytes of `.local` objects on any chain of calls from a kernel.
    pub stack_bytes: u64,
    /// Longest chain of calls from a kernel.
    pub call_depth: u32,
    /// Shared objects that were aligned more strictly, with the new alignment in bytes.
    pub realigned: Vec<(Name, u64)>,
    numbers: HashMap<Name, usize>,
}

impl Report {
    /// The counts of a function, made if there are none yet.
    pub(super) fn function(&mut self, name: &Name) -> &mut FunctionReport {
        let index = self.index(name);
        &mut self.functions[index]
    }

    /// The number of a function.
    pub(super) fn index(&mut self, name: &Name) -> usize {
        let next = self.functions.len();
        let index = *self.numbers.entry(name.clone()).or_insert(next);
        if index == next {
            let counts = [0; Change::ALL.len()];
            self.functions.push(FunctionReport { name: name.clone(), counts });
        }
        index
    }

    /// The total of a kind of rewriting.
    pub fn total(&self, change: Change) -> u32 {
        self.functions.iter().map(|f| f.get(change)).fold(0, u32::saturating_add)
    }
}
