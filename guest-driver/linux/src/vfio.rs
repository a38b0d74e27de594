//! The device through VFIO in the guest: interrupts in eventfds and, with a (v)IOMMU, DMA.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use turnstile_abi::regs::{BAR0_SIZE, PAGE, VECTORS};
use turnstile_driver::Transport;
use turnstile_driver::mmio::{Memory, Registers};

use crate::find::Function;
use crate::map::{MappedMemory, MappedRegisters};
use crate::{OpenError, ioctl};

/// Where pages for DMA lie in the function's address space. Any place would do: it is its own.
const PAGES_IOVA: u64 = 0x1000_0000;
/// How many bytes of them there are. Behind a vIOMMU each page may become a window of its own at
/// the mediator, which has room for a thousand.
const PAGES_BYTES: u64 = 1 << 20;
/// Configuration space among VFIO's regions.
const CONFIG: u32 = 7;
/// The command register, and two of its bits: memory decoding and bus mastering.
const COMMAND: u64 = 4;
const MEMORY: u16 = 1 << 1;
const MASTER: u16 = 1 << 2;

/// The way to a device through VFIO.
#[derive(Debug)]
pub struct VfioTransport {
    // Dropped in this order: the device is let go, and with the container its reach into memory,
    // before the memory itself is unmapped.
    registers: MappedRegisters,
    aperture: MappedMemory,
    vectors: Vec<OwnedFd>,
    device: File,
    /// What was opened to get at the function; `None`: somebody else did, and maps memory.
    way: Option<Way>,
    pages: Option<MappedMemory>,
    /// Waits that an interrupt ended.
    interrupts: AtomicU64,
    start: Instant,
}

/// The files through which a function was opened.
#[derive(Debug)]
struct Way {
    _group: File,
    container: File,
}

fn open(path: &str) -> Result<File, OpenError> {
    std::fs::OpenOptions::new().read(true).write(true).open(path).map_err(OpenError::file(
        "open",
        path,
        "load vfio-pci and check the permissions",
    ))
}

/// Sets and clears bits of the command register.
fn command(device: &File, set: u16, clear: u16) -> std::io::Result<()> {
    let at = ioctl::region(device, CONFIG)?.offset + COMMAND;
    let mut word = [0; 2];
    device.read_exact_at(&mut word, at)?;
    let word = (u16::from_le_bytes(word) | set) & !clear;
    device.write_all_at(&word.to_le_bytes(), at)
}

impl VfioTransport {
    /// Opens a function that is bound to vfio-pci.
    ///
    /// # Errors
    /// When VFIO says no; the message says at which step.
    pub fn open(function: &Function) -> Result<VfioTransport, OpenError> {
        let link = function.directory().join("iommu_group");
        let number = std::fs::read_link(&link).map_err(OpenError::file(
            "find the IOMMU group at",
            &link,
            "give the VM a vIOMMU, or load vfio with enable_unsafe_noiommu_mode=1",
        ))?;
        let number = number.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let with_iommu = format!("/dev/vfio/{number}");
        let has_iommu = std::path::Path::new(&with_iommu).exists();
        let path = if has_iommu { with_iommu } else { format!("/dev/vfio/noiommu-{number}") };
        let container = open("/dev/vfio/vfio")?;
        let group = open(&path)?;
        let step = |what, fix| OpenError::file(what, &path, fix);
        if !ioctl::is_viable(&group).map_err(step("ask the state of", "see dmesg"))? {
            return Err(OpenError::Group(number));
        }
        ioctl::set_container(&group, &container)
            .map_err(step("put into a container", "see dmesg"))?;
        let kind = if has_iommu { ioctl::TYPE1V2 } else { ioctl::NOIOMMU };
        ioctl::set_iommu(&container, kind)
            .map_err(step("choose the IOMMU for", "load vfio_iommu_type1"))?;
        let device = ioctl::device(&group, &function.address)
            .map_err(step("open the function of", "see dmesg"))?;

        let mut transport = VfioTransport::over(device, &function.address)?;
        transport.way = Some(Way { _group: group, container });
        if has_iommu {
            transport.add_pages().map_err(step("map memory for DMA in", "raise ulimit -l"))?;
        }
        Ok(transport)
    }

