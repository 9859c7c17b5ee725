//! The paths through a whole sidecar, with routing, balancing and metrics.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::ports::free_ports;
use crate::root::Root;
use crate::{Case, callgrind, load};

pub fn cases() -> Vec<Case> {
    let case = |name, unit, count, limit, protocol, upstream: fn() -> u16, drive: fn(u16, u64)| Case {
        name,
        unit,
        count,
        steady: !matches!(name, "http1-64k" | "tcp"),
        limit,
        beside: None,
        run: Box::new(move |file, count| {
            through_sidecar(file, protocol, upstream(), "", |port| drive(port, count));
        }),
    };
    let alone = vec![
        // As a sidecar lives, and as `peers` measures: 64 connections, so that one turn of the runtime (one `epoll_wait`)
        // serves many of them. This is the case with the limit.
        case(
            "http1-small",
            "request",
            64 * 40,
            Some(9_000.0),
            "http",
            || load::http1_upstream(128),
            |port, count| load::http1(port, 128, 64, count),
        ),
        // One request at a time, with two turns of the runtime to itself.
        case(
            "http1-alone",
            "request",
            1000,
            None,
            "http",
            || load::http1_upstream(128),
            |port, count| load::http1(port, 128, 1, count),
        ),
        case(
            "http1-64k",
            "request",
            500,
            None,
            "http",
            || load::http1_upstream(64 * 1024),
            |port, count| load::http1(port, 64 * 1024, 1, count),
        ),
        case("http2-grpc", "call", 500, None, "grpc", load::grpc_upstream, load::grpc),
        case("tcp", "MiB", 200, None, "tcp", load::tcp_upstream, load::tcp),
    ];
    alone.into_iter().chain(filter_cases()).chain(pair_cases()).collect()
}

/// One request at a time by a rule of a route that does nothing to it; then with every policy there is at the rule beside
/// it, which must change nothing.
fn filter_cases() -> Vec<Case> {
    let case = |name, policies: bool, beside| Case {
        name,
        unit: "request",
        // Many, so that what else happens in a process is lost in them.
        count: 4000,
        steady: true,
        limit: None,
        beside,
        run: Box::new(move |file, count| {
            let more = if policies { [ROUTE, POLICIES].concat() } else { ROUTE.to_owned() };
            through_sidecar(file, "http", load::http1_upstream(128), &more, |port| {
                load::http1(port, 128, 1, count);
            });
        }),
    };
    vec![case("http1-route", false, None), case("http1-beside-filters", true, Some(("http1-route", 1.02)))]
}

const ROUTE: &str = "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: bench}
spec:
  parentRefs: [{kind: Service, name: bench}]
  rules:
    - {name: small, matches: [{path: {value: /small}}], backendRefs: [{name: bench, port: 80}]}
    - {name: other, matches: [{path: {value: /other}}], backendRefs: [{name: bench, port: 80}]}
";

const POLICIES: &str = "---
apiVersion: mesh.lighter.dev/v1
kind: TrafficPolicy
metadata: {name: bench}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: bench, sectionName: other}]
  rateLimits: [{requests: 1000}, {requests: 10, per: Header, header: x-api-key}]
  maxRequestBytes: 1000
  maxHeaderBytes: 1000
  fault: {delay: {duration: 1s, percent: 1}, abort: {httpStatus: 503, percent: 1}}
";

/// Which sidecar of a pair is counted.
#[derive(Clone, Copy)]
enum End {
    Caller,
    Service,
}

/// Small requests through a pair with mTLS in between. On one connection within TLS, as `http1-alone`: with 64, a busy
/// machine makes more handshakes in one run than in the other, and each counts as much as some fifty requests. Over a
/// link on 64, as `http1-small`: there it depends on how many come at once what each costs.
fn pair_cases() -> Vec<Case> {
    let case = |name, end, link| Case {
        name,
        unit: "request",
        count: if link { 64 * 40 } else { 1000 },
        steady: !link,
        limit: None,
        beside: None,
        run: Box::new(move |file, count| {
            through_pair(file, end, link, load::http1_upstream(128), |port| {
                load::http1(port, 128, if link { 64 } else { 1 }, count);
            });
        }),
    };
    vec![
        case("http1-mtls-caller", End::Caller, false),
        case("http1-mtls-service", End::Service, false),
        case("http1-link-caller", End::Caller, true),
        case("http1-link-service", End::Service, true),
    ]
}

