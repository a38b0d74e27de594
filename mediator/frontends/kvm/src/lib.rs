//! A microVM for each tenant, on KVM.
//!
//! [`MicroVm`] boots a bare-metal ELF image or a Linux kernel beside one mediated device: BAR0 and
//! BAR4 trap, BAR2 (the aperture) is memory of the guest's, a doorbell is an eventfd that the kernel
//! signals without a return to userspace, and an interrupt is an eventfd that the kernel delivers.
//!
//! A vCPU thread only forwards traps: register accesses go to [`turnstile_device::Device`], which
//! answers from atomics; configuration space, MSI-X and the console belong to the VM. No lock is
//! shared with the dispatcher on the way. Whatever a guest does ends, at worst, its own VM.
//!
//! This front end knows nothing of queues, operations or policy, and it does not watch the tenant's
//! doorbell: the dispatcher does.

pub mod bench;
mod boot;
mod bus;
pub mod console;
mod cpuid;
mod irq;
mod layout;
mod life;
mod machine;
mod memory;
mod platform;
mod probe;
mod sys;
mod vcpu;

#[cfg(test)]
mod tests;

use std::io;
use std::time::Duration;

pub use bus::Traps;
pub use console::{Line, OnLine};
pub use life::{Exit, Reason};
pub use machine::{Config, MicroVm, Payload};
pub use memory::RamSlot;
pub use probe::{Unusable, probe};

/// Time a vCPU may take to notice that it shall stop before the signal is sent again.
const KICK_AGAIN: Duration = Duration::from_millis(20);

/// Why a microVM cannot be built or started.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// This machine's KVM cannot be used.
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// The configuration asks for something a microVM cannot be.
    #[error("the VM '{name}': {what} is {value}; it must be {must}")]
    Config {
        /// The VM's name.
        name: String,
        /// What is wrong.
        what: &'static str,
        /// Its value.
        value: u64,
        /// What it must be.
        must: String,
    },
    /// Guest RAM is not to be had.
    #[error("RAM of the VM: {0}")]
    Memory(#[from] turnstile_backend_api::MemoryError),
    /// The aperture cannot be a BAR.
    #[error("the device of the VM: {0}")]
    Function(#[from] turnstile_device::FunctionError),
    /// The image does not load.
    #[error("the image of the VM does not load: {what}; give {expected}")]
    Image {
        /// What is wrong with it.
        what: String,
        /// What would be right.
        expected: &'static str,
    },
    /// A call of KVM failed.
    #[error("KVM refuses to {what}: {source}")]
    Call {
        /// What was asked of it.
        what: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The operating system refuses a thread, an eventfd or a signal handler.
    #[error("cannot {what}: {source}; check the process's limits (ulimit -n, -u)")]
    Host {
        /// What was asked of it.
        what: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The VM was started before.
    #[error("the VM was started before; make a new one, a microVM runs once")]
    Started,
}

impl KvmError {
    fn call(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> KvmError {
        move |errno| KvmError::Call { what, source: io::Error::from_raw_os_error(errno.errno()) }
    }
    fn host(what: &'static str) -> impl FnOnce(io::Error) -> KvmError {
        move |source| KvmError::Host { what, source }
    }
}
