//! Integer and logic instructions. Source: PTX ISA 9.0, sections 9.7.1, 9.7.2, 9.7.8 and 9.7.17.

use turnstile_ptx::tree::{Flag, Instruction, Op as Opcode, Operand, ScalarType as T};

use super::builder::{Builder, Family, class_of};
use super::{Lowered, malformed, unsupported};
use crate::ir::{NONE, Op, Slot};
use crate::ops::Class;
use crate::ops::compare::Compare;
use crate::ops::int32::{self, Int32};
use crate::ops::int64::Int64;

/// Width class of an integer type.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Width {
    W16,
    W32,
    W64,
}

fn width(ty: T) -> Option<Width> {
    Some(match ty {
        T::U16 | T::S16 | T::B16 => Width::W16,
        T::U32 | T::S32 | T::B32 => Width::W32,
        T::U64 | T::S64 | T::B64 => Width::W64,
        _ => return None,
    })
}

impl Builder<'_> {
    /// add, sub, mul, mad, div, rem, min, max, abs, neg and their kin, for whatever type.
    pub(super) fn arithmetic(&mut self, inst: &Instruction, op: Opcode) -> Lowered<()> {
        let ty = self.ty(inst)?;
        if ty.is_float() {
            return self.floating(inst, op, ty);
        }
        if matches!(ty, T::U16x2 | T::S16x2) {
            let relu = inst.has(Flag::Relu);
            self.only(inst, &[Flag::Relu])?;
            let row = match (op, ty) {
                (Opcode::Add, _) if !relu => Int32::Add16x2,
                (Opcode::Min, T::U16x2) if !relu => Int32::MinU16x2,
                (Opcode::Max, T::U16x2) if !relu => Int32::MaxU16x2,
                (Opcode::Min, T::S16x2) => Int32::MinS16x2,
                (Opcode::Max, T::S16x2) => Int32::MaxS16x2,
                _ => return unsupported(inst),
            };
            return self.simple(inst, row, ty, &[ty, ty], u8::from(relu));
        }
        let Some(w) = width(ty) else { return unsupported(inst) };
        let signed = ty.is_signed();
        match op {
            Opcode::Add | Opcode::Addc => self.add(inst, ty, w, op == Opcode::Addc, false),
            Opcode::Sub | Opcode::Subc => self.add(inst, ty, w, op == Opcode::Subc, true),
            Opcode::Mul => self.mul(inst, ty, w),
            Opcode::Mad | Opcode::Madc => self.mad(inst, ty, w, op == Opcode::Madc),
            Opcode::Mul24 | Opcode::Mad24 => self.mad24(inst, ty, op == Opcode::Mad24),
            Opcode::Div => {
                self.only(inst, &[])?;
                match (w, signed) {
                    (Width::W16, true) => self.simple(inst, Int32::DivS16, ty, &[ty, ty], 0),
                    (Width::W16, false) => {
                        // The quotient by zero has all bits of a slot set.
                        self.simple(inst, Int32::DivU, ty, &[ty, ty], 0)?;
                        let d = self.dest(inst, self.operand(inst, 0)?, Class::W32)?;
                        self.lanes(Int32::Low16, d, &[d], 0)
                    }
                    (Width::W32, true) => self.simple(inst, Int32::DivS, ty, &[ty, ty], 0),
                    (Width::W32, false) => self.simple(inst, Int32::DivU, ty, &[ty, ty], 0),
                    (Width::W64, true) => self.simple(inst, Int64::DivS, ty, &[ty, ty], 0),
                    (Width::W64, false) => self.simple(inst, Int64::DivU, ty, &[ty, ty], 0),
                }
            }
            Opcode::Rem => {
                self.only(inst, &[])?;
                match (w, signed) {
                    (Width::W16, true) => self.simple(inst, Int32::RemS16, ty, &[ty, ty], 0),
                    (Width::W32, true) => self.simple(inst, Int32::RemS, ty, &[ty, ty], 0),
                    (Width::W64, true) => self.simple(inst, Int64::RemS, ty, &[ty, ty], 0),
                    (Width::W64, false) => self.simple(inst, Int64::RemU, ty, &[ty, ty], 0),
                    _ => self.simple(inst, Int32::RemU, ty, &[ty, ty], 0),
                }
            }
            Opcode::Min | Opcode::Max => {
                let (min, relu) = (op == Opcode::Min, inst.has(Flag::Relu));
                self.only(inst, &[Flag::Relu])?;
                if relu && (w, signed) != (Width::W32, true) {
                    return unsupported(inst);
                }
                match (w, signed, min) {
                    (Width::W16, true, true) => self.simple(inst, Int32::MinS16, ty, &[ty, ty], 0),
                    (Width::W16, true, false) => self.simple(inst, Int32::MaxS16, ty, &[ty, ty], 0),
                    (Width::W32, true, true) => self.simple(
                        inst,
                        if relu { Int32::MinSRelu } else { Int32::MinS },
                        ty,
                        &[ty, ty],
                        0,
                    ),
                    (Width::W32, true, false) => self.simple(
                        inst,
                        if relu { Int32::MaxSRelu } else { Int32::MaxS },
                        ty,
                        &[ty, ty],
                        0,
                    ),
                    (Width::W64, true, true) => self.simple(inst, Int64::MinS, ty, &[ty, ty], 0),
                    (Width::W64, true, false) => self.simple(inst, Int64::MaxS, ty, &[ty, ty], 0),
                    (Width::W64, false, true) => self.simple(inst, Int64::MinU, ty, &[ty, ty], 0),
                    (Width::W64, false, false) => self.simple(inst, Int64::MaxU, ty, &[ty, ty], 0),
                    (_, false, true) => self.simple(inst, Int32::MinU, ty, &[ty, ty], 0),
                    (_, false, false) => self.simple(inst, Int32::MaxU, ty, &[ty, ty], 0),
                }
            }
            Opcode::Abs | Opcode::Neg => {
                self.only(inst, &[])?;
                match (w, op == Opcode::Abs) {
                    (Width::W16, true) => self.simple(inst, Int32::Abs16, ty, &[ty], 0),
                    (Width::W16, false) => self.simple(inst, Int32::Neg16, ty, &[ty], 0),
                    (Width::W32, true) => self.simple(inst, Int32::Abs, ty, &[ty], 0),
                    (Width::W32, false) => self.simple(inst, Int32::Neg, ty, &[ty], 0),
                    (Width::W64, true) => self.simple(inst, Int64::Abs, ty, &[ty], 0),
                    (Width::W64, false) => self.simple(inst, Int64::Neg, ty, &[ty], 0),
                }
            }
            _ => unsupported(inst),
        }
    }

    /// An instruction `op d, a, b, …` that is one row of a table: types of the result and the sources.
    pub(super) fn simple<F: Family>(
        &mut self,
        inst: &Instruction,
        row: F,
        d: T,
        sources: &[T],
        x: u8,
    ) -> Lowered<()> {
        if inst.operands.len() != sources.len() + 1 {
            return malformed(inst, "wrong number of operands");
        }
        let mut slots = [NONE; 3];
        for (i, ty) in sources.iter().enumerate().take(3) {
            slots[i] = self.source(inst, self.operand(inst, i + 1)?, *ty)?;
        }
        let d = self.dest(inst, self.operand(inst, 0)?, class_of(d))?;
        if d == NONE {
            return self.emit(Op::Nop);
        }
        self.lanes(row, d, &slots[..sources.len().min(3)], x)
    }

    /// The slots of `d, a, b, …`, all of one type.
    fn operands<const N: usize>(
        &mut self,
        inst: &Instruction,
        ty: T,
    ) -> Lowered<(Slot, [Slot; N])> {
        if inst.operands.len() != N + 1 {
            return malformed(inst, "wrong number of operands");
        }
        let mut slots = [NONE; N];
        for (i, slot) in slots.iter_mut().enumerate() {
            *slot = self.source(inst, self.operand(inst, i + 1)?, ty)?;
        }
        Ok((self.dest(inst, self.operand(inst, 0)?, class_of(ty))?, slots))
    }

    /// add, sub and their carrying forms.
    fn add(
        &mut self,
        inst: &Instruction,
        ty: T,
        w: Width,
        carry_in: bool,
        subtract: bool,
    ) -> Lowered<()> {
        self.only(inst, &[Flag::Sat, Flag::Cc])?;
        let (carry_out, sat) = (inst.has(Flag::Cc), inst.has(Flag::Sat));
        if !carry_in && !carry_out {
            return match (w, subtract, sat) {
                (Width::W16, false, false) => self.simple(inst, Int32::Add16, ty, &[ty, ty], 0),
                (Width::W16, true, false) => self.simple(inst, Int32::Sub16, ty, &[ty, ty], 0),
                (Width::W32, false, false) => self.simple(inst, Int32::Add, ty, &[ty, ty], 0),
                (Width::W32, true, false) => self.simple(inst, Int32::Sub, ty, &[ty, ty], 0),
                (Width::W32, false, true) => self.simple(inst, Int32::AddSat, ty, &[ty, ty], 0),
                (Width::W32, true, true) => self.simple(inst, Int32::SubSat, ty, &[ty, ty], 0),
                (Width::W64, false, false) => self.simple(inst, Int64::Add, ty, &[ty, ty], 0),
                (Width::W64, true, false) => self.simple(inst, Int64::Sub, ty, &[ty, ty], 0),
                _ => unsupported(inst),
            };
        }
        let (d, [a, b]) = self.operands::<2>(inst, ty)?;
        self.carried(inst, (w, carry_in, carry_out, subtract), d, a, b)
    }

    /// d = a ± b ± carry, and the new carry if asked for.
    fn carried(
        &mut self,
        inst: &Instruction,
        (w, carry_in, carry_out, subtract): (Width, bool, bool, bool),
        d: Slot,
        a: Slot,
        b: Slot,
    ) -> Lowered<()> {
        let flag = self.carry()?;
        let old = if carry_in { flag } else { self.constant32(0)? };
        // The carry is found before d is written, which may be a or b, and kept apart until d is.
        let new = self.temp32()?;
        match w {
            Width::W32 => {
                let (value, out) = if subtract {
                    (Int32::SubC, Int32::BorrowSub)
                } else {
                    (Int32::AddC, Int32::CarryAdd)
                };
                if carry_out {
                    self.lanes(out, new, &[a, b, old], 0)?;
                }
                self.lanes(value, d, &[a, b, old], 0)?;
            }
            Width::W64 => {
                let (value, out) = if subtract {
                    (Int64::SubC, Int64::BorrowSub)
                } else {
                    (Int64::AddC, Int64::CarryAdd)
                };
                if carry_out {
                    self.lanes(out, new, &[a, b, old], 0)?;
                }
                self.lanes(value, d, &[a, b, old], 0)?;
            }
            Width::W16 => return unsupported(inst),
        }
        if carry_out {
            self.lanes(Int32::Mov, flag, &[new], 0)?;
        }
        Ok(())
    }

    fn mul(&mut self, inst: &Instruction, ty: T, w: Width) -> Lowered<()> {
        self.only(inst, &[Flag::Lo, Flag::Hi, Flag::Wide])?;
        let signed = ty.is_signed();
        if inst.has(Flag::Wide) {
            return match (w, signed) {
                (Width::W16, false) => self.simple(inst, Int32::MulWideU16, T::U32, &[ty, ty], 0),
                (Width::W16, true) => self.simple(inst, Int32::MulWideS16, T::U32, &[ty, ty], 0),
                (Width::W32, false) => self.simple(inst, Int64::MulWideU, T::U64, &[ty, ty], 0),
                (Width::W32, true) => self.simple(inst, Int64::MulWideS, T::U64, &[ty, ty], 0),
                _ => unsupported(inst),
            };
        }
        match (w, inst.has(Flag::Hi), signed) {
            (Width::W16, false, _) => self.simple(inst, Int32::MulLo16, ty, &[ty, ty], 0),
            (Width::W16, true, false) => self.simple(inst, Int32::MulHiU16, ty, &[ty, ty], 0),
            (Width::W16, true, true) => self.simple(inst, Int32::MulHiS16, ty, &[ty, ty], 0),
            (Width::W32, false, _) => self.simple(inst, Int32::MulLo, ty, &[ty, ty], 0),
            (Width::W32, true, false) => self.simple(inst, Int32::MulHiU, ty, &[ty, ty], 0),
            (Width::W32, true, true) => self.simple(inst, Int32::MulHiS, ty, &[ty, ty], 0),
            (Width::W64, false, _) => self.simple(inst, Int64::MulLo, ty, &[ty, ty], 0),
            (Width::W64, true, false) => self.simple(inst, Int64::MulHiU, ty, &[ty, ty], 0),
            (Width::W64, true, true) => self.simple(inst, Int64::MulHiS, ty, &[ty, ty], 0),
        }
    }

    fn mad(&mut self, inst: &Instruction, ty: T, w: Width, carry_in: bool) -> Lowered<()> {
        self.only(inst, &[Flag::Lo, Flag::Hi, Flag::Wide, Flag::Sat, Flag::Cc])?;
        let (signed, high, carry_out) = (ty.is_signed(), inst.has(Flag::Hi), inst.has(Flag::Cc));
        if inst.has(Flag::Sat) {
            return match (w, high, signed) {
                (Width::W32, true, true) => {
                    self.simple(inst, Int32::MadHiSat, ty, &[ty, ty, ty], 0)
                }
                _ => unsupported(inst),
            };
        }
        if carry_in || carry_out {
            let (d, [a, b, c]) = self.operands::<3>(inst, ty)?;
            let product = match w {
                Width::W32 => {
                    let p = self.temp32()?;
                    let row = match (high, signed) {
                        (false, _) => Int32::MulLo,
                        (true, false) => Int32::MulHiU,
                        (true, true) => Int32::MulHiS,
                    };
                    self.lanes(row, p, &[a, b], 0)?;
                    p
                }
                Width::W64 => {
                    let p = self.temp64()?;
                    let row = match (high, signed) {
                        (false, _) => Int64::MulLo,
                        (true, false) => Int64::MulHiU,
                        (true, true) => Int64::MulHiS,
                    };
                    self.lanes(row, p, &[a, b], 0)?;
                    p
                }
                Width::W16 => return unsupported(inst),
            };
            return self.carried(inst, (w, carry_in, carry_out, false), d, product, c);
        }
        if inst.has(Flag::Wide) {
            return match (w, signed) {
                (Width::W32, false) => {
                    self.simple(inst, Int64::MadWideU, T::U64, &[ty, ty, T::U64], 0)
                }
                (Width::W32, true) => {
                    self.simple(inst, Int64::MadWideS, T::U64, &[ty, ty, T::U64], 0)
                }
                (Width::W16, _) => {
                    let a = self.source(inst, self.operand(inst, 1)?, ty)?;
                    let b = self.source(inst, self.operand(inst, 2)?, ty)?;
                    let c = self.source(inst, self.operand(inst, 3)?, T::U32)?;
                    let d = self.dest(inst, self.operand(inst, 0)?, Class::W32)?;
                    let p = self.temp32()?;
                    let row = if signed { Int32::MulWideS16 } else { Int32::MulWideU16 };
                    self.lanes(row, p, &[a, b], 0)?;
                    self.lanes(Int32::Add, d, &[p, c], 0)
                }
                _ => unsupported(inst),
            };
        }
        match (w, high, signed) {
            (Width::W16, ..) => {
                let (d, [a, b, c]) = self.operands::<3>(inst, ty)?;
                let p = self.temp32()?;
                let row = match (high, signed) {
                    (false, _) => Int32::MulLo16,
                    (true, false) => Int32::MulHiU16,
                    (true, true) => Int32::MulHiS16,
                };
                self.lanes(row, p, &[a, b], 0)?;
                self.lanes(Int32::Add16, d, &[p, c], 0)
            }
            (Width::W32, false, _) => self.simple(inst, Int32::MadLo, ty, &[ty, ty, ty], 0),
            (Width::W32, true, false) => self.simple(inst, Int32::MadHiU, ty, &[ty, ty, ty], 0),
            (Width::W32, true, true) => self.simple(inst, Int32::MadHiS, ty, &[ty, ty, ty], 0),
            (Width::W64, false, _) => self.simple(inst, Int64::MadLo, ty, &[ty, ty, ty], 0),
            (Width::W64, true, false) => self.simple(inst, Int64::MadHiU, ty, &[ty, ty, ty], 0),
            (Width::W64, true, true) => self.simple(inst, Int64::MadHiS, ty, &[ty, ty, ty], 0),
        }
    }

    fn mad24(&mut self, inst: &Instruction, ty: T, add: bool) -> Lowered<()> {
        self.only(inst, &[Flag::Lo, Flag::Hi, Flag::Sat])?;
        let row = match (inst.has(Flag::Hi), ty) {
            (false, T::U32) => Int32::Mul24LoU,
            (false, T::S32) => Int32::Mul24LoS,
            (true, T::U32) => Int32::Mul24HiU,
            (true, T::S32) => Int32::Mul24HiS,
            _ => return unsupported(inst),
        };
        if !add {
            return self.simple(inst, row, ty, &[ty, ty], 0);
        }
        let (d, [a, b, c]) = self.operands::<3>(inst, ty)?;
        let p = self.temp32()?;
        self.lanes(row, p, &[a, b], 0)?;
        let sum = if inst.has(Flag::Sat) { Int32::AddSat } else { Int32::Add };
        self.lanes(sum, d, &[p, c], 0)
    }

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

    fn bfi(&mut self, inst: &Instruction, ty: T) -> Lowered<()> {
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
    fn lop3(&mut self, inst: &Instruction) -> Lowered<()> {
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

    fn predicate_logic(&mut self, inst: &Instruction, op: Opcode) -> Lowered<()> {
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
