//! A head for the next hop: slices of the one that came, with what this hop adds between them.
//!
//! Nothing is copied: names, case and order stay as they were, and the whole goes out in one `writev`. Only a route
//! whose filters change heads has its heads written anew.

use std::borrow::Cow;
use std::io::IoSlice;

use lighter_filters::{Facts, Fields as FilterFields, Orders, RequestHead, ResponseHead};
use smallvec::SmallVec;

use super::body::Framing;
use super::head::{Fields, Form, MAX_FIELDS, Request, Response, offset};
use crate::http::hop::{self, Kind};
use crate::telemetry::trace;

/// A list of slices to be written at once.
pub type Slices<'a> = SmallVec<[IoSlice<'a>; 16]>;

/// An edited head. Kept by a connection and used again, so that it costs no allocation.
#[derive(Debug, Default)]
pub struct Edit {
    pieces: SmallVec<[Piece; 6]>,
    own: Vec<u8>,
}

/// Part of the head that came, or of what was added.
#[derive(Clone, Copy, Debug)]
struct Piece {
    own: bool,
    start: u32,
    end: u32,
}

/// A place in the head that came, or in what was added.
#[derive(Clone, Copy, Debug, Default)]
pub struct Span {
    own: bool,
    start: u32,
    end: u32,
}

impl Span {
    /// `part` of the head that came.
    pub fn of(head: &[u8], part: &[u8]) -> Self {
        if part.is_empty() {
            return Span::default();
        }
        let start = offset(head, part);
        Span { own: false, start: start as u32, end: (start + part.len()) as u32 }
    }

    /// The bytes.
    pub fn get<'a>(&self, head: &'a [u8], edit: &'a Edit) -> &'a [u8] {
        let whole = if self.own { &edit.own } else { head };
        whole.get(self.start as usize..self.end as usize).unwrap_or_default()
    }
}

/// What a request's head is edited by.
#[derive(Clone, Copy, Debug)]
pub struct RequestRules<'a> {
    /// `Host` where an HTTP/1.0 client named none.
    pub authority: &'a [u8],
    /// The caller's address, to be added to `X-Forwarded-For`. Empty: not added.
    pub caller: &'a [u8],
    /// What `X-Forwarded-Client-Cert` is to say in place of what it says; empty: it is taken away. None: it is passed
    /// as it came.
    pub vouch: Option<&'a [u8]>,
    /// Give the request an `X-Request-Id` if it has none.
    pub identify: bool,
}

/// What an answer's head is edited by.
#[derive(Clone, Copy, Debug)]
pub struct ResponseRules {
    /// What it says with `x-lighter-*` is a sidecar's own word, and passes.
    pub lighter: bool,
    /// The minor version that the client speaks.
    pub client_minor: u8,
    /// The connection to the client ends with this answer.
    pub close: bool,
    /// It is told that this sidecar drains, then.
    pub draining: bool,
}

