//! Memory for records on their way. A link has some only while bytes wait in it: a thread's links share the rest.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::keys::{HEADER_BYTES, TAG_BYTES};
use super::session::{MOST_AT_ONCE, MOST_CONTENT};

thread_local! {
    /// Empty, with room.
    static FOR_SEALED: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    /// Filled to the end with whatever was there.
    static FOR_CAME: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Gives the memory back that this thread keeps.
pub(crate) fn let_go() {
    FOR_SEALED.take();
    FOR_CAME.take();
}

/// What was sealed and has not gone out.
#[derive(Default)]
pub(super) struct Sealed {
    bytes: Vec<u8>,
    gone: usize,
}

impl Sealed {
    /// Where to append records to.
    pub(super) fn room(&mut self) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 {
            self.bytes = FOR_SEALED.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(ROOM));
        }
        &mut self.bytes
    }

    /// Writes all to `carrier`.
    pub(super) fn poll_write(
        &mut self,
        carrier: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.gone < self.bytes.len() {
            match ready!(Pin::new(&mut *carrier).poll_write(cx, &self.bytes[self.gone..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.gone += written,
            }
        }
        if self.bytes.capacity() > 0 {
            let Sealed { mut bytes, .. } = std::mem::take(self);
            bytes.clear();
            FOR_SEALED.with_borrow_mut(|kept| keep(kept, bytes));
        }
        Poll::Ready(Ok(()))
    }
}

/// What came and was not opened.
#[derive(Default)]
pub(super) struct Came {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Came {
    /// All of it.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// The first `bytes` are done with.
    pub(super) fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        if self.start == self.end {
            self.give_back();
        }
    }

    /// Reads more from `carrier`; says how much came. What is there is less than a record.
    pub(super) fn poll_read(
        &mut self,
        carrier: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.bytes.is_empty() {
            self.bytes = FOR_CAME.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; ROOM]);
        } else {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let mut room = ReadBuf::new(&mut self.bytes[self.end..]);
        let read = Pin::new(carrier).poll_read(cx, &mut room);
        let came = room.filled().len();
        self.end += came;
        if self.end == 0 {
            self.give_back();
        }
        read.map_ok(|()| came)
    }

    fn give_back(&mut self) {
        let Came { bytes, .. } = std::mem::take(self);
        FOR_CAME.with_borrow_mut(|kept| keep(kept, bytes));
    }
}

fn keep(kept: &mut Vec<Vec<u8>>, bytes: Vec<u8>) {
    if kept.len() < KEPT {
        kept.push(bytes);
    }
}

/// For what is sealed at once, and for as many records of the other side.
const ROOM: usize = MOST_AT_ONCE / MOST_CONTENT * (HEADER_BYTES + MOST_CONTENT + 1 + TAG_BYTES);

/// Of either kind a thread keeps so many.
const KEPT: usize = 16;
