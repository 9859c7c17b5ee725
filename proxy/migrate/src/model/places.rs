//! Places, and the services behind them.

use std::time::Duration;

use super::parts::{Body, Down, Net, Origin, Up, op_of};
use super::world::{Bounds, World, digest, role_at};
use crate::*;

impl World {
    pub(super) fn up(&mut self, at: usize, bounds: &Bounds) {
        match self.links[at].up.pop_front() {
            Some(Up::Request(key, is_kept)) => {
                let arrival = Arrival {
                    id: key,
                    source: SourceId(self.links[at].life),
                    bytes: bounds.bytes,
                    deadline: None,
                    kind: bounds.kind,
                    is_inside: false,
                    is_kept,
                    is_forwarded: false,
                };
                let origin = Origin::Link(self.links[at].life);
                self.arrive(at, arrival, origin);
            }
            Some(Up::Gone(life)) => self.place(at, |place, _, out| place.gone(SourceId(life), out)),
            None => {}
        }
    }

    pub(super) fn arrive(&mut self, at: usize, arrival: Arrival, origin: Origin) {
        let Some(body) = &mut self.places[at] else { return };
        let key = arrival.id;
        body.origins.insert(key, origin);
        let mut out = Vec::new();
        let verdict = body.place.arrive(arrival, self.now, &mut out);
        match verdict {
            Verdict::Run => body.running.push(key),
            Verdict::Park => {}
            Verdict::Refuse(refusal) => self.reply(at, key, Down::Refused(key, refusal)),
            Verdict::Forward(_) => self.forwards.push_back((at, key, self.lives[at])),
        }
        self.perform_place(at, out);
    }

    /// A place does something, and what follows from it.
    pub(super) fn place(
        &mut self,
        at: usize,
        does: impl FnOnce(&mut Place, Duration, &mut Vec<PlaceAction>),
    ) {
        let Some(body) = &mut self.places[at] else { return };
        let mut out = Vec::new();
        does(&mut body.place, self.now, &mut out);
        self.perform_place(at, out);
    }

    pub(super) fn perform_place(&mut self, at: usize, actions: Vec<PlaceAction>) {
        for action in actions {
            let Some(body) = &mut self.places[at] else { return };
            match action {
                PlaceAction::Report(report) => {
                    self.net.insert(Net::FromPlace(role_at(at), report));
                }
                PlaceAction::Run(key) => body.running.push(key),
                PlaceAction::Refuse(key, refusal) => self.reply(at, key, Down::Refused(key, refusal)),
                PlaceAction::Forward(key, _) => self.forwards.push_back((at, key, self.lives[at])),
                PlaceAction::Answer(key) => {
                    if body.cut.contains(&key) {
                        self.wrong = Some(format!("{key:?} was cut, and is answered as if it were whole"));
                        return;
                    }
                    let read = body.reads.remove(&key).unwrap_or_default();
                    self.reply(at, key, Down::Done(key, read));
                }
                PlaceAction::AnswerUnknown(key) => {
                    body.reads.remove(&key);
                    self.reply(at, key, Down::Unknown(key));
                }
                // They end when they come to it.
                PlaceAction::CutStreams => body.cut.extend(&body.running),
                PlaceAction::CutAll => {
                    body.cut.extend(&body.running);
                    let (own, others) = self.forwards.drain(..).partition(|(from, ..)| *from == at);
                    self.forwards = others;
                    for (_, key, _) in own {
                        self.reply(at, key, Down::Unknown(key));
                        self.place(at, |place, _, out| place.forwarded(out));
                    }
                }
                PlaceAction::Reserve | PlaceAction::Warm | PlaceAction::Snapshot { .. } if self.slow => {
                    body.hook = Some(action);
                }
                // Otherwise these take no time.
                PlaceAction::Reserve => self.place(at, |place, _, out| place.reserved(true, out)),
                PlaceAction::Warm => self.place(at, |place, _, out| place.warmed(true, out)),
                PlaceAction::Snapshot { round } => self.copy(at, round),
                PlaceAction::Fetch(copy, have) => body.fetching = Some((copy, have)),
                PlaceAction::Thaw => {
                    body.copy = None;
                    body.hook = None;
                    self.place(at, |place, _, out| place.thawed(out));
                }
                PlaceAction::DropFrozen => {
                    body.copy = None;
                    body.hook = None;
                }
                PlaceAction::Discard => {
                    body.fetching = None;
                    body.fetched.clear();
                    body.value = 0;
                }
                PlaceAction::Freeze | PlaceAction::Activate(_) | PlaceAction::Begin(_) => {
                    body.hook = Some(action);
                    body.fetching = None;
                    body.fetched.clear();
                }
                PlaceAction::Recover(_) => self.wrong = Some("there is no journal to go on with".into()),
            }
        }
    }

