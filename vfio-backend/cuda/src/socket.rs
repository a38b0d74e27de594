//! Datagrams between daemon and worker, each with at most one file descriptor. Never blocks, whatever
//! the other side did to its end: the flag is given with each call, so nothing depends on the state of a
//! file description that both share.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// A connected pair.
pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    rustix::net::socketpair(family, kind, SocketFlags::CLOEXEC, None)
}

/// Sends one datagram. `AGAIN`: the other side does not read.
pub(crate) fn send(
    socket: impl AsFd,
    bytes: &[u8],
    fd: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let fds = fd.map(|fd| [fd]);
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if let Some(fds) = &fds {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match rustix::net::sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, flags) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// What came.
pub(crate) enum Received {
    /// A datagram: its length (cut to the buffer) and descriptor.
    Datagram(usize, Option<OwnedFd>),
    /// Nothing is there.
    Nothing,
    /// The other side is gone.
    Closed,
}

/// Takes the next datagram, if there is one.
pub(crate) fn receive(socket: impl AsFd, into: &mut [u8]) -> Received {
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let got = rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(into)], &mut control, flags);
        let mut fd = None;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                fd = fds.into_iter().next().or(fd);
            }
        }
        return match got {
            Ok(message) if message.bytes == 0 => Received::Closed,
            Ok(message) => Received::Datagram(message.bytes, fd),
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => Received::Nothing,
            Err(_) => Received::Closed,
        };
    }
}

/// Waits until something is there to be received, or the other side is gone. `false`: neither within
/// the time (`None`: for ever).
pub(crate) fn wait(socket: impl AsFd, time: Option<Duration>) -> bool {
    let time = time.map(|t| Timespec {
        tv_sec: t.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: t.subsec_nanos().into(),
    });
    let mut fds = [PollFd::new(&socket, PollFlags::IN)];
    // An interrupted wait is as good as an early end of it: every caller looks and waits again.
    poll(&mut fds, time.as_ref()).is_ok_and(|n| n > 0)
}
