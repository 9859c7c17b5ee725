//! What Functions, Devices and OffloadPolicies say of routes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{errors, port, route, service, snapshot};
use lighter_config::build::{HeldFunction, Mesh, Origin, RegisteredDevice};
use lighter_config::load::Resources;
use lighter_config::manifest::Key;
use lighter_config::name::{ServiceName, ServicePort};
use lighter_config::sidecar::DeviceClass;
use lighter_config::snapshot::{
    Objective, Offload, OffloadDataset, OffloadDevice, OffloadFunction, PlaceProfile, Snapshot,
};

const OF_ROUTE: &str = "group: gateway.networking.k8s.io, kind: HTTPRoute, name: web";

fn document(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: mesh.lighter.dev/v1, kind: {kind}, metadata: {{name: {name}}}, spec: {{{spec}}}}}\n"
    )
}

fn policy(name: &str, rule: &str, more: &str) -> String {
    document("OffloadPolicy", name, &format!("targetRefs: [{{{OF_ROUTE}{rule}}}], {more}"))
}

/// Two rules of `web`, whose devices are reached by `near`.
fn mesh() -> String {
    let rule = |name: &str| {
        format!(
            "    - {{name: {name}, matches: [{{path: {{value: /{name}}}}}], backendRefs: [{{name: web}}]}}\n"
        )
    };
    let away = "    - {name: away, filters: [{type: RequestRedirect, requestRedirect: {port: 81}}]}\n";
    let rules = rule("first") + &rule("second") + away;
    service("web") + &service("near") + &route("name: web", &rules) + &function() + &device("2")
}

fn function() -> String {
    document("Function", "f", "state: stateless")
}

fn device(factor: &str) -> String {
    document("Device", "d", &format!("class: csd, service: {{name: near}}, computeFactor: {factor}"))
}

/// What is said of the rules of `web`, by their names.
fn offloads(snapshot: &Snapshot) -> Vec<(String, Option<Arc<Offload>>)> {
    let routes = port(snapshot, "web").routes.routes.iter();
    let mut found: Vec<_> = routes.map(|route| (route.name.to_string(), route.offload.clone())).collect();
    found.sort_by(|one, other| one.0.cmp(&other.0));
    found
}

#[test]
fn what_is_left_out_has_the_default() {
    let text = mesh() + &policy("p", ", sectionName: first", "function: f, devices: [d]");
    let found = offloads(&snapshot(&text));
    let expected = Offload {
        policy: "default/p".into(),
        objective: Objective::Latency,
        slo: Duration::from_millis(100),
        miss_share: 0.01,
        window: Duration::from_secs(1),
        try_timeout: None,
        margin: 0.1,
        explore_share: 0.02,
        function: OffloadFunction {
            name: "f".into(),
            seconds: 0.001,
            seconds_per_byte: 0.0,
            out_share: 0.01,
        },
        dataset: None,
        host: PlaceProfile::HOST,
        devices: vec![OffloadDevice {
            name: "default/d".into(),
            target: ServicePort { service: ServiceName::new("default", "near"), port: 80 },
            profile: PlaceProfile { compute_factor: 2.0, ..PlaceProfile::DEVICE },
            has_function: false,
            dataset: None,
        }],
    };
    assert_eq!(found[1], ("default/web/first".to_string(), Some(Arc::new(expected))));
    assert_eq!(found[2], ("default/web/second".to_string(), None));
}

