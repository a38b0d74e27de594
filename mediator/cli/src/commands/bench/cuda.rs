//! `turnstile bench --backend cuda`: the GPU through the mediator and without it, side by side in one run.
//!
//! Without it: processes of our own that call the driver directly (`turnstile_cuda::native`), with and without MPS.
//! Through it: tenants in this process (`LocalTransport`: the same rings as any tenant), the real dispatcher, policy on.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use turnstile_abi::launch::DmaExtent;
use turnstile_abi::request::{Access, Format, Usage};
use turnstile_backend_api::SharedRegion;
use turnstile_cuda::MpsService;
use turnstile_cuda::native::{EMPTY, What};
use turnstile_driver::{DeviceManager, Slot};
use turnstile_policy::Policy;

use super::Figure;
use crate::audit::AuditHandle;
use crate::commands::machine;
use crate::runtime::{Attached, Handle, Runtime, Settings, Wake};
use crate::tenants::local::LocalTransport;

/// Bytes copied, smallest to largest.
pub(in crate::commands) const SIZES: [u64; 7] =
    [4 << 10, 64 << 10, 1 << 20, 16 << 20, 64 << 20, 256 << 20, 1 << 30];
const PATIENCE_NS: u64 = 60_000_000_000;
/// A kernel that never ends.
const SPIN: &str =
    ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry empty()\n{\nL:\n\tbra L;\n}\n";
/// Where tenants' pages for DMA lie.
const GPA: u64 = 1 << 32;

type Result<T> = std::result::Result<T, String>;

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Every figure of the GPU. `effort` is 1 for a quick run, 10 for a full one.
pub(super) fn measure(effort: u32) -> Result<Vec<Figure>> {
    let seconds = if effort > 1 { 2.0 } else { 1.0 };
    let time = Duration::from_secs_f64(seconds);
    let mut figures = Vec::new();
    latency(time, &mut figures)?;
    copies(&mut figures)?;
    let counts: &[usize] = if effort > 1 { &[1, 2, 4, 8, 15, 32, 46] } else { &[1, 4, 15] };
    tenants(counts, time, &mut figures)?;
    trouble(&mut figures)?;
    Ok(figures)
}

// --- Without the mediator ----------------------------------------------------------------------

/// A process that calls the driver directly.
struct Native {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Native {
    fn start(what: What, mps: Option<&MpsService>) -> Result<Native> {
        let mut command = Command::new("/proc/self/exe");
        command.args(["cuda-native", "0"]);
        match what {
            What::Loop(time) => command.args(["loop", &time.as_millis().to_string()]),
            What::Async => command.arg("async"),
            What::Copies(_) => command.arg("copies"),
        };
        let pipes = mps.map_or("/nonexistent".into(), |mps| mps.pipes().to_path_buf());
        command.env("CUDA_MPS_PIPE_DIRECTORY", pipes);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(text)?;
        let out = child.stdout.take().ok_or("no output")?;
        Ok(Native { child, lines: BufReader::new(out).lines() })
    }

    fn ready(&mut self) -> Result<()> {
        match self.lines.next() {
            Some(Ok(line)) if line == "ready 1" => Ok(()),
            other => Err(format!("a native process is not ready: {other:?}")),
        }
    }

    fn go(&mut self) {
        // One that died says so by having no results.
        if let Some(mut input) = self.child.stdin.take() {
            let _ = input.write_all(b"go\n");
        }
    }

