//! The control thread: starts the workers, tells them what is in force, and sees them out.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{LocalSet, spawn_local};

use super::doors::{self, Door};
use super::thread::{self, Event};
use super::{Ask, Shared, Sockets, Start, StartError, Summary, limits};
use crate::admin;
use crate::dial::{self, SocketFactory};
use crate::discover;
use crate::drain::{Course, Phase, Stand};
use crate::identity::{self, Identity};
use crate::intercept::{self, Installed, Ports};
use crate::link::wire::shm;
use crate::registry;
use crate::resident;
use crate::resources::{self, Stamp};
use crate::telemetry;

/// Runs a sidecar until it has drained. Blocks the calling thread, which becomes the control runtime's.
pub fn run(start: Start) -> Result<Summary, StartError> {
    limits::raise_descriptors();
    let Start { config, sockets, outside, inside, ready, stop, callers_gone } = start;
    telemetry::install(config.workers.max(1));
    if let Some(log) = &config.access_log {
        telemetry::access_log::install(log)?;
    }
    let shared = Arc::new(Shared::new(config, outside, inside));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let summary = LocalSet::new().block_on(&runtime, control(shared, sockets, ready, stop, callers_gone));
    telemetry::access_log::flush(FLUSH);
    summary
}

/// One sidecar's life.
async fn control(
    shared: Arc<Shared>,
    mut sockets: Sockets,
    ready: Box<dyn FnOnce() + Send>,
    stop: Option<mpsc::UnboundedReceiver<Ask>>,
    callers_gone: Option<Box<dyn FnOnce() + Send>>,
) -> Result<Summary, StartError> {
    let seen = Stamp::of(&shared.config.resources);
    resources::load(&shared, resources::Why::Asked)
        .map_err(|errors| StartError::Config(errors.to_string()))?;
    assume_identity(&shared)?;
    let rules = sockets.rules.take();
    let dns = doors::dns(&shared.config, std::mem::take(&mut sockets.dns))?;
    let admin = match sockets.admin.take() {
        Some(listener) => listener,
        None => doors::one(shared.config.admin)?,
    };
    let probe = shared.config.probe.map(doors::one).transpose()?;
    let doors = doors::all(&shared.config, sockets)?;
    spawn_local(stop_when_asked(shared.clone(), stop)?);
    serve("admin port", admin::serve(admin, shared.clone()));
    if let Some(probe) = probe {
        serve("probe port", admin::serve_probe(probe, shared.clone()));
    }
    if !join(&shared).await {
        tracing::info!("asked to end before there was an identity");
        return Ok(Summary::default());
    }
    if let Some(identity) = shared.identity.get() {
        spawn_local(identity::holds::keep(identity.clone(), shared.config.drain_deadline));
    }
    if let Some(discover) = &shared.discover {
        discover::restore(&shared, discover);
        spawn_local(discover::run(shared.clone()));
    }
    spawn_local(registry::run(shared.clone()));
    open_door(&shared);
    for (udp, tcp) in dns {
        serve("DNS server", intercept::dns::serve(udp, tcp, shared.clone()));
    }
    let mut workers = Workers::start(&shared, doors)?;
    workers.up().await?;
    let rules = Rules::stand(&shared, rules).await?;
    spawn_local(resources::watch(shared.clone(), seen));
    if let Some(discover) = &shared.discover {
        discover.settled(&shared).await;
    }
    shared.set_up();
    ready();
    resident::forget_start();
    let summary = workers.see_out(&shared, callers_gone).await?;
    rules.remove();
    Ok(summary)
}

/// Opens the door for peers of links that come for memory. Where there can be none, links do without.
fn open_door(shared: &Shared) {
    if !shared.rings.is_open() {
        return;
    }
    match shm::Door::open(None) {
        Ok(door) => {
            serve("door of rings", door.clone().serve());
            let _ = shared.door.set(door);
        }
        Err(error) => tracing::warn!(%error, "no place to hand out memory: links stay on TCP"),
    }
}

/// Becomes who the identity's files say, and goes on doing so.
fn assume_identity(shared: &Shared) -> Result<(), StartError> {
    let Some(files) = &shared.config.identity else { return Ok(()) };
    // Looked at before they are read: what changes meanwhile is seen the next time.
    let seen = identity::files::stamp(files);
    let svid = identity::files::load(files, SystemTime::now())?;
    tracing::info!(identity = %svid.id(), "identity in force");
    let identity = shared.identity.get_or_init(|| Identity::new(svid));
    spawn_local(identity::files::watch(files.clone(), identity.clone(), seen));
    Ok(())
}

/// Becomes who the control plane says, if that is who says it: nothing is served before, as nobody knows yet whom to serve.
/// Returns false if this sidecar was asked to end meanwhile.
async fn join(shared: &Arc<Shared>) -> bool {
    if !identity::join::is_joining(shared.config.control.as_ref()) {
        return true;
    }
    let (known, joined) = oneshot::channel();
    spawn_local(identity::join::run(shared.clone(), known));
    tokio::select! {
        joined = joined => joined.is_ok(),
        () = shared.stop_asked() => false,
    }
}

/// Serves beside the traffic, on this thread.
fn serve(what: &'static str, serving: impl Future<Output = std::io::Result<()>> + 'static) {
    spawn_local(async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "the {what} ended");
        }
    });
}

/// Whether this sidecar set the interception rules itself, and so takes them away itself.
struct Rules {
    ours: bool,
}

