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

/// One command under way.
struct Flight {
    permit: Permit,
    cookie: u64,
    /// Its beginning, if nothing was before it; else that is the end of the one before.
    start: Option<Event>,
    end: Event,
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

/// The queue.
pub(crate) struct Queue {
    pub(crate) stream: Stream,
    flights: VecDeque<Flight>,
    /// Where the first of `flights` begins, if it has no beginning of its own.
    before: Option<Event>,
    /// Since when the first of `flights` is the first.
    since: Instant,
}

impl Queue {
    pub(crate) fn new(gpu: &Gpu) -> Result<Queue, DriverError> {
        Ok(Queue {
            stream: gpu.stream()?,
            flights: VecDeque::new(),
            before: None,
            since: Instant::now(),
        })
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.flights.is_empty()
    }

    /// Since when what runs first is running, if something is.
    pub(crate) fn since(&self) -> Option<Instant> {
        (!self.is_idle()).then_some(self.since)
    }

    /// Puts work into the stream, between two events. If the driver refuses the work, the permit comes back.
    pub(crate) fn start(
        &mut self,
        gpu: &Gpu,
        events: &mut Events,
        (permit, cookie): (Permit, u64),
        (ending, limit): (Ending, Option<Duration>),
        work: impl FnOnce(&Stream) -> Result<(), DriverError>,
    ) -> Result<(), (Permit, DriverError)> {
        let parts = (|| -> Result<(Option<Event>, Event), DriverError> {
            let start = match self.flights.is_empty() {
                true => {
                    let event = events.take(gpu)?;
                    gpu.record(&event, &self.stream)?;
                    Some(event)
                }
                false => None,
            };
            let end = events.take(gpu)?;
            work(&self.stream)?;
            gpu.record(&end, &self.stream)?;
            Ok((start, end))
        })();
        match parts {
            Ok((start, end)) => {
                if self.flights.is_empty() {
                    self.since = Instant::now();
                }
                self.flights.push_back(Flight { permit, cookie, start, end, ending, limit });
                Ok(())
            }
            Err(error) => Err((permit, error)),
        }
    }

    /// The next command that is over: reached its end, or ran too long.
    pub(crate) fn land(
        &mut self,
        gpu: &Gpu,
        events: &mut Events,
    ) -> Result<Option<Landed>, DriverError> {
        let Some(front) = self.flights.front() else { return Ok(None) };
        let mut status = Status::Ok;
        if !gpu.reached(&front.end)? {
            match front.limit {
                Some(limit) if self.since.elapsed() > limit => status = Status::Timeout,
                _ => return Ok(None),
            }
        }
        let Some(Flight { permit, cookie, start, end, ending, limit: _ }) =
            self.flights.pop_front()
        else {
            return Ok(None);
        };
        let busy_ns = match (status, start.as_ref().or(self.before.as_ref())) {
            (Status::Ok, Some(from)) => gpu.elapsed_ns(from, &end)?,
            _ => u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX),
        };
        start.into_iter().chain(self.before.replace(end)).for_each(|event| events.give(event));
        self.since = Instant::now();
        Ok(Some(Landed { permit, cookie, ending, busy_ns, status }))
    }

    /// What is under way when the context is spoilt: the first of it, which is to blame as far as anyone knows.
    pub(crate) fn blame(&mut self) -> Option<(Permit, u64)> {
        self.flights.pop_front().map(|flight| (flight.permit, flight.cookie))
    }
}
