//! Loads, stores, atomics and asynchronous copies. Source: PTX ISA 9.0, sections 9.7.9 and 9.7.13.

use turnstile_ptx::tree::{
    Address, Base, Flag, Instruction, Mod, Operand, ScalarType as T, Space as PtxSpace,
};

use super::builder::{Builder, Meaning, class_of};
use super::{Lowered, malformed, unsupported};
use crate::fault::Space;
use crate::ir::{
    Atomic, AtomicOp, BulkCopy, Mbarrier, Memory, NONE, Op, RelocationTarget, Slot, Target,
    Transfer, Value,
};
use crate::ops::Class;
use crate::ops::int64::Int64;

impl Builder<'_> {
    /// The space that an instruction without further qualification accesses.
    fn target(&self, inst: &Instruction) -> Lowered<Target> {
        self.target_of(inst, inst.space())
    }

    pub(super) fn target_of(&self, inst: &Instruction, space: Option<PtxSpace>) -> Lowered<Target> {
        Ok(match space {
            None => Target::Generic,
            Some(PtxSpace::Global) => Target::Space(Space::Global),
            Some(PtxSpace::Const) => Target::Space(Space::Const),
            Some(PtxSpace::Local) => Target::Space(Space::Local),
            Some(s) if s.is_shared() => Target::Space(Space::Shared),
            // A device function's parameters live in its frame.
            Some(s) if s.is_param() && self.is_kernel => Target::Space(Space::Param),
            Some(s) if s.is_param() => Target::Space(Space::Local),
            Some(_) => return unsupported(inst),
        })
    }

    /// A memory operand in a space. `bytes` is what the access touches.
    pub(super) fn memory(
        &mut self,
        inst: &Instruction,
        at: &Address,
        target: Target,
        bytes: u32,
    ) -> Lowered<Memory> {
        if !at.rest.is_empty() {
            return unsupported(inst);
        }
        match &at.base {
            Base::Reg(name) => {
                let reg = self.reg(inst, name)?;
                let wide = match reg.class {
                    Class::W64 => true,
                    Class::W32 if reg.ty.bits() == 32 => false,
                    _ => return malformed(inst, "the address register has the wrong size"),
                };
                let mut base = reg.slot;
                let offset = match i32::try_from(at.offset) {
                    Ok(offset) => offset,
                    Err(_) if wide => {
                        let (sum, c) = (self.temp64()?, self.constant64(at.offset as u64)?);
                        self.lanes(Int64::Add, sum, &[base, c], 0)?;
                        base = sum;
                        0
                    }
                    Err(_) => return malformed(inst, "the address offset does not fit 32 bits"),
                };
                Ok(Memory { target, base, wide, offset })
            }
            Base::Absolute => {
                let base = self.constant64(at.offset as u64)?;
                Ok(Memory { target, base, wide: true, offset: 0 })
            }
            Base::Symbol(name) => match self.meaning(inst, name)? {
                Meaning::Frame(object) => {
                    let end = at.offset.checked_add(i64::from(bytes));
                    let inside =
                        at.offset >= 0 && end.is_some_and(|e| e <= i64::from(object.bytes));
                    let aligned = (i64::from(object.align.max(4)) + at.offset)
                        % i64::from(bytes.clamp(1, 4))
                        == 0;
                    if matches!(target, Target::Space(Space::Local | Space::Param))
                        && inside
                        && aligned
                    {
                        let offset = object.offset as i32 + at.offset as i32;
                        return Ok(Memory {
                            target: Target::Frame,
                            base: NONE,
                            wide: true,
                            offset,
                        });
                    }
                    if matches!(target, Target::Space(Space::Param)) {
                        return malformed(inst, "the access leaves the parameter");
                    }
                    let base = self.symbol_address(inst, name, at.offset)?;
                    self.windowed(target, base, crate::ir::window::LOCAL)
                }
                Meaning::Shared(_) | Meaning::Dynamic => {
                    let base = self.symbol_address(inst, name, at.offset)?;
                    self.windowed(target, base, crate::ir::window::SHARED)
                }
                Meaning::KernelParam(..) => {
                    let base = self.symbol_address(inst, name, at.offset)?;
                    self.windowed(target, base, crate::ir::window::PARAM)
                }
                Meaning::Variable(index) => {
                    let base =
                        self.address_constant(RelocationTarget::Variable(index), at.offset)?;
                    Ok(Memory { target, base, wide: true, offset: 0 })
                }
                Meaning::Function(_) => malformed(inst, "a function is no memory"),
            },
        }
    }

    /// An address inside a space, as a generic access needs it when the instruction names no space.
    fn windowed(&mut self, target: Target, base: Slot, window: u64) -> Lowered<Memory> {
        if target != Target::Generic {
            return Ok(Memory { target, base, wide: true, offset: 0 });
        }
        let (sum, c) = (self.temp64()?, self.constant64(window)?);
        self.lanes(Int64::Add, sum, &[base, c], 0)?;
        Ok(Memory { target, base: sum, wide: true, offset: 0 })
    }

    /// The memory operand among the operands.
    pub(super) fn address<'i>(&self, inst: &'i Instruction, index: usize) -> Lowered<&'i Address> {
        match inst.operands.get(index).and_then(Operand::as_address) {
            Some(address) => Ok(address),
            None => malformed(inst, "a memory operand is wanted"),
        }
    }

    /// Whether another thread may be what a loop around this access waits for.
    fn polls(inst: &Instruction) -> bool {
        [Flag::Volatile, Flag::Relaxed, Flag::Acquire, Flag::Mmio].iter().any(|&f| inst.has(f))
    }

    /// The register slots of a transfer of type `ty`, in units of at most 64 bits: slots, unit bytes, value.
    fn transfer_slots(
        &mut self,
        inst: &Instruction,
        operand: &Operand,
        ty: T,
        load: bool,
    ) -> Lowered<([Slot; 4], u8, u8, Value)> {
        let count = inst.vector();
        let elements: Vec<Operand> = match operand {
            Operand::Vector(parts) => parts.clone(),
            Operand::Reg(name) if count > 1 && self.reg(inst, name)?.vector == count => {
                (0..count as u8).map(|i| Operand::Component(name.clone(), i)).collect()
            }
            other => vec![other.clone()],
        };
        if elements.len() != count as usize || count > 4 || ty == T::Pred || ty.bits() < 8 {
            return unsupported(inst);
        }
        if ty == T::B128 {
            if count != 1 {
                return unsupported(inst);
            }
            let s = self.wide128(inst, &elements[0])?;
            return Ok(([s, s + 1, NONE, NONE], 8, 2, Value::Zero64));
        }
        let mut slots = [NONE; 4];
        let mut value = None;
        for (slot, element) in slots.iter_mut().zip(&elements) {
            let (class, bits) = match element {
                Operand::Reg(name) | Operand::Component(name, _) => {
                    let reg = self.reg(inst, name)?;
                    if reg.ty.bits() < ty.bits() || reg.class == Class::Pred {
                        return malformed(inst, "the register is too narrow");
                    }
                    (reg.class, reg.ty.bits())
                }
                Operand::Sink if load => continue,
                _ => (class_of(ty), ty.bits().max(32)),
            };
            let signed = ty.is_signed() && load;
            let v = match (class, signed, bits) {
                (Class::W64, true, _) => Value::Sign64,
                (Class::W64, false, _) => Value::Zero64,
                (_, true, 16) => Value::Sign16,
                (_, true, _) => Value::Sign32,
                (_, false, _) => Value::Zero32,
            };
            if value.is_some_and(|known| known != v) {
                return unsupported(inst);
            }
            value = Some(v);
            *slot = match element {
                Operand::Reg(_) | Operand::Component(..) => self.dest(inst, element, class)?,
                _ => self.source(inst, element, ty)?,
            };
        }
        let default = if ty.bits() == 64 { Value::Zero64 } else { Value::Zero32 };
        Ok((slots, (ty.bits() / 8) as u8, count as u8, value.unwrap_or(default)))
    }

    /// `ld` and `ldu`.
    pub(super) fn load(&mut self, inst: &Instruction) -> Lowered<()> {
        let ty = self.ty(inst)?;
        let (slots, width, count, value) =
            self.transfer_slots(inst, self.operand(inst, 0)?, ty, true)?;
        let at = self.address(inst, 1)?;
        let bytes = u32::from(width) * u32::from(count);
        let target = self.target(inst)?;
        // A kernel's parameter at a constant place is the same for all threads.
        if let (Base::Symbol(name), Target::Space(Space::Param)) = (&at.base, target)
            && let Meaning::KernelParam(offset, size) = self.meaning(inst, name)?
        {
            let end = at.offset.checked_add(i64::from(bytes));
            let inside = at.offset >= 0 && end.is_some_and(|e| e <= i64::from(size));
            let offset = i64::from(offset).wrapping_add(at.offset);
            if !inside || offset % i64::from(bytes) != 0 {
                return malformed(inst, "the access leaves the parameter or is misaligned in it");
            }
            return self.emit(Op::Param { width, count, value, offset: offset as u32, slots });
        }
        let memory = self.memory(inst, at, target, bytes)?;
        let polls = Self::polls(inst);
        self.emit(Op::Load(Transfer { memory, width, count, value, polls, slots }))?;
        if inst.has(Flag::Acquire) {
            self.emit(Op::Fence)?;
        }
        Ok(())
    }

    /// `st`.
    pub(super) fn store(&mut self, inst: &Instruction) -> Lowered<()> {
        let ty = self.ty(inst)?;
        let (slots, width, count, value) =
            self.transfer_slots(inst, self.operand(inst, 1)?, ty, false)?;
        let at = self.address(inst, 0)?;
        let bytes = u32::from(width) * u32::from(count);
        let target = self.target(inst)?;
        let memory = self.memory(inst, at, target, bytes)?;
        if inst.has(Flag::Release) {
            self.emit(Op::Fence)?;
        }
        self.emit(Op::Store(Transfer { memory, width, count, value, polls: false, slots }))
    }

    /// `atom` and `red`.
    pub(super) fn atomic(&mut self, inst: &Instruction, returns: bool) -> Lowered<()> {
        let ty = self.ty(inst)?;
        use AtomicOp as A;
        let flag = inst.flags().find(|f| {
            matches!(
                f,
                Flag::Add
                    | Flag::Inc
                    | Flag::Dec
                    | Flag::Min
                    | Flag::Max
                    | Flag::And
                    | Flag::Or
                    | Flag::Xor
                    | Flag::Exch
                    | Flag::Cas
            )
        });
        let op = match (flag, ty) {
            (Some(Flag::Add), T::F32) => A::AddF32,
            (Some(Flag::Add), T::F64) => A::AddF64,
            (Some(Flag::Add), T::F16) => A::AddF16,
            (Some(Flag::Add), T::F16x2) => A::AddF16x2,
            (Some(Flag::Add), T::Bf16) => A::AddBf16,
            (Some(Flag::Add), T::Bf16x2) => A::AddBf16x2,
            (Some(Flag::Min), T::F16) => A::MinF16,
            (Some(Flag::Max), T::F16) => A::MaxF16,
            (Some(Flag::Min), T::Bf16) => A::MinBf16,
            (Some(Flag::Max), T::Bf16) => A::MaxBf16,
            (Some(Flag::Min), T::F16x2) => A::MinF16x2,
            (Some(Flag::Max), T::F16x2) => A::MaxF16x2,
            (Some(Flag::Min), T::Bf16x2) => A::MinBf16x2,
            (Some(Flag::Max), T::Bf16x2) => A::MaxBf16x2,
            (Some(_), _) if ty.is_float() => return unsupported(inst),
            (Some(Flag::Add), _) => A::Add,
            (Some(Flag::Inc), _) => A::Inc,
            (Some(Flag::Dec), _) => A::Dec,
            (Some(Flag::Min), _) if ty.is_signed() => A::MinS,
            (Some(Flag::Min), _) => A::MinU,
            (Some(Flag::Max), _) if ty.is_signed() => A::MaxS,
            (Some(Flag::Max), _) => A::MaxU,
            (Some(Flag::And), _) => A::And,
            (Some(Flag::Or), _) => A::Or,
            (Some(Flag::Xor), _) => A::Xor,
            (Some(Flag::Exch), _) => A::Exchange,
            (Some(Flag::Cas), _) => A::CompareSwap,
            _ => return unsupported(inst),
        };
        if ty.bits() == 128 {
            return self.atomic128(inst, op);
        }
        let width = (ty.bits() / 8) as u8;
        if !matches!(width, 2 | 4 | 8) {
            return unsupported(inst);
        }
        let first = usize::from(returns);
        let count = inst.vector();
        let at = self.address(inst, first)?;
        let target = self.target(inst)?;
        let memory = self.memory(inst, at, target, u32::from(width))?;
        let parts = |operand: &Operand| match operand {
            Operand::Vector(parts) => parts.clone(),
            other => vec![other.clone()],
        };
        let operands = parts(self.operand(inst, first + 1)?);
        let results = if returns { parts(self.operand(inst, 0)?) } else { Vec::new() };
        if operands.len() != count as usize || (returns && results.len() != count as usize) {
            return malformed(inst, "wrong number of elements");
        }
        let swap = if op == A::CompareSwap {
            self.source(inst, self.operand(inst, first + 2)?, ty)?
        } else {
            NONE
        };
        for (i, operand) in operands.iter().enumerate() {
            let b = self.source(inst, operand, ty)?;
            let d = match results.get(i) {
                Some(result) => self.dest(inst, result, class_of(ty))?,
                None => NONE,
            };
            let step = i as i32 * i32::from(width);
            let memory = Memory { offset: memory.offset.wrapping_add(step), ..memory };
            self.emit(Op::Atomic(Atomic { op, memory, width, d, b, c: swap }))?;
        }
        Ok(())
    }

    /// `atom.exch.b128` and `atom.cas.b128`.
    fn atomic128(&mut self, inst: &Instruction, op: AtomicOp) -> Lowered<()> {
        let d = self.wide128(inst, self.operand(inst, 0)?)?;
        let memory = self.memory(inst, self.address(inst, 1)?, self.target(inst)?, 16)?;
        let b = self.wide128(inst, self.operand(inst, 2)?)?;
        let c = match op {
            AtomicOp::CompareSwap => self.wide128(inst, self.operand(inst, 3)?)?,
            AtomicOp::Exchange => NONE,
            _ => return unsupported(inst),
        };
        self.emit(Op::Atomic128 { memory, d, b, c })
    }

    /// `cp.async` and its kin.
    pub(super) fn copy(&mut self, inst: &Instruction) -> Lowered<()> {
        if !inst.has(Flag::Async)
            || inst.has(Flag::Tensor)
            || inst.spaces().any(|s| s == PtxSpace::Tex)
        {
            return unsupported(inst);
        }
        if [Flag::CommitGroup, Flag::WaitGroup, Flag::WaitAll].iter().any(|&f| inst.has(f)) {
            return self.emit(Op::Nop);
        }
        if inst.has(Flag::Prefetch) {
            return self.emit(Op::Nop);
        }
        if inst.has(Flag::Mbarrier) {
            let at = self.address(inst, 0)?;
            let memory = self.shared_memory(inst, at)?;
            let kind = Mbarrier::CopyArrive(inst.has(Flag::Noinc));
            return self.emit(Op::Mbarrier { kind, memory, d: NONE, a: NONE });
        }
        if inst.has(Flag::Reduce) || inst.has(Flag::CpMask) || inst.has(Flag::MulticastCluster) {
            return unsupported(inst);
        }
        if inst.has(Flag::Bulk) {
            return self.bulk_copy(inst);
        }
        let dest = self.address(inst, 0)?;
        let dest = self.shared_memory(inst, dest)?;
        let from = self.address(inst, 1)?;
        let source = self.memory(inst, from, Target::Space(Space::Global), 1)?;
        let bytes = self.integer(inst, self.operand(inst, 2)?)?;
        if !matches!(bytes, 4 | 8 | 16) || !source.wide {
            return malformed(inst, "the size is not 4, 8 or 16, or the source no 64-bit address");
        }
        // What follows the size: bytes to read, or a predicate that says not to, and a cache policy.
        let hint = inst.has(Flag::L2CacheHint);
        let extra = inst.operands.len().saturating_sub(3 + usize::from(hint));
        let size = match (extra, inst.operands.get(3)) {
            (0, _) | (_, None) => NONE,
            (_, Some(Operand::Reg(name))) if self.reg(inst, name)?.class == Class::Pred => {
                let p = self.pred(inst, &Operand::Reg(name.clone()))?;
                let (none, all) = (self.constant32(0)?, self.constant32(bytes as u32)?);
                let size = self.temp32()?;
                self.emit(Op::Select32 { d: size, a: none, b: all, p })?;
                size
            }
            (_, Some(operand)) => self.source(inst, operand, T::U32)?,
        };
        self.emit(Op::AsyncCopy {
            dest,
            source: source.base,
            source_offset: source.offset,
            bytes: bytes as u8,
            size,
        })
    }

    /// An operand in shared memory, whether or not the instruction says so.
    pub(super) fn shared_memory(&mut self, inst: &Instruction, at: &Address) -> Lowered<Memory> {
        let target = if inst.spaces().any(PtxSpace::is_shared) {
            Target::Space(Space::Shared)
        } else {
            Target::Generic
        };
        self.memory(inst, at, target, 8)
    }

    fn bulk_copy(&mut self, inst: &Instruction) -> Lowered<()> {
        let spaces: Vec<PtxSpace> = inst.spaces().collect();
        let &[to, from] = &spaces[..] else { return unsupported(inst) };
        if inst.mods.contains(&Mod::Flag(Flag::Tensor)) || (to.is_shared() && from.is_shared()) {
            return unsupported(inst);
        }
        let (to, from) = (self.target_of(inst, Some(to))?, self.target_of(inst, Some(from))?);
        let dest = self.memory(inst, self.address(inst, 0)?, to, 16)?;
        let source = self.memory(inst, self.address(inst, 1)?, from, 16)?;
        let size = self.source(inst, self.operand(inst, 2)?, T::U32)?;
        let mbarrier = if inst.has(Flag::MbarrierCompleteTx) {
            let at = self.address(inst, 3)?;
            Some(self.memory(inst, at, Target::Space(Space::Shared), 8)?)
        } else {
            None
        };
        let index = self.program.bulk.len() as u32;
        self.program.bulk.push(BulkCopy { dest, source, size, mbarrier });
        self.emit(Op::BulkCopy(index))
    }
}
