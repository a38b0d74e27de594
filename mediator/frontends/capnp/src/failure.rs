//! What a client is told when something fails: a Cap'n Proto exception whose reason begins with a
//! stable word.

use capnp::{Error, ErrorKind};
use turnstile_abi::Status;
use turnstile_driver::Error as DriverError;

/// Any exception of ours.
pub(crate) fn say(kind: ErrorKind, word: &str, more: impl std::fmt::Display) -> Error {
    Error { kind, extra: format!("{word}: {more}") }
}

/// The object was closed, by the client itself or with its session.
pub(crate) fn closed(what: &str) -> Error {
    say(ErrorKind::Disconnected, "closed", format_args!("the {what} or its session was closed"))
}

/// A capability in an argument that is none of ours.
pub(crate) fn foreign(argument: &str, want: &str) -> Error {
    let more = format_args!("{argument} is no {want} of this connection");
    say(ErrorKind::Failed, "bad_handle", more)
}

/// An argument that cannot be.
pub(crate) fn malformed(more: impl std::fmt::Display) -> Error {
    say(ErrorKind::Failed, "malformed", more)
}

/// What the driver says.
pub(crate) fn failure(error: &DriverError) -> Error {
    match *error {
        DriverError::Status { op, status, detail } => {
            let info = op.info();
            say(kind(status), status.name(), format_args!("{}{}", info.name, hint(status, detail)))
        }
        DriverError::Lost => {
            say(ErrorKind::Disconnected, "revoked", "the tenant was revoked or its device is lost")
        }
        DriverError::Gone
        | DriverError::NotEnabled
        | DriverError::OutOfStep
        | DriverError::Timeout { .. }
        | DriverError::Lied(_)
        | DriverError::NotADevice(_)
        | DriverError::Version(_)
        | DriverError::Features { .. }
        | DriverError::EnableRefused(_) => say(ErrorKind::Disconnected, "device_lost", error),
        DriverError::Full | DriverError::ApertureFull { .. } | DriverError::Ring(_) => {
            say(ErrorKind::Overloaded, "no_room", error)
        }
        DriverError::OutOfBounds(_) => say(ErrorKind::Failed, "out_of_range", error),
        DriverError::Arguments { .. } => say(ErrorKind::Failed, "malformed", error),
        DriverError::BadToken => say(ErrorKind::Failed, "bad_handle", error),
    }
}

/// What a completion says.
pub(crate) fn status(status: Status, detail: u64) -> Error {
    say(kind(status), status.name(), format_args!("the command failed{}", hint(status, detail)))
}

const fn kind(status: Status) -> ErrorKind {
    match status {
        Status::Quota | Status::NoMemory => ErrorKind::Overloaded,
        Status::Revoked | Status::Reset | Status::DeviceLost | Status::RingBroken => {
            ErrorKind::Disconnected
        }
        Status::UnknownOp | Status::Unsupported => ErrorKind::Unimplemented,
        _ => ErrorKind::Failed,
    }
}

/// What to make of a status, for people.
fn hint(status: Status, detail: u64) -> String {
    match status {
        Status::Denied => ": the policy does not grant it".into(),
        Status::Quota => format!(": the policy's limit is reached, {detail} left"),
        Status::BadHandle => ": the object is closed".into(),
        Status::NoRight => ": the object does not carry the right".into(),
        Status::OutOfRange => ": outside the object".into(),
        Status::Busy => ": the object is in use; unmap it first".into(),
        Status::BadProgram if detail > 0 => format!(": refused at line {detail}"),
        Status::BadProgram => ": the program was refused".into(),
        Status::NotFound => ": the program has no such kernel".into(),
        Status::KernelFault => format!(": the kernel faulted at {detail:#x}"),
        Status::Timeout => ": it took longer than the policy allows".into(),
        Status::Revoked => ": it was revoked".into(),
        Status::DeviceLost => ": the device is lost; open a new session".into(),
        _ if detail != 0 => format!(" ({detail:#x})"),
        _ => String::new(),
    }
}
