//! Callers of registers that write down what they asked and were answered, in order, and whether that can be: no write is lost,
//! none is done twice, and nobody reads what was overwritten.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use lighter_migrate::{History, Op};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep_until, timeout};

use crate::load::{Connection, is_refused};
use crate::registers::{INSTANCE, NUMBER};
use crate::support::{PATIENCE, wait_until};

/// Callers at one door that never pause.
pub struct Callers {
    pub record: Arc<Record>,
    thread: JoinHandle<()>,
}

/// What they asked and were answered.
pub struct Record {
    over: AtomicBool,
    /// Nothing is written any more.
    only_reads: AtomicBool,
    began: Instant,
    numbers: AtomicU64,
    /// Of each register.
    events: [Mutex<Vec<Event>>; REGISTERS],
    answers: Mutex<Vec<Answered>>,
    /// What was added to the registers that are added to, by their answers: each has what all before it added.
    sums: Mutex<BTreeMap<&'static str, Vec<u64>>>,
    /// Numbers of what changed something, by its answer.
    done: Mutex<Vec<u64>>,
    not_done: Mutex<Vec<u64>>,
    /// What was not answered as it should be, and why.
    failures: Mutex<Vec<String>>,
    /// Requests that had no whole answer at all, streams apart.
    unanswered: AtomicU64,
    /// Whole answers that are neither as they should be nor name a cause.
    unnamed: AtomicU64,
    /// What the caller's own sidecar or whoever was asked did not take, as it said itself.
    refused: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Begins(u64, Op),
    Done(u64, Option<u64>),
    NotDone(u64),
    Unknown(u64),
    /// Whoever had the state is gone, and the register has this from then on.
    Lost(u64),
    /// Whoever had the state is gone, and what it has not done by then it never does.
    Settled,
}

/// An answer as it should be.
#[derive(Clone, Debug)]
struct Answered {
    /// Since the beginning.
    at: Duration,
    took: Duration,
    by: String,
    /// Of a write: what it has overwritten.
    over: Option<u64>,
}

/// What a whole answer says.
#[derive(Clone, Debug, Default)]
struct Said {
    status: u16,
    by: Option<String>,
    /// Where it is a sidecar's.
    cause: Option<String>,
    body: Vec<u8>,
}

/// What became of a request.
enum Outcome {
    /// Answered with this number.
    Done(u64),
    NotDone,
    Unknown,
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
        let record = Arc::new(Record {
            over: AtomicBool::default(),
            only_reads: AtomicBool::default(),
            began: Instant::now(),
            numbers: AtomicU64::new(1),
            events: Default::default(),
            answers: Mutex::default(),
            sums: Mutex::default(),
            done: Mutex::default(),
            not_done: Mutex::default(),
            failures: Mutex::default(),
            unanswered: AtomicU64::default(),
            unnamed: AtomicU64::default(),
            refused: AtomicU64::default(),
        });
        let told = record.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            LocalSet::new().block_on(&runtime, all(told, door, streams));
        });
        Callers { record, thread }
    }

    /// Waits until so many more are answered as they should be, and fails if one is not.
    pub fn more(&self, count: usize) {
        let asked = self.answered() + count;
        wait_until("requests are answered", || self.has_failed() || self.answered() >= asked);
        assert!(!self.has_failed(), "{:#?}", self.record.failures.lock().unwrap());
    }

    /// The same where others may fail.
    pub fn more_of(&self, by: &str, count: usize) {
        let of = || self.record.answers.lock().unwrap().iter().filter(|answer| answer.by == by).count();
        let asked = of() + count;
        wait_until(&format!("{by} answers"), || of() >= asked);
    }

    /// From here on they only read.
    pub fn only_read(&self) {
        self.record.only_reads.store(true, Relaxed);
    }

    /// Ends them, with what they wrote down.
    pub fn end(self) -> Arc<Record> {
        self.record.over.store(true, Relaxed);
        self.thread.join().unwrap();
        self.record
    }

    fn answered(&self) -> usize {
        self.record.answers.lock().unwrap().len()
    }

    fn has_failed(&self) -> bool {
        !self.record.failures.lock().unwrap().is_empty()
    }
}

impl Record {
    /// How long it is since the beginning.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Whoever had the state is gone, and with it what was there: nothing runs there any more.
    pub fn lost(&self) {
        self.lost_to(|_| 0);
    }

