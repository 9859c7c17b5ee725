//! A connection on its socket: one task reads and writes for all streams, and each stream has a handle.
//!
//! The task reads into a buffer of its thread, which no connection holds while nothing comes, and writes all that its
//! streams have left for it at once.

use std::cell::{RefCell, RefMut};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};

use super::conn::{Closed, Connection, Cut, Fault, Key, Limits, Read, Side, TooLarge};
use super::fields::{Fields, RequestHead, ResponseHead};
use super::frame::Code;
use crate::buf::BUFFER_BYTES;
use crate::io::Io;
use crate::link::session::{Outbox, Slices};

/// With less room than this a new buffer is taken.
const LEAST_ROOM: usize = 16 * 1024;

/// So often a connection reads before others have their turn.
const READS: usize = 4;

thread_local! {
    static BUFFER: RefCell<BytesMut> = RefCell::default();
}

/// One connection, as its streams and its task share it.
pub(crate) struct Wire {
    state: RefCell<State>,
}

struct State {
    connection: Connection,
    /// Who is to be woken for a stream, by its key.
    wakers: Vec<Option<Waker>>,
    /// The connection's own task.
    driver: Option<Waker>,
    /// It was woken and has not run yet.
    told: bool,
    /// The socket takes no more for now.
    full: bool,
    /// Bytes that the socket has taken.
    written: u64,
    /// All was read that will ever come.
    over: bool,
}

/// A stream. Dropping it gives up what is left of it.
pub(crate) struct Stream {
    wire: Rc<Wire>,
    key: Key,
}

impl Wire {
    /// A new connection.
    pub(crate) fn new(side: Side, limits: Limits) -> Rc<Self> {
        let connection = Connection::new(side, limits, Instant::now());
        let state = State {
            connection,
            wakers: Vec::new(),
            driver: None,
            told: false,
            full: false,
            written: 0,
            over: false,
        };
        Rc::new(Wire { state: RefCell::new(state) })
    }

    /// Does what can be done now. Ready when the connection has ended, with the fault that ended it.
    pub(crate) fn poll(&self, io: &mut Io, cx: &mut Context<'_>) -> Poll<Option<Fault>> {
        let mut state = self.state.borrow_mut();
        remember(&mut state.driver, cx);
        state.told = false;
        state.read(io, cx);
        state.write(io, cx);
        state.tell_streams();
        if !state.connection.is_done() {
            return Poll::Pending;
        }
        if state.connection.fault().is_none() {
            if !state.connection.outbox().is_empty() {
                return Poll::Pending;
            }
            state.connection.close();
            state.write(io, cx);
        }
        // The peer is told once, if its socket takes that.
        let _ = Pin::new(&mut io.stream).poll_shutdown(cx);
        Poll::Ready(state.connection.fault())
    }

    /// The next stream that the peer has opened.
    pub(crate) fn accept(self: &Rc<Self>) -> Option<(Stream, Result<RequestHead, TooLarge>)> {
        let opened = self.state.borrow_mut().connection.accept()?;
        Some((Stream { wire: self.clone(), key: opened.key }, opened.head))
    }

    /// Opens a stream. An error means that nothing of the request was sent.
    pub(crate) fn open(self: &Rc<Self>, head: &RequestHead, end: bool) -> Result<Stream, Closed> {
        let key = self.change(|connection| connection.open(head, end))?;
        Ok(Stream { wire: self.clone(), key })
    }

    /// Says goodbye, and ends with the last stream.
    pub(crate) fn leave(&self) {
        self.change(Connection::leave);
    }

    /// The same for ever: see [`Connection::leave_for_good`].
    pub(crate) fn leave_for_good(&self) {
        self.change(Connection::leave_for_good);
    }

    /// Ends at once.
    pub(crate) fn close(&self) {
        self.change(Connection::close);
    }

    /// Has the connection's task run.
    pub(crate) fn wake(&self) {
        let mut state = self.state.borrow_mut();
        state.wake_driver();
    }

    /// Whether the socket takes no more for now.
    pub(crate) fn is_full(&self) -> bool {
        self.state.borrow().full
    }

    /// Bytes that the socket has taken.
    pub(crate) fn written(&self) -> u64 {
        self.state.borrow().written
    }

    /// What the connection says of itself.
    pub(crate) fn ask<T>(&self, question: impl FnOnce(&Connection) -> T) -> T {
        question(&self.state.borrow().connection)
    }

    /// Does something to the connection, and sees to what follows from it.
    fn change<T>(&self, work: impl FnOnce(&mut Connection) -> T) -> T {
        let mut state = self.state.borrow_mut();
        let done = work(&mut state.connection);
        state.follow();
        done
    }
}

impl State {
    fn read(&mut self, io: &mut Io, cx: &mut Context<'_>) {
        if self.over || self.connection.fault().is_some() {
            return;
        }
        for _ in 0..READS {
            let mut buffer = BUFFER.take();
            if buffer.capacity() < LEAST_ROOM {
                buffer.reserve(BUFFER_BYTES);
            }
            let read = poll_read(io, &mut buffer, cx);
            match read {
                Poll::Ready(Ok(length)) if length > 0 => {
                    self.connection.recv(Instant::now(), &mut buffer.split());
                    BUFFER.set(buffer);
                }
                Poll::Ready(_) => {
                    BUFFER.set(buffer);
                    return self.lose();
                }
                Poll::Pending => return BUFFER.set(buffer),
            }
        }
        cx.waker().wake_by_ref();
    }

