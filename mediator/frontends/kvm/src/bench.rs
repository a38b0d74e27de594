//! What a trap costs, measured against KVM itself.

use std::sync::Arc;
use std::time::Instant;

use kvm_ioctls::VcpuExit;
use turnstile_abi::regs::offset;
use turnstile_device::Device;

use crate::boot::Image;
use crate::console::Console;
use crate::machine::{Config, Parts, Payload, assemble};
use crate::vcpu::Step;
use crate::{KvmError, probe};

/// RAM of the measuring guest.
const RAM_BYTES: u64 = 16 << 20;
/// Reads timed together: short enough that most batches are not interrupted.
const BATCH: u32 = 32;
/// Batches are sorted by time and the one a tenth up counts: what a trap costs when nothing
/// disturbs it, without picking the luckiest.
const QUANTILE: f64 = 0.1;

/// Reads a register for ever: `mov eax, [rdi]; jmp` to itself. Its address is in `rdi`.
const LOOP: &[u8] = &[0x8b, 0x07, 0xeb, 0xfc];

/// Cost of a trapped 4-byte register read, in nanoseconds: into the guest, out of it, answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrapCost {
    /// With an empty handler: what KVM itself costs.
    pub bare_ns: f64,
    /// Of the `VERSION` register, through the bus and the device.
    pub device_ns: f64,
    /// Reads measured of each kind.
    pub reads: u32,
}

impl TrapCost {
    /// How many times a bare trap the device's costs.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.device_ns / self.bare_ns
    }
}

/// Measures what a trapped BAR0 read costs on this machine and what KVM alone takes for it, batches
/// of the two taking turns. `device` is any device that nobody else uses meanwhile; of each kind about
/// `reads` are made, at least 320.
pub fn trap_cost(device: &Arc<Device>, reads: u32) -> Result<TrapCost, KvmError> {
    let kvm = probe::open()?;
    let config = Config {
        name: "bench".into(),
        memory_bytes: RAM_BYTES,
        vcpus: 1,
        payload: Payload::Elf(Vec::new()),
        args: String::new(),
        on_line: None,
    };
    let build = |assign| {
        let image = Image::Flat { code: LOOP, assign };
        assemble(&kvm, &config, &image, device, Console::new(None))
    };
    // The same guest twice: before a device with all its doorbells, and before nothing.
    let (mut bare, mut full) = (build(false)?, build(true)?);
    let batches = (reads / BATCH).max(10) as usize;
    let mut times = [Vec::with_capacity(batches), Vec::with_capacity(batches)];
    for _ in 0..batches {
        times[0].push(time(|| bare_read(&mut bare))?);
        times[1].push(time(|| device_read(&mut full))?);
    }
    let [bare_ns, device_ns] = times.map(|mut times| {
        times.sort_unstable_by(f64::total_cmp);
        times[(batches as f64 * QUANTILE) as usize]
    });
    Ok(TrapCost { bare_ns, device_ns, reads: batches as u32 * BATCH })
}

fn time(mut read: impl FnMut() -> Result<(), KvmError>) -> Result<f64, KvmError> {
    read()?; // not counted: it finds the caches full of the other VM
    let start = Instant::now();
    for _ in 0..BATCH {
        read()?;
    }
    Ok(start.elapsed().as_nanos() as f64 / f64::from(BATCH))
}

/// One exit with an empty handler.
fn bare_read(parts: &mut Parts) -> Result<(), KvmError> {
    let [vcpu] = &mut parts.vcpus[..] else { return Err(odd("there is no vCPU")) };
    loop {
        match vcpu.fd_mut().run() {
            Ok(VcpuExit::MmioRead(_, data)) => {
                data.fill(0);
                return Ok(());
            }
            Ok(exit) => return Err(odd(&format!("{exit:?}"))),
            Err(error) if error.errno() == libc::EINTR => {}
            Err(error) => return Err(KvmError::call("run the measuring guest")(error)),
        }
    }
}

/// One exit handled as in a running VM.
fn device_read(parts: &mut Parts) -> Result<(), KvmError> {
    let [vcpu] = &mut parts.vcpus[..] else { return Err(odd("there is no vCPU")) };
    loop {
        match vcpu.step(&parts.bus) {
            Step::Handled => return Ok(()),
            Step::Interrupted => {}
            Step::End(reason) => return Err(odd(&format!("{reason:?}"))),
        }
    }
}

fn odd(what: &str) -> KvmError {
    let source = std::io::Error::other(format!("the measuring guest left with {what}"));
    KvmError::Call { what: "run the measuring guest", source }
}

/// The register that is read: its address is what the guest gets.
pub(crate) const REGISTER: u64 = offset::VERSION;
