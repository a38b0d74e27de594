//! Linux guests in QEMU over vfio-user, two at once on one `turnstile serve`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;
use libtest_mimic::Trial;
use serde_json::json;
use turnstile_tests::bare;
use turnstile_tests::daemon::Daemon;
use turnstile_tests::guest::Guest;
use turnstile_tests::linux::{self, Machine, Parts};
use turnstile_tests::policy::Document;
use turnstile_tests::{Outcome, pass, skip, test, workspace};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("vfio_user::linux_guests_come_attack_die_and_come_back", whole_life),
        test("vfio_user::bare_guests_work_and_attack_in_qemu", bare_in_qemu),
        test("vfio_user::bare_guests_work_attack_and_die_in_cloud_hypervisor", cloud_hypervisor),
    ]
}

/// Longest wait for one thing that a guest does under emulation, on a machine that is busy.
const LONG: Duration = Duration::from_secs(120);

/// Serves the example, its sockets in a directory of the test's.
fn daemon() -> anyhow::Result<Daemon> {
    Daemon::start(|directory| {
        let socket = |name: &str| json!(directory.join(name));
        Document::example("vfio-user.json")?
            .set("/tenants/0/attach/socket", socket("alice"))?
            .set("/tenants/1/attach/socket", socket("bob"))
    })
}

/// Stops it; it must leave no socket behind.
fn stop(daemon: Daemon) -> anyhow::Result<()> {
    let kept = daemon.keep();
    daemon.stop()?;
    ensure!(
        !kept.path().join("alice").exists() && !kept.path().join("bob").exists(),
        "sockets left"
    );
    Ok(())
}

fn machine(socket: PathBuf, iommu: bool) -> Machine {
    Machine { mib: 384, sockets: vec![socket], iommu }
}

/// A well-behaved guest: with VFIO behind an IOMMU, so with interrupts and DMA; and the C example.
fn trainer(parts: &Parts, socket: PathBuf, scratch: &Path) -> anyhow::Result<Guest> {
    let example = linux::c_example(parts, scratch)?;
    let mut lines = "turnstile-guest info; echo \"info: $?\"\n\
                     turnstile-guest run vecadd n=5000; echo \"vecadd: $?\"\n\
                     turnstile-guest run copy; echo \"copy: $?\"\n\
                     turnstile-guest stress n=300; echo \"stress: $?\"\n\
                     turnstile-guest bench n=1000; echo \"bench: $?\"\n\
                     "
    .to_owned();
    if example.is_some() {
        lines.push_str("vecadd-c /tmp/vecadd.ptx; echo \"c: $?\"\n");
    }
    let mut archive = parts.init_with_vfio(&lines)?;
    if let Some(example) = example {
        archive.copy("bin/vecadd-c", &example)?;
        let ptx = workspace::root().join("tests/kernels/ptx/vecadd.ptx");
        archive.copy("tmp/vecadd.ptx", &ptx)?;
    }
    linux::boot(parts, &machine(socket, true), archive)
}

