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
    /// The other side is to say up to where it has this direction.
    Resume,
    /// A link without its TCP connection is to be done.
    Lame,
    /// The other side is to have consumed all of a direction that has ended.
    Finish,
}

/// The alarms that are set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Alarms {
    set: [Option<Due>; ALL.len()],
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
        self.set[alarm as usize].get_or_insert(Due::In(alarm.after()));
    }

    pub(super) fn clear(&mut self, alarm: Alarm) {
        self.set[alarm as usize] = None;
    }

    /// When the first is due. `now` is asked for only if one is set.
    pub(super) fn first(&mut self, now: impl FnOnce() -> Instant) -> Option<Instant> {
        self.set.iter().any(Option::is_some).then(|| {
            let now = now();
            let dues = self.set.iter_mut().flatten().map(|due| match *due {
                Due::At(at) => at,
                Due::In(after) => {
                    *due = Due::At(now + after);
                    now + after
                }
            });
            dues.min()
        })?
    }

    /// One that is due, which is not set any more.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Alarm> {
        let is_due = |alarm: &&Alarm| matches!(self.set[**alarm as usize], Some(Due::At(at)) if at <= now);
        let alarm = *ALL.iter().find(is_due)?;
        self.clear(alarm);
        Some(alarm)
    }
}

impl Alarm {
    const fn after(self) -> Duration {
        Duration::from_secs(match self {
            Alarm::Switch => 3,
            Alarm::Stall => 2,
            Alarm::Resume | Alarm::Finish => 5,
            Alarm::Lame => 30,
        })
    }
}

const ALL: [Alarm; 5] = [Alarm::Switch, Alarm::Stall, Alarm::Resume, Alarm::Lame, Alarm::Finish];
