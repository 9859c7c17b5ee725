//! What each instance by itself was asked and answered: where others served other epochs meanwhile, and who answered behind whom.

use std::collections::BTreeSet;
use std::time::Duration;

use lighter_migrate::History;

use super::super::beside::Said;
use super::{Event, Record};

impl Record {
    /// Fails where one register of this instance, which began with these, cannot have answered so, by itself. What others answered
    /// was not done here.
    pub fn check_of(&self, by: &str, begins: &[u64]) -> Result<(), String> {
        let answers = self.answers.lock().unwrap();
        let own: BTreeSet<u64> =
            answers.iter().filter(|answer| answer.by == by).map(|answer| answer.number).collect();
        for (at, events) in self.events.iter().enumerate() {
            let mut history = History::new(begins[at]);
            for (line, event) in events.lock().unwrap().iter().enumerate() {
                let taken = match *event {
                    Event::Begins(number, op) => {
                        history.begin(number, op);
                        Ok(())
                    }
                    Event::Done(number, read) if own.contains(&number) => history.done(number, read),
                    Event::Done(number, _) | Event::NotDone(number) => history.not_done(number),
                    Event::Unknown(number) => {
                        history.unknown(number);
                        Ok(())
                    }
                    Event::Lost(_) | Event::Settled => Ok(()),
                };
                taken.map_err(|violation| format!("register r{at} of {by}, event {line}: {violation}"))?;
            }
        }
        Ok(())
    }

    /// Fails where two served at once: an answer of `from` to what began after one of `to` had come, of what was asked for after `since`
    /// here and `beside`.
    pub fn check_turns(&self, beside: &[Said], since: Duration, [from, to]: [&str; 2]) -> Result<(), String> {
        let (of_from, of_to) = (self.of(beside, since, from), self.of(beside, since, to));
        let Some(first) = of_to.iter().map(|(_, ended)| *ended).min() else { return Ok(()) };
        match of_from.iter().find(|(began, _)| *began > first) {
            Some((began, ended)) => Err(format!(
                "{to} had answered at {first:?}, and {from} answered at {ended:?} what began at {began:?}"
            )),
            None => Ok(()),
        }
    }

    /// Fails where this one has answered something that was asked for after `since`, here or `beside`.
    pub fn check_silent(&self, beside: &[Said], since: Duration, by: &str) -> Result<(), String> {
        match self.of(beside, since, by).first() {
            Some((began, ended)) => Err(format!("{by} answered at {ended:?} what began at {began:?}")),
            None => Ok(()),
        }
    }

    /// When what this one answered began and ended, of what began after `since`.
    fn of(&self, beside: &[Said], since: Duration, by: &str) -> Vec<(Duration, Duration)> {
        let answers = self.answers.lock().unwrap();
        let of_callers = answers.iter().filter(|answer| answer.by == by);
        let times = of_callers.map(|answer| (answer.at.saturating_sub(answer.took), answer.at));
        let of_beside = beside.iter().filter(|said| said.is_by(by)).map(|said| (said.began, said.ended));
        times.chain(of_beside).filter(|(began, _)| *began > since).collect()
    }
}
