//! One link: the task that owns its TLS connection and its session, and what the ends of its streams see of it.
//!
//! The ends live in other tasks of the same worker. What they send waits in the session until the link's task has its
//! turn, so that all that became ready meanwhile goes out in one write. Only what fills a write goes out at once: many
//! large bodies that wait for each other would have left the processor's caches before they are sealed.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::hash::BuildHasherDefault;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::time::Sleep;

use super::carrier::{Fatal, anchor};
use super::frame::{Code, Cut, Fault};
use super::head::RequestHead;
use super::life::{LEAVE, Life};
use super::quic::{OverQuic, Sent};
use super::session::{Event, IdHasher, Leave, Limits, Session, Side, Slices, StreamId};
use super::stream::End;
use super::upgrade::{Far, Turn, Upgrade};
use crate::buf::Buffer;
use crate::drain::{Phase, Ticket};
use crate::error::Cause;
use crate::identity::Svid;
use crate::io::Io;
use crate::telemetry::{self, LinkOpen};
use crate::worker::Shared;

/// A link, as the ends of its streams see it.
pub(crate) struct Link {
    side: Side,
    /// What it has where it goes over QUIC.
    pub(super) quic: Option<Box<OverQuic>>,
    /// The connection, while it is driven.
    io: RefCell<Option<Io>>,
    pub(super) session: RefCell<Session>,
    ends: RefCell<HashMap<u32, Waiting, BuildHasherDefault<IdHasher>>>,
    driver: RefCell<Option<Waker>>,
    life: RefCell<Life>,
    /// The other side was asked to leave, and has not been told yet that nothing more is taken.
    asked: Cell<bool>,
    pub(super) counted: LinkOpen,
    pub(super) upgrade: RefCell<Upgrade>,
    /// What is done once the other side says that it drains.
    notice: Cell<Option<Box<dyn FnOnce()>>>,
}

/// Who waits for something on a stream.
#[derive(Default)]
struct Waiting {
    read: Option<Waker>,
    write: Option<Waker>,
    cut: Option<Cut>,
}

/// What takes the streams that the other side opens.
pub(crate) trait Takes {
    /// One was opened.
    fn take(&mut self, opened: Opened);

    /// The link's task runs.
    fn poll(&mut self, _cx: &mut Context<'_>) {}
}

/// Of the side that dialled: the session gives up a link on which the other side opens a stream.
pub(crate) struct Nothing;

impl Takes for Nothing {
    fn take(&mut self, _opened: Opened) {}
}

/// A stream that the other side opened.
pub(crate) struct Opened {
    /// What it asks for.
    pub(crate) head: RequestHead,
    /// Nothing follows the head.
    pub(crate) end: bool,
    /// The stream.
    pub(crate) stream: End,
}

/// What a stream's end waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    /// Something to read.
    Read,
    /// Room to write.
    Write,
}

impl Link {
    /// A link to `peer` on which nothing has happened yet. [`Link::drive`] is what moves it.
    pub(crate) fn new(side: Side, life: Life, shared: &Arc<Shared>, peer: Far) -> Rc<Self> {
        let session = Session::new(side, Limits::default(), Instant::now());
        Rc::new(Link::with(session, side, life, shared, peer))
    }

    pub(super) fn with(session: Session, side: Side, life: Life, shared: &Arc<Shared>, peer: Far) -> Self {
        Link {
            side,
            quic: None,
            io: RefCell::default(),
            session: RefCell::new(session),
            ends: RefCell::default(),
            driver: RefCell::default(),
            life: RefCell::new(life),
            asked: Cell::new(false),
            counted: telemetry::links().open(side),
            upgrade: RefCell::new(Upgrade::new(shared, side, peer)),
            notice: Cell::default(),
        }
    }

    /// Has `notice` called once the other side says that it drains, which is more than that it leaves this link.
    pub(super) fn on_drain(&self, notice: impl FnOnce() + 'static) {
        self.notice.set(Some(Box::new(notice)));
    }

    /// Whether no stream will ever be opened on it again.
    pub(crate) fn is_over(&self) -> bool {
        let session = self.session.borrow();
        session.fault().is_some() || session.is_leaving()
    }

