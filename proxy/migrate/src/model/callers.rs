//! Callers, their sidecar, and its links.

use std::collections::BTreeMap;
use std::time::Duration;

use super::parts::{Down, Sent, Sidecar, Up, key, number, op_of};
use super::world::{Bounds, NEW, OLD, TRIES, World, at_place};
use crate::*;

impl Sidecar {
    /// One that knows this of where the service is.
    pub(super) fn new(route: (PlaceId, Epoch), bounds: &Bounds) -> Self {
        let mut holder = Holder::new(bounds.room);
        holder.plant(bounds.planted);
        let mut room = Room::default();
        room.faults.planted = bounds.planted;
        let bytes = bounds.bytes as u64;
        Sidecar { holder, route, sent: BTreeMap::new(), waiting: BTreeMap::new(), room, bytes }
    }

    /// When something is due.
    pub(super) fn timeout(&self) -> Option<Duration> {
        let waiting = self.waiting.values().map(|(_, until)| *until);
        waiting.chain(self.holder.timeout()).min()
    }

    pub(super) fn rest(&mut self) {
        self.holder.rest();
        for (_, until) in self.waiting.values_mut() {
            *until = Duration::from_secs(1);
        }
    }
}

impl World {
    pub(super) fn call(&mut self, client: usize, bounds: &Bounds) {
        let index = self.clients[client].next;
        let id = number(client, index);
        self.clients[client].next += 1;
        self.clients[client].waits = Some(id);
        self.history.begin(id, op_of(bounds.scripts, id));
        let Some(sidecar) = &mut self.sidecar else { return };
        let mut attempts = Attempts::default();
        attempts.faults.planted = bounds.planted;
        let is_repeatable = op_of(bounds.scripts, id) == Op::Read;
        let known = Known { is_kept: bounds.keeps, is_repeatable };
        let sent = Sent { attempts, known, to: sidecar.route.0, tries: 0, is_free: true };
        sidecar.sent.insert(RequestId(id), sent);
        if sidecar.route.0 != OLD {
            // Nobody asks whether that is held.
            return self.send(RequestId(id));
        }
        let source = SourceId(client as u64);
        let call = Call { id: RequestId(id), source, bytes: bounds.bytes, deadline: None };
        let result = self.hold(|holder, now, out| holder.call(call, now, out));
        self.note(result);
    }

    /// The holder does something, and what follows from it.
    pub(super) fn hold(
        &mut self,
        does: impl FnOnce(&mut Holder, Duration, &mut Vec<HoldAction>),
    ) -> Result<(), String> {
        let Some(sidecar) = &mut self.sidecar else { return Ok(()) };
        let mut out = Vec::new();
        does(&mut sidecar.holder, self.now, &mut out);
        for action in out {
            match action {
                HoldAction::Go(id) => {
                    if let Some(sidecar) = &mut self.sidecar
                        && let Some(sent) = sidecar.sent.get_mut(&id)
                    {
                        sent.to = sidecar.route.0;
                    }
                    self.send(id);
                }
                HoldAction::Late(id) => self.fail(id)?,
            }
        }
        Ok(())
    }

    /// The control plane commands it to hold, or not to.
    pub(super) fn told(&mut self, stamp: Stamp, order: HoldOrder) -> Result<(), String> {
        let is_elsewhere = self.sidecar.as_ref().is_some_and(|sidecar| sidecar.route.0 != OLD);
        if is_elsewhere && matches!(order, HoldOrder::Hold(..)) {
            // It comes late: where the service went is known.
            return Ok(());
        }
        self.hold(|holder, now, out| {
            holder.command(stamp, order, now, out);
        })
    }

    /// An attempt is made where it goes.
    fn send(&mut self, id: RequestId) {
        let Some(sent) = self.sidecar.as_ref().and_then(|sidecar| sidecar.sent.get(&id)) else { return };
        let link = &mut self.links[at_place(sent.to)];
        let key = key(id, sent.tries);
        if !link.broken {
            link.up.push_back(Up::Request(key, sent.says_kept()));
            link.open.insert(key);
        }
    }

    /// There is another attempt.
    fn send_again(&mut self, id: RequestId, to: PlaceId) {
        let Some(sent) = self.sidecar.as_mut().and_then(|sidecar| sidecar.sent.get_mut(&id)) else { return };
        sent.tries += 1;
        sent.to = to;
        self.send(id);
    }

    /// One was not answered.
    fn ended(&mut self, id: RequestId, how: Ended) -> Result<(), String> {
        let Some(sidecar) = &mut self.sidecar else { return Ok(()) };
        let (here, most) = (sidecar.route.0, sidecar.holder.held().bounds());
        let Some(sent) = sidecar.sent.get_mut(&id) else { return Ok(()) };
        match sent.attempts.ended(how, sent.known) {
            Next::Fail => return self.fail(id),
            Next::Wait if here != sent.to => {
                sent.attempts.goes(To::Elsewhere);
                self.send_again(id, here);
            }
            Next::Wait if sidecar.room.enter(sidecar.bytes, (most.count as u32, most.bytes as u64)) => {
                if let Some(sent) = sidecar.sent.remove(&id) {
                    sidecar.waiting.insert(id, (sent, self.now.saturating_add(most.time)));
                }
            }
            Next::Wait => {
                sent.attempts.goes(To::Back);
                let from = sent.to;
                self.send_again(id, from);
            }
            Next::Look if here != sent.to => {
                sent.attempts.goes(To::Elsewhere);
                self.send_again(id, here);
            }
            // What nobody has executed has one by itself.
            Next::Look | Next::Again if how == Ended::Unread && !sent.is_free => return self.fail(id),
            Next::Look | Next::Again => {
                sent.is_free &= how != Ended::Unread;
                if sent.tries == TRIES {
                    return self.fail(id);
                }
                self.send_again(id, here);
            }
        }
        Ok(())
    }

