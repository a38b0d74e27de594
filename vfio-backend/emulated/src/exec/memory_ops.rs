//! Where the addresses of 32 lanes lead.

use super::launch::Launch;
use super::registers::{BITS, Lane, Registers, V32};
use super::warp::{Outcome, fault};
use crate::fault::{FaultKind, Intent, Space};
use crate::ir::{Memory, NONE, window};
use crate::memory::Region;
use crate::raw::{Checked, LANES, Segment};

/// The memories a warp can reach.
pub(crate) struct View<'a> {
    pub(crate) launch: &'a Launch,
    pub(crate) shared: &'a Segment,
    pub(crate) local: &'a mut [V32],
    /// First byte of the running frame's local memory.
    pub(crate) frame: u32,
    /// The region that the last access hit.
    pub(crate) region: &'a mut usize,
}

/// The 32 addresses of an operand; inactive lanes repeat the first active lane's.
#[inline(always)]
pub(crate) fn addresses(registers: &Registers<'_>, memory: &Memory, mask: u32) -> [u64; LANES] {
    let mut out = [0u64; LANES];
    if memory.base == NONE {
        return [memory.offset as u32 as u64; LANES];
    }
    if memory.wide {
        let base = u64::read(registers, memory.base);
        let offset = memory.offset as i64 as u64;
        for i in 0..LANES {
            out[i] = base[i].wrapping_add(offset);
        }
    } else {
        let base = u32::read(registers, memory.base);
        for i in 0..LANES {
            out[i] = u64::from(base[i].wrapping_add(memory.offset as u32));
        }
    }
    if mask != u32::MAX {
        let first = out[mask.trailing_zeros() as usize & 31];
        for i in 0..LANES {
            out[i] = if mask & BITS[i] != 0 { out[i] } else { first };
        }
    }
    out
}

/// Names the lane and the reason why an access failed. `ok` says whether a lane's access is fine.
#[cold]
pub(super) fn blame<T>(
    mask: u32,
    addresses: &[u64; LANES],
    (space, intent, width): (Space, Intent, u32),
    align: u32,
    ok: impl Fn(u64) -> bool,
) -> Outcome<T> {
    for lane in (0..LANES as u32).filter(|l| mask >> l & 1 != 0) {
        let address = addresses[lane as usize];
        if !address.is_multiple_of(u64::from(align)) {
            return fault(1 << lane, FaultKind::Misaligned { space, intent, address, width });
        }
        if !ok(address) {
            return fault(1 << lane, FaultKind::Unmapped { space, intent, address, width });
        }
    }
    fault(mask, FaultKind::Unmapped { space, intent, address: addresses[0], width })
}

