//! What a flood of denials costs a neighbour: the figures of docs/measurements/audit.md.
//!
//!     cargo run --release -p turnstile --example audit_flood [SECONDS]
//!
//! One tenant submits copies that its policy does not grant, as fast as its queue takes them; another
//! makes round trips of a nop and measures each. Both are threads of this process that drive their
//! devices over the same rings as any tenant; the log goes to a file in the directory for temporary
//! files, with the policy's default fsync. Four runs: alone, then beside the flood without a log, with a
//! log at the default rate, and with a log that takes every denial it can.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use turnstile::audit::{AuditHandle, AuditLog, Options, Summary};
use turnstile::runtime::{Handle, Runtime, Settings, Wake};
use turnstile::tenants::local::LocalTransport;
use turnstile_driver::abi::request::Usage;
use turnstile_driver::{DeviceManager, Slot};
use turnstile_emulated::device::{EmulatedGpu, Script};
use turnstile_policy::{Policy, Rate, TenantPolicy};

const POLICY: &str = r#"{ "version": 1, "device": { "backend": "emulated", "memory": "1GiB" },
    "defaults": { "audit": "denied" },
    "tenants": [
      { "name": "neighbour", "attach": { "kind": "process" }, "aperture": "1MiB",
        "grants": { "queue": { "max_count": 1, "max_depth": 256, "max_in_flight": 256 } } },
      { "name": "flooder", "attach": { "kind": "process" }, "aperture": "1MiB",
        "grants": { "buffer": { "max_bytes": "1MiB", "max_count": 2, "usage": ["device"] },
          "queue": { "max_count": 1, "max_depth": 256, "max_in_flight": 256 } } } ] }"#;

/// What one run showed.
struct Seen {
    round_trips: Vec<u64>,
    denials: u64,
    log: Option<Summary>,
}

fn main() -> anyhow::Result<()> {
    let seconds = std::env::args().nth(1).map_or(Ok(5), |n| n.parse())?;
    let time = Duration::from_secs(seconds);
    let defaults = Settings::default().audit_rate;
    let everything = Rate { per_second: 1_000_000_000, burst: 1_000_000_000 };
    println!(
        "{:<36} {:>12} {:>10} {:>8} {:>8} {:>8}",
        "", "denials/s", "written/s", "p50", "p99", "max"
    );
    for (name, flood, rate) in [
        ("alone, no log", false, None),
        ("flood, no log", true, None),
        ("flood, log at the default rate", true, Some(defaults)),
        ("flood, log that takes all it can", true, Some(everything)),
        ("alone, no log, again", false, None),
    ] {
        let mut seen = run(time, flood, rate).with_context(|| name.to_owned())?;
        seen.round_trips.sort_unstable();
        let at = |q: f64| {
            let i = (seen.round_trips.len() as f64 * q) as usize;
            seen.round_trips.get(i.min(seen.round_trips.len() - 1)).copied().unwrap_or(0)
        };
        let us = |ns: u64| format!("{:.1} us", ns as f64 / 1e3);
        let written = seen.log.as_ref().map_or(0, |log| log.records / seconds);
        println!(
            "{name:<36} {:>12} {written:>10} {:>8} {:>8} {:>8}",
            seen.denials / seconds,
            us(at(0.5)),
            us(at(0.99)),
            us(at(1.0))
        );
        if let Some(log) = seen.log {
            println!("{:<36} {} records written, {} counted instead", "", log.records, log.lost);
        }
    }
    Ok(())
}

fn run(time: Duration, flood: bool, rate: Option<Rate>) -> anyhow::Result<Seen> {
    let policy = Policy::parse(POLICY).map_err(|e| anyhow!("{e}"))?;
    let directory = tempfile::tempdir()?;
    let wake = Wake::new()?;
    let log = match rate {
        Some(_) => {
            let options = Options::of(&policy.audit);
            let path = directory.path().join("audit.jsonl");
            Some(AuditLog::open(&path, options, Box::new(|_| {}))?)
        }
        None => None,
    };
    let handle = log.as_ref().map_or(AuditHandle::none(), AuditLog::handle);
    let settings = Settings {
        audit_rate: rate.unwrap_or(Settings::default().audit_rate),
        ..Settings::default()
    };
    let gpu = turnstile_emulated::device::Settings {
        memory_bytes: policy.device.memory_bytes,
        threads: 1,
        script: Script(Vec::new()),
    };
    let backend = Box::new(EmulatedGpu::start(gpu)?);
    let runtime = Runtime::start(backend, handle, wake, None, settings)?;
    let over = AtomicBool::new(false);
    let (round_trips, denials) = std::thread::scope(|scope| {
        let (over, handle) = (&over, &runtime.handle());
        let policies = &policy.tenants;
        let flooder = flood.then(|| scope.spawn(move || denied(handle, &policies[1], over)));
        let round_trips = trips(handle, &policies[0], time);
        over.store(true, Ordering::Release);
        let denials = match flooder {
            Some(flooder) => flooder.join().map_err(|_| anyhow!("the flooder panicked"))??,
            None => 0,
        };
        anyhow::Ok((round_trips?, denials))
    })?;
    runtime.stop();
    Ok(Seen { round_trips, denials, log: log.map(AuditLog::close) })
}

/// Round trips of a nop, in nanoseconds.
fn trips(handle: &Handle, policy: &Arc<TenantPolicy>, time: Duration) -> anyhow::Result<Vec<u64>> {
    let attached = handle.attach(policy.clone(), false)?;
    let device = DeviceManager::start(LocalTransport::new(attached.device))?;
    let session = device.open_session()?;
    let mut slots = [Slot::NEW; 16];
    let mut queue = session.create_queue(&mut slots)?;
    let mut all = Vec::new();
    let until = Instant::now() + time;
    while Instant::now() < until {
        let start = Instant::now();
        let token = queue.nop()?;
        queue.complete(token, 10_000_000_000)?;
        all.push(start.elapsed().as_nanos() as u64);
    }
    handle.detach(attached.tenant)?;
    Ok(all)
}

/// Copies that are denied, as many as there is room for, until it is over.
fn denied(handle: &Handle, policy: &Arc<TenantPolicy>, over: &AtomicBool) -> anyhow::Result<u64> {
    let attached = handle.attach(policy.clone(), false)?;
    let device = DeviceManager::start(LocalTransport::new(attached.device))?;
    let session = device.open_session()?;
    let a = session.create_buffer(4096, Usage::Device)?;
    let b = session.create_buffer(4096, Usage::Device)?;
    let mut slots = vec![Slot::NEW; 256];
    let mut queue = session.create_queue(&mut slots)?;
    let mut denials = 0;
    while !over.load(Ordering::Acquire) {
        while queue.copy(a.at(0), b.at(0), 4096).is_ok() {}
        queue.ring()?;
        while let Some((_, completion)) = queue.poll_any()? {
            denials += u64::from(!completion.status.is_ok());
        }
    }
    handle.detach(attached.tenant)?;
    Ok(denials)
}
