//! Barriers: every use of a barrier in a kernel must be of one kind and name the same count.
//!
//! Warps that meet at one barrier with different instructions are a fault (`715`, measured on sm_90):
//! `bar.sync` with `bar.red`, or two reductions. In a program that is right they never meet, so each
//! kind gets a barrier of its own ([`separate`]); in one that is not, they wait for each other for ever,
//! which a time limit ends.
//!
//! Two warps that wait at one barrier with different counts are a fault (`715`, measured on sm_90), and
//! so is a count that is no multiple of 32. Counts are constants by then ([`super::allow`]); here each
//! kernel's uses of a barrier, its callees' included, are compared. A barrier whose number is only known
//! at run time may be any.

use crate::hash::HashMap;

use crate::opcode::for_each_written;
use crate::tree::{
    Flag, FunctionKind, Guard, Instruction, Item, Module, Name, Op, Operand, ScalarType, Span,
    Statement,
};

use super::Refusal;
use super::forms::{Emit, Fresh, reg};
use super::recursion::{Calls, each_instruction};
use super::report::{Change, Report};

/// Most barriers of a function whose number is compared with all sixteen.
const MOST_CHAINS: u32 = 64;

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

/// Makes the number and the thread count of every barrier a constant, where they are not already.
///
/// Lanes of one warp that name different barriers in one instruction are a fault (715, measured on
/// sm_90), and so are counts that are no multiple of 32. A register that only ever holds one constant is
/// that constant; a number that is none is compared with all sixteen, each with an instruction of its own.
///
/// # Errors
/// [`Refusal::Instruction`] for other numbers and counts.
pub(super) fn settle(
    module: &mut Module,
    fresh: &mut HashMap<Name, Fresh>,
    report: &mut Report,
) -> Result<(), Refusal> {
    for item in &mut module.items {
        let Item::Function(f) = item else { continue };
        let Some(body) = &mut f.body else { continue };
        let mut any = false;
        each_instruction(body, &mut |i| any |= uses(i).is_some());
        if !any {
            continue;
        }
        let constants = constants(body);
        let fresh = fresh.entry(f.name.clone()).or_default();
        let mut chains = 0;
        settle_block(&mut body.statements, &constants, fresh, &mut chains)?;
        for _ in 0..chains {
            report.function(&f.name).count(Change::Barrier);
        }
    }
    Ok(())
}

/// Registers that are written once, and with a constant.
fn constants(body: &crate::tree::Block) -> HashMap<Name, i64> {
    let mut found: HashMap<&Name, Option<i64>> = HashMap::default();
    each_instruction(body, &mut |i| {
        let constant = match (i.op(), i.operands.as_slice()) {
            (Some(Op::Mov), [Operand::Reg(_), Operand::Int(value)]) if i.guard.is_none() => {
                Some(*value)
            }
            _ => None,
        };
        for_each_written(i, &mut |name| {
            found.entry(name).and_modify(|known| *known = None).or_insert(constant);
        });
    });
    found.into_iter().filter_map(|(name, value)| Some((name.clone(), value?))).collect()
}

fn settle_block(
    statements: &mut Vec<Statement>,
    constants: &HashMap<Name, i64>,
    fresh: &mut Fresh,
    chains: &mut u32,
) -> Result<(), Refusal> {
    let mut out = Vec::with_capacity(statements.len());
    for mut statement in std::mem::take(statements) {
        match &mut statement {
            Statement::Block(inner) => {
                settle_block(&mut inner.statements, constants, fresh, chains)?;
            }
            Statement::Instruction(i) if uses(i).is_some() => {
                if settle_one(i, constants)? {
                    out.push(statement);
                    continue;
                }
                if *chains >= MOST_CHAINS {
                    let why = "more than 64 barriers whose number is no constant in one function";
                    return Err(Refusal::Instruction { at: i.span, why });
                }
                chain(i, fresh, &mut out);
                *chains += 1;
                continue;
            }
            _ => {}
        }
        out.push(statement);
    }
    *statements = out;
    Ok(())
}

/// False when the number is no constant.
fn settle_one(i: &mut Instruction, constants: &HashMap<Name, i64>) -> Result<bool, Refusal> {
    let at = i.span;
    let refuse = |why| Err(Refusal::Instruction { at, why });
    let red = usize::from(i.has(Flag::Red));
    let end = i.operands.len() - red;
    for operand in i.operands.get_mut(red..end).unwrap_or(&mut []) {
        if let Operand::Reg(name) = operand
            && let Some(value) = constants.get(name)
        {
            *operand = Operand::Int(*value);
        }
    }
    match i.operands.get(red + 1..end).and_then(<[Operand]>::first) {
        None => {}
        Some(Operand::Int(count)) if (32..=1024).contains(count) && count % 32 == 0 => {}
        Some(_) => {
            return refuse("a barrier whose thread count is no constant multiple of 32 up to 1024");
        }
    }
    match i.operands.get(red) {
        Some(Operand::Int(0..16)) => Ok(true),
        Some(Operand::Reg(_)) => Ok(false),
        _ => refuse("a barrier that is none of 0 to 15"),
    }
}

