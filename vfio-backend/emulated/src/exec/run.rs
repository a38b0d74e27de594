//! The interpreter's loop: runs a warp until it is over, waits, or has used up its turn.
//!
//! [`run`] is generic over the arithmetic and the plain memory accesses, which [`super::levels`] compiles once per
//! processor generation; everything rarer is called from here directly.

use super::block::{Common, Turn};
use super::launch::Launch;
use super::memory_ops::View;
use super::registers::{Lane, Registers};
use super::warp::{Group, Outcome, Wait, Warp, fault};
use super::{fragments, matrix, mbarrier, print, special, warp_ops};
use crate::fault::{FaultKind, Space};
use crate::ir::{Barrier, Combine, NONE, Op, Value, window};
use crate::jit::code::State;
use crate::raw::LANES;

/// Warp instructions of a turn.
const TURN: i64 = 200_000;
/// What a load that may be waiting for another thread costs of the turn.
const POLL: i64 = 500;
/// Backward branches after which a group that others wait for gives way: when it polls memory, and when it does not.
const ROTATE_POLLING: u32 = 64;
const ROTATE_QUIET: u32 = 1 << 16;

/// Runs one turn of a warp. `arith` executes arithmetic, `memory` plain loads and stores.
#[inline(always)]
pub(crate) fn run(
    warp: &mut Warp,
    common: &mut Common,
    launch: &Launch,
    arith: impl Fn(&mut Registers<'_>, &Op, u32),
    memory: impl Fn(&mut View<'_>, &mut Registers<'_>, &Op, u32) -> Outcome<()>,
) -> Outcome<Turn> {
    let program = &*launch.linked.program;
    let compiled = launch.compiled.as_deref();
    let code = compiled.map_or(&program.code[..], |c| &c.code[..]);
    let constants = (&launch.linked.constants32[..], &launch.linked.constants64[..]);
    let mut fuel = TURN;
    let mut rotate = false;
    'schedule: loop {
        let Some(mut group) = warp.pick(program, &common.barriers, rotate) else {
            if warp.live == 0 {
                return Ok(Turn::Done);
            }
            if warp.meet(program) {
                continue;
            }
            return Ok(Turn::Blocked);
        };
        group.wait = Wait::Ready;
        rotate = false;
        let frame_index = group.frame;
        let frame = warp.frames[frame_index as usize];
        let mut pc = group.pc;
        let mut mask = group.mask;
        let mut start = pc;
        let mut limit = warp.limit(frame_index, pc + 1);
        let mut spins = 0u32;
        let mut polls = false;
        let Warp {
            r32,
            r64,
            preds,
            local,
            groups,
            region,
            work,
            clock,
            tid,
            index: index_of_warp,
            live,
            ..
        } = &mut *warp;
        let mut registers = Registers {
            r32: &mut r32[frame.base32 as usize..],
            r64: &mut r64[frame.base64 as usize..],
            preds: &mut preds[frame.base_pred as usize..],
            c32: constants.0,
            c64: constants.1,
        };
        /// Counts the instructions from `start` to the current one, that one included.
        macro_rules! account {
            ($end:expr) => {{
                let issued = u64::from($end - start);
                work.warp_instructions += issued;
                work.thread_instructions += issued * u64::from(mask.count_ones());
                #[allow(unused_assignments)] // Where the group ends, nobody looks again.
                {
                    fuel -= issued as i64;
                }
            }};
        }
        /// Puts the running group back at `$pc`.
        macro_rules! park {
            ($pc:expr, $mask:expr, $wait:expr) => {{
                *clock += 1;
                groups.push(Group {
                    pc: $pc,
                    frame: frame_index,
                    mask: $mask,
                    wait: $wait,
                    stamp: *clock,
                });
            }};
        }
        /// Ends the turn with a fault at the current instruction.
        macro_rules! attempt {
            ($result:expr) => {
                match $result {
                    Ok(value) => value,
                    Err(mut fault) => {
                        account!(pc + 1);
                        fault.pc = pc;
                        return Err(fault);
                    }
                }
            };
        }
        /// What the warp can reach.
        macro_rules! view {
            () => {
                View {
                    launch,
                    shared: &common.shared,
                    local: &mut local[..],
                    frame: frame.local,
                    region: &mut *region,
                }
            };
        }
        loop {
            if pc >= limit {
                account!(pc);
                park!(pc, mask, Wait::Ready);
                continue 'schedule;
            }
            let mut inst = &code[pc as usize];
            if let (Op::Compiled(index), Some(compiled)) = (inst.op, compiled) {
                account!(pc);
                let state = State {
                    registers: &mut registers,
                    local: &mut local[..],
                    frame: frame.local,
                    tid: &*tid,
                    warp: *index_of_warp,
                };
                let ended = compiled.regions[index as usize].call(state, common, launch, mask);
                let issued = ended.instructions.div_ceil(u64::from(mask.count_ones().max(1)));
                work.warp_instructions += issued;
                work.thread_instructions += ended.instructions;
                fuel -= issued as i64;
                let first = ended.exits[ended.unfinished.trailing_zeros() as usize & 31];
                if ended.unfinished != mask || !ended.is_together(first) {
                    ended.each_place(|place, lanes| park!(place, lanes, Wait::Ready));
                    let finished = mask & !ended.unfinished;
                    if finished != 0 {
                        warp.exit(frame_index, finished);
                        common.barriers.exit(finished.count_ones());
                    }
                    if fuel <= 0 {
                        return Ok(Turn::Yielded);
                    }
                    continue 'schedule;
                }
                start = first;
                if first != pc {
                    let backward = first < pc;
                    pc = first;
                    if !groups.is_empty() {
                        limit = nearest(groups, frame_index, pc);
                        spins += u32::from(backward);
                    }
                    let spinning = spins > if polls { ROTATE_POLLING } else { ROTATE_QUIET };
                    if spinning && !groups.is_empty() {
                        park!(pc, mask, Wait::Ready);
                        rotate = true;
                        continue 'schedule;
                    }
                    if fuel <= 0 {
                        park!(pc, mask, Wait::Ready);
                        return Ok(Turn::Yielded);
                    }
                    continue;
                }
                // Compiled code wants this one interpreted.
                inst = &program.code[pc as usize];
            }
            let active = if inst.guard.is_always() {
                mask
            } else {
                let (p, negated) = inst.guard.parts();
                let p = registers.pred(p);
                mask & if negated { !p } else { p }
            };
            if active == 0 {
                pc += 1;
                continue;
            }
            match inst.op {
                Op::Int32(_)
                | Op::Int64(_)
                | Op::Float32(_)
                | Op::Float64(_)
                | Op::Half(_)
                | Op::Convert(_)
                | Op::Select32 { .. }
                | Op::Select64 { .. } => arith(&mut registers, &inst.op, active),
                Op::Compare { .. } => arith(&mut registers, &inst.op, active),
                Op::Load(ref t) => {
                    if t.polls {
                        polls = true;
                        fuel -= POLL;
                    }
                    attempt!(memory(&mut view!(), &mut registers, &inst.op, active));
                }
                Op::Store(_) => attempt!(memory(&mut view!(), &mut registers, &inst.op, active)),
                Op::Branch { to } => {
                    account!(pc + 1);
                    let rest = mask & !active;
                    if rest != 0 {
                        // Both ways: the lower goes on, the higher waits to be met.
                        let next = pc + 1;
                        let (low, low_mask, high, high_mask) = if to < next {
                            (to, active, next, rest)
                        } else {
                            (next, rest, to, active)
                        };
                        if low == high {
                            pc = next;
                            start = pc;
                            continue;
                        }
                        park!(high, high_mask, Wait::Ready);
                        mask = low_mask;
                        let backward = low <= pc;
                        pc = low;
                        start = pc;
                        limit = nearest(groups, frame_index, pc);
                        spins += u32::from(backward);
                    } else {
                        let backward = to <= pc;
                        pc = to;
                        start = pc;
                        if !groups.is_empty() {
                            limit = nearest(groups, frame_index, pc);
                            spins += u32::from(backward);
                        }
                    }
                    if spins > if polls { ROTATE_POLLING } else { ROTATE_QUIET }
                        && !groups.is_empty()
                    {
                        park!(pc, mask, Wait::Ready);
                        rotate = true;
                        continue 'schedule;
                    }
                    if fuel <= 0 {
                        park!(pc, mask, Wait::Ready);
                        return Ok(Turn::Yielded);
                    }
                    continue;
                }
                Op::Logic { table, d, a, b } => {
                    let (a, b) = (registers.pred(a), registers.pred(b));
                    let bit = |n: u8| if table >> n & 1 != 0 { u32::MAX } else { 0 };
                    let value = (bit(0) & !a & !b)
                        | (bit(1) & !a & b)
                        | (bit(2) & a & !b)
                        | (bit(3) & a & b);
                    registers.set_pred(d, active, value);
                }
                Op::Special { which, d } => {
                    let context =
                        special::Context { launch, common, tid: &*tid, warp: *index_of_warp };
                    special::read(
                        &context,
                        which,
                        d,
                        &mut registers,
                        active,
                        work.warp_instructions,
                    );
                }
                Op::FrameAddress { d, offset } => {
                    u64::write(&mut registers, d, active, [u64::from(frame.local + offset); LANES]);
                }
                Op::IsSpace { space, d, a } => {
                    let within =
                        |address: u64, base: u64| address.wrapping_sub(base) < window::SIZE;
                    let yes = registers.test2::<u64, u64>(a, a, |v, _| match space {
                        Space::Shared => within(v, window::SHARED),
                        Space::Local => within(v, window::LOCAL),
                        Space::Param => within(v, window::PARAM),
                        Space::Global => {
                            !within(v, window::SHARED)
                                && !within(v, window::LOCAL)
                                && !within(v, window::PARAM)
                        }
                        Space::Const => false,
                    });
                    registers.set_pred(d, active, yes);
                }
                Op::Param { width, count, value, offset, slots } => {
                    for e in 0..usize::from(count) {
                        let at = u64::from(offset) + (e * usize::from(width)) as u64;
                        let raw = special::parameter(&launch.params, at, width, value);
                        if slots[e & 3] == NONE {
                        } else if value.is_wide() {
                            u64::write(&mut registers, slots[e & 3], active, [raw; LANES]);
                        } else {
                            u32::write(&mut registers, slots[e & 3], active, [raw as u32; LANES]);
                        }
                    }
                }
                Op::Atomic(ref a) => {
                    polls = true;
                    attempt!(view!().atomic(&mut registers, a, active));
                }
                Op::Atomic128 { ref memory, d, b, c } => {
                    polls = true;
                    attempt!(view!().atomic128(&mut registers, memory, [d, b, c], active));
                }
                Op::AsyncCopy { .. } | Op::BulkCopy(_) => {
                    attempt!(view!().copy(program, &mut registers, &inst.op, active));
                }
                Op::Fence => crate::raw::full_fence(),
                Op::Pause => {
                    polls = true;
                    fuel -= TURN / 4;
                }
                Op::Shuffle { .. }
                | Op::Vote { .. }
                | Op::Match { .. }
                | Op::Redux { .. }
                | Op::Elect { .. }
                | Op::WarpSync { .. }
                | Op::Matrix(_)
                | Op::Fragment(_)
                | Op::LoadMatrix { .. }
                | Op::StoreMatrix { .. }
                | Op::MoveMatrix { .. } => {
                    if !groups.is_empty() {
                        // Lanes that the instruction names may still be on their way.
                        let named =
                            warp_ops::members(&inst.op, &registers, active).unwrap_or(active);
                        let elsewhere = groups.iter().fold(0, |m, g| m | g.mask);
                        if named & elsewhere != 0 {
                            account!(pc);
                            park!(pc, mask, Wait::Members(named & (mask | elsewhere)));
                            continue 'schedule;
                        }
                    }
                    match inst.op {
                        Op::Matrix(index) => {
                            matrix::multiply(
                                &program.matrices[index as usize],
                                &mut registers,
                                active,
                            );
                        }
                        Op::Fragment(index) => {
                            let fragment = &program.fragments[index as usize];
                            attempt!(fragments::transfer(
                                &mut view!(),
                                &mut registers,
                                fragment,
                                active
                            ));
                        }
                        Op::LoadMatrix { .. } | Op::StoreMatrix { .. } => {
                            attempt!(matrix::transfer(
                                &mut view!(),
                                &mut registers,
                                &inst.op,
                                active
                            ));
                        }
                        Op::MoveMatrix { d, a } => matrix::transpose(&mut registers, d, a, active),
                        ref op => arith(&mut registers, op, active),
                    }
                }
                Op::ActiveMask { d } => u32::write(&mut registers, d, active, [active; LANES]),
                Op::Barrier { kind, id, count, d: _, p, negate } => {
                    let lane = active.trailing_zeros() as usize & 31;
                    let id = u32::read(&registers, id)[lane];
                    let expected =
                        if count == NONE { None } else { Some(u32::read(&registers, count)[lane]) };
                    let yes = Warp::condition(&registers, p, negate) & active;
                    // A counted barrier counts whole warps: lanes that exited or never were count with the last.
                    let absent = if expected.is_some() && active == *live {
                        (!*live).count_ones()
                    } else {
                        0
                    };
                    let counts = (active.count_ones() + absent, yes.count_ones());
                    account!(pc + 1);
                    let waiting = match common.barriers.arrive(id, expected, counts, kind) {
                        Ok(waiting) => waiting,
                        Err(mut fault) => {
                            fault.pc = pc;
                            fault.lane = lane as u32;
                            return Err(fault);
                        }
                    };
                    let rest = mask & !active;
                    if rest != 0 {
                        park!(pc + 1, rest, Wait::Ready);
                    }
                    match waiting {
                        Some(phase) if kind != Barrier::Arrive => {
                            park!(pc, active, Wait::Barrier { id: id as u8, phase });
                        }
                        _ => {
                            park!(pc + 1, active, Wait::Ready);
                            let done = Group {
                                pc,
                                frame: frame_index,
                                mask: active,
                                wait: Wait::Ready,
                                stamp: 0,
                            };
                            if waiting.is_none() {
                                let result = common.barriers.result(id as u8);
                                warp.finish_barrier(&inst.op, &done, result);
                            }
                        }
                    }
                    continue 'schedule;
                }
                Op::Mbarrier { .. } => {
                    polls = true;
                    if attempt!(mbarrier::run(&mut view!(), &mut registers, &inst.op, active)) {
                        // Still waiting: other warps have to move.
                        fuel -= TURN / 8;
                    }
                }
                Op::BranchTable { index, table } => {
                    account!(pc + 1);
                    let targets = &program.tables[table as usize];
                    let index = *u32::read(&registers, index);
                    let rest = mask & !active;
                    for lane in (0..LANES).filter(|l| active >> l & 1 != 0) {
                        let Some(&to) = targets.get(index[lane] as usize) else {
                            let (index, targets) = (index[lane], targets.len() as u32);
                            let kind = FaultKind::BadBranchIndex { index, targets };
                            return fault(1 << lane, kind).map_err(
                                |mut f: Box<super::warp::LaneFault>| {
                                    f.pc = pc;
                                    f
                                },
                            );
                        };
                        park!(to, 1 << lane, Wait::Ready);
                    }
                    if rest != 0 {
                        park!(pc + 1, rest, Wait::Ready);
                    }
                    // Table branches may form loops of their own.
                    if fuel <= 0 {
                        return Ok(Turn::Yielded);
                    }
                    continue 'schedule;
                }
                Op::Call { site } => {
                    account!(pc + 1);
                    let rest = mask & !active;
                    if rest != 0 {
                        park!(pc + 1, rest, Wait::Ready);
                    }
                    let function = program.calls[site as usize].function;
                    call(warp, launch, (frame_index, pc), site, function, active)?;
                    if fuel <= 0 {
                        return Ok(Turn::Yielded);
                    }
                    continue 'schedule;
                }
                Op::CallIndirect { site, target } => {
                    account!(pc + 1);
                    let targets = *u64::read(&registers, target);
                    let mut left = active;
                    let rest = mask & !active;
                    if rest != 0 {
                        park!(pc + 1, rest, Wait::Ready);
                    }
                    while left != 0 {
                        let address = targets[left.trailing_zeros() as usize];
                        let same = (0..LANES)
                            .filter(|&l| left >> l & 1 != 0 && targets[l] == address)
                            .fold(0u32, |m, l| m | 1 << l);
                        left &= !same;
                        let index = address.wrapping_sub(window::FUNCTION) / 16;
                        let callee = program.functions.get(index as usize).filter(|f| {
                            address.is_multiple_of(16)
                                && !f.is_kernel
                                && f.shape == program.calls[site as usize].signature
                        });
                        if callee.is_none() {
                            return fault(same, FaultKind::BadCallTarget { address }).map_err(
                                |mut f: Box<super::warp::LaneFault>| {
                                    f.pc = pc;
                                    f
                                },
                            );
                        }
                        call(warp, launch, (frame_index, pc), site, index as u32, same)?;
                    }
                    if fuel <= 0 {
                        return Ok(Turn::Yielded);
                    }
                    continue 'schedule;
                }
                Op::Return | Op::Exit => {
                    account!(pc + 1);
                    let rest = mask & !active;
                    if rest != 0 {
                        park!(pc + 1, rest, Wait::Ready);
                    }
                    if frame.depth == 0 || matches!(inst.op, Op::Exit) {
                        warp.exit(frame_index, active);
                        common.barriers.exit(active.count_ones());
                    } else {
                        give_back(warp, launch, frame_index, active);
                    }
                    continue 'schedule;
                }
                Op::Trap => attempt!(fault(active, FaultKind::Trap)),
                Op::AssertFail { .. } => {
                    attempt!(print::assert_failed(&mut view!(), &inst.op, active));
                }
                Op::Print { .. } => attempt!(print::print(&mut view!(), &inst.op, active)),
                // A region's beginning is handled above.
                Op::Nop | Op::Compiled(_) => {}
            }
            pc += 1;
        }
    }
}

