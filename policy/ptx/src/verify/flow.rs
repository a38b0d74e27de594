//! One function as straight code: instructions in order, basic blocks, edges, dominators, registers
//! and where they are written, objects. Names are unique in a function (the parser refuses guarded
//! text in which they are not), so a register is its name.

use crate::hash::HashMap;

use crate::opcode::for_each_written;
use crate::tree::{
    Address, Base, Block, Flag, Function, FunctionKind, Instruction, Linkage, Name, Op, Operand,
    ScalarType, Space, Span, Statement, Variable,
};

/// No block; as a register number, no register.
pub(super) const NONE: u32 = u32::MAX;

/// Most edges of a function: so many, and as many for each instruction. Only jump tables make more
/// than two; a table used from many places makes their product.
const EDGES: usize = 1 << 16;
const EDGES_EACH: usize = 8;

/// How an edge is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Always, or for a reason that is not a predicate.
    Plain,
    /// When the predicate of the last instruction lets it run.
    Taken,
    /// When it does not.
    Skipped,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Edge {
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) way: Way,
}

/// A basic block: instructions `start..end`.
#[derive(Clone, Debug, Default)]
pub(super) struct Basic {
    pub(super) start: u32,
    pub(super) end: u32,
    /// Edges into it, as numbers of [`Code::edges`].
    pub(super) into: Vec<u32>,
    /// Edges out of it.
    pub(super) out: Vec<u32>,
    /// Immediate dominator; [`NONE`] for the entry and for unreachable blocks.
    pub(super) dominator: u32,
    /// Entry and exit times of a walk over the dominator tree; 0, 0 when unreachable.
    pub(super) time: (u32, u32),
}

/// A shared, local, constant or parameter object.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) space: Space,
    /// `None` for dynamic shared memory.
    pub(super) size: Option<u64>,
    pub(super) align: u64,
    /// Kernel parameter: its offset in the parameter block.
    pub(super) parameter: Option<u64>,
    /// An input parameter of a kernel or function: read only.
    pub(super) input: bool,
}

/// Which register of the function at hand a name is. One table serves all functions of a module, so
/// that nothing has to be wiped in between; the final text's names have numbers from one parser.
#[derive(Default)]
pub(super) struct Registers {
    /// By the name's number: the function that it was last seen in, and its register there.
    of: Vec<(u32, u32)>,
    function: u32,
}

impl Registers {
    fn get(&self, name: &Name) -> Option<u32> {
        let (function, register) = *self.of.get(name.number() as usize)?;
        (function == self.function).then_some(register)
    }

    fn insert(&mut self, name: &Name, register: u32) {
        let number = name.number() as usize;
        if number >= self.of.len() {
            self.of.resize((number + 1).next_power_of_two(), (0, 0));
        }
        self.of[number] = (self.function, register);
    }
}

#[derive(Default)]
pub(super) struct Code<'m> {
    pub(super) instructions: Vec<&'m Instruction>,
    pub(super) blocks: Vec<Basic>,
    pub(super) edges: Vec<Edge>,
    pub(super) block_of: Vec<u32>,
    pub(super) objects: Vec<Object>,
    pub(super) object_of: HashMap<&'m str, u32>,
    /// Branch target lists.
    pub(super) targets: HashMap<&'m str, &'m [Name]>,
    registers: Registers,
    /// Width of each register in bits: 1 for predicates.
    pub(super) widths: Vec<u32>,
    /// Instructions that write each register, in order.
    pub(super) writes: Vec<Vec<u32>>,
    declared: HashMap<&'m str, u32>,
    /// Width and count by prefix.
    bulk: HashMap<&'m str, (u32, u32)>,
    labels: HashMap<&'m str, u32>,
    /// Where the jump table at hand leads.
    ends: Vec<u32>,
    /// Blocks from which control runs off the end of the body.
    off_end: Vec<u32>,
}

/// Why a function has no usable control-flow graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FlowError {
    /// A branch to something that is no label of the function.
    Target(Span),
    /// Finding dominators took too long.
    Complex(Span),
}

fn width(ty: ScalarType) -> u32 {
    if ty == ScalarType::Pred { 1 } else { ty.bits() }
}

