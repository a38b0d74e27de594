//! The tenants there are by the policy in force, attached or not: what the operator decided about
//! each, and what it did in earlier lives of its device.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use turnstile_core::{Counters, Life, SessionView, TenantId};
use turnstile_policy::{Resource, TenantPolicy};

use super::command::RuntimeError;
use super::seat::{Latency, Report};
use super::tally::Tally;

/// One tenant of the policy in force.
pub(super) struct Entry {
    pub(super) policy: Arc<TenantPolicy>,
    /// Its device, while it has one. One at a time: quotas are a tenant's, not a connection's.
    pub(super) tenant: Option<TenantId>,
    pub(super) paused: bool,
    /// Revoked: no device for it until the operator resumes it.
    pub(super) barred: bool,
    /// Earlier lives of its device.
    past: Box<(Counters, Tally)>,
}

impl Entry {
    fn new(policy: Arc<TenantPolicy>) -> Entry {
        Entry { policy, tenant: None, paused: false, barred: false, past: Box::default() }
    }

    /// The device is gone; what it did stays counted.
    pub(super) fn left(&mut self, last: Option<&Counters>, tally: &Tally) {
        self.tenant = None;
        if let Some(last) = last {
            add(&mut self.past.0, last);
        }
        self.past.1 += tally;
    }

    pub(super) fn past(&self) -> (Counters, Tally) {
        (self.past.0, self.past.1.clone())
    }
}

pub(super) fn add(to: &mut Counters, more: &Counters) {
    let Counters {
        fetched,
        completed,
        denied,
        failed,
        bytes,
        busy_ns,
        sessions,
        resets,
        broken_rings,
    } = more;
    to.fetched += fetched;
    to.completed += completed;
    to.denied += denied;
    to.failed += failed;
    to.bytes += bytes;
    to.busy_ns += busy_ns;
    to.sessions += sessions;
    to.resets += resets;
    to.broken_rings += broken_rings;
}

/// Every tenant of the policy in force.
#[derive(Default)]
pub(super) struct Roster {
    entries: BTreeMap<Arc<str>, Entry>,
    /// A policy was put in force: only its tenants may attach. Without one, whoever starts a tenant
    /// answers for its policy.
    in_force: bool,
}

impl Roster {
    pub(super) fn enforce(&mut self, tenants: Vec<Arc<TenantPolicy>>) {
        self.in_force = true;
        for policy in tenants {
            self.insert(policy);
        }
    }

    fn insert(&mut self, policy: Arc<TenantPolicy>) {
        self.entries.insert((&*policy.name).into(), Entry::new(policy));
    }

    /// Puts a tenant's new policy in force, or lists a new tenant. Returns the tenant's device and the
    /// policy before.
    pub(super) fn change(
        &mut self,
        policy: Arc<TenantPolicy>,
    ) -> Option<(Option<TenantId>, Arc<TenantPolicy>)> {
        if let Some(entry) = self.entries.get_mut(&*policy.name) {
            let before = std::mem::replace(&mut entry.policy, policy);
            return Some((entry.tenant, before));
        }
        self.insert(policy);
        None
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<Entry> {
        self.entries.remove(name)
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Entry> {
        self.entries.get_mut(name)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// Tenants in the order of their names, from the one after `after` on.
    pub(super) fn after(&self, after: Option<&str>) -> impl Iterator<Item = (&Arc<str>, &Entry)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.entries.range::<str, _>((from, Bound::Unbounded))
    }

    /// The policy a tenant attaches with: the one in force, whatever its front end read before.
    pub(super) fn admit(
        &self,
        policy: Arc<TenantPolicy>,
    ) -> Result<(Arc<TenantPolicy>, bool), RuntimeError> {
        if !self.in_force {
            return Ok((policy, false));
        }
        let name = || policy.name.to_string();
        let entry = self.entries.get(&*policy.name);
        let entry = entry.ok_or_else(|| RuntimeError::NotListed { tenant: name() })?;
        if entry.barred {
            return Err(RuntimeError::Barred { tenant: name() });
        }
        if entry.tenant.is_some() {
            return Err(RuntimeError::AlreadyAttached { tenant: name() });
        }
        if entry.policy.aperture_bytes != policy.aperture_bytes {
            return Err(RuntimeError::NotListed { tenant: name() });
        }
        Ok((entry.policy.clone(), entry.paused))
    }
}

/// A look at a tenant of the policy in force, for operators and metrics. Counts are over all lives of
/// its device since the daemon started.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Its policy.
    pub policy: Arc<TenantPolicy>,
    /// Where its device is in its life; `None`: not attached.
    pub life: Option<Life>,
    /// The operator paused it.
    pub paused: bool,
    /// The operator revoked it: it gets no device until it is resumed.
    pub barred: bool,
    /// The mediator's counters.
    pub counters: Counters,
    /// By operation.
    pub tally: Tally,
    /// Commands fetched and not completed.
    pub waiting: u64,
    /// Work commands at the backend.
    pub in_flight: u32,
    /// Live capabilities.
    pub handles: u32,
    /// Sessions, closing ones included.
    pub sessions: u32,
    /// Register accesses refused in this life.
    pub registers_refused: u64,
    /// What it holds, by resource, in the order of [`Resource::ALL`].
    pub used: [u64; Resource::ALL.len()],
    /// Latencies of this life, if they were asked for and there are any.
    pub latency: Option<Latency>,
    /// Audit records dropped since the last count went to the log.
    pub audit_dropped: u64,
}

/// A tenant's sessions and objects.
#[derive(Clone, Debug, Default)]
pub struct Holdings {
    /// Sessions, closing ones included.
    pub sessions: Vec<SessionView>,
    /// Objects in them, a bounded number.
    pub objects: Vec<turnstile_core::ObjectView>,
    /// There are more objects than are listed.
    pub truncated: bool,
}

/// What became of a reload.
#[derive(Debug, Default)]
pub struct Switched {
    /// How long the dispatcher did nothing else, in nanoseconds.
    pub pause_ns: u64,
    /// Reports of devices that were taken away with their tenants.
    pub removed: Vec<Report>,
    /// Policies that are not in force any more: freed by whoever asked, not by the dispatcher.
    pub(super) before: Vec<Arc<TenantPolicy>>,
    pub(super) entries: Vec<Entry>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("tenant", &self.policy.name).finish_non_exhaustive()
    }
}
