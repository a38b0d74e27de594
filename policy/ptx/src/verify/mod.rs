//! The verifier: a second, independent reading of the final text.
//!
//! It starts from bytes, knows nothing of how they came to be, and accepts a module only when it can
//! show, from the text and the launch contract alone, that no thread touches anything outside the
//! arena and its own objects, that control stays inside the module, and that no instruction faults.
//! It shares the lexer, the parser and the opcode table with the guard and none of its analysis. The
//! forms that the guard writes (docs/ptx-guard.md) are not matched by name or by pattern: every
//! address is evaluated ([`eval`]), and a fence is simply code after which the value is in bounds.
//!
//! What it does not show: that a kernel ends, or that it computes anything of use.

mod access;
mod barriers;
mod calls;
mod eval;
mod facts;
mod flow;
mod launch;
mod loops;
mod number;
#[cfg(test)]
mod number_tests;
#[cfg(test)]
mod tests;
mod transfer;

use std::sync::Arc;

use crate::hash::HashMap;

use crate::check::{Refusal, check};
use crate::contract::{Arena, Contract, GuardMode, KernelContract};
use crate::guard::Report;
use crate::opcode;
use crate::parse::{Limits, ParseError, parse_guarded};
use crate::tree::{
    Block, Function, FunctionKind, Init, Item, Module, Op, Space, Span, Statement, Variable,
};
use crate::variants::Source;
use crate::view::{Kernel, ModuleView, ViewError};

use barriers::Barriers;
use calls::Functions;
use eval::Eval;
use flow::{Code, FlowError, Registers};
use launch::Launch;

