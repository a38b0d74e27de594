//! Tenants in other VMMs: the Turnstile device over vfio-user, one Unix socket a tenant.
//!
//! A VMM (QEMU 10.1 or later, Cloud Hypervisor) connects to its tenant's socket and shows its guest
//! the same PCI function that a microVM has: BAR0 and BAR4 trap and arrive as messages, BAR2 (the
//! aperture) is memory that the VMM maps, interrupts are eventfds of the VMM's, doorbells may be
//! eventfds of ours. The VM's RAM becomes the tenant's memory map, so that its guest can register
//! pages for DMA, where that is safe (`memory.rs` says when).
//!
//! [`Server`] knows nothing of policies or the mediator: it asks an [`Admission`] who may be whom
//! and passes memory on through [`MemoryEvents`]. What a client does costs its own tenant only: its
//! messages are bounded before they are read, each is answered or ends its connection, and all of it
//! runs on that tenant's threads. Nobody migrates: the protocol's migration commands are refused.
//!
//! The protocol is implemented here and not by the `vfio_user` crate; docs/design.md says why.
#![forbid(unsafe_code)]

mod client;
mod connection;
pub mod listener;
pub mod memory;
mod region;
mod relay;
pub mod server;
mod stream;
mod version;
pub mod wire;

#[cfg(test)]
mod tests;

pub use listener::Listener;
pub use memory::MemoryLimits;
pub use server::{Admission, Door, Left, Limits, MemoryEvents, Seat, Server, ServerError};
