//! Which operands of an instruction name memory, in which state space, how many bytes one thread's
//! access touches there and how it must be aligned.

use crate::tree::{Base, Flag, Instruction, Op, Operand, ScalarType, Space};

use super::Refusal;
use super::analysis::{Analysis, Value};

/// A state space to confine an access to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// `.global`
    Global,
    /// No space given.
    Generic,
    /// `.shared`
    Shared,
    /// `.local`
    Local,
    /// `.param`
    Param,
}

/// One memory operand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access {
    /// Operand number.
    pub(super) operand: u32,
    /// Where it goes.
    pub(super) target: Target,
    /// Bytes from the address on.
    pub(super) bytes: u64,
    /// The address must be a multiple of this.
    pub(super) align: u64,
}

/// Most bytes of a bulk copy: all the shared memory that a block can have (sm_90).
pub(super) const BULK_BYTES: u64 = 227 << 10;

/// Most bytes of `.global` that one matrix fragment may span, rows and their distance included.
pub(super) const FRAGMENT_BYTES: u64 = 12 << 20;

fn target(space: Option<Space>) -> Target {
    match space {
        None => Target::Generic,
        Some(Space::Global) => Target::Global,
        Some(Space::Local) => Target::Local,
        Some(space) if space.is_param() => Target::Param,
        Some(_) => Target::Shared,
    }
}

/// The memory operands of an instruction.
///
/// # Errors
/// [`Refusal`] for a copy whose size cannot be bounded.
pub(super) fn accesses(
    number: u32,
    i: &Instruction,
    analysis: &Analysis<'_>,
) -> Result<Vec<Access>, Refusal> {
    let Some(op) = i.op() else { return Ok(Vec::new()) };
    let refuse = |why| Err(Refusal::Instruction { at: i.span, why });
    let addresses: Vec<(u32, &crate::tree::Address)> = Analysis::addresses(i).collect();
    // Constants that stayed constants: `variables` has checked their accesses.
    if addresses.is_empty() || i.space() == Some(Space::Const) {
        return Ok(Vec::new());
    }
    if addresses.iter().any(|(_, a)| matches!(a.base, Base::Absolute)) {
        return refuse("an absolute address; give the variable a name");
    }
    let one = |bytes: u64, align: u64| {
        let (operand, _) = addresses[0];
        Ok(vec![Access { operand, target: target(i.space()), bytes, align }])
    };
    match op {
        Op::Ld | Op::Ldu | Op::St | Op::Atom | Op::Red => {
            let element = i.types().last().map_or(0, ScalarType::bytes);
            let bytes = u64::from(i.vector()) * u64::from(element);
            if !bytes.is_power_of_two() || bytes > 32 {
                return refuse("an access of a size that is none of 1, 2, 4, 8, 16 or 32 bytes");
            }
            one(bytes, bytes)
        }
        Op::Prefetch | Op::Prefetchu => one(1, 1),
        Op::Ldmatrix | Op::Stmatrix => shared_only(&addresses, 16),
        Op::Mbarrier => shared_only(&addresses, 8),
        Op::Wmma => {
            let (bytes, _) = fragment(number, i, analysis)?;
            one(bytes, 32)
        }
        Op::Cp => copy(number, i, &addresses, analysis),
        _ => refuse("a memory operand on an instruction that the guard does not know"),
    }
}

fn shared_only(
    addresses: &[(u32, &crate::tree::Address)],
    bytes: u64,
) -> Result<Vec<Access>, Refusal> {
    let access = |(operand, _): &(u32, _)| Access {
        operand: *operand,
        target: Target::Shared,
        bytes,
        align: bytes,
    };
    Ok(addresses.iter().map(access).collect())
}

