//! Hop-by-hop rules, in one place for both versions of HTTP (RFC 9110 §7.6, RFC 9112 §9, RFC 9113 §8.2).
//!
//! A proxy takes away what was meant for this connection only, and passes everything else as it came. What a field
//! means to a hop is decided once, by [`classify`]; the engines decide by its answer.

pub use lighter_config::snapshot::retry::is_idempotent;

use crate::telemetry::Direction;

/// What a field means to a hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: passed as it came, unless `Connection` names it.
    EndToEnd,
    /// `Connection`: options for this hop, and names of further fields for this hop only.
    Connection,
    /// `Keep-Alive` and `Proxy-Connection`: never passed on.
    Hop,
    /// `Transfer-Encoding`: how this hop frames the body.
    TransferEncoding,
    /// `Content-Length`.
    ContentLength,
    /// `Host`.
    Host,
    /// `TE`: only `trailers` is passed on.
    Te,
    /// `Upgrade`: passed on only together with the upgrade itself.
    Upgrade,
    /// `Expect`.
    Expect,
    /// `HTTP2-Settings`: belongs to an upgrade to h2c, which this proxy does not make.
    Http2Settings,
    /// `Proxy-Authorization` and its kin: for the proxy that the client chose, which a transparent one is not.
    ProxyCredentials,
    /// `X-Lighter-*`: between sidecars only.
    Lighter,
    /// `X-Forwarded-For`.
    ForwardedFor,
    /// `X-Request-Id`.
    RequestId,
    /// `X-Forwarded-Client-Cert`: who called, for the application to trust.
    ClientCert,
    /// `Content-Type`.
    ContentType,
}

/// What `name` means to a hop. Case does not matter.
pub fn classify(name: &[u8]) -> Kind {
    // By length and first letter: nearly every name is decided without a comparison.
    let first = name.first().map_or(0, |byte| byte | 0x20);
    let known = match (name.len(), first) {
        (2, b't') => is(name, b"te").then_some(Kind::Te),
        (4, b'h') => is(name, b"host").then_some(Kind::Host),
        (6, b'e') => is(name, b"expect").then_some(Kind::Expect),
        (7, b'u') => is(name, b"upgrade").then_some(Kind::Upgrade),
        (10, b'c') => is(name, b"connection").then_some(Kind::Connection),
        (10, b'k') => is(name, b"keep-alive").then_some(Kind::Hop),
        (12, b'c') => is(name, b"content-type").then_some(Kind::ContentType),
        (12, b'x') if is(name, b"x-request-id") => Some(Kind::RequestId),
        (14, b'c') => is(name, b"content-length").then_some(Kind::ContentLength),
        (14, b'h') => is(name, b"http2-settings").then_some(Kind::Http2Settings),
        (15, b'x') if is(name, b"x-forwarded-for") => Some(Kind::ForwardedFor),
        (16, b'p') => is(name, b"proxy-connection").then_some(Kind::Hop),
        (17, b't') => is(name, b"transfer-encoding").then_some(Kind::TransferEncoding),
        (18, b'p') => is(name, b"proxy-authenticate").then_some(Kind::ProxyCredentials),
        (19, b'p') => is(name, b"proxy-authorization").then_some(Kind::ProxyCredentials),
        (25, b'p') => is(name, b"proxy-authentication-info").then_some(Kind::ProxyCredentials),
        (23, b'x') if is(name, b"x-forwarded-client-cert") => Some(Kind::ClientCert),
        (_, b'x') if is_lighter(name) => Some(Kind::Lighter),
        _ => None,
    };
    known.unwrap_or(Kind::EndToEnd)
}

/// Whether `name` is `lower`, which has no capitals. Compared as blocks, without a branch for each byte.
fn is<const N: usize>(name: &[u8], lower: &[u8; N]) -> bool {
    let Ok(name) = <&[u8; N]>::try_from(name) else { return false };
    let mut differs = 0;
    for at in 0..N {
        differs |= name[at].to_ascii_lowercase() ^ lower[at];
    }
    differs == 0
}

/// Whether `name` begins with `x-lighter-`.
pub fn is_lighter(name: &[u8]) -> bool {
    const PREFIX: &[u8] = b"x-lighter-";
    name.len() > PREFIX.len() && name[0] | 0x20 == b'x' && name[..PREFIX.len()].eq_ignore_ascii_case(PREFIX)
}

/// The field by which the sidecar of an instance from which a Service's state has moved says so of a request that it sends on to
/// where the state is, and in which epoch that is. It is taken away from whatever comes, and believed of another instance of
/// the very same Service alone.
pub(crate) const FORWARDED_FIELD: &str = "x-lighter-forwarded";

/// Whether `name`, in any case, is [`FORWARDED_FIELD`].
pub(crate) fn is_forwarded(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(FORWARDED_FIELD.as_bytes())
}

/// The field by which a caller's sidecar says on a link that it keeps a request until it is answered, so that an instance from which
/// the state of its Service has moved need not send it on. Beside [`FORWARDED_FIELD`] it alone is said in requests.
pub(crate) const KEEPS_FIELD: &str = "x-lighter-keeps";

