//! Heads on a link: what is said of a request or an answer, in lengths and bytes. Names keep their case and order.
//!
//! No byte of a head is searched for a delimiter, so there is none to smuggle. But what comes out of a link is written
//! as HTTP/1 to an application, where there are some: each name, value, method, authority and path is checked here for
//! what it may hold, and what frames a body is taken in one reading only. A peer's own check is not trusted.

use std::time::Duration;

use bytes::Bytes;
use lighter_config::snapshot::RequestParts;

use super::frame::{Fault, MAX_PAYLOAD, put_length, take, take_length};
use crate::error::Cause;
use crate::http::h1::head::{
    Field, MAX_FIELDS, Refusal, content_length, is_authority, next_control, passes_upgrade,
};
use crate::http::hop::{self, Kind};

/// What a stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Protocol {
    /// An exchange whose caller speaks HTTP/1.
    Http1 = 1,
    /// An exchange whose caller speaks HTTP/2.
    Http2 = 2,
    /// Bytes both ways. The authority is where to.
    Tunnel = 3,
}

/// How the caller came by the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Scheme {
    /// `http`.
    Http = 0,
    /// `https`.
    Https = 1,
}

/// What opens a stream, but for its fields.
#[derive(Clone, Copy, Debug)]
pub struct Opening<'a> {
    /// What it carries.
    pub protocol: Protocol,
    /// How the caller came by it.
    pub scheme: Scheme,
    /// `GET`. Empty for a tunnel.
    pub method: &'a [u8],
    /// `host` or `host:port`; of a tunnel `address:port`, where it leads. Empty where an HTTP/1.0 client named none.
    pub authority: &'a [u8],
    /// Path and query, or `*`. Empty for CONNECT and for a tunnel.
    pub path: &'a [u8],
    /// What is left of the request's time. `None`: it has no end.
    pub deadline: Option<Duration>,
}

/// A head, or trailers, that no frame can hold: more than 64 KiB, or too many fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

/// A request's head that came over a link.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// What the stream carries.
    pub protocol: Protocol,
    /// How the caller came by it.
    pub scheme: Scheme,
    /// What is left of the request's time, as of when it was sent.
    pub deadline: Option<Duration>,
    /// `Content-Length`, if there is one.
    pub length: Option<u64>,
    /// There is an `Upgrade` to something that may be passed on.
    pub upgrade: bool,
    /// `Expect: 100-continue`.
    pub expects_continue: bool,
    /// `Content-Type` says gRPC.
    pub grpc: bool,
    method: Span,
    authority: Span,
    path: Span,
    fields: Block,
}

/// An answer's head that came over a link.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// The status. 1xx without 101: informational, and the head is still to come.
    pub status: u16,
    /// `Content-Length`, if there is one.
    pub length: Option<u64>,
    fields: Block,
}

/// Fields behind a body.
#[derive(Clone, Debug)]
pub struct Trailers(Block);

/// Why a head is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// It is none: the peer is at fault, and the link is given up.
    Broken,
    /// It is one of so many bytes that is refused: only its stream is.
    Refused(Refusal, usize),
}

/// Fields within a payload.
#[derive(Clone, Debug)]
struct Block {
    bytes: Bytes,
    at: u32,
    count: u16,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    end: u32,
}

/// Appends OPEN's payload.
pub(super) fn put_request<'f>(
    into: &mut Vec<u8>,
    head: &Opening<'_>,
    fields: impl IntoIterator<Item = (&'f [u8], &'f [u8])>,
) -> Result<(), TooLarge> {
    let millis = head.deadline.map_or(0, |left| u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1));
    into.extend_from_slice(&[head.protocol as u8, head.scheme as u8]);
    into.extend_from_slice(&millis.to_be_bytes());
    for part in [head.method, head.authority, head.path] {
        if part.len() > MAX_PAYLOAD {
            return Err(TooLarge);
        }
        put_length(into, part.len());
        into.extend_from_slice(part);
    }
    put_fields(into, fields)
}

/// Appends HEAD's payload.
pub(super) fn put_response<'f>(
    into: &mut Vec<u8>,
    status: u16,
    fields: impl IntoIterator<Item = (&'f [u8], &'f [u8])>,
) -> Result<(), TooLarge> {
    into.extend_from_slice(&status.to_be_bytes());
    put_fields(into, fields)
}

