//! What is compiled together: the code that a thread can reach from one entry without an instruction of the
//! interpreter's in between.

use std::collections::BTreeSet;

use super::liveness::{Liveness, Set, Shape, effects, is_compiled};
use crate::ir::{Function, Inst, Op, Program};

/// Instructions of all regions of a program, above which no further region is compiled.
const MOST_CODE: usize = 40_000;
/// Regions of a program.
const MOST_REGIONS: usize = 512;
/// Instructions of one function.
const MOST_FUNCTION: usize = 12_000;
/// Instructions of one region.
const MOST_REGION: usize = 6_000;
/// Slots of a function that is compiled: what side exits may have to save.
const MOST_SLOTS: usize = 4_096;
/// Instructions of a straight region, less what saving and restoring cost, from which calling it pays.
const LEAST_GAIN: isize = 6;

/// One region.
#[derive(Debug)]
pub(super) struct Region {
    /// Index into [`Program::functions`].
    pub(super) function: u32,
    /// Where it begins.
    pub(super) entry: u32,
    /// The first instructions of its straight pieces, all compiled.
    pub(super) leaders: BTreeSet<u32>,
    /// Where the interpreter goes on.
    pub(super) exits: BTreeSet<u32>,
    /// Every instruction.
    pub(super) body: BTreeSet<u32>,
    /// Slots with a value at the entry that the region reads or must keep.
    pub(super) live_in: Set,
    /// Slots it writes.
    pub(super) written: Set,
    /// Slots it reads or writes.
    pub(super) touched: Set,
}

/// A function's code and what is known about it.
pub(super) struct Body<'p> {
    pub(super) code: &'p [Inst],
    pub(super) first: u32,
    pub(super) end: u32,
    pub(super) shape: Shape,
    pub(super) liveness: Liveness,
    pub(super) is_kernel: bool,
    pub(super) frame_bytes: u32,
}

/// Where each function's code ends: functions lie one after the other.
fn extents(program: &Program) -> Vec<(u32, u32)> {
    let mut starts: Vec<u32> = program.functions.iter().map(|f| f.entry).collect();
    starts.push(program.code.len() as u32);
    starts.sort_unstable();
    program
        .functions
        .iter()
        .map(|f| {
            let end = starts.iter().copied().find(|&s| s > f.entry);
            (f.entry, end.unwrap_or(program.code.len() as u32))
        })
        .collect()
}

/// The code of function `f`, if it is of a size that is compiled.
fn body<'p>(program: &'p Program, f: &Function, (first, end): (u32, u32)) -> Option<Body<'p>> {
    let shape = Shape { slots32: f.slots32, slots64: f.slots64, preds: f.preds };
    if shape.total() > MOST_SLOTS || (end - first) as usize > MOST_FUNCTION || first >= end {
        return None;
    }
    let inside = |to: u32| (first..end).contains(&to);
    let code = &program.code[..];
    // Slots and targets are lowering's own and always right; a mistake there must not become one here.
    for inst in &code[first as usize..end as usize] {
        if matches!(inst.op, Op::Branch { to } if !inside(to)) {
            return None;
        }
        if let Some((reads, writes)) = effects(inst)
            && reads.iter().chain(&writes).any(|&p| shape.number(p).is_none())
        {
            return None;
        }
    }
    let liveness = Liveness::solve(code, first, end, shape)?;
    let (is_kernel, frame_bytes) = (f.is_kernel, f.frame_bytes);
    Some(Body { code, first, end, shape, liveness, is_kernel, frame_bytes })
}

/// Every region of a program that is worth compiling, with the functions' bodies by index.
pub(super) fn regions(program: &Program) -> (Vec<Region>, Vec<Option<Body<'_>>>) {
    let extents = extents(program);
    let bodies: Vec<Option<Body<'_>>> =
        program.functions.iter().zip(extents).map(|(f, extent)| body(program, f, extent)).collect();
    let mut out: Vec<Region> = Vec::new();
    let mut total = 0;
    for (index, body) in bodies.iter().enumerate() {
        let Some(body) = body else { continue };
        let mut entries = BTreeSet::from([body.first]);
        for pc in body.first..body.end {
            if let Op::BranchTable { table, .. } = body.code[pc as usize].op {
                entries.extend(program.tables[table as usize].iter().copied());
            }
            if !is_compiled(&body.code[pc as usize]) {
                entries.insert(pc + 1);
            }
        }
        for entry in entries {
            if out.len() >= MOST_REGIONS || total >= MOST_CODE {
                break;
            }
            let Some(region) = reach(body, index as u32, entry) else { continue };
            total += region.body.len();
            out.push(region);
        }
    }
    (out, bodies)
}

/// The region that begins at `entry`, if it is worth compiling.
fn reach(body: &Body<'_>, function: u32, entry: u32) -> Option<Region> {
    let (mut leaders, mut exits, mut seen) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut todo = vec![entry];
    let mut has_loop = false;
    while let Some(start) = todo.pop() {
        if start >= body.end || !is_compiled(&body.code[start as usize]) {
            exits.insert(start);
            continue;
        }
        if !leaders.insert(start) {
            continue;
        }
        let mut pc = start;
        loop {
            if pc >= body.end || !is_compiled(&body.code[pc as usize]) {
                exits.insert(pc);
                break;
            }
            let inst = &body.code[pc as usize];
            let known = !seen.insert(pc);
            match inst.op {
                Op::Branch { to } => {
                    has_loop |= to <= pc;
                    todo.push(to);
                    if !inst.guard.is_always() {
                        todo.push(pc + 1);
                    }
                    break;
                }
                // A function's return is the interpreter's, a kernel's the thread's end.
                Op::Return if !body.is_kernel => {
                    seen.remove(&pc);
                    exits.insert(pc);
                    break;
                }
                Op::Exit | Op::Return => {
                    if !inst.guard.is_always() {
                        todo.push(pc + 1);
                    }
                    break;
                }
                _ => {}
            }
            if known && pc != start {
                break;
            }
            pc += 1;
        }
        if seen.len() > MOST_REGION {
            return None;
        }
    }
    // A piece that runs into another's leader ends there.
    let mut written = Set::empty(body.shape);
    let mut touched = Set::empty(body.shape);
    for &pc in &seen {
        let (reads, writes) = effects(&body.code[pc as usize])?;
        for n in writes.iter().filter_map(|&p| body.shape.number(p)) {
            written.insert(n);
            touched.insert(n);
        }
        reads.iter().filter_map(|&p| body.shape.number(p)).for_each(|n| touched.insert(n));
    }
    let mut live_in = Set::empty(body.shape);
    for n in body.liveness.at(body.code, entry, body.end, body.shape).iter() {
        if touched.contains(n) {
            live_in.insert(n);
        }
    }
    let saved = exits
        .iter()
        .filter(|&&pc| pc < body.end)
        .map(|&pc| {
            let live = body.liveness.at(body.code, pc, body.end, body.shape);
            live.iter().filter(|&n| written.contains(n)).count()
        })
        .max()
        .unwrap_or(0);
    let cost = (saved + live_in.iter().count()) / 2;
    let gain = seen.len() as isize - cost as isize;
    if seen.is_empty() || exits.iter().any(|&pc| pc >= body.end) {
        return None;
    }
    if !has_loop && gain < LEAST_GAIN {
        return None;
    }
    Some(Region { function, entry, leaders, exits, body: seen, live_in, written, touched })
}
