//! The audit log as a file: written by a run, checked, tampered with.

use anyhow::ensure;
use libtest_mimic::Trial;
use turnstile_tests::command::{text, turnstile};
use turnstile_tests::{Outcome, pass, test};

pub(crate) fn tests() -> Vec<Trial> {
    vec![test("audit::a_changed_byte_is_found_with_its_line", tampered)]
}

fn tampered() -> Outcome {
    let directory = tempfile::tempdir()?;
    let log = directory.path().join("audit.jsonl");
    let example = "policy/examples/two-tenants.json";
    let run = ["run", example, "--frontend", "process", "--json", "--audit", text(&log)?];
    turnstile(&run)?.expect_code(0)?;
    turnstile(&["audit", "verify", text(&log)?])?.expect_code(0)?;
    let whole = std::fs::read_to_string(&log)?;
    ensure!(whole.lines().count() > 3, "a run leaves records:\n{whole}");
    let changed = whole.replacen("trainer", "trainee", 1);
    ensure!(changed != whole, "a record names the tenant:\n{whole}");
    std::fs::write(&log, &changed)?;
    let verdict = turnstile(&["audit", "verify", text(&log)?])?;
    verdict.expect_code(1)?;
    let at = whole.lines().position(|l| l.contains("trainer")).map_or(0, |l| l + 1);
    let said = format!("{}{}", verdict.stdout, verdict.stderr);
    ensure!(said.contains(&format!("audit.jsonl:{at}:")), "it names line {at}: {said}");
    pass()
}
