//! The senders' end: rate limits, counters, never a wait.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use crossbeam_channel::Sender;
use turnstile_policy::{Rate, TokenBucket};

use super::event::{Event, LogEvent};
use super::tap::{SubscribeError, Subscription};
use super::writer::{Entry, Message, Shared};

/// Sends records. Cheap to clone; a handle without a log drops everything.
#[derive(Clone, Debug, Default)]
pub struct AuditHandle(Option<(Sender<Message>, Arc<Shared>)>);

impl AuditHandle {
    pub(super) fn new(sender: Sender<Message>, shared: Arc<Shared>) -> AuditHandle {
        AuditHandle(Some((sender, shared)))
    }
    /// A handle to no log at all.
    #[must_use]
    pub fn none() -> AuditHandle {
        AuditHandle(None)
    }
    /// Whether there is a log.
    #[must_use]
    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }
    /// Whether the disk failed under a policy that then refuses everything.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.0.as_ref().is_some_and(|(_, shared)| shared.stopped.load(Ordering::Acquire))
    }
    /// Sends a record of the daemon's own. Never blocks: a full channel counts instead.
    pub fn record(&self, tenant: Option<&Arc<str>>, event: Event) {
        if let Some((sender, shared)) = &self.0 {
            let entry = Entry { time: SystemTime::now(), tenant: tenant.cloned(), event };
            if sender.try_send(Message::Entry(entry)).is_err() {
                shared.overflow.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    /// Listens to the log: every line from the next one on, as it lies in the file, once it is there.
    /// At most `waiting` lines (1 to [`MAX_WAITING`](super::MAX_WAITING)) wait for the subscriber; it
    /// is told how many more there were.
    ///
    /// # Errors
    /// When there is no log, or too many listen already.
    pub fn subscribe(&self, waiting: usize) -> Result<Subscription, SubscribeError> {
        let (_, shared) = self.0.as_ref().ok_or(SubscribeError::NoLog)?;
        shared.tap.subscribe(waiting)
    }
    /// A sender for what a tenant causes.
    #[must_use]
    pub fn tenant(&self, name: Arc<str>, rate: Rate) -> TenantAudit {
        TenantAudit { handle: self.clone(), name, bucket: TokenBucket::new(rate, 0), dropped: 0 }
    }
}

/// Sends what one tenant causes, at the tenant's rate.
#[derive(Debug)]
pub struct TenantAudit {
    handle: AuditHandle,
    name: Arc<str>,
    bucket: TokenBucket,
    dropped: u64,
}

impl TenantAudit {
    /// Sends a record, or counts it if the tenant is over its rate. `event` is only made if it will
    /// be sent. `now_ns` is any monotonic clock that begins near 0.
    pub fn record(&mut self, now_ns: u64, event: impl FnOnce() -> Event) {
        if !self.handle.is_some() {
            return;
        }
        if self.bucket.take(1, now_ns).is_err() {
            self.dropped += 1;
            return;
        }
        self.flush();
        self.handle.record(Some(&self.name), event());
    }

    /// Sends the count of dropped records, if there are any. Called with the next record that
    /// passes, from a timer, and when the tenant goes.
    pub fn flush(&mut self) {
        if self.dropped > 0 {
            let count = std::mem::take(&mut self.dropped);
            self.handle.record(Some(&self.name), LogEvent::Dropped { count }.into());
        }
    }

    /// Records dropped and not yet reported.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
    /// The tenant's name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }
}
