//! A stream of a link as an HTTP/1 connection of one exchange, or as a tunnel: what the engines of this sidecar read
//! from it and write to it, in place of a socket.
//!
//! A head that came over the link is said in HTTP/1 here, and one that is written here goes out in the link's words. So
//! whatever judges, counts, edits and times an exchange on a socket does so on a link. The end of a body is never
//! guessed: what ends without END on the link ends here with an error.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::Link;
use super::frame::{Code, Cut};
use super::head::{Protocol, RequestHead, ResponseHead, is_informational};
use super::send::Sending;
use super::session::Read;
use super::stream::{End, broken};
use crate::error::Cause;
use crate::http::h1::edit::Slices;
use crate::http::h1::head::Field;
use crate::http::h2::pieces::Pieces;
use crate::http::hop::{self, Kind};

/// One exchange, or one tunnel.
#[derive(Debug)]
pub struct Exchange {
    /// The stream. None: it is opened with the request's head.
    stream: Option<End>,
    coming: Coming,
    going: Sending,
    /// The other side opened it.
    called: bool,
    /// The request's method was HEAD.
    head_only: bool,
    /// The request asks for an upgrade.
    upgrade: bool,
    /// Who reads already, before the stream is opened.
    early: Option<Waker>,
}

/// The half that is read.
#[derive(Debug)]
struct Coming {
    /// Heads and framing in HTTP/1, to be read next.
    text: BytesMut,
    /// Content, to be read behind it.
    content: Pieces,
    framed: Framed,
    ended: bool,
}

thread_local! {
    /// A head that is written is taken at once, so one place for all is enough.
    static WHOLE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// How what is read is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framed {
    /// The head is still to come.
    Head,
    /// As a body of a length that its head says, or of none.
    Plain,
    /// In chunks.
    Chunked,
    /// It is no message: the end of this half is the stream's.
    Raw,
}

impl Exchange {
    /// The calling end of an exchange with the endpoint of this name. The request's head opens the stream.
    pub(crate) fn calling(link: Rc<Link>, endpoint: Arc<str>) -> Self {
        Exchange::new(None, Coming::new(Framed::Head), Sending::request(link, endpoint))
    }

    /// Says with the request's head, which is still to come, that the request is kept.
    pub(crate) fn keeps(&mut self) {
        self.going.keeps();
    }

    /// The called end of an exchange. `end`: nothing follows its head.
    pub(crate) fn called(stream: End, head: &RequestHead, end: bool) -> Self {
        let sized = head.length.is_some();
        let framed = if end || sized || head.upgrade { Framed::Plain } else { Framed::Chunked };
        let mut coming = Coming::new(framed);
        put_request(&mut coming.text, head, framed);
        coming.ended = end;
        let head_only = head.method() == b"HEAD";
        let mut exchange = Exchange::new(Some(stream), coming, Sending::answer(head_only, head.upgrade));
        (exchange.called, exchange.head_only, exchange.upgrade) = (true, head_only, head.upgrade);
        exchange
    }

    /// One end of a tunnel that stands.
    pub(crate) fn tunnel(stream: End) -> Self {
        Exchange::new(Some(stream), Coming::new(Framed::Raw), Sending::raw())
    }

    fn new(stream: Option<End>, coming: Coming, going: Sending) -> Self {
        Exchange { stream, coming, going, called: false, head_only: false, upgrade: false, early: None }
    }

    /// Whether there is something to read that was not read.
    pub(crate) fn has_arrived(&self) -> bool {
        !self.coming.text.is_empty() || !self.coming.content.is_empty()
    }

    /// Cuts it off, so that the other side cannot take this for an end.
    pub(crate) fn reset(&self) {
        if let Some(stream) = &self.stream {
            // Whoever calls does not want it any more; whoever is called cannot go on.
            let code = if self.called { Code::Internal } else { Code::Cancelled };
            stream.reset(Cut { code, cause: None });
        }
    }

    /// Cuts it off as not executed, for `cause`.
    pub(crate) fn refuse(&self, cause: Cause) {
        if let Some(stream) = &self.stream {
            stream.reset(Cut::new(Code::Refused, cause));
        }
    }

