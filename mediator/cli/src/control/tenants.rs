//! Tenants: look at them, and order what becomes of them.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};

use super::answers::{Sessions, Tenant};
use super::problem::Problem;
use super::server::aside;
use crate::daemon::{Daemon, Operator};
use crate::runtime::Order;

/// Every tenant of the policy in force, in the order of their names.
#[utoipa::path(get, path = "/v1/tenants", tag = "tenants",
    responses((status = 200, body = Vec<Tenant>), (status = 503, body = Problem)))]
pub(super) async fn list(State(daemon): State<Arc<Daemon>>) -> Result<Json<Vec<Tenant>>, Problem> {
    let all = aside(move || daemon.runtime().standings(true)).await??;
    Ok(Json(all.iter().map(Tenant::from).collect()))
}

/// One tenant.
#[utoipa::path(get, path = "/v1/tenants/{name}", tag = "tenants",
    params(("name" = String, Path, description = "The tenant")),
    responses((status = 200, body = Tenant), (status = 404, body = Problem)))]
pub(super) async fn show(
    State(daemon): State<Arc<Daemon>>,
    Path(name): Path<String>,
) -> Result<Json<Tenant>, Problem> {
    let (standing, _) = aside(move || daemon.runtime().find(&name)).await??;
    Ok(Json(Tenant::from(&standing)))
}

/// A tenant's sessions and objects.
#[utoipa::path(get, path = "/v1/tenants/{name}/sessions", tag = "tenants",
    params(("name" = String, Path, description = "The tenant")),
    responses((status = 200, body = Sessions), (status = 404, body = Problem)))]
pub(super) async fn sessions(
    State(daemon): State<Arc<Daemon>>,
    Path(name): Path<String>,
) -> Result<Json<Sessions>, Problem> {
    let (_, holdings) = aside(move || daemon.runtime().find(&name)).await??;
    Ok(Json(holdings.into()))
}

async fn order(
    daemon: Arc<Daemon>,
    by: Operator,
    name: String,
    order: Order,
) -> Result<StatusCode, Problem> {
    aside(move || daemon.order(by, &name, order)).await??;
    Ok(StatusCode::NO_CONTENT)
}

/// Stop serving a tenant's rings. What it holds stays.
#[utoipa::path(post, path = "/v1/tenants/{name}/pause", tag = "tenants",
    params(("name" = String, Path, description = "The tenant")),
    responses((status = 204), (status = 404, body = Problem)))]
pub(super) async fn pause(
    State(daemon): State<Arc<Daemon>>,
    Extension(by): Extension<Operator>,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    order(daemon, by, name, Order::Pause).await
}

/// Serve a tenant's rings again, and lift a revocation: its driver may start over.
#[utoipa::path(post, path = "/v1/tenants/{name}/resume", tag = "tenants",
    params(("name" = String, Path, description = "The tenant")),
    responses((status = 204), (status = 404, body = Problem)))]
pub(super) async fn resume(
    State(daemon): State<Arc<Daemon>>,
    Extension(by): Extension<Operator>,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    order(daemon, by, name, Order::Resume).await
}

/// Take away everything a tenant holds. When this returns, nothing of it resolves and nothing
/// completes as success. It gets no device until it is resumed.
#[utoipa::path(post, path = "/v1/tenants/{name}/revoke", tag = "tenants",
    params(("name" = String, Path, description = "The tenant")),
    responses((status = 204), (status = 404, body = Problem)))]
pub(super) async fn revoke(
    State(daemon): State<Arc<Daemon>>,
    Extension(by): Extension<Operator>,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    order(daemon, by, name, Order::Revoke).await
}

/// End a tenant's guest, process or connection. Unless it is revoked it may come back.
#[utoipa::path(post, path = "/v1/tenants/{name}/kill", tag = "tenants",
    params(("name" = String, Path, description = "The tenant")),
    responses((status = 202, description = "Its end has begun"), (status = 404, body = Problem)))]
pub(super) async fn kill(
    State(daemon): State<Arc<Daemon>>,
    Extension(by): Extension<Operator>,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    aside(move || daemon.kill(by, &name)).await??;
    Ok(StatusCode::ACCEPTED)
}

/// Take one session away; the tenant may open others.
#[utoipa::path(delete, path = "/v1/tenants/{name}/sessions/{number}", tag = "tenants",
    params(("name" = String, Path, description = "The tenant"),
           ("number" = u64, Path, description = "The session")),
    responses((status = 204), (status = 404, body = Problem)))]
pub(super) async fn revoke_session(
    State(daemon): State<Arc<Daemon>>,
    Extension(by): Extension<Operator>,
    Path((name, number)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let number = number.parse().map_err(|_| {
        let fix = "write the number that GET /v1/tenants/{name}/sessions gives";
        Problem::new(StatusCode::BAD_REQUEST, "no-number", "a session is a number", fix)
    })?;
    order(daemon, by, name, Order::RevokeSession(number)).await
}
