//! What a tenant may do and how much of it: one field per grant of the operation table.

use turnstile_abi::Grant;
use turnstile_abi::request::{Access, Format, Usage};

/// A tenant's grants. `None` and `false` deny; [`Grants::default`] denies everything but the
/// operations that need no grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grants {
    /// Sessions open at once.
    pub sessions: u32,
    /// Live handles of all kinds, derived ones included.
    pub max_handles: u32,
    /// Buffers.
    pub buffer: Option<BufferGrant>,
    /// Registration of the tenant's own memory for DMA.
    pub dma: Option<DmaGrant>,
    /// Programs.
    pub program: Option<ProgramGrant>,
    /// Kernel launches.
    pub launch: Option<LaunchGrant>,
    /// Work queues. Without them only the admin queue exists.
    pub queue: Option<QueueGrant>,
    /// Copies.
    pub copy: bool,
    /// Fills.
    pub fill: bool,
    /// Timeline fences.
    pub fence: Option<FenceGrant>,
    /// Derivation of weaker capabilities.
    pub derive: bool,
}

impl Default for Grants {
    fn default() -> Grants {
        Grants {
            sessions: Grants::DEFAULT_SESSIONS,
            max_handles: Grants::DEFAULT_HANDLES,
            buffer: None,
            dma: None,
            program: None,
            launch: None,
            queue: None,
            copy: false,
            fill: false,
            fence: None,
            derive: false,
        }
    }
}

/// `grants.buffer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferGrant {
    /// Bytes in all buffers together.
    pub max_bytes: u64,
    /// Buffers at once.
    pub max_count: u32,
    /// Whether buffers in device memory may be created.
    pub device: bool,
    /// Whether host-visible buffers in the aperture may be created.
    pub host: bool,
}

impl BufferGrant {
    /// Whether a buffer of this kind may be created.
    #[must_use]
    pub const fn allows(&self, usage: Usage) -> bool {
        match usage {
            Usage::Device => self.device,
            Usage::Host => self.host,
        }
    }
}

/// `grants.dma`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaGrant {
    /// Bytes registered at once. Registering a page twice counts twice.
    pub max_bytes: u64,
    /// Regions at once.
    pub max_regions: u32,
    /// Whether the device may read registered memory.
    pub read: bool,
    /// Whether the device may write registered memory.
    pub write: bool,
}

impl DmaGrant {
    /// Whether a region with this access may be registered.
    #[must_use]
    pub const fn allows(&self, access: Access) -> bool {
        match access {
            Access::Read => self.read,
            Access::Write => self.write,
            Access::ReadWrite => self.read && self.write,
        }
    }
}

/// How PTX is made safe before it is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Guard {
    /// Not at all: only where the tenant has an address space of its own.
    None,
    /// Every access is checked; the first violation is recorded and ends the thread.
    Check,
    /// Every access is forced into the tenant's arena; the program cannot fault.
    Fence,
}

/// `grants.program`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramGrant {
    /// Whether PTX may be loaded.
    pub ptx: bool,
    /// What is done to PTX before it is loaded.
    pub guard: Guard,
    /// Bytes of all loaded images together, so also of the largest one.
    pub max_bytes: u64,
    /// Programs loaded at once.
    pub max_count: u32,
    /// Functions held at once.
    pub max_functions: u32,
    /// SHA-256 of the machine-code images that may be loaded, sorted. Empty: none.
    pub images: Vec<[u8; 32]>,
}

impl ProgramGrant {
    /// Whether an image of this format may be loaded. For machine code each image must also be
    /// listed: see [`crate::authorize_image`].
    #[must_use]
    pub const fn allows(&self, format: Format) -> bool {
        match format {
            Format::Ptx => self.ptx,
            Format::Image => !self.images.is_empty(),
        }
    }

    /// Whether the policy lists an image with this SHA-256.
    #[must_use]
    pub fn lists(&self, sha256: &[u8; 32]) -> bool {
        self.images.binary_search(sha256).is_ok()
    }
}

/// `grants.launch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchGrant {
    /// Threads in a block: x * y * z.
    pub max_threads_per_block: u32,
    /// Blocks in a grid: x * y * z.
    pub max_blocks: u64,
    /// Dynamic shared memory of a block, in bytes.
    pub max_shared_bytes: u32,
    /// Run time after which a launch is ended, in nanoseconds.
    pub timeout_ns: u64,
    /// Whether all blocks may be asked to be resident at once.
    pub cooperative: bool,
    /// Whether device addresses may appear in parameters other than through relocations.
    pub raw_addresses: bool,
}

/// `grants.queue`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueGrant {
    /// Work queues at once.
    pub max_count: u32,
    /// Descriptors in a ring, a power of two.
    pub max_depth: u32,
    /// Commands of all work queues together that may be fetched and not yet complete.
    pub max_in_flight: u32,
}

/// `grants.fence`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FenceGrant {
    /// Fences at once.
    pub max_count: u32,
    /// Longest wait in nanoseconds. A longer one is cut to this, not refused.
    pub max_wait_ns: u64,
}

impl Grants {
    /// Sessions a tenant may open when its policy does not say.
    pub const DEFAULT_SESSIONS: u32 = 1;
    /// Handles a tenant may hold when its policy does not say.
    pub const DEFAULT_HANDLES: u32 = 4096;

    /// Whether the policy grants this at all.
    #[must_use]
    pub const fn has(&self, grant: Grant) -> bool {
        match grant {
            Grant::Always => true,
            Grant::Buffer => self.buffer.is_some(),
            Grant::Dma => self.dma.is_some(),
            Grant::Program => self.program.is_some(),
            Grant::Launch => self.launch.is_some(),
            Grant::Queue => self.queue.is_some(),
            Grant::Copy => self.copy,
            Grant::Fill => self.fill,
            Grant::Fence => self.fence.is_some(),
            Grant::Derive => self.derive,
        }
    }

    /// The run time to give a launch, in nanoseconds; 0 without a launch grant.
    #[must_use]
    pub fn launch_timeout_ns(&self) -> u64 {
        self.launch.map_or(0, |launch| launch.timeout_ns)
    }

    /// The longest wait to give a `FenceWait` that asked for `asked_ns`, in nanoseconds; 0 without a
    /// fence grant.
    #[must_use]
    pub fn wait_timeout_ns(&self, asked_ns: u64) -> u64 {
        self.fence.map_or(0, |fence| fence.max_wait_ns.min(asked_ns))
    }
}

/// Where a grant stands in the document.
pub(crate) const fn path_of(grant: Grant) -> &'static str {
    match grant {
        Grant::Always => "grants",
        Grant::Buffer => "grants.buffer",
        Grant::Dma => "grants.dma",
        Grant::Program => "grants.program",
        Grant::Launch => "grants.launch",
        Grant::Queue => "grants.queue",
        Grant::Copy => "grants.copy",
        Grant::Fill => "grants.fill",
        Grant::Fence => "grants.fence",
        Grant::Derive => "grants.derive",
    }
}
