//! Buffers.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use capnp::Error;
use turnstile_abi::{Handle, op};
use turnstile_driver::{Buffer, Place};
use turnstile_process::ProcessTransport;

use crate::failure::{closed, failure};
use crate::session::Session;
use crate::turnstile_capnp::gpu_buffer;

/// The client's reference to a buffer. Dropping the last one closes it.
pub(crate) struct BufferServer {
    session: Rc<Session>,
    /// `None`: closed.
    buffer: RefCell<Option<Buffer<'static, ProcessTransport>>>,
    mapped: Cell<bool>,
}

impl BufferServer {
    pub(crate) fn new(
        session: &Rc<Session>,
        buffer: Buffer<'static, ProcessTransport>,
    ) -> BufferServer {
        BufferServer {
            session: session.clone(),
            buffer: RefCell::new(Some(buffer)),
            mapped: Cell::new(false),
        }
    }

    pub(crate) fn is_of(&self, session: &Rc<Session>) -> bool {
        Rc::ptr_eq(&self.session, session)
    }

    /// Calls the driver with the buffer, if it and its session are open.
    pub(crate) fn with<R>(
        &self,
        call: impl FnOnce(&Buffer<'static, ProcessTransport>) -> Result<R, turnstile_driver::Error>,
    ) -> Result<R, Error> {
        self.session.check()?;
        let buffer = self.buffer.borrow();
        call(buffer.as_ref().ok_or_else(|| closed("buffer"))?).map_err(|e| failure(&e))
    }

    /// Its handle; `None`: closed.
    pub(crate) fn handle(&self) -> Option<Handle> {
        self.buffer.borrow().as_ref().map(Buffer::handle)
    }

    /// A position in it, for a copy.
    pub(crate) fn at(&self, offset: u64) -> Result<Place, Error> {
        self.with(|buffer| Ok(buffer.at(offset)))
    }

    fn unmap(&self) -> Result<(), Error> {
        let device = self.session.vat.device;
        self.with(|buffer| device.call(op::buffer_unmap::Args { buffer: buffer.handle() }))?;
        self.mapped.set(false);
        Ok(())
    }

    /// Closes it, if it is not closed. A mapped buffer stays.
    pub(crate) fn end(&self) -> Result<(), Error> {
        if !self.session.is_open() {
            self.buffer.borrow_mut().take();
            return Ok(());
        }
        let device = self.session.vat.device;
        let Some(handle) = self.handle() else { return Ok(()) };
        device.call(op::buffer_destroy::Args { buffer: handle }).map_err(|e| failure(&e))?;
        self.buffer.borrow_mut().take();
        Ok(())
    }
}

impl Drop for BufferServer {
    fn drop(&mut self) {
        if self.mapped.get() && self.session.is_open() {
            let _ = self.unmap();
        }
        if let Err(error) = self.end() {
            tracing::debug!(%error, "a dropped buffer");
        }
    }
}

impl gpu_buffer::Server for BufferServer {
    async fn map(
        self: Rc<Self>,
        _: gpu_buffer::MapParams,
        mut results: gpu_buffer::MapResults,
    ) -> Result<(), Error> {
        let vat = &self.session.vat;
        // Everything that can fail comes before the buffer is mapped.
        self.with(|_| Ok(()))?;
        let token = vat.tokens.issue(Instant::now())?;
        // Dropping the driver's mapping leaves the buffer mapped.
        let (offset, bytes) = self.with(|buffer| {
            let mapping = buffer.map()?;
            Ok((mapping.aperture_offset(), buffer.bytes()))
        })?;
        self.mapped.set(true);
        let mut region = results.get().init_region();
        region.set_socket(&*vat.maps);
        region.set_token(&token);
        region.set_offset(offset);
        region.set_bytes(bytes);
        Ok(())
    }

    async fn unmap(
        self: Rc<Self>,
        _: gpu_buffer::UnmapParams,
        _: gpu_buffer::UnmapResults,
    ) -> Result<(), Error> {
        BufferServer::unmap(&self)
    }

    async fn size(
        self: Rc<Self>,
        _: gpu_buffer::SizeParams,
        mut results: gpu_buffer::SizeResults,
    ) -> Result<(), Error> {
        let bytes = self.with(|buffer| Ok(buffer.bytes()))?;
        results.get().set_bytes(bytes);
        Ok(())
    }

    async fn close(
        self: Rc<Self>,
        _: gpu_buffer::CloseParams,
        _: gpu_buffer::CloseResults,
    ) -> Result<(), Error> {
        self.session.check()?;
        self.end()
    }
}
