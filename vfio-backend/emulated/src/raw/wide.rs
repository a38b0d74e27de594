//! 16 bytes at once.

/// Stores `new` if the 16 bytes at `at` are `expected`; what they were.
///
/// # Safety
/// `at` is valid for reads and writes of 16 bytes and aligned to 16; every other access to them is atomic.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn compare_exchange(at: *mut u8, expected: u128, new: u128) -> u128 {
    if !is_x86_feature_detected!("cmpxchg16b") {
        // SAFETY: the caller's promise.
        return unsafe { locked(at, expected, new) };
    }
    let (mut low, mut high) = (expected as u64, (expected >> 64) as u64);
    // SAFETY: the processor has the instruction, the caller promises 16 valid, aligned bytes, and rbx, which the compiler
    // keeps for itself, is put back. In assembly because the intrinsic becomes a call to a library that is not linked.
    unsafe {
        std::arch::asm!(
            "xchg rsi, rbx",
            "lock cmpxchg16b [rdi]",
            "mov rbx, rsi",
            in("rdi") at,
            inout("rsi") new as u64 => _,
            in("rcx") (new >> 64) as u64,
            inout("rax") low,
            inout("rdx") high,
            options(nostack),
        );
    }
    u128::from(low) | u128::from(high) << 64
}

/// The same on processors without such an instruction.
///
/// # Safety
/// As on the others.
#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn compare_exchange(at: *mut u8, expected: u128, new: u128) -> u128 {
    // SAFETY: the caller's promise.
    unsafe { locked(at, expected, new) }
}

/// The same under a lock: atomic against other calls of this function only.
///
/// # Safety
/// As above.
unsafe fn locked(at: *mut u8, expected: u128, new: u128) -> u128 {
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
    static LOCK: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _held = LOCK.lock().unwrap_or_else(|e| e.into_inner());
    // SAFETY: the caller promises 16 valid bytes, aligned to 16: two aligned words.
    let (low, high) =
        unsafe { (AtomicU64::from_ptr(at.cast()), AtomicU64::from_ptr(at.add(8).cast())) };
    let old = u128::from(low.load(SeqCst)) | u128::from(high.load(SeqCst)) << 64;
    if old == expected {
        low.store(new as u64, SeqCst);
        high.store((new >> 64) as u64, SeqCst);
    }
    old
}
