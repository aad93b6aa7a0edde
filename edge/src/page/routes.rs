//! Who gets what: every request passes the host's name first, then the session, then, where something is asked for, the session's own value in the form.

use super::asks::{BendForm, VolumeForm};
use super::facts::{Facts, kept_pin};
use super::say::{self, Both, Notice, Tone};
use super::view::{self, Inside};
use super::{App, access, hosts};
use crate::diagnostics;
use crate::pipeline::blocking;
use crate::volumes::VolumeEntry;
use axum::extract::{DefaultBodyLimit, Form, FromRequest, Request, State};
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::http::{HeaderName, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use axum_extra::extract::CookieJar;
use axum_extra::extract::cookie::{Cookie, SameSite};
use dedupe::LineageId;
use look::Language;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use tokio::time::Instant;
use wire::token::Token;
use zeroize::Zeroizing;

/// Bytes of a form at most: a token has some hundred, a path 4096.
const MOST_BODY: usize = 32 << 10;
/// Characters of a token at most.
pub(super) const MOST_TOKEN: usize = 8000;
/// How a page that looks by itself says so: it keeps nobody's session alive.
const REFRESH: HeaderName = HeaderName::from_static("x-sluice-refresh");

/// All routes.
pub(super) fn router(app: Arc<App>) -> Router {
    let inside = Router::new()
        .route("/", get(home))
        .route("/diagnostics", get(bundle))
        .route("/logout", post(logout))
        .route("/pause", post(pause))
        .route("/boost", post(boost))
        .route("/resume", post(resume))
        .route("/capture", post(capture))
        .route("/volumes", post(add_volume))
        .route("/line-test", post(test_line))
        .route("/enrol", post(enrol))
        .fallback(nowhere)
        .layer(from_fn_with_state(app.clone(), let_in));
    Router::new()
        .route("/login", get(login_page).post(login))
        .merge(inside)
        .with_state(app.clone())
        .merge(look::serve::languages())
        .merge(look::serve::assets(&app.assets))
        .layer(DefaultBodyLimit::max(MOST_BODY))
        .layer(from_fn_with_state(app, is_for_us))
}

/// Refuses what was meant for another host, and forms of pages from elsewhere.
async fn is_for_us(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let language = look::serve::language(request.headers());
    let is_safe = [Method::GET, Method::HEAD].contains(request.method());
    let (is_ours, is_same_origin) = {
        let text = |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let host = text(header::HOST).unwrap_or_default();
        // A browser that sends an origin which is no text sends none of ours.
        let origin = request.headers().contains_key(header::ORIGIN).then(|| text(header::ORIGIN).unwrap_or_default());
        (hosts::is_ours(host, &app.names), hosts::is_same_origin(origin, host))
    };
    if !is_ours {
        let page = view::refusal(
            &app,
            language,
            "This box does not answer by this name. Ask for it by its IP address, or add the name to `page.names` in its configuration.",
            "本设备不响应该域名。请使用 IP 地址访问，或在配置的 page.names 中添加该域名。",
        );
        return (StatusCode::MISDIRECTED_REQUEST, page).into_response();
    }
    if !is_safe && !is_same_origin {
        return forged(&app, language);
    }
    next.run(request).await
}

/// A form that was not filled in on a page of this session.
fn forged(app: &App, language: Language) -> Response {
    let page = view::refusal(
        app,
        language,
        "That form is not of this session; nothing was done.",
        "该表单不属于当前会话，未执行任何操作。",
    );
    (StatusCode::FORBIDDEN, page).into_response()
}

/// Somebody who knew the PIN.
#[derive(Clone)]
struct Entered {
    token: String,
    csrf: String,
    notice: Option<Notice>,
}

impl App {
    fn cookie(&self) -> &'static str {
        // The prefix makes browsers refuse it from anywhere but this host over TLS.
        if self.is_tls { "__Host-sluice" } else { "sluice-session" }
    }

    fn session_cookie(&self, token: String) -> Cookie<'static> {
        Cookie::build((self.cookie(), token))
            .path("/")
            .http_only(true)
            .secure(self.is_tls)
            .same_site(SameSite::Strict)
            .build()
    }

    /// Says something with the next page, at this part of it.
    fn told(&self, who: &Entered, notice: Notice) -> Response {
        let at = notice.at;
        self.sessions().tell(&who.token, notice);
        Redirect::to(&format!("/#{at}")).into_response()
    }

    fn done(&self, who: &Entered, at: &'static str, text: Both) -> Response {
        self.told(who, Notice { at, tone: Tone::Good, text, detail: None })
    }

    fn not_done(&self, who: &Entered, at: &'static str, text: Both, detail: Option<String>) -> Response {
        self.told(who, Notice { at, tone: Tone::Bad, text, detail })
    }
}