impl Edit {
    /// Forgets everything; keeps a little room.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.own.clear();
        if self.own.capacity() > 1024 {
            self.own = Vec::new();
        }
    }

    /// How many bytes the edited head has.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(|piece| (piece.end - piece.start) as usize).sum()
    }

    /// Whether there is no head here.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Appends the edited head to `slices`. `head` is the one that came.
    pub fn slices<'a>(&'a self, head: &'a [u8], slices: &mut Slices<'a>) {
        for piece in &self.pieces {
            let whole = if piece.own { &self.own } else { head };
            slices.push(IoSlice::new(&whole[piece.start as usize..piece.end as usize]));
        }
    }

    /// The edited head in one piece.
    pub fn to_vec(&self, head: &[u8]) -> Vec<u8> {
        let mut slices = Slices::new();
        self.slices(head, &mut slices);
        slices.iter().flat_map(|slice| slice.iter().copied()).collect()
    }

    /// Makes the head of `request`, whose bytes are at the front of `head`, for the next hop. Returns where its
    /// `X-Request-Id` is.
    pub fn request(&mut self, head: &[u8], request: &Request<'_, '_>, rules: &RequestRules<'_>) -> Span {
        self.clear();
        let mut cursor = self.request_line(head, request);
        let (mut id, mut te, mut host, mut forwarded) = (Span::default(), false, false, false);
        for at in special(&request.fields) {
            let field = &request.fields.list[at];
            let drops = match field.kind {
                Kind::Host => {
                    host = true;
                    false
                }
                Kind::Connection | Kind::Hop | Kind::Http2Settings | Kind::Lighter => true,
                Kind::Te => {
                    te |= request.minor == 1 && hop::te_trailers(field.value);
                    true
                }
                Kind::Upgrade => request.upgrade.is_none(),
                Kind::ClientCert if rules.vouch.is_some() => true,
                Kind::Expect => request.minor == 0,
                _ if request.fields.connection.names(field.name) => true,
                Kind::RequestId => {
                    id = Span::of(head, field.value);
                    false
                }
                Kind::ForwardedFor if !rules.caller.is_empty() && is_last(&request.fields, at) => {
                    let end = offset(head, field.value) + field.value.len();
                    self.keep(cursor, end);
                    self.add(if field.value.is_empty() { b"" } else { b", " });
                    self.add(rules.caller);
                    cursor = end;
                    forwarded = true;
                    false
                }
                _ => false,
            };
            if drops {
                let (start, end) = line(head, &request.fields, at, request.len);
                self.keep(cursor, start);
                cursor = end;
            }
        }
        self.keep(cursor, request.len - 2);
        if !forwarded && !rules.caller.is_empty() {
            self.add_field(b"x-forwarded-for", &[rules.caller]);
        }
        if !host {
            let authority = if request.authority.is_empty() { rules.authority } else { request.authority };
            self.add_field(b"Host", &[authority]);
        }
        self.finish_request(request, rules, id, te)
    }

    /// The same for a route whose filters changed the head to `changed`.
    pub fn changed_request(
        &mut self,
        request: &Request<'_, '_>,
        changed: &RequestHead<'_>,
        rules: &RequestRules<'_>,
    ) -> Span {
        self.clear();
        for part in [&changed.method, &b" "[..], &changed.target, b" HTTP/1.1\r\n"] {
            self.add(part);
        }
        let authority = if changed.authority.is_empty() { rules.authority } else { &changed.authority };
        self.add_field(b"Host", &[authority]);
        let (mut id, mut te, mut forwarded) = (Span::default(), false, false);
        let last_forwarded = changed
            .fields
            .iter()
            .rposition(|(name, _)| hop::classify(name) == Kind::ForwardedFor && !rules.caller.is_empty());
        for (at, (name, value)) in changed.fields.iter().enumerate() {
            match hop::classify(name) {
                Kind::EndToEnd | Kind::ContentType | Kind::ProxyCredentials | Kind::Expect => {
                    self.add_field(name, &[value]);
                }
                Kind::ForwardedFor if Some(at) == last_forwarded => {
                    self.add_field(name, &[value, b", ", rules.caller]);
                    forwarded = true;
                }
                Kind::ForwardedFor => self.add_field(name, &[value]),
                Kind::ClientCert if rules.vouch.is_none() => self.add_field(name, &[value]),
                Kind::RequestId => {
                    self.add_field(name, &[value]);
                    let end = self.own.len() - 2;
                    id = Span { own: true, start: (end - value.len()) as u32, end: end as u32 };
                }
                Kind::Te => te = hop::te_trailers(value),
                // What frames the message or belongs to this hop is not a filter's to say.
                _ => {}
            }
        }
        if !forwarded && !rules.caller.is_empty() {
            self.add_field(b"x-forwarded-for", &[rules.caller]);
        }
        if let Some(upgrade) = request.upgrade {
            self.add_field(b"Upgrade", &[upgrade]);
        }
        self.add_framing(request.framing, request.fields.get("content-length"));
        self.finish_request(request, rules, id, te)
    }

    /// Makes the head of `response` for the client.
    pub fn response(&mut self, head: &[u8], response: &Response<'_, '_>, rules: &ResponseRules) {
        self.clear();
        let mut cursor = 0;
        if response.minor == 0 {
            self.add(b"HTTP/1.1");
            cursor = b"HTTP/1.0".len();
        }
        let bodiless = response.status < 200 || response.status == 204;
        let decoded = response.framing == Framing::Chunked && rules.client_minor == 0;
        let mut sized = false;
        for at in special(&response.fields) {
            let field = &response.fields.list[at];
            let drops = match field.kind {
                Kind::Connection | Kind::Hop => true,
                Kind::Upgrade => !keeps_upgrade(response.status),
                Kind::Lighter => !rules.lighter,
                Kind::TransferEncoding => bodiless || decoded,
                Kind::ContentLength => bodiless || std::mem::replace(&mut sized, true),
                _ => response.fields.connection.names(field.name),
            };
            if drops {
                let (start, end) = line(head, &response.fields, at, response.len);
                self.keep(cursor, start);
                cursor = end;
            }
        }
        match response_end(response, rules) {
            // The empty line is there already.
            b"\r\n" => self.keep(cursor, response.len),
            end => {
                self.keep(cursor, response.len - 2);
                self.add(end);
            }
        }
    }

    /// The same for a route whose filters changed the head to `changed`.
    pub fn changed_response(
        &mut self,
        response: &Response<'_, '_>,
        changed: &ResponseHead<'_>,
        reason: &[u8],
        rules: &ResponseRules,
    ) {
        self.clear();
        self.add(b"HTTP/1.1 ");
        self.add(itoa::Buffer::new().format(changed.status).as_bytes());
        self.add(b" ");
        self.add(reason);
        self.add(b"\r\n");
        for (name, value) in &changed.fields {
            match hop::classify(name) {
                Kind::Connection | Kind::Hop | Kind::TransferEncoding | Kind::ContentLength => {}
                Kind::Upgrade if !keeps_upgrade(response.status) => {}
                Kind::Lighter if !rules.lighter => {}
                _ => self.add_field(name, &[value]),
            }
        }
        if response.status >= 200 && response.status != 204 {
            let length = response.fields.get("content-length");
            if response.framing == Framing::Chunked && rules.client_minor == 0 {
                // Decoded: the end of the connection ends it.
            } else if length.is_some() {
                self.add_framing(Framing::None, length);
            } else if response.fields.get("transfer-encoding").is_some() {
                self.add_framing(Framing::Chunked, None);
            }
        }
        self.add(response_end(response, rules));
    }

    /// Takes the fields of an answer's head that is made away again of which `drops` says so, by name and value.
    #[cold]
    pub fn leave_out(
        &mut self,
        head: &[u8],
        response: &Response<'_, '_>,
        drops: impl Fn(&[u8], &[u8]) -> bool,
    ) {
        for (at, field) in response.fields.list.iter().enumerate() {
            if !drops(field.name, field.value) {
                continue;
            }
            let (start, end) = line(head, &response.fields, at, response.len);
            let (start, end) = (start as u32, end as u32);
            let is_around = |piece: &Piece| !piece.own && piece.start <= start && end <= piece.end;
            // One that is not there was taken away before.
            let Some(place) = self.pieces.iter().position(is_around) else { continue };
            let behind = Piece { start: end, ..self.pieces[place] };
            self.pieces[place].end = start;
            self.pieces.insert(place + 1, behind);
        }
    }

    /// Appends a field to a head that is made.
    #[cold]
    pub fn append(&mut self, name: &[u8], value: &[u8]) {
        if let Some(last) = self.pieces.last_mut() {
            // It ends with the empty line.
            last.end -= 2;
            self.add_field(name, &[value]);
            self.add(b"\r\n");
        }
    }

    /// Writes the request line for the next hop; returns where the rest of the head begins.
    fn request_line(&mut self, head: &[u8], request: &Request<'_, '_>) -> usize {
        let version = request.method.len() + request.target.len() + 2;
        let line = version + b"HTTP/1.1\r\n".len();
        match request.form {
            Form::Absolute(rest) => {
                self.keep(0, request.method.len() + 1);
                match rest.first() {
                    None if request.method == b"OPTIONS" => self.add(b"*"),
                    None | Some(b'?') => self.add(b"/"),
                    _ => {}
                }
                if !rest.is_empty() {
                    let start = offset(head, rest);
                    self.keep(start, start + rest.len());
                }
                self.add(b" HTTP/1.1\r\n");
                line
            }
            _ if request.minor == 0 => {
                self.keep(0, version);
                self.add(b"HTTP/1.1\r\n");
                line
            }
            _ => 0,
        }
    }

    fn finish_request(
        &mut self,
        request: &Request<'_, '_>,
        rules: &RequestRules<'_>,
        mut id: Span,
        te: bool,
    ) -> Span {
        if let Some(caller) = rules.vouch
            && !caller.is_empty()
        {
            self.add_field(b"x-forwarded-client-cert", &[caller]);
        }
        if rules.identify && id.start == id.end {
            const NAME: &[u8; 14] = b"x-request-id: ";
            let mut field = [0; NAME.len() + 36 + 2];
            field[..NAME.len()].copy_from_slice(NAME);
            field[NAME.len()..][..36].copy_from_slice(&trace::request_id());
            field[NAME.len() + 36..].copy_from_slice(b"\r\n");
            let start = self.own.len() + NAME.len();
            id = Span { own: true, start: start as u32, end: (start + 36) as u32 };
            self.add(&field);
        }
        if te {
            self.add_field(b"TE", &[b"trailers"]);
        }
        match (request.upgrade.is_some(), te) {
            (true, true) => self.add(b"Connection: Upgrade, TE\r\n\r\n"),
            (true, false) => self.add(b"Connection: Upgrade\r\n\r\n"),
            (false, true) => self.add(b"Connection: TE\r\n\r\n"),
            (false, false) => self.add(b"\r\n"),
        }
        id
    }

    fn add_framing(&mut self, framing: Framing, length: Option<&[u8]>) {
        match (framing, length) {
            (Framing::Chunked, _) => self.add_field(b"Transfer-Encoding", &[b"chunked"]),
            (_, Some(length)) => self.add_field(b"Content-Length", &[length]),
            _ => {}
        }
    }

    fn add_field(&mut self, name: &[u8], value: &[&[u8]]) {
        self.add(name);
        self.add(b": ");
        value.iter().for_each(|part| self.add(part));
        self.add(b"\r\n");
    }

    /// Appends a part of the bytes that came: of the head, or of what stands behind it.
    pub(super) fn keep(&mut self, start: usize, end: usize) {
        let (start, end) = (start as u32, end as u32);
        match self.pieces.last_mut() {
            _ if start >= end => {}
            Some(last) if !last.own && last.end == start => last.end = end,
            _ => self.pieces.push(Piece { own: false, start, end }),
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        let start = self.own.len() as u32;
        self.own.extend_from_slice(bytes);
        let end = self.own.len() as u32;
        match self.pieces.last_mut() {
            Some(last) if last.own && last.end == start => last.end = end,
            _ => self.pieces.push(Piece { own: true, start, end }),
        }
    }
}