#[test]
fn every_word_of_the_resources_arrives() {
    let text = service("web")
        + &service("near")
        + &route("name: web", "    - {backendRefs: [{name: web}]}\n")
        + &document("Function", "f", "state: readOnly, time: 2s, bytesPerSecond: 1000, resultPercent: 250")
        + &document("Device", "h", "class: host, computeFactor: 0.5, slots: 7, dataIsMoved: false")
        + &document(
            "Device",
            "d",
            "class: gpu, service: {name: near, port: 80}, functions: [g, f], datasets: [{name: s, version: '1'}, \
             {name: t, version: '9'}], computeFactor: 3, slots: 2, linkBytesPerSecond: 11, dataBytesPerSecond: 12, \
             busyWatts: 13.5, joulesPerByte: 1e-9, dataIsMoved: true",
        )
        + &policy(
            "p",
            "",
            "function: f, devices: [d], host: h, dataset: {name: t, version: '8', bytes: 70}, objective: energy, \
             slo: {latency: 5s, missPercent: 0.5, window: 9s}, marginPercent: 0, explorePercent: 100",
        );
    let snapshot = snapshot(&text);
    let route = &port(&snapshot, "web").routes.routes[0];
    let near = ServicePort { service: ServiceName::new("default", "near"), port: 80 };
    let expected = Offload {
        policy: "default/p".into(),
        objective: Objective::Energy,
        slo: Duration::from_secs(5),
        miss_share: 0.005,
        window: Duration::from_secs(9),
        try_timeout: None,
        margin: 0.0,
        explore_share: 1.0,
        function: OffloadFunction { name: "f".into(), seconds: 2.0, seconds_per_byte: 0.001, out_share: 2.5 },
        dataset: Some(OffloadDataset { name: "t".into(), version: "8".into(), bytes: 70 }),
        host: PlaceProfile { compute_factor: 0.5, slots: 7, is_data_moved: false, ..PlaceProfile::HOST },
        devices: vec![OffloadDevice {
            name: "default/d".into(),
            target: near.clone(),
            profile: PlaceProfile {
                compute_factor: 3.0,
                slots: 2,
                link_bytes_per_second: 11.0,
                data_bytes_per_second: 12.0,
                busy_watts: 13.5,
                joules_per_byte: 1e-9,
                is_data_moved: true,
            },
            has_function: true,
            dataset: Some("9".into()),
        }],
    };
    assert_eq!(route.offload.as_deref(), Some(&expected));
    // The sidecar asks for its endpoints.
    assert!(route.targets().any(|target| *target == near));
}

#[test]
fn a_policy_for_a_rule_outranks_one_for_its_route() {
    let text = mesh()
        + &policy("whole", "", "function: f, devices: [d]")
        + &policy("one", ", sectionName: second", "function: f, devices: [d], objective: bytes");
    let found = offloads(&snapshot(&text));
    let policies: Vec<_> = found
        .iter()
        .map(|(rule, said)| (rule.as_str(), said.as_ref().map(|said| said.policy.to_string())))
        .collect();
    let some = |policy: &str| Some(policy.to_string());
    // Who is sent elsewhere runs nothing here.
    assert_eq!(
        policies,
        [
            ("default/web/away", None),
            ("default/web/first", some("default/whole")),
            ("default/web/second", some("default/one")),
        ]
    );
}

#[test]
fn a_grpc_route_can_run_elsewhere() {
    let text = service("web")
        + &service("near")
        + &function()
        + &device("1")
        + &route("name: web", "    - {backendRefs: [{name: web}]}\n").replace("HTTPRoute", "GRPCRoute")
        + &policy("p", "", "function: f, devices: [d]").replace("HTTPRoute", "GRPCRoute");
    assert!(port(&snapshot(&text), "web").routes.routes[0].offload.is_some());
}

/// A mesh that changes, and what it would be if everything were read at once.
struct Changing {
    mesh: Mesh,
    text: String,
}

impl Changing {
    fn new(text: String) -> Self {
        let mut mesh = Mesh::default();
        mesh.put(&Resources::parse("files.yaml", &text).unwrap(), Origin::Files);
        mesh.judge().unwrap();
        Changing { mesh, text }
    }

