//! `turnstile tenant`: what a child that is a tenant runs. Hidden: `run` and `serve` start it.

use clap::Args;

use super::failure::Failure;
use crate::tenants::workload;

/// Run a built-in workload as a tenant of a running turnstile
#[derive(Args)]
pub(super) struct Tenant {
    /// Socket of the daemon
    #[arg(long)]
    socket: String,
    /// Which tenant to be
    #[arg(long)]
    name: String,
    /// Workload to run
    #[arg(long)]
    workload: String,
    /// Arguments of the workload, key=value
    args: Vec<String>,
}

impl Tenant {
    pub(super) fn run(self) -> Result<(), Failure> {
        // When the daemon dies, its tenants must not linger.
        let kill = Some(rustix::process::Signal::KILL);
        let _ = rustix::process::set_parent_process_death_signal(kill);
        let Tenant { socket, name, workload, args } = self;
        match workload::run(&socket, &name, &workload, args) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Failure::said()),
            Err(e) => Err(Failure::input(
                e.to_string(),
                "this subcommand is for children of `turnstile run`",
            )),
        }
    }
}
