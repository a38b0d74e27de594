//! `turnstile audit`: check a log.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use super::failure::Failure;
use super::table::{count, say, say_json};
use crate::audit::Hash;
use crate::audit::verify::{Report, verify_file};

/// Check and follow audit logs
#[derive(Subcommand)]
pub(super) enum Audit {
    /// Walk a log's hash chain and say where it breaks
    ///
    /// Each line of a log carries the SHA-256 of its own bytes and of the line before. A changed,
    /// missing, repeated or moved line is named with its number. Several files are checked as one
    /// chain, oldest first: FILE.000000001234 before FILE.
    ///
    /// The chain is not signed: whoever can rewrite the whole log can make a consistent one, and
    /// lines cut off the end leave a valid log. Compare the head with the one the daemon printed, or
    /// give it with --head.
    Verify {
        /// The log, and the files it continues before it
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The hash that the last line must have
        #[arg(long, value_name = "SHA256", value_parser = parse_hash)]
        head: Option<Hash>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    Tail(super::operator::Tail),
}

fn parse_hash(text: &str) -> Result<Hash, String> {
    Hash::parse(text.to_ascii_lowercase().as_bytes())
        .ok_or_else(|| "a hash is 64 hexadecimal digits".into())
}

impl Audit {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Audit::Verify { files, head, json } => verify(&files, head, json),
            Audit::Tail(tail) => tail.run(),
        }
    }
}

fn verify(files: &[PathBuf], head: Option<Hash>, as_json: bool) -> Result<(), Failure> {
    let mut reports: Vec<(String, Report)> = Vec::new();
    for file in files {
        let name = file.display().to_string();
        let report = verify_file(file).map_err(|e| {
            Failure::input(format!("cannot read {name}: {e}"), "check the path and its permissions")
        })?;
        reports.push((name, report));
    }
    // What joins the files, and what the caller knows of the end.
    let mut breaks = Vec::new();
    for pair in reports.windows(2) {
        let [(before, b), (after, a)] = pair else { continue };
        if a.first_prev != b.head {
            breaks.push(format!("{after} does not continue {before}"));
        }
    }
    let last = reports.last().map(|(_, r)| r.head).unwrap_or_default();
    if let Some(head) = head.filter(|&h| h != last) {
        breaks.push(format!("the last line's hash is {last}, expected {head}: lines are missing"));
    }
    let ok = breaks.is_empty() && reports.iter().all(|(_, r)| r.ok);
    if as_json {
        let files: Vec<_> =
            reports.iter().map(|(name, report)| json!({"file": name, "report": report})).collect();
        say_json(&json!({"ok": ok, "head": last, "breaks": breaks, "files": files}))?;
    } else {
        for (name, report) in &reports {
            for problem in &report.problems {
                say(format!("{name}:{}: {}", problem.line, problem.what))?;
            }
            let more = report.problem_count - report.problems.len() as u64;
            if more > 0 {
                say(format!("{name}: and {} more", count(more)))?;
            }
            for note in &report.notes {
                say(format!("{name}:{}: note: {}", note.line, note.what))?;
            }
            say(format!(
                "{name}: {}, {} records, {} to {}",
                if report.ok { "the chain holds" } else { "BROKEN" },
                count(report.records),
                report.first_seq,
                report.last_seq
            ))?;
        }
        for broken in &breaks {
            say(format!("BROKEN: {broken}"))?;
        }
        say(format!("head: {last}"))?;
    }
    if ok { Ok(()) } else { Err(Failure::said()) }
}
