//! Clients at a fixed rate that know what HTTP lets a client know, and count everything else as a failure: a request that
//! the other side says it never took is asked again, a kept connection that is closed under a request is not.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet, spawn_local};
use tokio::time::{Instant, sleep_until, timeout};

use crate::support::{PATIENCE, wait_until};

/// How much is asked for.
#[derive(Clone, Copy)]
pub struct Rate {
    /// Requests a second over HTTP/1.1 and HTTP/2, half of them each.
    pub requests: u32,
    /// gRPC streams at a time. Each sends a message ten times a second.
    pub streams: u32,
}

/// Clients of one door.
pub struct Load {
    rate: Rate,
    counts: Arc<Counts>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    over: AtomicBool,
    http1: AtomicU64,
    http2: AtomicU64,
    streams: AtomicU64,
    /// Never taken by the other side, as that said itself, and asked again.
    refused: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Load {
    pub fn start(door: SocketAddr, rate: Rate) -> Self {
        let counts = Arc::new(Counts::default());
        let told = counts.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            LocalSet::new().block_on(&runtime, clients(told, door, rate));
        });
        Load { rate, counts, thread }
    }

    /// Waits until so many more requests, and a stream if there are any, are answered.
    pub fn more(&self, requests: u64) {
        let more_streams = u64::from(self.rate.streams > 0);
        let (asked, streams) = (self.requests() + requests, self.counts.streams.load(Relaxed) + more_streams);
        wait_until("requests and streams are answered", || {
            self.has_failed() || self.requests() >= asked && self.counts.streams.load(Relaxed) >= streams
        });
        assert!(!self.has_failed(), "{:#?}", self.counts.failures.lock().unwrap());
    }

    /// Ends it, and says what was answered. Fails if a request failed.
    pub fn end(self) -> String {
        self.counts.over.store(true, Relaxed);
        self.thread.join().unwrap();
        let failures = self.counts.failures.lock().unwrap();
        assert!(failures.is_empty(), "{} failed: {failures:#?}", failures.len());
        let Counts { http1, http2, streams, refused, .. } = &*self.counts;
        let [http1, http2, streams, refused] =
            [http1, http2, streams, refused].map(|count| count.load(Relaxed));
        format!(
            "{http1} requests over HTTP/1.1, {http2} over HTTP/2 and {streams} gRPC streams answered; {refused} that were not \
             taken were asked again"
        )
    }

    fn requests(&self) -> u64 {
        self.counts.http1.load(Relaxed) + self.counts.http2.load(Relaxed)
    }

    fn has_failed(&self) -> bool {
        !self.counts.failures.lock().unwrap().is_empty()
    }
}

impl Counts {
    fn fail(&self, what: &str, why: impl Display) {
        self.failures.lock().unwrap().push(format!("{what}: {why}"));
    }

    fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }
}

async fn clients(counts: Arc<Counts>, door: SocketAddr, rate: Rate) {
    let every = Duration::from_secs(1) * 2 * KEPT / rate.requests;
    let mut clients = JoinSet::new();
    for _ in 0..KEPT {
        clients.spawn_local(http1(counts.clone(), door, every));
        let connection = Rc::new(Connection::new(door));
        clients.spawn_local(http2(counts.clone(), connection.clone(), every));
    }
    let connection = Rc::new(Connection::new(door));
    for _ in 0..rate.streams {
        clients.spawn_local(streams(counts.clone(), connection.clone()));
    }
    while clients.join_next().await.is_some() {}
}

/// One kept connection: a request at a time.
async fn http1(counts: Arc<Counts>, door: SocketAddr, every: Duration) {
    let mut next = Instant::now();
    let mut kept = None;
    while !counts.is_over() {
        sleep_until(next).await;
        next += every;
        match timeout(PATIENCE, get(door, &mut kept)).await {
            Ok(Ok(())) => drop(counts.http1.fetch_add(1, Relaxed)),
            Ok(Err(why)) => counts.fail("HTTP/1.1", why),
            Err(_) => counts.fail("HTTP/1.1", "no answer"),
        }
    }
}

