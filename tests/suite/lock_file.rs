//! One version of the crates that must agree.

use anyhow::ensure;
use libtest_mimic::Trial;
use turnstile_tests::{Outcome, pass, test, workspace};

pub(crate) fn tests() -> Vec<Trial> {
    vec![test("lock_file::rust_vmm_crates_agree", agree)]
}

fn agree() -> Outcome {
    let lock = std::fs::read_to_string(workspace::root().join("Cargo.lock"))?;
    for name in ["vm-memory", "kvm-bindings", "kvm-ioctls", "vmm-sys-util"] {
        let versions = lock.matches(&format!("name = \"{name}\"\n")).count();
        ensure!(versions == 1, "{name} is there in {versions} versions");
    }
    pass()
}
