//! The client's memory: which windows of DMA addresses exist, and which of them have memory behind
//! them that the daemon dares to map.
//!
//! A window becomes memory of the tenant, and so registerable for DMA, only when it comes with a
//! memfd that can never shrink under the mapping: sealed with `F_SEAL_SHRINK`, with ordinary pages.
//! Touching a page of any other file can end in SIGBUS, and that would be the daemon's end. A window
//! without such a file is remembered, so that it can be unmapped, and is not DMA-able; a guest that
//! tries to register it is refused by the mediator as for any address that is no memory.
//!
//! A file is mapped once and whole, however many windows show parts of it: a VMM's firmware maps and
//! unmaps the same RAM dozens of times.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::SealFlags;
use rustix::io::Errno;
use turnstile_abi::memory::SharedMemory;
use turnstile_abi::regs::PAGE;
use turnstile_backend_api::SharedRegion;

/// Bounds of a client's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Windows at once.
    pub windows: usize,
    /// Different files at once.
    pub files: usize,
    /// Bytes of address space that all files together may take in the daemon.
    pub bytes: u64,
}

impl Default for MemoryLimits {
    fn default() -> MemoryLimits {
        MemoryLimits { windows: 1024, files: 16, bytes: 1 << 40 }
    }
}

/// A window that appears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) address: u64,
    pub(crate) bytes: u64,
    /// Where it begins in the file.
    pub(crate) offset: u64,
    /// Whether the device may both read and write it. The mediator's memory map has no other kind.
    pub(crate) whole_access: bool,
}

/// Why a window is not DMA-able, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blank {
    NoFile,
    Access,
    NotSealed,
    HugePages,
}

/// What a new window has behind it.
pub(crate) enum Backing {
    /// Memory: the region and where the window begins in it.
    Memory(Arc<SharedRegion>, u64),
    /// Nothing the daemon maps.
    Blank(Blank),
}

/// A mapped file.
#[derive(Debug)]
struct MappedFile {
    device: u64,
    inode: u64,
    region: Arc<SharedRegion>,
    windows: usize,
}

/// A window that exists.
#[derive(Debug)]
struct Known {
    bytes: u64,
    /// Device and inode of the file behind it, if it is memory.
    file: Option<(u64, u64)>,
}

/// A window that goes, or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone {
    pub(crate) address: u64,
    pub(crate) bytes: u64,
    /// Whether the dispatcher knows it.
    pub(crate) is_memory: bool,
}

/// All windows of a client.
#[derive(Debug)]
pub(crate) struct Windows {
    limits: MemoryLimits,
    known: BTreeMap<u64, Known>,
    files: Vec<MappedFile>,
}

