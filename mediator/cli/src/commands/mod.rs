//! The command line: what can be asked, how answers and errors are printed, exit codes.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod audit;
mod bench;
mod device;
mod failure;
mod machine;
mod manual;
mod operator;
mod policy;
mod ptx;
mod rig;
mod rpc_client;
mod run;
mod serve;
mod table;
mod tenant;
mod top;

pub use failure::{Failure, Kind};
pub(crate) use machine::peak_rss_bytes;

/// Exit codes, for the help.
const EXIT_CODES: &str = "\
Exit codes:
  0    it worked, and everything checked is as it should be
  1    it ran and something is not as it should be: a tenant's own check failed, a log is broken,
       a program, a policy or a device was refused
  2    the command line is wrong, or a file cannot be read or written
  3    this machine cannot do it (no usable /dev/kvm, no GPU); the message says what would help
  130  stopped by SIGINT or SIGTERM before it was done; everything was given back";

/// Lets tenants that do not trust each other share one GPU.
///
/// Turnstile owns the GPU, shows each tenant a mediated device, and lets through only what that
/// tenant's policy allows. Nothing here needs a GPU: the default device of the examples is emulated.
///
/// First steps:
///   turnstile policy check policy/examples/two-tenants.json
///   turnstile run policy/examples/two-tenants.json
///   turnstile run policy/examples/hostile.json --audit /tmp/audit.jsonl
///   turnstile audit verify /tmp/audit.jsonl
#[derive(Parser)]
#[command(version, verbatim_doc_comment, after_help = EXIT_CODES, max_term_width = 100)]
struct Cli {
    /// What to log on stderr: error, warn, info, debug, or module=level pairs
    #[arg(
        long,
        global = true,
        env = "TURNSTILE_LOG",
        default_value = "warn",
        value_name = "FILTER"
    )]
    log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Run),
    Serve(serve::Serve),
    #[command(subcommand)]
    Policy(policy::Policy),
    #[command(subcommand)]
    Audit(audit::Audit),
    #[command(subcommand)]
    Ptx(ptx::Ptx),
    #[command(subcommand)]
    Device(device::Device),
    Bench(bench::Bench),
    Tenants(operator::Tenants),
    Top(top::Top),
    Stats(operator::ShowStats),
    Pause(operator::Pause),
    Resume(operator::Resume),
    Revoke(operator::Revoke),
    Kill(operator::Kill),
    Reload(operator::Reload),
    Completions(manual::Completions),
    #[command(hide = true)]
    Man(manual::Man),
    #[command(hide = true)]
    Tenant(tenant::Tenant),
    #[command(hide = true)]
    RpcClient(rpc_client::RpcClient),
    CudaWorker(CudaWorker),
    #[command(hide = true)]
    CudaNative(CudaNative),
}

/// Serve one session on an NVIDIA GPU, for the daemon on standard input
#[derive(clap::Args)]
struct CudaWorker {
    /// Ordinal of the GPU
    device: u32,
}

/// Measure the GPU without a mediator, for `turnstile bench --backend cuda`
#[derive(clap::Args)]
struct CudaNative {
    /// Ordinal of the GPU
    device: u32,
    /// loop, async or copies
    what: String,
    /// How long, in milliseconds
    #[arg(default_value_t = 0)]
    milliseconds: u64,
}

impl CudaNative {
    fn run(self) -> Result<(), Failure> {
        use turnstile_cuda::native::{What, main};
        let what = match self.what.as_str() {
            "loop" => What::Loop(std::time::Duration::from_millis(self.milliseconds)),
            "async" => What::Async,
            _ => What::Copies(&bench::cuda::SIZES),
        };
        main(self.device, what).map_err(|why| Failure::machine(why, ""))
    }
}

/// Runs the command line and says how it went.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(failure) = start_log(&cli.log) {
        return failure.report();
    }
    let result = match cli.command {
        Command::Run(command) => command.run(),
        Command::Serve(command) => command.run(),
        Command::Ptx(command) => command.run(),
        Command::Device(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Tenants(command) => command.run(),
        Command::Top(command) => command.run(),
        Command::Stats(command) => command.run(),
        Command::Pause(command) => command.run(),
        Command::Resume(command) => command.run(),
        Command::Revoke(command) => command.run(),
        Command::Kill(command) => command.run(),
        Command::Reload(command) => command.run(),
        Command::Completions(command) => command.run(),
        Command::Man(command) => command.run(),
        Command::Tenant(command) => command.run(),
        Command::RpcClient(command) => command.run(),
        Command::CudaNative(native) => native.run(),
        Command::CudaWorker(worker) => return turnstile_cuda::worker::main(worker.device),
        Command::Policy(command) => command.run(),
        Command::Audit(command) => command.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn start_log(filter: &str) -> Result<(), Failure> {
    let filter = tracing_subscriber::EnvFilter::builder().parse(filter).map_err(|e| {
        Failure::input(format!("--log {filter}: {e}"), "write a level, such as info")
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    Ok(())
}
