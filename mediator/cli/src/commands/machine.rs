//! What this machine can do: the backend a policy asks for, limits, memory used.

use turnstile_backend_api::Backend;
use turnstile_emulated::device::{Script, Scripted};
use turnstile_policy::{Backend as Wanted, CudaOptions, DevicePolicy, VfioOptions};
use turnstile_vfio::address::AddressError;
use turnstile_vfio::{Address, Allowances, Claim, Claimed, Function, Host, Mediated, Records};

use super::failure::Failure;

/// Opens the backend a policy asks for. `faults` go wrong on purpose; only the emulated GPU can.
pub(super) fn backend(
    device: &DevicePolicy,
    faults: &[Scripted],
) -> Result<Box<dyn Backend>, Failure> {
    if !faults.is_empty() && !matches!(device.backend, Wanted::Emulated(_)) {
        return Err(Failure::input(
            "only the emulated GPU goes wrong on purpose",
            "leave --fault out, or write \"backend\": \"emulated\" in device",
        ));
    }
    match &device.backend {
        Wanted::Emulated(options) => {
            let processors = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
            let settings = turnstile_emulated::device::Settings {
                memory_bytes: device.memory_bytes,
                threads: options.workers.unwrap_or(processors),
                script: Script(faults.to_vec()),
            };
            let gpu = turnstile_emulated::device::EmulatedGpu::start(settings);
            Ok(Box::new(gpu.map_err(|e| out_of("threads or file descriptors", &e))?))
        }
        Wanted::Cuda(options) => {
            let gpu = turnstile_cuda::CudaGpu::start(cuda_settings(device, options));
            Ok(Box::new(gpu.map_err(|e| Failure::machine(e.to_string(), ""))?))
        }
        Wanted::Vfio(options) => vfio(options),
    }
}

/// The CUDA backend's settings, as a policy has them. Workers are this program again.
pub(super) fn cuda_settings(
    device: &DevicePolicy,
    options: &CudaOptions,
) -> turnstile_cuda::Settings {
    let CudaOptions { device: ordinal, mps, warm_workers, cache } = options;
    turnstile_cuda::Settings {
        device: *ordinal,
        memory_bytes: device.memory_bytes,
        mps: match mps {
            turnstile_policy::Mps::Auto => turnstile_cuda::Mps::Auto,
            turnstile_policy::Mps::Require => turnstile_cuda::Mps::Require,
            turnstile_policy::Mps::Off => turnstile_cuda::Mps::Off,
        },
        warm_workers: *warm_workers,
        cache: cache.clone(),
        overcommit: device.overcommit,
        worker: ("/proc/self/exe".into(), vec!["cuda-worker".into()]),
    }
}

/// Claims a function, opens it, and gives it back when the backend ends.
fn vfio(options: &VfioOptions) -> Result<Box<dyn Backend>, Failure> {
    let address: Address = options
        .function
        .parse()
        .map_err(|e: AddressError| Failure::input(e.to_string(), "mend device.vfio.function"))?;
    let (host, records) = (Host::here(), Records::default());
    for (address, result) in records.recover(&host) {
        match result {
            Ok(()) => tracing::warn!(%address, "put back what a killed daemon had claimed"),
            Err(error) => tracing::warn!(%address, %error, "left claimed by a killed daemon"),
        }
    }
    // A Turnstile device has a reset of its own.
    let allow = Allowances {
        unsafe_interrupts: options.unsafe_interrupts,
        ats: options.ats,
        no_reset: true,
    };
    let claim = Claim::take(host, &records, &address, &allow)
        .map_err(|e| Failure::machine(e.to_string(), ""))?;
    let backend = Mediated::start(move || {
        Function::open(&Host::here(), claim.address()).map(|function| Claimed::new(claim, function))
    });
    Ok(Box::new(backend.map_err(|e| Failure::machine(e.to_string(), ""))?))
}

/// Fails unless microVMs can run here.
pub(super) fn needs_kvm() -> Result<(), Failure> {
    turnstile_kvm::probe().map_err(|e| Failure::machine(e.to_string(), ""))
}

/// Something the process may not have more of.
pub(super) fn out_of(what: &str, error: &std::io::Error) -> Failure {
    Failure::machine(format!("no {what} left: {error}"), "raise the limits (ulimit -n, ulimit -u)")
}

/// The most memory this process ever had resident, in bytes.
pub(crate) fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
