//! The control API: HTTP with JSON on a Unix socket, for operators and their tools.
//!
//! One thread named `control` serves it (and a few helpers for what waits on the dispatcher). It
//! shares nothing with the command path but the dispatcher's queue of orders; a client that is slow,
//! sends too much or never ends costs its own connection. Who may connect is decided by the socket's
//! mode and group; there is no TCP.
//!
//! [`openapi`] is the reference, made from the handlers themselves; `docs/openapi.json` is its copy.

mod answers;
pub mod client;
mod metrics;
mod policy;
mod problem;
mod server;
mod system;
mod tenants;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use answers::{
    Change, Check, Device, Held, Latency, Mistake, NotStarted, Object, Operation, ReloadAnswer,
    Session, Sessions, Stats, Tenant,
};
pub use metrics::exposition;
pub use problem::Problem;
pub use server::{ControlError, ControlServer, Socket};

use crate::daemon::Daemon;

/// Longest request body, in bytes: a policy of 4,096 tenants fits several times.
pub const MAX_BODY: usize = 16 << 20;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Turnstile control API",
        version = "1",
        description = "HTTP/1.1 over the Unix socket `control.sock` in the daemon's state directory. \
                       Errors are problem documents (RFC 9457) with `fix`: what to change."
    ),
    tags(
        (name = "tenants", description = "Tenants of the policy in force and what they hold"),
        (name = "policy", description = "The policy in force"),
        (name = "daemon", description = "The daemon, its device, log and metrics"),
    )
)]
struct Api;

fn api() -> OpenApiRouter<Arc<Daemon>> {
    OpenApiRouter::with_openapi(Api::openapi())
        .routes(routes!(tenants::list))
        .routes(routes!(tenants::show))
        .routes(routes!(tenants::pause))
        .routes(routes!(tenants::resume))
        .routes(routes!(tenants::revoke))
        .routes(routes!(tenants::kill))
        .routes(routes!(tenants::sessions))
        .routes(routes!(tenants::revoke_session))
        .routes(routes!(policy::show, policy::put))
        .routes(routes!(policy::check))
        .routes(routes!(system::devices))
        .routes(routes!(system::stats))
        .routes(routes!(system::audit_stream))
        .routes(routes!(system::health))
        .routes(routes!(system::ready))
        .routes(routes!(system::metrics))
}

/// The API over a daemon.
fn router(daemon: Arc<Daemon>) -> axum::Router {
    let (router, _) = api().split_for_parts();
    router
        .fallback(problem::no_such_path)
        .method_not_allowed_fallback(problem::no_such_method)
        .layer(axum::middleware::from_fn(server::bounded))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(daemon)
}

/// The OpenAPI document of the API, as JSON.
#[must_use]
pub fn openapi() -> String {
    let (_, document) = api().split_for_parts();
    // PANIC: names and texts of our own; there is nothing in it that JSON cannot say.
    let mut text = document.to_pretty_json().expect("an OpenAPI document is JSON");
    text.push('\n');
    text
}
