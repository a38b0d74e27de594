//! Programs, their kernels, and launches.

use std::cell::RefCell;
use std::rc::Rc;

use capnp::{Error, ErrorKind};
use turnstile_abi::launch::MAX_PARAMS;
use turnstile_driver::{self as driver, Argument, Function, Launch, Program};
use turnstile_process::ProcessTransport;

use crate::buffer::BufferServer;
use crate::failure::{closed, failure, malformed, say};
use crate::fence::Timeline;
use crate::session::Session;
use crate::turnstile_capnp::{
    Access, argument, dim3, gpu_kernel, gpu_program, gpu_session::launch_kernel_params,
};

/// The client's reference to a program. Closing it unloads it and closes its kernels; dropping the
/// last one does so once its kernels have been dropped too.
pub(crate) struct ProgramServer {
    session: Rc<Session>,
    program: RefCell<Option<Program<'static, ProcessTransport>>>,
}

impl ProgramServer {
    pub(crate) fn new(
        session: &Rc<Session>,
        program: Program<'static, ProcessTransport>,
    ) -> ProgramServer {
        ProgramServer { session: session.clone(), program: RefCell::new(Some(program)) }
    }

    fn end(&self) -> Result<(), Error> {
        let program = self.program.borrow_mut().take();
        match program {
            Some(program) if self.session.is_open() => program.unload().map_err(|e| failure(&e)),
            _ => Ok(()),
        }
    }
}

impl Drop for ProgramServer {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

impl gpu_program::Server for ProgramServer {
    async fn kernel(
        self: Rc<Self>,
        params: gpu_program::KernelParams,
        mut results: gpu_program::KernelResults,
    ) -> Result<(), Error> {
        self.session.check()?;
        let name = params.get()?.get_entry()?.to_str().map_err(malformed)?;
        let function = {
            let program = self.program.borrow();
            let program = program.as_ref().ok_or_else(|| closed("program"))?;
            program.function(name).map_err(|e| failure(&e))?
        };
        results.get().set_parameter_bytes(function.params_bytes().into());
        let server = KernelServer {
            session: self.session.clone(),
            function: RefCell::new(Some(function)),
            _program: self.clone(),
        };
        results.get().set_kernel(self.session.vat.kernels.client(server));
        Ok(())
    }

