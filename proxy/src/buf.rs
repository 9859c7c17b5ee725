//! Read buffers that only connections in use hold.
//!
//! A worker keeps a short free list; a connection takes a buffer when bytes are there and gives it back as soon as
//! it holds none, so that ten thousand idle connections hold no buffer at all. A new buffer is not cleared: of its
//! memory, what no read reaches is never touched.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes};
use rustix::buffer::spare_capacity;
use rustix::net::RecvFlags;
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::TcpStream;

/// Bytes in one buffer. Large enough for a head at the default limit and for one read of a 64 KiB body.
pub const BUFFER_BYTES: usize = 64 * 1024;

/// Buffers kept for reuse by one worker; more are returned to the allocator.
const KEPT: usize = 64;

thread_local! {
    /// Empty ones, with what is known of each.
    static FREE: RefCell<Vec<(Vec<u8>, u32)>> = const { RefCell::new(Vec::new()) };
}

const _: () = assert!(BUFFER_BYTES <= u32::MAX as usize);

/// A read buffer. It is filled to the vector's end, and consumed from `start` on.
pub struct Buffer {
    bytes: Vec<u8>,
    start: u32,
    /// So much of its memory held bytes once, and is not cleared again for a reader that needs cleared memory.
    cleared: u32,
}

/// Gives the buffers back that this thread keeps for reuse.
pub(crate) fn let_go() {
    FREE.take();
}

impl Buffer {
    /// Takes a buffer from this worker's free list, or a new one.
    pub fn take() -> Self {
        let kept = FREE.with_borrow_mut(Vec::pop);
        let (bytes, cleared) = kept.unwrap_or_else(|| (Vec::with_capacity(BUFFER_BYTES), 0));
        Buffer { bytes, start: 0, cleared }
    }

    /// What is filled and not yet consumed.
    #[inline]
    pub fn filled(&self) -> &[u8] {
        &self.bytes[self.start as usize..]
    }

    /// How many bytes fit behind what is filled.
    #[inline]
    pub fn room(&self) -> usize {
        self.bytes.capacity() - self.bytes.len()
    }

    /// Reads once behind what is filled; returns how many bytes came. Zero: the stream has ended, or there is no room.
    #[inline]
    pub fn poll_read<R: AsyncRead + Unpin>(
        &mut self,
        from: &mut R,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.room() == 0 {
            return Poll::Ready(Ok(0));
        }
        let filled = self.bytes.len();
        let cleared = (self.cleared as usize).saturating_sub(filled);
        let mut room = ReadBuf::uninit(self.bytes.spare_capacity_mut());
        let at = room.filled().as_ptr();
        // SAFETY: the vector never gets other memory, and bytes that were there once are still there, whatever they are.
        unsafe { room.assume_init(cleared) };
        ready!(Pin::new(from).poll_read(cx, &mut room))?;
        let (came, cleared) = (room.filled().len(), room.initialized().len());
        assert_eq!(at, room.filled().as_ptr(), "a reader fills the room that it was given");
        self.cleared = self.cleared.max((filled + cleared) as u32);
        // SAFETY: so many bytes were filled there.
        unsafe { self.bytes.set_len(filled + came) };
        Poll::Ready(Ok(came))
    }

    /// The same from a socket, with nothing between this and the system call.
    #[inline]
    pub fn poll_recv(&mut self, from: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let room = self.room();
        loop {
            let mut came = None;
            let tried = from.try_io(Interest::READABLE, || {
                let spare = spare_capacity(&mut self.bytes);
                let (_, bytes) = rustix::net::recv(from, spare, RecvFlags::empty())?;
                came = Some(bytes);
                // Less than there is room for: nothing is left, and the runtime need not ask again before it is told of
                // more. That is what this error says to it.
                if (1..room).contains(&bytes) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            match (came, tried) {
                (Some(bytes), _) => return Poll::Ready(Ok(bytes)),
                (None, Err(error)) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Poll::Ready(Err(error));
                }
                (None, _) => ready!(from.poll_read_ready(cx))?,
            }
        }
    }

    /// Reads what is there behind what is filled, at most `most` bytes; returns how many came. Zero: the stream has ended. Fails
    /// where nothing fits, as a read of nothing would look like that end.
    pub fn try_read(&mut self, from: &TcpStream, most: usize) -> io::Result<usize> {
        let most = most.min(self.room());
        if most == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        from.try_read_buf(&mut (&mut self.bytes).limit(most))
    }

    /// What is filled and not yet consumed, to be held elsewhere without being copied. The buffer is free again when
    /// nothing of it is held any more.
    pub fn share(self) -> Bytes {
        Bytes::from_owner(self)
    }

    /// How many bytes are filled and not yet consumed.
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start as usize
    }

