//! The operator's policy: a JSON document in, decisions out.
//!
//! [`Policy::parse`] turns the document into a compiled policy or a list of errors with positions.
//! [`authorize`] decides, from a tenant's grants alone, whether a decoded command may go on; what it
//! lets through is an [`Authorized`], which nothing else can make. A [`Ledger`] counts what a tenant
//! holds against its quotas and a [`TokenBucket`] what it submits against its rate; time is always an
//! argument. What is not granted is denied.
//!
//! This is not where handles are resolved or offsets checked: the mediator's core does that, and it
//! enforces attenuation (a derived capability carries a subset of its source's rights). Nothing here
//! does I/O, keeps global state or touches guest memory.
#![forbid(unsafe_code)]

mod authorize;
mod compile;
mod denial;
mod diff;
mod document;
mod explain;
mod grants;
mod ledger;
mod policy;
mod rate;
mod settings;
mod tenant;

pub use authorize::{Authorized, authorize, authorize_image};
pub use denial::Denial;
pub use diff::{Change, Diff, Effect, TenantDiff, diff};
pub use document::{PolicyError, PolicyErrors, Problem, Syntax};
pub use explain::{Explanation, Line, Verdict, explain};
pub use grants::{
    BufferGrant, DmaGrant, FenceGrant, Grants, Guard, LaunchGrant, ProgramGrant, QueueGrant,
};
pub use ledger::{Ledger, Resource};
pub use policy::{
    AuditPolicy, Backend, BackendKind, CudaOptions, DevicePolicy, EmulatedOptions, Fsync, Mps,
    OnFull, Policy, VfioOptions,
};
pub use rate::{Rate, TokenBucket};
pub use tenant::{
    Attach, AuditLevel, Guest, Isolation, MicroVm, Process, Program, Rpc, TenantPolicy, VfioUser,
};

#[cfg(test)]
mod tests;
