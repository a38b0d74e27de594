//! Control flow: indirect calls become direct calls of a dispatcher, function addresses tokens,
//! `brx.idx` gets its index bounded, `trap` and `assert` end the thread, external functions get bodies.
//!
//! A token stands for a function wherever a program could see its address, in registers and in
//! initialisers, so no real code address is ever in a tenant's hands. The dispatcher of a signature
//! compares the token with those of the functions of that signature whose address the module takes.

use crate::hash::{HashMap, HashSet};

use crate::tree::{
    Address, Base, Block, Function, FunctionKind, Guard, Init, Instruction, Item, Linkage, Mod,
    Module, Name, Op, Operand, ScalarType, Space, Span, Statement, Variable,
};

use super::forms::{Emit, Fresh, reg};
use super::report::{Change, Report};
use super::{GuardOptions, Refusal};
use crate::contract::GuardMode;

/// The first token; the others follow in steps of [`TOKEN_STEP`].
pub const FIRST_TOKEN: i64 = 0x100;
/// Distance of two tokens.
pub const TOKEN_STEP: i64 = 0x10;

/// Sizes and alignments of results and parameters: what two functions must share to be called alike.
type Signature = (Vec<(u64, u64)>, Vec<(u64, u64)>);

fn signature(results: &[Variable], params: &[Variable]) -> Option<Signature> {
    let shape = |list: &[Variable]| -> Option<Vec<(u64, u64)>> {
        list.iter().map(|v| Some((v.bytes()?, v.alignment()))).collect()
    };
    Some((shape(results)?, shape(params)?))
}

/// What later passes need of this one.
pub(super) struct Control {
    /// Token of each function whose address is taken.
    tokens: HashMap<Name, i64>,
}

impl Control {
    /// The token of a function.
    pub(super) fn token(&self, name: &Name) -> Option<i64> {
        self.tokens.get(name).copied()
    }
}

struct Pass<'o> {
    options: &'o GuardOptions,
    functions: HashMap<Name, (Signature, bool)>,
    aliases: HashMap<Name, Name>,
    tokens: HashMap<Name, i64>,
    taken: Vec<Name>,
    dispatchers: Vec<(Signature, Vec<Name>, Name)>,
    /// Dispatchers of all functions of a signature.
    by_signature: HashMap<Signature, Name>,
    calls: u32,
}

/// Rewrites the control flow of a module.
///
/// # Errors
/// [`Refusal`] for kernels used as values and indirect calls without a usable signature.
pub(super) fn control(
    module: &mut Module,
    options: &GuardOptions,
    fresh: &mut HashMap<Name, Fresh>,
    report: &mut Report,
) -> Result<Control, Refusal> {
    let mut pass = Pass {
        options,
        functions: HashMap::default(),
        aliases: HashMap::default(),
        tokens: HashMap::default(),
        taken: Vec::new(),
        dispatchers: Vec::new(),
        by_signature: HashMap::default(),
        calls: 0,
    };
    define_externs(module, options, report);
    for item in &module.items {
        match item {
            Item::Function(f) => {
                if let Some(shape) = signature(&f.results, &f.params) {
                    let entry = f.kind == FunctionKind::Entry;
                    pass.functions.insert(f.name.clone(), (shape, entry));
                }
            }
            Item::Alias { name, target, .. } => {
                pass.aliases.insert(name.clone(), target.clone());
            }
            _ => {}
        }
    }
    module.items.retain(|item| !matches!(item, Item::Alias { .. }));
    pass.find_taken(module)?;
    for item in &mut module.items {
        let Item::Function(f) = item else { continue };
        let Some(body) = &mut f.body else { continue };
        let fresh = fresh.entry(f.name.clone()).or_default();
        let changes = report.function(&f.name);
        pass.block(body, fresh, changes)?;
    }
    pass.write_dispatchers(module, fresh);
    Ok(Control { tokens: pass.tokens })
}

