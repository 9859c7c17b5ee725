//! Devices that register themselves: found without a resource, told of by `lighter get devices`, drained and lost under load.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use libtest_mimic::Trial;
use rustix::process::Signal;
use serde_json::Value;

use crate::joined::{self, Sidecar};
use crate::load::Load;
use crate::support::http2;
use crate::support::process::{find, free_address};
use crate::support::raw::{Body, Peer};
use crate::support::sidecar::{LIGHTER, service};
use crate::support::{metrics, test, test_where, wait_until};
use crate::world::{self, DEVICE, Does, SCAN, Said, Server, World, get};

pub fn tests() -> Vec<Trial> {
    vec![
        test("registered::a_device_that_joins_is_used_and_drained_without_a_lost_request", drained),
        test("registered::a_device_that_is_killed_is_lost_and_then_gone", killed),
        test("registered::a_policy_that_names_none_uses_those_that_hold_the_data", selected),
        test("registered::what_is_written_of_a_device_holds_and_the_rest_is_as_registered", written),
        test("registered::a_device_stays_one_when_the_control_plane_starts_again", restarted),
        test("registered::a_busy_device_gets_fewer_requests_before_it_is_slow", busy),
        test("registered::a_busy_host_is_left_before_it_is_slow", busy_host),
        test_where("registered::what_a_device_reports_is_heard_whatever_is_spoken", every_protocol),
        test("registered::callers_are_told_how_busy_a_device_is_and_applications_are_not", told),
    ]
}

/// What the device answers. The host says that it is the host.
pub const ROWS: &str = "id\n1\n";
pub const SCAN_PATH: &str = "/scan/orders@7?select=id";
pub const NAME: &str = "default/orders-csd";
/// The time after which who is not heard of any more is gone.
const LEASE: &str = "leaseSeconds: 4";

/// A control plane, a caller that joined it, and a host that knows nothing of either.
pub struct Mesh {
    pub plane: joined::World,
    pub web: Sidecar,
    /// Where the caller reaches its sidecar.
    pub at: SocketAddr,
    _host: Server,
}

impl Mesh {
    /// One in which this stands for the devices of the policy, and more is written.
    fn start(devices: &str, more: &str) -> Self {
        Self::start_with(LEASE, devices, more)
    }

    /// The same with this in the file of the control plane.
    pub fn start_with(control: &str, devices: &str, more: &str) -> Self {
        let plane = joined::World::with(control);
        let host = Server::start("host", Does::After(0));
        let services = [service("orders", "http", &[host.address()]), service("orders-csd", "http", &[])];
        let policy = format!("{}, objective: bytes", SCAN.policy);
        let said = Said { policy: &policy, ..SCAN };
        let placing = world::placing(&said);
        let without = placing.replace(&format!("{}---\n", world::device(said.device)), "");
        assert_ne!(without, placing);
        let named = without.replace("devices: [csd], ", devices);
        assert_ne!(named, without);
        plane.apply(&[services.join("---\n"), named + more].join("---\n"));
        let (web, at) = plane.caller("web", "orders");
        Mesh { plane, web, at, _host: host }
    }

    /// A device with the dataset at this version.
    fn device(&self, name: &str, version: &str) -> Sidecar {
        self.device_with(name, version, "id,amount\n1,150\n")
    }

    /// The same with this in it.
    fn device_with(&self, name: &str, version: &str, rows: &str) -> Sidecar {
        let data = self.plane.path(&format!("{name}.csv"));
        std::fs::write(&data, rows).unwrap();
        let held = format!(
            "datasets: [{{name: orders, version: '{version}', path: {}, format: csv}}]",
            data.display()
        );
        self.device_of("orders-csd", name, &format!("limits: {{runs: 3}}, {held}"))
    }

