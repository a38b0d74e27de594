//! Check mode: the record of the first violation, and the function that writes it.
//!
//! The record is [`RECORD_BYTES`] little-endian bytes at [`GuardOptions::report_address`]:
//! `state: u32` (0 none, 1 being written, 2 complete), `function: u32` (position in
//! [`super::Report::functions`]), `line: u32` (of the tenant's text), `kind: u32` ([`ViolationKind`]),
//! `address: u64` (the one asked for), `block: [u32; 3]`, `thread: [u32; 3]`. It lies in the tenant's
//! own arena: a tenant can forge it, to its own loss only.

use crate::tree::{
    Address, Block, Flag, Function, FunctionKind, Guard, Instruction, Linkage, Mod, Name, Op,
    Operand, ScalarType, Space, Span, Special, Statement, Variable,
};

use super::GuardOptions;
use super::access::Target;
use super::forms::{Emit, Fresh, reg};

/// Size of the record in bytes, padding included.
pub const RECORD_BYTES: u64 = 64;

/// The function that writes the record.
pub(super) const REPORTER: &str = "$ts_report";

/// What was violated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ViolationKind {
    /// A `.global` address outside the arena, or misaligned.
    Global = 1,
    /// A generic address outside all it may reach, or misaligned.
    Generic = 2,
    /// A shared address outside its object, or misaligned.
    Shared = 3,
    /// A local address outside its object, or misaligned.
    Local = 4,
    /// A parameter address outside its parameter, or misaligned.
    Param = 5,
    /// `trap`, a failed assertion, or a call of something that is no function.
    Trap = 6,
}

impl From<Target> for ViolationKind {
    fn from(target: Target) -> Self {
        match target {
            Target::Global => Self::Global,
            Target::Generic => Self::Generic,
            Target::Shared => Self::Shared,
            Target::Local => Self::Local,
            Target::Param => Self::Param,
        }
    }
}

/// A place in a function that reports and ends the thread.
pub(super) struct Violation {
    /// Its label.
    pub(super) label: Name,
    /// The address to report: a 64-bit register, or nothing.
    pub(super) address: Option<Name>,
    /// Line of the tenant's text.
    pub(super) line: u32,
    /// What was violated.
    pub(super) kind: ViolationKind,
}

impl Violation {
    /// The block at the end of the function.
    pub(super) fn statements(&self, function: usize) -> Vec<Statement> {
        let address = self.address.as_ref().map_or(Operand::Int(0), reg);
        let args = vec![
            address,
            Operand::Int(self.line.into()),
            Operand::Int(function as i64),
            Operand::Int(self.kind as i64),
        ];
        let operands = vec![Operand::Symbol(Name::from(REPORTER), 0), Operand::List(args)];
        vec![
            Statement::Label(self.label.clone(), Span::NONE),
            Statement::Instruction(Instruction::new(Op::Call, [], operands)),
            Statement::Instruction(Instruction::new(Op::Exit, [], vec![])),
        ]
    }
}

/// The function that claims the record, fills it and ends the thread.
pub(super) fn reporter(options: &GuardOptions, fresh: &mut Fresh) -> Function {
    let param = |name: &str, ty| Variable {
        linkage: Linkage::Internal,
        space: Space::Param,
        align: None,
        vector: 1,
        ty,
        pointer: None,
        managed: false,
        name: Name::from(name),
        dims: Vec::new(),
        init: None,
        span: Span::NONE,
    };
    let words = ["$ts_report_line", "$ts_report_function", "$ts_report_kind"];
    let mut params = vec![param("$ts_report_address", ScalarType::B64)];
    params.extend(words.map(|name| param(name, ScalarType::B32)));
    let mut emit = Emit::new(fresh, Span::NONE);
    let record = emit.constant64(options.report_address);
    let at = |offset: i64| Operand::Address(Address::reg(record.clone(), offset));
    let load = |emit: &mut Emit<'_>, name: &Name, ty: ScalarType| {
        let to = if ty.bits() == 64 { emit.fresh.double() } else { emit.fresh.word() };
        let from = Operand::Address(Address::symbol(name.clone(), 0));
        emit.push(Op::Ld, [Mod::Space(Space::Param), Mod::Type(ty)], vec![reg(&to), from]);
        to
    };
    let values: Vec<Name> = params.iter().map(|p| load(&mut emit, &p.name, p.ty)).collect();
    let claimed = emit.fresh.word();
    let mods = [Mod::Space(Space::Global), Mod::Flag(Flag::Cas), Mod::Type(ScalarType::B32)];
    let operands = vec![reg(&claimed), at(0), Operand::Int(0), Operand::Int(1)];
    emit.push(Op::Atom, mods, operands);
    let late = emit.differ(ScalarType::B32, &claimed, Operand::Int(0), None);
    emit.push(Op::Exit, [], vec![]);
    if let Some(last) = emit.out.last_mut() {
        last.guard = Some(Guard { negated: false, reg: late });
    }
    let store = |emit: &mut Emit<'_>, offset: i64, ty: ScalarType, value: Operand| {
        let mods = [Mod::Space(Space::Global), Mod::Type(ty)];
        emit.push(Op::St, mods, vec![at(offset), value]);
    };
    // function, line, kind, address
    for (value, offset) in [(2, 4), (1, 8), (3, 12)] {
        store(&mut emit, offset, ScalarType::B32, reg(&values[value]));
    }
    store(&mut emit, 16, ScalarType::B64, reg(&values[0]));
    let places = [
        Special::CtaidX,
        Special::CtaidY,
        Special::CtaidZ,
        Special::TidX,
        Special::TidY,
        Special::TidZ,
    ];
    for (index, special) in places.into_iter().enumerate() {
        let value = emit.fresh.word();
        emit.push(Op::Mov, [ScalarType::U32.into()], vec![reg(&value), Operand::Special(special)]);
        store(&mut emit, 24 + 4 * index as i64, ScalarType::B32, reg(&value));
    }
    emit.push(Op::Membar, [Mod::Flag(Flag::Sys)], vec![]);
    store(&mut emit, 0, ScalarType::B32, Operand::Int(2));
    emit.push(Op::Exit, [], vec![]);
    let statements = emit.out.into_iter().map(Statement::Instruction).collect();
    Function {
        linkage: Linkage::Internal,
        kind: FunctionKind::Func,
        name: Name::from(REPORTER),
        results: Vec::new(),
        params,
        directives: Vec::new(),
        body: Some(Block { statements, span: Span::NONE }),
        span: Span::NONE,
    }
}
