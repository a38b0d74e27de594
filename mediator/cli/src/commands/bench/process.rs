//! Round trip and throughput of the shortest command, from a process tenant through the real socket
//! and the real dispatcher.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};
use turnstile_policy::{Policy, Program};

use super::Figure;
use crate::audit::AuditHandle;
use crate::commands::machine;
use crate::runtime::{Runtime, Settings, Wake};
use crate::tenants::process::ProcessTenants;
use crate::tenants::{Ended, News};

const POLICY: &str = r#"{ "version": 1, "device": { "backend": "emulated", "memory": "64MiB" },
    "tenants": [ { "name": "bench", "attach": { "kind": "process", "guest": "nop" },
      "grants": { "queue": { "max_count": 2, "max_depth": 256, "max_in_flight": 256 } } } ] }"#;

pub(super) fn measure(effort: u32) -> Result<Vec<Figure>, String> {
    let bounce = bounce(effort * 100_000)?;
    let metrics = nop(effort * 20_000)?;
    let figure = |name: &str| {
        let found = metrics.get(name).copied();
        found.ok_or_else(|| format!("the workload did not say {name}"))
    };
    Ok(vec![
        Figure::new("process", "nop, round trip, p50", figure("nop.round_trip.p50_ns")?, "ns")
            .against("two threads bounce a word", bounce)
            .at_most(2_000.0),
        Figure::new("process", "nop, round trip, p99", figure("nop.round_trip.p99_ns")?, "ns")
            .against("two threads bounce a word", bounce),
        Figure::new(
            "process",
            "nop, throughput",
            figure("nop.throughput.per_second")?,
            "commands/s",
        )
        .at_least(1e6),
    ])
}

/// Nanoseconds for a word to go to another thread and come back: what any round trip costs here.
fn bounce(rounds: u32) -> Result<f64, String> {
    let word = Arc::new(AtomicU32::new(0));
    let theirs = word.clone();
    let other = std::thread::spawn(move || {
        for round in 0..rounds {
            while theirs.load(Ordering::Acquire) != 2 * round + 1 {
                std::hint::spin_loop();
            }
            theirs.store(2 * round + 2, Ordering::Release);
        }
    });
    let mut times = Vec::with_capacity(rounds as usize);
    for round in 0..rounds {
        let start = Instant::now();
        word.store(2 * round + 1, Ordering::Release);
        while word.load(Ordering::Acquire) != 2 * round + 2 {
            std::hint::spin_loop();
        }
        times.push(start.elapsed());
    }
    other.join().map_err(|_| "the other thread panicked")?;
    times.sort_unstable();
    Ok(times[times.len() / 2].as_nanos() as f64)
}

/// Runs the workload `nop` as a process tenant and reads the metrics it prints.
fn nop(commands: u32) -> Result<HashMap<String, f64>, String> {
    let policy = Policy::parse(POLICY).map_err(|e| e.to_string())?;
    let backend = machine::backend(&policy.device, &[]).map_err(|e| e.what().to_owned())?;
    let wake = Wake::new().map_err(|e| e.to_string())?;
    let runtime = Runtime::start(backend, AuditHandle::none(), wake, None, Settings::default())
        .map_err(|e| e.to_string())?;
    let (news, happenings) = unbounded();
    let mut processes = ProcessTenants::start(runtime.handle(), AuditHandle::none(), news, None)
        .map_err(|e| e.to_string())?;
    let tenant = &policy.tenants[0];
    let args = [format!("n={commands}")];
    processes.spawn(tenant, &Program::Payload("nop".into()), &args).map_err(|e| e.to_string())?;
    let metrics = listen(&happenings);
    processes.stop();
    runtime.stop();
    metrics
}

fn listen(happenings: &Receiver<News>) -> Result<HashMap<String, f64>, String> {
    let mut metrics = HashMap::new();
    let mut last = String::new();
    loop {
        match happenings.recv_timeout(Duration::from_secs(120)) {
            Ok(News::Line { text, .. }) => {
                read_metric(&text, &mut metrics);
                last = text;
            }
            Ok(News::Ended { ended: Ended::Passed, .. }) => return Ok(metrics),
            Ok(News::Ended { ended, .. }) => return Err(format!("{ended:?}: {last}")),
            Ok(_) => {}
            Err(_) => return Err("the workload does not end".into()),
        }
    }
}

/// Reads `metric: NAME key=value …`.
fn read_metric(line: &str, into: &mut HashMap<String, f64>) {
    let Some(rest) = line.strip_prefix("metric: ") else { return };
    let mut words = rest.split_ascii_whitespace();
    let Some(name) = words.next() else { return };
    for (key, value) in words.filter_map(|word| word.split_once('=')) {
        if let Ok(value) = value.parse() {
            into.insert(format!("{name}.{key}"), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_read() {
        let mut metrics = HashMap::new();
        read_metric("metric: nop.round_trip p50_ns=812 p99_ns=1200 n=5", &mut metrics);
        read_metric("nop: done", &mut metrics);
        assert_eq!(metrics["nop.round_trip.p50_ns"], 812.0);
        assert_eq!(metrics.len(), 3);
    }
}
