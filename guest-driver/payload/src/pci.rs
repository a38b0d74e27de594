//! Finding the device on the PCI bus, giving its BARs addresses, switching its interrupts on.
//!
//! Configuration mechanism #1 (PCI Local Bus 3.0, section 3.2.2.3.2) on bus 0; memory BARs as in
//! section 6.2.5.1; MSI-X as in section 6.8.2.

use turnstile_abi::regs::{DEVICE_ID, VECTORS, VENDOR_ID};
use turnstile_driver::mmio::Registers;

use crate::{call, interrupt, pvh};

const ADDRESS_PORT: u16 = 0xcf8;
const DATA_PORT: u16 = 0xcfc;
const COMMAND: u8 = 0x04;
const STATUS: u8 = 0x06;
const BAR0: u8 = 0x10;
const CAPABILITIES: u8 = 0x34;
const MSIX_ID: u8 = 0x11;
/// Memory decoding and bus mastering.
const MEMORY_AND_MASTER: u32 = 0b110;
/// Capabilities there can be in 192 bytes; a longer list is a loop.
const MAX_CAPABILITIES: usize = 48;

/// A function on bus 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Function {
    slot: u8,
}

/// One BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bar {
    /// Guest physical address; 0: none yet.
    pub(crate) base: u64,
    /// Size in bytes.
    pub(crate) bytes: u64,
    /// Whether reads have no side effects.
    pub(crate) prefetchable: bool,
}

/// Why the device cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// No function on the bus has the device's ids.
    Device,
    /// This BAR is not a 64-bit memory BAR.
    Bar(u8),
    /// The BARs do not fit into the window, or nobody has placed them and there is none.
    Window,
    /// There is no MSI-X capability, or its table is not where it should be.
    Msix,
}

impl Function {
    /// Every function 0 on the bus: slot, vendor and device id.
    pub(crate) fn scan() -> impl Iterator<Item = (u8, u16, u16)> {
        (0..32).filter_map(|slot| {
            let id = Function { slot }.read(0);
            (id as u16 != 0xffff).then_some((slot, id as u16, (id >> 16) as u16))
        })
    }

    /// The Turnstile device.
    pub(crate) fn find() -> Result<Function, Missing> {
        let mut all = Function::scan();
        let found = all.find(|&(_, vendor, device)| (vendor, device) == (VENDOR_ID, DEVICE_ID));
        found.map(|(slot, ..)| Function { slot }).ok_or(Missing::Device)
    }

    fn select(self, at: u8) {
        let slot = u32::from(self.slot) << 11;
        call::out32(ADDRESS_PORT, 0x8000_0000 | slot | u32::from(at & 0xfc));
    }

    /// Reads the doubleword that holds byte `at`.
    pub(crate) fn read(self, at: u8) -> u32 {
        self.select(at);
        call::in32(DATA_PORT)
    }

    /// Writes the doubleword that holds byte `at`.
    pub(crate) fn write(self, at: u8, value: u32) {
        self.select(at);
        call::out32(DATA_PORT, value);
    }

    /// Switches memory decoding and bus mastering on or off.
    pub(crate) fn enable(self, on: bool) {
        let command = self.read(COMMAND) & 0xffff & !MEMORY_AND_MASTER;
        self.write(COMMAND, if on { command | MEMORY_AND_MASTER } else { command });
    }

    /// Writes the address of a 64-bit BAR.
    pub(crate) fn place(self, index: u8, base: u64) {
        self.write(BAR0 + index * 4, base as u32);
        self.write(BAR0 + index * 4 + 4, (base >> 32) as u32);
    }

    /// Sizes a 64-bit memory BAR and leaves it where it is. Decoding must be off.
    fn size(self, index: u8) -> Result<Bar, Missing> {
        let at = BAR0 + index * 4;
        let kind = self.read(at);
        if kind & 0b111 != 0b100 {
            return Err(Missing::Bar(index));
        }
        let address = || u64::from(self.read(at) & !0xf) | u64::from(self.read(at + 4)) << 32;
        let base = address();
        self.place(index, u64::MAX);
        let mask = address();
        self.place(index, base);
        let bytes = mask & mask.wrapping_neg();
        if bytes == 0 {
            return Err(Missing::Bar(index));
        }
        Ok(Bar { base, bytes, prefetchable: kind & 0b1000 != 0 })
    }

    /// Takes BARs 0, 2 and 4 where the firmware has placed them, and switches decoding on.
    pub(crate) fn placed(self) -> Result<[Bar; 3], Missing> {
        self.enable(false);
        let bars = [self.size(0)?, self.size(2)?, self.size(4)?];
        if !bars.iter().all(|bar| bar.base != 0 && pvh::map(bar.base, bar.bytes)) {
            return Err(Missing::Window);
        }
        self.enable(true);
        Ok(bars)
    }

    /// Gives BARs 0, 2 and 4 addresses in the window, each at a multiple of its size, and switches
    /// decoding on.
    pub(crate) fn assign(self, window_base: u64, window_bytes: u64) -> Result<[Bar; 3], Missing> {
        self.enable(false);
        let mut bars = [self.size(0)?, self.size(2)?, self.size(4)?];
        let end = window_base.checked_add(window_bytes).ok_or(Missing::Window)?;
        let mut at = window_base;
        // Largest first wastes nothing, but any order is right: the window has room.
        for (i, bar) in bars.iter_mut().enumerate() {
            bar.base = at.checked_next_multiple_of(bar.bytes).ok_or(Missing::Window)?;
            at = bar.base.checked_add(bar.bytes).ok_or(Missing::Window)?;
            if at > end {
                return Err(Missing::Window);
            }
            self.place(i as u8 * 2, bar.base);
        }
        self.enable(true);
        Ok(bars)
    }

    /// Offset of the MSI-X capability.
    pub(crate) fn msix(self) -> Result<u8, Missing> {
        if self.read(STATUS) >> 16 & 1 << 4 == 0 {
            return Err(Missing::Msix);
        }
        let mut at = self.read(CAPABILITIES) as u8 & 0xfc;
        for _ in 0..MAX_CAPABILITIES {
            if at == 0 {
                break;
            }
            let header = self.read(at);
            if header as u8 == MSIX_ID {
                return Ok(at);
            }
            at = (header >> 8) as u8 & 0xfc;
        }
        Err(Missing::Msix)
    }

    /// Points every vector at the boot processor and switches MSI-X on. `table` is BAR4.
    pub(crate) fn start_interrupts(self, table: &Registers) -> Result<(), Missing> {
        let msix = self.msix()?;
        let entries = (self.read(msix) >> 16 & 0x7ff) + 1;
        if entries != u32::from(VECTORS) || self.read(msix + 4) != 4 {
            return Err(Missing::Msix);
        }
        for vector in 0..VECTORS {
            let (address, data) = interrupt::message(vector);
            let at = u64::from(vector) * 16;
            table.write(at, 8, address);
            table.write(at + 8, 8, data.into());
        }
        self.set_msix(msix, 0x8000);
        Ok(())
    }

    /// Sets the enable (0x8000) and function mask (0x4000) bits.
    pub(crate) fn set_msix(self, msix: u8, control: u16) {
        self.write(msix, u32::from(control) << 16);
    }
}
