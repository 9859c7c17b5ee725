//! The life of a sidecar and its application, as a state machine without I/O: events and the time go in, actions come
//! out.
//!
//! The application starts when the sidecar is ready. On SIGTERM its callers leave first; then it is told to stop, and
//! can call others until it has; then the sidecar ends. It ends with the application's status, whatever happened to the
//! sidecar, unless the sidecar failed first.

use std::time::{Duration, Instant};

use super::signals::Signal;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The sidecar serves, and interception was proved.
    Ready,
    /// The application could not be started; what a shell would end with.
    NotStarted(u8),
    /// A signal came.
    Signal(Signal),
    /// The application ended.
    Ended(u8),
    /// The process inside is gone, and the application with it.
    InsideGone,
    /// The sidecar was told to drain, and the application has no callers any more.
    CallersGone,
    /// The sidecar has drained, or did not start, or failed.
    SidecarEnded {
        /// It ended as it was told to.
        well: bool,
    },
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Start the application.
    Start,
    /// Send the application this signal.
    PassOn(i32),
    /// Tell the sidecar to see the callers out.
    Drain,
    /// Tell the sidecar to accept nothing more, finish what runs, and end: there is nobody left to serve.
    Finish,
    /// End this process with this status.
    Exit(u8),
}

/// See above.
pub(super) struct Supervisor {
    state: State,
    grace: Duration,
    sidecar_ended: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The sidecar is not ready yet.
    Starting,
    /// The application runs.
    Running,
    /// The sidecar sees callers out, the application still runs.
    Draining,
    /// Callers are gone, or the sidecar is; the application was told to stop. A status that is given outranks the application's.
    Stopping { status: Option<u8>, kill_at: Option<Instant> },
    /// The application is gone, the sidecar finishes what is left.
    Finishing { status: u8 },
}

impl Supervisor {
    /// `grace`: how long the application may take to stop before it is killed.
    pub(super) fn new(grace: Duration) -> Self {
        Supervisor { state: State::Starting, grace, sidecar_ended: false }
    }

    /// Takes an event.
    pub(super) fn on(&mut self, event: Event, now: Instant) -> Vec<Action> {
        if let Event::SidecarEnded { .. } = event {
            self.sidecar_ended = true;
        }
        match (self.state, event) {
            (State::Starting, Event::Ready) => {
                self.state = State::Running;
                vec![Action::Start]
            }
            (State::Starting, Event::Signal(signal)) if ends(signal.number) => {
                self.finish(128 + signal.number as u8)
            }
            (State::Starting, Event::SidecarEnded { .. }) => vec![Action::Exit(FAULT)],
            (State::Finishing { status }, Event::SidecarEnded { .. }) => vec![Action::Exit(status)],
            (State::Finishing { .. }, _) => Vec::new(),

            (State::Running, Event::Signal(signal)) if signal.number == libc::SIGTERM => {
                self.state = State::Draining;
                vec![Action::Drain]
            }
            (State::Starting, Event::Signal(_)) => Vec::new(),
            (_, Event::Signal(signal)) if signal.from_terminal => Vec::new(),
            // A second SIGTERM does not wait for the drain.
            (_, Event::Signal(signal)) => vec![Action::PassOn(signal.number)],

            // Somebody else may have asked the sidecar: its admin port has a way to.
            (State::Running | State::Draining, Event::CallersGone) => self.stop(None, now),
            (State::Running, Event::SidecarEnded { .. }) => self.stop(Some(FAULT), now),
            (State::Draining, Event::SidecarEnded { well }) => self.stop((!well).then_some(FAULT), now),
            (State::Stopping { status: None, kill_at }, Event::SidecarEnded { well: false }) => {
                self.state = State::Stopping { status: Some(FAULT), kill_at };
                Vec::new()
            }

            (State::Stopping { status, .. }, Event::Ended(ended)) => self.finish(status.unwrap_or(ended)),
            (_, Event::NotStarted(status) | Event::Ended(status)) => self.finish(status),
            (_, Event::InsideGone) => self.finish(FAULT),
            (_, Event::Ready | Event::CallersGone | Event::SidecarEnded { .. }) => Vec::new(),
        }
    }

    /// When [`Supervisor::on_time`] has something to do.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        match self.state {
            State::Stopping { kill_at, .. } => kill_at,
            _ => None,
        }
    }

    /// Takes the time.
    pub(super) fn on_time(&mut self, now: Instant) -> Vec<Action> {
        match self.state {
            State::Stopping { status, kill_at: Some(at) } if at <= now => {
                self.state = State::Stopping { status, kill_at: None };
                vec![Action::PassOn(libc::SIGKILL)]
            }
            _ => Vec::new(),
        }
    }

    fn stop(&mut self, status: Option<u8>, now: Instant) -> Vec<Action> {
        self.state = State::Stopping { status, kill_at: Some(now + self.grace) };
        vec![Action::PassOn(libc::SIGTERM)]
    }

    fn finish(&mut self, status: u8) -> Vec<Action> {
        if self.sidecar_ended {
            return vec![Action::Exit(status)];
        }
        self.state = State::Finishing { status };
        vec![Action::Finish]
    }
}

/// Whether a process that does nothing about this signal ends.
fn ends(number: i32) -> bool {
    number != libc::SIGWINCH
}

