//! The admission webhook of a control plane that runs, asked by curl as an API server asks: over TLS, by a certificate that
//! it pins.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use libtest_mimic::Trial;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::command::written;
use crate::manifests::SCHEMAS;
use crate::support::metrics::Metrics;
use crate::support::process::{Program, find, free_address, listens, python};
use crate::support::sidecar::LIGHTER;
use crate::support::test_where;

pub fn tests() -> Vec<Trial> {
    vec![
        test_where("webhook::a_new_pod_is_let_in_with_a_sidecar", a_new_pod_is_let_in_with_a_sidecar),
        test_where("webhook::what_opts_out_and_what_has_no_pods_passes", what_passes),
        test_where("webhook::faulty_annotations_keep_a_pod_out", faulty_annotations_keep_a_pod_out),
        test_where("webhook::what_is_no_review_is_refused_and_counted", what_is_no_review_is_refused),
        test_where("webhook::a_certificate_is_read_again_when_it_changes", a_certificate_is_read_again),
    ]
}

/// `lighter control` with a webhook.
struct Plane {
    _program: Program,
    api: SocketAddr,
    webhook: SocketAddr,
    folder: TempDir,
    curl: PathBuf,
}

impl Plane {
    /// `more` is more of what its file says of the webhook.
    fn start(more: &str) -> Result<Self, String> {
        let curl = find("curl")?;
        let folder = tempfile::tempdir().unwrap();
        let (ads, api, webhook) = (free_address(), free_address(), free_address());
        let file = folder.path().join("control.yaml");
        let own = format!("ads: {ads}\napi: {api}\nstate: state\nwebhook: {{listen: '{webhook}'{more}}}\n");
        std::fs::write(&file, own).unwrap();
        let mut command = Command::new(LIGHTER);
        command.args(["control", "--config"]).arg(file);
        let mut program = Program::start(command, folder.path());
        program.wait_until("it listens", || listens(ads) && listens(webhook));
        Ok(Plane { _program: program, api, webhook, folder, curl })
    }

    /// Sends `body`, and returns the status and what came back. The webhook is called as its Service is.
    fn post(&self, ca: &str, body: &str) -> (u16, String) {
        let mut command = Command::new(&self.curl);
        command.args([
            "-sS",
            "--noproxy",
            "*",
            "-w",
            "\n%{http_code}",
            "-H",
            "content-type: application/json",
        ]);
        command.args(["--connect-to", &format!("{NAME}:443:{}", self.webhook), "--cacert"]);
        std::fs::write(self.folder.path().join("body"), body).unwrap();
        command.arg(self.folder.path().join(ca)).arg("--data-binary");
        command.arg(format!("@{}", self.folder.path().join("body").display()));
        let output = command.arg(format!("https://{NAME}/inject")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8(output.stdout).unwrap();
        let (body, status) = said.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), body.to_owned())
    }

    /// What is answered to a review of `object`.
    fn review(&self, object: &Value, change: Value) -> Value {
        let kind = json!({"group": "", "version": "v1", "kind": object["kind"]});
        let mut request = json!({
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "kind": kind, "namespace": "shop", "operation": "CREATE",
            "userInfo": {"username": "admin"}, "object": object, "oldObject": null, "dryRun": false,
            "options": {"apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions"},
        });
        request.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let review =
            json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request});
        let (status, answer) = self.post("state/webhook.pem", &review.to_string());
        assert_eq!(status, 200, "{answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!((&answer["apiVersion"], &answer["kind"]), (&review["apiVersion"], &review["kind"]));
        assert_eq!(answer["response"]["uid"], request["uid"]);
        answer["response"].clone()
    }

    fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let mut command = Command::new(&self.curl);
        command.args(["-sS", "--noproxy", "*", "--cacert"]).arg(self.folder.path().join("state/api.pem"));
        let output = command.arg(format!("https://{}/metrics", self.api)).output().unwrap();
        Metrics::parse(&String::from_utf8(output.stdout).unwrap()).sum(name, labels)
    }

    fn reviews(&self, outcome: &str) -> f64 {
        self.metric("lighter_control_reviews_total", &[("outcome", outcome)])
    }
}

const NAME: &str = "lighter-control.lighter.svc";
const NAMES: &str = ", names: [lighter-control.lighter.svc], image: 'lighter:7'";

/// A pod as a ReplicaSet asks for it.
fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"generateName": "web-5d8f-", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "web", "image": "web:1", "ports": [{"containerPort": 80}]}]},
    })
}

