//! Moves, conversions, comparisons and selections. Source: PTX ISA 9.0, sections 9.7.6, 9.7.7 and 9.7.9.

use turnstile_ptx::tree::{Flag, Instruction, Operand, ScalarType as T, Space as PtxSpace};

use super::builder::{Builder, class_of, literal};
use super::{Lowered, malformed, unsupported};
use crate::fault::Space;
use crate::ir::{Combine, NONE, Op, Slot, window};
use crate::ops::Class;
use crate::ops::compare::{self, Compare};
use crate::ops::convert::{self, Convert};
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
    fn pack(&mut self, inst: &Instruction, to: &Operand, parts: &[Operand], ty: T) -> Lowered<()> {
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
    fn unpack(
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

    /// The comparison operator among the flags, as the code of [`compare`].
    fn comparison(inst: &Instruction) -> Option<(u8, bool)> {
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
    fn comparison_row(&self, inst: &Instruction, ty: T) -> Lowered<(Compare, u8)> {
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
    fn combination(&mut self, inst: &Instruction, index: usize) -> Lowered<(Combine, Slot, bool)> {
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
    fn cvt_source(&mut self, inst: &Instruction, ty: T) -> Lowered<Slot> {
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
    fn cvt_dest(&mut self, inst: &Instruction, ty: T) -> Lowered<(Slot, u32)> {
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
    fn widen(&mut self, ty: T, (d, bits): (Slot, u32), value: Slot) -> Lowered<()> {
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

    fn integer_to_integer(
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
    fn cut(&mut self, ty: T, value: Slot) -> Lowered<Slot> {
        let row = match ty.bits() {
            8 => Int32::Zext8,
            16 => Int32::Low16,
            _ => return Ok(value),
        };
        let out = self.temp32()?;
        self.lanes(row, out, &[value], 0)?;
        Ok(out)
    }

    fn integer_to_float(
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

    fn float_to_integer(
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

    fn float_to_float(
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
    fn cvt_pack(&mut self, inst: &Instruction) -> Lowered<()> {
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