    /// Whether a stream opened now would get on.
    pub(crate) fn has_room(&self) -> bool {
        let session = self.session.borrow();
        session.can_open() && !session.is_starved() && self.quic.as_ref().is_none_or(|quic| quic.has_room())
    }

    /// Whether it is one over QUIC.
    pub(crate) fn is_quic(&self) -> bool {
        self.quic.is_some()
    }

    /// Which side of it this is.
    pub(super) fn side(&self) -> Side {
        self.side
    }

    /// How many streams are open on it.
    pub(super) fn open_streams(&self) -> usize {
        self.session.borrow().open_streams()
    }

    /// A stream was opened on it.
    pub(super) fn count_stream(&self) {
        telemetry::links().stream_opened(self.side);
        if self.quic.is_some() {
            telemetry::quic().stream(self.side);
        }
    }

    /// Whether it ended as links end: one side has left it, or it rested.
    pub(super) fn ended_well(&self) -> bool {
        let session = self.session.borrow();
        session.is_leaving() || session.fault() == Some(Fault::Closed)
    }

    /// What it sent over TCP until now, and sent again; none where that is not known.
    pub(super) fn sent_over_tcp(&self) -> Option<Sent> {
        let (packets, lost) = anchor::sent(self.io.borrow().as_ref()?.stream.socket()?)?;
        Some(Sent { packets, lost })
    }

    /// This side is somebody else by now, or trusts others. New streams go by other links; what is open is cut in a
    /// while only if the other side is not trusted any more.
    pub(crate) fn identity_changed(&self, svid: &Svid) {
        let trusted = self.life.borrow().is_trusted(svid, self.side);
        if trusted {
            self.leave(Leave::Soon, "identity");
        } else {
            tracing::info!("the other side of a link is not trusted any more");
            let mut life = self.life.borrow_mut();
            life.ends = life.ends.min(Instant::now() + LEAVE);
            drop(life);
            self.leave(Leave::Now, "untrusted");
        }
    }

    /// Asks the other side to leave it.
    pub(crate) fn leave(&self, how: Leave, cause: &str) {
        let mut session = self.session.borrow_mut();
        match how {
            Leave::Now => self.asked.set(false),
            // Who was asked, or leaves by itself, is not waited for anew.
            Leave::Soon if session.is_leaving() => {}
            Leave::Soon => self.asked.set(self.side == Side::Acceptor),
        }
        telemetry::links().left(self.side, false);
        session.leave(how, LEAVE, cause);
        drop(session);
        self.wake();
    }

    /// Moves bytes between the session and `io` until the link ends: when one side has left it, when no stream was open
    /// for as long as `rest`, or when the connection breaks. `takes` gets what the other side opens. `ticket`: a drain
    /// asks callers to leave it.
    pub(crate) async fn drive(
        self: Rc<Self>,
        io: Io,
        ticket: Option<Ticket>,
        rest: Option<Duration>,
        mut takes: impl Takes,
    ) {
        let peer = io.peer();
        *self.io.borrow_mut() = Some(io);
        let mut timer = Box::pin(tokio::time::sleep(FAR));
        let mut used = Instant::now();
        // What comes in while callers are asked to leave has nowhere else to go.
        let mut told = ticket.as_ref().map_or(Phase::Serving, Ticket::phase).min(Phase::Lame);
        let fault = poll_fn(|cx| {
            self.remember(cx);
            takes.poll(cx);
            if let Some(ticket) = &ticket {
                ticket.watch(cx.waker());
                self.follow(ticket, &mut told);
            }
            let ended = self.poll_in(cx);
            self.dispatch_all(&mut takes);
            if let Err(fault) = ended {
                // It is told why, as far as it listens.
                let _ = self.poll_out(cx);
                return Poll::Ready(fault);
            }
            let out = self.poll_out(cx);
            // What went out made room.
            self.dispatch_all(&mut takes);
            if let Poll::Ready(Err(error)) = &out {
                return Poll::Ready(self.broken(error));
            }
            let now = Instant::now();
            match self.poll_wires(now, cx) {
                Turn::Idle => {}
                // What it has to say goes out with the next turn.
                Turn::Acted => cx.waker().wake_by_ref(),
                Turn::Lame => {
                    self.leave(Leave::Now, "lame");
                    cx.waker().wake_by_ref();
                }
            }
            if told == Phase::Closed || self.is_left() {
                return Poll::Ready(Fault::Closed);
            }
            if self.session.borrow().open_streams() > 0 {
                used = now;
            }
            let rested = rest.map(|rest| used + rest);
            self.poll_time(timer.as_mut(), rested, out.is_pending(), cx)
        })
        .await;
        self.session.borrow_mut().close(fault);
        let lost = self.dispatch_all(&mut takes);
        self.note(fault, lost, peer);
        if let Some(mut io) = self.io.take() {
            self.upgrade.borrow_mut().count(&mut io);
            let _ = tokio::time::timeout(FAREWELL, farewell(&mut io)).await;
        }
    }

