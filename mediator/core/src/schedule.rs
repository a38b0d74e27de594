//! Taking turns: deficit round robin over tenants by cost, in-flight limits, rates, parking.
//!
//! Each round a tenant gets a budget in proportion to its weight and spends it on commands by the
//! operation table's cost (plus payload). This shares the dispatcher; GPU time is shared by the
//! backend, which is told the weights when a space opens.

use turnstile_abi::SharedMemory;

use crate::context::Context;
use crate::effects::Effects;
use crate::tenant::{Life, Tenant};
use crate::work::Fetched;

/// Cost the heaviest tenant may spend in one round: 256 `Nop`s, or a handful of launches.
const ROUND_COST: i64 = 256;

/// How a tenant's turn went.
pub(crate) enum Round {
    /// Commands were served.
    Served,
    /// Nothing to do, but it stays in the round for a while.
    Idle,
    /// Commands may wait, but its rate is used up until then.
    Throttled(u64),
    /// It left the round: parked, blocked on the backend, or not served at all.
    Cold,
}

impl<M> Tenant<M> {
    /// Work that has a deadline.
    pub(crate) fn has_open_work(&self) -> bool {
        self.in_flight > 0 || self.queues.iter().flatten().any(|q| q.waiting)
    }

    fn served(&self) -> bool {
        self.life == Life::Enabled && !self.paused
    }

    fn may_submit(&self) -> bool {
        // Without the grant (a reload took it away) commands are fetched and denied.
        self.policy.grants.queue.as_ref().is_none_or(|q| self.in_flight < q.max_in_flight)
    }
}

impl<M: SharedMemory, F: Effects> Context<'_, M, F> {
    /// Puts the tenant into the round and wakes its rings. Returns whether it is in.
    pub(crate) fn heat(&mut self) -> bool {
        if self.t.turn.hot || !self.t.served() {
            return self.t.turn.hot;
        }
        self.t.turn.hot = true;
        self.t.turn.last_work_ns = self.now;
        // A ring whose memory is gone is found broken at the next fetch.
        if let Some(admin) = self.t.admin.as_mut() {
            let _ = admin.ring.unpark(&self.t.aperture);
        }
        for queue in self.t.queues.iter_mut().flatten() {
            let _ = queue.ring.unpark(&self.t.aperture);
        }
        true
    }

    /// One turn.
    pub(crate) fn round(&mut self, heaviest: u32, spin_ns: u64) -> Round {
        if !self.t.served() {
            self.t.turn.hot = false;
            return Round::Cold;
        }
        if let Some(until) = self.throttled() {
            return Round::Throttled(until);
        }
        let share = ROUND_COST * i64::from(self.t.policy.weight) / i64::from(heaviest);
        let budget = share.max(1);
        self.t.turn.deficit = (self.t.turn.deficit + budget).min(budget);
        let mut served = false;
        while self.t.turn.deficit > 0 && self.serve_once() {
            served = true;
        }
        if served {
            self.t.turn.last_work_ns = self.now;
            return Round::Served;
        }
        if self.t.turn.deficit <= 0 {
            // Still paying for an expensive command.
            return Round::Served;
        }
        self.t.turn.deficit = 0;
        if let Some(until) = self.throttled() {
            return Round::Throttled(until);
        }
        if self.now.saturating_sub(self.t.turn.last_work_ns) < spin_ns || !self.park() {
            return Round::Idle;
        }
        self.t.turn.hot = false;
        Round::Cold
    }

    /// Serves at most one command of each queue. Returns whether there was one.
    fn serve_once(&mut self) -> bool {
        let mut any = self.charge(Self::serve_admin);
        let mut mask = self.t.queue_mask;
        let start = self.t.turn.next_queue;
        // Begin with the queue after the one that began last time.
        let (mut high, mut low) = (mask & (u64::MAX << start), mask & !(u64::MAX << start));
        while high | low != 0 {
            let from = if high != 0 { &mut high } else { &mut low };
            let number = from.trailing_zeros() as u8;
            *from &= *from - 1;
            if self.t.turn.deficit <= 0 || !self.t.may_submit() {
                break;
            }
            any |= self.charge(|c| c.serve_work(number));
        }
        mask &= u64::MAX.checked_shl(start + 1).unwrap_or(0);
        self.t.turn.next_queue = if mask == 0 { 0 } else { mask.trailing_zeros() };
        any
    }

    /// Serves one command and charges for it.
    fn charge(&mut self, serve: impl FnOnce(&mut Self) -> Fetched) -> bool {
        if self.throttled().is_some() {
            return false;
        }
        match serve(self) {
            Fetched::Nothing => false,
            Fetched::Command(cost) => {
                self.t.turn.deficit -= i64::from(cost);
                self.t.turn.owes = self.t.bucket.is_some();
                true
            }
        }
    }

    /// Pays the rate for the command fetched last. Until it is paid, nothing more is fetched: a
    /// tenant over its rate is slowed down, not refused.
    fn throttled(&mut self) -> Option<u64> {
        if !self.t.turn.owes {
            return None;
        }
        if self.now < self.t.turn.throttled_until_ns {
            return Some(self.t.turn.throttled_until_ns);
        }
        let now = self.now;
        match self.t.bucket.as_mut().map_or(Ok(()), |bucket| bucket.take(1, now)) {
            Ok(()) => {
                self.t.turn.owes = false;
                None
            }
            Err(wait) => {
                self.t.turn.throttled_until_ns = now.saturating_add(wait.max(1));
                Some(self.t.turn.throttled_until_ns)
            }
        }
    }

    /// Tells the drivers to ring from now on. `false`: there is work after all. Rings that are held
    /// up by the backend or by a fence stay awake; the answer that frees them heats the tenant.
    fn park(&mut self) -> bool {
        let mut all = true;
        if let Some(admin) = self.t.admin.as_mut().filter(|a| !a.broken && a.command.is_none()) {
            all &= admin.ring.park(&self.t.aperture).unwrap_or(true);
        }
        if !self.t.may_submit() && self.t.in_flight > 0 {
            return all;
        }
        for queue in self.t.queues.iter_mut().flatten().filter(|q| q.open()) {
            all &= queue.ring.park(&self.t.aperture).unwrap_or(true);
        }
        all
    }
}
