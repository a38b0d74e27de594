//! A daemon of the test's own: `serve` in a directory that goes with it, and the commands that operate
//! it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::command::{self, Answer, text, turnstile};
use crate::policy::Document;

/// Its audit log's name.
const AUDIT: &str = "audit.jsonl";

/// A daemon that serves. Dropping it kills it.
pub struct Daemon {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
    directory: Arc<tempfile::TempDir>,
}

impl Daemon {
    /// Serves a policy, made for a directory where its sockets can lie, and waits until it serves.
    pub fn start(policy: impl FnOnce(&Path) -> anyhow::Result<Document>) -> anyhow::Result<Daemon> {
        let directory = Arc::new(tempfile::tempdir()?);
        let policy = policy(directory.path())?;
        Daemon::start_in(directory, &policy)
    }

    fn start_in(directory: Arc<tempfile::TempDir>, policy: &Document) -> anyhow::Result<Daemon> {
        let file = directory.path().join("policy.json");
        std::fs::write(&file, serde_json::to_vec(&policy.0)?)?;
        let (audit, state) = (directory.path().join(AUDIT), directory.path().join("state"));
        let serve = ["serve", text(&file)?, "--audit", text(&audit)?, "--state", text(&state)?];
        let mut child = command::start(&serve)?;
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let (lines, stream) = (said.clone(), child.stderr.take().context("stderr is piped")?);
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        let daemon = Daemon { child, said, directory };
        daemon.expect("serving", 1)?;
        Ok(daemon)
    }

    /// Kills it without a chance to clean up, and starts another one in its place.
    pub fn kill_and_start_again(mut self, policy: &Document) -> anyhow::Result<Daemon> {
        self.child.kill()?;
        self.child.wait()?;
        Daemon::start_in(self.directory.clone(), policy)
    }

    /// Its directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A path in its directory, for a tenant's socket.
    #[must_use]
    pub fn socket(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Its control socket.
    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.socket("state/control.sock")
    }

    /// Its audit log.
    #[must_use]
    pub fn audit(&self) -> PathBuf {
        self.socket(AUDIT)
    }

    /// Keeps its directory beyond its end.
    #[must_use]
    pub fn keep(&self) -> Arc<tempfile::TempDir> {
        self.directory.clone()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it said so far.
    #[must_use]
    pub fn said(&self) -> Vec<String> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until so many lines of it contain all these words, which `|` separates.
    pub fn expect(&self, words: &str, times: usize) -> anyhow::Result<()> {
        let has = |line: &&String| words.split('|').all(|word| line.contains(word));
        until(words, || self.said().iter().filter(has).count() >= times)
            .with_context(|| self.said().join("\n"))
    }

    /// Most memory it ever had resident.
    pub fn peak_rss_bytes(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib: u64 = line.context("no VmHWM")?.trim().trim_end_matches(" kB").parse()?;
        Ok(kib << 10)
    }

    /// Runs a command of the operator's against it.
    pub fn operate(&self, arguments: &[&str]) -> anyhow::Result<Answer> {
        let socket = self.control();
        let mut all = arguments.to_vec();
        all.extend(["--socket", text(&socket)?]);
        turnstile(&all)
    }

    /// A tenant, as the API shows it.
    pub fn tenant(&self, name: &str) -> anyhow::Result<Value> {
        let answer = self.operate(&["tenants", "--json"])?;
        let all = answer.expect_code(0)?.json()?;
        let found = all.as_array().and_then(|all| all.iter().find(|t| t["name"] == name).cloned());
        found.with_context(|| format!("no tenant {name} in {all}"))
    }

    /// Waits until a tenant looks like that.
    pub fn until(&self, name: &str, is: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let mut last = Value::Null;
        let waited = until(name, || {
            last = self.tenant(name).unwrap_or_default();
            is(&last)
        });
        waited.with_context(|| format!("{last}\n{}", self.said().join("\n")))?;
        Ok(last)
    }

    /// Asks it to stop: it must end well, in time, and leave a whole audit log.
    pub fn stop(mut self) -> anyhow::Result<()> {
        let pid = rustix::process::Pid::from_raw(self.child.id().try_into()?).context("a pid")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        until("its end", || !matches!(self.child.try_wait(), Ok(None)))
            .with_context(|| self.said().join("\n"))?;
        let status = self.child.wait()?;
        ensure!(status.success(), "{status}: {}", self.said().join("\n"));
        turnstile(&["audit", "verify", text(&self.audit())?])?.expect_code(0)?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for something, for half a minute at most.
pub fn until(what: &str, mut is: impl FnMut() -> bool) -> anyhow::Result<()> {
    let end = Instant::now() + Duration::from_secs(30);
    while !is() {
        ensure!(Instant::now() < end, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
