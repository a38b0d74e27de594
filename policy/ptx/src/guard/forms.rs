//! The instruction sequences that the guard may emit (docs/ptx-guard.md), and the guard registers of one
//! function. Each guard register is written by one instruction.

use crate::contract::Arena;
use crate::tree::{
    Block, Flag, Guard, Instruction, Mod, Name, Op, Operand, RegisterName, Registers, ScalarType,
    Space, Span, Special, Statement,
};

/// Guard registers handed out so far in a function.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    doubles: u32,
    words: u32,
    wide_values: u32,
    values: u32,
    predicates: u32,
    labels: u32,
}

impl Fresh {
    /// A new 64-bit register.
    pub(super) fn double(&mut self) -> Name {
        self.doubles += 1;
        Name::from(format!("%$ts_d{}", self.doubles - 1))
    }

    /// A new 32-bit register.
    pub(super) fn word(&mut self) -> Name {
        self.words += 1;
        Name::from(format!("%$ts_w{}", self.words - 1))
    }

    /// A new 64-bit register for something that the program computes, which may be written again and
    /// again; no address made safe.
    pub(super) fn wide_value(&mut self) -> Name {
        self.wide_values += 1;
        Name::from(format!("%$ts_e{}", self.wide_values - 1))
    }

    /// The same with 32 bits.
    pub(super) fn value(&mut self) -> Name {
        self.values += 1;
        Name::from(format!("%$ts_v{}", self.values - 1))
    }

    /// A new predicate register.
    pub(super) fn predicate(&mut self) -> Name {
        self.predicates += 1;
        Name::from(format!("%$ts_p{}", self.predicates - 1))
    }

    /// A new label.
    pub(super) fn label(&mut self) -> Name {
        self.labels += 1;
        Name::from(format!("$ts_l{}", self.labels - 1))
    }

    /// Declares the registers at the top of a body.
    pub(super) fn declare(&self, body: &mut Block) {
        let kinds = [
            (ScalarType::B64, "%$ts_d", self.doubles),
            (ScalarType::B32, "%$ts_w", self.words),
            (ScalarType::B64, "%$ts_e", self.wide_values),
            (ScalarType::B32, "%$ts_v", self.values),
            (ScalarType::Pred, "%$ts_p", self.predicates),
        ];
        for (ty, prefix, count) in kinds {
            if count > 0 {
                let names = vec![RegisterName { name: Name::from(prefix), count: Some(count) }];
                let span = Span::NONE;
                let registers = Registers { vector: 1, ty, names, span };
                body.statements.insert(0, Statement::Registers(registers));
            }
        }
    }
}

/// Writes sequences in front of one instruction.
pub(super) struct Emit<'f> {
    /// Where registers come from.
    pub(super) fresh: &'f mut Fresh,
    /// What was written.
    pub(super) out: Vec<Instruction>,
    /// Source position to give it.
    pub(super) span: Span,
}

/// `!(align - 1)` as an operand of 32-bit instructions.
fn align_mask(align: u64) -> i64 {
    i64::from(!(align as u32).wrapping_sub(1))
}

impl<'f> Emit<'f> {
    /// Nothing written yet.
    pub(super) fn new(fresh: &'f mut Fresh, span: Span) -> Self {
        Self { fresh, out: Vec::new(), span }
    }

    /// Writes one instruction.
    pub(super) fn push(
        &mut self,
        op: Op,
        mods: impl IntoIterator<Item = Mod>,
        operands: Vec<Operand>,
    ) {
        self.out.push(Instruction::new(op, mods, operands).at(self.span));
    }

    /// A 32-bit operation.
    pub(super) fn word(&mut self, op: Op, ty: ScalarType, a: &Name, b: Operand) -> Name {
        let to = self.fresh.word();
        self.push(op, [ty.into()], vec![reg(&to), reg(a), b]);
        to
    }

    /// `address + offset`, 64 bits.
    pub(super) fn add64(&mut self, address: &Name, offset: i64) -> Name {
        let to = self.fresh.double();
        let operands = vec![reg(&to), reg(address), Operand::Int(offset)];
        self.push(Op::Add, [ScalarType::S64.into()], operands);
        to
    }