/// A request as filters see it: without what belongs to this hop or frames the body.
pub fn filter_request<'b>(
    request: &Request<'_, 'b>,
    default_authority: &'b [u8],
    facts: Facts<'b>,
) -> RequestHead<'b> {
    let target = match request.path_and_query() {
        b"" if request.method == b"OPTIONS" => Cow::Borrowed(&b"*"[..]),
        b"" => Cow::Borrowed(&b"/"[..]),
        query @ [b'?', ..] => Cow::Owned([b"/", query].concat()),
        whole => Cow::Borrowed(whole),
    };
    let authority = if request.authority.is_empty() { default_authority } else { request.authority };
    RequestHead {
        method: Cow::Borrowed(request.method),
        scheme: "http",
        target,
        authority: Cow::Borrowed(authority),
        fields: filter_fields(&request.fields, |kind| {
            !matches!(kind, Kind::Lighter | Kind::Host) && (kind != Kind::Expect || request.minor == 1)
        }),
        facts,
        orders: Orders::default(),
    }
}

/// An answer as filters see it: without what belongs to this hop or frames the body.
/// `lighter`: `x-lighter-*` passes.
pub fn filter_response<'b>(response: &Response<'_, 'b>, lighter: bool) -> ResponseHead<'b> {
    let passes = |kind| match kind {
        Kind::Lighter => lighter,
        Kind::Upgrade => keeps_upgrade(response.status),
        _ => true,
    };
    let mut fields = filter_fields(&response.fields, passes);
    if keeps_upgrade(response.status)
        && let Some(upgrade) = response.fields.get("upgrade")
    {
        fields.push((Cow::Borrowed(b"Upgrade"), Cow::Borrowed(upgrade)));
    }
    ResponseHead { status: response.status, fields }
}