impl<'m> Code<'m> {
    /// `outside`: the shared and constant variables at module level.
    pub(super) fn of(
        function: &'m Function,
        outside: &HashMap<&'m str, &'m Variable>,
        registers: Registers,
    ) -> Result<Self, FlowError> {
        let mut code = Self { registers, ..Self::default() };
        code.registers.function += 1;
        let mut offset = 0u64;
        for v in &function.params {
            if v.space == Space::Reg {
                code.declared.insert(&v.name, width(v.ty));
                continue;
            }
            let mut place = None;
            if function.kind == FunctionKind::Entry {
                offset = offset.next_multiple_of(v.alignment());
                place = Some(offset);
                offset = offset.saturating_add(v.bytes().unwrap_or(0));
            }
            code.object(v, place, true);
        }
        for v in &function.results {
            if v.space == Space::Reg {
                code.declared.insert(&v.name, width(v.ty));
            } else {
                code.object(v, None, false);
            }
        }
        if let Some(body) = &function.body {
            code.flatten(body);
        }
        code.graph()?;
        code.collect_names(outside);
        code.dominators(function.span)?;
        Ok(code)
    }

    fn object(&mut self, v: &'m Variable, parameter: Option<u64>, input: bool) {
        let dynamic = v.linkage == Linkage::Extern;
        let object = Object {
            space: v.space,
            // What has no size offers no room.
            size: if dynamic { None } else { Some(v.bytes().unwrap_or(0)) },
            align: v.alignment(),
            parameter,
            input,
        };
        self.object_of.insert(&v.name, self.objects.len() as u32);
        self.objects.push(object);
    }

    fn flatten(&mut self, block: &'m Block) {
        for statement in &block.statements {
            match statement {
                Statement::Instruction(i) => self.instructions.push(i),
                Statement::Label(name, _) => {
                    self.labels.insert(name, self.instructions.len() as u32);
                }
                Statement::Block(inner) => self.flatten(inner),
                Statement::Variable(v) => self.object(v, None, false),
                Statement::BranchTargets(t) => {
                    self.targets.insert(&t.name, &t.targets);
                }
                Statement::Registers(r) => {
                    for declared in &r.names {
                        // A vector register is none that anything is known of.
                        let width = if r.vector == 1 { width(r.ty) } else { 0 };
                        match declared.count {
                            Some(count) => {
                                self.bulk.insert(&declared.name, (width, count));
                            }
                            None => {
                                self.declared.insert(&declared.name, width);
                            }
                        }
                    }
                }
                Statement::CallTargets(_) | Statement::CallPrototype(_) | Statement::Pragma(_) => {}
            }
        }
    }

    /// The number of a register, given on first sight.
    fn intern(&mut self, name: &'m Name) -> u32 {
        if let Some(number) = self.registers.get(name) {
            return number;
        }
        let number = self.widths.len() as u32;
        // Width 0 matches no instruction, so nothing is ever known of such a register. Number 0 is no
        // name of the parser's: whatever has it is one register of which nothing is known.
        self.widths.push(if name.number() == 0 { 0 } else { self.width_of(name) });
        self.writes.push(Vec::new());
        self.registers.insert(name, number);
        number
    }

    /// The declared width of a register in bits; the parser has seen to it that one declaration fits.
    fn width_of(&self, name: &str) -> u32 {
        if let Some(width) = self.declared.get(name) {
            return *width;
        }
        let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
        let found = (1..=digits.min(10)).find_map(|count| {
            let (prefix, index) = name.split_at_checked(name.len().checked_sub(count)?)?;
            let (width, declared) = *self.bulk.get(prefix)?;
            index.parse::<u32>().is_ok_and(|index| index < declared).then_some(width)
        });
        found.unwrap_or(0)
    }

    /// The number of a register that the code names.
    pub(super) fn register(&self, name: &Name) -> u32 {
        self.registers.get(name).unwrap_or(NONE)
    }

    /// The table of registers, for the next function.
    pub(super) fn into_registers(self) -> Registers {
        self.registers
    }