    /// The same address in a guard register.
    pub(super) fn copy64(&mut self, address: &Name) -> Name {
        let to = self.fresh.double();
        self.push(Op::Mov, [ScalarType::B64.into()], vec![reg(&to), reg(address)]);
        to
    }

    /// A 64-bit constant.
    pub(super) fn constant64(&mut self, value: u64) -> Name {
        let to = self.fresh.double();
        let operands = vec![reg(&to), Operand::Int(value as i64)];
        self.push(Op::Mov, [ScalarType::B64.into()], operands);
        to
    }

    /// An address inside the arena and a multiple of `align`; the same one when `address` was both.
    pub(super) fn fence(&mut self, arena: Arena, address: &Name, align: u64) -> Name {
        let (low, high) = (self.fresh.word(), arena.bits() > 32);
        let top = if high { Operand::Reg(self.fresh.word()) } else { Operand::Sink };
        let halves = Operand::Vector(vec![reg(&low), top.clone()]);
        self.push(Op::Mov, [ScalarType::B64.into()], vec![halves, reg(address)]);
        let base = arena.base();
        let (base_low, base_high) = (i64::from(base as u32), (base >> 32) as i64);
        let low = if arena.bits() < 32 {
            let mask = (arena.size() as i64 - 1) & align_mask(align);
            self.lop3(&low, mask, base_low)
        } else if align > 1 {
            self.word(Op::And, ScalarType::B32, &low, Operand::Int(align_mask(align)))
        } else {
            low
        };
        let high = match &top {
            Operand::Reg(top) => {
                let mask = (1i64 << (arena.bits() - 32)) - 1;
                reg(&self.lop3(top, mask, base_high))
            }
            _ => Operand::Int(base_high),
        };
        let to = self.fresh.double();
        let halves = Operand::Vector(vec![reg(&low), high]);
        self.push(Op::Mov, [ScalarType::B64.into()], vec![reg(&to), halves]);
        to
    }

    /// `(value & mask) | base`
    fn lop3(&mut self, value: &Name, mask: i64, base: i64) -> Name {
        let to = self.fresh.word();
        let operands =
            vec![reg(&to), reg(value), Operand::Int(mask), Operand::Int(base), Operand::Int(0xea)];
        self.push(Op::Lop3, [ScalarType::B32.into()], operands);
        to
    }

    /// The low 32 bits of a 64-bit register.
    pub(super) fn narrow(&mut self, address: &Name) -> Name {
        let to = self.fresh.word();
        let types = [Mod::Type(ScalarType::U32), Mod::Type(ScalarType::U64)];
        self.push(Op::Cvt, types, vec![reg(&to), reg(address)]);
        to
    }

    /// A 32-bit register zero-extended to 64.
    pub(super) fn widen(&mut self, address: &Name) -> Name {
        let to = self.fresh.double();
        let types = [Mod::Type(ScalarType::U64), Mod::Type(ScalarType::U32)];
        self.push(Op::Cvt, types, vec![reg(&to), reg(address)]);
        to
    }

    /// The address of an object, 32 bits.
    pub(super) fn symbol(&mut self, name: &Name) -> Name {
        let to = self.fresh.word();
        let operands = vec![reg(&to), Operand::Symbol(name.clone(), 0)];
        self.push(Op::Mov, [ScalarType::B32.into()], operands);
        to
    }

    /// `%dynamic_smem_size - bytes`
    pub(super) fn dynamic_limit(&mut self, bytes: u64) -> Name {
        let size = self.fresh.word();
        let operands = vec![reg(&size), Operand::Special(Special::DynamicSmemSize)];
        self.push(Op::Mov, [ScalarType::U32.into()], operands);
        self.word(Op::Sub, ScalarType::U32, &size, Operand::Int(bytes as i64))
    }

