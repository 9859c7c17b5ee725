//! What one instance alone was asked and answered, where others served other epochs meanwhile.

use std::collections::BTreeSet;

use lighter_migrate::History;

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
}
