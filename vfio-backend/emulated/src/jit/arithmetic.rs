//! Arithmetic in machine terms. What has no short form there calls the scalar meaning of the operation, the same one
//! that the interpreter's tests are held to, so both always agree.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::types::{F32, F64, I8, I32, I64};
use cranelift_codegen::ir::{InstBuilder, Value};

use super::code;
use super::translate::Translator;
use crate::ir::{Lanes, Slot};
use crate::ops::compare::Compare;
use crate::ops::convert::Convert;
use crate::ops::float32::Float32;
use crate::ops::float64::Float64;
use crate::ops::half::Half;
use crate::ops::{Class, Signature};

/// Whether the operation's result is a float of which every NaN is the canonical one.
pub(super) fn gives_canonical32(op: Float32) -> bool {
    use Float32 as F;
    matches!(op, F::Add | F::Sub | F::Mul | F::Fma | F::Div | F::Sqrt | F::Rcp | F::Min | F::Max)
}

/// The same for double precision.
pub(super) fn gives_canonical64(op: Float64) -> bool {
    use Float64 as F;
    matches!(op, F::Add | F::Sub | F::Mul | F::Fma | F::Div | F::Sqrt | F::Rcp)
}

pub(super) fn number<T: PartialEq + Copy>(all: &[T], op: T) -> u32 {
    all.iter().position(|&o| o == op).unwrap_or(all.len()) as u32
}

impl Translator<'_, '_> {
    pub(super) fn n32(&mut self, v: u32) -> Value {
        self.b.ins().iconst(I32, i64::from(v))
    }

    /// Calls the scalar meaning.
    pub(super) fn call(
        &mut self,
        function: *const u8,
        op: u32,
        signature: Signature,
        slots: [Slot; 3],
    ) -> Value {
        let mut args = [None; 3];
        for (arg, (&class, slot)) in args.iter_mut().zip(signature.sources.iter().zip(slots)) {
            *arg = Some(match class {
                Class::W64 => self.int64(slot),
                _ => {
                    let v = self.int32(slot);
                    self.b.ins().uextend(I64, v)
                }
            });
        }
        let zero = self.b.ins().iconst(I64, 0);
        let op = self.n32(op);
        let args = [op, args[0].unwrap_or(zero), args[1].unwrap_or(zero), args[2].unwrap_or(zero)];
        let result = self.call_host(function, self.scalar_signature, &args);
        match signature.result {
            Class::W64 => result,
            _ => self.b.ins().ireduce(I32, result),
        }
    }

    /// A single-precision operation; its NaNs may be any where [`gives_canonical32`] holds.
    pub(super) fn single(&mut self, l: &Lanes<Float32>) -> Value {
        use Float32 as O;
        macro_rules! two {
            ($method:ident) => {{
                let (a, b) = (self.single_of(l.a), self.single_of(l.b));
                self.b.ins().$method(a, b)
            }};
        }
        match l.op {
            O::Add => two!(fadd),
            O::Sub => two!(fsub),
            O::Mul => two!(fmul),
            O::Div => two!(fdiv),
            O::Fma => {
                let (a, b, c) = (self.single_of(l.a), self.single_of(l.b), self.single_of(l.c));
                self.b.ins().fma(a, b, c)
            }
            O::Sqrt => {
                let a = self.single_of(l.a);
                self.b.ins().sqrt(a)
            }
            O::Rcp => {
                let a = self.single_of(l.a);
                let one = self.b.ins().f32const(1.0f32);
                self.b.ins().fdiv(one, a)
            }
            O::Abs | O::Neg if l.x & 4 == 0 => {
                // On bits: a NaN keeps its payload.
                let a = self.int32(l.a);
                let v = if l.op == O::Abs {
                    self.b.ins().band_imm_u(a, 0x7fff_ffff)
                } else {
                    self.b.ins().bxor_imm_u(a, 0x8000_0000)
                };
                self.b.ins().bitcast(F32, cranelift_codegen::ir::MemFlagsData::new(), v)
            }
            O::Min | O::Max if l.x == 0 => {
                // The larger or smaller where they differ; equal ones and NaNs have rules of their own.
                let (a, b) = (self.single_of(l.a), self.single_of(l.b));
                let (first, second) = if l.op == O::Max {
                    (FloatCC::GreaterThan, FloatCC::LessThan)
                } else {
                    (FloatCC::LessThan, FloatCC::GreaterThan)
                };
                let (done, other, rare) =
                    (self.b.create_block(), self.b.create_block(), self.b.create_block());
                self.b.append_block_param(done, F32);
                self.b.set_cold_block(rare);
                let yes = self.b.ins().fcmp(first, a, b);
                self.b.ins().brif(yes, done, &[a.into()], other, &[]);
                self.b.switch_to_block(other);
                let yes = self.b.ins().fcmp(second, a, b);
                self.b.ins().brif(yes, done, &[b.into()], rare, &[]);
                self.b.switch_to_block(rare);
                let v = self.call_single(l);
                self.b.ins().jump(done, &[v.into()]);
                self.b.switch_to_block(done);
                self.b.block_params(done)[0]
            }
            _ => self.call_single(l),
        }
    }

