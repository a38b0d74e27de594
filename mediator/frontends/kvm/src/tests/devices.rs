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
    let cost = trap_cost(&device(), 4000).unwrap();
    println!("{cost:?}, ratio {:.3}", cost.ratio());
    assert!(cost.bare_ns > 100.0 && cost.ratio() < 2.0, "{cost:?}");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]

    /// Any accesses to ports and trapped memory, as a guest could make them: no panic, nothing that
    /// is not there answers, and afterwards the device can be put where it belongs and works.
    #[test]
    fn any_access_sequence_leaves_a_working_bus(
        accesses in proptest::collection::vec(access(), 0..60),
    ) {
        if !kvm() {
            return Ok(());
        }
        let device = device();
        let bus = bus(&device);
        for (what, at, data) in accesses {
            let mut data = data;
            match what {
                0 => bus.mmio_read(at, &mut data),
                1 => bus.mmio_write(at, &data),
                2 => bus.port_read(at as u16, &mut data),
                _ => drop(bus.port_write(at as u16, &data)),
            }
        }
        let [registers, ..] = bus.platform().assign(crate::layout::WINDOW);
        let mut magic = [0; 4];
        bus.mmio_read(registers, &mut magic);
        proptest::prop_assert_eq!(u32::from_le_bytes(magic), turnstile_abi::regs::MAGIC_VALUE);
        bus.mmio_read(registers + turnstile_abi::regs::BAR0_SIZE - 2, &mut magic);
        proptest::prop_assert_eq!(magic, [0xff; 4]);
    }
}

/// What, where, and the bytes: biased to the ports and addresses where something is.
fn access() -> impl proptest::strategy::Strategy<Value = (u8, u64, Vec<u8>)> {
    use proptest::prelude::*;
    let window = crate::layout::WINDOW;
    let place = prop_oneof![
        3 => Just(0xcf8_u64),
        6 => 0xcfc..0xd00_u64,
        1 => 0x3f8..0x400_u64,
        1 => any::<u64>(),
        2 => window..window + (1 << 24),
    ];
    let byte = prop_oneof![Just(0_u8), Just(0xff), Just(0x80), Just(0x08), any::<u8>()];
    // A valid configuration address now and then, or the data port says nothing.
    let select = (0..64_u32).prop_map(|word| (0x8000_0800 | word << 2).to_le_bytes().to_vec());
    prop_oneof![
        1 => select.prop_map(|data| (3, 0xcf8, data)),
        2 => (0..4_u8, place, prop::collection::vec(byte, 1..9)),
    ]
}

/// The bus of a VM without vCPUs.
fn bus(device: &Arc<Device>) -> crate::bus::Bus {
    let kvm = crate::probe::open().unwrap();
    let vm = Arc::new(crate::sys::Vm::new(&kvm).unwrap());
    let platform = crate::platform::Platform::new(vm, device.clone()).unwrap();
    let line = vmm_sys_util::eventfd::EventFd::new(libc::EFD_NONBLOCK).unwrap();
    let console = crate::console::Console::new(None);
    crate::bus::Bus::new(device.clone(), platform, console, crate::bus::SerialInterrupt(line))
}
