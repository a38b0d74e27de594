//! What the operating system takes by address: memslots, doorbells, signals. All the unsafe code of
//! this crate is here.
#![allow(unsafe_code)]

mod kick;
mod raw;
mod vm;

pub(crate) use kick::{Kicker, install};
pub(crate) use raw::{internal_error, is_signalled};
pub(crate) use vm::Vm;
