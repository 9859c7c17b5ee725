//! Heads of requests and answers: read strictly, without copying.
//!
//! [`scan`](super::scan) finds the parts; what they mean together, above all for the framing, is judged here. A message
//! that two implementations could read in two ways is refused, not repaired.

use super::body::Framing;
use super::scan;
pub(crate) use super::scan::next_control;
pub use super::scan::{Field, Room};
use crate::error::Cause;
use crate::http::hop::{self, Kind, Options};

/// Most fields in one head.
pub const MAX_FIELDS: usize = 128;

/// Room for the fields of one head.
pub fn room<'b>() -> Room<'b> {
    Room::new()
}

/// Why a head (or a body) is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `ambiguous_message`, `bad_request`, `head_too_large`, `unsupported`; for an answer `upstream_malformed`.
    pub cause: Cause,
    /// What is wrong with it.
    pub detail: &'static str,
}

/// The fields of a head, and what they say about this hop.
#[derive(Debug)]
pub struct Fields<'h, 'b> {
    /// In order, as they came.
    pub list: &'h [Field<'b>],
    /// Bit `i` is set where `list[i]` means something to a hop.
    pub special: u128,
    /// What `Connection` says.
    pub connection: Options,
}

/// A request's head.
#[derive(Debug)]
pub struct Request<'h, 'b> {
    /// Bytes of the head with its empty line.
    pub len: usize,
    /// `GET`.
    pub method: &'b [u8],
    /// As it came: `/a?b`, `*`, `http://host/a?b`.
    pub target: &'b [u8],
    /// The form of `target`.
    pub form: Form<'b>,
    /// 0 or 1: the minor version.
    pub minor: u8,
    /// Its fields.
    pub fields: Fields<'h, 'b>,
    /// How its body is framed.
    pub framing: Framing,
    /// The authority: of an absolute target, otherwise `Host`. Empty where an HTTP/1.0 client names none.
    pub authority: &'b [u8],
    /// Whether the connection can carry another request after this one.
    pub keep_alive: bool,
    /// `Expect: 100-continue`.
    pub expects_continue: bool,
    /// What the client wants to change to, if it is something that this proxy passes on.
    pub upgrade: Option<&'b [u8]>,
    /// `Content-Type` says gRPC.
    pub grpc: bool,
}

/// The form of a request's target (RFC 9112 §3.2). The authority form comes with CONNECT only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form<'b> {
    /// A path with or without a query.
    Origin,
    /// `*`, with OPTIONS only.
    Asterisk,
    /// `http://authority/path?query`: the part from the path on; empty or beginning with `?` where there is no path.
    Absolute(&'b [u8]),
    /// `host:port`, with CONNECT only.
    Authority,
}

/// An answer's head.
#[derive(Debug)]
pub struct Response<'h, 'b> {
    /// Bytes of the head with its empty line.
    pub len: usize,
    /// The status.
    pub status: u16,
    /// 0 or 1: the minor version.
    pub minor: u8,
    /// Its fields.
    pub fields: Fields<'h, 'b>,
    /// How its body is framed.
    pub framing: Framing,
    /// Whether the connection can carry another exchange after this one.
    pub keep_alive: bool,
}

/// What of the request decides how an answer is framed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The method was HEAD: the answer has no body, whatever it says.
    pub head: bool,
    /// An upgrade was asked for: 101 may come.
    pub upgrade: bool,
}

/// Reads a request's head from the front of `bytes`. `None`: more bytes are needed.
pub fn request<'h, 'b>(bytes: &'b [u8], room: &'h mut Room<'b>) -> Result<Option<Request<'h, 'b>>, Refusal> {
    let Some(scan::RequestLine { len, method, target, sound, minor }) = scan::request(bytes, room)? else {
        return Ok(None);
    };
    let mut found = Found::default();
    let fields = read_fields(room, &mut found)?;

    let (form, authority) = target_form(method, target, sound, &found)?;
    if minor == 1 && found.host.is_none() {
        return Err(ambiguous("no Host"));
    }
    if found.host.is_some_and(|host| !is_authority(host)) {
        return Err(bad("Host is not one"));
    }
    let framing = match (found.chunked, found.length) {
        (true, Some(_)) => return Err(ambiguous("both Transfer-Encoding and Content-Length")),
        (true, None) if minor == 0 => return Err(ambiguous("Transfer-Encoding in HTTP/1.0")),
        (true, None) => Framing::Chunked,
        (false, Some(length)) => Framing::length(length),
        (false, None) => Framing::None,
    };
    let keep_alive = keeps_alive(minor, &fields.connection);
    let upgrade =
        found.upgrade.filter(|_| fields.connection.upgrade && minor == 1 && passes_upgrade(found.upgrade));
    Ok(Some(Request {
        len,
        method,
        target,
        form,
        minor,
        fields,
        framing,
        authority,
        keep_alive,
        expects_continue: found.expects_continue && minor == 1,
        upgrade,
        grpc: found.grpc,
    }))
}

