//! What can go wrong between a driver and its device.

use turnstile_abi::memory::OutOfBounds;
use turnstile_abi::ring::LayoutError;
use turnstile_abi::version::Version;
use turnstile_abi::{Kind, Opcode, Status};

/// The two results of a command that worked; the operation's row in [`turnstile_abi::op`] says what
/// they mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// First result.
    pub value: u64,
    /// Second result.
    pub detail: u64,
}

/// Something the device said that cannot be true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lie {
    /// The aperture is larger than its mapping, or its parts do not fit into it.
    #[error("an aperture of {bytes} bytes with a heap at {heap}, mapped with {mapped} bytes")]
    Aperture {
        /// `APERTURE_BYTES`.
        bytes: u64,
        /// `HEAP_OFFSET`.
        heap: u64,
        /// Bytes really there.
        mapped: u64,
    },
    /// No queues, or more than the ABI has.
    #[error("{0} queues")]
    Queues(u32),
    /// A completion for a command that is not in flight.
    #[error("a completion with cookie {0:#x}, which is not in flight")]
    Cookie(u64),
    /// A handle of another kind than was asked for.
    #[error("{got:#x} for a handle of kind {want:?}")]
    Handle {
        /// The kind expected.
        want: Kind,
        /// The word received.
        got: u64,
    },
    /// A result outside what the operation can return.
    #[error("{value:#x} as a result of {op:?}")]
    Result {
        /// The operation.
        op: Opcode,
        /// The word received.
        value: u64,
    },
}

/// Why a call of the driver failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The device refused or failed a command.
    #[error("{op:?}: {}, detail {detail:#x}", status.name())]
    Status {
        /// The operation.
        op: Opcode,
        /// Outcome.
        status: Status,
        /// More about it; see [`Status`].
        detail: u64,
    },
    /// There is no Turnstile device at this place.
    #[error("no Turnstile device here: the magic register reads {0:#x}")]
    NotADevice(u32),
    /// The device speaks another major version, or an older minor one.
    #[error("the device speaks ABI version {}.{}; update the older side", .0.major(), .0.minor())]
    Version(Version),
    /// The device does not offer a feature the caller wants.
    #[error("features {wanted:#x} are wanted and {offered:#x} offered; do without the rest")]
    Features {
        /// Bits asked for.
        wanted: u64,
        /// Bits offered.
        offered: u64,
    },
    /// The device refused to be enabled.
    #[error("the device refused to start: {0:?} (code {code})", code = *.0 as u32)]
    EnableRefused(Status),
    /// The device has not been enabled, or was reset behind the driver's back.
    #[error("the device is not enabled; enable it first")]
    NotEnabled,
    /// The tenant was revoked, or its backend is gone.
    #[error("the device is lost; reset it and open a new session")]
    Lost,
    /// Registers read as all-ones: nothing is there any more.
    #[error("the device is gone")]
    Gone,
    /// The device did not answer in time.
    #[error("no answer within {ns} ns")]
    Timeout {
        /// Nanoseconds waited.
        ns: u64,
    },
    /// An earlier call timed out or the device lied: its late answer could be mistaken for another.
    #[error("the command stream is out of step after an earlier failure; reset the device")]
    OutOfStep,
    /// The queue holds as many commands as it can: take results first.
    #[error("the queue is full; take results first")]
    Full,
    /// The token names no command of this queue, or its result was taken before.
    #[error("no such command in this queue, or its result was taken already")]
    BadToken,
    /// The driver's part of the aperture has no room.
    #[error("no {bytes} bytes free in the driver's part of the aperture")]
    ApertureFull {
        /// Bytes asked for.
        bytes: u64,
    },
    /// An access outside the aperture or a mapping.
    #[error("bytes {}..+{} lie outside the memory", .0.offset, .0.bytes)]
    OutOfBounds(OutOfBounds),
    /// A queue's depth is not possible.
    #[error("a ring cannot be laid out like that: {0:?}; its depth is a power of two up to 4096")]
    Ring(LayoutError),
    /// The arguments of a launch are not those the kernel takes.
    #[error("{given} bytes of kernel arguments where the kernel takes {taken}")]
    Arguments {
        /// Bytes given, with alignment.
        given: u64,
        /// Bytes taken.
        taken: u64,
    },
    /// The device said something that cannot be true.
    #[error("the device lies: {0}")]
    Lied(Lie),
}

impl Error {
    /// The status code, if the device answered with one.
    #[must_use]
    pub const fn status(&self) -> Option<Status> {
        match self {
            Error::Status { status, .. } => Some(*status),
            _ => None,
        }
    }
}

impl From<OutOfBounds> for Error {
    fn from(e: OutOfBounds) -> Error {
        Error::OutOfBounds(e)
    }
}

impl From<LayoutError> for Error {
    fn from(e: LayoutError) -> Error {
        Error::Ring(e)
    }
}

impl From<Lie> for Error {
    fn from(e: Lie) -> Error {
        Error::Lied(e)
    }
}
