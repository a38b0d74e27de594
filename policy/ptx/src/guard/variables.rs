//! Module variables in `.global` and `.const` move into the arena, where fenced addresses can reach them.
//!
//! Their addresses become numbers: in registers, in memory operands (through a guard register, since PTX
//! has no absolute addresses) and in initialisers. `ld.const` becomes `ld.global.nc`. The module keeps no
//! such variable; the backend writes the initial bytes into the arena instead ([`RelocatedVariable`]).
//!
//! With [`GuardOptions::keep_constants`], initialised constants that the host cannot name stay where they
//! are when every access to `.const` in the module is proved to be inside its variable: constant memory
//! is read-only, and instructions can take operands straight from it.

use crate::hash::{HashMap, HashSet};

use crate::tree::{
    Address, Base, Block, Flag, Init, Instruction, Item, Linkage, Mod, Module, Name, Op, Operand,
    ScalarType, Space, Statement, Variable,
};

use super::analysis::{Analysis, ObjectSpace, module_objects};
use super::control::Control;
use super::forms::{Emit, Fresh};
use super::recursion::each_instruction;
use super::report::{Change, FunctionReport, RelocatedVariable, Report};
use super::{GuardOptions, Refusal};

/// Least alignment of a relocated variable, so that wide accesses to it need no rounding.
const ALIGN: u64 = 16;

/// Most initialised bytes of all variables together.
const MAX_INIT_BYTES: u64 = 64 << 20;

/// Moves the variables of a module.
///
/// # Errors
/// [`Refusal`] when they do not fit the arena, or an initialiser or address cannot be resolved.
pub(super) fn relocate(
    module: &mut Module,
    options: &GuardOptions,
    control: &Control,
    doubts: &HashSet<u32>,
    fresh: &mut HashMap<Name, Fresh>,
    report: &mut Report,
) -> Result<(), Refusal> {
    let mut layout = Layout { options, end: 0, places: HashMap::default() };
    let kept = kept_constants(module, options, doubts);
    let is_moved = |v: &Variable| is_moved(v) && !kept.contains(&v.name);
    let mut moved: Vec<(Variable, Option<Name>)> = Vec::new();
    for item in &module.items {
        match item {
            Item::Variable(v) if is_moved(v) => moved.push((v.clone(), None)),
            Item::Function(f) => {
                if let Some(body) = &f.body {
                    declared(body, &f.name, &mut moved);
                }
            }
            _ => {}
        }
    }
    for (v, function) in &moved {
        layout.place(v, function.as_ref())?;
    }
    module.items.retain(|item| !matches!(item, Item::Variable(v) if is_moved(v)));
    let mut total = 0u64;
    for (v, function) in &moved {
        let address = layout.find(&v.name, function.as_ref()).unwrap_or(0);
        let bytes = v.bytes().unwrap_or(0);
        let mut init = Vec::new();
        if let Some(value) = &v.init {
            let writer = Initialiser { layout: &layout, control, function: function.as_ref() };
            writer.write(v, value, &mut init)?;
        }
        total += init.len() as u64;
        if total > MAX_INIT_BYTES {
            return Err(layout.too_large(v));
        }
        report.variables.push(RelocatedVariable {
            name: v.name.clone(),
            function: function.clone(),
            space: v.space,
            address,
            bytes,
            init,
            visible: v.linkage != Linkage::Internal,
        });
    }
    report.variable_bytes = layout.end;
    report.constants = kept.iter().cloned().collect();
    report.constants.sort();
    for item in &mut module.items {
        let Item::Function(f) = item else { continue };
        let Some(body) = &mut f.body else { continue };
        let fresh = fresh.entry(f.name.clone()).or_default();
        let changes = report.function(&f.name);
        Rewriter { layout: &layout, function: &f.name, fresh, changes, keep: !kept.is_empty() }
            .block(body)?;
    }
    Ok(())
}

