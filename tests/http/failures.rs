//! What clients see, and what endpoints get to do, while endpoints fail in every way that they have.
//!
//! Three endpoints behind a sidecar, of which one fails, or all. Clients ask without a pause, three times of four by GET.
//! What the endpoints themselves count says how often a request was really made.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use rustix::net::sockopt::set_socket_linger;

use crate::support::process::free_address;
use crate::support::sidecar::{Sidecar, policy, service};
use crate::support::{PATIENCE, test};

pub fn tests() -> Vec<Trial> {
    vec![test("failures::clients_see_what_could_not_safely_be_retried_and_no_more", table)]
}

/// How an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Mood {
    Well,
    /// Nobody is there: its connections are reset, and new ones refused.
    Killed,
    /// It reads, and says nothing.
    Hung,
    /// It reads a request, and resets the connection.
    Resets,
    /// It resets the connection within its answer.
    ResetsWithin,
    /// It answers 503.
    Unavailable,
    /// It takes ten times as long.
    Slow,
    /// Killed and well by turns.
    Flapping,
}

/// One line of the table.
struct Row {
    mood: Mood,
    /// Which of the three.
    all: bool,
    /// A TrafficPolicy's fields; empty: there is none.
    policy: &'static str,
}

/// What came of it.
#[derive(Debug, Default)]
struct Outcome {
    asked: usize,
    /// What was asked within the second before, while all was well: it brought something to the budget.
    before: usize,
    failed_gets: usize,
    failed_posts: usize,
    /// Requests that endpoints read.
    read: usize,
    /// Those of them that were not answered well.
    spoiled: usize,
    /// Tries that took too long, and might have run.
    late: usize,
    /// Requests that were not asked for again since the budget was used up.
    refused: usize,
    /// Connections that were cut from outside, each with one request on it at most.
    cut: usize,
}

const PATIENT: &str = "retry: {attempts: 2, on: [gatewayError], perTryTimeout: 50ms}";

fn table() {
    let one = |mood| Row { mood, all: false, policy: "" };
    let all = |mood| Row { mood, all: true, policy: "" };
    let rows = [
        one(Mood::Killed),
        one(Mood::Hung),
        one(Mood::Resets),
        one(Mood::ResetsWithin),
        one(Mood::Unavailable),
        one(Mood::Slow),
        one(Mood::Flapping),
        all(Mood::Killed),
        all(Mood::Resets),
        all(Mood::Unavailable),
        Row { policy: PATIENT, ..one(Mood::Hung) },
        Row { policy: PATIENT, ..one(Mood::Unavailable) },
        Row { policy: PATIENT, ..all(Mood::Hung) },
        Row { policy: PATIENT, ..all(Mood::Resets) },
        Row { policy: PATIENT, ..all(Mood::Unavailable) },
    ];
    println!(
        "{:<14}{:<6}{:<9}{:>9}{:>8}{:>8}{:>8}  amplified",
        "fault", "of", "policy", "requests", "GET", "POST", "read"
    );
    for row in rows {
        let seen = run(&row);
        let amplified = seen.read as f64 / seen.asked as f64;
        println!(
            "{:<14}{:<6}{:<9}{:>9}{:>8}{:>8}{:>8}  {amplified:.3}",
            format!("{:?}", row.mood),
            if row.all { "all" } else { "one" },
            if row.policy.is_empty() { "default" } else { "retries" },
            seen.asked,
            seen.failed_gets,
            seen.failed_posts,
            seen.read,
        );
        judge(&row, &seen);
    }
}

fn judge(row: &Row, seen: &Outcome) {
    let what = format!("{:?}, {}: {seen:?}", row.mood, if row.all { "all" } else { "one" });
    assert!(seen.asked >= 8, "{what}");
    // A fifth of what was asked, and the three in a second that there always may be.
    let again = seen.read.saturating_sub(seen.asked) as f64;
    assert!(again <= 0.2 * (seen.asked + seen.before) as f64 + 3.0, "{what}");
    if row.all {
        return;
    }
    assert!(seen.failed_gets + seen.failed_posts <= seen.spoiled + seen.cut + seen.late, "{what}");
    assert!(seen.asked > seen.failed_gets + seen.failed_posts, "{what}");
    match row.mood {
        // Nothing that asks for no change is lost with a process.
        Mood::Killed | Mood::Flapping => assert!(seen.failed_gets <= seen.refused, "{what}"),
        // Nor with one that says that it is unable, which is asked less and less. Of those that are well one may be late.
        Mood::Unavailable => assert!(seen.failed_gets <= seen.refused + seen.late, "{what}"),
        Mood::Slow => assert_eq!(seen.failed_gets + seen.failed_posts, 0, "{what}"),
        _ => {}
    }
}

