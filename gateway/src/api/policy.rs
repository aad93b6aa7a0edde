//! What lines may be used for: documents, previews, overrides, holds, holidays, reports.

use super::{Asked, Json, Me, Outcome, Path, Problem, Why, named};
use crate::access::Caller;
use crate::admin::policy::OverrideLine;
use crate::admin::{Answer, Bending, PolicyAnswer, PolicyRequest, Request, Signature};
use crate::policies::preview::Preview;
use crate::policies::report::LineReport;
use crate::policies::{self, ChangeError, preview};
use crate::web::{Web, blocking};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Sites of one change at most.
const MAX_SITES: usize = 1000;

pub(super) fn routes() -> OpenApiRouter<Arc<Web>> {
    OpenApiRouter::new()
        .routes(routes!(show, set))
        .routes(routes!(set_many))
        .routes(routes!(schedule_many))
        .routes(routes!(version))
        .routes(routes!(shown))
        .routes(routes!(check))
        .routes(routes!(overrides, bend))
        .routes(routes!(end_override))
        .routes(routes!(hold, release))
        .routes(routes!(holidays))
        .routes(routes!(line_report))
        .routes(routes!(line_report_csv))
}

/// A version of a site's policy.
#[derive(Serialize, ToSchema)]
pub(crate) struct PolicyDocument {
    /// The site.
    pub(crate) site: String,
    /// The version.
    pub(crate) version: u64,
    /// When it was made, seconds since 1970.
    pub(crate) made: u64,
    /// Who made it.
    pub(crate) actor: String,
    /// Why.
    pub(crate) reason: String,
    /// The document, TOML.
    pub(crate) document: String,
}

/// Another document.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewPolicy {
    /// TOML; its `version` is not believed and may be missing.
    document: String,
    /// Why.
    reason: String,
}

/// A document for several sites.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewPolicies {
    /// The tenant.
    tenant: String,
    /// Its sites, by name.
    sites: Vec<String>,
    /// TOML.
    document: String,
    /// Why.
    reason: String,
}

/// A document to be looked at.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Draft {
    /// TOML.
    document: String,
    /// How many days, 1 to 400; 14 unless said otherwise.
    days: Option<u16>,
    /// The first date, as `2026-11-23`; today unless said otherwise.
    from: Option<String>,
}

/// Which days.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Days {
    /// How many, 1 to 400; 14 unless said otherwise.
    days: Option<u16>,
    /// The first date, as `2026-11-23`; today unless said otherwise.
    from: Option<String>,
}

/// Which month.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Month {
    /// As `2026-11`.
    month: String,
}

/// How an override bends the schedule.
#[derive(Deserialize, ToSchema)]
#[serde(tag = "bend", rename_all = "kebab-case", deny_unknown_fields)]
enum Wanted {
    /// Nothing is sent.
    Pause(When),
    /// Another rate.
    Boost {
        /// The rate, as `2 Mbit/s`; `unlimited` for the line's cap.
        rate: String,
        /// Also in blackouts. The owner of the line has to agree.
        #[serde(default)]
        pierce: bool,
        /// When, for what and why.
        #[serde(flatten)]
        when: When,
    },
    /// A volume is served with another class.
    Class {
        /// `critical`, `normal` or `bulk`.
        class: String,
        /// When, for what and why.
        #[serde(flatten)]
        when: When,
    },
    /// A volume has another weight within its class.
    Weight {
        /// 1 to 1000.
        weight: u32,
        /// When, for what and why.
        #[serde(flatten)]
        when: When,
    },
}

/// When, for what and why.
#[derive(Deserialize, ToSchema)]
struct When {
    /// From when on: `19:30` or `2026-11-24 19:30` of the site's clock, or an instant with its zone; at once unless said otherwise.
    from: Option<String>,
    /// Until when, likewise.
    until: Option<String>,
    /// For how many seconds, in the place of `until`.
    seconds: Option<u64>,
    /// For one volume only.
    volume: Option<String>,
    /// Why.
    reason: String,
}

/// Overrides in force and to come, and the hold.
#[derive(Serialize, ToSchema)]
struct Overrides {
    /// The overrides.
    overrides: Vec<OverrideLine>,
    /// Who holds the site and why.
    hold: Option<Signature>,
}

/// A calendar.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Calendar {
    /// iCalendar, at most 1 MiB.
    calendar: String,
    /// Why.
    reason: String,
}

/// The policy in force of a site. Its version is the `ETag`.
#[utoipa::path(get, path = "/sites/{tenant}/{site}/policy", tag = "policy", security(("session" = ["see"]), ("token" = ["see"])),
    params(("tenant" = String, Path), ("site" = String, Path)),
    responses((status = 200, body = PolicyDocument), (status = 401, body = Problem), (status = 404, body = Problem)))]
