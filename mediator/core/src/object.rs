//! The objects behind capabilities.

use crate::capability::CapIndex;
use slotmap::new_key_type;
use turnstile_abi::Status;
use turnstile_abi::launch::DmaExtent;
use turnstile_backend_api::{BufferId, FunctionId, ProgramId, RegionId, SpaceId};

new_key_type! {
    /// Names an object in its tenant. Never resolves again once the object is freed.
    pub(crate) struct ObjKey;
}

/// Where an object is in its life. A capability resolves only to a live one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The backend is making it.
    Creating,
    /// In use.
    Live,
    /// Closed; destroyed once nothing uses it.
    Draining,
    /// The backend is destroying it.
    Destroying,
    /// Its session is closing and takes it along.
    Doomed,
}

/// An object.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) body: Body,
    pub(crate) phase: Phase,
    /// The session it belongs to; itself for a session.
    pub(crate) session: ObjKey,
    /// Open backend operations that use it.
    pub(crate) pins: u32,
    /// Its root capability, while that is open.
    pub(crate) cap: CapIndex,
}

/// A GPU session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) space: SpaceId,
    /// Set when it is closed, revoked or lost: what its capabilities answer from then on.
    pub(crate) dead: Option<Status>,
    /// The backend has nothing of it any more.
    pub(crate) closed: bool,
    /// Objects that belong to it.
    pub(crate) members: u32,
    /// Base and size of its device address space.
    pub(crate) arena: (u64, u64),
}

/// What an object is.
#[derive(Debug)]
pub(crate) enum Body {
    Session(Session),
    Buffer {
        id: BufferId,
        bytes: u64,
        address: u64,
        /// Place in the aperture, if host-visible.
        aperture: Option<u64>,
        /// Times it is mapped.
        maps: u32,
    },
    Region {
        id: RegionId,
        bytes: u64,
        extents: Box<[DmaExtent]>,
    },
    Program {
        id: ProgramId,
        bytes: u64,
    },
    Function {
        id: FunctionId,
        program: ObjKey,
        params: u64,
    },
    /// The rest of it is the tenant's work queue of that number.
    Queue {
        number: u8,
    },
    Fence {
        value: u64,
        mirror: Option<u64>,
    },
}