/// Gives the functions of CUDA's device runtime that nvcc leaves external a body that fails as their
/// documentation allows: no memory, nothing printed, assertions end the thread.
fn define_externs(module: &mut Module, options: &GuardOptions, report: &mut Report) {
    let defined: HashSet<Name> = module
        .items
        .iter()
        .filter_map(|item| match item {
            Item::Function(f) if f.body.is_some() => Some(f.name.clone()),
            _ => None,
        })
        .collect();
    let mut seen = HashSet::default();
    module.items.retain_mut(|item| {
        let Item::Function(f) = item else { return true };
        if f.body.is_some() || defined.contains(&f.name) || f.kind == FunctionKind::Entry {
            return true;
        }
        if !seen.insert(f.name.clone()) {
            return false;
        }
        let mut statements = Vec::new();
        for (index, v) in f.params.iter_mut().enumerate() {
            // Open sizes are for declarations only; names may be missing.
            if v.bytes().is_none() {
                v.dims = vec![Some(8)];
            }
            if *v.name == *"_" {
                v.name = Name::from(format!("$ts_stub{index}"));
            }
        }
        let value = match &*f.name {
            "vprintf" => Some(-1),
            "malloc" => Some(0),
            "free" => None,
            _ => {
                statements.push(Statement::Instruction(end_thread(options, f.span)));
                None
            }
        };
        if let (Some(value), Some(result)) = (value, f.results.first()) {
            let address = Operand::Address(Address::symbol(result.name.clone(), 0));
            let mods = [Mod::Space(Space::Param), Mod::Type(result.ty)];
            let store = Instruction::new(Op::St, mods, vec![address, Operand::Int(value)]);
            statements.push(Statement::Instruction(store.at(f.span)));
        }
        statements.push(Statement::Instruction(Instruction::new(Op::Ret, [], vec![]).at(f.span)));
        f.linkage = Linkage::Internal;
        f.directives.clear();
        f.body = Some(Block { statements, span: f.span });
        report.function(&f.name).count(Change::Extern);
        true
    });
}

/// Ends the thread. In check mode a `trap` stands for it until the rewriting of accesses, which puts the
/// report in its place.
fn end_thread(options: &GuardOptions, at: Span) -> Instruction {
    let op = if options.mode == GuardMode::Check { Op::Trap } else { Op::Exit };
    Instruction::new(op, [], vec![]).at(at)
}

