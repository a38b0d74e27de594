//! The `turnstile` command's parts: the audit log, the runtime loop and the subcommands.
//!
//! A library so that tests and benchmarks reach the pieces; the program is `main.rs`.

pub mod audit;
