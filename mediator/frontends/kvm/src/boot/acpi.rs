//! The ACPI tables of a Linux guest (ACPI Specification 6.5, chapters 5 and 6): processors, I/O APIC,
//! the PCI bus with its windows, the serial line. Reduced hardware: there is no power management.
//!
//! Tables for a machine with a fixed set of devices; nothing in them depends on the guest.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Name, Path,
    ResourceTemplate,
};
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use turnstile_boot::SERIAL_PORT;

use crate::layout::{ACPI_TABLES, HOLE, IO_APIC, LOCAL_APIC};

const OEM: [u8; 6] = *b"TRNSTL";
const TABLE: [u8; 8] = *b"MICROVM ";
const REVISION: u32 = 1;
/// Revision of the DSDT from which integers are 64 bits wide.
const DSDT_REVISION: u8 = 2;
/// `IAPC_BOOT_ARCH` flags (table 5.11): what a PC has and this one does not.
const NO_VGA: u16 = 1 << 2;
const NO_CMOS_CLOCK: u16 = 1 << 5;
const HEADER_BYTES: u32 = 36;
/// Interrupt of the first serial line.
const SERIAL_LINE: u32 = 4;

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// All tables in one piece, to be placed at [`ACPI_TABLES`], where the root pointer is then. `window`
/// is where BARs go: base and length.
pub(super) fn tables(vcpus: u8, window: (u64, u64)) -> Vec<u8> {
    let mut all = vec![0; Rsdp::len().next_multiple_of(16)];
    let mut add = |table: Vec<u8>| {
        let at = ACPI_TABLES + all.len() as u64;
        all.extend(table);
        all.resize(all.len().next_multiple_of(16), 0);
        at
    };
    let dsdt = add(dsdt(window));
    let mut fadt = FADTBuilder::new(OEM, TABLE, REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .preferred_pm_profile(PmProfile::EnterpriseServer);
    fadt.iapc_boot_arch = (NO_VGA | NO_CMOS_CLOCK).into();
    let fadt = add(bytes(&fadt.finalize()));
    let madt = add(madt(vcpus));
    let mut xsdt = XSDT::new(OEM, TABLE, REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = add(bytes(&xsdt));
    let root = bytes(&Rsdp::new(OEM, xsdt));
    all[..root.len()].copy_from_slice(&root);
    all
}

/// Processors and interrupt controllers.
fn madt(vcpus: u8) -> Vec<u8> {
    let local = LocalInterruptController::Address(LOCAL_APIC as u32);
    let mut madt = MADT::new(OEM, TABLE, REVISION, local);
    for id in 0..vcpus {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, IO_APIC as u32, 0));
    bytes(&madt)
}

/// The devices.
fn dsdt(window: (u64, u64)) -> Vec<u8> {
    let name = |path: &str, value: &dyn Aml| Name::new(Path::new(path), value);
    // The PCI bus: bus 0, the configuration ports, the low hole, the window.
    let memory = |min: u64, bytes: u64| {
        let cacheable = AddressSpaceCacheable::NotCacheable;
        AddressSpace::new_memory(cacheable, true, min, min + (bytes - 1), None)
    };
    let (low, high) = (memory(HOLE, IO_APIC - HOLE), memory(window.0, window.1));
    let buses = AddressSpace::new_bus_number(0_u16, 0);
    let ports = IO::new(0xcf8, 0xcf8, 1, 8);
    let pci_resources = ResourceTemplate::new(vec![&buses, &ports, &low, &high]);
    let pci_id = name("_HID", &EISAName::new("PNP0A03"));
    let pci_number = name("_UID", &0_u8);
    let pci_resources = name("_CRS", &pci_resources);
    let pci = Device::new(Path::new("_SB_.PCI0"), vec![&pci_id, &pci_number, &pci_resources]);

    let ports = IO::new(SERIAL_PORT, SERIAL_PORT, 1, 8);
    let interrupt = Interrupt::new(true, true, false, false, SERIAL_LINE);
    let serial_resources = ResourceTemplate::new(vec![&ports, &interrupt]);
    let serial_id = name("_HID", &EISAName::new("PNP0501"));
    let serial_number = name("_UID", &0_u8);
    let serial_resources = name("_CRS", &serial_resources);
    let serial =
        Device::new(Path::new("_SB_.COM1"), vec![&serial_id, &serial_number, &serial_resources]);

    let mut table = Sdt::new(*b"DSDT", HEADER_BYTES, DSDT_REVISION, OEM, TABLE, REVISION);
    table.append_slice(&bytes(&pci));
    table.append_slice(&bytes(&serial));
    table.as_slice().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::HIGH_MEMORY;

    fn word(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }
    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, &b| sum.wrapping_add(b))
    }

    /// Finds the tables as a kernel does: root pointer, XSDT, FADT, DSDT.
    #[test]
    fn every_table_is_reached_and_sums_to_zero() {
        for vcpus in [1, 2, 64] {
            let all = tables(vcpus, (crate::layout::WINDOW, 1 << 30));
            assert!(ACPI_TABLES + all.len() as u64 <= HIGH_MEMORY);
            assert_eq!(&all[..8], b"RSD PTR ");
            assert_eq!((sum(&all[..20]), sum(&all[..36])), (0, 0));
            let table = |at: u64| {
                let start = (at - ACPI_TABLES) as usize;
                let length = word(&all, start + 4) as u32 as usize;
                let table = &all[start..start + length];
                assert_eq!(sum(table), 0, "{:?}", &table[..4]);
                table
            };
            let xsdt = table(word(&all, 24));
            assert_eq!((&xsdt[..4], xsdt.len()), (&b"XSDT"[..], 36 + 16));
            let fadt = table(word(xsdt, 36));
            assert_eq!(&fadt[..4], b"FACP");
            assert_eq!(word(fadt, 112) as u32 >> 20 & 1, 1, "reduced hardware");
            let dsdt = table(word(fadt, 140));
            assert_eq!(&dsdt[..4], b"DSDT");
            assert!(dsdt.windows(4).any(|w| w == b"PCI0"));
            let madt = table(word(xsdt, 44));
            assert_eq!(&madt[..4], b"APIC");
            assert_eq!(madt.len(), 44 + usize::from(vcpus) * 8 + 12);
        }
    }
}
