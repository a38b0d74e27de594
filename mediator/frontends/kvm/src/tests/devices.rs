//! The device as a guest finds it.

use super::*;
use crate::bench::trap_cost;

#[test]
fn a_guest_finds_the_device_sizes_its_bars_and_shares_the_aperture() {
    if !kvm() {
        return;
    }
    let device = device();
    device.aperture().store64(0, 0x1122_3344_5566_7788).unwrap();
    let mut vm = MicroVm::new(config("selftest:device", 1), device.clone()).unwrap();
    vm.start().unwrap();
    let exit = vm.wait(PATIENCE).unwrap();
    assert!(exit.passed(), "{exit:?}");
    assert_eq!(device.aperture().load64(APERTURE_BYTES - 8), Ok(0x8877_6655_4433_2211));
    assert!(exit.console.contains("slot 0: 1234:7470\nslot 1: 1234:7473\n"), "{exit:?}");
}

#[test]
fn interrupts_come_stay_pending_and_come_when_unmasked() {
    if kvm() {
        println!("{}", pass("selftest:interrupts", 1).console);
    }
}

/// A doorbell is counted by the eventfd, and the vCPU never leaves to userspace for it.
#[test]
fn a_doorbell_does_not_reach_userspace() {
    if !kvm() {
        return;
    }
    const RINGS: u64 = 5000;
    let run = |rings: u64| {
        let (vm, device) = start(&format!("selftest:doorbells n={rings}"), 1);
        let exit = vm.wait(PATIENCE).unwrap();
        assert!(exit.passed(), "{exit:?}");
        println!("{}", exit.console);
        (vm.traps(), device.kick().eventfd().read().unwrap_or(0))
    };
    let (few, none) = run(0);
    let (many, rung) = run(RINGS);
    assert_eq!((none, rung), (0, RINGS));
    assert_eq!(many.mmio_reads, few.mmio_reads);
    assert_eq!(many.mmio_writes, few.mmio_writes, "doorbells left the kernel");
}

#[test]
fn accesses_of_every_width_do_no_harm() {
    if !kvm() {
        return;
    }
    let (vm, device) = start("selftest:widths", 1);
    let exit = vm.wait(PATIENCE).unwrap();
    assert!(exit.passed(), "{exit:?}");
    assert!(device.registers().refused() > 20, "{}", device.registers().refused());
    assert!(device.kick().eventfd().read().is_err(), "an odd write rang a doorbell");
}

#[test]
fn empty_ports_and_slots_read_as_ones() {
    if kvm() {
        pass("selftest:ports", 1);
    }
}

#[test]
fn bars_can_move_over_anything_and_back() {
    if kvm() {
        pass("selftest:move", 1);
    }
}

#[test]
fn two_processors_work_side_by_side() {
    if kvm() {
        pass("selftest:second", 2);
        pass("selftest:race", 2);
    }
}

#[test]
fn a_trap_costs_little_more_than_an_exit() {
    if !kvm() {
        return;
    }
    // The budget itself (1.1) is for the benchmark on a quiet machine; here others run too.
    let cost = trap_cost(&device(), 500).unwrap();
    println!("{cost:?}, ratio {:.3}", cost.ratio());
    assert!(cost.bare_ns > 100.0 && cost.ratio() < 2.0, "{cost:?}");
}
