//! `wmma.load` and `wmma.store`: fragments of a matrix, in a layout of our own (see [`Fragment`]).
//! Source: PTX ISA 9.0, section 9.7.15.3.

use super::memory_ops::{View, addresses};
use super::registers::{Lane, Registers};
use super::warp::{Outcome, fault};
use crate::fault::{FaultKind, Space};
use crate::ir::{Fragment, MatrixType, NONE, Target, window};
use crate::raw::LANES;

/// Moves a fragment for the lanes of `mask`.
pub(crate) fn transfer(
    view: &mut View<'_>,
    registers: &mut Registers<'_>,
    fragment: &Fragment,
    mask: u32,
) -> Outcome<()> {
    let first = mask.trailing_zeros() as usize & 31;
    let mut base = addresses(registers, &fragment.memory, mask)[first];
    let space = match fragment.memory.target {
        Target::Space(space @ (Space::Global | Space::Shared)) => space,
        Target::Generic if base.wrapping_sub(window::SHARED) < window::SIZE => {
            base -= window::SHARED;
            Space::Shared
        }
        Target::Generic => Space::Global,
        _ => return fault(mask, FaultKind::Undefined { what: "a fragment in this state space" }),
    };
    let (rows, columns) = (u64::from(fragment.rows), u64::from(fragment.columns));
    let dense = if fragment.by_columns { rows } else { columns };
    let stride = if fragment.stride == NONE {
        dense
    } else {
        u64::from(u32::read(registers, fragment.stride)[first])
    };
    let width = u64::from(fragment.ty.bits() / 8);
    let mine = (rows * columns / LANES as u64) as usize;
    let per = (32 / fragment.ty.bits()).max(1) as usize;
    let place = |lane: usize, n: usize| {
        let at = (lane * mine + n) as u64;
        let (row, column) = (at / columns, at % columns);
        let index = if fragment.by_columns { column * stride + row } else { row * stride + column };
        base.wrapping_add(index.wrapping_mul(width))
    };
    // Eight bytes at a time, where they lie in a row.
    let chunk = 8 / width.clamp(1, 8);
    let whole = !fragment.by_columns
        && width < 8
        && (mine as u64).is_multiple_of(chunk)
        && columns.is_multiple_of(chunk)
        && stride.wrapping_mul(width).is_multiple_of(8)
        && base.is_multiple_of(8);
    if whole {
        for (pair, n) in fragment.slots.chunks(2).zip((0..mine).step_by(chunk as usize)) {
            let at = std::array::from_fn(|lane| place(lane, n));
            let &[low, high] = pair else { break };
            if fragment.load {
                let values = view.read_elements(space, &at, mask, 8)?;
                u32::write(registers, low, mask, values.map(|v| v as u32));
                u32::write(registers, high, mask, values.map(|v| (v >> 32) as u32));
            } else {
                let (low, high) = (u32::read(registers, low), u32::read(registers, high));
                let values = std::array::from_fn(|i| u64::from(low[i]) | u64::from(high[i]) << 32);
                view.write_elements(space, &at, mask, 8, &values)?;
            }
        }
    }
    for (r, &slot) in fragment.slots.iter().enumerate() {
        if whole && r * per < mine {
            continue;
        }
        let wide = fragment.ty == MatrixType::F64;
        if fragment.load {
            let mut packed = [0u64; LANES];
            for n in (r * per..(r + 1) * per).take_while(|&n| n < mine) {
                let at = std::array::from_fn(|lane| place(lane, n));
                let values = view.read_elements(space, &at, mask, width)?;
                for (p, v) in packed.iter_mut().zip(values) {
                    *p |= v << (fragment.ty.bits() as usize % 64 * (n % per));
                }
            }
            if wide {
                u64::write(registers, slot, mask, packed);
            } else {
                u32::write(registers, slot, mask, packed.map(|p| p as u32));
            }
        } else {
            let packed: [u64; LANES] = if wide {
                *u64::read(registers, slot)
            } else {
                u32::read(registers, slot).map(u64::from)
            };
            for n in (r * per..(r + 1) * per).take_while(|&n| n < mine) {
                let at = std::array::from_fn(|lane| place(lane, n));
                let values = packed.map(|p| p >> (fragment.ty.bits() as usize % 64 * (n % per)));
                view.write_elements(space, &at, mask, width, &values)?;
            }
        }
    }
    Ok(())
}
