//! The resource files of a sidecar: read, put in force, watched, and read again, without touching a connection. What a
//! control plane pushes is joined with them here.

mod stamp;
mod watch;

use std::sync::Arc;

use lighter_config::error::ConfigErrors;
use lighter_config::load::Resources;
use lighter_config::snapshot::{LinkPolicy, Mtls, OutboundPolicy, Port, Service, Snapshot, WireUse};

use crate::mesh::Mesh;
use crate::stateful;
use crate::telemetry::{self, Load};
use crate::worker::Shared;

pub(crate) use stamp::Stamp;
pub(crate) use watch::watch;

/// Why files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Somebody wants it: the sidecar starts, or was asked to reload.
    Asked,
    /// They changed.
    Changed,
}

/// Reads every file and puts what they say in force. A fault anywhere, and what is in force stays as it is. So does it
/// when a change leaves nothing at all: that is a file that was emptied to be written again, or a folder that is gone.
pub(crate) fn load(shared: &Shared, why: Why) -> Result<Load, ConfigErrors> {
    let before = shared.sources().files.version.clone();
    let read = Resources::read(&shared.config.resources)
        .and_then(|read| Ok((read.is_empty(), Snapshot::build(&read)?)));
    let snapshot = match read {
        Ok((true, empty)) if why == Why::Changed && empty.version != before => {
            tracing::error!(
                "there are no resources any more: what was in force stays; if this is meant, ask by SIGHUP or POST /reload"
            );
            telemetry::config().loaded(Load::Rejected);
            return Ok(Load::Rejected);
        }
        Ok((_, snapshot)) => snapshot,
        Err(errors) => {
            telemetry::config().loaded(Load::Rejected);
            return Err(errors);
        }
    };
    for warning in &snapshot.warnings {
        tracing::warn!("{warning}");
    }
    let services = snapshot.services.len();
    if snapshot.version == before {
        telemetry::config().loaded(Load::Unchanged);
        return Ok(Load::Unchanged);
    }
    let version = snapshot.version.clone();
    let mut sources = shared.sources();
    sources.files = Arc::new(snapshot);
    put_in_force(shared, &sources);
    telemetry::config().loaded(Load::Applied);
    tracing::info!(services, %version, "resources in force");
    Ok(Load::Applied)
}

/// Puts in force what the control plane says now. Returns whether that is anything else than before.
pub(crate) fn pushed(shared: &Shared, snapshot: Snapshot) -> bool {
    let mut sources = shared.sources();
    if sources.pushed.as_ref().is_some_and(|before| before.version == snapshot.version) {
        return false;
    }
    let (services, version) = (snapshot.services.len(), snapshot.version.clone());
    sources.pushed = Some(Arc::new(snapshot));
    put_in_force(shared, &sources);
    tracing::info!(services, %version, "the control plane's resources in force");
    true
}

/// Where a sidecar's resources come from.
#[derive(Default)]
pub(crate) struct Sources {
    files: Arc<Snapshot>,
    /// None: there is no control plane, or it said nothing yet.
    pushed: Option<Arc<Snapshot>>,
}

impl Sources {
    /// What is said all in all. Of a Service that both speak of, the control plane knows more.
    fn joined(&self) -> Arc<Snapshot> {
        let Some(pushed) = &self.pushed else { return self.files.clone() };
        let mut joined = Snapshot::clone(&self.files);
        joined.version = format!("{}+{}", self.files.version, pushed.version).into();
        for (name, service) in pushed.services.iter() {
            let own = joined.services.get(name).map(|own| &**own);
            joined.services.insert(name.clone(), stricter(service, own));
        }
        joined.warnings.extend(pushed.warnings.iter().cloned());
        for (port, who) in pushed.authorization.iter() {
            let both = match joined.authorization.get(port) {
                Some(own) => Arc::new(own.and(who)),
                None => who.clone(),
            };
            joined.authorization.insert(port.clone(), both);
        }
        if pushed.outbound_policy == OutboundPolicy::RegistryOnly {
            joined.outbound_policy = OutboundPolicy::RegistryOnly;
        }
        if pushed.mtls == Mtls::Strict {
            joined.mtls = Mtls::Strict;
        }
        joined.links = without_forbidden(&pushed.links, &self.files.links);
        Arc::new(joined)
    }
}

