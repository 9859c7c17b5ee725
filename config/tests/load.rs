//! Files and folders.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use lighter_config::identity::JoinToken;
use lighter_config::load::Resources;
use lighter_config::sidecar::{
    AccessLogConfig, BuiltIn, ComponentConfig, ComponentLimits, ComponentMemory, ControlSecurity,
    DatasetConfig, DatasetFormat, DeviceClass, DeviceLimits, DnsConfig, GuardConfig, IdentityConfig,
    InterceptConfig, NativeConfig, SidecarConfig, TokenSource,
};
use lighter_config::snapshot::Protocol;

fn service(name: &str) -> String {
    format!(
        "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 80}}]}}\n"
    )
}

fn write(folder: &Path, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_folder_is_read_in_order_of_names_without_hidden_and_foreign_files() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "b.yml", service("b"));
    write(folder.path(), "a.yaml", service("a") + "---\n" + &service("a2"));
    write(
        folder.path(),
        "c.json",
        r#"{"apiVersion": "mesh.lighter.dev/v1", "kind": "Service",
        "metadata": {"name": "c"}, "spec": {"ports": [{"port": 80}]}}"#,
    );
    write(folder.path(), ".hidden.yaml", "kind: [");
    write(folder.path(), "notes.txt", "kind: [");
    std::fs::create_dir(folder.path().join("sub.yaml")).unwrap();
    let again = folder.path().join("a.yaml");
    let resources = Resources::read(&[folder.path().to_path_buf(), again]).unwrap();
    let names: Vec<&str> = resources.names().collect();
    assert_eq!(names, ["Service default/a", "Service default/a2", "Service default/b", "Service default/c"]);
}

#[test]
fn faults_of_all_files_are_told_together() {
    let folder = tempfile::tempdir().unwrap();
    let good = write(folder.path(), "good.yaml", service("a"));
    let typo = write(folder.path(), "typo.yaml", "kind: Servcie\n---\nkind: HTTPRuote\n");
    let latin = write(folder.path(), "latin.yaml", b"a: b\nc: \xe9\n");
    let absent = folder.path().join("absent.yaml");
    let errors = Resources::read(&[good, typo.clone(), latin.clone(), absent.clone()]).unwrap_err().errors;
    let found: Vec<(String, u32)> = errors.iter().map(|error| (error.file.to_string(), error.line)).collect();
    let name = |path: &Path| path.display().to_string();
    assert_eq!(found, [(name(&absent), 0), (name(&latin), 0), (name(&typo), 1), (name(&typo), 3)]);
    assert!(errors[0].message.starts_with("cannot be read"));
    assert_eq!(errors[1].message, "line 2 is not UTF-8");
}

#[test]
fn a_file_that_is_too_large_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let large = write(folder.path(), "large.yaml", service("a") + &"# x\n".repeat(1 << 20));
    let errors = Resources::read(&[large]).unwrap_err().errors;
    assert_eq!(errors[0].message, "the file is larger than 4 MiB");
}

#[test]
fn a_pipe_is_refused_and_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe.yaml");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let error = Resources::read(std::slice::from_ref(&pipe)).unwrap_err().to_string();
    assert!(error.contains("not a regular file"), "{error}");
    // In a folder it is none of ours.
    write(folder.path(), "a.yaml", service("a"));
    let folder = [folder.path().to_path_buf()];
    assert_eq!(Resources::read(&folder).unwrap().len(), 1);
    assert_eq!(Resources::files(&folder), [folder[0].join("a.yaml")]);
}

#[test]
fn a_flood_of_documents_is_refused() {
    let errors = Resources::parse("flood.yaml", &"--- a\n".repeat(20_000)).unwrap_err().errors;
    assert!(errors.iter().any(|error| error.message == "more than 16384 documents"));
}

#[test]
fn an_error_is_one_block_of_text() {
    let errors = Resources::parse("mesh.yaml", "kind: Servcie\n").unwrap_err();
    let text = "mesh.yaml:1:7: kind: unknown kind `Servcie`\n  in Servcie\n  hint: did you mean `Service`?";
    assert_eq!(errors.to_string(), text);
}

