//! How the values of neighbouring lanes lie to each other: the same in all, a step apart, or anything. Forward data flow
//! over one function's code, for lanes that go the same way together.
//!
//! A group of lanes begins at lane numbers that are multiples of its size, and machine code uses the group form only in
//! blocks whose rows of threads are as well, so `%tid.x` counts by one inside a group. What holds where a region is entered
//! is checked there, so nothing here has to know how lanes came to be where they are.

use std::collections::BTreeMap;

use super::liveness::{Place, Shape as Slots, effects, is_compiled};
use super::values::Kind;
use crate::fault::Space;
use crate::ir::{CONSTANT, Combine, Inst, Lanes, NONE, Op, Slot, Special, Target};
use crate::ops::Class;
use crate::ops::compare::Compare;
use crate::ops::int32::Int32;
use crate::ops::int64::Int64;

/// Lanes of a group, and the logarithm.
pub(super) const GROUP: usize = 1 << LOG2;
pub(super) const LOG2: u32 = 3;

/// Steps beyond which lanes count as unrelated.
const MOST_STEP: i64 = 1 << 24;
/// Slots times places of a function, above which it gets no group form.
const MOST_STATE: usize = 1 << 20;
/// Times a place is looked at again; each time a slot's shape gets worse, which it does at most some 66 times.
const MOST_VISITS: usize = 200;

/// How the values of a slot lie to each other in the lanes of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// The first lane's value plus the lane's number times `step`, wrapping. The low `align` bits of the first lane's value
    /// are zero.
    Step { step: i32, align: u8 },
    /// Anything.
    Varying,
}

/// The same in all lanes.
pub(super) const UNIFORM: Shape = Shape::Step { step: 0, align: 0 };

/// What has to be found out while running for a shape to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// Nothing.
    None,
    /// The 32-bit slot counts through the group without wrapping, as unsigned or as signed numbers.
    Counts { slot: Slot, signed: bool },
    /// The first and the last lane have the same sign.
    Sign { class: Class, slot: Slot },
    /// The ordering comparison gives the first and the last lane the same answer, and the slot counts without wrapping.
    Agrees { slot: Slot, signed: bool },
}

impl Shape {
    pub(super) fn is_uniform(self) -> bool {
        matches!(self, Shape::Step { step: 0, .. })
    }

    /// The step, unless lanes are unrelated.
    pub(super) fn step(self) -> Option<i32> {
        match self {
            Shape::Step { step, .. } => Some(step),
            Shape::Varying => None,
        }
    }

    fn align(self) -> u32 {
        match self {
            Shape::Step { align, .. } => u32::from(align),
            Shape::Varying => 0,
        }
    }

    fn new(step: i64, align: u32) -> Self {
        if step.abs() > MOST_STEP {
            return Shape::Varying;
        }
        Shape::Step { step: step as i32, align: align.min(63) as u8 }
    }

    /// What holds where either may.
    pub(super) fn join(self, other: Self) -> Self {
        match (self.step(), other.step()) {
            (Some(a), Some(b)) if a == b => {
                Self::new(i64::from(a), self.align().min(other.align()))
            }
            _ => Shape::Varying,
        }
    }

    fn plus(self, other: Self, sign: i64) -> Self {
        match (self.step(), other.step()) {
            (Some(a), Some(b)) => {
                Self::new(i64::from(a) + sign * i64::from(b), self.align().min(other.align()))
            }
            _ => Shape::Varying,
        }
    }

    fn times(self, factor: i64) -> Self {
        match self.step() {
            Some(s) => match i64::from(s).checked_mul(factor) {
                Some(step) => Self::new(step, self.align() + factor.trailing_zeros()),
                None => Shape::Varying,
            },
            None => Shape::Varying,
        }
    }

