//! Asks the endpoints of Services that want it whether they are well, and has those listed that are. For an endpoint with
//! a sidecar that registers, the sidecar asks.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use lighter_config::name::ServicePort;
use lighter_config::probe::Probe;
use lighter_config::snapshot::{Service, Snapshot};
use lighter_probe::Judge;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};

use crate::state::State;

/// An endpoint of a port.
type Asked = (ServicePort, SocketAddr);

/// Asks, and goes by what resources say at each moment, until the control plane stops.
pub async fn keep(state: Arc<State>) {
    let mut changed = state.store.watch();
    let mut stopping = state.stopping();
    let places = Arc::new(Semaphore::new(MOST_AT_ONCE));
    let mut tasks = JoinSet::new();
    let mut asked: BTreeMap<Asked, AbortHandle> = BTreeMap::new();
    let mut before = Arc::<Snapshot>::default();
    loop {
        let now = state.store.snapshot();
        for (_, old, new) in before.services.changes(&now.services) {
            let (old, new) = (wanted(old), wanted(new));
            for (key, _) in old.iter().filter(|(key, probe)| new.get(*key) != Some(*probe)) {
                if let Some(task) = asked.remove(key) {
                    task.abort();
                }
                if !new.contains_key(key) {
                    state.index.set_well(&key.0, key.1, true);
                }
            }
            for (key, probe) in new {
                asked
                    .entry(key.clone())
                    .or_insert_with(|| tasks.spawn(ask(state.clone(), key, probe, places.clone())));
            }
        }
        before = now;
        tokio::select! {
            () = stopping.asked() => return,
            changed = changed.changed() => if changed.is_err() {
                return;
            },
            // Those that were ended.
            Some(_) = tasks.join_next() => {}
        }
    }
}

/// Whom to ask of a Service, and how.
fn wanted(service: Option<&Arc<Service>>) -> BTreeMap<Asked, Arc<Probe>> {
    let probed = service.and_then(|service| Some((service, service.probe.as_ref()?)));
    let endpoints = probed.into_iter().flat_map(|(service, probe)| {
        let ports = service.ports.iter();
        ports.flat_map(move |port| {
            port.endpoints.iter().map(move |one| (port.key.clone(), one.address, probe))
        })
    });
    endpoints.map(|(port, address, probe)| ((port, address), probe.clone())).collect()
}

/// Asks one endpoint, time after time. One that was not asked before is taken for well: after a restart of the control
/// plane nobody is gone.
async fn ask(state: Arc<State>, (port, endpoint): Asked, probe: Arc<Probe>, places: Arc<Semaphore>) {
    let mut judge = Judge::new(state.index.is_well(&port, endpoint));
    // Not all at one moment.
    tokio::time::sleep(probe.interval.mul_f64(fastrand::f64())).await;
    loop {
        // It is never closed.
        let place = places.acquire().await;
        let answer = lighter_probe::ask(&probe, endpoint, TcpStream::connect).await;
        drop(place);
        state.metrics.probed(answer.is_ok());
        if judge.hear(&answer, &probe) {
            state.index.set_well(&port, endpoint, judge.is_well());
            match answer {
                Ok(()) => tracing::info!(%port, %endpoint, "an endpoint answers its probe: it is listed"),
                Err(fault) => {
                    tracing::warn!(%port, %endpoint, %fault, "an endpoint does not answer its probe: it is not listed");
                }
            }
        }
        tokio::time::sleep(probe.interval).await;
    }
}

/// Most endpoints that are asked at one moment.
const MOST_AT_ONCE: usize = 256;