#[test]
fn an_empty_sidecar_file_is_all_defaults() {
    let config = SidecarConfig::parse("sidecar.yaml", "# nothing\n").unwrap();
    assert_eq!(config, SidecarConfig::default());
    assert_eq!((config.outbound_port, config.inbound_port), (15001, 15006));
    assert_eq!(config.admin.to_string(), "127.0.0.1:15000");
    assert!(config.workers >= 1 && config.dns.is_none() && config.intercept.is_none());
    assert_eq!(SidecarConfig::parse("sidecar.yaml", "{}").unwrap(), config);
}

#[test]
fn interception_brings_dns_unless_it_is_switched_off() {
    let parse = |text| SidecarConfig::parse("sidecar.yaml", text).unwrap();
    let config = parse("intercept: {}");
    assert_eq!(
        (config.intercept, config.dns),
        (Some(InterceptConfig::default()), Some(DnsConfig::default()))
    );
    assert_eq!(parse("intercept: {dns: false}").dns, None);
    assert_eq!(parse("dns: {upstream: ['192.0.2.53:53']}").dns.unwrap().upstream.len(), 1);
}

#[test]
fn everything_in_a_sidecar_file_is_taken_over() {
    let text = r#"
service: shop/web
namespace: shop
workers: 3
resources: [mesh, /etc/lighter]
listeners: [{listen: "127.0.0.1:7001", service: catalog, port: 80, protocol: http2}]
inbound: [{listen: "0.0.0.0:9001", app: "127.0.0.1:8080", protocol: grpc}]
intercept:
  inbound: false
  excludeOutboundPorts: [22]
  excludeInboundPorts: [9090]
  excludeCidrs: [10.0.0.0/8, "fd00::/8"]
  excludeUids: [1337]
  mark: 7
outboundPort: 16001
inboundPort: 16006
admin: "[::1]:16000"
probe: 0.0.0.0:16021
dns: {listen: "127.0.0.1:16053"}
connect: 127.0.0.1:16080
link: 0.0.0.0:16008
drainDeadline: 1m
handover: place
accessLog: {format: text, path: logs/access.log}
detectTimeout: 20ms
maxHeadBytes: 8192
maxConnections: 1000
maxRingBytes: 4194304
guard: {headTimeout: 5s, clientTimeout: 7s, minBytesPerSecond: 9, maxMemoryBytes: 33554432, shrinkPercent: 50, refusePercent: 60}
identity: {certificate: web.pem, key: /run/web.key, bundle: roots.pem}
control: {address: "control.shop:15010", plaintext: true, state: state, dependsOn: [a, "b/c:80"]}
"#;
    let config = SidecarConfig::parse("/etc/sidecar/web.yaml", text).unwrap();
    assert_eq!(config.service.as_deref(), Some("shop/web"));
    assert_eq!((config.namespace.as_str(), config.workers), ("shop", 3));
    assert_eq!(config.resources, [Path::new("/etc/sidecar/mesh"), Path::new("/etc/lighter")]);
    assert_eq!((config.listeners[0].port, config.listeners[0].protocol), (Some(80), Protocol::Http2));
    assert_eq!(config.inbound[0].protocol, Protocol::Grpc);
    let intercept = config.intercept.unwrap();
    assert_eq!((intercept.outbound, intercept.inbound, intercept.mark), (true, false, 7));
    assert_eq!((intercept.exclude_outbound_ports, intercept.exclude_inbound_ports), (vec![22], vec![9090]));
    assert_eq!(intercept.exclude_cidrs, [("10.0.0.0".parse().unwrap(), 8), ("fd00::".parse().unwrap(), 8)]);
    assert_eq!(intercept.exclude_uids, [1337]);
    assert_eq!((config.outbound_port, config.inbound_port), (16001, 16006));
    assert_eq!(config.admin.to_string(), "[::1]:16000");
    assert_eq!(config.probe.unwrap().port(), 16021);
    assert_eq!(config.dns.unwrap().listen.port(), 16053);
    assert_eq!(config.connect.unwrap().port(), 16080);
    assert_eq!(config.link.unwrap().port(), 16008);
    assert_eq!(config.drain_deadline, Duration::from_secs(60));
    assert_eq!(config.handover.as_deref(), Some(Path::new("/etc/sidecar/place")));
    let path = Some(PathBuf::from("/etc/sidecar/logs/access.log"));
    assert_eq!(config.access_log, Some(AccessLogConfig { json: false, path }));
    assert_eq!(config.detect_timeout, Duration::from_millis(20));
    assert_eq!((config.max_head_bytes, config.max_connections), (8192, Some(1000)));
    assert_eq!(config.max_ring_bytes, 4 << 20);
    let guard = GuardConfig {
        head_timeout: Duration::from_secs(5),
        client_timeout: Duration::from_secs(7),
        min_bytes_per_second: 9,
        max_memory: Some(32 << 20),
        shrink_percent: 50,
        refuse_percent: 60,
    };
    assert_eq!(config.guard, guard);
    let control = config.control.unwrap();
    assert_eq!((control.address.as_str(), control.own_resources), ("control.shop:15010", true));
    assert_eq!(control.state, Some(PathBuf::from("/etc/sidecar/state")));
    assert_eq!(control.depends_on, [("a".to_string(), None), ("b/c".to_string(), Some(80))]);
    assert_eq!(control.security, ControlSecurity::Plaintext);
    let identity = IdentityConfig {
        certificate: "/etc/sidecar/web.pem".into(),
        key: "/run/web.key".into(),
        bundle: "/etc/sidecar/roots.pem".into(),
    };
    assert_eq!(config.identity, Some(identity));
}