fn a_new_pod_is_let_in_with_a_sidecar() -> Result<(), String> {
    let (plane, python) = (Plane::start(NAMES)?, python(SCHEMAS)?);
    let response = plane.review(&pod(), json!({}));
    assert_eq!((&response["allowed"], &response["patchType"]), (&json!(true), &json!("JSONPatch")));
    let patch = BASE64_STANDARD.decode(response["patch"].as_str().unwrap()).unwrap();

    // The same as the command's, taken and judged by the same script; JSON is YAML.
    let path = |name: &str| plane.folder.path().join(name);
    std::fs::write(path("pod"), pod().to_string()).unwrap();
    let arguments = ["-n", "shop", "--image", "lighter:7", "-f", "-"];
    let injected = written(&[&["inject"], &arguments[..]].concat(), &pod().to_string());
    std::fs::write(path("injected"), &injected).unwrap();
    std::fs::write(path("undone"), written(&["uninject", "-f", "-"], &injected)).unwrap();
    std::fs::write(path("patches"), patch).unwrap();
    let mut command = Command::new(python);
    command.arg(format!("{}/../tests/inject/scripts/manifests.py", env!("CARGO_MANIFEST_DIR")));
    let output = command.args(["pod", "injected", "undone", "patches"].map(path)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let injected: Value = serde_json::from_slice(&output.stdout).unwrap();
    let file = injected[0]["metadata"]["annotations"]["lighter.dev/sidecar"].as_str().unwrap();
    assert!(file.contains("service: web\nnamespace: shop\n"), "{file}");

    // What the command has injected stands as it is.
    let response = plane.review(&injected[0], json!({}));
    assert_eq!((&response["allowed"], response.get("patch")), (&json!(true), None));
    assert_eq!((plane.reviews("injected"), plane.reviews("unchanged")), (1.0, 1.0));
    Ok(())
}

fn what_passes() -> Result<(), String> {
    let plane = Plane::start(NAMES)?;
    let mut out = pod();
    out["metadata"]["annotations"] = json!({"lighter.dev/inject": "false"});
    let mut host = pod();
    host["spec"]["hostNetwork"] = json!(true);
    let other = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    for (object, change) in [
        (&out, json!({})),
        (&other, json!({})),
        (&pod(), json!({"operation": "UPDATE"})),
        (&pod(), json!({"subResource": "status"})),
        (&pod(), json!({"operation": "DELETE", "object": null})),
    ] {
        let response = plane.review(object, change);
        assert_eq!(response.as_object().unwrap().len(), 2, "{response}");
        assert_eq!(response["allowed"], true);
    }
    let response = plane.review(&host, json!({}));
    let warning = response["warnings"][0].as_str().unwrap();
    assert!(response["allowed"] == true && warning.contains("Pod shop/(unnamed)"), "{response}");
    assert_eq!((plane.reviews("left_out"), plane.reviews("passed")), (2.0, 4.0));
    Ok(())
}

fn faulty_annotations_keep_a_pod_out() -> Result<(), String> {
    let plane = Plane::start(NAMES)?;
    let mut faulty = pod();
    faulty["metadata"]["annotations"] = json!({"lighter.dev/workers": "many"});
    let response = plane.review(&faulty, json!({}));
    assert_eq!((&response["allowed"], &response["status"]["code"]), (&json!(false), &json!(422)));
    assert!(response["status"]["message"].as_str().unwrap().contains("workers"), "{response}");
    assert_eq!(plane.reviews("refused"), 1.0);
    Ok(())
}

fn what_is_no_review_is_refused() -> Result<(), String> {
    let plane = Plane::start(NAMES)?;
    let large = format!("\"{}\"", "x".repeat(9 << 20));
    for (body, status) in [
        ("", 400),
        ("{}", 400),
        ("[[[", 400),
        (
            r#"{"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "request": {"uid": "u"}}"#,
            400,
        ),
        (r#"{"apiVersion": "admission.k8s.io/v1", "kind": "Pod", "request": {"uid": "u"}}"#, 400),
        (&large, 413),
    ] {
        assert_eq!(plane.post("state/webhook.pem", body).0, status, "{body:.100}");
    }
    assert_eq!(plane.reviews("malformed"), 5.0);
    let mut command = Command::new(&plane.curl);
    command.args(["-sS", "--noproxy", "*", &format!("http://{}/inject", plane.webhook)]);
    assert!(!command.output().unwrap().status.success(), "plain text is not spoken");
    let closed =
        || plane.metric("lighter_control_webhook_connections_closed_total", &[("cause", "handshake")]);
    crate::support::wait_until("it is counted", || closed() >= 1.0);
    Ok(())
}

fn a_certificate_is_read_again() -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let issue = |copy: Option<PathBuf>| {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
        for (name, pem) in [("tls.key", made.signing_key.serialize_pem()), ("tls.crt", made.cert.pem())] {
            let new = path("new");
            std::fs::write(&new, pem).unwrap();
            std::fs::rename(new, path(name)).unwrap();
        }
        copy.map(|copy| std::fs::copy(path("tls.crt"), copy).unwrap());
    };
    issue(None);
    let plane = Plane::start(&format!(", certificate: '{}', key: '{}'", path("tls.crt"), path("tls.key")))?;
    for name in ["first.pem", "second.pem"] {
        issue(Some(plane.folder.path().join(name)));
        assert_eq!(plane.post(name, "{}").0, 400, "{name}");
    }
    Ok(())
}
