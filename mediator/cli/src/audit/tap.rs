//! The tap: the log's lines for whoever watches while they are written.
//!
//! A subscriber gets each line exactly as it lies in the file, once it is there. It is never waited
//! for: what it does not take in time is counted, and the count says where its view has a gap.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc::error::{TryRecvError, TrySendError};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Subscribers at one time.
pub const MAX_SUBSCRIBERS: usize = 64;

/// Lines that wait for one subscriber, at most.
pub const MAX_WAITING: usize = 65_536;

/// Why nobody can listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// There is no log, or it is closed.
    #[error("no audit log is written; name one in audit.path of the policy, or with --audit")]
    NoLog,
    /// Too many listen already.
    #[error("{MAX_SUBSCRIBERS} subscribers listen to the audit log already; end one of them")]
    TooMany,
}

/// A watcher's end: lines of the log, oldest first, without their newlines.
#[derive(Debug)]
pub struct Subscription {
    lines: Receiver<Arc<str>>,
    dropped: Arc<AtomicU64>,
}

impl Subscription {
    /// The next line; `None` when the log is closed. Cancelling the future loses nothing.
    pub async fn next(&mut self) -> Option<Arc<str>> {
        self.lines.recv().await
    }

    /// The next line if one waits; `Ok(None)`: none at the moment.
    ///
    /// # Errors
    /// When the log is closed and everything of it was taken.
    pub fn try_next(&mut self) -> Result<Option<Arc<str>>, Closed> {
        match self.lines.try_recv() {
            Ok(line) => Ok(Some(line)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(Closed),
        }
    }

    /// Waits for the next line on a thread that is not a runtime's; `None` when the log is closed.
    pub fn blocking_next(&mut self) -> Option<Arc<str>> {
        self.lines.blocking_recv()
    }

    /// Lines that were written and did not fit, since this was last asked. The lines' own `seq` shows
    /// where they are missing.
    #[must_use]
    pub fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }
}

/// The log is closed; nothing more will come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the audit log is closed")]
pub struct Closed;

#[derive(Debug)]
struct Subscriber {
    lines: Sender<Arc<str>>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Subscribers {
    list: Vec<Subscriber>,
    closed: bool,
}

/// The writer's end.
#[derive(Debug, Default)]
pub(super) struct Tap {
    subscribers: Mutex<Subscribers>,
    /// How many there are; read for every line, so that a log nobody watches pays one load.
    count: AtomicUsize,
}

impl Tap {
    /// Lets someone listen from the next line on. At most `waiting` lines wait for it.
    pub(super) fn subscribe(&self, waiting: usize) -> Result<Subscription, SubscribeError> {
        let mut subscribers = self.lock();
        if subscribers.closed {
            return Err(SubscribeError::NoLog);
        }
        let subscribers = &mut subscribers.list;
        subscribers.retain(|s| !s.lines.is_closed());
        if subscribers.len() >= MAX_SUBSCRIBERS {
            return Err(SubscribeError::TooMany);
        }
        let (sender, lines) = channel(waiting.clamp(1, MAX_WAITING));
        let dropped = Arc::<AtomicU64>::default();
        subscribers.push(Subscriber { lines: sender, dropped: dropped.clone() });
        self.count.store(subscribers.len(), Ordering::Release);
        Ok(Subscription { lines, dropped })
    }

    /// Shows the lines that have just been written: one or more, each with its newline.
    pub(super) fn show(&self, lines: &[u8]) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let subscribers = &mut self.lock().list;
        for line in lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            // Every line is JSON that was made here.
            let line: Arc<str> = String::from_utf8_lossy(line).into();
            subscribers.retain(|subscriber| match subscriber.lines.try_send(line.clone()) {
                Ok(()) => true,
                Err(TrySendError::Full(_)) => {
                    subscriber.dropped.fetch_add(1, Ordering::Relaxed);
                    true
                }
                Err(TrySendError::Closed(_)) => false,
            });
        }
        self.count.store(subscribers.len(), Ordering::Release);
    }

    /// Lets go of everyone: what they have not taken they still may.
    pub(super) fn close(&self) {
        *self.lock() = Subscribers { list: Vec::new(), closed: true };
        self.count.store(0, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Subscribers> {
        // The list is whole between any two statements.
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