    /// Says why the link ended. `lost`: streams were lost with it.
    pub(super) fn note(&self, fault: Fault, lost: bool, peer: SocketAddr) {
        if fault == Fault::Closed {
            return;
        }
        let fatal = self.io.borrow_mut().as_mut().and_then(|io| io.carrier()?.fatal());
        // Whoever closes the connection between exchanges says no more of it.
        if fault == Fault::Lost && !lost && fatal.is_none_or(Fatal::is_loss) {
            return;
        }
        match fatal {
            Some(fatal) => {
                telemetry::links().given_up(fatal);
                tracing::warn!(carrier = %fatal, %peer, "a link was lost");
            }
            None => {
                telemetry::links().fault(fault);
                tracing::warn!(%fault, %peer, "a link was lost");
            }
        }
    }

    fn poll_wires(&self, now: Instant, cx: &mut Context<'_>) -> Turn {
        let Some(io) = &mut *self.io.borrow_mut() else { return Turn::Idle };
        self.upgrade.borrow_mut().poll(io, &mut self.session.borrow_mut(), &self.counted, now, cx)
    }

    /// Whether all is done on a link that one of the sides has left.
    pub(super) fn is_left(&self) -> bool {
        // Whoever accepts waits until the other side has heard it: what it opened before is still taken.
        self.session.borrow().is_done() && !self.asked.get()
    }

    /// Tells the other side as the drain moves on.
    pub(super) fn follow(&self, ticket: &Ticket, told: &mut Phase) {
        let phase = ticket.phase();
        if phase <= *told {
            return;
        }
        *told = phase;
        let how = if phase == Phase::Lame { Leave::Soon } else { Leave::Now };
        // Who is there in its place takes what comes by another link.
        let cause = if ticket.is_handed_over() { "handover" } else { Cause::Draining.label() };
        self.leave(how, cause);
    }

    /// Takes in what is there, but not so much at once that it is cold when it is passed on. `Err`: nothing more comes.
    fn poll_in(&self, cx: &mut Context<'_>) -> Result<(), Fault> {
        let mut io = self.io.borrow_mut();
        let io = io.as_mut().ok_or(Fault::Closed)?;
        let mut taken = 0;
        loop {
            // Held while there is something in it only; bodies that wait in the session keep it.
            let mut input = Buffer::take();
            let more = loop {
                match input.poll_read(io, cx) {
                    Poll::Ready(Ok(1..)) if input.room() >= RECORD => {}
                    Poll::Ready(Ok(1..)) => break Poll::Ready(Ok(())),
                    Poll::Ready(Ok(0)) => break Poll::Ready(Err(Fault::Lost)),
                    Poll::Ready(Err(error)) => break Poll::Ready(Err(self.broken(&error))),
                    Poll::Pending => break Poll::Pending,
                }
            };
            if !input.is_empty() {
                taken += input.len();
                self.session.borrow_mut().recv(Instant::now(), input.share())?;
            }
            match more {
                Poll::Pending => return Ok(()),
                Poll::Ready(ended) => ended?,
            }
            if taken >= AT_ONCE {
                cx.waker().wake_by_ref();
                return Ok(());
            }
        }
    }

