//! Long work, with progress.

use super::{Asked, Json, Me, PageOf, Part, Path, Problem};
use crate::access::{Caller, Right};
use crate::admin::Request;
use crate::jobs::{Following, JobView};
use crate::web::Web;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Progress is told this often at most: smooth for people, and no flood.
const TELL_EVERY: Duration = Duration::from_millis(500);
/// A comment on a quiet stream.
const QUIET: Duration = Duration::from_secs(15);

pub(super) fn routes() -> OpenApiRouter<Arc<Web>> {
    OpenApiRouter::new().routes(routes!(list, begin)).routes(routes!(one, cancel)).routes(routes!(events))
}

/// Work on the whole gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(tag = "job", rename_all = "kebab-case", deny_unknown_fields)]
enum Wanted {
    /// Give back what no generation needs.
    Gc,
    /// Read everything stored and name what is damaged.
    Scrub,
}

/// All jobs since the gateway's start, newest first.
#[utoipa::path(get, path = "/jobs", tag = "jobs", params(PageOf), security(("session" = ["see"]), ("token" = ["see"])),
    responses((status = 200, body = Part<JobView>), (status = 401, body = Problem), (status = 422, body = Problem)))]
async fn list(State(web): State<Arc<Web>>, Me(caller): Me, Asked(page): Asked<PageOf>) -> Result<Response, Problem> {
    let jobs = web.jobs.seen_by(&caller);
    Ok(Json(page.take(jobs.iter().map(|job| job.view()).collect())?).into_response())
}

/// Begins work on the whole gateway.
#[utoipa::path(post, path = "/jobs", tag = "jobs", request_body = Wanted, security(("session" = ["administer"]), ("token" = ["administer"])),
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = JobView), (status = 401, body = Problem), (status = 403, body = Problem), (status = 422, body = Problem), (status = 429, body = Problem)))]
async fn begin(State(web): State<Arc<Web>>, Me(caller): Me, Json(wanted): Json<Wanted>) -> Result<Response, Problem> {
    caller.require(Right::Administer, None)?;
    let (what, request) = match wanted {
        Wanted::Gc => ("gateway.gc", Request::Gc { plan: false }),
        Wanted::Scrub => ("gateway.scrub", Request::Scrub),
    };
    accepted(&web, &caller, (what, String::new(), None), request)
}

/// One job.
#[utoipa::path(get, path = "/jobs/{number}", tag = "jobs", security(("session" = ["see"]), ("token" = ["see"])), params(("number" = u64, Path)),
    responses((status = 200, body = JobView), (status = 401, body = Problem), (status = 404, body = Problem)))]
async fn one(State(web): State<Arc<Web>>, Me(caller): Me, Path(number): Path<u64>) -> Result<Json<JobView>, Problem> {
    Ok(Json(web.jobs.of(number, &caller).ok_or_else(|| none(number))?.view()))
}

/// Stops a job at its next step.
#[utoipa::path(delete, path = "/jobs/{number}", tag = "jobs", security(("session" = ["operate"]), ("token" = ["operate"])), params(("number" = u64, Path)),
    responses((status = 202, body = JobView), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem)))]
async fn cancel(State(web): State<Arc<Web>>, Me(caller): Me, Path(number): Path<u64>) -> Result<Response, Problem> {
    let job = web.jobs.of(number, &caller).ok_or_else(|| none(number))?;
    caller.require(if job.tenant().is_some() { Right::Operate } else { Right::Administer }, job.tenant())?;
    job.cancel();
    Ok((StatusCode::ACCEPTED, Json(job.view())).into_response())
}

/// What becomes of a job, as server-sent events: `job` with the job at once, at each change, and when it is over; then the stream ends.
#[utoipa::path(get, path = "/jobs/{number}/events", tag = "jobs", security(("session" = ["see"]), ("token" = ["see"])), params(("number" = u64, Path)),
    responses((status = 200, content_type = "text/event-stream", body = String), (status = 401, body = Problem), (status = 404, body = Problem)))]
async fn events(State(web): State<Arc<Web>>, Me(caller): Me, Path(number): Path<u64>) -> Result<Response, Problem> {
    let following = web.jobs.of(number, &caller).ok_or_else(|| none(number))?.follow();
    let stop = web.stop.clone();
    let stream = futures_util::stream::unfold((following, true), move |(following, is_first)| {
        let stop = stop.clone();
        async move {
            tokio::select! {
                () = stop.cancelled() => None,
                said = told(following, is_first) => said,
            }
        }
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(QUIET)).into_response())
}

async fn told(mut following: Following, is_first: bool) -> Option<(Result<Event, Infallible>, (Following, bool))> {
    let view = if is_first {
        following.first()
    } else {
        tokio::time::sleep(TELL_EVERY).await;
        following.next().await?
    };
    let event = Event::default().event("job").json_data(view).ok()?;
    Some((Ok(event), (following, false)))
}

/// Begins a job about a volume of a tenant: 202, with the job and where it is found.
pub(super) fn begun(
    web: &Arc<Web>,
    caller: &Caller,
    (what, object, tenant): (&'static str, String, &str),
    request: Request,
) -> Result<Response, Problem> {
    let tenant = web.state.catalogue.find_tenant(tenant)?.id;
    caller.require(Right::Operate, Some(tenant))?;
    accepted(web, caller, (what, object, Some(tenant)), request)
}

pub(super) fn accepted(
    web: &Arc<Web>,
    caller: &Caller,
    subject: (&'static str, String, Option<dedupe::TenantId>),
    request: Request,
) -> Result<Response, Problem> {
    let job = web.jobs.begin(&web.admin, caller, subject, request).map_err(|busy| Problem::busy(busy.to_string()))?;
    let place = format!("/api/v1/jobs/{}", job.number());
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, place)], Json(job.view())).into_response())
}

fn none(number: u64) -> Problem {
    Problem::missing(format!("there is no job {number}: jobs are forgotten when the gateway restarts"))
}
