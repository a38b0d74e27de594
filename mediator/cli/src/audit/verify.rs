//! `turnstile audit verify`: walks the chain and says where it breaks.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;
use serde_json::Value;

use super::chain::{self, BadLine, Hash, MAX_LINE};
use super::file::Torn;

/// Problems after which a report stops listing (it still counts).
const LISTED: usize = 20;

/// What the log of a file looks like.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether the chain holds.
    pub ok: bool,
    /// Lines read.
    pub lines: u64,
    /// Good records among them.
    pub records: u64,
    /// Sequence number of the first record, 0 if there is none.
    pub first_seq: u64,
    /// Sequence number of the last record.
    pub last_seq: u64,
    /// `prev` of the first record: the head of the file that this one continues.
    pub first_prev: Hash,
    /// Hash of the last record. Compare it with one kept elsewhere to notice a log cut short.
    pub head: Hash,
    /// What is wrong, first twenty.
    pub problems: Vec<Problem>,
    /// How many things are wrong.
    pub problem_count: u64,
    /// What is worth knowing and not wrong.
    pub notes: Vec<Problem>,
    #[serde(skip)]
    pub(super) torn: Option<Torn>,
    #[serde(skip)]
    pub(super) open_line: bool,
    /// Time of the first record.
    #[serde(skip)]
    pub(super) begun: Option<SystemTime>,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Line, from 1.
    pub line: u64,
    /// What about it.
    pub what: String,
    /// Whether it is an unfinished end of the file, which the daemon mends when it opens the log.
    #[serde(skip)]
    pub torn: bool,
}

/// The full files beside a log, which it continues, oldest first.
#[must_use]
pub fn files_before(path: &Path) -> Vec<PathBuf> {
    super::file::rotated_files(path)
}

/// Checks the log in a file.
pub fn verify_file(path: &Path) -> io::Result<Report> {
    verify(BufReader::with_capacity(1 << 16, File::open(path)?))
}

/// Checks a log. Reads it as a stream, a bounded line at a time.
pub fn verify(mut input: impl BufRead) -> io::Result<Report> {
    let mut walk = Walk::default();
    let mut line = Vec::with_capacity(1024);
    loop {
        line.clear();
        let n = (&mut input).take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line)?;
        if n == 0 {
            break;
        }
        let whole = line.last() == Some(&b'\n');
        if whole {
            line.pop();
        }
        walk.lines += 1;
        if whole {
            walk.line(&line);
        } else if n > MAX_LINE {
            walk.bad(&line, format!("is longer than {MAX_LINE} bytes"), true);
            walk.skip_rest(&mut input)?;
        } else {
            walk.last_line(&line);
        }
    }
    Ok(walk.finish())
}

/// Lines that are no records, waiting for the `recovered` record that accounts for them.
struct Pending {
    line: u64,
    what: String,
    torn: Torn,
    /// Every line of it looks torn; none ends with a hash.
    looks_torn: bool,
}

#[derive(Default)]
struct Walk {
    lines: u64,
    records: u64,
    first: Option<(u64, Hash)>,
    begun: Option<SystemTime>,
    seq: u64,
    head: Hash,
    last_event: String,
    pending: Option<Pending>,
    unfinished: bool,
    open_line: bool,
    problems: Vec<Problem>,
    problem_count: u64,
    notes: Vec<Problem>,
}

impl Walk {
    fn line(&mut self, line: &[u8]) {
        match chain::open(line) {
            Ok((hash, value)) => self.record(hash, &value),
            Err(bad) => self.bad(line, bad.to_string(), matches!(bad, BadLine::NotARecord)),
        }
    }

    /// The bytes after the last newline.
    fn last_line(&mut self, line: &[u8]) {
        match chain::open(line) {
            Ok((hash, value)) => {
                self.record(hash, &value);
                self.open_line = true;
                self.notes.push(Problem {
                    line: self.lines,
                    what: "lacks its newline; the daemon adds it when it next opens the log".into(),
                    torn: false,
                });
            }
            Err(bad) => {
                self.unfinished = true;
                self.bad(line, bad.to_string(), matches!(bad, BadLine::NotARecord));
            }
        }
    }

    fn bad(&mut self, line: &[u8], what: String, looks_torn: bool) {
        match &mut self.pending {
            Some(pending) => {
                pending.torn.add(b"\n");
                pending.torn.add(line);
                pending.looks_torn &= looks_torn;
            }
            None => {
                let mut torn = Torn::default();
                torn.add(line);
                self.pending = Some(Pending { line: self.lines, what, torn, looks_torn });
            }
        }
    }

