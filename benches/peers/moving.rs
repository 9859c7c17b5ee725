//! Requests while their link changes its wire: sent back to TCP again and again, from where it goes over to shared memory
//! by itself. Beside those that are due about a change, others count that are due about many points between two changes, in
//! the same run: what disturbs the machine falls on all alike. At half of these points the sidecar is asked for something
//! that changes nothing, as asking it is how a link is sent back.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::http1::{self, Answers};
use crate::proxies::Proxy;

/// What the requests of each kind met.
pub struct Changes {
    kinds: [Kind; KINDS],
    /// How much higher a 99th percentile is than another.
    more: [(&'static str, Between); MORE.len()],
    times: usize,
    left_out: LeftOut,
}

/// Changes that are not looked at, as nobody knows when they were.
#[derive(Clone, Copy, Default)]
struct LeftOut {
    /// The link went over before it was looked at,
    early: usize,
    /// or had not gone over, both ways, when its requests had been due.
    late: usize,
}

/// The requests that were due about points of one kind.
struct Kind {
    name: &'static str,
    requests: usize,
    p50: f64,
    p95: f64,
    p99: Between,
    /// About how many points the requests beyond that were due, of how many: a stall of the machine is about one.
    late: [usize; 2],
}

/// Microseconds, and where they lie in 95 of 100 such runs: by a bootstrap that draws whole changes.
#[derive(Clone, Copy)]
struct Between {
    is: f64,
    from: f64,
    to: f64,
}

/// The points of one change, by kind.
type Points = [Vec<Instant>; KINDS];

/// Latencies in nanoseconds of the requests about each of them.
type Change = [Vec<Vec<u32>>; KINDS];

/// Sends 1,000 requests a second through `proxy`, for `times` changes each way. None: its links have nothing to change.
pub fn measure(proxy: &Proxy, times: u32) -> Option<Changes> {
    let admin = proxy.ports.admin?;
    let changes = std::thread::spawn(move || changes(admin, times));
    let answers = http1::paced(proxy.ports.http, "/small", 64, 1000, EACH * (times + 1));
    let (changes, left_out) = changes.join().expect("a sidecar says what its links do");
    let changes: Vec<Change> = changes.iter().map(|points| about(points, &answers)).collect();
    Some(Changes::of(&changes, left_out))
}

fn about(points: &Points, answers: &Answers) -> Change {
    let due = |at: &Instant| answers.due(*at - EARLIER..*at + AROUND);
    std::array::from_fn(|kind| points[kind].iter().map(due).collect())
}

/// Changes the link's wire; gives the points of each time that it was in shared memory before and again behind the upgrade's
/// window.
fn changes(admin: u16, times: u32) -> (Vec<Points>, LeftOut) {
    let (mut changes, mut left_out) = (Vec::new(), LeftOut::default());
    let mut random = fastrand::Rng::with_seed(1);
    for time in 0..times {
        let before = gone_over(admin);
        // What that cost is to be over.
        std::thread::sleep(AROUND);
        let freeze = Instant::now();
        let mut points = Points::default();
        points[FALLBACK].push(freeze);
        ask(admin, "POST", "/links/freeze");
        let mut stay = |from: Duration, to: Duration, step: Duration, kind: usize| {
            let all = (0..).map(|count| from + step * count).take_while(|at| *at <= to);
            for (at, count) in all.zip(time..) {
                let at = freeze + at;
                until(at);
                let is_asked = count % 2 == 0;
                if is_asked {
                    ask(admin, "GET", "/links");
                }
                points[kind + usize::from(is_asked)].push(at);
            }
        };
        stay(AROUND * 4, REST - AROUND * 4, AROUND * 4, ON_TCP);
        until(freeze + REST - EARLIER - AROUND);
        let early = gone_over(admin) > before;
        until(freeze + REST + AROUND);
        // Both ways.
        let in_time = gone_over(admin) >= before + 2.0;
        stay(REST + AROUND * 4, EACH - AROUND * 4, AROUND * 2, IN_SHM);
        points[UPGRADE].push(freeze + REST);
        match (early, in_time) {
            (true, _) => left_out.early += 1,
            (_, false) => left_out.late += 1,
            (false, true) => changes.push(points),
        }
        // What either process does at a pace of its own is not to meet the same points again and again.
        until(freeze + EACH - AROUND * 2 - AROUND.mul_f64(random.f64()));
    }
    assert!(!changes.is_empty(), "the link goes over to shared memory again");
    (changes, left_out)
}

impl Changes {
    fn of(changes: &[Change], left_out: LeftOut) -> Self {
        let all: Vec<_> = changes.iter().collect();
        let at = |kind: usize, share: f64| move |drawn: &[&Change]| percentile(drawn, kind, share);
        let more = |kind: usize, than: usize| {
            move |drawn: &[&Change]| percentile(drawn, kind, 0.99) - percentile(drawn, than, 0.99)
        };
        let kind = |kind: usize| {
            let windows = || changes.iter().flat_map(|change| &change[kind]);
            let p99 = Between::of(changes, at(kind, 0.99));
            let is_late = |window: &&Vec<u32>| window.iter().any(|nanos| f64::from(*nanos) / 1e3 > p99.is);
            Kind {
                name: NAMES[kind],
                requests: windows().map(Vec::len).sum(),
                p50: at(kind, 0.5)(&all),
                p95: at(kind, 0.95)(&all),
                p99,
                late: [windows().filter(is_late).count(), windows().count()],
            }
        };
        Changes {
            kinds: std::array::from_fn(kind),
            more: MORE.map(|(name, [kind, than])| (name, Between::of(changes, more(kind, than)))),
            times: changes.len(),
            left_out,
        }
    }

    pub fn markdown(&self) -> String {
        let mut text = format!(
            "\n**Requests while a link changes its wire, 1,000 a second, {} changes each way**\n\n\
             | due | requests | p50 µs | p95 µs | p99 µs | 95 of 100 such runs | later than p99 about |\n\
             |---|--:|--:|--:|--:|--:|--:|\n",
            self.times
        );
        for Kind { name, requests, p50, p95, p99, late: [late, points] } in &self.kinds {
            let _ = writeln!(
                text,
                "| {name} | {requests} | {p50:.0} | {p95:.0} | {:.0} | {:.0} to {:.0} | {late} of {points} points |",
                p99.is, p99.from, p99.to
            );
        }
        text += "\nThe 99th percentile";
        for (at, (name, Between { is, from, to })) in self.more.iter().enumerate() {
            let _ =
                write!(text, "{} {name}: {is:.0} µs ({from:.0} to {to:.0})", if at > 0 { ";" } else { "" });
        }
        let LeftOut { early, late } = self.left_out;
        let _ = writeln!(text, ". Left out: {early} changes that came early, {late} that came late.");
        text
    }

    pub fn json(&self) -> Value {
        let between = |one: &Between| json!({"us": one.is, "from_us": one.from, "to_us": one.to});
        let kind = |kind: &Kind| {
            let Kind { name, requests, p50, p95, p99, late } = kind;
            json!({"due": name, "requests": requests, "p50_us": p50, "p95_us": p95, "p99": between(p99), "late_points": late})
        };
        let more = |(name, more): &(&str, Between)| json!({"name": name, "p99": between(more)});
        json!({
            "changes": self.times,
            "left_out": {"early": self.left_out.early, "late": self.left_out.late},
            "kinds": self.kinds.iter().map(kind).collect::<Vec<_>>(),
            "more": self.more.iter().map(more).collect::<Vec<_>>(),
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
    let mut all: Vec<u32> =
        changes.iter().flat_map(|change| change[kind].iter().flatten()).copied().collect();
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

/// The kinds.
const NAMES: [&str; KINDS] = [
    "about a way back to TCP",
    "on TCP",
    "on TCP, the sidecar is asked",
    "about an upgrade to shared memory",
    "in shared memory",
    "in shared memory, the sidecar is asked",
];

const KINDS: usize = 6;

const FALLBACK: usize = 0;

/// With whether the sidecar is asked,
const ON_TCP: usize = 1;

const UPGRADE: usize = 3;

/// and so here.
const IN_SHM: usize = 4;

/// Which kinds are compared: a change with what would have been without it.
const MORE: [(&str, [usize; 2]); 3] = [
    ("about an upgrade less that on TCP", [UPGRADE, ON_TCP]),
    ("about a way back less that in shared memory, the sidecar asked", [FALLBACK, IN_SHM + 1]),
    ("in shared memory less that on TCP", [IN_SHM, ON_TCP]),
];

/// For how long a link that was sent back stays there: links that make room for others rest so long.
const REST: Duration = Duration::from_secs(2);

/// From one change to the next.
const EACH: Duration = Duration::from_millis(2500);

/// Requests count that are due so soon behind a point,
const AROUND: Duration = Duration::from_millis(25);

/// or so soon before it.
const EARLIER: Duration = Duration::from_millis(2);

/// How often changes are drawn anew.
const DRAWS: usize = 1000;
