//! Functions of devices that the control plane plans: active while they are wanted, where there is room for them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::joined::Sidecar;
use crate::registered::{Mesh, NAME, ROWS, SCAN_PATH};
use crate::support::process::{free_address, python};
use crate::support::raw::{Body, Peer};
use crate::support::sidecar::service;
use crate::support::{test, test_where, wait_until};
use crate::world::{get, said};

pub fn tests() -> Vec<Trial> {
    vec![
        test("planned::a_function_is_active_while_it_is_wanted_and_nothing_fails", wanted),
        test("planned::a_request_waits_until_its_function_is_active", waited_for),
        test("planned::a_device_without_its_control_plane_helps_itself", alone),
        test("planned::a_device_whose_limits_leave_nothing_is_not_planned_for", held_back),
        test_where("planned::a_program_runs_while_it_is_wanted_and_not_otherwise", program),
    ]
}

/// A control plane that thinks quickly, and forgets quickly.
const CONTROL: &str = "leaseSeconds: 4\nplanner: {interval: 200ms, idle: 3s, settle: 0s}";

/// What a device has in its file beside a dataset.
fn planned(mesh: &Mesh, more: &str) -> String {
    let data = mesh.plane.path("orders.csv");
    std::fs::write(&data, "id,amount\n1,150\n").unwrap();
    let held = format!("datasets: [{{name: orders, version: '7', path: {}, format: csv}}]", data.display());
    format!("activation: planned, {held}{more}")
}

/// Its functions that are active, and what is planned of each and why.
fn plan(mesh: &Mesh, device: &str) -> Vec<(String, bool, String)> {
    let devices = mesh.devices();
    let device = devices.iter().find(|known| known["metadata"]["name"] == device);
    let functions = device.and_then(|device| device["status"]["functions"].as_array().cloned());
    let of = |function: Value| {
        let text = |field: &str| function[field].as_str().unwrap().to_owned();
        (text("name"), function["active"] == true, text("because"))
    };
    let mut functions: Vec<_> = functions.unwrap_or_default().into_iter().map(of).collect();
    functions.sort();
    functions
}

fn is(mesh: &Mesh, device: &str, function: &str, active: bool, because: &str) -> bool {
    plan(mesh, device).contains(&(function.to_owned(), active, because.to_owned()))
}

fn activations(device: &Sidecar, function: &str, by: &str) -> f64 {
    device.metrics().sum("lighter_device_activations_total", &[("function", function), ("by", by)])
}

/// A client that asks now and then: others are measured beside this. Every answer is one of 200.
struct Trickle {
    over: Arc<AtomicBool>,
    client: JoinHandle<()>,
}

impl Trickle {
    fn start(at: SocketAddr) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let is_over = over.clone();
        let client = std::thread::spawn(move || {
            let mut client = Peer::connect(at);
            while !is_over.load(Relaxed) {
                said(client.exchange(get(SCAN_PATH)));
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Trickle { over, client }
    }

    fn end(self) {
        self.over.store(true, Relaxed);
        self.client.join().expect("every request was answered");
    }
}

fn wanted() {
    let mesh = Mesh::start_with(CONTROL, "", "");
    let device = mesh.device_of("orders-csd", "csd", &planned(&mesh, ""));
    wait_until("it is planned", || is(&mesh, "orders-csd", "scan", false, "idle"));
    let table = mesh.plane.operator(&["get", "devices"]);
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..5], ["orders-csd", "csd", "orders-csd:80", "-", "orders@7"], "{table}");
    assert_eq!(mesh.policy(), ("True".into(), String::new()), "the device could run it");
    // It is not asked for what is not active.
    mesh.until("host", 20);

    let load = Trickle::start(mesh.at);
    wait_until("it is active", || is(&mesh, "orders-csd", "scan", true, "wanted"));
    mesh.until(ROWS, 20);
    assert!(is(&mesh, "orders-csd", "aggregate", false, "idle"), "{:?}", plan(&mesh, "orders-csd"));
    let wide = mesh.plane.operator(&["get", "devices", "-o", "wide"]);
    assert!(wide.contains("scan:wanted,aggregate:idle"), "{wide}");
    assert_eq!((activations(&device, "scan", "plan"), activations(&device, "aggregate", "plan")), (1.0, 0.0));
    let active = |function| device.metrics().sum("lighter_device_function_active", &[("function", function)]);
    assert_eq!((active("scan"), active("aggregate")), (1.0, 0.0));
    let of = |because| mesh.plane.counts().sum("lighter_control_planned_functions", &[("because", because)]);
    assert_eq!((of("wanted"), of("idle")), (1.0, 1.0));
    load.end();

