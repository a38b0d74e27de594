//! BAR0's control registers, shared between the mediator and the front end's trap handler.
//!
//! Reads are answered where the trap is taken, from atomics that the mediator keeps current, so a
//! register read never waits for the dispatcher. Writes to `CONTROL` are posted: they set
//! `STATUS.BUSY`, accumulate in one word, and the caller kicks the dispatcher. A guest that storms
//! the register therefore costs one word and grows nothing.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use turnstile_abi::Status;
use turnstile_abi::regs::{self, Control, DeviceStatus, offset};
use turnstile_abi::version::{Features, Version};

/// What became of a register write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Wrote {
    /// Nothing more to do.
    Done,
    /// Kick the dispatcher: a control write or a doorbell waits.
    Kick,
    /// No such register, read-only, wrong width or alignment. Dropped and counted.
    Refused,
}

/// The register file of one device.
#[derive(Debug)]
pub struct Registers {
    features: Features,
    aperture_bytes: u64,
    heap_offset: u64,
    status: AtomicU32,
    last_error: AtomicU32,
    driver_features: AtomicU64,
    driver_version: AtomicU32,
    /// `CONTROL` bits written and not yet acted on.
    pending: AtomicU32,
    /// Accesses refused since the start.
    refused: AtomicU64,
}

