//! Requests while their link changes its wire: sent back to TCP again and again, from where it goes over to shared memory
//! by itself. Latencies are those of the requests that were due about then.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::http1;
use crate::measure::Load;

/// Which requests count: those due about
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// a change from TCP to shared memory,
    Upgrade,
    /// a change back to TCP, which the sidecar is asked for,
    Fallback,
    /// or as many where a link stays where it is.
    Nothing,
}

/// Sends 1,000 requests a second to `port`, for `times` changes. `admin`: of the sidecar that opens the link.
pub fn load(port: u16, admin: u16, about: About, times: u32) -> Load {
    let changes = std::thread::spawn(move || changes(admin, about, times));
    let answers = http1::paced(port, "/small", 64, 1000, (REST + AROUND * 2) * times + AROUND * 2);
    let changes = changes.join().expect("a sidecar says what its links do");
    answers.load(|due| changes.iter().any(|at| due + EARLIER >= *at && due < *at + AROUND))
}

/// When the link changed its wire that way, or would have.
fn changes(admin: u16, about: About, times: u32) -> Vec<Instant> {
    let moves = about != About::Nothing;
    let mut changes = Vec::new();
    for _ in 0..times {
        let before = gone_over(admin);
        // What that cost is to be over.
        std::thread::sleep(AROUND);
        let at = Instant::now();
        if moves {
            ask(admin, "POST", "/links/freeze");
        }
        std::thread::sleep((at + REST + AROUND).saturating_duration_since(Instant::now()));
        // Both ways, and no later than that its requests are counted.
        if gone_over(admin) >= before + if moves { 2.0 } else { 0.0 } {
            changes.push(if about == About::Upgrade { at + REST } else { at });
        }
    }
    assert!(!changes.is_empty(), "the link goes over to shared memory again");
    changes
}

/// How often a direction of a link went over to shared memory.
fn gone_over(admin: u16) -> f64 {
    let metrics = ask(admin, "GET", "/metrics");
    let counts = metrics.lines().filter_map(|line| line.strip_prefix("lighter_link_switches_total "));
    counts.filter_map(|count| count.parse::<f64>().ok()).sum()
}

/// What the sidecar answers.
fn ask(admin: u16, method: &str, path: &str) -> String {
    let mut sidecar = TcpStream::connect(("127.0.0.1", admin)).expect("a sidecar listens to its admin");
    write!(sidecar, "{method} {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").expect("it takes what is asked");
    let mut answer = String::new();
    sidecar.read_to_string(&mut answer).expect("it answers");
    assert!(answer.split(' ').nth(1) == Some("200"), "{path}: {answer}");
    answer
}

/// For how long a link that was sent back stays there: links that make room for others rest so long.
const REST: Duration = Duration::from_secs(2);

/// Requests count that are due so soon behind a change,
const AROUND: Duration = Duration::from_millis(25);

/// or so soon before it.
const EARLIER: Duration = Duration::from_millis(2);
