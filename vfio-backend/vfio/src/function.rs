//! An open function: its address space, its interrupts about itself, and the end of it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use iommufd_ioctls::IommuFd;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use turnstile_abi::request::Access;
use turnstile_backend_api::SharedRegion;
use turnstile_linux::vfio::VfioTransport;
use turnstile_linux::{OpenError, ioctl};
use vfio_bindings::bindings::vfio::{VFIO_PCI_ERR_IRQ_INDEX, VFIO_PCI_REQ_IRQ_INDEX};
use vfio_ioctls::{VfioContainer, VfioDevice, VfioError, VfioIommufd, VfioOps};

use crate::mediated::Outer;
use crate::raw::{self, Iommu, Mappings};
use crate::{Address, Claim, Host};

/// Why a function cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum FunctionError {
    /// VFIO says no.
    #[error("{address}: cannot {what}: {source}; see dmesg, and turnstile device check {address}")]
    Vfio {
        /// The function.
        address: Address,
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: VfioError,
    },
    /// The kernel says no.
    #[error("{address}: cannot {what}: {source}; {fix}")]
    System {
        /// The function.
        address: Address,
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
        /// What helps.
        fix: &'static str,
    },
    /// It is no Turnstile device, or not reachable as one.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// A function that speaks the Turnstile ABI, open through VFIO, able to reach nothing yet.
///
/// Dropped in the order of the fields: bus mastering and interrupts off and a reset (the transport),
/// then every mapping, then the function itself.
pub struct Function {
    address: Address,
    transport: VfioTransport,
    mappings: Mappings,
    /// The function reports an error it cannot recover from.
    error: OwnedFd,
    /// The kernel wants the function back.
    request: OwnedFd,
    reserved: Vec<(u64, u64)>,
    device: Closing,
}

/// The crate's device, whose drop panics where sysfs no longer shows the function.
struct Closing(Option<VfioDevice>);

impl Drop for Closing {
    fn drop(&mut self) {
        let device = self.0.take();
        let closed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(device)));
        if closed.is_err() {
            tracing::warn!("the function was gone before it was closed");
        }
    }
}

impl Function {
    /// Opens a function that is bound to vfio-pci: through iommufd where the kernel has it, through
    /// group and container otherwise.
    ///
    /// # Errors
    /// When VFIO says no, at whichever step.
    pub fn open(host: &Host, address: &Address) -> Result<Function, FunctionError> {
        let directory = host.function(address);
        let vfio = |what| {
            let address = address.clone();
            move |source| FunctionError::Vfio { address, what, source }
        };
        let system = |what, fix| {
            let address = address.clone();
            move |source| FunctionError::System { address, what, source, fix }
        };
        let cdev = !host.names(directory.join("vfio-dev")).is_empty();
        let (iommu, ops): (Iommu, Arc<dyn VfioOps>) = if cdev && host.path("dev/iommu").exists() {
            let file = IommuFd::new().map_err(|e| {
                system("open /dev/iommu for", "load iommufd, run as root")(io::Error::other(e))
            })?;
            let iommufd = VfioIommufd::new(Arc::new(file), None, None);
            let iommufd = Arc::new(iommufd.map_err(vfio("make an I/O address space"))?);
            (Iommu::Iommufd(iommufd.clone()), iommufd)
        } else {
            let container = VfioContainer::new(None).map_err(vfio("open a container"))?;
            let container = Arc::new(container);
            (Iommu::Container(container.clone()), container)
        };
        let device = VfioDevice::new(&directory, ops, true)
            .map_err(vfio("open the function through VFIO"))?;
        let device = Closing(Some(device));
        // PANIC: it was put there one line above.
        let open = device.0.as_ref().expect("the device is open");
        let file =
            raw::file(open).map_err(system("duplicate the descriptor of", "raise ulimit -n"))?;
        let watch = |index, what| {
            let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
            let fd = eventfd(0, flags).map_err(io::Error::from);
            let fd = fd.map_err(system("make an eventfd for", "raise ulimit -n"))?;
            if open.get_irq_info(index).is_some_and(|irq| irq.count > 0) {
                let one = std::slice::from_ref(&fd);
                ioctl::wire(&file, index, one).map_err(system(what, "see dmesg"))?;
            }
            Ok::<OwnedFd, FunctionError>(fd)
        };
        let error = watch(VFIO_PCI_ERR_IRQ_INDEX, "watch for errors of")?;
        let request = watch(VFIO_PCI_REQ_IRQ_INDEX, "watch for requests to let go of")?;
        let transport = VfioTransport::over(file, address.as_str())?;
        let reserved = reserved(host, &directory);
        let mappings = Mappings::new(iommu);
        Ok(Function {
            address: address.clone(),
            transport,
            mappings,
            error,
            request,
            reserved,
            device,
        })
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }
}

