//! A thread's slots as values of the machine, and the values that all threads share.

use std::mem::offset_of;

use cranelift_codegen::cursor::{Cursor, FuncCursor};
use cranelift_codegen::ir::condcodes::FloatCC;
use cranelift_codegen::ir::immediates::{Ieee32, Ieee64};
use cranelift_codegen::ir::types::{F32, F64, I8, I32, I64};
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Type, Value};
use cranelift_frontend::Variable;

use super::code::Context;
use super::liveness::Place;
use super::translate::{Fixed, New, Translator, field, plain};
use super::values::Kind;
use crate::ir::{CONSTANT, NONE, Slot};
use crate::ops::Class;
use crate::ops::float32;

/// Loads an element and extends it as a slot wants it.
macro_rules! extended {
    ($at:expr, $base:expr, $offset:expr, $width:expr, $value:expr) => {{
        use crate::ir::Value as V;
        let (flags, base, offset) = (plain(), $base, $offset);
        match ($width, $value) {
            (1, V::Zero32) => $at.ins().uload8(I32, flags, base, offset),
            (1, V::Sign32) => $at.ins().sload8(I32, flags, base, offset),
            (1, V::Sign16) => {
                let v = $at.ins().sload8(I32, flags, base, offset);
                $at.ins().band_imm_u(v, 0xffff)
            }
            (1, V::Zero64) => $at.ins().uload8(I64, flags, base, offset),
            (1, V::Sign64) => $at.ins().sload8(I64, flags, base, offset),
            (2, V::Zero32 | V::Sign16) => $at.ins().uload16(I32, flags, base, offset),
            (2, V::Sign32) => $at.ins().sload16(I32, flags, base, offset),
            (2, V::Zero64) => $at.ins().uload16(I64, flags, base, offset),
            (2, V::Sign64) => $at.ins().sload16(I64, flags, base, offset),
            (4, V::Zero64) => $at.ins().uload32(flags, base, offset),
            (4, V::Sign64) => $at.ins().sload32(flags, base, offset),
            (8, _) => $at.ins().load(I64, flags, base, offset),
            _ => $at.ins().load(I32, flags, base, offset),
        }
    }};
}

impl Translator<'_, '_> {
    pub(super) fn variable(&mut self, number: usize) -> Variable {
        if let Some(variable) = self.variables[number] {
            return variable;
        }
        let ty = match (self.body.shape.place(number).0, self.kinds[number]) {
            (Class::Pred, _) => I8,
            (Class::W32, Kind::Float | Kind::Loose) => F32,
            (Class::W32, _) => I32,
            (Class::W64, Kind::Float | Kind::Loose) => F64,
            (Class::W64, _) => I64,
        };
        let variable = self.b.declare_var(ty);
        self.variables[number] = Some(variable);
        variable
    }

    /// Number, kind and value of a slot. Every slot was checked when the region was made.
    pub(super) fn value(&mut self, place: Place) -> (Kind, Value) {
        let number = self.body.shape.number(place).unwrap_or(0);
        let variable = self.variable(number);
        let value = if self.group.active {
            self.lane_value(number, variable)
        } else {
            self.b.use_var(variable)
        };
        (self.kinds[number], value)
    }

    /// The value of a constant slot.
    pub(super) fn constant32(&self, slot: Slot) -> Option<u32> {
        if slot == NONE {
            return Some(0);
        }
        (slot & CONSTANT != 0)
            .then(|| self.constants.0.get(usize::from(slot & !CONSTANT)).copied().unwrap_or(0))
    }

    pub(super) fn constant64(&self, slot: Slot) -> Option<u64> {
        if slot == NONE {
            return Some(0);
        }
        (slot & CONSTANT != 0)
            .then(|| self.constants.1.get(usize::from(slot & !CONSTANT)).copied().unwrap_or(0))
    }

    /// Makes a NaN the canonical one.
    pub(super) fn canonical32(&mut self, v: Value) -> Value {
        let nan = self.b.ins().fcmp(FloatCC::Unordered, v, v);
        let canonical = self.b.ins().f32const(Ieee32::with_bits(float32::CANONICAL));
        self.b.ins().select(nan, canonical, v)
    }

