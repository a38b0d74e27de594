//! The state of lowering one function: registers, constants, labels, the frame, and the code made so far.

use std::collections::HashMap;

use turnstile_ptx::tree::{
    Block, Function as Declared, Name, Operand, Registers, ScalarType, Space, Statement, Variable,
};
use turnstile_ptx::view::ModuleView;

use super::declare::{Layout, measure};
use super::{LowerError, Lowered, Symbols};
use crate::ir::{
    CONSTANT, Combine, Guard, Inst, Lanes, MAX_SLOTS, NONE, Op, Program, Relocation,
    RelocationTarget, Slot, window,
};
use crate::ops::Class;
use crate::ops::compare::Compare;
use crate::ops::convert::Convert;
use crate::ops::float32::Float32;
use crate::ops::float64::Float64;
use crate::ops::half::Half;
use crate::ops::int32::Int32;
use crate::ops::int64::Int64;

/// Most instructions a program may have.
const MAX_CODE: usize = 4 << 20;

/// A declared register.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reg {
    pub(super) class: Class,
    pub(super) ty: ScalarType,
    /// First slot; the components of a vector and the halves of a 128-bit register follow.
    pub(super) slot: Slot,
    /// Components.
    pub(super) vector: u32,
}

/// An object of the frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameObject {
    pub(super) offset: u32,
    pub(super) bytes: u32,
    pub(super) align: u32,
}

/// What a symbol in a body means.
#[derive(Clone, Copy, Debug)]
pub(super) enum Meaning {
    /// `.local` variable or parameter of a device function or call, in the frame.
    Frame(FrameObject),
    /// Parameter of a kernel: offset and bytes in the parameter block.
    KernelParam(u32, u32),
    /// `.shared` variable at an offset.
    Shared(u32),
    /// `.extern .shared` array.
    Dynamic,
    /// `.global` or `.const` variable, by index.
    Variable(u32),
    /// Function, by index.
    Function(u32),
}

/// Types that lanes of arithmetic come in.
pub(super) trait Family: Copy {
    fn wrap(lanes: Lanes<Self>) -> Op;
}

macro_rules! families {
    ($($family:ident),*) => { $(
        impl Family for $family {
            fn wrap(lanes: Lanes<Self>) -> Op {
                Op::$family(lanes)
            }
        }
    )* };
}
families!(Int32, Int64, Float32, Float64, Half, Convert);

/// Lowers functions into a program.
pub(super) struct Builder<'m> {
    pub(super) program: Program,
    pub(super) symbols: &'m Symbols,
    pub(super) constants32: HashMap<u32, Slot>,
    pub(super) constants64: HashMap<u64, Slot>,
    pub(super) addresses: HashMap<(RelocationTarget, i64), Slot>,
    // Of the function under way:
    pub(super) is_kernel: bool,
    pub(super) registers: HashMap<Name, Reg>,
    pub(super) names: HashMap<Name, Meaning>,
    pub(super) labels: HashMap<Name, u32>,
    /// Branches to labels not seen yet: instruction (or table and entry) and line.
    pub(super) fixups: Vec<(Fixup, Name, u32)>,
    pub(super) tables: HashMap<Name, Vec<Name>>,
    pub(super) prototypes: HashMap<Name, crate::ir::Shape>,
    pub(super) layout: Layout,
    pub(super) slots: [u32; 3],
    pub(super) carry: Option<Slot>,
    pub(super) guard: Guard,
    pub(super) line: u32,
}

/// Where a label's place goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fixup {
    Branch(u32),
    Table(u32, u32),
}

impl<'m> Builder<'m> {
    pub(super) fn new(program: Program, symbols: &'m Symbols) -> Self {
        Self {
            program,
            symbols,
            constants32: HashMap::new(),
            constants64: HashMap::new(),
            addresses: HashMap::new(),
            is_kernel: false,
            registers: HashMap::new(),
            names: HashMap::new(),
            labels: HashMap::new(),
            fixups: Vec::new(),
            tables: HashMap::new(),
            prototypes: HashMap::new(),
            layout: Layout::default(),
            slots: [0; 3],
            carry: None,
            guard: Guard::ALWAYS,
            line: 0,
        }
    }

    /// The program, when every function is lowered.
    pub(super) fn finish(self) -> Program {
        self.program
    }

