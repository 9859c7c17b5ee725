//! The control plane's own file: `lighter control --config FILE`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::build::check;
use crate::document::{At, Document};
use crate::error::{ConfigError, ConfigErrors};
use crate::load::read_text;
use crate::resource;
use crate::sidecar::is_host_and_port;

/// What one control plane does. Every field has a default; ports as in the README's table.
#[derive(Clone, Debug, PartialEq)]
pub struct ControlConfig {
    /// Whose names it gives: `spiffe://TRUST_DOMAIN/…`. Default `mesh.lighter`.
    pub trust_domain: String,
    /// The folder of all that outlives the process. Default `lighter-state`.
    pub state: PathBuf,
    /// ADS, certificates and registration, over TLS. Default 127.0.0.1:15010.
    pub ads: SocketAddr,
    /// The API, over TLS. Default 127.0.0.1:15020.
    pub api: SocketAddr,
    /// ADS without TLS for clients of this machine. Whom a workload lets in is not served there; the identities that
    /// endpoints are to prove are, to whoever takes the word of a listener that proves nothing itself. Default none.
    pub plaintext_ads: Option<SocketAddr>,
    /// Files or folders with resources, watched.
    pub resources: Vec<PathBuf>,
    /// How long a registration outlives its stream. Default 30 s.
    pub lease: Duration,
    /// How long a certificate is good for, of a sidecar and of the control plane itself. Default 24 h.
    pub svid_lifetime: Duration,
    /// Where every change is noted. None: nowhere but in the log.
    pub audit_log: Option<AuditLog>,
    /// The admission webhook of Kubernetes. None: there is none.
    pub webhook: Option<WebhookConfig>,
    /// How it is planned where functions are active.
    pub planner: PlannerConfig,
}

/// `planner: {…}`: which functions of devices that are `planned` are active where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannerConfig {
    /// How often it is thought about, beside at once when requests wait. Default 2 s.
    pub interval: Duration,
    /// A function that nobody wanted for so long is active nowhere. Default 60 s.
    pub idle: Duration,
    /// What has become active stays so for as long, whatever would bring more. Default 10 s.
    pub settle: Duration,
}

impl Default for PlannerConfig {
    fn default() -> Self {
        PlannerConfig {
            interval: Duration::from_secs(2),
            idle: Duration::from_secs(60),
            settle: Duration::from_secs(10),
        }
    }
}

/// `webhook: {listen: ADDR, …}`: puts sidecars into pods that an API server asks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookConfig {
    /// Where it listens, over TLS.
    pub listen: SocketAddr,
    /// What it shows to prove who it is.
    pub shows: Shows,
    /// The image of sidecars. None: the one of this version.
    pub image: Option<String>,
    /// Where sidecars find the control plane, `host:port`. None: as `lighter inject` has it.
    pub control: Option<String>,
}

/// What the webhook shows to prove who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shows {
    /// A certificate that it makes itself, in the state folder, with these names.
    Own {
        /// DNS names.
        names: Vec<String>,
    },
    /// What PEM files say. They are read again when they change.
    Files {
        /// The certificate, and the intermediates after it.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
    },
}

/// Where every change is noted.
#[derive(Clone, Debug, PartialEq)]
pub enum AuditLog {
    /// On standard output.
    Stdout,
    /// At the end of this file.
    File(PathBuf),
}

impl Default for ControlConfig {
    fn default() -> Self {
        ControlConfig {
            trust_domain: "mesh.lighter".to_owned(),
            state: "lighter-state".into(),
            ads: SocketAddr::from((Ipv4Addr::LOCALHOST, 15010)),
            api: SocketAddr::from((Ipv4Addr::LOCALHOST, 15020)),
            plaintext_ads: None,
            resources: Vec::new(),
            lease: Duration::from_secs(30),
            svid_lifetime: Duration::from_secs(24 * 3600),
            audit_log: None,
            webhook: None,
            planner: PlannerConfig::default(),
        }
    }
}

impl ControlConfig {
    /// Reads a control plane's file.
    pub fn read(path: &Path) -> Result<ControlConfig, ConfigErrors> {
        match read_text(path) {
            Ok(text) => Self::parse(&path.display().to_string(), &text),
            Err(error) => ConfigErrors::or(vec![error], ControlConfig::default()),
        }
    }

