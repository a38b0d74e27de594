//! Which kernel parameters are addresses, by how the kernel uses them.
//!
//! A 64-bit parameter from which the address of a `.global` or generic access is computed by additions is
//! taken for one. A wrong guess costs no safety: the launch contract names the parameter, and a launch
//! whose value there is no aligned address in the arena does not get a module guarded on that promise.

use crate::hash::HashMap;

use crate::contract::{Arena, PointerContract};
use crate::tree::{Function, Instruction, Op, ScalarType, Space};

use super::graph::Graph;
use super::ir::{Arg, Id, Kind};
use super::ssa::Ssa;
use super::value::Value;

/// Offsets of a kernel's parameters in the parameter block: each at the next multiple of its alignment.
pub(super) fn offsets(function: &Function) -> HashMap<crate::tree::Name, u64> {
    let mut found = HashMap::default();
    let mut end = 0u64;
    for v in &function.params {
        let Some(start) = end.checked_next_multiple_of(v.alignment().max(1)) else { break };
        found.insert(v.name.clone(), start);
        let Some(next) = v.bytes().and_then(|bytes| start.checked_add(bytes)) else { break };
        end = next;
    }
    found
}

/// Bytes that an instruction's global access moves; `None` when it makes none.
fn width(i: &Instruction) -> Option<u64> {
    let global = match i.space() {
        None | Some(Space::Global) => true,
        // cp.async: its source is global.
        Some(_) => i.op() == Some(Op::Cp) && !i.has(crate::tree::Flag::Mbarrier),
    };
    let align = match i.op()? {
        Op::Ld | Op::Ldu | Op::St | Op::Atom | Op::Red => {
            u64::from(i.types().last().map_or(1, ScalarType::bytes)) * u64::from(i.vector())
        }
        Op::Cp => match i.operands.get(2).and_then(crate::tree::Operand::as_int) {
            Some(size @ (4 | 8)) => size as u64,
            _ => 16,
        },
        Op::Wmma => 32,
        Op::Prefetch | Op::Prefetchu => 1,
        _ => return None,
    };
    (global && align.is_power_of_two()).then_some(align)
}

/// The parameters that addresses come from, with the widest alignment needed of each.
pub(super) fn find(ssa: &Ssa, graph: &Graph<'_>) -> Vec<PointerContract> {
    let mut found: HashMap<u64, u64> = HashMap::default();
    // Widest alignment with which each value has been visited.
    let mut seen: HashMap<Id, u64> = HashMap::default();
    for address in &ssa.addresses {
        let i = graph.instructions[address.instruction as usize];
        let Some(align) = width(i) else { continue };
        // The copy's first address is the shared one.
        if i.op() == Some(Op::Cp) && address.operand == 0 && i.space() != Some(Space::Global) {
            continue;
        }
        let mut work = vec![address.base];
        while let Some(arg) = work.pop() {
            let Arg::Value(id) = arg else { continue };
            let known = seen.entry(id).or_insert(0);
            if *known >= align {
                continue;
            }
            *known = align;
            let e = &ssa.expressions[id as usize];
            match e.kind {
                Kind::Param(offset) => {
                    let entry = found.entry(offset).or_insert(1);
                    *entry = (*entry).max(align);
                }
                Kind::Copy | Kind::Sub => work.push(e.args[0]),
                Kind::Add => work.extend([e.args[0], e.args[1]]),
                Kind::Mad | Kind::MadWide { .. } => work.push(e.args[2]),
                Kind::Select { .. } => work.extend([e.args[0], e.args[1]]),
                Kind::Phi(phi) => {
                    work.extend(ssa.phis[phi as usize].args.iter().map(|(_, arg)| *arg));
                }
                _ => {}
            }
        }
    }
    let mut pointers: Vec<PointerContract> = found
        .into_iter()
        .filter(|(offset, _)| offset % 8 == 0)
        .map(|(offset, align)| PointerContract { offset, align })
        .collect();
    pointers.sort_unstable_by_key(|p| p.offset);
    pointers
}

/// What the parameters hold then.
pub(super) fn values(pointers: &[PointerContract], arena: Arena) -> HashMap<u64, Value> {
    let value = |p: &PointerContract| {
        let last = arena.base() + arena.size() - p.align;
        let mut value = Value::range(arena.base() as i64, last as i64);
        value.zeros |= p.align - 1;
        (p.offset, value.fit(64))
    };
    pointers.iter().map(value).collect()
}
