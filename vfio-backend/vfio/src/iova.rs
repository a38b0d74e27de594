//! Addresses in a function's own address space, handed out first fit.

use std::collections::BTreeMap;

/// Smallest unit of an IOMMU.
pub(crate) const PAGE: u64 = 4096;
/// The next larger one: mappings that are congruent to it cost one entry where memory allows.
const HUGE: u64 = 2 << 20;
/// Addresses begin above 4 GiB, where no interrupt window and no firmware table lies on a PC, and end
/// at the narrowest IOMMU there is (39 bits).
const SPACE: std::ops::Range<u64> = 1 << 32..1 << 38;

/// Free addresses.
#[derive(Debug)]
pub(crate) struct Iova {
    /// Start to end of each free range; ranges never touch.
    free: BTreeMap<u64, u64>,
}

impl Iova {
    /// All addresses but the reserved ones (first and last byte).
    pub(crate) fn without(reserved: &[(u64, u64)]) -> Iova {
        let mut iova = Iova { free: BTreeMap::from([(SPACE.start, SPACE.end)]) };
        for &(first, last) in reserved {
            let (start, end) = (first / PAGE * PAGE, last.saturating_add(PAGE) / PAGE * PAGE);
            iova.cut(start.max(SPACE.start), end.min(SPACE.end));
        }
        iova
    }

    /// Removes whatever of a range is free.
    fn cut(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let touched: Vec<(u64, u64)> =
            self.free.range(..end).filter(|&(_, &e)| e > start).map(|(&s, &e)| (s, e)).collect();
        for (s, e) in touched {
            self.free.remove(&s);
            if s < start {
                self.free.insert(s, start);
            }
            if e > end {
                self.free.insert(end, e);
            }
        }
    }

    /// Takes `bytes`, a multiple of a page, for memory at `address` in this process: congruent to it
    /// where a huge page could be used. `None`: there is no room.
    pub(crate) fn take(&mut self, bytes: u64, address: u64) -> Option<u64> {
        if bytes == 0 || !bytes.is_multiple_of(PAGE) {
            return None;
        }
        let (align, phase) = if bytes >= HUGE { (HUGE, address % HUGE) } else { (PAGE, 0) };
        let place = |start: u64| {
            let ahead = phase.wrapping_sub(start) & (align - 1);
            start.checked_add(ahead)
        };
        let fits = |(&s, &e): (&u64, &u64)| {
            let at = place(s)?;
            (at.checked_add(bytes)? <= e).then_some(at)
        };
        let at = self.free.iter().find_map(fits)?;
        self.cut(at, at + bytes);
        Some(at)
    }

    /// Gives a range back that was taken.
    pub(crate) fn give(&mut self, at: u64, bytes: u64) {
        let (mut start, mut end) = (at, at + bytes);
        if let Some(next) = self.free.remove(&end) {
            end = next;
        }
        if let Some((&s, &e)) = self.free.range(..start).next_back()
            && e == start
        {
            self.free.remove(&s);
            start = s;
        }
        self.free.insert(start, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_apart_come_back_and_avoid_what_is_reserved() {
        let reserved = [(0xfee0_0000, 0xfeef_ffff), (5 << 30, (5 << 30) + 10)];
        let mut iova = Iova::without(&reserved);
        let whole = iova.free.clone();
        let mut seed = 3_u64;
        let mut live: Vec<(u64, u64)> = Vec::new();
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let r = seed >> 33;
            if !r.is_multiple_of(3) {
                let bytes = (1 + r % 3000) * PAGE;
                let address = (seed >> 20) / PAGE * PAGE;
                let at = iova.take(bytes, address).unwrap();
                assert!(bytes < HUGE || at % HUGE == address % HUGE);
                assert!(at >= SPACE.start && at + bytes <= SPACE.end && at.is_multiple_of(PAGE));
                assert!(at + bytes <= 5 << 30 || at >= (5 << 30) + PAGE);
                assert!(live.iter().all(|&(a, b)| at + bytes <= a || a + b <= at));
                live.push((at, bytes));
            } else if !live.is_empty() {
                let (at, bytes) = live.swap_remove(r as usize % live.len());
                iova.give(at, bytes);
            }
        }
        live.drain(..).for_each(|(at, bytes)| iova.give(at, bytes));
        assert_eq!(iova.free, whole);
        assert_eq!(iova.take(1 << 39, 0), None);
        assert_eq!((iova.take(0, 0), iova.take(17, 0)), (None, None));
    }
}
