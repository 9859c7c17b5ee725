//! Devices that stall, die, refuse and fail: the host answers, and soon nobody asks them.

use std::process::Command;
use std::sync::LazyLock;

use libtest_mimic::Trial;

use crate::device::Data;
use crate::support::http2;
use crate::support::process::find;
use crate::support::raw::{Body, Peer};
use crate::support::sidecar::{Sidecar, policy, service};
use crate::support::{test, test_where, wait_until};
use crate::world::{DEVICE, Does, SCAN, Said, Server, World, get, said};

pub fn tests() -> Vec<Trial> {
    vec![
        test("setbacks::a_device_that_stalls_costs_no_request_and_comes_back", stalls),
        test("setbacks::an_answer_in_which_a_device_falls_silent_is_cut", half),
        test("setbacks::a_device_that_is_killed_costs_no_request", killed),
        test("setbacks::what_a_device_refuses_the_host_answers", refuses),
        test("setbacks::what_a_device_fails_at_the_host_answers", fails),
        test("setbacks::an_answer_that_the_request_is_at_fault_stays_one", at_fault),
        test("setbacks::a_body_goes_along_as_far_as_it_is_kept", bodies),
        test("setbacks::a_device_behind_which_there_is_nobody_is_left", unreached),
        test("setbacks::nobody_waits_for_room_on_a_device", no_room),
        test_where("setbacks::callers_that_speak_http2_are_answered_as_well", http2_callers),
        test("setbacks::endpoints_that_speak_http2_are_left_as_well", http2_endpoints),
        test("setbacks::a_caller_that_goes_away_says_nothing_of_a_device", abandoned),
    ]
}

/// A world whose device is preferred.
fn preferred(policy: &str) -> (Server, Server, World) {
    let (host, device) = (Server::start("host", Does::After(40)), Server::start("device", Does::After(0)));
    let world = World::start(host.address(), device.address(), &Said { policy, ..SCAN });
    world.until("device", 20);
    (host, device, world)
}

const QUICK: &str = "dataset: {name: orders, version: '7', bytes: 1000000}, slo: {latency: 10s}, explorePercent: 25, tryTimeout: 300ms";

/// The same where the device is preferred however long it takes.
static ALWAYS: LazyLock<String> = LazyLock::new(|| format!("{QUICK}, objective: bytes"));

fn stalls() {
    let (_host, device, world) = preferred(QUICK);
    device.set(Does::Nothing);
    world.until("host", 20);
    let late = world.rest().ended(DEVICE, "timed_out");
    assert!((1.0..=8.0).contains(&late), "{late}");
    assert_eq!(
        world.decided(&[("reason", "failed"), ("place", "host")]),
        late,
        "each had another place at once"
    );
    let metrics = world.sidecar.metrics();
    assert_eq!(metrics.sum("lighter_retries_total", &[("condition", "timeout")]), late);
    assert_eq!(metrics.sum("lighter_requests_total", &[("code_class", "5xx")]), 0.0);
    device.set(Does::After(0));
    world.until("device", 20);
}

fn half() {
    let (_host, device, world) = preferred(QUICK);
    device.set(Does::Half);
    wait_until("one is cut", || {
        let (head, body) = world.get("/scan");
        assert_eq!(head.status(), 200);
        let is_cut = body == Body::Cut(b"half".to_vec());
        assert!(is_cut || body == Body::Whole(b"host".to_vec()), "{body:?}");
        is_cut
    });
    assert!(world.ended(DEVICE, "timed_out") >= 1.0);
    world.until("host", 10);
    assert!(world.sidecar.metrics().sum("lighter_requests_total", &[("cause", "idle_timeout")]) >= 1.0);
}

