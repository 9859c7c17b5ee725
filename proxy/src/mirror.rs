//! Copies of requests for other Services, of whose answers nobody hears.
//!
//! A copy is gathered beside the request, as far as that is passed on, and sent once the request is whole: by the engine
//! that serves every client of HTTP/1, as a request of a client that asks once and reads nothing. So it is balanced, secured
//! and counted as all others are, and the request itself waits for nothing of it.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lighter_config::snapshot::Protocol;
use lighter_filters::RequestHead;

use crate::http::{Context, Scope, serve_http1};
use crate::io::Io;
use crate::mesh::{Destination, RouteState, Target};
use crate::telemetry::{Direction, Mirrored, RouteMetrics};
use crate::worker::Worker;

/// A copy in the making, for each Service that gets one.
pub(crate) struct Copy {
    worker: Rc<Worker>,
    metrics: Arc<RouteMetrics>,
    to: Vec<Arc<Destination>>,
    /// The head but for what says where the body ends.
    head: Vec<u8>,
    body: Vec<u8>,
    /// The body comes with its chunks.
    chunked: bool,
    place: Rc<Place>,
}

impl Copy {
    /// Begins the copies of a request that are ordered; none: there are none to be made. `chunked`: what is added of the
    /// body comes with its chunks.
    #[inline]
    pub(crate) fn begin(
        worker: &Rc<Worker>,
        state: &RouteState,
        head: &RequestHead<'_>,
        chunked: bool,
    ) -> Option<Box<Self>> {
        (head.orders.mirrors != 0).then(|| Self::ordered(worker, state, head, chunked)).flatten()
    }

    #[cold]
    fn ordered(
        worker: &Rc<Worker>,
        state: &RouteState,
        head: &RequestHead<'_>,
        chunked: bool,
    ) -> Option<Box<Self>> {
        let ordered = |at: usize| head.orders.mirrors.checked_shr(at as u32).unwrap_or_default() & 1 == 1;
        let to = state.mirrors.iter().enumerate().filter(|(at, _)| ordered(*at));
        let to: Vec<_> = to.filter_map(|(_, mirror)| mirror.clone()).collect();
        if to.is_empty() {
            return None;
        }
        let metrics = state.metrics.clone();
        if head.facts.body.is_some_and(|length| length > MOST_BODY as u64) {
            metrics.mirrored(Mirrored::TooLarge, to.len());
            return None;
        }
        let Some(place) = Place::take(to.len()) else {
            metrics.mirrored(Mirrored::Busy, to.len());
            return None;
        };
        let (head, body, worker) = (written(head), Vec::new(), worker.clone());
        Some(Box::new(Copy { worker, metrics, to, head, body, chunked, place: Rc::new(place) }))
    }

    /// The request is whole.
    fn send(mut self) {
        let end = match self.chunked {
            true => b"transfer-encoding: chunked\r\n\r\n".to_vec(),
            false => format!("content-length: {}\r\n\r\n", self.body.len()).into_bytes(),
        };
        self.head.extend_from_slice(&end);
        self.head.append(&mut self.body);
        let bytes = Bytes::from(self.head);
        self.metrics.mirrored(Mirrored::Sent, self.to.len());
        for destination in self.to {
            let served = serve(self.worker.clone(), destination, bytes.clone());
            let place = self.place.clone();
            tokio::task::spawn_local(async move {
                let _ = tokio::time::timeout(LONGEST, served).await;
                drop(place);
            });
        }
    }
}

/// Adds what comes next of a request's body to the copy that is made of it, if one is.
#[inline]
pub(crate) fn add(copy: &mut Option<Box<Copy>>, bytes: &[u8]) {
    if let Some(gathered) = copy {
        if gathered.body.len() + bytes.len() <= MOST_BODY {
            gathered.body.extend_from_slice(bytes);
        } else {
            gathered.metrics.mirrored(Mirrored::TooLarge, gathered.to.len());
            *copy = None;
        }
    }
}

/// Forgets what was gathered: the request is read anew from its beginning.
#[inline]
pub(crate) fn restart(copy: &mut Option<Box<Copy>>) {
    if let Some(gathered) = copy {
        gathered.body.clear();
    }
}