/// Whether `name`, in any case, is one of those that sidecars say to each other in requests, to be read where it is known whether it
/// is believed.
pub(crate) fn is_between(name: &[u8]) -> bool {
    is_forwarded(name) || name.eq_ignore_ascii_case(KEEPS_FIELD.as_bytes())
}

/// Which half of an exchange a head belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// From the caller.
    Request,
    /// From the called.
    Response,
}

/// Whether `x-lighter-*` fields pass. Only answers from another sidecar do: an application, or a caller from
/// outside, must not be able to speak in a sidecar's name. (A device's functions are a sidecar's own.)
pub const fn lighter_passes(direction: Direction, half: Half) -> bool {
    matches!((direction, half), (Direction::Outbound, Half::Response))
}

/// Whether a field may stand in an HTTP/2 message (RFC 9113 §8.2.1, §8.2.2): the name in lower case and without a
/// colon, nothing connection-specific, `te` only as `trailers`.
pub fn allowed_in_http2(name: &[u8], value: &[u8]) -> bool {
    if !is_http2_name(name) || !is_field_value(value) {
        return false;
    }
    match classify(name) {
        Kind::Connection | Kind::Hop | Kind::TransferEncoding | Kind::Upgrade => false,
        Kind::Te => value.trim_ascii().eq_ignore_ascii_case(b"trailers"),
        _ => true,
    }
}

/// Whether a field of an HTTP/1 message is passed on when that message becomes HTTP/2, or the other way round.
/// `connection` is what the message's `Connection` fields said. The engine itself places `Host`, `TE`, and what
/// frames the body.
pub fn crosses_versions(name: &[u8], connection: &Options) -> bool {
    match classify(name) {
        Kind::Connection
        | Kind::Hop
        | Kind::TransferEncoding
        | Kind::Upgrade
        | Kind::Te
        | Kind::Host
        | Kind::Http2Settings => false,
        _ => !connection.names(name),
    }
}

/// Whether a field may stand in a trailer section (RFC 9110 §6.5.1): nothing that frames, routes, or belongs to a
/// hop.
pub fn allowed_in_trailers(name: &[u8]) -> bool {
    match classify(name) {
        Kind::EndToEnd | Kind::ContentType | Kind::RequestId => !name.eq_ignore_ascii_case(b"trailer"),
        _ => false,
    }
}

/// The options of a message's `Connection` fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `close`.
    pub close: bool,
    /// `keep-alive`.
    pub keep_alive: bool,
    /// `upgrade`.
    pub upgrade: bool,
    /// The names of further fields for this hop only, as they came. Empty in nearly every message.
    named: smallvec::SmallVec<[Box<[u8]>; 0]>,
}

impl Options {
    /// Reads one `Connection` field. Fails on a token that is not one, and where a field is named without which the
    /// message would mean something else: `Host`, `Content-Length`, `Transfer-Encoding` (RFC 9110 §7.6.1 forbids to
    /// send that, and dropping the field would hide from the next hop what this one saw).
    pub fn read(&mut self, value: &[u8]) -> Result<(), NotAnOption> {
        for token in tokens(value) {
            match token.len() {
                5 if token.eq_ignore_ascii_case(b"close") => self.close = true,
                10 if token.eq_ignore_ascii_case(b"keep-alive") => self.keep_alive = true,
                7 if token.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
                _ if !is_token(token) => return Err(NotAnOption),
                _ => match classify(token) {
                    Kind::Host | Kind::ContentLength | Kind::TransferEncoding => return Err(NotAnOption),
                    // Never passed on in any case.
                    Kind::Connection | Kind::Hop | Kind::Http2Settings => {}
                    // `TE` has its own rule; it has to be named here.
                    Kind::Te => {}
                    _ => self.named.push(token.into()),
                },
            }
        }
        Ok(())
    }

    /// Whether field `name` is for this hop only because `Connection` says so.
    pub fn names(&self, name: &[u8]) -> bool {
        !self.named.is_empty() && self.named.iter().any(|named| named.eq_ignore_ascii_case(name))
    }

    /// Whether `Connection` names any further field.
    pub fn names_any(&self) -> bool {
        !self.named.is_empty()
    }
}

/// A `Connection` field that says something it must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAnOption;

/// The members of a comma-separated list, without the white space around them and without empty ones
/// (RFC 9110 §5.6.1).
pub fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(trim).filter(|token| !token.is_empty())
}

/// Without optional white space (space and tab only, RFC 9110 §5.6.3) at both ends.
pub fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Whether a `TE` field says that trailers are wanted.
pub fn te_trailers(value: &[u8]) -> bool {
    tokens(value).any(|token| token.eq_ignore_ascii_case(b"trailers"))
}

/// Whether `bytes` is a token (RFC 9110 §5.6.2): a method, a field name, a connection option.
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| is_token_byte(*byte))
}

