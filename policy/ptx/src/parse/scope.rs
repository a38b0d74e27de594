//! Name resolution: what each identifier in a function means, and one meaning for each name.
//!
//! PTX scopes nest and shadow as in C, registers may be declared in bulk (`%r<100>`), and labels can
//! be used before they are declared. Passes over the tree want none of that. So: an identifier
//! becomes a register, a special register or a symbol operand here, and a name declared in a nested
//! scope that is already in use in the same function or the module is given a fresh, reserved one.
//! Text that the guard wrote must not need any such renaming; there it is an error.

use crate::hash::{HashMap, HashSet};
use std::mem;

use super::ParseError;
use crate::tree::{
    Base, Block, Function, Init, Instruction, Item, Module, Name, Operand, RESERVED, Registers,
    Span, Special, Statement, Variable,
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    Register,
    #[default]
    Symbol,
    Special(Special),
}

struct Binding {
    depth: u32,
    kind: Kind,
    name: Name,
}

struct Bulk {
    depth: u32,
    count: u32,
    prefix: Name,
    renamed: bool,
}

/// What is known of each name that the parser numbered; index 0 stands for none of them. All that a
/// function adds is void after it, without anything having to be wiped.
struct Known {
    /// Names at module level.
    module: Vec<bool>,
    /// Visible meanings of a name in the function at hand, innermost last.
    exact: Vec<Vec<Binding>>,
    /// The last function in which the name meant something, by its number from 1. The names made
    /// here need not be here: nothing else is called so.
    taken: Vec<u32>,
    /// What the name meant when it was last looked up.
    found: Vec<Found>,
    function: u32,
    /// Grows with every declaration and at both ends of a scope: what was found earlier is stale.
    now: u64,
}

impl Known {
    fn is_module(&self, name: &Name) -> bool {
        self.module.get(name.number() as usize).copied().unwrap_or(false)
    }

    fn is_taken(&self, name: &Name) -> bool {
        self.taken.get(name.number() as usize).is_some_and(|at| *at == self.function)
    }

    fn binding(&self, name: &Name) -> Option<&Binding> {
        self.exact.get(name.number() as usize)?.last()
    }
}

struct Scope<'m> {
    known: &'m mut Known,
    /// Visible bulk declarations by prefix, innermost last.
    bulk: HashMap<Name, Vec<Bulk>>,
    /// A prefix that ends in a digit was seen: then a name may be split in several ways.
    digits: bool,
    /// Prefixes of bulk declarations anywhere in this function, after renaming.
    taken_prefixes: HashSet<Name>,
    /// What each open scope declared: the source name, and whether in bulk.
    open: Vec<Vec<(Name, bool)>>,
    fresh: u32,
    may_rename: bool,
}

/// An answer of [`Scope::look_up`]: the kind of thing, and its name if that is another.
#[derive(Clone, Default)]
struct Found {
    at: u64,
    kind: Kind,
    name: Option<Name>,
}

/// Resolves every identifier in the module; `count` is how many different ones there are. `may_rename`: false for
/// text that the guard wrote.
pub(super) fn resolve(
    module: &mut Module,
    count: usize,
    may_rename: bool,
) -> Result<(), ParseError> {
    let mut known = Known {
        module: module_names(module, count)?,
        exact: Vec::new(),
        taken: vec![0; count + 1],
        found: vec![Found::default(); count + 1],
        function: 0,
        now: 0,
    };
    known.exact.resize_with(count + 1, Vec::new);
    for item in &mut module.items {
        match item {
            Item::Function(function) => {
                if function.body.is_some() {
                    resolve_function(function, &mut known, may_rename)?;
                }
            }
            Item::Variable(variable) => check_init(variable, &|name| known.is_module(name))?,
            Item::Alias { target, span, .. } => {
                if !known.is_module(target) {
                    return Err(undeclared(target, *span));
                }
            }
            Item::Pragma(_) => {}
        }
    }
    Ok(())
}

fn undeclared(name: &str, at: Span) -> ParseError {
    let cut: String = name.chars().take(80).collect();
    ParseError::syntax(at, format!("`{cut}` is not declared here"))
}

/// The ways to read a name as prefix and index of a bulk declaration: the index has no leading
/// zero and, a count being below 2^32, at most ten digits.
fn splits(name: &str) -> impl Iterator<Item = (&str, &str)> {
    let digits = name.bytes().rev().take(10).take_while(u8::is_ascii_digit).count();
    (1..=digits.min(name.len().saturating_sub(1))).filter_map(move |count| {
        let (prefix, index) = name.split_at_checked(name.len() - count)?;
        (count == 1 || !index.starts_with('0')).then_some((prefix, index))
    })
}

fn twice(name: &str, at: Span) -> ParseError {
    let cut: String = name.chars().take(80).collect();
    ParseError::syntax(at, format!("`{cut}` is declared twice"))
}

