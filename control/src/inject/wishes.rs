//! What a workload's annotations ask for.

use std::time::Duration;

use lighter_config::name::is_label;
use lighter_config::resource;

use super::workload::Workload;
use super::yaml::Node;

/// What holds where annotations say nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// The image of the sidecar.
    pub image: String,
    /// Where the control plane listens, `host:port`.
    pub control: String,
    /// The namespace of workloads that name none.
    pub namespace: String,
}

/// What the sidecar of one workload is to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wishes {
    pub(super) image: String,
    pub(super) image_pull_policy: Option<String>,
    pub(super) control: String,
    pub(super) namespace: String,
    /// The Service that it is an instance of. None: a pure caller.
    pub(super) service: Option<String>,
    pub(super) identity: Identity,
    pub(super) log: String,
    pub(super) workers: String,
    /// Fields of `resources.requests`, and of `resources.limits`.
    pub(super) requests: Vec<(&'static str, String)>,
    pub(super) limits: Vec<(&'static str, String)>,
    pub(super) intercept: bool,
    pub(super) skip_inbound_ports: Vec<String>,
    pub(super) skip_outbound_ports: Vec<String>,
    pub(super) skip_outbound_ranges: Vec<String>,
    pub(super) depends_on: Vec<String>,
    /// None: as long as the pod has.
    pub(super) drain_deadline: Option<Duration>,
    pub(super) app_stop_delay: Duration,
}

/// Where the sidecar has its identity from: a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// With `tls.crt`, `tls.key` and `ca.crt`.
    Files(String),
    /// With a join token, `token`.
    Token(String),
}

/// Reads the annotations of `pod`, which belongs to `workload`. Every fault is told at once.
pub(super) fn read(
    document: &Node,
    workload: &Workload,
    pod: &Node,
    defaults: &Defaults,
) -> Result<Wishes, Vec<String>> {
    let mut reader = Reader { annotations: pod.at(&["metadata", "annotations"]), faults: Vec::new() };
    reader.know_all();
    let intercept = reader.switch("intercept", true);
    let derived = name(workload, pod);
    let serves = !workload.ends(document) && declares_ports(pod);
    let service = match reader.said("service") {
        Some("") => None,
        Some(said) => Some(said.to_owned()),
        None => derived.clone().filter(|_| serves),
    };
    let identity = reader.identity(service.as_deref().or(derived.as_deref()));
    let wishes = Wishes {
        image: reader.or("image", &defaults.image),
        image_pull_policy: reader.one_of("image-pull-policy", &["Always", "IfNotPresent", "Never"]),
        control: reader.or("control", &defaults.control),
        namespace: workload.namespace.clone().unwrap_or_else(|| defaults.namespace.clone()),
        // Without interception nobody is led through the sidecar, and there is nothing to register.
        service: service.filter(|_| intercept),
        identity,
        log: reader.or("log", "info"),
        workers: reader.or("workers", "2"),
        requests: reader.resources(&[("cpu", "cpu", Some("50m")), ("memory", "memory", Some("48Mi"))]),
        limits: reader.resources(&[("cpu", "cpu-limit", None), ("memory", "memory-limit", Some("192Mi"))]),
        intercept,
        skip_inbound_ports: reader.list("skip-inbound-ports"),
        skip_outbound_ports: reader.list("skip-outbound-ports"),
        skip_outbound_ranges: reader.list("skip-outbound-ranges"),
        depends_on: reader.list("depends-on"),
        drain_deadline: reader.duration("drain-deadline", 1),
        app_stop_delay: reader.duration("app-stop-delay", 0).unwrap_or(APP_STOP_DELAY),
    };
    if reader.faults.is_empty() { Ok(wishes) } else { Err(reader.faults) }
}

/// Whether the annotation at `node` asks to be left alone.
pub(super) fn opts_out(node: &Node) -> bool {
    let said = node.at(&["metadata", "annotations"]).and_then(|all| all.get(&annotation("inject")));
    said.is_some_and(|said| said.text() == Some("false"))
}

/// The annotation of this name.
pub(super) fn annotation(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// What a workload is called in the mesh: as its labels say, or as it is called itself.
fn name(workload: &Workload, pod: &Node) -> Option<String> {
    let label = |name| pod.text_at(&["metadata", "labels", name]);
    let names = [label("app.kubernetes.io/name"), label("app"), Some(&*workload.name)];
    names.into_iter().flatten().find(|name| is_label(name)).map(str::to_owned)
}

/// Whether a container says that it listens.
fn declares_ports(pod: &Node) -> bool {
    let containers = pod.at(&["spec", "containers"]).map(Node::items).unwrap_or_default();
    let ports = containers.iter().filter_map(|container| container.get("ports")).flat_map(Node::items);
    ports.into_iter().any(|port| matches!(port.text_at(&["protocol"]), None | Some("TCP")))
}

struct Reader<'n> {
    annotations: Option<&'n Node>,
    faults: Vec<String>,
}

