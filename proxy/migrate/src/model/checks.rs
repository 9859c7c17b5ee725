//! What has to hold, and what makes two states one.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::parts::{Body, Net, Sidecar};
use super::world::{Bounds, LATE, NEW, OLD, World, at, at_place, role_at};
use crate::planted::Planted;
use crate::*;

impl World {
    /// What has to hold always.
    pub(super) fn check(&mut self, bounds: &Bounds) -> Result<(), String> {
        if let Some(wrong) = self.wrong.take() {
            return Err(wrong);
        }
        let epoch = |body: &Option<Body>| body.as_ref().and_then(|body| body.place.stand().serves());
        let serves = |body: &Option<Body>| epoch(body).is_some();
        let [old, new] = &self.places;
        let both = serves(old) && serves(new) && (!self.lied || epoch(old) == epoch(new));
        if bounds.class != Class::Stateless && both {
            return Err("both places serve".into());
        }
        for (at, body) in self.places.iter().enumerate() {
            let (who, Some(epoch)) = ((at, self.lives[at]), epoch(body)) else { continue };
            if bounds.class != Class::Stateless && *self.served.entry(epoch).or_insert(who) != who {
                return Err(format!("{epoch:?} is served by two, or in two lives"));
            }
            let Cell { epoch: last, owner, .. } = self.store.cell;
            let is_its = owner == Owner { place: [OLD, NEW][at], incarnation: Incarnation(who.1) };
            if bounds.class != Class::Stateless && epoch == last && !is_its {
                return Err(format!("{epoch:?} is served by another life than it was given to"));
            }
        }
        let queue = |queue: &Queue| (queue.len(), queue.bytes());
        for body in self.places.iter().flatten() {
            bounded("parked", queue(body.place.parked()), bounds)?;
        }
        if let Some(Sidecar { holder, waiting, .. }) = &self.sidecar {
            bounded("held", queue(holder.held()), bounds)?;
            bounded("given back", (waiting.len(), waiting.len() * bounds.bytes), bounds)?;
        }
        if let Some(sidecar) = &self.sidecar
            && self.store.cell.decision == Decision::Fenced
            && sidecar.holder.is_holding()
            && sidecar.route.1 == self.store.cell.epoch
        {
            return Err("it is held though where the service went is known".into());
        }
        if self.control.as_ref().is_some_and(|control| control.said() > bounds.said) {
            return Err("it does not get on, however often it is said".into());
        }
        // Before it quiesces nobody notices anything.
        let quiet = self.died.is_empty() && self.zombie.is_none();
        let early = |record: &Record| matches!(record, Record::Entered(phase) if *phase >= Phase::Quiesce);
        if quiet && !self.store.records.iter().any(early) && !serves(&self.places[0]) {
            return Err("nobody serves before the old place is to quiesce".into());
        }
        Ok(())
    }

    /// Where nothing more happens, everything has.
    pub(super) fn check_rest(&self, bounds: &Bounds) -> Result<(), String> {
        let control = self.control.as_ref().ok_or("there is no control plane")?;
        if bounds.stays > 0 && self.places[at_place(self.store.cell.owner.place)].is_none() {
            // Nobody else may serve before somebody vouches for it.
            return Ok(());
        }
        if !control.is_settled() {
            return Err(format!("it does not get on from {:?}: {:?}", control.phase(), control.cell()));
        }
        let cell = self.store.cell;
        if cell != *control.cell() {
            return Err("the control plane does not know what was decided".into());
        }
        for (at, body) in self.places.iter().enumerate() {
            let Some(body) = body else {
                if bounds.stays > 0 {
                    continue;
                }
                return Err("a place is dead".into());
            };
            let owns = at == at_place(cell.owner.place);
            let takes = body.place.stand().serves().is_some() || body.place.stand() == Stand::Warm;
            if owns != takes {
                return Err(format!("{:?} is {:?}", role_at(at), body.place.stand()));
            }
            if body.place.running() != Running::default() || !body.place.parked().is_empty() {
                return Err(format!("{:?} has not finished", role_at(at)));
            }
        }
        if bounds.class != Class::Stateless
            && !self.lied
            && let Some(owner) = &self.places[at_place(cell.owner.place)]
        {
            // Whoever asks last.
            let mut history = self.history.clone();
            history.begin(u64::MAX, Op::Read);
            history.done(u64::MAX, Some(owner.value)).map_err(|wrong| wrong.to_string())?;
        }
        let Sidecar { holder, route, waiting, .. } =
            self.sidecar.as_ref().ok_or("there is no sidecar of callers")?;
        let has_route = route.0 == cell.owner.place;
        if holder.is_holding() || !holder.held().is_empty() || !waiting.is_empty() || !has_route {
            return Err(format!("the sidecar of callers is left behind: {route:?}"));
        }
        for (client, script) in self.clients.iter().zip(bounds.scripts) {
            if client.waits.is_some() || client.next < script.len() {
                return Err("a request is not answered".into());
            }
            // Where time may pass requests may be cut.
            let may_cut = bounds.timeouts > 0 && bounds.kind == Kind::Stream || bounds.timeouts > 2;
            let is_calm = self.died.is_empty() && self.breaks == 0 && !may_cut && !self.lied;
            if is_calm && client.unknown > 0 {
                return Err("an outcome is unknown though nobody died".into());
            }
            // Two may not have room to wait, and what was told long ago may be wrong.
            let must_be_done =
                bounds.timeouts == 0 && bounds.keeps && !bounds.astray && self.clients.len() < 2;
            if is_calm && must_be_done && client.failed > 0 {
                return Err("a request failed though nobody died".into());
            }
        }
        Ok(())
    }