    /// Whoever had the state is gone, and nothing that it was asked for is done any more.
    pub fn settled(&self) {
        for events in &self.events {
            events.lock().unwrap().push(Event::Settled);
        }
    }

    /// Fails where two of those that add were answered the same: one was lost behind its answer.
    pub fn check_distinct(&self) -> Result<(), String> {
        for (name, sums) in &*self.sums.lock().unwrap() {
            let mut all = BTreeSet::new();
            if let Some(sum) = sums.iter().find(|sum| !all.insert(**sum)) {
                return Err(format!("{name}: {sum} was answered twice"));
            }
        }
        Ok(())
    }

    /// The same, where whoever serves next has something of before: what, by the name of a register.
    pub fn lost_to(&self, has: impl Fn(&str) -> u64) {
        for (at, events) in self.events.iter().enumerate() {
            let now = has(&format!("r{at}"));
            events.lock().unwrap().push(Event::Lost(now));
        }
    }

    /// How many were answered as they should be.
    pub fn answered(&self) -> usize {
        self.answers.lock().unwrap().len()
    }

    /// What was not answered as it should be.
    pub fn failures(&self) -> Vec<String> {
        self.failures.lock().unwrap().clone()
    }

    /// How many requests had no whole answer at all, streams apart.
    pub fn unanswered(&self) -> u64 {
        self.unanswered.load(Relaxed)
    }

    /// How many answers were not as they should be, and did not say why, streams apart.
    pub fn unnamed(&self) -> u64 {
        self.unnamed.load(Relaxed)
    }

    /// Fails where one register cannot have answered so, or what was added was not added once.
    pub fn check(&self) -> Result<(), String> {
        for (at, events) in self.events.iter().enumerate() {
            let mut history = History::new(0);
            for (line, event) in events.lock().unwrap().iter().enumerate() {
                let taken = match *event {
                    Event::Begins(number, op) => {
                        history.begin(number, op);
                        Ok(())
                    }
                    Event::Done(number, read) => history.done(number, read),
                    Event::NotDone(number) => history.not_done(number),
                    Event::Unknown(number) => {
                        history.unknown(number);
                        Ok(())
                    }
                    Event::Lost(now) => {
                        history.lose(now);
                        Ok(())
                    }
                    Event::Settled => {
                        history.settle();
                        Ok(())
                    }
                };
                taken.map_err(|violation| format!("register r{at}, event {line}: {violation}"))?;
            }
        }
        Ok(())
    }

    /// Fails where two writes have overwritten one, or one of those that add was not counted once. For a record without losses
    /// and failures.
    pub fn check_sums(&self) -> Result<(), String> {
        let mut overwritten = BTreeSet::new();
        for over in self.answers.lock().unwrap().iter().filter_map(|answer| answer.over) {
            // Every register begins with 0.
            if over != 0 && !overwritten.insert(over) {
                return Err(format!("two writes have overwritten {over}"));
            }
        }
        for (name, sums) in &*self.sums.lock().unwrap() {
            let mut sums = sums.clone();
            sums.sort_unstable();
            let wrong = sums.iter().zip(1..).find(|(sum, expected)| *sum != expected);
            if let Some((sum, expected)) = wrong {
                return Err(format!("{name}: nobody was answered {expected}, but somebody {sum}"));
            }
        }
        Ok(())
    }

    /// Fails where something was done twice, or what was answered as not done was. `numbers`: of what applications have done.
    pub fn check_once(&self, numbers: &[u64]) -> Result<(), String> {
        let mut all = BTreeSet::new();
        if let Some(number) = numbers.iter().find(|number| !all.insert(**number)) {
            return Err(format!("number {number} was done twice"));
        }
        match self.not_done.lock().unwrap().iter().find(|number| all.contains(number)) {
            Some(number) => Err(format!("number {number} was answered as not done, and was done")),
            None => Ok(()),
        }
    }

    /// Fails where something was answered as done, and was not. `numbers`: of all that was done.
    pub fn check_done(&self, numbers: &[u64]) -> Result<(), String> {
        let all: BTreeSet<&u64> = numbers.iter().collect();
        match self.done.lock().unwrap().iter().find(|number| !all.contains(number)) {
            Some(number) => Err(format!("number {number} was answered, and nobody has done it")),
            None => Ok(()),
        }
    }