    /// Lowers one function.
    pub(super) fn function(&mut self, f: &Declared, index: u32, view: &ModuleView) -> Lowered<()> {
        self.is_kernel = self.program.functions[index as usize].is_kernel;
        self.registers.clear();
        self.names.clear();
        self.labels.clear();
        self.fixups.clear();
        self.tables.clear();
        self.prototypes.clear();
        self.layout = Layout::default();
        self.slots = [0; 3];
        self.carry = None;
        self.line = f.span.line;
        let entry = self.program.code.len() as u32;
        let mut registers_in = Vec::new();
        if self.is_kernel {
            if let Some(kernel) = view.kernel(&f.name) {
                for p in &kernel.params {
                    let meaning = Meaning::KernelParam(p.offset as u32, p.size as u32);
                    self.names.insert(p.name.clone(), meaning);
                }
                for s in &kernel.shared {
                    self.names.insert(s.name.clone(), Meaning::Shared(s.offset as u32));
                }
                if let Some(dynamic) = &kernel.dynamic_shared {
                    self.names.insert(dynamic.name.clone(), Meaning::Dynamic);
                }
            }
        } else {
            for v in f.params.iter().chain(&f.results) {
                let object = self.frame_object(v)?;
                self.names.insert(v.name.clone(), Meaning::Frame(object));
                if v.space == Space::Reg {
                    registers_in.push((v.name.clone(), v.ty, object));
                }
            }
        }
        for (name, ty, _) in &registers_in {
            self.names.remove(name);
            let slot = self.fresh(class_of(*ty), 1)?;
            let reg = Reg { class: class_of(*ty), ty: *ty, slot, vector: 1 };
            self.registers.insert(name.clone(), reg);
        }
        let body = match &f.body {
            Some(body) => body,
            None => return Ok(()),
        };
        self.declare(body)?;
        let results: Vec<Name> = f.results.iter().map(|v| v.name.clone()).collect();
        // `.reg` parameters travel through the frame: loaded first, results stored before every return.
        for (name, ty, object) in registers_in.iter().filter(|(n, ..)| !results.contains(n)) {
            self.frame_register(name, *ty, *object, true)?;
        }
        self.block(body, &|b: &mut Self| {
            for (name, ty, object) in registers_in.iter().filter(|(n, ..)| results.contains(n)) {
                b.frame_register(name, *ty, *object, false)?;
            }
            Ok(())
        })?;
        // Falling off the end returns.
        self.guard = Guard::ALWAYS;
        self.emit(Op::Return)?;
        for (fixup, label, line) in std::mem::take(&mut self.fixups) {
            let Some(&to) = self.labels.get(&label) else {
                let what = format!("no label `{label}` in this function");
                return Err(LowerError::Malformed { line, what });
            };
            match fixup {
                Fixup::Branch(at) => {
                    if let Op::Branch { to: place } = &mut self.program.code[at as usize].op {
                        *place = to;
                    }
                }
                Fixup::Table(table, entry) => {
                    self.program.tables[table as usize][entry as usize] = to;
                }
            }
        }
        let [slots32, slots64, preds] = self.slots;
        let frame_bytes = self.layout.size();
        let function = &mut self.program.functions[index as usize];
        (function.entry, function.slots32, function.slots64) = (entry, slots32, slots64);
        (function.preds, function.frame_bytes) = (preds, frame_bytes);
        Ok(())
    }

    /// Enters every register and variable of a body, whatever scope it is in: names are unique in a function.
    pub(super) fn declare(&mut self, block: &Block) -> Lowered<()> {
        for statement in &block.statements {
            match statement {
                Statement::Registers(r) => self.declare_registers(r)?,
                Statement::Variable(v) => match v.space {
                    Space::Local | Space::Param | Space::ParamFunc => {
                        let object = self.frame_object(v)?;
                        self.names.insert(v.name.clone(), Meaning::Frame(object));
                    }
                    _ => {}
                },
                Statement::Block(inner) => self.declare(inner)?,
                Statement::BranchTargets(t) => {
                    self.tables.insert(t.name.clone(), t.targets.clone());
                }
                Statement::CallPrototype(p) => {
                    let shape = Layout::shape(&p.params, &p.results)?;
                    self.prototypes.insert(p.name.clone(), shape);
                }
                Statement::CallTargets(t) => {
                    let first = t.targets.first().and_then(|f| self.symbols.functions.get(f));
                    if let Some(&index) = first {
                        let shape = self.program.functions[index as usize].shape.clone();
                        self.prototypes.insert(t.name.clone(), shape);
                    }
                }
                Statement::Label(..) | Statement::Instruction(_) | Statement::Pragma(_) => {}
            }
        }
        Ok(())
    }

