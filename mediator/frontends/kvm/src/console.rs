//! What a guest prints: kept within bounds, passed on at a bounded rate.
//!
//! A guest can print without end. The console keeps the last bytes only, cuts lines, and hands on at
//! most so many lines a second; control characters are shown, not passed, so that a guest cannot
//! steer the operator's terminal.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of output that are kept.
pub const KEPT_BYTES: usize = 16 * 1024;
/// Longest line that is handed on, in bytes of the guest's output; longer ones are broken.
pub const LINE_BYTES: usize = 512;
/// Lines handed on in a burst.
pub const BURST_LINES: u32 = 200;
/// Lines handed on a second in the long run.
pub const LINES_PER_SECOND: u32 = 50;

/// A line of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// The text, without its newline; what is not printable is escaped.
    pub text: &'a str,
    /// Lines that were dropped before this one because the guest prints too fast.
    pub dropped: u64,
}

/// Takes lines of output. Called on a vCPU's thread, so it should not take long.
pub type OnLine = Box<dyn FnMut(Line<'_>) + Send>;

/// A token bucket over lines.
#[derive(Debug)]
struct Bucket {
    lines: u32,
    last: Instant,
}

impl Bucket {
    fn take(&mut self, now: Instant) -> bool {
        let period = Duration::from_secs(1) / LINES_PER_SECOND;
        let earned = now.saturating_duration_since(self.last).as_nanos() / period.as_nanos();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        if earned > 0 {
            self.lines = self.lines.saturating_add(earned).min(BURST_LINES);
            // Keep the fraction of a period that has not earned a line yet.
            self.last = if self.lines == BURST_LINES { now } else { self.last + period * earned };
        }
        let some = self.lines > 0;
        self.lines -= u32::from(some);
        some
    }
}

struct State {
    kept: VecDeque<u8>,
    line: Vec<u8>,
    on_line: Option<OnLine>,
    bucket: Bucket,
    dropped: u64,
    total_bytes: u64,
}

impl State {
    fn byte(&mut self, byte: u8, now: impl Fn() -> Instant) {
        self.total_bytes += 1;
        if self.kept.len() == KEPT_BYTES {
            self.kept.pop_front();
        }
        self.kept.push_back(byte);
        match byte {
            b'\n' => self.finish(now()),
            b'\r' => {}
            _ => {
                self.line.push(byte);
                if self.line.len() == LINE_BYTES {
                    self.finish(now());
                }
            }
        }
    }

    fn finish(&mut self, now: Instant) {
        let line = std::mem::take(&mut self.line);
        let Some(on_line) = &mut self.on_line else { return };
        if !self.bucket.take(now) {
            self.dropped += 1;
            return;
        }
        let dropped = std::mem::take(&mut self.dropped);
        on_line(Line { text: &printable(&line), dropped });
    }
}

/// The text of bytes that a guest printed, newlines and tabs kept, other control characters escaped.
fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for c in String::from_utf8_lossy(bytes).chars() {
        match c {
            '\n' | '\t' => text.push(c),
            c if c.is_control() => text.extend(c.escape_default()),
            c => text.push(c),
        }
    }
    text
}

/// The console of one VM. Clones share it.
#[derive(Clone)]
pub(crate) struct Console(Arc<Mutex<State>>);

impl Console {
    pub(crate) fn new(on_line: Option<OnLine>) -> Console {
        Console(Arc::new(Mutex::new(State {
            kept: VecDeque::with_capacity(KEPT_BYTES),
            line: Vec::with_capacity(LINE_BYTES),
            on_line,
            bucket: Bucket { lines: BURST_LINES, last: Instant::now() },
            dropped: 0,
            total_bytes: 0,
        })))
    }

    /// The last output, at most [`KEPT_BYTES`] of it.
    pub(crate) fn tail(&self) -> String {
        let mut state = self.lock();
        printable(state.kept.make_contiguous()).replace('\r', "")
    }

    /// Bytes printed in all.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.lock().total_bytes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A callback that panics leaves the state whole; the next line tries again.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.lock();
        bytes.iter().for_each(|&byte| state.byte(byte, Instant::now));
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").field("total_bytes", &self.total_bytes()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn console() -> (Console, mpsc::Receiver<(String, u64)>) {
        let (send, lines) = mpsc::channel();
        let on_line = move |line: Line<'_>| {
            let _ = send.send((line.text.to_owned(), line.dropped));
        };
        (Console::new(Some(Box::new(on_line))), lines)
    }

    #[test]
    fn lines_arrive_without_control_characters() {
        let (mut console, lines) = console();
        console.write_all(b"one\r\ntwo \x1b[2J\x07\xff\n").unwrap();
        assert_eq!(lines.try_recv().unwrap(), ("one".into(), 0));
        assert_eq!(lines.try_recv().unwrap(), ("two \\u{1b}[2J\\u{7}\u{fffd}".into(), 0));
        assert!(lines.try_recv().is_err());
        console.write_all(b"three").unwrap();
        assert!(lines.try_recv().is_err(), "not a line yet");
        assert!(console.tail().ends_with("\nthree"));
    }

    #[test]
    fn a_flood_is_cut_and_counted() {
        let (mut console, lines) = console();
        let begun = Instant::now();
        for i in 0..20_000 {
            console.write_all(format!("{i}\n").as_bytes()).unwrap();
        }
        let seconds = begun.elapsed().as_secs_f64();
        assert!(console.tail().len() <= KEPT_BYTES);
        assert!(console.tail().ends_with("19999\n"));
        console.0.lock().unwrap().bucket.lines = 1;
        console.write_all(b"after\n").unwrap();
        let all: Vec<_> = lines.try_iter().collect();
        assert_eq!(all.last().unwrap().0, "after");
        // Every line either arrived or is counted by one that did.
        let dropped: u64 = all.iter().map(|(_, dropped)| dropped).sum();
        assert_eq!(all.len() as u64 + dropped, 20_001);
        let allowed = f64::from(BURST_LINES) + f64::from(LINES_PER_SECOND) * seconds + 2.0;
        assert!(all.len() as f64 <= allowed, "{} lines in {seconds} s", all.len());
    }

    #[test]
    fn a_line_without_end_is_broken() {
        let (mut console, lines) = console();
        console.write_all(&[b'x'; 3 * LINE_BYTES]).unwrap();
        assert_eq!(lines.try_iter().count(), 3);
        assert_eq!(console.0.lock().unwrap().line.len(), 0);
    }

    #[test]
    fn the_bucket_earns_at_its_rate() {
        let start = Instant::now();
        let mut bucket = Bucket { lines: 0, last: start };
        assert!(!bucket.take(start));
        let after = |ms| start + Duration::from_millis(ms);
        assert!(!bucket.take(after(19)));
        assert!(bucket.take(after(20)));
        assert!(!bucket.take(after(39)), "a fraction is not a line");
        assert!(bucket.take(after(40)));
        assert!(bucket.take(after(1_000_000)));
        assert_eq!(bucket.lines, BURST_LINES - 1);
    }
}
