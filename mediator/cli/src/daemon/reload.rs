//! A change of policy while tenants work: all or nothing.
//!
//! Everything that can fail comes first: the document is read, compared with the one in force, what
//! cannot change live is refused, and new tenants are prepared up to their bound sockets. Then the
//! dispatcher switches between two of its rounds. What follows only carries out what the switch
//! decided: tenants that are gone are ended, new ones started.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use serde::Serialize;
use turnstile_policy::{Diff, Policy, PolicyErrors, TenantPolicy, diff};

use super::frontends::{FrontEndError, check};
use super::{Daemon, Operator};
use crate::runtime::RuntimeError;

/// Why a policy was not put in force. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The document has mistakes.
    #[error("the policy was refused; correct the mistakes and try again")]
    Invalid(PolicyErrors),
    /// Something changes that takes a restart.
    #[error("this changes what only a restart can; leave it as it is, or restart the daemon")]
    NeedsRestart(Box<Diff>),
    /// A new tenant cannot be served.
    #[error("a new tenant cannot be served: {0}")]
    FrontEnd(#[from] FrontEndError),
    /// The dispatcher.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The daemon stops.
    #[error("the daemon is stopping; start it again with the new policy")]
    Stopping,
}

/// A new tenant whose guest did not start. The policy is in force all the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failed {
    /// The tenant.
    pub tenant: String,
    /// Why its guest did not start.
    pub why: String,
}

/// A policy that is in force now, or would be.
#[derive(Clone, Debug, Serialize)]
pub struct Reloaded {
    /// What changed.
    pub diff: Diff,
    /// Whether it was put in force.
    pub applied: bool,
    /// How long the dispatcher did nothing else for it, in nanoseconds.
    pub pause_ns: u64,
    /// How long it took to read, compare, prepare and switch, in nanoseconds.
    pub took_ns: u64,
    /// New tenants whose guests did not start.
    pub failed: Vec<Failed>,
}

impl Daemon {
    /// Puts another policy in force, or with `dry_run` only says what that would change.
    ///
    /// # Errors
    /// When it cannot be put in force as a whole. Nothing has changed then.
    pub fn reload(&self, by: Operator, text: &str, dry_run: bool) -> Result<Reloaded, ReloadError> {
        let began = Instant::now();
        let next = Policy::parse(text).map_err(ReloadError::Invalid)?;
        // One reload at a time; nobody else changes the policy in force.
        let mut guard = self.frontends();
        let frontends = guard.as_mut().ok_or(ReloadError::Stopping)?;
        let before = self.policy();
        let diff = diff(&before, &next);
        if diff.needs_restart() {
            return Err(ReloadError::NeedsRestart(Box::new(diff)));
        }
        let named = |names: &[String]| -> Vec<Arc<TenantPolicy>> {
            let names: HashSet<&str> = names.iter().map(String::as_str).collect();
            next.tenants.iter().filter(|t| names.contains(&*t.name)).cloned().collect()
        };
        let added = named(&diff.added);
        let mut reloaded =
            Reloaded { diff, applied: false, pause_ns: 0, took_ns: 0, failed: Vec::new() };
        if dry_run {
            check(&added)?;
            reloaded.took_ns = began.elapsed().as_nanos() as u64; // CAST: 584 years fit.
        } else {
            let prepared = frontends.prepare(&added)?;
            let names: Vec<String> =
                reloaded.diff.tenants.iter().map(|tenant| tenant.name.clone()).collect();
            let changed = named(&names);
            let switch: Vec<_> = changed.iter().chain(&added).cloned().collect();
            let switched = self.runtime.switch(switch, reloaded.diff.removed.clone())?;
            let next = Arc::new(next);
            *self.policy.write().unwrap_or_else(PoisonError::into_inner) = next;
            reloaded.applied = true;
            reloaded.pause_ns = switched.pause_ns;
            drop(switched);
            changed.iter().for_each(|policy| frontends.update(policy));
            reloaded.diff.removed.iter().for_each(|tenant| frontends.remove(tenant));
            reloaded.took_ns = began.elapsed().as_nanos() as u64; // CAST: 584 years fit.
            let failed = frontends.admit(prepared).into_iter();
            let failed = failed.map(|(tenant, e)| Failed { tenant, why: e.to_string() });
            reloaded.failed = failed.collect();
            let Diff { added, removed, tenants, .. } = &reloaded.diff;
            let detail = format!(
                "{} tenants changed, {} new, {} gone",
                tenants.len(),
                added.len(),
                removed.len()
            );
            self.note(by, None, "reload", None, Some(detail));
        }
        Ok(reloaded)
    }
}
