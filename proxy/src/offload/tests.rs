use std::net::SocketAddr;

use lighter_config::name::ServiceName;
use lighter_config::snapshot::{
    Backend, EndpointSpec, Locality, Mtls, OffloadDataset, OffloadDevice, OffloadFunction, Priority,
    Protocol, RouteTable, Service, Snapshot, TrafficPolicy, VirtualIps,
};

use super::*;
use crate::mesh::{Mesh, RouteState};

fn said() -> Offload {
    let device = OffloadDevice {
        name: "default/csd".into(),
        target: key("csd"),
        profile: PlaceProfile::DEVICE,
        has_function: true,
        dataset: Some("7".into()),
    };
    Offload {
        policy: "default/scans".into(),
        objective: Objective::Bytes,
        slo: Duration::from_secs(1),
        miss_share: 0.01,
        window: Duration::from_secs(1),
        try_timeout: None,
        margin: 0.1,
        explore_share: 0.02,
        function: OffloadFunction {
            name: "scan".into(),
            seconds: 1e-3,
            seconds_per_byte: 0.0,
            out_share: 0.01,
        },
        dataset: Some(OffloadDataset { name: "orders".into(), version: "7".into(), bytes: 1_000_000 }),
        host: PlaceProfile::HOST,
        devices: vec![device],
    }
}

fn key(name: &str) -> ServicePort {
    ServicePort { service: ServiceName::new("default", name), port: 80 }
}

fn service(name: &str, rules: &[(&str, Option<&Offload>)]) -> Arc<Service> {
    let own = Backend { target: key(name), weight: 1, exists: true };
    let route = |(index, (rule, offload)): (usize, &(&str, Option<&Offload>))| Route {
        index,
        name: (*rule).into(),
        matcher: lighter_config::snapshot::route::Matcher::default(),
        actions: Vec::new(),
        backends: vec![own.clone()],
        request_timeout: None,
        retry: None,
        priority: Priority::Default,
        session: None,
        offload: offload.cloned().map(Arc::new),
    };
    let endpoint = EndpointSpec {
        address: SocketAddr::from(([127, 0, 0, 1], if name == "csd" { 2 } else { 1 })),
        weight: 1,
        priority: 0,
        locality: Locality::default(),
        secure: None,
        wires: None,
    };
    let port = Port {
        key: key(name),
        name: None,
        protocol: Protocol::Http,
        target_port: 8080,
        routes: RouteTable::new(rules.iter().enumerate().map(route).collect()),
        tcp: vec![own.clone()],
        tcp_route: "default".into(),
        endpoints: vec![endpoint],
        policy: TrafficPolicy::default(),
        mtls: Mtls::default(),
        guards: Vec::new(),
    };
    let virtual_ips = VirtualIps { v4: [198, 19, 0, 1].into(), v6: [0xfd00, 0, 0, 0, 0, 0, 0, 1].into() };
    let (name, links) = (ServiceName::new("default", name), Default::default());
    Arc::new(Service { name, virtual_ips, ports: vec![Arc::new(port)], probe: None, links, state: None })
}

fn mesh(services: Vec<Arc<Service>>, before: &Mesh) -> Mesh {
    let services = services.into_iter().map(|service| (service.name.clone(), service)).collect();
    Mesh::build(Arc::new(Snapshot { services, ..Snapshot::default() }), before)
}

fn state(mesh: &Mesh, at: usize) -> &RouteState {
    &mesh.destination(&key("orders")).unwrap().routes[at]
}

/// A request with these fields.
struct Fields(Vec<(&'static str, &'static str)>);

impl RequestParts for Fields {
    fn method(&self) -> &[u8] {
        b"GET"
    }

    fn path(&self) -> &[u8] {
        b"/"
    }

    fn query(&self) -> Option<&[u8]> {
        None
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(is, _)| *is == name).map(|(_, value)| value.as_bytes())
    }
}

#[test]
fn what_was_learned_stays_where_a_policy_says_the_same() {
    let said = said();
    let rules: &[(&str, Option<&Offload>)] =
        &[("a", Some(&said)), ("a", Some(&said)), ("b", Some(&said)), ("c", None)];
    let all = || vec![service("orders", rules), service("csd", &[("default", None)])];
    let first = mesh(all(), &Mesh::default());
    let placement = |mesh: &Mesh, at: usize| state(mesh, at).offload.as_ref().map(|of| of.placement.clone());
    let is_one = |a: &Mesh, b: &Mesh| Arc::ptr_eq(&placement(a, 0).unwrap(), &placement(b, 0).unwrap());
    // A rule with two matches is one route, and two rules share what is known of devices.
    assert_eq!(placement(&first, 0).unwrap().rules.len(), 2);
    assert!(Arc::ptr_eq(&placement(&first, 0).unwrap(), &placement(&first, 2).unwrap()));
    assert!(placement(&first, 3).is_none());
    let second = mesh(all(), &first);
    assert!(is_one(&first, &second));
    let other = Offload { margin: 0.2, ..said.clone() };
    let changed =
        mesh(vec![service("orders", &[("a", Some(&other))]), service("csd", &[("default", None)])], &second);
    assert!(!is_one(&second, &changed));
}

