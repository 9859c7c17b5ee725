//! The examples are right: they are read without a warning, and their schemas agree.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};

use jsonschema::Validator;
use lighter_config::control::ControlConfig;
use lighter_config::load::Resources;
use lighter_config::name::ServiceName;
use lighter_config::scenario::Scenario;
use lighter_config::schema;
use lighter_config::sidecar::SidecarConfig;
use lighter_config::snapshot::Snapshot;
use serde_json::{Value, json};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

fn validator(kind: &str) -> Validator {
    let schema = schema::of(kind).unwrap_or_else(|| panic!("{kind} has a schema"));
    jsonschema::draft202012::new(&schema).unwrap_or_else(|error| panic!("the schema of {kind}: {error}"))
}

/// The examples that are resource files.
fn resource_files() -> Vec<PathBuf> {
    let folders = ["", "policies", "devices"].map(|folder| examples().join(folder));
    let entries = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let entries = entries.map(|entry| entry.unwrap().path());
    let is_resources = |file: &PathBuf| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        file.extension().is_some_and(|extension| extension == "yaml") && text.contains("\napiVersion:")
    };
    entries.filter(is_resources).collect()
}

/// The documents of a resource file as plain values.
fn documents(file: &Path) -> Vec<Value> {
    serde_saphyr::from_multiple(&std::fs::read_to_string(file).unwrap()).unwrap()
}

fn builds(text: &str) -> bool {
    Resources::parse("test.json", text).and_then(|resources| Snapshot::build(&resources)).is_ok()
}

#[test]
fn every_example_is_built_without_a_warning() {
    let files = resource_files();
    assert!(files.len() >= 5);
    for file in files {
        let snapshot = Resources::read(&[file]).and_then(|resources| Snapshot::build(&resources));
        let snapshot = snapshot.unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(snapshot.warnings, []);
    }
}

#[test]
fn the_bookshop_is_a_whole_mesh() {
    let resources = Resources::read(&[examples().join("bookshop.yaml")]).unwrap();
    let snapshot = Snapshot::build(&resources).unwrap();
    let reviews = &snapshot.services[&ServiceName::new("default", "reviews")];
    let routes = &reviews.ports[0].routes.routes;
    let names: Vec<&str> = routes.iter().map(|route| &*route.name).collect();
    assert_eq!(names, ["default/reviews/preview", "default/reviews/shift"]);
    let shares: Vec<u32> = routes[1].backends.iter().map(|backend| backend.weight).collect();
    assert_eq!(shares, [90, 10]);
}

#[test]
fn the_example_of_a_sidecar_file_is_read() {
    let config = SidecarConfig::read(&examples().join("sidecar.yaml")).unwrap();
    assert_eq!(config.service.as_deref(), Some("web"));
    assert_eq!(config.resources, [examples().join("bookshop.yaml")]);
    let value = documents(&examples().join("sidecar.yaml")).remove(0);
    assert!(validator("SidecarConfig").is_valid(&value));
}

#[test]
fn the_example_of_a_device_is_read() {
    let config = SidecarConfig::read(&examples().join("device.yaml")).unwrap();
    let device = config.device.unwrap();
    assert_eq!((device.datasets.len(), device.limits.runs), (1, 2));
    assert!(device.datasets[0].path.is_file());
    let value = documents(&examples().join("device.yaml")).remove(0);
    assert!(validator("SidecarConfig").is_valid(&value));
}

#[test]
fn the_example_of_a_control_planes_file_is_read() {
    let config = ControlConfig::read(&examples().join("control.yaml")).unwrap();
    assert_eq!(config.trust_domain, "bookshop.example");
    assert_eq!(config.resources, [examples().join("bookshop.yaml")]);
    let value = documents(&examples().join("control.yaml")).remove(0);
    assert!(validator("ControlConfig").is_valid(&value));
}