    async fn close(
        self: Rc<Self>,
        _: gpu_program::CloseParams,
        _: gpu_program::CloseResults,
    ) -> Result<(), Error> {
        self.session.check()?;
        self.end()
    }
}

/// The client's reference to a kernel. Dropping the last one releases it.
pub(crate) struct KernelServer {
    session: Rc<Session>,
    function: RefCell<Option<Function<'static, ProcessTransport>>>,
    /// A kernel keeps its program: unloading it would close the kernel.
    _program: Rc<ProgramServer>,
}

impl KernelServer {
    fn end(&self) -> Result<(), Error> {
        let function = self.function.borrow_mut().take();
        match function {
            Some(function) if self.session.is_open() => function.release().map_err(|e| failure(&e)),
            _ => Ok(()),
        }
    }
}

impl Drop for KernelServer {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

impl gpu_kernel::Server for KernelServer {
    async fn close(
        self: Rc<Self>,
        _: gpu_kernel::CloseParams,
        _: gpu_kernel::CloseResults,
    ) -> Result<(), Error> {
        self.session.check()?;
        self.end()
    }
}

/// A launch as the client described it.
pub(crate) struct Parameters {
    kernel: Rc<KernelServer>,
    grid: [u32; 3],
    block: [u16; 3],
    shared: u32,
    arguments: Vec<Given>,
}

/// One argument.
enum Given {
    Buffer(Rc<BufferServer>, u64, turnstile_abi::request::Access),
    U8(u8),
    U16(u16),
    U32(u32),
    U64(u64),
    I8(i8),
    I16(i16),
    I32(i32),
    I64(i64),
    F32(f32),
    F64(f64),
}

impl Parameters {
    pub(crate) async fn read(
        session: &Rc<Session>,
        params: launch_kernel_params::Reader<'_>,
    ) -> Result<Parameters, Error> {
        let kernel = session.vat.kernels.find("kernel", params.get_kernel()?).await?;
        let grid = dimensions(params.get_grid()?);
        let mut block = [0; 3];
        for (to, from) in block.iter_mut().zip(dimensions(params.get_block()?)) {
            *to = u16::try_from(from)
                .map_err(|_| malformed(format_args!("{from} threads in one direction")))?;
        }
        let list = params.get_arguments()?;
        // A parameter has at least a byte.
        if list.len() > MAX_PARAMS.into() {
            return Err(malformed(format_args!("{} arguments", list.len())));
        }
        let mut arguments = Vec::with_capacity(list.len() as usize);
        for given in list {
            arguments.push(read(session, given).await?);
        }
        Ok(Parameters { kernel, grid, block, shared: params.get_shared_bytes(), arguments })
    }
}

fn dimensions(dim: dim3::Reader<'_>) -> [u32; 3] {
    [dim.get_x(), dim.get_y(), dim.get_z()]
}

async fn read(session: &Rc<Session>, given: argument::Reader<'_>) -> Result<Given, Error> {
    use argument::Which;
    use turnstile_abi::request::Access as Allowed;
    Ok(match given.which() {
        Ok(Which::Buffer(buffer)) => {
            let buffer = buffer?;
            let access = match buffer.get_access() {
                Ok(Access::Read) => Allowed::Read,
                Ok(Access::Write) => Allowed::Write,
                Ok(Access::ReadWrite) => Allowed::ReadWrite,
                Err(unknown) => return Err(malformed(format_args!("access {}", unknown.0))),
            };
            let found = session.vat.buffers.find("an argument", buffer.get_buffer()?).await?;
            Given::Buffer(found, buffer.get_offset(), access)
        }
        Ok(Which::U8(v)) => Given::U8(v),
        Ok(Which::U16(v)) => Given::U16(v),
        Ok(Which::U32(v)) => Given::U32(v),
        Ok(Which::U64(v)) => Given::U64(v),
        Ok(Which::I8(v)) => Given::I8(v),
        Ok(Which::I16(v)) => Given::I16(v),
        Ok(Which::I32(v)) => Given::I32(v),
        Ok(Which::I64(v)) => Given::I64(v),
        Ok(Which::F32(v)) => Given::F32(v),
        Ok(Which::F64(v)) => Given::F64(v),
        Err(unknown) => {
            let more = format_args!("an argument of kind {} is not known here", unknown.0);
            return Err(say(ErrorKind::Unimplemented, "unsupported", more));
        }
    })
}

impl Session {
    pub(crate) async fn launch(
        self: &Rc<Self>,
        parameters: Parameters,
        fence: Option<&Rc<Timeline>>,
    ) -> Result<(), Error> {
        // The closure only knows the driver's errors; whether the kernel is open is known before.
        if parameters.kernel.function.borrow().is_none() {
            return Err(closed("kernel"));
        }
        let parameters = Rc::new(parameters);
        self.submit(fence, parameters.clone(), move |queue| {
            let function = parameters.kernel.function.borrow();
            // Closed while the launch waited for room.
            let function = function.as_ref().ok_or(driver::Error::BadToken)?;
            let mut launch = function.launch(parameters.grid, parameters.block)?;
            launch.shared(parameters.shared);
            for given in &parameters.arguments {
                give(&mut launch, given)?;
            }
            queue.launch(launch)
        })
        .await
    }
}

fn give(
    launch: &mut Launch<'static, ProcessTransport>,
    given: &Given,
) -> Result<(), driver::Error> {
    fn value<V: Argument>(
        launch: &mut Launch<'static, ProcessTransport>,
        value: V,
    ) -> Result<(), driver::Error> {
        launch.value(value).map(drop)
    }
    match *given {
        Given::Buffer(ref buffer, offset, access) => {
            let handle = buffer.handle().ok_or(driver::Error::BadToken)?;
            launch.relocate(handle, offset, access).map(drop)
        }
        Given::U8(v) => value(launch, v),
        Given::U16(v) => value(launch, v),
        Given::U32(v) => value(launch, v),
        Given::U64(v) => value(launch, v),
        Given::I8(v) => value(launch, v),
        Given::I16(v) => value(launch, v),
        Given::I32(v) => value(launch, v),
        Given::I64(v) => value(launch, v),
        Given::F32(v) => value(launch, v),
        Given::F64(v) => value(launch, v),
    }
}
