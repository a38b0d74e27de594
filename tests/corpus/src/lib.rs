//! The kernel corpus as data: every kernel of `tests/kernels` with launch shapes, inputs and the
//! results a host computes.
//!
//! A [`Case`] is one launch. Whatever runs PTX (the emulated GPU's interpreter or JIT, a guarded
//! module, a real GPU) loads [`Kernel::ptx`], allocates the case's buffers, launches, and hands the
//! final bytes of every buffer to [`Case::check`]. The expected results come from plain Rust
//! written against the meaning of each kernel, never from reading its PTX.
//!
//! This crate runs nothing and depends on no other crate of the workspace. `docs/kernels.md` lists
//! what is here and a test keeps that page equal to [`markdown`].
#![forbid(unsafe_code)]

mod atomics;
pub mod attacks;
mod bits;
mod bytes;
mod calls;
mod case;
mod convert;
mod element;
mod erf;
mod floats;
mod foreign;
mod gemm;
mod graph;
mod grid;
mod halves;
mod integers;
mod linear;
mod memory;
mod nn;
mod numeric;
mod predicates;
mod random;
mod rounding;
mod scan;
mod setup;
mod sort;
mod sync;
mod table;
mod tensor;
mod variables;
mod warp;

pub use attacks::{Attack, Outcome, attacks};
pub use case::{Arg, Buffer, Case, Expect, Launch, Mismatch, Pointer, Role};
pub use element::{Element, Tolerance};
pub use table::{Kernel, Need, Size, cases, find, kernels, large_cases, markdown};
