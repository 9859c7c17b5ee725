//! The demo's resources: Services, and one route that splits traffic between two versions; as a file for sidecars that
//! know nobody else, and for a control plane.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

/// Where the traffic to `reviews` goes, as weights of its versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// Weight of reviews-v1.
    pub v1: u32,
    /// Weight of reviews-v2.
    pub v2: u32,
}

/// The port that every application listens on, each in a network namespace of its own.
pub const APP_PORT: u16 = 8080;

/// Writes the file so that a reader sees the old one or the new one, whole.
pub fn write(file: &Path, endpoints: &[(&str, SocketAddr)], split: Split) -> io::Result<()> {
    write_whole(file, &text(endpoints, split))
}

/// The same of any text.
pub fn write_whole(file: &Path, text: &str) -> io::Result<()> {
    let temporary = file.with_extension("tmp");
    std::fs::write(&temporary, text)?;
    std::fs::rename(temporary, file)
}

/// The file's text. `endpoints` are the sidecars' inbound listeners by Service.
pub fn text(endpoints: &[(&str, SocketAddr)], split: Split) -> String {
    let mut text =
        String::from("# Written by `lighter demo`. Change the weights and see the traffic move.\n");
    for service in SERVICES {
        let own: Vec<_> = endpoints
            .iter()
            .filter(|(name, _)| *name == service)
            .map(|(_, at)| format!("{{address: \"{}\", port: {}}}", at.ip(), at.port()))
            .collect();
        text += &format!("{}  endpoints: [{}]\n", self::service(service), own.join(", "));
    }
    text + &route(split) + EJECTION
}

/// What a control plane is told: it finds out by itself where the Services are. Whoever calls one of those behind web has
/// to prove to be web.
pub fn joined(split: Split) -> String {
    let services: String = SERVICES.iter().chain(&["stranger"]).map(|name| service(name)).collect();
    services + &route(split) + EJECTION + TRUST
}

const SERVICES: [&str; 5] = ["web", "catalog", "reviews", "reviews-v1", "reviews-v2"];

/// A Service of HTTP. Nothing is behind the last line of its `spec`.
pub fn service(name: &str) -> String {
    format!(
        "---
apiVersion: mesh.lighter.dev/v1
kind: Service
metadata: {{name: {name}}}
spec:
  ports: [{{name: http, port: 80, targetPort: {APP_PORT}, appProtocol: http}}]
"
    )
}

/// The route that splits the traffic.
pub fn route(Split { v1, v2 }: Split) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: reviews}}
spec:
  parentRefs: [{{group: \"\", kind: Service, name: reviews, port: 80}}]
  rules:
  - backendRefs:
    - {{name: reviews-v1, port: 80, weight: {v1}}}
    - {{name: reviews-v2, port: 80, weight: {v2}}}
"
    )
}

const EJECTION: &str = "\
---
apiVersion: mesh.lighter.dev/v1
kind: TrafficPolicy
metadata: {name: reviews-v2}
spec:
  targetRefs: [{kind: Service, name: reviews-v2}]
  connectTimeout: 1s
  ejection: {consecutiveFailures: 2, duration: 500ms, maxPercent: 50}
";

/// Who web is to the others.
pub const WEB: &str = "spiffe://mesh.lighter/ns/default/sa/web";

const TRUST: &str = "\
---
apiVersion: mesh.lighter.dev/v1
kind: MeshPolicy
metadata: {name: behind-web}
spec:
  mtls: strict
  targetRefs:
  - {kind: Service, name: catalog}
  - {kind: Service, name: reviews-v1}
  - {kind: Service, name: reviews-v2}
---
apiVersion: mesh.lighter.dev/v1
kind: AuthorizationPolicy
metadata: {name: web-only}
spec:
  targetRefs:
  - {kind: Service, name: catalog}
  - {kind: Service, name: reviews-v1}
  - {kind: Service, name: reviews-v2}
  rules:
  - from: [{principals: [\"spiffe://mesh.lighter/ns/default/sa/web\"]}]
";
