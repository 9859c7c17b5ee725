//! Whether anything comes back.

use std::time::{Duration, Instant};

/// Finds out that what is sent is not answered: each packet that carries something is acknowledged, and sent again, in
/// ever longer pauses, until it is.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    received: u64,
    /// Datagrams that were sent until then.
    sent: u64,
    /// Since when something was sent and nothing came.
    unanswered: Option<Instant>,
    /// Something else says that the other side may be gone.
    pub(super) suspected: bool,
}

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// What is sent arrives.
    Well,
    /// Nothing came back for [`STALLED`].
    Stalled,
    /// Nothing came back for [`GONE`].
    Gone,
}

impl Pulse {
    /// The other side may be gone: it was just asked, and has until [`SUSPECTED`] to say that it is not.
    pub(super) fn suspect(&mut self, now: Instant) {
        self.suspected = true;
        self.unanswered = now.checked_sub(GONE - SUSPECTED).or(Some(now));
    }

    /// So many datagrams were `sent` and `received` until `now`.
    pub(super) fn feel(&mut self, now: Instant, sent: u64, received: u64) -> Health {
        if received != self.received {
            *self = Pulse { received, sent, unanswered: None, suspected: false };
            return Health::Well;
        }
        // Acknowledgements alone are not answered.
        if sent < self.sent + UNANSWERED && !self.suspected {
            return Health::Well;
        }
        let silent = now.saturating_duration_since(*self.unanswered.get_or_insert(now));
        if silent >= GONE {
            Health::Gone
        } else if silent >= STALLED {
            Health::Stalled
        } else {
            Health::Well
        }
    }
}

/// From here on new requests go elsewhere.
pub(super) const STALLED: Duration = Duration::from_millis(750);

/// From here on what was begun is given up.
const GONE: Duration = Duration::from_secs(5);

/// The same where something else says that the other side may be gone.
const SUSPECTED: Duration = Duration::from_secs(1);

/// Fewer datagrams may be acknowledgements.
const UNANSWERED: u64 = 3;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn silence_is_noticed_only_where_something_was_said() {
        let (mut pulse, began) = (Pulse::default(), Instant::now());
        let at = |millis| began + Duration::from_millis(millis);
        assert_eq!(pulse.feel(at(0), 10, 10), Health::Well);
        // An hour without a word.
        assert_eq!(pulse.feel(at(3_600_000), 11, 10), Health::Well);
        assert_eq!(pulse.feel(at(3_600_100), 13, 10), Health::Well);
        assert_eq!(pulse.feel(at(3_600_900), 15, 10), Health::Stalled);
        assert_eq!(pulse.feel(at(3_605_100), 18, 10), Health::Gone);
        assert_eq!(pulse.feel(at(3_605_200), 19, 11), Health::Well);
    }

    #[test]
    fn who_is_suspected_has_a_second_to_answer() {
        let (mut pulse, began) = (Pulse::default(), Instant::now() + Duration::from_secs(60));
        let at = |millis| began + Duration::from_millis(millis);
        for (heard, health) in [(10, Health::Gone), (11, Health::Well)] {
            assert_eq!(pulse.feel(at(0), 10, 10), Health::Well);
            pulse.suspect(at(0));
            assert_eq!(pulse.feel(at(10), 11, 10), Health::Stalled);
            assert_eq!(pulse.feel(at(1010), 12, heard), health);
            pulse = Pulse::default();
        }
    }

    proptest! {
        #[test]
        fn who_hears_something_all_the_time_is_well(steps in proptest::collection::vec((1u64..700, 0u64..5), 1..100)) {
            let (mut pulse, mut now, mut sent) = (Pulse::default(), Instant::now(), 0);
            for (received, (millis, more)) in steps.into_iter().enumerate() {
                now += Duration::from_millis(millis);
                sent += more;
                prop_assert_eq!(pulse.feel(now, sent, received as u64 + 1), Health::Well);
            }
        }
    }
}
