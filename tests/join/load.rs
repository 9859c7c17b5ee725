//! Clients that never rest, to whom no answer may be missing.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::support::raw::{Body, Peer};
use crate::support::wait_until;

/// Clients of a service, each of which sends one request after the other and keeps its connection while it may, for a
/// while.
pub struct Load {
    counts: Arc<Counts>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Counts {
    over: AtomicBool,
    answered: AtomicU64,
    /// The highest number of a push that an answer carried.
    push: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Load {
    /// Starts clients at these doors, the sidecars of the callers' replicas: where one takes no connection, the next is
    /// tried, as nothing was asked yet.
    pub fn start(doors: &[SocketAddr], clients: usize) -> Self {
        Self::asking("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n", doors, clients)
    }

    /// The same with a request of their own.
    pub fn asking(request: &str, doors: &[SocketAddr], clients: usize) -> Self {
        let counts = Arc::new(Counts::default());
        let start = |at: usize| {
            let (counts, doors, request) = (counts.clone(), doors.to_vec(), request.to_owned());
            std::thread::spawn(move || counts.work(&request, &doors, at))
        };
        let clients = (0..clients).map(start).collect();
        Load { counts, clients }
    }

    /// Requests that were answered as they should be.
    pub fn answered(&self) -> u64 {
        self.counts.answered.load(Ordering::Relaxed)
    }

    /// Waits until so many more are.
    pub fn more(&self, count: u64) {
        let until = self.answered() + count;
        wait_until("requests are answered", || self.answered() >= until || self.has_failed());
    }

    /// The newest push that answers tell of, in `x-push`.
    pub fn push(&self) -> u64 {
        self.counts.push.load(Ordering::Relaxed)
    }

    /// Ends it; gives how many requests there were. Fails if one of them did.
    pub fn end(self) -> u64 {
        self.counts.over.store(true, Ordering::Relaxed);
        self.clients.into_iter().for_each(|client| client.join().unwrap());
        let failures = self.counts.failures.lock().unwrap();
        assert!(failures.is_empty(), "{} requests failed: {failures:#?}", failures.len());
        self.counts.answered.load(Ordering::Relaxed)
    }

    fn has_failed(&self) -> bool {
        !self.counts.failures.lock().unwrap().is_empty()
    }
}

impl Counts {
    fn work(&self, request: &str, doors: &[SocketAddr], at: usize) {
        let mut kept = None;
        for number in 1.. {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            let mut peer = match kept.take() {
                Some(peer) => peer,
                None => match doors.iter().cycle().skip(at).take(doors.len()).find_map(open) {
                    Some(peer) => peer,
                    None => return self.fail("no door is open".into()),
                },
            };
            if !peer.try_send(request) {
                return self.fail("a kept connection is closed".into());
            }
            let Some(head) = peer.head() else { return self.fail("a request has no answer".into()) };
            let body = peer.body(&head);
            if head.status() != 200 || !matches!(&body, Body::Whole(body) if !body.is_empty()) {
                return self.fail(format!("{head:?} {body:?}"));
            }
            if let Some(push) = head.get("x-push") {
                self.push.fetch_max(push.parse().unwrap(), Ordering::Relaxed);
            }
            self.answered.fetch_add(1, Ordering::Relaxed);
            if number % REQUESTS_A_CONNECTION != 0 && !head.has("connection", "close") {
                kept = Some(peer);
            }
        }
    }

    fn fail(&self, why: String) {
        self.failures.lock().unwrap().push(why);
    }
}

fn open(door: &SocketAddr) -> Option<Peer> {
    TcpStream::connect_timeout(door, Duration::from_secs(5)).ok().map(Peer::over)
}

/// So that whoever was away is found again by those who went elsewhere.
const REQUESTS_A_CONNECTION: u64 = 50;
