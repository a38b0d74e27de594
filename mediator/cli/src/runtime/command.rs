//! What other threads may ask of the dispatcher, and the handle they ask through.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use turnstile_abi::version::Features;
use turnstile_backend_api::{Description, MemoryError, SharedRegion};
use turnstile_core::{MapError, Registers, TenantId};
use turnstile_device::{Device, DeviceError};
use turnstile_policy::TenantPolicy;

use super::roster::{Holdings, Standing, Switched};
use super::seat::Report;
use super::wake::Wake;

/// How long a caller waits for the dispatcher. It answers in microseconds, except for what waits on
/// the backend (a detaching tenant's running kernel).
const PATIENCE: Duration = Duration::from_secs(10);

/// Tenants the dispatcher looks at in one go for [`Handle::standings`].
const SLICE: usize = 32;

/// Why the dispatcher cannot do something.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The tenant's device cannot be made.
    #[error("tenant {tenant}: {source}")]
    Device {
        /// The tenant.
        tenant: String,
        /// Why.
        source: DeviceError,
    },
    /// Memory cannot be shared.
    #[error("tenant {tenant}: {source}")]
    Memory {
        /// The tenant.
        tenant: String,
        /// Why.
        source: MemoryError,
    },
    /// The mediator does not take the guest's memory.
    #[error("the guest's memory: {0}")]
    Map(#[from] MapError),
    /// Something the kernel refused.
    #[error("{what}: {source}; raise the limit on open files (ulimit -n) or processes (ulimit -u)")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The policy in force has no such tenant.
    #[error(
        "the policy in force has no tenant {tenant} like this; add it to the policy and reload"
    )]
    NotListed {
        /// The tenant.
        tenant: String,
    },
    /// The operator revoked it.
    #[error("tenant {tenant} is revoked; `turnstile resume {tenant}` lets it come back")]
    Barred {
        /// The tenant.
        tenant: String,
    },
    /// It has a device already.
    #[error("tenant {tenant} has a device already; end its other connection first")]
    AlreadyAttached {
        /// The tenant.
        tenant: String,
    },
    /// It has no such session.
    #[error("the tenant has no open session {0}; `turnstile tenants` with its name lists them")]
    NoSession(u64),
    /// There is no such tenant (any more).
    #[error("the tenant is gone")]
    NoTenant,
    /// The dispatcher does not answer or has ended.
    #[error("the dispatcher does not answer; the backend may hang, see the log")]
    Silent,
}

/// A tenant's device, attached.
#[derive(Clone, Debug)]
pub struct Attached {
    /// Its name at the mediator.
    pub tenant: TenantId,
    /// What its front end serves.
    pub device: Arc<Device>,
}

/// Time the dispatcher spent on orders of front ends and operators: commands wait for that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pauses {
    /// Orders.
    pub count: u64,
    /// The longest, in nanoseconds.
    pub longest_ns: u64,
    /// All of them, in nanoseconds.
    pub total_ns: u64,
}

/// What an operator may order about a tenant by its name, whether it is attached or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Its rings are not served until it is resumed.
    Pause,
    /// Its rings are served again, and a revocation is lifted: its driver may start over.
    Resume,
    /// Everything it holds is taken away and it gets no device until it is resumed. From the return on
    /// nothing of it resolves and nothing completes as success.
    Revoke,
    /// The same for one session; others may be opened.
    RevokeSession(u64),
}

pub(super) enum Command {
    Attach {
        policy: Arc<TenantPolicy>,
        device: Arc<Device>,
        reply: Sender<Result<TenantId, RuntimeError>>,
    },
    AddMemory {
        tenant: TenantId,
        gpa: u64,
        offset: u64,
        bytes: u64,
        region: Arc<SharedRegion>,
        reply: Sender<Result<(), RuntimeError>>,
    },
    RemoveMemory {
        tenant: TenantId,
        gpa: u64,
        bytes: u64,
        reply: Sender<()>,
    },
    Detach {
        tenant: TenantId,
        reply: Sender<Report>,
    },
    Revoke {
        tenant: TenantId,
        reply: Sender<()>,
    },
    Pause {
        tenant: TenantId,
        paused: bool,
        reply: Sender<()>,
    },
    SetPolicy {
        tenant: TenantId,
        policy: Arc<TenantPolicy>,
        reply: Sender<()>,
    },
    Report {
        tenant: TenantId,
        reply: Sender<Option<Report>>,
    },
    Tenants {
        reply: Sender<Vec<TenantId>>,
    },
    Enforce {
        tenants: Vec<Arc<TenantPolicy>>,
        reply: Sender<()>,
    },
    Switch {
        changed: Vec<Arc<TenantPolicy>>,
        removed: Vec<String>,
        /// Empty, with room for everything that comes back.
        switched: Switched,
        reply: Sender<Switched>,
    },
    Order {
        tenant: Arc<str>,
        order: Order,
        reply: Sender<Result<(), RuntimeError>>,
    },
    Look {
        after: Option<Arc<str>>,
        latencies: bool,
        /// Empty; as many tenants as there is room for come back.
        room: Vec<Standing>,
        reply: Sender<Vec<Standing>>,
    },
    Pauses {
        reply: Sender<Pauses>,
    },
    Find {
        tenant: Arc<str>,
        reply: Sender<Option<(Standing, Holdings)>>,
    },
    Stop,
}

