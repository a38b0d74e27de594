//! Functions that may be handed the address of a caller's local variable are inlined into their callers.
//!
//! A clamp names the object it clamps to, and a function cannot name its caller's variables. Inlined, it
//! can, and mostly the analysis then proves its accesses. Only functions that access memory by generic or
//! local addresses in registers are inlined, below a function that makes such addresses; callees first.
//! Growth is bounded: beyond [`budget`] the calls stay, and the accesses in them are refused.
//!
//! Parameters become registers where both sides access them in the same pieces of four or eight bytes,
//! local variables otherwise. `ret` becomes a branch behind the copy.

use crate::hash::{HashMap, HashSet};
use crate::tree::{
    Address, Base, Block, Flag, Function, Guard, Instruction, Item, Mod, Module, Name, Op, Operand,
    ScalarType, Space, Span, Statement, Variable,
};

use super::forms::{Fresh, reg};
use super::recursion::{Calls, each_instruction};
use super::registers::Registers;
use super::report::{Change, Report};

/// Most instructions that a module may have after inlining, if it had `before`.
const fn budget(before: usize) -> usize {
    4 * before + 8192
}

/// Inlines what has to be; call cycles have been refused before.
pub(super) fn inline(module: &mut Module, fresh: &mut HashMap<Name, Fresh>, report: &mut Report) {
    let calls = Calls::new(module);
    let below = below_locals(&calls);
    if below.is_empty() {
        return;
    }
    let Ok(order) = calls.bottom_up() else { return };
    let mut count: Vec<usize> = Vec::with_capacity(calls.functions.len());
    let mut total = 0;
    for f in &calls.functions {
        let mut own = 0;
        if let Some(body) = &f.body {
            each_instruction(body, &mut |_| own += 1);
        }
        count.push(own);
        total += own;
    }
    let most = budget(total);
    let names: Vec<Name> = calls.functions.iter().map(|f| f.name.clone()).collect();
    let touches: Vec<bool> = calls.functions.iter().map(|f| touches_unknown(f)).collect();
    let callees = calls.callees.clone();
    // Functions that must not stay functions.
    let mut gone: HashSet<Name> = HashSet::default();
    let mut copies = 0u32;
    for index in order {
        let inner: Vec<usize> =
            callees[index].iter().copied().filter(|c| gone.contains(&names[*c])).collect();
        if !inner.is_empty() {
            let bodies: HashMap<Name, Function> = module
                .items
                .iter()
                .filter_map(|item| match item {
                    Item::Function(f)
                        if f.body.is_some() && inner.iter().any(|c| names[*c] == f.name) =>
                    {
                        Some((f.name.clone(), (**f).clone()))
                    }
                    _ => None,
                })
                .collect();
            let Some(Item::Function(f)) = module.items.iter_mut().find(|item| {
                matches!(item, Item::Function(f) if f.body.is_some() && f.name == names[index])
            }) else {
                continue;
            };
            let sizes = |name: &Name| names.iter().position(|n| n == name).map_or(0, |n| count[n]);
            let mut left = most.saturating_sub(total);
            let fresh = fresh.entry(f.name.clone()).or_default();
            let changes = report.function(&f.name);
            if let Some(body) = &mut f.body {
                let mut pass = Pass {
                    callees: &bodies,
                    sizes: &sizes,
                    left: &mut left,
                    fresh,
                    copies: &mut copies,
                    slots: Slots::default(),
                    inlined: 0,
                };
                pass.function(body);
                let grown = most.saturating_sub(total) - *pass.left;
                for _ in 0..pass.inlined {
                    changes.count(Change::Inlined);
                }
                total += grown;
                count[index] += grown;
            }
        }
        let unknown = touches[index] || !inner.is_empty();
        if below.contains(&names[index]) && unknown {
            gone.insert(names[index].clone());
        }
    }
    // What nobody calls any more and is no kernel would only be refused.
    let mut called: HashSet<Name> = HashSet::default();
    for item in &module.items {
        if let Item::Function(f) = item
            && let Some(body) = &f.body
        {
            each_instruction(body, &mut |i| {
                called.extend(i.call().and_then(|call| call.target.as_symbol().cloned()));
            });
        }
    }
    let stays = |f: &Function| !gone.contains(&f.name) || called.contains(&f.name);
    module.items.retain(|item| !matches!(item, Item::Function(f) if !stays(f)));
}