impl Rules {
    /// Takes over rules that stand already, or sets those that are asked for, when everything they lead to listens,
    /// and proves that they lead there.
    async fn stand(shared: &Shared, given: Option<Installed>) -> Result<Self, StartError> {
        let config = &shared.config;
        if let Some(given) = given {
            let _ = shared.rules.set(given);
            return Ok(Rules { ours: false });
        }
        let Some(wanted) = &config.intercept else { return Ok(Rules { ours: false }) };
        let _ = shared.rules.set(intercept::install(wanted, &Ports::of(config))?);
        let rules = Rules { ours: true };
        // A socket without a mark, as the workload makes them.
        let socket = |address| dial::Here::default().tcp(address);
        match intercept::probe::run(wanted, socket).await {
            Ok(()) => Ok(rules),
            Err(error) => {
                rules.remove();
                Err(error.into())
            }
        }
    }

    /// Takes them away after a drain, so that what the workload still does goes its direct way. After a crash they
    /// stay: nothing may slip by a sidecar that is started again.
    fn remove(self) {
        if self.ours
            && let Err(error) = intercept::remove()
        {
            tracing::warn!(%error, "the interception rules stay");
        }
    }
}

/// Forwards what asks this process to end (or to reload) from outside of it.
fn stop_when_asked(
    shared: Arc<Shared>,
    stop: Option<mpsc::UnboundedReceiver<Ask>>,
) -> std::io::Result<impl Future<Output = ()>> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut signals = match stop {
        None => Some((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)),
        Some(_) => None,
    };
    Ok(async move {
        let mut stop = stop;
        loop {
            let asked = async {
                match (&mut signals, &mut stop) {
                    (Some((terminate, interrupt)), _) => {
                        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
                        Ask::Drain
                    }
                    (None, Some(receiver)) => match receiver.recv().await {
                        Some(ask) => ask,
                        // Whoever would ask is gone: that is asking too.
                        None => {
                            stop = None;
                            shared.workload_ended();
                            Ask::Drain
                        }
                    },
                    (None, None) => std::future::pending().await,
                }
            };
            tokio::select! {
                ask = asked => match ask {
                    Ask::Drain => shared.drain(),
                    Ask::Finish => {
                        shared.workload_ended();
                        shared.drain();
                        shared.drain();
                    }
                },
                _ = hangup.recv() => {
                    telemetry::access_log::reopen();
                    shared.reload();
                }
            }
        }
    })
}

/// The workers' threads as the control thread sees them.
struct Workers {
    running: usize,
    /// Those that accept callers or have some.
    calling: usize,
    stands: watch::Sender<Stand>,
    events: mpsc::UnboundedReceiver<Event>,
}

impl Workers {
    fn start(shared: &Arc<Shared>, doors: Vec<Vec<Door>>) -> Result<Self, StartError> {
        let (stands, _) = watch::channel(Stand::default());
        let (sender, events) = mpsc::unbounded_channel();
        let running = doors.len();
        for (index, doors) in doors.into_iter().enumerate() {
            thread::start(index, shared.clone(), doors, stands.subscribe(), sender.clone())?;
        }
        Ok(Workers { running, calling: running, stands, events })
    }

    /// Resolves when every worker accepts.
    async fn up(&mut self) -> Result<(), StartError> {
        for _ in 0..self.running {
            match self.events.recv().await {
                Some(Event::Up) => {}
                Some(Event::Failed(error)) => return Err(error),
                Some(Event::Died(index)) => return Err(StartError::Died(index)),
                Some(Event::CallersGone | Event::Drained(_)) | None => return Err(StartError::Died(0)),
            }
        }
        Ok(())
    }

    /// Waits for a drain, leads it through its phases, and counts what it cut.
    async fn see_out(
        mut self,
        shared: &Shared,
        mut callers_gone: Option<Box<dyn FnOnce() + Send>>,
    ) -> Result<Summary, StartError> {
        let deadline = shared.config.drain_deadline;
        let mut course = match callers_gone {
            Some(_) => Course::holding(deadline),
            None => Course::new(deadline),
        };
        let mut summary = Summary::default();
        while self.running > 0 {
            let wake = course.wakes_at();
            let time = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shared.stop.notified() => {
                    for _ in 0..shared.take_asked() {
                        course.stop(Instant::now());
                    }
                    if shared.has_workload_ended() {
                        course.finish(Instant::now());
                    }
                }
                () = time => {}
                event = self.events.recv() => match event {
                    Some(Event::CallersGone) => self.calling -= 1,
                    Some(Event::Drained(cut)) => {
                        self.running -= 1;
                        summary.cut += cut;
                    }
                    Some(Event::Died(index)) => {
                        tracing::error!(worker = index, "a worker died: this process ends");
                        return Err(StartError::Died(index));
                    }
                    Some(Event::Failed(error)) => return Err(error),
                    Some(Event::Up) => {}
                    None => break,
                },
            }
            let stand = course.advance(Instant::now(), self.calling, self.running);
            self.enter(shared, stand);
            if stand.callers == Phase::Closed
                && let Some(callers_gone) = callers_gone.take()
            {
                callers_gone();
            }
        }
        if summary.cut > 0 {
            tracing::warn!(cut = summary.cut, "drain deadline passed: connections were cut");
        } else {
            tracing::info!("drained, nothing was cut");
        }
        Ok(summary)
    }

    fn enter(&self, shared: &Shared, stand: Stand) {
        if *self.stands.borrow() == stand {
            return;
        }
        let Stand { callers, workload } = stand;
        tracing::info!(?callers, ?workload, open = shared.open_connections(), "drain");
        shared.set_phase(callers);
        self.stands.send_replace(stand);
    }
}

/// How long the access log may take to be written out.
const FLUSH: Duration = Duration::from_secs(1);
