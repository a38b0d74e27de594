//! Guest RAM: one sealed memfd, in one or two pieces of guest physical memory.

use std::sync::Arc;

use turnstile_abi::memory::SharedMemory;
use turnstile_backend_api::SharedRegion;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

use crate::KvmError;
use crate::layout::{HOLE, HOLE_END};
use crate::sys::Vm;

/// A contiguous piece of guest RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamSlot {
    /// Guest physical address.
    pub gpa: u64,
    /// Byte offset in the region of [`MicroVm::ram`](crate::MicroVm::ram).
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// Memslot numbers that RAM takes, from 0 on.
pub(crate) const RAM_SLOTS: u32 = 2;

/// The RAM of one VM.
#[derive(Debug)]
pub(crate) struct Ram {
    region: Arc<SharedRegion>,
    slots: Vec<RamSlot>,
}

/// Where `bytes` of RAM lie: below the device hole, and above it what does not fit.
pub(crate) fn slots(bytes: u64) -> Vec<RamSlot> {
    let low = bytes.min(HOLE);
    let mut slots = vec![RamSlot { gpa: 0, offset: 0, bytes: low }];
    if bytes > low {
        slots.push(RamSlot { gpa: HOLE_END, offset: low, bytes: bytes - low });
    }
    slots
}

impl Ram {
    /// Creates zeroed RAM and puts it into a VM.
    pub(crate) fn new(name: &str, bytes: u64, vm: &Vm) -> Result<Ram, KvmError> {
        let region = Arc::new(SharedRegion::create(&format!("ram-{name}"), bytes)?);
        let slots = slots(bytes);
        for (number, slot) in (0..RAM_SLOTS).zip(&slots) {
            vm.map(number, slot.gpa, &region, slot.offset, slot.bytes)
                .map_err(|source| KvmError::Call { what: "map guest RAM", source })?;
        }
        Ok(Ram { region, slots })
    }

    /// The memory.
    pub(crate) fn region(&self) -> &Arc<SharedRegion> {
        &self.region
    }
    /// Where it lies.
    pub(crate) fn slots(&self) -> &[RamSlot] {
        &self.slots
    }
    /// Bytes of RAM from address 0 on.
    pub(crate) fn low_bytes(&self) -> u64 {
        self.slots.iter().filter(|s| s.gpa == 0).map(|s| s.bytes).sum()
    }

    /// Writes into low RAM, before the guest runs.
    pub(crate) fn write(&self, gpa: u64, bytes: &[u8]) -> Result<(), KvmError> {
        self.region.write(gpa, bytes).map_err(|_| KvmError::Image {
            what: format!("{} bytes at {gpa:#x} lie outside RAM", bytes.len()),
            expected: "the VM more memory",
        })
    }

    /// A second mapping of the same memory, in the form that the loader wants, while it loads.
    pub(crate) fn for_loader(&self) -> Result<GuestMemoryMmap, KvmError> {
        let failed = |what: String| KvmError::Image { what, expected: "the process more memory" };
        let mut ranges = Vec::new();
        for slot in &self.slots {
            let file = self.region.fd().try_clone_to_owned().map_err(|e| failed(e.to_string()))?;
            let bytes = usize::try_from(slot.bytes).map_err(|e| failed(e.to_string()))?;
            let at = FileOffset::new(file.into(), self.region.file_offset() + slot.offset);
            ranges.push((GuestAddress(slot.gpa), bytes, Some(at)));
        }
        GuestMemoryMmap::from_ranges_with_files(ranges).map_err(|e| failed(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_goes_around_the_device_hole() {
        assert_eq!(slots(64 << 20), [RamSlot { gpa: 0, offset: 0, bytes: 64 << 20 }]);
        assert_eq!(slots(HOLE).len(), 1);
        let split = slots(5 << 30);
        assert_eq!(split[0], RamSlot { gpa: 0, offset: 0, bytes: 3 << 30 });
        assert_eq!(split[1], RamSlot { gpa: 4 << 30, offset: 3 << 30, bytes: 2 << 30 });
    }
}
