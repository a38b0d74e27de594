//! What one instruction makes of the values it reads. Anything not listed here is unknown, which is
//! always right.

use super::eval::{Eval, Place};
use super::number::{Alt, Region, Value, mask};
use crate::tree::{Base, Flag, Instruction, Op, Operand, ScalarType, Space};

/// Furthest offset from an object at which its 32-bit address is still widened as an address: the
/// shared and local windows hold 16 MiB.
const WINDOW: i64 = 1 << 24;

struct Step<'s, 'c, 'm> {
    eval: &'s Eval<'c, 'm>,
    i: &'m Instruction,
    index: u32,
    place: &'s Place,
    depth: u32,
}

/// The value that instruction `index`, when it runs, leaves in a register.
pub(super) fn transfer(
    eval: &Eval<'_, '_>,
    index: u32,
    register: u32,
    place: &Place,
    depth: u32,
) -> Value {
    let i = eval.code.instructions[index as usize];
    let width = eval.code.widths[register as usize];
    let step = Step { eval, i, index, place, depth };
    match i.operands.first() {
        Some(Operand::Reg(name)) if eval.code.register(name) == register => step.scalar(width),
        Some(Operand::Vector(items)) if i.op() == Some(Op::Mov) => {
            let is = |o: &Operand| o.as_reg().is_some_and(|n| eval.code.register(n) == register);
            // A register named twice would hold either half.
            if items.iter().filter(|o| is(o)).count() != 1 {
                return Value::Any;
            }
            step.unpack(items.iter().position(is), items.len(), width)
        }
        _ => Value::Any,
    }
}

