//! A mesh that changes step by step is what it would be if everything were read at once: the same snapshot, or the same
//! faults.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lighter_config::build::{Mesh, Origin};
use lighter_config::error::ConfigErrors;
use lighter_config::load::Resources;
use lighter_config::manifest::{Key, Manifest};
use lighter_config::snapshot::Snapshot;
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::strategy::ValueTree;
use serde_json::Value;

/// What happens to a control plane.
#[derive(Clone, Debug)]
enum Step {
    /// Documents are pushed.
    Push(Vec<String>),
    /// Some of the stored resources are deleted.
    Delete(Vec<Index>),
    /// The files say this now.
    Files(Vec<String>),
}

/// What a control plane keeps, and the mesh that it keeps beside, changed step by step.
struct World {
    files: Vec<String>,
    stored: BTreeMap<Key, Value>,
    mesh: Mesh,
    /// How many steps were sound, and how many were not.
    taken: usize,
    refused: usize,
}

impl World {
    /// With some Services, to which something can refer.
    fn new() -> Self {
        let mut world =
            World { files: Vec::new(), stored: BTreeMap::new(), mesh: Mesh::default(), taken: 0, refused: 0 };
        let web = |name: &&str| document(OURS, "Service", name, "{ports: [{port: 80, appProtocol: http}]}");
        world.step(&Step::Push(SERVICES[..4].iter().map(web).collect()));
        let function = document(OURS, "Function", "f", "{state: stateless}");
        let device = document(OURS, "Device", "d", "{class: csd, service: {name: gvs}, functions: [f]}");
        let route = "{parentRefs: [{kind: Service, name: gvs}], rules: [{backendRefs: [{name: odb}]}]}";
        world.step(&Step::Push(vec![function, device, document(GATEWAY, "HTTPRoute", "x", route)]));
        world
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Push(documents) => {
                // A document can be so faulty that nothing is asked of the mesh.
                let Ok(pushed) = Manifest::parse("pushed.yaml", &documents.concat(), "default") else {
                    return;
                };
                let keys: BTreeSet<Key> = pushed.iter().map(|one| one.key().clone()).collect();
                let mut kept = self.stored.clone();
                kept.retain(|key, _| !keys.contains(key));
                self.change(&self.files.clone(), kept, pushed);
            }
            Step::Delete(which) => {
                let mut kept = self.stored.clone();
                for index in which.iter().filter(|_| !self.stored.is_empty()) {
                    kept.remove(self.stored.keys().nth(index.index(self.stored.len())).unwrap());
                }
                self.change(&self.files.clone(), kept, Vec::new());
            }
            Step::Files(documents) => self.change(documents, self.stored.clone(), Vec::new()),
        }
    }

    /// Makes a change in both ways, and takes it if it is sound.
    fn change(&mut self, files: &[String], kept: BTreeMap<Key, Value>, pushed: Vec<Manifest>) {
        let Ok(of_files) = Resources::parse("files.yaml", &files.concat()) else { return };
        let Ok(of_push) = Resources::of(pushed.iter().cloned()) else { return };
        let mut next = self.mesh.clone();
        for key in self.stored.keys().filter(|key| !kept.contains_key(*key)) {
            next.remove(key);
        }
        if *files != self.files {
            next.remove_files();
            next.put(&of_files, Origin::Files);
        }
        next.put(&of_push, Origin::Push);
        let changed = next.judge();
        same(&changed, &at_once(&of_files, &kept, &of_push));
        if changed.is_err() {
            self.refused += 1;
            return;
        }
        self.taken += 1;
        let keys: Vec<Key> = pushed.iter().map(|one| one.key().clone()).collect();
        let snapshot = next.keep(&keys, &Arc::from(STORE));
        self.files = files.to_vec();
        self.stored = kept;
        self.stored.extend(pushed.iter().map(|one| (one.key().clone(), one.value().clone())));
        self.mesh = next;
        same(&Ok(snapshot), &at_once(&of_files, &self.stored, &Resources::default()));
    }
}

