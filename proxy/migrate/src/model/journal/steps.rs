//! What may happen, and what becomes of it.

use super::{Instance, Limits, MOST, Message, Saying, World};
use crate::journal::{Measured, Part, Taken, Told};

#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Write(u8),
    Send(u8, usize),
    Come(Message),
    ComeAndStay(Message),
    Report(u8),
    Tell(u8),
    /// The control plane changes who keeps the journal.
    Choose,
    /// It gives the service to another one, as the one that had it is gone.
    Grant,
    /// The owner of the epoch begins to take what there is for it, or to serve.
    Serve,
    /// One that had it before gives up what it has.
    GiveUp(u8),
    Die(u8),
    Cut(u8),
    Leave(u8),
    Move(u8),
    Lose(u8, usize),
    Restart(u8),
}

impl World {
    /// What may happen, and whether that is how things get on.
    pub(super) fn steps(&self, limits: &Limits) -> Vec<(Step, bool)> {
        let mut steps = Vec::new();
        let [deaths, cuts, leaves, moves, doubles, losses, restarts] = self.spent;
        for at in 0..limits.instances {
            let Some(there) = self.get(at) else { continue };
            let is_heard = self.heard.contains_key(&at);
            if there.serves.is_some() {
                if self.written < limits.writes {
                    steps.push((Step::Write(at), false));
                }
                for seat in 0..2 {
                    let mut probe = there.clone();
                    if probe.send(seat).is_some_and(|(round, to, given)| {
                        !self.net.contains(&there.give(at, round, to, given))
                    }) {
                        steps.push((Step::Send(at, seat), true));
                    }
                }
                if losses < limits.losses {
                    for seat in 0..2 {
                        if !there.lost[seat] && there.ledger.part() == Part::Beside {
                            steps.push((Step::Lose(at, seat), false));
                        }
                    }
                }
                if there.serves == Some(self.epoch) && restarts < limits.restarts {
                    steps.push((Step::Restart(at), false));
                }
                if is_heard && there.serves < Some(self.epoch) {
                    steps.push((Step::GiveUp(at), true));
                }
            }
            if let Some(heard) = self.heard.get(&at) {
                if *heard != (there.says(), there.serves) {
                    steps.push((Step::Report(at), true));
                }
                if deaths == 0 && cuts < limits.cuts {
                    steps.push((Step::Cut(at), false));
                }
                if !there.is_leaving && leaves < limits.leaves {
                    steps.push((Step::Leave(at), false));
                }
            }
            if deaths < limits.deaths {
                steps.push((Step::Die(at), false));
            }
        }
        let seen = self.seen();
        for (at, told) in self.parts(limits, &seen) {
            if !self.net.contains(&told) {
                steps.push((Step::Tell(at), true));
            }
        }
        if self.kept(limits).choose(&seen).is_some() {
            steps.push((Step::Choose, true));
        }
        let is_there = self.heard.contains_key(&self.owner);
        let has_lost = self.is_served && self.heard.get(&self.owner).is_some_and(|heard| heard.1.is_none());
        if (!is_there || has_lost) && !self.heard.is_empty() {
            steps.push((Step::Grant, true));
        }
        if is_there
            && self.get(self.owner).is_some_and(|there| there.serves < Some(self.epoch))
            && !self.is_served
        {
            steps.push((Step::Serve, true));
        }
        let is_quiet = |there: &Instance| there.serves == Some(self.epoch) && there.waiting.is_empty();
        if moves < limits.moves && self.is_served && is_there && self.get(self.owner).is_some_and(is_quiet) {
            steps
                .extend(self.heard.keys().filter(|at| **at != self.owner).map(|at| (Step::Move(*at), false)));
        }
        for message in &self.net {
            steps.push((Step::Come(*message), true));
            if doubles < limits.doubles {
                steps.push((Step::ComeAndStay(*message), false));
            }
        }
        steps
    }

