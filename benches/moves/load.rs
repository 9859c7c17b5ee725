//! Callers that ask at a steady pace, half of them over HTTP/1.1 and half over HTTP/2, and write down who answered when.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use tokio::runtime::Runtime;
use tokio::task::LocalSet;
use tokio::time::timeout;

use crate::app::INSTANCE;
use crate::support::{PATIENCE, http2};

/// Callers at one door.
pub struct Load {
    began: Instant,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Told>>,
}

/// What they were answered.
#[derive(Default)]
pub struct Told {
    answers: Vec<Answered>,
    failed: usize,
}

struct Answered {
    /// Since the beginning.
    at: Duration,
    took: Duration,
    by: String,
}

/// From when to when.
pub type Span = (Duration, Duration);

impl Load {
    pub fn start(door: SocketAddr) -> Self {
        let (began, over) = (Instant::now(), Arc::new(AtomicBool::new(false)));
        let caller = |number: u32| {
            let over = over.clone();
            std::thread::spawn(move || {
                let caller = Caller::new(door, number % 2 == 1);
                call(caller, began, EVERY * number / CALLERS, &over)
            })
        };
        let threads = (0..CALLERS).map(caller).collect();
        Load { began, over, threads }
    }

    /// How long it is since the beginning.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Ends them, with what they were answered.
    pub fn end(self) -> Told {
        self.over.store(true, Relaxed);
        self.threads.into_iter().fold(Told::default(), |mut all, thread| {
            let told = thread.join().unwrap();
            all.answers.extend(told.answers);
            all.failed += told.failed;
            all
        })
    }
}

impl Told {
    pub fn answered(&self) -> usize {
        self.answers.len()
    }

    /// How many were not answered as they should be.
    pub fn failed(&self) -> usize {
        self.failed
    }

    /// The time between the last answer of one and the first one of the other: none, where that one began before.
    pub fn blackout(&self, from: &str, to: &str, span: Span) -> Option<Duration> {
        let by = |name: &str| {
            let within = self.answers.iter().filter(|answer| (span.0..=span.1).contains(&answer.at));
            within.filter(|answer| answer.by == name).map(|answer| answer.at).collect::<Vec<_>>()
        };
        Some(by(to).into_iter().min()?.saturating_sub(by(from).into_iter().max()?))
    }

    /// How long it is from one answer to the next, whoever gives it, in 99 of a hundred times outside of `spans`: what is shorter is told
    /// apart from nothing.
    pub fn pace(&self, spans: &[Span]) -> Duration {
        let is_outside = |at: &Duration| !spans.iter().any(|(from, to)| (*from..=*to).contains(at));
        let mut all: Vec<Duration> = self.answers.iter().map(|answer| answer.at).collect();
        all.sort_unstable();
        let outside = all.windows(2).filter(|two| two.iter().all(is_outside));
        let mut gaps: Vec<Duration> = outside.map(|two| two[1] - two[0]).collect();
        gaps.sort_unstable();
        gaps.get(gaps.len() * 99 / 100).copied().unwrap_or_default()
    }

    /// How long 99 of a hundred took at most: of those that were answered in one of `spans`, and of the others.
    pub fn p99(&self, spans: &[Span]) -> [Duration; 2] {
        let is_within =
            |answer: &&Answered| spans.iter().any(|(from, to)| (*from..=*to).contains(&answer.at));
        let (within, others): (Vec<_>, Vec<_>) = self.answers.iter().partition(is_within);
        [within, others].map(|answers| {
            let mut took: Vec<Duration> = answers.iter().map(|answer| answer.took).collect();
            took.sort_unstable();
            took.get(took.len() * 99 / 100).copied().unwrap_or_default()
        })
    }
}

/// A caller with a connection, which it makes anew where that is lost.
enum Caller {
    Http1 { door: SocketAddr, kept: Option<BufReader<TcpStream>> },
    Http2 { door: SocketAddr, kept: Option<SendRequest<Bytes>>, runtime: Runtime, tasks: LocalSet },
}

