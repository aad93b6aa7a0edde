//! Accounts, API tokens, approvals, the audit log.

use super::{Asked, Json, Me, Outcome, PageOf, Part, Path, Problem};
use crate::access::{Caller, Role};
use crate::admin::{AccountLine, AccountRequest, Answer, ApprovalLine, AuditFormat, Proposal, Request, TokenLine};
use crate::catalogue::AuditRow;
use crate::web::{Web, blocking};
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Entries that are read for an export at once.
const BATCH: usize = 1000;
/// Entries of one page of the audit log at most.
const MAX_ENTRIES: usize = 500;

pub(super) fn routes() -> OpenApiRouter<Arc<Web>> {
    OpenApiRouter::new()
        .routes(routes!(accounts, add_account))
        .routes(routes!(change_account, remove_account))
        .routes(routes!(reset_password))
        .routes(routes!(tokens, add_token))
        .routes(routes!(remove_token))
        .routes(routes!(approvals))
        .routes(routes!(approval))
        .routes(routes!(approve))
        .routes(routes!(refuse))
        .routes(routes!(audit))
        .routes(routes!(export))
        .routes(routes!(check))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewAccount {
    /// Its name: letters, digits, `-`, `_` and `.`.
    name: String,
    /// What it may do.
    role: Role,
    /// The tenant that it is for; the whole gateway unless said.
    tenant: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AccountChange {
    /// Another role.
    role: Option<Role>,
    /// Whether it may sign in.
    disabled: Option<bool>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewToken {
    /// What it is for.
    label: String,
    /// What it may do; no more than the account.
    role: Role,
    /// How many days it is good for, 1 to 825; 90 unless said.
    days: Option<u32>,
}

/// A password that was made, to be handed to whom it belongs.
#[derive(Serialize, ToSchema)]
struct GivenPassword {
    /// The account.
    name: String,
    /// The password, secret; has to be changed at the first sign-in.
    password: String,
}

/// An API token that was made.
#[derive(Serialize, ToSchema)]
struct GivenToken {
    /// Its id.
    id: String,
    /// The token, secret; shown once.
    token: String,
}

/// What a second person says.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Said {
    /// Why.
    reason: String,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Which {
    /// Also those that were answered.
    all: Option<bool>,
}

/// Which entries of the audit log.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Entries {
    /// Before this number; the newest unless said.
    pub(crate) before: Option<u64>,
    /// So many at most, 1 to 500; 100 unless said.
    pub(crate) most: Option<usize>,
    /// Of this actor.
    pub(crate) actor: Option<String>,
    /// On an object whose name contains this.
    pub(crate) object: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Exported {
    /// Entries after this number.
    after: Option<u64>,
    /// `json` or `syslog`.
    #[param(inline)]
    format: Option<AuditFormat>,
}

/// An entry of the audit log.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct AuditEntry {
    /// Its number.
    pub(crate) number: u64,
    /// When, milliseconds since 1970.
    pub(crate) time: u64,
    /// Who.
    pub(crate) actor: String,
    /// `command-line`, `session`, `token`, `gateway`.
    pub(crate) via: String,
    /// The tenant; empty: the whole gateway.
    pub(crate) tenant: String,
    /// What, in a word.
    pub(crate) what: String,
    /// On what.
    pub(crate) object: String,
    /// More of it.
    pub(crate) detail: String,
    /// `done`, `waiting`, `refused`, `failed`.
    pub(crate) outcome: String,
    /// Its hash, over everything above and the hash of the entry before.
    pub(crate) hash: String,
}

/// The audit log is whole.
#[derive(Serialize, ToSchema)]
struct Whole {
    /// Entries.
    entries: u64,
    /// Hash of the last one.
    last: String,
}

/// Accounts, by name.
#[utoipa::path(get, path = "/accounts", tag = "people", params(PageOf), security(("session" = ["administer"]), ("token" = ["administer"])),
    responses((status = 200, body = Part<AccountLine>), (status = 401, body = Problem), (status = 403, body = Problem), (status = 422, body = Problem)))]
