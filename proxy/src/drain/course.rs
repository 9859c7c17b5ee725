//! The order in which the two sides of a sidecar drain: its callers first, then what the workload itself calls.

use std::time::{Duration, Instant};

use super::{Machine, Phase};

/// Where each side stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stand {
    /// Connections that callers made to the workload.
    pub callers: Phase,
    /// Connections that the workload made.
    pub workload: Phase,
    /// Another process accepts in this one's place.
    pub handed_over: bool,
}

impl From<Phase> for Stand {
    fn from(phase: Phase) -> Self {
        Stand { callers: phase, workload: phase, handed_over: false }
    }
}

/// Decides for both sides, without a clock or a socket of its own.
///
/// What callers asked for may need calls of the workload's own, so those are taken as long as there are callers. Where
/// somebody sees to the workload's end ([`Course::holding`]) they are taken until it has ended.
#[derive(Clone, Debug)]
pub struct Course {
    deadline: Duration,
    began: Option<Instant>,
    callers: Machine,
    workload: Workload,
}

#[derive(Clone, Debug)]
enum Workload {
    /// Nobody says when it has ended: one deadline for all.
    Unseen,
    /// It runs, and keeps its network.
    Held,
    /// It has ended.
    Ended(Machine),
    /// Another process serves it and its callers: both sides leave together.
    HandedOver,
}

impl Course {
    /// One deadline for both sides.
    pub fn new(deadline: Duration) -> Self {
        let callers = Machine::new(deadline);
        Course { deadline, began: None, callers, workload: Workload::Unseen }
    }

    /// The deadline is the callers'. The workload's side serves until [`Course::finish`].
    pub fn holding(deadline: Duration) -> Self {
        Course { workload: Workload::Held, ..Course::new(deadline) }
    }

    /// Whether it drains.
    pub fn has_begun(&self) -> bool {
        self.began.is_some()
    }

    /// So much of the deadline has gone by before the drain begins.
    pub fn waited(&mut self, time: Duration) {
        self.deadline = self.deadline.saturating_sub(time);
        self.callers.waited(time);
    }

    /// It is to drain; see [`Machine::stop`].
    pub fn stop(&mut self, now: Instant) {
        self.began.get_or_insert(now);
        self.callers.stop(now);
    }

    /// It is to drain, and nobody waits; see [`Machine::stop_now`].
    pub fn stop_now(&mut self, now: Instant) {
        self.began.get_or_insert(now);
        self.callers.stop_now(now);
    }

    /// The workload has ended, as far as somebody sees to it: nothing is accepted any more. What it said last is delivered
    /// within what is left of the deadline, or [`LAST_DELIVERY`].
    pub fn finish(&mut self, now: Instant) {
        let (Workload::Held | Workload::HandedOver) = self.workload else { return };
        let began = *self.began.get_or_insert(now);
        let left = (began + self.deadline).saturating_duration_since(now).max(LAST_DELIVERY);
        let mut rest = Machine::new(left);
        for machine in [&mut self.callers, &mut rest] {
            machine.stop(now);
            machine.stop(now);
        }
        self.workload = Workload::Ended(rest);
    }

    /// Another process serves in this one's place. Nobody is refused, so that both sides leave at once, and a drain that
    /// has begun goes on. Where the workload has ended that changes nothing.
    pub fn hand_over(&mut self, now: Instant) {
        if let Workload::Ended(_) = self.workload {
            return;
        }
        if self.began.is_none() {
            self.stop(now);
        }
        self.workload = Workload::HandedOver;
    }

    /// Moves on if it is time to, or if nothing runs any more. `calling`: how many workers have callers; `running`: how
    /// many have connections at all.
    pub fn advance(&mut self, now: Instant, calling: usize, running: usize) -> Stand {
        match &mut self.workload {
            Workload::Unseen => {
                let callers = self.callers.advance(now, running);
                let until = if calling == 0 { Phase::Closed } else { Phase::Lame };
                let workload = if callers == Phase::Closed { callers } else { callers.min(until) };
                Stand { callers, workload, handed_over: false }
            }
            Workload::Held => {
                let callers = self.callers.advance(now, calling);
                Stand { callers, ..Stand::default() }
            }
            Workload::Ended(rest) => {
                let (callers, workload) = (self.callers.advance(now, calling), rest.advance(now, running));
                Stand { callers, workload, handed_over: false }
            }
            Workload::HandedOver => Stand { handed_over: true, ..self.callers.advance(now, running).into() },
        }
    }

    /// When [`Course::advance`] has something to do even if no connection ends. `None`: never by itself.
    pub fn wakes_at(&self) -> Option<Instant> {
        let rest = match &self.workload {
            Workload::Ended(rest) => rest.wakes_at(),
            Workload::Unseen | Workload::Held | Workload::HandedOver => None,
        };
        self.callers.wakes_at().into_iter().chain(rest).min()
    }
}

