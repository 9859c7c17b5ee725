//! One stream: what waits on it to be read, what may be sent on it, and what of it is over.

use std::collections::VecDeque;

use super::Cut;
use crate::http::h2::fields::{Fields, ResponseHead};
use crate::http::h2::pieces::Pieces;
use crate::link::session::credit::Window;

/// One stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: u32,
    /// What came in.
    pub(super) inward: Inward,
    /// What goes out.
    pub(super) out: Out,
    /// How it was cut off, if it was.
    pub(super) cut: Option<Cut>,
    /// Neither side sends anything on it any more.
    pub(super) closed: bool,
    /// Its reader is to be woken.
    pub(super) woken: bool,
}

/// The half that comes in. Its parts come in the order of these fields.
#[derive(Debug)]
pub(super) struct Inward {
    pub(super) interims: VecDeque<ResponseHead>,
    /// The answer's head.
    pub(super) head: Option<ResponseHead>,
    pub(super) body: Pieces,
    pub(super) trailers: Option<Box<Fields>>,
    /// The head has come. Always so where the peer opened the stream.
    pub(super) headed: bool,
    /// The end has come.
    pub(super) ended: bool,
    /// What the peer may send.
    pub(super) window: Window,
    /// Bytes that came and were not released.
    pub(super) held: u32,
    /// Bytes that the body still has, where its head says.
    pub(super) expected: Option<u64>,
    /// The request's method was HEAD: its answer's length is not that of a body.
    pub(super) head_only: bool,
}

/// The half that goes out.
#[derive(Debug)]
pub(super) struct Out {
    /// What the peer still takes. Below zero where it took back what was used already.
    pub(super) window: i64,
    /// What of the connection's room is kept for this stream.
    pub(super) grant: usize,
    /// Somebody waits for the stream's own window.
    pub(super) blocked: bool,
    /// It waits for the connection's room.
    pub(super) starved: bool,
    /// The last frame was sent.
    pub(super) ended: bool,
}

impl Stream {
    /// A stream of which nothing but its head was sent or received.
    pub(super) fn new(id: u32, opened_here: bool, window_in: u32, window_out: u32) -> Self {
        Stream {
            id,
            inward: Inward {
                interims: VecDeque::new(),
                head: None,
                body: Pieces::default(),
                trailers: None,
                headed: !opened_here,
                ended: false,
                window: Window::new(window_in),
                held: 0,
                expected: None,
                head_only: false,
            },
            out: Out {
                window: i64::from(window_out),
                grant: 0,
                blocked: false,
                starved: false,
                ended: false,
            },
            cut: None,
            closed: false,
            woken: false,
        }
    }
}

impl Inward {
    /// `bytes` of body are about to come. Whether there may be so many.
    pub(super) fn expect(&mut self, bytes: usize) -> bool {
        let Some(expected) = &mut self.expected else { return true };
        let Some(left) = expected.checked_sub(bytes as u64) else { return false };
        *expected = left;
        true
    }

    /// Whether nothing is left to be read but the end.
    pub(super) fn is_read(&self) -> bool {
        self.interims.is_empty() && self.head.is_none() && self.body.is_empty() && self.trailers.is_none()
    }
}
