//! Linux by its 64-bit boot protocol (Documentation/arch/x86/boot.rst): kernel, initramfs, command
//! line, memory map, zero page, ACPI tables.

use std::io::Cursor;

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use linux_loader::loader::KernelLoader;
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::bzimage::BzImage;
use vm_memory::{ByteValued, GuestAddress};

use super::acpi;
use crate::KvmError;
use crate::layout::{ACPI_TABLES, COMMAND_LINE, HIGH_MEMORY, LOW_END, PAGE_TABLES, ZERO_PAGE};
use crate::memory::{Ram, RamSlot};
use crate::sys::Vm;

/// What every Linux guest is told: the console; to reset through the keyboard controller, also when
/// it panics; how to reach PCI.
const DEFAULTS: &str = "console=ttyS0 reboot=k panic=-1 pci=conf1";
/// Boot sector signature.
const BOOT_FLAG: u16 = 0xaa55;
/// `"HdrS"`.
const HEADER: u32 = 0x5372_6448;
/// Where the header's magic word is in a bzImage.
const HEADER_AT: usize = 0x202;
/// Oldest protocol with the 64-bit entry point.
const VERSION_64: u16 = 0x20c;
/// The kernel has the 64-bit entry point (`XLF_KERNEL_64`).
const HAS_64: u16 = 1;
/// The 64-bit entry point of a bzImage, from its load address.
const ENTRY_64: u64 = 0x200;
/// Loader type: none that is registered.
const LOADER: u8 = 0xff;
/// Highest address for an initramfs when the kernel does not say.
const INITRAMFS_MAX: u64 = 0x37ff_ffff;
/// Types of the memory map.
const USABLE: u32 = 1;
const RESERVED: u32 = 2;

const EXPECTED: &str = "a 64-bit x86 bzImage or vmlinux, an initramfs that fits into memory, and a \
                        command line that the kernel has room for";

fn bad(what: impl Into<String>) -> KvmError {
    KvmError::Image { what: what.into(), expected: EXPECTED }
}

/// The timer that Linux expects to find and the bare-metal guests have no use for.
pub(crate) fn clockwork(vm: &Vm) -> Result<(), KvmError> {
    let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
    vm.fd().create_pit2(pit).map_err(KvmError::call("create the interval timer"))
}

/// Loads a kernel and all that goes with it. Returns the entry point.
pub(super) fn load(
    ram: &Ram,
    kernel: &[u8],
    initramfs: Option<&[u8]>,
    arguments: &str,
    vcpus: u8,
    window: (u64, u64),
) -> Result<u64, KvmError> {
    let (entry, header, end) = load_kernel(ram, kernel)?;
    let line = format!("{DEFAULTS} {arguments}");
    let initramfs = initramfs.map(|bytes| place(ram, bytes, end, &header)).transpose()?;
    let params = zero_page(header, ram.slots(), &line, initramfs)?;
    ram.write(ZERO_PAGE, params.as_slice())?;
    ram.write(COMMAND_LINE, line.as_bytes())?;
    ram.write(COMMAND_LINE + line.len() as u64, &[0])?;
    ram.write(ACPI_TABLES, &acpi::tables(vcpus, window))?;
    Ok(entry)
}

/// Loads the kernel: its entry point, its header, and where it ends.
fn load_kernel(ram: &Ram, kernel: &[u8]) -> Result<(u64, setup_header, u64), KvmError> {
    if kernel.get(HEADER_AT..HEADER_AT + 4) == Some(&HEADER.to_le_bytes()) {
        let memory = ram.for_loader()?;
        let start = Some(GuestAddress(HIGH_MEMORY));
        let loaded = BzImage::load(&memory, None, &mut Cursor::new(kernel), start)
            .map_err(|error| bad(error.to_string()))?;
        let header = loaded.setup_header.ok_or_else(|| bad("the bzImage has no header"))?;
        let (version, flags) = (header.version, header.xloadflags);
        if version < VERSION_64 || flags & HAS_64 == 0 {
            return Err(bad(format!("the bzImage (protocol {version:#x}) has no 64-bit entry")));
        }
        // The kernel unpacks itself in place: it needs `init_size`, not just its own bytes.
        let base = loaded.kernel_load.0;
        let end = loaded.kernel_end.max(base + u64::from(header.init_size));
        return Ok((base + ENTRY_64, header, end));
    }
    let loaded = super::load_elf(ram, kernel, EXPECTED)?;
    let header = setup_header {
        header: HEADER,
        boot_flag: BOOT_FLAG,
        cmdline_size: turnstile_boot::COMMAND_LINE_MAX as u32 - 1,
        initrd_addr_max: INITRAMFS_MAX as u32,
        kernel_alignment: 0x100_0000,
        ..Default::default()
    };
    Ok((loaded.kernel_load.0, header, loaded.kernel_end))
}

