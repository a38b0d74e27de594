//! One client's device as it sees it: a state machine from requests to replies.
//!
//! It reads and writes no socket and starts one thread at most, the [relay](crate::relay). Every
//! request is answered: with data, or with an errno. Whatever a client asks for in whatever order,
//! it changes its own device only.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use turnstile_abi::memory::SharedMemory;
use turnstile_abi::regs::{Control, DeviceStatus, VECTORS, offset};
use turnstile_device::{Bar, Device, Function, FunctionError};

use crate::memory::{Backing, Blank, Gone, Window, Windows};
use crate::region::{self, IRQS, MSIX, REGIONS, Region};
use crate::relay::{self, Relay};
use crate::server::{Limits, MemoryEvents};
use crate::wire::{Action, HEADER_BYTES, IrqData, MAX_FDS, Request, SetIrqs};

/// How long a reset may take before the client is told that it did not.
const RESET: Duration = Duration::from_secs(4);

/// Which descriptor goes with a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Enclosed {
    Nothing,
    Aperture,
    Doorbell,
}

/// A client that has negotiated.
pub(crate) struct Client {
    tenant: String,
    device: Arc<Device>,
    events: Box<dyn MemoryEvents>,
    function: Function,
    windows: Windows,
    relay: Option<Relay>,
    /// Whether it can receive a descriptor at all.
    takes_fds: bool,
    /// Kinds of memory that the log was told about already.
    told: Vec<Blank>,
}

impl Client {
    pub(crate) fn new(
        tenant: &str,
        device: Arc<Device>,
        events: Box<dyn MemoryEvents>,
        limits: &Limits,
        takes_fds: bool,
    ) -> Result<Client, (FunctionError, Box<dyn MemoryEvents>)> {
        let function = match Function::new(device.aperture().size()) {
            Ok(function) => function,
            Err(e) => return Err((e, events)),
        };
        let windows = Windows::new(limits.memory);
        let tenant = tenant.to_owned();
        let (relay, told) = (None, Vec::new());
        Ok(Client { tenant, device, events, function, windows, relay, takes_fds, told })
    }

    /// Its device.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// The doorbell's eventfd, once it was asked for.
    pub(crate) fn doorbell(&mut self) -> std::io::Result<&OwnedFd> {
        self.relay()?.doorbell()
    }

    /// Takes it apart: its relay, to be stopped, and where its memory's news goes.
    pub(crate) fn end(self) -> (Box<dyn MemoryEvents>, Option<Relay>) {
        (self.events, self.relay)
    }

    /// Answers a request. The reply's payload is appended to `out`, which holds a header's place.
    ///
    /// # Errors
    /// What the client is told.
    pub(crate) fn handle(
        &mut self,
        request: &Request<'_>,
        fds: Vec<OwnedFd>,
        out: &mut Vec<u8>,
    ) -> Result<Enclosed, Errno> {
        debug_assert_eq!(out.len(), HEADER_BYTES);
        if !fds.is_empty() && !request.takes_fds() {
            return Err(Errno::INVAL);
        }
        let enclosed = |yes: bool, what| if yes { what } else { Enclosed::Nothing };
        match *request {
            Request::RegionRead { region, offset, count } => {
                let head = out.len();
                out.extend_from_slice(&offset.to_le_bytes());
                out.extend_from_slice(&region.to_le_bytes());
                out.extend_from_slice(&count.to_le_bytes());
                out.resize(head + 16 + count as usize, 0);
                self.read(region, offset, &mut out[head + 16..])?;
            }
            Request::RegionWrite { region, offset, data } => {
                self.write(region, offset, data)?;
                out.extend_from_slice(&offset.to_le_bytes());
                out.extend_from_slice(&region.to_le_bytes());
                // CAST: at most MAX_DATA.
                out.extend_from_slice(&(data.len() as u32).to_le_bytes());
            }
            // Negotiated once, before there is a client.
            Request::Version { .. } => return Err(Errno::INVAL),
            Request::DmaMap { readable, writeable, offset, address, bytes } => {
                let whole_access = readable && writeable;
                self.map(Window { address, bytes, offset, whole_access }, fds)?;
            }
            Request::DmaUnmap { all, address, bytes } => {
                self.unmap(all, address, bytes)?;
                let flags = if all { 2_u32 } else { 0 };
                out.extend_from_slice(&24_u32.to_le_bytes());
                out.extend_from_slice(&flags.to_le_bytes());
                out.extend_from_slice(&address.to_le_bytes());
                out.extend_from_slice(&bytes.to_le_bytes());
            }
            Request::DeviceInfo => {
                // Flags: can be reset (bit 0), PCI (bit 1).
                for word in [16, 3, REGIONS, IRQS] {
                    out.extend_from_slice(&u32::to_le_bytes(word));
                }
            }
            Request::RegionInfo { argsz, index } => {
                let bytes = self.device.aperture().size();
                let mapped = region::info(&self.function, bytes, argsz, index, out)?;
                return Ok(enclosed(mapped && self.takes_fds, Enclosed::Aperture));
            }
            Request::RegionIoFds { argsz, index } => {
                if !self.takes_fds {
                    return Err(Errno::NOTSUP);
                }
                let any = region::io_fds(argsz, index, out)?;
                return Ok(enclosed(any, Enclosed::Doorbell));
            }
            Request::IrqInfo { index } => region::irq_info(index, out)?,
            Request::SetIrqs(ref set) => self.set_irqs(set, fds)?,
            Request::Reset => self.reset()?,
        }
        Ok(Enclosed::Nothing)
    }