async fn accounts(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Asked(page): Asked<PageOf>,
) -> Result<Response, Problem> {
    Ok(Json(page.take(account_lines(&web, &caller).await?)?).into_response())
}

pub(crate) async fn account_lines(web: &Web, caller: &Caller) -> Result<Vec<AccountLine>, Problem> {
    match web.ask(caller, Request::Account(AccountRequest::List)).await? {
        Answer::Accounts { accounts } => Ok(accounts),
        _ => Err(unexpected()),
    }
}

/// Makes an account. Its password has to be changed at the first sign-in.
#[utoipa::path(post, path = "/accounts", tag = "people", request_body = NewAccount, security(("session" = ["administer"]), ("token" = ["administer"])),
    responses((status = 200, body = GivenPassword), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn add_account(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Json(new): Json<NewAccount>,
) -> Result<Json<GivenPassword>, Problem> {
    let tenant = new.tenant.filter(|tenant| !tenant.is_empty());
    secret(&web, &caller, AccountRequest::Add { name: new.name, role: new.role, tenant }).await
}

/// Changes what an account may do. Whoever is signed in by it has to sign in again.
#[utoipa::path(patch, path = "/accounts/{name}", tag = "people", request_body = AccountChange, security(("session" = ["administer"]), ("token" = ["administer"])),
    params(("name" = String, Path)),
    responses((status = 200, body = AccountLine), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn change_account(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path(name): Path<String>,
    Json(change): Json<AccountChange>,
) -> Result<Response, Problem> {
    let request = AccountRequest::Change { name, role: change.role, disabled: change.disabled };
    match web.ask(&caller, Request::Account(request)).await? {
        Answer::Accounts { accounts } => Ok(Json(accounts.into_iter().next().ok_or_else(unexpected)?).into_response()),
        _ => Err(unexpected()),
    }
}

/// Removes an account and its API tokens.
#[utoipa::path(delete, path = "/accounts/{name}", tag = "people", security(("session" = ["administer"]), ("token" = ["administer"])), params(("name" = String, Path)),
    responses((status = 200, body = Outcome), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn remove_account(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    Ok(Outcome::of(web.ask(&caller, Request::Account(AccountRequest::Remove { name })).await?))
}

/// Gives an account a new password, to be changed at the next sign-in.
#[utoipa::path(post, path = "/accounts/{name}/password", tag = "people", security(("session" = ["administer"]), ("token" = ["administer"])), params(("name" = String, Path)),
    responses((status = 200, body = GivenPassword), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem)))]
async fn reset_password(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path(name): Path<String>,
) -> Result<Json<GivenPassword>, Problem> {
    secret(&web, &caller, AccountRequest::ResetPassword { name }).await
}

async fn secret(web: &Web, caller: &Caller, request: AccountRequest) -> Result<Json<GivenPassword>, Problem> {
    match web.ask(caller, Request::Account(request)).await? {
        Answer::AccountSecret { name, password } => Ok(Json(GivenPassword { name, password })),
        _ => Err(unexpected()),
    }
}

/// The API tokens of an account: one's own, or of one that the caller manages.
#[utoipa::path(get, path = "/accounts/{name}/tokens", tag = "people", security(("session" = ["see"]), ("token" = ["see"])), params(("name" = String, Path), PageOf),
    responses((status = 200, body = Part<TokenLine>), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 422, body = Problem)))]
async fn tokens(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path(name): Path<String>,
    Asked(page): Asked<PageOf>,
) -> Result<Response, Problem> {
    Ok(Json(page.take(token_lines(&web, &caller, name).await?)?).into_response())
}

pub(crate) async fn token_lines(web: &Web, caller: &Caller, account: String) -> Result<Vec<TokenLine>, Problem> {
    match web.ask(caller, Request::Account(AccountRequest::Tokens { account })).await? {
        Answer::ApiTokens { tokens } => Ok(tokens),
        _ => Err(unexpected()),
    }
}

