//! Programs with which `turnstile-kvm` tests itself: each exercises one thing a VM must do or
//! survive. Some never end by themselves; the test then stops the VM.

use core::sync::atomic::{AtomicU32, Ordering};

use turnstile_abi::memory::SharedMemory;
use turnstile_abi::regs::{
    BAR0_SIZE, BAR4_SIZE, DEVICE_ID, MAGIC_VALUE, PBA_OFFSET, VENDOR_ID, doorbell, offset,
};
use turnstile_boot::{BootInfo, ExitCode};
use turnstile_driver::Transport;
use turnstile_workloads::Env;

use crate::place::{Device, Guest};
use crate::{call, console, interrupt, pci};

/// How long a test waits for an interrupt, in nanoseconds.
const WAIT_NS: u64 = 5_000_000_000;
/// Aperture offset of the vector that the test shall raise.
const ASK_AT: u64 = 0x100;

/// Ends the test with a reason unless the condition holds.
macro_rules! check {
    ($condition:expr, $($what:tt)*) => {
        if !$condition {
            console::line(format_args!($($what)*));
            return ExitCode::Fail;
        }
    };
}

/// Runs a test by name.
pub(crate) fn run(test: &str, info: BootInfo, arguments: &'static str) -> ExitCode {
    match test {
        "hello" => {
            console::line(format_args!("hello from {} cpus: {arguments}", info.cpus));
            return ExitCode::Pass;
        }
        "spin" => loop {
            core::hint::spin_loop();
        },
        "halt" => call::halt(),
        "triple-fault" => call::triple_fault(),
        "page-fault" => return page_fault(),
        "panic" => panic!("as asked"),
        "flood" => loop {
            call::serial(&[b'x'; 200]);
            call::serial(b"\n");
        },
        "ports" => return ports(),
        "code" => call::out32(turnstile_boot::EXIT_PORT, 77),
        _ => {}
    }
    let device = match Device::start(&info) {
        Ok(device) => device,
        Err(missing) => {
            console::line(format_args!("the device cannot be used: {missing:?}"));
            return ExitCode::Setup;
        }
    };
    let guest = Guest::new(&device, info, arguments);
    match test {
        "device" => look(&guest),
        "interrupts" => interrupts(&device),
        "doorbells" => doorbells(&guest),
        "widths" => widths(&device),
        "move" => move_bars(&guest),
        "churn" => churn(&device),
        "second" => second(&guest),
        "race" => race(&guest),
        _ => {
            console::line(format_args!("no self-test is called '{test}'"));
            ExitCode::Setup
        }
    }
}

/// Touches page 0, which is not mapped.
#[allow(unsafe_code)]
fn page_fault() -> ExitCode {
    let nowhere = core::hint::black_box(16_usize) as *const u32;
    // SAFETY: none; the fault is the point, and it ends the guest.
    unsafe { nowhere.read_volatile() };
    ExitCode::Fail
}

/// Ports with nothing behind them, and configuration space with nothing in it.
fn ports() -> ExitCode {
    check!(call::in8(0x1234) == 0xff, "an empty port does not read as ones");
    check!(call::in32(0x1234) == u32::MAX, "an empty port does not read as ones");
    call::out32(0x1234, 1);
    call::out8(0xcf8, 1);
    call::out32(0xcf8, 0x8000_0000 | 31 << 11);
    check!(call::in32(0xcfc) == u32::MAX, "an empty slot does not read as ones");
    call::out32(0xcf8, 0x8001_0000);
    check!(call::in32(0xcfc) == u32::MAX, "bus 1 exists");
    call::out32(0xcf8, 0x8000_0100);
    check!(call::in32(0xcfc) == u32::MAX, "function 1 exists");
    call::out32(0xcf8, 0);
    check!(call::in32(0xcfc) == u32::MAX, "the data port answers without the enable bit");
    // The last byte of the data port alone: offset 3 of the doubleword, and what hangs over.
    call::out32(0xcf8, 0x8000_0800);
    check!(call::in8(0xcff) == (DEVICE_ID >> 8) as u8, "a byte of the device id is wrong");
    check!(call::in32(0xcff) == u32::MAX, "an access across the data port's end");
    ExitCode::Pass
}

