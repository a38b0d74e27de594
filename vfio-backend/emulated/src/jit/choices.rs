//! Comparisons, selections and copies of a whole group in vectors.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::types::I32X4;
use cranelift_codegen::ir::{InstBuilder, Value};

use super::translate::Translator;
use super::wide::Results;
use crate::ir::{CONSTANT, Slot};
use crate::ops::Class;
use crate::ops::compare::Compare;

impl Translator<'_, '_> {
    /// Masks of 32-bit elements where a comparison holds.
    pub(super) fn compared(&mut self, op: Compare, a: Slot, b: Slot) -> Option<Vec<Value>> {
        use Compare as C;
        let class = op.class();
        let integer = match op {
            C::Eq32 | C::Eq64 => Some(IntCC::Equal),
            C::Ne32 | C::Ne64 => Some(IntCC::NotEqual),
            C::LtU32 => Some(IntCC::UnsignedLessThan),
            C::LeU32 => Some(IntCC::UnsignedLessThanOrEqual),
            C::GtU32 => Some(IntCC::UnsignedGreaterThan),
            C::GeU32 => Some(IntCC::UnsignedGreaterThanOrEqual),
            C::LtS32 | C::LtS64 => Some(IntCC::SignedLessThan),
            C::LeS32 => Some(IntCC::SignedLessThanOrEqual),
            C::GtS32 | C::GtS64 => Some(IntCC::SignedGreaterThan),
            C::GeS32 => Some(IntCC::SignedGreaterThanOrEqual),
            _ => None,
        };
        let float = match op {
            C::EqF32 | C::EqF64 => Some(FloatCC::Equal),
            C::LtF32 | C::LtF64 => Some(FloatCC::LessThan),
            C::LeF32 | C::LeF64 => Some(FloatCC::LessThanOrEqual),
            C::GtF32 | C::GtF64 => Some(FloatCC::GreaterThan),
            C::GeF32 | C::GeF64 => Some(FloatCC::GreaterThanOrEqual),
            C::NeuF32 | C::NeuF64 => Some(FloatCC::NotEqual),
            C::LtuF32 | C::LtuF64 => Some(FloatCC::UnorderedOrLessThan),
            C::LeuF32 | C::LeuF64 => Some(FloatCC::UnorderedOrLessThanOrEqual),
            C::GtuF32 | C::GtuF64 => Some(FloatCC::UnorderedOrGreaterThan),
            C::GeuF32 | C::GeuF64 => Some(FloatCC::UnorderedOrGreaterThanOrEqual),
            C::NumF32 | C::NumF64 => Some(FloatCC::Ordered),
            C::NanF32 | C::NanF64 => Some(FloatCC::Unordered),
            _ => None,
        };
        let masks = match (integer, float) {
            (Some(cc), _) => {
                let ab = (self.many((class, a)), self.many((class, b)));
                self.map2(ab, |t, a, b| t.b.ins().icmp(cc, a, b))
            }
            (_, Some(cc)) => {
                let ab = (self.floats(class, a), self.floats(class, b));
                self.map2(ab, |t, a, b| t.b.ins().fcmp(cc, a, b))
            }
            _ => return None,
        };
        Some(if class == Class::W64 {
            self.words_of(&masks, false)
        } else {
            self.map1(masks, |t, v| t.cast(I32X4, v))
        })
    }

    /// Whether a slot's vectors may be copied with whatever NaNs they have.
    fn is_loose(&self, class: Class, slot: Slot) -> bool {
        slot & CONSTANT == 0 && self.kind((class, slot)) == super::values::Kind::Loose
    }

    pub(super) fn moved(&mut self, class: Class, d: Slot, a: Slot) -> Results {
        let loose = self.is_loose(class, a);
        let v = self.raw((class, a));
        vec![((class, d), v, loose)]
    }

    pub(super) fn selected(&mut self, class: Class, [d, a, b, p]: [Slot; 4]) -> Results {
        let loose = self.is_loose(class, a) || self.is_loose(class, b);
        // Of an exact slot with a NaN of its own nothing may change.
        let loose = loose && self.is_loose(class, a) == self.is_loose(class, b);
        let (a, b) = if loose {
            (self.raw((class, a)), self.raw((class, b)))
        } else {
            (self.many((class, a)), self.many((class, b)))
        };
        let p = self.many((Class::Pred, p));
        let p = self.masks(class, &p);
        let all = p.into_iter().zip(a).zip(b);
        let v = all.map(|((p, a), b)| self.b.ins().bitselect(p, a, b)).collect();
        vec![((class, d), v, loose)]
    }
}
