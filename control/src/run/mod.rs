//! `lighter run`: an unchanged program with a sidecar beside it on a plain host.
//!
//! Three processes: this one is the sidecar and stays in the host's network namespace, where it dials other
//! workloads and is dialled by them. One is inside the program's own network namespace and makes there what has to
//! belong to it ([`inside`]). The third is the program. It keeps its user, directory, environment, descriptors,
//! arguments and process group; what it can notice is:
//!
//! * its network namespace: one interface, and every connection is redirected; no abstract Unix sockets of the host;
//! * without privileges, a user namespace in which only its own user and group have names, so that set-user-ID
//!   programs (`sudo`, `ping`) gain nothing;
//! * on hosts with systemd-resolved or nscd, a mount namespace in which their sockets are covered, because they would
//!   answer lookups that have to become DNS queries;
//! * its parent, and that it is killed when its parent is.

mod channel;
mod inside;
mod join;
mod namespace;
mod options;
mod resolver;
mod signals;
mod sockets;
mod status;
mod supervisor;

pub use namespace::WORKLOAD;
pub use options::Args;

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use lighter_config::sidecar::InterceptConfig;
use lighter_proxy::dial::Here;
use lighter_proxy::intercept::{self, Installed, InterceptError, Ports};
use lighter_proxy::telemetry::logging;
use lighter_proxy::worker::{self, Ask, Sockets, Start, StartError};
use miette::IntoDiagnostic;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::process::WaitOptions;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::exit::Exit;

use channel::{Channel, Order, Report};
use inside::{Inside, Plan};
use options::Options;
use signals::{PASSED_ON, Signals};
use status::Status;
use supervisor::{Action, Event, Supervisor};

/// Runs the program until it ends. Must be called while this process has one thread.
pub fn execute(args: Args) -> miette::Result<Exit> {
    // Standard error is the program's: little is said there.
    logging::install("warn", false).into_diagnostic()?;
    let options = match Options::from(args) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("lighter run: {error}");
            return Ok(Exit::Usage);
        }
    };
    Ok(match run(options) {
        Ok(status) => Exit::Status(status),
        Err(error) => {
            eprintln!("lighter run: {error}");
            Exit::Internal
        }
    })
}

