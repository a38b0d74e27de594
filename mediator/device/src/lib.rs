//! The mediated PCI device as front ends see it.
//!
//! A front end (KVM, vfio-user, a Unix socket) gets one [`Device`] for its tenant: the registers it
//! answers reads from, the aperture it maps, the doorbell it kicks, and the interrupts it delivers.
//! It never interprets an operation and never touches the mediator's state; the dispatcher thread
//! never calls into a front end.

pub mod device;
pub mod msix;
pub mod pci;

pub use device::{Device, DeviceError, Kick};
pub use msix::{Message, Vectors};
pub use pci::{Bar, Change, Function, FunctionError};
