//! What the API says: the shapes of its answers, for both ends.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use turnstile_core::Life;
use turnstile_policy::{Diff, Effect, PolicyErrors, Resource};
use utoipa::ToSchema;

use crate::daemon::{Failed, Reloaded};
use crate::runtime::{Holdings, Standing};

/// Amount held and limit of one resource.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize, ToSchema)]
pub struct Held {
    /// How much is held.
    pub used: u64,
    /// How much the policy allows.
    pub limit: u64,
}

/// One operation of a tenant, since the daemon started.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize, ToSchema)]
pub struct Operation {
    /// Commands completed, however they ended.
    pub completed: u64,
    /// Commands refused before they ran.
    pub refused: u64,
    /// Commands that failed while they ran.
    pub failed: u64,
    /// Bytes moved.
    pub bytes: u64,
}

/// Fetch to completion, in nanoseconds.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize, ToSchema)]
pub struct Latency {
    /// Median.
    pub p50_ns: u64,
    /// 99th percentile.
    pub p99_ns: u64,
    /// Longest.
    pub max_ns: u64,
}

/// A tenant of the policy in force. Counts are since the daemon started, over all lives of its device.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize, ToSchema)]
pub struct Tenant {
    /// Its name.
    pub name: String,
    /// How it attaches: `microvm`, `process` or `vfio-user`.
    pub attach: String,
    /// `absent`, `disabled`, `enabled`, `resetting`, `revoked` or `detaching`.
    pub state: String,
    /// Its rings are not served, by order of the operator.
    pub paused: bool,
    /// It gets no device, by order of the operator, until it is resumed.
    pub revoked: bool,
    /// Its share of the device beside other tenants' weights.
    pub weight: u32,
    /// Commands fetched and not completed.
    pub queued: u64,
    /// Work commands at the backend.
    pub in_flight: u32,
    /// Sessions, closing ones included.
    pub sessions: u32,
    /// Live capabilities.
    pub handles: u32,
    /// Commands completed.
    pub commands: u64,
    /// Commands refused before they ran.
    pub denied: u64,
    /// Commands that failed while they ran.
    pub failed: u64,
    /// Bytes moved by copies and fills.
    pub bytes: u64,
    /// GPU time, in nanoseconds.
    pub gpu_ns: u64,
    /// Sessions opened.
    pub sessions_opened: u64,
    /// Resets by the driver.
    pub resets: u64,
    /// Rings found broken.
    pub broken_rings: u64,
    /// Register accesses refused.
    pub registers_refused: u64,
    /// Audit records dropped since the last count went to the log.
    pub audit_dropped: u64,
    /// What it holds, by resource.
    pub resources: BTreeMap<String, Held>,
    /// What it did, by operation.
    pub operations: BTreeMap<String, Operation>,
    /// How its commands ended, by status.
    pub outcomes: BTreeMap<String, u64>,
    /// Latencies in this life of its device; absent before the first command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
}

/// The word for where a device is in its life.
pub(super) fn state(life: Option<Life>) -> &'static str {
    match life {
        None => "absent",
        Some(Life::Disabled) => "disabled",
        Some(Life::Enabled) => "enabled",
        Some(Life::Resetting { .. }) => "resetting",
        Some(Life::Revoked) => "revoked",
        Some(Life::Detaching) => "detaching",
    }
}

impl From<&Standing> for Tenant {
    fn from(s: &Standing) -> Tenant {
        let resources = Resource::ALL.iter().zip(s.used).map(|(resource, used)| {
            let held = Held { used, limit: resource.limit(&s.policy.grants) };
            (resource.name().to_owned(), held)
        });
        let operations = s.tally.operations().map(|(name, op)| {
            let crate::runtime::OpTally { completed, refused, failed, bytes, .. } = *op;
            (name.to_owned(), Operation { completed, refused, failed, bytes })
        });
        let latency = s.latency.map(|l| {
            let crate::runtime::Latency { p50_ns, p99_ns, max_ns } = l;
            Latency { p50_ns, p99_ns, max_ns }
        });
        Tenant {
            name: s.policy.name.to_string(),
            attach: s.policy.attach.kind().to_owned(),
            state: state(s.life).to_owned(),
            paused: s.paused,
            revoked: s.barred || s.life == Some(Life::Revoked),
            weight: s.policy.weight,
            queued: s.waiting,
            in_flight: s.in_flight,
            sessions: s.sessions,
            handles: s.handles,
            commands: s.counters.completed,
            denied: s.counters.denied,
            failed: s.counters.failed,
            bytes: s.counters.bytes,
            gpu_ns: s.counters.busy_ns,
            sessions_opened: s.counters.sessions,
            resets: s.counters.resets,
            broken_rings: s.counters.broken_rings,
            registers_refused: s.registers_refused,
            audit_dropped: s.audit_dropped,
            resources: resources.collect(),
            operations: operations.collect(),
            outcomes: s.tally.outcomes().map(|(s, n)| (s.name().to_owned(), n)).collect(),
            latency,
        }
    }
}

/// A session.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize, ToSchema)]
pub struct Session {
    /// Names the session among all that the daemon ever had.
    pub number: u64,
    /// It is closing: nothing of it resolves any more.
    pub closing: bool,
    /// Base of its device address space.
    pub arena_base: u64,
    /// Size of its device address space, in bytes.
    pub arena_bytes: u64,
    /// Objects that belong to it.
    pub objects: u32,
}

/// An object of a session.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize, ToSchema)]
pub struct Object {
    /// Number of its session.
    pub session: u64,
    /// What it is.
    pub kind: String,
    /// Bytes it takes; 0 where that means nothing.
    pub bytes: u64,
    /// Whether commands can use it; otherwise it is being made or going.
    pub live: bool,
}

