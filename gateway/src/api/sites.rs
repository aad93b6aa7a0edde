//! The fleet, one site, tokens for edges, and events as they happen.

use super::{Asked, Json, Me, Outcome, PageOf, Part, Path, Problem, named};
use crate::access::Caller;
use crate::admin::{AdminError, Answer, PolicyRequest, Request, Signature};
use crate::catalogue::{Site, Tenant};
use crate::fleet::{Mood, SiteState, SiteView, Snapshot};
use crate::policies::ChangeError;
use crate::policies::first::FirstPolicy;
use crate::policies::report::EventLine;
use crate::web::{Web, blocking};
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use shaping::policy::PolicyError;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// How often followers hear what changed.
const TELL_EVERY: Duration = Duration::from_secs(3);
/// A comment on a quiet stream: what lies between cuts connections that say nothing.
const QUIET: Duration = Duration::from_secs(15);

pub(super) fn routes() -> OpenApiRouter<Arc<Web>> {
    OpenApiRouter::new()
        .routes(routes!(list, add))
        .routes(routes!(one))
        .routes(routes!(invite))
        .routes(routes!(revoke))
        .routes(routes!(history))
        .routes(routes!(events))
}

/// Which sites are wanted.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// Part of the site's name.
    q: Option<String>,
    /// Of this tenant.
    tenant: Option<String>,
    /// In this state.
    #[serde(default, deserialize_with = "empty_is_none")]
    state: Option<SiteState>,
    /// Only those that need somebody.
    attention: Option<bool>,
}

/// A form sends an empty field where nothing is chosen.
fn empty_is_none<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<SiteState>, D::Error> {
    let word = String::deserialize(from)?;
    if word.is_empty() {
        return Ok(None);
    }
    let state = SiteState::ALL.into_iter().find(|state| state.word() == word);
    state
        .map(Some)
        .ok_or_else(|| serde::de::Error::custom(format!("`{}` is no state of a site", crate::text::printable(&word))))
}

impl Filter {
    /// Part of the site's name.
    pub(crate) fn q(&self) -> &str {
        self.q.as_deref().unwrap_or_default()
    }

    /// In this state.
    pub(crate) fn state(&self) -> Option<SiteState> {
        self.state
    }

    /// Only those that need somebody.
    pub(crate) fn attention(&self) -> bool {
        self.attention.unwrap_or(false)
    }

    /// The sites of a snapshot that the caller sees and that fit.
    pub(crate) fn of(&self, snapshot: &Snapshot, tenants: &[Tenant], caller: &Caller) -> Vec<Arc<SiteView>> {
        let seen: Vec<&str> =
            tenants.iter().filter(|tenant| caller.sees(tenant)).map(|tenant| tenant.name.as_str()).collect();
        let wanted = self.q.as_deref().unwrap_or_default().trim().to_lowercase();
        let fits = |site: &&Arc<SiteView>| {
            seen.contains(&site.tenant.as_str())
                && self.tenant.as_deref().is_none_or(|tenant| tenant.is_empty() || tenant == site.tenant)
                && self.state.is_none_or(|state| state == site.state)
                && (!self.attention.unwrap_or(false) || site.mood >= Mood::Warn)
                && site.site.to_lowercase().contains(&wanted)
        };
        snapshot.sites.iter().filter(fits).cloned().collect()
    }
}

/// All sites with what they do, by tenant and name.
#[utoipa::path(get, path = "/sites", tag = "sites", params(Filter, PageOf), security(("session" = ["see"]), ("token" = ["see"])),
    responses((status = 200, body = Part<SiteView>), (status = 400, body = Problem), (status = 401, body = Problem), (status = 422, body = Problem)))]
async fn list(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Asked(filter): Asked<Filter>,
    Asked(page): Asked<PageOf>,
) -> Result<Response, Problem> {
    let sites = fleet(&web, &caller, filter).await?;
    Ok(Json(page.take(sites)?).into_response())
}

/// The sites that fit, as they are now.
pub(crate) async fn fleet(web: &Arc<Web>, caller: &Caller, filter: Filter) -> Result<Vec<Arc<SiteView>>, Problem> {
    let (web, caller) = (web.clone(), caller.clone());
    blocking(move || {
        let tenants = web.state.catalogue.tenants()?;
        Ok(filter.of(&*web.fleet.snapshot(Instant::now())?, &tenants, &caller))
    })
    .await
}

