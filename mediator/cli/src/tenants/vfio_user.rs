//! Tenants in VMMs that somebody else starts: they connect to their socket and speak vfio-user.
//!
//! A device lives as long as a client's connection: it is attached when a client has negotiated and
//! detached, with everything it held, when the connection ends. The socket stays.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use crossbeam_channel::Sender;
use turnstile_backend_api::SharedRegion;
use turnstile_core::TenantId;
use turnstile_policy::{Attach, TenantPolicy, VfioUser};
use turnstile_process::Peer;
use turnstile_vfio_user::listener::ListenError;
use turnstile_vfio_user::{
    Admission, Door, Left, Limits, Listener, MemoryEvents, Seat, Server, ServerError,
};

use super::{News, clean};
use crate::audit::{AuditHandle, TenantEvent};
use crate::runtime::Handle;
use crate::state::StateDirectory;

/// Why the sockets cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum VfioUserError {
    /// A tenant's socket cannot be opened.
    #[error("tenant {tenant}: {source}")]
    Listen {
        /// The tenant.
        tenant: String,
        /// Why not.
        source: ListenError,
    },
    /// The server cannot run.
    #[error("the vfio-user front end {0}")]
    Server(#[from] ServerError),
}

/// The sockets of all tenants that attach over vfio-user.
pub struct VfioUserTenants {
    server: Server,
    doorman: Arc<Doorman>,
    state: Option<Arc<StateDirectory>>,
}

/// A tenant's socket, bound and not served yet: nobody can connect to it.
pub struct Prepared {
    policy: Arc<TenantPolicy>,
    listener: Listener,
}

impl VfioUserTenants {
    /// Serves nobody yet. Sockets are written down in the daemon's state directory, if it has one.
    ///
    /// # Errors
    /// When threads or descriptors run out.
    pub fn start(
        runtime: Handle,
        audit: AuditHandle,
        news: Sender<News>,
        state: Option<Arc<StateDirectory>>,
    ) -> Result<VfioUserTenants, VfioUserError> {
        let doorman = Arc::new(Doorman { runtime, audit, news, guests: RwLock::default() });
        let server = Server::start(Vec::new(), doorman.clone(), Limits::default())?;
        Ok(VfioUserTenants { server, doorman, state })
    }

    /// Binds a tenant's socket; `None` if it does not attach over vfio-user. Dropping what comes back
    /// removes the socket again.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub fn prepare(&self, policy: &Arc<TenantPolicy>) -> Result<Option<Prepared>, VfioUserError> {
        let Attach::VfioUser(VfioUser { socket, mode, group, .. }) = &policy.attach else {
            return Ok(None);
        };
        let listener = Listener::bind(socket, *mode, *group)
            .map_err(|source| VfioUserError::Listen { tenant: policy.name.to_string(), source })?;
        if let Some(state) = &self.state {
            state.note_socket(socket);
        }
        Ok(Some(Prepared { policy: policy.clone(), listener }))
    }

    /// Serves whoever connects to a socket and may.
    pub fn open(&self, prepared: Prepared) {
        let Prepared { policy, listener } = prepared;
        let tenant = policy.name.to_string();
        self.update(&policy);
        self.server.open(Door { tenant, listener });
    }

    /// Lets in whom a tenant's new policy names from now on.
    pub fn update(&self, policy: &Arc<TenantPolicy>) {
        if let Attach::VfioUser(VfioUser { users, .. }) = &policy.attach {
            let guest = Guest { policy: policy.clone(), users: users.clone() };
            let mut guests = self.doorman.guests.write().unwrap_or_else(PoisonError::into_inner);
            guests.insert(policy.name.to_string(), guest);
        }
    }

    /// Closes a tenant's socket and ends its connection.
    pub fn close(&self, tenant: &str) {
        let mut guests = self.doorman.guests.write().unwrap_or_else(PoisonError::into_inner);
        guests.remove(tenant);
        drop(guests);
        self.server.close(tenant);
    }

    /// Ends a tenant's connection, if it has one; its VMM may come back.
    pub fn kill_tenant(&self, tenant: &str) {
        self.server.disconnect(tenant);
    }

    /// Tenants whose VMM is connected now.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.server.clients()
    }

    /// Ends every connection, waits until everything is reclaimed, and closes the sockets.
    pub fn stop(mut self) {
        self.server.stop();
    }
}

/// A tenant that may connect.
struct Guest {
    policy: Arc<TenantPolicy>,
    /// Who may be it; empty: whoever the socket's permissions let through.
    users: Vec<u32>,
}

/// Lets VMMs in.
struct Doorman {
    runtime: Handle,
    audit: AuditHandle,
    news: Sender<News>,
    guests: RwLock<HashMap<String, Guest>>,
}

impl Doorman {
    fn with<T>(&self, tenant: &str, look: impl FnOnce(&Guest) -> T) -> Result<T, String> {
        // Entries are whole between any two statements.
        let guests = self.guests.read().unwrap_or_else(PoisonError::into_inner);
        guests.get(tenant).map(look).ok_or_else(|| "no such tenant".to_owned())
    }
}

impl Admission for Doorman {
    fn admits(&self, tenant: &str, peer: &Peer) -> Result<(), String> {
        if self.with(tenant, |g| g.users.is_empty() || g.users.contains(&peer.uid))? {
            return Ok(());
        }
        Err(format!("user {} is not in attach.users", peer.uid))
    }

    fn attach(&self, tenant: &str, _peer: &Peer) -> Result<Seat, String> {
        let policy = self.with(tenant, |guest| guest.policy.clone())?;
        let attached = self.runtime.attach(policy, true).map_err(|e| e.to_string())?;
        let tenant: Arc<str> = tenant.into();
        let started = TenantEvent::Started { frontend: "vfio-user".into() };
        self.audit.record(Some(&tenant), started.into());
        let _ = self.news.send(News::Attached { tenant: tenant.clone() });
        let events = Events {
            runtime: self.runtime.clone(),
            audit: self.audit.clone(),
            news: self.news.clone(),
            id: attached.tenant,
            tenant,
        };
        Ok(Seat { device: attached.device, events: Box::new(events) })
    }
}

/// A connected client, towards the dispatcher.
struct Events {
    runtime: Handle,
    audit: AuditHandle,
    news: Sender<News>,
    id: TenantId,
    tenant: Arc<str>,
}

impl MemoryEvents for Events {
    fn add(
        &mut self,
        address: u64,
        region: Arc<SharedRegion>,
        offset: u64,
        bytes: u64,
    ) -> Result<(), String> {
        let added = self.runtime.add_memory(self.id, address, region, offset, bytes);
        added.map_err(|e| e.to_string())
    }

    fn remove(&mut self, address: u64, bytes: u64) -> Result<(), String> {
        self.runtime.remove_memory(self.id, address, bytes).map_err(|e| e.to_string())
    }

    fn left(&mut self, how: Left) {
        let how = match how {
            Left::Closed => "disconnected".to_owned(),
            Left::Stopped => "stopped".to_owned(),
            Left::Expelled(why) => format!("expelled: {}", clean(why.as_bytes())),
        };
        let text = format!("the VMM is gone: {how}");
        self.audit.record(Some(&self.tenant), TenantEvent::Left { how }.into());
        let _ = self.news.send(News::Line { tenant: self.tenant.clone(), text });
        let report = self.runtime.detach(self.id).inspect_err(|error| {
            tracing::error!(tenant = %self.tenant, %error, "the tenant could not be detached");
        });
        let _ = self.news.send(News::Gone { tenant: self.tenant.clone(), report: report.ok() });
    }
}
