//! Arithmetic of a whole group in vectors. What has no good form there is left to the lanes' own code.

use cranelift_codegen::ir::condcodes::FloatCC;
use cranelift_codegen::ir::types::{F32X4, F64X2, I8X16, I32X4, I64X2};
use cranelift_codegen::ir::{InstBuilder, Type, Value};

use super::arithmetic::{gives_canonical32, gives_canonical64};
use super::liveness::Place;
use super::translate::Translator;
use crate::ir::{CONSTANT, Combine, Lanes, NONE, Op, Slot};
use crate::ops::Class;
use crate::ops::convert::Convert;
use crate::ops::float32::Float32;
use crate::ops::float64::Float64;
use crate::ops::int32::Int32;
use crate::ops::int64::Int64;

/// Results: place, vectors, and whether they are floats of any NaN.
pub(super) type Results = Vec<(Place, Vec<Value>, bool)>;

/// Picks 32-bit elements out of two vectors: 0 to 3 of the first, 4 to 7 of the second.
const fn pick(lanes: [u8; 4]) -> [u8; 16] {
    let mut out = [0; 16];
    let mut i = 0;
    while i < 16 {
        out[i] = lanes[i / 4] * 4 + (i % 4) as u8;
        i += 1;
    }
    out
}

/// Whether [`Translator::wide`] is likely to have a form for an instruction whose lanes differ.
pub(super) fn has_vectors(op: &Op) -> bool {
    use Float32 as F;
    use Int32 as I;
    use Int64 as L;
    match op {
        Op::Half(_) => false,
        Op::Convert(l) => matches!(l.op, Convert::S32ToF32 | Convert::F32ToS32) && l.x & 3 < 2,
        Op::Float32(l) => match l.op {
            F::Add | F::Sub | F::Mul | F::Div | F::Fma | F::Sqrt | F::Rcp => true,
            F::Abs | F::Neg => l.x & 4 == 0,
            F::Min | F::Max => l.x == 0,
            _ => false,
        },
        Op::Float64(l) => {
            use Float64 as D;
            matches!(l.op, D::Add | D::Sub | D::Mul | D::Div | D::Fma | D::Sqrt)
        }
        Op::Int32(l) => match l.op {
            I::Shl | I::ShrU | I::ShrS => l.b & CONSTANT != 0,
            I::BfeU | I::BfeS => l.b & l.c & CONSTANT != 0,
            I::ShfL | I::ShfR => l.c & CONSTANT != 0,
            I::Mov | I::Add | I::Sub | I::MulLo | I::MadLo | I::Neg | I::Abs | I::Not => true,
            I::And | I::Or | I::Xor | I::Lop3 | I::MinU | I::MaxU | I::MinS | I::MaxS => true,
            I::Low16 | I::High16 | I::Zext8 | I::Sext8 | I::Sext16 | I::Byte | I::Pack16 => true,
            I::Add16 | I::Sub16 | I::MulLo16 | I::MulWideU16 | I::MulWideS16 => true,
            _ => false,
        },
        Op::Int64(l) => match l.op {
            L::Shl | L::ShrU | L::ShrS => l.b & CONSTANT != 0,
            L::Mov | L::Add | L::Sub | L::And | L::Or | L::Xor | L::Not | L::Neg => true,
            L::MulWideU | L::MulWideS | L::MadWideU | L::MadWideS | L::MulLo | L::MadLo => true,
            L::Zext32 | L::Sext32 | L::Low32 | L::High32 | L::Pack32 => true,
            _ => false,
        },
        _ => true,
    }
}

impl Translator<'_, '_> {
    /// 32-bit elements of two vectors of one type.
    pub(super) fn pick(&mut self, ty: Type, a: Value, b: Value, lanes: [u8; 4]) -> Value {
        let (a, b) = (self.cast(I8X16, a), self.cast(I8X16, b));
        let mask = self.b.func.dfg.immediates.push(pick(lanes)[..].into());
        let v = self.b.ins().shuffle(a, b, mask);
        self.cast(ty, v)
    }

    pub(super) fn map1(
        &mut self,
        a: Vec<Value>,
        f: impl Fn(&mut Self, Value) -> Value,
    ) -> Vec<Value> {
        a.into_iter().map(|a| f(self, a)).collect()
    }

