//! Locks, and what is to be deleted.

use super::people::unexpected;
use super::{Asked, Json, Me, Outcome, PageOf, Part, Path, Problem, Why, named};
use crate::access::Caller;
use crate::admin::{Answer, LockLine, On, PendingLine, Request, RetentionAnswer, RetentionRequest, Term};
use crate::web::Web;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<Arc<Web>> {
    OpenApiRouter::new()
        .routes(routes!(locks, set_lock))
        .routes(routes!(extend_lock))
        .routes(routes!(release_lock))
        .routes(routes!(pending))
        .routes(routes!(cancel))
        .routes(routes!(forget))
        .routes(routes!(decommission))
}

/// A lock to be set, on a tenant, a site, a volume or a generation; for so many days, until a time, or without end.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewLock {
    /// The tenant.
    tenant: String,
    /// Only this site of it.
    site: Option<String>,
    /// Only this volume of the site.
    volume: Option<String>,
    /// Only this generation of the volume: `latest`, a number or an id.
    generation: Option<String>,
    /// So many days from the seal of each generation on.
    days: Option<u32>,
    /// Until this time, seconds since 1970.
    until: Option<u64>,
    /// Until it is taken off.
    forever: Option<bool>,
    /// Why.
    reason: String,
}

/// Another term for a lock.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewTerm {
    /// So many days from the seal of each generation on.
    days: Option<u32>,
    /// Until this time, seconds since 1970.
    until: Option<u64>,
    /// Until it is taken off.
    forever: Option<bool>,
    /// Why.
    reason: String,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Which {
    /// Also those that are over.
    all: Option<bool>,
}

fn term(days: Option<u32>, until: Option<u64>, forever: Option<bool>) -> Result<Option<Term>, Problem> {
    match (days, until, forever.unwrap_or(false)) {
        (Some(days), None, false) => Ok(Some(Term::Days(days))),
        (None, Some(until), false) => Ok(Some(Term::Until(until.saturating_mul(1000)))),
        (None, None, true) => Ok(Some(Term::Forever)),
        (None, None, false) => Ok(None),
        _ => Err(Problem::invalid("say one of `days`, `until` and `forever`")),
    }
}

fn needed(term: Option<Term>) -> Result<Term, Problem> {
    term.ok_or_else(|| Problem::invalid("say for how long: `days`, `until` or `forever`"))
}

/// Locks, newest first.
#[utoipa::path(get, path = "/retention/locks", tag = "retention", params(Which, PageOf), security(("session" = ["see"]), ("token" = ["see"])),
    responses((status = 200, body = Part<LockLine>), (status = 400, body = Problem), (status = 401, body = Problem), (status = 422, body = Problem)))]
async fn locks(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Asked(which): Asked<Which>,
    Asked(page): Asked<PageOf>,
) -> Result<Response, Problem> {
    Ok(Json(page.take(lock_lines(&web, &caller, which.all.unwrap_or(false)).await?)?).into_response())
}

pub(crate) async fn lock_lines(web: &Web, caller: &Caller, all: bool) -> Result<Vec<LockLine>, Problem> {
    match web.ask(caller, Request::Retention(RetentionRequest::Locks { all })).await? {
        Answer::Retention(RetentionAnswer::Locks { locks }) => Ok(locks),
        _ => Err(unexpected()),
    }
}

/// Sets a lock: what it holds cannot be deleted by anybody.
#[utoipa::path(post, path = "/retention/locks", tag = "retention", request_body = NewLock, security(("session" = ["operate"]), ("token" = ["operate"])),
    responses((status = 200, body = Outcome), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn set_lock(State(web): State<Arc<Web>>, Me(caller): Me, Json(new): Json<NewLock>) -> Result<Response, Problem> {
    let term = needed(term(new.days, new.until, new.forever)?)?;
    let part = |text: Option<String>| text.filter(|text| !text.is_empty());
    let on = match (part(new.site), part(new.volume), part(new.generation)) {
        (None, None, None) => On::Tenant { tenant: new.tenant },
        (Some(site), None, None) => On::Site { site: named(&new.tenant, &site)? },
        (Some(site), Some(volume), None) => On::Volume { volume: format!("{}/{volume}", named(&new.tenant, &site)?) },
        (Some(site), Some(volume), Some(generation)) => {
            On::Generation { volume: format!("{}/{volume}", named(&new.tenant, &site)?), generation }
        }
        _ => return Err(Problem::invalid("a volume needs its `site`, a generation its `volume`")),
    };
    ask(&web, &caller, RetentionRequest::Lock { on, term, reason: new.reason }).await
}

/// Makes a lock hold for longer.
#[utoipa::path(post, path = "/retention/locks/{number}/extend", tag = "retention", request_body = NewTerm, security(("session" = ["operate"]), ("token" = ["operate"])), params(("number" = u64, Path)),
    responses((status = 200, body = Outcome), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 422, body = Problem)))]
