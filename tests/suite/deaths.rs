//! Ends that nobody planned: everything is given back, nothing hangs.

use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use libtest_mimic::Trial;
use serde_json::json;
use turnstile_tests::command::{finish, start, text};
use turnstile_tests::policy::Document;
use turnstile_tests::{Outcome, kvm_missing, pass, skip, test};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("deaths::sigint_stops_a_run_of_microvms", || interrupted(false)),
        test("deaths::sigint_stops_a_run_of_processes", || interrupted(true)),
    ]
}

/// A run that would take minutes is interrupted and ends at once, with the exit code for it.
fn interrupted(process: bool) -> Outcome {
    if !process && let Some(reason) = kvm_missing() {
        return skip(reason);
    }
    let mut policy = Document::example("stress.json")?;
    if let Some(tenants) = policy.0["tenants"].as_array_mut() {
        for tenant in tenants {
            tenant["attach"]["args"] = json!(["n=10000000"]);
        }
    }
    let file = policy.write()?;
    let mut arguments = vec!["run", text(file.path())?, "--json"];
    if process {
        arguments.extend(["--frontend", "process"]);
    }
    let child = start(&arguments)?;
    std::thread::sleep(Duration::from_secs(2));
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status()?;
    ensure!(killed.success(), "the run had ended by itself");
    let answer = finish(child, Duration::from_secs(10))?;
    answer.expect_code(130)?;
    pass()
}
