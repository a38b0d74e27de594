//! The decision: what a tenant's grants say about one decoded command.
//!
//! Everything that can be decided without the object tables is decided here, in a few nanoseconds
//! and without an allocation. Amounts are also charged to the tenant's [`crate::Ledger`] by the
//! core, because only it knows when an object comes and goes.

use turnstile_abi::launch::LaunchFlags;
use turnstile_abi::request::{Access, Format, Usage};
use turnstile_abi::{Grant, Request, op, regs};

use crate::denial::Denial;
use crate::grants::{
    BufferGrant, DmaGrant, Grants, LaunchGrant, ProgramGrant, QueueGrant, path_of,
};
use crate::tenant::TenantPolicy;

/// Something the policy allowed. Only [`authorize`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authorized<T>(T);

impl<T> Authorized<T> {
    /// What was allowed.
    #[must_use]
    pub const fn get(&self) -> &T {
        &self.0
    }
    /// What was allowed, to act on.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.0
    }
}

/// Decides whether `tenant` may do `request`: the operation is granted, and its sizes, usage,
/// access, format and launch shape lie within the grant.
///
/// # Errors
/// The refusal, with the limit that stands in the way. Deny is the default: an operation whose grant
/// is absent is refused before anything else is looked at.
#[inline]
pub fn authorize(tenant: &TenantPolicy, request: Request) -> Result<Authorized<Request>, Denial> {
    let grants = &tenant.grants;
    let info = request.opcode().info();
    if !grants.has(info.grant) {
        return Err(Denial::not_granted(path_of(info.grant), info.name));
    }
    check(grants, &request)?;
    Ok(Authorized(request))
}

/// Decides whether a tenant may load the machine-code image with this SHA-256, which the core took
/// of its own copy of the image.
///
/// # Errors
/// The refusal when the policy grants no programs or does not list the image.
pub fn authorize_image(tenant: &TenantPolicy, sha256: &[u8; 32]) -> Result<(), Denial> {
    match &tenant.grants.program {
        None => {
            Err(Denial::not_granted(path_of(Grant::Program), op::program_load::Args::INFO.name))
        }
        Some(program) if program.lists(sha256) => Ok(()),
        Some(_) => Err(Denial::not_listed(
            "image_not_listed",
            "grants.program.images",
            "a machine-code image with this SHA-256",
        )),
    }
}

/// The arguments against the grant. A grant that is absent here was refused before; each arm still
/// refuses, so that a mistake in the table of operations cannot open anything.
#[inline]
fn check(grants: &Grants, request: &Request) -> Result<(), Denial> {
    match request {
        Request::BufferCreate(args) => match &grants.buffer {
            Some(grant) => buffer(grant, args.usage, args.bytes),
            None => Err(missing(Grant::Buffer)),
        },
        Request::DmaRegister(args) => match &grants.dma {
            Some(grant) => dma(grant, args.access, args.extents),
            None => Err(missing(Grant::Dma)),
        },
        Request::ProgramLoad(args) => match &grants.program {
            Some(grant) => program(grant, args.format, args.bytes),
            None => Err(missing(Grant::Program)),
        },
        Request::QueueCreate(args) => match &grants.queue {
            Some(grant) => queue(grant, args.depth),
            None => Err(missing(Grant::Queue)),
        },
        Request::Launch(args) => match &grants.launch {
            Some(grant) => launch(grant, args),
            None => Err(missing(Grant::Launch)),
        },
        // Nothing to weigh: presence of the grant was enough, the rest is the object tables' part.
        Request::Identify(_)
        | Request::SessionOpen(_)
        | Request::SessionClose(_)
        | Request::BufferDestroy(_)
        | Request::BufferMap(_)
        | Request::BufferUnmap(_)
        | Request::DmaUnregister(_)
        | Request::ProgramUnload(_)
        | Request::FunctionGet(_)
        | Request::FunctionRelease(_)
        | Request::QueueDestroy(_)
        | Request::FenceCreate(_)
        | Request::FenceDestroy(_)
        | Request::Derive(_)
        | Request::Nop(_)
        | Request::Copy(_)
        | Request::Fill(_)
        | Request::FenceSignal(_)
        | Request::FenceWait(_)
        | Request::Timestamp(_) => Ok(()),
    }
}

