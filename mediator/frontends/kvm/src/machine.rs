//! A microVM: put together, started, waited for, taken apart.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvm_ioctls::{Cap, Kvm};
use turnstile_abi::memory::SharedMemory;
use turnstile_backend_api::SharedRegion;
use turnstile_device::Device;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::boot::{self, Image};
use crate::bus::{Bus, SerialInterrupt, Traps};
use crate::console::{Console, OnLine};
use crate::life::{Exit, Life, Reason};
use crate::memory::{Ram, RamSlot};
use crate::platform::Platform;
use crate::sys::{self, Vm};
use crate::vcpu::Vcpu;
use crate::{KICK_AGAIN, KvmError, bench, cpuid, layout, probe};

/// Interrupt line of the first serial port.
const SERIAL_GSI: u32 = 4;

/// What a microVM runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A bare-metal ELF executable that boots as `turnstile_boot` says.
    Elf(Vec<u8>),
    /// A Linux kernel, bzImage or vmlinux, and its initramfs.
    Linux {
        /// The kernel.
        kernel: Vec<u8>,
        /// The initramfs, as the kernel takes it (a cpio archive, compressed or not).
        initramfs: Option<Vec<u8>>,
    },
}

/// What a microVM is made of.
pub struct Config {
    /// Name of the tenant, for threads and messages.
    pub name: String,
    /// RAM in bytes, a multiple of 4 KiB.
    pub memory_bytes: u64,
    /// vCPUs, at least 1.
    pub vcpus: u8,
    /// What it runs.
    pub payload: Payload,
    /// The guest's command line.
    pub args: String,
    /// Gets the guest's output line by line, at a bounded rate.
    pub on_line: Option<OnLine>,
}

/// Everything of a VM but its threads.
pub(crate) struct Parts {
    pub(crate) ram: Ram,
    pub(crate) bus: Arc<Bus>,
    pub(crate) vcpus: Vec<Vcpu>,
}

/// Puts a VM together.
pub(crate) fn assemble(
    kvm: &Kvm,
    config: &Config,
    image: &Image<'_>,
    device: &Arc<Device>,
    console: Console,
) -> Result<Parts, KvmError> {
    check(config, device)?;
    let vm = Arc::new(Vm::new(kvm)?);
    let ram = Ram::new(&config.name, config.memory_bytes, &vm)?;
    let mut platform = Platform::new(vm.clone(), device.clone())?;
    let bars = image.wants_firmware().then(|| platform.assign(layout::WINDOW));
    if image.is_linux() {
        boot::linux_clockwork(&vm)?;
    }

    let line = EventFd::new(EFD_NONBLOCK).map_err(KvmError::host("create an eventfd"))?;
    vm.fd()
        .register_irqfd(&line, SERIAL_GSI)
        .map_err(KvmError::call("connect the serial line's interrupt"))?;
    let bus = Arc::new(Bus::new(device.clone(), platform, console, SerialInterrupt(line)));

    let supported = kvm
        .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
        .map_err(KvmError::call("say what processors it has"))?;
    let deadline_timer = kvm.check_extension(Cap::TscDeadlineTimer);
    let mut vcpus = Vec::new();
    for index in 0..config.vcpus {
        let fd = vm.fd().create_vcpu(index.into()).map_err(KvmError::call("create a vCPU"))?;
        let mut cpuid = supported.clone();
        cpuid::adjust(&mut cpuid, index, config.vcpus, deadline_timer);
        fd.set_cpuid2(&cpuid).map_err(KvmError::call("set a vCPU's CPUID"))?;
        vcpus.push(Vcpu::new(fd, vm.clone(), index));
    }
    let tsc_khz = vcpus.first().and_then(|v| v.fd().get_tsc_khz().ok()).unwrap_or(0);
    let window = (layout::WINDOW, layout::window_bytes(device.aperture().size()));
    let mut entry = boot::load(image, &config.args, &ram, window, config.vcpus, tsc_khz)?;
    if let (Image::Flat { .. }, Some([registers, ..])) = (image, bars) {
        entry = entry.with_argument(registers + bench::REGISTER);
    }
    for (index, vcpu) in (0..).zip(&vcpus) {
        entry.prepare(vcpu.fd(), index)?;
    }
    Ok(Parts { ram, bus, vcpus })
}

/// Refuses what a microVM cannot be, before anything is made.
fn check(config: &Config, device: &Device) -> Result<(), KvmError> {
    let refuse = |what, value, must: String| {
        Err(KvmError::Config { name: config.name.clone(), what, value, must })
    };
    let ram = config.memory_bytes;
    if !layout::RAM.contains(&ram) || !ram.is_multiple_of(4096) {
        let must = format!("{:?} and a multiple of 4096", layout::RAM);
        return refuse("its memory in bytes", ram, must);
    }
    if config.vcpus == 0 || config.vcpus > layout::VCPUS_MAX {
        let must = format!("1 to {}", layout::VCPUS_MAX);
        return refuse("its number of vCPUs", config.vcpus.into(), must);
    }
    let aperture = device.aperture().size();
    if aperture > layout::APERTURE_MAX || !aperture.is_multiple_of(4096) {
        let must = format!("at most {} and a multiple of 4096", layout::APERTURE_MAX);
        return refuse("its aperture in bytes", aperture, must);
    }
    if config.args.len() > turnstile_boot::COMMAND_LINE_MAX || config.args.contains('\0') {
        let must = format!("at most {} and without NUL", turnstile_boot::COMMAND_LINE_MAX);
        return refuse("the length of its arguments", config.args.len() as u64, must);
    }
    Ok(())
}

