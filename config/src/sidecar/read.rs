//! From the sidecar's file, as written, to its configuration.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::file::{
    AccessLogFile, ControlFile, DnsFile, IdentityFile, InboundFile, InterceptFile, ListenerFile, LogFormat,
    SidecarFile, TracingFile,
};
use super::{
    AccessLogConfig, ControlConfig, ControlSecurity, DnsConfig, GuardConfig, IdentityConfig, InboundConfig,
    InterceptConfig, ListenerConfig, Propagation, SidecarConfig, TokenSource, TracingConfig, reserve,
};
use crate::build::{check, locality};
use crate::document::{At, Document};
use crate::error::{ConfigError, ConfigErrors};
use crate::identity::JoinToken;
use crate::load::read_text;
use crate::name::DEFAULT_NAMESPACE;
use crate::probe::{Probe, ProbeSpec};
use crate::resource::locality as resource;
use crate::snapshot::Locality;

/// Where the DNS server listens if nothing else is said.
const DNS_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15053);
/// A head must fit into one buffer beside what is read on.
const HEAD_BYTES: std::ops::RangeInclusive<u32> = 1024..=60 << 10;
const MAX_WORKERS: u32 = 1024;
/// Memory of rings beneath links, if nothing else is said.
const MAX_RING_BYTES: u64 = 64 << 20;
/// The server feature of Lighter's own resources.
const OWN_RESOURCES: &str = "lighter.v1";
const NO_PORTS_TOLD: &str = "only a control plane with `lighter.v1` tells which ports a Service has";

impl Default for SidecarConfig {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        SidecarConfig {
            service: None,
            namespace: DEFAULT_NAMESPACE.to_string(),
            priority: 0,
            locality: Locality::default(),
            workers: (cores / 2).max(1),
            resources: Vec::new(),
            control: None,
            listeners: Vec::new(),
            inbound: Vec::new(),
            intercept: None,
            outbound_port: 15001,
            inbound_port: 15006,
            admin: SocketAddr::from((Ipv4Addr::LOCALHOST, 15000)),
            probe: None,
            dns: None,
            connect: None,
            app_probe: None,
            link: None,
            drain_deadline: Duration::from_secs(30),
            handover: None,
            access_log: None,
            tracing: None,
            series_expire_after: Duration::from_secs(600),
            detect_timeout: Duration::from_millis(10),
            max_head_bytes: *HEAD_BYTES.end() as usize,
            max_connections: None,
            max_ring_bytes: MAX_RING_BYTES,
            guard: GuardConfig::default(),
            identity: None,
            device: None,
        }
    }
}

impl Default for InterceptConfig {
    fn default() -> Self {
        InterceptConfig {
            outbound: true,
            inbound: true,
            dns: true,
            exclude_outbound_ports: Vec::new(),
            exclude_inbound_ports: Vec::new(),
            exclude_cidrs: Vec::new(),
            exclude_uids: Vec::new(),
            mark: 0x4c69,
        }
    }
}

impl Default for DnsConfig {
    fn default() -> Self {
        DnsConfig { listen: DNS_LISTEN, upstream: Vec::new() }
    }
}

impl SidecarConfig {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<SidecarConfig, ConfigErrors> {
        Self::read_or(path, SidecarConfig::default())
    }

    /// The same; single values that the file leaves out are `usual`'s.
    pub fn read_or(path: &Path, usual: SidecarConfig) -> Result<SidecarConfig, ConfigErrors> {
        let text = read_text(path).map_err(|error| ConfigErrors { errors: vec![error] })?;
        Self::parse_or(&path.display().to_string(), &text, usual)
    }

    /// Reads the text of `file`, to whose folder the paths in it are relative. A text that says nothing is all
    /// defaults.
    pub fn parse(file: &str, text: &str) -> Result<SidecarConfig, ConfigErrors> {
        Self::parse_or(file, text, SidecarConfig::default())
    }

