//! Type 0 configuration space (PCI Local Bus 3.0, chapter 6) of the Turnstile function.
//!
//! [`ConfigSpace`] is 256 bytes with a mask of the bits that software may change; all of the
//! protocol, sizing of BARs included, follows from the masks. [`Function`] is the Turnstile
//! device's own space with its BARs and MSI-X. Both are plain values: a front end feeds accesses in
//! and acts on the [`Change`] that comes back. They know neither KVM nor vfio-user, and no guest
//! memory.

use turnstile_abi::regs::{
    BAR0_SIZE, BAR4_SIZE, CLASS_CODE, DEVICE_ID, PBA_OFFSET, VECTORS, VENDOR_ID,
};

use crate::msix::{Message, Msix, Vectors};

/// Bytes of a conventional configuration space.
pub const CONFIG_BYTES: usize = 256;

/// Offsets in configuration space (PCI 3.0, figure 6-1).
pub mod offset {
    /// Vendor id, 16 bits.
    pub const VENDOR: u8 = 0x00;
    /// Device id, 16 bits.
    pub const DEVICE: u8 = 0x02;
    /// Command register, 16 bits.
    pub const COMMAND: u8 = 0x04;
    /// Status register, 16 bits.
    pub const STATUS: u8 = 0x06;
    /// Revision id, 8 bits.
    pub const REVISION: u8 = 0x08;
    /// Class code, 24 bits.
    pub const CLASS: u8 = 0x09;
    /// Cache line size, 8 bits, for software's own use.
    pub const CACHE_LINE: u8 = 0x0c;
    /// First BAR.
    pub const BAR0: u8 = 0x10;
    /// Subsystem vendor id, 16 bits.
    pub const SUBSYSTEM_VENDOR: u8 = 0x2c;
    /// Subsystem id, 16 bits.
    pub const SUBSYSTEM: u8 = 0x2e;
    /// Offset of the first capability, 8 bits.
    pub const CAPABILITIES: u8 = 0x34;
    /// Interrupt line, 8 bits, for software's own use.
    pub const INTERRUPT_LINE: u8 = 0x3c;
}

/// Command register: answer memory accesses.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// Command register: may write to memory, which is what a message interrupt is.
pub const COMMAND_MASTER: u16 = 1 << 2;
/// Command register: legacy interrupts off. Writable, without effect: there are none.
const COMMAND_INTX_OFF: u16 = 1 << 10;
/// Status register: there is a capability list.
const STATUS_CAPABILITIES: u16 = 1 << 4;
/// Where the MSI-X capability lies.
const MSIX_AT: u8 = 0x40;
/// MSI-X message control: function mask.
const MSIX_FUNCTION_MASK: u16 = 1 << 14;
/// MSI-X message control: enable.
const MSIX_ENABLE: u16 = 1 << 15;
/// BAR type bits: 64-bit memory.
const BAR_64: u64 = 0b100;
/// BAR type bits: prefetchable.
const BAR_PREFETCH: u64 = 0b1000;

/// 256 bytes and which of their bits software may change.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: [u8; CONFIG_BYTES],
    writable: [u8; CONFIG_BYTES],
}

impl ConfigSpace {
    /// The space of a function with these ids; everything else zero and read-only.
    #[must_use]
    pub fn new(vendor: u16, device: u16, class: u32) -> ConfigSpace {
        let mut space = ConfigSpace { bytes: [0; CONFIG_BYTES], writable: [0; CONFIG_BYTES] };
        space.fix(offset::VENDOR, &vendor.to_le_bytes());
        space.fix(offset::DEVICE, &device.to_le_bytes());
        space.fix(offset::REVISION, &[1]);
        space.fix(offset::CLASS, &class.to_le_bytes()[..3]);
        space.fix(offset::SUBSYSTEM_VENDOR, &vendor.to_le_bytes());
        space.fix(offset::SUBSYSTEM, &device.to_le_bytes());
        space.allow(offset::CACHE_LINE, &[0xff]);
        space.allow(offset::INTERRUPT_LINE, &[0xff]);
        space
    }

    /// Sets bytes, as the device itself. Bytes that would lie beyond the end are left out.
    fn fix(&mut self, at: u8, value: &[u8]) {
        self.bytes[usize::from(at)..].iter_mut().zip(value).for_each(|(b, v)| *b = *v);
    }