    /// The bits in which lanes differ, when a lane's number is simply in those bits.
    fn digits(self) -> Option<u64> {
        let step = u32::try_from(self.step()?).ok().filter(|s| s.is_power_of_two())?;
        let low = step.trailing_zeros();
        (self.align() >= low + LOG2).then_some((GROUP as u64 - 1) << low)
    }
}

/// The shapes of a function's slots at one place.
pub(super) struct State<'a> {
    pub(super) slots: Slots,
    pub(super) constants: (&'a [u32], &'a [u64]),
    pub(super) kinds: &'a [Kind],
    pub(super) shapes: Vec<Shape>,
}

impl State<'_> {
    fn constant(&self, class: Class, slot: Slot) -> Option<u64> {
        let index = usize::from(slot & !CONSTANT);
        match (class, slot) {
            (_, NONE) => Some(0),
            (_, s) if s & CONSTANT == 0 => None,
            (Class::W64, _) => Some(self.constants.1.get(index).copied().unwrap_or(0)),
            _ => Some(u64::from(self.constants.0.get(index).copied().unwrap_or(0))),
        }
    }

    /// The shape of a source.
    pub(super) fn of(&self, class: Class, slot: Slot) -> Shape {
        if let Some(v) = self.constant(class, slot) {
            return Shape::new(0, v.trailing_zeros());
        }
        self.slots.number((class, slot)).map_or(Shape::Varying, |n| self.shapes[n])
    }

    /// Takes note of a result.
    pub(super) fn set(&mut self, place: Place, shape: Shape) {
        let Some(n) = self.slots.number(place) else { return };
        // Only integers count.
        let counts = self.kinds[n] == Kind::Integer || shape.is_uniform();
        self.shapes[n] = if counts { shape } else { Shape::Varying };
    }

    fn all_uniform(&self, classes: &[Class], slots: [Slot; 3]) -> bool {
        classes.iter().zip(slots).all(|(&c, s)| self.of(c, s).is_uniform())
    }

    fn plain<T: Copy>(&self, l: &Lanes<T>, classes: &[Class]) -> Shape {
        if self.all_uniform(classes, [l.a, l.b, l.c]) { UNIFORM } else { Shape::Varying }
    }

    fn product(&self, class: Class, a: Slot, b: Slot, signed: impl Fn(u64) -> i64) -> Shape {
        match (self.constant(class, a), self.constant(class, b)) {
            (_, Some(c)) => self.of(class, a).times(signed(c)),
            (Some(c), _) => self.of(class, b).times(signed(c)),
            _ => {
                let (a, b) = (self.of(class, a), self.of(class, b));
                if a.is_uniform() && b.is_uniform() {
                    Shape::new(0, a.align() + b.align())
                } else {
                    Shape::Varying
                }
            }
        }
    }

    /// And (`keep`), or, exclusive or.
    fn bitwise(&self, class: Class, a: Slot, b: Slot, keep: bool) -> Shape {
        let (x, y) = (self.of(class, a), self.of(class, b));
        if x.is_uniform() && y.is_uniform() {
            let (x, y) = (x.align(), y.align());
            return Shape::new(0, if keep { x.max(y) } else { x.min(y) });
        }
        let (x, y, other) = if y.is_uniform() { (x, y, b) } else { (y, x, a) };
        let (Some(digits), Some(step), true) = (x.digits(), x.step(), y.is_uniform()) else {
            return Shape::Varying;
        };
        let constant = self.constant(class, other);
        let clear =
            constant.is_some_and(|c| c & digits == 0) || y.align() >= 64 - digits.leading_zeros();
        let full = constant.is_some_and(|c| c & digits == digits);
        match (keep, clear, full) {
            (true, true, _) => UNIFORM,
            (true, _, true) => Shape::new(i64::from(step), x.align()),
            (false, true, _) => Shape::new(i64::from(step), x.align().min(y.align())),
            _ => Shape::Varying,
        }
    }

    /// A shift to the right.
    fn right(&self, class: Class, a: Slot, n: Slot, signed: bool) -> (Shape, Proof) {
        let shape = self.of(class, a);
        if shape.is_uniform() && self.of(Class::W32, n).is_uniform() {
            return (UNIFORM, Proof::None);
        }
        let Some(n) = self.constant(Class::W32, n) else { return (Shape::Varying, Proof::None) };
        let top = if class == Class::W64 { 63 } else { 31 };
        if signed && n >= top && shape.step().is_some() {
            return (UNIFORM, Proof::Sign { class, slot: a });
        }
        match shape.digits() {
            Some(digits) if n <= top && digits >> n == 0 => (UNIFORM, Proof::None),
            _ => (Shape::Varying, Proof::None),
        }
    }

    fn int32(&self, l: &Lanes<Int32>) -> (Shape, Proof) {
        use Int32 as O;
        let of = |s| self.of(Class::W32, s);
        let signed = |c: u64| i64::from(c as u32 as i32);
        let shape = match l.op {
            O::Mov => of(l.a),
            O::Add => of(l.a).plus(of(l.b), 1),
            O::Sub => of(l.a).plus(of(l.b), -1),
            O::Neg => of(l.a).times(-1),
            O::MulLo => self.product(Class::W32, l.a, l.b, signed),
            O::MadLo => self.product(Class::W32, l.a, l.b, signed).plus(of(l.c), 1),
            O::And => self.bitwise(Class::W32, l.a, l.b, true),
            O::Or | O::Xor => self.bitwise(Class::W32, l.a, l.b, false),
            O::Shl if self.constant(Class::W32, l.b).is_some_and(|n| n < 24) => {
                of(l.a).times(1 << self.constant(Class::W32, l.b).unwrap_or(0))
            }
            O::ShrU | O::ShrS => return self.right(Class::W32, l.a, l.b, l.op == O::ShrS),
            _ => self.plain(l, l.op.signature().sources),
        };
        (shape, Proof::None)
    }

    /// A 32-bit operand made wider, times a constant.
    fn widened(&self, a: Slot, factor: i64, signed: bool) -> (Shape, Proof) {
        let shape = self.of(Class::W32, a);
        let proof = match shape.step() {
            Some(0) | None => Proof::None,
            Some(_) => Proof::Counts { slot: a, signed },
        };
        (shape.times(factor), proof)
    }

    fn int64(&self, l: &Lanes<Int64>) -> (Shape, Proof) {
        use Int64 as O;
        let of = |s| self.of(Class::W64, s);
        let narrow = |s| self.constant(Class::W32, s);
        let shape = match l.op {
            O::Mov => of(l.a),
            O::Add => of(l.a).plus(of(l.b), 1),
            O::Sub => of(l.a).plus(of(l.b), -1),
            O::Neg => of(l.a).times(-1),
            O::MulLo => self.product(Class::W64, l.a, l.b, |c| c as i64),
            O::MadLo => self.product(Class::W64, l.a, l.b, |c| c as i64).plus(of(l.c), 1),
            O::And => self.bitwise(Class::W64, l.a, l.b, true),
            O::Or | O::Xor => self.bitwise(Class::W64, l.a, l.b, false),
            O::Shl if narrow(l.b).is_some_and(|n| n < 24) => {
                of(l.a).times(1 << narrow(l.b).unwrap_or(0))
            }
            O::ShrU | O::ShrS => return self.right(Class::W64, l.a, l.b, l.op == O::ShrS),
            O::Low32 => of(l.a),
            O::Zext32 => return self.widened(l.a, 1, false),
            O::Sext32 => return self.widened(l.a, 1, true),
            O::MulWideU | O::MulWideS | O::MadWideU | O::MadWideS => {
                let signed = matches!(l.op, O::MulWideS | O::MadWideS);
                let number = |c: u64| if signed { i64::from(c as i32) } else { c as i64 };
                let (shape, proof) = match (narrow(l.a), narrow(l.b)) {
                    (_, Some(c)) => self.widened(l.a, number(c), signed),
                    (Some(c), _) => self.widened(l.b, number(c), signed),
                    _ if self.all_uniform(&[Class::W32, Class::W32], [l.a, l.b, NONE]) => {
                        (UNIFORM, Proof::None)
                    }
                    _ => (Shape::Varying, Proof::None),
                };
                if matches!(l.op, O::MulWideU | O::MulWideS) {
                    return (shape, proof);
                }
                return (shape.plus(of(l.c), 1), proof);
            }
            _ => self.plain(l, l.op.signature().sources),
        };
        (shape, Proof::None)
    }

    /// A comparison before it is combined with another predicate.
    fn comparison(&self, op: Compare, a: Slot, b: Slot) -> (Shape, Proof) {
        use Compare as C;
        let class = op.class();
        let (x, y) = (self.of(class, a), self.of(class, b));
        if x.is_uniform() && y.is_uniform() {
            return (UNIFORM, Proof::None);
        }
        let signed = match op {
            C::LtU32 | C::LeU32 | C::GtU32 | C::GeU32 => false,
            C::LtU64 | C::LeU64 | C::GtU64 | C::GeU64 => false,
            C::LtS32 | C::LeS32 | C::GtS32 | C::GeS32 => true,
            C::LtS64 | C::LeS64 | C::GtS64 | C::GeS64 => true,
            _ => return (Shape::Varying, Proof::None),
        };
        match (x.step(), y.step()) {
            (Some(_), Some(0)) => (UNIFORM, Proof::Agrees { slot: a, signed }),
            (Some(0), Some(_)) => (UNIFORM, Proof::Agrees { slot: b, signed }),
            _ => (Shape::Varying, Proof::None),
        }
    }

    /// The shape of an instruction's results, guard aside, and what has to be found out for it.
    pub(super) fn outcome(&self, op: &Op) -> (Shape, Proof) {
        let uniform = |yes: bool| (if yes { UNIFORM } else { Shape::Varying }, Proof::None);
        let pred = |s: Slot| self.of(Class::Pred, s);
        match op {
            Op::Int32(l) => self.int32(l),
            Op::Int64(l) => self.int64(l),
            Op::Float32(l) => (self.plain(l, l.op.signature().sources), Proof::None),
            Op::Float64(l) => (self.plain(l, l.op.signature().sources), Proof::None),
            Op::Half(l) => (self.plain(l, l.op.signature().sources), Proof::None),
            Op::Convert(l) => (self.plain(l, l.op.signature().sources), Proof::None),
            Op::Compare { op, a, b, c, combine, .. } => {
                if *combine != Combine::None && !pred(*c).is_uniform() {
                    return uniform(false);
                }
                self.comparison(*op, *a, *b)
            }
            Op::Select32 { a, b, p, .. } if pred(*p).is_uniform() => {
                (self.of(Class::W32, *a).join(self.of(Class::W32, *b)), Proof::None)
            }
            Op::Select64 { a, b, p, .. } if pred(*p).is_uniform() => {
                (self.of(Class::W64, *a).join(self.of(Class::W64, *b)), Proof::None)
            }
            Op::Logic { a, b, .. } => uniform(pred(*a).is_uniform() && pred(*b).is_uniform()),
            Op::Special { which, .. } => {
                let counting = Shape::Step { step: 1, align: LOG2 as u8 };
                match which {
                    Special::Tid(n) if n % 3 == 0 => (counting, Proof::None),
                    Special::Laneid => (counting, Proof::None),
                    Special::Tid(_) => uniform(true),
                    which => uniform(super::special::index(*which).is_some()),
                }
            }
            Op::FrameAddress { .. } | Op::Param { .. } => uniform(true),
            Op::Load(t) => {
                let class = if t.memory.wide { Class::W64 } else { Class::W32 };
                uniform(
                    !matches!(t.memory.target, Target::Frame | Target::Space(Space::Local))
                        && self.of(class, t.memory.base).is_uniform(),
                )
            }
            _ => uniform(false),
        }
    }

    /// Goes past an instruction.
    pub(super) fn step(&mut self, inst: &Inst) {
        let Some((_, writes)) = effects(inst) else {
            self.shapes.fill(Shape::Varying);
            return;
        };
        let shape = if is_compiled(inst) { self.outcome(&inst.op).0 } else { Shape::Varying };
        for place in writes {
            let after = if inst.guard.is_always() {
                shape
            } else {
                self.guarded(inst.guard.parts().0, place, shape)
            };
            self.set(place, after);
        }
    }

    /// The shape of a result that only the lanes get for which the guard holds.
    pub(super) fn guarded(&self, guard: Slot, place: Place, new: Shape) -> Shape {
        if self.of(Class::Pred, guard).is_uniform() {
            self.of(place.0, place.1).join(new)
        } else {
            Shape::Varying
        }
    }
}