/// Appends TRAILERS' payload.
pub(super) fn put_fields<'f>(
    into: &mut Vec<u8>,
    fields: impl IntoIterator<Item = (&'f [u8], &'f [u8])>,
) -> Result<(), TooLarge> {
    let counted = into.len();
    into.extend_from_slice(&[0; 2]);
    let mut count = 0u16;
    for (name, value) in fields {
        count += 1;
        if usize::from(count) > MAX_FIELDS || name.len() > MAX_PAYLOAD || value.len() > MAX_PAYLOAD {
            return Err(TooLarge);
        }
        put_length(into, name.len());
        put_length(into, value.len());
        into.extend_from_slice(name);
        into.extend_from_slice(value);
    }
    into[counted..counted + 2].copy_from_slice(&count.to_be_bytes());
    Ok(())
}

impl RequestHead {
    /// Reads a head from the front of `payload`; returns it and how many bytes it has. `own` makes bytes that last out
    /// of a part of the payload.
    pub(super) fn decode(payload: &[u8], own: impl FnOnce(&[u8]) -> Bytes) -> Result<(Self, usize), Wrong> {
        let mut rest = payload;
        let [protocol, scheme, a, b, c, d] = *take_array(&mut rest)?;
        let protocol = match protocol {
            1 => Protocol::Http1,
            2 => Protocol::Http2,
            3 => Protocol::Tunnel,
            _ => return Err(Wrong::Broken),
        };
        let scheme = match scheme {
            0 => Scheme::Http,
            1 => Scheme::Https,
            _ => return Err(Wrong::Broken),
        };
        let millis = u32::from_be_bytes([a, b, c, d]);
        let deadline = (millis > 0).then(|| Duration::from_millis(millis.into()));
        let mut part = || -> Result<(Span, &[u8]), Wrong> {
            let length = take_length(&mut rest)?;
            let start = payload.len() - rest.len();
            let bytes = take(&mut rest, length)?;
            Ok((Span { start: start as u32, end: (start + length) as u32 }, bytes))
        };
        let (method, method_bytes) = part()?;
        let (authority, authority_bytes) = part()?;
        let (path, path_bytes) = part()?;
        let mut found = Found::new(false);
        let (at, count) = read_fields(payload, &mut rest, &mut found)?;
        let len = payload.len() - rest.len();
        check_line(protocol, method_bytes, authority_bytes, path_bytes)
            .and_then(|()| found.verdict())
            .map_err(|refusal| Wrong::Refused(refusal, len))?;
        if found.upgrade && protocol != Protocol::Http1 {
            return Err(Wrong::Refused(ambiguous("Upgrade in what is not HTTP/1"), len));
        }
        let head = RequestHead {
            protocol,
            scheme,
            deadline,
            length: found.length,
            upgrade: found.upgrade,
            expects_continue: found.expects_continue,
            grpc: found.grpc,
            method,
            authority,
            path,
            fields: Block { bytes: own(&payload[..len]), at, count },
        };
        Ok((head, len))
    }

    /// `GET`; empty for a tunnel.
    pub fn method(&self) -> &[u8] {
        self.fields.part(self.method)
    }

    /// `host` or `host:port`; of a tunnel, where it leads. Empty where the caller named none.
    pub fn authority(&self) -> &[u8] {
        self.fields.part(self.authority)
    }

    /// Path and query, or `*`; empty for CONNECT and for a tunnel.
    pub fn path_and_query(&self) -> &[u8] {
        self.fields.part(self.path)
    }

    /// Its fields, in order. There is no `Host`, and nothing of a connection among them.
    pub fn fields(&self) -> impl Iterator<Item = Field<'_>> {
        self.fields.iter()
    }

    /// Bytes that it holds.
    pub fn held(&self) -> usize {
        self.fields.bytes.len()
    }
}

impl RequestParts for RequestHead {
    fn method(&self) -> &[u8] {
        self.method()
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
        if name == "host" {
            return Some(self.authority());
        }
        self.fields.get(name)
    }
}