async fn show(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path((tenant, site)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let document = document(&web, &caller, named(&tenant, &site)?, None).await?;
    let tag = HeaderValue::from_str(&format!("\"v{}\"", document.version)).expect("a number is ASCII");
    Ok(([(header::ETAG, tag)], Json(document)).into_response())
}

/// One version of a site's policy.
#[utoipa::path(get, path = "/sites/{tenant}/{site}/policy/versions/{version}", tag = "policy", security(("session" = ["see"]), ("token" = ["see"])),
    params(("tenant" = String, Path), ("site" = String, Path), ("version" = u64, Path)),
    responses((status = 200, body = PolicyDocument), (status = 401, body = Problem), (status = 404, body = Problem)))]
async fn version(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path((tenant, site, version)): Path<(String, String, u64)>,
) -> Result<Json<PolicyDocument>, Problem> {
    Ok(Json(document(&web, &caller, named(&tenant, &site)?, Some(version)).await?))
}

pub(crate) async fn document(
    web: &Web,
    caller: &Caller,
    site: String,
    version: Option<u64>,
) -> Result<PolicyDocument, Problem> {
    match asked(web, caller, PolicyRequest::Show { site, version }).await? {
        PolicyAnswer::Document { site, version, made, actor, reason, document } => {
            Ok(PolicyDocument { site, version, made: made.0 / 1000, actor, reason, document })
        }
        _ => Err(unexpected()),
    }
}

/// Puts another document in the place of the one in force. `If-Match` names the version that it was written for; `If-None-Match: *` where there is none.
#[utoipa::path(put, path = "/sites/{tenant}/{site}/policy", tag = "policy", request_body = NewPolicy, security(("session" = ["operate"]), ("token" = ["operate"])),
    params(("tenant" = String, Path), ("site" = String, Path), ("If-Match" = Option<String>, Header), ("If-None-Match" = Option<String>, Header)),
    responses((status = 200, body = Outcome), (status = 202, body = Outcome, description = "A second person has to agree"), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 412, body = Problem), (status = 422, body = Problem), (status = 428, body = Problem)))]
async fn set(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path((tenant, site)): Path<(String, String)>,
    headers: HeaderMap,
    Json(new): Json<NewPolicy>,
) -> Result<Response, Problem> {
    let request = PolicyRequest::Set {
        site: Some(named(&tenant, &site)?),
        all_of: None,
        sites: Vec::new(),
        document: new.document,
        expected: Some(expected(&headers)?),
        author: by(&caller, new.reason),
    };
    changed(&web, &caller, request).await
}

/// Puts a document in the place of those in force at several sites: all of them change, or none.
#[utoipa::path(post, path = "/policies", tag = "policy", request_body = NewPolicies, security(("session" = ["operate"]), ("token" = ["operate"])),
    responses((status = 200, body = Outcome), (status = 202, body = Outcome, description = "A second person has to agree"), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 422, body = Problem)))]
async fn set_many(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Json(new): Json<NewPolicies>,
) -> Result<Response, Problem> {
    let (sites, author) = (sites_of(&new)?, by(&caller, new.reason));
    let request =
        PolicyRequest::Set { site: None, all_of: None, sites, document: new.document, expected: None, author };
    changed(&web, &caller, request).await
}

/// Puts the schedule of a document (profiles, grid, holidays, exceptions, blackouts) in the place of those of several sites, each of which keeps its own line,
/// zone, quotas and volumes: all of them change, or none.
#[utoipa::path(post, path = "/policies/schedule", tag = "policy", request_body = NewPolicies, security(("session" = ["operate"]), ("token" = ["operate"])),
    responses((status = 200, body = Outcome), (status = 202, body = Outcome, description = "A second person has to agree"), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 422, body = Problem)))]
async fn schedule_many(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Json(new): Json<NewPolicies>,
) -> Result<Response, Problem> {
    let (sites, author) = (sites_of(&new)?, by(&caller, new.reason));
    changed(&web, &caller, PolicyRequest::Schedule { sites, document: new.document, author }).await
}

fn sites_of(new: &NewPolicies) -> Result<Vec<String>, Problem> {
    if new.sites.is_empty() || new.sites.len() > MAX_SITES {
        return Err(Problem::invalid(format!("`sites` names 1 to {MAX_SITES} sites")));
    }
    new.sites.iter().map(|site| named(&new.tenant, site)).collect()
}

/// What a site's policy means, day by day.
#[utoipa::path(get, path = "/sites/{tenant}/{site}/preview", tag = "policy", security(("session" = ["see"]), ("token" = ["see"])),
    params(("tenant" = String, Path), ("site" = String, Path), Days),
    responses((status = 200, body = Preview), (status = 401, body = Problem), (status = 404, body = Problem), (status = 422, body = Problem)))]
