//! What the parts of a running control plane share.

use std::sync::Arc;
use std::time::Instant;

use lighter_config::control::ControlConfig;
use tokio::sync::watch;

use crate::ca::{Authority, Tls};
use crate::index::Index;
use crate::metrics::Metrics;
use crate::migrate::Migrations;
use crate::plan::InForce;
use crate::registry::Registry;
use crate::serve::streams::Streams;
use crate::store::Store;

/// One control plane.
pub struct State {
    /// What it was told to do.
    pub config: ControlConfig,
    /// What the mesh says.
    pub store: Arc<Store>,
    /// What streams are told.
    pub index: Index,
    /// Who is there.
    pub registry: Registry,
    /// Who vouches for identities.
    pub authority: Arc<Authority>,
    /// What the ports over TLS show.
    pub tls: Arc<Tls>,
    /// Which functions of devices are to be active.
    pub plan: InForce,
    /// What moves from one instance to another.
    pub migrations: Migrations,
    /// When this process began to be a control plane.
    pub began: Instant,
    /// Who listens.
    pub streams: Streams,
    /// What is counted.
    pub metrics: Metrics,
    stop: watch::Sender<bool>,
}

/// Tells when the control plane is to stop.
#[derive(Clone)]
pub struct Stopping(watch::Receiver<bool>);

impl State {
    /// A control plane of these parts, at its start.
    pub fn new(
        config: ControlConfig,
        store: Arc<Store>,
        index: Index,
        registry: Registry,
        authority: Arc<Authority>,
        tls: Arc<Tls>,
    ) -> Self {
        State {
            config,
            store,
            index,
            registry,
            authority,
            tls,
            plan: InForce::default(),
            migrations: Migrations::default(),
            began: Instant::now(),
            streams: Streams::default(),
            metrics: Metrics::default(),
            stop: watch::Sender::new(false),
        }
    }

    /// Has everything end in good order.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// To wait for that.
    pub fn stopping(&self) -> Stopping {
        Stopping(self.stop.subscribe())
    }
}

impl Stopping {
    /// Returns once the control plane is to stop; at once if it is already.
    pub async fn asked(&mut self) {
        // An error means that the control plane is gone.
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}
