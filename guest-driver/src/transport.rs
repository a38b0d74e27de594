//! The way to a device: registers, aperture, doorbell, interrupt, clock.

use turnstile_abi::memory::SharedMemory;
use turnstile_abi::regs;

/// How the driver reaches a device. Implemented once per place the device shows up in.
///
/// Like a PCI function that fell off its bus, a device that is gone reads as all-ones and swallows
/// writes; an implementation does the same instead of failing.
pub trait Transport {
    /// The aperture (BAR2).
    type Aperture: SharedMemory;

    /// Reads the 32-bit register at `at` in BAR0, a multiple of 4.
    fn read32(&self, at: u64) -> u32;

    /// Reads the 64-bit register at `at` in BAR0, a multiple of 8.
    fn read64(&self, at: u64) -> u64 {
        u64::from(self.read32(at)) | u64::from(self.read32(at + 4)) << 32
    }

    /// Writes the 32-bit register at `at` in BAR0, a multiple of 4.
    fn write32(&self, at: u64, value: u32);

    /// The aperture. Its size never changes.
    fn aperture(&self) -> &Self::Aperture;

    /// Rings the doorbell of `queue`.
    fn doorbell(&self, queue: u32) {
        self.write32(regs::doorbell(queue), 0);
    }

    /// Sleeps until interrupt `vector` has come in since the last call, or `bound_ns` nanoseconds
    /// have passed. May return early; without interrupts it just [relaxes](Self::relax).
    fn wait_for_interrupt(&self, vector: u16, bound_ns: u64) {
        let _ = (vector, bound_ns);
        self.relax();
    }

    /// One turn of a busy wait.
    fn relax(&self) {
        core::hint::spin_loop();
    }

    /// Nanoseconds of a clock that only moves forward. Every bound of the driver counts on it.
    fn now_ns(&self) -> u64;
}

impl<T: Transport + ?Sized> Transport for &T {
    type Aperture = T::Aperture;
    fn read32(&self, at: u64) -> u32 {
        (**self).read32(at)
    }
    fn read64(&self, at: u64) -> u64 {
        (**self).read64(at)
    }
    fn write32(&self, at: u64, value: u32) {
        (**self).write32(at, value);
    }
    fn aperture(&self) -> &Self::Aperture {
        (**self).aperture()
    }
    fn doorbell(&self, queue: u32) {
        (**self).doorbell(queue);
    }
    fn wait_for_interrupt(&self, vector: u16, bound_ns: u64) {
        (**self).wait_for_interrupt(vector, bound_ns);
    }
    fn relax(&self) {
        (**self).relax();
    }
    fn now_ns(&self) -> u64 {
        (**self).now_ns()
    }
}
