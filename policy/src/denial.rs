//! A refusal: what was asked, what the policy allows, and which line of it says so.

use std::fmt;

use turnstile_abi::Status;

/// Why the policy refused a command. Small, `Copy` and free of allocations: it is made on the
/// tenant's account and goes to counters and the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denial {
    /// What the tenant sees: [`Status::Denied`] or [`Status::Quota`].
    pub status: Status,
    /// Stable machine name, for audit lines and metrics.
    pub reason: &'static str,
    /// Where the limit stands in the tenant's policy, such as `grants.launch.max_blocks`.
    pub path: &'static str,
    /// What the policy allows; 0 when it does not grant this at all.
    pub limit: u64,
    /// What is already used of it; 0 unless this is a quota.
    pub used: u64,
    /// What the command asked for, on top of `used`.
    pub asked: u64,
    /// What is counted, in words.
    pub(crate) what: &'static str,
}

impl Denial {
    /// The grant is absent.
    #[cold]
    pub(crate) const fn not_granted(path: &'static str, what: &'static str) -> Denial {
        Denial {
            status: Status::Denied,
            reason: "not_granted",
            path,
            limit: 0,
            used: 0,
            asked: 0,
            what,
        }
    }

    /// The grant is there, but its `path` does not list `what`.
    #[cold]
    pub(crate) const fn not_listed(
        reason: &'static str,
        path: &'static str,
        what: &'static str,
    ) -> Denial {
        Denial { status: Status::Denied, reason, path, limit: 0, used: 0, asked: 0, what }
    }

    /// One command asks for more than any command may.
    #[cold]
    pub(crate) const fn over(
        reason: &'static str,
        path: &'static str,
        what: &'static str,
        limit: u64,
        asked: u64,
    ) -> Denial {
        Denial { status: Status::Denied, reason, path, limit, used: 0, asked, what }
    }

    /// The quota is used up.
    #[cold]
    pub(crate) const fn quota(
        reason: &'static str,
        path: &'static str,
        what: &'static str,
        limit: u64,
        used: u64,
        asked: u64,
    ) -> Denial {
        Denial { status: Status::Quota, reason, path, limit, used, asked, what }
    }

    /// What is left of the limit. 0 also when a reload lowered the limit below what is used.
    #[must_use]
    pub const fn left(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }

    /// The completion's detail word: what would have been allowed.
    #[must_use]
    pub const fn detail(&self) -> u64 {
        self.left()
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Denial { status, path, limit, used, asked, what, .. } = self;
        if *status == Status::Quota {
            let left = self.left();
            write!(
                f,
                "{asked} more {what} asked for, but {used} of {limit} are in use and {left} left: \
                 free some, or raise {path}"
            )
        } else if self.reason == "not_granted" {
            write!(f, "{what} is not granted: add {path} to the tenant's policy")
        } else if *asked == 0 {
            write!(f, "{what} is not allowed by {path}: do without it, or add it there")
        } else {
            write!(
                f,
                "{asked} {what} asked for, but {path} allows {limit}: ask for less, or raise it"
            )
        }
    }
}

impl std::error::Error for Denial {}