/// Functions below one that makes generic addresses of its local variables.
fn below_locals(calls: &Calls<'_>) -> HashSet<Name> {
    let mut below = vec![false; calls.functions.len()];
    let mut work: Vec<usize> = Vec::new();
    for (index, f) in calls.functions.iter().enumerate() {
        let mut escapes = false;
        if let Some(body) = &f.body {
            each_instruction(body, &mut |i| {
                let to = i.has(Flag::To);
                escapes |= i.op() == Some(Op::Cvta) && !to && i.space() == Some(Space::Local);
            });
        }
        if escapes {
            work.extend(&calls.callees[index]);
        }
    }
    while let Some(function) = work.pop() {
        if !std::mem::replace(&mut below[function], true) {
            work.extend(&calls.callees[function]);
        }
    }
    let flagged = calls.functions.iter().zip(&below).filter(|(_, below)| **below);
    flagged.map(|(f, _)| f.name.clone()).collect()
}

/// True when a function accesses local or any memory by an address in a register.
fn touches_unknown(f: &Function) -> bool {
    let mut found = false;
    if let Some(body) = &f.body {
        each_instruction(body, &mut |i| {
            let memory = matches!(i.op(), Some(Op::Ld | Op::Ldu | Op::St | Op::Atom | Op::Red));
            let space = matches!(i.space(), None | Some(Space::Local));
            let register = i.address().is_some_and(|a| matches!(a.base, Base::Reg(_)));
            found |= memory && space && register;
        });
    }
    found
}

/// Registers and variables that stand for `.param` variables of calls.
#[derive(Default)]
struct Slots {
    /// `.param` variable of the caller -> how it is kept now.
    kept: HashMap<Name, Kept>,
}

#[derive(Clone)]
enum Kept {
    /// Pieces: (offset, bytes) -> register.
    Registers(Vec<(i64, u32, Name)>),
    /// A local variable of this name.
    Local(Variable),
}

struct Pass<'a> {
    callees: &'a HashMap<Name, Function>,
    sizes: &'a dyn Fn(&Name) -> usize,
    left: &'a mut usize,
    fresh: &'a mut Fresh,
    copies: &'a mut u32,
    slots: Slots,
    inlined: u32,
}

/// Pieces in which a variable is accessed: offset and bytes of each; `None` when some access is no plain
/// one of four or eight bytes with a register of that width.
type Pieces = Option<Vec<(i64, u32)>>;

fn add_piece(pieces: &mut Pieces, offset: i64, bytes: u32) {
    let Some(list) = pieces else { return };
    if list.contains(&(offset, bytes)) {
        return;
    }
    let overlaps = |&(at, size): &(i64, u32)| {
        offset < at + i64::from(size) && at < offset.saturating_add(i64::from(bytes))
    };
    if !matches!(bytes, 4 | 8) || list.len() >= 64 || list.iter().any(overlaps) {
        *pieces = None;
    } else {
        list.push((offset, bytes));
    }
}

