//! How a thread's slots become values of the machine: which of them are floats, and which of those may hold any NaN for
//! a while.
//!
//! The GPU's arithmetic gives one NaN only. A slot that nothing but such arithmetic writes is *loose*: compiled code keeps
//! whatever NaN the processor gives and makes it the canonical one where somebody can see its bits. All others are exact.

use super::arithmetic::{gives_canonical32, gives_canonical64, is_float_result};
use super::liveness::{Set, Shape, effects};
use crate::ir::{CONSTANT, Inst, Op, Slot};
use crate::ops::Class;
use crate::ops::convert::Convert;
use crate::ops::int32::Int32;
use crate::ops::int64::Int64;

/// Passes over a function's code: one more than copies of copies follow each other against its order.
const MOST_PASSES: usize = 40;

/// What a slot is in compiled code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An integer of the class's width.
    Integer,
    /// A float with exact bits.
    Float,
    /// A float with any NaN.
    Loose,
    /// 0 or 1.
    Predicate,
}

/// The kind of every slot of a function, by number.
pub(super) fn kinds(
    code: &[Inst],
    shape: Shape,
    (constants32, constants64): (&[u32], &[u64]),
) -> Vec<Kind> {
    let mut votes = vec![0i32; shape.total()];
    let mut vote = |class: Class, slot: Slot, n: i32| {
        if let Some(number) = shape.number((class, slot)).filter(|_| slot & CONSTANT == 0) {
            votes[number] += n;
        }
    };
    for inst in code {
        let Some((reads, writes)) = effects(inst) else { continue };
        let (of32, of64) = match &inst.op {
            Op::Float32(_) => (1, 0),
            Op::Float64(_) => (0, 1),
            Op::Int32(l) if l.op == Int32::Mov => (0, 0),
            Op::Int64(l) if l.op == Int64::Mov => (0, 0),
            Op::Int32(_) | Op::Int64(_) | Op::Half(_) => (-1, -1),
            Op::Compare { op, .. } => {
                let float =
                    format!("{op:?}").ends_with("F32") || format!("{op:?}").ends_with("F64");
                if float { (1, 1) } else { (-1, -1) }
            }
            Op::Convert(l) => {
                use Convert as C;
                let (result, source) = match l.op {
                    C::S32ToF32 | C::U32ToF32 | C::S32ToF64 | C::U32ToF64 => (1, -1),
                    C::F32ToF64 | C::F64ToF32 => (1, 1),
                    C::F32ToS32 | C::F32ToU32 => (-1, 1),
                    _ => (-1, -1),
                };
                reads.iter().for_each(|&(c, s)| vote(c, s, source));
                writes.iter().for_each(|&(c, s)| vote(c, s, result));
                continue;
            }
            Op::Load(_) | Op::Store(_) | Op::Param { .. } => {
                // Only an address is clearly none.
                if let Some(&(class, slot)) = reads.first() {
                    vote(class, slot, -1);
                }
                continue;
            }
            Op::Select32 { .. } | Op::Select64 { .. } => (0, 0),
            _ => (-1, -1),
        };
        for &(class, slot) in reads.iter().chain(&writes) {
            match class {
                Class::W32 => vote(class, slot, of32),
                Class::W64 => vote(class, slot, of64),
                Class::Pred => {}
            }
        }
    }
    let mut kinds: Vec<Kind> = (0..shape.total())
        .map(|n| match shape.place(n).0 {
            Class::Pred => Kind::Predicate,
            _ if votes[n] > 0 => Kind::Loose,
            _ => Kind::Integer,
        })
        .collect();
    // Loose until something else is seen to write it; a copy is as loose as its source.
    let is_number32 = |s: Slot| {
        constants32.get(usize::from(s & !CONSTANT)).is_some_and(|&v| !f32::from_bits(v).is_nan())
    };
    let is_number64 = |s: Slot| {
        constants64.get(usize::from(s & !CONSTANT)).is_some_and(|&v| !f64::from_bits(v).is_nan())
    };
    for _ in 0..MOST_PASSES {
        let mut exact = Set::empty(shape);
        let mut any = false;
        for inst in code {
            let Some((_, writes)) = effects(inst) else {
                // It may write anything.
                kinds.iter_mut().filter(|k| **k == Kind::Loose).for_each(|k| *k = Kind::Float);
                return kinds;
            };
            let loose = |class: Class, s: Slot| {
                if s & CONSTANT != 0 {
                    return if class == Class::W32 { is_number32(s) } else { is_number64(s) };
                }
                shape.number((class, s)).is_some_and(|n| kinds[n] == Kind::Loose)
            };
            let keeps = match &inst.op {
                Op::Float32(l) => gives_canonical32(l.op),
                Op::Float64(l) => gives_canonical64(l.op),
                Op::Convert(l) => is_float_result(l.op, l.x),
                Op::Int32(l) if l.op == Int32::Mov => loose(Class::W32, l.a),
                Op::Int64(l) if l.op == Int64::Mov => loose(Class::W64, l.a),
                Op::Select32 { a, b, .. } => loose(Class::W32, *a) && loose(Class::W32, *b),
                Op::Select64 { a, b, .. } => loose(Class::W64, *a) && loose(Class::W64, *b),
                _ => false,
            };
            if !keeps {
                writes.iter().filter_map(|&p| shape.number(p)).for_each(|n| exact.insert(n));
            }
        }
        for n in exact.iter() {
            if kinds[n] == Kind::Loose {
                kinds[n] = Kind::Float;
                any = true;
            }
        }
        if !any {
            return kinds;
        }
    }
    // A chain of copies longer than anybody writes: exact is always right.
    kinds.iter_mut().filter(|k| **k == Kind::Loose).for_each(|k| *k = Kind::Float);
    kinds
}
