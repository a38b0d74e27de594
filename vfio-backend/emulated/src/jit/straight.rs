//! One thread's instructions without memory or branches.

use std::mem::offset_of;

use cranelift_codegen::ir::types::{I8, I32};
use cranelift_codegen::ir::{InstBuilder, Value};

use super::arithmetic::{gives_canonical32, gives_canonical64, is_float_result};
use super::code::Context;
use super::special;
use super::translate::{Fixed, New, ROW32, Translator, plain};
use crate::ir::{Combine, Inst, NONE, Op, Slot, Special, Transfer};
use crate::ops::Class;
use crate::ops::int32::Int32;
use crate::ops::int64::Int64;

impl Translator<'_, '_> {
    /// An instruction without memory or branches.
    pub(super) fn straight(&mut self, inst: &Inst) {
        match &inst.op {
            Op::Int32(l) if l.op == Int32::Mov => {
                let new = self.copied(Class::W32, l.a, self.kind((Class::W32, l.d)));
                self.set((Class::W32, l.d), new);
            }
            Op::Int64(l) if l.op == Int64::Mov => {
                let new = self.copied(Class::W64, l.a, self.kind((Class::W64, l.d)));
                self.set((Class::W64, l.d), new);
            }
            Op::Int32(l) => {
                let v = self.integer32(l);
                self.set((l.op.signature().result, l.d), New::Bits(v));
            }
            Op::Int64(l) => {
                let v = self.integer64(l);
                self.set((l.op.signature().result, l.d), New::Bits(v));
            }
            Op::Float32(l) => {
                let v = self.single(l);
                let new = if gives_canonical32(l.op) { New::Loose(v) } else { New::Exact(v) };
                self.set((Class::W32, l.d), new);
            }
            Op::Float64(l) => {
                let v = self.double(l);
                let new = if gives_canonical64(l.op) { New::Loose(v) } else { New::Exact(v) };
                self.set((Class::W64, l.d), new);
            }
            Op::Half(l) => {
                let v = self.half(l);
                self.set((l.op.signature().result, l.d), New::Bits(v));
            }
            Op::Convert(l) => {
                let v = self.convert(l);
                let new = if is_float_result(l.op, l.x) { New::Loose(v) } else { New::Bits(v) };
                self.set((l.op.signature().result, l.d), new);
            }
            Op::Compare { op, x, combine, negate, d, not_d, a, b, c } => {
                let yes = self.comparison(*op, *x, *a, *b);
                let third = (*combine != Combine::None).then(|| {
                    let c = self.pred(*c);
                    if *negate { self.b.ins().bxor_imm_u(c, 1) } else { c }
                });
                let no = (*not_d != NONE).then(|| self.b.ins().bxor_imm_u(yes, 1));
                let with = |s: &mut Self, v: Value| match (combine, third) {
                    (Combine::And, Some(c)) => s.b.ins().band(v, c),
                    (Combine::Or, Some(c)) => s.b.ins().bor(v, c),
                    (Combine::Xor, Some(c)) => s.b.ins().bxor(v, c),
                    _ => v,
                };
                let yes = with(self, yes);
                let no = no.map(|v| with(self, v));
                if *d != NONE {
                    self.set((Class::Pred, *d), New::Bits(yes));
                }
                if let Some(no) = no {
                    self.set((Class::Pred, *not_d), New::Bits(no));
                }
            }
            Op::Select32 { d, a, b, p } => self.choose(Class::W32, [*d, *a, *b, *p]),
            Op::Select64 { d, a, b, p } => self.choose(Class::W64, [*d, *a, *b, *p]),
            Op::Logic { table, d, a, b } => {
                let (a, b) = (self.pred(*a), self.pred(*b));
                let (a, b) = (self.b.ins().uextend(I32, a), self.b.ins().uextend(I32, b));
                let a = self.b.ins().ishl_imm_u(a, 1);
                let index = self.b.ins().bor(a, b);
                let table = self.b.ins().iconst(I32, i64::from(*table));
                let v = self.b.ins().ushr(table, index);
                let v = self.b.ins().band_imm_u(v, 1);
                let v = self.b.ins().ireduce(I8, v);
                self.set((Class::Pred, *d), New::Bits(v));
            }
            Op::Special { which, d } => {
                let v = self.special(*which);
                self.set((Class::W32, *d), New::Bits(v));
            }
            Op::FrameAddress { d, offset } => {
                let frame = self.fixed(Fixed::Field(offset_of!(Context, frame)));
                let v = self.b.ins().iadd_imm_s(frame, i64::from(*offset));
                self.set((Class::W64, *d), New::Bits(v));
            }
            Op::Param { width, count, value, offset, slots } => {
                for (e, &slot) in slots.iter().take(usize::from(*count)).enumerate() {
                    if slot != NONE {
                        let at = offset + e as u32 * u32::from(*width);
                        let v = self.fixed(Fixed::Param(at, *width, *value));
                        let class = if value.is_wide() { Class::W64 } else { Class::W32 };
                        self.set((class, slot), New::Bits(v));
                    }
                }
            }
            _ => {}
        }
    }

    pub(super) fn choose(&mut self, class: Class, [d, a, b, p]: [Slot; 4]) {
        let p = self.pred(p);
        let kind = self.kind((class, d));
        let (a, b) = (self.copied(class, a, kind), self.copied(class, b, kind));
        let new = match (a, b) {
            (New::Loose(a), New::Loose(b)) => New::Loose(self.b.ins().select(p, a, b)),
            (New::Exact(a), New::Exact(b)) => New::Exact(self.b.ins().select(p, a, b)),
            (a, b) => {
                let (a, b) = (self.bits(class, a), self.bits(class, b));
                New::Bits(self.b.ins().select(p, a, b))
            }
        };
        self.set((class, d), new);
    }

    pub(super) fn special(&mut self, which: Special) -> Value {
        if let Some(n) = special::index(which) {
            return self.fixed(Fixed::Special(n));
        }
        let one = |s: &mut Self| {
            let one = s.b.ins().iconst(I32, 1);
            s.b.ins().ishl(one, s.lane)
        };
        match which {
            Special::Tid(n) => {
                let tid = self.fixed(Fixed::Field(offset_of!(Context, tid)));
                let at = self.b.ins().iadd(tid, self.lane4);
                self.b.ins().load(I32, plain(), at, ROW32 * (i32::from(n) % 3))
            }
            Special::LanemaskEq => one(self),
            Special::LanemaskLt => {
                let bit = one(self);
                self.b.ins().iadd_imm_s(bit, -1)
            }
            Special::LanemaskLe => {
                let bit = one(self);
                let below = self.b.ins().iadd_imm_s(bit, -1);
                self.b.ins().bor(below, bit)
            }
            Special::LanemaskGe => {
                let bit = one(self);
                self.b.ins().ineg(bit)
            }
            Special::LanemaskGt => {
                let bit = one(self);
                let v = self.b.ins().ineg(bit);
                self.b.ins().bxor(v, bit)
            }
            _ => self.lane,
        }
    }

    /// A transfer's class of slots.
    pub(super) fn class_of(t: &Transfer) -> Class {
        if t.value.is_wide() { Class::W64 } else { Class::W32 }
    }
}
