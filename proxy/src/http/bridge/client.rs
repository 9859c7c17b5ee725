//! A caller's HTTP/1 connection as the bridge sees it: heads and bodies in, framed answers out.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::StatusCode;
use tokio::io::AsyncWrite;

use super::heads;
use crate::buf::{BUFFER_BYTES, Buffer};
use crate::error::Cause;
use crate::http::h1::body::{Body, Step};
use crate::http::h1::head::{self, Refusal};
use crate::http::h2::fields::{Fields, RequestHead, ResponseHead};
use crate::http::hop::{self, Kind};
use crate::io::Io;

/// A request's head, in the words of HTTP/2, and what it says about this hop.
pub(super) struct Head {
    pub(super) request: RequestHead,
    pub(super) body: Body,
    /// 0 or 1: the minor version.
    pub(super) minor: u8,
    pub(super) keep_alive: bool,
}

/// How an answer's body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framed {
    /// There is none, whatever the head says.
    Empty,
    /// By its Content-Length.
    Length,
    /// In chunks.
    Chunked,
    /// By the end of the connection: HTTP/1.0.
    Close,
}

/// The connection.
pub(super) struct Client {
    pub(super) io: Io,
    /// What was read and not used up; held only while there is something in it.
    input: Option<Buffer>,
    /// So much of the input was found to be no whole head.
    scanned: usize,
    /// Most bytes of a head.
    most: usize,
    output: BytesMut,
}

impl Client {
    /// A client whose heads have at most `most` bytes.
    pub(super) fn new(io: Io, most: usize) -> Self {
        Client { io, input: None, scanned: 0, most: most.min(BUFFER_BYTES), output: BytesMut::new() }
    }

    /// The next request's head; `None` when the client has no more.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Head, Refusal>>> {
        loop {
            if let Some(head) = self.head() {
                return Poll::Ready(Some(head));
            }
            match ready!(self.poll_fill(cx)) {
                Ok(read) if read > 0 => {}
                _ => return Poll::Ready(None),
            }
        }
    }

    /// The head that was read, if it is whole.
    fn head(&mut self) -> Option<Result<Head, Refusal>> {
        let buffer = self.input.as_mut()?;
        let refuse = |cause, detail| Some(Err(Refusal { cause, detail }));
        match head::empty_lines(buffer.filled()) {
            Some(0) => {}
            Some(lines) => {
                buffer.consume(lines);
                self.scanned = 0;
            }
            None => return refuse(Cause::BadRequest, "nothing but empty lines"),
        }
        let bytes = buffer.filled();
        if self.scanned > 0 && bytes.len() < self.most && !head::may_end(bytes, self.scanned) {
            self.scanned = bytes.len();
            return None;
        }
        let mut room = head::room();
        match head::request(bytes, &mut room) {
            Ok(Some(request)) if request.len <= self.most => {
                let (head, len) = (translate(&request), request.len);
                drop(room);
                self.scanned = 0;
                self.consume(len);
                Some(head)
            }
            Ok(None) if bytes.len() < self.most => {
                self.scanned = bytes.len();
                None
            }
            Ok(_) => refuse(Cause::HeadTooLarge, "the head is larger than the limit"),
            Err(refusal) => Some(Err(refusal)),
        }
    }

    /// Whether nothing of a next request is there, and nothing of the last answer.
    pub(super) fn is_resting(&self) -> bool {
        self.has_no_more() && self.output.is_empty()
    }

    /// Whether nothing of a next request is there.
    pub(super) fn has_no_more(&self) -> bool {
        self.input.as_ref().is_none_or(Buffer::is_empty) && self.io.early.is_empty()
    }

    /// The next bytes of a body; `None` at its end.
    pub(super) fn poll_body(
        &mut self,
        body: &mut Body,
        trailers: &mut Fields,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Refusal>>> {
        loop {
            if body.is_done() {
                return Poll::Ready(None);
            }
            let bytes = self.input.as_ref().map_or(&b""[..], Buffer::filled);
            let (count, content) = match body.step(bytes) {
                Err(refusal) => return Poll::Ready(Some(Err(refusal))),
                Ok(Step::Data(count)) => (count, Some(Bytes::copy_from_slice(&bytes[..count]))),
                Ok(Step::Framing(count) | Step::End(count)) => (count, None),
                Ok(Step::Trailer(line)) => {
                    let (name, value) = line.split(bytes);
                    if line.passes {
                        trailers.push_lower(name, value);
                    }
                    (line.len, None)
                }
                Ok(Step::More) => match ready!(self.poll_fill(cx)) {
                    Ok(read) if read > 0 => continue,
                    _ => {
                        let detail = "the client closed within its request";
                        return Poll::Ready(Some(Err(Refusal { cause: Cause::DownstreamAborted, detail })));
                    }
                },
            };
            self.consume(count);
            if let Some(content) = content {
                return Poll::Ready(Some(Ok(content)));
            }
        }
    }

    /// Ready when the client has gone while it waits for its answer. What it sends ahead stays in the buffer.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.input.as_ref().is_some_and(|buffer| buffer.len() == BUFFER_BYTES) {
                return Poll::Pending;
            }
            match ready!(self.poll_fill(cx)) {
                Ok(read) if read > 0 => {}
                _ => return Poll::Ready(()),
            }
        }
    }

    /// Room for what is written next.
    pub(super) fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Writes what is there.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            match ready!(Pin::new(&mut self.io.stream).poll_write(cx, &self.output))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.output.advance(written),
            }
        }
        self.output = BytesMut::new();
        Pin::new(&mut self.io.stream).poll_flush(cx)
    }

    /// Says that nothing more comes.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.io.stream).poll_shutdown(cx).map(|_| ())
    }

    /// Says that nothing more comes, and throws away what the client sends, `left` bytes at most. Ready when there is
    /// no reason to listen any longer.
    pub(super) fn poll_linger(&mut self, left: &mut usize, cx: &mut Context<'_>) -> Poll<()> {
        if ready!(Pin::new(&mut self.io.stream).poll_shutdown(cx)).is_err() {
            return Poll::Ready(());
        }
        loop {
            self.input = None;
            match ready!(self.poll_fill(cx)) {
                Ok(read) if read > 0 && read < *left => *left -= read,
                _ => return Poll::Ready(()),
            }
        }
    }

    fn consume(&mut self, count: usize) {
        if let Some(buffer) = &mut self.input {
            buffer.consume(count);
            if buffer.is_empty() {
                self.input = None;
            }
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut buffer = self.input.take().unwrap_or_else(Buffer::take);
        buffer.compact();
        let read = buffer.poll_read(&mut self.io, cx);
        if !buffer.is_empty() {
            self.input = Some(buffer);
        }
        read
    }
}