/// Lets those in who have a session; the others are led to the PIN.
async fn let_in(State(app): State<Arc<App>>, jar: CookieJar, mut request: Request, next: Next) -> Response {
    let is_active = !request.headers().contains_key(REFRESH);
    let entered = async {
        let token = jar.get(app.cookie())?.value().to_owned();
        let pin = kept_pin(&app).await.ok()??;
        let seen = app.sessions().find(&token, pin.id(), Instant::now(), is_active)?;
        Some(Entered { token, csrf: seen.csrf, notice: seen.notice })
    };
    match entered.await {
        Some(entered) => {
            request.extensions_mut().insert(entered);
            next.run(request).await
        }
        None => Redirect::to("/login").into_response(),
    }
}

/// A form of the session, and who sent it.
struct Asked<T>(Entered, T);

/// A form that carries the session's own value.
trait OfSession: DeserializeOwned {
    fn csrf(&self) -> &str;
}

impl<T: OfSession> FromRequest<Arc<App>> for Asked<T> {
    type Rejection = Response;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Response> {
        let language = look::serve::language(request.headers());
        let entered = request.extensions().get::<Entered>().cloned();
        let form = Form::<T>::from_request(request, app).await;
        match (entered, form) {
            (Some(entered), Ok(Form(form))) if access::is_same(form.csrf(), &entered.csrf) => Ok(Asked(entered, form)),
            (_, Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                let page =
                    view::refusal(app, language, "That is longer than any form of this page.", "提交的内容过长。");
                Err((StatusCode::PAYLOAD_TOO_LARGE, page).into_response())
            }
            _ => Err(forged(app, language)),
        }
    }
}

impl OfSession for BendForm {
    fn csrf(&self) -> &str {
        &self.csrf
    }
}

impl OfSession for VolumeForm {
    fn csrf(&self) -> &str {
        &self.csrf
    }
}

/// A form that asks for one thing.
#[derive(Default, Deserialize)]
#[serde(default)]
struct PlainForm {
    csrf: String,
    volume: String,
}

