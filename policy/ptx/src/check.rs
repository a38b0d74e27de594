//! The allow list over a whole module: target, declarations, externs, instructions and the kind of
//! thing each control instruction names. What it lets through may still be unsafe; making it safe
//! is the guard's task. Source for the externs: what nvcc 13 emits for printf, assert, new, delete.

use crate::hash::{HashMap, HashSet};

use crate::opcode::{self, Refused};
use crate::tree::{
    Block, Function, FunctionKind, Instruction, Item, Linkage, Module, Name, Op, Operand, Space,
    Span, Statement, Variable,
};

/// Functions a module may use without defining them. All of them are replaced before the module
/// reaches a driver; the emulated GPU provides them.
pub const KNOWN_EXTERNS: &[&str] = &["vprintf", "__assertfail", "malloc", "free"];

/// Largest size of one variable, and of one kernel's parameters, in bytes.
const MAX_VARIABLE_BYTES: u64 = 1 << 32;

/// Why a module is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// An instruction is not in the table.
    #[error("line {}, column {}: {why}", at.line, at.column)]
    Instruction {
        /// Where.
        at: Span,
        /// Why.
        why: Refused,
    },
    /// A declaration is not permitted.
    #[error("line {}, column {}: `{name}` {why}", at.line, at.column)]
    Declaration {
        /// Where.
        at: Span,
        /// What is declared.
        name: Name,
        /// Why, and what to do.
        why: &'static str,
    },
    /// A control instruction names the wrong kind of thing.
    #[error("line {}, column {}: {why}", at.line, at.column)]
    Control {
        /// Where.
        at: Span,
        /// What is wrong.
        why: &'static str,
    },
    /// The module as a whole is for another machine.
    #[error("{why}")]
    Module {
        /// What is wrong.
        why: &'static str,
    },
}

impl Refusal {
    /// Where in the text; line 0 for the module as a whole.
    pub fn span(&self) -> Span {
        match self {
            Self::Instruction { at, .. }
            | Self::Declaration { at, .. }
            | Self::Control { at, .. } => *at,
            Self::Module { .. } => Span::NONE,
        }
    }
}

/// What a symbol stands for, inside a function.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    Label,
    Branches,
    Calls,
    Prototype,
    Variable,
}

struct Context<'m> {
    /// Functions of the module; the value is true for kernels.
    functions: HashMap<&'m str, bool>,
    sorts: HashMap<&'m str, Sort>,
}

/// Checks a module against the allow list.
///
/// # Errors
/// The first [`Refusal`] in the order of the text.
pub fn check(module: &Module) -> Result<(), Refusal> {
    if module.address_size != 64 {
        return Err(Refusal::Module { why: "only `.address_size 64` is supported" });
    }
    if !module.target.iter().any(|name| name.starts_with("sm_")) {
        return Err(Refusal::Module { why: "`.target` names no sm_ architecture" });
    }
    let mut defined = HashSet::default();
    let mut functions = HashMap::default();
    for item in &module.items {
        match item {
            Item::Function(f) => {
                if f.body.is_some() {
                    defined.insert(&*f.name);
                }
                functions.insert(&*f.name, f.kind == FunctionKind::Entry);
            }
            Item::Alias { name, .. } => {
                functions.insert(&**name, false);
            }
            _ => {}
        }
    }
    let mut context = Context { functions, sorts: HashMap::default() };
    for item in &module.items {
        match item {
            Item::Function(f) => {
                if f.body.is_none()
                    && !defined.contains(&*f.name)
                    && !KNOWN_EXTERNS.contains(&&*f.name)
                {
                    return Err(Refusal::Declaration {
                        at: f.span,
                        name: f.name.clone(),
                        why: "is not defined in this module; link it in before loading",
                    });
                }
                function(f, &mut context)?;
            }
            Item::Variable(v) => module_variable(v)?,
            Item::Alias { target, span, name } => {
                if !defined.contains(&**target) {
                    return Err(Refusal::Declaration {
                        at: *span,
                        name: name.clone(),
                        why: "is an alias of something that is no function of this module",
                    });
                }
            }
            Item::Pragma(_) => {}
        }
    }
    Ok(())
}

fn refuse(v: &Variable, why: &'static str) -> Result<(), Refusal> {
    Err(Refusal::Declaration { at: v.span, name: v.name.clone(), why })
}

fn module_variable(v: &Variable) -> Result<(), Refusal> {
    variable(v)?;
    match (v.linkage, v.space) {
        (Linkage::Extern, Space::Shared) => {
            if v.bytes().is_some_and(|bytes| bytes > 0) {
                return refuse(v, "is external shared memory with a size; write `[]`");
            }
            Ok(())
        }
        (Linkage::Extern, _) => refuse(v, "is external; link its definition in before loading"),
        (_, Space::Global | Space::Const | Space::Shared) => sized(v),
        _ => refuse(v, "is in a state space that holds no module variables"),
    }
}

fn variable(v: &Variable) -> Result<(), Refusal> {
    if v.ty.is_opaque() {
        return refuse(v, "is a texture, sampler or surface, which are not supported");
    }
    if v.ty.bytes() == 0 {
        return refuse(v, "has a type that has no size in memory");
    }
    if v.managed {
        return refuse(v, "is managed memory, which is not supported");
    }
    if v.alignment() > 4096 {
        return refuse(v, "asks for an alignment above 4096 bytes");
    }
    Ok(())
}

fn sized(v: &Variable) -> Result<(), Refusal> {
    match v.bytes() {
        Some(bytes) if bytes <= MAX_VARIABLE_BYTES => Ok(()),
        Some(_) => refuse(v, "is larger than 4 GiB"),
        None => refuse(v, "has no size"),
    }
}

