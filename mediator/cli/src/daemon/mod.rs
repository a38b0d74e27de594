//! The daemon as its operators know it: a policy in force, tenants behind front ends, and what can be
//! ordered about them.
//!
//! Everything here runs on the operator's thread and may block on the dispatcher; a tenant's command
//! never comes here.

mod frontends;
mod reload;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use turnstile_policy::Policy;

pub use frontends::{FrontEndError, FrontEnds, check};
pub use reload::{Failed, ReloadError, Reloaded};

use crate::audit::{AuditHandle, OperatorEvent};
use crate::runtime::{Handle, Order, RuntimeError};
use crate::state::StateDirectory;

/// Who gave an order, by the kernel's word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operator {
    /// User id.
    pub uid: u32,
    /// Process id, 0 if unknown.
    pub pid: u32,
}

/// A running daemon.
pub struct Daemon {
    runtime: Handle,
    audit: AuditHandle,
    policy: RwLock<Arc<Policy>>,
    /// `None`: stopping. Held by whoever changes which tenants there are, one at a time.
    frontends: Mutex<Option<FrontEnds>>,
    started: Instant,
}

impl Daemon {
    /// Puts a policy in force over a runtime and starts its tenants.
    ///
    /// # Errors
    /// When a socket cannot be opened or a tenant cannot be started; what was started is ended again.
    pub fn start(
        policy: Policy,
        runtime: Handle,
        audit: AuditHandle,
        news: crossbeam_channel::Sender<crate::tenants::News>,
        state: Option<Arc<StateDirectory>>,
    ) -> Result<Daemon, FrontEndError> {
        runtime.enforce(policy.tenants.clone())?;
        let mut frontends = FrontEnds::new(runtime.clone(), audit.clone(), news, state)?;
        let prepared = frontends.prepare(&policy.tenants)?;
        if let Some((_, error)) = frontends.admit(prepared).into_iter().next() {
            frontends.stop();
            return Err(error);
        }
        Ok(Daemon {
            runtime,
            audit,
            policy: RwLock::new(Arc::new(policy)),
            frontends: Mutex::new(Some(frontends)),
            started: Instant::now(),
        })
    }

    /// The dispatcher.
    #[must_use]
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// The audit log.
    #[must_use]
    pub fn audit(&self) -> &AuditHandle {
        &self.audit
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        self.policy.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Time since the daemon started.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Whether tenants can come and work: the daemon is not stopping, and the audit log takes records
    /// where the policy wants it to.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        // A lock that is held is a reload at work.
        !self.audit.stopped() && self.frontends.try_lock().is_ok_and(|f| f.is_some())
    }

    fn frontends(&self) -> MutexGuard<'_, Option<FrontEnds>> {
        // Nothing is left half done when a holder panics but the one tenant it was about.
        self.frontends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out an order about a tenant and writes it to the audit log.
    ///
    /// # Errors
    /// When there is no such tenant or session.
    pub fn order(&self, by: Operator, tenant: &str, order: Order) -> Result<(), RuntimeError> {
        let result = self.runtime.order(tenant, order);
        let (action, session) = match order {
            Order::Pause => ("pause", None),
            Order::Resume => ("resume", None),
            Order::Revoke => ("revoke", None),
            Order::RevokeSession(number) => ("revoke_session", Some(number)),
        };
        if result.is_ok() {
            self.note(by, Some(tenant), action, session, None);
        }
        result
    }

    /// Ends a tenant's guest, process or connection, after its capabilities were taken away. Unless it
    /// was revoked, it may come back.
    ///
    /// # Errors
    /// When there is no such tenant.
    pub fn kill(&self, by: Operator, tenant: &str) -> Result<(), RuntimeError> {
        self.runtime.find(tenant)?;
        self.note(by, Some(tenant), "kill", None, None);
        if let Some(frontends) = &*self.frontends() {
            frontends.kill_tenant(tenant);
        }
        Ok(())
    }

    pub(crate) fn note(
        &self,
        by: Operator,
        tenant: Option<&str>,
        action: &'static str,
        session: Option<u64>,
        detail: Option<String>,
    ) {
        let Operator { uid, pid } = by;
        let event = OperatorEvent { event: "operator", action, uid, pid, session, detail };
        self.audit.record(tenant.map(Arc::from).as_ref(), event.into());
    }

    /// Ends every tenant and waits until all are reclaimed. Nothing can be reloaded from then on.
    pub fn stop(&self) {
        let frontends = self.frontends().take();
        if let Some(frontends) = frontends {
            frontends.stop();
        }
    }
}
