//! Real guests on a real KVM. Where there is none, each test says why it is skipped.

mod devices;
mod survival;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use turnstile_abi::memory::SharedMemory;
use turnstile_abi::version::Features;
use turnstile_backend_api::SharedRegion;
use turnstile_core::Registers;
use turnstile_device::Device;

use crate::{Config, Exit, MicroVm, Payload, Reason, probe};

/// Aperture of the tests' devices: not a power of two.
const APERTURE_BYTES: u64 = 3 << 20;
/// How long a guest may take; many run at once on a small machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where a guest writes the vector that it wants raised (`ASK_AT` of the payload).
const ASK_AT: u64 = 0x100;

/// Whether there is a KVM; prints why not.
fn kvm() -> bool {
    match probe() {
        Ok(()) => true,
        Err(why) => {
            println!("skipped: {why}");
            false
        }
    }
}

fn device() -> Arc<Device> {
    let registers = Arc::new(Registers::new(Features::all(), APERTURE_BYTES, 1 << 20));
    let aperture = Arc::new(SharedRegion::create("aperture", APERTURE_BYTES).unwrap());
    Arc::new(Device::new(registers, aperture).unwrap())
}

fn config(args: &str, vcpus: u8) -> Config {
    Config {
        name: "test".into(),
        memory_bytes: 16 << 20,
        vcpus,
        payload: Payload::Elf(turnstile_images::PAYLOAD.to_vec()),
        args: args.into(),
        on_line: None,
    }
}

/// A started VM that runs a self-test of the payload.
fn start(args: &str, vcpus: u8) -> (MicroVm, Arc<Device>) {
    let device = device();
    let mut vm = MicroVm::new(config(args, vcpus), device.clone()).unwrap();
    vm.start().unwrap();
    (vm, device)
}

/// Runs a self-test to its end.
fn run(args: &str, vcpus: u8) -> Exit {
    let (vm, device) = start(args, vcpus);
    let _dispatcher = Dispatcher::start(device);
    vm.wait(PATIENCE).expect("the guest ends")
}

#[track_caller]
fn pass(args: &str, vcpus: u8) -> Exit {
    let exit = run(args, vcpus);
    assert!(exit.passed(), "{exit:?}");
    exit
}

/// Plays the dispatcher: raises the vector that the guest asks for at each doorbell.
struct Dispatcher {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Dispatcher {
    fn start(device: Arc<Device>) -> Dispatcher {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || {
                let mut rung = 0;
                while !stop.load(Ordering::Relaxed) {
                    match device.kick().eventfd().read() {
                        Ok(times) => {
                            rung += times;
                            let vector = device.aperture().load64(ASK_AT).unwrap();
                            device.raise(vector as u16);
                        }
                        Err(_) => std::thread::sleep(Duration::from_micros(200)),
                    }
                }
                rung
            }
        });
        Dispatcher { stop, thread: Some(thread) }
    }
}

impl Drop for Dispatcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

/// Waits until a condition holds.
#[track_caller]
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_guest_says_hello_and_ends() {
    if !kvm() {
        return;
    }
    let begun = Instant::now();
    let mut vm = MicroVm::new(config("selftest:hello one=1", 1), device()).unwrap();
    let built = begun.elapsed();
    vm.start().unwrap();
    let exit = vm.wait(PATIENCE).expect("the guest ends");
    println!("built in {built:?}, said hello after {:?}", begun.elapsed());
    assert!(exit.passed(), "{exit:?}");
    assert_eq!(exit.console, "hello from 1 cpus: selftest:hello one=1\n");
}

#[test]
fn exit_codes_and_panics_are_told_apart() {
    if !kvm() {
        return;
    }
    assert_eq!(run("selftest:code", 1).reason, Reason::Code(77));
    let panic = run("selftest:panic", 1);
    assert_eq!(panic.code(), Some(turnstile_boot::ExitCode::Panic as u32));
    assert!(panic.console.contains("as asked"), "{panic:?}");
    let fault = run("selftest:page-fault", 1);
    assert_eq!(fault.code(), Some(turnstile_boot::ExitCode::Fault as u32));
    assert!(fault.console.contains("vector 14"), "{fault:?}");
    let nothing = run("nonsense", 1);
    assert_eq!(nothing.code(), Some(turnstile_boot::ExitCode::Setup as u32));
}
