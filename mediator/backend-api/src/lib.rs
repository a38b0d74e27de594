//! What the mediator asks of a GPU, and the host memory it names.
//!
//! A backend never sees a guest handle, a guest physical address or an aperture descriptor: by the
//! time an operation gets here it is decoded, authorized and translated into [`BackendOp`], which
//! names objects by ids that the mediator chose and host memory by [`Piece`]s of regions that the
//! mediator owns. A backend never decides whether something is allowed.
#![forbid(unsafe_code)]

pub mod backend;
pub mod mailbox;
pub mod memory;
pub mod op;

pub use backend::{Backend, BackendEvent, Description, Done, Fault, Outcome, Ticket};
pub use mailbox::Mailbox;
pub use memory::{MemoryError, MemoryId, Piece, SharedRegion};
pub use op::{
    BackendOp, BufferId, Code, FunctionId, Home, Isolation, Place, ProgramId, QueueId, RegionId,
    SpaceId,
};
