//! Where a trap goes: by address to a BAR, by port to configuration space or the console.
//!
//! Nothing that a guest asks for fails: what is not there reads as all-ones and swallows writes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use turnstile_boot::{EXIT_PORT, SERIAL_PORT};
use turnstile_device::{Bar, Device};
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

use crate::console::Console;
use crate::life::Reason;
use crate::platform::{Decoded, Platform};

/// Registers of the serial line.
const SERIAL_PORTS: u16 = 8;
/// Configuration address register (PCI 3.0, section 3.2.2.3.2).
const CONFIG_ADDRESS: u16 = 0xcf8;
/// Configuration data register, 4 bytes.
const CONFIG_DATA: u16 = 0xcfc;
/// Keyboard controller: command.
const KEYBOARD: u16 = 0x64;
/// Keyboard controller: pulse the reset line.
const PULSE_RESET: u8 = 0xfe;

/// Traps taken to userspace since the start, by kind, and what became of the odd ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Traps {
    /// Memory reads.
    pub mmio_reads: u64,
    /// Memory writes.
    pub mmio_writes: u64,
    /// Port accesses.
    pub ports: u64,
    /// Places for BARs and messages for interrupts that KVM refused: the guest chose impossible ones.
    pub refused: u64,
}

#[derive(Debug, Default)]
struct Counters {
    mmio_reads: AtomicU64,
    mmio_writes: AtomicU64,
    ports: AtomicU64,
}

/// Raises the serial line's interrupt.
#[derive(Debug)]
pub(crate) struct SerialInterrupt(pub(crate) EventFd);

impl Trigger for SerialInterrupt {
    type E = std::io::Error;
    fn trigger(&self) -> std::io::Result<()> {
        self.0.write(1)
    }
}

type Line = Serial<SerialInterrupt, NoEvents, Console>;

/// Everything a vCPU can reach through a trap.
pub(crate) struct Bus {
    device: Arc<Device>,
    decoded: Arc<Decoded>,
    platform: Mutex<Platform>,
    serial: Mutex<Line>,
    counters: Counters,
}

impl Bus {
    pub(crate) fn new(
        device: Arc<Device>,
        platform: Platform,
        console: Console,
        interrupt: SerialInterrupt,
    ) -> Bus {
        Bus {
            device,
            decoded: platform.decoded().clone(),
            platform: Mutex::new(platform),
            serial: Mutex::new(Serial::new(interrupt, console)),
            counters: Counters::default(),
        }
    }

    /// Traps so far.
    pub(crate) fn traps(&self) -> Traps {
        let Counters { mmio_reads, mmio_writes, ports } = &self.counters;
        Traps {
            mmio_reads: mmio_reads.load(Ordering::Relaxed),
            mmio_writes: mmio_writes.load(Ordering::Relaxed),
            ports: ports.load(Ordering::Relaxed),
            refused: self.platform().refused(),
        }
    }

    /// The PCI bus.
    pub(crate) fn platform(&self) -> MutexGuard<'_, Platform> {
        // Nothing panics while it holds the lock.
        self.platform.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A trapped read of guest memory.
    pub(crate) fn mmio_read(&self, gpa: u64, data: &mut [u8]) {
        self.counters.mmio_reads.fetch_add(1, Ordering::Relaxed);
        match self.decoded.find(gpa, data.len()) {
            Some((Bar::Registers, at)) => self.device.bar0_read(at, data),
            Some((Bar::Msix, at)) => self.platform().msix_read(at, data),
            _ => data.fill(0xff),
        }
    }

    /// A trapped write to guest memory.
    pub(crate) fn mmio_write(&self, gpa: u64, data: &[u8]) {
        self.counters.mmio_writes.fetch_add(1, Ordering::Relaxed);
        match self.decoded.find(gpa, data.len()) {
            Some((Bar::Registers, at)) => self.device.bar0_write(at, data),
            Some((Bar::Msix, at)) => self.platform().msix_write(at, data),
            _ => {}
        }
    }

    /// A read of an I/O port.
    pub(crate) fn port_read(&self, port: u16, data: &mut [u8]) {
        self.counters.ports.fetch_add(1, Ordering::Relaxed);
        data.fill(0xff);
        if let Some(register) = serial_register(port) {
            let mut serial = self.serial();
            data.iter_mut().for_each(|byte| *byte = serial.read(register));
        } else if port == CONFIG_ADDRESS && data.len() == 4 {
            data.copy_from_slice(&self.platform().address().to_le_bytes());
        } else if let Some(at) = config_byte(port) {
            self.platform().data_read(at, data);
        }
    }

    /// A write to an I/O port. A string instruction arrives as one write of many bytes. `Some`: the
    /// guest ended itself.
    pub(crate) fn port_write(&self, port: u16, data: &[u8]) -> Option<Reason> {
        self.counters.ports.fetch_add(1, Ordering::Relaxed);
        if let Some(register) = serial_register(port) {
            let mut serial = self.serial();
            for &byte in data {
                // The console takes everything; an interrupt that cannot be raised is raised.
                let _ = serial.write(register, byte);
            }
        } else if let Some(at) = config_byte(port) {
            self.platform().data_write(at, data);
        } else if port == CONFIG_ADDRESS {
            if let Ok(address) = data.try_into() {
                self.platform().set_address(u32::from_le_bytes(address));
            }
        } else if port == EXIT_PORT {
            let code = data.iter().take(4).rev().fold(0, |code, &b| code << 8 | u32::from(b));
            return Some(Reason::Code(code));
        } else if port == KEYBOARD && data == [PULSE_RESET] {
            return Some(Reason::Reset);
        }
        None
    }

    fn serial(&self) -> MutexGuard<'_, Line> {
        // Only the operator's own line callback could panic; the line itself stays whole.
        self.serial.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn serial_register(port: u16) -> Option<u8> {
    let register = port.checked_sub(SERIAL_PORT).filter(|&r| r < SERIAL_PORTS)?;
    u8::try_from(register).ok()
}

fn config_byte(port: u16) -> Option<u8> {
    let at = port.checked_sub(CONFIG_DATA).filter(|&at| at < 4)?;
    u8::try_from(at).ok()
}