    fn write(&mut self, io: &mut Io, cx: &mut Context<'_>) {
        self.full = false;
        while !self.connection.outbox().is_empty() {
            match write_some(self.connection.outbox(), io, cx) {
                Poll::Ready(Ok(written)) if written > 0 => {
                    self.written += written as u64;
                    self.connection.written(written);
                }
                Poll::Ready(_) => return self.lose(),
                Poll::Pending => {
                    self.full = true;
                    break;
                }
            }
        }
        // Within TLS there may be something left to be sent.
        if io.stream.plain().is_none()
            && let Poll::Ready(Err(_)) = Pin::new(&mut io.stream).poll_flush(cx)
        {
            self.lose();
        }
    }

    fn lose(&mut self) {
        self.over = true;
        self.connection.lose();
    }

    /// Wakes whom something concerns that was done to the connection.
    #[inline]
    fn follow(&mut self) {
        self.tell_streams();
        let writes = !self.full && !self.connection.outbox().is_empty();
        if writes || self.connection.is_done() {
            self.wake_driver();
        }
    }

    #[inline]
    fn wake_driver(&mut self) {
        if !self.told
            && let Some(driver) = &self.driver
        {
            self.told = true;
            driver.wake_by_ref();
        }
    }

    #[inline]
    fn tell_streams(&mut self) {
        if !self.connection.has_woken() {
            return;
        }
        for key in self.connection.woken() {
            if let Some(Some(waker)) = self.wakers.get(key.index()) {
                waker.wake_by_ref();
            }
        }
    }

    fn watch(&mut self, key: Key, cx: &Context<'_>) {
        let index = key.index();
        if self.wakers.len() <= index {
            self.wakers.resize(index + 1, None);
        }
        remember(&mut self.wakers[index], cx);
    }
}

impl Stream {
    /// The next head of the answer.
    pub(crate) fn poll_head(&self, cx: &Context<'_>) -> Poll<Result<ResponseHead, Cut>> {
        self.poll(cx, |connection, key| connection.read_head(key))
    }

    /// What comes next behind the head, at most `most` bytes of a body, which is not zero.
    pub(crate) fn poll_read(&self, most: usize, cx: &Context<'_>) -> Poll<Read> {
        self.poll(cx, |connection, key| connection.read(key, most))
    }

    /// Ready when the peer, or its connection, has cut the stream off.
    pub(crate) fn poll_cut(&self, cx: &Context<'_>) -> Poll<Cut> {
        self.poll(cx, |connection, key| connection.cut(key))
    }

    /// How much of a body may be sent, at most `want`, which is not zero.
    pub(crate) fn poll_capacity(&self, want: usize, cx: &Context<'_>) -> Poll<Result<usize, Cut>> {
        self.poll(cx, |connection, key| match connection.capacity(key, want) {
            0 => connection.cut(key).map(Err),
            room => Some(Ok(room)),
        })
    }

    /// Whether so much of a body may be sent now.
    pub(crate) fn has_capacity(&self, want: usize) -> bool {
        self.wire.state.borrow_mut().connection.capacity(self.key, want) == want
    }

    /// Bytes of body that wait to be read.
    pub(crate) fn readable(&self) -> usize {
        self.wire.state.borrow().connection.readable(self.key)
    }

    /// Whether all was read, and has ended well.
    pub(crate) fn is_end(&self) -> bool {
        self.wire.state.borrow().connection.is_end(self.key)
    }

    /// `bytes` of what was read are no longer held.
    pub(crate) fn release(&self, bytes: usize) {
        self.change(|connection, key| connection.release(key, bytes));
    }

    /// Sends the head of an answer, or of an interim one.
    pub(crate) fn send_head(&self, head: &ResponseHead, end: bool) -> Result<(), Closed> {
        self.change(|connection, key| connection.send_head(key, head, end))
    }

    /// Sends part of a body, no more than there is capacity for.
    pub(crate) fn send_data(&self, part: Bytes, end: bool) -> Result<(), Closed> {
        self.change(|connection, key| connection.send_data(key, part, end))
    }

    /// Ends the stream with these fields.
    pub(crate) fn send_trailers(&self, trailers: &Fields) -> Result<(), Closed> {
        self.change(|connection, key| connection.send_trailers(key, trailers))
    }

    /// Gives the stream up.
    pub(crate) fn reset(&self, code: Code) {
        self.change(|connection, key| connection.reset(key, code));
    }

    fn change<T>(&self, work: impl FnOnce(&mut Connection, Key) -> T) -> T {
        self.wire.change(|connection| work(connection, self.key))
    }

    fn poll<T>(&self, cx: &Context<'_>, work: impl FnOnce(&mut Connection, Key) -> Option<T>) -> Poll<T> {
        let mut state: RefMut<'_, State> = self.wire.state.borrow_mut();
        let done = work(&mut state.connection, self.key);
        // It may have given back room for which another one waits.
        state.tell_streams();
        match done {
            Some(done) => Poll::Ready(done),
            None => {
                state.watch(self.key, cx);
                Poll::Pending
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut state = self.wire.state.borrow_mut();
        state.connection.let_go(self.key);
        let waker = state.wakers.get_mut(self.key.index()).and_then(Option::take);
        state.follow();
        drop(state);
        drop(waker);
    }
}

fn poll_read(io: &mut Io, into: &mut BytesMut, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    std::pin::pin!(io.read_buf(into)).poll(cx)
}

fn write_some(outbox: &Outbox, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let mut slices = Slices::new();
    outbox.slices(&mut slices);
    Pin::new(&mut io.stream).poll_write_vectored(cx, &slices)
}

fn remember(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(known) => known.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}
