//! Instructions that move values between the lanes of a warp: shuffles, votes, matches and reductions.
//! Source: PTX ISA 9.0, sections 9.7.9.6 and 9.7.13.

use super::registers::{BITS, Lane, Registers, fold};
use super::warp::Warp;
use crate::ir::{NONE, Op, Redux, Shuffle, Slot, Vote};
use crate::raw::LANES;

/// The lanes an instruction names, from its first active lane's operand.
pub(crate) fn members(op: &Op, registers: &Registers<'_>, mask: u32) -> Option<u32> {
    let slot = match *op {
        Op::Shuffle { members, .. }
        | Op::Vote { members, .. }
        | Op::Match { members, .. }
        | Op::Redux { members, .. }
        | Op::Elect { members, .. }
        | Op::WarpSync { members } => members,
        Op::Matrix(_)
        | Op::Fragment(_)
        | Op::LoadMatrix { .. }
        | Op::StoreMatrix { .. }
        | Op::MoveMatrix { .. } => {
            return Some(u32::MAX);
        }
        _ => return None,
    };
    Some(u32::read(registers, slot)[mask.trailing_zeros() as usize & 31])
}

/// Runs a warp-wide instruction for the lanes of `mask`, all of which have arrived.
#[inline(always)]
pub(crate) fn run(op: &Op, registers: &mut Registers<'_>, mask: u32) {
    match *op {
        Op::Shuffle { mode, d, p, a, b, c, .. } => shuffle(registers, mode, [d, p, a, b, c], mask),
        Op::Vote { mode, negate, d, a, .. } => {
            let yes = Warp::condition(registers, a, negate) & mask;
            match mode {
                Vote::Ballot => u32::write(registers, d, mask, [yes; LANES]),
                Vote::All => registers.set_pred(d, mask, every(yes == mask)),
                Vote::Any => registers.set_pred(d, mask, every(yes != 0)),
                Vote::Uni => registers.set_pred(d, mask, every(yes == 0 || yes == mask)),
            }
        }
        Op::Match { all, wide, d, p, a, .. } => {
            let values: [u64; LANES] = if wide {
                *u64::read(registers, a)
            } else {
                u32::read(registers, a).map(u64::from)
            };
            let equal = |lane: usize| -> u32 {
                (0..LANES)
                    .filter(|&o| mask >> o & 1 != 0 && values[o] == values[lane])
                    .fold(0, |m, o| m | 1 << o)
            };
            if all {
                let uniform = equal(mask.trailing_zeros() as usize & 31) == mask;
                u32::write(registers, d, mask, [if uniform { mask } else { 0 }; LANES]);
                if p != NONE {
                    registers.set_pred(p, mask, every(uniform));
                }
            } else {
                u32::write(registers, d, mask, std::array::from_fn(equal));
            }
        }
        Op::Redux { op, d, a, .. } => {
            let values = u32::read(registers, a);
            let lanes = (0..LANES).filter(|l| mask >> l & 1 != 0).map(|l| values[l]);
            let result = match op {
                Redux::Add => lanes.fold(0, u32::wrapping_add),
                Redux::And => lanes.fold(u32::MAX, |a, b| a & b),
                Redux::Or => lanes.fold(0, |a, b| a | b),
                Redux::Xor => lanes.fold(0, |a, b| a ^ b),
                Redux::MinU => lanes.fold(u32::MAX, u32::min),
                Redux::MaxU => lanes.fold(0, u32::max),
                Redux::MinS => lanes.map(|v| v as i32).fold(i32::MAX, i32::min) as u32,
                Redux::MaxS => lanes.map(|v| v as i32).fold(i32::MIN, i32::max) as u32,
            };
            u32::write(registers, d, mask, [result; LANES]);
        }
        Op::Elect { d, p, .. } => {
            let leader = mask.trailing_zeros();
            if d != NONE {
                u32::write(registers, d, mask, [leader; LANES]);
            }
            registers.set_pred(p, mask, 1 << (leader & 31));
        }
        _ => {}
    }
}

fn every(yes: bool) -> u32 {
    if yes { u32::MAX } else { 0 }
}

/// `shfl.sync`: c holds the clamp in bits 0 to 4 and the segment mask in bits 8 to 12.
#[inline(always)]
pub(crate) fn shuffle(
    registers: &mut Registers<'_>,
    mode: Shuffle,
    [d, p, a, b, c]: [Slot; 5],
    mask: u32,
) {
    let (source, count, limit) =
        (*u32::read(registers, a), u32::read(registers, b), u32::read(registers, c));
    // Two loops: the first has no access that depends on data, and becomes vector instructions.
    let mut from = [0u32; LANES];
    let mut inside = [0u32; LANES];
    for i in 0..LANES {
        let lane = i as u32;
        let (n, c) = (count[i] & 31, limit[i]);
        let (clamp, segment) = (c & 31, c >> 8 & 31);
        let highest = (lane & segment) | (clamp & !segment);
        let (there, valid) = match mode {
            Shuffle::Up => (lane.wrapping_sub(n), lane as i32 - n as i32 >= highest as i32),
            Shuffle::Down => (lane + n, lane + n <= highest),
            Shuffle::Butterfly => (lane ^ n, lane ^ n <= highest),
            Shuffle::Index => {
                let there = (lane & segment) | (n & !segment);
                (there, there <= highest)
            }
        };
        from[i] = if valid { there & 31 } else { lane };
        inside[i] = if valid { BITS[i] } else { 0 };
    }
    let valid = fold(&inside);
    let mut out = [0; LANES];
    for i in 0..LANES {
        out[i] = source[from[i] as usize & 31];
    }
    if d != NONE {
        u32::write(registers, d, mask, out);
    }
    if p != NONE {
        registers.set_pred(p, mask, valid);
    }
}
