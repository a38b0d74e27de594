//! `turnstile run`: boots every tenant of a policy, shows their lives, ends with a table.

pub(super) mod progress;
pub(super) mod session;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;
use turnstile_abi::Status;
use turnstile_emulated::device::{Scripted, Trouble};

use super::failure::Failure;
use super::table::{bytes, count, nanoseconds, say, say_json, table};
use crate::runtime::Report;
use crate::tenants::Ended;

/// Boot every tenant of a policy and show what becomes of them
///
/// Each tenant gets a device of its own on the shared GPU, and its guest or process runs to its end.
/// Progress goes to stderr, the table (or, with --json, the result) to stdout. Exit code 1 if a
/// tenant's own check failed. Ctrl-C stops every tenant and gives everything back.
#[derive(Args)]
pub(super) struct Run {
    /// The policy, a JSON document
    config: PathBuf,
    /// How tenants that ask for a microVM are run
    ///
    /// kvm: in a microVM on /dev/kvm. process: the same workload in a process, over a Unix socket;
    /// works everywhere. Tenants that ask for a process are always one.
    #[arg(long, value_enum, default_value = "kvm")]
    frontend: Frontend,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Write the audit log here, whatever the policy says
    #[arg(long, value_name = "FILE")]
    audit: Option<PathBuf>,
    /// Make the emulated GPU go wrong at one operation, to see what becomes of your guests
    ///
    /// OPERATION counts what all tenants have the GPU do (copies, fills, launches, programs loaded,
    /// new buffers cleared) from 0, in the order it starts.
    /// WHAT is hang, fail, death (of that tenant's address space) or late:TIME, as in late:20ms.
    #[arg(long, value_name = "OPERATION=WHAT", value_parser = fault)]
    fault: Vec<Scripted>,
    /// No progress on stderr
    #[arg(long, short)]
    quiet: bool,
}

/// How tenants that ask for a microVM are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Frontend {
    Kvm,
    Process,
}

/// Reads `OPERATION=WHAT`.
fn fault(text: &str) -> Result<Scripted, String> {
    let form = "write OPERATION=WHAT, for example 100=hang or 7=late:20ms";
    let (operation, what) = text.split_once('=').ok_or(form)?;
    let operation = operation.parse().map_err(|_| form)?;
    let trouble = match what.split_once(':') {
        None if what == "hang" => Trouble::Hang,
        None if what == "death" => Trouble::Death,
        None if what == "fail" => Trouble::Fail(Status::Backend),
        Some(("late", time)) => {
            Trouble::Late(humantime::parse_duration(time).map_err(|e| format!("{time}: {e}"))?)
        }
        _ => return Err(format!("{what} is none of hang, fail, death, late:TIME; {form}")),
    };
    Ok(Scripted { operation, trouble })
}

/// What became of one tenant.
pub(super) struct Outcome {
    name: String,
    frontend: &'static str,
    runs: String,
    ended: Ended,
    report: Option<Report>,
}

impl Outcome {
    fn state(&self) -> &'static str {
        match self.ended {
            Ended::Passed | Ended::Failed(_) => "finished",
            Ended::Broken(_) => "broken",
            Ended::Stopped => "stopped",
        }
    }
    fn passed(&self) -> bool {
        self.ended == Ended::Passed
    }
    fn note(&self) -> &str {
        match &self.ended {
            Ended::Passed | Ended::Stopped => "",
            Ended::Failed(why) | Ended::Broken(why) => why,
        }
    }
}

impl Run {
    pub(super) fn run(self) -> Result<(), Failure> {
        let policy = super::policy::load(&self.config)?;
        let done =
            session::run(&policy, self.frontend, self.audit.as_deref(), &self.fault, self.quiet)?;
        if self.json {
            self.print_json(&policy, &done)?;
        } else {
            print_table(&done)?;
        }
        if done.interrupted {
            Err(Failure::stopped())
        } else if done.outcomes.iter().all(Outcome::passed) {
            Ok(())
        } else {
            Err(Failure::said())
        }
    }

    fn print_json(
        &self,
        policy: &turnstile_policy::Policy,
        done: &session::Done,
    ) -> Result<(), Failure> {
        let tenants: Vec<_> = done
            .outcomes
            .iter()
            .map(|o| {
                let counters = o.report.as_ref().map(|r| r.counters).unwrap_or_default();
                let latency = o.report.as_ref().and_then(|r| r.latency);
                let outcomes: serde_json::Map<String, serde_json::Value> = o
                    .report
                    .iter()
                    .flat_map(|r| &r.outcomes)
                    .map(|(status, n)| (status.name().to_owned(), json!(n)))
                    .collect();
                json!({
                    "name": o.name,
                    "frontend": o.frontend,
                    "runs": o.runs,
                    "state": o.state(),
                    "passed": o.passed(),
                    "note": o.note(),
                    "commands": counters.completed,
                    "denied": counters.denied,
                    "failed": counters.failed,
                    "bytes": counters.bytes,
                    "gpu_ns": counters.busy_ns,
                    "sessions": counters.sessions,
                    "resets": counters.resets,
                    "p50_ns": latency.map(|l| l.p50_ns),
                    "p99_ns": latency.map(|l| l.p99_ns),
                    "outcomes": outcomes,
                })
            })
            .collect();
        let audit = done.audit.as_ref().map(|(path, summary)| {
            json!({"file": path, "records": summary.records, "lost": summary.lost,
                   "head": summary.head, "disk_error": summary.disk_error})
        });
        say_json(&json!({
            "config": self.config,
            "backend": policy.device.backend.kind().name(),
            "seconds": done.elapsed.as_secs_f64(),
            "peak_rss_bytes": done.peak_rss_bytes,
            "interrupted": done.interrupted,
            "audit": audit,
            "tenants": tenants,
        }))
    }
}

fn print_table(done: &session::Done) -> Result<(), Failure> {
    let mut table = table(&[
        "tenant",
        "runs",
        "as",
        "state",
        "passed",
        "commands#",
        "moved#",
        "denied#",
        "failed#",
        "p50#",
        "p99#",
    ]);
    for outcome in &done.outcomes {
        let counters = outcome.report.as_ref().map(|r| r.counters).unwrap_or_default();
        let latency = outcome.report.as_ref().and_then(|r| r.latency);
        let time = |ns: Option<u64>| ns.map_or("-".into(), nanoseconds);
        table.add_row([
            outcome.name.clone(),
            outcome.runs.clone(),
            outcome.frontend.into(),
            outcome.state().into(),
            if outcome.passed() { "yes".into() } else { "NO".to_owned() },
            count(counters.completed),
            bytes(counters.bytes),
            count(counters.denied),
            count(counters.failed),
            time(latency.map(|l| l.p50_ns)),
            time(latency.map(|l| l.p99_ns)),
        ]);
    }
    say(table)?;
    for outcome in done.outcomes.iter().filter(|o| !o.note().is_empty()) {
        say(format!("{}: {}", outcome.name, outcome.note()))?;
    }
    if let Some((path, summary)) = &done.audit {
        say(format!(
            "audit: {} records in {}, head {}",
            count(summary.records),
            path.display(),
            summary.head
        ))?;
        if let Some(error) = &summary.disk_error {
            say(format!("audit: {} records lost: {error}", count(summary.lost)))?;
        }
    }
    Ok(())
}
