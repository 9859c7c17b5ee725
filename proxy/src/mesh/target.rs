//! Where a connection's requests go.

use std::sync::Arc;

use lighter_config::snapshot::{Mtls, Port};

use super::Mesh;
use super::destination::Destination;
use crate::authorize::Guard;
use crate::balance::Endpoint;
use crate::telemetry::Direction;

/// Where a connection's requests go. Held by a connection; found again when the mesh changes.
#[derive(Clone)]
pub struct Target {
    /// The port that was asked for.
    pub destination: Arc<Destination>,
    /// The endpoint that the caller named itself; it is honoured, never balanced away.
    pub pinned: Option<Arc<Endpoint>>,
    /// Who may come in; of this workload's own ports only, since it is the callee that guards itself.
    pub(crate) guard: Option<Arc<Guard>>,
    /// Whether callers have to prove who they are by now. Only ever set on a connection that came in before.
    pub(crate) strict: bool,
    /// It is not found again when the mesh changes.
    pub(crate) lasting: bool,
}

impl Target {
    /// Every endpoint of `destination`, which nobody guards here.
    pub(crate) fn of(destination: Arc<Destination>) -> Self {
        Target { destination, pinned: None, guard: None, strict: false, lasting: false }
    }

    /// Whether a request of a caller that did not prove who it is (`proven`) is refused.
    pub(crate) fn bars(&self, proven: bool) -> bool {
        self.strict && !proven
    }

    /// The same target in `mesh`; the old one stays in use where it is gone from there, so that open connections
    /// end by themselves.
    pub fn refresh(&mut self, mesh: &Mesh) {
        if self.lasting {
            return;
        }
        if self.destination.direction == Direction::Inbound {
            let key = &self.destination.port.key;
            self.guard = Guard::of(&mesh.config, key, self.guard.as_ref());
            self.strict = mesh.config.mtls_of(key) == Mtls::Strict;
            self.refresh_guards(mesh);
            return;
        }
        if let Some(now) = mesh.destinations.get(&self.destination.port.key)
            && !Arc::ptr_eq(now, &self.destination)
        {
            self.destination = now.clone();
            // The same address can have to prove another identity by now.
            if let Some(pinned) = &mut self.pinned
                && let Some((_, now)) = mesh.by_endpoint.get(&pinned.address)
            {
                *pinned = now.clone();
            }
        }
    }
}

impl Target {
    /// Has requests of this workload's own port meet the limits of the moment. They change rarely, so that each open
    /// connection may make itself a destination of its own then.
    fn refresh_guards(&mut self, mesh: &Mesh) {
        let old = &*self.destination;
        let is_other = |now: &&Arc<Port>| {
            now.guards != old.port.guards || !old.admits_as(now) || !old.is_hosted_by(mesh)
        };
        let Some(now) = mesh.config.port(&old.port.key).filter(is_other) else { return };
        // Of what has its cluster already, the address is not asked for.
        let Some(app) = old.cluster.endpoints().first().map(|endpoint| endpoint.address) else { return };
        self.destination = Arc::new(Destination::inbound(now, app, Some(old), mesh));
    }
}