/// Reads an answer's head from the front of `bytes`. `None`: more bytes are needed.
pub fn response<'h, 'b>(
    bytes: &'b [u8],
    room: &'h mut Room<'b>,
    asked: Asked,
) -> Result<Option<Response<'h, 'b>>, Refusal> {
    read_response(bytes, room, asked)
        .map_err(|refusal| Refusal { cause: Cause::UpstreamMalformed, detail: refusal.detail })
}

fn read_response<'h, 'b>(
    bytes: &'b [u8],
    room: &'h mut Room<'b>,
    asked: Asked,
) -> Result<Option<Response<'h, 'b>>, Refusal> {
    let Some(scan::StatusLine { len, status, minor }) = scan::response(bytes, room)? else {
        return Ok(None);
    };
    if !(100..=599).contains(&status) {
        return Err(bad("no such status"));
    }
    let mut found = Found { answer: true, ..Found::default() };
    let fields = read_fields(room, &mut found)?;
    let mut keep_alive = keeps_alive(minor, &fields.connection);
    let framing = if status == 101 {
        if !asked.upgrade || !fields.connection.upgrade || found.upgrade.is_none() {
            return Err(bad("101 that was not asked for"));
        }
        keep_alive = false;
        Framing::Tunnel
    } else if status < 200 || status == 204 || status == 304 || asked.head {
        // Whoever sends a body here has lost count.
        let none_expected = status < 200 || status == 204;
        keep_alive &= !(none_expected && (found.chunked || found.length.is_some_and(|length| length > 0)));
        keep_alive &= !(found.chunked && found.length.is_some());
        Framing::None
    } else {
        match (found.chunked, found.length) {
            (true, Some(_)) => return Err(bad("both Transfer-Encoding and Content-Length")),
            (true, None) if minor == 0 => return Err(bad("Transfer-Encoding in HTTP/1.0")),
            (true, None) => Framing::Chunked,
            (false, Some(length)) => Framing::length(length),
            (false, None) => {
                keep_alive = false;
                Framing::UntilClose
            }
        }
    };
    Ok(Some(Response { len, status, minor, fields, framing, keep_alive }))
}

/// Whether an empty line ends in what came behind the first `scanned` bytes, which hold none. So a head that comes in
/// small pieces is not read again and again.
pub(crate) fn may_end(bytes: &[u8], scanned: usize) -> bool {
    let from = scanned.min(bytes.len()).saturating_sub(3);
    memchr::memchr_iter(b'\n', &bytes[from..])
        .any(|at| matches!(bytes[from..][at + 1..], [b'\n', ..] | [b'\r', b'\n', ..]))
}

/// Where `part` lies within `whole`.
pub fn offset(whole: &[u8], part: &[u8]) -> usize {
    part.as_ptr() as usize - whole.as_ptr() as usize
}

/// How many bytes of empty lines stand before a request line; they are skipped (RFC 9112 §2.2). `None`: there are
/// more than a client has a reason to send.
pub fn empty_lines(bytes: &[u8]) -> Option<usize> {
    let mut skipped = 0;
    while bytes[skipped..].starts_with(b"\r\n") {
        skipped += 2;
        if skipped > 8 {
            return None;
        }
    }
    Some(skipped)
}

impl<'b> Request<'_, 'b> {
    /// The first value of field `name`.
    pub fn field(&self, name: &str) -> Option<&'b [u8]> {
        self.fields.get(name)
    }

    /// The target without scheme and authority: path and query, `*`, or `host:port`.
    pub fn path_and_query(&self) -> &'b [u8] {
        match self.form {
            Form::Absolute(rest) => rest,
            _ => self.target,
        }
    }
}

impl lighter_config::snapshot::RequestParts for Request<'_, '_> {
    fn method(&self) -> &[u8] {
        self.method
    }

    fn path(&self) -> &[u8] {
        let whole = self.path_and_query();
        let path = memchr::memchr(b'?', whole).map_or(whole, |at| &whole[..at]);
        if path.is_empty() { b"/" } else { path }
    }

    fn query(&self) -> Option<&[u8]> {
        let whole = self.path_and_query();
        memchr::memchr(b'?', whole).map(|at| &whole[at + 1..])
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        self.field(name)
    }

    fn header_values(&self, name: &str, see: &mut dyn FnMut(&[u8])) {
        let named = |field: &&super::scan::Field<'_>| field.name.eq_ignore_ascii_case(name.as_bytes());
        self.fields.list.iter().filter(named).for_each(|field| see(field.value));
    }
}

impl<'b> Fields<'_, 'b> {
    /// The first value of field `name`.
    pub fn get(&self, name: &str) -> Option<&'b [u8]> {
        self.list
            .iter()
            .find(|field| field.name.eq_ignore_ascii_case(name.as_bytes()))
            .map(|field| field.value)
    }
}

/// What one pass over the fields finds.
#[derive(Default)]
struct Found<'b> {
    answer: bool,
    host: Option<&'b [u8]>,
    length: Option<u64>,
    chunked: bool,
    upgrade: Option<&'b [u8]>,
    expects_continue: bool,
    grpc: bool,
}

