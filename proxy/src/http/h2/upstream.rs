//! One connection to an endpoint: its task, its room for streams, its end.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use super::STREAM_WINDOW;
use super::conn::{Closed, Connection, Limits, Side};
use super::fields::RequestHead;
use super::frame::Code;
use super::pool::{Group, Lease};
use super::wire::{Stream, Wire};
use crate::error::ProxyError;
use crate::identity::{ALPN_H2, Hold};
use crate::io::Io;
use crate::link;
use crate::telemetry::{PoolClosed, Pooled, Spoken};

/// Most streams of ours at once on one connection, whatever more the peer allows.
const MAX_STREAMS: usize = 128;

/// A window for every stream: streams whose callers do not read cannot stop the others.
const CONNECTION_WINDOW: u32 = MAX_STREAMS as u32 * STREAM_WINDOW;

/// How old a connection becomes, give or take a quarter, so that load moves on to new instances.
const MAX_AGE: Duration = Duration::from_secs(20 * 60);

/// Resets that are sent at once; after them one every [`RESET_EVERY`]. Peers take a burst for an attack (CVE-2023-44487)
/// and end the connection for everyone on it.
const RESET_BURST: u32 = 16;

/// The pace of resets after a burst.
const RESET_EVERY: Duration = Duration::from_millis(1);

/// After so many resets a connection is replaced, because some peers count them over its whole life.
const RESETS_PER_CONNECTION: u32 = 500;

/// A connection as its streams see it.
pub(crate) struct Upstream {
    wire: Rc<Wire>,
    /// It takes no new stream, and ends with its last one.
    retired: Cell<bool>,
    streams: Cell<usize>,
    /// How far below the peer's limit this side stays, because the peer has refused streams within it.
    margin: Cell<usize>,
    resets: Cell<u32>,
    tokens: Cell<u32>,
    refilled: Cell<Instant>,
    /// Streams that were given up and whose reset is still to be sent.
    given_up: RefCell<VecDeque<(Stream, Lease)>>,
    counted: Pooled,
    /// What ends it, if something was proved on it.
    hold: Option<Arc<Hold>>,
}

/// Opens a connection and starts its task.
pub(crate) async fn dial(group: &Rc<Group>) -> Result<Rc<Upstream>, ProxyError> {
    let how = group.dial();
    let secure = how.secure.as_ref();
    let timeout = how.connect_timeout.get();
    let dialled =
        link::dial::connect(&how.shared, how.direction, group.address(), secure, ALPN_H2, timeout).await;
    how.metrics.dialled(dialled.is_ok());
    let io = dialled?;
    let hold = io.hold().cloned();
    let limits = Limits {
        stream_window: STREAM_WINDOW,
        window: CONNECTION_WINDOW,
        head_list: how.shared.config.max_head_bytes.min(u32::MAX as usize) as u32,
        ..Limits::default()
    };
    let upstream = Rc::new(Upstream {
        wire: Wire::new(Side::Client, limits),
        retired: Cell::new(false),
        streams: Cell::new(0),
        margin: Cell::new(0),
        resets: Cell::new(0),
        tokens: Cell::new(RESET_BURST),
        refilled: Cell::new(Instant::now()),
        given_up: RefCell::default(),
        counted: Pooled::open(Spoken::Http2),
        hold,
    });
    tokio::task::spawn_local(drive(group.clone(), upstream.clone(), io));
    Ok(upstream)
}

impl Upstream {
    /// Opens a stream. An error means that nothing of the request was sent.
    pub(crate) fn send(&self, request: &RequestHead, end: bool) -> Result<Stream, Closed> {
        if self.retired.get() { Err(Closed) } else { self.wire.open(request, end) }
    }

    /// Whether one more stream fits.
    pub(crate) fn has_room(&self) -> bool {
        self.streams.get() < self.most()
    }

    /// Most streams at once. One goes ahead of the peer's SETTINGS; more could be above a limit that these tell, and
    /// be refused.
    fn most(&self) -> usize {
        match self.allowed() {
            Some(allowed) => allowed.min(MAX_STREAMS) - self.margin.get().min(allowed / 2),
            None => 1,
        }
    }

    /// What the peer allows, once it has told.
    fn allowed(&self) -> Option<usize> {
        self.wire.ask(Connection::allowed).map(|allowed| allowed as usize)
    }

    /// A stream was refused unread. Whether that says more of the connection than of the stream: a peer with a limit
    /// may count a stream for a moment longer than its last frame needs to get here, and refuse the one that takes its
    /// place.
    pub(crate) fn was_crowded(&self) -> bool {
        let Some(allowed) = self.allowed() else { return true };
        if allowed <= MAX_STREAMS {
            self.margin.set((self.margin.get() + 1).min(allowed / 2));
        }
        allowed <= MAX_STREAMS
    }

    /// Whether the peer has told how many streams it allows.
    pub(crate) fn is_settled(&self) -> bool {
        self.allowed().is_some()
    }

    /// Whether what was proved on it is about to hold no more.
    fn is_leaving(&self) -> bool {
        self.hold.as_ref().is_some_and(|hold| hold.is_leaving())
    }

