//! Loads and stores: moving the elements of 32 lanes at once.

use super::memory_ops::{View, addresses, blame};
use super::registers::{Lane, Registers};
use super::warp::{Outcome, fault};
use crate::fault::{FaultKind, Intent, Space};
use crate::ir::{NONE, Target, Transfer, Value};
use crate::raw::{Checked, LANES};

/// Gathers the elements of a checked access into registers.
#[inline(always)]
fn load_checked(registers: &mut Registers<'_>, t: &Transfer, mask: u32, checked: &Checked<'_>) {
    for e in 0..u64::from(t.count) {
        let slot = t.slots[e as usize & 3];
        if slot == NONE {
            continue;
        }
        match (t.width, t.value.is_wide()) {
            (4, false) => u32::write(registers, slot, mask, checked.gather::<u32>(e)),
            (8, _) => u64::write(registers, slot, mask, checked.gather::<u64>(e)),
            (4, true) => {
                let v = checked.gather::<u32>(e);
                let signed = t.value == Value::Sign64;
                let widen = |v: u32| if signed { v as i32 as i64 as u64 } else { u64::from(v) };
                u64::write(registers, slot, mask, std::array::from_fn(|i| widen(v[i])));
            }
            (2, _) => {
                let v = checked.gather::<u16>(e);
                narrow(registers, t.value, slot, mask, |i| (u64::from(v[i]), v[i] as i16 as i64));
            }
            _ => {
                let v = checked.gather::<u8>(e);
                narrow(registers, t.value, slot, mask, |i| (u64::from(v[i]), v[i] as i8 as i64));
            }
        }
    }
}

/// Writes widened values: `f` gives a lane's zero- and sign-extended value.
#[inline(always)]
pub(super) fn narrow(
    registers: &mut Registers<'_>,
    value: Value,
    slot: u16,
    mask: u32,
    f: impl Fn(usize) -> (u64, i64),
) {
    match value {
        Value::Zero32 => u32::write(registers, slot, mask, std::array::from_fn(|i| f(i).0 as u32)),
        Value::Sign32 => u32::write(registers, slot, mask, std::array::from_fn(|i| f(i).1 as u32)),
        Value::Sign16 => {
            u32::write(registers, slot, mask, std::array::from_fn(|i| f(i).1 as u32 & 0xffff));
        }
        Value::Zero64 => u64::write(registers, slot, mask, std::array::from_fn(|i| f(i).0)),
        Value::Sign64 => u64::write(registers, slot, mask, std::array::from_fn(|i| f(i).1 as u64)),
    }
}

/// Scatters registers to the elements of a checked access.
#[inline(always)]
fn store_checked(registers: &Registers<'_>, t: &Transfer, mask: u32, checked: &Checked<'_>) {
    for e in 0..u64::from(t.count) {
        let slot = t.slots[e as usize & 3];
        match (t.width, t.value.is_wide()) {
            (4, false) => checked.scatter(e, mask, u32::read(registers, slot)),
            (8, _) => checked.scatter(e, mask, u64::read(registers, slot)),
            (width, wide) => {
                let low = |i: usize| {
                    if wide {
                        u64::read(registers, slot)[i] as u32
                    } else {
                        u32::read(registers, slot)[i]
                    }
                };
                match width {
                    4 => checked.scatter::<u32>(e, mask, &std::array::from_fn(low)),
                    2 => checked.scatter::<u16>(e, mask, &std::array::from_fn(|i| low(i) as u16)),
                    _ => checked.scatter::<u8>(e, mask, &std::array::from_fn(|i| low(i) as u8)),
                }
            }
        }
    }
}

