//! One vCPU: its descriptor, its run loop.

use std::sync::Arc;

use kvm_bindings::{KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN};
use kvm_ioctls::{VcpuExit, VcpuFd};

use crate::bus::Bus;
use crate::life::{Life, Reason};
use crate::sys::{self, Vm};

/// What came of one stay in the guest.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A trap was handled.
    Handled,
    /// A signal got the vCPU out.
    Interrupted,
    /// The VM is at its end.
    End(Reason),
}

/// A vCPU.
#[derive(Debug)]
pub(crate) struct Vcpu {
    // Dropped in this order: the vCPU before the memory that the VM maps.
    fd: VcpuFd,
    _vm: Arc<Vm>,
    index: u8,
}

impl Vcpu {
    pub(crate) fn new(fd: VcpuFd, vm: Arc<Vm>, index: u8) -> Vcpu {
        Vcpu { fd, _vm: vm, index }
    }

    /// The descriptor.
    pub(crate) fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    /// The descriptor, to run it by hand.
    pub(crate) fn fd_mut(&mut self) -> &mut VcpuFd {
        &mut self.fd
    }

    /// Enters the guest and handles what it comes out with. An exit that nobody knows ends the VM.
    pub(crate) fn step(&mut self, bus: &Bus) -> Step {
        let failed = |what: String| Step::End(Reason::Failed(what));
        match self.fd.run() {
            Ok(VcpuExit::MmioRead(gpa, data)) => bus.mmio_read(gpa, data),
            Ok(VcpuExit::MmioWrite(gpa, data)) => bus.mmio_write(gpa, data),
            Ok(VcpuExit::IoIn(port, data)) => bus.port_read(port, data),
            Ok(VcpuExit::IoOut(port, data)) => {
                if let Some(reason) = bus.port_write(port, data) {
                    return Step::End(reason);
                }
            }
            Ok(VcpuExit::Intr) => return Step::Interrupted,
            Ok(VcpuExit::IrqWindowOpen) => {}
            Ok(VcpuExit::Shutdown) => return Step::End(Reason::Shutdown),
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _)) => {
                return Step::End(Reason::Shutdown);
            }
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _)) => {
                return Step::End(Reason::Reset);
            }
            Ok(VcpuExit::InternalError) => {
                let error = sys::internal_error(&mut self.fd);
                return failed(format!("KVM cannot emulate the guest (internal error {error})"));
            }
            Ok(VcpuExit::FailEntry(reason, _)) => {
                return failed(format!("the processor refuses to enter the guest ({reason:#x})"));
            }
            Ok(exit) => return failed(format!("the guest left with {exit:?}")),
            Err(error) => {
                return match error.errno() {
                    libc::EINTR | libc::EAGAIN => Step::Interrupted,
                    _ => failed(format!("KVM_RUN: {error}")),
                };
            }
        }
        Step::Handled
    }

    /// Runs the vCPU until the VM ends.
    pub(crate) fn run(mut self, bus: &Bus, life: &Life) {
        // Dropped before `self`, as `Kicker::enter` demands: it is declared later.
        let kicker = life.kicker(self.index).enter(&mut self.fd);
        while !life.stopping() {
            if let Step::End(reason) = self.step(bus) {
                life.end(reason);
            }
        }
        drop(kicker);
    }
}
