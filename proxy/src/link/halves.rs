//! A stream of a link in the terms in which HTTP/2 is moved: heads of the `http` crate, bodies, trailers.

use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri, Version};

use super::connection::{Link, Opened};
use super::exchange::ENDPOINT;
use super::frame::{Code, Cut};
use super::head::{Opening, Protocol, RequestHead, ResponseHead, Scheme};
use super::send;
use super::session::Read;
use super::stream::{End, cut_in};
use crate::error::Cause;
use crate::http::h1::head::Field;
use crate::http::hop::{self, Kind};

/// What comes on a stream: a body, and what is behind it.
pub(crate) struct Coming {
    end: Rc<End>,
    trailers: Option<HeaderMap>,
    ended: bool,
}

/// What goes out on a stream behind its head.
pub(crate) struct Going(Rc<End>);

/// The answer to a request that came: to be given.
pub(crate) struct Answering(Rc<End>);

/// The answer to a request that was sent: to come.
pub(crate) struct Awaited {
    end: Rc<End>,
    /// It was come upon while only interim answers were asked for.
    head: Option<ResponseHead>,
}

/// A request that came, in the words of the `http` crate. `Err`: it cannot be said so.
pub(crate) fn taken(opened: Opened) -> Result<(Parts, Coming, Answering), (Cause, Answering)> {
    let Opened { head, end, stream } = opened;
    let stream = Rc::new(stream);
    match parts(&head) {
        Ok(parts) => {
            let coming = Coming { end: stream.clone(), trailers: None, ended: end };
            Ok((parts, coming, Answering(stream)))
        }
        Err(cause) => Err((cause, Answering(stream))),
    }
}

/// Sends a request's head. `end`: there is nothing behind it. `endpoint`: the address that it is for. `deadline`: what is
/// left of its time. Of `fields` those go that are no hop's own.
pub(crate) fn open<'f>(
    link: &Rc<Link>,
    endpoint: &'f str,
    parts: &Parts,
    fields: impl Iterator<Item = (&'f HeaderName, &'f HeaderValue)>,
    deadline: Option<Duration>,
    end: bool,
) -> Result<(Awaited, Going), Cut> {
    let opening = Opening {
        protocol: Protocol::Http2,
        scheme: if parts.uri.scheme() == Some(&http::uri::Scheme::HTTPS) {
            Scheme::Https
        } else {
            Scheme::Http
        },
        method: parts.method.as_str().as_bytes(),
        authority: parts.uri.authority().map_or(b"", |authority| authority.as_str().as_bytes()),
        path: parts.uri.path_and_query().map_or(b"/", |path| path.as_str().as_bytes()),
        deadline,
    };
    let fields = crossing(fields).chain([(ENDPOINT, endpoint.as_bytes())]);
    let stream = send::open(link, &opening, fields, end).map_err(|error| cut_of(&error))?;
    let stream = Rc::new(stream);
    Ok((Awaited { end: stream.clone(), head: None }, Going(stream)))
}

impl Coming {
    /// Whether all of it was read.
    pub(crate) fn is_end(&self) -> bool {
        self.ended || (self.trailers.is_none() && self.end.is_at_end())
    }

    /// The next part of the body. None: it is whole, or trailers come.
    pub(crate) fn poll_data(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        if self.ended || self.trailers.is_some() {
            return Poll::Ready(None);
        }
        match ready!(self.end.poll_next(cx)) {
            Ok(Read::Data(bytes)) => return Poll::Ready(Some(Ok(bytes))),
            Ok(Read::Trailers(trailers)) => self.trailers = Some(map(trailers.fields())),
            Ok(Read::End) => self.ended = true,
            Ok(Read::Head(_)) => return Poll::Ready(Some(Err(misplaced()))),
            Ok(Read::Cut(cut)) | Err(cut) => return Poll::Ready(Some(Err(cut))),
        }
        Poll::Ready(None)
    }

