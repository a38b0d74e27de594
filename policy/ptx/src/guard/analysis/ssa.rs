//! Static single assignment: every write of a register becomes a value of its own, with phis where
//! ways join, so that a fact about a value holds wherever the value is.
//!
//! A register read where not every way has written it is unknown. Functions whose graph would make
//! too many phis get none at all: everything in them is unknown and clamped.

use crate::hash::HashMap;

use crate::tree::{Base, Flag, Instruction, Name, Op, Operand, Space, Variable};

use super::graph::{Graph, NONE};
use super::ir::{Arg, Expression, Id, Kind, Object, ObjectSpace};
use super::lower::{Write, lower};
use super::value::MAX_OBJECTS;

/// A phi: one argument for each edge into its block.
#[derive(Debug)]
pub(super) struct Phi {
    /// Its block.
    pub block: u32,
    /// The value it defines.
    pub id: Id,
    /// (edge, argument)
    pub args: Vec<(u32, Arg)>,
}

/// A memory operand.
#[derive(Clone, Copy, Debug)]
pub(super) struct AddressUse {
    /// Instruction.
    pub instruction: u32,
    /// Index of the operand.
    pub operand: u32,
    /// The base: a register's value, an object, or unknown.
    pub base: Arg,
    /// The value furthest back that the base is a constant away from, whose register still holds it
    /// here, and that constant.
    pub root: (Arg, i64),
}

/// The function's values.
pub(super) struct Ssa {
    /// One for each value.
    pub expressions: Vec<Expression>,
    /// Block of each value.
    pub block_of: Vec<u32>,
    /// Phis.
    pub phis: Vec<Phi>,
    /// Objects whose addresses are told apart.
    pub objects: Vec<Object>,
    /// All memory operands, in the order of the dominator walk (so by block).
    pub addresses: Vec<AddressUse>,
    /// Value of the predicate of each instruction (`Arg::Unknown` without one).
    pub predicates: Vec<Arg>,
    /// Values of integer operands that a pass asks for later: (instruction, operand) -> value.
    pub operands: HashMap<(u32, u32), Arg>,
    /// Register names, by register number.
    pub registers: Vec<Name>,
}

struct Builder<'a, 'g> {
    graph: &'g Graph<'a>,
    ssa: Ssa,
    registers: HashMap<&'a Name, u32>,
    /// Value that each register holds now; `NONE` for not yet written.
    current: Vec<Id>,
    /// (register, value before) of each write since the walk began.
    undo: Vec<(u32, Id)>,
    candidates: HashMap<Name, Object>,
    module: &'g HashMap<Name, Object>,
    object_index: HashMap<Name, Option<u32>>,
    /// Offset of each kernel parameter in the parameter block.
    params: &'g HashMap<Name, u64>,
    /// Where each edge stands among those into its block.
    positions: Vec<u32>,
}

/// What an analysis needs to know of a variable.
fn object_of(v: &Variable, space: ObjectSpace) -> Object {
    let open = v.linkage == crate::tree::Linkage::Extern && v.space.is_shared();
    let bytes = if open { None } else { v.bytes() };
    Object { name: v.name.clone(), space, bytes, align: v.alignment() }
}

/// The shared and constant variables of a module, which all of its functions may name.
pub fn module_objects<'v>(variables: impl Iterator<Item = &'v Variable>) -> HashMap<Name, Object> {
    variables
        .map(|v| {
            let constant = v.space == Space::Const;
            let space = if constant { ObjectSpace::Const } else { ObjectSpace::Shared };
            (v.name.clone(), object_of(v, space))
        })
        .collect()
}

/// A function's own shared and local variables, and a kernel's parameters.
pub(super) fn candidates(
    params: &[Variable],
    is_entry: bool,
    locals: &[&Variable],
) -> HashMap<Name, Object> {
    let mut found = HashMap::default();
    let mut add = |v: &Variable, space| {
        found.insert(v.name.clone(), object_of(v, space));
    };
    for v in locals {
        match v.space {
            Space::Local => add(v, ObjectSpace::Local),
            space if space.is_shared() => add(v, ObjectSpace::Shared),
            _ => {}
        }
    }
    if is_entry {
        for v in params.iter().filter(|v| v.space.is_param()) {
            add(v, ObjectSpace::Param);
        }
    }
    found
}

