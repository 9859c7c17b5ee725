//! Endpoints that are left alone for what they answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use libtest_mimic::Trial;

use crate::support::example;
use crate::support::raw::{Peer, Upstream};
use crate::support::{test, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![
        test("ejection::an_endpoint_that_answers_with_errors_is_left_alone", errors),
        test("ejection::an_endpoint_that_is_slower_than_the_others_is_left_alone", slow),
    ]
}

const GET: &str = "GET / HTTP/1.1\r\nHost: shop\r\n\r\n";

/// What an upstream does with its next request.
#[derive(Clone, Default)]
struct Mood(Arc<(AtomicU16, AtomicU64)>);

impl Mood {
    fn upstream(&self) -> Upstream {
        let mood = self.clone();
        mood.0.0.store(200, Ordering::Relaxed);
        Upstream::start(move |mut peer, _| {
            while let Some(head) = peer.head() {
                peer.body(&head);
                std::thread::sleep(Duration::from_millis(mood.0.1.load(Ordering::Relaxed)));
                let status = mood.0.0.load(Ordering::Relaxed);
                if !peer.try_send(format!("HTTP/1.1 {status} x\r\nContent-Length: 2\r\n\r\nok")) {
                    return;
                }
            }
        })
    }
}

fn errors() {
    let moods: [Mood; 3] = Default::default();
    let upstreams = moods.each_ref().map(Mood::upstream);
    let addresses = upstreams.each_ref().map(|upstream| upstream.address);
    let (sidecar, at) = example::sidecar("ejection", &addresses);
    let ejections = |cause: &str| {
        let labels = [("endpoint", &*addresses[1].to_string()), ("cause", cause)];
        sidecar.metrics().sum("lighter_endpoint_ejections_total", &labels)
    };
    let mut client = Peer::connect(at);
    (0..30).for_each(|_| assert_eq!(client.exchange(GET).0.status(), 200));
    assert_eq!(ejections("consecutive_5xx"), 0.0);
    moods[1].0.0.store(500, Ordering::Relaxed);
    let mut failed = 0;
    wait_until("it is left alone", || {
        failed += usize::from(client.exchange(GET).0.status() == 500);
        ejections("consecutive_5xx") == 1.0
    });
    assert_eq!(failed, 5, "as many as the policy says");
    (0..60).for_each(|_| assert_eq!(client.exchange(GET).0.status(), 200));
    assert_eq!(ejections("consecutive_failures"), 0.0);
}

fn slow() {
    let moods: [Mood; 3] = Default::default();
    let upstreams = moods.each_ref().map(Mood::upstream);
    let addresses = upstreams.each_ref().map(|upstream| upstream.address);
    // By turns, or the balancer itself would hardly ask it.
    let file = example::policy("ejection", &addresses);
    let (sidecar, at) =
        example::running(&file.replace("  ejection:", "  balancing: {policy: roundRobin}\n  ejection:"));
    moods[2].0.1.store(40, Ordering::Relaxed);
    let slow = addresses[2].to_string();
    let mut client = Peer::connect(at);
    wait_until("it is left alone", || {
        client.exchange(GET);
        let labels = [("endpoint", &*slow), ("cause", "latency")];
        sidecar.metrics().sum("lighter_endpoint_ejections_total", &labels) == 1.0
    });
    let asked = || sidecar.metrics().sum("lighter_endpoint_requests_total", &[("endpoint", &slow)]);
    let before = asked();
    (0..30).for_each(|_| assert_eq!(client.exchange(GET).0.status(), 200));
    assert_eq!(asked(), before);
}
