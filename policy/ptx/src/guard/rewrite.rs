//! Confines every memory operand of a module: walks each function's dominator tree, so that a fence made
//! in one block serves all blocks that only it leads to, and puts the sequences in front of the accesses.

use crate::hash::{HashMap, HashSet};

use crate::contract::{Contract, GuardMode, KernelContract, PointerContract};
use crate::tree::{
    Block, Flag, Function, FunctionKind, Instruction, Item, Module, Name, Op, Operand, Space, Span,
    Statement, Variable,
};

use super::access::{Access, Target, accesses};
use super::alignment::Growth;
use super::analysis::{Analysis, Arg, Object, ObjectSpace, Place, module_objects};
use super::forms::{Emit, Fresh};
use super::recursion::{Calls, each_instruction, names};
use super::registers::Registers;
use super::report::{Change, FunctionReport, Report};
use super::violation::{Violation, ViolationKind, reporter};
use super::{GuardOptions, Refusal};

/// What takes the place of an instruction.
struct Edit {
    before: Vec<Instruction>,
    instruction: Instruction,
}

/// One operand to confine, with all that is known of it.
#[derive(Clone, Copy)]
pub(super) struct Job {
    pub(super) number: u32,
    pub(super) access: Access,
    pub(super) place: Place,
    /// Immediate offset as written.
    pub(super) offset: i64,
}

/// Where a fence or clamp of a value is good: the value (or none, for one use only), its place in a group.
pub(super) type Key = (Target, Arg, i64);

/// A safe register that later accesses may use.
#[derive(Clone)]
pub(super) struct Available {
    /// The register.
    pub(super) register: Name,
    /// It is a multiple of this.
    pub(super) align: u64,
    /// Bytes from it on that are safe (clamps).
    pub(super) room: u64,
    /// The access that it was made for runs whenever its block does, so that in a program without
    /// faults the address fits as it is; else only the very same access may use it.
    pub(super) certain: bool,
}

/// The pass over one function.
pub(super) struct Pass<'a, 'm> {
    pub(super) options: &'a GuardOptions,
    /// Lines whose accesses are confined whatever is proved of them.
    doubts: &'a HashSet<u32>,
    pub(super) function: &'m Function,
    pub(super) analysis: &'a Analysis<'m>,
    pub(super) registers: Registers<'m>,
    /// Shared objects that the function's kernels have anyway.
    pub(super) shared: &'a [Object],
    /// All shared objects of the module.
    pub(super) module: &'a HashMap<Name, Object>,
    /// The function's own variables and parameters.
    pub(super) named: HashMap<&'m Name, &'m Variable>,
    /// A caller takes the generic address of a local variable, which may reach this function.
    pub(super) callers_locals: bool,
    pub(super) fresh: &'a mut Fresh,
    pub(super) changes: &'a mut FunctionReport,
    pub(super) growth: &'a mut Growth,
    /// Dynamic shared memory that launches must have for what was relied on.
    pub(super) dynamic_needed: u64,
    /// True when an access needs the stand-in shared object, which has to be declared then.
    pub(super) needs_stand_in: bool,
    pub(super) needs_local: bool,
    pub(super) violations: Vec<Violation>,
    available: HashMap<Key, Vec<Available>>,
    undo: Vec<Key>,
    /// Sharing is off (code that no way leads to, or a graph that was not understood).
    alone: bool,
    /// Instructions that the guard may still write.
    room: usize,
    /// Jobs of the block at hand.
    pub(super) block_jobs: Vec<Job>,
    /// Those that run whenever their block does, by what they access and their address's value.
    pub(super) members: HashMap<(Target, Arg), Vec<u32>>,
    /// The widest alignment that such accesses need of a value, over all of the block.
    pub(super) root_aligns: HashMap<Arg, u64>,
    /// Groups found so far; `None` for none.
    pub(super) groups: HashMap<(Target, Arg), Option<Extent>>,
    edits: HashMap<u32, Edit>,
}

/// Least and greatest offset of a group of accesses, and their alignment.
pub(super) type Extent = (i64, i64, u64);