impl Ssa {
    /// Builds the values of a function.
    pub(super) fn new<'g>(
        graph: &'g Graph<'_>,
        candidates: HashMap<Name, Object>,
        module: &'g HashMap<Name, Object>,
        params: &'g HashMap<Name, u64>,
    ) -> Self {
        let count = graph.instructions.len();
        let mut builder = Builder {
            graph,
            ssa: Self {
                expressions: Vec::new(),
                block_of: Vec::new(),
                phis: Vec::new(),
                objects: Vec::new(),
                addresses: Vec::new(),
                predicates: vec![Arg::Unknown; count],
                operands: HashMap::default(),
                registers: Vec::new(),
            },
            registers: HashMap::default(),
            current: Vec::new(),
            undo: Vec::new(),
            candidates,
            module,
            object_index: HashMap::default(),
            params,
            positions: vec![0; graph.edges.len()],
        };
        for block in &graph.blocks {
            for (position, &edge) in block.into.iter().enumerate() {
                builder.positions[edge as usize] = position as u32;
            }
        }
        let walked = graph.converged && builder.place_phis();
        if walked {
            builder.walk();
        }
        // What the walk did not reach (dead code, or everything) is known by its symbols only.
        builder.current.iter_mut().for_each(|id| *id = NONE);
        for block in 0..graph.blocks.len() as u32 {
            if !walked || !graph.is_reachable(block) {
                builder.dead_block(block);
            }
        }
        builder.ssa
    }

    /// Follows copies and additions of constants back to a value; `None` when they do not lead there.
    pub(super) fn chain_to(&self, mut arg: Arg, goal: Id, width: u32) -> Option<(Arg, i64)> {
        let mut offset = 0i64;
        for _ in 0..64 {
            if arg == Arg::Value(goal) {
                return Some((arg, offset));
            }
            let (from, by) = self.step(arg, width)?;
            (arg, offset) = (from, offset.checked_add(by)?);
        }
        None
    }

    /// True when some 64-bit register is set to a constant that could be a device address.
    pub(super) fn has_address_constants(&self) -> bool {
        self.expressions.iter().any(|e| {
            e.kind == Kind::Copy
                && e.width == 64
                && matches!(e.args[0], Arg::Int(value) if value >= 1 << 30)
        })
    }

    /// If the value is another one plus a constant, that one and the constant.
    pub(super) fn step(&self, arg: Arg, width: u32) -> Option<(Arg, i64)> {
        let Arg::Value(id) = arg else { return None };
        let e = &self.expressions[id as usize];
        if e.width != width {
            return None;
        }
        match (e.kind, e.args) {
            (Kind::Copy, [from @ (Arg::Value(_) | Arg::Address(..)), ..]) => Some((from, 0)),
            (Kind::Add, [from @ Arg::Value(_), Arg::Int(by), _])
            | (Kind::Add, [Arg::Int(by), from @ Arg::Value(_), _]) => Some((from, by)),
            (Kind::Sub, [from @ Arg::Value(_), Arg::Int(by), _]) => Some((from, by.wrapping_neg())),
            _ => None,
        }
    }
}

