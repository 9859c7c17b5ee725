//! What is pushed to whom, and what is not.

use std::net::SocketAddr;

use libtest_mimic::Trial;
use lighter_config::xds::Kind;
use lighter_config::xds::wire::envoy::config::core::v3::{address, socket_address};
use lighter_config::xds::wire::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use lighter_config::xds::wire::envoy::config::endpoint::v3::{ClusterLoadAssignment, LbEndpoint};
use lighter_config::xds::wire::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use lighter_config::xds::wire::google::rpc::Status;
use prost::Message;

use crate::ads::{Stream, request};
use crate::plane::Plane;
use crate::support::sidecar::service;
use crate::support::test;

pub fn tests() -> Vec<Trial> {
    vec![
        test("push::nothing_is_pushed_when_nothing_changed", nothing_is_pushed_when_nothing_changed),
        test("push::a_change_reaches_only_those_who_hold_it", a_change_reaches_only_those_who_hold_it),
        test("push::equal_contents_have_equal_versions", equal_contents_have_equal_versions),
        test("push::what_decides_who_may_talk_is_not_told_in_plain_text", not_told_in_plain_text),
        test("push::a_rejection_is_logged_with_its_reason", a_rejection_is_logged_with_its_reason),
    ]
}

fn nothing_is_pushed_when_nothing_changed() {
    let mut plane = Plane::start(&mesh(&[("a", 1), ("b", 1)]));
    let mut stream = Stream::open(plane.ads);
    let names = ["default/a:80"];
    stream.ask(Kind::Endpoints, &names);
    let answer = stream.next();
    assert_eq!(ports(&answer), [("default/a:80".into(), vec![1])]);
    stream.accept(&answer, &names);
    // Written again, said in another order, and changed where nobody looks: of none of these is anything heard.
    for (change, seen) in
        [(mesh(&[("a", 1), ("b", 1)]), 1), (mesh(&[("b", 1), ("a", 1)]), 2), (mesh(&[("a", 1), ("b", 2)]), 3)]
    {
        plane.apply(&change);
        let program = &plane.program;
        let taken = || program.said().matches("resource files changed").count() == seen;
        crate::support::wait_until("the file was read", taken);
    }
    plane.apply(&mesh(&[("a", 3), ("b", 2)]));
    let next = stream.next();
    assert_eq!(ports(&next), [("default/a:80".into(), vec![3])]);
    assert_eq!(next.nonce, "2", "the second answer of this stream is the first after the first");
    assert!(!plane.program.has_ended());
}

fn a_change_reaches_only_those_who_hold_it() {
    let plane = Plane::start(&mesh(&[("a", 1), ("b", 1)]));
    let mut streams = ["default/a:80", "default/b:80"].map(|name| {
        let mut stream = Stream::open(plane.ads);
        for kind in [Kind::Cluster, Kind::Endpoints] {
            stream.ask(kind, &[name]);
            let answer = stream.next();
            stream.accept(&answer, &[name]);
        }
        stream
    });
    plane.apply(&mesh(&[("a", 2), ("b", 1)]));
    let [of_a, of_b] = &mut streams;
    assert_eq!(ports(&of_a.next()), [("default/a:80".into(), vec![2])]);
    plane.apply(&mesh(&[("a", 2), ("b", 2)]));
    let next = of_b.next();
    assert_eq!((ports(&next), &*next.nonce), (vec![("default/b:80".into(), vec![2])], "3"));
}

fn equal_contents_have_equal_versions() {
    let mut plane = Plane::start(&mesh(&[("a", 1)]));
    let version = |plane: &Plane| {
        let mut stream = Stream::open(plane.ads);
        stream.ask(Kind::Cluster, &["default/a:80"]);
        stream.next().version_info
    };
    let before = version(&plane);
    plane.program.signal(rustix::process::Signal::TERM);
    assert!(plane.program.wait().success());
    plane.start_again();
    assert_eq!(version(&plane), before);
}

fn not_told_in_plain_text() {
    let plane = Plane::start(&mesh(&[("a", 1)]));
    let mut stream = Stream::open(plane.ads);
    for kind in [Kind::Workload, Kind::Service, Kind::Address] {
        stream.ask(kind, &["default/a"]);
    }
    stream.ask(Kind::Cluster, &["default/a:80"]);
    let first = stream.next();
    assert_eq!((&*first.type_url, &*first.nonce), (Kind::Cluster.url(), "1"));
}

fn a_rejection_is_logged_with_its_reason() {
    let mut plane = Plane::start(&mesh(&[("a", 1)]));
    let mut stream = Stream::open(plane.ads);
    let names = ["default/a:80"];
    stream.ask(Kind::Cluster, &names);
    let answer = stream.next();
    let error_detail = Some(Status { message: "not to my taste".into(), ..Status::default() });
    stream.send(&DiscoveryRequest { error_detail, ..request(Kind::Cluster, &names, &answer.nonce) });
    plane.program.wait_until_it_says("not to my taste");
}

/// Services with one endpoint each, on this port.
fn mesh(services: &[(&str, u16)]) -> String {
    let services: Vec<_> = services
        .iter()
        .map(|(name, port)| service(name, "http", &[SocketAddr::from(([10, 0, 0, 1], *port))]))
        .collect();
    services.join("---\n")
}

/// The ports of the endpoints in an answer, by resource.
pub fn ports(answer: &DiscoveryResponse) -> Vec<(String, Vec<u32>)> {
    assert_eq!(answer.type_url, Kind::Endpoints.url());
    let assignments = answer.resources.iter().map(|any| ClusterLoadAssignment::decode(&*any.value).unwrap());
    assignments
        .map(|assignment| {
            let endpoints = assignment.endpoints.iter().flat_map(|locality| &locality.lb_endpoints);
            (assignment.cluster_name.clone(), endpoints.map(port).collect())
        })
        .collect()
}

fn port(endpoint: &LbEndpoint) -> u32 {
    let Some(HostIdentifier::Endpoint(endpoint)) = &endpoint.host_identifier else { panic!("{endpoint:?}") };
    let address = endpoint.address.as_ref().unwrap().address.as_ref().unwrap();
    let address::Address::SocketAddress(address) = address;
    let Some(socket_address::PortSpecifier::PortValue(port)) = address.port_specifier else {
        panic!("{address:?}")
    };
    port
}
