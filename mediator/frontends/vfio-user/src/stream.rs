//! Messages on a stream socket: framed, bounded, with their descriptors, and within a time.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use crate::wire::{HEADER_BYTES, Header, HeaderError, MAX_FDS, MAX_PAYLOAD};

/// Why nothing more can be said on a connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    /// The other side closed it.
    #[error("the other side closed the connection")]
    Closed,
    /// A message was begun and not finished, or a reply not read.
    #[error("nothing got through within {0:?}")]
    Timeout(Duration),
    /// What came is no message.
    #[error("{1}")]
    Header(Header, HeaderError),
    /// More descriptors came than a message can have.
    #[error("more than {MAX_FDS} file descriptors in one message")]
    Descriptors,
    /// The system refused.
    #[error("{0}")]
    System(#[from] Errno),
}

pub(crate) fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: duration.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

/// Waits until a socket is ready, at most until then.
fn ready(socket: BorrowedFd<'_>, flags: PollFlags, until: Instant) -> Result<bool, Errno> {
    loop {
        let left = timespec(until.saturating_duration_since(Instant::now()));
        match poll(&mut [PollFd::from_borrowed_fd(socket, flags)], Some(&left)) {
            Ok(n) => return Ok(n > 0),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
}

/// A received message: its header and descriptors. The payload is in the caller's buffer.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) header: Header,
    pub(crate) fds: Vec<OwnedFd>,
}

/// Receives one message. Waits for its first byte until `until` (`None`: for ever), and for the rest
/// no longer than `patience`.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    payload: &mut [u8; MAX_PAYLOAD],
    until: Option<Instant>,
    patience: Duration,
) -> Result<Received, StreamError> {
    if let Some(until) = until
        && !ready(socket, PollFlags::IN, until)?
    {
        return Err(StreamError::Timeout(patience));
    }
    let mut bytes = [0; HEADER_BYTES];
    let mut fds = Vec::new();
    // The first read waits in the kernel; it is the one on the path of every trapped access.
    let mut got = receive_some(socket, &mut bytes, &mut fds, RecvFlags::empty())?;
    if got < HEADER_BYTES {
        let deadline = Instant::now() + patience;
        while got < HEADER_BYTES {
            got += receive_by(socket, &mut bytes[got..], &mut fds, deadline, patience)?;
        }
    }
    let header = Header::decode(&bytes).map_err(|(header, e)| StreamError::Header(header, e))?;
    let rest = &mut payload[..header.payload_bytes];
    if !rest.is_empty() {
        // With the header, in all but the oddest clients.
        let mut got = match receive_some(socket, rest, &mut fds, RecvFlags::DONTWAIT) {
            Err(StreamError::System(Errno::AGAIN)) => 0,
            other => other?,
        };
        if got < rest.len() {
            let deadline = Instant::now() + patience;
            while got < rest.len() {
                got += receive_by(socket, &mut rest[got..], &mut fds, deadline, patience)?;
            }
        }
    }
    Ok(Received { header, fds })
}

/// Receives something until a deadline.
fn receive_by(
    socket: BorrowedFd<'_>,
    into: &mut [u8],
    fds: &mut Vec<OwnedFd>,
    deadline: Instant,
    patience: Duration,
) -> Result<usize, StreamError> {
    loop {
        // Also for a client that sends a byte now and then.
        if Instant::now() >= deadline || !ready(socket, PollFlags::IN, deadline)? {
            return Err(StreamError::Timeout(patience));
        }
        match receive_some(socket, into, fds, RecvFlags::DONTWAIT) {
            Err(StreamError::System(Errno::AGAIN)) => {}
            other => return other,
        }
    }
}

/// One read: at least a byte, and the descriptors that came with what was read.
fn receive_some(
    socket: BorrowedFd<'_>,
    into: &mut [u8],
    fds: &mut Vec<OwnedFd>,
    flags: RecvFlags,
) -> Result<usize, StreamError> {
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = flags | RecvFlags::CMSG_CLOEXEC;
        let received =
            rustix::net::recvmsg(socket, &mut [IoSliceMut::new(into)], &mut control, flags);
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(new) = message {
                fds.extend(new);
            }
        }
        match received {
            Ok(m) if m.flags.contains(ReturnFlags::CTRUNC) => return Err(StreamError::Descriptors),
            Ok(_) if fds.len() > MAX_FDS => return Err(StreamError::Descriptors),
            Ok(m) if m.bytes == 0 => return Err(StreamError::Closed),
            Ok(m) => return Ok(m.bytes),
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Err(StreamError::Closed),
            Err(e) => return Err(e.into()),
        }
    }
}

/// Sends a whole message, with a descriptor or without. Waits no longer than `patience` for a peer
/// that does not read; never raises SIGPIPE.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    mut bytes: &[u8],
    fds: &[BorrowedFd<'_>],
    patience: Duration,
) -> Result<(), StreamError> {
    let mut fds = fds;
    let mut until = None;
    while !bytes.is_empty() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(StreamError::Descriptors);
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags) {
            Ok(n) => {
                bytes = &bytes[n..];
                fds = &[];
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let until = *until.get_or_insert_with(|| Instant::now() + patience);
                if Instant::now() >= until || !ready(socket, PollFlags::OUT, until)? {
                    return Err(StreamError::Timeout(patience));
                }
            }
            Err(Errno::PIPE | Errno::CONNRESET) => return Err(StreamError::Closed),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}