    /// Reads the text of `file`, to whose folder the paths in it are relative. A text that says nothing is all
    /// defaults.
    pub fn parse(file: &str, text: &str) -> Result<ControlConfig, ConfigErrors> {
        let folder = Path::new(file).parent().unwrap_or(Path::new(""));
        let usual = ControlConfig::default();
        let (documents, mut errors) = Document::parse(file, text);
        if let Some(second) = documents.get(1) {
            errors.push(second.root().error("the control plane's file has one document"));
        }
        let Some(document) = documents.first().filter(|_| errors.is_empty()) else {
            let state = folder.join(&usual.state);
            return ConfigErrors::or(errors, ControlConfig { state, ..usual });
        };
        let file = match document.read::<ControlFile>() {
            Ok(read) => read,
            Err(errors) => return ConfigErrors::or(errors, usual),
        };
        let config = Reader { folder, errors: &mut errors }.control(file, usual, &document.root());
        ConfigErrors::or(errors, config)
    }

    /// What is wrong with it as a whole, in words: as flags can change what a file says, it is asked again after them.
    pub fn conflict(&self) -> Option<String> {
        let webhook = self.webhook.as_ref().map(|webhook| webhook.listen);
        let listens = [
            ("ads", Some(self.ads)),
            ("api", Some(self.api)),
            ("plaintextAds", self.plaintext_ads),
            ("webhook", webhook),
        ];
        let taken: Vec<_> =
            listens.iter().filter_map(|(name, address)| address.map(|address| (name, address))).collect();
        for (index, (name, address)) in taken.iter().enumerate() {
            if let Some((other, _)) = taken[..index].iter().find(|(_, other)| collide(*other, *address)) {
                return Some(format!("`{name}` listens on {address}, as `{other}` does"));
            }
        }
        let open = self.plaintext_ads.filter(|address| !address.ip().is_loopback());
        open.map(|address| {
            format!("`plaintextAds` is open to others on {address}: it must be a loopback address")
        })
    }
}

/// The control plane's file as it is written. Every field has a default.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct ControlFile {
    /// Whose names it gives: `spiffe://TRUST_DOMAIN/…`. Default `mesh.lighter`.
    trust_domain: Option<String>,
    /// The folder of all that outlives the process, relative to this file. Default `lighter-state`.
    state: Option<PathBuf>,
    /// ADS, certificates and registration over TLS, `address:port`. Default 127.0.0.1:15010.
    ads: Option<String>,
    /// The API over TLS, `address:port`. Default 127.0.0.1:15020.
    api: Option<String>,
    /// ADS without TLS, `address:port` on loopback. Default: none.
    plaintext_ads: Option<String>,
    /// Files or folders with resources, relative to this file. They are watched.
    resources: Vec<PathBuf>,
    /// How long a registration outlives its stream, in seconds. Default 30.
    #[schemars(range(min = 1, max = 3600))]
    lease_seconds: Option<u32>,
    /// How long a certificate is good for, of a sidecar and of the control plane itself: from `10s` to `8760h`. Each is
    /// renewed at half its life. Default `24h`.
    svid_lifetime: Option<resource::Duration>,
    /// Where every change is noted: a file, relative to this one, or `stdout`. Default: nowhere but in the log.
    audit_log: Option<PathBuf>,
    /// The admission webhook of Kubernetes, which puts sidecars into pods. Default: none.
    webhook: Option<WebhookFile>,
    /// How it is planned which functions of devices are active.
    planner: PlannerFile,
}

/// Which functions of devices with `activation: planned` are active where.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct PlannerFile {
    /// How often it is thought about, beside at once when requests wait: from `100ms` to `1h`. Default `2s`.
    interval: Option<resource::Duration>,
    /// A function that nobody wanted for so long is active nowhere: from `1s` to `24h`. Default `60s`.
    idle: Option<resource::Duration>,
    /// What has become active stays so for as long, whatever would bring more: from `0s` to `24h`. Default `10s`.
    settle: Option<resource::Duration>,
}

/// The admission webhook: `POST /inject` over TLS.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WebhookFile {
    /// Where it listens, `address:port`; usually port 15017.
    listen: String,
    /// DNS names in the certificate that it makes for itself in the state folder, such as `lighter-control.lighter.svc`.
    #[serde(default)]
    names: Vec<String>,
    /// A certificate in PEM instead, relative to this file, and the intermediates after it. It is read again when it changes.
    #[serde(default)]
    certificate: Option<PathBuf>,
    /// Its key.
    #[serde(default)]
    key: Option<PathBuf>,
    /// The image of sidecars. Default: that of this version.
    #[serde(default)]
    image: Option<String>,
    /// Where sidecars find the control plane, `host:port`. Default `lighter-control.lighter.svc:15010`.
    #[serde(default)]
    control: Option<String>,
}

struct Reader<'f> {
    folder: &'f Path,
    errors: &'f mut Vec<ConfigError>,
}