/// What a driver sees first: ids, BARs, registers, aperture.
fn look(guest: &Guest<'_>) -> ExitCode {
    let device = guest.device;
    for (slot, vendor, id) in pci::Function::scan() {
        console::line(format_args!("slot {slot}: {vendor:04x}:{id:04x}"));
    }
    check!(device.function.read(0) == u32::from(VENDOR_ID) | u32::from(DEVICE_ID) << 16, "ids");
    let [b0, b2, b4] = device.bars;
    check!(b0.bytes == BAR0_SIZE && !b0.prefetchable, "BAR0: {b0:?}");
    check!(b2.bytes.is_power_of_two() && b2.prefetchable, "BAR2: {b2:?}");
    check!(b4.bytes == BAR4_SIZE && !b4.prefetchable, "BAR4: {b4:?}");
    check!(device.read32(offset::MAGIC) == MAGIC_VALUE, "magic");
    let bytes = device.read64(offset::APERTURE_BYTES);
    check!(bytes.next_power_of_two() == b2.bytes, "aperture of {bytes} in {b2:?}");
    let aperture = device.aperture();
    // The test wrote the first word; we write the last.
    check!(aperture.load64(0) == Ok(0x1122_3344_5566_7788), "first word of the aperture");
    check!(aperture.store64(bytes - 8, 0x8877_6655_4433_2211).is_ok(), "last word");
    ExitCode::Pass
}

/// Asks the test, which plays the device, to raise a vector: its number in the aperture, a doorbell.
fn ask(device: &Device, vector: u16) {
    // A refused store shows as an interrupt that does not come.
    let _ = device.aperture().store64(ASK_AT, vector.into());
    device.doorbell(vector.into());
}

/// Vectors 0 and 15, a masked vector that waits, and the function mask.
fn interrupts(device: &Device) -> ExitCode {
    for vector in [0, 15, 7, 0] {
        let before = interrupt::count(vector);
        ask(device, vector);
        device.wait_for_interrupt(vector, WAIT_NS);
        check!(interrupt::count(vector) == before + 1, "vector {vector} did not come");
    }
    let mask = |on: u64| device.msix.write(3 * 16 + 12, 4, on);
    let pending = || device.msix.read(PBA_OFFSET, 8);
    mask(1);
    ask(device, 3);
    let mut turns = 0_u32;
    while pending() != 1 << 3 && turns < 100_000 {
        turns += 1;
    }
    check!(pending() == 1 << 3, "pending bits are {:#x}", pending());
    check!(interrupt::count(3) == 0, "a masked vector came");
    mask(0);
    device.wait_for_interrupt(3, WAIT_NS);
    check!(interrupt::count(3) == 1, "unmasking did not deliver");
    check!(pending() == 0, "still pending after delivery");
    let Ok(msix) = device.function.msix() else { return ExitCode::Setup };
    device.function.set_msix(msix, 0xc000);
    ask(device, 4);
    let mut turns = 0_u32;
    while pending() != 1 << 4 && turns < 100_000 {
        turns += 1;
    }
    check!(interrupt::count(4) == 0, "a vector came through the function mask");
    device.function.set_msix(msix, 0x8000);
    device.wait_for_interrupt(4, WAIT_NS);
    check!(interrupt::count(4) == 1, "taking the function mask off did not deliver");
    // A wait with nothing coming ends at its bound.
    let start = device.now_ns();
    device.wait_for_interrupt(9, 20_000_000);
    let waited = device.now_ns() - start;
    check!(waited >= 20_000_000, "waited only {waited} ns");
    console::line(format_args!("waited {waited} ns of 20000000"));
    ExitCode::Pass
}

/// Rings doorbells and says how long one took.
fn doorbells(guest: &Guest<'_>) -> ExitCode {
    let n: u32 = guest.arg("n").and_then(|n| n.parse().ok()).unwrap_or(1000);
    let device = guest.device;
    let start = device.now_ns();
    for i in 0..n {
        device.doorbell(i % 64);
    }
    let ns = device.now_ns() - start;
    console::line(format_args!("{n} doorbells, {} ns each", ns / u64::from(n.max(1))));
    ExitCode::Pass
}

/// Accesses of every width at odd places: all-ones, no effect, no harm.
fn widths(device: &Device) -> ExitCode {
    let r = &device.registers;
    check!(r.read(0, 8) as u32 == MAGIC_VALUE, "an aligned quadword");
    for (at, bytes) in [(0, 1), (0, 2), (1, 4), (2, 2), (4, 8), (3, 8), (0x40, 4), (0xffe, 4)] {
        let ones = u64::MAX >> (64 - u32::from(bytes) * 8);
        let got = r.read(at, bytes);
        check!(got == ones, "{bytes} bytes at {at:#x} read as {got:#x}");
        r.write(at, bytes, 0);
    }
    // Across a page boundary the processor makes two accesses: 3 and 5 bytes, and no register.
    check!(r.read(0xffd, 8) == u64::MAX, "a quadword across pages");
    r.write(0xffd, 8, u64::MAX);
    r.write(doorbell(5) - 2, 4, 0);
    for bytes in [1, 2, 8] {
        r.write(doorbell(5), bytes, 0);
    }
    for at in [4, 8, 0x7fc] {
        r.write(doorbell(5) + at, 4, 0);
    }
    check!(r.read(doorbell(5), 4) == 0xffff_ffff, "a doorbell reads as something");
    check!(device.msix.read(1, 4) == 0xffff_ffff, "an odd read of the MSI-X table");
    check!(device.read32(offset::MAGIC) == MAGIC_VALUE, "magic, afterwards");
    ExitCode::Pass
}

