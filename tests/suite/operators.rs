//! Operators: look at a running daemon and change it, through the command line and the real socket,
//! while tenants work.

use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use turnstile_tests::command::{text, turnstile};
use turnstile_tests::daemon::{Daemon, until};
use turnstile_tests::policy::Document;
use turnstile_tests::{Outcome, pass, test};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("operators::a_working_tenant_is_revoked_and_others_work_on", revoke),
        test("operators::pause_and_resume", pause),
        test("operators::a_reload_shows_what_changes_and_does_it", reload),
        test("operators::a_killed_daemon_is_followed_by_a_clean_start", restart),
        test("operators::two_daemons_cannot_share_a_state_directory", shared),
        test("operators::the_audit_log_can_be_followed", tail),
        test("operators::metrics_stats_and_top_show_the_work", watch),
        test("operators::completions_and_man_pages", manual),
    ]
}

/// Two process tenants that work for longer than any test.
fn policy() -> anyhow::Result<Document> {
    let mut policy = Document::example("stress.json")?.only(&["stress-1", "stress-2"]);
    let attach = json!({ "kind": "process", "guest": "stress", "args": ["n=10000000"] });
    for tenant in policy.0["tenants"].as_array_mut().context("tenants")? {
        tenant["attach"] = attach.clone();
    }
    Ok(policy)
}

fn working(tenant: &Value) -> bool {
    tenant["state"] == "enabled" && tenant["commands"].as_u64() > Some(100)
}

fn start() -> anyhow::Result<Daemon> {
    let daemon = Daemon::start(|_| policy())?;
    daemon.until("stress-1", working)?;
    daemon.until("stress-2", working)?;
    Ok(daemon)
}

fn commands(daemon: &Daemon, tenant: &str) -> anyhow::Result<u64> {
    daemon.tenant(tenant)?["commands"].as_u64().context("a number")
}

fn revoke() -> Outcome {
    let daemon = start()?;
    daemon.operate(&["revoke", "stress-1"])?.expect_code(0)?;
    let at_once = daemon.tenant("stress-1")?;
    ensure!(at_once["revoked"] == true, "{at_once}");
    let ok = at_once["outcomes"]["ok"].clone();
    daemon.until("stress-1", |t| t["resources"]["buffer_bytes"]["used"] == 0)?;
    ensure!(daemon.tenant("stress-1")?["outcomes"]["ok"] == ok, "a success after the revocation");
    let before = commands(&daemon, "stress-2")?;
    daemon.until("stress-2", |t| t["commands"].as_u64() > Some(before + 100))?;
    daemon.operate(&["revoke", "nobody"])?.expect_code(1)?;
    daemon.stop()?;
    pass()
}

fn pause() -> Outcome {
    let daemon = start()?;
    daemon.operate(&["pause", "stress-1"])?.expect_code(0)?;
    // What is at the GPU already comes back.
    daemon.until("stress-1", |t| t["in_flight"] == 0)?;
    let before = commands(&daemon, "stress-1")?;
    std::thread::sleep(std::time::Duration::from_millis(200));
    ensure!(commands(&daemon, "stress-1")? == before, "a paused tenant is served");
    daemon.operate(&["resume", "stress-1"])?.expect_code(0)?;
    daemon.until("stress-1", |t| t["commands"].as_u64() > Some(before))?;
    daemon.operate(&["kill", "stress-1"])?.expect_code(0)?;
    daemon.until("stress-1", |t| t["state"] == "absent")?;
    daemon.stop()?;
    pass()
}

fn reload() -> Outcome {
    let daemon = start()?;
    let file = daemon.directory().join("next.json");
    let write = |next: &Document| std::fs::write(&file, next.0.to_string());
    // A right that is gone, beside a tenant that is gone.
    let next = policy()?.only(&["stress-1"]).set("/tenants/0/grants/fill", json!(false))?;
    write(&next)?;
    let asked = daemon.operate(&["reload", text(&file)?, "--dry-run"])?;
    ensure!(asked.stdout.contains("grants.fill: true -> false (tightens)"), "{asked:?}");
    ensure!(asked.stdout.contains("stress-2: gone"), "{asked:?}");
    ensure!(daemon.tenant("stress-2")?["state"] == "enabled", "only asked");
    daemon.operate(&["reload", text(&file)?])?.expect_code(0)?;
    ensure!(daemon.tenant("stress-2").is_err(), "it is gone");
    daemon.until("stress-1", |t| t["operations"]["fill"]["refused"].as_u64() > Some(0))?;
    // And back.
    write(&policy()?)?;
    daemon.operate(&["reload", text(&file)?])?.expect_code(0)?;
    daemon.until("stress-2", working)?;
    // What only a restart can change is named, and nothing else is changed with it.
    let next = policy()?
        .set("/device/memory", json!("2GiB"))?
        .set("/tenants/0/grants/copy", json!(false))?;
    write(&next)?;
    let refused = daemon.operate(&["reload", text(&file)?])?;
    refused.expect_code(1)?;
    ensure!(refused.stderr.contains("device.memory: 1GiB -> 2GiB"), "{refused:?}");
    daemon.stop()?;
    pass()
}