    /// Notes what the head says that was written.
    fn opened(&mut self, stream: End, head_only: bool, upgrade: bool) {
        self.stream = Some(stream);
        self.head_only = head_only;
        self.upgrade = upgrade;
        if let Some(early) = self.early.take() {
            early.wake();
        }
    }

    /// Takes all of `bytes`, which are written next.
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &self.stream {
            Some(stream) => self.going.write(stream, bytes),
            None => {
                if let Some((stream, head_only, upgrade)) = self.going.open(bytes)? {
                    self.opened(stream, head_only, upgrade);
                }
                Ok(())
            }
        }
    }

    /// Sends what is left of what was written.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.stream {
            Some(stream) => self.going.poll_flush(stream, cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Whether content comes next, so large that it is better [passed on](Self::poll_content) than read.
    pub(crate) fn has_content(&self) -> bool {
        self.coming.is_large()
    }

    /// Waits for content that is not read but written from where it is. False: what comes next is not content of a known
    /// length, nor of a tunnel, and is to be read.
    pub(crate) fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        // As with reading.
        let _ = self.poll_sent(cx);
        while self.coming.content.is_empty() {
            if !self.coming.is_bare() || self.coming.ended {
                return Poll::Ready(Ok(false));
            }
            ready!(self.poll_come(cx))?;
        }
        if !self.coming.is_bare() {
            return Poll::Ready(Ok(false));
        }
        while self.coming.content.len() < GATHERED
            && let Some(bytes) = self.stream.as_ref().and_then(End::next_data)
        {
            self.coming.content.push(bytes);
        }
        Poll::Ready(Ok(true))
    }

    /// At most `most` bytes of content, to be written at once.
    pub(crate) fn content<'a>(&'a self, most: usize, slices: &mut Slices<'a>) {
        self.coming.content.slices(most, slices);
    }

    /// `bytes` of content were written.
    pub(crate) fn passed(&mut self, bytes: usize) {
        let mut left = bytes;
        while left > 0 && !self.coming.content.is_empty() {
            left -= self.coming.content.take(left).len();
        }
        if let Some(stream) = &self.stream {
            stream.release(bytes);
        }
    }

    /// Writes the front of `content`, as much as there is room for and without copying it; returns how many bytes.
    pub(crate) fn poll_lend(&mut self, content: &mut Bytes, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        ready!(self.poll_sent(cx))?;
        let Some(stream) = &self.stream else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        let room = ready!(stream.poll_room(cx)).map_err(broken)?;
        let front = content.split_to(room.min(content.len()));
        self.going.lend(stream, &front)?;
        Poll::Ready(Ok(front.len()))
    }

    /// Takes in what came next on the stream. Ready: there is something to read, or the end.
    fn poll_come(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(stream) = &self.stream else {
            self.early = Some(cx.waker().clone());
            return Poll::Pending;
        };
        if self.coming.ended {
            if self.coming.framed == Framed::Raw || self.going.is_raw() {
                return Poll::Ready(Ok(()));
            }
            // A message ends by its own framing. Only that the stream is cut off can be heard behind it.
            return stream.poll_read(cx).map_ok(|_| ());
        }
        match ready!(stream.poll_read(cx))? {
            Read::Head(head) => self.answer_came(&head),
            Read::Data(bytes) => {
                if self.coming.framed == Framed::Chunked {
                    put_chunk_size(&mut self.coming.text, bytes.len());
                }
                self.coming.content.push(bytes);
            }
            Read::Trailers(trailers) => {
                if self.coming.framed == Framed::Chunked {
                    self.coming.text.put_slice(b"0\r\n");
                    trailers.fields().for_each(|field| put_field(&mut self.coming.text, &field));
                    self.coming.text.put_slice(b"\r\n");
                    self.coming.framed = Framed::Plain;
                }
            }
            Read::End => {
                if self.coming.framed == Framed::Chunked {
                    self.coming.text.put_slice(b"0\r\n\r\n");
                }
                self.coming.ended = true;
            }
            Read::Cut(_) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
        Poll::Ready(Ok(()))
    }

    fn answer_came(&mut self, head: &ResponseHead) {
        let interim = is_informational(head.status);
        let bodiless = self.head_only || interim || matches!(head.status, 101 | 204 | 304);
        let chunked = !bodiless && head.length.is_none();
        put_response(&mut self.coming.text, head, chunked);
        if interim {
            return;
        }
        self.coming.framed = match head.status {
            101 => Framed::Raw,
            _ if chunked => Framed::Chunked,
            _ => Framed::Plain,
        };
        if self.upgrade {
            self.going.upgrade_answered(head.status == 101);
        }
    }
}

