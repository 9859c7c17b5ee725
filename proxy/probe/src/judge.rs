//! What answers mean together. No clock, no socket.

use lighter_config::probe::Probe;

use crate::Fault;

/// Whether an application is well, by its last answers.
#[derive(Clone, Copy, Debug)]
pub struct Judge {
    is_well: bool,
    /// Answers in a row that say otherwise.
    against: u32,
}

impl Judge {
    /// What is thought before the first answer.
    pub fn new(is_well: bool) -> Self {
        Judge { is_well, against: 0 }
    }

    /// What is thought now.
    pub fn is_well(&self) -> bool {
        self.is_well
    }

    /// Takes an answer in. Returns whether another opinion follows.
    pub fn hear(&mut self, answer: &Result<(), Fault>, probe: &Probe) -> bool {
        if answer.is_ok() == self.is_well {
            self.against = 0;
            return false;
        }
        self.against += 1;
        let enough = if self.is_well { probe.failure_threshold } else { probe.success_threshold };
        if self.against < enough {
            return false;
        }
        *self = Judge::new(!self.is_well);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opinion_changes_after_so_many_answers_in_a_row() {
        let probe = Probe { failure_threshold: 3, success_threshold: 2, ..Probe::default() };
        let mut judge = Judge::new(false);
        let mut opinions = String::new();
        for answer in "++--+---+-++".chars() {
            let answer = if answer == '+' { Ok(()) } else { Err(Fault::Late) };
            let before = judge.is_well();
            let changed = judge.hear(&answer, &probe);
            assert_eq!(changed, before != judge.is_well());
            opinions.push(if judge.is_well() { 'w' } else { 'u' });
        }
        assert_eq!(opinions, "uwwwwwwuuuuw");
    }
}