fn run(row: &Row) -> Outcome {
    let endpoints: Vec<Endpoint> = (0..3).map(|_| Endpoint::start()).collect();
    let addresses: Vec<_> = endpoints.iter().map(|endpoint| endpoint.address).collect();
    let listen = free_address();
    let own = format!("listeners: [{{listen: '{listen}', service: up, port: 80}}]\nworkers: 2\n");
    let more = if row.policy.is_empty() { String::new() } else { policy("up", row.policy) };
    let sidecar = Sidecar::start(&format!("{}---\n{more}", service("up", "http", &addresses)), &own);
    let faulty = if row.all { &endpoints[..] } else { &endpoints[..1] };
    let mut before = 0;
    if !row.all {
        // The endpoints are known, and connections to them rest, when one of them fails.
        before = clients(listen, PATIENCE, Duration::from_millis(100)).asked;
        endpoints.iter().for_each(Endpoint::forget);
    }
    for endpoint in faulty {
        endpoint.shared.mood.store(row.mood as u8, SeqCst);
    }
    let times = if std::env::var_os("LIGHTER_FULL").is_some() { 20 } else { 1 };
    // Who asks an endpoint that hangs gives up some time.
    let patience = if row.mood == Mood::Hung { Duration::from_millis(300) } else { PATIENCE };
    let clients = clients(listen, patience, times * Duration::from_millis(400));
    let metrics = sidecar.metrics();
    let sum = |of: fn(&Shared) -> &AtomicUsize| -> usize {
        endpoints.iter().map(|endpoint| of(&endpoint.shared).load(SeqCst)).sum()
    };
    Outcome {
        before,
        late: metrics.sum("lighter_try_timeouts_total", &[]) as usize,
        refused: metrics.sum("lighter_retries_refused_total", &[("reason", "budget")]) as usize,
        read: sum(|shared| &shared.read),
        spoiled: sum(|shared| &shared.spoiled),
        cut: sum(|shared| &shared.cut),
        ..clients
    }
}

/// Eight clients that ask for as long as `time`, and wait for an answer for as long as `patience`.
fn clients(at: SocketAddr, patience: Duration, time: Duration) -> Outcome {
    let until = Instant::now() + time;
    let client = move || {
        let (mut seen, mut connection) = (Outcome::default(), None);
        for number in 0.. {
            if Instant::now() >= until {
                break;
            }
            let is_post = number % 4 == 3;
            let request = match is_post {
                true => "POST / HTTP/1.1\r\nHost: up\r\nContent-Length: 4\r\n\r\nbody",
                false => "GET / HTTP/1.1\r\nHost: up\r\n\r\n",
            };
            seen.asked += 1;
            if connection.is_none() {
                let stream = TcpStream::connect(at).unwrap();
                stream.set_read_timeout(Some(patience)).unwrap();
                connection = Some(stream);
            }
            let answer = connection.as_mut().and_then(|stream| ask(stream, request));
            if !matches!(answer, Some((200, _))) {
                *(if is_post { &mut seen.failed_posts } else { &mut seen.failed_gets }) += 1;
            }
            if !matches!(answer, Some((_, true))) {
                connection = None;
            }
        }
        seen
    };
    let clients: Vec<_> = (0..8).map(|_| std::thread::spawn(client)).collect();
    clients.into_iter().fold(Outcome::default(), |sum, client| {
        let seen = client.join().unwrap();
        Outcome {
            asked: sum.asked + seen.asked,
            failed_gets: sum.failed_gets + seen.failed_gets,
            failed_posts: sum.failed_posts + seen.failed_posts,
            ..sum
        }
    })
}

