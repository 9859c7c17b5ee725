//! The demo's resource file: four Services, one route that splits traffic between two versions.

use std::fmt::Write;
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
    let temporary = file.with_extension("tmp");
    std::fs::write(&temporary, text(endpoints, split))?;
    std::fs::rename(temporary, file)
}

/// The file's text. `endpoints` are the sidecars' inbound listeners by Service.
pub fn text(endpoints: &[(&str, SocketAddr)], split: Split) -> String {
    let mut text =
        String::from("# Written by `lighter demo`. Change the weights and see the traffic move.\n");
    for service in ["web", "catalog", "reviews", "reviews-v1", "reviews-v2"] {
        let own: Vec<_> = endpoints
            .iter()
            .filter(|(name, _)| *name == service)
            .map(|(_, at)| format!("{{address: \"{}\", port: {}}}", at.ip(), at.port()))
            .collect();
        // Infallible: a String takes every write.
        let _ = write!(
            text,
            "---
apiVersion: mesh.lighter.dev/v1
kind: Service
metadata: {{name: {service}}}
spec:
  ports: [{{name: http, port: 80, targetPort: {APP_PORT}, appProtocol: http}}]
  endpoints: [{}]
",
            own.join(", ")
        );
    }
    let Split { v1, v2 } = split;
    let _ = write!(
        text,
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
---
apiVersion: mesh.lighter.dev/v1
kind: TrafficPolicy
metadata: {{name: reviews-v2}}
spec:
  targetRefs: [{{kind: Service, name: reviews-v2}}]
  connectTimeout: 1s
  ejection: {{consecutiveFailures: 2, duration: 500ms, maxPercent: 50}}
"
    );
    text
}