    /// Puts a document in the place of another, and says what comes of it.
    fn replace(
        &mut self,
        kind: &str,
        name: &str,
        old: &str,
        new: &str,
    ) -> Result<Arc<Snapshot>, Vec<String>> {
        assert!(self.text.contains(old));
        let mut next = self.mesh.clone();
        next.remove(&Key::new(kind, "default", name));
        next.put(&Resources::parse("files.yaml", new).unwrap(), Origin::Files);
        let text = self.text.replace(old, new);
        match next.judge() {
            Ok(now) => {
                let at_once = snapshot(&text);
                assert_eq!(now.services, at_once.services);
                assert_eq!(now.version, at_once.version);
                (self.mesh, self.text) = (next, text);
                Ok(now)
            }
            Err(found) => {
                let found: Vec<_> =
                    found.errors.iter().map(|error| format!("{}: {}", error.path, error.message)).collect();
                assert_eq!(found, errors(&text));
                Err(found)
            }
        }
    }
}

#[test]
fn a_change_of_a_device_reaches_the_routes_that_use_it() {
    let mut mesh = Changing::new(mesh() + &policy("p", "", "function: f, devices: [d]"));
    let now = mesh.replace("Device", "d", &device("2"), &device("3")).unwrap();
    let factor =
        |snapshot: &Snapshot| offloads(snapshot)[1].1.clone().unwrap().devices[0].profile.compute_factor;
    assert_eq!(factor(&now), 3.0);
    let slower = document("Function", "f", "state: stateless, time: 9ms");
    let now = mesh.replace("Function", "f", &function(), &slower).unwrap();
    assert_eq!(offloads(&now)[1].1.clone().unwrap().function.seconds, 0.009);
    // The port by which it is reached has another number.
    let moved = service("near").replace("port: 80", "port: 90");
    let now = mesh.replace("Service", "near", &service("near"), &moved).unwrap();
    assert_eq!(offloads(&now)[1].1.clone().unwrap().devices[0].target.port, 90);
}

#[test]
fn what_is_in_use_is_neither_taken_away_nor_made_unfit() {
    let policy = policy("p", "", "function: f, devices: [d]");
    let mut mesh = Changing::new(mesh() + &policy);
    let gone = |mesh: &mut Changing, kind: &str, name: &str, old: &str| {
        mesh.replace(kind, name, old, "").unwrap_err()
    };
    assert_eq!(
        gone(&mut mesh, "Function", "f", &function()),
        ["spec.function: there is no Function default/f"]
    );
    assert_eq!(
        gone(&mut mesh, "Service", "near", &service("near")),
        ["spec.service.name: there is no Service default/near"]
    );
    let host = document("Device", "d", "class: host");
    assert_eq!(
        mesh.replace("Device", "d", &device("2"), &host).unwrap_err(),
        ["spec.devices[0]: `d` is of class `host`"]
    );
    let stateful = document("Function", "f", "state: stateful");
    assert_eq!(
        mesh.replace("Function", "f", &function(), &stateful).unwrap_err(),
        ["spec.function: a stateful function moves by migration, not by request"]
    );
    // A device comes and goes by itself, and requests stay on the host while it is away.
    let now = mesh.replace("Device", "d", &device("2"), "").unwrap();
    assert_eq!(warnings(&now), ["spec.devices[0]: there is no Device default/d"]);
    assert!(offloads(&now).iter().all(|(_, said)| said.is_none()));
    // Without the policy, all of it can be.
    let now = mesh.replace("OffloadPolicy", "p", &policy, "").unwrap();
    assert!(offloads(&now).iter().all(|(_, said)| said.is_none()));
    assert_eq!(warnings(&now), [""; 0]);
    mesh.replace("Function", "f", &function(), &stateful).unwrap();
}

/// What is warned of.
fn warnings(snapshot: &Snapshot) -> Vec<String> {
    snapshot.warnings.iter().map(|warning| format!("{}: {}", warning.path, warning.message)).collect()
}

/// What the instances of a Service register that have `f`, and this of the dataset `t`.
fn registered(version: &str, slots: u32) -> RegisteredDevice {
    RegisteredDevice {
        class: DeviceClass::Dpu,
        port: 80,
        functions: vec!["f".into()],
        held: Vec::new(),
        memory_bytes: None,
        datasets: vec![("t".into(), version.into())],
        slots,
        data_bytes_per_second: Some(1000),
    }
}