impl Caller {
    fn new(door: SocketAddr, is_http2: bool) -> Self {
        if !is_http2 {
            return Caller::Http1 { door, kept: None };
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Caller::Http2 { door, kept: None, runtime, tasks: LocalSet::new() }
    }

    /// One request; gives who answered it.
    fn ask(&mut self, writes: bool) -> Result<String, String> {
        let (method, path) = if writes { ("POST", "/write") } else { ("GET", "/read") };
        match self {
            Caller::Http1 { door, kept } => {
                let told = by_http1(*door, kept, method, path);
                if told.is_err() {
                    *kept = None;
                }
                told
            }
            Caller::Http2 { door, kept, runtime, tasks } => {
                let asks = async { timeout(PATIENCE, by_http2(*door, kept, method, path)).await };
                let told = tasks.block_on(runtime, asks).unwrap_or_else(|_| Err("no answer".to_owned()));
                if told.is_err() {
                    *kept = None;
                }
                told
            }
        }
    }
}

/// Asks at every turn, the first of which is `after` the beginning.
fn call(mut caller: Caller, began: Instant, after: Duration, over: &AtomicBool) -> Told {
    let (mut told, mut turn) = (Told::default(), began + after);
    while !over.load(Relaxed) {
        std::thread::sleep(turn.saturating_duration_since(Instant::now()));
        let asked = Instant::now();
        match caller.ask(fastrand::bool()) {
            Ok(by) => told.answers.push(Answered { at: began.elapsed(), took: asked.elapsed(), by }),
            Err(why) => {
                eprintln!("a request failed: {why}");
                told.failed += 1;
            }
        }
        turn = (turn + EVERY).max(Instant::now());
    }
    told
}

fn by_http1(
    door: SocketAddr,
    kept: &mut Option<BufReader<TcpStream>>,
    method: &str,
    path: &str,
) -> Result<String, String> {
    let lost = |error: std::io::Error| error.to_string();
    let connection = match kept {
        Some(connection) => connection,
        None => {
            let tcp = TcpStream::connect(door).map_err(lost)?;
            tcp.set_nodelay(true).map_err(lost)?;
            tcp.set_read_timeout(Some(PATIENCE)).map_err(lost)?;
            kept.insert(BufReader::new(tcp))
        }
    };
    let request = format!("{method} {path} HTTP/1.1\r\nhost: shop\r\ncontent-length: 0\r\n\r\n");
    connection.get_mut().write_all(request.as_bytes()).map_err(lost)?;
    let (mut status, mut by, mut length, mut cause) = (String::new(), None, 0, String::new());
    connection.read_line(&mut status).map_err(lost)?;
    loop {
        let mut line = String::new();
        connection.read_line(&mut line).map_err(lost)?;
        let Some((name, value)) = line.split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "x-lighter-error" => cause = value.trim().to_owned(),
            INSTANCE => by = Some(value.trim().to_owned()),
            "content-length" => length = value.trim().parse().map_err(|_| "no length".to_owned())?,
            _ => {}
        }
    }
    connection.read_exact(&mut vec![0; length]).map_err(lost)?;
    by.filter(|_| status.starts_with("HTTP/1.1 200 ")).ok_or_else(|| format!("{} {cause}", status.trim()))
}

async fn by_http2(
    door: SocketAddr,
    kept: &mut Option<SendRequest<Bytes>>,
    method: &str,
    path: &str,
) -> Result<String, String> {
    let client = match kept {
        Some(client) => client,
        None => kept.insert(http2::connect(door).await),
    };
    let request = Request::builder().method(method).uri(format!("http://shop{path}"));
    let request = request.body(Vec::new()).map_err(|error| error.to_string())?;
    let answer = http2::exchange(client, request).await.map_err(|error| error.to_string())?;
    if let Some(reason) = answer.cut {
        return Err(format!("cut: {reason:?}"));
    }
    let head = answer.head;
    let said = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
    let by = said(INSTANCE).filter(|_| head.status == 200).map(str::to_owned);
    by.ok_or_else(|| format!("{} {}", head.status, said("x-lighter-error").unwrap_or_default()))
}

const CALLERS: u32 = 8;
/// How often each of them asks.
const EVERY: Duration = Duration::from_millis(8);
