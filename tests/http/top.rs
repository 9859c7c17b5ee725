//! `lighter top`: what an operator sees of a sidecar while it carries traffic.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::support::process::free_address;
use crate::support::raw::{Peer, Upstream};
use crate::support::sidecar::{LIGHTER, Sidecar, service};
use crate::support::{PATIENCE, test, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![
        test("top::what_routes_carry_is_counted_to_the_request", counted),
        test("top::what_is_under_way_is_seen", under_way),
        test("top::it_ends_after_as_many_refreshes_as_asked_for", ends),
        test("top::it_outlives_the_sidecar_it_watches", started_anew),
        test("top::where_no_sidecar_is_it_says_so", no_sidecar),
    ]
}

const GET: &str = "GET / HTTP/1.1\r\nHost: up\r\n\r\n";

/// A `lighter top --json` that runs. It ends when this is dropped.
struct Top {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Top {
    /// Starts it with a first refresh behind it: whatever comes from here on, it counts.
    fn start(admin: SocketAddr, more: &[&str]) -> Self {
        let mut child = Command::new(LIGHTER)
            .args(["top", "--json", "--interval", "100ms", "--admin", &admin.to_string()])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (tell, lines) = mpsc::channel();
        std::thread::spawn(move || stdout.lines().try_for_each(|line| tell.send(line.unwrap())));
        let mut top = Top { child, lines };
        let first = top.next().expect("a first refresh");
        assert_eq!(first["routes"], Value::Array(vec![]), "nothing was carried yet");
        top
    }

