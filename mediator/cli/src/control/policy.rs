//! The policy in force: read it, check another, put another in force.

use std::sync::Arc;

use axum::extract::rejection::StringRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::IntoParams;

use super::answers::{self, Check, ReloadAnswer};
use super::problem::Problem;
use super::server::aside;
use crate::daemon::{Daemon, Operator};

/// What each tenant of the policy in force may do, operation by operation, and why.
#[utoipa::path(get, path = "/v1/policy", tag = "policy",
    responses((status = 200, body = Object,
        description = "The document's own fields are gone by then: this is what they came to")))]
pub(super) async fn show(
    State(daemon): State<Arc<Daemon>>,
) -> Result<Json<serde_json::Value>, Problem> {
    let policy = daemon.policy();
    let explained = aside(move || {
        let explain = |t: &Arc<_>| {
            let t: &turnstile_policy::TenantPolicy = t;
            turnstile_policy::explain(&policy, &t.name)
        };
        let tenants: Vec<_> = policy.tenants.iter().filter_map(explain).collect();
        serde_json::json!({
            "backend": policy.device.backend.kind().name(),
            "memory_bytes": policy.device.memory_bytes,
            "tenants": tenants,
        })
    });
    Ok(Json(explained.await?))
}

/// Find the mistakes in a policy. Nothing changes.
#[utoipa::path(post, path = "/v1/policy/check", tag = "policy",
    request_body(content = String, content_type = "application/json",
        description = "The policy document"),
    responses((status = 200, body = Check)))]
pub(super) async fn check(body: Result<String, StringRejection>) -> Result<Json<Check>, Problem> {
    let text = text(body)?;
    let parsed = aside(move || turnstile_policy::Policy::parse(&text)).await?;
    let mistakes = parsed.err().map_or(Vec::new(), |errors| answers::mistakes(&errors));
    Ok(Json(Check { ok: mistakes.is_empty(), mistakes }))
}

/// How a policy is put in force.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct How {
    /// Only say what would change.
    #[serde(default)]
    dry_run: bool,
}

/// Put a policy in force, all of it or nothing.
#[utoipa::path(put, path = "/v1/policy", tag = "policy", params(How),
    request_body(content = String, content_type = "application/json",
        description = "The policy document"),
    responses((status = 200, body = ReloadAnswer),
        (status = 409, body = Problem, description = "It changes what only a restart can"),
        (status = 422, body = Problem, description = "It has mistakes")))]
pub(super) async fn put(
    State(daemon): State<Arc<Daemon>>,
    Extension(by): Extension<Operator>,
    Query(how): Query<How>,
    body: Result<String, StringRejection>,
) -> Result<Json<ReloadAnswer>, Problem> {
    let text = text(body)?;
    let reloaded = aside(move || daemon.reload(by, &text, how.dry_run)).await??;
    Ok(Json(reloaded.into()))
}

fn text(body: Result<String, StringRejection>) -> Result<String, Problem> {
    body.map_err(|rejection| {
        let (status, why) = (rejection.status(), rejection.body_text());
        match status {
            StatusCode::PAYLOAD_TOO_LARGE => Problem::new(
                status,
                "too-large",
                "the policy is too large",
                format!("send at most {} bytes", super::MAX_BODY),
            ),
            _ => Problem::new(status, "no-text", why, "send the policy as UTF-8 text"),
        }
    })
}