    /// A device of this Service, with this in its `device`, that scans and aggregates.
    pub fn device_of(&self, service: &str, name: &str, own: &str) -> Sidecar {
        let app = free_address();
        let own = format!(
            "device: {{class: csd, listen: '{app}', functions: [scan, aggregate], {own}}}\nlink: '{}'\n",
            free_address()
        );
        self.plane.instance(service, name, app, &own).ready()
    }

    pub fn until(&self, who: &str, in_a_row: usize) {
        world::until(self.at, SCAN_PATH, who, in_a_row);
    }

    /// The Devices as documents.
    pub fn devices(&self) -> Vec<Value> {
        let all = self.plane.operator(&["get", "devices", "-o", "json"]);
        serde_json::from_str::<Value>(&all).unwrap()["items"].as_array().unwrap().clone()
    }

    /// The state of the only one there is, if there is one.
    fn state(&self) -> String {
        let devices = self.devices();
        assert!(devices.len() < 2, "{devices:?}");
        devices.first().map_or("none", |device| device["status"]["state"].as_str().unwrap()).to_owned()
    }

    /// Whether the policy has all that it uses, and what it lacks.
    pub fn policy(&self) -> (String, String) {
        let policy = self.plane.operator(&["get", "offloadpolicy", "scans", "-o", "json"]);
        let policy: Value = serde_json::from_str(&policy).unwrap();
        let resolved = &policy["status"]["conditions"][1];
        assert_eq!(resolved["type"], "ResolvedRefs");
        let text = |field: &str| resolved[field].as_str().unwrap().to_owned();
        (text("status"), text("message"))
    }

    /// Requests that were answered there, as the caller's sidecar counts.
    pub fn answered(&self, place: &str) -> f64 {
        let labels = [("place", place), ("outcome", "answered")];
        self.web.metrics().sum("lighter_offload_requests_total", &labels)
    }
}

fn drained() {
    let mesh = Mesh::start("devices: [orders-csd], ", "");
    mesh.until("host", 5);
    let missing = "spec.devices[0]: there is no Device default/orders-csd";
    assert_eq!(mesh.policy(), ("False".into(), missing.into()));
    assert_eq!(mesh.state(), "none");
    let load = Load::asking(&get(SCAN_PATH), &[mesh.at], 2);

    let mut device = mesh.device("csd", "7");
    mesh.until(ROWS, 20);
    assert_eq!(mesh.policy(), ("True".into(), String::new()));
    let table = mesh.plane.operator(&["get", "devices"]);
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(
        row[..6],
        ["orders-csd", "csd", "orders-csd:80", "aggregate,scan", "orders@7", "ready"],
        "{table}"
    );
    // It reports now and then what it does, and so does its caller.
    wait_until("it is told how busy the device is", || {
        let status = &mesh.devices()[0]["status"];
        let (load, counted) = (&status["load"], &status["offloaded"]);
        assert_eq!(status["registered"], true);
        load["slots"] == 3
            && load["runs"].as_u64() > Some(0)
            && counted["avoidedBytes"].as_u64() > Some(1_000_000)
            && load["joules"].as_f64() > Some(0.0)
    });
    // Its own count is by its machine, where that counts; its caller's is by the model in any case.
    let status = mesh.devices()[0]["status"].take();
    let source = status["load"]["energySource"].as_str().unwrap().to_owned();
    assert!(["rapl", "modelled"].contains(&&*source), "{source}");
    let most = mesh.web.metrics().sum("lighter_offload_joules_total", &[("place", "default/orders-csd")]);
    let told = status["offloaded"]["joules"].as_f64().unwrap();
    assert!(told > 0.0 && told <= most + 1e-9, "{told} of {most}");
    let wide = mesh.plane.operator(&["get", "devices", "-o", "wide"]);
    assert!(wide.contains("JOULES") && wide.contains(&source), "{wide}");
    assert!(wide.contains("/3 ") && wide.contains("registration"), "{wide}");
    let yaml = mesh.plane.operator(&["get", "device", "orders-csd", "-o", "yaml"]);
    assert!(yaml.contains("kind: Device") && yaml.contains("slots: 3"), "{yaml}");
    let slash = mesh.plane.operator(&["get", "device/orders-csd", "-o", "yaml"]);
    assert!(slash.contains("kind: Device") && slash.contains("slots: 3"), "{slash}");
    assert!(mesh.plane.refused(&["get", "device", "csd"]).contains("there is no Device csd"));
    assert!(mesh.plane.refused(&["get", "device/csd"]).contains("there is no Device csd"));

    let name = mesh.devices()[0]["status"]["instances"][0]["name"].as_str().unwrap().to_owned();
    mesh.plane.operator(&["drain", &format!("orders-csd/{name}")]);
    wait_until("it drains", || mesh.state() == "draining");
    assert!(device.program.wait().success());
    mesh.until("host", 20);
    wait_until("it is gone with its lease", || mesh.state() == "none");
    assert_eq!(mesh.policy().0, "False");
    mesh.until("host", 20);

    let _device = mesh.device("csd-again", "7");
    mesh.until(ROWS, 20);
    load.end();
    assert_eq!(mesh.state(), "ready");
    assert_eq!(mesh.plane.counts().sum("lighter_control_nacks_total", &[]), 0.0);
}

