//! Services, without the routes and policies that are attached later.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::kind::Order;
use super::{Draft, PortDraft, Report, check, locality, state};
use crate::document::At;
use crate::error::ConfigError;
use crate::load::Loaded;
use crate::name::ServicePort;
use crate::probe::{Probe, ProbeSpec};
use crate::resource::service::{Endpoint, Secure as SecureSpec, ServicePort as PortSpec, ServiceSpec};
use crate::snapshot::{EndpointSpec, Secure, is_virtual};

/// Most ports of one Service.
const MAX_PORTS: usize = 256;

/// A Service by itself.
pub(super) fn draft(service: &Arc<Loaded<ServiceSpec>>, order: Order, report: &mut Report) -> Draft {
    let (spec, at) = (&service.resource.spec, service.spec());
    let name = service.full_name();
    let at_ports = at.field("ports");
    if spec.ports.is_empty() {
        report.error(at_ports.error("a Service has at least one port"));
    }
    let mut ports: Vec<PortDraft> = Vec::new();
    report.ok(check::at_most(&at_ports, spec.ports.len(), MAX_PORTS));
    for (index, port) in spec.ports.iter().enumerate().take(MAX_PORTS) {
        let at = at_ports.index(index);
        check_port(port, &at, spec.ports.len(), report);
        if ports.iter().any(|other| other.key.port == port.port) {
            report.error(at.field("port").error(format!("port {} is there already", port.port)));
        }
        if port.name.is_some() && ports.iter().any(|other| other.name.as_deref() == port.name.as_deref()) {
            let name = port.name.as_deref().unwrap_or_default();
            report.error(at.field("name").error(format!("a port named `{name}` is there already")));
        }
        ports.push(PortDraft {
            key: ServicePort { service: name.clone(), port: port.port },
            name: port.name.as_deref().map(Into::into),
            protocol: port.app_protocol.map(|hint| hint.0).unwrap_or_default(),
            target_port: port.target_port.unwrap_or(port.port),
            endpoints: Vec::new(),
        });
    }
    add_endpoints(&spec.endpoints, &at.field("endpoints"), &mut ports, report);
    let probe = spec.probe.as_ref().map(|probe| self::probe(probe, &at.field("probe"), report));
    let state = spec.state.as_ref().and_then(|said| state::read(said, &ports, &at.field("state"), report));
    Draft { written: service.clone(), order, ports, probe, state }
}

fn probe(spec: &ProbeSpec, at: &At<'_>, report: &mut Report) -> Arc<Probe> {
    if spec.exec.is_some() {
        let error = at.field("exec").error("the control plane runs no command");
        report.error(error.hint("a sidecar asks its own application by a command: `appProbe` in its file"));
    }
    Arc::new(spec.read(at, |error| report.error(error)))
}

fn check_port(port: &PortSpec, at: &At<'_>, siblings: usize, report: &mut Report) {
    report.ok(check::port(&at.field("port"), port.port));
    if let Some(target) = port.target_port {
        report.ok(check::port(&at.field("targetPort"), target));
    }
    match &port.name {
        Some(name) => {
            report.ok(check::dns_label(&at.field("name"), name));
        }
        None if siblings > 1 => {
            report.error(
                at.error("missing field `name`").hint("where there are several ports, each has a name"),
            );
        }
        None => {}
    }
}

fn add_endpoints(endpoints: &[Endpoint], at: &At<'_>, ports: &mut [PortDraft], report: &mut Report) {
    let mut seen: BTreeMap<(u16, SocketAddr), At<'_>> = BTreeMap::new();
    for (index, endpoint) in endpoints.iter().enumerate() {
        let at = at.index(index);
        let known: Vec<&str> = ports.iter().filter_map(|port| port.name.as_deref()).collect();
        check_ports(endpoint, &at, &known, ports.len(), report);
        let weight = endpoint.weight.unwrap_or(1);
        if weight == 0 {
            let error = at.field("weight").error("an endpoint's weight is at least 1");
            report.error(error.hint("to send an endpoint nothing, leave it out"));
        }
        report.ok(check::weight(&at.field("weight"), weight));
        let priority = endpoint.priority.unwrap_or_default();
        report.ok(check::priority(&at.field("priority"), priority));
        let locality = endpoint.locality.as_ref().map(|said| locality::locality(said, &at.field("locality")));
        let locality = report.ok(locality.transpose()).flatten().unwrap_or_default();
        let secure = endpoint.secure.as_ref().map(|spec| secure(spec, &at.field("secure"), report));
        let Some(ip) = report.ok(address(&at.field("address"), &endpoint.address)) else { continue };
        for port in ports.iter_mut() {
            let by_name = || endpoint.ports.as_ref()?.get(port.name.as_deref()?).copied();
            let number = endpoint.port.or_else(by_name).unwrap_or(port.target_port);
            let address = SocketAddr::new(ip, number);
            if let Some(first) = seen.get(&(port.key.port, address)) {
                let error = at.error(format!("the endpoint {address} is there already"));
                report.error(error.hint(format!("the first is at {}", first.place())));
                continue;
            }
            seen.insert((port.key.port, address), at.clone());
            let (locality, secure) = (locality.clone(), secure.clone());
            port.endpoints.push(EndpointSpec { address, weight, priority, locality, secure, wires: None });
        }
    }
}

fn secure(spec: &SecureSpec, at: &At<'_>, report: &mut Report) -> Secure {
    report.ok(check::spiffe_id(&at.field("identity"), &spec.identity));
    let link = spec.link.as_ref().and_then(|text| {
        let at = at.field("link");
        let link = report.ok(check::socket_address(&at, text))?;
        report.ok(address(&at, &link.ip().to_string())).map(|_| link)
    });
    Secure { identity: spec.identity.as_str().into(), link }
}

fn check_ports(endpoint: &Endpoint, at: &At<'_>, known: &[&str], siblings: usize, report: &mut Report) {
    if let Some(port) = endpoint.port {
        report.ok(check::port(&at.field("port"), port));
        if siblings > 1 {
            let error = at.field("port").error("which of the Service's ports is meant is not clear");
            report.error(error.hint("name the ports: `ports: {name: number}`"));
        }
        if endpoint.ports.is_some() {
            report.error(at.field("ports").error("there is `port` already").hint("write one of the two"));
        }
    }
    for (name, number) in endpoint.ports.iter().flatten() {
        let at = at.field("ports").field(name);
        report.ok(check::port(&at, *number));
        if !known.contains(&name.as_str()) {
            let error = at.error(format!("the Service has no port named `{name}`"));
            report.error(match known {
                [] => error.hint("the Service's port has no name; write `port: NUMBER`"),
                known => error.hint(format!("its ports are: {}", known.join(", "))),
            });
        }
    }
}

fn address(at: &At<'_>, text: &str) -> Result<IpAddr, ConfigError> {
    let Ok(ip) = text.parse::<IpAddr>() else {
        let error = at.error(format!("`{}` is not an IP address", text.escape_debug()));
        return Err(error.hint("host names are not resolved; write the port apart, under `port`"));
    };
    let reason = if ip.is_unspecified() {
        "it stands for every address of a host"
    } else if ip.is_multicast() || matches!(ip, IpAddr::V4(v4) if v4.is_broadcast()) {
        "it stands for many hosts"
    } else if is_virtual(ip) {
        "it lies in the range of Lighter's own virtual addresses"
    } else {
        return Ok(ip);
    };
    Err(at.error(format!("{ip} cannot be an endpoint")).hint(reason))
}
