//! Targets: set up, tested, filled, kept at the latest; what is on its way there.

use super::folders;
use super::jobs::begun;
use super::people::unexpected;
use super::{Asked, Json, Me, Outcome, PageOf, Part, Path, Problem};
use crate::access::{Caller, Right};
use crate::admin::targets::{OrderLine, PointLine, RunLine, TargetLine};
use crate::admin::{AdminError, Answer, Request, TargetAnswer, TargetRequest};
use crate::catalogue::Tenant;
use crate::rehydrate::{Limits, Proof};
use crate::text::{parse_bytes, printable};
use crate::web::{Web, blocking};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use targets::Settings;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Runs that are listed at most: all that are kept.
const MOST_RUNS: usize = 10_000;

pub(super) fn routes() -> OpenApiRouter<Arc<Web>> {
    OpenApiRouter::new()
        .routes(routes!(list, add))
        .routes(routes!(one, remove))
        .routes(routes!(test))
        .routes(routes!(points))
        .routes(routes!(look))
        .routes(routes!(keep))
        .routes(routes!(rest, release))
        .routes(routes!(orders))
        .routes(routes!(runs))
        .routes(routes!(give_up))
}

/// A target that is to be set up. Holds no secret: credentials are named by where they come from.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewTarget {
    /// The tenant that it is for.
    tenant: String,
    /// Its name.
    name: String,
    /// What it is: its `kind`, and what that kind takes, as the guide says. Paths lie below the folders for targets of the gateway's configuration.
    settings: Map<String, Value>,
    /// Where its credentials come from: the path of a file below a folder for credentials of the gateway's configuration, `environment`, or nothing.
    credentials: Option<String>,
    /// A PEM file with authorities to trust besides the system's, below a folder for credentials.
    authorities: Option<String>,
    /// Bytes a second that are written at most, as `50 MB`.
    rate: Option<String>,
    /// Requests a second to the service at most.
    requests: Option<u32>,
    /// How what was written is proved: `all` is read back, what was `changed`, or that and a share of the rest, as `5%`. `all` unless said otherwise.
    proof: Option<String>,
    /// Points of a volume that are kept there, instead of as many as generations here.
    keep: Option<u32>,
}

/// What is to be kept at the latest.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Keep {
    /// The site.
    site: String,
    /// The volume; left out, or `*`: all volumes that the site has now.
    volume: Option<String>,
}

/// Whether an order rests.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Rest {
    /// Whether it rests.
    paused: bool,
}

/// All targets, by tenant and name.
#[utoipa::path(get, path = "/targets", tag = "targets", params(PageOf), security(("session" = ["see"]), ("token" = ["see"])),
    responses((status = 200, body = Part<TargetLine>), (status = 401, body = Problem), (status = 422, body = Problem)))]
async fn list(State(web): State<Arc<Web>>, Me(caller): Me, Asked(page): Asked<PageOf>) -> Result<Response, Problem> {
    Ok(Json(page.take(target_lines(&web, &caller).await?)?).into_response())
}

pub(crate) async fn target_lines(web: &Web, caller: &Caller) -> Result<Vec<TargetLine>, Problem> {
    match web.ask(caller, Request::Target(TargetRequest::List)).await? {
        Answer::Target(TargetAnswer::Targets { targets }) => Ok(targets),
        _ => Err(unexpected()),
    }
}

/// Sets a target up. Nothing is asked of it yet: `POST /targets/{tenant}/{target}/test` looks whether it can be used.
#[utoipa::path(post, path = "/targets", tag = "targets", request_body = NewTarget, security(("session" = ["administer"]), ("token" = ["administer"])),
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Outcome), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn add(State(web): State<Arc<Web>>, Me(caller): Me, Json(new): Json<NewTarget>) -> Result<Response, Problem> {
    let (asking, by) = (web.clone(), caller.clone());
    let request = blocking(move || wanted(&asking, &by, new)).await?;
    Ok(Outcome::of(web.ask(&caller, Request::Target(request)).await?))
}

