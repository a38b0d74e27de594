//! PTX text in, PTX text out that can neither leave its arena nor fault: parser, table of what is
//! allowed, guard passes and verifier.
//!
//! It is not an executor and not an assembler: the emulated GPU and NVIDIA's driver are those. It
//! does no I/O and holds no state; every function is total on any bytes.
#![forbid(unsafe_code)]

mod admit;
pub mod check;
pub mod contract;
pub mod guard;
mod hash;
mod lexer;
pub mod opcode;
pub mod parse;
pub mod print;
pub mod tree;
mod variants;
mod verify;
pub mod view;

pub use admit::{Admission, PtxError, admit};
pub use check::{Refusal, check};
pub use contract::{
    Arena, ArenaError, BlockShape, BrokenPromise, Contract, GuardMode, KernelContract, RED_ZONE,
    Terms, WIDE_RED_ZONE,
};
pub use parse::{Limits, ParseError, parse, parse_guarded};
pub use print::{Printed, print, print_instruction};
pub use tree::{Module, RESERVED};
pub use variants::{Choice, LaunchShape, MAX_VARIANTS, Variants};
pub use verify::{Reason, VerifiedModule, VerifyError, verify_text};
pub use view::{Kernel, ModuleView};
