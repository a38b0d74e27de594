//! Time since the start, out of the time stamp counter.

use crate::call;

/// A clock.
#[derive(Debug)]
pub(crate) struct Clock {
    start: u64,
    /// Nanoseconds a tick, times 2^32.
    scale: u64,
}

impl Clock {
    /// Starts a clock. `tsc_khz`: ticks a millisecond; 0, unknown, counts as 1 GHz.
    pub(crate) fn start(tsc_khz: u64) -> Clock {
        let khz = if tsc_khz == 0 { 1_000_000 } else { tsc_khz };
        Clock { start: call::ticks(), scale: (1_000_000 << 32) / khz }
    }

    /// Nanoseconds since the start.
    pub(crate) fn now_ns(&self) -> u64 {
        let ticks = call::ticks().saturating_sub(self.start);
        ((u128::from(ticks) * u128::from(self.scale)) >> 32) as u64
    }
}
