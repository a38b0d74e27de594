//! The tenant's range of device addresses: reserved once, every address of it mapped at all times.
//!
//! | from the base | what |
//! |---|---|
//! | -64 MiB | red zone: the sink |
//! | 0 | 16 MiB of sink, so that a legal base plus offset has its base inside |
//! | 16 MiB | the guard's record of a violation: one page |
//! | 20 MiB | variables of programs, 4 MiB apart: memory where a program has some, sink elsewhere |
//! | 1 GiB + 32 MiB | the heap: memory up to what is committed, sink above |
//! | size - 16 MiB | sink, and the red zone behind |
//!
//! The *sink* is one piece of physical memory, mapped over and over, that belongs to this tenant alone: a
//! fenced access that misses every buffer lands there and disturbs nobody.
//!
//! Between taking a mapping away and putting another in its place an access would fault, and under MPS a
//! fault ends every tenant. So mappings change only while nothing of this tenant runs: callers of
//! [`Arena::commit`], [`Arena::place`] and [`Arena::remove`] have waited for that. Buffers come and go in
//! memory that is mapped already, so they do not wait.

use std::collections::BTreeMap;
use std::ops::Range;

use range_alloc::RangeAllocator;
use turnstile_abi::Status;
use turnstile_ptx::RED_ZONE;

use crate::driver::{DevicePtr, DriverError, Gpu, Physical, Stream};

/// Where every arena begins. The same in every worker, so that a guarded program, which has its arena's
/// base in its text, is compiled once for all of them. A multiple of every arena size up to 16 TiB, and
/// far from where Linux puts programs, heaps and libraries.
pub(crate) const BASE: DevicePtr = 0x1000_0000_0000;
/// The size every worker prepares: 4 GiB, the guard's fast path.
pub(crate) const SIZE: u64 = 4 << 30;
/// Addresses below the heap: the guard's record and variables go there.
pub(crate) const SERVICE_BYTES: u64 = (1 << 30) + RED_ZONE * 2;
/// Bytes on each side that are the sink too. The guard needs [`RED_ZONE`]; the driver gives addresses at
/// a place of our choice only if that is a multiple of 64 MiB (measured with driver 580).
const MARGIN: u64 = 64 << 20;
const _: () = assert!(MARGIN >= RED_ZONE);
/// Largest arena: 16 TiB.
const MOST_LOG2: u32 = 44;
/// Alignment of buffers, in bytes: what the CUDA driver gives.
const ALIGN: u64 = 512;
/// Bytes of the guard's record page.
pub(crate) const RECORD: DevicePtr = BASE + RED_ZONE;

/// Why memory cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArenaError {
    /// The driver failed.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The addresses are taken.
    #[error("device addresses {0:#x} on are not free")]
    Taken(DevicePtr),
    /// The device has no memory left.
    #[error("the device has no memory left for {0} bytes")]
    Full(u64),
    /// The tenant's quota is used up.
    #[error("{0} bytes exceed what is left of the quota")]
    Quota(u64),
    /// The range is in use.
    #[error("the place for variables at {0:#x} is in use or outside its part of the arena")]
    Place(DevicePtr),
}

impl ArenaError {
    /// What the tenant is told.
    pub(crate) fn status(&self) -> Status {
        match self {
            ArenaError::Driver(_) | ArenaError::Taken(_) => Status::Backend,
            ArenaError::Full(_) | ArenaError::Quota(_) | ArenaError::Place(_) => Status::NoMemory,
        }
    }
}

/// Memory in place of the sink.
struct Extent {
    bytes: u64,
    physical: Physical,
}

/// The arena.
pub(crate) struct Arena {
    gpu: Gpu,
    /// For zeroing.
    stream: Stream,
    size: u64,
    page: u64,
    /// Pieces of the sink by size, largest first; the last is a page. A mapping takes a whole piece.
    sinks: Vec<(u64, Physical)>,
    /// Mappings of the sink: first address and length.
    sunk: BTreeMap<DevicePtr, u64>,
    extents: BTreeMap<DevicePtr, Extent>,
    heap: RangeAllocator<u64>,
    /// End of the memory committed to the heap.
    committed: DevicePtr,
    /// Bytes the tenant may hold, and holds: buffers, variables, code.
    limit: u64,
    used: u64,
}