/// Makes an API token; it is shown once.
#[utoipa::path(post, path = "/accounts/{name}/tokens", tag = "people", request_body = NewToken, security(("session" = ["see"]), ("token" = ["see"])), params(("name" = String, Path)),
    responses((status = 200, body = GivenToken), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn add_token(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path(account): Path<String>,
    Json(new): Json<NewToken>,
) -> Result<Json<GivenToken>, Problem> {
    if !caller.role.covers(new.role) {
        return Err(Problem::forbidden("a token cannot do more than whoever makes it"));
    }
    let (label, role, days) = (new.label, new.role, new.days.unwrap_or(90));
    match web.ask(&caller, Request::Account(AccountRequest::AddToken { account, label, role, days })).await? {
        Answer::ApiTokenSecret { id, token } => Ok(Json(GivenToken { id, token })),
        _ => Err(unexpected()),
    }
}

/// Takes an API token back.
#[utoipa::path(delete, path = "/accounts/{name}/tokens/{id}", tag = "people", security(("session" = ["see"]), ("token" = ["see"])),
    params(("name" = String, Path), ("id" = String, Path)),
    responses((status = 200, body = Outcome), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem)))]
async fn remove_token(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path((account, id)): Path<(String, String)>,
) -> Result<Response, Problem> {
    Ok(Outcome::of(web.ask(&caller, Request::Account(AccountRequest::RemoveToken { account, id })).await?))
}

/// What waits for a second person, newest first.
#[utoipa::path(get, path = "/approvals", tag = "people", params(Which, PageOf), security(("session" = ["see"]), ("token" = ["see"])),
    responses((status = 200, body = Part<ApprovalLine>), (status = 400, body = Problem), (status = 401, body = Problem), (status = 422, body = Problem)))]
async fn approvals(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Asked(which): Asked<Which>,
    Asked(page): Asked<PageOf>,
) -> Result<Response, Problem> {
    Ok(Json(page.take(approval_lines(&web, &caller, which.all.unwrap_or(false)).await?)?).into_response())
}

pub(crate) async fn approval_lines(web: &Web, caller: &Caller, all: bool) -> Result<Vec<ApprovalLine>, Problem> {
    match web.ask(caller, Request::Approvals { all }).await? {
        Answer::Approvals { approvals } => Ok(approvals),
        _ => Err(unexpected()),
    }
}

/// What waits or waited under a number, with what it would change.
#[utoipa::path(get, path = "/approvals/{number}", tag = "people", security(("session" = ["see"]), ("token" = ["see"])), params(("number" = u64, Path)),
    responses((status = 200, body = Proposal), (status = 401, body = Problem), (status = 404, body = Problem)))]
async fn approval(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path(number): Path<u64>,
) -> Result<Json<Proposal>, Problem> {
    Ok(Json(proposal(&web, &caller, number).await?))
}

pub(crate) async fn proposal(web: &Arc<Web>, caller: &Caller, number: u64) -> Result<Proposal, Problem> {
    let (admin, caller) = (web.admin.clone(), caller.clone());
    Ok(blocking(move || admin.proposal(&caller, number)).await?)
}

/// Agrees to what waits, and has it done.
#[utoipa::path(post, path = "/approvals/{number}/approve", tag = "people", request_body = Said, security(("session" = ["approve"]), ("token" = ["approve"])), params(("number" = u64, Path)),
    responses((status = 200, body = Outcome), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem), (status = 412, body = Problem), (status = 422, body = Problem)))]
async fn approve(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path(number): Path<u64>,
    Json(said): Json<Said>,
) -> Result<Response, Problem> {
    Ok(Outcome::of(web.ask(&caller, Request::Answer { number, approve: true, reason: said.reason }).await?))
}

/// Refuses what waits.
#[utoipa::path(post, path = "/approvals/{number}/refuse", tag = "people", request_body = Said, security(("session" = ["approve"]), ("token" = ["approve"])), params(("number" = u64, Path)),
    responses((status = 200, body = Outcome), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn refuse(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path(number): Path<u64>,
    Json(said): Json<Said>,
) -> Result<Response, Problem> {
    Ok(Outcome::of(web.ask(&caller, Request::Answer { number, approve: false, reason: said.reason }).await?))
}

/// The audit log, newest first.
#[utoipa::path(get, path = "/audit", tag = "people", params(Entries), security(("session" = ["administer"]), ("token" = ["administer"])),
    responses((status = 200, body = Vec<AuditEntry>), (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem), (status = 422, body = Problem)))]
