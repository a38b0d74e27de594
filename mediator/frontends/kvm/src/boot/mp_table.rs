//! The MP table (Intel MultiProcessor Specification 1.4, chapter 4): processors, I/O APIC and ISA
//! interrupts, for a kernel that finds no ACPI.

use crate::irq::PINS;
use crate::layout::{IO_APIC, LOCAL_APIC, MP_TABLE};

const POINTER_BYTES: usize = 16;
const HEADER_BYTES: usize = 44;
const REVISION: u8 = 4;
const APIC_VERSION: u8 = 0x14;
const IO_APIC_VERSION: u8 = 0x11;
const PCI_BUS: u8 = 0;
const ISA_BUS: u8 = 1;
/// ISA interrupts, wired to the I/O APIC pin by pin.
const ISA_LINES: u8 = 16;
const ENABLED: u8 = 1;
const BOOT_PROCESSOR: u8 = 2;
/// Interrupt types.
const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;

const _: () = assert!(ISA_LINES as u32 <= PINS);

/// The byte that makes a structure sum up to zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0_u8, |sum, &b| sum.wrapping_add(b)).wrapping_neg()
}

/// The floating pointer and the table, to be placed at [`MP_TABLE`].
pub(super) fn table(vcpus: u8) -> Vec<u8> {
    let io_apic_id = vcpus;
    let mut entries: Vec<Vec<u8>> = Vec::new();
    for id in 0..vcpus {
        let flags = if id == 0 { ENABLED | BOOT_PROCESSOR } else { ENABLED };
        let mut entry = vec![0, id, APIC_VERSION, flags];
        entry.extend([0; 4]); // signature: CPUID says it better
        entry.extend(0x201_u32.to_le_bytes()); // features: FPU and APIC
        entry.extend([0; 8]);
        entries.push(entry);
    }
    let bus = |id: u8, name: &[u8; 6]| [&[1, id], &name[..]].concat();
    entries.push(bus(PCI_BUS, b"PCI   "));
    entries.push(bus(ISA_BUS, b"ISA   "));
    let io_apic = (IO_APIC as u32).to_le_bytes();
    entries.push([&[2, io_apic_id, IO_APIC_VERSION, ENABLED][..], &io_apic].concat());
    for line in 0..ISA_LINES {
        entries.push(vec![3, INT, 0, 0, ISA_BUS, line, io_apic_id, line]);
    }
    entries.push(vec![4, EXT_INT, 0, 0, ISA_BUS, 0, 0, 0]);
    entries.push(vec![4, NMI, 0, 0, ISA_BUS, 0, 0xff, 1]);

    let count = entries.len() as u16;
    let body = entries.concat();
    let mut header = Vec::with_capacity(HEADER_BYTES + body.len());
    header.extend(b"PCMP");
    header.extend(((HEADER_BYTES + body.len()) as u16).to_le_bytes());
    header.extend([REVISION, 0]);
    header.extend(b"TRNSTILE");
    header.extend(b"MICROVM     ");
    header.extend([0; 6]); // no OEM table
    header.extend(count.to_le_bytes());
    header.extend((LOCAL_APIC as u32).to_le_bytes());
    header.extend([0; 4]); // no extended table
    header.extend(body);
    header[7] = checksum(&header);

    let mut all = Vec::with_capacity(POINTER_BYTES + header.len());
    all.extend(b"_MP_");
    all.extend((MP_TABLE as u32 + POINTER_BYTES as u32).to_le_bytes());
    all.extend([1, REVISION, 0, 0, 0, 0, 0, 0]);
    all[10] = checksum(&all);
    all.extend(header);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_sums_to_zero_and_counts_itself() {
        for vcpus in [1, 2, 16] {
            let all = table(vcpus);
            let (pointer, header) = all.split_at(POINTER_BYTES);
            let sum = |bytes: &[u8]| bytes.iter().fold(0_u8, |s, &b| s.wrapping_add(b));
            assert_eq!((sum(pointer), sum(header)), (0, 0));
            assert_eq!(pointer[4..8], (MP_TABLE as u32 + 16).to_le_bytes());
            let length = u16::from_le_bytes([header[4], header[5]]);
            assert_eq!(usize::from(length), header.len());
            // Walk the entries as a kernel does.
            let (mut at, mut kinds) = (HEADER_BYTES, [0; 5]);
            while at < header.len() {
                let kind = usize::from(header[at]);
                kinds[kind] += 1;
                at += if kind == 0 { 20 } else { 8 };
            }
            assert_eq!(at, header.len());
            assert_eq!(kinds, [u16::from(vcpus), 2, 1, 16, 2]);
            let count = u16::from_le_bytes([header[34], header[35]]);
            assert_eq!(count, kinds.iter().sum::<u16>());
            assert_eq!(header[36..40], 0xfee0_0000_u32.to_le_bytes());
        }
    }
}
