//! Refuses modules that bring names of the guard's own.
//!
//! The parser already refuses reserved identifiers in a tenant's text (its own renamings end in the
//! mark, they never start with it); this holds for trees that came another way.

use crate::tree::{Block, Item, Module, Name, RESERVED, Span, Statement};

use super::Refusal;

fn check_name(name: &Name, at: Span) -> Result<(), Refusal> {
    let bare = name.strip_prefix('%').unwrap_or(name);
    if bare.starts_with(RESERVED) {
        return Err(Refusal::Name { at, name: name.clone() });
    }
    Ok(())
}

fn check_block(block: &Block) -> Result<(), Refusal> {
    block.statements.iter().try_for_each(|statement| match statement {
        Statement::Label(name, at) => check_name(name, *at),
        Statement::Registers(r) => r.names.iter().try_for_each(|n| check_name(&n.name, r.span)),
        Statement::Variable(v) => check_name(&v.name, v.span),
        Statement::Block(inner) => check_block(inner),
        Statement::BranchTargets(t) | Statement::CallTargets(t) => check_name(&t.name, t.span),
        Statement::CallPrototype(p) => check_name(&p.name, p.span),
        Statement::Instruction(_) | Statement::Pragma(_) => Ok(()),
    })
}

/// Checks every declaration of a module.
///
/// # Errors
/// [`Refusal::Name`].
pub(super) fn check(module: &Module) -> Result<(), Refusal> {
    module.items.iter().try_for_each(|item| match item {
        Item::Function(f) => {
            check_name(&f.name, f.span)?;
            for v in f.results.iter().chain(&f.params) {
                check_name(&v.name, v.span)?;
            }
            f.body.as_ref().map_or(Ok(()), check_block)
        }
        Item::Variable(v) => check_name(&v.name, v.span),
        Item::Alias { name, span, .. } => check_name(name, *span),
        Item::Pragma(_) => Ok(()),
    })
}
