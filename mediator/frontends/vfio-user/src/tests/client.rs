//! A small client for tests: sends what it is told, right or wrong.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use crate::wire::{HEADER_BYTES, Header, command};

/// A reply: the payload and its descriptors, or what the server refused with.
pub(super) type Reply = Result<(Vec<u8>, Vec<OwnedFd>), Errno>;

pub(super) struct TestClient {
    pub(super) socket: UnixStream,
    id: u16,
}

/// Concatenates little-endian fields.
#[macro_export]
macro_rules! fields {
    ($($field:expr),* $(,)?) => {{
        let mut bytes: Vec<u8> = Vec::new();
        $(bytes.extend_from_slice(&$field.to_le_bytes());)*
        bytes
    }};
}

impl TestClient {
    /// Connects and says nothing.
    pub(super) fn silent(path: &Path) -> TestClient {
        let socket = UnixStream::connect(path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        TestClient { socket, id: 0 }
    }

    /// Connects and negotiates.
    pub(super) fn connect(path: &Path) -> TestClient {
        let mut client = TestClient::silent(path);
        client.negotiate().unwrap();
        client
    }

    pub(super) fn negotiate(&mut self) -> Reply {
        let mut payload = fields![0_u16, 0_u16];
        payload.extend_from_slice(b"{\"capabilities\":{\"max_msg_fds\":8}}\0");
        self.ask(command::VERSION, &payload)
    }

    /// Sends raw bytes.
    pub(super) fn send(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        let parts = [IoSlice::new(bytes)];
        let sent = rustix::net::sendmsg(&self.socket, &parts, &mut control, SendFlags::NOSIGNAL)?;
        assert_eq!(sent, bytes.len());
        Ok(())
    }

    pub(super) fn header(&mut self, number: u16, payload_bytes: usize) -> Header {
        self.id = self.id.wrapping_add(1);
        Header { id: self.id, command: number, payload_bytes, wants_reply: true }
    }

    /// Sends a command.
    pub(super) fn tell(
        &mut self,
        number: u16,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<Header, Errno> {
        let header = self.header(number, payload.len());
        let mut bytes = header.encode().to_vec();
        bytes.extend_from_slice(payload);
        self.send(&bytes, fds).map(|()| header)
    }

    /// Reads whole bytes; `None` when the server has closed.
    fn read(&mut self, into: &mut [u8], fds: &mut Vec<OwnedFd>) -> Option<()> {
        let mut got = 0;
        while got < into.len() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut into[got..])];
            let result =
                rustix::net::recvmsg(&self.socket, &mut parts, &mut control, RecvFlags::empty());
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(new) = message {
                    fds.extend(new);
                }
            }
            match result {
                Ok(m) if m.bytes > 0 => got += m.bytes,
                Ok(_) | Err(Errno::CONNRESET | Errno::PIPE) => return None,
                Err(e) => panic!("no reply: {e}"),
            }
        }
        Some(())
    }

    /// Reads the next reply: its header's id and command, and itself. `None`: the server closed.
    pub(super) fn next(&mut self) -> Option<((u16, u16), Reply)> {
        let mut head = [0; HEADER_BYTES];
        let mut fds = Vec::new();
        self.read(&mut head, &mut fds)?;
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap());
        let half = |at: usize| u16::from_le_bytes(head[at..at + 2].try_into().unwrap());
        assert_eq!(word(8) & 0x1f, 1, "a reply");
        let mut payload = vec![0; word(4) as usize - HEADER_BYTES];
        self.read(&mut payload, &mut fds)?;
        let reply = if word(8) & 0x20 != 0 {
            assert!(payload.is_empty() && fds.is_empty(), "an error is a header only");
            Err(Errno::from_raw_os_error(word(12) as i32))
        } else {
            assert_eq!(word(12), 0);
            Ok((payload, fds))
        };
        Some(((half(0), half(2)), reply))
    }

    pub(super) fn ask_with(
        &mut self,
        number: u16,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Reply {
        let header = self.tell(number, payload, fds)?;
        let (who, reply) = self.next().ok_or(Errno::CONNRESET)?;
        assert_eq!(who, (header.id, header.command));
        reply
    }

    pub(super) fn ask(&mut self, number: u16, payload: &[u8]) -> Reply {
        self.ask_with(number, payload, &[])
    }

    pub(super) fn region_read(&mut self, region: u32, at: u64, n: u32) -> Result<Vec<u8>, Errno> {
        let payload = fields![at, region, n];
        self.ask(command::REGION_READ, &payload).map(|(reply, _)| {
            assert_eq!(reply[..16], payload);
            reply[16..].to_vec()
        })
    }

    pub(super) fn register(&mut self, at: u64) -> u32 {
        u32::from_le_bytes(self.region_read(0, at, 4).unwrap().try_into().unwrap())
    }

    pub(super) fn region_write(&mut self, region: u32, at: u64, data: &[u8]) -> Result<(), Errno> {
        let mut payload = fields![at, region, data.len() as u32];
        payload.extend_from_slice(data);
        self.ask(command::REGION_WRITE, &payload).map(|(reply, _)| assert_eq!(reply.len(), 16))
    }

    pub(super) fn map(
        &mut self,
        address: u64,
        bytes: u64,
        offset: u64,
        fd: Option<&OwnedFd>,
    ) -> Result<(), Errno> {
        let payload = fields![32_u32, 3_u32, offset, address, bytes];
        let fds: Vec<_> = fd.iter().map(|fd| fd.as_fd()).collect();
        self.ask_with(command::DMA_MAP, &payload, &fds).map(|(reply, _)| assert!(reply.is_empty()))
    }

    pub(super) fn unmap(&mut self, address: u64, bytes: u64) -> Result<(), Errno> {
        let payload = fields![24_u32, 0_u32, address, bytes];
        self.ask(command::DMA_UNMAP, &payload).map(|(reply, _)| assert_eq!(reply, payload))
    }

    pub(super) fn irqs(
        &mut self,
        flags: u32,
        start: u32,
        count: u32,
        fds: &[&OwnedFd],
    ) -> Result<(), Errno> {
        let payload = fields![20_u32, flags, 2_u32, start, count];
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        self.ask_with(command::DEVICE_SET_IRQS, &payload, &fds).map(drop)
    }

    /// Whether the server has closed the connection (it says nothing more).
    pub(super) fn is_closed(&mut self) -> bool {
        self.next().is_none()
    }
}
