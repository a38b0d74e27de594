//! The writer thread: takes records from a bounded channel and puts them on disk.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use turnstile_policy::{AuditPolicy, Fsync, OnFull};

use super::chain::Hash;
use super::event::{Event, LogEvent};
use super::file::{LogFile, Rotation};
use super::sender::AuditHandle;
use super::tap::Tap;

/// Why the log cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file cannot be opened, read or written.
    #[error("audit log {}: {source}; check the path, its permissions and the free space", path.display())]
    Open {
        /// The log.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Something that is not a file lies there.
    #[error("audit log {}: not a regular file; name a file, or a path that does not exist yet", path.display())]
    NotAFile {
        /// The log.
        path: PathBuf,
    },
    /// Another daemon writes to it.
    #[error("audit log {}: another turnstile writes to it; give each daemon a log of its own", path.display())]
    InUse {
        /// The log.
        path: PathBuf,
    },
    /// The chain is broken; continuing it would hide that.
    #[error("audit log {}: line {line} {what}; move the file away and keep it as evidence, then start again", path.display())]
    Damaged {
        /// The log.
        path: PathBuf,
        /// First bad line, from 1.
        line: u64,
        /// What is wrong with it.
        what: String,
    },
    /// The thread could not be started.
    #[error("cannot start the audit thread: {0}; raise the limit on processes (ulimit -u)")]
    Thread(io::Error),
}

/// How the log behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// What to do when the disk takes no more records.
    pub on_full: OnFull,
    /// When records are forced to the disk. `Always` means after every batch that was waiting;
    /// commands do not wait for it.
    pub fsync: Fsync,
    /// Records that may wait for the disk.
    pub channel: usize,
    /// Size in bytes after which a new file is begun; `None`: never.
    pub rotate_bytes: Option<u64>,
    /// Age after which a new file is begun; `None`: never.
    pub rotate_after: Option<Duration>,
    /// Full files to keep.
    pub keep: u32,
}

impl Options {
    /// What the policy says.
    #[must_use]
    pub fn of(policy: &AuditPolicy) -> Options {
        let AuditPolicy { path: _, fsync, rotate_bytes, rotate_after_ns, keep, on_full, rate: _ } =
            policy;
        Options {
            on_full: *on_full,
            fsync: *fsync,
            channel: 4096,
            rotate_bytes: *rotate_bytes,
            rotate_after: rotate_after_ns.map(Duration::from_nanos),
            keep: *keep,
        }
    }
}

/// Called with `true` when the disk failed and the policy is to stop, with `false` when it works
/// again. Runs on the writer's thread and must not block.
pub type OnStop = Box<dyn Fn(bool) + Send>;

/// A record on its way to the disk.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) time: SystemTime,
    pub(super) tenant: Option<Arc<str>>,
    pub(super) event: Event,
}

/// What senders and the writer share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Records that found the channel full.
    pub(super) overflow: AtomicU64,
    /// The disk fails and the policy is to stop.
    pub(super) stopped: AtomicBool,
    /// Who watches.
    pub(super) tap: Arc<Tap>,
}

/// How a run of the log ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Records written in this run.
    pub records: u64,
    /// Records that never got to the disk (overflow or disk full), rate-limited ones not included.
    pub lost: u64,
    /// Hash of the last line: keep it elsewhere to notice a log cut short.
    pub head: Hash,
    /// Why the disk refused, the last time it did.
    pub disk_error: Option<String>,
}

/// An open log. Dropping it without [`close`](Self::close) leaves no `closed` record.
#[derive(Debug)]
pub struct AuditLog {
    sender: Sender<Message>,
    shared: Arc<Shared>,
    thread: JoinHandle<Summary>,
}

#[derive(Debug)]
pub(super) enum Message {
    Entry(Entry),
    Close,
}

impl AuditLog {
    /// Opens or continues the log at `path`.
    pub fn open(path: &Path, options: Options, on_stop: OnStop) -> Result<AuditLog, AuditError> {
        let bytes = options.rotate_bytes.unwrap_or(u64::MAX);
        let rotation = Rotation { bytes, after: options.rotate_after, keep: options.keep as usize };
        let file = LogFile::open(path, rotation)?;
        AuditLog::start(file, options, on_stop)
    }

    pub(super) fn start(
        file: LogFile,
        options: Options,
        on_stop: OnStop,
    ) -> Result<AuditLog, AuditError> {
        let (sender, receiver) = bounded(options.channel);
        let shared = Arc::new(Shared { tap: file.tap().clone(), ..Shared::default() });
        let writer = Writer {
            file,
            on_full: options.on_full,
            fsync: options.fsync,
            synced: Instant::now(),
            dirty: true,
            shared: shared.clone(),
            on_stop,
            failing: false,
            unwritten: 0,
            lost: 0,
            disk_error: None,
        };
        let thread = std::thread::Builder::new()
            .name("audit".into())
            .spawn(move || writer.run(&receiver))
            .map_err(AuditError::Thread)?;
        Ok(AuditLog { sender, shared, thread })
    }