    /// The time between the last answer of one and the first one of the other, of what was answered in `span`.
    pub fn blackout(&self, from: &str, to: &str, span: (Duration, Duration)) -> Option<Duration> {
        let answers = self.answers.lock().unwrap();
        let within = || answers.iter().filter(|answer| (span.0..=span.1).contains(&answer.at));
        let first = within().filter(|answer| answer.by == to).map(|answer| answer.at).min()?;
        let last = within().filter(|answer| answer.by == from).map(|answer| answer.at).max()?;
        Some(first.saturating_sub(last))
    }

    /// How long half of them took at most, and how long 99 of a hundred: of those that were answered in one of `spans`, and of
    /// the others.
    pub fn latencies(&self, spans: &[(Duration, Duration)]) -> [(Duration, Duration); 2] {
        let answers = self.answers.lock().unwrap();
        let (mut within, mut others) = (Vec::new(), Vec::new());
        for Answered { at, took, .. } in &*answers {
            let is_within = spans.iter().any(|(from, to)| (from..=to).contains(&at));
            if is_within { &mut within } else { &mut others }.push(*took);
        }
        [within, others].map(|mut took| {
            took.sort_unstable();
            let at = |part: usize| took.get(took.len() * part / 100).copied().unwrap_or_default();
            (at(50), at(99))
        })
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Relaxed)
    }

    fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }

    fn event(&self, register: usize, event: Event) {
        self.events[register].lock().unwrap().push(event);
    }

    fn fail(&self, what: &str, why: String) {
        self.failures.lock().unwrap().push(format!("{:?} {what}: {why}", self.now()));
    }

    fn answer(&self, began: Instant, by: Option<&str>, over: Option<u64>) {
        let answered =
            Answered { at: self.now(), took: began.elapsed(), by: by.unwrap_or_default().to_owned(), over };
        self.answers.lock().unwrap().push(answered);
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
        let writes = is_well && !record.only_reads.load(Relaxed) && fastrand::bool();
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
        if record.only_reads.load(Relaxed) {
            continue;
        }
        let number = record.number();
        if let Outcome::Done(sum) = client.number(&record, "POST", "/r/sum/add", number, "").await {
            record.sums.lock().unwrap().entry("sum").or_default().push(sum);
        }
    }
}

