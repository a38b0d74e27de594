//! A tree to PTX text: one statement a line, no comments, nothing that the tree does not say.
//! Printing what was parsed and parsing it again gives the same tree, spans aside.

use std::fmt::Write;

use crate::tree::{
    Address, Base, Block, Directive, Function, FunctionKind, Init, InitSymbol, Instruction, Item,
    Linkage, Module, Operand, Pragma, Registers, Statement, Targets, Variable,
};

/// A printed module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Printed {
    /// The text.
    pub text: String,
    /// For each line of the text (the first is index 0), the line its node came from in the source
    /// it was parsed from; 0 where there is none.
    pub lines: Vec<u32>,
}

/// Prints a module.
pub fn print(module: &Module) -> Printed {
    let mut out = Printer { text: String::with_capacity(4096), lines: Vec::new(), depth: 0 };
    let (major, minor) = module.version;
    out.line(0, |t| {
        let _ = write!(t, ".version {major}.{minor}");
    });
    out.line(0, |t| {
        t.push_str(".target ");
        join(t, &module.target, |t, name| t.push_str(name));
    });
    out.line(0, |t| {
        let _ = write!(t, ".address_size {}", module.address_size);
    });
    for item in &module.items {
        match item {
            Item::Function(function) => out.function(function),
            Item::Variable(v) => out.line(v.span.line, |t| {
                variable(t, v);
                t.push(';');
            }),
            Item::Alias { name, target, span } => out.line(span.line, |t| {
                let _ = write!(t, ".alias {name}, {target};");
            }),
            Item::Pragma(p) => out.pragma(p),
        }
    }
    Printed { text: out.text, lines: out.lines }
}

/// Prints one instruction, with predicate and semicolon.
pub fn print_instruction(instruction: &Instruction) -> String {
    let mut text = String::new();
    write_instruction(&mut text, instruction);
    text
}

struct Printer {
    text: String,
    lines: Vec<u32>,
    depth: usize,
}

impl Printer {
    fn line(&mut self, source_line: u32, write: impl FnOnce(&mut String)) {
        for _ in 0..self.depth {
            self.text.push('\t');
        }
        write(&mut self.text);
        self.text.push('\n');
        self.lines.push(source_line);
    }

    fn function(&mut self, f: &Function) {
        self.line(f.span.line, |t| {
            linkage(t, f.linkage);
            t.push_str(match f.kind {
                FunctionKind::Entry => ".entry ",
                FunctionKind::Func => ".func ",
            });
            if !f.results.is_empty() {
                t.push('(');
                join(t, &f.results, variable);
                t.push_str(") ");
            }
            t.push_str(&f.name);
            t.push('(');
            join(t, &f.params, variable);
            t.push(')');
            for d in &f.directives {
                t.push(' ');
                directive(t, d);
            }
            if f.body.is_none() {
                t.push(';');
            }
        });
        if let Some(body) = &f.body {
            self.block(body);
        }
    }

    fn block(&mut self, block: &Block) {
        self.line(block.span.line, |t| t.push('{'));
        self.depth += 1;
        for statement in &block.statements {
            self.statement(statement);
        }
        self.depth -= 1;
        self.line(0, |t| t.push('}'));
    }

    fn pragma(&mut self, p: &Pragma) {
        self.line(p.span.line, |t| {
            t.push_str(".pragma ");
            join(t, &p.texts, |t, text| {
                let _ = write!(t, "\"{text}\"");
            });
            t.push(';');
        });
    }

    fn statement(&mut self, statement: &Statement) {
        match statement {
            Statement::Label(name, span) => self.line(span.line, |t| {
                t.push_str(name);
                t.push(':');
            }),
            Statement::Instruction(i) => self.line(i.span.line, |t| write_instruction(t, i)),
            Statement::Registers(r) => self.line(r.span.line, |t| registers(t, r)),
            Statement::Variable(v) => self.line(v.span.line, |t| {
                variable(t, v);
                t.push(';');
            }),
            Statement::Block(block) => self.block(block),
            Statement::BranchTargets(list) => self.targets(list, ".branchtargets"),
            Statement::CallTargets(list) => self.targets(list, ".calltargets"),
            Statement::CallPrototype(p) => self.line(p.span.line, |t| {
                let _ = write!(t, "{}: .callprototype ", p.name);
                if !p.results.is_empty() {
                    t.push('(');
                    join(t, &p.results, variable);
                    t.push_str(") ");
                }
                t.push_str("_ (");
                join(t, &p.params, variable);
                t.push(')');
                for d in &p.directives {
                    t.push(' ');
                    directive(t, d);
                }
                t.push(';');
            }),
            Statement::Pragma(p) => self.pragma(p),
        }
    }

    fn targets(&mut self, list: &Targets, word: &str) {
        self.line(list.span.line, |t| {
            let _ = write!(t, "{}: {word} ", list.name);
            join(t, &list.targets, |t, name| t.push_str(name));
            t.push(';');
        });
    }
}

fn join<T>(text: &mut String, items: &[T], mut write: impl FnMut(&mut String, &T)) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            text.push_str(", ");
        }
        write(text, item);
    }
}

fn linkage(t: &mut String, linkage: Linkage) {
    t.push_str(match linkage {
        Linkage::Internal => "",
        Linkage::Visible => ".visible ",
        Linkage::Extern => ".extern ",
        Linkage::Weak => ".weak ",
        Linkage::Common => ".common ",
    });
}

