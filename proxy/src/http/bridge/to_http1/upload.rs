//! A request's body on its way from a stream into an endpoint's HTTP/1 connection.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::AsyncWrite;

use crate::error::ProxyError;
use crate::http::bridge::heads::{self, Sized};
use crate::http::h1::pool::Upstream;
use crate::http::h2::exchange::{aborted, too_large};
use crate::http::h2::fields::Fields;
use crate::http::hop;
use crate::http::stream::{Read, Stream};
use crate::mirror::{self, Copy};
use crate::retry::REPLAY;

/// Most bytes of a request that wait for the endpoint's socket.
const WRITE_AHEAD: usize = 32 * 1024;

/// The request's body on its way to the endpoint.
pub(super) struct Upload<'a> {
    pub(super) from: &'a Stream,
    /// What is to be written: the head, then framed content.
    pub(super) out: BytesMut,
    /// Content in `out`, whose window is given back when it is written.
    pub(super) unreleased: usize,
    pub(super) sized: Sized,
    pub(super) bytes: u64,
    /// Most of them.
    pub(super) most: u64,
    /// Everything is in `out`.
    pub(super) ended: bool,
    /// The endpoint takes no more. What it makes of that, its answer tells.
    pub(super) failed: bool,
    pub(super) replay: &'a mut Replay,
}

/// What was read of a request's body, framed, so that it can be sent again.
#[derive(Default)]
pub(super) struct Replay {
    /// As long as there is room for all of it. None: it is not kept.
    text: Option<Vec<u8>>,
    /// Something was read.
    begun: bool,
    /// All was read.
    pub(super) ended: bool,
    pub(super) bytes: u64,
    /// Content whose window is to be given back.
    unreleased: usize,
    /// A copy that is made of what is read.
    copy: Option<Box<Copy>>,
}

impl Replay {
    pub(super) fn new(keeps: bool, copy: Option<Box<Copy>>) -> Self {
        Replay { text: keeps.then(Vec::new), copy, ..Replay::default() }
    }

    /// Whether nothing was read.
    pub(super) fn is_empty(&self) -> bool {
        !self.begun
    }

    /// Whether all that was read can be sent again.
    pub(super) fn is_whole(&self) -> bool {
        !self.begun || self.text.is_some()
    }

    pub(super) fn text(&self) -> &[u8] {
        self.text.as_deref().unwrap_or_default()
    }

    pub(super) fn unreleased(&mut self) -> usize {
        std::mem::take(&mut self.unreleased)
    }

    /// Something was read, and written down as `text`.
    fn push(&mut self, text: &[u8]) {
        self.begun = true;
        match &mut self.text {
            Some(kept) if kept.len() + text.len() <= REPLAY => kept.extend_from_slice(text),
            _ => self.text = None,
        }
    }

    /// It is kept from its beginning, where that is to come.
    pub(super) fn keep(&mut self) {
        if !self.begun {
            self.text.get_or_insert_default();
        }
    }

    /// There will be no other try.
    pub(super) fn forget(&mut self) {
        self.text = None;
    }
}

impl Upload<'_> {
    /// Whether the caller owes more of it.
    pub(super) fn is_owed(&self, cx: &Context<'_>) -> bool {
        !self.ended && !self.failed && self.out.is_empty() && self.from.readable(cx) == 0
    }

    /// Writes what can be written. Ready when that is all there is for ever, or when the caller cut the body.
    pub(super) fn poll(
        &mut self,
        upstream: &mut Upstream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<bool, ProxyError>> {
        let mut moved = false;
        while !self.failed {
            while !self.out.is_empty() {
                match Pin::new(&mut upstream.io.stream).poll_write(cx, &self.out) {
                    Poll::Ready(Ok(written)) => {
                        moved = true;
                        self.out.advance(written);
                    }
                    Poll::Ready(Err(_)) => {
                        self.failed = true;
                        return Poll::Ready(Ok(moved));
                    }
                    Poll::Pending => return Poll::Ready(Ok(moved)),
                }
            }
            let released = std::mem::take(&mut self.unreleased);
            if released > 0 {
                self.from.release(released);
            }
            if self.ended {
                mirror::send(&mut self.replay.copy);
                return Poll::Ready(Ok(moved));
            }
            while self.out.len() < WRITE_AHEAD && !self.ended {
                match self.from.poll_read(WRITE_AHEAD, cx) {
                    Poll::Ready(Read::Data { part, .. }) => {
                        if self.bytes + part.len() as u64 > self.most {
                            return Poll::Ready(Err(too_large()));
                        }
                        mirror::add(&mut self.replay.copy, &part);
                        self.put(&part);
                    }
                    Poll::Ready(Read::Trailers(trailers)) => self.put_end(&trailers),
                    Poll::Ready(Read::End) => self.put_end(&Fields::default()),
                    Poll::Ready(Read::Cut(_)) => return Poll::Ready(Err(aborted())),
                    Poll::Pending if self.out.is_empty() => return Poll::Ready(Ok(moved)),
                    Poll::Pending => break,
                }
            }
        }
        Poll::Ready(Ok(moved))
    }

    /// The try is given up. What was read is in the replay.
    pub(super) fn give_up(&mut self) {
        self.replay.unreleased += std::mem::take(&mut self.unreleased);
        (self.replay.bytes, self.replay.ended) = (self.bytes, self.ended);
    }

    fn put(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let start = self.out.len();
        self.bytes += bytes.len() as u64;
        self.unreleased += bytes.len();
        if self.sized == Sized::Chunked {
            self.out.put_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
            self.out.put_slice(bytes);
            self.out.put_slice(b"\r\n");
        } else {
            self.out.put_slice(bytes);
        }
        self.replay.push(&self.out[start..]);
    }

    fn put_end(&mut self, trailers: &Fields) {
        self.ended = true;
        if self.sized != Sized::Chunked {
            return;
        }
        let start = self.out.len();
        self.out.put_slice(b"0\r\n");
        for field in trailers.iter() {
            if hop::allowed_in_trailers(field.name) {
                heads::put_field(&mut self.out, field.name, field.value);
            }
        }
        self.out.put_slice(b"\r\n");
        self.replay.push(&self.out[start..]);
    }
}
