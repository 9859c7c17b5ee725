//! Bytes of a body that wait to be read, or are kept to be sent again.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

/// Pieces that are smaller are copied together where others wait before them. Otherwise a stream that nobody reads would
/// hold a whole buffer for each of its bytes.
const SHARED: usize = 2 * 1024;

/// Small pieces are put together up to so many bytes.
const JOINED: usize = 16 * 1024;

/// Bytes of a body that wait.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    /// The oldest: most streams never have more.
    first: Bytes,
    rest: VecDeque<Bytes>,
    /// Small ones, behind the others.
    joined: BytesMut,
    len: usize,
}

impl Pieces {
    /// One more.
    pub(crate) fn push(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        let was_empty = self.len == 0;
        self.len += piece.len();
        if was_empty {
            self.first = piece;
        } else if piece.len() < SHARED {
            if self.joined.len() + piece.len() > JOINED {
                self.rest.push_back(self.joined.split().freeze());
            }
            self.joined.extend_from_slice(&piece);
        } else {
            if !self.joined.is_empty() {
                self.rest.push_back(self.joined.split().freeze());
            }
            self.rest.push_back(piece);
        }
    }

    /// At most `most` bytes from the front. Empty if there are none.
    pub(crate) fn take(&mut self, most: usize) -> Bytes {
        let taken = if self.first.len() > most {
            self.first.split_to(most)
        } else {
            let next = match self.rest.pop_front() {
                Some(next) => next,
                None if self.joined.is_empty() => Bytes::new(),
                None => std::mem::take(&mut self.joined).freeze(),
            };
            std::mem::replace(&mut self.first, next)
        };
        self.len -= taken.len();
        taken
    }

    /// At most `most` bytes from the front, to be written at once.
    pub(crate) fn slices<'a>(&'a self, mut most: usize, slices: &mut SmallVec<[IoSlice<'a>; 16]>) {
        for piece in
            std::iter::once(&self.first).chain(&self.rest).map(|piece| &piece[..]).chain([&self.joined[..]])
        {
            let front = &piece[..piece.len().min(most)];
            most -= front.len();
            if !front.is_empty() {
                slices.push(IoSlice::new(front));
            }
        }
    }

    /// Puts all of `others` behind these.
    pub(crate) fn append(&mut self, mut others: Pieces) {
        while !others.is_empty() {
            self.push(others.take(usize::MAX));
        }
    }

    /// Bytes in all pieces.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pieces_that_wait_become_one() {
        let mut pieces = Pieces::default();
        for _ in 0..1000 {
            pieces.push(Bytes::from_static(b"0123456789"));
        }
        assert_eq!(pieces.len(), 10_000);
        assert_eq!(pieces.take(usize::MAX).len(), 10);
        assert_eq!(pieces.take(usize::MAX).len(), 9_990);
        assert!(pieces.is_empty());
        assert!(pieces.take(usize::MAX).is_empty());
    }

    #[test]
    fn the_front_is_shown_in_order_and_no_more_than_was_asked_for() {
        let mut pieces = Pieces::default();
        for (byte, length) in [(1, 10), (2, 5000), (3, 20)] {
            pieces.push(Bytes::from(vec![byte; length]));
        }
        for most in [0, 7, 10, 5005, 5030, usize::MAX] {
            let mut slices = SmallVec::new();
            pieces.slices(most, &mut slices);
            let shown: Vec<usize> = slices.iter().map(|slice| slice.len()).collect();
            let expected =
                [10.min(most), 5000.min(most.saturating_sub(10)), 20.min(most.saturating_sub(5010))];
            let expected: Vec<usize> = expected.into_iter().filter(|length| *length > 0).collect();
            assert_eq!(shown, expected, "{most}");
        }
    }

    #[test]
    fn order_is_kept_between_small_and_large_pieces() {
        let mut pieces = Pieces::default();
        let sent = [(1, 10), (2, 20), (3, 5000), (4, 30), (5, 3000), (6, 1)];
        for (byte, length) in sent {
            pieces.push(Bytes::from(vec![byte; length]));
        }
        let mut out = Vec::new();
        while !pieces.is_empty() {
            out.extend_from_slice(&pieces.take(7));
        }
        let expected: Vec<u8> = sent.iter().flat_map(|(byte, length)| vec![*byte; *length]).collect();
        assert_eq!(out, expected);
    }
}
