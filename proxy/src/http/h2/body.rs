//! A body on its way from one stream to another.
//!
//! Bytes are sent only as far as the receiver has opened its window, and the sender's window is opened again only
//! for bytes that were sent: what one stream can make this process hold is one window.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use smallvec::SmallVec;

use super::{STREAM_WINDOW, head};
use crate::http::stream::{Broken, Closed, Sink, Source};

/// Frames below this size are copied together while they wait: each one kept as it came costs more than its bytes.
const SMALL: usize = 2048;

/// Most bytes of a request that are kept for another try.
const REPLAY: usize = 64 * 1024;

/// Moves one body.
pub(crate) struct Pump {
    from: Source,
    to: Sink,
    queue: Queue,
    /// What was sent, as long as all of it is kept.
    sent: Option<Sent>,
    /// Body bytes sent.
    pub(crate) bytes: u64,
    /// Whether anything moved since this was last set to false.
    pub(crate) moved: bool,
    /// `grpc-status` of the trailers, asked for by setting it to some value first.
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
pub(crate) struct Sent {
    chunks: SmallVec<[Bytes; 2]>,
    bytes: usize,
    /// What came after the chunks, if the end was sent: no trailers, or these.
    end: Option<Option<HeaderMap>>,
}

impl Pump {
    /// A body from `from` to `to`. `grpc`: trailers have a status that is worth reading.
    pub(crate) fn new(from: Source, to: Sink, grpc: bool) -> Self {
        Pump {
            from,
            to,
            queue: Queue::default(),
            sent: None,
            bytes: 0,
            moved: false,
            grpc_status: None,
            grpc,
            done: false,
        }
    }

    /// Keeps what is sent, as far as there is room, so that it can be sent again.
    pub(crate) fn replayable(mut self) -> Self {
        self.sent = Some(Sent::default());
        self
    }

    /// Whether everything that was sent is kept.
    pub(crate) fn can_replay(&self) -> bool {
        self.sent.is_some()
    }

    /// No other try will be needed.
    pub(crate) fn forget(&mut self) {
        self.sent = None;
    }

    /// The same body from its beginning to another stream; `None` if not all of it is kept.
    pub(crate) fn again(self, to: Sink) -> Option<Self> {
        let mut sent = self.sent?;
        let mut queue =
            Queue { replay: sent.chunks.drain(..).collect(), end: sent.end.take(), ..Queue::default() };
        queue.bytes = sent.bytes + self.queue.bytes;
        queue.chunks = self.queue.chunks;
        queue.tail = self.queue.tail;
        Some(Pump {
            from: self.from,
            to,
            queue,
            sent: Some(Sent::default()),
            bytes: 0,
            moved: true,
            grpc_status: None,
            grpc: self.grpc,
            done: false,
        })
    }

    /// Whether the end was sent.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// The stream it goes to.
    pub(crate) fn to(&mut self) -> &mut Sink {
        &mut self.to
    }

    /// Both streams.
    pub(crate) fn into_parts(self) -> (Source, Sink) {
        (self.from, self.to)
    }

