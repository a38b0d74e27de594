//! Ends that nobody planned: everything is given back, nothing hangs, nobody else notices.

use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use turnstile_tests::command::{Answer, finish, start, text};
use turnstile_tests::policy::Document;
use turnstile_tests::{Outcome, kvm_missing, pass, skip, test};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("deaths::sigint_stops_a_run_of_microvms", || interrupted(false)),
        test("deaths::sigint_stops_a_run_of_processes", || interrupted(true)),
        test("deaths::a_command_that_hangs_costs_its_tenant_alone", || fault("60=hang", false)),
        test("deaths::an_address_space_that_dies_costs_its_tenant_alone", || {
            fault("60=death", false)
        }),
        test("deaths::a_late_answer_costs_nobody_anything", || fault("60=late:50ms", true)),
        test("deaths::a_killed_tenant_costs_nobody_else", killed_tenant),
        test("deaths::a_killed_daemon_leaves_no_process", killed_daemon),
    ]
}

const FOR_EVER: &str = "n=10000000";

/// The stress example, every tenant with this argument.
fn stress(argument: &str) -> anyhow::Result<Document> {
    let mut policy = Document::example("stress.json")?;
    if let Some(tenants) = policy.0["tenants"].as_array_mut() {
        for tenant in tenants {
            tenant["attach"]["args"] = json!([argument]);
        }
    }
    Ok(policy)
}

fn send(signal: Signal, pid: u32) -> anyhow::Result<()> {
    let pid = Pid::from_raw(pid.try_into()?).context("a process id")?;
    kill_process(pid, signal).context("it had ended by itself")
}

/// A run that would take minutes is interrupted and ends at once, with the exit code for it.
fn interrupted(process: bool) -> Outcome {
    if !process && let Some(reason) = kvm_missing() {
        return skip(reason);
    }
    let file = stress(FOR_EVER)?.write()?;
    let mut arguments = vec!["run", text(file.path())?, "--json"];
    if process {
        arguments.extend(["--frontend", "process"]);
    }
    let child = start(&arguments)?;
    std::thread::sleep(Duration::from_secs(2));
    send(Signal::INT, child.id())?;
    finish(child, Duration::from_secs(10))?.expect_code(130)?;
    pass()
}

/// The GPU goes wrong under one of four tenants: that one fails (or, `harmless`, does not), the
/// others pass, and everything is given back in time.
fn fault(fault: &str, harmless: bool) -> Outcome {
    let file = stress("n=500")?.set("/device/watchdog", json!("300ms"))?.write()?;
    let run = ["run", text(file.path())?, "--json", "--frontend", "process", "--fault", fault];
    let answer = finish(start(&run)?, Duration::from_secs(60))?;
    answer.expect_code(i32::from(!harmless))?;
    let failed = failures(&answer)?;
    ensure!(failed.len() == usize::from(!harmless), "{failed:?} failed\n{}", answer.stderr);
    let given_back = answer.stderr.matches("everything reclaimed").count();
    ensure!(given_back == 4, "{given_back} of 4 were given back\n{}", answer.stderr);
    pass()
}

/// Names of the tenants that did not pass.
fn failures(answer: &Answer) -> anyhow::Result<Vec<String>> {
    let json = answer.json()?;
    let rows = json["tenants"].as_array().context("no tenants in the answer")?;
    let failed = rows.iter().filter(|row| row["passed"] != true);
    Ok(failed.filter_map(|row| row["name"].as_str().map(str::to_owned)).collect())
}

/// Children of a run: its process tenants.
fn children(run: &Child) -> anyhow::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
        // proc_pid_stat(5): the parent is the second field after the name in brackets.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        if after.split_whitespace().nth(1) == Some(&run.id().to_string()) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Waits until all four tenants of the stress example run.
fn four_children(run: &Child) -> anyhow::Result<Vec<u32>> {
    let started = Instant::now();
    loop {
        let found = children(run)?;
        if found.len() == 4 {
            // Long enough for them to be in the middle of their work.
            std::thread::sleep(Duration::from_millis(300));
            return Ok(found);
        }
        ensure!(started.elapsed() < Duration::from_secs(10), "only {} tenants run", found.len());
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn killed_tenant() -> Outcome {
    let file = stress("n=20000")?.write()?;
    let run = start(&["run", text(file.path())?, "--json", "--frontend", "process"])?;
    let victim = four_children(&run)?[0];
    send(Signal::KILL, victim)?;
    let answer = finish(run, Duration::from_secs(90))?;
    answer.expect_code(1)?;
    ensure!(failures(&answer)?.len() == 1, "one tenant was killed: {}", answer.stdout);
    let given_back = answer.stderr.matches("everything reclaimed").count();
    ensure!(given_back == 4, "{given_back} of 4 were given back\n{}", answer.stderr);
    pass()
}

fn killed_daemon() -> Outcome {
    let file = stress(FOR_EVER)?.write()?;
    let mut run = start(&["run", text(file.path())?, "--quiet", "--frontend", "process"])?;
    let tenants = four_children(&run)?;
    run.kill()?;
    run.wait()?;
    let started = Instant::now();
    while tenants.iter().any(|pid| std::path::Path::new(&format!("/proc/{pid}")).exists()) {
        ensure!(started.elapsed() < Duration::from_secs(20), "tenants outlive the daemon");
        std::thread::sleep(Duration::from_millis(20));
    }
    pass()
}
