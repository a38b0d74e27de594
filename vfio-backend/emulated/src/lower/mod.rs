//! From the tree of a PTX module to flat code over register slots.
//!
//! Lowering resolves names, types, labels, constants, parameter and variable layouts. It refuses by name, with the line,
//! whatever the executor does not run. It is no permission check: that is the verifier's, before.

mod arithmetic;
mod bits;
mod builder;
mod comparison;
mod control;
mod convert;
mod declare;
mod floating;
mod memory;
mod moves;
mod operands;
mod select;
mod warp;

use std::collections::HashMap;

use thiserror::Error;
use turnstile_ptx::tree::{FunctionKind, Instruction, Item, Module, Name, Op as Opcode, Space};
use turnstile_ptx::view::ModuleView;

use crate::ir::{Function, KernelParam, Program, Shape};
use builder::Builder;
use declare::{Layout, variable};

/// Why a module cannot be run here.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LowerError {
    /// A valid instruction or feature that the emulated GPU does not have.
    #[error(
        "line {line}: `{what}` is not supported by the emulated GPU: avoid it or use another backend"
    )]
    Unsupported {
        /// Line of the PTX text.
        line: u32,
        /// The instruction or feature.
        what: String,
    },
    /// Something that is not valid PTX.
    #[error("line {line}: {what}")]
    Malformed {
        /// Line of the PTX text.
        line: u32,
        /// What is wrong.
        what: String,
    },
    /// A bound of the executor.
    #[error("line {line}: more than {limit} {what}: split the function")]
    Limit {
        /// Line of the PTX text.
        line: u32,
        /// Of what there is too much.
        what: &'static str,
        /// How much there may be.
        limit: usize,
    },
}

/// Result of lowering a part.
type Lowered<T> = Result<T, LowerError>;

/// An error about an instruction that the executor lacks.
fn unsupported<T>(inst: &Instruction) -> Lowered<T> {
    let mut what = inst.opcode.text().to_owned();
    for m in &inst.mods {
        what.push('.');
        what.push_str(m.text());
    }
    Err(LowerError::Unsupported { line: inst.span.line, what })
}

/// An error about operands or modifiers that make no sense.
fn malformed<T>(inst: &Instruction, why: &str) -> Lowered<T> {
    let what = format!("`{}`: {why}", inst.opcode.text());
    Err(LowerError::Malformed { line: inst.span.line, what })
}

/// What names at module level mean.
#[derive(Default)]
struct Symbols {
    /// Index into [`Program::variables`].
    variables: HashMap<Name, u32>,
    /// Index into [`Program::functions`].
    functions: HashMap<Name, u32>,
    /// `.shared` variables of device functions: offset.
    device_shared: HashMap<Name, u32>,
    /// `.extern .shared` variables.
    dynamic_shared: HashMap<Name, ()>,
    /// Functions that are declared only, and the names of the executor's own.
    declared: HashMap<Name, ()>,
}

/// Lowers a module.
pub(crate) fn lower(module: &Module, view: &ModuleView) -> Result<Program, LowerError> {
    let mut program = Program::default();
    let mut symbols = Symbols::default();
    for object in &view.device_shared {
        symbols.device_shared.insert(object.name.clone(), object.offset as u32);
    }
    // Functions and variables may be named before they are defined.
    for item in &module.items {
        match item {
            Item::Function(f) if f.body.is_some() => {
                symbols.functions.insert(f.name.clone(), symbols.functions.len() as u32);
                program.functions.push(header(f, view)?);
            }
            Item::Function(f) => {
                symbols.declared.insert(f.name.clone(), ());
            }
            Item::Variable(v) => symbols.declare(v, &mut program)?,
            Item::Alias { name, target, span } => {
                let Some(&index) = symbols.functions.get(target) else {
                    let what = format!("alias of `{target}`, which is not defined before it");
                    return Err(LowerError::Malformed { line: span.line, what });
                };
                symbols.functions.insert(name.clone(), index);
            }
            Item::Pragma(_) => {}
        }
    }
    for item in &module.items {
        if let Item::Function(f) = item
            && let Some(body) = &f.body
        {
            for v in declare::statics(body) {
                symbols.declare(v, &mut program)?;
            }
        }
    }
    for item in &module.items {
        if let Item::Variable(v) = item
            && let Some(&index) = symbols.variables.get(&v.name)
        {
            declare::initialise(v, &symbols, &mut program.variables[index as usize])?;
        }
        if let Item::Function(f) = item
            && let Some(body) = &f.body
        {
            for v in declare::statics(body) {
                if let Some(&index) = symbols.variables.get(&v.name) {
                    declare::initialise(v, &symbols, &mut program.variables[index as usize])?;
                }
            }
        }
    }
    let mut builder = Builder::new(program, &symbols);
    for item in &module.items {
        if let Item::Function(f) = item
            && f.body.is_some()
        {
            let index = symbols.functions.get(&f.name).copied().unwrap_or(0);
            builder.function(f, index, view)?;
        }
    }
    Ok(builder.finish())
}

