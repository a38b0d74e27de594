//! The ring: one submission queue and one completion queue in shared memory.
//!
//! A ring of depth `d` lies at a 64-byte aligned offset and takes [`bytes`]`(d)`:
//!
//! | offset | written by | field |
//! |---|---|---|
//! | 0x00 | driver | submission tail: descriptors pushed, counted for ever, wrapping at 2^32 |
//! | 0x40 | device | submission head: descriptors fetched |
//! | 0x44 | device | *parked*: 1 while the device sleeps, so the driver must ring the doorbell |
//! | 0x80 | driver | completion head: completions consumed |
//! | 0x84 | driver | *armed*: 1 while the driver wants an interrupt for the next completion |
//! | 0x100 | driver | `d` descriptors of 64 bytes |
//! | 0x100 + 64 d | device | `d` completions of 32 bytes |
//!
//! Each field has one writer and a cache line of its own. The device keeps private copies of its
//! own counters and never reads them back: what the driver scribbles over them changes nothing.
//! An accepted command always has a completion slot, because [`DeviceRing::fetch`] reserves one (a
//! [`Permit`]) first.

use core::sync::atomic::{Ordering, fence};

use crate::descriptor::{Completion, Descriptor};
use crate::memory::{OutOfBounds, SharedMemory, contains};
use crate::regs::MAX_DEPTH;

const SQ_TAIL: u64 = 0x00;
const SQ_HEAD: u64 = 0x40;
const PARKED: u64 = 0x44;
const CQ_HEAD: u64 = 0x80;
const ARMED: u64 = 0x84;
const DESCRIPTORS: u64 = 0x100;

/// Bytes a ring of this depth takes.
#[must_use]
pub const fn bytes(depth: u32) -> u64 {
    DESCRIPTORS + depth as u64 * (Descriptor::BYTES + Completion::BYTES)
}

/// Where a ring lies: checked once, trusted afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    base: u64,
    depth: u32,
}

/// Why a ring cannot lie there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// The depth is not a power of two from 1 to [`MAX_DEPTH`].
    Depth,
    /// The offset is not a multiple of 64, or the ring does not fit.
    Place,
}

impl Layout {
    /// Checks a ring of `depth` at `base` inside `limit` bytes.
    pub const fn new(base: u64, depth: u64, limit: u64) -> Result<Layout, LayoutError> {
        if depth == 0 || depth > MAX_DEPTH as u64 || !depth.is_power_of_two() {
            return Err(LayoutError::Depth);
        }
        let depth = depth as u32;
        if !base.is_multiple_of(64) || !contains(limit, base, bytes(depth)) {
            return Err(LayoutError::Place);
        }
        Ok(Layout { base, depth })
    }
    /// Offset of the ring.
    #[must_use]
    pub const fn base(&self) -> u64 {
        self.base
    }
    /// Descriptors it holds.
    #[must_use]
    pub const fn depth(&self) -> u32 {
        self.depth
    }
    /// Bytes it takes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        bytes(self.depth)
    }
    const fn at(&self, field: u64) -> u64 {
        self.base + field
    }
    const fn descriptor(&self, index: u32) -> u64 {
        let slot = index & (self.depth - 1);
        self.base + DESCRIPTORS + slot as u64 * Descriptor::BYTES
    }
    const fn completion(&self, index: u32) -> u64 {
        let slot = index & (self.depth - 1);
        self.base
            + DESCRIPTORS
            + self.depth as u64 * Descriptor::BYTES
            + slot as u64 * Completion::BYTES
    }
    /// Zeroes the ring, as both sides expect to find it.
    pub fn clear<M: SharedMemory>(&self, memory: &M) -> Result<(), OutOfBounds> {
        for offset in (0..self.bytes()).step_by(8) {
            memory.store64(self.base + offset, 0)?;
        }
        Ok(())
    }
}

/// What breaks a ring for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingError {
    /// The driver's tail is further ahead than the ring is deep, or went backwards.
    Tail {
        /// The value read.
        tail: u32,
        /// Descriptors fetched so far.
        head: u32,
    },
    /// The driver claims to have consumed completions that were never posted.
    CompletionHead {
        /// The value read.
        head: u32,
        /// Completions posted so far.
        tail: u32,
    },
    /// The memory under the ring went away.
    Memory(OutOfBounds),
}

