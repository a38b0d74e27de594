//! Where processor faults and panics end: a line on the console and an exit code.

use core::cell::UnsafeCell;

use turnstile_boot::ExitCode;

use crate::{call, console};

/// Stack of the fault handler, in bytes.
pub(crate) const STACK_BYTES: usize = 16 * 1024;

/// Memory that only assembly and the processor name as a whole.
#[repr(C, align(4096))]
pub(crate) struct Stack<const BYTES: usize>(UnsafeCell<[u8; BYTES]>);

impl<const BYTES: usize> Stack<BYTES> {
    pub(crate) const fn new() -> Self {
        Stack(UnsafeCell::new([0; BYTES]))
    }
}

#[allow(unsafe_code)]
// SAFETY: no Rust code reaches the bytes; a stack belongs to the processor that runs on it.
unsafe impl<const BYTES: usize> Sync for Stack<BYTES> {}

/// A fault may be the stack's own, so its handler has another.
pub(crate) static STACK: Stack<STACK_BYTES> = Stack::new();

/// A fault in ring 3 continues here.
pub(crate) extern "sysv64" fn faulted(vector: u64, error: u64, rip: u64, cr2: u64) -> ! {
    console::line(format_args!(
        "fault: vector {vector}, error {error:#x}, at {rip:#x}, address {cr2:#x}"
    ));
    call::exit(ExitCode::Fault)
}

#[panic_handler]
fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    console::line(format_args!("{info}"));
    call::exit(ExitCode::Panic)
}