/// The constants that may stay: all initialised ones that the host cannot name, or none.
fn kept_constants(module: &Module, options: &GuardOptions, doubts: &HashSet<u32>) -> HashSet<Name> {
    let none = HashSet::default;
    if !options.keep_constants || !options.proofs {
        return none();
    }
    let mut constants: Vec<&Variable> = Vec::new();
    for item in &module.items {
        match item {
            Item::Variable(v) if v.space == Space::Const => constants.push(v),
            Item::Function(f) => {
                // Constants declared in functions are rare and simply move.
                let mut own = Vec::new();
                if let Some(body) = &f.body {
                    declared(body, &f.name, &mut own);
                }
                if own.iter().any(|(v, _)| v.space == Space::Const) {
                    return none();
                }
            }
            _ => {}
        }
    }
    let stays = |v: &Variable| {
        v.linkage == Linkage::Internal && v.init.as_ref().is_some_and(|init| !names_symbols(init))
    };
    if constants.is_empty() || !constants.iter().all(|v| stays(v)) {
        return none();
    }
    let objects = module_objects(constants.iter().copied());
    for item in &module.items {
        let Item::Function(f) = item else { continue };
        let Some(body) = &f.body else { continue };
        let mut touches = false;
        let mut converts = false;
        each_instruction(body, &mut |i| {
            let constant = i.space() == Some(Space::Const);
            touches |= constant;
            converts |= constant && matches!(i.op(), Some(Op::Cvta | Op::Isspacep));
        });
        if converts {
            return none();
        }
        if !touches {
            continue;
        }
        let analysis = Analysis::new(f, body, &objects, options.block, None);
        for (number, i) in analysis.graph.instructions.iter().enumerate() {
            if i.space() != Some(Space::Const) {
                continue;
            }
            let bytes = u64::from(i.vector()) * u64::from(i.ty().map_or(0, ScalarType::bytes));
            let proved = Analysis::addresses(i).all(|(operand, address)| {
                let value = analysis.place(number as u32, operand).value;
                let space = ObjectSpace::Const;
                analysis.is_proved(&value, address.offset, space, bytes, bytes, 0)
            });
            if !proved || i.op() != Some(Op::Ld) || doubts.contains(&i.span.line) {
                return none();
            }
        }
    }
    constants.iter().map(|v| v.name.clone()).collect()
}

fn names_symbols(init: &Init) -> bool {
    match init {
        Init::List(items) => items.iter().any(names_symbols),
        Init::Symbol(_) => true,
        _ => false,
    }
}

fn is_moved(v: &Variable) -> bool {
    matches!(v.space, Space::Global | Space::Const)
}

fn declared(block: &Block, function: &Name, moved: &mut Vec<(Variable, Option<Name>)>) {
    for statement in &block.statements {
        match statement {
            Statement::Variable(v) if is_moved(v) => {
                moved.push((v.clone(), Some(function.clone())));
            }
            Statement::Block(inner) => declared(inner, function, moved),
            _ => {}
        }
    }
}

struct Layout<'o> {
    options: &'o GuardOptions,
    end: u64,
    /// (variable, declaring function) -> address
    places: HashMap<(Name, Option<Name>), u64>,
}

impl Layout<'_> {
    fn too_large(&self, v: &Variable) -> Refusal {
        Refusal::Variable {
            at: v.span,
            name: v.name.clone(),
            why: "does not fit the part of the arena that is set aside for variables",
        }
    }

    fn place(&mut self, v: &Variable, function: Option<&Name>) -> Result<(), Refusal> {
        let Some(bytes) = v.bytes() else {
            let why = "has no definite size";
            return Err(Refusal::Variable { at: v.span, name: v.name.clone(), why });
        };
        let align = v.alignment().max(ALIGN);
        let start = self.options.variables;
        let arena = self.options.arena;
        let address = start
            .checked_add(self.end)
            .and_then(|at| at.checked_next_multiple_of(align))
            .filter(|&at| arena.contains(at, bytes));
        let Some(address) = address else { return Err(self.too_large(v)) };
        self.end = address - start + bytes;
        self.places.insert((v.name.clone(), function.cloned()), address);
        Ok(())
    }

    fn find(&self, name: &Name, function: Option<&Name>) -> Option<u64> {
        let own = function.and_then(|f| self.places.get(&(name.clone(), Some(f.clone()))));
        own.or_else(|| self.places.get(&(name.clone(), None))).copied()
    }
}