    /// What is behind the body, when that is whole.
    pub(crate) fn poll_trailers(&mut self, cx: &Context<'_>) -> Poll<Result<Option<HeaderMap>, Cut>> {
        while !self.ended {
            if let Some(trailers) = self.trailers.take() {
                self.ended = true;
                return Poll::Ready(Ok(Some(trailers)));
            }
            match ready!(self.poll_data(cx)) {
                // Whoever asks for trailers does not want what comes before them.
                Some(Ok(bytes)) => self.release(bytes.len()),
                Some(Err(cut)) => return Poll::Ready(Err(cut)),
                None => {}
            }
        }
        Poll::Ready(Ok(None))
    }

    /// So many bytes of what was read are no longer held.
    pub(crate) fn release(&self, bytes: usize) {
        self.end.release(bytes);
    }
}

impl Going {
    /// How many bytes can be sent now.
    pub(crate) fn room(&self) -> usize {
        self.0.room()
    }

    /// How many bytes can be sent, once that is any.
    pub(crate) fn poll_room(&self, cx: &Context<'_>) -> Poll<Result<usize, Cut>> {
        self.0.poll_room(cx)
    }

    /// Sends `content`, for which there is room. `end`: nothing follows it.
    pub(crate) fn send(&self, mut content: Bytes, end: bool) -> Result<(), Cut> {
        let sent = self.0.send_bytes(&mut content, end).map_err(|error| cut_of(&error));
        debug_assert!(sent.is_err() || content.is_empty());
        sent.map(|_| ())
    }

    /// Ends it with trailers.
    pub(crate) fn send_trailers(&self, trailers: &HeaderMap) -> Result<(), Cut> {
        let fields = trailers.iter().filter(|(name, _)| hop::allowed_in_trailers(name.as_str().as_bytes()));
        let fields = fields.map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
        self.0.send_trailers(fields).map_err(|error| cut_of(&error))
    }

    /// Ready if the other side has cut it off.
    pub(crate) fn poll_cut(&self, cx: &Context<'_>) -> Poll<Cut> {
        self.0.poll_cut(cx)
    }

    /// Cuts it off.
    pub(crate) fn reset(&self, cut: Cut) {
        self.0.reset(cut);
    }
}

impl Answering {
    /// Sends an interim answer.
    pub(crate) fn interim(&self, answer: &Response<()>) -> Result<(), Cut> {
        self.send(answer, false)
    }

    /// Sends the answer's head.
    pub(crate) fn answer(&self, answer: &Response<()>, end: bool) -> Result<Going, Cut> {
        self.send(answer, end).map(|()| Going(self.0.clone()))
    }

    /// Ready if the other side wants no answer any more.
    pub(crate) fn poll_cut(&self, cx: &Context<'_>) -> Poll<Cut> {
        self.0.poll_cut(cx)
    }

    /// Cuts it off.
    pub(crate) fn reset(&self, cut: Cut) {
        self.0.reset(cut);
    }

    fn send(&self, answer: &Response<()>, end: bool) -> Result<(), Cut> {
        let sent = self.0.send_head(answer.status().as_u16(), answered(answer.headers().iter()), end);
        sent.map_err(|error| cut_of(&error))
    }
}

impl Awaited {
    /// The next interim answer. None: the answer itself has come.
    pub(crate) fn poll_interim(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Response<()>, Cut>>> {
        if self.head.is_some() {
            return Poll::Ready(None);
        }
        match ready!(self.poll_head(cx)) {
            Ok(head) if head.is_informational() => Poll::Ready(Some(response(&head))),
            Ok(head) => {
                self.head = Some(head);
                Poll::Ready(None)
            }
            Err(cut) => Poll::Ready(Some(Err(cut))),
        }
    }

    /// The answer. Interim ones are left out.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Poll<Result<Response<Coming>, Cut>> {
        loop {
            let head = match self.head.take() {
                Some(head) => head,
                None => ready!(self.poll_head(cx))?,
            };
            if !head.is_informational() {
                let coming = Coming { end: self.end.clone(), trailers: None, ended: false };
                return Poll::Ready(response(&head).map(|answer| answer.map(|()| coming)));
            }
        }
    }