    fn results(mut self) -> Result<HashMap<String, f64>> {
        let mut results = HashMap::new();
        for line in self.lines.by_ref() {
            let line = line.map_err(text)?;
            if let Some((name, value)) = line.split_once(' ')
                && let Ok(value) = value.parse()
            {
                results.insert(name.to_owned(), value);
            }
        }
        let status = self.child.wait().map_err(text)?;
        if status.success() {
            Ok(results)
        } else {
            Err(format!("a native process ended with {status}"))
        }
    }
}

/// So many processes that launch and wait at the same time.
fn natives(n: usize, time: Duration, mps: Option<&MpsService>) -> Result<Vec<Looped>> {
    let mut children =
        (0..n).map(|_| Native::start(What::Loop(time), mps)).collect::<Result<Vec<_>>>()?;
    children.iter_mut().try_for_each(Native::ready)?;
    children.iter_mut().for_each(Native::go);
    children
        .into_iter()
        .map(|child| {
            let results = child.results()?;
            let get = |name: &str| results.get(name).copied().ok_or(format!("no {name}"));
            Ok(Looped {
                per_second: get("per_second")?,
                p50_ns: get("p50_ns")?,
                p99_ns: get("p99_ns")?,
                longest_ns: get("longest_ns")?,
                failed: 0,
            })
        })
        .collect()
}

/// What a client that launches and waits in a loop saw.
#[derive(Clone, Copy, Debug)]
struct Looped {
    per_second: f64,
    p50_ns: f64,
    p99_ns: f64,
    longest_ns: f64,
    failed: u64,
}

// --- Through the mediator ----------------------------------------------------------------------

/// A daemon with the CUDA backend and so many tenants.
struct World {
    runtime: Runtime,
    tenants: Vec<Attached>,
}

/// A policy of `n` tenants. `weights` repeat.
fn policy(
    n: usize,
    isolation: &str,
    timeout: &str,
    warm: usize,
    weights: &[u32],
) -> Result<Policy> {
    let tenants: Vec<String> = (0..n)
        .map(|i| {
            let weight = weights.get(i % weights.len().max(1)).copied().unwrap_or(1);
            format!(
                r#"{{ "name": "t{i}", "attach": {{ "kind": "process" }}, "aperture": "8MiB", "isolation": "{isolation}",
                "schedule": {{ "weight": {weight} }}, "audit": "all",
                "grants": {{ "buffer": {{ "max_bytes": "1200MiB", "max_count": 8, "usage": ["device"] }},
                  "dma": {{ "max_bytes": "2GiB", "max_regions": 4, "access": ["read", "write"] }},
                  "program": {{ "formats": ["ptx"], "guard": "fence", "max_bytes": "1MiB" }},
                  "launch": {{ "max_threads_per_block": 1024, "max_blocks": 65535, "timeout": "{timeout}" }},
                  "queue": {{ "max_count": 2, "max_depth": 1024, "max_in_flight": 1024 }}, "copy": true }} }}"#
            )
        })
        .collect();
    let document = format!(
        r#"{{ "version": 1, "device": {{ "backend": "cuda", "memory": "64GiB", "overcommit": true,
        "cuda": {{ "warm_workers": {} }} }}, "tenants": [ {} ] }}"#,
        warm.min(64),
        tenants.join(",")
    );
    Policy::parse(&document).map_err(text)
}

impl World {
    fn new(policy: &Policy) -> Result<World> {
        let backend = machine::backend(&policy.device, &[]).map_err(|e| e.what().to_owned())?;
        let wake = Wake::new().map_err(text)?;
        let settings = Settings::default();
        let runtime =
            Runtime::start(backend, AuditHandle::none(), wake, None, settings).map_err(text)?;
        let handle = runtime.handle();
        let tenants = policy.tenants.iter().map(|t| handle.attach(t.clone(), true).map_err(text));
        let tenants = tenants.collect::<Result<_>>()?;
        Ok(World { runtime, tenants })
    }

    fn handle(&self) -> Handle {
        self.runtime.handle()
    }
}

/// Launches and waits in a loop, as one tenant. Returns what it saw; refused launches count as failed.
fn looped(attached: &Attached, start: &Barrier, time: Duration) -> Result<Looped> {
    let prepared = || -> Result<_> {
        let device =
            DeviceManager::start(LocalTransport::new(attached.device.clone())).map_err(text)?;
        Ok(device)
    };
    let device = match prepared() {
        Ok(device) => device,
        Err(why) => {
            start.wait();
            return Err(why);
        }
    };
    let ready = || -> Result<_> {
        let session = device.open_session().map_err(text)?;
        let program = session.load_program(EMPTY.as_bytes(), Format::Ptx).map_err(text)?;
        Ok((session, program))
    };
    let (session, program) = match ready() {
        Ok(ready) => ready,
        Err(why) => {
            start.wait();
            return Err(why);
        }
    };
    let mut slots = [Slot::NEW; 64];
    let function = program.function("empty").map_err(text);
    let queue = session.create_queue(&mut slots).map_err(text);
    start.wait();
    let (function, mut queue) = (function?, queue?);
    let mut once = || -> std::result::Result<(), String> {
        let launch = function.launch([1; 3], [1; 3]).map_err(text)?;
        let token = queue.launch(launch).map_err(text)?;
        queue.wait(token, PATIENCE_NS).map(drop).map_err(text)
    };
    for _ in 0..1000 {
        once()?;
    }
    let mut times = Vec::with_capacity(1 << 20);
    let mut failed = 0;
    let (begun, mut last) = (Instant::now(), Instant::now());
    while begun.elapsed() < time {
        failed += u64::from(once().is_err());
        let now = Instant::now();
        times.push((now - last).as_nanos() as f64);
        last = now;
    }
    let seconds = begun.elapsed().as_secs_f64();
    times.sort_unstable_by(f64::total_cmp);
    let at = |part: usize| times.get(times.len() * part / 1000).copied().unwrap_or(0.0);
    Ok(Looped {
        per_second: times.len() as f64 / seconds,
        p50_ns: at(500),
        p99_ns: at(990),
        longest_ns: times.last().copied().unwrap_or(0.0),
        failed,
    })
}