#[test]
fn the_example_of_a_scenario_is_read() {
    let file = examples().join("simulate/faults.yaml");
    let scenario = Scenario::read(&file).unwrap();
    assert_eq!((scenario.devices, scenario.events.len()), (40, 3));
    assert!(validator("Scenario").is_valid(&documents(&file).remove(0)));
    let file = examples().join("simulate/planned.yaml");
    let scenario = Scenario::read(&file).unwrap();
    assert_eq!((scenario.device_classes[1].allowed_slots, scenario.functions.is_some()), (Some(3), true));
    assert!(validator("Scenario").is_valid(&documents(&file).remove(0)));
}

#[test]
fn schemas_accept_the_examples() {
    for document in resource_files().iter().flat_map(|file| documents(file)) {
        let kind = document["kind"].as_str().unwrap();
        let errors: Vec<String> = validator(kind).iter_errors(&document).map(|e| e.to_string()).collect();
        assert_eq!(errors, Vec::<String>::new(), "{document}");
    }
}

#[test]
fn every_kind_has_a_schema_that_refuses_what_is_unknown() {
    for kind in schema::kinds() {
        let validator = validator(kind);
        assert!(!validator.is_valid(&json!({ "colour": "blue" })), "{kind}");
        assert!(!validator.is_valid(&json!("text")), "{kind}");
    }
    assert_eq!(schema::of("Gateway"), None);
}

