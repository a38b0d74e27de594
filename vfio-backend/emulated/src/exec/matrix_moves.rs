//! `ldmatrix`, `stmatrix`, `movmatrix`: 8x8 matrices of 16-bit elements between memory, lanes and each other.
//! Source: PTX ISA 9.0, section 9.7.15.

use super::mbarrier::shared_offsets;
use super::memory_ops::View;
use super::registers::{Lane, Registers};
use super::warp::Outcome;
use crate::fault::Intent;
use crate::ir::{Op, Slot};
use crate::raw::LANES;

/// `ldmatrix` and `stmatrix`: lane 8j + i gives the address of row i of matrix j.
pub(crate) fn transfer(
    view: &mut View<'_>,
    registers: &mut Registers<'_>,
    op: &Op,
    mask: u32,
) -> Outcome<()> {
    let (memory, count, turned, slots, load) = match op {
        Op::LoadMatrix { memory, count, transpose, slots } => {
            (memory, *count, *transpose, slots, true)
        }
        Op::StoreMatrix { memory, count, transpose, slots } => {
            (memory, *count, *transpose, slots, false)
        }
        _ => return Ok(()),
    };
    let rows = shared_offsets(registers, memory, mask);
    let intent = if load { Intent::Read } else { Intent::Write };
    for j in 0..usize::from(count).min(4) {
        let lanes = 8 * j..8 * j + 8;
        for lane in lanes.clone() {
            let inside = rows[lane].checked_add(16).is_some_and(|end| end <= view.shared.len());
            if !inside || !rows[lane].is_multiple_of(16) {
                return view.blame_shared(&rows, 1 << lane, intent, 16);
            }
        }
        // Element (row, column) of this matrix.
        let place = |row: usize, column: usize| rows[8 * j + row] + 2 * column as u64;
        let halves = |lane: usize| -> [(usize, usize); 2] {
            let (major, minor) = (lane / 4, 2 * (lane % 4));
            if turned {
                [(minor, major), (minor + 1, major)]
            } else {
                [(major, minor), (major, minor + 1)]
            }
        };
        if load {
            let out = std::array::from_fn(|lane| {
                let [low, high] =
                    halves(lane).map(|(r, c)| view.shared.load::<u16>(place(r, c)).unwrap_or(0));
                u32::from(low) | u32::from(high) << 16
            });
            u32::write(registers, slots[j], mask, out);
        } else {
            let values = u32::read(registers, slots[j]);
            for lane in (0..LANES).filter(|l| mask >> l & 1 != 0) {
                for (n, (r, c)) in halves(lane).into_iter().enumerate() {
                    let _ = view.shared.store(place(r, c), (values[lane] >> (16 * n)) as u16);
                }
            }
        }
    }
    Ok(())
}

/// `movmatrix.trans`: lane (row, column pair) gives and takes an 8x8 matrix of 16-bit elements.
pub(crate) fn transpose(registers: &mut Registers<'_>, d: Slot, a: Slot, mask: u32) {
    let source = *u32::read(registers, a);
    let at =
        |row: usize, column: usize| source[4 * row + column / 2] >> (16 * (column % 2)) & 0xffff;
    let out = std::array::from_fn(|lane| {
        let (row, column) = (lane / 4, 2 * (lane % 4));
        at(column, row) | at(column + 1, row) << 16
    });
    u32::write(registers, d, mask, out);
}