impl Symbols {
    /// Enters a module-level or static variable.
    fn declare(&mut self, v: &turnstile_ptx::tree::Variable, program: &mut Program) -> Lowered<()> {
        match v.space {
            Space::Global | Space::Const => {
                if v.linkage == turnstile_ptx::tree::Linkage::Extern {
                    let what = format!(".extern {} {}", v.space.text(), v.name);
                    return Err(LowerError::Unsupported { line: v.span.line, what });
                }
                self.variables.insert(v.name.clone(), program.variables.len() as u32);
                program.variables.push(variable(v)?);
            }
            s if s.is_shared() && v.linkage == turnstile_ptx::tree::Linkage::Extern => {
                self.dynamic_shared.insert(v.name.clone(), ());
            }
            s if s.is_shared() => {}
            s => {
                let what = format!(".{} {}", s.text(), v.name);
                return Err(LowerError::Unsupported { line: v.span.line, what });
            }
        }
        Ok(())
    }
}

/// A function without its code.
fn header(f: &turnstile_ptx::tree::Function, view: &ModuleView) -> Lowered<Function> {
    let is_kernel = f.kind == FunctionKind::Entry;
    let mut function = Function {
        name: f.name.to_string(),
        is_kernel,
        entry: 0,
        slots32: 0,
        slots64: 0,
        preds: 0,
        frame_bytes: 0,
        shape: Shape::default(),
        params: Vec::new(),
        param_bytes: 0,
        shared_bytes: 0,
        dynamic_base: 0,
        required_block: None,
        max_threads: None,
    };
    if is_kernel {
        let Some(kernel) = view.kernel(&f.name) else {
            let what = format!("kernel `{}` has no layout", f.name);
            return Err(LowerError::Malformed { line: f.span.line, what });
        };
        function.params = kernel
            .params
            .iter()
            .map(|p| KernelParam { offset: p.offset as u32, bytes: p.size as u32 })
            .collect();
        function.param_bytes = kernel.param_bytes as u32;
        function.shared_bytes = kernel.shared_bytes as u32;
        function.dynamic_base = match &kernel.dynamic_shared {
            Some(object) => object.offset as u32,
            None => (kernel.shared_bytes as u32).next_multiple_of(16),
        };
        function.required_block = kernel.required_threads;
        function.max_threads =
            kernel.max_threads.map(|t| t.iter().fold(1u32, |n, &d| n.saturating_mul(d)));
    } else {
        function.shape = Layout::shape(&f.params, &f.results)?;
    }
    Ok(function)
}

/// Whether an opcode belongs to hardware the emulated GPU lacks altogether.
fn is_foreign(op: Opcode) -> bool {
    use Opcode as O;
    matches!(
        op,
        O::Wgmma
            | O::Tcgen05
            | O::Tex
            | O::Tld4
            | O::Txq
            | O::Suld
            | O::Sust
            | O::Sured
            | O::Suq
            | O::Multimem
            | O::Tensormap
            | O::Clusterlaunchcontrol
            | O::Istypep
            | O::Alloca
            | O::Stacksave
            | O::Stackrestore
            | O::Discard
    )
}
