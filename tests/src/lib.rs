//! The harness of the suite: runs the real command on real guests and reads what it says.
//!
//! A test body is a few lines: what to run, and what must be true of the outcome. A test that
//! cannot run on this machine returns [`skip`] with the reason and is reported as ignored; it never
//! passes silently.

pub mod bare;
pub mod command;
pub mod daemon;
pub mod guest;
pub mod initramfs;
pub mod linux;
pub mod policy;
pub mod python;
pub mod rpc;
pub mod workspace;

use libtest_mimic::{Completion, Failed, Trial};

/// How a test ends: passed, or skipped with a reason; an error is a failure.
pub type Outcome = anyhow::Result<Completion>;

/// It passed.
pub fn pass() -> Outcome {
    Ok(Completion::Completed)
}

/// It cannot run here.
pub fn skip(reason: impl Into<String>) -> Outcome {
    Ok(Completion::ignored_with(reason.into()))
}

/// A test of this name.
pub fn test(name: &str, body: fn() -> Outcome) -> Trial {
    Trial::ignorable_test(name, move || body().map_err(|e| Failed::from(format!("{e:?}"))))
}

/// Why microVMs cannot run on this machine, if they cannot. Asks the kernel for a virtual machine,
/// nothing less.
pub fn kvm_missing() -> Option<String> {
    match std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => None,
        Err(e) => Some(format!("/dev/kvm: {e}")),
    }
}
