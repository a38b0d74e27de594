//! Integer and logic instructions. Source: PTX ISA 9.0, sections 9.7.1, 9.7.2, 9.7.8 and 9.7.17.

use turnstile_ptx::tree::{Flag, Instruction, Op as Opcode, ScalarType as T};

use super::builder::{Builder, Family, class_of};
use super::{Lowered, malformed, unsupported};
use crate::ir::{NONE, Op, Slot};
use crate::ops::Class;
use crate::ops::int32::Int32;
use crate::ops::int64::Int64;

/// Width class of an integer type.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    W16,
    W32,
    W64,
}

pub(super) fn width(ty: T) -> Option<Width> {
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
    pub(super) fn operands<const N: usize>(
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
    pub(super) fn add(
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
    pub(super) fn carried(
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

    pub(super) fn mul(&mut self, inst: &Instruction, ty: T, w: Width) -> Lowered<()> {
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

    pub(super) fn mad(
        &mut self,
        inst: &Instruction,
        ty: T,
        w: Width,
        carry_in: bool,
    ) -> Lowered<()> {
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

    pub(super) fn mad24(&mut self, inst: &Instruction, ty: T, add: bool) -> Lowered<()> {
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
}