async fn audit(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Asked(which): Asked<Entries>,
) -> Result<Json<Vec<AuditEntry>>, Problem> {
    Ok(Json(audit_entries(&web, &caller, which).await?))
}

pub(crate) async fn audit_entries(web: &Arc<Web>, caller: &Caller, which: Entries) -> Result<Vec<AuditEntry>, Problem> {
    caller.require(crate::access::Right::Administer, None)?;
    let most = which.most.unwrap_or(100);
    if !(1..=MAX_ENTRIES).contains(&most) {
        return Err(Problem::invalid(format!("`most` is from 1 to {MAX_ENTRIES}")));
    }
    let web = web.clone();
    blocking(move || {
        let (actor, object) = (which.actor.unwrap_or_default(), which.object.unwrap_or_default().to_lowercase());
        let mut entries = Vec::new();
        web.state.catalogue.each_audit_back(which.before.unwrap_or(u64::MAX), |row| {
            if (actor.is_empty() || row.actor == actor) && row.object.to_lowercase().contains(&object) {
                entries.push(entry(row));
            }
            entries.len() < most
        })?;
        Ok(entries)
    })
    .await
}

/// The audit log from its beginning, or after a number, for a SIEM: lines of JSON, or of syslog (RFC 5424).
#[utoipa::path(get, path = "/audit/export", tag = "people", params(Exported), security(("session" = ["administer"]), ("token" = ["administer"])),
    responses((status = 200, content_type = "text/plain", body = String), (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem)))]
async fn export(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Asked(which): Asked<Exported>,
) -> Result<Response, Problem> {
    caller.require(crate::access::Right::Administer, None)?;
    let format = which.format.unwrap_or(AuditFormat::Json);
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let stream = futures_util::stream::unfold(which.after.unwrap_or(0), move |after| {
        let (web, caller, host) = (web.clone(), caller.clone(), host.clone());
        async move {
            match web.ask(&caller, Request::Audit { after, most: BATCH }).await {
                Ok(Answer::Audit { entries }) => {
                    let last = entries.last()?.number;
                    let text: String = entries.iter().map(|entry| format.line(entry, &host) + "\n").collect();
                    Some((Ok(Bytes::from(text)), last))
                }
                Ok(_) => None,
                // Whoever reads sees that the export was cut, and not that it is over.
                Err(error) => Some((Err(io::Error::other(error.to_string())), u64::MAX - 1)),
            }
        }
    });
    let media = if format == AuditFormat::Json { "application/x-ndjson" } else { "text/plain; charset=utf-8" };
    Ok(([(header::CONTENT_TYPE, media)], Body::from_stream(stream)).into_response())
}

/// Checks that no entry of the audit log was changed, taken out or put in.
#[utoipa::path(get, path = "/audit/check", tag = "people", security(("session" = ["administer"]), ("token" = ["administer"])),
    responses((status = 200, body = Whole), (status = 401, body = Problem), (status = 403, body = Problem), (status = 500, body = Problem)))]
async fn check(State(web): State<Arc<Web>>, Me(caller): Me) -> Result<Json<Whole>, Problem> {
    match web.ask(&caller, Request::AuditCheck).await? {
        Answer::AuditWhole { entries, last } => Ok(Json(Whole { entries, last })),
        _ => Err(unexpected()),
    }
}

fn entry(row: AuditRow) -> AuditEntry {
    AuditEntry {
        number: row.number,
        time: row.time.0,
        actor: row.actor,
        via: row.via,
        tenant: row.tenant,
        what: row.what,
        object: row.object,
        detail: row.detail,
        outcome: row.outcome,
        hash: HEXLOWER.encode(&row.hash),
    }
}

pub(super) fn unexpected() -> Problem {
    Problem::failed("the gateway answered something else than was asked for")
}
