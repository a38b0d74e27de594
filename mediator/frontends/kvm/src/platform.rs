//! The PCI bus of a microVM: a host bridge, the device, and what follows when its BARs move.
//!
//! Behind one lock of the VM's own, taken for configuration space and MSI-X only. Where BARs are is
//! published in [`Decoded`], which the vCPUs read without a lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use turnstile_abi::memory::SharedMemory;
use turnstile_abi::regs::{MAX_QUEUES, doorbell};
use turnstile_device::pci::ConfigSpace;
use turnstile_device::{Bar, Change, Device, Function};

use crate::KvmError;
use crate::irq::Interrupts;
use crate::memory::RAM_SLOTS;
use crate::sys::Vm;

/// Memslot of the aperture.
const APERTURE_SLOT: u32 = RAM_SLOTS;
/// PCI slot of the device; slot 0 is the host bridge.
const DEVICE_SLOT: u32 = 1;
/// Class code: host bridge.
const CLASS_HOST_BRIDGE: u32 = 0x06_00_00;
/// Device id of the host bridge, under the same vendor id as the device.
const BRIDGE_ID: u16 = 0x7470;
/// The configuration address register's enable bit.
const ENABLE: u32 = 1 << 31;
/// A BAR that is nowhere.
const NOWHERE: u64 = u64::MAX;

/// Where the trapped BARs are. Read by every vCPU, written under the platform's lock.
#[derive(Debug)]
pub(crate) struct Decoded {
    registers: AtomicU64,
    msix: AtomicU64,
}

impl Decoded {
    fn new() -> Decoded {
        Decoded { registers: AtomicU64::new(NOWHERE), msix: AtomicU64::new(NOWHERE) }
    }

    /// The trapped BAR that holds all of `[gpa, gpa + bytes)`, and the offset in it.
    pub(crate) fn find(&self, gpa: u64, bytes: usize) -> Option<(Bar, u64)> {
        let bars = [
            (Bar::Registers, &self.registers, turnstile_abi::regs::BAR0_SIZE),
            (Bar::Msix, &self.msix, turnstile_abi::regs::BAR4_SIZE),
        ];
        bars.into_iter().find_map(|(bar, base, size)| {
            // NOWHERE is above every address, so nothing lies in it.
            let at = gpa.checked_sub(base.load(Ordering::Acquire))?;
            turnstile_abi::memory::contains(size, at, bytes as u64).then_some((bar, at))
        })
    }
}

/// The PCI bus and the device on it.
#[derive(Debug)]
pub(crate) struct Platform {
    vm: Arc<Vm>,
    device: Arc<Device>,
    bridge: ConfigSpace,
    function: Function,
    interrupts: Interrupts,
    decoded: Arc<Decoded>,
    /// BAR0's address for which doorbells are registered with the kernel.
    doorbells: Option<u64>,
    /// BAR2's address at which the aperture is mapped.
    aperture: Option<u64>,
    /// The configuration address register.
    address: u32,
    /// Places that KVM refused for a BAR.
    refused: u64,
}

impl Platform {
    pub(crate) fn new(vm: Arc<Vm>, device: Arc<Device>) -> Result<Platform, KvmError> {
        Ok(Platform {
            bridge: ConfigSpace::new(turnstile_abi::regs::VENDOR_ID, BRIDGE_ID, CLASS_HOST_BRIDGE),
            function: Function::new(device.aperture().size())?,
            interrupts: Interrupts::new(vm.clone(), &device),
            decoded: Arc::new(Decoded::new()),
            doorbells: None,
            aperture: None,
            address: 0,
            refused: 0,
            vm,
            device,
        })
    }

    /// Places for BARs and messages for interrupts that KVM refused.
    pub(crate) fn refused(&self) -> u64 {
        self.refused + self.interrupts.refused()
    }

    /// Where the trapped BARs are.
    pub(crate) fn decoded(&self) -> &Arc<Decoded> {
        &self.decoded
    }

    /// Puts the BARs into the window and switches the device on, as firmware does. Returns where
    /// they are.
    pub(crate) fn assign(&mut self, window: u64) -> [u64; 3] {
        let mut at = window;
        let places = [Bar::Aperture, Bar::Registers, Bar::Msix].map(|bar| {
            let bytes = self.function.bar_bytes(bar);
            let place = at.next_multiple_of(bytes);
            at = place + bytes;
            (bar, place)
        });
        let place = |bar| places.iter().find(|(b, _)| *b == bar).map_or(0, |(_, place)| *place);
        let change = self.function.assign(place);
        self.apply(change);
        Bar::ALL.map(place)
    }

