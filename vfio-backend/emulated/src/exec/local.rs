//! A thread's own memory: word by word side by side for all lanes.

use super::memory_ops::{View, blame};
use super::registers::{BITS, Lane, Registers};
use super::transfers::narrow;
use super::warp::Outcome;
use crate::fault::{Intent, Space};
use crate::ir::{NONE, Transfer};
use crate::raw::LANES;

impl View<'_> {
    /// Checks a local access of every active lane.
    #[inline(always)]
    pub(super) fn check_local(
        &self,
        at: &[u64; LANES],
        mask: u32,
        intent: Intent,
        width: u64,
    ) -> Outcome<()> {
        let len = self.local.len() as u64 * 4;
        let ok = |a: u64| a.checked_add(width).is_some_and(|end| end <= len);
        let limit = len.saturating_sub(width);
        let mut bad = [u64::from(len < width); LANES];
        for i in 0..LANES {
            // Inactive lanes repeat an active one's address.
            bad[i] |= u64::from(at[i] > limit) | (at[i] & (width - 1));
        }
        if crate::raw::fold(&bad) != 0 {
            blame(mask, at, (Space::Local, intent, width as u32), width as u32, ok)
        } else {
            Ok(())
        }
    }

    /// Loads words at one place of the frame, which lowering has checked. `false` for narrower elements.
    #[inline(always)]
    pub(super) fn load_frame(
        &self,
        registers: &mut Registers<'_>,
        t: &Transfer,
        at: usize,
        mask: u32,
    ) -> bool {
        let (step, wide) = (usize::from(t.width) / 4, t.value.is_wide());
        if !matches!((step, wide), (1, false) | (2, true)) || !at.is_multiple_of(4) {
            return false;
        }
        for e in 0..usize::from(t.count) {
            let (slot, word) = (t.slots[e & 3], at / 4 + e * step);
            let (Some(low), Some(high)) = (self.local.get(word), self.local.get(word + step - 1))
            else {
                return false;
            };
            if slot == NONE {
            } else if wide {
                let out = std::array::from_fn(|i| u64::from(low.0[i]) | u64::from(high.0[i]) << 32);
                u64::write(registers, slot, mask, out);
            } else {
                u32::write(registers, slot, mask, low.0);
            }
        }
        true
    }

    /// Stores words at one place of the frame, which lowering has checked. `false` for narrower elements.
    #[inline(always)]
    pub(super) fn store_frame(
        &mut self,
        registers: &Registers<'_>,
        t: &Transfer,
        at: usize,
        mask: u32,
    ) -> bool {
        let (step, wide) = (usize::from(t.width) / 4, t.value.is_wide());
        if !matches!((step, wide), (1, false) | (2, true)) || !at.is_multiple_of(4) {
            return false;
        }
        for e in 0..usize::from(t.count) {
            let (slot, word) = (t.slots[e & 3], at / 4 + e * step);
            let Some(words) = self.local.get_mut(word..word + step) else { return false };
            for (half, out) in words.iter_mut().enumerate() {
                #[allow(clippy::needless_range_loop)] // Three arrays by lane: this form vectorises.
                for i in 0..LANES {
                    let value = if wide {
                        (u64::read(registers, slot)[i] >> (32 * half)) as u32
                    } else {
                        u32::read(registers, slot)[i]
                    };
                    out.0[i] = if mask & BITS[i] != 0 { value } else { out.0[i] };
                }
            }
        }
        true
    }

    #[inline(always)]
    pub(super) fn load_local(
        &mut self,
        registers: &mut Registers<'_>,
        t: &Transfer,
        at: &[u64; LANES],
        mask: u32,
    ) -> Outcome<()> {
        self.check_local(at, mask, Intent::Read, u64::from(t.width) * u64::from(t.count))?;
        let same = (0..LANES).all(|i| at[i] == at[0]);
        let local = &*self.local;
        for e in 0..usize::from(t.count) {
            let slot = t.slots[e & 3];
            if slot == NONE {
                continue;
            }
            let skip = (e * usize::from(t.width)) as u64;
            if same && t.width == 4 && !t.value.is_wide() {
                let words = local[((at[0] + skip) / 4) as usize].0;
                u32::write(registers, slot, mask, words);
                continue;
            }
            let byte = |i: usize| if mask >> i & 1 != 0 { (at[i] + skip) as usize } else { 0 };
            let word = |i: usize| local.get(byte(i) / 4).map_or(0, |w| w.0[i]);
            match t.width {
                8 => {
                    let high = |i: usize| local.get(byte(i) / 4 + 1).map_or(0, |w| w.0[i]);
                    let v = std::array::from_fn(|i| u64::from(word(i)) | u64::from(high(i)) << 32);
                    u64::write(registers, slot, mask, v);
                }
                4 => narrow(registers, t.value, slot, mask, |i| {
                    (u64::from(word(i)), word(i) as i32 as i64)
                }),
                2 => narrow(registers, t.value, slot, mask, |i| {
                    let v = (word(i) >> (8 * (byte(i) & 2))) as u16;
                    (u64::from(v), v as i16 as i64)
                }),
                _ => narrow(registers, t.value, slot, mask, |i| {
                    let v = (word(i) >> (8 * (byte(i) & 3))) as u8;
                    (u64::from(v), v as i8 as i64)
                }),
            }
        }
        Ok(())
    }

    #[inline(always)]
    pub(super) fn store_local(
        &mut self,
        registers: &Registers<'_>,
        t: &Transfer,
        at: &[u64; LANES],
        mask: u32,
    ) -> Outcome<()> {
        self.check_local(at, mask, Intent::Write, u64::from(t.width) * u64::from(t.count))?;
        for e in 0..usize::from(t.count) {
            let slot = t.slots[e & 3];
            for i in (0..LANES).filter(|i| mask >> i & 1 != 0) {
                let byte = at[i] as usize + e * usize::from(t.width);
                let value = if t.value.is_wide() {
                    u64::read(registers, slot)[i]
                } else {
                    u64::from(u32::read(registers, slot)[i])
                };
                let word = &mut self.local[byte / 4].0[i];
                match t.width {
                    8 => {
                        *word = value as u32;
                        self.local[byte / 4 + 1].0[i] = (value >> 32) as u32;
                    }
                    4 => *word = value as u32,
                    width => {
                        let shift = 8 * (byte as u32 & 3);
                        let ones = if width == 2 { 0xffff } else { 0xff } << shift;
                        *word = (*word & !ones) | ((value as u32) << shift & ones);
                    }
                }
            }
        }
        Ok(())
    }
}
