//! One instruction as expressions for the registers that it writes.
//!
//! Safety rests on this: *every* register an instruction writes must come out of [`lower`], or the
//! analysis would go on believing its old value. So any register, vector or pair in the first operand
//! counts as written, whatever the opcode; what is not understood is written with an unknown value.

use crate::tree::{Flag, Instruction, Name, Op, Operand, ScalarType};

use super::ir::{Kind, Relation};

/// A register written and how.
pub(super) struct Write<'a> {
    /// The register.
    pub register: &'a Name,
    /// Operation.
    pub kind: Kind,
    /// Width in bits.
    pub width: u32,
    /// Operands still to be resolved.
    pub operands: [Option<&'a Operand>; 3],
}

impl<'a> Write<'a> {
    fn new(register: &'a Name, kind: Kind, width: u32, operands: &[&'a Operand]) -> Self {
        let mut three = [None; 3];
        for (slot, operand) in three.iter_mut().zip(operands) {
            *slot = Some(*operand);
        }
        Self { register, kind, width, operands: three }
    }
}

fn relation(flag: Flag) -> Option<(Relation, Option<bool>)> {
    Some(match flag {
        Flag::Eq => (Relation::Eq, None),
        Flag::Ne => (Relation::Ne, None),
        Flag::Lt => (Relation::Lt, None),
        Flag::Le => (Relation::Le, None),
        Flag::Gt => (Relation::Gt, None),
        Flag::Ge => (Relation::Ge, None),
        Flag::Lo => (Relation::Lt, Some(false)),
        Flag::Ls => (Relation::Le, Some(false)),
        Flag::Hi => (Relation::Gt, Some(false)),
        Flag::Hs => (Relation::Ge, Some(false)),
        _ => return None,
    })
}

/// What a load of this type can yield.
fn load_range(ty: ScalarType) -> Kind {
    match ty {
        ScalarType::S8 => Kind::Range(-(1 << 7), (1 << 7) - 1),
        ScalarType::S16 => Kind::Range(-(1 << 15), (1 << 15) - 1),
        ScalarType::U8 | ScalarType::B8 => Kind::Range(0, (1 << 8) - 1),
        ScalarType::U16 | ScalarType::B16 => Kind::Range(0, (1 << 16) - 1),
        _ => Kind::Unknown,
    }
}

/// Calls `sink` for every register the instruction writes.
pub(super) fn lower<'a>(i: &'a Instruction, mut sink: impl FnMut(Write<'a>)) {
    if let Some(op) = i.op()
        && understood(i, op, &mut sink)
    {
        return;
    }
    let range = match (i.op(), i.ty()) {
        (Some(Op::Ld | Op::Ldu), Some(ty)) => load_range(ty),
        (Some(Op::Popc | Op::Clz), _) => Kind::Range(0, 64),
        (Some(Op::Bfind), _) => Kind::Range(-1, 63),
        _ => Kind::Unknown,
    };
    let first = i.operands.first();
    if let Some(operand) = first {
        written(operand, &mut |name| sink(Write::new(name, range, 64, &[])));
    }
    // Later operands that could be destinations: none in PTX ISA 9.0, except that a malformed or
    // unknown instruction may have them; those the table of opcodes refuses.
}

fn written<'a>(operand: &'a Operand, sink: &mut impl FnMut(&'a Name)) {
    match operand {
        Operand::Reg(name) | Operand::NotReg(name) | Operand::Component(name, _) => sink(name),
        Operand::Vector(items) | Operand::List(items) => {
            items.iter().for_each(|item| written(item, sink));
        }
        Operand::Pair(a, b) => {
            written(a, sink);
            written(b, sink);
        }
        _ => {}
    }
}

/// The instructions whose results the analysis computes with. Returns false for all others (and for
/// forms of them that it does not know).
fn understood<'a>(i: &'a Instruction, op: Op, sink: &mut impl FnMut(Write<'a>)) -> bool {
    let Some(ty) = i.ty() else {
        return false;
    };
    if op == Op::Mov {
        return move_(i, ty, sink);
    }
    if op == Op::Setp {
        return compare(i, ty, sink);
    }
    let (Some(Operand::Reg(to)), width) = (i.operands.first(), ty.bits()) else { return false };
    let sources: Vec<&Operand> = i.operands[1..].iter().collect();
    if ty == ScalarType::Pred {
        let kind = match op {
            Op::And => Kind::PredAnd,
            Op::Or => Kind::PredOr,
            Op::Not => Kind::PredNot,
            _ => return false,
        };
        sink(Write::new(to, kind, 1, &sources));
        return true;
    }
    if ty.is_float() || matches!(ty, ScalarType::U16x2 | ScalarType::S16x2 | ScalarType::B128) {
        return false;
    }
    let signed = ty.is_signed();
    let has = |flag| i.has(flag);
    // Saturation, `.relu`, packed forms: not modelled. (`.cc` leaves the sum as it is.)
    let known = |flag| matches!(flag, Flag::Wide | Flag::Lo | Flag::Hi | Flag::Cc | Flag::To);
    if !matches!(op, Op::Lop3 | Op::Cvt) && !i.flags().all(known) {
        return false;
    }
    let (kind, width) = match op {
        Op::Add => (Kind::Add, width),
        Op::Sub => (Kind::Sub, width),
        Op::Mul if has(Flag::Wide) => (Kind::MulWide { signed }, width * 2),
        Op::Mul if has(Flag::Lo) => (Kind::Mul, width),
        Op::Mul if has(Flag::Hi) => (Kind::MulHigh { signed }, width),
        Op::Mad if has(Flag::Wide) => (Kind::MadWide { signed }, width * 2),
        Op::Mad if has(Flag::Lo) => (Kind::Mad, width),
        Op::Shl => (Kind::Shl, width),
        Op::Shr => (Kind::Shr { signed }, width),
        Op::And => (Kind::And, width),
        Op::Or => (Kind::Or, width),
        Op::Xor => (Kind::Xor, width),
        Op::Not => (Kind::Not, width),
        Op::Neg => (Kind::Neg, width),
        Op::Abs => (Kind::Abs, width),
        Op::Min => (Kind::MinMax { signed, greater: false }, width),
        Op::Max => (Kind::MinMax { signed, greater: true }, width),
        Op::Div => (Kind::Div { signed }, width),
        Op::Rem => (Kind::Rem { signed }, width),
        Op::Selp => (Kind::Select { negated: false }, width),
        Op::Bfe => (Kind::Field { signed }, width),
        Op::Lop3 => return lop3(i, to, width, &sources, sink),
        Op::Cvt => return convert(i, to, &sources, sink),
        Op::Cvta => {
            let space = i.space();
            let kind = match (space, has(Flag::To)) {
                (Some(crate::tree::Space::Global), _) => Kind::Copy,
                (_, true) => Kind::FromGeneric,
                (_, false) => Kind::ToGeneric,
            };
            (kind, width)
        }
        _ => return false,
    };
    sink(Write::new(to, kind, width, &sources));
    true
}

