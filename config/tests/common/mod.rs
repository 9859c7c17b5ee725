//! What several tests need: a request as a route sees it, and short ways to a snapshot.

#![allow(dead_code, reason = "each test uses its part")]

pub(crate) mod generate;

use lighter_config::load::Resources;
use lighter_config::name::ServiceName;
use lighter_config::snapshot::{Port, RequestParts, Service, Snapshot};

/// A request such as `GET /path?query` with headers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) headers: Vec<(String, String)>,
}

impl Request {
    /// `METHOD TARGET`, then a header a word: `GET /a?b=c x-a:1`.
    pub(crate) fn parse(text: &str) -> Request {
        let mut words = text.split(' ');
        let method = words.next().expect("a method").to_string();
        let target = words.next().expect("a target");
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_string())),
            None => (target, None),
        };
        let header = |word: &str| {
            let (name, value) = word.split_once(':').expect("name:value");
            (name.to_string(), value.to_string())
        };
        Request { method, path: path.to_string(), query, headers: words.map(header).collect() }
    }
}

impl RequestParts for Request {
    fn method(&self) -> &[u8] {
        self.method.as_bytes()
    }

    fn path(&self) -> &[u8] {
        self.path.as_bytes()
    }

    fn query(&self) -> Option<&[u8]> {
        self.query.as_deref().map(str::as_bytes)
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        let found = self.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_bytes())
    }
}

/// The snapshot of a text that is right.
pub(crate) fn snapshot(text: &str) -> Snapshot {
    let resources = Resources::parse("test.yaml", text).unwrap_or_else(|errors| panic!("{errors}"));
    Snapshot::build(&resources).unwrap_or_else(|errors| panic!("{errors}"))
}

/// The errors of a text that is wrong, each as `path: message`.
pub(crate) fn errors(text: &str) -> Vec<String> {
    match Resources::parse("test.yaml", text).and_then(|resources| Snapshot::build(&resources)) {
        Ok(_) => Vec::new(),
        Err(found) => found.errors.iter().map(|error| format!("{}: {}", error.path, error.message)).collect(),
    }
}

/// A document with a Service of HTTP on port 80.
pub(crate) fn service(name: &str) -> String {
    format!(
        "---\n{{apiVersion: mesh.lighter.dev/v1, kind: Service, metadata: {{name: {name}}}, \
         spec: {{ports: [{{name: http, port: 80, appProtocol: http}}]}}}}\n"
    )
}

/// A document with an HTTPRoute for `web`, given its metadata and its rules.
pub(crate) fn route(metadata: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{{metadata}}}\n\
         spec:\n  parentRefs: [{{kind: Service, name: web}}]\n  rules:\n{rules}\n"
    )
}

pub(crate) fn named<'s>(snapshot: &'s Snapshot, name: &str) -> &'s Service {
    &snapshot.services[&ServiceName::new("default", name)]
}

/// The first port of a Service.
pub(crate) fn port<'s>(snapshot: &'s Snapshot, name: &str) -> &'s Port {
    &named(snapshot, name).ports[0]
}

/// The name of the route that takes a request to `web`, without the namespace.
pub(crate) fn taken(snapshot: &Snapshot, request: &str) -> Option<String> {
    let route = port(snapshot, "web").routes.select(&Request::parse(request))?;
    Some(route.name.trim_start_matches("default/").to_string())
}
