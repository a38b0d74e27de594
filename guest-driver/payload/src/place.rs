//! Where the guest runs: its device as the driver's transport, its RAM, its arguments.
#![allow(unsafe_code)]

use core::cell::Cell;
use core::fmt;

use turnstile_abi::regs::{PAGE, VECTORS};
use turnstile_boot::{BootInfo, COMMAND_LINE_MAX};
use turnstile_driver::Transport;
use turnstile_driver::mmio::{Memory, Registers};
use turnstile_workloads::{Env, GuestPages, is_whole};

use crate::clock::Clock;
use crate::pci::{self, Bar};
use crate::{console, interrupt, processor};

/// Most RAM lent to the workload for DMA, in bytes.
const DMA_BYTES: u64 = 32 << 20;

unsafe extern "C" {
    static __image_end: u8;
}

/// The device, found and switched on.
pub(crate) struct Device {
    pub(crate) function: pci::Function,
    pub(crate) bars: [Bar; 3],
    pub(crate) registers: Registers,
    pub(crate) aperture: Memory,
    pub(crate) msix: Registers,
    clock: Clock,
    /// Interrupts seen by the last wait, by vector.
    seen: [Cell<u32>; VECTORS as usize],
}

impl Device {
    /// Finds the device, gives it addresses and switches its interrupts on.
    pub(crate) fn start(info: &BootInfo) -> Result<Device, pci::Missing> {
        let function = pci::Function::find()?;
        let bars = match info.window_bytes {
            0 => function.placed()?,
            bytes => function.assign(info.window_base, bytes)?,
        };
        let [b0, b2, b4] = bars;
        let registers = |bar: Bar| {
            // SAFETY: the BAR lies in the window or where `placed` found it; both are mapped one to
            // one for as long as the guest runs.
            unsafe { Registers::new(bar.base as *mut u8, bar.bytes) }
        };
        let (registers, msix) = (registers(b0), registers(b4));
        // The BAR is the aperture rounded up to a power of two; only the aperture has memory.
        let low = registers.read(turnstile_abi::regs::offset::APERTURE_BYTES, 8);
        // SAFETY: as above; memory of a BAR is never a Rust value.
        let aperture = unsafe { Memory::new(b2.base as *mut u8, low.min(b2.bytes)) };
        function.start_interrupts(&msix)?;
        let seen = [const { Cell::new(0) }; VECTORS as usize];
        let clock = Clock::start(info.tsc_khz);
        Ok(Device { function, bars, registers, aperture, msix, clock, seen })
    }
}

impl Transport for Device {
    type Aperture = Memory;
    fn read32(&self, at: u64) -> u32 {
        self.registers.read(at, 4) as u32
    }
    fn read64(&self, at: u64) -> u64 {
        self.registers.read(at, 8)
    }
    fn write32(&self, at: u64, value: u32) {
        self.registers.write(at, 4, value.into());
    }
    fn aperture(&self) -> &Memory {
        &self.aperture
    }
    fn wait_for_interrupt(&self, vector: u16, bound_ns: u64) {
        if let Some(seen) = self.seen.get(usize::from(vector)) {
            seen.set(interrupt::wait(&self.clock, vector, seen.get(), bound_ns));
        }
    }
    fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }
}

/// The guest's own part: RAM, arguments, processors.
pub(crate) struct Guest<'a> {
    pub(crate) device: &'a Device,
    pub(crate) info: BootInfo,
    pub(crate) arguments: &'static str,
    pages: Memory,
    pages_at: u64,
}

impl<'a> Guest<'a> {
    pub(crate) fn new(device: &'a Device, info: BootInfo, arguments: &'static str) -> Guest<'a> {
        let image_end = &raw const __image_end as u64;
        let pages_at = image_end.next_multiple_of(PAGE);
        let bytes = info.ram_bytes.saturating_sub(pages_at).min(DMA_BYTES) / PAGE * PAGE;
        // SAFETY: RAM beyond the image is mapped and belongs to nobody else.
        let pages = unsafe { Memory::new(pages_at as *mut u8, bytes) };
        Guest { device, info, arguments, pages, pages_at }
    }
}

impl Guest<'_> {
    /// Whether an access reaches the device in one piece: always in our own microVM, which is the
    /// one that leaves BARs to the guest.
    const fn arrives(&self, at: u64, bytes: u8) -> bool {
        self.info.window_bytes != 0 || is_whole(at, bytes)
    }
}

impl Env for Guest<'_> {
    type Memory = Memory;
    fn print(&self, line: fmt::Arguments<'_>) {
        console::line(line);
    }
    fn arg(&self, key: &str) -> Option<&str> {
        let mut words = self.arguments.split_ascii_whitespace();
        words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }
    /// None with the argument `dma=0`: for VMMs whose memory the mediator does not take.
    fn pages(&self) -> Option<GuestPages<'_, Memory>> {
        let wanted = self.arg("dma") != Some("0");
        wanted.then_some(GuestPages { memory: &self.pages, gpa: self.pages_at })
    }
    fn aperture_gpa(&self) -> Option<u64> {
        Some(self.device.bars[1].base)
    }
    fn alongside(&self, other: &(dyn Fn() + Sync), body: &mut dyn FnMut()) -> bool {
        processor::alongside(&self.device.clock, self.info.cpus, other, body)
    }
    fn mmio_read(&self, at: u64, bytes: u8) -> Option<u64> {
        self.arrives(at, bytes).then(|| self.device.registers.read(at, bytes))
    }
    fn mmio_write(&self, at: u64, bytes: u8, value: u64) -> bool {
        let arrives = self.arrives(at, bytes);
        if arrives {
            self.device.registers.write(at, bytes, value);
        }
        arrives
    }
}

/// Reads the boot record.
pub(crate) fn boot_info(at: *const [u8; BootInfo::BYTES]) -> Option<BootInfo> {
    // SAFETY: the VM passes the record's address (turnstile-boot), and nobody changes it.
    BootInfo::from_bytes(unsafe { &*at })
}

/// The command line; the empty one if it is not text.
pub(crate) fn command_line(info: &BootInfo) -> &'static str {
    let bytes = (info.command_line_bytes as usize).min(COMMAND_LINE_MAX);
    // SAFETY: the boot record names it, low RAM outside the image; nobody changes it.
    let line = unsafe { core::slice::from_raw_parts(info.command_line as *const u8, bytes) };
    core::str::from_utf8(line).unwrap_or("")
}