    /// Whether everything filled was consumed.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.start as usize == self.bytes.len()
    }

    /// `bytes` were consumed.
    #[inline]
    pub fn consume(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.len());
        self.start += bytes as u32;
        if self.is_empty() {
            self.start = 0;
            self.bytes.clear();
        }
    }

    /// Only the first `bytes` of what is filled stay.
    pub fn truncate(&mut self, bytes: usize) {
        self.bytes.truncate(self.start as usize + bytes);
    }

    /// Moves what is left to the front, so that the room behind it is as large as can be.
    pub fn compact(&mut self) {
        if self.start > 0 {
            self.bytes.drain(..self.start as usize);
            self.start = 0;
        }
    }

    /// Puts `bytes` behind what is filled; returns how many fitted.
    pub fn extend(&mut self, bytes: &[u8]) -> usize {
        let fitting = bytes.len().min(self.room());
        self.bytes.extend_from_slice(&bytes[..fitting]);
        fitting
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.filled()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        let cleared = self.cleared.max(bytes.len() as u32);
        bytes.clear();
        // The list is gone when the thread ends: then the allocator gets the buffer.
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < KEPT {
                free.push((bytes, cleared));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_taken_again_empty() {
        let mut first = Buffer::take();
        first.extend(b"abc");
        let at = first.filled().as_ptr();
        drop(first);
        let second = Buffer::take();
        assert_eq!(second.filled().as_ptr(), at);
        assert!(second.is_empty());
    }

    #[test]
    fn a_shared_buffer_is_free_when_its_last_part_is_dropped() {
        let mut buffer = Buffer::take();
        buffer.extend(b"abcdef");
        buffer.consume(2);
        let at = buffer.filled().as_ptr();
        let mut shared = buffer.share();
        let part = shared.split_to(3);
        drop(shared);
        assert_eq!(part, &b"cde"[..]);
        assert_eq!(part.as_ptr(), at);
        drop(part);
        let mut again = Buffer::take();
        again.extend(b"ab");
        assert_eq!(again.filled().as_ptr_range().end, at);
    }

    #[test]
    fn compacting_keeps_what_was_not_consumed() {
        let mut buffer = Buffer::take();
        buffer.extend(b"abcdef");
        buffer.consume(4);
        buffer.compact();
        assert_eq!(buffer.filled(), b"ef");
        assert_eq!(buffer.room(), BUFFER_BYTES - 2);
    }

    #[tokio::test]
    async fn a_full_buffer_reads_nothing_and_does_not_grow() {
        let mut buffer = Buffer::take();
        let mut endless = tokio::io::repeat(b'x');
        let mut sum = 0;
        while buffer.room() > 0 {
            sum += std::future::poll_fn(|cx| buffer.poll_read(&mut endless, cx)).await.unwrap();
        }
        assert_eq!((sum, buffer.len()), (BUFFER_BYTES, BUFFER_BYTES));
        assert_eq!(std::future::poll_fn(|cx| buffer.poll_read(&mut endless, cx)).await.unwrap(), 0);
        assert_eq!(buffer.extend(b"y"), 0);
    }

    #[tokio::test]
    async fn a_full_buffer_takes_no_socket_for_one_that_has_ended() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (from, _) = listener.accept().await.unwrap();
        assert_eq!(to.try_write(b"more").unwrap(), 4);
        from.readable().await.unwrap();
        let mut buffer = Buffer::take();
        buffer.extend(&[b'x'; BUFFER_BYTES]);
        let full = buffer.try_read(&from, 4).unwrap_err();
        assert_eq!((full.kind(), buffer.len()), (io::ErrorKind::InvalidInput, BUFFER_BYTES));
        buffer.consume(BUFFER_BYTES - 1);
        buffer.compact();
        assert_eq!(buffer.try_read(&from, 0).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!((buffer.try_read(&from, 4).unwrap(), buffer.filled()), (4, &b"xmore"[..]));
    }
}