    /// Over a function that somebody else opened, and lets reach memory as they see fit. It is reset,
    /// its BARs are mapped, its interrupts wired; last, it becomes a bus master.
    ///
    /// # Errors
    /// When VFIO says no, or the BARs are not those of a Turnstile device.
    pub fn over(device: File, address: &str) -> Result<VfioTransport, OpenError> {
        let step = |what, fix| OpenError::file(what, address, fix);
        // Not every function can be reset; a Turnstile device has a reset of its own.
        let _ = ioctl::reset(&device);
        command(&device, MEMORY, 0).map_err(step("switch on the BARs of", "see dmesg"))?;
        let bar = |index: u8, least: u64| {
            let region = ioctl::region(&device, index.into())
                .map_err(step("ask for the BARs of", "see dmesg"))?;
            if region.bytes < least || !region.mappable {
                let (function, bytes) = (address.to_owned(), region.bytes);
                return Err(OpenError::Bar { function, bar: index, bytes });
            }
            Ok(region)
        };
        let (zero, two) = (bar(0, BAR0_SIZE)?, bar(2, PAGE)?);
        let registers = MappedRegisters::map(&device, zero.offset, zero.bytes)
            .map_err(step("map BAR0 of", "see dmesg"))?;
        let aperture = MappedMemory::map(&device, two.offset, two.bytes)
            .map_err(step("map BAR2 of", "see dmesg"))?;
        let event = |_| eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let vectors: Vec<OwnedFd> = (0..VECTORS)
            .map(event)
            .collect::<Result<_, _>>()
            .map_err(std::io::Error::from)
            .map_err(step("make eventfds for", "raise ulimit -n"))?;
        ioctl::wire(&device, ioctl::MSIX, &vectors)
            .map_err(step("wire the interrupts of", "see dmesg"))?;
        command(&device, MASTER, 0).map_err(step("make a bus master of", "see dmesg"))?;
        let interrupts = AtomicU64::new(0);
        let start = Instant::now();
        Ok(VfioTransport {
            registers,
            aperture,
            vectors,
            device,
            way: None,
            pages: None,
            interrupts,
            start,
        })
    }

    fn add_pages(&mut self) -> std::io::Result<()> {
        let Some(Way { container, .. }) = &self.way else { return Ok(()) };
        let pages = MappedMemory::anonymous(PAGES_BYTES)?;
        let access = ioctl::DMA_READ | ioctl::DMA_WRITE;
        // SAFETY: the memory is dropped after the container (see the fields' order), and `Memory`
        // lends no references into it.
        unsafe { ioctl::map_dma(container, PAGES_IOVA, pages.address(), PAGES_BYTES, access)? };
        self.pages = Some(pages);
        Ok(())
    }

    /// BAR0, for accesses of any width.
    #[must_use]
    pub fn registers(&self) -> &Registers {
        self.registers.get()
    }

    /// The eventfd of an interrupt vector, to wait for it among other things.
    #[must_use]
    pub fn vector(&self, vector: u16) -> Option<&OwnedFd> {
        self.vectors.get(usize::from(vector))
    }

    /// Waits that an interrupt ended so far.
    #[must_use]
    pub fn interrupts(&self) -> u64 {
        self.interrupts.load(Ordering::Relaxed)
    }

    /// Pages that the device can be allowed to reach, and their address for it.
    #[must_use]
    pub fn pages(&self) -> Option<(&Memory, u64)> {
        self.pages.as_ref().map(|pages| (pages.get(), PAGES_IOVA))
    }
}

impl Drop for VfioTransport {
    fn drop(&mut self) {
        // Before the memory goes, nothing may reach it any more; closing would do as much.
        let _ = command(&self.device, 0, MASTER);
        let _ = ioctl::wire(&self.device, ioctl::MSIX, &[]);
        let _ = ioctl::reset(&self.device);
        if let (Some(way), Some(_)) = (&self.way, &self.pages) {
            let _ = ioctl::unmap_dma(&way.container, PAGES_IOVA, PAGES_BYTES);
        }
    }
}

impl Transport for VfioTransport {
    type Aperture = Memory;

    fn read32(&self, at: u64) -> u32 {
        // CAST: the low half is all that was read.
        self.registers().read(at, 4) as u32
    }
    fn write32(&self, at: u64, value: u32) {
        self.registers().write(at, 4, value.into());
    }
    fn aperture(&self) -> &Memory {
        self.aperture.get()
    }
    fn wait_for_interrupt(&self, vector: u16, bound_ns: u64) {
        let Some(fd) = self.vectors.get(usize::from(vector)) else { return };
        let bound = Duration::from_nanos(bound_ns);
        let timeout = Timespec {
            tv_sec: bound.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: bound.subsec_nanos().into(),
        };
        if poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)).is_ok_and(|n| n > 0) {
            let _ = rustix::io::read(fd, &mut [0_u8; 8]);
            self.interrupts.fetch_add(1, Ordering::Relaxed);
        }
    }
    fn now_ns(&self) -> u64 {
        // CAST: 584 years of uptime fit.
        self.start.elapsed().as_nanos() as u64
    }
}
