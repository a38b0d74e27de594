//! Values of expressions, and what a branch taken tells about them.
//!
//! A [`Context`] holds what is known at one place: the conditions of all branches on every way to it.
//! A value is evaluated there by going back through its expression, meeting each part with what the
//! conditions say of it. Depth and work are bounded; beyond them the value's general approximation is
//! used.

use crate::hash::HashMap;

use super::graph::{Graph, NONE};
use super::ir::{Arg, Expression, Id, Kind, Object, Relation};
use super::launch::Launch;
use super::ssa::Ssa;
use super::value::{NUMBER, Value, mask};

/// Deepest chain of expressions looked through for one question.
const DEPTH: u32 = 24;
/// Most expressions looked at for one question.
const WORK: u32 = 160;
/// Most conditions taken into account at one place.
const CONDITIONS: usize = 32;

/// What a condition says of a value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fact {
    /// Its offset from `base` is in `lo..=hi` modulo `2^width`. `base` is [`NUMBER`] for numbers.
    Within {
        /// Least.
        lo: i64,
        /// Greatest.
        hi: i64,
        /// Width in bits.
        width: u32,
    },
    /// It is not `base + value`.
    Not {
        /// Bit of [`Value::bases`].
        base: u64,
        /// The offset that it has not.
        value: i64,
    },
}

/// Everything that evaluation needs.
pub(super) struct Evaluator<'s> {
    /// The function's values.
    pub ssa: &'s Ssa,
    /// Its graph.
    pub graph: &'s Graph<'s>,
    /// Launch bounds.
    pub launch: Launch,
    /// The approximation of each value; `None` as long as nothing has been found to reach it.
    pub values: Vec<Option<Value>>,
    /// A bound for phis found otherwise (by counting iterations).
    pub bounds: Vec<Option<Value>>,
    /// What 64-bit parameters hold by contract, by their offset in the parameter block.
    pub pointers: HashMap<u64, Value>,
}

/// What is known at a place.
#[derive(Default)]
pub(super) struct Context {
    facts: Vec<(Id, Fact)>,
    memo: Vec<(Id, Value)>,
    work: u32,
}

impl Context {
    /// The facts.
    pub(super) fn facts(&self) -> &[(Id, Fact)] {
        &self.facts
    }
}

impl<'s> Evaluator<'s> {
    /// The least size among the objects of some bases (those of open size count as the most shared
    /// memory there is).
    fn extent(&self, bases: u64) -> u64 {
        self.fold(bases, u64::MAX, |least, object| least.min(object.bytes.unwrap_or(228 << 10)))
    }

    fn alignment(&self, bases: u64) -> u64 {
        self.fold(bases, 1 << 62, |least, object| least.min(object.align))
    }

    fn fold(&self, bases: u64, start: u64, f: impl Fn(u64, &Object) -> u64) -> u64 {
        let mut result = start;
        for (index, object) in self.ssa.objects.iter().enumerate() {
            if bases >> (2 * index) & 3 != 0 {
                result = f(result, object);
            }
        }
        result
    }

    /// The general approximation of an operand; `None` when nothing reaches it yet.
    pub(super) fn general(&self, arg: Arg) -> Option<Value> {
        match arg {
            Arg::Value(id) => self.values[id as usize],
            Arg::Int(value) => Some(Value::int(value)),
            Arg::Address(object, offset) => Some(Value::address(1 << (2 * object), offset)),
            Arg::Special(special) => Some(self.launch.special(special)),
            Arg::Unknown => Some(Value::TOP),
        }
    }

    /// What is known at the start of a block.
    pub(super) fn context(&self, block: u32) -> Context {
        let mut context = Context::default();
        self.conditions(block, &mut context);
        context
    }

    fn conditions(&self, mut block: u32, context: &mut Context) {
        if !self.graph.converged || !self.graph.is_reachable(block) {
            return;
        }
        let mut steps = 0;
        while context.facts.len() < CONDITIONS && steps < 4 * CONDITIONS {
            let node = &self.graph.blocks[block as usize];
            if let [edge] = node.into.as_slice()
                && block != 0
            {
                self.edge_facts(*edge, context);
            }
            if node.dominator == block || node.dominator == NONE {
                break;
            }
            block = node.dominator;
            steps += 1;
        }
    }

    /// What is known when an edge is taken.
    pub(super) fn edge_context(&self, edge: u32) -> Context {
        let mut context = Context::default();
        self.edge_facts(edge, &mut context);
        self.conditions(self.graph.edges[edge as usize].from, &mut context);
        context
    }

