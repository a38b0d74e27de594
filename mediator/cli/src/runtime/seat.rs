//! What the dispatcher keeps for a tenant beside the mediator's state: its device, statistics and
//! place in the audit log.

use std::sync::Arc;

use crossbeam_channel::Sender;
use hdrhistogram::Histogram;
use turnstile_abi::Status;
use turnstile_backend_api::MemoryId;
use turnstile_core::{Counters, Finished, Life};
use turnstile_device::Device;
use turnstile_policy::{Rate, TenantPolicy, TokenBucket};

use super::tally::Tally;
use crate::audit::TenantAudit;

/// Longest latency a histogram tells apart, in nanoseconds: one minute.
const LONGEST_NS: u64 = 60_000_000_000;

/// Of the commands that are served at once, how many make one sample.
const SAMPLE: u32 = 16;

/// Guest memory the backend knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct KnownMemory {
    pub(super) id: MemoryId,
    pub(super) gpa: u64,
    pub(super) bytes: u64,
}

/// One tenant.
pub(super) struct Seat {
    pub(super) device: Arc<Device>,
    pub(super) policy: Arc<TenantPolicy>,
    pub(super) audit: TenantAudit,
    /// How many steps of its life may be shown: a tenant that opens sessions in a loop is one line
    /// a second, not a flood.
    pub(super) milestones: TokenBucket,
    pub(super) aperture: MemoryId,
    pub(super) memory: Vec<KnownMemory>,
    /// Fetch to completion, in nanoseconds, two significant digits.
    latency: Histogram<u32>,
    /// Commands that took no time by the round's clock.
    at_once: u32,
    pub(super) tally: Box<Tally>,
    /// Who waits for this tenant to be gone.
    pub(super) leaving: Vec<Sender<Report>>,
    /// The last look at it, for who asks when it is gone.
    pub(super) last: Option<Report>,
}

impl Seat {
    pub(super) fn new(
        device: Arc<Device>,
        policy: Arc<TenantPolicy>,
        audit: TenantAudit,
        aperture: MemoryId,
    ) -> Seat {
        // PANIC: the bounds are constants that hdrhistogram accepts (1 < max / 2, digits <= 5).
        let latency = Histogram::new_with_bounds(1, LONGEST_NS, 2).expect("valid bounds");
        Seat {
            device,
            policy,
            audit,
            milestones: TokenBucket::new(Rate { per_second: 1, burst: 50 }, 0),
            aperture,
            memory: Vec::new(),
            latency,
            at_once: 0,
            tally: Box::default(),
            leaving: Vec::new(),
            last: None,
        }
    }

    /// Counts a finished command. No allocation. `clock` reads the time since the round began.
    ///
    /// The mediator's clock stands still during a round, so a command served at once has taken no
    /// time by it. One in [`SAMPLE`] of those is measured with the real clock, the others are left
    /// out of the histogram: reading a clock for each would cost more than some of them do.
    pub(super) fn finished(&mut self, finished: &Finished, clock: impl Fn() -> u64) {
        let op = self.tally.op(finished.opcode);
        op.completed += 1;
        if finished.status.is_ok() {
            op.bytes += finished.bytes;
        }
        if finished.latency_ns > 0 {
            op.took(finished.latency_ns, 1);
            self.latency.saturating_record(finished.latency_ns);
        } else {
            self.at_once = self.at_once.wrapping_add(1);
            if self.at_once % SAMPLE == 1 {
                let took = clock().max(1);
                op.took(took, SAMPLE.into());
                self.latency.saturating_record(took);
            }
        }
        self.tally.ended(finished.status);
    }

    pub(super) fn latency(&self) -> Option<Latency> {
        let quantile = |q| self.latency.value_at_quantile(q);
        (!self.latency.is_empty()).then(|| Latency {
            p50_ns: quantile(0.5),
            p99_ns: quantile(0.99),
            max_ns: self.latency.max(),
        })
    }

    pub(super) fn report(&self, counters: Counters, life: Life) -> Report {
        Report {
            name: self.policy.name.to_string(),
            life,
            counters,
            latency: self.latency(),
            outcomes: self.tally.outcomes().collect(),
            audit_dropped: self.audit.dropped(),
        }
    }
}

/// Time from fetch to completion, in nanoseconds, two significant digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// Median.
    pub p50_ns: u64,
    /// 99th percentile.
    pub p99_ns: u64,
    /// Longest.
    pub max_ns: u64,
}

/// What a tenant did.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its name.
    pub name: String,
    /// Where its device is in its life.
    pub life: Life,
    /// The mediator's counters.
    pub counters: Counters,
    /// Latencies, if it had any command complete.
    pub latency: Option<Latency>,
    /// Completions by status, those that occurred.
    pub outcomes: Vec<(Status, u64)>,
    /// Audit records dropped since the last count went to the log.
    pub audit_dropped: u64,
}
