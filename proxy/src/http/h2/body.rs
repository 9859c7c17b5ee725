//! A body on its way from one stream to another.
//!
//! Bytes are sent only as far as the receiver has opened its window, and the sender's window is opened again only
//! for bytes that were sent: what one stream can make this process hold is one window.

use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::exchange::aborted;
use super::fields::Fields;
use super::head;
use super::pieces::Pieces;
use crate::error::ProxyError;
use crate::http::stream::{Broken, Closed, Read, Stream};

/// Most bytes of a request that are kept for another try.
const REPLAY: usize = 64 * 1024;

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
    /// Whether anything moved since this was last set to false.
    pub(crate) moved: bool,
    /// `grpc-status` of the trailers, where it was asked for.
    pub(crate) grpc_status: Option<u8>,
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
}

/// What was sent of a request, so that it can be sent again.
#[derive(Default)]
struct Sent {
    pieces: Pieces,
    /// What came after them, if the end was sent: no trailers, or these.
    end: Option<Option<Box<Fields>>>,
}

impl Pump {
    /// A body. `grpc`: its trailers have a status that is worth reading.
    pub(crate) fn new(grpc: bool) -> Self {
        Pump { grpc, ..Pump::default() }
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
    /// The body that comes on `from`.
    pub(crate) fn new(from: &Stream) -> Self {
        let kept = || Pump { sent: Some(Sent::default()), ..Pump::default() };
        Upload { pump: (!from.is_end()).then(kept), running: false, started: false }
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
