//! PTX text in, PTX text out that can neither leave its arena nor fault: parser, table of what is
//! allowed, guard passes and verifier.
//!
//! It is not an executor and not an assembler: the emulated GPU and NVIDIA's driver are those. It
//! does no I/O and holds no state; every function is total on any bytes.
#![forbid(unsafe_code)]

mod lexer;
pub mod parse;
pub mod print;
pub mod tree;

pub use parse::{Limits, ParseError, parse, parse_guarded};
pub use print::{Printed, print, print_instruction};
pub use tree::{Module, RESERVED};
