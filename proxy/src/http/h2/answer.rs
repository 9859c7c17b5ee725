//! Answers of our own on an HTTP/2 stream, and what an error of `h2` means.

use h2::Reason;
use http::header::CONTENT_LENGTH;
use http::{HeaderName, HeaderValue, Response, StatusCode, Version};
use lighter_filters::LocalAnswer;

use crate::error::{Cause, ProxyError};
use crate::http::local::ErrorAnswer;
use crate::http::stream::{Broken, Respond};
use crate::link::frame::{Code, Cut};

/// Tells the caller that its request failed here. Returns the status and the body's length.
pub(crate) fn error(respond: &mut Respond, error: &ProxyError, grpc: bool, head_only: bool) -> (u16, u64) {
    let answer = ErrorAnswer::of(error, grpc);
    let body = answer.body();
    let mut response = start(answer.status());
    for (name, value) in answer.fields() {
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    if !grpc {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    let bare = head_only || body.is_empty();
    let sent = if bare { 0 } else { body.len() as u64 };
    if let Ok(mut stream) = respond.answer(response, bare)
        && !bare
    {
        // One short line: it may wait for the caller's window.
        let _ = stream.send(body.into(), true);
    }
    (answer.status(), sent)
}

/// Passes on what a filter answered. Returns the status.
pub(crate) fn filtered(respond: &mut Respond, answer: &LocalAnswer) -> u16 {
    let mut response = start(answer.status);
    for (name, value) in &answer.fields {
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value))
        {
            response.headers_mut().append(name, value);
        }
    }
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(0));
    let _ = respond.answer(response, true);
    answer.status
}

/// What `broken`, which came before the answer's head, says of the upstream.
pub(crate) fn before_head(broken: &Broken) -> ProxyError {
    let error = match broken {
        Broken::Http2(error) => error,
        Broken::Link(cut) => return cut_before_head(*cut),
    };
    if error.is_go_away() && error.is_remote() {
        // `h2` ends with GOAWAY only streams above its last id, which the peer has not looked at (RFC 9113 §6.8).
        return ProxyError::new(Cause::UpstreamClosed, "the upstream went away before it read the request")
            .safe();
    }
    if error.is_reset() && error.is_remote() {
        return match error.reason() {
            Some(Reason::REFUSED_STREAM) => {
                ProxyError::new(Cause::UpstreamReset, "the upstream refused the stream unread").safe()
            }
            _ => ProxyError::new(Cause::UpstreamReset, "the upstream reset the stream"),
        };
    }
    if error.is_library() || error.is_go_away() {
        return ProxyError::new(Cause::UpstreamMalformed, "the upstream broke the rules of HTTP/2");
    }
    ProxyError::new(Cause::UpstreamClosed, "the upstream closed before it answered")
}

/// What `broken`, which came after the answer's head, says of the upstream.
pub(crate) fn after_head(broken: &Broken) -> ProxyError {
    let error = match broken {
        Broken::Http2(error) => error,
        Broken::Link(Cut { cause: Some(cause), .. }) => {
            return ProxyError::new(*cause, "the sidecar of the endpoint cut the answer");
        }
        Broken::Link(_) => return ProxyError::new(Cause::UpstreamTruncated, "the answer was cut"),
    };
    let (cause, detail) = if error.is_reset() && error.is_remote() {
        (Cause::UpstreamReset, "the upstream reset the stream within the answer")
    } else if error.is_library() {
        (Cause::UpstreamMalformed, "the answer breaks the rules of HTTP/2")
    } else {
        (Cause::UpstreamTruncated, "the upstream closed within the answer")
    };
    ProxyError::new(cause, detail)
}

fn cut_before_head(cut: Cut) -> ProxyError {
    match cut {
        // It was not executed.
        Cut { code: Code::Refused, cause } => {
            let detail = "the sidecar of the endpoint refused the request";
            ProxyError::new(cause.unwrap_or(Cause::UpstreamClosed), detail).safe()
        }
        Cut { code: Code::Lost, .. } => {
            ProxyError::new(Cause::UpstreamClosed, "the link was lost before the answer")
        }
        Cut { cause, .. } => ProxyError::new(
            cause.unwrap_or(Cause::UpstreamReset),
            "the sidecar of the endpoint cut the request off",
        ),
    }
}

fn start(status: u16) -> Response<()> {
    let mut response = Response::new(());
    *response.version_mut() = Version::HTTP_2;
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}
