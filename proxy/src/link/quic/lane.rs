//! One QUIC stream of a link, and what of the session's stream goes over it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::{ReadError, RecvStream, SendStream, StoppedError, VarInt, WriteError};

use super::code;
use crate::link::frame::{Cut, Fault, HEADER_BYTES, Header, Type};
use crate::link::session::{Inbox, Session, Side};

/// A stream of a link over QUIC.
pub(super) struct Lane {
    side: Side,
    id: u32,
    send: Option<SendStream>,
    recv: Option<RecvStream>,
    /// QUIC has a stream for it.
    open: bool,
    pub(super) inbox: Inbox,
    /// What goes out next, in order.
    out: VecDeque<Bytes>,
    /// So much of it the session counts as not taken yet.
    waiting: usize,
    /// Nothing follows what is in `out`.
    ends: bool,
    /// That was said to QUIC. It may still have to send some of it, once more or for the first time.
    finished: bool,
    /// The session has more of a body than found room in `out`.
    more: bool,
    /// It is given up. What is in `out` goes before that is said, if that can be at once.
    cut: Option<Cut>,
    /// The other side reads no more. It says why at the end of what it sends.
    stopped: Option<Cut>,
    /// Resolves when the other side reads no more, or has all: asked for only where nothing else would tell.
    unread: Option<Pin<Box<Unread>>>,
    /// What came by it and was not read is so much that no more is taken off it.
    pub(super) is_held: bool,
    /// Since when QUIC takes nothing of what goes out.
    full: Option<Instant>,
    /// It is on the list of those that are to have their turn.
    pub(super) is_due: bool,
    flag: Arc<Flag>,
    waker: Waker,
}

type Unread = dyn Future<Output = Result<Option<VarInt>, StoppedError>>;

/// Which lanes have something to do: told by QUIC, whose tasks may be anywhere.
#[derive(Debug, Default)]
pub(super) struct Woken(Mutex<(Vec<u32>, Option<Waker>)>);

/// Wakes the link's task for one lane.
#[derive(Debug)]
struct Flag {
    id: u32,
    up: AtomicBool,
    woken: Arc<Woken>,
}