/// The nearest place at or after `pc` where another group of the frame stands.
#[inline(always)]
fn nearest(groups: &[Group], frame: u32, pc: u32) -> u32 {
    let others = groups
        .iter()
        .filter(|g| g.frame == frame && g.pc >= pc && !matches!(g.wait, Wait::Barrier { .. }));
    others.map(|g| g.pc).min().unwrap_or(u32::MAX)
}

/// Opens a frame for the lanes of `mask` and puts them at the function's entry.
fn call(
    warp: &mut Warp,
    launch: &Launch,
    (caller, pc): (u32, u32),
    site: u32,
    function: u32,
    mask: u32,
) -> Outcome<()> {
    let program = &*launch.linked.program;
    let details = &program.calls[site as usize];
    let from = &program.functions[warp.frames[caller as usize].function as usize];
    let to = &program.functions[function as usize];
    let Some(index) =
        warp.enter(caller, (function, site, pc + 1), (from, to), mask, launch.stack_bytes)
    else {
        let kind = FaultKind::StackOverflow { limit: launch.stack_bytes };
        return fault(mask, kind).map_err(|mut f: Box<super::warp::LaneFault>| {
            f.pc = pc;
            f
        });
    };
    let (outer, inner) = (warp.frames[caller as usize].local, warp.frames[index as usize].local);
    for copy in &details.args {
        warp.copy_local(outer + copy.caller, inner + copy.callee, copy.words, mask);
    }
    warp.clock += 1;
    let stamp = warp.clock;
    warp.groups.push(Group { pc: to.entry, frame: index, mask, wait: Wait::Ready, stamp });
    Ok(())
}

