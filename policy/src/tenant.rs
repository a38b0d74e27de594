//! One tenant of a compiled policy.

use std::path::PathBuf;

use crate::grants::Grants;
use crate::rate::Rate;

/// Everything the policy says about one tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantPolicy {
    /// Its name: unique in the policy, lower-case letters, digits and inner hyphens, at most 63.
    pub name: Box<str>,
    /// How it reaches its device.
    pub attach: Attach,
    /// What it may do.
    pub grants: Grants,
    /// How its kernels run beside others'.
    pub isolation: Isolation,
    /// Its share of the device relative to others, 1 to 1000.
    pub weight: u32,
    /// Part of the GPU's multiprocessors its kernels may occupy, 1 to 100; CUDA, concurrent only.
    pub sm_percent: Option<u8>,
    /// How fast it may submit commands; `None`: as fast as it can.
    pub rate: Option<Rate>,
    /// What of it goes to the audit log.
    pub audit: AuditLevel,
    /// Size of its aperture (BAR2) in bytes, a power of two.
    pub aperture_bytes: u64,
    /// Whether a device reset brings the tenant back after its backend was lost. A revoked tenant
    /// stays revoked whatever this says.
    pub recover: bool,
}

/// How a tenant reaches its device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attach {
    /// A microVM that Turnstile runs itself.
    MicroVm(MicroVm),
    /// A process on the host.
    Process(Process),
    /// A virtual machine of another VMM, over vfio-user.
    VfioUser(VfioUser),
    /// A process on the host, over Cap'n Proto RPC.
    Rpc(Rpc),
}

impl Attach {
    /// The word for it in the document.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Attach::MicroVm(_) => "microvm",
            Attach::Process(_) => "process",
            Attach::VfioUser(_) => "vfio-user",
            Attach::Rpc(_) => "rpc",
        }
    }
}

/// A microVM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MicroVm {
    /// What it boots.
    pub guest: Guest,
    /// Its memory in bytes, a multiple of 4 KiB.
    pub memory_bytes: u64,
    /// Its vCPUs.
    pub vcpus: u32,
    /// Arguments for a payload or an ELF file; for Linux, words added to the command line.
    pub args: Vec<String>,
}

/// What a microVM boots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guest {
    /// A payload that is built into Turnstile, by name.
    Payload(Box<str>),
    /// A statically linked 64-bit ELF file.
    Elf(PathBuf),
    /// A Linux kernel, bzImage or vmlinux.
    Linux {
        /// The kernel.
        kernel: PathBuf,
        /// The initial RAM file system.
        initramfs: Option<PathBuf>,
        /// The command line.
        cmdline: String,
    },
}

/// A process tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// What Turnstile starts; `None`: it waits for a process of the user's own.
    pub program: Option<Program>,
    /// Arguments of the program.
    pub args: Vec<String>,
    /// The tenant's own socket; `None`: the one that all process tenants share.
    pub socket: Option<PathBuf>,
    /// User ids that may connect. With `groups` empty too, only the daemon's own user may.
    pub users: Vec<u32>,
    /// Group ids whose members may connect.
    pub groups: Vec<u32>,
}

/// What a process tenant runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// A workload built into Turnstile, by name.
    Payload(Box<str>),
    /// An executable file.
    File(PathBuf),
}

/// A vfio-user device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VfioUser {
    /// The socket the VMM connects to.
    pub socket: PathBuf,
    /// Permission bits of the socket.
    pub mode: u32,
    /// Group id the socket is given to; `None`: the daemon's.
    pub group: Option<u32>,
    /// User ids that may connect; empty: whoever the socket's permissions let through.
    pub users: Vec<u32>,
}

/// A client of the capability RPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rpc {
    /// The socket the client connects to; `.map` is added for the one that hands out memory.
    pub socket: PathBuf,
    /// Permission bits of both sockets.
    pub mode: u32,
    /// Group id both sockets are given to; `None`: the daemon's.
    pub group: Option<u32>,
    /// User ids that may connect; empty: whoever the socket's permissions let through.
    pub users: Vec<u32>,
}

/// How a tenant's kernels run beside others' on a real GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Isolation {
    /// At the same time. Needs programs that cannot fault.
    Concurrent,
    /// In turns, in a context of the tenant's own.
    Exclusive,
}

/// What of a tenant goes to the audit log. Life and death of tenants and sessions always do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AuditLevel {
    /// Nothing more.
    None,
    /// Every refused command.
    Denied,
    /// Every command.
    All,
}
