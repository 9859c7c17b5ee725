//! Whether new requests to a sidecar go by a link over QUIC. No socket and no clock of its own.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use lighter_config::snapshot::WireUse;

use crate::telemetry::QuicSwitch;

/// What is decided about links to one sidecar. TCP is always there.
#[derive(Debug, Default)]
pub(crate) struct Choice {
    /// How the dials and connections since the last good one went: so many failed in a row.
    failures: u32,
    /// Until then QUIC is left alone.
    barred: Option<Instant>,
    /// What TCP had sent at the last looks, and how much of that again.
    samples: VecDeque<Sent>,
    /// Why there is a link over QUIC, where there is one.
    over: Option<Over>,
    /// When the last one ended as links end, which is no switch, unless it turns out that policy had it ended.
    ended: Option<Instant>,
}

/// A link over QUIC stands.
#[derive(Clone, Copy, Debug)]
struct Over {
    why: QuicSwitch,
    /// Since when it lost nothing worth a word.
    calm: Instant,
    sent: Sent,
    since: Instant,
    stalled: bool,
}

/// Packets that were sent until some time, and those that were lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    /// All.
    pub(crate) packets: u64,
    /// Those that had to be sent again.
    pub(crate) lost: u64,
}

impl Sent {
    /// Both together.
    pub(crate) fn and(self, other: Sent) -> Sent {
        Sent { packets: self.packets + other.packets, lost: self.lost + other.lost }
    }
}

/// What is seen at one look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// What the policy says, where the other side may have QUIC.
    pub(crate) may: WireUse,
    /// Policy says that QUIC is not to be used. Not so where the other side has none, or is known no more.
    pub(crate) is_forbidden: bool,
    /// How long QUIC is left alone after a failure, at first.
    pub(crate) back_off: Duration,
    /// For how long QUIC has to lose little until TCP is good enough again.
    pub(crate) calm: Duration,
    /// What links over TCP sent.
    pub(crate) tcp: Sent,
    /// The link over QUIC, while it takes streams or is stalled.
    pub(crate) quic: Option<Quic>,
    /// Where there was one: it ended as links end.
    pub(crate) ended_well: bool,
}

/// How a link over QUIC stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quic {
    /// What it sent.
    pub(crate) sent: Sent,
    /// Nothing comes back.
    pub(crate) stalled: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing.
    Stay,
    /// A link over QUIC is to be dialled: [`Choice::dialled`] says how that went.
    Dial(QuicSwitch),
    /// The link over QUIC is to be left.
    Leave(QuicSwitch),
    /// Nothing, but requests go by TCP again, which is to be counted.
    Fell(QuicSwitch),
}

impl Choice {
    /// Looks at how things are at `now`.
    pub(crate) fn look(&mut self, now: Instant, seen: &Seen) -> Step {
        let loses = self.loses(seen.tcp);
        match (seen.quic, &mut self.over) {
            (None, Some(over)) => {
                if seen.ended_well {
                    self.over = None;
                    self.ended = Some(now);
                    return self.stayed(now, seen);
                }
                let (was_stalled, lived) = (over.stalled, now.saturating_duration_since(over.since));
                self.over = None;
                self.samples.clear();
                if lived < LIVED || was_stalled {
                    self.failed(now, seen.back_off);
                }
                return if was_stalled { Step::Stay } else { Step::Fell(QuicSwitch::Lost) };
            }
            (Some(_), None) => {}
            (None, None) => {
                let step = self.stayed(now, seen);
                if step != Step::Stay {
                    return step;
                }
            }
            (Some(_), Some(_)) if seen.may == WireUse::MustNot => return self.leave(QuicSwitch::Forbidden),
            (Some(quic), Some(over)) => {
                if over.stalled != quic.stalled {
                    over.stalled = quic.stalled;
                    if quic.stalled {
                        return Step::Fell(QuicSwitch::Stalled);
                    }
                }
                if is_lossy(over.sent, quic.sent, CALM_LOSS) {
                    (over.calm, over.sent) = (now, quic.sent);
                } else if now.saturating_duration_since(over.calm) >= seen.calm {
                    (over.calm, over.sent) = (now, quic.sent);
                    if over.why == QuicSwitch::Loss && seen.may == WireUse::May {
                        return self.leave(QuicSwitch::Calm);
                    }
                }
                return Step::Stay;
            }
        }
        if seen.quic.is_some() || self.barred.is_some_and(|until| now < until) {
            return Step::Stay;
        }
        match seen.may {
            WireUse::Should => Step::Dial(QuicSwitch::Policy),
            WireUse::May if loses => Step::Dial(QuicSwitch::Loss),
            WireUse::May | WireUse::MustNot => Step::Stay,
        }
    }