    fn parse_or(file: &str, text: &str, usual: SidecarConfig) -> Result<SidecarConfig, ConfigErrors> {
        let (documents, mut errors) = Document::parse(file, text);
        if let Some(second) = documents.get(1) {
            errors.push(second.root().error("the sidecar's file has one document"));
        }
        let Some(document) = documents.first().filter(|_| errors.is_empty()) else {
            return ConfigErrors::or(errors, usual);
        };
        let file = match document.read::<SidecarFile>() {
            Ok(read) => read,
            Err(errors) => return ConfigErrors::or(errors, usual),
        };
        let folder = Path::new(document.file()).parent().unwrap_or(Path::new(""));
        let config = Reader { folder, errors: &mut errors }.sidecar(file, usual, &document.root());
        ConfigErrors::or(errors, config)
    }
}

struct Reader<'f> {
    folder: &'f Path,
    errors: &'f mut Vec<ConfigError>,
}

impl Reader<'_> {
    fn sidecar(&mut self, file: SidecarFile, usual: SidecarConfig, at: &At<'_>) -> SidecarConfig {
        let namespace = file.namespace.unwrap_or(usual.namespace);
        self.note(check::dns_label(&at.field("namespace"), &namespace));
        let service = file.service.map(|name| self.service(&at.field("service"), name));
        if service.is_none() && !file.inbound.is_empty() {
            let error = at.field("inbound").error("there are inbound listeners but no `service`");
            self.errors.push(error.hint("say which Service this workload is an instance of"));
        }
        let listeners = file.listeners.into_iter().enumerate();
        let inbound = file.inbound.into_iter().enumerate();
        let intercept = file.intercept.map(|intercept| self.intercept(intercept, &at.field("intercept")));
        let dns = file.dns.map(|dns| self.dns(dns, &at.field("dns")));
        let by_files = file.identity.is_some();
        let app_probe = file.app_probe.map(|probe| self.app_probe(&probe, &at.field("appProbe")));
        if app_probe.is_some() && (service.is_none() || file.control.is_none()) {
            let error = at.field("appProbe").error("nobody hears of it");
            self.errors
                .push(error.hint("an instance of a `service` tells the control plane that `control` names"));
        }
        let control = file.control.and_then(|control| self.control(control, by_files, &at.field("control")));
        let config = SidecarConfig {
            control,
            app_probe,
            listeners: listeners
                .filter_map(|(n, one)| self.listener(one, &at.field("listeners").index(n)))
                .collect(),
            inbound: inbound
                .filter_map(|(n, one)| self.inbound(one, &at.field("inbound").index(n)))
                .collect(),
            service,
            namespace,
            locality: self.locality(file.locality.as_ref(), &at.field("locality")),
            priority: self.priority(file.priority, &at.field("priority")).unwrap_or(usual.priority),
            workers: self.workers(file.workers, &at.field("workers")).unwrap_or(usual.workers),
            resources: file.resources.into_iter().map(|path| self.folder.join(path)).collect(),
            outbound_port: self
                .port(file.outbound_port, &at.field("outboundPort"))
                .unwrap_or(usual.outbound_port),
            inbound_port: self
                .port(file.inbound_port, &at.field("inboundPort"))
                .unwrap_or(usual.inbound_port),
            admin: self.address(file.admin, &at.field("admin")).unwrap_or(usual.admin),
            probe: self.address(file.probe, &at.field("probe")),
            connect: self.address(file.connect, &at.field("connect")),
            link: self.address(file.link, &at.field("link")),
            drain_deadline: file.drain_deadline.map_or(usual.drain_deadline, |deadline| deadline.0),
            handover: file.handover.map(|folder| self.folder.join(folder)),
            access_log: file.access_log.map(|log| self.access_log(log)),
            tracing: file.tracing.and_then(|tracing| self.tracing(tracing, &at.field("tracing"))),
            series_expire_after: self
                .series(file.series_expire_after, &at.field("seriesExpireAfter"))
                .unwrap_or(usual.series_expire_after),
            detect_timeout: file.detect_timeout.map_or(usual.detect_timeout, |timeout| timeout.0),
            max_head_bytes: self.head_bytes(file.max_head_bytes, at).unwrap_or(usual.max_head_bytes),
            identity: file.identity.map(|identity| self.identity(identity, &at.field("identity"))),
            max_connections: self.connections(file.max_connections, &at.field("maxConnections")),
            max_ring_bytes: file.max_ring_bytes.unwrap_or(MAX_RING_BYTES),
            guard: match file.guard {
                Some(guard) => guard.read(usual.guard, &at.field("guard"), |error| self.errors.push(error)),
                None => usual.guard,
            },
            device: file.device.and_then(|device| {
                device.read(self.folder, &at.field("device"), |error| self.errors.push(error))
            }),
            dns: dns.or_else(|| {
                intercept.as_ref().filter(|intercept| intercept.dns).map(|_| DnsConfig::default())
            }),
            intercept,
        };
        self.distinct(&config, at);
        self.ports_said(&config, at);
        self.device_reached(&config, at);
        config
    }

    fn note<T>(&mut self, result: Result<T, ConfigError>) -> Option<T> {
        result.map_err(|error| self.errors.push(error)).ok()
    }

    /// `name` or `namespace/name`.
    fn service(&mut self, at: &At<'_>, name: String) -> String {
        for part in name.splitn(2, '/') {
            self.note(check::dns_label(at, part));
        }
        name
    }

    fn address(&mut self, text: Option<String>, at: &At<'_>) -> Option<SocketAddr> {
        self.note(check::socket_address(at, &text?))
    }

    fn port(&mut self, port: Option<u16>, at: &At<'_>) -> Option<u16> {
        self.note(check::port(at, port?))
    }

    fn workers(&mut self, workers: Option<u32>, at: &At<'_>) -> Option<usize> {
        let workers = workers?;
        if !(1..=MAX_WORKERS).contains(&workers) {
            self.errors.push(at.error(format!("{workers} workers")).hint(format!("from 1 to {MAX_WORKERS}")));
        }
        Some(workers as usize)
    }

    fn app_probe(&mut self, probe: &ProbeSpec, at: &At<'_>) -> Probe {
        probe.read(at, |error| self.errors.push(error))
    }

    fn locality(&mut self, said: Option<&resource::Locality>, at: &At<'_>) -> Locality {
        let read = said.map(|said| locality::locality(said, at)).transpose();
        self.note(read).flatten().unwrap_or_default()
    }

    fn priority(&mut self, priority: Option<u32>, at: &At<'_>) -> Option<u32> {
        let priority = priority?;
        self.note(check::priority(at, priority)).map(|()| priority)
    }

    fn head_bytes(&mut self, bytes: Option<u32>, at: &At<'_>) -> Option<usize> {
        let bytes = bytes?;
        if !HEAD_BYTES.contains(&bytes) {
            let error = at.field("maxHeadBytes").error(format!("{bytes} bytes are out of range"));
            self.errors.push(error.hint(format!("from {} to {}", HEAD_BYTES.start(), HEAD_BYTES.end())));
        }
        Some(bytes as usize)
    }

    fn series(&mut self, after: Option<crate::resource::Duration>, at: &At<'_>) -> Option<Duration> {
        let after = after?.0;
        if after < Duration::from_secs(1) {
            let error = at.error("who scrapes would never see the end of anything");
            self.errors.push(error.hint("at least `1s`, and longer than the time between two scrapes"));
        }
        Some(after)
    }

    fn connections(&mut self, most: Option<u32>, at: &At<'_>) -> Option<usize> {
        let most = most?;
        if most == 0 {
            self.errors
                .push(at.error("a sidecar without connections does nothing").hint("leave the field out"));
        }
        Some(most as usize)
    }

    fn control(&mut self, mut file: ControlFile, by_files: bool, at: &At<'_>) -> Option<ControlConfig> {
        let state = file.state.take().map(|path| self.folder.join(path));
        let security = self.security(&mut file, state.clone(), by_files, at);
        let features = file.server_features.unwrap_or_else(|| vec![OWN_RESOURCES.to_owned()]);
        for (index, feature) in features.iter().enumerate().filter(|(_, feature)| *feature != OWN_RESOURCES) {
            let error = at.field("serverFeatures").index(index);
            let error = error.error(format!("unknown feature `{}`", feature.escape_debug()));
            self.errors.push(error.hint(format!("known is `{OWN_RESOURCES}`")));
        }
        let depends_on = file.depends_on.into_iter().enumerate();
        let depends_on = depends_on
            .filter_map(|(n, text)| self.depends_on(&at.field("dependsOn").index(n), text))
            .collect();
        Some(ControlConfig {
            address: self.note(host_and_port(&at.field("address"), file.address))?,
            security: security?,
            own_resources: !features.is_empty(),
            state,
            depends_on,
        })
    }

    /// How the control plane is spoken to.
    fn security(
        &mut self,
        file: &mut ControlFile,
        state: Option<PathBuf>,
        by_files: bool,
        at: &At<'_>,
    ) -> Option<ControlSecurity> {
        let said = file.token.take().and_then(|text| {
            let token = JoinToken::parse(&text).map_err(|error| at.field("token").error(error.to_string()));
            self.note(token).map(TokenSource::Said)
        });
        let token = match file.token_file.take() {
            Some(_) if said.is_some() => {
                let error = at.field("tokenFile").error("`token` says it already");
                self.errors.push(error);
                said
            }
            Some(path) => Some(TokenSource::File(self.folder.join(path))),
            None => said,
        };
        if file.plaintext || by_files {
            if token.is_some() {
                let why = match file.plaintext {
                    true => "a join token does not go over plain text",
                    false => "`identity` says who this sidecar is: it does not join",
                };
                self.errors.push(at.error(why));
            }
            return Some(if file.plaintext { ControlSecurity::Plaintext } else { ControlSecurity::Files });
        }
        let Some(state) = state else {
            let error =
                at.error("who speaks to a control plane over TLS needs an identity, and a place to keep it");
            self.errors.push(error.hint("say `tokenFile` and `state`; or `identity`; or `plaintext: true` where nobody else can be on the way"));
            return None;
        };
        Some(ControlSecurity::Joined { token, state })
    }

    /// `name`, `namespace/name`, or either with `:port`.
    fn depends_on(&mut self, at: &At<'_>, text: String) -> Option<(String, Option<u16>)> {
        let Some((name, port)) = text.split_once(':') else { return Some((self.service(at, text), None)) };
        let port = port.parse().map_err(|_| at.error(format!("`{}` is not a port", port.escape_debug())));
        let port = self.note(port.and_then(|port| check::port(at, port)))?;
        Some((self.service(at, name.to_owned()), Some(port)))
    }

    /// Without Lighter's own resources, nobody tells which ports a Service has.
    fn ports_said(&mut self, config: &SidecarConfig, at: &At<'_>) {
        let Some(control) = config.control.as_ref().filter(|control| !control.own_resources) else { return };
        let listeners = config.listeners.iter().map(|listener| ("listeners", listener.port));
        let inbound = config.inbound.iter().map(|inbound| ("inbound", inbound.port));
        for said in [listeners.collect::<Vec<_>>(), inbound.collect()] {
            for (index, (field, _)) in said.iter().enumerate().filter(|(_, (_, port))| port.is_none()) {
                let error = at.field(field).index(index).error("its port must be said");
                self.errors.push(error.hint(NO_PORTS_TOLD));
            }
        }
        for (index, _) in control.depends_on.iter().enumerate().filter(|(_, (_, port))| port.is_none()) {
            let error = at.field("control").field("dependsOn").index(index).error("its port must be said");
            self.errors.push(error.hint(NO_PORTS_TOLD));
        }
    }

    /// A device is an application like any other: callers come to it by this sidecar.
    fn device_reached(&mut self, config: &SidecarConfig, at: &At<'_>) {
        let Some(device) = &config.device else { return };
        if !config.inbound.iter().any(|inbound| inbound.app == device.listen) {
            let error = at.field("device").field("listen").error("no caller gets there");
            self.errors
                .push(error.hint(format!("add `inbound: [{{listen: …, app: \"{}\"}}]`", device.listen)));
        }
        reserve::check(config, device, &at.field("device"), |error| self.errors.push(error));
    }

    fn listener(&mut self, file: ListenerFile, at: &At<'_>) -> Option<ListenerConfig> {
        let service = self.service(&at.field("service"), file.service);
        let port = self.port(file.port, &at.field("port"));
        let listen = self.address(Some(file.listen), &at.field("listen"))?;
        let protocol = file.protocol.map(|protocol| protocol.0).unwrap_or_default();
        Some(ListenerConfig { listen, service, port, protocol })
    }

    fn inbound(&mut self, file: InboundFile, at: &At<'_>) -> Option<InboundConfig> {
        let port = self.port(file.port, &at.field("port"));
        let app = self.address(Some(file.app), &at.field("app"));
        let listen = self.address(Some(file.listen), &at.field("listen"))?;
        let protocol = file.protocol.map(|protocol| protocol.0).unwrap_or_default();
        let app = app?;
        if app == listen {
            self.errors.push(at.field("app").error("the application cannot listen where the sidecar does"));
        }
        Some(InboundConfig { listen, app, port, protocol })
    }

    fn intercept(&mut self, file: InterceptFile, at: &At<'_>) -> InterceptConfig {
        let usual = InterceptConfig::default();
        let mark = file.mark.unwrap_or(usual.mark);
        if mark == 0 {
            self.errors.push(
                at.field("mark").error("0 is no mark: every socket has it").hint("leave the field out"),
            );
        }
        for (field, ports) in [
            ("excludeOutboundPorts", &file.exclude_outbound_ports),
            ("excludeInboundPorts", &file.exclude_inbound_ports),
        ] {
            for (index, port) in ports.iter().enumerate() {
                self.note(check::port(&at.field(field).index(index), *port));
            }
        }
        let cidrs = file.exclude_cidrs.iter().enumerate();
        let exclude_cidrs = cidrs
            .filter_map(|(n, text)| self.note(check::cidr(&at.field("excludeCidrs").index(n), text)))
            .collect();
        InterceptConfig {
            outbound: file.outbound.unwrap_or(usual.outbound),
            inbound: file.inbound.unwrap_or(usual.inbound),
            dns: file.dns.unwrap_or(usual.dns),
            exclude_outbound_ports: file.exclude_outbound_ports,
            exclude_inbound_ports: file.exclude_inbound_ports,
            exclude_cidrs,
            exclude_uids: file.exclude_uids,
            mark,
        }
    }

    fn dns(&mut self, file: DnsFile, at: &At<'_>) -> DnsConfig {
        let upstream = file.upstream.into_iter().enumerate();
        DnsConfig {
            listen: self.address(file.listen, &at.field("listen")).unwrap_or(DNS_LISTEN),
            upstream: upstream
                .filter_map(|(n, text)| self.address(Some(text), &at.field("upstream").index(n)))
                .collect(),
        }
    }

    fn identity(&mut self, file: IdentityFile, at: &At<'_>) -> IdentityConfig {
        let IdentityFile { certificate, key, bundle } = file;
        for (field, path) in [("certificate", &certificate), ("key", &key), ("bundle", &bundle)] {
            if path.as_os_str().is_empty() {
                self.errors.push(at.field(field).error("an empty path names no file"));
            }
        }
        IdentityConfig {
            certificate: self.folder.join(certificate),
            key: self.folder.join(key),
            bundle: self.folder.join(bundle),
        }
    }

    fn access_log(&mut self, file: AccessLogFile) -> AccessLogConfig {
        let path: Option<PathBuf> = file.path.map(|path| self.folder.join(path));
        AccessLogConfig { json: file.format.unwrap_or(LogFormat::Json) == LogFormat::Json, path }
    }

    fn tracing(&mut self, file: TracingFile, at: &At<'_>) -> Option<TracingConfig> {
        let otlp = self.note(host_and_port(&at.field("otlp"), file.otlp));
        let sampling_percent = file.sampling_percent.unwrap_or(1.0);
        if !(0.0..=100.0).contains(&sampling_percent) {
            self.errors.push(at.field("samplingPercent").error("not a number from 0 to 100"));
        }
        let propagation = file.propagation.unwrap_or_else(|| vec![Propagation::W3c]);
        if propagation.is_empty() {
            let error =
                at.field("propagation").error("without a header no request says which trace it belongs to");
            self.errors.push(error.hint("leave it out for W3C's traceparent"));
        }
        Some(TracingConfig { otlp: otlp?, sampling_percent, propagation })
    }

    /// No two TCP listeners have one address.
    fn distinct(&mut self, config: &SidecarConfig, at: &At<'_>) {
        let mut taken: Vec<(SocketAddr, &str)> = Vec::new();
        let named = [
            (Some(config.admin), "admin"),
            (config.probe, "probe"),
            (config.connect, "connect"),
            (config.link, "link"),
            (config.dns.as_ref().map(|dns| dns.listen), "dns"),
            (config.device.as_ref().map(|device| device.listen), "device"),
        ];
        let mut check = |listen: SocketAddr, name: &'static str, at: At<'_>| {
            let collides = |(other, _): &&(SocketAddr, &str)| {
                let wide = other.ip().is_unspecified() || listen.ip().is_unspecified();
                other.port() == listen.port() && (other.ip() == listen.ip() || wide)
            };
            if let Some((_, other)) = taken.iter().find(collides) {
                self.errors.push(at.error(format!("{listen} is taken by `{other}` already")));
            }
            taken.push((listen, name));
        };
        for (listen, name) in named {
            if let Some(listen) = listen {
                check(listen, name, at.field(name));
            }
        }
        if config.intercept.is_some() {
            let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
            check(SocketAddr::new(any, config.outbound_port), "outboundPort", at.field("outboundPort"));
            check(SocketAddr::new(any, config.inbound_port), "inboundPort", at.field("inboundPort"));
        }
        for (index, listener) in config.listeners.iter().enumerate() {
            check(listener.listen, "listeners", at.field("listeners").index(index).field("listen"));
        }
        for (index, inbound) in config.inbound.iter().enumerate() {
            check(inbound.listen, "inbound", at.field("inbound").index(index).field("listen"));
        }
    }
}

fn host_and_port(at: &At<'_>, text: String) -> Result<String, ConfigError> {
    if is_host_and_port(&text) {
        return Ok(text);
    }
    let error = at.error(format!("`{}` is not a host with a port", text.escape_debug()));
    Err(error.hint("expected for example `control.example:15010` or `10.0.0.1:15010`"))
}

/// Whether this is `host:port`, where the host is a name, an IPv4 address, or an IPv6 address in brackets.
pub fn is_host_and_port(text: &str) -> bool {
    let is_name = |host: &str| {
        !host.is_empty()
            && host.len() <= 253
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    };
    match text.parse::<SocketAddr>() {
        Ok(address) => address.port() != 0,
        Err(_) => text
            .rsplit_once(':')
            .is_some_and(|(host, port)| is_name(host) && port.parse::<u16>().is_ok_and(|port| port != 0)),
    }
}
