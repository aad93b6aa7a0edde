//! Releases of the appliance's system, and what sites run.

mod upload;

use super::people::unexpected;
use super::{Asked, Json, Me, Outcome, PageOf, Part, Path, Problem, jobs, named};
use crate::access::{Caller, Right};
use crate::admin::{Answer, ReleaseAnswer, ReleaseLine, ReleaseRequest, Request, VersionLine};
use crate::jobs::JobView;
use crate::releases::history::Entry;
use crate::web::Web;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<Arc<Web>> {
    OpenApiRouter::new()
        .routes(routes!(list, import))
        .routes(routes!(one, remove))
        .routes(routes!(appliances))
        .routes(routes!(appliance))
}

/// A release with what its maker signed.
#[derive(Serialize, ToSchema)]
struct SignedRelease {
    /// The release.
    release: ReleaseLine,
    /// Its manifest's file, as it was signed.
    manifest: String,
}

/// What a site runs, and ran.
#[derive(Serialize, ToSchema)]
struct SiteVersions {
    /// What it runs.
    appliance: VersionLine,
    /// What became of other versions there, newest first, at most 50.
    history: Vec<Entry>,
}

/// Releases, newest first.
#[utoipa::path(get, path = "/releases", tag = "releases", params(PageOf), security(("session" = ["see"]), ("token" = ["see"])),
    responses((status = 200, body = Part<ReleaseLine>), (status = 401, body = Problem), (status = 422, body = Problem)))]
async fn list(State(web): State<Arc<Web>>, Me(caller): Me, Asked(page): Asked<PageOf>) -> Result<Response, Problem> {
    Ok(Json(page.take(release_lines(&web, &caller).await?)?).into_response())
}

pub(crate) async fn release_lines(web: &Web, caller: &Caller) -> Result<Vec<ReleaseLine>, Problem> {
    match ask(web, caller, ReleaseRequest::List).await? {
        ReleaseAnswer::List { releases } => Ok(releases),
        _ => Err(unexpected()),
    }
}

/// Takes a release in. The body is its bundle (`NAME.sluice-release`), sent without an `Idempotency-Key`: a release that is here already is refused. What becomes
/// of it is a job's: signature and image are checked once all of it is here, and nothing is kept of one that is not as signed.
#[utoipa::path(post, path = "/releases", tag = "releases", request_body(content = Vec<u8>, content_type = "application/octet-stream"), security(("session" = ["operate"]), ("token" = ["operate"])),
    responses((status = 202, body = JobView), (status = 401, body = Problem), (status = 403, body = Problem), (status = 408, body = Problem), (status = 413, body = Problem), (status = 422, body = Problem), (status = 429, body = Problem)))]
async fn import(State(web): State<Arc<Web>>, Me(caller): Me, body: Body) -> Result<Response, Problem> {
    caller.require(Right::Operate, None)?;
    let sent = upload::take(&web, body).await?;
    let file = sent.path().to_owned();
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let request = Request::Release(ReleaseRequest::Import { file, uploaded: true });
    let begun = jobs::accepted(&web, &caller, ("release.import", name, None), request)?;
    sent.keep(); // the job removes it
    Ok(begun)
}

/// One release.
#[utoipa::path(get, path = "/releases/{release}", tag = "releases", security(("session" = ["see"]), ("token" = ["see"])),
    params(("release" = String, Path, description = "Its version, or the beginning of its root hash")),
    responses((status = 200, body = SignedRelease), (status = 401, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn one(State(web): State<Arc<Web>>, Me(caller): Me, Path(release): Path<String>) -> Result<Response, Problem> {
    match ask(&web, &caller, ReleaseRequest::Show { release }).await? {
        ReleaseAnswer::Shown { line, manifest } => Ok(Json(SignedRelease { release: line, manifest }).into_response()),
        _ => Err(unexpected()),
    }
}

/// Forgets a release that no roll-out uses and no site runs.
#[utoipa::path(delete, path = "/releases/{release}", tag = "releases", security(("session" = ["operate"]), ("token" = ["operate"])),
    params(("release" = String, Path, description = "Its version, or the beginning of its root hash")),
    responses((status = 200, body = Outcome), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn remove(State(web): State<Arc<Web>>, Me(caller): Me, Path(release): Path<String>) -> Result<Response, Problem> {
    Ok(Outcome::of(web.ask(&caller, Request::Release(ReleaseRequest::Remove { release })).await?))
}

/// What each site runs, of those that said so, by tenant and name.
#[utoipa::path(get, path = "/appliances", tag = "releases", params(PageOf), security(("session" = ["see"]), ("token" = ["see"])),
    responses((status = 200, body = Part<VersionLine>), (status = 401, body = Problem), (status = 422, body = Problem)))]
async fn appliances(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Asked(page): Asked<PageOf>,
) -> Result<Response, Problem> {
    Ok(Json(page.take(version_lines(&web, &caller).await?)?).into_response())
}

pub(crate) async fn version_lines(web: &Web, caller: &Caller) -> Result<Vec<VersionLine>, Problem> {
    match ask(web, caller, ReleaseRequest::Versions).await? {
        ReleaseAnswer::Versions { sites } => Ok(sites),
        _ => Err(unexpected()),
    }
}

/// What a site runs, and what became of other versions there.
#[utoipa::path(get, path = "/sites/{tenant}/{site}/appliance", tag = "releases", security(("session" = ["see"]), ("token" = ["see"])),
    params(("tenant" = String, Path), ("site" = String, Path)),
    responses((status = 200, body = SiteVersions), (status = 401, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn appliance(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path((tenant, site)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let (appliance, history) = site_versions(&web, &caller, named(&tenant, &site)?).await?;
    Ok(Json(SiteVersions { appliance, history }).into_response())
}

pub(crate) async fn site_versions(
    web: &Web,
    caller: &Caller,
    site: String,
) -> Result<(VersionLine, Vec<Entry>), Problem> {
    match ask(web, caller, ReleaseRequest::Site { site }).await? {
        ReleaseAnswer::Site { line, history } => Ok((line, history)),
        _ => Err(unexpected()),
    }
}

async fn ask(web: &Web, caller: &Caller, request: ReleaseRequest) -> Result<ReleaseAnswer, Problem> {
    match web.ask(caller, Request::Release(request)).await? {
        Answer::Release(answer) => Ok(answer),
        _ => Err(unexpected()),
    }
}
