//! A session: its queue, its commands, and its end.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use capnp::{Error, ErrorKind};
use tokio::net::unix::pipe;
use tokio::sync::Semaphore;
use turnstile_abi::request::{Format, Usage};
use turnstile_abi::{Completion, Status};
use turnstile_driver::{self as driver, Queue, Token};
use turnstile_process::ProcessTransport;

use crate::buffer::BufferServer;
use crate::device::Vat;
use crate::failure::{closed, failure, foreign, malformed, say};
use crate::fence::{FenceServer, Timeline};
use crate::program::{Parameters, ProgramServer};
use crate::turnstile_capnp::{BufferUsage, ProgramFormat, gpu_fence, gpu_program, gpu_session};

/// How often a session that waits looks whether its device is still there.
const CHECK: Duration = Duration::from_millis(20);
/// Looks at the queue, yielding in between, before the pump sleeps.
const LOOKS: u32 = 64;

/// What is to happen when a command completes.
type Heard = Box<dyn FnOnce(Result<(), Error>)>;

/// An open session and everything it needs to take commands.
pub(crate) struct Session {
    pub(crate) vat: Rc<Vat>,
    /// `None`: closed.
    open: RefCell<Option<Open>>,
    /// Room in the queue.
    room: Semaphore,
    depth: u32,
    heard: RefCell<HashMap<Token, Heard>>,
    fences: RefCell<Vec<Weak<Timeline>>>,
    pumping: Cell<bool>,
}

struct Open {
    session: driver::Session<'static, ProcessTransport>,
    queue: Queue<'static, ProcessTransport>,
}

impl Session {
    pub(crate) fn open(vat: &Rc<Vat>) -> Result<Rc<Session>, Error> {
        let slots = vat.slots()?;
        let session = match vat.device.open_session() {
            Ok(session) => session,
            Err(error) => {
                vat.give_slots(slots);
                return Err(failure(&error));
            }
        };
        let depth = slots.len() as u32;
        let queue = match session.create_queue(slots) {
            Ok(queue) => queue,
            Err(error) => {
                let _ = session.close();
                return Err(failure(&error));
            }
        };
        Ok(Rc::new(Session {
            vat: vat.clone(),
            open: RefCell::new(Some(Open { session, queue })),
            room: Semaphore::new(depth as usize),
            depth,
            heard: RefCell::default(),
            fences: RefCell::default(),
            pumping: Cell::new(false),
        }))
    }

    /// Calls the driver with the session, if it is open.
    pub(crate) fn with<R>(
        &self,
        call: impl FnOnce(&driver::Session<'static, ProcessTransport>) -> Result<R, driver::Error>,
    ) -> Result<R, Error> {
        let open = self.open.borrow();
        let open = open.as_ref().ok_or_else(|| closed("session"))?;
        call(&open.session).map_err(|e| failure(&e))
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.borrow().is_some()
    }

    /// Whether the session is open, as the result of a call on one of its children.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.is_open() { Ok(()) } else { Err(closed("session")) }
    }

