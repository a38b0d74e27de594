//! Special registers and kernel parameters: what a thread reads about itself and its launch.
//! Source: PTX ISA 9.0, section 10.

use super::block::Common;
use super::lanes::extend;
use super::launch::Launch;
use super::registers::{Lane, Registers, V32};
use crate::fault::Space;
use crate::ir::{NONE, Slot, Special, Value, window};
use crate::raw::{LANES, Segment};

/// Where a special register is read.
pub(crate) struct Context<'a> {
    pub(crate) launch: &'a Launch,
    pub(crate) common: &'a Common,
    pub(crate) tid: &'a [V32; 3],
    /// Number of the warp in its block.
    pub(crate) warp: u32,
}

/// Reads one. `clock` counts this warp's instructions.
pub(crate) fn read(
    context: &Context<'_>,
    which: Special,
    d: Slot,
    registers: &mut Registers<'_>,
    mask: u32,
    clock: u64,
) {
    let launch = context.launch;
    let lanes = |f: fn(u32) -> u32| std::array::from_fn(|i| f(i as u32));
    let dimension = |v: [u32; 3], n: u8| [v[usize::from(n) % 3]; LANES];
    let time = || launch.begun.elapsed().as_nanos() as u64;
    let value: [u32; LANES] = match which {
        Special::Tid(n) => context.tid[usize::from(n) % 3].0,
        Special::Ntid(n) => dimension(launch.block, n),
        Special::Ctaid(n) => dimension(context.common.index, n),
        Special::Nctaid(n) => dimension(launch.grid, n),
        Special::Laneid => lanes(|i| i),
        Special::Warpid => [context.warp; LANES],
        Special::Nwarpid => [launch.warps(); LANES],
        Special::Smid => [context.common.worker; LANES],
        Special::Nsmid => [launch.workers; LANES],
        Special::LanemaskEq => lanes(|i| 1 << i),
        Special::LanemaskLe => lanes(|i| u32::MAX >> (31 - i)),
        Special::LanemaskLt => lanes(|i| (1 << i) - 1),
        Special::LanemaskGe => lanes(|i| u32::MAX << i),
        Special::LanemaskGt => lanes(|i| !(u32::MAX >> (31 - i))),
        Special::Clock => [clock as u32; LANES],
        Special::ClockHi => [(clock >> 32) as u32; LANES],
        Special::GlobaltimerLo => [time() as u32; LANES],
        Special::GlobaltimerHi => [(time() >> 32) as u32; LANES],
        Special::TotalSharedSize => [launch.shared_bytes; LANES],
        Special::DynamicSharedSize => [launch.dynamic_bytes; LANES],
        Special::DynamicSharedBase => [launch.dynamic_base; LANES],
        Special::Env(n) => [launch.env.get(usize::from(n)).copied().unwrap_or(0); LANES],
        Special::Clock64 => return u64::write(registers, d, mask, [clock; LANES]),
        Special::Globaltimer => return u64::write(registers, d, mask, [time(); LANES]),
        Special::Gridid => return u64::write(registers, d, mask, [launch.grid_id; LANES]),
    };
    u32::write(registers, d, mask, value);
}

/// An element of the kernel's parameters, extended as the register wants it. Lowering has checked the bounds.
#[inline(always)]
pub(crate) fn parameter(params: &Segment, at: u64, width: u8, value: Value) -> u64 {
    let raw = match width {
        8 => params.load::<u64>(at),
        4 => params.load::<u32>(at).map(u64::from),
        2 => params.load::<u16>(at).map(u64::from),
        _ => params.load::<u8>(at).map(u64::from),
    };
    extend(raw.unwrap_or(0), width, value)
}

/// Elements of the kernel's parameters, the same for every lane: `(offset, width, count, value)` says which.
#[inline(always)]
pub(crate) fn parameters(
    params: &Segment,
    (offset, width, count, value): (u32, u8, u8, Value),
    slots: [Slot; 4],
    registers: &mut Registers<'_>,
    mask: u32,
) {
    for e in 0..usize::from(count) {
        let at = u64::from(offset) + (e * usize::from(width)) as u64;
        let raw = parameter(params, at, width, value);
        if slots[e & 3] == NONE {
        } else if value.is_wide() {
            u64::write(registers, slots[e & 3], mask, [raw; LANES]);
        } else {
            u32::write(registers, slots[e & 3], mask, [raw as u32; LANES]);
        }
    }
}

/// The lanes whose address in `a` lies in the window of the space.
#[inline(always)]
pub(crate) fn in_space(registers: &Registers<'_>, space: Space, a: Slot) -> u32 {
    let within = |address: u64, base: u64| address.wrapping_sub(base) < window::SIZE;
    registers.test2::<u64, u64>(a, a, |v, _| match space {
        Space::Shared => within(v, window::SHARED),
        Space::Local => within(v, window::LOCAL),
        Space::Param => within(v, window::PARAM),
        Space::Global => {
            !within(v, window::SHARED) && !within(v, window::LOCAL) && !within(v, window::PARAM)
        }
        Space::Const => false,
    })
}
