//! The control-flow graph of one function and its dominators.
//!
//! Instructions are numbered in text order, nested scopes included; everything else in this crate's
//! guard speaks of them by that number. Blocks that cannot be reached from the entry are kept (their
//! instructions are rewritten like all others) but have no dominator.

use crate::hash::HashMap;

use crate::tree::{self, Instruction, Name, Op, Operand, Statement};

/// No block, or no instruction.
pub(super) const NONE: u32 = u32::MAX;

/// Most edges: so many, and as many for each instruction. Only jump tables make more than two.
const EDGES: usize = 1 << 16;
const EDGES_EACH: usize = 8;

/// A way from one block to another.
#[derive(Clone, Copy, Debug)]
pub struct Edge {
    /// Where from.
    pub from: u32,
    /// Where to.
    pub to: u32,
    /// What is known of the last instruction's predicate when this way is taken: its value.
    pub condition: Option<bool>,
}

/// A basic block.
#[derive(Clone, Debug)]
pub struct Block {
    /// First instruction.
    pub first: u32,
    /// One past the last instruction.
    pub end: u32,
    /// Edges out, indices into [`Graph::edges`].
    pub out: Vec<u32>,
    /// Edges in.
    pub into: Vec<u32>,
    /// Immediate dominator; itself for the entry, [`NONE`] when unreachable.
    pub dominator: u32,
    /// Entry and exit times in a walk of the dominator tree.
    span: (u32, u32),
}

/// The graph.
pub struct Graph<'a> {
    /// All instructions in text order.
    pub instructions: Vec<&'a Instruction>,
    /// Variables declared in the body, any scope.
    pub variables: Vec<&'a tree::Variable>,
    /// Basic blocks; 0 is the entry. Empty for a body without instructions.
    pub blocks: Vec<Block>,
    /// All edges.
    pub edges: Vec<Edge>,
    /// Block of each instruction.
    pub block_of: Vec<u32>,
    /// Reachable blocks in reverse postorder.
    pub order: Vec<u32>,
    /// Children in the dominator tree.
    pub children: Vec<Vec<u32>>,
    /// False when the dominators took too long to find (a graph made for that): nothing may be
    /// concluded from them then, and [`Graph::dominates`] says no.
    pub converged: bool,
}

/// Lays a body out flat.
struct Flat<'a> {
    instructions: Vec<&'a Instruction>,
    variables: Vec<&'a tree::Variable>,
    labels: HashMap<&'a Name, u32>,
    targets: HashMap<&'a Name, &'a tree::Targets>,
}

impl<'a> Flat<'a> {
    fn block(&mut self, block: &'a tree::Block) {
        for statement in &block.statements {
            match statement {
                Statement::Label(name, _) => {
                    self.labels.insert(name, self.instructions.len() as u32);
                }
                Statement::Instruction(i) => self.instructions.push(i),
                Statement::Variable(v) => self.variables.push(v),
                Statement::Block(inner) => self.block(inner),
                Statement::BranchTargets(t) => {
                    self.targets.insert(&t.name, t);
                }
                _ => {}
            }
        }
    }
}

/// True for an instruction after which control does not simply go on (predicate aside).
fn ends_block(i: &Instruction) -> bool {
    matches!(i.op(), Some(Op::Bra | Op::Brx | Op::Ret | Op::Exit | Op::Trap))
}

impl<'a> Graph<'a> {
    /// Builds the graph of a body.
    pub fn new(body: &'a tree::Block) -> Self {
        let mut flat = Flat {
            instructions: Vec::new(),
            variables: Vec::new(),
            labels: HashMap::default(),
            targets: HashMap::default(),
        };
        flat.block(body);
        let count = flat.instructions.len();
        let mut leader = vec![false; count + 1];
        if count > 0 {
            leader[0] = true;
        }
        for &at in flat.labels.values() {
            leader[at as usize] = true;
        }
        for (index, instruction) in flat.instructions.iter().enumerate() {
            if ends_block(instruction) {
                leader[index + 1] = true;
            }
        }
        let mut blocks: Vec<Block> = Vec::new();
        let mut block_of = Vec::with_capacity(count);
        for (index, &starts) in leader[..count].iter().enumerate() {
            if starts {
                if let Some(last) = blocks.last_mut() {
                    last.end = index as u32;
                }
                blocks.push(Block {
                    first: index as u32,
                    end: count as u32,
                    out: Vec::new(),
                    into: Vec::new(),
                    dominator: NONE,
                    span: (0, 0),
                });
            }
            block_of.push(blocks.len() as u32 - 1);
        }
        let mut graph = Graph {
            instructions: flat.instructions,
            variables: flat.variables,
            children: vec![Vec::new(); blocks.len()],
            blocks,
            edges: Vec::new(),
            block_of,
            order: Vec::new(),
            converged: false,
        };
        if graph.connect(&flat.labels, &flat.targets) {
            graph.number();
            graph.dominate();
        }
        graph
    }

