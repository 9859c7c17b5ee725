//! A sidecar process: worker threads that carry traffic, and one control thread that tells them what is in force.
//!
//! A worker is one thread with one single-threaded runtime, its own accept sockets, connection pools and metric
//! shard. Nothing on the request path crosses threads. The calling thread of [`run`] serves everything that is not
//! traffic.

use std::cell::{OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use lighter_config::name::{ServiceName, ServicePort};
use lighter_config::sidecar::SidecarConfig;
use tokio::sync::{Notify, Semaphore};

use crate::device::{self, MainTask, MakeHost};
use crate::dial::SocketFactory;
use crate::discover::Discover;
use crate::drain::{Connections, Kinds, Phase};
use crate::guard::Guard;
use crate::handover::offer::Offer;
use crate::handover::{HandoverError, Taken};
use crate::http::hop::{self, Half};
use crate::identity::{self, Identity};
use crate::inbound::Apps;
use crate::intercept::Installed;
use crate::link::negotiate::rings::Rings;
use crate::link::quic;
use crate::link::standing;
use crate::link::wire::rdma::Devices;
use crate::link::wire::shm::Door;
use crate::mesh;
use crate::messages::Channel;
use crate::outbound::Listener;
use crate::resources::Sources;
use crate::stateful::held::Holds;
use crate::stateful::leave::Leaving;
use crate::stateful::moved::Room;
use crate::stateful::{Hosted, transfer};
use crate::telemetry::spans::otlp::Named;
use crate::telemetry::{self, Direction, RouteMetrics, WorkerMetrics};

mod accept;
mod control;
mod doors;
mod limits;
mod thread;

pub(crate) use accept::Counted;
pub use control::run;

/// What all workers share.
pub struct Shared {
    /// The sidecar's own file.
    pub config: SidecarConfig,
    /// The name of this process among all instances.
    pub instance: String,
    /// The mesh of the moment.
    pub mesh: mesh::InForce,
    /// This workload's place, where its Service has state.
    pub hosted: ArcSwapOption<Hosted>,
    /// Dials endpoints (from the host's side).
    pub outside: Arc<dyn SocketFactory>,
    /// Dials this workload's application (from its own namespace).
    pub inside: Arc<dyn SocketFactory>,
    /// The rules of interception, once they stand; `/intercept` of the admin port shows their counters.
    pub rules: OnceLock<Installed>,
    /// Who this sidecar is, once it is somebody.
    pub identity: OnceLock<Arc<Identity>>,
    /// What the control plane tells of, if there is one.
    pub discover: Option<Discover>,
    /// For lookups of names of the world.
    pub(crate) lookups: Arc<Semaphore>,
    /// Memory beneath links, of all workers.
    pub(crate) rings: Arc<Rings>,
    /// The RDMA devices that links can use.
    pub(crate) devices: Devices,
    /// The functions, where this is a device that runs some.
    pub(crate) device: OnceLock<Arc<device::Running>>,
    /// The UDP port of links.
    pub(crate) quic: quic::Port,
    /// How every open link stands.
    pub(crate) links: standing::Links,
    /// Where peers of links come for that memory, once it is open.
    pub(crate) door: OnceLock<Arc<Door>>,
    /// Copies of this workload's state, where its Service has some and it moves.
    pub(crate) copies: transfer::Door,
    /// Whether that is to move before this process drains.
    pub(crate) leaving: Leaving,
    /// What waits of requests to Services whose state moves.
    pub(crate) holds: Holds,
    /// What is kept of them until they are answered.
    pub(crate) moved: Room,
    /// How short memory and descriptors run.
    pub(crate) guard: Guard,
    /// What this sidecar's device is there for, if it is one and that is said.
    pub(crate) main_task: Option<Arc<MainTask>>,
    sources: Mutex<Sources>,
    service: Option<ServiceName>,
    listeners: Box<[Listener]>,
    phase: AtomicU8,
    up: AtomicBool,
    open: AtomicUsize,
    most: usize,
    /// How often a drain was asked for since the control thread last looked.
    asked: AtomicUsize,
    /// Whoever asked for a drain does not wait for what runs.
    now: AtomicBool,
    /// The workload has ended.
    ended: AtomicBool,
    /// Another process has this one's place.
    handed: AtomicBool,
    /// What another process gets that takes this one's place.
    pub(crate) offer: Offer,
    /// Starts such a process, where somebody can.
    successor: OnceLock<Box<dyn Fn() + Send + Sync>>,
    stop: Notify,
    reload: Notify,
    /// This process is up, or moved on to another phase.
    stand: Notify,
}

/// What one worker thread has to itself.
pub struct Worker {
    /// Its number: the metric shard.
    pub index: usize,
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// Its connections, and the phase of drain.
    pub connections: Rc<Connections>,
    /// Kept HTTP/1 connections to endpoints.
    pub http1: RefCell<crate::http::h1::Pool>,
    /// Open HTTP/2 connections to endpoints.
    pub http2: crate::http::h2::Pool,
    /// Open links to the sidecars of endpoints.
    pub(crate) links: crate::link::pool::Links,
    /// From where it dials links over QUIC.
    pub(crate) quic: quic::Dials,
    pub(crate) apps: Apps,
    pub(crate) metrics: Arc<WorkerMetrics>,
    passthrough: [OnceCell<Arc<RouteMetrics>>; 2],
}

/// Listening sockets that were made elsewhere: `lighter run` makes them inside the application's network namespace.
/// In each list, socket `i` is for worker `i % workers` (SO_REUSEPORT). An empty list: made here if asked for.
#[derive(Default)]
pub struct Sockets {
    /// Where intercepted outbound connections arrive (`intercept::listen::outbound` makes them).
    pub outbound: Vec<std::net::TcpListener>,
    /// Where DNS queries arrive (`intercept::listen::dns` makes them), all for the control runtime.
    pub dns: Vec<(std::net::UdpSocket, std::net::TcpListener)>,
    /// Explicit inbound listeners, in the order of `SidecarConfig::inbound`.
    pub inbound: Vec<Vec<std::net::TcpListener>>,
    /// The admin port.
    pub admin: Option<std::net::TcpListener>,
    /// What another process hands over: it goes before what would be made here.
    pub taken: Option<Taken>,
    /// Rules that stand already in the workload's namespace.
    pub rules: Option<Installed>,
}

/// How to start a sidecar.
pub struct Start {
    /// Its own file.
    pub config: SidecarConfig,
    /// Sockets that exist already. What is missing here and asked for by `config` is made in this namespace.
    pub sockets: Sockets,
    /// Dials endpoints.
    pub outside: Arc<dyn SocketFactory>,
    /// Dials this workload's application.
    pub inside: Arc<dyn SocketFactory>,
    /// Called once when everything listens and the first configuration is in force.
    pub ready: Box<dyn FnOnce() + Send>,
    /// Asks for an end; `run` itself watches for SIGTERM only if this is `None`. The end of the channel asks for a
    /// drain, and says that the workload is gone.
    pub stop: Option<tokio::sync::mpsc::UnboundedReceiver<Ask>>,
    /// Called once in a drain, when the last caller is gone or was cut at the deadline. Where there is one, the
    /// workload can make connections until [`Ask::Finish`] says that it has ended.
    pub callers_gone: Option<Box<dyn FnOnce() + Send>>,
    /// Called when the admin port is asked for another process in this one's place: whoever can start one does, and gives
    /// it the other end of the channel of an [`Ask::GiveWay`].
    pub successor: Option<Box<dyn Fn() + Send + Sync>>,
    /// Makes what runs functions, if the configuration has a `device`. None: this program has no functions.
    pub functions: Option<MakeHost>,
}

/// What a sidecar can be asked by whoever started it.
#[derive(Debug)]
pub enum Ask {
    /// To drain, as SIGTERM does. Asked again, it stops accepting at once.
    Drain,
    /// To end: the workload has ended. Nothing is accepted any more, what runs is finished.
    Finish,
    /// To hand over to the process at the other end, which asks by [`Taken::over`].
    GiveWay(Channel),
}

/// Who asks for a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// SIGTERM or SIGINT.
    Signal,
    /// The admin port, or the probe port.
    Admin,
    /// The control plane: `lighter drain`.
    Control,
    /// Whoever started it: `lighter run`.
    Supervisor,
}