/// What was pushed of a Service, except that a port which is strict by this sidecar's own files stays so, and that a wire
/// which they forbid is not used.
fn stricter(pushed: &Arc<Service>, own: Option<&Service>) -> Arc<Service> {
    let is_strict = |port: &Port| {
        let own = own.and_then(|own| own.ports.iter().find(|own| own.key == port.key));
        own.is_some_and(|own| own.mtls == Mtls::Strict)
    };
    let links = own.map_or(pushed.links.clone(), |own| without_forbidden(&pushed.links, &own.links));
    let loosens = pushed.ports.iter().any(|port| is_strict(port) && port.mtls != Mtls::Strict);
    if !loosens && links == pushed.links {
        return pushed.clone();
    }
    let ports = pushed.ports.iter().map(|port| match is_strict(port) {
        true => Arc::new(Port { mtls: Mtls::Strict, ..Port::clone(port) }),
        false => port.clone(),
    });
    Arc::new(Service { ports: ports.collect(), links, ..Service::clone(pushed) })
}

/// What was pushed of links, without the wires that this sidecar's own files forbid.
fn without_forbidden(pushed: &LinkPolicy, own: &LinkPolicy) -> LinkPolicy {
    let used = |pushed, own| if own == WireUse::MustNot { own } else { pushed };
    let [shm, rdma, quic] = [(pushed.shm, own.shm), (pushed.rdma, own.rdma), (pushed.quic, own.quic)]
        .map(|(pushed, own)| used(pushed, own));
    LinkPolicy { shm, rdma, quic, ..pushed.clone() }
}

fn put_in_force(shared: &Shared, sources: &Sources) {
    let before = shared.mesh.load_full();
    let joined = sources.joined();
    let services = joined.services.len();
    let mut mesh = Mesh::build(joined, &before);
    stateful::keep(shared, &mut mesh);
    shared.mesh.store(Arc::new(mesh));
    telemetry::config().in_force(services);
}

/// Loads again while the sidecar runs; what is wrong is said in the log, fault by fault.
fn reload(shared: &Shared, why: Why) {
    if let Err(errors) = load(shared, why) {
        for error in &errors.errors {
            tracing::error!("{error}");
        }
        tracing::error!(faults = errors.errors.len(), "resources are faulty: what was in force stays");
    }
}

#[cfg(test)]
mod tests {
    use lighter_config::load::Resources;
    use lighter_config::name::ServiceName;
    use lighter_config::name::ServicePort;
    use lighter_config::snapshot::VirtualIps;

    use super::*;

    fn snapshot(version: &str, services: &[(&str, u8)]) -> Arc<Snapshot> {
        let service = |(name, host): &(&str, u8)| {
            let name = ServiceName::new("default", name);
            let virtual_ips =
                VirtualIps { v4: [198, 19, 0, *host].into(), v6: [0xfd00, 0, 0, 0, 0, 0, 0, 1].into() };
            (
                name.clone(),
                Arc::new(Service {
                    name,
                    virtual_ips,
                    ports: Vec::new(),
                    probe: None,
                    links: Default::default(),
                    state: None,
                }),
            )
        };
        let services = services.iter().map(service).collect();
        Arc::new(Snapshot { version: version.into(), services, ..Snapshot::default() })
    }

