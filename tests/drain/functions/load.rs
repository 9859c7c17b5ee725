//! Callers of the registers that a function on a device remembers, by HTTP/1.1 and HTTP/2, and whether what they were answered
//! can be. A stream of gRPC has no place there: a function answers one request once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use http::Request;
use lighter_migrate::{History, Op};
use tokio::runtime::Runtime;
use tokio::task::LocalSet;
use tokio::time::timeout;

use super::{ask, number_and_place};
use crate::load::{Connection, is_refused};
use crate::support::raw::Peer;
use crate::support::{PATIENCE, wait_until};

/// Callers that never pause, and write down what they were answered.
pub struct Load {
    record: Arc<Record>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
pub struct Record {
    over: AtomicBool,
    numbers: AtomicU64,
    /// Of each register.
    events: [Mutex<Vec<Event>>; REGISTERS],
    /// When, and by which device.
    pub answers: Mutex<Vec<(Instant, String)>>,
    /// How long each of those took.
    took: Mutex<Vec<Duration>>,
    /// What each write has overwritten, and what those that add were answered.
    overwritten: Mutex<BTreeMap<u64, u64>>,
    sums: Mutex<Vec<u64>>,
    failures: Mutex<Vec<String>>,
}

#[derive(Clone, Copy)]
enum Event {
    Begins(u64, Op),
    Done(u64, Option<u64>),
}

impl Load {
    pub fn start(door: SocketAddr) -> Self {
        let record = Arc::new(Record::default());
        let caller = |at: usize, register: Option<usize>| {
            let record = record.clone();
            std::thread::spawn(move || record.calls(Caller::new(door, at % 2 == 1), register))
        };
        let threads = (0..REGISTERS * EACH).map(|at| caller(at / REGISTERS, Some(at % REGISTERS)));
        let threads = threads.chain((0..EACH).map(|at| caller(at, None))).collect();
        Load { record, threads }
    }

    /// Waits until this device has answered so many more, and fails if a request does.
    pub fn more_of(&self, by: &str, count: usize) {
        let of = || self.record.answers.lock().unwrap().iter().filter(|(_, at)| at == by).count();
        let (asked, failures) = (of() + count, || self.record.failures.lock().unwrap().clone());
        wait_until(&format!("{by} answers"), || of() >= asked || !failures().is_empty());
        assert!(failures().is_empty(), "{:#?}", failures());
    }

    /// The time between the last answer of one device and the first of the other, since then.
    pub fn blackout(&self, from: &str, to: &str, since: Instant) -> Duration {
        let answers = self.record.answers.lock().unwrap();
        let of = |by: &str| {
            answers
                .iter()
                .filter(move |(at, who)| *at >= since && who == by)
                .map(|(at, _)| *at)
                .collect::<Vec<_>>()
        };
        let (first, last) = (of(to).into_iter().min().unwrap(), of(from).into_iter().max().unwrap_or(since));
        first.saturating_duration_since(last)
    }

    pub fn end(self) -> Arc<Record> {
        self.record.over.store(true, Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        self.record
    }
}

impl Record {
    /// Reads and writes a register, or adds to the one that is added to.
    fn calls(&self, mut caller: Caller, register: Option<usize>) {
        let mut next = Instant::now();
        while !self.over.load(Relaxed) {
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            next = (next + EVERY).max(Instant::now());
            let number = 1 + self.numbers.fetch_add(1, Relaxed);
            let Some(register) = register else {
                let sum = self.call(&mut caller, "sum?add=1");
                self.sums.lock().unwrap().extend(sum);
                continue;
            };
            let writes = fastrand::bool();
            let op = if writes { Op::Write(number) } else { Op::Read };
            let event = |event| self.events[register].lock().unwrap().push(event);
            event(Event::Begins(number, op));
            let asked = if writes { format!("r{register}?put={number}") } else { format!("r{register}") };
            let Some(said) = self.call(&mut caller, &asked) else { return };
            event(Event::Done(number, (!writes).then_some(said)));
            if writes {
                self.overwritten.lock().unwrap().insert(number, said);
            }
        }
    }

    fn call(&self, caller: &mut Caller, asked: &str) -> Option<u64> {
        let began = Instant::now();
        match caller.ask(asked) {
            Ok((number, place)) => {
                let mut answers = self.answers.lock().unwrap();
                answers.push((Instant::now(), place));
                self.took.lock().unwrap().push(began.elapsed());
                Some(number)
            }
            Err(why) => {
                self.failures.lock().unwrap().push(format!("{asked}: {why}"));
                None
            }
        }
    }

    /// No request failed, each register was one, and each write was done once.
    pub fn check(&self) {
        assert!(self.failures.lock().unwrap().is_empty());
        for (at, events) in self.events.iter().enumerate() {
            can_be(&events.lock().unwrap()).unwrap_or_else(|why| panic!("register r{at}: {why}"));
        }
        let mut seen = BTreeSet::new();
        let overwritten = self.overwritten.lock().unwrap();
        // Every register begins with 0.
        let twice = overwritten.values().find(|over| **over != 0 && !seen.insert(**over));
        assert_eq!(twice, None, "two writes have overwritten one");
        let mut sums: BTreeMap<u64, usize> = BTreeMap::new();
        self.sums.lock().unwrap().iter().for_each(|sum| *sums.entry(*sum).or_default() += 1);
        assert!(sums.iter().zip(1..).all(|((sum, times), wanted)| (*sum, *times) == (wanted, 1)), "{sums:?}");
    }

