//! How a command fails: what happened, what to do about it, and the exit code.

use std::process::ExitCode;

/// What sort of failure; it decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It ran, and something checked is not as it should be.
    Check,
    /// The command line or a file is wrong.
    Input,
    /// This machine cannot do it.
    Machine,
    /// The user stopped it.
    Stopped,
}

/// A failure for people.
#[derive(Debug)]
pub struct Failure {
    kind: Kind,
    /// Empty: everything has been printed already.
    what: String,
    /// Empty: nothing to add.
    fix: String,
}

impl Failure {
    /// Something checked is not as it should be.
    pub fn check(what: impl Into<String>, fix: impl Into<String>) -> Failure {
        Failure { kind: Kind::Check, what: what.into(), fix: fix.into() }
    }
    /// The command line or a file is wrong.
    pub fn input(what: impl Into<String>, fix: impl Into<String>) -> Failure {
        Failure { kind: Kind::Input, what: what.into(), fix: fix.into() }
    }
    /// This machine cannot do it.
    pub fn machine(what: impl Into<String>, fix: impl Into<String>) -> Failure {
        Failure { kind: Kind::Machine, what: what.into(), fix: fix.into() }
    }
    /// The user stopped it.
    #[must_use]
    pub fn stopped() -> Failure {
        Failure { kind: Kind::Stopped, what: "stopped".into(), fix: String::new() }
    }
    /// A check failed and the output says so already.
    #[must_use]
    pub fn said() -> Failure {
        Failure { kind: Kind::Check, what: String::new(), fix: String::new() }
    }
    /// What sort of failure.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What happened.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Prints it on stderr and gives the exit code.
    pub(super) fn report(&self) -> ExitCode {
        if !self.what.is_empty() {
            eprintln!("error: {}", self.what);
        }
        if !self.fix.is_empty() {
            eprintln!("  fix: {}", self.fix);
        }
        ExitCode::from(match self.kind {
            Kind::Check => 1,
            Kind::Input => 2,
            Kind::Machine => 3,
            Kind::Stopped => 130,
        })
    }
}

/// Reads a file the user named.
pub(super) fn read_text(path: &std::path::Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|e| {
        Failure::input(
            format!("cannot read {}: {e}", path.display()),
            "check the path and its permissions",
        )
    })
}