/// What is asked for, once it may be from afar.
fn wanted(web: &Web, caller: &Caller, new: NewTarget) -> Result<TargetRequest, Problem> {
    let tenant = tenant_of(web, caller, &new.tenant)?;
    caller.require(Right::Administer, Some(tenant.id))?;
    // serde names fields and kinds here, and no values but where one is of the wrong type: so no value that was sent stands in the answer.
    let settings = settings(new.settings)?;
    let others = web.state.catalogue.targets()?;
    folders::settings_allowed(&web.config, &settings, &tenant, &others)?;
    let credentials = folders::credentials(&web.config, caller, &tenant, new.credentials.as_deref())?;
    let whole = caller.scope == crate::access::Scope::Whole;
    let authorities = new.authorities.filter(|path| !path.is_empty());
    let authorities = authorities.map(|path| folders::secret_file(&web.config, whole, &tenant, &path)).transpose()?;
    Ok(TargetRequest::Add {
        tenant: new.tenant,
        name: new.name,
        settings,
        credentials,
        authorities,
        limits: Limits {
            bytes_per_second: new.rate.as_deref().map(rate).transpose()?,
            requests_per_second: new.requests.map(|requests| at_least_one("requests", requests)).transpose()?,
        },
        proof: new.proof.as_deref().map(proof).transpose()?.unwrap_or_default(),
        keep: new.keep.map(|keep| at_least_one("keep", keep)).transpose()?,
    })
}

fn settings(given: Map<String, Value>) -> Result<Settings, Problem> {
    let kind = given.get("kind").and_then(Value::as_str).map(printable).unwrap_or_default();
    serde_json::from_value(Value::Object(given)).map_err(|error| {
        let said = error.to_string();
        // A value of the wrong type would be repeated, and somebody may have put a secret there.
        let said = if said.starts_with("invalid") { "a field has a value of the wrong type".to_owned() } else { said };
        let detail =
            format!("these are no settings of a target of kind `{kind}`: {said}; the guide has one of each kind");
        Problem { field: Some("settings".into()), ..Problem::invalid(detail) }
    })
}

fn rate(text: &str) -> Result<NonZeroU64, Problem> {
    let bytes = parse_bytes(text).map_err(|why| Problem { field: Some("rate".into()), ..Problem::invalid(why) })?;
    NonZeroU64::new(bytes).ok_or_else(|| {
        let why = "0 bytes a second would never end; leave `rate` out for no limit";
        Problem { field: Some("rate".into()), ..Problem::invalid(why) }
    })
}

pub(super) fn proof(text: &str) -> Result<Proof, Problem> {
    text.parse().map_err(|why: String| Problem { field: Some("proof".into()), ..Problem::invalid(why) })
}

fn at_least_one(field: &str, number: u32) -> Result<NonZeroU32, Problem> {
    NonZeroU32::new(number).ok_or_else(|| {
        let why = format!("`{field}` is at least 1; leave it out for no limit");
        Problem { field: Some(field.into()), ..Problem::invalid(why) }
    })
}

/// One target.
#[utoipa::path(get, path = "/targets/{tenant}/{target}", tag = "targets", security(("session" = ["see"]), ("token" = ["see"])),
    params(("tenant" = String, Path), ("target" = String, Path)),
    responses((status = 200, body = TargetLine), (status = 401, body = Problem), (status = 404, body = Problem)))]
async fn one(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path((tenant, target)): Path<(String, String)>,
) -> Result<Json<TargetLine>, Problem> {
    Ok(Json(target_line(&web, &caller, &tenant, &target).await?))
}

pub(crate) async fn target_line(web: &Web, caller: &Caller, tenant: &str, target: &str) -> Result<TargetLine, Problem> {
    let mut lines = target_lines(web, caller).await?.into_iter();
    let found = lines.find(|line| line.tenant == tenant && line.target == target);
    found.ok_or_else(|| AdminError::NoTarget(printable(target)).into())
}

/// Removes a target from the gateway. What it holds stays where it is.
#[utoipa::path(delete, path = "/targets/{tenant}/{target}", tag = "targets", security(("session" = ["administer"]), ("token" = ["administer"])),
    params(("tenant" = String, Path), ("target" = String, Path)),
    responses((status = 200, body = Outcome), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn remove(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path((tenant, target)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let target = full_name(&tenant, &target)?;
    Ok(Outcome::of(web.ask(&caller, Request::Target(TargetRequest::Remove { target })).await?))
}

/// Looks whether a target can be used: reached, allowed, with room. Begins a job.
#[utoipa::path(post, path = "/targets/{tenant}/{target}/test", tag = "targets", security(("session" = ["operate"]), ("token" = ["operate"])),
    params(("tenant" = String, Path), ("target" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = crate::jobs::JobView), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 429, body = Problem)))]
