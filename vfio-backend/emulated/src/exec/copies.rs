//! Copies between device and shared memory: `cp.async` and `cp.async.bulk`. They are done when issued, so the groups and
//! barriers that wait for them never wait. Source: PTX ISA 9.0, sections 9.7.9.25.3 and 9.7.9.25.4.

use super::mbarrier::{complete_bytes, shared_offsets};
use super::memory_ops::{View, addresses};
use super::registers::{Lane, Registers};
use super::warp::{Outcome, fault};
use crate::fault::{FaultKind, Intent, Space};
use crate::ir::{BulkCopy, Memory, NONE, Op, Program, Target};
use crate::raw::LANES;

/// Whether an operand is shared memory.
fn is_shared(memory: &Memory) -> bool {
    memory.target == Target::Space(Space::Shared)
}

impl View<'_> {
    /// Runs a copy for the lanes of `mask`.
    pub(crate) fn copy(
        &mut self,
        program: &Program,
        registers: &mut Registers<'_>,
        op: &Op,
        mask: u32,
    ) -> Outcome<()> {
        match *op {
            Op::AsyncCopy { ref dest, source, source_offset, bytes, size } => {
                let to = shared_offsets(registers, dest, mask);
                let from = Memory {
                    target: Target::Space(Space::Global),
                    base: source,
                    wide: true,
                    offset: source_offset,
                };
                let from = addresses(registers, &from, mask);
                let sizes = if size == NONE {
                    [u32::from(bytes); LANES]
                } else {
                    *u32::read(registers, size)
                };
                for lane in (0..LANES).filter(|l| mask >> l & 1 != 0) {
                    let wanted = sizes[lane].min(u32::from(bytes));
                    self.copy_in(to[lane], from[lane], (u32::from(bytes), wanted), lane as u32)?;
                }
                Ok(())
            }
            Op::BulkCopy(index) => {
                let copy = program.bulk[index as usize];
                for lane in (0..LANES as u32).filter(|l| mask >> l & 1 != 0) {
                    self.bulk(&copy, registers, lane)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Copies `wanted` bytes into shared memory and zero-fills up to `width`, one of 4, 8 and 16.
    fn copy_in(
        &mut self,
        to: u64,
        from: u64,
        (width, wanted): (u32, u32),
        lane: u32,
    ) -> Outcome<()> {
        let mut bytes = [0u8; 16];
        if wanted != 0 {
            let (region, offset) = self.place(from, wanted, width, Intent::Read, lane)?;
            if region.segment.read(offset, &mut bytes[..wanted as usize]).is_none() {
                let (space, intent) = (Space::Global, Intent::Read);
                return fault(
                    1 << lane,
                    FaultKind::Unmapped { space, intent, address: from, width: wanted },
                );
            }
        }
        let aligned = to.is_multiple_of(u64::from(width));
        match aligned.then(|| self.shared.write(to, &bytes[..width as usize])).flatten() {
            Some(()) => Ok(()),
            None => self.blame_shared(&[to; LANES], 1 << lane, Intent::Write, width),
        }
    }

    /// One lane's bulk copy.
    fn bulk(&mut self, copy: &BulkCopy, registers: &Registers<'_>, lane: u32) -> Outcome<()> {
        let bit = 1u32 << lane;
        let size = u32::read(registers, copy.size)[lane as usize];
        if !size.is_multiple_of(16) {
            return fault(
                bit,
                FaultKind::Undefined { what: "bulk copy size is no multiple of 16" },
            );
        }
        let address = |m: &Memory| {
            if is_shared(m) || m.target == Target::Generic {
                shared_offsets(registers, m, bit)[lane as usize]
            } else {
                addresses(registers, m, bit)[lane as usize]
            }
        };
        let (to, from) = (address(&copy.dest), address(&copy.source));
        let mut left = size;
        let mut chunk = [0u8; 4096];
        while left != 0 {
            let done = u64::from(size - left);
            let n = left.min(4096);
            let bytes = &mut chunk[..n as usize];
            if is_shared(&copy.source) {
                if !from.is_multiple_of(16) || self.shared.read(from + done, bytes).is_none() {
                    return self.blame_shared(&[from + done; LANES], bit, Intent::Read, 16);
                }
            } else {
                let (region, offset) = self.place(from + done, n, 16, Intent::Read, lane)?;
                let _ = region.segment.read(offset, bytes);
            }
            if is_shared(&copy.dest) {
                if !to.is_multiple_of(16) || self.shared.write(to + done, bytes).is_none() {
                    return self.blame_shared(&[to + done; LANES], bit, Intent::Write, 16);
                }
            } else {
                let (region, offset) = self.place(to + done, n, 16, Intent::Write, lane)?;
                let _ = region.segment.write(offset, bytes);
            }
            left -= n;
        }
        if let Some(barrier) = &copy.mbarrier {
            let at = address(barrier);
            if complete_bytes(self, at, u64::from(size)).is_none() {
                return fault(
                    bit,
                    FaultKind::BadSync { what: "no initialised mbarrier at this address" },
                );
            }
        }
        Ok(())
    }
}
