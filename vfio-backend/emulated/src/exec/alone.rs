//! Loads and stores of a single lane: what a thread that waits or works alone does. Only what is simple and right; the
//! general way handles, and names, everything else.

use super::lanes::extend;
use super::memory_ops::View;
use super::registers::{Lane, Registers};
use crate::fault::{Intent, Space};
use crate::ir::{Memory, NONE, Target, Transfer, window};
use crate::raw::Segment;

impl View<'_> {
    /// Where an access of `bytes` bytes leads, if it is aligned and permitted.
    #[inline(always)]
    fn alone(
        &mut self,
        registers: &Registers<'_>,
        m: &Memory,
        (lane, bytes, intent): (usize, u64, Intent),
    ) -> Option<(&Segment, u64)> {
        let launch = self.launch;
        if launch.arena.is_some() || m.base == NONE {
            return None;
        }
        let mut address = if m.wide {
            u64::read(registers, m.base)[lane & 31].wrapping_add(m.offset as i64 as u64)
        } else {
            u64::from(u32::read(registers, m.base)[lane & 31].wrapping_add(m.offset as u32))
        };
        let shared = match m.target {
            Target::Space(Space::Shared) => true,
            Target::Space(Space::Global) => false,
            Target::Generic if address & window::SHARED == 0 => false,
            Target::Generic if address.wrapping_sub(window::SHARED) < window::SIZE => {
                address -= window::SHARED;
                true
            }
            _ => return None,
        };
        if !address.is_multiple_of(bytes) {
            return None;
        }
        if shared {
            return Some((self.shared, address));
        }
        let known =
            launch.map.region(*self.region).and_then(|r| Some((r, r.offset_of(address, bytes)?)));
        let (region, offset) = match known {
            Some(hit) => hit,
            None => {
                *self.region = launch.map.find(address)?;
                let region = launch.map.region(*self.region)?;
                (region, region.offset_of(address, bytes)?)
            }
        };
        region.permits(intent).then_some((&region.segment, offset))
    }

    /// A load by one lane; `None`, with nothing done, when the general way has to see to it.
    #[inline(always)]
    pub(super) fn load_alone(
        &mut self,
        registers: &mut Registers<'_>,
        t: &Transfer,
        lane: usize,
    ) -> Option<()> {
        let width = u64::from(t.width);
        let bytes = width * u64::from(t.count);
        let (segment, at) = self.alone(registers, &t.memory, (lane, bytes, Intent::Read))?;
        if at.checked_add(bytes)? > segment.len() {
            return None;
        }
        for e in 0..usize::from(t.count) {
            let at = at + e as u64 * width;
            let raw = match t.width {
                8 => segment.load::<u64>(at)?,
                4 => u64::from(segment.load::<u32>(at)?),
                2 => u64::from(segment.load::<u16>(at)?),
                _ => u64::from(segment.load::<u8>(at)?),
            };
            let (slot, v) = (t.slots[e & 3], extend(raw, t.width, t.value));
            if slot == NONE {
            } else if t.value.is_wide() {
                registers.r64[usize::from(slot)].0[lane & 31] = v;
            } else {
                registers.r32[usize::from(slot)].0[lane & 31] = v as u32;
            }
        }
        Some(())
    }

    /// A store by one lane; `None`, with nothing done, when the general way has to see to it.
    #[inline(always)]
    pub(super) fn store_alone(
        &mut self,
        registers: &Registers<'_>,
        t: &Transfer,
        lane: usize,
    ) -> Option<()> {
        let width = u64::from(t.width);
        let bytes = width * u64::from(t.count);
        let (segment, at) = self.alone(registers, &t.memory, (lane, bytes, Intent::Write))?;
        if at.checked_add(bytes)? > segment.len() {
            return None;
        }
        for e in 0..usize::from(t.count) {
            let (at, slot) = (at + e as u64 * width, t.slots[e & 3]);
            let v = if t.value.is_wide() {
                u64::read(registers, slot)[lane & 31]
            } else {
                u64::from(u32::read(registers, slot)[lane & 31])
            };
            match t.width {
                8 => segment.store(at, v)?,
                4 => segment.store(at, v as u32)?,
                2 => segment.store(at, v as u16)?,
                _ => segment.store(at, v as u8)?,
            }
        }
        Some(())
    }
}
