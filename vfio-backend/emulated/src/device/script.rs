//! Things that go wrong on purpose, so that tests can see what the mediator makes of them.

use std::time::Duration;

use turnstile_abi::Status;

/// What goes wrong with one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It never ends by itself; only an abort or the end of its space ends it.
    Hang,
    /// It ends late.
    Late(Duration),
    /// It fails.
    Fail(Status),
    /// Its address space dies.
    Death,
}

/// One line of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scripted {
    /// Which operation on a queue, counted from 0 over all spaces in the order they start.
    pub operation: u64,
    /// What happens to it.
    pub trouble: Trouble,
}

/// What goes wrong, and when. The default is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script(pub Vec<Scripted>);

impl Script {
    pub(super) fn trouble(&self, operation: u64) -> Option<Trouble> {
        self.0.iter().find(|s| s.operation == operation).map(|s| s.trouble)
    }
}
