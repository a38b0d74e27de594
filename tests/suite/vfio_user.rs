//! Linux guests in QEMU over vfio-user, two at once on one `turnstile serve`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;
use libtest_mimic::Trial;
use turnstile_tests::daemon::Daemon;
use turnstile_tests::linux::{self, Guest, Machine, Parts};
use turnstile_tests::policy::Document;
use turnstile_tests::{Outcome, pass, skip, test, workspace};

pub(crate) fn tests() -> Vec<Trial> {
    vec![test("vfio_user::linux_guests_come_attack_die_and_come_back", whole_life)]
}

/// Longest wait for one thing that a guest does under emulation, on a machine that is busy.
const LONG: Duration = Duration::from_secs(120);

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
    Guest::boot(parts, &machine(socket, true), archive)
}

fn whole_life() -> Outcome {
    let parts = match linux::parts() {
        Ok(parts) => parts,
        Err(why) => return skip(why),
    };
    let daemon = Daemon::start(Document::example("vfio-user.json")?, &["alice", "bob"])?;
    let scratch = tempfile::tempdir()?;
    // Two guests at once: one works, one attacks.
    let mut alice = trainer(&parts, daemon.socket("alice"), scratch.path())?;
    let attack = "turnstile-guest hostile seed=7; echo \"hostile: $?\"\n";
    let hostile = machine(daemon.socket("bob"), true);
    let mut bob = Guest::boot(&parts, &hostile, parts.init_with_vfio(attack)?)?;
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
    let mut doomed = Guest::boot(&parts, &again, parts.init(forever)?)?;
    daemon.expect("alice|session opened", 3)?;
    doomed.expect("vecadd: 5000 elements right", LONG)?;
    doomed.kill()?;
    daemon.expect("alice|gone:", 2)?;

    // And once more, while the other still attacks or has ended by itself.
    let last = "turnstile-guest run vecadd n=5000; echo \"vecadd: $?\"\n\
                turnstile-guest bench n=1000; echo \"bench: $?\"\n";
    let again = machine(daemon.socket("alice"), false);
    let mut reborn = Guest::boot(&parts, &again, parts.init(last)?)?;
    reborn.expect("vecadd: 0", LONG)?;
    reborn.expect("bench: 0", LONG)?;
    reborn.finish(LONG)?;
    for line in reborn.said().iter().filter(|line| line.starts_with("metric: ")) {
        eprintln!("sysfs: {line}");
    }
    bob.expect("hostile: 0", LONG)?;
    bob.finish(LONG)?;
    daemon.expect("bob|gone:", 1)?;
    daemon.stop()?;
    pass()
}
