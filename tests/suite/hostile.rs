//! A tenant that tries every attack it knows, beside tenants that must not notice.

use anyhow::ensure;
use libtest_mimic::Trial;
use turnstile_tests::command::{Answer, text, turnstile};
use turnstile_tests::{Outcome, kvm_missing, pass, skip, test};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("hostile::a_microvm_is_refused_and_hurts_nobody", microvm),
        test("hostile::a_process_is_refused_and_hurts_nobody", process),
    ]
}

const EXAMPLE: &str = "policy/examples/hostile.json";

fn judge(answer: &Answer) -> anyhow::Result<()> {
    answer.expect_code(0)?.passed("trainer")?.passed("copier")?.passed("hostile")?;
    let hostile = answer.tenant("hostile")?;
    ensure!(hostile["denied"].as_u64() > Some(100), "it was refused a lot: {hostile}");
    // The copier checks its own refusals too (it has no grant to fill); the trainer has none.
    ensure!(answer.tenant("trainer")?["denied"] == 0, "the trainer was refused something");
    Ok(())
}

fn run(extra: &[&str]) -> Outcome {
    let log = tempfile::tempdir()?;
    let log = log.path().join("audit.jsonl");
    let mut arguments = vec!["run", EXAMPLE, "--json", "--audit", text(&log)?];
    arguments.extend(extra);
    judge(&turnstile(&arguments)?)?;
    // Flooded as it is, the log stays small and its chain whole.
    ensure!(std::fs::metadata(&log)?.len() < 4 << 20, "the log grew without bound");
    turnstile(&["audit", "verify", text(&log)?])?.expect_code(0)?;
    pass()
}

fn microvm() -> Outcome {
    if let Some(reason) = kvm_missing() {
        return skip(reason);
    }
    run(&[])
}

fn process() -> Outcome {
    run(&["--frontend", "process"])
}
