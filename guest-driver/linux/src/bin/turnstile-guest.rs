//! `turnstile-guest`: looks at the Turnstile device of this machine, runs work on it, measures it.

use std::process::ExitCode;
use std::time::Instant;

use turnstile_abi::memory::SharedMemory;
use turnstile_abi::regs::{doorbell, offset};
use turnstile_driver::{DeviceManager, Transport};
use turnstile_linux::device::LinuxEnv;
use turnstile_linux::{Device, find};
use turnstile_workloads::Workload;

const USAGE: &str = "\
usage: turnstile-guest [--device ADDRESS] COMMAND

  info                         the device and what this tenant may do
  run vecadd|copy [KEY=VALUE]  GPU work whose results are checked; reduce is part of vecadd
  bench [KEY=VALUE]            cost of a trapped access, of the aperture, and of a command
  stress [KEY=VALUE]           random work against a model
  hostile [KEY=VALUE]          every attack a tenant can make; passes if all are refused
  trap [COUNT]                 only the cost of a trapped read, of any PCI function's BAR0

The device is found by itself; with vfio-pci bound it is reached through VFIO, otherwise through
sysfs, which takes root. KEY=VALUE are the workload's: n=100000, bytes=65536, seed=1.
Exit codes: 0 passed, 1 a check failed, 2 used wrongly or no device.";

enum Failure {
    /// Used wrongly, or no device.
    Input(String),
    /// A check failed, and said so.
    Check,
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::Input(error.to_string())
    }
}

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let mut address = None;
    if words.first().is_some_and(|w| w == "--device") && words.len() > 1 {
        address = Some(words.remove(1));
        words.remove(0);
    }
    match command(address.as_deref(), words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Check) => ExitCode::from(1),
        Err(Failure::Input(why)) => {
            eprintln!("error: {why}");
            ExitCode::from(2)
        }
    }
}

fn command(address: Option<&str>, mut words: Vec<String>) -> Result<(), Failure> {
    if words.is_empty() {
        return Err(Failure::Input(USAGE.into()));
    }
    let verb = words.remove(0);
    match verb.as_str() {
        "info" => info(address),
        "run" if !words.is_empty() => {
            let name = words.remove(0);
            let workload = match name.as_str() {
                "reduce" => Workload::Vecadd,
                name => Workload::from_name(name)
                    .ok_or_else(|| Failure::Input(format!("no workload is called {name}")))?,
            };
            run(address, workload, words)
        }
        "stress" => run(address, Workload::Stress, words),
        "hostile" => run(address, Workload::Hostile, words),
        "bench" => bench(address, words),
        "trap" => {
            let n = words.first().and_then(|n| n.parse().ok()).unwrap_or(2000);
            trap(&Device::open(address)?, n);
            Ok(())
        }
        _ => Err(Failure::Input(USAGE.into())),
    }
}

fn info(address: Option<&str>) -> Result<(), Failure> {
    for function in find() {
        let driver = function.driver().unwrap_or_else(|| "no driver".into());
        println!("{}: Turnstile device, {driver}", function.address);
    }
    let device = Device::open(address)?;
    let manager = DeviceManager::start(&device)?;
    let limits = manager.identify()?;
    println!("device: {} through {}", device.function().address, device.way());
    let version = manager.version();
    println!("abi: {}.{}", version.major(), version.minor());
    println!(
        "aperture: {} bytes, buffers from {}",
        manager.aperture_bytes(),
        manager.heap_offset()
    );
    println!("limits: {limits:#?}");
    match device.pages() {
        Some((pages, at)) => println!("dma: {} bytes at {at:#x}", pages.size()),
        None => println!("dma: not this way; bind vfio-pci and give the VM a vIOMMU for it"),
    }
    Ok(())
}

fn run(address: Option<&str>, workload: Workload, args: Vec<String>) -> Result<(), Failure> {
    let device = Device::open(address)?;
    let env = LinuxEnv { device: &device, args };
    let passed = turnstile_workloads::run(workload, &device, &env);
    if let Some(interrupts) = device.interrupts() {
        println!("interrupts: {interrupts}");
    }
    if passed { Ok(()) } else { Err(Failure::Check) }
}

fn bench(address: Option<&str>, args: Vec<String>) -> Result<(), Failure> {
    let device = Device::open(address)?;
    trap(&device, 2000);
    let aperture = device.aperture();
    let n = 1_000_000_u64;
    let start = Instant::now();
    let mut sum = 0_u64;
    for i in 0..n {
        sum = sum.wrapping_add(aperture.load64(i % 512 * 8).unwrap_or(0));
    }
    let each = start.elapsed().as_nanos() as f64 / n as f64;
    println!("metric: aperture.load64 mean_ns={each:.1} n={n} sum={}", std::hint::black_box(sum));
    let start = Instant::now();
    for _ in 0..500 {
        device.write32(doorbell(0), 0);
    }
    let each = start.elapsed().as_nanos() / 500;
    println!("metric: doorbell.write mean_ns={each} n=500");
    let args = if args.is_empty() { vec!["n=2000".into()] } else { args };
    let env = LinuxEnv { device: &device, args };
    match turnstile_workloads::run(Workload::Nop, &device, &env) {
        true => Ok(()),
        false => Err(Failure::Check),
    }
}

/// The cost of a trapped read, one by one.
fn trap(device: &Device, n: usize) {
    let mut times: Vec<u64> = (0..n.clamp(1, 1 << 20))
        .map(|_| {
            let start = Instant::now();
            std::hint::black_box(device.registers().read(offset::MAGIC, 4));
            // CAST: less than 584 years.
            start.elapsed().as_nanos() as u64
        })
        .collect();
    let mean = times.iter().sum::<u64>() / times.len() as u64;
    times.sort_unstable();
    let at = |part: usize| times[(times.len() * part / 1000).min(times.len() - 1)];
    println!(
        "metric: trap.read p50_ns={} p99_ns={} mean_ns={mean} min_ns={} n={}",
        at(500),
        at(990),
        times[0],
        times.len()
    );
}