impl From<OutOfBounds> for RingError {
    fn from(e: OutOfBounds) -> Self {
        RingError::Memory(e)
    }
}

/// The right to post one completion: a reserved slot. Given out by [`DeviceRing::fetch`] with each
/// command and spent by [`DeviceRing::complete`]; it can be neither copied nor made elsewhere.
#[derive(Debug)]
#[must_use = "an accepted command must complete"]
pub struct Permit(());

/// The mediator's end of a ring.
#[derive(Debug)]
pub struct DeviceRing {
    layout: Layout,
    head: u32,
    /// Last tail read from the driver, checked.
    tail: u32,
    /// Completions posted.
    posted: u32,
    /// Last completion head read from the driver, checked.
    consumed: u32,
    /// Permits out: commands fetched and not yet completed.
    open: u32,
    parked: bool,
}

impl DeviceRing {
    /// Takes a ring over. The driver has zeroed it.
    #[must_use]
    pub const fn new(layout: Layout) -> DeviceRing {
        DeviceRing { layout, head: 0, tail: 0, posted: 0, consumed: 0, open: 0, parked: false }
    }
    /// Where it lies.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }
    /// Commands fetched and not yet completed.
    #[must_use]
    pub const fn open(&self) -> u32 {
        self.open
    }
    /// Whether the ring told its driver that it sleeps.
    #[must_use]
    pub const fn is_parked(&self) -> bool {
        self.parked
    }

    /// Fetches the next command, with the completion slot it will need. `None`: nothing there, or
    /// no free completion slot until the driver consumes some.
    ///
    /// The descriptor is copied out once; the caller owns the copy.
    #[inline]
    pub fn fetch<M: SharedMemory>(
        &mut self,
        memory: &M,
    ) -> Result<Option<(Descriptor, Permit)>, RingError> {
        if !self.has_slot(memory)? || !self.has_command(memory)? {
            return Ok(None);
        }
        let mut copy = [0; 64];
        memory.read(self.layout.descriptor(self.head), &mut copy)?;
        self.head = self.head.wrapping_add(1);
        self.open += 1;
        memory.store32(self.layout.at(SQ_HEAD), self.head)?;
        Ok(Some((Descriptor::from_bytes(&copy), Permit(()))))
    }

    #[inline]
    fn has_command<M: SharedMemory>(&mut self, memory: &M) -> Result<bool, RingError> {
        if self.tail == self.head {
            let tail = memory.load32(self.layout.at(SQ_TAIL))?;
            if tail.wrapping_sub(self.head) > self.layout.depth {
                return Err(RingError::Tail { tail, head: self.head });
            }
            self.tail = tail;
        }
        Ok(self.tail != self.head)
    }

    #[inline]
    fn has_slot<M: SharedMemory>(&mut self, memory: &M) -> Result<bool, RingError> {
        let used = |consumed: u32, r: &Self| r.posted.wrapping_sub(consumed) + r.open;
        if used(self.consumed, self) >= self.layout.depth {
            let head = memory.load32(self.layout.at(CQ_HEAD))?;
            // Valid heads lie from the last one seen to what was posted.
            if self.posted.wrapping_sub(head) > self.posted.wrapping_sub(self.consumed) {
                return Err(RingError::CompletionHead { head, tail: self.posted });
            }
            self.consumed = head;
        }
        Ok(used(self.consumed, self) < self.layout.depth)
    }

    /// Posts a completion. Ask [`interrupt_wanted`](Self::interrupt_wanted) after a batch.
    #[inline]
    pub fn complete<M: SharedMemory>(
        &mut self,
        memory: &M,
        permit: Permit,
        completion: &Completion,
    ) -> Result<(), OutOfBounds> {
        let Permit(()) = permit;
        self.open -= 1;
        let at = self.layout.completion(self.posted);
        self.posted = self.posted.wrapping_add(1);
        let words = completion.to_words(self.posted);
        for (i, word) in words.into_iter().enumerate() {
            memory.store64(at + i as u64 * 8, word)?;
        }
        Ok(())
    }

