//! The page tables a guest starts with: one to one, open to every ring.

use crate::KvmError;
use crate::layout::{HOLE_END, PAGE_TABLES, PAGE_TABLES_END};
use crate::memory::RamSlot;

/// Present, writable, user.
const TABLE: u64 = 0b111;
/// Present, writable, user, and a page rather than a table.
const LARGE: u64 = 0b1000_0111;
const GIB: u64 = 1 << 30;
const TABLE_BYTES: u64 = 4096;

/// The bytes of the tables, to be placed at [`PAGE_TABLES`]: the PML4 first.
///
/// Mapped are the first 4 GiB, RAM above, and the window for BARs (base, length), all in the lower
/// 512 GiB. The first 2 MiB have a table of their own, so that page 0 can be left out.
pub(super) fn tables(
    ram: &[RamSlot],
    window: (u64, u64),
    map_page_0: bool,
) -> Result<Vec<u8>, KvmError> {
    let mut gibs: Vec<u64> = (0..HOLE_END / GIB).collect();
    let ranges = ram.iter().map(|s| (s.gpa, s.bytes)).chain([window]);
    for (base, bytes) in ranges.filter(|(base, _)| *base >= HOLE_END) {
        gibs.extend(base / GIB..(base + bytes).div_ceil(GIB));
    }
    let pages = 3 + gibs.len() as u64;
    if PAGE_TABLES + pages * TABLE_BYTES > PAGE_TABLES_END || gibs.iter().any(|&g| g >= 512) {
        return Err(KvmError::Image {
            what: format!("page tables for {} GiB do not fit", gibs.len()),
            expected: "the VM less memory or a smaller aperture",
        });
    }

    let mut words = vec![0; (pages * TABLE_BYTES / 8) as usize];
    let address = |page: u64| PAGE_TABLES + page * TABLE_BYTES;
    let entry = |page: u64, index: u64| (page * TABLE_BYTES / 8 + index) as usize;
    words[entry(0, 0)] = address(1) | TABLE;
    for (page, gib) in (3..).zip(&gibs) {
        words[entry(1, *gib)] = address(page) | TABLE;
        for i in 0..512 {
            words[entry(page, i)] = (gib * GIB + (i << 21)) | LARGE;
        }
    }
    words[entry(3, 0)] = address(2) | TABLE;
    for i in u64::from(!map_page_0)..512 {
        words[entry(2, i)] = i << 12 | TABLE;
    }
    Ok(words.into_iter().flat_map(u64::to_le_bytes).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::slots;

    /// Walks the tables as the processor does. `None`: not present, or not open to ring 3.
    fn walk(tables: &[u8], address: u64) -> Option<u64> {
        let word = |table: u64, index: u64| {
            let at = (table - PAGE_TABLES + index * 8) as usize;
            let word = u64::from_le_bytes(tables[at..at + 8].try_into().unwrap());
            (word & 0b111 == 0b111).then_some(word)
        };
        let index = |shift: u32| address >> shift & 0x1ff;
        let mask = 0x000f_ffff_ffff_f000;
        let pdpt = word(PAGE_TABLES, index(39))? & mask;
        let pd = word(pdpt, index(30))? & mask;
        let entry = word(pd, index(21))?;
        if entry & 0x80 != 0 {
            return Some((entry & mask & !0x1f_ffff) + (address & 0x1f_ffff));
        }
        Some((word(entry & mask, index(12))? & mask) + (address & 0xfff))
    }

    #[test]
    fn what_is_mapped_is_mapped_one_to_one() {
        let ram = slots(5 << 30);
        let window = (256 << 30, 2 << 30);
        let tables = tables(&ram, window, false).unwrap();
        let mapped = [
            0x1000,
            0x7ff8,
            0x1f_ffff,
            0x20_0000,
            0xbfff_ffff,
            0xfee0_00b0,
            0x1_0000_0000,
            0x1_7fff_ffff,
            window.0,
            window.0 + window.1 - 1,
        ];
        for address in mapped {
            assert_eq!(walk(&tables, address), Some(address), "{address:#x}");
        }
        for address in [0, 0xfff, 0x1_8000_0000, window.0 - 1, window.0 + window.1, 1 << 39] {
            assert_eq!(walk(&tables, address), None, "{address:#x}");
        }
    }

    #[test]
    fn linux_finds_page_0_and_too_much_is_refused() {
        let ram = slots(64 << 20);
        let with_zero = tables(&ram, (256 << 30, 1 << 30), true).unwrap();
        assert_eq!(walk(&with_zero, 0), Some(0));
        assert!(tables(&ram, (256 << 30, 200 << 30), false).is_err());
        assert!(tables(&ram, (511 << 30, 2 << 30), false).is_err());
        let most = slots(*crate::layout::RAM.end());
        let window = crate::layout::window_bytes(crate::layout::APERTURE_MAX);
        assert!(tables(&most, (crate::layout::WINDOW, window), false).is_ok());
    }
}