    pub(super) fn canonical64(&mut self, v: Value) -> Value {
        let nan = self.b.ins().fcmp(FloatCC::Unordered, v, v);
        let bits = crate::ops::float64::bits(f64::NAN);
        let canonical = self.b.ins().f64const(Ieee64::with_bits(bits));
        self.b.ins().select(nan, canonical, v)
    }

    /// A 32-bit slot's bits.
    pub(super) fn int32(&mut self, slot: Slot) -> Value {
        if let Some(v) = self.constant32(slot) {
            return self.b.ins().iconst(I32, i64::from(v));
        }
        match self.value((Class::W32, slot)) {
            (Kind::Loose, v) => {
                let v = self.canonical32(v);
                self.b.ins().bitcast(I32, MemFlagsData::new(), v)
            }
            (Kind::Float, v) => self.b.ins().bitcast(I32, MemFlagsData::new(), v),
            (_, v) => v,
        }
    }

    /// A 64-bit slot's bits.
    pub(super) fn int64(&mut self, slot: Slot) -> Value {
        if let Some(v) = self.constant64(slot) {
            return self.b.ins().iconst(I64, v as i64);
        }
        match self.value((Class::W64, slot)) {
            (Kind::Loose, v) => {
                let v = self.canonical64(v);
                self.b.ins().bitcast(I64, MemFlagsData::new(), v)
            }
            (Kind::Float, v) => self.b.ins().bitcast(I64, MemFlagsData::new(), v),
            (_, v) => v,
        }
    }

    /// A 32-bit slot as a float for arithmetic: a NaN may be any.
    pub(super) fn single_of(&mut self, slot: Slot) -> Value {
        if let Some(v) = self.constant32(slot) {
            return self.b.ins().f32const(Ieee32::with_bits(v));
        }
        match self.value((Class::W32, slot)) {
            (Kind::Loose | Kind::Float, v) => v,
            (_, v) => self.b.ins().bitcast(F32, MemFlagsData::new(), v),
        }
    }

    /// A 64-bit slot as a float for arithmetic.
    pub(super) fn double_of(&mut self, slot: Slot) -> Value {
        if let Some(v) = self.constant64(slot) {
            return self.b.ins().f64const(Ieee64::with_bits(v));
        }
        match self.value((Class::W64, slot)) {
            (Kind::Loose | Kind::Float, v) => v,
            (_, v) => self.b.ins().bitcast(F64, MemFlagsData::new(), v),
        }
    }

    /// Two words as one.
    pub(super) fn pair(&mut self, low: Value, high: Value) -> Value {
        let (low, high) = (self.b.ins().uextend(I64, low), self.b.ins().uextend(I64, high));
        let high = self.b.ins().ishl_imm_u(high, 32);
        self.b.ins().bor(low, high)
    }

    /// A predicate: 0 or 1.
    pub(super) fn pred(&mut self, slot: Slot) -> Value {
        self.value((Class::Pred, slot)).1
    }

    /// A slot as it is, for a copy into a slot of kind `to`.
    pub(super) fn copied(&mut self, class: Class, slot: Slot, to: Kind) -> New {
        let number = self.body.shape.number((class, slot));
        let from = number.filter(|_| slot & CONSTANT == 0 && slot != NONE).map(|n| self.kinds[n]);
        match (to, from, class) {
            (Kind::Loose, Some(Kind::Loose) | None, Class::W32) => New::Loose(self.single_of(slot)),
            (Kind::Loose, Some(Kind::Loose) | None, _) => New::Loose(self.double_of(slot)),
            (Kind::Float, Some(Kind::Float) | None, Class::W32) => New::Exact(self.single_of(slot)),
            (Kind::Float, Some(Kind::Float) | None, _) => New::Exact(self.double_of(slot)),
            (_, _, Class::W32) => New::Bits(self.int32(slot)),
            _ => New::Bits(self.int64(slot)),
        }
    }