    /// Everything that waits for time to pass is done.
    pub(super) fn pass(&mut self, bounds: &Bounds) -> Result<(), String> {
        self.timeouts = self.timeouts.saturating_sub(4);
        // Whoever stays away is told again until the phase takes too long.
        self.passed += u8::from(bounds.stays > 0);
        let late = if bounds.stays > 0 { LATE } else { Duration::ZERO };
        self.control(|control, _, out| {
            if let Some(timeout) = control.timeout() {
                control.on_timeout(timeout + late, out);
            }
        });
        for at in 0..2 {
            self.place(at, |place, _, out| {
                if let Some(timeout) = place.timeout() {
                    place.on_timeout(timeout, out);
                }
            });
        }
        match self.sidecar.as_ref().and_then(Sidecar::timeout) {
            Some(timeout) => self.sidecar_late(timeout),
            None => Ok(()),
        }
    }

    /// States that differ in moments and counts only are one, and so are those that differ in messages only that do nothing.
    pub(super) fn rest(&mut self, bounds: &Bounds) {
        self.forget(bounds);
        for body in self.places.iter_mut().flatten() {
            body.place.rest();
        }
        self.control.iter_mut().chain(&mut self.zombie).for_each(Coordinator::rest);
        self.sidecar.iter_mut().for_each(Sidecar::rest);
    }

    /// Messages that would be answered only by what is known are as good as lost.
    pub(super) fn forget(&mut self, bounds: &Bounds) {
        let is_careless = bounds.planted == Some(Planted::AnyStamp);
        let any_life = bounds.planted == Some(Planted::AnyLife);
        if bounds.doubles || is_careless {
            return;
        }
        let World { net, control, places, .. } = self;
        let known = |role: Role, report: &Report| {
            control.as_ref().is_none_or(|control| control.has_heard(role, report))
        };
        let said: Vec<(Role, Option<Report>)> = Role::BOTH
            .into_iter()
            .map(|role| (role, places[at(role)].as_ref().and_then(|body| body.place.said())))
            .collect();
        let under_way: Vec<(Role, Report)> = net
            .iter()
            .filter_map(|message| match message {
                Net::FromPlace(role, report) => Some((*role, *report)),
                _ => None,
            })
            .collect();
        net.retain(|message| match message {
            // Nothing but what was said already would be said.
            Net::ToPlace(role, command) if command.order == Order::Ask => match said[at(*role)].1 {
                Some(report) => !known(*role, &report) && !under_way.contains(&(*role, report)),
                None => true,
            },
            Net::ToPlace(role, command) => match &places[at(*role)] {
                Some(body) => {
                    let lives = any_life || command.incarnation >= Some(body.place.incarnation);
                    lives && command.stamp > body.place.gate
                }
                None => true,
            },
            Net::FromPlace(role, report) => !known(*role, report),
            _ => true,
        });
    }

    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

/// Whether no more waits than has room.
fn bounded(what: &str, (count, bytes): (usize, usize), bounds: &Bounds) -> Result<(), String> {
    if count > bounds.room.count {
        return Err(format!("more is {what} than may be"));
    }
    if bytes > bounds.room.bytes {
        return Err(format!("more bytes are {what} than may be"));
    }
    Ok(())
}
