//! What the branches on the way to a place say about the values there.

use std::rc::Rc;

use super::eval::{Eval, Place, Src};
use super::flow::{NONE, Way};
use super::number::{Alt, Region, Value};
use super::transfer::plain_integer;
use crate::tree::{Flag, Op, Operand, ScalarType};

/// Most facts kept for a place; the nearest ones are kept.
const MOST_FACTS: usize = 48;
/// Deepest tree of conditions looked into.
const DEPTH: u32 = 8;
/// Most constants taken off the side of a comparison.
const SUMS: u32 = 3;
/// How far facts about the other side of a comparison are followed.
const NESTING: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compare {
    Lt,
    Le,
    Gt,
    Ge,
    Eq,
    Ne,
}

impl Compare {
    fn from_flag(flag: Flag) -> Option<(Self, bool)> {
        // The second value: the comparison is unsigned whatever the type.
        Some(match flag {
            Flag::Eq => (Self::Eq, false),
            Flag::Ne => (Self::Ne, false),
            Flag::Lt => (Self::Lt, false),
            Flag::Le => (Self::Le, false),
            Flag::Gt => (Self::Gt, false),
            Flag::Ge => (Self::Ge, false),
            Flag::Lo => (Self::Lt, true),
            Flag::Ls => (Self::Le, true),
            Flag::Hi => (Self::Gt, true),
            Flag::Hs => (Self::Ge, true),
            _ => return None,
        })
    }

    fn not(self) -> Self {
        match self {
            Self::Lt => Self::Ge,
            Self::Le => Self::Gt,
            Self::Gt => Self::Le,
            Self::Ge => Self::Lt,
            Self::Eq => Self::Ne,
            Self::Ne => Self::Eq,
        }
    }

    /// The same seen from the other side.
    fn turned(self) -> Self {
        match self {
            Self::Lt => Self::Gt,
            Self::Le => Self::Ge,
            Self::Gt => Self::Lt,
            Self::Ge => Self::Le,
            other => other,
        }
    }
}

/// `side + shift` compared with `other` is true, as `width`-bit numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fact {
    pub(super) side: Src,
    pub(super) shift: i64,
    compare: Compare,
    pub(super) other: Src,
    pub(super) signed: bool,
    pub(super) width: u32,
}

impl Fact {
    pub(super) fn compare(&self) -> Compare {
        self.compare
    }
}

/// The facts at a place.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) list: Vec<Fact>,
}

impl Facts {
    /// These and more.
    pub(super) fn and(self: &Rc<Self>, more: Vec<Fact>) -> Rc<Self> {
        if more.is_empty() {
            return Rc::clone(self);
        }
        let mut list = more;
        list.extend(self.list.iter().copied());
        list.truncate(MOST_FACTS);
        Rc::new(Self { list })
    }
}

impl Eval<'_, '_> {
    /// The facts at the head of a block.
    pub(super) fn block_facts(&self, block: u32) -> Rc<Facts> {
        // Up the dominator tree to a block whose facts are known, then down again.
        let mut pending = Vec::new();
        let mut at = block;
        let mut facts = loop {
            if let Some(facts) = self.facts.borrow().get(&at) {
                break Rc::clone(facts);
            }
            if at == NONE || !self.code.reachable(at) {
                break Rc::default();
            }
            pending.push(at);
            at = self.code.blocks[at as usize].dominator;
        };
        for block in pending.into_iter().rev() {
            if let Some(edge) = self.only_way(block) {
                facts = facts.and(self.edge_condition(edge));
            }
            self.facts.borrow_mut().insert(block, Rc::clone(&facts));
        }
        facts
    }

    /// The facts on an edge.
    pub(super) fn edge_facts(&self, edge: u32) -> Rc<Facts> {
        if let Some(facts) = self.on_edges.borrow().get(&edge) {
            return Rc::clone(facts);
        }
        let from = self.code.edges[edge as usize].from;
        let facts = self.block_facts(from).and(self.edge_condition(edge));
        self.on_edges.borrow_mut().insert(edge, Rc::clone(&facts));
        facts
    }

    /// The edge that dominates a block, if there is one: all others come from the block itself or
    /// from what it dominates.
    fn only_way(&self, block: u32) -> Option<u32> {
        let mut only = None;
        for edge in &self.code.blocks[block as usize].into {
            let from = self.code.edges[*edge as usize].from;
            if !self.code.reachable(from) || self.code.dominates(block, from) {
                continue;
            }
            if only.replace(*edge).is_some() {
                return None;
            }
        }
        // Its origin must be the dominator, whose facts are built upon.
        only.filter(|edge| {
            self.code.edges[*edge as usize].from == self.code.blocks[block as usize].dominator
        })
    }