async fn test(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path((tenant, target)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let target = found(&web, &caller, &tenant, &target).await?;
    let request = TargetRequest::Test { target: target.clone() };
    begun(&web, &caller, (TEST, target, &tenant), Request::Target(request))
}

/// Word of a job that tests a target.
pub(crate) const TEST: &str = "target.test";
/// Word of a job that asks a target what it holds.
pub(crate) const LOOK: &str = "target.look";

/// The restorable points that a target holds, by volume, oldest first. The target is asked: this takes as long as it takes.
#[utoipa::path(get, path = "/targets/{tenant}/{target}/points", tag = "targets", security(("session" = ["operate"]), ("token" = ["operate"])),
    params(("tenant" = String, Path), ("target" = String, Path), PageOf),
    responses((status = 200, body = Part<PointLine>), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn points(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path((tenant, target)): Path<(String, String)>,
    Asked(page): Asked<PageOf>,
) -> Result<Response, Problem> {
    let target = full_name(&tenant, &target)?;
    match web.ask(&caller, Request::Target(TargetRequest::Points { target })).await? {
        Answer::Target(TargetAnswer::Points { points }) => Ok(Json(page.take(points)?).into_response()),
        _ => Err(unexpected()),
    }
}

/// Asks a target what it holds, for whoever looks at its page: begins a job.
#[utoipa::path(post, path = "/targets/{tenant}/{target}/look", tag = "targets", security(("session" = ["operate"]), ("token" = ["operate"])),
    params(("tenant" = String, Path), ("target" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = crate::jobs::JobView), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 429, body = Problem)))]
async fn look(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path((tenant, target)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let target = found(&web, &caller, &tenant, &target).await?;
    let request = TargetRequest::Points { target: target.clone() };
    begun(&web, &caller, (LOOK, target, &tenant), Request::Target(request))
}

// ---- orders

/// Keeps a target at the latest generation of a volume, or of all volumes that a site has now.
#[utoipa::path(post, path = "/targets/{tenant}/{target}/orders", tag = "targets", request_body = Keep, security(("session" = ["operate"]), ("token" = ["operate"])),
    params(("tenant" = String, Path), ("target" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Outcome), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 422, body = Problem)))]
async fn keep(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path((tenant, target)): Path<(String, String)>,
    Json(wanted): Json<Keep>,
) -> Result<Response, Problem> {
    let volume = volume_name(&tenant, &wanted.site, wanted.volume.as_deref().filter(|v| !v.is_empty()).unwrap_or("*"))?;
    let request = TargetRequest::Keep { target: full_name(&tenant, &target)?, volume };
    Ok(Outcome::of(web.ask(&caller, Request::Target(request)).await?))
}

/// Lets an order rest, or go on. `*` as volume: all of the site.
#[utoipa::path(put, path = "/targets/{tenant}/{target}/orders/{site}/{volume}", tag = "targets", request_body = Rest, security(("session" = ["operate"]), ("token" = ["operate"])),
    params(("tenant" = String, Path), ("target" = String, Path), ("site" = String, Path), ("volume" = String, Path)),
    responses((status = 200, body = Outcome), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 422, body = Problem)))]
async fn rest(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path((tenant, target, site, volume)): Path<(String, String, String, String)>,
    Json(wanted): Json<Rest>,
) -> Result<Response, Problem> {
    let (target, volume) = (full_name(&tenant, &target)?, volume_name(&tenant, &site, &volume)?);
    let request = TargetRequest::Pause { target, volume, paused: wanted.paused };
    Ok(Outcome::of(web.ask(&caller, Request::Target(request)).await?))
}

/// Keeps a target at the latest no more. What it holds stays. `*` as volume: all of the site.
#[utoipa::path(delete, path = "/targets/{tenant}/{target}/orders/{site}/{volume}", tag = "targets", security(("session" = ["operate"]), ("token" = ["operate"])),
    params(("tenant" = String, Path), ("target" = String, Path), ("site" = String, Path), ("volume" = String, Path)),
    responses((status = 200, body = Outcome), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem)))]