/// Whether a token may have this byte.
#[inline]
pub fn is_token_byte(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

/// Whether `bytes` is a token in lower case: a field's name in HTTP/2 (RFC 9113 §8.2.1).
pub fn is_http2_name(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| is_token_byte(*byte) && !byte.is_ascii_uppercase())
}

/// Whether `bytes` may be a request's path and query: no white space, no control character, no fragment. More than RFC
/// 3986 allows, as there are applications that do.
pub fn is_target(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| matches!(byte, 0x21..=0x7e | 0x80..) && *byte != b'#')
}

/// Whether `bytes` may be a field's value: no control character but the tab (RFC 9110 §5.5).
pub fn is_field_value(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| matches!(*byte, b'\t' | 0x20..=0x7e | 0x80..))
}

/// Whether a method asks for nothing but to be told something (RFC 9110 §9.2.1).
pub fn is_safe(method: &[u8]) -> bool {
    matches!(method, b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE")
}

/// Whether a `Content-Type` says gRPC, so that errors of the mesh are told as gRPC statuses.
pub fn is_grpc(content_type: &[u8]) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    let Some((front, rest)) = content_type.split_at_checked(GRPC.len()) else { return false };
    front.eq_ignore_ascii_case(GRPC) && matches!(rest.first(), None | Some(b'+' | b';' | b' ' | b'-'))
}

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(
            byte as u8,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        ) || (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn options(value: &str) -> Result<Options, NotAnOption> {
        let mut options = Options::default();
        options.read(value.as_bytes()).map(|()| options)
    }

    #[test]
    fn names_are_known_in_any_case() {
        for (name, kind) in [
            ("Connection", Kind::Connection),
            ("KEEP-ALIVE", Kind::Hop),
            ("proxy-connection", Kind::Hop),
            ("Transfer-Encoding", Kind::TransferEncoding),
            ("content-Length", Kind::ContentLength),
            ("HOST", Kind::Host),
            ("te", Kind::Te),
            ("Upgrade", Kind::Upgrade),
            ("HTTP2-Settings", Kind::Http2Settings),
            ("Proxy-Authorization", Kind::ProxyCredentials),
            ("X-Lighter-Error", Kind::Lighter),
            ("x-forwarded-For", Kind::ForwardedFor),
            ("X-Request-ID", Kind::RequestId),
            ("Accept", Kind::EndToEnd),
            ("x-lighter-", Kind::EndToEnd),
            ("", Kind::EndToEnd),
        ] {
            assert_eq!(classify(name.as_bytes()), kind, "{name}");
        }
    }

    #[test]
    fn connection_names_fields_of_this_hop() {
        let options = options("close, X-Foo ,,\tUpgrade, te").unwrap();
        assert!(options.close && options.upgrade && !options.keep_alive);
        assert!(options.names(b"x-foo"));
        assert!(!options.names(b"te"));
        assert!(!options.names(b"x-bar"));
    }

    #[test]
    fn connection_cannot_take_away_what_frames_or_routes() {
        for value in ["host", "close, Content-Length", "transfer-encoding", "a b", "x:y", "\"close\""] {
            assert_eq!(options(value), Err(NotAnOption), "{value}");
        }
    }

    #[test]
    fn only_answers_of_another_sidecar_keep_its_fields() {
        assert!(lighter_passes(Direction::Outbound, Half::Response));
        assert!(!lighter_passes(Direction::Outbound, Half::Request));
        assert!(!lighter_passes(Direction::Inbound, Half::Request));
        assert!(!lighter_passes(Direction::Inbound, Half::Response));
    }

    #[test]
    fn http2_has_no_fields_of_a_connection() {
        for (name, value, allowed) in [
            ("accept", "*/*", true),
            ("Accept", "*/*", false),
            ("te", "trailers", true),
            ("te", "trailers, gzip", false),
            ("connection", "close", false),
            ("keep-alive", "1", false),
            ("proxy-connection", "close", false),
            ("transfer-encoding", "chunked", false),
            ("upgrade", "websocket", false),
            ("x-a", "b\r\nc", false),
            (":path", "/", false),
        ] {
            assert_eq!(allowed_in_http2(name.as_bytes(), value.as_bytes()), allowed, "{name}: {value}");
        }
    }

    #[test]
    fn trailers_cannot_frame_or_route() {
        for name in
            ["content-length", "Transfer-Encoding", "host", "trailer", "te", "x-lighter-error", "connection"]
        {
            assert!(!allowed_in_trailers(name.as_bytes()), "{name}");
        }
        assert!(allowed_in_trailers(b"grpc-status"));
    }

    #[test]
    fn white_space_is_space_and_tab_only() {
        assert_eq!(trim(b" \ta b\t "), b"a b");
        assert_eq!(trim(b"\x0ba"), b"\x0ba");
        assert_eq!(trim(b"  "), b"");
    }

    #[test]
    fn grpc_is_known_by_its_content_type() {
        assert!(is_grpc(b"application/grpc"));
        assert!(is_grpc(b"application/grpc+proto"));
        assert!(is_grpc(b"application/grpc-web"));
        assert!(!is_grpc(b"application/grpcx"));
        assert!(!is_grpc(b"application/json"));
    }
}