/// Puts the initramfs at the top of the memory that the kernel can reach: address and length.
fn place(
    ram: &Ram,
    bytes: &[u8],
    kernel_end: u64,
    header: &setup_header,
) -> Result<(u32, u32), KvmError> {
    let reach = match header.initrd_addr_max {
        0 => INITRAMFS_MAX,
        max => max.into(),
    };
    let top = ram.low_bytes().min(reach + 1);
    let at = top.checked_sub(bytes.len() as u64).map_or(0, |at| at & !0xfff);
    if at < kernel_end {
        let (need, have) = (bytes.len(), top.saturating_sub(kernel_end));
        return Err(bad(format!("the initramfs takes {need} bytes and {have} are left")));
    }
    ram.write(at, bytes)?;
    let word = |value: u64| u32::try_from(value).map_err(|_| bad("the initramfs is too large"));
    Ok((word(at)?, word(bytes.len() as u64)?))
}

/// The zero page: the kernel's own header completed, and the memory map.
fn zero_page(
    mut header: setup_header,
    ram: &[RamSlot],
    line: &str,
    initramfs: Option<(u32, u32)>,
) -> Result<boot_params, KvmError> {
    let room = header.cmdline_size as usize;
    if line.len() > room {
        return Err(bad(format!("the command line is {} bytes of {room}", line.len())));
    }
    header.type_of_loader = LOADER;
    header.cmd_line_ptr = COMMAND_LINE as u32;
    if let Some((at, bytes)) = initramfs {
        (header.ramdisk_image, header.ramdisk_size) = (at, bytes);
    }
    let mut params = boot_params { hdr: header, acpi_rsdp_addr: ACPI_TABLES, ..Default::default() };
    let map = memory_map(ram);
    for (slot, &(addr, size, kind)) in params.e820_table.iter_mut().zip(&map) {
        *slot = boot_e820_entry { addr, size, r#type: kind };
    }
    params.e820_entries = map.len() as u8;
    Ok(params)
}

/// The memory map: address, length, type.
fn memory_map(ram: &[RamSlot]) -> Vec<(u64, u64, u32)> {
    let mut map = vec![(0, LOW_END, USABLE), (ACPI_TABLES, HIGH_MEMORY - ACPI_TABLES, RESERVED)];
    for slot in ram {
        let start = slot.gpa.max(HIGH_MEMORY);
        map.push((start, slot.gpa + slot.bytes - start, USABLE));
    }
    map
}

const _: () = assert!(ZERO_PAGE + 4096 <= COMMAND_LINE);
const _: () = assert!(COMMAND_LINE + 0x2000 <= PAGE_TABLES);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::slots;

    fn header() -> setup_header {
        setup_header { cmdline_size: 255, initrd_addr_max: 0x7fff_ffff, ..Default::default() }
    }

    #[test]
    fn the_memory_map_leaves_the_bios_and_the_hole_out() {
        assert_eq!(
            memory_map(&slots(5 << 30)),
            [
                (0, 0xa_0000, USABLE),
                (0xe_0000, 0x2_0000, RESERVED),
                (0x10_0000, 0xbff0_0000, USABLE),
                (1 << 32, 2 << 30, USABLE),
            ]
        );
    }

    #[test]
    fn golden_zero_page() {
        let ram = slots(256 << 20);
        let params = zero_page(header(), &ram, "quiet", Some((0x100_0000, 77))).unwrap();
        let bytes = params.as_slice();
        assert_eq!(bytes.len(), 4096);
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        // Offsets from Documentation/arch/x86/zero-page.rst and boot.rst.
        assert_eq!(word(0x70), 0xe_0000, "acpi_rsdp_addr");
        assert_eq!(bytes[0x1e8], 3, "entries of the memory map");
        assert_eq!(bytes[0x210], 0xff, "type_of_loader");
        assert_eq!((word(0x218), word(0x21c)), (0x100_0000, 77), "ramdisk");
        assert_eq!(word(0x228), 0x8000, "cmd_line_ptr");
        assert_eq!(word(0x2d0 + 20 * 2), 0x10_0000, "third range");
        assert_eq!(word(0x2d0 + 20 * 2 + 8), 255 << 20);
        assert_eq!(word(0x2d0 + 20 * 2 + 16), 1);
    }

    #[test]
    fn a_command_line_that_is_too_long_is_refused() {
        let error = zero_page(header(), &[], &"x".repeat(256), None).unwrap_err().to_string();
        assert!(error.contains("256 bytes of 255"), "{error}");
    }
}
