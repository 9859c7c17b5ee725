//! Answers that this sidecar gives itself. Each one names its cause.

use lighter_filters::LocalAnswer;

use crate::error::{Cause, ProxyError};

/// The field that names the cause of an answer of our own.
pub const ERROR_FIELD: &str = "x-lighter-error";

/// The field by which a sidecar that drains says so to the sidecar of a caller, beside `Connection: close`, which alone may
/// mean no more than that a connection is old.
pub const DRAINING_FIELD: &str = "x-lighter-draining";

/// What the value of [`ERROR_FIELD`] in an endpoint's answer says, if it is that the sidecar there could not reach its
/// application, or does not have the state of its Service: so the request did not run.
///
/// A sidecar takes this field from whatever its application answers, so with a sidecar beside the endpoint it is true.
/// Without one it can be a lie, or an answer of another hop that the endpoint passed on after it had done its own part.
/// That is why it moves only requests that may run twice anyway, unless it came by a link, at whose other end there is a
/// sidecar for certain. An endpoint that lies is avoided for it.
pub fn unreached(value: &[u8]) -> Option<Cause> {
    [Cause::ConnectRefused, Cause::ConnectTimeout, Cause::ConnectFailed, Cause::NotServing]
        .into_iter()
        .find(|cause| cause.label().as_bytes() == value)
}

/// What the value of [`ERROR_FIELD`] in an answer says, if it is that the request may have run: where that is so of a Service with
/// state, every sidecar on the way counts it.
pub fn unknown(value: &[u8]) -> Option<Cause> {
    (value == Cause::OutcomeUnknown.label().as_bytes()).then_some(Cause::OutcomeUnknown)
}

/// In place of what a sidecar answers the last try of a request, of which an earlier one may have run at a Service with state.
pub(crate) const RAN_BEFORE: &str = "an earlier try may have run, and the last one was refused";

/// An error as it is told to the caller.
#[derive(Clone, Copy, Debug)]
pub struct ErrorAnswer {
    /// Why.
    pub cause: Cause,
    /// A few words more; text of ours, never the peer's.
    pub detail: &'static str,
    /// Whether the caller speaks gRPC, and so wants a gRPC status.
    pub grpc: bool,
}

impl ErrorAnswer {
    /// What `error` tells a caller.
    pub fn of(error: &ProxyError, grpc: bool) -> Self {
        ErrorAnswer { cause: error.cause, detail: error.detail, grpc }
    }

    /// The HTTP status: always 200 for gRPC, whose status is a field.
    pub fn status(&self) -> u16 {
        if self.grpc { 200 } else { self.cause.status() }
    }

    /// Every field beside Content-Length, names in lower case. For gRPC they are the whole answer ("trailers-only").
    pub fn fields(&self) -> Vec<(&'static str, Vec<u8>)> {
        let error = (ERROR_FIELD, self.cause.label().into());
        if !self.grpc {
            return vec![error, ("content-type", b"text/plain".to_vec())];
        }
        vec![
            error,
            ("content-type", b"application/grpc".to_vec()),
            ("grpc-status", self.cause.grpc_status().to_string().into_bytes()),
            ("grpc-message", percent_encode(self.message().as_bytes())),
        ]
    }

    /// The body: a line for people. Empty for gRPC.
    pub fn body(&self) -> Vec<u8> {
        if self.grpc { Vec::new() } else { format!("{}\n", self.message()).into_bytes() }
    }

    /// The whole answer in HTTP/1.1. `head_only`: the request was HEAD. `close`: the connection ends with it.
    pub fn http1(&self, head_only: bool, close: bool) -> Vec<u8> {
        let body = self.body();
        let mut out = start(self.status());
        for (name, value) in self.fields() {
            put_field(&mut out, name.as_bytes(), &value);
        }
        finish(out, &body, head_only, close)
    }

    fn message(&self) -> String {
        format!("lighter: {}: {}", self.cause.label(), self.detail)
    }
}

/// The whole answer of a filter in HTTP/1.1; its body is empty.
pub fn filter_answer_http1(answer: &LocalAnswer, close: bool) -> Vec<u8> {
    let mut out = start(answer.status);
    for (name, value) in &answer.fields {
        put_field(&mut out, name.as_bytes(), value);
    }
    finish(out, b"", false, close)
}

fn start(status: u16) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason(status).as_bytes());
    out.extend_from_slice(b"\r\n");
    out
}

fn finish(mut out: Vec<u8>, body: &[u8], head_only: bool, close: bool) -> Vec<u8> {
    put_field(&mut out, b"content-length", itoa::Buffer::new().format(body.len()).as_bytes());
    if close {
        put_field(&mut out, b"connection", b"close");
    }
    out.extend_from_slice(b"\r\n");
    if !head_only {
        out.extend_from_slice(body);
    }
    out
}

fn put_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn reason(status: u16) -> &'static str {
    match status {
        499 => "Client Closed Request",
        _ => http::StatusCode::from_u16(status).ok().and_then(|known| known.canonical_reason()).unwrap_or(""),
    }
}

/// As `grpc-message` wants it: printable ASCII but the percent sign stays.
fn percent_encode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for byte in text {
        if matches!(byte, b' '..=b'~') && *byte != b'%' {
            out.push(*byte);
        } else {
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_its_cause_in_field_and_body() {
        let answer = ErrorAnswer { cause: Cause::ConnectRefused, detail: "no one listens", grpc: false };
        let text = String::from_utf8(answer.http1(false, true)).unwrap();
        assert_eq!(
            text,
            "HTTP/1.1 503 Service Unavailable\r\nx-lighter-error: connect_refused\r\ncontent-type: text/plain\r\n\
             content-length: 41\r\nconnection: close\r\n\r\nlighter: connect_refused: no one listens\n"
        );
    }

    #[test]
    fn head_has_the_length_but_no_body() {
        let answer = ErrorAnswer { cause: Cause::NoRoute, detail: "x", grpc: false };
        let text = String::from_utf8(answer.http1(true, false)).unwrap();
        assert!(text.ends_with("content-length: 21\r\n\r\n"), "{text}");
    }

    #[test]
    fn grpc_gets_a_status_field_and_http_200() {
        let answer = ErrorAnswer { cause: Cause::NoRoute, detail: "100%\n", grpc: true };
        assert_eq!(answer.status(), 200);
        assert!(answer.body().is_empty());
        assert!(answer.fields().contains(&("grpc-status", b"12".to_vec())));
        assert!(answer.fields().contains(&("grpc-message", b"lighter: no_route: 100%25%0A".to_vec())));
    }

    #[test]
    fn a_filter_answers_without_a_body() {
        let answer = LocalAnswer::new(302, vec![("location".into(), b"/x".to_vec())]);
        assert_eq!(
            filter_answer_http1(&answer, false),
            b"HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n"
        );
    }
}
