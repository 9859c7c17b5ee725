//! The commands as a person meets them.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use libtest_mimic::Trial;

use crate::support::sidecar::LIGHTER;
use crate::support::test;

pub fn tests() -> Vec<Trial> {
    vec![
        test("command::what_has_no_pods_passes_byte_for_byte", what_has_no_pods_passes_byte_for_byte),
        test("command::several_files_are_one_stream", several_files_are_one_stream),
        test("command::a_fault_is_told_in_its_place_and_nothing_is_written", a_fault_is_told_in_its_place),
        test("command::what_is_left_out_is_told_with_its_reason", what_is_left_out_is_told),
        test("command::a_patch_is_for_each_document", a_patch_is_for_each_document),
        test("command::json_is_taken_as_well", json_is_taken_as_well),
    ]
}

/// A manifest of this suite, or of the examples where there is none.
pub fn manifest(name: &str) -> PathBuf {
    let folders = ["tests/inject/manifests", "examples/kubernetes"];
    let file = |folder| PathBuf::from(format!("{}/../{folder}/{name}.yaml", env!("CARGO_MANIFEST_DIR")));
    folders.map(file).into_iter().find(|file| file.exists()).unwrap_or_else(|| panic!("there is no {name}"))
}

/// Runs `lighter` with `input` as its standard input.
pub fn lighter(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(LIGHTER);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

/// What it writes, where it succeeds.
pub fn written(arguments: &[&str], input: &str) -> String {
    let output = lighter(arguments, input);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn what_has_no_pods_passes_byte_for_byte() {
    let text = "# A comment.\napiVersion: v1\nkind: ConfigMap\nmetadata: {name:   odd}\ndata: {yes: 'no', n: \"1\"} # end\n\
                ---\n# Nothing.\n---\napiVersion: example.org/v1\nkind: Deployment\nspec: {template: {spec: {}}}\n...\n";
    for command in ["inject", "uninject"] {
        assert_eq!(written(&[command, "-f", "-"], text), text);
    }
    let left_out = std::fs::read_to_string(manifest("left-out")).unwrap();
    assert_eq!(written(&["inject", "-f", "-"], &left_out), left_out);
}

fn several_files_are_one_stream() {
    let (web, pod) = (manifest("web"), manifest("pod"));
    let text = written(&["inject", "-f", web.to_str().unwrap(), "-f", pod.to_str().unwrap()], "");
    assert_eq!(text.matches("\n---\n").count(), 1, "{text}");
    assert!(text.starts_with("# A web server with probes"), "{text}");
    assert_eq!(text.matches("restartPolicy: Always").count(), 2, "{text}");
}

fn a_fault_is_told_in_its_place() {
    let pod = |annotation: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: a, annotations: {{{annotation}}}}}\nspec: {{containers: [{{name: a, ports: [{{containerPort: 80}}]}}]}}\n"
        )
    };
    for (annotation, said) in [
        ("lighter.dev/skip-inbound-port: '1'", "lighter.dev/skip-inbound-port: there is no such annotation"),
        ("lighter.dev/skip-inbound-ports: '1,x'", "intercept.excludeInboundPorts[1]"),
        ("lighter.dev/skip-outbound-ranges: '10.0.0.0/33'", "intercept.excludeCidrs[0]"),
        ("lighter.dev/workers: '0'", "workers"),
        ("lighter.dev/control: nowhere", "control.address"),
        ("lighter.dev/service: Not_A_Name", "service"),
        ("lighter.dev/memory: lots", "`lots` is no quantity"),
        ("lighter.dev/intercept: 'no'", "neither `true` nor `false`"),
        ("lighter.dev/drain-deadline: 100ms", "whole seconds"),
        ("lighter.dev/token-secret: a, lighter.dev/identity-secret: b", "one identity too many"),
    ] {
        let output = lighter(&["inject", "-f", "-"], &(pod("") + &pod(annotation)));
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{annotation}: {told}");
        assert!(output.stdout.is_empty(), "{annotation}");
        assert!(
            told.contains(said) && told.contains("Pod default/a") && told.contains("-:6"),
            "{annotation}: {told}"
        );
    }
    let taken = pod("").replace("containerPort: 80", "containerPort: 15021");
    let told = String::from_utf8(lighter(&["inject", "-f", "-"], &taken).stderr).unwrap();
    assert!(told.contains("containerPort 15021 is one of the sidecar's own"), "{told}");
    let output = lighter(&["inject", "-f", "-"], "a: 1\nb: [\n");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("-:"), "{output:?}");
}

fn what_is_left_out_is_told() {
    let output = lighter(&["inject", "-f", manifest("left-out").to_str().unwrap()], "");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("Deployment default/legacy: left out: its annotation says so"), "{told}");
    assert!(told.contains("DaemonSet default/node-agent: left out: it is in its host's network"), "{told}");
    let foreign =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: lighter-proxy}]}\n";
    let output = lighter(&["inject", "-n", "shop", "-f", "-"], foreign);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), foreign);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("Pod shop/a: left out: it has a container of the sidecar's name"), "{told}");
    // Who opts out later has the sidecar taken out by the same command.
    let injected = written(&["inject", "-f", manifest("pod").to_str().unwrap()], "");
    let out = injected.replace("lighter.dev/log:", "lighter.dev/inject: \"false\"\n    lighter.dev/log:");
    assert!(!written(&["inject", "-f", "-"], &out).contains("lighter-proxy"), "{out}");
}

fn a_patch_is_for_each_document() {
    let patches = written(&["inject", "--patch", "-f", manifest("chart").to_str().unwrap()], "");
    let lengths: Vec<usize> = patches
        .lines()
        .map(|line| serde_json::from_str::<Vec<serde_json::Value>>(line).unwrap().len())
        .collect();
    assert_eq!(lengths.len(), 4, "{patches}");
    assert!(lengths[0] == 0 && lengths[1] == 0 && lengths[2] > 0 && lengths[3] > 0, "{patches}");
}

fn json_is_taken_as_well() {
    let json = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "annotations": {"face": "\ud83d\ude00"}},
        "spec": {"containers": [{"name": "a", "image": "a:1"}]}}"#;
    let text = written(&["inject", "-f", "-"], json);
    assert!(
        text.starts_with("apiVersion: v1\nkind: Pod\n") && text.contains("face: \"\u{1f600}\""),
        "{text}"
    );
    assert_eq!(written(&["inject", "-f", "-"], &text), text);
}
