//! Read buffers that only connections in use hold.
//!
//! A worker keeps a short free list; a connection takes a buffer when bytes are there and gives it back as soon as
//! it holds none, so that ten thousand idle connections hold no buffer at all.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Bytes in one buffer. Large enough for a head at the default limit and for one read of a 64 KiB body.
pub const BUFFER_BYTES: usize = 64 * 1024;

/// Buffers kept for reuse by one worker; more are returned to the allocator.
const KEPT: usize = 64;

thread_local! {
    static FREE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A read buffer: `start..end` is filled and not yet consumed.
pub struct Buffer {
    bytes: Option<Box<[u8]>>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// Takes a buffer from this worker's free list, or a new one.
    pub fn take() -> Self {
        let bytes =
            FREE.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice());
        Buffer { bytes: Some(bytes), start: 0, end: 0 }
    }

    /// What is filled and not yet consumed.
    pub fn filled(&self) -> &[u8] {
        &self[self.start..self.end]
    }

    /// Room behind what is filled.
    pub fn spare(&mut self) -> &mut [u8] {
        let end = self.end;
        &mut self[end..]
    }

    /// How many bytes are filled and not yet consumed.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether everything filled was consumed.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// `bytes` more are filled.
    pub fn advance(&mut self, bytes: usize) {
        debug_assert!(self.end + bytes <= BUFFER_BYTES);
        self.end += bytes;
    }

    /// `bytes` were consumed.
    pub fn consume(&mut self, bytes: usize) {
        debug_assert!(self.start + bytes <= self.end);
        self.start += bytes;
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Only the first `bytes` of what is filled stay.
    pub fn truncate(&mut self, bytes: usize) {
        self.end = self.end.min(self.start + bytes);
    }

    /// Moves what is left to the front, so that the room behind it is as large as can be.
    pub fn compact(&mut self) {
        if self.start > 0 {
            let (start, end) = (self.start, self.end);
            self.copy_within(start..end, 0);
            self.start = 0;
            self.end = end - start;
        }
    }

    /// Puts `bytes` behind what is filled; returns how many fitted.
    pub fn extend(&mut self, bytes: &[u8]) -> usize {
        let spare = self.spare();
        let fitting = bytes.len().min(spare.len());
        spare[..fitting].copy_from_slice(&bytes[..fitting]);
        self.advance(fitting);
        fitting
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or_default()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes.as_deref_mut().unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(bytes) = self.bytes.take() {
            // The list is gone when the thread ends: then the allocator gets the buffer.
            let _ = FREE.try_with(|free| {
                let mut free = free.borrow_mut();
                if free.len() < KEPT {
                    free.push(bytes);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_taken_again_empty() {
        let mut first = Buffer::take();
        first.extend(b"abc");
        let at = first.as_ptr();
        drop(first);
        let second = Buffer::take();
        assert_eq!(second.as_ptr(), at);
        assert!(second.is_empty());
    }

    #[test]
    fn compacting_keeps_what_was_not_consumed() {
        let mut buffer = Buffer::take();
        buffer.extend(b"abcdef");
        buffer.consume(4);
        buffer.compact();
        assert_eq!(buffer.filled(), b"ef");
        assert_eq!(buffer.spare().len(), BUFFER_BYTES - 2);
    }
}
