//! Fences: what a client waits on.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use capnp::Error;
use tokio::sync::Notify;
use turnstile_driver::{self as driver, Fence, Queue, Token};
use turnstile_process::ProcessTransport;

use crate::failure::{closed, failure};
use crate::session::Session;
use crate::turnstile_capnp::{FenceStatus, gpu_fence};

/// Longest wait of one call.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// A fence of the device, with what was submitted with it. Every submission is a point on it; the
/// device's value is the last point reached.
pub(crate) struct Timeline {
    /// `None`: closed.
    fence: RefCell<Option<Fence<'static, ProcessTransport>>>,
    /// The last point that was submitted, and the last one reached.
    submitted: Cell<u64>,
    reached: Cell<u64>,
    /// The first thing that failed. It stays: what comes after it is built on it.
    failed: RefCell<Option<Error>>,
    news: Notify,
}

impl Timeline {
    pub(crate) fn new(fence: Fence<'static, ProcessTransport>) -> Rc<Timeline> {
        Rc::new(Timeline {
            fence: RefCell::new(Some(fence)),
            submitted: Cell::new(0),
            reached: Cell::new(0),
            failed: RefCell::default(),
            news: Notify::new(),
        })
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.fence.borrow().is_some() { Ok(()) } else { Err(closed("fence")) }
    }

    /// A new point.
    pub(crate) fn submitted(&self) -> u64 {
        self.submitted.set(self.submitted.get() + 1);
        self.submitted.get()
    }

    /// The last point.
    pub(crate) fn point(&self) -> u64 {
        self.submitted.get()
    }

    /// Submits the signal of a point.
    pub(crate) fn signal(
        &self,
        queue: &mut Queue<'static, ProcessTransport>,
        point: u64,
    ) -> Result<Token, Error> {
        let fence = self.fence.borrow();
        let fence = fence.as_ref().ok_or_else(|| closed("fence"))?;
        queue.signal(fence, point).map_err(|e| failure(&e))
    }

    /// Submits a wait for a point, in a queue.
    pub(crate) fn wait_in(
        &self,
        queue: &mut Queue<'static, ProcessTransport>,
        point: u64,
        timeout_ns: u64,
    ) -> Result<Token, driver::Error> {
        let fence = self.fence.borrow();
        let fence = fence.as_ref().ok_or(driver::Error::BadToken)?;
        queue.wait_fence(fence, point, timeout_ns)
    }

    /// Takes note of how something went.
    pub(crate) fn note(&self, result: Result<(), Error>) {
        if let Err(error) = result {
            self.failed.borrow_mut().get_or_insert(error);
        }
    }

    /// Everything up to a point is over.
    pub(crate) fn reached(&self, point: u64) {
        self.reached.set(self.reached.get().max(point));
        self.news.notify_waiters();
    }

    /// Closes it; the waits on it end.
    pub(crate) fn end(&self) {
        if let Some(fence) = self.fence.borrow_mut().take()
            && let Err(error) = fence.destroy()
        {
            tracing::debug!(%error, "a closed fence");
        }
        self.news.notify_waiters();
    }

    fn status(&self) -> FenceStatus {
        if self.reached.get() < self.submitted.get() {
            FenceStatus::Pending
        } else if self.failed.borrow().is_some() {
            FenceStatus::Failed
        } else if self.submitted.get() == 0 {
            FenceStatus::Idle
        } else {
            FenceStatus::Complete
        }
    }

    /// Waits until a point is reached; an error if anything failed, or the fence was closed.
    async fn wait(&self, point: u64) -> Result<(), Error> {
        loop {
            // Registered before the look, so that nothing is missed in between.
            let mut news = std::pin::pin!(self.news.notified());
            news.as_mut().enable();
            if self.reached.get() >= point {
                return self.failed.borrow().clone().map_or(Ok(()), Err);
            }
            self.check()?;
            news.await;
        }
    }
}

/// The client's reference to a fence. Dropping the last one closes it.
pub(crate) struct FenceServer {
    timeline: Rc<Timeline>,
    session: Rc<Session>,
}

impl FenceServer {
    pub(crate) fn new(timeline: Rc<Timeline>, session: &Rc<Session>) -> FenceServer {
        FenceServer { timeline, session: session.clone() }
    }
    pub(crate) fn timeline(&self) -> &Rc<Timeline> {
        &self.timeline
    }
    pub(crate) fn is_of(&self, session: &Rc<Session>) -> bool {
        Rc::ptr_eq(&self.session, session)
    }
}

impl Drop for FenceServer {
    fn drop(&mut self) {
        // Ended with its session otherwise.
        if self.session.is_open() {
            self.timeline.end();
        }
    }
}

impl gpu_fence::Server for FenceServer {
    async fn poll(
        self: Rc<Self>,
        _: gpu_fence::PollParams,
        mut results: gpu_fence::PollResults,
    ) -> Result<(), Error> {
        self.timeline.check()?;
        results.get().set_status(self.timeline.status());
        Ok(())
    }

    async fn wait(
        self: Rc<Self>,
        params: gpu_fence::WaitParams,
        mut results: gpu_fence::WaitResults,
    ) -> Result<(), Error> {
        self.timeline.check()?;
        let bound = Duration::from_nanos(params.get()?.get_timeout_nanos()).min(LONGEST);
        let point = self.timeline.point();
        let ok = match tokio::time::timeout(bound, self.timeline.wait(point)).await {
            Ok(result) => result.map(|()| true)?,
            Err(_) => false,
        };
        results.get().set_ok(ok);
        Ok(())
    }

    async fn close(
        self: Rc<Self>,
        _: gpu_fence::CloseParams,
        _: gpu_fence::CloseResults,
    ) -> Result<(), Error> {
        self.session.check()?;
        self.timeline.end();
        Ok(())
    }
}