fn killed() {
    let mesh = Mesh::start("devices: [orders-csd], ", "");
    let mut device = mesh.device("csd", "7");
    mesh.until(ROWS, 20);
    let over = AtomicBool::new(false);
    // How many answers were cut, and how many were whole.
    let client = || {
        let (mut client, mut cut, mut whole) = (Peer::connect(mesh.at), 0, 0);
        while !over.load(Relaxed) {
            let (head, body) = client.exchange(get(SCAN_PATH));
            assert_eq!(head.status(), 200, "{head:?}");
            match body {
                Body::Whole(body) => whole += usize::from(body == b"host" || body == ROWS.as_bytes()),
                Body::Cut(_) => (client, cut) = (Peer::connect(mesh.at), cut + 1),
            }
        }
        (cut, whole)
    };
    std::thread::scope(|scope| {
        let before = mesh.answered(NAME);
        let clients = [scope.spawn(client), scope.spawn(client)];
        wait_until("requests are under way", || mesh.answered(NAME) >= before + 40.0);
        device.program.signal(Signal::KILL);
        device.program.wait();
        wait_until("it is known to be lost", || mesh.state() == "lost");
        mesh.until("host", 20);
        wait_until("it is gone with its lease", || mesh.state() == "none");
        mesh.until("host", 20);
        over.store(true, Relaxed);
        for client in clients {
            let (cut, whole) = client.join().unwrap();
            // What had begun to come when the device died cannot be taken back. All else the host has answered.
            assert!(cut <= 1 && whole >= 20, "{cut} {whole}");
        }
    });
    let failed = mesh.web.metrics().sum("lighter_requests_total", &[("code_class", "5xx")]);
    assert_eq!(failed, 0.0);
}

fn selected() {
    let mesh = Mesh::start("", "");
    mesh.until("host", 5);
    let none = "spec.function: there is no Device in default that holds `scan` and dataset orders@7";
    assert_eq!(mesh.policy(), ("False".into(), none.into()));
    let other = mesh.device("other", "8");
    wait_until("it has registered", || mesh.state() == "ready");
    assert_eq!(mesh.policy().0, "False");
    mesh.until("host", 20);
    // Requests go to either of them, so what one of them lacks neither has.
    let _device = mesh.device("csd", "7");
    let both = |mesh: &Mesh| mesh.devices()[0]["status"]["instances"].as_array().unwrap().len() == 2;
    wait_until("both are there", || both(&mesh));
    wait_until("they have no dataset in common", || mesh.devices()[0]["spec"]["datasets"][0].is_null());
    assert_eq!((&mesh.devices()[0]["spec"]["slots"], mesh.policy().0.as_str()), (&6.into(), "False"));
    other.program.signal(Signal::TERM);
    mesh.until(ROWS, 20);
    assert_eq!(mesh.devices()[0]["spec"]["slots"], 3);
    assert_eq!(mesh.policy().0, "True");
    wait_until("all are counted", || mesh.answered(NAME) >= 20.0);
    // As it is told, it can be written.
    let told = mesh.plane.operator(&["get", "devices", "-o", "yaml"]);
    mesh.plane.apply(&told);
    assert_eq!(mesh.devices()[0]["status"]["registered"], false);
    assert!(mesh.plane.operator(&["get", "devices", "-o", "yaml"]).contains("slots: 3"));
    mesh.until(ROWS, 20);
}

