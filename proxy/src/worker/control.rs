//! The control thread: starts the workers, tells them what is in force, and sees them out.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use lighter_config::sidecar::SidecarConfig;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, LocalSet, spawn_local};

use super::doors::{self, Door};
use super::thread::{self, Event};
use super::{Ask, By, Shared, Sockets, Start, StartError, Summary, limits};
use crate::admin;
use crate::device::{self, Accepting, MakeHost};
use crate::dial::{self, SocketFactory};
use crate::discover;
use crate::drain::{Course, Phase, Stand};
use crate::guard;
use crate::handover::{Book, Taken, offer};
use crate::identity::{self, Identity};
use crate::intercept::{self, Installed, Ports};
use crate::link;
use crate::link::wire::shm;
use crate::registry;
use crate::resident;
use crate::resources::{self, Stamp};
use crate::stateful::leave::{self, Left};
use crate::telemetry::{self, spans};

/// Runs a sidecar until it has drained. Blocks the calling thread, which becomes the control runtime's.
pub fn run(start: Start) -> Result<Summary, StartError> {
    limits::raise_descriptors();
    let Start { config, sockets, outside, inside, ready, stop, callers_gone, successor, functions } = start;
    telemetry::install(config.workers.max(1), config.series_expire_after);
    if let Some(log) = &config.access_log {
        telemetry::access_log::install(log)?;
    }
    describe();
    let shared = Arc::new(Shared::new(config, outside, inside));
    if let Some(successor) = successor {
        let _ = shared.successor.set(successor);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let life = control(shared.clone(), sockets, functions, ready, stop, callers_gone);
    let summary = LocalSet::new().block_on(&runtime, life);
    if let Some(device) = shared.device.get() {
        device.end();
    }
    telemetry::access_log::flush(FLUSH);
    summary
}

/// One sidecar's life.
async fn control(
    shared: Arc<Shared>,
    mut sockets: Sockets,
    functions: Option<MakeHost>,
    ready: Box<dyn FnOnce() + Send>,
    stop: Option<mpsc::UnboundedReceiver<Ask>>,
    callers_gone: Option<Box<dyn FnOnce() + Send>>,
) -> Result<Summary, StartError> {
    let seen = Stamp::of(&shared.config.resources);
    resources::load(&shared, resources::Why::Asked)
        .map_err(|errors| StartError::Config(errors.to_string()))?;
    assume_identity(&shared)?;
    let mut taken = sockets.taken.take();
    let folder = shared.config.handover.clone();
    let gives_way = shared.gives_way();
    let mut book = Book::new(taken.as_mut().map(Taken::take_sockets).unwrap_or_default(), gives_way);
    let rules = sockets.rules.take();
    let dns = doors::dns(&shared.config, std::mem::take(&mut sockets.dns), &mut book)?;
    let admin = doors::one("admin", shared.config.admin, sockets.admin.take(), &mut book)?;
    let probe =
        shared.config.probe.map(|address| doors::one("probe", address, None, &mut book)).transpose()?;
    let device = run_device(&shared, functions, &mut book)?;
    if let Some(device) = &device {
        let _ = shared.device.set(device.running.clone());
    }
    let doors = doors::all(&shared.config, sockets, &mut book)?;
    spawn_local(stop_when_asked(shared.clone(), stop)?);
    let mut beside = Beside { device, ..Beside::default() };
    let admin = admin::serve(admin, shared.clone());
    let probe = probe.map(|probe| admin::serve_probe(probe, shared.clone()));
    // Whoever asks a predecessor's ports is answered by it as long as it serves.
    let mut asked_later = None;
    match &taken {
        None => beside.ask(admin, probe),
        Some(_) => asked_later = Some((admin, probe)),
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
    if let Some(tracing) = &shared.config.tracing {
        spans::install(tracing, shared.named());
        spawn_local(spans::run(shared.clone(), tracing.otlp.clone()));
    }
    spawn_local(registry::run(shared.clone()));
    spawn_local(guard::watch(shared.clone()));
    if shared.identity.get().is_some() {
        spawn_local(link::quic::open(shared.clone()));
    }
    open_door(&shared);
    if shared.rings.is_open() && shared.identity.get().is_some() {
        let shared = shared.clone();
        spawn_local(async move { shared.devices.watch(|device| shared.rings.lost(device)).await });
    }
    if let (Some(_), Some(discover)) = (&taken, &shared.discover) {
        // Nothing is taken from a predecessor that would have to wait here.
        discover.settled(&shared).await;
    }
    for (udp, tcp) in dns {
        beside.serve("DNS server", intercept::dns::serve(udp, tcp, shared.clone()));
    }
    let mut workers = Workers::start(&shared, doors)?;
    workers.up().await?;
    let rules = Rules::stand(&shared, rules, taken.as_ref()).await?;
    spawn_local(resources::watch(shared.clone(), seen));
    if let Some(discover) = &shared.discover {
        discover.settled(&shared).await;
    }
    shared.set_up();
    let generation = taken.as_ref().map_or(0, Taken::generation);
    offer::describe(generation);
    if let Some(taken) = taken {
        taken.ready()?;
        book.let_all_in();
        offer::count("taken");
        tracing::info!(generation, "took over");
    }
    if let Some((admin, probe)) = asked_later {
        beside.ask(admin, probe);
    }
    if gives_way {
        shared.offer.make(book, Rules::to_hand_over(&shared), generation);
    }
    if let Some(folder) = &folder {
        await_successor(folder, &shared);
    }
    ready();
    resident::forget_start();
    let summary = workers.see_out(&shared, callers_gone, beside).await?;
    spans::flush(FLUSH).await;
    if !shared.is_handed_over() {
        rules.remove();
    }
    Ok(summary)
}

/// Lets another process take this one's place. Where that cannot be, this one serves all the same.
fn await_successor(folder: &std::path::Path, shared: &Arc<Shared>) {
    match offer::Door::open(folder) {
        Ok(door) => drop(serve("hand-over", door.serve(shared.clone()))),
        Err(error) => {
            tracing::warn!(%error, folder = %folder.display(), "no other process can take over from this one");
        }
    }
}

/// What is served beside the traffic until another process has this one's place.
#[derive(Default)]
struct Beside {
    tasks: Vec<AbortHandle>,
    device: Option<Accepting>,
}

impl Beside {
    fn ask(
        &mut self,
        admin: impl Future<Output = std::io::Result<()>> + 'static,
        probe: Option<impl Future<Output = std::io::Result<()>> + 'static>,
    ) {
        self.serve("admin port", admin);
        if let Some(probe) = probe {
            self.serve("probe port", probe);
        }
    }

    fn serve(&mut self, what: &'static str, serving: impl Future<Output = std::io::Result<()>> + 'static) {
        self.tasks.push(serve(what, serving));
    }

    fn end(&mut self) {
        self.tasks.drain(..).for_each(|serving| serving.abort());
        self.device = None;
    }
}

/// Serves the functions of a device, if this is one.
fn run_device(
    shared: &Shared,
    functions: Option<MakeHost>,
    book: &mut Book,
) -> Result<Option<Accepting>, StartError> {
    let Some(config) = &shared.config.device else { return Ok(None) };
    let make = functions
        .ok_or_else(|| StartError::Device("this program has no functions: `lighter proxy` has".into()))?;
    let host = make(config).map_err(StartError::Device)?;
    let listener = doors::one("device", config.listen, None, book)?;
    Ok(Some(device::start(config, host, shared.main_task.clone(), listener)?))
}

/// Opens the door for peers of links that come for memory. Where there can be none, links do without.
fn open_door(shared: &Shared) {
    if !shared.rings.is_open() {
        return;
    }
    match shm::Door::open(None) {
        Ok(door) => {
            drop(serve("door of rings", door.clone().serve()));
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
fn serve(what: &'static str, serving: impl Future<Output = std::io::Result<()>> + 'static) -> AbortHandle {
    let task = spawn_local(async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "the {what} ended");
        }
    });
    task.abort_handle()
}

/// Whether this sidecar set the interception rules itself, and so takes them away itself.
struct Rules {
    ours: bool,
}

impl Rules {
    /// Takes over rules that stand already, or sets those that are asked for, when everything they lead to listens,
    /// and proves that they lead there.
    async fn stand(
        shared: &Shared,
        given: Option<Installed>,
        taken: Option<&Taken>,
    ) -> Result<Self, StartError> {
        let config = &shared.config;
        if let Some(given) = given {
            let _ = shared.rules.set(given);
            return Ok(Rules { ours: false });
        }
        let Some(wanted) = &config.intercept else { return Ok(Rules { ours: false }) };
        if taken.is_some_and(|taken| taken.has_rules(&Rules::made_by(config))) {
            // They lead to sockets that were taken over too: what was proved of them holds.
            let _ = shared.rules.set(Installed::by_another().map_err(intercept::InterceptError::from)?);
            return Ok(Rules { ours: true });
        }
        let _ = shared.rules.set(intercept::install(wanted, &Ports::of(config))?);
        let rules = Rules { ours: true };
        // A socket without a mark, as the workload makes them.
        let socket = |address| dial::Here::default().tcp(address);
        match intercept::probe::run(wanted, socket).await {
            Ok(()) => Ok(rules),
            Err(error) => {
                // A predecessor goes on behind them.
                if taken.is_none() {
                    rules.remove();
                }
                Err(error.into())
            }
        }
    }

    /// By what rules are made, as far as it is known here.
    fn made_by(config: &SidecarConfig) -> String {
        format!("{:?} {:?}", config.intercept, Ports::of(config))
    }

    /// For a successor, which lets them stand.
    fn to_hand_over(shared: &Shared) -> Option<String> {
        shared.rules.get().map(|_| Rules::made_by(&shared.config))
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
                        (By::Signal, Ask::Drain)
                    }
                    (None, Some(receiver)) => match receiver.recv().await {
                        Some(ask) => (By::Supervisor, ask),
                        // Whoever would ask is gone: that is asking too.
                        None => {
                            stop = None;
                            shared.workload_ended();
                            (By::Supervisor, Ask::Drain)
                        }
                    },
                    (None, None) => std::future::pending().await,
                }
            };
            tokio::select! {
                (by, ask) = asked => match ask {
                    Ask::GiveWay(to) => {
                        let shared = shared.clone();
                        drop(serve("hand-over", async move { offer::give_way(to, &shared).await.map(drop) }));
                    }
                    Ask::Drain => shared.drain(by, false),
                    Ask::Finish => {
                        shared.workload_ended();
                        shared.drain(by, false);
                        shared.drain(by, false);
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
        mut beside: Beside,
    ) -> Result<Summary, StartError> {
        let deadline = shared.config.drain_deadline;
        let mut course = match callers_gone {
            Some(_) => Course::holding(deadline),
            None => Course::new(deadline),
        };
        let mut summary = Summary::default();
        // Since when this instance waits for its state to move.
        let mut leaving: Option<Instant> = None;
        while self.running > 0 {
            let wake = course.wakes_at();
            let left = async {
                match leaving {
                    Some(since) => leave::left(shared, since + leave::patience(deadline)).await,
                    None => std::future::pending().await,
                }
            };
            let time = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shared.stop.notified() => {
                    // A socket that stayed open for a successor would let callers in whom nobody serves.
                    shared.offer.withdraw();
                    if shared.is_handed_over() {
                        beside.end();
                        course.hand_over(Instant::now());
                    }
                    let mut asked = shared.take_asked();
                    let hurries = shared.is_asked_now() || shared.has_workload_ended() || shared.is_handed_over();
                    if asked == 1 && leaving.is_none() && !course.has_begun() && !hurries && leave::begin(shared) {
                        leaving = Some(Instant::now());
                        continue;
                    }
                    if let Some(since) = leaving.take_if(|_| asked > 0 || hurries) {
                        leave::end(shared, Left::Hurried);
                        course.waited(since.elapsed());
                        // That it was asked for the first time was put off.
                        asked += 1;
                    }
                    for _ in 0..asked {
                        course.stop(Instant::now());
                    }
                    if shared.is_asked_now() {
                        course.stop_now(Instant::now());
                    }
                    if shared.has_workload_ended() {
                        course.finish(Instant::now());
                    }
                }
                () = time => {}
                left = left => {
                    if let Some(since) = leaving.take() {
                        leave::end(shared, left);
                        course.waited(since.elapsed());
                        course.stop(Instant::now());
                    }
                }
                event = self.events.recv() => match event {
                    Some(Event::CallersGone) => self.calling -= 1,
                    Some(Event::Drained(cut)) => {
                        self.running -= 1;
                        summary.cut.extend(&cut);
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
            // Callers who go to a successor are not gone.
            if stand.callers == Phase::Closed
                && !shared.is_handed_over()
                && let Some(callers_gone) = callers_gone.take()
            {
                callers_gone();
            }
        }
        if summary.cut.total() > 0 {
            let cut = summary.cut.total();
            tracing::warn!(cut, kinds = %summary.cut, "drain deadline passed: connections were cut");
        } else {
            tracing::info!("drained, nothing was cut");
        }
        summary.handed_over = shared.is_handed_over();
        Ok(summary)
    }

    fn enter(&self, shared: &Shared, stand: Stand) {
        if *self.stands.borrow() == stand {
            return;
        }
        let Stand { callers, workload, handed_over } = stand;
        tracing::info!(?callers, ?workload, handed_over, open = shared.open_connections(), "drain");
        tell(stand);
        shared.set_phase(callers);
        self.stands.send_replace(stand);
    }
}

/// Shows where each side stands, as the number of its phase.
fn tell(stand: Stand) {
    metrics::gauge!("lighter_drain_phase", "side" => "callers").set(f64::from(stand.callers as u8));
    metrics::gauge!("lighter_drain_phase", "side" => "workload").set(f64::from(stand.workload as u8));
}

/// Says what is counted of a drain.
fn describe() {
    metrics::describe_gauge!(
        "lighter_drain_phase",
        "Where each side of this process stands: 0 serving, 1 lame, 2 draining, 3 closed."
    );
    metrics::describe_counter!("lighter_drain_requests_total", "Times that a drain was asked for, by whom.");
    metrics::describe_counter!(
        "lighter_drain_cut_total",
        "Connections that were cut at the deadline of a drain, by what they carried."
    );
    metrics::describe_counter!(
        "lighter_balancer_notices_total",
        "Endpoints that said themselves, by a link, an answer or a GOAWAY, that they leave, and got nothing more from then on."
    );
    tell(Stand::default());
}

/// How long the access log may take to be written out.
const FLUSH: Duration = Duration::from_secs(1);
