//! What each instruction demands of its operands: which bytes of which state space it touches. The
//! demands are then proved or the module is refused.

use super::Reason;
use super::eval::{Eval, Place};
use super::flow::Object;
use super::number::{Alt, Region, Value};
use crate::contract::Arena;
use crate::opcode::{Class, Row};
use crate::tree::{Address, Base, Flag, Instruction, Op, Operand, ScalarType, Space};

/// Most bytes that one bulk copy may move: all of a block's shared memory (227 KiB) and the KiB that
/// the system keeps.
const MOST_BULK: i64 = 228 << 10;
/// Most bytes that a matrix load or store may span.
const MOST_SPAN: i64 = 1 << 24;

/// Measured on sm_90: an mbarrier operation on an object in another state than it expects is a launch
/// failure (719), and any store can bring it into such a state.
const MBARRIER: Reason = Reason::Form("operations on an mbarrier can fault, wherever it is");

/// Bytes that one thread touches through one address operand.
#[derive(Clone, Copy, Debug)]
struct Demand {
    /// `None` for a generic address.
    space: Option<Space>,
    bytes: i64,
    align: i64,
    writes: bool,
    /// Which windows a generic address may point into.
    windows: Windows,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Windows {
    /// Global, shared and local.
    All,
    /// Global and shared: atomic operations fault on local memory.
    NotLocal,
    /// Shared only.
    Shared,
}

impl Demand {
    fn new(space: Option<Space>, bytes: i64, writes: bool) -> Self {
        Self { space, bytes, align: bytes, writes, windows: Windows::All }
    }

