//! Requests while their link changes its wire: sent back to TCP again and again, from where it goes over to shared memory
//! by itself. Beside those that are due about a change as many count that are due between two, in the same run: what
//! disturbs the machine falls on all alike.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::http1;
use crate::proxies::Proxy;

/// What the requests of each kind met.
pub struct Changes {
    kinds: [Kind; 4],
    /// How much higher the 99th percentile is about an upgrade than on TCP.
    upgrade: Between,
    /// And about a way back than in shared memory.
    fallback: Between,
    times: usize,
}

/// The requests that were due about one point of each change.
struct Kind {
    name: &'static str,
    requests: usize,
    p50: f64,
    p95: f64,
    p99: Between,
}

/// Microseconds, and where they lie in 95 of 100 such runs: by a bootstrap that draws whole changes.
#[derive(Clone, Copy)]
struct Between {
    is: f64,
    from: f64,
    to: f64,
}

/// Latencies in nanoseconds of the requests about one change, by kind.
type Change = [Vec<u32>; 4];

/// Sends 1,000 requests a second through `proxy`, for `times` changes each way. None: its links have nothing to change.
pub fn measure(proxy: &Proxy, times: u32) -> Option<Changes> {
    let admin = proxy.ports.admin?;
    let changes = std::thread::spawn(move || changes(admin, times));
    let answers = http1::paced(proxy.ports.http, "/small", 64, 1000, EACH * (times + 1));
    let changes = changes.join().expect("a sidecar says what its links do");
    let about = |at: Instant| answers.due(at - EARLIER..at + AROUND);
    let changes: Vec<Change> =
        changes.iter().map(|freeze| POINTS.map(|point| about(*freeze + point))).collect();
    Some(Changes::of(&changes))
}

/// When the link was sent back, each time that it was in shared memory before and again behind the upgrade's window.
fn changes(admin: u16, times: u32) -> Vec<Instant> {
    let mut changes = Vec::new();
    for _ in 0..times {
        let before = gone_over(admin);
        // What that cost is to be over.
        std::thread::sleep(AROUND);
        let freeze = Instant::now();
        ask(admin, "POST", "/links/freeze");
        until(freeze + REST - EARLIER - AROUND);
        let early = gone_over(admin) > before;
        until(freeze + REST + AROUND);
        // Both ways.
        if !early && gone_over(admin) >= before + 2.0 {
            changes.push(freeze);
        }
        until(freeze + EACH - AROUND);
    }
    assert!(!changes.is_empty(), "the link goes over to shared memory again");
    changes
}

impl Changes {
    fn of(changes: &[Change]) -> Self {
        let all: Vec<_> = changes.iter().collect();
        let at = |kind: usize, share: f64| move |drawn: &[&Change]| percentile(drawn, kind, share);
        let more = |kind: usize, than: usize| {
            move |drawn: &[&Change]| percentile(drawn, kind, 0.99) - percentile(drawn, than, 0.99)
        };
        let kind = |kind: usize| Kind {
            name: NAMES[kind],
            requests: changes.iter().map(|change| change[kind].len()).sum(),
            p50: at(kind, 0.5)(&all),
            p95: at(kind, 0.95)(&all),
            p99: Between::of(changes, at(kind, 0.99)),
        };
        Changes {
            kinds: [kind(0), kind(1), kind(2), kind(3)],
            upgrade: Between::of(changes, more(UPGRADE, ON_TCP)),
            fallback: Between::of(changes, more(FALLBACK, IN_SHM)),
            times: changes.len(),
        }
    }

