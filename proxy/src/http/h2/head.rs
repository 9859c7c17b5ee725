//! Heads of HTTP/2 messages: what a route sees of them, what a hop adds and takes away, and their way through a
//! filter chain.

use std::borrow::Cow;
use std::rc::Rc;
use std::time::{Duration, Instant};

use lighter_config::snapshot::Route;
use lighter_filters::{Chain, Facts, LocalAnswer, Orders};

use super::fields::{Fields, RequestHead, ResponseHead};
use crate::error::Cause;
use crate::http::dice;
use crate::http::h1::head::is_authority;
use crate::http::hop::{self, Kind};
use crate::link::accept::Caller;
use crate::mesh::RouteState;
use crate::mirror::Copy;
use crate::telemetry::spans::{self, Begun};
use crate::telemetry::{Direction, trace};
use crate::worker::Worker;

/// `x-request-id`.
const REQUEST_ID: &[u8] = b"x-request-id";
/// `x-forwarded-for`.
const FORWARDED_FOR: &[u8] = b"x-forwarded-for";
/// `x-forwarded-client-cert`.
const CLIENT_CERT: &[u8] = b"x-forwarded-client-cert";
/// `grpc-timeout`.
pub(crate) const GRPC_TIMEOUT: &[u8] = b"grpc-timeout";

/// Whether the message is gRPC.
pub(crate) fn is_grpc(fields: &Fields) -> bool {
    fields.of(Kind::ContentType).is_some_and(hop::is_grpc)
}

/// Whether it says that its caller's sidecar keeps the request. Only on a link is that worth anything.
#[cold]
pub(crate) fn is_kept(head: &RequestHead) -> bool {
    head.fields.get(hop::KEEPS_FIELD.as_bytes()).is_some()
}

/// The value of `x-request-id`, or nothing.
pub(crate) fn request_id(fields: &Fields) -> &[u8] {
    fields.of(Kind::RequestId).unwrap_or_default()
}

/// Makes `:authority` say what `Host` says where it is absent, and takes `Host` away. Two authorities that differ can
/// be read in two ways (RFC 9113 §8.3.1).
pub(crate) fn unify_authority(head: &mut RequestHead) -> Result<(), Cause> {
    let mut hosts = head.fields.all_of(Kind::Host);
    let Some(host) = hosts.next() else { return Ok(()) };
    if hosts.next().is_some() {
        return Err(Cause::AmbiguousMessage);
    }
    drop(hosts);
    if head.authority().is_empty() {
        if !is_authority(host) {
            return Err(Cause::BadRequest);
        }
        let host = host.to_vec();
        head.set_authority(&host);
    } else if !head.authority().eq_ignore_ascii_case(host) {
        return Err(Cause::AmbiguousMessage);
    }
    head.fields.remove(Kind::Host);
    Ok(())
}

/// Why a request's authority leads nowhere, in words.
pub(crate) fn misdirected(cause: Cause) -> &'static str {
    match cause {
        Cause::NotInRegistry => "the authority names no service that is known here",
        Cause::Unsupported => "the port does not speak HTTP",
        _ => "the authority cannot be read",
    }
}

/// Takes `x-lighter-*` away where `direction` and `half` do not let it pass.
pub(crate) fn strip(fields: &mut Fields, direction: Direction, half: hop::Half) {
    if !hop::lighter_passes(direction, half) {
        fields.remove(Kind::Lighter);
    }
}

/// Takes away what may not stand in a trailer section: above all `x-lighter-*`, which no sidecar puts there.
pub(crate) fn strip_trailers(trailers: &mut Fields) {
    trailers.retain(|field| hop::allowed_in_trailers(field.name));
}

/// Adds what this hop adds to a request: `x-request-id` on the way out, the caller's address on the way in.
pub(crate) fn annotate(fields: &mut Fields, direction: Direction, peer: &str) {
    match direction {
        Direction::Outbound => {
            // Never the same twice: in a table of HPACK it would only push out what is.
            if !fields.hide(Kind::RequestId) {
                fields.push_as(REQUEST_ID, &trace::request_id(), true);
            }
        }
        Direction::Inbound => {
            let mut value = Vec::new();
            for before in fields.all_of(Kind::ForwardedFor) {
                value.extend_from_slice(before);
                value.extend_from_slice(b", ");
            }
            value.extend_from_slice(peer.as_bytes());
            fields.set(FORWARDED_FOR, &value);
        }
    }
}

/// Begins a span for a request if one is to be recorded, and says so to the next in line.
pub(crate) fn begin_span(fields: &mut Fields, direction: Direction) -> Option<Box<Begun>> {
    let span = spans::begin(direction, |name| fields.get(name.as_bytes()))?;
    span.write(|name, value| fields.set(name.as_bytes(), value));
    Some(span)
}

