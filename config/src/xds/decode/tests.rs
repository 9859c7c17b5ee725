//! What other servers send, and what is refused of it.

use prost::Message;
use prost_types::Any;

use super::*;
use crate::snapshot::Balancer;
use crate::snapshot::route::{Action, HeaderChanges, PathChange, PathMatch, RequestParts, Rewrite};
use crate::xds::encode;
use crate::xds::type_url;
use crate::xds::wire::envoy::config::cluster::v3 as clusters;
use crate::xds::wire::envoy::config::core::v3 as core;
use crate::xds::wire::envoy::config::endpoint::v3 as endpoints;
use crate::xds::wire::envoy::config::listener::v3 as listeners;
use crate::xds::wire::envoy::config::route::v3 as wire;
use crate::xds::wire::envoy::extensions::filters::http::router::v3::Router;
use crate::xds::wire::envoy::extensions::filters::network::http_connection_manager::v3 as manager;
use crate::xds::wire::envoy::r#type::matcher::v3 as matchers;
use crate::xds::wire::lighter::config::v1 as lighter;
use wire::header_matcher::HeaderMatchSpecifier;
use wire::route_action::ClusterSpecifier;
use wire::route_match::PathSpecifier;

mod offload;
mod own;
mod route;
mod session;

/// What refuses a message: `resource: field: message`, without the hint.
#[track_caller]
fn refused<T: fmt::Debug>(result: Result<T, Nack>) -> String {
    let nack = result.unwrap_err();
    format!("{}: {}: {}", nack.resource, nack.field, nack.message)
}

fn to_cluster(name: &str) -> wire::RouteAction {
    wire::RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(name.to_string())),
        ..Default::default()
    }
}

/// A route as Envoy's users write it: a prefix, a cluster.
fn simple(prefix: &str, cluster: &str) -> wire::Route {
    wire::Route {
        r#match: Some(wire::RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix(prefix.to_string())),
            ..Default::default()
        }),
        action: Some(wire::route::Action::Route(to_cluster(cluster))),
        ..Default::default()
    }
}

fn table(routes: Vec<wire::Route>) -> wire::RouteConfiguration {
    let host = wire::VirtualHost {
        name: "all".to_string(),
        domains: vec!["*".to_string()],
        routes,
        ..Default::default()
    };
    wire::RouteConfiguration { name: "r".to_string(), virtual_hosts: vec![host], ..Default::default() }
}

fn read_table(routes: Vec<wire::Route>) -> Result<RouteConfiguration, Nack> {
    route_configuration(&table(routes).encode_to_vec())
}

fn api_listener(filters: Vec<manager::HttpFilter>) -> Vec<u8> {
    let manager = manager::HttpConnectionManager {
        route_specifier: Some(manager::http_connection_manager::RouteSpecifier::RouteConfig(table(vec![
            simple("", "a"),
        ]))),
        http_filters: filters,
        ..Default::default()
    };
    let api = Some(encode::any(type_url::HTTP_CONNECTION_MANAGER, &manager));
    let api_listener = Some(listeners::ApiListener { api_listener: api });
    listeners::Listener { name: "svc:80".into(), api_listener, ..Default::default() }.encode_to_vec()
}

fn filter(url: &str, is_optional: bool) -> manager::HttpFilter {
    let typed_config = Some(Any { type_url: url.to_string(), value: Router {}.encode_to_vec() });
    manager::HttpFilter { name: "f".into(), typed_config, is_optional, disabled: false }
}

#[test]
fn a_filter_that_is_not_known_is_refused_unless_it_is_optional() {
    let unknown = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";
    let router = filter(type_url::ROUTER, false);
    let read = listener(&api_listener(vec![filter(unknown, true), router.clone()])).unwrap();
    assert!(matches!(&read.routes, RouteSource::Inline(routes) if routes.hosts.len() == 1));
    let at = "svc:80: api_listener.api_listener.http_filters";
    let said = refused(listener(&api_listener(vec![filter(unknown, false), router.clone()])));
    assert_eq!(said, format!("{at}[0]: the filter `f` is not supported"));
    let said = refused(listener(&api_listener(vec![router, filter(unknown, true)])));
    assert_eq!(said, format!("{at}[0]: the router is not the last filter"));
    assert_eq!(refused(listener(&api_listener(Vec::new()))), format!("{at}: no filter"));

    let mut route = simple("/", "a");
    let config = |is_optional| wire::FilterConfig { is_optional, ..Default::default() };
    let mut with = |any: Any| {
        route.typed_per_filter_config = [("f".to_string(), any)].into_iter().collect();
        read_table(vec![route.clone()])
    };
    assert!(with(encode::any(type_url::FILTER_CONFIG, &config(true))).is_ok());
    for any in [encode::any(type_url::FILTER_CONFIG, &config(false)), encode::any(unknown, &Router {})] {
        let said = refused(with(any));
        assert_eq!(said, "r: virtual_hosts[0].routes[0].typed_per_filter_config.f: not supported");
    }
}

