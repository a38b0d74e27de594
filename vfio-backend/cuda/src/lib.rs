//! A real NVIDIA GPU as a backend: one worker process for each session, on the CUDA driver.
//!
//! The daemon's half ([`CudaGpu`]) never calls the driver. It starts workers, hands them commands through a
//! ring in shared memory and host memory as file descriptors, watches them, and believes nothing they
//! say without checking it. A worker ([`worker`]) owns one context and one GPU address space; the tenant
//! it serves reaches it only through commands that the mediator decoded, authorized and translated.
//!
//! Two tenants never share a context. How they share the GPU is the space's isolation: *concurrent*
//! workers are clients of an MPS server of the daemon's own, run at the same time, and load only programs
//! that the guard made unable to fault; *exclusive* ones take turns. `docs/cuda.md` has the figures and
//! what happens when something goes wrong.
//!
//! The driver's library is loaded when a worker starts: this crate builds and tests without it.

mod daemon;
mod driver;
pub mod native;
mod socket;
mod wire;
pub mod worker;

pub use daemon::{CudaError, CudaGpu, Mps, MpsService, Settings};