impl Pass<'_> {
    fn resolve<'n>(&'n self, name: &'n Name) -> &'n Name {
        self.aliases.get(name).unwrap_or(name)
    }

    /// Functions used as values, in instructions other than direct calls and in initialisers.
    fn find_taken(&mut self, module: &Module) -> Result<(), Refusal> {
        let mut found: Vec<(Name, Span)> = Vec::new();
        for item in &module.items {
            match item {
                Item::Variable(v) => {
                    if let Some(init) = &v.init {
                        walk_init(init, &mut |name| found.push((name.clone(), v.span)));
                    }
                }
                Item::Function(f) => {
                    if let Some(body) = &f.body {
                        walk_block(body, &mut |name, at| found.push((name.clone(), at)));
                    }
                }
                _ => {}
            }
        }
        for (name, at) in found {
            let target = self.resolve(&name).clone();
            let Some((_, is_entry)) = self.functions.get(&target) else { continue };
            if *is_entry {
                let why = "the address of a kernel; kernels that launch kernels are not supported";
                return Err(Refusal::Instruction { at, why });
            }
            if !self.tokens.contains_key(&target) {
                let token = FIRST_TOKEN + TOKEN_STEP * self.tokens.len() as i64;
                self.tokens.insert(target.clone(), token);
                self.taken.push(target);
            }
        }
        for (alias, target) in &self.aliases {
            if let Some(&token) = self.tokens.get(target) {
                self.tokens.insert(alias.clone(), token);
            }
        }
        Ok(())
    }

    fn block(
        &mut self,
        block: &mut Block,
        fresh: &mut Fresh,
        report: &mut super::report::FunctionReport,
    ) -> Result<(), Refusal> {
        let mut lists: HashMap<Name, Vec<Name>> = HashMap::default();
        let mut prototypes: HashMap<Name, Signature> = HashMap::default();
        let mut brx: HashMap<Name, usize> = HashMap::default();
        collect(block, &mut lists, &mut prototypes, &mut brx);
        self.scope(block, &lists, &prototypes, &brx, fresh, report)
    }

    fn scope(
        &mut self,
        block: &mut Block,
        lists: &HashMap<Name, Vec<Name>>,
        prototypes: &HashMap<Name, Signature>,
        brx: &HashMap<Name, usize>,
        fresh: &mut Fresh,
        report: &mut super::report::FunctionReport,
    ) -> Result<(), Refusal> {
        let mut out: Vec<Statement> = Vec::with_capacity(block.statements.len());
        for mut statement in std::mem::take(&mut block.statements) {
            match &mut statement {
                Statement::Block(inner) => {
                    self.scope(inner, lists, prototypes, brx, fresh, report)?;
                }
                Statement::CallPrototype(_) | Statement::CallTargets(_) => continue,
                Statement::Instruction(i) => {
                    let mut emit = Emit::new(fresh, i.span);
                    self.instruction(i, lists, prototypes, brx, &mut emit, report)?;
                    if ends_assertion(i) {
                        drop_arguments(&mut out, i);
                        *i = end_thread(self.options, i.span).guarded(i.guard.take());
                        report.count(Change::Trap);
                    }
                    out.extend(emit.out.into_iter().map(Statement::Instruction));
                }
                _ => {}
            }
            out.push(statement);
        }
        block.statements = out;
        Ok(())
    }

    fn instruction(
        &mut self,
        i: &mut Instruction,
        lists: &HashMap<Name, Vec<Name>>,
        prototypes: &HashMap<Name, Signature>,
        brx: &HashMap<Name, usize>,
        emit: &mut Emit<'_>,
        report: &mut super::report::FunctionReport,
    ) -> Result<(), Refusal> {
        match i.op() {
            Some(Op::Call) => return self.call(i, lists, prototypes, report),
            Some(Op::Trap) => {
                *i = end_thread(self.options, i.span).guarded(i.guard.take());
                report.count(Change::Trap);
            }
            Some(Op::Brx) => {
                let list = i.operands.last().and_then(Operand::as_symbol);
                let count = list.and_then(|name| brx.get(name)).copied().unwrap_or(0);
                if count == 0 {
                    *i = end_thread(self.options, i.span).guarded(i.guard.take());
                } else {
                    let index = i.operands[0].clone();
                    let bounded = emit.fresh.word();
                    let operands = vec![reg(&bounded), index, Operand::Int(count as i64 - 1)];
                    emit.push(Op::Min, [ScalarType::U32.into()], operands);
                    i.operands[0] = reg(&bounded);
                }
                report.count(Change::BranchIndex);
            }
            _ => {}
        }
        let mut failed = None;
        let bits = i.ty().map_or(64, ScalarType::bits);
        for operand in &mut i.operands {
            self.tokens_for(operand, bits, &mut failed);
        }
        match failed {
            Some(why) => Err(Refusal::Instruction { at: i.span, why }),
            None => Ok(()),
        }
    }

    fn tokens_for(&self, operand: &mut Operand, bits: u32, failed: &mut Option<&'static str>) {
        match operand {
            Operand::Symbol(name, offset) => {
                if let Some(&token) = self.tokens.get(name) {
                    if bits != 64 {
                        *failed = Some("the address of a function in less than 64 bits");
                    }
                    *operand = Operand::Int(token.wrapping_add(*offset));
                }
            }
            Operand::Vector(items) => {
                items.iter_mut().for_each(|item| self.tokens_for(item, bits, failed));
            }
            _ => {}
        }
    }

    fn call(
        &mut self,
        i: &mut Instruction,
        lists: &HashMap<Name, Vec<Name>>,
        prototypes: &HashMap<Name, Signature>,
        report: &mut super::report::FunctionReport,
    ) -> Result<(), Refusal> {
        let at = i.span;
        let refuse = |why| Err(Refusal::Instruction { at, why });
        let Some(call) = i.call() else { return refuse("a malformed call") };
        let results = call.results.to_vec();
        let mut args = call.args.to_vec();
        let mut changed = false;
        for arg in &mut args {
            // Functions as arguments are values too.
            if let Operand::Symbol(name, 0) = arg
                && let Some(&token) = self.tokens.get(name)
            {
                (*arg, changed) = (Operand::Int(token), true);
            }
        }
        let target = match (call.target, call.prototype) {
            (Operand::Symbol(name, _), _) => {
                let resolved = self.resolve(name);
                changed |= resolved != name;
                resolved.clone()
            }
            (register, Some(prototype)) => {
                let known =
                    prototypes.get(prototype).and_then(|shape| self.by_signature.get(shape));
                let found = if let Some(known) = known.filter(|_| !lists.contains_key(prototype)) {
                    Err(known.clone())
                } else if let Some(targets) = lists.get(prototype) {
                    let names: Vec<Name> =
                        targets.iter().map(|n| self.resolve(n).clone()).collect();
                    let first = names.first().and_then(|n| self.functions.get(n));
                    let Some((shape, _)) = first else { return refuse("a call of no function") };
                    let shape = shape.clone();
                    let same = |n: &Name| self.functions.get(n).is_some_and(|f| f.0 == shape);
                    let names = names.into_iter().filter(|n| same(n)).collect::<Vec<_>>();
                    Ok((shape, names))
                } else if let Some(shape) = prototypes.get(prototype) {
                    let same = |n: &&Name| self.functions.get(*n).is_some_and(|f| f.0 == *shape);
                    Ok((shape.clone(), self.taken.iter().filter(same).cloned().collect()))
                } else {
                    return refuse("an indirect call without a prototype");
                };
                let register = register.clone();
                args.insert(0, register);
                changed = true;
                report.count(Change::IndirectCall);
                match found {
                    Err(known) => known,
                    Ok((shape, targets)) => {
                        let name = self.dispatcher(shape.clone(), targets);
                        if !lists.contains_key(prototype) {
                            self.by_signature.insert(shape, name.clone());
                        }
                        name
                    }
                }
            }
            _ => return refuse("an indirect call without a prototype"),
        };
        self.calls += 1;
        if changed {
            let mut operands = Vec::new();
            if !results.is_empty() {
                operands.push(Operand::List(results));
            }
            operands.push(Operand::Symbol(target, 0));
            if !args.is_empty() {
                operands.push(Operand::List(args));
            }
            i.operands = operands;
        }
        Ok(())
    }

    fn dispatcher(&mut self, shape: Signature, targets: Vec<Name>) -> Name {
        // Only functions with a token can be asked for.
        let targets: Vec<Name> =
            targets.into_iter().filter(|n| self.tokens.contains_key(n)).collect();
        let known = self.dispatchers.iter().find(|(s, t, _)| *s == shape && *t == targets);
        if let Some((_, _, name)) = known {
            return name.clone();
        }
        let name = Name::from(format!("$ts_dispatch{}", self.dispatchers.len()));
        self.dispatchers.push((shape, targets, name.clone()));
        name
    }

    /// Declares functions and dispatchers first (PTX wants a declaration before use) and puts the
    /// dispatchers' bodies last.
    fn write_dispatchers(&self, module: &mut Module, fresh: &mut HashMap<Name, Fresh>) {
        if self.dispatchers.is_empty() {
            return;
        }
        let first = module
            .items
            .iter()
            .position(|item| matches!(item, Item::Function(_)))
            .unwrap_or(module.items.len());
        let mut bodies = Vec::new();
        for (shape, targets, name) in &self.dispatchers {
            let registers = fresh.entry(name.clone()).or_default();
            let function = self.write_dispatcher(shape, targets, name, registers);
            let declaration = Function { body: None, ..function.clone() };
            module.items.insert(first, Item::Function(Box::new(declaration)));
            bodies.push(Item::Function(Box::new(function)));
        }
        module.items.extend(bodies);
    }

    fn write_dispatcher(
        &self,
        shape: &Signature,
        targets: &[Name],
        name: &Name,
        fresh: &mut Fresh,
    ) -> Function {
        let array = |name: String, (bytes, align): (u64, u64)| Variable {
            linkage: Linkage::Internal,
            space: Space::Param,
            align: Some(align as u32),
            vector: 1,
            ty: ScalarType::B8,
            pointer: None,
            managed: false,
            name: Name::from(name),
            dims: vec![Some(bytes)],
            init: None,
            span: Span::NONE,
        };
        let target = Variable {
            ty: ScalarType::B64,
            dims: Vec::new(),
            align: None,
            ..array("$ts_target".into(), (8, 8))
        };
        let scalar = |v: Variable, (bytes, align): (u64, u64)| match (bytes, align) {
            (4, 4) => Variable { ty: ScalarType::B32, dims: Vec::new(), align: None, ..v },
            (8, 8) => Variable { ty: ScalarType::B64, dims: Vec::new(), align: None, ..v },
            _ => v,
        };
        let list = |prefix: &str, shapes: &[(u64, u64)]| -> Vec<Variable> {
            let each = |(i, s): (usize, &(u64, u64))| scalar(array(format!("{prefix}{i}"), *s), *s);
            shapes.iter().enumerate().map(each).collect()
        };
        let results = list("$ts_result", &shape.0);
        let own = list("$ts_param", &shape.1);
        let mut statements = Vec::new();
        let wanted = fresh.double();
        let mut emit = Emit::new(fresh, Span::NONE);
        let mods = [Mod::Space(Space::Param), Mod::Type(ScalarType::B64)];
        let address = Operand::Address(Address::symbol(target.name.clone(), 0));
        emit.push(Op::Ld, mods, vec![reg(&wanted), address]);
        let mut arms = Vec::new();
        for function in targets {
            let token = self.tokens.get(function).copied().unwrap_or(0);
            let differs = emit.differ(ScalarType::B64, &wanted, Operand::Int(token), None);
            let label = emit.fresh.label();
            emit.push(Op::Bra, [], vec![Operand::Symbol(label.clone(), 0)]);
            if let Some(branch) = emit.out.last_mut() {
                branch.guard = Some(Guard { negated: true, reg: differs });
            }
            arms.push((label, function));
        }
        emit.out.push(end_thread(self.options, Span::NONE));
        statements.extend(emit.out.into_iter().map(Statement::Instruction));
        for (arm, (label, function)) in arms.into_iter().enumerate() {
            statements.push(Statement::Label(label, Span::NONE));
            let actual = |v: &Variable| Variable {
                name: Name::from(format!("{}_{arm}", v.name)),
                ..v.clone()
            };
            let args: Vec<Variable> = own.iter().map(actual).collect();
            let outs: Vec<Variable> = results.iter().map(actual).collect();
            let mut inner: Vec<Statement> =
                args.iter().chain(&outs).cloned().map(Statement::Variable).collect();
            let mut emit = Emit::new(fresh, Span::NONE);
            for (from, to) in own.iter().zip(&args) {
                copy(&mut emit, from, to);
            }
            let names = |list: &[Variable]| {
                Operand::List(list.iter().map(|v| Operand::Symbol(v.name.clone(), 0)).collect())
            };
            let mut operands = Vec::new();
            if !outs.is_empty() {
                operands.push(names(&outs));
            }
            operands.push(Operand::Symbol(function.clone(), 0));
            if !args.is_empty() {
                operands.push(names(&args));
            }
            emit.push(Op::Call, [], operands);
            for (from, to) in outs.iter().zip(&results) {
                copy(&mut emit, from, to);
            }
            inner.extend(emit.out.into_iter().map(Statement::Instruction));
            statements.push(Statement::Block(Block { statements: inner, span: Span::NONE }));
            statements.push(Statement::Instruction(Instruction::new(Op::Ret, [], vec![])));
        }
        let body = Block { statements, span: Span::NONE };
        Function {
            linkage: Linkage::Internal,
            kind: FunctionKind::Func,
            name: name.clone(),
            results,
            params: std::iter::once(target).chain(own).collect(),
            directives: Vec::new(),
            body: Some(body),
            span: Span::NONE,
        }
    }
}

