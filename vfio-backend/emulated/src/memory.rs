//! The GPU's virtual memory: one [`AddressSpace`] per tenant, in which buffers, module variables and mapped foreign
//! memory lie at device addresses.
//!
//! Every region is byte-exact: its last byte is followed by at least [`RED_GAP`] unmapped bytes, so an overrun by one
//! byte faults. Kernels run on a [`MemoryMap`], a snapshot that keeps every region alive until the launch is over.
//! This module moves no bytes itself ([`Segment`] does) and knows neither handles nor tenants.

use std::collections::BTreeMap;
use std::sync::Arc;

use thiserror::Error;

use crate::raw::Segment;

/// Unmapped bytes after every region.
pub const RED_GAP: u64 = 4096;
/// Alignment of every region's start, in bytes (the CUDA driver's guarantee for allocations).
pub const REGION_ALIGN: u64 = 256;
/// First device address of a space, unless its configuration says otherwise. A multiple of every arena size.
pub const ARENA_BASE: u64 = 0x7000_0000_0000;

/// What a kernel may do with a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Loads.
    pub read: bool,
    /// Stores and atomics.
    pub write: bool,
}

impl Access {
    /// Loads only.
    pub const READ: Self = Self { read: true, write: false };
    /// Stores only.
    pub const WRITE: Self = Self { read: false, write: true };
    /// Loads, stores and atomics.
    pub const READ_WRITE: Self = Self { read: true, write: true };
}

/// The 2^`log2` bytes, aligned to their own size, in which a space hands out addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arena {
    /// First address, a multiple of the size.
    pub base: u64,
    /// Logarithm of the size in bytes.
    pub log2: u32,
}

impl Arena {
    /// Whether `len` bytes from `address` all lie in it.
    pub fn contains(&self, address: u64, len: u64) -> bool {
        address >= self.base
            && address.checked_add(len).is_some_and(|end| end - self.base <= 1 << self.log2)
    }
}

/// Why memory could not be mapped or reached from the host's side.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum MemoryError {
    /// The arena's base is no multiple of its size, or the size is not between 64 KiB and 128 TiB.
    #[error(
        "arena {base:#x} of 2^{log2} bytes is unaligned or out of range: use 2^16..2^46 at a multiple of the size"
    )]
    BadArena {
        /// Given base.
        base: u64,
        /// Given logarithm of the size.
        log2: u32,
    },
    /// No gap of the address space holds the region.
    #[error("no {len} free bytes of address space in the arena: free buffers or enlarge the arena")]
    AddressesExhausted {
        /// Bytes asked for.
        len: u64,
    },
    /// The host has no memory, or the length is zero.
    #[error("cannot allocate {len} bytes of host memory: ask for less, and for at least one byte")]
    HostMemory {
        /// Bytes asked for.
        len: u64,
    },
    /// The address starts no region.
    #[error("no region starts at {address:#x}: unmap with the address that mapping returned")]
    NotMapped {
        /// Given address.
        address: u64,
    },
    /// A host-side copy leaves its region.
    #[error(
        "{len} bytes at {address:#x} are not inside one region: check offset and length against the buffer"
    )]
    OutOfRange {
        /// First address.
        address: u64,
        /// Bytes.
        len: u64,
    },
}

/// Mapped bytes at a device address.
#[derive(Clone, Debug)]
pub struct Region {
    /// Device address of the first byte.
    pub start: u64,
    /// The bytes.
    pub segment: Segment,
    /// What kernels may do.
    pub access: Access,
}

impl Region {
    /// Whether kernels may do this with it.
    pub(crate) fn permits(&self, intent: crate::fault::Intent) -> bool {
        use crate::fault::Intent;
        match intent {
            Intent::Read => self.access.read,
            Intent::Write => self.access.write,
            Intent::Atomic => self.access.read && self.access.write,
        }
    }

    /// Offset of `address` when `len` bytes from it are inside.
    pub fn offset_of(&self, address: u64, len: u64) -> Option<u64> {
        let offset = address.checked_sub(self.start)?;
        (offset.checked_add(len)? <= self.segment.len()).then_some(offset)
    }
}

