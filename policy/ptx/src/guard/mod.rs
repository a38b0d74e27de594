//! The guard: rewrites a module so that, whatever its inputs, no access leaves the tenant's arena and no
//! instruction can fault.
//!
//! It is a sequence of passes over the tree, one file each: `allow` and `names` refuse, `control` and
//! `variables` change what a program can name, `recursion` bounds the stack, and `rewrite` confines every
//! memory operand (`address` for `.global` and generic ones, `bounds` for the other spaces,
//! `async_copies` and `alignment` for what their names say), as little as `analysis` proves necessary.
//! The sequences it may emit are written down in docs/ptx-guard.md; the verifier, which knows nothing of
//! this code, checks the final text against that page.
//!
//! It does not decide anything a launch brings (parameter values, grid): the contract in [`Report`] says
//! what a launch must promise. Total: bounded work for any tree.

mod access;
mod address;
mod alignment;
mod allow;
pub mod analysis;
mod async_copies;
mod barriers;
mod bounds;
mod control;
mod forms;
mod inline;
mod mbarriers;
mod names;
mod recursion;
mod registers;
mod report;
mod rewrite;
mod variables;
mod violation;

#[cfg(test)]
mod tests;

use crate::hash::{HashMap, HashSet};

use crate::check;
use crate::contract::{Arena, BlockShape, GuardMode, RED_ZONE};
use crate::tree::{Module, Name, Span};

pub use access::Target;
pub use control::{FIRST_TOKEN, TOKEN_STEP};
pub use recursion::MAX_CALL_DEPTH;
pub use report::{Change, FunctionReport, RelocatedVariable, Report};
pub use violation::{RECORD_BYTES, ViolationKind};

/// How to guard a module.
#[derive(Clone, Copy, Debug)]
pub struct GuardOptions {
    /// [`GuardMode::None`] leaves the module as it is.
    pub mode: GuardMode,
    /// What to confine it to.
    pub arena: Arena,
    /// The block shape of the launches it is for; `None` for any.
    pub block: Option<BlockShape>,
    /// Bytes of dynamic shared memory of those launches; `None` if not known.
    pub dynamic_shared: Option<u64>,
    /// Leave alone what the analysis proves. Without, every access is fenced or clamped: slower, and
    /// good for when the verifier cannot follow a proof.
    pub proofs: bool,
    /// Leave initialised constants in constant memory when all accesses to it are proved.
    pub keep_constants: bool,
    /// Fence mode: rely on kernel parameters used as addresses being aligned addresses in the arena. Then
    /// most accesses need no fence; the contract names the parameters, and launches that do not keep it
    /// take a module guarded without.
    pub pointers: bool,
    /// Device address, inside the arena, of the record of the first violation (check mode):
    /// [`RECORD_BYTES`] bytes, a multiple of 16, zero before the first launch.
    pub report_address: u64,
    /// Device address, inside the arena, from which on the module's variables are placed.
    pub variables: u64,
    /// Most bytes of `.local` objects on any chain of calls.
    pub max_local_bytes: u64,
}

impl GuardOptions {
    /// Options for an arena: the violation record and the variables after the first [`RED_ZONE`] bytes,
    /// which the allocator hands to nobody.
    pub const fn new(mode: GuardMode, arena: Arena) -> Self {
        let service = arena.base() + RED_ZONE;
        Self {
            mode,
            arena,
            block: None,
            dynamic_shared: None,
            proofs: true,
            keep_constants: true,
            pointers: false,
            report_address: service,
            variables: service + RECORD_BYTES,
            max_local_bytes: 64 << 10,
        }
    }
}