/// Copies one `.param` to another of the same size and alignment.
fn copy(emit: &mut Emit<'_>, from: &Variable, to: &Variable) {
    let bytes = from.bytes().unwrap_or(0);
    let mut offset = 0;
    while offset < bytes {
        let mut step = from.alignment().clamp(1, 8);
        while offset % step != 0 || offset + step > bytes {
            step /= 2;
        }
        let (ty, value) = match step {
            8 => (ScalarType::B64, emit.fresh.double()),
            4 => (ScalarType::B32, emit.fresh.word()),
            2 => (ScalarType::B16, emit.fresh.word()),
            _ => (ScalarType::B8, emit.fresh.word()),
        };
        let mods = || [Mod::Space(Space::Param), Mod::Type(ty)];
        let at = |v: &Variable| Operand::Address(Address::symbol(v.name.clone(), offset as i64));
        emit.push(Op::Ld, mods(), vec![reg(&value), at(from)]);
        emit.push(Op::St, mods(), vec![at(to), reg(&value)]);
        offset += step;
    }
}

fn ends_assertion(i: &Instruction) -> bool {
    i.call().is_some_and(|call| call.target.as_symbol().is_some_and(|n| **n == *"__assertfail"))
}

/// Removes the stores of a dropped call's arguments, which PTX allows only in front of a call.
fn drop_arguments(out: &mut Vec<Statement>, i: &Instruction) {
    let Some(call) = i.call() else { return };
    let args: HashSet<&Name> = call.args.iter().filter_map(Operand::as_symbol).collect();
    out.retain(|statement| {
        let Statement::Instruction(i) = statement else { return true };
        let store = i.op() == Some(Op::St) && i.space().is_some_and(Space::is_param);
        let base = i.address().map(|a| &a.base);
        !(store && matches!(base, Some(Base::Symbol(name)) if args.contains(name)))
    });
}