    fn edge_facts(&self, edge: u32, context: &mut Context) {
        let edge = &self.graph.edges[edge as usize];
        let Some(holds) = edge.condition else { return };
        let last = self.graph.blocks[edge.from as usize].end - 1;
        self.assume(self.ssa.predicates[last as usize], holds, context, 4);
    }

    /// Adds that a predicate has a value.
    pub(super) fn assume(&self, predicate: Arg, holds: bool, context: &mut Context, depth: u32) {
        let Arg::Value(id) = predicate else { return };
        if depth == 0 {
            return;
        }
        let e = &self.ssa.expressions[id as usize];
        match e.kind {
            Kind::Copy => self.assume(e.args[0], holds, context, depth - 1),
            Kind::PredNot => self.assume(e.args[0], !holds, context, depth - 1),
            Kind::PredAnd if holds => {
                self.assume(e.args[0], true, context, depth - 1);
                self.assume(e.args[1], true, context, depth - 1);
            }
            Kind::PredOr if !holds => {
                self.assume(e.args[0], false, context, depth - 1);
                self.assume(e.args[1], false, context, depth - 1);
            }
            Kind::Compare { relation, signed } => {
                let relation = if holds { relation } else { relation.negated() };
                self.compare(e.args[0], relation, e.args[1], signed, e.width, context);
                self.compare(e.args[1], relation.flipped(), e.args[0], signed, e.width, context);
            }
            _ => {}
        }
    }

    /// Adds `x relation y` as a fact about `x`.
    fn compare(
        &self,
        x: Arg,
        relation: Relation,
        y: Arg,
        signed: bool,
        width: u32,
        context: &mut Context,
    ) {
        let (Arg::Value(x), Some(y)) = (x, self.general(y)) else { return };
        if !y.is_number() {
            if relation == Relation::Ne && y.bases.count_ones() == 1 && y.lo == y.hi {
                context.facts.push((x, Fact::Not { base: y.bases, value: y.lo }));
            }
            return;
        }
        if relation == Relation::Ne {
            if let Some(value) = y.fit(width).constant() {
                self.learn(x, Fact::Not { base: NUMBER, value }, context, 4);
                self.selected(x, value, context);
            }
            return;
        }
        let (lo, hi) = if relation == Relation::Eq {
            let y = y.fit(width);
            (y.lo, y.hi)
        } else if signed {
            let (least, most) = Value::TOP.signed(width);
            let (lo, hi) = y.signed(width);
            match relation {
                Relation::Lt => (least, hi.saturating_sub(1)),
                Relation::Le => (least, hi),
                Relation::Gt => (lo.saturating_add(1), most),
                _ => (lo, most),
            }
        } else {
            let most = mask(width);
            let (lo, hi) = y.unsigned(width);
            let (lo, hi) = match relation {
                Relation::Lt => (0, hi.saturating_sub(1)),
                Relation::Le => (0, hi),
                Relation::Gt => (lo.saturating_add(1).min(most), most),
                _ => (lo, most),
            };
            match (i64::try_from(lo), i64::try_from(hi)) {
                (Ok(lo), Ok(hi)) => (lo, hi),
                // 64-bit numbers from 2^63: as negative ones, when both are.
                (Err(_), Err(_)) => (lo as i64, hi as i64),
                _ => return,
            }
        };
        if lo <= hi {
            self.learn(x, Fact::Within { lo, hi, width }, context, 4);
        }
    }

    /// `selp 1, 0, p` compared with 0 says what `p` is.
    fn selected(&self, x: Id, not: i64, context: &mut Context) {
        let e = &self.ssa.expressions[x as usize];
        if let (Kind::Select { negated: false }, [Arg::Int(a), Arg::Int(b), p]) = (e.kind, e.args) {
            if a != b && b == not {
                self.assume(p, true, context, 2);
            } else if a != b && a == not {
                self.assume(p, false, context, 2);
            }
        }
    }

