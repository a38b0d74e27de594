//! `turnstile policy`: check a policy, explain it, print the schema.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::json;
use turnstile_policy::{AuditLevel, Guest, Program};

use super::failure::{Failure, read_text};
use super::table::{bytes, count, say, say_json, table};

/// Check a policy, explain what it means, print its schema
#[derive(Subcommand)]
pub(super) enum Policy {
    /// Say whether a policy is valid, and list its tenants
    ///
    /// Every mistake is printed as FILE:LINE:COLUMN: PATH: what is wrong and what to write instead.
    /// Nothing is started.
    Check {
        /// The policy, a JSON document
        file: PathBuf,
        /// Print JSON instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Spell out what a policy lets a tenant do, operation by operation, and why
    Explain {
        /// The policy, a JSON document
        file: PathBuf,
        /// The tenant; all of them if left out
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
        /// Print JSON instead of text
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of a policy, for editors
    Schema,
}

impl Policy {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Policy::Check { file, json } => check(&file, json),
            Policy::Explain { file, tenant, json } => explain(&file, tenant.as_deref(), json),
            Policy::Schema => say(turnstile_policy::Policy::schema().trim_end()),
        }
    }
}

/// Reads a policy, printing every mistake in it.
pub(super) fn load(file: &Path) -> Result<turnstile_policy::Policy, Failure> {
    let text = read_text(file)?;
    turnstile_policy::Policy::parse(&text).map_err(|errors| {
        eprint!("{}", errors.in_file(&file.display().to_string()));
        let n = errors.errors().len();
        Failure::check(
            format!("the policy was refused: {n} mistake{}", if n == 1 { "" } else { "s" }),
            "change the lines above; nothing was started",
        )
    })
}

/// What a tenant runs, in a word.
pub(super) fn runs(attach: &turnstile_policy::Attach) -> String {
    match attach {
        turnstile_policy::Attach::MicroVm(vm) => match &vm.guest {
            Guest::Payload(name) => name.to_string(),
            Guest::Elf(path) => path.display().to_string(),
            Guest::Linux { kernel, .. } => kernel.display().to_string(),
        },
        turnstile_policy::Attach::Process(process) => match &process.program {
            Some(Program::Payload(name)) => name.to_string(),
            Some(Program::File(path)) => path.display().to_string(),
            None => "whoever connects".into(),
        },
        turnstile_policy::Attach::VfioUser(vfio) => vfio.socket.display().to_string(),
        turnstile_policy::Attach::Rpc(rpc) => rpc.socket.display().to_string(),
    }
}

fn check(file: &Path, as_json: bool) -> Result<(), Failure> {
    let policy = match load(file) {
        Ok(policy) => policy,
        Err(failure) if as_json => {
            // The same mistakes, for a program.
            let errors =
                read_text(file).ok().and_then(|t| turnstile_policy::Policy::parse(&t).err());
            let list: Vec<_> = errors
                .iter()
                .flat_map(|e| e.errors())
                .map(|e| {
                    json!({"line": e.line, "column": e.column, "path": e.path,
                           "problem": e.problem.to_string()})
                })
                .collect();
            say_json(&json!({"file": file, "ok": false, "errors": list}))?;
            return Err(failure);
        }
        Err(failure) => return Err(failure),
    };
    if as_json {
        let tenants: Vec<_> = policy
            .tenants
            .iter()
            .map(|t| json!({"name": t.name, "attach": t.attach.kind(), "runs": runs(&t.attach)}))
            .collect();
        return say_json(&json!({
            "file": file,
            "ok": true,
            "backend": policy.device.backend.kind().name(),
            "memory_bytes": policy.device.memory_bytes,
            "tenants": tenants,
        }));
    }
    say(format!(
        "{}: ok, backend {}, {} of device memory",
        file.display(),
        policy.device.backend.kind().name(),
        bytes(policy.device.memory_bytes)
    ))?;
    let mut table =
        table(&["tenant", "attach", "runs", "memory#", "in flight#", "rate#", "weight#", "audit"]);
    for tenant in &policy.tenants {
        let grants = &tenant.grants;
        table.add_row([
            tenant.name.to_string(),
            tenant.attach.kind().into(),
            runs(&tenant.attach),
            grants.buffer.as_ref().map_or("-".into(), |b| bytes(b.max_bytes)),
            grants.queue.as_ref().map_or("-".into(), |q| count(q.max_in_flight.into())),
            tenant.rate.map_or("-".into(), |r| format!("{}/s", count(r.per_second))),
            tenant.weight.to_string(),
            match tenant.audit {
                AuditLevel::None => "life only",
                AuditLevel::Denied => "denied",
                AuditLevel::All => "all",
            }
            .into(),
        ]);
    }
    say(table)
}

fn explain(file: &Path, tenant: Option<&str>, as_json: bool) -> Result<(), Failure> {
    let policy = load(file)?;
    let names: Vec<&str> = match tenant {
        Some(name) => vec![name],
        None => policy.tenants.iter().map(|t| &*t.name).collect(),
    };
    let mut explanations = Vec::new();
    for name in names {
        let Some(explanation) = turnstile_policy::explain(&policy, name) else {
            let known: Vec<&str> = policy.tenants.iter().map(|t| &*t.name).collect();
            return Err(Failure::input(
                format!("the policy has no tenant {name}"),
                format!("name one of: {}", known.join(", ")),
            ));
        };
        explanations.push(explanation);
    }
    if as_json {
        return match (tenant, explanations.as_slice()) {
            (Some(_), [one]) => say_json(one),
            _ => say_json(&explanations),
        };
    }
    for (i, explanation) in explanations.iter().enumerate() {
        if i > 0 {
            say("")?;
        }
        say(explanation.to_string().trim_end())?;
    }
    Ok(())
}
