//! Lighter's own Services and Addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use super::{Nack, balancing, filter, health, missing, outliers, overload, port, read, retry, state};
use crate::build::health::percent;
use crate::build::{check, link_policy};
use crate::document::At;
use crate::error::ConfigError;
use crate::name::{ServiceName, ServicePort};
use crate::snapshot::{
    Backend, Congestion, LinkPolicy, Mtls, Port, Protocol, RetryBudget, RouteTable, Service, TrafficPolicy,
    VirtualIps, WireUse, is_virtual,
};
use crate::xds::facts::{Address, Found};
use crate::xds::names::{self, AddressKey};
use crate::xds::unknown::shapes;
use crate::xds::wire::lighter::config::v1 as wire;

/// A Service, with no endpoints, the routes of a Service without an HTTPRoute, and backends of which nobody knows yet
/// whether they exist.
pub fn service(message: &[u8]) -> Result<Service, Nack> {
    read(message, &shapes::LIGHTER_CONFIG_V1_SERVICE, |service: &wire::Service| &service.name, check_service)
}

/// What an address or a name means.
pub fn address(message: &[u8]) -> Result<Address, Nack> {
    read(message, &shapes::LIGHTER_CONFIG_V1_ADDRESS, |address: &wire::Address| &address.key, check_address)
}

fn check_service(service: &wire::Service, at: &At<'_>) -> Result<Service, ConfigError> {
    let name = name(&service.name, &at.field("name"))?;
    let virtual_ips = virtual_ips(&service.virtual_v4, &service.virtual_v6, at)?;
    let at_ports = at.field("ports");
    let mut ports: Vec<Arc<Port>> = Vec::new();
    for (index, port) in service.ports.iter().enumerate() {
        let at = at_ports.index(index);
        let port = self::service_port(port, &name, &at)?;
        if ports.iter().any(|other| other.key == port.key) {
            return Err(at.field("port").error(format!("port {} is there already", port.key.port)));
        }
        ports.push(Arc::new(port));
    }
    if ports.is_empty() {
        return Err(at_ports.error("a Service has at least one port"));
    }
    let links = links(service.links.as_ref(), &at.field("links"))?;
    let state = service.state.as_ref().map(|said| state::state(said, &ports, &at.field("state")));
    let state = state.transpose()?.map(Arc::new);
    Ok(Service { name, virtual_ips, ports, probe: None, links, state })
}

fn service_port(port: &wire::Port, service: &ServiceName, at: &At<'_>) -> Result<Port, ConfigError> {
    let number = self::port(port.port, &at.field("port"))?;
    let target_port = self::port(port.target_port, &at.field("target_port"))?;
    let at_name = at.field("name");
    let name = Some(port.name.as_str()).filter(|name| !name.is_empty());
    name.map(|name| check::dns_label(&at_name, name)).transpose()?;
    let key = ServicePort { service: service.clone(), port: number };
    let at_policy = at.field("policy");
    let policy = port.policy.as_ref().ok_or_else(|| missing(&at_policy))?;
    let guards = port.guards.as_ref().map(|guards| filter::guards(guards, &at.field("guards")));
    Ok(Port {
        name: name.map(Arc::from),
        protocol: protocol(&port.protocol, &at.field("protocol"))?,
        target_port,
        routes: RouteTable::single(&key),
        tcp: tcp(&port.tcp, &at.field("tcp"))?,
        tcp_route: port.tcp_route.as_str().into(),
        endpoints: Vec::new(),
        policy: self::policy(policy, &at_policy)?,
        mtls: Mtls::default(),
        guards: guards.transpose()?.unwrap_or_default(),
        key,
    })
}

fn protocol(word: &str, at: &At<'_>) -> Result<Protocol, ConfigError> {
    Ok(match word {
        "auto" => Protocol::Auto,
        "http" => Protocol::Http,
        "http2" => Protocol::Http2,
        "grpc" => Protocol::Grpc,
        "tls" => Protocol::Tls,
        "tcp" => Protocol::Tcp,
        "redis" => Protocol::Redis,
        other => return Err(at.error(format!("`{}` is not a protocol", other.escape_debug()))),
    })
}