    fn poll_head(&self, cx: &Context<'_>) -> Poll<Result<ResponseHead, Cut>> {
        match ready!(self.end.poll_next(cx)) {
            Ok(Read::Head(head)) => Poll::Ready(Ok(head)),
            Ok(Read::Cut(cut)) | Err(cut) => Poll::Ready(Err(cut)),
            Ok(_) => Poll::Ready(Err(misplaced())),
        }
    }
}

/// A request's head, without what is between sidecars only.
fn parts(head: &RequestHead) -> Result<Parts, Cause> {
    let mut request = http::Request::new(());
    *request.method_mut() = Method::from_bytes(head.method()).map_err(|_| Cause::BadRequest)?;
    let mut uri = http::uri::Parts::default();
    uri.path_and_query = match head.path_and_query() {
        // CONNECT has none.
        b"" => return Err(Cause::Unsupported),
        path => Some(path.try_into().map_err(|_| Cause::BadRequest)?),
    };
    if head.authority().is_empty() {
        *request.version_mut() = Version::HTTP_11;
    } else {
        *request.version_mut() = Version::HTTP_2;
        uri.authority = Some(head.authority().try_into().map_err(|_| Cause::BadRequest)?);
        uri.scheme = Some(match head.scheme {
            Scheme::Http => http::uri::Scheme::HTTP,
            Scheme::Https => http::uri::Scheme::HTTPS,
        });
    }
    *request.uri_mut() = Uri::from_parts(uri).map_err(|_| Cause::BadRequest)?;
    let between_sidecars = |field: &Field<'_>| !hop::is_lighter(field.name);
    *request.headers_mut() = map(head.fields().filter(between_sidecars));
    Ok(request.into_parts().0)
}

fn response(head: &ResponseHead) -> Result<Response<()>, Cut> {
    let mut answer = Response::new(());
    *answer.version_mut() = Version::HTTP_2;
    let malformed = Cut::new(Code::Protocol, Cause::UpstreamMalformed);
    *answer.status_mut() = StatusCode::from_u16(head.status).map_err(|_| malformed)?;
    *answer.headers_mut() = map(head.fields());
    Ok(answer)
}

/// Every name and value was seen to be one when it came.
fn map<'f>(fields: impl Iterator<Item = Field<'f>>) -> HeaderMap {
    let mut map = HeaderMap::new();
    for field in fields {
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(field.name), HeaderValue::from_bytes(field.value))
        {
            map.append(name, value);
        }
    }
    map
}

/// The fields of a request that are no hop's own.
fn crossing<'f>(
    fields: impl Iterator<Item = (&'f HeaderName, &'f HeaderValue)>,
) -> impl Iterator<Item = (&'f [u8], &'f [u8])> {
    bare(fields).filter(|(name, _)| !matches!(hop::classify(name), Kind::Lighter) && !is_hops(name))
}

/// The same of an answer, in which sidecars say something to each other.
fn answered<'f>(
    fields: impl Iterator<Item = (&'f HeaderName, &'f HeaderValue)>,
) -> impl Iterator<Item = (&'f [u8], &'f [u8])> {
    bare(fields).filter(|(name, _)| !matches!(hop::classify(name), Kind::Te) && !is_hops(name))
}

fn bare<'f>(
    fields: impl Iterator<Item = (&'f HeaderName, &'f HeaderValue)>,
) -> impl Iterator<Item = (&'f [u8], &'f [u8])> {
    fields.map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()))
}

fn is_hops(name: &[u8]) -> bool {
    matches!(
        hop::classify(name),
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