impl Step<'_, '_, '_> {
    fn arg(&self, index: usize, width: u32) -> Value {
        match self.i.operands.get(index) {
            Some(o) => self.eval.value_of(o, width, self.index, self.place, self.depth),
            None => Value::Any,
        }
    }

    /// An operand that must be one number known here and now.
    fn constant(&self, index: usize, width: u32) -> Option<i64> {
        self.arg(index, width).exact()
    }

    fn unsigned(&self, index: usize, width: u32) -> Option<Alt> {
        self.arg(index, width).unsigned(width)
    }

    fn reading(&self, index: usize, ty: ScalarType) -> Option<Alt> {
        let value = self.arg(index, ty.bits());
        if ty.is_signed() { value.signed(ty.bits()) } else { value.unsigned(ty.bits()) }
    }

    /// A function of readings of two operands; when one of them cannot occur, neither can this.
    fn both(&self, ty: ScalarType, f: impl Fn(Alt, Alt) -> Option<Alt>) -> Value {
        match (self.reading(1, ty), self.reading(2, ty)) {
            (Some(a), Some(b)) => f(a, b).map_or(Value::Any, Value::one),
            _ => Value::Never,
        }
    }

    fn one(&self, ty: ScalarType, f: impl Fn(Alt) -> Option<Alt>) -> Value {
        match self.reading(1, ty) {
            Some(a) => f(a).map_or(Value::Any, Value::one),
            None => Value::Never,
        }
    }

    fn unpack(&self, part: Option<usize>, parts: usize, width: u32) -> Value {
        let (Some(part), 2, 32, Some(64)) = (part, parts, width, self.i.ty().map(|t| t.bits()))
        else {
            return Value::Any;
        };
        let whole = self.arg(1, 64);
        if part == 0 {
            return whole.map(|alt| match alt.region {
                Region::Number => Some(alt.unsigned(32)),
                // An address is its own low half as long as it stays in its window.
                Region::Object(_) => in_window(alt),
                Region::Generic(_) => None,
            });
        }
        whole.map(|alt| (alt.region == Region::Number && alt.lo >= 0).then(|| alt.shr(32)))
    }

    fn scalar(&self, width: u32) -> Value {
        let i = self.i;
        let (Some(op), Some(ty)) = (i.op(), i.ty()) else { return Value::Any };
        if op != Op::Cvt && op != Op::Ld && !(plain_integer(ty) && i.flags().all(harmless)) {
            return Value::Any;
        }
        let own = ty.bits();
        // The types whose result is as wide as they are; the others are told apart below.
        let plain = own == width;
        match op {
            Op::Mov if plain => self.mov(own),
            Op::Add if plain => self.arg(1, own).zip(&self.arg(2, own), Alt::add),
            Op::Sub if plain => self.arg(1, own).zip(&self.arg(2, own), Alt::sub),
            Op::Mul | Op::Mad => self.multiply(op, ty, width),
            Op::Shl if plain => self.shift_left(own),
            Op::Shr if plain => self.shift_right(ty),
            Op::And if plain && own > 1 => self.and(own),
            Op::Or if plain && own > 1 => self.bits(own, 0xFC),
            Op::Xor if plain && own > 1 => self.bits(own, 0x3C),
            Op::Not if plain && own > 1 => self.bits(own, 0x0F),
            Op::Lop3 if plain && i.operands.len() == 5 => self.lop3(),
            Op::Min if plain && i.operands.len() == 3 => self.smaller(ty),
            Op::Max if plain && i.operands.len() == 3 => {
                self.both(ty, |a, b| representable(ty, a, b).then(|| a.max(b)))
            }
            Op::Selp if plain => self.arm(1, own, true).join(self.arm(2, own, false)),
            Op::Rem if plain => self.both(ty, |a, b| {
                (a.lo >= 0 && b.lo > 0).then(|| if a.hi < b.lo { a } else { below(a, b) })
            }),
            Op::Div if plain => self.both(ty, |a, b| {
                (a.lo >= 0 && b.lo > 0).then(|| Alt::range(a.lo / b.hi, a.hi / b.lo))
            }),
            Op::Abs if plain => self.one(ty, |a| {
                let most = a.lo.checked_abs()?.max(a.hi.checked_abs()?);
                Some(Alt::range(0, most))
            }),
            Op::Neg if plain => self.arg(1, own).map(Alt::neg),
            Op::Cvt => self.convert(ty, width),
            Op::Cvta if own == 64 && plain => self.cvta(),
            Op::Bfe if plain => self.extract(ty),
            Op::Bfi if plain => self.insert(own),
            Op::Popc | Op::Clz if width == 32 => Value::range(0, i64::from(own)),
            Op::Ld => self.load(ty, width),
            _ => Value::Any,
        }
    }

    fn mov(&self, own: u32) -> Value {
        if let Some(Operand::Vector(items)) = self.i.operands.get(1) {
            let [low, high] = items.as_slice() else { return Value::Any };
            if own != 64 {
                return Value::Any;
            }
            let half = |o| self.eval.value_of(o, 32, self.index, self.place, self.depth);
            let (low, high) = (half(low), half(high));
            let (Some(low), Some(high)) = (low.unsigned(32), high.unsigned(32)) else {
                return Value::Never;
            };
            let joined = high.shl(32).and_then(|high| high.add(low));
            return joined.map_or(Value::Any, Value::one);
        }
        self.arg(1, own)
    }

    fn multiply(&self, op: Op, ty: ScalarType, width: u32) -> Value {
        let own = ty.bits();
        let wide = self.i.has(Flag::Wide);
        if width != if wide { 2 * own } else { own } || self.i.has(Flag::Hi) {
            return Value::Any;
        }
        let product = if wide {
            self.both(ty, Alt::mul)
        } else {
            self.arg(1, own).zip(&self.arg(2, own), Alt::mul)
        };
        if op == Op::Mad { product.zip(&self.arg(3, width), Alt::add) } else { product }
    }

    /// One side of a `selp`, given what the predicate says when that side is taken.
    fn arm(&self, index: usize, own: u32, truth: bool) -> Value {
        let (name, truth) = match self.i.operands.get(3) {
            Some(Operand::Reg(name)) => (name, truth),
            Some(Operand::NotReg(name)) => (name, !truth),
            _ => return self.arg(index, own),
        };
        let predicate = self.eval.register(self.eval.code.register(name), self.index);
        let mut facts = Vec::new();
        self.eval.conditions(predicate, truth, &mut facts, 0);
        let (Some(operand), false) = (self.i.operands.get(index), facts.is_empty()) else {
            return self.arg(index, own);
        };
        let there = Place::new(self.place.facts.and(facts));
        self.eval.value_of(operand, own, self.index, &there, self.depth)
    }

    fn shift_left(&self, own: u32) -> Value {
        let value = self.arg(1, own);
        match self.unsigned(2, 32) {
            None => Value::Never,
            Some(by) if by.lo == by.hi => match u32::try_from(by.lo) {
                Ok(by) if by < own => value.map(|a| a.shl(by)),
                // Shifted out completely (PTX clamps the amount to the width).
                _ => Value::range(0, 0),
            },
            Some(by) => {
                let Some(a) = value.unsigned(own) else { return Value::Never };
                let most = u32::try_from(by.hi).ok().filter(|by| *by < 63);
                let most = most.and_then(|by| a.shl(by)).filter(|m| a.lo >= 0 && m.lo >= 0);
                // Zero bits below stay zero, whatever the amount.
                let low = 1i64 << a.low_zeros().min(62);
                match most {
                    Some(most) => Alt::range(0, most.hi / low)
                        .mul(Alt::constant(low))
                        .map_or(Value::Any, Value::one),
                    None => Value::Any,
                }
            }
        }
    }

    fn shift_right(&self, ty: ScalarType) -> Value {
        let Some(by) = self.unsigned(2, 32) else { return Value::Never };
        let Some(a) = self.reading(1, ty) else { return Value::Never };
        if ty.bits() == 64 && !ty.is_signed() && a.lo < 0 {
            let least = by.lo.clamp(0, 63) as u32;
            return if least == 0 { Value::Any } else { Value::range(0, i64::MAX >> (least - 1)) };
        }
        let (least, most) = (by.lo.clamp(0, 63) as u32, by.hi.clamp(0, 63) as u32);
        if least == most {
            return Value::one(a.shr(least));
        }
        let ends = [a.lo >> least, a.lo >> most, a.hi >> least, a.hi >> most];
        let lo = ends.iter().copied().fold(i64::MAX, i64::min);
        let hi = ends.iter().copied().fold(i64::MIN, i64::max);
        Value::range(lo, hi)
    }

    fn and(&self, own: u32) -> Value {
        let (a, b) = (self.arg(1, own), self.arg(2, own));
        // An address keeps its object when only bits go that its alignment has at zero anyway.
        if let Some(keep) = b.exact()
            && let Value::Known(alts) = &a
            && alts.iter().any(|alt| alt.region != Region::Number)
        {
            let cleared = !(keep as u64) & mask(own);
            if (cleared.wrapping_add(1)).is_power_of_two() {
                return a.map(|alt| self.align_address(alt, cleared));
            }
        }
        a.zip(&b, |a, b| Some(a.and(b, own)))
    }

    fn align_address(&self, alt: Alt, cleared: u64) -> Option<Alt> {
        let Region::Object(object) = alt.region else { return None };
        let align = self.eval.code.objects.get(object as usize)?.align;
        if cleared >= align || !(0..WINDOW).contains(&alt.lo) || !(0..WINDOW).contains(&alt.hi) {
            return None;
        }
        let keep = Alt::constant(!(cleared as i64));
        let number = Alt { region: Region::Number, ..alt }.and(keep, 32);
        Some(Alt { region: alt.region, ..number })
    }

    fn bits(&self, own: u32, table: u8) -> Value {
        let Some(a) = self.unsigned(1, own) else { return Value::Never };
        let b = if self.i.operands.len() > 2 { self.unsigned(2, own) } else { Some(a) };
        let Some(b) = b else { return Value::Never };
        Value::one(Alt::bitwise(own, table, a, b, Alt::constant(0)))
    }

    fn lop3(&self) -> Value {
        let table = self.i.operands.get(4).and_then(Operand::as_int);
        let Some(table) = table.and_then(|t| u8::try_from(t).ok()) else { return Value::Any };
        match (self.unsigned(1, 32), self.unsigned(2, 32), self.unsigned(3, 32)) {
            (Some(a), Some(b), Some(c)) => Value::one(Alt::bitwise(32, table, a, b, c)),
            _ => Value::Never,
        }
    }

    fn smaller(&self, ty: ScalarType) -> Value {
        self.both(ty, |a, b| {
            if representable(ty, a, b) {
                return Some(a.min(b));
            }
            // Unsigned 64-bit: the side that is known to be small bounds the result.
            let small = [a, b].into_iter().filter(|s| s.lo >= 0).min_by_key(|s| s.hi)?;
            let low = a.low_zeros().min(b.low_zeros()).min(62);
            Alt::range(0, small.hi >> low).mul(Alt::constant(1 << low))
        })
    }

    fn convert(&self, to: ScalarType, width: u32) -> Value {
        let Some(from) = self.i.types().nth(1) else { return Value::Any };
        if !plain_integer(to) || !plain_integer(from) || self.i.flags().next().is_some() {
            return Value::Any;
        }
        let Some(Operand::Reg(name)) = self.i.operands.get(1) else { return Value::Any };
        let register = self.eval.code.register(name);
        let stored = self.eval.code.widths.get(register as usize).copied().unwrap_or(0);
        if to.bits() != width || stored < from.bits() {
            return Value::Any;
        }
        let value = self.arg(1, stored);
        value.map(|alt| match alt.region {
            Region::Number if from.is_signed() => Some(alt.signed(from.bits())),
            Region::Number => Some(alt.unsigned(from.bits())),
            Region::Object(_) if from.bits() >= 32 && to.bits() >= 32 => in_window(alt),
            Region::Generic(_) if from.bits() == 64 && to.bits() == 64 => Some(alt),
            _ => None,
        })
    }

    fn cvta(&self) -> Value {
        let to = self.i.has(Flag::To);
        let space = self.i.space();
        let objects = &self.eval.code.objects;
        let fits = |object: u32| {
            let own = objects.get(object as usize).map(|o| o.space);
            match space {
                Some(space) if space.is_shared() => own.is_some_and(Space::is_shared),
                Some(Space::Local) => own == Some(Space::Local),
                _ => false,
            }
        };
        self.arg(1, 64).map(|alt| match (alt.region, space) {
            // A global address is its own generic address.
            (Region::Number, Some(Space::Global)) => Some(alt),
            (Region::Object(object), _) if !to && fits(object) => {
                Some(Alt { region: Region::Generic(object), ..in_window(alt)? })
            }
            (Region::Generic(object), _) if to && fits(object) => {
                Some(Alt { region: Region::Object(object), ..alt })
            }
            _ => None,
        })
    }

    fn extract(&self, ty: ScalarType) -> Value {
        if ty.is_signed() {
            return Value::Any;
        }
        let own = ty.bits();
        let Some(a) = self.unsigned(1, own) else { return Value::Never };
        // Position and length count in their low eight bits.
        let (position, length) = (self.constant(2, 32), self.constant(3, 32));
        match (position.map(|p| p & 255), length.map(|l| l & 255)) {
            (Some(position), Some(length)) if length < 63 => {
                let shifted =
                    if a.lo < 0 && position == 0 { a } else { shift_positive(a, position) };
                Value::one(shifted.and(Alt::constant((1 << length) - 1), 64))
            }
            _ => Value::Any,
        }
    }

    fn insert(&self, own: u32) -> Value {
        let (position, length) = (self.constant(3, 32), self.constant(4, 32));
        let (Some(position), Some(length)) = (position, length) else { return Value::Any };
        let (position, length) = (position & 255, length & 255);
        if position + length > i64::from(own) || length >= 63 || position >= 63 {
            return Value::Any;
        }
        let (Some(a), Some(b)) = (self.unsigned(1, own), self.unsigned(2, own)) else {
            return Value::Never;
        };
        // CAST: both are below 63.
        let field = Alt::constant(((1i64 << length) - 1) << position);
        match a.shl(position as u32) {
            // Where the field is one, a; elsewhere b.
            Some(a) => Value::one(Alt::bitwise(own, 0xCA, field, a, b)),
            None => Value::Any,
        }
    }

    /// A narrow load is known to be narrow; a parameter under contract is known to be an address in
    /// the arena.
    fn load(&self, ty: ScalarType, width: u32) -> Value {
        if let Some(space) = self.i.space()
            && matches!(space, Space::Param | Space::ParamEntry)
            && let Some(address) = self.i.address()
            && let Base::Symbol(name) = &address.base
            && let Some(object) = self.eval.code.object_of.get(&**name)
            && let Some(start) = self.eval.code.objects[*object as usize].parameter
            && let Some(offset) = start.checked_add_signed(address.offset)
            && let Some(align) = self.eval.launch.pointers.get(&offset)
            && width == 64
            && ty.bits() == 64
            && align.is_power_of_two()
        {
            let arena = self.eval.launch.arena;
            let (lo, hi) = (arena.base() as i64, (arena.base() + arena.size() - 1) as i64);
            let align = *align as i64;
            if align > 0 && lo % align == 0 {
                let steps = Alt::range(lo / align, hi / align).mul(Alt::constant(align));
                return steps.map_or(Value::Any, Value::one);
            }
        }
        if width > ty.bits() && ty.bits() <= 16 {
            let most = mask(ty.bits()) as i64;
            return if ty.is_signed() {
                Value::range(-(most / 2) - 1, most / 2)
            } else {
                Value::range(0, most)
            };
        }
        Value::Any
    }
}