/// The reason phrase of a status line at the front of `head`, as it came.
pub fn reason(head: &[u8]) -> &[u8] {
    let end = memchr::memchr(b'\r', head).unwrap_or_default();
    head.get(b"HTTP/1.1 200 ".len()..end).unwrap_or_default()
}

fn filter_fields<'b>(fields: &Fields<'_, 'b>, passes: impl Fn(Kind) -> bool) -> FilterFields<'b> {
    fields
        .list
        .iter()
        .filter(|field| match field.kind {
            Kind::Connection
            | Kind::Hop
            | Kind::TransferEncoding
            | Kind::ContentLength
            | Kind::Upgrade
            | Kind::Http2Settings => false,
            kind => passes(kind) && !fields.connection.names(field.name),
        })
        .map(|field| (Cow::Borrowed(field.name), Cow::Borrowed(field.value)))
        .collect()
}

/// What stands between an answer's last field and its body.
fn response_end(response: &Response<'_, '_>, rules: &ResponseRules) -> &'static [u8] {
    match () {
        () if keeps_upgrade(response.status) => b"Connection: Upgrade\r\n\r\n",
        // An interim answer says nothing of the connection.
        () if response.status < 200 => b"\r\n",
        () if rules.close && rules.draining => DRAINING_CLOSE,
        () if rules.close => b"Connection: close\r\n\r\n",
        () if rules.client_minor == 0 => b"Connection: keep-alive\r\n\r\n",
        () => b"\r\n",
    }
}

