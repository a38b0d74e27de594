//! Bare-metal guests: one image, and the command line says which program it runs.
//!
//! The first word names a workload of `turnstile-workloads`, or `selftest:NAME` for one of the
//! programs with which `turnstile-kvm` tests itself; `key=value` words are its arguments. The result
//! goes to the serial console as text and to the exit port as a `turnstile_boot::ExitCode`.
//!
//! Everything but [`start`] runs in ring 3 and is compiled for the baseline x86-64 processor.
#![no_std]
#![no_main]

mod call;
mod clock;
mod console;
mod fault;
mod interrupt;
mod pci;
mod place;
mod processor;
mod pvh;
mod runtime;
mod selftest;
mod start;

use turnstile_boot::{BootInfo, ExitCode};
use turnstile_workloads::Workload;

use crate::place::{Device, Guest};

/// Stack of the boot processor in ring 3.
static STACK: fault::Stack<{ start::STACK_BYTES }> = fault::Stack::new();

/// The boot processor arrives here from [`start`], in ring 3.
extern "sysv64" fn boot(info: *const [u8; BootInfo::BYTES]) -> ! {
    let Some(info) = place::boot_info(info) else { call::exit(ExitCode::Setup) };
    interrupt::start();
    call::exit(run(info))
}

fn run(info: BootInfo) -> ExitCode {
    let arguments = place::command_line(&info);
    let name = arguments.split_ascii_whitespace().next().unwrap_or("");
    if let Some(test) = name.strip_prefix("selftest:") {
        return selftest::run(test, info, arguments);
    }
    let Some(workload) = Workload::from_name(name) else {
        console::line(format_args!("no workload is called '{name}'"));
        return ExitCode::Setup;
    };
    let device = match Device::start(&info) {
        Ok(device) => device,
        Err(missing) => {
            console::line(format_args!("the device cannot be used: {missing:?}"));
            return ExitCode::Setup;
        }
    };
    let guest = Guest::new(&device, info, arguments);
    if turnstile_workloads::run(workload, &device, &guest) {
        ExitCode::Pass
    } else {
        ExitCode::Fail
    }
}