type Judged = Result<Arc<Snapshot>, ConfigErrors>;

/// What everything there is makes of a mesh of nothing.
fn at_once(files: &Resources, stored: &BTreeMap<Key, Value>, pushed: &Resources) -> Judged {
    let origin = Arc::from(STORE);
    let stored = stored.values().map(|value| Manifest::of_value(&origin, value.clone()).unwrap());
    let mut mesh = Mesh::default();
    mesh.put(files, Origin::Files);
    mesh.put(&Resources::of(stored).unwrap(), Origin::Store);
    mesh.put(pushed, Origin::Push);
    mesh.judge()
}

fn same(one: &Judged, two: &Judged) {
    match (one, two) {
        (Ok(one), Ok(two)) => {
            assert_eq!(one.services, two.services);
            assert_eq!(one.authorization, two.authorization);
            assert_eq!((one.outbound_policy, one.mtls), (two.outbound_policy, two.mtls));
            assert_eq!(one.warnings, two.warnings);
            assert_eq!(one.version, two.version);
        }
        (one, two) => assert_eq!(one.as_ref().err(), two.as_ref().err()),
    }
}

const STORE: &str = "the store";

fn document(api: &str, kind: &str, name: &str, spec: &str) -> String {
    format!("---\n{{apiVersion: {api}, kind: {kind}, metadata: {{name: {name}}}, spec: {spec}}}\n")
}

const OURS: &str = "mesh.lighter.dev/v1";
const GATEWAY: &str = "gateway.networking.k8s.io/v1";

/// Names are few, so that resources meet. The first four wish for one virtual address by their hashes, the fifth for the next
/// one, and the last is close to the first for who guesses what was meant.
const SERVICES: [&str; 6] = ["gvs", "odb", "uql", "vxf", "wuz", "gvss"];

fn service_name() -> impl Strategy<Value = &'static str> {
    select(&SERVICES[..])
}

fn name() -> impl Strategy<Value = &'static str> {
    select(vec!["x", "y", "z"])
}

fn service() -> impl Strategy<Value = String> {
    let ports = select(vec![
        "{port: 80}",
        "{port: 80, appProtocol: http}",
        "{port: 80, appProtocol: grpc}",
        "{port: 80, appProtocol: tcp}",
        "{name: web, port: 80, appProtocol: http}, {name: db, port: 81, appProtocol: tcp}",
        "{name: web, port: 81, appProtocol: http}, {name: db, port: 80, appProtocol: tcp}",
        "{name: web, port: 80}, {name: rpc, port: 81, targetPort: 80}",
        "{name: web, port: 80, appProtocol: http}, {name: rpc, port: 81, appProtocol: grpc}",
        "{port: 0}",
    ]);
    let probe = weighted(0.2, Just("probe: {tcp: {}}"));
    (service_name(), ports, 1u8..4, probe).prop_map(|(name, ports, host, probe)| {
        let probe = probe.map(|probe| format!(", {probe}")).unwrap_or_default();
        let spec = format!("{{ports: [{ports}], endpoints: [{{address: 10.0.0.{host}}}]{probe}}}");
        document(OURS, "Service", name, &spec)
    })
}

/// A reference with a port, if that is to be said.
fn reference() -> impl Strategy<Value = String> {
    (service_name(), weighted(0.4, select(vec![80, 81]))).prop_map(|(name, port)| {
        let port = port.map(|port| format!(", port: {port}")).unwrap_or_default();
        format!("{{kind: Service, name: {name}{port}}}")
    })
}

