//! Which slots still matter where: backward data flow over one function's code, for a single thread.

use std::collections::BTreeMap;

use crate::ir::{CONSTANT, Inst, NONE, Op, Slot};
use crate::ops::Class;
use crate::ops::compare::Compare;

/// Passes over a function's code: one more than its loops nest, and then some.
const MOST_PASSES: usize = 40;

/// A slot of a class.
pub(super) type Place = (Class, Slot);

/// A set of slots of one function: 32-bit slots first, then 64-bit ones, then predicates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Set(Vec<u64>);

/// How many slots of each class a function has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) slots32: u32,
    pub(super) slots64: u32,
    pub(super) preds: u32,
}

impl Shape {
    /// Number of a slot; `None` when the function has no such slot.
    pub(super) fn number(self, (class, slot): Place) -> Option<usize> {
        let (base, count) = match class {
            Class::W32 => (0, self.slots32),
            Class::W64 => (self.slots32, self.slots64),
            Class::Pred => (self.slots32 + self.slots64, self.preds),
        };
        (u32::from(slot) < count).then_some((base + u32::from(slot)) as usize)
    }

    /// The slot with a number.
    pub(super) fn place(self, number: usize) -> Place {
        let n = number as u32;
        if n < self.slots32 {
            (Class::W32, n as Slot)
        } else if n < self.slots32 + self.slots64 {
            (Class::W64, (n - self.slots32) as Slot)
        } else {
            (Class::Pred, (n - self.slots32 - self.slots64) as Slot)
        }
    }

    /// Slots in all.
    pub(super) fn total(self) -> usize {
        (self.slots32 + self.slots64 + self.preds) as usize
    }
}

impl Set {
    pub(super) fn empty(shape: Shape) -> Self {
        Self(vec![0; shape.total().div_ceil(64)])
    }

    pub(super) fn insert(&mut self, n: usize) {
        self.0[n / 64] |= 1 << (n % 64);
    }

    pub(super) fn remove(&mut self, n: usize) {
        self.0[n / 64] &= !(1 << (n % 64));
    }

    pub(super) fn contains(&self, n: usize) -> bool {
        self.0[n / 64] >> (n % 64) & 1 != 0
    }

    /// Adds another's members; whether anything was new.
    pub(super) fn unite(&mut self, other: &Self) -> bool {
        let mut grew = false;
        for (a, b) in self.0.iter_mut().zip(&other.0) {
            grew |= *b & !*a != 0;
            *a |= b;
        }
        grew
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().enumerate().flat_map(|(w, &bits)| {
            (0..64).filter(move |b| bits >> b & 1 != 0).map(move |b| w * 64 + b)
        })
    }
}

/// Whether compiled code executes an instruction; the interpreter executes the others.
pub(super) fn is_compiled(inst: &Inst) -> bool {
    match &inst.op {
        Op::Int32(_)
        | Op::Int64(_)
        | Op::Float32(_)
        | Op::Float64(_)
        | Op::Half(_)
        | Op::Convert(_)
        | Op::Compare { .. }
        | Op::Select32 { .. }
        | Op::Select64 { .. }
        | Op::Logic { .. }
        | Op::FrameAddress { .. }
        | Op::Param { .. }
        | Op::Store(_)
        | Op::Branch { .. }
        | Op::Exit
        | Op::Return
        | Op::Nop => true,
        Op::Special { which, .. } => super::special::is_fixed(*which),
        Op::Load(t) => !t.polls,
        _ => false,
    }
}

