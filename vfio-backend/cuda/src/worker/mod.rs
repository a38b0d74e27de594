//! The worker's process: owns one CUDA context and one address space, serves one session, and ends.
//!
//! The main thread (`pump`) takes commands from the ring, puts work into streams and looks whether it is
//! over; it never waits for the GPU. The `clerk` does what takes milliseconds. Whatever spoils the context
//! ends the process: the daemon sees that and tells the tenant.

mod arena;
mod clerk;
pub(crate) mod host;
mod pump;
mod queue;
mod sandbox;

use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use turnstile_backend_api::SharedRegion;

use crate::driver::{self, Gpu};
use crate::socket::{self, Received};
use crate::wire::{Hello, Note, SHARED_BYTES};
use arena::Arena;

pub(crate) use arena::BASE as ARENA_BASE;

/// How long the daemon may take for its first words.
const FIRST_WORDS: Duration = Duration::from_secs(30);

/// Runs a worker on this process's standard input, which is a socket to the daemon. Returns when the
/// session is over.
#[must_use]
pub fn main(ordinal: u32) -> ExitCode {
    // When the daemon dies, its workers must not linger.
    let kill = Some(rustix::process::Signal::KILL);
    let _ = rustix::process::set_parent_process_death_signal(kill);
    let Ok(socket) = std::io::stdin().as_fd().try_clone_to_owned() else {
        return ExitCode::FAILURE;
    };
    match serve(&socket, ordinal) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            tracing::debug!(why, "worker ends");
            let _ = socket::send(&socket, &Hello::Failed { why }.encode(), None);
            ExitCode::from(3)
        }
    }
}

fn serve(socket: &OwnedFd, ordinal: u32) -> Result<(), String> {
    let shared = first_words(socket)?;
    driver::library()?;
    let gpu = Gpu::open(ordinal).map_err(|e| e.to_string())?;
    let info = gpu.info().map_err(|e| e.to_string())?;
    let arena = Arena::new(gpu).map_err(|e| e.to_string())?;
    let clerk = clerk::Clerk::start(gpu).map_err(|e| format!("starting a thread: {e}"))?;
    sandbox::enter()?;
    let hello = Hello::Ready {
        memory_bytes: info.memory_bytes,
        multiprocessors: info.multiprocessors,
        compute: info.compute,
        driver: info.driver,
        name: info.name,
    };
    socket::send(socket, &hello.encode(), None).map_err(|e| format!("saying hello: {e}"))?;
    pump::Pump::new(socket, shared, gpu, arena, clerk)?.run()?;
    // Orderly: under MPS a client that just vanishes can take others with it.
    gpu.close().map_err(|e| e.to_string())
}

/// Receives the memory that ring and slots lie in.
fn first_words(socket: &OwnedFd) -> Result<SharedRegion, String> {
    let mut bytes = [0; Note::BYTES];
    if !socket::wait(socket, Some(FIRST_WORDS)) {
        return Err("the daemon says nothing; this command is for workers of a daemon".into());
    }
    match socket::receive(socket, &mut bytes) {
        Received::Datagram(n, Some(fd)) if Note::decode(&bytes[..n]) == Some(Note::Shared) => {
            SharedRegion::map(fd, 0, SHARED_BYTES).map_err(|e| e.to_string())
        }
        _ => Err("standard input is no socket to a daemon; this command is for its workers".into()),
    }
}