    // --- Regions -------------------------------------------------------------------------------

    /// The region, if the range lies in it.
    fn range(&self, index: u32, at: u64, bytes: usize) -> Result<Region, Errno> {
        let region = Region::of(index)?.ok_or(Errno::INVAL)?;
        let size = region.bytes(&self.function);
        let inside = turnstile_abi::memory::contains(size, at, bytes as u64);
        if inside { Ok(region) } else { Err(Errno::INVAL) }
    }

    fn read(&self, index: u32, at: u64, data: &mut [u8]) -> Result<(), Errno> {
        match self.range(index, at, data.len())? {
            Region::Bar(Bar::Registers) => self.device.bar0_read(at, data),
            Region::Bar(Bar::Msix) => {
                self.function.msix_read(at, data, |v| relay::is_pending(&self.device, v));
            }
            // BAR2 is the aperture rounded up; what lies beyond it is nothing.
            Region::Bar(Bar::Aperture) => {
                if self.device.aperture().read(at, data).is_err() {
                    data.fill(0xff);
                }
            }
            Region::Config => self.function.config_read(at, data),
        }
        Ok(())
    }

    fn write(&mut self, index: u32, at: u64, data: &[u8]) -> Result<(), Errno> {
        match self.range(index, at, data.len())? {
            Region::Bar(Bar::Registers) => self.device.bar0_write(at, data),
            // The client routes interrupts itself, by eventfds: the table is only kept. So is where
            // the BARs are.
            Region::Bar(Bar::Msix) => drop(self.function.msix_write(at, data)),
            Region::Bar(Bar::Aperture) => drop(self.device.aperture().write(at, data)),
            Region::Config => drop(self.function.config_write(at, data)),
        }
        Ok(())
    }

    // --- Memory --------------------------------------------------------------------------------

    fn map(&mut self, window: Window, fds: Vec<OwnedFd>) -> Result<(), Errno> {
        let mut fds = fds.into_iter();
        let (fd, None) = (fds.next(), fds.next()) else { return Err(Errno::INVAL) };
        let backing = self.windows.prepare(&window, fd)?;
        let result = match &backing {
            Backing::Memory(region, offset) => self
                .events
                .add(window.address, region.clone(), *offset, window.bytes)
                .map_err(|why| {
                    tracing::info!(tenant = self.tenant, why, "memory refused");
                    Errno::NOSPC
                }),
            Backing::Blank(why) => {
                self.tell(*why);
                Ok(())
            }
        };
        self.windows.settle(&window, &backing, result.is_ok());
        result
    }

    /// Says once a client what kind of its memory cannot be used, and how it could.
    fn tell(&mut self, blank: Blank) {
        if self.told.contains(&blank) {
            return;
        }
        self.told.push(blank);
        let tenant = &self.tenant;
        match blank {
            // ROM and other devices' BARs: every VMM has some.
            Blank::NoFile | Blank::Access => {
                tracing::debug!(tenant, ?blank, "memory that is not DMA-able");
            }
            Blank::NotSealed => tracing::warn!(
                tenant,
                "the VM's memory is not DMA-able: its file can shrink; give QEMU \
                 memory-backend-memfd with share=on,seal=on"
            ),
            Blank::HugePages => {
                tracing::warn!(tenant, "the VM's memory is not DMA-able: it has huge pages");
            }
        }
    }