#[test]
fn a_listener_that_accepts_connections_is_not_of_the_profile() {
    let mut bytes = api_listener(vec![filter(type_url::ROUTER, false)]);
    bytes.extend([3 << 3 | 2, 0]);
    assert_eq!(refused(listener(&bytes)), "svc:80: filter_chains: not supported");
    let bare = listeners::Listener { name: "svc:80".into(), ..Default::default() };
    assert_eq!(refused(listener(&bare.encode_to_vec())), "svc:80: api_listener: missing");
    assert_eq!(refused(listener(&[])), ": name: a resource has a name");
    assert!(refused(listener(&[0xff])).starts_with(": : no message"));
}

fn eds() -> clusters::Cluster {
    let ads = core::ConfigSource {
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Self_(
            core::SelfConfigSource::default(),
        )),
        ..Default::default()
    };
    clusters::Cluster {
        name: "c".into(),
        cluster_discovery_type: Some(clusters::cluster::ClusterDiscoveryType::Type(3)),
        eds_cluster_config: Some(clusters::cluster::EdsClusterConfig {
            eds_config: Some(ads),
            service_name: "other".into(),
        }),
        ..Default::default()
    }
}

#[test]
fn a_cluster_says_nothing_of_transport_that_could_be_overlooked() {
    let read = cluster(&eds().encode_to_vec()).unwrap();
    assert_eq!((&*read.name, &*read.endpoints), ("c", "other"));
    let with = |change: &dyn Fn(&mut clusters::Cluster)| {
        let mut cluster = eds();
        change(&mut cluster);
        super::cluster(&cluster.encode_to_vec())
    };
    let socket = |url: &str| core::TransportSocket {
        name: "t".into(),
        typed_config: Some(Any { type_url: url.to_string(), value: Vec::new() }),
    };
    let tls = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
    let plain = "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";
    let said = refused(with(&|cluster| cluster.transport_socket = Some(socket(tls))));
    assert_eq!(said, "c: transport_socket: not supported");
    assert!(with(&|cluster| cluster.transport_socket = Some(socket(plain))).is_ok());
    let said = refused(with(&|cluster| cluster.transport_socket_matches = vec![Vec::new()]));
    assert_eq!(said, "c: transport_socket_matches: not supported");
    let said = refused(with(&|cluster| cluster.lb_policy = 6));
    assert_eq!(said, "c: lb_policy: not supported");
    let said = refused(with(&|cluster| cluster.cluster_discovery_type = None));
    assert_eq!(said, "c: type: not supported");
    let said = refused(with(&|cluster| cluster.eds_cluster_config = None));
    assert_eq!(said, "c: eds_cluster_config.eds_config: not a source that is supported");
}