/// Says who called, in place of whatever the caller said itself.
pub(crate) fn vouch(fields: &mut Fields, caller: Option<&Caller>) {
    match caller {
        Some(caller) => fields.set(CLIENT_CERT, caller.field.as_bytes()),
        None => fields.remove(Kind::ClientCert),
    }
}

/// What `grpc-timeout` says (at most eight digits and a unit); `None` where it is absent or not valid.
pub(crate) fn grpc_timeout(fields: &Fields) -> Option<Duration> {
    let value = fields.get(GRPC_TIMEOUT)?;
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// `left` as `grpc-timeout` says it: at most eight digits.
pub(crate) fn grpc_timeout_value(left: Duration) -> String {
    let (amount, unit) = match left.as_micros() {
        micros if micros < 100_000_000 => (micros as u64, 'u'),
        micros if micros < 100_000_000_000 => ((micros / 1000) as u64, 'm'),
        micros => (((micros / 1_000_000) as u64).min(99_999_999), 'S'),
    };
    format!("{amount}{unit}")
}

/// What a route's filters make of a request.
#[derive(Default)]
pub(crate) struct Filtered {
    /// They answer it.
    pub(crate) answer: Option<LocalAnswer>,
    /// What they want done.
    pub(crate) ordered: Ordered,
}

/// What filters want done with a request.
#[derive(Default)]
pub(crate) struct Ordered {
    /// In their words.
    pub(crate) orders: Orders,
    /// A copy that is to be made of it.
    pub(crate) copy: Option<Box<Copy>>,
}

/// Sends a request's head through the filters of a route: changes it, or answers in its stead. `caller`: the SPIFFE ID that
/// was proved.
pub(crate) fn filter_request(
    worker: &Rc<Worker>,
    (route, state): (&Route, &RouteState),
    request: &mut RequestHead,
    caller: &str,
) -> Result<Filtered, Cause> {
    let length = request.fields.get(b"content-length");
    let facts = Facts {
        caller,
        grpc: is_grpc(&request.fields),
        body: length.and_then(|length| std::str::from_utf8(length).ok()?.parse().ok()),
        now: Instant::now(),
        dice,
    };
    let mut head = lighter_filters::RequestHead {
        method: Cow::Borrowed(request.method()),
        scheme: if request.scheme() == b"https" { "https" } else { "http" },
        target: Cow::Borrowed(request.target()),
        authority: Cow::Borrowed(request.authority()),
        fields: borrowed(&request.fields),
        facts,
        orders: Orders::default(),
    };
    let answer = state.chain.on_request(route, &mut head);
    let mut ordered = Ordered { orders: head.orders, copy: None };
    if answer.is_some() {
        return Ok(Filtered { answer, ordered });
    }
    ordered.copy = Copy::begin(worker, state, &head, false);
    if !hop::is_target(&head.target) || !is_authority(&head.authority) || !hop::is_token(&head.method) {
        return Err(Cause::Internal);
    }
    let mut changed = RequestHead::new(&head.method, request.scheme(), &head.authority, &head.target);
    put_back(&head.fields, &mut changed.fields);
    drop(head);
    *request = changed;
    Ok(Filtered { answer, ordered })
}

/// Sends an answer's head through `chain`.
pub(crate) fn filter_response(chain: &Chain, response: &mut ResponseHead) -> Result<(), Cause> {
    let mut head =
        lighter_filters::ResponseHead { status: response.status, fields: borrowed(&response.fields) };
    chain.on_response(&mut head);
    if !(200..1000).contains(&head.status) {
        return Err(Cause::Internal);
    }
    let mut changed = ResponseHead { status: head.status, fields: Fields::with_room() };
    put_back(&head.fields, &mut changed.fields);
    drop(head);
    *response = changed;
    Ok(())
}

fn borrowed(fields: &Fields) -> lighter_filters::Fields<'_> {
    fields.iter().map(|field| (Cow::Borrowed(field.name), Cow::Borrowed(field.value))).collect()
}

/// What comes out of a chain. A field that HTTP/2 cannot say is not passed on.
fn put_back(from: &lighter_filters::Fields<'_>, to: &mut Fields) {
    for (name, value) in from {
        let name = name.to_ascii_lowercase();
        if hop::allowed_in_http2(&name, value) {
            // Never the same twice.
            to.push_as(&name, value, hop::classify(&name) == Kind::RequestId);
        }
    }
}

#[cfg(test)]
mod tests {
    use lighter_config::snapshot::RequestParts;

    use super::*;

    fn request<const N: usize>(authority: &str, fields: [(&str, &str); N]) -> RequestHead {
        let mut head = RequestHead::new(b"GET", b"http", authority.as_bytes(), b"/x?y");
        fields.iter().for_each(|(name, value)| head.fields.push(name.as_bytes(), value.as_bytes()));
        head
    }

