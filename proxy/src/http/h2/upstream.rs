//! One connection to an endpoint: its task, its room for streams, its end.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use http::Request;
use tokio::time::Sleep;

use super::pool::{Group, Lease};
use super::{SEND_BUFFER, STREAM_WINDOW};
use crate::error::{Cause, ProxyError};
use crate::http::stream::{Awaited, Sink, Source};
use crate::identity::ALPN_H2;
use crate::io::Io;
use crate::link;
use crate::telemetry::{PoolClosed, Pooled, Spoken};

/// Most streams of ours at once on one connection, whatever more the peer allows.
const MAX_STREAMS: usize = 128;

/// Stands for a limit that the peer has not yet told: no peer can say this number.
const UNTOLD: usize = usize::MAX - 1;

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
    /// `None`: no new stream; `h2` ends the connection with its last one.
    send: RefCell<Option<SendRequest<Bytes>>>,
    streams: Cell<usize>,
    /// What the peer allows.
    allowed: Cell<usize>,
    /// How far below that limit this side stays, because the peer has refused streams within its limit.
    margin: Cell<usize>,
    resets: Cell<u32>,
    tokens: Cell<u32>,
    refilled: Cell<Instant>,
    /// Streams that were given up and whose reset is still to be sent.
    given_up: RefCell<VecDeque<(Handles, Lease)>>,
    driver: RefCell<Option<Waker>>,
    counted: Pooled,
}

/// What keeps a stream open.
pub(crate) struct Handles {
    /// Towards the endpoint.
    pub(crate) send: Option<Sink>,
    /// The answer that has not come.
    pub(crate) response: Option<Awaited>,
    /// The answer's body.
    pub(crate) body: Option<Source>,
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
    let failed = |_| {
        ProxyError::new(Cause::UpstreamClosed, "the HTTP/2 preface could not be sent").at(group.address())
    };
    let (send, connection) = h2::client::Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(how.shared.config.max_head_bytes.min(u32::MAX as usize) as u32)
        .initial_max_send_streams(UNTOLD)
        .max_concurrent_reset_streams(MAX_STREAMS)
        .handshake(io)
        .await
        .map_err(failed)?;
    let upstream = Rc::new(Upstream {
        send: RefCell::new(Some(send)),
        streams: Cell::new(0),
        allowed: Cell::new(UNTOLD),
        margin: Cell::new(0),
        resets: Cell::new(0),
        tokens: Cell::new(RESET_BURST),
        refilled: Cell::new(Instant::now()),
        given_up: RefCell::default(),
        driver: RefCell::default(),
        counted: Pooled::open(Spoken::Http2),
    });
    tokio::task::spawn_local(drive(group.clone(), upstream.clone(), connection));
    Ok(upstream)
}

impl Upstream {
    /// Opens a stream. An error means that nothing of the request was sent.
    pub(crate) fn send(&self, request: Request<()>, end: bool) -> Result<(Awaited, Sink), Option<h2::Error>> {
        let mut send = self.send.borrow_mut();
        let send = send.as_mut().ok_or(None)?;
        let (answer, sink) = send.send_request(request, end).map_err(Some)?;
        Ok((Awaited::Http2(answer), Sink::Http2(sink)))
    }

    /// Whether one more stream fits.
    pub(crate) fn has_room(&self) -> bool {
        self.streams.get() < self.most()
    }

    /// Most streams at once. One goes ahead of the peer's SETTINGS; more could be above a limit that these tell, and
    /// be refused.
    fn most(&self) -> usize {
        if self.is_settled() { self.allowed.get().min(MAX_STREAMS) - self.margin.get() } else { 1 }
    }

    /// A stream was refused unread. Whether that says more of the connection than of the stream: a peer with a limit
    /// may count a stream for a moment longer than its last frame needs to get here, and refuse the one that takes its
    /// place.
    pub(crate) fn was_crowded(&self) -> bool {
        let allowed = self.allowed.get();
        if allowed <= MAX_STREAMS {
            self.margin.set((self.margin.get() + 1).min(allowed / 2));
        }
        allowed <= MAX_STREAMS || !self.is_settled()
    }

    /// Whether the peer has told how many streams it allows.
    pub(crate) fn is_settled(&self) -> bool {
        self.allowed.get() != UNTOLD
    }

    /// Whether the connection still takes streams; false after GOAWAY or an error.
    pub(crate) fn is_usable(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        match &mut *self.send.borrow_mut() {
            Some(send) => !matches!(send.poll_ready(&mut cx), Poll::Ready(Err(_))),
            None => false,
        }
    }

    /// Whether the connection has just ceased to take streams.
    fn has_gone_away(&self) -> bool {
        self.send.borrow().is_some() && !self.is_usable()
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
        // Dropping the handle may wake the driver; the borrow must not last that long.
        let send = self.send.borrow_mut().take();
        drop(send);
        self.wake();
    }

    /// Gives a stream up, now or as soon as the pace allows. Returns whether the connection has seen enough resets.
    pub(crate) fn cancel(&self, handles: Handles, lease: Lease) -> bool {
        self.resets.set(self.resets.get() + 1);
        if self.token(Instant::now()) {
            handles.reset();
            drop(lease);
        } else {
            self.given_up.borrow_mut().push_back((handles, lease));
            self.wake();
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

    fn wake(&self) {
        if let Some(driver) = &*self.driver.borrow() {
            driver.wake_by_ref();
        }
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
            if let Some((handles, lease)) = next {
                handles.reset();
                drop(lease);
            }
        }
    }
}

impl Handles {
    pub(super) fn reset(self) {
        if let Some(mut send) = self.send {
            send.cancel();
        }
        drop(self.response);
        drop(self.body);
    }
}

/// Runs a connection until it ends.
async fn drive(group: Rc<Group>, upstream: Rc<Upstream>, mut connection: Connection<Io, Bytes>) {
    let old_at = Instant::now() + MAX_AGE.mul_f64(0.75 + fastrand::f64() / 2.0);
    let mut idle_since = Some(Instant::now());
    let mut timer = pin!(tokio::time::sleep(group.dial().connect_timeout.get()));
    let ended = poll_fn(|cx| {
        remember(&upstream.driver, cx);
        let any_given_up = !upstream.given_up.borrow().is_empty();
        let paced = if any_given_up { upstream.reset_paced(Instant::now()) } else { None };
        if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
            return Poll::Ready(ended);
        }
        // Who waits for room on it would wait until its streams end.
        if group.is_awaited() && upstream.has_gone_away() {
            group.retire(&upstream);
            group.serve();
        }
        let allowed = connection.max_concurrent_send_streams();
        if allowed != upstream.allowed.get() {
            upstream.allowed.set(allowed);
            upstream.margin.set(upstream.margin.get().min(allowed / 2));
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
                // What is left is to wait for the last stream; `h2` wakes this task then.
                arm(timer.as_mut(), now + Duration::from_secs(3600));
            } else {
                let paced = upstream.reset_paced(now);
                arm(timer.as_mut(), paced.unwrap_or(close_at).min(close_at));
            }
        }
        Poll::Pending
    })
    .await;
    if let Err(error) = ended {
        tracing::debug!(%error, upstream = %group.address(), "an HTTP/2 connection ended");
    }
    drop(connection);
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

fn remember(place: &RefCell<Option<Waker>>, cx: &Context<'_>) {
    let mut place = place.borrow_mut();
    match &mut *place {
        Some(known) => known.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}