    wait_until("nobody wants it", || is(&mesh, "orders-csd", "scan", false, "idle"));
    assert_eq!(active("scan"), 0.0);
    mesh.until("host", 20);
    let load = Trickle::start(mesh.at);
    wait_until("it is wanted again", || is(&mesh, "orders-csd", "scan", true, "wanted"));
    mesh.until(ROWS, 20);
    load.end();
    assert_eq!(activations(&device, "scan", "plan"), 2.0);
    assert_eq!(mesh.plane.counts().sum("lighter_control_nacks_total", &[]), 0.0);
}

/// Asks the device's own Service, which nobody places.
fn ask(at: SocketAddr, path: &str) -> (u16, String) {
    let (head, body) = Peer::connect(at).exchange(get(path));
    let Body::Whole(body) = body else { panic!("a cut answer") };
    (head.status(), String::from_utf8(body).unwrap())
}

const SUM: &str = "/aggregate/orders@7?compute=sum(amount)";

fn waited_for() {
    let mesh = Mesh::start_with(CONTROL, "", "");
    // There is room for one of them, with one run.
    let room = ", memoryBytes: 3000000, limits: {runs: 3, memoryBytes: 2000000}";
    let device = mesh.device_of("orders-csd", "csd", &planned(&mesh, room));
    wait_until("it is planned", || is(&mesh, "orders-csd", "scan", false, "idle"));
    let (_direct, at) = mesh.plane.caller("direct", "orders-csd");
    assert_eq!(ask(at, SCAN_PATH), (200, ROWS.into()));
    let (status, sum) = ask(at, SUM);
    assert_eq!(status, 200, "{sum}");
    assert!(sum.contains("150"), "{sum}");
    let metrics = device.metrics();
    let ran = |function| {
        let labels = [("function", function), ("outcome", "run")];
        (metrics.sum("lighter_device_waits_total", &labels), activations(&device, function, "plan"))
    };
    assert_eq!((ran("scan"), ran("aggregate")), ((1.0, 1.0), (1.0, 1.0)));
    assert_eq!(metrics.sum("lighter_device_deactivations_total", &[("function", "scan")]), 1.0);
    assert_eq!(metrics.sum("lighter_device_refusals_total", &[]), 0.0);
    wait_until("there is room for one", || {
        let plan = plan(&mesh, "orders-csd");
        plan.iter().filter(|(_, active, _)| *active).count() == 1
            && device.metrics().sum("lighter_device_active_memory_bytes", &[]) <= 3_000_000.0
    });
    assert!(mesh.plane.counts().sum("lighter_control_told_plans_total", &[]) >= 3.0);
}

fn alone() {
    let mut mesh = Mesh::start_with(CONTROL, "", "");
    let device = mesh.device_of("orders-csd", "csd", &planned(&mesh, ""));
    wait_until("it is planned", || is(&mesh, "orders-csd", "scan", false, "idle"));
    let (_direct, at) = mesh.plane.caller("direct", "orders-csd");
    mesh.plane.kill_plane();
    wait_until("it is alone", || device.metrics().sum("lighter_registry_connected", &[]) == 0.0);
    assert_eq!(ask(at, SCAN_PATH), (200, ROWS.into()));
    assert_eq!((activations(&device, "scan", "self"), activations(&device, "scan", "plan")), (1.0, 0.0));
    // What is active stays so while it is used, whoever plans.
    mesh.plane.start_plane();
    let load = Trickle::start(at);
    wait_until("it is planned again", || is(&mesh, "orders-csd", "scan", true, "used"));
    load.end();
    wait_until("it is not used", || is(&mesh, "orders-csd", "scan", false, "idle"));
}

