//! What a register may hold at a place: written values are followed back through the code, joined
//! where ways meet, and cut down by the branches that must have been taken.
//!
//! A source ([`Src`]) is one write of a register, or the meeting of several at the head of a block.
//! Why facts may be used where they are: a source that can be read at a place dominates it, so the
//! latest run of that write is the one whose value the place sees; and a branch edge that dominates
//! the place was taken after that run (else there would be a way to the place around the edge).
//! What comes over an edge into a meeting is evaluated at that edge only.
//!
//! Depth and work are bounded. Whatever is beyond the bounds is [`Value::Any`], never wrong.

use crate::hash::HashMap;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::Reason;
use super::facts::{Fact, Facts};
use super::flow::{Code, NONE};
use super::launch::Launch;
use super::number::{Region, Value};
use super::transfer::transfer;
use crate::tree::{Mod, Op, Operand, Special};

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Src {
    /// A number.
    Int(i64),
    /// A special register that does not change while a thread runs.
    Special(Special),
    /// What an instruction writes to a register.
    Write(u32, u32),
    /// What meets at the head of a block in a register.
    Meet(u32, u32),
    /// Anything: not written on some way here, or not understood.
    Unknown,
}

/// Deepest chain of sources followed for one question.
const DEPTH: u32 = 40;
/// Longest chain of copies, and of meetings, seen as one source.
const COPIES: u32 = 16;
const MEETINGS: u32 = 24;
/// Most meetings solved together.
const MOST_MEETINGS: usize = 96;
/// Rounds before the bounds that still move are given up, and rounds in all.
const EXACT_ROUNDS: u32 = 3;
const ROUNDS: u32 = 32;
/// Refining rounds after a solution is found.
const REFINING: u32 = 2;
/// Steps of evaluation for a function, and for each of its instructions.
const WORK: u64 = 100_000;
const WORK_EACH: u64 = 40;
/// Most steps for one question.
const QUESTION: u64 = 10_000;
/// Steps for a question that is asked again when those or the function's were used up: enough for any
/// sequence of the guard's, which needs no facts and no meetings.
const RESERVE: u64 = 2_000;

/// The evaluator of one function.
pub(super) struct Eval<'c, 'm> {
    pub(super) code: &'c Code<'m>,
    pub(super) launch: &'c Launch,
    /// Register at the head of a block to its source.
    heads: RefCell<HashMap<(u32, u32), Src>>,
    /// Meetings found to be the same as another source; themselves, when they are not.
    same: RefCell<HashMap<Src, Src>>,
    solved: RefCell<HashMap<Src, Value>>,
    solving: RefCell<Option<System>>,
    /// Facts on an edge.
    pub(super) on_edges: RefCell<HashMap<u32, Rc<Facts>>>,
    /// Facts at the head of a block.
    pub(super) facts: RefCell<HashMap<u32, Rc<Facts>>>,
    /// Most rounds of the loop at a head, after the first.
    pub(super) rounds: RefCell<HashMap<u32, Option<i64>>>,
    /// Steps left for the function, and for the question at hand.
    work: Cell<u64>,
    question: Cell<u64>,
    /// The question was too much; asked again, it is answered without facts and meetings.
    spent: Cell<bool>,
}

/// Meetings that depend on each other, while they are being solved.
#[derive(Default)]
struct System {
    order: Vec<Src>,
    values: HashMap<Src, Value>,
    /// No further meeting may join: the solution is being refined.
    closed: bool,
}

/// The facts that hold at a place and what has been evaluated there.
pub(super) struct Place {
    pub(super) facts: Rc<Facts>,
    memo: RefCell<HashMap<Src, Value>>,
    /// Sources whose facts are being applied.
    pub(super) active: RefCell<Vec<Src>>,
}

impl Place {
    pub(super) fn new(facts: Rc<Facts>) -> Self {
        Self { facts, memo: RefCell::default(), active: RefCell::default() }
    }
}

impl<'c, 'm> Eval<'c, 'm> {
    pub(super) fn new(code: &'c Code<'m>, launch: &'c Launch) -> Self {
        Self {
            code,
            launch,
            heads: RefCell::default(),
            same: RefCell::default(),
            solved: RefCell::default(),
            solving: RefCell::default(),
            facts: RefCell::default(),
            on_edges: RefCell::default(),
            rounds: RefCell::default(),
            question: Cell::new(QUESTION),
            spent: Cell::new(false),
            work: Cell::new(WORK_EACH * code.instructions.len() as u64 + WORK),
        }
    }

