//! What the analysis may assume of a launch.

use crate::contract::BlockShape;
use crate::tree::{Function, Special};

use super::value::Value;

/// Bounds of the special registers of one function.
#[derive(Clone, Copy, Debug)]
pub struct Launch {
    /// Least and most threads in x, y, z.
    pub threads: [(u32, u32); 3],
    /// Most threads in all.
    pub most_threads: u32,
}

/// CUDA's limits on a block (compute capability 9.0): x, y, z and all.
const LIMITS: ([u32; 3], u32) = ([1024, 1024, 64], 1024);

impl Launch {
    /// The bounds for a function: exact when the shape is given, else what `.reqntid` or `.maxntid` say,
    /// else CUDA's limits. A device function (`.func`) knows the shape, but no directive of its callers.
    pub fn new(function: &Function, shape: Option<BlockShape>) -> Self {
        let exact = |d: [u32; 3]| Self {
            threads: d.map(|n| (n, n)),
            most_threads: d.iter().fold(1, |a, &b| a.saturating_mul(b)),
        };
        if let Some(shape) = shape {
            return exact([shape.x, shape.y, shape.z]);
        }
        let padded = |values: &[u32]| {
            let mut three = [1u32; 3];
            for (slot, value) in three.iter_mut().zip(values) {
                *slot = (*value).max(1);
            }
            three
        };
        if let Some(values) = function.directive("reqntid") {
            return exact(padded(values));
        }
        let mut launch = Self { threads: LIMITS.0.map(|n| (1, n)), most_threads: LIMITS.1 };
        if let Some(values) = function.directive("maxntid") {
            // `.maxntid` bounds the product of the dimensions (PTX ISA 9.0, section 11.4.2).
            let product = padded(values).iter().fold(1u32, |a, &b| a.saturating_mul(b));
            launch.most_threads = launch.most_threads.min(product);
        }
        for bound in &mut launch.threads {
            bound.1 = bound.1.min(launch.most_threads);
        }
        launch
    }

    /// What a special register may hold.
    pub fn special(&self, special: Special) -> Value {
        let thread = |i: usize| Value::range(0, i64::from(self.threads[i].1) - 1);
        let threads =
            |i: usize| Value::range(i64::from(self.threads[i].0), i64::from(self.threads[i].1));
        let warps = i64::from(self.most_threads.div_ceil(32));
        match special {
            Special::TidX => thread(0),
            Special::TidY => thread(1),
            Special::TidZ => thread(2),
            Special::NtidX => threads(0),
            Special::NtidY => threads(1),
            Special::NtidZ => threads(2),
            Special::CtaidX => Value::range(0, i64::from(i32::MAX) - 1),
            Special::CtaidY | Special::CtaidZ => Value::range(0, 65534),
            Special::NctaidX => Value::range(1, i64::from(i32::MAX)),
            Special::NctaidY | Special::NctaidZ => Value::range(1, 65535),
            Special::Laneid => Value::range(0, 31),
            // PTX warns that %warpid is volatile; its range holds all the same (64 warps a
            // multiprocessor).
            Special::Warpid => Value::range(0, 63),
            Special::Nwarpid => Value::range(1, warps.max(64)),
            _ => Value::TOP,
        }
    }
}