fn tcp(backends: &[wire::Backend], at: &At<'_>) -> Result<Vec<Backend>, ConfigError> {
    check::at_most(at, backends.len(), check::MAX_ITEMS)?;
    let backend = |(index, backend): (usize, &wire::Backend)| {
        let at = at.index(index);
        let service = name(&backend.service, &at.field("service"))?;
        // 0 stands for the port of a backend that is not known.
        let port = match backend.port {
            0 => 0,
            number => self::port(number, &at.field("port"))?,
        };
        let weight = check::weight(&at.field("weight"), backend.weight)?;
        Ok(Backend { target: ServicePort { service, port }, weight, exists: true })
    };
    backends.iter().enumerate().map(backend).collect()
}

fn policy(policy: &wire::TrafficPolicy, at: &At<'_>) -> Result<TrafficPolicy, ConfigError> {
    let millis = |field: &str, millis| self::millis(millis, &at.field(field));
    let limit = |field: &str, limit: Option<u64>| limit.map(|limit| millis(field, limit)).transpose();
    let at_connect = at.field("connect_timeout_ms");
    let connect_timeout =
        some_millis(policy.connect_timeout_ms, &at_connect, "a connection cannot be made in no time")?;
    let eject_for =
        some_millis(policy.eject_for_ms, &at.field("eject_for_ms"), "an ejection takes some time")?;
    let tried_again = policy.retry.as_ref().map(|policy| retry::policy(policy, &at.field("retry")));
    let retry_budget = policy.retry_budget.as_ref().map(|budget| self::budget(budget, at));
    // A control plane that knows of none says nothing of it.
    let balancing = policy.balancing.as_ref().map(|said| balancing::own(said, &at.field("balancing")));
    let of_answers = policy.outliers.as_ref().map(|said| outliers::outliers(said, &at.field("outliers")));
    let circuit = policy.circuit.as_ref().map(|said| outliers::circuit(said, &at.field("circuit")));
    let check = policy.health_check.as_ref().map(|said| health::check(said, &at.field("health_check")));
    let nearness = policy.nearness.as_ref().map(|said| health::nearness(said, &at.field("nearness")));
    let overload = policy.overload.as_ref().map(|said| overload::overload(said, &at.field("overload")));
    let at_percent = at.field("max_ejected_percent");
    Ok(TrafficPolicy {
        connect_timeout,
        request_timeout: limit("request_timeout_ms", policy.request_timeout_ms)?,
        idle_timeout: limit("idle_timeout_ms", policy.idle_timeout_ms)?,
        keep_alive: millis("keep_alive_ms", policy.keep_alive_ms)?,
        max_idle_connections: policy.max_idle_connections,
        eject_after: policy.eject_after,
        eject_for,
        max_ejected_percent: percent(&at_percent, policy.max_ejected_percent, 0)?,
        safe_retry: policy.safe_retry,
        retry: tried_again.transpose()?.unwrap_or_default(),
        retry_budget: retry_budget.transpose()?.unwrap_or_default(),
        balancing: balancing.transpose()?.unwrap_or_default(),
        outliers: of_answers.transpose()?.unwrap_or_default(),
        circuit: circuit.transpose()?.unwrap_or_default(),
        health_check: check.transpose()?.map(Arc::new),
        nearness: nearness.transpose()?,
        overload: overload.transpose()?,
    })
}

fn budget(budget: &wire::RetryBudget, at: &At<'_>) -> Result<RetryBudget, ConfigError> {
    let percent = percent(&at.field("retry_budget").field("percent"), budget.percent, 0)?;
    Ok(RetryBudget { percent, min_per_second: budget.min_per_second })
}

