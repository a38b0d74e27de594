//! Integer arithmetic in machine terms.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I8, I16, I32, I64};
use cranelift_codegen::ir::{InstBuilder, Value};

use super::arithmetic::number;
use super::code;
use super::translate::Translator;
use crate::ir::{Lanes, Slot};
use crate::ops::int32::Int32;
use crate::ops::int64::Int64;

/// A function of two operand values.
type Binary = fn(&mut Translator<'_, '_>, Value, Value) -> Value;

impl Translator<'_, '_> {
    /// Shifts by `count`, at least the width giving `beyond`.
    pub(super) fn shift(
        &mut self,
        l: (Slot, Slot),
        wide: bool,
        op: Binary,
        beyond: Option<u32>,
    ) -> Value {
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
    pub(super) fn table3(&mut self, [a, b, c]: [Value; 3], table: u8) -> Value {
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
    pub(super) fn table2(&mut self, b: Value, c: Value, table: u8) -> Value {
        let vector = self.b.func.dfg.value_type(b).is_vector();
        if vector && matches!(table & 15, 0 | 15) {
            return self.all(crate::ops::Class::W32, if table & 15 == 0 { 0 } else { u64::MAX });
        }
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
    pub(super) fn high32(&mut self, a: Value, b: Value, signed: bool) -> Value {
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
    pub(super) fn part(
        &mut self,
        v: Value,
        ty: cranelift_codegen::ir::Type,
        signed: bool,
    ) -> Value {
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
}
