//! One connection, from its first message to its end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::Instant;

use rustix::io::Errno;
use turnstile_process::Peer;

use crate::client::{Client, Enclosed};
use crate::server::{Left, Seat, Shared};
use crate::stream::{self, StreamError};
use crate::version;
use crate::wire::{HEADER_BYTES, Header, HeaderError, MAX_PAYLOAD, Request};

/// Serves a client until it leaves, and sees to it that what it held is reclaimed.
pub(crate) fn serve(shared: &Shared, socket: BorrowedFd<'_>, tenant: &str, peer: &Peer) {
    let mut line = Line {
        shared,
        socket,
        payload: Box::new([0; MAX_PAYLOAD]),
        reply: Vec::with_capacity(HEADER_BYTES + MAX_PAYLOAD),
        refused: 0,
    };
    let takes_fds = match line.negotiate() {
        Ok(takes_fds) => takes_fds,
        Err(why) => {
            tracing::info!(tenant, pid = peer.pid, %why, "no vfio-user client");
            return;
        }
    };
    let (header, takes_fds) = takes_fds;
    let seat = match shared.admission.attach(tenant, peer) {
        Ok(seat) => seat,
        Err(why) => {
            tracing::warn!(tenant, pid = peer.pid, why, "the device cannot be attached");
            let _ = line.refuse(&header, Errno::NODEV);
            return;
        }
    };
    let Seat { device, events } = seat;
    let mut client = match Client::new(tenant, device, events, &shared.limits, takes_fds) {
        Ok(client) => client,
        Err((why, mut events)) => {
            tracing::warn!(tenant, %why, "the device cannot be attached");
            let _ = line.refuse(&header, Errno::NODEV);
            return events.left(Left::Expelled(why.to_string()));
        }
    };
    let error = line.welcome(&header).and_then(|()| line.run(&mut client));
    let left = match error {
        Ok(never) => match never {},
        Err(_) if shared.stopping.load(Ordering::Acquire) => Left::Stopped,
        Err(StreamError::Closed) => Left::Closed,
        Err(other) => Left::Expelled(other.to_string()),
    };
    tracing::info!(tenant, pid = peer.pid, ?left, refused = line.refused, "client left");
    let (mut events, relay) = client.end();
    // The device first: from here on nothing of the client's can be reached.
    events.left(left);
    if let Some(relay) = relay {
        relay.stop();
    }
}

/// Why nobody was seated.
#[derive(Debug, thiserror::Error)]
enum NoClient {
    #[error("{0}")]
    Stream(#[from] StreamError),
    #[error("the first message is command {0}, not a version; is it another protocol?")]
    Command(u16),
    #[error("its version or capabilities are not served: {0}")]
    Version(Errno),
}

enum Never {}

/// A connection with its buffers.
struct Line<'a> {
    shared: &'a Shared,
    socket: BorrowedFd<'a>,
    payload: Box<[u8; MAX_PAYLOAD]>,
    reply: Vec<u8>,
    /// Requests that were answered with an error.
    refused: u64,
}

impl Line<'_> {
    /// Reads the first message. Returns its header, to be answered, and whether the client takes
    /// descriptors.
    fn negotiate(&mut self) -> Result<(Header, bool), NoClient> {
        let patience = self.shared.limits.patience;
        let until = Some(Instant::now() + patience);
        let received = stream::receive(self.socket, &mut self.payload, until, patience);
        let header = match received {
            Ok(received) => received.header,
            Err(e) => return Err(self.complain(e).into()),
        };
        let payload = &self.payload[..header.payload_bytes];
        let result = match Request::decode(header.command, payload) {
            Ok(Request::Version { major, data, .. }) => version::read(major, data),
            Ok(_) => Err(Errno::INVAL),
            Err(errno) => Err(errno),
        };
        match result {
            // Not said: one ("Capabilities", max_msg_fds).
            Ok(capabilities) => Ok((header, capabilities.max_msg_fds.unwrap_or(1) > 0)),
            Err(errno) => {
                self.refuse(&header, errno)?;
                if header.command == crate::wire::command::VERSION {
                    Err(NoClient::Version(errno))
                } else {
                    Err(NoClient::Command(header.command))
                }
            }
        }
    }

    fn welcome(&mut self, header: &Header) -> Result<(), StreamError> {
        self.begin();
        version::write(self.shared.limits.memory.windows, &mut self.reply);
        self.finish(header, &[])
    }

    fn run(&mut self, client: &mut Client) -> Result<Never, StreamError> {
        let patience = self.shared.limits.patience;
        loop {
            let received = stream::receive(self.socket, &mut self.payload, None, patience);
            let received = match received {
                Ok(received) => received,
                Err(e) => return Err(self.complain(e)),
            };
            self.step(client, received.header, received.fds)?;
        }
    }

    fn step(
        &mut self,
        client: &mut Client,
        header: Header,
        fds: Vec<OwnedFd>,
    ) -> Result<(), StreamError> {
        self.begin();
        let payload = &self.payload[..header.payload_bytes];
        let result = Request::decode(header.command, payload)
            .and_then(|request| client.handle(&request, fds, &mut self.reply));
        match result {
            Err(errno) => self.refuse(&header, errno),
            Ok(Enclosed::Nothing) => self.finish(&header, &[]),
            Ok(Enclosed::Aperture) => {
                let device = client.device();
                self.finish(&header, &[device.aperture().fd()])
            }
            Ok(Enclosed::Doorbell) => match client.doorbell() {
                Ok(fd) => self.finish(&header, &[fd.as_fd()]),
                Err(_) => self.refuse(&header, Errno::NOMEM),
            },
        }
    }

    /// Tells the client, as far as it can be told, why its connection ends.
    fn complain(&mut self, error: StreamError) -> StreamError {
        if let StreamError::Header(header, why) = &error {
            let errno = match why {
                HeaderError::Size(_) => Errno::MSGSIZE,
                HeaderError::Type(_) => Errno::PROTO,
            };
            let _ = self.refuse(header, errno);
        }
        error
    }

    fn begin(&mut self) {
        self.reply.clear();
        self.reply.resize(HEADER_BYTES, 0);
    }

    fn finish(&mut self, header: &Header, fds: &[BorrowedFd<'_>]) -> Result<(), StreamError> {
        if !header.wants_reply {
            return Ok(());
        }
        let bytes = self.reply.len() - HEADER_BYTES;
        self.reply[..HEADER_BYTES].copy_from_slice(&header.reply(bytes));
        stream::send(self.socket, &self.reply, fds, self.shared.limits.patience)
    }

    fn refuse(&mut self, header: &Header, errno: Errno) -> Result<(), StreamError> {
        self.refused += 1;
        if !header.wants_reply {
            return Ok(());
        }
        let refusal = header.refusal(errno);
        stream::send(self.socket, &refusal, &[], self.shared.limits.patience)
    }
}
