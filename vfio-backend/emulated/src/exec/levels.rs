//! The interpreter, compiled once per processor generation and chosen at run time: the same source, wider vectors.
#![allow(unsafe_code)]

use super::block::{Common, Turn};
use super::launch::Launch;
use super::warp::{Outcome, Warp};

/// A processor generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Whatever the build targets.
    Base,
    /// 256-bit vectors and fused multiply-add (x86-64-v3).
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 512-bit vectors with masks (x86-64-v4).
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// Makes a module with the interpreter compiled for some target features.
macro_rules! level {
    ($name:ident, $fused:literal $(, $features:literal)?) => {
        mod $name {
            use crate::exec::block::{Common, Turn};
            use crate::exec::launch::Launch;
            use crate::exec::memory_ops::View;
            use crate::exec::registers::Registers;
            use crate::exec::lanes;
            use crate::exec::matrix;
            use crate::exec::run;
            use crate::exec::warp::{Outcome, Warp};
            use crate::exec::warp_ops;
            use crate::ir::{Lanes, Matrix, Op};
            use crate::ops::convert::Convert;
            use crate::ops::float32::Float32;
            use crate::ops::float64::Float64;
            use crate::ops::half::Half;
            use crate::ops::int32::Int32;
            use crate::ops::int64::Int64;

            $(#[target_feature(enable = $features)])?
            #[inline(never)]
            fn int32(r: &mut Registers<'_>, l: &Lanes<Int32>, m: u32) {
                l.op.vector(r, l, m)
            }
            $(#[target_feature(enable = $features)])?
            #[inline(never)]
            fn int64(r: &mut Registers<'_>, l: &Lanes<Int64>, m: u32) {
                l.op.vector(r, l, m)
            }
            $(#[target_feature(enable = $features)])?
            #[inline(never)]
            fn float32(r: &mut Registers<'_>, l: &Lanes<Float32>, m: u32) {
                l.op.vector(r, l, m)
            }
            $(#[target_feature(enable = $features)])?
            #[inline(never)]
            fn float64(r: &mut Registers<'_>, l: &Lanes<Float64>, m: u32) {
                l.op.vector(r, l, m)
            }
            $(#[target_feature(enable = $features)])?
            #[inline(never)]
            fn half(r: &mut Registers<'_>, l: &Lanes<Half>, m: u32) {
                l.op.vector(r, l, m)
            }
            $(#[target_feature(enable = $features)])?
            #[inline(never)]
            fn convert(r: &mut Registers<'_>, l: &Lanes<Convert>, m: u32) {
                l.op.vector(r, l, m)
            }
            $(#[target_feature(enable = $features)])?
            #[inline(never)]
            fn compare(r: &mut Registers<'_>, op: &Op, m: u32) {
                lanes::compare(r, op, m)
            }
            $(#[target_feature(enable = $features)])?
            #[inline(never)]
            fn select(r: &mut Registers<'_>, op: &Op, m: u32) {
                lanes::select(r, op, m)
            }
            $(#[target_feature(enable = $features)])?
            #[inline(never)]
            fn across(r: &mut Registers<'_>, op: &Op, m: u32) {
                warp_ops::run(op, r, m)
            }
            $(#[target_feature(enable = $features)])?
            #[inline(never)]
            fn transfer(v: &mut View<'_>, r: &mut Registers<'_>, op: &Op, m: u32) -> Outcome<()> {
                lanes::transfer(v, r, op, m)
            }

            $(#[target_feature(enable = $features)])?
            #[inline(never)]
            fn multiply(r: &mut Registers<'_>, matrix: &Matrix, m: u32) {
                matrix::multiply::<$fused>(matrix, r, m)
            }

            /// One turn of a warp.
            $(#[target_feature(enable = $features)])?
            pub(super) fn turn(warp: &mut Warp, common: &mut Common, launch: &Launch) -> Outcome<Turn> {
                run::run(
                    warp,
                    common,
                    launch,
                    |r, op, m| match op {
                        Op::Int32(l) => int32(r, l, m),
                        Op::Int64(l) => int64(r, l, m),
                        Op::Float32(l) => float32(r, l, m),
                        Op::Float64(l) => float64(r, l, m),
                        Op::Half(l) => half(r, l, m),
                        Op::Convert(l) => convert(r, l, m),
                        Op::Compare { .. } => compare(r, op, m),
                        Op::Select32 { .. } | Op::Select64 { .. } => select(r, op, m),
                        op => across(r, op, m),
                    },
                    |v, r, op, m| transfer(v, r, op, m),
                    |r, matrix, m| multiply(r, matrix, m),
                )
            }
        }
    };
}

level!(base, false);
#[cfg(target_arch = "x86_64")]
level!(avx2, true, "avx2,fma,bmi1,bmi2,lzcnt,popcnt,f16c");
#[cfg(target_arch = "x86_64")]
level!(
    avx512,
    true,
    "avx2,fma,bmi1,bmi2,lzcnt,popcnt,f16c,avx512f,avx512bw,avx512cd,avx512dq,avx512vl"
);

impl Level {
    /// The best that this processor runs.
    pub(crate) fn detect() -> Self {
        *Self::available().last().unwrap_or(&Self::Base)
    }

    /// All that this processor runs, worst first.
    pub(crate) fn available() -> Vec<Self> {
        let mut levels = vec![Self::Base];
        #[cfg(target_arch = "x86_64")]
        {
            let v3 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("lzcnt")
                && is_x86_feature_detected!("popcnt")
                && is_x86_feature_detected!("f16c");
            let v4 = v3
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512cd")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if v3 {
                levels.push(Self::Avx2);
            }
            if v4 {
                levels.push(Self::Avx512);
            }
        }
        levels
    }

    /// One turn of a warp.
    #[inline]
    pub(crate) fn run(
        self,
        warp: &mut Warp,
        common: &mut Common,
        launch: &Launch,
    ) -> Outcome<Turn> {
        match self {
            Self::Base => base::turn(warp, common, launch),
            // SAFETY: only `available` makes this value, after detecting every feature of the module.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2::turn(warp, common, launch) },
            // SAFETY: only `available` makes this value, after detecting every feature of the module.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { avx512::turn(warp, common, launch) },
        }
    }
}
