//! The client's side, for Rust: connecting, and the memory of a mapped buffer.

use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{RpcSystem, twoparty};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use tokio_util::compat::{TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt};
use turnstile_abi::memory::{OutOfBounds, SharedMemory, check};
use turnstile_backend_api::{MemoryError, SharedRegion};

use crate::turnstile_capnp::{gpu_device_manager, memory_region};

/// How long the daemon may take to hand out a descriptor.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connects to a tenant's socket. Must be called on a tokio `LocalSet`, on which the connection is
/// then driven; it ends when the returned capability and everything that came from it is dropped.
///
/// # Errors
/// When nobody listens there, or this user may not connect.
pub async fn connect(socket: &Path) -> io::Result<gpu_device_manager::Client> {
    let stream = tokio::net::UnixStream::connect(socket).await?;
    let (reader, writer) = stream.into_split();
    let network = twoparty::VatNetwork::new(
        reader.compat(),
        writer.compat_write(),
        Side::Client,
        capnp::message::ReaderOptions::new(),
    );
    let mut system = RpcSystem::new(Box::new(network), None);
    let manager = system.bootstrap(Side::Server);
    tokio::task::spawn_local(system);
    Ok(manager)
}

/// Why a mapping cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// The answer to `map` is not what it should be.
    #[error("the answer to map: {0}")]
    Answer(#[from] capnp::Error),
    /// The socket failed.
    #[error("the socket for mappings: {0}")]
    Socket(#[from] io::Error),
    /// No descriptor came: the token was used before, is too old, or another user's.
    #[error("no descriptor for this token; call map again")]
    Refused,
    /// The memory cannot be mapped.
    #[error("{0}")]
    Memory(#[from] MemoryError),
    /// An access that does not lie in the buffer.
    #[error("bytes {offset}..+{bytes} do not all lie in the buffer")]
    Outside {
        /// First byte.
        offset: u64,
        /// How many.
        bytes: u64,
    },
}

impl From<OutOfBounds> for MapError {
    fn from(e: OutOfBounds) -> MapError {
        MapError::Outside { offset: e.offset, bytes: e.bytes }
    }
}

/// A buffer's bytes, shared with the GPU, which may change them at any time.
#[derive(Debug)]
pub struct Mapped {
    memory: SharedRegion,
    start: u64,
    bytes: u64,
}

/// Bytes of a page.
const PAGE: u64 = 4096;

impl Mapped {
    /// Fetches what `GpuBuffer.map` answered with, and maps it. Blocks.
    ///
    /// # Errors
    /// When the daemon hands out no descriptor, or the memory cannot be mapped.
    pub fn fetch(region: memory_region::Reader<'_>) -> Result<Mapped, MapError> {
        let socket = region.get_socket()?.to_str().map_err(capnp::Error::from)?;
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(region.get_token()?)?;
        let fd = receive(&stream)?.ok_or(MapError::Refused)?;
        let (offset, bytes) = (region.get_offset(), region.get_bytes());
        let start = offset % PAGE;
        let memory = SharedRegion::map(fd, offset - start, start + bytes)?;
        Ok(Mapped { memory, start, bytes })
    }

    /// Length in bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Copies bytes out.
    ///
    /// # Errors
    /// When they are not all in the buffer.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), MapError> {
        check(self.bytes, offset, into.len() as u64)?;
        Ok(self.memory.read(self.start + offset, into)?)
    }

    /// Copies bytes in.
    ///
    /// # Errors
    /// When they do not all fit into the buffer.
    pub fn write(&self, offset: u64, from: &[u8]) -> Result<(), MapError> {
        check(self.bytes, offset, from.len() as u64)?;
        Ok(self.memory.write(self.start + offset, from)?)
    }
}

/// One byte with one descriptor.
fn receive(stream: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    }))
}
