//! Where requests may run beside backends.

use std::time::Duration;

use prost_types::value::Kind as ValueKind;
use prost_types::{ListValue, Struct, Value};

use super::*;
use crate::snapshot::{
    Objective, Offload, OffloadDataset, OffloadDevice, OffloadFunction, PlaceProfile, RouteTable,
};
use crate::xds::encode::OFFLOAD;

fn offload() -> Offload {
    Offload {
        policy: "default/scans".into(),
        objective: Objective::Energy,
        slo: Duration::from_millis(100),
        miss_share: 0.01,
        window: Duration::from_secs(1),
        try_timeout: Some(Duration::from_millis(50)),
        margin: 0.1,
        explore_share: 0.02,
        function: OffloadFunction {
            name: "scan".into(),
            seconds: 0.001,
            seconds_per_byte: 2e-9,
            out_share: 0.01,
        },
        dataset: Some(OffloadDataset { name: "orders".into(), version: "7".into(), bytes: u64::MAX }),
        host: PlaceProfile::HOST,
        devices: vec![
            OffloadDevice {
                name: "default/csd-1".into(),
                target: names::of_cluster("default/near:80"),
                profile: PlaceProfile { link_bytes_per_second: u64::MAX as f64, ..PlaceProfile::DEVICE },
                has_function: true,
                dataset: Some("7".into()),
            },
            OffloadDevice {
                name: "default/csd-2".into(),
                target: names::of_cluster("another"),
                profile: PlaceProfile::DEVICE,
                has_function: false,
                dataset: None,
            },
        ],
    }
}

/// The route of a port of which this is said, as its control plane sends it.
fn message() -> wire::Route {
    let target = names::of_cluster("default/web:80");
    let mut table = RouteTable::single(&target);
    table.routes[0].offload = Some(Arc::new(offload()));
    let port = crate::snapshot::Port {
        key: target.clone(),
        name: None,
        protocol: crate::snapshot::Protocol::Http,
        target_port: 80,
        routes: table,
        tcp: Vec::new(),
        tcp_route: "default".into(),
        endpoints: Vec::new(),
        policy: Default::default(),
        mtls: Default::default(),
        guards: Vec::new(),
    };
    encode::route_configuration(&port).virtual_hosts.remove(0).routes.remove(0)
}

fn ours(route: &mut wire::Route) -> &mut Struct {
    route.metadata.as_mut().unwrap().filter_metadata.get_mut(OFFLOAD).unwrap()
}