    /// Takes from the budget; false when it is used up.
    pub(super) fn spend(&self) -> bool {
        let left = self.question.get();
        self.question.set(left.saturating_sub(1));
        if left == 0 {
            self.spent.set(true);
        }
        left > 0
    }

    /// Asks about an instruction: `check` runs once with all that is known there and, when that takes too
    /// long to find out, once more with what the instruction's own operands say.
    pub(super) fn ask(&self, check: impl Fn() -> Result<(), Reason>) -> Result<(), Reason> {
        let allowed = QUESTION.min(self.work.get());
        self.spent.set(allowed == 0);
        if allowed > 0 {
            self.question.set(allowed);
            let answer = check();
            let used = allowed - self.question.get();
            self.work.set(self.work.get() - used);
            if answer.is_ok() || !self.spent.get() {
                return answer;
            }
        }
        self.question.set(RESERVE);
        check()
    }

    /// True when facts and meetings are no longer looked at.
    pub(super) fn is_spent(&self) -> bool {
        self.spent.get()
    }

    /// The place of an instruction: what holds at the head of its block, and its own predicate.
    pub(super) fn place(&self, index: u32) -> Place {
        if self.is_spent() {
            return Place::new(Rc::default());
        }
        let mut facts = self.block_facts(self.code.block_of[index as usize]);
        if let Some(guard) = &self.code.instructions[index as usize].guard {
            let mut own = Vec::new();
            let predicate = self.register(self.code.register(&guard.reg), index);
            self.conditions(predicate, !guard.negated, &mut own, 0);
            facts = facts.and(own);
        }
        Place::new(facts)
    }

    /// The source of an operand read by instruction `at`.
    pub(super) fn operand(&self, operand: &Operand, at: u32) -> Src {
        match operand {
            Operand::Reg(name) => self.register(self.code.register(name), at),
            Operand::Int(value) => Src::Int(*value),
            Operand::Special(special) if Launch::is_constant(*special) => Src::Special(*special),
            _ => Src::Unknown,
        }
    }

    /// The source of a register read by instruction `at`.
    pub(super) fn register(&self, register: u32, at: u32) -> Src {
        if register == NONE {
            return Src::Unknown;
        }
        // Most registers are written once, ahead of every use.
        if let [only] = self.code.writes[register as usize].as_slice()
            && self.code.precedes(*only, at)
        {
            return self.write(register, *only);
        }
        self.before(register, self.code.block_of[at as usize], at, 0)
    }

    /// The source of a register at the end of a block.
    pub(super) fn at_end(&self, register: u32, block: u32, depth: u32) -> Src {
        self.before(register, block, self.code.blocks[block as usize].end, depth)
    }

    /// The source of a register just before instruction `limit` of a block.
    fn before(&self, register: u32, block: u32, limit: u32, depth: u32) -> Src {
        let writes = &self.code.writes[register as usize];
        let (mut block, mut limit) = (block, limit);
        let mut passed = Vec::new();
        let found = loop {
            let basic = &self.code.blocks[block as usize];
            let index = writes.partition_point(|write| *write < limit);
            if let Some(last) = index.checked_sub(1).map(|index| writes[index])
                && last >= basic.start
            {
                break self.write(register, last);
            }
            if let Some(src) = self.heads.borrow().get(&(block, register)) {
                break *src;
            }
            passed.push(block);
            // The entry may be the target of a loop as well; before it, nothing is written.
            if block == 0 || !self.spend() {
                break Src::Unknown;
            }
            match basic.into.as_slice() {
                [edge] => {
                    block = self.code.edges[*edge as usize].from;
                    limit = self.code.blocks[block as usize].end;
                }
                _ => break Src::Meet(block, register),
            }
        };
        let mut heads = self.heads.borrow_mut();
        for block in passed {
            heads.insert((block, register), found);
        }
        drop(heads);
        self.canonical(found, depth)
    }

