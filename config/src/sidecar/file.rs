//! The sidecar's file as it is written.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::device::DeviceFile;
use super::guard::GuardFile;
use crate::probe::ProbeSpec;
use crate::resource::Duration;
use crate::resource::locality::Locality;
use crate::resource::service::AppProtocol;
use crate::sidecar::Propagation;

/// What one sidecar process does. Every field has a default.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct SidecarFile {
    /// The Service that this workload is an instance of, `name` or `namespace/name`. Default: none, a pure caller.
    pub(crate) service: Option<String>,
    /// The namespace of short names. Default `default`.
    pub(crate) namespace: Option<String>,
    /// Of this instance's endpoints: they take traffic while none of a lower number is healthy, from 0 to 127. Default 0.
    #[schemars(range(max = 127))]
    pub(crate) priority: Option<u32>,
    /// Where this sidecar is, and its instance's endpoints. Default: not known.
    pub(crate) locality: Option<Locality>,
    /// Worker threads. Default: one per two cores.
    #[schemars(range(min = 1, max = 1024))]
    pub(crate) workers: Option<u32>,
    /// Files or folders with resources, relative to this file. They are watched.
    pub(crate) resources: Vec<PathBuf>,
    /// The control plane that tells of Services. Default: none, files say everything.
    pub(crate) control: Option<ControlFile>,
    /// Explicit outbound listeners.
    pub(crate) listeners: Vec<ListenerFile>,
    /// Explicit inbound listeners.
    pub(crate) inbound: Vec<InboundFile>,
    /// Transparent interception in this network namespace. Default: no rule is set.
    pub(crate) intercept: Option<InterceptFile>,
    /// Where intercepted outbound connections arrive. Default 15001.
    #[schemars(range(min = 1))]
    pub(crate) outbound_port: Option<u16>,
    /// Where intercepted inbound connections arrive. Default 15006.
    #[schemars(range(min = 1))]
    pub(crate) inbound_port: Option<u16>,
    /// Admin and metrics, `address:port`. Default 127.0.0.1:15000.
    pub(crate) admin: Option<String>,
    /// Liveness, readiness and drain for a kubelet, `address:port`. Default: none.
    pub(crate) probe: Option<String>,
    /// The DNS server. Default: port 15053 when DNS is intercepted, otherwise none.
    pub(crate) dns: Option<DnsFile>,
    /// The HTTP CONNECT, absolute-form and SOCKS5 port, `address:port`. Default: none.
    pub(crate) connect: Option<String>,
    /// Where the sidecars of callers open links to this workload, `address:port`. Default: none.
    pub(crate) link: Option<String>,
    /// How this workload's application is asked whether it is well, beside that it has to listen on every port. The control
    /// plane lists it only while it is. Default: it has to listen.
    pub(crate) app_probe: Option<ProbeSpec>,
    /// Longest drain after SIGTERM. Default 30s.
    pub(crate) drain_deadline: Option<Duration>,
    /// The folder, relative to this file, in which another process takes this one's place (`lighter proxy --takeover`). It
    /// is made for this user alone. Default: nobody can.
    pub(crate) handover: Option<PathBuf>,
    /// Where the access log goes. Default: no access log.
    pub(crate) access_log: Option<AccessLogFile>,
    /// Where spans of requests go. Default: none is recorded.
    pub(crate) tracing: Option<TracingFile>,
    /// How long metrics still show what is not there any more, such as a route that was taken away: at least 1s. Default 10m.
    pub(crate) series_expire_after: Option<Duration>,
    /// Longest silence of a client before an unknown protocol's upstream is dialled. Default 10ms.
    pub(crate) detect_timeout: Option<Duration>,
    /// Largest request or response head in bytes. Default 61440.
    #[schemars(range(min = 1024, max = 61440))]
    pub(crate) max_head_bytes: Option<u32>,
    /// Who this sidecar is and whom it trusts. Default: no identity, or one from the control plane.
    pub(crate) identity: Option<IdentityFile>,
    /// Most downstream connections of this process; more are shed. Default: from the descriptor limit.
    #[schemars(range(min = 1))]
    pub(crate) max_connections: Option<u32>,
    /// Most memory of rings beneath links, of all links of this process together, in bytes. 0: none has a ring. Default
    /// 67108864.
    pub(crate) max_ring_bytes: Option<u64>,
    /// What is asked of clients, and what is done when memory runs short.
    pub(crate) guard: Option<GuardFile>,
    /// The functions that this sidecar runs near data, as an application of its own. Default: it runs none.
    pub(crate) device: Option<DeviceFile>,
}

/// An identity from PEM files, relative to this one. They are read again when they change.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct IdentityFile {
    /// The X.509-SVID, and the intermediates after it.
    pub(crate) certificate: PathBuf,
    /// Its private key.
    pub(crate) key: PathBuf,
    /// The roots that vouch for the peers of its trust domain.
    pub(crate) bundle: PathBuf,
}