#[test]
fn every_field_of_a_device_is_read() {
    let text = r#"
service: orders
inbound: [{listen: "127.0.0.1:8080", app: "127.0.0.1:9300"}]
device:
  class: dpu
  listen: "127.0.0.1:9300"
  datasets:
    - {name: orders, version: "2026-11.1", path: data/orders.parquet, format: parquet}
    - {name: log, version: a_b, path: /srv/log.jsonl, format: jsonl, tenant: shop}
  functions: [scan, checksum]
  limits: {memoryBytes: 2097152, runs: 9, waiting: 5, deadline: 1m30s, resultRows: 10, resultBytes: 1000, keyBytes: 77}
  components: [{name: tally, path: tally.wasm, memory: kept}, {name: other, path: /o.wasm, tenant: shop, limits: {memoryBytes: 1048576, deadline: 5s}}]
  componentCache: code
  mediaBytesPerSecond: 5000
"#;
    let device = SidecarConfig::parse("/etc/sidecar/orders.yaml", text).unwrap().device.unwrap();
    assert_eq!((device.class, device.listen.port()), (DeviceClass::Dpu, 9300));
    let dataset = |name: &str, version: &str, path: &str, format| DatasetConfig {
        name: name.into(),
        version: version.into(),
        path: path.into(),
        format,
        tenant: if name == "log" { "shop" } else { "default" }.into(),
    };
    let orders = dataset("orders", "2026-11.1", "/etc/sidecar/data/orders.parquet", DatasetFormat::Parquet);
    assert_eq!(device.datasets, [orders, dataset("log", "a_b", "/srv/log.jsonl", DatasetFormat::Jsonl)]);
    assert_eq!(device.functions, [BuiltIn::Scan, BuiltIn::Checksum]);
    let component = |name: &str, path: &str, tenant: &str| ComponentConfig {
        name: name.into(),
        path: path.into(),
        tenant: tenant.into(),
        // What is not said is the device's.
        limits: (name == "other").then_some(ComponentLimits {
            memory_bytes: 1 << 20,
            deadline: Duration::from_secs(5),
            result_bytes: Some(1000),
        }),
        memory: if name == "tally" { ComponentMemory::Kept } else { ComponentMemory::Fresh },
    };
    let tally = component("tally", "/etc/sidecar/tally.wasm", "default");
    assert_eq!(device.components, [tally, component("other", "/o.wasm", "shop")]);
    assert_eq!(device.component_cache.as_deref(), Some(std::path::Path::new("/etc/sidecar/code")));
    let limits = DeviceLimits {
        memory_bytes: 2 << 20,
        runs: 9,
        waiting: 5,
        deadline: Duration::from_secs(90),
        key_bytes: 77,
        result_rows: Some(10),
        result_bytes: Some(1000),
    };
    assert_eq!((device.limits, device.media_bytes_per_second), (limits, Some(5000)));
    // What is left out.
    let text = text
        .lines()
        .filter(|line| !["functions", "limits", "component", "media"].iter().any(|word| line.contains(word)));
    let text = text.collect::<Vec<_>>().join("\n");
    let device = SidecarConfig::parse("orders.yaml", &text).unwrap().device.unwrap();
    assert_eq!(device.functions, BuiltIn::usual().collect::<Vec<_>>());
    assert_eq!((device.components, device.component_cache), (Vec::new(), None));
    assert_eq!((device.limits, device.media_bytes_per_second), (DeviceLimits::default(), None));
}