/// The devices of the rules of `web`: their names, whether they have the function, and the versions of the data.
fn devices(snapshot: &Snapshot) -> Vec<(String, bool, Option<String>)> {
    let said = offloads(snapshot)[1].1.clone();
    let devices = said.iter().flat_map(|said| &said.devices);
    let version = |device: &OffloadDevice| device.dataset.as_deref().map(str::to_owned);
    devices.map(|device| (device.name.to_string(), device.has_function, version(device))).collect()
}

fn mesh_of(text: &str) -> Mesh {
    let mut mesh = Mesh::default();
    mesh.put(&Resources::parse("files.yaml", text).unwrap(), Origin::Files);
    mesh.judge().unwrap();
    mesh
}

fn near() -> ServiceName {
    ServiceName::new("default", "near")
}

#[test]
fn what_registers_is_a_device_by_the_name_of_its_service_while_it_is_there() {
    let text = mesh().replace(&device("2"), "") + &policy("p", "", "function: f, devices: [near]");
    let mut mesh = mesh_of(&text);
    assert!(mesh.set_registered(&near(), Some(registered("7", 6))));
    assert!(!mesh.set_registered(&near(), Some(registered("7", 6))), "that is nothing new");
    let now = mesh.judge().unwrap();
    assert_eq!((devices(&now), warnings(&now)), (vec![("default/near".into(), true, None)], vec![]));
    let said = offloads(&now)[1].1.clone().unwrap();
    let expected = PlaceProfile { slots: 6, data_bytes_per_second: 1000.0, ..PlaceProfile::DEVICE };
    assert_eq!(said.devices[0].profile, expected);
    // Its Service is gone for a while, and here again with another port.
    for (text, found) in
        [(String::new(), 0), (service("near"), 1), (service("near").replace("port: 80", "port: 81"), 0)]
    {
        mesh.remove(&Key::new("Service", "default", "near"));
        mesh.put(&Resources::parse("files.yaml", &text).unwrap(), Origin::Files);
        assert_eq!(devices(&mesh.judge().unwrap()).len(), found, "{text}");
    }
    mesh.set_registered(&near(), None);
    let now = mesh.judge().unwrap();
    assert_eq!(devices(&now), []);
    assert_eq!(warnings(&now), ["spec.devices[0]: there is no Device default/near"]);
}

#[test]
fn a_function_that_is_not_active_has_its_place_and_no_requests() {
    let reads = document("Function", "f", "state: readOnly");
    let read = "function: f, dataset: {name: t, version: '8', bytes: 7}";
    let text = mesh().replace(&device("2"), "").replace(&function(), &reads);
    let inactive = || {
        let held = |name: &str| HeldFunction { name: name.into(), memory_bytes: 1 };
        RegisteredDevice {
            functions: vec!["a".into()],
            held: vec![held("a"), held("f")],
            ..registered("8", 1)
        }
    };
    let mut mesh = mesh_of(&(text.clone() + &policy("p", "", read)));
    mesh.set_registered(&near(), Some(inactive()));
    let now = mesh.judge().unwrap();
    let expected = |has_function| vec![("default/near".to_owned(), has_function, Some("8".to_owned()))];
    assert_eq!((devices(&now), warnings(&now)), (expected(false), vec![]));
    let known = mesh.devices();
    assert_eq!((&known[0].functions, &known[0].inactive), (&vec!["a".into(), "f".into()], &vec!["f".into()]));
    let active = RegisteredDevice { functions: vec!["a".into(), "f".into()], ..inactive() };
    mesh.set_registered(&near(), Some(active));
    assert_eq!(devices(&mesh.judge().unwrap()), expected(true));
    // So it is of one that is written.
    let written = "class: csd, service: {name: near}, functions: [f], datasets: [{name: t, version: '8'}]";
    let mut mesh = mesh_of(&(text + &document("Device", "d", written) + &policy("p", "", read)));
    let of_written = |has_function| vec![("default/d".to_owned(), has_function, Some("8".to_owned()))];
    assert_eq!(devices(&mesh.judge().unwrap()), of_written(true));
    mesh.set_registered(&near(), Some(inactive()));
    assert_eq!(devices(&mesh.judge().unwrap()), of_written(false));
}