    /// Writes a slot, in the lanes that the guard lets through.
    pub(super) fn set(&mut self, place: Place, new: New) {
        let Some(number) = self.body.shape.number(place) else { return };
        if self.capture(place, new) {
            return;
        }
        let value = self.converted(number, new);
        let variable = self.variable(number);
        let value = match self.guard {
            Some(guard) => {
                let old = self.b.use_var(variable);
                self.b.ins().select(guard, value, old)
            }
            None => value,
        };
        self.b.def_var(variable, value);
    }

    /// A value as the slot's variable has it.
    pub(super) fn converted(&mut self, number: usize, new: New) -> Value {
        let (kind, wide) = (self.kinds[number], self.body.shape.place(number).0 == Class::W64);
        match (kind, new) {
            (Kind::Integer | Kind::Predicate, New::Bits(v)) => v,
            (Kind::Integer | Kind::Predicate, New::Exact(v) | New::Loose(v)) => {
                let v = match new {
                    New::Loose(_) if wide => self.canonical64(v),
                    New::Loose(_) => self.canonical32(v),
                    _ => v,
                };
                self.b.ins().bitcast(if wide { I64 } else { I32 }, MemFlagsData::new(), v)
            }
            (_, New::Bits(v)) => {
                self.b.ins().bitcast(if wide { F64 } else { F32 }, MemFlagsData::new(), v)
            }
            (Kind::Float, New::Loose(v)) => {
                if wide {
                    self.canonical64(v)
                } else {
                    self.canonical32(v)
                }
            }
            (_, New::Exact(v) | New::Loose(v)) => v,
        }
    }

    pub(super) fn kind(&self, place: Place) -> Kind {
        self.body.shape.number(place).map_or(Kind::Integer, |n| self.kinds[n])
    }

    /// The final bits of a value.
    pub(super) fn bits(&mut self, class: Class, new: New) -> Value {
        let ty: Type = if class == Class::W64 { I64 } else { I32 };
        match new {
            New::Bits(v) => v,
            New::Exact(v) => self.b.ins().bitcast(ty, MemFlagsData::new(), v),
            New::Loose(v) => {
                let v = if ty == I64 { self.canonical64(v) } else { self.canonical32(v) };
                self.b.ins().bitcast(ty, MemFlagsData::new(), v)
            }
        }
    }

    /// Makes a value before the loop, once.
    pub(super) fn fixed(&mut self, what: Fixed) -> Value {
        if let Some(&value) = self.fixed.get(&what) {
            return value;
        }
        let wanted = match what {
            Fixed::Shifted(at, _) => Some(Fixed::Field(at)),
            Fixed::Frame => Some(Fixed::Field(offset_of!(Context, frame))),
            Fixed::Param(..) => Some(Fixed::Field(offset_of!(Context, params))),
            _ => None,
        };
        let base = wanted.map(|w| self.fixed(w)).unwrap_or(self.context);
        let local = match what {
            Fixed::Frame => self.fixed(Fixed::Field(offset_of!(Context, local))),
            _ => base,
        };
        let mut cursor = FuncCursor::new(self.b.func);
        cursor.goto_last_inst(self.prologue);
        let value = match what {
            Fixed::Field(at) => cursor.ins().load(I64, plain(), base, field(at)),
            Fixed::Shifted(_, by) => cursor.ins().ushr_imm_u(base, i64::from(by)),
            Fixed::Special(n) => {
                let at = field(offset_of!(Context, specials) + 4 * n);
                cursor.ins().load(I32, plain(), base, at)
            }
            Fixed::Frame => {
                // A word of all lanes takes 128 bytes, so a byte of a thread's frame 32.
                let bytes = cursor.ins().ishl_imm_u(base, 5);
                cursor.ins().iadd(local, bytes)
            }
            // CAST: parameters are at most 4 KiB (32 KiB for later PTX).
            Fixed::Param(at, width, value) => {
                extended!(cursor, base, at as i32, width, value)
            }
        };
        self.fixed.insert(what, value);
        value
    }

    /// Loads an element and extends it as the slot wants it.
    pub(super) fn extended(
        &mut self,
        base: Value,
        offset: i32,
        width: u8,
        value: crate::ir::Value,
    ) -> Value {
        extended!(self.b, base, offset, width, value)
    }
}