/// One number of one width: neither floating-point nor several packed into a register.
pub(super) fn plain_integer(ty: ScalarType) -> bool {
    use ScalarType::{B8, B16, B32, B64, S8, S16, S32, S64, U8, U16, U32, U64};
    matches!(ty, B8 | B16 | B32 | B64 | S8 | S16 | S32 | S64 | U8 | U16 | U32 | U64)
}

/// Flags that change nothing about the result, or are looked at where they do.
fn harmless(flag: Flag) -> bool {
    matches!(flag, Flag::Lo | Flag::Hi | Flag::Wide | Flag::Cc | Flag::To)
}

fn in_window(alt: Alt) -> Option<Alt> {
    (alt.lo >= 0 && alt.hi < WINDOW).then_some(alt)
}

/// False when an unsigned 64-bit number may be too large for [`Alt`].
fn representable(ty: ScalarType, a: Alt, b: Alt) -> bool {
    ty.is_signed() || ty.bits() < 64 || (a.lo >= 0 && b.lo >= 0)
}

/// `a % b` for a positive `b`.
fn below(a: Alt, b: Alt) -> Alt {
    Alt::range(0, a.hi.min(b.hi - 1))
}

fn shift_positive(a: Alt, by: i64) -> Alt {
    if a.lo >= 0 { a.shr(by.clamp(0, 63) as u32) } else { Alt::range(0, i64::MAX) }
}
