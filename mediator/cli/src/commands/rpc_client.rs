//! `turnstile rpc-client`: the process that serves one RPC client. Hidden: `serve` starts it.

use std::path::PathBuf;

use clap::Args;

use super::failure::Failure;
use crate::tenants::rpc;

/// Serve one RPC client of a running turnstile
#[derive(Args)]
pub(super) struct RpcClient {
    /// Socket of the daemon
    #[arg(long)]
    socket: PathBuf,
    /// Which tenant to be
    #[arg(long)]
    name: String,
    /// Path of the socket that hands out descriptors
    #[arg(long)]
    maps: String,
}

impl RpcClient {
    pub(super) fn run(self) -> Result<(), Failure> {
        let RpcClient { socket, name, maps } = self;
        rpc::serve_client(socket, &name, maps).map_err(|e| {
            Failure::input(e.to_string(), "this subcommand is for children of `turnstile serve`")
        })
    }
}