impl By {
    const fn label(self) -> &'static str {
        match self {
            By::Signal => "signal",
            By::Admin => "admin",
            By::Control => "control",
            By::Supervisor => "supervisor",
        }
    }
}

/// What a sidecar says when it ends.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Connections that were cut at the drain deadline.
    pub cut: Kinds,
    /// Another process serves in its place.
    pub handed_over: bool,
}

/// Why a sidecar did not start, or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A resource file is faulty, or the sidecar's own file asks for what cannot be.
    #[error("{0}")]
    Config(String),
    /// The functions of a `device` cannot be run.
    #[error("device: {0}")]
    Device(String),
    /// A socket could not be made.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// A thread, a runtime or a signal handler could not be made.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
    /// A worker thread ended before it was told to: a fault of this program. Its connections are lost.
    #[error("worker {0} died; its log says where")]
    Died(usize),
    /// The identity's files are faulty.
    #[error(transparent)]
    Identity(#[from] identity::FilesError),
    /// Another process did not hand over.
    #[error(transparent)]
    Handover(#[from] HandoverError),
    /// Interception could not be set up, or does not work.
    #[error(transparent)]
    Intercept(#[from] crate::intercept::InterceptError),
}

impl Shared {
    /// What workers of a sidecar with this file share. Nothing is configured yet.
    pub fn new(
        config: SidecarConfig,
        outside: Arc<dyn SocketFactory>,
        inside: Arc<dyn SocketFactory>,
    ) -> Self {
        let most = config.max_connections.unwrap_or_else(limits::connections);
        let here = config.locality.clone();
        let service = config.service.as_ref().map(|service| mesh::service_name(service, &config.namespace));
        let listeners = config.listeners.iter().map(|listener| Listener::new(listener, &config.namespace));
        Shared {
            discover: Discover::new(&config),
            rings: Rings::new(config.max_ring_bytes, host_id(), Instant::now()),
            devices: Devices::default(),
            door: OnceLock::new(),
            copies: transfer::Door::default(),
            leaving: Leaving::default(),
            holds: Holds::default(),
            moved: Room::default(),
            device: OnceLock::new(),
            quic: quic::Port::default(),
            links: standing::Links::default(),
            guard: Guard::new(config.guard, limits::descriptors()),
            main_task: MainTask::of(&config),
            sources: Mutex::default(),
            service,
            listeners: listeners.collect(),
            config,
            instance: instance(),
            mesh: mesh::InForce::at(here),
            hosted: ArcSwapOption::empty(),
            outside,
            inside,
            rules: OnceLock::new(),
            identity: OnceLock::new(),
            lookups: Arc::new(Semaphore::new(MOST_LOOKUPS)),
            phase: AtomicU8::new(Phase::Serving as u8),
            up: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            most,
            asked: AtomicUsize::new(0),
            now: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            handed: AtomicBool::new(false),
            offer: Offer::default(),
            successor: OnceLock::new(),
            stop: Notify::new(),
            reload: Notify::new(),
            stand: Notify::new(),
        }
    }

    /// Where this process stands. For other threads than workers: those read it from their `Connections`.
    pub fn phase(&self) -> Phase {
        Phase::of(self.phase.load(Ordering::Acquire))
    }

    /// Whether everything listens and a configuration is in force. Stays true through a drain.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// Asks for a drain. Asked again, it stops accepting at once. Who asks makes no difference but to the metrics.
    /// `now`: nobody is waited for; it stops accepting at once, and cuts what still runs after
    /// [`drain::NOW`](crate::drain::NOW).
    pub fn drain(&self, by: By, now: bool) {
        self.now.fetch_or(now, Ordering::AcqRel);
        metrics::counter!("lighter_drain_requests_total", "by" => by.label()).increment(1);
        self.asked.fetch_add(1, Ordering::AcqRel);
        self.stop.notify_one();
    }

    /// Another process serves in this one's place: nothing more is accepted, and what runs is finished.
    pub(crate) fn hand_over(&self) {
        self.handed.store(true, Ordering::Release);
        self.stop.notify_one();
    }

    /// Whether another process serves in this one's place.
    pub(crate) fn is_handed_over(&self) -> bool {
        self.handed.load(Ordering::Acquire)
    }

    /// Whether another process may come in this one's place, and has its sockets before that.
    pub(crate) fn gives_way(&self) -> bool {
        self.config.handover.is_some() || self.successor.get().is_some()
    }

    /// Asks whoever started this process for another one in its place. False: there is nobody who can start one.
    pub(crate) fn ask_for_successor(&self) -> bool {
        self.successor.get().inspect(|start| start()).is_some()
    }

    /// Says that the workload has ended, if somebody waits for that.
    fn workload_ended(&self) {
        self.ended.store(true, Ordering::Release);
        self.stop.notify_one();
    }

    /// Whether it has.
    fn has_workload_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Whether one was asked for in which nobody is waited for.
    fn is_asked_now(&self) -> bool {
        self.now.load(Ordering::Acquire)
    }

    /// How often a drain was asked for since this was last called.
    fn take_asked(&self) -> usize {
        self.asked.swap(0, Ordering::AcqRel)
    }

    /// Asks for a reload of the resource files, as SIGHUP does.
    pub fn reload(&self) {
        self.reload.notify_one();
    }

    /// Resolves when somebody asked for a reload.
    pub(crate) async fn reload_asked(&self) {
        self.reload.notified().await;
    }

    /// Who records spans.
    pub(crate) fn named(&self) -> Named {
        let service = self.service.as_ref();
        Named {
            service: service.map(|service| service.name.to_string()).unwrap_or_default(),
            namespace: service.map(|service| service.namespace.to_string()).unwrap_or_default(),
            instance: self.instance.clone(),
        }
    }

    /// The Service that this workload is an instance of.
    pub fn service(&self) -> Option<&ServiceName> {
        self.service.as_ref()
    }

    /// Whether `x-lighter-*` fields of an answer from `endpoint` pass. What functions of this very process say is a
    /// sidecar's own word too.
    #[inline]
    pub(crate) fn lighter_passes(&self, direction: Direction, endpoint: Option<SocketAddr>) -> bool {
        hop::lighter_passes(direction, Half::Response)
            || self.config.device.as_ref().is_some_and(|device| Some(device.listen) == endpoint)
    }

    /// Where resources come from. For the control thread.
    pub(crate) fn sources(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Beside `config.listeners`.
    pub(crate) fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// Downstream connections of this process.
    pub fn open_connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Everything listens and a configuration is in force.
    pub(crate) fn set_up(&self) {
        self.up.store(true, Ordering::Release);
        self.stand.notify_one();
    }

    /// Has whoever tells of this process look at it.
    pub(crate) fn tell_stand(&self) {
        self.stand.notify_one();
    }

    /// The process moves on to `phase`.
    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
        self.stand.notify_one();
    }

    /// Resolves when this process is up or moved on to another phase since it was last asked for. For one who asks.
    pub(crate) async fn stand_changed(&self) {
        self.stand.notified().await;
    }

    /// Resolves when a drain was asked for.
    pub(crate) async fn stop_asked(&self) {
        self.stop.notified().await;
    }

    /// Whether a drain was asked for and has not begun.
    #[cfg(test)]
    pub(crate) async fn is_stop_asked(&self) -> bool {
        tokio::time::timeout(std::time::Duration::ZERO, self.stop.notified()).await.is_ok()
    }

    /// Admits one more downstream connection, unless there are as many as may be.
    pub(crate) fn admit(self: &Arc<Self>) -> Option<Admitted> {
        // Counted first and taken back: two workers at the limit may both refuse, never both admit.
        let admitted = Admitted(self.clone());
        (self.open.fetch_add(1, Ordering::Relaxed) < self.most).then_some(admitted)
    }
}

/// A name that no other process has, on this host or another, now or later.
fn instance() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    // Longer ones are refused.
    let host: String = host.chars().filter(char::is_ascii_graphic).take(64).collect();
    format!("{host}-{}-{:016x}", std::process::id(), fastrand::u64(..))
}

/// On which host this is: what its kernel calls this start of it. Containers of one host have one kernel.
fn host_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let id = id.trim();
    (!id.is_empty() && id.len() <= 64).then(|| id.to_owned())
}

/// Lookups of names of the world at once: each takes a thread for as long as it lasts.
pub(crate) const MOST_LOOKUPS: usize = 16;

/// A downstream connection's share of the process's limit.
pub(crate) struct Admitted(Arc<Shared>);

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Worker {
    /// A worker without connections.
    pub fn new(index: usize, shared: Arc<Shared>) -> Rc<Self> {
        Rc::new(Worker {
            index,
            apps: Apps::new(shared.main_task.clone()),
            shared,
            connections: Rc::default(),
            http1: RefCell::default(),
            http2: Default::default(),
            links: Default::default(),
            quic: Default::default(),
            metrics: telemetry::worker(index),
            passthrough: Default::default(),
        })
    }

    /// Counts connections that no Service is asked for.
    pub(crate) fn passthrough(&self, direction: Direction) -> &RouteMetrics {
        self.passthrough[direction as usize].get_or_init(|| {
            let nobody = ServicePort { service: ServiceName::nobody(), port: 0 };
            RouteMetrics::of(direction, &nobody, "passthrough")
        })
    }
}