    /// What taking this edge says.
    fn edge_condition(&self, edge: u32) -> Vec<Fact> {
        let edge = self.code.edges[edge as usize];
        let mut facts = Vec::new();
        let last = self.code.blocks[edge.from as usize].end - 1;
        let i = self.code.instructions[last as usize];
        // `.uni` says that all threads of a warp agree. Where they do not, one may decide for the others,
        // and the edge says nothing about those.
        if i.has(Flag::Uni) {
            return facts;
        }
        if let (Some(guard), Way::Taken | Way::Skipped) = (&i.guard, edge.way) {
            let predicate = self.register(self.code.register(&guard.reg), last);
            let truth = (edge.way == Way::Taken) != guard.negated;
            self.conditions(predicate, truth, &mut facts, 0);
        }
        facts
    }

    /// What the truth of a predicate says.
    pub(super) fn conditions(&self, predicate: Src, truth: bool, out: &mut Vec<Fact>, depth: u32) {
        let Src::Write(index, register) = predicate else { return };
        if depth > DEPTH || out.len() >= MOST_FACTS || self.is_spent() || !self.spend() {
            return;
        }
        let i = self.code.instructions[index as usize];
        if i.guard.is_some() {
            return;
        }
        match (i.op(), i.ty()) {
            (Some(Op::And), Some(ScalarType::Pred)) if truth => {
                self.operand_conditions(i.operands.get(1), index, true, out, depth);
                self.operand_conditions(i.operands.get(2), index, true, out, depth);
            }
            (Some(Op::Or), Some(ScalarType::Pred)) if !truth => {
                self.operand_conditions(i.operands.get(1), index, false, out, depth);
                self.operand_conditions(i.operands.get(2), index, false, out, depth);
            }
            (Some(Op::Not), Some(ScalarType::Pred)) => {
                self.operand_conditions(i.operands.get(1), index, !truth, out, depth);
            }
            (Some(Op::Setp), Some(ty)) => self.comparison(index, register, ty, truth, out, depth),
            _ => {}
        }
    }

    fn operand_conditions(
        &self,
        operand: Option<&Operand>,
        at: u32,
        truth: bool,
        out: &mut Vec<Fact>,
        depth: u32,
    ) {
        let (name, truth) = match operand {
            Some(Operand::Reg(name)) => (name, truth),
            Some(Operand::NotReg(name)) => (name, !truth),
            _ => return,
        };
        let src = self.register(self.code.register(name), at);
        self.conditions(src, truth, out, depth + 1);
    }

    fn comparison(
        &self,
        index: u32,
        register: u32,
        ty: ScalarType,
        truth: bool,
        out: &mut Vec<Fact>,
        depth: u32,
    ) {
        let i = self.code.instructions[index as usize];
        // `p|q`: q is the opposite of the comparison, before the combination.
        let (first, second) = match &i.operands[0] {
            Operand::Reg(name) => (Some(name), None),
            Operand::Pair(p, q) => (p.as_reg(), q.as_reg()),
            _ => return,
        };
        let is = |name: Option<&crate::tree::Name>| {
            name.is_some_and(|name| self.code.register(name) == register)
        };
        let opposite = match (is(first), is(second)) {
            (true, false) => false,
            (false, true) => true,
            _ => return,
        };
        let holds = match i.flags().find(|f| matches!(f, Flag::And | Flag::Or | Flag::Xor)) {
            None => truth,
            // A conjunction that is true, a disjunction that is false: so is each part.
            Some(Flag::And) if truth => true,
            Some(Flag::Or) if !truth => false,
            Some(_) => return,
        };
        if i.operands.len() > 3 {
            self.operand_conditions(i.operands.get(3), index, holds, out, depth);
        }
        let Some((compare, unsigned)) = i.flags().find_map(Compare::from_flag) else { return };
        let (Some(a), Some(b)) = (i.operands.get(1), i.operands.get(2)) else { return };
        if !plain_integer(ty) || !matches!(ty.bits(), 16 | 32 | 64) || !self.reads(a, b, ty.bits())
        {
            return;
        }
        let compare = if holds != opposite { compare } else { compare.not() };
        let (side, other) = (self.operand(a, index), self.operand(b, index));
        let signed = ty.is_signed() && !unsigned;
        let width = ty.bits();
        for (side, compare, other) in [(side, compare, other), (other, compare.turned(), side)] {
            let (mut side, mut shift) = (side, 0i64);
            // A fact about a sum is one about its variable part as well.
            for _ in 0..SUMS {
                if matches!(side, Src::Unknown | Src::Int(_)) {
                    break;
                }
                out.push(Fact { side, shift, compare, other, signed, width });
                let Some((from, by)) = self.sum(side, width) else { break };
                let Some(sum) = shift.checked_add(by) else { break };
                (side, shift) = (from, sum);
            }
        }
    }

