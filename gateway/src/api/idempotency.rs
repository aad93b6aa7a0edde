//! A POST that is sent again is answered again, and not done again: the answer may have been lost on the way.
//!
//! Kept in memory, for whoever carries an `Idempotency-Key`. After a restart of the gateway a repeated request is done again, and what it asks for then says that
//! it is there already.

use super::Problem;
use crate::web::Web;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// How long an answer is kept.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// Answers that are kept at most; the oldest make way.
const MOST: usize = 4096;
/// Bytes of an answer that are kept at most.
const MAX_ANSWER: usize = 64 << 10;
/// Bytes of a request at most, as everywhere.
const MAX_BODY: usize = 2 << 20;
/// Characters of a key at most.
const MAX_KEY: usize = 200;

/// Answers that were given.
#[derive(Debug, Default)]
pub(crate) struct Idempotency {
    kept: Mutex<HashMap<[u8; 32], Entry>>,
}

#[derive(Debug)]
struct Entry {
    at: Instant,
    /// Of what was asked for: the same key with another request is a mistake.
    request: [u8; 32],
    /// `None`: it is being done.
    answer: Option<(StatusCode, HeaderMap, Bytes)>,
}

enum Found {
    New,
    Answered(Response),
    Refused(Problem),
}

pub(crate) async fn layer(State(web): State<Arc<Web>>, request: Request, next: Next) -> Response {
    let key = match request.headers().get("idempotency-key") {
        Some(key) if request.method() == Method::POST => key.clone(),
        _ => return next.run(request).await,
    };
    if key.is_empty() || key.len() > MAX_KEY {
        return Problem::invalid(format!("an `Idempotency-Key` has 1 to {MAX_KEY} characters")).into_response();
    }
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY).await else {
        let said = format!("the body is larger than {MAX_BODY} bytes, or did not arrive whole");
        return Problem::unreadable(StatusCode::PAYLOAD_TOO_LARGE, said).into_response();
    };
    // Keys of different callers are different keys: who they are is in these headers.
    let mut name = blake3::Hasher::new();
    for header in [header::AUTHORIZATION, header::COOKIE] {
        for value in parts.headers.get_all(&header) {
            name.update(&(value.len() as u64).to_le_bytes()).update(value.as_bytes());
        }
        name.update(b"\n");
    }
    let name = *name.update(key.as_bytes()).finalize().as_bytes();
    let asked = *blake3::Hasher::new()
        .update(parts.uri.to_string().as_bytes())
        .update(b"\n")
        .update(&body)
        .finalize()
        .as_bytes();
    match web.idempotency.find(name, asked, Instant::now()) {
        Found::Answered(answer) => return answer,
        Found::Refused(problem) => return problem.into_response(),
        Found::New => {}
    }
    // Whoever goes away while it is done leaves no entry behind that nobody will answer.
    let pending = Pending { web: &web, name, kept: false };
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    pending.keep(response).await
}

struct Pending<'a> {
    web: &'a Web,
    name: [u8; 32],
    kept: bool,
}

impl Pending<'_> {
    async fn keep(mut self, response: Response) -> Response {
        let is_final = response.status().is_success() || response.status() == StatusCode::CONFLICT;
        let small = response.headers().get(header::CONTENT_TYPE).is_some_and(|media| media != "text/event-stream");
        if !is_final || !small {
            return response; // to be tried again
        }
        let (parts, body) = response.into_parts();
        let Ok(body) = to_bytes(body, MAX_ANSWER).await else {
            return Problem::failed("the answer is too large to be kept under an `Idempotency-Key`: ask without one")
                .into_response();
        };
        self.web.idempotency.answered(self.name, (parts.status, parts.headers.clone(), body.clone()));
        self.kept = true;
        Response::from_parts(parts, Body::from(body))
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.web.idempotency.forget(self.name);
        }
    }
}

impl Idempotency {
    fn find(&self, name: [u8; 32], request: [u8; 32], now: Instant) -> Found {
        let mut kept = self.lock();
        kept.retain(|_, entry| now.saturating_duration_since(entry.at) < KEPT);
        if let Some(entry) = kept.get(&name) {
            return match &entry.answer {
                _ if entry.request != request => Found::Refused(Problem::invalid(
                    "this `Idempotency-Key` was used for another request: make a new one",
                )),
                None => Found::Refused(Problem::conflict(
                    "the request with this `Idempotency-Key` is being done: wait for its answer",
                )),
                Some((status, headers, body)) => {
                    let mut answer = (*status, body.clone()).into_response();
                    *answer.headers_mut() = headers.clone();
                    Found::Answered(answer)
                }
            };
        }
        if kept.len() >= MOST
            && let Some(oldest) = kept.iter().min_by_key(|(_, entry)| entry.at).map(|(name, _)| *name)
        {
            kept.remove(&oldest);
        }
        kept.insert(name, Entry { at: now, request, answer: None });
        Found::New
    }

    fn answered(&self, name: [u8; 32], answer: (StatusCode, HeaderMap, Bytes)) {
        if let Some(entry) = self.lock().get_mut(&name) {
            entry.answer = Some(answer);
        }
    }

    fn forget(&self, name: [u8; 32]) {
        self.lock().remove(&name);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], Entry>> {
        self.kept.lock().expect("no thread panics while it holds the answers")
    }
}
