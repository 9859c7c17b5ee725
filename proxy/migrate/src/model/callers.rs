//! Callers, their sidecar, and its links.

use std::time::Duration;

use super::parts::{Down, Up, key, number, op_of};
use super::world::{Bounds, NEW, OLD, World, at_place};
use crate::*;

impl World {
    pub(super) fn call(&mut self, client: usize, bounds: &Bounds) {
        let index = self.clients[client].next;
        let id = number(client, index);
        self.clients[client].next += 1;
        self.clients[client].waits = Some(id);
        self.history.begin(id, op_of(bounds.scripts, id));
        let call = Call {
            id: RequestId(id),
            source: SourceId(client as u64),
            bytes: 1,
            deadline: None,
            is_repeatable: op_of(bounds.scripts, id) == Op::Read,
            is_kept: bounds.keeps,
        };
        let result = self.hold(|holder, now, out| holder.call(call, now, out));
        self.note(result);
    }

    /// The holder does something, and what follows from it.
    pub(super) fn hold(
        &mut self,
        does: impl FnOnce(&mut Holder, Duration, &mut Vec<HoldAction>),
    ) -> Result<(), String> {
        let Some(holder) = &mut self.holder else { return Ok(()) };
        let mut out = Vec::new();
        does(holder, self.now, &mut out);
        for action in out {
            match action {
                HoldAction::Send { id, to, tries } => {
                    let link = &mut self.links[at_place(to)];
                    let key = key(id, tries);
                    if !link.broken {
                        link.up.push_back(Up::Request(key));
                        link.open.insert(key);
                    }
                }
                HoldAction::Fail(id, failure) => self.answer(id.0, Err(failure.is_unknown()))?,
            }
        }
        Ok(())
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
            Some(Down::Refused(key, refusal)) => {
                let id = RequestId(key.0 / 128);
                self.hold(|holder, now, out| holder.refused(id, refusal, now, out))
            }
            None => Ok(()),
        }
    }

    pub(super) fn hear_answer(
        &mut self,
        key: RequestId,
        outcome: Result<Option<u64>, bool>,
    ) -> Result<(), String> {
        let id = RequestId(key.0 / 128);
        let Some(holder) = &mut self.holder else { return Ok(()) };
        let before = holder.in_flight();
        holder.answered(id);
        if holder.in_flight() == before { Ok(()) } else { self.answer(id.0, outcome) }
    }

    pub(super) fn break_link(&mut self, at: usize) {
        let link = &mut self.links[at];
        link.broken = true;
        link.up.clear();
        link.down.clear();
        link.open.clear();
    }

    /// The sidecar of callers sees that a link is lost, and makes another.
    pub(super) fn notice(&mut self, at: usize) -> Result<(), String> {
        self.links[at].broken = false;
        self.links[at].life += 1;
        let place = if at == 0 { OLD } else { NEW };
        self.hold(|holder, now, out| holder.lost(place, now, out))
    }
}
