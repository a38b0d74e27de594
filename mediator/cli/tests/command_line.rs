//! The program as its users meet it: exit codes, output, clean stops.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn turnstile(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_turnstile"))
        .args(args)
        .current_dir(root())
        .output()
        .expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}{}", text(&output.stdout), text(&output.stderr)))
}

#[track_caller]
fn code(output: &Output, expected: i32) {
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(expected), "{said}");
}

const EXAMPLE: &str = "policy/examples/two-tenants.json";

#[test]
fn a_policy_is_checked_with_positions_and_exit_codes() {
    let good = turnstile(&["policy", "check", EXAMPLE, "--json"]);
    code(&good, 0);
    assert_eq!(json(&good)["tenants"][0]["name"], "trainer");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.json");
    std::fs::write(&file, "{\n  \"version\": 1,\n  \"devise\": {}\n}\n").unwrap();
    let bad = turnstile(&["policy", "check", file.to_str().unwrap()]);
    code(&bad, 1);
    let said = text(&bad.stderr);
    assert!(said.contains("bad.json:3:") && said.contains("devise"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    code(&turnstile(&["policy", "check", "/nowhere.json"]), 2);
    code(&turnstile(&["policy"]), 2);
    // Refused before anything starts.
    code(&turnstile(&["run", file.to_str().unwrap(), "--frontend", "process"]), 1);
}

#[test]
fn a_policy_is_explained_and_has_a_schema() {
    let explained = turnstile(&["policy", "explain", EXAMPLE, "--tenant", "copier", "--json"]);
    code(&explained, 0);
    let explained = json(&explained);
    let launch =
        explained["operations"].as_array().unwrap().iter().find(|o| o["operation"] == "launch");
    assert_eq!(launch.unwrap()["allowed"], false);
    code(&turnstile(&["policy", "explain", EXAMPLE, "--tenant", "nobody"]), 2);
    let schema = turnstile(&["policy", "schema"]);
    code(&schema, 0);
    assert!(json(&schema)["$schema"].is_string());
}

#[test]
fn tenants_run_as_processes_and_the_log_of_it_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.jsonl");
    let log = log.to_str().unwrap();
    let run = turnstile(&["run", EXAMPLE, "--frontend", "process", "--json", "--audit", log]);
    code(&run, 0);
    let result = json(&run);
    for tenant in result["tenants"].as_array().unwrap() {
        assert_eq!(tenant["state"], "finished", "{tenant}");
        assert_eq!(tenant["passed"], true, "{tenant}");
        assert!(tenant["commands"].as_u64().unwrap() > 10, "{tenant}");
        assert!(tenant["bytes"].as_u64().unwrap() > 1000, "{tenant}");
        assert!(tenant["p50_ns"].as_u64() <= tenant["p99_ns"].as_u64(), "{tenant}");
    }
    assert_eq!(result["tenants"].as_array().unwrap().len(), 2);
    let head = result["audit"]["head"].as_str().unwrap();
    let verified = turnstile(&["audit", "verify", log, "--head", head, "--json"]);
    code(&verified, 0);
    assert_eq!(json(&verified)["ok"], true);
    // A second run continues the same chain; a changed byte breaks it.
    code(&turnstile(&["run", EXAMPLE, "--frontend", "process", "-q", "--audit", log]), 0);
    code(&turnstile(&["audit", "verify", log]), 0);
    code(&turnstile(&["audit", "verify", log, "--head", head]), 1);
    let mut bytes = std::fs::read(log).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(log, bytes).unwrap();
    let broken = turnstile(&["audit", "verify", log]);
    code(&broken, 1);
    assert!(text(&broken.stdout).contains("BROKEN"));
}

#[test]
fn a_tenant_whose_check_fails_makes_the_run_fail() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.json");
    // The workload needs programs, which this policy does not grant.
    let policy = r#"{ "version": 1, "device": { "backend": "emulated", "memory": "64MiB" },
        "tenants": [ { "name": "poor", "attach": { "kind": "process", "guest": "vecadd" },
          "grants": { "buffer": { "max_bytes": "1MiB", "max_count": 8, "usage": ["device"] } } } ] }"#;
    std::fs::write(&file, policy).unwrap();
    let run = turnstile(&["run", file.to_str().unwrap(), "--json"]);
    code(&run, 1);
    let result = json(&run);
    assert_eq!(result["tenants"][0]["state"], "finished");
    assert_eq!(result["tenants"][0]["passed"], false);
}

#[test]
fn a_run_is_stopped_by_a_signal_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.json");
    let policy = r#"{ "version": 1, "device": { "backend": "emulated", "memory": "64MiB" },
        "tenants": [ { "name": "slow", "attach": { "kind": "process", "guest": "nop",
          "args": ["n=100000000"] },
          "grants": { "queue": { "max_count": 2, "max_depth": 64, "max_in_flight": 64 } } } ] }"#;
    std::fs::write(&file, policy).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_turnstile"))
        .args(["run", file.to_str().unwrap(), "--json"])
        .env("XDG_RUNTIME_DIR", dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("session opened")));
    let pid = rustix::process::Pid::from_child(&child);
    let asked = Instant::now();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{rest:?}");
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    let result = json(&output);
    assert_eq!(result["tenants"][0]["state"], "stopped");
    assert_eq!(result["interrupted"], true);
    let left: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["p.json"], "the socket's directory is gone");
}

#[test]
fn programs_are_checked_guarded_and_run() {
    let vecadd = "tests/kernels/ptx/vecadd.ptx";
    let checked = turnstile(&["ptx", "check", vecadd, "tests/kernels/ptx/reduce.ptx", "--json"]);
    code(&checked, 0);
    assert_eq!(json(&checked)[0]["kernels"][0]["name"], "vecadd");
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.ptx");
    let out = out.to_str().unwrap();
    let arena = "0x400000000:4GiB";
    let guarded = turnstile(&["ptx", "guard", vecadd, "--arena", arena, "-o", out]);
    code(&guarded, 0);
    assert!(text(&guarded.stdout).contains("vecadd"));
    assert!(std::fs::read_to_string(out).unwrap().contains(".entry vecadd"));
    for guard in ["none", "fence", "check"] {
        let run = turnstile(&[
            "ptx",
            "run",
            vecadd,
            "--grid",
            "4",
            "--block",
            "256",
            "--arg",
            "f32[1000]=iota",
            "--arg",
            "f32[1000]=1",
            "--arg",
            "f32[1000]",
            "--arg",
            "u32=1000",
            "--print",
            "2",
            "--expect",
            "0=iota",
            "--guard",
            guard,
            "--json",
        ]);
        code(&run, 0);
        let result = json(&run);
        assert_eq!(result["buffers"][0]["first"][3], "4", "{guard}");
    }
    let wrong = turnstile(&[
        "ptx", "run", vecadd, "--block", "8", "--arg", "f32[8]=1", "--arg", "f32[8]=1", "--arg",
        "f32[8]", "--arg", "u32=8", "--expect", "2=3",
    ]);
    code(&wrong, 1);
    assert!(text(&wrong.stdout).contains("element 0: 2, expected 3"), "{}", text(&wrong.stdout));
    let bad = dir.path().join("bad.ptx");
    std::fs::write(&bad, ".version 8.0\n.target sm_90\n.address_size 64\nnonsense\n").unwrap();
    let refused = turnstile(&["ptx", "check", bad.to_str().unwrap()]);
    code(&refused, 1);
    assert!(text(&refused.stderr).contains("bad.ptx:4"), "{}", text(&refused.stderr));
}
