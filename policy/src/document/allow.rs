//! The document's `grants`.

use turnstile_abi::regs;

use super::decode::{Set, record, words};
use super::quantity::{Count, Size, Span};
use super::text::Sha256;
use crate::grants::Grants as Compiled;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const US: u64 = 1_000;
const SECOND: u64 = 1_000_000_000;
const HOUR: u64 = 3600 * SECOND;
/// The largest amount of memory a policy can speak of.
const MOST: u64 = 1 << 50;
/// Work queues a device has beside the admin queue.
const QUEUES: u64 = regs::MAX_QUEUES as u64 - 1;
const DEPTH: u64 = regs::MAX_DEPTH as u64;

record! {
    /// What a tenant may do. A grant that is left out is denied.
    struct Grants("an object", "{ \"copy\": true }") {
        /// Sessions open at once.
        default sessions: Count<1, 64> = Count(Compiled::DEFAULT_SESSIONS as u64);
        /// Handles of all kinds at once, derived ones included.
        default max_handles: Count<16, 16_777_215> = Count(Compiled::DEFAULT_HANDLES as u64);
        /// Buffers: `buffer_create`, `buffer_destroy`, `buffer_map`, `buffer_unmap`.
        optional buffer: Buffer;
        /// Registration of the tenant's own memory for DMA: `dma_register`, `dma_unregister`.
        optional dma: Dma;
        /// Programs: `program_load`, `program_unload`, `function_get`, `function_release`.
        optional program: Program;
        /// Kernel launches: `launch`. Needs `program` and `queue`.
        optional launch: Launch;
        /// Work queues: `queue_create`, `queue_destroy`.
        optional queue: Queue;
        /// Copies between buffers and registered memory: `copy`. Needs `queue`.
        default copy: bool = false;
        /// Fills: `fill`. Needs `queue`.
        default fill: bool = false;
        /// Timeline fences: `fence_create`, `fence_destroy`, `fence_signal`, `fence_wait`.
        optional fence: Fence;
        /// Derivation of weaker capabilities: `derive`.
        default derive: bool = false;
    }
}

record! {
    /// Buffers.
    struct Buffer("an object", "{ \"max_bytes\": \"64MiB\", \"usage\": [\"device\"] }") {
        /// Bytes of all buffers together.
        required max_bytes: Size<1, { MOST }>;
        /// Buffers at once.
        default max_count: Count<1, 1_048_576> = Count(64);
        /// Where buffers may live.
        required usage: Set<Usage>;
    }
}

words! {
    /// Where a buffer lives.
    enum Usage("a usage", "\"device\"") {
        /// In the GPU's memory.
        Device = "device",
        /// In the aperture, where the tenant can read and write it directly.
        Host = "host",
    }
}

record! {
    /// Registration of the tenant's own memory for DMA. Nothing else is ever mapped for DMA.
    struct Dma("an object", "{ \"max_bytes\": \"64MiB\", \"access\": [\"read\", \"write\"] }") {
        /// Bytes registered at once. A page that is registered twice counts twice.
        required max_bytes: Size<4096, { MOST }>;
        /// Regions at once.
        default max_regions: Count<1, 65_536> = Count(64);
        /// What the device may do with the memory.
        required access: Set<Access>;
    }
}

words! {
    /// What the device may do with registered memory.
    enum Access("an access", "\"read\"") {
        /// Read it.
        Read = "read",
        /// Write it.
        Write = "write",
    }
}

record! {
    /// Programs.
    struct Program("an object", "{ \"formats\": [\"ptx\"], \"max_bytes\": \"4MiB\" }") {
        /// What may be loaded.
        required formats: Set<Format>;
        /// What is done to PTX before it is loaded.
        default guard: Guard = Guard::Fence;
        /// Bytes of all loaded images together, so also of the largest one.
        required max_bytes: Size<1, { 1 << 30 }>;
        /// Programs loaded at once.
        default max_count: Count<1, 65_536> = Count(16);
        /// Functions held at once.
        default max_functions: Count<1, 1_048_576> = Count(1024);
        /// SHA-256 of each machine-code image that may be loaded. Needs the format `image`.
        optional images: Set<Sha256>;
    }
}

words! {
    /// What a program image is.
    enum Format("a format", "\"ptx\"") {
        /// PTX text, which is checked and guarded.
        Ptx = "ptx",
        /// Machine code, which cannot be: only images that `images` lists.
        Image = "image",
    }
}

words! {
    /// What is done to PTX before it is loaded.
    enum Guard("a guard", "\"fence\"") {
        /// Nothing: only where the tenant has an address space of its own.
        None = "none",
        /// Every access is checked; the first violation is recorded and ends the thread.
        Check = "check",
        /// Every access is forced into the tenant's arena; the program cannot fault.
        Fence = "fence",
    }
}

record! {
    /// Kernel launches.
    struct Launch("an object", "{ \"max_blocks\": 65535, \"timeout\": \"2s\" }") {
        /// Threads of a block, all dimensions multiplied.
        default max_threads_per_block: Count<1, 1024> = Count(1024);
        /// Blocks of a grid, all dimensions multiplied.
        required max_blocks: Count<1, 9_007_199_254_740_991>;
        /// Dynamic shared memory of a block.
        default max_shared: Size<0, { MIB }> = Size(48 * KIB);
        /// Run time after which a launch is ended.
        required timeout: Span<{ US }, { HOUR }>;
        /// Whether a launch may ask for all its blocks to be resident at once.
        default cooperative: bool = false;
        /// Whether device addresses may appear in parameters other than by naming a buffer. They are
        /// confined to the tenant's own address space either way.
        default raw_addresses: bool = false;
    }
}

record! {
    /// Work queues.
    struct Queue("an object", "{ \"max_count\": 1 }") {
        /// Queues at once.
        default max_count: Count<1, { QUEUES }> = Count(1);
        /// Descriptors of a ring, a power of two.
        default max_depth: Count<1, { DEPTH }> = Count(256);
        /// Commands of all work queues together that may be in flight.
        default max_in_flight: Count<1, { QUEUES * DEPTH }> = Count(64);
    }
}

record! {
    /// Timeline fences.
    struct Fence("an object", "{ \"max_count\": 16 }") {
        /// Fences at once.
        default max_count: Count<1, 65_536> = Count(64);
        /// Longest wait. A longer one is cut to this.
        default max_wait: Span<{ US }, { HOUR }> = Span(10 * SECOND);
    }
}
