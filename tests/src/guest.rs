//! A guest in a VMM: its console, its end.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tempfile::NamedTempFile;

/// A line of the console, or its end.
#[derive(Debug, Default)]
struct Console {
    lines: Vec<String>,
    ended: bool,
}

/// A VMM with a guest in it; killed when dropped.
#[derive(Debug)]
pub struct Guest {
    vmm: Child,
    console: Arc<(Mutex<Console>, Condvar)>,
    _files: Vec<NamedTempFile>,
    booted: Instant,
}

impl Guest {
    /// Starts a VMM whose guest's console is its standard output. `files` live as long as it does.
    pub fn start(mut command: Command, files: Vec<NamedTempFile>) -> anyhow::Result<Guest> {
        let mut vmm = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        let console: Arc<(Mutex<Console>, Condvar)> = Arc::default();
        let streams: [Box<dyn std::io::Read + Send>; 2] = [
            Box::new(vmm.stdout.take().context("stdout is piped")?),
            Box::new(vmm.stderr.take().context("stderr is piped")?),
        ];
        for stream in streams {
            let console = console.clone();
            std::thread::spawn(move || read(stream, &console));
        }
        Ok(Guest { vmm, console, _files: files, booted: Instant::now() })
    }

    /// Time since it was started.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.booted.elapsed()
    }

    /// Waits until a line contains `text` and returns the line.
    pub fn expect(&self, text: &str, limit: Duration) -> anyhow::Result<String> {
        let until = Instant::now() + limit;
        let (console, changed) = &*self.console;
        let mut console = console.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(line) = console.lines.iter().find(|line| line.contains(text)) {
                return Ok(line.clone());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || console.ended {
                bail!("the guest did not say {text:?}; it said:\n{}", console.lines.join("\n"));
            }
            console = changed.wait_timeout(console, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Everything it said.
    #[must_use]
    pub fn said(&self) -> Vec<String> {
        self.console.0.lock().unwrap_or_else(PoisonError::into_inner).lines.clone()
    }

    /// Kills the VMM, as a crash would.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.vmm.kill()?;
        self.vmm.wait()?;
        Ok(())
    }

    /// Waits until the guest has switched itself off.
    pub fn finish(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let until = Instant::now() + limit;
        loop {
            if let Some(status) = self.vmm.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < until, "still up; it said:\n{}", self.said().join("\n"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.vmm.kill();
        let _ = self.vmm.wait();
    }
}

fn read(stream: impl std::io::Read, console: &(Mutex<Console>, Condvar)) {
    let (lines, changed) = console;
    for line in BufReader::new(stream).split(b'\n') {
        let Ok(line) = line else { break };
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        lines.lock().unwrap_or_else(PoisonError::into_inner).lines.push(text);
        changed.notify_all();
    }
    lines.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
    changed.notify_all();
}