/// `more`: resources beside the Service.
fn through_sidecar(file: &Path, protocol: &str, upstream: u16, more: &str, drive: impl FnOnce(u16)) {
    let folder = tempfile::tempdir().unwrap();
    let [port] = free_ports();
    let resources = format!(
        "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {{name: bench}}\nspec:\n  \
         ports: [{{name: main, port: 80, targetPort: {upstream}, appProtocol: {protocol}}}]\n  \
         endpoints: [{{address: 127.0.0.1}}]\n{more}"
    );
    let own = format!("listeners: [{{listen: '127.0.0.1:{port}', service: bench, port: 80}}]\n");
    let sidecar = Sidecar::start(callgrind(file, LIGHTER), folder.path(), &resources, &own, port);
    drive(port);
    sidecar.end();
}

fn through_pair(file: &Path, end: End, link: bool, upstream: u16, drive: impl FnOnce(u16)) {
    let root = Root::new();
    let [port, between, links] = free_ports();
    let service = "spiffe://mesh.lighter/ns/default/sa/bench";
    let over = if link { format!(", link: '127.0.0.1:{links}'") } else { String::new() };
    let resources = format!(
        "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {{name: bench}}\nspec:\n  \
         ports: [{{name: main, port: 80, targetPort: 8080, appProtocol: http}}]\n  \
         endpoints: [{{address: 127.0.0.1, port: {between}, secure: {{identity: '{service}'{over}}}}}]\n"
    );
    let program = |counted: bool| if counted { callgrind(file, LIGHTER) } else { Command::new(LIGHTER) };
    let start = |name: &str, counted, own: String, port| {
        let folder = root.folder().join(name);
        std::fs::create_dir(&folder).unwrap();
        Sidecar::start(program(counted), &folder, &resources, &own, port)
    };
    let mut own = format!(
        "service: bench\ninbound: [{{listen: '127.0.0.1:{between}', app: '127.0.0.1:{upstream}', port: 80}}]\n{}",
        root.identity(service)
    );
    if link {
        own += &format!("link: 127.0.0.1:{links}\n");
    }
    let far = start("far", matches!(end, End::Service), own, between);
    let own = format!(
        "listeners: [{{listen: '127.0.0.1:{port}', service: bench, port: 80}}]\n{}",
        root.identity("spiffe://mesh.lighter/ns/default/sa/caller")
    );
    let near = start("near", matches!(end, End::Caller), own, port);
    drive(port);
    near.end();
    far.end();
}

const LIGHTER: &str = env!("CARGO_BIN_EXE_lighter");

struct Sidecar(Child);

impl Sidecar {
    /// Starts `program` as a sidecar with files in `folder`, and waits until it listens on `port`.
    fn start(mut program: Command, folder: &Path, resources: &str, own: &str, port: u16) -> Self {
        let [admin] = free_ports();
        let file = folder.join("resources.yaml");
        std::fs::write(&file, resources).unwrap();
        let config = folder.join("sidecar.yaml");
        let common = format!("resources: [{}]\nworkers: 1\nadmin: 127.0.0.1:{admin}\n", file.display());
        std::fs::write(&config, common + own).unwrap();
        let log = std::fs::File::create(folder.join("log")).unwrap();
        program.args(["proxy", "--config"]).arg(config);
        program.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut child = program.spawn().unwrap();
        let start = Instant::now();
        // While nobody listens, a connection to a port of the range from which its own is taken can be one to itself.
        let is_to_another = |stream: TcpStream| stream.local_addr().ok() != stream.peer_addr().ok();
        while !TcpStream::connect(("127.0.0.1", port)).is_ok_and(is_to_another) {
            let said = || std::fs::read_to_string(folder.join("log")).unwrap_or_default();
            assert!(child.try_wait().unwrap().is_none(), "the sidecar ended at its start:\n{}", said());
            assert!(start.elapsed() < Duration::from_secs(60), "the sidecar does not listen:\n{}", said());
            std::thread::sleep(Duration::from_millis(20));
        }
        Sidecar(child)
    }

    /// Ends it, so that callgrind writes what it counted.
    fn end(mut self) {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        self.0.wait().unwrap();
    }
}
