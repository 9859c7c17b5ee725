//! A device called by another sidecar: over links, as somebody, and beside another device with the same data.

use std::net::SocketAddr;

use libtest_mimic::Trial;

use crate::device::{get, text};
use crate::support::process::free_address;
use crate::support::raw::Peer;
use crate::support::root::Root;
use crate::support::sidecar::{Sidecar, policy};
use crate::support::{test, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![
        test("calls::a_device_is_called_over_links_by_who_may", over_links),
        test("calls::what_one_device_refuses_another_one_is_asked_for", another_asked),
    ]
}

const WEB: &str = "spiffe://mesh.lighter/ns/default/sa/web";
const DATA: &str = "spiffe://mesh.lighter/ns/default/sa/data";

/// Where a device is reached.
#[derive(Clone, Copy)]
struct Place {
    inbound: SocketAddr,
    link: SocketAddr,
}

/// The Service `data` at these places.
fn resources(places: &[Place]) -> String {
    let endpoint = |Place { inbound, link }: &Place| {
        format!(
            "  - {{address: {}, port: {}, secure: {{identity: '{DATA}', link: '{link}'}}}}\n",
            inbound.ip(),
            inbound.port()
        )
    };
    let endpoints: String = places.iter().map(endpoint).collect();
    format!(
        "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {{name: data}}\nspec:\n  ports: [{{port: 80, \
         targetPort: 8080, appProtocol: http}}]\n  endpoints:\n{endpoints}"
    )
}

/// A device at `place` that lets only `web` scan, and nobody in who does not prove who it is.
fn device(root: &Root, place: Place, all: &[Place], more: &str) -> Sidecar {
    let file = root.folder().join("a.csv");
    std::fs::write(&file, "x\n".to_owned() + &"123456789\n".repeat(50_000)).unwrap();
    let policies = format!(
        "---\napiVersion: mesh.lighter.dev/v1\nkind: MeshPolicy\nmetadata: {{name: mesh}}\nspec: {{mtls: strict}}\n---\n\
         apiVersion: mesh.lighter.dev/v1\nkind: AuthorizationPolicy\nmetadata: {{name: scans}}\nspec: {{targetRefs: \
         [{{kind: Service, name: data}}], rules: [{{from: [{{principals: ['{WEB}']}}], to: [{{paths: ['/scan/*']}}]}}]}}\n"
    );
    let (Place { inbound, link }, app) = (place, free_address());
    let own = format!(
        "service: data\nworkers: 1\nlink: '{link}'\ninbound: [{{listen: '{inbound}', app: '{app}', port: 80}}]\n\
         device: {{class: csd, listen: '{app}', datasets: [{{name: a, version: '7', path: {}, format: csv}}]{more}}}\n{}",
        file.display(),
        root.identity(DATA)
    );
    Sidecar::start(&(resources(all) + &policies), &own)
}

/// The sidecar of `web`, and where it is reached.
fn caller(root: &Root, places: &[Place], policy: &str) -> (Sidecar, SocketAddr) {
    let listen = free_address();
    let own = format!(
        "listeners: [{{listen: '{listen}', service: data, port: 80}}]\nworkers: 1\n{}",
        root.identity(WEB)
    );
    (Sidecar::start(&format!("{}---\n{policy}", resources(places)), &own), listen)
}

fn place() -> Place {
    Place { inbound: free_address(), link: free_address() }
}

fn over_links() {
    let root = Root::new();
    let place = place();
    let device = device(&root, place, &[place], "");
    let (web, at) = caller(&root, &[place], "");
    let ask = |target: &str| Peer::connect(at).exchange(get(target));
    assert_eq!(text(ask("/scan/a@7?limit=1").1), "x\n123456789\n");
    assert_eq!(text(ask("/scan/a?where=x%3E0").1).len(), 2 + 500_000);
    // What a device says of itself reaches a caller over a link too.
    let (head, _) = ask("/scan/a@8");
    assert_eq!((head.status(), head.get("x-lighter-status")), (409, Some("CS_ENTITY_NOT_ON_DEVICE")));
    let (head, _) = ask("/checksum/a");
    assert_eq!((head.status(), head.cause()), (403, Some("denied")));
    assert!(web.metrics().sum("lighter_link_streams_total", &[("side", "opener")]) >= 4.0);
    assert!(device.metrics().sum("lighter_link_streams_total", &[("side", "acceptor")]) >= 4.0);
    // Who does not say who it is comes no further than the door.
    let mut plain = Peer::connect(place.inbound);
    plain.try_send(get("/scan/a"));
    assert!(plain.head().is_none_or(|head| head.cause() == Some("plaintext_refused")));
    assert_eq!(device.metrics().sum("lighter_device_runs_total", &[]), 3.0);
}

fn another_asked() {
    let root = Root::new();
    let places = [place(), place()];
    let slow = ", limits: {runs: 1}, mediaBytesPerSecond: 100000";
    let busy = device(&root, places[0], &places, slow);
    let free = device(&root, places[1], &places, slow);
    // Who says when to come back is heeded, unless a policy asks elsewhere.
    let (_web, at) = caller(&root, &places, &policy("data", "retry: {codes: [503], retryAfter: 2s}"));
    let in_flight = |device: &Sidecar| device.metrics().sum("lighter_device_runs_in_flight", &[]);
    // One run on either, and a third that finds no place.
    let mut first = Peer::connect(at);
    first.send(get("/scan/a?where=x%3D0"));
    wait_until("it runs", || in_flight(&busy) + in_flight(&free) == 1.0);
    let mut second = Peer::connect(at);
    second.send(get("/scan/a?where=x%3D0"));
    wait_until("the other one runs", || in_flight(&busy) == 1.0 && in_flight(&free) == 1.0);
    let (head, _) = Peer::connect(at).exchange(get("/scan/a?limit=1"));
    assert_eq!((head.status(), head.cause()), (503, Some("concurrency_limit")));
    let refused = |device: &Sidecar| device.metrics().sum("lighter_device_refusals_total", &[]);
    assert!(refused(&busy) >= 1.0 && refused(&free) >= 1.0, "both were asked");
}
