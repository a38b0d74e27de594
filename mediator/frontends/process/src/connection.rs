//! One client, from its hello to its end.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::Instant;

use rustix::pipe::PipeFlags;
use turnstile_abi::memory::SharedMemory;
use turnstile_abi::regs::{PAGE, VECTORS};
use turnstile_abi::version::Version;
use turnstile_backend_api::SharedRegion;
use turnstile_device::Device;

use crate::peer::Peer;
use crate::raw;
use crate::server::{Left, MemoryEvents, Seat, Shared};
use crate::socket::{self, Packet, SocketError};
use crate::wire::Message;

/// What a client asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hello {
    vectors: u16,
}

impl Hello {
    /// Reads a hello and the tenant it wants to be; the error is for the peer.
    pub(crate) fn read(packet: &Packet) -> Result<(Hello, &str), String> {
        match packet.message().map_err(|e| e.to_string())? {
            Message::Hello { version, vectors, tenant } => {
                if !Version::CURRENT.serves(version) {
                    let Version(ours) = Version::CURRENT;
                    return Err(format!("the device speaks ABI {ours:#x}, not {:#x}", version.0));
                }
                if vectors == 0 || vectors > VECTORS {
                    return Err(format!("{vectors} interrupt vectors; there are 1 to {VECTORS}"));
                }
                Ok((Hello { vectors }, tenant))
            }
            _ => Err("say hello first".to_owned()),
        }
    }
}

/// Serves a client until it leaves, and sees to it that what it held is reclaimed.
pub(crate) fn serve(
    shared: &Shared,
    socket: &OwnedFd,
    tenant: &str,
    peer: &Peer,
    hello: Option<Hello>,
) {
    let socket = socket.as_fd();
    let patience = shared.limits.patience;
    let refuse = |why: &str| {
        tracing::info!(tenant, pid = peer.pid, why, "client refused");
        let _ = socket::send(socket, &Message::Refused(why), &[], patience);
    };
    let hello = match hello {
        Some(hello) => hello,
        None => match socket::receive(socket, Some(Instant::now() + patience)) {
            Ok(packet) => match Hello::read(&packet) {
                Ok((hello, _)) => hello,
                Err(why) => return refuse(&why),
            },
            Err(e) => return refuse(&e.to_string()),
        },
    };
    let Seat { device, events } = match shared.admission.attach(tenant, peer) {
        Ok(seat) => seat,
        Err(why) => return refuse(&why),
    };
    let mut client = Client { shared, socket, device, events, pieces: BTreeMap::new() };
    let left = match client.welcome(hello) {
        // The pipes' read ends live as long as the client: a write end without a reader would
        // raise SIGPIPE in the dispatcher.
        Ok(_readers) => client.run(),
        Err(e) => e.into_left(),
    };
    let left = if shared.stopping.load(Ordering::Acquire) { Left::Stopped } else { left };
    tracing::info!(tenant, pid = peer.pid, ?left, "client left");
    client.events.left(left);
}

impl SocketError {
    fn into_left(self) -> Left {
        match self {
            SocketError::Closed => Left::Closed,
            other => Left::Expelled(other.to_string()),
        }
    }
}

struct Client<'a> {
    shared: &'a Shared,
    socket: BorrowedFd<'a>,
    device: std::sync::Arc<Device>,
    events: Box<dyn MemoryEvents>,
    /// Memory it added: address to length.
    pieces: BTreeMap<u64, u64>,
}