    /// The service at a place gives a copy while it serves.
    fn copy(&mut self, at: usize, round: u32) {
        let Some(body) = &mut self.places[at] else { return };
        let value = body.value;
        let copy = Copy { round, base: round - 1, bytes: 2, digest: digest(value), last: false };
        body.copy = Some((copy, value));
        self.place(at, |place, _, out| place.copied(copy, out));
    }

    pub(super) fn reply(&mut self, at: usize, key: RequestId, down: Down) {
        let Some(body) = &mut self.places[at] else { return };
        match body.origins.remove(&key) {
            Some(Origin::Link(life)) => {
                let link = &mut self.links[at];
                if link.life == life && !link.broken {
                    link.open.remove(&key);
                    link.down.push_back(down);
                }
            }
            // The one that sent it on passes the answer on, if it is still there.
            Some(Origin::Place(life)) => self.pass_on(1 - at, life, key, down),
            None => {}
        }
    }

    /// What a place sent on in this life is answered, if it is still there.
    fn pass_on(&mut self, at: usize, life: u64, key: RequestId, down: Down) {
        if self.lives[at] == life && self.places[at].is_some() {
            self.place(at, |place, _, out| place.forwarded(out));
            self.reply(at, key, down);
        }
    }

    /// A request runs, and is done.
    pub(super) fn run(&mut self, at: usize, run: usize, bounds: &Bounds) -> Result<(), String> {
        let Some(body) = &mut self.places[at] else { return Ok(()) };
        let key = body.running.remove(run);
        let id = key.0 / 128;
        let op = op_of(bounds.scripts, id);
        let serves = matches!(body.place.stand(), Stand::Serving { .. } | Stand::Parking { .. });
        if body.cut.contains(&key) && !serves {
            // The service does nothing for it any more.
            self.place(at, |place, now, out| place.finished(key, bounds.kind, End::Cut, now, out));
            return Ok(());
        }
        if op != Op::Read {
            let count = self.runs.entry(id).or_default();
            *count += 1;
            if *count > 1 {
                return Err(format!("request {id} runs twice"));
            }
        }
        if bounds.class != Class::Stateless {
            let epoch = match body.place.stand() {
                Stand::Serving { epoch } | Stand::Parking { epoch } => epoch,
                // The planted fault.
                Stand::Frozen { epoch } => epoch,
                stand => return Err(format!("a request runs at a place that is {stand:?}")),
            };
            let who = (at, self.lives[at]);
            if let Some((last, _)) = self.served.last_key_value()
                && *last > epoch
                && !self.lied
            {
                return Err(format!("{epoch:?} is served after {last:?}"));
            }
            if *self.served.entry(epoch).or_insert(who) != who {
                return Err(format!("{epoch:?} is served by two"));
            }
        }
        let read = match op {
            Op::Read => Some(body.value),
            Op::Write(value) => {
                body.value = value;
                None
            }
        };
        body.reads.insert(key, read);
        let end = if body.cut.contains(&key) { End::Cut } else { End::Done };
        self.place(at, |place, now, out| place.finished(key, bounds.kind, end, now, out));
        // What is not linearizable for want of state is none of a stateless service's.
        Ok(())
    }

