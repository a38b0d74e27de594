//! The client's side: a transport for the driver.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::time::ClockId;
use turnstile_abi::regs::{self, VECTORS};
use turnstile_abi::version::Version;
use turnstile_backend_api::{MemoryError, SharedRegion};
use turnstile_driver::Transport;

use crate::socket::{self, Address, SocketError};
use crate::wire::Message;

/// Why a client cannot be one.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The daemon cannot be reached, or broke off.
    #[error("cannot talk to the daemon: {0}")]
    Socket(#[from] SocketError),
    /// The daemon said no.
    #[error("the daemon refused: {0}")]
    Refused(String),
    /// The daemon answered with something else than it should.
    #[error("the daemon answered with something else than it should")]
    Protocol,
    /// The aperture cannot be mapped.
    #[error("the aperture: {0}")]
    Aperture(#[from] MemoryError),
}

/// How long the daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How much of an interrupt pipe is drained at a time.
const DRAIN: usize = 512;

/// The way to a device over a socket. A daemon that is gone reads as all-ones.
#[derive(Debug)]
pub struct ProcessTransport {
    /// One question is out at a time.
    socket: Mutex<OwnedFd>,
    aperture: SharedRegion,
    interrupts: Vec<OwnedFd>,
}

impl ProcessTransport {
    /// Connects to a daemon as `tenant`; an empty name will do where the daemon lets this user be
    /// only one.
    pub fn connect(address: &Address, tenant: &str) -> Result<ProcessTransport, ClientError> {
        ProcessTransport::over(socket::connect(address)?, tenant, VECTORS)
    }

    /// Says hello on a connected socket, asking for so many interrupt vectors.
    pub fn over(
        socket: OwnedFd,
        tenant: &str,
        vectors: u16,
    ) -> Result<ProcessTransport, ClientError> {
        let hello = Message::Hello { version: Version::CURRENT, vectors, tenant };
        // Whoever turned us away before the hello closed the socket after saying why.
        let sent = socket::send(socket.as_fd(), &hello, &[], PATIENCE);
        let mut packet = match socket::receive(socket.as_fd(), Some(Instant::now() + PATIENCE)) {
            Ok(packet) => packet,
            Err(e) => return Err(sent.err().unwrap_or(e).into()),
        };
        let mut fds = std::mem::take(&mut packet.fds).into_iter();
        match packet.message().map_err(SocketError::from)? {
            Message::Welcome { version, vectors, aperture_bytes }
                if Version::CURRENT.major() == version.major() =>
            {
                let aperture = fds.next().ok_or(ClientError::Protocol)?;
                let interrupts: Vec<OwnedFd> = fds.collect();
                if interrupts.len() != usize::from(vectors) {
                    return Err(ClientError::Protocol);
                }
                let aperture = SharedRegion::map(aperture, 0, aperture_bytes)?;
                Ok(ProcessTransport { socket: Mutex::new(socket), aperture, interrupts })
            }
            Message::Refused(why) => Err(ClientError::Refused(why.to_owned())),
            _ => Err(ClientError::Protocol),
        }
    }

    /// Reads `bytes` at `at` in BAR0, whatever that means to the device.
    #[must_use]
    pub fn read(&self, at: u64, bytes: u8) -> u64 {
        let ask = |socket: BorrowedFd<'_>| match exchange(socket, &Message::Read { at, bytes }, &[])
        {
            Ok(Answer::Value(value)) => Some(value),
            _ => None,
        };
        let mask = match bytes {
            0..=7 => (1 << (u32::from(bytes) * 8)) - 1,
            _ => u64::MAX,
        };
        self.with_socket(ask).unwrap_or(mask)
    }

    /// Writes the low `bytes` of `value` at `at` in BAR0.
    pub fn write(&self, at: u64, bytes: u8, value: u64) {
        let message = Message::Write { at, bytes, value };
        self.with_socket(|socket| {
            let _ = socket::send(socket, &message, &[], PATIENCE);
        });
    }

    /// Gives the device a view of this process's memory: `bytes` at `offset` of a memfd sealed with
    /// F_SEAL_SHRINK, which can then be registered for DMA under the address `gpa`.
    pub fn add_memory(
        &self,
        gpa: u64,
        memfd: BorrowedFd<'_>,
        offset: u64,
        bytes: u64,
    ) -> Result<(), ClientError> {
        let message = Message::AddMemory { gpa, offset, bytes };
        self.with_socket(|socket| exchange(socket, &message, &[memfd])).and_then(Answer::done)
    }

    /// Takes memory away again. Afterwards the device cannot reach it.
    pub fn remove_memory(&self, gpa: u64) -> Result<(), ClientError> {
        let message = Message::RemoveMemory { gpa };
        self.with_socket(|socket| exchange(socket, &message, &[])).and_then(Answer::done)
    }

    /// The pipe that gets a byte when interrupt `vector` comes in, for callers with an event loop of
    /// their own, who drain it themselves. `None`: not asked for in the hello.
    #[must_use]
    pub fn interrupt(&self, vector: u16) -> Option<BorrowedFd<'_>> {
        self.interrupts.get(usize::from(vector)).map(AsFd::as_fd)
    }

    /// The aperture's memory, sealed, for a process that is to share this tenant's device.
    #[must_use]
    pub fn memory(&self) -> BorrowedFd<'_> {
        self.aperture.fd()
    }

    fn with_socket<R>(&self, f: impl FnOnce(BorrowedFd<'_>) -> R) -> R {
        // The lock guards no data: the worst a panic leaves is an answer nobody read, and there is
        // no code between question and answer that panics.
        f(self.socket.lock().unwrap_or_else(PoisonError::into_inner).as_fd())
    }
}