/// BARs moved elsewhere, over RAM, over each other, off, and back.
fn move_bars(guest: &Guest<'_>) -> ExitCode {
    let device = guest.device;
    let [b0, b2, b4] = device.bars;
    let f = device.function;
    let magic = || device.read32(offset::MAGIC);
    let Some(pages) = guest.pages() else { return ExitCode::Setup };
    check!(pages.memory.store64(0, 0x5555).is_ok(), "no RAM");

    f.enable(false);
    check!(magic() == u32::MAX, "BAR0 answers while decoding is off");
    device.doorbell(1);
    check!(device.aperture().load64(0) == Ok(u64::MAX), "BAR2 answers while decoding is off");
    f.enable(true);
    check!(magic() == MAGIC_VALUE, "BAR0 is gone");
    check!(device.aperture().store64(8, 7).is_ok(), "store");

    // Over RAM: the guest's RAM stays its RAM.
    f.place(0, 0x20_0000);
    f.place(2, 0);
    f.place(4, pages.gpa);
    check!(pages.memory.load64(0) == Ok(0x5555), "RAM changed under a BAR");
    check!(magic() == u32::MAX, "BAR0 answers where it no longer is");
    // Over the local APIC, over each other, at the end of everything.
    f.place(0, 0xfee0_0000);
    f.place(2, 0xfec0_0000);
    f.place(4, 0xffff_ffff_ffff_e000);
    f.place(0, b2.base);
    f.place(2, b2.base);
    f.place(4, b2.base);
    f.place(0, u64::MAX);
    f.place(2, u64::MAX);
    // And back. The aperture is the same memory as before.
    f.place(0, b0.base);
    f.place(2, b2.base);
    f.place(4, b4.base);
    check!(magic() == MAGIC_VALUE, "BAR0 did not come back");
    check!(device.aperture().load64(8) == Ok(7), "the aperture did not come back");
    ask(device, 2);
    device.wait_for_interrupt(2, WAIT_NS);
    check!(interrupt::count(2) == 1, "no interrupt after the move");
    ExitCode::Pass
}

/// Decoding and interrupts on and off as fast as it goes, for as long as the test lets it.
fn churn(device: &Device) -> ExitCode {
    let Ok(msix) = device.function.msix() else { return ExitCode::Setup };
    for turn in 0_u64.. {
        device.function.enable(turn.is_multiple_of(2));
        device.function.set_msix(msix, if turn.is_multiple_of(3) { 0x8000 } else { 0xc000 });
        device.msix.write(turn % 16 * 16, 8, turn << 20);
    }
    ExitCode::Fail
}

/// Work beside the boot processor, twice.
fn second(guest: &Guest<'_>) -> ExitCode {
    let turns = AtomicU32::new(0);
    let stop = AtomicU32::new(0);
    for round in 0..2 {
        let before = turns.load(Ordering::Relaxed);
        let ran = guest.alongside(
            &|| {
                while stop.load(Ordering::Acquire) == round {
                    turns.fetch_add(1, Ordering::Relaxed);
                }
            },
            &mut || {
                // Both run at once: wait here for the other's progress.
                while turns.load(Ordering::Relaxed) < before + 1000 {
                    core::hint::spin_loop();
                }
                stop.fetch_add(1, Ordering::Release);
            },
        );
        check!(ran, "no second processor");
    }
    ExitCode::Pass
}

/// Both processors at the registers at once.
fn race(guest: &Guest<'_>) -> ExitCode {
    let device = guest.device;
    let registers = &device.registers;
    let wrong = AtomicU32::new(0);
    let read = || {
        for _ in 0..500 {
            if registers.read(0, 4) as u32 != MAGIC_VALUE {
                wrong.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let ran = guest.alongside(&read, &mut || read());
    check!(ran, "no second processor");
    check!(wrong.load(Ordering::Relaxed) == 0, "{wrong:?} reads were wrong");
    ExitCode::Pass
}