/// How long what a workload said last may take to arrive where the deadline has passed.
const LAST_DELIVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    fn stand(callers: Phase, workload: Phase) -> Stand {
        Stand { callers, workload, handed_over: false }
    }

    #[test]
    fn who_has_a_successor_leaves_at_once_and_on_both_sides() {
        let start = Instant::now();
        for mut course in [Course::new(DEADLINE), Course::holding(DEADLINE)] {
            course.hand_over(start);
            let both = |phase: Phase| Stand { handed_over: true, ..phase.into() };
            assert_eq!(course.advance(start, 1, 1), both(Phase::Lame));
            let next = course.wakes_at().unwrap();
            assert_eq!(course.advance(next, 0, 1), both(Phase::Draining));
            // What is asked for later changes nothing: there is one deadline.
            course.hand_over(next);
            assert_eq!(course.wakes_at(), Some(start + DEADLINE));
            assert_eq!(course.clone().advance(next, 0, 0), both(Phase::Closed));
            assert_eq!(course.advance(start + DEADLINE, 1, 1), both(Phase::Closed));
        }
    }

    #[test]
    fn who_has_a_successor_does_not_outlast_a_workload_that_is_seen_to() {
        let start = Instant::now();
        let mut course = Course::holding(DEADLINE);
        course.hand_over(start);
        course.finish(start + DEADLINE);
        let late = start + DEADLINE + LAST_DELIVERY;
        // Both are said again whenever something is asked for.
        course.hand_over(late);
        course.finish(late);
        assert_eq!(course.advance(late, 1, 1), Phase::Closed.into());
    }

    #[test]
    fn the_workload_calls_as_long_as_it_has_callers() {
        let start = Instant::now();
        let mut course = Course::new(DEADLINE);
        assert_eq!(course.advance(start, 2, 2), Phase::Serving.into());
        course.stop(start);
        assert_eq!(course.advance(start, 2, 2), Phase::Lame.into());
        let next = course.wakes_at().unwrap();
        assert_eq!(course.advance(next, 1, 2), stand(Phase::Draining, Phase::Lame));
        assert_eq!(course.advance(next, 0, 2), Phase::Draining.into());
        assert_eq!(course.advance(next, 0, 0), Phase::Closed.into());
    }

    #[test]
    fn without_anybody_to_see_to_the_workload_one_deadline_cuts_all() {
        let start = Instant::now();
        let mut course = Course::new(DEADLINE);
        course.stop(start);
        course.advance(start + DEADLINE / 2, 1, 1);
        assert_eq!(course.wakes_at(), Some(start + DEADLINE));
        assert_eq!(course.advance(start + DEADLINE, 1, 1), Phase::Closed.into());
    }

    #[test]
    fn a_workload_that_is_seen_to_keeps_its_network_until_it_has_ended() {
        let start = Instant::now();
        let mut course = Course::holding(DEADLINE);
        course.stop(start);
        let next = course.wakes_at().unwrap();
        assert_eq!(course.advance(next, 0, 1), stand(Phase::Closed, Phase::Serving));
        // However long it takes: its grace is somebody else's to count.
        assert_eq!(course.wakes_at(), None);
        let late = start + 10 * DEADLINE;
        assert_eq!(course.advance(late, 0, 1), stand(Phase::Closed, Phase::Serving));
        course.finish(late);
        assert_eq!(course.advance(late, 0, 1), stand(Phase::Closed, Phase::Draining));
        assert_eq!(course.wakes_at(), Some(late + LAST_DELIVERY));
        assert_eq!(course.advance(late + LAST_DELIVERY, 0, 1), Phase::Closed.into());
    }

    #[test]
    fn the_deadline_cuts_callers_and_not_the_workload() {
        let start = Instant::now();
        let mut course = Course::holding(DEADLINE);
        course.stop(start);
        assert_eq!(course.advance(start + DEADLINE / 2, 1, 1), stand(Phase::Draining, Phase::Serving));
        assert_eq!(course.wakes_at(), Some(start + DEADLINE));
        assert_eq!(course.advance(start + DEADLINE, 1, 1), stand(Phase::Closed, Phase::Serving));
    }

    #[test]
    fn a_workload_that_ends_by_itself_has_its_last_words_delivered() {
        let start = Instant::now();
        let mut course = Course::holding(DEADLINE);
        course.finish(start);
        course.finish(start);
        assert_eq!(course.advance(start, 1, 1), Phase::Draining.into());
        assert_eq!(course.wakes_at(), Some(start + DEADLINE));
        assert_eq!(course.advance(start, 0, 0), Phase::Closed.into());
    }
}
