//! What the client is told about regions and interrupts (`struct vfio_region_info`,
//! `struct vfio_irq_info` of `<linux/vfio.h>`; regions and interrupts of a PCI device are numbered
//! there too).

use rustix::io::Errno;
use turnstile_abi::regs::{MAX_QUEUES, VECTORS, doorbell};
use turnstile_device::pci::CONFIG_BYTES;
use turnstile_device::{Bar, Function};

/// Regions of a PCI device: six BARs, ROM, configuration space, VGA.
pub(crate) const REGIONS: u32 = 9;
/// Kinds of interrupts of a PCI device: INTx, MSI, MSI-X, error, release request.
pub(crate) const IRQS: u32 = 5;
/// Kind: MSI-X.
pub(crate) const MSIX: u32 = 2;
/// The region that is configuration space.
const CONFIG: u32 = 7;

const READ_WRITE: u32 = 3;
const MAPPABLE: u32 = 4;
const HAS_CAPABILITIES: u32 = 8;

/// A region that has something in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Region {
    /// A BAR.
    Bar(Bar),
    /// Configuration space.
    Config,
}

impl Region {
    /// The region of this number. `Ok(None)`: there is one and it is empty.
    pub(crate) fn of(index: u32) -> Result<Option<Region>, Errno> {
        if index >= REGIONS {
            return Err(Errno::INVAL);
        }
        let bar = Bar::ALL.into_iter().find(|bar| u32::from(bar.index()) == index);
        Ok(bar.map(Region::Bar).or((index == CONFIG).then_some(Region::Config)))
    }

    /// Its size in bytes.
    pub(crate) fn bytes(self, function: &Function) -> u64 {
        match self {
            Region::Bar(bar) => function.bar_bytes(bar),
            Region::Config => CONFIG_BYTES as u64,
        }
    }
}

/// Bytes of `struct vfio_region_info`.
const INFO_BYTES: u32 = 32;
/// Bytes of the capability that says which part can be mapped, with one part.
const SPARSE_BYTES: u32 = 32;

/// Appends the reply about a region: size and flags, and for the aperture which part of it is memory
/// (QEMU maps only regions that say so). `true`: the aperture's descriptor goes with it.
///
/// What does not fit in `argsz` is left out; the reply then says how much there is.
pub(crate) fn info(
    function: &Function,
    aperture_bytes: u64,
    argsz: u32,
    index: u32,
    out: &mut Vec<u8>,
) -> Result<bool, Errno> {
    let region = Region::of(index)?;
    let bytes = region.map_or(0, |r| r.bytes(function));
    let mapped = region == Some(Region::Bar(Bar::Aperture));
    let (full, flags, capabilities) = match (region, mapped) {
        (None, _) => (INFO_BYTES, 0, 0),
        (Some(_), false) => (INFO_BYTES, READ_WRITE, 0),
        (Some(_), true) => {
            (INFO_BYTES + SPARSE_BYTES, READ_WRITE | MAPPABLE | HAS_CAPABILITIES, INFO_BYTES)
        }
    };
    for word in [full, flags, index, capabilities] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&bytes.to_le_bytes());
    // Where the region begins in the descriptor's file.
    out.extend_from_slice(&0_u64.to_le_bytes());
    if mapped && argsz >= full {
        // struct vfio_region_info_cap_sparse_mmap: id 1, version 1, no next, one area.
        out.extend_from_slice(&1_u16.to_le_bytes());
        out.extend_from_slice(&1_u16.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&1_u32.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&0_u64.to_le_bytes());
        out.extend_from_slice(&aperture_bytes.to_le_bytes());
    }
    Ok(mapped)
}

/// Appends the reply about a kind of interrupt.
pub(crate) fn irq_info(index: u32, out: &mut Vec<u8>) -> Result<(), Errno> {
    if index >= IRQS {
        return Err(Errno::INVAL);
    }
    // Flag bit 0: eventfds. Vectors can be wired one by one at any time, so not NORESIZE.
    let (flags, count) = if index == MSIX { (1, u32::from(VECTORS)) } else { (0, 0) };
    for word in [16, flags, index, count] {
        out.extend_from_slice(&u32::to_le_bytes(word));
    }
    Ok(())
}

/// Bytes of one sub-region of `VFIO_USER_DEVICE_GET_REGION_IO_FDS`.
const IO_FD_BYTES: u32 = 40;

/// Appends the reply about doorbells: each queue's is an ioeventfd, all on one descriptor. `true`:
/// the descriptor goes with it.
pub(crate) fn io_fds(argsz: u32, index: u32, out: &mut Vec<u8>) -> Result<bool, Errno> {
    let doorbells = Region::of(index)? == Some(Region::Bar(Bar::Registers));
    let count = if doorbells { MAX_QUEUES } else { 0 };
    let full = 16 + count * IO_FD_BYTES;
    let fits = argsz >= full;
    for word in [full, 0, index, if fits { count } else { 0 }] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    if !fits {
        return Ok(false);
    }
    for queue in 0..count {
        out.extend_from_slice(&doorbell(queue).to_le_bytes());
        out.extend_from_slice(&4_u64.to_le_bytes());
        // Descriptor 0, type ioeventfd (0), no flags, padding, no value to match.
        out.extend_from_slice(&[0; 24]);
    }
    Ok(doorbells)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(bytes: &[u8]) -> Vec<u32> {
        bytes.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect()
    }

    #[test]
    fn the_aperture_says_which_part_of_it_is_memory() {
        let function = Function::new(0x30_0000).unwrap();
        let mut out = Vec::new();
        assert_eq!(info(&function, 0x30_0000, 32, 2, &mut out), Ok(true));
        assert_eq!(words(&out), [64, 15, 2, 32, 0x40_0000, 0, 0, 0], "cut, and says so");
        out.clear();
        assert_eq!(info(&function, 0x30_0000, 64, 2, &mut out), Ok(true));
        assert_eq!(words(&out)[8..], [0x1_0001, 0, 1, 0, 0, 0, 0x30_0000, 0]);
    }

    #[test]
    fn other_regions_trap_or_are_empty() {
        let function = Function::new(1 << 20).unwrap();
        for (index, bytes) in [(0, 0x8_0000), (1, 0), (4, 0x2000), (6, 0), (7, 256), (8, 0)] {
            let mut out = Vec::new();
            assert_eq!(info(&function, 1 << 20, 4096, index, &mut out), Ok(false));
            let flags = if bytes > 0 { 3 } else { 0 };
            assert_eq!(words(&out), [32, flags, index, 0, bytes, 0, 0, 0]);
        }
        assert_eq!(info(&function, 1 << 20, 32, 9, &mut Vec::new()), Err(Errno::INVAL));
    }

    #[test]
    fn doorbells_are_ioeventfds_on_one_descriptor() {
        let mut out = Vec::new();
        assert_eq!(io_fds(16, 0, &mut out), Ok(false));
        assert_eq!(words(&out), [16 + 64 * 40, 0, 0, 0]);
        out.clear();
        assert_eq!(io_fds(4096, 0, &mut out), Ok(true));
        assert_eq!(out.len(), 16 + 64 * 40);
        assert_eq!(words(&out[16 + 40..16 + 80]), [0x2000, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
        out.clear();
        assert_eq!(io_fds(4096, 2, &mut out), Ok(false));
        assert_eq!(words(&out), [16, 0, 2, 0]);
    }
}
