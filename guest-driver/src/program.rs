//! Programs and their kernels.

use turnstile_abi::launch::MAX_PARAMS;
use turnstile_abi::{Handle, Kind, Opcode, Rights, op};

use crate::device::{DeviceManager, expect};
use crate::error::{Error, Lie};
use crate::launch::Launch;
use crate::session::derive;
use crate::transport::Transport;

/// A loaded program image.
#[derive(Debug)]
pub struct Program<'d, T: Transport> {
    device: &'d DeviceManager<T>,
    handle: Handle,
}

impl<'d, T: Transport> Program<'d, T> {
    pub(crate) const fn new(device: &'d DeviceManager<T>, handle: Handle) -> Program<'d, T> {
        Program { device, handle }
    }
    /// Its handle.
    #[must_use]
    pub const fn handle(&self) -> Handle {
        self.handle
    }
    /// Looks a kernel up by name.
    pub fn function(&self, name: &str) -> Result<Function<'d, T>, Error> {
        let block = self.device.stage(name.as_bytes())?;
        let done = self.device.call(op::function_get::Args {
            program: self.handle,
            name: block.offset(),
            bytes: name.len() as u64,
        })?;
        let handle = expect(Kind::Function, done.value)?;
        match u16::try_from(done.detail) {
            Ok(params) if params <= MAX_PARAMS => {
                Ok(Function { device: self.device, handle, params })
            }
            _ => Err(Lie::Result { op: Opcode::FunctionGet, value: done.detail }.into()),
        }
    }
    /// Derives a weaker capability to the same program.
    pub fn derive(&self, rights: Rights) -> Result<Program<'d, T>, Error> {
        Ok(Program::new(self.device, derive(self.device, self.handle, rights)?))
    }
    /// Unloads the program and releases its functions.
    pub fn unload(self) -> Result<(), Error> {
        self.device.call(op::program_unload::Args { program: self.handle }).map(drop)
    }
}

/// One kernel of a program.
#[derive(Debug)]
pub struct Function<'d, T: Transport> {
    device: &'d DeviceManager<T>,
    handle: Handle,
    params: u16,
}

impl<'d, T: Transport> Function<'d, T> {
    /// Its handle.
    #[must_use]
    pub const fn handle(&self) -> Handle {
        self.handle
    }
    /// Bytes of parameters it takes.
    #[must_use]
    pub const fn params_bytes(&self) -> u16 {
        self.params
    }
    /// Begins a launch with so many blocks and threads a block (x, y, z).
    pub fn launch(&self, blocks: [u32; 3], threads: [u16; 3]) -> Result<Launch<'d, T>, Error> {
        Launch::new(self.device, self.handle, self.params, blocks, threads)
    }
    /// Derives a weaker capability to the same kernel.
    pub fn derive(&self, rights: Rights) -> Result<Function<'d, T>, Error> {
        let handle = derive(self.device, self.handle, rights)?;
        Ok(Function { device: self.device, handle, params: self.params })
    }
    /// Releases it.
    pub fn release(self) -> Result<(), Error> {
        self.device.call(op::function_release::Args { function: self.handle }).map(drop)
    }
}
