//! `turnstile audit`: check a log, and pass it on.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use super::failure::Failure;
use super::table::{count, say, say_json};
use crate::audit::verify::{Report, files_before, verify_file};
use crate::audit::{Hash, ocsf};

/// Check and follow audit logs
#[derive(Subcommand)]
pub(super) enum Audit {
    /// Walk a log's hash chain and say where it breaks
    ///
    /// Each line of a log carries the SHA-256 of its own bytes and of the line before. A changed,
    /// missing, repeated or moved line is named with its number. The full files that FILE continues
    /// (FILE.000000001234) are found beside it and checked with it as one chain; name several files,
    /// oldest first, to choose them yourself.
    ///
    /// The chain is not signed: whoever can rewrite the whole log can make a consistent one, and
    /// lines cut off the end leave a valid log. Compare the head with the one the daemon printed, or
    /// give it with --head.
    Verify {
        /// The log, and before it, if you choose them yourself, the files it continues
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Check FILE alone, not the files that it continues
        #[arg(long)]
        alone: bool,
        /// The hash that the last line must have
        #[arg(long, value_name = "SHA256", value_parser = parse_hash)]
        head: Option<Hash>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    Tail(super::operator::Tail),
    /// Write a log's records in another format, to stdout, a line each
    ///
    /// Nothing is left out: what the format has no field for is kept under its own name. The full files
    /// that FILE continues come first. A log whose chain is broken is exported as far as its lines are
    /// whole, and is a failure.
    Export {
        /// The log
        file: PathBuf,
        /// The format
        #[arg(long, value_enum)]
        format: Format,
        /// Export FILE alone, not the files that it continues
        #[arg(long)]
        alone: bool,
    },
}

/// What a log can be written as.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(super) enum Format {
    /// Open Cybersecurity Schema Framework, class 6003 (API Activity)
    Ocsf,
}

fn parse_hash(text: &str) -> Result<Hash, String> {
    Hash::parse(text.to_ascii_lowercase().as_bytes())
        .ok_or_else(|| "a hash is 64 hexadecimal digits".into())
}

impl Audit {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Audit::Tail(tail) => tail.run(),
            Audit::Verify { files, alone, head, json } => {
                verify(&with_files_before(files, alone), head, json)
            }
            Audit::Export { file, format: Format::Ocsf, alone } => {
                export(&with_files_before(vec![file], alone))
            }
        }
    }
}

/// A log named alone stands for its whole chain.
fn with_files_before(files: Vec<PathBuf>, alone: bool) -> Vec<PathBuf> {
    match &files[..] {
        [file] if !alone => {
            let mut all = files_before(file);
            all.extend(files);
            all
        }
        _ => files,
    }
}

fn export(files: &[PathBuf]) -> Result<(), Failure> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut whole = true;
    let mut head: Option<Hash> = None;
    for file in files {
        let failed = |e: std::io::Error| {
            let what = format!("cannot export {}: {e}", file.display());
            Failure::input(what, "check the path and its permissions")
        };
        let report = verify_file(file).map_err(failed)?;
        whole &= report.ok && head.is_none_or(|head| head == report.first_prev);
        head = Some(report.head);
        let log = BufReader::new(File::open(file).map_err(failed)?);
        ocsf::export(log, &mut out).map_err(failed)?;
    }
    out.flush().map_err(|e| Failure::input(format!("cannot write: {e}"), "free some space"))?;
    if whole {
        return Ok(());
    }
    Err(Failure::check("the log's chain is broken", "see what `turnstile audit verify` says of it"))
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
