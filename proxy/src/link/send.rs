//! The half of an exchange that is written: HTTP/1 in, what a stream of a link carries out.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};

use super::connection::Link;
use super::exchange::ENDPOINT;
use super::frame::{Code, Cut};
use super::head::{Opening, Protocol, Scheme, is_informational};
use super::session::OpenError;
use super::stream::{End, broken};
use crate::error::Cause;
use crate::http::h1::body::{Body, Framing, Step};
use crate::http::h1::head::{self, Asked, Field, Fields, Refusal};
use crate::http::hop::{self, Kind};

/// Name and value.
type Trailer = (Box<[u8]>, Box<[u8]>);

/// What is written, and how far it has come.
#[derive(Debug)]
pub(super) struct Sending {
    state: State,
    /// Of a head, or of a body's framing: what is not whole yet.
    partial: BytesMut,
    /// Content for which there was no room.
    left: BytesMut,
    /// What comes behind `left`.
    tail: Option<Tail>,
    trailers: Vec<Trailer>,
    asked: Asked,
    /// Of a request: it is kept.
    keeps: bool,
}

enum State {
    /// A request's head is to come, and opens the stream.
    Request(Rc<Link>, Arc<str>),
    /// A request that asks for an upgrade was sent: nothing may come before it is answered.
    Upgrading,
    /// An answer's head is to come.
    Answer,
    /// A body is to come.
    Body(Body),
    /// It is no message.
    Raw,
    /// The end was sent, or is in `tail`.
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tail {
    End,
    Trailers,
}

impl Sending {
    /// A request for the endpoint of this name.
    pub(super) fn request(link: Rc<Link>, endpoint: Arc<str>) -> Self {
        Sending::new(State::Request(link, endpoint), Asked::default())
    }

    /// An answer.
    pub(super) fn answer(head_only: bool, upgrade: bool) -> Self {
        Sending::new(State::Answer, Asked { head: head_only, upgrade })
    }

    /// Bytes.
    pub(super) fn raw() -> Self {
        Sending::new(State::Raw, Asked::default())
    }

    fn new(state: State, asked: Asked) -> Self {
        Sending {
            state,
            partial: BytesMut::new(),
            left: BytesMut::new(),
            tail: None,
            trailers: Vec::new(),
            asked,
            keeps: false,
        }
    }

    /// The request, whose head is to come, is kept.
    pub(super) fn keeps(&mut self) {
        self.keeps = true;
    }

    /// Whether a head is to come.
    pub(super) fn awaits_head(&self) -> bool {
        matches!(self.state, State::Request(..) | State::Answer)
    }

    /// Whether what is said here is no message any more.
    pub(super) fn is_raw(&self) -> bool {
        matches!(self.state, State::Raw)
    }

    /// The other side has answered a request for an upgrade.
    pub(super) fn upgrade_answered(&mut self, upgraded: bool) {
        if matches!(self.state, State::Upgrading) {
            self.state = if upgraded { State::Raw } else { State::Done };
            self.tail = (!upgraded).then_some(Tail::End);
        }
    }

    /// Takes a part of a request's head. When it is whole the stream is opened; returns it, whether its method is HEAD,
    /// and whether it asks for an upgrade.
    pub(super) fn open(&mut self, bytes: &[u8]) -> io::Result<Option<(End, bool, bool)>> {
        let mut whole = std::mem::take(&mut self.partial);
        let opened = if whole.is_empty() {
            self.open_with(bytes)?
        } else {
            whole.extend_from_slice(bytes);
            self.open_with(&whole)?
        };
        if opened.is_none() {
            if whole.is_empty() {
                whole.extend_from_slice(bytes);
            }
            self.partial = whole;
        }
        Ok(opened)
    }

