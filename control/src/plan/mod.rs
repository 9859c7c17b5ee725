//! The planner: which functions of devices are active, of those whose devices have that planned. What the mesh has and wants is
//! gathered every few seconds, and at once when requests wait; [`lighter_place::Planner`] decides; devices are told. And whether the
//! state of a Service is to move to where it is served better, of those that say so: [`lighter_place::Mover`] decides.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lighter_place::{Because, PlanRules, Planned, Planner, Time};

use crate::state::State;

mod gather;
mod moves;

use gather::Gathered;
use moves::Moves;

/// What is planned, by the Device.
#[derive(Debug, Default)]
pub struct InForce(Mutex<BTreeMap<Arc<str>, Vec<Planned>>>);

impl InForce {
    /// What is planned of a Device: what is to be active, then the rest. Empty: nothing is.
    pub fn of(&self, device: &str) -> Vec<Planned> {
        self.lock().get(device).cloned().unwrap_or_default()
    }

    /// How many functions there are for each reason.
    pub fn count(&self) -> Vec<(Because, usize)> {
        let all = self.lock();
        let count = |because| all.values().flatten().filter(|planned| planned.because == because).count();
        Because::ALL.into_iter().map(|because| (because, count(because))).collect()
    }

    fn set(&self, plan: BTreeMap<Arc<str>, Vec<Planned>>) {
        *self.lock() = plan;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Vec<Planned>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Plans until the control plane stops.
pub async fn keep(state: Arc<State>) {
    let config = state.config.planner;
    let rules =
        PlanRules { idle_seconds: config.idle.as_secs_f64(), settle_seconds: config.settle.as_secs_f64() };
    let (mut planner, began) = (Planner::new(rules), Instant::now());
    let mut moves = Moves::default();
    let mut stopping = state.stopping();
    let mut interval = config.interval;
    loop {
        tokio::select! {
            () = stopping.asked() => return,
            () = state.registry.sidecars.waited.notified() => {}
            () = tokio::time::sleep(interval) => {}
        }
        // What is in force is locked while it is judged, which is nothing to wait for here.
        let round = tokio::task::spawn_blocking({
            let state = state.clone();
            move || {
                let gathered = Gathered::of(&state);
                let now = Time::from_nanos(0).after(began.elapsed());
                let planned = planner.plan(&gathered.sites, &gathered.wants, now);
                let mut functions = gathered.sites.iter().flat_map(|site| &site.functions);
                let is_waited = functions.any(|function| function.is_waited_for);
                tell(&state, &gathered, planned);
                moves.round(&state, now);
                (planner, moves, is_waited)
            }
        });
        let is_waited;
        (planner, moves, is_waited) = match round.await {
            Ok(done) => done,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        // Who waits gets impatient meanwhile.
        interval = if is_waited { config.interval.min(SOON) } else { config.interval };
        state.metrics.plans.fetch_add(1, Relaxed);
        // Many who wait at once are one round.
        tokio::time::sleep(PAUSE).await;
    }
}

/// Has each device do its part, and everybody see it.
fn tell(state: &State, gathered: &Gathered, planned: Vec<Vec<Planned>>) {
    let mut told = 0;
    for (instances, planned) in gathered.instances.iter().zip(&planned) {
        let active = planned.iter().filter(|planned| planned.because.is_active());
        let active: Vec<String> = active.map(|planned| planned.function.to_string()).collect();
        for id in instances {
            if state.registry.sidecars.plan(id, &active) {
                tracing::info!(device = %id, ?active, "functions are planned");
                told += 1;
            }
        }
    }
    state.metrics.told_plans.fetch_add(told, Relaxed);
    let of_site = |(devices, planned): (&Vec<Arc<str>>, &Vec<Planned>)| {
        devices.iter().map(|device| (device.clone(), planned.clone())).collect::<Vec<_>>()
    };
    state.plan.set(gathered.devices.iter().zip(&planned).flat_map(of_site).collect());
}

/// The least time between two rounds.
const PAUSE: Duration = Duration::from_millis(50);
/// When it is thought about again while requests wait.
const SOON: Duration = Duration::from_millis(500);