    fn skip_rest(&mut self, input: &mut impl BufRead) -> io::Result<()> {
        loop {
            let part = input.fill_buf()?;
            if part.is_empty() {
                self.unfinished = true;
                return Ok(());
            }
            let end = part.iter().position(|&b| b == b'\n');
            let n = end.unwrap_or(part.len());
            if let Some(pending) = &mut self.pending {
                pending.torn.add(&part[..n]);
            }
            match end {
                Some(n) => {
                    input.consume(n + 1);
                    return Ok(());
                }
                None => input.consume(n),
            }
        }
    }

    fn record(&mut self, hash: Hash, value: &Value) {
        let event = value["event"].as_str().unwrap_or_default();
        if let Some(pending) = self.pending.take() {
            let torn = Hash::finish(pending.torn.hasher.clone()).to_string();
            if event == "recovered" && pending.looks_torn && value["torn_sha256"] == torn.as_str() {
                let bytes = pending.torn.bytes;
                self.notes.push(Problem {
                    line: pending.line,
                    what: format!(
                        "is {bytes} bytes of a record that was never finished (a crash or a full \
                         disk); the next record accounts for them"
                    ),
                    torn: false,
                });
            } else {
                self.report(pending.line, pending.what, false);
                // Whatever stood there had a number and a hash; both are unknown now, so the chain
                // is taken up again at this line.
                self.resume(value);
            }
        }
        let seq = value["seq"].as_u64().unwrap_or(0);
        let prev = value["prev"].as_str().and_then(|p| Hash::parse(p.as_bytes()));
        self.check_place(event, seq, prev);
        if self.first.is_none() {
            self.first = Some((seq, prev.unwrap_or_default()));
        }
        if self.begun.is_none() {
            let time = value["time"].as_str().unwrap_or_default();
            self.begun = humantime::parse_rfc3339(time).ok();
        }
        if event == "resumed" {
            let what =
                "says that the log's file was missing or empty at this start: records may be \
                        gone; compare the head that was kept"
                    .into();
            self.notes.push(Problem { line: self.lines, what, torn: false });
        }
        self.records += 1;
        self.seq = seq;
        self.head = hash;
        self.last_event.clear();
        self.last_event.push_str(event);
    }

    fn resume(&mut self, value: &Value) {
        if let (Some(seq), Some(prev)) = (value["seq"].as_u64(), value["prev"].as_str()) {
            self.seq = seq.saturating_sub(1);
            self.head = Hash::parse(prev.as_bytes()).unwrap_or_default();
            self.first.get_or_insert((seq, self.head));
        }
    }

    fn check_place(&mut self, event: &str, seq: u64, prev: Option<Hash>) {
        let line = self.lines;
        if self.first.is_none() {
            if event != "opened" {
                self.report(
                    line,
                    "is first but no `opened` record: lines before it are gone".into(),
                    false,
                );
            } else if seq == 1 && prev != Some(Hash::default()) {
                self.report(line, "has number 1 but continues another record".into(), false);
            } else if seq != 1 {
                let what =
                    format!("continues another file: record {} came before", seq.wrapping_sub(1));
                self.notes.push(Problem { line, what, torn: false });
            }
            return;
        }
        let expected = self.seq + 1;
        if seq != expected {
            let what = if seq > expected {
                format!(
                    "is record {seq}, expected {expected}: {} missing before it",
                    seq - expected
                )
            } else {
                format!("is record {seq}, expected {expected}: repeated or out of order")
            };
            self.report(line, what, false);
        } else if prev != Some(self.head) {
            let what =
                format!("does not continue the line before it (whose hash is {})", self.head);
            self.report(line, what, false);
        }
    }

    fn report(&mut self, line: u64, what: String, torn: bool) {
        self.problem_count += 1;
        if self.problems.len() < LISTED {
            self.problems.push(Problem { line, what, torn });
        }
    }

    fn finish(mut self) -> Report {
        let mut torn = None;
        if let Some(pending) = self.pending.take() {
            let unfinished = self.unfinished && pending.looks_torn;
            let what = if unfinished {
                "is not finished: a crash, or the end was cut off; the daemon records it when it \
                 next opens the log"
                    .into()
            } else {
                pending.what
            };
            self.report(pending.line, what, unfinished);
            torn = unfinished.then_some(pending.torn);
        } else if self.records > 0 && !matches!(self.last_event.as_str(), "closed" | "rotated") {
            self.notes.push(Problem {
                line: self.lines,
                what: "is not a `closed` record: the daemon runs, was killed, or the end was cut \
                       off; compare the head"
                    .into(),
                torn: false,
            });
        }
        let (first_seq, first_prev) = self.first.unwrap_or_default();
        Report {
            ok: self.problem_count == 0,
            lines: self.lines,
            records: self.records,
            first_seq,
            last_seq: self.seq,
            first_prev,
            head: self.head,
            problems: self.problems,
            problem_count: self.problem_count,
            notes: self.notes,
            torn,
            open_line: self.open_line,
            begun: self.begun,
        }
    }
}
