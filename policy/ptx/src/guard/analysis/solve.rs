//! The fixpoint: approximations of all values that addresses depend on.
//!
//! Values grow from nothing until every phi holds all of its arguments (each taken under the conditions
//! of its edge); growth is widened to the function's own constants, so a bounded number of sweeps ends
//! it. Loops whose iterations can be counted bound every register that moves by a constant in them. A
//! few sweeps without widening then narrow the result; each replaces a sound value by a sound one.

use super::evaluate::{Evaluator, Fact, tighter};
use super::graph::NONE;
use super::ir::{Arg, Id, Kind};
use super::value::{NUMBER, Value};

/// Sweeps before growth is widened.
const EXACT_SWEEPS: u32 = 3;
/// Sweeps before the bits of what still grows are given up.
const BIT_SWEEPS: u32 = 9;
/// Sweeps before everything that loops is given up.
const LAST_SWEEP: u32 = 20;
/// Narrowing sweeps.
const NARROWING: u32 = 3;
/// Most constants to widen to.
const THRESHOLDS: usize = 256;

/// Computes [`Evaluator::values`] for everything that the given operands depend on.
pub(super) fn solve(evaluator: &mut Evaluator<'_>, wanted: impl Iterator<Item = Arg>) {
    let slice = slice(evaluator, wanted);
    let count = evaluator.ssa.expressions.len();
    evaluator.values = vec![Some(Value::TOP); count];
    evaluator.bounds = vec![None; count];
    if slice.is_empty() {
        return;
    }
    for &id in &slice {
        evaluator.values[id as usize] = None;
    }
    let thresholds = thresholds(evaluator, &slice);
    let mut sweep = 0;
    loop {
        if !ascend(evaluator, &slice, &thresholds, sweep) {
            break;
        }
        sweep += 1;
        if sweep > LAST_SWEEP {
            give_up(evaluator, &slice);
            break;
        }
    }
    let loops = slice.iter().any(|&id| matches!(kind(evaluator, id), Kind::Phi(_)));
    if loops {
        for _ in 0..NARROWING {
            count_iterations(evaluator, &slice);
            descend(evaluator, &slice);
        }
    }
}

fn kind(evaluator: &Evaluator<'_>, id: Id) -> Kind {
    evaluator.ssa.expressions[id as usize].kind
}

/// All values that the wanted ones and the branch conditions depend on, in an order in which operands
/// come before what uses them (phis aside).
fn slice(evaluator: &Evaluator<'_>, wanted: impl Iterator<Item = Arg>) -> Vec<Id> {
    let ssa = evaluator.ssa;
    let mut marked = vec![false; ssa.expressions.len()];
    let mut work: Vec<Id> = Vec::new();
    let mut push = |arg: Arg, work: &mut Vec<Id>| {
        if let Arg::Value(id) = arg
            && !std::mem::replace(&mut marked[id as usize], true)
        {
            work.push(id);
        }
    };
    for arg in wanted {
        push(arg, &mut work);
    }
    if work.is_empty() {
        return Vec::new();
    }
    for predicate in &ssa.predicates {
        push(*predicate, &mut work);
    }
    let mut all: Vec<Id> = Vec::new();
    while let Some(id) = work.pop() {
        all.push(id);
        let e = &ssa.expressions[id as usize];
        if let Kind::Phi(phi) = e.kind {
            for &(_, arg) in &ssa.phis[phi as usize].args {
                push(arg, &mut work);
            }
        }
        for arg in e.args {
            push(arg, &mut work);
        }
    }
    let mut rank = vec![NONE; evaluator.graph.blocks.len()];
    for (index, &block) in evaluator.graph.order.iter().enumerate() {
        rank[block as usize] = index as u32;
    }
    // Phis were numbered before all others, and within a block values are numbered in order.
    all.sort_unstable_by_key(|&id| (rank[ssa.block_of[id as usize] as usize], id));
    all
}

