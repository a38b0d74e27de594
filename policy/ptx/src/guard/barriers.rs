//! Barriers with thread counts: every use of a barrier in a kernel must name the same count.
//!
//! Two warps that wait at one barrier with different counts are a fault (`715`, measured on sm_90), and
//! so is a count that is no multiple of 32. Counts are constants by then ([`super::allow`]); here each
//! kernel's uses of a barrier, its callees' included, are compared. A barrier whose number is only known
//! at run time may be any.

use std::collections::HashMap;

use crate::tree::{Flag, FunctionKind, Instruction, Module, Op, Operand};

use super::Refusal;
use super::recursion::{Calls, each_instruction};

/// Number (if constant) and count (if given) of a barrier instruction.
pub(super) fn uses(i: &Instruction) -> Option<(Option<i64>, Option<i64>)> {
    if !matches!(i.op(), Some(Op::Bar | Op::Barrier)) || i.has(Flag::Warp) || i.has(Flag::Cluster) {
        return None;
    }
    let values: &[Operand] = if i.has(Flag::Red) {
        // Destination first, predicate last.
        i.operands.get(1..i.operands.len().saturating_sub(1)).unwrap_or(&[])
    } else {
        &i.operands
    };
    let number = values.first().and_then(Operand::as_int);
    Some((number, values.get(1).and_then(Operand::as_int)))
}

/// Compares the counts of every kernel's barriers.
///
/// # Errors
/// [`Refusal::Instruction`] at the first use that differs from an earlier one.
pub(super) fn check(module: &Module) -> Result<(), Refusal> {
    let calls = Calls::new(module);
    #[allow(clippy::type_complexity)] // Number, count and place of each use, by function.
    let mut found: Vec<Vec<(Option<i64>, Option<i64>, crate::tree::Span)>> = Vec::new();
    let mut any = false;
    for f in &calls.functions {
        let mut own = Vec::new();
        if let Some(body) = &f.body {
            each_instruction(body, &mut |i| {
                if let Some((number, count)) = uses(i) {
                    own.push((number, count, i.span));
                }
            });
        }
        own.dedup_by_key(|(number, count, _)| (*number, *count));
        any |= own.iter().any(|(_, count, _)| count.is_some());
        found.push(own);
    }
    if !any {
        return Ok(());
    }
    for (index, f) in calls.functions.iter().enumerate() {
        if f.kind != FunctionKind::Entry {
            continue;
        }
        let mut counts: HashMap<i64, Option<i64>> = HashMap::new();
        // The count that all must share once a number is unknown.
        let mut unknown: Option<Option<i64>> = None;
        for member in calls.reachable(index) {
            for (number, count, at) in &found[member] {
                let agrees = match number {
                    Some(number) => {
                        let known = *counts.entry(*number).or_insert(*count);
                        known == *count && unknown.is_none_or(|all| all == *count)
                    }
                    None => {
                        let all = *unknown.get_or_insert(*count);
                        all == *count && counts.values().all(|known| *known == all)
                    }
                };
                if !agrees {
                    let why =
                        "a barrier that is used with different thread counts, which can fault";
                    return Err(Refusal::Instruction { at: *at, why });
                }
            }
        }
    }
    Ok(())
}