#[test]
fn a_device_more_takes_nothing_from_what_was_learned() {
    let said = said();
    let mesh_of = |said: &Offload, before: &Mesh| {
        let services = ["csd", "near"].map(|name| service(name, &[("default", None)]));
        let orders = service("orders", &[("a", Some(said))]);
        mesh(services.into_iter().chain([orders]).collect(), before)
    };
    let first = mesh_of(&said, &Mesh::default());
    let asked = state(&first, 0).asked(&Fields(Vec::new())).unwrap();
    let pick = |mesh: &Mesh| {
        let hash = |_: &Cluster| None;
        state(mesh, 0).pick(Some((&asked, true)), None, hash, (true, None), Instant::now()).unwrap()
    };
    // The device says that it is busy for an hour, of which ten seconds are believed.
    let mut picks = (0..20).map(|_| pick(&first));
    let picked = picks.find(Picked::is_on_device).unwrap();
    assert!(picked.hear(b"endpoint-load-metrics", b"TEXT named_metrics.queue_seconds=3600"));
    let queue = |mesh: &Mesh| {
        pick(mesh).finish(Outcome::Abandoned, Duration::ZERO, Instant::now());
        let logged = decisions(mesh, None, 100).pop().unwrap();
        let of = |(place, candidate): (&String, &lighter_place::Candidate)| {
            (place.clone(), (5.0..=10.0).contains(&candidate.queue_seconds))
        };
        logged.places.iter().zip(logged.record.inputs.candidates.iter()).map(of).collect::<Vec<_>>()
    };
    let busy = ("default/csd".to_owned(), true);
    assert_eq!(queue(&first)[1], busy);
    let near = OffloadDevice { name: "default/near".into(), target: key("near"), ..said.devices[0].clone() };
    let more = Offload { devices: vec![near, said.devices[0].clone()], ..said.clone() };
    let second = mesh_of(&more, &first);
    assert_eq!(queue(&second)[1..], [("default/near".to_owned(), false), busy.clone()]);
    assert_eq!(queue(&mesh_of(&said, &second))[1], busy);
    // Of a policy that wants something else, nothing is known.
    let other = Offload { margin: 0.2, ..said };
    assert_eq!(queue(&mesh_of(&other, &second))[1..], [("default/csd".to_owned(), false)]);
}

#[test]
fn a_device_whose_service_is_not_known_yet_is_not_offered() {
    let said = said();
    let orders = || service("orders", &[("a", Some(&said))]);
    let without = mesh(vec![orders()], &Mesh::default());
    let asked = state(&without, 0).asked(&Fields(Vec::new())).unwrap();
    let pick = |mesh: &Mesh| {
        state(mesh, 0)
            .pick(Some((&asked, true)), None, |_: &Cluster| None, (true, None), Instant::now())
            .unwrap()
    };
    assert_eq!(pick(&without).endpoint.address.port(), 1);
    let with = mesh(vec![orders(), service("csd", &[("default", None)])], &without);
    // By the objective it is the device, once enough was spent on finding out how the host does.
    let mut picks = (0..20).map(|_| pick(&with));
    let mut picked = picks.find(Picked::is_on_device).unwrap();
    assert_eq!(picked.endpoint.address.port(), 2);
    // What failed there is for the host, and says by what.
    let setback = picked.set_back(crate::retry::Came::Late);
    let avoid = Avoid::after(picked.endpoint.clone(), Cause::RequestTimeout).on_device(setback);
    picked.finish(Outcome::Failed, Duration::ZERO, Instant::now());
    let again = state(&with, 0).pick(
        Some((&asked, true)),
        None,
        |_: &Cluster| None,
        (false, Some(&avoid)),
        Instant::now(),
    );
    let again = again.unwrap();
    assert!(!again.is_on_device());
    let all = decisions(&with, None, 100);
    let reasons: Vec<&str> = all.iter().map(|logged| &*logged.reason).collect();
    assert_eq!(reasons[0], "no_device");
    assert_eq!(reasons[reasons.len() - 2..], ["cheapest", "failed"]);
}

#[test]
fn a_request_says_how_much_it_reads() {
    let said = said();
    let mesh = mesh(vec![service("orders", &[("a", Some(&said))])], &Mesh::default());
    let asked = |fields: &[(&'static str, &'static str)]| {
        let asked = state(&mesh, 0).asked(&Fields(fields.to_vec())).unwrap();
        (asked.bytes_in, asked.scan_bytes)
    };
    assert_eq!(asked(&[]), (0, 1_000_000));
    assert_eq!(asked(&[("content-length", "12"), (SCAN_BYTES_HINT, " 77 ")]), (12, 77));
    // What is no number says nothing.
    assert_eq!(asked(&[("content-length", "-1"), (SCAN_BYTES_HINT, "many")]), (0, 1_000_000));
    // There would be no way back.
    assert!(state(&mesh, 0).asked(&Fields(vec![("content-length", "65537")])).is_none());
}

#[test]
fn versions_are_told_apart() {
    assert_ne!(version("7"), version("07"));
    assert_eq!(version("2026-01-01"), version("2026-01-01"));
}