    /// Whether the connection still takes streams; false after GOAWAY or an error.
    pub(crate) fn is_usable(&self) -> bool {
        !self.retired.get() && !self.is_leaving() && self.wire.ask(Connection::is_usable)
    }

    /// Whether the connection has just ceased to take streams.
    fn has_gone_away(&self) -> bool {
        !self.retired.get() && !self.is_usable()
    }

    /// One stream more.
    pub(crate) fn enter(&self) {
        self.streams.set(self.streams.get() + 1);
        self.counted.begin();
    }

    /// One stream less.
    pub(crate) fn leave(&self) {
        self.streams.set(self.streams.get() - 1);
        if self.streams.get() == 0 {
            self.counted.rest();
        }
    }

    /// Takes no more streams, and ends with the last one.
    pub(crate) fn retire(&self) {
        self.retired.set(true);
        self.wire.leave();
    }

    /// Gives a stream up, now or as soon as the pace allows. Returns whether the connection has seen enough resets.
    pub(crate) fn cancel(&self, stream: Stream, lease: Lease) -> bool {
        self.resets.set(self.resets.get() + 1);
        if self.token(Instant::now()) {
            stream.reset(Code::CANCEL);
            drop((stream, lease));
        } else {
            self.given_up.borrow_mut().push_back((stream, lease));
            self.wire.wake();
        }
        self.resets.get() == RESETS_PER_CONNECTION
    }

    fn token(&self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.refilled.get()).as_millis() / RESET_EVERY.as_millis();
        if earned > 0 {
            self.tokens.set(RESET_BURST.min(self.tokens.get().saturating_add(earned.min(1000) as u32)));
            self.refilled.set(now);
        }
        let left = self.tokens.get();
        self.tokens.set(left.saturating_sub(1));
        left > 0
    }

    /// Sends the resets that are due; returns when the next one is.
    fn reset_paced(&self, now: Instant) -> Option<Instant> {
        loop {
            if self.given_up.borrow().is_empty() {
                return None;
            }
            if !self.token(now) {
                return Some(now + RESET_EVERY);
            }
            let next = self.given_up.borrow_mut().pop_front();
            if let Some((stream, lease)) = next {
                stream.reset(Code::CANCEL);
                drop((stream, lease));
            }
        }
    }
}

/// Runs a connection until it ends.
async fn drive(group: Rc<Group>, upstream: Rc<Upstream>, mut io: Io) {
    let old_at = Instant::now() + MAX_AGE.mul_f64(0.75 + fastrand::f64() / 2.0);
    let mut idle_since = Some(Instant::now());
    let mut timer = pin!(tokio::time::sleep(group.dial().connect_timeout.get()));
    let mut told = None;
    let mut noticed = false;
    let ended = poll_fn(|cx| {
        let any_given_up = !upstream.given_up.borrow().is_empty();
        let paced = if any_given_up { upstream.reset_paced(Instant::now()) } else { None };
        let ended = upstream.wire.poll(&mut io, cx);
        // Where no stream is open, the goodbye is the end.
        if upstream.wire.ask(Connection::is_peer_draining) && !std::mem::replace(&mut noticed, true) {
            group.endpoint_drains();
        }
        if ended.is_ready() {
            return ended;
        }
        if upstream.is_leaving() && !upstream.retired.get() {
            upstream.counted.closes(PoolClosed::Unproven);
            group.retire(&upstream);
            group.serve();
        }
        // Who waits for room on it would wait until its streams end.
        if group.is_awaited() && upstream.has_gone_away() {
            group.retire(&upstream);
            group.serve();
        }
        let allowed = upstream.allowed();
        if allowed != told {
            told = allowed;
            group.serve();
        }
        if upstream.streams.get() > 0 {
            idle_since = None;
        }
        if let Some(at) = paced {
            arm(timer.as_mut(), at);
        }
        while timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let since = match upstream.streams.get() {
                0 => *idle_since.get_or_insert(now),
                _ => now,
            };
            let close_at = (since + group.dial().keep_alive.get()).min(old_at);
            if close_at <= now || !upstream.is_settled() {
                upstream.counted.closes(PoolClosed::Expired);
                group.retire(&upstream);
                group.serve();
                // What is left is to wait for the last stream, which wakes this task.
                arm(timer.as_mut(), now + Duration::from_secs(3600));
            } else {
                let paced = upstream.reset_paced(now);
                arm(timer.as_mut(), paced.unwrap_or(close_at).min(close_at));
            }
        }
        Poll::Pending
    })
    .await;
    if let Some(fault) = ended {
        super::count_fault("endpoint", fault, &group.address());
    }
    drop(io);
    upstream.counted.closes(PoolClosed::Upstream);
    group.retire(&upstream);
    let given_up = std::mem::take(&mut *upstream.given_up.borrow_mut());
    drop(given_up);
    group.serve();
    group.leave_if_unused();
}

fn arm(mut timer: Pin<&mut Sleep>, at: Instant) {
    if timer.deadline().into_std() != at {
        timer.as_mut().reset(at.into());
    }
}
