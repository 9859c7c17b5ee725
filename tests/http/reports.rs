//! Shares by the load that endpoints report.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use libtest_mimic::Trial;

use crate::script::Script;
use crate::support::raw::{Body, Peer, Upstream};
use crate::support::sidecar::Sidecar;
use crate::support::{example, http2, test, test_where, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![
        test("reports::who_is_busy_gets_its_share_and_callers_see_nothing_of_it", shares),
        test("reports::what_makes_no_sense_is_counted_and_changes_nothing", nonsense),
        test("reports::callers_of_http_2_are_told_no_more", http2_callers),
        test_where("reports::servers_of_grpc_report_in_trailers", grpc),
    ]
}

const REPORT: &str = "Endpoint-Load-Metrics";

/// The example, but that what is reported counts at once.
fn at_once(endpoints: &[SocketAddr]) -> String {
    let file = example::policy("load-reports", endpoints);
    assert!(file.contains("blackout: 10s"));
    file.replace("blackout: 10s", "blackout: 0s\n      interval: 100ms")
}

/// An endpoint that reports what stands there.
fn reporting() -> (Upstream, Arc<Mutex<String>>) {
    let report = Arc::new(Mutex::new(String::new()));
    let said = report.clone();
    let upstream = Upstream::start(move |mut peer, _| {
        while peer.head().is_some() {
            let report = said.lock().unwrap().clone();
            let fields = format!("X-Before: 1\r\n{REPORT}: {report}\r\nX-Behind: 2\r\n");
            if !peer.try_send(format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\nok")) {
                return;
            }
        }
    });
    (upstream, report)
}

fn of_endpoint(sidecar: &Sidecar, name: &str, at: SocketAddr) -> f64 {
    sidecar.metrics().sum(name, &[("endpoint", &at.to_string())])
}

/// Asks so often; gives how many requests each endpoint got.
fn asked(sidecar: &Sidecar, client: &mut Peer, endpoints: &[SocketAddr; 3], times: usize) -> [f64; 3] {
    let requests = || endpoints.map(|at| of_endpoint(sidecar, "lighter_endpoint_requests_total", at));
    let before = requests();
    for _ in 0..times {
        let (head, body) = client.exchange("GET / HTTP/1.1\r\nHost: shop\r\n\r\n");
        assert_eq!((head.status(), body), (200, Body::Whole(b"ok".to_vec())), "{head:?}");
        assert_eq!(
            (head.get("x-before"), head.get("x-behind"), head.get(REPORT)),
            (Some("1"), Some("2"), None)
        );
    }
    let after = requests();
    [0, 1, 2].map(|place| after[place] - before[place])
}