    /// It is answered with an error.
    fn fail(&mut self, id: RequestId) -> Result<(), String> {
        let sent = self.sidecar.as_mut().and_then(|sidecar| sidecar.sent.remove(&id));
        let Some(sent) = sent else { return Ok(()) };
        self.answer(id.0, Err(sent.attempts.may_have_run()))
    }

    /// Those that wait go on, as the service is elsewhere by now, or their time is over.
    fn wait_over(&mut self, is_over: impl Fn(&Sent, Duration) -> bool) {
        let Some(sidecar) = &mut self.sidecar else { return };
        let here = sidecar.route.0;
        let over =
            sidecar.waiting.iter().filter(|(_, (sent, until))| here != sent.to || is_over(sent, *until));
        let over: Vec<RequestId> = over.map(|(id, _)| *id).collect();
        for id in over {
            let Some(sidecar) = &mut self.sidecar else { return };
            let Some((mut sent, _)) = sidecar.waiting.remove(&id) else { continue };
            sidecar.room.leave(sidecar.bytes);
            let to = if here == sent.to { To::Back } else { To::Elsewhere };
            sent.attempts.goes(to);
            sidecar.sent.insert(id, sent);
            self.send_again(id, here);
        }
    }

    /// It learns where the service is.
    pub(super) fn push(&mut self) -> Result<(), String> {
        let Some(sidecar) = &mut self.sidecar else { return Ok(()) };
        sidecar.route = self.registry;
        let has_moved = sidecar.holder.is_holding() && sidecar.route.0 != OLD;
        self.wait_over(|_, _| false);
        if has_moved { self.hold(|holder, _, out| holder.let_go(out)) } else { Ok(()) }
    }

    /// What is due at it by then.
    pub(super) fn sidecar_late(&mut self, due: Duration) -> Result<(), String> {
        self.wait_over(|_, until| until <= due);
        self.hold(|holder, _, out| holder.on_timeout(due, out))
    }

    /// A client gets its answer: what was done, or whether nobody knows.
    pub(super) fn answer(&mut self, id: u64, outcome: Result<Option<u64>, bool>) -> Result<(), String> {
        let lied = self.lied;
        let client = &mut self.clients[(id / 16) as usize];
        if client.waits != Some(id) {
            return Err(format!("request {id} is answered again"));
        }
        client.waits = None;
        match outcome {
            Ok(_) if lied => {
                client.done += 1;
                Ok(())
            }
            Ok(read) => {
                client.done += 1;
                self.history.done(id, read).map_err(|wrong| wrong.to_string())
            }
            Err(true) => {
                client.unknown += 1;
                self.history.unknown(id);
                Ok(())
            }
            Err(false) => {
                client.failed += 1;
                if lied {
                    return Ok(());
                }
                self.history.not_done(id).map_err(|wrong| wrong.to_string())
            }
        }
    }

    pub(super) fn down(&mut self, at: usize) -> Result<(), String> {
        match self.links[at].down.pop_front() {
            Some(Down::Done(key, read)) => self.hear_answer(key, Ok(read)),
            Some(Down::Unknown(key)) => self.hear_answer(key, Err(true)),
            Some(Down::Refused(key, refusal)) => self.hear_refusal(key, refusal),
            None => Ok(()),
        }
    }

    fn hear_answer(&mut self, key: RequestId, outcome: Result<Option<u64>, bool>) -> Result<(), String> {
        let id = RequestId(key.0 / 128);
        let sent = self.sidecar.as_mut().and_then(|sidecar| sidecar.sent.remove(&id));
        if sent.is_some() { self.answer(id.0, outcome) } else { Ok(()) }
    }

    /// As a place says it: what is kept and has moved it gives back; that it is not there, or not any more, any other place may
    /// be asked about; and all else is the answer.
    fn hear_refusal(&mut self, key: RequestId, refusal: Refusal) -> Result<(), String> {
        let id = RequestId(key.0 / 128);
        let sent = self.sidecar.as_ref().and_then(|sidecar| sidecar.sent.get(&id));
        let is_kept = sent.is_some_and(Sent::says_kept);
        match refusal.cause {
            RefusalCause::Moved if is_kept => self.ended(id, Ended::Returned),
            RefusalCause::Moved | RefusalCause::NotHere => self.ended(id, Ended::Unread),
            RefusalCause::Full | RefusalCause::Waited | RefusalCause::Late => self.fail(id),
        }
    }

    pub(super) fn break_link(&mut self, at: usize) {
        let link = &mut self.links[at];
        link.broken = true;
        link.up.clear();
        link.down.clear();
        link.open.clear();
    }

    /// The sidecar of callers sees that a link is lost, with whatever was on it, and makes another.
    pub(super) fn notice(&mut self, at: usize) -> Result<(), String> {
        self.links[at].broken = false;
        self.links[at].life += 1;
        let place = if at == 0 { OLD } else { NEW };
        let Some(sidecar) = &self.sidecar else { return Ok(()) };
        let held = |id: &RequestId| sidecar.holder.holds(*id);
        let lost = sidecar.sent.iter().filter(|(id, sent)| sent.to == place && !held(id));
        let lost: Vec<RequestId> = lost.map(|(id, _)| *id).collect();
        lost.into_iter().try_for_each(|id| self.ended(id, Ended::Lost))
    }
}
