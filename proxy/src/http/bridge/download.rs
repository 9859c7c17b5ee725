//! An answer on its way from a stream into a caller's HTTP/1 connection.

use std::task::{Context as Task, Poll, ready};

use super::client::{Client, Framed, put_content, put_end};
use crate::balance::Endpoint;
use crate::error::ProxyError;
use crate::http::h2::answer;
use crate::http::h2::fields::Fields;
use crate::http::stream::{Read, Stream};

/// Most bytes of an answer that wait for the client's socket.
pub(super) const WRITE_AHEAD: usize = 64 * 1024;

/// The answer's body on its way.
pub(super) struct Download<'e> {
    pub(super) framed: Framed,
    /// Whose it is.
    pub(super) endpoint: &'e Endpoint,
    pub(super) bytes: u64,
    /// What came behind it, without what is not for callers.
    pub(super) trailers: Option<Box<Fields>>,
    /// Everything is in the client's output.
    pub(super) ended: bool,
}

impl<'e> Download<'e> {
    /// That of an answer of `endpoint`. `ended`: it has none.
    pub(super) fn new(framed: Framed, endpoint: &'e Endpoint, ended: bool) -> Self {
        Download { framed, endpoint, bytes: 0, trailers: None, ended }
    }

    /// Puts the next bytes into the client's output.
    pub(super) fn poll(
        &mut self,
        client: &mut Client,
        from: &Stream,
        cx: &mut Task<'_>,
    ) -> Poll<Result<(), ProxyError>> {
        match ready!(from.poll_read(WRITE_AHEAD, cx)) {
            Read::Data { part, .. } => {
                if self.framed != Framed::Empty {
                    self.bytes += part.len() as u64;
                }
                put_content(client.output(), &part, self.framed);
                // The output has a limit of its own, so the window may open before the socket has taken this.
                from.release(part.len());
            }
            Read::Trailers(mut trailers) => {
                self.endpoint.hear_all(&mut trailers);
                put_end(client.output(), &trailers, self.framed);
                self.trailers = Some(trailers);
                self.ended = true;
            }
            Read::End => {
                put_end(client.output(), &Fields::default(), self.framed);
                self.ended = true;
            }
            Read::Cut(broken) => return Poll::Ready(Err(answer::after_head(broken))),
        }
        Poll::Ready(Ok(()))
    }
}