/// A tenant's sessions and objects.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize, ToSchema)]
pub struct Sessions {
    /// Sessions, closing ones included.
    pub sessions: Vec<Session>,
    /// Objects in them, at most 4,096.
    pub objects: Vec<Object>,
    /// There are more objects than are listed.
    pub truncated: bool,
}

impl From<Holdings> for Sessions {
    fn from(holdings: Holdings) -> Sessions {
        let Holdings { sessions, objects, truncated } = holdings;
        let session = |s: turnstile_core::SessionView| Session {
            number: s.number,
            closing: s.closing,
            arena_base: s.arena.0,
            arena_bytes: s.arena.1,
            objects: s.members,
        };
        let object = |o: turnstile_core::ObjectView| Object {
            session: o.session,
            kind: o.kind.name().to_owned(),
            bytes: o.bytes,
            live: o.live,
        };
        Sessions {
            sessions: sessions.into_iter().map(session).collect(),
            objects: objects.into_iter().map(object).collect(),
            truncated,
        }
    }
}

/// A device that tenants share.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize, ToSchema)]
pub struct Device {
    /// `emulated`, `cuda`, …
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its memory, in bytes.
    pub memory_bytes: u64,
    /// Its multiprocessors.
    pub multiprocessors: u32,
}

/// The daemon as a whole.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize, ToSchema)]
pub struct Stats {
    /// Version of the program.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Time since it started, in nanoseconds.
    pub uptime_ns: u64,
    /// Tenants of the policy in force.
    pub tenants: u64,
    /// Those with a device.
    pub attached: u64,
    /// Commands completed.
    pub commands: u64,
    /// Commands refused before they ran.
    pub denied: u64,
    /// Commands that failed while they ran.
    pub failed: u64,
    /// Bytes moved.
    pub bytes: u64,
    /// GPU time, in nanoseconds.
    pub gpu_ns: u64,
    /// Most memory the daemon ever had resident, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_rss_bytes: Option<u64>,
    /// The audit log takes no records and the policy is to serve nobody until it does.
    pub audit_stopped: bool,
}

/// A mistake in a policy.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize, ToSchema)]
pub struct Mistake {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// JSON path.
    pub path: String,
    /// What is wrong and what to write instead.
    pub problem: String,
}

pub(super) fn mistakes(errors: &PolicyErrors) -> Vec<Mistake> {
    let mistake = |e: &turnstile_policy::PolicyError| Mistake {
        line: e.line,
        column: e.column,
        path: e.path.to_string(),
        problem: e.problem.to_string(),
    };
    errors.errors().iter().map(mistake).collect()
}

/// A setting that changes.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize, ToSchema)]
pub struct Change {
    /// The tenant, if it is a tenant's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Where it stands in the policy.
    pub path: String,
    /// Its value before; absent where it did not apply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// Its value after; absent where it does not apply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// `tightens`, `loosens`, `mixed` or `neutral`.
    pub effect: String,
    /// Whether a reload puts it in force at once.
    pub live: bool,
}

/// A new tenant whose guest did not start.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize, ToSchema)]
pub struct NotStarted {
    /// The tenant.
    pub tenant: String,
    /// Why its guest did not start; it is in the policy all the same.
    pub why: String,
}

/// What a policy changes, and whether it is in force.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize, ToSchema)]
pub struct ReloadAnswer {
    /// Whether it was put in force; not in a dry run.
    pub applied: bool,
    /// Tenants that are new.
    pub added: Vec<String>,
    /// Tenants that are gone: revoked and detached.
    pub removed: Vec<String>,
    /// Settings that change.
    pub changes: Vec<Change>,
    /// New tenants whose guests did not start.
    pub failed: Vec<NotStarted>,
    /// The same as text for a terminal.
    pub text: String,
    /// How long commands waited for the switch, in nanoseconds.
    pub pause_ns: u64,
    /// How long all of it took, in nanoseconds.
    pub took_ns: u64,
}

fn change(tenant: Option<&str>, change: &turnstile_policy::Change) -> Change {
    let effect = match change.effect {
        Effect::Tightens => "tightens",
        Effect::Loosens => "loosens",
        Effect::Mixed => "mixed",
        Effect::Neutral => "neutral",
    };
    Change {
        tenant: tenant.map(str::to_owned),
        path: change.path.to_owned(),
        before: change.before.clone(),
        after: change.after.clone(),
        effect: effect.to_owned(),
        live: change.live,
    }
}

fn changes(diff: &Diff) -> Vec<Change> {
    let tenants = diff.tenants.iter().flat_map(|t| t.changes.iter().map(|c| (Some(&*t.name), c)));
    let all = diff.policy.iter().map(|c| (None, c)).chain(tenants);
    all.map(|(tenant, c)| change(tenant, c)).collect()
}

pub(super) fn needing_restart(diff: &Diff) -> Vec<Change> {
    changes(diff).into_iter().filter(|change| !change.live).collect()
}

impl From<Reloaded> for ReloadAnswer {
    fn from(reloaded: Reloaded) -> ReloadAnswer {
        let Reloaded { diff, applied, pause_ns, took_ns, failed } = reloaded;
        let failed = failed.into_iter().map(|Failed { tenant, why }| NotStarted { tenant, why });
        ReloadAnswer {
            applied,
            text: diff.to_string(),
            changes: changes(&diff),
            added: diff.added,
            removed: diff.removed,
            failed: failed.collect(),
            pause_ns,
            took_ns,
        }
    }
}

/// Whether a policy is valid.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize, ToSchema)]
pub struct Check {
    /// It has no mistakes.
    pub ok: bool,
    /// Its mistakes.
    pub mistakes: Vec<Mistake>,
}
