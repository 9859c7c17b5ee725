//! A sidecar that runs as an injected manifest says, with the rights that it gives and no others.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::command::{manifest, written};
use crate::support::metrics::{self, Metrics};
use crate::support::process::{Program, copy_program, find};
use crate::support::sidecar::LIGHTER;
use crate::support::{namespace, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![
        namespace::test("rights::an_intercepting_sidecar_needs_one_capability", an_intercepting_sidecar),
        namespace::test("rights::without_interception_it_is_nobody", without_interception_it_is_nobody),
    ]
}

/// The address of this namespace.
const HERE: &str = "198.18.0.1";

fn an_intercepting_sidecar() {
    let mut place = Place::new("nonroot", "shop/orders");
    let listener = TcpListener::bind("0.0.0.0:9090").unwrap();
    std::thread::spawn(move || answer(&listener));
    let mut sidecar = place.start();
    assert_eq!(status(&sidecar, "CapEff"), format!("{:016x}", 1 << CAP_NET_ADMIN));
    assert_eq!(status(&sidecar, "Uid").split_whitespace().next(), Some("0"));
    // It is who its Secret says, and the control plane lists it as the Service that its label says.
    wait_until("the instance is registered", || place.metric("lighter_control_instances") == 1.0);
    let (code, _) = metrics::get(SocketAddr::new(HERE.parse().unwrap(), 9090), "/");
    assert_eq!(code, 200);
    let (_, rules) = metrics::get(ADMIN.parse().unwrap(), "/intercept");
    let rules: Value = serde_json::from_str(&rules).unwrap();
    let outbound = rules["rules"].as_array().unwrap().iter().find(|rule| rule["rule"] == "outbound").unwrap();
    assert!(outbound["packets"].as_u64().unwrap() >= 2, "the probe's and ours: {rules}");
    // As the hook of its container asks; nothing runs any more.
    let hook = place.container()["lifecycle"]["preStop"]["httpGet"]["path"].as_str().unwrap().to_owned();
    let (code, _) = metrics::get(SocketAddr::from(([127, 0, 0, 1], 15021)), &hook);
    assert_eq!(code, 200);
    assert!(sidecar.wait().success(), "{}", sidecar.said());
}

fn without_interception_it_is_nobody() {
    let mut place = Place::new("restricted", "bank/vault");
    let sidecar = place.start();
    assert_eq!(status(&sidecar, "CapEff"), format!("{:016x}", 0));
    assert_eq!(status(&sidecar, "Uid").split_whitespace().next(), Some("65532"));
    assert!(std::net::TcpStream::connect("127.0.0.1:15080").is_ok());
}

/// A control plane, a manifest, and the folders that its volumes are.
struct Place {
    plane: Program,
    pod: Value,
    folder: tempfile::TempDir,
}