    /// The connection failed. A wire that did harm is barred, whichever way it was noticed.
    fn broken(&self, error: &io::Error) -> Fault {
        if !is_harm(error) {
            return Fault::Lost;
        }
        self.upgrade.borrow_mut().harmed();
        Fault::Harmed
    }

    /// Writes what is to go out, as much as the connection takes.
    fn poll_out(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(io) = &mut *self.io.borrow_mut() else { return Poll::Ready(Ok(())) };
        while ready!(self.poll_write(io, cx))? > 0 {}
        Pin::new(io).poll_flush(cx)
    }

    /// Writes what fills a write, if so much waits. What is wrong with the connection its own task is told.
    pub(super) fn write_much(&self) {
        if !self.session.borrow().fills_write() {
            return;
        }
        let Some(driver) = self.driver.borrow().clone() else { return };
        let Some(io) = &mut *self.io.borrow_mut() else { return };
        let mut cx = Context::from_waker(&driver);
        while self.session.borrow().fills_write()
            && matches!(self.poll_write(io, &mut cx), Poll::Ready(Ok(1..)))
        {}
    }

    /// Writes once; returns how many bytes. Zero: nothing is to be written.
    fn poll_write(&self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut session = self.session.borrow_mut();
        let outbox = session.transmit();
        if outbox.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let mut slices = Slices::new();
        outbox.slices(&mut slices);
        let written = ready!(Pin::new(io).poll_write_vectored(cx, &slices))?;
        drop(slices);
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        outbox.advance(written);
        Poll::Ready(Ok(written))
    }