/// All names at module level. Functions and variables may be declared again, but not as each other,
/// and only one of the declarations may be a definition.
fn module_names(module: &Module, count: usize) -> Result<Vec<bool>, ParseError> {
    let mut seen: HashMap<Name, (u8, bool)> =
        HashMap::with_capacity_and_hasher(module.items.len(), Default::default());
    let mut add = |name: &Name, sort: u8, defines: bool, at: Span| {
        let entry = seen.entry(name.clone()).or_insert((sort, false));
        if entry.0 != sort || (entry.1 && defines) || **name == *"_" {
            return Err(twice(name, at));
        }
        entry.1 |= defines;
        Ok(())
    };
    for item in &module.items {
        match item {
            Item::Function(f) => add(&f.name, f.kind as u8, f.body.is_some(), f.span)?,
            Item::Variable(v) => {
                let declared = v.linkage == crate::tree::Linkage::Extern;
                add(&v.name, 10 + v.space as u8, !declared, v.span)?;
            }
            Item::Alias { name, span, .. } => add(name, 1, true, *span)?,
            Item::Pragma(_) => {}
        }
    }
    let mut names = vec![false; count + 1];
    for name in seen.keys() {
        // All come from the parser, which numbers from 1.
        if let Some(slot) = names.get_mut(name.number() as usize) {
            *slot = true;
        }
    }
    Ok(names)
}

fn check_init(variable: &Variable, known: &impl Fn(&Name) -> bool) -> Result<(), ParseError> {
    fn walk(init: &Init, known: &impl Fn(&Name) -> bool, at: Span) -> Result<(), ParseError> {
        match init {
            Init::List(items) => items.iter().try_for_each(|item| walk(item, known, at)),
            Init::Symbol(symbol) if !known(&symbol.name) => Err(undeclared(&symbol.name, at)),
            _ => Ok(()),
        }
    }
    variable.init.as_ref().map_or(Ok(()), |init| walk(init, known, variable.span))
}

fn resolve_function(
    function: &mut Function,
    known: &mut Known,
    may_rename: bool,
) -> Result<(), ParseError> {
    known.function += 1;
    known.now += 1;
    let mut scope = Scope {
        known,
        bulk: HashMap::default(),
        digits: false,
        taken_prefixes: HashSet::default(),
        open: vec![Vec::new()],
        fresh: 0,
        may_rename,
    };
    for parameter in function.results.iter_mut().chain(&mut function.params) {
        let register = parameter.space == crate::tree::Space::Reg;
        let kind = if register { Kind::Register } else { Kind::Symbol };
        parameter.name = scope.declare(&parameter.name, kind, parameter.span)?;
    }
    if let Some(body) = &mut function.body {
        scope.block(body)?;
    }
    scope.close();
    Ok(())
}

