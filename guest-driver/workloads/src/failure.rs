//! Why a workload did not pass.

use turnstile_abi::Status;
use turnstile_driver::Error;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// A call of the driver failed that should have worked.
    #[error("{what}: {error}")]
    Driver {
        /// What the workload was doing.
        what: &'static str,
        /// The driver's error.
        error: Error,
    },
    /// Bytes or numbers are not what they should be.
    #[error("{what}: element {at} is {got:#x}, expected {want:#x}")]
    Wrong {
        /// What was checked.
        what: &'static str,
        /// Which element.
        at: u64,
        /// Value found.
        got: u64,
        /// Value expected.
        want: u64,
    },
    /// A command ended with another status than it may.
    #[error("{what}, case {at:#x}: {}, expected {}", got.name(), want.name())]
    Outcome {
        /// What was tried.
        what: &'static str,
        /// Which case of it.
        at: u64,
        /// Status found.
        got: Status,
        /// Status expected, or the first of several.
        want: Status,
    },
    /// Something did not happen that should have, or the reverse.
    #[error("{0}")]
    Not(&'static str),
    /// The workload needs something that this tenant does not have.
    #[error("needs {0}")]
    Needs(&'static str),
    /// Some of many checks failed; each was printed.
    #[error("{failed} of {of} checks failed")]
    Checks {
        /// Checks that failed.
        failed: u32,
        /// Checks made.
        of: u32,
    },
}

/// Says what the workload was doing when a driver call failed.
pub(crate) trait During<V> {
    fn during(self, what: &'static str) -> Result<V, Failure>;
}

impl<V> During<V> for Result<V, Error> {
    fn during(self, what: &'static str) -> Result<V, Failure> {
        self.map_err(|error| Failure::Driver { what, error })
    }
}

/// Fails unless two numbers agree.
pub(crate) fn same(what: &'static str, at: u64, got: u64, want: u64) -> Result<(), Failure> {
    if got == want { Ok(()) } else { Err(Failure::Wrong { what, at, got, want }) }
}

/// Fails unless a status is one of those allowed.
pub(crate) fn among(
    what: &'static str,
    at: u64,
    got: Status,
    allowed: &[Status],
) -> Result<(), Failure> {
    match allowed.first() {
        Some(&want) if !allowed.contains(&got) => Err(Failure::Outcome { what, at, got, want }),
        _ => Ok(()),
    }
}

/// Turns "the policy does not grant this, or no more of it" into `None`.
pub(crate) fn if_granted<V>(
    what: &'static str,
    result: Result<V, Error>,
) -> Result<Option<V>, Failure> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::Status { status: Status::Denied | Status::Quota, .. }) => Ok(None),
        Err(error) => Err(Failure::Driver { what, error }),
    }
}