fn killed() {
    let device = Data::new().with_text("orders.csv", "id\n1\n").start("", "");
    let host = Server::start("id\n1\n", Does::After(60));
    let world = World::start(host.address(), device.at, &SCAN);
    let ask = |client: &mut Peer| said(client.exchange(get("/scan/orders@7?select=id")));
    let mut client = Peer::connect(world.at);
    wait_until("the device is preferred", || {
        (0..20).for_each(|_| assert_eq!(ask(&mut client), "id\n1\n"));
        world.ended(DEVICE, "answered") >= 40.0
    });
    let before = world.rest().ended("host", "answered");
    device.sidecar.program.signal(rustix::process::Signal::KILL);
    for _ in 0..50 {
        assert_eq!(ask(&mut client), "id\n1\n");
    }
    assert!(world.rest().ended(DEVICE, "lost") >= 1.0);
    assert!(world.ended("host", "answered") - before >= 40.0);
}

fn refuses() {
    let (_host, device, world) = preferred(QUICK);
    device.set(Does::Status(503));
    world.until("host", 20);
    assert!(world.ended(DEVICE, "refused") >= 1.0);
    assert_eq!(world.ended(DEVICE, "error"), 0.0);
    assert_eq!(world.decided(&[("reason", "guard_closed")]), 0.0, "a refusal is no miss");
}

fn fails() {
    for (does, outcome) in [(Does::Status(500), "error"), (Does::Cut, "lost")] {
        let (_host, device, world) = preferred(QUICK);
        device.set(does);
        world.until("host", 20);
        assert!(world.ended(DEVICE, outcome) >= 1.0, "{outcome}");
        assert_eq!(world.sidecar.metrics().sum("lighter_requests_total", &[("code_class", "5xx")]), 0.0);
    }
}

fn at_fault() {
    let (host, device, world) = preferred(QUICK);
    device.set(Does::Status(404));
    let (before, asked) = (device.requests(), host.requests());
    let mut client = Peer::connect(world.at);
    for _ in 0..20 {
        let (head, _) = client.exchange(get("/scan"));
        assert!([200, 404].contains(&head.status()));
    }
    let (on_device, on_host) = (device.requests() - before, host.requests() - asked);
    assert_eq!(on_device + on_host, 20, "none was asked for twice");
    assert!(on_device >= 10, "{on_device}");
}

fn bodies() {
    let (host, device, world) = preferred(&ALWAYS);
    host.set(Does::Echo);
    device.set(Does::Cut);
    let post = |length: usize| {
        let body = vec![b'x'; length];
        let head = format!("POST /scan HTTP/1.1\r\nHost: orders\r\nContent-Length: {length}\r\n\r\n");
        (Peer::connect(world.at).exchange([head.as_bytes(), &body].concat()), body)
    };
    wait_until("a device has cut one", || {
        let ((head, body), sent) = post(20_000);
        assert_eq!(head.status(), 200);
        assert_eq!(body, Body::Whole(sent));
        world.ended(DEVICE, "lost") >= 1.0
    });
    // There would be no way back for a longer one: it stays on the host, and who does not say how long it is may fail.
    let asked = device.requests();
    for _ in 0..10 {
        let ((head, body), sent) = post(300_000);
        assert_eq!((head.status(), body), (200, Body::Whole(sent)));
    }
    assert_eq!(device.requests(), asked);
    let chunked = format!(
        "POST /scan HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n493e0\r\n{}\r\n0\r\n\r\n",
        "x".repeat(0x493e0)
    );
    wait_until("a device has cut a long one", || {
        let (head, _) = Peer::connect(world.at).exchange(&chunked);
        head.status() >= 500
    });
    assert!(world.sidecar.metrics().sum("lighter_retries_refused_total", &[("reason", "body")]) >= 1.0);
}

/// The sidecar of a device says that what is behind it cannot be reached.
fn unreached() {
    let at = crate::support::process::free_address();
    let own = format!(
        "service: orders-csd\nworkers: 1\ninbound: [{{listen: '{at}', app: '{}', port: 80}}]\n",
        crate::support::process::free_address()
    );
    let _sidecar = Sidecar::start(&service("orders-csd", "http", &[]), &own);
    let host = Server::start("host", Does::Echo);
    let world = World::start(host.address(), at, &Said { policy: &ALWAYS, ..SCAN });
    let post = "POST /scan HTTP/1.1\r\nHost: orders\r\nContent-Length: 2\r\n\r\nab";
    for _ in 0..20 {
        assert_eq!(said(Peer::connect(world.at).exchange(post)), "ab");
    }
    assert!(world.ended(DEVICE, "lost") >= 1.0);
}

