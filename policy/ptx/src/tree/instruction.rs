//! One instruction: predicate, opcode, modifiers, operands; typed accessors and constructors.

use super::name::{Name, Span};
use super::words::{Flag, Op, ScalarType, Space, Special};

/// The base opcode of an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// One that this crate can name.
    Known(Op),
    /// Any other word; [`mod@crate::check`] refuses it.
    Unknown(Name),
}

impl Opcode {
    /// The spelling.
    pub fn text(&self) -> &str {
        match self {
            Self::Known(op) => op.text(),
            Self::Unknown(name) => name,
        }
    }
}

/// A dot-modifier of an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mod {
    /// A type, `.u32`.
    Type(ScalarType),
    /// A state space, `.global`.
    Space(Space),
    /// Any other word that this crate can name, `.sync`.
    Flag(Flag),
    /// A word that it cannot name; [`mod@crate::check`] refuses it.
    Other(Name),
}

impl Mod {
    /// The modifier with this spelling (without the dot).
    pub fn from_text(text: &str) -> Option<Self> {
        if let Some(ty) = ScalarType::from_text(text) {
            Some(Self::Type(ty))
        } else if let Some(space) = Space::from_text(text) {
            Some(Self::Space(space))
        } else {
            Flag::from_text(text).map(Self::Flag)
        }
    }

    /// The spelling, without the dot.
    pub fn text(&self) -> &str {
        match self {
            Self::Type(ty) => ty.text(),
            Self::Space(space) => space.text(),
            Self::Flag(flag) => flag.text(),
            Self::Other(name) => name,
        }
    }
}

impl From<ScalarType> for Mod {
    fn from(ty: ScalarType) -> Self {
        Self::Type(ty)
    }
}

impl From<Space> for Mod {
    fn from(space: Space) -> Self {
        Self::Space(space)
    }
}

impl From<Flag> for Mod {
    fn from(flag: Flag) -> Self {
        Self::Flag(flag)
    }
}

/// The predicate in front of an instruction, `@p` or `@!p`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The instruction runs when the register is false.
    pub negated: bool,
    /// The predicate register.
    pub reg: Name,
}

/// What an address starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// A register.
    Reg(Name),
    /// A variable, parameter or function.
    Symbol(Name),
    /// Nothing: the offset is the absolute address.
    Absolute,
}

/// A memory operand, `[base+offset]`; textures and tensors add coordinates after a comma.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// What the address starts from.
    pub base: Base,
    /// Bytes added to it (for [`Base::Absolute`], the address itself).
    pub offset: i64,
    /// Further operands inside the brackets, as texture and tensor instructions have.
    pub rest: Box<[Operand]>,
}

impl Address {
    /// `[reg+offset]`.
    pub fn reg(reg: impl Into<Name>, offset: i64) -> Self {
        Self { base: Base::Reg(reg.into()), offset, rest: Box::default() }
    }

    /// `[symbol+offset]`.
    pub fn symbol(symbol: impl Into<Name>, offset: i64) -> Self {
        Self { base: Base::Symbol(symbol.into()), offset, rest: Box::default() }
    }
}

/// An operand of an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operand {
    /// A declared register. Register names are unique in a function (see [`mod@crate::parse`]).
    Reg(Name),
    /// A negated predicate register, `!p`.
    NotReg(Name),
    /// One component of a vector register, `v.x`: 0 to 3 for x, y, z, w (r, g, b, a).
    Component(Name, u8),
    /// A special register.
    Special(Special),
    /// An integer constant as a 64-bit pattern: a `.u64` constant above `i64::MAX` is negative here.
    Int(i64),
    /// A single-precision constant, `0fXXXXXXXX`, as bits.
    F32(u32),
    /// A double-precision or decimal constant, `0dXXXXXXXXXXXXXXXX`, as bits.
    F64(u64),
    /// The address of a variable, parameter or function, or a label, plus bytes.
    Symbol(Name, i64),
    /// `{a, b, …}`.
    Vector(Vec<Operand>),
    /// `[…]`.
    Address(Address),
    /// Two destinations, `a|b`.
    Pair(Box<Operand>, Box<Operand>),
    /// `_`: a value not wanted.
    Sink,
    /// `(a, b, …)`: the arguments or results of a call.
    List(Vec<Operand>),
}

impl Operand {
    /// A register operand.
    pub fn reg(name: impl Into<Name>) -> Self {
        Self::Reg(name.into())
    }

    /// A symbol operand without offset.
    pub fn symbol(name: impl Into<Name>) -> Self {
        Self::Symbol(name.into(), 0)
    }

    /// The register's name, if this is a plain register.
    pub fn as_reg(&self) -> Option<&Name> {
        match self {
            Self::Reg(name) => Some(name),
            _ => None,
        }
    }

    /// The symbol's name, if this is a symbol.
    pub fn as_symbol(&self) -> Option<&Name> {
        match self {
            Self::Symbol(name, _) => Some(name),
            _ => None,
        }
    }

    /// The value, if this is an integer constant.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// The memory operand, if this is one.
    pub fn as_address(&self) -> Option<&Address> {
        match self {
            Self::Address(address) => Some(address),
            _ => None,
        }
    }