    /// Numbers the registers, finds their writers and the module's objects that the code names.
    fn collect_names(&mut self, outside: &HashMap<&'m str, &'m Variable>) {
        for index in 0..self.instructions.len() {
            let instruction = self.instructions[index];
            if let Some(guard) = &instruction.guard {
                self.intern(&guard.reg);
            }
            for operand in &instruction.operands {
                operand.for_each_reg(&mut |name| {
                    self.intern(name);
                });
                let symbol = match operand {
                    Operand::Symbol(name, _) => Some(name),
                    Operand::Address(Address { base: Base::Symbol(name), .. }) => Some(name),
                    _ => None,
                };
                if let Some(v) = symbol.and_then(|name| outside.get(&**name))
                    && !self.object_of.contains_key(&*v.name)
                {
                    self.object(v, None, false);
                }
            }
            for_each_written(instruction, &mut |name| {
                let register = self.intern(name) as usize;
                if self.writes[register].last() != Some(&(index as u32)) {
                    self.writes[register].push(index as u32);
                }
            });
        }
    }

    fn graph(&mut self) -> Result<(), FlowError> {
        let count = self.instructions.len();
        let mut starts = vec![false; count + 1];
        starts[0] = true;
        for index in self.labels.values() {
            starts[*index as usize] = true;
        }
        for (index, i) in self.instructions.iter().enumerate() {
            if matches!(i.op(), Some(Op::Bra | Op::Brx | Op::Ret | Op::Exit | Op::Trap)) {
                starts[index + 1] = true;
            }
        }
        self.block_of = vec![NONE; count];
        for (index, starts) in starts.iter().enumerate().take(count) {
            if *starts {
                let start = index as u32;
                self.blocks.push(Basic { start, dominator: NONE, ..Basic::default() });
            }
            self.block_of[index] = self.blocks.len() as u32 - 1;
        }
        for block in 0..self.blocks.len() {
            let next = self.blocks.get(block + 1).map_or(count as u32, |b| b.start);
            self.blocks[block].end = next;
            self.leave(block as u32, next as usize - 1)?;
        }
        Ok(())
    }

    /// Adds the edges out of a block whose last instruction is `last`.
    fn leave(&mut self, block: u32, last: usize) -> Result<(), FlowError> {
        let i = self.instructions[last];
        let (taken, skipped) =
            if i.guard.is_some() { (Way::Taken, Way::Skipped) } else { (Way::Plain, Way::Plain) };
        let mut falls = i.guard.is_some();
        match i.op() {
            Some(Op::Bra) => {
                let label = i.operands.first().and_then(Operand::as_symbol);
                let label = label.ok_or(FlowError::Target(i.span))?;
                self.edge(block, label, taken, i.span)?;
            }
            Some(Op::Brx) if i.has(Flag::Idx) => {
                let list = i.operands.get(1).and_then(Operand::as_symbol);
                let list = list.and_then(|name| self.targets.get(&**name).copied());
                let list = list.ok_or(FlowError::Target(i.span))?;
                let mut ends = std::mem::take(&mut self.ends);
                ends.clear();
                for label in list {
                    ends.push(*self.labels.get(&**label).ok_or(FlowError::Target(i.span))?);
                }
                // One edge to each place, however often the list names it.
                ends.sort_unstable();
                ends.dedup();
                for index in &ends {
                    self.edge_to(block, *index, taken);
                }
                self.ends = ends;
                if self.edges.len() > EDGES + EDGES_EACH * self.instructions.len() {
                    return Err(FlowError::Complex(i.span));
                }
            }
            Some(Op::Ret | Op::Exit | Op::Trap) => {}
            _ => falls = true,
        }
        if falls {
            let exits = matches!(i.op(), Some(Op::Bra | Op::Brx | Op::Ret | Op::Exit | Op::Trap));
            let way = if exits { skipped } else { Way::Plain };
            if last + 1 < self.instructions.len() {
                self.link(block, self.block_of[last + 1], way);
            } else {
                self.off_end.push(block);
            }
        }
        Ok(())
    }

    fn edge(&mut self, from: u32, label: &Name, way: Way, at: Span) -> Result<(), FlowError> {
        let index = *self.labels.get(&**label).ok_or(FlowError::Target(at))?;
        self.edge_to(from, index, way);
        Ok(())
    }

    /// An edge to the block that starts at an instruction.
    fn edge_to(&mut self, from: u32, index: u32, way: Way) {
        match self.block_of.get(index as usize) {
            Some(to) => self.link(from, *to, way),
            // A label at the very end of the body.
            None => self.off_end.push(from),
        }
    }

