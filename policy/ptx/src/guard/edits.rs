//! What a pass over a function wants changed in its body, and the change.

use crate::hash::HashMap;
use crate::tree::{
    Block, Instruction, Linkage, Name, Op, ScalarType, Space, Span, Statement, Variable,
};

use super::rewrite::LOCAL_STAND_IN;
use super::violation::Violation;

/// What takes the place of an instruction.
pub(super) struct Edit {
    pub(super) before: Vec<Instruction>,
    pub(super) instruction: Instruction,
}

/// What the pass over one function came to.
pub(super) struct Rewritten {
    /// The function among the module's items.
    pub(super) position: usize,
    /// Its number in violation records.
    pub(super) number: usize,
    pub(super) edits: HashMap<u32, Edit>,
    pub(super) violations: Vec<Violation>,
    pub(super) local: bool,
}

impl Rewritten {
    /// Changes the body.
    pub(super) fn apply(self, body: Block) -> Block {
        let mut body = rebuild(body, self.edits);
        finish(&mut body, &self.violations, self.number, self.local);
        body
    }
}

/// A body with the edited instructions in place. Shared and local variables of inner scopes move to the
/// outermost one, where every clamp can name them; their names are unique in the function.
fn rebuild(body: Block, mut edits: HashMap<u32, Edit>) -> Block {
    fn block(
        old: Block,
        edits: &mut HashMap<u32, Edit>,
        number: &mut u32,
        moved: &mut Vec<Statement>,
        outermost: bool,
    ) -> Block {
        let mut statements = Vec::with_capacity(old.statements.len() + edits.len());
        for statement in old.statements {
            match statement {
                Statement::Block(inner) => {
                    let inner = block(inner, edits, number, moved, false);
                    statements.push(Statement::Block(inner));
                }
                Statement::Instruction(i) => {
                    match edits.remove(number) {
                        Some(edit) => {
                            statements.extend(edit.before.into_iter().map(Statement::Instruction));
                            statements.push(Statement::Instruction(edit.instruction));
                        }
                        None => statements.push(Statement::Instruction(i)),
                    }
                    *number += 1;
                }
                Statement::Variable(v)
                    if !outermost && (v.space.is_shared() || v.space == Space::Local) =>
                {
                    moved.push(Statement::Variable(v));
                }
                other => statements.push(other),
            }
        }
        Block { statements, span: old.span }
    }
    let mut moved = Vec::new();
    let mut new = block(body, &mut edits, &mut 0, &mut moved, true);
    if !moved.is_empty() {
        moved.append(&mut new.statements);
        new.statements = moved;
    }
    new
}

/// Appends the violation blocks and the stand-in for local memory.
fn finish(body: &mut Block, violations: &[Violation], function: usize, local: bool) {
    if local {
        let object = stand_in_object(LOCAL_STAND_IN, crate::tree::Space::Local);
        body.statements.insert(0, Statement::Variable(object));
    }
    let ends = match body.statements.last() {
        Some(Statement::Instruction(i)) => {
            i.guard.is_none() && matches!(i.op(), Some(Op::Ret | Op::Exit | Op::Bra | Op::Brx))
        }
        _ => false,
    };
    if !ends {
        // Control must run neither off the end nor into the blocks that report.
        body.statements.push(Statement::Instruction(Instruction::new(Op::Ret, [], vec![])));
    }
    for violation in violations {
        body.statements.extend(violation.statements(function));
    }
}

/// An object that stands in where a kernel has none.
pub(super) fn stand_in_object(name: &str, space: Space) -> Variable {
    Variable {
        linkage: Linkage::Internal,
        space,
        align: Some(32),
        vector: 1,
        ty: ScalarType::B8,
        pointer: None,
        managed: false,
        name: Name::from(name),
        dims: vec![Some(32)],
        init: None,
        span: Span::NONE,
    }
}
