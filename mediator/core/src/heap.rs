//! The aperture's heap: where host-visible buffers are placed.
//!
//! First fit over a map of free ranges. Sizes are rounded up to 256 bytes, the alignment CUDA
//! gives. The number of ranges is bounded by the number of buffers the policy allows.

use std::collections::BTreeMap;

const ALIGN: u64 = 256;

/// Free ranges by offset.
#[derive(Debug)]
pub(crate) struct Heap {
    free: BTreeMap<u64, u64>,
}

impl Heap {
    /// A heap over `[start, end)`.
    pub(crate) fn new(start: u64, end: u64) -> Heap {
        let start = start.next_multiple_of(ALIGN);
        let mut free = BTreeMap::new();
        if end > start {
            free.insert(start, (end - start) / ALIGN * ALIGN);
        }
        Heap { free }
    }

    /// What an allocation of `bytes` takes, if that is a size at all.
    fn rounded(bytes: u64) -> Option<u64> {
        bytes.max(1).checked_next_multiple_of(ALIGN)
    }

    /// Takes a range. `None`: no hole is large enough.
    pub(crate) fn allocate(&mut self, bytes: u64) -> Option<u64> {
        let bytes = Heap::rounded(bytes)?;
        let (&offset, &size) = self.free.iter().find(|&(_, &size)| size >= bytes)?;
        self.free.remove(&offset);
        if size > bytes {
            self.free.insert(offset + bytes, size - bytes);
        }
        Some(offset)
    }

    /// Gives a range back. `bytes` as it was asked for.
    pub(crate) fn release(&mut self, offset: u64, bytes: u64) {
        let Some(mut bytes) = Heap::rounded(bytes) else { return };
        let mut offset = offset;
        if let Some(next) = self.free.remove(&(offset + bytes)) {
            bytes += next;
        }
        if let Some((&before, &size)) = self.free.range(..offset).next_back()
            && before + size == offset
        {
            self.free.remove(&before);
            offset = before;
            bytes += size;
        }
        self.free.insert(offset, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_join_again() {
        let mut h = Heap::new(4096, 4096 + 1024);
        let a = h.allocate(1).unwrap();
        let b = h.allocate(256).unwrap();
        let c = h.allocate(512).unwrap();
        assert_eq!((a, b, c), (4096, 4352, 4608));
        assert_eq!(h.allocate(1), None);
        h.release(a, 1);
        h.release(c, 512);
        assert_eq!(h.allocate(600), None);
        h.release(b, 256);
        assert_eq!(h.allocate(1024), Some(4096));
        assert_eq!(h.allocate(u64::MAX), None);
    }

    #[test]
    fn an_empty_heap_gives_nothing() {
        assert_eq!(Heap::new(4096, 4096).allocate(1), None);
        assert_eq!(Heap::new(8192, 4096).allocate(1), None);
    }
}