impl<'n> Reader<'n> {
    fn said(&self, name: &str) -> Option<&'n str> {
        self.annotations?.get(&annotation(name))?.text().map(str::trim)
    }

    fn or(&mut self, name: &str, usual: &str) -> String {
        let said = self.said(name).unwrap_or(usual);
        if said.is_empty() || said.contains(char::is_whitespace) {
            self.fault(name, "is empty, or has spaces");
        }
        said.to_owned()
    }

    fn fault(&mut self, name: &str, what: &str) {
        let said = self.said(name).unwrap_or_default().escape_debug();
        self.faults.push(format!("{}: `{said}` {what}", annotation(name)));
    }

    /// One that is misspelt would change nothing, and nobody would know.
    fn know_all(&mut self) {
        let fields = self.annotations.and_then(Node::fields).into_iter().flat_map(|fields| fields.iter());
        let unknown = fields.filter_map(|(key, _)| {
            let name = key.text.strip_prefix(PREFIX)?;
            (!KNOWN.contains(&name)).then(|| format!("{}: there is no such annotation", key.text))
        });
        self.faults.extend(unknown);
    }

    fn switch(&mut self, name: &str, usual: bool) -> bool {
        match self.said(name) {
            None => usual,
            Some("true") => true,
            Some("false") => false,
            Some(_) => {
                self.fault(name, "is neither `true` nor `false`");
                usual
            }
        }
    }

    fn one_of(&mut self, name: &str, known: &[&str]) -> Option<String> {
        let said = self.said(name)?;
        if !known.contains(&said) {
            self.fault(name, &format!("is none of {}", known.join(", ")));
        }
        Some(said.to_owned())
    }

    fn identity(&mut self, name: Option<&str>) -> Identity {
        match (self.said("identity-secret"), self.said("token-secret")) {
            (Some(_), Some(_)) => {
                self.fault("token-secret", "is one identity too many beside `identity-secret`");
                Identity::Files(String::new())
            }
            (None, Some(secret)) => Identity::Token(secret.to_owned()),
            (Some(secret), None) => Identity::Files(secret.to_owned()),
            // Of `namespace/name`, the name: a Secret is in its pod's namespace.
            (None, None) => match name.and_then(|name| name.rsplit('/').next()) {
                Some(name) => Identity::Files(format!("{name}-lighter")),
                None => {
                    let needed = annotation("identity-secret");
                    self.faults
                        .push(format!("{needed} is needed: neither a label nor a name says what this is"));
                    Identity::Files(String::new())
                }
            },
        }
    }

    /// Fields of `resources`, from the annotations that say them.
    fn resources(&mut self, wanted: &[(&'static str, &str, Option<&str>)]) -> Vec<(&'static str, String)> {
        let mut said = Vec::new();
        for (field, name, usual) in wanted {
            let Some(quantity) = self.said(name).or(*usual) else { continue };
            if !is_quantity(quantity) {
                self.fault(name, "is no quantity such as `100m` or `64Mi`");
            }
            said.push((*field, quantity.to_owned()));
        }
        said
    }

    /// Words between commas.
    fn list(&self, name: &str) -> Vec<String> {
        let words = self.said(name).unwrap_or_default().split(',').map(str::trim);
        words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }

    /// A duration of at least so many seconds, and whole ones: Kubernetes knows no others.
    fn duration(&mut self, name: &str, least: u64) -> Option<Duration> {
        let said = resource::Duration::parse(self.said(name)?);
        match said {
            Some(resource::Duration(duration))
                if duration.subsec_nanos() == 0 && duration.as_secs() >= least =>
            {
                Some(duration)
            }
            _ => {
                self.fault(name, "is no duration in whole seconds such as `20s`");
                None
            }
        }
    }
}

fn is_quantity(text: &str) -> bool {
    let digits = text.trim_end_matches(|char: char| char.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    let known = ["", "m", "k", "Ki", "M", "Mi", "G", "Gi"].contains(&unit);
    known && digits.parse::<f64>().is_ok_and(|number| number > 0.0)
}

/// What all annotations about sidecars begin with.
const PREFIX: &str = "lighter.dev/";
/// What comes after it, and the two that say what was injected.
pub(super) const KNOWN: [&str; 22] = [
    "inject",
    "service",
    "control",
    "identity-secret",
    "token-secret",
    "image",
    "image-pull-policy",
    "log",
    "workers",
    "cpu",
    "cpu-limit",
    "memory",
    "memory-limit",
    "intercept",
    "skip-inbound-ports",
    "skip-outbound-ports",
    "skip-outbound-ranges",
    "depends-on",
    "drain-deadline",
    "app-stop-delay",
    super::edit::INJECTED,
    super::edit::SIDECAR,
];
/// As long as callers need to hear that they are to leave, and a little more.
const APP_STOP_DELAY: Duration = Duration::from_secs(2);