    pub(super) fn call_single(&mut self, l: &Lanes<Float32>) -> Value {
        let bits = self.call(
            code::float32 as *const u8,
            number(Float32::ALL, l.op) << 8 | u32::from(l.x),
            l.op.signature(),
            [l.a, l.b, l.c],
        );
        self.b.ins().bitcast(F32, cranelift_codegen::ir::MemFlagsData::new(), bits)
    }

    /// A double-precision operation; its NaNs may be any where [`gives_canonical64`] holds.
    pub(super) fn double(&mut self, l: &Lanes<Float64>) -> Value {
        use Float64 as O;
        macro_rules! two {
            ($method:ident) => {{
                let (a, b) = (self.double_of(l.a), self.double_of(l.b));
                self.b.ins().$method(a, b)
            }};
        }
        match l.op {
            O::Add => two!(fadd),
            O::Sub => two!(fsub),
            O::Mul => two!(fmul),
            O::Div => two!(fdiv),
            O::Fma => {
                let (a, b, c) = (self.double_of(l.a), self.double_of(l.b), self.double_of(l.c));
                self.b.ins().fma(a, b, c)
            }
            O::Sqrt => {
                let a = self.double_of(l.a);
                self.b.ins().sqrt(a)
            }
            O::Rcp => {
                let a = self.double_of(l.a);
                let one = self.b.ins().f64const(1.0f64);
                self.b.ins().fdiv(one, a)
            }
            op => {
                let bits = self.call(
                    code::float64 as *const u8,
                    number(O::ALL, op) << 8 | u32::from(l.x),
                    op.signature(),
                    [l.a, l.b, l.c],
                );
                self.b.ins().bitcast(F64, cranelift_codegen::ir::MemFlagsData::new(), bits)
            }
        }
    }

    /// A half-precision operation.
    pub(super) fn half(&mut self, l: &Lanes<Half>) -> Value {
        self.call(
            code::half as *const u8,
            number(Half::ALL, l.op) << 8 | u32::from(l.x),
            l.op.signature(),
            [l.a, l.b, l.c],
        )
    }

    /// A conversion; the value is a float of the machine where `is_float_result` says so.
    pub(super) fn convert(&mut self, l: &Lanes<Convert>) -> Value {
        use Convert as O;
        match (l.op, l.x) {
            (O::S32ToF32, x) if x & 3 == 0 => {
                let a = self.int32(l.a);
                self.b.ins().fcvt_from_sint(F32, a)
            }
            (O::U32ToF32, x) if x & 3 == 0 => {
                let a = self.int32(l.a);
                let a = self.b.ins().uextend(I64, a);
                self.b.ins().fcvt_from_sint(F32, a)
            }
            (O::S32ToF64, _) => {
                let a = self.int32(l.a);
                self.b.ins().fcvt_from_sint(F64, a)
            }
            (O::U32ToF64, _) => {
                let a = self.int32(l.a);
                let a = self.b.ins().uextend(I64, a);
                self.b.ins().fcvt_from_sint(F64, a)
            }
            (O::F32ToF64, 0) => {
                let a = self.single_of(l.a);
                self.b.ins().fpromote(F64, a)
            }
            (O::F64ToF32, 0) => {
                let a = self.double_of(l.a);
                self.b.ins().fdemote(F32, a)
            }
            (O::F32ToS32, 1) => {
                let a = self.single_of(l.a);
                self.b.ins().fcvt_to_sint_sat(I32, a)
            }
            (O::F32ToU32, 1) => {
                let a = self.single_of(l.a);
                self.b.ins().fcvt_to_uint_sat(I32, a)
            }
            (op, x) => self.call(
                code::convert as *const u8,
                number(O::ALL, op) << 8 | u32::from(x),
                op.signature(),
                [l.a, l.b, l.c],
            ),
        }
    }