impl View<'_> {
    /// `ld`.
    #[inline(always)]
    pub(crate) fn load(
        &mut self,
        registers: &mut Registers<'_>,
        t: &Transfer,
        mask: u32,
    ) -> Outcome<()> {
        let lane = mask.trailing_zeros() as usize;
        if mask & mask.wrapping_sub(1) == 0 && self.load_alone(registers, t, lane).is_some() {
            return Ok(());
        }
        match t.memory.target {
            Target::Space(space) => {
                let at = addresses(registers, &t.memory, mask);
                self.load_in(registers, t, space, &at, mask)
            }
            Target::Frame => {
                let at = u64::from(self.frame) + t.memory.offset as u32 as u64;
                if self.load_frame(registers, t, at as usize, mask) {
                    return Ok(());
                }
                self.load_local(registers, t, &[at; LANES], mask)
            }
            Target::Generic => {
                let mut at = addresses(registers, &t.memory, mask);
                if let Some(space) = Self::common_space(&mut at) {
                    return self.load_in(registers, t, space, &at, mask);
                }
                self.split(&at, mask, |view, space, at, mask| {
                    view.load_in(registers, t, space, at, mask)
                })
            }
        }
    }

    #[inline(always)]
    fn load_in(
        &mut self,
        registers: &mut Registers<'_>,
        t: &Transfer,
        space: Space,
        at: &[u64; LANES],
        mask: u32,
    ) -> Outcome<()> {
        let width = u64::from(t.width) * u64::from(t.count);
        match space {
            Space::Global | Space::Const => {
                let mut offsets = [0u64; LANES];
                if let Some(segment) = self.aim(at, mask, (Intent::Read, width), &mut offsets)?
                    && let Some(checked) = segment.check(&offsets, width, width)
                {
                    load_checked(registers, t, mask, &checked);
                    return Ok(());
                }
                self.apart(at, mask, (Intent::Read, width), |checked, mask| {
                    load_checked(registers, t, mask, checked);
                })
            }
            Space::Shared => match self.shared.check(at, width, width) {
                Some(checked) => {
                    load_checked(registers, t, mask, &checked);
                    Ok(())
                }
                None => self.blame_shared(at, mask, Intent::Read, width as u32),
            },
            Space::Local => self.load_local(registers, t, at, mask),
            Space::Param => match self.launch.params.check(at, width, width) {
                Some(checked) => {
                    load_checked(registers, t, mask, &checked);
                    Ok(())
                }
                None => blame(mask, at, (space, Intent::Read, width as u32), width as u32, |a| {
                    a.checked_add(width).is_some_and(|end| end <= self.launch.params.len())
                }),
            },
        }
    }

    /// `st`.
    #[inline(always)]
    pub(crate) fn store(
        &mut self,
        registers: &Registers<'_>,
        t: &Transfer,
        mask: u32,
    ) -> Outcome<()> {
        let lane = mask.trailing_zeros() as usize;
        if mask & mask.wrapping_sub(1) == 0 && self.store_alone(registers, t, lane).is_some() {
            return Ok(());
        }
        match t.memory.target {
            Target::Space(space) => {
                let at = addresses(registers, &t.memory, mask);
                self.store_in(registers, t, space, &at, mask)
            }
            Target::Frame => {
                let at = u64::from(self.frame) + t.memory.offset as u32 as u64;
                if self.store_frame(registers, t, at as usize, mask) {
                    return Ok(());
                }
                self.store_local(registers, t, &[at; LANES], mask)
            }
            Target::Generic => {
                let mut at = addresses(registers, &t.memory, mask);
                if let Some(space) = Self::common_space(&mut at) {
                    return self.store_in(registers, t, space, &at, mask);
                }
                self.split(&at, mask, |view, space, at, mask| {
                    view.store_in(registers, t, space, at, mask)
                })
            }
        }
    }

    #[inline(always)]
    fn store_in(
        &mut self,
        registers: &Registers<'_>,
        t: &Transfer,
        space: Space,
        at: &[u64; LANES],
        mask: u32,
    ) -> Outcome<()> {
        let width = u64::from(t.width) * u64::from(t.count);
        match space {
            Space::Global => {
                let mut offsets = [0u64; LANES];
                if let Some(segment) = self.aim(at, mask, (Intent::Write, width), &mut offsets)?
                    && let Some(checked) = segment.check(&offsets, width, width)
                {
                    store_checked(registers, t, mask, &checked);
                    return Ok(());
                }
                self.apart(at, mask, (Intent::Write, width), |checked, mask| {
                    store_checked(registers, t, mask, checked);
                })
            }
            Space::Shared => match self.shared.check(at, width, width) {
                Some(checked) => {
                    store_checked(registers, t, mask, &checked);
                    Ok(())
                }
                None => self.blame_shared(at, mask, Intent::Write, width as u32),
            },
            Space::Local => self.store_local(registers, t, at, mask),
            Space::Const | Space::Param => {
                let address = at[mask.trailing_zeros() as usize & 31];
                let intent = Intent::Write;
                fault(mask, FaultKind::Forbidden { space, intent, address, width: width as u32 })
            }
        }
    }
}