    /// A dial for `why` ended. `stands`: there is a link over QUIC now.
    pub(crate) fn dialled(&mut self, now: Instant, why: QuicSwitch, stands: bool, back_off: Duration) {
        if stands {
            self.ended = None;
            let sent = Sent::default();
            self.over = Some(Over { why, calm: now, sent, since: now, stalled: false });
        } else {
            self.failed(now, back_off);
        }
    }

    /// There are no links any more.
    pub(crate) fn alone(&mut self) {
        self.over = None;
        self.ended = None;
        self.samples.clear();
    }

    /// What a link that ended as links end was: whoever accepted it hears of the same policy, and may leave it first.
    fn stayed(&mut self, now: Instant, seen: &Seen) -> Step {
        let is_lately = |ended| now.saturating_duration_since(ended) < HEARD;
        if !seen.is_forbidden || !self.ended.is_some_and(is_lately) {
            return Step::Stay;
        }
        self.ended = None;
        self.samples.clear();
        self.failures = 0;
        Step::Fell(QuicSwitch::Forbidden)
    }

    fn leave(&mut self, why: QuicSwitch) -> Step {
        self.over = None;
        self.samples.clear();
        self.failures = 0;
        Step::Leave(why)
    }

    fn failed(&mut self, now: Instant, back_off: Duration) {
        let pause = back_off.saturating_mul(1 << self.failures.min(6)).min(back_off.saturating_mul(LONGEST));
        self.failures = self.failures.saturating_add(1);
        self.barred = Some(now + pause);
    }

    /// Whether TCP loses much of what it sends.
    fn loses(&mut self, tcp: Sent) -> bool {
        // Where a link ended, less was sent than before.
        if self.samples.back().is_some_and(|last| tcp.packets < last.packets) {
            self.samples.clear();
        }
        // Of what was sent again some is found later to have come at the first time.
        let lost = self.samples.back().map_or(tcp.lost, |last| tcp.lost.max(last.lost));
        let tcp = Sent { lost, ..tcp };
        if self.samples.len() > LOOKS {
            self.samples.pop_front();
        }
        self.samples.push_back(tcp);
        let first = self.samples.front().copied().unwrap_or(tcp);
        tcp.lost - first.lost >= MANY && is_lossy(first, tcp, LOSS)
    }
}

/// Whether of what was sent between two looks more than one in `one_in` was lost.
fn is_lossy(before: Sent, now: Sent, one_in: u64) -> bool {
    let (packets, lost) = (now.packets.saturating_sub(before.packets), now.lost.saturating_sub(before.lost));
    lost > 0 && lost.saturating_mul(one_in) >= packets
}

/// How often it is looked.
pub(crate) const LOOK: Duration = Duration::from_millis(500);

/// What was lost counts for so many looks: five seconds.
const LOOKS: usize = 10;

/// TCP loses much where one in 200 packets had to be sent again,
const LOSS: u64 = 200;

/// and no fewer than so many.
const MANY: u64 = 5;

/// Both ends of a link hear of a policy within so long of each other.
const HEARD: Duration = Duration::from_secs(10);

/// QUIC loses little where it is fewer than one in 1000.
const CALM_LOSS: u64 = 1000;

/// A connection that ended sooner is no better than one that never was.
const LIVED: Duration = Duration::from_secs(10);

