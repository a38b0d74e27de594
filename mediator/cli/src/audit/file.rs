//! The log's file: appends sealed lines, survives partial writes, rotates.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};

use super::chain::{Chain, Hash};
use super::event::{Event, LogEvent};
use super::tap::Tap;
use super::verify;
use super::writer::AuditError;

/// Bytes on disk after the last good line that are not part of a record.
#[derive(Clone, Debug, Default)]
pub(super) struct Torn {
    pub(super) hasher: Sha256,
    pub(super) bytes: u64,
}

impl Torn {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
    }
}

/// Where the bytes go. A file, except in tests that need a disk which fills up half-way.
pub(super) trait Sink: Send {
    fn append(&mut self, bytes: &[u8]) -> io::Result<usize>;
    fn sync(&mut self) -> io::Result<()>;
}

/// A log's file with the writer's lock. The lock is let go by name: a child that is being forked holds
/// a copy of the descriptor for a moment, and closing ours alone would leave the lock to it.
struct Locked(File);

impl Sink for Locked {
    fn append(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }
    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

/// When a file is closed, and how many old ones stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rotation {
    pub(super) bytes: u64,
    pub(super) after: Option<Duration>,
    pub(super) keep: usize,
}

pub(super) struct LogFile {
    path: PathBuf,
    sink: Box<dyn Sink>,
    rotation: Rotation,
    chain: Chain,
    torn: Option<Torn>,
    /// The last record is whole but for its newline.
    open_line: bool,
    /// Records before this run.
    before: u64,
    bytes: u64,
    /// Time of its first record.
    begun: SystemTime,
    line: Vec<u8>,
    /// Rotated files, oldest first.
    rotated: Vec<PathBuf>,
    /// Who watches.
    tap: Arc<Tap>,
}

impl LogFile {
    /// Opens or creates a log and checks what is there. Writes the `opened` record, preceded by a
    /// `recovered` one if the last line is torn.
    pub(super) fn open(path: &Path, rotation: Rotation) -> Result<LogFile, AuditError> {
        let file = open_locked(path)?;
        let report = verify::verify_file(path)
            .map_err(|source| AuditError::Open { path: path.into(), source })?;
        if let Some(problem) = report.problems.iter().find(|p| !p.torn) {
            return Err(AuditError::Damaged {
                path: path.into(),
                line: problem.line,
                what: problem.what.clone(),
            });
        }
        let failed = |source| AuditError::Open { path: path.into(), source };
        let metadata = file.0.metadata().map_err(failed)?;
        let mut rotated = rotated_files(path);
        // A crash in the middle of a rotation leaves the file under both names.
        rotated.retain(|other| {
            let same = fs::metadata(other).is_ok_and(|other| other.ino() == metadata.ino());
            !(same && fs::remove_file(other).is_ok())
        });
        let mut chain = Chain { seq: report.last_seq, head: report.head };
        let mut resumes = None;
        if let (0, Some(last)) = (report.records, rotated.last()) {
            chain = end_of(last)?;
            resumes = Some(name(last));
        }
        let mut log = LogFile::over(path, Box::new(file), rotation, chain);
        log.torn = report.torn;
        log.open_line = report.open_line;
        log.bytes = metadata.len();
        log.begun = report.begun.unwrap_or(log.begun);
        log.rotated = rotated;
        log.append(SystemTime::now(), None, &opened(resumes.clone())).map_err(failed)?;
        if let Some(after) = resumes {
            let resumed = Event::Log(LogEvent::Resumed { after });
            log.append(SystemTime::now(), None, &resumed).map_err(failed)?;
        }
        Ok(log)
    }

    /// A log over any sink, standing at `chain`.
    pub(super) fn over(
        path: &Path,
        sink: Box<dyn Sink>,
        rotation: Rotation,
        chain: Chain,
    ) -> LogFile {
        LogFile {
            path: path.into(),
            sink,
            rotation,
            chain,
            torn: None,
            open_line: false,
            before: chain.seq,
            bytes: 0,
            begun: SystemTime::now(),
            line: Vec::with_capacity(1024),
            rotated: Vec::new(),
            tap: Arc::default(),
        }
    }

    /// What shows each line to who watches.
    pub(super) fn tap(&self) -> &Arc<Tap> {
        &self.tap
    }

    /// Where the chain stands.
    pub(super) fn chain(&self) -> Chain {
        self.chain
    }

    /// Records written since it was opened.
    pub(super) fn records(&self) -> u64 {
        self.chain.seq - self.before
    }

    /// Writes one record, after mending what a failed write left behind.
    pub(super) fn append(
        &mut self,
        time: SystemTime,
        tenant: Option<&str>,
        event: &Event,
    ) -> io::Result<()> {
        if self.open_line {
            self.sink.append(b"\n").and_then(|n| if n == 1 { Ok(()) } else { Err(no_room()) })?;
            self.open_line = false;
        }
        if let Some(torn) = &self.torn {
            let recovered = Event::Log(LogEvent::Recovered {
                torn_bytes: torn.bytes,
                torn_sha256: Hash::finish(torn.hasher.clone()).to_string(),
            });
            self.line.clear();
            self.line.push(b'\n');
            let next = self.chain.seal(time, None, &recovered, &mut self.line);
            self.write_line(next)?;
        }
        self.line.clear();
        let next = self.chain.seal(time, tenant, event, &mut self.line);
        self.write_line(next)
    }

