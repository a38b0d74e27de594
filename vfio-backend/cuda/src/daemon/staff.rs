//! Worker processes: one keeper thread each starts its worker, hears whether it is ready, and waits for
//! its end.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use turnstile_abi::ring::{DriverRing, Layout};
use turnstile_backend_api::SharedRegion;

use super::mps::Mps;
use super::post::{Happening, Post};
use crate::driver::DeviceInfo;
use crate::socket::{self, Received};
use crate::wire::{self, DEPTH, Hello, Note, SHARED_BYTES};

/// How long a worker may take to be ready. Creating a context takes a fifth of a second; many at once wait
/// for each other in the driver.
const READY: Duration = Duration::from_secs(60);

/// What the driver says while the service is settling (807), and for how long that is waited for.
const SERVER_NOT_READY: &str = "(807)";
const SETTLE: Duration = Duration::from_secs(10);

/// Names a worker. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct WorkerId(pub(super) u64);

/// How a worker shares the GPU with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    /// A client of MPS.
    pub(super) concurrent: bool,
    /// Part of the multiprocessors it may use, in percent; only under MPS.
    pub(super) sm_percent: Option<u8>,
    /// Device memory it may take in all, in bytes; only under MPS and only where it is started for one tenant.
    pub(super) memory_bytes: Option<u64>,
}

/// The way to a worker that is ready.
pub(super) struct Link {
    pub(super) socket: OwnedFd,
    pub(super) shared: SharedRegion,
    pub(super) ring: DriverRing,
    pub(super) process: Process,
}

/// A worker's process, which may have ended: a signal to it then reaches nobody.
#[derive(Clone)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) concurrent: bool,
    fd: Arc<OwnedFd>,
}

impl Process {
    /// Ends it now.
    pub(super) fn kill(&self) {
        let _ = pidfd_send_signal(&*self.fd, Signal::KILL);
    }

    /// Waits for its end.
    pub(super) fn ended_within(&self, time: Duration) -> bool {
        socket::wait(&*self.fd, Some(time))
    }
}

/// How workers are started.
#[derive(Clone)]
pub(super) struct Staff {
    pub(super) program: PathBuf,
    pub(super) args: Vec<OsString>,
    pub(super) mps: Option<Arc<Mps>>,
    pub(super) post: Arc<Post>,
}

/// What a worker's environment keeps of the daemon's: where the driver is and which devices it shows.
const KEPT: [&str; 6] = [
    "PATH",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "NVIDIA_VISIBLE_DEVICES",
    "TURNSTILE_LOG",
];

impl Staff {
    /// Starts a worker; what becomes of it is posted.
    pub(super) fn hire(&self, worker: WorkerId, kind: Kind) {
        let staff = self.clone();
        let name = format!("worker-{}", worker.0);
        let started =
            std::thread::Builder::new().name(name).spawn(move || staff.keep(worker, kind));
        if let Err(error) = started {
            let why = format!("no thread for a worker: {error}");
            self.post.put(Happening::Exited { worker, why });
        }
    }

    fn keep(&self, worker: WorkerId, kind: Kind) {
        let begun = Instant::now();
        let why = loop {
            match self.serve(worker, kind) {
                // After an accident the service takes no clients until the last of the old ones has gone.
                Err(why) if why.contains(SERVER_NOT_READY) && begun.elapsed() < SETTLE => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Ok(why) | Err(why) => break why,
            }
        };
        self.post.put(Happening::Exited { worker, why });
    }

    /// From start to end; how it ended.
    fn serve(&self, worker: WorkerId, kind: Kind) -> Result<String, String> {
        let failed = |what: &str, why: &dyn std::fmt::Display| format!("{what}: {why}");
        let (ours, theirs) = socket::pair().map_err(|e| failed("a socket", &e))?;
        let shared = SharedRegion::create("turnstile-worker", SHARED_BYTES)
            .map_err(|e| failed("shared memory", &e))?;
        socket::send(&ours, &Note::Shared.encode(), Some(shared.fd()))
            .map_err(|e| failed("handing memory over", &e))?;
        let mut command = self.command(kind);
        let mut child =
            command.stdin(theirs).spawn().map_err(|e| failed("starting a worker", &e))?;
        // The command holds the worker's end of the socket.
        drop(command);
        let pid = child.id();
        // The child is not waited for yet, so its number is its own.
        let fd = i32::try_from(pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let Some(fd) = fd else {
            let _ = child.kill();
            let _ = child.wait();
            return Err("no descriptor for a worker's process".into());
        };
        let process = Process { pid, concurrent: kind.concurrent, fd: Arc::new(fd) };
        let hello = hear(&ours);
        match hello {
            Ok(info) => {
                let layout =
                    Layout::new(0, DEPTH.into(), wire::SLOTS).map_err(|e| format!("{e:?}"))?;
                let ring = DriverRing::new(layout);
                let link = Box::new(Link { socket: ours, shared, ring, process });
                self.post.put(Happening::Ready { worker, link, info });
                let status = child.wait().map_err(|e| failed("waiting for a worker", &e))?;
                Ok(format!("its worker ended with {status}"))
            }
            Err(why) => {
                process.kill();
                let _ = child.wait();
                Err(why)
            }
        }
    }

    fn command(&self, kind: Kind) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).env_clear().stdout(Stdio::null()).stderr(Stdio::inherit());
        command.envs(KEPT.iter().filter_map(|key| Some((key, std::env::var_os(key)?))));
        command.env("CUDA_CACHE_DISABLE", "1").env("CUDA_MODULE_LOADING", "EAGER");
        match (&self.mps, kind.concurrent) {
            (Some(mps), true) => {
                mps.ensure();
                command.env("CUDA_MPS_PIPE_DIRECTORY", mps.pipes());
                if let Some(percent) = kind.sm_percent {
                    command.env("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", percent.to_string());
                }
                if let Some(bytes) = kind.memory_bytes {
                    let limit = format!("0={}M", bytes.div_ceil(1 << 20));
                    command.env("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", limit);
                }
            }
            // A service that somebody else runs in the usual place must not be found.
            _ => drop(command.env("CUDA_MPS_PIPE_DIRECTORY", "/nonexistent")),
        }
        command
    }
}

/// Waits for a worker's hello.
fn hear(socket: &OwnedFd) -> Result<DeviceInfo, String> {
    let begun = Instant::now();
    let mut bytes = [0; Hello::MOST];
    loop {
        let left = READY.saturating_sub(begun.elapsed());
        if !socket::wait(socket, Some(left)) && left.is_zero() {
            return Err(format!("a worker is not ready after {READY:?}"));
        }
        match socket::receive(socket, &mut bytes) {
            Received::Nothing => {}
            Received::Closed => return Err("a worker ended before it was ready".into()),
            Received::Datagram(n, _) => {
                return match Hello::decode(&bytes[..n]) {
                    Some(Hello::Ready { memory_bytes, multiprocessors, compute, driver, name }) => {
                        Ok(DeviceInfo { name, memory_bytes, multiprocessors, compute, driver })
                    }
                    Some(Hello::Failed { why }) => Err(why),
                    None => Err("a worker says what is no hello".into()),
                };
            }
        }
    }
}