    pub(super) fn hook(&mut self, at: usize, works: bool) {
        let Some(body) = &mut self.places[at] else { return };
        match body.hook.take() {
            Some(PlaceAction::Freeze) => {
                let value = body.value;
                self.place(at, |place, _, out| place.frozen(digest(value), 2, true, out));
                let Some(body) = &mut self.places[at] else { return };
                if let Some(report) = body.place.copy() {
                    body.copy = Some((report, value));
                }
            }
            Some(PlaceAction::Snapshot { round }) if works => self.copy(at, round),
            Some(PlaceAction::Snapshot { .. }) => self.place(at, |place, _, out| place.not_copied(out)),
            Some(PlaceAction::Reserve) => self.place(at, |place, _, out| place.reserved(works, out)),
            Some(PlaceAction::Warm) => self.place(at, |place, _, out| place.warmed(works, out)),
            Some(PlaceAction::Begin(_)) => {
                body.value = 0;
                self.place(at, |place, _, out| place.opened(works, out));
            }
            Some(_) => self.place(at, |place, _, out| place.opened(works, out)),
            None => {}
        }
    }

    pub(super) fn can_fetch(&self) -> bool {
        let [Some(old), Some(new)] = &self.places else { return false };
        match (&old.copy, &new.fetching) {
            (Some((copy, _)), Some((wanted, _))) => copy == wanted,
            _ => false,
        }
    }

    /// The next half of a copy comes.
    pub(super) fn fetch(&mut self) {
        let [Some(old), Some(new)] = &mut self.places else { return };
        let (Some((copy, value)), Some((_, have))) = (old.copy, new.fetching) else { return };
        if new.place.fetched(copy, have, 1) {
            new.fetched.push(value);
            new.fetching = Some((copy, have + 1));
        }
        if new.place.is_whole() {
            new.fetching = None;
            let halves = std::mem::take(&mut new.fetched);
            new.value = halves.last().copied().unwrap_or_default();
            let is_one = halves.iter().all(|half| *half == new.value);
            let found = digest(if is_one { new.value } else { u64::MAX });
            self.place(1, |place, _, out| place.restored(copy, found, out));
        }
    }

    /// What a place sends on comes to the other one, or does not.
    pub(super) fn forward(&mut self, bounds: &Bounds) {
        let Some((from, key, life)) = self.forwards.pop_front() else { return };
        let to = 1 - from;
        if self.places[to].is_none() {
            self.pass_on(from, life, key, Down::Unknown(key));
            return;
        }
        let arrival = Arrival {
            id: key,
            source: SourceId(u64::MAX),
            bytes: bounds.bytes,
            deadline: None,
            kind: bounds.kind,
            is_inside: false,
            is_kept: false,
            is_forwarded: true,
        };
        self.arrive(to, arrival, Origin::Place(life));
    }

    pub(super) fn die_place(&mut self, at: usize) {
        let Some(body) = self.places[at].take() else { return };
        self.break_link(at);
        // Whoever sent something on finds out.
        for (key, origin) in body.origins {
            if let Origin::Place(life) = origin {
                self.pass_on(1 - at, life, key, Down::Unknown(key));
            }
        }
        self.forwards.retain(|(from, ..)| *from != at);
    }

    pub(super) fn restart(&mut self, at: usize, bounds: &Bounds) {
        self.lives[at] += 1;
        let mut place = Place::new(bounds.class, Incarnation(self.lives[at]), bounds.room);
        place.faults.planted = bounds.planted;
        place.parked.faults.planted = bounds.planted;
        self.places[at] = Some(Body::new(place));
        // Whoever begins says so.
        self.ask(at);
    }

    /// A place says how it is.
    pub(super) fn ask(&mut self, at: usize) {
        let ask = Command { stamp: Stamp::default(), incarnation: None, order: Order::Ask };
        self.place(at, |place, now, out| place.command(ask, now, out));
    }
}
