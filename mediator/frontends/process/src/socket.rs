//! `SOCK_SEQPACKET` sockets: addresses, listening, and one message at a time with its descriptors.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::wire::{MAX_FDS, MAX_MESSAGE, Message, WireError};

/// Where a socket listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A path in the file system.
    Path(PathBuf),
    /// A name in Linux's abstract namespace: no file, and reachable by everybody in the network
    /// namespace, so only peer credentials guard it.
    Abstract(String),
}

impl Address {
    /// Reads `@name` as abstract and everything else as a path.
    #[must_use]
    pub fn parse(text: &str) -> Address {
        match text.strip_prefix('@') {
            Some(name) => Address::Abstract(name.to_owned()),
            None => Address::Path(PathBuf::from(text)),
        }
    }

    fn to_unix(&self) -> Result<SocketAddrUnix, Errno> {
        match self {
            Address::Path(path) => SocketAddrUnix::new(path),
            Address::Abstract(name) => SocketAddrUnix::new_abstract_name(name.as_bytes()),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Path(path) => path.display().fmt(f),
            Address::Abstract(name) => write!(f, "@{name}"),
        }
    }
}

/// Why a message did not get through.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The other side closed the connection.
    #[error("the other side closed the connection")]
    Closed,
    /// The other side did not answer, or does not read.
    #[error("nothing got through within {0:?}")]
    Timeout(Duration),
    /// The message is none.
    #[error("{0}")]
    Wire(#[from] WireError),
    /// More file descriptors came than a message can have.
    #[error("too many file descriptors in one message")]
    Descriptors,
    /// The system refused.
    #[error("{0}")]
    System(#[from] Errno),
}

fn new_socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// A connected pair, for a client that the daemon starts itself.
pub fn pair() -> Result<(OwnedFd, OwnedFd), SocketError> {
    let flags = SocketFlags::CLOEXEC;
    let (kind, family) = (SocketType::SEQPACKET, AddressFamily::UNIX);
    Ok(rustix::net::socketpair(family, kind, flags, None)?)
}

/// Connects to a server.
pub fn connect(address: &Address) -> Result<OwnedFd, SocketError> {
    let socket = new_socket()?;
    rustix::net::connect(&socket, &address.to_unix()?)?;
    Ok(socket)
}

/// A listening socket; removes its path when dropped.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    address: Address,
}

impl Listener {
    /// Listens at an address. `mode` are the permission bits of a path. A socket file that nobody
    /// listens on any more is replaced; one that is in use is not.
    pub fn bind(address: &Address, mode: u32) -> Result<Listener, SocketError> {
        let unix = address.to_unix()?;
        let socket = new_socket()?;
        rustix::fs::fcntl_setfl(&socket, rustix::fs::OFlags::NONBLOCK)?;
        match rustix::net::bind(&socket, &unix) {
            Err(Errno::ADDRINUSE) if let Address::Path(path) = address => {
                // A listener that is only slow to accept must not hold us up.
                let probe = new_socket()?;
                rustix::fs::fcntl_setfl(&probe, rustix::fs::OFlags::NONBLOCK)?;
                let dead = match rustix::net::connect(probe, &unix) {
                    // A file that is no socket refuses as well, and is not ours to remove.
                    Err(Errno::CONNREFUSED) => is_socket(path),
                    _ => false,
                };
                if !dead {
                    return Err(Errno::ADDRINUSE.into());
                }
                rustix::fs::unlink(path)?;
                rustix::net::bind(&socket, &unix)?;
            }
            other => other?,
        }
        // From here on the path is ours to remove.
        let listener = Listener { socket, address: address.clone() };
        if let Address::Path(path) = address {
            // Nobody can connect before `listen`, so there is no moment with other permissions.
            rustix::fs::chmod(path, rustix::fs::Mode::from_raw_mode(mode))?;
        }
        rustix::net::listen(&listener.socket, 128)?;
        Ok(listener)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Takes the next connection, if there is one. The connection does not block.
    pub(crate) fn accept(&self) -> Result<OwnedFd, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        rustix::net::accept_with(&self.socket, flags)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Address::Path(path) = &self.address {
            let _ = rustix::fs::unlink(path);
        }
    }
}

fn is_socket(path: &std::path::Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket())
}

/// Waits until a socket is ready. `None`: for ever.
pub(crate) fn ready(
    socket: BorrowedFd<'_>,
    flags: PollFlags,
    until: Option<Instant>,
) -> Result<bool, Errno> {
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = left.map(timespec);
        let mut fds = [PollFd::from_borrowed_fd(socket, flags)];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(n) => return Ok(n > 0),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
}

pub(crate) fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: duration.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

/// Sends one message. Waits no longer than `timeout` for a peer that does not read; never raises
/// SIGPIPE.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    message: &Message<'_>,
    fds: &[BorrowedFd<'_>],
    timeout: Duration,
) -> Result<(), SocketError> {
    let mut bytes = [0; MAX_MESSAGE];
    let length = message.encode(&mut bytes);
    let until = Instant::now() + timeout;
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(SocketError::Descriptors);
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match rustix::net::sendmsg(socket, &[IoSlice::new(&bytes[..length])], &mut control, flags) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if timeout.is_zero() => return Err(SocketError::Timeout(timeout)),
            Err(Errno::AGAIN) => {
                if !ready(socket, PollFlags::OUT, Some(until))? {
                    return Err(SocketError::Timeout(timeout));
                }
            }
            Err(Errno::PIPE | Errno::CONNRESET) => return Err(SocketError::Closed),
            Err(e) => return Err(e.into()),
        }
    }
}

/// One received packet.
pub(crate) struct Packet {
    bytes: [u8; MAX_MESSAGE + 1],
    length: usize,
    /// What came with it, closed on drop if nobody takes it.
    pub(crate) fds: Vec<OwnedFd>,
}

impl Packet {
    pub(crate) fn message(&self) -> Result<Message<'_>, WireError> {
        Message::decode(&self.bytes[..self.length])
    }
}

/// Receives one packet, waiting until `until` (`None`: for ever).
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    until: Option<Instant>,
) -> Result<Packet, SocketError> {
    let started = Instant::now();
    loop {
        if !ready(socket, PollFlags::IN, until)? {
            return Err(SocketError::Timeout(started.elapsed()));
        }
        let mut packet = Packet { bytes: [0; MAX_MESSAGE + 1], length: 0, fds: Vec::new() };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = {
            let mut parts = [IoSliceMut::new(&mut packet.bytes)];
            rustix::net::recvmsg(socket, &mut parts, &mut control, flags)
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                packet.fds.extend(fds);
            }
        }
        match received {
            // An empty packet reads like the end; nobody has a reason to send one.
            Ok(message) if message.bytes == 0 => return Err(SocketError::Closed),
            Ok(message) if message.flags.contains(ReturnFlags::CTRUNC) => {
                return Err(SocketError::Descriptors);
            }
            Ok(message) => {
                packet.length = message.bytes;
                return Ok(packet);
            }
            // A reset is reported once; what the peer said before it is still there to be read.
            Err(Errno::INTR | Errno::AGAIN | Errno::CONNRESET) => {}
            Err(e) => return Err(e.into()),
        }
    }
}