/// Puts an answer's head into `out`, and says how its body is to be framed. `bodiless`: it has none (HEAD, 204, 304,
/// or its end came with the head).
pub(super) fn put_response(
    out: &mut BytesMut,
    response: &ResponseHead,
    (head_only, end): (bool, bool),
    minor: u8,
    close: bool,
) -> Framed {
    let status = response.status;
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(itoa::Buffer::new().format(status).as_bytes());
    out.put_slice(b" ");
    let reason = StatusCode::from_u16(status).ok().and_then(|known| known.canonical_reason());
    out.put_slice(reason.unwrap_or("").as_bytes());
    out.put_slice(b"\r\n");
    let informational = status < 200;
    let bodiless = informational || status == 204;
    let none = hop::Options::default();
    for field in response.fields.iter() {
        if field.kind != Kind::ContentLength && hop::crosses_versions(field.name, &none) {
            heads::put_field(out, field.name, field.value);
        }
    }
    // Once, as the body was held to it, and not where none may stand (RFC 9110 §8.6).
    let length = response.fields.of(Kind::ContentLength).filter(|_| !bodiless);
    if let Some(length) = length {
        heads::put_field(out, b"content-length", length);
    }
    let sized = length.is_some();
    let framed = match () {
        () if head_only || bodiless || status == 304 => Framed::Empty,
        () if end => {
            if !sized {
                heads::put_field(out, b"content-length", b"0");
            }
            Framed::Empty
        }
        () if sized => Framed::Length,
        () if minor == 0 => Framed::Close,
        () => {
            heads::put_field(out, b"transfer-encoding", b"chunked");
            Framed::Chunked
        }
    };
    if !informational {
        match (minor, close || framed == Framed::Close) {
            (_, true) => out.put_slice(b"connection: close\r\n"),
            (0, false) => out.put_slice(b"connection: keep-alive\r\n"),
            (_, false) => {}
        }
    }
    out.put_slice(b"\r\n");
    framed
}

/// Puts content into `out`, framed.
pub(super) fn put_content(out: &mut BytesMut, content: &[u8], framed: Framed) {
    match framed {
        _ if content.is_empty() => {}
        Framed::Empty => {}
        Framed::Length | Framed::Close => out.put_slice(content),
        Framed::Chunked => {
            out.put_slice(format!("{:x}\r\n", content.len()).as_bytes());
            out.put_slice(content);
            out.put_slice(b"\r\n");
        }
    }
}

/// Puts the end of a body into `out`.
pub(super) fn put_end(out: &mut BytesMut, trailers: &Fields, framed: Framed) {
    if framed != Framed::Chunked {
        return;
    }
    out.put_slice(b"0\r\n");
    for field in trailers.iter() {
        if hop::allowed_in_trailers(field.name) {
            heads::put_field(out, field.name, field.value);
        }
    }
    out.put_slice(b"\r\n");
}

fn translate(request: &head::Request<'_, '_>) -> Result<Head, Refusal> {
    Ok(Head {
        request: heads::request(request)?,
        body: Body::new(request.framing),
        minor: request.minor,
        keep_alive: request.keep_alive,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(status: u16) -> String {
        let fields = Fields::from([("content-length", "5"), ("content-length", "5")]);
        let mut out = BytesMut::new();
        put_response(&mut out, &ResponseHead { status, fields }, (false, false), 1, false);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn a_length_is_written_once_and_only_where_a_body_can_be() {
        assert_eq!(written(200), "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n");
        assert_eq!(written(204), "HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(written(103), "HTTP/1.1 103 Early Hints\r\n\r\n");
    }
}
