//! The mediator as a sans-I/O state machine.
#![forbid(unsafe_code)]

pub mod registers;

pub use registers::{Registers, Wrote};