/// Name of the shared object that stands in where a kernel has none.
pub(super) const STAND_IN: &str = "$ts_shared";
/// Name of the local object that stands in where a function has none.
pub(super) const LOCAL_STAND_IN: &str = "$ts_local";

/// Most instructions that the guard writes for a module: so many, and as many for each of its own. An
/// access by an address of which nothing is known takes some six for each object it may mean.
const GROWTH: usize = 1 << 16;
const GROWTH_EACH: usize = 24;

/// Why a module whose guarding would not end is refused.
const TOO_MUCH: &str = "the accesses of this module need too many guard instructions; give fewer objects or \
                        more direct addresses";

/// Why an access that may reach a caller's local variables is refused.
pub(super) const CALLERS_LOCALS: &str =
    "this function may be handed the address of a caller's local variable; inline it";

/// Confines all accesses of a module.
///
/// # Errors
/// [`Refusal::Instruction`] for accesses that no sequence can confine.
pub(super) fn rewrite(
    module: &mut Module,
    options: &GuardOptions,
    doubts: &HashSet<u32>,
    fresh: &mut HashMap<Name, Fresh>,
    report: &mut Report,
) -> Result<(), Refusal> {
    let mut growth = Growth::default();
    let mut bodies: Vec<(usize, Block)> = Vec::new();
    let mut stand_in = false;
    let mut room = 0;
    for item in &module.items {
        if let Item::Function(f) = item
            && let Some(body) = &f.body
        {
            each_instruction(body, &mut |_| room += 1);
        }
    }
    room = GROWTH + GROWTH_EACH * room;
    let mut dynamic: HashMap<Name, u64> = HashMap::default();
    let mut pointers: HashMap<Name, Vec<PointerContract>> = HashMap::default();
    {
        let module_shared: Vec<&Variable> = module
            .items
            .iter()
            .filter_map(|item| match item {
                Item::Variable(v) if v.space.is_shared() => Some(v),
                _ => None,
            })
            .collect();
        let visibility = Visibility::new(module, &module_shared);
        let objects = module_objects(module_shared.iter().copied());
        for (position, item) in module.items.iter().enumerate() {
            let Item::Function(f) = item else { continue };
            let Some(body) = &f.body else { continue };
            let shared = visibility.of(&f.name);
            let promised = (options.pointers && options.proofs && options.mode == GuardMode::Fence)
                .then_some(options.arena);
            let mut analysis = Analysis::new(f, body, &objects, options.block, promised);
            raise_alignments(&mut analysis, f, &mut growth, &objects)?;
            let number = report.index(&f.name);
            let fresh = fresh.entry(f.name.clone()).or_default();
            let mut pass = Pass {
                options,
                doubts,
                function: f,
                analysis: &analysis,
                registers: Registers::new(body),
                shared,
                module: &objects,
                named: HashMap::default(),
                callers_locals: visibility.callers_locals(&f.name),
                fresh,
                changes: report.function(&f.name),
                growth: &mut growth,
                dynamic_needed: 0,
                needs_stand_in: false,
                needs_local: false,
                violations: Vec::new(),
                available: HashMap::default(),
                undo: Vec::new(),
                alone: false,
                room,
                block_jobs: Vec::new(),
                members: HashMap::default(),
                root_aligns: HashMap::default(),
                groups: HashMap::default(),
                edits: HashMap::default(),
            };
            let variables = analysis.graph.variables.iter().copied();
            pass.named =
                variables.chain(&f.params).chain(&f.results).map(|v| (&v.name, v)).collect();
            pass.walk()?;
            room = pass.room;
            stand_in |= pass.needs_stand_in;
            if pass.dynamic_needed > 0 {
                // The verifier holds a function to what is true of every kernel.
                let kernels = match f.kind {
                    FunctionKind::Entry => vec![f.name.clone()],
                    FunctionKind::Func => visibility.all_kernels(),
                };
                for kernel in kernels {
                    let entry = dynamic.entry(kernel).or_default();
                    *entry = (*entry).max(pass.dynamic_needed);
                }
            }
            if !analysis.pointers().is_empty() {
                pointers.insert(f.name.clone(), analysis.pointers().to_vec());
            }
            let (edits, violations, local) =
                (std::mem::take(&mut pass.edits), pass.violations, pass.needs_local);
            let mut new = rebuild(body, edits);
            finish(&mut new, &violations, number, local);
            bodies.push((position, new));
        }
    }
    for (position, mut body) in bodies {
        if let Some(Item::Function(f)) = module.items.get_mut(position) {
            if let Some(fresh) = fresh.get(&f.name) {
                fresh.declare(&mut body);
            }
            f.body = Some(body);
        }
    }
    growth.apply(module, report);
    if stand_in {
        module
            .items
            .insert(0, Item::Variable(stand_in_object(STAND_IN, crate::tree::Space::Shared)));
    }
    if options.mode == GuardMode::Check {
        let mut fresh = Fresh::default();
        let mut function = reporter(options, &mut fresh);
        if let Some(body) = &mut function.body {
            fresh.declare(body);
        }
        let first = module.items.iter().position(|item| matches!(item, Item::Function(_)));
        module.items.insert(first.unwrap_or(0), Item::Function(Box::new(function)));
    }
    report.contract = contract(module, options, &dynamic, &pointers);
    Ok(())
}

