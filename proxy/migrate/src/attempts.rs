//! The attempts of one request at a service that may move, as the sidecar of its caller makes them: what becomes of it as one has
//! failed.
//!
//! What an old place gives back, unexecuted, waits until the service is reached elsewhere and goes there, once; where nobody says
//! so in time, the old place has it again, and sends it on. Of what may have run there is another attempt only where it may run
//! twice; and whatever it fails by in the end, it is answered as what may have run.

use crate::planted::{Plan as Faults, Planted};

/// The attempts that a request had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Attempts {
    leg: Leg,
    has_run: bool,
    pub(crate) faults: Faults,
}

/// Where it goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Leg {
    /// Where the service is, as far as its sidecar knows.
    #[default]
    First,
    /// The same, after it came back.
    Elsewhere,
    /// Again to who gave it back, to be sent on.
    Back,
}

/// How an attempt ended that was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ended {
    /// Who was asked gives it back, as the service has left.
    Returned,
    /// It was not executed: nobody was reached, or who was has not read it.
    Unread,
    /// It may have been executed.
    Lost,
}

/// What is known of a request as an attempt has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Known {
    /// All that was sent of it is at hand, and may be sent to another place.
    pub is_kept: bool,
    /// It is declared idempotent: it may run twice. What others write in between may be undone by it, as with any retry.
    pub is_repeatable: bool,
}

/// What is to be done about that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Next {
    /// It waits until the service is reached elsewhere, or for as long as it may; then it [goes](Attempts::goes) there or back.
    Wait,
    /// It goes elsewhere if the service is reached there by now. Nobody waits for that; otherwise it is as with [`Next::Again`].
    Look,
    /// There may be another attempt, for whoever makes them to say.
    Again,
    /// It is answered with an error.
    Fail,
}

/// Where what came back goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum To {
    /// To where the service is reached now.
    Elsewhere,
    /// To who gave it back.
    Back,
}

impl Attempts {
    /// One has ended so.
    pub fn ended(&mut self, how: Ended, known: Known) -> Next {
        match how {
            Ended::Returned if known.is_kept && self.may_return() => Next::Wait,
            Ended::Returned => Next::Fail,
            Ended::Unread if known.is_kept && self.leg == Leg::Back => Next::Look,
            Ended::Unread => Next::Again,
            Ended::Lost => {
                self.has_run |= !self.faults.has(Planted::ForgetLost);
                match known.is_repeatable || self.faults.has(Planted::RepeatAll) {
                    true => Next::Again,
                    false => Next::Fail,
                }
            }
        }
    }

    /// What came back goes there.
    pub fn goes(&mut self, to: To) {
        self.leg = match to {
            To::Elsewhere => Leg::Elsewhere,
            To::Back => Leg::Back,
        };
    }

    /// Whether it is said to be kept where it goes: what came back once does not a second time.
    pub fn may_return(self) -> bool {
        self.leg == Leg::First
    }

    /// Whether one of them may have run: then that is what it is answered with as it fails, whatever the last one came to.
    pub fn may_have_run(self) -> bool {
        self.has_run
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: Known = Known { is_kept: true, is_repeatable: false };

    #[test]
    fn what_came_back_goes_to_one_other_place_and_does_not_come_back_again() {
        let mut attempts = Attempts::default();
        assert!(attempts.may_return());
        assert_eq!(attempts.ended(Ended::Returned, KEPT), Next::Wait);
        attempts.goes(To::Elsewhere);
        assert!(!attempts.may_return());
        assert_eq!(attempts.ended(Ended::Returned, KEPT), Next::Fail);
        assert_eq!(attempts.ended(Ended::Unread, KEPT), Next::Again);
        assert!(!attempts.may_have_run());
        let gone = Known { is_kept: false, ..KEPT };
        assert_eq!(Attempts::default().ended(Ended::Returned, gone), Next::Fail);
    }

    #[test]
    fn what_does_not_get_back_to_who_gave_it_back_goes_elsewhere_once() {
        let mut attempts = Attempts::default();
        assert_eq!(attempts.ended(Ended::Unread, KEPT), Next::Again);
        assert_eq!(attempts.ended(Ended::Returned, KEPT), Next::Wait);
        attempts.goes(To::Back);
        assert_eq!(attempts.ended(Ended::Unread, KEPT), Next::Look);
        attempts.goes(To::Elsewhere);
        assert_eq!(attempts.ended(Ended::Unread, KEPT), Next::Again);
    }

    #[test]
    fn what_may_have_run_is_repeated_only_where_that_may_be_and_is_said_in_the_end() {
        let repeatable = Known { is_repeatable: true, ..KEPT };
        let mut attempts = Attempts::default();
        assert_eq!(attempts.ended(Ended::Lost, repeatable), Next::Again);
        assert_eq!(attempts.ended(Ended::Unread, repeatable), Next::Again);
        assert!(attempts.may_have_run());
        let mut attempts = Attempts::default();
        assert_eq!(attempts.ended(Ended::Lost, KEPT), Next::Fail);
        assert!(attempts.may_have_run());
    }
}