/// Why the program was not run, or not to its end.
#[derive(Debug, thiserror::Error)]
enum RunError {
    /// The process inside could not do its part.
    #[error("{0}")]
    Inside(String),
    /// It is gone.
    #[error("the process inside the namespace has died")]
    InsideGone,
    /// A socket of the sidecar's own.
    #[error("cannot listen on {address}: {source}")]
    Listen { address: std::net::SocketAddr, source: io::Error },
    /// A call that does not fail on a healthy system.
    #[error("{0}")]
    System(#[from] io::Error),
}

fn run(options: Options) -> Result<u8, RunError> {
    let Options { mut config, command, grace, status_file } = options;
    let (signals, mask) = Signals::hold(&PASSED_ON)?;
    let intercept = config.intercept.take().unwrap_or_default();
    // There is no way into the namespace but by the sidecar, and none out of it.
    let intercept = inside_intercept(intercept);
    let ports = Ports { dns: intercept.dns.then_some(intercept::nft::DNS_PORT), ..Ports::of(&config) };
    let workers = config.workers.max(1);
    let plan = Plan { command, intercept: intercept.clone(), ports, workers, mask, grace };
    let inside = inside::start(plan)?;
    let made = Made::receive(&inside.control)?;
    let mut status = Status::new(status_file, &made, inside.pid);

    let admin = listen(config.admin)?;
    status.admin = Some(admin.local_addr()?);
    config.admin = admin.local_addr()?;
    status.listen = config.inbound.iter().map(|inbound| inbound.listen).collect();
    status.service = config.service.clone();
    let Inside { control, sockets, pid } = inside;
    let inside_sockets = Arc::new(sockets::Inside::new(sockets, pid)?);
    let rules = Installed::from_fd(made.rules.try_clone()?)?;
    let start = |hooks: Hooks| Start {
        config,
        sockets: Sockets {
            outbound: made.outbound,
            dns: made.dns,
            inbound: Vec::new(),
            admin: Some(admin),
            rules: Some(rules),
        },
        outside: Arc::new(Here::default()),
        inside: inside_sockets.clone(),
        ready: hooks.ready,
        stop: Some(hooks.stop),
        callers_gone: Some(hooks.callers_gone),
    };
    let sidecar = Sidecar::start(start)?;
    let counters = Installed::from_fd(made.rules)?;
    let ended =
        Life { control, signals, sidecar, inside_sockets, intercept, status: &mut status, grace }.live();
    status.rules = counters.counters().unwrap_or_default();
    status.ended(ended.as_ref().ok().copied());
    // Its channel is closed by now: it takes what is left of the application with it.
    let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
    ended
}

fn inside_intercept(configured: InterceptConfig) -> InterceptConfig {
    let mut exclude_cidrs = configured.exclude_cidrs;
    // What the application says to itself, and what the sidecar says to it.
    exclude_cidrs.extend(WORKLOAD.map(|address| (address, if address.is_ipv4() { 32 } else { 128 })));
    InterceptConfig { outbound: true, inbound: false, exclude_cidrs, ..configured }
}

fn listen(address: std::net::SocketAddr) -> Result<TcpListener, RunError> {
    intercept::listen::tcp(address).map_err(|source| RunError::Listen { address, source })
}

/// Longest wait for the very first socket made inside, which proves that any can be.
const FIRST_SOCKET: Duration = Duration::from_secs(10);

/// What the process inside handed over.
struct Made {
    netns: u64,
    user_namespace: bool,
    outbound: Vec<TcpListener>,
    dns: Vec<(UdpSocket, TcpListener)>,
    rules: OwnedFd,
}

impl Made {
    fn receive(control: &Channel) -> Result<Self, RunError> {
        let (report, mut descriptors) = control.receive::<Report>()?.ok_or(RunError::InsideGone)?;
        let (netns, user_namespace, outbound) = match report {
            Report::Ready { netns, user_namespace, outbound } => (netns, user_namespace, outbound),
            Report::Failed(reason) => return Err(RunError::Inside(reason)),
            other => return Err(RunError::Inside(format!("{other:?} before anything was made"))),
        };
        let missing = || RunError::Inside("a socket is missing".into());
        let rules = descriptors.pop().ok_or_else(missing)?;
        if descriptors.len() < outbound {
            return Err(missing());
        }
        let mut pairs = descriptors.split_off(outbound).into_iter();
        let outbound = descriptors.into_iter().map(TcpListener::from).collect();
        let mut dns = Vec::new();
        while let (Some(udp), Some(tcp)) = (pairs.next(), pairs.next()) {
            dns.push((udp.into(), tcp.into()));
        }
        Ok(Made { netns, user_namespace, outbound, dns, rules })
    }
}

/// The sidecar, on a thread of its own.
struct Sidecar {
    stop: UnboundedSender<Ask>,
    events: mpsc::Receiver<FromSidecar>,
    /// Readable when there are events.
    woken: Arc<OwnedFd>,
}

enum FromSidecar {
    Ready,
    CallersGone,
    Ended(Result<(), StartError>),
}

/// How a sidecar and its supervisor hear of each other.
struct Hooks {
    ready: Box<dyn FnOnce() + Send>,
    callers_gone: Box<dyn FnOnce() + Send>,
    stop: UnboundedReceiver<Ask>,
}

impl Sidecar {
    fn start(start: impl FnOnce(Hooks) -> Start) -> io::Result<Self> {
        let (stop, stopped) = unbounded_channel();
        let (sender, events) = mpsc::channel();
        let woken = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let told = {
            let woken = woken.clone();
            move |event| {
                // The receiver lives as long as this process has anything left to decide.
                let _ = sender.send(event);
                let _ = rustix::io::write(&*woken, &1u64.to_ne_bytes());
            }
        };
        let (ready, callers_gone) = (told.clone(), told.clone());
        let start = start(Hooks {
            ready: Box::new(move || ready(FromSidecar::Ready)),
            callers_gone: Box::new(move || callers_gone(FromSidecar::CallersGone)),
            stop: stopped,
        });
        std::thread::Builder::new().name("control".into()).spawn(move || {
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worker::run(start)));
            told(FromSidecar::Ended(match ended {
                Ok(ended) => ended.map(drop),
                Err(_) => Err(StartError::Died(0)),
            }));
        })?;
        Ok(Sidecar { stop, events, woken })
    }

    /// It may have ended by itself.
    fn ask(&self, ask: Ask) {
        let _ = self.stop.send(ask);
    }
}

