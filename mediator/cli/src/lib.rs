//! The `turnstile` command's parts: the audit log, the runtime loop and the subcommands.
//!
//! A library so that tests and benchmarks reach the pieces; the program is `main.rs`. This is the
//! one room that sees all others: it opens files and sockets, starts threads and processes, and puts
//! policy, mediator, front ends and backend together. It decides nothing about commands itself.

pub mod audit;
pub mod commands;
pub mod control;
pub mod daemon;
pub mod runtime;
pub mod state;
pub mod tenants;
