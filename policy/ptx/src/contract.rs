//! What a guarded module is guarded *for*: mode, arena, block shape, and the promises that a launch
//! must keep for the verifier's conclusions to hold.

use crate::tree::Name;

/// How a module is guarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GuardMode {
    /// Allow list only. For an address space that is the tenant's own, and for a device that checks
    /// every access itself.
    None,
    /// No access can leave the arena; the first that would is recorded and ends its thread.
    Check,
    /// No access can leave the arena and no instruction can fault; nothing is reported.
    Fence,
}

/// Bytes on both sides of an arena that are mapped too (to a page of the tenant's own), so that an
/// immediate offset of at most this cannot reach anyone else.
pub const RED_ZONE: u64 = 16 << 20;

/// Bytes on both sides of an arena that backends map (to a sink of the tenant's own, over and over; it
/// is address space, not memory): a pointer into the arena plus a 32-bit index of up to 16 bytes
/// each cannot leave them. It is what the runtime guards for; see [`Arena::with_red_zone`].
pub const WIDE_RED_ZONE: u64 = 64 << 30;

/// A range of device addresses that is a tenant's own: 2^k bytes, 1 GiB to 64 TiB, aligned to its
/// size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Arena {
    base: u64,
    size: u64,
    red_zone: u64,
}

/// Why a range is no arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArenaError {
    /// The size is not a power of two, or out of range.
    #[error("arena size {0:#x} is not a power of two from 1 GiB to 64 TiB")]
    Size(u64),
    /// The base is not aligned, is zero, or the end is beyond 2^49.
    #[error("arena base {0:#x} is zero, not a multiple of the size, or too high")]
    Base(u64),
    /// The red zones do not fit around the arena.
    #[error("red zones of {0:#x} bytes are less than 16 MiB or do not fit around the arena")]
    RedZone(u64),
}

impl Arena {
    /// Checks and makes an arena of `size` bytes at `base`.
    ///
    /// # Errors
    /// [`ArenaError`] when the size is not a power of two from 1 GiB to 64 TiB, or the base is not a
    /// positive multiple of it below 2^49 (the width of a GPU virtual address on sm_90).
    pub const fn new(base: u64, size: u64) -> Result<Self, ArenaError> {
        if !size.is_power_of_two() || size < 1 << 30 || size > 1 << 46 {
            return Err(ArenaError::Size(size));
        }
        if base == 0 || base & (size - 1) != 0 || base > (1 << 49) - size {
            return Err(ArenaError::Base(base));
        }
        Ok(Self { base, size, red_zone: RED_ZONE })
    }

    /// The same arena with larger red zones: `bytes` on each side are mapped to the tenant's sink.
    /// With 32 GiB, an address that lies in the arena plus a 32-bit index of up to 8 bytes each
    /// needs no fence at all.
    ///
    /// # Errors
    /// [`ArenaError::RedZone`] below [`RED_ZONE`], or when they reach below zero or beyond 2^49.
    pub const fn with_red_zone(self, bytes: u64) -> Result<Self, ArenaError> {
        let room_above = (1 << 49) - self.base - self.size;
        let fits = bytes >= RED_ZONE && (bytes == RED_ZONE || bytes <= self.base);
        if !fits || (bytes > RED_ZONE && bytes > room_above) {
            return Err(ArenaError::RedZone(bytes));
        }
        Ok(Self { red_zone: bytes, ..self })
    }

    /// Bytes mapped on each side of the arena; at least [`RED_ZONE`].
    pub const fn red_zone(self) -> u64 {
        self.red_zone
    }

    /// First address.
    pub const fn base(self) -> u64 {
        self.base
    }

    /// Bytes; a power of two.
    pub const fn size(self) -> u64 {
        self.size
    }

    /// log2 of the size: 30 to 46.
    pub const fn bits(self) -> u32 {
        self.size.trailing_zeros()
    }

    /// True when `len` bytes at `address` lie inside.
    pub const fn contains(self, address: u64, len: u64) -> bool {
        address >= self.base && len <= self.size && address - self.base <= self.size - len
    }
}

/// Threads of a block along each axis, all at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockShape {
    /// Threads along x.
    pub x: u32,
    /// Threads along y.
    pub y: u32,
    /// Threads along z.
    pub z: u32,
}