    pub(super) fn declare_registers(&mut self, r: &Registers) -> Lowered<()> {
        let class = class_of(r.ty);
        let each = r.vector.max(1) * if r.ty == ScalarType::B128 { 2 } else { 1 };
        for declared in &r.names {
            let count = declared.count.unwrap_or(1);
            for i in 0..count {
                let name = match declared.count {
                    Some(_) => Name::new(format!("{}{i}", declared.name)),
                    None => declared.name.clone(),
                };
                let slot = self.fresh_at(class, each, r.span.line)?;
                self.registers.insert(name, Reg { class, ty: r.ty, slot, vector: r.vector.max(1) });
            }
        }
        Ok(())
    }

    pub(super) fn frame_object(&mut self, v: &Variable) -> Lowered<FrameObject> {
        let (bytes, align) = measure(v)?;
        let offset = self.layout.place(u64::from(bytes), u64::from(align), v.span.line)?;
        Ok(FrameObject { offset, bytes, align })
    }

    /// Lowers the statements of a block. `leave` is done before every return.
    pub(super) fn block(
        &mut self,
        block: &Block,
        leave: &dyn Fn(&mut Self) -> Lowered<()>,
    ) -> Lowered<()> {
        for statement in &block.statements {
            match statement {
                Statement::Label(name, _) => {
                    self.labels.insert(name.clone(), self.program.code.len() as u32);
                }
                Statement::Instruction(inst) => {
                    self.line = inst.span.line;
                    self.guard = match &inst.guard {
                        Some(g) => {
                            Guard::new(self.pred(inst, &Operand::Reg(g.reg.clone()))?, g.negated)
                        }
                        None => Guard::ALWAYS,
                    };
                    if inst.op() == Some(turnstile_ptx::tree::Op::Ret) {
                        leave(self)?;
                    }
                    self.instruction(inst)?;
                }
                Statement::Block(inner) => self.block(inner, leave)?,
                _ => {}
            }
        }
        Ok(())
    }

    // Slots.

    /// New slots in a row.
    pub(super) fn fresh(&mut self, class: Class, count: u32) -> Lowered<Slot> {
        self.fresh_at(class, count, self.line)
    }

    pub(super) fn fresh_at(&mut self, class: Class, count: u32, line: u32) -> Lowered<Slot> {
        let next = &mut self.slots[class as usize];
        let first = *next;
        *next += count;
        if *next as usize > MAX_SLOTS {
            return Err(LowerError::Limit {
                line,
                what: "registers of one width in a function",
                limit: MAX_SLOTS,
            });
        }
        Ok(first as Slot)
    }

    pub(super) fn temp32(&mut self) -> Lowered<Slot> {
        self.fresh(Class::W32, 1)
    }

    pub(super) fn temp64(&mut self) -> Lowered<Slot> {
        self.fresh(Class::W64, 1)
    }

    pub(super) fn temp_pred(&mut self) -> Lowered<Slot> {
        self.fresh(Class::Pred, 1)
    }

    /// The 32-bit slot that holds the carry flag.
    pub(super) fn carry(&mut self) -> Lowered<Slot> {
        match self.carry {
            Some(slot) => Ok(slot),
            None => {
                let slot = self.temp32()?;
                self.carry = Some(slot);
                Ok(slot)
            }
        }
    }

    pub(super) fn constant32(&mut self, value: u32) -> Lowered<Slot> {
        if let Some(&slot) = self.constants32.get(&value) {
            return Ok(slot);
        }
        let index = self.program.constants32.len();
        self.room(index, "constants")?;
        self.program.constants32.push(value);
        let slot = index as Slot | CONSTANT;
        self.constants32.insert(value, slot);
        Ok(slot)
    }

    pub(super) fn constant64(&mut self, value: u64) -> Lowered<Slot> {
        if let Some(&slot) = self.constants64.get(&value) {
            return Ok(slot);
        }
        let index = self.program.constants64.len();
        self.room(index, "constants")?;
        self.program.constants64.push(value);
        let slot = index as Slot | CONSTANT;
        self.constants64.insert(value, slot);
        Ok(slot)
    }

