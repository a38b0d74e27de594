//! `turnstile serve` beside a test, and what it says.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Child;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::json;

use crate::command::{self, text};
use crate::policy::Document;

/// A daemon that serves, and what it says.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
    directory: tempfile::TempDir,
}

impl Daemon {
    /// Serves a policy whose tenants, in this order, attach over vfio-user; their sockets are moved
    /// into a directory of the test's.
    pub fn start(mut policy: Document, tenants: &[&str]) -> anyhow::Result<Daemon> {
        let directory = tempfile::tempdir()?;
        for (n, name) in tenants.iter().enumerate() {
            let socket = json!(directory.path().join(name));
            policy = policy.set(&format!("/tenants/{n}/attach/socket"), socket)?;
        }
        let file = directory.path().join("policy.json");
        std::fs::write(&file, serde_json::to_vec(&policy.0)?)?;
        let audit = directory.path().join("audit.jsonl");
        let mut child = command::start(&["serve", text(&file)?, "--audit", text(&audit)?])?;
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

    /// Where a tenant's VM connects.
    #[must_use]
    pub fn socket(&self, tenant: &str) -> PathBuf {
        self.directory.path().join(tenant)
    }

    /// Everything it said.
    #[must_use]
    pub fn said(&self) -> Vec<String> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it has said something that contains all these words, so often.
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

    /// Stops it as an operator does; it must leave nothing behind.
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
        for entry in std::fs::read_dir(self.directory.path())? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            ensure!(name.contains('.'), "the socket {name} is left");
        }
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