fn all_looped(world: &World, time: Duration) -> Result<Vec<Looped>> {
    let start = Barrier::new(world.tenants.len());
    std::thread::scope(|scope| {
        let start = &start;
        let threads: Vec<_> = world
            .tenants
            .iter()
            .map(|tenant| scope.spawn(move || looped(tenant, start, time)))
            .collect();
        threads.into_iter().map(|t| t.join().map_err(|_| "a tenant panicked".to_owned())?).collect()
    })
}

fn sum(all: &[Looped]) -> f64 {
    all.iter().map(|l| l.per_second).sum()
}

fn worst(all: &[Looped], of: fn(&Looped) -> f64) -> f64 {
    all.iter().map(of).fold(0.0, f64::max)
}

// --- Figures -----------------------------------------------------------------------------------

const G: &str = "cuda";

fn latency(time: Duration, figures: &mut Vec<Figure>) -> Result<()> {
    let native = natives(1, time, None)?[0];
    let mut child = Native::start(What::Async, None)?;
    child.go();
    let native_async = child.results()?;
    let world = World::new(&policy(1, "concurrent", "2s", 1, &[1])?)?;
    let mediated = all_looped(&world, time)?[0];
    figures.push(
        Figure::new(G, "launch and wait, p50", mediated.p50_ns, "ns")
            .against("native", native.p50_ns)
            .at_most(native.p50_ns + 2000.0),
    );
    figures.push(
        Figure::new(G, "launch and wait, p99", mediated.p99_ns, "ns")
            .against("native", native.p99_ns)
            .at_most(native.p99_ns + 10_000.0),
    );
    let device =
        DeviceManager::start(LocalTransport::new(world.tenants[0].device.clone())).map_err(text)?;
    let session = device.open_session().map_err(text)?;
    let program = session.load_program(EMPTY.as_bytes(), Format::Ptx).map_err(text)?;
    let function = program.function("empty").map_err(text)?;
    let mut slots = [Slot::NEW; 512];
    let mut queue = session.create_queue(&mut slots).map_err(text)?;
    let (mut issue, mut rates) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        queue.idle(PATIENCE_NS).map_err(text)?;
        while queue.poll_any().map_err(text)?.is_some() {}
        let begun = Instant::now();
        for _ in 0..64 {
            queue.launch(function.launch([1; 3], [1; 3]).map_err(text)?).map_err(text)?;
        }
        issue.push(begun.elapsed().as_nanos() as f64 / 64.0);
        queue.ring().map_err(text)?;
        queue.idle(PATIENCE_NS).map_err(text)?;
        while queue.poll_any().map_err(text)?.is_some() {}
        let (begun, mut sent, mut done) = (Instant::now(), 0_u32, 0_u32);
        while done < 50_000 {
            while sent < 50_000 && queue.in_flight() < 256 {
                queue.launch(function.launch([1; 3], [1; 3]).map_err(text)?).map_err(text)?;
                sent += 1;
            }
            queue.ring().map_err(text)?;
            while queue.poll_any().map_err(text)?.is_some() {
                done += 1;
            }
        }
        rates.push(50_000.0 / begun.elapsed().as_secs_f64());
    }
    issue.sort_unstable_by(f64::total_cmp);
    rates.sort_unstable_by(f64::total_cmp);
    let native = |name: &str| native_async.get(name).copied().unwrap_or(f64::NAN);
    figures.push(
        Figure::new(G, "asynchronous launch, as the client sees it", issue[2], "ns")
            .against("native", native("issue_ns"))
            .at_most(500.0),
    );
    figures.push(
        Figure::new(G, "launches in a row", rates[2], "1/s")
            .against("native", native("per_second"))
            .at_least(0.9 * native("per_second")),
    );
    Ok(())
}

