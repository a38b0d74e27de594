//! A tenant's guest memory: what its front end said exists, and what the tenant registered for DMA.

use std::collections::BTreeMap;

use turnstile_abi::Status;
use turnstile_abi::launch::DmaExtent;
use turnstile_abi::regs::PAGE;
use turnstile_backend_api::{MemoryId, Piece};

/// Contiguous guest memory behind one shared region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestMemory {
    /// Guest physical address, page aligned.
    pub gpa: u64,
    /// Length in bytes, a multiple of the page size.
    pub bytes: u64,
    /// The region behind it.
    pub memory: MemoryId,
    /// Where it begins in that region.
    pub offset: u64,
}

/// Why a change to the memory map is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// Not page aligned, empty, or past the end of the address space.
    #[error("guest memory {gpa:#x}..+{bytes:#x} is empty, wraps, or is not page aligned")]
    Shape {
        /// Address asked for.
        gpa: u64,
        /// Length asked for.
        bytes: u64,
    },
    /// Overlaps memory that is already there.
    #[error(
        "guest memory {gpa:#x}..+{bytes:#x} overlaps memory that is already mapped; unmap it first"
    )]
    Overlap {
        /// Address asked for.
        gpa: u64,
        /// Length asked for.
        bytes: u64,
    },
    /// The tenant has too many pieces of memory.
    #[error("a tenant's memory map has {0} pieces at most")]
    Full(usize),
    /// The tenant is not attached (any more).
    #[error("no such tenant")]
    NoTenant,
}

/// Most pieces of a memory map.
pub const MAX_PIECES: usize = 1024;

/// The map.
#[derive(Debug, Default)]
pub(crate) struct MemoryMap {
    pieces: BTreeMap<u64, GuestMemory>,
    /// Registered ranges: start to end.
    registered: BTreeMap<u64, u64>,
}

impl MemoryMap {
    pub(crate) fn add(&mut self, piece: GuestMemory) -> Result<(), MapError> {
        let GuestMemory { gpa, bytes, .. } = piece;
        let end = gpa.checked_add(bytes);
        let (Some(end), true) = (end, bytes > 0 && (gpa | bytes) & (PAGE - 1) == 0) else {
            return Err(MapError::Shape { gpa, bytes });
        };
        let before = self.pieces.range(..end).next_back();
        if before.is_some_and(|(_, p)| p.gpa + p.bytes > gpa) {
            return Err(MapError::Overlap { gpa, bytes });
        }
        if self.pieces.len() >= MAX_PIECES {
            return Err(MapError::Full(MAX_PIECES));
        }
        self.pieces.insert(gpa, piece);
        Ok(())
    }

    /// Takes out every piece that touches the range.
    pub(crate) fn remove(&mut self, gpa: u64, bytes: u64) {
        let end = gpa.saturating_add(bytes);
        self.pieces.retain(|_, p| p.gpa >= end || p.gpa + p.bytes <= gpa);
    }

    /// Translates an extent list into host pieces; every byte must be guest memory that is not
    /// registered yet. Changes nothing.
    pub(crate) fn translate(&self, extents: &[DmaExtent]) -> Result<(Vec<Piece>, u64), Status> {
        let mut pieces: Vec<Piece> = Vec::with_capacity(extents.len());
        let mut total = 0_u64;
        for extent in extents {
            if extent.bytes == 0 || (extent.gpa | extent.bytes) & (PAGE - 1) != 0 {
                return Err(Status::BadAddress);
            }
            let end = extent.gpa.checked_add(extent.bytes).ok_or(Status::BadAddress)?;
            if self.is_registered(extent.gpa, end) {
                return Err(Status::Busy);
            }
            total = total.checked_add(extent.bytes).ok_or(Status::OutOfRange)?;
            let mut at = extent.gpa;
            while at < end {
                let (_, memory) = self.pieces.range(..=at).next_back().ok_or(Status::BadAddress)?;
                let memory_end = memory.gpa + memory.bytes;
                if at >= memory_end {
                    return Err(Status::BadAddress);
                }
                let bytes = end.min(memory_end) - at;
                let offset = memory.offset + (at - memory.gpa);
                match pieces.last_mut() {
                    Some(last)
                        if last.memory == memory.memory && last.offset + last.bytes == offset =>
                    {
                        last.bytes += bytes;
                    }
                    _ => pieces.push(Piece { memory: memory.memory, offset, bytes }),
                }
                at += bytes;
            }
        }
        // Overlaps inside the list itself: sort a copy of the extents and look at neighbours.
        let mut sorted: Vec<_> = extents.iter().map(|e| (e.gpa, e.gpa + e.bytes)).collect();
        sorted.sort_unstable();
        if sorted.windows(2).any(|w| w[0].1 > w[1].0) {
            return Err(Status::Busy);
        }
        Ok((pieces, total))
    }

