//! Comparisons: two lanes in, one bit of a predicate out. Source: PTX ISA 9.0, sections 9.7.3.20 (`testp`) and 9.7.6.

#![allow(clippy::neg_cmp_op_on_partial_ord)] // An unordered comparison is the negation of an ordered one.

use super::half::{bf16_to_f32, f16_to_f32};
use super::int32::s16;

/// An IEEE comparison, coded in an instruction's `x` (bits 0..4) where a family has no row of its own for each.
pub(crate) const FLOAT_EQ: u8 = 0;
pub(crate) const FLOAT_NE: u8 = 1;
pub(crate) const FLOAT_LT: u8 = 2;
pub(crate) const FLOAT_LE: u8 = 3;
pub(crate) const FLOAT_GT: u8 = 4;
pub(crate) const FLOAT_GE: u8 = 5;
/// Added to the six above: true as well when either is a NaN.
pub(crate) const FLOAT_UNORDERED: u8 = 6;
pub(crate) const FLOAT_NUM: u8 = 12;
pub(crate) const FLOAT_NAN: u8 = 13;
/// In `x`: subnormal inputs count as zero.
pub(crate) const FLUSH: u8 = 0x10;

/// The comparison coded in `x`.
#[inline(always)]
fn float(a: f32, b: f32, x: u8) -> bool {
    let nan = a.is_nan() | b.is_nan();
    match x & 15 {
        FLOAT_EQ => a == b,
        FLOAT_NE => !nan & (a != b),
        FLOAT_LT => a < b,
        FLOAT_LE => a <= b,
        FLOAT_GT => a > b,
        FLOAT_GE => a >= b,
        6 => nan | (a == b),
        7 => a != b,
        8 => nan | (a < b),
        9 => nan | (a <= b),
        10 => nan | (a > b),
        11 => nan | (a >= b),
        FLOAT_NUM => !nan,
        _ => nan,
    }
}

#[inline(always)]
fn f(a: u32) -> f32 {
    f32::from_bits(a)
}

#[inline(always)]
fn flushed(a: u32) -> f32 {
    f32::from_bits(if a & 0x7f80_0000 == 0 { a & 0x8000_0000 } else { a })
}

#[inline(always)]
fn d(a: u64) -> f64 {
    f64::from_bits(a)
}

