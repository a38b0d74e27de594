//! System calls: what ring 3 asks of [`crate::start`].
#![allow(unsafe_code)]

use core::arch::asm;
use core::sync::atomic::AtomicU32;

use turnstile_boot::{EXIT_PORT, ExitCode, SERIAL_PORT};

use crate::start::call;

/// Makes a system call. Returns what it left in `rax`.
///
/// # Safety
/// The arguments are what the call wants; addresses are valid for what it does with them.
unsafe fn call3(number: u64, a: u64, b: u64, c: u64) -> u64 {
    let result;
    // SAFETY: `start::system_call` keeps every register but these four, and the stack; memory it
    // touches is what the arguments name.
    unsafe {
        asm!("int3", inlateout("rax") number => result, in("rdi") a,
            inlateout("rsi") b => _, inlateout("rdx") c => _, lateout("rcx") _);
    }
    result
}

/// Writes a byte to an I/O port.
pub(crate) fn out8(port: u16, value: u8) {
    // SAFETY: no addresses.
    unsafe { call3(call::OUT8, port.into(), value.into(), 0) };
}

/// Writes a doubleword to an I/O port.
pub(crate) fn out32(port: u16, value: u32) {
    // SAFETY: no addresses.
    unsafe { call3(call::OUT32, port.into(), value.into(), 0) };
}

/// Reads a byte from an I/O port.
pub(crate) fn in8(port: u16) -> u8 {
    // SAFETY: no addresses.
    unsafe { call3(call::IN8, port.into(), 0, 0) as u8 }
}

/// Reads a doubleword from an I/O port.
pub(crate) fn in32(port: u16) -> u32 {
    // SAFETY: no addresses.
    unsafe { call3(call::IN32, port.into(), 0, 0) as u32 }
}

/// Writes bytes to the serial line.
pub(crate) fn serial(bytes: &[u8]) {
    let (at, len) = (bytes.as_ptr() as u64, bytes.len() as u64);
    // SAFETY: the call reads exactly the slice.
    unsafe { call3(call::OUT_BYTES, SERIAL_PORT.into(), at, len) };
}

/// Sleeps until an interrupt, unless `counter` is no longer `seen`. `ticks` goes into the APIC timer
/// first; 0 stops it.
pub(crate) fn sleep(counter: &AtomicU32, seen: u32, ticks: u32) {
    // SAFETY: the call reads the counter's word once.
    unsafe { call3(call::SLEEP, counter.as_ptr() as u64, seen.into(), ticks.into()) };
}

/// Ends the VM.
pub(crate) fn exit(code: ExitCode) -> ! {
    out32(EXIT_PORT, code as u32);
    halt()
}

/// Stops this processor for good.
pub(crate) fn halt() -> ! {
    loop {
        // SAFETY: no addresses; it does not come back, and if it did, we would ask again.
        unsafe { call3(call::HALT, 0, 0, 0) };
    }
}

/// Gives this processor back to `start`, which waits for the next job.
pub(crate) fn park() -> ! {
    // SAFETY: no addresses; it does not come back.
    unsafe { call3(call::PARK, 0, 0, 0) };
    halt()
}

/// Faults with no way to handle it, which shuts the VM down.
pub(crate) fn triple_fault() -> ! {
    // SAFETY: no addresses; it does not come back.
    unsafe { call3(call::TRIPLE_FAULT, 0, 0, 0) };
    halt()
}

/// The time stamp counter.
pub(crate) fn ticks() -> u64 {
    // SAFETY: reading the counter changes nothing.
    unsafe { core::arch::x86_64::_rdtsc() }
}
