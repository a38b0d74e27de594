//! The BARs as resource files of sysfs: for root, with polling, without DMA.

use std::io::Write;
use std::time::Instant;

use turnstile_abi::regs::{BAR0_SIZE, PAGE};
use turnstile_driver::Transport;
use turnstile_driver::mmio::{Memory, Registers};

use crate::OpenError;
use crate::find::Function;
use crate::map::{MappedMemory, MappedRegisters};

const ROOT: &str = "run it as root";

/// The way to a device through its resource files.
#[derive(Debug)]
pub struct SysfsTransport {
    registers: MappedRegisters,
    aperture: MappedMemory,
    start: Instant,
}

impl SysfsTransport {
    /// Maps the BARs of a function that no driver is bound to, and enables it.
    ///
    /// # Errors
    /// When a driver is bound, this is not root, or the BARs are too small.
    pub fn open(function: &Function) -> Result<SysfsTransport, OpenError> {
        if let Some(driver) = function.driver() {
            return Err(OpenError::Bound { function: function.address.clone(), driver });
        }
        // Firmware leaves memory decoding off where nothing boots from the device.
        let enable = function.directory().join("enable");
        std::fs::OpenOptions::new()
            .write(true)
            .open(&enable)
            .and_then(|mut file| file.write_all(b"1"))
            .map_err(OpenError::file("enable the function with", &enable, ROOT))?;
        let bar = |index: u8, least: u64| {
            let bytes = function.bar(index).map_or(0, |(_, bytes)| bytes);
            if bytes < least {
                let function = function.address.clone();
                return Err(OpenError::Bar { function, bar: index, bytes });
            }
            let path = function.directory().join(format!("resource{index}"));
            let file = std::fs::OpenOptions::new().read(true).write(true).open(&path);
            file.map(|file| (file, bytes)).map_err(OpenError::file("open", &path, ROOT))
        };
        let mapped = |what| OpenError::file(what, function.directory(), "see dmesg");
        let (file, bytes) = bar(0, BAR0_SIZE)?;
        let registers = MappedRegisters::map(file, 0, bytes).map_err(mapped("map BAR0 of"))?;
        let (file, bytes) = bar(2, PAGE)?;
        let aperture = MappedMemory::map(file, 0, bytes).map_err(mapped("map BAR2 of"))?;
        Ok(SysfsTransport { registers, aperture, start: Instant::now() })
    }

    /// BAR0, for accesses of any width.
    #[must_use]
    pub fn registers(&self) -> &Registers {
        self.registers.get()
    }
}

impl Transport for SysfsTransport {
    type Aperture = Memory;

    fn read32(&self, at: u64) -> u32 {
        // CAST: the low half is all that was read.
        self.registers().read(at, 4) as u32
    }
    fn write32(&self, at: u64, value: u32) {
        self.registers().write(at, 4, value.into());
    }
    fn aperture(&self) -> &Memory {
        self.aperture.get()
    }
    fn wait_for_interrupt(&self, _vector: u16, bound_ns: u64) {
        // There are none: look again soon, and let others run meanwhile.
        std::thread::sleep(std::time::Duration::from_nanos(bound_ns.min(20_000)));
    }
    fn now_ns(&self) -> u64 {
        // CAST: 584 years of uptime fit.
        self.start.elapsed().as_nanos() as u64
    }
}
