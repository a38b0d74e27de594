//! The Turnstile device ABI: the one interface between a tenant and the mediator.
//!
//! A tenant sees a PCI 3D controller with three BARs: trapped control registers and doorbells
//! ([`regs`]), the *aperture* of shared memory with its rings ([`ring`], [`memory`]) and the MSI-X
//! table. Commands are 64-byte descriptors ([`descriptor`]) decoded once into a typed [`Request`]
//! ([`request`]); every operation is one row of one table ([`op`]).
//!
//! A microVM guest, a host process, a mediator in an outer machine and a worker process all speak
//! this, with the same code. The crate is `no_std`, has no I/O and no unsafe code; it says what the
//! bytes mean and never decides whether something is allowed (that is `turnstile-policy`).
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod descriptor;
pub mod handle;
pub mod identify;
pub mod launch;
pub mod memory;
pub mod op;
pub mod regs;
pub mod request;
pub mod ring;
pub mod status;
pub mod version;

pub use descriptor::{Completion, Descriptor};
pub use handle::{Handle, Kind, KindSet, Rights};
pub use memory::{OutOfBounds, SharedMemory};
pub use op::{Class, Grant, OpInfo, Opcode};
pub use request::{Malformed, Request};
pub use status::{Blame, Status};
