//! Who registers, and who is told of it.

use libtest_mimic::Trial;
use lighter_config::xds::Kind;
use lighter_config::xds::wire::lighter::registry::v1::report_request::Report;
use lighter_config::xds::wire::lighter::registry::v1::report_response::Order;
use lighter_config::xds::wire::lighter::registry::v1::{
    InstancePort, Lease, Registration, ReportRequest, ReportResponse,
};
use rustix::process::Signal;

use crate::ads::Stream;
use crate::plane::Plane;
use crate::push::ports;
use crate::rpc::{Call, Identity};
use crate::support::sidecar::service;
use crate::support::test;

pub fn tests() -> Vec<Trial> {
    vec![
        test("registry::an_instance_is_listed_only_while_it_is_ready", listed_only_while_ready),
        test("registry::a_restart_of_the_control_plane_takes_nobody_away", a_restart_takes_nobody_away),
        test("registry::a_lease_ends_after_its_stream", a_lease_ends_after_its_stream),
        test("registry::nobody_speaks_for_another_service", nobody_speaks_for_another_service),
        test("registry::a_workload_is_told_only_its_own_rules", a_workload_is_told_only_its_own_rules),
    ]
}

const CLUSTER: [&str; 1] = ["default/a:80"];

fn listed_only_while_ready() {
    let plane = Plane::start(&service("a", "http", &[]));
    let mut watch = Watch::new(&plane);
    assert_eq!(watch.now, [0; 0]);
    let mut sidecar = Sidecar::open(&plane, "a");
    assert_eq!(sidecar.register("a-1", "default/a", 8001, false), Some(30), "the default");
    assert_eq!(sidecar.register("a-1", "default/a", 8001, true), Some(30));
    assert_eq!(watch.next(), [8001], "the first that is heard of it is that it is ready");
    let mut other = Sidecar::open(&plane, "a");
    other.register("a-2", "default/a", 8002, true);
    assert_eq!(watch.next(), [8001, 8002]);
    sidecar.register("a-1", "default/a", 8001, false);
    assert_eq!(watch.next(), [8002]);
}

fn a_restart_takes_nobody_away() {
    let mut plane = Plane::start(&service("a", "http", &[]));
    let mut watch = Watch::new(&plane);
    let mut sidecar = Sidecar::open(&plane, "a");
    sidecar.register("a-1", "default/a", 8001, true);
    assert_eq!(watch.next(), [8001]);
    plane.program.signal(Signal::TERM);
    assert!(plane.program.wait().success());
    drop(sidecar);
    plane.start_again();
    assert_eq!(Watch::new(&plane).now, [8001], "it has not said a word since");
}

fn a_lease_ends_after_its_stream() {
    let plane = Plane::start_with(&service("a", "http", &[]), "leaseSeconds: 1\n");
    let mut watch = Watch::new(&plane);
    let mut sidecar = Sidecar::open(&plane, "a");
    assert_eq!(sidecar.register("a-1", "default/a", 8001, true), Some(1));
    assert_eq!(watch.next(), [8001]);
    drop(sidecar);
    assert_eq!(watch.next(), [0; 0]);
}

fn nobody_speaks_for_another_service() {
    let mut plane = Plane::start(&service("a", "http", &[]));
    let mut sidecar = Sidecar::open(&plane, "b");
    assert_eq!(sidecar.register("a-1", "default/a", 8001, true), None);
    plane.program.wait_until_it_says("spiffe://mesh.lighter/ns/default/sa/b does not speak for default/a");
    assert_eq!(Watch::new(&plane).now, [0; 0]);
}

fn a_workload_is_told_only_its_own_rules() {
    let plane = Plane::start(&[service("a", "http", &[]), service("b", "http", &[])].join("---\n"));
    let mut stream = Stream::open_as(plane.tls, &Identity::of("default/a", &plane.state()));
    stream.ask(Kind::Workload, &["default/a", "default/b", "-/default", "-/other"]);
    let answer = stream.next();
    assert_eq!(answer.resources.len(), 2, "its own, and that of pure callers in its namespace");
}

/// A sidecar's side of registration.
struct Sidecar(Call<ReportRequest, ReportResponse>);

impl Sidecar {
    fn open(plane: &Plane, service: &str) -> Self {
        let identity = Identity::of(service, &plane.state());
        Sidecar(Call::open(plane.tls, "lighter.registry.v1.Registry/Report", Some(&identity)))
    }

    /// Registers; gives the lease in seconds. None: it is refused.
    fn register(&mut self, instance: &str, service: &str, port: u16, ready: bool) -> Option<u32> {
        let address = format!("10.0.0.1:{port}");
        let ports = vec![InstancePort { port: 80, address, link_address: String::new() }];
        let (instance, service) = (instance.into(), service.into());
        let registration = Registration { instance, service, ports, ready, ..Registration::default() };
        self.0.send(&ReportRequest { report: Some(Report::Registration(registration)) });
        match self.0.answer()?.order {
            Some(Order::Lease(Lease { seconds })) => Some(seconds),
            order => panic!("{order:?}"),
        }
    }
}

/// Whoever follows the endpoints of `a`.
pub struct Watch {
    stream: Stream,
    pub now: Vec<u32>,
}

impl Watch {
    pub fn new(plane: &Plane) -> Self {
        let mut stream = Stream::open(plane.ads);
        stream.ask(Kind::Endpoints, &CLUSTER);
        let mut watch = Watch { stream, now: Vec::new() };
        watch.now = watch.next();
        watch
    }

    /// The next set of endpoints, by port.
    pub fn next(&mut self) -> Vec<u32> {
        let answer = self.stream.next();
        self.stream.accept(&answer, &CLUSTER);
        let [(_, ports)] = ports(&answer).try_into().unwrap();
        ports
    }
}
