//! Calls: only direct ones, to functions of the module, with the parameters that the callee declares,
//! and never in a circle. A callee that writes a larger result than its caller made room for would
//! overwrite the caller's frame, return address included.

use crate::hash::HashMap;

use super::Reason;
use crate::tree::{
    Block, Call, Function, Instruction, Item, Module, Name, Op, Operand, Space, Span, Statement,
    Variable,
};

/// Functions of a module by name, aliases followed.
pub(super) struct Functions<'m> {
    by_name: HashMap<&'m str, &'m Function>,
}

impl<'m> Functions<'m> {
    pub(super) fn of(module: &'m Module) -> Self {
        let mut by_name = HashMap::default();
        for item in &module.items {
            if let Item::Function(f) = item
                && f.body.is_some()
            {
                by_name.insert(&*f.name, &**f);
            }
        }
        for item in &module.items {
            // An alias of an alias is refused by the check.
            if let Item::Alias { name, target, .. } = item
                && let Some(f) = by_name.get(&**target).copied()
            {
                by_name.insert(name, f);
            }
        }
        Self { by_name }
    }

    /// True when the module defines a function of this name.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Checks a call in a function whose own parameters and variables are `variables`.
    pub(super) fn check_call(
        &self,
        i: &Instruction,
        variables: &HashMap<&'m str, &'m Variable>,
        inputs: &[Variable],
    ) -> Result<(), Reason> {
        let call = i.call().ok_or(Reason::Call("is malformed"))?;
        let Operand::Symbol(name, 0) = call.target else {
            return Err(Reason::Call("goes through a pointer"));
        };
        let Some(callee) = self.by_name.get(&**name) else {
            return Err(Reason::Call("leaves the module"));
        };
        let Call { results, args, prototype: None, .. } = call else {
            return Err(Reason::Call("has a prototype"));
        };
        let given = results.iter().filter_map(Operand::as_symbol);
        if given.into_iter().any(|name| inputs.iter().any(|v| v.name == *name)) {
            return Err(Reason::Call("returns into an input parameter"));
        }
        matching(results, &callee.results, variables)?;
        matching(args, &callee.params, variables)
    }

    /// Refuses recursion: a depth-first walk with an explicit stack.
    pub(super) fn check_acyclic(&self, module: &'m Module) -> Result<(), (Span, Reason)> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            Open,
            Done,
        }
        let mut marks: HashMap<&str, Mark> = HashMap::default();
        for item in &module.items {
            let Item::Function(root) = item else { continue };
            if root.body.is_none() || marks.contains_key(&*root.name) {
                continue;
            }
            marks.insert(&root.name, Mark::Open);
            let mut stack = vec![(&**root, callees(root), 0usize)];
            while let Some((function, callees_of, next)) = stack.pop() {
                let Some((name, at)) = callees_of.get(next).copied() else {
                    marks.insert(&function.name, Mark::Done);
                    continue;
                };
                stack.push((function, callees_of, next + 1));
                let Some(callee) = self.by_name.get(&**name).copied() else { continue };
                match marks.get(&*callee.name) {
                    Some(Mark::Done) => {}
                    Some(Mark::Open) => return Err((at, Reason::Call("is recursive"))),
                    None => {
                        marks.insert(&callee.name, Mark::Open);
                        stack.push((callee, callees(callee), 0));
                    }
                }
            }
        }
        Ok(())
    }
}

fn callees(function: &Function) -> Vec<(&Name, Span)> {
    fn walk<'m>(block: &'m Block, out: &mut Vec<(&'m Name, Span)>) {
        for statement in &block.statements {
            match statement {
                Statement::Block(inner) => walk(inner, out),
                Statement::Instruction(i) if i.op() == Some(Op::Call) => {
                    if let Some(Call { target: Operand::Symbol(name, _), .. }) = i.call() {
                        out.push((name, i.span));
                    }
                }
                _ => {}
            }
        }
    }
    let mut out = Vec::new();
    if let Some(body) = &function.body {
        walk(body, &mut out);
    }
    out
}

fn matching<'m>(
    given: &[Operand],
    declared: &[Variable],
    variables: &HashMap<&'m str, &'m Variable>,
) -> Result<(), Reason> {
    if given.len() != declared.len() {
        return Err(Reason::Call("passes another number of parameters than the callee declares"));
    }
    for (operand, want) in given.iter().zip(declared) {
        let fits = match operand {
            Operand::Symbol(name, 0) => variables.get(&**name).is_some_and(|have| {
                have.space == Space::Param
                    && want.space == Space::Param
                    && have.bytes() == want.bytes()
                    && have.bytes().is_some()
                    && have.alignment() >= want.alignment()
            }),
            // A register or number passes as a scalar.
            Operand::Reg(_) | Operand::Int(_) | Operand::F32(_) | Operand::F64(_) => {
                want.dims.is_empty() && want.vector == 1
            }
            Operand::Special(_) => want.dims.is_empty() && want.vector == 1,
            _ => false,
        };
        if !fits {
            return Err(Reason::Call(
                "passes a parameter of another size than the callee declares",
            ));
        }
    }
    Ok(())
}