impl Scope<'_> {
    /// Depth of the innermost open scope; parameters are at 1, the body at 2.
    fn depth(&self) -> u32 {
        self.open.len() as u32
    }

    fn fresh(&mut self, name: &str, bulk: bool, at: Span) -> Result<Name, ParseError> {
        if !self.may_rename {
            return Err(twice(name, at));
        }
        self.fresh += 1;
        // The trailing underscore keeps a bulk prefix from running into its index.
        let tail = if bulk { "_" } else { "" };
        Ok(Name::from(format!("{name}{RESERVED}{}{tail}", self.fresh)))
    }

    fn declare(&mut self, name: &Name, kind: Kind, at: Span) -> Result<Name, ParseError> {
        let depth = self.depth();
        self.known.now += 1;
        if **name == *"_" {
            return Err(ParseError::expected(at, "a name; `_` cannot be declared"));
        }
        if self.known.binding(name).is_some_and(|b| b.depth == depth) {
            return Err(twice(name, at));
        }
        let covered = self.find_bulk(name, at)?;
        if covered.as_ref().is_some_and(|(d, _)| *d == depth) {
            return Err(twice(name, at));
        }
        let clash = self.known.is_taken(name)
            || self.known.is_module(name)
            || splits(name).any(|(prefix, _)| self.taken_prefixes.contains(prefix));
        let new = if clash { self.fresh(name, false, at)? } else { name.clone() };
        // Number 0 stands for no number.
        if let Some(slot) = self.known.taken.get_mut(new.number() as usize)
            && new.number() != 0
        {
            *slot = self.known.function;
        }
        if let Some(stack) = self.known.exact.get_mut(name.number() as usize) {
            stack.push(Binding { depth, kind, name: new.clone() });
        }
        if let Some(scope) = self.open.last_mut() {
            scope.push((name.clone(), false));
        }
        Ok(new)
    }

    fn declare_bulk(&mut self, prefix: &Name, count: u32, at: Span) -> Result<Name, ParseError> {
        let depth = self.depth();
        self.known.now += 1;
        if self.bulk.get(prefix).and_then(|b| b.last()).is_some_and(|b| b.depth == depth) {
            return Err(twice(prefix, at));
        }
        // In the body's own scope the names stay; deeper ones might cover names used elsewhere. The
        // form of the fresh ones rules that out, so guarded text must have it there.
        if depth > 2 && !self.may_rename && !(prefix.is_reserved() && prefix.ends_with('_')) {
            return Err(ParseError::syntax(at, "registers in bulk belong at the start of a body"));
        }
        self.digits |= prefix.ends_with(|c: char| c.is_ascii_digit());
        let renamed = self.taken_prefixes.contains(prefix) || (depth > 2 && self.may_rename);
        let new = if renamed { self.fresh(prefix, true, at)? } else { prefix.clone() };
        self.taken_prefixes.insert(new.clone());
        let bulk = Bulk { depth, count, prefix: new.clone(), renamed };
        self.bulk.entry(prefix.clone()).or_default().push(bulk);
        if let Some(scope) = self.open.last_mut() {
            scope.push((prefix.clone(), true));
        }
        Ok(new)
    }

    /// The innermost bulk declaration that covers a name: its depth and the register's new name.
    fn find_bulk(&self, name: &Name, at: Span) -> Result<Option<(u32, Name)>, ParseError> {
        if self.bulk.is_empty() {
            return Ok(None);
        }
        let mut best: Option<(u32, Name)> = None;
        for (prefix, index) in splits(name) {
            if !self.digits && prefix.ends_with(|c: char| c.is_ascii_digit()) {
                continue;
            }
            let Some(bulk) = self.bulk.get(prefix).and_then(|b| b.last()) else { continue };
            if !index.parse::<u32>().is_ok_and(|index| index < bulk.count) {
                continue;
            }
            match &best {
                Some((depth, _)) if *depth == bulk.depth || !self.may_rename => {
                    return Err(twice(name, at));
                }
                Some((depth, _)) if *depth > bulk.depth => continue,
                _ => {}
            }
            let new = if bulk.renamed {
                Name::from(format!("{}{index}", bulk.prefix))
            } else {
                name.clone()
            };
            best = Some((bulk.depth, new));
        }
        Ok(best)
    }

    /// What a name means at this point: the kind of thing, and its name if that is another.
    fn look_up(&mut self, name: &Name, at: Span) -> Result<(Kind, Option<Name>), ParseError> {
        let number = name.number() as usize;
        if let Some(found) = self.known.found.get(number).filter(|found| found.at == self.known.now)
        {
            return Ok((found.kind, found.name.clone()));
        }
        let (kind, new) = self.find(name, at)?;
        let new = (new != *name).then_some(new);
        // Number 0 stands for no number; what is never current is never found.
        if let Some(slot) = self.known.found.get_mut(number).filter(|_| number != 0) {
            *slot = Found { at: self.known.now, kind, name: new.clone() };
        }
        Ok((kind, new))
    }

    fn find(&self, name: &Name, at: Span) -> Result<(Kind, Name), ParseError> {
        let exact = self.known.binding(name);
        if exact.is_none()
            && name.starts_with('%')
            && let Some(special) = Special::from_text(name)
        {
            return Ok((Kind::Special(special), name.clone()));
        }
        let bulk = self.find_bulk(name, at)?;
        match (exact, bulk) {
            (Some(binding), Some((depth, _))) if depth == binding.depth => Err(twice(name, at)),
            (Some(binding), None) => Ok((binding.kind, binding.name.clone())),
            (Some(binding), Some((depth, _))) if binding.depth > depth => {
                Ok((binding.kind, binding.name.clone()))
            }
            (_, Some((_, new))) => {
                // A name out of a bulk declaration must not be anything else as well.
                if self.known.is_taken(&new) || self.known.is_module(&new) {
                    return Err(twice(name, at));
                }
                Ok((Kind::Register, new))
            }
            (None, None) if self.known.is_module(name) => Ok((Kind::Symbol, name.clone())),
            (None, None) => Err(undeclared(name, at)),
        }
    }

    fn register(&mut self, name: &mut Name, at: Span) -> Result<(), ParseError> {
        let (kind, new) = self.look_up(name, at)?;
        if kind != Kind::Register {
            return Err(ParseError::expected(at, format!("a register; `{name}` is none")));
        }
        if let Some(new) = new {
            *name = new;
        }
        Ok(())
    }

    fn symbol(&mut self, name: &mut Name, at: Span) -> Result<(), ParseError> {
        let (kind, new) = self.look_up(name, at)?;
        if kind != Kind::Symbol {
            return Err(ParseError::expected(at, format!("a symbol; `{name}` is a register")));
        }
        if let Some(new) = new {
            *name = new;
        }
        Ok(())
    }

    fn block(&mut self, block: &mut Block) -> Result<(), ParseError> {
        self.open.push(Vec::new());
        self.known.now += 1;
        // Labels are visible in all of their scope, before their own line too.
        for statement in &mut block.statements {
            match statement {
                Statement::Label(name, span) => *name = self.declare(name, Kind::Symbol, *span)?,
                Statement::BranchTargets(t) | Statement::CallTargets(t) => {
                    t.name = self.declare(&t.name, Kind::Symbol, t.span)?;
                }
                Statement::CallPrototype(p) => {
                    p.name = self.declare(&p.name, Kind::Symbol, p.span)?;
                }
                _ => {}
            }
        }
        for statement in &mut block.statements {
            self.statement(statement)?;
        }
        self.close();
        Ok(())
    }

    /// Leaves the innermost scope.
    fn close(&mut self) {
        self.known.now += 1;
        for (name, bulk) in self.open.pop().unwrap_or_default() {
            // An emptied entry goes, so that `bulk.is_empty()` keeps its meaning.
            if bulk {
                if let Some(stack) = self.bulk.get_mut(&name) {
                    stack.pop();
                    if stack.is_empty() {
                        self.bulk.remove(&name);
                    }
                }
            } else if let Some(stack) = self.known.exact.get_mut(name.number() as usize) {
                stack.pop();
            }
        }
    }

    fn statement(&mut self, statement: &mut Statement) -> Result<(), ParseError> {
        match statement {
            Statement::Instruction(instruction) => self.instruction(instruction),
            Statement::Block(block) => self.block(block),
            Statement::Registers(registers) => self.registers(registers),
            Statement::Variable(v) => {
                v.name = self.declare(&v.name, Kind::Symbol, v.span)?;
                check_init(v, &|name| self.known.is_module(name))
            }
            Statement::BranchTargets(t) | Statement::CallTargets(t) => {
                t.targets.iter_mut().try_for_each(|name| self.symbol(name, t.span))
            }
            Statement::Label(..) | Statement::CallPrototype(_) | Statement::Pragma(_) => Ok(()),
        }
    }

    fn registers(&mut self, registers: &mut Registers) -> Result<(), ParseError> {
        for declared in &mut registers.names {
            declared.name = match declared.count {
                Some(count) => self.declare_bulk(&declared.name, count, registers.span)?,
                None => self.declare(&declared.name, Kind::Register, registers.span)?,
            };
        }
        Ok(())
    }

    fn instruction(&mut self, instruction: &mut Instruction) -> Result<(), ParseError> {
        let at = instruction.span;
        if let Some(guard) = &mut instruction.guard {
            self.register(&mut guard.reg, at)?;
        }
        instruction.operands.iter_mut().try_for_each(|operand| self.operand(operand, at))
    }

    fn operand(&mut self, operand: &mut Operand, at: Span) -> Result<(), ParseError> {
        match operand {
            Operand::Symbol(name, offset) => {
                let (kind, new) = self.look_up(name, at)?;
                if let Some(new) = new {
                    *name = new;
                }
                if *offset != 0 && kind != Kind::Symbol {
                    let reason = "a register plus an offset needs brackets around it";
                    return Err(ParseError::syntax(at, reason));
                }
                if let Kind::Special(special) = kind {
                    *operand = Operand::Special(special);
                } else if kind == Kind::Register {
                    *operand = match mem::replace(operand, Operand::Sink) {
                        Operand::Symbol(name, _) => Operand::Reg(name),
                        other => other,
                    };
                }
                Ok(())
            }
            Operand::Reg(name) | Operand::NotReg(name) | Operand::Component(name, _) => {
                self.register(name, at)
            }
            Operand::Vector(items) | Operand::List(items) => {
                items.iter_mut().try_for_each(|item| self.operand(item, at))
            }
            Operand::Address(address) => {
                if let Base::Symbol(name) = &mut address.base {
                    let (kind, new) = self.look_up(name, at)?;
                    if let Some(new) = new {
                        *name = new;
                    }
                    if let Kind::Special(_) = kind {
                        let reason = "an address starts from a declared register or a symbol";
                        return Err(ParseError::expected(at, reason));
                    }
                    if kind == Kind::Register {
                        address.base = match mem::replace(&mut address.base, Base::Absolute) {
                            Base::Symbol(name) => Base::Reg(name),
                            other => other,
                        };
                    }
                }
                address.rest.iter_mut().try_for_each(|item| self.operand(item, at))
            }
            Operand::Pair(a, b) => {
                self.operand(a, at)?;
                self.operand(b, at)
            }
            Operand::Special(_) | Operand::Int(_) | Operand::F32(_) | Operand::F64(_) => Ok(()),
            Operand::Sink => Ok(()),
        }
    }
}
