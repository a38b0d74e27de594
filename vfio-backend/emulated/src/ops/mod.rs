//! The arithmetic of the GPU, one table per family: each row is an operation's name, the classes of its operands and
//! its meaning for a single lane. Everything else is made from the rows: the opcode enum of the IR, the operand
//! classes that lowering checks, the scalar reference and the loop over 32 lanes.
//!
//! Meanings are total: they must not panic for any bits, because inactive lanes are computed too. 16-bit values live in
//! the low half of a 32-bit slot with the high half zero; predicates are not lanes (see [`compare`]).

pub(crate) mod compare;
pub(crate) mod convert;
pub(crate) mod float32;
pub(crate) mod float64;
pub(crate) mod half;
pub(crate) mod int32;
pub(crate) mod int64;
pub(crate) mod rounding;
pub(crate) mod soft64;
#[cfg(test)]
mod tests;
pub(crate) mod transcendental;

/// The register file an operand lives in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Class {
    /// 32-bit slots: everything up to 32 bits.
    W32,
    /// 64-bit slots.
    W64,
    /// Predicates.
    Pred,
}

/// A type that stands for a register class in the tables.
pub(crate) trait Classed: Copy {
    const CLASS: Class;
    fn from_bits(bits: u64) -> Self;
    fn to_bits(self) -> u64;
}

impl Classed for u32 {
    const CLASS: Class = Class::W32;
    fn from_bits(bits: u64) -> Self {
        bits as u32
    }
    fn to_bits(self) -> u64 {
        u64::from(self)
    }
}

impl Classed for u64 {
    const CLASS: Class = Class::W64;
    fn from_bits(bits: u64) -> Self {
        bits
    }
    fn to_bits(self) -> u64 {
        self
    }
}

/// Operand classes of a lane operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Signature {
    /// Class of the result.
    pub(crate) result: Class,
    /// Classes of the sources, as many as there are.
    pub(crate) sources: &'static [Class],
}

/// Makes a family of lane operations from its table.
macro_rules! lane_ops {
    (
        $(#[$meta:meta])* $family:ident, $x:ident;
        $( $(#[doc = $doc:literal])* $name:ident ( $($arg:ident : $class:ty),+ ) -> $result:ty $body:block )+
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(crate) enum $family { $( $(#[doc = $doc])* $name, )+ }

        impl $family {
            /// Every operation of the family.
            pub(crate) const ALL: &'static [$family] = &[$($family::$name,)+];

            /// Operand classes.
            #[allow(dead_code)] // Some families are lowered with classes known by construction.
            pub(crate) fn signature(self) -> $crate::ops::Signature {
                use $crate::ops::{Classed, Signature};
                match self {
                    $( $family::$name => Signature {
                        result: <$result as Classed>::CLASS,
                        sources: &[$(<$class as Classed>::CLASS),+],
                    }, )+
                }
            }

            /// The operation on one lane, operands as bits: the reference that the loops are tested against.
            #[allow(dead_code, unused_variables, unused_assignments, unused_mut)]
            pub(crate) fn scalar(self, operands: [u64; 3], $x: u8) -> u64 {
                use $crate::ops::Classed;
                match self {
                    $( $family::$name => {
                        let mut next = operands.into_iter();
                        $( let $arg = <$class as Classed>::from_bits(next.next().unwrap_or(0)); )+
                        let result: $result = $body;
                        result.to_bits()
                    } )+
                }
            }

            /// The operation on the lanes of `mask`.
            #[inline(always)]
            #[allow(unused_variables)]
            pub(crate) fn vector(
                self,
                registers: &mut $crate::exec::registers::Registers<'_>,
                lane: &$crate::ir::Lanes<Self>,
                mask: u32,
            ) {
                let $x = lane.x;
                match self {
                    $( $family::$name => lane_ops!(@apply registers, lane, mask, ($($arg: $class),+), $result, $body), )+
                }
            }
        }
    };
    (@apply $r:ident, $l:ident, $m:ident, ($a:ident: $at:ty), $d:ty, $body:block) => {
        $r.map1::<$at, $d>($l.d, $l.a, $m, |$a| $body)
    };
    (@apply $r:ident, $l:ident, $m:ident, ($a:ident: $at:ty, $b:ident: $bt:ty), $d:ty, $body:block) => {
        $r.map2::<$at, $bt, $d>($l.d, ($l.a, $l.b), $m, |$a, $b| $body)
    };
    (@apply $r:ident, $l:ident, $m:ident, ($a:ident: $at:ty, $b:ident: $bt:ty, $c:ident: $ct:ty), $d:ty, $body:block) => {
        $r.map3::<$at, $bt, $ct, $d>($l.d, ($l.a, $l.b, $l.c), $m, |$a, $b, $c| $body)
    };
}
pub(crate) use lane_ops;