fn thresholds(evaluator: &Evaluator<'_>, slice: &[Id]) -> Vec<i64> {
    let mut found: Vec<i64> = vec![
        i64::MIN,
        i64::from(i32::MIN),
        -1,
        0,
        1,
        i64::from(i32::MAX),
        i64::from(u32::MAX),
        i64::MAX,
    ];
    for &id in slice {
        let e = &evaluator.ssa.expressions[id as usize];
        let relevant = matches!(
            e.kind,
            Kind::Compare { .. } | Kind::MinMax { .. } | Kind::And | Kind::Range(..)
        );
        for arg in e.args {
            if let Arg::Int(c) = arg
                && relevant
                && found.len() < THRESHOLDS
            {
                found.extend([c.saturating_sub(1), c, c.saturating_add(1)]);
            }
        }
    }
    for (_, most) in evaluator.launch.threads {
        let most = i64::from(most);
        found.extend([most - 1, most]);
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// A phi's value: its arguments, each under the conditions of its edge. `None` when no edge is known to
/// be taken yet.
fn phi_value(evaluator: &Evaluator<'_>, phi: u32) -> Option<Value> {
    let phi = &evaluator.ssa.phis[phi as usize];
    let mut value: Option<Value> = if phi.block == 0 { Some(Value::TOP) } else { None };
    for &(edge, arg) in &phi.args {
        if !evaluator.graph.is_reachable(evaluator.graph.edges[edge as usize].from) {
            continue;
        }
        let incoming = match arg {
            Arg::Unknown => Some(Value::TOP),
            arg => {
                let mut context = evaluator.edge_context(edge);
                evaluator.at(arg, &mut context)
            }
        };
        value = match (value, incoming) {
            (Some(a), Some(b)) => Some(a.join(b)),
            (a, None) => a,
            (None, b) => b,
        };
    }
    value
}

fn evaluate(evaluator: &Evaluator<'_>, id: Id) -> Option<Value> {
    let e = &evaluator.ssa.expressions[id as usize];
    match e.kind {
        Kind::Phi(phi) => phi_value(evaluator, phi),
        _ => evaluator.expression(e, &mut |arg| evaluator.general(arg)),
    }
}

/// One growing sweep; true when something changed.
fn ascend(evaluator: &mut Evaluator<'_>, slice: &[Id], thresholds: &[i64], sweep: u32) -> bool {
    let mut changed = false;
    for &id in slice {
        let old = evaluator.values[id as usize];
        let mut new = evaluate(evaluator, id);
        if let (Kind::Phi(_), Some(before), Some(now)) = (kind(evaluator, id), old, new) {
            let mut grown = before.join(now);
            if grown != before && sweep >= EXACT_SWEEPS {
                grown = widen(before, grown, thresholds, sweep);
            }
            new = Some(grown);
        }
        if new != old {
            evaluator.values[id as usize] = new;
            changed = true;
        }
    }
    changed
}

fn widen(before: Value, grown: Value, thresholds: &[i64], sweep: u32) -> Value {
    let mut value = grown;
    if grown.lo < before.lo {
        let below = thresholds.partition_point(|&t| t <= grown.lo);
        value.lo = thresholds[..below].last().copied().unwrap_or(i64::MIN);
    }
    if grown.hi > before.hi {
        let above = thresholds.partition_point(|&t| t < grown.hi);
        value.hi = thresholds.get(above).copied().unwrap_or(i64::MAX);
    }
    if sweep >= BIT_SWEEPS {
        (value.lo, value.hi) = (i64::MIN, i64::MAX);
        (value.zeros, value.ones) = (0, 0);
    }
    value
}

/// Everything that loops becomes unknown, and the rest is computed once from that.
fn give_up(evaluator: &mut Evaluator<'_>, slice: &[Id]) {
    for &id in slice {
        evaluator.values[id as usize] = Some(Value::TOP);
    }
    for &id in slice {
        if !matches!(kind(evaluator, id), Kind::Phi(_)) {
            evaluator.values[id as usize] = evaluate(evaluator, id).or(Some(Value::TOP));
        }
    }
}

/// One narrowing sweep.
fn descend(evaluator: &mut Evaluator<'_>, slice: &[Id]) {
    for &id in slice {
        let Some(old) = evaluator.values[id as usize] else { continue };
        let mut new = evaluate(evaluator, id).unwrap_or(old);
        if let Some(bound) = evaluator.bounds[id as usize] {
            new = tighter(new, bound);
        }
        evaluator.values[id as usize] = Some(tighter(old, new));
    }
}

/// A register that moves by the same constant in every iteration of a loop.
struct Induction {
    id: Id,
    first: Value,
    step: i64,
    width: u32,
}

/// For every loop: bounds its induction registers by the number of iterations that its exit conditions
/// allow.
fn count_iterations(evaluator: &mut Evaluator<'_>, slice: &[Id]) {
    let mut at = 0;
    while at < slice.len() {
        let block = evaluator.ssa.block_of[slice[at] as usize];
        let end = at
            + slice[at..]
                .iter()
                .take_while(|&&id| evaluator.ssa.block_of[id as usize] == block)
                .count();
        let phis: Vec<Id> = slice[at..end]
            .iter()
            .copied()
            .filter(|&id| matches!(kind(evaluator, id), Kind::Phi(_)))
            .collect();
        at = end;
        if phis.is_empty() {
            continue;
        }
        let back: Vec<u32> = evaluator.graph.blocks[block as usize]
            .into
            .iter()
            .copied()
            .filter(|&edge| {
                let from = evaluator.graph.edges[edge as usize].from;
                evaluator.graph.dominates(block, from)
            })
            .collect();
        if back.is_empty() {
            continue;
        }
        let found: Vec<Induction> =
            phis.iter().filter_map(|&id| induction(evaluator, id, &back)).collect();
        let Some(most) =
            back.iter().map(|&edge| turns(evaluator, edge, &found)).reduce(|a, b| match (a, b) {
                (Some(a), Some(b)) => Some(a.max(b)),
                _ => None,
            })
        else {
            continue;
        };
        let Some(most) = most else { continue };
        for Induction { id, first, step, width } in found {
            let Some(far) = step.checked_mul(most) else { continue };
            let mut moved = Value::range(far.min(0), far.max(0));
            moved.zeros = super::value::mask(step.trailing_zeros().min(62));
            moved.ones = 0;
            evaluator.bounds[id as usize] = Some(first.add(moved, width));
        }
    }
}

fn induction(evaluator: &Evaluator<'_>, id: Id, back: &[u32]) -> Option<Induction> {
    let Kind::Phi(phi) = kind(evaluator, id) else { return None };
    let phi = &evaluator.ssa.phis[phi as usize];
    if phi.block == 0 {
        return None;
    }
    let (mut first, mut step, mut width) = (None::<Value>, None::<i64>, 0);
    for &(edge, arg) in &phi.args {
        if back.contains(&edge) {
            let (by, bits) = [32, 64].into_iter().find_map(|bits| {
                let (root, by) = evaluator.ssa.chain_to(arg, id, bits)?;
                (root == Arg::Value(id)).then_some((by, bits))
            })?;
            if step.is_some_and(|known| known != by || width != bits) {
                return None;
            }
            (step, width) = (Some(by), bits);
        } else if evaluator.graph.is_reachable(evaluator.graph.edges[edge as usize].from) {
            let mut context = evaluator.edge_context(edge);
            let value = match arg {
                Arg::Unknown => Value::TOP,
                arg => evaluator.at(arg, &mut context)?,
            };
            first = Some(first.map_or(value, |known| known.join(value)));
        }
    }
    let (first, step) = (first?, step?);
    (step != 0).then(|| Induction { id, first: first.fit(width), step, width })
}

/// The most times that a back edge can be taken, by what must hold whenever it is.
fn turns(evaluator: &Evaluator<'_>, edge: u32, found: &[Induction]) -> Option<i64> {
    let context = evaluator.edge_context(edge);
    let mut least: Option<i64> = None;
    for (about, fact) in context.facts() {
        for i in found {
            let Some((root, ahead)) = evaluator.ssa.chain_to(Arg::Value(*about), i.id, i.width)
            else {
                continue;
            };
            if root != Arg::Value(i.id) {
                continue;
            }
            if let Some(turns) = turns_by(i, ahead, fact) {
                least = Some(least.map_or(turns, |known: i64| known.min(turns)));
            }
        }
    }
    least
}

/// How often `phi + ahead` can satisfy the fact while phi moves by its step.
fn turns_by(i: &Induction, ahead: i64, fact: &Fact) -> Option<i64> {
    let (first, step) = (i128::from(i.first.lo), i128::from(i.step));
    let (last, ahead) = (i128::from(i.first.hi), i128::from(ahead));
    let turns = match *fact {
        Fact::Within { lo, hi, width } if width == i.width && i.first.is_number() => {
            let (lo, hi, turn) = (i128::from(lo), i128::from(hi), 1i128 << width);
            // Numbers are read modulo 2^width, so the fact holds in windows that far apart. The register
            // starts in one; a step must not be able to jump from it into the next.
            if step.abs() > turn - (hi - lo) - 1 {
                return None;
            }
            let (least, most) = (first + ahead, last + ahead);
            // The window is `lo..=hi` itself when the start can be in no other; else assume its far end.
            let own = least > hi - turn && most < lo + turn;
            if step > 0 {
                let start = if own { least.max(lo) } else { lo };
                (hi - start).div_euclid(step) + 1
            } else {
                let start = if own { most.min(hi) } else { hi };
                (start - lo).div_euclid(-step) + 1
            }
        }
        Fact::Not { base, value } if i.first.bases == base && first == last => {
            // The start and the number may differ by a multiple of 2^width from what was written.
            let distance = i128::from(value) - ahead - first;
            let distance = match (base == NUMBER, i.width) {
                (true, 32) if step > 0 => distance.rem_euclid(1 << 32),
                (true, 32) => -(-distance).rem_euclid(1 << 32),
                _ => distance,
            };
            if distance % step != 0 || distance / step < 0 {
                return None;
            }
            distance / step
        }
        _ => return None,
    };
    i64::try_from(turns.max(0)).ok()
}
