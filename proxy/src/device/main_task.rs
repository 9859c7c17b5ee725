//! What a device is there for beside its functions: an application behind another inbound listener, which is watched.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use lighter_config::sidecar::SidecarConfig;

use crate::telemetry::{Counted, Latencies, RouteMetrics};

/// The main task of this sidecar's device.
pub(crate) struct MainTask {
    app: SocketAddr,
    latencies: Arc<Latencies>,
    /// Where its requests are counted. More than one only where the configuration changed.
    routes: Mutex<Vec<Weak<RouteMetrics>>>,
}

impl MainTask {
    /// What `config` says that it is.
    pub(crate) fn of(config: &SidecarConfig) -> Option<Arc<Self>> {
        let said = config.device.as_ref()?.main_task?;
        let inbound = config.inbound.iter().find(|inbound| inbound.listen.port() == said.inbound)?;
        Some(Arc::new(MainTask { app: inbound.app, latencies: Arc::default(), routes: Mutex::default() }))
    }

    /// Requests to the application at `app` are counted there. If it is the main task, they are watched from now on.
    pub(crate) fn watch<'m>(&self, app: SocketAddr, routes: impl Iterator<Item = &'m Arc<RouteMetrics>>) {
        if app != self.app {
            return;
        }
        let mut known = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|route| route.strong_count() > 0);
        for route in routes {
            route.watch(&self.latencies);
            if !known.iter().any(|known| known.as_ptr() == Arc::as_ptr(route)) {
                known.push(Arc::downgrade(route));
            }
        }
    }

    /// How long its answers took so far.
    pub(super) fn answers(&self) -> Counted {
        self.latencies.read()
    }

    /// How many of its requests are under way.
    pub(super) fn under_way(&self) -> u64 {
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let under_way = |route: &Arc<RouteMetrics>| route.begun().saturating_sub(route.ended());
        routes.iter().filter_map(Weak::upgrade).map(|route| under_way(&route)).sum()
    }
}
