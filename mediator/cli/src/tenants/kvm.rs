//! Tenants in microVMs: a VM each, watched by a thread until it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::Sender;
use turnstile_core::TenantId;
use turnstile_kvm::{Config, Exit, KvmError, MicroVm, Payload, Reason};
use turnstile_policy::{Guest, MicroVm as Wanted, TenantPolicy};

use super::{Ended, News, clean};
use crate::audit::{AuditHandle, TenantEvent};
use crate::runtime::{Attached, Handle, RuntimeError};

/// Why a microVM tenant cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// The VM cannot be built.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The device cannot be made.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A file the policy names cannot be read.
    #[error("cannot read {file}: {source}; check attach in the policy")]
    File {
        /// The file.
        file: String,
        /// Why not.
        source: std::io::Error,
    },
    /// There are more vCPUs than a microVM has.
    #[error("{0} vCPUs are more than a microVM can have; lower attach.vcpus")]
    Vcpus(u32),
    /// No thread to watch it.
    #[error("cannot start a thread: {0}; raise the limit on processes (ulimit -u)")]
    Thread(std::io::Error),
}

/// The tenants that are microVMs of this process.
pub struct VmTenants {
    runtime: Handle,
    audit: AuditHandle,
    news: Sender<News>,
    watchers: Vec<Watched>,
}

/// A VM as its watcher's owner sees it.
struct Watched {
    tenant: Arc<str>,
    stopping: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl VmTenants {
    /// No tenant runs yet.
    #[must_use]
    pub fn new(runtime: Handle, audit: AuditHandle, news: Sender<News>) -> VmTenants {
        VmTenants { runtime, audit, news, watchers: Vec::new() }
    }

    /// Attaches a device, builds a microVM around it and starts it.
    ///
    /// # Errors
    /// When KVM, memory or a file says no; nothing of the tenant is left then.
    pub fn boot(&mut self, policy: &Arc<TenantPolicy>, wanted: &Wanted) -> Result<(), VmError> {
        let (payload, args) = payload(wanted)?;
        let vcpus = u8::try_from(wanted.vcpus).map_err(|_| VmError::Vcpus(wanted.vcpus))?;
        let name: Arc<str> = (&*policy.name).into();
        let attached = self.runtime.attach(policy.clone(), true)?;
        let Attached { tenant, .. } = attached;
        let (lines, who) = (self.news.clone(), name.clone());
        let config = Config {
            name: name.to_string(),
            memory_bytes: wanted.memory_bytes,
            vcpus,
            payload,
            args,
            on_line: Some(Box::new(move |line| {
                let text = clean(line.text.as_bytes());
                let _ = lines.send(News::Line { tenant: who.clone(), text });
                if line.dropped > 0 {
                    let text = format!("({} lines were printed too fast to show)", line.dropped);
                    let _ = lines.send(News::Line { tenant: who.clone(), text });
                }
            })),
        };
        let _ = self.news.send(News::Attached { tenant: name.clone() });
        let watched = self.start(config, attached).and_then(|vm| self.watch(vm, tenant, &name));
        if watched.is_err() {
            let report = self.runtime.detach(tenant).ok();
            let _ = self.news.send(News::Gone { tenant: name, report });
        }
        watched
    }

    fn start(&self, config: Config, attached: Attached) -> Result<MicroVm, VmError> {
        let mut vm = MicroVm::new(config, attached.device)?;
        for slot in vm.ram_slots() {
            let ram = vm.ram().clone();
            self.runtime.add_memory(attached.tenant, slot.gpa, ram, slot.offset, slot.bytes)?;
        }
        vm.start()?;
        Ok(vm)
    }

    fn watch(&mut self, vm: MicroVm, id: TenantId, name: &Arc<str>) -> Result<(), VmError> {
        let started = TenantEvent::Started { frontend: "microvm".into() };
        self.audit.record(Some(name), started.into());
        let stopping = Arc::new(AtomicBool::new(false));
        let watcher = Watcher {
            vm,
            id,
            name: name.clone(),
            runtime: self.runtime.clone(),
            audit: self.audit.clone(),
            news: self.news.clone(),
            stopping: stopping.clone(),
        };
        let thread = std::thread::Builder::new()
            .name(format!("vm-{name}"))
            .spawn(move || watcher.run())
            .map_err(VmError::Thread)?;
        self.watchers.retain(|w| !w.thread.is_finished());
        self.watchers.push(Watched { tenant: name.clone(), stopping, thread });
        Ok(())
    }

    /// Tells every VM to stop. Their ends come as news, as usual.
    pub fn kill(&self) {
        self.watchers.iter().for_each(|w| w.stopping.store(true, Ordering::Release));
    }

    /// Tells a tenant's VM to stop, if it has one. Its end comes as news.
    pub fn kill_tenant(&self, tenant: &str) {
        let watched = self.watchers.iter().filter(|w| &*w.tenant == tenant);
        watched.for_each(|w| w.stopping.store(true, Ordering::Release));
    }

    /// Stops every VM and waits until all are reclaimed.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.kill();
        for watcher in self.watchers.drain(..) {
            let _ = watcher.thread.join();
        }
    }
}

