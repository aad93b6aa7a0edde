//! Who asks.

use super::Problem;
use crate::access::Caller;
use crate::access::sessions::{Signed, is_from_us};
use crate::web::Web;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum_extra::extract::CookieJar;
use axum_extra::extract::cookie::Cookie;
use std::sync::Arc;
use tokio::time::Instant;

/// Whoever asks, signed in and with a password of their own.
pub(crate) struct Me(pub(crate) Caller);

/// Whoever asks by a session, also while the password has to be changed.
pub(crate) struct MySession {
    pub(crate) signed: Signed,
    pub(crate) secret: String,
}

impl FromRequestParts<Arc<Web>> for Me {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, web: &Arc<Web>) -> Result<Me, Problem> {
        let caller = match bearer(&parts.headers) {
            Some(token) => web.of_token(token.to_owned()).await?.ok_or_else(Problem::signed_out)?,
            None => {
                let session = MySession::from_request_parts(parts, web).await?;
                if session.signed.must_change {
                    return Err(Problem::must_change());
                }
                session.signed.caller
            }
        };
        match web.may_call(&caller) {
            true => Ok(Me(caller)),
            false => Err(Problem::throttled("more than 200 requests a second: ask less often", 1)),
        }
    }
}

impl FromRequestParts<Arc<Web>> for MySession {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, web: &Arc<Web>) -> Result<MySession, Problem> {
        let (signed, secret) = signed_in(&parts.headers, web).ok_or_else(Problem::signed_out)?;
        let looks = matches!(parts.method, Method::GET | Method::HEAD);
        let word = parts.headers.get("x-csrf-token").and_then(|word| word.to_str().ok()).unwrap_or_default();
        match looks || is_from_us(&signed, word) {
            true => Ok(MySession { signed, secret }),
            false => Err(Problem::csrf()),
        }
    }
}

/// The session of a browser, with its secret.
pub(crate) fn signed_in(headers: &HeaderMap, web: &Web) -> Option<(Signed, String)> {
    let secret = CookieJar::from_headers(headers).get(web.cookie_name()).map(Cookie::value)?.to_owned();
    let signed = web.sessions.of(&secret, Instant::now())?;
    Some((signed, secret))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let said = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = said.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}
