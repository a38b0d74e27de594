//! Conversions between types. Source: PTX ISA 9.0, section 9.7.9.21 (`cvt`).

use turnstile_ptx::tree::{Flag, Instruction, Operand, ScalarType as T};

use super::builder::{Builder, class_of, literal};
use super::{Lowered, malformed, unsupported};
use crate::ir::Slot;
use crate::ops::Class;
use crate::ops::convert::{self, Convert};
use crate::ops::int32::Int32;
use crate::ops::int64::Int64;

impl Builder<'_> {
    /// `cvt`.
    pub(super) fn cvt(&mut self, inst: &Instruction) -> Lowered<()> {
        if inst.has(Flag::Pack) {
            return self.cvt_pack(inst);
        }
        let types: Vec<T> = inst.types().collect();
        let &[to, from] = &types[..] else { return malformed(inst, "two types are wanted") };
        self.only(
            inst,
            &[
                Flag::Rn,
                Flag::Rz,
                Flag::Rm,
                Flag::Rp,
                Flag::Rna,
                Flag::Rni,
                Flag::Rzi,
                Flag::Rmi,
                Flag::Rpi,
                Flag::Ftz,
                Flag::Sat,
                Flag::Satfinite,
                Flag::Relu,
            ],
        )?;
        let has = |f: Flag, bit: u8| if inst.has(f) { bit } else { 0 };
        let rounding = if inst.has(Flag::Rz) || inst.has(Flag::Rzi) {
            1
        } else if inst.has(Flag::Rm) || inst.has(Flag::Rmi) {
            2
        } else if inst.has(Flag::Rp) || inst.has(Flag::Rpi) {
            3
        } else {
            0
        };
        let whole = [Flag::Rni, Flag::Rzi, Flag::Rmi, Flag::Rpi].iter().any(|&f| inst.has(f));
        let x = rounding
            | has(Flag::Ftz, convert::FTZ)
            | has(Flag::Sat, convert::SAT)
            | has(Flag::Relu, convert::RELU)
            | has(Flag::Satfinite, convert::SATFINITE)
            | has(Flag::Rna, convert::AWAY);
        // Packed conversions.
        match (to, from) {
            (T::F16x2, T::F32) => return self.simple(inst, Convert::F32ToF16x2, to, &[from; 2], x),
            (T::Bf16x2, T::F32) => {
                return self.simple(inst, Convert::F32ToBf16x2, to, &[from; 2], x);
            }
            (T::E4m3x2, T::F32) => {
                return self.simple(inst, Convert::F32ToE4m3x2, to, &[from; 2], x);
            }
            (T::E5m2x2, T::F32) => {
                return self.simple(inst, Convert::F32ToE5m2x2, to, &[from; 2], x);
            }
            (T::E4m3x2, T::F16x2) => {
                return self.simple(inst, Convert::F16x2ToE4m3x2, to, &[from], x);
            }
            (T::E5m2x2, T::F16x2) => {
                return self.simple(inst, Convert::F16x2ToE5m2x2, to, &[from], x);
            }
            (T::F16x2, T::E4m3x2) => {
                return self.simple(inst, Convert::SmallToF16x2, to, &[from], x & convert::RELU);
            }
            (T::F16x2, T::E5m2x2) => {
                return self.simple(
                    inst,
                    Convert::SmallToF16x2,
                    to,
                    &[from],
                    x & convert::RELU | 1,
                );
            }
            (T::Tf32, T::F32) => return self.simple(inst, Convert::ToTf32, to, &[from], x),
            _ => {}
        }
        let a = self.cvt_source(inst, from)?;
        let d = self.cvt_dest(inst, to)?;
        match (to.is_float(), from.is_float()) {
            (false, false) => self.integer_to_integer(inst, (to, from), d, a),
            (true, false) => self.integer_to_float(inst, (to, from), d, a, x),
            (false, true) => self.float_to_integer(inst, (to, from), d, a, x),
            (true, true) => self.float_to_float(inst, (to, from), d, a, (x, whole)),
        }
    }

    /// A source that may be wider than its type: the low part counts. The slot is of the type's own class, and its value
    /// is the type's, zero-extended.
    pub(super) fn cvt_source(&mut self, inst: &Instruction, ty: T) -> Lowered<Slot> {
        let operand = self.operand(inst, 1)?;
        if let Operand::Reg(name) = operand {
            let reg = self.reg(inst, name)?;
            let narrow = match (reg.class, class_of(ty)) {
                (Class::W64, Class::W32) => {
                    let low = self.temp32()?;
                    self.lanes(Int64::Low32, low, &[reg.slot], 0)?;
                    low
                }
                _ => self.source(inst, operand, ty)?,
            };
            if ty.bits() < 32 && reg.ty.bits() > ty.bits() {
                let cut = self.temp32()?;
                self.lanes(
                    if ty.bits() == 8 { Int32::Zext8 } else { Int32::Low16 },
                    cut,
                    &[narrow],
                    0,
                )?;
                return Ok(cut);
            }
            return Ok(narrow);
        }
        self.source(inst, operand, ty)
    }

    /// A destination that may be wider than its type: slot, register width in bits.
    pub(super) fn cvt_dest(&mut self, inst: &Instruction, ty: T) -> Lowered<(Slot, u32)> {
        match self.operand(inst, 0)? {
            Operand::Reg(name) => {
                let reg = self.reg(inst, name)?;
                if reg.class == Class::Pred || reg.ty.bits() < ty.bits() {
                    return malformed(inst, "the destination is too narrow");
                }
                Ok((reg.slot, reg.ty.bits()))
            }
            operand => Ok((self.dest(inst, operand, class_of(ty))?, ty.bits())),
        }
    }

    /// Moves a result of type `ty` in a 32-bit slot, zero-extended from the type's width, to a destination of another
    /// width, extended as the type is signed.
    pub(super) fn widen(&mut self, ty: T, (d, bits): (Slot, u32), value: Slot) -> Lowered<()> {
        let signed = ty.is_signed();
        match (ty.bits(), bits, signed) {
            (8, 64, true) => self.lanes(Int64::Sext8, d, &[value], 0),
            (16, 64, true) => self.lanes(Int64::Sext16, d, &[value], 0),
            (32, 64, true) => self.lanes(Int64::Sext32, d, &[value], 0),
            (_, 64, false) => self.lanes(Int64::Zext32, d, &[value], 0),
            (8, 32, true) => self.lanes(Int32::Sext8, d, &[value], 0),
            (8, 16, true) => self.lanes(Int32::Sext8To16, d, &[value], 0),
            (16, 32, true) => self.lanes(Int32::Sext16, d, &[value], 0),
            _ if d == value => Ok(()),
            _ => self.lanes(Int32::Mov, d, &[value], 0),
        }
    }

    pub(super) fn integer_to_integer(
        &mut self,
        inst: &Instruction,
        (to, from): (T, T),
        (d, bits): (Slot, u32),
        a: Slot,
    ) -> Lowered<()> {
        if inst.has(Flag::Sat) {
            // Through 64 bits, clamped to the destination's range.
            let wide = if from.bits() == 64 {
                a
            } else {
                let wide = self.temp64()?;
                self.widen(from, (wide, 64), a)?;
                wide
            };
            let range = match to {
                T::U8 => convert::RANGE_U8,
                T::S8 => convert::RANGE_S8,
                T::U16 => convert::RANGE_U16,
                T::S16 => convert::RANGE_S16,
                T::U32 => convert::RANGE_U32,
                T::S32 => convert::RANGE_S32,
                T::U64 => convert::RANGE_U64,
                T::S64 => convert::RANGE_S64,
                _ => return unsupported(inst),
            };
            let row = if from.is_signed() { Convert::ClampS } else { Convert::ClampU };
            if bits == 64 {
                return self.lanes(row, d, &[wide], range);
            }
            let clamped = self.temp64()?;
            self.lanes(row, clamped, &[wide], range)?;
            let low = self.temp32()?;
            self.lanes(Int64::Low32, low, &[clamped], 0)?;
            let low = self.cut(to, low)?;
            return self.widen(to, (d, bits), low);
        }
        // First the value as the narrower of the two types sees it.
        if from.bits() == 64 && bits == 64 && to.bits() == 64 {
            return self.lanes(Int64::Mov, d, &[a], 0);
        }
        if from.bits() == 64 {
            let low = self.temp32()?;
            self.lanes(Int64::Low32, low, &[a], 0)?;
            let low = self.cut(to, low)?;
            return self.widen(to, (d, bits), low);
        }
        if to.bits() <= from.bits() {
            let cut = if to.bits() < from.bits() { self.cut(to, a)? } else { a };
            return self.widen(to, (d, bits), cut);
        }
        // Widening: extended as the source is signed, up to the destination type; a register wider than that is
        // extended as the destination is.
        if bits == to.bits() || from.is_signed() == to.is_signed() || !from.is_signed() {
            return self.widen(from, (d, bits), a);
        }
        let middle = self.temp32()?;
        self.widen(from, (middle, to.bits()), a)?;
        self.widen(to, (d, bits), middle)
    }

    /// The low bits of a 32-bit slot as a narrow type, zero-extended.
    pub(super) fn cut(&mut self, ty: T, value: Slot) -> Lowered<Slot> {
        let row = match ty.bits() {
            8 => Int32::Zext8,
            16 => Int32::Low16,
            _ => return Ok(value),
        };
        let out = self.temp32()?;
        self.lanes(row, out, &[value], 0)?;
        Ok(out)
    }

    pub(super) fn integer_to_float(
        &mut self,
        inst: &Instruction,
        (to, from): (T, T),
        (d, _): (Slot, u32),
        a: Slot,
        x: u8,
    ) -> Lowered<()> {
        let signed = from.is_signed();
        // Narrow integers widen first; what remains is 32 or 64 bits.
        let (value, wide) = match from.bits() {
            64 => (a, true),
            32 => (a, false),
            _ => {
                let v = self.temp32()?;
                self.widen(from, (v, 32), a)?;
                (v, false)
            }
        };
        if matches!(to, T::F16 | T::Bf16) {
            let v = if wide {
                value
            } else {
                let v = self.temp64()?;
                self.lanes(if signed { Int64::Sext32 } else { Int64::Zext32 }, v, &[value], 0)?;
                v
            };
            let row = match (to, signed) {
                (T::F16, true) => Convert::S64ToF16,
                (T::F16, false) => Convert::U64ToF16,
                (_, true) => Convert::S64ToBf16,
                (_, false) => Convert::U64ToBf16,
            };
            return self.lanes(row, d, &[v], x);
        }
        let row = match (to, wide, signed) {
            (T::F32, false, true) => Convert::S32ToF32,
            (T::F32, false, false) => Convert::U32ToF32,
            (T::F32, true, true) => Convert::S64ToF32,
            (T::F32, true, false) => Convert::U64ToF32,
            (T::F64, false, true) => Convert::S32ToF64,
            (T::F64, false, false) => Convert::U32ToF64,
            (T::F64, true, true) => Convert::S64ToF64,
            (T::F64, true, false) => Convert::U64ToF64,
            _ => return unsupported(inst),
        };
        self.lanes(row, d, &[value], x & !convert::SAT)?;
        if inst.has(Flag::Sat) {
            let row = if to == T::F32 { Convert::F32ToF32 } else { Convert::SatF64 };
            self.lanes(row, d, &[d], convert::SAT)?;
        }
        Ok(())
    }

    pub(super) fn float_to_integer(
        &mut self,
        inst: &Instruction,
        (to, from): (T, T),
        (d, bits): (Slot, u32),
        a: Slot,
        x: u8,
    ) -> Lowered<()> {
        let value = match from {
            T::F16 | T::Bf16 => {
                let v = self.temp32()?;
                self.lanes(
                    if from == T::F16 { Convert::F16ToF32 } else { Convert::Bf16ToF32 },
                    v,
                    &[a],
                    0,
                )?;
                v
            }
            _ => a,
        };
        let double = from == T::F64;
        let row = match (to, double) {
            (T::S64, false) => Convert::F32ToS64,
            (T::U64, false) => Convert::F32ToU64,
            (T::S64, true) => Convert::F64ToS64,
            (T::U64, true) => Convert::F64ToU64,
            (T::S32, false) => Convert::F32ToS32,
            (T::U32, false) => Convert::F32ToU32,
            (T::S32, true) => Convert::F64ToS32,
            (T::U32, true) => Convert::F64ToU32,
            (T::S16, false) => Convert::F32ToS16,
            (T::U16, false) => Convert::F32ToU16,
            (T::S16, true) => Convert::F64ToS16,
            (T::U16, true) => Convert::F64ToU16,
            (T::S8, false) => Convert::F32ToS8,
            (T::U8, false) => Convert::F32ToU8,
            _ => return unsupported(inst),
        };
        if to.bits() == 64 || bits == to.bits() && bits == 32 {
            return self.lanes(row, d, &[value], x);
        }
        let out = self.temp32()?;
        self.lanes(row, out, &[value], x)?;
        let out = self.cut(to, out)?;
        self.widen(to, (d, bits), out)
    }

    pub(super) fn float_to_float(
        &mut self,
        inst: &Instruction,
        (to, from): (T, T),
        (d, _): (Slot, u32),
        a: Slot,
        (x, whole): (u8, bool),
    ) -> Lowered<()> {
        let row = match (to, from) {
            (T::F32, T::F32) if whole => Convert::WholeF32,
            (T::F32, T::F32) => Convert::F32ToF32,
            (T::F64, T::F64) if whole => Convert::WholeF64,
            (T::F64, T::F64) if x & convert::SAT != 0 => Convert::SatF64,
            (T::F64, T::F64) => return self.lanes(Int64::Mov, d, &[a], 0),
            (T::F16, T::F16) if whole => Convert::WholeF16,
            (T::Bf16, T::Bf16) if whole => Convert::WholeBf16,
            (T::F16, T::F16) | (T::Bf16, T::Bf16) if x & convert::SAT == 0 => {
                return self.lanes(Int32::Mov, d, &[a], 0);
            }
            (T::F64, T::F32) if x & convert::SAT == 0 => Convert::F32ToF64,
            (T::F32, T::F64) => Convert::F64ToF32,
            (T::F32, T::F16) => Convert::F16ToF32,
            (T::F32, T::Bf16) => Convert::Bf16ToF32,
            (T::F16, T::F32) => Convert::F32ToF16,
            (T::Bf16, T::F32) => Convert::F32ToBf16,
            (T::F16, T::F64) => Convert::F64ToF16,
            (T::Bf16, T::F64) => Convert::F64ToBf16,
            (_, T::F16 | T::Bf16) => {
                // Through single precision, which holds every 16-bit float.
                let middle = self.temp32()?;
                let widen = if from == T::F16 { Convert::F16ToF32 } else { Convert::Bf16ToF32 };
                self.lanes(widen, middle, &[a], x & convert::SAT)?;
                let row = match to {
                    T::F64 => Convert::F32ToF64,
                    T::F16 => Convert::F32ToF16,
                    T::Bf16 => Convert::F32ToBf16,
                    _ => return unsupported(inst),
                };
                return self.lanes(row, d, &[middle], x & !convert::SAT);
            }
            _ => return unsupported(inst),
        };
        self.lanes(row, d, &[a], x)
    }

    /// `cvt.pack.sat`.
    pub(super) fn cvt_pack(&mut self, inst: &Instruction) -> Lowered<()> {
        let to = self.ty(inst)?;
        match to {
            T::U16 | T::S16 => {
                let range = if to == T::U16 { convert::RANGE_U16 } else { convert::RANGE_S16 };
                self.simple(inst, Convert::PackSat16, T::B32, &[T::S32; 2], range)
            }
            T::U8 | T::S8 => {
                let range = if to == T::U8 { convert::RANGE_U8 } else { convert::RANGE_S8 };
                self.simple(inst, Convert::PackSat8, T::B32, &[T::S32, T::S32, T::B32], range)
            }
            _ => unsupported(inst),
        }
    }

    /// An integer constant operand.
    pub(super) fn integer(&self, inst: &Instruction, operand: &Operand) -> Lowered<u64> {
        match literal(operand, T::U64) {
            Some(value) => Ok(value),
            None => malformed(inst, "an integer constant is wanted"),
        }
    }
}
