//! `lighter tap`: what passes a sidecar is seen as it ends, by whoever asks, and costs nobody anything else.

use std::io::Read;
use std::net::SocketAddr;
use std::process::Command;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::support::process::Program;
use crate::support::raw::{Peer, Upstream};
use crate::support::sidecar::{LIGHTER, Sidecar};
use crate::support::{http2, metrics, test, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![
        test("tap::exchanges_are_shown_as_they_end", as_they_end),
        test("tap::only_what_is_asked_for_is_shown", only_those),
        test("tap::who_does_not_read_misses_lines_and_stops_nobody", not_read),
        test("tap::faults_are_told_in_a_line", faults),
    ]
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: up\r\n\r\n")
}

/// `lighter tap` with these words, once the sidecar knows of it and of `before` others.
fn tap(sidecar: &Sidecar, words: &[&str], before: f64) -> Program {
    let mut command = Command::new(LIGHTER);
    command.args(["tap", "--admin", &sidecar.admin.to_string()]).args(words);
    let mut program = Program::start(command, sidecar.path("").as_path());
    program.wait_until("it looks", || open(sidecar) > before);
    program
}

fn open(sidecar: &Sidecar) -> f64 {
    sidecar.metrics().sum("lighter_taps", &[])
}

fn lines(sidecar: &Sidecar, outcome: &str) -> f64 {
    sidecar.metrics().sum("lighter_tap_lines_total", &[("outcome", outcome)])
}

fn before() -> (Upstream, Sidecar, SocketAddr) {
    let upstream = Upstream::start(|mut peer, _| {
        while let Some(head) = peer.head() {
            peer.body(&head);
            let status = if head.target().starts_with("/no") { "503 No" } else { "200 OK" };
            peer.try_send(format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\nhello"));
        }
    });
    let (sidecar, at) = Sidecar::before(upstream.address, "http");
    (upstream, sidecar, at)
}

fn as_they_end() {
    let (upstream, sidecar, at) = before();
    let mut client = Peer::connect(at);
    // Nobody looks.
    assert_eq!(client.exchange(get("/before")).0.status(), 200);
    let mut json = tap(&sidecar, &["--json", "--count", "2"], 0.0);
    let mut text = tap(&sidecar, &["--count", "2"], 1.0);
    assert_eq!(client.exchange(get("/a?b=c")).0.status(), 200);
    http2::run(async {
        let client = http2::connect(at).await;
        assert_eq!(http2::get(&client, "/no").await.unwrap().head.status, 503);
    });
    assert!(json.wait().success() && text.wait().success());
    let seen: Vec<Value> = json.said().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [first, second] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!(first["path"], "/a?b=c");
    assert_eq!((&first["protocol"], &first["status"]), (&"http1".into(), &200.into()));
    assert_eq!((&first["service"], &first["bytes_out"]), (&"default/up".into(), &5.into()));
    assert_eq!(first["endpoint"], upstream.address.to_string());
    assert_eq!(
        (&second["path"], &second["protocol"], &second["status"]),
        (&"/no".into(), &"http2".into(), &503.into())
    );
    let said = text.said();
    let of_people: Vec<&str> = said.lines().collect();
    assert!(of_people[0].contains(" GET /a?b=c 200 "), "{said}");
    assert!(of_people[1].contains(" GET /no 503 "), "{said}");
    // They have gone, and nothing is written any more.
    wait_until("nobody looks", || open(&sidecar) == 0.0);
    assert_eq!(lines(&sidecar, "shown"), 4.0);
    assert_eq!(client.exchange(get("/after")).0.status(), 200);
    assert_eq!((lines(&sidecar, "shown"), lines(&sidecar, "missed")), (4.0, 0.0));
}

fn only_those() {
    let (_upstream, sidecar, at) = before();
    let mut failed = tap(&sidecar, &["--failed", "--count", "1", "--json"], 0.0);
    let mut path = tap(&sidecar, &["--path", "/a b", "--count", "1", "--json"], 1.0);
    let mut inbound = tap(&sidecar, &["--direction", "inbound"], 2.0);
    let mut client = Peer::connect(at);
    for target in ["/a", "/a%20b", "/no", "/a"] {
        client.exchange(get(target));
    }
    assert!(failed.wait().success());
    assert_eq!(failed.said().lines().count(), 1);
    assert!(failed.said().contains("\"path\":\"/no\""), "{}", failed.said());
    // As the request has it, and not as it may be meant.
    assert!(!path.has_ended());
    wait_until("the first has gone", || open(&sidecar) == 2.0);
    let mut path = tap(&sidecar, &["--path", "/a%20", "--count", "1", "--json"], 2.0);
    client.exchange(get("/a%20b"));
    assert!(path.wait().success());
    assert!(path.said().contains("\"path\":\"/a%20b\""), "{}", path.said());
    assert!(!inbound.has_ended() && inbound.said().is_empty(), "{}", inbound.said());
    assert_eq!(lines(&sidecar, "shown"), 2.0);
}

fn not_read() {
    let (_upstream, sidecar, at) = before();
    let mut idle = Peer::connect(sidecar.admin);
    idle.send("GET /tap HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(idle.expect_head().status(), 200);
    let mut client = Peer::connect(at);
    // Each line is cut where a path is very long.
    let long = get(&format!("/{}", "x".repeat(6000)));
    wait_until("there is no room for a line", || {
        for _ in 0..100 {
            assert_eq!(client.exchange(&long).0.status(), 200);
        }
        lines(&sidecar, "missed") > 0.0
    });
    // It reads after all, and is told.
    let mut seen = String::new();
    let mut part = [0; 65536];
    while !seen.contains("{\"missed\":") {
        let count = idle.stream.read(&mut part).unwrap();
        assert!(count > 0);
        seen.push_str(&String::from_utf8_lossy(&part[..count]));
    }
    drop(idle);
    wait_until("nobody looks", || open(&sidecar) == 0.0);
}

fn faults() {
    let (_upstream, sidecar, _) = before();
    let (status, said) = metrics::get(sidecar.admin, "/tap?pth=/a");
    assert!(status == 400 && said.contains("there is no `pth`"), "{status} {said}");
    let (status, said) = metrics::get(sidecar.admin, "/tap?status=high");
    assert!(status == 400 && said.contains("`status=high`: expected"), "{status} {said}");
    assert_eq!(metrics::ask(sidecar.admin, "POST", "/tap").0, 405);
    let tap = |admin: &str, words: &[&str]| {
        let output = Command::new(LIGHTER).args(["tap", "--admin", admin]).args(words).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (status, said) = tap(&sidecar.admin.to_string(), &["--status", "high"]);
    assert!(status == Some(1) && said.contains("`status=high`"), "{status:?} {said}");
    let nobody = crate::support::process::free_address().to_string();
    let (status, said) = tap(&nobody, &[]);
    assert!(status == Some(1) && said.contains(&nobody) && said.contains("--admin"), "{status:?} {said}");
    // So many may look, and no more.
    let looking: Vec<Peer> = (0..8)
        .map(|_| {
            let mut peer = Peer::connect(sidecar.admin);
            peer.send("GET /tap HTTP/1.1\r\nHost: localhost\r\n\r\n");
            assert_eq!(peer.expect_head().status(), 200);
            peer
        })
        .collect();
    let (status, said) = metrics::get(sidecar.admin, "/tap");
    assert!(status == 503 && said.contains("8 look already"), "{status} {said}");
    drop(looking);
    wait_until("nobody looks", || open(&sidecar) == 0.0);
}
