//! The same work without a mediator, for `turnstile bench`: what the driver gives one process that calls
//! it directly.

use std::io::BufRead;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use turnstile_backend_api::SharedRegion;

use crate::driver::{DriverError, Function, Gpu, Stream};
use crate::worker::host::{Memory, Slice};

/// A kernel that does nothing.
pub const EMPTY: &str =
    ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry empty()\n{\n\tret;\n}\n";

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Launch and synchronise, in a loop, for so long, once a line comes on standard input.
    Loop(Duration),
    /// Launches without waiting.
    Async,
    /// Copies from registered shared memory and from ordinary memory, of so many bytes.
    Copies(&'static [u64]),
}

struct Rig {
    gpu: Gpu,
    function: Function,
    stream: Stream,
}

impl Rig {
    fn new(ordinal: u32) -> Result<Rig, DriverError> {
        let gpu = Gpu::open(ordinal)?;
        let text = std::ffi::CString::new(EMPTY).unwrap_or_default();
        let image = gpu.compile(&text).map_err(|(error, _)| error)?;
        let module = gpu.load(&image)?;
        let none = DriverError { call: "cuModuleGetFunction", code: 500 };
        let function = gpu.function(&module, "empty")?.ok_or(none)?;
        Ok(Rig { gpu, function, stream: gpu.stream()? })
    }

    fn launch(&self) -> Result<(), DriverError> {
        let one = [1, 1, 1];
        self.gpu.launch(&self.function, (one, one), 0, false, &mut [], &self.stream)
    }

    fn wait(&self) -> Result<(), DriverError> {
        self.gpu.wait(&self.stream)
    }
}

/// Measures and prints `NAME VALUE` lines.
///
/// # Errors
/// What the driver says.
pub fn main(ordinal: u32, what: What) -> Result<(), String> {
    crate::driver::library()?;
    let rig = Rig::new(ordinal).map_err(|e| e.to_string())?;
    match what {
        What::Loop(time) => looped(&rig, time),
        What::Async => launches(&rig),
        What::Copies(sizes) => copies(&rig, sizes).map_err(|e| e.to_string()),
    }
}

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn looped(rig: &Rig, time: Duration) -> Result<(), String> {
    let text = |e: DriverError| e.to_string();
    for _ in 0..1000 {
        rig.launch().and_then(|()| rig.wait()).map_err(text)?;
    }
    println!("ready 1");
    let mut line = String::new();
    let _ = std::io::stdin().lock().read_line(&mut line);
    let mut times = Vec::with_capacity(1 << 20);
    let (begun, mut last) = (Instant::now(), Instant::now());
    while begun.elapsed() < time {
        rig.launch().and_then(|()| rig.wait()).map_err(text)?;
        let now = Instant::now();
        times.push(ns(now - last));
        last = now;
    }
    let seconds = begun.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |part: usize| times.get(times.len() * part / 1000).copied().unwrap_or(0);
    println!("per_second {}", times.len() as f64 / seconds);
    println!("p50_ns {}\np99_ns {}\nlongest_ns {}", at(500), at(990), times.last().unwrap_or(&0));
    Ok(())
}

fn launches(rig: &Rig) -> Result<(), String> {
    let text = |e: DriverError| e.to_string();
    const N: u32 = 20_000;
    let mut issue = Vec::new();
    let mut total = Vec::new();
    for _ in 0..5 {
        rig.wait().map_err(text)?;
        let begun = Instant::now();
        for _ in 0..64 {
            rig.launch().map_err(text)?;
        }
        issue.push(ns(begun.elapsed()) / 64);
        rig.wait().map_err(text)?;
        let begun = Instant::now();
        for _ in 0..N {
            rig.launch().map_err(text)?;
        }
        rig.wait().map_err(text)?;
        total.push(f64::from(N) / begun.elapsed().as_secs_f64());
    }
    issue.sort_unstable();
    total.sort_unstable_by(f64::total_cmp);
    println!("issue_ns {}\nper_second {}", issue[2], total[2]);
    Ok(())
}

fn copies(rig: &Rig, sizes: &[u64]) -> Result<(), Box<dyn std::error::Error>> {
    let most = sizes.iter().copied().max().unwrap_or(0);
    let region = SharedRegion::create("turnstile-native", most)?;
    let mut memory = Memory::default();
    memory.add(1, region.fd().as_fd().try_clone_to_owned()?);
    let registered = memory.register(&rig.gpu, &[Slice { memory: 1, offset: 0, bytes: most }])?;
    let device = rig.gpu.allocate(most)?;
    let mut ordinary = vec![1_u8; usize::try_from(most)?];
    for &bytes in sizes {
        let rounds = (1_u64 << 30).div_ceil(bytes).clamp(5, 200);
        let mut times: [Vec<u64>; 4] = Default::default();
        for _ in 0..rounds {
            let begun = Instant::now();
            rig.gpu.copy(device, registered.device, bytes, &rig.stream)?;
            rig.wait()?;
            times[0].push(ns(begun.elapsed()));
            let begun = Instant::now();
            rig.gpu.copy(registered.device, device, bytes, &rig.stream)?;
            rig.wait()?;
            times[1].push(ns(begun.elapsed()));
        }
        for _ in 0..rounds.min(20) {
            let ordinary = &mut ordinary[..bytes as usize];
            let begun = Instant::now();
            rig.gpu.write(device, ordinary)?;
            times[2].push(ns(begun.elapsed()));
            let begun = Instant::now();
            rig.gpu.read(device, ordinary)?;
            times[3].push(ns(begun.elapsed()));
        }
        for (name, times) in
            ["in", "out", "pageable_in", "pageable_out"].into_iter().zip(&mut times)
        {
            times.sort_unstable();
            println!("{name}.{bytes} {}", times.get(times.len() / 2).unwrap_or(&0));
        }
    }
    registered.end()?;
    Ok(())
}
