//! The call graph: recursion is refused (its stack could overflow, which faults), depth and local memory
//! are bounded.

use crate::hash::HashMap;

use crate::tree::{
    Block, Function, FunctionKind, Item, Module, Name, Op, Operand, Space, Statement,
};

use super::report::Report;
use super::{GuardOptions, Refusal};

/// Longest chain of calls.
pub const MAX_CALL_DEPTH: u32 = 64;

/// The functions that a module defines, and who calls whom.
pub(super) struct Calls<'m> {
    /// All functions with a body.
    pub(super) functions: Vec<&'m Function>,
    /// Callees of each, by index.
    pub(super) callees: Vec<Vec<usize>>,
}

impl<'m> Calls<'m> {
    /// Reads the calls of a module, all of which are direct by now.
    pub(super) fn new(module: &'m Module) -> Self {
        let functions: Vec<&Function> = module
            .items
            .iter()
            .filter_map(|item| match item {
                Item::Function(f) if f.body.is_some() => Some(&**f),
                _ => None,
            })
            .collect();
        let index: HashMap<&Name, usize> =
            functions.iter().enumerate().map(|(i, f)| (&f.name, i)).collect();
        let mut callees = Vec::with_capacity(functions.len());
        for f in &functions {
            let mut found = Vec::new();
            if let Some(body) = &f.body {
                each_instruction(body, &mut |i| {
                    let target = i.call().and_then(|call| call.target.as_symbol().cloned());
                    if i.op() == Some(Op::Call)
                        && let Some(&callee) = target.as_ref().and_then(|name| index.get(name))
                    {
                        found.push(callee);
                    }
                });
            }
            found.sort_unstable();
            found.dedup();
            callees.push(found);
        }
        Self { functions, callees }
    }

    /// A function and everything it may call.
    pub(super) fn reachable(&self, function: usize) -> Vec<usize> {
        let mut seen = vec![false; self.functions.len()];
        let (mut found, mut work) = (Vec::new(), vec![function]);
        seen[function] = true;
        while let Some(next) = work.pop() {
            found.push(next);
            for &callee in &self.callees[next] {
                if !std::mem::replace(&mut seen[callee], true) {
                    work.push(callee);
                }
            }
        }
        found
    }

    /// Functions in an order in which callees come before callers.
    ///
    /// # Errors
    /// The function at which a cycle closes.
    pub(super) fn bottom_up(&self) -> Result<Vec<usize>, usize> {
        let mut state = vec![0u8; self.functions.len()];
        let mut order = Vec::with_capacity(self.functions.len());
        for start in 0..self.functions.len() {
            if state[start] != 0 {
                continue;
            }
            let mut stack = vec![(start, 0)];
            state[start] = 1;
            while let Some((function, next)) = stack.last_mut() {
                let function = *function;
                if let Some(&callee) = self.callees[function].get(*next) {
                    *next += 1;
                    match state[callee] {
                        0 => {
                            state[callee] = 1;
                            stack.push((callee, 0));
                        }
                        1 => return Err(callee),
                        _ => {}
                    }
                } else {
                    state[function] = 2;
                    order.push(function);
                    stack.pop();
                }
            }
        }
        Ok(order)
    }
}

/// Calls `visit` for every instruction of a body, nested scopes included, in text order.
pub(super) fn each_instruction<'b>(
    block: &'b Block,
    visit: &mut impl FnMut(&'b crate::tree::Instruction),
) {
    for statement in &block.statements {
        match statement {
            Statement::Block(inner) => each_instruction(inner, visit),
            Statement::Instruction(i) => visit(i),
            _ => {}
        }
    }
}

/// Bytes of the `.local` objects of a body, each rounded up to 16.
fn local_bytes(block: &Block) -> u64 {
    block.statements.iter().fold(0u64, |sum, statement| {
        sum.saturating_add(match statement {
            Statement::Block(inner) => local_bytes(inner),
            Statement::Variable(v) if v.space == Space::Local => {
                v.bytes().unwrap_or(u64::MAX).saturating_add(v.alignment().max(16))
            }
            _ => 0,
        })
    })
}

/// Checks the call graph.
///
/// # Errors
/// [`Refusal::Function`] for recursion, too deep chains and too much local memory.
pub(super) fn check(
    module: &Module,
    options: &GuardOptions,
    report: &mut Report,
) -> Result<(), Refusal> {
    let calls = Calls::new(module);
    let refuse = |index: usize, why| {
        let f = calls.functions[index];
        Err(Refusal::Function { at: f.span, name: f.name.clone(), why })
    };
    let order = match calls.bottom_up() {
        Ok(order) => order,
        Err(index) => {
            return refuse(index, "calls itself, perhaps through others; its stack has no bound");
        }
    };
    let mut depth = vec![0u32; calls.functions.len()];
    let mut bytes = vec![0u64; calls.functions.len()];
    for index in order {
        let callees = &calls.callees[index];
        let below = callees.iter().map(|&c| depth[c]).max().unwrap_or(0);
        let stack = callees.iter().map(|&c| bytes[c]).max().unwrap_or(0);
        let own = calls.functions[index].body.as_ref().map_or(0, local_bytes);
        depth[index] = below + 1;
        bytes[index] = stack.saturating_add(own);
        if depth[index] > MAX_CALL_DEPTH {
            return refuse(index, "starts a chain of more than 64 calls");
        }
        if bytes[index] > options.max_local_bytes {
            return refuse(
                index,
                "needs more local memory (with its callees) than the policy allows",
            );
        }
        if calls.functions[index].kind == FunctionKind::Entry {
            report.call_depth = report.call_depth.max(depth[index]);
            report.stack_bytes = report.stack_bytes.max(bytes[index]);
        }
    }
    Ok(())
}

/// True for an operand that names a symbol.
pub(super) fn names(operand: &Operand, visit: &mut impl FnMut(&Name)) {
    match operand {
        Operand::Symbol(name, _) => visit(name),
        Operand::Address(a) => {
            if let crate::tree::Base::Symbol(name) = &a.base {
                visit(name);
            }
        }
        Operand::Vector(items) | Operand::List(items) => {
            items.iter().for_each(|item| names(item, visit));
        }
        _ => {}
    }
}
