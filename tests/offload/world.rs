//! A caller's sidecar before a host and a device.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::process::free_address;
use crate::support::raw::{Body, Head, Peer, Upstream};
use crate::support::sidecar::{Sidecar, service};
use crate::support::wait_until;

/// What a server does with a request.
#[derive(Clone, Copy, Debug)]
pub enum Does {
    /// Answers with its name after so many milliseconds.
    After(u64),
    /// The same after none, but for each so manieth request.
    Each(usize, u64),
    /// Answers with its name at once, and says that one who asks now would wait for so many seconds.
    Says(f64),
    /// Sends the request's body back.
    Echo,
    /// Reads it and says nothing.
    Nothing,
    /// Answers with this status.
    Status(u16),
    /// Reads it and ends the connection.
    Cut,
    /// Begins its answer, and says nothing more.
    Half,
}

/// A server of HTTP/1 that knows nothing of Lighter.
pub struct Server {
    upstream: Upstream,
    does: Arc<Mutex<Does>>,
}

impl Server {
    pub fn start(name: &'static str, does: Does) -> Self {
        let does = Arc::new(Mutex::new(does));
        let shared = does.clone();
        let came = AtomicUsize::new(0);
        let upstream = Upstream::start(move |mut peer, _| {
            while let Some(head) = peer.head() {
                let Body::Whole(body) = peer.body(&head) else { return };
                let nth = came.fetch_add(1, Relaxed) + 1;
                let does = *shared.lock().unwrap();
                let answer = |status: u16, body: &[u8]| {
                    let head = format!("HTTP/1.1 {status} So\r\nContent-Length: {}\r\n\r\n", body.len());
                    [head.as_bytes(), body].concat()
                };
                let answer = match does {
                    Does::After(ms) => {
                        std::thread::sleep(Duration::from_millis(ms));
                        answer(200, name.as_bytes())
                    }
                    Does::Each(number, ms) => {
                        let is_it = nth.is_multiple_of(number);
                        std::thread::sleep(Duration::from_millis(if is_it { ms } else { 0 }));
                        answer(200, name.as_bytes())
                    }
                    Does::Says(seconds) => {
                        let head = format!(
                            "HTTP/1.1 200 So\r\nContent-Length: {}\r\nendpoint-load-metrics: TEXT \
                             named_metrics.queue_seconds={seconds}\r\n\r\n",
                            name.len()
                        );
                        [head.as_bytes(), name.as_bytes()].concat()
                    }
                    Does::Echo => answer(200, &body),
                    Does::Nothing => continue,
                    Does::Status(status) => answer(status, name.as_bytes()),
                    Does::Cut => return,
                    Does::Half => {
                        peer.try_send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
                        continue;
                    }
                };
                if !peer.try_send(answer) {
                    return;
                }
            }
        });
        Server { upstream, does }
    }

    pub fn set(&self, does: Does) {
        *self.does.lock().unwrap() = does;
    }

    pub fn address(&self) -> SocketAddr {
        self.upstream.address
    }

    /// How many requests came.
    pub fn requests(&self) -> usize {
        self.received().matches(" HTTP/1.1\r\n").count()
    }

    pub fn received(&self) -> String {
        self.upstream.received()
    }
}

/// What is said in resources.
pub struct Said<'s> {
    /// Fields of the Function, the Device and the OffloadPolicy, beside those that are always there.
    pub function: &'s str,
    pub device: &'s str,
    pub policy: &'s str,
}

/// A function that reads a dataset, which both hold at version 7, and an objective that is always met.
pub const SCAN: Said<'static> = Said {
    function: "state: readOnly",
    device: "datasets: [{name: orders, version: '7'}]",
    policy: "dataset: {name: orders, version: '7', bytes: 1000000}, slo: {latency: 10s}, explorePercent: 25",
};

pub struct World {
    pub sidecar: Sidecar,
    /// Where callers reach it.
    pub at: SocketAddr,
}

impl World {
    pub fn start(host: SocketAddr, device: SocketAddr, said: &Said<'_>) -> Self {
        Self::start_speaking("http", host, device, said)
    }

    /// The same where both speak this.
    pub fn start_speaking(protocol: &str, host: SocketAddr, device: SocketAddr, said: &Said<'_>) -> Self {
        let at = free_address();
        let own = format!("listeners: [{{listen: '{at}', service: orders, port: 80}}]\nworkers: 1\n");
        World { sidecar: Sidecar::start(&resources(protocol, host, device, said), &own), at }
    }