impl ResponseHead {
    /// Reads a head from the front of `payload`; see [`RequestHead::decode`].
    pub(super) fn decode(payload: &[u8], own: impl FnOnce(&[u8]) -> Bytes) -> Result<(Self, usize), Wrong> {
        let mut rest = payload;
        let status = u16::from_be_bytes(*take_array(&mut rest)?);
        let mut found = Found::new(true);
        let (at, count) = read_fields(payload, &mut rest, &mut found)?;
        let len = payload.len() - rest.len();
        found
            .verdict()
            .and_then(|()| check_status(status, found.length))
            .map_err(|refusal| Wrong::Refused(Refusal { cause: Cause::UpstreamMalformed, ..refusal }, len))?;
        let fields = Block { bytes: own(&payload[..len]), at, count };
        Ok((ResponseHead { status, length: found.length, fields }, len))
    }

    /// Whether it only says how things stand: 1xx without 101.
    pub fn is_informational(&self) -> bool {
        is_informational(self.status)
    }

    /// Its fields, in order. There is nothing of a connection among them.
    pub fn fields(&self) -> impl Iterator<Item = Field<'_>> {
        self.fields.iter()
    }

    /// The first value of field `name`.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.fields.get(name)
    }

    /// Bytes that it holds.
    pub fn held(&self) -> usize {
        self.fields.bytes.len()
    }
}

impl Trailers {
    /// Reads a whole payload.
    pub(super) fn decode(payload: &[u8], own: impl FnOnce(&[u8]) -> Bytes) -> Result<Self, Wrong> {
        let mut rest = payload;
        let mut found = Found::new(true);
        found.trailers = true;
        let (at, count) = read_fields(payload, &mut rest, &mut found)?;
        if !rest.is_empty() {
            return Err(Wrong::Broken);
        }
        found.verdict().map_err(|refusal| Wrong::Refused(refusal, payload.len()))?;
        Ok(Trailers(Block { bytes: own(payload), at, count }))
    }

    /// The fields, in order.
    pub fn fields(&self) -> impl Iterator<Item = Field<'_>> {
        self.0.iter()
    }

    /// The first value of field `name`.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name)
    }

    /// Bytes that they hold.
    pub fn held(&self) -> usize {
        self.0.bytes.len()
    }
}

/// Whether an answer of `status` only says how things stand.
pub fn is_informational(status: u16) -> bool {
    (100..200).contains(&status) && status != 101
}

impl From<Fault> for Wrong {
    fn from(_: Fault) -> Self {
        Wrong::Broken
    }
}

impl Block {
    fn part(&self, span: Span) -> &[u8] {
        &self.bytes[span.start as usize..span.end as usize]
    }

    fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        let mut rest = &self.bytes[self.at as usize..];
        // All lengths were seen to be within the block.
        (0..self.count).map_while(move |_| take_field(&mut rest).ok())
    }

    fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|field| field.name.eq_ignore_ascii_case(name.as_bytes())).map(|field| field.value)
    }
}

/// What one pass over the fields finds.
struct Found {
    answer: bool,
    trailers: bool,
    length: Option<u64>,
    upgrade: bool,
    expects_continue: bool,
    grpc: bool,
    refusal: Option<Refusal>,
}

impl Found {
    fn new(answer: bool) -> Self {
        Found {
            answer,
            trailers: false,
            length: None,
            upgrade: false,
            expects_continue: false,
            grpc: false,
            refusal: None,
        }
    }

    /// A head is refused only when it is known to be whole.
    fn verdict(&self) -> Result<(), Refusal> {
        self.refusal.map_or(Ok(()), Err)
    }

