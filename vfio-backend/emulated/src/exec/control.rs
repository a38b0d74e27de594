//! Ways that lanes take apart: branch tables and calls through addresses.

use super::calls::call;
use super::launch::Launch;
use super::registers::{BITS, fold};
use super::warp::{Group, LaneFault, Outcome, Wait, Warp, fault};
use crate::fault::FaultKind;
use crate::ir::window;
use crate::raw::LANES;

/// A fault at `pc`.
fn fault_at<T>(pc: u32, mask: u32, kind: FaultKind) -> Outcome<T> {
    fault(mask, kind).map_err(|mut f: Box<LaneFault>| {
        f.pc = pc;
        f
    })
}

/// The lanes of `mask` whose value is `value`.
#[inline(always)]
fn equal<T: Copy + PartialEq>(values: &[T; LANES], value: T, mask: u32) -> u32 {
    let mut bits = [0u32; LANES];
    for i in 0..LANES {
        bits[i] = if values[i] == value { BITS[i] } else { 0 };
    }
    fold(&bits) & mask
}

/// Puts the lanes of `active` at their targets, those with the same one together.
pub(super) fn branch_table(
    warp: &mut Warp,
    (frame, pc): (u32, u32),
    targets: &[u32],
    index: &[u32; LANES],
    active: u32,
) -> Outcome<()> {
    let mut left = active;
    while left != 0 {
        let value = index[left.trailing_zeros() as usize & 31];
        let same = equal(index, value, left);
        let Some(&to) = targets.get(value as usize) else {
            let kind = FaultKind::BadBranchIndex { index: value, targets: targets.len() as u32 };
            return fault_at(pc, same, kind);
        };
        left &= !same;
        warp.clock += 1;
        let stamp = warp.clock;
        warp.groups.push(Group { pc: to, frame, mask: same, wait: Wait::Ready, stamp });
    }
    Ok(())
}

/// Calls the function that each lane's address names, one after the other.
pub(super) fn call_indirect(
    warp: &mut Warp,
    launch: &Launch,
    (frame, pc): (u32, u32),
    site: u32,
    targets: &[u64; LANES],
    active: u32,
) -> Outcome<()> {
    let program = &*launch.linked.program;
    let mut left = active;
    while left != 0 {
        let address = targets[left.trailing_zeros() as usize & 31];
        let same = equal(targets, address, left);
        left &= !same;
        let index = address.wrapping_sub(window::FUNCTION) / 16;
        let callee = program.functions.get(index as usize).filter(|f| {
            address.is_multiple_of(16)
                && !f.is_kernel
                && f.shape == program.calls[site as usize].signature
        });
        if callee.is_none() {
            return fault_at(pc, same, FaultKind::BadCallTarget { address });
        }
        call(warp, launch, (frame, pc), site, index as u32, same)?;
    }
    Ok(())
}
