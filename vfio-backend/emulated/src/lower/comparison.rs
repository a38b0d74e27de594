//! Comparisons and selections. Source: PTX ISA 9.0, sections 9.7.6 and 9.7.3.20.

use turnstile_ptx::tree::{Flag, Instruction, Operand, ScalarType as T};

use super::builder::{Builder, class_of};
use super::{Lowered, malformed, unsupported};
use crate::ir::{Combine, NONE, Op, Slot};
use crate::ops::Class;
use crate::ops::compare::{self, Compare};
use crate::ops::int32::Int32;
use crate::ops::int64::Int64;

impl Builder<'_> {
    /// The comparison operator among the flags, as the code of [`compare`].
    pub(super) fn comparison(inst: &Instruction) -> Option<(u8, bool)> {
        // (code, unsigned by name)
        inst.flags().find_map(|f| {
            Some(match f {
                Flag::Eq => (compare::FLOAT_EQ, false),
                Flag::Ne => (compare::FLOAT_NE, false),
                Flag::Lt => (compare::FLOAT_LT, false),
                Flag::Le => (compare::FLOAT_LE, false),
                Flag::Gt => (compare::FLOAT_GT, false),
                Flag::Ge => (compare::FLOAT_GE, false),
                Flag::Lo => (compare::FLOAT_LT, true),
                Flag::Ls => (compare::FLOAT_LE, true),
                Flag::Hi => (compare::FLOAT_GT, true),
                Flag::Hs => (compare::FLOAT_GE, true),
                Flag::Equ => (compare::FLOAT_UNORDERED, false),
                Flag::Neu => (compare::FLOAT_UNORDERED + 1, false),
                Flag::Ltu => (compare::FLOAT_UNORDERED + 2, false),
                Flag::Leu => (compare::FLOAT_UNORDERED + 3, false),
                Flag::Gtu => (compare::FLOAT_UNORDERED + 4, false),
                Flag::Geu => (compare::FLOAT_UNORDERED + 5, false),
                Flag::Num => (compare::FLOAT_NUM, false),
                Flag::IsNan => (compare::FLOAT_NAN, false),
                _ => return None,
            })
        })
    }

    /// The row of the table for an instruction's comparison of type `ty`.
    pub(super) fn comparison_row(&self, inst: &Instruction, ty: T) -> Lowered<(Compare, u8)> {
        use Compare as C;
        let Some((code, unsigned)) = Self::comparison(inst) else {
            return malformed(inst, "no comparison is given");
        };
        let signed = ty.is_signed() && !unsigned;
        let flush = if inst.has(Flag::Ftz) { compare::FLUSH } else { 0 };
        let pick = |rows: &[C]| rows.get(usize::from(code)).copied();
        let row = match ty {
            T::F32 if flush != 0 => return Ok((C::FlushedF32, code | flush)),
            T::F32 => pick(&[
                C::EqF32,
                C::NeF32,
                C::LtF32,
                C::LeF32,
                C::GtF32,
                C::GeF32,
                C::EquF32,
                C::NeuF32,
                C::LtuF32,
                C::LeuF32,
                C::GtuF32,
                C::GeuF32,
                C::NumF32,
                C::NanF32,
            ]),
            T::F64 => pick(&[
                C::EqF64,
                C::NeF64,
                C::LtF64,
                C::LeF64,
                C::GtF64,
                C::GeF64,
                C::EquF64,
                C::NeuF64,
                C::LtuF64,
                C::LeuF64,
                C::GtuF64,
                C::GeuF64,
                C::NumF64,
                C::NanF64,
            ]),
            T::F16 | T::F16x2 => return Ok((C::F16, code | flush)),
            T::Bf16 | T::Bf16x2 => return Ok((C::Bf16, code)),
            T::S16 if signed => pick(&[C::Eq32, C::Ne32, C::LtS16, C::LeS16, C::GtS16, C::GeS16]),
            T::U16 | T::B16 | T::S16 => {
                pick(&[C::Eq32, C::Ne32, C::LtU32, C::LeU32, C::GtU32, C::GeU32])
            }
            T::S32 if signed => pick(&[C::Eq32, C::Ne32, C::LtS32, C::LeS32, C::GtS32, C::GeS32]),
            T::U32 | T::B32 | T::S32 => {
                pick(&[C::Eq32, C::Ne32, C::LtU32, C::LeU32, C::GtU32, C::GeU32])
            }
            T::S64 if signed => pick(&[C::Eq64, C::Ne64, C::LtS64, C::LeS64, C::GtS64, C::GeS64]),
            T::U64 | T::B64 | T::S64 => {
                pick(&[C::Eq64, C::Ne64, C::LtU64, C::LeU64, C::GtU64, C::GeU64])
            }
            _ => None,
        };
        match row {
            Some(row) => Ok((row, 0)),
            None => unsupported(inst),
        }
    }

    /// The boolean operator and third predicate of a comparison.
    pub(super) fn combination(
        &mut self,
        inst: &Instruction,
        index: usize,
    ) -> Lowered<(Combine, Slot, bool)> {
        let combine = if inst.has(Flag::And) {
            Combine::And
        } else if inst.has(Flag::Or) {
            Combine::Or
        } else if inst.has(Flag::Xor) {
            Combine::Xor
        } else {
            return Ok((Combine::None, NONE, false));
        };
        let (c, negate) = self.condition(inst, self.operand(inst, index)?)?;
        Ok((combine, c, negate))
    }

    /// `setp`.
    pub(super) fn setp(&mut self, inst: &Instruction) -> Lowered<()> {
        let ty = self.ty(inst)?;
        let (op, x) = self.comparison_row(inst, ty)?;
        let a = self.source(inst, self.operand(inst, 1)?, ty)?;
        let b = self.source(inst, self.operand(inst, 2)?, ty)?;
        let (combine, c, negate) = self.combination(inst, 3)?;
        let (d, second) = match self.operand(inst, 0)? {
            Operand::Pair(d, q) => {
                (self.dest(inst, d, Class::Pred)?, self.dest(inst, q, Class::Pred)?)
            }
            d => (self.dest(inst, d, Class::Pred)?, NONE),
        };
        if matches!(ty, T::F16x2 | T::Bf16x2) {
            // The pair is the two halves' results.
            let (high_a, high_b) = (self.temp32()?, self.temp32()?);
            self.lanes(Int32::High16, high_a, &[a], 0)?;
            self.lanes(Int32::High16, high_b, &[b], 0)?;
            self.emit(Op::Compare { op, x, combine, negate, d, not_d: NONE, a, b, c })?;
            return self.emit(Op::Compare {
                op,
                x,
                combine,
                negate,
                d: second,
                not_d: NONE,
                a: high_a,
                b: high_b,
                c,
            });
        }
        self.emit(Op::Compare { op, x, combine, negate, d, not_d: second, a, b, c })
    }

    /// `set`: all ones, or 1.0, where the comparison holds.
    pub(super) fn set(&mut self, inst: &Instruction) -> Lowered<()> {
        let mut types = inst.types();
        let (Some(to), Some(ty)) = (types.next(), types.next()) else {
            return malformed(inst, "two types are wanted");
        };
        let (op, x) = self.comparison_row(inst, ty)?;
        let a = self.source(inst, self.operand(inst, 1)?, ty)?;
        let b = self.source(inst, self.operand(inst, 2)?, ty)?;
        let (combine, c, negate) = self.combination(inst, 3)?;
        let one = match to {
            T::F32 => 1f32.to_bits(),
            T::F16 | T::F16x2 => 0x3c00,
            T::Bf16 | T::Bf16x2 => 0x3f80,
            T::U16 | T::S16 => 0xffff,
            T::U32 | T::S32 => u32::MAX,
            _ => return unsupported(inst),
        };
        let (yes, no) = (self.constant32(one)?, self.constant32(0)?);
        let d = self.dest(inst, self.operand(inst, 0)?, Class::W32)?;
        let p = self.temp_pred()?;
        if !matches!(ty, T::F16x2 | T::Bf16x2) {
            self.emit(Op::Compare { op, x, combine, negate, d: p, not_d: NONE, a, b, c })?;
            return self.emit(Op::Select32 { d, a: yes, b: no, p });
        }
        let (high_a, high_b, low, high) =
            (self.temp32()?, self.temp32()?, self.temp32()?, self.temp32()?);
        let half = if matches!(to, T::U32 | T::S32) { self.constant32(0xffff)? } else { yes };
        self.lanes(Int32::High16, high_a, &[a], 0)?;
        self.lanes(Int32::High16, high_b, &[b], 0)?;
        self.emit(Op::Compare { op, x, combine, negate, d: p, not_d: NONE, a, b, c })?;
        self.emit(Op::Select32 { d: low, a: half, b: no, p })?;
        self.emit(Op::Compare {
            op,
            x,
            combine,
            negate,
            d: p,
            not_d: NONE,
            a: high_a,
            b: high_b,
            c,
        })?;
        self.emit(Op::Select32 { d: high, a: half, b: no, p })?;
        self.lanes(Int32::Pack16, d, &[low, high], 0)
    }

    /// `selp`.
    pub(super) fn selp(&mut self, inst: &Instruction) -> Lowered<()> {
        let ty = self.ty(inst)?;
        let mut a = self.source(inst, self.operand(inst, 1)?, ty)?;
        let mut b = self.source(inst, self.operand(inst, 2)?, ty)?;
        let (p, negate) = self.condition(inst, self.operand(inst, 3)?)?;
        if negate {
            (a, b) = (b, a);
        }
        let d = self.dest(inst, self.operand(inst, 0)?, class_of(ty))?;
        match class_of(ty) {
            Class::W64 => self.emit(Op::Select64 { d, a, b, p }),
            _ => self.emit(Op::Select32 { d, a, b, p }),
        }
    }

    /// `slct`.
    pub(super) fn slct(&mut self, inst: &Instruction) -> Lowered<()> {
        let mut types = inst.types();
        let (Some(ty), Some(by)) = (types.next(), types.next()) else {
            return malformed(inst, "two types are wanted");
        };
        let x = u8::from(inst.has(Flag::Ftz));
        match (class_of(ty), by) {
            (Class::W32, T::S32) => self.simple(inst, Int32::SlctS, ty, &[ty, ty, by], 0),
            (Class::W32, T::F32) => self.simple(inst, Int32::SlctF, ty, &[ty, ty, by], x),
            (Class::W64, T::S32) => self.simple(inst, Int64::SlctS, ty, &[ty, ty, by], 0),
            (Class::W64, T::F32) => self.simple(inst, Int64::SlctF, ty, &[ty, ty, by], x),
            _ => unsupported(inst),
        }
    }

    /// `testp`.
    pub(super) fn testp(&mut self, inst: &Instruction) -> Lowered<()> {
        use Compare as C;
        let ty = self.ty(inst)?;
        let (single, double) = match inst.flags().next() {
            Some(Flag::Finite) => (C::FiniteF32, C::FiniteF64),
            Some(Flag::Infinite) => (C::InfiniteF32, C::InfiniteF64),
            Some(Flag::Number) => (C::NumberF32, C::NumberF64),
            Some(Flag::Notanumber) => (C::NotNumberF32, C::NotNumberF64),
            Some(Flag::Normal) => (C::NormalF32, C::NormalF64),
            Some(Flag::Subnormal) => (C::SubnormalF32, C::SubnormalF64),
            _ => return unsupported(inst),
        };
        let a = self.source(inst, self.operand(inst, 1)?, ty)?;
        let d = self.dest(inst, self.operand(inst, 0)?, Class::Pred)?;
        match ty {
            T::F32 => self.compare(single, 0, d, a, a),
            T::F64 => self.compare(double, 0, d, a, a),
            _ => unsupported(inst),
        }
    }
}