    fn note(&mut self, field: &Field<'_>) -> Result<(), Refusal> {
        if !hop::is_token(field.name) {
            return Err(bad("a field's name is none"));
        }
        if next_control(field.value, 0).is_some() {
            return Err(bad("a field's value has a character that it must not have"));
        }
        if self.trailers {
            return if hop::allowed_in_trailers(field.name) {
                Ok(())
            } else {
                Err(ambiguous("a field that must not stand behind a body"))
            };
        }
        match hop::classify(field.name) {
            Kind::Connection | Kind::Hop | Kind::TransferEncoding | Kind::Http2Settings => {
                return Err(ambiguous("a field of a connection"));
            }
            // In an answer it means nothing.
            Kind::Host if !self.answer => return Err(ambiguous("Host beside the authority")),
            Kind::ContentLength => {
                let length =
                    content_length(field.value).ok_or(ambiguous("Content-Length is not one number"))?;
                // As between hops of HTTP/1: servers that say the same twice exist.
                if self.length.replace(length).is_some_and(|before| !self.answer || before != length) {
                    return Err(ambiguous("more than one Content-Length"));
                }
            }
            Kind::Te if !field.value.eq_ignore_ascii_case(b"trailers") => {
                return Err(ambiguous("TE says more than trailers"));
            }
            Kind::Upgrade => {
                if !passes_upgrade(Some(field.value)) {
                    return Err(ambiguous("an upgrade that is not passed on"));
                }
                self.upgrade = true;
            }
            Kind::Expect if !self.answer => {
                if !field.value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Refusal {
                        cause: Cause::Unsupported,
                        detail: "an expectation that is not known",
                    });
                }
                self.expects_continue = true;
            }
            Kind::ContentType => self.grpc = hop::is_grpc(field.value),
            _ => {}
        }
        Ok(())
    }
}

/// Goes over the counted fields at the front of `rest`. Returns where in `payload` the first one is, and how many.
fn read_fields(payload: &[u8], rest: &mut &[u8], found: &mut Found) -> Result<(u32, u16), Wrong> {
    let count = u16::from_be_bytes(*take_array(rest)?);
    if usize::from(count) > MAX_FIELDS {
        return Err(Wrong::Broken);
    }
    let at = payload.len() - rest.len();
    for _ in 0..count {
        let field = take_field(rest)?;
        if found.refusal.is_none()
            && let Err(refusal) = found.note(&field)
        {
            found.refusal = Some(refusal);
        }
    }
    Ok((at as u32, count))
}

#[inline]
fn take_field<'a>(rest: &mut &'a [u8]) -> Result<Field<'a>, Fault> {
    let name = take_length(rest)?;
    let value = take_length(rest)?;
    let name = take(rest, name)?;
    let value = take(rest, value)?;
    Ok(Field::new(name, value))
}

fn take_array<'a, const N: usize>(rest: &mut &'a [u8]) -> Result<&'a [u8; N], Wrong> {
    let (array, behind) = rest.split_first_chunk().ok_or(Wrong::Broken)?;
    *rest = behind;
    Ok(array)
}

/// What stands in a request's first line, as HTTP/1 will write it.
fn check_line(protocol: Protocol, method: &[u8], authority: &[u8], path: &[u8]) -> Result<(), Refusal> {
    if !is_authority(authority) {
        return Err(bad("the authority is none"));
    }
    if protocol == Protocol::Tunnel {
        return if method.is_empty() && path.is_empty() && authority.contains(&b':') {
            Ok(())
        } else {
            Err(bad("a tunnel has an address and a port, and nothing else"))
        };
    }
    if !hop::is_token(method) {
        return Err(bad("the method is none"));
    }
    let known_form = match (method, path) {
        (b"CONNECT", []) => authority.contains(&b':'),
        (b"CONNECT", _) => false,
        (b"OPTIONS", b"*") => true,
        (_, [b'/', rest @ ..]) => {
            rest.iter().all(|byte| matches!(byte, 0x21..=0x7e | 0x80..) && *byte != b'#')
        }
        _ => false,
    };
    if known_form { Ok(()) } else { Err(bad("the path has none of the known forms")) }
}

/// Whether there is such a status, and with such a length.
fn check_status(status: u16, length: Option<u64>) -> Result<(), Refusal> {
    if !(100..=599).contains(&status) {
        return Err(bad("no such status"));
    }
    if (status < 200 || status == 204) && length.is_some_and(|length| length > 0) {
        return Err(ambiguous("Content-Length where no body can be"));
    }
    Ok(())
}

const fn bad(detail: &'static str) -> Refusal {
    Refusal { cause: Cause::BadRequest, detail }
}

const fn ambiguous(detail: &'static str) -> Refusal {
    Refusal { cause: Cause::AmbiguousMessage, detail }
}

#[cfg(test)]
mod tests;