/// So many times as long as at first is QUIC left alone at most.
const LONGEST: u32 = 60;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BACK_OFF: Duration = Duration::from_secs(1);
    const CALM: Duration = Duration::from_secs(30);

    fn seen(may: WireUse, tcp: (u64, u64), quic: Option<(u64, u64, bool)>) -> Seen {
        let sent = |(packets, lost)| Sent { packets, lost };
        let quic = quic.map(|(packets, lost, stalled)| Quic { sent: sent((packets, lost)), stalled });
        let is_forbidden = may == WireUse::MustNot;
        Seen { may, is_forbidden, back_off: BACK_OFF, calm: CALM, tcp: sent(tcp), quic, ended_well: false }
    }

    #[test]
    fn a_policy_that_says_so_has_quic_from_the_beginning() {
        let (mut choice, now) = (Choice::default(), Instant::now());
        let dial = Step::Dial(QuicSwitch::Policy);
        assert_eq!(choice.look(now, &seen(WireUse::Should, (0, 0), None)), dial);
        choice.dialled(now, QuicSwitch::Policy, true, BACK_OFF);
        let much_later = now + Duration::from_secs(3600);
        let calm = seen(WireUse::Should, (0, 0), Some((1, 0, false)));
        assert_eq!(choice.look(much_later, &calm), Step::Stay, "it stays, however calm");
        let forbidden = seen(WireUse::MustNot, (0, 0), Some((1, 0, false)));
        assert_eq!(choice.look(much_later, &forbidden), Step::Leave(QuicSwitch::Forbidden));
        assert_eq!(choice.look(much_later, &seen(WireUse::MustNot, (0, 0), None)), Step::Stay);
    }

    #[test]
    fn a_policy_is_told_once_whoever_of_both_sides_follows_it_first() {
        let now = Instant::now();
        let ended = |may| Seen { ended_well: true, ..seen(may, (0, 0), None) };
        // The other side left the link, and this one hears of the policy then, or later.
        for heard_late in [false, true] {
            let mut choice = Choice::default();
            choice.dialled(now, QuicSwitch::Policy, true, BACK_OFF);
            if heard_late {
                assert_eq!(choice.look(now, &ended(WireUse::Should)), Step::Stay);
            }
            let forbidden = ended(WireUse::MustNot);
            assert_eq!(choice.look(now, &forbidden), Step::Fell(QuicSwitch::Forbidden));
            assert_eq!(choice.look(now, &forbidden), Step::Stay);
        }
        // One that rested is no switch, and none after another one was dialled.
        let mut choice = Choice::default();
        choice.dialled(now, QuicSwitch::Policy, true, BACK_OFF);
        assert_eq!(choice.look(now, &ended(WireUse::Should)), Step::Stay);
        assert_eq!(choice.look(now, &ended(WireUse::Should)), Step::Dial(QuicSwitch::Policy));
        choice.dialled(now, QuicSwitch::Policy, true, BACK_OFF);
        let forbidden = seen(WireUse::MustNot, (0, 0), Some((1, 0, false)));
        assert_eq!(choice.look(now, &forbidden), Step::Leave(QuicSwitch::Forbidden));
        assert_eq!(choice.look(now, &ended(WireUse::MustNot)), Step::Stay);
        // Nor one that the other side left as it went itself, and is known no more; nor one long before there was such a policy.
        for (is_forbidden, later) in [(false, Duration::ZERO), (true, HEARD)] {
            let mut choice = Choice::default();
            choice.dialled(now, QuicSwitch::Loss, true, BACK_OFF);
            assert_eq!(choice.look(now, &ended(WireUse::May)), Step::Stay);
            let gone = Seen { is_forbidden, ..ended(WireUse::MustNot) };
            assert_eq!(choice.look(now + later, &gone), Step::Stay);
        }
    }

    #[test]
    fn loss_leads_to_quic_and_calm_leads_back() {
        let (mut choice, mut now) = (Choice::default(), Instant::now());
        // One in a thousand is not enough, and two of ten are too few to know.
        for tcp in [(0, 0), (4000, 4), (4010, 6)] {
            now += LOOK;
            assert_eq!(choice.look(now, &seen(WireUse::May, tcp, None)), Step::Stay);
        }
        now += LOOK;
        let lossy = seen(WireUse::May, (4400, 30), None);
        assert_eq!(choice.look(now, &lossy), Step::Dial(QuicSwitch::Loss));
        choice.dialled(now, QuicSwitch::Loss, true, BACK_OFF);
        // As long as packets are lost, it stays.
        let mut sent = (0, 0);
        for _ in 0..200 {
            now += LOOK;
            sent = (sent.0 + 100, sent.1 + 1);
            let quic = Some((sent.0, sent.1, false));
            assert_eq!(choice.look(now, &seen(WireUse::May, (4400, 30), quic)), Step::Stay);
        }
        let calm = seen(WireUse::May, (4400, 30), Some((sent.0 + 10, sent.1, false)));
        assert_eq!(choice.look(now + CALM - LOOK, &calm), Step::Stay);
        assert_eq!(choice.look(now + CALM, &calm), Step::Leave(QuicSwitch::Calm));
    }

    #[test]
    fn what_does_not_come_about_is_tried_less_and_less_often() {
        let (mut choice, mut now) = (Choice::default(), Instant::now());
        let wants = seen(WireUse::Should, (0, 0), None);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let failed = now;
            choice.dialled(now, QuicSwitch::Policy, false, BACK_OFF);
            while choice.look(now, &wants) == Step::Stay {
                now += LOOK;
            }
            pauses.push(now.duration_since(failed).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn a_stall_is_told_once_and_bars_quic_once_it_is_over() {
        let (mut choice, now) = (Choice::default(), Instant::now());
        choice.dialled(now, QuicSwitch::Policy, true, BACK_OFF);
        let later = now + Duration::from_secs(100);
        let stalled = seen(WireUse::Should, (0, 0), Some((9, 0, true)));
        assert_eq!(choice.look(later, &stalled), Step::Fell(QuicSwitch::Stalled));
        assert_eq!(choice.look(later, &stalled), Step::Stay);
        let gone = seen(WireUse::Should, (0, 0), None);
        assert_eq!(choice.look(later, &gone), Step::Stay);
        assert_eq!(choice.look(later, &gone), Step::Stay, "barred");
        assert_eq!(choice.look(later + BACK_OFF, &gone), Step::Dial(QuicSwitch::Policy));
    }

    proptest! {
        /// Whatever happens: nothing is dialled while a link stands or while QUIC is barred or forbidden, and nothing is
        /// left that does not stand.
        #[test]
        fn nothing_is_done_that_makes_no_sense(
            steps in proptest::collection::vec((0u64..5000, 0u64..50, 0u64..20, any::<[bool; 3]>(), 0..3), 1..200),
        ) {
            let (mut choice, mut now) = (Choice::default(), Instant::now());
            let (mut tcp, mut quic, mut stands, mut barred) = ((0, 0), (0, 0), false, None::<Instant>);
            for (packets, lost, millis, [ends, stalled, succeeds], may) in steps {
                now += Duration::from_millis(100 * millis);
                tcp = (tcp.0 + packets, tcp.1 + lost);
                quic = (quic.0 + packets, quic.1 + lost % 3);
                stands &= !ends;
                let may = [WireUse::May, WireUse::Should, WireUse::MustNot][may as usize];
                let view = stands.then_some((quic.0, quic.1, stalled));
                match choice.look(now, &seen(may, tcp, view)) {
                    Step::Dial(why) => {
                        prop_assert!(!stands && may != WireUse::MustNot);
                        prop_assert!(barred.is_none_or(|until| now >= until));
                        choice.dialled(now, why, succeeds, BACK_OFF);
                        stands = succeeds;
                        barred = (!succeeds).then_some(now + BACK_OFF);
                    }
                    Step::Leave(_) => {
                        prop_assert!(stands);
                        stands = false;
                    }
                    Step::Stay | Step::Fell(_) => {}
                }
            }
        }
    }
}
