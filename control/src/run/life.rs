//! The life of a run: what it waits for, and what it does about it.

use std::io;
use std::time::{Duration, Instant};

use lighter_proxy::intercept::InterceptError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::RunError;
use super::channel::{Channel, Order, Report, Said, Tell};
use super::sidecar::Sidecar;
use super::signals::Signals;
use super::status::Status;
use super::successor::Heritage;
use super::supervisor::{Action, Event, Supervisor};

/// See above.
pub(super) struct Life<'a> {
    /// To the process inside.
    pub(super) control: Channel,
    pub(super) signals: Signals,
    pub(super) heritage: Heritage,
    pub(super) status: &'a mut Status,
    pub(super) supervisor: Supervisor,
    pub(super) sidecars: Sidecars,
    /// Proves, once the first sidecar is ready, that it intercepts.
    pub(super) probe: Option<Probe>,
    /// The process inside is gone.
    pub(super) inside_gone: bool,
}

/// See there.
pub(super) type Probe = Box<dyn FnOnce() -> Result<(), InterceptError>>;

/// Those of a run: one serves, one may be about to, and others finish what they had when they handed over.
pub(super) struct Sidecars {
    alive: Vec<(u32, Sidecar)>,
    /// How many were started.
    started: u32,
    /// `None`: it ended, or it handed over to one that has not said so yet.
    serving: Option<u32>,
    /// The one that is to take over, and until when.
    next: Option<(u32, Instant)>,
    /// What they were told, for those to come.
    told: Vec<Tell>,
}

impl Life<'_> {
    /// Lives until there is a status to end with, and no sidecar.
    pub(super) fn live(mut self) -> Result<u8, RunError> {
        let mut exit = None;
        while exit.is_none() || !self.sidecars.alive.is_empty() {
            let mut events = self.wait()?;
            let now = Instant::now();
            if let Some((next, until)) = self.sidecars.next
                && until <= now
            {
                events.extend(self.ended(next, Some("it was not ready in time"), false));
            }
            let mut actions: Vec<Action> =
                events.into_iter().flat_map(|event| self.supervisor.on(event, now)).collect();
            actions.extend(self.supervisor.on_time(now));
            for action in actions {
                match action {
                    Action::Exit(status) => {
                        exit.get_or_insert(status);
                        self.sidecars.tell(Tell::Finish);
                    }
                    Action::Drain => self.sidecars.tell(Tell::Drain),
                    Action::Finish => self.sidecars.tell(Tell::Finish),
                    Action::Start => self.order(Order::Start),
                    Action::PassOn(number) => self.order(Order::Signal(number)),
                }
            }
        }
        Ok(exit.unwrap_or_default())
    }

    /// Waits until something happens, or it is time for something.
    fn wait(&mut self) -> Result<Vec<Event>, RunError> {
        let wakes_at =
            self.supervisor.wakes_at().into_iter().chain(self.sidecars.next.map(|(_, until)| until));
        let left = wakes_at.min().map(|at| at.saturating_duration_since(Instant::now()));
        let mut watched = vec![PollFd::new(&self.signals, PollFlags::IN)];
        watched.extend(self.sidecars.alive.iter().map(|(_, sidecar)| PollFd::new(sidecar, PollFlags::IN)));
        if !self.inside_gone {
            watched.push(PollFd::new(&self.control, PollFlags::IN));
        }
        match poll(&mut watched, left.and_then(|left| Timespec::try_from(left).ok()).as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        let has: Vec<bool> = watched.iter().map(|one| !one.revents().is_empty()).collect();
        let speak = self.sidecars.alive.iter().zip(&has[1..]).filter(|(_, speaks)| **speaks);
        let said: Vec<_> = speak.map(|((id, sidecar), _)| (*id, sidecar.hear())).collect();
        let mut events: Vec<Event> = said.into_iter().filter_map(|(id, said)| self.said(id, said)).collect();
        if !self.inside_gone && has.last() == Some(&true) {
            let event = self.inside_event()?;
            self.inside_gone = event == Some(Event::InsideGone);
            events.extend(event);
        }
        if has.first() == Some(&true) {
            events.extend(std::iter::from_fn(|| self.signals.next()).map(Event::Signal));
        }
        Ok(events)
    }

    fn order(&self, order: Order) {
        // An inside that is gone is seen at the other direction of the channel.
        let _ = self.control.send(&order, &[]);
    }

    /// What the sidecar `id` says. `None`: it is gone.
    fn said(&mut self, id: u32, said: Option<Said>) -> Option<Event> {
        let serves = self.sidecars.serving == Some(id);
        match said {
            Some(Said::Ready) => match self.probe.take() {
                Some(probe) => Some(match probe() {
                    Ok(()) => Event::Ready,
                    Err(error) => {
                        eprintln!("lighter run: {error}");
                        Event::SidecarEnded { well: false }
                    }
                }),
                None => {
                    self.sidecars.serves(id);
                    self.status.succeeded(self.sidecars.pid(id));
                    None
                }
            },
            // Callers of one that handed over are its successor's.
            Some(Said::CallersGone) => serves.then_some(Event::CallersGone),
            Some(Said::SuccessorWanted) => {
                if let Err(why) = self.sidecars.succeed(id, &self.heritage, &self.control) {
                    eprintln!("lighter run: no hand-over: {why}");
                }
                None
            }
            Some(Said::Ended { fault, handed_over }) => self.ended(id, fault.as_deref(), handed_over),
            None => self.ended(id, Some("the sidecar's process is gone"), false),
        }
    }

    /// The sidecar `id` ended, or is to.
    fn ended(&mut self, id: u32, fault: Option<&str>, handed_over: bool) -> Option<Event> {
        if let Some(fault) = fault {
            eprintln!("lighter run: {fault}");
        }
        self.sidecars.end(id, handed_over).then_some(Event::SidecarEnded { well: fault.is_none() })
    }

    fn inside_event(&mut self) -> io::Result<Option<Event>> {
        Ok(match self.control.receive::<Report>()? {
            None => Some(Event::InsideGone),
            Some((Report::Started(pid), _)) => {
                self.status.started(pid);
                None
            }
            Some((Report::NotStarted(reason, status), _)) => {
                eprintln!("lighter run: cannot start {reason}");
                Some(Event::NotStarted(status))
            }
            Some((Report::Ended(status), _)) => Some(Event::Ended(status)),
            Some((Report::Ready { .. } | Report::Failed(_), _)) => None,
        })
    }
}