    /// An address in an object: at most `limit` bytes (a constant or register) from its start, and that
    /// distance a multiple of `align`; the same one when `address` (32 bits) was so. Also the distance
    /// that was asked for.
    pub(super) fn clamp(
        &mut self,
        address: &Name,
        object: &Name,
        limit: Operand,
        align: u64,
    ) -> (Name, Name) {
        let base = self.symbol(object);
        let offset = self.word(Op::Sub, ScalarType::S32, address, reg(&base));
        let bounded = self.word(Op::Min, ScalarType::U32, &offset, limit);
        let aligned = if align > 1 {
            self.word(Op::And, ScalarType::B32, &bounded, Operand::Int(align_mask(align)))
        } else {
            bounded
        };
        (self.word(Op::Add, ScalarType::S32, &base, reg(&aligned)), offset)
    }

    /// Whether a distance is at most `limit`, both unsigned.
    pub(super) fn is_at_most(&mut self, distance: &Name, limit: Operand) -> Name {
        let to = self.fresh.predicate();
        let mods = [Mod::Flag(Flag::Le), Mod::Type(ScalarType::U32)];
        self.push(Op::Setp, mods, vec![reg(&to), reg(distance), limit]);
        to
    }

    /// The generic address of an address in `.shared` or `.local` (32 bits).
    pub(super) fn generic(&mut self, address: &Name, space: Space) -> Name {
        let wide = self.widen(address);
        let to = self.fresh.double();
        let mods = [Mod::Space(space), Mod::Type(ScalarType::U64)];
        self.push(Op::Cvta, mods, vec![reg(&to), reg(&wide)]);
        to
    }

    /// The address inside `.shared` or `.local` of a generic one, 32 bits.
    pub(super) fn specific(&mut self, address: &Name, space: Space) -> Name {
        let to = self.fresh.double();
        let mods = [Mod::Flag(Flag::To), Mod::Space(space), Mod::Type(ScalarType::U64)];
        self.push(Op::Cvta, mods, vec![reg(&to), reg(address)]);
        self.narrow(&to)
    }

    /// Whether a generic address points into a space.
    pub(super) fn is_in(&mut self, address: &Name, space: Space) -> Name {
        let to = self.fresh.predicate();
        self.push(Op::Isspacep, [Mod::Space(space)], vec![reg(&to), reg(address)]);
        to
    }

    /// `predicate ? yes : no`, 32 or 64 bits.
    pub(super) fn select(
        &mut self,
        ty: ScalarType,
        yes: &Name,
        no: &Name,
        predicate: &Name,
    ) -> Name {
        let to = if ty.bits() == 64 { self.fresh.double() } else { self.fresh.word() };
        let operands = vec![reg(&to), reg(yes), reg(no), reg(predicate)];
        self.push(Op::Selp, [ty.into()], operands);
        to
    }

    /// Whether two registers differ and `also` holds (a predicate, perhaps negated).
    pub(super) fn differ(
        &mut self,
        ty: ScalarType,
        a: &Name,
        b: Operand,
        also: Option<&Guard>,
    ) -> Name {
        let to = self.fresh.predicate();
        let mut mods = vec![Mod::Flag(Flag::Ne)];
        let mut operands = vec![reg(&to), reg(a), b];
        if let Some(guard) = also {
            mods.push(Mod::Flag(Flag::And));
            operands.push(match guard.negated {
                true => Operand::NotReg(guard.reg.clone()),
                false => Operand::Reg(guard.reg.clone()),
            });
        }
        mods.push(Mod::Type(ty));
        self.push(Op::Setp, mods, operands);
        to
    }

    /// Branches to a label when a predicate holds.
    pub(super) fn branch(&mut self, predicate: &Name, label: &Name) {
        let guard = Guard { negated: false, reg: predicate.clone() };
        self.push(Op::Bra, [], vec![Operand::Symbol(label.clone(), 0)]);
        if let Some(last) = self.out.last_mut() {
            last.guard = Some(guard);
        }
    }
}

/// A register operand.
pub(super) fn reg(name: &Name) -> Operand {
    Operand::Reg(name.clone())
}
