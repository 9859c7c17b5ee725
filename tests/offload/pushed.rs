//! What a control plane pushes to sidecars that joined it: placement between members of a mesh.

use std::net::SocketAddr;
use std::process::Command;

use libtest_mimic::Trial;

use crate::joined::{self, Sidecar, WEB};
use crate::load::Load;
use crate::support::process::free_address;
use crate::support::raw::Peer;
use crate::support::sidecar::{LIGHTER, service};
use crate::support::{metrics, test, wait_until};
use crate::world::{self, DEVICE, Does, SCAN, Said, Server, get, said};

pub fn tests() -> Vec<Trial> {
    vec![
        test("pushed::a_scan_runs_on_a_member_over_a_link", over_a_link),
        test("pushed::a_device_with_other_data_is_left_and_found_again", other_data),
        test("pushed::a_device_that_leaves_and_comes_back_costs_no_request", leaves),
        test("pushed::what_a_policy_names_stays_as_long_as_the_policy", named),
        test("pushed::a_caller_places_requests_without_its_control_plane", without_control_plane),
    ]
}

/// What the device answers. The host says that it is the host.
const ROWS: &str = "id\n1\n";
const SCAN_PATH: &str = "/scan/orders@7?select=id";

/// A control plane, a caller and a device that joined it, and a host that knows nothing of any of them.
struct Mesh {
    plane: joined::World,
    web: Sidecar,
    /// Where the caller reaches its sidecar.
    at: SocketAddr,
    device: Sidecar,
    host: Server,
}

impl Mesh {
    /// One in which the device is preferred, since the data need not be moved to it. `own` is more of its own file.
    fn start(own: &str) -> Self {
        Self::start_with(own, Does::After(0), "objective: bytes")
    }

    /// The same with a host that does this, and more of the policy.
    fn start_with(own: &str, host: Does, policy: &str) -> Self {
        let plane = joined::World::new();
        let host = Server::start("host", host);
        // The device registers itself, when all the others are there.
        let services = [service("orders", "http", &[host.address()]), service("orders-csd", "http", &[])];
        let policy = format!("{}, {policy}", SCAN.policy);
        let placing = world::placing(&Said { policy: &policy, ..SCAN });
        plane.apply(&[services.join("---\n"), placing].join("---\n"));
        let data = plane.path("orders.csv");
        std::fs::write(&data, "id,amount\n1,150\n").unwrap();
        let (app, data) = (free_address(), data.display());
        let own = format!(
            "device: {{class: csd, listen: '{app}', datasets: [{{name: orders, version: '7', path: {data}, format: \
             csv}}]}}\n{own}"
        );
        let (web, at) = plane.caller("web", "orders");
        world::until(at, SCAN_PATH, "host", 5);
        let device = plane.instance("orders-csd", "csd", app, &own).ready();
        let mesh = Mesh { plane, web, at, device, host };
        assert_eq!(mesh.decided(&[("reason", "no_device")]), 5.0, "it was not asked before it was there");
        mesh.until(ROWS, 20);
        mesh
    }

    fn until(&self, who: &str, in_a_row: usize) {
        world::until(self.at, SCAN_PATH, who, in_a_row);
    }

    /// Requests that were answered there, as the caller's sidecar counts.
    fn answered(&self, place: &str) -> f64 {
        let labels = [("place", place), ("outcome", "answered")];
        self.web.metrics().sum("lighter_offload_requests_total", &labels)
    }

    /// Runs that went well, as the device counts.
    fn runs(&self) -> f64 {
        self.device.metrics().sum("lighter_device_runs_total", &[("status", "CS_SUCCESS")])
    }

    /// Decisions, as the caller's sidecar counts.
    fn decided(&self, labels: &[(&str, &str)]) -> f64 {
        self.web.metrics().sum("lighter_offload_decisions_total", labels)
    }

    /// Everyone who came to the device proved to be the caller, on however many connections or links.
    fn is_proved(&self) {
        let metrics = self.device.metrics();
        let came = |labels: &[_]| metrics.sum("lighter_inbound_connections_total", labels);
        let proved = came(&[("security", "mtls"), ("caller", WEB), ("outcome", "served")]);
        assert!(proved >= 1.0);
        assert_eq!(proved, came(&[]));
    }
}

/// The device is preferred because it is quicker.
fn over_a_link() {
    let link = format!("link: '{}'\n", free_address());
    // A first answer that takes long, on a machine with much to do, is soon known to be none of many.
    let mesh = Mesh::start_with(&link, Does::After(150), "objective: latency");
    // A request may be counted after its answer has come.
    wait_until("both ends count the same", || {
        let answered = mesh.answered(DEVICE);
        answered >= 20.0 && mesh.runs() == answered
    });
    let on_host = mesh.answered("host");
    assert_eq!(mesh.host.requests() as f64, on_host);
    assert_eq!(mesh.decided(&[]), mesh.answered(DEVICE) + on_host);
    assert_eq!(mesh.plane.counts().sum("lighter_control_nacks_total", &[]), 0.0);
    mesh.is_proved();
    let streams = mesh.device.metrics().sum("lighter_link_streams_total", &[("side", "acceptor")]);
    assert_eq!(streams, mesh.runs());

    // It is told as what a file says is.
    let mut command = Command::new(LIGHTER);
    let out = command.args(["explain", "--admin", &mesh.web.admin.to_string()]).output().unwrap();
    let told = String::from_utf8(out.stdout).unwrap();
    let decision = format!("default/orders:80 default/orders/scan → {DEVICE}: ");
    assert!(told.starts_with(&decision), "{told}");
}