/// The regions a launch may touch, frozen when it starts.
#[derive(Clone, Debug, Default)]
pub struct MemoryMap {
    /// Sorted by `start`, disjoint.
    regions: Vec<Region>,
}

impl MemoryMap {
    /// The index of the region that holds `address`.
    pub(crate) fn find(&self, address: u64) -> Option<usize> {
        let after = self.regions.partition_point(|r| r.start <= address);
        let index = after.checked_sub(1)?;
        let region = &self.regions[index];
        (address - region.start < region.segment.len()).then_some(index)
    }

    /// The region with an index that [`Self::find`] gave.
    #[inline(always)]
    pub(crate) fn region(&self, index: usize) -> Option<&Region> {
        self.regions.get(index)
    }

    /// The region and the offset in it of `len` bytes at `address`.
    pub fn locate(&self, address: u64, len: u64) -> Option<(&Region, u64)> {
        let region = &self.regions[self.find(address)?];
        Some((region, region.offset_of(address, len)?))
    }
}

/// One tenant's GPU virtual address space.
#[derive(Debug)]
pub struct AddressSpace {
    arena: Arena,
    regions: BTreeMap<u64, Region>,
    /// Where the search for a free gap starts.
    cursor: u64,
    /// Lowest address that the search hands out.
    low: u64,
    /// Made by the first launch after a change.
    snapshot: Option<Arc<MemoryMap>>,
}

impl AddressSpace {
    /// An empty space that hands out addresses in `arena`.
    pub fn new(arena: Arena) -> Result<Self, MemoryError> {
        let Arena { base, log2 } = arena;
        if !(16..=46).contains(&log2)
            || !base.is_multiple_of(1 << log2)
            || base == 0
            || base > (1 << 49) - (1 << log2)
        {
            return Err(MemoryError::BadArena { base, log2 });
        }
        // The first gap keeps the arena's own base unmapped: a pointer just below a buffer faults as well.
        Ok(Self {
            arena,
            regions: BTreeMap::new(),
            cursor: base + RED_GAP,
            low: base + RED_GAP,
            snapshot: None,
        })
    }

    /// The arena.
    pub fn arena(&self) -> Arena {
        self.arena
    }

    /// Number of regions.
    pub fn regions(&self) -> usize {
        self.regions.len()
    }

    /// Allocates `len` zero bytes and returns their address.
    pub fn allocate(&mut self, len: u64, access: Access) -> Result<u64, MemoryError> {
        // Addresses first: a length beyond the arena must not reach the host's allocator.
        let start = self.free_gap(len)?;
        let segment = Segment::zeroed(len).ok_or(MemoryError::HostMemory { len })?;
        Ok(self.insert(Region { start, segment, access }))
    }

    /// Allocates `len` zero bytes at `start`, where a guarded module expects its variables. They need no red gap:
    /// the place was chosen for them.
    pub fn allocate_at(&mut self, start: u64, len: u64, access: Access) -> Result<(), MemoryError> {
        let full = MemoryError::AddressesExhausted { len };
        let end = start.checked_add(len).ok_or(full)?;
        let taken = self.regions.range(..end).next_back();
        if taken.is_some_and(|(_, r)| r.start + r.segment.len() > start)
            || !self.arena.contains(start, len)
        {
            return Err(full);
        }
        let segment = Segment::zeroed(len).ok_or(MemoryError::HostMemory { len })?;
        let cursor = self.cursor;
        self.insert(Region { start, segment, access });
        self.cursor = cursor;
        Ok(())
    }

    /// Leaves the first `bytes` of the arena to [`allocate_at`](Self::allocate_at).
    pub fn reserve_low(&mut self, bytes: u64) {
        self.low = self.arena.base.saturating_add(bytes);
        self.cursor = self.cursor.max(self.low);
    }

