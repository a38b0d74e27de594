//! The compiled policy as a whole: the device, the audit log, the tenants.

use std::path::PathBuf;
use std::sync::Arc;

use crate::rate::Rate;
use crate::tenant::TenantPolicy;

/// A policy that was checked and is ready to decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The device that is shared.
    pub device: DevicePolicy,
    /// The audit log.
    pub audit: AuditPolicy,
    /// The tenants, in the document's order.
    pub tenants: Vec<Arc<TenantPolicy>>,
}

impl Policy {
    /// The tenant of this name.
    #[must_use]
    pub fn tenant(&self, name: &str) -> Option<&Arc<TenantPolicy>> {
        self.tenants.iter().find(|tenant| &*tenant.name == name)
    }
}

/// The device that is shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePolicy {
    /// What drives it, with that backend's options.
    pub backend: Backend,
    /// Device memory that all tenants together may hold, in bytes.
    pub memory_bytes: u64,
    /// Whether the tenants' quotas may add up to more than that.
    pub overcommit: bool,
    /// How long the backend may be silent about a command, beyond the command's own limit, in
    /// nanoseconds.
    pub watchdog_ns: u64,
}

/// What drives the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The software GPU.
    Emulated(EmulatedOptions),
    /// An NVIDIA GPU through the CUDA driver.
    Cuda(CudaOptions),
    /// A PCI function that speaks the Turnstile ABI, through VFIO.
    Vfio(VfioOptions),
}

impl Backend {
    /// Which one it is.
    #[must_use]
    pub const fn kind(&self) -> BackendKind {
        match self {
            Backend::Emulated(_) => BackendKind::Emulated,
            Backend::Cuda(_) => BackendKind::Cuda,
            Backend::Vfio(_) => BackendKind::Vfio,
        }
    }
}

/// The kinds of backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BackendKind {
    /// The software GPU.
    Emulated,
    /// An NVIDIA GPU through the CUDA driver.
    Cuda,
    /// A PCI function that speaks the Turnstile ABI, through VFIO.
    Vfio,
}

impl BackendKind {
    /// The word for it in the document.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            BackendKind::Emulated => "emulated",
            BackendKind::Cuda => "cuda",
            BackendKind::Vfio => "vfio",
        }
    }
}

/// Options of the software GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmulatedOptions {
    /// Threads that run kernels; `None`: one for each processor.
    pub workers: Option<u32>,
}

/// Options of the CUDA backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaOptions {
    /// Ordinal of the GPU, as the CUDA driver counts.
    pub device: u32,
    /// Use of the Multi-Process Service.
    pub mps: Mps,
    /// Worker processes kept ready for new sessions.
    pub warm_workers: u32,
    /// Directory of compiled programs; `None`: they are compiled anew in each run.
    pub cache: Option<PathBuf>,
}

/// Use of NVIDIA's Multi-Process Service for concurrent tenants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mps {
    /// If it is installed.
    Auto,
    /// Or else the daemon does not start.
    Require,
    /// Never: all tenants are time-sliced.
    Off,
}

/// Options of the VFIO backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VfioOptions {
    /// PCI address of the function, `domain:bus:device.function` in hexadecimal.
    pub function: Box<str>,
    /// Whether interrupts that the IOMMU does not remap are accepted.
    pub unsafe_interrupts: bool,
    /// Whether translation by the device itself is accepted.
    pub ats: bool,
}

/// The audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditPolicy {
    /// The file; `None`: no log is kept, only counters.
    pub path: Option<PathBuf>,
    /// When it is forced to disk.
    pub fsync: Fsync,
    /// Size in bytes at which a new file is begun; `None`: never.
    pub rotate_bytes: Option<u64>,
    /// Age in nanoseconds at which a new file is begun; `None`: never.
    pub rotate_after_ns: Option<u64>,
    /// Full files kept.
    pub keep: u32,
    /// What happens when it cannot be written.
    pub on_full: OnFull,
    /// Lines each tenant may cause; what exceeds it is counted.
    pub rate: Rate,
}

/// When the audit log is forced to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fsync {
    /// When the system does it.
    Never,
    /// Once in so many nanoseconds.
    EveryNs(u64),
    /// After each batch of lines, before its commands complete.
    Always,
}

/// What happens when the audit log cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnFull {
    /// No command is accepted until it can be.
    Stop,
    /// Commands go on; lost lines are counted and the count is the next line that can be written.
    Count,
}
