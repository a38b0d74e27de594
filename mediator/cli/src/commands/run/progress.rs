//! The lines that `run` shows while tenants live.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::audit::DeviceEvent;
use crate::runtime::Milestone;
use crate::tenants::Ended;

/// Prints progress on stderr.
pub(in crate::commands) struct Progress {
    start: Instant,
    quiet: bool,
    /// Width of the longest tenant name.
    width: usize,
}

impl Progress {
    pub(in crate::commands) fn new(quiet: bool, width: usize) -> Progress {
        Progress { start: Instant::now(), quiet, width }
    }

    pub(in crate::commands) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    pub(in crate::commands) fn say(&self, who: &str, what: impl std::fmt::Display) {
        if !self.quiet {
            let at = self.start.elapsed().as_secs_f64();
            let width = self.width;
            // A closed stderr is no reason to stop.
            let _ = writeln!(std::io::stderr(), "{at:8.3} s  {who:width$}  {what}");
        }
    }

    pub(in crate::commands) fn milestone(&self, milestone: &Milestone) {
        let text = match &milestone.event {
            DeviceEvent::Attached => "device attached".into(),
            DeviceEvent::Detached => "everything reclaimed".into(),
            DeviceEvent::Enabled => "driver enabled the device".into(),
            DeviceEvent::Reset => "driver reset the device".into(),
            DeviceEvent::SessionOpened => "session opened".into(),
            DeviceEvent::SessionClosed => "session closed".into(),
            DeviceEvent::Revoked => "REVOKED by the operator".into(),
            DeviceEvent::BackendLost { why } => format!("GPU lost: {why}"),
            DeviceEvent::RingBroken { queue } => {
                format!("broke the ring of queue {queue}; stopped")
            }
            DeviceEvent::NegotiationFailed { version, .. } => {
                format!("driver of version {version} wants what is not offered")
            }
            DeviceEvent::ProgramRefused { line, why } => {
                format!("program refused at line {line}: {why}")
            }
            // Not milestones: commands are counted, not shown.
            DeviceEvent::Refused { .. }
            | DeviceEvent::Accepted { .. }
            | DeviceEvent::Failed { .. } => {
                return;
            }
        };
        self.say(&milestone.tenant, text);
    }

    pub(in crate::commands) fn ended(&self, tenant: &str, ended: &Ended) {
        match ended {
            Ended::Passed => self.say(tenant, "finished: passed"),
            Ended::Failed(why) => self.say(tenant, format_args!("finished: FAILED: {why}")),
            Ended::Broken(why) => self.say(tenant, format_args!("BROKEN: {why}")),
            Ended::Stopped => self.say(tenant, "stopped"),
        }
    }
}