/// A microVM with one mediated device. Dropping it stops it and gives everything back.
pub struct MicroVm {
    name: String,
    ram: Arc<SharedRegion>,
    slots: Vec<RamSlot>,
    bus: Arc<Bus>,
    console: Console,
    life: Arc<Life>,
    /// Until the start.
    vcpus: Option<Vec<Vcpu>>,
    threads: Vec<JoinHandle<()>>,
}

impl MicroVm {
    /// Puts a VM together around a device; it does not run yet.
    pub fn new(mut config: Config, device: Arc<Device>) -> Result<MicroVm, KvmError> {
        let kvm = probe::open()?;
        sys::install()?;
        let event = EventFd::new(EFD_NONBLOCK).map_err(KvmError::host("create an eventfd"))?;
        let console = Console::new(config.on_line.take());
        let image = Image::from(&config.payload);
        let parts = assemble(&kvm, &config, &image, &device, console.clone())?;
        Ok(MicroVm {
            ram: parts.ram.region().clone(),
            slots: parts.ram.slots().to_vec(),
            bus: parts.bus,
            console,
            life: Arc::new(Life::new(config.vcpus, event)),
            vcpus: Some(parts.vcpus),
            threads: Vec::new(),
            name: config.name,
        })
    }

    /// The guest's RAM; [`ram_slots`](Self::ram_slots) says where it is. This is all the guest
    /// memory there is to register for DMA: the aperture is not part of it.
    #[must_use]
    pub fn ram(&self) -> &Arc<SharedRegion> {
        &self.ram
    }

    /// Where RAM lies in guest physical memory.
    #[must_use]
    pub fn ram_slots(&self) -> &[RamSlot] {
        &self.slots
    }

    /// Starts the vCPUs, each on a thread of its own.
    pub fn start(&mut self) -> Result<(), KvmError> {
        for (index, vcpu) in self.vcpus.take().ok_or(KvmError::Started)?.into_iter().enumerate() {
            let (bus, life) = (self.bus.clone(), self.life.clone());
            let thread = std::thread::Builder::new()
                .name(format!("vcpu{index}-{}", self.name))
                .spawn(move || {
                    let end = EndIfPanicking(&life);
                    vcpu.run(&bus, &life);
                    drop(end);
                });
            match thread {
                Ok(thread) => self.threads.push(thread),
                Err(source) => {
                    self.stop();
                    return Err(KvmError::Host { what: "start a vCPU's thread", source });
                }
            }
        }
        Ok(())
    }

    /// Waits for the VM's end, at most this long. `None`: it still runs.
    #[must_use]
    pub fn wait(&self, timeout: Duration) -> Option<Exit> {
        let reason = self.life.wait(timeout)?;
        Some(Exit { reason, console: self.console.tail() })
    }

    /// How the VM ended, if it has.
    #[must_use]
    pub fn exit(&self) -> Option<Exit> {
        self.wait(Duration::ZERO)
    }

    /// Signalled when the VM has ended, for an event loop.
    #[must_use]
    pub fn ended(&self) -> &EventFd {
        self.life.event()
    }

    /// Traps that the vCPUs took to userspace so far.
    #[must_use]
    pub fn traps(&self) -> Traps {
        self.bus.traps()
    }

    /// Bytes that the guest printed so far.
    #[must_use]
    pub fn console_bytes(&self) -> u64 {
        self.console.total_bytes()
    }

    /// Stops the VM, wherever its vCPUs are, and waits for their threads. A VM that has ended keeps
    /// its reason.
    pub fn stop(&mut self) {
        self.life.end(Reason::Stopped);
        for thread in self.threads.drain(..) {
            let mut again = Instant::now() + KICK_AGAIN;
            while !thread.is_finished() {
                std::thread::sleep(Duration::from_micros(100));
                // One kick is enough by design; a second costs nothing.
                if Instant::now() >= again {
                    self.life.kick();
                    again += KICK_AGAIN;
                }
            }
            if thread.join().is_err() {
                tracing::error!(name = %self.name, "a vCPU's thread panicked");
            }
        }
    }
}

/// Ends the VM when the vCPU's thread panics (the operator's line callback may).
struct EndIfPanicking<'l>(&'l Life);

impl Drop for EndIfPanicking<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end(Reason::Failed("a vCPU's thread panicked; see standard error".into()));
        }
    }
}

impl Drop for MicroVm {
    fn drop(&mut self) {
        self.stop();
    }
}

impl std::fmt::Debug for MicroVm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MicroVm")
            .field("name", &self.name)
            .field("slots", &self.slots)
            .field("reason", &self.life.reason())
            .finish_non_exhaustive()
    }
}
