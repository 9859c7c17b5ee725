//! Names: what resources and routes call each other.

use std::fmt;
use std::sync::Arc;

/// The namespace of a resource that names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Whether it is a DNS label in lower case (RFC 1123): what a Service and a namespace can be called.
pub fn is_label(name: &str) -> bool {
    let is_inner = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    let bytes = name.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| is_inner(*byte))
        && bytes.first() != Some(&b'-')
        && bytes.last() != Some(&b'-')
}

/// A Service's name within its namespace. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    /// The namespace; `default` where a file names none.
    pub namespace: Arc<str>,
    /// The name within it.
    pub name: Arc<str>,
}

impl ServiceName {
    /// A name from its two parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        ServiceName { namespace: namespace.into(), name: name.into() }
    }

    /// The name under which traffic is counted that is for no Service.
    pub fn nobody() -> Self {
        Self::new("", "")
    }
}

impl fmt::Display for ServiceName {
    /// `namespace/name`, as metrics, logs and errors write it; nothing for [`ServiceName::nobody`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.is_empty() {
            return Ok(());
        }
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One port of one Service: what a connection is made to and what a route names as its backend.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServicePort {
    /// The Service.
    pub service: ServiceName,
    /// The port that callers use.
    pub port: u16,
}

impl fmt::Display for ServicePort {
    /// `namespace/name:port`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.port)
    }
}
