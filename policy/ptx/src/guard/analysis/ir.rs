//! What the analysis knows of a function's computations: one expression for each value a register
//! takes (static single assignment), and the objects whose addresses can be told apart.

use crate::tree::{Name, Special};

/// A value: an index into [`super::ssa::Ssa::expressions`].
pub(super) type Id = u32;

/// An operand of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arg {
    /// Another value.
    Value(Id),
    /// A constant, as 64-bit pattern.
    Int(i64),
    /// An object's address (index into the objects) in its own space, plus bytes.
    Address(u32, i64),
    /// A special register.
    Special(Special),
    /// Nothing is known.
    Unknown,
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The usual six.
pub(super) enum Relation {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

impl Relation {
    /// The relation that holds exactly when this one does not.
    pub(super) const fn negated(self) -> Self {
        match self {
            Self::Eq => Self::Ne,
            Self::Ne => Self::Eq,
            Self::Lt => Self::Ge,
            Self::Le => Self::Gt,
            Self::Gt => Self::Le,
            Self::Ge => Self::Lt,
        }
    }

    /// The relation of the operands the other way round.
    pub(super) const fn flipped(self) -> Self {
        match self {
            Self::Eq => Self::Eq,
            Self::Ne => Self::Ne,
            Self::Lt => Self::Gt,
            Self::Le => Self::Ge,
            Self::Gt => Self::Lt,
            Self::Ge => Self::Le,
        }
    }
}

/// How a value is computed. Widths are in bits; `signed` says how operands are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Named after the PTX instructions they stand for.
pub(super) enum Kind {
    /// Anything.
    Unknown,
    /// A number from the first to the second.
    Range(i64, i64),
    Copy,
    Add,
    Sub,
    Mul,
    MulWide {
        signed: bool,
    },
    MulHigh {
        signed: bool,
    },
    Mad,
    MadWide {
        signed: bool,
    },
    Shl,
    Shr {
        signed: bool,
    },
    And,
    Or,
    Xor,
    Not,
    Neg,
    Abs,
    MinMax {
        signed: bool,
        greater: bool,
    },
    Div {
        signed: bool,
    },
    Rem {
        signed: bool,
    },
    /// First argument if the third (a predicate) holds, else the second.
    Select {
        negated: bool,
    },
    Convert {
        from: u32,
        from_signed: bool,
        to_signed: bool,
    },
    Field {
        signed: bool,
    },
    /// Bit function of three inputs.
    Lop3(u8),
    /// Two 32-bit halves, low first.
    Pack,
    /// The high 32 bits of 64.
    High,
    ToGeneric,
    FromGeneric,
    Compare {
        relation: Relation,
        signed: bool,
    },
    PredAnd,
    PredOr,
    PredNot,
    /// A 64-bit kernel parameter at this offset of the parameter block.
    Param(u64),
    /// One of the arguments of [`super::ssa::Ssa::phis`] at this index.
    Phi(u32),
}

/// An expression.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expression {
    /// Operation.
    pub kind: Kind,
    /// Width of the operation in bits.
    pub width: u32,
    /// Operands; unused ones are [`Arg::Unknown`].
    pub args: [Arg; 3],
    /// The register it is in (an index of the function's registers).
    pub register: u32,
}

/// A state space whose objects are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectSpace {
    /// `.shared`
    Shared,
    /// `.local`
    Local,
    /// Kernel parameters.
    Param,
    /// `.const`
    Const,
}

/// A variable whose address the function takes or uses.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its name.
    pub name: Name,
    /// Where it is.
    pub space: ObjectSpace,
    /// Bytes; `None` for `.extern .shared`, whose size the launch decides.
    pub bytes: Option<u64>,
    /// Alignment in bytes.
    pub align: u64,
}
