//! Who may submit next: tenants' shares of GPU time, by what their work was measured to take.
//!
//! Each space has a virtual time, the GPU time it used over its weight. A space that is ahead of the one
//! that is furthest behind by more than a little waits until that one has caught up; a space that was
//! idle starts where the others are, so it saves nothing up. With equal weights nothing waits here: the GPU
//! itself gives equal shares, and holding work back would only leave it idle.

/// How far a space may be ahead, in nanoseconds of its own GPU time.
const LEAD_NS: u64 = 2_000_000;
/// Virtual nanoseconds for one of GPU time at weight 1.
const SCALE: u64 = 1000;

/// A space's account.
#[derive(Clone, Copy, Debug)]
pub(super) struct Account {
    weight: u64,
    virtual_ns: u64,
    /// GPU time of a command, smoothed.
    usual_ns: u64,
    /// Commands at the worker.
    issued: u64,
    /// Commands at the worker or waiting here.
    active: bool,
}

impl Account {
    pub(super) fn new(weight: u32) -> Account {
        let weight = u64::from(weight.max(1));
        Account { weight, virtual_ns: 0, usual_ns: 0, issued: 0, active: false }
    }

    fn charge(&self, ns: u64) -> u64 {
        ns.saturating_mul(SCALE) / self.weight
    }

    /// Virtual time, with what is under way.
    fn expected(&self) -> u64 {
        self.virtual_ns.saturating_add(self.charge(self.usual_ns.saturating_mul(self.issued)))
    }

    /// Whether another command may go to the worker.
    pub(super) fn may(&self, floor: &Floor) -> bool {
        floor.equal || self.expected() <= floor.virtual_ns.saturating_add(self.charge(LEAD_NS))
    }

    /// A command arrives, to be issued or to wait.
    pub(super) fn arrive(&mut self, floor: &Floor) {
        if !self.active {
            self.active = true;
            self.virtual_ns = self.virtual_ns.max(floor.virtual_ns);
        }
    }

    /// Commands at the worker.
    pub(super) fn issued(&self) -> u64 {
        self.issued
    }

    pub(super) fn issue(&mut self) {
        self.issued += 1;
    }

    /// A command is over, or gone.
    pub(super) fn finish(&mut self, busy_ns: u64) {
        self.issued = self.issued.saturating_sub(1);
        self.virtual_ns = self.virtual_ns.saturating_add(self.charge(busy_ns));
        self.usual_ns = (self.usual_ns * 7 + busy_ns) / 8;
    }

    /// Nothing of it is left anywhere.
    pub(super) fn rest(&mut self) {
        self.active = false;
    }
}

/// The space furthest behind among those with work.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Floor {
    virtual_ns: u64,
    /// All have the same weight.
    equal: bool,
}

impl Floor {
    /// The floor under some accounts; it stays where it was if none has work.
    pub(super) fn under<'a>(&self, accounts: impl Iterator<Item = &'a Account>) -> Floor {
        let mut floor = Floor { virtual_ns: u64::MAX, equal: true };
        let mut weight = None;
        for account in accounts.filter(|a| a.active) {
            floor.virtual_ns = floor.virtual_ns.min(account.virtual_ns);
            floor.equal &= *weight.get_or_insert(account.weight) == account.weight;
        }
        if weight.is_none() { Floor { equal: true, ..*self } } else { floor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs accounts against each other for some rounds: each round, every account that may submits one
    /// command, and the commands of the round are done. Returns the GPU time of each.
    fn race(accounts: &mut [Account], command_ns: &[u64], rounds: u32) -> Vec<u64> {
        let mut used = vec![0; accounts.len()];
        let mut floor = Floor::default();
        for _ in 0..rounds {
            accounts.iter_mut().for_each(|a| a.arrive(&floor));
            floor = floor.under(accounts.iter());
            for (i, account) in accounts.iter_mut().enumerate() {
                if account.may(&floor) {
                    account.issue();
                    account.finish(command_ns[i]);
                    used[i] += command_ns[i];
                }
            }
        }
        used
    }

    #[test]
    fn shares_follow_weights_whatever_the_commands_take() {
        let mut accounts = [Account::new(1), Account::new(3), Account::new(6)];
        let used = race(&mut accounts, &[500_000, 100_000, 50_000], 200_000);
        let total: u64 = used.iter().sum();
        for (used, share) in used.iter().zip([0.1, 0.3, 0.6]) {
            let got = *used as f64 / total as f64;
            assert!((got - share).abs() < 0.01, "{got} of {share}");
        }
    }

    #[test]
    fn equal_weights_hold_nobody_back() {
        let mut accounts = [Account::new(5), Account::new(5)];
        let used = race(&mut accounts, &[1_000_000, 10], 1000);
        assert_eq!(used, [1_000_000_000, 10_000]);
    }

    #[test]
    fn who_was_idle_saved_nothing_up() {
        let mut busy = [Account::new(1), Account::new(2)];
        race(&mut busy[..1], &[1_000_000], 1000);
        let mut late = Account::new(2);
        let floor = Floor::default().under(busy[..1].iter());
        late.arrive(&floor);
        assert_eq!(late.virtual_ns, busy[0].virtual_ns);
    }
}