    fn unmap(&mut self, all: bool, address: u64, bytes: u64) -> Result<(), Errno> {
        for gone in self.windows.covered(all, address, bytes)? {
            let Gone { address, bytes, is_memory } = gone;
            if is_memory {
                // Only when no backend can reach it any more may the client hear that it is gone.
                self.events.remove(address, bytes).map_err(|why| {
                    tracing::warn!(tenant = self.tenant, why, "memory cannot be taken away");
                    Errno::BUSY
                })?;
            }
            self.windows.remove(address);
        }
        Ok(())
    }

    // --- Interrupts ----------------------------------------------------------------------------

    fn relay(&mut self) -> std::io::Result<&mut Relay> {
        if self.relay.is_none() {
            self.relay = Some(Relay::start(self.device.clone(), &self.tenant)?);
        }
        self.relay.as_mut().ok_or(std::io::ErrorKind::NotFound.into())
    }

    fn set_irqs(&mut self, set: &SetIrqs<'_>, fds: Vec<OwnedFd>) -> Result<(), Errno> {
        let SetIrqs { index, start, count, action, data } = *set;
        if index >= IRQS {
            return Err(Errno::INVAL);
        }
        let vectors = if index == MSIX { u32::from(VECTORS) } else { 0 };
        let end = start.checked_add(count).filter(|&end| end <= vectors).ok_or(Errno::INVAL)?;
        // CAST: at most VECTORS.
        let range = start as u16..end as u16;
        match (action, data) {
            // Nothing of any kind: disable the kind. There is nothing to do for one that is not.
            (Action::Trigger, IrqData::None) if count == 0 => {
                if start != 0 {
                    return Err(Errno::INVAL);
                }
                self.disconnect(0..if index == MSIX { VECTORS } else { 0 });
            }
            (Action::Trigger, IrqData::None) => range.for_each(|v| self.device.raise(v)),
            (Action::Trigger, IrqData::Bools(wanted)) => {
                let wanted = range.zip(wanted).filter(|(_, wanted)| **wanted != 0);
                wanted.for_each(|(vector, _)| self.device.raise(vector));
            }
            (Action::Trigger, IrqData::Eventfds) if fds.is_empty() => self.disconnect(range),
            (Action::Trigger, IrqData::Eventfds) => {
                if fds.len() != range.len() || fds.len() > MAX_FDS {
                    return Err(Errno::INVAL);
                }
                if !fds.iter().all(relay::is_eventfd) {
                    return Err(Errno::INVAL);
                }
                let relay = self.relay().map_err(|_| Errno::NOMEM)?;
                for (vector, fd) in range.zip(fds) {
                    relay.connect(vector, fd).map_err(|_| Errno::NOMEM)?;
                }
            }
            // The client masks by taking the eventfd away: irq_info does not say "maskable".
            (Action::Mask | Action::Unmask, _) => return Err(Errno::INVAL),
        }
        Ok(())
    }

    fn disconnect(&self, vectors: std::ops::Range<u16>) {
        if let Some(relay) = &self.relay {
            vectors.for_each(|vector| relay.disconnect(vector));
        }
    }

    // --- Reset ---------------------------------------------------------------------------------

    /// Everything the guest made is gone; memory and wired interrupts are the client's and stay.
    fn reset(&mut self) -> Result<(), Errno> {
        let _ = self.function.reset();
        self.device.bar0_write(offset::CONTROL, &Control::RESET.bits().to_le_bytes());
        let until = Instant::now() + RESET;
        let mut pause = Duration::from_micros(20);
        loop {
            let mut status = [0; 4];
            self.device.bar0_read(offset::STATUS, &mut status);
            let status = DeviceStatus::from_bits_truncate(u32::from_le_bytes(status));
            if !status.contains(DeviceStatus::BUSY) {
                break;
            }
            if Instant::now() >= until {
                return Err(Errno::TIMEDOUT);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(5));
        }
        // Interrupts of before the reset are gone too.
        for vector in 0..VECTORS {
            if let Some(own) = self.device.vector(vector) {
                let _ = own.read();
            }
        }
        Ok(())
    }
}
