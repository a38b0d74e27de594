//! Building a kernel launch.
//!
//! Arguments go straight into the aperture, by value or as relocations: a buffer argument is a
//! handle that the mediator turns into a device address, so no address passes through the tenant.

use turnstile_abi::launch::{
    Block as Threads, Extras, Grid, LaunchFlags, MAX_RELOCATIONS, Relocation, relocations_offset,
};
use turnstile_abi::memory::SharedMemory;
use turnstile_abi::request::Access;
use turnstile_abi::{Handle, op};

use crate::arena::{Area, Block};
use crate::buffer::Buffer;
use crate::device::DeviceManager;
use crate::error::Error;
use crate::transport::Transport;

/// A value that can be a kernel parameter: a plain number, aligned to its size.
pub trait Argument: Copy {
    /// Size and alignment in bytes: 1, 2, 4 or 8.
    const BYTES: u64;
    /// The number in the low bytes.
    fn to_word(self) -> u64;
}

macro_rules! arguments {
    ($($ty:ty => |$v:ident| $word:expr;)*) => { $(
        impl Argument for $ty {
            const BYTES: u64 = size_of::<$ty>() as u64;
            fn to_word(self) -> u64 { let $v = self; $word }
        }
    )* };
}

arguments! {
    u8 => |v| v.into();
    u16 => |v| v.into();
    u32 => |v| v.into();
    u64 => |v| v;
    i8 => |v| v as u8 as u64;
    i16 => |v| v as u16 as u64;
    i32 => |v| v as u32 as u64;
    i64 => |v| v as u64;
    f32 => |v| v.to_bits().into();
    f64 => |v| v.to_bits();
}

/// A launch in the making. Give the arguments in order, then hand it to [`crate::Queue::launch`].
#[derive(Debug)]
#[must_use = "a launch does nothing until a queue gets it"]
pub struct Launch<'d, T: Transport> {
    device: &'d DeviceManager<T>,
    function: Handle,
    grid: Grid,
    threads: [u16; 3],
    flags: LaunchFlags,
    /// Bytes of parameters the kernel takes.
    taken: u16,
    /// Bytes of parameters given so far.
    given: u64,
    relocations: u32,
    block: Option<Block<'d>>,
}

impl<'d, T: Transport> Launch<'d, T> {
    pub(crate) fn new(
        device: &'d DeviceManager<T>,
        function: Handle,
        taken: u16,
        blocks: [u32; 3],
        threads: [u16; 3],
    ) -> Result<Launch<'d, T>, Error> {
        let start = relocations_offset(taken);
        let block = if taken == 0 {
            None
        } else {
            // A relocation fills eight bytes of parameters, so there cannot be more than that.
            let block = device.block(start + most_relocations(taken) * Relocation::BYTES)?;
            for at in (0..start).step_by(8) {
                device.transport().aperture().store64(block.offset() + at, 0)?;
            }
            Some(block)
        };
        Ok(Launch {
            device,
            function,
            grid: Grid { blocks, shared_bytes: 0 },
            threads,
            flags: LaunchFlags::empty(),
            taken,
            given: 0,
            relocations: 0,
            block,
        })
    }

    /// Dynamic shared memory a block, in bytes.
    pub fn shared(&mut self, bytes: u32) -> &mut Self {
        self.grid.shared_bytes = bytes;
        self
    }

    /// Asks that all blocks be resident at once, so that they may wait for each other.
    pub fn cooperative(&mut self) -> &mut Self {
        self.flags |= LaunchFlags::COOPERATIVE;
        self
    }

    /// The next argument, by value.
    pub fn value<V: Argument>(&mut self, value: V) -> Result<&mut Self, Error> {
        let (at, base) = self.next(V::BYTES)?;
        let bytes = value.to_word().to_le_bytes();
        self.device.transport().aperture().write(base + at, &bytes[..V::BYTES as usize])?;
        self.given = at + V::BYTES;
        Ok(self)
    }

    /// The next argument: the device address of byte `offset` of `buffer`. The launch is refused
    /// unless the buffer's capability carries the rights that `access` names.
    pub fn buffer(
        &mut self,
        buffer: &Buffer<'_, T>,
        offset: u64,
        access: Access,
    ) -> Result<&mut Self, Error> {
        self.relocate(buffer.handle(), offset, access)
    }

    /// Like [`buffer`](Self::buffer), by handle.
    pub fn relocate(
        &mut self,
        buffer: Handle,
        offset: u64,
        access: Access,
    ) -> Result<&mut Self, Error> {
        let (at, base) = self.next(8)?;
        let slot = u64::from(self.relocations);
        if slot >= most_relocations(self.taken) {
            return Err(Error::Arguments { given: at + 8, taken: self.taken.into() });
        }
        let relocation = Relocation { at: at as u32, access: access as u32, buffer, offset };
        let place = base + relocations_offset(self.taken) + slot * Relocation::BYTES;
        self.device.transport().aperture().write(place, &relocation.to_bytes())?;
        self.relocations += 1;
        self.given = at + 8;
        Ok(self)
    }

    /// Where an argument of `bytes` goes, and where the parameters lie in the aperture.
    fn next(&self, bytes: u64) -> Result<(u64, u64), Error> {
        let at = self.given.next_multiple_of(bytes);
        match &self.block {
            Some(block) if at + bytes <= self.taken.into() => Ok((at, block.offset())),
            _ => Err(Error::Arguments { given: at + bytes, taken: self.taken.into() }),
        }
    }

    /// The command, and the piece of the aperture to keep until it completes.
    pub(crate) fn finish(self) -> Result<(op::launch::Args, Option<Area>), Error> {
        let taken = u64::from(self.taken);
        // The tail may be padding, up to the largest alignment a parameter has.
        if self.given.next_multiple_of(8) < taken {
            return Err(Error::Arguments { given: self.given, taken });
        }
        let args = op::launch::Args {
            function: self.function,
            grid: self.grid,
            block: Threads { threads: self.threads, params_bytes: self.taken },
            params: self.block.as_ref().map_or(0, Block::offset),
            extras: Extras { relocations: self.relocations, flags: self.flags.bits() },
        };
        Ok((args, self.block.map(Block::keep)))
    }
}

const fn most_relocations(params: u16) -> u64 {
    let fit = params as u64 / 8;
    if fit < MAX_RELOCATIONS as u64 { fit } else { MAX_RELOCATIONS as u64 }
}
