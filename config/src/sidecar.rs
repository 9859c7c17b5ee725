//! The sidecar's own file: `lighter proxy --config FILE`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::identity::JoinToken;
use crate::probe::Probe;
use crate::snapshot::{Locality, Protocol};

mod activation;
mod component;
mod device;
pub(crate) mod file;
mod guard;
mod limits;
mod native;
mod read;
mod reserve;

pub use activation::PlannedConfig;
pub use component::{ComponentConfig, ComponentMemory};
pub use device::{BuiltIn, DatasetConfig, DatasetFormat, DeviceClass, DeviceConfig};
pub use guard::GuardConfig;
pub use limits::{ComponentLimits, DeviceLimits};
pub use native::{NativeConfig, PORT_ARGUMENT};
pub use read::is_host_and_port;
pub use reserve::{MainTaskConfig, PowerConfig, Priority};

/// What one sidecar process does. Every field has a default; ports as in the README's table.
#[derive(Clone, Debug, PartialEq)]
pub struct SidecarConfig {
    /// The Service that this workload is an instance of, `name` or `namespace/name`. None: a pure caller.
    pub service: Option<String>,
    /// The namespace of short names. Default `default`.
    pub namespace: String,
    /// Of this instance's endpoints: they take traffic while none of a lower number is healthy. Default 0.
    pub priority: u32,
    /// Where this sidecar is, and its instance's endpoints.
    pub locality: Locality,
    /// Worker threads. Default: one per two cores, at least one.
    pub workers: usize,
    /// Files or folders with resources, watched.
    pub resources: Vec<PathBuf>,
    /// The control plane that tells of Services. None: there is none, and files say everything.
    pub control: Option<ControlConfig>,
    /// Explicit outbound listeners.
    pub listeners: Vec<ListenerConfig>,
    /// Explicit inbound listeners.
    pub inbound: Vec<InboundConfig>,
    /// Transparent interception in this network namespace. None: no rule is set.
    pub intercept: Option<InterceptConfig>,
    /// Where intercepted outbound connections arrive. Default port 15001.
    pub outbound_port: u16,
    /// Where intercepted inbound connections arrive. Default port 15006.
    pub inbound_port: u16,
    /// Admin and metrics. Default 127.0.0.1:15000.
    pub admin: SocketAddr,
    /// Liveness, readiness and drain for a kubelet. Default none; usually 0.0.0.0:15021.
    pub probe: Option<SocketAddr>,
    /// The DNS server (UDP and TCP). Default port 15053 when intercepting, otherwise none.
    pub dns: Option<DnsConfig>,
    /// The HTTP CONNECT, absolute-form and SOCKS5 port. Default none; usually 127.0.0.1:15080.
    pub connect: Option<SocketAddr>,
    /// Where the sidecars of callers open links to this workload. Needs an identity. Default none; usually port 15008.
    pub link: Option<SocketAddr>,
    /// How this workload's application is asked whether it is well. None: it is, if it listens.
    pub app_probe: Option<Probe>,
    /// Longest drain after SIGTERM. Default 30 s.
    pub drain_deadline: Duration,
    /// The folder in which another process takes this one's place: its listening sockets, and no connection refused. None:
    /// nobody can.
    pub handover: Option<PathBuf>,
    /// Where the access log goes. None: no access log.
    pub access_log: Option<AccessLogConfig>,
    /// Where spans of requests go. None: none is recorded.
    pub tracing: Option<TracingConfig>,
    /// How long metrics still show what is not there any more, so that the last scrapes see its end. At least a second.
    /// Default 10 minutes.
    pub series_expire_after: Duration,
    /// Longest silence of a client before an unknown protocol's upstream is dialled. Default 10 ms.
    pub detect_timeout: Duration,
    /// Largest request or response head in bytes. Default 64 KiB less 4 KiB.
    pub max_head_bytes: usize,
    /// Who this sidecar is and whom it trusts, from files. None: it has no identity, or one from the control plane.
    pub identity: Option<IdentityConfig>,
    /// Most downstream connections of this process; more are shed. Default: nine tenths of the descriptor limit / 2.
    pub max_connections: Option<usize>,
    /// Most memory of rings beneath links, of all links of this process together, in bytes. 0: none has a ring. Default
    /// 64 MiB.
    pub max_ring_bytes: u64,
    /// What is asked of clients, and what is done when memory runs short.
    pub guard: GuardConfig,
    /// The functions that this sidecar runs near data, as an application of its own. None: it runs none.
    pub device: Option<DeviceConfig>,
}

/// `identity: {certificate: FILE, key: FILE, bundle: FILE}`: PEM files, read again when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityConfig {
    /// The X.509-SVID, and the intermediates after it.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The roots that vouch for the peers of its trust domain.
    pub bundle: PathBuf,
}