#[cold]
const fn missing(grant: Grant) -> Denial {
    Denial::not_granted(path_of(grant), "this operation")
}

fn buffer(grant: &BufferGrant, usage: Usage, bytes: u64) -> Result<(), Denial> {
    if !grant.allows(usage) {
        let what = match usage {
            Usage::Device => "a buffer in device memory",
            Usage::Host => "a host-visible buffer",
        };
        return Err(Denial::not_listed("usage_not_granted", "grants.buffer.usage", what));
    }
    if bytes > grant.max_bytes {
        return Err(Denial::quota(
            "buffer_bytes",
            "grants.buffer.max_bytes",
            "bytes of buffers",
            grant.max_bytes,
            0,
            bytes,
        ));
    }
    Ok(())
}

fn dma(grant: &DmaGrant, access: Access, extents: u64) -> Result<(), Denial> {
    if !grant.allows(access) {
        let what = match access {
            Access::Read => "DMA that reads guest memory",
            Access::Write => "DMA that writes guest memory",
            Access::ReadWrite => "DMA that reads and writes guest memory",
        };
        return Err(Denial::not_listed("access_not_granted", "grants.dma.access", what));
    }
    // An extent is at least a page, so a list this long cannot fit whatever it says.
    let least = extents.saturating_mul(regs::PAGE);
    if least > grant.max_bytes {
        return Err(Denial::quota(
            "dma_bytes",
            "grants.dma.max_bytes",
            "bytes of registered memory",
            grant.max_bytes,
            0,
            least,
        ));
    }
    Ok(())
}

fn program(grant: &ProgramGrant, format: Format, bytes: u64) -> Result<(), Denial> {
    if !grant.allows(format) {
        let what = match format {
            Format::Ptx => "a PTX program",
            Format::Image => "a machine-code image",
        };
        return Err(Denial::not_listed("format_not_granted", "grants.program.formats", what));
    }
    if bytes > grant.max_bytes {
        return Err(Denial::quota(
            "program_bytes",
            "grants.program.max_bytes",
            "bytes of program images",
            grant.max_bytes,
            0,
            bytes,
        ));
    }
    Ok(())
}

fn queue(grant: &QueueGrant, depth: u64) -> Result<(), Denial> {
    if depth > u64::from(grant.max_depth) {
        return Err(Denial::over(
            "queue_depth",
            "grants.queue.max_depth",
            "descriptors in a ring",
            u64::from(grant.max_depth),
            depth,
        ));
    }
    Ok(())
}

fn launch(grant: &LaunchGrant, args: &op::launch::Args) -> Result<(), Denial> {
    let [x, y, z] = args.block.threads.map(u64::from);
    // Three 16-bit factors: at most 2^48.
    let threads = x * y * z;
    if threads > u64::from(grant.max_threads_per_block) {
        return Err(Denial::over(
            "threads_per_block",
            "grants.launch.max_threads_per_block",
            "threads a block",
            u64::from(grant.max_threads_per_block),
            threads,
        ));
    }
    let [x, y, z] = args.grid.blocks.map(u64::from);
    // The first product is below 2^64; the second may not be, and no limit is that high.
    let blocks = (x * y).saturating_mul(z);
    if blocks > grant.max_blocks {
        return Err(Denial::over(
            "blocks",
            "grants.launch.max_blocks",
            "blocks",
            grant.max_blocks,
            blocks,
        ));
    }
    if args.grid.shared_bytes > grant.max_shared_bytes {
        return Err(Denial::over(
            "shared_bytes",
            "grants.launch.max_shared",
            "bytes of shared memory a block",
            u64::from(grant.max_shared_bytes),
            u64::from(args.grid.shared_bytes),
        ));
    }
    if args.extras.flags & LaunchFlags::COOPERATIVE.bits() != 0 && !grant.cooperative {
        return Err(Denial::not_listed(
            "cooperative_not_granted",
            "grants.launch.cooperative",
            "a cooperative launch",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