fn shares() {
    let upstreams = [reporting(), reporting(), reporting()];
    let endpoints = upstreams.each_ref().map(|(upstream, _)| upstream.address);
    let report = |place: usize, text: &str| *upstreams[place].1.lock().unwrap() = text.to_owned();
    report(0, "TEXT application_utilization=0.2, rps_fractional=100");
    report(1, r#"JSON {"named_metrics": {"orders": 0.1, "mails": 0.2}, "rps_fractional": 100}"#);
    // A third of what it has goes into requests, and each tenth of these is an error, which counts as much again.
    report(2, "TEXT cpu_utilization=0.7,rps_fractional=100,eps=10");
    let (sidecar, at) = example::running(&at_once(&endpoints));
    let mut client = Peer::connect(at);
    // 500, 500 and 125: of 90, the third has ten.
    wait_until("shares are as is reported", || {
        let [one, two, three] = asked(&sidecar, &mut client, &endpoints, 90);
        (38.0..=42.0).contains(&one) && (38.0..=42.0).contains(&two) && (8.0..=12.0).contains(&three)
    });
    let weights = endpoints.map(|at| of_endpoint(&sidecar, "lighter_endpoint_reported_weight", at).round());
    assert_eq!(weights, [500.0, 500.0, 125.0]);
    // It has less to do, and gets more.
    report(2, "TEXT cpu_utilization=0.2,rps_fractional=100");
    wait_until("they are alike", || {
        asked(&sidecar, &mut client, &endpoints, 90).iter().all(|share| (28.0..=32.0).contains(share))
    });
    // Callers see the reports if they are meant to, on connections that are open.
    let file = at_once(&endpoints);
    sidecar.apply(&file.replace("expiration: 3m", "expiration: 3m\n      passOn: true"));
    wait_until("reports are passed on", || {
        let (head, _) = client.exchange("GET / HTTP/1.1\r\nHost: shop\r\n\r\n");
        head.get(REPORT).is_some()
    });
    // Who does not go by them lets them pass as they are, unread.
    sidecar.apply(
        &file
            .replace("policy: weightedRoundRobin", "policy: roundRobin")
            .replace(&file[file.find("    loadReports:").unwrap()..], ""),
    );
    let heard = || sidecar.metrics().sum("lighter_endpoint_load_reports_total", &[]);
    wait_until("they are not heard", || {
        let before = heard();
        let (head, _) = client.exchange("GET / HTTP/1.1\r\nHost: shop\r\n\r\n");
        heard() == before && head.get(REPORT).is_some()
    });
}

fn nonsense() {
    let upstreams = [reporting(), reporting(), reporting()];
    let endpoints = upstreams.each_ref().map(|(upstream, _)| upstream.address);
    for (report, said) in
        upstreams.iter().zip(["TEXT cpu_utilization", "JSON {}", "TEXT eps=1,rps_fractional=inf"])
    {
        *report.1.lock().unwrap() = said.to_owned();
    }
    let (sidecar, at) = example::running(&at_once(&endpoints));
    let mut client = Peer::connect(at);
    let found = asked(&sidecar, &mut client, &endpoints, 300);
    assert!(found.iter().all(|share| (99.0..=101.0).contains(share)), "{found:?}");
    let reports =
        |outcome: &str| sidecar.metrics().sum("lighter_endpoint_load_reports_total", &[("outcome", outcome)]);
    assert_eq!(
        [reports("taken"), reports("empty"), reports("malformed")],
        [0.0, found[1] + found[2], found[0]]
    );
}

fn http2_callers() {
    let upstreams = [reporting(), reporting(), reporting()];
    let endpoints = upstreams.each_ref().map(|(upstream, _)| upstream.address);
    for (_, report) in &upstreams {
        *report.lock().unwrap() = "TEXT cpu_utilization=0.5,rps_fractional=9".to_owned();
    }
    let (sidecar, at) = example::running(&at_once(&endpoints));
    http2::run(async {
        let client = http2::connect(at).await;
        for _ in 0..9 {
            let answer = http2::get(&client, "/").await.unwrap();
            let has = |name: &str| answer.head.headers.contains_key(name);
            assert!(has("x-before") && has("x-behind") && !has(REPORT), "{answer:?}");
        }
    });
    assert_eq!(sidecar.metrics().sum("lighter_endpoint_load_reports_total", &[("outcome", "taken")]), 9.0);
}

fn grpc() -> Result<(), String> {
    let modules = "grpc, xds.data.orca.v3.orca_load_report_pb2";
    let mut script = Script::start(modules, "reports.py", &["0.2", "0.2", "0.8"])?;
    let numbers =
        |words: Vec<String>| -> Vec<u16> { words.iter().map(|word| word.parse().unwrap()).collect() };
    let ports = numbers(script.hear()).into_iter();
    let endpoints: Vec<_> = ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect();
    let file = at_once(&endpoints).replace("appProtocol: http", "appProtocol: grpc");
    let (sidecar, at) = example::running(&file);
    let mut line = format!("{at}\n90");
    wait_until("shares are as is reported", || {
        let found = numbers(script.tell(&std::mem::replace(&mut line, "90".into())));
        (38..=42).contains(&found[0]) && (38..=42).contains(&found[1]) && (8..=12).contains(&found[2])
    });
    let taken = sidecar.metrics().sum("lighter_endpoint_load_reports_total", &[("outcome", "taken")]);
    assert!(taken >= 90.0, "{taken}");
    script.end();
    Ok(())
}