    /// Makes bits writable for software.
    fn allow(&mut self, at: u8, mask: &[u8]) {
        self.writable[usize::from(at)..].iter_mut().zip(mask).for_each(|(b, m)| *b = *m);
    }

    /// Reads `data.len()` bytes at `at`. What does not lie wholly inside reads as all-ones.
    pub fn read(&self, at: u64, data: &mut [u8]) {
        match range(at, data.len()) {
            Some(range) => data.copy_from_slice(&self.bytes[range]),
            None => data.fill(0xff),
        }
    }

    /// Writes the writable bits of `data` at `at`. What does not lie wholly inside is dropped.
    pub fn write(&mut self, at: u64, data: &[u8]) {
        let Some(range) = range(at, data.len()) else { return };
        let old = &mut self.bytes[range.clone()];
        for ((byte, mask), new) in old.iter_mut().zip(&self.writable[range]).zip(data) {
            *byte = *byte & !mask | new & mask;
        }
    }

    fn word16(&self, at: u8) -> u16 {
        let i = usize::from(at);
        u16::from_le_bytes([self.bytes[i], self.bytes[i + 1]])
    }

    fn word64(&self, at: u8) -> u64 {
        let mut word = [0; 8];
        self.read(at.into(), &mut word);
        u64::from_le_bytes(word)
    }
}

fn range(at: u64, bytes: usize) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(at).ok()?;
    let end = start.checked_add(bytes)?;
    (end <= CONFIG_BYTES).then_some(start..end)
}

/// One of the function's memory BARs. Each is 64 bits wide and takes two BAR registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bar {
    /// Registers and doorbells (`turnstile_abi::regs`).
    Registers = 0,
    /// The aperture.
    Aperture = 2,
    /// MSI-X table and pending bits.
    Msix = 4,
}

impl Bar {
    /// Every BAR.
    pub const ALL: [Bar; 3] = [Bar::Registers, Bar::Aperture, Bar::Msix];

    /// Its index among the BAR registers.
    #[must_use]
    pub const fn index(self) -> u8 {
        self as u8
    }
    const fn at(self) -> u8 {
        offset::BAR0 + self.index() * 4
    }
}

/// What a write to the function changed, for the front end to act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[must_use]
pub struct Change {
    /// A BAR moved, or memory decoding went on or off: ask [`Function::bar`] for all of them.
    pub bars: bool,
    /// Vectors whose delivery may have changed: ask [`Function::route`].
    pub vectors: Vectors,
}

/// Why a function cannot have its BARs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FunctionError {
    /// The aperture is empty or too large to be a BAR.
    #[error("an aperture of {bytes} bytes cannot be a BAR; make it 4 KiB to 256 GiB")]
    Aperture {
        /// Bytes asked for.
        bytes: u64,
    },
}

/// The Turnstile PCI function: configuration space and MSI-X table.
#[derive(Clone, Debug)]
pub struct Function {
    config: ConfigSpace,
    msix: Msix,
    aperture_bytes: u64,
}

impl Function {
    /// A function after reset, with an aperture of `aperture_bytes`. BAR2 is that rounded up to a
    /// power of two, as a BAR must be.
    pub fn new(aperture_bytes: u64) -> Result<Function, FunctionError> {
        if !(0x1000..=1 << 38).contains(&aperture_bytes) {
            return Err(FunctionError::Aperture { bytes: aperture_bytes });
        }
        let mut config = ConfigSpace::new(VENDOR_ID, DEVICE_ID, CLASS_CODE);
        let command = COMMAND_MEMORY | COMMAND_MASTER | COMMAND_INTX_OFF;
        config.allow(offset::COMMAND, &command.to_le_bytes());
        config.fix(offset::STATUS, &STATUS_CAPABILITIES.to_le_bytes());
        config.fix(offset::CAPABILITIES, &[MSIX_AT]);

        // MSI-X capability: id, next, control, table offset and BIR, PBA offset and BIR.
        let bir = u32::from(Bar::Msix.index());
        config.fix(MSIX_AT, &[0x11, 0]);
        config.fix(MSIX_AT + 2, &(VECTORS - 1).to_le_bytes());
        config.allow(MSIX_AT + 2, &(MSIX_FUNCTION_MASK | MSIX_ENABLE).to_le_bytes());
        config.fix(MSIX_AT + 4, &bir.to_le_bytes());
        config.fix(MSIX_AT + 8, &(PBA_OFFSET as u32 | bir).to_le_bytes());

        let mut function = Function { config, msix: Msix::default(), aperture_bytes };
        for bar in Bar::ALL {
            let flags = if bar == Bar::Aperture { BAR_64 | BAR_PREFETCH } else { BAR_64 };
            let size = function.bar_bytes(bar);
            function.config.fix(bar.at(), &flags.to_le_bytes());
            // Only address bits above the size exist: that is how software finds the size.
            function.config.allow(bar.at(), &(!(size - 1)).to_le_bytes());
        }
        Ok(function)
    }