impl Reader<'_> {
    fn control(&mut self, file: ControlFile, usual: ControlConfig, at: &At<'_>) -> ControlConfig {
        if let Some(name) = &file.trust_domain {
            self.note(check::dns_name(&at.field("trustDomain"), name));
        }
        let seconds = self.within(file.lease_seconds, 1..=3600, &at.field("leaseSeconds"));
        if file.svid_lifetime.is_some_and(|life| !SVID_LIFETIMES.contains(&life.0)) {
            let error = at.field("svidLifetime").error("is out of range");
            self.errors.push(error.hint("from 10s to 8760h"));
        }
        let config = ControlConfig {
            trust_domain: file.trust_domain.unwrap_or(usual.trust_domain),
            state: self.folder.join(file.state.unwrap_or(usual.state)),
            ads: self.address(file.ads, &at.field("ads")).unwrap_or(usual.ads),
            api: self.address(file.api, &at.field("api")).unwrap_or(usual.api),
            plaintext_ads: self.address(file.plaintext_ads, &at.field("plaintextAds")),
            resources: file.resources.into_iter().map(|path| self.folder.join(path)).collect(),
            lease: seconds.map_or(usual.lease, Duration::from_secs),
            svid_lifetime: file.svid_lifetime.map_or(usual.svid_lifetime, |life| life.0),
            audit_log: file.audit_log.map(|path| match path.to_str() {
                Some("stdout") => AuditLog::Stdout,
                _ => AuditLog::File(self.folder.join(path)),
            }),
            webhook: file.webhook.and_then(|webhook| self.webhook(webhook, &at.field("webhook"))),
            planner: self.planner(&file.planner, usual.planner, &at.field("planner")),
        };
        if let Some(conflict) = config.conflict() {
            self.errors.push(at.error(conflict));
        }
        config
    }

    fn note<T>(&mut self, result: Result<T, ConfigError>) -> Option<T> {
        result.map_err(|error| self.errors.push(error)).ok()
    }

    fn webhook(&mut self, file: WebhookFile, at: &At<'_>) -> Option<WebhookConfig> {
        for (index, name) in file.names.iter().enumerate() {
            self.note(check::dns_name(&at.field("names").index(index), name));
        }
        if let Some(control) = file.control.as_ref().filter(|control| !is_host_and_port(control)) {
            let error = at.field("control").error(format!("`{}` is not `host:port`", control.escape_debug()));
            self.errors.push(error);
        }
        let shows = match (file.certificate, file.key) {
            (None, None) => Shows::Own { names: file.names },
            (Some(certificate), Some(key)) => {
                if !file.names.is_empty() {
                    self.errors.push(at.field("names").error("`certificate` has its names already"));
                }
                Shows::Files { certificate: self.folder.join(certificate), key: self.folder.join(key) }
            }
            (certificate, _) => {
                let missing = if certificate.is_some() { "key" } else { "certificate" };
                self.errors.push(at.error(format!("`{missing}` is missing")));
                return None;
            }
        };
        let listen = self.address(Some(file.listen), &at.field("listen"))?;
        Some(WebhookConfig { listen, shows, image: file.image, control: file.control })
    }

    fn planner(&mut self, file: &PlannerFile, usual: PlannerConfig, at: &At<'_>) -> PlannerConfig {
        let mut time =
            |field: &str, said: Option<resource::Duration>, usual: Duration, from, to: Duration| {
                let said = said.map_or(usual, |said| said.0);
                if !(from..=to).contains(&said) {
                    let error = at.field(field).error("is out of range");
                    self.errors.push(error.hint(format!("from {from:?} to {}h", to.as_secs() / 3600)));
                }
                said
            };
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
        PlannerConfig {
            interval: time("interval", file.interval, usual.interval, second / 10, hour),
            idle: time("idle", file.idle, usual.idle, second, hour * 24),
            settle: time("settle", file.settle, usual.settle, Duration::ZERO, hour * 24),
        }
    }

    fn address(&mut self, text: Option<String>, at: &At<'_>) -> Option<SocketAddr> {
        self.note(check::socket_address(at, &text?))
    }

    fn within(&mut self, number: Option<u32>, range: RangeInclusive<u32>, at: &At<'_>) -> Option<u64> {
        let number = number?;
        if !range.contains(&number) {
            let error = at.error(format!("{number} is out of range"));
            self.errors.push(error.hint(format!("from {} to {}", range.start(), range.end())));
        }
        Some(number.into())
    }
}

/// Whether two listeners want one port.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let wide = |ip: IpAddr| ip.is_unspecified();
    one.port() == other.port() && (one.ip() == other.ip() || wide(one.ip()) || wide(other.ip()))
}