fn contract(
    module: &Module,
    options: &GuardOptions,
    dynamic: &HashMap<Name, u64>,
    pointers: &HashMap<Name, Vec<PointerContract>>,
) -> Contract {
    let kernels = module.items.iter().filter_map(|item| match item {
        Item::Function(f) if f.kind == FunctionKind::Entry && f.body.is_some() => Some(&f.name),
        _ => None,
    });
    let mut contract = Contract::default();
    for name in kernels {
        let needed = dynamic.get(name).copied().unwrap_or(0);
        let pointers = pointers.get(name).cloned().unwrap_or_default();
        if needed > 0 || options.block.is_some() || !pointers.is_empty() {
            contract.kernels.push(KernelContract {
                kernel: name.clone(),
                block: options.block,
                dynamic_shared: needed,
                pointers,
            });
        }
    }
    contract
}

pub(super) fn stand_in_object(name: &str, space: crate::tree::Space) -> Variable {
    Variable {
        linkage: crate::tree::Linkage::Internal,
        space,
        align: Some(32),
        vector: 1,
        ty: crate::tree::ScalarType::B8,
        pointer: None,
        managed: false,
        name: Name::from(name),
        dims: vec![Some(32)],
        init: None,
        span: Span::NONE,
    }
}

/// Which shared objects a function may be handed addresses of: those that every kernel it runs in has
/// anyway, because the kernel or something it calls names them.
struct Visibility {
    of: HashMap<Name, Vec<Object>>,
    kernels: Vec<Name>,
    callers_locals: HashSet<Name>,
}

impl Visibility {
    fn new(module: &Module, shared: &[&Variable]) -> Self {
        let calls = Calls::new(module);
        let by_name: HashMap<&Name, usize> =
            shared.iter().enumerate().map(|(i, v)| (&v.name, i)).collect();
        let count = calls.functions.len();
        // What each function names itself.
        let own: Vec<HashSet<usize>> = calls
            .functions
            .iter()
            .map(|f| {
                let mut found = HashSet::default();
                if let (Some(body), false) = (&f.body, by_name.is_empty()) {
                    each_instruction(body, &mut |i| {
                        for operand in &i.operands {
                            names(operand, &mut |name| {
                                found.extend(by_name.get(name).copied());
                            });
                        }
                    });
                }
                found
            })
            .collect();
        let mut reached: Vec<HashSet<usize>> = vec![HashSet::default(); count];
        let mut seen = vec![usize::MAX; count];
        for (index, f) in calls.functions.iter().enumerate() {
            if f.kind != FunctionKind::Entry {
                continue;
            }
            let (mut members, mut work) = (Vec::new(), vec![index]);
            seen[index] = index;
            let mut objects: HashSet<usize> = HashSet::default();
            while let Some(function) = work.pop() {
                members.push(function);
                objects.extend(&own[function]);
                for &callee in &calls.callees[function] {
                    if seen[callee] != index {
                        seen[callee] = index;
                        work.push(callee);
                    }
                }
            }
            for member in members {
                reached[member].extend(&objects);
            }
        }
        let mut of = HashMap::default();
        for (index, f) in calls.functions.iter().enumerate() {
            reached[index].extend(&own[index]);
            let mut indices: Vec<usize> = reached[index].iter().copied().collect();
            indices.sort_unstable();
            let object = |i: usize| Object {
                name: shared[i].name.clone(),
                space: ObjectSpace::Shared,
                bytes: match shared[i].linkage {
                    crate::tree::Linkage::Extern => None,
                    _ => shared[i].bytes(),
                },
                align: shared[i].alignment(),
            };
            of.insert(f.name.clone(), indices.into_iter().map(object).collect());
        }
        // Everything below a function that makes generic addresses of its locals.
        let mut below = vec![false; count];
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
        let callers_locals = flagged.map(|(f, _)| f.name.clone()).collect();
        let entries = calls.functions.iter().filter(|f| f.kind == FunctionKind::Entry);
        let kernels = entries.map(|f| f.name.clone()).collect();
        Self { of, kernels, callers_locals }
    }