async fn get(door: SocketAddr, kept: &mut Option<TcpStream>) -> Result<(), String> {
    let reused = kept.is_some();
    let said =
        |what: &'static str| move |error: std::io::Error| format!("{what} (reused: {reused}): {error}");
    let mut tcp = match kept.take() {
        Some(tcp) => tcp,
        None => {
            let tcp = TcpStream::connect(door).await.map_err(said("connect"))?;
            tcp.set_nodelay(true).unwrap();
            tcp
        }
    };
    tcp.write_all(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await.map_err(said("send"))?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\ndone") {
        if tcp.read_buf(&mut answer).await.map_err(said("read"))? == 0 {
            return Err(format!("cut (reused: {reused}) after {:?}", String::from_utf8_lossy(&answer)));
        }
    }
    let head = String::from_utf8_lossy(&answer).to_ascii_lowercase();
    if !head.starts_with("http/1.1 200 ") {
        return Err(head);
    }
    if !head.contains("\r\nconnection: close\r\n") {
        *kept = Some(tcp);
    }
    Ok(())
}

/// A connection of HTTP/2, made anew when it is to be left.
pub struct Connection {
    door: SocketAddr,
    client: RefCell<Option<SendRequest<Bytes>>>,
    /// How many requests were refused, one after the other, since one was answered.
    refused: Rc<Cell<u32>>,
}

impl Connection {
    pub fn new(door: SocketAddr) -> Self {
        Connection { door, client: RefCell::default(), refused: Rc::default() }
    }

    async fn ready(&self) -> Result<SendRequest<Bytes>, String> {
        let known = self.client.borrow().clone();
        if let Some(known) = known
            && let Ok(ready) = known.ready().await
        {
            return Ok(ready);
        }
        let tcp = TcpStream::connect(self.door).await.map_err(|error| format!("connect: {error}"))?;
        tcp.set_nodelay(true).unwrap();
        let (client, connection) =
            h2::client::handshake(tcp).await.map_err(|error| format!("handshake: {error}"))?;
        spawn_local(connection);
        let client = client.ready().await.map_err(|error| format!("a new connection: {error}"))?;
        *self.client.borrow_mut() = Some(client.clone());
        Ok(client)
    }

    /// Sends what `request` makes until it is taken, and counts how often it was not. A server that leaves says what it has
    /// not taken; one that takes nothing at all any more is not asked for ever.
    pub async fn ask(
        &self,
        refused: &AtomicU64,
        end: bool,
        request: impl Fn() -> Request<()>,
    ) -> Result<(impl Future<Output = Result<Response<RecvStream>, h2::Error>>, SendStream<Bytes>), String>
    {
        while self.refused.get() < MOST_REFUSED {
            match self.ready().await?.send_request(request(), end) {
                Ok((answer, up)) => return Ok((hears(answer, self.refused.clone()), up)),
                Err(error) if is_refused(&error) => {
                    self.refused.update(|count| count + 1);
                    refused.fetch_add(1, Relaxed);
                }
                Err(error) => return Err(format!("send: {error}")),
            }
        }
        Err(format!("{MOST_REFUSED} requests were refused, and none was answered"))
    }
}

/// An answer, which says whether there is any use in asking again.
async fn hears(answer: ResponseFuture, refused: Rc<Cell<u32>>) -> Result<Response<RecvStream>, h2::Error> {
    let said = answer.await;
    match &said {
        Err(error) if is_refused(error) => refused.update(|count| count + 1),
        _ => refused.set(0),
    }
    said
}

/// Whether the other side says that it has not taken it.
pub fn is_refused(error: &h2::Error) -> bool {
    let reason = error.reason();
    error.is_remote() && (error.is_go_away() && reason == Some(Reason::NO_ERROR))
        || reason == Some(Reason::REFUSED_STREAM)
}

