//! Which endpoint takes a request: power of two choices over peak-EWMA, among those that are not ejected.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lighter_config::name::ServicePort;
use lighter_config::snapshot::Port;

use crate::error::Cause;
use crate::telemetry::EndpointMetrics;

/// The endpoints of one port.
pub struct Cluster {
    /// Which port.
    pub key: ServicePort,
    endpoints: Box<[Arc<Endpoint>]>,
}

/// Where a request can go. Shared between workers; survives configuration changes.
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// Unique in this process: the key of connection pools.
    pub id: u32,
    /// Its counters.
    pub metrics: EndpointMetrics,
}

/// An endpoint that was picked, counted as in flight until this is dropped.
pub struct Picked {
    /// Which.
    pub endpoint: Arc<Endpoint>,
}

/// How an exchange with an endpoint ended, as the balancer sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer came, whatever its status.
    Answered,
    /// The connection failed or broke: it counts towards ejection.
    Failed,
    /// The caller went away: says nothing of the endpoint.
    Abandoned,
}

impl Cluster {
    /// The endpoints of `port`, taking over the health, load and identity of those that `old` had too.
    pub fn build(_port: &Port, _old: Option<&Cluster>) -> Self {
        unimplemented!()
    }

    /// The one endpoint of this workload's own application; never ejected.
    pub fn local(_key: ServicePort, _app: SocketAddr) -> Self {
        unimplemented!()
    }

    /// Every endpoint.
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// Picks an endpoint, not `avoid` if there is another.
    pub fn pick(&self, _avoid: Option<&Endpoint>, _now: Instant) -> Result<Picked, Cause> {
        unimplemented!()
    }

    /// Takes the endpoint that a caller named itself.
    pub fn take(_endpoint: &Arc<Endpoint>, _now: Instant) -> Picked {
        unimplemented!()
    }
}

impl Picked {
    /// Tells how it ended. `latency` is from sending the request to the answer's head.
    pub fn finish(self, _outcome: Outcome, _latency: Duration, _now: Instant) {
        unimplemented!()
    }
}
