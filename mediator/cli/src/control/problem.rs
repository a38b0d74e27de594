//! Errors of the API: problem documents (RFC 9457) that say what to change.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::answers::{self, Change, Mistake};
use crate::daemon::ReloadError;
use crate::runtime::RuntimeError;

/// Why a request was not carried out.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Problem {
    /// Stable name: `urn:turnstile:` and a word.
    #[serde(rename = "type")]
    pub kind: String,
    /// What was refused and why.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What to change; empty if nothing can be.
    pub fix: String,
    /// Mistakes in a policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mistakes: Vec<Mistake>,
    /// Changes of a policy that take a restart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restart: Vec<Change>,
}

impl Problem {
    pub(super) fn new(
        status: StatusCode,
        kind: &str,
        title: impl Into<String>,
        fix: impl Into<String>,
    ) -> Problem {
        Problem {
            kind: format!("urn:turnstile:{kind}"),
            title: title.into(),
            status: status.as_u16(),
            fix: fix.into(),
            mistakes: Vec::new(),
            restart: Vec::new(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_string(&self).unwrap_or_default();
        (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response()
    }
}

impl From<RuntimeError> for Problem {
    fn from(error: RuntimeError) -> Problem {
        let title = error.to_string();
        match error {
            RuntimeError::NoTenant => Problem::new(
                StatusCode::NOT_FOUND,
                "no-tenant",
                "the policy in force has no such tenant",
                "GET /v1/tenants lists them",
            ),
            RuntimeError::NoSession(_) => Problem::new(
                StatusCode::NOT_FOUND,
                "no-session",
                title,
                "GET /v1/tenants/{name}/sessions lists them",
            ),
            RuntimeError::Silent => Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "silent",
                title,
                "try again; if it stays so, restart the daemon",
            ),
            _ => Problem::new(StatusCode::CONFLICT, "refused", title, ""),
        }
    }
}

impl From<ReloadError> for Problem {
    fn from(error: ReloadError) -> Problem {
        let title = error.to_string();
        let fix = "nothing was changed; correct the policy and send it again";
        match error {
            ReloadError::Invalid(errors) => Problem {
                mistakes: answers::mistakes(&errors),
                ..Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-policy", title, fix)
            },
            ReloadError::NeedsRestart(diff) => Problem {
                restart: answers::needing_restart(&diff),
                ..Problem::new(
                    StatusCode::CONFLICT,
                    "needs-restart",
                    title,
                    "nothing was changed; take these changes back, or restart the daemon with the \
                     new policy",
                )
            },
            ReloadError::FrontEnd(_) => {
                Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "cannot-serve", title, fix)
            }
            ReloadError::Runtime(error) => error.into(),
            ReloadError::Stopping => Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "stopping",
                title,
                "start it again with the new policy",
            ),
        }
    }
}

pub(super) async fn no_such_path() -> Problem {
    let fix = "docs/openapi.json lists the paths";
    Problem::new(StatusCode::NOT_FOUND, "no-path", "there is nothing at this path", fix)
}

pub(super) async fn no_such_method() -> Problem {
    let fix = "docs/openapi.json says which it has";
    let title = "this path does not have this method";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "no-method", title, fix)
}
