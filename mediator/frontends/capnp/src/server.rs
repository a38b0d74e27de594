//! One client, from its connection to its end.

use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;

use capnp::message::ReaderOptions;
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{RpcSystem, twoparty};
use tokio_util::compat::{TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt};
use turnstile_driver::DeviceManager;
use turnstile_process::{Peer, ProcessTransport};

use crate::Device;
use crate::device::{DeviceServer, Vat};
use crate::gate::{Counted, Gate, Gated, Limits};
use crate::mapping::{self, Tokens};
use crate::turnstile_capnp::gpu_device_manager;

/// Why a client is not served, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The device does not work.
    #[error("the device: {0}")]
    Device(#[from] turnstile_driver::Error),
    /// The system does not give what it takes.
    #[error("{0}; raise the limits on open files and memory")]
    System(#[from] std::io::Error),
    /// The client broke the protocol or a bound.
    #[error("the client: {0}")]
    Client(capnp::Error),
}

/// A client and what it needs.
#[derive(Debug)]
pub struct Client {
    /// Its connection.
    pub stream: UnixStream,
    /// Where it fetches the descriptors of mappings; shared with nobody while it is served.
    pub maps: UnixListener,
    /// The path of that socket, told to the client.
    pub maps_path: String,
}

/// Serves one client on the tenant's device until it goes, on this thread.
///
/// The driver's end of the device is never freed, since objects of the client live as long as it: call
/// this once in a process, which then ends.
///
/// # Errors
/// When the device cannot be started, descriptors run out, or the client broke the protocol.
pub fn serve(
    client: Client,
    transport: ProcessTransport,
    limits: Limits,
) -> Result<(), ServeError> {
    use std::os::fd::AsFd;
    let device: Device = Box::leak(Box::new(DeviceManager::start(transport)?));
    let uid = Peer::of(client.stream.as_fd())?.uid;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let tokens = Rc::new(Tokens::new(limits.tokens));
    let vat = Rc::new(Vat::new(device, tokens.clone(), client.maps_path)?);
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        client.stream.set_nonblocking(true)?;
        client.maps.set_nonblocking(true)?;
        let stream = tokio::net::UnixStream::from_std(client.stream)?;
        let maps = tokio::net::UnixListener::from_std(client.maps)?;
        tokio::task::spawn_local(mapping::serve(maps, tokens, device, uid));
        let gate = Gate::new(limits);
        let (reader, writer) = stream.into_split();
        let reader = Counted { inner: reader.compat(), gate: gate.clone() };
        let writer = Counted { inner: writer.compat_write(), gate: gate.clone() };
        let mut options = ReaderOptions::new();
        options.traversal_limit_in_words(Some(limits.message_bytes / 8));
        let network = twoparty::VatNetwork::new(reader, writer, Side::Server, options);
        let manager: gpu_device_manager::Client = capnp_rpc::new_client(DeviceServer(vat));
        let network = Box::new(Gated { inner: network, gate });
        RpcSystem::new(network, Some(manager.client)).await.map_err(ServeError::Client)
    })
}