    fn windows(self, windows: Windows) -> Self {
        Self { windows, ..self }
    }
}

/// Proves that an instruction touches nothing outside what its space allows, and cannot fault.
pub(super) fn check(eval: &Eval<'_, '_>, index: u32, row: &Row) -> Result<(), Reason> {
    let i = eval.code.instructions[index as usize];
    if i.has(Flag::L2CacheHint) {
        // Measured on sm_90: a hint that `createpolicy` did not make can be an illegal instruction.
        return Err(Reason::Form("a cache hint may be any number, and some of them fault"));
    }
    match (row.class(), row.op()) {
        (Class::Alu | Class::Warp, _) => addresses(eval, i),
        (_, Op::Membar | Op::Fence | Op::Nanosleep | Op::Griddepcontrol) => Ok(()),
        (_, Op::Bar | Op::Barrier) => barrier(i),
        (_, Op::Bra | Op::Ret | Op::Exit | Op::Call) => Ok(()),
        (_, Op::Brx) => branch_index(eval, i, index),
        (Class::Control, _) => Err(Reason::Trap),
        (Class::Memory, _) => memory(eval, i, index),
        (Class::Async, Op::Mbarrier) if i.address().is_none() => Ok(()),
        (Class::Async, Op::Mbarrier) => Err(MBARRIER),
        (Class::Async, _) => copy(eval, i, index),
        (Class::Tensor, Op::Ldmatrix | Op::Stmatrix) => {
            let writes = row.op() == Op::Stmatrix;
            one(eval, i, index, Demand::new(i.space(), 16, writes).windows(Windows::Shared))
        }
        (Class::Tensor, Op::Wmma) if i.address().is_some() => matrix(eval, i, index),
        (Class::Tensor, _) => Ok(()),
        (Class::Barrier, _) => Err(Reason::Form("barrier of an unknown kind")),
    }
}

/// An instruction that touches no memory must hold no address, and take none of a function.
fn addresses(eval: &Eval<'_, '_>, i: &Instruction) -> Result<(), Reason> {
    for operand in &i.operands {
        if let Operand::Symbol(name, _) = operand
            && !eval.code.object_of.contains_key(&**name)
        {
            return Err(Reason::Form("takes the address of something that is no local object"));
        }
    }
    Ok(())
}

fn barrier(i: &Instruction) -> Result<(), Reason> {
    if i.has(Flag::Cluster) {
        return Err(Reason::Form("cluster barriers are not supported under a guard"));
    }
    if i.has(Flag::Warp) {
        return Ok(());
    }
    // `bar.red` has its result first. Lanes that name different barriers are a fault, so the number is a
    // constant.
    let first = usize::from(i.has(Flag::Red));
    if !matches!(i.operands.get(first), Some(Operand::Int(0..16))) {
        return Err(Reason::Barrier);
    }
    let counts = i.operands.len() - usize::from(i.has(Flag::Red)) * 2 > 1;
    if counts {
        let count = i.operands.get(first + 1).and_then(Operand::as_int);
        if !count.is_some_and(|count| (32..=1024).contains(&count) && count % 32 == 0) {
            return Err(Reason::Barrier);
        }
    }
    Ok(())
}

fn branch_index(eval: &Eval<'_, '_>, i: &Instruction, index: u32) -> Result<(), Reason> {
    let list = i.operands.get(1).and_then(Operand::as_symbol);
    let targets = list.and_then(|name| eval.code.targets.get(&**name)).map_or(0, |t| t.len());
    let place = eval.place(index);
    let Some(operand) = i.operands.first() else { return Err(Reason::BranchIndex) };
    match eval.value_of(operand, 32, index, &place, 0).unsigned(32) {
        Some(alt) if alt.lo < 0 || alt.hi >= targets as i64 => Err(Reason::BranchIndex),
        _ => Ok(()),
    }
}

fn memory(eval: &Eval<'_, '_>, i: &Instruction, index: u32) -> Result<(), Reason> {
    let op = i.op().ok_or(Reason::Form("unknown opcode"))?;
    let space = i.space();
    match space {
        Some(Space::Tex) => return Err(Reason::Form("textures do not remain after guarding")),
        Some(Space::Param | Space::ParamEntry | Space::ParamFunc) => {
            return parameter(eval, i, index);
        }
        _ => {}
    }
    if matches!(op, Op::Prefetch | Op::Prefetchu) {
        return one(eval, i, index, Demand::new(space, 1, false));
    }
    let ty = i.types().last().ok_or(Reason::Form("memory access without type"))?;
    let bytes = i64::from(ty.bytes()) * i64::from(i.vector());
    if bytes == 0 || bytes > 32 {
        return Err(Reason::Form("memory access of an unknown width"));
    }
    let writes = !matches!(op, Op::Ld | Op::Ldu);
    let demand = Demand::new(space, bytes, writes);
    let atomic = matches!(op, Op::Atom | Op::Red);
    one(eval, i, index, if atomic { demand.windows(Windows::NotLocal) } else { demand })
}

/// Parameters: `[symbol+offset]` in the declared object; by register only of a kernel's own.
fn parameter(eval: &Eval<'_, '_>, i: &Instruction, index: u32) -> Result<(), Reason> {
    let ty = i.ty().ok_or(Reason::Form("memory access without type"))?;
    let bytes = i64::from(ty.bytes()) * i64::from(i.vector());
    let writes = i.op() == Some(Op::St);
    let demand = Demand::new(Some(Space::Param), bytes, writes);
    if bytes == 0 || bytes > 32 {
        return Err(Reason::Form("memory access of an unknown width"));
    }
    one(eval, i, index, demand)
}

/// Checks the only address operand of an instruction.
fn one(eval: &Eval<'_, '_>, i: &Instruction, index: u32, demand: Demand) -> Result<(), Reason> {
    let mut addresses = i.operands.iter().filter_map(Operand::as_address);
    let (Some(address), None) = (addresses.next(), addresses.next()) else {
        return Err(Reason::Form("not exactly one address"));
    };
    let place = eval.place(index);
    prove(eval, index, &place, address, demand)
}

fn copy(eval: &Eval<'_, '_>, i: &Instruction, index: u32) -> Result<(), Reason> {
    let addresses: Vec<&Address> = i.operands.iter().filter_map(Operand::as_address).collect();
    let place = eval.place(index);
    if addresses.is_empty() {
        return Ok(());
    }
    let shared = Some(Space::Shared);
    let global = Some(Space::Global);
    if i.has(Flag::Mbarrier) || i.has(Flag::MbarrierCompleteTx) {
        return Err(MBARRIER);
    }
    if !i.has(Flag::Bulk) && !i.has(Flag::Reduce) {
        let (Some(size), [target, source]) =
            (i.operands.get(2).and_then(Operand::as_int), addresses.as_slice())
        else {
            return Err(Reason::Form("cp.async without a constant size"));
        };
        if !matches!(size, 4 | 8 | 16) {
            return Err(Reason::Form("cp.async of a size other than 4, 8 or 16"));
        }
        let demand = |space, writes| Demand::new(space, size, writes);
        prove(eval, index, &place, target, demand(shared, true))?;
        return prove(eval, index, &place, source, demand(global, false));
    }
    // Bulk: the size is the operand after the one or two addresses.
    let size_at = if i.has(Flag::Prefetch) { 1 } else { 2 };
    let Some(size) = i.operands.get(size_at) else { return Err(Reason::Form("no size")) };
    let Some(size) = eval.value_of(size, 32, index, &place, 0).unsigned(32) else { return Ok(()) };
    if size.lo < 0 || size.hi > MOST_BULK || size.low_zeros() < 4 {
        return Err(Reason::BulkSize);
    }
    let most = size.hi.max(16);
    let demand = |space, writes| Demand { align: 16, ..Demand::new(space, most, writes) };
    if i.has(Flag::Prefetch) {
        return one(eval, i, index, demand(global, false));
    }
    let spaces: Vec<Space> = i.spaces().collect();
    let [to, from] = spaces.as_slice() else { return Err(Reason::Form("bulk copy's spaces")) };
    let normal = |space: &Space| if space.is_shared() { shared } else { global };
    if to.is_shared() == from.is_shared() {
        return Err(Reason::Form("a bulk copy goes between global and shared memory"));
    }
    let (Some(target), Some(source)) = (addresses.first(), addresses.get(1)) else {
        return Err(Reason::Form("bulk copy's addresses"));
    };
    prove(eval, index, &place, target, demand(normal(to), true))?;
    prove(eval, index, &place, source, demand(normal(from), false))
}

/// wmma.load and wmma.store: the whole tile, whose stride must be a constant.
fn matrix(eval: &Eval<'_, '_>, i: &Instruction, index: u32) -> Result<(), Reason> {
    let fail = Reason::Form("matrix access of an unknown shape or stride");
    let (m, n, k) = i
        .flags()
        .find_map(|flag| match flag {
            Flag::M16n16k16 => Some((16, 16, 16)),
            Flag::M8n32k16 => Some((8, 32, 16)),
            Flag::M32n8k16 => Some((32, 8, 16)),
            Flag::M16n16k8 => Some((16, 16, 8)),
            Flag::M8n8k4 => Some((8, 8, 4)),
            _ => None,
        })
        .ok_or(fail.clone())?;
    let which = i.flags().find(|f| matches!(f, Flag::A | Flag::B | Flag::C | Flag::D));
    let (rows, columns) = match which {
        Some(Flag::A) => (m, k),
        Some(Flag::B) => (k, n),
        Some(_) => (m, n),
        None => return Err(fail),
    };
    let (lines, length) = if i.has(Flag::Row) { (rows, columns) } else { (columns, rows) };
    let bytes = i.types().last().map_or(0, |ty: ScalarType| i64::from(ty.bytes()));
    let store = i.has(Flag::Store);
    let place = eval.place(index);
    let stride = match i.operands.get(2) {
        None => Some(Alt::constant(length)),
        Some(operand) => eval.value_of(operand, 32, index, &place, 0).unsigned(32),
    };
    // The tile cannot be reached.
    let Some(stride) = stride else { return Ok(()) };
    let grain = bytes * (1 << stride.low_zeros().min(8));
    if bytes == 0 || stride.lo < 0 || stride.hi > MOST_SPAN || grain % 16 != 0 {
        return Err(fail);
    }
    // Lines closer together than they are long overlap; that is odd, but no way out.
    let stride = stride.hi;
    let span = ((lines - 1) * stride + length) * bytes;
    if span > MOST_SPAN {
        return Err(fail);
    }
    let demand = Demand { align: 32, ..Demand::new(i.space(), span, store) };
    one(eval, i, index, demand.windows(Windows::NotLocal))
}

/// Proves one address operand.
fn prove(
    eval: &Eval<'_, '_>,
    index: u32,
    place: &Place,
    address: &Address,
    demand: Demand,
) -> Result<(), Reason> {
    if !address.rest.is_empty() {
        return Err(Reason::Form("an address with coordinates"));
    }
    let mut width = 64;
    let value = match &address.base {
        Base::Symbol(name) => match eval.code.object_of.get(&**name) {
            Some(object) => Value::object(Region::Object(*object), 0),
            None => return Err(Reason::Unproved),
        },
        Base::Absolute => Value::range(0, 0),
        Base::Reg(name) => {
            let register = eval.code.register(name);
            width = eval.code.widths.get(register as usize).copied().unwrap_or(0);
            eval.value(eval.register(register, index), place, 0)
        }
    };
    for alt in value.alts() {
        let Some(alt) = alt.add(Alt::constant(address.offset)) else {
            return Err(Reason::Unproved);
        };
        let fits = match alt.region {
            // Fewer bits than the address has do not hold it, whatever number they stand for.
            _ if width != 64 && (width != 32 || !matches!(alt.region, Region::Object(_))) => false,
            Region::Number => {
                (demand.space == Some(Space::Global)
                    || demand.space.is_none() && demand.windows != Windows::Shared)
                    && inside_arena(alt, demand, eval.launch.arena)
            }
            Region::Object(object) => {
                let object = &eval.code.objects[object as usize];
                same_space(object, demand.space)
                    && !(demand.writes && object.input)
                    && inside_object(alt, demand, object, eval.launch.dynamic_shared)
            }
            Region::Generic(object) => {
                let object = &eval.code.objects[object as usize];
                let window = match demand.windows {
                    Windows::All => true,
                    Windows::NotLocal | Windows::Shared => object.space.is_shared(),
                };
                demand.space.is_none()
                    && window
                    && inside_object(alt, demand, object, eval.launch.dynamic_shared)
            }
        };
        if !fits {
            return Err(Reason::Unproved);
        }
    }
    Ok(())
}

fn same_space(object: &Object, space: Option<Space>) -> bool {
    match space {
        Some(space) if space.is_shared() => object.space.is_shared(),
        Some(space @ (Space::Local | Space::Const)) => object.space == space,
        Some(space) if space.is_param() => object.space.is_param(),
        _ => false,
    }
}

/// `n .. n + bytes` lies in the arena or the red zones around it, `n` a multiple of the alignment.
fn inside_arena(alt: Alt, demand: Demand, arena: Arena) -> bool {
    // CAST: an arena ends below 2^49.
    let (base, size, red) = (arena.base() as i64, arena.size() as i64, arena.red_zone() as i64);
    let end = alt.hi.checked_add(demand.bytes);
    alt.lo >= base - red
        && end.is_some_and(|end| end <= base + size + red)
        && aligned(alt, demand, 63)
}

fn aligned(alt: Alt, demand: Demand, known: u32) -> bool {
    let need = demand.align.trailing_zeros();
    demand.align.count_ones() == 1 && alt.low_zeros() >= need && known >= need
}

fn inside_object(alt: Alt, demand: Demand, object: &Object, dynamic: u64) -> bool {
    let by_size = match object.size {
        Some(size) => size,
        None => dynamic,
    };
    let end = alt.hi.checked_add(demand.bytes).and_then(|end| u64::try_from(end).ok());
    let by_slack = object.size.is_none() && alt.has_slack() && alt.slack >= demand.bytes;
    let base = match object.parameter {
        // A parameter block begins at a multiple of 16 (measured on sm_90), so a kernel's parameter
        // is aligned by its place in it, to 16 at most.
        Some(offset) => offset.trailing_zeros().min(4),
        None => object.align.trailing_zeros(),
    };
    alt.lo >= 0 && (end.is_some_and(|end| end <= by_size) || by_slack) && aligned(alt, demand, base)
}