fn other_data() {
    let mesh = Mesh::start("");
    let load = Load::asking(&get(SCAN_PATH), &[mesh.at], 2);
    mesh.plane.apply(&world::device("datasets: [{name: orders, version: '8'}]"));
    mesh.until("host", 40);
    let decided = || ["host", DEVICE].map(|place| mesh.decided(&[("place", place)]));
    let before = decided();
    load.more(20);
    let after = decided();
    assert!(after[0] > before[0] && after[1] == before[1], "{before:?} {after:?}");
    assert!(mesh.decided(&[("reason", "no_device")]) >= 60.0);
    let runs = mesh.runs();
    mesh.plane.apply(&world::device(SCAN.device));
    mesh.until(ROWS, 20);
    assert!(mesh.runs() > runs);
    load.end();
    // Nor did the device fail one, which the host would have answered then.
    let failed =
        |sidecar: &Sidecar| sidecar.metrics().sum("lighter_requests_total", &[("code_class", "5xx")]);
    assert_eq!((failed(&mesh.web), failed(&mesh.device)), (0.0, 0.0));
    mesh.is_proved();
    assert_eq!(mesh.device.metrics().sum("lighter_link_streams_total", &[("side", "acceptor")]), 0.0);
}

fn leaves() {
    let mut mesh = Mesh::start(&format!("link: '{}'\n", free_address()));
    let load = Load::asking(&get(SCAN_PATH), &[mesh.at], 2);
    mesh.device.restart();
    mesh.until(ROWS, 20);
    assert!(mesh.runs() >= 20.0, "of the new process alone");
    load.end();
    // It left in good order, so that nobody thinks less of it.
    let misses = [("reason", "guard_closed")];
    assert_eq!(mesh.decided(&misses), 0.0);
    mesh.is_proved();
}

fn named() {
    let mesh = Mesh::start("");
    let operator = |arguments: &[&str]| mesh.plane.operator(arguments);
    for (kind, name, says) in
        [("devices", "csd", "ready"), ("functions", "scan", "True"), ("offloadpolicies", "scans", "True")]
    {
        let table = operator(&["get", kind]);
        let rows: Vec<&str> = table.lines().skip(1).collect();
        assert!(matches!(rows[..], [row] if row.contains(name) && row.contains(says)), "{table}");
    }
    for (kind, name, by) in
        [("function", "scan", "OffloadPolicy default/scans"), ("service", "orders-csd", "Device default/csd")]
    {
        let refused = mesh.plane.refused(&["delete", kind, name]);
        assert!(refused.contains(by), "{refused}");
    }
    mesh.until(ROWS, 20);

    assert_eq!(operator(&["delete", "offloadpolicy", "scans"]), "OffloadPolicy default/scans deleted\n");
    mesh.until("host", 40);
    let (runs, asked) = (mesh.runs(), mesh.host.requests());
    let mut client = Peer::connect(mesh.at);
    for _ in 0..20 {
        assert_eq!(said(client.exchange(get(SCAN_PATH))), "host");
    }
    assert_eq!((mesh.runs(), mesh.host.requests()), (runs, asked + 20));
    assert_eq!(operator(&["delete", "device", "csd"]), "Device default/csd deleted\n");
    assert_eq!(operator(&["delete", "function", "scan"]), "Function default/scan deleted\n");
    assert_eq!(operator(&["get", "functions"]), "");
    // The one that registers stays.
    let table = operator(&["get", "devices"]);
    assert!(table.lines().nth(1).is_some_and(|row| row.starts_with("orders-csd ")), "{table}");
    mesh.until("host", 5);
}

fn without_control_plane() {
    let mut mesh = Mesh::start("");
    let file = mesh.plane.path("web-state/discovery");
    // The device's own endpoint is known by who it has to be.
    wait_until("what was pushed is kept", || {
        let kept = std::fs::read(&file).unwrap_or_default();
        let has = |text: &str| kept.windows(text.len()).any(|bytes| bytes == text.as_bytes());
        has("lighter.offload") && has("spiffe://mesh.lighter/ns/default/sa/orders-csd")
    });
    mesh.plane.kill_plane();
    mesh.until(ROWS, 20);
    mesh.web.restart();
    let before = mesh.runs();
    mesh.until(ROWS, 20);
    assert!(mesh.answered(DEVICE) >= 20.0);
    wait_until("both ends count the same", || mesh.runs() - before == mesh.answered(DEVICE));
    assert_eq!(mesh.web.metrics().sum("lighter_xds_connected", &[]), 0.0);
    mesh.is_proved();
    // And when it is back, it is followed again.
    mesh.plane.start_plane();
    mesh.plane.apply(&world::device("datasets: [{name: orders, version: '8'}]"));
    mesh.until("host", 40);
    let decisions = metrics::get(mesh.web.admin, "/decisions?last=1").1;
    assert!(decisions.contains("\"reason\":\"no_device\""), "{decisions}");
}