/// Adds how a body accesses the `.param` variables in `wanted`.
fn pieces(body: &Block, wanted: &mut HashMap<Name, Pieces>) {
    let registers = Registers::new(body);
    each_instruction(body, &mut |i| {
        let moves = matches!(i.op(), Some(Op::Ld | Op::St));
        for operand in &i.operands {
            match operand {
                Operand::Address(Address { base: Base::Symbol(name), offset, .. }) => {
                    let Some(found) = wanted.get_mut(name) else { continue };
                    let ty = i.ty().filter(|_| moves && i.space().is_some_and(Space::is_param));
                    let Some(ty) = ty else {
                        *found = None;
                        continue;
                    };
                    let position = usize::from(i.op() == Some(Op::St));
                    let values: Vec<&Operand> = match i.operands.get(position) {
                        Some(Operand::Vector(items)) => items.iter().collect(),
                        Some(other) => vec![other],
                        None => Vec::new(),
                    };
                    let fits = |value: &&Operand| match value {
                        Operand::Reg(name) => registers.bits(name) == ty.bits(),
                        Operand::Sink => i.op() == Some(Op::Ld),
                        Operand::Int(_) | Operand::F32(_) | Operand::F64(_) => {
                            i.op() == Some(Op::St)
                        }
                        _ => false,
                    };
                    if values.len() as u32 != i.vector() || !values.iter().all(fits) {
                        *found = None;
                        continue;
                    }
                    for index in 0..i.vector() {
                        let at = offset.saturating_add(i64::from(index * ty.bytes()));
                        add_piece(found, at, ty.bytes());
                    }
                }
                Operand::Symbol(name, _) => {
                    // Its address is taken.
                    if let Some(found) = wanted.get_mut(name) {
                        *found = None;
                    }
                }
                _ => {}
            }
        }
    });
}