impl OfSession for PlainForm {
    fn csrf(&self) -> &str {
        &self.csrf
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TokenForm {
    csrf: String,
    token: String,
}

impl OfSession for TokenForm {
    fn csrf(&self) -> &str {
        &self.csrf
    }
}

async fn home(State(app): State<Arc<App>>, Extension(entered): Extension<Entered>, language: Language) -> Response {
    let facts = Facts::gather(&app).await;
    let inside = Inside { assets: &app.assets, language, csrf: &entered.csrf, notice: entered.notice.as_ref() };
    let page = inside.render(&facts);
    let is_enrolling = !matches!(facts.enrolling, super::work::Enrolling::Idle | super::work::Enrolling::Failed { .. });
    match is_enrolling && facts.status.site.is_none() {
        // Also without a script the steps go on before one's eyes; there is nothing to type meanwhile.
        true => ([(header::REFRESH, "2")], page).into_response(),
        false => page.into_response(),
    }
}

async fn nowhere(State(app): State<Arc<App>>, language: Language) -> Response {
    let page = view::refusal(&app, language, "There is no such page here.", "没有此页面。");
    (StatusCode::NOT_FOUND, page).into_response()
}

// --- the PIN

#[derive(Default, Deserialize)]
#[serde(default)]
struct PinForm {
    pin: String,
}

async fn login_page(State(app): State<Arc<App>>, language: Language) -> Response {
    match kept_pin(&app).await {
        Ok(Some(_)) => view::login(&app.assets, language, None, false).into_response(),
        Ok(None) => view::without_pin(&app.assets, language, None).into_response(),
        Err(error) => view::without_pin(&app.assets, language, Some(&error.to_string())).into_response(),
    }
}

async fn login(
    State(app): State<Arc<App>>,
    jar: CookieJar,
    language: Language,
    form: Result<Form<PinForm>, axum::extract::rejection::FormRejection>,
) -> Response {
    let (Ok(Form(form)), Ok(Some(pin))) = (form, kept_pin(&app).await) else {
        return Redirect::to("/login").into_response();
    };
    // One try at a time, whoever makes it: so many at once count as so many.
    let mut tries = app.tries.lock().await;
    if tries.pin != Some(pin.id()) {
        *tries = super::Tries { pin: Some(pin.id()), ..super::Tries::default() };
    }
    if let Err(wait) = tries.throttle.begin(Instant::now()) {
        let seconds = wait.as_secs() + 1;
        let page = view::login(&app.assets, language, Some(seconds), false);
        return (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, seconds.to_string())], page).into_response();
    }
    let (kept, typed) = (pin.clone(), Zeroizing::new(form.pin));
    if !blocking(move || kept.is(&typed)).await {
        tracing::warn!("somebody typed a wrong PIN at the page");
        let page = view::login(&app.assets, language, None, true);
        return (StatusCode::UNAUTHORIZED, page).into_response();
    }
    tries.throttle.worked();
    drop(tries);
    let mut random = [0; 64];
    getrandom::fill(&mut random).expect("the operating system has a random source");
    let token = {
        let mut sessions = app.sessions();
        if let Some(before) = jar.get(app.cookie()) {
            sessions.end(before.value());
        }
        sessions.begin(pin.id(), random, Instant::now())
    };
    tracing::info!("somebody logged in at the page");
    (jar.add(app.session_cookie(token)), Redirect::to("/")).into_response()
}

async fn logout(State(app): State<Arc<App>>, jar: CookieJar, Asked(who, _): Asked<PlainForm>) -> Response {
    app.sessions().end(&who.token);
    (jar.remove(app.session_cookie(String::new())), Redirect::to("/login")).into_response()
}

// --- what is asked for

async fn pause(State(app): State<Arc<App>>, Asked(who, form): Asked<BendForm>) -> Response {
    bend(&app, &who, &form, None).await
}

async fn boost(State(app): State<Arc<App>>, Asked(who, form): Asked<BendForm>) -> Response {
    match form.rate() {
        Ok(rate) => bend(&app, &who, &form, Some(rate)).await,
        Err(why) => app.not_done(&who, "pause", why, None),
    }
}

async fn bend(app: &Arc<App>, who: &Entered, form: &BendForm, rate: Option<shaping::Rate>) -> Response {
    let line = app.daemon.link().line().clone();
    let (now, zone) = (line.clock().now, line.zone().unwrap_or(jiff::tz::TimeZone::UTC));
    let bending = match form.read(now, &zone) {
        Ok(bending) => bending,
        Err(why) => return app.not_done(who, "pause", why, None),
    };
    let bent = blocking(move || {
        let bent = match rate {
            None => line.pause(bending.lasts, bending.actor, bending.reason),
            Some(rate) => line.boost(rate, bending.lasts, bending.actor, bending.reason),
        };
        line.look();
        bent
    });
    match (bent.await, rate) {
        (Ok(_), None) => app.done(who, "pause", Both::new("Paused.", "已暂停。")),
        (Ok(_), Some(_)) => app.done(who, "pause", Both::new("Boosted.", "已提速。")),
        (Err(error), _) => app.not_done(who, "pause", say::not_bent(&error), None),
    }
}

