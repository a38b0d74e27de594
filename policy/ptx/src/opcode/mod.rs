//! The typed view of instructions: which form of which opcode, what kind of thing it is, which
//! registers it writes; and the default-deny rule. The table itself is in `table.rs`.

mod table;

use std::sync::OnceLock;

use crate::tree::{Instruction, Mod, Name, Op, Operand};

/// What sort of instruction a form is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Registers in, registers out.
    Alu,
    /// Reads or writes memory, one thread for itself.
    Memory,
    /// Changes the flow of control or ends the thread.
    Control,
    /// Synchronises or orders.
    Barrier,
    /// Exchanges values within a warp.
    Warp,
    /// Asynchronous copies and their barriers.
    Async,
    /// Matrix instructions.
    Tensor,
}

/// One permitted form of an opcode.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    op: Op,
    class: Class,
    shapes: &'static str,
    types: u64,
    spaces: u16,
    flags: [u64; 4],
    needs: [u64; 4],
}

impl Row {
    /// The opcode.
    pub fn op(&self) -> Op {
        self.op
    }

    /// What sort of instruction it is.
    pub fn class(&self) -> Class {
        self.class
    }

    /// The permitted operand lists: see `table.rs` for the letters.
    pub fn shapes(&self) -> &'static str {
        self.shapes
    }

    fn allows(&self, modifier: &Mod) -> bool {
        match modifier {
            Mod::Type(ty) => self.types >> (*ty as u8) & 1 != 0,
            Mod::Space(space) => self.spaces >> (*space as u8) & 1 != 0,
            Mod::Flag(flag) => has(&self.flags, *flag as usize),
            Mod::Other(_) => false,
        }
    }
}

fn has(set: &[u64; 4], bit: usize) -> bool {
    set[bit / 64] >> (bit % 64) & 1 != 0
}

/// Why an instruction is not in the table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The opcode is not one of PTX's, or newer than this table.
    #[error("`{0}` is not an instruction this table knows")]
    Unknown(String),
    /// The opcode is known and refused.
    #[error("`{0}` is refused: {1}")]
    Opcode(Op, &'static str),
    /// The opcode is permitted, but with no such modifier.
    #[error("`{op}` is not permitted with `.{modifier}`")]
    Modifier {
        /// The opcode.
        op: Op,
        /// The first modifier that no form allows, or that spoils the closest form.
        modifier: String,
    },
    /// The modifiers lack one that every form needs.
    #[error("`{op}` is not permitted in this form: `.{flag}` is missing")]
    Missing {
        /// The opcode.
        op: Op,
        /// The modifier.
        flag: &'static str,
    },
    /// The operands fit no permitted form.
    #[error(
        "the operands of `{op}` fit no permitted form (want {shapes}, see the table's letters)"
    )]
    Operands {
        /// The opcode.
        op: Op,
        /// The operand shapes of the forms that the modifiers allow.
        shapes: &'static str,
    },
}

fn rows(op: Op) -> &'static [Row] {
    static INDEX: OnceLock<Vec<(usize, usize)>> = OnceLock::new();
    let index = INDEX.get_or_init(|| {
        let mut index = vec![(0, 0); Op::ALL.len()];
        for (position, row) in table::TABLE.iter().enumerate() {
            let entry = &mut index[row.op as usize];
            if entry.1 == 0 {
                entry.0 = position;
            }
            entry.1 = position + 1;
        }
        index
    });
    let (start, end) = index[op as usize];
    &table::TABLE[start..end]
}

/// Finds the table's row for an instruction.
///
/// # Errors
/// [`Refused`] when there is none.
pub fn classify(instruction: &Instruction) -> Result<&'static Row, Refused> {
    form(instruction).map(|(row, _)| row)
}

