//! The API: everything that can be asked of a gateway, as JSON under `/api/v1`. Commands and pages ask for nothing else.
//!
//! ```text
//!   caller       who asks: a session's cookie with its word, or a bearer token
//!   problem      what went wrong, RFC 9457
//!   idempotency  a POST that is sent again is answered again, not done again
//!   session      signing in and out, the first account, one's own password
//!   sites        the fleet, a site, tokens for edges, events as they happen
//!   policy       documents, previews, overrides, holds, holidays, reports
//!   draft        schedules in the making: what a document and an edit of it come to
//!   volumes      volumes and generations: look, compare, verify, rehydrate
//!   targets      targets, what is kept there at the latest, what is on its way
//!   exports      generations as block devices
//!   domains      machines of libvirt on what targets hold
//!   folders      paths that are named from afar
//!   jobs         long work, with progress
//!   retention    locks, and what is to be deleted
//!   proofs       what the gateway states and signs
//!   releases     releases of the appliance's system, and what sites run
//!   rollouts     releases on their way to sites, in rings
//!   people       accounts, API tokens, approvals, audit log
//!   system       tenants, workers, grants, authorities, settings
//! ```
//!
//! What each asks for goes through [`Admin::handle_as`](crate::admin::Admin::handle_as), which checks rights, asks for a second person and writes the audit log; so does what commands ask for.

mod caller;
pub(crate) mod domains;
mod draft;
pub(crate) mod exports;
mod folders;
mod idempotency;
mod jobs;
pub(crate) mod people;
pub(crate) mod policy;
pub mod problem;
pub(crate) mod proofs;
pub(crate) mod releases;
pub(crate) mod retention;
pub(crate) mod rollouts;
mod session;
pub(crate) mod sites;
pub(crate) mod system;
pub(crate) mod targets;
pub(crate) mod volumes;

pub(crate) use caller::{Me, signed_in};
pub(crate) use idempotency::Idempotency;
pub use problem::Problem;

use crate::web::Web;
use axum::Router;
use axum::extract::{FromRequest, FromRequestParts, MatchedPath, Query, Request, State};
use axum::http::request::Parts;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::time::Instant;
use tracing::Instrument;
use utoipa::openapi::OpenApi as Document;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;

/// Entries of a page at most.
const MAX_PER_PAGE: u32 = 500;
/// Entries of a page, unless somebody asks for another number.
const PER_PAGE: u32 = 100;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Sluice gateway",
        version = "1",
        description = "Everything that can be asked of a gateway. Browsers sign in (`POST /session`) and send the word of their session in `X-CSRF-Token`; programs send `Authorization: Bearer sluice_…`. The scopes of an operation's security are the right that it takes. Errors are `application/problem+json`. A POST with an `Idempotency-Key` that is sent again within a day is answered again and not done again. Times are seconds since 1970 where nothing else is said."
    ),
    servers((url = "/api/v1")),
    components(schemas(Problem)),
    tags(
        (name = "session", description = "Signing in and out"),
        (name = "sites", description = "Sites and what they do"),
        (name = "policy", description = "What lines may be used for"),
        (name = "volumes", description = "Volumes and their generations"),
        (name = "targets", description = "Targets, what is kept there at the latest, and what is on its way there"),
        (name = "exports", description = "Generations as block devices, at once"),
        (name = "domains", description = "Machines of libvirt on what targets hold"),
        (name = "jobs", description = "Long work"),
        (name = "retention", description = "What may not be deleted, and what is to be"),
        (name = "proofs", description = "What the gateway states and signs for whoever asks later"),
        (name = "releases", description = "Releases of the appliance's system, what sites run, and roll-outs"),
        (name = "people", description = "Accounts, approvals, audit log"),
        (name = "system", description = "The gateway itself")
    )
)]
struct Api;

/// The routes of the API, and their description.
fn routes() -> OpenApiRouter<Arc<Web>> {
    OpenApiRouter::with_openapi(Api::openapi())
        .merge(session::routes())
        .merge(sites::routes())
        .merge(policy::routes())
        .merge(draft::routes())
        .merge(volumes::routes())
        .merge(targets::routes())
        .merge(exports::routes())
        .merge(domains::routes())
        .merge(jobs::routes())
        .merge(people::routes())
        .merge(retention::routes())
        .merge(proofs::routes())
        .merge(releases::routes())
        .merge(rollouts::routes())
        .merge(system::routes())
}

/// The API's description, OpenAPI 3.1.
pub fn document() -> Document {
    let (_, mut document) = routes().split_for_parts();
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(
        "session",
        SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::with_description(
            "__Host-sluice",
            "A session; requests that change something carry `X-CSRF-Token` too.",
        ))),
    );
    components.add_security_scheme(
        "token",
        SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("sluice_…").build()),
    );
    document
}

/// The API's description as it is checked in at `docs/api/openapi.json` and served at `/api/v1/openapi.json`.
pub fn described() -> String {
    document().to_pretty_json().expect("the description is plain JSON") + "\n"
}

/// The API, at `/api/v1`.
pub(crate) fn router(web: Arc<Web>) -> Router {
    let (router, _) = routes().split_for_parts();
    let described = axum::routing::get(|| async {
        static TEXT: std::sync::LazyLock<String> = std::sync::LazyLock::new(described);
        ([(axum::http::header::CONTENT_TYPE, "application/json")], TEXT.as_str())
    });
    let api = router
        .route("/openapi.json", described)
        .fallback(|| async {
            Problem::missing("there is nothing at this path; `/api/v1/openapi.json` says what there is")
        })
        .method_not_allowed_fallback(|| async {
            Problem::unreadable(
                axum::http::StatusCode::METHOD_NOT_ALLOWED,
                "this path does not know the method; `/api/v1/openapi.json` says what it knows",
            )
        })
        .layer(from_fn_with_state(web.clone(), idempotency::layer))
        .with_state(web.clone());
    Router::new().nest("/api/v1", api).layer(from_fn_with_state(web, counted))
}