fn collect(
    block: &Block,
    lists: &mut HashMap<Name, Vec<Name>>,
    prototypes: &mut HashMap<Name, Signature>,
    brx: &mut HashMap<Name, usize>,
) {
    for statement in &block.statements {
        match statement {
            Statement::Block(inner) => collect(inner, lists, prototypes, brx),
            Statement::CallTargets(t) => {
                lists.insert(t.name.clone(), t.targets.clone());
            }
            Statement::BranchTargets(t) => {
                brx.insert(t.name.clone(), t.targets.len());
            }
            Statement::CallPrototype(p) => {
                if let Some(shape) = signature(&p.results, &p.params) {
                    prototypes.insert(p.name.clone(), shape);
                }
            }
            _ => {}
        }
    }
}

fn walk_init(init: &Init, visit: &mut impl FnMut(&Name)) {
    match init {
        Init::List(items) => items.iter().for_each(|item| walk_init(item, visit)),
        Init::Symbol(symbol) => visit(&symbol.name),
        _ => {}
    }
}

fn walk_block(block: &Block, visit: &mut impl FnMut(&Name, Span)) {
    for statement in &block.statements {
        match statement {
            Statement::Block(inner) => walk_block(inner, visit),
            Statement::CallTargets(t) => t.targets.iter().for_each(|name| visit(name, t.span)),
            Statement::Instruction(i) => {
                let call = i.call();
                let operands = match &call {
                    // A direct call's target is no value.
                    Some(call) => call.args,
                    None => i.operands.as_slice(),
                };
                operands.iter().for_each(|operand| walk_operand(operand, i.span, visit));
            }
            _ => {}
        }
    }
}

fn walk_operand(operand: &Operand, at: Span, visit: &mut impl FnMut(&Name, Span)) {
    match operand {
        Operand::Symbol(name, _) => visit(name, at),
        Operand::Vector(items) | Operand::List(items) => {
            items.iter().for_each(|item| walk_operand(item, at, visit));
        }
        _ => {}
    }
}