    pub fn markdown(&self) -> String {
        let mut text = format!(
            "\n**Requests while a link changes its wire, 1,000 a second, {} changes each way**\n\n\
             | due | requests | p50 µs | p95 µs | p99 µs | 95 of 100 such runs |\n|---|--:|--:|--:|--:|--:|\n",
            self.times
        );
        for Kind { name, requests, p50, p95, p99 } in &self.kinds {
            let _ = writeln!(
                text,
                "| {name} | {requests} | {p50:.0} | {p95:.0} | {:.0} | {:.0} to {:.0} |",
                p99.is, p99.from, p99.to
            );
        }
        let Changes { upgrade, fallback, .. } = self;
        let _ = writeln!(
            text,
            "\nThe 99th percentile about an upgrade less that on TCP: {:.0} µs ({:.0} to {:.0}); about a way back less that \
             in shared memory: {:.0} µs ({:.0} to {:.0}).",
            upgrade.is, upgrade.from, upgrade.to, fallback.is, fallback.from, fallback.to
        );
        text
    }

    pub fn json(&self) -> Value {
        let between = |one: Between| json!({"us": one.is, "from_us": one.from, "to_us": one.to});
        let kind = |kind: &Kind| json!({"due": kind.name, "requests": kind.requests, "p50_us": kind.p50, "p99": between(kind.p99)});
        json!({
            "changes": self.times,
            "kinds": self.kinds.iter().map(kind).collect::<Vec<_>>(),
            "upgrade_less_tcp": between(self.upgrade),
            "fallback_less_shm": between(self.fallback),
        })
    }
}

impl Between {
    fn of(changes: &[Change], number: impl Fn(&[&Change]) -> f64) -> Self {
        let mut random = fastrand::Rng::with_seed(1);
        let mut draw = || {
            let drawn: Vec<_> = changes.iter().map(|_| &changes[random.usize(..changes.len())]).collect();
            number(&drawn)
        };
        let mut drawn: Vec<f64> = (0..DRAWS).map(|_| draw()).collect();
        drawn.sort_by(f64::total_cmp);
        let is = number(&changes.iter().collect::<Vec<_>>());
        Between { is, from: drawn[DRAWS / 40], to: drawn[DRAWS - 1 - DRAWS / 40] }
    }
}

/// Of the latencies of a kind, in microseconds.
fn percentile(changes: &[&Change], kind: usize, share: f64) -> f64 {
    let mut all: Vec<u32> = changes.iter().flat_map(|change| &change[kind]).copied().collect();
    let at = (all.len() as f64 * share) as usize;
    if at >= all.len() {
        return 0.0;
    }
    f64::from(*all.select_nth_unstable(at).1) / 1e3
}

fn until(at: Instant) {
    std::thread::sleep(at.saturating_duration_since(Instant::now()));
}

/// How often a direction of a link went over to shared memory.
fn gone_over(admin: u16) -> f64 {
    let metrics = ask(admin, "GET", "/metrics");
    let counts = metrics.lines().filter_map(|line| line.strip_prefix("lighter_link_switches_total "));
    counts.filter_map(|count| count.parse::<f64>().ok()).sum()
}

/// What the sidecar answers.
pub fn ask(admin: u16, method: &str, path: &str) -> String {
    let mut sidecar = TcpStream::connect(("127.0.0.1", admin)).expect("a sidecar listens to its admin");
    write!(sidecar, "{method} {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").expect("it takes what is asked");
    let mut answer = String::new();
    sidecar.read_to_string(&mut answer).expect("it answers");
    assert!(answer.split(' ').nth(1) == Some("200"), "{path}: {answer}");
    answer
}

/// The kinds, by
const NAMES: [&str; 4] =
    ["about a way back to TCP", "on TCP", "about an upgrade to shared memory", "in shared memory"];

/// when they are due behind a way back.
const POINTS: [Duration; 4] = [Duration::ZERO, Duration::from_secs(1), REST, Duration::from_millis(2400)];

const FALLBACK: usize = 0;
const ON_TCP: usize = 1;
const UPGRADE: usize = 2;
const IN_SHM: usize = 3;

/// For how long a link that was sent back stays there: links that make room for others rest so long.
const REST: Duration = Duration::from_secs(2);

/// From one change to the next.
const EACH: Duration = Duration::from_millis(2500);

/// Requests count that are due so soon behind a point,
const AROUND: Duration = Duration::from_millis(25);

/// or so soon before it.
const EARLIER: Duration = Duration::from_millis(2);

/// How often changes are drawn anew.
const DRAWS: usize = 2000;