async fn release(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path((tenant, target, site, volume)): Path<(String, String, String, String)>,
) -> Result<Response, Problem> {
    let request =
        TargetRequest::Release { target: full_name(&tenant, &target)?, volume: volume_name(&tenant, &site, &volume)? };
    Ok(Outcome::of(web.ask(&caller, Request::Target(request)).await?))
}

/// What is kept at the latest, by volume and target.
#[utoipa::path(get, path = "/orders", tag = "targets", params(PageOf), security(("session" = ["see"]), ("token" = ["see"])),
    responses((status = 200, body = Part<OrderLine>), (status = 401, body = Problem), (status = 422, body = Problem)))]
async fn orders(State(web): State<Arc<Web>>, Me(caller): Me, Asked(page): Asked<PageOf>) -> Result<Response, Problem> {
    Ok(Json(page.take(order_lines(&web, &caller).await?)?).into_response())
}

pub(crate) async fn order_lines(web: &Web, caller: &Caller) -> Result<Vec<OrderLine>, Problem> {
    match web.ask(caller, Request::Target(TargetRequest::Orders)).await? {
        Answer::Target(TargetAnswer::Orders { orders }) => Ok(orders),
        _ => Err(unexpected()),
    }
}

// ---- runs

/// Runs, newest first.
#[utoipa::path(get, path = "/runs", tag = "targets", params(PageOf), security(("session" = ["see"]), ("token" = ["see"])),
    responses((status = 200, body = Part<RunLine>), (status = 401, body = Problem), (status = 422, body = Problem)))]
async fn runs(State(web): State<Arc<Web>>, Me(caller): Me, Asked(page): Asked<PageOf>) -> Result<Response, Problem> {
    Ok(Json(page.take(run_lines(&web, &caller).await?)?).into_response())
}

pub(crate) async fn run_lines(web: &Web, caller: &Caller) -> Result<Vec<RunLine>, Problem> {
    match web.ask(caller, Request::Target(TargetRequest::Runs { most: MOST_RUNS })).await? {
        Answer::Target(TargetAnswer::Runs { runs }) => Ok(runs),
        _ => Err(unexpected()),
    }
}

/// Gives a run up that is not over, and cleans its target of it: begins a job.
#[utoipa::path(delete, path = "/runs/{run}", tag = "targets", security(("session" = ["operate"]), ("token" = ["operate"])),
    params(("run" = String, Path)),
    responses((status = 202, body = crate::jobs::JobView), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 429, body = Problem)))]
async fn give_up(State(web): State<Arc<Web>>, Me(caller): Me, Path(run): Path<String>) -> Result<Response, Problem> {
    let (asking, by, wanted) = (web.clone(), caller.clone(), run.clone());
    let (tenant, found) = blocking(move || asking.admin.find_run(&by, &wanted)).await?;
    let image = &found.work.image;
    let object = format!("{}/{}/{}", tenant.name, image.site, image.volume);
    begun(&web, &caller, ("target.give-up", object, &tenant.name), Request::Target(TargetRequest::GiveUp { run }))
}

// ---- names

/// A target as requests name it.
pub(crate) fn full_name(tenant: &str, target: &str) -> Result<String, Problem> {
    match tenant.contains('/') || target.contains('/') {
        true => Err(AdminError::NoTarget(printable(target)).into()),
        false => Ok(format!("{tenant}/{target}")),
    }
}

/// The name of a target that the caller sees: what is not there is said before a job begins.
async fn found(web: &Arc<Web>, caller: &Caller, tenant: &str, target: &str) -> Result<String, Problem> {
    let (web, caller, name) = (web.clone(), caller.clone(), full_name(tenant, target)?);
    blocking(move || {
        web.admin.find_target(&caller, &name)?;
        Ok(name)
    })
    .await
}

/// A volume of an order; `*`: all of the site.
fn volume_name(tenant: &str, site: &str, volume: &str) -> Result<String, Problem> {
    super::volumes::full_name(tenant, site, volume)
}

/// A tenant that the caller sees.
fn tenant_of(web: &Web, caller: &Caller, name: &str) -> Result<Tenant, Problem> {
    let found = web.state.catalogue.tenants()?.into_iter().find(|tenant| tenant.name == name && caller.sees(tenant));
    Ok(found.ok_or_else(|| crate::catalogue::CatalogueError::NoTenant(printable(name)))?)
}