fn written() {
    let device = "---\napiVersion: mesh.lighter.dev/v1\nkind: Device\nmetadata: {name: csd}\nspec: {class: dpu, service: {name: \
                  orders-csd}, computeFactor: 2.5}\n";
    let mesh = Mesh::start("", device);
    let state = mesh.devices()[0]["status"]["state"].clone();
    assert_eq!((state, mesh.policy().0.as_str()), ("unregistered".into(), "False"));
    let _device = mesh.device("csd", "7");
    mesh.until(ROWS, 20);
    // A request may be counted after its answer has come.
    wait_until("all are counted", || mesh.answered(DEVICE) >= 20.0);
    let devices = mesh.devices();
    let [device] = devices.as_slice() else { panic!("{devices:?}") };
    let (spec, status) = (&device["spec"], &device["status"]);
    assert_eq!(
        (&spec["class"], &spec["computeFactor"], &spec["slots"]),
        (&"dpu".into(), &2.5.into(), &3.into())
    );
    assert_eq!((&status["state"], &status["registered"]), (&"ready".into(), &false.into()));
    // It can be taken away, and what registered stays.
    assert_eq!(mesh.plane.operator(&["delete", "device", "csd"]), "Device default/csd deleted\n");
    wait_until("it is used by its own name", || {
        mesh.until(ROWS, 1);
        mesh.answered(NAME) >= 1.0
    });
    assert_eq!(mesh.devices()[0]["spec"]["class"], "csd");
}

fn restarted() {
    let mut mesh = Mesh::start("", "");
    let load = Load::asking(&get(SCAN_PATH), &[mesh.at], 1);
    let device = mesh.device("csd", "7");
    mesh.until(ROWS, 20);
    let decided = |reason| mesh.web.metrics().sum("lighter_offload_decisions_total", &[("reason", reason)]);
    let without = decided("no_device");
    // Who registers is written down a moment later: a tenth of a second, and what a disk takes.
    std::thread::sleep(Duration::from_secs(2));
    mesh.plane.kill_plane();
    mesh.until(ROWS, 20);
    mesh.plane.start_plane();
    // Known from before, whoever has come back first.
    assert_eq!(mesh.devices()[0]["metadata"]["name"], "orders-csd");
    wait_until("it is heard of again", || mesh.state() == "ready");
    wait_until("the caller follows again", || mesh.web.metrics().sum("lighter_xds_connected", &[]) == 1.0);
    mesh.until(ROWS, 40);
    load.end();
    let decided = |reason| mesh.web.metrics().sum("lighter_offload_decisions_total", &[("reason", reason)]);
    assert_eq!(decided("no_device"), without, "it was a device all the time");
    drop(device);
}

/// How many of a hundred requests the device was asked for.
fn of_hundred(world: &World, device: &Server) -> usize {
    let mut client = Peer::connect(world.at);
    let before = device.requests();
    for _ in 0..100 {
        world::said(client.exchange(get("/scan")));
    }
    device.requests() - before
}