    /// Takes a sum of a register and a constant apart.
    pub(super) fn sum(&self, src: Src, width: u32) -> Option<(Src, i64)> {
        let Src::Write(index, register) = src else { return None };
        let i = self.code.instructions[index as usize];
        let ty = i.ty()?;
        let plain =
            i.guard.is_none() && plain_integer(ty) && i.flags().all(|flag| flag == Flag::Cc);
        let own = self.code.widths[register as usize];
        if !plain || ty.bits() != width || own != width || !self.spend() {
            return None;
        }
        let [Operand::Reg(_), a, b] = i.operands.as_slice() else { return None };
        let (from, by) = match (i.op(), self.operand(a, index), self.operand(b, index)) {
            (Some(Op::Add), from, Src::Int(by)) | (Some(Op::Add), Src::Int(by), from) => (from, by),
            (Some(Op::Sub), from, Src::Int(by)) => (from, by.checked_neg()?),
            _ => return None,
        };
        // The sum is taken modulo the width; the constant is the small number that it means.
        Some((from, Alt::constant(by).signed(width).exact()?))
    }

    /// True when both operands, where they are registers, are of the width compared.
    fn reads(&self, a: &Operand, b: &Operand, width: u32) -> bool {
        [a, b].into_iter().all(|operand| match operand {
            Operand::Reg(name) => {
                let register = self.code.register(name);
                register != NONE && self.code.widths[register as usize] == width
            }
            _ => true,
        })
    }

    /// Cuts a value down to what the facts at the place leave of it.
    pub(super) fn apply(&self, src: Src, value: Value, place: &Place, depth: u32) -> Value {
        if place.active.borrow().len() >= NESTING || place.active.borrow().contains(&src) {
            return value;
        }
        let mut value = value;
        for fact in Self::facts_of(place, src) {
            if value == Value::Never {
                break;
            }
            // Facts speak of numbers; an address keeps what is known of it.
            if value.alts().iter().any(|alt| alt.region != Region::Number) {
                break;
            }
            place.active.borrow_mut().push(src);
            let other = self.value(fact.other, place, depth + 1);
            place.active.borrow_mut().pop();
            value = if fact.shift == 0 {
                cut(&value, fact, &other)
            } else {
                cut_shifted(&value, fact, &other)
            };
        }
        value
    }
}

/// The same for a fact about the value plus a constant, as far as the sum does not wrap.
fn cut_shifted(value: &Value, fact: &Fact, other: &Value) -> Value {
    let Value::Known(alts) = value else { return value.clone() };
    let [alt] = alts.as_slice() else { return value.clone() };
    let Some(sum) = alt.add(Alt::constant(fact.shift)) else { return value.clone() };
    let reading = if fact.signed { sum.signed(fact.width) } else { sum.unsigned(fact.width) };
    if reading != sum || (!fact.signed && sum.lo < 0) {
        return value.clone();
    }
    let back = fact.shift.checked_neg().map(Alt::constant);
    match (cut(&Value::one(sum), fact, other), back) {
        (Value::Never, _) => Value::Never,
        (Value::Known(less), Some(back)) => match less.as_slice() {
            [less] => {
                less.add(back).and_then(|less| alt.meet(less)).map_or(value.clone(), Value::one)
            }
            _ => value.clone(),
        },
        _ => value.clone(),
    }
}

fn cut(value: &Value, fact: &Fact, other: &Value) -> Value {
    let (mine, bound) = if fact.signed {
        (value.signed(fact.width), other.signed(fact.width))
    } else {
        (value.unsigned(fact.width), other.unsigned(fact.width))
    };
    let (Some(mine), Some(bound)) = (mine, bound) else { return Value::Never };
    let unsigned64 = !fact.signed && fact.width == 64;
    if unsigned64 && bound.lo < 0 {
        // The bound may be 2^63 or more, which `Alt` cannot say.
        return value.clone();
    }
    let wide = unsigned64 && mine.lo < 0;
    let (least, most) = if wide { (0, i64::MAX) } else { (mine.lo, mine.hi) };
    let range = match fact.compare {
        Compare::Lt => bound.hi.checked_sub(1).map(|hi| (least, most.min(hi))),
        Compare::Le => Some((least, most.min(bound.hi))),
        Compare::Gt if !wide => bound.lo.checked_add(1).map(|lo| (least.max(lo), most)),
        Compare::Ge if !wide => Some((least.max(bound.lo), most)),
        Compare::Eq => Some((least.max(bound.lo), most.min(bound.hi))),
        Compare::Ne if !wide => match bound.exact() {
            Some(gone) if gone == least => least.checked_add(1).map(|lo| (lo, most)),
            Some(gone) if gone == most => most.checked_sub(1).map(|hi| (least, hi)),
            _ => None,
        },
        _ => None,
    };
    let Some((lo, hi)) = range else { return value.clone() };
    if lo > hi {
        return Value::Never;
    }
    match mine.meet(Alt::range(lo, hi)) {
        Some(alt) => Value::one(alt),
        None => Value::Never,
    }
}
