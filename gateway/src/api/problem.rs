//! What went wrong, as `application/problem+json` (RFC 9457).

use crate::access::accounts::AccountError;
use crate::admin::{AdminError, Fault};
use crate::policies::ChangeError;
use crate::state::StateError;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use shaping::policy::PolicyError;
use utoipa::ToSchema;

/// A problem. `detail` names the thing, the cause and the next step.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Problem {
    /// Names the kind of problem: `urn:sluice:problem:` and `missing`, `invalid`, `conflict`, `stale`, `forbidden`, `signed-out`, `password`, `csrf`,
    /// `throttled`, `precondition`, `busy` or `failed`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// What happened, and what to do.
    pub detail: String,
    /// The field that is wrong, if one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The line of the document that is wrong, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<usize>)]
    pub line: Option<u32>,
    /// Seconds after which trying again makes sense.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub retry_after: Option<u32>,
}

impl Problem {
    fn new(status: StatusCode, word: &str, title: &'static str, detail: impl Into<String>) -> Problem {
        Problem {
            kind: format!("urn:sluice:problem:{word}"),
            title,
            status: status.as_u16(),
            detail: detail.into(),
            field: None,
            line: None,
            retry_after: None,
        }
    }

    /// Nobody is signed in.
    pub fn signed_out() -> Problem {
        let detail = "sign in, or send an API token: `Authorization: Bearer sluice_…`";
        Problem::new(StatusCode::UNAUTHORIZED, "signed-out", "Not signed in", detail)
    }

    /// Name or password is wrong.
    pub fn wrong_password() -> Problem {
        Problem::new(StatusCode::UNAUTHORIZED, "wrong", "Not signed in", AccountError::Wrong.to_string())
    }

    /// The password has to be changed first.
    pub fn must_change() -> Problem {
        let detail = "this password was given to you: choose one of your own first";
        Problem::new(StatusCode::FORBIDDEN, "password", "Change the password", detail)
    }

    /// A request that changes something did not come from our pages.
    pub fn csrf() -> Problem {
        let detail = "the request does not carry the word of its session (header `X-CSRF-Token`): load the page again";
        Problem::new(StatusCode::FORBIDDEN, "csrf", "Not from this page", detail)
    }

    /// Too often.
    pub fn throttled(detail: &str, seconds: u32) -> Problem {
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "throttled", "Too often", detail);
        Problem { retry_after: Some(seconds), ..problem }
    }

    /// There is too much under way.
    pub fn busy(detail: impl Into<String>) -> Problem {
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "busy", "Busy", detail);
        Problem { retry_after: Some(10), ..problem }
    }

    /// What was named is not there.
    pub fn missing(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "missing", "Not found", detail)
    }

    /// What was asked for cannot be.
    pub fn invalid(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", "Not valid", detail)
    }

    /// The request cannot be read.
    pub fn unreadable(status: StatusCode, detail: impl Into<String>) -> Problem {
        Problem::new(status, "invalid", "Not valid", detail)
    }

    /// It does not fit what is there.
    pub fn conflict(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::CONFLICT, "conflict", "Conflict", detail)
    }

    /// It is not said what the change was written for.
    pub fn precondition() -> Problem {
        let detail = "say which version this was written for: `If-Match: \"v7\"` with the ETag that you got, or `If-None-Match: *` where there is none yet";
        Problem::new(StatusCode::PRECONDITION_REQUIRED, "precondition", "Which version?", detail)
    }

    /// Written for another version.
    pub fn stale(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::PRECONDITION_FAILED, "stale", "Changed since", detail)
    }

    /// Not theirs to do.
    pub fn forbidden(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::FORBIDDEN, "forbidden", "Not allowed", detail)
    }

    /// The gateway failed; the log has it.
    pub fn failed(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", "The gateway failed", detail)
    }
}

impl From<AdminError> for Problem {
    fn from(error: AdminError) -> Problem {
        let detail = error.to_string();
        let problem = match error.fault() {
            Fault::Missing => Problem::missing(detail),
            Fault::Invalid => Problem::invalid(detail),
            Fault::Conflict => Problem::conflict(detail),
            Fault::Stale => Problem::stale(detail),
            Fault::Forbidden => Problem::forbidden(detail),
            Fault::Failed => {
                tracing::error!(%error, "a request of the API failed");
                Problem::failed(detail)
            }
        };
        match &error {
            AdminError::Policy(ChangeError::Policy(PolicyError::Field { line, field, .. })) => {
                Problem { line: u32::try_from(*line).ok(), field: Some(field.clone()), ..problem }
            }
            AdminError::Policy(ChangeError::Invalid { field, .. }) => Problem { field: Some(field.clone()), ..problem },
            _ => problem,
        }
    }
}

impl From<StateError> for Problem {
    fn from(error: StateError) -> Problem {
        AdminError::from(error).into()
    }
}

impl From<crate::catalogue::CatalogueError> for Problem {
    fn from(error: crate::catalogue::CatalogueError) -> Problem {
        AdminError::from(error).into()
    }
}

impl From<AccountError> for Problem {
    fn from(error: AccountError) -> Problem {
        AdminError::from(error).into()
    }
}

impl From<crate::access::Forbidden> for Problem {
    fn from(error: crate::access::Forbidden) -> Problem {
        Problem::forbidden(error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).expect("a problem is plain JSON");
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"sluice\""));
        }
        response
    }
}
