//! Tenants in VMMs that somebody else starts: they connect to their socket and speak vfio-user.
//!
//! A device lives as long as a client's connection: it is attached when a client has negotiated and
//! detached, with everything it held, when the connection ends. The socket stays.

use std::collections::HashMap;
use std::sync::Arc;

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
}

impl VfioUserTenants {
    /// Opens the socket of every tenant that attaches over vfio-user and serves whoever connects and
    /// may. Other tenants are none of its business.
    ///
    /// # Errors
    /// When a socket cannot be opened, or threads or descriptors run out. No socket is left then.
    pub fn start(
        tenants: &[Arc<TenantPolicy>],
        runtime: Handle,
        audit: AuditHandle,
        news: Sender<News>,
    ) -> Result<VfioUserTenants, VfioUserError> {
        let mut doors = Vec::new();
        let mut guests = HashMap::new();
        for policy in tenants {
            let Attach::VfioUser(VfioUser { socket, mode, group, users }) = &policy.attach else {
                continue;
            };
            let name = policy.name.to_string();
            let listener = Listener::bind(socket, *mode, *group)
                .map_err(|source| VfioUserError::Listen { tenant: name.clone(), source })?;
            doors.push(Door { tenant: name.clone(), listener });
            guests.insert(name, Guest { policy: policy.clone(), users: users.clone() });
        }
        let doorman = Doorman { runtime, audit, news, guests };
        let server = Server::start(doors, Arc::new(doorman), Limits::default())?;
        Ok(VfioUserTenants { server })
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
    guests: HashMap<String, Guest>,
}

impl Admission for Doorman {
    fn admits(&self, tenant: &str, peer: &Peer) -> Result<(), String> {
        let guest = self.guests.get(tenant).ok_or("no such tenant")?;
        if guest.users.is_empty() || guest.users.contains(&peer.uid) {
            return Ok(());
        }
        Err(format!("user {} is not in attach.users", peer.uid))
    }

    fn attach(&self, tenant: &str, _peer: &Peer) -> Result<Seat, String> {
        let guest = self.guests.get(tenant).ok_or("no such tenant")?;
        let attached =
            self.runtime.attach(guest.policy.clone(), true).map_err(|e| e.to_string())?;
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