struct Initialiser<'l, 'o> {
    layout: &'l Layout<'o>,
    control: &'l Control,
    function: Option<&'l Name>,
}

impl Initialiser<'_, '_> {
    fn write(&self, v: &Variable, init: &Init, out: &mut Vec<u8>) -> Result<(), Refusal> {
        let element = v.ty.bytes().max(1) as usize;
        let dims: Vec<u64> = v
            .dims
            .iter()
            .map(|d| d.unwrap_or(u64::MAX))
            .chain((v.vector > 1).then_some(u64::from(v.vector)))
            .collect();
        self.list(v, init, &dims, element, 0, out)?;
        if out.len() as u64 > v.bytes().unwrap_or(0) {
            let why = "has more initial values than places";
            return Err(Refusal::Variable { at: v.span, name: v.name.clone(), why });
        }
        Ok(())
    }

    fn list(
        &self,
        v: &Variable,
        init: &Init,
        dims: &[u64],
        element: usize,
        at: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let fail = |why| Err(Refusal::Variable { at: v.span, name: v.name.clone(), why });
        let bits = match init {
            Init::List(items) => {
                // Elements of an inner dimension start at multiples of its size.
                let inner = dims.get(1..).unwrap_or(&[]);
                let size = inner.iter().try_fold(element as u64, |all, d| all.checked_mul(*d));
                let Some(size) = size.and_then(|s| usize::try_from(s).ok()) else {
                    return fail("has an initialiser that does not fit");
                };
                for (index, item) in items.iter().enumerate() {
                    // A flat list may initialise nested dimensions.
                    let step = if matches!(item, Init::List(_)) { size } else { element };
                    let Some(place) = step.checked_mul(index).and_then(|n| n.checked_add(at))
                    else {
                        return fail("has an initialiser that does not fit");
                    };
                    self.list(v, item, inner, element, place, out)?;
                }
                return Ok(());
            }
            Init::Int(value) => *value as u64,
            Init::F32(bits) => match v.ty {
                ScalarType::F64 => f64::from(f32::from_bits(*bits)).to_bits(),
                _ => u64::from(*bits),
            },
            Init::F64(bits) => match v.ty {
                ScalarType::F32 => u64::from((f64::from_bits(*bits) as f32).to_bits()),
                ScalarType::F64 | ScalarType::B64 | ScalarType::U64 | ScalarType::S64 => *bits,
                _ => return fail("has a floating-point initial value for a type that is none"),
            },
            Init::Symbol(symbol) => {
                let address = self.layout.find(&symbol.name, self.function);
                let token = || self.control.token(&symbol.name).map(|t| t as u64);
                let Some(address) = address.or_else(token) else {
                    return fail("is initialised with an address that is not known at load time");
                };
                let value = address.wrapping_add(symbol.offset as u64);
                match symbol.mask {
                    Some(mask) if mask != 0 => (value & mask) >> mask.trailing_zeros(),
                    _ if element == 8 => value,
                    _ => return fail("is too narrow for the address it is initialised with"),
                }
            }
        };
        let end = at as u64 + element as u64;
        if element > 8 || end > v.bytes().unwrap_or(0) || end > MAX_INIT_BYTES {
            return fail("has an initialiser that does not fit");
        }
        if out.len() < at + element {
            out.resize(at + element, 0);
        }
        out[at..at + element].copy_from_slice(&bits.to_le_bytes()[..element]);
        Ok(())
    }
}

