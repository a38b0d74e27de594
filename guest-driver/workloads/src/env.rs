//! What a workload needs from where it runs, beyond the device.

use core::fmt;

use turnstile_abi::memory::SharedMemory;

/// Pages of the tenant's own memory set aside for DMA: contiguous, page aligned, and used for
/// nothing else.
#[derive(Debug)]
pub struct GuestPages<'e, M> {
    /// The pages, for volatile access. The size is a multiple of 4096.
    pub memory: &'e M,
    /// Their guest physical address; for a process, the address it registered them under.
    pub gpa: u64,
}

/// Where a workload runs: a bare-metal guest, a process, a test.
pub trait Env {
    /// How it reaches its own pages.
    type Memory: SharedMemory;

    /// Prints one line; the newline is the implementation's.
    fn print(&self, line: fmt::Arguments<'_>);

    /// The value of the argument `key`, for example `n` in `n=1000`.
    fn arg(&self, key: &str) -> Option<&str>;

    /// Pages for DMA, if there are any.
    fn pages(&self) -> Option<GuestPages<'_, Self::Memory>> {
        None
    }

    /// Guest physical address of the aperture (BAR2), if it has one.
    fn aperture_gpa(&self) -> Option<u64> {
        None
    }

    /// Runs `other` on a second vCPU or thread while `body` runs here, and returns when both have.
    /// `false`: there is no second one, and neither ran.
    fn alongside(&self, other: &(dyn Fn() + Sync), body: &mut dyn FnMut()) -> bool {
        let _ = (other, body);
        false
    }

    /// Reads `bytes` (1, 2, 4 or 8) at `at` in BAR0 in one access, aligned or not. `None`: this
    /// place cannot make such an access.
    fn mmio_read(&self, at: u64, bytes: u8) -> Option<u64> {
        let _ = (at, bytes);
        None
    }

    /// Writes the low `bytes` of `value` at `at` in BAR0 in one access. `false`: cannot.
    fn mmio_write(&self, at: u64, bytes: u8, value: u64) -> bool {
        let _ = (at, bytes, value);
        false
    }
}

/// Whether an access arrives at the device as it was made, in whatever VMM: one that is not aligned
/// may be split into several that are (QEMU does), and those are accesses like any other.
#[must_use]
pub const fn is_whole(at: u64, bytes: u8) -> bool {
    bytes > 0 && at.is_multiple_of(bytes as u64)
}

/// Reads a whole number out of the arguments.
pub(crate) fn number<E: Env>(env: &E, key: &str, default: u64) -> u64 {
    env.arg(key).and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Whether a comma-separated argument lists `word`.
pub(crate) fn lists<E: Env>(env: &E, key: &str, word: &str) -> bool {
    env.arg(key).is_some_and(|text| text.split(',').any(|w| w == word))
}
