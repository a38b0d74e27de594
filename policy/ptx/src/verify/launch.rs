//! What the verifier takes as given of every launch: the contract, and the limits of the GPU.

use crate::hash::HashMap;

use super::number::{Alt, Value};
use crate::contract::{Arena, BlockShape, KernelContract};
use crate::tree::{Function, ScalarType, Special};

/// Most dynamic shared memory a launch can ask for, in bytes (227 KiB, sm_90).
const MOST_SHARED: i64 = 227 << 10;

/// Assumptions about the launches in which one function runs.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    /// Least and most threads along each axis.
    axes: [(i64, i64); 3],
    /// Least dynamic shared memory in bytes.
    pub(super) dynamic_shared: u64,
    /// Kernel parameters that hold addresses in the arena: offset to alignment.
    pub(super) pointers: HashMap<u64, u64>,
    pub(super) arena: Arena,
}

impl Launch {
    /// For a kernel, with its entry of the contract.
    pub(super) fn of_kernel(
        function: &Function,
        entry: Option<&KernelContract>,
        arena: Arena,
    ) -> Self {
        Self {
            axes: axes(function, entry.and_then(|entry| entry.block)),
            dynamic_shared: entry.map_or(0, |entry| entry.dynamic_shared),
            pointers: entry.map_or_else(HashMap::default, |entry| {
                entry.pointers.iter().map(|p| (p.offset, p.align)).collect()
            }),
            arena,
        }
    }

    /// For device functions, which any kernel of the module may reach: what is true of all.
    pub(super) fn of_device(kernels: impl Iterator<Item = Self>, arena: Arena) -> Self {
        let any = Self { axes: limits(), dynamic_shared: 0, pointers: HashMap::default(), arena };
        let common = kernels.reduce(|mut all, one| {
            for (mine, other) in all.axes.iter_mut().zip(one.axes) {
                *mine = (mine.0.min(other.0), mine.1.max(other.1));
            }
            all.dynamic_shared = all.dynamic_shared.min(one.dynamic_shared);
            all
        });
        Self { pointers: HashMap::default(), ..common.unwrap_or(any) }
    }

    /// True for special registers that hold one value as long as a thread runs.
    pub(super) fn is_constant(special: Special) -> bool {
        use Special::*;
        matches!(
            special,
            TidX | TidY
                | TidZ
                | NtidX
                | NtidY
                | NtidZ
                | CtaidX
                | CtaidY
                | CtaidZ
                | NctaidX
                | NctaidY
                | NctaidZ
                | Laneid
                | DynamicSmemSize
        )
    }

    /// What a special register may hold.
    pub(super) fn special(&self, special: Special) -> Value {
        use Special::*;
        let thread = |axis: usize| Value::range(0, self.axes[axis].1 - 1);
        let threads = |axis: usize| Value::range(self.axes[axis].0, self.axes[axis].1);
        match special {
            TidX => thread(0),
            TidY => thread(1),
            TidZ => thread(2),
            NtidX => threads(0),
            NtidY => threads(1),
            NtidZ => threads(2),
            // Grid limits: CUDA C++ Programming Guide, table of technical specifications.
            CtaidX => Value::range(0, i64::from(i32::MAX) - 1),
            CtaidY | CtaidZ => Value::range(0, 65_534),
            NctaidX => Value::range(1, i64::from(i32::MAX)),
            NctaidY | NctaidZ => Value::range(1, 65_535),
            Laneid => Value::range(0, 31),
            DynamicSmemSize => {
                let least = i64::try_from(self.dynamic_shared).unwrap_or(MOST_SHARED);
                Value::one(Alt::range(least.min(MOST_SHARED), MOST_SHARED).with_slack(0))
            }
            other if other.scalar_type() == ScalarType::U32 => Value::range(0, i64::from(u32::MAX)),
            _ => Value::Any,
        }
    }
}

fn limits() -> [(i64, i64); 3] {
    let BlockShape { x, y, z } = BlockShape::MAX;
    [x, y, z].map(|most| (1, i64::from(most)))
}

fn axes(function: &Function, shape: Option<BlockShape>) -> [(i64, i64); 3] {
    let exact = |values: [u32; 3]| values.map(|n| (i64::from(n.max(1)), i64::from(n.max(1))));
    if let Some(BlockShape { x, y, z }) = shape {
        return exact([x, y, z]);
    }
    let three = |values: &[u32]| [0, 1, 2].map(|axis| values.get(axis).copied().unwrap_or(1));
    if let Some(values) = function.directive("reqntid") {
        return exact(three(values));
    }
    let mut axes = limits();
    if let Some(values) = function.directive("maxntid") {
        // It bounds the product of the axes only (PTX ISA 9.0, section 11.4.2).
        let product = three(values).iter().fold(1i64, |all, n| all.saturating_mul(i64::from(*n)));
        for axis in &mut axes {
            axis.1 = axis.1.min(product.max(1));
        }
    }
    axes
}