    /// The same with all that has come of the head.
    fn open_with(&mut self, bytes: &[u8]) -> io::Result<Option<(End, bool, bool)>> {
        let State::Request(link, endpoint) = &self.state else { return Err(misplaced()) };
        let mut room = head::room();
        let Some(request) = head::request(bytes, &mut room).map_err(refused)? else { return Ok(None) };
        let opening = Opening {
            protocol: Protocol::Http1,
            scheme: Scheme::Http,
            method: request.method,
            authority: request.authority,
            path: request.target,
            deadline: None,
        };
        let fields = crossing(&request.fields, request.upgrade.is_some(), false)
            .chain([(ENDPOINT, endpoint.as_bytes())]);
        let upgrade = request.upgrade.is_some();
        let end = request.framing == Framing::None && !upgrade;
        let stream = match self.keeps {
            false => open(link, &opening, fields, end)?,
            true => open(link, &opening, fields.chain([KEPT]), end)?,
        };
        let head_only = request.method == b"HEAD";
        self.state = match Body::new(request.framing) {
            _ if end => State::Done,
            Body::Done => State::Upgrading,
            body => State::Body(body),
        };
        self.write(&stream, &bytes[request.len..])?;
        Ok(Some((stream, head_only, upgrade)))
    }

    /// Takes all of `bytes`. What does not fit into the stream is kept.
    pub(super) fn write(&mut self, stream: &End, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        if self.partial.is_empty() {
            return self.message(stream, bytes, None);
        }
        let mut whole = std::mem::take(&mut self.partial);
        whole.extend_from_slice(bytes);
        self.message(stream, &whole, None)
    }

    /// The same for bytes that are shared: large parts of content are not copied.
    pub(super) fn lend(&mut self, stream: &End, bytes: &Bytes) -> io::Result<()> {
        if self.partial.is_empty() {
            return self.message(stream, bytes, Some(bytes));
        }
        self.write(stream, bytes)
    }

    /// Sends what is kept.
    pub(super) fn poll_flush(&mut self, stream: &End, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.left.is_empty() {
            let end = self.tail == Some(Tail::End);
            let taken = stream.send(&self.left, end)?;
            self.left.advance(taken);
            if !self.left.is_empty() {
                stream.wait_for_room(cx);
                return Poll::Pending;
            }
            self.left = BytesMut::new();
            if end {
                self.tail = None;
            }
        }
        Poll::Ready(match self.tail.take() {
            None => Ok(()),
            Some(Tail::End) => stream.finish(),
            Some(Tail::Trailers) => {
                let trailers = std::mem::take(&mut self.trailers);
                stream.send_trailers(trailers.iter().map(|(name, value)| (&**name, &**value)))
            }
        })
    }

    /// Nothing more is written. Ends what ends with its connection; anything else has an end of its own.
    pub(super) fn end(&mut self, stream: &End) -> io::Result<()> {
        match self.state {
            State::Raw | State::Body(Body::UntilClose) => {
                self.state = State::Done;
                stream.finish()
            }
            _ => Ok(()),
        }
    }

    /// `whole`: what `bytes` are a part of, if it may be shared.
    fn message(&mut self, stream: &End, mut bytes: &[u8], whole: Option<&Bytes>) -> io::Result<()> {
        loop {
            match &mut self.state {
                State::Answer => match self.answer_head(stream, bytes)? {
                    Some(len) => bytes = &bytes[len..],
                    None => {
                        self.partial.extend_from_slice(bytes);
                        return Ok(());
                    }
                },
                State::Body(_) => return self.body(stream, bytes, whole),
                State::Raw => return self.content(stream, bytes, false, whole),
                _ if bytes.is_empty() => return Ok(()),
                State::Request(..) | State::Upgrading | State::Done => return Err(misplaced()),
            }
        }
    }

    /// Sends an answer's head; returns how many bytes it has. None: it is not whole.
    fn answer_head(&mut self, stream: &End, bytes: &[u8]) -> io::Result<Option<usize>> {
        let mut room = head::room();
        let Some(answer) = head::response(bytes, &mut room, self.asked).map_err(refused)? else {
            return Ok(None);
        };
        let interim = is_informational(answer.status);
        let end = !interim && answer.framing == Framing::None;
        stream.send_head(answer.status, crossing(&answer.fields, answer.status == 101, true), end)?;
        if !interim {
            self.state = match answer.framing {
                Framing::None => State::Done,
                Framing::Tunnel => State::Raw,
                framing => State::Body(Body::new(framing)),
            };
        }
        Ok(Some(answer.len))
    }

