//! A token bucket: how many commands a tenant may submit in a stretch of time.

/// A rate: tokens a second on average, and as many at once as `burst`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens that come in a second, 1 to [`Rate::MAX`].
    pub per_second: u64,
    /// Tokens that can be saved up, 1 to [`Rate::MAX`].
    pub burst: u64,
}

impl Rate {
    /// The highest rate and the largest burst: one token a nanosecond, one second's worth.
    pub const MAX: u64 = NANOS;
}

/// Nanoseconds a second, and so the parts a token is counted in: at `n` tokens a second, each
/// nanosecond brings exactly `n` parts, and no rounding ever accumulates.
const NANOS: u64 = 1_000_000_000;

/// A token bucket in integers. Time is the caller's: a monotonic clock in nanoseconds; a reading
/// before the last one counts as no time passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBucket {
    per_second: u64,
    /// Parts it can hold, at most 10^18.
    capacity: u64,
    /// Parts it holds.
    level: u64,
    last_ns: u64,
}

impl TokenBucket {
    /// A full bucket. Values of the rate outside 1 to [`Rate::MAX`] count as the nearest one inside.
    #[must_use]
    pub fn new(rate: Rate, now_ns: u64) -> TokenBucket {
        let capacity = rate.burst.clamp(1, Rate::MAX) * NANOS;
        TokenBucket {
            per_second: rate.per_second.clamp(1, Rate::MAX),
            capacity,
            level: capacity,
            last_ns: now_ns,
        }
    }

    /// Puts another rate in force, as a reload does. What was saved up stays, as far as it fits.
    pub fn set_rate(&mut self, rate: Rate, now_ns: u64) {
        self.refill(now_ns);
        let TokenBucket { per_second, capacity, .. } = TokenBucket::new(rate, now_ns);
        self.per_second = per_second;
        self.capacity = capacity;
        self.level = self.level.min(capacity);
    }

    /// Whole tokens in the bucket now.
    #[must_use]
    pub fn tokens(&mut self, now_ns: u64) -> u64 {
        self.refill(now_ns);
        self.level / NANOS
    }

    /// Takes `n` tokens.
    ///
    /// # Errors
    /// Nanoseconds until there will be enough, `u64::MAX` if there never will be because `n` is more
    /// than the burst. Nothing is taken then.
    #[inline]
    pub fn take(&mut self, n: u64, now_ns: u64) -> Result<(), u64> {
        self.refill(now_ns);
        let Some(need) = n.checked_mul(NANOS).filter(|&need| need <= self.capacity) else {
            return Err(u64::MAX);
        };
        match self.level.checked_sub(need) {
            Some(level) => {
                self.level = level;
                Ok(())
            }
            None => Err((need - self.level).div_ceil(self.per_second)),
        }
    }

    fn refill(&mut self, now_ns: u64) {
        let Some(passed) = now_ns.checked_sub(self.last_ns) else { return };
        self.last_ns = now_ns;
        // A product that overflows is more than any bucket holds.
        let gained = passed.saturating_mul(self.per_second);
        self.level = self.level.saturating_add(gained).min(self.capacity);
    }
}

#[cfg(test)]
mod tests;