/// The shapes where the pieces of a function's code begin.
pub(super) struct Shapes {
    starts: BTreeMap<u32, Vec<Shape>>,
}

impl Shapes {
    /// Solves it for `code[first..end]`; `targets` gives a branch table's. `None` when the function is too large.
    pub(super) fn solve<'t>(
        code: &[Inst],
        (first, end): (u32, u32),
        state: &mut State<'_>,
        targets: impl Fn(u32) -> &'t [u32],
    ) -> Option<Self> {
        let mut leaders = vec![first];
        for pc in first..end {
            match code[pc as usize].op {
                Op::Branch { to } => leaders.extend([to, pc + 1]),
                Op::BranchTable { table, .. } => {
                    leaders.extend(targets(table).iter().copied().chain([pc + 1]));
                }
                Op::Exit | Op::Return => leaders.push(pc + 1),
                _ if !is_compiled(&code[pc as usize]) => leaders.push(pc + 1),
                _ => {}
            }
        }
        leaders.retain(|pc| (first..end).contains(pc));
        leaders.sort_unstable();
        leaders.dedup();
        if leaders.len().saturating_mul(state.slots.total()) > MOST_STATE {
            return None;
        }
        let mut starts = BTreeMap::new();
        starts.insert(first, vec![Shape::Varying; state.slots.total()]);
        let mut todo = std::collections::BTreeSet::from([first]);
        let mut visits = leaders.len().saturating_mul(MOST_VISITS);
        while let Some(start) = todo.pop_first() {
            visits = visits.checked_sub(1)?;
            state.shapes.clone_from(starts.get(&start)?);
            let mut pc = start;
            loop {
                let inst = &code[pc as usize];
                state.step(inst);
                let always = inst.guard.is_always();
                let mut next = vec![];
                let mut ends = false;
                match inst.op {
                    Op::Branch { to } => {
                        next.push(to);
                        ends = always;
                    }
                    Op::BranchTable { table, .. } => {
                        next.extend_from_slice(targets(table));
                        ends = always;
                    }
                    Op::Exit | Op::Return => ends = always,
                    _ => {}
                }
                pc += 1;
                let met = leaders.binary_search(&pc).is_ok();
                if !ends && met {
                    next.push(pc);
                }
                for to in next.into_iter().filter(|to| (first..end).contains(to)) {
                    let known = starts.entry(to).or_insert_with(|| {
                        todo.insert(to);
                        state.shapes.clone()
                    });
                    let mut changed = false;
                    for (k, s) in known.iter_mut().zip(&state.shapes) {
                        let joined = k.join(*s);
                        changed |= joined != *k;
                        *k = joined;
                    }
                    if changed {
                        todo.insert(to);
                    }
                }
                if ends || met || pc >= end {
                    break;
                }
            }
        }
        Some(Self { starts })
    }

    /// The shapes where straight code begins; `None` where nothing leads.
    pub(super) fn at(&self, pc: u32) -> Option<&[Shape]> {
        self.starts.get(&pc).map(Vec::as_slice)
    }
}