/// Returns the lanes of `mask` from a frame to its caller.
fn give_back(warp: &mut Warp, launch: &Launch, frame: u32, mask: u32) {
    let inner = warp.frames[frame as usize];
    let outer = warp.frames[inner.parent as usize].local;
    for copy in &launch.linked.program.calls[inner.site as usize].results {
        warp.copy_local(inner.local + copy.callee, outer + copy.caller, copy.words, mask);
    }
    warp.frames[frame as usize].members &= !mask;
    warp.clock += 1;
    let stamp = warp.clock;
    warp.groups.push(Group {
        pc: inner.return_pc,
        frame: inner.parent,
        mask,
        wait: Wait::Ready,
        stamp,
    });
}

/// Executes arithmetic whose loops are not in a table: comparisons and selections.
#[inline(always)]
pub(crate) fn compare(registers: &mut Registers<'_>, op: &Op, mask: u32) {
    let Op::Compare { op, x, combine, negate, d, not_d, a, b, c } = *op else { return };
    let yes = op.vector(registers, a, b, x);
    let c = if combine == Combine::None {
        0
    } else {
        registers.pred(c) ^ if negate { u32::MAX } else { 0 }
    };
    let with = |v: u32| match combine {
        Combine::None => v,
        Combine::And => v & c,
        Combine::Or => v | c,
        Combine::Xor => v ^ c,
    };
    if d != NONE {
        registers.set_pred(d, mask, with(yes));
    }
    if not_d != NONE {
        registers.set_pred(not_d, mask, with(!yes));
    }
}