impl Drop for VmTenants {
    fn drop(&mut self) {
        self.end();
    }
}

/// Waits for a VM's end, then takes it apart in order: vCPUs, device, memory.
struct Watcher {
    vm: MicroVm,
    id: TenantId,
    name: Arc<str>,
    runtime: Handle,
    audit: AuditHandle,
    news: Sender<News>,
    stopping: Arc<AtomicBool>,
}

/// How often a watcher looks whether it shall stop its VM.
const LOOK: Duration = Duration::from_millis(20);

impl Watcher {
    fn run(mut self) {
        let exit = loop {
            if let Some(exit) = self.vm.wait(LOOK) {
                break exit;
            }
            if self.stopping.load(Ordering::Acquire) {
                self.vm.stop();
            }
        };
        self.vm.stop();
        let ended = ended(&exit);
        let how = match &ended {
            Ended::Passed => "passed".to_owned(),
            Ended::Failed(why) | Ended::Broken(why) => why.clone(),
            Ended::Stopped => "stopped".to_owned(),
        };
        let event = TenantEvent::Ended { how, passed: ended == Ended::Passed };
        self.audit.record(Some(&self.name), event.into());
        let _ = self.news.send(News::Ended { tenant: self.name.clone(), ended });
        // The guest's RAM stays mapped until the backend has let go of it.
        let report = self.runtime.detach(self.id).inspect_err(|error| {
            tracing::error!(tenant = %self.name, %error, "the tenant could not be detached");
        });
        drop(self.vm);
        let _ = self.news.send(News::Gone { tenant: self.name, report: report.ok() });
    }
}

fn ended(exit: &Exit) -> Ended {
    match &exit.reason {
        _ if exit.passed() => Ended::Passed,
        Reason::Code(code) => match turnstile_boot::ExitCode::from_code(*code) {
            Some(turnstile_boot::ExitCode::Fail) => Ended::Failed("its check failed".into()),
            Some(other) => Ended::Broken(format!("the guest gave up: {other:?}")),
            None => Ended::Broken(format!("the guest ended with the unknown code {code}")),
        },
        Reason::Reset => Ended::Broken("the guest reset itself".into()),
        Reason::Shutdown => Ended::Broken("the guest's processor shut down (triple fault)".into()),
        Reason::Stopped => Ended::Stopped,
        Reason::Failed(why) => Ended::Broken(why.clone()),
    }
}

/// What a VM boots and its command line.
fn payload(wanted: &Wanted) -> Result<(Payload, String), VmError> {
    let read = |path: &std::path::Path| {
        std::fs::read(path)
            .map_err(|source| VmError::File { file: path.display().to_string(), source })
    };
    let mut words = wanted.args.clone();
    let payload = match &wanted.guest {
        Guest::Payload(name) => {
            words.insert(0, name.to_string());
            Payload::Elf(turnstile_images::PAYLOAD.to_vec())
        }
        Guest::Elf(path) => Payload::Elf(read(path)?),
        Guest::Linux { kernel, initramfs, cmdline } => {
            words.insert(0, cmdline.clone());
            let initramfs = initramfs.as_deref().map(read).transpose()?;
            Payload::Linux { kernel: read(kernel)?, initramfs }
        }
    };
    Ok((payload, words.join(" ")))
}
