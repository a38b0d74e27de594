//! The ioctls that take addresses, and the parts of a vCPU that are shared memory.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use kvm_bindings::{KVMIO, kvm_ioeventfd, kvm_userspace_memory_region};
use kvm_ioctls::{VcpuFd, VmFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use turnstile_abi::memory::{SharedMemory, contains};
use turnstile_backend_api::SharedRegion;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

// The length with no data match cannot be said through kvm-ioctls: there it is the match's own size.
ioctl_iow_nr!(KVM_IOEVENTFD, KVMIO, 0x79, kvm_ioeventfd);

const DEASSIGN: u32 = 1 << kvm_bindings::kvm_ioeventfd_flag_nr_deassign;

/// Puts `bytes` at `offset` of a region into guest memory at `gpa`.
///
/// # Safety
/// The region must stay mapped until the slot is removed or every descriptor of the VM is closed.
pub(super) unsafe fn map(
    vm: &VmFd,
    slot: u32,
    gpa: u64,
    region: &SharedRegion,
    offset: u64,
    bytes: u64,
) -> io::Result<()> {
    if !contains(region.size(), offset, bytes) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let region = kvm_userspace_memory_region {
        slot,
        flags: 0,
        guest_phys_addr: gpa,
        memory_size: bytes,
        userspace_addr: region.mapping().as_ptr() as u64 + offset,
    };
    // SAFETY: the range lies in the region, as just checked, and the caller keeps it mapped. Guest
    // accesses race with ours, which is why a SharedRegion is only reached by volatile accesses.
    unsafe { vm.set_user_memory_region(region) }.map_err(os)
}

/// Takes a slot out of guest memory.
pub(super) fn unmap(vm: &VmFd, slot: u32) -> io::Result<()> {
    let region = kvm_userspace_memory_region { slot, ..Default::default() };
    // SAFETY: a slot of size 0 is a removal: no memory is named.
    unsafe { vm.set_user_memory_region(region) }.map_err(os)
}

/// Makes 4-byte writes of any value to `gpa` signal `event` in the kernel, or stops that.
pub(super) fn doorbell(vm: &VmFd, gpa: u64, event: &EventFd, on: bool) -> io::Result<()> {
    let flags = if on { 0 } else { DEASSIGN };
    let fd = event.as_raw_fd();
    let request = kvm_ioeventfd { addr: gpa, len: 4, fd, flags, ..Default::default() };
    // SAFETY: the kernel only reads the request, of the size the ioctl's number says, and takes a
    // reference of its own to the eventfd.
    match unsafe { ioctl_with_ref(vm, KVM_IOEVENTFD(), &request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn os(errno: kvm_ioctls::Error) -> io::Error {
    io::Error::from_raw_os_error(errno.errno())
}

/// The `immediate_exit` byte of a vCPU: when set, the next `KVM_RUN` returns at once.
#[derive(Debug)]
pub(super) struct ImmediateExit(NonNull<AtomicU8>);

// SAFETY: the byte is shared with the kernel and reached by atomic stores only.
unsafe impl Send for ImmediateExit {}

impl ImmediateExit {
    /// The byte of this vCPU.
    ///
    /// # Safety
    /// The value must not outlive the vCPU's descriptor, which holds the mapping.
    pub(super) unsafe fn new(vcpu: &mut VcpuFd) -> ImmediateExit {
        let byte = &raw mut vcpu.get_kvm_run().immediate_exit;
        // A field's address is never null; AtomicU8 has a byte's layout.
        ImmediateExit(NonNull::from(unsafe {
            // SAFETY: the byte lies in the mapping of `kvm_run`, which lives as long as the vCPU's
            // descriptor, and so, as the caller promises, as long as this value.
            AtomicU8::from_ptr(byte)
        }))
    }

    /// Sets the byte.
    pub(super) fn set(&self) {
        // SAFETY: the mapping is alive, as `new` was promised.
        unsafe { self.0.as_ref() }.store(1, Ordering::SeqCst);
    }
}

/// A thread that can be sent a signal.
#[derive(Debug)]
pub(super) struct Thread(libc::pthread_t);

impl Thread {
    /// The calling thread.
    pub(super) fn current() -> Thread {
        // SAFETY: always succeeds.
        Thread(unsafe { libc::pthread_self() })
    }

    /// Sends a signal.
    ///
    /// # Safety
    /// The thread must not have ended.
    pub(super) unsafe fn signal(&self, number: i32) {
        // SAFETY: the thread is alive, as the caller promises. An error means an invalid number,
        // which `kick::install` would have refused before.
        let _ = unsafe { libc::pthread_kill(self.0, number) };
    }
}

/// Whether an eventfd waits to be read. Does not read it.
pub(crate) fn is_signalled(event: &EventFd) -> bool {
    // SAFETY: the descriptor is open for as long as `event` is borrowed.
    let fd = unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) };
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut fds, Some(&now)), Ok(1))
}

/// What KVM says about an internal error: the sub-error of `KVM_EXIT_INTERNAL_ERROR`.
pub(crate) fn internal_error(vcpu: &mut VcpuFd) -> u32 {
    // SAFETY: every member of the union is plain data, so any bytes are a value of each.
    unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal.suberror }
}