impl BlockShape {
    /// The most a block may have along each axis on any GPU (CUDA C++ Programming Guide, table of
    /// technical specifications); their product is at most 1,024 as well.
    pub const MAX: Self = Self { x: 1024, y: 1024, z: 64 };

    /// Threads in all.
    pub const fn threads(self) -> u64 {
        // CAST: widening.
        self.x as u64 * self.y as u64 * self.z as u64
    }

    /// True when every axis is within `other`.
    pub const fn within(self, other: Self) -> bool {
        self.x <= other.x && self.y <= other.y && self.z <= other.z
    }
}

/// What must be true of every launch of one kernel. The launcher checks this; the verifier assumes
/// it and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelContract {
    /// The kernel.
    pub kernel: Name,
    /// The block shape must be exactly this; `None` admits any that the GPU does.
    pub block: Option<BlockShape>,
    /// Dynamic shared memory must be at least this many bytes.
    pub dynamic_shared: u64,
    /// Parameters that must hold addresses inside the arena.
    pub pointers: Vec<PointerContract>,
}

/// A 64-bit kernel parameter whose value must lie in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PointerContract {
    /// Byte offset in the parameter block.
    pub offset: u64,
    /// The value must be a multiple of this (a power of two).
    pub align: u64,
}

/// What a launch brings, as far as contracts speak of it.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// Threads of a block.
    pub block: BlockShape,
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u64,
    /// The parameter block, each parameter at its natural alignment: the very bytes that the kernel will
    /// read.
    pub params: &'a [u8],
}

/// Which promise a launch does not keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokenPromise {
    /// Another block shape.
    #[error("the module is guarded for blocks of {} x {} x {} threads: launch that, or take another variant", .0.x, .0.y, .0.z)]
    Block(BlockShape),
    /// Too little dynamic shared memory.
    #[error("the kernel needs {0} bytes of dynamic shared memory: raise the launch's to that")]
    DynamicShared(u64),
    /// A parameter that must be an address in the arena is none.
    #[error(
        "the parameter at offset {offset} is {value:#x}, no address in the arena that is a multiple of {align}"
    )]
    Pointer {
        /// Byte offset in the parameter block.
        offset: u64,
        /// What it holds; zero when the block ends before it.
        value: u64,
        /// Alignment that was promised.
        align: u64,
    },
}

impl KernelContract {
    /// Whether a launch keeps every promise.
    ///
    /// # Errors
    /// [`BrokenPromise`]: the first that it does not.
    pub fn admits(&self, arena: Arena, terms: &Terms<'_>) -> Result<(), BrokenPromise> {
        if let Some(block) = self.block
            && block != terms.block
        {
            return Err(BrokenPromise::Block(block));
        }
        if terms.dynamic_shared < self.dynamic_shared {
            return Err(BrokenPromise::DynamicShared(self.dynamic_shared));
        }
        for &PointerContract { offset, align } in &self.pointers {
            let value = pointer(terms.params, offset).unwrap_or(0);
            if !value.is_multiple_of(align) || !arena.contains(value, align) {
                return Err(BrokenPromise::Pointer { offset, value, align });
            }
        }
        Ok(())
    }
}

/// The 64-bit word at an offset of a parameter block.
fn pointer(params: &[u8], offset: u64) -> Option<u64> {
    let start = usize::try_from(offset).ok()?;
    let bytes = params.get(start..start.checked_add(8)?)?;
    bytes.try_into().ok().map(u64::from_le_bytes)
}

/// The contract of a module: one entry for each kernel that needs more than the default, which is
/// any block shape, no dynamic shared memory, and no promise about parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contract {
    /// Entries, at most one for a kernel.
    pub kernels: Vec<KernelContract>,
}

impl Contract {
    /// Whether a launch of a kernel keeps every promise; a kernel without an entry asks for none.
    ///
    /// # Errors
    /// [`BrokenPromise`]: the first that it does not.
    pub fn admits(
        &self,
        kernel: &str,
        arena: Arena,
        terms: &Terms<'_>,
    ) -> Result<(), BrokenPromise> {
        self.kernel(kernel).map_or(Ok(()), |entry| entry.admits(arena, terms))
    }

    /// The entry for a kernel.
    pub fn kernel(&self, name: &str) -> Option<&KernelContract> {
        self.kernels.iter().find(|entry| &*entry.kernel == name)
    }
}