    pub(super) fn map2(
        &mut self,
        (a, b): (Vec<Value>, Vec<Value>),
        f: impl Fn(&mut Self, Value, Value) -> Value,
    ) -> Vec<Value> {
        a.into_iter().zip(b).map(|(a, b)| f(self, a, b)).collect()
    }

    /// Every 32-bit vector as two of 64-bit elements.
    pub(super) fn widen(&mut self, a: Vec<Value>, signed: bool) -> Vec<Value> {
        a.into_iter()
            .flat_map(|v| {
                if signed {
                    [self.b.ins().swiden_low(v), self.b.ins().swiden_high(v)]
                } else {
                    [self.b.ins().uwiden_low(v), self.b.ins().uwiden_high(v)]
                }
            })
            .collect()
    }

    /// The low or high words of 64-bit elements.
    pub(super) fn words_of(&mut self, a: &[Value], high: bool) -> Vec<Value> {
        let lanes = if high { [1, 3, 5, 7] } else { [0, 2, 4, 6] };
        a.chunks(2).map(|c| self.pick(I32X4, c[0], c[1], lanes)).collect()
    }

    /// 64-bit elements of low and high words.
    pub(super) fn paired(&mut self, low: &[Value], high: &[Value]) -> Vec<Value> {
        let both = low.iter().zip(high);
        both.flat_map(|(&l, &h)| {
            [self.pick(I64X2, l, h, [0, 4, 1, 5]), self.pick(I64X2, l, h, [2, 6, 3, 7])]
        })
        .collect()
    }

    fn shifted(&mut self, class: Class, op: (u8, Slot, Slot)) -> Option<Vec<Value>> {
        let (kind, a, n) = op;
        let width = if class == Class::W64 { 64 } else { 32 };
        let n = self.constant32(n)?;
        if n >= width && kind != b's' {
            return Some(vec![self.all(class, 0); super::group::vectors_of(class).1]);
        }
        let n = self.n32(n.min(width - 1));
        let a = self.many((class, a));
        Some(self.map1(a, |t, a| match kind {
            b'l' => t.b.ins().ishl(a, n),
            b'u' => t.b.ins().ushr(a, n),
            _ => t.b.ins().sshr(a, n),
        }))
    }

    /// A function of the low `bits` bits.
    fn low(&mut self, a: Vec<Value>, bits: u32, signed: bool) -> Vec<Value> {
        if signed {
            let n = self.n32(32 - bits);
            return self.map1(a, |t, v| {
                let v = t.b.ins().ishl(v, n);
                t.b.ins().sshr(v, n)
            });
        }
        let mask = self.all(Class::W32, (1 << bits) - 1);
        self.map1(a, |t, v| t.b.ins().band(v, mask))
    }

