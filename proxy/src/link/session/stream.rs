//! One stream: what waits on it in each direction, and what of it is over.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

use super::credit::{STREAM_CREDIT, Window};
use crate::link::frame::Cut;
use crate::link::head::{ResponseHead, Trailers};

/// Pieces of a body that are smaller are copied out of the buffer that they were read into. Otherwise a stream that
/// nobody reads would hold a whole buffer for each of its bytes.
pub(super) const SHARED: usize = 8 * 1024;

/// Small pieces are put together up to so many bytes.
const JOINED: usize = 16 * 1024;

/// Places for pieces that a stream keeps when it has none.
const KEPT: usize = 8;

/// One stream.
#[derive(Debug)]
pub(super) struct Stream {
    /// What goes out.
    pub(super) out: Out,
    /// What came in.
    pub(super) inward: Inward,
    /// How it was cut off, if it was.
    pub(super) cut: Option<Cut>,
    /// Nobody here has anything to do with it any more; it is forgotten when all was sent. How it ends if the other side
    /// still sends then.
    pub(super) let_go: Option<Cut>,
    /// The request's method was HEAD: an answer has no body.
    pub(super) head_method: bool,
    /// The request was CONNECT, or this is a tunnel: what follows a good answer is no message.
    pub(super) connect: bool,
    /// The request asked for an upgrade.
    pub(super) upgrade: bool,
}

/// The half that goes out.
#[derive(Debug)]
pub(super) struct Out {
    /// What waits for its turn.
    pub(super) bodies: VecDeque<Bytes>,
    /// Bytes in `bodies`.
    pub(super) queued: u32,
    /// What the peer still takes. What is queued was already subtracted.
    pub(super) credit: u32,
    /// What comes when `bodies` is empty.
    pub(super) tail: Tail,
    /// The head was sent. Always so where this side opened the stream.
    pub(super) headed: bool,
    /// It waits for its turn.
    pub(super) ready: bool,
    /// Whoever sends was told that there is no room.
    pub(super) blocked: bool,
    /// It is on the list of those that wait for credit of the session.
    pub(super) starved: bool,
}

/// How the half that goes out ends.
#[derive(Debug)]
pub(super) enum Tail {
    /// It is not known yet.
    Open,
    /// With END.
    End,
    /// With this whole TRAILERS frame.
    Trailers(Vec<u8>),
    /// It has ended.
    Sent,
}

/// The half that comes in. Its parts come in the order of these fields.
#[derive(Debug)]
pub(super) struct Inward {
    /// Informational heads.
    pub(super) infos: VecDeque<ResponseHead>,
    /// The answer's head.
    pub(super) head: Option<ResponseHead>,
    /// The body.
    pub(super) body: Pieces,
    /// What comes behind it.
    pub(super) trailers: Option<Box<Trailers>>,
    /// The head has come. Always so where the peer opened the stream.
    pub(super) headed: bool,
    /// The end has come.
    pub(super) ended: bool,
    /// The end, or that there is none, was read.
    pub(super) done: bool,
    /// It was said that there is something to read.
    pub(super) told: bool,
    /// What the peer may send.
    pub(super) window: Window,
    /// A grant is to be sent.
    pub(super) due: bool,
    /// Bytes that came, or are about to, and were not yet released.
    pub(super) held: u32,
    /// Bytes that the body still has, where its head says.
    pub(super) expected: Option<u64>,
}

/// Bytes of a body that were not read yet.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    /// The oldest: most streams never have more.
    first: Option<Piece>,
    rest: VecDeque<Piece>,
}

#[derive(Debug)]
enum Piece {
    Shared(Bytes),
    Joined(BytesMut),
}