/// A control plane: an ADS server (xDS v3 over gRPC), spoken to over TLS. It also gives this sidecar its identity, unless
/// `identity` says that.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ControlFile {
    /// Where it listens, `host:port`.
    pub(crate) address: String,
    /// Whether it is spoken to without TLS: only where nobody else can be on the way.
    #[serde(default)]
    pub(crate) plaintext: bool,
    /// The join token, as `lighter ca token` prints it. It is used once; from then on what is kept in `state` does.
    #[serde(default)]
    pub(crate) token: Option<String>,
    /// The file that has the join token, relative to this one.
    #[serde(default)]
    pub(crate) token_file: Option<PathBuf>,
    /// What it has beside the resources of the gRPC profile. Default `[lighter.v1]`, which is Lighter's own resources;
    /// `[]` for any other ADS server. Then the ports of `listeners`, `inbound` and `dependsOn` must be said.
    #[serde(default)]
    pub(crate) server_features: Option<Vec<String>>,
    /// The folder, relative to this file, in which what is in force is kept, and the identity, so that the sidecar starts
    /// while the control plane is away. Needed to join; otherwise by default nothing is kept.
    #[serde(default)]
    pub(crate) state: Option<PathBuf>,
    /// Services that are asked for at once, not at the first request: `name`, `namespace/name`, or either with `:port`.
    #[serde(default)]
    pub(crate) depends_on: Vec<String>,
}

/// An explicit outbound listener.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ListenerFile {
    /// Where it listens, `address:port`.
    pub(crate) listen: String,
    /// The Service that its connections are for, `name` or `namespace/name`.
    pub(crate) service: String,
    /// Which of the Service's ports. Default: the only or first one.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub(crate) port: Option<u16>,
    /// What is spoken on it. Default `auto`.
    #[serde(default)]
    pub(crate) protocol: Option<AppProtocol>,
}

/// An explicit inbound listener.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct InboundFile {
    /// Where callers connect, `address:port`.
    pub(crate) listen: String,
    /// Where the application listens, `address:port`.
    pub(crate) app: String,
    /// Which of the Service's ports this is. Default: the one whose `targetPort` is the application's port.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub(crate) port: Option<u16>,
    /// What is spoken. Default: the port's protocol.
    #[serde(default)]
    pub(crate) protocol: Option<AppProtocol>,
}

/// What is intercepted.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct InterceptFile {
    /// Redirect connections made in this namespace. Default true.
    pub(crate) outbound: Option<bool>,
    /// Redirect connections made to this namespace. Default true.
    pub(crate) inbound: Option<bool>,
    /// Redirect DNS. Default true.
    pub(crate) dns: Option<bool>,
    /// Outbound destination ports left alone.
    pub(crate) exclude_outbound_ports: Vec<u16>,
    /// Inbound ports left alone.
    pub(crate) exclude_inbound_ports: Vec<u16>,
    /// Outbound destination ranges left alone, `address/length`.
    pub(crate) exclude_cidrs: Vec<String>,
    /// Connections of these users are left alone.
    pub(crate) exclude_uids: Vec<u32>,
    /// Socket mark by which the sidecar's own traffic is known. Default 19561 (0x4c69).
    #[schemars(range(min = 1))]
    pub(crate) mark: Option<u32>,
}

/// The DNS server.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct DnsFile {
    /// Where it listens, UDP and TCP, `address:port`. Default 127.0.0.1:15053.
    pub(crate) listen: Option<String>,
    /// Who answers for the rest of the world, `address:port`. Default: the name servers of /etc/resolv.conf.
    pub(crate) upstream: Vec<String>,
}

/// Where the access log goes.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct AccessLogFile {
    /// `json`, one object a line, or `text`. Default `json`.
    pub(crate) format: Option<LogFormat>,
    /// The file it is appended to, relative to this one. Default: standard output.
    pub(crate) path: Option<PathBuf>,
}

/// Where spans of requests go, and of which.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct TracingFile {
    /// The collector that takes them by OTLP over gRPC, in plain text, `host:port`; usually on this host, port 4317.
    pub(crate) otlp: String,
    /// Of a hundred requests that come without a trace, how many begin one. One that comes with a trace is recorded if that
    /// is. Default 1.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 100.0))]
    pub(crate) sampling_percent: Option<f64>,
    /// The headers that say which trace a request belongs to: the first of these that a request has is read, and all of
    /// them are written into a request that is recorded. Default `[w3c]`.
    #[serde(default)]
    pub(crate) propagation: Option<Vec<Propagation>>,
}

/// How the access log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// One JSON object a line.
    Json,
    /// A line of text.
    Text,
}
