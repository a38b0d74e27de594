//! What can be proved of the addresses that a function uses: an interval, alignment and object analysis
//! over its control-flow graph, under the launch's bounds.
//!
//! It knows nothing of what the guard rewrites and is run on the final text as well, where the verifier
//! accepts an access without a clamp only if it is proved there. It never says anything of a thread's
//! address that does not hold for every thread of every launch within [`Launch`]; what it cannot see is
//! [`Value::TOP`]. Total: bounded sweeps, bounded depth, and a function whose graph is out of bounds is
//! simply not understood.

mod affine;
mod evaluate;
mod graph;
mod ir;
mod launch;
mod lower;
mod pointers;
mod solve;
mod ssa;
mod value;

#[cfg(test)]
mod tests;

use crate::hash::HashMap;

use crate::contract::{Arena, BlockShape, PointerContract};
use crate::tree::{self, Function, Name, Op, Operand};

pub use graph::Graph;
pub use ir::{Arg, Object, ObjectSpace};
pub use launch::Launch;
pub use ssa::module_objects;
pub use value::{NUMBER, Value};

use evaluate::Evaluator;
use ssa::Ssa;

/// What is known of one memory operand.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The address without the immediate offset; [`Value::TOP`] when nothing is known.
    pub value: Value,
    /// The register's value, object or nothing known: equal for addresses that are equal.
    pub base: Arg,
    /// The register value furthest back from which the address is a constant away and which its register
    /// still holds at this instruction, and that constant (immediate offset not included).
    pub root: (Arg, i64),
}

/// The analysis of one function.
pub struct Analysis<'a> {
    /// Its graph.
    pub graph: Graph<'a>,
    /// The objects that [`Value::bases`] speaks of.
    pub objects: Vec<Object>,
    ssa: Ssa,
    places: HashMap<(u32, u32), Place>,
    numbers: HashMap<(u32, u32), Value>,
    pointers: Vec<PointerContract>,
}

/// True when an analysis of this operand is wanted: everything but parameters by name, and plain global
/// accesses of functions that know no address in the arena, whose fence needs none.
fn wanted(i: &tree::Instruction, knows_arena: bool) -> bool {
    let only_global = !knows_arena
        && i.spaces().count() == 1
        && i.space() == Some(tree::Space::Global)
        && !matches!(i.op(), Some(Op::Cp | Op::Wmma));
    let direct_param = i.space().is_some_and(tree::Space::is_param)
        && !matches!(i.address().map(|a| &a.base), Some(tree::Base::Reg(_)));
    !only_global && !direct_param
}

impl<'a> Analysis<'a> {
    /// Analyses a function's body. `objects` are the module's variables in `.shared` and `.const`
    /// ([`module_objects`]). With an arena, the parameters of a kernel that are used as addresses are
    /// taken to lie in it, as aligned as the accesses through them need; [`Analysis::pointers`] says
    /// which.
    pub fn new(
        function: &'a Function,
        body: &'a tree::Block,
        objects: &HashMap<Name, Object>,
        shape: Option<BlockShape>,
        arena: Option<Arena>,
    ) -> Self {
        let graph = Graph::new(body);
        let is_entry = function.kind == tree::FunctionKind::Entry;
        let candidates = ssa::candidates(&function.params, is_entry, &graph.variables);
        let offsets = if is_entry { pointers::offsets(function) } else { HashMap::default() };
        let ssa = Ssa::new(&graph, candidates, objects, &offsets);
        let pointers = match arena {
            Some(_) if is_entry => pointers::find(&ssa, &graph),
            _ => Vec::new(),
        };
        let known = arena.map_or_else(HashMap::default, |arena| pointers::values(&pointers, arena));
        // Large constants are the addresses of relocated variables.
        let asks_global = !known.is_empty() || ssa.has_address_constants();
        let mut places = HashMap::with_capacity_and_hasher(ssa.addresses.len(), Default::default());
        let mut numbers = HashMap::default();
        let mut evaluator = Evaluator {
            ssa: &ssa,
            graph: &graph,
            launch: Launch::new(function, shape),
            values: Vec::new(),
            bounds: Vec::new(),
            pointers: known,
        };
        let asked = |index: u32| wanted(graph.instructions[index as usize], asks_global);
        let addresses = ssa.addresses.iter().filter(|a| asked(a.instruction)).map(|a| a.base);
        solve::solve(&mut evaluator, addresses.chain(ssa.operands.values().copied()));
        let at = |index: u32, arg: Arg| {
            if evaluator.values.is_empty() {
                return Value::TOP;
            }
            let mut context = evaluator.context(graph.block_of[index as usize]);
            if let Some(guard) = &graph.instructions[index as usize].guard {
                let predicate = ssa.predicates[index as usize];
                evaluator.assume(predicate, !guard.negated, &mut context, 4);
            }
            let value = evaluator.at(arg, &mut context).unwrap_or(Value::TOP);
            let Arg::Value(id) = arg else { return value };
            let width = ssa.expressions[id as usize].width;
            match affine::value(&evaluator, arg, width, &mut context) {
                Some(sum) if value.lo != value.hi => evaluate::tighter(value, sum),
                _ => value,
            }
        };
        for address in &ssa.addresses {
            let index = address.instruction;
            let value = if asked(index) { at(index, address.base) } else { Value::TOP };
            let place = Place { value, base: address.base, root: address.root };
            places.insert((index, address.operand), place);
        }
        for (&(index, operand), &arg) in &ssa.operands {
            numbers.insert((index, operand), at(index, arg));
        }
        let objects = ssa.objects.clone();
        Self { graph, objects, ssa, places, numbers, pointers }
    }