impl Stream {
    /// A stream of which nothing was sent or received but its opening.
    pub(super) fn new(opened_here: bool) -> Self {
        Stream {
            out: Out {
                bodies: VecDeque::new(),
                queued: 0,
                credit: STREAM_CREDIT,
                tail: Tail::Open,
                headed: opened_here,
                ready: false,
                blocked: false,
                starved: false,
            },
            inward: Inward {
                infos: VecDeque::new(),
                head: None,
                body: Pieces::default(),
                trailers: None,
                headed: !opened_here,
                ended: false,
                done: false,
                told: false,
                window: Window::new(STREAM_CREDIT),
                due: false,
                held: 0,
                expected: None,
            },
            cut: None,
            let_go: None,
            head_method: false,
            connect: false,
            upgrade: false,
        }
    }

    /// Whether nothing more can happen to it.
    pub(super) fn is_over(&self) -> bool {
        self.inward.done && (self.cut.is_some() || matches!(self.out.tail, Tail::Sent))
    }

    /// Whether all of both halves went over the wire.
    pub(super) fn is_over_on_the_wire(&self) -> bool {
        self.inward.ended && matches!(self.out.tail, Tail::Sent)
    }

    /// Forgets what was to be sent; returns how many bytes of credit that sets free.
    pub(super) fn drop_out(&mut self) -> u32 {
        self.out.bodies = VecDeque::new();
        self.out.tail = Tail::Sent;
        std::mem::take(&mut self.out.queued)
    }
}

impl Out {
    /// Whether the end was said, if not yet sent.
    pub(super) fn is_closed(&self) -> bool {
        !matches!(self.tail, Tail::Open)
    }
}

impl Inward {
    /// Bytes of heads and trailers that wait here.
    pub(super) fn heads_held(&self) -> usize {
        self.infos.iter().chain(&self.head).map(ResponseHead::held).sum::<usize>()
            + self.trailers.as_ref().map_or(0, |trailers| trailers.held())
    }

    /// Whether only the end is left to be read.
    pub(super) fn is_at_end(&self) -> bool {
        self.ended
            && self.infos.is_empty()
            && self.head.is_none()
            && self.body.is_empty()
            && self.trailers.is_none()
    }

    /// Forgets what waits to be read, and that there was an end to it.
    pub(super) fn forget(&mut self) {
        self.body = Pieces::default();
        self.trailers = None;
        self.ended = false;
    }

    /// `bytes` of body are about to come. Whether there may be so many.
    pub(super) fn expect(&mut self, bytes: u32) -> bool {
        let Some(expected) = &mut self.expected else { return true };
        let Some(left) = expected.checked_sub(bytes.into()) else { return false };
        *expected = left;
        true
    }
}

impl Pieces {
    /// Takes the first `length` bytes off `from`.
    pub(super) fn take(&mut self, from: &mut Bytes, length: usize) {
        if length == 0 {
            return;
        }
        if length >= SHARED {
            return self.push(Piece::Shared(from.split_to(length)));
        }
        let last = if self.rest.is_empty() { self.first.as_mut() } else { self.rest.back_mut() };
        match last {
            Some(Piece::Joined(joined)) if joined.len() + length <= JOINED => {
                joined.extend_from_slice(&from[..length]);
            }
            _ => self.push(Piece::Joined(BytesMut::from(&from[..length]))),
        }
        from.advance(length);
    }

    /// The oldest piece.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        let piece = self.first.take().or_else(|| self.rest.pop_front())?;
        if self.rest.is_empty() && self.rest.capacity() > KEPT {
            self.rest = VecDeque::new();
        }
        Some(match piece {
            Piece::Shared(bytes) => bytes,
            Piece::Joined(bytes) => bytes.freeze(),
        })
    }

    /// Bytes in all pieces.
    pub(super) fn len(&self) -> usize {
        let length = |piece: &Piece| match piece {
            Piece::Shared(bytes) => bytes.len(),
            Piece::Joined(bytes) => bytes.len(),
        };
        self.first.iter().chain(&self.rest).map(length).sum()
    }

    fn is_empty(&self) -> bool {
        self.first.is_none() && self.rest.is_empty()
    }

    fn push(&mut self, piece: Piece) {
        if self.is_empty() {
            self.first = Some(piece);
        } else {
            self.rest.push_back(piece);
        }
    }
}
