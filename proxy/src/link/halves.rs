//! A stream of a link in the terms in which HTTP/2 is moved: heads, bodies, trailers.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;

use super::connection::{Link, Opened};
use super::exchange::ENDPOINT;
use super::frame::{Code, Cut};
use super::head::{Opening, Protocol, Scheme};
use super::send;
use super::session;
use super::stream::{End, cut_in};
use crate::error::Cause;
use crate::http::h1::head::Field;
use crate::http::h2::fields::{Fields, RequestHead, ResponseHead};
use crate::http::hop::{self, Kind};
use crate::http::stream::{Broken, Read};

/// One end of a stream.
pub(crate) struct Half {
    end: End,
    ahead: RefCell<Ahead>,
}

/// What was read and not asked for yet.
#[derive(Default)]
struct Ahead {
    content: Bytes,
    next: Option<Result<session::Read, Cut>>,
    ended: bool,
}

/// A stream that was opened, and its request in the words of HTTP/2. `Err`: it cannot be said so.
pub(crate) fn taken(opened: Opened) -> (Half, Result<RequestHead, Cause>) {
    let Opened { head, end, stream } = opened;
    let half = Half::new(stream, end);
    if head.path_and_query().is_empty() {
        // CONNECT has none.
        return (half, Err(Cause::Unsupported));
    }
    let scheme: &[u8] = match head.scheme {
        Scheme::Http => b"http",
        Scheme::Https => b"https",
    };
    let mut request = RequestHead::new(head.method(), scheme, head.authority(), head.path_and_query());
    // What is between sidecars only ends here, or where it is known whether it is believed.
    let passes = |name: &[u8]| !hop::is_lighter(name) || hop::is_between(name);
    put(&mut request.fields, head.fields().filter(|field| passes(field.name)));
    (half, Ok(request))
}

/// Sends a request's head. `end`: there is nothing behind it. `endpoint`: the address that it is for. `deadline`: what is
/// left of its time. `keeps`: it is kept. Of its fields those go that are no hop's own.
pub(crate) fn open(
    link: &Rc<Link>,
    endpoint: &str,
    head: &RequestHead,
    deadline: Option<Duration>,
    (end, keeps): (bool, bool),
) -> Result<Half, Cut> {
    let opening = Opening {
        protocol: Protocol::Http2,
        scheme: if head.scheme() == b"https" { Scheme::Https } else { Scheme::Http },
        method: head.method(),
        authority: head.authority(),
        path: head.target(),
        deadline,
    };
    let is_ours = |name: &[u8], kind| kind != Kind::Lighter || hop::is_forwarded(name);
    let crossing = head.fields.iter().filter(|field| is_ours(field.name, field.kind) && !is_hops(field.kind));
    let fields = crossing.map(|field| (field.name, field.value)).chain([(ENDPOINT, endpoint.as_bytes())]);
    let opened = match keeps {
        false => send::open(link, &opening, fields, end),
        true => send::open(link, &opening, fields.chain([send::KEPT]), end),
    };
    Ok(Half::new(opened.map_err(|error| cut_of(&error))?, false))
}

impl Half {
    /// `ended`: nothing comes on it.
    fn new(end: End, ended: bool) -> Self {
        Half { end, ahead: RefCell::new(Ahead { ended, ..Ahead::default() }) }
    }

    /// The next head of the answer.
    pub(crate) fn poll_head(&self, cx: &Context<'_>) -> Poll<Result<ResponseHead, Cut>> {
        match ready!(self.end.poll_next(cx)) {
            Ok(session::Read::Head(from)) => {
                let mut head = ResponseHead { status: from.status, fields: Fields::with_room() };
                put(&mut head.fields, from.fields());
                Poll::Ready(Ok(head))
            }
            Ok(session::Read::Cut(cut)) | Err(cut) => Poll::Ready(Err(cut)),
            Ok(_) => Poll::Ready(Err(misplaced())),
        }
    }

    /// Bytes of body that can be read now. Where there are none, this task is woken when something comes.
    pub(crate) fn readable(&self, cx: &Context<'_>) -> usize {
        let mut ahead = self.ahead.borrow_mut();
        if ahead.content.is_empty()
            && ahead.next.is_none()
            && !ahead.ended
            && let Poll::Ready(next) = self.end.poll_next(cx)
        {
            match next {
                Ok(session::Read::Data(content)) => ahead.content = content,
                other => ahead.next = Some(other),
            }
        }
        ahead.content.len()
    }