impl Coming {
    fn new(framed: Framed) -> Self {
        Coming { text: BytesMut::new(), content: Pieces::default(), framed, ended: false }
    }

    /// Gives what is there to `buf`. Returns how many bytes of content that was.
    fn give(&mut self, buf: &mut ReadBuf<'_>) -> usize {
        let fitting = self.text.len().min(buf.remaining());
        buf.put_slice(&self.text[..fitting]);
        self.text.advance(fitting);
        if !self.text.is_empty() || self.content.is_empty() {
            return 0;
        }
        self.text = BytesMut::new();
        let before = buf.remaining();
        while !self.content.is_empty() && buf.remaining() > 0 {
            buf.put_slice(&self.content.take(buf.remaining()));
        }
        if self.content.is_empty() && self.framed == Framed::Chunked {
            self.text.put_slice(b"\r\n");
        }
        before - buf.remaining()
    }

    /// Whether content comes next that is better passed on than copied.
    fn is_large(&self) -> bool {
        self.text.is_empty() && self.framed == Framed::Plain && self.content.len() >= PASSED
    }

    /// Whether what comes next is content, with nothing around it.
    fn is_bare(&self) -> bool {
        self.text.is_empty() && matches!(self.framed, Framed::Plain | Framed::Raw)
    }

    fn is_empty(&self) -> bool {
        self.text.is_empty() && self.content.is_empty()
    }
}

impl AsyncRead for Exchange {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // As with TLS: whoever waits for an answer need not flush before. What is wrong with it the next write tells.
        let _ = this.poll_sent(cx);
        let before = buf.filled().len();
        let mut released = 0;
        let read = loop {
            let given = buf.filled().len() > before;
            if buf.remaining() == 0 || (given && this.coming.is_large()) {
                break Poll::Ready(Ok(()));
            }
            released += this.coming.give(buf);
            if buf.remaining() == 0 {
                break Poll::Ready(Ok(()));
            }
            if this.coming.is_empty() {
                match this.poll_come(cx) {
                    Poll::Ready(Ok(())) if this.coming.ended && this.coming.is_empty() => {
                        if this.coming.framed == Framed::Raw || this.going.is_raw() {
                            break Poll::Ready(Ok(()));
                        }
                    }
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                    Poll::Pending => break Poll::Pending,
                }
            }
        };
        if released > 0
            && let Some(stream) = &this.stream
        {
            stream.release(released);
        }
        // What was given counts first; the rest is told the next time.
        if buf.filled().len() > before { Poll::Ready(Ok(())) } else { read }
    }
}

impl AsyncWrite for Exchange {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_sent(cx))?;
        let written = bufs.iter().map(|slice| slice.len()).sum();
        if bufs.len() > 1 && this.going.awaits_head() {
            // A head comes in many parts, and is read once.
            WHOLE.with_borrow_mut(|whole| {
                whole.clear();
                bufs.iter().for_each(|slice| whole.extend_from_slice(slice));
                this.put(whole)
            })?;
        } else {
            bufs.iter().try_for_each(|slice| this.put(slice))?;
        }
        if this.upgrade && this.going.is_raw() {
            this.coming.framed = Framed::Raw;
        }
        // What is left waits for room, and holds the next write back.
        if let Poll::Ready(Err(error)) = this.poll_sent(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_sent(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_sent(cx))?;
        match &this.stream {
            Some(stream) => Poll::Ready(this.going.end(stream)),
            None => Poll::Ready(Ok(())),
        }
    }
}

