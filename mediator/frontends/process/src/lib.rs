//! Tenants without a virtual machine: processes that drive their device over a Unix socket.
//!
//! A client connects to a `SOCK_SEQPACKET` socket, says which tenant it wants to be, and is admitted
//! by its peer credentials. It then gets the aperture, as a sealed memfd, and one pipe an interrupt
//! vector. Commands travel through rings in the aperture, as for any tenant; the socket carries only
//! what a microVM would trap on: register accesses and doorbells of parked rings.
//!
//! [`Server`] is the daemon's side and knows nothing of policies or the mediator: it asks an
//! [`Admission`] who a peer may be, and passes memory on through [`MemoryEvents`]. [`ProcessTransport`]
//! is the client's side, a [`turnstile_driver::Transport`].
//!
//! No eventfd is shared with a client. The flags of an open file belong to everybody who holds it, so
//! a client could make a shared eventfd blocking, fill or drain it, and hang the dispatcher in its
//! next write or read. A pipe's two ends are two open files: the client's end is the client's own.

pub mod client;
mod connection;
pub mod peer;
mod raw;
pub mod server;
pub mod socket;
pub mod wire;

#[cfg(test)]
mod tests;

pub use client::{ClientError, ProcessTransport};
pub use peer::Peer;
pub use server::{Admission, Left, Limits, MemoryEvents, Seat, Server, ServerError};
pub use socket::Address;