/// One pass over the fields: what they say.
fn read_fields<'h, 'b>(list: &'h [Field<'b>], found: &mut Found<'b>) -> Result<Fields<'h, 'b>, Refusal> {
    let mut fields = Fields { list, special: 0, connection: Options::default() };
    for (at, field) in list.iter().enumerate() {
        if field.kind != Kind::EndToEnd {
            fields.special |= 1 << at;
            note(field.kind, field.value, found, &mut fields.connection)?;
        }
    }
    Ok(fields)
}

fn note<'b>(
    kind: Kind,
    value: &'b [u8],
    found: &mut Found<'b>,
    connection: &mut Options,
) -> Result<(), Refusal> {
    match kind {
        Kind::Host if found.host.replace(value).is_some() => return Err(ambiguous("more than one Host")),
        Kind::ContentLength => {
            let length = content_length(value).ok_or(ambiguous("Content-Length is not one number"))?;
            // Servers that say the same twice exist; clients have no reason to.
            if found.length.replace(length).is_some_and(|before| !found.answer || before != length) {
                return Err(ambiguous("more than one Content-Length"));
            }
        }
        Kind::TransferEncoding => {
            if found.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(ambiguous("Transfer-Encoding is not once and only chunked"));
            }
            found.chunked = true;
        }
        Kind::Connection => {
            connection.read(value).map_err(|_| ambiguous("Connection names what it must not"))?;
        }
        Kind::Upgrade => found.upgrade = Some(value),
        Kind::Expect if !found.answer => {
            if !value.eq_ignore_ascii_case(b"100-continue") {
                return Err(refuse(Cause::Unsupported, "an expectation that is not known"));
            }
            found.expects_continue = true;
        }
        Kind::ContentType => found.grpc = hop::is_grpc(value),
        _ => {}
    }
    Ok(())
}

/// Digits only: no sign, no list, no white space inside (RFC 9110 §8.6).
pub(crate) fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 {
        return None;
    }
    value.iter().try_fold(0u64, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + u64::from(byte - b'0')))
}

fn target_form<'b>(
    method: &[u8],
    target: &'b [u8],
    sound: bool,
    found: &Found<'b>,
) -> Result<(Form<'b>, &'b [u8]), Refusal> {
    let host = found.host.unwrap_or_default();
    if method == b"CONNECT" {
        return if is_authority(target) && target.contains(&b':') {
            Ok((Form::Authority, target))
        } else {
            Err(bad("CONNECT without host and port"))
        };
    }
    if !sound {
        return Err(bad("the target has a character that it must not have"));
    }
    match target {
        [b'/', ..] => Ok((Form::Origin, host)),
        b"*" if method == b"OPTIONS" => Ok((Form::Asterisk, host)),
        _ => {
            let rest = strip_scheme(target).ok_or(bad("the target has none of the known forms"))?;
            let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(end);
            if authority.is_empty() || !is_authority(authority) {
                return Err(bad("the target's authority is not one"));
            }
            if found.host.is_some_and(|host| !host.eq_ignore_ascii_case(authority)) {
                return Err(ambiguous("Host and the target name two authorities"));
            }
            Ok((Form::Absolute(path), authority))
        }
    }
}

fn strip_scheme(target: &[u8]) -> Option<&[u8]> {
    const HTTP: &[u8] = b"http://";
    let (scheme, rest) = target.split_at_checked(HTTP.len())?;
    scheme.eq_ignore_ascii_case(HTTP).then_some(rest)
}

/// Whether `host` looks like `host` or `host:port`: no user, no path, no list (RFC 3986 §3.2 without user
/// information). Empty is allowed, as for a target without authority.
pub(crate) fn is_authority(host: &[u8]) -> bool {
    scan::end_of(host, 0, |byte| AUTHORITY[usize::from(byte)]).is_none()
}

const AUTHORITY: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric()
            || matches!(
                byte as u8,
                b'-' | b'.'
                    | b'_'
                    | b'~'
                    | b'%'
                    | b':'
                    | b'['
                    | b']'
                    | b'!'
                    | b'$'
                    | b'&'
                    | b'\''
                    | b'('
                    | b')'
                    | b'*'
                    | b'+'
                    | b';'
                    | b'='
            );
        byte += 1;
    }
    table
};

fn keeps_alive(minor: u8, connection: &Options) -> bool {
    !connection.close && (minor == 1 || connection.keep_alive)
}

/// An upgrade to h2c is not passed on: from then on nobody between could tell one message from the next.
pub(crate) fn passes_upgrade(upgrade: Option<&[u8]>) -> bool {
    upgrade.is_some_and(|value| {
        !value.is_empty()
            && hop::tokens(value)
                .all(|token| !token.get(..3).is_some_and(|front| front.eq_ignore_ascii_case(b"h2c")))
    })
}

pub(super) const fn refuse(cause: Cause, detail: &'static str) -> Refusal {
    Refusal { cause, detail }
}

pub(super) const fn bad(detail: &'static str) -> Refusal {
    refuse(Cause::BadRequest, detail)
}

pub(super) const fn ambiguous(detail: &'static str) -> Refusal {
    refuse(Cause::AmbiguousMessage, detail)
}