fn whole_life() -> Outcome {
    let parts = match linux::parts() {
        Ok(parts) => parts,
        Err(why) => return skip(why),
    };
    let daemon = daemon()?;
    let scratch = tempfile::tempdir()?;
    // Two guests at once: one works, one attacks.
    let mut alice = trainer(&parts, daemon.socket("alice"), scratch.path())?;
    let attack = "turnstile-guest hostile seed=7; echo \"hostile: $?\"\n";
    let hostile = machine(daemon.socket("bob"), true);
    let mut bob = linux::boot(&parts, &hostile, parts.init_with_vfio(attack)?)?;
    daemon.expect("alice|device attached", 1)?;
    daemon.expect("bob|device attached", 1)?;

    alice.expect("info: 0", LONG)?;
    alice.expect("through vfio", LONG)?;
    alice.expect("dma: 1048576 bytes", LONG)?;
    for check in ["vecadd: 0", "copy: 0", "stress: 0", "bench: 0"] {
        alice.expect(check, LONG)?;
    }
    alice.expect("guest: done", LONG)?;
    alice.finish(LONG)?;
    let said = alice.said();
    ensure!(said.iter().any(|line| line.contains("result: pass")), "{said:?}");
    ensure!(!said.iter().any(|line| line.contains("fail")), "{said:#?}");
    if said.iter().any(|line| line.starts_with("c: ")) {
        alice.expect("c: 0", LONG)?;
    }
    let taken = |line: &String| line.strip_prefix("interrupts: ")?.parse::<u64>().ok();
    let interrupts: u64 = said.iter().filter_map(taken).sum();
    ensure!(interrupts > 0, "no interrupt arrived: {said:#?}");
    eprintln!("vfio: {interrupts} waits were ended by an interrupt");
    for line in said.iter().filter(|line| line.starts_with("metric: ")) {
        eprintln!("vfio: {line}");
    }
    daemon.expect("alice|gone:", 1)?;

    // The same socket again: a new life starts clean; this one dies in the middle of its work.
    let forever = "while true; do turnstile-guest run vecadd n=5000; done\n";
    let again = machine(daemon.socket("alice"), false);
    let mut doomed = linux::boot(&parts, &again, parts.init(forever)?)?;
    daemon.expect("alice|session opened", 3)?;
    doomed.expect("vecadd: 5000 elements right", LONG)?;
    doomed.kill()?;
    daemon.expect("alice|gone:", 2)?;

    // And once more, while the other still attacks or has ended by itself.
    let last = "turnstile-guest run vecadd n=5000; echo \"vecadd: $?\"\n\
                turnstile-guest bench n=1000; echo \"bench: $?\"\n";
    let again = machine(daemon.socket("alice"), false);
    let mut reborn = linux::boot(&parts, &again, parts.init(last)?)?;
    reborn.expect("vecadd: 0", LONG)?;
    reborn.expect("bench: 0", LONG)?;
    reborn.finish(LONG)?;
    for line in reborn.said().iter().filter(|line| line.starts_with("metric: ")) {
        eprintln!("sysfs: {line}");
    }
    bob.expect("hostile: 0", LONG)?;
    bob.finish(LONG)?;
    daemon.expect("bob|gone:", 1)?;
    stop(daemon)?;
    pass()
}

/// A guest without an operating system, booted by PVH: in QEMU's own way, in half a second.
fn bare_in_qemu() -> Outcome {
    let parts = match linux::parts() {
        Ok(parts) => parts,
        Err(why) => return skip(why),
    };
    let daemon = daemon()?;
    let boot = |line| bare::in_qemu(&parts, &daemon.socket("alice"), line);
    // DMA into its own pages, interrupts, every kernel; then a life of attacks on the same socket.
    for (life, line) in ["vecadd n=5000", "copy", "stress n=300", "hostile"].iter().enumerate() {
        let mut guest = boot(line)?;
        guest.expect("result: pass", LONG)?;
        ensure!(guest.finish(LONG)?.code() == Some(1), "{:#?}", guest.said());
        daemon.expect("alice|gone:", life + 1)?;
    }
    stop(daemon)?;
    pass()
}

/// The same in Cloud Hypervisor, two at once. Its memory is not sealed, so there is no DMA.
fn cloud_hypervisor() -> Outcome {
    let program = match bare::cloud_hypervisor() {
        Ok(program) => program,
        Err(why) => return skip(why),
    };
    if let Some(why) = turnstile_tests::kvm_missing() {
        return skip(why);
    }
    let daemon = daemon()?;
    let boot =
        |tenant: &str, line| bare::in_cloud_hypervisor(&program, &daemon.socket(tenant), line);
    let hostile = boot("bob", "hostile dma=0")?;
    for (life, line) in
        ["vecadd n=5000 dma=0", "copy dma=0", "stress n=300 dma=0"].iter().enumerate()
    {
        let mut guest = boot("alice", line)?;
        guest.expect("result: pass", LONG)?;
        guest.kill()?;
        daemon.expect("alice|gone:", life + 1)?;
    }
    let mut doomed = boot("alice", "stress n=1000000 dma=0")?;
    daemon.expect("alice|session opened", 4)?;
    doomed.kill()?;
    daemon.expect("alice|gone:", 4)?;
    hostile.expect("result: pass", LONG)?;
    drop(hostile);
    daemon.expect("bob|gone:", 1)?;
    stop(daemon)?;
    pass()
}
