//! The VM's descriptor and the memory that must outlive it.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_ioctls::{Kvm, VmFd};
use turnstile_backend_api::SharedRegion;
use vmm_sys_util::eventfd::EventFd;

use super::raw;
use crate::KvmError;
use crate::layout::{KVM_IDENTITY_MAP, KVM_TSS};

/// A VM: its descriptor, and every region that was ever mapped into it.
///
/// A vCPU keeps the kernel's VM alive too, so whoever owns a vCPU also owns an `Arc<Vm>` and drops
/// the vCPU first.
#[derive(Debug)]
pub(crate) struct Vm {
    // Dropped in this order: the descriptor before the memory.
    fd: VmFd,
    regions: Mutex<Vec<Arc<SharedRegion>>>,
}

impl Vm {
    /// Creates a VM with an in-kernel interrupt controller.
    pub(crate) fn new(kvm: &Kvm) -> Result<Vm, KvmError> {
        let fd = kvm.create_vm().map_err(KvmError::call("create a VM"))?;
        fd.set_identity_map_address(KVM_IDENTITY_MAP)
            .map_err(KvmError::call("place the identity map"))?;
        fd.set_tss_address(KVM_TSS).map_err(KvmError::call("place the task state segment"))?;
        fd.create_irq_chip().map_err(KvmError::call("create the interrupt controllers"))?;
        Ok(Vm { fd, regions: Mutex::default() })
    }

    /// The descriptor.
    pub(crate) fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// Puts `bytes` at `offset` of a region into guest memory at `gpa`.
    pub(crate) fn map(
        &self,
        slot: u32,
        gpa: u64,
        region: &Arc<SharedRegion>,
        offset: u64,
        bytes: u64,
    ) -> io::Result<()> {
        let mut regions = self.regions.lock().unwrap_or_else(PoisonError::into_inner);
        if !regions.iter().any(|known| Arc::ptr_eq(known, region)) {
            regions.push(region.clone());
        }
        // SAFETY: `regions` keeps the region mapped until after `fd` is closed, and vCPUs are closed
        // before this value is dropped (see the type's documentation).
        unsafe { raw::map(&self.fd, slot, gpa, region, offset, bytes) }
    }

    /// Makes 4-byte writes of any value to `gpa` signal `event` in the kernel, or stops that.
    pub(crate) fn doorbell(&self, gpa: u64, event: &EventFd, on: bool) -> io::Result<()> {
        raw::doorbell(&self.fd, gpa, event, on)
    }

    /// Takes a slot out of guest memory.
    pub(crate) fn unmap(&self, slot: u32) -> io::Result<()> {
        raw::unmap(&self.fd, slot)
    }
}