enum Answer {
    Value(u64),
    Done,
}

impl Answer {
    fn done(self) -> Result<(), ClientError> {
        match self {
            Answer::Done => Ok(()),
            Answer::Value(_) => Err(ClientError::Protocol),
        }
    }
}

fn exchange(
    socket: BorrowedFd<'_>,
    message: &Message<'_>,
    fds: &[BorrowedFd<'_>],
) -> Result<Answer, ClientError> {
    socket::send(socket, message, fds, PATIENCE)?;
    let packet = match socket::receive(socket, Some(Instant::now() + PATIENCE)) {
        Err(SocketError::Timeout(after)) => {
            // Its late answer would be taken for the answer to the next question.
            let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
            return Err(SocketError::Timeout(after).into());
        }
        other => other?,
    };
    match packet.message().map_err(SocketError::from)? {
        Message::Value(value) => Ok(Answer::Value(value)),
        Message::Done => Ok(Answer::Done),
        Message::Refused(why) => Err(ClientError::Refused(why.to_owned())),
        _ => Err(ClientError::Protocol),
    }
}

impl Transport for ProcessTransport {
    type Aperture = SharedRegion;

    fn read32(&self, at: u64) -> u32 {
        self.read(at, 4) as u32
    }

    fn read64(&self, at: u64) -> u64 {
        self.read(at, 8)
    }

    fn write32(&self, at: u64, value: u32) {
        self.write(at, 4, value.into());
    }

    fn aperture(&self) -> &SharedRegion {
        &self.aperture
    }

    fn doorbell(&self, queue: u32) {
        let message = Message::Write { at: regs::doorbell(queue), bytes: 4, value: 0 };
        // A full socket holds doorbells already, and the daemon will look at the rings after them.
        self.with_socket(|socket| {
            let _ = socket::send(socket, &message, &[], Duration::ZERO);
        });
    }

    fn wait_for_interrupt(&self, vector: u16, bound_ns: u64) {
        let bound = Duration::from_nanos(bound_ns);
        let Some(pipe) = self.interrupts.get(usize::from(vector)) else {
            // Not asked for in the hello: look again in a while.
            return std::thread::sleep(bound.min(Duration::from_micros(100)));
        };
        let until = Instant::now().checked_add(bound);
        if matches!(socket::ready(pipe.as_fd(), PollFlags::IN, until), Ok(true)) {
            let mut sink = [0; DRAIN];
            // What does not fit keeps the pipe ready, and costs one early return.
            if let Ok(0) = rustix::io::read(pipe, &mut sink) {
                // The daemon is gone; the pipe stays ready for ever.
                std::thread::sleep(bound.min(Duration::from_millis(1)));
            }
        }
    }

    fn now_ns(&self) -> u64 {
        let now = rustix::time::clock_gettime(ClockId::Monotonic);
        // CAST: the monotonic clock is never negative.
        now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
    }
}
