//! Every front end: who starts, serves and ends tenants, by how the policy attaches them.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use crossbeam_channel::Sender;
use turnstile_policy::{Attach, Guest, MicroVm, Process, Program, TenantPolicy};

use crate::audit::AuditHandle;
use crate::runtime::{Handle, RuntimeError};
use crate::state::StateDirectory;
use crate::tenants::News;
use crate::tenants::kvm::{VmError, VmTenants};
use crate::tenants::process::{ProcessError, ProcessTenants};
use crate::tenants::rpc::{self, RpcError, RpcTenants};
use crate::tenants::vfio_user::{self, VfioUserError, VfioUserTenants};
use crate::tenants::workload::{self, WorkloadError};

/// Why tenants cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum FrontEndError {
    /// A microVM.
    #[error("tenant {tenant}: {source}")]
    Vm {
        /// The tenant.
        tenant: String,
        /// Why not.
        source: VmError,
    },
    /// A process.
    #[error("tenant {tenant}: {source}")]
    Process {
        /// The tenant.
        tenant: String,
        /// Why not.
        source: ProcessError,
    },
    /// A vfio-user socket.
    #[error("{0}; check attach.socket in the policy")]
    VfioUser(#[from] VfioUserError),
    /// An RPC socket.
    #[error("{0}; check attach.socket in the policy")]
    Rpc(#[from] RpcError),
    /// The dispatcher.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// This machine runs no microVMs.
    #[error("tenant {tenant}: {why}")]
    NoKvm {
        /// The tenant.
        tenant: String,
        /// What is missing and how to mend it.
        why: String,
    },
    /// It waits for a process of somebody's own.
    #[error(
        "tenant {tenant} waits for a process, which is not served yet; \
         name a \"guest\" or \"program\" in its attach"
    )]
    Waits {
        /// The tenant.
        tenant: String,
    },
    /// A built-in guest that is none, or does not understand its arguments.
    #[error("tenant {tenant}: {source}; correct attach")]
    Workload {
        /// The tenant.
        tenant: String,
        /// Why not.
        source: WorkloadError,
    },
    /// A file it is started from cannot be read.
    #[error("tenant {tenant}: cannot read {}: {source}; check attach", path.display())]
    File {
        /// The tenant.
        tenant: String,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// Finds what would keep tenants from being started, as far as that can be known before.
///
/// # Errors
/// The first thing that would.
pub fn check(tenants: &[Arc<TenantPolicy>]) -> Result<(), FrontEndError> {
    tenants.iter().try_for_each(|tenant| check_tenant(tenant))
}

fn check_tenant(policy: &TenantPolicy) -> Result<(), FrontEndError> {
    let tenant = || policy.name.to_string();
    let workload = |name: &str, args: &[String]| {
        let found = workload::find(name).and_then(|workload| workload::check(workload, args));
        found.map_err(|source| FrontEndError::Workload { tenant: tenant(), source })
    };
    let readable = |path: &PathBuf| match File::open(path) {
        Ok(_) => Ok(()),
        Err(source) => Err(FrontEndError::File { tenant: tenant(), path: path.clone(), source }),
    };
    match &policy.attach {
        Attach::MicroVm(MicroVm { guest, args, .. }) => {
            let kvm = turnstile_kvm::probe();
            kvm.map_err(|e| FrontEndError::NoKvm { tenant: tenant(), why: e.to_string() })?;
            match guest {
                Guest::Payload(name) => workload(name, args),
                Guest::Elf(path) => readable(path),
                Guest::Linux { kernel, initramfs, .. } => {
                    readable(kernel)?;
                    initramfs.iter().try_for_each(readable)
                }
            }
        }
        Attach::Process(Process { program: Some(Program::Payload(name)), args, .. }) => {
            workload(name, args)
        }
        Attach::Process(Process { program: Some(Program::File(path)), .. }) => readable(path),
        Attach::Process(Process { program: None, .. }) => {
            Err(FrontEndError::Waits { tenant: tenant() })
        }
        Attach::VfioUser(_) | Attach::Rpc(_) => Ok(()),
    }
}

/// Tenants that are about to be served: what could fail before has been done.
pub struct Prepared {
    tenants: Vec<(Arc<TenantPolicy>, Sockets)>,
}

/// What a tenant's socket is, if it has one.
struct Sockets {
    vfio_user: Option<vfio_user::Prepared>,
    rpc: Option<rpc::Prepared>,
}

/// Every front end of the daemon.
pub struct FrontEnds {
    runtime: Handle,
    audit: AuditHandle,
    news: Sender<News>,
    state: Option<Arc<StateDirectory>>,
    vms: VmTenants,
    /// From the first tenant on that needs it.
    processes: Option<ProcessTenants>,
    vfio_user: VfioUserTenants,
    rpc: RpcTenants,
}

impl FrontEnds {
    /// No tenant yet.
    ///
    /// # Errors
    /// When threads or descriptors run out.
    pub fn new(
        runtime: Handle,
        audit: AuditHandle,
        news: Sender<News>,
        state: Option<Arc<StateDirectory>>,
    ) -> Result<FrontEnds, FrontEndError> {
        let parts = || (runtime.clone(), audit.clone(), news.clone());
        let (r, a, n) = parts();
        let vfio_user = VfioUserTenants::start(r, a, n, state.clone())?;
        let (r, a, n) = parts();
        let vms = VmTenants::new(r, a, n);
        let (r, a, n) = parts();
        let rpc = RpcTenants::new(r, a, n, state.clone());
        Ok(FrontEnds { runtime, audit, news, state, vms, processes: None, vfio_user, rpc })
    }

    /// Does for new tenants everything that can fail and that nobody notices: checks them and binds
    /// their sockets. Dropping what comes back undoes it.
    ///
    /// # Errors
    /// When a tenant cannot be served.
    pub fn prepare(&self, tenants: &[Arc<TenantPolicy>]) -> Result<Prepared, FrontEndError> {
        check(tenants)?;
        let prepare = |policy: &Arc<TenantPolicy>| {
            let vfio_user = self.vfio_user.prepare(policy)?;
            Ok((policy.clone(), Sockets { vfio_user, rpc: self.rpc.prepare(policy)? }))
        };
        Ok(Prepared { tenants: tenants.iter().map(prepare).collect::<Result<_, FrontEndError>>()? })
    }

    /// Opens the new tenants' sockets and starts their guests. Those whose guest does not start are
    /// reported; the others are served.
    pub fn admit(&mut self, prepared: Prepared) -> Vec<(String, FrontEndError)> {
        let mut failed = Vec::new();
        for (policy, sockets) in prepared.tenants {
            let begun = match sockets {
                Sockets { vfio_user: Some(socket), .. } => {
                    self.vfio_user.open(socket);
                    Ok(())
                }
                Sockets { rpc: Some(sockets), .. } => self.rpc.open(sockets).map_err(Into::into),
                _ => self.begin(&policy),
            };
            if let Err(error) = begun {
                failed.push((policy.name.to_string(), error));
            }
        }
        failed
    }

    fn begin(&mut self, policy: &Arc<TenantPolicy>) -> Result<(), FrontEndError> {
        let tenant = || policy.name.to_string();
        match &policy.attach {
            Attach::MicroVm(vm) => self
                .vms
                .boot(policy, vm)
                .map_err(|source| FrontEndError::Vm { tenant: tenant(), source }),
            Attach::Process(Process { program: Some(program), args, .. }) => {
                let failed = |source| FrontEndError::Process { tenant: tenant(), source };
                let processes = match &mut self.processes {
                    Some(processes) => processes,
                    none => {
                        let (r, a, n) =
                            (self.runtime.clone(), self.audit.clone(), self.news.clone());
                        let state = self.state.clone();
                        none.insert(ProcessTenants::start(r, a, n, state).map_err(failed)?)
                    }
                };
                processes.spawn(policy, program, args).map_err(failed)
            }
            // Refused by `check`, and served by `open`.
            Attach::Process(_) | Attach::VfioUser(_) | Attach::Rpc(_) => Ok(()),
        }
    }

    /// Lets a tenant's new policy decide who may connect from now on.
    pub fn update(&self, policy: &Arc<TenantPolicy>) {
        self.vfio_user.update(policy);
        self.rpc.update(policy);
    }

    /// Ends a tenant for good: its guest, process or connection, and its socket.
    pub fn remove(&self, tenant: &str) {
        self.kill_tenant(tenant);
        self.vfio_user.close(tenant);
        self.rpc.close(tenant);
    }

    /// Ends a tenant's guest, process or connection. Its end comes as news.
    pub fn kill_tenant(&self, tenant: &str) {
        self.vms.kill_tenant(tenant);
        self.processes.iter().for_each(|processes| processes.kill_tenant(tenant));
        self.vfio_user.kill_tenant(tenant);
        self.rpc.kill_tenant(tenant);
    }

    /// Ends every tenant and waits until all are reclaimed.
    pub fn stop(self) {
        let FrontEnds { vms, processes, vfio_user, rpc, .. } = self;
        vms.kill();
        processes.iter().for_each(ProcessTenants::kill);
        vfio_user.stop();
        rpc.stop();
        vms.stop();
        drop(processes);
    }
}
