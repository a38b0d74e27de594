//! The mediator's audit events as records.

use serde::Serialize;
use turnstile_abi::{Opcode, Status};
use turnstile_backend_api::Fault;
use turnstile_core::What;
use turnstile_policy::Denial;

/// What happened on a tenant's device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum DeviceEvent {
    /// A device came to life for the tenant.
    Attached,
    /// Everything of the tenant is gone.
    Detached,
    /// The driver negotiated and enabled the device.
    Enabled,
    /// The driver reset the device.
    Reset,
    /// A session opened.
    SessionOpened,
    /// A session closed and everything of it was reclaimed.
    SessionClosed,
    /// A command was refused before it ran.
    Refused {
        /// Operation, `unknown` if the code is none.
        op: &'static str,
        /// Status the tenant saw.
        status: &'static str,
        /// Detail word of the completion, in hexadecimal.
        detail: String,
        /// Why, if the policy refused.
        #[serde(flatten)]
        denial: Option<DenialFields>,
    },
    /// A command was accepted.
    Accepted {
        /// Operation.
        op: &'static str,
    },
    /// A command failed while it ran.
    Failed {
        /// Operation.
        op: &'static str,
        /// Status the tenant saw.
        status: &'static str,
        /// Detail word of the completion, in hexadecimal.
        detail: String,
        /// The kernel's fault, if it was one.
        #[serde(skip_serializing_if = "Option::is_none")]
        fault: Option<FaultFields>,
    },
    /// A program image was refused.
    ProgramRefused {
        /// Line in the image, 0 if none.
        line: u32,
        /// Why.
        why: String,
    },
    /// The operator revoked the tenant or its sessions.
    Revoked,
    /// A backend's address space died.
    BackendLost {
        /// Why.
        why: String,
    },
    /// A ring's indices made no sense; the queue is stopped.
    RingBroken {
        /// Queue number.
        queue: u8,
    },
    /// The driver asked for a version or feature the device does not have.
    NegotiationFailed {
        /// `major.minor` the driver speaks.
        version: String,
        /// Features the driver wants, in hexadecimal.
        features: String,
    },
}

/// Why the policy refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DenialFields {
    /// Stable name of the reason.
    reason: &'static str,
    /// Where the limit stands in the tenant's policy.
    path: &'static str,
    /// What the policy allows.
    limit: u64,
    /// What was in use.
    used: u64,
    /// What was asked for.
    asked: u64,
}

/// A kernel's fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FaultFields {
    kernel: String,
    line: u32,
    block: [u32; 3],
    thread: [u32; 3],
    address: String,
    what: String,
}

fn name(opcode: Option<Opcode>) -> &'static str {
    opcode.map_or("unknown", |opcode| opcode.info().metric)
}

fn hex(value: u64) -> String {
    format!("{value:#x}")
}

/// Bounds what a tenant can make the log say; JSON escapes the rest.
fn cut(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}

impl From<Denial> for DenialFields {
    fn from(denial: Denial) -> DenialFields {
        let Denial { status: _, reason, path, limit, used, asked, .. } = denial;
        DenialFields { reason, path, limit, used, asked }
    }
}

impl From<&Fault> for FaultFields {
    fn from(fault: &Fault) -> FaultFields {
        let Fault { kernel, line, block, thread, address, what } = fault;
        FaultFields {
            kernel: cut(kernel, 256),
            line: *line,
            block: *block,
            thread: *thread,
            address: hex(*address),
            what: cut(what, 256),
        }
    }
}

impl From<What<'_>> for DeviceEvent {
    fn from(what: What<'_>) -> DeviceEvent {
        let status_name = |status: Status| status.name();
        match what {
            What::Attached => DeviceEvent::Attached,
            What::Detached => DeviceEvent::Detached,
            What::Enabled => DeviceEvent::Enabled,
            What::Reset => DeviceEvent::Reset,
            What::SessionOpened => DeviceEvent::SessionOpened,
            What::SessionClosed => DeviceEvent::SessionClosed,
            What::Refused { opcode, status, detail, denial } => DeviceEvent::Refused {
                op: name(opcode),
                status: status_name(status),
                detail: hex(detail),
                denial: denial.map(DenialFields::from),
            },
            What::Accepted { opcode } => DeviceEvent::Accepted { op: name(Some(opcode)) },
            What::Failed { opcode, status, detail, fault } => DeviceEvent::Failed {
                op: name(Some(opcode)),
                status: status_name(status),
                detail: hex(detail),
                fault: fault.map(FaultFields::from),
            },
            What::ProgramRefused { line, why } => {
                DeviceEvent::ProgramRefused { line, why: cut(why, 512) }
            }
            What::Revoked => DeviceEvent::Revoked,
            What::BackendLost { why } => DeviceEvent::BackendLost { why: cut(why, 512) },
            What::RingBroken { queue } => DeviceEvent::RingBroken { queue },
            What::NegotiationFailed { version, features } => DeviceEvent::NegotiationFailed {
                version: format!("{}.{}", version >> 16, version & 0xffff),
                features: hex(features),
            },
        }
    }
}
