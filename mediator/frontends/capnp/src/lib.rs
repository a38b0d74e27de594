//! Tenants that hold the GPU as object capabilities, over Cap'n Proto RPC on a Unix socket.
//!
//! A client gets a `GpuDeviceManager` when it connects, from that a `GpuSession`, and from that
//! buffers, programs and fences; `turnstile.capnp` describes them. A reference is the permission, and
//! dropping it closes the object.
//!
//! [`serve`] serves one client. It drives the tenant's Turnstile device with the same driver and over
//! the same rings as any guest, so core, policy and audit see a tenant like any other: nothing in here
//! decides what is allowed. It is meant to run in a process of its own for each client. All that a
//! client sends is parsed there, on one thread, with bounds on what is outstanding ([`gate`]); a client
//! that gets through them, or through the protocol's library, ends its own process and with it its
//! own tenant's device.
//!
//! `turnstile_capnp.rs` is generated from the schema and committed, so that a build needs no Cap'n
//! Proto compiler; `tests/schema.rs` keeps it current.

#![forbid(unsafe_code)]

mod buffer;
pub mod client;
mod device;
mod failure;
mod fence;
pub mod gate;
mod mapping;
mod program;
mod refusal;
mod server;
mod session;

#[rustfmt::skip]
#[allow(
    clippy::all,
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    reason = "generated code"
)]
pub mod turnstile_capnp;

pub use gate::Limits;
pub use refusal::refusal;
pub use server::{Client, ServeError, serve};

use turnstile_driver::DeviceManager;
use turnstile_process::ProcessTransport;

/// The driver's end of the client's device. It lives as long as its process, see [`serve`].
type Device = &'static DeviceManager<ProcessTransport>;