impl Pass<'_> {
    fn function(&mut self, body: &mut Block) {
        // Which `.param` variables belong to inlined calls, and to those only.
        let mut wanted: HashMap<Name, Pieces> = HashMap::default();
        let mut variables: HashMap<Name, Variable> = HashMap::default();
        declared(body, &mut variables);
        let mut bound: HashMap<Name, Vec<(Name, Name)>> = HashMap::default();
        let mut others: HashSet<Name> = HashSet::default();
        each_instruction(body, &mut |i| {
            let Some(call) = i.call() else { return };
            let target = call.target.as_symbol();
            let callee = target.and_then(|name| self.callees.get(name));
            let operands = call.results.iter().chain(call.args);
            let Some(callee) = callee else {
                others.extend(operands.filter_map(Operand::as_symbol).cloned());
                return;
            };
            for (operand, v) in operands.zip(callee.results.iter().chain(&callee.params)) {
                if let Operand::Symbol(name, 0) = operand
                    && variables.contains_key(name)
                {
                    wanted.entry(name.clone()).or_insert_with(|| Some(Vec::new()));
                    let pair = (callee.name.clone(), v.name.clone());
                    bound.entry(name.clone()).or_default().push(pair);
                }
            }
        });
        // The callees' side of each.
        let mut own: HashMap<Name, HashMap<Name, Pieces>> = HashMap::default();
        for callee in self.callees.values() {
            let Some(body) = &callee.body else { continue };
            let list = callee.results.iter().chain(&callee.params);
            let mut found: HashMap<Name, Pieces> =
                list.map(|v| (v.name.clone(), Some(Vec::new()))).collect();
            pieces(body, &mut found);
            own.insert(callee.name.clone(), found);
        }
        // Not through `Symbol` operands of the calls themselves.
        let mut accesses = wanted.clone();
        let calls_aside = without_calls(body);
        pieces(&calls_aside, &mut accesses);
        for (name, pairs) in &bound {
            let mut all = accesses.get(name).cloned().flatten();
            for (callee, parameter) in pairs {
                match own.get(callee).and_then(|found| found.get(parameter)) {
                    Some(Some(list)) => {
                        for &(offset, bytes) in list {
                            add_piece(&mut all, offset, bytes);
                        }
                    }
                    _ => all = None,
                }
            }
            let kept = match all {
                Some(list) => Kept::Registers(
                    list.into_iter()
                        .map(|(offset, bytes)| (offset, bytes, self.register(bytes)))
                        .collect(),
                ),
                None => {
                    let Some(v) = variables.get(name) else { continue };
                    let largest = pairs.iter().filter_map(|(callee, parameter)| {
                        let f = self.callees.get(callee)?;
                        let mut list = f.results.iter().chain(&f.params);
                        list.find(|v| v.name == *parameter)
                    });
                    Kept::Local(self.local(v, largest))
                }
            };
            if !others.contains(name) {
                self.slots.kept.insert(name.clone(), kept);
            }
        }
        self.block(body);
    }

    fn register(&mut self, bytes: u32) -> Name {
        if bytes == 8 { self.fresh.wide_value() } else { self.fresh.value() }
    }

    /// A local variable large and aligned enough for all of these.
    fn local<'v>(&mut self, v: &Variable, others: impl Iterator<Item = &'v Variable>) -> Variable {
        let (mut bytes, mut align) = (v.bytes().unwrap_or(0), v.alignment());
        for other in others {
            bytes = bytes.max(other.bytes().unwrap_or(0));
            align = align.max(other.alignment());
        }
        *self.copies += 1;
        Variable {
            space: Space::Local,
            align: Some(align.min(128) as u32),
            vector: 1,
            ty: ScalarType::B8,
            dims: vec![Some(bytes.max(1))],
            name: Name::from(format!("{}$ts_i{}", v.name, self.copies)),
            ..v.clone()
        }
    }

    /// True when a call can be replaced: everything it passes is kept in registers or local variables.
    fn can(&self, i: &Instruction) -> Option<Name> {
        let call = i.call()?;
        let name = call.target.as_symbol()?;
        let callee = self.callees.get(name)?;
        let counts =
            call.results.len() == callee.results.len() && call.args.len() == callee.params.len();
        let scalar =
            |v: &Variable| v.vector == 1 && v.dims.is_empty() && matches!(v.ty.bits(), 32 | 64);
        let pairs = || {
            let results = call.results.iter().zip(&callee.results).map(|(o, v)| (o, v, true));
            results.chain(call.args.iter().zip(&callee.params).map(|(o, v)| (o, v, false)))
        };
        let each = pairs().all(|(operand, v, result)| match operand {
            Operand::Symbol(name, 0) => self.slots.kept.contains_key(name),
            Operand::Sink => result,
            Operand::Reg(_) => scalar(v),
            Operand::Int(_) | Operand::F32(_) | Operand::F64(_) => scalar(v) && !result,
            _ => false,
        });
        (counts && each && (self.sizes)(name) <= *self.left).then(|| name.clone())
    }

    fn block(&mut self, block: &mut Block) {
        let mut out = Vec::with_capacity(block.statements.len());
        for statement in std::mem::take(&mut block.statements) {
            match statement {
                Statement::Block(mut inner) => {
                    self.block(&mut inner);
                    out.push(Statement::Block(inner));
                }
                Statement::Variable(v) => match self.slots.kept.get(&v.name) {
                    Some(Kept::Local(local)) => out.push(Statement::Variable(local.clone())),
                    Some(Kept::Registers(_)) => {}
                    None => out.push(Statement::Variable(v)),
                },
                Statement::Instruction(i) => match self.can(&i) {
                    Some(name) => self.call(&i, &name, &mut out),
                    None => self.moves(i, None, &mut out),
                },
                other => out.push(other),
            }
        }
        block.statements = out;
    }

    /// An access to a kept variable of the caller, or (renamed) of the callee.
    fn moves(
        &mut self,
        mut i: Instruction,
        names: Option<&HashMap<Name, Kept>>,
        out: &mut Vec<Statement>,
    ) {
        let symbol = i.address().and_then(|a| match &a.base {
            Base::Symbol(name) => Some((name.clone(), a.offset)),
            _ => None,
        });
        let kept = symbol.as_ref().and_then(|(name, _)| match names {
            Some(names) => names.get(name).cloned(),
            None => self.slots.kept.get(name).cloned(),
        });
        let (Some(kept), Some((_, offset))) = (kept, symbol) else {
            out.push(Statement::Instruction(i));
            return;
        };
        match kept {
            Kept::Local(local) => {
                for m in &mut i.mods {
                    if matches!(m, Mod::Space(space) if space.is_param()) {
                        *m = Mod::Space(Space::Local);
                    }
                }
                if let Some(address) = i.address_mut() {
                    address.base = Base::Symbol(local.name);
                }
                out.push(Statement::Instruction(i));
            }
            Kept::Registers(list) => {
                let ty = i.ty().unwrap_or(ScalarType::B32);
                let store = i.op() == Some(Op::St);
                let value = i.operands.get(usize::from(store)).cloned();
                let values = match value {
                    Some(Operand::Vector(items)) => items,
                    other => other.into_iter().collect(),
                };
                for (index, value) in values.into_iter().enumerate() {
                    let at = offset.saturating_add(index as i64 * i64::from(ty.bytes()));
                    let Some((_, _, register)) = list.iter().find(|(o, ..)| *o == at) else {
                        continue;
                    };
                    let operands = match (store, value) {
                        (_, Operand::Sink) => continue,
                        (true, value) => vec![reg(register), value],
                        (false, value) => vec![value, reg(register)],
                    };
                    let copy = Instruction::new(Op::Mov, [ty.into()], operands).at(i.span);
                    out.push(Statement::Instruction(copy.guarded(i.guard.clone())));
                }
            }
        }
    }

    /// Puts the callee's body in place of a call.
    fn call(&mut self, i: &Instruction, name: &Name, out: &mut Vec<Statement>) {
        let Some(callee) = self.callees.get(name) else { return };
        let (Some(body), Some(call)) = (&callee.body, i.call()) else { return };
        *self.left = self.left.saturating_sub((self.sizes)(name));
        *self.copies += 1;
        self.inlined += 1;
        let at = i.span;
        let end = self.fresh.label();
        if let Some(guard) = &i.guard {
            let skip = Guard { negated: !guard.negated, reg: guard.reg.clone() };
            out.push(Statement::Instruction(jump(&end, at).guarded(Some(skip))));
        }
        let mut statements = Vec::new();
        let mut kept: HashMap<Name, Kept> = HashMap::default();
        let mut after = Vec::new();
        let pairs = call.results.iter().zip(&callee.results).map(|(o, v)| (o, v, true));
        let pairs = pairs.chain(call.args.iter().zip(&callee.params).map(|(o, v)| (o, v, false)));
        for (operand, v, result) in pairs {
            if let Operand::Symbol(name, _) = operand
                && let Some(known) = self.slots.kept.get(name)
            {
                kept.insert(v.name.clone(), known.clone());
                continue;
            }
            // Passed in a register: a variable of its own, so that any access to it has a meaning.
            let local = self.local(v, std::iter::empty());
            let address = Operand::Address(Address::symbol(local.name.clone(), 0));
            let mods = [Mod::Space(Space::Local), Mod::Type(v.ty)];
            statements.push(Statement::Variable(local.clone()));
            kept.insert(v.name.clone(), Kept::Local(local));
            match (operand, result) {
                (Operand::Sink, _) => {}
                (operand, true) => {
                    after.push(Instruction::new(Op::Ld, mods, vec![operand.clone(), address]));
                }
                (operand, false) => {
                    let store = Instruction::new(Op::St, mods, vec![address, operand.clone()]);
                    statements.push(Statement::Instruction(store.at(at)));
                }
            }
        }
        let mut renaming = Renaming {
            number: *self.copies,
            exact: HashSet::default(),
            bulk: HashMap::default(),
            own: HashMap::default(),
            labels: HashMap::default(),
        };
        renaming.declare(body);
        let mut copy = Vec::new();
        self.copy(body, &mut renaming, &kept, &end, &mut copy);
        statements.append(&mut copy);
        out.push(Statement::Block(Block { statements, span: at }));
        out.push(Statement::Label(end, at));
        // Results come out when the call ran only.
        let guard = &i.guard;
        let loads = after.into_iter().map(|load| load.at(at).guarded(guard.clone()));
        out.extend(loads.map(Statement::Instruction));
    }

    fn copy(
        &mut self,
        block: &Block,
        renaming: &mut Renaming,
        kept: &HashMap<Name, Kept>,
        end: &Name,
        out: &mut Vec<Statement>,
    ) {
        for statement in &block.statements {
            match statement {
                Statement::Block(inner) => {
                    let mut statements = Vec::new();
                    self.copy(inner, renaming, kept, end, &mut statements);
                    out.push(Statement::Block(Block { statements, span: inner.span }));
                }
                Statement::Instruction(i) => {
                    let mut i = i.clone();
                    if i.op() == Some(Op::Ret) {
                        let mut branch = jump(end, i.span).guarded(i.guard.take());
                        renaming.instruction(&mut branch, self.fresh, kept, Some(end));
                        out.push(Statement::Instruction(branch));
                        continue;
                    }
                    renaming.instruction(&mut i, self.fresh, kept, None);
                    self.moves(i, Some(kept), out);
                }
                Statement::Label(name, at) => {
                    out.push(Statement::Label(renaming.symbol(name, self.fresh), *at));
                }
                Statement::Registers(r) => {
                    let mut r = r.clone();
                    for name in &mut r.names {
                        name.name = match name.count {
                            Some(_) => renaming.prefix(&name.name),
                            None => renaming.plain(&name.name),
                        };
                    }
                    out.push(Statement::Registers(r));
                }
                Statement::Variable(v) => {
                    let name = renaming.plain(&v.name);
                    out.push(Statement::Variable(Variable { name, ..v.clone() }));
                }
                Statement::BranchTargets(t) => {
                    let mut t = t.clone();
                    t.name = renaming.symbol(&t.name, self.fresh);
                    for target in &mut t.targets {
                        *target = renaming.symbol(target, self.fresh);
                    }
                    out.push(Statement::BranchTargets(t));
                }
                Statement::Pragma(_) => out.push(statement.clone()),
                Statement::CallTargets(_) | Statement::CallPrototype(_) => {}
            }
        }
    }
}