    #[test]
    fn files_add_to_what_the_control_plane_says_and_never_speak_over_it() {
        let files = snapshot("f", &[("a", 1), ("b", 1)]);
        let pushed = snapshot("p", &[("b", 2), ("c", 2)]);
        let joined = Sources { files: files.clone(), pushed: Some(pushed.clone()) }.joined();
        let hosts =
            joined.services.values().map(|service| (&*service.name.name, service.virtual_ips.v4.octets()[3]));
        assert_eq!(hosts.collect::<Vec<_>>(), [("a", 1), ("b", 2), ("c", 2)]);
        assert_eq!(&*joined.version, "f+p");
        let alone = |files, pushed| Sources { files, pushed }.joined().version.clone();
        assert_eq!(&*alone(files, None), "f");
        assert_eq!(&*alone(Arc::default(), Some(pushed)), "+p");
    }

    #[test]
    fn a_wire_that_the_files_forbid_stays_so() {
        let of = |wire: &str, said: &str| {
            let text = format!(
                "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{ports: [{{port: \
                 80}}]}}\n---\napiVersion: mesh.lighter.dev/v1\nkind: LinkPolicy\nmetadata: {{name: l}}\nspec: {{wires: \
                 {{{wire}: {said}}}}}\n"
            );
            let built = Resources::parse("test", &text).and_then(|resources| Snapshot::build(&resources));
            Arc::new(built.unwrap_or_else(|errors| panic!("{errors}")))
        };
        for (files, pushed) in [("mustNot", "should"), ("may", "mustNot")] {
            let wires = [
                ("shm", (|links| links.shm) as fn(&LinkPolicy) -> WireUse),
                ("rdma", |links| links.rdma),
                ("quic", |links| links.quic),
            ];
            for (wire, of_wire) in wires {
                let joined = Sources { files: of(wire, files), pushed: Some(of(wire, pushed)) }.joined();
                let links = &joined.services[&ServiceName::new("default", "a")].links;
                assert_eq!((of_wire(links), of_wire(&joined.links)), (WireUse::MustNot, WireUse::MustNot));
            }
        }
    }

    #[test]
    fn nobody_loosens_who_may_call() {
        let service = "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{name: http, \
                       port: 80, appProtocol: http}]}\n";
        let of = |name: &str, strict: bool| {
            let mtls = if strict { "strict" } else { "permissive" };
            let text = format!(
                "{service}---\napiVersion: mesh.lighter.dev/v1\nkind: MeshPolicy\nmetadata: {{name: m}}\nspec: {{mtls: \
                 {mtls}, targetRefs: [{{kind: Service, name: a}}]}}\n---\napiVersion: mesh.lighter.dev/v1\nkind: \
                 AuthorizationPolicy\nmetadata: {{name: {name}}}\nspec: {{targetRefs: [{{kind: Service, name: a}}], action: \
                 deny, rules: [{{to: [{{methods: [{name}]}}]}}]}}\n"
            );
            let text = text.replace("metadata: {name: GET}", "metadata: {name: get}");
            let text = text.replace("metadata: {name: PUT}", "metadata: {name: put}");
            let built = Resources::parse("test", &text).and_then(|resources| Snapshot::build(&resources));
            Arc::new(built.unwrap_or_else(|errors| panic!("{errors}")))
        };
        for (files, pushed) in [(of("GET", true), of("PUT", false)), (of("PUT", false), of("GET", true))] {
            let joined = Sources { files, pushed: Some(pushed) }.joined();
            let name = ServiceName::new("default", "a");
            assert_eq!(joined.services[&name].ports[0].mtls, Mtls::Strict);
            let rules = &joined.authorization[&ServicePort { service: name, port: 80 }].rules;
            assert_eq!(rules.len(), 2, "both are asked");
        }
    }

    #[test]
    fn nobody_loosens_the_others_outbound_policy() {
        let open = snapshot("o", &[("a", 1)]);
        let closed =
            Arc::new(Snapshot { outbound_policy: OutboundPolicy::RegistryOnly, ..Snapshot::clone(&open) });
        for (files, pushed) in [(&open, &closed), (&closed, &open)] {
            let joined = Sources { files: files.clone(), pushed: Some(pushed.clone()) }.joined();
            assert_eq!(joined.outbound_policy, OutboundPolicy::RegistryOnly);
        }
    }
}