/// The sidecar's own fault (EX_SOFTWARE).
const FAULT: u8 = 70;

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    fn signal(number: i32) -> Event {
        Event::Signal(Signal { number, from_terminal: false })
    }

    fn drained() -> Event {
        Event::SidecarEnded { well: true }
    }

    fn running() -> (Supervisor, Instant) {
        let mut supervisor = Supervisor::new(GRACE);
        let now = Instant::now();
        assert_eq!(supervisor.on(Event::Ready, now), [Action::Start]);
        (supervisor, now)
    }

    #[test]
    fn the_applications_status_is_ours_once_the_sidecar_drained() {
        let (mut supervisor, now) = running();
        assert_eq!(supervisor.on(Event::Ended(3), now), [Action::Finish]);
        assert_eq!(supervisor.on(drained(), now), [Action::Exit(3)]);
    }

    #[test]
    fn callers_leave_then_the_application_stops_then_the_sidecar_ends() {
        let (mut supervisor, now) = running();
        assert_eq!(supervisor.on(signal(libc::SIGTERM), now), [Action::Drain]);
        assert_eq!(supervisor.on(Event::CallersGone, now), [Action::PassOn(libc::SIGTERM)]);
        assert_eq!(supervisor.on(Event::Ended(143), now), [Action::Finish]);
        assert_eq!(supervisor.on(drained(), now), [Action::Exit(143)]);
    }

    #[test]
    fn a_drain_that_the_admin_port_was_asked_for_stops_the_application_too() {
        let (mut supervisor, now) = running();
        assert_eq!(supervisor.on(Event::CallersGone, now), [Action::PassOn(libc::SIGTERM)]);
        assert_eq!(supervisor.on(Event::Ended(0), now), [Action::Finish]);
        assert_eq!(supervisor.on(drained(), now), [Action::Exit(0)]);
    }

    #[test]
    fn a_sidecar_that_fails_while_the_application_stops_is_a_fault() {
        let (mut supervisor, now) = running();
        supervisor.on(signal(libc::SIGTERM), now);
        supervisor.on(Event::CallersGone, now);
        assert_eq!(supervisor.on(Event::SidecarEnded { well: false }, now), []);
        assert_eq!(supervisor.wakes_at(), Some(now + GRACE));
        assert_eq!(supervisor.on(Event::Ended(0), now), [Action::Exit(FAULT)]);
    }

    #[test]
    fn an_application_that_does_not_stop_is_killed() {
        let (mut supervisor, now) = running();
        supervisor.on(signal(libc::SIGTERM), now);
        supervisor.on(Event::CallersGone, now);
        assert_eq!(supervisor.wakes_at(), Some(now + GRACE));
        assert_eq!(supervisor.on_time(now), []);
        assert_eq!(supervisor.on_time(now + GRACE), [Action::PassOn(libc::SIGKILL)]);
        assert_eq!(supervisor.wakes_at(), None);
        assert_eq!(supervisor.on(Event::Ended(137), now), [Action::Finish]);
        assert_eq!(supervisor.on(drained(), now), [Action::Exit(137)]);
    }

    #[test]
    fn a_second_sigterm_does_not_wait_for_the_drain() {
        let (mut supervisor, now) = running();
        supervisor.on(signal(libc::SIGTERM), now);
        assert_eq!(supervisor.on(signal(libc::SIGTERM), now), [Action::PassOn(libc::SIGTERM)]);
        assert_eq!(supervisor.on(Event::Ended(143), now), [Action::Finish]);
        assert_eq!(supervisor.on(drained(), now), [Action::Exit(143)]);
    }

    #[test]
    fn signals_are_passed_on_but_not_twice() {
        let (mut supervisor, now) = running();
        assert_eq!(supervisor.on(signal(libc::SIGHUP), now), [Action::PassOn(libc::SIGHUP)]);
        let key = Signal { number: libc::SIGINT, from_terminal: true };
        assert_eq!(supervisor.on(Event::Signal(key), now), []);
    }

    #[test]
    fn a_sidecar_that_fails_stops_the_application() {
        let (mut supervisor, now) = running();
        let failed = Event::SidecarEnded { well: false };
        assert_eq!(supervisor.on(failed, now), [Action::PassOn(libc::SIGTERM)]);
        assert_eq!(supervisor.on(Event::Ended(0), now), [Action::Exit(FAULT)]);
    }

    #[test]
    fn a_sidecar_that_does_not_start_starts_nothing() {
        let mut supervisor = Supervisor::new(GRACE);
        let failed = Event::SidecarEnded { well: false };
        assert_eq!(supervisor.on(failed, Instant::now()), [Action::Exit(FAULT)]);
    }

    #[test]
    fn a_signal_before_the_start_ends_it() {
        let mut supervisor = Supervisor::new(GRACE);
        let now = Instant::now();
        assert_eq!(supervisor.on(signal(libc::SIGWINCH), now), []);
        assert_eq!(supervisor.on(signal(libc::SIGINT), now), [Action::Finish]);
        assert_eq!(supervisor.on(Event::Ready, now), []);
        assert_eq!(supervisor.on(drained(), now), [Action::Exit(130)]);
    }

    #[test]
    fn a_program_that_cannot_be_started_ends_like_in_a_shell() {
        let (mut supervisor, now) = running();
        assert_eq!(supervisor.on(Event::NotStarted(127), now), [Action::Finish]);
        assert_eq!(supervisor.on(drained(), now), [Action::Exit(127)]);
    }

    #[test]
    fn an_inside_that_is_gone_is_a_fault() {
        let (mut supervisor, now) = running();
        supervisor.on(signal(libc::SIGTERM), now);
        supervisor.on(Event::CallersGone, now);
        assert_eq!(supervisor.on(Event::InsideGone, now), [Action::Finish]);
        assert_eq!(supervisor.on(drained(), now), [Action::Exit(FAULT)]);
    }
}