    pub(super) fn take(&mut self, step: Step, limits: &Limits) -> Result<(), String> {
        match step {
            Step::Write(at) => {
                let bit = 1 << self.written;
                self.written += 1;
                if let Some(there) = self.at(at) {
                    there.has |= bit;
                    let ticket = there.ledger.rounds.ask();
                    there.waiting.push((ticket, there.has));
                }
            }
            Step::Send(at, seat) => {
                let sent = self.at(at).and_then(|there| {
                    let sent = there.send(seat)?;
                    let is_unreached = limits.unreached == Some(sent.1);
                    there.lost[seat] |= is_unreached;
                    (!is_unreached).then(|| (sent, there.clone()))
                });
                self.net.extend(sent.map(|((round, to, given), there)| there.give(at, round, to, given)));
            }
            Step::Come(message) => {
                self.net.remove(&message);
                self.come(message)?;
            }
            Step::ComeAndStay(message) => {
                self.spent[4] += 1;
                self.come(message)?;
            }
            Step::Report(at) => self.report(at),
            Step::Tell(at) => {
                let told = self.parts(limits, &self.seen()).into_iter().find(|(to, _)| *to == at);
                self.net.extend(told.map(|(_, told)| told));
            }
            Step::Choose => self.choose(limits),
            Step::Grant => self.grant(limits)?,
            Step::Serve => self.serve()?,
            Step::GiveUp(at) => {
                if let Some(there) = self.at(at) {
                    there.serves = None;
                    there.ledger.lose();
                }
            }
            Step::Die(at) => {
                self.spent[0] += 1;
                if let Some(there) = self.instances.get_mut(usize::from(at)) {
                    *there = None;
                }
                self.heard.remove(&at);
            }
            Step::Cut(at) => {
                self.spent[1] += 1;
                self.heard.remove(&at);
                self.net.retain(|message| !matches!(message, Message::Tell { to, .. } if *to == at));
            }
            Step::Leave(at) => {
                self.spent[2] += 1;
                if let Some(there) = self.at(at) {
                    there.is_leaving = true;
                }
            }
            Step::Move(to) => self.moves(to),
            Step::Lose(at, seat) => {
                self.spent[5] += 1;
                if let Some(there) = self.at(at) {
                    there.lost[seat] = true;
                }
            }
            Step::Restart(at) => {
                self.spent[6] += 1;
                if let Some(there) = self.at(at) {
                    (there.has, there.serves) = (0, None);
                    there.ledger.lose();
                }
            }
        }
        self.answer()
    }

    fn come(&mut self, message: Message) -> Result<(), String> {
        let newest = self.epoch;
        match message {
            Message::Give { from, to, epoch, round, given } => {
                let Some(there) = self.at(to) else { return Ok(()) };
                let of = (epoch, round.view);
                let taken = match there.ledger.take(of, round.number, round.is_whole, given, MOST) {
                    Ok(taken) => taken,
                    Err(crate::journal::Shut::Closed) => Taken::Closed,
                    Err(crate::journal::Shut::Unknown) => return Ok(()),
                };
                self.net.insert(Message::Took { to: from, round, given, taken });
            }
            Message::Took { to, round, given, taken } => {
                let Some(there) = self.at(to).filter(|there| there.ledger.rounds.is_under_way(round)) else {
                    return Ok(());
                };
                let seat = there.sending.iter().position(|sent| sent.is_some_and(|sent| sent.0 == round));
                match taken {
                    Taken::All => {
                        there.ledger.rounds.took(round, round.is_whole, given.bytes());
                        if let Some(seat) = seat {
                            there.given[seat] = Some((round.view, given.to));
                            there.lost[seat] = false;
                        }
                    }
                    Taken::Lacks => there.ledger.rounds.lacks(round),
                    Taken::Closed if there.ledger.shut(round) && there.serves == Some(newest) => {
                        return Err("whoever serves is told that it does not".to_owned());
                    }
                    Taken::Closed => {}
                }
            }
            Message::Tell { to, epoch, number, told } => {
                let Some(there) = self.at(to) else { return Ok(()) };
                let told = match told {
                    Saying::Keeps => Told::Keeps,
                    Saying::LetsGo | Saying::Serves { heir: None, next: None } => Told::Alone,
                    Saying::Serves { heir, next } => {
                        Told::Beside { heir: heir.map(|(view, at)| (view, Some(at))), next }
                    }
                };
                if there.ledger.told(epoch, number, told, false) {
                    there.lost = [false; 2];
                }
            }
        }
        Ok(())
    }
}
