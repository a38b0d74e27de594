//! The interpreter's loop: runs a warp until it is over, waits, or has used up its turn.
//!
//! [`run`] is generic over the arithmetic and the plain memory accesses, which [`super::levels`] compiles once per
//! processor generation; everything rarer is called from here directly.

use super::block::{Common, Turn};
use super::calls::{call, give_back};
use super::launch::Launch;
use super::memory_ops::View;
use super::registers::{Lane, Registers};
use super::warp::{Group, Outcome, Wait, Warp, fault};
use super::{control, fragments, lanes, matrix_moves, mbarrier, print, special, warp_ops};
use crate::fault::FaultKind;
use crate::ir::{Barrier, Matrix, NONE, Op};
use crate::jit::code::{Caller, State};
use crate::raw::LANES;

/// Warp instructions of a turn.
const TURN: i64 = 200_000;
/// What a load that may be waiting for another thread costs of the turn.
const POLL: i64 = 4_000;
/// Backward branches after which a group that others wait for gives way: when it polls memory, and when it does not.
const ROTATE_POLLING: u32 = 64;
const ROTATE_QUIET: u32 = 1 << 16;

/// Runs one turn of a warp. `arith` executes arithmetic, `memory` plain loads and stores, `multiply`
/// products of matrices.
#[inline(always)]
pub(crate) fn run(
    warp: &mut Warp,
    common: &mut Common,
    launch: &Launch,
    arith: impl Fn(&mut Registers<'_>, &Op, u32),
    memory: impl Fn(&mut View<'_>, &mut Registers<'_>, &Op, u32) -> Outcome<()>,
    multiply: impl Fn(&mut Registers<'_>, &Matrix, u32),
) -> Outcome<Turn> {
    let program = &*launch.linked.program;
    let compiled = launch.compiled.as_deref().filter(|_| common.compiled);
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
                let mut caller = Caller::new(common, launch);
                let ended = caller.call(&compiled.regions[index as usize], state, mask);
                let issued = ended.instructions.div_ceil(u64::from(mask.count_ones().max(1)));
                work.warp_instructions += issued;
                work.thread_instructions += ended.instructions;
                fuel -= issued as i64;
                let together = ended.together().filter(|_| ended.unfinished == mask);
                let Some(first) = together else {
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
                };
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
                    let value = lanes::logic(table, registers.pred(a), registers.pred(b));
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
                    let yes = special::in_space(&registers, space, a);
                    registers.set_pred(d, active, yes);
                }
                Op::Param { width, count, value, offset, slots } => {
                    let from = (offset, width, count, value);
                    special::parameters(&launch.params, from, slots, &mut registers, active);
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
                            let matrix = &program.matrices[index as usize];
                            multiply(&mut registers, matrix, active);
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
                            attempt!(matrix_moves::transfer(
                                &mut view!(),
                                &mut registers,
                                &inst.op,
                                active
                            ));
                        }
                        Op::MoveMatrix { d, a } => {
                            matrix_moves::transpose(&mut registers, d, a, active)
                        }
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
                    if rest != 0 {
                        park!(pc + 1, rest, Wait::Ready);
                    }
                    control::branch_table(warp, (frame_index, pc), targets, &index, active)?;
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
                    let rest = mask & !active;
                    if rest != 0 {
                        park!(pc + 1, rest, Wait::Ready);
                    }
                    control::call_indirect(
                        warp,
                        launch,
                        (frame_index, pc),
                        site,
                        &targets,
                        active,
                    )?;
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
