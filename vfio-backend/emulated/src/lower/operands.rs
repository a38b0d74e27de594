//! What the operands of an instruction are: slots, constants, addresses.

use turnstile_ptx::tree::{Instruction, Name, Operand, ScalarType, Special};

use super::builder::{Builder, Meaning, Reg, class_of, literal};
use super::{Lowered, malformed};
use crate::ir::{NONE, Op, RelocationTarget, Slot, Special as Register};
use crate::ops::Class;
use crate::ops::int32::Int32;
use crate::ops::int64::Int64;

impl Builder<'_> {
    /// A declared register.
    pub(super) fn reg(&self, inst: &Instruction, name: &Name) -> Lowered<Reg> {
        match self.registers.get(name) {
            Some(&reg) => Ok(reg),
            None => malformed(inst, &format!("no register `{name}`")),
        }
    }

    /// What a symbol means.
    pub(super) fn meaning(&self, inst: &Instruction, name: &Name) -> Lowered<Meaning> {
        if let Some(&meaning) = self.names.get(name) {
            return Ok(meaning);
        }
        if let Some(&offset) = self.symbols.device_shared.get(name) {
            return Ok(Meaning::Shared(offset));
        }
        if self.symbols.dynamic_shared.contains_key(name) {
            return Ok(Meaning::Dynamic);
        }
        if let Some(&index) = self.symbols.variables.get(name) {
            return Ok(Meaning::Variable(index));
        }
        if let Some(&index) = self.symbols.functions.get(name) {
            return Ok(Meaning::Function(index));
        }
        malformed(inst, &format!("`{name}` has no meaning here"))
    }

    /// The operand at `index`.
    pub(super) fn operand<'i>(&self, inst: &'i Instruction, index: usize) -> Lowered<&'i Operand> {
        match inst.operands.get(index) {
            Some(operand) => Ok(operand),
            None => malformed(inst, "an operand is missing"),
        }
    }

    /// A predicate register.
    pub(super) fn pred(&self, inst: &Instruction, operand: &Operand) -> Lowered<Slot> {
        match operand {
            Operand::Reg(name) => {
                let reg = self.reg(inst, name)?;
                if reg.class == Class::Pred {
                    Ok(reg.slot)
                } else {
                    malformed(inst, "a predicate is wanted")
                }
            }
            _ => malformed(inst, "a predicate is wanted"),
        }
    }

    /// A predicate operand that may be negated or constant: slot and whether negated.
    pub(super) fn condition(
        &mut self,
        inst: &Instruction,
        operand: &Operand,
    ) -> Lowered<(Slot, bool)> {
        match operand {
            Operand::NotReg(name) => Ok((self.pred(inst, &Operand::Reg(name.clone()))?, true)),
            Operand::Int(value) => {
                let d = self.temp_pred()?;
                let table = if *value != 0 { 15 } else { 0 };
                self.emit(Op::Logic { table, d, a: d, b: d })?;
                Ok((d, false))
            }
            _ => Ok((self.pred(inst, operand)?, false)),
        }
    }

    /// A register of a class, or a component of a vector register.
    pub(super) fn register_of(
        &self,
        inst: &Instruction,
        operand: &Operand,
        class: Class,
    ) -> Lowered<Option<Slot>> {
        let (name, component) = match operand {
            Operand::Reg(name) => (name, 0),
            Operand::Component(name, i) => (name, u32::from(*i)),
            _ => return Ok(None),
        };
        let reg = self.reg(inst, name)?;
        if component >= reg.vector {
            return malformed(inst, "the register has no such component");
        }
        if reg.class != class {
            return malformed(inst, &format!("register `{name}` has the wrong size"));
        }
        Ok(Some(reg.slot + component as Slot))
    }

    /// A destination; [`NONE`] for `_`.
    pub(super) fn dest(
        &self,
        inst: &Instruction,
        operand: &Operand,
        class: Class,
    ) -> Lowered<Slot> {
        if *operand == Operand::Sink {
            return Ok(NONE);
        }
        match self.register_of(inst, operand, class)? {
            Some(slot) => Ok(slot),
            None => malformed(inst, "a register is wanted"),
        }
    }

    /// A source of a class. Constants are read as `ty`.
    pub(super) fn source(
        &mut self,
        inst: &Instruction,
        operand: &Operand,
        ty: ScalarType,
    ) -> Lowered<Slot> {
        let class = class_of(ty);
        if let Some(slot) = self.register_of(inst, operand, class)? {
            return Ok(slot);
        }
        if let Operand::Special(special) = operand {
            let wide = special.scalar_type().bits() == 64;
            let slot = if wide { self.temp64()? } else { self.temp32()? };
            self.special(inst, *special, slot)?;
            return match (wide, class) {
                (true, Class::W64) | (false, Class::W32) => Ok(slot),
                (false, Class::W64) => {
                    let d = self.temp64()?;
                    self.lanes(Int64::Zext32, d, &[slot], 0)?;
                    Ok(d)
                }
                _ => malformed(inst, "the special register has the wrong size"),
            };
        }
        if let Operand::Symbol(name, offset) = operand {
            let address = self.symbol_address(inst, name, *offset)?;
            return match class {
                Class::W64 => Ok(address),
                Class::W32 => {
                    let d = self.temp32()?;
                    self.lanes(Int64::Low32, d, &[address], 0)?;
                    Ok(d)
                }
                Class::Pred => malformed(inst, "a predicate is wanted"),
            };
        }
        let Some(bits) = literal(operand, ty) else {
            return malformed(inst, "a register or constant is wanted");
        };
        match class {
            Class::W32 => self.constant32(bits as u32),
            Class::W64 => self.constant64(bits),
            Class::Pred => malformed(inst, "a predicate is wanted"),
        }
    }

    /// The address of a symbol in its own space, in a 64-bit slot.
    pub(super) fn symbol_address(
        &mut self,
        inst: &Instruction,
        name: &Name,
        offset: i64,
    ) -> Lowered<Slot> {
        match self.meaning(inst, name)? {
            Meaning::Frame(object) => {
                let d = self.temp64()?;
                self.emit(Op::FrameAddress { d, offset: object.offset })?;
                self.add_constant(d, offset)
            }
            Meaning::KernelParam(at, _) => {
                self.constant64(u64::from(at).wrapping_add_signed(offset))
            }
            Meaning::Shared(at) => self.constant64(u64::from(at).wrapping_add_signed(offset)),
            Meaning::Dynamic => {
                let base = self.temp32()?;
                self.emit(Op::Special { which: Register::DynamicSharedBase, d: base })?;
                let d = self.temp64()?;
                self.lanes(Int64::Zext32, d, &[base], 0)?;
                self.add_constant(d, offset)
            }
            Meaning::Variable(index) => {
                self.address_constant(RelocationTarget::Variable(index), offset)
            }
            Meaning::Function(index) => {
                self.address_constant(RelocationTarget::Function(index), offset)
            }
        }
    }

    pub(super) fn add_constant(&mut self, d: Slot, offset: i64) -> Lowered<Slot> {
        if offset != 0 {
            let c = self.constant64(offset as u64)?;
            self.lanes(Int64::Add, d, &[d, c], 0)?;
        }
        Ok(d)
    }

    /// Reads a special register into a slot of its size.
    pub(super) fn special(&mut self, inst: &Instruction, special: Special, d: Slot) -> Lowered<()> {
        use Special as S;
        let which = match special {
            S::TidX => Register::Tid(0),
            S::TidY => Register::Tid(1),
            S::TidZ => Register::Tid(2),
            S::NtidX => Register::Ntid(0),
            S::NtidY => Register::Ntid(1),
            S::NtidZ => Register::Ntid(2),
            // Without clusters each block is a cluster of its own.
            S::CtaidX | S::ClusteridX => Register::Ctaid(0),
            S::CtaidY | S::ClusteridY => Register::Ctaid(1),
            S::CtaidZ | S::ClusteridZ => Register::Ctaid(2),
            S::NctaidX | S::NclusteridX => Register::Nctaid(0),
            S::NctaidY | S::NclusteridY => Register::Nctaid(1),
            S::NctaidZ | S::NclusteridZ => Register::Nctaid(2),
            S::ClusterCtaidX | S::ClusterCtaidY | S::ClusterCtaidZ | S::ClusterCtarank => {
                let zero = self.constant32(0)?;
                return self.lanes(Int32::Mov, d, &[zero], 0);
            }
            S::ClusterNctaidX | S::ClusterNctaidY | S::ClusterNctaidZ | S::ClusterNctarank => {
                let one = self.constant32(1)?;
                return self.lanes(Int32::Mov, d, &[one], 0);
            }
            S::IsExplicitCluster => return self.emit(Op::Logic { table: 0, d, a: d, b: d }),
            S::Laneid => Register::Laneid,
            S::Warpid => Register::Warpid,
            S::Nwarpid => Register::Nwarpid,
            S::Smid => Register::Smid,
            S::Nsmid => Register::Nsmid,
            S::Gridid => Register::Gridid,
            S::LanemaskEq => Register::LanemaskEq,
            S::LanemaskLe => Register::LanemaskLe,
            S::LanemaskLt => Register::LanemaskLt,
            S::LanemaskGe => Register::LanemaskGe,
            S::LanemaskGt => Register::LanemaskGt,
            S::Clock => Register::Clock,
            S::ClockHi => Register::ClockHi,
            S::Clock64 => Register::Clock64,
            S::Globaltimer => Register::Globaltimer,
            S::GlobaltimerLo => Register::GlobaltimerLo,
            S::GlobaltimerHi => Register::GlobaltimerHi,
            S::TotalSmemSize | S::AggrSmemSize => Register::TotalSharedSize,
            S::DynamicSmemSize => Register::DynamicSharedSize,
            S::Envreg1 => Register::Env(1),
            S::Envreg2 => Register::Env(2),
        };
        let _ = inst;
        self.emit(Op::Special { which, d })
    }
}