impl<'a> Builder<'a, '_> {
    fn register(&mut self, name: &'a Name) -> u32 {
        let next = self.ssa.registers.len() as u32;
        let register = *self.registers.entry(name).or_insert(next);
        if register == next {
            self.ssa.registers.push(name.clone());
            self.current.push(NONE);
        }
        register
    }

    fn new_value(&mut self, expression: Expression, block: u32) -> Id {
        let id = self.ssa.expressions.len() as Id;
        self.ssa.expressions.push(expression);
        self.ssa.block_of.push(block);
        id
    }

    /// Finds registers written more than once and puts phis where their values may meet. False when
    /// that would be too many.
    fn place_phis(&mut self) -> bool {
        let graph = self.graph;
        // Every block that writes a register, once each; and the registers that some block reads before it
        // writes them: only their values live from one block to the next.
        let mut writes: Vec<(u32, u32)> = Vec::new();
        let mut crosses: Vec<bool> = Vec::new();
        // The block that wrote a register last.
        let mut writer: Vec<u32> = Vec::new();
        let mut reads: Vec<u32> = Vec::new();
        for &block in &graph.order {
            let node = &graph.blocks[block as usize];
            for index in node.first..node.end {
                let i = graph.instructions[index as usize];
                if let Some(guard) = &i.guard {
                    reads.push(self.register(&guard.reg));
                }
                for operand in &i.operands {
                    operand.for_each_reg(&mut |name| reads.push(self.register(name)));
                }
                crosses.resize(self.ssa.registers.len(), false);
                writer.resize(self.ssa.registers.len(), NONE);
                for register in reads.drain(..) {
                    if writer[register as usize] != block {
                        crosses[register as usize] = true;
                    }
                }
                lower(i, |write| {
                    let register = self.register(write.register);
                    crosses.resize(self.ssa.registers.len(), false);
                    writer.resize(self.ssa.registers.len(), NONE);
                    if writer[register as usize] == block {
                        return;
                    }
                    // Under a predicate the old value may stay.
                    if i.guard.is_some() {
                        crosses[register as usize] = true;
                    }
                    writer[register as usize] = block;
                    writes.push((register, block));
                });
            }
        }
        crosses.resize(self.ssa.registers.len(), false);
        writes.retain(|(register, _)| crosses[*register as usize]);
        writes.sort_unstable();
        let limit = 65_536 + 16 * graph.instructions.len();
        if graph.edges.iter().any(|e| graph.blocks[e.to as usize].into.len() > 1 || e.to == 0) {
            let Some(frontiers) = graph.frontiers(limit) else { return false };
            let mut placed = vec![NONE; graph.blocks.len()];
            let mut total = 0;
            for of_register in writes.chunk_by(|a, b| a.0 == b.0) {
                let register = of_register.first().map_or(NONE, |(register, _)| *register);
                let mut work: Vec<u32> = of_register.iter().map(|(_, block)| *block).collect();
                while let Some(block) = work.pop() {
                    for &at in &frontiers[block as usize] {
                        if placed[at as usize] == register {
                            continue;
                        }
                        placed[at as usize] = register;
                        // What it costs is its arguments.
                        total += graph.blocks[at as usize].into.len().max(1);
                        if total > limit {
                            return false;
                        }
                        work.push(at);
                        let phi = self.ssa.phis.len() as u32;
                        let id = self.new_value(
                            Expression {
                                kind: Kind::Phi(phi),
                                width: 64,
                                args: [Arg::Unknown; 3],
                                register,
                            },
                            at,
                        );
                        let args = graph.blocks[at as usize]
                            .into
                            .iter()
                            .map(|&edge| (edge, Arg::Unknown))
                            .collect();
                        self.ssa.phis.push(Phi { block: at, id, args });
                    }
                }
            }
        }
        true
    }

    /// Walks the dominator tree, giving every read its value.
    fn walk(&mut self) {
        if self.graph.blocks.is_empty() {
            return;
        }
        let mut phis_of: HashMap<u32, Vec<u32>> = HashMap::default();
        for (index, phi) in self.ssa.phis.iter().enumerate() {
            phis_of.entry(phi.block).or_default().push(index as u32);
        }
        let mut stack: Vec<(u32, usize, usize)> = vec![(0, 0, 0)];
        while let Some((block, next, mark)) = stack.last_mut() {
            let block = *block;
            if *next == 0 {
                *mark = self.undo.len();
                self.block(block, &phis_of);
            }
            if let Some(&child) = self.graph.children[block as usize].get(*next) {
                *next += 1;
                stack.push((child, 0, 0));
            } else {
                let mark = *mark;
                while self.undo.len() > mark {
                    if let Some((register, before)) = self.undo.pop() {
                        self.current[register as usize] = before;
                    }
                }
                stack.pop();
            }
        }
    }

    fn set(&mut self, register: u32, id: Id) {
        let before = std::mem::replace(&mut self.current[register as usize], id);
        self.undo.push((register, before));
    }

    fn block(&mut self, block: u32, phis_of: &HashMap<u32, Vec<u32>>) {
        let graph = self.graph;
        for &phi in phis_of.get(&block).map_or(&[][..], Vec::as_slice) {
            let id = self.ssa.phis[phi as usize].id;
            let register = self.ssa.expressions[id as usize].register;
            self.set(register, id);
        }
        let node = &graph.blocks[block as usize];
        for index in node.first..node.end {
            self.instruction(index, block);
        }
        for &edge in &node.out {
            let to = graph.edges[edge as usize].to;
            for &phi in phis_of.get(&to).map_or(&[][..], Vec::as_slice) {
                let id = self.ssa.phis[phi as usize].id;
                let register = self.ssa.expressions[id as usize].register;
                let value = self.current[register as usize];
                let arg = if value == NONE { Arg::Unknown } else { Arg::Value(value) };
                let position = self.positions[edge as usize] as usize;
                if let Some((_, slot)) = self.ssa.phis[phi as usize].args.get_mut(position) {
                    *slot = arg;
                }
            }
        }
    }

    fn read(&mut self, name: &'a Name) -> Arg {
        let register = self.register(name) as usize;
        match self.current[register] {
            NONE => Arg::Unknown,
            id => Arg::Value(id),
        }
    }

    fn object(&mut self, name: &Name) -> Option<u32> {
        if let Some(known) = self.object_index.get(name) {
            return *known;
        }
        let index = match self.candidates.get(name).or_else(|| self.module.get(name)) {
            Some(object) if self.ssa.objects.len() < MAX_OBJECTS => {
                self.ssa.objects.push(object.clone());
                Some(self.ssa.objects.len() as u32 - 1)
            }
            _ => None,
        };
        self.object_index.insert(name.clone(), index);
        index
    }

    fn operand(&mut self, operand: &'a Operand) -> Arg {
        match operand {
            Operand::Reg(name) => self.read(name),
            Operand::Int(value) => Arg::Int(*value),
            Operand::Special(special) => Arg::Special(*special),
            Operand::Symbol(name, offset) => {
                self.object(name).map_or(Arg::Unknown, |index| Arg::Address(index, *offset))
            }
            _ => Arg::Unknown,
        }
    }

    /// Addresses and predicate of an instruction, before its own writes.
    fn reads(&mut self, index: u32, i: &'a Instruction) {
        if let Some(guard) = &i.guard {
            self.ssa.predicates[index as usize] = self.read(&guard.reg);
        }
        for (position, operand) in i.operands.iter().enumerate() {
            let Operand::Address(address) = operand else { continue };
            let base = match &address.base {
                Base::Reg(name) => self.read(name),
                Base::Symbol(name) => {
                    self.object(name).map_or(Arg::Unknown, |object| Arg::Address(object, 0))
                }
                Base::Absolute => Arg::Int(0),
            };
            let root = self.root(base);
            self.ssa.addresses.push(AddressUse {
                instruction: index,
                operand: position as u32,
                base,
                root,
            });
        }
        if wants_operands(i) {
            for (position, operand) in i.operands.iter().enumerate() {
                let value = self.operand(operand);
                self.ssa.operands.insert((index, position as u32), value);
            }
        }
    }

    /// See [`AddressUse::root`].
    fn root(&self, base: Arg) -> (Arg, i64) {
        let (mut best, mut offset) = ((base, 0), 0i64);
        let mut at = base;
        for _ in 0..64 {
            let Some((from, by)) = self.ssa.step(at, 64) else { break };
            let Some(sum) = offset.checked_add(by) else { break };
            (at, offset) = (from, sum);
            if let Arg::Value(id) = at {
                let register = self.ssa.expressions[id as usize].register;
                if self.current[register as usize] == id {
                    best = (at, offset);
                }
            }
        }
        best
    }

    fn instruction(&mut self, index: u32, block: u32) {
        let i = self.graph.instructions[index as usize];
        self.reads(index, i);
        let mut writes: Vec<Write<'a>> = Vec::new();
        lower(i, |write| writes.push(write));
        let predicate = self.ssa.predicates[index as usize];
        // All sources are read before anything is written: `mov {a,b}, x` and swaps.
        let mut fresh: Vec<(u32, Id)> = Vec::new();
        let param = self.param(i);
        for write in writes {
            let mut args = [Arg::Unknown; 3];
            for (slot, operand) in args.iter_mut().zip(write.operands) {
                if let Some(operand) = operand {
                    *slot = self.operand(operand);
                }
            }
            let register = self.register(write.register);
            let kind = match param {
                Some(offset) => Kind::Param(offset + 8 * fresh.len() as u64),
                None => write.kind,
            };
            let expression = Expression { kind, width: write.width, args, register };
            let mut id = self.new_value(expression, block);
            if let Some(guard) = &i.guard {
                let before = match self.current[register as usize] {
                    NONE => Arg::Unknown,
                    id => Arg::Value(id),
                };
                let kind = Kind::Select { negated: guard.negated };
                let args = [Arg::Value(id), before, predicate];
                id = self.new_value(Expression { kind, width: 64, args, register }, block);
            }
            fresh.push((register, id));
        }
        for (register, id) in fresh {
            self.set(register, id);
        }
    }

    /// The place in the parameter block that an instruction loads 64-bit registers from.
    fn param(&self, i: &Instruction) -> Option<u64> {
        let wide = i.types().count() == 1 && i.ty().is_some_and(|ty| ty.bits() == 64);
        // `_` in a vector takes no value, which would shift the others.
        let plain = match i.operands.first() {
            Some(Operand::Reg(_)) => true,
            Some(Operand::Vector(items)) => items.iter().all(|o| matches!(o, Operand::Reg(_))),
            _ => false,
        };
        let (true, true, Some(Op::Ld)) = (wide, plain, i.op()) else { return None };
        if !i.space().is_some_and(Space::is_param) {
            return None;
        }
        let address = i.address()?;
        let Base::Symbol(name) = &address.base else { return None };
        self.params.get(name)?.checked_add_signed(address.offset)
    }

    fn dead_block(&mut self, block: u32) {
        let node = &self.graph.blocks[block as usize];
        for index in node.first..node.end {
            self.reads(index, self.graph.instructions[index as usize]);
        }
    }
}

/// Instructions whose plain operands a pass asks about: sizes of bulk copies, strides of matrix
/// fragments.
fn wants_operands(i: &Instruction) -> bool {
    match i.op() {
        Some(Op::Wmma) => true,
        Some(Op::Cp) => i.has(Flag::Async),
        _ => false,
    }
}