fn jump(label: &Name, at: Span) -> Instruction {
    Instruction::new(Op::Bra, [], vec![Operand::Symbol(label.clone(), 0)]).at(at)
}

fn declared(block: &Block, found: &mut HashMap<Name, Variable>) {
    for statement in &block.statements {
        match statement {
            Statement::Block(inner) => declared(inner, found),
            Statement::Variable(v) if v.space.is_param() => {
                found.insert(v.name.clone(), v.clone());
            }
            _ => {}
        }
    }
}

/// A body without its calls, for asking who else names a variable.
fn without_calls(block: &Block) -> Block {
    let statements = block.statements.iter().filter_map(|statement| match statement {
        Statement::Block(inner) => Some(Statement::Block(without_calls(inner))),
        Statement::Instruction(i) if i.op() == Some(Op::Call) => None,
        other => Some(other.clone()),
    });
    Block { statements: statements.collect(), span: block.span }
}

/// New names for everything that a callee declares.
struct Renaming {
    number: u32,
    /// Registers, variables and labels declared one by one.
    exact: HashSet<Name>,
    /// Prefixes of registers declared in bulk, with their counts.
    bulk: HashMap<Name, u32>,
    /// The guard's own registers, which are declared at the end.
    own: HashMap<Name, Name>,
    labels: HashMap<Name, Name>,
}