#[test]
fn a_control_plane_is_spoken_to_as_who_the_file_says() {
    let security = |text: &str| {
        let text = text.replace("ADDRESS", "address: \"a:1\"");
        SidecarConfig::parse("/etc/web.yaml", &text).unwrap().control.unwrap().security
    };
    let joined = |token| ControlSecurity::Joined { token, state: "/etc/s".into() };
    let file = TokenSource::File("/etc/t".into());
    assert_eq!(security("control: {ADDRESS, tokenFile: t, state: s}"), joined(Some(file)));
    let token = format!("lighter-join.shop.web.{}", "0a".repeat(72));
    let said = TokenSource::Said(JoinToken::parse(&token).unwrap());
    assert_eq!(security(&format!("control: {{ADDRESS, token: {token}, state: s}}")), joined(Some(said)));
    // What is kept has to do.
    assert_eq!(security("control: {ADDRESS, state: s}"), joined(None));
    let files = "identity: {certificate: a, key: b, bundle: c}\ncontrol: {ADDRESS, state: s}";
    assert_eq!(security(files), ControlSecurity::Files);
}

#[test]
fn a_component_has_a_name_of_its_own_and_a_file() {
    let text = "service: a\ninbound: [{listen: '127.0.0.1:8080', app: '127.0.0.1:9300'}]\ndevice:\n  class: csd\n  listen: \
                '127.0.0.1:9300'\n  datasets: []\n  functions: []\n  components:\n    - {name: scan, path: a.wasm}\n    - {name: a, \
                path: ''}\n    - {name: a, path: b.wasm, tenant: a/b}\n";
    let said = SidecarConfig::parse("a.yaml", text).unwrap_err().to_string();
    for expected in [
        "a.yaml:9:14: device.components[0].name: `scan` is built in",
        "device.components[1].path: an empty path names no file",
        "device.components[2].name: there is a component `a` already",
        "device.components[2].tenant: `a/b` is not a name",
    ] {
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn a_memory_that_is_kept_goes_with_no_plan() {
    let text = "service: a\ninbound: [{listen: '127.0.0.1:8080', app: '127.0.0.1:9300'}]\ndevice:\n  class: csd\n  listen: \
                '127.0.0.1:9300'\n  datasets: []\n  activation: planned\n  components:\n    - {name: a, path: a.wasm, memory: kept}\n";
    let said = SidecarConfig::parse("a.yaml", text).unwrap_err().to_string();
    assert!(said.contains("device.components[0].memory: it would go with the function"), "{said}");
    assert!(SidecarConfig::parse("a.yaml", &text.replace("kept", "fresh")).is_ok());
    assert!(SidecarConfig::parse("a.yaml", &text.replace("planned", "always")).is_ok());
}

#[test]
fn a_component_may_take_less_than_its_device_and_not_more() {
    let said = |device: &str, limits: &str| {
        let text = format!(
            "service: a\ninbound: [{{listen: '127.0.0.1:8080', app: '127.0.0.1:9300'}}]\ndevice:\n  class: csd\n  listen: \
             '127.0.0.1:9300'\n  datasets: []\n  limits: {{{device}}}\n  components:\n    - name: a\n      path: a.wasm\n      \
             limits: {{{limits}}}\n"
        );
        SidecarConfig::parse("a.yaml", &text).map_err(|errors| errors.to_string())
    };
    let limits = |device: &str, own: &str| said(device, own).unwrap().device.unwrap().components[0].limits;
    let own = |memory_bytes, seconds, result_bytes| {
        Some(ComponentLimits { memory_bytes, deadline: Duration::from_secs(seconds), result_bytes })
    };
    assert_eq!(limits("", ""), own(64 << 20, 300, None));
    assert_eq!(limits("deadline: 7s", "deadline: 7s, resultBytes: 9"), own(64 << 20, 7, Some(9)));
    let all = "memoryBytes: 2097152, deadline: 3s, resultBytes: 1000";
    assert_eq!(limits(all, "resultBytes: 1000"), own(2 << 20, 3, Some(1000)));
    let errors = said(all, "memoryBytes: 2097153, deadline: 4s, resultBytes: 1001").unwrap_err();
    for expected in [
        "a.yaml:11:29: device.components[0].limits.memoryBytes: 2097153 is above what any run of the device may take",
        "device.components[0].limits.deadline: 4s is above what any run of the device may take",
        "device.components[0].limits.resultBytes: 1001 is above what any run of the device may take",
        "at most 1000, or raise `device.limits.resultBytes`",
    ] {
        assert!(errors.contains(expected), "{errors}");
    }
    let errors = said("", "memoryBytes: 1048575, deadline: 0s, resultBytes: 0").unwrap_err();
    for expected in
        ["limits.memoryBytes: no run is done in", "limits.deadline: no run", "limits.resultBytes: every"]
    {
        assert!(errors.contains(&format!("device.components[0].{expected}")), "{errors}");
    }
    let errors = said("", "runs: 3").unwrap_err();
    assert!(errors.contains("device.components[0].limits.runs: unknown field `runs`"), "{errors}");
}

/// A device with these natives, and more fields.
fn with_natives(natives: &str, more: &str) -> Result<SidecarConfig, String> {
    let text = format!(
        "service: a\ninbound: [{{listen: '127.0.0.1:8080', app: '127.0.0.1:9300'}}]\ndevice:\n  class: csd\n  listen: \
         '127.0.0.1:9300'\n  datasets: []\n  components: [{{name: tally, path: a.wasm}}]\n{more}  natives:\n{natives}"
    );
    SidecarConfig::parse("/etc/sidecar/a.yaml", &text).map_err(|errors| errors.to_string())
}

#[test]
fn every_field_of_a_program_is_read() {
    let natives = "    - {name: infer, exec: [bin/infer, '--port={port}'], env: {MODEL: small}, folder: models, port: 9503, memoryBytes: \
                   134217728, probe: {http: /healthz}, startTimeout: 1m, stopTimeout: 2s}\n    \
                   - {name: bare, exec: [python3, infer.py], memoryBytes: 1048576}\n";
    let device = with_natives(natives, "  activation: planned\n").unwrap().device.unwrap();
    let infer = NativeConfig {
        name: "infer".into(),
        exec: vec!["/etc/sidecar/bin/infer".into(), "--port={port}".into()],
        env: [("MODEL".to_owned(), "small".to_owned())].into(),
        folder: "/etc/sidecar/models".into(),
        port: Some(9503),
        memory_bytes: 128 << 20,
        probe: Some("/healthz".into()),
        start_timeout: Duration::from_secs(60),
        stop_timeout: Duration::from_secs(2),
    };
    let bare = NativeConfig {
        name: "bare".into(),
        exec: vec!["python3".into(), "infer.py".into()],
        env: Default::default(),
        folder: "/etc/sidecar".into(),
        port: None,
        memory_bytes: 1 << 20,
        probe: None,
        start_timeout: Duration::from_secs(30),
        stop_timeout: Duration::from_secs(5),
    };
    assert_eq!(device.natives, [infer, bare]);
    assert!(device.function_names().skip(6).eq(["tally", "infer", "bare"]));
}

#[test]
fn a_program_that_cannot_be_started_is_refused_with_line_and_field() {
    let natives = "    - {name: scan, exec: [a], memoryBytes: 1048576, port: 9300}\n    \
                   - {name: tally, exec: [], memoryBytes: 1, env: {PORT: '1', 'A=B': x}}\n    \
                   - {name: log, exec: [''], memoryBytes: 99999999, port: 7, stopTimeout: 1ms}\n    \
                   - {name: a/b, exec: [a], memoryBytes: 1048576, port: 7, probe: {http: healthz}, startTimeout: 2h}\n    \
                   - {name: tally, exec: [a], memoryBytes: 1048576, port: 0}\n";
    let said = with_natives(natives, "  activation: planned\n  memoryBytes: 67108864\n").unwrap_err();
    for expected in [
        "/etc/sidecar/a.yaml:11:14: device.natives[0].name: there is a function `scan` already",
        "device.natives[0].port: the device listens on 9300 itself",
        "/etc/sidecar/a.yaml:12:21: device.natives[1].exec: there is no program",
        "device.natives[1].name: there is a function `tally` already",
        "device.natives[1].memoryBytes: no program runs in 1 bytes",
        "device.natives[1].env.PORT: this is where it is told its port",
        "no environment can have that",
        "device.natives[2].name: `/log` is what the device says itself",
        "device.natives[2].exec: there is no program",
        "device.natives[2].memoryBytes: 99999999 bytes are more than all functions may take together",
        "device.natives[2].stopTimeout: 1ms is out of range",
        "device.natives[3].name: `a/b` is not a name",
        "device.natives[3].port: `log` listens on 7",
        "device.natives[3].probe.http: `healthz` is not a path",
        "device.natives[3].startTimeout: 7200s is out of range",
        "device.natives[4].port: 0 is not a port",
    ] {
        assert!(said.contains(expected), "no {expected} in {said}");
    }
    let usual = "    - {name: infer, exec: [a], memoryBytes: 1048576}\n";
    let said = with_natives(usual, "").unwrap_err();
    assert!(said.contains("device.natives[0]: a program runs only while it is wanted"), "{said}");
    assert!(with_natives(usual, "  activation: planned\n  functions: []\n").is_ok());
    let said = with_natives("    - {name: infer, exec: [a]}\n", "  activation: planned\n").unwrap_err();
    assert!(said.contains("missing field `memoryBytes`"), "{said}");
}

#[test]
fn functions_that_are_planned_have_a_budget_and_a_time() {
    let device = |more: &str| {
        let text = format!(
            "service: a\ninbound: [{{listen: '127.0.0.1:8080', app: '127.0.0.1:9300'}}]\n\
             device: {{class: csd, listen: '127.0.0.1:9300', datasets: []{more}}}\n"
        );
        SidecarConfig::parse("sidecar.yaml", &text).unwrap().device.unwrap()
    };
    assert_eq!((device("").planned, device(", activation: always").planned), (None, None));
    let usual = device(", activation: planned").planned.unwrap();
    assert_eq!((usual.memory_bytes, usual.timeout), (None, Duration::from_secs(10)));
    let said =
        device(", activation: planned, memoryBytes: 67108864, activationTimeout: 5s, limits: {waiting: 7}");
    let planned = said.planned.unwrap();
    assert_eq!((planned.memory_bytes, planned.timeout), (Some(64 << 20), Duration::from_secs(5)));
    assert_eq!(said.limits.waiting, 7);
    assert!(said.function_names().eq(["scan", "filter", "project", "aggregate", "checksum", "compress"]));
}