fn busy() {
    let (host, device) = (Server::start("host", Does::After(40)), Server::start("device", Does::Says(0.0)));
    let world = World::start(host.address(), device.address(), &SCAN);
    world.until("device", 20);
    let free = of_hundred(&world, &device);
    // It answers as quickly as before, and says what is to come.
    device.set(Does::Says(8.0));
    world.until("host", 1);
    let busy = of_hundred(&world, &device);
    assert!(free > 60 && busy < free / 2, "{free} {busy}");
    // It goes down by itself, and the device is asked again, who says the same again.
    let (_, decisions) = metrics::get(world.sidecar.admin, "/decisions?last=100");
    let queue = |decision: &str| {
        let decision: Value = serde_json::from_str(decision).unwrap();
        decision["record"]["inputs"]["candidates"][1]["queue_seconds"].as_f64()
    };
    let queued = decisions.lines().filter_map(queue).filter(|queue| (1.0..=8.0).contains(queue)).count();
    assert!(queued >= 50, "{queued}");
    let reports = |outcome| {
        let labels = [("place", DEVICE), ("outcome", outcome)];
        world.sidecar.metrics().sum("lighter_offload_reports_total", &labels)
    };
    wait_until("each answer is heard", || reports("taken") == device.requests() as f64);
    assert_eq!(reports("malformed"), 0.0);
    device.set(Does::Says(0.0));
    world.until("device", 20);
    // What makes no sense is no report, and does no harm.
    device.set(Does::Says(f64::NAN));
    world.until("device", 20);
    wait_until("each answer is heard", || reports("empty") >= 20.0);
}

fn busy_host() {
    let (host, device) = (Server::start("host", Does::Says(0.0)), Server::start("device", Does::After(40)));
    let world = World::start(host.address(), device.address(), &SCAN);
    world.until("host", 20);
    let before = of_hundred(&world, &device);
    // It answers as quickly as before, and says what is to come: that is left for what takes longer, but not so long.
    host.set(Does::Says(8.0));
    world.until("device", 1);
    let after = of_hundred(&world, &device);
    assert!(before < 40 && after > 60, "{before} {after}");
    let (_, decisions) = metrics::get(world.sidecar.admin, "/decisions?last=100");
    let queue = |decision: &str| {
        let decision: Value = serde_json::from_str(decision).unwrap();
        decision["record"]["inputs"]["candidates"][0]["queue_seconds"].as_f64()
    };
    let queued = decisions.lines().filter_map(queue).filter(|queue| (1.0..=8.0).contains(queue)).count();
    assert!(queued >= 50, "{queued}");
    let mut command = Command::new(LIGHTER);
    command.args(["explain", "--last", "100", "--admin", &world.sidecar.admin.to_string()]);
    let told = String::from_utf8(command.output().unwrap().stdout).unwrap();
    let of_host =
        told.lines().filter_map(|line| line.trim_start().strip_prefix("host: ")?.split(" = ").nth(1));
    let queues = of_host.map(|said| said.split(" queue").next().unwrap().parse::<f64>().unwrap());
    let long = queues.filter(|milliseconds| *milliseconds >= 1000.0).count();
    assert!(long >= 50, "{told}");
    let reports = || {
        let labels = [("place", "host"), ("outcome", "taken")];
        world.sidecar.metrics().sum("lighter_offload_reports_total", &labels)
    };
    wait_until("each answer is heard", || reports() == host.requests() as f64);
    // Who asks it now and then finds out when that is over.
    host.set(Does::Says(0.0));
    world.until("host", 20);
}