/// See [`local::DRAINING_FIELD`].
const DRAINING_CLOSE: &[u8] = b"x-lighter-draining: true\r\nConnection: close\r\n\r\n";

/// 101 changes the protocol, 426 says which one would be needed.
const fn keeps_upgrade(status: u16) -> bool {
    matches!(status, 101 | 426)
}

/// The places of the fields that mean something to a hop, or that `Connection` may name.
fn special(fields: &Fields<'_, '_>) -> impl Iterator<Item = usize> + use<> {
    let mut left = fields.special;
    if fields.connection.names_any() {
        left = u128::MAX >> (MAX_FIELDS - fields.list.len());
    }
    std::iter::from_fn(move || {
        let at = left.trailing_zeros() as usize;
        left &= left.wrapping_sub(1);
        (at < MAX_FIELDS).then_some(at)
    })
}

/// Where the line of field `at` begins and ends within a head of `len` bytes.
fn line(head: &[u8], fields: &Fields<'_, '_>, at: usize, len: usize) -> (usize, usize) {
    let start = offset(head, fields.list[at].name);
    let end = fields.list.get(at + 1).map_or(len - 2, |next| offset(head, next.name));
    (start, end)
}

/// Whether no `X-Forwarded-For` comes behind field `at`.
fn is_last(fields: &Fields<'_, '_>, at: usize) -> bool {
    !fields.list[at + 1..].iter().any(|field| field.kind == Kind::ForwardedFor)
}