    /// The next refresh, or none where it has ended.
    fn next(&mut self) -> Option<Value> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))),
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("top says nothing"),
        }
    }

    /// Refreshes up to the one after which `enough` of all of them holds.
    fn until(&mut self, what: &str, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let mut refreshes = Vec::new();
        wait_until(what, || {
            refreshes.push(self.next().expect("it goes on"));
            enough(&refreshes)
        });
        refreshes
    }

    fn end(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The rows of a Service in these refreshes.
fn rows<'a>(refreshes: &'a [Value], service: &'a str) -> impl Iterator<Item = &'a Value> {
    let all = refreshes.iter().flat_map(|refresh| refresh["routes"].as_array().unwrap());
    all.filter(move |row| row["service"] == service)
}

/// What was counted of a Service in all of them.
fn sum(refreshes: &[Value], service: &str, field: &str) -> u64 {
    rows(refreshes, service).map(|row| row[field].as_u64().unwrap()).sum()
}

/// The latencies of `well` at the 50th and the 99th percentile, where there are any.
fn latencies(refreshes: &[Value]) -> impl Iterator<Item = (f64, f64)> {
    rows(refreshes, "default/well")
        .map(|row| &row["latency_seconds"])
        .filter_map(|latency| Some((latency["p50"].as_f64()?, latency["p99"].as_f64()?)))
}

fn asked(at: SocketAddr, count: usize, status: u16) {
    let mut client = Peer::connect(at);
    for _ in 0..count {
        assert_eq!(client.exchange(GET).0.status(), status);
    }
}

fn counted() {
    let upstream = Upstream::answering("hello");
    let failing = Upstream::start(|mut peer, _| {
        while peer.head().is_some() {
            peer.send("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let [well, ill, dead, early] = std::array::from_fn(|_| free_address());
    let listeners: Vec<String> = [(well, "well"), (ill, "ill"), (dead, "dead"), (early, "early")]
        .iter()
        .map(|(at, name)| format!("{{listen: '{at}', service: {name}, port: 80}}"))
        .collect();
    let resources = [
        service("well", "http", &[upstream.address]),
        service("ill", "http", &[failing.address]),
        service("dead", "http", &[free_address()]),
        service("early", "http", &[upstream.address]),
    ]
    .join("---\n");
    let sidecar = Sidecar::start(&resources, &format!("listeners: [{}]\n", listeners.join(", ")));
    // Carried before it began: that is no news.
    asked(early, 20, 200);
    wait_until("they are counted", || {
        // Of all that is counted of a request, this comes last.
        sidecar.metrics().sum("lighter_response_latency_seconds_count", &[]) == 20.0
    });
    let mut top = Top::start(sidecar.admin, &["--sort", "errors"]);
    asked(well, 30, 200);
    asked(ill, 7, 500);
    asked(dead, 5, 503);
    let all = ["default/well", "default/ill", "default/dead"];
    let refreshes = top.until("all of it was shown", |refreshes| {
        let ended: u64 = all.iter().map(|service| sum(refreshes, service, "ended")).sum();
        // A refresh may fall between what is counted of one request.
        ended >= 42 && sum(refreshes, all[0], "bytes_out") >= 150 && latencies(refreshes).count() > 0
    });
    let of = |field| all.map(|service| sum(&refreshes, service, field));
    assert_eq!(of("ended"), [30, 7, 5], "{refreshes:?}");
    assert_eq!(of("failed"), [0, 7, 5], "{refreshes:?}");
    assert_eq!(of("bytes_out")[0], 30 * "hello".len() as u64);
    assert_eq!(sum(&refreshes, "default/early", "ended"), 0);
    assert_eq!(rows(&refreshes, "default/early").count(), 0, "it carries nothing");

    for row in rows(&refreshes, "default/well") {
        assert_eq!((&row["direction"], &row["port"]), (&"outbound".into(), &80.into()));
        let ended = row["ended"].as_u64().unwrap();
        assert_eq!(row["success"], if ended == 0 { Value::Null } else { 1.0.into() }, "{row}");
        assert_eq!(row["per_second"]["ended"].as_f64().unwrap() > 0.0, ended > 0, "{row}");
    }
    for (p50, p99) in latencies(&refreshes) {
        assert!(0.0 < p50 && p50 <= p99, "{p50} {p99}");
    }
    // What failed most comes first, and every refresh says what the sidecar as a whole is like.
    for refresh in &refreshes {
        let failed: Vec<_> =
            refresh["routes"].as_array().unwrap().iter().map(|row| row["failed"].as_u64().unwrap()).collect();
        assert!(failed.is_sorted_by(|one, next| one >= next), "{refresh}");
        assert!(refresh["resident_bytes"].as_u64().unwrap() > 1 << 20, "{refresh}");
        assert!(
            refresh["cpu"].as_f64().unwrap() >= 0.0 && refresh["uptime_seconds"].is_number(),
            "{refresh}"
        );
    }
}

fn under_way() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let upstream = Upstream::start(move |mut peer, _| {
        while peer.head().is_some() && wait.lock().unwrap().recv().is_ok() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let (sidecar, at) = Sidecar::before(upstream.address, "http");
    let mut top = Top::start(sidecar.admin, &[]);
    let mut client = Peer::connect(at);
    client.send(GET);
    let is_open = |refreshes: &[Value], open: u64| {
        rows(refreshes, "default/up").last().is_some_and(|row| row["open"] == open)
    };
    let refreshes = top.until("it is under way", |refreshes| is_open(refreshes, 1));
    assert_eq!(sum(&refreshes, "default/up", "ended"), 0);
    assert_eq!(refreshes.last().unwrap()["connections_open"], 1);
    go.send(()).unwrap();
    assert_eq!(client.expect_head().status(), 200);
    let refreshes = top.until("it has ended", |refreshes| {
        is_open(refreshes, 0) && sum(refreshes, "default/up", "ended") > 0
    });
    assert_eq!(sum(&refreshes, "default/up", "ended"), 1);
}

fn ends() {
    let upstream = Upstream::answering("x");
    let (sidecar, at) = Sidecar::before(upstream.address, "http");
    let mut top = Top::start(sidecar.admin, &["--count", "2"]);
    asked(at, 1, 200);
    assert!(top.next().is_some() && top.next().is_none(), "two in all");
    assert!(top.end().success());
    // For people: one table after the other, as this is no terminal.
    let output = run(sidecar.admin, &["--count", "2", "--interval", "100ms"]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let tables: Vec<_> = text.split("\n\nsidecar ").collect();
    assert_eq!(tables.len(), 2, "{text}");
    assert!(text.starts_with(&format!("sidecar {}, up ", sidecar.admin)), "{text}");
    assert!(text.contains("connections open: ") && !text.contains('\u{1b}'), "{text:?}");
}

/// A sidecar that says these pages one after the other, and the last one from then on.
fn saying(pages: &'static [&'static str]) -> Upstream {
    Upstream::start(move |mut peer, at| {
        peer.expect_head();
        let page = pages[at.min(pages.len() - 1)];
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{page}", page.len()));
    })
}

fn started_anew() {
    const FIRST: &str = "lighter_worker_connections_open 0\nprocess_cpu_seconds_total 9\n\
                         lighter_requests_total{service=\"default/up\",code_class=\"2xx\",cause=\"\"} 100\n";
    const ANEW: &str = "lighter_worker_connections_open 0\nprocess_cpu_seconds_total 1\n\
                        lighter_requests_total{service=\"default/up\",code_class=\"2xx\",cause=\"\"} 120\n";
    // It goes away for a moment, and says nonsense for another, as it starts.
    let fake = Upstream::start(|mut peer, at| {
        peer.expect_head();
        let page = match at {
            0 | 1 => FIRST,
            2 => return,
            3 => "nonsense",
            _ => ANEW,
        };
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{page}", page.len()));
    });
    let mut top = Top::start(fake.address, &["--count", "3"]);
    let next = top.next().unwrap();
    assert_eq!(next["routes"][0]["ended"], 120, "{next}");
    let next = top.next().unwrap();
    assert_eq!(next["routes"][0]["ended"], 0, "{next}");
    assert!(top.next().is_none() && top.end().success());
}

fn no_sidecar() {
    let nobody = free_address();
    let other = saying(&["<html>\n"]);
    let cut = Upstream::start(|mut peer, _| {
        peer.expect_head();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nlighter_worker_connections_open 1\n");
    });
    for (admin, said) in
        [(nobody, "refused"), (other.address, "no metrics of a sidecar"), (cut.address, "ended within")]
    {
        let output = run(admin, &["--count", "1"]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(output.stdout.is_empty(), "{output:?}");
        for part in [&admin.to_string(), said, "--admin"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}

fn run(admin: SocketAddr, more: &[&str]) -> Output {
    let mut command = Command::new(LIGHTER);
    command.args(["top", "--admin", &admin.to_string()]).args(more).stdin(Stdio::null()).output().unwrap()
}
