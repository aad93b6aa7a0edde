//! Roll-outs: a release on its way to sites, in rings.

use super::people::unexpected;
use super::{Asked, Json, Me, PageOf, Part, Path, Problem, Why};
use crate::access::Caller;
use crate::admin::{Answer, Request, RingLine, RolloutAnswer, RolloutLine, RolloutRequest};
use crate::web::Web;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<Arc<Web>> {
    OpenApiRouter::new()
        .routes(routes!(list, start))
        .routes(routes!(one))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(cancel))
}

/// A roll-out to be begun.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewRollout {
    /// The release: its version, or the beginning of its root hash.
    release: String,
    /// Sites of the first ring, `TENANT/SITE`, from 1 to 10.
    first: Vec<String>,
    /// Sites of the second ring, up to 10; absent: up to ten are chosen, those that are connected first. Everybody else is the last ring.
    second: Option<Vec<String>>,
    /// Hours between the proof of a ring and the next, 24 unless said otherwise.
    soak_hours: Option<u32>,
    /// Why.
    reason: String,
}

/// Why a roll-out goes on, and how.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct GoOn {
    /// Whether sites that failed try again; otherwise it goes on without them.
    retry: Option<bool>,
    /// Why.
    reason: String,
}

/// A roll-out with its rings and sites.
#[derive(Serialize, ToSchema)]
pub(crate) struct RolloutView {
    /// The roll-out.
    pub(crate) rollout: RolloutLine,
    /// Its rings, the first first.
    pub(crate) rings: Vec<RingLine>,
}

/// Roll-outs, newest first.
#[utoipa::path(get, path = "/rollouts", tag = "releases", params(PageOf), security(("session" = ["see"]), ("token" = ["see"])),
    responses((status = 200, body = Part<RolloutLine>), (status = 401, body = Problem), (status = 422, body = Problem)))]
async fn list(State(web): State<Arc<Web>>, Me(caller): Me, Asked(page): Asked<PageOf>) -> Result<Response, Problem> {
    Ok(Json(page.take(rollout_lines(&web, &caller).await?)?).into_response())
}

pub(crate) async fn rollout_lines(web: &Web, caller: &Caller) -> Result<Vec<RolloutLine>, Problem> {
    match ask(web, caller, RolloutRequest::List).await? {
        RolloutAnswer::List { rollouts } => Ok(rollouts),
        RolloutAnswer::Shown { .. } => Err(unexpected()),
    }
}

/// Begins a roll-out: its first ring opens at once.
#[utoipa::path(post, path = "/rollouts", tag = "releases", request_body = NewRollout, security(("session" = ["operate"]), ("token" = ["operate"])),
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = RolloutView), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn start(State(web): State<Arc<Web>>, Me(caller): Me, Json(new): Json<NewRollout>) -> Result<Response, Problem> {
    let NewRollout { release, first, second, soak_hours, reason } = new;
    let second = second.filter(|sites| !sites.is_empty());
    shown(&web, &caller, RolloutRequest::Start { release, first, second, soak_hours, reason }).await
}

/// A roll-out with its rings and sites.
#[utoipa::path(get, path = "/rollouts/{number}", tag = "releases", security(("session" = ["see"]), ("token" = ["see"])), params(("number" = u64, Path)),
    responses((status = 200, body = RolloutView), (status = 401, body = Problem), (status = 404, body = Problem)))]
async fn one(State(web): State<Arc<Web>>, Me(caller): Me, Path(number): Path<u64>) -> Result<Response, Problem> {
    shown(&web, &caller, RolloutRequest::Show { number: Some(number) }).await
}

/// Holds the roll-out that runs: no further site begins.
#[utoipa::path(post, path = "/rollouts/{number}/pause", tag = "releases", request_body = Why, security(("session" = ["operate"]), ("token" = ["operate"])),
    params(("number" = u64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = RolloutView), (status = 401, body = Problem), (status = 403, body = Problem), (status = 409, body = Problem)))]
async fn pause(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path(number): Path<u64>,
    Json(why): Json<Why>,
) -> Result<Response, Problem> {
    shown(&web, &caller, RolloutRequest::Pause { number: Some(number), reason: why.reason }).await
}

/// Lets a roll-out go on that is paused, or that stopped by itself: after a look, with a reason.
#[utoipa::path(post, path = "/rollouts/{number}/resume", tag = "releases", request_body = GoOn, security(("session" = ["operate"]), ("token" = ["operate"])),
    params(("number" = u64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = RolloutView), (status = 401, body = Problem), (status = 403, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn resume(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path(number): Path<u64>,
    Json(how): Json<GoOn>,
) -> Result<Response, Problem> {
    let retry = how.retry.unwrap_or(false);
    shown(&web, &caller, RolloutRequest::Resume { number: Some(number), retry, reason: how.reason }).await
}

/// Ends a roll-out. What a site installs or tries already is for its appliance to decide.
#[utoipa::path(post, path = "/rollouts/{number}/cancel", tag = "releases", request_body = Why, security(("session" = ["operate"]), ("token" = ["operate"])),
    params(("number" = u64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = RolloutView), (status = 401, body = Problem), (status = 403, body = Problem), (status = 409, body = Problem)))]
async fn cancel(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path(number): Path<u64>,
    Json(why): Json<Why>,
) -> Result<Response, Problem> {
    shown(&web, &caller, RolloutRequest::Cancel { number: Some(number), reason: why.reason }).await
}

async fn shown(web: &Web, caller: &Caller, request: RolloutRequest) -> Result<Response, Problem> {
    let view = view(web, caller, request).await?;
    Ok(Json(view).into_response())
}

pub(crate) async fn view(web: &Web, caller: &Caller, request: RolloutRequest) -> Result<RolloutView, Problem> {
    match ask(web, caller, request).await? {
        RolloutAnswer::Shown { line, rings } => Ok(RolloutView { rollout: *line, rings }),
        RolloutAnswer::List { .. } => Err(unexpected()),
    }
}

async fn ask(web: &Web, caller: &Caller, request: RolloutRequest) -> Result<RolloutAnswer, Problem> {
    match web.ask(caller, Request::Rollout(request)).await? {
        Answer::Rollout(answer) => Ok(answer),
        _ => Err(unexpected()),
    }
}