async fn shown(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path((tenant, site)): Path<(String, String)>,
    Asked(days): Asked<Days>,
) -> Result<Json<Preview>, Problem> {
    let site = named(&tenant, &site)?;
    let request = PolicyRequest::Preview { site, days: days.days.unwrap_or(14), from: days.from };
    match asked(&web, &caller, request).await? {
        PolicyAnswer::Preview { preview } => Ok(Json(preview)),
        _ => Err(unexpected()),
    }
}

/// Checks a document that is in force nowhere, and says what it means.
#[utoipa::path(post, path = "/policy/preview", tag = "policy", request_body = Draft, security(("session" = ["see"]), ("token" = ["see"])),
    responses((status = 200, body = Preview), (status = 401, body = Problem), (status = 422, body = Problem)))]
async fn check(
    State(web): State<Arc<Web>>,
    Me(_caller): Me,
    Json(draft): Json<Draft>,
) -> Result<Json<Preview>, Problem> {
    let now = policies::timestamp(web.state.now());
    let shown = blocking(move || {
        let policy = policies::check(&draft.document, now)?;
        let first = preview::first_day(draft.from.as_deref(), &policy.zone, now)?;
        Ok::<_, ChangeError>(preview::preview(&policy, first, draft.days.unwrap_or(14))?)
    });
    Ok(Json(shown.await.map_err(crate::admin::AdminError::from)?))
}

/// The overrides of a site in force and to come, and its hold.
#[utoipa::path(get, path = "/sites/{tenant}/{site}/overrides", tag = "policy", security(("session" = ["see"]), ("token" = ["see"])),
    params(("tenant" = String, Path), ("site" = String, Path)),
    responses((status = 200, body = Overrides), (status = 401, body = Problem), (status = 404, body = Problem)))]
async fn overrides(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path((tenant, site)): Path<(String, String)>,
) -> Result<Json<Overrides>, Problem> {
    match asked(&web, &caller, PolicyRequest::Overrides { site: named(&tenant, &site)? }).await? {
        PolicyAnswer::Overrides { overrides, hold } => Ok(Json(Overrides { overrides, hold })),
        _ => Err(unexpected()),
    }
}

/// Bends a site's schedule for a while.
#[utoipa::path(post, path = "/sites/{tenant}/{site}/overrides", tag = "policy", request_body = Wanted, security(("session" = ["operate"]), ("token" = ["operate"])),
    params(("tenant" = String, Path), ("site" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Outcome), (status = 202, body = Outcome, description = "A second person has to agree"), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 422, body = Problem)))]
async fn bend(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path((tenant, site)): Path<(String, String)>,
    Json(wanted): Json<Wanted>,
) -> Result<Response, Problem> {
    let (bend, when) = match wanted {
        Wanted::Pause(when) => (Bending::Pause, when),
        Wanted::Boost { rate, pierce, when } => (Bending::Boost { rate, pierce }, when),
        Wanted::Class { class, when } => (Bending::Class(class), when),
        Wanted::Weight { weight, when } => (Bending::Weight(weight), when),
    };
    let author = by(&caller, when.reason);
    let (from, until, seconds, volume) = (filled(when.from), filled(when.until), when.seconds, filled(when.volume));
    let site = named(&tenant, &site)?;
    changed(&web, &caller, PolicyRequest::Bend { site, bend, from, until, seconds, volume, author }).await
}

/// Ends an override before its time.
#[utoipa::path(delete, path = "/sites/{tenant}/{site}/overrides/{id}", tag = "policy", request_body = Why, security(("session" = ["operate"]), ("token" = ["operate"])),
    params(("tenant" = String, Path), ("site" = String, Path), ("id" = u64, Path)),
    responses((status = 200, body = Outcome), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 422, body = Problem)))]
async fn end_override(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path((tenant, site, id)): Path<(String, String, u64)>,
    Json(why): Json<Why>,
) -> Result<Response, Problem> {
    let (site, author) = (named(&tenant, &site)?, by(&caller, why.reason));
    changed(&web, &caller, PolicyRequest::EndOverride { site, id, author }).await
}

