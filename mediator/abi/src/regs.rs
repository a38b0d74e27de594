//! BAR0: control registers and doorbells; and the identity of the PCI function.
//!
//! Registers are little endian. A 32-bit register is accessed with aligned 4-byte accesses, a
//! 64-bit one with an aligned 8-byte access or two aligned 4-byte ones. Every other access is
//! refused: a read gives all-ones, a write is dropped, both are counted.
//!
//! Register writes are posted. `STATUS.BUSY` is set by the front end the moment it accepts a write
//! to `CONTROL` and cleared once the mediator has acted on it, so a driver writes and then polls.

/// PCI vendor id. 0x1234 is not assigned by the PCI-SIG and is in wide use for emulated devices.
pub const VENDOR_ID: u16 = 0x1234;
/// PCI device id (`"ts"` in ASCII).
pub const DEVICE_ID: u16 = 0x7473;
/// PCI class code: display controller, 3D controller.
pub const CLASS_CODE: u32 = 0x03_02_00;

/// Queues a device can have, the admin queue (0) included.
pub const MAX_QUEUES: u32 = 64;
/// MSI-X vectors. Vector 0 serves the admin queue and device events.
pub const VECTORS: u16 = 16;
/// Largest ring depth (descriptors).
pub const MAX_DEPTH: u32 = 4096;
/// Depth of the admin queue's ring, which lies at aperture offset 0.
pub const ADMIN_DEPTH: u32 = 64;
/// Page size of doorbells and DMA extents.
pub const PAGE: u64 = 4096;
/// Size of BAR0: one control page, one doorbell page a queue, rounded up to a power of two.
pub const BAR0_SIZE: u64 = 0x8_0000;
/// Size of BAR4: MSI-X table at 0, PBA at [`PBA_OFFSET`].
pub const BAR4_SIZE: u64 = 0x2000;
/// Offset of the MSI-X pending bit array in BAR4.
pub const PBA_OFFSET: u64 = 0x1000;
/// Value of [`MAGIC`](offset::MAGIC): `"TRNS"`.
pub const MAGIC_VALUE: u32 = u32::from_le_bytes(*b"TRNS");

/// Register offsets in BAR0.
pub mod offset {
    /// Read-only, [`super::MAGIC_VALUE`].
    pub const MAGIC: u64 = 0x00;
    /// Read-only, the device's [`crate::version::Version`].
    pub const VERSION: u64 = 0x04;
    /// Read-only 64-bit, features offered ([`crate::version::Features`]).
    pub const FEATURES: u64 = 0x08;
    /// Read-write 64-bit, features the driver accepts.
    pub const DRIVER_FEATURES: u64 = 0x10;
    /// Read-write, the driver's version.
    pub const DRIVER_VERSION: u64 = 0x18;
    /// Read-only, [`super::DeviceStatus`].
    pub const STATUS: u64 = 0x20;
    /// Write-only, [`super::Control`].
    pub const CONTROL: u64 = 0x24;
    /// Read-only, code of the last refused register write or broken ring ([`crate::Status`]).
    pub const LAST_ERROR: u64 = 0x28;
    /// Read-only, number of queues ([`super::MAX_QUEUES`] at most).
    pub const QUEUES: u64 = 0x2c;
    /// Read-only 64-bit, size of the aperture (BAR2) in bytes.
    pub const APERTURE_BYTES: u64 = 0x30;
    /// Read-only 64-bit, where the device's own part of the aperture begins: host-visible buffers
    /// are placed there; rings and parameters go below it.
    pub const HEAP_OFFSET: u64 = 0x38;
    /// First byte after the last control register.
    pub const END: u64 = 0x40;
    /// Doorbell page of queue 0; queue `q` has the page at `DOORBELLS + q * 4096`. A 4-byte write
    /// of any value to a page's first word rings it.
    pub const DOORBELLS: u64 = 0x1000;
}

bitflags::bitflags! {
    /// The `STATUS` register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct DeviceStatus: u32 {
        /// The admin queue runs.
        const ENABLED = 1 << 0;
        /// A `CONTROL` write is being acted on.
        const BUSY = 1 << 1;
        /// The last enable was refused; see `LAST_ERROR`.
        const FAILED = 1 << 2;
        /// The tenant was revoked or its backend is gone; only a reset helps, if the policy lets it.
        const LOST = 1 << 3;
    }
    /// The `CONTROL` register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Control: u32 {
        /// Negotiate and start the admin queue.
        const ENABLE = 1 << 0;
        /// Close every object, stop every queue, forget negotiation.
        const RESET = 1 << 1;
    }
}

/// Offset of the doorbell of `queue` in BAR0.
#[must_use]
pub const fn doorbell(queue: u32) -> u64 {
    offset::DOORBELLS + queue as u64 * PAGE
}

/// The queue whose doorbell a 4-byte write at `offset` rings, if it is one.
#[must_use]
pub const fn doorbell_queue(at: u64) -> Option<u32> {
    if at < offset::DOORBELLS || !at.is_multiple_of(PAGE) {
        return None;
    }
    let queue = (at - offset::DOORBELLS) / PAGE;
    if queue < MAX_QUEUES as u64 { Some(queue as u32) } else { None }
}

const _: () = assert!(doorbell(MAX_QUEUES - 1) + PAGE <= BAR0_SIZE);
const _: () = assert!(VECTORS as u64 * 16 <= PBA_OFFSET);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_word_of_a_doorbell_page_rings() {
        assert_eq!(doorbell_queue(0x1000), Some(0));
        assert_eq!(doorbell_queue(0x1004), None);
        assert_eq!(doorbell_queue(doorbell(63)), Some(63));
        assert_eq!(doorbell_queue(doorbell(63) + PAGE), None);
        assert_eq!(doorbell_queue(0xfff), None);
        assert_eq!(doorbell_queue(u64::MAX), None);
    }
}
