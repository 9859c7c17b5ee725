//! How much goes to a port at once, as a snapshot has it.

use std::time::Duration;

/// How much goes to a port at once, from one sidecar.
#[derive(Clone, Debug, PartialEq)]
pub struct Circuit {
    /// Connections in use. None: no limit.
    pub max_connections: Option<u32>,
    /// Requests and opaque connections. None: no limit.
    pub max_requests: Option<u32>,
    /// Those that wait.
    pub max_pending: u32,
    /// How long one waits.
    pub pending_timeout: Duration,
}

impl Default for Circuit {
    fn default() -> Self {
        Circuit {
            max_connections: None,
            max_requests: None,
            max_pending: 1024,
            pending_timeout: Duration::from_secs(1),
        }
    }
}

impl Circuit {
    /// Whether there is any limit.
    pub fn limits(&self) -> bool {
        self.max_connections.is_some() || self.max_requests.is_some()
    }
}
