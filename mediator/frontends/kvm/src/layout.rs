//! What lies where in guest physical memory.
//!
//! Low RAM begins at 0 and ends at the device hole at the latest; what is more goes above 4 GiB. BARs
//! live in a window of their own, far above RAM, so that any aperture fits. The first 64 KiB hold
//! what the VM hands to the guest.

/// Global descriptor table.
pub(crate) const GDT: u64 = 0x500;
/// Boot record of a bare-metal guest.
pub(crate) const BOOT_INFO: u64 = 0x6000;
/// Linux's zero page.
pub(crate) const ZERO_PAGE: u64 = 0x7000;
/// Command line.
pub(crate) const COMMAND_LINE: u64 = 0x8000;
/// Page tables: PML4, PDPT, the page table of the first 2 MiB, then page directories.
pub(crate) const PAGE_TABLES: u64 = 0x1_0000;
/// End of the space for page tables.
pub(crate) const PAGE_TABLES_END: u64 = 0x9_0000;
/// End of conventional memory; from here to [`HIGH_MEMORY`] a PC has its BIOS.
pub(crate) const LOW_END: u64 = 0xa_0000;
/// ACPI tables, in the BIOS area.
pub(crate) const ACPI_TABLES: u64 = 0xe_0000;
/// Where memory above the BIOS area begins, and where a bzImage is loaded.
pub(crate) const HIGH_MEMORY: u64 = 0x10_0000;

/// End of low RAM: the device hole.
pub(crate) const HOLE: u64 = 0xc000_0000;
/// End of the device hole: RAM goes on here.
pub(crate) const HOLE_END: u64 = 1 << 32;
/// I/O APIC.
pub(crate) const IO_APIC: u64 = 0xfec0_0000;
/// Local APICs.
pub(crate) const LOCAL_APIC: u64 = 0xfee0_0000;
/// Pages that KVM wants on Intel processors: identity map, then the task state segment.
pub(crate) const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages after the identity map.
pub(crate) const KVM_TSS: usize = 0xfffb_d000;

/// Where the window for BARs begins: 256 GiB, within the reach of every 64-bit processor.
pub(crate) const WINDOW: u64 = 0x40_0000_0000;
/// Smallest window.
pub(crate) const WINDOW_MIN: u64 = 1 << 30;

/// Least and most RAM a VM can have, in bytes.
pub(crate) const RAM: std::ops::RangeInclusive<u64> = (2 << 20)..=(48 << 30);
/// Largest aperture, so that the page tables fit.
pub(crate) const APERTURE_MAX: u64 = 16 << 30;
/// Most vCPUs.
pub(crate) const VCPUS_MAX: u8 = 64;

/// Size of the BAR window for an aperture of this many bytes: room for the three BARs in any order.
pub(crate) const fn window_bytes(aperture_bytes: u64) -> u64 {
    let twice = aperture_bytes.next_power_of_two() * 2;
    if twice < WINDOW_MIN { WINDOW_MIN } else { twice }
}
