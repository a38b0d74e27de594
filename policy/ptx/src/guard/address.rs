//! Global and generic addresses: fenced into the arena.
//!
//! A fence replaces the bits of an address above the arena's size and clears those below the access's
//! width. It is made for the value furthest back that is a constant away, so that `p[i]` and `p[i+1]`
//! share one; the constant stays an immediate offset, which the red zones cover.

use crate::contract::{GuardMode, RED_ZONE};
use crate::tree::{Base, Instruction, Name, Op, Space};

use super::Refusal;
use super::analysis::{Arg, Object, ObjectSpace};
use super::forms::Emit;
use super::report::Change;
use super::rewrite::{Available, CALLERS_LOCALS, Job, Pass};

/// True when an immediate offset may stay one behind a fence.
fn is_near(offset: i64, bytes: u64, align: u64) -> bool {
    offset.unsigned_abs().saturating_add(bytes) <= RED_ZONE && offset.rem_euclid(align as i64) == 0
}

impl Pass<'_, '_> {
    /// The address register of an operand.
    pub(super) fn base(&self, job: &Job, instruction: &Instruction) -> Result<Name, Refusal> {
        let address = instruction.operands[job.access.operand as usize].as_address();
        match address.map(|a| &a.base) {
            Some(Base::Reg(name)) => Ok(name.clone()),
            _ => Err(Refusal::Instruction {
                at: instruction.span,
                why: "a variable used in another state space than its own",
            }),
        }
    }

    pub(super) fn global(
        &mut self,
        emit: &mut Emit<'_>,
        job: &Job,
        instruction: &mut Instruction,
    ) -> Result<(), Refusal> {
        let base = self.base(job, instruction)?;
        if self.variable(job, &base, instruction) {
            return Ok(());
        }
        let (bytes, align) = (job.access.bytes, job.access.align);
        let (arena, value) = (self.options.arena, job.place.value);
        if self.trusts(job) && self.analysis.is_in_arena(arena, &value, job.offset, bytes, align) {
            self.count(Change::Proved);
            return Ok(());
        }
        let base = self.as64(emit, &base);
        if self.options.mode == GuardMode::Check {
            // Exact: the address itself is compared, offset included.
            let asked = if job.offset == 0 { base } else { emit.add64(&base, job.offset) };
            let safe = emit.fence(self.options.arena, &asked, align);
            self.check(emit, &safe, &asked, job, instruction);
            Self::replace(instruction, job.access.operand, safe, 0);
            self.count(Change::GlobalFence);
            return Ok(());
        }
        let (root, register, offset) = match self.root(job) {
            Some((root, register, offset)) => (root, register, offset),
            None if is_near(job.offset, bytes, align) => (Arg::Unknown, base, job.offset),
            None => {
                let sum = emit.add64(&base, job.offset);
                (Arg::Unknown, sum, 0)
            }
        };
        let key = (job.access.target, root, 0);
        if let Some(known) = self.find(&key, align, 0) {
            Self::replace(instruction, job.access.operand, known.register, offset);
            self.count(Change::GlobalShared);
            return Ok(());
        }
        let align = self.group_align(root, align);
        let certain = instruction.guard.is_none();
        // What is known to be a multiple of the width needs no rounding.
        let moved = offset.wrapping_sub(job.offset);
        let known = value.sub(super::analysis::Value::int(moved), 64).trailing_zeros();
        let is_aligned = self.trusts(job) && known >= align.trailing_zeros();
        let safe = emit.fence(arena, &register, if is_aligned { 1 } else { align });
        self.offer(key, Available { register: safe.clone(), align, room: 0, certain });
        Self::replace(instruction, job.access.operand, safe, offset);
        self.count(Change::GlobalFence);
        Ok(())
    }

    /// The value to fence, its register, and the access's distance from it.
    pub(super) fn root(&self, job: &Job) -> Option<(Arg, Name, i64)> {
        let (root, distance) = job.place.root;
        let offset = distance.checked_add(job.offset)?;
        let register = self.analysis.register(root)?.clone();
        (is_near(offset, job.access.bytes, job.access.align)
            && self.registers.bits(&register) == 64)
            .then_some((root, register, offset))
    }

