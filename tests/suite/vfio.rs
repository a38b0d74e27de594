//! Turnstile inside a VM, on top of the device that another Turnstile serves to that VM: real vfio-pci,
//! a real IOMMU driver, nested microVMs.

use std::time::Duration;

use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use turnstile_tests::daemon::Daemon;
use turnstile_tests::initramfs::Initramfs;
use turnstile_tests::linux::{self, Machine, Parts};
use turnstile_tests::policy::Document;
use turnstile_tests::{Outcome, pass, skip, test, workspace};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("vfio::a_machine_without_an_iommu_says_so", no_iommu),
        test("vfio::an_inner_turnstile_shares_the_device_once_more", nested),
    ]
}

/// Longest wait for one thing that a guest does under emulation, on a machine that is busy. Nested
/// guests are emulated twice.
const LONG: Duration = Duration::from_secs(400);

fn no_iommu() -> Outcome {
    if std::fs::read_dir("/sys/class/iommu").is_ok_and(|mut entries| entries.next().is_some()) {
        return skip("this machine has an IOMMU");
    }
    let list = turnstile_tests::command::turnstile(&["device", "list"])?;
    list.expect_code(1)?;
    ensure!(list.stderr.contains("no IOMMU") && list.stderr.contains("intel_iommu=on"), "{list:?}");
    let check = turnstile_tests::command::turnstile(&["device", "check", "0000:00:1f.7"])?;
    check.expect_code(1)?;
    let wrong = turnstile_tests::command::turnstile(&["device", "check", "what"])?;
    wrong.expect_code(2)?;
    pass()
}

/// The example's two tenants, on the function that the shell's `$B` names.
fn inner(attach: Option<Value>) -> anyhow::Result<String> {
    let device = json!({ "backend": "vfio", "memory": "64MiB", "overcommit": true,
        "vfio": { "function": "0000:00:00.0" } });
    let mut policy = Document::example("two-tenants.json")?.set("/device", device)?;
    if let Some(attach) = attach {
        policy = policy.only(&["trainer"]).set("/tenants/0/attach", attach)?;
    }
    Ok(policy.0.to_string())
}

/// A shell line that says what a command's exit code was.
fn code(name: &str, command: &str) -> String {
    format!("{command}; echo \"{name}: $?\"\n")
}

/// What the guest does: look, claim, share; with a second daemon at the device, after a daemon was
/// killed, and with the device taken away under one.
fn life() -> String {
    let mut lines = String::from(
        "mkdir -p /run /tmp\n\
         for d in /sys/bus/pci/devices/*; do\n\
         [ \"$(cat $d/device)\" = 0x7473 ] && B=$(basename $d)\n\
         done\n\
         sed -i s/0000:00:00.0/$B/ /microvms.json /waiting.json\n",
    );
    lines += &code("list", "turnstile device list");
    lines += &code("check", "turnstile device check $B --allow no-reset");
    lines += &code("claim", "turnstile device claim $B --allow no-reset");
    lines += &code("release", "turnstile device release $B");
    // A daemon that only waits, another that wants the same, and a death.
    let waiting = "turnstile serve /waiting.json 2>/tmp/waiting & P=$!; n=0\n\
                   while ! grep -q serving /tmp/waiting && [ $n -lt 120 ]; do sleep 1; n=$((n+1)); done\n";
    lines += waiting;
    lines += "cat /tmp/waiting\n";
    lines += &code("second", "turnstile serve /waiting.json --state /run/second");
    lines += "kill -9 $P; wait $P\n";
    lines += &code("microvms", "turnstile run /microvms.json");
    // The device is taken away under a daemon, and plugged in again.
    lines += waiting;
    lines += &code("removed", "echo 1 > /sys/bus/pci/devices/$B/remove");
    lines += &code("served", "kill -TERM $P; wait $P");
    lines += "cat /tmp/waiting; echo 1 > /sys/bus/pci/rescan\n";
    lines += &code("again", "turnstile device check $B --allow no-reset");
    lines += "echo \"claims: $(ls /run/turnstile/claims | wc -l)\"\n\
              echo \"driver: $(readlink /sys/bus/pci/devices/$B/driver)\"\n\
              dmesg | grep -i 'DMAR.*fault'\n";
    lines
}

fn archive(parts: &Parts) -> anyhow::Result<Initramfs> {
    let mut archive = parts.init_with(&["vfio_iommu_type1", "vfio-pci", "kvm-amd"], &life())?;
    linux::add_program(&mut archive, "turnstile", &workspace::binary()?)?;
    archive.program("microvms.json", inner(None)?.as_bytes());
    let waiting = json!({ "kind": "vfio-user", "socket": "/tmp/nobody.sock" });
    archive.program("waiting.json", inner(Some(waiting))?.as_bytes());
    Ok(archive)
}

fn nested() -> Outcome {
    let parts = match linux::parts() {
        Ok(parts) => parts,
        Err(why) => return skip(why),
    };
    let outer = Daemon::start(|directory| {
        Document::example("vfio-user.json")?
            .only(&["alice"])
            .set("/tenants/0/grants/sessions", json!(8))?
            .set("/tenants/0/attach/socket", json!(directory.join("alice")))
    })?;
    let machine = Machine { mib: 1024, sockets: vec![outer.socket("alice")], iommu: true };
    let mut guest = linux::boot(&parts, &machine, archive(&parts)?)?;
    guest.expect("guest: done", LONG)?;
    guest.finish(LONG)?;
    let said = guest.said();
    for line in &said {
        eprintln!("inner: {line}");
    }
    let says = |words: &str| said.iter().any(|line| line.contains(words));
    for expected in [
        "list: 0",
        "check: 0",
        "claim: 0",
        "release: 0",
        "second: 3",
        "microvms: 0",
        "removed: 0",
        "served: 0",
        "again: 0",
    ] {
        ensure!(says(expected), "the guest did not say {expected:?}");
    }
    ensure!(says("the device is let go"), "the daemon did not say that it let go");
    ensure!(says("is claimed by process"), "the second daemon was not told who has the device");
    ensure!(says("put back what a killed daemon had claimed"), "nothing was put back");
    ensure!(says("claims: 0"), "a claim was left behind");
    let driver = said.iter().find(|line| line.starts_with("driver:")).context("no driver line")?;
    ensure!(driver.trim_end() == "driver:", "the function is still bound: {driver}");
    ensure!(!says("fault addr"), "DMA faulted");
    outer.expect("alice|gone:", 1)?;
    outer.stop()?;
    pass()
}
