//! What control costs: a revocation under load, a reload and a scrape with a thousand tenants, and what
//! all of it takes from the dispatcher.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::unbounded;
use hyper::Method;
use serde_json::{Value, json};
use turnstile_abi::request::Usage;
use turnstile_driver::{DeviceManager, Slot};
use turnstile_policy::Policy;

use super::Figure;
use crate::audit::AuditHandle;
use crate::commands::machine;
use crate::control::client::Client;
use crate::control::{ControlServer, ReloadAnswer, Socket, Tenant};
use crate::daemon::Daemon;
use crate::runtime::{Attached, Runtime, Settings, Wake};
use crate::tenants::local::LocalTransport;

/// Busy tenants beside a revocation.
const BUSY: usize = 64;
/// Threads that drive them: a thread for each would measure the kernel's scheduler.
const DRIVERS: usize = 4;
/// Tenants of a reload and a scrape.
const MANY: usize = 1000;
const MS: f64 = 1e6;

pub(super) fn measure(effort: u32) -> Result<Vec<Figure>, String> {
    let mut figures = revocations(effort)?;
    figures.extend(many(effort)?);
    Ok(figures)
}

fn document(place: &std::path::Path, tenants: usize, bytes: u64) -> Value {
    let tenant = |n: usize| {
        json!({ "name": format!("tenant-{n:04}"), "aperture": "1MiB",
            "attach": { "kind": "vfio-user", "socket": place.join(format!("{n}.sock")) },
            "grants": { "copy": true,
                "buffer": { "max_bytes": bytes, "max_count": 8, "usage": ["device"] },
                "queue": { "max_count": 1, "max_depth": 64, "max_in_flight": 64 } } })
    };
    json!({ "version": 1,
        "device": { "backend": "emulated", "memory": "256MiB", "overcommit": true },
        "tenants": (0..tenants).map(tenant).collect::<Vec<_>>() })
}

