//! A body on its way from one stream to another.
//!
//! Bytes are sent only as far as the receiver has opened its window, and the sender's window is opened again only
//! for bytes that were sent: what one stream can make this process hold is one window.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::exchange::{aborted, too_large};
use super::fields::Fields;
use super::head;
use super::pieces::Pieces;
use crate::balance::Endpoint;
use crate::error::ProxyError;
use crate::http::stream::{Broken, Closed, Read, Stream};
use crate::mirror::{self, Copy};
use crate::retry::REPLAY;

/// Moves one body.
#[derive(Default)]
pub(crate) struct Pump {
    /// From an earlier try: what is to be sent before anything is read. Its window was given back already.
    again: Pieces,
    /// From an earlier try: what comes behind that, if all was read.
    again_end: Option<Option<Box<Fields>>>,
    /// What was sent, as long as all of it is kept.
    sent: Option<Sent>,
    /// Body bytes sent.
    pub(crate) bytes: u64,
    /// Most of them.
    most: u64,
    /// A copy that is made of it.
    copy: Option<Box<Copy>>,
    /// Whether anything moved since this was last set to false.
    pub(crate) moved: bool,
    /// `grpc-status` of the trailers, where it was asked for.
    pub(crate) grpc_status: Option<u8>,
    /// Whose answer it is, where its trailers may report a load that is heard.
    heard: Option<Arc<Endpoint>>,
    grpc: bool,
    done: bool,
}

/// How a body ended.
#[derive(Debug)]
pub(crate) enum End {
    /// With its END_STREAM.
    Clean,
    /// Its sender cut it.
    Source(Broken),
    /// Its receiver wants no more.
    Sink,
    /// It is longer than it may be.
    TooLarge,
}

/// What was sent of a request, so that it can be sent again.
#[derive(Default)]
struct Sent {
    pieces: Pieces,
    /// What came after them, if the end was sent: no trailers, or these.
    end: Option<Option<Box<Fields>>>,
}

impl Pump {
    /// A body of at most so many bytes. `grpc`: its trailers have a status that is worth reading.
    pub(crate) fn new(grpc: bool, most: u64) -> Self {
        Pump { grpc, most, ..Pump::default() }
    }

    /// The same of an answer of `endpoint`.
    pub(crate) fn hearing(self, endpoint: &Arc<Endpoint>) -> Self {
        Pump { heard: endpoint.is_heard().then(|| endpoint.clone()), ..self }
    }

    /// Whether the end was sent.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// Moves what can be moved now.
    pub(crate) fn poll(&mut self, from: &Stream, to: &Stream, cx: &Context<'_>) -> Poll<End> {
        if self.done {
            return Poll::Ready(End::Clean);
        }
        while !self.again.is_empty() {
            let Ok(room) = ready!(to.poll_capacity(self.again.len(), cx)) else {
                return Poll::Ready(End::Sink);
            };
            let part = self.again.take(room);
            let end = self.again.is_empty() && matches!(self.again_end, Some(None));
            if self.send(to, part, end).is_err() {
                return Poll::Ready(End::Sink);
            }
            if end {
                return self.finish(None);
            }
        }
        if let Some(end) = self.again_end.take() {
            return self.send_end(to, end);
        }
        loop {
            let most = match from.readable(cx) {
                0 => 1,
                waiting => match ready!(to.poll_capacity(waiting, cx)) {
                    Ok(room) => room,
                    Err(_) => return Poll::Ready(End::Sink),
                },
            };
            match ready!(from.poll_read(most, cx)) {
                Read::Data { part, end } => {
                    let length = part.len();
                    if self.bytes + length as u64 > self.most {
                        return Poll::Ready(End::TooLarge);
                    }
                    mirror::add(&mut self.copy, &part);
                    if self.send(to, part, end).is_err() {
                        return Poll::Ready(End::Sink);
                    }
                    from.release(length);
                    if end {
                        return self.finish(None);
                    }
                }
                Read::Trailers(trailers) => return self.send_end(to, Some(trailers)),
                Read::End => return self.send_end(to, None),
                Read::Cut(broken) => return Poll::Ready(End::Source(broken)),
            }
        }
    }

    fn send(&mut self, to: &Stream, part: Bytes, end: bool) -> Result<(), Closed> {
        let length = part.len();
        match &mut self.sent {
            Some(sent) if sent.pieces.len() + length <= REPLAY => sent.pieces.push(part.clone()),
            Some(_) => self.sent = None,
            None => {}
        }
        to.send_data(part, end)?;
        self.bytes += length as u64;
        self.moved = true;
        Ok(())
    }