struct Rewriter<'l, 'o> {
    layout: &'l Layout<'o>,
    function: &'l Name,
    fresh: &'l mut Fresh,
    changes: &'l mut FunctionReport,
    /// Accesses to `.const` stay what they are.
    keep: bool,
}

impl Rewriter<'_, '_> {
    fn block(&mut self, block: &mut Block) -> Result<(), Refusal> {
        let mut out = Vec::with_capacity(block.statements.len());
        for mut statement in std::mem::take(&mut block.statements) {
            match &mut statement {
                Statement::Block(inner) => self.block(inner)?,
                Statement::Variable(v) if is_moved(v) => continue,
                Statement::Instruction(i) => {
                    let before = self.instruction(i)?;
                    out.extend(before.into_iter().map(Statement::Instruction));
                }
                _ => {}
            }
            out.push(statement);
        }
        block.statements = out;
        Ok(())
    }

    fn instruction(&mut self, i: &mut Instruction) -> Result<Vec<Instruction>, Refusal> {
        let at = i.span;
        let refuse = |why| Err(Refusal::Instruction { at, why });
        // Generic and `.const` addresses of what is now global are plain numbers.
        if i.op() == Some(Op::Cvta) && matches!(i.space(), Some(Space::Const | Space::Global)) {
            let symbol = i.operands.get(1).and_then(Operand::as_symbol).is_some();
            if i.space() == Some(Space::Const) || symbol {
                let ty = i.ty().unwrap_or(ScalarType::U64);
                i.opcode = crate::tree::Opcode::Known(Op::Mov);
                i.mods = vec![Mod::Type(ty)];
            }
        }
        if i.op() == Some(Op::Isspacep) && i.space() == Some(Space::Const) && !self.keep {
            // Nothing is in `.const` any more; in a generic address nothing can tell.
            i.mods = vec![Mod::Space(Space::Global)];
        }
        if i.space() == Some(Space::Const) && !self.keep {
            for m in &mut i.mods {
                if *m == Mod::Space(Space::Const) {
                    *m = Mod::Space(Space::Global);
                }
            }
            if i.op() == Some(Op::Ld) && i.flags().all(|f| matches!(f, Flag::V2 | Flag::V4)) {
                let position = i.mods.iter().position(|m| matches!(m, Mod::Space(_))).unwrap_or(0);
                i.mods.insert(position + 1, Mod::Flag(Flag::Nc));
            }
        }
        let mut failed = None;
        let bits = i.ty().map_or(64, ScalarType::bits);
        let is_call = i.op() == Some(Op::Call);
        let mut emit = Emit::new(&mut *self.fresh, at);
        let layout = self.layout;
        let find = |name: &Name| layout.find(name, Some(self.function));
        for operand in &mut i.operands {
            match operand {
                Operand::Address(Address { base: base @ Base::Symbol(_), offset, .. }) => {
                    let Base::Symbol(name) = &*base else { continue };
                    let Some(address) = find(name) else { continue };
                    let register = emit.constant64(address);
                    if offset.unsigned_abs() > u64::from(u32::MAX) {
                        *offset = 0;
                    }
                    *base = Base::Reg(register);
                    self.changes.count(Change::Variable);
                }
                other => number(other, &find, if is_call { 64 } else { bits }, &mut failed),
            }
        }
        match failed {
            Some(why) => refuse(why),
            None => Ok(emit.out),
        }
    }
}

/// Replaces the addresses of variables in a value operand.
fn number(
    operand: &mut Operand,
    find: &impl Fn(&Name) -> Option<u64>,
    bits: u32,
    failed: &mut Option<&'static str>,
) {
    match operand {
        Operand::Symbol(name, offset) => {
            if let Some(address) = find(name) {
                if bits != 64 {
                    *failed = Some("the address of a variable in less than 64 bits");
                }
                *operand = Operand::Int(address.wrapping_add(*offset as u64) as i64);
            }
        }
        Operand::Vector(items) | Operand::List(items) => {
            items.iter_mut().for_each(|item| number(item, find, bits, failed));
        }
        _ => {}
    }
}