    /// The selected function's offset for an access at `port` in the data register, or `None` if
    /// the address selects nothing.
    fn selected(&self, at: u8, bytes: usize) -> Option<(u32, u64)> {
        let on_bus_0 = self.address & (ENABLE | 0x00ff_0700) == ENABLE;
        let fits = usize::from(at) + bytes <= 4;
        let slot = self.address >> 11 & 0x1f;
        (on_bus_0 && fits).then_some((slot, u64::from(self.address & 0xfc) + u64::from(at)))
    }

    /// The configuration address register.
    pub(crate) fn address(&self) -> u32 {
        self.address
    }

    /// Writes the configuration address register.
    pub(crate) fn set_address(&mut self, address: u32) {
        self.address = address;
    }

    /// Reads the configuration data register from byte `at` on.
    pub(crate) fn data_read(&self, at: u8, data: &mut [u8]) {
        match self.selected(at, data.len()) {
            Some((0, offset)) => self.bridge.read(offset, data),
            Some((DEVICE_SLOT, offset)) => self.function.config_read(offset, data),
            _ => data.fill(0xff),
        }
    }

    /// Writes the configuration data register from byte `at` on.
    pub(crate) fn data_write(&mut self, at: u8, data: &[u8]) {
        match self.selected(at, data.len()) {
            Some((0, offset)) => self.bridge.write(offset, data),
            Some((DEVICE_SLOT, offset)) => {
                let change = self.function.config_write(offset, data);
                self.apply(change);
            }
            _ => {}
        }
    }

    /// Reads BAR4.
    pub(crate) fn msix_read(&self, at: u64, data: &mut [u8]) {
        self.function.msix_read(at, data, |vector| self.interrupts.pending(vector));
    }

    /// Writes BAR4.
    pub(crate) fn msix_write(&mut self, at: u64, data: &[u8]) {
        let change = self.function.msix_write(at, data);
        self.apply(change);
    }

    fn apply(&mut self, change: Change) {
        if change.bars {
            let base = |bar| self.function.bar(bar);
            let (registers, aperture, msix) =
                (base(Bar::Registers), base(Bar::Aperture), base(Bar::Msix));
            self.decoded.registers.store(registers.unwrap_or(NOWHERE), Ordering::Release);
            self.decoded.msix.store(msix.unwrap_or(NOWHERE), Ordering::Release);
            self.move_doorbells(registers);
            self.move_aperture(aperture);
        }
        self.interrupts.apply(&self.function, change.vectors);
    }

    /// Registers the doorbells where BAR0 is now. Where the kernel does not want them, a doorbell
    /// traps and rings all the same.
    fn move_doorbells(&mut self, to: Option<u64>) {
        if self.doorbells == to {
            return;
        }
        let event = self.device.kick().eventfd();
        if let Some(base) = self.doorbells.take() {
            for queue in 0..MAX_QUEUES {
                if let Err(error) = self.vm.doorbell(base + doorbell(queue), event, false) {
                    tracing::warn!(queue, %error, "a doorbell stays where it was");
                }
            }
        }
        let Some(base) = to else { return };
        for queue in 0..MAX_QUEUES {
            if self.vm.doorbell(base + doorbell(queue), event, true).is_err() {
                // Counted, not logged: a guest can do this as often as it likes.
                self.refused += 1;
                for done in 0..queue {
                    let _ = self.vm.doorbell(base + doorbell(done), event, false);
                }
                return;
            }
        }
        self.doorbells = to;
    }

    /// Maps the aperture where BAR2 is now. Where it would lie over RAM, RAM stays.
    fn move_aperture(&mut self, to: Option<u64>) {
        if self.aperture == to {
            return;
        }
        if self.aperture.take().is_some()
            && let Err(error) = self.vm.unmap(APERTURE_SLOT)
        {
            tracing::warn!(%error, "the aperture stays where it was");
        }
        let Some(base) = to else { return };
        let aperture = self.device.aperture();
        match self.vm.map(APERTURE_SLOT, base, aperture, 0, aperture.size()) {
            Ok(()) => self.aperture = to,
            Err(_) => self.refused += 1,
        }
    }
}
