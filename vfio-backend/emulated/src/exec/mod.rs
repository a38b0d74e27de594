//! The executor: runs lowered kernels, 32 threads at a time.
//!
//! A launch ([`grid`]) gives blocks to worker threads; a worker runs a block's warps in turn ([`block`]); a warp runs
//! groups of lanes that share a program counter ([`warp`], [`run`]). Everything a kernel can do wrong ends in a
//! [`Fault`](crate::fault::Fault), never in a panic or an endless loop of ours.

mod alone;
mod atomics;
pub(crate) mod block;
mod calls;
mod control;
mod copies;
mod fragments;
pub(crate) mod grid;
mod lanes;
pub(crate) mod launch;
pub(crate) mod levels;
mod local;
mod matrix;
mod matrix_moves;
mod mbarrier;
mod memory_ops;
pub(crate) mod print;
pub(crate) mod registers;
mod run;
mod special;
mod transfers;
mod warp;
mod warp_ops;

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
