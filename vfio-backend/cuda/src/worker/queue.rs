//! A queue: a stream, and what is under way in it, in order.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use turnstile_abi::Status;
use turnstile_abi::ring::Permit;

use crate::driver::{DriverError, Event, Gpu, Stream};

/// Events in stock; more are destroyed with the context.
const STOCK: usize = 2048;

/// Events not in use.
#[derive(Default)]
pub(crate) struct Events(Vec<Event>);

impl Events {
    fn take(&mut self, gpu: &Gpu) -> Result<Event, DriverError> {
        self.0.pop().map_or_else(|| gpu.event(), Ok)
    }
    fn give(&mut self, event: Event) {
        if self.0.len() < STOCK {
            self.0.push(event);
        }
    }
}

/// What an answer needs beyond the time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ending {
    /// The GPU time.
    Time,
    /// The clock.
    Clock,
    /// A number known before.
    Value(u64),
    /// The GPU time, unless the guard recorded a violation, which goes into this slot.
    Checked(u32),
}

/// Where a command's time begins.
enum Begin {
    /// At an event of its own: nothing was before it.
    Event(Event),
    /// Nothing was before it, and nobody looked.
    Unseen,
    /// Where the one before ends.
    Before,
}

/// One command under way.
struct Flight {
    permit: Permit,
    cookie: u64,
    begin: Begin,
    /// Its end. Without one it ends with the next that has one.
    end: Option<Event>,
    ending: Ending,
    limit: Option<Duration>,
}

/// A command that is over.
pub(crate) struct Landed {
    pub(crate) permit: Permit,
    pub(crate) cookie: u64,
    pub(crate) ending: Ending,
    pub(crate) busy_ns: u64,
    pub(crate) status: Status,
}

/// Commands that take no longer than this, in nanoseconds, may share an event at their end.
const SHORT_NS: u64 = 50_000;
/// Most commands that share one. A runaway among them is noticed only after the limits of all.
const SHARE: usize = 8;
/// Of the commands that find the stream idle, one in so many has an event at its beginning: events cost as much as a
/// short kernel. The others are taken to be like the last one measured, unless they took visibly longer.
const SAMPLE: u32 = 8;
/// What is visibly longer, by the host's clock.
const VISIBLE: Duration = Duration::from_micros(100);

/// The queue.
pub(crate) struct Queue {
    pub(crate) stream: Stream,
    flights: VecDeque<Flight>,
    /// Flights at the end that have no event after them yet.
    unsealed: usize,
    /// Flights at the front that are over, and the time of each.
    landed: (usize, u64),
    /// Where the first of `flights` begins, if it begins where the one before ended.
    before: Option<Event>,
    /// Since when the first of `flights` is the first.
    since: Instant,
    /// GPU time of a command as last measured.
    usual_ns: u64,
    starts: u32,
}

impl Queue {
    pub(crate) fn new(gpu: &Gpu) -> Result<Queue, DriverError> {
        Ok(Queue {
            stream: gpu.stream()?,
            flights: VecDeque::new(),
            unsealed: 0,
            landed: (0, 0),
            before: None,
            since: Instant::now(),
            usual_ns: 0,
            starts: 0,
        })
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.flights.is_empty()
    }

    /// Since when what runs first is running, if something is.
    pub(crate) fn since(&self) -> Option<Instant> {
        (!self.is_idle()).then_some(self.since)
    }