    /// Adds a fact and what it says of the value's operand, where the operation can be undone.
    fn learn(&self, x: Id, fact: Fact, context: &mut Context, depth: u32) {
        if context.facts.len() >= CONDITIONS {
            return;
        }
        context.facts.push((x, fact));
        if depth == 0 {
            return;
        }
        let e = &self.ssa.expressions[x as usize];
        let moved = |by: i64| match fact {
            Fact::Within { lo, hi, width } if width == e.width => {
                Some(Fact::Within { lo: lo.checked_sub(by)?, hi: hi.checked_sub(by)?, width })
            }
            Fact::Not { base: NUMBER, value } => {
                let value = Value::int(value).sub(Value::int(by), e.width).constant()?;
                Some(Fact::Not { base: NUMBER, value })
            }
            _ => None,
        };
        let next = match (e.kind, e.args) {
            (Kind::Copy, [Arg::Value(from), ..]) => Some((from, fact)),
            (Kind::Add, [Arg::Value(from), Arg::Int(by), _])
            | (Kind::Add, [Arg::Int(by), Arg::Value(from), _]) => moved(by).map(|f| (from, f)),
            (Kind::Sub, [Arg::Value(from), Arg::Int(by), _]) => {
                by.checked_neg().and_then(moved).map(|f| (from, f))
            }
            (Kind::Convert { from: 32, from_signed, .. }, [Arg::Value(from), ..])
                if e.width == 64 =>
            {
                let least = if from_signed { i64::from(i32::MIN) } else { 0 };
                let most = if from_signed { i64::from(i32::MAX) } else { i64::from(u32::MAX) };
                match fact {
                    Fact::Within { lo, hi, width: 64 } if lo <= most && hi >= least => {
                        let (lo, hi) = (lo.max(least), hi.min(most));
                        Some((from, Fact::Within { lo, hi, width: 32 }))
                    }
                    Fact::Not { base: NUMBER, value } if value >= least && value <= most => {
                        let value = Value::int(value).fit(32).lo;
                        Some((from, Fact::Not { base: NUMBER, value }))
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        if let Some((from, fact)) = next {
            self.learn(from, fact, context, depth - 1);
        }
    }

    /// An operand's value at a place; `None` when nothing reaches it.
    pub(super) fn at(&self, arg: Arg, context: &mut Context) -> Option<Value> {
        context.memo.clear();
        context.work = WORK;
        self.go(arg, context, DEPTH)
    }

    fn go(&self, arg: Arg, context: &mut Context, depth: u32) -> Option<Value> {
        let Arg::Value(id) = arg else { return self.general(arg) };
        if let Some((_, value)) = context.memo.iter().find(|(known, _)| *known == id) {
            return Some(*value);
        }
        let general = self.values[id as usize]?;
        if context.facts.is_empty() || general.lo == general.hi {
            return Some(general);
        }
        let e = &self.ssa.expressions[id as usize];
        let mut value = general;
        if depth > 0 && context.work > 0 && !matches!(e.kind, Kind::Phi(_)) {
            context.work -= 1;
            let evaluated = self.expression(e, &mut |arg| self.go(arg, context, depth - 1))?;
            value = tighter(value, evaluated);
        }
        for (about, fact) in &context.facts {
            if *about == id {
                value = apply(value, fact);
            }
        }
        if context.memo.len() < WORK as usize {
            context.memo.push((id, value));
        }
        Some(value)
    }

    /// The value of an expression from its operands' (phis: see the solver).
    pub(super) fn expression(
        &self,
        e: &Expression,
        get: &mut dyn FnMut(Arg) -> Option<Value>,
    ) -> Option<Value> {
        let width = e.width;
        let signed_min_magnitude = |v: Value| {
            let (lo, hi) = v.signed(width);
            (lo, hi)
        };
        Some(match e.kind {
            Kind::Unknown | Kind::Compare { .. } | Kind::PredAnd | Kind::PredOr | Kind::PredNot => {
                Value::TOP
            }
            Kind::Range(lo, hi) => Value::range(lo, hi),
            Kind::Param(offset) => self.pointers.get(&offset).copied().unwrap_or(Value::TOP),
            Kind::Copy => {
                let value = get(e.args[0])?;
                if width >= 8 { value.fit(width) } else { value }
            }
            Kind::Add => get(e.args[0])?.add(get(e.args[1])?, width),
            Kind::Sub => {
                let (a, b) = (get(e.args[0])?, get(e.args[1])?);
                self.remainder(e).unwrap_or(Value::TOP).pick(a.sub(b, width))
            }
            Kind::Mul => get(e.args[0])?.mul(get(e.args[1])?, width),
            Kind::MulWide { signed } => {
                let (a, b) = (get(e.args[0])?, get(e.args[1])?);
                wide_product(a, b, width, signed)
            }
            Kind::MulHigh { signed } => {
                let (a, b) = (get(e.args[0])?, get(e.args[1])?);
                if width <= 32 {
                    wide_product(a, b, width * 2, signed)
                        .shr(width.into(), width * 2, signed)
                        .fit(width)
                } else {
                    Value::TOP
                }
            }
            Kind::Mad => get(e.args[0])?.mul(get(e.args[1])?, width).add(get(e.args[2])?, width),
            Kind::MadWide { signed } => {
                let (a, b) = (get(e.args[0])?, get(e.args[1])?);
                wide_product(a, b, width, signed).add(get(e.args[2])?, width)
            }
            Kind::Shl => {
                let (a, b) = (get(e.args[0])?, get(e.args[1])?);
                match b.fit(32).constant() {
                    Some(count) => a.shl(count as u64 & mask(32), width),
                    None => shift_left_by_range(a, b, width),
                }
            }
            Kind::Shr { signed } => {
                let (a, b) = (get(e.args[0])?, get(e.args[1])?);
                let (least, most) = b.unsigned(32);
                let near = a.shr(least, width, signed);
                if least == most { near } else { near.join(a.shr(most, width, signed)).loose() }
            }
            Kind::And => {
                let (a, b) = (get(e.args[0])?, get(e.args[1])?);
                a.and(b, width, self.alignment(a.bases | b.bases))
            }
            Kind::Or => {
                let (a, b) = (get(e.args[0])?, get(e.args[1])?);
                a.or(b, width, self.alignment(a.bases | b.bases))
            }
            Kind::Xor => {
                let (a, b) = (get(e.args[0])?, get(e.args[1])?);
                a.xor(b, width, self.alignment(a.bases | b.bases))
            }
            Kind::Not => get(e.args[0])?.not(width),
            Kind::Neg => Value::int(0).sub(get(e.args[0])?, width),
            Kind::Abs => {
                let value = get(e.args[0])?;
                let (lo, hi) = signed_min_magnitude(value);
                if !value.is_number() || lo == Value::TOP.signed(width).0 {
                    Value::TOP.fit(width)
                } else {
                    let most = lo.abs().max(hi.abs());
                    let least = if lo <= 0 && hi >= 0 { 0 } else { lo.abs().min(hi.abs()) };
                    Value::range(least, most).fit(width)
                }
            }
            Kind::MinMax { signed, greater } => {
                get(e.args[0])?.min_max(get(e.args[1])?, width, signed, greater)
            }
            Kind::Div { signed } => get(e.args[0])?.div(get(e.args[1])?, width, signed),
            Kind::Rem { signed } => get(e.args[0])?.rem(get(e.args[1])?, width, signed),
            Kind::Select { .. } => self.select(e, get)?,
            Kind::Convert { from, from_signed, to_signed } => {
                let value = get(e.args[0])?;
                let wide = value.extend(from, from_signed, self.extent(value.bases));
                match width {
                    64 => wide,
                    32 => wide.fit(32),
                    narrow => wide.fit(narrow).extend(narrow, to_signed, 0),
                }
            }
            Kind::Field { signed } => {
                let (a, b, c) = (get(e.args[0])?, get(e.args[1])?, get(e.args[2])?);
                match (b.constant(), c.constant()) {
                    (Some(p), Some(n)) => a.field(p as u64 & 255, n as u64 & 255, width, signed),
                    _ => Value::TOP.fit(width),
                }
            }
            Kind::Lop3(table) => {
                let (a, b, c) = (get(e.args[0])?, get(e.args[1])?, get(e.args[2])?);
                lop3(table, a, b, c, width)
            }
            Kind::Pack => {
                let (a, b) = (get(e.args[0])?, get(e.args[1])?);
                let low = a.extend(32, false, 0);
                if low.is_number() && b.is_number() {
                    low.add(b.shl(32, 64), 64)
                } else {
                    Value::TOP
                }
            }
            Kind::High => get(e.args[0])?.shr(32, 64, false).fit(32),
            Kind::ToGeneric => convert_bases(get(e.args[0])?, 1, |bases| bases << 1),
            Kind::FromGeneric => convert_bases(get(e.args[0])?, 0, |bases| bases >> 1),
            Kind::Phi(_) => Value::TOP,
        })
    }

    /// `a - (a / c) * c`, as compilers write a remainder, is below `c`.
    fn remainder(&self, e: &Expression) -> Option<Value> {
        let [a, Arg::Value(product), _] = e.args else { return None };
        let product = &self.ssa.expressions[product as usize];
        let (quotient, c) = match (product.kind, product.args) {
            (Kind::Mul, [Arg::Value(q), Arg::Int(c), _]) if c > 0 => (q, c),
            _ => return None,
        };
        let quotient = &self.ssa.expressions[quotient as usize];
        let exact = match (quotient.kind, quotient.args) {
            (Kind::Div { signed: false }, [n, Arg::Int(d), _]) => n == a && d == c,
            _ => false,
        };
        (exact && product.width == e.width && quotient.width == e.width)
            .then(|| Value::range(0, c - 1))
    }

    fn select(&self, e: &Expression, get: &mut dyn FnMut(Arg) -> Option<Value>) -> Option<Value> {
        let Kind::Select { negated } = e.kind else { return None };
        let (a, b) = (get(e.args[0]), get(e.args[1]));
        // Each side under what the predicate says of it.
        let under = |side: Option<Value>, arg: Arg, holds: bool| {
            let (Some(mut value), Arg::Value(id)) = (side, arg) else { return side };
            let mut context = Context::default();
            self.assume(e.args[2], holds, &mut context, 4);
            for (about, fact) in &context.facts {
                if *about == id {
                    value = apply(value, fact);
                }
            }
            Some(value)
        };
        let a = under(a, e.args[0], !negated);
        let b = under(b, e.args[1], negated);
        match (a, b) {
            (Some(a), Some(b)) => Some(a.join(b)),
            (one, None) | (None, one) => one,
        }
    }
}

/// The more exact of two approximations of the same value.
pub(super) fn tighter(a: Value, b: Value) -> Value {
    if a.bases != b.bases {
        return if b.is_number() { a } else { b };
    }
    let span = |v: &Value| i128::from(v.hi) - i128::from(v.lo);
    let (mut best, other) = if span(&b) < span(&a) { (b, a) } else { (a, b) };
    best.zeros |= other.zeros & !best.ones;
    best.ones |= other.ones & !best.zeros;
    best
}

fn apply(value: Value, fact: &Fact) -> Value {
    match *fact {
        Fact::Within { lo, hi, width } => value.meet(lo, hi, width),
        Fact::Not { base, value: not } => {
            let mut value = value;
            if value.bases == base {
                if value.lo == not && value.lo < value.hi {
                    value.lo += 1;
                } else if value.hi == not && value.lo < value.hi {
                    value.hi -= 1;
                }
                return value.fit(64);
            }
            value
        }
    }
}

fn wide_product(a: Value, b: Value, width: u32, signed: bool) -> Value {
    let half = width / 2;
    if !a.is_number() || !b.is_number() {
        return Value::TOP;
    }
    a.extend(half, signed, 0).mul(b.extend(half, signed, 0), width)
}

fn shift_left_by_range(a: Value, count: Value, width: u32) -> Value {
    let (least, most) = count.unsigned(32);
    if !a.is_number() || most >= u64::from(width) {
        return Value::TOP.fit(width);
    }
    let mut value = a.shl(least, width).join(a.shl(most, width)).loose();
    value.zeros = mask((a.trailing_zeros() + least as u32).min(63));
    value.fit(width)
}

fn convert_bases(value: Value, parity: u32, convert: impl Fn(u64) -> u64) -> Value {
    let own = 0x5555_5555_5555_5555u64 & !NUMBER;
    let expected = if parity == 1 { own } else { own << 1 & !NUMBER };
    if value.bases & !expected != 0 || value.bases == 0 {
        return Value::TOP;
    }
    Value { bases: convert(value.bases), ..value }
}

fn lop3(table: u8, a: Value, b: Value, c: Value, width: u32) -> Value {
    if !a.is_number() || !b.is_number() || !c.is_number() {
        return Value::TOP;
    }
    let inputs = [a.fit(width), b.fit(width), c.fit(width)];
    // Bit by bit: known when every combination of the unknown inputs gives the same.
    let (mut zeros, mut ones) = (0u64, 0u64);
    for bit in 0..width {
        let (mut zero, mut one) = (false, false);
        for combination in 0..8u8 {
            let possible = inputs.iter().enumerate().all(|(position, input)| {
                let set = combination >> (2 - position) & 1 == 1;
                let excluded = if set { input.zeros } else { input.ones };
                excluded >> bit & 1 == 0
            });
            if possible {
                if table >> combination & 1 == 1 { one = true } else { zero = true }
            }
        }
        if zero && !one {
            zeros |= 1 << bit;
        } else if one && !zero {
            ones |= 1 << bit;
        }
    }
    Value { bases: NUMBER, lo: i64::MIN, hi: i64::MAX, zeros, ones }.fit(width)
}

impl Value {
    /// Without its bits: for hulls of two ends, between which bits may differ.
    #[must_use]
    fn loose(self) -> Self {
        Self { zeros: 0, ones: 0, ..self }
    }

    /// This, unless it is top.
    fn pick(self, other: Self) -> Self {
        if self.is_top() { other } else { self }
    }
}