/// Below, the renewals of many sidecars would be all that the control plane does; above, a stolen key is good for years.
const SVID_LIFETIMES: RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(8760 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ControlConfig, ConfigErrors> {
        ControlConfig::parse("/etc/lighter/control.yaml", text)
    }

    #[test]
    fn a_file_that_says_nothing_is_all_defaults() {
        let state = PathBuf::from("/etc/lighter/lighter-state");
        let defaults = ControlConfig { state, ..ControlConfig::default() };
        for text in ["", "{}", "# nothing yet\n"] {
            assert_eq!(parse(text).unwrap(), defaults, "{text:?}");
        }
    }

    #[test]
    fn everything_can_be_said() {
        let config = parse(
            "trustDomain: example.org\nstate: /var/lib/lighter\nads: 0.0.0.0:1\napi: '[::1]:2'\n\
             plaintextAds: 127.0.0.1:3\nresources: [mesh]\nleaseSeconds: 5\nsvidLifetime: 1h\nauditLog: audit.log\n\
             webhook: {listen: '0.0.0.0:4', names: [control.svc], image: 'lighter:2', control: 'control.svc:5'}\n\
             planner: {interval: 1s, idle: 10m, settle: 0s}\n",
        );
        let expected = ControlConfig {
            trust_domain: "example.org".into(),
            state: "/var/lib/lighter".into(),
            ads: "0.0.0.0:1".parse().unwrap(),
            api: "[::1]:2".parse().unwrap(),
            plaintext_ads: Some("127.0.0.1:3".parse().unwrap()),
            resources: vec!["/etc/lighter/mesh".into()],
            lease: Duration::from_secs(5),
            svid_lifetime: Duration::from_secs(3600),
            audit_log: Some(AuditLog::File("/etc/lighter/audit.log".into())),
            webhook: Some(WebhookConfig {
                listen: "0.0.0.0:4".parse().unwrap(),
                shows: Shows::Own { names: vec!["control.svc".into()] },
                image: Some("lighter:2".into()),
                control: Some("control.svc:5".into()),
            }),
            planner: PlannerConfig {
                interval: Duration::from_secs(1),
                idle: Duration::from_secs(600),
                settle: Duration::ZERO,
            },
        };
        assert_eq!(config.unwrap(), expected);
        assert_eq!(parse("auditLog: stdout").unwrap().audit_log, Some(AuditLog::Stdout));
    }

    #[test]
    fn every_fault_is_found_at_once_and_in_its_place() {
        let text = "trustDomain: Example\nads: localhost:1\nleaseSeconds: 0\nsvidLifetime: 9s\n\
                    planner: {interval: 1ms, idle: 25h, settle: 1s}\n";
        let faults: Vec<_> =
            parse(text).unwrap_err().errors.iter().map(|e| (e.line, e.path.clone())).collect();
        let expected = [
            (1, "trustDomain"),
            (2, "ads"),
            (3, "leaseSeconds"),
            (4, "svidLifetime"),
            (5, "planner.interval"),
            (5, "planner.idle"),
        ];
        assert_eq!(faults, expected.map(|(line, path)| (line, path.to_owned())));
        assert!(parse("ad: 127.0.0.1:1").unwrap_err().to_string().contains("did you mean `ads`?"));
    }

    #[test]
    fn a_webhook_shows_one_certificate() {
        let shows = |text: &str| {
            parse(&format!("webhook: {{listen: '0.0.0.0:4'{text}}}")).map(|c| c.webhook.unwrap().shows)
        };
        let files =
            Shows::Files { certificate: "/etc/lighter/a.pem".into(), key: "/etc/lighter/k.pem".into() };
        assert_eq!(shows(", certificate: a.pem, key: k.pem").unwrap(), files);
        assert_eq!(shows("").unwrap(), Shows::Own { names: Vec::new() });
        for (text, said) in [
            (", certificate: a.pem", "`key` is missing"),
            (", key: k.pem", "`certificate` is missing"),
            (", certificate: a.pem, key: k.pem, names: [a]", "`certificate` has its names already"),
            (", names: [A]", "webhook.names[0]"),
            (", control: nowhere", "`nowhere` is not `host:port`"),
        ] {
            let error = shows(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn listeners_do_not_collide_and_plain_text_stays_on_the_machine() {
        let said = |text: &str| parse(text).unwrap_err().to_string();
        assert!(said("api: 127.0.0.1:15010").contains("`api` listens on 127.0.0.1:15010, as `ads` does"));
        assert!(said("ads: 0.0.0.0:1\nplaintextAds: 127.0.0.1:1").contains("as `ads` does"));
        assert!(said("webhook: {listen: '0.0.0.0:15020'}").contains("as `api` does"));
        assert!(said("plaintextAds: 10.0.0.1:1").contains("must be a loopback address"));
    }
}
