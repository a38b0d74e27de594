//! A software GPU: runs PTX kernels on the host's processors behind the mediator's backend contract.
//!
//! It is a real device to its users (memory per tenant, queues, kernels, faults that name thread and line) and a test
//! instrument: every access is checked, so it also judges whether a guarded module stays in its arena, and faults can be
//! scripted. It is not a model of any GPU's timing.
//!
//! Rooms: [`memory`] address spaces; [`program`] loading and launching; `lower` PTX tree to `ir`; `ops` the meaning of arithmetic; `exec` the interpreter; `jit` the compiler;
//! [`fault`] what stops a kernel. It decides nothing about permission: what arrives here is authorized.

pub mod device; // the Backend implementation: written by the lead
mod exec;
pub mod fault;
mod ir;
mod jit;
mod lower;
pub mod memory;
mod ops;
pub mod program;
mod raw;

pub use lower::LowerError;
pub use program::{Engine, LaunchConfig, LaunchError, LaunchReport, LoadError, LoadedProgram};
pub use raw::Segment;
