//! Asynchronous copies and matrix fragments: what bounds them besides their addresses.
//!
//! `cp.async` names how many source bytes to read in a register, bulk copies their size, `wmma.load` and
//! `wmma.store` the distance of rows: each of these is a constant, proved to be small enough, or bounded
//! by an instruction in front. A bulk copy that touches shared memory must have a proved size, since its
//! end has to lie in the same object as its start.

use crate::tree::{Flag, Instruction, Op, Operand, ScalarType};

use super::Refusal;
use super::access::{BULK_BYTES, fragment, size};
use super::forms::{Emit, reg};
use super::report::Change;
use super::rewrite::Pass;

impl Pass<'_, '_> {
    /// Bounds the sizes and distances that an instruction takes from registers.
    pub(super) fn sizes(
        &mut self,
        emit: &mut Emit<'_>,
        number: u32,
        instruction: &mut Instruction,
    ) -> Result<(), Refusal> {
        match instruction.op() {
            Some(Op::Cp) if instruction.has(Flag::Bulk) => self.bulk(emit, number, instruction),
            Some(Op::Cp) if instruction.address().is_some() => {
                self.source_size(emit, number, instruction);
                Ok(())
            }
            Some(Op::Wmma) if instruction.has(Flag::Load) || instruction.has(Flag::Store) => {
                self.stride(emit, number, instruction)
            }
            _ => Ok(()),
        }
    }

    fn bulk(
        &mut self,
        emit: &mut Emit<'_>,
        number: u32,
        instruction: &mut Instruction,
    ) -> Result<(), Refusal> {
        if instruction.address().is_none() {
            return Ok(());
        }
        let prefetch = instruction.has(Flag::Prefetch);
        let position = if prefetch { 1 } else { 2 };
        let original = self.analysis.graph.instructions[number as usize];
        let (good, _) = size(number, position, original, self.analysis);
        if good {
            return Ok(());
        }
        let Some(value @ Operand::Reg(_)) = instruction.operands.get(position as usize).cloned()
        else {
            let why = "a bulk copy of a size that is no multiple of 16 up to 227 KiB";
            return Err(Refusal::Instruction { at: instruction.span, why });
        };
        if !prefetch {
            let why = "a bulk copy whose size is not known to be a multiple of 16 up to 227 KiB";
            return Err(Refusal::Instruction { at: instruction.span, why });
        }
        let bounded = bound(emit, value, BULK_BYTES as i64, 16);
        instruction.operands[position as usize] = bounded;
        self.count(Change::CopySize);
        Ok(())
    }

    /// `cp.async dst, src, size, source-size`: no more source bytes than the copy has.
    fn source_size(&mut self, emit: &mut Emit<'_>, number: u32, instruction: &mut Instruction) {
        let most = instruction.operands.get(2).and_then(Operand::as_int).unwrap_or(16);
        let Some(Operand::Reg(name)) = instruction.operands.get(3).cloned() else { return };
        // A predicate there says that the source is to be ignored.
        if self.registers.bits(&name) != 32 {
            return;
        }
        let known = self.analysis.number(number, 3);
        if known.is_number() && known.unsigned(32).1 <= most as u64 {
            return;
        }
        instruction.operands[3] = bound(emit, reg(&name), most, 1);
        self.count(Change::CopySize);
    }

    fn stride(
        &mut self,
        emit: &mut Emit<'_>,
        number: u32,
        instruction: &mut Instruction,
    ) -> Result<(), Refusal> {
        let original = self.analysis.graph.instructions[number as usize];
        let (_, limit) = fragment(number, original, self.analysis)?;
        let Some(limit) = limit else { return Ok(()) };
        let bits = u64::from(instruction.types().last().map_or(32, ScalarType::bits)).max(1);
        let step = (128 / bits).max(1);
        if let Some(value @ Operand::Reg(_)) = instruction.operands.get(2).cloned() {
            instruction.operands[2] = bound(emit, value, limit as i64, step as i64);
            self.count(Change::Stride);
        }
        Ok(())
    }
}

/// `min(value, limit)` rounded down to a multiple of `step`, a power of two.
fn bound(emit: &mut Emit<'_>, value: Operand, limit: i64, step: i64) -> Operand {
    let least = emit.fresh.word();
    emit.push(Op::Min, [ScalarType::U32.into()], vec![reg(&least), value, Operand::Int(limit)]);
    if step == 1 {
        return reg(&least);
    }
    let rounded = emit.fresh.word();
    let operands = vec![reg(&rounded), reg(&least), Operand::Int(!(step - 1))];
    emit.push(Op::And, [ScalarType::B32.into()], operands);
    reg(&rounded)
}