struct World {
    // Dropped in this order.
    control: ControlServer,
    daemon: Arc<Daemon>,
    runtime: Runtime,
    place: tempfile::TempDir,
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl World {
    fn new(tenants: usize) -> Result<World, String> {
        let place = tempfile::tempdir().map_err(text)?;
        let document = document(place.path(), tenants, 1 << 20).to_string();
        let policy = Policy::parse(&document).map_err(text)?;
        let backend = machine::backend(&policy.device, &[]).map_err(|e| e.what().to_owned())?;
        let wake = Wake::new().map_err(text)?;
        let settings = Settings::default();
        let audit = AuditHandle::none();
        let runtime = Runtime::start(backend, audit.clone(), wake, None, settings).map_err(text)?;
        let (news, _) = unbounded();
        let daemon = Daemon::start(policy, runtime.handle(), audit, news, None).map_err(text)?;
        let daemon = Arc::new(daemon);
        let path = place.path().join("control.sock");
        let socket = Socket { path, mode: 0o600, group: None };
        let control = ControlServer::start(daemon.clone(), &socket).map_err(text)?;
        Ok(World { control, daemon, runtime, place })
    }

    fn client(&self) -> Result<Client, String> {
        Client::new(self.control.path()).map_err(text)
    }

    fn attach(&self, tenant: usize) -> Result<Attached, String> {
        let policy = self.daemon.policy().tenants[tenant].clone();
        self.runtime.handle().attach(policy, false).map_err(text)
    }
}

/// Keeps some tenants busy until it is told to stop or nothing works any more.
fn drive(devices: Vec<Attached>, stop: &AtomicBool) {
    let devices: Vec<_> = devices
        .into_iter()
        .filter_map(|a| DeviceManager::start(LocalTransport::new(a.device)).ok())
        .collect();
    let mut slots = vec![[Slot::NEW; 64]; devices.len()];
    let mut working: Vec<_> = devices
        .iter()
        .zip(&mut slots)
        .filter_map(|(device, slots)| {
            let session = device.open_session().ok()?;
            let from = session.create_buffer(4096, Usage::Device).ok()?;
            let to = session.create_buffer(4096, Usage::Device).ok()?;
            let queue = session.create_queue(slots).ok()?;
            Some((session, queue, from, to))
        })
        .collect();
    while !stop.load(Ordering::Relaxed) && !working.is_empty() {
        working.retain_mut(|(_, queue, from, to)| {
            let tokens: Vec<_> =
                (0..8).map_while(|_| queue.copy(to.at(0), from.at(0), 4096).ok()).collect();
            // A revoked queue answers nothing more: do not wait for it for long.
            !tokens.is_empty() && tokens.into_iter().all(|t| queue.wait(t, 200_000_000).is_ok())
        });
    }
    // The daemon takes back what is left.
    working.into_iter().for_each(std::mem::forget);
}

fn revocations(effort: u32) -> Result<Vec<Figure>, String> {
    let world = World::new(BUSY)?;
    let client = world.client()?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    for driver in 0..DRIVERS {
        let mine = (0..BUSY).filter(|n| n % DRIVERS == driver);
        let devices: Vec<_> = mine.map(|n| world.attach(n)).collect::<Result<_, _>>()?;
        let stop = stop.clone();
        threads.push(std::thread::spawn(move || drive(devices, &stop)));
    }
    let began = Instant::now();
    loop {
        let tenants: Vec<Tenant> = client.get("/v1/tenants").map_err(text)?;
        if tenants.iter().all(|t| t.outcomes.get("ok").copied().unwrap_or(0) > 20) {
            break;
        }
        if began.elapsed() > Duration::from_secs(60) {
            return Err("the tenants do not get to work".into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let share = dispatcher_share(&world, &client, effort)?;
    let rounds = (effort as usize * 2).min(16);
    let (mut calls, mut reclaimed, mut late) = (Vec::new(), Vec::new(), 0);
    for n in 0..rounds {
        let name = format!("tenant-{n:04}");
        let look = || world.runtime.handle().find(&name).map_err(text);
        let successes = |s: &crate::runtime::Standing| {
            s.tally.outcomes().find(|(s, _)| s.is_ok()).map_or(0, |(_, n)| n)
        };
        let start = Instant::now();
        client.order(Method::POST, &format!("/v1/tenants/{name}/revoke")).map_err(text)?;
        calls.push(start.elapsed());
        let at_return = successes(&look()?.0);
        loop {
            let (standing, _) = look()?;
            if standing.used.iter().all(|n| *n == 0) {
                break;
            }
            if start.elapsed() > Duration::from_secs(10) {
                return Err(format!("{name} is not reclaimed: {:?}", standing.used));
            }
        }
        reclaimed.push(start.elapsed());
        std::thread::sleep(Duration::from_millis(5));
        late += successes(&look()?.0) - at_return;
    }
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        let _ = thread.join();
    }
    let figure = |what: &str, value, unit| Figure::new("control", what.to_owned(), value, unit);
    Ok(vec![
        figure("revoke under 64 busy: successes after it returns", late as f64, "commands")
            .at_most(0.0),
        figure("revoke under 64 busy: the call, median", middle(&mut calls), "ms"),
        figure("revoke under 64 busy: reclaimed, median", middle(&mut reclaimed), "ms")
            .at_most(100.0),
        figure("revoke under 64 busy: reclaimed, longest", longest(&reclaimed), "ms")
            .at_most(100.0),
        share,
    ])
}

/// What control traffic takes from the dispatcher: ten requests a second, a scrape among them.
fn dispatcher_share(world: &World, client: &Client, effort: u32) -> Result<Figure, String> {
    let handle = world.runtime.handle();
    handle.pauses().map_err(text)?;
    let start = Instant::now();
    for n in 0..effort * 5 {
        match n % 5 {
            0 => drop(client.text("/metrics").map_err(text)?),
            1 => drop(client.get::<Vec<Tenant>>("/v1/tenants").map_err(text)?),
            2 => drop(client.text("/readyz").map_err(text)?),
            _ => drop(client.get::<Value>("/v1/stats").map_err(text)?),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let pauses = handle.pauses().map_err(text)?;
    let percent = pauses.total_ns as f64 / start.elapsed().as_nanos() as f64 * 100.0;
    let what = "dispatcher's time for 10 requests/s, 64 busy tenants";
    Ok(Figure::new("control", what, percent, "%").at_most(1.0))
}

fn many(effort: u32) -> Result<Vec<Figure>, String> {
    let world = World::new(MANY)?;
    let (client, handle) = (world.client()?, world.runtime.handle());
    let mut attached = Vec::with_capacity(MANY);
    for n in 0..MANY {
        attached.push(world.attach(n)?);
    }
    // Every tenant did something of each kind.
    for one in &attached {
        let device = DeviceManager::start(LocalTransport::new(one.device.clone()));
        let device = device.map_err(|e| format!("{e}"))?;
        let session = device.open_session().map_err(|e| format!("{e}"))?;
        let buffer = session.create_buffer(4096, Usage::Device).map_err(|e| format!("{e}"))?;
        let mut slots = [Slot::NEW; 64];
        let mut queue = session.create_queue(&mut slots).map_err(|e| format!("{e}"))?;
        let token = queue.copy(buffer.at(0), buffer.at(2048), 64).map_err(|e| format!("{e}"))?;
        queue.wait(token, 1_000_000_000).map_err(|e| format!("{e}"))?;
    }
    handle.pauses().map_err(text)?;
    let (mut reloads, mut switches) = (Vec::new(), Vec::new());
    for n in 0..effort.max(3) {
        // Every tenant's quota changes each time.
        let bytes = (1 << 20) + u64::from(n + 1) * 4096;
        let next = document(world.place.path(), MANY, bytes).to_string();
        let answer: ReloadAnswer = client.send(Method::PUT, "/v1/policy", next).map_err(text)?;
        reloads.push(Duration::from_nanos(answer.took_ns));
        switches.push(Duration::from_nanos(answer.pause_ns));
    }
    handle.pauses().map_err(text)?;
    let (mut scrapes, mut size) = (Vec::new(), 0);
    for _ in 0..effort.max(3) {
        let start = Instant::now();
        size = client.text("/metrics").map_err(text)?.len();
        scrapes.push(start.elapsed());
    }
    let slice = handle.pauses().map_err(text)?.longest_ns as f64 / MS;
    let figure = |what: &str, value, unit| Figure::new("control", what.to_owned(), value, unit);
    Ok(vec![
        figure("reload, 1,000 tenants: all of it, median", middle(&mut reloads), "ms")
            .at_most(50.0),
        figure("reload, 1,000 tenants: commands wait, median", middle(&mut switches), "ms")
            .at_most(1.0),
        figure("reload, 1,000 tenants: commands wait, longest", longest(&switches), "ms")
            .at_most(1.0),
        figure("scrape, 1,000 tenants: median", middle(&mut scrapes), "ms").at_most(20.0),
        figure("scrape, 1,000 tenants: commands wait, longest", slice, "ms").at_most(1.0),
        figure("scrape, 1,000 tenants: size", size as f64 / 1024.0, "KiB"),
    ])
}

fn middle(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(f64::NAN, |time| time.as_nanos() as f64 / MS)
}

fn longest(times: &[Duration]) -> f64 {
    times.iter().max().map_or(f64::NAN, |time| time.as_nanos() as f64 / MS)
}
