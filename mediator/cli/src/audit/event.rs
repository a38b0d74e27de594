//! What the log can say.

use serde::Serialize;

use super::device_event::DeviceEvent;

/// A record's event. Its fields lie beside `seq` and `time` in the line; `event` names it.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Event {
    /// About the log itself.
    Log(LogEvent),
    /// About a tenant's front end, as the daemon sees it.
    Tenant(TenantEvent),
    /// About a tenant's device, as the mediator sees it.
    Device(DeviceEvent),
    /// About what an operator ordered.
    Operator(OperatorEvent),
}

/// An order of an operator that was carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OperatorEvent {
    /// Always `operator`.
    pub event: &'static str,
    /// `pause`, `resume`, `revoke`, `revoke_session`, `kill` or `reload`.
    pub action: &'static str,
    /// User who ordered it, by the kernel's word.
    pub uid: u32,
    /// Process that ordered it.
    pub pid: u32,
    /// The session it was about, if it was about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<u64>,
    /// More about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// About the log itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum LogEvent {
    /// The daemon began to write. First record of every file.
    Opened {
        /// Version of the program.
        version: String,
        /// Name of the file that this one continues.
        #[serde(skip_serializing_if = "Option::is_none")]
        continues: Option<String>,
    },
    /// The daemon stopped in good order. Last record of its run.
    Closed {
        /// Records written in this run, this one included.
        records: u64,
    },
    /// The file is full; last record of it.
    Rotated {
        /// Name the file gets.
        to: String,
    },
    /// The log's file was missing or empty when the daemon opened it, so the chain goes on after the
    /// last full file. Whatever stood in the missing one is not in this log.
    Resumed {
        /// Name of the file that the chain goes on after.
        after: String,
    },
    /// Bytes before this line are not a record: the daemon or the machine died, or the disk was
    /// full, while they were written.
    Recovered {
        /// How many bytes.
        torn_bytes: u64,
        /// Their SHA-256.
        torn_sha256: String,
    },
    /// The tenant caused more records than its rate allows.
    Dropped {
        /// Records not written since the last one of this kind.
        count: u64,
    },
    /// All tenants together caused more records than the log could take.
    Overflow {
        /// Records not written since the last one of this kind.
        count: u64,
    },
    /// The disk did not take records.
    Lost {
        /// Records not written since the last one of this kind.
        count: u64,
    },
    /// An event could not be written as JSON.
    Unwritable {
        /// Why.
        error: String,
    },
}

/// About a tenant's front end, as the daemon sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum TenantEvent {
    /// Its guest or process was started.
    Started {
        /// `microvm`, `process`, `vfio-user` or `rpc`.
        frontend: String,
    },
    /// Its guest or process ended.
    Ended {
        /// How.
        how: String,
        /// Whether its own check passed.
        passed: bool,
    },
    /// Its VMM or client, which somebody else runs, is not connected any more.
    Left {
        /// How.
        how: String,
    },
}

impl Event {
    pub(super) fn unwritable(error: &serde_json::Error) -> Event {
        Event::Log(LogEvent::Unwritable { error: error.to_string() })
    }
}

impl From<LogEvent> for Event {
    fn from(event: LogEvent) -> Event {
        Event::Log(event)
    }
}

impl From<TenantEvent> for Event {
    fn from(event: TenantEvent) -> Event {
        Event::Tenant(event)
    }
}

impl From<DeviceEvent> for Event {
    fn from(event: DeviceEvent) -> Event {
        Event::Device(event)
    }
}

impl From<OperatorEvent> for Event {
    fn from(event: OperatorEvent) -> Event {
        Event::Operator(event)
    }
}