/// Reads and writes of an instruction. `None` where they are not known: it may read and write anything.
pub(super) fn effects(inst: &Inst) -> Option<(Vec<Place>, Vec<Place>)> {
    use Class::{Pred, W32, W64};
    let (mut reads, mut writes): (Vec<Place>, Vec<Place>) = (Vec::new(), Vec::new());
    let constant = |slot: Slot| slot & CONSTANT != 0 || slot == NONE;
    let mut read = |class: Class, slot: Slot| {
        if !constant(slot) {
            reads.push((class, slot));
        }
    };
    macro_rules! lanes {
        ($l:expr) => {{
            let signature = $l.op.signature();
            for (&class, slot) in signature.sources.iter().zip([$l.a, $l.b, $l.c]) {
                read(class, slot);
            }
            writes.push((signature.result, $l.d));
        }};
    }
    let memory = |read: &mut dyn FnMut(Class, Slot), m: &crate::ir::Memory| {
        if m.target != crate::ir::Target::Frame {
            read(if m.wide { W64 } else { W32 }, m.base);
        }
    };
    match &inst.op {
        Op::Int32(l) => lanes!(l),
        Op::Int64(l) => lanes!(l),
        Op::Float32(l) => lanes!(l),
        Op::Float64(l) => lanes!(l),
        Op::Half(l) => lanes!(l),
        Op::Convert(l) => lanes!(l),
        Op::Compare { op, d, not_d, a, b, c, combine, .. } => {
            let class = Compare::class(*op);
            read(class, *a);
            read(class, *b);
            if *combine != crate::ir::Combine::None {
                read(Pred, *c);
            }
            writes.extend([*d, *not_d].into_iter().filter(|&s| s != NONE).map(|s| (Pred, s)));
        }
        Op::Select32 { d, a, b, p } => {
            read(W32, *a);
            read(W32, *b);
            read(Pred, *p);
            writes.push((W32, *d));
        }
        Op::Select64 { d, a, b, p } => {
            read(W64, *a);
            read(W64, *b);
            read(Pred, *p);
            writes.push((W64, *d));
        }
        Op::Logic { d, a, b, .. } => {
            read(Pred, *a);
            read(Pred, *b);
            writes.push((Pred, *d));
        }
        Op::Special { which, d } => {
            writes.push((super::special::class(*which), *d));
        }
        Op::FrameAddress { d, .. } => writes.push((W64, *d)),
        Op::Param { value, slots, count, .. } => {
            let class = if value.is_wide() { W64 } else { W32 };
            let taken = slots.iter().take(usize::from(*count)).filter(|&&s| s != NONE);
            writes.extend(taken.map(|&s| (class, s)));
        }
        Op::Load(t) => {
            memory(&mut read, &t.memory);
            let class = if t.value.is_wide() { W64 } else { W32 };
            let taken = t.slots.iter().take(usize::from(t.count)).filter(|&&s| s != NONE);
            writes.extend(taken.map(|&s| (class, s)));
        }
        Op::Store(t) => {
            memory(&mut read, &t.memory);
            let class = if t.value.is_wide() { W64 } else { W32 };
            for &s in t.slots.iter().take(usize::from(t.count)) {
                read(class, s);
            }
        }
        Op::Branch { .. } | Op::Exit | Op::Return | Op::Nop | Op::Fence | Op::Pause => {}
        Op::Shuffle { d, p, a, b, c, members, .. } => {
            [*a, *b, *c, *members].into_iter().for_each(|s| read(W32, s));
            writes.extend([(W32, *d), (Pred, *p)].into_iter().filter(|w| w.1 != NONE));
        }
        Op::Vote { mode, d, a, members, .. } => {
            read(Pred, *a);
            read(W32, *members);
            writes.push((if *mode == crate::ir::Vote::Ballot { W32 } else { Pred }, *d));
        }
        Op::Redux { d, a, members, .. } => {
            read(W32, *a);
            read(W32, *members);
            writes.push((W32, *d));
        }
        Op::WarpSync { members } => read(W32, *members),
        Op::ActiveMask { d } => writes.push((W32, *d)),
        Op::Barrier { kind, id, count, d, p, .. } => {
            use crate::ir::Barrier;
            read(W32, *id);
            read(W32, *count);
            read(Pred, *p);
            if *d != NONE {
                writes.push((if *kind == Barrier::Popc { W32 } else { Pred }, *d));
            }
        }
        Op::Atomic(a) => {
            memory(&mut read, &a.memory);
            let class = if a.width == 8 { W64 } else { W32 };
            read(class, a.b);
            read(class, a.c);
            if a.d != NONE {
                writes.push((class, a.d));
            }
        }
        Op::AsyncCopy { dest, source, size, .. } => {
            memory(&mut read, dest);
            read(W64, *source);
            read(W32, *size);
        }
        _ => return None,
    }
    if !inst.guard.is_always() {
        reads.push((Pred, inst.guard.parts().0));
        // A lane that the guard leaves out keeps the old value.
        reads.extend(writes.iter().copied());
    }
    Some((reads, writes))
}