fn held_back() {
    let other = service("orders-dpu", "http", &[]);
    let mesh = Mesh::start_with(CONTROL, "", &format!("---\n{other}"));
    // By what they say one is as good as the other, but that a main task leaves little of the first by name.
    mesh.plane.token("csd", "orders-csd");
    let (app, listen, main) = (free_address(), free_address(), free_address());
    let task = format!(", mainTask: {{inbound: {}, reservePercent: 90}}", main.port());
    let own = format!(
        "service: orders-csd\ninbound: [{{listen: '{listen}', app: '{app}', port: 80}}, {{listen: '{main}', app: '{}', port: 81, \
         protocol: http}}]\ndevice: {{class: csd, listen: '{app}', functions: [scan], {}}}\n",
        free_address(),
        planned(&mesh, &task)
    );
    let spent = mesh.plane.start("csd", &own).ready();
    let free = mesh.device_of("orders-dpu", "dpu", &planned(&mesh, ""));
    let allowed = || {
        let devices = mesh.devices();
        let of = |device: &Value| device["status"]["instances"][0]["load"]["runsAllowed"].as_u64();
        devices.iter().map(of).collect::<Vec<_>>()
    };
    wait_until("both say what their limits allow", || allowed() == [Some(1), Some(4)]);
    // So few that one is enough.
    wait_until("the other one has it", || {
        assert_eq!(ask(mesh.at, SCAN_PATH).0, 200);
        is(&mesh, "orders-dpu", "scan", true, "wanted") && is(&mesh, "orders-csd", "scan", false, "elsewhere")
    });
    mesh.until(ROWS, 20);
    assert_eq!((activations(&spent, "scan", "plan"), activations(&free, "scan", "plan")), (0.0, 1.0));
    assert_eq!(mesh.answered(NAME), 0.0);
    wait_until("all are counted", || mesh.answered("default/orders-dpu") >= 20.0);
}

/// A stage of the example pipeline, which nobody changed, on a device: the control plane has it run while it is wanted.
fn program() -> Result<(), String> {
    let python = python("http.server")?;
    let mesh = Mesh::start_with(CONTROL, "", "");
    let infer = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/pipeline/infer.py");
    let native = format!(
        ", natives: [{{name: infer, exec: [{}, {}, '{{port}}'], memoryBytes: 268435456}}]",
        python.display(),
        infer.display()
    );
    let device = mesh.device_of("orders-csd", "csd", &planned(&mesh, &native));
    wait_until("it is planned", || is(&mesh, "orders-csd", "infer", false, "idle"));
    let programs = || {
        let threads = std::fs::read_dir(format!("/proc/{}/task", device.program.pid())).unwrap();
        let children = threads
            .filter_map(|thread| std::fs::read_to_string(thread.unwrap().path().join("children")).ok());
        children.map(|children| children.split_whitespace().count()).sum::<usize>()
    };
    assert_eq!(programs(), 0);
    let (_direct, at) = mesh.plane.caller("direct", "orders-csd");
    let orders = "id,amount,country\n7,500,DE\n";
    let request =
        format!("POST /infer HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{orders}", orders.len());
    let asked: Vec<Peer> = (0..4)
        .map(|_| {
            let mut peer = Peer::connect(at);
            peer.send(&request);
            peer
        })
        .collect();
    for mut peer in asked {
        let head = peer.expect_head();
        let Body::Whole(scores) = peer.body(&head) else { panic!("a cut answer") };
        assert_eq!((head.status(), &*scores), (200, &b"{\"7\": 0.9983}"[..]));
    }
    let counted = |name: &str, labels: &[(&str, &str)]| {
        device.metrics().sum(name, &[&[("function", "infer")], labels].concat())
    };
    assert_eq!(counted("lighter_device_waits_total", &[("outcome", "run")]), 4.0);
    assert_eq!(counted("lighter_device_activations_total", &[("by", "plan")]), 1.0);
    assert_eq!((counted("lighter_device_refusals_total", &[]), programs()), (0.0, 1));
    wait_until("operators see it", || {
        let table = mesh.plane.operator(&["get", "devices"]);
        table.lines().nth(1).unwrap().split_whitespace().nth(3) == Some("infer")
    });
    wait_until("nobody wants it", || is(&mesh, "orders-csd", "infer", false, "idle"));
    wait_until("the program has gone", || programs() == 0);
    assert_eq!(counted("lighter_device_deactivations_total", &[]), 1.0);
    assert_eq!(counted("lighter_device_exits_total", &[]), 0.0);
    Ok(())
}
