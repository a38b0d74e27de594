//! Arithmetic in machine terms. What has no short form there calls the scalar meaning of the operation, the same one
//! that the interpreter's tests are held to, so both always agree.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::types::{F32, F64, I8, I16, I32, I64};
use cranelift_codegen::ir::{InstBuilder, Value};

use super::code;
use super::translate::Translator;
use crate::ir::{Lanes, Slot};
use crate::ops::compare::Compare;
use crate::ops::convert::Convert;
use crate::ops::float32::Float32;
use crate::ops::float64::Float64;
use crate::ops::half::Half;
use crate::ops::int32::Int32;
use crate::ops::int64::Int64;
use crate::ops::{Class, Signature};

/// A function of two operand values.
type Binary = fn(&mut Translator<'_, '_>, Value, Value) -> Value;

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

fn number<T: PartialEq + Copy>(all: &[T], op: T) -> u32 {
    all.iter().position(|&o| o == op).unwrap_or(all.len()) as u32
}

impl Translator<'_, '_> {
    fn n32(&mut self, v: u32) -> Value {
        self.b.ins().iconst(I32, i64::from(v))
    }

    /// Calls the scalar meaning.
    fn call(
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

    /// Shifts by `count`, at least the width giving `beyond`.
    fn shift(&mut self, l: (Slot, Slot), wide: bool, op: Binary, beyond: Option<u32>) -> Value {
        let a = if wide { self.int64(l.0) } else { self.int32(l.0) };
        let width = if wide { 64 } else { 32 };
        if let Some(n) = self.constant32(l.1) {
            if n >= width {
                return match beyond {
                    Some(_) => self.b.ins().iconst(if wide { I64 } else { I32 }, 0),
                    None => {
                        let n = self.n32(width - 1);
                        op(self, a, n)
                    }
                };
            }
            let n = self.n32(n);
            return op(self, a, n);
        }
        let n = self.int32(l.1);
        let most = self.n32(width - 1);
        match beyond {
            None => {
                let n = self.b.ins().umin(n, most);
                op(self, a, n)
            }
            Some(_) => {
                let v = op(self, a, n);
                let over = self.b.ins().icmp(IntCC::UnsignedGreaterThan, n, most);
                let zero = self.b.ins().iconst(if wide { I64 } else { I32 }, 0);
                self.b.ins().select(over, zero, v)
            }
        }
    }

    /// A three-operand truth table, by cases of the first operand.
    fn table3(&mut self, [a, b, c]: [Value; 3], table: u8) -> Value {
        let (high, low) = (table >> 4, table & 15);
        let f1 = self.table2(b, c, high);
        if high == low {
            return f1;
        }
        if high == !low & 15 {
            // f = (b, c part) xor not a.
            let f0 = self.table2(b, c, low);
            return self.b.ins().bxor(f0, a);
        }
        match (high, low) {
            (15, _) => {
                let f0 = self.table2(b, c, low);
                self.b.ins().bor(f0, a)
            }
            (_, 0) => self.b.ins().band(f1, a),
            (0, _) => {
                let f0 = self.table2(b, c, low);
                self.b.ins().band_not(f0, a)
            }
            (_, 15) => self.b.ins().bor_not(f1, a),
            _ => {
                let f0 = self.table2(b, c, low);
                let x = self.b.ins().bxor(f0, f1);
                let x = self.b.ins().band(x, a);
                self.b.ins().bxor(x, f0)
            }
        }
    }

    /// A two-operand truth table: bit 2b + c.
    fn table2(&mut self, b: Value, c: Value, table: u8) -> Value {
        let ins = self.b.ins();
        match table & 15 {
            0 => ins.iconst(I32, 0),
            1 => {
                let v = ins.bor(b, c);
                self.b.ins().bnot(v)
            }
            2 => ins.band_not(c, b),
            3 => ins.bnot(b),
            4 => ins.band_not(b, c),
            5 => ins.bnot(c),
            6 => ins.bxor(b, c),
            7 => {
                let v = ins.band(b, c);
                self.b.ins().bnot(v)
            }
            8 => ins.band(b, c),
            9 => {
                let v = ins.bxor(b, c);
                self.b.ins().bnot(v)
            }
            10 => c,
            11 => ins.bor_not(c, b),
            12 => b,
            13 => ins.bor_not(b, c),
            14 => ins.bor(b, c),
            _ => ins.iconst(I32, i64::from(u32::MAX)),
        }
    }

    /// High half of a 32-bit product.
    fn high32(&mut self, a: Value, b: Value, signed: bool) -> Value {
        let (a, b) = if signed {
            (self.b.ins().sextend(I64, a), self.b.ins().sextend(I64, b))
        } else {
            (self.b.ins().uextend(I64, a), self.b.ins().uextend(I64, b))
        };
        let product = self.b.ins().imul(a, b);
        let high = self.b.ins().ushr_imm_u(product, 32);
        self.b.ins().ireduce(I32, high)
    }

    /// Low 16 bits, sign-extended or not.
    fn part(&mut self, v: Value, ty: cranelift_codegen::ir::Type, signed: bool) -> Value {
        let v = self.b.ins().ireduce(ty, v);
        if signed { self.b.ins().sextend(I32, v) } else { self.b.ins().uextend(I32, v) }
    }

    /// A 32-bit integer operation.
    pub(super) fn integer32(&mut self, l: &Lanes<Int32>) -> Value {
        use Int32 as O;
        macro_rules! a {
            () => {
                self.int32(l.a)
            };
        }
        macro_rules! ab {
            () => {
                (self.int32(l.a), self.int32(l.b))
            };
        }
        macro_rules! abc {
            () => {
                (self.int32(l.a), self.int32(l.b), self.int32(l.c))
            };
        }
        macro_rules! two {
            ($method:ident) => {{
                let (a, b) = ab!();
                self.b.ins().$method(a, b)
            }};
        }
        match l.op {
            O::Mov => a!(),
            O::Add => two!(iadd),
            O::Sub => two!(isub),
            O::MulLo => two!(imul),
            O::And => two!(band),
            O::Or => two!(bor),
            O::Xor => two!(bxor),
            O::MinU => two!(umin),
            O::MaxU => two!(umax),
            O::MinS => two!(smin),
            O::MaxS => two!(smax),
            O::MadLo => {
                let (a, b, c) = abc!();
                let p = self.b.ins().imul(a, b);
                self.b.ins().iadd(p, c)
            }
            O::MulHiU | O::MulHiS => {
                let (a, b) = ab!();
                self.high32(a, b, l.op == O::MulHiS)
            }
            O::MadHiU | O::MadHiS => {
                let (a, b, c) = abc!();
                let high = self.high32(a, b, l.op == O::MadHiS);
                self.b.ins().iadd(high, c)
            }
            O::AddC => {
                let (a, b, c) = abc!();
                let v = self.b.ins().iadd(a, b);
                self.b.ins().iadd(v, c)
            }
            O::SubC => {
                let (a, b, c) = abc!();
                let v = self.b.ins().isub(a, b);
                self.b.ins().isub(v, c)
            }
            O::CarryAdd => {
                let (a, b, c) = abc!();
                let [a, b, c] = [a, b, c].map(|v| self.b.ins().uextend(I64, v));
                let v = self.b.ins().iadd(a, b);
                let v = self.b.ins().iadd(v, c);
                let v = self.b.ins().ushr_imm_u(v, 32);
                self.b.ins().ireduce(I32, v)
            }
            O::BorrowSub => {
                let (a, b, c) = abc!();
                let [a, b, c] = [a, b, c].map(|v| self.b.ins().uextend(I64, v));
                let v = self.b.ins().iadd(b, c);
                let v = self.b.ins().icmp(IntCC::UnsignedLessThan, a, v);
                self.b.ins().uextend(I32, v)
            }
            O::Not => {
                let a = a!();
                self.b.ins().bnot(a)
            }
            O::Neg => {
                let a = a!();
                self.b.ins().ineg(a)
            }
            O::Abs => {
                let a = a!();
                self.b.ins().iabs(a)
            }
            O::CNot => {
                let a = a!();
                let v = self.b.ins().icmp_imm_s(IntCC::Equal, a, 0);
                self.b.ins().uextend(I32, v)
            }
            O::Popc => {
                let a = a!();
                self.b.ins().popcnt(a)
            }
            O::Clz => {
                let a = a!();
                self.b.ins().clz(a)
            }
            O::Brev => {
                let a = a!();
                self.b.ins().bitrev(a)
            }
            O::Shl => self.shift((l.a, l.b), false, |t, a, n| t.b.ins().ishl(a, n), Some(0)),
            O::ShrU => self.shift((l.a, l.b), false, |t, a, n| t.b.ins().ushr(a, n), Some(0)),
            O::ShrS => self.shift((l.a, l.b), false, |t, a, n| t.b.ins().sshr(a, n), None),
            O::Lop3 => {
                let (a, b, c) = abc!();
                self.table3([a, b, c], l.x)
            }
            O::DivU | O::RemU | O::DivS | O::RemS => {
                let (a, b) = ab!();
                let signed = matches!(l.op, O::DivS | O::RemS);
                let none = self.b.ins().icmp_imm_s(IntCC::Equal, b, 0);
                let one = self.n32(1);
                let safe = self.b.ins().select(none, one, b);
                let v = if signed {
                    let (x, y) = (self.b.ins().sextend(I64, a), self.b.ins().sextend(I64, safe));
                    let v = if l.op == O::DivS {
                        self.b.ins().sdiv(x, y)
                    } else {
                        self.b.ins().srem(x, y)
                    };
                    self.b.ins().ireduce(I32, v)
                } else if l.op == O::DivU {
                    self.b.ins().udiv(a, safe)
                } else {
                    self.b.ins().urem(a, safe)
                };
                let otherwise =
                    if matches!(l.op, O::DivU | O::DivS) { self.n32(u32::MAX) } else { a };
                self.b.ins().select(none, otherwise, v)
            }
            O::SlctS => {
                let (a, b, c) = abc!();
                let yes = self.b.ins().icmp_imm_s(IntCC::SignedGreaterThanOrEqual, c, 0);
                self.b.ins().select(yes, a, b)
            }
            O::Pack16 => {
                let (a, b) = ab!();
                let low = self.part(a, I16, false);
                let high = self.b.ins().ishl_imm_u(b, 16);
                self.b.ins().bor(low, high)
            }
            O::Low16 => {
                let a = a!();
                self.part(a, I16, false)
            }
            O::High16 => {
                let a = a!();
                self.b.ins().ushr_imm_u(a, 16)
            }
            O::Zext8 => {
                let a = a!();
                self.part(a, I8, false)
            }
            O::Sext8 => {
                let a = a!();
                self.part(a, I8, true)
            }
            O::Sext16 => {
                let a = a!();
                self.part(a, I16, true)
            }
            O::Byte => {
                let a = a!();
                let v = self.b.ins().ushr_imm_u(a, 8 * i64::from(l.x & 3));
                self.part(v, I8, false)
            }
            O::Add16 | O::Sub16 | O::MulLo16 => {
                let (a, b) = ab!();
                let v = match l.op {
                    O::Add16 => self.b.ins().iadd(a, b),
                    O::Sub16 => self.b.ins().isub(a, b),
                    _ => self.b.ins().imul(a, b),
                };
                self.part(v, I16, false)
            }
            O::MulWideU16 | O::MulWideS16 => {
                let (a, b) = ab!();
                let signed = l.op == O::MulWideS16;
                let (a, b) = (self.part(a, I16, signed), self.part(b, I16, signed));
                self.b.ins().imul(a, b)
            }
            O::ShfL | O::ShfR if self.constant32(l.c).is_some() => {
                let n = self.constant32(l.c).unwrap_or(0);
                let n = if l.x == 1 { n.min(32) } else { n & 31 };
                let (a, b) = ab!();
                let both = self.pair(a, b);
                if l.op == O::ShfL {
                    let v = self.b.ins().ushr_imm_u(both, i64::from(32 - n));
                    self.b.ins().ireduce(I32, v)
                } else {
                    let v = self.b.ins().ushr_imm_u(both, i64::from(n));
                    self.b.ins().ireduce(I32, v)
                }
            }
            O::BfeU | O::BfeS
                if matches!(
                    (self.constant32(l.b), self.constant32(l.c)),
                    (Some(p), Some(n)) if n & 0xff > 0 && (p & 0xff) + (n & 0xff) <= 32
                ) =>
            {
                let p = self.constant32(l.b).unwrap_or(0) & 0xff;
                let n = self.constant32(l.c).unwrap_or(32) & 0xff;
                let a = a!();
                let up = self.b.ins().ishl_imm_u(a, i64::from(32 - p - n));
                if l.op == O::BfeU {
                    self.b.ins().ushr_imm_u(up, i64::from(32 - n))
                } else {
                    self.b.ins().sshr_imm_u(up, i64::from(32 - n))
                }
            }
            op => self.call(
                code::int32 as *const u8,
                number(O::ALL, op) << 8 | u32::from(l.x),
                op.signature(),
                [l.a, l.b, l.c],
            ),
        }
    }

    /// A 64-bit integer operation: 64 or 32 bits, as its signature says.
    pub(super) fn integer64(&mut self, l: &Lanes<Int64>) -> Value {
        use Int64 as O;
        macro_rules! two {
            ($method:ident) => {{
                let (a, b) = (self.int64(l.a), self.int64(l.b));
                self.b.ins().$method(a, b)
            }};
        }
        match l.op {
            O::Mov => self.int64(l.a),
            O::Add => two!(iadd),
            O::Sub => two!(isub),
            O::MulLo => two!(imul),
            O::MulHiU => two!(umulhi),
            O::MulHiS => two!(smulhi),
            O::And => two!(band),
            O::Or => two!(bor),
            O::Xor => two!(bxor),
            O::MinU => two!(umin),
            O::MaxU => two!(umax),
            O::MinS => two!(smin),
            O::MaxS => two!(smax),
            O::MadLo => {
                let (a, b, c) = (self.int64(l.a), self.int64(l.b), self.int64(l.c));
                let p = self.b.ins().imul(a, b);
                self.b.ins().iadd(p, c)
            }
            O::MulWideU | O::MulWideS | O::MadWideU | O::MadWideS => {
                let (a, b) = (self.int32(l.a), self.int32(l.b));
                let (a, b) = if matches!(l.op, O::MulWideS | O::MadWideS) {
                    (self.b.ins().sextend(I64, a), self.b.ins().sextend(I64, b))
                } else {
                    (self.b.ins().uextend(I64, a), self.b.ins().uextend(I64, b))
                };
                let p = self.b.ins().imul(a, b);
                if matches!(l.op, O::MulWideU | O::MulWideS) {
                    return p;
                }
                let c = self.int64(l.c);
                self.b.ins().iadd(p, c)
            }
            O::Not => {
                let a = self.int64(l.a);
                self.b.ins().bnot(a)
            }
            O::Neg => {
                let a = self.int64(l.a);
                self.b.ins().ineg(a)
            }
            O::Abs => {
                let a = self.int64(l.a);
                self.b.ins().iabs(a)
            }
            O::Popc => {
                let a = self.int64(l.a);
                let v = self.b.ins().popcnt(a);
                self.b.ins().ireduce(I32, v)
            }
            O::Clz => {
                let a = self.int64(l.a);
                let v = self.b.ins().clz(a);
                self.b.ins().ireduce(I32, v)
            }
            O::Shl => self.shift((l.a, l.b), true, |t, a, n| t.b.ins().ishl(a, n), Some(0)),
            O::ShrU => self.shift((l.a, l.b), true, |t, a, n| t.b.ins().ushr(a, n), Some(0)),
            O::ShrS => self.shift((l.a, l.b), true, |t, a, n| t.b.ins().sshr(a, n), None),
            O::Pack32 => {
                let (a, b) = (self.int32(l.a), self.int32(l.b));
                self.pair(a, b)
            }
            O::Low32 => {
                let a = self.int64(l.a);
                self.b.ins().ireduce(I32, a)
            }
            O::High32 => {
                let a = self.int64(l.a);
                let v = self.b.ins().ushr_imm_u(a, 32);
                self.b.ins().ireduce(I32, v)
            }
            O::Zext32 => {
                let a = self.int32(l.a);
                self.b.ins().uextend(I64, a)
            }
            O::Sext32 => {
                let a = self.int32(l.a);
                self.b.ins().sextend(I64, a)
            }
            op => self.call(
                code::int64 as *const u8,
                number(O::ALL, op) << 8 | u32::from(l.x),
                op.signature(),
                [l.a, l.b, l.c],
            ),
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

    fn call_single(&mut self, l: &Lanes<Float32>) -> Value {
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