fn copies(figures: &mut Vec<Figure>) -> Result<()> {
    let mut child = Native::start(What::Copies(&SIZES), None)?;
    child.go();
    let native = child.results()?;
    let world = World::new(&policy(1, "concurrent", "2s", 1, &[1])?)?;
    let most = SIZES[SIZES.len() - 1];
    let pages = Arc::new(SharedRegion::create("turnstile-bench", most).map_err(text)?);
    let tenant = &world.tenants[0];
    world.handle().add_memory(tenant.tenant, GPA, pages, 0, most).map_err(text)?;
    let device = DeviceManager::start(LocalTransport::new(tenant.device.clone())).map_err(text)?;
    let session = device.open_session().map_err(text)?;
    let extents = [DmaExtent { gpa: GPA, bytes: most }];
    let begun = Instant::now();
    let region = session.register_dma(&extents, Access::ReadWrite).map_err(text)?;
    figures.push(Figure::new(G, "registering 1 GiB", begun.elapsed().as_secs_f64() * 1e3, "ms"));
    let buffer = session.create_buffer(most, Usage::Device).map_err(text)?;
    let mut slots = [Slot::NEW; 16];
    let mut queue = session.create_queue(&mut slots).map_err(text)?;
    for bytes in SIZES {
        let rounds = (1_u64 << 30).div_ceil(bytes).clamp(5, 200);
        let mut times: [Vec<f64>; 2] = Default::default();
        for _ in 0..rounds {
            for (out, times) in times.iter_mut().enumerate() {
                let begun = Instant::now();
                let token = if out == 0 {
                    queue.copy(buffer.at(0), region.at(0), bytes)
                } else {
                    queue.copy(region.at(0), buffer.at(0), bytes)
                };
                token.and_then(|token| queue.wait(token, PATIENCE_NS)).map_err(text)?;
                times.push(begun.elapsed().as_nanos() as f64);
            }
        }
        for (way, mut times) in ["in", "out"].into_iter().zip(times) {
            times.sort_unstable_by(f64::total_cmp);
            let rate = |ns: f64| bytes as f64 / ns;
            let plain =
                |name: &str| native.get(&format!("{name}.{bytes}")).copied().unwrap_or(f64::NAN);
            let mediated = rate(times[times.len() / 2]);
            let what = format!("copy {way}, {} KiB", super::count(bytes / 1024));
            let figure = Figure::new(G, what, mediated, "GB/s")
                .against("native, registered", rate(plain(way)));
            let least = if bytes >= 1 << 20 { 0.98 } else { 0.9 };
            figures.push(if bytes >= 64 << 10 {
                figure.at_least(least * rate(plain(way)))
            } else {
                figure
            });
            let ordinary = rate(plain(&format!("pageable_{way}")));
            let what =
                format!("native copy {way} of ordinary memory, {} KiB", super::count(bytes / 1024));
            figures.push(Figure::new(G, what, ordinary, "GB/s"));
        }
    }
    Ok(())
}

