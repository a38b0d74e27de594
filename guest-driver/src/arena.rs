//! The driver's own part of the aperture: rings, parameters, images and fence mirrors.
//!
//! First fit over a sorted list of free extents, kept in driver memory where no device can reach
//! it. Every extent starts and ends on a cache line. The list cannot overflow: free extents are
//! always apart from each other, so there is at most one more of them than there are allocations,
//! and those are counted.

use core::cell::RefCell;

use crate::error::Error;

/// Alignment of every allocation: a cache line, and what a ring needs.
pub const ALIGN: u64 = 64;
/// Allocations that can be live at once.
pub const MAX_LIVE: usize = 255;

/// A range of the aperture, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Area {
    /// Offset in the aperture.
    pub offset: u64,
    /// Length, a multiple of [`ALIGN`].
    pub bytes: u64,
}

/// Free space of the aperture below the device's heap.
#[derive(Debug)]
pub struct Arena {
    free: [Area; MAX_LIVE + 1],
    extents: usize,
    live: usize,
}

impl Arena {
    /// Manages `[start, end)`; both are rounded inwards to [`ALIGN`].
    #[must_use]
    pub const fn new(start: u64, end: u64) -> Arena {
        let mut free = [Area { offset: 0, bytes: 0 }; MAX_LIVE + 1];
        let start = start.next_multiple_of(ALIGN);
        let end = end - end % ALIGN;
        let extents = if start < end {
            free[0] = Area { offset: start, bytes: end - start };
            1
        } else {
            0
        };
        Arena { free, extents, live: 0 }
    }

    /// Takes `bytes`, rounded up to [`ALIGN`].
    pub fn take(&mut self, bytes: u64) -> Result<Area, Error> {
        let full = Error::ApertureFull { bytes };
        let need = bytes.max(1).checked_next_multiple_of(ALIGN).ok_or(full)?;
        if self.live == MAX_LIVE {
            return Err(full);
        }
        let list = &mut self.free[..self.extents];
        let i = list.iter().position(|e| e.bytes >= need).ok_or(full)?;
        let taken = Area { offset: list[i].offset, bytes: need };
        list[i].offset += need;
        list[i].bytes -= need;
        if list[i].bytes == 0 {
            list.copy_within(i + 1.., i);
            self.extents -= 1;
        }
        self.live += 1;
        Ok(taken)
    }

    /// Gives an area back that [`take`](Self::take) handed out.
    pub fn give(&mut self, area: Area) {
        let list = &self.free[..self.extents];
        let i = list.partition_point(|e| e.offset < area.offset);
        self.live = self.live.saturating_sub(1);
        let after_left = i > 0 && list[i - 1].offset + list[i - 1].bytes == area.offset;
        let before_right = i < list.len() && area.offset + area.bytes == list[i].offset;
        match (after_left, before_right) {
            (true, true) => {
                self.free[i - 1].bytes += area.bytes + self.free[i].bytes;
                self.free.copy_within(i + 1..self.extents, i);
                self.extents -= 1;
            }
            (true, false) => self.free[i - 1].bytes += area.bytes,
            (false, true) => {
                self.free[i].offset = area.offset;
                self.free[i].bytes += area.bytes;
            }
            (false, false) if self.extents < self.free.len() => {
                self.free.copy_within(i..self.extents, i + 1);
                self.free[i] = area;
                self.extents += 1;
            }
            // Cannot be (see the module's header); losing space is better than a panic.
            (false, false) => {}
        }
    }

    /// Bytes free in all.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        self.free[..self.extents].iter().map(|e| e.bytes).sum()
    }

    /// Largest allocation that would succeed now, in bytes.
    #[must_use]
    pub fn largest(&self) -> u64 {
        self.free[..self.extents].iter().map(|e| e.bytes).max().unwrap_or(0)
    }
}

/// An area that goes back to the arena when dropped.
#[derive(Debug)]
pub struct Block<'d> {
    arena: &'d RefCell<Arena>,
    area: Area,
}

impl<'d> Block<'d> {
    pub(crate) fn take(arena: &'d RefCell<Arena>, bytes: u64) -> Result<Block<'d>, Error> {
        let area = arena.borrow_mut().take(bytes)?;
        Ok(Block { arena, area })
    }
    /// Where it lies.
    #[must_use]
    pub const fn area(&self) -> Area {
        self.area
    }
    /// Offset in the aperture, in bytes.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.area.offset
    }
    /// Keeps the area; whoever takes it gives it back to the arena.
    pub(crate) fn keep(self) -> Area {
        let area = self.area;
        core::mem::forget(self);
        area
    }
}

impl Drop for Block<'_> {
    fn drop(&mut self) {
        self.arena.borrow_mut().give(self.area);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn space_comes_back_whole_in_any_order() {
        let mut arena = Arena::new(100, 1 << 20);
        let all = arena.free_bytes();
        assert_eq!(arena.largest(), all);
        let mut seed = 7_u64;
        let mut live: Vec<Area> = Vec::new();
        for _ in 0..100_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let r = seed >> 33;
            if !r.is_multiple_of(3) {
                if let Ok(area) = arena.take(r % 9000) {
                    assert!(area.offset.is_multiple_of(ALIGN) && area.offset >= 128);
                    assert!(area.offset + area.bytes <= 1 << 20);
                    assert!(live.iter().all(|o| area.offset + area.bytes <= o.offset
                        || o.offset + o.bytes <= area.offset));
                    live.push(area);
                }
            } else if !live.is_empty() {
                arena.give(live.swap_remove(r as usize % live.len()));
            }
            let used: u64 = live.iter().map(|a| a.bytes).sum();
            assert_eq!(arena.free_bytes() + used, all);
        }
        live.drain(..).for_each(|a| arena.give(a));
        assert_eq!((arena.free_bytes(), arena.largest(), arena.extents), (all, all, 1));
    }

    #[test]
    fn live_allocations_are_bounded_so_the_list_cannot_overflow() {
        let mut arena = Arena::new(0, 1 << 20);
        let taken: Vec<_> = (0..MAX_LIVE).map(|_| arena.take(64).unwrap()).collect();
        assert_eq!(arena.take(64), Err(Error::ApertureFull { bytes: 64 }));
        taken.iter().step_by(2).for_each(|a| arena.give(*a));
        taken.iter().skip(1).step_by(2).for_each(|a| arena.give(*a));
        assert_eq!(arena.largest(), 1 << 20);
        assert!(arena.take(u64::MAX).is_err());
        assert_eq!(Arena::new(100, 120).free_bytes(), 0);
    }
}