/// What the IOMMU cannot translate, first and last byte each.
fn reserved(host: &Host, directory: &std::path::Path) -> Vec<(u64, u64)> {
    let group = host.link(directory.join("iommu_group")).unwrap_or_default();
    let text = host.text(format!("sys/kernel/iommu_groups/{group}/reserved_regions"));
    let hex = |word: &str| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok();
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        Some((hex(words.next()?)?, hex(words.next()?)?))
    };
    text.unwrap_or_default().lines().filter_map(line).collect()
}

fn is_readable(fd: &OwnedFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&now)).is_ok_and(|n| n > 0)
}

impl Outer for Function {
    type Transport = VfioTransport;

    fn name(&self) -> String {
        format!("Turnstile device {}", self.address)
    }
    fn transport(&self) -> &VfioTransport {
        &self.transport
    }
    fn map(
        &self,
        iova: u64,
        region: &Arc<SharedRegion>,
        offset: u64,
        bytes: u64,
        access: Access,
    ) -> io::Result<()> {
        self.mappings.map(iova, region, offset, bytes, access)
    }
    fn unmap(&self, iova: u64, _: u64) -> io::Result<()> {
        self.mappings.unmap(iova)
    }
    fn reserved(&self) -> &[(u64, u64)] {
        &self.reserved
    }
    fn trouble(&self) -> Option<&'static str> {
        if is_readable(&self.request) {
            Some("the kernel wants the function back")
        } else if is_readable(&self.error) {
            Some("the function reports an error that it cannot recover from")
        } else {
            None
        }
    }
    fn wait(&self, inbox: BorrowedFd<'_>, vector: u16, bound_ns: u64) {
        let vector = self.transport.vector(vector);
        let fds = [Some(inbox), Some(self.error.as_fd()), Some(self.request.as_fd())];
        let mut fds: Vec<PollFd<'_>> = fds
            .into_iter()
            .chain([vector.map(AsFd::as_fd)])
            .flatten()
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let bound = std::time::Duration::from_nanos(bound_ns);
        let timeout = Timespec {
            tv_sec: bound.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: bound.subsec_nanos().into(),
        };
        let _ = poll(&mut fds, Some(&timeout));
        if let Some(vector) = vector {
            let _ = rustix::io::read(vector, &mut [0_u8; 8]);
        }
    }
}

/// An open function together with the claim on it. The function is closed before it is given back.
#[derive(Debug)]
pub struct Claimed {
    function: Function,
    _claim: Claim,
}

impl Claimed {
    /// Puts the two together.
    #[must_use]
    pub fn new(claim: Claim, function: Function) -> Claimed {
        Claimed { function, _claim: claim }
    }
}

impl Outer for Claimed {
    type Transport = VfioTransport;

    fn name(&self) -> String {
        self.function.name()
    }
    fn transport(&self) -> &VfioTransport {
        self.function.transport()
    }
    fn map(
        &self,
        iova: u64,
        region: &Arc<SharedRegion>,
        offset: u64,
        bytes: u64,
        access: Access,
    ) -> io::Result<()> {
        self.function.map(iova, region, offset, bytes, access)
    }
    fn unmap(&self, iova: u64, bytes: u64) -> io::Result<()> {
        self.function.unmap(iova, bytes)
    }
    fn reserved(&self) -> &[(u64, u64)] {
        self.function.reserved()
    }
    fn trouble(&self) -> Option<&'static str> {
        self.function.trouble()
    }
    fn wait(&self, inbox: BorrowedFd<'_>, vector: u16, bound_ns: u64) {
        self.function.wait(inbox, vector, bound_ns);
    }
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let fd = self.device.0.as_ref().map(AsRawFd::as_raw_fd);
        f.debug_struct("Function").field("address", &self.address).field("fd", &fd).finish()
    }
}
