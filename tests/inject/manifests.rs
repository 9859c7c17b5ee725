//! Manifests of well-known shapes: injected, valid, idempotent, undone.

use std::path::PathBuf;
use std::process::Command;

use libtest_mimic::{Completion, Trial};
use lighter_config::sidecar::SidecarConfig;
use serde_json::Value;

use crate::command::{manifest, written};
use crate::support::process::python;

pub fn tests() -> Vec<Trial> {
    MANIFESTS
        .iter()
        .map(|(name, sidecars)| {
            Trial::ignorable_test(format!("manifests::{name}"), || match python(SCHEMAS) {
                Ok(python) => {
                    check(&python, name, sidecars);
                    Ok(Completion::Completed)
                }
                Err(reason) => Ok(Completion::ignored_with(reason)),
            })
        })
        .collect()
}

/// Each manifest, and for every workload in it that gets a sidecar: its pod's name or that of its first container, and lines
/// of the sidecar's own file.
type Sidecars = &'static [(&'static str, &'static [&'static str])];

const MANIFESTS: [(&str, Sidecars); 15] = [
    (
        "web",
        &[(
            "web",
            &[
                "service: web",
                "namespace: shop",
                "link: 0.0.0.0:15008",
                "http: /healthz",
                "port: 8080",
                "interval: 3s",
                "drainDeadline: 25s",
            ],
        )],
    ),
    ("database", &[("database", &["service: database", "- 9187", "drainDeadline: 60s", "inbound: true"])]),
    (
        "exporter",
        &[("exporter", &["service: exporter", "namespace: default", "grpc: metrics", "port: 9100"])],
    ),
    ("migration", &[("migrate", &["- database:5432", "- web", "inbound: false"])]),
    ("report", &[("report", &["inbound: false"])]),
    ("pod", &[("shell", &["tokenFile: /var/run/secrets/lighter/token"])]),
    ("list", &[("cart", &["service: cart"]), ("debug", &["inbound: false"])]),
    ("chart", &[("shop", &["service: shop", "http: /"]), ("wget", &["inbound: false"])]),
    ("sidecars", &[("ledger", &["service: ledger", "namespace: bank"])]),
    ("restricted", &[("vault", &["connect: 127.0.0.1:15080"])]),
    ("nonroot", &[("orders", &["service: orders", "port: 9090", "drainDeadline: 8s"])]),
    ("subpath", &[("gateway", &["service: gateway"])]),
    ("left-out", &[]),
    ("webhook", &[]),
    ("deployment", &[("web", &["service: web", "- 9113", "- reviews:80"])]),
];

fn check(python: &PathBuf, name: &str, sidecars: Sidecars) {
    let original = manifest(name);
    let path = original.to_str().unwrap();
    let injected = written(&["inject", "-f", path], "");
    assert_eq!(written(&["inject", "-f", "-"], &injected), injected, "{name}: a second time");
    let undone = written(&["uninject", "-f", "-"], &injected);
    assert_eq!(written(&["uninject", "-f", "-"], &undone), undone, "{name}: undone twice");
    // Not what a later one would have put in, but what this one did.
    let otherwise =
        written(&["inject", "--image", "other:2", "--control", "else.where:1", "-f", "-"], &injected);
    assert_eq!(written(&["uninject", "-f", "-"], &otherwise), undone, "{name}: by way of another");
    assert_eq!(written(&["inject", "-f", "-"], &otherwise), injected, "{name}: and back");

    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let mut command = Command::new(python);
    command.arg(format!("{}/../tests/inject/scripts/manifests.py", env!("CARGO_MANIFEST_DIR")));
    command.args([&original, &file("injected.yaml", &injected), &file("undone.yaml", &undone)]);
    command.arg(file("patches", &written(&["inject", "--patch", "-f", path], "")));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{name}: {}\n{injected}", String::from_utf8_lossy(&output.stderr));
    let documents: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();

    let pods: Vec<&Value> = documents.iter().flat_map(pods).filter(|pod| is_injected(pod)).collect();
    assert_eq!(pods.len(), sidecars.len(), "{name}");
    for (pod, (container, lines)) in pods.into_iter().zip(sidecars) {
        assert_eq!(pod["spec"]["containers"][0]["name"], *container, "{name}");
        let file = pod["metadata"]["annotations"]["lighter.dev/sidecar"].as_str().unwrap();
        for line in *lines {
            // Quoted where something else than text could be read.
            assert!(
                file.lines().any(|said| said.trim().replace('"', "") == *line),
                "{name}: no `{line}` in\n{file}"
            );
        }
        sound(pod, file);
    }
}

/// What holds for every pod with a sidecar.
fn sound(pod: &Value, file: &str) {
    let config = SidecarConfig::parse("sidecar.yaml", file).unwrap();
    let sidecar = &pod["spec"]["initContainers"][0];
    assert_eq!((&sidecar["name"], &sidecar["restartPolicy"]), (&"lighter-proxy".into(), &"Always".into()));
    let security = &sidecar["securityContext"];
    assert_eq!(security["capabilities"]["drop"], serde_json::json!(["ALL"]));
    match config.intercept {
        Some(_) => assert_eq!(security["capabilities"]["add"], serde_json::json!(["NET_ADMIN"])),
        None => assert!(security["capabilities"].get("add").is_none() && security["runAsNonRoot"] == true),
    }
    for (field, value) in
        [("readOnlyRootFilesystem", true), ("allowPrivilegeEscalation", false), ("privileged", false)]
    {
        assert_eq!(security[field], value, "{field}");
    }
    let probe = config.probe.unwrap().port();
    for field in ["startupProbe", "readinessProbe"] {
        assert_eq!(
            sidecar[field]["httpGet"],
            serde_json::json!({"path": "/ready", "port": probe}),
            "{field}"
        );
    }
    let grace = pod["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap_or(30);
    assert!(config.drain_deadline.as_secs() < grace, "{:?} of {grace} s", config.drain_deadline);
    let pre_stop = sidecar.pointer("/lifecycle/preStop/httpGet/path").and_then(Value::as_str);
    assert_eq!(pre_stop, config.service.as_ref().map(|_| "/drain"));
    for container in pod["spec"]["containers"].as_array().unwrap() {
        let has_hook = container.pointer("/lifecycle/preStop").is_some();
        assert!(has_hook || config.service.is_none(), "{container}");
    }
    for (volume, of) in
        [("lighter-config", "downwardAPI"), ("lighter-identity", "secret"), ("lighter-state", "emptyDir")]
    {
        let volumes = pod["spec"]["volumes"].as_array().unwrap();
        assert!(volumes.iter().any(|one| one["name"] == volume && one.get(of).is_some()), "{volume}");
    }
}

/// The pods that a document describes.
pub fn pods(document: &Value) -> Vec<&Value> {
    match document["kind"].as_str().unwrap_or_default() {
        "List" => document["items"].as_array().unwrap().iter().flat_map(pods).collect(),
        "Pod" => vec![document],
        "CronJob" => vec![&document["spec"]["jobTemplate"]["spec"]["template"]],
        _ => document["spec"].get("template").into_iter().collect(),
    }
}

pub fn is_injected(pod: &Value) -> bool {
    pod.pointer("/metadata/annotations/lighter.dev~1injected").is_some()
}

/// What Python needs to know the Kubernetes schemas.
pub const SCHEMAS: &str = "kubernetes_validate, yaml";