    fn callers_locals(&self, function: &Name) -> bool {
        self.callers_locals.contains(function)
    }

    fn of(&self, function: &Name) -> &[Object] {
        self.of.get(function).map_or(&[], Vec::as_slice)
    }

    fn all_kernels(&self) -> Vec<Name> {
        self.kernels.clone()
    }
}

/// Raises the alignment of objects to that of the accesses to them, in the analysis and in what will be
/// declared.
fn raise_alignments(
    analysis: &mut Analysis<'_>,
    function: &Function,
    growth: &mut Growth,
    module_objects: &HashMap<Name, Object>,
) -> Result<(), Refusal> {
    let mut wanted: Vec<(u32, u64)> = Vec::new();
    for number in 0..analysis.graph.instructions.len() as u32 {
        let i = analysis.graph.instructions[number as usize];
        for access in accesses(number, i, analysis)? {
            let place = analysis.place(number, access.operand);
            wanted.extend(analysis.bases(&place.value).map(|(object, _)| (object, access.align)));
        }
    }
    for (index, align) in wanted {
        let Some(object) = analysis.objects.get_mut(index as usize) else { continue };
        if object.space == ObjectSpace::Param || object.align >= align {
            continue;
        }
        object.align = align;
        let global = module_objects.contains_key(&object.name);
        growth.align((!global).then_some(&function.name), &object.name, align);
    }
    Ok(())
}

/// A body with the edited instructions in place. Shared and local variables of inner scopes move to the
/// outermost one, where every clamp can name them; their names are unique in the function.
fn rebuild(body: &Block, mut edits: HashMap<u32, Edit>) -> Block {
    fn block(
        old: &Block,
        edits: &mut HashMap<u32, Edit>,
        number: &mut u32,
        moved: &mut Vec<Statement>,
        outermost: bool,
    ) -> Block {
        let mut statements = Vec::with_capacity(old.statements.len());
        for statement in &old.statements {
            match statement {
                Statement::Block(inner) => {
                    let inner = block(inner, edits, number, moved, false);
                    statements.push(Statement::Block(inner));
                }
                Statement::Instruction(i) => {
                    match edits.remove(number) {
                        Some(edit) => {
                            statements.extend(edit.before.into_iter().map(Statement::Instruction));
                            statements.push(Statement::Instruction(edit.instruction));
                        }
                        None => statements.push(Statement::Instruction(i.clone())),
                    }
                    *number += 1;
                }
                Statement::Variable(v)
                    if !outermost && (v.space.is_shared() || v.space == Space::Local) =>
                {
                    moved.push(statement.clone());
                }
                other => statements.push(other.clone()),
            }
        }
        Block { statements, span: old.span }
    }
    let mut moved = Vec::new();
    let mut new = block(body, &mut edits, &mut 0, &mut moved, true);
    if !moved.is_empty() {
        moved.append(&mut new.statements);
        new.statements = moved;
    }
    new
}

