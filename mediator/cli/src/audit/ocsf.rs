//! The log for other systems: OCSF events, class 6003 (API Activity), version 1.6.0.
//!
//! A record becomes one event. What the class has no place for is kept in `unmapped`, under the names
//! it has in the log, so that nothing is lost; the line's hash is the event's `metadata.uid`.

use std::io::{self, BufRead, Read, Write};
use std::time::UNIX_EPOCH;

use serde_json::{Map, Value, json};

use super::chain::{self, MAX_LINE};

/// Version of the schema.
const VERSION: &str = "1.6.0";
const CATEGORY: u64 = 6;
const CLASS: u64 = 6003;

/// What an export came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Events written.
    pub events: u64,
    /// Lines that are no records, and were left out.
    pub skipped: u64,
}

/// Writes each record of a log as an event, one a line. Reads a bounded line at a time.
///
/// # Errors
/// When the log cannot be read or the events cannot be written.
pub fn export(mut log: impl BufRead, mut out: impl Write) -> io::Result<Exported> {
    let mut done = Exported::default();
    let mut line = Vec::with_capacity(1024);
    loop {
        line.clear();
        if (&mut log).take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line)? == 0 {
            return Ok(done);
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        match chain::open(&line) {
            Ok((_, record)) => {
                serde_json::to_writer(&mut out, &event(record))?;
                out.write_all(b"\n")?;
                done.events += 1;
            }
            Err(_) => done.skipped += 1,
        }
    }
}

/// What a kind of record is to the schema.
struct Meaning {
    activity: u64,
    severity: u64,
    failed: bool,
}

fn meaning(event: &str, record: &Map<String, Value>) -> Meaning {
    let (activity, severity, failed) = match event {
        "attached" | "session_opened" | "started" | "enabled" | "opened" => (CREATE, INFO, false),
        "detached" | "session_closed" | "left" | "closed" | "rotated" => (DELETE, INFO, false),
        "ended" => (DELETE, INFO, record.get("passed") == Some(&Value::Bool(false))),
        "reset" => (UPDATE, INFO, false),
        "revoked" => (DELETE, MEDIUM, false),
        "refused" | "negotiation_failed" | "program_refused" => (of(record), LOW, true),
        "accepted" => (of(record), INFO, false),
        "failed" => (of(record), LOW, true),
        "ring_broken" | "dropped" => (OTHER, MEDIUM, true),
        "backend_lost" | "lost" | "overflow" | "recovered" | "resumed" | "unwritable" => {
            (OTHER, HIGH, true)
        }
        _ => (OTHER, INFO, false),
    };
    Meaning { activity, severity, failed }
}

const CREATE: u64 = 1;
const READ: u64 = 2;
const UPDATE: u64 = 3;
const DELETE: u64 = 4;
const OTHER: u64 = 99;
const INFO: u64 = 1;
const LOW: u64 = 2;
const MEDIUM: u64 = 3;
const HIGH: u64 = 4;

/// What an operation does to the objects of a tenant.
fn of(record: &Map<String, Value>) -> u64 {
    let op = record.get("op").and_then(Value::as_str).unwrap_or_default();
    match op {
        _ if op.ends_with("_create") || op.ends_with("_open") || op.ends_with("_load") => CREATE,
        "dma_register" | "derive" => CREATE,
        _ if op.ends_with("_destroy") || op.ends_with("_close") || op.ends_with("_unload") => {
            DELETE
        }
        "dma_unregister" | "function_release" => DELETE,
        "identify" | "function_get" | "timestamp" | "fence_wait" => READ,
        "buffer_map" | "buffer_unmap" | "copy" | "fill" | "launch" | "fence_signal" => UPDATE,
        _ => OTHER,
    }
}