#[test]
fn what_is_written_goes_before_what_registers() {
    let written = |more: &str| document("Device", "d", &format!("class: csd, service: {{name: near}}{more}"));
    let reads = document("Function", "f", "state: readOnly");
    let text = |more: &str, named: &str| {
        let read = "function: f, dataset: {name: t, version: '8', bytes: 7}";
        mesh().replace(&device("2"), &written(more)).replace(&function(), &reads)
            + &policy("p", "", &format!("{read}{named}"))
    };
    for (more, expected, slots) in [
        ("", ("default/d", true, Some("8")), 6),
        (", slots: 2, datasets: [{name: t, version: '9'}]", ("default/d", true, Some("9")), 2),
        (", functions: [g]", ("default/d", false, Some("8")), 6),
    ] {
        let mut mesh = mesh_of(&text(more, ", devices: [d]"));
        mesh.set_registered(&near(), Some(registered("8", 6)));
        let now = mesh.judge().unwrap();
        let (name, has_function, version) = expected;
        assert_eq!(devices(&now), [(name.into(), has_function, version.map(str::to_owned))], "{more}");
        assert_eq!(offloads(&now)[1].1.clone().unwrap().devices[0].profile.slots, slots);
        let known: Vec<_> = mesh.devices().iter().map(|device| device.name.to_string()).collect();
        assert_eq!(known, ["default/d"], "one that is reached by the same Service is the same");
    }
}

#[test]
fn a_policy_that_names_no_device_uses_those_that_have_what_it_needs() {
    let reads = document("Function", "f", "state: readOnly");
    let read = "function: f, dataset: {name: t, version: '8', bytes: 7}";
    let text = mesh().replace(&device("2"), "").replace(&function(), &reads)
        + &service("far")
        + &policy("p", "", read);
    let mut mesh = mesh_of(&text);
    let far = ServiceName::new("default", "far");
    let none = "spec.function: there is no Device in default that holds `f` and dataset t@8";
    for (change, expected) in [
        ((near(), Some(registered("7", 1))), &[][..]),
        ((near(), Some(registered("8", 1))), &["default/near"]),
        ((far.clone(), Some(registered("8", 1))), &["default/far", "default/near"]),
        ((near(), None), &["default/far"]),
        ((far, Some(RegisteredDevice { class: DeviceClass::Host, ..registered("8", 1) })), &[]),
    ] {
        mesh.set_registered(&change.0, change.1);
        let now = mesh.judge().unwrap();
        let names: Vec<String> = devices(&now).into_iter().map(|(name, ..)| name).collect();
        assert_eq!(names, expected);
        assert_eq!(warnings(&now), if expected.is_empty() { vec![none] } else { vec![] });
    }
    // One that is written.
    let written = "class: csd, service: {name: near}, functions: [f], datasets: [{name: t, version: '8'}]";
    let written = document("Device", "w", written);
    mesh.put(&Resources::parse("files.yaml", &written).unwrap(), Origin::Files);
    let expected = vec![("default/w".to_owned(), true, Some("8".to_owned()))];
    assert_eq!(devices(&mesh.judge().unwrap()), expected);
}

#[test]
fn a_device_is_reached_by_a_port_that_carries_http() {
    let near = service("near");
    let raw = near.replace("appProtocol: http", "appProtocol: tcp");
    assert_ne!(raw, near);
    let text = mesh().replace(&near, &raw) + &policy("p", "", "function: f, devices: [d]");
    let found = errors(&text);
    assert!(
        found.iter().any(|error| error.contains("spec.service.name: default/near:80 does not carry HTTP")),
        "{found:?}"
    );
}