/// What lies at the end of a way through mappings and lists.
fn at<'s>(from: &'s mut Struct, way: &str) -> (&'s mut Struct, String) {
    let Some((first, rest)) = way.split_once('.') else { return (from, way.to_string()) };
    let next = match from.fields.get_mut(first).unwrap().kind.as_mut().unwrap() {
        ValueKind::StructValue(inner) => inner,
        ValueKind::ListValue(list) => match list.values[0].kind.as_mut().unwrap() {
            ValueKind::StructValue(inner) => inner,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    at(next, rest)
}

fn value(kind: ValueKind) -> Value {
    Value { kind: Some(kind) }
}

#[test]
fn what_is_said_of_devices_is_read_as_it_was_meant() {
    let routes = read_table(vec![message()]).unwrap();
    assert_eq!(routes.hosts[0].table.routes[0].offload.as_deref(), Some(&offload()));
    let clusters: Vec<_> = routes.clusters().iter().map(ToString::to_string).collect();
    assert_eq!(clusters, ["another", "default/near:80", "default/web:80"]);
}

#[test]
fn metadata_of_others_says_nothing() {
    let mut route = message();
    let said = std::mem::take(ours(&mut route));
    route.metadata =
        Some(core::Metadata { filter_metadata: [("istio".to_string(), said)].into_iter().collect() });
    for route in [route, simple("/", "a")] {
        assert_eq!(read_table(vec![route]).unwrap().hosts[0].table.routes[0].offload, None);
    }
}

#[test]
fn every_part_of_it_must_be_there_and_nothing_else() {
    let optional = ["dataset", "try_timeout_ms", "devices.dataset_version"];
    let mut ways = Vec::new();
    fn collect(of: &Struct, front: &str, ways: &mut Vec<String>) {
        for (name, value) in &of.fields {
            ways.push(format!("{front}{name}"));
            let inner = match value.kind.as_ref().unwrap() {
                ValueKind::StructValue(inner) => inner,
                ValueKind::ListValue(list) => match list.values[0].kind.as_ref().unwrap() {
                    ValueKind::StructValue(inner) => inner,
                    other => panic!("{other:?}"),
                },
                _ => continue,
            };
            collect(inner, &format!("{front}{name}."), ways);
        }
    }
    collect(ours(&mut message()), "", &mut ways);
    assert_eq!(ways.len(), 12 + 4 + 3 + 7 + 5 + 7);
    let front = format!("r: virtual_hosts[0].routes[0].metadata.filter_metadata.{OFFLOAD}");
    for way in &ways {
        let place = format!("{front}.{}", way.replace("devices.", "devices[0]."));
        let with = |change: &dyn Fn(&mut Struct, String)| {
            let mut route = message();
            let (of, name) = at(ours(&mut route), way);
            change(of, name);
            read_table(vec![route])
        };
        let gone = with(&|of, name| drop(of.fields.remove(&name)));
        match optional.contains(&way.as_str()) {
            true => assert!(gone.is_ok(), "{way}"),
            false => assert_eq!(refused(gone), format!("{place}: missing")),
        }
        let empty = with(&|of, name| drop(of.fields.insert(name, Value { kind: None })));
        assert!(refused(empty).starts_with(&place), "{way}");
        let null = with(&|of, name| drop(of.fields.insert(name, value(ValueKind::NullValue(0)))));
        assert!(refused(null).starts_with(&place), "{way}");
        let more = with(&|of, _| drop(of.fields.insert("more".into(), value(ValueKind::BoolValue(true)))));
        assert!(refused(more).ends_with(".more: not known"), "{way}");
    }
}

#[test]
fn what_is_out_of_range_is_refused() {
    let text = |text: &str| value(ValueKind::StringValue(text.to_string()));
    let number = |number: f64| value(ValueKind::NumberValue(number));
    let list = |count: usize| {
        let Some(Value { kind: Some(ValueKind::ListValue(list)) }) =
            ours(&mut message()).fields.remove("devices")
        else {
            panic!("no devices")
        };
        let values = std::iter::repeat_n(list.values[0].clone(), count).collect();
        value(ValueKind::ListValue(ListValue { values }))
    };
    let mut cases = vec![
        ("policy", text("scans")),
        ("policy", text("default/a b")),
        ("objective", text("speed")),
        ("slo_ms", text("0")),
        ("slo_ms", text("86400001")),
        ("slo_ms", text("1.5")),
        ("slo_ms", number(1.0)),
        ("try_timeout_ms", text("-1")),
        ("window_ms", text("18446744073709551616")),
        ("miss_share", number(0.0)),
        ("margin", number(1.5)),
        ("explore_share", text("0.1")),
        ("function.name", text("a/b")),
        ("dataset.bytes", text("0")),
        ("dataset.version", text("")),
        ("devices.dataset_version", text("7@8")),
        ("devices.cluster", text("")),
        ("devices.has_function", text("true")),
        ("devices.profile.slots", text("0")),
        ("devices.profile.slots", text("4294967296")),
        ("host.compute_factor", number(0.0)),
        ("devices", list(0)),
        ("devices", list(2)),
        ("devices", list(33)),
    ];
    let numbers = [
        "miss_share",
        "margin",
        "explore_share",
        "function.seconds",
        "function.seconds_per_byte",
        "function.out_share",
        "host.compute_factor",
        "host.link_bytes_per_second",
        "devices.profile.data_bytes_per_second",
        "devices.profile.busy_watts",
        "devices.profile.joules_per_byte",
    ];
    for way in numbers {
        for unfit in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0] {
            cases.push((way, number(unfit)));
        }
    }
    for (way, said) in cases {
        let mut route = message();
        let (of, name) = at(ours(&mut route), way);
        of.fields.insert(name, said.clone());
        let place = way.replace("devices.", "devices[0].");
        let found = refused(read_table(vec![route]));
        assert!(found.contains(&format!("{OFFLOAD}.{place}")), "{way} {said:?}: {found}");
    }
}