fn copy(
    number: u32,
    i: &Instruction,
    addresses: &[(u32, &crate::tree::Address)],
    analysis: &Analysis<'_>,
) -> Result<Vec<Access>, Refusal> {
    let refuse = |why| Err(Refusal::Instruction { at: i.span, why });
    if i.has(Flag::Mbarrier) {
        return shared_only(addresses, 8);
    }
    if !i.has(Flag::Bulk) {
        let size = i.operands.get(2).and_then(Operand::as_int);
        let Some(bytes @ (4 | 8 | 16)) = size else {
            return refuse("a copy of a size that is none of 4, 8 or 16 bytes");
        };
        let bytes = bytes as u64;
        let [(to, _), (from, _)] = addresses else { return refuse("a copy needs two addresses") };
        let access = |operand, target| Access { operand, target, bytes, align: bytes };
        return Ok(vec![access(*to, Target::Shared), access(*from, Target::Global)]);
    }
    let position = if i.has(Flag::Prefetch) { 1 } else { 2 };
    let (_, most) = size(number, position, i, analysis);
    let targets: Vec<Target> = i.spaces().map(|space| target(Some(space))).collect();
    let mut found = Vec::new();
    for (index, (operand, _)) in addresses.iter().enumerate() {
        // The last address of a copy into shared memory is its mbarrier.
        let (target, bytes, align) = match targets.get(index) {
            Some(target) => (*target, most, 16),
            None => (Target::Shared, 8, 8),
        };
        found.push(Access { operand: *operand, target, bytes, align });
    }
    if targets.iter().filter(|t| **t == Target::Shared).count() > 1 {
        return refuse("a copy between shared memories is not supported");
    }
    Ok(found)
}

/// Bounds of the size operand of a bulk copy, and whether they are good as they are: a multiple of 16
/// and at most [`BULK_BYTES`].
pub(super) fn size(
    number: u32,
    position: u32,
    i: &Instruction,
    analysis: &Analysis<'_>,
) -> (bool, u64) {
    let value = match i.operands.get(position as usize) {
        Some(Operand::Int(size)) => Value::int(*size),
        _ => analysis.number(number, position),
    };
    let (_, most) = value.unsigned(32);
    let low_zero = value.trailing_zeros() >= 4 || value.constant().is_some_and(|c| c % 16 == 0);
    if low_zero && most <= BULK_BYTES { (true, most) } else { (false, BULK_BYTES) }
}

/// Bytes that a matrix fragment spans, and the largest row distance (in elements) that is safe; the
/// second is `None` when the instruction's own distance is.
pub(super) fn fragment(
    number: u32,
    i: &Instruction,
    analysis: &Analysis<'_>,
) -> Result<(u64, Option<u64>), Refusal> {
    let refuse = |why| Err(Refusal::Instruction { at: i.span, why });
    let (m, n, k) = match i.flags().find_map(shape) {
        Some(shape) => shape,
        None => return refuse("a matrix fragment of a shape that the guard does not know"),
    };
    let Some(ty) = i.types().last() else { return refuse("a matrix fragment without a type") };
    let (rows, columns) = if i.has(Flag::A) {
        (m, k)
    } else if i.has(Flag::B) {
        (k, n)
    } else {
        (m, n)
    };
    let (outer, inner) = if i.has(Flag::Col) { (columns, rows) } else { (rows, columns) };
    let bits = u64::from(ty.bits());
    let line = inner * bits / 8;
    let in_shared = i.space().is_none_or(Space::is_shared);
    let room = if in_shared { BULK_BYTES } else { FRAGMENT_BYTES };
    // The distance between lines: at most so many elements, and lines start at multiples of 16 bytes.
    let limit = (room - line) * 8 / bits / (outer - 1);
    let stride = match i.operands.get(2) {
        None => Value::int(inner as i64),
        Some(Operand::Int(stride)) => Value::int(*stride),
        Some(_) => analysis.number(number, 2),
    };
    let (_, most) = stride.unsigned(32);
    let step = (128 / bits).max(1);
    let aligned = u64::from(stride.trailing_zeros()) >= u64::from(step.trailing_zeros())
        || stride.constant().is_some_and(|c| (c as u64).is_multiple_of(step));
    if aligned && most <= limit {
        return Ok(((outer - 1) * most * bits / 8 + line, None));
    }
    if matches!(i.operands.get(2), None | Some(Operand::Int(_))) {
        return refuse("a matrix whose lines are too far apart or not 16-byte aligned");
    }
    let limit = limit / step * step;
    Ok(((outer - 1) * limit * bits / 8 + line, Some(limit)))
}

fn shape(flag: Flag) -> Option<(u64, u64, u64)> {
    Some(match flag {
        Flag::M16n16k16 => (16, 16, 16),
        Flag::M32n8k16 => (32, 8, 16),
        Flag::M8n32k16 => (8, 32, 16),
        Flag::M16n16k8 => (16, 16, 8),
        Flag::M8n8k4 => (8, 8, 4),
        Flag::M8n8k32 => (8, 8, 32),
        Flag::M8n8k128 => (8, 8, 128),
        _ => return None,
    })
}