fn function<'m>(f: &'m Function, context: &mut Context<'m>) -> Result<(), Refusal> {
    for v in f.results.iter().chain(&f.params) {
        match v.space {
            Space::Reg if f.kind == FunctionKind::Func => {}
            Space::Param => {
                variable(v)?;
                // A declaration of printf's kind may leave the size of its last parameter open.
                if f.body.is_some() {
                    sized(v)?;
                }
            }
            _ => refuse(v, "is no parameter: want `.param`")?,
        }
    }
    let Some(body) = &f.body else { return Ok(()) };
    context.sorts.clear();
    for v in f.results.iter().chain(&f.params) {
        context.sorts.insert(&v.name, Sort::Variable);
    }
    declare(body, context)?;
    block(body, context)
}

/// Names are unique within a function, so one flat map is enough.
fn declare<'m>(block: &'m Block, context: &mut Context<'m>) -> Result<(), Refusal> {
    for statement in &block.statements {
        let (name, sort) = match statement {
            Statement::Label(name, _) => (name, Sort::Label),
            Statement::BranchTargets(t) => (&t.name, Sort::Branches),
            Statement::CallTargets(t) => (&t.name, Sort::Calls),
            Statement::CallPrototype(p) => (&p.name, Sort::Prototype),
            Statement::Variable(v) => {
                variable(v)?;
                match v.space {
                    Space::Local | Space::Shared | Space::Param | Space::Global | Space::Const => {
                        sized(v)?;
                    }
                    _ => refuse(v, "is in a state space that holds no variables of a function")?,
                }
                (&v.name, Sort::Variable)
            }
            Statement::Registers(r) => {
                if r.vector != 1 || r.ty.is_opaque() {
                    return Err(Refusal::Declaration {
                        at: r.span,
                        name: r.names.first().map_or_else(|| "".into(), |n| n.name.clone()),
                        why: "is a vector or opaque register; declare scalar registers",
                    });
                }
                continue;
            }
            Statement::Block(inner) => {
                declare(inner, context)?;
                continue;
            }
            Statement::Instruction(_) | Statement::Pragma(_) => continue,
        };
        context.sorts.insert(name, sort);
    }
    Ok(())
}

fn block(block: &Block, context: &Context<'_>) -> Result<(), Refusal> {
    for statement in &block.statements {
        match statement {
            Statement::Instruction(i) => instruction(i, context)?,
            Statement::Block(inner) => self::block(inner, context)?,
            Statement::BranchTargets(t) => {
                let labels =
                    t.targets.iter().all(|n| context.sorts.get(&**n) == Some(&Sort::Label));
                control(t.span, labels, "`.branchtargets` names something that is no label")?;
            }
            Statement::CallTargets(t) => {
                let functions =
                    t.targets.iter().all(|n| context.functions.get(&**n) == Some(&false));
                control(t.span, functions, "`.calltargets` names something that is no function")?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn control(at: Span, good: bool, why: &'static str) -> Result<(), Refusal> {
    if good { Ok(()) } else { Err(Refusal::Control { at, why }) }
}

fn instruction(i: &Instruction, context: &Context<'_>) -> Result<(), Refusal> {
    let row = opcode::classify(i).map_err(|why| Refusal::Instruction { at: i.span, why })?;
    let sort = |operand: Option<&Operand>| {
        operand.and_then(Operand::as_symbol).and_then(|n| context.sorts.get(&**n)).copied()
    };
    let control = |good: bool, why| control(i.span, good, why);
    match row.op() {
        Op::Bra => control(sort(i.operands.first()) == Some(Sort::Label), "`bra` needs a label"),
        Op::Brx => control(
            sort(i.operands.get(1)) == Some(Sort::Branches),
            "`brx.idx` needs the label of a `.branchtargets` list",
        ),
        Op::Call => call(i, context),
        _ => control(
            !i.operands.iter().any(|o| {
                // Labels are no values; only a function or a variable has an address.
                matches!(sort(Some(o)), Some(s) if s != Sort::Variable)
            }),
            "a label is used as a value",
        ),
    }
}

fn call(i: &Instruction, context: &Context<'_>) -> Result<(), Refusal> {
    let fail = |why| Err(Refusal::Control { at: i.span, why });
    let Some(call) = i.call() else { return fail("the operands of this `call` are malformed") };
    let simple = |operand: &Operand| {
        use Operand::{F32, F64, Int, Reg, Sink, Special, Symbol};
        matches!(operand, Reg(_) | Symbol(_, 0) | Sink | Int(_) | F32(_) | F64(_) | Special(_))
    };
    if !call.results.iter().chain(call.args).all(simple) {
        return fail("an argument of this `call` is neither a register, a constant nor a `.param`");
    }
    match (call.target, call.prototype) {
        (Operand::Symbol(name, _), None) => match context.functions.get(&**name) {
            Some(false) => Ok(()),
            Some(true) => fail("a kernel cannot be called"),
            None => fail("`call` needs a function of this module"),
        },
        (Operand::Symbol(..), Some(_)) => fail("a direct `call` takes no prototype"),
        (_, Some(prototype)) => match context.sorts.get(&**prototype) {
            Some(Sort::Prototype | Sort::Calls) => Ok(()),
            _ => fail("an indirect `call` needs a `.callprototype` or `.calltargets`"),
        },
        (_, None) => fail("an indirect `call` needs a `.callprototype` or `.calltargets`"),
    }
}