/// `control: {address: HOST:PORT, tokenFile: FILE, state: DIR, …}`: an ADS server, and who gives identities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlConfig {
    /// Where it listens, `host:port`; the host is a name or an address.
    pub address: String,
    /// How it is spoken to.
    pub security: ControlSecurity,
    /// Whether the server has Lighter's own resources beside those of the gRPC profile (`serverFeatures: [lighter.v1]`).
    /// Without them, explicit listeners and `depends_on` say what is asked for.
    pub own_resources: bool,
    /// The folder in which what is in force is kept, so that the sidecar starts while the server is away. None: nothing is
    /// kept.
    pub state: Option<PathBuf>,
    /// Services that are asked for at once, not at the first request: name as in `service`, and the port if it is said.
    pub depends_on: Vec<(String, Option<u16>)>,
}

/// How a control plane is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlSecurity {
    /// Without TLS (`plaintext: true`).
    Plaintext,
    /// Over TLS, as who the sidecar's own files say ([`SidecarConfig::identity`]).
    Files,
    /// Over TLS, as who the control plane itself says, once this sidecar has joined.
    Joined {
        /// What it joins with. None: what is kept in `state` has to do.
        token: Option<TokenSource>,
        /// The folder in which the identity is kept, so that it outlives the process.
        state: PathBuf,
    },
}

/// Where a join token is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// The sidecar's file has it.
    Said(JoinToken),
    /// A file has it. It is read when it is needed.
    File(PathBuf),
}

/// `listeners: [{listen: ADDR, service: NAME, port: PORT, protocol: http|http2|tcp|auto}]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Which Service its connections are for.
    pub service: String,
    /// Which of its ports. Default: the Service's only or first port.
    pub port: Option<u16>,
    /// What is spoken on it. Default `auto`.
    pub protocol: Protocol,
}

/// `inbound: [{listen: ADDR, app: ADDR, port: PORT, protocol: …}]`.
#[derive(Clone, Debug, PartialEq)]
pub struct InboundConfig {
    /// Where callers connect.
    pub listen: SocketAddr,
    /// Where the application listens.
    pub app: SocketAddr,
    /// Which of the Service's ports this is. Default: the port whose `targetPort` is `app`'s.
    pub port: Option<u16>,
    /// What is spoken. Default: the port's protocol.
    pub protocol: Protocol,
}

/// `intercept: {outbound: true, inbound: true, …}`.
#[derive(Clone, Debug, PartialEq)]
pub struct InterceptConfig {
    /// Redirect connections made in this namespace. Default true.
    pub outbound: bool,
    /// Redirect connections made to this namespace. Default true.
    pub inbound: bool,
    /// Redirect DNS. Default true.
    pub dns: bool,
    /// Outbound destination ports left alone.
    pub exclude_outbound_ports: Vec<u16>,
    /// Inbound ports left alone.
    pub exclude_inbound_ports: Vec<u16>,
    /// Outbound destination ranges left alone, as `address/length`.
    pub exclude_cidrs: Vec<(IpAddr, u8)>,
    /// Connections of these users are left alone.
    pub exclude_uids: Vec<u32>,
    /// Socket mark by which the sidecar's own traffic is known and left alone. Default 0x4c69.
    pub mark: u32,
}

/// `dns: {listen: ADDR, upstream: [ADDR]}`.
#[derive(Clone, Debug, PartialEq)]
pub struct DnsConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Who answers for the rest of the world. Default: the name servers of /etc/resolv.conf.
    pub upstream: Vec<SocketAddr>,
}

/// `accessLog: {format: json|text, path: FILE}`.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessLogConfig {
    /// One JSON object a line, or a line of text.
    pub json: bool,
    /// The file it is appended to. None: standard output.
    pub path: Option<PathBuf>,
}

/// `tracing: {otlp: HOST:PORT, samplingPercent: N, propagation: [w3c, b3, b3multi]}`.
#[derive(Clone, Debug, PartialEq)]
pub struct TracingConfig {
    /// The collector, `host:port`: OTLP over gRPC in plain text.
    pub otlp: String,
    /// Of a hundred requests without a trace, how many begin one; from 0 to 100. Default 1.
    pub sampling_percent: f64,
    /// How a request says which trace it belongs to. Never empty. Default W3C.
    pub propagation: Vec<Propagation>,
}

/// How a request says which trace it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Propagation {
    /// W3C trace context: `traceparent`.
    W3c,
    /// B3 in one header: `b3`.
    B3,
    /// B3 in several headers: `x-b3-traceid` and its kin.
    B3Multi,
}