#[test]
fn a_cluster_says_how_its_endpoints_are_chosen() {
    use clusters::cluster::{LbConfig, MaglevLbConfig, RingHashLbConfig};
    let with = |change: &dyn Fn(&mut clusters::Cluster)| {
        let mut cluster = eds();
        change(&mut cluster);
        super::cluster(&cluster.encode_to_vec())
    };
    let listed = |names: &[&str]| {
        let policy = |name: &&str| clusters::load_balancing_policy::Policy {
            typed_extension_config: Some(core::TypedExtensionConfig {
                name: name.to_string(),
                typed_config: Some(Any {
                    type_url: format!("type.googleapis.com/envoy.extensions.load_balancing_policies.{name}"),
                    value: Vec::new(),
                }),
            }),
        };
        let policies: Vec<_> = names.iter().map(policy).collect();
        with(&|cluster| {
            cluster.load_balancing_policy =
                Some(clusters::LoadBalancingPolicy { policies: policies.clone() });
        })
    };
    for (said, meant) in [
        (0, Balancer::PeakEwma),
        (1, Balancer::LeastRequest),
        (2, Balancer::RingHash),
        (3, Balancer::Random),
        (5, Balancer::Maglev),
    ] {
        let read = with(&|cluster| cluster.lb_policy = said).unwrap();
        assert_eq!(read.balancing.balancer, meant);
    }
    let ring = RingHashLbConfig { minimum_ring_size: Some(99) };
    let read = with(&|cluster| {
        cluster.lb_policy = 2;
        cluster.lb_config = Some(LbConfig::RingHashLbConfig(ring));
    });
    assert_eq!(read.unwrap().balancing.ring_size, 99);
    let table = MaglevLbConfig { table_size: Some(100) };
    let said = refused(with(&|cluster| {
        cluster.lb_policy = 5;
        cluster.lb_config = Some(LbConfig::MaglevLbConfig(table));
    }));
    assert_eq!(said, "c: maglev_lb_config.table_size: 100 is no size of a table");
    // The first that is known, and nothing that is called nearly so.
    let read = listed(&["wild.v3.Wild", "maglev.v3.Maglev", "round_robin.v3.RoundRobin"]).unwrap();
    assert_eq!(read.balancing.balancer, Balancer::Maglev);
    assert_eq!(listed(&["round_robin.v3.RoundRobin"]).unwrap().balancing.balancer, Balancer::RoundRobin);
    assert_eq!(refused(listed(&["wild.v3.Wild"])), "c: load_balancing_policy.policies: not supported");
}

fn lb_endpoint(address: &str, port: u32, health: i32) -> endpoints::LbEndpoint {
    let socket = core::SocketAddress {
        address: address.into(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port)),
        ..Default::default()
    };
    let address = core::Address { address: Some(core::address::Address::SocketAddress(socket)) };
    endpoints::LbEndpoint {
        host_identifier: Some(endpoints::lb_endpoint::HostIdentifier::Endpoint(endpoints::Endpoint {
            address: Some(address),
        })),
        health_status: health,
        ..Default::default()
    }
}

fn assignment(localities: Vec<endpoints::LocalityLbEndpoints>) -> Result<LoadAssignment, Nack> {
    let message = endpoints::ClusterLoadAssignment { cluster_name: "e".into(), endpoints: localities };
    load_assignment(&message.encode_to_vec())
}

fn locality(priority: u32, weight: u32, ends: Vec<endpoints::LbEndpoint>) -> endpoints::LocalityLbEndpoints {
    endpoints::LocalityLbEndpoints {
        lb_endpoints: ends,
        load_balancing_weight: Some(weight),
        priority,
        ..Default::default()
    }
}

#[test]
fn endpoints_are_split_by_priority_and_locality() {
    let down = |address: &str| lb_endpoint(address, 1, 2);
    let up = |address: &str| lb_endpoint(address, 1, 0);
    let serving = |localities| {
        let read = assignment(localities).unwrap();
        let ends = read.endpoints.iter();
        ends.map(|end| (end.address.ip().to_string(), end.priority, end.weight)).collect::<Vec<_>>()
    };
    let second = locality(1, 1, vec![up("10.0.0.9")]);
    let first = locality(0, 1, vec![up("10.0.0.1"), down("10.0.0.2")]);
    let standby = || ("10.0.0.9".to_string(), 1, 1);
    assert_eq!(serving(vec![second.clone(), first]), [("10.0.0.1".to_string(), 0, 1), standby()]);
    let first = locality(0, 1, vec![down("10.0.0.1"), lb_endpoint("10.0.0.2", 1, 3)]);
    assert_eq!(serving(vec![first, second.clone()]), [standby()]);
    // A locality without a weight has no share.
    assert_eq!(serving(vec![locality(0, 0, vec![up("10.0.0.1")]), second]), [standby()]);
    // Three quarters for the first, whatever the number of endpoints.
    let split = serving(vec![
        locality(0, 3, vec![up("10.0.0.1")]),
        locality(0, 1, vec![up("10.0.0.2"), up("10.0.0.3")]),
    ]);
    let weights: Vec<u32> = split.iter().map(|(_, _, weight)| *weight).collect();
    assert_eq!(weights, [1_000_000, 166_667, 166_667]);
    assert_eq!(serving(Vec::new()), []);
}