    /// The source that a write makes: what it copies, when it is a plain copy of the same width.
    fn write(&self, register: u32, index: u32) -> Src {
        let (mut register, mut index) = (register, index);
        for _ in 0..COPIES {
            let i = self.code.instructions[index as usize];
            let here = Src::Write(index, register);
            let (Some(Op::Mov), None, [Mod::Type(ty)]) = (i.op(), &i.guard, i.mods.as_slice())
            else {
                return here;
            };
            let width = self.code.widths[register as usize];
            if ty.bits() != width || !matches!(i.operands.first(), Some(Operand::Reg(_))) {
                return here;
            }
            match i.operands.get(1) {
                Some(Operand::Int(value)) => return Src::Int(*value),
                Some(Operand::Special(special))
                    if Launch::is_constant(*special) && special.scalar_type().bits() == width =>
                {
                    return Src::Special(*special);
                }
                Some(Operand::Reg(name)) => {
                    let from = self.code.register(name);
                    if from == NONE || self.code.widths[from as usize] != width {
                        return here;
                    }
                    let [only] = self.code.writes[from as usize].as_slice() else { return here };
                    if !self.code.precedes(*only, index) {
                        return here;
                    }
                    (register, index) = (from, *only);
                }
                _ => return here,
            }
        }
        Src::Write(index, register)
    }

    /// Follows a meeting to the one source that all its ways agree on, if they do.
    fn canonical(&self, src: Src, depth: u32) -> Src {
        let Src::Meet(block, register) = src else { return src };
        let mut at = src;
        while let Some(next) = self.same.borrow().get(&at).copied().filter(|next| *next != at) {
            at = next;
        }
        if at != src || depth > MEETINGS || self.same.borrow().contains_key(&src) {
            return at;
        }
        // While this one is open it stands for itself; what turns out equal to it stays equal.
        self.same.borrow_mut().insert(src, src);
        let mut agreed = None;
        for edge in &self.code.blocks[block as usize].into {
            let from = self.code.edges[*edge as usize].from;
            if !self.code.reachable(from) {
                continue;
            }
            let operand = self.at_end(register, from, depth + 1);
            match agreed {
                _ if operand == src => {}
                // Never written on some way: ptxas may give each use another register, so that
                // not even comparing it with itself says anything.
                _ if operand == Src::Unknown => {
                    agreed = Some(Src::Unknown);
                    break;
                }
                None => agreed = Some(operand),
                Some(other) if other == operand => {}
                Some(_) => agreed = Some(src),
            }
        }
        let result = agreed.unwrap_or(Src::Unknown);
        self.same.borrow_mut().insert(src, result);
        result
    }

    /// The value of an operand that instruction `at` reads, `width` bits of it, seen from a place
    /// that `at` dominates (or is).
    pub(super) fn value_of(
        &self,
        operand: &Operand,
        width: u32,
        at: u32,
        place: &Place,
        depth: u32,
    ) -> Value {
        match operand {
            Operand::Symbol(name, offset) => match self.code.object_of.get(&**name) {
                Some(object) => Value::object(Region::Object(*object), *offset),
                None => Value::Any,
            },
            Operand::Special(special) => self.launch.special(*special),
            Operand::Reg(name) => {
                let register = self.code.register(name);
                if register == NONE || self.code.widths[register as usize] != width {
                    return Value::Any;
                }
                self.value(self.register(register, at), place, depth)
            }
            other => self.value(self.operand(other, at), place, depth),
        }
    }

    /// The value of a source at a place.
    pub(super) fn value(&self, src: Src, place: &Place, depth: u32) -> Value {
        let plain = match src {
            Src::Int(value) => return Value::range(value, value),
            Src::Unknown => return Value::Any,
            _ if depth > DEPTH || !self.spend() => return Value::Any,
            Src::Special(special) => self.launch.special(special),
            Src::Write(..) | Src::Meet(..) => {
                if let Some(value) = place.memo.borrow().get(&src) {
                    return value.clone();
                }
                match src {
                    Src::Write(index, register) => self.written(index, register, place, depth + 1),
                    _ => self.meeting(src),
                }
            }
        };
        let value = self.apply(src, plain, place, depth + 1);
        if place.active.borrow().is_empty() {
            place.memo.borrow_mut().insert(src, value.clone());
        }
        value
    }