    /// Asks over a connection of its own.
    pub fn get(&self, path: &str) -> (Head, Body) {
        Peer::connect(self.at).exchange(get(path))
    }

    /// Asks until so many in a row were answered by this one. Every answer is one of 200.
    pub fn until(&self, who: &str, in_a_row: usize) {
        until(self.at, "/scan", who, in_a_row);
    }

    /// Waits until all that was decided has come to its end, which is a moment after its caller has the answer.
    pub fn rest(&self) -> &Self {
        wait_until("every request has ended", || {
            let metrics = self.sidecar.metrics();
            let sum = |name| metrics.sum(name, &[]);
            sum("lighter_offload_decisions_total") == sum("lighter_offload_requests_total")
        });
        self
    }

    pub fn decided(&self, labels: &[(&str, &str)]) -> f64 {
        self.sidecar.metrics().sum("lighter_offload_decisions_total", labels)
    }

    pub fn ended(&self, place: &str, outcome: &str) -> f64 {
        let labels = [("place", place), ("outcome", outcome)];
        self.sidecar.metrics().sum("lighter_offload_requests_total", &labels)
    }
}

/// How long a device was to be waited for, in seconds, of each decision for one that is in the log.
pub fn timeouts(world: &World) -> Vec<f64> {
    let log = crate::support::metrics::get(world.sidecar.admin, "/decisions?last=1000").1;
    let decisions = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    decisions.filter_map(|logged| logged["record"]["decision"]["timeout_seconds"].as_f64()).collect()
}

/// Asks for `path` there until so many in a row were answered by this one. Every answer is one of 200.
pub fn until(at: SocketAddr, path: &str, who: &str, in_a_row: usize) {
    let mut client = Peer::connect(at);
    let mut row = 0;
    wait_until(&format!("{in_a_row} in a row are answered by {who:?}"), || {
        // A look at the clock now and then is enough.
        for _ in 0..20 {
            let answer = said(client.exchange(get(path)));
            row = if answer == who { row + 1 } else { 0 };
            if row == in_a_row {
                return true;
            }
        }
        false
    });
}

pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: orders\r\n\r\n")
}

/// The body of an answer of 200.
pub fn said((head, body): (Head, Body)) -> String {
    assert_eq!(head.status(), 200, "{head:?}");
    let Body::Whole(body) = body else { panic!("a cut answer") };
    String::from_utf8(body).unwrap()
}

pub const DEVICE: &str = "default/csd";

pub fn resources(protocol: &str, host: SocketAddr, device: SocketAddr, said: &Said<'_>) -> String {
    let (orders, csd) = (service("orders", protocol, &[host]), service("orders-csd", protocol, &[device]));
    [orders, csd, placing(said)].join("---\n")
}

/// All of it but the Services.
pub fn placing(said: &Said<'_>) -> String {
    let Said { function, device, policy } = said;
    let device = self::device(device);
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: orders}}\nspec:\n  parentRefs: \
         [{{kind: Service, group: '', name: orders}}]\n  rules:\n  - {{name: scan, matches: [{{path: {{value: /scan}}}}], \
         backendRefs: [{{name: orders, port: 80}}]}}\n  - {{name: other, backendRefs: [{{name: orders, port: 80}}]}}\n---\n\
         apiVersion: mesh.lighter.dev/v1\nkind: Function\nmetadata: {{name: scan}}\nspec: {{{function}}}\n---\n\
         {device}---\n\
         apiVersion: mesh.lighter.dev/v1\nkind: OffloadPolicy\nmetadata: {{name: scans}}\nspec: {{targetRefs: [{{group: \
         gateway.networking.k8s.io, kind: HTTPRoute, name: orders, sectionName: scan}}], function: scan, devices: [csd], \
         {policy}}}\n"
    )
}

/// The Device alone.
pub fn device(fields: &str) -> String {
    format!(
        "apiVersion: mesh.lighter.dev/v1\nkind: Device\nmetadata: {{name: csd}}\nspec: {{class: csd, service: {{name: \
         orders-csd, port: 80}}, functions: [scan], {fields}}}\n"
    )
}
