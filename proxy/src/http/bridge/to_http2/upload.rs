//! A request's body on its way from a caller's HTTP/1 connection into a stream.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use crate::error::ProxyError;
use crate::http::bridge::client::Client;
use crate::http::h1::body::Body;
use crate::http::h2::exchange::too_large;
use crate::http::h2::fields::Fields;
use crate::http::stream::Stream;
use crate::mirror::{self, Copy};
use crate::retry::REPLAY;

/// The request's body on its way.
pub(super) struct Upload<'a> {
    pub(super) body: &'a mut Body,
    pub(super) empty: bool,
    /// Read, and not sent.
    queue: VecDeque<Bytes>,
    /// All that was sent, as long as there is room for it.
    pub(super) sent: Option<Vec<Bytes>>,
    kept: usize,
    trailers: Fields,
    pub(super) bytes: u64,
    /// Most of them.
    most: u64,
    /// A copy that is made of it.
    copy: Option<Box<Copy>>,
    /// Whether there is more to send, and someone who wants it.
    pub(super) running: bool,
}

impl<'a> Upload<'a> {
    /// What is framed by `body`, of at most so many bytes, of which a copy may be made.
    pub(super) fn new(body: &'a mut Body, most: u64, copy: Option<Box<Copy>>) -> Self {
        Upload {
            empty: body.is_done(),
            body,
            queue: VecDeque::new(),
            sent: Some(Vec::new()),
            kept: 0,
            trailers: Fields::default(),
            bytes: 0,
            most,
            copy,
            running: false,
        }
    }
}

impl Upload<'_> {
    pub(super) fn start(&mut self) {
        self.running = !self.empty;
        if self.empty {
            mirror::send(&mut self.copy);
        }
        for chunk in self.sent.iter_mut().flat_map(|sent| sent.drain(..)).rev() {
            self.queue.push_front(chunk);
        }
        self.kept = 0;
        self.bytes = 0;
    }

    /// Whether the client owes more of it.
    pub(super) fn is_owed(&self) -> bool {
        self.running && self.queue.is_empty()
    }

    /// Ready if the client cut it, or broke its framing.
    pub(super) fn poll(
        &mut self,
        client: &mut Client,
        to: &Stream,
        cx: &mut Context<'_>,
    ) -> Poll<ProxyError> {
        while self.running {
            while let Some(front) = self.queue.front_mut() {
                let Ok(granted) = ready!(to.poll_capacity(front.len(), cx)) else {
                    // What the endpoint makes of it, its answer tells.
                    self.running = false;
                    return Poll::Pending;
                };
                let chunk = front.split_to(granted);
                if front.is_empty() {
                    self.queue.pop_front();
                }
                self.bytes += chunk.len() as u64;
                if self.bytes > self.most {
                    return Poll::Ready(too_large());
                }
                self.kept += chunk.len();
                match &mut self.sent {
                    Some(sent) if self.kept <= REPLAY => sent.push(chunk.clone()),
                    _ => self.sent = None,
                }
                if to.send_data(chunk, false).is_err() {
                    self.running = false;
                    return Poll::Pending;
                }
            }
            match ready!(client.poll_body(self.body, &mut self.trailers, cx)) {
                Some(Ok(bytes)) => {
                    mirror::add(&mut self.copy, &bytes);
                    self.queue.push_back(bytes);
                }
                Some(Err(refusal)) => return Poll::Ready(ProxyError::new(refusal.cause, refusal.detail)),
                None => {
                    self.running = false;
                    mirror::send(&mut self.copy);
                    let _ = match self.trailers.is_empty() {
                        true => to.send_data(Bytes::new(), true),
                        false => to.send_trailers(&self.trailers),
                    };
                }
            }
        }
        Poll::Pending
    }
}