    /// Does what is due. Ready: the link has rested or lived long enough, or its other side is silent. `full`: the
    /// connection takes no more at the moment.
    pub(super) fn poll_time(
        &self,
        mut timer: Pin<&mut Sleep>,
        rested: Option<Instant>,
        full: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Fault> {
        loop {
            let now = Instant::now();
            let mut session = self.session.borrow_mut();
            if let Err(fault) = session.on_timeout(now) {
                return Poll::Ready(fault);
            }
            let rested = rested.filter(|_| session.open_streams() == 0);
            if rested.is_some_and(|at| now >= at) {
                return Poll::Ready(Fault::Closed);
            }
            let Life { leaves, ends, .. } = *self.life.borrow();
            if now >= ends {
                if session.open_streams() > 0 {
                    tracing::warn!(
                        streams = session.open_streams(),
                        "a link was closed with what it carried: its time was over"
                    );
                }
                return Poll::Ready(Fault::Closed);
            }
            let is_old = now >= leaves && !session.is_leaving();
            if is_old {
                drop(session);
                self.leave(Leave::Soon, "old");
                continue;
            }
            let leaves = Some(leaves).filter(|_| !session.is_leaving());
            let wires = match &self.quic {
                Some(quic) => quic.tick.get(),
                None => self.upgrade.borrow().timeout(),
            };
            if wires.is_some_and(|at| now >= at) {
                // That is done in another turn.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let due =
                session.timeout().into_iter().chain(wires).chain(rested).chain(leaves).chain([ends]).min();
            // While the connection takes no more, it wakes this task when it does.
            let asks = !full && session.wants_transmit();
            drop(session);
            if asks {
                // A PING, resets that had to wait, or that the link is left.
                cx.waker().wake_by_ref();
            }
            let at = due.unwrap_or(now + FAR);
            // An earlier alarm finds nothing to do and is set anew; a later one has to be moved.
            if timer.is_elapsed() || timer.deadline().into_std() > at {
                timer.as_mut().reset(at.into());
            }
            ready!(timer.as_mut().poll(cx));
        }
    }

    /// Tells whoever waits what happened. True: streams were lost with the connection.
    pub(super) fn dispatch_all(self: &Rc<Self>, takes: &mut impl Takes) -> bool {
        let mut lost = false;
        loop {
            let Some(event) = self.session.borrow_mut().event() else { return lost };
            match event {
                Event::Opened { stream, head, end } => {
                    self.count_stream();
                    takes.take(Opened { head, end, stream: self.end(stream) });
                }
                Event::Readable(stream) => self.wake_end(stream, None, true, false),
                Event::Writable(stream) => self.wake_end(stream, None, false, true),
                Event::Cut(stream, cut) => {
                    lost |= cut.code == Code::Lost;
                    telemetry::links().stream_cut(cut.code);
                    self.wake_end(stream, Some(cut), true, true);
                }
                Event::Leave { cause, .. } => {
                    telemetry::links().left(self.side, true);
                    tracing::debug!(cause = cause.as_str(), "the other side leaves a link");
                    let notice = self.notice.take().filter(|_| cause.as_str() == Cause::Draining.label());
                    if let Some(notice) = notice {
                        notice();
                    }
                }
                Event::Control { kind, bytes } => self.upgrade.borrow_mut().heard(kind, &bytes),
            }
        }
    }

    fn wake_end(&self, stream: StreamId, cut: Option<Cut>, read: bool, write: bool) {
        let mut ends = self.ends.borrow_mut();
        let Some(waiting) = ends.get_mut(&stream.number()) else { return };
        waiting.cut = waiting.cut.or(cut);
        let read = if read { waiting.read.take() } else { None };
        let write = if write { waiting.write.take() } else { None };
        drop(ends);
        read.into_iter().chain(write).for_each(Waker::wake);
    }

    /// The end of a stream of this link.
    pub(super) fn end(self: &Rc<Self>, stream: StreamId) -> End {
        self.ends.borrow_mut().insert(stream.number(), Waiting::default());
        End::new(self.clone(), stream)
    }

    /// Nobody waits for anything on it any more.
    pub(super) fn forget(&self, stream: StreamId) {
        self.ends.borrow_mut().remove(&stream.number());
    }

    /// Whether a stream was cut off, and how.
    pub(super) fn cut_of(&self, stream: StreamId) -> Option<Cut> {
        self.ends.borrow().get(&stream.number())?.cut
    }

    /// Wakes this task when there is something on `stream`.
    pub(super) fn wait(&self, stream: StreamId, what: For, cx: &Context<'_>) {
        let mut ends = self.ends.borrow_mut();
        let waiting = ends.entry(stream.number()).or_default();
        let place = match what {
            For::Read => &mut waiting.read,
            For::Write => &mut waiting.write,
        };
        match place {
            Some(known) => known.clone_from(cx.waker()),
            None => *place = Some(cx.waker().clone()),
        }
    }

    /// There is something to write.
    pub(super) fn wake(&self) {
        if let Some(driver) = &*self.driver.borrow() {
            driver.wake_by_ref();
        }
    }

    pub(super) fn remember(&self, cx: &Context<'_>) {
        let mut driver = self.driver.borrow_mut();
        match &mut *driver {
            Some(known) => known.clone_from(cx.waker()),
            None => *driver = Some(cx.waker().clone()),
        }
    }
}

/// Ends TLS, and waits until the other side has done so: what it was told before must not be destroyed by what it still
/// sends.
async fn farewell(io: &mut Io) {
    if poll_fn(|cx| Pin::new(&mut *io).poll_shutdown(cx)).await.is_err() {
        return;
    }
    let mut left = BytesMut::with_capacity(4096);
    while matches!(io.read_buf(&mut left).await, Ok(1..)) {
        left.clear();
    }
}

/// Most that one read needs room for: what is in a TLS record, and its type.
const RECORD: usize = 16 * 1024 + 1;

/// So much is taken in before those get their turn for whom it is.
const AT_ONCE: usize = 256 * 1024;

/// Whether what came is not what the other side sealed, or a wire said what cannot be. A byte that changed may be one that
/// TLS does not get as far as to open. Of an alert the other side knows the reason.
fn is_harm(error: &io::Error) -> bool {
    let inner = error.get_ref();
    let tls = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let carrier = inner.and_then(|inner| inner.downcast_ref::<Fatal>());
    tls.is_some_and(|error| !matches!(error, rustls::Error::AlertReceived(_)))
        || matches!(carrier, Some(Fatal::Hostile))
}

/// Longest wait for the end of TLS.
const FAREWELL: Duration = Duration::from_secs(1);

/// An alarm where none is needed.
const FAR: Duration = Duration::from_secs(3600);
