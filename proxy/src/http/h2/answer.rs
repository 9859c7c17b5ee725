//! Answers of our own on an HTTP/2 stream, and what a cut of a stream means.

use lighter_filters::LocalAnswer;

use super::conn;
use super::fields::ResponseHead;
use super::frame::Code;
use crate::error::{Cause, ProxyError};
use crate::http::hop;
use crate::http::local::ErrorAnswer;
use crate::http::stream::{Broken, Stream};
use crate::link::frame::{self, Cut};
use crate::retry::Came;

/// Tells the caller that its request failed here. Returns the status and the body's length.
pub(crate) fn error(respond: &Stream, error: &ProxyError, grpc: bool, head_only: bool) -> (u16, u64) {
    let answer = ErrorAnswer::of(error, grpc);
    let mut body = answer.body();
    if !head_only && !respond.has_capacity(body.len()) {
        // The caller takes no bodies yet. The head says all that matters.
        body.clear();
    }
    let mut head = ResponseHead::new(answer.status());
    for (name, value) in answer.fields() {
        head.fields.push(name.as_bytes(), &value);
    }
    if !grpc {
        put_length(&mut head, body.len());
    }
    let bare = head_only || body.is_empty();
    let sent = if bare { 0 } else { body.len() as u64 };
    if respond.send_head(&head, bare).is_ok() && !bare {
        let _ = respond.send_data(body.into(), true);
    }
    (answer.status(), sent)
}

/// Passes on what a filter answered. Returns the status.
pub(crate) fn filtered(respond: &Stream, answer: &LocalAnswer) -> u16 {
    let mut head = ResponseHead::new(answer.status);
    for (name, value) in &answer.fields {
        let name = name.to_ascii_lowercase();
        if hop::allowed_in_http2(name.as_bytes(), value) {
            head.fields.push(name.as_bytes(), value);
        }
    }
    put_length(&mut head, 0);
    let _ = respond.send_head(&head, true);
    answer.status
}

/// What `broken`, which came before the answer's head, says of the upstream.
pub(crate) fn before_head(broken: Broken) -> ProxyError {
    let cut = match broken {
        Broken::Http2(cut) => cut,
        Broken::Link(cut) => return cut_before_head(cut),
    };
    let (cause, detail) = match cut {
        conn::Cut::Unread => {
            let detail = "the upstream went away before it read the request";
            return ProxyError::new(Cause::UpstreamClosed, detail).safe();
        }
        conn::Cut::Reset(Code::REFUSED_STREAM) => {
            let detail = "the upstream refused the stream unread";
            return ProxyError::new(Cause::UpstreamReset, detail).safe();
        }
        conn::Cut::Reset(_) => (Cause::UpstreamReset, "the upstream reset the stream"),
        conn::Cut::Malformed => (Cause::UpstreamMalformed, "the upstream broke the rules of HTTP/2"),
        conn::Cut::Given | conn::Cut::Lost => {
            (Cause::UpstreamClosed, "the upstream closed before it answered")
        }
    };
    ProxyError::new(cause, detail).after(Came::Broken)
}

/// What `broken`, which came after the answer's head, says of the upstream.
pub(crate) fn after_head(broken: Broken) -> ProxyError {
    let (cause, detail) = match broken {
        Broken::Http2(conn::Cut::Reset(_)) => {
            (Cause::UpstreamReset, "the upstream reset the stream within the answer")
        }
        Broken::Http2(conn::Cut::Malformed) => {
            (Cause::UpstreamMalformed, "the answer breaks the rules of HTTP/2")
        }
        Broken::Http2(_) => (Cause::UpstreamTruncated, "the upstream closed within the answer"),
        Broken::Link(Cut { cause: Some(cause), .. }) => (cause, "the sidecar of the endpoint cut the answer"),
        Broken::Link(_) => (Cause::UpstreamTruncated, "the answer was cut"),
    };
    ProxyError::new(cause, detail)
}

fn cut_before_head(cut: Cut) -> ProxyError {
    match cut {
        // It was not executed.
        Cut { code: frame::Code::Refused, cause } => {
            let detail = "the sidecar of the endpoint refused the request";
            ProxyError::new(cause.unwrap_or(Cause::UpstreamClosed), detail).safe()
        }
        Cut { code: frame::Code::Lost, .. } => {
            ProxyError::new(Cause::UpstreamClosed, "the link was lost before the answer").after(Came::Broken)
        }
        Cut { cause, .. } => {
            let detail = "the sidecar of the endpoint cut the request off";
            ProxyError::new(cause.unwrap_or(Cause::UpstreamReset), detail).after(Came::Broken)
        }
    }
}

fn put_length(head: &mut ResponseHead, length: usize) {
    head.fields.push(b"content-length", itoa::Buffer::new().format(length).as_bytes());
}