    /// False, and no edges at all, when there would be too many.
    fn connect(
        &mut self,
        labels: &HashMap<&Name, u32>,
        targets: &HashMap<&Name, &tree::Targets>,
    ) -> bool {
        let find =
            |name: &Name| labels.get(name).and_then(|&at| self.block_of.get(at as usize)).copied();
        let mut edges: Vec<Edge> = Vec::new();
        let most = EDGES + EDGES_EACH * self.instructions.len();
        let lists: HashMap<&Name, Vec<u32>> = targets
            .iter()
            .map(|(name, list)| {
                let mut found: Vec<u32> = list.targets.iter().filter_map(find).collect();
                found.sort_unstable();
                found.dedup();
                (*name, found)
            })
            .collect();
        for (from, block) in self.blocks.iter().enumerate() {
            let from = from as u32;
            let mut add = |to: Option<u32>, condition: Option<bool>| {
                if let Some(to) = to {
                    edges.push(Edge { from, to, condition });
                }
            };
            let last = self.instructions[block.end as usize - 1];
            let next = self.block_of.get(block.end as usize).copied();
            let taken = last.guard.as_ref().map(|g| !g.negated);
            match last.op() {
                Some(Op::Bra) => {
                    let label = last.operands.iter().find_map(Operand::as_symbol);
                    add(label.and_then(find), taken);
                    if taken.is_some() {
                        add(next, taken.map(|t| !t));
                    }
                }
                Some(Op::Brx) => {
                    let list = last.operands.iter().filter_map(Operand::as_symbol).next_back();
                    for to in list.and_then(|name| lists.get(name)).into_iter().flatten() {
                        add(Some(*to), None);
                    }
                    if taken.is_some() {
                        add(next, None);
                    }
                }
                Some(Op::Ret | Op::Exit | Op::Trap) => {
                    if taken.is_some() {
                        add(next, taken.map(|t| !t));
                    }
                }
                _ => add(next, None),
            }
            if edges.len() > most {
                return false;
            }
        }
        for (index, edge) in edges.iter().enumerate() {
            self.blocks[edge.from as usize].out.push(index as u32);
            self.blocks[edge.to as usize].into.push(index as u32);
        }
        self.edges = edges;
        true
    }

    /// Reverse postorder from the entry.
    fn number(&mut self) {
        if self.blocks.is_empty() {
            return;
        }
        let mut seen = vec![false; self.blocks.len()];
        let mut stack = vec![(0u32, 0usize)];
        seen[0] = true;
        while let Some((block, next)) = stack.last_mut() {
            let out = &self.blocks[*block as usize].out;
            if let Some(&edge) = out.get(*next) {
                *next += 1;
                let to = self.edges[edge as usize].to;
                if !seen[to as usize] {
                    seen[to as usize] = true;
                    stack.push((to, 0));
                }
            } else {
                self.order.push(*block);
                stack.pop();
            }
        }
        self.order.reverse();
    }

    /// Immediate dominators by Cooper, Harvey and Kennedy's iteration; bounded, because on a graph
    /// that is not reducible it may take several rounds.
    fn dominate(&mut self) {
        if self.blocks.is_empty() {
            return;
        }
        let mut rank = vec![NONE; self.blocks.len()];
        for (index, &block) in self.order.iter().enumerate() {
            rank[block as usize] = index as u32;
        }
        self.blocks[0].dominator = 0;
        let mut budget = 100_000 + 64 * self.blocks.len();
        let mut changed = true;
        while changed {
            changed = false;
            for &block in &self.order[1..] {
                let mut dominator = NONE;
                for &edge in &self.blocks[block as usize].into {
                    let mut other = self.edges[edge as usize].from;
                    if self.blocks[other as usize].dominator == NONE {
                        continue;
                    }
                    if dominator == NONE {
                        dominator = other;
                        continue;
                    }
                    while dominator != other {
                        budget -= 1;
                        if budget == 0 {
                            return;
                        }
                        if rank[dominator as usize] > rank[other as usize] {
                            dominator = self.blocks[dominator as usize].dominator;
                        } else {
                            other = self.blocks[other as usize].dominator;
                        }
                    }
                }
                if self.blocks[block as usize].dominator != dominator {
                    self.blocks[block as usize].dominator = dominator;
                    changed = true;
                }
            }
        }
        for &block in &self.order[1..] {
            let dominator = self.blocks[block as usize].dominator;
            self.children[dominator as usize].push(block);
        }
        let mut clock = 0;
        let mut stack = vec![(0u32, 0usize)];
        while let Some((block, next)) = stack.last_mut() {
            if *next == 0 {
                clock += 1;
                self.blocks[*block as usize].span.0 = clock;
            }
            if let Some(&child) = self.children[*block as usize].get(*next) {
                *next += 1;
                stack.push((child, 0));
            } else {
                clock += 1;
                self.blocks[*block as usize].span.1 = clock;
                stack.pop();
            }
        }
        self.converged = true;
    }

    /// True when every way to `b` leads through `a` (both reachable).
    pub fn dominates(&self, a: u32, b: u32) -> bool {
        let (a, b) = (&self.blocks[a as usize], &self.blocks[b as usize]);
        self.converged
            && a.dominator != NONE
            && b.dominator != NONE
            && a.span.0 <= b.span.0
            && b.span.1 <= a.span.1
    }

    /// True when the block can be reached from the entry.
    pub fn is_reachable(&self, block: u32) -> bool {
        self.blocks[block as usize].dominator != NONE
    }

    /// The dominance frontier of every block, or `None` when it would exceed `limit` entries.
    pub fn frontiers(&self, limit: usize) -> Option<Vec<Vec<u32>>> {
        let mut frontiers = vec![Vec::new(); self.blocks.len()];
        let mut total = 0;
        for &block in &self.order {
            let node = &self.blocks[block as usize];
            if node.into.len() < 2 && block != 0 {
                continue;
            }
            for &edge in &node.into {
                let mut runner = self.edges[edge as usize].from;
                if !self.is_reachable(runner) {
                    continue;
                }
                // The entry has no dominator but itself: a way back to it ends there.
                while runner != node.dominator || block == 0 {
                    // Where another edge's walk has been, it has gone on upwards from.
                    if frontiers[runner as usize].last() == Some(&block) {
                        break;
                    }
                    frontiers[runner as usize].push(block);
                    total += 1;
                    if total > limit {
                        return None;
                    }
                    if runner == 0 {
                        break;
                    }
                    runner = self.blocks[runner as usize].dominator;
                }
            }
        }
        Some(frontiers)
    }
}