    /// Maps somebody else's bytes and returns their address.
    pub fn map(&mut self, segment: Segment, access: Access) -> Result<u64, MemoryError> {
        if segment.is_empty() {
            return Err(MemoryError::HostMemory { len: 0 });
        }
        let start = self.free_gap(segment.len())?;
        Ok(self.insert(Region { start, segment, access }))
    }

    /// Maps several pieces at consecutive addresses and returns the first. Every piece but the last must be a multiple
    /// of 16 bytes long, or the pieces after it could not be aligned.
    pub fn map_pieces(&mut self, pieces: &[Segment], access: Access) -> Result<u64, MemoryError> {
        let len =
            pieces.iter().try_fold(0u64, |sum, p| sum.checked_add(p.len())).unwrap_or(u64::MAX);
        let aligned = pieces.iter().rev().skip(1).all(|p| p.len().is_multiple_of(16));
        if pieces.is_empty() || pieces.iter().any(Segment::is_empty) || !aligned {
            return Err(MemoryError::HostMemory { len });
        }
        let first = self.free_gap(len)?;
        let mut start = first;
        for segment in pieces {
            let next = start + segment.len();
            self.insert(Region { start, segment: segment.clone(), access });
            start = next;
        }
        Ok(first)
    }

    /// Unmaps the region that starts at `address`. Its bytes live on while a launch's snapshot holds them.
    pub fn unmap(&mut self, address: u64) -> Result<Segment, MemoryError> {
        let region = self.regions.remove(&address).ok_or(MemoryError::NotMapped { address })?;
        self.snapshot = None;
        Ok(region.segment)
    }

    /// The region and offset of `len` bytes at `address`.
    pub fn locate(&self, address: u64, len: u64) -> Result<(&Region, u64), MemoryError> {
        let out = MemoryError::OutOfRange { address, len };
        let (_, region) = self.regions.range(..=address).next_back().ok_or(out)?;
        Ok((region, region.offset_of(address, len).ok_or(out)?))
    }

    /// Copies bytes out for the host.
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        let len = into.len() as u64;
        let (region, offset) = self.locate(address, len)?;
        region.segment.read(offset, into).ok_or(MemoryError::OutOfRange { address, len })
    }

    /// Copies bytes in for the host.
    pub fn write(&self, address: u64, from: &[u8]) -> Result<(), MemoryError> {
        let len = from.len() as u64;
        let (region, offset) = self.locate(address, len)?;
        region.segment.write(offset, from).ok_or(MemoryError::OutOfRange { address, len })
    }

    /// What a launch that starts now may touch.
    pub fn snapshot(&mut self) -> Arc<MemoryMap> {
        let regions = &self.regions;
        self.snapshot
            .get_or_insert_with(|| {
                Arc::new(MemoryMap { regions: regions.values().cloned().collect() })
            })
            .clone()
    }

    fn insert(&mut self, region: Region) -> u64 {
        let start = region.start;
        self.cursor = round_up(start + region.segment.len() + RED_GAP);
        self.regions.insert(start, region);
        self.snapshot = None;
        start
    }

    /// The first gap from the cursor on, then from the start, that holds `len` bytes between red gaps.
    fn free_gap(&self, len: u64) -> Result<u64, MemoryError> {
        let full = MemoryError::AddressesExhausted { len };
        let need = len.checked_add(RED_GAP).filter(|&n| n < 1 << self.arena.log2).ok_or(full)?;
        let end = self.arena.base + (1 << self.arena.log2);
        let first = self.low;
        for from in [self.cursor, first] {
            let mut at = from;
            // A region that begins before `at` may reach past it.
            if let Some((_, before)) = self.regions.range(..at).next_back() {
                at = at.max(round_up(before.start + before.segment.len() + RED_GAP));
            }
            for region in self.regions.range(at..).map(|(_, r)| r) {
                if at.checked_add(need).is_some_and(|e| e <= region.start) {
                    return Ok(at);
                }
                at = round_up(region.start + region.segment.len() + RED_GAP);
            }
            if at.checked_add(need).is_some_and(|e| e <= end) {
                return Ok(at);
            }
        }
        Err(full)
    }
}

