//! A `turnstile serve` of a test's own, and what it says.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::command::{self, text};
use crate::policy::Document;

/// A daemon that serves. Dropping it kills it.
pub struct Daemon {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
    directory: tempfile::TempDir,
}

impl Daemon {
    /// Serves a policy, made for a directory where its sockets can lie, and waits until it serves.
    pub fn start(policy: impl FnOnce(&Path) -> anyhow::Result<Document>) -> anyhow::Result<Daemon> {
        let directory = tempfile::tempdir()?;
        let policy = policy(directory.path())?;
        let file = directory.path().join("policy.json");
        std::fs::write(&file, serde_json::to_vec(&policy.0)?)?;
        let audit = directory.path().join("audit.jsonl");
        let state = directory.path().join("state");
        let arguments = ["serve", text(&file)?, "--audit", text(&audit)?, "--state", text(&state)?];
        let mut child = command::start(&arguments)?;
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

    /// A path in its directory.
    #[must_use]
    pub fn socket(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Gives it an operator's order, such as `revoke alice`; it must be carried out.
    pub fn order(&self, words: &[&str]) -> anyhow::Result<command::Answer> {
        let socket = self.directory.path().join("state/control.sock");
        let answer = command::turnstile(&[words, &["--socket", text(&socket)?]].concat())?;
        answer.expect_code(0)?;
        Ok(answer)
    }

    /// What it said so far, line by line.
    #[must_use]
    pub fn said(&self) -> Vec<String> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until so many lines of it contain all these words, which `|` separates.
    pub fn expect(&self, words: &str, times: usize) -> anyhow::Result<()> {
        let until = Instant::now() + Duration::from_secs(30);
        let has = |line: &String| words.split('|').all(|word| line.contains(word));
        while self.said().iter().filter(|line| has(line)).count() < times {
            let said = || self.said().join("\n");
            ensure!(Instant::now() < until, "serve did not say {words:?}; it said:\n{}", said());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Most memory it ever had resident.
    pub fn peak_rss_bytes(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib: u64 = line.context("no VmHWM")?.trim().trim_end_matches(" kB").parse()?;
        Ok(kib << 10)
    }

    /// Stops it as an operator does: it must end well and leave a whole audit log.
    pub fn stop(mut self) -> anyhow::Result<()> {
        let pid = self.child.id().to_string();
        std::process::Command::new("kill").args(["-TERM", &pid]).status()?;
        let until = Instant::now() + Duration::from_secs(20);
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(Instant::now() < until, "serve does not stop:\n{}", self.said().join("\n"));
            std::thread::sleep(Duration::from_millis(20));
        };
        ensure!(status.success(), "{status}: {}", self.said().join("\n"));
        let audit = self.directory.path().join("audit.jsonl");
        command::turnstile(&["audit", "verify", text(&audit)?])?.expect_code(0)?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
