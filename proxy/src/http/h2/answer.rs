//! Answers of our own on an HTTP/2 stream, and what an error of `h2` means.

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::header::CONTENT_LENGTH;
use http::{HeaderName, HeaderValue, Response, StatusCode, Version};
use lighter_filters::LocalAnswer;

use crate::error::{Cause, ProxyError};
use crate::http::local::ErrorAnswer;

/// Tells the caller that its request failed here. Returns the status and the body's length.
pub(crate) fn error(
    respond: &mut SendResponse<Bytes>,
    error: &ProxyError,
    grpc: bool,
    head_only: bool,
) -> (u16, u64) {
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
    if let Ok(mut stream) = respond.send_response(response, bare)
        && !bare
    {
        // One short line: it may wait for the caller's window.
        let _ = stream.send_data(body.into(), true);
    }
    (answer.status(), sent)
}

/// Passes on what a filter answered. Returns the status.
pub(crate) fn filtered(respond: &mut SendResponse<Bytes>, answer: &LocalAnswer) -> u16 {
    let mut response = start(answer.status);
    for (name, value) in &answer.fields {
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value))
        {
            response.headers_mut().append(name, value);
        }
    }
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(0));
    let _ = respond.send_response(response, true);
    answer.status
}

/// Cuts an answer whose head was sent, so that it cannot be taken for a whole one.
pub(crate) fn cut(stream: &mut SendStream<Bytes>, error: &ProxyError, reason: Option<Reason>) {
    stream.send_reset(match (error.cause, reason) {
        // Some clients take NO_ERROR for a clean end.
        (_, Some(reason)) if reason != Reason::NO_ERROR => reason,
        (Cause::RequestTimeout | Cause::IdleTimeout, _) => Reason::CANCEL,
        _ => Reason::INTERNAL_ERROR,
    });
}

/// What `error`, which came before the answer's head, says of the upstream.
pub(crate) fn before_head(error: &h2::Error) -> ProxyError {
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

/// What `error`, which came after the answer's head, says of the upstream.
pub(crate) fn after_head(error: &h2::Error) -> ProxyError {
    let (cause, detail) = if error.is_reset() && error.is_remote() {
        (Cause::UpstreamReset, "the upstream reset the stream within the answer")
    } else if error.is_library() {
        (Cause::UpstreamMalformed, "the answer breaks the rules of HTTP/2")
    } else {
        (Cause::UpstreamTruncated, "the upstream closed within the answer")
    };
    ProxyError::new(cause, detail)
}

fn start(status: u16) -> Response<()> {
    let mut response = Response::new(());
    *response.version_mut() = Version::HTTP_2;
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}
