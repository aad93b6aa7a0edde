//! Signing in and out, the first account, one's own password.

use super::caller::MySession;
use super::{Json, Problem};
use crate::access::accounts::{self, AccountError};
use crate::access::{Caller, Role, Scope, Via};
use crate::web::{Web, session_caller};
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum_extra::extract::CookieJar;
use monitoring::Peer;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::time::Instant;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Seconds after which somebody may try again whose tries are used up.
const TRY_AGAIN: u32 = 12;

pub(super) fn routes() -> OpenApiRouter<Arc<Web>> {
    OpenApiRouter::new()
        .routes(routes!(who, sign_in, sign_out))
        .routes(routes!(change_password))
        .routes(routes!(set_up))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SignIn {
    /// The account.
    name: String,
    /// Its password.
    password: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SetUp {
    /// The word of the file `setup.code` in the gateway's state directory.
    code: String,
    /// Name of the first account.
    name: String,
    /// Its password, of at least 12 characters.
    password: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewPassword {
    /// The password that holds now.
    present: String,
    /// The new one, of at least 12 characters.
    new: String,
}

/// Who is signed in.
#[derive(Serialize, ToSchema)]
struct WhoIAm {
    /// The account.
    name: String,
    /// What it may do.
    role: Role,
    /// Whether for the whole gateway; else for one tenant.
    whole: bool,
    /// The word to send in `X-CSRF-Token` with every request that changes something.
    csrf: String,
    /// The password has to be changed before anything else.
    must_change: bool,
}

/// Who is signed in by this session.
#[utoipa::path(get, path = "/session", tag = "session", security(("session" = ["see"])),
    responses((status = 200, body = WhoIAm), (status = 401, body = Problem)))]
async fn who(session: MySession) -> Json<WhoIAm> {
    let signed = session.signed;
    Json(WhoIAm {
        name: signed.caller.name,
        role: signed.caller.role,
        whole: signed.caller.scope == Scope::Whole,
        csrf: signed.csrf,
        must_change: signed.must_change,
    })
}

/// Signs in: sets the cookie of a new session.
#[utoipa::path(post, path = "/session", tag = "session", request_body = SignIn,
    responses((status = 200, body = WhoIAm), (status = 401, body = Problem), (status = 422, body = Problem), (status = 429, body = Problem)))]
async fn sign_in(
    State(web): State<Arc<Web>>,
    peer: Option<axum::Extension<ConnectInfo<Peer>>>,
    jar: CookieJar,
    Json(given): Json<SignIn>,
) -> Result<Response, Problem> {
    let address = peer.map(|axum::Extension(ConnectInfo(Peer(address)))| address.ip());
    if !web.may_try(&given.name, address) {
        web.metrics.logins.with_label_values(&["throttled"]).inc();
        return Err(Problem::throttled("too many attempts to sign in: wait a little, and then try again", TRY_AGAIN));
    }
    let (state, now, name) = (web.state.clone(), web.state.now(), given.name.clone());
    let tried = web.with_password(move || accounts::sign_in(&state.catalogue, &given.name, &given.password, now)).await;
    let account = match tried {
        Ok(account) => account,
        Err(AccountError::Wrong) => {
            web.metrics.logins.with_label_values(&["refused"]).inc();
            noted(&web, caller_named(&name), "session.sign-in", "failed").await?;
            return Err(Problem::wrong_password());
        }
        Err(error) => return Err(error.into()),
    };
    web.metrics.logins.with_label_values(&["ok"]).inc();
    // A session that the browser had before is nobody's any more.
    if let Some(old) = jar.get(web.cookie_name()) {
        web.sessions.end(old.value());
    }
    noted(&web, session_caller(&account), "session.sign-in", "done").await?;
    Ok(begun(&web, jar, session_caller(&account), account.must_change))
}

/// Signs out: the session is over.
#[utoipa::path(delete, path = "/session", tag = "session", security(("session" = ["see"])),
    responses((status = 204), (status = 401, body = Problem)))]
async fn sign_out(State(web): State<Arc<Web>>, session: MySession, jar: CookieJar) -> Response {
    web.sessions.end(&session.secret);
    (StatusCode::NO_CONTENT, jar.add(web.no_cookie())).into_response()
}

/// Changes one's own password. All other sessions of the account end, and this one begins anew.
#[utoipa::path(put, path = "/session/password", tag = "session", security(("session" = ["see"])), request_body = NewPassword,
    responses((status = 200, body = WhoIAm), (status = 401, body = Problem), (status = 422, body = Problem), (status = 429, body = Problem)))]
async fn change_password(
    State(web): State<Arc<Web>>,
    session: MySession,
    jar: CookieJar,
    Json(given): Json<NewPassword>,
) -> Result<Response, Problem> {
    let caller = session.signed.caller;
    if !web.may_try(&caller.name, None) {
        return Err(Problem::throttled("too many attempts: wait a little, and then try again", TRY_AGAIN));
    }
    let (state, name) = (web.state.clone(), caller.name.clone());
    web.with_password(move || accounts::change_password(&state.catalogue, &name, &given.present, &given.new)).await?;
    noted(&web, caller.clone(), "account.password", "done").await?;
    web.sessions.end_of(&caller.name);
    Ok(begun(&web, jar, caller, false))
}

/// Makes the first account, an administrator of the whole gateway, and signs in as it.
#[utoipa::path(post, path = "/setup", tag = "session", request_body = SetUp,
    responses((status = 200, body = WhoIAm), (status = 403, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem), (status = 429, body = Problem)))]
async fn set_up(State(web): State<Arc<Web>>, jar: CookieJar, Json(given): Json<SetUp>) -> Result<Response, Problem> {
    if !web.needs_setup() {
        return Err(Problem::conflict("there is an account already: sign in, or ask an administrator for one"));
    }
    // One name for all: whoever guesses the word changes the names.
    if !web.may_try("setup code", None) {
        return Err(Problem::throttled("too many attempts: wait a little, and then try again", TRY_AGAIN));
    }
    if !web.is_setup_word(&given.code) {
        return Err(Problem::forbidden(
            "this is not the set-up code: it stands in the file `setup.code` in the gateway's state directory, for those who may read it",
        ));
    }
    let (state, now) = (web.state.clone(), web.state.now());
    let made = web.with_password(move || accounts::create_first(&state.catalogue, &given.name, &given.password, now));
    let account = made.await?;
    web.set_up();
    noted(&web, session_caller(&account), "account.first", "done").await?;
    Ok(begun(&web, jar, session_caller(&account), false))
}

fn begun(web: &Web, jar: CookieJar, caller: Caller, must_change: bool) -> Response {
    let secret = web.sessions.begin(caller.clone(), must_change, Instant::now());
    let signed = web.sessions.of(secret.reveal(), Instant::now());
    let who = WhoIAm {
        name: caller.name,
        role: caller.role,
        whole: caller.scope == Scope::Whole,
        csrf: signed.map(|signed| signed.csrf).unwrap_or_default(),
        must_change,
    };
    (jar.add(web.cookie(&secret)), Json(who)).into_response()
}

async fn noted(web: &Arc<Web>, caller: Caller, what: &'static str, outcome: &'static str) -> Result<(), Problem> {
    let admin = web.admin.clone();
    let note = move || admin.note(&caller, what, None, caller.name.clone(), String::new(), outcome);
    Ok(crate::web::blocking(note).await?)
}

/// Somebody of whom nothing is known but a name that was typed.
fn caller_named(name: &str) -> Caller {
    Caller { name: crate::text::printable(name), role: Role::Viewer, scope: Scope::Whole, via: Via::Session }
}