impl Registers {
    /// The registers of a device after reset.
    #[must_use]
    pub const fn new(features: Features, aperture_bytes: u64, heap_offset: u64) -> Registers {
        Registers {
            features,
            aperture_bytes,
            heap_offset,
            status: AtomicU32::new(0),
            last_error: AtomicU32::new(0),
            driver_features: AtomicU64::new(0),
            driver_version: AtomicU32::new(0),
            pending: AtomicU32::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// A guest's read of `bytes` at `at` in BAR0. `None`: refused (counted); the guest sees all-ones.
    pub fn read(&self, at: u64, bytes: usize) -> Option<u64> {
        let value = match bytes {
            4 if at.is_multiple_of(4) => self.word(at).map(u64::from),
            8 if at.is_multiple_of(8) => self
                .word(at)
                .and_then(|low| Some(u64::from(low) | u64::from(self.word(at + 4)?) << 32)),
            _ => None,
        };
        if value.is_none() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        value
    }

    fn word(&self, at: u64) -> Option<u32> {
        let half = |value: u64, base: u64| (value >> ((at - base) * 8)) as u32;
        Some(match at {
            offset::MAGIC => regs::MAGIC_VALUE,
            offset::VERSION => Version::CURRENT.0,
            0x08 | 0x0c => half(self.features.bits(), offset::FEATURES),
            0x10 | 0x14 => {
                half(self.driver_features.load(Ordering::Relaxed), offset::DRIVER_FEATURES)
            }
            offset::DRIVER_VERSION => self.driver_version.load(Ordering::Relaxed),
            0x1c => 0,
            offset::STATUS => self.status.load(Ordering::Acquire),
            offset::LAST_ERROR => self.last_error.load(Ordering::Relaxed),
            offset::QUEUES => regs::MAX_QUEUES,
            0x30 | 0x34 => half(self.aperture_bytes, offset::APERTURE_BYTES),
            0x38 | 0x3c => half(self.heap_offset, offset::HEAP_OFFSET),
            _ => return None,
        })
    }

    /// A guest's write of `value` (`bytes` wide) at `at` in BAR0.
    pub fn write(&self, at: u64, bytes: usize, value: u64) -> Wrote {
        let wrote = match (at, bytes) {
            (offset::DRIVER_FEATURES, 8) => {
                self.driver_features.store(value, Ordering::Relaxed);
                Wrote::Done
            }
            (0x10 | 0x14, 4) => {
                let shift = (at - offset::DRIVER_FEATURES) * 8;
                let keep = !(0xffff_ffff << shift);
                let old = self.driver_features.load(Ordering::Relaxed);
                let new = old & keep | (value & 0xffff_ffff) << shift;
                self.driver_features.store(new, Ordering::Relaxed);
                Wrote::Done
            }
            (offset::DRIVER_VERSION, 4) => {
                self.driver_version.store(value as u32, Ordering::Relaxed);
                Wrote::Done
            }
            (offset::CONTROL, 4) => match Control::from_bits(value as u32) {
                Some(control) if !control.is_empty() => {
                    self.status.fetch_or(DeviceStatus::BUSY.bits(), Ordering::AcqRel);
                    self.pending.fetch_or(control.bits(), Ordering::AcqRel);
                    Wrote::Kick
                }
                _ => Wrote::Refused,
            },
            (_, 4) if regs::doorbell_queue(at).is_some() => Wrote::Kick,
            _ => Wrote::Refused,
        };
        if wrote == Wrote::Refused {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        wrote
    }

    /// Takes the control bits written since the last call. The mediator then acts on them and calls
    /// [`settle`](Self::settle).
    pub(crate) fn take_control(&self) -> Control {
        if self.pending.load(Ordering::Acquire) == 0 {
            return Control::empty();
        }
        Control::from_bits_truncate(self.pending.swap(0, Ordering::AcqRel))
    }

    /// Publishes a new status, not busy unless more control bits came in meanwhile.
    pub(crate) fn settle(&self, status: DeviceStatus) {
        self.status.store(status.bits(), Ordering::Release);
        if self.pending.load(Ordering::Acquire) != 0 {
            self.status.fetch_or(DeviceStatus::BUSY.bits(), Ordering::AcqRel);
        }
    }

    pub(crate) fn set_last_error(&self, status: Status) {
        self.last_error.store(status as u32, Ordering::Relaxed);
    }

    /// What the driver asked for: version and features.
    pub(crate) fn negotiation(&self) -> (Version, u64) {
        (
            Version(self.driver_version.load(Ordering::Relaxed)),
            self.driver_features.load(Ordering::Relaxed),
        )
    }

    /// Forgets what a driver wrote, as a reset does.
    pub(crate) fn forget_driver(&self) {
        let Registers {
            features: _,
            aperture_bytes: _,
            heap_offset: _,
            status: _, // settled by the caller
            last_error,
            driver_features,
            driver_version,
            pending: _, // writes after the reset stand
            refused: _, // counts for the life of the device
        } = self;
        last_error.store(0, Ordering::Relaxed);
        driver_features.store(0, Ordering::Relaxed);
        driver_version.store(0, Ordering::Relaxed);
    }

    /// Features the device offers.
    #[must_use]
    pub const fn features(&self) -> Features {
        self.features
    }
    /// Size of the aperture in bytes.
    #[must_use]
    pub const fn aperture_bytes(&self) -> u64 {
        self.aperture_bytes
    }
    /// Where the aperture's heap begins.
    #[must_use]
    pub const fn heap_offset(&self) -> u64 {
        self.heap_offset
    }
    /// Register accesses refused so far.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Registers {
        Registers::new(Features::DMA | Features::COMPUTE, 0x1_2345_6000, 0x10_0000)
    }

    #[test]
    fn golden_register_map() {
        let r = file();
        assert_eq!(r.read(0, 4), Some(0x534e_5254));
        assert_eq!(r.read(4, 4), Some(0x0001_0000));
        assert_eq!(r.read(0, 8), Some(0x0001_0000_534e_5254));
        assert_eq!(r.read(0x08, 8), Some(3));
        assert_eq!(r.read(0x2c, 4), Some(64));
        assert_eq!(r.read(0x30, 8), Some(0x1_2345_6000));
        assert_eq!(r.read(0x34, 4), Some(1));
        assert_eq!(r.read(0x38, 8), Some(0x10_0000));
    }

    #[test]
    fn odd_accesses_are_refused_and_counted() {
        let r = file();
        let widths = [(0, 1), (0, 2), (1, 4), (4, 8), (0x24, 4), (0x40, 4), (0x1000, 4), (0, 3)];
        for (at, bytes) in widths {
            assert_eq!(r.read(at, bytes), None, "{at:#x}/{bytes}");
        }
        assert_eq!(r.write(0, 4, 1), Wrote::Refused);
        assert_eq!(r.write(0x24, 8, 1), Wrote::Refused);
        assert_eq!(r.write(0x24, 4, 0x80), Wrote::Refused, "unknown control bit");
        assert_eq!(r.write(0x24, 4, 0), Wrote::Refused);
        assert_eq!(r.write(0x1004, 4, 0), Wrote::Refused);
        assert_eq!(r.refused(), widths.len() as u64 + 5);
    }

    #[test]
    fn control_writes_accumulate_and_show_busy() {
        let r = file();
        assert_eq!(r.write(0x24, 4, 1), Wrote::Kick);
        assert_eq!(r.write(0x24, 4, 2), Wrote::Kick);
        assert_eq!(r.read(0x20, 4), Some(2));
        assert_eq!(r.take_control(), Control::ENABLE | Control::RESET);
        assert_eq!(r.take_control(), Control::empty());
        r.settle(DeviceStatus::ENABLED);
        assert_eq!(r.read(0x20, 4), Some(1));
    }

    #[test]
    fn halves_of_a_wide_register_can_be_written() {
        let r = file();
        assert_eq!(r.write(0x14, 4, 0xaabb), Wrote::Done);
        assert_eq!(r.write(0x10, 4, 0xffff_ffff_0000_0003), Wrote::Done);
        assert_eq!(r.read(0x10, 8), Some(0xaabb_0000_0003));
        assert_eq!(r.write(0x10, 8, 1), Wrote::Done);
        assert_eq!(r.write(0x18, 4, 0x1_0000), Wrote::Done);
        assert_eq!(r.negotiation(), (Version::CURRENT, 1));
    }
}
