//! What a function may be handed addresses of by those that call it: shared objects of its kernels, and
//! its callers' local variables.

use crate::hash::{HashMap, HashSet};
use crate::tree::{Flag, FunctionKind, Linkage, Module, Name, Op, Space, Variable};

use super::analysis::{Object, ObjectSpace};
use super::recursion::{Calls, each_instruction, names};

/// Which shared objects a function may be handed addresses of: those that every kernel it runs in has
/// anyway, because the kernel or something it calls names them.
pub(super) struct Visibility {
    of: HashMap<Name, Vec<Object>>,
    kernels: Vec<Name>,
    callers_locals: HashSet<Name>,
}

impl Visibility {
    pub(super) fn new(module: &Module, shared: &[&Variable]) -> Self {
        let calls = Calls::new(module);
        let by_name: HashMap<&Name, usize> =
            shared.iter().enumerate().map(|(i, v)| (&v.name, i)).collect();
        let count = calls.functions.len();
        // What each function names itself.
        let own: Vec<HashSet<usize>> = calls
            .functions
            .iter()
            .map(|f| {
                let mut found = HashSet::default();
                if let (Some(body), false) = (&f.body, by_name.is_empty()) {
                    each_instruction(body, &mut |i| {
                        for operand in &i.operands {
                            names(operand, &mut |name| {
                                found.extend(by_name.get(name).copied());
                            });
                        }
                    });
                }
                found
            })
            .collect();
        let mut reached: Vec<HashSet<usize>> = vec![HashSet::default(); count];
        let mut seen = vec![usize::MAX; count];
        for (index, f) in calls.functions.iter().enumerate() {
            if f.kind != FunctionKind::Entry {
                continue;
            }
            let (mut members, mut work) = (Vec::new(), vec![index]);
            seen[index] = index;
            let mut objects: HashSet<usize> = HashSet::default();
            while let Some(function) = work.pop() {
                members.push(function);
                objects.extend(&own[function]);
                for &callee in &calls.callees[function] {
                    if seen[callee] != index {
                        seen[callee] = index;
                        work.push(callee);
                    }
                }
            }
            for member in members {
                reached[member].extend(&objects);
            }
        }
        let mut of = HashMap::default();
        for (index, f) in calls.functions.iter().enumerate() {
            reached[index].extend(&own[index]);
            let mut indices: Vec<usize> = reached[index].iter().copied().collect();
            indices.sort_unstable();
            let object = |i: usize| Object {
                name: shared[i].name.clone(),
                space: ObjectSpace::Shared,
                bytes: match shared[i].linkage {
                    Linkage::Extern => None,
                    _ => shared[i].bytes(),
                },
                align: shared[i].alignment(),
            };
            of.insert(f.name.clone(), indices.into_iter().map(object).collect());
        }
        // Everything below a function that makes generic addresses of its locals.
        let mut below = vec![false; count];
        let mut work: Vec<usize> = Vec::new();
        for (index, f) in calls.functions.iter().enumerate() {
            let mut escapes = false;
            if let Some(body) = &f.body {
                each_instruction(body, &mut |i| {
                    let to = i.has(Flag::To);
                    escapes |= i.op() == Some(Op::Cvta) && !to && i.space() == Some(Space::Local);
                });
            }
            if escapes {
                work.extend(&calls.callees[index]);
            }
        }
        while let Some(function) = work.pop() {
            if !std::mem::replace(&mut below[function], true) {
                work.extend(&calls.callees[function]);
            }
        }
        let flagged = calls.functions.iter().zip(&below).filter(|(_, below)| **below);
        let callers_locals = flagged.map(|(f, _)| f.name.clone()).collect();
        let entries = calls.functions.iter().filter(|f| f.kind == FunctionKind::Entry);
        let kernels = entries.map(|f| f.name.clone()).collect();
        Self { of, kernels, callers_locals }
    }

    pub(super) fn callers_locals(&self, function: &Name) -> bool {
        self.callers_locals.contains(function)
    }

    pub(super) fn of(&self, function: &Name) -> &[Object] {
        self.of.get(function).map_or(&[], Vec::as_slice)
    }

    pub(super) fn all_kernels(&self) -> Vec<Name> {
        self.kernels.clone()
    }
}