async fn resume(State(app): State<Arc<App>>, Asked(who, _): Asked<PlainForm>) -> Response {
    let line = app.daemon.link().line().clone();
    let resumed = blocking(move || {
        let resumed = line.resume();
        line.look();
        resumed
    });
    match resumed.await {
        Ok(()) => app.done(&who, "pause", Both::new("Ended; the schedule holds again.", "已结束，恢复按日程运行。")),
        Err(error) => app.not_done(&who, "pause", say::not_bent(&error), None),
    }
}

async fn capture(State(app): State<Arc<App>>, Asked(who, form): Asked<PlainForm>) -> Response {
    match app.daemon.volume(&form.volume) {
        Ok(volume) if volume.capturing.try_lock().is_err() => {
            let text = Both::new("It is being captured already, or is next.", "该卷正在捕获或已在排队。");
            app.told(&who, Notice { at: "volumes", tone: Tone::Calm, text, detail: None })
        }
        Ok(_) => {
            begin_capture(&app, form.volume);
            app.done(&who, "volumes", Both::new("The capture has begun.", "已开始捕获。"))
        }
        Err(error) => app.not_done(&who, "volumes", say::not_added(&error), Some(error.to_string())),
    }
}

/// It goes on when the browser is closed; how it ends is shown with the volume, and in the log.
fn begin_capture(app: &App, volume: String) {
    let daemon = app.daemon.clone();
    app.daemon.tracker().spawn(async move {
        let _shown_with_the_volume = daemon.capture(&volume).await;
    });
}

async fn add_volume(State(app): State<Arc<App>>, Asked(who, form): Asked<VolumeForm>) -> Response {
    let source = match form.source() {
        Ok(source) => source,
        Err(why) => return app.not_done(&who, "volumes", why, None),
    };
    let (name, on_read_error) = (form.name.trim().to_owned(), form.on_read_error());
    let entry = VolumeEntry { name: name.clone(), lineage: LineageId::random(), source, on_read_error, freeze: None };
    match app.daemon.add_volume(entry).await {
        Ok(()) => {
            tracing::info!(volume = name, "added by the page");
            begin_capture(&app, name);
            app.done(&who, "volumes", Both::new("Added; its first capture has begun.", "已添加，首次捕获已开始。"))
        }
        Err(error) => app.not_done(&who, "volumes", say::not_added(&error), Some(error.to_string())),
    }
}

async fn test_line(State(app): State<Arc<App>>, Asked(_, _): Asked<PlainForm>) -> Response {
    app.work.test_line(&app.daemon);
    Redirect::to("/#line").into_response()
}

async fn enrol(State(app): State<Arc<App>>, Asked(who, form): Asked<TokenForm>) -> Response {
    let token = Zeroizing::new(form.token);
    match token.parse::<Token>() {
        Ok(token) => {
            app.work.enrol(&app.daemon, token);
            Redirect::to("/#enrol").into_response()
        }
        Err(error) => {
            let text = Both::new(
                "That is not a whole token. Copy it again from its first character to its last, and paste it here.",
                "令牌不完整。请从第一个字符到最后一个字符重新复制并粘贴。",
            );
            app.not_done(&who, "enrol", text, Some(error.to_string()))
        }
    }
}

async fn bundle(State(app): State<Arc<App>>) -> Response {
    let bundle = diagnostics::bundle(&app.daemon).await;
    let name = format!("attachment; filename=\"{}\"", diagnostics::file_name(&bundle));
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // A name has nothing but letters, digits and dashes.
    headers.insert(
        header::CONTENT_DISPOSITION,
        HeaderValue::try_from(name).unwrap_or(HeaderValue::from_static("attachment")),
    );
    (headers, diagnostics::text(&bundle)).into_response()
}

#[cfg(test)]
mod tests;