    fn is_registered(&self, start: u64, end: u64) -> bool {
        self.registered.range(..end).next_back().is_some_and(|(_, &e)| e > start)
    }

    /// Marks extents that [`translate`](Self::translate) accepted as registered.
    pub(crate) fn register(&mut self, extents: &[DmaExtent]) {
        for extent in extents {
            self.registered.insert(extent.gpa, extent.gpa + extent.bytes);
        }
    }

    /// Forgets registered extents.
    pub(crate) fn unregister(&mut self, extents: &[DmaExtent]) {
        for extent in extents {
            self.registered.remove(&extent.gpa);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(gpa: u64, bytes: u64, id: u32) -> GuestMemory {
        GuestMemory { gpa, bytes, memory: MemoryId(id), offset: 0x1000 }
    }
    fn extent(gpa: u64, bytes: u64) -> DmaExtent {
        DmaExtent { gpa, bytes }
    }

    #[test]
    fn extents_translate_across_pieces() {
        let mut map = MemoryMap::default();
        map.add(memory(0, 0x2000, 1)).unwrap();
        map.add(memory(0x2000, 0x2000, 2)).unwrap();
        let (pieces, total) = map.translate(&[extent(0x1000, 0x2000)]).unwrap();
        assert_eq!(total, 0x2000);
        assert_eq!(
            pieces,
            [
                Piece { memory: MemoryId(1), offset: 0x2000, bytes: 0x1000 },
                Piece { memory: MemoryId(2), offset: 0x1000, bytes: 0x1000 }
            ]
        );
    }

    #[test]
    fn what_is_not_guest_memory_is_refused() {
        let mut map = MemoryMap::default();
        map.add(memory(0x1000, 0x2000, 1)).unwrap();
        let bad = |e: &[DmaExtent]| map.translate(e).unwrap_err();
        for (gpa, bytes) in [
            (0, 0x1000),
            (0x3000, 0x1000),
            (0x2000, 0x2000),
            (0x1001, 0x1000),
            (0x1000, 0),
            (0x1000, 0x10),
            (!0xfff, 0x1000),
            (0x1000, !0xfff),
        ] {
            assert_eq!(bad(&[extent(gpa, bytes)]), Status::BadAddress, "{gpa:#x} {bytes:#x}");
        }
        assert_eq!(bad(&[extent(0x1000, 0x2000), extent(0x2000, 0x1000)]), Status::Busy);
    }

    #[test]
    fn a_page_is_registered_once() {
        let mut map = MemoryMap::default();
        map.add(memory(0, 0x8000, 1)).unwrap();
        let first = [extent(0x2000, 0x2000)];
        map.translate(&first).unwrap();
        map.register(&first);
        assert_eq!(map.translate(&[extent(0x3000, 0x1000)]).unwrap_err(), Status::Busy);
        assert_eq!(map.translate(&[extent(0, 0x8000)]).unwrap_err(), Status::Busy);
        assert!(map.translate(&[extent(0x4000, 0x1000), extent(0x1000, 0x1000)]).is_ok());
        map.unregister(&first);
        assert!(map.translate(&[extent(0x3000, 0x1000)]).is_ok());
    }

    #[test]
    fn overlapping_memory_is_refused() {
        let mut map = MemoryMap::default();
        map.add(memory(0x1000, 0x2000, 1)).unwrap();
        for gpa in [0, 0x1000, 0x2000] {
            assert!(matches!(map.add(memory(gpa, 0x2000, 2)), Err(MapError::Overlap { .. })));
        }
        assert!(matches!(map.add(memory(0x10, 0x1000, 2)), Err(MapError::Shape { .. })));
        assert!(matches!(
            map.add(memory(0xffff_ffff_ffff_f000, 0x1000, 2)),
            Err(MapError::Shape { .. })
        ));
        map.remove(0x1000, 0x1000);
        map.add(memory(0, 0x4000, 2)).unwrap();
    }
}
