//! Services whose state may move for gain: what the mesh tells of where each is and could be, and Migrations that are asked for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use lighter_config::build::DeviceInForce;
use lighter_config::manifest::Key;
use lighter_config::name::ServiceName;
use lighter_config::sidecar::DeviceClass;
use lighter_config::snapshot::{Migration, PlaceProfile};
use lighter_place::{Decided, MoveRules, Mover, Seat, Seated, Stays, Time};

use super::gather::profile;
use crate::migrate::{Answer, Fate, Outcome, Seats};
use crate::registry::OfInstance;
use crate::registry::sidecars::{Id, Served};
use crate::state::State;

/// Decides which state moves, and remembers what came of it.
#[derive(Default)]
pub(super) struct Moves {
    mover: Mover,
    /// The Migration of each that was asked for, until it is over.
    asked: BTreeMap<ServiceName, Asked>,
    /// How each was served by the last round.
    heard: BTreeMap<ServiceName, Heard>,
}

/// How a Service was served when it was looked at last.
struct Heard {
    by: Id,
    /// All that was reported.
    served: Served,
    /// Of what was reported last: how many requests ended a second, and how long one took.
    rate: f64,
    seconds: Option<f64>,
}

/// A Migration that was asked for.
struct Asked {
    name: Arc<str>,
    rules: MoveRules,
}

impl Moves {
    /// Looks at all of them, and asks for one Migration at most.
    pub(super) fn round(&mut self, state: &State, now: Time) {
        let wanted = state.store.migrations();
        self.look_what_came(&wanted, state, now);
        let seats = state.migrations.seats(&wanted, state);
        let devices = state.store.devices();
        self.hear(&seats, state);
        let seated = |seats| seated(seats, self.heard.get(&seats.service), &devices, state);
        let services: Vec<Seated> = seats.iter().map(seated).collect();
        // One that is in the midst of its move has no seat.
        let is_any_moving = !self.asked.is_empty() || state.migrations.is_any_moving(&wanted, state);
        let decided = self.mover.decide(&services, is_any_moving, now);
        for ((seats, service), decided) in seats.iter().zip(&services).zip(decided) {
            self.follow(seats, service, &decided, state, now);
        }
    }

    /// Takes in how each is served: all that was reported since the last round, and where nothing was, as before.
    fn hear(&mut self, seats: &[Seats], state: &State) {
        let mut before = std::mem::take(&mut self.heard);
        for Seats { service, places, .. } in seats {
            let Some((_, id)) = places.first() else { continue };
            let served = state.registry.sidecars.found(id, |reported| reported.served).flatten();
            let Some(served) = served else { continue };
            let known = before.remove(service).filter(|known| known.by == *id);
            let since = known.as_ref().and_then(|known| served.since(&known.served));
            let as_before = || known.as_ref().filter(|known| known.served == served);
            let as_before = || as_before().map(|known| (known.rate, known.seconds));
            let (rate, seconds) = since.or_else(as_before).unwrap_or_default();
            self.heard.insert(service.clone(), Heard { by: id.clone(), served, rate, seconds });
        }
    }

    /// Tells the mover how Migrations have ended.
    fn look_what_came(&mut self, wanted: &[(Key, Migration)], state: &State, now: Time) {
        let mover = &mut self.mover;
        self.asked.retain(|service, Asked { name, rules }| {
            let has_moved = match state.migrations.fate(name, wanted) {
                Fate::Ahead => return true,
                Fate::Over(outcome) => outcome == Outcome::Done,
                Fate::Gone => false,
            };
            mover.ended(&service.to_string(), has_moved, rules, now);
            false
        });
    }

