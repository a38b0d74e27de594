//! What a policy means for one tenant: operation by operation, allowed or refused, and why.

use std::fmt;

use serde::Serialize;
use turnstile_abi::op::TABLE;
use turnstile_abi::{Class, Opcode};

use crate::grants::path_of;
use crate::policy::Policy;
use crate::settings;

/// One tenant's policy, spelled out. `Display` gives it as text for a terminal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The tenant.
    pub tenant: String,
    /// What drives the device.
    pub backend: &'static str,
    /// Every setting in force, defaults included, in the document's order.
    pub settings: Vec<Line>,
    /// Every operation of the device, in the order of its codes.
    pub operations: Vec<Verdict>,
}

/// A setting in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Where it stands in the tenant's policy.
    pub path: &'static str,
    /// Its value, as it is written there.
    pub value: String,
}

/// What becomes of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The operation's name, as in metrics and the audit log.
    pub operation: &'static str,
    /// The queue it belongs on: `admin` or `work`.
    pub queue: &'static str,
    /// Whether the tenant may do it, within `limits`.
    pub allowed: bool,
    /// The grant that decides; empty for operations that need none.
    pub grant: &'static str,
    /// Why, in words.
    pub why: String,
    /// The limits that apply to it.
    pub limits: Vec<Line>,
}

/// Explains what the policy means for the tenant of this name; `None` if there is none.
#[must_use]
pub fn explain(policy: &Policy, tenant: &str) -> Option<Explanation> {
    let tenant = policy.tenant(tenant)?;
    let settings: Vec<Line> = settings::of_tenant(tenant)
        .into_iter()
        .map(|s| Line { path: s.path, value: s.value.to_string() })
        .collect();
    let operations = TABLE.iter().map(|info| {
        let granted = tenant.grants.has(info.grant);
        let stuck = info.class == Class::Work && tenant.grants.queue.is_none();
        let free = info.grant == turnstile_abi::Grant::Always;
        let grant = if free { "" } else { path_of(info.grant) };
        let why = if !granted {
            format!("{grant} is not granted")
        } else if stuck {
            "there is no work queue to submit it on: grants.queue is not granted".into()
        } else if free {
            "needs no grant".into()
        } else {
            format!("{grant} is granted")
        };
        let allowed = granted && !stuck;
        let paths = if allowed { limits(info.opcode) } else { &[] };
        let limits = settings.iter().filter(|line| paths.contains(&line.path)).cloned().collect();
        Verdict {
            operation: info.metric,
            queue: match info.class {
                Class::Admin => "admin",
                Class::Work => "work",
            },
            allowed,
            grant,
            why,
            limits,
        }
    });
    Some(Explanation {
        tenant: tenant.name.to_string(),
        backend: policy.device.backend.kind().name(),
        operations: operations.collect(),
        settings,
    })
}

/// The settings that limit an operation.
const fn limits(operation: Opcode) -> &'static [&'static str] {
    match operation {
        Opcode::SessionOpen => &["grants.sessions", "grants.max_handles"],
        Opcode::BufferCreate => {
            &["grants.buffer.max_bytes", "grants.buffer.max_count", "grants.buffer.usage"]
        }
        Opcode::DmaRegister => {
            &["grants.dma.max_bytes", "grants.dma.max_regions", "grants.dma.access"]
        }
        Opcode::ProgramLoad => &[
            "grants.program.formats",
            "grants.program.guard",
            "grants.program.max_bytes",
            "grants.program.max_count",
            "grants.program.images",
        ],
        Opcode::FunctionGet => &["grants.program.max_functions"],
        Opcode::QueueCreate => &["grants.queue.max_count", "grants.queue.max_depth"],
        Opcode::FenceCreate => &["grants.fence.max_count"],
        Opcode::Derive => &["grants.max_handles"],
        Opcode::Launch => &[
            "grants.launch.max_threads_per_block",
            "grants.launch.max_blocks",
            "grants.launch.max_shared",
            "grants.launch.timeout",
            "grants.launch.cooperative",
            "grants.launch.raw_addresses",
            "grants.queue.max_in_flight",
        ],
        Opcode::FenceWait => &["grants.fence.max_wait", "grants.queue.max_in_flight"],
        Opcode::Nop | Opcode::Copy | Opcode::Fill | Opcode::FenceSignal | Opcode::Timestamp => {
            &["grants.queue.max_in_flight"]
        }
        Opcode::Identify
        | Opcode::SessionClose
        | Opcode::BufferDestroy
        | Opcode::BufferMap
        | Opcode::BufferUnmap
        | Opcode::DmaUnregister
        | Opcode::ProgramUnload
        | Opcode::FunctionRelease
        | Opcode::QueueDestroy
        | Opcode::FenceDestroy => &[],
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Explanation { tenant, backend, settings, operations } = self;
        writeln!(f, "tenant {tenant} on the {backend} device")?;
        let others = settings.iter().filter(|line| !line.path.starts_with("grants"));
        let others: Vec<&Line> = others.filter(|line| !line.value.is_empty()).collect();
        let width = others.iter().map(|line| line.path.len()).max().unwrap_or(0);
        for Line { path, value } in others {
            writeln!(f, "  {path:width$}  {value}")?;
        }
        let width = operations.iter().map(|verdict| verdict.operation.len()).max().unwrap_or(0);
        for (title, allowed) in [("allowed", true), ("refused", false)] {
            let of_kind: Vec<_> = operations.iter().filter(|v| v.allowed == allowed).collect();
            writeln!(f, "{title}: {} of {} operations", of_kind.len(), operations.len())?;
            for verdict in of_kind {
                write!(f, "  {:width$}  {}", verdict.operation, verdict.why)?;
                for (i, Line { path, value }) in verdict.limits.iter().enumerate() {
                    let field = path.rsplit('.').next().unwrap_or(path);
                    let before = if i == 0 { ": " } else { ", " };
                    write!(f, "{before}{field} {value}")?;
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}
