//! A session: the root of everything a tenant creates on the GPU.

use turnstile_abi::launch::DmaExtent;
use turnstile_abi::memory::SharedMemory;
use turnstile_abi::request::{Access, Format, Usage};
use turnstile_abi::ring::{self, Layout};
use turnstile_abi::{Handle, Kind, Opcode, Rights, op, regs};

use crate::arena::{Area, Arena};
use crate::buffer::{Buffer, DmaRegion};
use crate::channel::Channel;
use crate::device::{DeviceManager, expect};
use crate::error::{Error, Lie};
use crate::fence::Fence;
use crate::program::Program;
use crate::queue::{Queue, Slot};
use crate::transport::Transport;

/// An open session. Dropping it leaves it open until the device is reset; [`close`](Self::close)
/// closes it and everything created in it.
#[derive(Debug)]
pub struct Session<'d, T: Transport> {
    device: &'d DeviceManager<T>,
    handle: Handle,
    arena_base: u64,
}

impl<'d, T: Transport> Session<'d, T> {
    pub(crate) const fn new(
        device: &'d DeviceManager<T>,
        handle: Handle,
        arena_base: u64,
    ) -> Session<'d, T> {
        Session { device, handle, arena_base }
    }
    /// Its handle.
    #[must_use]
    pub const fn handle(&self) -> Handle {
        self.handle
    }
    /// Base of its device address space.
    #[must_use]
    pub const fn arena_base(&self) -> u64 {
        self.arena_base
    }
    /// The device it is on.
    #[must_use]
    pub const fn device(&self) -> &'d DeviceManager<T> {
        self.device
    }

    /// Closes the session and everything in it. Its objects answer `bad_handle` afterwards; queues
    /// and fences that were not destroyed keep their pieces of the aperture until a reset.
    pub fn close(self) -> Result<(), Error> {
        self.device.call(op::session_close::Args { session: self.handle }).map(drop)
    }

    /// Creates a zeroed buffer of `bytes`.
    pub fn create_buffer(&self, bytes: u64, usage: Usage) -> Result<Buffer<'d, T>, Error> {
        let args = op::buffer_create::Args { session: self.handle, bytes, usage };
        let done = self.device.call(args)?;
        let handle = expect(Kind::Buffer, done.value)?;
        Ok(Buffer::new(self.device, handle, bytes, done.detail))
    }

    /// Registers guest memory for DMA, page-aligned extents in order.
    ///
    /// From here until the region is unregistered the device may read or write these pages as
    /// `access` says, at any time: they must hold nothing that safe code relies on, and be reached
    /// by volatile accesses only.
    pub fn register_dma(
        &self,
        extents: &[DmaExtent],
        access: Access,
    ) -> Result<DmaRegion<'d, T>, Error> {
        let count = extents.len() as u64;
        let list = self.device.block(count * DmaExtent::BYTES)?;
        for (i, extent) in extents.iter().enumerate() {
            let at = list.offset() + i as u64 * DmaExtent::BYTES;
            self.device.transport().aperture().write(at, &extent.to_bytes())?;
        }
        let done = self.device.call(op::dma_register::Args {
            session: self.handle,
            list: list.offset(),
            extents: count,
            access,
        })?;
        let handle = expect(Kind::DmaRegion, done.value)?;
        let bytes = extents.iter().fold(0_u64, |sum, e| sum.wrapping_add(e.bytes));
        if done.detail != bytes {
            return Err(Lie::Result { op: Opcode::DmaRegister, value: done.detail }.into());
        }
        Ok(DmaRegion::new(self.device, handle, bytes, access))
    }

    /// Loads a program image, copied through the aperture.
    pub fn load_program(&self, image: &[u8], format: Format) -> Result<Program<'d, T>, Error> {
        let block = self.device.stage(image)?;
        let done = self.device.call(op::program_load::Args {
            session: self.handle,
            image: block.offset(),
            bytes: image.len() as u64,
            format,
        })?;
        Ok(Program::new(self.device, expect(Kind::Program, done.value)?))
    }

    /// Creates a work queue. `slots` holds what is in flight or finished and not yet taken; the
    /// ring is as deep as the largest power of two it has room for.
    pub fn create_queue<'q>(&self, slots: &'q mut [Slot]) -> Result<Queue<'q, T>, Error>
    where
        'd: 'q,
    {
        let most = slots.len().min(regs::MAX_DEPTH as usize);
        let depth = most.checked_ilog2().map_or(0, |log| 1_u32 << log);
        self.create_queue_with(slots, depth, self.device.next_vector())
    }

    /// Creates a work queue of a given depth whose completions interrupt through `vector`.
    pub fn create_queue_with<'q>(
        &self,
        slots: &'q mut [Slot],
        depth: u32,
        vector: u16,
    ) -> Result<Queue<'q, T>, Error>
    where
        'd: 'q,
    {
        let bytes = if depth <= regs::MAX_DEPTH { ring::bytes(depth) } else { ring::bytes(0) };
        let block = self.device.block(bytes)?;
        let layout = Layout::new(block.offset(), depth.into(), self.device.heap_offset())?;
        layout.clear(self.device.transport().aperture())?;
        let done = self.device.call(op::queue_create::Args {
            session: self.handle,
            ring: block.offset(),
            depth: depth.into(),
            vector: vector.into(),
        })?;
        let ring = block.keep();
        let handle = expect(Kind::Queue, done.value)?;
        match u32::try_from(done.detail) {
            Ok(number) if number >= 1 && number < self.device.queues() => {
                let channel = Channel::new(layout, number, vector);
                Ok(Queue::new(self.device, handle, channel, ring, slots))
            }
            _ => Err(Lie::Result { op: Opcode::QueueCreate, value: done.detail }.into()),
        }
    }

    /// Creates a timeline fence whose value the driver can read without a command.
    pub fn create_fence(&self, initial: u64) -> Result<Fence<'d, T>, Error> {
        let block = self.device.block(8)?;
        self.device.transport().aperture().store64(block.offset(), initial)?;
        let done = self.device.call(op::fence_create::Args {
            session: self.handle,
            initial,
            mirror: block.offset(),
        })?;
        let handle = expect(Kind::Fence, done.value)?;
        Ok(Fence::new(self.device, handle, Some(block.keep())))
    }

    /// Derives a weaker capability to this session: closing it closes what was created through it.
    pub fn derive(&self, rights: Rights) -> Result<Session<'d, T>, Error> {
        let handle = derive(self.device, self.handle, rights)?;
        Ok(Session::new(self.device, handle, self.arena_base))
    }
}

/// Derives a capability of the same kind.
pub(crate) fn derive<T: Transport>(
    device: &DeviceManager<T>,
    source: Handle,
    rights: Rights,
) -> Result<Handle, Error> {
    let done = device.call(op::derive::Args { source, rights })?;
    match source.kind() {
        Some(kind) => expect(kind, done.value),
        None => Err(Lie::Result { op: Opcode::Derive, value: done.value }.into()),
    }
}

/// Gives a kept piece of the aperture back.
pub(crate) fn give_back(arena: &core::cell::RefCell<Arena>, area: Option<Area>) {
    if let Some(area) = area {
        arena.borrow_mut().give(area);
    }
}
