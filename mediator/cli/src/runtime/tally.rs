//! What a tenant's commands came to, operation by operation: plain counters that cost a command a few
//! additions in one place in memory.

use std::ops::AddAssign;

use turnstile_abi::op::TABLE;
use turnstile_abi::{Opcode, Status};

/// Buckets of a latency histogram. The last has no upper bound.
pub const BUCKETS: usize = 14;

/// Upper bound of a bucket, in nanoseconds: powers of four from 256 ns to 4.3 s. `None`: no bound.
#[must_use]
pub const fn bucket_bound_ns(at: usize) -> Option<u64> {
    if at + 1 < BUCKETS { Some(256 << (2 * at)) } else { None }
}

fn bucket(ns: u64) -> usize {
    let bits = u64::BITS - (ns.saturating_sub(1) >> 8).leading_zeros();
    (bits.div_ceil(2) as usize).min(BUCKETS - 1)
}

/// Place of an operation in the table, by its wire code; codes are below 64.
const PLACES: [u8; 64] = {
    let mut places = [0; 64];
    let mut at = 0;
    while at < TABLE.len() {
        // CAST: the table has fewer than 64 rows; a code above 63 does not compile.
        places[TABLE[at].opcode as usize] = at as u8;
        at += 1;
    }
    places
};

fn place(opcode: Opcode) -> usize {
    PLACES[opcode as usize & 63].into()
}

/// One operation of one tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpTally {
    /// Commands completed, however they ended.
    pub completed: u64,
    /// Commands refused before they ran.
    pub refused: u64,
    /// Commands that failed while they ran.
    pub failed: u64,
    /// Bytes moved.
    pub bytes: u64,
    /// Fetch to completion, summed over what is in `buckets`, in nanoseconds.
    pub sum_ns: u64,
    /// Commands by their time from fetch to completion. Of commands served at once a sample counts
    /// for all, so the total differs a little from `completed`.
    pub buckets: [u64; BUCKETS],
}

impl OpTally {
    /// Notes a time that stands for `weight` commands.
    pub(super) fn took(&mut self, ns: u64, weight: u64) {
        self.sum_ns = self.sum_ns.saturating_add(ns.saturating_mul(weight));
        self.buckets[bucket(ns)] += weight;
    }
}

impl AddAssign<&OpTally> for OpTally {
    fn add_assign(&mut self, other: &OpTally) {
        let OpTally { completed, refused, failed, bytes, sum_ns, buckets } = other;
        self.completed += completed;
        self.refused += refused;
        self.failed += failed;
        self.bytes += bytes;
        self.sum_ns = self.sum_ns.saturating_add(*sum_ns);
        self.buckets.iter_mut().zip(buckets).for_each(|(to, from)| *to += from);
    }
}

/// Every operation of one tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    ops: [OpTally; TABLE.len()],
    by_status: [u64; Status::ALL.len()],
}

impl Default for Tally {
    fn default() -> Tally {
        Tally { ops: [OpTally::default(); TABLE.len()], by_status: [0; Status::ALL.len()] }
    }
}

impl Tally {
    pub(super) fn op(&mut self, opcode: Opcode) -> &mut OpTally {
        &mut self.ops[place(opcode)]
    }

    pub(super) fn ended(&mut self, status: Status) {
        if let Some(count) = self.by_status.get_mut(status as usize) {
            *count += 1;
        }
    }

    /// The operations that occurred, by their name in metrics.
    pub fn operations(&self) -> impl Iterator<Item = (&'static str, &OpTally)> {
        let all = TABLE.iter().map(|info| info.metric).zip(&self.ops);
        all.filter(|(_, op)| op.completed + op.refused + op.failed > 0)
    }

    /// Completions by status, those that occurred.
    pub fn outcomes(&self) -> impl Iterator<Item = (Status, u64)> + '_ {
        Status::ALL.iter().copied().zip(self.by_status).filter(|(_, n)| *n > 0)
    }

    /// All operations together.
    #[must_use]
    pub fn total(&self) -> OpTally {
        let mut total = OpTally::default();
        self.ops.iter().for_each(|op| total += op);
        total
    }
}

impl AddAssign<&Tally> for Tally {
    fn add_assign(&mut self, other: &Tally) {
        let Tally { ops, by_status } = other;
        self.ops.iter_mut().zip(ops).for_each(|(to, from)| *to += from);
        self.by_status.iter_mut().zip(by_status).for_each(|(to, from)| *to += from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fall_into_their_buckets() {
        for at in 0..BUCKETS - 1 {
            let bound = bucket_bound_ns(at).unwrap();
            assert_eq!((bucket(bound), bucket(bound + 1)), (at, at + 1));
        }
        assert_eq!((bucket(0), bucket(u64::MAX)), (0, BUCKETS - 1));
        assert_eq!(bucket_bound_ns(BUCKETS - 1), None);
    }

    #[test]
    fn every_operation_has_a_place_of_its_own() {
        let mut places: Vec<usize> = TABLE.iter().map(|info| place(info.opcode)).collect();
        places.sort_unstable();
        assert_eq!(places, (0..TABLE.len()).collect::<Vec<_>>());
    }
}