fn restart() -> Outcome {
    let daemon = start()?;
    let killed = daemon.pid();
    // A program of the user's that does not notice that its daemon is gone.
    let next = policy()?.set(
        "/tenants/1/attach",
        json!({ "kind": "process", "program": "/bin/sleep", "args": ["600"] }),
    )?;
    let daemon = daemon.kill_and_start_again(&next)?;
    daemon.expect(&format!("the last daemon ({killed}) did not stop in order"), 1)?;
    daemon.until("stress-1", working)?;
    let sleeper = child_named(daemon.pid(), "sleep")?;
    let daemon = daemon.kill_and_start_again(&policy()?)?;
    daemon.expect(&format!("ended its tenant's process {sleeper}"), 1)?;
    until("its end", || !std::path::Path::new(&format!("/proc/{sleeper}/exe")).exists())?;
    daemon.until("stress-2", working)?;
    let state = daemon.directory().join("state");
    ensure!(state.join("control.sock").exists() && state.join("pid").exists());
    let kept = daemon.directory().to_owned();
    ensure!(kept.exists());
    daemon.stop()?;
    pass()
}

fn child_named(parent: u32, name: &str) -> anyhow::Result<u32> {
    let mut found = None;
    until(name, || {
        let tasks = std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten();
        let children = tasks
            .flatten()
            .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
        let ids: Vec<u32> = children
            .flat_map(|list| {
                list.split_whitespace().filter_map(|n| n.parse().ok()).collect::<Vec<_>>()
            })
            .collect();
        let named = |pid: &u32| {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.trim() == name)
        };
        found = ids.into_iter().find(named);
        found.is_some()
    })?;
    found.context("found")
}

fn shared() -> Outcome {
    let daemon = start()?;
    let (file, state) = (daemon.directory().join("policy.json"), daemon.directory().join("state"));
    let second = turnstile(&["serve", text(&file)?, "--state", text(&state)?])?;
    second.expect_code(2)?;
    ensure!(second.stderr.contains(&daemon.pid().to_string()), "it names the other: {second:?}");
    ensure!(daemon.tenant("stress-1")?["state"] == "enabled", "the first one works on");
    daemon.stop()?;
    pass()
}

fn tail() -> Outcome {
    let daemon = start()?;
    let socket = daemon.control();
    let tail = ["audit", "tail", "-n", "1", "--socket", text(&socket)?];
    let following = turnstile_tests::command::start(&tail)?;
    // Until the follower listens, orders are only in the log.
    let mut following = following;
    until("a record", || {
        let _ = daemon.operate(&["pause", "stress-1"]);
        following.try_wait().is_ok_and(|ended| ended.is_some())
    })?;
    let answer = turnstile_tests::command::finish(following, std::time::Duration::from_secs(5))?;
    let record: Value = serde_json::from_str(answer.stdout.trim())?;
    ensure!(record["hash"].is_string() && record["seq"].is_u64(), "{record}");
    let log = daemon.audit();
    daemon.stop()?;
    ensure!(!log.exists() || log.is_file());
    pass()
}

fn watch() -> Outcome {
    let daemon = start()?;
    let stats = daemon.operate(&["stats", "--json"])?.expect_code(0)?.json()?;
    ensure!(stats["stats"]["attached"] == 2, "{stats}");
    let metrics = daemon.operate(&["stats", "--prometheus"])?;
    let line = r#"turnstile_commands_total{tenant="stress-1",operation="copy"}"#;
    ensure!(metrics.stdout.contains(line), "{}", metrics.stdout);
    let top = daemon.operate(&["top", "--plain", "--interval", "0.5"])?;
    ensure!(top.expect_code(0)?.stdout.contains("stress-2"), "{top:?}");
    ensure!(top.stdout.contains("commands/s"), "{top:?}");
    let shown = daemon.operate(&["tenants", "stress-1"])?;
    ensure!(shown.expect_code(0)?.stdout.contains("session"), "{shown:?}");
    daemon.stop()?;
    let nobody = turnstile(&["tenants", "--socket", "/nowhere/control.sock"])?;
    nobody.expect_code(3)?;
    ensure!(nobody.stderr.contains("turnstile serve"), "{nobody:?}");
    pass()
}

fn manual() -> Outcome {
    for shell in ["bash", "zsh", "fish"] {
        let answer = turnstile(&["completions", shell])?;
        ensure!(answer.expect_code(0)?.stdout.contains("reload"), "{shell}: {answer:?}");
    }
    let directory = tempfile::tempdir()?;
    turnstile(&["man", text(directory.path())?])?.expect_code(0)?;
    ensure!(directory.path().join("turnstile-serve.1").exists());
    pass()
}
