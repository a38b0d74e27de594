//! Logic, shifts, bit fields and video instructions. Source: PTX ISA 9.0, sections 9.7.1, 9.7.8 and 9.7.17.

use turnstile_ptx::tree::{Flag, Instruction, Op as Opcode, Operand, ScalarType as T};

use super::arithmetic::{Width, width};
use super::builder::{Builder, class_of};
use super::{Lowered, malformed, unsupported};
use crate::ir::{NONE, Op};
use crate::ops::Class;
use crate::ops::compare::Compare;
use crate::ops::int32::{self, Int32};
use crate::ops::int64::Int64;

impl Builder<'_> {
    /// Logic, shifts and bit fields.
    pub(super) fn bits(&mut self, inst: &Instruction, op: Opcode) -> Lowered<()> {
        use Opcode as O;
        let ty = self.ty(inst)?;
        if ty == T::Pred {
            return self.predicate_logic(inst, op);
        }
        let u32s = [T::U32; 3];
        let w = width(ty);
        match op {
            O::And | O::Or | O::Xor => {
                self.only(inst, &[])?;
                match (w, op) {
                    (Some(Width::W64), O::And) => self.simple(inst, Int64::And, ty, &[ty, ty], 0),
                    (Some(Width::W64), O::Or) => self.simple(inst, Int64::Or, ty, &[ty, ty], 0),
                    (Some(Width::W64), _) => self.simple(inst, Int64::Xor, ty, &[ty, ty], 0),
                    (Some(_), O::And) => self.simple(inst, Int32::And, ty, &[ty, ty], 0),
                    (Some(_), O::Or) => self.simple(inst, Int32::Or, ty, &[ty, ty], 0),
                    (Some(_), _) => self.simple(inst, Int32::Xor, ty, &[ty, ty], 0),
                    (None, _) => unsupported(inst),
                }
            }
            O::Not => match w {
                Some(Width::W16) => self.simple(inst, Int32::Not16, ty, &[ty], 0),
                Some(Width::W32) => self.simple(inst, Int32::Not, ty, &[ty], 0),
                Some(Width::W64) => self.simple(inst, Int64::Not, ty, &[ty], 0),
                None => unsupported(inst),
            },
            O::Cnot => match w {
                Some(Width::W64) => self.simple(inst, Int64::CNot, ty, &[ty], 0),
                Some(_) => self.simple(inst, Int32::CNot, ty, &[ty], 0),
                None => unsupported(inst),
            },
            O::Shl => match w {
                Some(Width::W16) => self.simple(inst, Int32::Shl16, ty, &[ty, T::U32], 0),
                Some(Width::W32) => self.simple(inst, Int32::Shl, ty, &[ty, T::U32], 0),
                Some(Width::W64) => self.simple(inst, Int64::Shl, ty, &[ty, T::U32], 0),
                None => unsupported(inst),
            },
            O::Shr => match (w, ty.is_signed()) {
                (Some(Width::W16), true) => self.simple(inst, Int32::ShrS16, ty, &[ty, T::U32], 0),
                (Some(Width::W32), true) => self.simple(inst, Int32::ShrS, ty, &[ty, T::U32], 0),
                (Some(Width::W64), true) => self.simple(inst, Int64::ShrS, ty, &[ty, T::U32], 0),
                (Some(Width::W64), false) => self.simple(inst, Int64::ShrU, ty, &[ty, T::U32], 0),
                (Some(_), false) => self.simple(inst, Int32::ShrU, ty, &[ty, T::U32], 0),
                (None, _) => unsupported(inst),
            },
            O::Lop3 => self.lop3(inst),
            O::Shf => {
                self.only(inst, &[Flag::L, Flag::R, Flag::Clamp, Flag::Wrap])?;
                let row = if inst.has(Flag::L) { Int32::ShfL } else { Int32::ShfR };
                self.simple(inst, row, T::B32, &u32s, u8::from(inst.has(Flag::Clamp)))
            }
            O::Prmt => {
                let mode = match inst.flags().next() {
                    None => 0,
                    Some(Flag::F4e) => 1,
                    Some(Flag::B4e) => 2,
                    Some(Flag::Rc8) => 3,
                    Some(Flag::Ecl) => 4,
                    Some(Flag::Ecr) => 5,
                    Some(Flag::Rc16) => 6,
                    _ => return unsupported(inst),
                };
                self.simple(inst, Int32::Prmt, T::B32, &u32s, mode)
            }
            O::Bfe => match (ty, ty.is_signed()) {
                (T::U32 | T::S32, false) => self.simple(inst, Int32::BfeU, ty, &u32s, 0),
                (T::U32 | T::S32, true) => self.simple(inst, Int32::BfeS, ty, &u32s, 0),
                (T::U64 | T::S64, false) => {
                    self.simple(inst, Int64::BfeU, ty, &[ty, T::U32, T::U32], 0)
                }
                (T::U64 | T::S64, true) => {
                    self.simple(inst, Int64::BfeS, ty, &[ty, T::U32, T::U32], 0)
                }
                _ => unsupported(inst),
            },
            O::Bfi => self.bfi(inst, ty),
            O::Bfind => {
                self.only(inst, &[Flag::Shiftamt])?;
                let x = u8::from(inst.has(Flag::Shiftamt));
                match (w, ty.is_signed()) {
                    (Some(Width::W32), false) => self.simple(inst, Int32::BfindU, T::U32, &[ty], x),
                    (Some(Width::W32), true) => self.simple(inst, Int32::BfindS, T::U32, &[ty], x),
                    (Some(Width::W64), false) => self.simple(inst, Int64::BfindU, T::U32, &[ty], x),
                    (Some(Width::W64), true) => self.simple(inst, Int64::BfindS, T::U32, &[ty], x),
                    _ => unsupported(inst),
                }
            }
            O::Brev => match w {
                Some(Width::W32) => self.simple(inst, Int32::Brev, ty, &[ty], 0),
                Some(Width::W64) => self.simple(inst, Int64::Brev, ty, &[ty], 0),
                _ => unsupported(inst),
            },
            O::Clz => match w {
                Some(Width::W32) => self.simple(inst, Int32::Clz, T::U32, &[ty], 0),
                Some(Width::W64) => self.simple(inst, Int64::Clz, T::U32, &[ty], 0),
                _ => unsupported(inst),
            },
            O::Popc => match w {
                Some(Width::W32) => self.simple(inst, Int32::Popc, T::U32, &[ty], 0),
                Some(Width::W64) => self.simple(inst, Int64::Popc, T::U32, &[ty], 0),
                _ => unsupported(inst),
            },
            O::Fns => self.simple(inst, Int32::Fns, T::B32, &u32s, 0),
            O::Bmsk => self.simple(
                inst,
                Int32::Bmsk,
                T::B32,
                &[T::U32, T::U32],
                u8::from(inst.has(Flag::Clamp)),
            ),
            O::Szext => {
                let x = u8::from(ty.is_signed()) | u8::from(inst.has(Flag::Clamp)) << 1;
                self.simple(inst, Int32::Szext, ty, &[T::U32, T::U32], x)
            }
            O::Sad => match (w, ty.is_signed()) {
                (Some(Width::W16), false) => self.simple(inst, Int32::SadU16, ty, &[ty; 3], 0),
                (Some(Width::W16), true) => self.simple(inst, Int32::SadS16, ty, &[ty; 3], 0),
                (Some(Width::W32), false) => self.simple(inst, Int32::SadU, ty, &[ty; 3], 0),
                (Some(Width::W32), true) => self.simple(inst, Int32::SadS, ty, &[ty; 3], 0),
                (Some(Width::W64), false) => self.simple(inst, Int64::SadU, ty, &[ty; 3], 0),
                (Some(Width::W64), true) => self.simple(inst, Int64::SadS, ty, &[ty; 3], 0),
                _ => unsupported(inst),
            },
            O::Dp4a | O::Dp2a => {
                let mut types = inst.types();
                let signs = [types.next(), types.next()].map(|t| t.is_some_and(T::is_signed));
                let mut x = u8::from(signs[0]) | u8::from(signs[1]) << 1;
                if op == O::Dp4a {
                    return self.simple(inst, Int32::Dp4a, T::U32, &u32s, x);
                }
                x |= u8::from(inst.has(Flag::Hi)) << 2;
                self.simple(inst, Int32::Dp2a, T::U32, &u32s, x)
            }
            _ => unsupported(inst),
        }
    }

    pub(super) fn bfi(&mut self, inst: &Instruction, ty: T) -> Lowered<()> {
        if inst.operands.len() != 5 {
            return malformed(inst, "wrong number of operands");
        }
        let a = self.source(inst, self.operand(inst, 1)?, ty)?;
        let b = self.source(inst, self.operand(inst, 2)?, ty)?;
        let both = match (self.operand(inst, 3)?, self.operand(inst, 4)?) {
            (Operand::Int(pos), Operand::Int(len)) => {
                let packed = (*pos as u32 & 0xff) | (*len as u32 & 0xff) << 8;
                self.constant32(packed)?
            }
            (pos, len) => {
                let pos = self.source(inst, pos, T::U32)?;
                let len = self.source(inst, len, T::U32)?;
                let both = self.temp32()?;
                self.lanes(Int32::Pair8, both, &[pos, len], 0)?;
                both
            }
        };
        let d = self.dest(inst, self.operand(inst, 0)?, class_of(ty))?;
        match width(ty) {
            Some(Width::W32) => self.lanes(Int32::Bfi, d, &[a, b, both], 0),
            Some(Width::W64) => self.lanes(Int64::Bfi, d, &[a, b, both], 0),
            _ => unsupported(inst),
        }
    }

    /// `lop3.b32 d, a, b, c, table` and `lop3.op.b32 d|p, a, b, c, table, q`.
    pub(super) fn lop3(&mut self, inst: &Instruction) -> Lowered<()> {
        let Some(table) = self.operand(inst, 4)?.as_int() else {
            return malformed(inst, "the table is no constant");
        };
        let mut sources = [NONE; 3];
        for (i, slot) in sources.iter_mut().enumerate() {
            *slot = self.source(inst, self.operand(inst, i + 1)?, T::B32)?;
        }
        let (d, p) = match self.operand(inst, 0)? {
            Operand::Pair(d, p) => (self.dest(inst, d, Class::W32)?, Some(self.pred(inst, p)?)),
            d => (self.dest(inst, d, Class::W32)?, None),
        };
        let value = if p.is_some() { self.temp32()? } else { d };
        self.lanes(Int32::Lop3, value, &sources, table as u8)?;
        if let Some(p) = p {
            let (q, negate) = self.condition(inst, self.operand(inst, 5)?)?;
            let zero = self.constant32(0)?;
            let nonzero = self.temp_pred()?;
            self.compare(Compare::Ne32, 0, nonzero, value, zero)?;
            let table = match (inst.has(Flag::And), negate) {
                (true, false) => 0b1000,
                (true, true) => 0b0100,
                (false, false) => 0b1110,
                (false, true) => 0b1101,
            };
            self.emit(Op::Logic { table, d: p, a: nonzero, b: q })?;
            if d != NONE {
                self.lanes(Int32::Mov, d, &[value], 0)?;
            }
        }
        Ok(())
    }

    pub(super) fn predicate_logic(&mut self, inst: &Instruction, op: Opcode) -> Lowered<()> {
        let d = self.pred(inst, self.operand(inst, 0)?)?;
        let (a, not_a) = self.condition(inst, self.operand(inst, 1)?)?;
        let (b, not_b) = match inst.operands.get(2) {
            Some(operand) => self.condition(inst, operand)?,
            None => (a, not_a),
        };
        let f = |a: bool, b: bool| match op {
            Opcode::And => a & b,
            Opcode::Or => a | b,
            Opcode::Xor => a ^ b,
            _ => !a,
        };
        let mut table = 0;
        for index in 0..4u8 {
            table |= u8::from(f((index & 2 != 0) ^ not_a, (index & 1 != 0) ^ not_b)) << index;
        }
        self.emit(Op::Logic { table, d, a, b })
    }

    /// Video instructions on four bytes or two halves. Masks and selectors are not supported.
    pub(super) fn simd(&mut self, inst: &Instruction, op: Opcode) -> Lowered<()> {
        use Opcode as O;
        self.only(inst, &[Flag::Sat, Flag::Add])?;
        let mut x = match op {
            O::Vadd4 | O::Vadd2 => int32::SIMD_ADD,
            O::Vsub4 | O::Vsub2 => int32::SIMD_SUB,
            O::Vavrg4 | O::Vavrg2 => int32::SIMD_AVERAGE,
            O::Vabsdiff4 | O::Vabsdiff2 => int32::SIMD_DIFFERENCE,
            O::Vmin4 | O::Vmin2 => int32::SIMD_MIN,
            _ => int32::SIMD_MAX,
        };
        let types: Vec<T> = inst.types().collect();
        let [d, a, b] = types[..] else { return malformed(inst, "three types are wanted") };
        x |= if d.is_signed() { int32::SIMD_SIGNED_D } else { 0 };
        x |= if a.is_signed() { int32::SIMD_SIGNED_A } else { 0 };
        x |= if b.is_signed() { int32::SIMD_SIGNED_B } else { 0 };
        x |= if inst.has(Flag::Sat) { int32::SIMD_SATURATE } else { 0 };
        x |= if inst.has(Flag::Add) { int32::SIMD_SUM } else { 0 };
        let four =
            matches!(op, O::Vadd4 | O::Vsub4 | O::Vavrg4 | O::Vabsdiff4 | O::Vmin4 | O::Vmax4);
        self.simple(inst, if four { Int32::Simd4 } else { Int32::Simd2 }, T::U32, &[T::U32; 3], x)
    }
}
