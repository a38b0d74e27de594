//! Puts tenants on devices: starts their guests or processes, connects them to the dispatcher, and
//! reports what becomes of them. What a tenant may do is none of its business.

pub mod kvm;
pub mod local;
pub mod process;
pub mod rpc;
pub mod vfio_user;
pub mod workload;

use std::sync::Arc;

use crate::runtime::{Milestone, Report};

/// Something happened to a tenant that an operator wants to see.
#[derive(Debug)]
pub enum News {
    /// Its device lives, dies, opens a session, ….
    Life(Milestone),
    /// It printed a line.
    Line {
        /// The tenant.
        tenant: Arc<str>,
        /// The line, bounded, without control characters.
        text: String,
    },
    /// Its front end has a device; a [`News::Gone`] will follow.
    Attached {
        /// The tenant.
        tenant: Arc<str>,
    },
    /// Its guest or process ended.
    Ended {
        /// The tenant.
        tenant: Arc<str>,
        /// How.
        ended: Ended,
    },
    /// Everything it held is reclaimed.
    Gone {
        /// The tenant.
        tenant: Arc<str>,
        /// What it did; `None` if the dispatcher could not say.
        report: Option<Report>,
    },
    /// The user wants an end.
    Signal,
}

/// How a guest or process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, and its own check passed.
    Passed,
    /// By itself, and its own check failed.
    Failed(String),
    /// It could not be started, crashed, or was killed from outside.
    Broken(String),
    /// Turnstile stopped it.
    Stopped,
}

/// Makes a line from a tenant fit for a terminal: bounded, no control characters.
pub(crate) fn clean(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(&line[..line.len().min(MAX_TEXT)]);
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Longest line of a tenant that is shown, in bytes.
pub(crate) const MAX_TEXT: usize = 400;