    /// Moves what can be moved now.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if self.done {
            return Poll::Ready(End::Clean);
        }
        loop {
            while self.queue.bytes > 0 {
                let granted = match self.to.poll_room(self.queue.bytes, cx) {
                    Poll::Ready(Ok(granted)) => granted,
                    Poll::Ready(Err(Closed)) => return Poll::Ready(End::Sink),
                    Poll::Pending => return self.wait(cx),
                };
                let (chunk, fresh) = self.queue.take(granted);
                let end = self.queue.bytes == 0 && self.queue.end.is_none() && self.from.is_end();
                if self.send(chunk, fresh, end).is_err() {
                    return Poll::Ready(End::Sink);
                }
                if end {
                    return self.finish(None);
                }
            }
            if let Some(end) = self.queue.end.take() {
                return self.send_end(end);
            }
            match self.from.poll_data(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(bytes))) => {
                    self.moved = true;
                    // As nearly always, the receiver takes it as it came.
                    if self.has_room(bytes.len()) {
                        let end = self.from.is_end();
                        if self.send(bytes, true, end).is_err() {
                            return Poll::Ready(End::Sink);
                        }
                        if end {
                            return self.finish(None);
                        }
                        continue;
                    }
                    self.queue.push(bytes);
                    if self.queue.bytes == 0 && self.from.is_end() {
                        return self.send_end(None);
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(End::Source(error)),
                Poll::Ready(None) => match self.from.poll_trailers(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(trailers)) => return self.send_end(trailers),
                    Poll::Ready(Err(error)) => return Poll::Ready(End::Source(error)),
                },
            }
        }
    }

    /// Whether the receiver takes so many bytes at once, now. False for none of them.
    fn has_room(&mut self, length: usize) -> bool {
        length > 0 && self.to.room(length) >= length
    }

    /// The receiver's window is closed. Small frames are gathered meanwhile: many of them would exhaust what `h2`
    /// lets one connection hold, and the whole connection would have to end for one slow stream.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        while self.queue.bytes < STREAM_WINDOW as usize {
            match self.from.poll_data(cx) {
                Poll::Ready(Some(Ok(bytes))) => {
                    let small = bytes.len() < SMALL;
                    self.queue.push(bytes);
                    if !small {
                        break;
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(End::Source(error)),
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        Poll::Pending
    }

    fn send(&mut self, chunk: Bytes, fresh: bool, end: bool) -> Result<(), Closed> {
        let length = chunk.len();
        match &mut self.sent {
            Some(sent) if sent.bytes + length <= REPLAY => {
                sent.bytes += length;
                sent.chunks.push(chunk.clone());
            }
            Some(_) => self.sent = None,
            None => {}
        }
        self.to.send(chunk, end)?;
        self.bytes += length as u64;
        self.moved = true;
        if fresh {
            self.from.release(length);
        }
        Ok(())
    }

    fn send_end(&mut self, mut trailers: Option<HeaderMap>) -> Poll<End> {
        if let Some(trailers) = &mut trailers {
            head::strip_trailers(trailers);
            if self.grpc {
                self.grpc_status = grpc_status(trailers);
            }
        }
        let kept = self.sent.is_some().then(|| trailers.clone());
        let sent = match trailers {
            Some(trailers) => self.to.send_trailers(trailers),
            None => self.to.send(Bytes::new(), true),
        };
        if sent.is_err() { Poll::Ready(End::Sink) } else { self.finish(kept.flatten()) }
    }

    fn finish(&mut self, trailers: Option<HeaderMap>) -> Poll<End> {
        if let Some(sent) = &mut self.sent {
            sent.end = Some(trailers);
        }
        self.done = true;
        Poll::Ready(End::Clean)
    }
}

/// The gRPC status that `fields` name.
pub(crate) fn grpc_status(fields: &HeaderMap) -> Option<u8> {
    std::str::from_utf8(fields.get("grpc-status")?.as_bytes()).ok()?.parse().ok()
}

/// Bytes that were received and not yet sent.
#[derive(Default)]
struct Queue {
    /// From an earlier try: their window was given back already.
    replay: VecDeque<Bytes>,
    chunks: VecDeque<Bytes>,
    /// Small frames, copied together, behind `chunks`.
    tail: BytesMut,
    bytes: usize,
    /// From an earlier try: what comes after everything else.
    end: Option<Option<HeaderMap>>,
}

impl Queue {
    fn push(&mut self, bytes: Bytes) {
        self.bytes += bytes.len();
        let first = self.chunks.is_empty() && self.tail.is_empty();
        if !first && bytes.len() < SMALL {
            self.tail.extend_from_slice(&bytes);
            return;
        }
        if !self.tail.is_empty() {
            self.chunks.push_back(self.tail.split().freeze());
        }
        if !bytes.is_empty() {
            self.chunks.push_back(bytes);
        }
    }

    /// At most `granted` bytes from the front, and whether their window is still to be given back.
    fn take(&mut self, granted: usize) -> (Bytes, bool) {
        if self.replay.is_empty() && self.chunks.is_empty() {
            self.chunks.push_back(std::mem::take(&mut self.tail).freeze());
        }
        let fresh = self.replay.is_empty();
        let from = if fresh { &mut self.chunks } else { &mut self.replay };
        let Some(mut chunk) = from.pop_front() else { return (Bytes::new(), false) };
        if chunk.len() > granted {
            from.push_front(chunk.split_off(granted));
        }
        self.bytes -= chunk.len();
        (chunk, fresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_small_frames_become_one() {
        let mut queue = Queue::default();
        for _ in 0..1000 {
            queue.push(Bytes::from_static(b"0123456789"));
        }
        assert_eq!(queue.bytes, 10_000);
        let (first, fresh) = queue.take(usize::MAX);
        assert!(fresh);
        assert_eq!(first.len(), 10);
        let (rest, _) = queue.take(usize::MAX);
        assert_eq!(rest.len(), 9_990);
        assert_eq!(queue.bytes, 0);
    }

    #[test]
    fn order_is_kept_between_small_and_large_frames() {
        let mut queue = Queue::default();
        for (byte, length) in [(1, 10), (2, 20), (3, 5000), (4, 30)] {
            queue.push(Bytes::from(vec![byte; length]));
        }
        let mut out = Vec::new();
        while queue.bytes > 0 {
            out.extend_from_slice(&queue.take(7).0);
        }
        let expected: Vec<u8> = [(1, 10), (2, 20), (3, 5000), (4, 30)]
            .iter()
            .flat_map(|(byte, length)| vec![*byte; *length])
            .collect();
        assert_eq!(out, expected);
    }

    #[test]
    fn a_window_is_not_given_back_twice() {
        let mut queue = Queue { replay: [Bytes::from_static(b"abc")].into(), bytes: 3, ..Queue::default() };
        queue.push(Bytes::from_static(b"def"));
        assert_eq!(queue.take(10), (Bytes::from_static(b"abc"), false));
        assert_eq!(queue.take(10), (Bytes::from_static(b"def"), true));
    }
}
