//! Barriers: whoever meets at one must have come with the same instruction.
//!
//! Measured on sm_90: warps that meet at one barrier with different thread counts, one of them with a
//! count and the other without, or with different kinds of instruction (`bar.sync` and `bar.red`, or two
//! reductions), make the GPU report an illegal instruction (715), which ends the whole context. Which
//! warps meet is not decidable; so in all code that a kernel can reach, each barrier has one kind and
//! one count.

use super::Reason;
use crate::tree::{Flag, Instruction, Op, Operand};

/// How a barrier is used: the kind of instruction, and the thread count if it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Use {
    kind: Kind,
    count: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// `sync` and `arrive`, which may meet.
    Plain,
    And,
    Or,
    Popc,
}

/// The barriers of a function, or of all functions that a kernel can reach.
#[derive(Clone, Debug, Default)]
pub(super) struct Barriers {
    numbered: [Option<Use>; 16],
}

impl Barriers {
    /// Adds an instruction of a body; those that are no block-wide barrier are ignored.
    pub(super) fn add(&mut self, i: &Instruction) -> Result<(), Reason> {
        if !matches!(i.op(), Some(Op::Bar | Op::Barrier)) || i.has(Flag::Warp) {
            return Ok(());
        }
        let kind = match i.flags().find(|f| matches!(f, Flag::And | Flag::Or | Flag::Popc)) {
            _ if !i.has(Flag::Red) => Kind::Plain,
            Some(Flag::And) => Kind::And,
            Some(Flag::Or) => Kind::Or,
            _ => Kind::Popc,
        };
        // A reduction has its result first and its predicate last.
        let values = match i.operands.as_slice() {
            [_, values @ .., _] if i.has(Flag::Red) => values,
            values => values,
        };
        let own = Use { kind, count: values.get(1).and_then(Operand::as_int) };
        let mut one = Self::default();
        // Anything but a constant is refused with the instruction.
        let number = values.first().and_then(Operand::as_int);
        let number = number.and_then(|number| usize::try_from(number).ok());
        let slot = number.and_then(|number| one.numbered.get_mut(number));
        *slot.ok_or(Reason::Barrier)? = Some(own);
        self.merge(&one)
    }

    /// Adds the barriers of a callee.
    pub(super) fn merge(&mut self, other: &Self) -> Result<(), Reason> {
        let agree = |a: Option<Use>, b: Option<Use>| match (a, b) {
            (Some(a), Some(b)) if a != b => Err(Reason::BarrierUse),
            (a, b) => Ok(a.or(b)),
        };
        for (mine, theirs) in self.numbered.iter_mut().zip(other.numbered) {
            *mine = agree(*mine, theirs)?;
        }
        Ok(())
    }
}