impl Windows {
    pub(crate) fn new(limits: MemoryLimits) -> Windows {
        Windows { limits, known: BTreeMap::new(), files: Vec::new() }
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// Checks a window and finds what is behind it. Nothing changes until [`insert`](Self::insert),
    /// except that a file may be mapped.
    ///
    /// # Errors
    /// `EINVAL`: empty, wraps, not page aligned, or beyond the end of its file. `EEXIST`: overlaps
    /// another. `ENOSPC`: over a limit. `ENOMEM`: the kernel maps no more.
    pub(crate) fn prepare(&mut self, w: &Window, fd: Option<OwnedFd>) -> Result<Backing, Errno> {
        let end = w.address.checked_add(w.bytes).ok_or(Errno::INVAL)?;
        if w.bytes == 0 || (w.address | w.bytes | w.offset) & (PAGE - 1) != 0 {
            return Err(Errno::INVAL);
        }
        let before = self.known.range(..end).next_back();
        if before.is_some_and(|(at, known)| at + known.bytes > w.address) {
            return Err(Errno::EXIST);
        }
        if self.known.len() >= self.limits.windows {
            return Err(Errno::NOSPC);
        }
        let Some(fd) = fd else { return Ok(Backing::Blank(Blank::NoFile)) };
        // Seals first: only memory files have them, and asking cannot block, which asking a file
        // system of the client's own could.
        match rustix::fs::fcntl_get_seals(&fd) {
            Ok(seals) if seals.contains(SealFlags::SHRINK) => {}
            _ => return Ok(Backing::Blank(Blank::NotSealed)),
        }
        if !w.whole_access {
            return Ok(Backing::Blank(Blank::Access));
        }
        // A hole in huge pages is filled from a pool that can be empty, which would be SIGBUS.
        const TMPFS_MAGIC: u64 = 0x0102_1994;
        // CAST: the field's type differs between architectures; the magic fits in all of them.
        if rustix::fs::fstatfs(&fd)?.f_type as u64 != TMPFS_MAGIC {
            return Ok(Backing::Blank(Blank::HugePages));
        }
        let region = self.region(w, fd)?;
        Ok(Backing::Memory(region, w.offset))
    }

    /// The mapping of a sealed memfd, whole.
    fn region(&mut self, w: &Window, fd: OwnedFd) -> Result<Arc<SharedRegion>, Errno> {
        let stat = rustix::fs::fstat(&fd)?;
        let size = u64::try_from(stat.st_size).map_err(|_| Errno::INVAL)?;
        if !turnstile_abi::memory::contains(size, w.offset, w.bytes) {
            return Err(Errno::INVAL);
        }
        let this = |f: &MappedFile| (f.device, f.inode) == (stat.st_dev, stat.st_ino);
        let known = self.files.iter().position(this);
        if let Some(i) = known
            && turnstile_abi::memory::contains(self.files[i].region.size(), w.offset, w.bytes)
        {
            return Ok(self.files[i].region.clone());
        }
        // New, or it has grown since it was mapped.
        let mapped: u64 = self.files.iter().map(|f| f.region.size()).sum();
        if mapped.checked_add(size).is_none_or(|total| total > self.limits.bytes) {
            return Err(Errno::NOSPC);
        }
        if known.is_none() && self.files.len() >= self.limits.files {
            return Err(Errno::NOSPC);
        }
        let whole = size - size % PAGE;
        let region = SharedRegion::map(fd, 0, whole).map_err(|_| Errno::NOMEM)?;
        let region = Arc::new(region);
        match known {
            Some(i) => self.files[i].region = region.clone(),
            None => self.files.push(MappedFile {
                device: stat.st_dev,
                inode: stat.st_ino,
                region: region.clone(),
                windows: 0,
            }),
        }
        Ok(region)
    }

    /// Remembers a window that was prepared, or forgets the file again if the dispatcher did not
    /// want the memory (`accepted` is false).
    pub(crate) fn settle(&mut self, w: &Window, backing: &Backing, accepted: bool) {
        let file = match backing {
            Backing::Memory(region, _) => {
                let file = self.files.iter_mut().find(|f| Arc::ptr_eq(&f.region, region));
                file.map(|file| {
                    file.windows += usize::from(accepted);
                    (file.device, file.inode)
                })
            }
            Backing::Blank(_) => None,
        };
        if accepted {
            self.known.insert(w.address, Known { bytes: w.bytes, file });
        }
        self.files.retain(|f| f.windows > 0);
    }

    /// The windows that an unmapping takes away: all, or those wholly inside the range. There may be
    /// none: VMMs unmap what they never mapped (QEMU all addresses of a vIOMMU), as the kernel's VFIO
    /// lets them.
    ///
    /// # Errors
    /// `EINVAL`: the range is empty or wraps, or cuts a window in two.
    pub(crate) fn covered(&self, all: bool, address: u64, bytes: u64) -> Result<Vec<Gone>, Errno> {
        let gone = |(&address, known): (&u64, &Known)| Gone {
            address,
            bytes: known.bytes,
            is_memory: known.file.is_some(),
        };
        if all {
            return Ok(self.known.iter().map(gone).collect());
        }
        let last = bytes.checked_sub(1).and_then(|more| address.checked_add(more));
        // No window reaches to the last address, so an end one short of it cuts none.
        let end = last.ok_or(Errno::INVAL)?.saturating_add(1);
        let cut = |at: &u64, known: &Known| *at < address || at + known.bytes > end;
        let first =
            self.known.range(..=address).next_back().map_or(address, |(at, known)| {
                if at + known.bytes > address { *at } else { address }
            });
        let inside = self.known.range(first..end);
        if inside.clone().any(|(at, known)| cut(at, known)) {
            return Err(Errno::INVAL);
        }
        Ok(inside.map(gone).collect())
    }

    /// Forgets a window.
    pub(crate) fn remove(&mut self, address: u64) {
        let Some(known) = self.known.remove(&address) else { return };
        if let Some(id) = known.file
            && let Some(file) = self.files.iter_mut().find(|f| (f.device, f.inode) == id)
        {
            file.windows = file.windows.saturating_sub(1);
        }
        self.files.retain(|f| f.windows > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::MemfdFlags;

    const MIB: u64 = 1 << 20;

    fn memfd(bytes: u64, seals: SealFlags) -> OwnedFd {
        let fd = rustix::fs::memfd_create("t", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&fd, bytes).unwrap();
        rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
        fd
    }
    fn sealed(bytes: u64) -> OwnedFd {
        memfd(bytes, SealFlags::SHRINK)
    }
    fn window(address: u64, bytes: u64, offset: u64) -> Window {
        Window { address, bytes, offset, whole_access: true }
    }
    fn add(windows: &mut Windows, w: Window, fd: Option<OwnedFd>) -> Result<bool, Errno> {
        let backing = windows.prepare(&w, fd)?;
        windows.settle(&w, &backing, true);
        Ok(matches!(backing, Backing::Memory(..)))
    }

    #[test]
    fn only_memory_that_cannot_shrink_is_mapped() {
        let mut w = Windows::new(MemoryLimits::default());
        assert_eq!(add(&mut w, window(0, MIB, 0), Some(sealed(MIB))), Ok(true));
        assert_eq!(add(&mut w, window(MIB, MIB, 0), None), Ok(false));
        let unsealed = memfd(MIB, SealFlags::GROW);
        assert_eq!(add(&mut w, window(2 * MIB, MIB, 0), Some(unsealed)), Ok(false));
        let file: OwnedFd = tempfile::tempfile().unwrap().into();
        assert_eq!(add(&mut w, window(3 * MIB, MIB, 0), Some(file)), Ok(false));
        let (socket, _other) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        assert_eq!(add(&mut w, window(4 * MIB, MIB, 0), Some(socket)), Ok(false));
        let rom = Window { whole_access: false, ..window(5 * MIB, MIB, 0) };
        assert_eq!(add(&mut w, rom, Some(sealed(MIB))), Ok(false));
        assert_eq!((w.len(), w.files.len()), (6, 1));
    }

    #[test]
    fn shapes_overlaps_and_ends_are_checked() {
        let mut w = Windows::new(MemoryLimits { windows: 3, files: 2, bytes: 64 * MIB });
        for bad in [
            window(0, 0, 0),
            window(1, MIB, 0),
            window(0, MIB + 1, 0),
            window(0, MIB, 5),
            window(u64::MAX - 4095, MIB, 0),
            window(0, MIB, MIB),
            window(0, 2 * MIB, 0),
            window(0, MIB, u64::MAX - 4095),
        ] {
            assert_eq!(add(&mut w, bad, Some(sealed(MIB))), Err(Errno::INVAL), "{bad:?}");
        }
        let huge = sealed(1 << 46);
        assert_eq!(add(&mut w, window(0, 1 << 46, 0), Some(huge)), Err(Errno::NOSPC));
        assert_eq!((w.len(), w.files.len()), (0, 0), "nothing was kept");
        assert_eq!(add(&mut w, window(2 * MIB, MIB, 0), None), Ok(false));
        for over in [window(2 * MIB, MIB, 0), window(MIB, 2 * MIB, 0), window(0, 1 << 40, 0)] {
            assert_eq!(add(&mut w, over, None), Err(Errno::EXIST));
        }
        assert_eq!(add(&mut w, window(MIB, MIB, 0), Some(sealed(MIB))), Ok(true));
        assert_eq!(add(&mut w, window(3 * MIB, MIB, 0), Some(sealed(MIB))), Ok(true));
        assert_eq!(add(&mut w, window(4 * MIB, MIB, 0), None), Err(Errno::NOSPC));
        w.remove(2 * MIB);
        let third = Some(sealed(MIB));
        assert_eq!(add(&mut w, window(4 * MIB, MIB, 0), third), Err(Errno::NOSPC), "files");
    }

    #[test]
    fn a_file_is_mapped_once_and_let_go_with_its_last_window() {
        let mut w = Windows::new(MemoryLimits::default());
        let fd = memfd(4 * MIB, SealFlags::SHRINK);
        let again = || Some(fd.try_clone().unwrap());
        for i in 0..4 {
            assert_eq!(add(&mut w, window(i * 2 * MIB, MIB, i * MIB), again()), Ok(true));
        }
        assert_eq!(w.files.len(), 1);
        rustix::fs::ftruncate(&fd, 8 * MIB).unwrap();
        assert_eq!(add(&mut w, window(64 * MIB, MIB, 7 * MIB), again()), Ok(true), "it grew");
        assert_eq!(w.files.len(), 1);
        let refused = window(128 * MIB, MIB, 0);
        let backing = w.prepare(&refused, Some(sealed(MIB))).unwrap();
        w.settle(&refused, &backing, false);
        assert_eq!((w.len(), w.files.len()), (5, 1));
        for gone in w.covered(true, 0, 0).unwrap() {
            assert!(gone.is_memory);
            w.remove(gone.address);
        }
        assert_eq!((w.len(), w.files.len()), (0, 0));
    }

    #[test]
    fn an_unmapping_takes_whole_windows() {
        let mut w = Windows::new(MemoryLimits::default());
        for i in 1..4 {
            add(&mut w, window(i * 2 * MIB, MIB, 0), None).unwrap();
        }
        let at = |address, bytes| w.covered(false, address, bytes).map(|gone| gone.len());
        assert_eq!(at(2 * MIB, MIB), Ok(1));
        assert_eq!(at(0, 8 * MIB), Ok(3));
        assert_eq!(at(3 * MIB, 2 * MIB), Ok(1));
        assert_eq!((at(0, MIB), at(3 * MIB, MIB)), (Ok(0), Ok(0)));
        assert_eq!((at(1 << 63, 1 << 63), at(1 << 20, u64::MAX - (1 << 20))), (Ok(0), Ok(3)));
        for (address, bytes) in [(2 * MIB, 4096), (2 * MIB + 4096, MIB), (0, 2 * MIB + 4096)] {
            assert_eq!(at(address, bytes), Err(Errno::INVAL), "{address:#x} {bytes:#x}");
        }
        assert_eq!(at(0, 0), Err(Errno::INVAL));
        assert_eq!(at(u64::MAX, 2), Err(Errno::INVAL));
    }
}