/// Callers of HTTP/1 and HTTP/2, each before devices of both.
fn every_protocol() -> Result<(), String> {
    let curl = find("curl")?;
    let field = "endpoint-load-metrics";
    let report = "TEXT named_metrics.queue_seconds=0.25";
    let serve = |name: &'static str| {
        http2::Upstream::start(move |_, mut respond: SendResponse<Bytes>| async move {
            let head = http::Response::builder().header(field, report).body(()).unwrap();
            if let Ok(mut stream) = respond.send_response(head, false) {
                let _ = stream.send_data(Bytes::from_static(name.as_bytes()), true);
            }
        })
    };
    let of_http2 = [serve("host"), serve("device")];
    let of_http1 = [Server::start("host", Does::Says(0.25)), Server::start("device", Does::Says(0.25))];
    let policy = format!("{}, objective: bytes", SCAN.policy);
    let said = Said { policy: &policy, ..SCAN };
    for (protocol, [host, device]) in [
        ("http", of_http1.each_ref().map(Server::address)),
        ("http2", of_http2.each_ref().map(|server| server.address)),
    ] {
        let world = World::start_speaking(protocol, host, device, &said);
        for speaks in ["--http1.1", "--http2-prior-knowledge"] {
            let ask = || {
                let mut command = Command::new(&curl);
                command.args(["-sS", "--fail", "-i", speaks]).arg(format!("http://{}/scan", world.at));
                let out = command.output().unwrap();
                assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
                String::from_utf8(out.stdout).unwrap()
            };
            let heard = || {
                let labels = [("place", DEVICE), ("outcome", "taken")];
                world.sidecar.metrics().sum("lighter_offload_reports_total", &labels)
            };
            let before = heard();
            wait_until(&format!("a device of {protocol} is heard by a caller of {speaks}"), || {
                let answer = ask();
                // What the host says may be for others as well, and passes as it came.
                assert_eq!(answer.contains(field), answer.ends_with("host"), "{answer}");
                answer.ends_with("device") && heard() > before
            });
        }
    }
    Ok(())
}

/// The queue of which an answer tells, in seconds.
fn told_queue(answer: &str) -> f64 {
    let said = answer.split("named_metrics.queue_seconds=").nth(1).unwrap();
    said.split(|c: char| c == ',' || c.is_whitespace()).next().unwrap().parse().unwrap()
}

fn told() {
    let mesh = Mesh::start("", "");
    let device = mesh.device_with("csd", "7", &format!("id,amount\n1,150\n{}", "2,150\n".repeat(8 << 20)));
    let path = format!("{SCAN_PATH}&limit=1");
    world::until(mesh.at, &path, ROWS, 20);
    let text = std::fs::read_to_string(&device.file).unwrap();
    let listen = text.split("inbound: [{listen: '").nth(1).unwrap().split('\'').next().unwrap();
    let curl = |at: &str| {
        let mut command = Command::new("curl");
        command.args(["-sS", "-i", "--noproxy", "*"]).arg(format!("http://{at}{path}"));
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    // A plain caller, who has no sidecar to hear it.
    let told = curl(listen);
    let report =
        "endpoint-load-metrics: TEXT application_utilization=0.0000, named_metrics.queue_seconds=0.000000";
    assert!(told.contains(report), "{told}");
    // One who does not read keeps a run waiting, in each place but one of three.
    let mut waiting: Vec<Peer> = Vec::new();
    for (others, used) in [(1, "0.3333"), (2, "0.6667")] {
        let mut peer = Peer::connect(listen.parse().unwrap());
        peer.send(get("/scan/orders@7"));
        waiting.push(peer);
        wait_until("the device says so", || {
            curl(listen).contains(&format!("application_utilization={used}"))
        });
        let queue = told_queue(&curl(listen));
        assert!(queue > 0.0, "{others}: {queue}");
    }
    wait_until("the control plane is told", || mesh.devices()[0]["status"]["load"]["runsInFlight"] == 2);
    drop(waiting);
    wait_until("they are gone", || curl(listen).contains("application_utilization=0.0000"));
    let (head, body) = Peer::connect(mesh.at).exchange(get(&path));
    assert_eq!((head.get("endpoint-load-metrics"), body), (None, Body::Whole(ROWS.into())));
    let heard = mesh.web.metrics().sum("lighter_offload_reports_total", &[("outcome", "taken")]);
    assert!(heard >= 20.0, "{heard}");
    let device = device.metrics();
    assert_eq!(device.sum("lighter_device_slots", &[]), 3.0);
    assert!(device.has("lighter_device_queue_seconds", &[]));
}
