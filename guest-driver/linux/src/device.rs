//! A device, whichever way it is reached; and the place where workloads run on it.

use std::fmt;

use turnstile_driver::Transport;
use turnstile_driver::mmio::{Memory, Registers};
use turnstile_workloads::{Env, GuestPages, is_whole};

use crate::OpenError;
use crate::find::{Function, find};
use crate::sysfs::SysfsTransport;
use crate::vfio::VfioTransport;

/// A device of this machine.
#[derive(Debug)]
pub struct Device {
    function: Function,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Sysfs(SysfsTransport),
    Vfio(Box<VfioTransport>),
}

impl Device {
    /// Opens the function at an address, or the first there is.
    ///
    /// # Errors
    /// When there is none, or it cannot be reached.
    pub fn open(address: Option<&str>) -> Result<Device, OpenError> {
        let function = match address {
            Some(address) => Function::at(address)?,
            None => find().into_iter().next().ok_or(OpenError::NotFound)?,
        };
        let way = match function.driver().as_deref() {
            Some("vfio-pci") => Way::Vfio(Box::new(VfioTransport::open(&function)?)),
            _ => Way::Sysfs(SysfsTransport::open(&function)?),
        };
        Ok(Device { function, way })
    }

    /// The function.
    #[must_use]
    pub fn function(&self) -> &Function {
        &self.function
    }

    /// How it is reached: `sysfs` or `vfio`.
    #[must_use]
    pub fn way(&self) -> &'static str {
        match self.way {
            Way::Sysfs(_) => "sysfs",
            Way::Vfio(_) => "vfio",
        }
    }

    /// BAR0, for accesses of any width.
    #[must_use]
    pub fn registers(&self) -> &Registers {
        match &self.way {
            Way::Sysfs(t) => t.registers(),
            Way::Vfio(t) => t.registers(),
        }
    }

    /// Waits that an interrupt ended so far; `None` where there are no interrupts.
    #[must_use]
    pub fn interrupts(&self) -> Option<u64> {
        match &self.way {
            Way::Sysfs(_) => None,
            Way::Vfio(t) => Some(t.interrupts()),
        }
    }

    /// Pages that the device can be allowed to reach, and their address for it.
    #[must_use]
    pub fn pages(&self) -> Option<(&Memory, u64)> {
        match &self.way {
            Way::Sysfs(_) => None,
            Way::Vfio(t) => t.pages(),
        }
    }
}

impl Transport for Device {
    type Aperture = Memory;

    fn read32(&self, at: u64) -> u32 {
        match &self.way {
            Way::Sysfs(t) => t.read32(at),
            Way::Vfio(t) => t.read32(at),
        }
    }
    fn write32(&self, at: u64, value: u32) {
        match &self.way {
            Way::Sysfs(t) => t.write32(at, value),
            Way::Vfio(t) => t.write32(at, value),
        }
    }
    fn aperture(&self) -> &Memory {
        match &self.way {
            Way::Sysfs(t) => t.aperture(),
            Way::Vfio(t) => t.aperture(),
        }
    }
    fn wait_for_interrupt(&self, vector: u16, bound_ns: u64) {
        match &self.way {
            Way::Sysfs(t) => t.wait_for_interrupt(vector, bound_ns),
            Way::Vfio(t) => t.wait_for_interrupt(vector, bound_ns),
        }
    }
    fn now_ns(&self) -> u64 {
        match &self.way {
            Way::Sysfs(t) => t.now_ns(),
            Way::Vfio(t) => t.now_ns(),
        }
    }
}

/// A process on this machine as a place for workloads; prints on standard output.
#[derive(Debug)]
pub struct LinuxEnv<'d> {
    /// The device.
    pub device: &'d Device,
    /// The workload's arguments, `key=value`.
    pub args: Vec<String>,
}

impl Env for LinuxEnv<'_> {
    type Memory = Memory;

    fn print(&self, line: fmt::Arguments<'_>) {
        println!("{line}");
    }
    fn arg(&self, key: &str) -> Option<&str> {
        let mut pairs = self.args.iter().filter_map(|arg| arg.split_once('='));
        pairs.find(|(k, _)| *k == key).map(|(_, value)| value)
    }
    fn pages(&self) -> Option<GuestPages<'_, Memory>> {
        self.device.pages().map(|(memory, gpa)| GuestPages { memory, gpa })
    }
    fn aperture_gpa(&self) -> Option<u64> {
        // With VFIO the device's addresses are not physical ones, so this would be another place.
        match self.device.way {
            Way::Sysfs(_) => self.device.function.bar(2).map(|(at, _)| at),
            Way::Vfio(_) => None,
        }
    }
    fn alongside(&self, other: &(dyn Fn() + Sync), body: &mut dyn FnMut()) -> bool {
        std::thread::scope(|scope| {
            scope.spawn(other);
            body();
        });
        true
    }
    fn mmio_read(&self, at: u64, bytes: u8) -> Option<u64> {
        is_whole(at, bytes).then(|| self.device.registers().read(at, bytes))
    }
    fn mmio_write(&self, at: u64, bytes: u8, value: u64) -> bool {
        let whole = is_whole(at, bytes);
        if whole {
            self.device.registers().write(at, bytes, value);
        }
        whole
    }
}