async fn http2(counts: Arc<Counts>, connection: Rc<Connection>, every: Duration) {
    let mut next = Instant::now();
    let mut open = JoinSet::new();
    while !counts.is_over() {
        sleep_until(next).await;
        next += every;
        let (counts, connection) = (counts.clone(), connection.clone());
        open.spawn_local(async move {
            match timeout(PATIENCE, get2(&counts, &connection)).await {
                Ok(Ok(())) => drop(counts.http2.fetch_add(1, Relaxed)),
                Ok(Err(why)) => counts.fail("HTTP/2", why),
                Err(_) => counts.fail("HTTP/2", "no answer"),
            }
        });
        while open.try_join_next().is_some() {}
    }
    while open.join_next().await.is_some() {}
}

async fn get2(counts: &Counts, connection: &Connection) -> Result<(), String> {
    loop {
        let request = || Request::get("http://shop/").body(()).unwrap();
        let (answer, _) = connection.ask(&counts.refused, true, request).await?;
        let (head, mut body) = match answer.await {
            Ok(answer) => answer.into_parts(),
            Err(error) if is_refused(&error) => {
                counts.refused.fetch_add(1, Relaxed);
                continue;
            }
            Err(error) => return Err(format!("no answer: {error}")),
        };
        let mut whole = Vec::new();
        while let Some(data) = body.data().await {
            whole.extend(data.map_err(|error| format!("cut: {error}"))?);
        }
        return match head.status.as_u16() {
            200 if whole == b"done" => Ok(()),
            _ => Err(format!("{head:?} {}", String::from_utf8_lossy(&whole))),
        };
    }
}

async fn streams(counts: Arc<Counts>, connection: Rc<Connection>) {
    while !counts.is_over() {
        match timeout(PATIENCE, stream(&counts, &connection)).await {
            Ok(Ok(())) => drop(counts.streams.fetch_add(1, Relaxed)),
            Ok(Err(why)) => counts.fail("gRPC", why),
            Err(_) => counts.fail("gRPC", "no end"),
        }
    }
}

/// A stream of gRPC: some messages, each answered before the next, and the status.
async fn stream(counts: &Counts, connection: &Connection) -> Result<(), String> {
    let request = || {
        let request = Request::post("http://shop/shop.Feed/Watch");
        request.header("content-type", "application/grpc").header("te", "trailers").body(()).unwrap()
    };
    let (answer, mut up) = connection.ask(&counts.refused, false, request).await?;
    let (head, mut down) = match answer.await {
        Ok(answer) => answer.into_parts(),
        // Nothing was said in it yet.
        Err(error) if is_refused(&error) => {
            counts.refused.fetch_add(1, Relaxed);
            return Ok(());
        }
        Err(error) => return Err(format!("no answer: {error}")),
    };
    if head.status != 200 {
        return Err(format!("{head:?}"));
    }
    let mut next = Instant::now();
    for message in 0..MESSAGES {
        let sent = Bytes::from(vec![0, 0, 0, 0, 1, message]);
        up.send_data(sent.clone(), false).map_err(|error| format!("message {message}: {error}"))?;
        let mut came = Vec::new();
        while came.len() < sent.len() {
            let data = down.data().await.ok_or_else(|| format!("ended at message {message}"))?;
            let data = data.map_err(|error| format!("cut at message {message}: {error}"))?;
            let _ = down.flow_control().release_capacity(data.len());
            came.extend(data);
        }
        if came != sent {
            return Err(format!("message {message}: {came:?}"));
        }
        next += Duration::from_millis(100);
        sleep_until(next).await;
    }
    up.send_data(Bytes::new(), true).map_err(|error| format!("end: {error}"))?;
    while let Some(data) = down.data().await {
        data.map_err(|error| format!("cut at the end: {error}"))?;
    }
    let trailers = down.trailers().await.map_err(|error| format!("trailers: {error}"))?.unwrap_or_default();
    match trailers.get("grpc-status") {
        Some(status) if status == "0" => Ok(()),
        status => Err(format!("status {status:?}")),
    }
}

/// Connections of HTTP/1.1, and as many of HTTP/2.
const KEPT: u32 = 8;

/// Messages of a stream.
const MESSAGES: u8 = 10;

/// More than are ever under way at once: as many are refused where a connection ends, and each is asked again.
const MOST_REFUSED: u32 = 500;