fn route() -> impl Strategy<Value = String> {
    let kind = select(vec![("HTTPRoute", GATEWAY), ("GRPCRoute", GATEWAY), ("TCPRoute", GATEWAY)]);
    let section = weighted(0.2, select(vec!["web", "db"]));
    let created = weighted(0.3, select(vec!["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "yesterday"]));
    (kind, name(), reference(), section, vec((reference(), 0u8..3), 0..3), created).prop_map(
        |((kind, api), name, parent, section, backends, created)| {
            let section = section.map(|section| format!(", sectionName: {section}}}"));
            let parent =
                section.map_or(parent.clone(), |section| parent.trim_end_matches('}').to_owned() + &section);
            let weighed = |(backend, weight): &(String, u8)| {
                format!("{}, weight: {weight}}}", backend.trim_end_matches('}'))
            };
            let backends: Vec<String> = backends.iter().map(weighed).collect();
            let spec =
                format!("{{parentRefs: [{parent}], rules: [{{backendRefs: [{}]}}]}}", backends.join(", "));
            let document = document(api, kind, name, &spec);
            match created {
                Some(created) => document.replace(
                    &format!("metadata: {{name: {name}}}"),
                    &format!("metadata: {{name: {name}, creationTimestamp: '{created}'}}"),
                ),
                None => document,
            }
        },
    )
}

fn policy() -> impl Strategy<Value = String> {
    let traffic = (name(), vec(reference(), 1..3), select(vec!["1s", "2s", "0s"])).prop_map(
        |(name, targets, timeout)| {
            let spec = format!("{{targetRefs: [{}], connectTimeout: {timeout}}}", targets.join(", "));
            document(OURS, "TrafficPolicy", name, &spec)
        },
    );
    let said = vec(
        select(vec![
            "mtls: strict",
            "mtls: permissive",
            "outboundPolicy: registryOnly",
            "outboundPolicy: passthrough",
        ]),
        1..2,
    );
    let mesh = (name(), vec(reference(), 0..3), said).prop_map(|(name, targets, said)| {
        let spec = format!("{{targetRefs: [{}], {}}}", targets.join(", "), said.join(", "));
        document(OURS, "MeshPolicy", name, &spec)
    });
    let said = select(vec![
        "wires: {shm: mustNot}",
        "wires: {shm: should}, ringBytes: 65536",
        "devices: [rxe0]",
        "ringBytes: 1",
    ]);
    let link = (name(), vec(reference(), 0..3), said).prop_map(|(name, targets, said)| {
        document(OURS, "LinkPolicy", name, &format!("{{targetRefs: [{}], {said}}}", targets.join(", ")))
    });
    let rules = select(vec!["", "{from: [{namespaces: [n]}]}", "{to: [{methods: [GET]}]}", "{from: [{}]}"]);
    let words = select(vec!["action: allow", "action: deny", "mode: audit"]);
    let authorization =
        (name(), vec(reference(), 1..3), rules, words).prop_map(|(name, targets, rules, words)| {
            let spec = format!("{{targetRefs: [{}], {words}, rules: [{rules}]}}", targets.join(", "));
            document(OURS, "AuthorizationPolicy", name, &spec)
        });
    prop_oneof![traffic, mesh, link, authorization]
}

/// Devices, Functions, and policies that name them.
fn offload() -> impl Strategy<Value = String> {
    let state =
        select(vec!["stateless", "stateless, time: 2ms", "stateless, time: 25h", "readOnly", "stateful"]);
    let function = (select(vec!["f", "g"]), state)
        .prop_map(|(name, state)| document(OURS, "Function", name, &format!("{{state: {state}}}")));
    let place = |usual, other| prop_oneof![5 => Just(usual), 1 => Just(other)];
    let factor = select(vec!["1", "2", "3", "4", "0"]);
    let device = (place("d", "e"), reference(), factor.clone()).prop_map(|(name, service, factor)| {
        let service = service.replace("kind: Service, ", "");
        let spec = format!("{{class: csd, service: {service}, functions: [f], computeFactor: {factor}}}");
        document(OURS, "Device", name, &spec)
    });
    let host = (place("e", "d"), factor).prop_map(|(name, factor)| {
        document(OURS, "Device", name, &format!("{{class: host, computeFactor: {factor}}}"))
    });
    let more = select(vec![
        "",
        "",
        "objective: energy",
        "host: e",
        "dataset: {name: t, version: '1', bytes: 1}",
        "marginPercent: 200",
    ]);
    let rule = select(vec!["", "", ", sectionName: '0'", ", sectionName: '0'", ", sectionName: '1'"]);
    let kind = prop_oneof![5 => Just("HTTPRoute"), 1 => Just("GRPCRoute")];
    let route = (kind, prop_oneof![5 => Just("x"), 1 => name()], rule);
    let routes = prop_oneof![5 => vec(route.clone(), 1), 1 => vec(route, 2)];
    let function_name = prop_oneof![5 => Just("f"), 1 => Just("g")];
    let policy = (name(), routes, function_name, place("d", "e"), more).prop_map(
        |(name, routes, function, device, more)| {
            let target = |(kind, route, rule): &(&str, &str, &str)| {
                format!("{{group: gateway.networking.k8s.io, kind: {kind}, name: {route}{rule}}}")
            };
            let targets: Vec<String> = routes.iter().map(target).collect();
            let targets = targets.join(", ");
            let spec =
                format!("{{targetRefs: [{targets}], function: {function}, devices: [{device}], {more}}}");
            document(OURS, "OffloadPolicy", name, &spec)
        },
    );
    prop_oneof![1 => function, 2 => device, 1 => host, 4 => policy]
}

fn any_document() -> impl Strategy<Value = String> {
    prop_oneof![4 => service(), 3 => route(), 3 => policy(), 3 => offload()]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => vec(any_document(), 1..3).prop_map(Step::Push),
        2 => vec(policy(), 2..4).prop_map(Step::Push),
        4 => offload().prop_map(|document| Step::Push(vec![document])),
        2 => vec(any::<Index>(), 1..3).prop_map(Step::Delete),
        1 => vec(any_document(), 0..4).prop_map(Step::Files),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn step_by_step_comes_to_the_same_as_at_once(steps in vec(step(), 1..60)) {
        let mut world = World::new();
        steps.iter().for_each(|step| world.step(step));
    }
}

#[test]
fn of_two_that_contradict_each_other_the_later_is_at_fault_whatever_they_are_called() {
    let policy = |name: &str| {
        let spec = "{targetRefs: [{kind: Service, name: gvs}], connectTimeout: 1s}";
        Manifest::parse("pushed.yaml", &document(OURS, "TrafficPolicy", name, spec), "default").unwrap()
    };
    let world = World::new();
    let at_fault = |first: &str, second: &str| {
        let mut mesh = world.mesh.clone();
        let pushed = Resources::of(policy(first).into_iter().chain(policy(second))).unwrap();
        mesh.put(&pushed, Origin::Push);
        mesh.judge().unwrap_err().errors[0].resource.clone().unwrap()
    };
    assert_eq!(at_fault("x", "y"), "TrafficPolicy default/y");
    assert_eq!(at_fault("y", "x"), "TrafficPolicy default/x");
}

/// A property about steps that are all refused, or all taken, would say little.
#[test]
fn the_steps_above_are_taken_and_refused() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut taken, mut refused, mut most, mut offloaded) = (0, 0, 0, 0);
    for _ in 0..8 {
        let steps = vec(step(), 60).new_tree(&mut runner).unwrap().current();
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            offloaded += world.stored.keys().filter(|key| &*key.kind == "OffloadPolicy").count();
        }
        (taken, refused, most) = (taken + world.taken, refused + world.refused, most.max(world.stored.len()));
    }
    assert!(taken > 50 && refused > 50 && most > 8, "{taken} taken, {refused} refused, {most} stored");
    assert!(offloaded > 50, "an OffloadPolicy was there after {offloaded} steps");
}