fn tenants(counts: &[usize], time: Duration, figures: &mut Vec<Figure>) -> Result<()> {
    for &n in counts {
        let sliced = if n <= 15 { sum(&natives(n, time, None)?) } else { f64::NAN };
        let plain = {
            let mps = MpsService::start().map_err(text)?;
            natives(n, time, Some(&mps))?
        };
        let world = World::new(&policy(n, "concurrent", "2s", n.min(46), &[1])?)?;
        let all = all_looped(&world, time)?;
        drop(world);
        let figure = Figure::new(G, format!("{n} tenants, concurrent: launches"), sum(&all), "1/s")
            .against("plain MPS", sum(&plain));
        figures.push(if n == 15 { figure.at_least(0.5 * sum(&plain)) } else { figure });
        let figure = Figure::new(
            G,
            format!("{n} tenants, concurrent: worst p50"),
            worst(&all, |l| l.p50_ns) / 1e3,
            "us",
        )
        .against("plain MPS", worst(&plain, |l| l.p50_ns) / 1e3);
        figures.push(if n == 15 { figure.at_most(40.0) } else { figure });
        figures.push(
            Figure::new(
                G,
                format!("{n} tenants, concurrent: worst p99"),
                worst(&all, |l| l.p99_ns) / 1e3,
                "us",
            )
            .against("plain MPS", worst(&plain, |l| l.p99_ns) / 1e3),
        );
        let least = all.iter().map(|l| l.per_second).fold(f64::MAX, f64::min);
        let share = least / (sum(&all) / n as f64);
        figures.push(Figure::new(
            G,
            format!("{n} tenants, concurrent: least share of a fair one"),
            share,
            "",
        ));
        let failed: u64 = all.iter().map(|l| l.failed).sum();
        figures.push(
            Figure::new(G, format!("{n} tenants, concurrent: failed"), failed as f64, "")
                .at_most(0.0),
        );
        if n <= 15 {
            let world = World::new(&policy(n, "exclusive", "2s", n, &[1])?)?;
            let all = all_looped(&world, time)?;
            figures.push(
                Figure::new(G, format!("{n} tenants, exclusive: launches"), sum(&all), "1/s")
                    .against("time-slicing", sliced),
            );
        }
    }
    Ok(())
}

/// A tenant that hangs beside one that works, and what a session's ends and beginnings take.
fn trouble(figures: &mut Vec<Figure>) -> Result<()> {
    let world = World::new(&policy(3, "concurrent", "100ms", 3, &[1])?)?;
    std::thread::sleep(Duration::from_secs(2));
    let handle = world.handle();
    let start = Barrier::new(1);
    let (neighbour, timings) = std::thread::scope(|scope| {
        let neighbour = scope.spawn(|| looped(&world.tenants[0], &start, Duration::from_secs(4)));
        std::thread::sleep(Duration::from_secs(1));
        let timings = (|| -> Result<[f64; 5]> {
            let ms = |t: Instant| t.elapsed().as_secs_f64() * 1e3;
            let tenant = &world.tenants[1];
            let device =
                DeviceManager::start(LocalTransport::new(tenant.device.clone())).map_err(text)?;
            let begun = Instant::now();
            let session = device.open_session().map_err(text)?;
            let opened = ms(begun);
            let program = session.load_program(SPIN.as_bytes(), Format::Ptx).map_err(text)?;
            let function = program.function("empty").map_err(text)?;
            let mut slots = [Slot::NEW; 16];
            let mut queue = session.create_queue(&mut slots).map_err(text)?;
            let begun = Instant::now();
            let token =
                queue.launch(function.launch([1; 3], [1; 3]).map_err(text)?).map_err(text)?;
            let _ = queue.complete(token, PATIENCE_NS).map_err(text)?;
            let hung = ms(begun) - 100.0;
            drop(device.open_session());
            let again = ms(begun) - 100.0;
            // Revocation while a copy loop's session is open.
            let third = &world.tenants[2];
            let device =
                DeviceManager::start(LocalTransport::new(third.device.clone())).map_err(text)?;
            let session = device.open_session().map_err(text)?;
            let _buffer = session.create_buffer(512 << 20, Usage::Device).map_err(text)?;
            let begun = Instant::now();
            handle.revoke(third.tenant).map_err(text)?;
            let denied = ms(begun);
            handle.detach(third.tenant).map_err(text)?;
            Ok([opened, hung, again, denied, ms(begun)])
        })();
        (neighbour.join(), timings)
    });
    let [opened, hung, again, denied, unmapped] = timings?;
    let neighbour = neighbour.map_err(|_| "the neighbour panicked")??;
    figures.push(Figure::new(G, "session on a warm worker", opened, "ms").at_most(10.0));
    figures.push(Figure::new(G, "a hang: told after its limit", hung, "ms").at_most(100.0));
    figures.push(Figure::new(G, "a hang: a new session after its limit", again, "ms"));
    figures.push(
        Figure::new(G, "a hang: longest stall of a neighbour", neighbour.longest_ns / 1e6, "ms")
            .at_most(20.0),
    );
    figures.push(
        Figure::new(G, "a hang: a neighbour's failed commands", neighbour.failed as f64, "")
            .at_most(0.0),
    );
    figures.push(Figure::new(G, "revoke: denied", denied, "ms").at_most(1.0));
    figures.push(Figure::new(G, "revoke: memory back", unmapped, "ms").at_most(100.0));
    Ok(())
}