impl Client<'_> {
    /// Hands the aperture and the interrupt pipes over. Returns the pipes' read ends.
    fn welcome(&self, hello: Hello) -> Result<Vec<OwnedFd>, SocketError> {
        let mut readers = Vec::with_capacity(hello.vectors.into());
        for vector in 0..hello.vectors {
            // Two open files: the flags of the client's end are not those of ours.
            let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
            self.device.set_vector(vector, raw::signal_through(write));
            readers.push(read);
        }
        let aperture = self.device.aperture();
        let fds: Vec<BorrowedFd<'_>> =
            std::iter::once(aperture.fd()).chain(readers.iter().map(AsFd::as_fd)).collect();
        let welcome = Message::Welcome {
            version: Version::CURRENT,
            vectors: hello.vectors,
            aperture_bytes: aperture.size(),
        };
        socket::send(self.socket, &welcome, &fds, self.shared.limits.patience)?;
        Ok(readers)
    }

    fn run(&mut self) -> Left {
        loop {
            let step = socket::receive(self.socket, None).and_then(|packet| self.step(packet));
            if let Err(e) = step {
                return e.into_left();
            }
        }
    }

    fn step(&mut self, mut packet: Packet) -> Result<(), SocketError> {
        let fds = std::mem::take(&mut packet.fds);
        match packet.message()? {
            Message::Read { at, bytes } => {
                let mut data = [0; 8];
                let width = usize::from(bytes).min(8);
                self.device.bar0_read(at, &mut data[..width]);
                self.answer(&Message::Value(u64::from_le_bytes(data)))
            }
            Message::Write { at, bytes, value } => {
                let width = usize::from(bytes).min(8);
                self.device.bar0_write(at, &value.to_le_bytes()[..width]);
                Ok(())
            }
            Message::AddMemory { gpa, offset, bytes } => {
                let added = self.add_memory(gpa, offset, bytes, fds);
                self.answer_result(added)
            }
            Message::RemoveMemory { gpa } => {
                let removed = self.remove_memory(gpa);
                self.answer_result(removed)
            }
            other => {
                let why = format!("unexpected message {other:?}");
                let _ = self.answer(&Message::Refused(&why));
                Err(SocketError::Wire(crate::wire::WireError::Kind(0)))
            }
        }
    }

    fn answer(&self, message: &Message<'_>) -> Result<(), SocketError> {
        socket::send(self.socket, message, &[], self.shared.limits.patience)
    }

    fn answer_result(&self, result: Result<(), String>) -> Result<(), SocketError> {
        match result {
            Ok(()) => self.answer(&Message::Done),
            Err(why) => self.answer(&Message::Refused(&why)),
        }
    }

    fn add_memory(
        &mut self,
        gpa: u64,
        offset: u64,
        bytes: u64,
        fds: Vec<OwnedFd>,
    ) -> Result<(), String> {
        let limits = &self.shared.limits;
        let Ok([fd]) = <[OwnedFd; 1]>::try_from(fds) else {
            return Err("exactly one file descriptor comes with memory".to_owned());
        };
        if bytes == 0
            || (gpa | offset | bytes) & (PAGE - 1) != 0
            || gpa.checked_add(bytes).is_none()
        {
            return Err(format!(
                "memory {gpa:#x}..+{bytes:#x} at file offset {offset:#x} is empty, wraps, or is \
                 not page aligned"
            ));
        }
        let total = self.pieces.values().try_fold(bytes, |sum, b| sum.checked_add(*b));
        if self.pieces.len() >= limits.pieces || total.is_none_or(|t| t > limits.memory_bytes) {
            return Err(format!(
                "a client may add {} pieces and {} bytes of memory",
                limits.pieces, limits.memory_bytes
            ));
        }
        if self.pieces.contains_key(&gpa) {
            return Err(format!("there is memory at {gpa:#x} already; remove it first"));
        }
        check_memfd(&fd)?;
        let region = SharedRegion::map(fd, offset, bytes).map_err(|e| e.to_string())?;
        self.events.add(gpa, bytes, region)?;
        self.pieces.insert(gpa, bytes);
        Ok(())
    }

    fn remove_memory(&mut self, gpa: u64) -> Result<(), String> {
        if !self.pieces.contains_key(&gpa) {
            return Err(format!("no memory was added at {gpa:#x}"));
        }
        self.events.remove(gpa)?;
        self.pieces.remove(&gpa);
        Ok(())
    }
}

/// Whether a file is ordinary memory that cannot shrink. Seals come first: they exist only on memory
/// files, and asking for them cannot block, which asking a file system of the client's could.
fn check_memfd(fd: &OwnedFd) -> Result<(), String> {
    let seals = rustix::fs::fcntl_get_seals(fd)
        .map_err(|_| "the file is no memfd; pass one sealed with F_SEAL_SHRINK".to_owned())?;
    if !seals.contains(rustix::fs::SealFlags::SHRINK) {
        return Err("the memfd is not sealed with F_SEAL_SHRINK; seal it first".to_owned());
    }
    // A hole in huge pages is filled from a pool that can be empty, which would be SIGBUS.
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    let system = rustix::fs::fstatfs(fd).map_err(|e| e.to_string())?;
    // CAST: the field's type differs between architectures; the magic fits in all of them.
    if system.f_type as u64 != TMPFS_MAGIC {
        return Err("the memfd has huge pages; pass one with ordinary pages".to_owned());
    }
    Ok(())
}
