//! The Turnstile driver in a Linux guest, as an ordinary program.
//!
//! [`find()`] looks for Turnstile functions on the PCI bus; [`Device::open`] reaches one, by the way
//! its binding leaves open:
//!
//! - **sysfs** ([`sysfs`]): no driver is bound. The BARs are the resource files of the function; it
//!   takes root and polls, and there is no DMA: data goes through host-visible buffers.
//! - **VFIO** ([`vfio`]): `vfio-pci` is bound. Interrupts arrive in eventfds, and with a (v)IOMMU
//!   memory of this process can be registered for DMA.
//!
//! Both are a [`turnstile_driver::Transport`]; everything above it is the same driver as anywhere
//! else. [`c`] is the same for programs that are not written in Rust.
//!
//! What needs `unsafe` is in [`map`] (mappings), [`ioctl`] (VFIO's calls) and [`c`].

pub mod c;
pub mod device;
pub mod find;
pub mod ioctl;
pub mod job;
pub mod map;
pub mod sysfs;
pub mod vfio;

pub use device::Device;
pub use find::{Function, find};

use std::io;

/// Why a device cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is none, or none of that address.
    #[error("no Turnstile device on the PCI bus; lspci -d 1234:7473 must show one")]
    NotFound,
    /// A file of the kernel's says no.
    #[error("cannot {what} {path}: {source}; {fix}")]
    File {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: String,
        /// Why not.
        source: io::Error,
        /// What helps.
        fix: &'static str,
    },
    /// Another driver holds the function.
    #[error(
        "{function} is bound to the driver {driver}; unbind it, or bind vfio-pci \
         (driverctl set-override {function} vfio-pci)"
    )]
    Bound {
        /// The function's address.
        function: String,
        /// The driver.
        driver: String,
    },
    /// VFIO has the function but not all of its group.
    #[error("the IOMMU group {0} is not viable: every function of it must be bound to vfio-pci")]
    Group(String),
    /// The BARs are not those of the device.
    #[error("{function}: BAR {bar} has {bytes} bytes, too few for a Turnstile device")]
    Bar {
        /// The function's address.
        function: String,
        /// Which.
        bar: u8,
        /// Its size.
        bytes: u64,
    },
}

impl OpenError {
    pub(crate) fn file(
        what: &'static str,
        path: impl AsRef<std::path::Path>,
        fix: &'static str,
    ) -> impl FnOnce(io::Error) -> OpenError {
        let path = path.as_ref().display().to_string();
        move |source| OpenError::File { what, path, source, fix }
    }
}
