//! What operators see of a tenant: looks that change nothing.

use std::sync::Arc;

use turnstile_abi::{Kind, SharedMemory};
use turnstile_policy::{Resource, TenantPolicy};

use crate::effects::TenantId;
use crate::mediator::Mediator;
use crate::object::{Body, Phase};
use crate::tenant::{Counters, Life};

/// A look at a tenant, for tables and metrics.
#[derive(Clone, Debug)]
pub struct TenantView {
    /// Its policy.
    pub policy: Arc<TenantPolicy>,
    /// Where its device is in its life.
    pub life: Life,
    /// Whether the operator paused it.
    pub paused: bool,
    /// What it did.
    pub counters: Counters,
    /// Work commands at the backend.
    pub in_flight: u32,
    /// Commands fetched and not completed.
    pub waiting: u64,
    /// Live capabilities.
    pub handles: u32,
    /// Register accesses refused.
    pub registers_refused: u64,
    /// What it holds, by resource, in the order of [`Resource::ALL`].
    pub used: [u64; Resource::ALL.len()],
}

/// A look at one of a tenant's sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// Names the session among all that the mediator ever had.
    pub number: u64,
    /// It is closing: nothing of it resolves any more.
    pub closing: bool,
    /// Base and size of its device address space, in bytes.
    pub arena: (u64, u64),
    /// Objects that belong to it, itself not counted.
    pub members: u32,
}

/// A look at one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectView {
    /// The session it belongs to.
    pub session: u64,
    /// What it is.
    pub kind: Kind,
    /// Bytes it takes; 0 where that means nothing.
    pub bytes: u64,
    /// Whether commands can use it; otherwise it is being made or going.
    pub live: bool,
}

impl<M: SharedMemory> Mediator<M> {
    /// A look at a tenant.
    #[must_use]
    pub fn view(&self, id: TenantId) -> Option<TenantView> {
        let t = self.tenants.get(id)?;
        Some(TenantView {
            policy: t.policy.clone(),
            life: t.life,
            paused: t.paused,
            counters: t.counters,
            in_flight: t.in_flight,
            waiting: t.counters.fetched.saturating_sub(t.counters.completed),
            handles: t.caps.len(),
            registers_refused: t.registers.refused(),
            used: std::array::from_fn(|at| t.ledger.used(Resource::ALL[at])),
        })
    }

    /// A tenant's sessions, those that are closing included. Empty if there is no such tenant.
    #[must_use]
    pub fn sessions(&self, id: TenantId) -> Vec<SessionView> {
        let Some(t) = self.tenants.get(id) else { return Vec::new() };
        let view = |key| match &t.objects.get(key)?.body {
            Body::Session(s) => Some(SessionView {
                number: s.space.0,
                closing: s.dead.is_some(),
                arena: s.arena,
                members: s.members,
            }),
            _ => None,
        };
        t.sessions.iter().filter_map(|&key| view(key)).collect()
    }

    /// At most `most` of a tenant's objects, sessions left out, and whether there are more.
    #[must_use]
    pub fn objects(&self, id: TenantId, most: usize) -> (Vec<ObjectView>, bool) {
        let Some(t) = self.tenants.get(id) else { return (Vec::new(), false) };
        let mut all = t.objects.values().filter_map(|object| {
            let (kind, bytes) = match &object.body {
                Body::Session(_) => return None,
                Body::Buffer { bytes, .. } => (Kind::Buffer, *bytes),
                Body::Region { bytes, .. } => (Kind::DmaRegion, *bytes),
                Body::Program { bytes, .. } => (Kind::Program, *bytes),
                Body::Function { .. } => (Kind::Function, 0),
                Body::Queue { .. } => (Kind::Queue, 0),
                Body::Fence { .. } => (Kind::Fence, 0),
            };
            let session = match &t.objects.get(object.session)?.body {
                Body::Session(session) => session.space.0,
                _ => return None,
            };
            Some(ObjectView { session, kind, bytes, live: object.phase == Phase::Live })
        });
        let some = all.by_ref().take(most).collect();
        (some, all.next().is_some())
    }
}
