use lighter_config::load;
use lighter_config::snapshot::Secure;
use lighter_config::xds::wire::envoy::config::endpoint::v3::ClusterLoadAssignment;
use lighter_config::xds::wire::envoy::config::listener::v3::Listener;
use lighter_config::xds::wire::lighter::config::v1 as lighter;
use prost::Message;

use super::*;

/// A Service `name` of port 80 with endpoints on these ports of 10.0.0.1.
fn service(name: &str, endpoints: &[u16]) -> String {
    let endpoints: Vec<_> =
        endpoints.iter().map(|port| format!("{{address: 10.0.0.1, port: {port}}}")).collect();
    format!(
        "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec: {{ports: [{{port: 80, appProtocol: http}}], endpoints: [{}]}}\n",
        endpoints.join(", ")
    )
}

fn snapshot(services: &[String]) -> Arc<Snapshot> {
    let resources = load::Resources::parse("mesh.yaml", &services.join("---\n")).unwrap();
    Arc::new(Snapshot::build(&resources).unwrap())
}

fn index(services: &[String]) -> Index {
    let index = Index::new("mesh.lighter");
    index.set_snapshot(snapshot(services));
    index
}

fn port(name: &str) -> ServicePort {
    ServicePort { service: ServiceName::new("default", name), port: 80 }
}

fn registered(address: &str) -> EndpointSpec {
    let identity = "spiffe://mesh.lighter/ns/default/sa/a".into();
    let secure = Some(Secure { identity, link: None });
    EndpointSpec {
        address: address.parse().unwrap(),
        weight: 1,
        priority: 0,
        locality: Default::default(),
        secure,
        wires: None,
    }
}

fn listed(listed: Vec<EndpointSpec>) -> Registered {
    Registered { listed, ..Registered::default() }
}

fn message<M: Message + Default>(index: &Index, kind: Kind, name: &str) -> M {
    M::decode(&*index.get(kind, name).unwrap().message).unwrap()
}

/// The addresses of a port's endpoints.
fn endpoints(index: &Index, name: &str) -> usize {
    let assignment: ClusterLoadAssignment = message(index, Kind::Endpoints, name);
    assignment.endpoints.iter().map(|locality| locality.lb_endpoints.len()).sum()
}

fn names(change: &Change, kind: Kind) -> Vec<String> {
    let Change::Of(names) = change else { panic!("{change:?}") };
    names.iter().filter(|(of, _)| *of == kind).map(|(_, name)| name.to_string()).collect()
}

#[test]
fn a_port_is_there_under_each_of_its_names() {
    let index = index(&[service("a", &[1])]);
    for alias in ["a:80", "a.default:80", "a.default.svc.cluster.local:80", "a", "a.default"] {
        assert_eq!(message::<Listener>(&index, Kind::Listener, alias).name, alias);
        assert!(index.names(Kind::Listener).iter().any(|name| **name == *alias));
    }
    for name in ["a:81", "b:80", "a:080", ""] {
        assert_eq!(index.get(Kind::Listener, name), None, "{name}");
    }
    for kind in [Kind::Route, Kind::Cluster, Kind::Endpoints] {
        assert!(index.get(kind, "default/a:80").is_some());
        assert_eq!(index.get(kind, "default/b:80"), None);
        assert_eq!(index.names(kind), ["default/a:80".into()]);
    }
}

#[test]
fn a_change_concerns_its_service_and_is_made_anew_once() {
    let index = index(&[service("a", &[1]), service("b", &[2])]);
    let before = index.get(Kind::Endpoints, "default/a:80").unwrap();
    let other = index.get(Kind::Endpoints, "default/b:80").unwrap();
    let mut changes = index.changes();
    index.set_snapshot(snapshot(&[service("a", &[1, 3]), service("b", &[2])]));
    let change = changes.try_recv().unwrap().1;
    assert_eq!(names(&change, Kind::Endpoints), ["default/a:80"]);
    assert_eq!(names(&change, Kind::Service), ["default/a"]);
    assert_ne!(index.get(Kind::Endpoints, "default/a:80").unwrap().version, before.version);
    let kept = index.get(Kind::Endpoints, "default/b:80").unwrap();
    assert!(Arc::ptr_eq(&kept.message, &other.message), "what did not change was not made again");

    index.set_snapshot(snapshot(&[service("b", &[2]), service("a", &[1, 3])]));
    assert!(changes.try_recv().is_err(), "another order says the same");
    index.set_snapshot(snapshot(&[service("b", &[2])]));
    assert_eq!(names(&changes.try_recv().unwrap().1, Kind::Cluster), ["default/a:80"]);
    assert_eq!(index.get(Kind::Cluster, "default/a:80"), None);
}