/// Streams of gRPC, one after the other, each of a few messages.
async fn streams(record: Arc<Record>, connection: Rc<Connection>) {
    let mut next = Instant::now();
    while !record.is_over() {
        sleep_until(next).await;
        next = (next + EVERY).max(Instant::now());
        if record.only_reads.load(Relaxed) {
            continue;
        }
        let began = Instant::now();
        match timeout(PATIENCE, stream(&record, &connection)).await {
            Ok(Ok(by)) => record.answer(began, Some(&by), None),
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
        record.sums.lock().unwrap().entry("streamed").or_default().push(sum);
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

/// How a caller asks.
enum Client {
    /// By a kept connection.
    Http1 {
        door: SocketAddr,
        kept: Option<TcpStream>,
    },
    Http2(Connection),
}

impl Client {
    fn new(door: SocketAddr, is_http2: bool) -> Self {
        match is_http2 {
            true => Client::Http2(Connection::new(door)),
            false => Client::Http1 { door, kept: None },
        }
    }

    /// Asks for what is answered with a number, and writes down how that was.
    async fn number(
        &mut self,
        record: &Record,
        method: &str,
        path: &str,
        number: u64,
        body: &str,
    ) -> Outcome {
        let began = Instant::now();
        let what = format!("{method} {path}");
        let changes = method != "GET";
        let said = match timeout(PATIENCE, self.ask(record, method, path, number, body)).await {
            Ok(Ok(said)) => said,
            failed => {
                let why = failed.map_or("no answer".to_owned(), |failed| failed.unwrap_err());
                record.fail(&what, why);
                record.unanswered.fetch_add(1, Relaxed);
                return Outcome::Unknown;
            }
        };
        if let (200, Ok(value)) = (said.status, number_of(&said.body)) {
            record.answer(began, said.by.as_deref(), (method == "PUT").then_some(value));
            if changes {
                record.done.lock().unwrap().push(number);
            }
            return Outcome::Done(value);
        }
        record.fail(&what, format!("{said:?}"));
        match said.cause {
            Some(cause) if !MAY_BE_DONE.contains(&&*cause) => {
                if changes {
                    record.not_done.lock().unwrap().push(number);
                }
                Outcome::NotDone
            }
            Some(_) => Outcome::Unknown,
            None => {
                record.unnamed.fetch_add(1, Relaxed);
                Outcome::Unknown
            }
        }
    }

    async fn ask(
        &mut self,
        record: &Record,
        method: &str,
        path: &str,
        number: u64,
        body: &str,
    ) -> Result<Said, String> {
        match self {
            Client::Http1 { door, kept } => {
                let request = format!(
                    "{method} {path} HTTP/1.1\r\nHost: shop\r\n{NUMBER}: {number}\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                ask1(*door, kept, &request).await
            }
            Client::Http2(connection) => {
                let request = || {
                    let request = Request::builder().method(method).uri(format!("http://shop{path}"));
                    request.header(NUMBER, number).body(()).unwrap()
                };
                ask2(record, connection, request, body).await
            }
        }
    }
}

/// Asks by HTTP/1.1 on a connection that is kept, if it can be.
async fn ask1(door: SocketAddr, kept: &mut Option<TcpStream>, request: &str) -> Result<Said, String> {
    let is_reused = kept.is_some();
    let failed =
        |what: &'static str| move |error: std::io::Error| format!("{what} (reused: {is_reused}): {error}");
    let mut tcp = match kept.take() {
        Some(tcp) => tcp,
        None => {
            let tcp = TcpStream::connect(door).await.map_err(failed("connect"))?;
            tcp.set_nodelay(true).unwrap();
            tcp
        }
    };
    tcp.write_all(request.as_bytes()).await.map_err(failed("send"))?;
    let mut answer = Vec::new();
    loop {
        if let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = crate::support::raw::Head::parse(&answer[..end + 4]);
            let length = head.get("content-length").and_then(|length| length.parse().ok());
            let length: usize = length.ok_or_else(|| format!("no length: {head:?}"))?;
            let end = end + 4 + length;
            if answer.len() > end {
                return Err(format!("more than one answer: {:?}", String::from_utf8_lossy(&answer)));
            }
            if answer.len() == end {
                if !head.has("connection", "close") {
                    *kept = Some(tcp);
                }
                let owned = |name| head.get(name).map(str::to_owned);
                return Ok(Said {
                    status: head.status(),
                    by: owned(INSTANCE),
                    cause: owned("x-lighter-error"),
                    body: answer.split_off(end - length),
                });
            }
        }
        if tcp.read_buf(&mut answer).await.map_err(failed("read"))? == 0 {
            return Err(format!("cut (reused: {is_reused}) after {:?}", String::from_utf8_lossy(&answer)));
        }
    }
}

async fn ask2(
    record: &Record,
    connection: &Connection,
    request: impl Fn() -> Request<()>,
    body: &str,
) -> Result<Said, String> {
    loop {
        let (answer, mut up) = connection.ask(&record.refused, body.is_empty(), &request).await?;
        if !body.is_empty() {
            // What is wrong with it the answer says.
            let _ = up.send_data(Bytes::copy_from_slice(body.as_bytes()), true);
        }
        let (head, mut down) = match answer.await {
            Ok(answer) => answer.into_parts(),
            Err(error) if is_refused(&error) => {
                record.refused.fetch_add(1, Relaxed);
                continue;
            }
            Err(error) => return Err(format!("no answer: {error}")),
        };
        let field = |name: &str| head.headers.get(name)?.to_str().ok().map(str::to_owned);
        let mut said = Said {
            status: head.status.as_u16(),
            by: field(INSTANCE),
            cause: field("x-lighter-error"),
            body: Vec::new(),
        };
        while let Some(data) = down.data().await {
            let data = data.map_err(|error| format!("cut: {error}"))?;
            let _ = down.flow_control().release_capacity(data.len());
            said.body.extend(data);
        }
        return Ok(said);
    }
}

fn number_of(body: &[u8]) -> Result<u64, String> {
    let text = String::from_utf8_lossy(body);
    text.trim().parse().map_err(|_| format!("no number: {text:?}"))
}

/// Registers that are read and written, and how many callers each of them has at once.
const REGISTERS: usize = 4;
const EACH: usize = 3;
/// How often each of them asks at most.
const EVERY: Duration = Duration::from_millis(20);
/// Messages of a stream.
const MESSAGES: u8 = 3;
/// What a sidecar answers where the application may have done what it was asked for. All else it says instead of asking it.
const MAY_BE_DONE: [&str; 7] = [
    "upstream_closed",
    "upstream_reset",
    "upstream_truncated",
    "upstream_malformed",
    "request_timeout",
    "idle_timeout",
    "outcome_unknown",
];