    /// A 64-bit constant that is an address.
    pub(super) fn address_constant(
        &mut self,
        target: RelocationTarget,
        addend: i64,
    ) -> Lowered<Slot> {
        if let Some(&slot) = self.addresses.get(&(target, addend)) {
            return Ok(slot);
        }
        let index = self.program.constants64.len();
        self.room(index, "constants")?;
        let value = match target {
            RelocationTarget::Function(i) => {
                (window::FUNCTION + 16 * u64::from(i)).wrapping_add_signed(addend)
            }
            RelocationTarget::Variable(_) => 0,
        };
        self.program.constants64.push(value);
        if let RelocationTarget::Variable(_) = target {
            let at = index as u64;
            self.program.relocations.push(Relocation { at, target, addend, bytes: 8, shift: 0 });
        }
        let slot = index as Slot | CONSTANT;
        self.addresses.insert((target, addend), slot);
        Ok(slot)
    }

    pub(super) fn room(&self, index: usize, what: &'static str) -> Lowered<()> {
        if index >= MAX_SLOTS {
            return Err(LowerError::Limit { line: self.line, what, limit: MAX_SLOTS });
        }
        Ok(())
    }

    // Code.

    /// Appends an instruction under the current guard.
    pub(super) fn emit(&mut self, op: Op) -> Lowered<()> {
        if self.program.code.len() >= MAX_CODE {
            return Err(LowerError::Limit {
                line: self.line,
                what: "instructions",
                limit: MAX_CODE,
            });
        }
        self.program.code.push(Inst { guard: self.guard, op });
        self.program.lines.push(self.line);
        Ok(())
    }

    /// Appends an arithmetic instruction.
    pub(super) fn lanes<T: Family>(
        &mut self,
        op: T,
        d: Slot,
        sources: &[Slot],
        x: u8,
    ) -> Lowered<()> {
        let source = |i: usize| sources.get(i).copied().unwrap_or(NONE);
        self.emit(T::wrap(Lanes { op, x, d, a: source(0), b: source(1), c: source(2) }))
    }

    /// Appends a plain comparison into a predicate.
    pub(super) fn compare(&mut self, op: Compare, x: u8, d: Slot, a: Slot, b: Slot) -> Lowered<()> {
        let combine = Combine::None;
        self.emit(Op::Compare { op, x, combine, negate: false, d, not_d: NONE, a, b, c: NONE })
    }

    /// Appends a jump to a label.
    pub(super) fn branch(&mut self, label: &Name) -> Lowered<()> {
        let at = self.program.code.len() as u32;
        self.fixups.push((Fixup::Branch(at), label.clone(), self.line));
        self.emit(Op::Branch { to: 0 })
    }

    /// A new table of the places of labels.
    pub(super) fn table(&mut self, labels: &[Name]) -> u32 {
        let table = self.program.tables.len() as u32;
        self.program.tables.push(vec![0; labels.len()]);
        for (i, label) in labels.iter().enumerate() {
            self.fixups.push((Fixup::Table(table, i as u32), label.clone(), self.line));
        }
        table
    }

    // Operands.
}

/// The register class of a type.
pub(super) fn class_of(ty: ScalarType) -> Class {
    match ty.bits() {
        _ if ty == ScalarType::Pred => Class::Pred,
        64 | 128 => Class::W64,
        _ => Class::W32,
    }
}

/// A constant's bits as a type.
pub(super) fn literal(operand: &Operand, ty: ScalarType) -> Option<u64> {
    let narrow = |v: i64| match ty.bits() {
        8 => v as u64 & 0xff,
        16 => v as u64 & 0xffff,
        32 => v as u64 & 0xffff_ffff,
        _ => v as u64,
    };
    Some(match (operand, ty) {
        (Operand::Int(v), ScalarType::F32) => u64::from((*v as f32).to_bits()),
        (Operand::Int(v), ScalarType::F64) => (*v as f64).to_bits(),
        (Operand::Int(v), _) => narrow(*v),
        (Operand::F32(bits), ScalarType::F64) => f64::from(f32::from_bits(*bits)).to_bits(),
        (Operand::F32(bits), _) => u64::from(*bits),
        (Operand::F64(bits), ScalarType::F32) => {
            u64::from((f64::from_bits(*bits) as f32).to_bits())
        }
        (Operand::F64(bits), _) => *bits,
        _ => return None,
    })
}