#[test]
fn registered_endpoints_are_beside_those_of_the_resource() {
    let index = index(&[service("a", &[1])]);
    let mut changes = index.changes();
    assert_eq!(endpoints(&index, "default/a:80"), 1);
    index.set_registered(&port("a"), listed(vec![registered("10.0.0.2:1"), registered("10.0.0.1:1")]));
    assert_eq!(endpoints(&index, "default/a:80"), 2, "one that is in both is one");
    let change = changes.try_recv().unwrap().1;
    assert_eq!(names(&change, Kind::Endpoints), ["default/a:80"]);
    assert_eq!(names(&change, Kind::Address), ["10.0.0.1:1", "10.0.0.2:1"]);
    assert_eq!(names(&change, Kind::Cluster), Vec::<String>::new());
    index.set_registered(&port("a"), listed(vec![registered("10.0.0.2:1"), registered("10.0.0.1:1")]));
    assert!(changes.try_recv().is_err());
    index.set_registered(&port("a"), listed(Vec::new()));
    assert_eq!(endpoints(&index, "default/a:80"), 1);
}

#[test]
fn who_registers_before_the_service_is_there_is_found_when_it_comes() {
    let index = index(&[]);
    index.set_registered(&port("a"), listed(vec![registered("10.0.0.2:1")]));
    assert_eq!(index.get(Kind::Endpoints, "default/a:80"), None);
    let address: lighter::Address = message(&index, Kind::Address, "10.0.0.2:1");
    assert_eq!(address.service, "");
    let mut changes = index.changes();
    index.set_snapshot(snapshot(&[service("a", &[])]));
    assert_eq!(endpoints(&index, "default/a:80"), 1);
    assert!(names(&changes.try_recv().unwrap().1, Kind::Address).contains(&"10.0.0.2:1".to_owned()));
    let address: lighter::Address = message(&index, Kind::Address, "10.0.0.2:1");
    assert_eq!((&*address.service, address.port, address.endpoint), ("default/a", 80, true));
}

#[test]
fn nobody_takes_an_address_over_from_a_resource() {
    let index = index(&[service("a", &[]), service("b", &[1])]);
    index.set_registered(&port("a"), listed(vec![registered("10.0.0.1:1")]));
    let address: lighter::Address = message(&index, Kind::Address, "10.0.0.1:1");
    assert_eq!(address.service, "default/b");
}

#[test]
fn every_address_is_answered() {
    let index = index(&[service("a", &[1])]);
    let virtual_ip = index.snapshot().services[&ServiceName::new("default", "a")].virtual_ips.v4;
    let of = |key: &str| {
        let address: lighter::Address = message(&index, Kind::Address, key);
        assert_eq!(address.key, key);
        (address.service, address.port, address.endpoint)
    };
    assert_eq!(of("10.0.0.1:1"), ("default/a".into(), 80, true));
    assert_eq!(of(&format!("{virtual_ip}:80")), ("default/a".into(), 80, false));
    assert_eq!(of("dns:default/a"), ("default/a".into(), 0, false));
    for nobody in ["10.0.0.1:2", "dns:default/b", &format!("{virtual_ip}:81")] {
        assert_eq!(of(nobody), (String::new(), 0, false), "{nobody}");
    }
    assert_eq!(index.get(Kind::Address, "no address"), None);
    let kept = index.lock().encoded[Kind::Address as usize].len();
    assert_eq!(kept, 3, "what nobody has is not kept, or a client could fill the memory");
}

