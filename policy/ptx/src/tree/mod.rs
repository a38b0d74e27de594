//! The tree of a PTX module: what was written, with byte spans and lines, owned and rewritable.
//!
//! It keeps everything that has a meaning; comments, white space and debug information are dropped
//! (see [`mod@crate::parse`]). It is not a judgement: a tree may hold anything the grammar allows, and
//! [`mod@crate::check`] decides what of it is permitted. Source: PTX ISA 9.0, sections 4, 5 and 11.

mod instruction;
mod name;
mod words;

pub use instruction::{Address, Base, Call, Guard, Instruction, Mod, Opcode, Operand};
pub use name::{Name, RESERVED, Span};
pub use words::{Flag, Op, ScalarType, Space, Special};

/// A translation unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// `.version major.minor`.
    pub version: (u32, u32),
    /// `.target` names, the architecture first: `sm_90a`, `debug`, `texmode_independent`.
    pub target: Vec<Name>,
    /// `.address_size` in bits; 64 when absent (32-bit modules are refused by the check).
    pub address_size: u32,
    /// Everything else, in order.
    pub items: Vec<Item>,
}

/// Something at module level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A kernel or function, defined or declared. Boxed: far larger than the others.
    Function(Box<Function>),
    /// A variable in `.global`, `.const` or `.shared`.
    Variable(Variable),
    /// `.alias name, target;`
    Alias {
        /// The new name.
        name: Name,
        /// What it stands for.
        target: Name,
        /// Source position.
        span: Span,
    },
    /// `.pragma "…";` at module level.
    Pragma(Pragma),
}

/// How a symbol links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linkage {
    /// Visible in this module only.
    Internal,
    /// `.visible`
    Visible,
    /// `.extern`
    Extern,
    /// `.weak`
    Weak,
    /// `.common`
    Common,
}

/// `.entry` or `.func`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FunctionKind {
    /// A kernel.
    Entry,
    /// A device function.
    Func,
}

/// A kernel or function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Linkage.
    pub linkage: Linkage,
    /// Kernel or device function.
    pub kind: FunctionKind,
    /// Name.
    pub name: Name,
    /// Return parameters (`.param` or `.reg`); empty for kernels.
    pub results: Vec<Variable>,
    /// Parameters.
    pub params: Vec<Variable>,
    /// Directives between the parameters and the body, `.maxntid` and the like, in order.
    pub directives: Vec<Directive>,
    /// The body; `None` for a declaration.
    pub body: Option<Block>,
    /// Source position of the header.
    pub span: Span,
}

impl Function {
    /// The numbers of the first directive with this name (without the dot), if present.
    pub fn directive(&self, name: &str) -> Option<&[u32]> {
        self.directives.iter().find(|d| d.name == name).map(|d| d.values.as_slice())
    }
}

/// A directive of a function: its name without the dot and its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    /// `maxntid`, `reqntid`, `minnctapersm`, `maxnctapersm`, `maxnreg`, `noreturn`,
    /// `explicitcluster`, `reqnctapercluster`, `maxclusterrank`, `blocksareclusters`,
    /// `abi_preserve`, `abi_preserve_control`.
    pub name: Name,
    /// Its numbers, often none.
    pub values: Vec<u32>,
    /// Source position.
    pub span: Span,
}

/// `.pragma "…", "…";`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pragma {
    /// The strings, without quotes.
    pub texts: Vec<Name>,
    /// Source position.
    pub span: Span,
}

impl Pragma {
    /// True for `.pragma "nounroll";`, which keeps the assembler from unrolling a loop and does nothing
    /// else (PTX ISA 9.0, section 12.1).
    pub fn is_nounroll(&self) -> bool {
        matches!(self.texts.as_slice(), [text] if &**text == "nounroll")
    }
}

/// `{ … }`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// Contents, in order.
    pub statements: Vec<Statement>,
    /// Source position of the opening brace.
    pub span: Span,
}

/// Something inside a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// `name:`
    Label(Name, Span),
    /// An instruction.
    Instruction(Instruction),
    /// `.reg …;`
    Registers(Registers),
    /// A variable in `.local`, `.shared`, `.param` (for calls) or another space.
    Variable(Variable),
    /// A nested scope.
    Block(Block),
    /// `name: .branchtargets a, b;`
    BranchTargets(Targets),
    /// `name: .calltargets f, g;`
    CallTargets(Targets),
    /// `name: .callprototype …;`
    CallPrototype(Prototype),
    /// `.pragma "…";`
    Pragma(Pragma),
}