    fn link(&mut self, from: u32, to: u32, way: Way) {
        let number = self.edges.len() as u32;
        self.edges.push(Edge { from, to, way });
        self.blocks[from as usize].out.push(number);
        self.blocks[to as usize].into.push(number);
    }

    /// Dominators by iteration in reverse postorder (Cooper, Harvey and Kennedy), within a bound on
    /// the work so that no graph can make it slow.
    fn dominators(&mut self, at: Span) -> Result<(), FlowError> {
        let count = self.blocks.len();
        if count == 0 {
            return Ok(());
        }
        let order = self.postorder();
        let mut rank = vec![NONE; count];
        for (index, block) in order.iter().enumerate() {
            rank[*block as usize] = index as u32;
        }
        let mut dominator = vec![NONE; count];
        dominator[0] = 0;
        let mut work = 64 * (self.edges.len() + count) + 100_000;
        let mut changed = true;
        while changed {
            changed = false;
            for &block in order.iter().rev() {
                if block == 0 {
                    continue;
                }
                let mut new = NONE;
                for edge in &self.blocks[block as usize].into {
                    let from = self.edges[*edge as usize].from;
                    if dominator[from as usize] == NONE {
                        continue;
                    }
                    let (mut a, mut b) = (from, new);
                    if b == NONE {
                        b = a;
                    }
                    while a != b {
                        work = work.checked_sub(1).ok_or(FlowError::Complex(at))?;
                        if rank[a as usize] < rank[b as usize] {
                            a = dominator[a as usize];
                        } else {
                            b = dominator[b as usize];
                        }
                    }
                    new = a;
                }
                work = work.checked_sub(1).ok_or(FlowError::Complex(at))?;
                if dominator[block as usize] != new {
                    dominator[block as usize] = new;
                    changed = true;
                }
            }
        }
        let mut children = vec![Vec::new(); count];
        for block in 1..count {
            if dominator[block] != NONE {
                children[dominator[block] as usize].push(block as u32);
                self.blocks[block].dominator = dominator[block];
            }
        }
        let mut clock = 1;
        let mut stack = vec![(0u32, 0usize)];
        self.blocks[0].time.0 = clock;
        while let Some((block, child)) = stack.pop() {
            clock += 1;
            if let Some(next) = children[block as usize].get(child) {
                stack.push((block, child + 1));
                self.blocks[*next as usize].time.0 = clock;
                stack.push((*next, 0));
            } else {
                self.blocks[block as usize].time.1 = clock;
            }
        }
        Ok(())
    }

    fn postorder(&self) -> Vec<u32> {
        let mut seen = vec![false; self.blocks.len()];
        let mut order = Vec::with_capacity(self.blocks.len());
        let mut stack = vec![(0u32, 0usize)];
        seen[0] = true;
        while let Some((block, edge)) = stack.pop() {
            let Some(number) = self.blocks[block as usize].out.get(edge) else {
                order.push(block);
                continue;
            };
            stack.push((block, edge + 1));
            let to = self.edges[*number as usize].to;
            if !seen[to as usize] {
                seen[to as usize] = true;
                stack.push((to, 0));
            }
        }
        order
    }

    /// True when control can run off the end of the body.
    pub(super) fn falls_off(&self) -> bool {
        self.blocks.is_empty() || self.off_end.iter().any(|block| self.reachable(*block))
    }

    /// True when control can reach the block.
    pub(super) fn reachable(&self, block: u32) -> bool {
        self.blocks[block as usize].time.0 != 0
    }

    /// True when every way to `b` goes through `a` (both reachable); a block dominates itself.
    pub(super) fn dominates(&self, a: u32, b: u32) -> bool {
        let (a, b) = (self.blocks[a as usize].time, self.blocks[b as usize].time);
        a.0 != 0 && a.0 <= b.0 && b.1 <= a.1
    }

    /// True when instruction `a` runs before `b` on every way to `b`.
    pub(super) fn precedes(&self, a: u32, b: u32) -> bool {
        let (in_a, in_b) = (self.block_of[a as usize], self.block_of[b as usize]);
        if in_a == in_b { a < b && self.reachable(in_a) } else { self.dominates(in_a, in_b) }
    }
}
