//! What is in guest memory and in the vCPUs when the guest starts.
//!
//! Three kinds of images: a bare-metal ELF executable (the agreement is `turnstile_boot`'s), Linux
//! (its own 64-bit boot protocol, Documentation/arch/x86/boot.rst), and flat code for measurements.

mod acpi;
mod linux;
mod paging;
mod registers;

use std::io::Cursor;

use linux_loader::loader::elf::Elf;
use linux_loader::loader::{KernelLoader, KernelLoaderResult};
use turnstile_boot::BootInfo;
use vm_memory::GuestAddress;

use crate::machine::Payload;
use crate::memory::Ram;
use crate::{KvmError, layout};

pub(crate) use linux::clockwork as linux_clockwork;
pub(crate) use registers::Entry;

/// Where flat code is placed.
const FLAT: u64 = 0x20_0000;

/// An image to boot.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Image<'a> {
    /// A bare-metal ELF executable.
    Elf(&'a [u8]),
    /// Linux and its initramfs.
    Linux(&'a [u8], Option<&'a [u8]>),
    /// Position-independent code that starts at its first byte.
    Flat {
        /// The code.
        code: &'a [u8],
        /// Whether BARs are assigned; if not, nothing is in the window.
        assign: bool,
    },
}

impl<'a> From<&'a Payload> for Image<'a> {
    fn from(payload: &'a Payload) -> Image<'a> {
        match payload {
            Payload::Elf(image) => Image::Elf(image),
            Payload::Linux { kernel, initramfs } => Image::Linux(kernel, initramfs.as_deref()),
        }
    }
}

impl Image<'_> {
    /// Whether it expects to find BARs assigned.
    pub(crate) const fn wants_firmware(&self) -> bool {
        matches!(self, Image::Linux(..) | Image::Flat { assign: true, .. })
    }
    /// Whether it is Linux.
    pub(crate) const fn is_linux(&self) -> bool {
        matches!(self, Image::Linux(..))
    }
}

/// Loads an image and all that it needs into RAM. `window` is where BARs go: base and length.
pub(crate) fn load(
    image: &Image<'_>,
    arguments: &str,
    ram: &Ram,
    window: (u64, u64),
    vcpus: u8,
    tsc_khz: u32,
) -> Result<Entry, KvmError> {
    let map_page_0 = image.is_linux();
    let tables = paging::tables(ram.slots(), window, map_page_0)?;
    match image {
        Image::Elf(bytes) => {
            let loaded = load_elf(ram, bytes, "a static 64-bit x86 ELF executable")?;
            ram.write(layout::PAGE_TABLES, &tables)?;
            ram.write(layout::COMMAND_LINE, arguments.as_bytes())?;
            let info = BootInfo {
                ram_bytes: ram.low_bytes(),
                window_base: window.0,
                window_bytes: window.1,
                tsc_khz: tsc_khz.into(),
                cpus: vcpus.into(),
                command_line: layout::COMMAND_LINE,
                command_line_bytes: arguments.len() as u64,
            };
            ram.write(layout::BOOT_INFO, &info.to_bytes())?;
            ram.write(layout::GDT, &registers::gdt())?;
            Ok(Entry::bare(loaded.kernel_load.0, layout::BOOT_INFO))
        }
        Image::Linux(kernel, initramfs) => {
            let entry = linux::load(ram, kernel, *initramfs, arguments, vcpus, window)?;
            ram.write(layout::PAGE_TABLES, &tables)?;
            ram.write(layout::GDT, &registers::gdt())?;
            Ok(Entry::linux(entry))
        }
        Image::Flat { code, .. } => {
            ram.write(FLAT, code)?;
            ram.write(layout::PAGE_TABLES, &tables)?;
            ram.write(layout::GDT, &registers::gdt())?;
            Ok(Entry::bare(FLAT, window.0))
        }
    }
}

fn load_elf(
    ram: &Ram,
    image: &[u8],
    expected: &'static str,
) -> Result<KernelLoaderResult, KvmError> {
    let memory = ram.for_loader()?;
    let start = Some(GuestAddress(layout::HIGH_MEMORY));
    Elf::load(&memory, None, &mut Cursor::new(image), start)
        .map_err(|error| KvmError::Image { what: error.to_string(), expected })
}