/// A site to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewSite {
    /// The tenant's name; it is made if there is none.
    tenant: String,
    /// The site's name.
    site: String,
    /// Its first policy; without it the site has none.
    first: Option<FirstPolicy>,
}

/// Makes a site, if there is none of that name, with a first policy, if it has none.
#[utoipa::path(post, path = "/sites", tag = "sites", request_body = NewSite, security(("session" = ["administer"]), ("token" = ["administer"])),
    responses((status = 200, body = Outcome), (status = 401, body = Problem), (status = 403, body = Problem), (status = 422, body = Problem)))]
async fn add(State(web): State<Arc<Web>>, Me(caller): Me, Json(new): Json<NewSite>) -> Result<Response, Problem> {
    // What cannot be is refused before anything is made.
    let document = match &new.first {
        Some(first) => {
            let now = crate::policies::timestamp(web.state.now());
            let document = first.document().map_err(typed)?;
            crate::policies::check(&document, now).map_err(typed)?;
            Some(document)
        }
        None => None,
    };
    let name = named(&new.tenant, &new.site)?;
    let request = Request::Site { tenant: new.tenant, site: new.site };
    let made = match web.ask(&caller, request).await? {
        Answer::Site { made, .. } => made,
        _ => return Err(Problem::failed("the gateway answered something else than a site")),
    };
    let mut what = vec![if made { format!("site {name} is made") } else { format!("site {name} was there already") }];
    if let Some(document) = document {
        let author = Signature { actor: caller.name.clone(), reason: "first schedule of the site".into() };
        let site = Some(name.clone());
        let set = PolicyRequest::Set { site, all_of: None, sites: Vec::new(), document, expected: Some(0), author };
        match web.ask(&caller, Request::Policy(set)).await {
            Ok(_) => what.push("it has its first policy".into()),
            Err(AdminError::Policy(ChangeError::Moved { .. })) => what.push("the policy that it has stays".into()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Json(Outcome::done(what)).into_response())
}

/// Nobody wrote the document of a first policy: what is wrong is named by its field, and not by its line.
fn typed(error: ChangeError) -> Problem {
    match error {
        ChangeError::Policy(PolicyError::Field { field, why, .. }) => {
            Problem { field: Some(field.clone()), ..Problem::invalid(format!("`{field}`: {why}")) }
        }
        other => AdminError::from(other).into(),
    }
}

/// One site.
#[utoipa::path(get, path = "/sites/{tenant}/{site}", tag = "sites", security(("session" = ["see"]), ("token" = ["see"])),
    params(("tenant" = String, Path), ("site" = String, Path)),
    responses((status = 200, body = SiteView), (status = 401, body = Problem), (status = 404, body = Problem)))]
async fn one(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path((tenant, site)): Path<(String, String)>,
) -> Result<Json<SiteView>, Problem> {
    let view = with_site(&web, &caller, &tenant, &site, |web, caller, tenant, site| {
        Ok(web.fleet.site(caller, tenant, site, Instant::now())?)
    });
    Ok(Json(view.await?))
}

/// Does something with a site that the caller sees, on a thread of its own.
pub(crate) async fn with_site<T: Send + 'static>(
    web: &Arc<Web>,
    caller: &Caller,
    tenant: &str,
    site: &str,
    work: impl FnOnce(&Web, &Caller, &Tenant, &Site) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let (web, caller, name) = (web.clone(), caller.clone(), named(tenant, site)?);
    blocking(move || {
        let (tenant, site) = web.admin.site_for(&caller, &name)?;
        work(&web, &caller, &tenant, &site)
    })
    .await
}

/// A one-time token with which an edge enrols as a site.
#[derive(Serialize, ToSchema)]
struct Invitation {
    /// The token, secret: for the person who enrols the edge.
    token: String,
    /// The site.
    site: String,
    /// Until when it is good, seconds since 1970.
    valid_until: u64,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Invite {
    /// The tenant.
    tenant: String,
    /// The site's name; the site is made if there is none.
    site: String,
    /// Hours that the token is good for, 1 to 168; a day unless said otherwise.
    hours: Option<u64>,
}

/// Makes a one-time token for a site, which is made if there is none of that name.
#[utoipa::path(post, path = "/tokens", tag = "sites", request_body = Invite, security(("session" = ["administer"]), ("token" = ["administer"])),
    responses((status = 200, body = Invitation), (status = 401, body = Problem), (status = 403, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn invite(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Json(wanted): Json<Invite>,
) -> Result<Json<Invitation>, Problem> {
    let hours = wanted.hours.unwrap_or(24);
    if !(1..=168).contains(&hours) {
        return Err(Problem::invalid("`hours` is from 1 to 168: a token is carried like a key, and not kept"));
    }
    let request = Request::Token { tenant: wanted.tenant, site: wanted.site, valid_seconds: hours * 3600 };
    match web.ask(&caller, request).await? {
        Answer::Token { token, site, valid_until } => {
            Ok(Json(Invitation { token, site, valid_until: valid_until.0 / 1000 }))
        }
        _ => Err(Problem::failed("the gateway answered something else than a token")),
    }
}

/// Refuses a site's certificates from now on, and ends its session.
#[utoipa::path(post, path = "/sites/{tenant}/{site}/revoke", tag = "sites", security(("session" = ["administer"]), ("token" = ["administer"])),
    params(("tenant" = String, Path), ("site" = String, Path)),
    responses((status = 200, body = Outcome), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem)))]
