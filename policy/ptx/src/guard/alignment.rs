//! Alignment of objects: a misaligned access is a fault. Where an access needs more alignment than its
//! shared or local object declares, the declaration is raised (a program for which that matters has a
//! wide access there, which only works on an aligned object anyway).

use crate::hash::HashMap;

use crate::tree::{Block, Item, Module, Name, Statement, Variable};

use super::report::Report;

/// Declarations to change: alignment and size of shared objects (module-wide) and of locals (by function).
#[derive(Debug, Default)]
pub(super) struct Growth {
    /// (function or none for module level, object) -> least alignment
    aligns: HashMap<(Option<Name>, Name), u64>,
}

impl Growth {
    /// Asks for an alignment.
    pub(super) fn align(&mut self, function: Option<&Name>, object: &Name, align: u64) {
        let entry = self.aligns.entry((function.cloned(), object.clone())).or_insert(1);
        *entry = (*entry).max(align);
    }

    /// Changes the declarations.
    pub(super) fn apply(&self, module: &mut Module, report: &mut Report) {
        for item in &mut module.items {
            match item {
                Item::Variable(v) => self.variable(v, None, report),
                Item::Function(f) => {
                    let name = f.name.clone();
                    if let Some(body) = &mut f.body {
                        self.block(body, &name, report);
                    }
                }
                _ => {}
            }
        }
    }

    fn block(&self, block: &mut Block, function: &Name, report: &mut Report) {
        for statement in &mut block.statements {
            match statement {
                Statement::Block(inner) => self.block(inner, function, report),
                Statement::Variable(v) => self.variable(v, Some(function), report),
                _ => {}
            }
        }
    }

    fn variable(&self, v: &mut Variable, function: Option<&Name>, report: &mut Report) {
        let wanted = self.aligns.get(&(function.cloned(), v.name.clone())).copied().unwrap_or(1);
        if wanted > v.alignment() {
            v.align = Some(wanted as u32);
            if v.space.is_shared() {
                report.realigned.push((v.name.clone(), wanted));
            }
        }
    }
}