fn round_up(address: u64) -> u64 {
    address.next_multiple_of(REGION_ALIGN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn space(log2: u32) -> AddressSpace {
        AddressSpace::new(Arena { base: ARENA_BASE, log2 }).unwrap()
    }

    #[test]
    fn fresh_memory_is_zero_and_byte_exact() {
        let mut s = space(30);
        let a = s.allocate(5, Access::READ_WRITE).unwrap();
        let b = s.allocate(1000, Access::READ_WRITE).unwrap();
        assert!(a.is_multiple_of(REGION_ALIGN) && b >= a + 5 + RED_GAP);
        let mut bytes = [1u8; 5];
        s.read(a, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 5]);
        assert_eq!(
            s.read(a + 1, &mut bytes),
            Err(MemoryError::OutOfRange { address: a + 1, len: 5 })
        );
        let map = s.snapshot();
        assert!(map.locate(a + 4, 1).is_some() && map.locate(a + 5, 1).is_none());
        assert!(map.locate(b - 1, 1).is_none() && map.locate(a - 1, 1).is_none());
    }

    #[test]
    fn a_snapshot_outlives_the_region() {
        let mut s = space(30);
        let a = s.allocate(64, Access::READ_WRITE).unwrap();
        s.write(a, &[7; 64]).unwrap();
        let map = s.snapshot();
        s.unmap(a).unwrap();
        assert!(s.snapshot().locate(a, 1).is_none());
        let (region, offset) = map.locate(a + 8, 4).unwrap();
        assert_eq!(region.segment.load::<u32>(offset), Some(0x0707_0707));
    }

    #[test]
    fn absurd_requests_are_refused() {
        let mut s = space(20);
        assert!(matches!(s.allocate(0, Access::READ), Err(MemoryError::HostMemory { .. })));
        assert!(matches!(
            s.allocate(u64::MAX, Access::READ),
            Err(MemoryError::AddressesExhausted { .. })
        ));
        assert!(matches!(
            s.allocate(1 << 20, Access::READ),
            Err(MemoryError::AddressesExhausted { .. })
        ));
        assert!(AddressSpace::new(Arena { base: ARENA_BASE + 4096, log2: 20 }).is_err());
        assert!(AddressSpace::new(Arena { base: ARENA_BASE, log2: 60 }).is_err());
        assert_eq!(s.unmap(5).unwrap_err(), MemoryError::NotMapped { address: 5 });
    }

    #[test]
    fn pieces_lie_one_after_the_other() {
        let mut s = space(30);
        let pieces = [Segment::zeroed(4096).unwrap(), Segment::zeroed(4096).unwrap()];
        let a = s.map_pieces(&pieces, Access::READ).unwrap();
        pieces[1].store(0, 9u8).unwrap();
        let (region, offset) = s.locate(a + 4096, 1).unwrap();
        assert_eq!(region.segment.load::<u8>(offset), Some(9));
        assert!(
            s.map_pieces(&[Segment::zeroed(5).unwrap(), pieces[0].clone()], Access::READ).is_err()
        );
    }

    proptest! {
        /// Whatever is allocated and freed, regions keep their distance and stay in the arena.
        #[test]
        fn regions_never_touch(ops in prop::collection::vec((any::<bool>(), 1u64..40_000), 1..80)) {
            let mut s = space(18);
            let mut live: Vec<(u64, u64)> = Vec::new();
            for (free, len) in ops {
                if free && !live.is_empty() {
                    let (at, _) = live.swap_remove(len as usize % live.len());
                    s.unmap(at).unwrap();
                } else if let Ok(at) = s.allocate(len, Access::READ_WRITE) {
                    prop_assert!(s.arena().contains(at, len + RED_GAP));
                    for &(other, size) in &live {
                        prop_assert!(at + len + RED_GAP <= other || other + size + RED_GAP <= at);
                    }
                    live.push((at, len));
                }
            }
        }
    }
}