/// The row and the operand shape that match.
pub(crate) fn form(instruction: &Instruction) -> Result<(&'static Row, &'static str), Refused> {
    let Some(op) = instruction.op() else {
        let text: String = instruction.opcode.text().chars().take(60).collect();
        return Err(Refused::Unknown(text));
    };
    let candidates = rows(op);
    let mut present = [0u64; 4];
    for flag in instruction.flags() {
        present[flag as usize / 64] |= 1 << (flag as usize % 64);
    }
    let mut operands_wrong = None;
    let mut modifier_wrong = None;
    let mut missing = None;
    for row in candidates {
        if let Some(lack) = (0..4).find_map(|i| {
            let lack = row.needs[i] & !present[i];
            (lack != 0).then(|| i * 64 + lack.trailing_zeros() as usize)
        }) {
            missing = missing.or(Some(lack));
            continue;
        }
        if let Some(bad) = instruction.mods.iter().find(|m| !row.allows(m)) {
            modifier_wrong = Some(bad);
            continue;
        }
        match row.shapes.split('/').find(|shape| fits(shape, &instruction.operands)) {
            Some(shape) => return Ok((row, shape)),
            None => operands_wrong = Some(row.shapes),
        }
    }
    if let Some(shapes) = operands_wrong {
        return Err(Refused::Operands { op, shapes });
    }
    if let Some(bad) = modifier_wrong {
        return Err(Refused::Modifier { op, modifier: bad.text().chars().take(60).collect() });
    }
    if let Some(bit) = missing {
        let flag = crate::tree::Flag::ALL.get(bit).map_or("?", |flag| flag.text());
        return Err(Refused::Missing { op, flag });
    }
    let reason = table::REFUSED.iter().find(|(refused, _)| *refused == op).map(|(_, why)| *why);
    Err(Refused::Opcode(op, reason.unwrap_or("it is not in the table")))
}

fn is_value(operand: &Operand) -> bool {
    matches!(
        operand,
        Operand::Reg(_) | Operand::Special(_) | Operand::Int(_) | Operand::F32(_) | Operand::F64(_)
    )
}

fn is_written(operand: &Operand) -> bool {
    matches!(operand, Operand::Reg(_) | Operand::Sink)
}

fn fits(shape: &str, operands: &[Operand]) -> bool {
    if shape == "*" {
        return true;
    }
    shape.len() == operands.len()
        && shape.bytes().zip(operands).all(|(letter, operand)| match letter {
            b'd' => is_written(operand),
            b'D' => match operand {
                Operand::Vector(items) => items.iter().all(is_written),
                other => is_written(other),
            },
            b'P' | b'x' => match operand {
                Operand::Pair(a, b) => is_written(a) && is_written(b),
                other => is_written(other),
            },
            b's' => is_value(operand),
            b'q' => is_value(operand) || matches!(operand, Operand::NotReg(_)),
            b'S' => match operand {
                Operand::Vector(items) => items.iter().all(is_value),
                other => is_value(other),
            },
            b'm' => match operand {
                Operand::Vector(items) => items.iter().all(is_value),
                Operand::Symbol(..) => true,
                other => is_value(other),
            },
            b'A' => operand.as_address().is_some_and(|address| address.rest.is_empty()),
            b'i' => operand.as_int().is_some(),
            b'y' => matches!(operand, Operand::Symbol(_, 0)),
            _ => false,
        })
}

/// Calls `visit` for every register that the instruction writes. An instruction outside the table
/// is taken to write every register it names directly.
pub fn for_each_written<'a>(instruction: &'a Instruction, visit: &mut impl FnMut(&'a Name)) {
    let shape = match form(instruction) {
        Ok((_, "*")) => {
            // A call: its result list, whether registers or parameters.
            if let Some(call) = instruction.call() {
                call.results.iter().for_each(|operand| operand.for_each_reg(visit));
                return;
            }
            ""
        }
        Ok((_, shape)) => shape,
        Err(_) => "",
    };
    for (index, operand) in instruction.operands.iter().enumerate() {
        let written = match shape.as_bytes().get(index) {
            Some(letter) => matches!(letter, b'd' | b'D' | b'P' | b'x'),
            None => operand.as_address().is_none(),
        };
        if written {
            operand.for_each_reg(visit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_an_opcode_stand_together_and_every_opcode_is_decided() {
        for op in Op::ALL {
            let span = rows(*op);
            assert!(span.iter().all(|row| row.op == *op), "{op} is scattered");
            let refused = table::REFUSED.iter().any(|(r, _)| r == op);
            assert!(span.is_empty() == refused, "{op}: in the table or refused, not both");
        }
    }
}