    /// The widest alignment that accesses of this block need of a value: those that run whenever the
    /// first does, so that in a program without faults the value has it.
    fn group_align(&self, root: Arg, align: u64) -> u64 {
        match self.root_aligns.get(&root) {
            Some(most) if root != Arg::Unknown => align.max(*most),
            _ => align,
        }
    }

    /// The address of a relocated variable, already a number inside the arena: only the offset needs
    /// care.
    fn variable(&mut self, job: &Job, base: &Name, instruction: &mut Instruction) -> bool {
        if !base.starts_with("%$ts_d") {
            return false;
        }
        let align = job.access.align as i64;
        let limit = (RED_ZONE - job.access.bytes) as i64;
        let offset = job.offset.clamp(-limit, limit) & !(align - 1);
        Self::replace(instruction, job.access.operand, base.clone(), offset);
        true
    }

    /// An address in 64 bits; 32-bit registers are zero-extended, as PTX does.
    fn as64(&self, emit: &mut Emit<'_>, register: &Name) -> Name {
        match self.registers.bits(register) {
            32 => emit.widen(register),
            _ => register.clone(),
        }
    }

    pub(super) fn generic(
        &mut self,
        emit: &mut Emit<'_>,
        job: &Job,
        instruction: &mut Instruction,
    ) -> Result<(), Refusal> {
        let base = self.base(job, instruction)?;
        if self.variable(job, &base, instruction) {
            return Ok(());
        }
        let (bytes, align) = (job.access.bytes, job.access.align);
        if self.is_generic_proved(job) {
            self.count(Change::Proved);
            return Ok(());
        }
        let base = self.as64(emit, &base);
        let asked = if job.offset == 0 { base } else { emit.add64(&base, job.offset) };
        // Atomics have no form for local memory.
        let atomic = matches!(instruction.op(), Some(Op::Atom | Op::Red));
        let value = &job.place.value;
        let found: Vec<(Object, bool)> = self
            .analysis
            .bases(value)
            .filter_map(|(index, generic)| {
                let object = self.analysis.objects.get(index as usize)?;
                Some((object.clone(), generic))
            })
            .collect();
        // Without a plain number among its bases, the address is in one of the objects found.
        let closed = value.bases & super::analysis::NUMBER == 0
            && !found.is_empty()
            && found.iter().all(|(object, generic)| *generic && object.space != ObjectSpace::Param);
        if !closed && self.callers_locals {
            // It could be a caller's local variable, and then no sequence here gives the right result.
            return Err(Refusal::Instruction { at: instruction.span, why: CALLERS_LOCALS });
        }
        let mut candidates = |space: ObjectSpace| -> Vec<Object> {
            if !closed {
                return self.visible(space, bytes);
            }
            let fits = |o: &&Object| o.space == space && o.bytes.is_none_or(|b| b >= bytes);
            found.iter().map(|(o, _)| o).filter(fits).cloned().collect()
        };
        let shared = candidates(ObjectSpace::Shared);
        let local = if atomic { Vec::new() } else { candidates(ObjectSpace::Local) };
        let mut safe: Option<Name> = None;
        if !closed || (shared.is_empty() && local.is_empty()) {
            safe = Some(emit.fence(self.options.arena, &asked, align));
        }
        for (space, objects) in [(Space::Shared, shared), (Space::Local, local)] {
            if objects.is_empty() {
                continue;
            }
            let inner = emit.specific(&asked, space);
            let clamped = self.chain(emit, &inner, &objects, bytes, align, align);
            let arm = emit.generic(&clamped, space);
            safe = Some(match safe {
                None => arm,
                Some(other) => {
                    let inside = emit.is_in(&asked, space);
                    emit.select(crate::tree::ScalarType::B64, &arm, &other, &inside)
                }
            });
        }
        let Some(safe) = safe else {
            let why = "a generic access that could reach nothing";
            return Err(Refusal::Instruction { at: instruction.span, why });
        };
        self.check(emit, &safe, &asked, job, instruction);
        Self::replace(instruction, job.access.operand, safe, 0);
        self.count(Change::Generic);
        Ok(())
    }
}