#[test]
fn schemas_refuse_what_the_loader_refuses() {
    let service = |spec: Value| {
        json!({
            "apiVersion": "mesh.lighter.dev/v1", "kind": "Service", "metadata": { "name": "web" }, "spec": spec
        })
    };
    let route = |rule: Value| {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": { "name": "web" },
            "spec": { "parentRefs": [{ "kind": "Service", "name": "web" }], "rules": [rule] }
        })
    };
    let links = |spec: Value| {
        json!({
            "apiVersion": "mesh.lighter.dev/v1", "kind": "LinkPolicy", "metadata": { "name": "links" }, "spec": spec
        })
    };
    let place = |spec: Value| json!({ "apiVersion": "mesh.lighter.dev/v1", "kind": "Device", "metadata": { "name": "a" }, "spec": spec });
    let function = |spec: Value| json!({ "apiVersion": "mesh.lighter.dev/v1", "kind": "Function", "metadata": { "name": "a" }, "spec": spec });
    let device = |more: Value| {
        let mut device = json!({ "class": "csd", "listen": "127.0.0.1:9300", "datasets": [] });
        device.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "service": "a", "inbound": [{ "listen": "127.0.0.1:80", "app": "127.0.0.1:9300" }], "device": device })
    };
    let cases = [
        ("Service", service(json!({ "ports": [{ "port": 80 }] })), true),
        ("Service", service(json!({ "ports": [{ "port": 80, "appProtocol": "kubernetes.io/h2c" }] })), true),
        ("Service", service(json!({ "ports": [] })), false),
        ("Service", service(json!({ "ports": [{ "port": 0 }] })), false),
        ("Service", service(json!({ "ports": [{ "port": 70000 }] })), false),
        ("Service", service(json!({ "ports": [{ "port": 80, "appProtocol": "htp" }] })), false),
        ("Service", service(json!({ "prots": [] })), false),
        ("HTTPRoute", route(json!({ "timeouts": { "request": "1h30m" } })), true),
        ("HTTPRoute", route(json!({ "timeouts": { "request": "1.5s" } })), false),
        ("HTTPRoute", route(json!({ "filters": [{ "type": "ExtensionRef" }] })), false),
        ("HTTPRoute", route(json!({ "matches": [{ "method": "get" }] })), false),
        ("HTTPRoute", route(json!({ "retry": { "codes": [503], "attempts": 2, "backoff": "1s" } })), true),
        ("HTTPRoute", route(json!({ "retry": { "attempts": 11 } })), false),
        ("HTTPRoute", route(json!({ "retry": { "on": ["reset"] } })), false),
        ("HTTPRoute", route(json!({ "backendRefs": [{ "name": "web", "weight": 1_000_001 }] })), false),
        ("LinkPolicy", links(json!({ "wires": { "shm": "mustNot" }, "idleTimeout": "0s" })), true),
        ("LinkPolicy", links(json!({ "wires": { "rdma": "may" }, "devices": ["rxe0"] })), true),
        ("LinkPolicy", links(json!({ "wires": { "quic": "should" }, "congestion": "newReno" })), true),
        ("LinkPolicy", links(json!({ "quicCalm": "5s" })), true),
        ("LinkPolicy", links(json!({ "quicCalm": 5 })), false),
        ("LinkPolicy", links(json!({ "wires": { "avian": "may" } })), false),
        ("LinkPolicy", links(json!({ "congestion": "none" })), false),
        ("LinkPolicy", links(json!({ "hotBytesPerSecond": 0 })), false),
        ("Device", place(json!({ "class": "host", "computeFactor": 2 })), true),
        (
            "Device",
            place(json!({ "class": "csd", "service": { "name": "web", "port": 80 }, "slots": 1 })),
            true,
        ),
        ("Device", place(json!({ "class": "fpga" })), false),
        ("Device", place(json!({ "class": "host", "computeFactor": 0 })), false),
        ("Device", place(json!({ "class": "host", "joulesPerByte": 1.5 })), false),
        ("Device", place(json!({ "class": "host", "slots": 0 })), false),
        ("Function", function(json!({ "state": "readOnly", "bytesPerSecond": 1, "time": "0s" })), true),
        ("Function", function(json!({ "state": "stateless", "resultPercent": -1 })), false),
        ("Function", function(json!({ "time": "1s" })), false),
        ("SidecarConfig", json!({ "workers": 0 }), false),
        ("SidecarConfig", json!({ "control": { "address": "a:1", "plaintext": true } }), true),
        ("SidecarConfig", json!({ "control": { "address": "a:1", "tokenFile": "t", "state": "s" } }), true),
        ("SidecarConfig", json!({ "control": { "plaintext": true } }), false),
        ("SidecarConfig", json!({ "intercept": { "outbound": false } }), true),
        ("SidecarConfig", json!({ "accessLog": { "format": "xml" } }), false),
        ("SidecarConfig", device(json!({})), true),
        ("SidecarConfig", device(json!({ "functions": ["scan", "checksum"] })), true),
        ("SidecarConfig", device(json!({ "functions": ["sort"] })), false),
        ("SidecarConfig", device(json!({ "class": "fpga" })), false),
        ("SidecarConfig", device(json!({ "limits": { "runs": 0 } })), false),
        ("SidecarConfig", device(json!({ "limits": { "memoryBytes": 1 } })), false),
        ("SidecarConfig", device(json!({ "datasets": [{ "name": "a" }] })), false),
        (
            "SidecarConfig",
            device(
                json!({ "activation": "planned", "natives": [{ "name": "a", "exec": ["a"], "memoryBytes": 1048576 }] }),
            ),
            true,
        ),
        (
            "SidecarConfig",
            device(
                json!({ "activation": "planned", "natives": [{ "name": "a", "exec": [], "memoryBytes": 1048576 }] }),
            ),
            false,
        ),
        (
            "SidecarConfig",
            device(json!({ "activation": "planned", "natives": [{ "name": "a", "exec": ["a"] }] })),
            false,
        ),
    ];
    for (kind, value, good) in cases {
        assert_eq!(validator(kind).is_valid(&value), good, "{kind} {value}");
        let loaded = match kind {
            "SidecarConfig" => SidecarConfig::parse("test.json", &value.to_string()).is_ok(),
            "Service" => builds(&value.to_string()),
            _ => builds(&format!("{}\n---\n{value}", service(json!({ "ports": [{ "port": 80 }] })))),
        };
        assert_eq!(loaded, good, "{kind} {value}");
    }
}
