//! `turnstile policy`, from outside.

use anyhow::ensure;
use libtest_mimic::Trial;
use serde_json::json;
use turnstile_tests::command::{text, turnstile};
use turnstile_tests::policy::Document;
use turnstile_tests::{Outcome, pass, test};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("policy::examples_are_accepted", examples),
        test("policy::a_mistake_is_named_before_anything_starts", mistake),
        test("policy::explain_says_what_a_tenant_may", explain),
    ]
}

fn examples() -> Outcome {
    let examples = turnstile_tests::workspace::root().join("policy/examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(examples)? {
        let path = entry?.path();
        turnstile(&["policy", "check", text(&path)?])?.expect_code(0)?;
        seen += 1;
    }
    ensure!(seen >= 3, "{seen} examples");
    pass()
}

fn mistake() -> Outcome {
    let policy = Document::example("two-tenants.json")?
        .set("/tenants/0/grants/buffer/max_bytes", json!("256 mebibytes"))?;
    let file = policy.write()?;
    for command in [&["policy", "check"][..], &["run", "--frontend", "process"][..]] {
        let mut arguments = command.to_vec();
        arguments.push(text(file.path())?);
        let answer = turnstile(&arguments)?;
        ensure!(!answer.status.success(), "{answer:?}");
        let path = "tenants[0].grants.buffer.max_bytes";
        ensure!(answer.stderr.contains(path), "the path is named: {answer:?}");
        ensure!(answer.stderr.contains("MiB"), "what to write is named: {answer:?}");
    }
    pass()
}

fn explain() -> Outcome {
    let example = "policy/examples/two-tenants.json";
    let answer = turnstile(&["policy", "explain", example, "--tenant", "copier"])?;
    answer.expect_code(0)?;
    ensure!(answer.stdout.contains("copy") && answer.stdout.contains("launch"), "{answer:?}");
    pass()
}