/// Nobody waits for a device that has no room where the host has.
fn no_room() {
    for limit in ["maxRequests: 1", "maxConnections: 1, maxPendingRequests: 4"] {
        let (host, device, world) = preferred(&ALWAYS);
        let resources = crate::world::resources(
            "http",
            host.address(),
            device.address(),
            &Said { policy: &ALWAYS, ..SCAN },
        );
        let policy = policy("orders-csd", &format!("circuit: {{{limit}}}"));
        world.sidecar.apply(&format!("{resources}---\n{policy}"));
        device.set(Does::After(100));
        wait_until(&format!("one is refused by {limit}"), || {
            std::thread::scope(|scope| {
                let ask = || said(Peer::connect(world.at).exchange(get("/scan")));
                let all = [scope.spawn(ask), scope.spawn(ask), scope.spawn(ask)];
                all.into_iter().for_each(|one| drop(one.join().unwrap()));
            });
            world.ended(DEVICE, "refused") >= 1.0
        });
    }
}

/// By curl.
fn http2_callers() -> Result<(), String> {
    let curl = find("curl")?;
    let (_host, device, world) = preferred(QUICK);
    let ask = || {
        let mut command = Command::new(&curl);
        command.args(["-sS", "--fail", "--http2-prior-knowledge"]).arg(format!("http://{}/scan", world.at));
        let out = command.output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    wait_until("the device answers", || ask() == "device");
    for (does, outcome) in [(Does::Cut, "lost"), (Does::Nothing, "timed_out"), (Does::Status(500), "error")] {
        device.set(does);
        wait_until(&format!("the host answers what is {outcome}"), || {
            assert_eq!(ask(), "host");
            world.ended(DEVICE, outcome) >= 1.0
        });
        device.set(Does::After(0));
        world.until("device", 5);
    }
    Ok(())
}

fn http2_endpoints() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    let failing = Arc::new(AtomicBool::new(false));
    let fails = failing.clone();
    let answer = |mut respond: h2::server::SendResponse<bytes::Bytes>, status: u16, body: &'static str| {
        let head = http::Response::builder().status(status).body(()).unwrap();
        if let Ok(mut stream) = respond.send_response(head, false) {
            let _ = stream.send_data(bytes::Bytes::from_static(body.as_bytes()), true);
        }
    };
    let host = http2::Upstream::start(move |_, respond| async move {
        tokio::time::sleep(std::time::Duration::from_millis(40)).await;
        answer(respond, 200, "host");
    });
    let device = http2::Upstream::start(move |_, respond| {
        let status = if fails.load(SeqCst) { 500 } else { 200 };
        async move { answer(respond, status, "device") }
    });
    let world = World::start_speaking("http2", host.address, device.address, &SCAN);
    world.until("device", 20);
    failing.store(true, SeqCst);
    world.until("host", 20);
    assert!(world.ended(DEVICE, "error") >= 1.0);
}

fn abandoned() {
    let (_host, device, world) = preferred(QUICK);
    device.set(Does::After(200));
    wait_until("one was on the device when its caller went", || {
        let mut client = Peer::connect(world.at);
        client.send(get("/scan"));
        let before = world.ended(DEVICE, "abandoned");
        std::thread::sleep(std::time::Duration::from_millis(50));
        client.reset();
        std::thread::sleep(std::time::Duration::from_millis(20));
        world.ended(DEVICE, "abandoned") > before
    });
    world.rest();
    assert_eq!(world.ended(DEVICE, "lost") + world.ended(DEVICE, "timed_out"), 0.0);
}