/// The status of a whole answer, and whether the connection stays.
fn ask(stream: &mut TcpStream, request: &str) -> Option<(u16, bool)> {
    stream.write_all(request.as_bytes()).ok()?;
    let head = head(stream)?.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    stream.read_exact(&mut vec![0; length.unwrap_or(0)]).ok()?;
    Some((head.split(' ').nth(1)?.parse().ok()?, !head.contains("connection: close")))
}

/// A head, byte by byte.
fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

/// A server of which a test says how it is.
struct Endpoint {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    mood: AtomicU8,
    over: AtomicBool,
    read: AtomicUsize,
    spoiled: AtomicUsize,
    cut: AtomicUsize,
    open: Mutex<Vec<TcpStream>>,
}

impl Endpoint {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { mood: AtomicU8::new(Mood::Well as u8), ..Shared::default() });
        let of_thread = shared.clone();
        std::thread::spawn(move || listen(listener, address, &of_thread));
        Endpoint { address, shared }
    }

    fn forget(&self) {
        self.shared.read.store(0, SeqCst);
        self.shared.spoiled.store(0, SeqCst);
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.shared.over.store(true, SeqCst);
        self.shared.kill();
    }
}

impl Shared {
    fn is(&self, mood: Mood) -> bool {
        self.mood.load(SeqCst) == mood as u8
    }

    /// Resets every connection.
    fn kill(&self) {
        for stream in std::mem::take(&mut *self.open.lock().unwrap()) {
            let _ = set_socket_linger(&stream, Some(Duration::ZERO));
            if stream.shutdown(Shutdown::Read).is_ok() {
                self.cut.fetch_add(1, SeqCst);
            }
        }
    }
}

fn listen(listener: TcpListener, address: SocketAddr, shared: &Arc<Shared>) {
    listener.set_nonblocking(true).unwrap();
    let (mut listener, began) = (Some(listener), Instant::now());
    while !shared.over.load(SeqCst) {
        let down = began.elapsed().as_millis() / 100 % 2 == 1;
        let is_there = !(shared.is(Mood::Killed) || shared.is(Mood::Flapping) && down);
        match (&listener, is_there) {
            (Some(_), false) => {
                listener = None;
                shared.kill();
            }
            (None, true) => {
                listener = TcpListener::bind(address).ok();
                if let Some(listener) = &listener {
                    listener.set_nonblocking(true).unwrap();
                }
            }
            _ => {}
        }
        match listener.as_ref().map(TcpListener::accept) {
            Some(Ok((stream, _))) => {
                stream.set_nonblocking(false).unwrap();
                stream.set_nodelay(true).unwrap();
                shared.open.lock().unwrap().push(stream.try_clone().unwrap());
                let shared = shared.clone();
                std::thread::spawn(move || serve(stream, &shared));
            }
            _ => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn serve(mut stream: TcpStream, shared: &Shared) {
    while let Some(head) = head(&mut stream) {
        if head.starts_with("POST") && stream.read_exact(&mut [0; 4]).is_err() {
            return;
        }
        shared.read.fetch_add(1, SeqCst);
        let spoil = || shared.spoiled.fetch_add(1, SeqCst);
        let well = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        std::thread::sleep(Duration::from_millis(if shared.is(Mood::Slow) { 10 } else { 1 }));
        if shared.is(Mood::Hung) {
            spoil();
            let _ = stream.read(&mut [0]);
            return;
        } else if shared.is(Mood::Resets) || shared.is(Mood::ResetsWithin) {
            spoil();
            if shared.is(Mood::ResetsWithin) {
                let _ = stream.write_all(&well.as_bytes()[..well.len() - 1]);
            }
            let _ = set_socket_linger(&stream, Some(Duration::ZERO));
            shared.open.lock().unwrap().retain(|open| open.peer_addr().ok() != stream.peer_addr().ok());
            return;
        } else if shared.is(Mood::Unavailable) {
            spoil();
            if stream.write_all(b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno").is_err() {
                return;
            }
        } else if stream.write_all(well.as_bytes()).is_err() {
            return;
        }
    }
}