fn move_<'a>(i: &'a Instruction, ty: ScalarType, sink: &mut impl FnMut(Write<'a>)) -> bool {
    match i.operands.as_slice() {
        [Operand::Reg(to), Operand::Vector(halves)] if ty.bits() == 64 && halves.len() == 2 => {
            sink(Write::new(to, Kind::Pack, 64, &[&halves[0], &halves[1]]));
            true
        }
        [Operand::Vector(halves), from @ Operand::Reg(_)]
            if ty.bits() == 64 && halves.len() == 2 =>
        {
            let kinds =
                [Kind::Convert { from: 64, from_signed: false, to_signed: false }, Kind::High];
            for (half, kind) in halves.iter().zip(kinds) {
                match half {
                    Operand::Reg(to) => sink(Write::new(to, kind, 32, &[from])),
                    Operand::Sink => {}
                    other => written(other, &mut |name| {
                        sink(Write::new(name, Kind::Unknown, 64, &[]));
                    }),
                }
            }
            true
        }
        [Operand::Reg(to), from] if ty == ScalarType::Pred => {
            sink(Write::new(to, Kind::Copy, 1, &[from]));
            true
        }
        [Operand::Reg(to), from @ (Operand::Reg(_) | Operand::Int(_) | Operand::Symbol(..))]
        | [Operand::Reg(to), from @ Operand::Special(_)] => {
            sink(Write::new(to, Kind::Copy, ty.bits(), &[from]));
            true
        }
        _ => false,
    }
}

fn compare<'a>(i: &'a Instruction, ty: ScalarType, sink: &mut impl FnMut(Write<'a>)) -> bool {
    let flags: Vec<Flag> = i.flags().collect();
    // `setp.lt.and` combines with a third predicate: not modelled.
    let [flag] = flags.as_slice() else { return false };
    let (Some((relation, sign)), [target, a, b]) = (relation(*flag), i.operands.as_slice()) else {
        return false;
    };
    if ty.is_float() || ty.bits() == 0 {
        return false;
    }
    let signed = sign.unwrap_or(ty.is_signed());
    let yes = Kind::Compare { relation, signed };
    let no = Kind::Compare { relation: relation.negated(), signed };
    match target {
        Operand::Reg(to) => sink(Write::new(to, yes, ty.bits(), &[a, b])),
        Operand::Pair(p, q) => {
            for (side, kind) in [(p, yes), (q, no)] {
                match &**side {
                    Operand::Reg(to) => sink(Write::new(to, kind, ty.bits(), &[a, b])),
                    other => written(other, &mut |name| {
                        sink(Write::new(name, Kind::Unknown, 64, &[]));
                    }),
                }
            }
        }
        _ => return false,
    }
    true
}

fn lop3<'a>(
    i: &'a Instruction,
    to: &'a Name,
    width: u32,
    sources: &[&'a Operand],
    sink: &mut impl FnMut(Write<'a>),
) -> bool {
    let [a, b, c, table] = sources else { return false };
    let Some(table) = table.as_int().and_then(|t| u8::try_from(t).ok()) else { return false };
    if i.flags().next().is_some() {
        return false;
    }
    sink(Write::new(to, Kind::Lop3(table), width, &[a, b, c]));
    true
}

fn convert<'a>(
    i: &'a Instruction,
    to: &'a Name,
    sources: &[&'a Operand],
    sink: &mut impl FnMut(Write<'a>),
) -> bool {
    let types: Vec<ScalarType> = i.types().collect();
    let ([to_ty, from_ty], [source]) = (types.as_slice(), sources) else { return false };
    let plain = |ty: &ScalarType| !ty.is_float() && ty.bits() >= 8;
    if !plain(to_ty) || !plain(from_ty) || i.flags().next().is_some() {
        return false;
    }
    let kind = Kind::Convert {
        from: from_ty.bits(),
        from_signed: from_ty.is_signed(),
        to_signed: to_ty.is_signed(),
    };
    sink(Write::new(to, kind, to_ty.bits(), &[source]));
    true
}