/// What is live where the pieces of a function's code begin.
#[derive(Debug)]
pub(super) struct Liveness {
    /// Live slots before each instruction that begins a run of straight code.
    starts: BTreeMap<u32, Set>,
}

impl Liveness {
    /// Solves it for `code[first..end]`. An instruction whose reads are not known makes everything live before it.
    /// `None` when it takes more passes than any program of a compiler's needs.
    pub(super) fn solve(code: &[Inst], first: u32, end: u32, shape: Shape) -> Option<Self> {
        let mut leaders: Vec<u32> = vec![first];
        for pc in first..end {
            if let Op::Branch { to } = code[pc as usize].op {
                leaders.extend([to, pc + 1]);
            } else if !is_compiled(&code[pc as usize]) {
                leaders.extend([pc, pc + 1]);
            }
        }
        leaders.retain(|&pc| (first..end).contains(&pc));
        leaders.sort_unstable();
        leaders.dedup();
        let mut starts: BTreeMap<u32, Set> =
            leaders.iter().map(|&pc| (pc, Set::empty(shape))).collect();
        let mut all = Set::empty(shape);
        (0..shape.total()).for_each(|n| all.insert(n));
        // Backward until nothing changes; sets only grow, so it ends.
        for _ in 0..MOST_PASSES {
            let mut changed = false;
            for (i, &pc) in leaders.iter().enumerate().rev() {
                let stop = leaders.get(i + 1).copied().unwrap_or(end);
                let live = Self::through(code, pc, stop, &starts, shape, &all);
                if let Some(known) = starts.get_mut(&pc) {
                    changed |= known.unite(&live);
                }
            }
            if !changed {
                return Some(Self { starts });
            }
        }
        None
    }

    /// What is live at `pc`, given what is live where straight code begins; `stop` is the next such place.
    fn through(
        code: &[Inst],
        pc: u32,
        stop: u32,
        starts: &BTreeMap<u32, Set>,
        shape: Shape,
        all: &Set,
    ) -> Set {
        let mut live = starts.get(&stop).cloned().unwrap_or_else(|| Set::empty(shape));
        for at in (pc..stop).rev() {
            let inst = &code[at as usize];
            match inst.op {
                Op::Branch { to } => {
                    if inst.guard.is_always() {
                        live = Set::empty(shape);
                    }
                    if let Some(target) = starts.get(&to) {
                        live.unite(target);
                    }
                }
                Op::Exit | Op::Return if inst.guard.is_always() => live = Set::empty(shape),
                _ => {}
            }
            match effects(inst) {
                Some((reads, writes)) => {
                    writes.iter().filter_map(|&p| shape.number(p)).for_each(|n| live.remove(n));
                    reads.iter().filter_map(|&p| shape.number(p)).for_each(|n| live.insert(n));
                }
                None => live = all.clone(),
            }
        }
        live
    }

    /// What is live before the instruction at `pc`.
    pub(super) fn at(&self, code: &[Inst], pc: u32, end: u32, shape: Shape) -> Set {
        if let Some(set) = self.starts.get(&pc) {
            return set.clone();
        }
        let stop = self.starts.range(pc..).next().map_or(end, |(&s, _)| s);
        let mut all = Set::empty(shape);
        (0..shape.total()).for_each(|n| all.insert(n));
        Self::through(code, pc, stop, &self.starts, shape, &all)
    }
}