    /// Whether the driver sleeps and wants an interrupt for what was posted. Once for a batch: the
    /// fence in it costs as much as posting.
    pub fn interrupt_wanted<M: SharedMemory>(&self, memory: &M) -> Result<bool, OutOfBounds> {
        // Pairs with the fence in `DriverRing::arm`: either we see the flag or it sees us.
        fence(Ordering::SeqCst);
        Ok(memory.load32(self.layout.at(ARMED))? != 0)
    }

    /// Announces sleep, then looks once more. `true`: parked, the driver will ring; `false`: there
    /// is work after all.
    pub fn park<M: SharedMemory>(&mut self, memory: &M) -> Result<bool, RingError> {
        self.parked = true;
        memory.store32(self.layout.at(PARKED), 1)?;
        // Pairs with the fence in `DriverRing::doorbell_needed`.
        fence(Ordering::SeqCst);
        if self.has_slot(memory)? && self.has_command(memory)? {
            self.unpark(memory)?;
        }
        Ok(self.parked)
    }

    /// Wakes up: the driver need not ring any more.
    pub fn unpark<M: SharedMemory>(&mut self, memory: &M) -> Result<(), OutOfBounds> {
        if self.parked {
            self.parked = false;
            memory.store32(self.layout.at(PARKED), 0)?;
        }
        Ok(())
    }
}

/// The ring has no room: consume completions first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The driver's end of a ring.
#[derive(Debug)]
pub struct DriverRing {
    layout: Layout,
    tail: u32,
    consumed: u32,
}

impl DriverRing {
    /// Sets a ring up in zeroed memory.
    #[must_use]
    pub const fn new(layout: Layout) -> DriverRing {
        DriverRing { layout, tail: 0, consumed: 0 }
    }
    /// Where it lies.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }
    /// Commands pushed whose completions have not been consumed.
    #[must_use]
    pub const fn in_flight(&self) -> u32 {
        self.tail.wrapping_sub(self.consumed)
    }

    /// Pushes a command. It is visible to the device at once; ask
    /// [`doorbell_needed`](Self::doorbell_needed) after a batch.
    pub fn push<M: SharedMemory>(
        &mut self,
        memory: &M,
        descriptor: &Descriptor,
    ) -> Result<Result<(), Full>, OutOfBounds> {
        if self.in_flight() >= self.layout.depth {
            return Ok(Err(Full));
        }
        memory.write(self.layout.descriptor(self.tail), &descriptor.to_bytes())?;
        self.tail = self.tail.wrapping_add(1);
        memory.store32(self.layout.at(SQ_TAIL), self.tail)?;
        Ok(Ok(()))
    }

    /// Whether the device sleeps and must be told.
    pub fn doorbell_needed<M: SharedMemory>(&self, memory: &M) -> Result<bool, OutOfBounds> {
        fence(Ordering::SeqCst);
        Ok(memory.load32(self.layout.at(PARKED))? != 0)
    }

    /// Takes the next completion, if it has arrived.
    pub fn pop<M: SharedMemory>(&mut self, memory: &M) -> Result<Option<Completion>, OutOfBounds> {
        let at = self.layout.completion(self.consumed);
        let last = memory.load64(at + 24)?;
        if (last >> 32) as u32 != self.consumed.wrapping_add(1) {
            return Ok(None);
        }
        let words = [memory.load64(at)?, memory.load64(at + 8)?, memory.load64(at + 16)?, last];
        self.consumed = self.consumed.wrapping_add(1);
        memory.store32(self.layout.at(CQ_HEAD), self.consumed)?;
        Ok(Some(Completion::from_words(words)))
    }

    /// Asks for an interrupt (or not) at the next completion. After arming, look at the ring once
    /// more before sleeping.
    pub fn arm<M: SharedMemory>(&self, memory: &M, armed: bool) -> Result<(), OutOfBounds> {
        memory.store32(self.layout.at(ARMED), armed.into())?;
        fence(Ordering::SeqCst);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