/// Counts and times each request, and gives its log lines a number.
pub(crate) async fn counted(State(web): State<Arc<Web>>, request: Request, next: Next) -> Response {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
    let method = match request.method().as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE") => known.to_owned(),
        // Whoever asks chooses the method: it must not choose how many series there are.
        _ => "other".to_owned(),
    };
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let span = tracing::info_span!("request", number, %method, route);
    let begun = Instant::now();
    let mut response = next.run(request).instrument(span).await;
    web.metrics.timer(&method, &route).observe(begun.elapsed().as_secs_f64());
    web.metrics.requests.with_label_values(&[&method, &route, response.status().as_str()]).inc();
    if let Ok(number) = number.to_string().parse() {
        response.headers_mut().insert("x-request-id", number);
    }
    response
}

// ---- what handlers have in common

/// A JSON body. What cannot be read is a [`Problem`].
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Json<T>, Problem> {
        let parsed = axum::Json::<T>::from_request(request, state).await;
        parsed.map(|axum::Json(value)| Json(value)).map_err(|refused| {
            Problem::unreadable(refused.status(), format!("the body cannot be read: {}", refused.body_text()))
        })
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

/// Parts of a path. What cannot be read is a [`Problem`].
pub(crate) struct Path<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Path<T>, Problem> {
        let parsed = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        parsed.map(|axum::extract::Path(value)| Path(value)).map_err(|refused| Problem::missing(refused.body_text()))
    }
}

/// A query. What cannot be read is a [`Problem`].
pub(crate) struct Asked<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Asked<T>, Problem> {
        let parsed = Query::<T>::from_request_parts(parts, state).await;
        parsed.map(|Query(value)| Asked(value)).map_err(|refused| {
            Problem::unreadable(refused.status(), format!("the query cannot be read: {}", refused.body_text()))
        })
    }
}

/// Which part of a list is wanted.
#[derive(Clone, Copy, Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageOf {
    /// Which page, from 1.
    #[param(minimum = 1)]
    page: Option<u32>,
    /// Entries of a page, 100 unless said otherwise.
    #[param(minimum = 1, maximum = 500)]
    per_page: Option<u32>,
}

/// A part of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Part<T> {
    /// The entries of this page.
    pub(crate) items: Vec<T>,
    /// Which page it is, from 1.
    pub(crate) page: u32,
    /// Entries of a page.
    pub(crate) per_page: u32,
    /// Entries in all.
    pub(crate) total: usize,
}

impl PageOf {
    /// This part of a list.
    pub(crate) fn take<T>(self, all: Vec<T>) -> Result<Part<T>, Problem> {
        let (page, per_page) = (self.page.unwrap_or(1), self.per_page.unwrap_or(PER_PAGE));
        if page == 0 || !(1..=MAX_PER_PAGE).contains(&per_page) {
            return Err(Problem::invalid(format!("`page` counts from 1, `per_page` is from 1 to {MAX_PER_PAGE}")));
        }
        let (total, first) = (all.len(), (page as usize - 1).saturating_mul(per_page as usize));
        let items = all.into_iter().skip(first).take(per_page as usize).collect();
        Ok(Part { items, page, per_page, total })
    }
}

/// Why something is done.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Why {
    /// For whoever asks later.
    pub(crate) reason: String,
}

/// It is done, or waits for a second person.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Outcome {
    /// `done` or `waiting`.
    pub(crate) state: &'static str,
    /// What was done, in sentences.
    pub(crate) what: Vec<String>,
    /// The number under which it waits for a second person.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) approval: Option<u64>,
    /// Why a second person has to agree.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) causes: Vec<String>,
}

impl Outcome {
    /// It is done.
    pub(crate) fn done(what: Vec<String>) -> Outcome {
        Outcome { state: "done", what, approval: None, causes: Vec::new() }
    }

    /// What came of a change: 200 when it is done, 202 while it waits.
    pub(crate) fn of(answer: crate::admin::Answer) -> Response {
        use crate::admin::{Answer, PolicyAnswer};
        let outcome = match answer {
            Answer::Waiting { number, causes } => {
                let waiting = Outcome { state: "waiting", what: Vec::new(), approval: Some(number), causes };
                return (axum::http::StatusCode::ACCEPTED, Json(waiting)).into_response();
            }
            Answer::Policy(PolicyAnswer::Changed { changes }) => Outcome::done(changes.iter().map(changed).collect()),
            other => Outcome::done(vec![crate::admin::render::answer(&other).trim_end().to_owned()]),
        };
        Json(outcome).into_response()
    }
}

fn changed(change: &crate::policies::Changed) -> String {
    use crate::live::Told;
    let told = match change.told {
        Told::Sent => "its edge was told",
        Told::Away => "its edge hears it when it comes",
        Told::Old => "its edge is too old to hear it: upgrade it",
    };
    let kept: String = change.kept.iter().map(|kept| format!("; {kept} stays in force")).collect();
    format!("{}: {}, version {}; {told}{kept}", change.site, change.what, change.version)
}

/// A site as requests name it. A name of a path holds no slash: one that was smuggled in leads nowhere.
pub(crate) fn named(tenant: &str, site: &str) -> Result<String, Problem> {
    match tenant.contains('/') || site.contains('/') {
        true => Err(Problem::missing(format!("there is no site `{}`", crate::text::printable(site)))),
        false => Ok(format!("{tenant}/{site}")),
    }
}

#[cfg(test)]
mod tests;
