//! The MSI-X table and pending bit array (PCI Local Bus 3.0, section 6.8.2), in BAR4.
//!
//! This holds what the guest wrote: addresses, data, masks. It raises nothing and remembers no
//! pending interrupt: an interrupt that is raised while its vector is masked stays in the vector's
//! eventfd, unread, and that *is* the pending bit. The front end tells
//! [`read`](Msix::read) which vectors are pending, and connects or disconnects a vector's eventfd
//! when [`write`](Msix::write) says that its delivery changed. Connecting an eventfd that was
//! signalled before delivers at once, as unmasking must.

use turnstile_abi::regs::{PBA_OFFSET, VECTORS};

/// Vectors of the table.
const COUNT: usize = VECTORS as usize;
/// Bytes of a table entry: address (8), data (4), vector control (4).
const ENTRY_BYTES: u64 = 16;
/// Bytes of the table.
const TABLE_BYTES: u64 = VECTORS as u64 * ENTRY_BYTES;
/// Bytes of the pending bit array: whole quadwords.
const PBA_BYTES: u64 = (VECTORS as u64).div_ceil(64) * 8;
/// The only defined bit of a vector control word.
const MASKED: u32 = 1;

const _: () = assert!(COUNT <= 64, "a set of vectors is one word");

/// The memory write that is an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Message {
    /// Where it is written, in the guest's physical address space.
    pub address: u64,
    /// What is written.
    pub data: u32,
}

/// A set of vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Vectors(u64);

impl Vectors {
    /// No vector.
    pub const NONE: Vectors = Vectors(0);
    /// Every vector of the device.
    pub const ALL: Vectors = Vectors(((1_u128 << COUNT) - 1) as u64);

    /// The set of one vector.
    #[must_use]
    pub const fn one(vector: u16) -> Vectors {
        if vector < VECTORS { Vectors(1 << vector) } else { Vectors::NONE }
    }
    /// Whether a vector is in the set.
    #[must_use]
    pub const fn contains(self, vector: u16) -> bool {
        vector < VECTORS && self.0 >> vector & 1 != 0
    }
    /// Whether the set is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// Both sets.
    #[must_use]
    pub const fn with(self, other: Vectors) -> Vectors {
        Vectors(self.0 | other.0)
    }
    /// The vectors, in order.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        (0..VECTORS).filter(move |&v| self.contains(v))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    words: [u32; 4],
}

impl Entry {
    /// As the specification wants it after a reset: masked.
    const RESET: Entry = Entry { words: [0, 0, 0, MASKED] };

    const fn is_masked(&self) -> bool {
        self.words[3] & MASKED != 0
    }
    const fn message(&self) -> Message {
        Message {
            address: self.words[0] as u64 | (self.words[1] as u64) << 32,
            data: self.words[2],
        }
    }
}

/// The table of one function.
#[derive(Clone, Debug)]
pub struct Msix {
    entries: [Entry; COUNT],
}

impl Default for Msix {
    fn default() -> Msix {
        Msix { entries: [Entry::RESET; COUNT] }
    }
}

impl Msix {
    /// The message of a vector, unless the vector itself is masked. Whether the function may send
    /// it is up to [`Function::route`](crate::pci::Function::route).
    #[must_use]
    pub fn message(&self, vector: u16) -> Option<Message> {
        let entry = self.entries.get(usize::from(vector))?;
        (!entry.is_masked()).then(|| entry.message())
    }

    /// Reads `data.len()` bytes at `at` in BAR4. `pending` says which vectors wait in their
    /// eventfds. Reads other than aligned 4- and 8-byte ones give all-ones; so do places that hold
    /// neither table nor pending bits.
    pub fn read(&self, at: u64, data: &mut [u8], pending: impl Fn(u16) -> bool) {
        data.fill(0xff);
        if !is_word(at, data.len()) {
            return;
        }
        for (i, chunk) in data.chunks_exact_mut(4).enumerate() {
            if let Some(word) = self.word(at + i as u64 * 4, &pending) {
                chunk.copy_from_slice(&word.to_le_bytes());
            }
        }
    }

    fn word(&self, at: u64, pending: &impl Fn(u16) -> bool) -> Option<u32> {
        if let Some((entry, word)) = place(at) {
            return Some(self.entries[entry].words[word]);
        }
        let in_pba = at.checked_sub(PBA_OFFSET).filter(|&o| o < PBA_BYTES)?;
        let first = in_pba * 8;
        let bit = |i: u64| {
            let vector = first + i;
            let waits = vector < VECTORS.into() && pending(vector as u16);
            u32::from(waits) << i
        };
        Some((0..32).map(bit).fold(0, |word, b| word | b))
    }

