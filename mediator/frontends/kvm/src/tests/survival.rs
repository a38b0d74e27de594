//! Guests that end badly, or do not end, and what is left of them.

use super::*;
use crate::KvmError;
use crate::console::KEPT_BYTES;

#[test]
fn a_triple_fault_ends_only_its_own_vm() {
    if !kvm() {
        return;
    }
    let (neighbour, _device) = start("selftest:spin", 1);
    assert_eq!(run("selftest:triple-fault", 1).reason, Reason::Shutdown);
    assert_eq!(neighbour.exit(), None);
}

#[test]
fn a_guest_that_never_ends_is_stopped_at_once() {
    if !kvm() {
        return;
    }
    for (test, vcpus) in [("spin", 1), ("halt", 1), ("churn", 1), ("spin", 3)] {
        let (mut vm, _device) = start(&format!("selftest:{test}"), vcpus);
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!(vm.wait(Duration::from_millis(20)), None, "{test} ended by itself");
        let asked = Instant::now();
        vm.stop();
        let took = asked.elapsed();
        println!("{test} with {vcpus} vCPUs stopped in {took:?}");
        assert!(took < Duration::from_secs(5), "{test}: {took:?}");
        assert_eq!(vm.exit().unwrap().reason, Reason::Stopped);
        assert!(vm.ended().read().is_ok());
        assert!(matches!(vm.start(), Err(KvmError::Started)));
    }
}

#[test]
fn a_flood_on_the_console_stays_within_bounds() {
    if !kvm() {
        return;
    }
    let lines = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let mut config = config("selftest:flood", 1);
    let count = lines.clone();
    config.on_line = Some(Box::new(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
    }));
    let mut vm = MicroVm::new(config, device()).unwrap();
    vm.start().unwrap();
    eventually("more output than is kept", || vm.console_bytes() > 2 * KEPT_BYTES as u64);
    vm.stop();
    assert!(vm.exit().unwrap().console.len() <= KEPT_BYTES);
    assert!(lines.load(Ordering::Relaxed) > 0);
}

#[test]
fn a_callback_that_panics_ends_its_vm() {
    if !kvm() {
        return;
    }
    let mut config = config("selftest:hello", 1);
    config.on_line = Some(Box::new(|_| panic!("the test's own panic")));
    let mut vm = MicroVm::new(config, device()).unwrap();
    vm.start().unwrap();
    let exit = vm.wait(PATIENCE).unwrap();
    assert!(matches!(exit.reason, Reason::Failed(_)), "{exit:?}");
}

/// Descriptors and threads of this process.
fn held() -> (usize, usize) {
    let count = |path| std::fs::read_dir(path).unwrap().count();
    (count("/proc/self/fd"), count("/proc/self/task"))
}

/// Runs by itself in a process of its own: it counts what the process holds.
#[test]
fn twenty_vms_at_once_and_nothing_is_left() {
    if !kvm() {
        return;
    }
    const CHILD: &str = "TURNSTILE_KVM_TWENTY";
    if std::env::var_os(CHILD).is_none() {
        let me = std::env::current_exe().unwrap();
        let name = "tests::survival::twenty_vms_at_once_and_nothing_is_left";
        let child = std::process::Command::new(me)
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success(), "{text}{}", String::from_utf8_lossy(&child.stderr));
        assert!(text.contains("1 passed"), "{text}");
        return;
    }
    drop(start("selftest:hello", 1)); // whatever is made once is made now
    let before = held();
    let begun = Instant::now();
    let vms: Vec<_> = (0..20)
        .map(|i| start(if i % 2 == 0 { "selftest:hello" } else { "selftest:spin" }, 1 + i % 2))
        .collect();
    for (i, (vm, _)) in vms.iter().enumerate() {
        if i % 2 == 0 {
            let exit = vm.wait(PATIENCE).expect("the guest ends");
            assert!(exit.passed(), "{exit:?}");
        } else {
            assert_eq!(vm.exit(), None);
        }
    }
    println!("20 VMs in {:?}, holding {:?}", begun.elapsed(), held());
    drop(vms); // half of them mid-run
    assert_eq!(held(), before);
}

#[test]
fn what_cannot_be_a_vm_is_refused_with_a_reason() {
    if !kvm() {
        return;
    }
    let refused = |change: &dyn Fn(&mut Config)| {
        let mut config = config("selftest:hello", 1);
        change(&mut config);
        MicroVm::new(config, device()).unwrap_err().to_string()
    };
    assert!(refused(&|c| c.vcpus = 0).contains("vCPUs is 0"));
    assert!(refused(&|c| c.vcpus = 200).contains("1 to 64"));
    assert!(refused(&|c| c.memory_bytes = 4096).contains("memory"));
    assert!(refused(&|c| c.memory_bytes = 1 << 50).contains("memory"));
    assert!(refused(&|c| c.memory_bytes = (16 << 20) + 1).contains("multiple of 4096"));
    assert!(refused(&|c| c.args = "x".repeat(3000)).contains("arguments"));
    assert!(refused(&|c| c.payload = Payload::Elf(b"not an ELF".to_vec())).contains("ELF"));
    let linux = Payload::Linux { kernel: vec![0; 4096], initramfs: None };
    assert!(refused(&|c| c.payload = linux.clone()).contains("bzImage or vmlinux"));
}

/// Linux needs hardware virtualisation: software KVM runs a guest's kernel far too slowly, and not
/// all of its instructions. There is no kernel image in the tree either; the operator names one.
#[test]
fn linux_boots_where_it_can() {
    if !kvm() {
        return;
    }
    let Some(path) = std::env::var_os("TURNSTILE_TEST_KERNEL") else {
        println!(
            "skipped: TURNSTILE_TEST_KERNEL names no kernel (a host with VT-x or SVM is needed)"
        );
        return;
    };
    let mut config = config("", 2);
    config.memory_bytes = 512 << 20;
    config.payload = Payload::Linux { kernel: std::fs::read(path).unwrap(), initramfs: None };
    let mut vm = MicroVm::new(config, device()).unwrap();
    vm.start().unwrap();
    // Without a root file system it panics, which resets, which ends the VM.
    let exit = vm.wait(PATIENCE).expect("Linux ends");
    assert!(exit.console.contains("Linux version"), "{exit:?}");
    assert!(exit.console.contains("1234:7473"), "{exit:?}");
}
