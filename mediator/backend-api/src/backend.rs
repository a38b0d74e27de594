//! The contract between the mediator and a GPU.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use turnstile_abi::Status;
use turnstile_abi::version::Features;

use crate::memory::{MemoryId, SharedRegion};
use crate::op::{BackendOp, SpaceId};

/// Names one submitted operation. Chosen by the mediator, returned in [`Done`], never reused while
/// the operation is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// What a backend is.
#[derive(Clone, Debug)]
pub struct Description {
    /// `emulated`, `cuda`, `vfio`.
    pub kind: &'static str,
    /// Name for people, for example the GPU's.
    pub name: String,
    /// Device memory in bytes.
    pub memory_bytes: u64,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Optional parts of the ABI it can serve.
    pub features: Features,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// [`Status::Ok`], or what went wrong.
    pub status: Status,
    /// First result.
    pub value: u64,
    /// Second result, or more about the failure (for a kernel fault: the device address).
    pub detail: u64,
    /// GPU time used, in nanoseconds.
    pub busy_ns: u64,
    /// More about a failure, for the audit log.
    pub fault: Option<Box<Fault>>,
}

impl Outcome {
    /// Success with a value.
    #[must_use]
    pub const fn ok(value: u64) -> Outcome {
        Outcome { status: Status::Ok, value, detail: 0, busy_ns: 0, fault: None }
    }
    /// Failure.
    #[must_use]
    pub const fn failed(status: Status, detail: u64) -> Outcome {
        Outcome { status, value: 0, detail, busy_ns: 0, fault: None }
    }
}

/// A kernel's fault, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Kernel name.
    pub kernel: String,
    /// Line in the program's source text, 0 if unknown.
    pub line: u32,
    /// Block index.
    pub block: [u32; 3],
    /// Thread index.
    pub thread: [u32; 3],
    /// Device address, 0 if none.
    pub address: u64,
    /// What happened, in a few words.
    pub what: String,
}

/// The answer to one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// Which operation.
    pub ticket: Ticket,
    /// How it ended.
    pub outcome: Outcome,
}

/// What a backend reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendEvent {
    /// An operation ended.
    Done(Done),
    /// A space died (worker killed, driver error): every open operation in it is answered with
    /// [`Status::DeviceLost`], before or after this.
    SpaceLost {
        /// The space.
        space: SpaceId,
        /// Why, for the audit log.
        why: String,
    },
}

/// A GPU, as the mediator drives it. Owned by the dispatcher thread; nothing here blocks.
pub trait Backend: Send {
    /// What it is.
    fn describe(&self) -> Description;

    /// Makes a region of host memory known, so that operations can name pieces of it.
    fn add_memory(&mut self, id: MemoryId, region: Arc<SharedRegion>);

    /// Forgets a region. The mediator has had every mapping of it removed before.
    fn remove_memory(&mut self, id: MemoryId);

    /// Starts an operation. Every submission is answered by exactly one [`Done`] through
    /// [`drain`](Self::drain), whatever happens to the backend.
    fn submit(&mut self, ticket: Ticket, op: BackendOp);

    /// Ends whatever runs in a space as soon as possible; the operations are answered as usual.
    fn abort(&mut self, space: SpaceId);

    /// Passes on what has happened since the last call. Cheap when nothing has.
    fn drain(&mut self, sink: &mut dyn FnMut(BackendEvent));

    /// Says whether the dispatcher is about to sleep. While it sleeps, the backend makes
    /// [`wake_fd`](Self::wake_fd) readable when something happens; while it is awake it need not.
    /// After announcing sleep the dispatcher drains once more.
    fn sleeping(&mut self, asleep: bool);

    /// An eventfd for the dispatcher's epoll; [`drain`](Self::drain) resets it.
    fn wake_fd(&self) -> BorrowedFd<'_>;
}