    /// Puts `self.line` on disk and moves the chain, or notes what part of it got there.
    fn write_line(&mut self, next: Chain) -> io::Result<()> {
        let mut done = 0;
        while done < self.line.len() {
            let result = match self.sink.append(&self.line[done..]) {
                Ok(0) => Err(no_room()),
                other => other,
            };
            match result {
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) if done + 1 == self.line.len() => {
                    // All but the newline: the record stands, and the next write ends its line.
                    self.open_line = true;
                    break;
                }
                Err(e) => {
                    if done > 0 {
                        self.torn.get_or_insert_default().add(&self.line[..done]);
                        self.bytes += done as u64;
                    }
                    return Err(e);
                }
            }
        }
        self.bytes += done as u64;
        self.torn = None;
        self.chain = next;
        self.tap.show(&self.line);
        Ok(())
    }

    /// Starts a new file if this one is full or old.
    pub(super) fn rotate_if_due(&mut self, now: SystemTime) -> io::Result<()> {
        let age = now.duration_since(self.begun).unwrap_or_default();
        let old = self.rotation.after.is_some_and(|after| age >= after);
        if self.bytes < self.rotation.bytes && !old {
            return Ok(());
        }
        let result = self.rotate(now);
        if result.is_err() {
            // Not again for every record: after another file's worth.
            (self.bytes, self.begun) = (0, now);
        }
        result
    }

    /// The new file is whole before it takes the name, and the name is never without a file: whenever
    /// the machine dies, the chain can be followed and continued.
    fn rotate(&mut self, now: SystemTime) -> io::Result<()> {
        let to = rotated_name(&self.path, self.chain.seq + 1);
        // The new file is opened first: if that fails, this one just goes on.
        let mut fresh = self.path.as_os_str().to_owned();
        fresh.push(".next");
        let fresh = PathBuf::from(fresh);
        let _ = fs::remove_file(&fresh);
        let mut next = open_locked(&fresh).map_err(io::Error::other)?;
        self.append(now, None, &Event::Log(LogEvent::Rotated { to: name(&to) }))?;
        self.sink.sync()?;
        self.line.clear();
        let chain = self.chain.seal(now, None, &opened(Some(name(&to))), &mut self.line);
        next.0.write_all(&self.line)?;
        next.sync()?;
        fs::hard_link(&self.path, &to)?;
        fs::rename(&fresh, &self.path).inspect_err(|_| {
            let _ = fs::remove_file(&to);
        })?;
        self.sink = Box::new(next);
        self.chain = chain;
        (self.bytes, self.begun) = (self.line.len() as u64, now);
        self.tap.show(&self.line);
        self.rotated.push(to);
        while self.rotation.keep != 0 && self.rotated.len() > self.rotation.keep {
            let oldest = self.rotated.remove(0);
            let _ = fs::remove_file(oldest);
        }
        Ok(())
    }

    /// Forces what was written to the disk.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.sink.sync()
    }
}

fn no_room() -> io::Error {
    io::ErrorKind::WriteZero.into()
}

fn opened(continues: Option<String>) -> Event {
    Event::Log(LogEvent::Opened { version: env!("CARGO_PKG_VERSION").into(), continues })
}

/// Opens for appending, readable by the owner alone, and takes the writer's lock.
fn open_locked(path: &Path) -> Result<Locked, AuditError> {
    let open = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    let file = open.map_err(|source| AuditError::Open { path: path.into(), source })?;
    let is_file = file.metadata().map(|m| m.is_file()).unwrap_or(false);
    if !is_file {
        return Err(AuditError::NotAFile { path: path.into() });
    }
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| AuditError::InUse { path: path.into() })?;
    Ok(Locked(file))
}

/// Where the chain stands at the end of a full file.
fn end_of(path: &Path) -> Result<Chain, AuditError> {
    let report = verify::verify_file(path)
        .map_err(|source| AuditError::Open { path: path.into(), source })?;
    match report.problems.into_iter().next() {
        None => Ok(Chain { seq: report.last_seq, head: report.head }),
        Some(verify::Problem { line, what, .. }) => {
            Err(AuditError::Damaged { path: path.into(), line, what })
        }
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// `FILE.<seq of its last record>`, zero-padded so that names sort by age.
fn rotated_name(path: &Path, last_seq: u64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{last_seq:012}"));
    name.into()
}

/// The rotated files beside a log, oldest first.
pub(super) fn rotated_files(path: &Path) -> Vec<PathBuf> {
    let directory = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    let mut prefix = path.file_name().unwrap_or_default().to_os_string();
    prefix.push(".");
    let prefix = prefix.to_string_lossy().into_owned();
    let mut files: Vec<PathBuf> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.strip_prefix(&prefix)
                .is_some_and(|n| n.len() == 12 && n.bytes().all(|b| b.is_ascii_digit()))
        })
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files
}
