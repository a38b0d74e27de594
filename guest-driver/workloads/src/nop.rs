//! How long the shortest command takes, and how many of them go through in a second.

use turnstile_driver::{DeviceManager, Error, Queue, Session, Slot, Transport};

use crate::env::{Env, number};
use crate::failure::{During, Failure, same};

const PATIENCE: u64 = 30_000_000_000;
/// Sub-buckets of one power of two: a resolution of 1/16.
const SUB: usize = 16;

/// A histogram of nanoseconds: exact below 16, then 16 buckets a power of two.
struct Histogram {
    counts: [u32; 64 * SUB],
    total: u64,
    longest: u64,
}

impl Histogram {
    const fn new() -> Histogram {
        Histogram { counts: [0; 64 * SUB], total: 0, longest: 0 }
    }
    fn record(&mut self, ns: u64) {
        let bucket = match ns.checked_ilog2() {
            Some(log) if log >= 4 => {
                (log as usize - 3) * SUB + ((ns >> (log - 4)) as usize & (SUB - 1))
            }
            _ => ns as usize,
        };
        if let Some(count) = self.counts.get_mut(bucket) {
            *count = count.saturating_add(1);
        }
        self.total += 1;
        self.longest = self.longest.max(ns);
    }
    /// The lower bound of the bucket that holds the `thousandths`th part of the values.
    fn quantile(&self, thousandths: u64) -> u64 {
        let want = self.total * thousandths / 1000;
        let mut seen = 0;
        for (bucket, &count) in self.counts.iter().enumerate() {
            seen += u64::from(count);
            if seen > want {
                return match bucket / SUB {
                    0 => bucket as u64,
                    octave => ((SUB + bucket % SUB) as u64) << (octave - 1),
                };
            }
        }
        self.longest
    }
}

/// Runs the workload.
pub(crate) fn run<T: Transport, E: Env>(transport: &T, env: &E) -> Result<(), Failure> {
    let n = number(env, "n", 100_000).clamp(1, 100_000_000);
    let device = DeviceManager::start(transport).during("start the device")?;
    let depth = device.identify().during("identify")?.queue_depth.clamp(1, 256);
    let session = device.open_session().during("open a session")?;
    round_trips(env, &session, n)?;
    throughput(env, &session, n, depth as usize)?;
    session.close().during("close the session")
}

fn round_trips<T: Transport, E: Env>(
    env: &E,
    session: &Session<'_, T>,
    n: u64,
) -> Result<(), Failure> {
    let mut slots = [Slot::NEW; 4];
    let mut queue = session.create_queue(&mut slots).during("create a queue")?;
    let clock = session.device().transport();
    let mut histogram = Histogram::new();
    for i in 0..n {
        let start = clock.now_ns();
        let token = queue.nop().during("submit a nop")?;
        queue.wait(token, PATIENCE).during("wait for a nop")?;
        let ns = clock.now_ns().saturating_sub(start);
        // The first ones warm caches up and wake the dispatcher.
        if i >= n / 10 {
            histogram.record(ns);
        }
    }
    queue.destroy().during("destroy the queue")?;
    env.print(format_args!(
        "metric: nop.round_trip p50_ns={} p99_ns={} max_ns={} n={}",
        histogram.quantile(500),
        histogram.quantile(990),
        histogram.longest,
        histogram.total
    ));
    Ok(())
}

fn throughput<T: Transport, E: Env>(
    env: &E,
    session: &Session<'_, T>,
    n: u64,
    depth: usize,
) -> Result<(), Failure> {
    let mut slots = [Slot::NEW; 256];
    let mut queue = session.create_queue(&mut slots[..depth]).during("create a queue")?;
    let clock = session.device().transport();
    let start = clock.now_ns();
    let (mut submitted, mut finished) = (0, 0);
    while finished < n {
        while submitted < n {
            match queue.nop() {
                Ok(_) => submitted += 1,
                Err(Error::Full) => break,
                Err(error) => return Err(Failure::Driver { what: "submit a nop", error }),
            }
        }
        let before = finished;
        finished += take_all(&mut queue)?;
        if finished == before {
            // Nothing yet: wait for one, with the driver's bound.
            queue.idle(PATIENCE).during("wait for nops")?;
        }
    }
    let ns = clock.now_ns().saturating_sub(start).max(1);
    same("nops finished", 0, finished, n)?;
    queue.destroy().during("destroy the queue")?;
    env.print(format_args!(
        "metric: nop.throughput per_second={} depth={depth} n={n}",
        n.saturating_mul(1_000_000_000) / ns
    ));
    Ok(())
}

/// Takes whatever has finished, after telling the device about what was submitted.
fn take_all<T: Transport>(queue: &mut Queue<'_, T>) -> Result<u64, Failure> {
    let mut taken = 0;
    for _ in 0..2000 {
        match queue.poll_any().during("poll for nops")? {
            Some((_, completion)) => {
                same("status of a nop", 0, completion.status as u64, 0)?;
                taken += 1;
            }
            None if taken > 0 => break,
            None => core::hint::spin_loop(),
        }
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_sixteenth() {
        let mut h = Histogram::new();
        (1..=1000).for_each(|i| h.record(i * 37));
        for (thousandths, exact) in [(500, 18_500), (990, 36_630), (0, 37)] {
            let got = h.quantile(thousandths);
            assert!(got <= exact && got * 17 / 16 + 37 >= exact, "{thousandths}: {got} {exact}");
        }
        let mut one = Histogram::new();
        one.record(u64::MAX);
        assert!(one.quantile(500) > u64::MAX / 2 && one.longest == u64::MAX);
        let mut small = Histogram::new();
        small.record(7);
        assert_eq!(small.quantile(500), 7);
    }
}