/// Appends the violation blocks and the stand-in for local memory.
fn finish(body: &mut Block, violations: &[Violation], function: usize, local: bool) {
    if local {
        let object = stand_in_object(LOCAL_STAND_IN, crate::tree::Space::Local);
        body.statements.insert(0, Statement::Variable(object));
    }
    let ends = match body.statements.last() {
        Some(Statement::Instruction(i)) => {
            i.guard.is_none() && matches!(i.op(), Some(Op::Ret | Op::Exit | Op::Bra | Op::Brx))
        }
        _ => false,
    };
    if !ends {
        // Control must run neither off the end nor into the blocks that report.
        body.statements.push(Statement::Instruction(Instruction::new(Op::Ret, [], vec![])));
    }
    for violation in violations {
        body.statements.extend(violation.statements(function));
    }
}

impl<'m> Pass<'_, 'm> {
    fn walk(&mut self) -> Result<(), Refusal> {
        let graph = &self.analysis.graph;
        if graph.blocks.is_empty() {
            return Ok(());
        }
        if graph.converged {
            let mut stack: Vec<(u32, usize, usize)> = vec![(0, 0, 0)];
            while let Some((block, next, mark)) = stack.last_mut() {
                let block = *block;
                if *next == 0 {
                    *mark = self.undo.len();
                    self.block(block)?;
                }
                if let Some(&child) = graph.children[block as usize].get(*next) {
                    *next += 1;
                    stack.push((child, 0, 0));
                } else {
                    let mark = *mark;
                    while self.undo.len() > mark {
                        if let Some(key) = self.undo.pop()
                            && let Some(list) = self.available.get_mut(&key)
                        {
                            list.pop();
                        }
                    }
                    stack.pop();
                }
            }
        }
        self.alone = true;
        for block in 0..graph.blocks.len() as u32 {
            if !graph.converged || !graph.is_reachable(block) {
                self.block(block)?;
            }
        }
        Ok(())
    }

    fn block(&mut self, block: u32) -> Result<(), Refusal> {
        let analysis = self.analysis;
        let node = &analysis.graph.blocks[block as usize];
        let mut jobs: Vec<Job> = Vec::new();
        let mut from = node.first;
        for number in node.first..node.end {
            let i = analysis.graph.instructions[number as usize];
            for access in accesses(number, i, analysis)? {
                let Some(address) = i.operands[access.operand as usize].as_address() else {
                    continue;
                };
                let place = analysis.place(number, access.operand);
                jobs.push(Job { number, access, place, offset: address.offset });
            }
            // A callee may end the thread: what comes after a call need not happen.
            if i.op() == Some(Op::Call) || number + 1 == node.end {
                self.gather(std::mem::take(&mut jobs));
                for number in from..=number {
                    self.instruction(number)?;
                }
                from = number + 1;
            }
        }
        Ok(())
    }

    /// Takes on the jobs of a stretch of code that runs as a whole, and sorts them into groups that can
    /// use one fence or clamp.
    fn gather(&mut self, jobs: Vec<Job>) {
        self.block_jobs = jobs;
        self.members.clear();
        self.root_aligns.clear();
        self.groups.clear();
        for (index, job) in self.block_jobs.iter().enumerate() {
            if self.analysis.graph.instructions[job.number as usize].guard.is_some() {
                continue;
            }
            if matches!(job.place.base, Arg::Value(_)) {
                let key = (job.access.target, job.place.base);
                self.members.entry(key).or_default().push(index as u32);
            }
            if job.access.target == Target::Global
                && let Some((root, ..)) = self.root(job)
            {
                let most = self.root_aligns.entry(root).or_insert(job.access.align);
                *most = (*most).max(job.access.align);
            }
        }
    }

    fn instruction(&mut self, number: u32) -> Result<(), Refusal> {
        let i = self.analysis.graph.instructions[number as usize];
        let first = self.block_jobs.partition_point(|job| job.number < number);
        let jobs: Vec<Job> = self.block_jobs[first..]
            .iter()
            .take_while(|job| job.number == number)
            .copied()
            .collect();
        let is_trap = i.op() == Some(Op::Trap);
        if jobs.is_empty() && !is_trap && !matches!(i.op(), Some(Op::Cp | Op::Wmma)) {
            return Ok(());
        }
        let mut fresh = std::mem::take(self.fresh);
        let mut emit = Emit::new(&mut fresh, i.span);
        let mut instruction = i.clone();
        let mut result = Ok(());
        if is_trap {
            let label = self.violation(&mut emit, None, i.span, ViolationKind::Trap);
            let operands = vec![Operand::Symbol(label, 0)];
            instruction = Instruction::new(Op::Bra, [], operands).at(i.span);
            instruction.guard = i.guard.clone();
        }
        for job in jobs {
            result = result.and_then(|()| self.confine(&mut emit, &job, &mut instruction));
        }
        result = result.and_then(|()| self.sizes(&mut emit, number, &mut instruction));
        let before = emit.out;
        *self.fresh = fresh;
        result?;
        match self.room.checked_sub(before.len()) {
            Some(room) => self.room = room,
            None => return Err(Refusal::Instruction { at: i.span, why: TOO_MUCH }),
        }
        if !before.is_empty() || instruction != *i {
            self.edits.insert(number, Edit { before, instruction });
        }
        Ok(())
    }

    fn confine(
        &mut self,
        emit: &mut Emit<'_>,
        job: &Job,
        instruction: &mut Instruction,
    ) -> Result<(), Refusal> {
        match job.access.target {
            Target::Global => self.global(emit, job, instruction),
            Target::Generic => self.generic(emit, job, instruction),
            Target::Shared | Target::Local | Target::Param => self.bounded(emit, job, instruction),
        }
    }

    /// Puts an address in place of a memory operand.
    pub(super) fn replace(
        instruction: &mut Instruction,
        operand: u32,
        register: Name,
        offset: i64,
    ) {
        if let Some(Operand::Address(address)) = instruction.operands.get_mut(operand as usize) {
            address.base = crate::tree::Base::Reg(register);
            address.offset = offset;
        }
    }

    /// A safe register made earlier for this key, if it will do.
    pub(super) fn find(&self, key: &Key, align: u64, room: u64) -> Option<Available> {
        if self.alone || self.options.mode == GuardMode::Check {
            return None;
        }
        let list = self.available.get(key)?;
        let fits = |a: &&Available| match a.certain {
            true => a.align >= align && a.room >= room,
            false => a.align == align && a.room == room,
        };
        list.iter().rev().find(fits).cloned()
    }

    /// Offers a safe register to later accesses.
    pub(super) fn offer(&mut self, key: Key, available: Available) {
        if !self.alone && matches!(key.1, Arg::Value(_)) {
            self.available.entry(key).or_default().push(available);
            self.undo.push(key);
        }
    }

    /// A label that reports a violation.
    pub(super) fn violation(
        &mut self,
        emit: &mut Emit<'_>,
        address: Option<Name>,
        at: Span,
        kind: ViolationKind,
    ) -> Name {
        let label = emit.fresh.label();
        let violation = Violation { label: label.clone(), address, line: at.line, kind };
        self.violations.push(violation);
        label
    }

    /// Check mode: reports when two registers differ and the instruction would run.
    pub(super) fn check(
        &mut self,
        emit: &mut Emit<'_>,
        safe: &Name,
        asked: &Name,
        job: &Job,
        instruction: &Instruction,
    ) {
        if self.options.mode != GuardMode::Check {
            return;
        }
        let wide = safe.starts_with("%$ts_d");
        let ty = if wide { crate::tree::ScalarType::B64 } else { crate::tree::ScalarType::B32 };
        let also = instruction.guard.as_ref();
        let differ = emit.differ(ty, safe, Operand::Reg(asked.clone()), also);
        // The block that reports is at the end of the body, where registers of inner scopes have no names.
        let address = match wide {
            true if asked.starts_with("%$ts_") => asked.clone(),
            true => emit.copy64(asked),
            false => emit.widen(asked),
        };
        let kind = ViolationKind::from(job.access.target);
        let label = self.violation(emit, Some(address), emit.span, kind);
        emit.branch(&differ, &label);
    }

    /// Whether what is proved of an access may be relied on.
    pub(super) fn trusts(&self, job: &Job) -> bool {
        let at = self.analysis.graph.instructions[job.number as usize].span;
        self.options.proofs && !self.doubts.contains(&at.line)
    }

    /// Counts a rewriting.
    pub(super) fn count(&mut self, change: Change) {
        self.changes.count(change);
    }
}
