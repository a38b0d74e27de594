//! Floating-point instructions of every width. Source: PTX ISA 9.0, sections 9.7.3 to 9.7.5.

use turnstile_ptx::tree::{Flag, Instruction, Op as Opcode, ScalarType as T};

use super::builder::Builder;
use super::{Lowered, unsupported};
use crate::ops::float32::{self, Float32};
use crate::ops::float64::Float64;
use crate::ops::half::{self, Half};

impl Builder<'_> {
    /// Rounding in bits 0 and 1.
    fn rounding(inst: &Instruction) -> u8 {
        if inst.has(Flag::Rz) {
            1
        } else if inst.has(Flag::Rm) {
            2
        } else if inst.has(Flag::Rp) {
            3
        } else {
            0
        }
    }

    /// Rounding, flushing and saturation of single precision.
    fn mode32(inst: &Instruction) -> u8 {
        Self::rounding(inst)
            | if inst.has(Flag::Ftz) { float32::FTZ } else { 0 }
            | if inst.has(Flag::Sat) { float32::SAT } else { 0 }
    }

    /// add, sub, mul, fma, mad, div, min, max, abs, neg on floats.
    pub(super) fn floating(&mut self, inst: &Instruction, op: Opcode, ty: T) -> Lowered<()> {
        if inst.types().count() > 1 {
            return unsupported(inst);
        }
        match ty {
            T::F32 => self.single(inst, op),
            T::F64 => self.double(inst, op),
            T::F16 | T::F16x2 | T::Bf16 | T::Bf16x2 => self.half(inst, op, ty),
            _ => unsupported(inst),
        }
    }

    fn single(&mut self, inst: &Instruction, op: Opcode) -> Lowered<()> {
        use Opcode as O;
        let ty = T::F32;
        let x = Self::mode32(inst);
        match op {
            O::Min | O::Max => {
                self.only(inst, &[Flag::Ftz, Flag::Nan, Flag::Xorsign, Flag::Abs])?;
                let x = x
                    | if inst.has(Flag::Nan) { float32::NAN } else { 0 }
                    | if inst.has(Flag::Xorsign) { float32::XORSIGN } else { 0 };
                self.simple(
                    inst,
                    if op == O::Min { Float32::Min } else { Float32::Max },
                    ty,
                    &[ty, ty],
                    x,
                )
            }
            O::Abs | O::Neg => {
                self.only(inst, &[Flag::Ftz])?;
                self.simple(
                    inst,
                    if op == O::Abs { Float32::Abs } else { Float32::Neg },
                    ty,
                    &[ty],
                    x,
                )
            }
            O::Div => {
                self.only(
                    inst,
                    &[Flag::Rn, Flag::Rz, Flag::Rm, Flag::Rp, Flag::Ftz, Flag::Approx, Flag::Full],
                )?;
                self.simple(
                    inst,
                    if x == 0 { Float32::Div } else { Float32::DivX },
                    ty,
                    &[ty, ty],
                    x,
                )
            }
            _ => {
                self.only(inst, &[Flag::Rn, Flag::Rz, Flag::Rm, Flag::Rp, Flag::Ftz, Flag::Sat])?;
                let (plain, moded, sources) = match op {
                    O::Add => (Float32::Add, Float32::AddX, 2),
                    O::Sub => (Float32::Sub, Float32::SubX, 2),
                    O::Mul => (Float32::Mul, Float32::MulX, 2),
                    O::Fma | O::Mad => (Float32::Fma, Float32::FmaX, 3),
                    _ => return unsupported(inst),
                };
                self.simple(inst, if x == 0 { plain } else { moded }, ty, &[ty; 3][..sources], x)
            }
        }
    }

    fn double(&mut self, inst: &Instruction, op: Opcode) -> Lowered<()> {
        use Opcode as O;
        let ty = T::F64;
        self.only(inst, &[Flag::Rn, Flag::Rz, Flag::Rm, Flag::Rp])?;
        let x = Self::rounding(inst);
        let (plain, moded, sources) = match op {
            O::Add => (Float64::Add, Float64::AddX, 2),
            O::Sub => (Float64::Sub, Float64::SubX, 2),
            O::Mul => (Float64::Mul, Float64::MulX, 2),
            O::Fma | O::Mad => (Float64::Fma, Float64::FmaX, 3),
            O::Div => (Float64::Div, Float64::DivX, 2),
            O::Min => (Float64::Min, Float64::Min, 2),
            O::Max => (Float64::Max, Float64::Max, 2),
            O::Abs => (Float64::Abs, Float64::Abs, 1),
            O::Neg => (Float64::Neg, Float64::Neg, 1),
            _ => return unsupported(inst),
        };
        self.simple(inst, if x == 0 { plain } else { moded }, ty, &[ty; 3][..sources], x)
    }

    /// The mode of 16-bit floats.
    fn mode16(inst: &Instruction, ty: T) -> u8 {
        let bf16 = matches!(ty, T::Bf16 | T::Bf16x2);
        (if bf16 { half::BF16 } else { 0 })
            | if inst.has(Flag::Ftz) { half::FTZ } else { 0 }
            | if inst.has(Flag::Sat) { half::SAT } else { 0 }
            | if inst.has(Flag::Relu) { half::RELU } else { 0 }
            | if inst.has(Flag::Nan) { half::NAN } else { 0 }
            | if inst.has(Flag::Xorsign) { half::XORSIGN } else { 0 }
    }

    fn half(&mut self, inst: &Instruction, op: Opcode, ty: T) -> Lowered<()> {
        use Opcode as O;
        let packed = matches!(ty, T::F16x2 | T::Bf16x2);
        match op {
            O::Min | O::Max => {
                self.only(inst, &[Flag::Ftz, Flag::Nan, Flag::Xorsign, Flag::Abs])?;
            }
            _ => self.only(inst, &[Flag::Rn, Flag::Ftz, Flag::Sat, Flag::Relu])?,
        }
        let x = Self::mode16(inst, ty);
        let (row, sources) = match (op, packed) {
            (O::Add, false) => (Half::Add, 2),
            (O::Add, true) => (Half::Add2, 2),
            (O::Sub, false) => (Half::Sub, 2),
            (O::Sub, true) => (Half::Sub2, 2),
            (O::Mul, false) => (Half::Mul, 2),
            (O::Mul, true) => (Half::Mul2, 2),
            (O::Fma, false) => (Half::Fma, 3),
            (O::Fma, true) => (Half::Fma2, 3),
            (O::Min, false) => (Half::Min, 2),
            (O::Min, true) => (Half::Min2, 2),
            (O::Max, false) => (Half::Max, 2),
            (O::Max, true) => (Half::Max2, 2),
            (O::Abs, false) => (Half::Abs, 1),
            (O::Abs, true) => (Half::Abs2, 1),
            (O::Neg, false) => (Half::Neg, 1),
            (O::Neg, true) => (Half::Neg2, 1),
            _ => return unsupported(inst),
        };
        self.simple(inst, row, ty, &[ty; 3][..sources], x)
    }

    /// rcp, sqrt, rsqrt, sin, cos, lg2, ex2, tanh, copysign.
    pub(super) fn function_of(&mut self, inst: &Instruction, op: Opcode) -> Lowered<()> {
        use Opcode as O;
        self.only(inst, &[Flag::Rn, Flag::Rz, Flag::Rm, Flag::Rp, Flag::Ftz, Flag::Approx])?;
        let ty = self.ty(inst)?;
        let x = Self::mode32(inst);
        match (op, ty) {
            (O::Copysign, T::F32) => self.simple(inst, Float32::CopySign, ty, &[ty, ty], 0),
            (O::Copysign, T::F64) => self.simple(inst, Float64::CopySign, ty, &[ty, ty], 0),
            (O::Rcp, T::F32) => {
                self.simple(inst, if x == 0 { Float32::Rcp } else { Float32::RcpX }, ty, &[ty], x)
            }
            (O::Sqrt, T::F32) => {
                self.simple(inst, if x == 0 { Float32::Sqrt } else { Float32::SqrtX }, ty, &[ty], x)
            }
            (O::Rsqrt, T::F32) => self.simple(inst, Float32::Rsqrt, ty, &[ty], x),
            (O::Sin, T::F32) => self.simple(inst, Float32::Sin, ty, &[ty], x),
            (O::Cos, T::F32) => self.simple(inst, Float32::Cos, ty, &[ty], x),
            (O::Lg2, T::F32) => self.simple(inst, Float32::Lg2, ty, &[ty], x),
            (O::Ex2, T::F32) => self.simple(inst, Float32::Ex2, ty, &[ty], x),
            (O::Tanh, T::F32) => self.simple(inst, Float32::Tanh, ty, &[ty], x),
            (O::Rcp, T::F64) if inst.has(Flag::Approx) => {
                self.simple(inst, Float64::RcpApprox, ty, &[ty], 0)
            }
            (O::Rcp, T::F64) => self.simple(
                inst,
                if x & 3 == 0 { Float64::Rcp } else { Float64::RcpX },
                ty,
                &[ty],
                x,
            ),
            (O::Sqrt, T::F64) => self.simple(
                inst,
                if x & 3 == 0 { Float64::Sqrt } else { Float64::SqrtX },
                ty,
                &[ty],
                x,
            ),
            (O::Rsqrt, T::F64) => self.simple(inst, Float64::Rsqrt, ty, &[ty], 0),
            (O::Ex2, T::F16 | T::Bf16) => {
                self.simple(inst, Half::Ex2, ty, &[ty], Self::mode16(inst, ty))
            }
            (O::Ex2, T::F16x2 | T::Bf16x2) => {
                self.simple(inst, Half::Ex2x2, ty, &[ty], Self::mode16(inst, ty))
            }
            (O::Tanh, T::F16 | T::Bf16) => {
                self.simple(inst, Half::Tanh, ty, &[ty], Self::mode16(inst, ty))
            }
            (O::Tanh, T::F16x2 | T::Bf16x2) => {
                self.simple(inst, Half::Tanhx2, ty, &[ty], Self::mode16(inst, ty))
            }
            _ => unsupported(inst),
        }
    }
}