    /// A handle for senders.
    #[must_use]
    pub fn handle(&self) -> AuditHandle {
        AuditHandle::new(self.sender.clone(), self.shared.clone())
    }

    /// Writes what waits and the `closed` record, and forces it to the disk.
    #[must_use]
    pub fn close(self) -> Summary {
        // The writer only ends on this message or when every sender is gone.
        let _ = self.sender.send(Message::Close);
        drop(self.sender);
        self.thread.join().unwrap_or_else(|_| Summary {
            records: 0,
            lost: 0,
            head: Hash::default(),
            disk_error: Some("the audit thread panicked".into()),
        })
    }
}

struct Writer {
    file: LogFile,
    on_full: OnFull,
    fsync: Fsync,
    synced: Instant,
    /// Something was written since the last sync.
    dirty: bool,
    shared: Arc<Shared>,
    on_stop: OnStop,
    /// The last attempt to write or sync failed.
    failing: bool,
    /// Records the disk refused since the last one it took.
    unwritten: u64,
    /// Records lost in all.
    lost: u64,
    disk_error: Option<String>,
}

/// How often a failing disk is tried again when nothing else is written.
const RETRY: Duration = Duration::from_millis(200);

impl Writer {
    fn run(mut self, receiver: &Receiver<Message>) -> Summary {
        loop {
            match self.next(receiver) {
                Ok(Message::Entry(entry)) => {
                    self.note_overflow();
                    self.write(entry.time, entry.tenant.as_deref(), &entry.event);
                    if let Err(error) = self.file.rotate_if_due(entry.time) {
                        self.failed(&error);
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.idle(),
                Ok(Message::Close) | Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.note_overflow();
        let records = self.file.records() + 1;
        self.write(SystemTime::now(), None, &LogEvent::Closed { records }.into());
        self.sync();
        self.shared.tap.close();
        Summary {
            records: self.file.records(),
            lost: self.lost,
            head: self.file.chain().head,
            disk_error: self.disk_error,
        }
    }

    /// The next record, or a timeout when something is due before there is one.
    fn next(&self, receiver: &Receiver<Message>) -> Result<Message, RecvTimeoutError> {
        let sync = match self.fsync {
            Fsync::Never => None,
            Fsync::Always => Some(Duration::ZERO),
            Fsync::EveryNs(ns) => Some(Duration::from_nanos(ns)),
        };
        let sync_due = sync.filter(|_| self.dirty).map(|every| self.synced + every);
        if sync_due.is_some_and(|due| self.fsync != Fsync::Always && due <= Instant::now()) {
            return Err(RecvTimeoutError::Timeout);
        }
        let retry_due = self.failing.then(|| Instant::now() + RETRY);
        match [sync_due, retry_due].into_iter().flatten().min() {
            Some(due) => receiver.recv_deadline(due),
            None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    fn idle(&mut self) {
        self.mend();
        if self.dirty && self.fsync != Fsync::Never {
            self.sync();
        }
    }

    fn sync(&mut self) {
        self.synced = Instant::now();
        match self.file.sync() {
            Ok(()) => self.dirty = false,
            Err(error) => self.failed(&error),
        }
    }

    fn note_overflow(&mut self) {
        let count = self.shared.overflow.swap(0, Ordering::Relaxed);
        if count > 0 {
            self.lost += count;
            self.write(SystemTime::now(), None, &LogEvent::Overflow { count }.into());
        }
    }

    fn write(&mut self, time: SystemTime, tenant: Option<&str>, event: &Event) {
        let result = if self.mend() {
            self.file.append(time, tenant, event).map_err(|error| self.failed(&error))
        } else {
            Err(())
        };
        if result.is_err() {
            self.unwritten += 1;
            self.lost += 1;
        }
        self.dirty = true;
    }

    /// After a failure, tries whether the disk works again. `true`: it does, as far as is known.
    fn mend(&mut self) -> bool {
        if !self.failing {
            return true;
        }
        let tried = if self.unwritten > 0 {
            let lost = LogEvent::Lost { count: self.unwritten }.into();
            self.file.append(SystemTime::now(), None, &lost)
        } else {
            self.file.sync()
        };
        if let Err(error) = tried {
            self.failed(&error);
            return false;
        }
        self.unwritten = 0;
        self.failing = false;
        tracing::warn!("the audit log can be written again");
        if self.shared.stopped.swap(false, Ordering::AcqRel) {
            (self.on_stop)(false);
        }
        true
    }

    fn failed(&mut self, error: &io::Error) {
        if !self.failing {
            tracing::error!(%error, "the audit log cannot be written");
        }
        self.failing = true;
        self.disk_error = Some(error.to_string());
        if self.on_full == OnFull::Stop && !self.shared.stopped.swap(true, Ordering::AcqRel) {
            (self.on_stop)(true);
        }
    }
}