/// Why the verifier refuses an instruction or function.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// An address is not shown to be in bounds and aligned.
    #[error("its address is not shown to be inside and aligned")]
    Unproved,
    /// An index of a `brx.idx` is not shown to be below the length of the list.
    #[error("its index is not shown to be below the number of targets")]
    BranchIndex,
    /// A barrier's number or thread count.
    #[error("its barrier is not one of 0 to 15, or its thread count no positive multiple of 32")]
    Barrier,
    /// Barriers used in ways that must not meet.
    #[error("its barrier is used with another thread count or another kind of instruction as well")]
    BarrierUse,
    /// The size of a bulk copy.
    #[error("its size is not shown to be a multiple of 16 and at most 228 KiB")]
    BulkSize,
    /// It can stop the whole context.
    #[error("it can stop the whole context")]
    Trap,
    /// A call.
    #[error("this call {0}")]
    Call(&'static str),
    /// Anything else that does not belong into guarded text.
    #[error("{0}")]
    Form(&'static str),
}

/// Why a text is not accepted. Lines are those of the final text, not the tenant's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// It is no PTX, or a name in it means two things.
    #[error("final text: {0}")]
    Parse(#[from] ParseError),
    /// It is not permitted.
    #[error("final text: {0}")]
    Refused(#[from] Refusal),
    /// It does not fit the GPU.
    #[error("final text: {0}")]
    View(#[from] ViewError),
    /// Something in it is not shown to be safe.
    #[error("final text, line {}: `{what}`: {reason}", at.line)]
    Unsafe {
        /// Where in the final text.
        at: Span,
        /// The instruction or declaration.
        what: String,
        /// Why.
        reason: Reason,
    },
}

impl VerifyError {
    fn new(at: Span, what: impl Into<String>, reason: Reason) -> Self {
        Self::Unsafe { at, what: what.into(), reason }
    }

    /// True when something is not shown to be inside, which more guarding can mend.
    pub(crate) fn is_unproved(&self) -> bool {
        matches!(self, Self::Unsafe { reason: Reason::Unproved | Reason::BulkSize, .. })
    }

    /// Line of the final text.
    pub fn line(&self) -> u32 {
        match self {
            Self::Parse(error) => error.span().line,
            Self::Refused(refusal) => refusal.span().line,
            Self::View(ViewError::TooLarge { at, .. } | ViewError::Unsized { at, .. }) => at.line,
            Self::Unsafe { at, .. } => at.line,
        }
    }
}

/// A module that may be handed to a GPU: the text, what it holds, and under which contract it is
/// safe. Only [`crate::admit`] makes one.
#[derive(Clone, Debug)]
pub struct VerifiedModule {
    text: String,
    lines: Vec<u32>,
    module: Module,
    view: ModuleView,
    mode: GuardMode,
    arena: Option<Arena>,
    report: Report,
    /// What it was made from, for variants of it.
    source: Option<Arc<Source>>,
}

impl VerifiedModule {
    /// The same module, which knows what it was made from.
    pub(crate) fn made_from(self, source: Source) -> Self {
        Self { source: Some(Arc::new(source)), ..self }
    }

    /// What it was made from.
    pub(crate) fn source(&self) -> Option<&Source> {
        self.source.as_deref()
    }

    /// The PTX text to load.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The tree of that text; its spans count lines of [`Self::text`].
    pub fn module(&self) -> &Module {
        &self.module
    }

    /// Kernels, variables and sizes.
    pub fn view(&self) -> &ModuleView {
        &self.view
    }

    /// The kernels.
    pub fn kernels(&self) -> &[Kernel] {
        &self.view.kernels
    }

    /// How it is guarded.
    pub fn mode(&self) -> GuardMode {
        self.mode
    }

    /// The arena it is confined to; `None` exactly when the mode is [`GuardMode::None`].
    pub fn arena(&self) -> Option<Arena> {
        self.arena
    }

    /// What every launch must keep.
    pub fn contract(&self) -> &Contract {
        &self.report.contract
    }

    /// What the guard did, and which variables the loader has to place; empty without a guard.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The line of the tenant's text that a line of [`Self::text`] (from 1) came from; `None` for
    /// lines that the guard added of its own.
    pub fn source_line(&self, line: u32) -> Option<u32> {
        let index = usize::try_from(line.checked_sub(1)?).ok()?;
        self.lines.get(index).copied().filter(|line| *line != 0)
    }
}

/// The final text is ours and may be longer than what a tenant may send.
const LIMITS: Limits = Limits { max_bytes: 1 << 30, max_nesting: 64 };

/// Accepts a text under the allow list alone: for [`GuardMode::None`].
pub(crate) fn allow(text: String, lines: Vec<u32>) -> Result<VerifiedModule, VerifyError> {
    let module = parse_guarded(text.as_bytes(), &LIMITS)?;
    check(&module)?;
    let view = ModuleView::of(&module)?;
    let (mode, arena, report) = (GuardMode::None, None, Report::default());
    let source = None;
    Ok(VerifiedModule { text, lines, module, view, mode, arena, report, source })
}

/// Verifies a guarded text. `mode` is only noted: both modes must be equally safe. Of the report,
/// only the contract is looked at, as a list of assumptions that every launch has to keep.
pub(crate) fn verify(
    text: String,
    lines: Vec<u32>,
    mode: GuardMode,
    arena: Arena,
    report: Report,
) -> Result<VerifiedModule, VerifyError> {
    let module = parse_guarded(text.as_bytes(), &LIMITS)?;
    verify_module(&module, arena, &report.contract)?;
    let view = ModuleView::of(&module)?;
    let (arena, source) = (Some(arena), None);
    Ok(VerifiedModule { text, lines, module, view, mode, arena, report, source })
}

/// Verifies a guarded text once more, for those who have it from elsewhere than [`crate::admit`].
///
/// # Errors
/// [`VerifyError`]: the first thing in the text that is not shown to be safe under the contract.
pub fn verify_text(text: &[u8], arena: Arena, contract: &Contract) -> Result<(), VerifyError> {
    verify_module(&parse_guarded(text, &LIMITS)?, arena, contract)
}

/// Verifies the tree of a final text.
fn verify_module(module: &Module, arena: Arena, contract: &Contract) -> Result<(), VerifyError> {
    check(module)?;
    let mut entries: HashMap<&str, &KernelContract> = HashMap::default();
    for entry in &contract.kernels {
        if entries.insert(&entry.kernel, entry).is_some() {
            let reason = Reason::Form("the contract names this kernel twice");
            return Err(VerifyError::new(Span::NONE, &*entry.kernel, reason));
        }
    }
    let mut objects = HashMap::default();
    let mut kernels = Vec::new();
    for item in &module.items {
        match item {
            Item::Variable(v) if v.space.is_shared() || constant(v) => {
                objects.insert(&*v.name, v);
            }
            Item::Variable(v) => {
                let reason = Reason::Form("module variables live in the arena after guarding");
                return Err(VerifyError::new(v.span, &*v.name, reason));
            }
            Item::Pragma(p) => return Err(pragma(p.span)),
            Item::Function(f) if f.kind == FunctionKind::Entry && f.body.is_some() => {
                kernels.push(Launch::of_kernel(f, entries.get(&*f.name).copied(), arena));
            }
            Item::Function(_) | Item::Alias { .. } => {}
        }
    }
    let functions = Functions::of(module);
    functions.check_acyclic(module).map_err(|(at, reason)| VerifyError::new(at, "call", reason))?;
    let device = Launch::of_device(kernels.iter().cloned(), arena);
    let mut kernels = kernels.into_iter();
    let mut registers = Registers::default();
    let mut in_kernels = Vec::new();
    let mut in_functions = Barriers::default();
    for item in &module.items {
        let Item::Function(f) = item else { continue };
        let Some(body) = &f.body else {
            if functions.contains(&f.name) {
                continue;
            }
            let reason = Reason::Form("nothing external remains after guarding");
            return Err(VerifyError::new(f.span, &*f.name, reason));
        };
        let own = if f.kind == FunctionKind::Entry { kernels.next() } else { None };
        let launch = own.as_ref().unwrap_or(&device);
        let (barriers, calls) = function(f, body, launch, &objects, &functions, &mut registers)?;
        if f.kind == FunctionKind::Entry {
            in_kernels.push((f, barriers, calls));
        } else {
            in_functions
                .merge(&barriers)
                .map_err(|reason| VerifyError::new(f.span, &*f.name, reason))?;
        }
    }
    // A kernel that calls anything is taken to reach all functions.
    for (f, mut barriers, calls) in in_kernels {
        if calls {
            barriers
                .merge(&in_functions)
                .map_err(|reason| VerifyError::new(f.span, &*f.name, reason))?;
        }
    }
    Ok(())
}

/// A constant that holds numbers only may stay: it is read-only, and reads are proved like others.
fn constant(v: &Variable) -> bool {
    fn numbers(init: &Init) -> bool {
        match init {
            Init::List(items) => items.iter().all(numbers),
            Init::Int(_) | Init::F32(_) | Init::F64(_) => true,
            Init::Symbol(_) => false,
        }
    }
    v.space == Space::Const && v.init.as_ref().is_none_or(numbers)
}

fn pragma(at: Span) -> VerifyError {
    VerifyError::new(at, ".pragma", Reason::Form("pragmas do not remain after guarding"))
}

fn function<'m>(
    f: &'m Function,
    body: &'m Block,
    launch: &Launch,
    objects: &HashMap<&'m str, &'m Variable>,
    functions: &Functions<'m>,
    registers: &mut Registers,
) -> Result<(Barriers, bool), VerifyError> {
    let mut variables: HashMap<&str, &Variable> = HashMap::default();
    for v in f.results.iter().chain(&f.params) {
        variables.insert(&v.name, v);
    }
    declarations(body, &mut variables)?;
    let code = Code::of(f, objects, std::mem::take(registers)).map_err(|error| match error {
        FlowError::Target(at) => {
            VerifyError::new(at, "branch", Reason::Form("its target is no label of the function"))
        }
        FlowError::Complex(at) => {
            let reason = Reason::Form("its control flow is too tangled to be checked");
            VerifyError::new(at, &*f.name, reason)
        }
    })?;
    if code.falls_off() {
        let reason = Reason::Form("control can run off the end of the function");
        return Err(VerifyError::new(f.span, &*f.name, reason));
    }
    let returns = |op| op == Op::Ret;
    if f.directive("noreturn").is_some()
        && code.instructions.iter().any(|i| i.op().is_some_and(returns))
    {
        let reason = Reason::Form("a function that promises not to return holds `ret`");
        return Err(VerifyError::new(f.span, &*f.name, reason));
    }
    let eval = Eval::new(&code, launch);
    let mut barriers = Barriers::default();
    let mut calls = false;
    for (index, i) in code.instructions.iter().enumerate() {
        let refuse = |reason| VerifyError::new(i.span, crate::print::print_instruction(i), reason);
        if i.op() == Some(Op::Call) {
            functions.check_call(i, &variables, &f.params).map_err(refuse)?;
            calls = true;
            continue;
        }
        // What control cannot reach cannot do anything.
        if !code.reachable(code.block_of[index]) {
            continue;
        }
        let row = opcode::classify(i)
            .map_err(|why| VerifyError::Refused(Refusal::Instruction { at: i.span, why }))?;
        eval.ask(|| access::check(&eval, index as u32, row)).map_err(refuse)?;
        barriers.add(i).map_err(refuse)?;
    }
    *registers = code.into_registers();
    Ok((barriers, calls))
}

/// Collects the variables of a body; only those that live and die with a thread or block may remain.
fn declarations<'m>(
    block: &'m Block,
    variables: &mut HashMap<&'m str, &'m Variable>,
) -> Result<(), VerifyError> {
    for statement in &block.statements {
        match statement {
            Statement::Variable(v) => {
                if !matches!(v.space, Space::Local | Space::Shared | Space::Param) {
                    let reason = Reason::Form("module variables live in the arena after guarding");
                    return Err(VerifyError::new(v.span, &*v.name, reason));
                }
                variables.insert(&v.name, v);
            }
            Statement::Block(inner) => declarations(inner, variables)?,
            // Advice on unrolling changes nothing that a thread does.
            Statement::Pragma(p) if p.is_nounroll() => {}
            Statement::Pragma(p) => return Err(pragma(p.span)),
            _ => {}
        }
    }
    Ok(())
}