/// What a run waits for and decides by.
struct Life<'a> {
    control: Channel,
    signals: Signals,
    sidecar: Sidecar,
    inside_sockets: Arc<sockets::Inside>,
    intercept: InterceptConfig,
    status: &'a mut Status,
    grace: Duration,
}

impl Life<'_> {
    /// Lives until there is a status to end with.
    fn live(mut self) -> Result<u8, RunError> {
        let mut supervisor = Supervisor::new(self.grace);
        let mut inside_gone = false;
        loop {
            let control = if inside_gone { self.signals.as_fd() } else { self.control.as_fd() };
            let mut watched = [
                PollFd::new(&self.signals, PollFlags::IN),
                PollFd::new(&*self.sidecar.woken, PollFlags::IN),
                PollFd::from_borrowed_fd(control, PollFlags::IN),
            ];
            let left = supervisor.wakes_at().map(|at| at.saturating_duration_since(Instant::now()));
            match poll(&mut watched, left.and_then(|left| Timespec::try_from(left).ok()).as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
            let [signalled, woken, told] = watched.map(|descriptor| !descriptor.revents().is_empty());
            let mut events = Vec::new();
            if woken {
                events.extend(self.sidecar_events());
            }
            if told && !inside_gone {
                let event = self.inside_event()?;
                inside_gone = event == Some(Event::InsideGone);
                events.extend(event);
            }
            if signalled {
                events.extend(std::iter::from_fn(|| self.signals.next()).map(Event::Signal));
            }
            let now = Instant::now();
            let mut actions: Vec<Action> =
                events.into_iter().flat_map(|event| supervisor.on(event, now)).collect();
            actions.extend(supervisor.on_time(now));
            for action in actions {
                match action {
                    Action::Exit(status) => return Ok(status),
                    Action::Drain => self.sidecar.ask(Ask::Drain),
                    Action::Finish => self.sidecar.ask(Ask::Finish),
                    Action::Start => self.order(Order::Start),
                    Action::PassOn(number) => self.order(Order::Signal(number)),
                }
            }
        }
    }

    fn order(&self, order: Order) {
        // An inside that is gone is seen at the other direction of the channel.
        let _ = self.control.send(&order, &[]);
    }

    fn sidecar_events(&mut self) -> Vec<Event> {
        let mut count = [0; 8];
        let _ = rustix::io::read(&*self.sidecar.woken, &mut count);
        let mut events = Vec::new();
        while let Ok(event) = self.sidecar.events.try_recv() {
            events.push(match event {
                FromSidecar::Ready => match self.probe() {
                    Ok(()) => Event::Ready,
                    Err(error) => {
                        eprintln!("lighter run: {error}");
                        Event::SidecarEnded { well: false }
                    }
                },
                FromSidecar::CallersGone => Event::CallersGone,
                FromSidecar::Ended(Ok(())) => Event::SidecarEnded { well: true },
                FromSidecar::Ended(Err(error)) => {
                    eprintln!("lighter run: {error}");
                    Event::SidecarEnded { well: false }
                }
            });
        }
        events
    }

    /// Proves that a connection made inside arrives at the sidecar.
    fn probe(&self) -> Result<(), InterceptError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let socket = |address| self.inside_sockets.take(address, FIRST_SOCKET);
        runtime.block_on(intercept::probe::run(&self.intercept, socket))
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