impl Woken {
    /// The task that `waker` wakes is told.
    pub(super) fn tell(&self, waker: &Waker) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut state.1 {
            Some(known) => known.clone_from(waker),
            known => *known = Some(waker.clone()),
        }
    }

    /// Takes the list of those that have something to do, and leaves `empty` in its place.
    pub(super) fn take(&self, empty: &mut Vec<u32>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut state.0, empty);
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.up.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut state = self.woken.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.0.push(self.id);
        let task = state.1.clone();
        drop(state);
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl Lane {
    /// Of the stream `id`, for which QUIC has none yet.
    pub(super) fn unopened(side: Side, id: u32, woken: &Arc<Woken>) -> Self {
        let flag = Arc::new(Flag { id, up: AtomicBool::new(false), woken: woken.clone() });
        Lane {
            side,
            id,
            send: None,
            recv: None,
            open: false,
            inbox: Inbox::of_lane(id, side == Side::Opener),
            out: VecDeque::new(),
            waiting: 0,
            ends: false,
            finished: false,
            more: false,
            cut: None,
            stopped: None,
            unread: None,
            is_held: false,
            full: None,
            is_due: false,
            waker: flag.clone().into(),
            flag,
        }
    }

    /// QUIC has a stream for it.
    pub(super) fn opened(&mut self, (send, recv): (SendStream, RecvStream)) {
        (self.send, self.recv, self.open) = (Some(send), Some(recv), true);
        if self.side == Side::Opener
            && let Some(cut) = self.cut
        {
            // Given up before a word of it went out.
            self.abandon(code::of_cut(cut));
        }
    }

    /// Nothing more is to come or to go by it.
    pub(super) fn is_over(&self) -> bool {
        self.open && self.send.is_none() && self.recv.is_none()
    }

    /// Whether nothing of what goes out went for so long that it may be that nobody reads it.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        self.full.is_some_and(|since| now.saturating_duration_since(since) >= FULL)
    }

    /// A frame of the session goes out.
    pub(super) fn frame(&mut self, frame: Bytes, ends: bool) {
        self.waiting += frame.len();
        self.put(frame, ends);
    }

    fn put(&mut self, frame: Bytes, ends: bool) {
        if self.open && self.send.is_none() {
            // The other side reads no more.
            return;
        }
        self.out.push_back(frame);
        self.ends |= ends;
    }

    /// The session has something of its body.
    pub(super) fn has_body(&mut self) {
        self.more = true;
    }

    /// Nobody here has anything to do with it any more.
    pub(super) fn give_up(&mut self, cut: Cut) {
        let code = code::of_cut(cut);
        if self.side == Side::Opener {
            self.out.clear();
            self.cut = Some(cut);
            if self.open {
                self.abandon(code);
            }
            return;
        }
        // What was answered so far is still to arrive, in front of the word why there is no more.
        if let Some(mut recv) = self.recv.take() {
            let _ = recv.stop(code);
        }
        if !self.ends {
            let mut payload = Vec::with_capacity(40);
            cut.encode(&mut payload);
            let header = Header { len: payload.len(), kind: Type::Reset, flags: 0, stream: 0 };
            let frame = [&header.encode()[..], &payload].concat();
            debug_assert!(frame.len() > HEADER_BYTES);
            self.put(frame.into(), true);
            self.cut = Some(cut);
        }
    }

    /// Does what there is to do. `all`: the connection is closed, so what came by it is taken whole, and now.
    pub(super) fn turn(&mut self, session: &RefCell<Session>, now: Instant, all: bool) -> Result<(), Fault> {
        self.flag.up.store(false, Ordering::Release);
        let turned = if self.open { self.turn_open(session, now, all) } else { Ok(()) };
        let left = self.waiting.min(self.out.iter().map(Bytes::len).sum());
        let before = std::mem::replace(&mut self.waiting, left);
        session.borrow_mut().lane_took(before - left);
        turned
    }

    fn turn_open(&mut self, session: &RefCell<Session>, now: Instant, all: bool) -> Result<(), Fault> {
        let waker = self.waker.clone();
        let mut cx = Context::from_waker(&waker);
        self.read(session, now, all, &mut cx)?;
        self.write(session, now, &mut cx)?;
        self.watch(session, now, &mut cx)
    }

    fn read(
        &mut self,
        session: &RefCell<Session>,
        now: Instant,
        all: bool,
        cx: &mut Context<'_>,
    ) -> Result<(), Fault> {
        let mut taken = 0;
        self.is_held = false;
        while let Some(recv) = &mut self.recv {
            let mut session = session.borrow_mut();
            if !all && !session.takes_more(self.id, &self.inbox) {
                // It is told when there is room.
                self.is_held = true;
                return Ok(());
            }
            if !all && taken >= AT_ONCE {
                cx.waker().wake_by_ref();
                return Ok(());
            }
            let read = pin!(recv.read_chunk(CHUNK, true)).poll(cx);
            match read {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(Some(chunk))) => {
                    taken += chunk.bytes.len();
                    session.recv_lane(now, &mut self.inbox, chunk.bytes)?;
                }
                Poll::Ready(Ok(None)) => {
                    self.recv = None;
                    session.lane_ended(now, self.id);
                    if let Some(cut) = self.stopped.take() {
                        session.lane_reset(now, self.id, cut)?;
                    }
                    let is_cut = self.side == Side::Opener && !session.can_end(self.id);
                    if !self.inbox.is_opened() {
                        session.lane_asked_nothing(now)?;
                    }
                    if !self.inbox.is_opened() || is_cut && !self.ends {
                        // It asked for nothing, or nobody sends on it any more.
                        drop(session);
                        self.abandon(VarInt::from_u32(0));
                    }
                }
                Poll::Ready(Err(ReadError::Reset(code))) => {
                    self.recv = None;
                    match self.inbox.is_opened() {
                        true => session.lane_reset(now, self.id, code::to_cut(code))?,
                        false => session.lane_asked_nothing(now)?,
                    }
                    drop(session);
                    self.abandon(code);
                }
                // The connection is lost: its own task knows.
                Poll::Ready(Err(_)) => self.recv = None,
            }
        }
        Ok(())
    }

    fn write(&mut self, session: &RefCell<Session>, now: Instant, cx: &mut Context<'_>) -> Result<(), Fault> {
        let mut wrote = false;
        while let Some(send) = &mut self.send {
            if self.out.is_empty() && std::mem::take(&mut self.more) {
                let (moved, ends) = session.borrow_mut().body(self.id, &mut self.out);
                self.waiting += moved;
                self.ends |= ends;
            }
            if self.out.is_empty() {
                break;
            }
            let written = pin!(send.write_chunks(self.out.make_contiguous())).poll(cx);
            match written {
                Poll::Pending => {
                    match wrote {
                        true => self.full = Some(now),
                        false => drop(self.full.get_or_insert(now)),
                    }
                    if let Some(cut) = self.cut {
                        self.abandon(code::of_cut(cut));
                    }
                    return Ok(());
                }
                Poll::Ready(Ok(written)) => {
                    self.out.drain(..written.chunks);
                    wrote = true;
                }
                Poll::Ready(Err(WriteError::Stopped(code))) => return self.stop(code, session, now),
                // The connection is lost: its own task knows.
                Poll::Ready(Err(_)) => {
                    self.send = None;
                    self.out.clear();
                    return Ok(());
                }
            }
        }
        self.full = None;
        if wrote {
            session.borrow_mut().lane_drained(self.id);
        }
        if self.ends
            && !self.finished
            && let Some(send) = &mut self.send
        {
            // What was written is still sent to its end: the lane is over when that is acknowledged.
            let _ = send.finish();
            self.finished = true;
        }
        Ok(())
    }

    /// Where nothing comes any more or nobody here takes what comes, and what goes out waits for somebody: finds out if the
    /// other side is gone.
    fn watch(&mut self, session: &RefCell<Session>, now: Instant, cx: &mut Context<'_>) -> Result<(), Fault> {
        // What an opener gives up it gives up both ways.
        let is_deaf = self.recv.is_none() || self.is_held && self.side == Side::Acceptor;
        let Some(send) = self.send.as_ref().filter(|_| is_deaf) else { return Ok(()) };
        let unread = self.unread.get_or_insert_with(|| Box::pin(send.stopped()));
        match unread.as_mut().poll(cx) {
            Poll::Ready(Ok(Some(code))) if !self.finished || self.is_held => self.stop(code, session, now),
            // The other side has all, or wants no more of what is left of it.
            Poll::Ready(_) => {
                self.send = None;
                Ok(())
            }
            Poll::Pending => Ok(()),
        }
    }

    /// The other side reads no more of it.
    fn stop(&mut self, code: VarInt, session: &RefCell<Session>, now: Instant) -> Result<(), Fault> {
        let cut = code::to_cut(code);
        if self.side == Side::Opener && self.recv.is_some() {
            // It says so at the end of what it sends; and what it answered until then is to arrive.
            self.stopped = Some(cut);
            if let Some(mut send) = self.send.take() {
                let _ = send.reset(code);
            }
            self.out.clear();
            return Ok(());
        }
        self.abandon(code);
        session.borrow_mut().lane_reset(now, self.id, cut)
    }

    /// Neither side is to expect anything more of it.
    fn abandon(&mut self, code: VarInt) {
        // What was finished still goes to its end.
        if let Some(mut send) = self.send.take().filter(|_| !self.finished) {
            let _ = send.reset(code);
        }
        if let Some(mut recv) = self.recv.take() {
            let _ = recv.stop(code);
        }
        self.out.clear();
        self.unread = None;
        self.full = None;
    }
}

/// Most bytes that one read gives.
const CHUNK: usize = 64 * 1024;

/// So much is taken in before others have their turn.
const AT_ONCE: usize = 256 * 1024;

/// Who takes nothing for so long may have nobody who reads.
const FULL: Duration = Duration::from_millis(500);
