//! Moves, packing and unpacking, and conversions between address spaces. Source: PTX ISA 9.0, section 9.7.9.

use turnstile_ptx::tree::{Flag, Instruction, Operand, ScalarType as T, Space as PtxSpace};

use super::builder::{Builder, class_of};
use super::{Lowered, malformed, unsupported};
use crate::fault::Space;
use crate::ir::{NONE, Op, Slot, window};
use crate::ops::Class;
use crate::ops::int32::Int32;
use crate::ops::int64::Int64;

impl Builder<'_> {
    /// `mov`, packing and unpacking included.
    pub(super) fn mov(&mut self, inst: &Instruction) -> Lowered<()> {
        let ty = self.ty(inst)?;
        let (to, from) = (self.operand(inst, 0)?, self.operand(inst, 1)?);
        match (to, from) {
            (Operand::Vector(parts), _) => return self.unpack(inst, parts, from, ty),
            (_, Operand::Vector(parts)) => return self.pack(inst, to, parts, ty),
            _ => {}
        }
        if ty == T::B128 {
            let (d, a) = (self.wide128(inst, to)?, self.wide128(inst, from)?);
            self.lanes(Int64::Mov, d, &[a], 0)?;
            return self.lanes(Int64::Mov, d + 1, &[a + 1], 0);
        }
        let d = self.dest(inst, to, class_of(ty))?;
        if d == NONE {
            return Ok(());
        }
        match (class_of(ty), from) {
            (Class::Pred, _) => {
                let (a, negate) = self.condition(inst, from)?;
                self.emit(Op::Logic { table: if negate { 0b0001 } else { 0b1000 }, d, a, b: a })
            }
            (Class::W32, Operand::Special(s)) if s.scalar_type().bits() == 32 => {
                self.special(inst, *s, d)
            }
            (Class::W64, Operand::Special(s)) if s.scalar_type().bits() == 64 => {
                self.special(inst, *s, d)
            }
            (Class::W32, _) => {
                let a = self.source(inst, from, ty)?;
                self.lanes(Int32::Mov, d, &[a], 0)
            }
            (Class::W64, _) => {
                let a = self.source(inst, from, ty)?;
                self.lanes(Int64::Mov, d, &[a], 0)
            }
        }
    }

    /// The first of the two slots of a 128-bit register.
    pub(super) fn wide128(&self, inst: &Instruction, operand: &Operand) -> Lowered<Slot> {
        match operand {
            Operand::Reg(name) => {
                let reg = self.reg(inst, name)?;
                if reg.ty == T::B128 {
                    Ok(reg.slot)
                } else {
                    malformed(inst, "a 128-bit register is wanted")
                }
            }
            _ => malformed(inst, "a 128-bit register is wanted"),
        }
    }

    /// `mov.bN d, {a, b, …}`.
    pub(super) fn pack(
        &mut self,
        inst: &Instruction,
        to: &Operand,
        parts: &[Operand],
        ty: T,
    ) -> Lowered<()> {
        match (ty.bits(), parts) {
            (16, [a, b]) => {
                let (a, b) = (self.source(inst, a, T::B8)?, self.source(inst, b, T::B8)?);
                let d = self.dest(inst, to, Class::W32)?;
                let packed = self.temp32()?;
                self.lanes(Int32::Pair8, packed, &[a, b], 0)?;
                self.lanes(Int32::Mov, d, &[packed], 0)
            }
            (32, [a, b]) => {
                let (a, b) = (self.source(inst, a, T::B16)?, self.source(inst, b, T::B16)?);
                let d = self.dest(inst, to, Class::W32)?;
                self.lanes(Int32::Pack16, d, &[a, b], 0)
            }
            (32, [a, b, c, e]) => {
                let mut pair = |low, high| -> Lowered<Slot> {
                    let (low, high) =
                        (self.source(inst, low, T::B8)?, self.source(inst, high, T::B8)?);
                    let d = self.temp32()?;
                    self.lanes(Int32::Pair8, d, &[low, high], 0)?;
                    Ok(d)
                };
                let (low, high) = (pair(a, b)?, pair(c, e)?);
                let d = self.dest(inst, to, Class::W32)?;
                self.lanes(Int32::Pack16, d, &[low, high], 0)
            }
            (64, [a, b]) => {
                let (a, b) = (self.source(inst, a, T::B32)?, self.source(inst, b, T::B32)?);
                let d = self.dest(inst, to, Class::W64)?;
                self.lanes(Int64::Pack32, d, &[a, b], 0)
            }
            (64, [a, b, c, e]) => {
                let mut pair = |low, high| -> Lowered<Slot> {
                    let (low, high) =
                        (self.source(inst, low, T::B16)?, self.source(inst, high, T::B16)?);
                    let d = self.temp32()?;
                    self.lanes(Int32::Pack16, d, &[low, high], 0)?;
                    Ok(d)
                };
                let (low, high) = (pair(a, b)?, pair(c, e)?);
                let d = self.dest(inst, to, Class::W64)?;
                self.lanes(Int64::Pack32, d, &[low, high], 0)
            }
            (128, [a, b]) => {
                let (a, b) = (self.source(inst, a, T::B64)?, self.source(inst, b, T::B64)?);
                let d = self.wide128(inst, to)?;
                // Either source may be one of the halves written.
                let low = self.temp64()?;
                self.lanes(Int64::Mov, low, &[a], 0)?;
                self.lanes(Int64::Mov, d + 1, &[b], 0)?;
                self.lanes(Int64::Mov, d, &[low], 0)
            }
            _ => unsupported(inst),
        }
    }

    /// `mov.bN {a, b, …}, s`.
    pub(super) fn unpack(
        &mut self,
        inst: &Instruction,
        parts: &[Operand],
        from: &Operand,
        ty: T,
    ) -> Lowered<()> {
        if ty == T::B128 {
            let s = self.wide128(inst, from)?;
            for (i, part) in parts.iter().enumerate().take(2) {
                let d = self.dest(inst, part, Class::W64)?;
                if d != NONE {
                    self.lanes(Int64::Mov, d, &[s + i as Slot], 0)?;
                }
            }
            return Ok(());
        }
        let each = ty.bits() / (parts.len() as u32).max(1);
        let mut source = self.source(inst, from, ty)?;
        // The source may be among the parts: read it once into a slot of its own.
        if parts.iter().any(|p| p == from) {
            let copy = self.fresh(class_of(ty), 1)?;
            match class_of(ty) {
                Class::W64 => self.lanes(Int64::Mov, copy, &[source], 0)?,
                _ => self.lanes(Int32::Mov, copy, &[source], 0)?,
            }
            source = copy;
        }
        for (i, part) in parts.iter().enumerate() {
            if *part == Operand::Sink {
                continue;
            }
            let d = self.dest(inst, part, Class::W32)?;
            match (ty.bits(), each) {
                (64, 32) => {
                    self.lanes(if i == 0 { Int64::Low32 } else { Int64::High32 }, d, &[source], 0)?
                }
                (64, 16) => {
                    let word = self.temp32()?;
                    self.lanes(
                        if i < 2 { Int64::Low32 } else { Int64::High32 },
                        word,
                        &[source],
                        0,
                    )?;
                    self.lanes(
                        if i % 2 == 0 { Int32::Low16 } else { Int32::High16 },
                        d,
                        &[word],
                        0,
                    )?;
                }
                (64, 8) => {
                    let word = self.temp32()?;
                    self.lanes(
                        if i < 4 { Int64::Low32 } else { Int64::High32 },
                        word,
                        &[source],
                        0,
                    )?;
                    self.lanes(Int32::Byte, d, &[word], i as u8 & 3)?;
                }
                (32, 16) => {
                    self.lanes(if i == 0 { Int32::Low16 } else { Int32::High16 }, d, &[source], 0)?
                }
                (32 | 16, 8) => self.lanes(Int32::Byte, d, &[source], i as u8 & 3)?,
                _ => return unsupported(inst),
            }
        }
        Ok(())
    }

    /// `cvta`.
    pub(super) fn cvta(&mut self, inst: &Instruction) -> Lowered<()> {
        if self.ty(inst)?.bits() != 64 {
            return unsupported(inst);
        }
        let base = match inst.space() {
            Some(s) if s.is_shared() => window::SHARED,
            Some(PtxSpace::Local) => window::LOCAL,
            // A device function's parameters live in its frame.
            Some(s) if s.is_param() => {
                if self.is_kernel {
                    window::PARAM
                } else {
                    window::LOCAL
                }
            }
            _ => 0,
        };
        let a = self.source(inst, self.operand(inst, 1)?, T::U64)?;
        let d = self.dest(inst, self.operand(inst, 0)?, Class::W64)?;
        if base == 0 {
            return self.lanes(Int64::Mov, d, &[a], 0);
        }
        let base = self.constant64(base)?;
        self.lanes(if inst.has(Flag::To) { Int64::Sub } else { Int64::Add }, d, &[a, base], 0)
    }

    /// `isspacep`.
    pub(super) fn isspacep(&mut self, inst: &Instruction) -> Lowered<()> {
        let space = match inst.space() {
            Some(s) if s.is_shared() => Space::Shared,
            Some(PtxSpace::Local) => Space::Local,
            Some(PtxSpace::Global) => Space::Global,
            Some(PtxSpace::Const) => Space::Const,
            Some(s) if s.is_param() => Space::Param,
            _ => return unsupported(inst),
        };
        let d = self.pred(inst, self.operand(inst, 0)?)?;
        let a = self.source(inst, self.operand(inst, 1)?, T::U64)?;
        self.emit(Op::IsSpace { space, d, a })
    }

    /// `mapa` and `getctarank`: a block is a cluster of its own, whose only rank is 0.
    pub(super) fn cluster_address(&mut self, inst: &Instruction, map: bool) -> Lowered<()> {
        let ty = self.ty(inst)?;
        if !map {
            let d = self.dest(inst, self.operand(inst, 0)?, Class::W32)?;
            let zero = self.constant32(0)?;
            return self.lanes(Int32::Mov, d, &[zero], 0);
        }
        let a = self.source(inst, self.operand(inst, 1)?, ty)?;
        let d = self.dest(inst, self.operand(inst, 0)?, class_of(ty))?;
        match class_of(ty) {
            Class::W64 => self.lanes(Int64::Mov, d, &[a], 0),
            _ => self.lanes(Int32::Mov, d, &[a], 0),
        }
    }
}