    /// Calls `visit` for every register named anywhere in the operand (address bases included).
    pub fn for_each_reg<'a>(&'a self, visit: &mut impl FnMut(&'a Name)) {
        match self {
            Self::Reg(name) | Self::NotReg(name) | Self::Component(name, _) => visit(name),
            Self::Vector(items) | Self::List(items) => {
                items.iter().for_each(|item| item.for_each_reg(visit));
            }
            Self::Address(address) => {
                if let Base::Reg(name) = &address.base {
                    visit(name);
                }
                address.rest.iter().for_each(|item| item.for_each_reg(visit));
            }
            Self::Pair(a, b) => {
                a.for_each_reg(visit);
                b.for_each_reg(visit);
            }
            Self::Special(_) | Self::Int(_) | Self::F32(_) | Self::F64(_) => {}
            Self::Symbol(..) | Self::Sink => {}
        }
    }
}

/// An instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Predicate, if any.
    pub guard: Option<Guard>,
    /// Base opcode.
    pub opcode: Opcode,
    /// Modifiers in the order written.
    pub mods: Vec<Mod>,
    /// Operands in the order written.
    pub operands: Vec<Operand>,
    /// Source position; keep it when rewriting, so that faults name the tenant's line.
    pub span: Span,
}

/// The parts of a `call`.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Where results go (`.param` symbols or registers).
    pub results: &'a [Operand],
    /// Function symbol, or register for an indirect call.
    pub target: &'a Operand,
    /// Arguments.
    pub args: &'a [Operand],
    /// Label of a `.callprototype` or `.calltargets`, for an indirect call.
    pub prototype: Option<&'a Name>,
}

impl Instruction {
    /// An instruction without predicate or source position.
    pub fn new(op: Op, mods: impl IntoIterator<Item = Mod>, operands: Vec<Operand>) -> Self {
        Self {
            guard: None,
            opcode: Opcode::Known(op),
            mods: mods.into_iter().collect(),
            operands,
            span: Span::NONE,
        }
    }

    /// The same with a source position.
    #[must_use]
    pub fn at(mut self, span: Span) -> Self {
        self.span = span;
        self
    }

    /// The same with a predicate.
    #[must_use]
    pub fn guarded(mut self, guard: Option<Guard>) -> Self {
        self.guard = guard;
        self
    }

    /// The base opcode, if it is a known one.
    pub fn op(&self) -> Option<Op> {
        match &self.opcode {
            Opcode::Known(op) => Some(*op),
            Opcode::Unknown(_) => None,
        }
    }

    /// True when the modifier is present.
    pub fn has(&self, flag: Flag) -> bool {
        self.mods.contains(&Mod::Flag(flag))
    }

    /// The flags among the modifiers, in order.
    pub fn flags(&self) -> impl Iterator<Item = Flag> + '_ {
        self.mods.iter().filter_map(|m| match m {
            Mod::Flag(flag) => Some(*flag),
            _ => None,
        })
    }

    /// The types among the modifiers, in order (`cvt.f32.s32`: destination, then source).
    pub fn types(&self) -> impl Iterator<Item = ScalarType> + '_ {
        self.mods.iter().filter_map(|m| match m {
            Mod::Type(ty) => Some(*ty),
            _ => None,
        })
    }

    /// The first type among the modifiers.
    pub fn ty(&self) -> Option<ScalarType> {
        self.types().next()
    }

    /// The state spaces among the modifiers, in order.
    pub fn spaces(&self) -> impl Iterator<Item = Space> + '_ {
        self.mods.iter().filter_map(|m| match m {
            Mod::Space(space) => Some(*space),
            _ => None,
        })
    }

    /// The first state space; `None` on a memory instruction means a generic address.
    pub fn space(&self) -> Option<Space> {
        self.spaces().next()
    }

    /// Vector length of a memory access: 1, 2, 4 or 8.
    pub fn vector(&self) -> u32 {
        self.flags()
            .find_map(|flag| match flag {
                Flag::V2 => Some(2),
                Flag::V4 => Some(4),
                Flag::V8 => Some(8),
                _ => None,
            })
            .unwrap_or(1)
    }

    /// The first memory operand.
    pub fn address(&self) -> Option<&Address> {
        self.operands.iter().find_map(Operand::as_address)
    }

    /// The first memory operand, to be rewritten.
    pub fn address_mut(&mut self) -> Option<&mut Address> {
        self.operands.iter_mut().find_map(|operand| match operand {
            Operand::Address(address) => Some(address),
            _ => None,
        })
    }

    /// The parts of a `call`; `None` for other opcodes or a malformed operand list.
    pub fn call(&self) -> Option<Call<'_>> {
        if self.op() != Some(Op::Call) {
            return None;
        }
        let mut rest = self.operands.as_slice();
        let mut results: &[Operand] = &[];
        if let [Operand::List(list), tail @ ..] = rest {
            results = list;
            rest = tail;
        }
        let [target @ (Operand::Symbol(_, 0) | Operand::Reg(_)), tail @ ..] = rest else {
            return None;
        };
        rest = tail;
        let mut args: &[Operand] = &[];
        if let [Operand::List(list), tail @ ..] = rest {
            args = list;
            rest = tail;
        }
        let prototype = match rest {
            [] => None,
            [Operand::Symbol(name, 0)] => Some(name),
            _ => return None,
        };
        Some(Call { results, target, args, prototype })
    }
}