    /// Puts work into the stream. Its end is marked by [`seal`](Self::seal) at the latest. If the driver refuses the
    /// work, the permit comes back.
    pub(crate) fn start(
        &mut self,
        gpu: &Gpu,
        events: &mut Events,
        (permit, cookie): (Permit, u64),
        (ending, limit): (Ending, Option<Duration>),
        work: impl FnOnce(&Stream) -> Result<(), DriverError>,
    ) -> Result<(), (Permit, DriverError)> {
        let idle = self.flights.is_empty();
        let begin = (|| {
            let begin = match idle {
                false => Begin::Before,
                true if self.starts.is_multiple_of(SAMPLE) => {
                    let event = events.take(gpu)?;
                    gpu.record(&event, &self.stream)?;
                    Begin::Event(event)
                }
                true => Begin::Unseen,
            };
            work(&self.stream)?;
            Ok(begin)
        })();
        let begin = match begin {
            Ok(begin) => begin,
            Err(error) => return Err((permit, error)),
        };
        if idle {
            self.since = Instant::now();
            self.starts = self.starts.wrapping_add(1);
        }
        self.flights.push_back(Flight { permit, cookie, begin, end: None, ending, limit });
        self.unsealed += 1;
        let alone = self.usual_ns > SHORT_NS || !matches!(ending, Ending::Time);
        if alone || self.unsealed >= SHARE {
            // The work is in the stream: if its end cannot be marked, nothing in this context works any more, and
            // looking at it says so.
            let _ = self.seal(gpu, events);
        }
        Ok(())
    }

    /// Marks the end of what has none yet.
    pub(crate) fn seal(&mut self, gpu: &Gpu, events: &mut Events) -> Result<(), DriverError> {
        if self.unsealed > 0
            && let Some(last) = self.flights.back_mut()
        {
            let end = events.take(gpu)?;
            gpu.record(&end, &self.stream)?;
            last.end = Some(end);
            self.unsealed = 0;
        }
        Ok(())
    }

    /// The next command that is over: reached its end, or ran too long.
    pub(crate) fn land(
        &mut self,
        gpu: &Gpu,
        events: &mut Events,
    ) -> Result<Option<Landed>, DriverError> {
        if self.landed.0 == 0 && !self.touch_down(gpu, events)? {
            let Some(front) = self.flights.front() else { return Ok(None) };
            let sharing = self.flights.iter().position(|f| f.end.is_some()).unwrap_or(0) as u32 + 1;
            match front.limit {
                Some(limit) if self.since.elapsed() > limit * sharing => {}
                _ => return Ok(None),
            }
            let ns = self.since.elapsed().as_nanos();
            return Ok(self.flights.pop_front().map(|flight| Landed {
                permit: flight.permit,
                cookie: flight.cookie,
                ending: flight.ending,
                busy_ns: u64::try_from(ns).unwrap_or(u64::MAX),
                status: Status::Timeout,
            }));
        }
        let (left, busy_ns) = self.landed;
        self.landed.0 = left.saturating_sub(1);
        let Some(Flight { permit, cookie, ending, .. }) = self.flights.pop_front() else {
            return Ok(None);
        };
        Ok(Some(Landed { permit, cookie, ending, busy_ns, status: Status::Ok }))
    }

    /// Looks whether the first command with an end, and those before it, are over.
    fn touch_down(&mut self, gpu: &Gpu, events: &mut Events) -> Result<bool, DriverError> {
        let Some(last) = self.flights.iter().position(|f| f.end.is_some()) else {
            return Ok(false);
        };
        let over = match &self.flights[last].end {
            Some(end) => gpu.reached(end)?,
            None => false,
        };
        let Some(end) = self.flights[last].end.take_if(|_| over) else { return Ok(false) };
        let count = last + 1;
        let passed = self.since.elapsed();
        let begin = std::mem::replace(&mut self.flights[0].begin, Begin::Unseen);
        let total = match (&begin, &self.before) {
            (Begin::Event(event), _) | (Begin::Before, Some(event)) => {
                Some(gpu.elapsed_ns(event, &end)?)
            }
            _ => None,
        };
        let host_ns = u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX);
        let each = match total {
            Some(ns) => ns / count as u64,
            None if passed < VISIBLE => self.usual_ns.min(host_ns),
            None => host_ns / count as u64,
        };
        if let Begin::Event(event) = begin {
            events.give(event);
        }
        self.before.replace(end).into_iter().for_each(|event| events.give(event));
        self.usual_ns = each;
        self.landed = (count, each);
        self.since = Instant::now();
        Ok(true)
    }

    /// What is under way when the context is spoilt: the first of it, which is to blame as far as anyone knows.
    pub(crate) fn blame(&mut self) -> Option<(Permit, u64)> {
        self.flights.pop_front().map(|flight| (flight.permit, flight.cookie))
    }
}
