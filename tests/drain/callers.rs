//! Callers of registers that write down what they asked and were answered, in order, and whether that can be: no write is lost,
//! none is done twice, and nobody reads what was overwritten.

mod beside;
mod client;
mod record;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use lighter_migrate::Op;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep_until, timeout};

pub use self::beside::{Beside, Said, check_sums, check_turns, tests};
pub use self::client::UNKNOWN;
use self::client::{Client, Outcome, number_of};
use self::record::Event;
pub use self::record::Record;
use crate::load::{Connection, is_refused};
use crate::registers::INSTANCE;
use crate::support::{PATIENCE, wait_until};

/// Callers at one door that never pause.
pub struct Callers {
    pub record: Arc<Record>,
    thread: JoinHandle<()>,
}

impl Callers {
    pub fn start(door: SocketAddr) -> Self {
        Self::start_with(door, true)
    }

    /// Those that say all in requests, and open no streams.
    pub fn start_requests(door: SocketAddr) -> Self {
        Self::start_with(door, false)
    }

    fn start_with(door: SocketAddr, streams: bool) -> Self {
        let record = Arc::new(Record::new());
        let told = record.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            LocalSet::new().block_on(&runtime, all(told, door, streams));
        });
        Callers { record, thread }
    }

    /// Waits until so many more are answered as they should be, and fails if one is not.
    pub fn more(&self, count: usize) {
        let asked = self.record.answered() + count;
        wait_until("requests are answered", || self.has_failed() || self.record.answered() >= asked);
        assert!(!self.has_failed(), "{:#?}", self.record.failures());
    }

    /// The same where others may fail.
    pub fn more_of(&self, by: &str, count: usize) {
        let of = || self.record.answered_by(by);
        let asked = of() + count;
        wait_until(&format!("{by} answers"), || of() >= asked);
    }

    /// From here on they only read.
    pub fn only_read(&self) {
        self.record.only_read();
    }

    /// Ends them, with what they wrote down.
    pub fn end(self) -> Arc<Record> {
        self.record.end();
        self.thread.join().unwrap();
        self.record
    }

    fn has_failed(&self) -> bool {
        !self.record.failures().is_empty()
    }
}

async fn all(record: Arc<Record>, door: SocketAddr, has_streams: bool) {
    let mut clients = JoinSet::new();
    for register in 0..REGISTERS {
        for at in 0..EACH {
            clients.spawn_local(writes(record.clone(), Client::new(door, at % 2 == 1), register));
        }
    }
    for is_http2 in [false, true] {
        clients.spawn_local(adds(record.clone(), Client::new(door, is_http2)));
    }
    if has_streams {
        clients.spawn_local(streams(record, Rc::new(Connection::new(door))));
    }
    while clients.join_next().await.is_some() {}
}

/// Reads a register, and writes it.
async fn writes(record: Arc<Record>, mut client: Client, register: usize) {
    let path = format!("/r/r{register}");
    let (mut next, mut is_well) = (Instant::now(), true);
    while !record.is_over() {
        sleep_until(next).await;
        next = (next + EVERY).max(Instant::now());
        let number = record.number();
        // While it fails nothing is written: the more there is that may be done or not, the less can be said.
        let writes = is_well && !record.only_reads() && fastrand::bool();
        let op = if writes { Op::Write(number) } else { Op::Read };
        let method = if writes { "PUT" } else { "GET" };
        let body = if writes { number.to_string() } else { String::new() };
        record.event(register, Event::Begins(number, op));
        let outcome = client.number(&record, method, &path, number, &body).await;
        is_well = matches!(outcome, Outcome::Done(_));
        let end = match outcome {
            Outcome::Done(said) => Event::Done(number, (!writes).then_some(said)),
            Outcome::NotDone => Event::NotDone(number),
            Outcome::Unknown => Event::Unknown(number),
        };
        record.event(register, end);
    }
}

/// Adds to the register `sum`.
async fn adds(record: Arc<Record>, mut client: Client) {
    let mut next = Instant::now();
    while !record.is_over() {
        sleep_until(next).await;
        next = (next + EVERY).max(Instant::now());
        if record.only_reads() {
            continue;
        }
        let number = record.number();
        if let Outcome::Done(sum) = client.number(&record, "POST", "/r/sum/add", number, "").await {
            record.sum("sum", sum);
        }
    }
}

/// Streams of gRPC, one after the other, each of a few messages.
async fn streams(record: Arc<Record>, connection: Rc<Connection>) {
    let mut next = Instant::now();
    while !record.is_over() {
        sleep_until(next).await;
        next = (next + EVERY).max(Instant::now());
        if record.only_reads() {
            continue;
        }
        let began = Instant::now();
        match timeout(PATIENCE, stream(&record, &connection)).await {
            Ok(Ok(by)) => record.answer(began, Some(&by), 0, None),
            Ok(Err(why)) => record.fail("gRPC", why),
            Err(_) => record.fail("gRPC", "no end".to_owned()),
        }
    }
}

/// One of them; gives who answered.
async fn stream(record: &Record, connection: &Connection) -> Result<String, String> {
    let (head, mut down, mut up) = loop {
        let request = || {
            let request = Request::post("http://shop/registers.Registers/Add");
            request.header("content-type", "application/grpc").header("te", "trailers").body(()).unwrap()
        };
        let (answer, up) = connection.ask(&record.refused, false, request).await?;
        match answer.await {
            Ok(answer) => {
                let (head, down) = answer.into_parts();
                break (head, down, up);
            }
            // Nothing was said in it yet.
            Err(error) if is_refused(&error) => drop(record.refused.fetch_add(1, Relaxed)),
            Err(error) => return Err(format!("no answer: {error}")),
        }
    };
    if head.status != 200 || head.headers.contains_key("grpc-status") {
        return Err(format!("{head:?}"));
    }
    let by = head.headers.get(INSTANCE).map(|by| String::from_utf8_lossy(by.as_bytes()).into_owned());
    for message in 0..MESSAGES {
        let sent = Bytes::from(vec![0, 0, 0, 0, 1, 7]);
        up.send_data(sent, false).map_err(|error| format!("message {message}: {error}"))?;
        let mut came = Vec::new();
        while came.len() < 5 || came.len() < 5 + usize::from(came[4]) {
            let data = down.data().await.ok_or(format!("ended in message {message}"))?;
            let data = data.map_err(|error| format!("cut in message {message}: {error}"))?;
            let _ = down.flow_control().release_capacity(data.len());
            came.extend(data);
        }
        let sum = number_of(&came[5..])?;
        record.sum("streamed", sum);
    }
    up.send_data(Bytes::new(), true).map_err(|error| format!("end: {error}"))?;
    while let Some(data) = down.data().await {
        data.map_err(|error| format!("cut at the end: {error}"))?;
    }
    let trailers = down.trailers().await.map_err(|error| format!("trailers: {error}"))?.unwrap_or_default();
    match trailers.get("grpc-status") {
        Some(status) if status == "0" => by.ok_or("nobody's".to_owned()),
        status => Err(format!("status {status:?}")),
    }
}

/// Registers that are read and written, and how many callers each of them has at once.
const REGISTERS: usize = 4;
const EACH: usize = 3;
/// How often each of them asks at most.
const EVERY: Duration = Duration::from_millis(20);
/// Messages of a stream.
const MESSAGES: u8 = 3;