/// A control plane that knows of no LinkPolicy says nothing of it.
pub(super) fn links(links: Option<&wire::LinkPolicy>, at: &At<'_>) -> Result<LinkPolicy, ConfigError> {
    let Some(links) = links else { return Ok(LinkPolicy::default()) };
    let wire_use = |said: &str, field: &str| {
        Ok(match said {
            "may" => WireUse::May,
            "should" => WireUse::Should,
            "mustNot" => WireUse::MustNot,
            other => {
                let error = at.field(field).error(format!("`{}` is not known", other.escape_debug()));
                return Err(error.hint("`may`, `should` or `mustNot`"));
            }
        })
    };
    // A control plane that knows of no RDMA, or of no QUIC, says nothing of it.
    let rdma = if links.rdma.is_empty() { WireUse::May } else { wire_use(&links.rdma, "rdma")? };
    let quic = if links.quic.is_empty() { WireUse::May } else { wire_use(&links.quic, "quic")? };
    let congestion = match &*links.congestion {
        "" => Congestion::default(),
        said => Congestion::ALL.into_iter().find(|one| one.label() == said).ok_or_else(|| {
            let error = at.field("congestion").error(format!("`{}` is not known", said.escape_debug()));
            error.hint("`cubic`, `bbr` or `newReno`")
        })?,
    };
    if links.devices.len() > link_policy::MAX_DEVICES
        || !links.devices.iter().all(|device| link_policy::is_device(device))
    {
        return Err(at.field("devices").error("these are no names of devices"));
    }
    if links.hot_bytes_per_second == 0 {
        return Err(at.field("hot_bytes_per_second").error("a link that carries nothing is not hot"));
    }
    if !link_policy::is_ring(links.ring_bytes) {
        return Err(at.field("ring_bytes").error(format!("{} is no size of a ring", links.ring_bytes)));
    }
    if links.back_off_ms == 0 {
        return Err(at.field("back_off_ms").error("what failed is left alone for some time"));
    }
    let quic_calm = match links.quic_calm_ms {
        Some(0) => {
            let error = at.field("quic_calm_ms").error("after no time nobody knows whether anything is lost");
            return Err(error);
        }
        Some(calm) => millis(calm, &at.field("quic_calm_ms"))?,
        None => LinkPolicy::default().quic_calm,
    };
    let idle = |millis| self::millis(millis, &at.field("idle_timeout_ms"));
    Ok(LinkPolicy {
        shm: wire_use(&links.shm, "shm")?,
        rdma,
        quic,
        congestion,
        quic_calm,
        devices: links.devices.iter().map(|device| device.as_str().into()).collect(),
        hot_bytes_per_second: links.hot_bytes_per_second,
        ring_bytes: links.ring_bytes,
        back_off: millis(links.back_off_ms, &at.field("back_off_ms"))?,
        idle_timeout: links.idle_timeout_ms.map(idle).transpose()?,
    })
}

pub(super) fn millis(millis: u64, at: &At<'_>) -> Result<Duration, ConfigError> {
    match millis {
        ..=MOST_MILLIS => Ok(Duration::from_millis(millis)),
        _ => Err(at.error("longer than a thousand years")),
    }
}

/// The same of a time that is not nothing; `otherwise` says why.
pub(super) fn some_millis(millis: u64, at: &At<'_>, otherwise: &str) -> Result<Duration, ConfigError> {
    match millis {
        0 => Err(at.error(otherwise)),
        _ => self::millis(millis, at),
    }
}

fn check_address(address: &wire::Address, at: &At<'_>) -> Result<Address, ConfigError> {
    let key = AddressKey::parse(&address.key).ok_or_else(|| {
        let error = at.field("key").error(format!("`{}` is no key", address.key.escape_debug()));
        error.hint("`ADDRESS:PORT` or `dns:NAMESPACE/NAME`")
    })?;
    if address.service.is_empty() {
        return Ok(Address { key, found: None });
    }
    let at_port = at.field("port");
    let port = match (&key, address.port) {
        (AddressKey::Name(_), 0) => 0,
        (_, number) => self::port(number, &at_port)?,
    };
    let found = Found {
        service: name(&address.service, &at.field("service"))?,
        port,
        virtual_ips: virtual_ips(&address.virtual_v4, &address.virtual_v6, at)?,
        endpoint: address.endpoint,
    };
    Ok(Address { key, found: Some(found) })
}

/// `namespace/name`.
fn name(text: &str, at: &At<'_>) -> Result<ServiceName, ConfigError> {
    names::of_service(text).ok_or_else(|| {
        at.error(format!("`{}` is not the name of a Service", text.escape_debug())).hint("`NAMESPACE/NAME`")
    })
}

/// Both lie in the reserved ranges, so that no server can take real addresses over.
fn virtual_ips(v4: &str, v6: &str, at: &At<'_>) -> Result<VirtualIps, ConfigError> {
    let error = |field: &str, text: &str| {
        let text = text.escape_debug();
        at.field(field).error(format!("`{text}` is not one of the addresses reserved for Services"))
    };
    let reserved_v4 = v4.parse::<Ipv4Addr>().ok().filter(|ip| is_virtual(IpAddr::V4(*ip)));
    let reserved_v6 = v6.parse::<Ipv6Addr>().ok().filter(|ip| is_virtual(IpAddr::V6(*ip)));
    Ok(VirtualIps {
        v4: reserved_v4.ok_or_else(|| error("virtual_v4", v4))?,
        v6: reserved_v6.ok_or_else(|| error("virtual_v6", v6))?,
    })
}

/// A thousand years, which every sum of times can bear.
const MOST_MILLIS: u64 = 31_557_600_000_000;