/// Why a module cannot be guarded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is not in the allow list.
    #[error(transparent)]
    NotAllowed(#[from] check::Refusal),
    /// An instruction that cannot be made safe.
    #[error("line {}, column {}: {why}", at.line, at.column)]
    Instruction {
        /// Where.
        at: Span,
        /// What it is, and what to do instead.
        why: &'static str,
    },
    /// A function that cannot be made safe.
    #[error("line {}, column {}: `{name}` {why}", at.line, at.column)]
    Function {
        /// Where.
        at: Span,
        /// The function.
        name: Name,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A variable that cannot be moved into the arena.
    #[error("line {}, column {}: `{name}` {why}", at.line, at.column)]
    Variable {
        /// Where.
        at: Span,
        /// The variable.
        name: Name,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A name that only the guard may use.
    #[error("line {}, column {}: `{name}` is a name of the guard's own; rename it", at.line, at.column)]
    Name {
        /// Where.
        at: Span,
        /// The name.
        name: Name,
    },
    /// The options do not fit each other. A mistake of the caller.
    #[error("guard options: {0}")]
    Options(&'static str),
}

impl Refusal {
    /// Where in the text; line 0 when no place is to blame.
    pub fn span(&self) -> Span {
        match self {
            Self::NotAllowed(refusal) => refusal.span(),
            Self::Instruction { at, .. }
            | Self::Function { at, .. }
            | Self::Variable { at, .. }
            | Self::Name { at, .. } => *at,
            Self::Options(_) => Span::NONE,
        }
    }
}

fn check_options(options: &GuardOptions) -> Result<(), Refusal> {
    let arena = options.arena;
    if !arena.contains(options.report_address, RECORD_BYTES)
        || !options.report_address.is_multiple_of(16)
    {
        return Err(Refusal::Options("the violation record is not in the arena or not aligned"));
    }
    if !arena.contains(options.variables, 0) {
        return Err(Refusal::Options("the place for variables is not in the arena"));
    }
    if let Some(BlockShape { x, y, z }) = options.block {
        let shape = BlockShape { x, y, z };
        if x == 0 || y == 0 || z == 0 || !shape.within(BlockShape::MAX) || shape.threads() > 1024 {
            return Err(Refusal::Options("no GPU has blocks of that shape"));
        }
    }
    if options.dynamic_shared.is_some_and(|bytes| bytes > access::BULK_BYTES) {
        return Err(Refusal::Options("no GPU has that much dynamic shared memory"));
    }
    Ok(())
}

/// Guards a module.
///
/// # Errors
/// [`Refusal`]: what cannot be made safe, with line and column of the tenant's text.
pub fn guard(module: &Module, options: &GuardOptions) -> Result<(Module, Report), Refusal> {
    guard_doubting(module, options, &HashSet::default())
}

/// The same, without relying on what is proved of the accesses in `doubts`: lines of the tenant's text
/// where the verifier could not follow.
pub(crate) fn guard_doubting(
    module: &Module,
    options: &GuardOptions,
    doubts: &HashSet<u32>,
) -> Result<(Module, Report), Refusal> {
    let mut module = module.clone();
    let mut report = Report::default();
    if options.mode == GuardMode::None {
        check::check(&module)?;
        return Ok((module, report));
    }
    check_options(options)?;
    names::check(&module)?;
    allow::allow(&mut module)?;
    let mut fresh: HashMap<Name, forms::Fresh> = HashMap::default();
    barriers::settle(&mut module, &mut fresh, &mut report)?;
    mbarriers::replace(&mut module, &mut fresh, &mut report)?;
    let control = control::control(&mut module, options, &mut fresh, &mut report)?;
    variables::relocate(&mut module, options, &control, doubts, &mut fresh, &mut report)?;
    recursion::check(&module, options, &mut report)?;
    inline::inline(&mut module, &mut fresh, &mut report);
    // What was inlined has its locals in its caller now.
    recursion::check(&module, options, &mut report)?;
    barriers::separate(&mut module)?;
    barriers::check(&module)?;
    rewrite::rewrite(&mut module, options, doubts, &mut fresh, &mut report)?;
    Ok((module, report))
}