    fn body(&mut self, stream: &End, mut bytes: &[u8], whole: Option<&Bytes>) -> io::Result<()> {
        while let State::Body(body) = &mut self.state {
            match body.step(bytes).map_err(refused)? {
                Step::Data(count) => {
                    let last = body.is_done();
                    if last {
                        self.state = State::Done;
                    }
                    self.content(stream, &bytes[..count], last, whole)?;
                    bytes = &bytes[count..];
                }
                Step::Framing(count) => bytes = &bytes[count..],
                Step::Trailer(line) => {
                    let (name, value) = line.split(bytes);
                    if line.passes {
                        self.trailers.push((name.into(), value.into()));
                    }
                    bytes = &bytes[line.len..];
                }
                Step::End(count) => {
                    self.state = State::Done;
                    self.tail = Some(if self.trailers.is_empty() { Tail::End } else { Tail::Trailers });
                    bytes = &bytes[count..];
                }
                Step::More => {
                    self.partial.extend_from_slice(bytes);
                    return Ok(());
                }
            }
        }
        if bytes.is_empty() { Ok(()) } else { Err(misplaced()) }
    }

    fn content(&mut self, stream: &End, bytes: &[u8], last: bool, whole: Option<&Bytes>) -> io::Result<()> {
        let taken = match whole {
            _ if !self.left.is_empty() => 0,
            Some(whole) if bytes.len() >= LENT => stream.send_bytes(&mut whole.slice_ref(bytes), last)?,
            _ => stream.send(bytes, last)?,
        };
        self.left.extend_from_slice(&bytes[taken..]);
        if last && !self.left.is_empty() {
            self.tail = Some(Tail::End);
        }
        Ok(())
    }
}

/// Content that is shared is not copied from this size on. What it is a part of is held until it is sent.
pub(crate) const LENT: usize = 16 * 1024;

/// What a request's head says behind all else where the request is kept.
pub(super) const KEPT: (&[u8], &[u8]) = (hop::KEEPS_FIELD.as_bytes(), b"1");

/// Opens a stream.
pub(super) fn open<'f>(
    link: &Rc<Link>,
    opening: &Opening<'_>,
    fields: impl IntoIterator<Item = (&'f [u8], &'f [u8])>,
    end: bool,
) -> io::Result<End> {
    let opened = link.session.borrow_mut().open(Instant::now(), opening, fields, &[], end);
    link.wake();
    match opened {
        Ok((stream, _)) => {
            link.count_stream();
            Ok(link.end(stream))
        }
        Err(OpenError::Unavailable) => Err(broken(Cut::new(Code::Refused, Cause::Overloaded))),
        Err(OpenError::TooLarge) => Err(broken(Cut::new(Code::Protocol, Cause::HeadTooLarge))),
    }
}

/// The fields that go over a link: none that belongs to a connection, and of `x-lighter-*` those of answers, and that of
/// requests which are sent on, which sidecars say to each other.
fn crossing<'a>(
    fields: &'a Fields<'_, 'a>,
    upgrades: bool,
    answer: bool,
) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
    let passes = move |field: &&Field<'a>| match hop::classify(field.name) {
        Kind::Connection | Kind::Hop | Kind::TransferEncoding | Kind::Http2Settings => false,
        Kind::Host => answer,
        Kind::Lighter => answer || hop::is_forwarded(field.name),
        Kind::Upgrade => upgrades,
        Kind::Te => !answer,
        _ => !fields.connection.names(field.name),
    };
    fields.list.iter().filter(passes).map(|field| (field.name, field.value))
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            State::Request(..) => "Request",
            State::Upgrading => "Upgrading",
            State::Answer => "Answer",
            State::Body(_) => "Body",
            State::Raw => "Raw",
            State::Done => "Done",
        })
    }
}

/// An engine of this sidecar wrote what is no message: its peer is cut off.
fn refused(refusal: Refusal) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, refusal.detail)
}

fn misplaced() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "nothing is to be said here")
}