    /// Submits a command, and after it the fence's signal, once the queue has room for both. Commands
    /// of a session are submitted in the order of their calls. `keep` is what the command names: it stays
    /// open until the command is over, also if the client drops its references meanwhile.
    pub(crate) async fn submit(
        self: &Rc<Self>,
        fence: Option<&Rc<Timeline>>,
        keep: impl Sized + 'static,
        command: impl FnOnce(&mut Queue<'static, ProcessTransport>) -> Result<Token, driver::Error>,
    ) -> Result<(), Error> {
        let needed = if fence.is_some() { 2 } else { 1 };
        if needed > self.depth {
            let more = "the policy's queue depth has no room for a command with a fence";
            return Err(say(ErrorKind::Overloaded, "no_room", more));
        }
        let place = self.room.acquire_many(needed).await.map_err(|_| closed("session"))?;
        let mut open = self.open.borrow_mut();
        let open = open.as_mut().ok_or_else(|| closed("session"))?;
        if let Some(fence) = fence {
            fence.check()?;
        }
        let token = command(&mut open.queue).map_err(|e| failure(&e))?;
        let mut heard = self.heard.borrow_mut();
        let Some(fence) = fence else {
            heard.insert(token, Box::new(move |_| drop(keep)));
            place.forget();
            self.pump();
            return Ok(());
        };
        let point = fence.submitted();
        let for_command = fence.clone();
        let done = move |result| {
            drop(keep);
            for_command.note(result);
        };
        heard.insert(token, Box::new(done));
        let signal = fence.signal(&mut open.queue, point);
        place.forget();
        match signal {
            Ok(token) => {
                let for_signal = fence.clone();
                let done = move |result| {
                    for_signal.note(result);
                    for_signal.reached(point);
                };
                heard.insert(token, Box::new(done));
            }
            // There was room for it, so the device is gone; the command will not complete either.
            Err(error) => {
                self.room.add_permits(1);
                fence.note(Err(error));
                fence.reached(point);
            }
        }
        self.pump();
        Ok(())
    }

    /// Makes sure that somebody waits for completions.
    fn pump(self: &Rc<Self>) {
        if !self.pumping.replace(true) {
            let session = self.clone();
            tokio::task::spawn_local(async move { session.run().await });
        }
    }

    async fn run(self: Rc<Self>) {
        let interrupts = self.interrupts();
        let mut looks = 0;
        while !self.heard.borrow().is_empty() {
            match self.drain() {
                Ok(true) => looks = 0,
                Ok(false) if looks < LOOKS => {
                    looks += 1;
                    tokio::task::yield_now().await;
                }
                Ok(false) => self.sleep(interrupts.as_ref()).await,
                Err(error) => self.fail(&error),
            }
        }
        self.pumping.set(false);
    }

    /// Takes what has completed; whether there was anything.
    fn drain(&self) -> Result<bool, Error> {
        let mut any = false;
        loop {
            let next = match self.open.borrow_mut().as_mut() {
                Some(open) => open.queue.poll_any().map_err(|e| failure(&e))?,
                None => return Err(closed("session")),
            };
            let Some((token, completion)) = next else { return Ok(any) };
            any = true;
            self.room.add_permits(1);
            let heard = self.heard.borrow_mut().remove(&token);
            if let Some(heard) = heard {
                heard(outcome(completion));
            }
        }
    }

    /// Sleeps until the queue's interrupt or for a while.
    async fn sleep(&self, interrupts: Option<&pipe::Receiver>) {
        let arm = |on| match self.open.borrow_mut().as_mut() {
            Some(open) => open.queue.arm(on).is_ok(),
            None => false,
        };
        if arm(true)
            && let Ok(false) = self.drain()
        {
            if let Some(interrupts) = interrupts {
                if let Ok(Ok(())) = tokio::time::timeout(CHECK, interrupts.readable()).await {
                    // What does not fit keeps the pipe ready, and costs one early return.
                    let _ = interrupts.try_read(&mut [0; 512]);
                }
            } else {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        let _ = arm(false);
        if let Ok(false) = self.drain()
            && let Err(error) = self.vat.device.check()
        {
            // The last word may have been posted before the device stopped.
            let _ = self.drain();
            self.fail(&failure(&error));
        }
    }

    fn interrupts(&self) -> Option<pipe::Receiver> {
        let vector = self.open.borrow().as_ref()?.queue.vector();
        let fd = self.vat.device.transport().interrupt(vector)?.try_clone_to_owned().ok()?;
        pipe::Receiver::from_owned_fd(fd).ok()
    }

    /// Nothing that is in flight will complete any more.
    fn fail(&self, error: &Error) {
        let heard = std::mem::take(&mut *self.heard.borrow_mut());
        for (_, heard) in heard {
            heard(Err(error.clone()));
        }
    }

    pub(crate) fn register(&self, fence: &Rc<Timeline>) {
        let mut fences = self.fences.borrow_mut();
        fences.retain(|fence| fence.strong_count() > 0);
        fences.push(Rc::downgrade(fence));
    }

    /// Ends the session: what waits fails, everything in it is closed, its memory given back.
    pub(crate) fn end(&self) -> Result<(), Error> {
        let Some(Open { session, queue }) = self.open.borrow_mut().take() else { return Ok(()) };
        self.room.close();
        let (slots, _) = queue.release();
        self.vat.give_slots(slots);
        self.fail(&say(ErrorKind::Disconnected, "revoked", "the session was closed"));
        for fence in self.fences.take() {
            if let Some(fence) = fence.upgrade() {
                fence.end();
            }
        }
        session.close().map_err(|e| failure(&e))
    }
}

fn outcome(completion: Completion) -> Result<(), Error> {
    match completion.status {
        Status::Ok => Ok(()),
        status => Err(crate::failure::status(status, completion.detail)),
    }
}

/// The client's reference to a session. Dropping the last one ends it.
pub(crate) struct SessionServer(Rc<Session>);

impl SessionServer {
    pub(crate) fn new(session: Rc<Session>) -> SessionServer {
        SessionServer(session)
    }
}

impl Drop for SessionServer {
    fn drop(&mut self) {
        if let Err(error) = self.0.end() {
            tracing::debug!(%error, "a dropped session");
        }
    }
}

impl gpu_session::Server for SessionServer {
    async fn create_buffer(
        self: Rc<Self>,
        params: gpu_session::CreateBufferParams,
        mut results: gpu_session::CreateBufferResults,
    ) -> Result<(), Error> {
        let params = params.get()?;
        let usage = match params.get_usage() {
            Ok(BufferUsage::Device) => Usage::Device,
            Ok(BufferUsage::Host) => Usage::Host,
            Err(unknown) => return Err(malformed(format_args!("usage {}", unknown.0))),
        };
        let buffer = self.0.with(|session| session.create_buffer(params.get_bytes(), usage))?;
        let server = BufferServer::new(&self.0, buffer);
        results.get().set_buffer(self.0.vat.buffers.client(server));
        Ok(())
    }

    async fn destroy_buffer(
        self: Rc<Self>,
        params: gpu_session::DestroyBufferParams,
        _: gpu_session::DestroyBufferResults,
    ) -> Result<(), Error> {
        let buffer = self.0.vat.buffers.find("buffer", params.get()?.get_buffer()?).await?;
        if !buffer.is_of(&self.0) {
            return Err(foreign("buffer", "GpuBuffer of this session; not"));
        }
        buffer.end()
    }

    async fn load_program(
        self: Rc<Self>,
        params: gpu_session::LoadProgramParams,
        mut results: gpu_session::LoadProgramResults,
    ) -> Result<(), Error> {
        let params = params.get()?;
        let format = match params.get_format() {
            Ok(ProgramFormat::Ptx) => Format::Ptx,
            Ok(ProgramFormat::Image) => Format::Image,
            Err(unknown) => return Err(malformed(format_args!("format {}", unknown.0))),
        };
        let image = params.get_image()?;
        let program = self.0.with(|session| session.load_program(image, format))?;
        let server = ProgramServer::new(&self.0, program);
        let client: gpu_program::Client = capnp_rpc::new_client(server);
        results.get().set_program(client);
        Ok(())
    }

    async fn launch_kernel(
        self: Rc<Self>,
        params: gpu_session::LaunchKernelParams,
        _: gpu_session::LaunchKernelResults,
    ) -> Result<(), Error> {
        let parameters = Parameters::read(&self.0, params.get()?).await?;
        let fence = if params.get()?.has_fence() {
            Some(self.own_fence(params.get()?.get_fence()?).await?)
        } else {
            None
        };
        // Made last, so that a call that fails before holds nothing.
        self.0.check()?;
        self.0.launch(parameters, fence.as_ref()).await
    }

    async fn submit_memcpy(
        self: Rc<Self>,
        params: gpu_session::SubmitMemcpyParams,
        _: gpu_session::SubmitMemcpyResults,
    ) -> Result<(), Error> {
        let params = params.get()?;
        let vat = &self.0.vat;
        let dst = vat.buffers.find("dst", params.get_dst()?).await?;
        let src = vat.buffers.find("src", params.get_src()?).await?;
        let fence = if params.has_fence() {
            Some(self.own_fence(params.get_fence()?).await?)
        } else {
            None
        };
        let (to, from) = (dst.at(params.get_dst_offset())?, src.at(params.get_src_offset())?);
        let bytes = params.get_bytes();
        self.0.submit(fence.as_ref(), (dst, src), |queue| queue.copy(to, from, bytes)).await
    }

    async fn submit_fence_wait(
        self: Rc<Self>,
        params: gpu_session::SubmitFenceWaitParams,
        _: gpu_session::SubmitFenceWaitResults,
    ) -> Result<(), Error> {
        let params = params.get()?;
        let fence = self.0.vat.fences.find("fence", params.get_fence()?).await?;
        let timeline = fence.timeline().clone();
        let (timeout, point) = (params.get_timeout_nanos(), timeline.point());
        timeline.check()?;
        self.0.submit(None, fence, |queue| timeline.wait_in(queue, point, timeout)).await
    }

    async fn close(
        self: Rc<Self>,
        _: gpu_session::CloseParams,
        _: gpu_session::CloseResults,
    ) -> Result<(), Error> {
        self.0.end()
    }

    async fn create_fence(
        self: Rc<Self>,
        _: gpu_session::CreateFenceParams,
        mut results: gpu_session::CreateFenceResults,
    ) -> Result<(), Error> {
        let fence = self.0.with(|session| session.create_fence(0))?;
        let timeline = Timeline::new(fence);
        self.0.register(&timeline);
        let server = FenceServer::new(timeline, &self.0);
        results.get().set_fence(self.0.vat.fences.client(server));
        Ok(())
    }
}

impl SessionServer {
    /// A fence that this session may signal.
    async fn own_fence(&self, client: gpu_fence::Client) -> Result<Rc<Timeline>, Error> {
        let fence = self.0.vat.fences.find("fence", client).await?;
        if !fence.is_of(&self.0) {
            return Err(foreign("fence", "GpuFence of this session; not"));
        }
        Ok(fence.timeline().clone())
    }
}
