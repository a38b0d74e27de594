//! Instructions whose loops over lanes are not in a table: comparisons, selections, plain transfers.

use super::memory_ops::View;
use super::registers::{Lane, Registers};
use super::warp::Outcome;
use crate::ir::{Combine, NONE, Op, Value};
use crate::raw::LANES;

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

/// Bit (2a + b) of a truth table, for each bit of two predicates.
#[inline(always)]
pub(crate) fn logic(table: u8, a: u32, b: u32) -> u32 {
    let bit = |n: u8| if table >> n & 1 != 0 { u32::MAX } else { 0 };
    (bit(0) & !a & !b) | (bit(1) & !a & b) | (bit(2) & a & !b) | (bit(3) & a & b)
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