async fn revoke(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path((tenant, site)): Path<(String, String)>,
) -> Result<Response, Problem> {
    Ok(Outcome::of(web.ask(&caller, Request::Revoke { site: named(&tenant, &site)? }).await?))
}

/// Who changed what of a site's line, newest first.
#[utoipa::path(get, path = "/sites/{tenant}/{site}/history", tag = "sites", security(("session" = ["see"]), ("token" = ["see"])),
    params(("tenant" = String, Path), ("site" = String, Path), PageOf),
    responses((status = 200, body = Part<EventLine>), (status = 401, body = Problem), (status = 404, body = Problem), (status = 422, body = Problem)))]
async fn history(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path((tenant, site)): Path<(String, String)>,
    Asked(page): Asked<PageOf>,
) -> Result<Response, Problem> {
    let events = with_site(&web, &caller, &tenant, &site, |web, _, _, site| {
        let events = web.state.catalogue.line_events(site.id)?;
        Ok(events.iter().rev().map(EventLine::from).collect::<Vec<_>>())
    });
    Ok(Json(page.take(events.await?)?).into_response())
}

/// What changed at sites, as server-sent events: `sites` with `[{tenant, site, state, mood}]` of those that look different than before.
#[utoipa::path(get, path = "/events", tag = "sites", security(("session" = ["see"]), ("token" = ["see"])),
    responses((status = 200, content_type = "text/event-stream", body = String), (status = 401, body = Problem)))]
async fn events(State(web): State<Arc<Web>>, Me(caller): Me) -> Response {
    let stop = web.stop.clone();
    let begin = Follower { web, caller, seen: HashMap::new(), first: true };
    let stream = futures_util::stream::unfold(begin, move |mut follower| {
        let stop = stop.clone();
        async move {
            tokio::select! {
                () = stop.cancelled() => None,
                event = follower.next() => event.map(|event| (Ok::<_, Infallible>(event), follower)),
            }
        }
    });
    Sse::new(stream).keep_alive(KeepAlive::new().interval(QUIET)).into_response()
}

/// Somebody who follows what changes.
struct Follower {
    web: Arc<Web>,
    caller: Caller,
    seen: HashMap<String, u64>,
    first: bool,
}

#[derive(Serialize)]
struct ChangedSite<'a> {
    tenant: &'a str,
    site: &'a str,
    state: SiteState,
    mood: Mood,
}

impl Follower {
    /// The next event; `None`: there is nothing more to be said.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if !self.first {
                tokio::time::sleep(TELL_EVERY).await;
            }
            let sites = fleet(&self.web, &self.caller, Filter::default()).await.ok()?;
            let changed: Vec<&Arc<SiteView>> = sites.iter().filter(|site| self.is_news(site)).collect();
            let (was_first, first) = (std::mem::take(&mut self.first), changed.is_empty());
            if was_first || first {
                continue; // what there is to begin with is on the page already
            }
            let said: Vec<ChangedSite<'_>> = changed
                .iter()
                .map(|site| ChangedSite { tenant: &site.tenant, site: &site.site, state: site.state, mood: site.mood })
                .collect();
            return Event::default().event("sites").json_data(said).ok();
        }
    }

    /// Whether a site looks different than before to a person.
    fn is_news(&mut self, site: &SiteView) -> bool {
        let look = serde_json::to_vec(site).map_or(0, |json| {
            u64::from_le_bytes(blake3::hash(&json).as_bytes()[..8].try_into().expect("a hash has 32 bytes"))
        });
        self.seen.insert(site.id.clone(), look) != Some(look)
    }
}
