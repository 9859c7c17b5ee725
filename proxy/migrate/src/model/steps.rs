//! What may happen in the model's world, and what each of it does.

use std::time::Duration;

use super::parts::{Net, Sidecar, Step, Up};
use super::world::{Bounds, LATE, World, at, role_at};
use crate::*;

impl World {
    /// Goes to where it begins to be looked at.
    pub(super) fn get_to(&mut self, bounds: &Bounds) -> Result<(), String> {
        loop {
            // The sidecar of callers hears at once that it is to hold.
            let told = self.net.iter().position(|message| matches!(message, Net::ToHolder(..)));
            let told = told.filter(|_| self.sidecar.is_some() && !bounds.doubles).map(Step::Net);
            if told.is_none() && self.control.as_ref().is_none_or(|control| control.phase() >= bounds.from) {
                break;
            }
            let (on, _) = self.steps(bounds);
            let step = told.or(on.into_iter().find(|step| !matches!(step, Step::Call(_) | Step::Push)));
            self.take(step.ok_or("it does not get there")?, bounds)?;
        }
        Ok(())
    }

    /// What may happen next: that by which it gets on, and that by which it does not have to.
    pub(super) fn steps(&self, bounds: &Bounds) -> (Vec<Step>, Vec<Step>) {
        let (mut on, mut off) = (Vec::new(), Vec::new());
        for (client, at) in self.clients.iter().zip(0..) {
            if self.sidecar.is_some() && client.waits.is_none() && client.next < bounds.scripts[at].len() {
                on.push(Step::Call(at));
            }
        }
        for at in 0..2 {
            let link = &self.links[at];
            if let Some(body) = &self.places[at] {
                if !link.up.is_empty() {
                    on.push(Step::Up(at));
                }
                on.extend((0..body.running.len()).map(|run| Step::Run(at, run)));
                if body.hook.is_some() {
                    on.push(Step::Hook(at, true));
                    if self.fails < bounds.fails && body.fails() {
                        off.push(Step::Hook(at, false));
                    }
                }
                if at == 1 && self.can_fetch() {
                    on.push(Step::Fetch);
                }
                if body.place.timeout().is_some() && self.timeouts < bounds.timeouts {
                    off.push(Step::PlaceLate(at));
                }
            } else {
                if bounds.stays > 0 { &mut off } else { &mut on }.push(Step::Restart(at));
                let vouched = self.control.as_ref().is_some_and(|control| {
                    !self.store.records.contains(&Record::Vouched(role_at(at)))
                        && !control.phase().is_terminal()
                });
                if bounds.vouches && vouched {
                    off.push(Step::Vouch(at));
                }
            }
            let lives = self.places[at].is_some() && self.control.is_some();
            if bounds.lies
                && lives
                && !self.lied
                && !self.store.records.contains(&Record::Vouched(role_at(at)))
            {
                off.push(Step::Vouch(at));
            }
            if self.sidecar.is_some() && !link.down.is_empty() {
                on.push(Step::Down(at));
            }
            if self.sidecar.is_some() && link.broken {
                on.push(Step::Notice(at));
            }
            let used = !link.up.is_empty() || !link.down.is_empty() || !link.open.is_empty();
            if self.breaks < bounds.breaks && !link.broken && used {
                off.push(Step::Break(at));
            }
        }
        if !self.forwards.is_empty() {
            on.push(Step::Forward);
        }
        if let Some(sidecar) = &self.sidecar {
            if self.registry.1 > sidecar.route.1 {
                on.push(Step::Push);
            }
            if sidecar.timeout().is_some() && self.timeouts < bounds.timeouts {
                off.push(Step::SidecarLate);
            }
            if sidecar.holder.is_holding() && self.breaks < bounds.breaks {
                off.push(Step::LetGo);
            }
        } else {
            on.push(Step::RestartSidecar);
        }
        on.extend((0..self.store.asks.len()).map(Step::Store));
        match &self.control {
            Some(control) => {
                if self.store.answer.is_some() {
                    on.push(Step::StoreAnswer);
                }
                if self.switched.is_some() {
                    on.push(Step::Switched);
                }
                if control.timeout().is_some() && self.timeouts < bounds.timeouts {
                    off.extend([Step::Late, Step::Again]);
                }
                if bounds.aborts && !self.aborted {
                    off.push(Step::Abort);
                }
                if bounds.leases && !self.gone {
                    off.push(Step::Gone);
                }
            }
            None => on.push(Step::RestartControl),
        }
        for (message, to) in self.net.iter().zip(0..) {
            if self.can_hear(message) {
                on.push(Step::Net(to));
            }
        }
        // However often it says so.
        if self.zombie.as_ref().is_some_and(|zombie| !zombie.is_superseded()) && self.again < 1 {
            off.push(Step::ZombieAgain);
        }
        if self.deaths < bounds.deaths {
            for actor in bounds.mortal {
                let lives = match actor {
                    Actor::Control => self.control.is_some(),
                    Actor::Old => self.places[0].is_some(),
                    Actor::New => self.places[1].is_some(),
                    Actor::Caller => self.sidecar.is_some(),
                };
                if lives {
                    off.push(Step::Die(*actor));
                    if *actor == Actor::Control && !self.store.unwritten.is_empty() {
                        off.push(Step::DieWritten);
                    }
                }
            }
        }
        (on, off)
    }

