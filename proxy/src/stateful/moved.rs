//! Requests of this sidecar's callers that are kept until they are answered, as the state of their Service may leave from where they
//! go meanwhile: there they are refused as not executed, and go from here to where it is.
//!
//! What is kept is bounded, of each request and of all. What is not kept says nothing of that, and is sent on by the old
//! place.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lighter_config::name::ServicePort;
use lighter_migrate::{Attempts, Ended, Known, Next, Room as Waits, To};
use tokio::time::{Instant, timeout_at};

use crate::balance::{Cluster, Endpoint, Held, Picked};
use crate::link::connection::Link;
use crate::link::session::STREAM_CREDIT;
use crate::mesh::Mesh;
use crate::retry::REPLAY;
use crate::telemetry::{Moved as Outcome, MovedMetrics};
use crate::worker::Shared;

/// What all requests have together of what is kept.
#[derive(Default)]
pub(crate) struct Room {
    /// Bytes of bodies that are kept, or may come to be.
    kept: AtomicUsize,
    /// Of each Service that some wait for: requests that wait until it is reached elsewhere, and their bytes.
    waiting: Mutex<HashMap<ServicePort, Waits>>,
    /// A control plane says where Services are.
    is_heard: AtomicBool,
}

/// One request that is kept.
pub(crate) struct Keeps {
    shared: Arc<Shared>,
    /// Its head, and the most that is kept of its body.
    head: usize,
    body: usize,
    is_measured: bool,
    /// It came back once, and is to be sent on from wherever it goes.
    back: Option<Back>,
}

/// What became of a request that came back. Counted when this is dropped: it may go to more than one place.
struct Back {
    outcome: Outcome,
    /// It went back there, as nothing else was known.
    there: Option<Arc<Endpoint>>,
}

impl Room {
    /// A control plane is heard, or is not any more.
    pub(crate) fn is_heard(&self, is_heard: bool) {
        self.is_heard.store(is_heard, Relaxed);
    }

    /// How many bytes of bodies may be kept now.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> usize {
        self.kept.load(Relaxed)
    }

    /// How many requests wait.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.lock().unwrap().values().map(|waits| waits.requests()).sum()
    }
}

impl Keeps {
    /// Keeps a request with a head of so many bytes. `length`: of its body, where that is known. None: it is not kept, as the body
    /// is longer than what is kept of one, or there is no room.
    #[cold]
    #[inline(never)]
    pub(crate) fn request(shared: &Arc<Shared>, head: usize, length: Option<u64>) -> Option<Box<Self>> {
        let body = length.map_or(Some(REPLAY), |length| usize::try_from(length).ok())?;
        if body > REPLAY {
            return None;
        }
        let keeps = Keeps { shared: shared.clone(), head, body, is_measured: length.is_some(), back: None };
        // Counted first: what does not fit is let go of with it.
        let kept = shared.moved.kept.fetch_add(body, Relaxed) + body;
        (kept <= MOST_KEPT).then(|| Box::new(keeps))
    }

    /// Whether to say over this link that as much as is sent until somebody reads it is kept. A body whose length is not known may
    /// be longer, and goes no further than the credit of a stream, which QUIC gives more of. What nothing is said of does not come
    /// back, and is kept no longer.
    pub(crate) fn is_said_over(keeps: &mut Option<Box<Self>>, attempts: Attempts, link: &Link) -> bool {
        Self::is_said(keeps, attempts, |keeps| keeps.is_measured || !link.is_quic())
    }

    /// The same where it is framed on its way: of what that adds it is not known how much it is.
    pub(crate) fn is_said_framed(keeps: &mut Option<Box<Self>>, attempts: Attempts) -> bool {
        Self::is_said(keeps, attempts, |keeps| keeps.is_measured)
    }

    fn is_said(
        keeps: &mut Option<Box<Self>>,
        attempts: Attempts,
        may_be: impl FnOnce(&Self) -> bool,
    ) -> bool {
        let Some(known) = keeps else { return false };
        // Where it fell back, it may go elsewhere still if it does not get there.
        let is_said = attempts.may_return() && may_be(known);
        if !is_said && attempts.may_return() {
            *keeps = None;
        }
        is_said
    }

    /// It was refused where its Service was. Takes it, if it may be sent elsewhere. `is_whole`: everything that was sent of it is
    /// at hand.
    pub(crate) fn take(
        keeps: &mut Option<Box<Self>>,
        attempts: &mut Attempts,
        is_whole: bool,
    ) -> Option<Box<Self>> {
        let known = Known { is_kept: is_whole && keeps.is_some(), is_repeatable: false };
        if attempts.ended(Ended::Returned, known) != Next::Wait {
            return None;
        }
        let mut taken = keeps.take()?;
        taken.back = Some(Back { outcome: Outcome::Nowhere, there: None });
        Some(taken)
    }

