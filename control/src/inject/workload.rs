//! Where in a document pods are described.

use super::yaml::Node;

/// One pod, or one template of pods, of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// The kind of what describes it, such as `Deployment`.
    pub kind: &'static str,
    /// The namespace that it names.
    pub namespace: Option<String>,
    /// Its name; empty if the API server is to make one.
    pub name: String,
    /// Which item of a List, if the document is one.
    item: Option<usize>,
    /// From the resource to the pod.
    path: &'static [&'static str],
}

/// Every workload of a document; of a kind that has none, none.
pub fn find(document: &Node) -> Vec<Workload> {
    let of = |resource: &Node, item: Option<usize>| {
        let said = |path: &[&str]| resource.text_at(path);
        let (kind, path) = known(said(&["apiVersion"])?, said(&["kind"])?)?;
        resource.at(path)?.fields()?;
        Some(Workload {
            kind,
            namespace: said(&["metadata", "namespace"]).map(str::to_owned),
            name: said(&["metadata", "name"]).unwrap_or_default().to_owned(),
            item,
            path,
        })
    };
    if document.text_at(&["kind"]) == Some("List") && document.text_at(&["apiVersion"]) == Some("v1") {
        let items = document.get("items").map(Node::items).unwrap_or_default();
        return items.iter().enumerate().filter_map(|(at, item)| of(item, Some(at))).collect();
    }
    of(document, None).into_iter().collect()
}

impl Workload {
    /// `Kind namespace/name`, as everything names resources. `usual` is the namespace of those that name none.
    pub fn title(&self, usual: &str) -> String {
        let name = if self.name.is_empty() { "(unnamed)" } else { &self.name };
        format!("{} {}/{name}", self.kind, self.namespace.as_deref().unwrap_or(usual))
    }

    /// The resource that describes the pod.
    pub fn resource<'d>(&self, document: &'d Node) -> Option<&'d Node> {
        match self.item {
            None => Some(document),
            Some(at) => document.get("items")?.items().get(at),
        }
    }

    /// The pod, or the template of pods: what has `metadata` and `spec`.
    pub fn pod<'d>(&self, document: &'d Node) -> Option<&'d Node> {
        self.resource(document)?.at(self.path)
    }

    /// The same, to be changed.
    pub fn pod_mut<'d>(&self, document: &'d mut Node) -> Option<&'d mut Node> {
        let resource = match self.item {
            None => document,
            Some(at) => document.fields_mut()?.get_mut("items")?.items_mut()?.get_mut(at)?,
        };
        resource.at_mut(self.path)
    }

    /// Whether its pods come to an end by themselves: a job's serve nobody.
    pub fn ends(&self, document: &Node) -> bool {
        let owners =
            self.resource(document).and_then(|resource| resource.at(&["metadata", "ownerReferences"]));
        let owners = owners.map(Node::items).unwrap_or_default();
        matches!(self.kind, "Job" | "CronJob")
            || owners.iter().any(|owner| owner.text_at(&["kind"]) == Some("Job"))
    }
}

/// The kind, and the way from a resource of it to its pod.
fn known(version: &str, kind: &str) -> Option<(&'static str, &'static [&'static str])> {
    KINDS
        .iter()
        .find(|(group, known, _)| *known == kind && version.strip_prefix(group).is_some_and(is_version))
        .map(|(_, kind, path)| (*kind, *path))
}

/// `v1`, `v1beta1` and the like: not the rest of a longer group.
fn is_version(text: &str) -> bool {
    text.starts_with('v') && !text.contains('/')
}

/// Group, kind, and where the pod is.
const KINDS: [(&str, &str, &[&str]); 6] = [
    ("", "Pod", &[]),
    ("apps/", "Deployment", TEMPLATE),
    ("apps/", "StatefulSet", TEMPLATE),
    ("apps/", "DaemonSet", TEMPLATE),
    ("batch/", "Job", TEMPLATE),
    ("batch/", "CronJob", &["spec", "jobTemplate", "spec", "template"]),
];
const TEMPLATE: &[&str] = &["spec", "template"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inject::yaml::read;

    fn kinds(text: &str) -> Vec<String> {
        let node = &read(text).unwrap()[0].node;
        find(node).iter().map(|workload| workload.title("here")).collect()
    }

    #[test]
    fn a_list_has_workloads_among_other_things() {
        let list = "\
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: a}}
- {apiVersion: apps/v1, kind: Deployment, metadata: {name: a, namespace: n}, spec: {template: {spec: {}}}}
- {apiVersion: batch/v1, kind: CronJob, metadata: {name: b}, spec: {jobTemplate: {spec: {template: {}}}}}
";
        assert_eq!(kinds(list), ["Deployment n/a", "CronJob here/b"]);
    }

    #[test]
    fn kinds_of_other_groups_are_not_meant() {
        for text in [
            "{apiVersion: example.org/v1, kind: Pod, metadata: {name: a}}",
            "{apiVersion: apps/v1, kind: Pod, metadata: {name: a}}",
            "{apiVersion: apps/v1/x, kind: Deployment, spec: {template: {}}}",
            "{apiVersion: apps/v1, kind: Deployment, spec: {}}",
            "{apiVersion: v1, kind: PodTemplate, template: {spec: {}}}",
            "[1]",
            "text",
        ] {
            assert_eq!(kinds(text), [""; 0], "{text}");
        }
    }
}