/// The request is whole: the copy that was made of it goes its way, if one was.
#[inline]
pub(crate) fn send(copy: &mut Option<Box<Copy>>) {
    if let Some(copy) = copy.take() {
        copy.send();
    }
}

/// Room for so many copies of this worker, from the first byte of a request to the end of what is made of it.
struct Place(usize);

thread_local! {
    static TAKEN: Cell<usize> = const { Cell::new(0) };
}

impl Place {
    fn take(copies: usize) -> Option<Self> {
        let taken = TAKEN.get() + copies;
        (taken <= MOST_COPIES).then(|| {
            TAKEN.set(taken);
            Place(copies)
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Nothing is counted any more once the thread ends.
        let _ = TAKEN.try_with(|taken| taken.set(taken.get() - self.0));
    }
}

fn serve(
    worker: Rc<Worker>,
    destination: Arc<Destination>,
    request: Bytes,
) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    let upstream = match destination.protocol() {
        spoken @ (Protocol::Http | Protocol::Http2 | Protocol::Grpc) => Some(spoken),
        Protocol::Auto | Protocol::Tls | Protocol::Tcp | Protocol::Redis => None,
    };
    let context = Context {
        direction: Direction::Outbound,
        scope: Scope::Fixed(Target { lasting: true, ..Target::of(destination) }),
        peer: ([0, 0, 0, 0], 0).into(),
        caller: None,
        caller_text: None,
        ticket: worker.connections.enter(),
        upstream,
        worker,
    };
    serve_http1(Io::of_nobody(request), context)
}

/// A head in HTTP/1, but for what says where the body ends.
fn written(head: &RequestHead<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    let mut put = |parts: &[&[u8]]| parts.iter().for_each(|part| out.extend_from_slice(part));
    put(&[&head.method, b" ", &head.target, b" HTTP/1.1\r\nhost: ", &head.authority, b"\r\n"]);
    for (name, value) in &head.fields {
        let frames = [&b"content-length"[..], b"transfer-encoding", b"connection", b"expect", b"host"];
        if !frames.iter().any(|frames| name.eq_ignore_ascii_case(frames)) {
            put(&[name, b": ", value, b"\r\n"]);
        }
    }
    put(&[b"connection: close\r\n"]);
    out
}

/// Most bytes of a body that are copied.
const MOST_BODY: usize = 64 * 1024;

/// Most copies of one worker at a time. What comes meanwhile is not copied.
const MOST_COPIES: usize = 256;

/// How long a copy may take, answer included.
const LONGEST: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::time::Instant;

    use lighter_filters::{Facts, Orders};

    use super::*;

    #[test]
    fn there_is_room_for_so_many_copies_and_no_more() {
        let all = Place::take(MOST_COPIES).unwrap();
        assert!(Place::take(1).is_none());
        drop(all);
        let some = Place::take(MOST_COPIES - 1).unwrap();
        assert!(Place::take(2).is_none() && Place::take(1).is_some());
        drop(some);
        assert_eq!(TAKEN.get(), 0);
    }

    #[test]
    fn a_copy_says_itself_where_it_ends() {
        let pair = |name: &'static str, value: &'static str| {
            (Cow::Borrowed(name.as_bytes()), Cow::Borrowed(value.as_bytes()))
        };
        let head = RequestHead {
            method: Cow::Borrowed(b"POST"),
            scheme: "http",
            target: Cow::Borrowed(b"/a?b"),
            authority: Cow::Borrowed(b"shop"),
            fields: [pair("X-A", "1"), pair("Content-Length", "7"), pair("expect", "100-continue")]
                .into_iter()
                .collect(),
            facts: Facts { caller: "", grpc: false, body: None, now: Instant::now(), dice: || 0 },
            orders: Orders::default(),
        };
        let expected = "POST /a?b HTTP/1.1\r\nhost: shop\r\nX-A: 1\r\nconnection: close\r\n";
        assert_eq!(String::from_utf8_lossy(&written(&head)), expected);
    }
}