/// A list of labels or functions under a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Targets {
    /// The list's own label.
    pub name: Name,
    /// Its members.
    pub targets: Vec<Name>,
    /// Source position.
    pub span: Span,
}

/// The signature of an indirect call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prototype {
    /// The prototype's label.
    pub name: Name,
    /// Results (names are usually `_`).
    pub results: Vec<Variable>,
    /// Parameters (names are usually `_`).
    pub params: Vec<Variable>,
    /// `.noreturn`, `.abi_preserve n` and the like.
    pub directives: Vec<Directive>,
    /// Source position.
    pub span: Span,
}

/// `.reg .type a, b<4>;`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registers {
    /// Vector length of each register: 1, 2 or 4.
    pub vector: u32,
    /// Type of each element.
    pub ty: ScalarType,
    /// What is declared.
    pub names: Vec<RegisterName>,
    /// Source position.
    pub span: Span,
}

/// One declarator of a `.reg` directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterName {
    /// The name, or the prefix if there is a count.
    pub name: Name,
    /// `Some(n)` declares `name0` to `name(n-1)`.
    pub count: Option<u32>,
}

/// A variable or parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Linkage; `Internal` for everything inside functions.
    pub linkage: Linkage,
    /// State space.
    pub space: Space,
    /// `.align`, in bytes, if written.
    pub align: Option<u32>,
    /// Vector length of each element: 1, 2, 4 or 8.
    pub vector: u32,
    /// Element type.
    pub ty: ScalarType,
    /// `.ptr` attribute of a kernel parameter.
    pub pointer: Option<Pointer>,
    /// `.attribute(.managed)`
    pub managed: bool,
    /// Name (`_` in prototypes).
    pub name: Name,
    /// Array dimensions, outermost first; empty for a scalar, `None` for `[]`.
    pub dims: Vec<Option<u64>>,
    /// Initial value.
    pub init: Option<Init>,
    /// Source position.
    pub span: Span,
}

/// `.ptr .space .align n`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// What it points to; `None` is generic.
    pub space: Option<Space>,
    /// Promised alignment in bytes.
    pub align: Option<u32>,
}

impl Variable {
    /// Bytes of one element, vector included.
    pub fn element_bytes(&self) -> u64 {
        u64::from(if self.ty.is_opaque() { 8 } else { self.ty.bytes() }) * u64::from(self.vector)
    }

    /// Bytes in all; `None` when the size is open (`[]`) or does not fit 64 bits. `name[] = {…}`
    /// takes its first dimension from the initialiser.
    pub fn bytes(&self) -> Option<u64> {
        let mut total = self.element_bytes();
        for (index, dim) in self.dims.iter().enumerate() {
            let dim = match (dim, &self.init) {
                (Some(dim), _) => *dim,
                (None, Some(Init::List(items))) if index == 0 => items.len() as u64,
                _ => return None,
            };
            total = total.checked_mul(dim)?;
        }
        Some(total)
    }

    /// Alignment in bytes: as written, else the natural alignment of an element.
    pub fn alignment(&self) -> u64 {
        self.align.map_or_else(|| self.element_bytes().max(1), u64::from)
    }
}

/// An initialiser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Init {
    /// `{ … }`
    List(Vec<Init>),
    /// An integer, as a 64-bit pattern.
    Int(i64),
    /// Single-precision bits.
    F32(u32),
    /// Double-precision bits.
    F64(u64),
    /// The address of a symbol. Boxed, because most initialisers are numbers and there are many.
    Symbol(Box<InitSymbol>),
}

/// An address in an initialiser: `mask(generic(name)+offset)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitSymbol {
    /// The variable or function.
    pub name: Name,
    /// Bytes added.
    pub offset: i64,
    /// `generic(…)`: its generic address rather than the one inside its space.
    pub generic: bool,
    /// `0xFF00(…)`: which byte of the address to take, as a mask.
    pub mask: Option<u64>,
}