impl Sidecars {
    /// The first of a run.
    pub(super) fn new(sidecar: Sidecar) -> Self {
        Sidecars { alive: vec![(0, sidecar)], started: 1, serving: Some(0), next: None, told: Vec::new() }
    }

    /// Tells all of them, and whoever is started later.
    fn tell(&mut self, tell: Tell) {
        self.told.push(tell);
        self.alive.iter().for_each(|(_, sidecar)| sidecar.tell(tell, &[]));
    }

    /// Starts a process that is to take over from `id`.
    fn succeed(&mut self, id: u32, heritage: &Heritage, control: &Channel) -> io::Result<()> {
        if self.next.is_some() {
            return Err(io::Error::other("another process is about to take over"));
        }
        let serving = self.alive.iter().find(|(of, _)| *of == id && self.serving == Some(id));
        let Some((_, serving)) = serving else {
            return Err(io::Error::other("it was handed over already"));
        };
        let sidecar = heritage.pass_on(serving, control)?;
        // Whoever is told to leave while it is replaced leaves all the same.
        self.told.iter().for_each(|tell| sidecar.tell(*tell, &[]));
        self.next = Some((self.started, Instant::now() + TAKING_OVER));
        self.alive.push((self.started, sidecar));
        self.started += 1;
        Ok(())
    }

    /// The sidecar `id` serves now.
    fn serves(&mut self, id: u32) {
        self.serving = Some(id);
        self.next = None;
    }

    fn pid(&self, id: u32) -> Option<u32> {
        self.alive.iter().find(|(of, _)| *of == id).map(|(_, sidecar)| sidecar.pid())
    }

    /// The sidecar `id` ended. Says whether nobody serves from now on.
    fn end(&mut self, id: u32, handed_over: bool) -> bool {
        let gone = self.alive.extract_if(.., |(of, _)| *of == id);
        gone.for_each(|(_, sidecar)| sidecar.end());
        if self.next.is_some_and(|(next, _)| next == id) {
            self.next = None;
            return self.serving.is_none();
        }
        if self.serving != Some(id) {
            return false;
        }
        self.serving = None;
        !handed_over || self.next.is_none()
    }
}

/// How long a process may take until it has taken over. Its predecessor gives up before that.
const TAKING_OVER: Duration = Duration::from_secs(75);