/// The instruction sixteen times, for each number under the predicate that it is the one.
fn chain(i: &Instruction, fresh: &mut Fresh, out: &mut Vec<Statement>) {
    let position = usize::from(i.has(Flag::Red));
    let number = i.operands[position].clone();
    let mut push = |i: Instruction| out.push(Statement::Instruction(i));
    let mut emit = Emit::new(fresh, i.span);
    let masked = emit.fresh.word();
    emit.push(Op::And, [ScalarType::B32.into()], vec![reg(&masked), number, Operand::Int(15)]);
    let skip = i.guard.as_ref().map(|guard| {
        let label = emit.fresh.label();
        emit.branch(&guard.reg, &label);
        if let Some(branch) = emit.out.last_mut().and_then(|i| i.guard.as_mut()) {
            branch.negated = !guard.negated;
        }
        label
    });
    for number in 0..16 {
        let other = emit.differ(ScalarType::B32, &masked, Operand::Int(number), None);
        let mut one = i.clone();
        one.operands[position] = Operand::Int(number);
        one.guard = Some(Guard { negated: true, reg: other });
        emit.out.push(one);
    }
    emit.out.into_iter().for_each(&mut push);
    if let Some(label) = skip {
        out.push(Statement::Label(label, i.span));
    }
}

/// The reduction of a `bar.red`; `None` for `sync` and `arrive`, which may meet.
fn kind(i: &Instruction) -> Option<Flag> {
    let reduction = |f: &Flag| matches!(f, Flag::And | Flag::Or | Flag::Popc);
    if i.has(Flag::Red) { i.flags().find(reduction) } else { None }
}

/// Gives reductions barriers that no other kind of instruction uses.
///
/// # Errors
/// [`Refusal::Instruction`] when the sixteen barriers of a block do not suffice.
pub(super) fn separate(module: &mut Module) -> Result<(), Refusal> {
    let mut used = [false; 16];
    let mut kinds: Vec<(i64, Option<Flag>)> = Vec::new();
    let mut unknown = false;
    for item in &module.items {
        let Item::Function(f) = item else { continue };
        let Some(body) = &f.body else { continue };
        each_instruction(body, &mut |i| match uses(i) {
            Some((Some(number), _)) => {
                if let Some(slot) = usize::try_from(number).ok().and_then(|n| used.get_mut(n)) {
                    *slot = true;
                    if !kinds.contains(&(number, kind(i))) {
                        kinds.push((number, kind(i)));
                    }
                }
            }
            Some((None, _)) => unknown = true,
            None => {}
        });
    }
    // A barrier whose number is not known may be any; then nothing can be moved out of its way.
    if unknown || kinds.iter().all(|(_, kind)| kind.is_none()) {
        return Ok(());
    }
    // `sync` keeps its number, else the first reduction does.
    kinds.sort_by_key(|(number, kind)| (*number, kind.is_some()));
    let mut moved: Vec<(i64, Option<Flag>, i64)> = Vec::new();
    for pair in kinds.windows(2) {
        let [(before, _), (number, kind)] = pair else { continue };
        if before == number {
            let free = used.iter().position(|used| !used);
            moved.push((*number, *kind, free.map_or(-1, |free| free as i64)));
            if let Some(free) = free {
                used[free] = true;
            }
        }
    }
    let mut refused = None;
    for item in &mut module.items {
        if let Item::Function(f) = item
            && let Some(body) = &mut f.body
        {
            renumber(&mut body.statements, &moved, &mut refused);
        }
    }
    match refused {
        Some(at) => {
            let why = "more kinds of barrier than a block has barriers";
            Err(Refusal::Instruction { at, why })
        }
        None => Ok(()),
    }
}

fn renumber(
    statements: &mut [Statement],
    moved: &[(i64, Option<Flag>, i64)],
    refused: &mut Option<Span>,
) {
    for statement in statements {
        match statement {
            Statement::Block(inner) => renumber(&mut inner.statements, moved, refused),
            Statement::Instruction(i) => {
                let Some((Some(number), _)) = uses(i) else { continue };
                let own = kind(i);
                let Some((.., to)) = moved.iter().find(|(n, k, _)| *n == number && *k == own)
                else {
                    continue;
                };
                if *to < 0 {
                    refused.get_or_insert(i.span);
                }
                if let Some(operand) = i.operands.get_mut(usize::from(own.is_some())) {
                    *operand = Operand::Int(*to);
                }
            }
            _ => {}
        }
    }
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
        let mut counts: HashMap<i64, Option<i64>> = HashMap::default();
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