    fn send_end(&mut self, to: &Stream, mut trailers: Option<Box<Fields>>) -> Poll<End> {
        if let Some(fields) = &mut trailers {
            head::strip_trailers(fields);
            if self.grpc {
                self.grpc_status = grpc_status(fields);
            }
            if let Some(endpoint) = &self.heard {
                endpoint.hear_all(fields);
            }
        }
        let sent = match &trailers {
            Some(trailers) if !trailers.is_empty() => to.send_trailers(trailers),
            _ => to.send_data(Bytes::new(), true),
        };
        if sent.is_err() { Poll::Ready(End::Sink) } else { self.finish(trailers) }
    }

    fn finish(&mut self, trailers: Option<Box<Fields>>) -> Poll<End> {
        if let Some(sent) = &mut self.sent {
            sent.end = Some(trailers);
        }
        mirror::send(&mut self.copy);
        self.done = true;
        Poll::Ready(End::Clean)
    }

    /// The same body from its beginning. What was sent must have been kept.
    fn restart(&mut self) {
        let Some(Sent { mut pieces, end }) = self.sent.take() else { return };
        pieces.append(std::mem::take(&mut self.again));
        self.again = pieces;
        self.again_end = end.or_else(|| self.again_end.take());
        self.sent = Some(Sent::default());
        (self.bytes, self.moved, self.done) = (0, true, false);
    }
}

/// A request's body on its way to one endpoint, and to another one if the first has not read it.
pub(crate) struct Upload {
    /// None: the request has no body at all.
    pump: Option<Pump>,
    /// Whether there is more to send, and someone who wants it.
    running: bool,
    started: bool,
}

impl Upload {
    /// The body that comes on `from`, of at most so many bytes, of which a copy may be made.
    pub(crate) fn new(from: &Stream, most: u64, mut copy: Option<Box<Copy>>) -> Self {
        if from.is_end() {
            mirror::send(&mut copy);
            return Upload { pump: None, running: false, started: false };
        }
        let kept = Pump { sent: Some(Sent::default()), copy, ..Pump::new(false, most) };
        Upload { pump: Some(kept), running: false, started: false }
    }

    /// Whether the request has no body at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.pump.is_none()
    }

    /// It is to be sent, from its beginning.
    pub(crate) fn start(&mut self) {
        if let Some(pump) = &mut self.pump {
            self.running = true;
            if std::mem::replace(&mut self.started, true) {
                pump.restart();
            }
        }
    }

    /// Moves the body on; ready if the caller cut it.
    pub(crate) fn poll(&mut self, from: &Stream, to: &Stream, cx: &Context<'_>) -> Poll<ProxyError> {
        match &mut self.pump {
            Some(pump) if self.running => match ready!(pump.poll(from, to, cx)) {
                End::Source(_) => Poll::Ready(aborted()),
                End::TooLarge => Poll::Ready(too_large()),
                // What the upstream makes of it, its answer tells.
                End::Clean | End::Sink => {
                    self.running = false;
                    Poll::Pending
                }
            },
            _ => Poll::Pending,
        }
    }

    /// Whether anything moved since this was last asked.
    pub(crate) fn moved(&mut self) -> bool {
        self.pump.as_mut().is_some_and(|pump| std::mem::take(&mut pump.moved))
    }

    /// Whether the caller owes more of it.
    pub(crate) fn is_owed(&self, from: &Stream, cx: &Context<'_>) -> bool {
        let waits = |pump: &Pump| pump.again.is_empty() && !pump.done && from.readable(cx) == 0;
        self.running && self.pump.as_ref().is_some_and(waits)
    }

    /// Whether everything that was sent is kept.
    pub(crate) fn can_replay(&self) -> bool {
        self.pump.as_ref().is_none_or(|pump| pump.sent.is_some())
    }

    /// No other try will be needed.
    pub(crate) fn forget(&mut self) {
        if let Some(pump) = &mut self.pump {
            pump.sent = None;
        }
    }

    /// Body bytes sent.
    pub(crate) fn bytes(&self) -> u64 {
        self.pump.as_ref().map_or(0, |pump| pump.bytes)
    }

    /// Whether the upstream has the whole request.
    pub(crate) fn is_done(&self) -> bool {
        self.pump.as_ref().is_none_or(Pump::is_done)
    }
}

/// The gRPC status that `fields` name.
pub(crate) fn grpc_status(fields: &Fields) -> Option<u8> {
    std::str::from_utf8(fields.get(b"grpc-status")?).ok()?.parse().ok()
}
