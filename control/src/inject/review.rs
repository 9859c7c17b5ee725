//! What an API server asks before it makes a pod, and what it is told: AdmissionReview of `admission.k8s.io/v1`.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::edit::{self, Outcome};
use super::patch;
use super::wishes::Defaults;
use super::workload;
use super::yaml::Node;

/// What became of a review.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reviewed {
    /// A sidecar was put in.
    Injected,
    /// It had one already.
    Unchanged,
    /// It is to have none, or cannot.
    LeftOut,
    /// It is none of those that have pods, or no change of its pods.
    Passed,
    /// Its annotations are at fault: it is not let in.
    Refused,
    /// It was no review.
    Malformed,
}

impl Reviewed {
    /// Every one, in order.
    pub const ALL: [Reviewed; 6] = [
        Reviewed::Injected,
        Reviewed::Unchanged,
        Reviewed::LeftOut,
        Reviewed::Passed,
        Reviewed::Refused,
        Reviewed::Malformed,
    ];

    /// The label: in logs and in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Reviewed::Injected => "injected",
            Reviewed::Unchanged => "unchanged",
            Reviewed::LeftOut => "left_out",
            Reviewed::Passed => "passed",
            Reviewed::Refused => "refused",
            Reviewed::Malformed => "malformed",
        }
    }
}

/// A review as it is asked for.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    kind: String,
    request: Request,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    operation: String,
    #[serde(default)]
    sub_resource: String,
    /// Null when something is deleted.
    #[serde(default)]
    object: Option<Node>,
}

/// How it is answered.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    api_version: &'static str,
    kind: &'static str,
    response: Response,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    uid: String,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    /// In base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// Answers the review in `body`. `defaults` holds but for the namespace, which the review says.
///
/// Fails with what is wrong if it is none: there is nobody to let in or not.
pub fn answer(body: &[u8], defaults: &Defaults) -> Result<(Answer, Reviewed), String> {
    let review: Review = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if review.api_version != VERSION || review.kind != KIND {
        let (version, kind) = (review.api_version.escape_debug(), review.kind.escape_debug());
        return Err(format!("expected an {KIND} of {VERSION}, not `{kind}` of `{version}`"));
    }
    let (response, reviewed) = respond(review.request, defaults);
    Ok((Answer { api_version: VERSION, kind: KIND, response }, reviewed))
}

fn respond(request: Request, defaults: &Defaults) -> (Response, Reviewed) {
    let uid = request.uid;
    let allowed = |uid| Response { uid, allowed: true, ..Response::default() };
    // What a pod consists of cannot be changed once it is there, and a part of it (its status, its scale) is not all of it.
    let Some(before) =
        request.object.filter(|_| request.operation == "CREATE" && request.sub_resource.is_empty())
    else {
        return (allowed(uid), Reviewed::Passed);
    };
    let workloads = workload::find(&before);
    if workloads.is_empty() {
        return (allowed(uid), Reviewed::Passed);
    }
    if workloads.iter().all(|workload| workload.pod(&before).is_some_and(edit::is_injected)) {
        // By the command, perhaps, with other words than these: what is written stands.
        return (allowed(uid), Reviewed::Unchanged);
    }
    let usual = Some(&request.namespace).filter(|namespace| !namespace.is_empty());
    let namespace = usual.unwrap_or(&defaults.namespace).clone();
    let mut after = before.clone();
    let mut response = allowed(uid);
    let mut reviewed = Reviewed::LeftOut;
    for (workload, outcome) in
        edit::inject(&mut after, &Defaults { namespace: namespace.clone(), ..defaults.clone() })
    {
        let title = workload.title(&namespace);
        match outcome {
            Outcome::Injected | Outcome::Removed => reviewed = Reviewed::Injected,
            // Whoever opted out knows.
            Outcome::LeftOut(edit::OPTED_OUT) => {}
            Outcome::LeftOut(reason) => response.warnings.push(format!("no sidecar for {title}: {reason}")),
            Outcome::Refused(faults) => {
                let message = format!("no sidecar can be put into {title}: {}", faults.join("; "));
                // Unprocessable.
                response.status = Some(json!({"code": 422, "message": message}));
                response.allowed = false;
                return (response, Reviewed::Refused);
            }
        }
    }
    if after != before {
        let steps = json!(patch::between(&before, &after)).to_string();
        response.patch_type = Some("JSONPatch");
        response.patch = Some(BASE64_STANDARD.encode(steps));
    }
    (response, reviewed)
}

const VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults() -> Defaults {
        Defaults { image: "lighter:1".into(), control: "control:15010".into(), namespace: "default".into() }
    }

    fn ask(change: impl FnOnce(&mut Value)) -> (Value, Reviewed) {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"generateName": "web-", "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": "web:1", "ports": [{"containerPort": 80}]}]},
        });
        let mut review = json!({
            "apiVersion": VERSION, "kind": KIND,
            "request": {"uid": "u", "namespace": "shop", "operation": "CREATE", "object": pod},
        });
        change(&mut review);
        let (answer, reviewed) = answer(review.to_string().as_bytes(), &defaults()).unwrap();
        (serde_json::to_value(answer).unwrap()["response"].clone(), reviewed)
    }

    #[test]
    fn a_new_pod_gets_a_sidecar_of_its_namespace() {
        let (response, reviewed) = ask(|_| {});
        assert_eq!(
            (reviewed, &response["uid"], &response["allowed"]),
            (Reviewed::Injected, &json!("u"), &json!(true))
        );
        let patch = BASE64_STANDARD.decode(response["patch"].as_str().unwrap()).unwrap();
        let patch = String::from_utf8(patch).unwrap();
        assert!(patch.contains("service: web\\nnamespace: shop\\n"), "{patch}");
    }

    #[test]
    fn what_is_no_new_pod_passes() {
        for change in [
            json!({"operation": "UPDATE"}),
            json!({"operation": "DELETE", "object": null}),
            json!({"subResource": "ephemeralcontainers"}),
            json!({"object": {"apiVersion": "v1", "kind": "ConfigMap"}}),
            json!({"object": null}),
        ] {
            let fields = change.as_object().unwrap().clone();
            let (response, reviewed) =
                ask(|review| review["request"].as_object_mut().unwrap().extend(fields));
            assert_eq!(
                (reviewed, response),
                (Reviewed::Passed, json!({"uid": "u", "allowed": true})),
                "{change}"
            );
        }
    }

    #[test]
    fn a_job_of_pods_is_known_by_who_owns_them() {
        let owned = json!([{"apiVersion": "batch/v1", "kind": "Job", "name": "web"}]);
        let (response, _) = ask(|review| review["request"]["object"]["metadata"]["ownerReferences"] = owned);
        let patch = BASE64_STANDARD.decode(response["patch"].as_str().unwrap()).unwrap();
        assert!(!String::from_utf8(patch).unwrap().contains("service: web"));
    }

    #[test]
    fn reasons_are_told_unless_they_are_known() {
        let (response, reviewed) =
            ask(|review| review["request"]["object"]["spec"]["hostNetwork"] = json!(true));
        assert_eq!(reviewed, Reviewed::LeftOut);
        assert!(response["warnings"][0].as_str().unwrap().contains("its host's network"), "{response}");
        let out = json!({"lighter.dev/inject": "false"});
        let (response, reviewed) = ask(|review| review["request"]["object"]["metadata"]["annotations"] = out);
        assert_eq!((reviewed, response), (Reviewed::LeftOut, json!({"uid": "u", "allowed": true})));
    }
}