impl Arena {
    /// Reserves and maps an arena of the usual size.
    pub(crate) fn new(gpu: Gpu) -> Result<Arena, ArenaError> {
        let page = gpu.granularity()?;
        let stream = gpu.stream()?;
        let heap = RangeAllocator::new(BASE + SERVICE_BYTES..BASE + SERVICE_BYTES);
        let mut arena = Arena {
            gpu,
            stream,
            size: SIZE,
            page,
            sinks: Vec::new(),
            sunk: BTreeMap::new(),
            extents: BTreeMap::new(),
            heap,
            committed: BASE + SERVICE_BYTES,
            limit: 0,
            used: 0,
        };
        arena.add_sink(page)?;
        // With a piece of 32 MiB a 4 GiB arena takes some hundred mappings instead of 2,100.
        arena.add_sink(32 << 20)?;
        arena.reserve()?;
        Ok(arena)
    }

    fn whole(&self) -> Range<DevicePtr> {
        BASE - MARGIN..BASE + self.size + MARGIN
    }

    fn add_sink(&mut self, bytes: u64) -> Result<(), ArenaError> {
        let bytes = bytes.next_multiple_of(self.page);
        let piece = self.gpu.create(bytes)?.ok_or(ArenaError::Full(bytes))?;
        self.sinks.insert(0, (bytes, piece));
        Ok(())
    }

    fn reserve(&mut self) -> Result<(), ArenaError> {
        let whole = self.whole();
        if !self.gpu.reserve(whole.start, whole.end - whole.start)? {
            return Err(ArenaError::Taken(whole.start));
        }
        self.sink(whole.clone())?;
        self.gpu.allow(whole.start, whole.end - whole.start)?;
        // The sink may hold what others left in the device's memory. Somewhere each piece is mapped.
        let zeroed: Vec<(DevicePtr, u64)> = self
            .sinks
            .iter()
            .filter_map(|(bytes, _)| self.sunk.iter().find(|(_, b)| *b == bytes))
            .map(|(&at, &bytes)| (at, bytes))
            .collect();
        for (at, bytes) in zeroed {
            self.gpu.fill(at, bytes, 0, 1, &self.stream)?;
        }
        self.gpu.wait(&self.stream)?;
        self.extend(RECORD..RECORD + self.page)
    }

    /// Makes it the tenant's: limits it, and commits memory to its heap. Nothing runs yet.
    pub(crate) fn open(&mut self, limit: u64, commit: u64) -> Result<(), ArenaError> {
        self.limit = limit;
        let wanted = limit.saturating_mul(2).saturating_add(SERVICE_BYTES).saturating_add(RED_ZONE);
        let log2 = wanted.checked_next_power_of_two().map_or(MOST_LOG2, u64::trailing_zeros);
        let size = 1 << log2.clamp(SIZE.trailing_zeros(), MOST_LOG2);
        if size > self.size {
            for (at, bytes) in std::mem::take(&mut self.sunk) {
                self.gpu.unmap(at, bytes)?;
            }
            for (at, extent) in std::mem::take(&mut self.extents) {
                self.gpu.unmap(at, extent.bytes)?;
                self.gpu.release(extent.physical)?;
            }
            let whole = self.whole();
            self.gpu.unreserve(whole.start, whole.end - whole.start)?;
            self.size = size;
            // About as many mappings as a small arena has, of a larger piece.
            let large = (size >> 8).min(512 << 20);
            if large > self.sinks[0].0 {
                self.add_sink(large)?;
            }
            self.reserve()?;
        }
        self.commit(commit.min(limit))
    }

    /// Base and size.
    pub(crate) fn bounds(&self) -> (DevicePtr, u64) {
        (BASE, self.size)
    }

    /// Maps the sink over a range that has no mapping.
    fn sink(&mut self, range: Range<DevicePtr>) -> Result<(), DriverError> {
        let mut at = range.start;
        while at < range.end {
            // Ranges are whole pages, so the last piece always fits.
            let fits = self.sinks.iter().find(|(bytes, _)| *bytes <= range.end - at);
            let Some((bytes, piece)) = fits else { break };
            self.gpu.map(at, *bytes, piece)?;
            self.sunk.insert(at, *bytes);
            at += bytes;
        }
        Ok(())
    }

    /// Puts memory, zeroed, in the place of the sink. Nothing may run.
    fn extend(&mut self, range: Range<DevicePtr>) -> Result<(), ArenaError> {
        let bytes = range.end - range.start;
        let physical = self.gpu.create(bytes)?.ok_or(ArenaError::Full(bytes))?;
        // Mappings of the sink are taken away whole; what sticks out is mapped again.
        let first = self.sunk.range(..=range.start).next_back();
        let first = first.filter(|&(&at, &bytes)| at + bytes > range.start);
        let first = first.map_or(range.start, |(&at, _)| at);
        let last = self.sunk.range(..range.end).next_back();
        let end = last.map_or(range.end, |(&at, &bytes)| range.end.max(at + bytes));
        let touched: Vec<(DevicePtr, u64)> =
            self.sunk.range(first..end).map(|(&at, &bytes)| (at, bytes)).collect();
        for (at, bytes) in touched {
            self.gpu.unmap(at, bytes)?;
            self.sunk.remove(&at);
        }
        self.sink(first..range.start)?;
        self.gpu.map(range.start, bytes, &physical)?;
        self.extents.insert(range.start, Extent { bytes, physical });
        self.sink(range.end..end)?;
        self.gpu.allow(first, end - first)?;
        self.gpu.fill(range.start, bytes, 0, 1, &self.stream)?;
        self.gpu.wait(&self.stream)?;
        Ok(())
    }