/// Stops everything at a site until it is released.
#[utoipa::path(put, path = "/sites/{tenant}/{site}/hold", tag = "policy", request_body = Why, security(("session" = ["operate"]), ("token" = ["operate"])),
    params(("tenant" = String, Path), ("site" = String, Path)),
    responses((status = 200, body = Outcome), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn hold(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path((tenant, site)): Path<(String, String)>,
    Json(why): Json<Why>,
) -> Result<Response, Problem> {
    let (site, author) = (named(&tenant, &site)?, by(&caller, why.reason));
    changed(&web, &caller, PolicyRequest::Hold { site, author }).await
}

/// Ends a hold.
#[utoipa::path(delete, path = "/sites/{tenant}/{site}/hold", tag = "policy", request_body = Why, security(("session" = ["operate"]), ("token" = ["operate"])),
    params(("tenant" = String, Path), ("site" = String, Path)),
    responses((status = 200, body = Outcome), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn release(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path((tenant, site)): Path<(String, String)>,
    Json(why): Json<Why>,
) -> Result<Response, Problem> {
    let (site, author) = (named(&tenant, &site)?, by(&caller, why.reason));
    changed(&web, &caller, PolicyRequest::Release { site, author }).await
}

/// Takes days off and make-up working days from a calendar.
#[utoipa::path(post, path = "/sites/{tenant}/{site}/holidays", tag = "policy", request_body = Calendar, security(("session" = ["operate"]), ("token" = ["operate"])),
    params(("tenant" = String, Path), ("site" = String, Path)),
    responses((status = 200, body = Outcome), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 422, body = Problem)))]
async fn holidays(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path((tenant, site)): Path<(String, String)>,
    Json(given): Json<Calendar>,
) -> Result<Response, Problem> {
    let (site, author) = (named(&tenant, &site)?, by(&caller, given.reason));
    changed(&web, &caller, PolicyRequest::Holidays { site, calendar: given.calendar, author }).await
}

/// A month of a line, for whoever owns it.
#[utoipa::path(get, path = "/sites/{tenant}/{site}/report", tag = "policy", security(("session" = ["see"]), ("token" = ["see"])),
    params(("tenant" = String, Path), ("site" = String, Path), Month),
    responses((status = 200, body = LineReport), (status = 400, body = Problem), (status = 401, body = Problem), (status = 404, body = Problem), (status = 422, body = Problem)))]
async fn line_report(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path((tenant, site)): Path<(String, String)>,
    Asked(Month { month }): Asked<Month>,
) -> Result<Json<LineReport>, Problem> {
    Ok(Json(report(&web, &caller, named(&tenant, &site)?, month).await?))
}

/// The days of a month of a line as CSV, for spreadsheets.
#[utoipa::path(get, path = "/sites/{tenant}/{site}/report.csv", tag = "policy", security(("session" = ["see"]), ("token" = ["see"])),
    params(("tenant" = String, Path), ("site" = String, Path), Month),
    responses((status = 200, content_type = "text/csv", body = String), (status = 400, body = Problem), (status = 401, body = Problem), (status = 404, body = Problem), (status = 422, body = Problem)))]
async fn line_report_csv(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path((tenant, site)): Path<(String, String)>,
    Asked(Month { month }): Asked<Month>,
) -> Result<Response, Problem> {
    let report = report(&web, &caller, named(&tenant, &site)?, month).await?;
    let text = crate::admin::policy::render::report_csv(&report);
    // Names hold letters, digits, `-`, `_` and `.` only (`check_name`), and the month was read as one.
    let name = format!("attachment; filename=\"{}-{}.csv\"", report.site, report.month);
    let name = HeaderValue::from_str(&name).unwrap_or(HeaderValue::from_static("attachment"));
    let media = HeaderValue::from_static("text/csv; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, media), (header::CONTENT_DISPOSITION, name)], text).into_response())
}

pub(crate) async fn report(web: &Web, caller: &Caller, site: String, month: String) -> Result<LineReport, Problem> {
    match asked(web, caller, PolicyRequest::Report { site, month }).await? {
        PolicyAnswer::Report { report } => Ok(report),
        _ => Err(unexpected()),
    }
}

async fn asked(web: &Web, caller: &Caller, request: PolicyRequest) -> Result<PolicyAnswer, Problem> {
    match web.ask(caller, Request::Policy(request)).await? {
        Answer::Policy(answer) => Ok(answer),
        _ => Err(unexpected()),
    }
}

async fn changed(web: &Web, caller: &Caller, request: PolicyRequest) -> Result<Response, Problem> {
    Ok(Outcome::of(web.ask(caller, Request::Policy(request)).await?))
}

/// The version that a document was written for.
fn expected(headers: &HeaderMap) -> Result<u64, Problem> {
    if headers.get(header::IF_NONE_MATCH).is_some_and(|value| value == "*") {
        return Ok(0);
    }
    let tag = headers.get(header::IF_MATCH).ok_or_else(Problem::precondition)?;
    let number = tag.to_str().ok().and_then(|tag| tag.strip_prefix("\"v")?.strip_suffix('"')?.parse().ok());
    number
        .ok_or_else(|| Problem::invalid("`If-Match` is no ETag of a policy: send the one that you got, as in `\"v7\"`"))
}

fn by(caller: &Caller, reason: String) -> Signature {
    Signature { actor: caller.name.clone(), reason }
}

/// What a form leaves empty was not said.
fn filled(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.trim().is_empty())
}

fn unexpected() -> Problem {
    Problem::failed("the gateway answered something else than was asked for")
}
