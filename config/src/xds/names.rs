//! What resources are called on the wire.
//!
//! RouteConfiguration, Cluster and ClusterLoadAssignment of a port are called `NAMESPACE/NAME:PORT`, as
//! [`ServicePort`] writes itself. A Listener's name is the target as a gRPC client dials it, so it has aliases.

use std::fmt;

use crate::name::{DEFAULT_NAMESPACE, ServiceName, ServicePort, is_label};

/// The namespace of clusters that a server of another make calls as it likes. No Service has it: it is no DNS label.
pub const FOREIGN: &str = "-";

/// The names of a port's Listener: `reviews.shop:80`, `reviews.shop.svc.cluster.local:80`, and in the namespace
/// `default` also `reviews:80`.
pub fn listeners(port: &ServicePort) -> Vec<String> {
    let (ServiceName { namespace, name }, port) = (&port.service, port.port);
    let mut names =
        vec![format!("{name}.{namespace}:{port}"), format!("{name}.{namespace}.svc.cluster.local:{port}")];
    if &**namespace == DEFAULT_NAMESPACE {
        names.push(format!("{name}:{port}"));
    }
    names
}

/// The port whose Listener has this name. A name without a port means port 80, as `xds:///reviews` does.
pub fn of_listener(listener: &str) -> Option<ServicePort> {
    let (host, port) = match listener.rsplit_once(':') {
        Some((host, port)) => (host, number(port)?),
        None => (listener, 80),
    };
    let host = host.strip_suffix(".svc.cluster.local").unwrap_or(host);
    let (name, namespace) = host.split_once('.').unwrap_or((host, DEFAULT_NAMESPACE));
    let service = service_name(namespace, name)?;
    Some(ServicePort { service, port })
}

/// The port of `NAMESPACE/NAME:PORT`.
pub fn of_port(name: &str) -> Option<ServicePort> {
    let (service, port) = name.rsplit_once(':')?;
    // 0 stands for the port of a backend that is not known.
    let port = if port == "0" { 0 } else { number(port)? };
    Some(ServicePort { service: of_service(service)?, port })
}

/// The Service of `NAMESPACE/NAME`.
pub fn of_service(name: &str) -> Option<ServiceName> {
    let (namespace, name) = name.split_once('/')?;
    service_name(namespace, name)
}

/// What a cluster is called here: the port that its name names, or a name of its own under [`FOREIGN`].
pub fn of_cluster(cluster: &str) -> ServicePort {
    of_port(cluster).unwrap_or_else(|| ServicePort { service: ServiceName::new(FOREIGN, cluster), port: 0 })
}

/// The cluster's name of what [`of_cluster`] returned.
pub fn cluster(port: &ServicePort) -> String {
    if is_foreign(&port.service) { port.service.name.to_string() } else { port.to_string() }
}

/// Whether `service` is a cluster that only another server's name is known of.
pub fn is_foreign(service: &ServiceName) -> bool {
    &*service.namespace == FOREIGN
}

/// The key of an Address resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AddressKey {
    /// `ADDRESS:PORT`: a connection's original destination.
    Socket(std::net::SocketAddr),
    /// `dns:NAMESPACE/NAME`: a name that was asked for.
    Name(ServiceName),
}

impl AddressKey {
    /// The key that `text` is.
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix("dns:") {
            Some(name) => of_service(name).map(AddressKey::Name),
            None => text.parse().ok().map(AddressKey::Socket),
        }
    }
}

impl fmt::Display for AddressKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddressKey::Socket(address) => write!(f, "{address}"),
            AddressKey::Name(name) => write!(f, "dns:{name}"),
        }
    }
}

fn service_name(namespace: &str, name: &str) -> Option<ServiceName> {
    let both = is_label(namespace) && is_label(name);
    both.then(|| ServiceName::new(namespace, name))
}

/// A port from 1, in digits only.
fn number(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(namespace: &str, name: &str, port: u16) -> ServicePort {
        ServicePort { service: ServiceName::new(namespace, name), port }
    }

    #[test]
    fn every_name_of_a_listener_leads_back_to_its_port() {
        for port in [port("default", "reviews", 80), port("shop", "a", 9080)] {
            for name in listeners(&port) {
                assert_eq!(of_listener(&name), Some(port.clone()), "{name}");
            }
            assert_eq!(of_port(&port.to_string()), Some(port));
        }
        assert_eq!(listeners(&port("default", "reviews", 80))[2], "reviews:80");
        assert_eq!(of_listener("reviews"), Some(port("default", "reviews", 80)));
    }

    #[test]
    fn other_names_are_nobodys() {
        for name in ["", ":80", "a:0", "a:080", "a:+1", "a:65536", "a.b.c:80", "A:80", "a..b:80", "a b:1"] {
            assert_eq!(of_listener(name), None, "{name}");
        }
        for name in ["", "a:80", "a/b", "a/b/c:1", "/b:1", "a/:1", "a/b:x", "-/b:1"] {
            assert_eq!(of_port(name), None, "{name}");
        }
    }

    #[test]
    fn a_cluster_of_another_server_is_kept_apart_from_services() {
        assert_eq!(of_cluster("shop/a:1"), port("shop", "a", 1));
        let foreign = of_cluster("outbound|80||a.shop");
        assert!(is_foreign(&foreign.service) && !is_foreign(&of_cluster("shop/a:1").service));
        for name in ["outbound|80||a.shop", "shop/a:1"] {
            assert_eq!(cluster(&of_cluster(name)), name);
        }
    }

    #[test]
    fn address_keys_are_read_as_they_are_written() {
        for text in ["10.0.0.1:80", "[fd00::1]:80", "dns:shop/reviews"] {
            assert_eq!(AddressKey::parse(text).unwrap().to_string(), text);
        }
        for text in ["10.0.0.1", "dns:reviews", "reviews:80", ""] {
            assert_eq!(AddressKey::parse(text), None, "{text}");
        }
    }
}