    #[test]
    fn host_becomes_the_authority_where_that_is_absent() {
        let mut request = request("", [("host", "reviews:80")]);
        unify_authority(&mut request).unwrap();
        assert_eq!((request.authority(), request.target()), (&b"reviews:80"[..], &b"/x?y"[..]));
        assert!(request.fields.is_empty());
        assert_eq!(request.header("host"), Some(&b"reviews:80"[..]));
    }

    #[test]
    fn two_authorities_that_differ_are_refused() {
        assert_eq!(unify_authority(&mut request("a", [("host", "b")])), Err(Cause::AmbiguousMessage));
        assert_eq!(unify_authority(&mut request("a", [("host", "A")])), Ok(()));
        let twice = [("host", "a"), ("host", "a")];
        assert_eq!(unify_authority(&mut request("", twice)), Err(Cause::AmbiguousMessage));
        assert_eq!(unify_authority(&mut request("", [("host", "a/b")])), Err(Cause::BadRequest));
    }

    #[test]
    fn a_request_without_authority_stays_one() {
        let mut request = request("", []);
        unify_authority(&mut request).unwrap();
        assert_eq!(request.authority(), b"");
    }

    #[test]
    fn fields_of_the_mesh_are_taken_away_where_they_could_be_forged() {
        for (direction, half, left) in [
            (Direction::Outbound, hop::Half::Request, 1),
            (Direction::Inbound, hop::Half::Request, 1),
            (Direction::Inbound, hop::Half::Response, 1),
            (Direction::Outbound, hop::Half::Response, 3),
        ] {
            let mut fields = Fields::from([("x-lighter-error", "a"), ("x-lighter-b", "b"), ("x-light", "c")]);
            strip(&mut fields, direction, half);
            assert_eq!(fields.len(), left);
        }
    }

    #[test]
    fn the_caller_is_appended_to_those_before_it() {
        let mut fields = Fields::from([("x-forwarded-for", "10.0.0.1"), ("x-forwarded-for", "10.0.0.2")]);
        annotate(&mut fields, Direction::Inbound, "10.0.0.3");
        let said: Vec<_> = fields.values(FORWARDED_FOR).collect();
        assert_eq!(said, [b"10.0.0.1, 10.0.0.2, 10.0.0.3"]);
    }

    #[test]
    fn who_called_is_said_by_the_sidecar_alone() {
        let mut fields = Fields::from([("x-forwarded-client-cert", "URI=spiffe://mesh/forged")]);
        vouch(&mut fields, None);
        assert!(fields.is_empty());
        let mut fields = Fields::from([("x-forwarded-client-cert", "a"), ("x-forwarded-client-cert", "b")]);
        vouch(&mut fields, Caller::new("spiffe://mesh/web".parse().unwrap()).as_deref());
        let said: Vec<_> = fields.values(CLIENT_CERT).collect();
        assert_eq!(said, [b"URI=spiffe://mesh/web"]);
    }

    #[test]
    fn a_request_id_is_made_once_and_has_the_shape_of_a_uuid() {
        let mut fields = Fields::default();
        annotate(&mut fields, Direction::Outbound, "");
        let id = request_id(&fields).to_vec();
        annotate(&mut fields, Direction::Outbound, "");
        assert_eq!((request_id(&fields), fields.len()), (&id[..], 1));
        assert_eq!(id.len(), 36);
        assert_eq!(id[14], b'4');
        assert!(matches!(id[19], b'8' | b'9' | b'a' | b'b'));
        assert_eq!(id.iter().filter(|byte| **byte == b'-').count(), 4);
    }

    #[test]
    fn trailers_say_nothing_of_a_hop() {
        let mut fields =
            Fields::from([("x-lighter-error", "a"), ("grpc-status", "0"), ("content-length", "1")]);
        strip_trailers(&mut fields);
        assert_eq!(fields, Fields::from([("grpc-status", "0")]));
    }

    #[test]
    fn grpc_timeouts_are_read_and_written() {
        for (text, expected) in [
            ("5S", Some(Duration::from_secs(5))),
            ("100m", Some(Duration::from_millis(100))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("123456789S", None),
            ("S", None),
            ("-1S", None),
            ("1", None),
        ] {
            assert_eq!(grpc_timeout(&Fields::from([("grpc-timeout", text)])), expected, "{text}");
        }
        for (left, text) in [
            (Duration::from_millis(1500), "1500000u"),
            (Duration::from_secs(3600), "3600000m"),
            (Duration::from_secs(1_000_000), "1000000S"),
        ] {
            assert_eq!(grpc_timeout_value(left), text);
        }
    }
}
