//! What a reload changes: setting by setting, and whether that tightens or loosens.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::policy::Policy;
use crate::settings::{self, Setting, Value};
use crate::tenant::TenantPolicy;

/// What changes from one policy to the next. `Display` gives it as text for a terminal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// Changes outside the tenants.
    pub policy: Vec<Change>,
    /// Tenants that are new.
    pub added: Vec<String>,
    /// Tenants that are gone: a reload revokes them.
    pub removed: Vec<String>,
    /// Changes of tenants that stay.
    pub tenants: Vec<TenantDiff>,
}

/// What changes for a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TenantDiff {
    /// The tenant.
    pub name: String,
    /// Its changes, at least one.
    pub changes: Vec<Change>,
}

/// A setting that changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Where it stands: in a tenant, relative to the tenant.
    pub path: &'static str,
    /// Its value now; `None` where the setting does not apply now.
    pub before: Option<String>,
    /// Its value then; `None` where it will not apply.
    pub after: Option<String>,
    /// What that means.
    pub effect: Effect,
    /// Whether a reload puts it in force at once. Otherwise it takes a restart: of the tenant, or of
    /// the daemon for a setting outside the tenants.
    pub live: bool,
}

/// What a change means for the one it concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Less is allowed.
    Tightens,
    /// More is allowed.
    Loosens,
    /// Some things are allowed that were not, and the reverse.
    Mixed,
    /// Neither.
    Neutral,
}

/// Compares two policies.
#[must_use]
pub fn diff(before: &Policy, after: &Policy) -> Diff {
    let mut diff = Diff {
        policy: changes(
            &settings::of_policy(&before.device, &before.audit),
            &settings::of_policy(&after.device, &after.audit),
        ),
        ..Diff::default()
    };
    let index = |policy: &'_ Policy| -> HashMap<Box<str>, Arc<TenantPolicy>> {
        policy.tenants.iter().map(|tenant| (tenant.name.clone(), tenant.clone())).collect()
    };
    let (old, new) = (index(before), index(after));
    for tenant in &before.tenants {
        let name = tenant.name.to_string();
        match new.get(&tenant.name) {
            None => diff.removed.push(name),
            Some(next) if next == tenant => {}
            Some(next) => {
                let changes = changes(&settings::of_tenant(tenant), &settings::of_tenant(next));
                if !changes.is_empty() {
                    diff.tenants.push(TenantDiff { name, changes });
                }
            }
        }
    }
    let added = after.tenants.iter().filter(|tenant| !old.contains_key(&tenant.name));
    diff.added = added.map(|tenant| tenant.name.to_string()).collect();
    diff
}

impl Diff {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Diff { policy, added, removed, tenants } = self;
        policy.is_empty() && added.is_empty() && removed.is_empty() && tenants.is_empty()
    }

    /// Whether something changes that a reload cannot put in force.
    #[must_use]
    pub fn needs_restart(&self) -> bool {
        let in_tenants = self.tenants.iter().flat_map(|tenant| &tenant.changes);
        self.policy.iter().chain(in_tenants).any(|change| !change.live)
    }
}

fn changes(before: &[Setting], after: &[Setting]) -> Vec<Change> {
    let find = |list: &[Setting], path| list.iter().find(|s| s.path == path).cloned();
    let mut changes = Vec::new();
    for old in before {
        match find(after, old.path) {
            Some(new) if new.value == old.value => {}
            Some(new) => changes.push(change(Some(old), Some(&new))),
            None => changes.push(change(Some(old), None)),
        }
    }
    for new in after {
        if find(before, new.path).is_none() {
            changes.push(change(None, Some(new)));
        }
    }
    changes
}

fn change(before: Option<&Setting>, after: Option<&Setting>) -> Change {
    let either = before.or(after);
    Change {
        path: either.map_or("", |s| s.path),
        before: before.map(|s| s.value.to_string()),
        after: after.map(|s| s.value.to_string()),
        effect: match (before, after) {
            (Some(before), Some(after)) => effect(&before.value, &after.value),
            // A setting comes and goes with its grant, and the grant's own line says what that means.
            _ => Effect::Neutral,
        },
        live: either.is_some_and(|s| s.live),
    }
}

fn effect(before: &Value, after: &Value) -> Effect {
    let by_order = |looser: std::cmp::Ordering| match looser {
        std::cmp::Ordering::Less => Effect::Tightens,
        std::cmp::Ordering::Equal => Effect::Neutral,
        std::cmp::Ordering::Greater => Effect::Loosens,
    };
    match (before, after) {
        (Value::Limit(before, _), Value::Limit(after, _)) => {
            let or_most = |limit: &Option<u64>| limit.unwrap_or(u64::MAX);
            by_order(or_most(after).cmp(&or_most(before)))
        }
        (Value::Allowed(before), Value::Allowed(after)) => by_order(after.cmp(before)),
        (Value::Choice(before, _), Value::Choice(after, _)) => by_order(after.cmp(before)),
        (Value::Listed(before), Value::Listed(after)) => {
            let gained = after.iter().any(|item| !before.contains(item));
            let lost = before.iter().any(|item| !after.contains(item));
            match (gained, lost) {
                (true, true) => Effect::Mixed,
                (true, false) => Effect::Loosens,
                (false, true) => Effect::Tightens,
                (false, false) => Effect::Neutral,
            }
        }
        _ => Effect::Neutral,
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_dash = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
        write!(f, "{}: {} -> {}", self.path, or_dash(&self.before), or_dash(&self.after))?;
        match self.effect {
            Effect::Tightens => write!(f, " (tightens)")?,
            Effect::Loosens => write!(f, " (loosens)")?,
            Effect::Mixed => write!(f, " (tightens and loosens)")?,
            Effect::Neutral => {}
        }
        if !self.live {
            write!(f, " (after a restart)")?;
        }
        Ok(())
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return writeln!(f, "nothing changes");
        }
        let Diff { policy, added, removed, tenants } = self;
        for change in policy {
            writeln!(f, "{change}")?;
        }
        for name in added {
            writeln!(f, "tenant {name}: new")?;
        }
        for name in removed {
            writeln!(f, "tenant {name}: gone, will be revoked")?;
        }
        for TenantDiff { name, changes } in tenants {
            writeln!(f, "tenant {name}:")?;
            for change in changes {
                writeln!(f, "  {change}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