    /// Makes sure that the heap has at least `bytes` of memory. Nothing may run.
    pub(crate) fn commit(&mut self, bytes: u64) -> Result<(), ArenaError> {
        let end = (BASE + SERVICE_BYTES).saturating_add(bytes).next_multiple_of(self.page);
        let most = BASE + self.size - RED_ZONE;
        if end > most {
            return Err(ArenaError::Full(bytes));
        }
        if end > self.committed {
            self.extend(self.committed..end)?;
            self.committed = end;
            self.heap.grow_to(end);
        }
        Ok(())
    }

    /// Charges the quota.
    pub(crate) fn charge(&mut self, bytes: u64) -> Result<(), ArenaError> {
        let used = self.used.checked_add(bytes).filter(|&used| used <= self.limit);
        self.used = used.ok_or(ArenaError::Quota(bytes))?;
        Ok(())
    }

    /// Gives back what was charged.
    pub(crate) fn discharge(&mut self, bytes: u64) {
        self.used = self.used.saturating_sub(bytes);
    }

    /// Addresses for a buffer, charged for. `None`: the heap has no room until more is committed.
    pub(crate) fn allocate(&mut self, bytes: u64) -> Result<Option<DevicePtr>, ArenaError> {
        let length =
            bytes.max(1).checked_next_multiple_of(ALIGN).ok_or(ArenaError::Quota(bytes))?;
        self.charge(bytes)?;
        match self.heap.allocate_range(length) {
            Ok(range) => Ok(Some(range.start)),
            Err(_) => {
                self.discharge(bytes);
                Ok(None)
            }
        }
    }

    /// Takes a buffer's addresses back.
    pub(crate) fn free(&mut self, at: DevicePtr, bytes: u64) {
        let length = bytes.max(1).next_multiple_of(ALIGN);
        self.heap.free_range(at..at + length);
        self.discharge(bytes);
    }

    /// How much the heap must have committed for `bytes` more to fit, however it is fragmented.
    pub(crate) fn wanted(&self, bytes: u64) -> u64 {
        // Grows by halves, so that a tenant's many small buffers do not stop it for each.
        let now = self.committed - (BASE + SERVICE_BYTES);
        let need = bytes.saturating_add(ALIGN).saturating_add(now);
        need.max((now / 2 + now).min(self.limit))
    }

    /// Puts zeroed memory under the variables of a program, charged for. Nothing may run.
    pub(crate) fn place(&mut self, at: DevicePtr, bytes: u64) -> Result<(), ArenaError> {
        let range = self.pages(at, bytes)?;
        let taken = self.extents.range(..range.end).next_back();
        if taken.is_some_and(|(&start, extent)| start + extent.bytes > range.start) {
            return Err(ArenaError::Place(at));
        }
        self.charge(bytes)?;
        self.extend(range).inspect_err(|_| self.discharge(bytes))
    }

    /// Undoes [`place`](Self::place). Nothing may run.
    pub(crate) fn remove(&mut self, at: DevicePtr, bytes: u64) -> Result<(), ArenaError> {
        let range = self.pages(at, bytes)?;
        let Some(extent) = self.extents.remove(&range.start) else { return Ok(()) };
        self.gpu.unmap(range.start, extent.bytes)?;
        self.gpu.release(extent.physical)?;
        self.sink(range.clone())?;
        self.gpu.allow(range.start, range.end - range.start)?;
        self.discharge(bytes);
        Ok(())
    }

    /// The pages of a program's variables, which lie between the record and the heap.
    fn pages(&self, at: DevicePtr, bytes: u64) -> Result<Range<DevicePtr>, ArenaError> {
        let start = at / self.page * self.page;
        let end = at.checked_add(bytes.max(1)).map(|end| end.next_multiple_of(self.page));
        match end {
            Some(end) if start >= RECORD + self.page && end <= BASE + SERVICE_BYTES => {
                Ok(start..end)
            }
            _ => Err(ArenaError::Place(at)),
        }
    }
}