impl View<'_> {
    /// The region that the first active lane of a global access lies in, and every lane's offset in it. `None` when it
    /// lies in none or the access is not permitted there.
    #[inline(always)]
    pub(super) fn aim(
        &mut self,
        at: &[u64; LANES],
        mask: u32,
        (intent, width): (Intent, u64),
        offsets: &mut [u64; LANES],
    ) -> Outcome<Option<&Segment>> {
        if self.launch.arena.is_some() {
            self.confine(at, mask, intent, width as u32)?;
        }
        let first = at[mask.trailing_zeros() as usize & 31];
        let launch = self.launch;
        let mut region = launch.map.region(*self.region);
        if region.is_none_or(|r| first.wrapping_sub(r.start) >= r.segment.len()) {
            let Some(found) = launch.map.find(first) else { return Ok(None) };
            *self.region = found;
            region = launch.map.region(found);
        }
        let Some(region) = region.filter(|r| r.permits(intent)) else { return Ok(None) };
        for i in 0..LANES {
            offsets[i] = at[i].wrapping_sub(region.start);
        }
        Ok(Some(&region.segment))
    }

    /// Runs `f` on the checked access of every active lane of a global access: once when all lie in one region, else
    /// lane by lane.
    fn global(
        &mut self,
        at: &[u64; LANES],
        mask: u32,
        (intent, width): (Intent, u64),
        mut f: impl FnMut(&Checked<'_>, u32),
    ) -> Outcome<()> {
        let mut offsets = [0u64; LANES];
        if let Some(segment) = self.aim(at, mask, (intent, width), &mut offsets)?
            && let Some(checked) = segment.check(&offsets, width, width)
        {
            f(&checked, mask);
            return Ok(());
        }
        self.apart(at, mask, (intent, width), f)
    }

    /// The same for an access whose lanes lie in several regions, or one that faults: one lane after the other.
    #[cold]
    pub(super) fn apart(
        &mut self,
        at: &[u64; LANES],
        mask: u32,
        (intent, width): (Intent, u64),
        mut f: impl FnMut(&Checked<'_>, u32),
    ) -> Outcome<()> {
        for lane in (0..LANES).filter(|l| mask >> l & 1 != 0) {
            let (region, offset) =
                self.place(at[lane], width as u32, width as u32, intent, lane as u32)?;
            match region.segment.check(&[offset; LANES], width, width) {
                Some(checked) => f(&checked, 1 << lane),
                None => {
                    return blame(
                        1 << lane,
                        at,
                        (Space::Global, intent, width as u32),
                        width as u32,
                        |_| false,
                    );
                }
            }
        }
        Ok(())
    }

    /// One lane's region and offset, or its fault.
    pub(crate) fn place(
        &self,
        address: u64,
        width: u32,
        align: u32,
        intent: Intent,
        lane: u32,
    ) -> Outcome<(&Region, u64)> {
        let space = Space::Global;
        let lane = 1u32 << (lane & 31);
        if !address.is_multiple_of(u64::from(align.max(1))) {
            return fault(lane, FaultKind::Misaligned { space, intent, address, width });
        }
        if let Some(arena) = self.launch.arena
            && !arena.contains(address, u64::from(width))
        {
            return fault(lane, FaultKind::OutsideArena { intent, address, width });
        }
        match self.launch.map.locate(address, u64::from(width)) {
            Some((region, offset)) if region.permits(intent) => Ok((region, offset)),
            Some(_) => fault(lane, FaultKind::Forbidden { space, intent, address, width }),
            None => fault(lane, FaultKind::Unmapped { space, intent, address, width }),
        }
    }

    /// Holds every active lane to the launch's arena, if it has one.
    #[cold]
    fn confine(&self, at: &[u64; LANES], mask: u32, intent: Intent, width: u32) -> Outcome<()> {
        let Some(arena) = self.launch.arena else { return Ok(()) };
        for lane in (0..LANES).filter(|l| mask >> l & 1 != 0) {
            if !arena.contains(at[lane], u64::from(width)) {
                let address = at[lane];
                return fault(1 << lane, FaultKind::OutsideArena { intent, address, width });
            }
        }
        Ok(())
    }

    /// One element of 1, 2, 4 or 8 bytes for each active lane, zero-extended.
    pub(crate) fn read_elements(
        &mut self,
        space: Space,
        at: &[u64; LANES],
        mask: u32,
        width: u64,
    ) -> Outcome<[u64; LANES]> {
        let mut out = [0; LANES];
        let mut take = |checked: &Checked<'_>, mask: u32| {
            let values: [u64; LANES] = match width {
                8 => checked.gather::<u64>(0),
                4 => checked.gather::<u32>(0).map(u64::from),
                2 => checked.gather::<u16>(0).map(u64::from),
                _ => checked.gather::<u8>(0).map(u64::from),
            };
            for lane in (0..LANES).filter(|l| mask >> l & 1 != 0) {
                out[lane] = values[lane];
            }
        };
        match space {
            Space::Shared => match self.shared.check(at, width, width) {
                Some(checked) => take(&checked, mask),
                None => return self.blame_shared(at, mask, Intent::Read, width as u32),
            },
            _ => self.global(at, mask, (Intent::Read, width), take)?,
        }
        Ok(out)
    }

    /// Stores one element of 1, 2, 4 or 8 bytes for each active lane.
    pub(crate) fn write_elements(
        &mut self,
        space: Space,
        at: &[u64; LANES],
        mask: u32,
        width: u64,
        values: &[u64; LANES],
    ) -> Outcome<()> {
        let put = |checked: &Checked<'_>, mask: u32| match width {
            8 => checked.scatter::<u64>(0, mask, values),
            4 => checked.scatter::<u32>(0, mask, &values.map(|v| v as u32)),
            2 => checked.scatter::<u16>(0, mask, &values.map(|v| v as u16)),
            _ => checked.scatter::<u8>(0, mask, &values.map(|v| v as u8)),
        };
        match space {
            Space::Shared => match self.shared.check(at, width, width) {
                Some(checked) => put(&checked, mask),
                None => return self.blame_shared(at, mask, Intent::Write, width as u32),
            },
            _ => self.global(at, mask, (Intent::Write, width), put)?,
        }
        Ok(())
    }

    /// The space that all lanes of a generic access share, with the addresses made relative to it. `None` when they
    /// differ, or share one of the rarer windows.
    #[inline(always)]
    pub(super) fn common_space(at: &mut [u64; LANES]) -> Option<Space> {
        let (first, mut all, mut differ) = (at[0], [0u64; LANES], [0u64; LANES]);
        for i in 0..LANES {
            all[i] = at[i];
            differ[i] = at[i] ^ first;
        }
        // Every window has this bit set; device memory lies below.
        if crate::raw::fold(&all) & window::SHARED == 0 {
            return Some(Space::Global);
        }
        if first.wrapping_sub(window::SHARED) >= window::SIZE
            || crate::raw::fold(&differ) >= window::SIZE
        {
            return None;
        }
        for a in at.iter_mut() {
            *a &= window::SIZE - 1;
        }
        Some(Space::Shared)
    }

    /// Splits a generic access by window and runs `f` for each part with its space and the addresses inside it.
    pub(crate) fn split(
        &mut self,
        at: &[u64; LANES],
        mask: u32,
        mut f: impl FnMut(&mut Self, Space, &[u64; LANES], u32) -> Outcome<()>,
    ) -> Outcome<()> {
        let lanes_in = |base: u64| {
            let mut bits = [0u32; LANES];
            for i in 0..LANES {
                bits[i] = if at[i].wrapping_sub(base) < window::SIZE { BITS[i] } else { 0 };
            }
            super::registers::fold(&bits) & mask
        };
        let parts = [
            (Space::Shared, window::SHARED, lanes_in(window::SHARED)),
            (Space::Local, window::LOCAL, lanes_in(window::LOCAL)),
            (Space::Param, window::PARAM, lanes_in(window::PARAM)),
        ];
        let mut rest = mask;
        for (space, base, lanes) in parts {
            if lanes != 0 {
                rest &= !lanes;
                let first = at[lanes.trailing_zeros() as usize & 31];
                let inside: [u64; LANES] = std::array::from_fn(|i| {
                    (if lanes >> i & 1 != 0 { at[i] } else { first }).wrapping_sub(base)
                });
                f(self, space, &inside, lanes)?;
            }
        }
        if rest == mask {
            f(self, Space::Global, at, mask)
        } else if rest != 0 {
            let first = at[rest.trailing_zeros() as usize & 31];
            let inside = std::array::from_fn(|i| if rest >> i & 1 != 0 { at[i] } else { first });
            f(self, Space::Global, &inside, rest)
        } else {
            Ok(())
        }
    }

    /// The fault of a shared access.
    #[cold]
    pub(crate) fn blame_shared<T>(
        &self,
        at: &[u64; LANES],
        mask: u32,
        intent: Intent,
        width: u32,
    ) -> Outcome<T> {
        blame(mask, at, (Space::Shared, intent, width), width, |a| {
            a.checked_add(u64::from(width)).is_some_and(|end| end <= self.shared.len())
        })
    }
}
