//! NVIDIA's Multi-Process Service: a control daemon of our own, in a directory of our own, so that its
//! clients are our workers and nobody else's.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The control daemon, and the tool that talks to it.
const TOOL: &str = "nvidia-cuda-mps-control";
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why MPS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MpsError {
    /// It is not installed.
    #[error("{TOOL} is not installed (looked in PATH and /usr/bin); it comes with NVIDIA's driver")]
    Missing,
    /// It does not start.
    #[error("{TOOL} does not start: {0}")]
    Start(String),
}

/// The service: a control daemon, ended when dropped.
pub struct Mps {
    tool: PathBuf,
    /// Pipes and logs; removed when dropped.
    directory: tempfile::TempDir,
    control: Mutex<Child>,
}

impl Mps {
    /// Starts the control daemon. It starts its server with the first client.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start() -> Result<Mps, MpsError> {
        let tool = find().ok_or(MpsError::Missing)?;
        let failed = |e: std::io::Error| MpsError::Start(e.to_string());
        // Only we may connect: the directory is 0700.
        let directory =
            tempfile::Builder::new().prefix("turnstile-mps-").tempdir().map_err(failed)?;
        let control = spawn(&tool, directory.path()).map_err(failed)?;
        let mps = Mps { tool, directory, control: Mutex::new(control) };
        let begun = Instant::now();
        loop {
            if let Ok(Some(status)) = mps.control().try_wait() {
                return Err(MpsError::Start(format!(
                    "it ended with {status}; {}",
                    mps.last_words()
                )));
            }
            // It answers as soon as its pipe is there; before the first client the list is empty.
            if mps.ask("get_server_list").is_some() {
                return Ok(mps);
            }
            if begun.elapsed() > PATIENCE {
                return Err(MpsError::Start(format!("it does not answer; {}", mps.last_words())));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn control(&self) -> std::sync::MutexGuard<'_, Child> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where clients find it.
    #[must_use]
    pub fn pipes(&self) -> &Path {
        self.directory.path()
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.directory.path().join("control.log"));
        log.ok().and_then(|log| log.lines().last().map(str::to_owned)).unwrap_or_default()
    }

    /// Starts the control daemon again if it has ended. Its clients ended with it.
    pub(super) fn ensure(&self) {
        let mut control = self.control();
        if let Ok(Some(status)) = control.try_wait() {
            tracing::error!(%status, "the MPS control daemon ended; starting it again");
            match spawn(&self.tool, self.directory.path()) {
                Ok(child) => *control = child,
                Err(error) => tracing::error!(%error, "the MPS control daemon does not start"),
            }
        }
    }

    /// Says a command and returns what it answers. `None`: it does not.
    fn ask(&self, command: &str) -> Option<String> {
        let mut child = tool(&self.tool, self.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        child.stdin.take()?.write_all(format!("{command}\n").as_bytes()).ok()?;
        let begun = Instant::now();
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if begun.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_micros(200));
                }
                _ => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return None;
                }
            }
        };
        // Answers are a few lines: they fit the pipe.
        let mut text = String::new();
        child.stdout.take()?.read_to_string(&mut text).ok()?;
        status.success().then_some(text)
    }

    /// Ends everything a client runs, and the client, without harm to the others. Returns whether it was
    /// understood.
    pub(super) fn terminate(&self, client: u32) -> bool {
        let servers = self.ask("get_server_list").unwrap_or_default();
        servers.split_whitespace().filter_map(|word| word.parse::<u32>().ok()).any(|server| {
            let answer = self.ask(&format!("terminate_client {server} {client}"));
            tracing::debug!(server, client, ?answer, "terminate_client");
            answer.is_some()
        })
    }
}

impl Drop for Mps {
    fn drop(&mut self) {
        let _ = self.ask("quit -t 2");
        let mut control = self.control();
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if !matches!(control.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = control.kill();
        let _ = control.wait();
    }
}

fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = Some(PathBuf::from("/usr/bin"));
    std::env::split_paths(&path).chain(usual).map(|dir| dir.join(TOOL)).find(|tool| tool.is_file())
}

fn tool(tool: &Path, directory: &Path) -> Command {
    let mut command = Command::new(tool);
    command.env("CUDA_MPS_PIPE_DIRECTORY", directory).env("CUDA_MPS_LOG_DIRECTORY", directory);
    command
}

/// The daemon in the foreground, so that it is a child that can be waited for.
fn spawn(path: &Path, directory: &Path) -> std::io::Result<Child> {
    tool(path, directory)
        .arg("-f")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}