    /// That every write is there at the end would be worth nothing if nobody noticed one that is not: the same history in which one is
    /// lost, and who reads behind it gets what it had overwritten, cannot be.
    pub fn finds_a_lost_write(&self) {
        let overwritten = self.overwritten.lock().unwrap();
        let mut planted = 0;
        for events in &self.events {
            let mut events = events.lock().unwrap().clone();
            if lose_a_write(&mut events, &overwritten) {
                planted += 1;
                assert!(can_be(&events).is_err(), "a write was lost, and nobody noticed");
            }
        }
        assert!(planted > 0, "nobody read what was written before");
    }

    /// What 99 in a hundred requests took at most that were answered within these spans, and that of all others.
    pub fn slowest(&self, spans: &[(Instant, Instant)]) -> [Duration; 2] {
        let (answers, took) = (self.answers.lock().unwrap(), self.took.lock().unwrap());
        let mut both = [Vec::new(), Vec::new()];
        for ((at, _), took) in answers.iter().zip(&*took) {
            let moving = spans.iter().any(|(from, to)| from <= at && at <= to);
            both[usize::from(!moving)].push(*took);
        }
        both.map(|mut took| {
            took.sort();
            took.get(took.len() * 99 / 100).copied().unwrap_or_default()
        })
    }
}

/// Whether one register that began with 0 may have been asked and have answered so, in this order.
fn can_be(events: &[Event]) -> Result<(), String> {
    let mut history = History::new(0);
    for event in events {
        match *event {
            Event::Begins(number, op) => history.begin(number, op),
            Event::Done(number, read) => history.done(number, read).map_err(|why| why.to_string())?,
        }
    }
    Ok(())
}

/// Has one who reads what was written before get what that had overwritten. Whether there is one: of two writes that were under way
/// at the same time either may have been the first, so that they say nothing.
fn lose_a_write(events: &mut [Event], overwritten: &BTreeMap<u64, u64>) -> bool {
    let (mut began, mut done) = (BTreeMap::new(), BTreeMap::new());
    for (at, event) in events.iter_mut().enumerate() {
        match event {
            Event::Begins(number, _) => drop(began.insert(*number, at)),
            Event::Done(number, None) => drop(done.insert(*number, at)),
            Event::Done(number, Some(read)) => {
                let Some(over) = overwritten.get(read) else { continue };
                // Every register begins with 0.
                let ends = |write: &u64| if *write == 0 { Some(0) } else { done.get(write).copied() };
                let is_before = |write: &u64, next: &u64| ends(write) < began.get(next).copied();
                if ends(read).is_some()
                    && is_before(read, number)
                    && ends(over).is_some()
                    && is_before(over, read)
                {
                    *read = *over;
                    return true;
                }
            }
        }
    }
    false
}

/// How a caller asks: by a connection that is kept.
enum Caller {
    Http1 { door: SocketAddr, kept: Option<Peer> },
    Http2 { runtime: Runtime, tasks: LocalSet, connection: Connection, refused: AtomicU64 },
}

impl Caller {
    fn new(door: SocketAddr, is_http2: bool) -> Self {
        if !is_http2 {
            return Caller::Http1 { door, kept: None };
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (tasks, connection) = (LocalSet::new(), Connection::new(door));
        Caller::Http2 { runtime, tasks, connection, refused: AtomicU64::new(0) }
    }

    /// The number, and where it came from.
    fn ask(&mut self, asked: &str) -> Result<(u64, String), String> {
        match self {
            Caller::Http1 { door, kept } => {
                let mut peer = kept.take().unwrap_or_else(|| Peer::connect(*door));
                let (head, number, place) = ask(&mut peer, asked)?;
                *kept = Some(peer).filter(|_| !head.has("connection", "close"));
                Ok((number, place))
            }
            Caller::Http2 { runtime, tasks, connection, refused } => {
                let answer = async { timeout(PATIENCE, ask2(connection, refused, asked)).await };
                tasks.block_on(runtime, answer).unwrap_or_else(|_| Err("no answer".to_owned()))
            }
        }
    }
}

async fn ask2(connection: &Connection, refused: &AtomicU64, asked: &str) -> Result<(u64, String), String> {
    loop {
        let request = || Request::get(format!("http://shop/registers/{asked}")).body(()).unwrap();
        let (answer, _up) = connection.ask(refused, true, request).await?;
        let (head, mut down) = match answer.await {
            Ok(answer) => answer.into_parts(),
            // It was not taken.
            Err(error) if is_refused(&error) => {
                refused.fetch_add(1, Relaxed);
                continue;
            }
            Err(error) => return Err(format!("no answer: {error}")),
        };
        let mut body = Vec::new();
        while let Some(data) = down.data().await {
            let data = data.map_err(|error| format!("cut: {error}"))?;
            let _ = down.flow_control().release_capacity(data.len());
            body.extend(data);
        }
        let text = String::from_utf8_lossy(&body);
        return number_and_place(head.status.as_u16(), &text).ok_or_else(|| format!("{head:?} {text:?}"));
    }
}

/// Registers that are read and written, and how many callers each of them has.
const REGISTERS: usize = 4;
const EACH: usize = 3;
/// How often each of them asks at most.
const EVERY: Duration = Duration::from_millis(25);
