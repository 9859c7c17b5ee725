//! What a pod gets: the sidecar's own file, its container, and the volumes of both.

use std::time::Duration;

use lighter_config::sidecar::SidecarConfig;

use super::edit::SIDECAR;
use super::wishes::{Identity, Wishes, annotation};
use super::yaml::{Node, Scalar, write};

/// The name of the sidecar's container.
pub(super) const CONTAINER: &str = "lighter-proxy";

/// On which the sidecar itself listens: no application of the pod can.
pub(super) const PORTS: [u16; 6] = [15000, 15001, 15006, LINK_PORT, PROBE_PORT, 15053];

/// Whether what is called `name` in this list of a pod's `spec` was put there.
pub(super) fn owns(list: &str, name: &str) -> bool {
    match list {
        "volumes" => name.strip_prefix(VOLUME).is_some_and(|rest| VOLUMES.contains(&rest)),
        _ => name == CONTAINER,
    }
}

/// The sidecar's own file. It is checked as the sidecar will.
pub(super) fn file(wishes: &Wishes, pod: &Node, deadline: Duration) -> Result<String, Vec<String>> {
    let plain = |words: &[String]| words.iter().map(|word| Node::Scalar(Scalar::plain(&**word))).collect();
    let texts = |words: &[String]| Node::List(words.iter().map(|word| Node::from(&**word)).collect());
    let mut control =
        vec![("address", Node::from(&*wishes.control)), ("state", format!("{STATE}/sidecar").into())];
    if let Identity::Token(_) = wishes.identity {
        control.push(("tokenFile", format!("{IDENTITY}/token").into()));
    }
    if !wishes.depends_on.is_empty() {
        control.push(("dependsOn", texts(&wishes.depends_on)));
    }
    let mut fields = Vec::new();
    fields.extend(wishes.service.as_deref().map(|service| ("service", service.into())));
    fields.push(("namespace", wishes.namespace.as_str().into()));
    fields.push(("workers", Node::Scalar(Scalar::plain(&*wishes.workers))));
    fields.push(("control", Node::map(control)));
    if let Identity::Files(_) = wishes.identity {
        let files = [("certificate", "tls.crt"), ("key", "tls.key"), ("bundle", "ca.crt")];
        let files = files.map(|(field, file)| (field, Node::from(format!("{IDENTITY}/{file}"))));
        fields.push(("identity", Node::map(files)));
    }
    if wishes.intercept {
        let mut intercept = vec![("inbound", Node::from(wishes.service.is_some()))];
        for (field, ports) in [
            ("excludeInboundPorts", &wishes.skip_inbound_ports),
            ("excludeOutboundPorts", &wishes.skip_outbound_ports),
        ] {
            if !ports.is_empty() {
                intercept.push((field, Node::List(plain(ports))));
            }
        }
        if !wishes.skip_outbound_ranges.is_empty() {
            intercept.push(("excludeCidrs", texts(&wishes.skip_outbound_ranges)));
        }
        fields.push(("intercept", Node::map(intercept)));
    } else {
        fields.push(("connect", "127.0.0.1:15080".into()));
    }
    fields.push(("probe", format!("0.0.0.0:{PROBE_PORT}").into()));
    if wishes.service.is_some() {
        fields.push(("link", format!("0.0.0.0:{LINK_PORT}").into()));
        fields.extend(app_probe(pod).map(|probe| ("appProbe", probe)));
    }
    fields.push(("drainDeadline", format!("{}s", deadline.as_secs()).into()));
    let text = write(&Node::map(fields));
    match SidecarConfig::parse("sidecar", &text) {
        Ok(_) => Ok(text),
        Err(errors) => Err(errors
            .errors
            .into_iter()
            .map(|error| {
                format!("the sidecar's file that it asks for is at fault: {}: {}", error.path, error.message)
            })
            .collect()),
    }
}

/// How the control plane's side is to know that the application is well: as the kubelet does. What a kubelet runs inside
/// of the application's container, nobody else can.
fn app_probe(pod: &Node) -> Option<Node> {
    let containers = pod.at(&["spec", "containers"])?.items();
    let (container, probe) = containers.iter().find_map(|one| Some((one, one.get("readinessProbe")?)))?;
    let (how, port) = if let Some(get) = probe.get("httpGet") {
        let elsewhere = get.get("host").is_some();
        let is_http = get.text_at(&["scheme"]).is_none_or(|scheme| scheme == "HTTP");
        if elsewhere || !is_http {
            return None;
        }
        (Some(("http", get.text_at(&["path"]).unwrap_or("/"))), get.get("port")?)
    } else if let Some(grpc) = probe.get("grpc") {
        (Some(("grpc", grpc.text_at(&["service"]).unwrap_or(""))), grpc.get("port")?)
    } else {
        (None, probe.get("tcpSocket")?.get("port")?)
    };
    let port = port.number().or_else(|| {
        let ports = container.get("ports")?.items();
        let named = |one: &&Node| one.text_at(&["name"]).is_some() && one.text_at(&["name"]) == port.text();
        ports.iter().find(named)?.get("containerPort")?.number()
    })?;
    let mut fields: Vec<_> = how.into_iter().map(|(field, value)| (field, Node::from(value))).collect();
    fields.push(("port", u64::try_from(port).ok()?.into()));
    let said = |field: &str| probe.get(field).and_then(Node::number).filter(|number| *number > 0);
    for (field, ours) in [("periodSeconds", "interval"), ("timeoutSeconds", "timeout")] {
        fields.extend(said(field).map(|seconds| (ours, Node::from(format!("{seconds}s")))));
    }
    for field in ["failureThreshold", "successThreshold"] {
        fields.extend(said(field).and_then(|count| Some((field, u64::try_from(count).ok()?.into()))));
    }
    Some(Node::map(fields))
}