macro_rules! comparisons {
    ($x:ident; $( $(#[doc = $doc:literal])* $name:ident ( $a:ident, $b:ident : $class:ty ) $body:block )+) => {
        /// Comparisons of two operands of one class.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(crate) enum Compare { $( $(#[doc = $doc])* $name, )+ }

        impl Compare {
            /// Every comparison.
            pub(crate) const ALL: &'static [Compare] = &[$(Compare::$name,)+];

            /// Class of both operands.
            #[allow(dead_code)] // For tests that walk the family.
            pub(crate) fn class(self) -> super::Class {
                match self { $( Compare::$name => <$class as super::Classed>::CLASS, )+ }
            }

            /// The comparison on one lane.
            #[allow(dead_code, unused_variables)]
            pub(crate) fn scalar(self, a: u64, b: u64, $x: u8) -> bool {
                match self { $( Compare::$name => {
                    let ($a, $b) = (<$class as super::Classed>::from_bits(a), <$class as super::Classed>::from_bits(b));
                    $body
                } )+ }
            }

            /// The lanes for which it holds.
            #[inline(always)]
            #[allow(unused_variables)]
            pub(crate) fn vector(
                self,
                registers: &$crate::exec::registers::Registers<'_>,
                a: $crate::ir::Slot,
                b: $crate::ir::Slot,
                $x: u8,
            ) -> u32 {
                match self { $( Compare::$name => registers.test2::<$class, $class>(a, b, |$a, $b| $body), )+ }
            }
        }
    };
}

comparisons! {
    x;
    Eq32(a, b: u32) { a == b }
    Ne32(a, b: u32) { a != b }
    LtU32(a, b: u32) { a < b }
    LeU32(a, b: u32) { a <= b }
    GtU32(a, b: u32) { a > b }
    GeU32(a, b: u32) { a >= b }
    LtS32(a, b: u32) { (a as i32) < b as i32 }
    LeS32(a, b: u32) { a as i32 <= b as i32 }
    GtS32(a, b: u32) { a as i32 > b as i32 }
    GeS32(a, b: u32) { a as i32 >= b as i32 }
    LtS16(a, b: u32) { s16(a) < s16(b) }
    LeS16(a, b: u32) { s16(a) <= s16(b) }
    GtS16(a, b: u32) { s16(a) > s16(b) }
    GeS16(a, b: u32) { s16(a) >= s16(b) }
    Eq64(a, b: u64) { a == b }
    Ne64(a, b: u64) { a != b }
    LtU64(a, b: u64) { a < b }
    LeU64(a, b: u64) { a <= b }
    GtU64(a, b: u64) { a > b }
    GeU64(a, b: u64) { a >= b }
    LtS64(a, b: u64) { (a as i64) < b as i64 }
    LeS64(a, b: u64) { a as i64 <= b as i64 }
    GtS64(a, b: u64) { a as i64 > b as i64 }
    GeS64(a, b: u64) { a as i64 >= b as i64 }
    EqF32(a, b: u32) { f(a) == f(b) }
    NeF32(a, b: u32) { (f(a) < f(b)) | (f(a) > f(b)) }
    LtF32(a, b: u32) { f(a) < f(b) }
    LeF32(a, b: u32) { f(a) <= f(b) }
    GtF32(a, b: u32) { f(a) > f(b) }
    GeF32(a, b: u32) { f(a) >= f(b) }
    EquF32(a, b: u32) { !((f(a) < f(b)) | (f(a) > f(b))) }
    NeuF32(a, b: u32) { f(a) != f(b) }
    LtuF32(a, b: u32) { !(f(a) >= f(b)) }
    LeuF32(a, b: u32) { !(f(a) > f(b)) }
    GtuF32(a, b: u32) { !(f(a) <= f(b)) }
    GeuF32(a, b: u32) { !(f(a) < f(b)) }
    NumF32(a, b: u32) { !(f(a).is_nan() | f(b).is_nan()) }
    NanF32(a, b: u32) { f(a).is_nan() | f(b).is_nan() }
    /// The comparison coded in x, subnormal inputs flushed to zero.
    FlushedF32(a, b: u32) { float(flushed(a), flushed(b), x) }
    EqF64(a, b: u64) { d(a) == d(b) }
    NeF64(a, b: u64) { (d(a) < d(b)) | (d(a) > d(b)) }
    LtF64(a, b: u64) { d(a) < d(b) }
    LeF64(a, b: u64) { d(a) <= d(b) }
    GtF64(a, b: u64) { d(a) > d(b) }
    GeF64(a, b: u64) { d(a) >= d(b) }
    EquF64(a, b: u64) { !((d(a) < d(b)) | (d(a) > d(b))) }
    NeuF64(a, b: u64) { d(a) != d(b) }
    LtuF64(a, b: u64) { !(d(a) >= d(b)) }
    LeuF64(a, b: u64) { !(d(a) > d(b)) }
    GtuF64(a, b: u64) { !(d(a) <= d(b)) }
    GeuF64(a, b: u64) { !(d(a) < d(b)) }
    NumF64(a, b: u64) { !(d(a).is_nan() | d(b).is_nan()) }
    NanF64(a, b: u64) { d(a).is_nan() | d(b).is_nan() }
    /// The comparison coded in x, on the low halves as f16.
    F16(a, b: u32) {
        let (a, b) = (f16_to_f32(a), f16_to_f32(b));
        let flush = |v: f32| if x & FLUSH != 0 && v.abs() < 6.103_515_6e-5 { 0.0 } else { v };
        float(flush(a), flush(b), x)
    }
    /// The comparison coded in x, on the low halves as bf16.
    Bf16(a, b: u32) { float(bf16_to_f32(a), bf16_to_f32(b), x) }
    FiniteF32(a, _b: u32) { f(a).is_finite() }
    InfiniteF32(a, _b: u32) { f(a).is_infinite() }
    NumberF32(a, _b: u32) { !f(a).is_nan() }
    NotNumberF32(a, _b: u32) { f(a).is_nan() }
    /// Zeros count as normal.
    NormalF32(a, _b: u32) { f(a).is_normal() | (f(a) == 0.0) }
    SubnormalF32(a, _b: u32) { f(a).is_subnormal() }
    FiniteF64(a, _b: u64) { d(a).is_finite() }
    InfiniteF64(a, _b: u64) { d(a).is_infinite() }
    NumberF64(a, _b: u64) { !d(a).is_nan() }
    NotNumberF64(a, _b: u64) { d(a).is_nan() }
    NormalF64(a, _b: u64) { d(a).is_normal() | (d(a) == 0.0) }
    SubnormalF64(a, _b: u64) { d(a).is_subnormal() }
}
