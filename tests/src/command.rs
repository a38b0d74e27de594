//! Running `turnstile` with a bound on time, and reading its answer.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::workspace;

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Answer {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Answer {
    /// The answer as JSON.
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("not JSON: {self:?}"))
    }

    /// The exit code was this one.
    pub fn expect_code(&self, code: i32) -> anyhow::Result<&Answer> {
        ensure!(self.status.code() == Some(code), "exit code {code} expected: {self:?}");
        Ok(self)
    }

    /// One tenant's row of a `run --json`.
    pub fn tenant(&self, name: &str) -> anyhow::Result<Value> {
        let json = self.json()?;
        let rows = json["tenants"].as_array().context("no tenants in the answer")?;
        let row = rows.iter().find(|row| row["name"] == name);
        Ok(row.with_context(|| format!("no tenant {name} in {json}"))?.clone())
    }

    /// A tenant finished and its own check passed.
    pub fn passed(&self, name: &str) -> anyhow::Result<&Answer> {
        let row = self.tenant(name)?;
        ensure!(
            row["state"] == "finished" && row["passed"] == true,
            "{name} did not pass: {row}\n{}",
            self.stderr
        );
        Ok(self)
    }
}

/// Starts `turnstile` with these arguments in the workspace's root.
pub fn start(arguments: &[&str]) -> anyhow::Result<Child> {
    Command::new(workspace::binary()?)
        .args(arguments)
        .current_dir(workspace::root())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting turnstile")
}

/// Waits for a command that was started, at most `limit`; past it, it is killed and that is an error.
pub fn finish(mut child: Child, limit: Duration) -> anyhow::Result<Answer> {
    let started = Instant::now();
    let out = read_all(child.stdout.take().context("stdout is piped")?);
    let err = read_all(child.stderr.take().context("stderr is piped")?);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if started.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            bail!(
                "still running after {limit:?}; it had said:\n{}\n{}",
                out.join().unwrap_or_default(),
                err.join().unwrap_or_default()
            );
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let join = |reader: std::thread::JoinHandle<String>| reader.join().unwrap_or_default();
    Ok(Answer { status, stdout: join(out), stderr: join(err), took: started.elapsed() })
}

fn read_all(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Runs `turnstile` to its end.
pub fn turnstile(arguments: &[&str]) -> anyhow::Result<Answer> {
    finish(start(arguments)?, Duration::from_secs(120))
}

/// A path as an argument.
pub fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}