#[test]
fn who_may_call_reaches_the_workload_that_is_called() {
    let services = [service("a", &[1]), service("b", &[2])];
    let index = index(&services);
    let mut changes = index.changes();
    let policy = "apiVersion: mesh.lighter.dev/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\n\
                  spec: {targetRefs: [{kind: Service, name: a}], action: allow, rules: [{from: [{namespaces: [x]}]}]}\n";
    index.set_snapshot(snapshot(&[services[0].clone(), services[1].clone(), policy.into()]));
    assert_eq!(changes.try_recv().unwrap().1, Change::Of([(Kind::Workload, "default/a".into())].into()));
    let enforced: lighter::Workload = message(&index, Kind::Workload, "default/a");
    let port = &enforced.ports[0];
    assert_eq!((&*port.rules[0].policy, &*port.rules[0].action), ("default/p/0", "allow"));
    assert_eq!(
        (&port.rules[0].sources[0].namespaces, &port.allow),
        (&vec!["x".into()], &vec!["default/p".into()])
    );
    index.set_snapshot(snapshot(&services));
    let enforced: lighter::Workload = message(&index, Kind::Workload, "default/a");
    assert!(enforced.ports[0].rules.is_empty() && enforced.ports[0].allow.is_empty());
}

#[test]
fn what_holds_for_all_workloads_reaches_them_all() {
    let index = index(&[service("a", &[1])]);
    let mut changes = index.changes();
    let before: lighter::Workload = message(&index, Kind::Workload, "-/default");
    assert_eq!((&*before.trust_domain, &*before.outbound_policy), ("mesh.lighter", "passthrough"));
    let policy = "apiVersion: mesh.lighter.dev/v1\nkind: MeshPolicy\nmetadata: {name: mesh}\n\
                  spec: {outboundPolicy: registryOnly}\n";
    index.set_snapshot(snapshot(&[service("a", &[1]), policy.into()]));
    assert_eq!(changes.try_recv().unwrap().1, Change::Any);
    for name in ["-/default", "default/a", "default/unknown"] {
        let after: lighter::Workload = message(&index, Kind::Workload, name);
        assert_eq!((&*after.service, &*after.outbound_policy), (name, "registryOnly"));
    }
    assert_eq!(index.get(Kind::Workload, "-/No Namespace"), None);
    let policy = "apiVersion: mesh.lighter.dev/v1\nkind: LinkPolicy\nmetadata: {name: mesh}\n\
                  spec: {wires: {rdma: mustNot}}\n";
    index.set_snapshot(snapshot(&[service("a", &[1]), policy.into()]));
    assert_eq!(changes.try_recv().unwrap().1, Change::Any);
    let after: lighter::Workload = message(&index, Kind::Workload, "-/default");
    assert_eq!(after.links.unwrap().rdma, "mustNot");
}

#[test]
fn an_endpoint_of_the_resource_is_listed_while_it_is_well_and_its_instance_takes_traffic() {
    let index = index(&[service("a", &[1, 2])]);
    let mut changes = index.changes();
    let address = |port| SocketAddr::from(([10, 0, 0, 1], port));
    index.set_well(&port("a"), address(1), true);
    assert!(changes.try_recv().is_err(), "it is taken for well until something else is known");
    index.set_well(&port("a"), address(1), false);
    assert_eq!(names(&changes.try_recv().unwrap().1, Kind::Endpoints), ["default/a:80"]);
    assert_eq!((endpoints(&index, "default/a:80"), index.unwell()), (1, 1));
    let unlisted = BTreeSet::from([address(2)]);
    index.set_registered(&port("a"), Registered { unlisted, ..Registered::default() });
    assert_eq!(endpoints(&index, "default/a:80"), 0);
    index.set_well(&port("a"), address(1), true);
    index.set_registered(&port("a"), Registered::default());
    assert_eq!((endpoints(&index, "default/a:80"), index.unwell()), (2, 0));
}