    /// Size of a BAR in bytes, a power of two.
    #[must_use]
    pub fn bar_bytes(&self, bar: Bar) -> u64 {
        match bar {
            Bar::Registers => BAR0_SIZE,
            Bar::Aperture => self.aperture_bytes.next_power_of_two(),
            Bar::Msix => BAR4_SIZE,
        }
    }

    /// Where a BAR answers now: its guest physical address, or `None` while memory decoding is off
    /// or the BAR would reach beyond the address space.
    #[must_use]
    pub fn bar(&self, bar: Bar) -> Option<u64> {
        let on = self.config.word16(offset::COMMAND) & COMMAND_MEMORY != 0;
        let base = self.config.word64(bar.at()) & !0xf;
        (on && base.checked_add(self.bar_bytes(bar)).is_some()).then_some(base)
    }

    /// Reads configuration space; what lies outside reads as all-ones.
    pub fn config_read(&self, at: u64, data: &mut [u8]) {
        self.config.read(at, data);
    }

    /// Writes configuration space; what lies outside and read-only bits are dropped.
    pub fn config_write(&mut self, at: u64, data: &[u8]) -> Change {
        let bars = |f: &Function| Bar::ALL.map(|bar| f.bar(bar));
        let before = (bars(self), self.sends());
        self.config.write(at, data);
        Change {
            bars: before.0 != bars(self),
            vectors: if before.1 == self.sends() { Vectors::NONE } else { Vectors::ALL },
        }
    }

    /// Reads BAR4; `pending` says which vectors wait in their eventfds ([`Msix::read`]).
    pub fn msix_read(&self, at: u64, data: &mut [u8], pending: impl Fn(u16) -> bool) {
        self.msix.read(at, data, pending);
    }

    /// Writes BAR4.
    pub fn msix_write(&mut self, at: u64, data: &[u8]) -> Change {
        Change { bars: false, vectors: self.msix.write(at, data) }
    }

    /// Whether the function may send messages at all: MSI-X on, not masked as a whole, and the
    /// function allowed to master the bus.
    fn sends(&self) -> bool {
        let control = self.config.word16(MSIX_AT + 2);
        let master = self.config.word16(offset::COMMAND) & COMMAND_MASTER != 0;
        master && control & MSIX_ENABLE != 0 && control & MSIX_FUNCTION_MASK == 0
    }

    /// The message an interrupt of this vector sends now; `None` while it is masked in any way, so
    /// that it stays pending.
    #[must_use]
    pub fn route(&self, vector: u16) -> Option<Message> {
        if self.sends() { self.msix.message(vector) } else { None }
    }

    /// Puts addresses into the BARs and turns memory decoding and bus mastering on, as firmware
    /// does for an operating system that expects it. Each address must be a multiple of the BAR's
    /// size; other bits do not exist and are lost.
    pub fn assign(&mut self, address: impl Fn(Bar) -> u64) -> Change {
        let mut change = Change::default();
        for bar in Bar::ALL {
            change.bars |= self.config_write(bar.at().into(), &address(bar).to_le_bytes()).bars;
        }
        let command = (COMMAND_MEMORY | COMMAND_MASTER).to_le_bytes();
        let on = self.config_write(offset::COMMAND.into(), &command);
        Change { bars: change.bars | on.bars, vectors: on.vectors }
    }

    /// A conventional reset: everything software wrote is gone.
    pub fn reset(&mut self) -> Change {
        let Function { config, msix, aperture_bytes: _ } = self;
        for (byte, mask) in config.bytes.iter_mut().zip(&config.writable) {
            *byte &= !mask;
        }
        *msix = Msix::default();
        Change { bars: true, vectors: Vectors::ALL }
    }
}

#[cfg(test)]
mod tests;