async fn extend_lock(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path(number): Path<u64>,
    Json(new): Json<NewTerm>,
) -> Result<Response, Problem> {
    let term = needed(term(new.days, new.until, new.forever)?)?;
    ask(&web, &caller, RetentionRequest::Extend { number, term, reason: new.reason }).await
}

/// Asks to take a lock off or, with a term, to shorten it: a second person has to agree, and then a delay passes.
#[utoipa::path(post, path = "/retention/locks/{number}/release", tag = "retention", request_body = NewTerm, security(("session" = ["operate"]), ("token" = ["operate"])), params(("number" = u64, Path)),
    responses((status = 202, body = Outcome), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn release_lock(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path(number): Path<u64>,
    Json(new): Json<NewTerm>,
) -> Result<Response, Problem> {
    let to = term(new.days, new.until, new.forever)?;
    ask(&web, &caller, RetentionRequest::Unlock { number, to, reason: new.reason }).await
}

/// What was agreed on and waits for its time, newest first.
#[utoipa::path(get, path = "/retention/pending", tag = "retention", params(Which, PageOf), security(("session" = ["see"]), ("token" = ["see"])),
    responses((status = 200, body = Part<PendingLine>), (status = 400, body = Problem), (status = 401, body = Problem), (status = 422, body = Problem)))]
async fn pending(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Asked(which): Asked<Which>,
    Asked(page): Asked<PageOf>,
) -> Result<Response, Problem> {
    Ok(Json(page.take(pending_lines(&web, &caller, which.all.unwrap_or(false)).await?)?).into_response())
}

pub(crate) async fn pending_lines(web: &Web, caller: &Caller, all: bool) -> Result<Vec<PendingLine>, Problem> {
    match web.ask(caller, Request::Retention(RetentionRequest::Pending { all })).await? {
        Answer::Retention(RetentionAnswer::Pending { pending }) => Ok(pending),
        _ => Err(unexpected()),
    }
}

/// Takes back what waits for its time.
#[utoipa::path(post, path = "/retention/pending/{number}/cancel", tag = "retention", request_body = Why, security(("session" = ["operate"]), ("token" = ["operate"])), params(("number" = u64, Path)),
    responses((status = 200, body = Outcome), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn cancel(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path(number): Path<u64>,
    Json(why): Json<Why>,
) -> Result<Response, Problem> {
    ask(&web, &caller, RetentionRequest::Cancel { number, reason: why.reason }).await
}

/// Asks to delete a generation: a second person has to agree, and then a delay passes.
#[utoipa::path(post, path = "/volumes/{tenant}/{site}/{volume}/generations/{number}/forget", tag = "retention", request_body = Why, security(("session" = ["operate"]), ("token" = ["operate"])),
    params(("tenant" = String, Path), ("site" = String, Path), ("volume" = String, Path), ("number" = u64, Path)),
    responses((status = 202, body = Outcome), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn forget(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path((tenant, site, volume, number)): Path<(String, String, String, u64)>,
    Json(why): Json<Why>,
) -> Result<Response, Problem> {
    let volume = format!("{}/{volume}", named(&tenant, &site)?);
    let request = RetentionRequest::Forget { volume, generation: number.to_string(), reason: why.reason };
    ask(&web, &caller, request).await
}

/// Asks to erase a site with all that was kept of it: a second person has to agree, its edge is refused from then on, a delay passes, and a proof is signed.
#[utoipa::path(post, path = "/sites/{tenant}/{site}/decommission", tag = "retention", request_body = Why, security(("session" = ["administer"]), ("token" = ["administer"])),
    params(("tenant" = String, Path), ("site" = String, Path)),
    responses((status = 202, body = Outcome), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn decommission(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path((tenant, site)): Path<(String, String)>,
    Json(why): Json<Why>,
) -> Result<Response, Problem> {
    ask(&web, &caller, RetentionRequest::Decommission { site: named(&tenant, &site)?, reason: why.reason }).await
}

async fn ask(web: &Web, caller: &Caller, request: RetentionRequest) -> Result<Response, Problem> {
    Ok(Outcome::of(web.ask(caller, Request::Retention(request)).await?))
}
