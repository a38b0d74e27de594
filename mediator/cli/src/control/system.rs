//! The daemon itself: its device, totals, audit log, health and metrics.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::Stream;
use futures_util::stream::unfold;

use super::answers::{Device, Stats};
use super::problem::Problem;
use super::server::aside;
use crate::audit::Subscription;
use crate::daemon::Daemon;

/// Audit lines that wait for one slow reader, at most; the rest are counted.
const WAITING: usize = 1024;

/// The devices that tenants share: one.
#[utoipa::path(get, path = "/v1/devices", tag = "daemon",
    responses((status = 200, body = Vec<Device>)))]
pub(super) async fn devices(State(daemon): State<Arc<Daemon>>) -> Json<Vec<Device>> {
    let description = daemon.runtime().description();
    Json(vec![Device {
        kind: description.kind.to_owned(),
        name: description.name.clone(),
        memory_bytes: description.memory_bytes,
        multiprocessors: description.multiprocessors,
    }])
}

/// Totals over all tenants.
#[utoipa::path(get, path = "/v1/stats", tag = "daemon",
    responses((status = 200, body = Stats), (status = 503, body = Problem)))]
pub(super) async fn stats(State(daemon): State<Arc<Daemon>>) -> Result<Json<Stats>, Problem> {
    let asked = daemon.clone();
    let all = aside(move || asked.runtime().standings(false)).await??;
    let sum = |f: fn(&turnstile_core::Counters) -> u64| all.iter().map(|s| f(&s.counters)).sum();
    Ok(Json(Stats {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_ns: u64::try_from(daemon.uptime().as_nanos()).unwrap_or(u64::MAX),
        tenants: all.len() as u64,
        attached: all.iter().filter(|s| s.life.is_some()).count() as u64,
        commands: sum(|c| c.completed),
        denied: sum(|c| c.denied),
        failed: sum(|c| c.failed),
        bytes: sum(|c| c.bytes),
        gpu_ns: sum(|c| c.busy_ns),
        peak_rss_bytes: crate::commands::peak_rss_bytes(),
        audit_stopped: daemon.audit().stopped(),
    }))
}

/// The audit log as it grows, as server-sent events: `record` is a line of the log; `dropped` says how
/// many lines a reader that was too slow has missed.
#[utoipa::path(get, path = "/v1/audit/stream", tag = "daemon",
    responses((status = 200, content_type = "text/event-stream", body = String),
        (status = 404, body = Problem, description = "No log is written"),
        (status = 503, body = Problem, description = "Too many listen already")))]
pub(super) async fn audit_stream(
    State(daemon): State<Arc<Daemon>>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    use crate::audit::SubscribeError;
    let subscription = daemon.audit().subscribe(WAITING).map_err(|error| match error {
        SubscribeError::NoLog => {
            let fix = "name a file in audit.path of the policy or with --audit, and restart";
            Problem::new(StatusCode::NOT_FOUND, "no-log", error.to_string(), fix)
        }
        SubscribeError::TooMany => {
            let fix = "end another reader";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too-many", error.to_string(), fix)
        }
    })?;
    Ok(Sse::new(unfold((subscription, None), next_event)).keep_alive(KeepAlive::default()))
}

type Reader = (Subscription, Option<Arc<str>>);

/// The next event. A count of what was dropped goes before the line that follows it.
async fn next_event((mut lines, held): Reader) -> Option<(Result<Event, Infallible>, Reader)> {
    let line = match held {
        Some(line) => line,
        None => lines.next().await?,
    };
    let dropped = lines.take_dropped();
    if dropped > 0 {
        let event = Event::default().event("dropped").data(dropped.to_string());
        return Some((Ok(event), (lines, Some(line))));
    }
    Some((Ok(Event::default().event("record").data(&*line)), (lines, None)))
}

/// Whether the daemon runs: it answers.
#[utoipa::path(get, path = "/healthz", tag = "daemon", responses((status = 200, body = String)))]
pub(super) async fn health() -> &'static str {
    "ok\n"
}

/// Whether tenants are served.
#[utoipa::path(get, path = "/readyz", tag = "daemon",
    responses((status = 200, body = String), (status = 503, body = Problem)))]
pub(super) async fn ready(State(daemon): State<Arc<Daemon>>) -> Result<&'static str, Problem> {
    let asked = daemon.clone();
    // The dispatcher answers, too.
    aside(move || asked.runtime().tenants()).await??;
    if daemon.is_ready() {
        return Ok("ready\n");
    }
    let title = "tenants are not served: the daemon reloads or stops, or its audit log is full";
    Err(Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "not-ready",
        title,
        "wait; if it stays so, make room for the audit log",
    ))
}

/// Metrics in the Prometheus text format.
#[utoipa::path(get, path = "/metrics", tag = "daemon",
    responses((status = 200, content_type = "text/plain", body = String),
        (status = 503, body = Problem)))]
pub(super) async fn metrics(
    State(daemon): State<Arc<Daemon>>,
) -> Result<impl IntoResponse, Problem> {
    let text = aside(move || {
        let standings = daemon.runtime().standings(false)?;
        Ok::<_, crate::runtime::RuntimeError>(super::exposition(&daemon, standings))
    });
    Ok(([(header::CONTENT_TYPE, super::metrics::CONTENT_TYPE)], text.await??))
}
