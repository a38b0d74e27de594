//! A ring with its doorbell and interrupt: push, ring once a batch, wait for a bounded time.

use turnstile_abi::regs::{DeviceStatus, offset};
use turnstile_abi::ring::{DriverRing, Layout};
use turnstile_abi::{Completion, Descriptor};

use crate::device::Patience;
use crate::error::Error;
use crate::transport::Transport;

/// How often a slow wait looks at the status register, in nanoseconds. Reading it traps.
const CHECK_NS: u64 = 20_000_000;

/// One queue's ring, from the driver's side.
#[derive(Debug)]
pub(crate) struct Channel {
    ring: DriverRing,
    queue: u32,
    vector: u16,
    /// Pushed since the doorbell was last considered.
    unrung: bool,
}

/// A point in time and how far away it was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    at: u64,
    ns: u64,
}

impl Deadline {
    pub(crate) fn after<T: Transport>(transport: &T, ns: u64) -> Deadline {
        Deadline { at: transport.now_ns().saturating_add(ns), ns }
    }
    /// Nanoseconds left, or the error to return.
    pub(crate) fn left<T: Transport>(&self, transport: &T) -> Result<u64, Error> {
        match self.at.checked_sub(transport.now_ns()) {
            Some(left) if left > 0 => Ok(left),
            _ => Err(Error::Timeout { ns: self.ns }),
        }
    }
}

/// Whether the device is there and runs.
pub(crate) fn check_health<T: Transport>(transport: &T) -> Result<(), Error> {
    let bits = transport.read32(offset::STATUS);
    let status = DeviceStatus::from_bits_truncate(bits);
    if bits == u32::MAX {
        Err(Error::Gone)
    } else if status.contains(DeviceStatus::LOST) {
        Err(Error::Lost)
    } else if !status.contains(DeviceStatus::ENABLED) {
        Err(Error::NotEnabled)
    } else {
        Ok(())
    }
}

impl Channel {
    /// Over a ring in zeroed memory.
    pub(crate) const fn new(layout: Layout, queue: u32, vector: u16) -> Channel {
        Channel { ring: DriverRing::new(layout), queue, vector, unrung: false }
    }
    pub(crate) const fn queue(&self) -> u32 {
        self.queue
    }
    pub(crate) const fn vector(&self) -> u16 {
        self.vector
    }
    pub(crate) const fn layout(&self) -> &Layout {
        self.ring.layout()
    }
    pub(crate) const fn in_flight(&self) -> u32 {
        self.ring.in_flight()
    }

    pub(crate) fn push<T: Transport>(&mut self, t: &T, d: &Descriptor) -> Result<(), Error> {
        self.ring.push(t.aperture(), d)?.map_err(|_| Error::Full)?;
        self.unrung = true;
        Ok(())
    }

    /// Rings the doorbell if anything was pushed and the device sleeps.
    pub(crate) fn ring<T: Transport>(&mut self, t: &T) -> Result<(), Error> {
        if self.unrung {
            self.unrung = false;
            if self.ring.doorbell_needed(t.aperture())? {
                t.doorbell(self.queue);
            }
        }
        Ok(())
    }

    pub(crate) fn pop<T: Transport>(&mut self, t: &T) -> Result<Option<Completion>, Error> {
        Ok(self.ring.pop(t.aperture())?)
    }

    /// Asks for an interrupt, or for none.
    pub(crate) fn arm<T: Transport>(&mut self, t: &T, armed: bool) -> Result<(), Error> {
        Ok(self.ring.arm(t.aperture(), armed)?)
    }

    /// Rings, then waits for the next completion: spins a while, then sleeps.
    pub(crate) fn wait<T: Transport>(
        &mut self,
        t: &T,
        patience: &Patience,
        deadline: &Deadline,
    ) -> Result<Completion, Error> {
        self.ring(t)?;
        for _ in 0..patience.spins {
            if let Some(completion) = self.pop(t)? {
                return Ok(completion);
            }
            t.relax();
        }
        self.ring.arm(t.aperture(), true)?;
        let result = self.sleep(t, deadline);
        self.ring.arm(t.aperture(), false)?;
        result
    }

    fn sleep<T: Transport>(&mut self, t: &T, deadline: &Deadline) -> Result<Completion, Error> {
        let mut checked = t.now_ns();
        loop {
            if let Some(completion) = self.pop(t)? {
                return Ok(completion);
            }
            let left = deadline.left(t)?;
            t.wait_for_interrupt(self.vector, left.min(CHECK_NS));
            let now = t.now_ns();
            if now.saturating_sub(checked) >= CHECK_NS {
                checked = now;
                if let Err(e) = check_health(t) {
                    // The last word may have been posted before the device stopped.
                    return self.pop(t)?.ok_or(e);
                }
            }
        }
    }
}
