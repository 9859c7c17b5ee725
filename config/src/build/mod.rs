//! From resources, as written, to a snapshot, ready to be used.
//!
//! What is made of a resource or a Service is kept beside what it depends on, so that a change is judged, and a snapshot
//! made of it, at the cost of what the change concerns:
//!
//! * A Service by itself is a `Draft`: nothing but its own document is in it.
//! * A route or policy refers to Services by their names. What it says once its references are followed
//!   (`kind::Refers`) depends on which of these Services there are, and on what of their ports can be referred to.
//! * A Device or a Function is the same by itself, and so is what instances register (`registered`). What a policy that
//!   uses it says of a route is put together when a Service is made.
//! * A finished Service (`making`) is its draft, its addresses, what is said about it, and what is said of the mesh.
//!
//! [`Mesh`] has the order of these steps. A snapshot that is made from resources at once is what a change of everything
//! makes of a mesh of nothing: there is no other way.

use std::sync::Arc;

use crate::error::{ConfigError, ConfigErrors};
use crate::load::{Loaded, Resources};
use crate::name::{ServiceName, ServicePort};
use crate::probe::Probe;
use crate::resource::service::ServiceSpec;
use crate::shared::SharedMap;
use crate::snapshot::{EndpointSpec, Protocol, Snapshot, Stateful};

mod attach;
pub(crate) mod authorization;
pub(crate) mod balancing;
pub(crate) mod check;
mod circuit;
pub(crate) mod device;
pub(crate) mod ejection;
mod filter;
pub(crate) mod function;
mod grpc;
pub(crate) mod health;
mod http;
mod kind;
pub(crate) mod link_policy;
pub(crate) mod load_report;
pub(crate) mod locality;
mod making;
mod mesh;
mod mesh_policy;
mod migration;
pub(crate) mod offload;
mod order;
pub(crate) mod overload;
mod policy;
mod reference;
mod registered;
pub(crate) mod retry;
mod service;
pub(crate) mod session;
pub(crate) mod shape;
pub(crate) mod state;
mod tcp;
mod version;
pub(crate) mod virtual_ips;

pub use check::is_data_name;
use kind::Order;
use making::Making;
pub use mesh::{Mesh, Origin};
pub use registered::{DeviceInForce, HeldFunction, RegisteredDevice};
pub(crate) use version::version;

impl Snapshot {
    /// Checks what `resources` say together, and makes a snapshot of it: whole, or not at all.
    ///
    /// A backend that does not exist is a warning: requests for its share are answered with 500, as the Gateway API
    /// says, since a route may be there before its backends are.
    pub fn build(resources: &Resources) -> Result<Snapshot, ConfigErrors> {
        let mut mesh = Mesh::default();
        mesh.put(resources, Origin::Files);
        let snapshot = mesh.judge()?;
        drop(mesh);
        Ok(Arc::unwrap_or_clone(snapshot))
    }
}

/// What is found wrong on the way.
#[derive(Clone, Default)]
struct Report {
    errors: Vec<ConfigError>,
    warnings: Vec<ConfigError>,
}

impl Report {
    fn error(&mut self, error: ConfigError) {
        self.errors.push(error);
    }

    /// The value, or its error noted.
    fn ok<T>(&mut self, result: Result<T, ConfigError>) -> Option<T> {
        result.map_err(|error| self.errors.push(error)).ok()
    }
}

/// Services by name, each by itself.
type Drafts = SharedMap<ServiceName, Arc<Draft>>;

/// A Service by itself, before anything is said about it.
#[derive(Clone)]
struct Draft {
    written: Arc<Loaded<ServiceSpec>>,
    order: Order,
    ports: Vec<PortDraft>,
    probe: Option<Arc<Probe>>,
    state: Option<Arc<Stateful>>,
}

/// A port by itself.
#[derive(Clone)]
struct PortDraft {
    key: ServicePort,
    name: Option<Arc<str>>,
    protocol: Protocol,
    target_port: u16,
    endpoints: Vec<EndpointSpec>,
}

impl Draft {
    /// Whether whoever refers to it finds the same in both.
    fn is_seen_as(&self, other: &Draft) -> bool {
        fn seen(draft: &Draft) -> impl Iterator<Item = (u16, Option<&str>, Protocol)> {
            draft.ports.iter().map(|port| (port.key.port, port.name.as_deref(), port.protocol))
        }
        seen(self).eq(seen(other))
    }
}