fn caption(table: &[(u64, &'static str)], id: u64) -> &'static str {
    table.iter().find(|(of, _)| *of == id).map_or("Other", |(_, caption)| caption)
}

fn event(record: Value) -> Value {
    let Value::Object(mut record) = record else { return Value::Null };
    let text = |record: &mut Map<String, Value>, name: &str| match record.remove(name) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    };
    let kind = text(&mut record, "event");
    let time = text(&mut record, "time");
    let hash = text(&mut record, "hash");
    let seq = record.remove("seq").unwrap_or_default();
    let tenant = record.remove("tenant");
    let Meaning { activity, severity, failed } = meaning(&kind, &record);
    let activity_name = caption(
        &[(CREATE, "Create"), (READ, "Read"), (UPDATE, "Update"), (DELETE, "Delete")],
        activity,
    );
    let severities = [(INFO, "Informational"), (LOW, "Low"), (MEDIUM, "Medium"), (HIGH, "High")];
    let millis = humantime::parse_rfc3339(&time)
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .map_or(0, |since| since.as_millis() as u64);
    // The daemon's own records have no tenant; it is its own actor then.
    let who = tenant.as_ref().and_then(Value::as_str).unwrap_or("turnstile").to_owned();
    let user = json!({
        "name": who,
        "type_id": if tenant.is_some() { 1 } else { 3 },
        "type": if tenant.is_some() { "User" } else { "System" },
    });
    let operation = record.get("op").and_then(Value::as_str).unwrap_or(&kind).to_owned();
    let code = record.get("status").or(record.get("reason")).and_then(Value::as_str);
    let mut out = json!({
        "activity_id": activity,
        "activity_name": activity_name,
        "category_uid": CATEGORY,
        "category_name": "Application Activity",
        "class_uid": CLASS,
        "class_name": "API Activity",
        "type_uid": CLASS * 100 + activity,
        "type_name": format!("API Activity: {activity_name}"),
        "time": millis,
        "severity_id": severity,
        "severity": caption(&severities, severity),
        "status_id": if failed { 2 } else { 1 },
        "status": if failed { "Failure" } else { "Success" },
        "message": kind,
        "actor": { "user": user },
        "src_endpoint": { "name": who },
        "api": { "operation": operation, "service": { "name": "turnstile" } },
        "metadata": {
            "version": VERSION,
            "uid": hash,
            "sequence": seq,
            "event_code": kind,
            "original_time": time,
            "log_name": "audit",
            "log_provider": "turnstile",
            "product": {
                "name": "Turnstile",
                "vendor_name": "Turnstile",
                "version": env!("CARGO_PKG_VERSION"),
            },
        },
    });
    if let Some(code) = code {
        out["status_code"] = code.into();
    }
    if !record.is_empty() {
        out["unmapped"] = Value::Object(record);
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::super::chain::Chain;
    use super::super::device_event::DeviceEvent;
    use super::super::event::{Event, LogEvent, TenantEvent};
    use super::*;

    fn log() -> Vec<u8> {
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_456);
        let refused = DeviceEvent::Refused {
            op: "buffer_create",
            status: "quota",
            detail: "0x0".into(),
            denial: None,
        };
        let events: [(Option<&str>, Event); 5] = [
            (None, LogEvent::Opened { version: "1".into(), continues: None }.into()),
            (Some("alice"), TenantEvent::Started { frontend: "rpc".into() }.into()),
            (Some("alice"), refused.into()),
            (Some("alice"), LogEvent::Dropped { count: 7 }.into()),
            (Some("alice"), DeviceEvent::Revoked.into()),
        ];
        let (mut chain, mut bytes) = (Chain::default(), Vec::new());
        for (tenant, event) in events {
            chain = chain.seal(time, tenant, &event, &mut bytes);
        }
        bytes
    }

    /// `TURNSTILE_BLESS=1` writes the file anew.
    #[test]
    fn events_are_as_committed() {
        let mut out = Vec::new();
        let done = export(&log()[..], &mut out).unwrap();
        assert_eq!(done, Exported { events: 5, skipped: 0 });
        let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ocsf.jsonl");
        if std::env::var_os("TURNSTILE_BLESS").is_some() {
            std::fs::write(&golden, &out).unwrap();
        }
        let committed = std::fs::read_to_string(&golden).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), committed, "run it with TURNSTILE_BLESS=1");
    }

    /// The class's own rules, from its definition.
    #[test]
    fn every_event_has_what_the_class_requires() {
        let mut out = Vec::new();
        export(&log()[..], &mut out).unwrap();
        for line in out.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
            let event: Value = serde_json::from_slice(line).unwrap();
            for field in ["actor", "api", "src_endpoint", "metadata", "time", "severity_id"] {
                assert!(!event[field].is_null(), "{field}: {event}");
            }
            let activity = event["activity_id"].as_u64().unwrap();
            assert!([0, 1, 2, 3, 4, 99].contains(&activity));
            assert_eq!(event["type_uid"], 600_300 + activity);
            assert_eq!((&event["class_uid"], &event["category_uid"]), (&json!(6003), &json!(6)));
            assert!(
                event["time"] == 1_700_000_000_123_u64 && event["api"]["operation"].is_string()
            );
        }
    }

    #[test]
    fn what_is_no_record_is_left_out_and_counted() {
        let mut bytes = log();
        bytes.extend(b"{\"torn\":");
        let done = export(&bytes[..], io::sink()).unwrap();
        assert_eq!(done, Exported { events: 5, skipped: 1 });
    }
}