    /// A comparison: 0 or 1 in eight bits.
    pub(super) fn comparison(&mut self, op: Compare, x: u8, a: Slot, b: Slot) -> Value {
        use Compare as C;
        let integer = |op: C| {
            Some(match op {
                C::Eq32 | C::Eq64 => IntCC::Equal,
                C::Ne32 | C::Ne64 => IntCC::NotEqual,
                C::LtU32 | C::LtU64 => IntCC::UnsignedLessThan,
                C::LeU32 | C::LeU64 => IntCC::UnsignedLessThanOrEqual,
                C::GtU32 | C::GtU64 => IntCC::UnsignedGreaterThan,
                C::GeU32 | C::GeU64 => IntCC::UnsignedGreaterThanOrEqual,
                C::LtS32 | C::LtS64 => IntCC::SignedLessThan,
                C::LeS32 | C::LeS64 => IntCC::SignedLessThanOrEqual,
                C::GtS32 | C::GtS64 => IntCC::SignedGreaterThan,
                C::GeS32 | C::GeS64 => IntCC::SignedGreaterThanOrEqual,
                _ => return None,
            })
        };
        let float = |op: C| {
            Some(match op {
                C::EqF32 | C::EqF64 => FloatCC::Equal,
                C::NeF32 | C::NeF64 => FloatCC::OrderedNotEqual,
                C::LtF32 | C::LtF64 => FloatCC::LessThan,
                C::LeF32 | C::LeF64 => FloatCC::LessThanOrEqual,
                C::GtF32 | C::GtF64 => FloatCC::GreaterThan,
                C::GeF32 | C::GeF64 => FloatCC::GreaterThanOrEqual,
                C::EquF32 | C::EquF64 => FloatCC::UnorderedOrEqual,
                C::NeuF32 | C::NeuF64 => FloatCC::NotEqual,
                C::LtuF32 | C::LtuF64 => FloatCC::UnorderedOrLessThan,
                C::LeuF32 | C::LeuF64 => FloatCC::UnorderedOrLessThanOrEqual,
                C::GtuF32 | C::GtuF64 => FloatCC::UnorderedOrGreaterThan,
                C::GeuF32 | C::GeuF64 => FloatCC::UnorderedOrGreaterThanOrEqual,
                C::NumF32 | C::NumF64 => FloatCC::Ordered,
                C::NanF32 | C::NanF64 => FloatCC::Unordered,
                _ => return None,
            })
        };
        let wide = op.class() == Class::W64;
        if let Some(condition) = integer(op) {
            let (a, b) =
                if wide { (self.int64(a), self.int64(b)) } else { (self.int32(a), self.int32(b)) };
            return self.b.ins().icmp(condition, a, b);
        }
        if let Some(condition) = float(op) {
            let (a, b) = if wide {
                (self.double_of(a), self.double_of(b))
            } else {
                (self.single_of(a), self.single_of(b))
            };
            return self.b.ins().fcmp(condition, a, b);
        }
        let class = op.class();
        let sources: &'static [Class] = match class {
            Class::W64 => &[Class::W64, Class::W64],
            _ => &[Class::W32, Class::W32],
        };
        let signature = Signature { result: Class::W64, sources };
        let op = number(C::ALL, op) << 8 | u32::from(x);
        let v = self.call(code::compare as *const u8, op, signature, [a, b, 0]);
        self.b.ins().ireduce(I8, v)
    }
}

/// Whether [`Translator::convert`] leaves a float of the machine, with NaNs of any kind.
pub(super) fn is_float_result(op: Convert, x: u8) -> bool {
    use Convert as O;
    match op {
        O::S32ToF32 | O::U32ToF32 => x & 3 == 0,
        O::S32ToF64 | O::U32ToF64 => true,
        O::F32ToF64 | O::F64ToF32 => x == 0,
        _ => false,
    }
}
