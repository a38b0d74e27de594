//! Runs of bytes in vector moves. In assembly, so that a byte somebody else writes meanwhile is an old or a new one and
//! never undefined behaviour; aligned elements are not torn.

/// Copies `len` bytes, a multiple of 32, out of shared memory.
///
/// # Safety
/// `from` is valid for reads and `to`, which nobody else reaches, for writes of `len` bytes.
#[inline(always)]
pub(super) unsafe fn load(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller's promise.
    unsafe { copy(from, to, len) }
}

/// Copies `len` bytes, a multiple of 32, into shared memory.
///
/// # Safety
/// `to` is valid for writes and `from`, which nobody else writes, for reads of `len` bytes.
#[inline(always)]
pub(super) unsafe fn store(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: the caller's promise.
    unsafe { copy(from, to, len) }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    let mut at = 0;
    while at < len {
        // SAFETY: 32 bytes at a time below `len`, which the caller vouches for; SSE2 is part of the architecture.
        unsafe {
            std::arch::asm!(
                "movups {a}, [{from}]",
                "movups {b}, [{from} + 16]",
                "movups [{to}], {a}",
                "movups [{to} + 16], {b}",
                from = in(reg) from.add(at),
                to = in(reg) to.add(at),
                a = out(xmm_reg) _,
                b = out(xmm_reg) _,
                options(nostack, preserves_flags),
            );
        }
        at += 32;
    }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    use super::Cell;
    for at in 0..len {
        // SAFETY: below `len`, which the caller vouches for; a byte is always aligned.
        unsafe { u8::store(to.add(at), u8::load(from.cast_mut().add(at))) };
    }
}
