//! The allow list, and what the guard refuses beyond it.

use crate::check::check;
use crate::tree::{Flag, FunctionKind, Instruction, Item, Mod, Module, Op, Space, Statement};

use super::Refusal;

/// Checks a module against the table of opcodes and the guard's own narrower rules; drops pragmas,
/// which only advise, but for `nounroll`: without it the assembler makes copies of loops that the
/// compiler has unrolled already.
///
/// # Errors
/// [`Refusal::NotAllowed`] and [`Refusal::Instruction`].
pub(super) fn allow(module: &mut Module) -> Result<(), Refusal> {
    check(module)?;
    module.items.retain(|item| !matches!(item, Item::Pragma(_)));
    for item in &mut module.items {
        let Item::Function(f) = item else { continue };
        let by_register = f.results.iter().chain(&f.params).any(|v| v.space == Space::Reg);
        if f.kind == FunctionKind::Func && by_register {
            return Err(Refusal::Function {
                at: f.span,
                name: f.name.clone(),
                why: "passes parameters in registers; use `.param`",
            });
        }
        // A promise about control flow; the guard makes `exit` of what did not return.
        f.directives.retain(|d| d.name != "noreturn");
        if let Some(body) = &mut f.body {
            block(&mut body.statements)?;
        }
    }
    Ok(())
}

fn block(statements: &mut Vec<Statement>) -> Result<(), Refusal> {
    statements.retain(|s| !matches!(s, Statement::Pragma(p) if !p.is_nounroll()));
    statements.iter_mut().try_for_each(|statement| match statement {
        Statement::Block(inner) => block(&mut inner.statements),
        Statement::Instruction(i) => instruction(i),
        _ => Ok(()),
    })
}

fn instruction(i: &mut Instruction) -> Result<(), Refusal> {
    if i.has(Flag::L2CacheHint) {
        // A hint that createpolicy did not make is a fault (715, measured on sm_90 with all ones).
        i.mods.retain(|m| *m != Mod::Flag(Flag::L2CacheHint));
        i.operands.pop();
    }
    let refuse = |why| Err(Refusal::Instruction { at: i.span, why });
    let spaces = || i.spaces();
    match i.op() {
        // Copies between the shared memories of a cluster name memory that no clamp here knows.
        Some(Op::Cp) if i.has(Flag::Reduce) && spaces().filter(|s| s.is_shared()).count() > 1 => {
            refuse("a reduction into another block's shared memory is not supported")
        }
        Some(Op::Cvta) if spaces().any(Space::is_param) => {
            refuse("a generic address of kernel parameters is not supported; copy them first")
        }
        _ => Ok(()),
    }
}
