//! Interrupts: the table's gates, counters, the local APIC and its timer.
#![allow(unsafe_code)]

use core::sync::atomic::{AtomicU32, Ordering};

use crate::call;
use crate::clock::Clock;
use crate::start::WAKE_VECTOR;

/// Processor vector of MSI-X vector 0; the others follow.
const FIRST_DEVICE_VECTOR: u8 = 0x40;
/// Processor vector of the APIC timer.
const TIMER_VECTOR: u8 = 0xe0;
/// Longest sleep in nanoseconds: the timer counts in 32 bits.
const LONGEST_SLEEP_NS: u64 = 4_000_000_000;
/// The APIC timer's unit in nanoseconds, undivided, as KVM runs it (`APIC_BUS_CYCLE_NS`).
const TIMER_TICK_NS: u64 = 1;

const APIC: usize = 0xfee0_0000;
const COMMAND_LOW: usize = 0x300;
const COMMAND_HIGH: usize = 0x310;
const TIMER_ENTRY: usize = 0x320;
const TIMER_DIVIDE: usize = 0x3e0;

/// Interrupts taken, by processor vector.
pub(crate) static COUNTS: [AtomicU32; 256] = [const { AtomicU32::new(0) }; 256];
/// Interrupts taken in all.
pub(crate) static TOTAL: AtomicU32 = AtomicU32::new(0);

unsafe extern "C" {
    static mut gates: [[u64; 2]; 256];
    static vector_stubs: [[u8; 16]; 256];
}

fn apic_write(register: usize, value: u32) {
    // SAFETY: the local APIC is mapped at its architectural address (turnstile-boot says so), and
    // `register` is one of the constants above.
    unsafe { ((APIC + register) as *mut u32).write_volatile(value) };
}

/// Fills the interrupt table in (vector 3, the system call, is `start`'s) and starts the timer's
/// clock. Called once, by the boot processor, before any interrupt is asked for.
pub(crate) fn start() {
    for vector in (0..256).filter(|&v| v != 3) {
        // SAFETY: the symbol is the table of 256 stubs in `start`; only its address is taken.
        let stub = unsafe { &raw const vector_stubs[vector] } as u64;
        let low = stub & 0xffff | 0x10 << 16 | 0x8e << 40 | (stub >> 16 & 0xffff) << 48;
        // SAFETY: the table is the processor's; nobody else writes it, and no interrupt that would
        // make the processor read a half-written gate is on yet.
        unsafe { (&raw mut gates[vector]).write_volatile([low, stub >> 32]) };
    }
    apic_write(TIMER_DIVIDE, 0b1011);
    apic_write(TIMER_ENTRY, TIMER_VECTOR.into());
}

/// Wakes the processor with this APIC id.
pub(crate) fn wake(apic_id: u8) {
    apic_write(COMMAND_HIGH, u32::from(apic_id) << 24);
    apic_write(COMMAND_LOW, 0x4000 | u32::from(WAKE_VECTOR));
}

/// The message that delivers a device vector to the boot processor: address and data.
pub(crate) fn message(vector: u16) -> (u64, u32) {
    (APIC as u64, u32::from(FIRST_DEVICE_VECTOR) + u32::from(vector))
}

/// Interrupts of a device vector taken so far.
pub(crate) fn count(vector: u16) -> u32 {
    let index = usize::from(FIRST_DEVICE_VECTOR) + usize::from(vector);
    COUNTS.get(index).map_or(0, |count| count.load(Ordering::Acquire))
}

/// Sleeps until a device vector's count is no longer `seen`, at most `bound_ns`. Returns the count.
pub(crate) fn wait(clock: &Clock, vector: u16, seen: u32, bound_ns: u64) -> u32 {
    let end = clock.now_ns().saturating_add(bound_ns);
    loop {
        // Read before the looks below, so that an interrupt after them is not slept through.
        let total = TOTAL.load(Ordering::Acquire);
        let now = clock.now_ns();
        if count(vector) != seen || now >= end {
            return count(vector);
        }
        let ticks = (end - now).min(LONGEST_SLEEP_NS) / TIMER_TICK_NS;
        call::sleep(&TOTAL, total, (ticks as u32).max(1));
    }
}