impl Renaming {
    fn declare(&mut self, block: &Block) {
        for statement in &block.statements {
            match statement {
                Statement::Block(inner) => self.declare(inner),
                Statement::Registers(r) => {
                    for name in &r.names {
                        match name.count {
                            Some(count) => {
                                self.bulk.insert(name.name.clone(), count);
                            }
                            None => {
                                self.exact.insert(name.name.clone());
                            }
                        }
                    }
                }
                Statement::Variable(v) => {
                    self.exact.insert(v.name.clone());
                }
                Statement::Label(name, _) => {
                    self.exact.insert(name.clone());
                }
                Statement::BranchTargets(t) => {
                    self.exact.insert(t.name.clone());
                }
                _ => {}
            }
        }
    }

    fn plain(&self, name: &Name) -> Name {
        Name::from(format!("{name}$ts_i{}", self.number))
    }

    fn prefix(&self, name: &Name) -> Name {
        Name::from(format!("{name}$ts_i{}_", self.number))
    }

    fn register(&mut self, name: &Name, fresh: &mut Fresh) -> Name {
        if let Some(kind) = name.strip_prefix("%$ts_").and_then(|rest| rest.bytes().next()) {
            return self
                .own
                .entry(name.clone())
                .or_insert_with(|| match kind {
                    b'd' => fresh.double(),
                    b'w' => fresh.word(),
                    b'e' => fresh.wide_value(),
                    b'v' => fresh.value(),
                    _ => fresh.predicate(),
                })
                .clone();
        }
        if self.exact.contains(name) {
            return self.plain(name);
        }
        let digits = name.bytes().rev().take(10).take_while(u8::is_ascii_digit).count();
        for count in 1..=digits {
            let Some((prefix, index)) = name.split_at_checked(name.len() - count) else { continue };
            if let (Some(limit), Ok(number)) = (self.bulk.get(prefix), index.parse::<u32>())
                && number < *limit
            {
                return Name::from(format!("{prefix}$ts_i{}_{index}", self.number));
            }
        }
        name.clone()
    }

