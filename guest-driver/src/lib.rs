//! The driver of the Turnstile device.
//!
//! One driver serves every place the device shows up in: a microVM guest, a process on the host, a
//! mediator that claims a device through VFIO. It is `no_std`, allocates nothing, and reaches the
//! device only through a [`Transport`], which owns every volatile access.
//!
//! [`DeviceManager`] finds and enables a device; from it come a [`Session`], and from that
//! [`Buffer`], [`DmaRegion`], [`Program`], [`Function`], [`Queue`] and [`Fence`]. Objects borrow
//! the manager, so none outlives a reset. Creating and closing objects blocks, for a bounded time;
//! work is submitted to queues and completes later.
//!
//! The device is not trusted: every offset, length, handle and cookie that comes from it is checked
//! before it is used, and what is wrong comes back as [`Error::Lied`]. The driver does not decide
//! what is allowed; a refusal arrives as [`Error::Status`].
#![no_std]

#[cfg(test)]
extern crate std;

pub mod arena;
pub mod buffer;
mod channel;
pub mod device;
pub mod error;
pub mod fence;
pub mod launch;
pub mod mmio;
pub mod program;
pub mod queue;
pub mod session;
pub mod transport;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

pub use turnstile_abi as abi;

pub use buffer::{Buffer, DmaRegion, Mapping, Place};
pub use device::{DeviceManager, Patience};
pub use error::{Done, Error, Lie};
pub use fence::Fence;
pub use launch::{Argument, Launch};
pub use program::{Function, Program};
pub use queue::{Pattern, Queue, Slot, Token};
pub use session::Session;
pub use transport::Transport;