/// A request's head in HTTP/1. It is the only one of its connection.
fn put_request(text: &mut BytesMut, head: &RequestHead, framed: Framed) {
    text.reserve(head.held() + 128);
    for part in
        [head.method(), b" ", head.path_and_query(), b" HTTP/1.1\r\nhost: ", head.authority(), b"\r\n"]
    {
        text.put_slice(part);
    }
    let mut te = false;
    for field in head.fields() {
        match hop::classify(field.name) {
            // Between sidecars only.
            Kind::Lighter if !hop::is_between(field.name) => continue,
            Kind::Te => te = true,
            _ => {}
        }
        put_field(text, &field);
    }
    if framed == Framed::Chunked {
        text.put_slice(b"transfer-encoding: chunked\r\n");
    }
    text.put_slice(match (head.upgrade, te) {
        (true, _) => b"connection: upgrade\r\n\r\n",
        (false, true) => b"connection: close, te\r\n\r\n",
        (false, false) => &b"connection: close\r\n\r\n"[..],
    });
}

/// An answer's head in HTTP/1.
fn put_response(text: &mut BytesMut, head: &ResponseHead, chunked: bool) {
    text.reserve(head.held() + 128);
    text.put_slice(b"HTTP/1.1 ");
    text.put_slice(itoa::Buffer::new().format(head.status).as_bytes());
    text.put_slice(b" ");
    let reason = http::StatusCode::from_u16(head.status).ok().and_then(|status| status.canonical_reason());
    text.put_slice(reason.unwrap_or_default().as_bytes());
    text.put_slice(b"\r\n");
    head.fields().for_each(|field| put_field(text, &field));
    if chunked {
        text.put_slice(b"transfer-encoding: chunked\r\n");
    }
    text.put_slice(match head.status {
        101 => b"connection: upgrade\r\n\r\n",
        status if is_informational(status) => b"\r\n",
        _ => &b"connection: close\r\n\r\n"[..],
    });
}

fn put_field(text: &mut BytesMut, field: &Field<'_>) {
    for part in [field.name, b": ", field.value, b"\r\n"] {
        text.put_slice(part);
    }
}

fn put_chunk_size(text: &mut BytesMut, bytes: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let first = (usize::BITS - 1 - bytes.max(1).leading_zeros()) / 4;
    for digit in (0..=first).rev() {
        text.put_u8(DIGITS[bytes >> (4 * digit) & 15]);
    }
    text.put_slice(b"\r\n");
}

/// Where an exchange on a link leads, as endpoints are registered: the one field of this name. None: it does not say, or
/// says it twice.
pub(super) fn endpoint_of(head: &RequestHead) -> Option<SocketAddr> {
    let said = match head.protocol {
        Protocol::Tunnel => head.authority(),
        Protocol::Http1 | Protocol::Http2 => {
            let mut named = head
                .fields()
                .filter(|field| field.name.eq_ignore_ascii_case(ENDPOINT))
                .map(|field| field.value);
            named.next().filter(|_| named.next().is_none())?
        }
    };
    std::str::from_utf8(said).ok()?.parse().ok()
}

/// The field that says to which endpoint an exchange goes.
pub(super) const ENDPOINT: &[u8] = b"x-lighter-endpoint";

/// Content is passed on without being copied from this size on.
const PASSED: usize = 8 * 1024;

/// So much content is gathered for one write.
const GATHERED: usize = 64 * 1024;

/// A stream that is refused: nothing of it was executed.
pub(super) fn refuse(stream: End, cause: Cause) {
    stream.reset(Cut::new(Code::Refused, cause));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunks_size_is_written_in_hexadecimal() {
        for (bytes, digits) in [(1, "1"), (15, "f"), (16, "10"), (255, "ff"), (65_536, "10000")] {
            let mut text = BytesMut::new();
            put_chunk_size(&mut text, bytes);
            assert_eq!(text, format!("{digits}\r\n"));
        }
    }
}
