//! What goes out next: heads in one buffer, and bodies between them as they are.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;
use smallvec::SmallVec;

/// Slices to be written at once.
pub type Slices<'a> = SmallVec<[IoSlice<'a>; 16]>;

/// Bodies up to so many bytes are copied beside their header: a slice of its own costs more.
const COPIED: usize = 256;

/// Room that is kept when all was written.
const KEPT: usize = 4 * 1024;

/// Frames that were gathered, and are to be written in order.
#[derive(Debug, Default)]
pub struct Outbox {
    own: Vec<u8>,
    /// Bytes of `own` that were written.
    start: usize,
    pieces: VecDeque<Piece>,
    len: usize,
}

#[derive(Debug)]
enum Piece {
    /// The next so many bytes of `own`.
    Own(usize),
    Body(Bytes),
}

impl Outbox {
    /// Whether all was written.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that are to be written.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Appends what is to be written to `slices`, in order.
    pub fn slices<'a>(&'a self, slices: &mut Slices<'a>) {
        let mut own = &self.own[self.start..];
        for piece in &self.pieces {
            match piece {
                Piece::Own(length) => {
                    let (front, rest) = own.split_at(*length);
                    slices.push(IoSlice::new(front));
                    own = rest;
                }
                Piece::Body(body) => slices.push(IoSlice::new(body)),
            }
        }
    }

    /// The first `bytes` were written.
    pub fn advance(&mut self, mut bytes: usize) {
        debug_assert!(bytes <= self.len);
        self.len -= bytes;
        while bytes > 0 {
            let Some(piece) = self.pieces.front_mut() else { break };
            let step = match piece {
                Piece::Own(length) => {
                    let step = bytes.min(*length);
                    *length -= step;
                    self.start += step;
                    (step, *length == 0)
                }
                Piece::Body(body) => {
                    let step = bytes.min(body.len());
                    bytes::Buf::advance(body, step);
                    (step, body.is_empty())
                }
            };
            bytes -= step.0;
            if step.1 {
                self.pieces.pop_front();
            }
        }
        if self.len == 0 {
            self.start = 0;
            self.own.clear();
            self.own.shrink_to(KEPT);
            self.pieces.clear();
        }
    }

    /// Takes over all of `frames`. Nothing may be in here.
    pub(super) fn begin(&mut self, frames: &mut Vec<u8>) {
        debug_assert!(self.is_empty());
        if !frames.is_empty() {
            std::mem::swap(&mut self.own, frames);
            self.len = self.own.len();
            self.pieces.push_back(Piece::Own(self.len));
        }
    }

    /// Appends `bytes` by copying.
    pub(crate) fn copy(&mut self, bytes: &[u8]) {
        self.put(|own| own.extend_from_slice(bytes));
    }

    /// Appends what `write` puts behind what it is given. That must stay as it is.
    #[inline]
    pub(crate) fn put(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.own.len();
        write(&mut self.own);
        let more = self.own.len() - before;
        self.len += more;
        match self.pieces.back_mut() {
            Some(Piece::Own(length)) => *length += more,
            _ => self.pieces.push_back(Piece::Own(more)),
        }
    }

    /// Appends part of a body.
    pub(crate) fn body(&mut self, body: Bytes) {
        if body.len() <= COPIED {
            self.copy(&body);
        } else {
            self.len += body.len();
            self.pieces.push_back(Piece::Body(body));
        }
    }
}
