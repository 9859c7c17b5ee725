//! Answers of the API.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

use super::message::Refused;
use crate::store::StoreError;

/// A whole answer.
pub type Answer = Response<Full<Bytes>>;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// `value` as JSON.
pub fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => whole(status, JSON, body),
        Err(error) => {
            tracing::error!(%error, "an answer is no JSON");
            text(StatusCode::INTERNAL_SERVER_ERROR, String::new())
        }
    }
}

/// Plain text.
pub fn text(status: StatusCode, body: String) -> Answer {
    whole(status, HeaderValue::from_static("text/plain; charset=utf-8"), body.into_bytes())
}

/// Text in the format of Prometheus.
pub fn metrics(body: String) -> Answer {
    whole(
        StatusCode::OK,
        HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
        body.into_bytes(),
    )
}

/// Why something was not done.
pub fn refused(status: StatusCode, message: impl Into<String>) -> Answer {
    json(status, &Refused { message: message.into(), errors: Vec::new() })
}

/// The request has shown neither the operator's token nor an operator's certificate.
pub fn unauthorized() -> Answer {
    let mut answer = refused(
        StatusCode::UNAUTHORIZED,
        "the operator's token is missing or wrong, and no operator's certificate was shown",
    );
    answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    answer
}

/// Why the store did not take a change.
pub fn store_error(error: StoreError) -> Answer {
    let message = error.to_string();
    match error {
        StoreError::Invalid(faults) => {
            let message = "nothing was changed, since there are faults".to_string();
            json(StatusCode::UNPROCESSABLE_ENTITY, &Refused { message, errors: faults.errors })
        }
        StoreError::Conflict(faults) => {
            let message = "nothing was changed, since someone else has changed the same".to_string();
            json(StatusCode::CONFLICT, &Refused { message, errors: faults.errors })
        }
        StoreError::NotFound(_) => refused(StatusCode::NOT_FOUND, message),
        StoreError::Backup(_) => refused(StatusCode::UNPROCESSABLE_ENTITY, message),
        StoreError::InUse(_) | StoreError::Schema(..) | StoreError::Disk(..) => {
            tracing::error!(error = message, "the store failed");
            refused(StatusCode::INTERNAL_SERVER_ERROR, message)
        }
    }
}

fn whole(status: StatusCode, kind: HeaderValue, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}