    /// What comes next behind the head, at most `most` bytes of a body.
    pub(crate) fn poll_read(&self, most: usize, cx: &Context<'_>) -> Poll<Read> {
        let waiting = self.readable(cx);
        let mut ahead = self.ahead.borrow_mut();
        if waiting > 0 {
            let part = ahead.content.split_to(waiting.min(most));
            let end = ahead.content.is_empty() && self.end.is_at_end();
            ahead.ended |= end;
            return Poll::Ready(Read::Data { part, end });
        }
        let next = ahead.next.take();
        ahead.ended |= matches!(next, Some(Ok(session::Read::Trailers(_) | session::Read::End)));
        Poll::Ready(match next {
            None if ahead.ended => Read::End,
            None => return Poll::Pending,
            Some(Ok(session::Read::End)) => Read::End,
            Some(Ok(session::Read::Trailers(trailers))) => {
                let mut fields = Fields::default();
                put(&mut fields, trailers.fields());
                Read::Trailers(Box::new(fields))
            }
            Some(Ok(session::Read::Cut(cut)) | Err(cut)) => Read::Cut(Broken::Link(cut)),
            Some(Ok(session::Read::Head(_) | session::Read::Data(_))) => Read::Cut(Broken::Link(misplaced())),
        })
    }

    /// Whether all was read, and has ended well.
    pub(crate) fn is_end(&self) -> bool {
        let ahead = self.ahead.borrow();
        ahead.ended || (ahead.content.is_empty() && ahead.next.is_none() && self.end.is_at_end())
    }

    /// So many bytes of what was read are no longer held.
    pub(crate) fn release(&self, bytes: usize) {
        self.end.release(bytes);
    }

    /// How many of `want` bytes can be sent, once that is any.
    pub(crate) fn poll_capacity(&self, want: usize, cx: &Context<'_>) -> Poll<Result<usize, Cut>> {
        self.end.poll_room(cx).map_ok(|room| room.min(want))
    }

    /// Whether `want` bytes can be sent now.
    pub(crate) fn has_capacity(&self, want: usize) -> bool {
        self.end.room() >= want
    }

    /// Sends `content`, for which there is room. `end`: nothing follows it.
    pub(crate) fn send_data(&self, mut content: Bytes, end: bool) -> Result<(), Cut> {
        let sent = self.end.send_bytes(&mut content, end).map_err(|error| cut_of(&error));
        debug_assert!(sent.is_err() || content.is_empty());
        sent.map(|_| ())
    }

    /// Ends it with trailers.
    pub(crate) fn send_trailers(&self, trailers: &Fields) -> Result<(), Cut> {
        let fields = trailers.iter().filter(|field| hop::allowed_in_trailers(field.name));
        let fields = fields.map(|field| (field.name, field.value));
        self.end.send_trailers(fields).map_err(|error| cut_of(&error))
    }

    /// Sends the head of an answer, or of an interim one. In it sidecars say something to each other.
    pub(crate) fn send_head(&self, head: &ResponseHead, end: bool) -> Result<(), Cut> {
        let crossing = head.fields.iter().filter(|field| field.kind != Kind::Te && !is_hops(field.kind));
        let fields = crossing.map(|field| (field.name, field.value));
        self.end.send_head(head.status, fields, end).map_err(|error| cut_of(&error))
    }

    /// Ready if the other side has cut it off.
    pub(crate) fn poll_cut(&self, cx: &Context<'_>) -> Poll<Cut> {
        self.end.poll_cut(cx)
    }

    /// Cuts it off.
    pub(crate) fn reset(&self, cut: Cut) {
        self.end.reset(cut);
    }
}

/// Every name and value was seen to be one when it came. What only HTTP/1 can say is left out.
fn put<'f>(fields: &mut Fields, from: impl Iterator<Item = Field<'f>>) {
    for field in from.filter(|field| !is_hops(hop::classify(field.name))) {
        fields.push_lower(field.name, field.value);
    }
}

fn is_hops(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Connection
            | Kind::Hop
            | Kind::TransferEncoding
            | Kind::Http2Settings
            | Kind::Host
            | Kind::Upgrade
    )
}

fn cut_of(error: &std::io::Error) -> Cut {
    cut_in(error).unwrap_or(Cut { code: Code::Internal, cause: None })
}

fn misplaced() -> Cut {
    Cut::new(Code::Protocol, Cause::UpstreamMalformed)
}
