//! Whatever a pod is like: a sidecar is put in once, and leaves nothing behind.

use proptest::prelude::*;

use super::edit::{self, Outcome};
use super::wishes::{Defaults, KNOWN};
use super::yaml::{self, Node};
use crate::readme::{Table, same};

fn defaults() -> Defaults {
    Defaults { image: "lighter:1".into(), control: "control:15010".into(), namespace: "default".into() }
}

fn read(text: &str) -> Node {
    yaml::read(text).unwrap_or_else(|fault| panic!("{fault:?} in\n{text}")).remove(0).node
}

fn inject(node: &Node) -> (Node, Outcome) {
    let mut node = node.clone();
    let (_, outcome) = edit::inject(&mut node, &defaults()).remove(0);
    (node, outcome)
}

/// A pod with this in its `spec` beside one container that listens.
fn pod(spec: &str) -> Node {
    read(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: a}}, spec: {{containers: [{{name: a, ports: [{{containerPort: 80}}]}}], {spec}}}}}"
    ))
}

#[test]
fn every_annotation_is_in_the_readme() {
    let told = KNOWN.into_iter().filter(|name| ![edit::INJECTED, edit::SIDECAR].contains(name));
    same("annotations", Table::of("Kubernetes", "annotation").names(), told);
}

#[test]
fn what_cannot_have_a_sidecar_is_left_as_it_is() {
    for (spec, reason) in [
        ("hostNetwork: yes", "its host's network"),
        ("os: {name: windows}", "Windows"),
        ("initContainers: [{name: lighter-proxy}]", "the sidecar's name"),
    ] {
        let node = pod(spec);
        let (after, outcome) = inject(&node);
        assert!(matches!(outcome, Outcome::LeftOut(said) if said.contains(reason)), "{spec}: {outcome:?}");
        assert_eq!(after, node);
    }
    assert_eq!(inject(&pod("hostNetwork: false")).1, Outcome::Injected);
}

#[test]
fn fields_of_another_shape_are_refused() {
    for spec in ["volumes: {}", "initContainers: text"] {
        let node = pod(spec);
        let (after, outcome) = inject(&node);
        assert!(matches!(outcome, Outcome::Refused(_)), "{spec}: {outcome:?}");
        assert_eq!(after, node);
    }
}

#[test]
fn an_application_goes_on_for_a_while_unless_it_knows_better() {
    let hook = |node: &Node| {
        node.at(&["spec", "containers"]).unwrap().items()[0].at(&["lifecycle", "preStop"]).cloned()
    };
    let delayed = inject(&pod("")).0;
    assert_eq!(hook(&delayed).unwrap().json(), serde_json::json!({"sleep": {"seconds": 2}}));
    let hurried = inject(&pod("terminationGracePeriodSeconds: 3")).0;
    assert_eq!(hook(&hurried), None);
    assert_eq!(hurried.at(&["spec", "terminationGracePeriodSeconds"]).unwrap().number(), Some(3));
}

#[test]
fn a_record_that_is_lost_still_lets_the_sidecar_go() {
    let mut node = inject(&pod("")).0;
    let annotations = node.at_mut(&["metadata", "annotations"]).and_then(Node::fields_mut).unwrap();
    annotations.set("lighter.dev/injected", "by hand");
    edit::uninject(&mut node);
    assert!(!yaml::write(&node).contains("lighter"), "{}", yaml::write(&node));
}

#[test]
fn a_hook_that_was_put_in_place_of_ours_stays() {
    let mut node = inject(&pod("")).0;
    let lifecycle = "{preStop: {exec: {command: [a]}}}";
    let containers = node.at_mut(&["spec", "containers"]).and_then(Node::items_mut).unwrap();
    containers[0].fields_mut().unwrap().set("lifecycle", read(lifecycle));
    edit::uninject(&mut node);
    assert_eq!(node.at(&["spec", "containers"]).unwrap().items()[0].get("lifecycle"), Some(&read(lifecycle)));
}

/// Parts of a pod that matter to a sidecar, there or not.
fn pods() -> impl Strategy<Value = Node> {
    let metadata = prop_oneof![
        Just(""),
        Just("  metadata: {}\n"),
        Just("  metadata: {labels: {app: web}}\n"),
        Just("  metadata: {annotations: {}}\n"),
        Just("  metadata: {annotations: {other: x, lighter.dev/service: web}}\n"),
        Just(
            "  metadata: {annotations: {lighter.dev/drain-deadline: 50s, lighter.dev/app-stop-delay: 0s}}\n"
        ),
        Just("  metadata: {annotations: {lighter.dev/intercept: 'false'}}\n"),
    ];
    let volumes = prop_oneof![
        Just(""),
        Just("    volumes: []\n"),
        Just("    volumes: [{name: lighter-own, emptyDir: {}}, {name: data, emptyDir: {}}]\n"),
    ];
    let init = prop_oneof![
        Just(""),
        Just("    initContainers: []\n"),
        Just("    initContainers: [{name: first}, {name: second, restartPolicy: Always}]\n"),
    ];
    let grace = prop_oneof![
        Just(String::new()),
        (0..90u8).prop_map(|grace| format!("    terminationGracePeriodSeconds: {grace}\n"))
    ];
    let container = prop_oneof![
        Just("{name: web, ports: [{containerPort: 80}]}"),
        Just(
            "{name: web, ports: [{containerPort: 80, name: http}], lifecycle: {}, readinessProbe: {httpGet: {port: http}}}"
        ),
        Just("{name: web, ports: [{containerPort: 80}], lifecycle: {preStop: {exec: {command: [a]}}}}"),
        Just("{name: web, lifecycle: {postStart: {exec: {command: [a]}}}}"),
    ];
    (metadata, volumes, init, grace, prop::collection::vec(container, 1..3)).prop_map(|(metadata, volumes, init, grace, containers)| {
        let containers: String =
            containers.iter().enumerate().map(|(at, one)| format!("    - {}\n", one.replace("web", &format!("web{at}")))).collect();
        read(&format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec:\n template:\n{metadata}  spec:\n{volumes}    containers:\n{containers}{grace}{init}"
        ))
    })
}

proptest! {
    #[test]
    fn twice_is_once_and_undone_is_as_before(node in pods()) {
        let (once, outcome) = inject(&node);
        prop_assert_eq!(outcome, Outcome::Injected);
        prop_assert_eq!(&inject(&once).0, &once);
        // Also by way of text.
        let mut undone = read(&yaml::write(&once));
        edit::uninject(&mut undone);
        prop_assert_eq!(undone, node);
    }
}
