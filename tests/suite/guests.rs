//! Well-behaved tenants: microVMs and processes do GPU work under a policy.

use anyhow::ensure;
use libtest_mimic::Trial;
use serde_json::json;
use turnstile_tests::command::{text, turnstile};
use turnstile_tests::policy::Document;
use turnstile_tests::{Outcome, kvm_missing, pass, skip, test};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("guests::two_microvms_share_the_gpu", two_microvms),
        test("guests::the_same_policy_runs_as_processes", two_processes),
        test("guests::random_work_matches_a_shadow_model", stress),
        test("guests::a_tenant_without_a_grant_fails_its_check", ungranted),
        test("guests::a_missing_kvm_names_the_other_front_end", no_kvm),
        test("guests::sixteen_microvms_at_once", many),
    ]
}

const EXAMPLE: &str = "policy/examples/two-tenants.json";

fn two_microvms() -> Outcome {
    if let Some(reason) = kvm_missing() {
        return skip(reason);
    }
    let answer = turnstile(&["run", EXAMPLE, "--json"])?;
    answer.expect_code(0)?.passed("trainer")?.passed("copier")?;
    let trainer = answer.tenant("trainer")?;
    ensure!(trainer["commands"].as_u64() > Some(10), "{trainer}");
    ensure!(trainer["denied"] == 0, "{trainer}");
    ensure!(answer.tenant("copier")?["bytes"].as_u64() > Some(4096));
    pass()
}

fn two_processes() -> Outcome {
    let answer = turnstile(&["run", EXAMPLE, "--frontend", "process", "--json"])?;
    answer.expect_code(0)?.passed("trainer")?.passed("copier")?;
    pass()
}

fn stress() -> Outcome {
    let mut arguments = vec!["run", "policy/examples/stress.json", "--json"];
    if kvm_missing().is_some() {
        arguments.extend(["--frontend", "process"]);
    }
    let answer = turnstile(&arguments)?;
    answer.expect_code(0)?;
    let json = answer.json()?;
    let tenants = json["tenants"].as_array().map_or(&[][..], Vec::as_slice);
    ensure!(!tenants.is_empty() && tenants.iter().all(|t| t["passed"] == true), "{json}");
    pass()
}

/// Default deny, seen from outside: take a grant away and the tenant's own check fails, the command
/// says so with its exit code, and the neighbour does not notice.
fn ungranted() -> Outcome {
    let policy = Document::example("two-tenants.json")?.remove("/tenants/1/grants/copy")?;
    let file = policy.write()?;
    let answer = turnstile(&["run", text(file.path())?, "--frontend", "process", "--json"])?;
    answer.expect_code(1)?.passed("trainer")?;
    let copier = answer.tenant("copier")?;
    ensure!(copier["passed"] == false && copier["denied"].as_u64() > Some(0), "{copier}");
    pass()
}

fn no_kvm() -> Outcome {
    if kvm_missing().is_none() {
        return skip("/dev/kvm is usable here, so there is nothing to complain about");
    }
    let answer = turnstile(&["run", EXAMPLE])?;
    answer.expect_code(3)?;
    ensure!(answer.stderr.contains("--frontend process"), "{answer:?}");
    pass()
}

fn many() -> Outcome {
    if let Some(reason) = kvm_missing() {
        return skip(reason);
    }
    let mut policy = Document::example("two-tenants.json")?;
    let copier = policy.0["tenants"][1].clone();
    let tenants = (0..16).map(|i| {
        let mut tenant = copier.clone();
        tenant["name"] = json!(format!("copier-{i}"));
        tenant
    });
    policy.0["tenants"] = tenants.collect();
    let file = policy.write()?;
    let answer = turnstile(&["run", text(file.path())?, "--json"])?;
    answer.expect_code(0)?;
    for i in 0..16 {
        answer.passed(&format!("copier-{i}"))?;
    }
    pass()
}