    /// A label or variable of the callee; anything else keeps its name.
    fn symbol(&mut self, name: &Name, fresh: &mut Fresh) -> Name {
        if name.starts_with("$ts_l") {
            return self.labels.entry(name.clone()).or_insert_with(|| fresh.label()).clone();
        }
        if self.exact.contains(name) { self.plain(name) } else { name.clone() }
    }

    fn instruction(
        &mut self,
        i: &mut Instruction,
        fresh: &mut Fresh,
        kept: &HashMap<Name, Kept>,
        end: Option<&Name>,
    ) {
        if let Some(guard) = &mut i.guard {
            guard.reg = self.register(&guard.reg, fresh);
        }
        for operand in &mut i.operands {
            self.operand(operand, fresh, kept, end);
        }
    }

    fn operand(
        &mut self,
        operand: &mut Operand,
        fresh: &mut Fresh,
        kept: &HashMap<Name, Kept>,
        end: Option<&Name>,
    ) {
        match operand {
            Operand::Reg(name) | Operand::NotReg(name) | Operand::Component(name, _) => {
                *name = self.register(name, fresh);
            }
            Operand::Symbol(name, _) if end != Some(name) => *name = self.symbol(name, fresh),
            Operand::Vector(items) | Operand::List(items) => {
                items.iter_mut().for_each(|item| self.operand(item, fresh, kept, end));
            }
            Operand::Pair(a, b) => {
                self.operand(a, fresh, kept, end);
                self.operand(b, fresh, kept, end);
            }
            Operand::Address(address) => {
                match &mut address.base {
                    Base::Reg(name) => *name = self.register(name, fresh),
                    // Parameters of the callee are looked up by the name they have.
                    Base::Symbol(name) if !kept.contains_key(name) => {
                        *name = self.symbol(name, fresh);
                    }
                    _ => {}
                }
                address.rest.iter_mut().for_each(|item| self.operand(item, fresh, kept, end));
            }
            _ => {}
        }
    }
}