impl Place {
    fn new(name: &str, service_name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("mesh.yaml"), ORDERS).unwrap();
        std::fs::write(
            path("control.yaml"),
            format!("ads: {HERE}:15010\nstate: plane\nresources: [mesh.yaml]\n"),
        )
        .unwrap();
        let mut command = Command::new(LIGHTER);
        command.args(["control", "--config"]).arg(path("control.yaml"));
        let mut plane = Program::start(command, folder.path());
        plane.wait_until_it_says(" ready ");
        let mut command = Command::new(LIGHTER);
        command.args(["ca", "issue", "--service", service_name, "--state"]).arg(path("plane"));
        assert!(command.arg("--out").arg(path("issued")).output().unwrap().status.success());
        // As a Secret calls and shows them.
        std::fs::create_dir(path("identity")).unwrap();
        for (from, to) in [("certificate.pem", "tls.crt"), ("key.pem", "tls.key"), ("bundle.pem", "ca.crt")] {
            let to = path("identity").join(to);
            std::fs::copy(path("issued").join(from), &to).unwrap();
            std::fs::set_permissions(to, PermissionsExt::from_mode(0o644)).unwrap();
        }
        std::fs::create_dir(path("state")).unwrap();
        std::fs::set_permissions(path("state"), PermissionsExt::from_mode(0o777)).unwrap();
        copy_program(Path::new(LIGHTER), &path("lighter"));
        let control = format!("{HERE}:15010");
        let file = manifest(name);
        let arguments = ["inject", "--patch", "--control", &control, "-f", file.to_str().unwrap()];
        let steps: Vec<Value> = serde_json::from_str(&written(&arguments, "")).unwrap();
        Place { plane, pod: pod(&steps), folder }
    }

    fn container(&self) -> &Value {
        &self.pod["container"]
    }

    /// Starts it as its manifest says: with its user and capabilities, in a file system that it cannot write to but for its
    /// volume. Waits as its startup probe does.
    fn start(&mut self) -> Program {
        assert!(!self.plane.has_ended(), "{}", self.plane.said());
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let file = self.pod["file"].as_str().unwrap();
        let file = file
            .replace("/var/run/secrets/lighter", &path("identity"))
            .replace("/var/lib/lighter", &path("state"));
        std::fs::write(path("sidecar.yaml"), file).unwrap();
        let security = &self.container()["securityContext"];
        let user = security["runAsUser"].as_u64().unwrap();
        let mut bounding = "-all".to_owned();
        for capability in security["capabilities"].get("add").and_then(Value::as_array).into_iter().flatten()
        {
            bounding = format!("{bounding},+{}", capability.as_str().unwrap().to_lowercase());
        }
        let arguments: Vec<String> = self.container()["args"]
            .as_array()
            .unwrap()
            .iter()
            .map(|word| word.as_str().unwrap().replace("/etc/lighter/sidecar.yaml", &path("sidecar.yaml")))
            .collect();
        assert_eq!(self.container()["command"], serde_json::json!(["lighter-proxy"]));
        let script = format!(
            "mount --make-rprivate / && mount --bind {state} {state} && mount -o remount,bind,ro / && \
             exec setpriv --reuid {user} --regid {user} --clear-groups --no-new-privs --inh-caps=-all \
             --bounding-set={bounding} {program} proxy {arguments}",
            state = path("state"),
            program = path("lighter"),
            arguments = arguments.join(" "),
        );
        let mut command = Command::new(find("unshare").unwrap());
        command.args(["--mount", "sh", "-c", &script]);
        let mut sidecar = Program::start(command, self.folder.path());
        let probe = &self.container()["startupProbe"]["httpGet"];
        // By loopback, as nobody here comes from outside: what goes to another address is the workload's, and intercepted.
        let address = SocketAddr::from(([127, 0, 0, 1], probe["port"].as_u64().unwrap() as u16));
        let ready = || {
            std::net::TcpStream::connect(address).is_ok()
                && metrics::get(address, probe["path"].as_str().unwrap()).0 == 200
        };
        sidecar.wait_until("it is ready", ready);
        sidecar
    }

    /// What the control plane counts.
    fn metric(&self, name: &str) -> f64 {
        let mut command = Command::new(find("curl").unwrap());
        command.args(["-sS", "--noproxy", "*", "--cacert"]).arg(self.folder.path().join("plane/api.pem"));
        let output = command.arg("https://127.0.0.1:15020/metrics").output().unwrap();
        Metrics::parse(&String::from_utf8(output.stdout).unwrap()).sum(name, &[])
    }
}

/// The sidecar's container and its file, as the steps of a patch add them.
fn pod(steps: &[Value]) -> Value {
    let mut said = (Value::Null, Value::Null);
    for step in steps {
        let (path, value) = (step["path"].as_str().unwrap(), &step["value"]);
        if path.ends_with("/initContainers") {
            said.0 = value[0].clone();
        } else if path.ends_with("/annotations") {
            said.1 = value["lighter.dev/sidecar"].clone();
        } else if path.ends_with("/lighter.dev~1sidecar") {
            said.1 = value.clone();
        }
    }
    serde_json::json!({"container": said.0, "file": said.1})
}

/// A line of what the kernel says of a process.
fn status(program: &Program, name: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap().trim().to_owned()
}

/// The application.
fn answer(listener: &TcpListener) {
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            if stream.read(&mut buffer).is_ok_and(|length| length > 0) {
                let _ =
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
            }
        });
    }
}

const ORDERS: &str = "\
apiVersion: mesh.lighter.dev/v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {ports: [{name: http, port: 80, targetPort: 9090, appProtocol: http}]}
";
const ADMIN: &str = "127.0.0.1:15000";
/// `CAP_NET_ADMIN` of `linux/capability.h`.
const CAP_NET_ADMIN: u32 = 12;