#[test]
fn an_endpoint_is_one_host_and_says_plainly_who_it_is() {
    let one = |end| refused(assignment(vec![locality(0, 1, vec![end])]));
    let at = "e: endpoints[0].lb_endpoints[0]";
    let at_socket = format!("{at}.endpoint.address.socket_address");
    assert_eq!(one(lb_endpoint("host", 1, 0)), format!("{at_socket}.address: `host` is not an IP address"));
    assert_eq!(
        one(lb_endpoint("0.0.0.0", 1, 0)),
        format!("{at_socket}.address: 0.0.0.0 cannot be an endpoint")
    );
    assert!(one(lb_endpoint("198.19.0.1", 1, 0)).contains("cannot be an endpoint"));
    assert_eq!(
        one(lb_endpoint("10.0.0.1", 65_536, 0)),
        format!("{at_socket}.port_value: 65536 is not a port")
    );
    let weightless =
        endpoints::LbEndpoint { load_balancing_weight: Some(0), ..lb_endpoint("10.0.0.1", 1, 0) };
    assert_eq!(one(weightless), format!("{at}.load_balancing_weight: an endpoint's weight is at least 1"));
    let twice = vec![lb_endpoint("10.0.0.1", 1, 0), lb_endpoint("10.0.0.1", 1, 2)];
    let said = refused(assignment(vec![locality(0, 1, twice)]));
    assert_eq!(said, "e: endpoints[0].lb_endpoints[1]: the endpoint 10.0.0.1:1 is there already");

    let with = |fields: &[(&str, &str)]| {
        let text = |text: &str| prost_types::Value {
            kind: Some(prost_types::value::Kind::StringValue(text.to_string())),
        };
        let fields = fields.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        let ours = [("lighter".to_string(), prost_types::Struct { fields })];
        let metadata = Some(core::Metadata { filter_metadata: ours.into_iter().collect() });
        one(endpoints::LbEndpoint { metadata, ..lb_endpoint("10.0.0.1", 1, 0) })
    };
    let at = format!("{at}.metadata.filter_metadata.lighter");
    assert_eq!(with(&[("link", "10.0.0.1:15008")]), format!("{at}.identity: missing"));
    assert_eq!(with(&[("identity", "me")]), format!("{at}.identity: `me` is not a SPIFFE ID"));
    assert_eq!(with(&[("identity", "spiffe://a/b"), ("only", "x")]), format!("{at}.only: not known"));
}

#[test]
fn another_servers_clusters_are_backends_that_nobody_can_dial() {
    let resources = [
        Resource::Listener(listener(&api_listener(vec![filter(type_url::ROUTER, false)])).unwrap()),
        Resource::Cluster(cluster(&clusters::Cluster { name: "a".into(), ..eds() }.encode_to_vec()).unwrap()),
    ];
    let endpoints = assignment(vec![locality(0, 1, vec![lb_endpoint("10.0.0.1", 80, 1)])]).unwrap();
    let endpoints = Resource::Endpoints(LoadAssignment { name: "other".into(), ..endpoints });
    let snapshot = assemble(resources.iter().chain([&endpoints]));
    let names: Vec<String> = snapshot.services.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["-/a", "default/svc"]);
    let service = &snapshot.services[&crate::name::ServiceName::new("default", "svc")];
    let backend = &service.ports[0].routes.routes[0].backends[0];
    assert!(backend.exists);
    let port = &snapshot.services[&backend.target.service].ports[0];
    assert_eq!(port.endpoints[0].address.to_string(), "10.0.0.1:80");
    assert_eq!(service.ports[0].tcp, service.ports[0].routes.routes[0].backends);
    assert_eq!(service.ports[0].routes.routes[0].matcher.path, PathMatch::default());

    // Without the cluster, the route stands and its backend does not exist.
    let snapshot = assemble(&resources[..1]);
    let service = &snapshot.services[&crate::name::ServiceName::new("default", "svc")];
    assert!(!service.ports[0].routes.routes[0].backends[0].exists);
}
