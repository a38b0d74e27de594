//! The allow list, and what the guard refuses beyond it.

use crate::check::check;
use crate::tree::{
    Flag, FunctionKind, Instruction, Item, Mod, Module, Op, Operand, Space, Statement,
};

use super::Refusal;

/// Checks a module against the table of opcodes and the guard's own narrower rules; drops pragmas,
/// which only advise.
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
        if let Some(body) = &mut f.body {
            block(&mut body.statements)?;
        }
    }
    Ok(())
}

fn block(statements: &mut Vec<Statement>) -> Result<(), Refusal> {
    statements.retain(|s| !matches!(s, Statement::Pragma(_)));
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
        Some(Op::Mbarrier) => refuse(
            "mbarrier operations fault when the barrier in shared memory holds what they do not expect, \
             and any store can make it so; use bar.sync, and cp.async with wait_group",
        ),
        Some(Op::Cp) if i.has(Flag::Mbarrier) || i.has(Flag::MbarrierCompleteTx) => refuse(
            "a copy that completes on an mbarrier, which can fault; use cp.async with wait_group",
        ),
        Some(Op::Cvta) if spaces().any(Space::is_param) => {
            refuse("a generic address of kernel parameters is not supported; copy them first")
        }
        Some(Op::Bar | Op::Barrier) => barrier(i),
        _ => Ok(()),
    }
}

/// Immediate barrier numbers and thread counts must be good; numbers in registers are masked later,
/// counts in registers are refused.
fn barrier(i: &Instruction) -> Result<(), Refusal> {
    let refuse = |why| Err(Refusal::Instruction { at: i.span, why });
    if i.has(Flag::Warp) || i.has(Flag::Cluster) {
        return Ok(());
    }
    let values: &[Operand] = if i.has(Flag::Red) {
        // Destination first, predicate last.
        i.operands.get(1..i.operands.len().saturating_sub(1)).unwrap_or(&[])
    } else {
        &i.operands
    };
    if let Some(Operand::Int(number)) = values.first()
        && !(0..16).contains(number)
    {
        return refuse("a barrier that is none of 0 to 15");
    }
    match values.get(1) {
        None => Ok(()),
        Some(Operand::Int(count)) if (32..=1024).contains(count) && count % 32 == 0 => Ok(()),
        Some(_) => refuse("a barrier whose thread count is no constant multiple of 32 up to 1024"),
    }
}
