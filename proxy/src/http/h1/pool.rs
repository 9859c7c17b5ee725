//! Kept connections of one worker, by endpoint: last in, first out.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::poll_fn;
use std::hash::{BuildHasherDefault, Hasher};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use lighter_config::snapshot::TrafficPolicy;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

use crate::io::Io;
use crate::telemetry::{PoolClosed, Pooled, Spoken};
use crate::worker::Worker;

/// Longest life of a connection to an endpoint, before jitter: long enough to cost nothing, short enough that load
/// moves to new endpoints.
const MAX_AGE: Duration = Duration::from_secs(600);

/// How often connections that nobody takes are looked after.
const SWEEP: Duration = Duration::from_secs(5);

/// An open connection to an endpoint.
#[derive(Debug)]
pub struct Upstream {
    /// The connection.
    pub io: Io,
    /// No exchange begins on it after this.
    pub retires: Instant,
    /// Whether it has carried an exchange before.
    pub reused: bool,
    /// None: it is a stream of a link, which is counted there.
    counted: Option<Pooled>,
}

impl Upstream {
    /// A connection that was just made.
    pub fn new(io: Io, now: Instant) -> Self {
        // Jittered, so that connections made together do not all end together.
        let age = MAX_AGE.mul_f64(0.75 + fastrand::f64() / 4.0);
        let counted = Pooled::open(Spoken::Http1);
        counted.begin();
        Upstream { io, retires: now + age, reused: false, counted: Some(counted) }
    }

    /// A stream of a link. It carries one exchange and is not kept.
    pub(crate) fn stream(io: Io, now: Instant) -> Self {
        Upstream { io, retires: now, reused: false, counted: None }
    }

    /// Whether what was proved on it is about to hold no more.
    fn is_leaving(&self) -> bool {
        self.io.hold().is_some_and(|hold| hold.is_leaving())
    }

    fn closes(&self, why: PoolClosed) {
        self.counted.iter().for_each(|counted| counted.closes(why));
    }
}

/// Kept connections of one worker, by endpoint.
#[derive(Default)]
pub struct Pool {
    by_endpoint: HashMap<u32, Vec<Kept>, BuildHasherDefault<IdHasher>>,
    kept: usize,
    /// Memory or descriptors run short: none is kept.
    pressed: bool,
    /// Whether a task looks after the connections that nobody takes.
    swept: bool,
}

struct Kept {
    upstream: Upstream,
    /// When it has rested for too long.
    until: Instant,
}

impl Pool {
    /// Takes the connection that was used last. Connections that the endpoint has closed in the meantime, or on which
    /// it has said something unasked, are dropped on the way.
    pub fn take(&mut self, endpoint: u32, now: Instant, cx: &mut Context<'_>) -> Option<Upstream> {
        let kept = self.by_endpoint.get_mut(&endpoint)?;
        while let Some(Kept { mut upstream, until }) = kept.pop() {
            self.kept -= 1;
            if is_fit(&mut upstream, until, now, cx) {
                upstream.reused = true;
                upstream.counted.iter().for_each(Pooled::begin);
                return Some(upstream);
            }
        }
        None
    }

    /// Keeps a connection of `worker` whose last exchange has ended well, as long as `policy` says.
    pub fn keep(
        worker: &Rc<Worker>,
        endpoint: u32,
        upstream: Upstream,
        policy: &TrafficPolicy,
        now: Instant,
    ) {
        let mut pool = worker.http1.borrow_mut();
        pool.put(endpoint, upstream, policy.keep_alive, policy.max_idle_connections, now);
        if !std::mem::replace(&mut pool.swept, true) {
            tokio::task::spawn_local(sweep(Rc::downgrade(worker)));
        }
    }

    fn put(&mut self, endpoint: u32, upstream: Upstream, rest: Duration, most: u32, now: Instant) {
        let kept = match self.by_endpoint.entry(endpoint) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Vec::new()),
        };
        if now >= upstream.retires {
            upstream.closes(PoolClosed::Expired);
        } else if upstream.is_leaving() {
            upstream.closes(PoolClosed::Unproven);
        } else if self.pressed {
            upstream.closes(PoolClosed::Pressed);
        } else if kept.len() >= most as usize {
            upstream.closes(PoolClosed::Full);
        } else {
            upstream.counted.iter().for_each(Pooled::rest);
            kept.push(Kept { upstream, until: now + rest });
            self.kept += 1;
        }
    }

    /// Drops what nobody should take any more.
    fn sweep(&mut self, now: Instant, cx: &mut Context<'_>) {
        self.by_endpoint.retain(|_, kept| {
            let before = kept.len();
            kept.retain_mut(|kept| is_fit(&mut kept.upstream, kept.until, now, cx));
            self.kept -= before - kept.len();
            !kept.is_empty()
        });
    }

    /// Whether memory or descriptors run short: then no connection is kept.
    pub(crate) fn press(&mut self, pressed: bool) {
        self.pressed = pressed;
    }

    /// Drops every connection.
    pub(crate) fn clear(&mut self, why: PoolClosed) {
        for kept in self.by_endpoint.values().flatten() {
            kept.upstream.closes(why);
        }
        self.by_endpoint.clear();
        self.kept = 0;
    }

    /// How many connections are kept.
    pub fn len(&self) -> usize {
        self.kept
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.kept == 0
    }
}

/// Whether an exchange may begin on a connection that rested; says why if not.
fn is_fit(upstream: &mut Upstream, until: Instant, now: Instant, cx: &mut Context<'_>) -> bool {
    if now >= until || now >= upstream.retires {
        upstream.closes(PoolClosed::Expired);
        return false;
    }
    if upstream.is_leaving() {
        upstream.closes(PoolClosed::Unproven);
        return false;
    }
    let quiet = is_quiet(&mut upstream.io, cx);
    if !quiet {
        upstream.closes(PoolClosed::Upstream);
    }
    quiet
}

/// Closes kept connections that nobody takes, until there are none.
async fn sweep(worker: Weak<Worker>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(worker) = worker.upgrade() else { return };
        let now = Instant::now();
        let done = poll_fn(|cx| {
            let mut pool = worker.http1.borrow_mut();
            pool.sweep(now, cx);
            pool.swept = !pool.is_empty();
            Poll::Ready(!pool.swept)
        });
        if done.await {
            return;
        }
    }
}

/// Whether nothing came on a connection that rests: no end, no error, no byte. Costs a system call only where the
/// runtime has seen an event.
/// The task is woken when something comes.
pub(super) fn is_quiet(io: &mut Io, cx: &mut Context<'_>) -> bool {
    let Some(tcp) = io.stream.plain() else {
        // What TLS itself has to say is nothing of the endpoint's: a read takes it in.
        return Pin::new(io).poll_read(cx, &mut ReadBuf::new(&mut [0; 1])).is_pending();
    };
    while tcp.poll_read_ready(cx).is_ready() {
        // Readiness may be left over from what was read before.
        match tcp.try_read(&mut [0; 1]) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            _ => return false,
        }
    }
    true
}

/// Endpoint ids are small and distinct: one multiplication spreads them well enough.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