    /// What is known of a memory operand (instruction number, operand number).
    pub fn place(&self, instruction: u32, operand: u32) -> Place {
        let base = Arg::Unknown;
        let unknown = Place { value: Value::TOP, base, root: (base, 0) };
        self.places.get(&(instruction, operand)).copied().unwrap_or(unknown)
    }

    /// Parameters taken to be addresses in the arena.
    pub fn pointers(&self) -> &[PointerContract] {
        &self.pointers
    }

    /// True when an address is in the arena or its red zones, `bytes` from it on too, and a multiple of
    /// `align`, by what is known of parameters.
    pub fn is_in_arena(
        &self,
        arena: Arena,
        value: &Value,
        offset: i64,
        bytes: u64,
        align: u64,
    ) -> bool {
        let (lo, hi) = (i128::from(value.lo) + i128::from(offset), i128::from(value.hi));
        let end = hi + i128::from(offset) + i128::from(bytes);
        let (base, red) = (i128::from(arena.base()), i128::from(arena.red_zone()));
        value.is_number()
            && lo >= base - red
            && end <= base + i128::from(arena.size()) + red
            && value.add(Value::int(offset), 64).trailing_zeros() >= align.trailing_zeros()
    }

    /// What is known of an integer operand of a bulk copy or a matrix load.
    pub fn number(&self, instruction: u32, operand: u32) -> Value {
        self.numbers.get(&(instruction, operand)).copied().unwrap_or(Value::TOP)
    }

    /// The register that holds a value.
    pub fn register(&self, arg: Arg) -> Option<&tree::Name> {
        let Arg::Value(id) = arg else { return None };
        let register = self.ssa.expressions.get(id as usize)?.register;
        self.ssa.registers.get(register as usize)
    }

    /// The objects among a value's bases, with whether the address is generic.
    pub fn bases(&self, value: &Value) -> impl Iterator<Item = (u32, bool)> + use<> {
        let bases = value.bases & !NUMBER;
        (0..62u32).filter(move |bit| bases >> bit & 1 == 1).map(|bit| (bit / 2, bit % 2 == 1))
    }

    /// True when the access is proved: every object the address may be relative to is in `space`, the
    /// `bytes` from `address + offset` on lie inside it, and the address is a multiple of `align`.
    /// `open_bytes` is how much of an object of open size (`.extern .shared`) may be relied on.
    pub fn is_proved(
        &self,
        value: &Value,
        offset: i64,
        space: ObjectSpace,
        bytes: u64,
        align: u64,
        open_bytes: u64,
    ) -> bool {
        if value.bases & NUMBER != 0 || value.bases == 0 || !align.is_power_of_two() {
            return false;
        }
        let inside = self.bases(value).all(|(index, generic)| {
            let Some(object) = self.objects.get(index as usize) else { return false };
            let size = object.bytes.unwrap_or(open_bytes);
            !generic
                && object.space == space
                && object.align >= align
                && i128::from(value.lo) + i128::from(offset) >= 0
                && i128::from(value.hi) + i128::from(offset) + i128::from(bytes) <= size.into()
        });
        let low = align - 1;
        let sum = value.add(Value::int(offset), 64);
        inside && (low & !sum.zeros == 0 || (sum.lo == sum.hi && sum.lo as u64 & low == 0))
    }

    /// The operands of an instruction that name memory: (operand number, address).
    pub fn addresses<'i>(
        instruction: &'i tree::Instruction,
    ) -> impl Iterator<Item = (u32, &'i tree::Address)> + 'i {
        instruction.operands.iter().enumerate().filter_map(|(index, operand)| match operand {
            Operand::Address(address) => Some((index as u32, address)),
            _ => None,
        })
    }
}