    fn follow(&mut self, seats: &Seats, service: &Seated, decided: &Decided, state: &State, now: Time) {
        let metrics = &state.metrics;
        if let Some(has_paid) = decided.has_paid {
            metrics.judged_migrations[usize::from(has_paid)].fetch_add(1, Relaxed);
            let name = &seats.service;
            tracing::info!(service = %name, has_paid, "a move for gain is where it was to lead: it is compared with what it promised");
        }
        let best = match (decided.stays, decided.best) {
            (None, Some(best)) => best,
            (stays, _) => {
                if let Some(stays) = stays {
                    metrics.planned_stays[stays as usize].fetch_add(1, Relaxed);
                }
                return;
            }
        };
        let (Some((from, _)), Some((to, _))) = (seats.places.first(), seats.places.get(best.to)) else {
            return;
        };
        let worth = (best.gain_seconds, best.cost_seconds);
        match state.migrations.ask_for_gain(&seats.service, (from, to), worth, state) {
            Answer::Asked(name) => {
                self.mover.asked(service, &best);
                self.asked.insert(seats.service.clone(), Asked { name, rules: service.rules });
            }
            Answer::Moving => {
                metrics.planned_stays[Stays::Moving as usize].fetch_add(1, Relaxed);
            }
            // The others are not to wait for it.
            Answer::Failed => {
                self.mover.ended(&service.name, false, &service.rules, now);
                metrics.planned_stays[Stays::BackingOff as usize].fetch_add(1, Relaxed);
            }
        }
    }
}

/// A Service with where it is and could be, as these are now.
fn seated(seats: &Seats, heard: Option<&Heard>, devices: &[DeviceInForce], state: &State) -> Seated {
    let registry = &state.registry;
    let instances = registry.devices(&seats.service);
    let place = |(name, id): &(Arc<str>, Id)| {
        let device = instances.iter().find(|device| device.name == *name);
        let load = registry.sidecars.found(id, |reported| reported.device).flatten();
        let runs = device.map(|device| {
            let allowed = load.and_then(|load| load.runs_allowed);
            let slots = allowed.map_or(device.slots, |allowed| allowed.min(device.slots));
            (slots, load.map_or(0, |load| load.runs_in_flight))
        });
        Seat {
            name: name.clone(),
            profile: profile(said_of(&seats.service, device, devices)),
            runs,
            queue_seconds: load.map_or(0.0, |load| load.queue_seconds),
        }
    };
    let places: Vec<Seat> = seats.places.iter().map(place).collect();
    let moves = &seats.moves;
    let mut blackout_seconds = seats.blackout.as_secs_f64();
    if seats.copies_held {
        let links = places.iter().map(|place| place.profile.link_bytes_per_second);
        blackout_seconds += seats.state_bytes as f64 / links.fold(f64::INFINITY, f64::min).max(1.0);
    }
    Seated {
        name: seats.service.to_string().into(),
        rules: MoveRules {
            horizon_seconds: moves.horizon.as_secs_f64(),
            margin: f64::from(moves.margin_percent) / 100.0,
            settle_seconds: moves.settle.as_secs_f64(),
        },
        at: 0,
        rate: heard.map_or(0.0, |heard| heard.rate),
        in_flight: heard.map_or(0, |heard| heard.served.in_flight),
        seconds: heard.and_then(|heard| heard.seconds),
        blackout_seconds,
        state_bytes: seats.state_bytes,
        is_moving: seats.is_moving,
        places,
    }
}

/// What a Device says of instances of this class that is written for the Service; else what is usual.
fn said_of<'d>(
    service: &ServiceName,
    instance: Option<&OfInstance>,
    devices: &'d [DeviceInForce],
) -> &'d PlaceProfile {
    let Some(OfInstance { kind: (class, _), .. }) = instance else { return &PlaceProfile::HOST };
    let is_its = |device: &&DeviceInForce| {
        device.is_written && device.class == *class && device.service() == Some(service)
    };
    match devices.iter().find(is_its) {
        Some(device) => &device.profile,
        None if *class == DeviceClass::Host => &PlaceProfile::HOST,
        None => &PlaceProfile::DEVICE,
    }
}