/// Executes `selp`.
#[inline(always)]
pub(crate) fn select(registers: &mut Registers<'_>, op: &Op, mask: u32) {
    use super::registers::BITS;
    match *op {
        Op::Select32 { d, a, b, p } => {
            let p = registers.pred(p);
            let (a, b) = (u32::read(registers, a), u32::read(registers, b));
            let mut out = [0; LANES];
            for i in 0..LANES {
                out[i] = if p & BITS[i] != 0 { a[i] } else { b[i] };
            }
            u32::write(registers, d, mask, out);
        }
        Op::Select64 { d, a, b, p } => {
            let p = registers.pred(p);
            let (a, b) = (u64::read(registers, a), u64::read(registers, b));
            let mut out = [0; LANES];
            for i in 0..LANES {
                out[i] = if p & BITS[i] != 0 { a[i] } else { b[i] };
            }
            u64::write(registers, d, mask, out);
        }
        _ => {}
    }
}

/// Executes a plain load or store.
#[inline(always)]
pub(crate) fn transfer(
    view: &mut View<'_>,
    registers: &mut Registers<'_>,
    op: &Op,
    mask: u32,
) -> Outcome<()> {
    match op {
        Op::Load(t) => view.load(registers, t, mask),
        Op::Store(t) => view.store(registers, t, mask),
        _ => Ok(()),
    }
}

/// Zero- or sign-extends a raw value as a register wants it.
pub(crate) fn extend(raw: u64, width: u8, value: Value) -> u64 {
    let shift = 64 - 8 * u32::from(width.clamp(1, 8));
    let signed = ((raw << shift) as i64 >> shift) as u64;
    match value {
        Value::Zero32 | Value::Zero64 => raw,
        Value::Sign32 => signed & 0xffff_ffff,
        Value::Sign16 => signed & 0xffff,
        Value::Sign64 => signed,
    }
}