    /// It was refused at `from`, where its Service was, and has `held` of the limits of its port. Waits until that is reached
    /// elsewhere, and gives where it goes then; it is still kept for that. Where nobody says so in time, there is no room to wait, or
    /// nobody is to be picked there, that is `from` again, which sends on what does not say that it is kept.
    pub(crate) async fn elsewhere(
        mut self: Box<Self>,
        (from, held): (Arc<Endpoint>, Held),
    ) -> (Picked, Box<Self>) {
        let found = self.waits(from.key(), &from).await;
        let now = std::time::Instant::now();
        let found = found.and_then(|mesh| {
            let known = mesh.destination(from.key()).ok_or(Outcome::Unpicked)?;
            known.cluster.pick_within(now).map_err(|_| Outcome::Unpicked)
        });
        let (mut picked, outcome, there) = match found {
            Ok(picked) => (picked, Outcome::Elsewhere, None),
            Err(why) => (Cluster::take(&from, now), why, Some(from)),
        };
        if let Some(back) = &mut self.back {
            (back.outcome, back.there) = (outcome, there);
        }
        picked.hold(held);
        (picked, self)
    }

    /// Where it goes, as it came back and is not waiting any more.
    pub(crate) fn to(&self) -> To {
        let is_back = self.back.as_ref().is_some_and(|back| back.there.is_some());
        if is_back { To::Back } else { To::Elsewhere }
    }

    /// It did not get to where it fell back to. Gives where its Service is reached by now, if that is elsewhere.
    #[cold]
    pub(crate) fn look_again(keeps: &mut Option<Box<Self>>) -> Option<Picked> {
        let Keeps { shared, back, .. } = &mut **keeps.as_mut()?;
        let back = back.as_mut()?;
        let (there, mesh) = (back.there.as_ref()?, shared.mesh.load());
        let known = mesh.destination(there.key()).filter(|_| is_elsewhere(&mesh, there.key(), there))?;
        let picked = known.cluster.pick(None, None, std::time::Instant::now()).ok()?;
        (back.outcome, back.there) = (Outcome::Elsewhere, None);
        Some(picked)
    }

    /// Gives what is known of the mesh once it is reached elsewhere.
    async fn waits(&self, key: &ServicePort, from: &Endpoint) -> Result<Arc<Mesh>, Outcome> {
        let (mesh, room) = (&self.shared.mesh, &self.shared.moved);
        let elsewhere = || Some(mesh.load_full()).filter(|mesh| is_elsewhere(mesh, key, from));
        if let Some(mesh) = elsewhere() {
            return Ok(mesh);
        }
        if !room.is_heard.load(Relaxed) {
            return Err(Outcome::Unheard);
        }
        let service = mesh.load().config.services.get(&key.service).cloned();
        let state = service.and_then(|service| service.state.clone());
        let Some(park) = state.map(|state| state.park) else { return Err(Outcome::Expired) };
        let most = (park.requests, park.bytes);
        let Some(_waiting) = Waiting::enter((room, key), (self.head + self.body) as u64, most) else {
            return Err(Outcome::Full);
        };
        let until = Instant::now() + park.wait.min(LONGEST);
        loop {
            let changed = mesh.changed();
            if let Some(mesh) = elsewhere() {
                return Ok(mesh);
            }
            if timeout_at(until, changed).await.is_err() {
                return Err(Outcome::Expired);
            }
        }
    }
}

impl Drop for Keeps {
    fn drop(&mut self) {
        self.shared.moved.kept.fetch_sub(self.body, Relaxed);
    }
}

/// Whether a Service is reached, and not at `from`.
fn is_elsewhere(mesh: &Mesh, key: &ServicePort, from: &Endpoint) -> bool {
    let endpoints = mesh.destination(key).map_or(&[][..], |known| known.cluster.endpoints());
    !endpoints.is_empty() && endpoints.iter().all(|endpoint| endpoint.address != from.address)
}

/// One that waits for this Service, with so many bytes, until this is dropped.
struct Waiting<'a>(&'a Room, &'a ServicePort, u64);

impl<'a> Waiting<'a> {
    /// One of so many bytes. None: there is no room, of so many requests and bytes for its Service.
    fn enter((room, key): (&'a Room, &'a ServicePort), bytes: u64, most: (u32, u64)) -> Option<Self> {
        let mut waiting = room.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut waits = waiting.get(key).copied().unwrap_or_default();
        waits.enter(bytes, most).then(|| {
            waiting.insert(key.clone(), waits);
            Waiting(room, key, bytes)
        })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waits) = waiting.get_mut(self.1) {
            waits.leave(self.2);
            if waits.requests() == 0 {
                waiting.remove(self.1);
            }
        }
    }
}

impl Drop for Back {
    fn drop(&mut self) {
        MovedMetrics::count(self.outcome);
    }
}

// Of what goes without being read nothing is lost.
const _: () = assert!(STREAM_CREDIT as usize <= REPLAY);

/// Most bytes of all bodies that are kept.
const MOST_KEPT: usize = 64 << 20;

/// The longest that a request waits here: where it was refused it is sent on at any time. Tests wait for what they say.
const LONGEST: Duration = Duration::from_secs(if cfg!(test) { 60 } else { 1 });