    /// Writes `data` at `at` in BAR4 and returns the vectors whose message or mask changed. Writes
    /// other than aligned 4- and 8-byte ones, and writes outside the table, change nothing.
    pub fn write(&mut self, at: u64, data: &[u8]) -> Vectors {
        let mut changed = Vectors::NONE;
        if !is_word(at, data.len()) {
            return changed;
        }
        for (i, chunk) in data.chunks_exact(4).enumerate() {
            let Some((entry, word)) = place(at + i as u64 * 4) else { continue };
            let new = chunk.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte));
            // Messages are dword writes: the low address bits do not exist. Of the control word
            // only the mask does.
            let new = match word {
                0 => new & !3,
                3 => new & MASKED,
                _ => new,
            };
            let slot = &mut self.entries[entry].words[word];
            if *slot != new {
                *slot = new;
                changed = changed.with(Vectors::one(entry as u16));
            }
        }
        changed
    }
}

/// Whether this is an access the specification allows: an aligned dword or quadword.
fn is_word(at: u64, bytes: usize) -> bool {
    matches!(bytes, 4 | 8) && at.is_multiple_of(bytes as u64)
}

/// Entry and word of an offset, if it lies in the table.
fn place(at: u64) -> Option<(usize, usize)> {
    (at < TABLE_BYTES).then_some(((at / ENTRY_BYTES) as usize, (at % ENTRY_BYTES / 4) as usize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read32(m: &Msix, at: u64) -> u32 {
        let mut bytes = [0; 4];
        m.read(at, &mut bytes, |_| false);
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn entries_start_masked_and_hold_what_is_written() {
        let mut m = Msix::default();
        for v in 0..u64::from(VECTORS) {
            assert_eq!(read32(&m, v * 16 + 12), 1);
        }
        assert_eq!(m.message(3), None);
        assert_eq!(m.write(48, &0xfee0_1000_u64.to_le_bytes()), Vectors::one(3));
        assert_eq!(m.write(56, &0x4041_u32.to_le_bytes()), Vectors::one(3));
        assert_eq!(m.message(3), None, "still masked");
        assert_eq!(m.write(60, &0_u32.to_le_bytes()), Vectors::one(3));
        assert_eq!(m.message(3), Some(Message { address: 0xfee0_1000, data: 0x4041 }));
        assert_eq!(m.write(60, &0_u32.to_le_bytes()), Vectors::NONE, "nothing changed");
        assert_eq!(m.write(60, &u32::MAX.to_le_bytes()), Vectors::one(3));
        assert_eq!(read32(&m, 60), 1, "reserved control bits read as zero");
        m.write(48, &7_u32.to_le_bytes());
        assert_eq!(read32(&m, 48), 4, "low address bits do not exist");
        assert_eq!(m.message(VECTORS), None);
    }

    #[test]
    fn one_quadword_write_sets_data_and_mask() {
        let mut m = Msix::default();
        m.write(8, &0x0000_0000_0000_0031_u64.to_le_bytes());
        assert_eq!(m.message(0), Some(Message { address: 0, data: 0x31 }));
    }

    #[test]
    fn pending_bits_come_from_the_eventfds() {
        let m = Msix::default();
        let mut bytes = [0; 8];
        m.read(PBA_OFFSET, &mut bytes, |v| v == 1 || v == 15);
        assert_eq!(u64::from_le_bytes(bytes), 0x8002);
        let mut low = [0; 4];
        m.read(PBA_OFFSET + 4, &mut low, |_| true);
        assert_eq!(u32::from_le_bytes(low), 0, "vectors that are not there are not pending");
    }

    #[test]
    fn other_accesses_read_all_ones_and_write_nothing() {
        let mut m = Msix::default();
        for (at, bytes) in [(0, 1), (0, 2), (2, 4), (4, 8), (256, 4), (0xffc, 4), (0x1008, 4)] {
            let mut data = vec![0; bytes];
            m.read(at, &mut data, |_| true);
            assert!(data.iter().all(|&b| b == 0xff), "{at:#x}/{bytes}");
            assert_eq!(m.write(at, &vec![0; bytes]), Vectors::NONE, "{at:#x}/{bytes}");
        }
        assert_eq!(m.write(PBA_OFFSET, &[0xff; 8]), Vectors::NONE, "read-only");
    }

    proptest! {
        /// Any access sequence: no panic, and `changed` is exactly the difference in routes.
        #[test]
        fn changes_are_reported_exactly(
            accesses in prop::collection::vec(
                (prop_oneof![0..0x140_u64, 0xff8..0x1018_u64, any::<u64>()],
                 prop::collection::vec(any::<u8>(), 0..12)),
                0..60),
        ) {
            let mut m = Msix::default();
            for (at, data) in accesses {
                let before = m.clone();
                let changed = m.write(at, &data);
                for v in 0..VECTORS {
                    let same = before.entries[usize::from(v)] == m.entries[usize::from(v)];
                    prop_assert_eq!(changed.contains(v), !same);
                }
                let mut back = data.clone();
                m.read(at, &mut back, |v| v % 2 == 0);
            }
        }
    }
}
