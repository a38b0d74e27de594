//! What tenants run: work that checks its own results, attacks, and measurements.
//!
//! Every workload is written once, over a [`Transport`] and an [`Env`], and runs in a bare-metal
//! guest as well as in a process. None allocates. A workload prints what it does and ends with one
//! line, `result: pass` or `result: fail: REASON`, which is what a harness looks for.
//!
//! Arguments (`key=value`):
//!
//! | workload | argument | default | meaning |
//! |---|---|---|---|
//! | all | `seed` | 1 | seed of whatever is random |
//! | vecadd | `n` | 10000 | elements |
//! | copy | `bytes` | 65536 | bytes moved each way, a multiple of 4096 |
//! | stress, nop | `n` | 2000, 100000 | commands |
//! | stress | `mischief` | 5 | percent of the commands that are wrong on purpose |
//! | hostile | `only` | all | run only the attacks whose name contains this |
//! | hostile | `deny` | found out | what the policy must not grant: `copy,fill,fence,...` |
//! | hostile | `allow` | nothing | `raw-addresses`: the policy lets parameters hold addresses |
//! | hostile | `guard` | any | `none`: the policy has no program guard, so stray accesses fault |
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod copy;
pub mod env;
pub mod failure;
mod hostile;
mod nop;
mod random;
mod staging;
mod stress;
mod vecadd;

pub use env::{Env, GuestPages, is_whole};
pub use failure::Failure;

use turnstile_driver::Transport;

/// Stack a workload may use, in bytes.
pub const STACK_BYTES: usize = 256 * 1024;

/// A workload by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// vecadd, saxpy and two reductions, every result checked.
    Vecadd,
    /// Bytes on every path the policy grants.
    Copy,
    /// A random mix of all operations against a model.
    Stress,
    /// Every attack a tenant can make, each refused.
    Hostile,
    /// Round trip and throughput of the shortest command.
    Nop,
}

impl Workload {
    /// Every workload.
    pub const ALL: &'static [Workload] =
        &[Workload::Vecadd, Workload::Copy, Workload::Stress, Workload::Hostile, Workload::Nop];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Workload::Vecadd => "vecadd",
            Workload::Copy => "copy",
            Workload::Stress => "stress",
            Workload::Hostile => "hostile",
            Workload::Nop => "nop",
        }
    }
    /// The arguments it understands, as in `n=1000`.
    #[must_use]
    pub const fn keys(self) -> &'static [&'static str] {
        match self {
            Workload::Vecadd | Workload::Nop => &["n"],
            Workload::Copy => &["bytes"],
            Workload::Stress => &["n", "seed", "mischief"],
            Workload::Hostile => &["seed", "only", "deny", "allow", "guard"],
        }
    }
    /// The workload with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Workload> {
        Workload::ALL.iter().copied().find(|w| w.name() == name)
    }
}

/// Runs a workload to its end and prints how it ended. `true`: it passed.
pub fn run<T: Transport, E: Env>(workload: Workload, transport: &T, env: &E) -> bool
where
    T::Aperture: Sync,
{
    env.print(format_args!("workload: {}", workload.name()));
    let result = match workload {
        Workload::Vecadd => vecadd::run(transport, env),
        Workload::Copy => copy::run(transport, env),
        Workload::Stress => stress::run(transport, env),
        Workload::Hostile => hostile::run(transport, env),
        Workload::Nop => nop::run(transport, env),
    };
    match result {
        Ok(()) => env.print(format_args!("result: pass")),
        Err(failure) => env.print(format_args!("result: fail: {failure}")),
    }
    result.is_ok()
}
