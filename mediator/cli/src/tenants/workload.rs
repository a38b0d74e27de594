//! The built-in workloads in a process of their own: the child's side of a process tenant.

use std::fmt;

use turnstile_backend_api::SharedRegion;
use turnstile_process::socket::Address;
use turnstile_process::{ClientError, ProcessTransport};
use turnstile_workloads::{Env, GuestPages, Workload};

/// Where the child's pages for DMA lie in the address space it registers them under.
const PAGES_GPA: u64 = 0x1000_0000;
/// How many bytes of them there are.
const PAGES_BYTES: u64 = 8 << 20;

/// Why a workload could not run.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// There is none of that name.
    #[error("no workload is called {name}; there are: {known}")]
    Unknown {
        /// Name asked for.
        name: String,
        /// Names there are.
        known: String,
    },
    /// An argument nobody reads is a mistake.
    #[error("{argument}: {workload} understands {known}, each as key=value")]
    Argument {
        /// The argument.
        argument: String,
        /// The workload.
        workload: &'static str,
        /// What it understands.
        known: String,
    },
    /// The daemon cannot be reached or refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// No memory for DMA.
    #[error("pages for DMA: {0}")]
    Memory(#[from] turnstile_backend_api::MemoryError),
}

struct ProcessEnv<'t> {
    transport: &'t ProcessTransport,
    args: Vec<String>,
    pages: SharedRegion,
}

impl Env for ProcessEnv<'_> {
    type Memory = SharedRegion;

    fn print(&self, line: fmt::Arguments<'_>) {
        println!("{line}");
    }
    fn arg(&self, key: &str) -> Option<&str> {
        self.args.iter().find_map(|arg| arg.split_once('=').filter(|(k, _)| *k == key).map(|a| a.1))
    }
    fn pages(&self) -> Option<GuestPages<'_, SharedRegion>> {
        Some(GuestPages { memory: &self.pages, gpa: PAGES_GPA })
    }
    fn alongside(&self, other: &(dyn Fn() + Sync), body: &mut dyn FnMut()) -> bool {
        std::thread::scope(|scope| {
            scope.spawn(other);
            body();
        });
        true
    }
    fn mmio_read(&self, at: u64, bytes: u8) -> Option<u64> {
        Some(self.transport.read(at, bytes))
    }
    fn mmio_write(&self, at: u64, bytes: u8, value: u64) -> bool {
        self.transport.write(at, bytes, value);
        true
    }
}

/// Finds a workload.
///
/// # Errors
/// With the names there are.
pub fn find(name: &str) -> Result<Workload, WorkloadError> {
    Workload::from_name(name).ok_or_else(|| {
        let known: Vec<&str> = Workload::ALL.iter().map(|w| w.name()).collect();
        WorkloadError::Unknown { name: name.into(), known: known.join(", ") }
    })
}

/// Checks a workload's arguments.
///
/// # Errors
/// With the first one that it does not understand.
pub fn check(workload: Workload, args: &[String]) -> Result<(), WorkloadError> {
    let known =
        |arg: &&String| arg.split_once('=').is_some_and(|(key, _)| workload.keys().contains(&key));
    match args.iter().find(|arg| !known(arg)) {
        None => Ok(()),
        Some(argument) => Err(WorkloadError::Argument {
            argument: argument.clone(),
            workload: workload.name(),
            known: workload.keys().join(", "),
        }),
    }
}

/// Connects as a tenant and runs a workload to its end. `true`: it passed.
///
/// # Errors
/// When it could not even begin.
pub fn run(
    socket: &str,
    tenant: &str,
    workload: &str,
    args: Vec<String>,
) -> Result<bool, WorkloadError> {
    let workload = find(workload)?;
    check(workload, &args)?;
    let transport = ProcessTransport::connect(&Address::parse(socket), tenant)?;
    let pages = SharedRegion::create("turnstile-pages", PAGES_BYTES)?;
    transport.add_memory(PAGES_GPA, pages.fd(), 0, PAGES_BYTES)?;
    let env = ProcessEnv { transport: &transport, args, pages };
    Ok(turnstile_workloads::run(workload, &transport, &env))
}
