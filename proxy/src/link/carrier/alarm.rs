//! What is due, and when. What sets an alarm does not look at the clock: that is done once a turn, by whoever has one.

use std::time::{Duration, Instant};

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Alarm {
    /// Both directions are to be on the wire.
    Switch,
    /// The other side is to make room on the wire.
    Stall,
    /// It is to be looked how much TCP holds.
    Unsent,
    /// The other side is to say up to where it has this direction.
    Resume,
    /// A link without its TCP connection is to be done.
    Lame,
    /// The peer of such a link is to be asked whether it is there.
    Ask,
    /// The other side is to have consumed all of a direction that has ended.
    Finish,
}

/// The alarms that are set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Alarms {
    set: [Option<Set>; ALL.len()],
}

/// An alarm that is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Set {
    /// The end of this step,
    due: Due,
    /// the last but so many.
    left: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Due {
    /// As long after the clock is looked at.
    In(Duration),
    At(Instant),
}

impl Alarms {
    /// Sets `alarm`, unless it is set.
    pub(super) fn set(&mut self, alarm: Alarm) {
        let (due, left) = (Due::In(alarm.step()), alarm.steps() - 1);
        self.set[alarm as usize].get_or_insert(Set { due, left });
    }

    pub(super) fn is_set(&self, alarm: Alarm) -> bool {
        self.set[alarm as usize].is_some()
    }

    pub(super) fn clear(&mut self, alarm: Alarm) {
        self.set[alarm as usize] = None;
    }

    /// When the first is due. `now` is asked for only if one is set.
    pub(super) fn first(&mut self, now: impl FnOnce() -> Instant) -> Option<Instant> {
        self.set.iter().any(Option::is_some).then(|| {
            let now = now();
            let dues = self.set.iter_mut().flatten().map(|set| match set.due {
                Due::At(at) => at,
                Due::In(after) => {
                    set.due = Due::At(now + after);
                    now + after
                }
            });
            dues.min()
        })?
    }

    /// One that is due, which is not set any more.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Alarm> {
        ALL.into_iter().find(|&alarm| self.is_due(alarm, now))
    }

    /// Whether its last step is over; then it is cleared. The step behind one that is over begins now.
    fn is_due(&mut self, alarm: Alarm, now: Instant) -> bool {
        let set = &mut self.set[alarm as usize];
        let Some(Set { due: Due::At(at), left }) = *set else { return false };
        if now < at {
            return false;
        }
        let counts = alarm.steps() == 1 || now - at <= LATE;
        if counts && left == 0 {
            *set = None;
            return true;
        }
        let due = Due::At(now + alarm.step());
        *set = Some(Set { due, left: left - u8::from(counts) });
        false
    }
}

impl Alarm {
    /// How many steps it takes. Of more than one only those count at the end of which this process was awake: in the others
    /// it may be that it did not run, and not that the other side does nothing.
    const fn steps(self) -> u8 {
        if matches!(self, Alarm::Stall) { 5 } else { 1 }
    }

    const fn step(self) -> Duration {
        match self {
            Alarm::Switch => Duration::from_secs(3),
            // A second in all: whatever is wrong with a wire, its bytes are on TCP within two.
            Alarm::Stall | Alarm::Ask => Duration::from_millis(200),
            Alarm::Unsent => Duration::from_millis(1),
            Alarm::Resume | Alarm::Finish => Duration::from_secs(5),
            Alarm::Lame => Duration::from_secs(30),
        }
    }
}

/// A process that looks at the clock so much too late was asleep, or did not get the processor.
const LATE: Duration = Duration::from_millis(100);

const ALL: [Alarm; 7] =
    [Alarm::Switch, Alarm::Stall, Alarm::Unsent, Alarm::Resume, Alarm::Lame, Alarm::Ask, Alarm::Finish];