    fn integers32(&mut self, l: &Lanes<Int32>) -> Option<Vec<Value>> {
        use Int32 as O;
        let w = Class::W32;
        let sources = |t: &mut Self| (t.many((w, l.a)), t.many((w, l.b)));
        macro_rules! two {
            ($method:ident) => {{
                let ab = sources(self);
                self.map2(ab, |t, a, b| t.b.ins().$method(a, b))
            }};
        }
        Some(match l.op {
            O::Mov => self.many((w, l.a)),
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
                let product = two!(imul);
                let c = self.many((w, l.c));
                self.map2((product, c), |t, p, c| t.b.ins().iadd(p, c))
            }
            O::Not => {
                let a = self.many((w, l.a));
                self.map1(a, |t, a| t.b.ins().bnot(a))
            }
            O::Neg => {
                let a = self.many((w, l.a));
                self.map1(a, |t, a| t.b.ins().ineg(a))
            }
            O::Abs => {
                let a = self.many((w, l.a));
                self.map1(a, |t, a| t.b.ins().iabs(a))
            }
            O::Shl => return self.shifted(w, (b'l', l.a, l.b)),
            O::ShrU => return self.shifted(w, (b'u', l.a, l.b)),
            O::ShrS => return self.shifted(w, (b's', l.a, l.b)),
            O::Lop3 => {
                let (a, b) = sources(self);
                let c = self.many((w, l.c));
                let all = a.into_iter().zip(b).zip(c);
                all.map(|((a, b), c)| self.table3([a, b, c], l.x)).collect()
            }
            O::Low16 | O::Zext8 | O::Sext8 | O::Sext16 => {
                let a = self.many((w, l.a));
                let bits = if matches!(l.op, O::Zext8 | O::Sext8) { 8 } else { 16 };
                self.low(a, bits, matches!(l.op, O::Sext8 | O::Sext16))
            }
            O::High16 => {
                let a = self.many((w, l.a));
                let n = self.n32(16);
                self.map1(a, |t, a| t.b.ins().ushr(a, n))
            }
            O::Byte => {
                let a = self.many((w, l.a));
                let n = self.n32(8 * u32::from(l.x & 3));
                let a = self.map1(a, |t, a| t.b.ins().ushr(a, n));
                self.low(a, 8, false)
            }
            O::Add16 => {
                let v = two!(iadd);
                self.low(v, 16, false)
            }
            O::Sub16 => {
                let v = two!(isub);
                self.low(v, 16, false)
            }
            O::MulLo16 => {
                let v = two!(imul);
                self.low(v, 16, false)
            }
            O::MulWideU16 | O::MulWideS16 => {
                let signed = l.op == O::MulWideS16;
                let (a, b) = sources(self);
                let (a, b) = (self.low(a, 16, signed), self.low(b, 16, signed));
                self.map2((a, b), |t, a, b| t.b.ins().imul(a, b))
            }
            O::Pack16 => {
                let (a, b) = sources(self);
                let a = self.low(a, 16, false);
                let n = self.n32(16);
                self.map2((a, b), |t, a, b| {
                    let b = t.b.ins().ishl(b, n);
                    t.b.ins().bor(a, b)
                })
            }
            O::BfeU | O::BfeS => {
                let (p, n) = (self.constant32(l.b)? & 0xff, self.constant32(l.c)? & 0xff);
                if n == 0 || p + n > 32 {
                    return None;
                }
                let (up, down) = (self.n32(32 - p - n), self.n32(32 - n));
                let a = self.many((w, l.a));
                self.map1(a, |t, a| {
                    let v = t.b.ins().ishl(a, up);
                    if l.op == O::BfeU { t.b.ins().ushr(v, down) } else { t.b.ins().sshr(v, down) }
                })
            }
            O::ShfL | O::ShfR => {
                let n = self.constant32(l.c)?;
                let n = if l.x == 1 { n.min(32) } else { n & 31 };
                let (a, b) = sources(self);
                // What is shifted: b:a, to the left the high word counts.
                let n = if l.op == O::ShfL { 32 - n } else { n };
                match n {
                    0 => a,
                    32 => b,
                    n => {
                        let (down, up) = (self.n32(n), self.n32(32 - n));
                        self.map2((a, b), |t, a, b| {
                            let (a, b) = (t.b.ins().ushr(a, down), t.b.ins().ishl(b, up));
                            t.b.ins().bor(a, b)
                        })
                    }
                }
            }
            _ => return None,
        })
    }

    fn integers64(&mut self, l: &Lanes<Int64>) -> Option<Vec<Value>> {
        use Int64 as O;
        let (w, n) = (Class::W64, Class::W32);
        macro_rules! two {
            ($method:ident) => {{
                let ab = (self.many((w, l.a)), self.many((w, l.b)));
                self.map2(ab, |t, a, b| t.b.ins().$method(a, b))
            }};
        }
        Some(match l.op {
            O::Mov => self.many((w, l.a)),
            O::Add => two!(iadd),
            O::Sub => two!(isub),
            O::And => two!(band),
            O::Or => two!(bor),
            O::Xor => two!(bxor),
            O::MulLo => two!(imul),
            O::MadLo => {
                let product = two!(imul);
                let c = self.many((w, l.c));
                self.map2((product, c), |t, p, c| t.b.ins().iadd(p, c))
            }
            O::Not => {
                let a = self.many((w, l.a));
                self.map1(a, |t, a| t.b.ins().bnot(a))
            }
            O::Neg => {
                let a = self.many((w, l.a));
                self.map1(a, |t, a| t.b.ins().ineg(a))
            }
            O::Shl => return self.shifted(w, (b'l', l.a, l.b)),
            O::ShrU => return self.shifted(w, (b'u', l.a, l.b)),
            O::ShrS => return self.shifted(w, (b's', l.a, l.b)),
            O::MulWideU | O::MulWideS | O::MadWideU | O::MadWideS => {
                let signed = matches!(l.op, O::MulWideS | O::MadWideS);
                let (a, b) = (self.many((n, l.a)), self.many((n, l.b)));
                let (a, b) = (self.widen(a, signed), self.widen(b, signed));
                let product = self.map2((a, b), |t, a, b| t.b.ins().imul(a, b));
                if matches!(l.op, O::MulWideU | O::MulWideS) {
                    return Some(product);
                }
                let c = self.many((w, l.c));
                self.map2((product, c), |t, p, c| t.b.ins().iadd(p, c))
            }
            O::Zext32 | O::Sext32 => {
                let a = self.many((n, l.a));
                self.widen(a, l.op == O::Sext32)
            }
            O::Low32 | O::High32 => {
                let a = self.many((w, l.a));
                self.words_of(&a, l.op == O::High32)
            }
            O::Pack32 => {
                let (a, b) = (self.many((n, l.a)), self.many((n, l.b)));
                self.paired(&a, &b)
            }
            _ => return None,
        })
    }

    /// A slot's vectors as floats for arithmetic: a NaN may be any.
    pub(super) fn floats(&mut self, class: Class, slot: Slot) -> Vec<Value> {
        let ty = if class == Class::W64 { F64X2 } else { F32X4 };
        let v = self.raw((class, slot));
        self.map1(v, |t, v| t.cast(ty, v))
    }

    fn singles(&mut self, l: &Lanes<Float32>) -> Option<Vec<Value>> {
        use Float32 as O;
        let w = Class::W32;
        macro_rules! two {
            ($method:ident) => {{
                let ab = (self.floats(w, l.a), self.floats(w, l.b));
                self.map2(ab, |t, a, b| t.b.ins().$method(a, b))
            }};
        }
        let v = match l.op {
            O::Add => two!(fadd),
            O::Sub => two!(fsub),
            O::Mul => two!(fmul),
            O::Div => two!(fdiv),
            O::Fma => {
                let (a, b) = (self.floats(w, l.a), self.floats(w, l.b));
                let c = self.floats(w, l.c);
                let all = a.into_iter().zip(b).zip(c);
                all.map(|((a, b), c)| self.b.ins().fma(a, b, c)).collect()
            }
            O::Sqrt => {
                let a = self.floats(w, l.a);
                self.map1(a, |t, a| t.b.ins().sqrt(a))
            }
            O::Rcp => {
                let one = self.all(w, u64::from(1f32.to_bits()));
                let one = self.cast(F32X4, one);
                let a = self.floats(w, l.a);
                self.map1(a, |t, a| t.b.ins().fdiv(one, a))
            }
            O::Abs | O::Neg if l.x & 4 == 0 => {
                let a = self.many((w, l.a));
                let abs = l.op == O::Abs;
                let mask = self.all(w, if abs { 0x7fff_ffff } else { 0x8000_0000 });
                self.map1(
                    a,
                    |t, a| if abs { t.b.ins().band(a, mask) } else { t.b.ins().bxor(a, mask) },
                )
            }
            O::Min | O::Max if l.x == 0 => {
                let ab = (self.floats(w, l.a), self.floats(w, l.b));
                let max = l.op == O::Max;
                self.map2(ab, |t, a, b| t.extremum(a, b, max))
            }
            _ => return None,
        };
        Some(self.map1(v, |t, v| t.cast(I32X4, v)))
    }

    /// The smaller or larger: -0 below +0, a number rather than a NaN.
    fn extremum(&mut self, a: Value, b: Value, max: bool) -> Value {
        let first = if max { FloatCC::GreaterThan } else { FloatCC::LessThan };
        let wins = self.b.ins().fcmp(first, a, b);
        let same = self.b.ins().fcmp(FloatCC::Equal, a, b);
        let b_nan = self.b.ins().fcmp(FloatCC::Unordered, b, b);
        let [wins, same, b_nan, a, b] = [wins, same, b_nan, a, b].map(|v| self.cast(I32X4, v));
        let v = self.b.ins().bitselect(wins, a, b);
        let equal = if max { self.b.ins().band(a, b) } else { self.b.ins().bor(a, b) };
        let v = self.b.ins().bitselect(same, equal, v);
        self.b.ins().bitselect(b_nan, a, v)
    }

    fn doubles(&mut self, l: &Lanes<Float64>) -> Option<Vec<Value>> {
        use Float64 as O;
        let w = Class::W64;
        macro_rules! two {
            ($method:ident) => {{
                let ab = (self.floats(w, l.a), self.floats(w, l.b));
                self.map2(ab, |t, a, b| t.b.ins().$method(a, b))
            }};
        }
        let v = match l.op {
            O::Add => two!(fadd),
            O::Sub => two!(fsub),
            O::Mul => two!(fmul),
            O::Div => two!(fdiv),
            O::Fma => {
                let (a, b) = (self.floats(w, l.a), self.floats(w, l.b));
                let c = self.floats(w, l.c);
                let all = a.into_iter().zip(b).zip(c);
                all.map(|((a, b), c)| self.b.ins().fma(a, b, c)).collect()
            }
            O::Sqrt => {
                let a = self.floats(w, l.a);
                self.map1(a, |t, a| t.b.ins().sqrt(a))
            }
            _ => return None,
        };
        Some(self.map1(v, |t, v| t.cast(I64X2, v)))
    }

    fn converted_group(&mut self, l: &Lanes<Convert>) -> Option<(Vec<Value>, bool)> {
        use Convert as O;
        let v = match (l.op, l.x) {
            (O::S32ToF32, x) if x & 3 == 0 => {
                let a = self.many((Class::W32, l.a));
                self.map1(a, |t, a| t.b.ins().fcvt_from_sint(F32X4, a))
            }
            (O::F32ToS32, 1) => {
                let a = self.floats(Class::W32, l.a);
                self.map1(a, |t, a| t.b.ins().fcvt_to_sint_sat(I32X4, a))
            }
            _ => return None,
        };
        let float = super::arithmetic::is_float_result(l.op, l.x);
        Some((self.map1(v, |t, v| t.cast(I32X4, v)), float))
    }

    /// The results of an instruction whose lanes differ; `None` when it has no form in vectors.
    pub(super) fn wide(&mut self, op: &Op) -> Option<Results> {
        let one = |place: Place, vectors: Vec<Value>, loose: bool| vec![(place, vectors, loose)];
        Some(match op {
            Op::Int32(l) if l.op == Int32::Mov => self.moved(Class::W32, l.d, l.a),
            Op::Int64(l) if l.op == Int64::Mov => self.moved(Class::W64, l.d, l.a),
            Op::Int32(l) => one((Class::W32, l.d), self.integers32(l)?, false),
            Op::Int64(l) => one((l.op.signature().result, l.d), self.integers64(l)?, false),
            Op::Float32(l) => one((Class::W32, l.d), self.singles(l)?, gives_canonical32(l.op)),
            Op::Float64(l) => one((Class::W64, l.d), self.doubles(l)?, gives_canonical64(l.op)),
            Op::Convert(l) => {
                let (v, loose) = self.converted_group(l)?;
                one((Class::W32, l.d), v, loose)
            }
            Op::Compare { op, combine, negate, d, not_d, a, b, c, .. } => {
                let yes = self.compared(*op, *a, *b)?;
                let third = if *combine == Combine::None {
                    None
                } else {
                    let c = self.many((Class::Pred, *c));
                    Some(self.map1(c, |t, c| if *negate { t.b.ins().bnot(c) } else { c }))
                };
                let mut out = Vec::new();
                for (slot, inverted) in [(*d, false), (*not_d, true)] {
                    if slot == NONE {
                        continue;
                    }
                    let mut v = yes.clone();
                    if inverted {
                        v = self.map1(v, |t, v| t.b.ins().bnot(v));
                    }
                    if let Some(c) = &third {
                        v = self.map2((v, c.clone()), |t, v, c| match combine {
                            Combine::And => t.b.ins().band(v, c),
                            Combine::Or => t.b.ins().bor(v, c),
                            _ => t.b.ins().bxor(v, c),
                        });
                    }
                    out.push(((Class::Pred, slot), v, false));
                }
                out
            }
            Op::Select32 { d, a, b, p } => self.selected(Class::W32, [*d, *a, *b, *p]),
            Op::Select64 { d, a, b, p } => self.selected(Class::W64, [*d, *a, *b, *p]),
            Op::Logic { table, d, a, b } => {
                let ab = (self.many((Class::Pred, *a)), self.many((Class::Pred, *b)));
                let v = self.map2(ab, |t, a, b| t.table2(a, b, *table));
                one((Class::Pred, *d), v, false)
            }
            _ => return None,
        })
    }
}