/// Talks to the dispatcher. Cheap to clone; every call may be made from any thread.
#[derive(Clone)]
pub struct Handle {
    pub(super) commands: Sender<Command>,
    pub(super) wake: Wake,
    pub(super) description: Arc<Description>,
}

impl Handle {
    pub(super) fn send(&self, command: Command) -> Result<(), RuntimeError> {
        self.commands.send(command).map_err(|_| RuntimeError::Silent)?;
        self.wake.wake();
        Ok(())
    }

    fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> Command) -> Result<T, RuntimeError> {
        let (reply, answer) = bounded(1);
        self.send(command(reply))?;
        answer.recv_timeout(PATIENCE).map_err(|_| RuntimeError::Silent)
    }

    /// The backend the tenants share.
    #[must_use]
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Brings a device to life for a tenant. `guest_memory`: the front end will make the guest's RAM
    /// known, so the device may offer DMA.
    ///
    /// # Errors
    /// When memory or file descriptors run out, or the dispatcher has ended.
    pub fn attach(
        &self,
        policy: Arc<TenantPolicy>,
        guest_memory: bool,
    ) -> Result<Attached, RuntimeError> {
        let name = || policy.name.to_string();
        let bytes = policy.aperture_bytes;
        let aperture = SharedRegion::create(&format!("turnstile-{}", policy.name), bytes)
            .map_err(|source| RuntimeError::Memory { tenant: name(), source })?;
        let mut features = self.description.features;
        features.set(Features::DMA, guest_memory && features.contains(Features::DMA));
        let registers = Arc::new(Registers::new(features, bytes, heap_offset(bytes)));
        let device = Device::new(registers, Arc::new(aperture))
            .map_err(|source| RuntimeError::Device { tenant: name(), source })?;
        let device = Arc::new(device);
        let tenant = self.ask(|reply| Command::Attach {
            policy: policy.clone(),
            device: device.clone(),
            reply,
        })??;
        Ok(Attached { tenant, device })
    }

    /// Makes guest memory known: `bytes` of `region` from `offset` on lie at `gpa` in the guest.
    ///
    /// # Errors
    /// When it is not page aligned or overlaps memory already there.
    pub fn add_memory(
        &self,
        tenant: TenantId,
        gpa: u64,
        region: Arc<SharedRegion>,
        offset: u64,
        bytes: u64,
    ) -> Result<(), RuntimeError> {
        self.ask(|reply| Command::AddMemory { tenant, gpa, offset, bytes, region, reply })?
    }

    /// Takes guest memory away. Returns when no backend can reach it any more.
    ///
    /// # Errors
    /// When the backend does not let go in time; the memory must stay mapped then.
    pub fn remove_memory(
        &self,
        tenant: TenantId,
        gpa: u64,
        bytes: u64,
    ) -> Result<(), RuntimeError> {
        self.ask(|reply| Command::RemoveMemory { tenant, gpa, bytes, reply })
    }

    /// Ends everything a tenant holds and forgets it. Returns its last report once nothing of it is
    /// left.
    ///
    /// # Errors
    /// When the tenant is gone already, or the backend does not let go in time.
    pub fn detach(&self, tenant: TenantId) -> Result<Report, RuntimeError> {
        self.ask(|reply| Command::Detach { tenant, reply }).map_err(|e| match e {
            RuntimeError::Silent if self.report(tenant).is_ok_and(|r| r.is_none()) => {
                RuntimeError::NoTenant
            }
            other => other,
        })
    }

    /// Takes every capability of a tenant away. From the return of this call on nothing of it
    /// resolves and nothing completes as success.
    ///
    /// # Errors
    /// When the dispatcher has ended.
    pub fn revoke(&self, tenant: TenantId) -> Result<(), RuntimeError> {
        self.ask(|reply| Command::Revoke { tenant, reply })
    }

    /// Stops or resumes serving a tenant's rings.
    ///
    /// # Errors
    /// When the dispatcher has ended.
    pub fn pause(&self, tenant: TenantId, paused: bool) -> Result<(), RuntimeError> {
        self.ask(|reply| Command::Pause { tenant, paused, reply })
    }

    /// Puts another policy in force for a tenant, from its next command on.
    ///
    /// # Errors
    /// When the dispatcher has ended.
    pub fn set_policy(
        &self,
        tenant: TenantId,
        policy: Arc<TenantPolicy>,
    ) -> Result<(), RuntimeError> {
        self.ask(|reply| Command::SetPolicy { tenant, policy, reply })
    }

    /// What a tenant did so far; `None` if it is gone.
    ///
    /// # Errors
    /// When the dispatcher has ended.
    pub fn report(&self, tenant: TenantId) -> Result<Option<Report>, RuntimeError> {
        self.ask(|reply| Command::Report { tenant, reply })
    }

    /// Puts a policy in force: from now on only its tenants may attach, each once.
    ///
    /// # Errors
    /// When the dispatcher has ended.
    pub fn enforce(&self, tenants: Vec<Arc<TenantPolicy>>) -> Result<(), RuntimeError> {
        self.ask(|reply| Command::Enforce { tenants, reply })
    }

    /// Switches to another policy, between two rounds of the dispatcher and so for all tenants at
    /// once: puts the `changed` tenants' policies in force (new tenants among them), revokes the
    /// `removed` ones and lets them attach no more.
    ///
    /// # Errors
    /// When the dispatcher has ended.
    pub fn switch(
        &self,
        changed: Vec<Arc<TenantPolicy>>,
        removed: Vec<String>,
    ) -> Result<Switched, RuntimeError> {
        let switched = Switched {
            before: Vec::with_capacity(2 * changed.len() + removed.len()),
            entries: Vec::with_capacity(removed.len()),
            removed: Vec::with_capacity(removed.len()),
            pause_ns: 0,
        };
        self.ask(|reply| Command::Switch { changed, removed, switched, reply })
    }

    /// Carries out an operator's order about a tenant of the policy in force.
    ///
    /// # Errors
    /// When there is no such tenant or session, or the dispatcher has ended.
    pub fn order(&self, tenant: &str, order: Order) -> Result<(), RuntimeError> {
        self.ask(|reply| Command::Order { tenant: tenant.into(), order, reply })?
    }

    /// Looks at every tenant of the policy in force, in the order of their names. The dispatcher works
    /// on between two slices of it.
    ///
    /// # Errors
    /// When the dispatcher has ended.
    pub fn standings(&self, latencies: bool) -> Result<Vec<Standing>, RuntimeError> {
        let mut all: Vec<Standing> = Vec::new();
        loop {
            let after = all.last().map(|s| (&*s.policy.name).into());
            let room = Vec::with_capacity(SLICE);
            let mut slice = self.ask(|reply| Command::Look { after, latencies, room, reply })?;
            let last = slice.len() < SLICE;
            all.append(&mut slice);
            if last {
                return Ok(all);
            }
        }
    }

    /// Looks at one tenant, its sessions and its objects.
    ///
    /// # Errors
    /// When there is no such tenant in the policy in force, or the dispatcher has ended.
    pub fn find(&self, tenant: &str) -> Result<(Standing, Holdings), RuntimeError> {
        self.ask(|reply| Command::Find { tenant: tenant.into(), reply })?
            .ok_or(RuntimeError::NoTenant)
    }

    /// How long commands waited for orders since this was last asked.
    ///
    /// # Errors
    /// When the dispatcher has ended.
    pub fn pauses(&self) -> Result<Pauses, RuntimeError> {
        self.ask(|reply| Command::Pauses { reply })
    }

    /// Every attached tenant.
    ///
    /// # Errors
    /// When the dispatcher has ended.
    pub fn tenants(&self) -> Result<Vec<TenantId>, RuntimeError> {
        self.ask(|reply| Command::Tenants { reply })
    }
}

/// Where the aperture's heap begins: a quarter is the driver's for rings and parameters, at least
/// 64 KiB and at most 16 MiB of it.
fn heap_offset(aperture_bytes: u64) -> u64 {
    (aperture_bytes / 4).clamp(64 << 10, 16 << 20).min(aperture_bytes)
}