fn directive(t: &mut String, d: &Directive) {
    let _ = write!(t, ".{}", d.name);
    for (index, value) in d.values.iter().enumerate() {
        let _ = write!(t, "{}{value}", if index == 0 { " " } else { ", " });
    }
}

fn registers(t: &mut String, r: &Registers) {
    t.push_str(".reg ");
    if r.vector > 1 {
        let _ = write!(t, ".v{} ", r.vector);
    }
    let _ = write!(t, ".{} ", r.ty);
    join(t, &r.names, |t, declared| {
        t.push_str(&declared.name);
        if let Some(count) = declared.count {
            let _ = write!(t, "<{count}>");
        }
    });
    t.push(';');
}

fn variable(t: &mut String, v: &Variable) {
    linkage(t, v.linkage);
    let _ = write!(t, ".{} ", v.space);
    if v.managed {
        t.push_str(".attribute(.managed) ");
    }
    if let Some(align) = v.align {
        let _ = write!(t, ".align {align} ");
    }
    if v.vector > 1 {
        let _ = write!(t, ".v{} ", v.vector);
    }
    let _ = write!(t, ".{} ", v.ty);
    if let Some(pointer) = v.pointer {
        t.push_str(".ptr ");
        if let Some(space) = pointer.space {
            let _ = write!(t, ".{space} ");
        }
        if let Some(align) = pointer.align {
            let _ = write!(t, ".align {align} ");
        }
    }
    t.push_str(&v.name);
    for dim in &v.dims {
        match dim {
            Some(dim) => {
                let _ = write!(t, "[{dim}]");
            }
            None => t.push_str("[]"),
        }
    }
    if let Some(value) = &v.init {
        t.push_str(" = ");
        init(t, value);
    }
}

fn init(t: &mut String, value: &Init) {
    match value {
        Init::List(items) => {
            t.push('{');
            join(t, items, init);
            t.push('}');
        }
        Init::Int(value) => integer(t, *value),
        Init::F32(bits) => {
            let _ = write!(t, "0f{bits:08X}");
        }
        Init::F64(bits) => {
            let _ = write!(t, "0d{bits:016X}");
        }
        Init::Symbol(symbol) => init_symbol(t, symbol),
    }
}

fn init_symbol(t: &mut String, symbol: &InitSymbol) {
    if let Some(mask) = symbol.mask {
        let _ = write!(t, "0x{mask:X}(");
    }
    if symbol.generic {
        let _ = write!(t, "generic({})", symbol.name);
    } else {
        t.push_str(&symbol.name);
    }
    if symbol.offset != 0 {
        let _ = write!(t, "{:+}", symbol.offset);
    }
    if symbol.mask.is_some() {
        t.push(')');
    }
}

/// `i64::MIN` cannot be written as a negated decimal constant without overflowing on the way.
fn integer(t: &mut String, value: i64) {
    let _ = if value == i64::MIN { write!(t, "0x{value:X}") } else { write!(t, "{value}") };
}

fn write_instruction(t: &mut String, i: &Instruction) {
    if let Some(guard) = &i.guard {
        let _ = write!(t, "@{}{} ", if guard.negated { "!" } else { "" }, guard.reg);
    }
    t.push_str(i.opcode.text());
    for m in &i.mods {
        t.push('.');
        t.push_str(m.text());
    }
    for (index, item) in i.operands.iter().enumerate() {
        t.push_str(if index == 0 { " " } else { ", " });
        operand(t, item);
    }
    t.push(';');
}

fn operand(t: &mut String, value: &Operand) {
    match value {
        Operand::Reg(name) => t.push_str(name),
        Operand::NotReg(name) => {
            t.push('!');
            t.push_str(name);
        }
        Operand::Component(name, index) => {
            let component = ["x", "y", "z", "w"].get(usize::from(*index)).unwrap_or(&"x");
            let _ = write!(t, "{name}.{component}");
        }
        Operand::Special(special) => t.push_str(special.text()),
        Operand::Int(value) => integer(t, *value),
        Operand::F32(bits) => {
            let _ = write!(t, "0f{bits:08X}");
        }
        Operand::F64(bits) => {
            let _ = write!(t, "0d{bits:016X}");
        }
        Operand::Symbol(name, 0) => t.push_str(name),
        Operand::Symbol(name, offset) => {
            let _ = write!(t, "{name}{offset:+}");
        }
        Operand::Vector(items) => {
            t.push('{');
            join(t, items, operand);
            t.push('}');
        }
        Operand::Address(a) => address(t, a),
        Operand::Pair(a, b) => {
            operand(t, a);
            t.push('|');
            operand(t, b);
        }
        Operand::Sink => t.push('_'),
        Operand::List(items) => {
            t.push('(');
            join(t, items, operand);
            t.push(')');
        }
    }
}

fn address(t: &mut String, a: &Address) {
    t.push('[');
    match &a.base {
        Base::Reg(name) | Base::Symbol(name) => {
            t.push_str(name);
            if a.offset != 0 {
                // ptxas reads `[r+-4]`, but not `[r-4]`.
                let _ = write!(t, "+{}", a.offset);
            }
        }
        Base::Absolute => integer(t, a.offset),
    }
    for item in &a.rest {
        t.push_str(", ");
        operand(t, item);
    }
    t.push(']');
}