    /// What an instruction leaves in a register that it writes.
    fn written(&self, index: u32, register: u32, place: &Place, depth: u32) -> Value {
        let new = transfer(self, index, register, place, depth);
        if self.code.instructions[index as usize].guard.is_none() {
            return new;
        }
        // It may not have run: then the register holds what it held before. That is older than
        // what the place's facts speak of, so it is seen from the head of the write's own block.
        let block = self.code.block_of[index as usize];
        let old = self.before(register, block, index, 0);
        let there = Place::new(self.block_facts(block));
        new.join(self.value(old, &there, depth + 8))
    }

    /// The value of a meeting from all its edges, wherever it is read.
    fn meeting(&self, src: Src) -> Value {
        if let Some(value) = self.solved.borrow().get(&src) {
            return value.clone();
        }
        if self.is_spent() {
            return Value::Any;
        }
        if let Some(system) = self.solving.borrow_mut().as_mut() {
            if let Some(value) = system.values.get(&src) {
                return value.clone();
            }
            if system.closed || system.order.len() >= MOST_MEETINGS {
                return Value::Any;
            }
            // Found on the way: it joins the system that is being solved.
            system.order.push(src);
            system.values.insert(src, Value::Never);
            return Value::Never;
        }
        let values = HashMap::from_iter([(src, Value::Never)]);
        *self.solving.borrow_mut() = Some(System { order: vec![src], values, closed: false });
        let found = self.solve();
        let value = found.get(&src).cloned().unwrap_or(Value::Any);
        self.solved.borrow_mut().extend(found);
        value
    }

    /// True while values may still be too small.
    pub(super) fn is_solving(&self) -> bool {
        self.solving.borrow().as_ref().is_some_and(|system| !system.closed)
    }

    /// Solves the open system: values that agree with each other, from below, with bounds given up
    /// where they keep moving; then refined. Taken away, all are unknown.
    fn solve(&self) -> HashMap<Src, Value> {
        let mut stable = false;
        for round in 0..ROUNDS {
            let (changed, members) = self.round(round >= EXACT_ROUNDS, false);
            let now = self.solving.borrow().as_ref().map_or(0, |system| system.order.len());
            if !changed && members == now {
                stable = true;
                break;
            }
        }
        if stable {
            if let Some(system) = self.solving.borrow_mut().as_mut() {
                system.closed = true;
            }
            for _ in 0..REFINING {
                self.round(false, true);
            }
        }
        let values = self.solving.borrow_mut().take().unwrap_or_default().values;
        if stable { values } else { values.into_keys().map(|src| (src, Value::Any)).collect() }
    }

    /// Evaluates each member once. Returns whether any changed, and how many there were.
    fn round(&self, widen: bool, refine: bool) -> (bool, usize) {
        let members =
            self.solving.borrow().as_ref().map_or_else(Vec::new, |system| system.order.clone());
        let mut changed = false;
        for member in &members {
            let new = self.over_edges(*member);
            let mut solving = self.solving.borrow_mut();
            let Some(old) = solving.as_mut().and_then(|s| s.values.get_mut(member)) else {
                continue;
            };
            if refine {
                *old = new;
                continue;
            }
            let joined = old.clone().join(new);
            if joined != *old {
                changed = true;
                *old = if widen { old.clone().widen(joined) } else { joined };
            }
        }
        (changed, members.len())
    }

    /// The join of what comes over each edge into a meeting.
    fn over_edges(&self, src: Src) -> Value {
        let Src::Meet(block, register) = src else { return Value::Any };
        if let Some(value) = self.counted(src) {
            return value;
        }
        let mut value = Value::Never;
        for edge in &self.code.blocks[block as usize].into {
            let from = self.code.edges[*edge as usize].from;
            if !self.code.reachable(from) {
                continue;
            }
            if value == Value::Any || !self.spend() {
                return Value::Any;
            }
            let place = Place::new(self.edge_facts(*edge));
            let operand = self.at_end(register, from, 0);
            value = value.join(self.value(operand, &place, 0));
        }
        value
    }

    /// Facts about one source, for [`Self::apply`].
    pub(super) fn facts_of(place: &Place, src: Src) -> impl Iterator<Item = &Fact> {
        place.facts.list.iter().filter(move |fact| fact.side == src)
    }
}