    pub(super) fn can_hear(&self, message: &Net) -> bool {
        match message {
            Net::ToPlace(role, _) => self.places[at(*role)].is_some(),
            Net::FromPlace(..) => self.control.is_some(),
            Net::ToHolder(..) => self.sidecar.is_some(),
        }
    }

    /// Does `step`.
    pub(super) fn take(&mut self, step: Step, bounds: &Bounds) -> Result<(), String> {
        match step {
            Step::Call(client) => self.call(client, bounds),
            Step::Up(at) => self.up(at, bounds),
            Step::Run(at, run) => self.run(at, run, bounds)?,
            Step::Hook(at, works) => {
                self.fails += u8::from(!works);
                self.hook(at, works);
            }
            Step::Fetch => self.fetch(),
            Step::Down(at) => self.down(at)?,
            Step::Notice(at) => self.notice(at)?,
            Step::Break(at) => {
                self.breaks += 1;
                self.break_link(at);
                if self.places[at].is_some() {
                    // It hears of it when it comes to it.
                    let link = &mut self.links[at];
                    link.up.push_back(Up::Gone(link.life));
                }
            }
            Step::Forward => self.forward(bounds),
            Step::Push => self.push()?,
            Step::Store(ask) => self.ask_store(ask, bounds),
            Step::StoreAnswer => {
                if let Some(cell) = self.store.answer.take() {
                    self.control(|control, now, out| control.answered(cell, now, out));
                }
            }
            Step::Switched => {
                if let Some(epoch) = self.switched.take() {
                    self.control(|control, now, out| control.switched(epoch, now, out));
                }
            }
            Step::Net(message) => self.hear(message, bounds)?,
            Step::ZombieAgain => {
                self.again += 1;
                self.zombie(|zombie, now, out| zombie.on_timeout(now + Duration::from_secs(1), out));
            }
            Step::Late => {
                self.timeouts += 1;
                self.control(|control, now, out| {
                    control.on_timeout(now.max(control.timeout().unwrap_or_default()) + LATE, out);
                });
            }
            Step::Again => {
                self.timeouts += 1;
                self.control(|control, _, out| {
                    control.on_timeout(control.timeout().unwrap_or_default(), out);
                });
            }
            Step::PlaceLate(at) => {
                self.timeouts += 1;
                self.place(at, |place, _, out| place.on_timeout(place.timeout().unwrap_or_default(), out));
            }
            Step::SidecarLate => {
                self.timeouts += 1;
                let due = self.sidecar.as_ref().and_then(Sidecar::timeout).unwrap_or_default();
                self.sidecar_late(due)?;
                if self.sidecar.as_ref().and_then(Sidecar::timeout).is_some_and(|next| next <= due) {
                    return Err("the sidecar of callers does not do what is due".into());
                }
            }
            Step::LetGo => {
                self.breaks += 1;
                self.hold(|holder, _, out| holder.let_go(out))?;
            }
            Step::Abort => {
                self.aborted = true;
                self.control(|control, now, out| {
                    control.abort(now, out);
                });
            }
            Step::Gone => {
                self.gone = true;
                self.control(|control, now, out| control.gone(now, out));
            }
            Step::Vouch(at) => {
                self.lied |= self.places[at].is_some();
                self.control(|control, now, out| control.vouch(role_at(at), now, out));
            }
            Step::Die(actor) => self.die(actor, bounds),
            Step::DieWritten => {
                self.store.write();
                self.die(Actor::Control, bounds);
            }
            Step::Restart(at) => self.restart(at, bounds),
            Step::RestartControl => self.restart_control(bounds),
            Step::RestartSidecar => self.sidecar = Some(Sidecar::new(self.registry, bounds)),
        }
        self.check(bounds)
    }
}
