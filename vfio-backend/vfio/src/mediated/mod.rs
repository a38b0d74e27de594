//! The backend for a function that speaks the Turnstile ABI: one GPU among many tenants, on top of a
//! device that is itself one tenant's share of a GPU.
//!
//! A thread of its own owns the driver; the dispatcher only puts orders into a mailbox. Each address
//! space is a session of the outer device, each queue a queue of it. What tenants share with the
//! mediator (their apertures' buffers, the pages they register) becomes a DMA region of the outer
//! device, mapped in the IOMMU for as long as it is one.
//!
//! The outer device is believed nothing that would matter here: the driver checks handles, cookies and
//! ring indices, this module checks addresses and lengths. A lie, silence or an error interrupt is the
//! loss of the device: every space is reported lost, every mapping taken away, and the next space that
//! is opened tries a reset. When the kernel wants the function back, it is let go at once and for good.

mod launch;
mod life;
mod perform;
mod space;
mod worker;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use turnstile_abi::memory::SharedMemory;
use turnstile_abi::request::Access;
use turnstile_backend_api::{
    Backend, BackendEvent, BackendOp, Description, Mailbox, MemoryId, SharedRegion, SpaceId, Ticket,
};
use turnstile_driver::Transport;

/// The way to an outer device, and what it may reach.
pub trait Outer: 'static {
    /// Registers, aperture, interrupts.
    type Transport: Transport;

    /// Its name for people.
    fn name(&self) -> String;
    /// The way to it.
    fn transport(&self) -> &Self::Transport;
    /// Lets the device reach `bytes` of a region from `offset` on, at `iova`; multiples of a page. The
    /// region stays mapped in this process until it is unmapped here.
    ///
    /// # Errors
    /// The IOMMU's.
    fn map(
        &self,
        iova: u64,
        region: &Arc<SharedRegion>,
        offset: u64,
        bytes: u64,
        access: Access,
    ) -> io::Result<()>;
    /// Takes that away again. When this returns without an error the device cannot reach it.
    ///
    /// # Errors
    /// The IOMMU's; the memory stays where it is then.
    fn unmap(&self, iova: u64, bytes: u64) -> io::Result<()>;
    /// Addresses that cannot be used, first and last byte each.
    fn reserved(&self) -> &[(u64, u64)];
    /// Why the device must be let go, if it must.
    fn trouble(&self) -> Option<&'static str>;
    /// Sleeps until `inbox` is readable, interrupt `vector` comes, there is trouble, or `bound_ns`
    /// nanoseconds have passed.
    fn wait(&self, inbox: BorrowedFd<'_>, vector: u16, bound_ns: u64);
}

/// Why the backend does not start.
#[derive(Debug, thiserror::Error)]
pub enum MediatedError<E> {
    /// The device cannot be opened.
    #[error(transparent)]
    Open(E),
    /// The device does not work.
    #[error("{name} does not start: {source}; look at it with turnstile-guest info")]
    Device {
        /// Its name.
        name: String,
        /// What the driver says.
        source: turnstile_driver::Error,
    },
    /// No thread or file descriptor.
    #[error("cannot start the device's thread: {0}; raise the limits (ulimit -n, ulimit -u)")]
    System(#[from] io::Error),
    /// The thread ended without a word.
    #[error("the device's thread ended; see the log")]
    Silent,
}

/// What the dispatcher asks of the worker.
enum Order {
    Know(MemoryId, Arc<SharedRegion>),
    Forget(MemoryId),
    Submit(Ticket, BackendOp),
    Abort(SpaceId),
    Stop,
}

/// The backend.
pub struct Mediated {
    orders: Arc<Mailbox<Order>>,
    events: Arc<Mailbox<BackendEvent>>,
    description: Description,
    thread: Option<JoinHandle<()>>,
}

impl Mediated {
    /// Opens an outer device on a thread of its own, resets it and enables it.
    ///
    /// # Errors
    /// When it cannot be opened or does not work.
    pub fn start<O: Outer, E: Send + 'static>(
        open: impl FnOnce() -> Result<O, E> + Send + 'static,
    ) -> Result<Mediated, MediatedError<E>> {
        let orders = Arc::new(Mailbox::new()?);
        let events = Arc::new(Mailbox::new()?);
        let (inbox, outbox) = (orders.clone(), events.clone());
        let (say, hear) = crossbeam_channel::bounded(1);
        let thread =
            std::thread::Builder::new().name("vfio".into()).spawn(move || match open() {
                Ok(outer) => {
                    let name = outer.name();
                    worker::run(outer, &inbox, &outbox, |started| {
                        let failed = |source| MediatedError::Device { name, source };
                        let _ = say.send(started.map_err(failed));
                    });
                }
                Err(error) => {
                    let _ = say.send(Err(MediatedError::Open(error)));
                }
            })?;
        let description = hear.recv().map_err(|_| MediatedError::Silent)??;
        Ok(Mediated { orders, events, description, thread: Some(thread) })
    }
}

impl Drop for Mediated {
    fn drop(&mut self) {
        self.orders.put(Order::Stop);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has nothing to give back.
            let _ = thread.join();
        }
    }
}

impl Backend for Mediated {
    fn describe(&self) -> Description {
        self.description.clone()
    }
    fn add_memory(&mut self, id: MemoryId, region: Arc<SharedRegion>) {
        self.orders.put(Order::Know(id, region));
    }
    fn remove_memory(&mut self, id: MemoryId) {
        self.orders.put(Order::Forget(id));
    }
    fn submit(&mut self, ticket: Ticket, op: BackendOp) {
        self.orders.put(Order::Submit(ticket, op));
    }
    fn abort(&mut self, space: SpaceId) {
        self.orders.put(Order::Abort(space));
    }
    fn drain(&mut self, sink: &mut dyn FnMut(BackendEvent)) {
        self.events.drain(sink);
    }
    fn sleeping(&mut self, asleep: bool) {
        self.events.sleeping(asleep);
    }
    fn wake_fd(&self) -> BorrowedFd<'_> {
        self.events.fd().as_fd()
    }
}

/// Whole pages around a piece of a region: offset, bytes, and how far in the piece begins.
fn pages(region: &SharedRegion, offset: u64, bytes: u64) -> Option<(u64, u64, u64)> {
    use crate::iova::PAGE;
    let start = offset / PAGE * PAGE;
    let end = offset.checked_add(bytes)?.checked_next_multiple_of(PAGE)?;
    (bytes > 0 && end <= region.size()).then_some((start, end - start, offset - start))
}
