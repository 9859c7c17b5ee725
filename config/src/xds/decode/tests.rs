//! What other servers send, and what is refused of it.

use prost::Message;
use prost_types::Any;

use super::*;
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

struct Get(&'static str, Vec<(&'static str, &'static str)>);

impl RequestParts for Get {
    fn method(&self) -> &[u8] {
        b"GET"
    }

    fn path(&self) -> &[u8] {
        self.0.as_bytes()
    }

    fn query(&self) -> Option<&[u8]> {
        None
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        self.1.iter().find(|(other, _)| *other == name).map(|(_, value)| value.as_bytes())
    }
}

/// The cluster that takes a request to a path.
fn taken(routes: &RouteConfiguration, request: Get) -> Option<String> {
    let route = routes.hosts[0].table.select(&request)?;
    route.backends.first().map(|backend| names::cluster(&backend.target))
}

#[test]
fn a_prefix_of_another_server_may_end_within_a_segment() {
    let separated = PathSpecifier::PathSeparatedPrefix("/seg".to_string());
    let mut segments = simple("", "segments");
    segments.r#match.as_mut().unwrap().path_specifier = Some(separated);
    let mut insensitive = simple("/Case", "insensitive");
    insensitive.r#match.as_mut().unwrap().case_sensitive = Some(false);
    let routes =
        read_table(vec![simple("/a", "a"), simple("/b/", "b"), segments, insensitive, simple("/", "rest")]);
    let routes = routes.unwrap();
    for (path, cluster) in [
        ("/a", "a"),
        ("/abc", "a"),
        ("/b/", "b"),
        ("/b", "rest"),
        ("/seg", "segments"),
        ("/seg/x", "segments"),
        ("/segment", "rest"),
        ("/cASE/x", "insensitive"),
    ] {
        assert_eq!(taken(&routes, Get(path, Vec::new())).as_deref(), Some(cluster), "{path}");
    }
    let names: Vec<&str> = routes.hosts[0].table.routes.iter().map(|route| &*route.name).collect();
    assert_eq!(names, ["r/0", "r/1", "r/2", "r/3", "r/4"]);
    assert_eq!(routes.clusters().len(), 5);
}

#[test]
fn headers_are_matched_in_all_the_ways_that_are_left_of_older_servers() {
    use HeaderMatchSpecifier as Wanted;
    let regex = |regex: &str| matchers::RegexMatcher { regex: regex.to_string(), ..Default::default() };
    let insensitive = matchers::StringMatcher {
        match_pattern: Some(matchers::string_matcher::MatchPattern::Exact("a.b".into())),
        ignore_case: true,
    };
    for (wanted, fits, fits_not) in [
        (Some(Wanted::ExactMatch("v".into())), "v", "V"),
        (Some(Wanted::PrefixMatch("v.".into())), "v.1", "v1"),
        (Some(Wanted::SuffixMatch(".1".into())), "v.1", "v.12"),
        (Some(Wanted::ContainsMatch("a".into())), "xax", "xx"),
        (Some(Wanted::SafeRegexMatch(regex("v|w"))), "w", "vw"),
        (Some(Wanted::StringMatch(insensitive)), "A.B", "AxB"),
    ] {
        let mut route = simple("", "it");
        let header =
            wire::HeaderMatcher { name: "X-V".into(), header_match_specifier: wanted, ..Default::default() };
        route.r#match.as_mut().unwrap().headers = vec![header];
        let routes = read_table(vec![route]).unwrap();
        assert!(taken(&routes, Get("/", vec![("x-v", fits)])).is_some(), "{fits}");
        assert!(taken(&routes, Get("/", vec![("x-v", fits_not)])).is_none(), "{fits_not}");
        assert!(taken(&routes, Get("/", Vec::new())).is_none());
    }
    let mut route = simple("", "it");
    route.r#match.as_mut().unwrap().headers =
        vec![wire::HeaderMatcher { name: "x-v".into(), ..Default::default() }];
    let routes = read_table(vec![route]).unwrap();
    assert!(taken(&routes, Get("/", vec![("x-v", "")])).is_some());
    assert!(taken(&routes, Get("/", Vec::new())).is_none());
}

#[test]
fn what_narrows_a_match_is_never_passed_over() {
    let at = "r: virtual_hosts[0].routes[0].match";
    let with = |change: &dyn Fn(&mut wire::RouteMatch)| {
        let mut route = simple("/", "a");
        change(route.r#match.as_mut().unwrap());
        refused(read_table(vec![route]))
    };
    let header = |header: wire::HeaderMatcher| with(&move |one| one.headers = vec![header.clone()]);
    let said = with(&|one| one.path_specifier = None);
    assert_eq!(said, format!("{at}: the path is not matched"));
    let named = |name: &str| wire::HeaderMatcher { name: name.to_string(), ..Default::default() };
    let said = header(wire::HeaderMatcher { invert_match: true, ..named("a") });
    assert_eq!(said, format!("{at}.headers[0].invert_match: not supported"));
    let said = header(wire::HeaderMatcher {
        header_match_specifier: Some(HeaderMatchSpecifier::ExactMatch("a".into())),
        ..named(":authority")
    });
    assert_eq!(said, format!("{at}.headers[0].name: `:authority` is not a header name"));
    let said = with(&|one| {
        let regex = matchers::RegexMatcher { regex: "(".into(), ..Default::default() };
        one.path_specifier = Some(PathSpecifier::SafeRegex(regex));
    });
    assert!(said.starts_with(&format!("{at}.safe_regex.regex: not a regular expression")), "{said}");

    // A range of header values and a fraction of requests, which are not in our messages.
    let raw = |inner: &[u8]| {
        let one = [&[1 << 3 | 2, inner.len() as u8], inner].concat();
        let host = [&[3 << 3 | 2, one.len() as u8], &one[..]].concat();
        let table = [&[1 << 3 | 2, 1, b'r', 2 << 3 | 2, host.len() as u8], &host[..]].concat();
        route_configuration(&table)
    };
    let found = refused(raw(&[9 << 3 | 2, 0]));
    assert_eq!(found, "r: virtual_hosts.routes.match: field number 9 is not known");
    let found = refused(raw(&[6 << 3 | 2, 2, 6 << 3 | 2, 0]));
    assert_eq!(found, "r: virtual_hosts.routes.match.headers: field number 6 is not known");
}

#[test]
fn what_cannot_be_done_with_a_request_is_refused() {
    let at = "r: virtual_hosts[0].routes[0]";
    let with = |change: &dyn Fn(&mut wire::RouteAction)| {
        let mut action = to_cluster("a");
        change(&mut action);
        let action = Some(wire::route::Action::Route(action));
        refused(read_table(vec![wire::Route { action, ..simple("/", "a") }]))
    };
    let weights = |weights: &[Option<u32>]| {
        let one = |weight: &Option<u32>| wire::weighted_cluster::ClusterWeight {
            name: "a".into(),
            weight: *weight,
            ..Default::default()
        };
        let clusters = wire::WeightedCluster { clusters: weights.iter().map(one).collect() };
        with(&move |action| {
            action.cluster_specifier = Some(ClusterSpecifier::WeightedClusters(clusters.clone()));
        })
    };
    let at_clusters = format!("{at}.route.weighted_clusters.clusters");
    assert_eq!(weights(&[Some(0), Some(0)]), format!("{at_clusters}: every weight is 0"));
    assert_eq!(weights(&[]), format!("{at_clusters}: every weight is 0"));
    let said = weights(&[Some(u32::MAX), Some(1)]);
    assert_eq!(said, format!("{at_clusters}[1].weight: the sum of the weights is too large"));
    assert_eq!(weights(&[None]), format!("{at_clusters}[0].weight: missing"));

    let said = with(&|action| action.cluster_specifier = None);
    assert_eq!(said, format!("{at}.route: no cluster"));
    let said = with(&|action| action.prefix_rewrite = "no-slash".into());
    assert_eq!(said, format!("{at}.route.prefix_rewrite: `no-slash` is not a path"));
    let said = with(&|action| action.timeout = Some(prost_types::Duration { seconds: -1, nanos: 0 }));
    assert_eq!(said, format!("{at}.route.timeout: not a duration"));
    let said = refused(read_table(vec![wire::Route { action: None, ..simple("/", "a") }]));
    assert_eq!(said, format!("{at}: nothing that is supported is done with what it matches"));

    let headers = |key: &str, value: &str| {
        let header = core::HeaderValue { key: key.into(), value: value.into(), ..Default::default() };
        let option = core::HeaderValueOption { header: Some(header), ..Default::default() };
        refused(read_table(vec![wire::Route { request_headers_to_add: vec![option], ..simple("/", "a") }]))
    };
    let at = format!("{at}.request_headers_to_add[0].header");
    assert_eq!(headers("x", "%START_TIME%"), format!("{at}.value: not supported"));
    assert_eq!(
        headers("content-length", "1"),
        format!("{at}.key: the header `content-length` cannot be changed")
    );
    assert!(headers("x", "a\r\nb: c").starts_with(&format!("{at}.value: ")));
}

#[test]
fn changes_of_headers_are_made_from_the_route_outwards() {
    let option = |key: &str, value: &str, append: bool| core::HeaderValueOption {
        header: Some(core::HeaderValue { key: key.into(), value: value.into(), ..Default::default() }),
        append: Some(append),
        ..Default::default()
    };
    let mut route = simple("/", "a");
    route.request_headers_to_add = vec![option("X-A", "route", true), option("b", "100%%", false)];
    let mut table = table(vec![route]);
    table.virtual_hosts[0].request_headers_to_remove = vec!["x-a".into()];
    table.request_headers_to_add = vec![option("B", "outer", false), option("c", "c", true)];
    let routes = route_configuration(&table.encode_to_vec()).unwrap();
    let expected = HeaderChanges {
        remove: vec!["x-a".into()],
        set: vec![("B".into(), "outer".into())],
        add: vec![("c".into(), "c".into())],
    };
    assert_eq!(routes.hosts[0].table.routes[0].actions, [Action::RequestHeaders(expected)]);
}

#[test]
fn a_rewrite_replaces_what_was_matched() {
    let rewritten = |path: PathSpecifier| {
        let mut action = to_cluster("a");
        action.prefix_rewrite = "/new".into();
        let mut route = wire::Route { action: Some(wire::route::Action::Route(action)), ..simple("", "a") };
        route.r#match.as_mut().unwrap().path_specifier = Some(path);
        let routes = read_table(vec![route]).unwrap();
        let route = &routes.hosts[0].table.routes[0];
        match route.actions.as_slice() {
            [Action::Rewrite(Rewrite { path: Some(change), hostname: None })] => change.clone(),
            other => panic!("{other:?}"),
        }
    };
    let prefix = PathChange::ReplacePrefix("/new".into(), "/old".into());
    assert_eq!(rewritten(PathSpecifier::Prefix("/old".into())), prefix);
    assert_eq!(rewritten(PathSpecifier::PathSeparatedPrefix("/old".into())), prefix);
    assert_eq!(rewritten(PathSpecifier::Path("/old".into())), PathChange::ReplaceFull("/new".into()));
}

#[test]
fn the_closest_domain_has_the_request() {
    let host = |domains: &[&str], cluster: &str| wire::VirtualHost {
        domains: domains.iter().map(|domain| domain.to_string()).collect(),
        routes: vec![simple("", cluster)],
        ..Default::default()
    };
    let mut table = table(Vec::new());
    table.virtual_hosts = vec![
        host(&["*"], "any"),
        host(&["*.b", "*.a.b"], "end"),
        host(&["x.*"], "front"),
        host(&["X.a.b"], "whole"),
    ];
    let routes = route_configuration(&table.encode_to_vec()).unwrap();
    for (authority, cluster) in
        [("x.A.b", "whole"), ("y.a.b", "end"), ("y.b", "end"), ("x.c", "front"), (".b", "any"), ("b", "any")]
    {
        let table = routes.table(authority).unwrap();
        assert_eq!(&*table.routes[0].backends[0].target.service.name, cluster, "{authority}");
    }
    table.virtual_hosts[1].domains = vec!["a.*.b".into()];
    let said = refused(route_configuration(&table.encode_to_vec()));
    assert_eq!(said, "r: virtual_hosts[1].domains[0]: `a.*.b` is no domain");
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
    let said = refused(with(&|cluster| cluster.lb_policy = 5));
    assert_eq!(said, "c: lb_policy: not supported");
    let said = refused(with(&|cluster| cluster.cluster_discovery_type = None));
    assert_eq!(said, "c: type: not supported");
    let said = refused(with(&|cluster| cluster.eds_cluster_config = None));
    assert_eq!(said, "c: eds_cluster_config.eds_config: not a source that is supported");
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

fn workload_message() -> lighter::Workload {
    let rule = lighter::Rule {
        policy: "default/p/0".into(),
        action: "deny".into(),
        audit: true,
        sources: vec![lighter::Source {
            principals: vec!["spiffe://mesh.lighter/ns/a/*".into()],
            cidrs: vec!["10.0.0.0/8".into()],
            ..Default::default()
        }],
        operations: vec![lighter::Operation {
            methods: vec!["GET".into()],
            headers: vec![lighter::HeaderMatch { name: "x".into(), exact: None }],
            ..Default::default()
        }],
    };
    let port = lighter::InboundPort {
        port: 80,
        mtls: "strict".into(),
        rules: vec![rule],
        allow: vec!["default/p".into()],
        audit_allow: Vec::new(),
    };
    lighter::Workload {
        service: "default/a".into(),
        trust_domain: "mesh.lighter".into(),
        outbound_policy: "registryOnly".into(),
        ports: vec![port],
    }
}

#[test]
fn a_workload_is_read_as_it_is_written() {
    let message = workload_message();
    assert_eq!(encode::workload(&workload(&message.encode_to_vec()).unwrap()), message);
}

#[test]
fn every_word_of_a_workload_is_known_or_it_is_refused() {
    let with = |change: &dyn Fn(&mut lighter::Workload)| {
        let mut message = workload_message();
        change(&mut message);
        refused(workload(&message.encode_to_vec()))
    };
    let rule =
        |change: &dyn Fn(&mut lighter::Rule)| with(&|workload| change(&mut workload.ports[0].rules[0]));
    assert_eq!(with(&|w| w.ports[0].mtls = "lax".into()), "default/a: ports[0].mtls: `lax` is not known");
    assert_eq!(with(&|w| w.ports[0].mtls.clear()), "default/a: ports[0].mtls: `` is not known");
    assert_eq!(with(&|w| w.outbound_policy.clear()), "default/a: outbound_policy: `` is not known");
    assert_eq!(
        with(&|w| w.trust_domain = "a b".into()),
        "default/a: trust_domain: `spiffe://a b/ns` is not a SPIFFE ID"
    );
    assert_eq!(with(&|w| w.service = "a".into()), "a: service: `a` is no workload");
    let at = "default/a: ports[0].rules[0]";
    assert_eq!(rule(&|rule| rule.action = "log".into()), format!("{at}.action: `log` is not known"));
    // Taken as it stands, this would be about everybody.
    assert_eq!(
        rule(&|rule| rule.sources = vec![lighter::Source::default()]),
        format!("{at}.sources[0]: a source that says nothing")
    );
    assert_eq!(
        rule(&|rule| rule.operations.push(lighter::Operation::default())),
        format!("{at}.operations[1]: an operation that says nothing")
    );
    assert_eq!(
        rule(&|rule| rule.sources[0].cidrs = vec!["10.0.0.0/64".into()]),
        format!("{at}.sources[0].cidrs[0]: `10.0.0.0/64` is not a range of addresses")
    );
    let mut bytes = workload_message().encode_to_vec();
    bytes.extend([9 << 3, 1]);
    assert_eq!(refused(workload(&bytes)), "default/a: : field number 9 is not known");
}

#[test]
fn an_address_is_answered_even_if_nobody_has_it() {
    let read = |message: lighter::Address| address(&message.encode_to_vec());
    let nobody = read(lighter::Address { key: "10.0.0.1:80".into(), ..Default::default() }).unwrap();
    assert_eq!(nobody.found, None);
    let found = lighter::Address {
        key: "dns:default/a".into(),
        service: "default/a".into(),
        virtual_v4: "198.19.0.1".into(),
        virtual_v6: "fd00:11:6874:e5::1".into(),
        ..Default::default()
    };
    let known = read(found.clone()).unwrap();
    assert_eq!(encode::address(&known.key, known.found.as_ref()), found);
    // A server cannot take real addresses over.
    let said = refused(read(lighter::Address { virtual_v4: "10.0.0.1".into(), ..found }));
    assert!(said.starts_with("dns:default/a: virtual_v4: "), "{said}");
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