/// The container.
pub(super) fn container(wishes: &Wishes) -> Node {
    let get = |path: &str| ("httpGet", Node::map([("path", path.into()), ("port", Node::from(PROBE_PORT))]));
    let probe = |path: &str, period: u64, failures: u64| {
        let often = [("periodSeconds", period), ("timeoutSeconds", 2), ("failureThreshold", failures)];
        let often = often.map(|(field, number)| (field, Node::from(number)));
        Node::map([get(path)].into_iter().chain(often))
    };
    let words = |words: &[&str]| Node::List(words.iter().map(|word| Node::from(*word)).collect());
    let port =
        |name: &str, port: u16| Node::map([("name", name.into()), ("containerPort", Node::from(port))]);
    let serves = wishes.service.is_some();
    let mut fields = vec![("name", CONTAINER.into()), ("image", wishes.image.as_str().into())];
    fields.extend(wishes.image_pull_policy.as_deref().map(|policy| ("imagePullPolicy", policy.into())));
    fields.push(("command", words(&["lighter-proxy"])));
    fields.push(("args", words(&["--config", &format!("{CONFIG}/{FILE}"), "--log", &wishes.log])));
    // It starts before the other containers, runs beside them, and ends after them.
    fields.push(("restartPolicy", "Always".into()));
    let mut ports = vec![port("lighter-probe", PROBE_PORT)];
    if serves {
        ports.push(port("lighter-link", LINK_PORT));
    }
    fields.push(("ports", Node::List(ports)));
    fields.push(("startupProbe", probe("/ready", 1, 120)));
    fields.push(("readinessProbe", probe("/ready", 5, 3)));
    fields.push(("livenessProbe", probe("/live", 10, 6)));
    if serves {
        // At once when the pod is to end, long before SIGTERM, which waits for the application: callers hear it now.
        // A pure caller has none; it is to work until the application has ended.
        fields.push(("lifecycle", Node::map([("preStop", Node::map([get("/drain")]))])));
    }
    let quantities = |said: &[(&'static str, String)]| {
        Node::map(said.iter().map(|(field, quantity)| (*field, Node::from(&**quantity))))
    };
    fields.push((
        "resources",
        Node::map([("requests", quantities(&wishes.requests)), ("limits", quantities(&wishes.limits))]),
    ));
    fields.push(("securityContext", security(wishes.intercept)));
    fields.push(("terminationMessagePolicy", "FallbackToLogsOnError".into()));
    let mount = |volume: &str, path: &str, read_only: bool| {
        let mut mount = vec![("name", format!("{VOLUME}{volume}").into()), ("mountPath", path.into())];
        mount.extend(read_only.then_some(("readOnly", true.into())));
        Node::map(mount)
    };
    let [config, identity, state] = VOLUMES;
    let mounts = [(config, CONFIG, true), (identity, IDENTITY, true), (state, STATE, false)];
    let mounts = mounts.map(|(volume, path, read_only)| mount(volume, path, read_only));
    fields.push(("volumeMounts", Node::List(mounts.into())));
    Node::map(fields)
}

/// The right to set rules and to mark its own connections, and nothing else. A capability that is added reaches a process
/// that is not root only by way of its file, on which nobody can rely; so it is root without any other right of root's.
fn security(intercepts: bool) -> Node {
    let list = |capability: &str| Node::List(vec![capability.into()]);
    let mut capabilities = vec![("drop", list("ALL"))];
    if intercepts {
        capabilities.push(("add", list("NET_ADMIN")));
    }
    let user: u64 = if intercepts { 0 } else { NOBODY };
    Node::map([
        ("runAsUser", user.into()),
        ("runAsGroup", user.into()),
        ("runAsNonRoot", (!intercepts).into()),
        ("privileged", false.into()),
        ("allowPrivilegeEscalation", false.into()),
        ("readOnlyRootFilesystem", true.into()),
        ("capabilities", Node::map(capabilities)),
        ("seccompProfile", Node::map([("type", Node::from("RuntimeDefault"))])),
    ])
}

/// The volumes: the file, from the annotation that has it; who it is; and what it keeps, in memory, for as long as the pod
/// lives.
pub(super) fn volumes(wishes: &Wishes) -> Vec<Node> {
    let volume = |name: &str, kind: &'static str, of: Node| {
        Node::map([("name", Node::from(format!("{VOLUME}{name}"))), (kind, of)])
    };
    let field =
        Node::map([("fieldPath", Node::from(format!("metadata.annotations['{}']", annotation(SIDECAR))))]);
    let item = Node::map([("path", FILE.into()), ("fieldRef", field)]);
    let secret = match &wishes.identity {
        Identity::Files(secret) | Identity::Token(secret) => &**secret,
    };
    let [config, identity, state] = VOLUMES;
    vec![
        volume(config, "downwardAPI", Node::map([("items", Node::List(vec![item]))])),
        volume(identity, "secret", Node::map([("secretName", Node::from(secret))])),
        volume(
            state,
            "emptyDir",
            Node::map([("medium", "Memory".into()), ("sizeLimit", Node::from("16Mi"))]),
        ),
    ]
}

/// What the names of the volumes begin with, and what comes then.
const VOLUME: &str = "lighter-";
const VOLUMES: [&str; 3] = ["config", "identity", "state"];
const PROBE_PORT: u16 = 15021;
const LINK_PORT: u16 = 15008;
/// A user that owns nothing.
const NOBODY: u64 = 65532;
/// Where the sidecar finds its file, its identity, and a folder to keep what it learns.
const CONFIG: &str = "/etc/lighter";
const FILE: &str = "sidecar.yaml";
const IDENTITY: &str = "/var/run/secrets/lighter";
const STATE: &str = "/var/lib/lighter";
