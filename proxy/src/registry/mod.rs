//! Reports: the control plane is told that this instance is there, where it is reached, and whether it takes traffic; by
//! what it runs, and how much there is to do. Of the control thread.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lighter_config::name::ServiceName;
use lighter_config::sidecar::{
    ControlConfig, ControlSecurity, DatasetConfig, DeviceConfig, InboundConfig, SidecarConfig,
};
use lighter_config::snapshot::Service;
use lighter_config::xds::client::Backoff;
use lighter_config::xds::wire::lighter::registry::v1::report_request::Report;
use lighter_config::xds::wire::lighter::registry::v1::report_response::Order;
use lighter_config::xds::wire::lighter::registry::v1::{
    Counted, Dataset, Device, HeldFunction, InForce, InstancePort, Registration, Remembering, ReportRequest,
    ReportResponse, Served, Waiting,
};
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_local;
use tokio::time::sleep;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::channel;
use crate::device::{Planned, Running};
use crate::drain::Phase;
use crate::stateful;
use crate::stateful::held;
use crate::stateful::host::Known;
use crate::telemetry::LinkWire;
use crate::worker::{By, Shared};

mod meter;
mod place;
mod probe;
mod reporter;

use meter::Meter;
use place::Telling;
use reporter::Reporter;

/// The client of the service, as compiled from its protobuf file.
#[allow(missing_docs, unreachable_pub, clippy::all)]
mod service {
    tonic::include_proto!("lighter.registry.v1");
}

use service::registry_client::RegistryClient;

/// Keeps the control plane told until it is dropped. Only Lighter's own wants to know.
pub(crate) async fn run(shared: Arc<Shared>) {
    let Some(control) = shared.config.control.clone().filter(is_registry) else { return };
    tracing::debug!(instance = shared.instance, "this instance registers");
    let (opinion, is_well) = watch::channel(shared.config.app_probe.is_none());
    if let Some(probe) = shared.config.app_probe.clone() {
        spawn_local(probe::run(shared.clone(), probe, opinion));
    }
    spawn_local(held::run(shared.clone()));
    let local = Rc::new(Cell::new(None));
    if registers(&shared.config) {
        let known = Known { is_well: is_well.clone(), local: local.clone() };
        spawn_local(stateful::journal::run(shared.clone(), known.clone()));
        spawn_local(stateful::run::run(shared.clone(), known));
    }
    let mut registrar = Registrar {
        shared: &shared,
        is_well,
        local,
        place: Telling::default(),
        control,
        in_force: None,
        waited_for: Vec::new(),
        meter: Meter::new(Instant::now()),
        reporter: Reporter::default(),
        is_answered: false,
        backoff: Backoff::default(),
        metrics: Metrics::new(),
        fault: None,
    };
    loop {
        let fault = registrar.stream().await;
        registrar.lost(fault).await;
    }
}

/// Whether an instance with this file registers.
pub(crate) fn registers(config: &SidecarConfig) -> bool {
    config.service.is_some() && config.control.as_ref().is_some_and(is_registry)
}

fn is_registry(control: &ControlConfig) -> bool {
    control.own_resources && control.security != ControlSecurity::Plaintext
}

struct Registrar<'a> {
    shared: &'a Shared,
    /// What is thought of the application, if it is asked.
    is_well: watch::Receiver<bool>,
    /// Where others reach this host, as the last stream showed.
    local: Rc<Cell<Option<IpAddr>>>,
    place: Telling,
    control: ControlConfig,
    /// What this stream was told to be in force.
    in_force: Option<BTreeMap<String, String>>,
    /// The functions of which this stream was told that requests wait for them.
    waited_for: Vec<String>,
    meter: Meter,
    reporter: Reporter,
    /// Something was answered on this stream.
    is_answered: bool,
    backoff: Backoff,
    metrics: Metrics,
    /// What the log has said last of what fails.
    fault: Option<String>,
}

impl Registrar<'_> {
    /// Reports on one stream, until it is lost. Returns why.
    async fn stream(&mut self) -> String {
        let opened = match channel::open(self.shared, &self.control).await {
            Ok(opened) => opened,
            Err(fault) => return fault,
        };
        let (requests, queue) = mpsc::unbounded_channel();
        let mut client = RegistryClient::new(opened.channel);
        self.reporter.connected();
        self.in_force = None;
        self.waited_for.clear();
        self.local.set(Some(opened.local));
        self.place.connected();
        let mut functions = self.planned().map(|planned| planned.news());
        self.speak(&requests, opened.local);
        let mut answers = match client.report(UnboundedReceiverStream::new(queue)).await {
            Ok(answers) => answers.into_inner(),
            Err(status) => return channel::say(&status),
        };
        self.metrics.connected.set(1.0);
        self.metrics.opened.increment(1);
        let mut configured = self.shared.discover.as_ref().map(|discover| discover.news());
        loop {
            self.speak(&requests, opened.local);
            let news = async {
                match &mut configured {
                    Some(news) => news.changed().await,
                    None => std::future::pending().await,
                }
            };
            let functions = async {
                match &mut functions {
                    Some(functions) => functions.changed().await,
                    None => std::future::pending().await,
                }
            };
            let opinion = async {
                // Nobody asks: nothing changes.
                if self.is_well.changed().await.is_err() {
                    std::future::pending().await
                }
            };
            tokio::select! {
                answer = answers.message() => match answer {
                    Ok(Some(answer)) => self.heard(answer, &requests),
                    Ok(None) => return "the server ended the stream".to_owned(),
                    Err(status) => return channel::say(&status),
                },
                () = self.shared.stand_changed() => {}
                _ = news => {}
                _ = functions => {}
                () = opinion => {}
                () = self.place.news() => {}
                // Whether the application listens is found out by looking.
                () = sleep(LOOK) => {}
            }
        }
    }

    /// Tells what is true now, unless it is told already.
    fn speak(&mut self, requests: &mpsc::UnboundedSender<ReportRequest>, local: IpAddr) {
        let mut truth = registration(self.shared, local);
        truth.ready &= *self.is_well.borrow();
        self.metrics.ready.set(f64::from(u8::from(truth.ready && !truth.draining)));
        self.reporter.set(truth);
        if let Some(registration) = self.reporter.poll() {
            self.metrics.registrations.increment(1);
            send(requests, Report::Registration(registration));
        }
        // What is said first on a stream is who speaks.
        if self.reporter.is_said() {
            self.say_in_force(requests);
            self.say_waiting(requests);
            if let Some(place) = self.place.poll(self.shared.hosted.load_full()) {
                self.metrics.places.increment(1);
                send(requests, Report::Place(place));
            }
            let moves =
                self.shared.hosted.load().as_ref().is_some_and(|hosted| meter::moves(&hosted.stateful()));
            if let Some(mut load) = self.meter.read(Instant::now(), moves) {
                load.served = moves.then(|| self.served()).flatten();
                load.links = self.shared.links.read(MOST_LINKS);
                load.device = self.shared.device.get().map(|device| meter::of_device(device));
                load.offloaded = meter::offloaded();
                load.demands = meter::demands(&self.shared.mesh.load());
                self.metrics.loads.increment(1);
                send(requests, Report::Load(load));
            }
        }
        self.metrics.known.set(f64::from(u8::from(self.reporter.is_known())));
    }

    /// What callers asked of this workload's Service.
    fn served(&self) -> Option<Served> {
        let mesh = self.shared.mesh.load();
        let service = mesh.config.services.get(self.shared.service()?)?;
        Some(meter::served(&service.ports))
    }

    /// Tells by what this sidecar runs, unless it is told already.
    fn say_in_force(&mut self, requests: &mpsc::UnboundedSender<ReportRequest>) {
        let Some(discover) = &self.shared.discover else { return };
        let versions = discover.in_force();
        if self.in_force.as_ref() != Some(&versions) {
            self.metrics.in_force.increment(1);
            send(requests, Report::InForce(InForce { versions: versions.clone() }));
            self.in_force = Some(versions);
        }
    }

    /// Tells for which functions requests wait, unless it is told already.
    fn say_waiting(&mut self, requests: &mpsc::UnboundedSender<ReportRequest>) {
        let Some(planned) = self.planned() else { return };
        let functions = planned.waited_for();
        if functions != self.waited_for {
            self.metrics.waiting.increment(1);
            self.waited_for.clone_from(&functions);
            send(requests, Report::Waiting(Waiting { functions }));
        }
    }

    /// The functions of this sidecar, if they are planned.
    fn planned(&self) -> Option<&Arc<Planned>> {
        self.shared.device.get()?.planned.as_ref()
    }

    /// Somebody is at the other end, and may plan from now on.
    fn is_heard(&mut self) {
        if !std::mem::replace(&mut self.is_answered, true)
            && let Some(planned) = self.planned()
        {
            planned.connected();
        }
    }

    fn heard(&mut self, answer: ReportResponse, requests: &mpsc::UnboundedSender<ReportRequest>) {
        match answer.order {
            Some(Order::Lease(lease)) => {
                self.is_heard();
                self.shared.leaving.is_heard(true);
                self.shared.moved.is_heard(true);
                self.reporter.answered();
                self.backoff.reset();
                self.metrics.lease.set(f64::from(lease.seconds));
                if self.fault.take().is_some() {
                    tracing::info!(control = self.control.address, "registered again");
                }
            }
            Some(Order::Drain(drain)) => {
                tracing::info!(cause = drain.cause, "the control plane asks for a drain");
                self.metrics.drains.increment(1);
                self.shared.drain(By::Control, drain.now);
            }
            Some(Order::Plan(plan)) => {
                self.is_heard();
                self.metrics.plans.increment(1);
                tracing::debug!(active = ?plan.active, "the control plane plans");
                if let Some(planned) = self.planned() {
                    planned.plan(&plan.active);
                }
            }
            Some(Order::Count(count)) => {
                self.metrics.counts.increment(1);
                let counted = Counted { number: count.number, in_flight: meter::of_callers() };
                send(requests, Report::Counted(counted));
            }
            Some(Order::Release(_)) => self.shared.leaving.release(),
            Some(Order::Hold(hold)) => self.shared.holds.follow(&self.shared.mesh, hold),
            Some(Order::Place(command)) => place::follow(self.shared.hosted.load().as_deref(), command),
            // Something newer than this sidecar.
            None => {}
        }
    }

    async fn lost(&mut self, fault: String) {
        self.reporter.disconnected();
        self.shared.leaving.is_heard(false);
        // Nobody says any more when it is over.
        self.shared.holds.let_go();
        self.shared.moved.is_heard(false);
        if std::mem::take(&mut self.is_answered)
            && let Some(planned) = self.planned()
        {
            planned.disconnected();
        }
        self.metrics.connected.set(0.0);
        self.metrics.known.set(0.0);
        self.metrics.lost.increment(1);
        // Said once, not at every try.
        if self.fault.as_ref() != Some(&fault) {
            tracing::warn!(control = self.control.address, fault, "not registered: tried again");
            self.fault = Some(fault);
        }
        sleep(self.backoff.wait(fastrand::f64())).await;
    }
}

fn send(requests: &mpsc::UnboundedSender<ReportRequest>, report: Report) {
    // Fails on a stream that is lost, which is heard of next.
    let _ = requests.send(ReportRequest { report: Some(report) });
}

/// What is true of this instance. `local` is where others reach this host. A pure caller takes no traffic.
fn registration(shared: &Shared, local: IpAddr) -> Registration {
    // Where another process has this one's place, that one says first that it is there.
    let leaves = if shared.is_handed_over() { Phase::Draining } else { Phase::Lame };
    let leaves = shared.phase() >= leaves;
    let mesh = shared.mesh.load();
    let service = shared.service();
    let own = service.and_then(|service| mesh.config.services.get(service)).map(|own| &**own);
    let ports = ports(shared, own, local);
    let is_barred = shared.discover.as_ref().is_some_and(|discover| discover.bars_callers());
    let accepts = shared.is_up() && !is_barred;
    Registration {
        instance: shared.instance.clone(),
        service: service.map(ServiceName::to_string).unwrap_or_default(),
        ready: service.is_some() && accepts && !leaves && ports.iter().all(|port| port.is_served),
        draining: leaves,
        leaving: shared.leaving.is_leaving(),
        holds: true,
        device: shared.config.device.as_ref().map(|config| {
            let running = shared.device.get().map(|running| &**running);
            device(config, running, &shared.config.inbound, &ports)
        }),
        remembering: own.and_then(|own| remembering(shared, own.state.as_ref()?.function()?)),
        ports: ports.into_iter().map(|port| port.said).collect(),
        wires: wires(shared),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        priority: shared.config.priority,
        region: shared.config.locality.region.to_string(),
        zone: shared.config.locality.zone.to_string(),
        sub_zone: shared.config.locality.sub_zone.to_string(),
    }
}

/// The functions that run here, which callers reach by one of these ports.
fn device(
    config: &DeviceConfig,
    running: Option<&Running>,
    inbound: &[InboundConfig],
    ports: &[InstanceAt],
) -> Device {
    let dataset = |held: &DatasetConfig| Dataset { name: held.name.clone(), version: held.version.clone() };
    // Where no listener leads to them, the functions may be an application whose connections are intercepted.
    let is_theirs = |port: &&InstanceAt| port.app == config.listen;
    let is_alone = |port: &&InstanceAt| inbound.is_empty() && port.app.port() == config.listen.port();
    let planned = running.and_then(|running| Some((running, running.planned.as_ref()?)));
    let held = planned.map_or_else(Vec::new, |(running, _)| {
        let held = running.held.iter();
        held.map(|held| HeldFunction { name: held.name.clone(), memory_bytes: held.memory_bytes }).collect()
    });
    let port = ports.iter().find(is_theirs).or_else(|| ports.iter().find(is_alone));
    Device {
        class: config.class.name().to_owned(),
        port: port.map_or(0, |port| port.said.port),
        functions: match planned {
            Some((_, planned)) => planned.active(),
            None => config.function_names().map(str::to_owned).collect(),
        },
        datasets: config.datasets.iter().map(dataset).collect(),
        slots: u32::try_from(config.limits.runs).unwrap_or(u32::MAX),
        data_bytes_per_second: config.media_bytes_per_second,
        held,
        memory_bytes: planned.and_then(|(_, planned)| planned.budget()),
    }
}

/// What there is here of what this function remembers.
fn remembering(shared: &Shared, function: &str) -> Option<Remembering> {
    // A device that is about to start says so later.
    let is_device = shared.config.device.is_some();
    let contents = match shared.device.get() {
        Some(device) => device.contents(function),
        None if is_device => return None,
        None => Err("it is no device".to_owned()),
    };
    let function = function.to_owned();
    Some(match contents {
        Ok(contents) => {
            let (digest, most_bytes) = (contents.digest().to_owned(), contents.most_bytes());
            Remembering { function, digest, not_movable: String::new(), most_bytes }
        }
        Err(not_movable) => Remembering { function, digest: String::new(), not_movable, most_bytes: 0 },
    })
}

/// What links can go over from here.
fn wires(shared: &Shared) -> Vec<String> {
    let rings = shared.rings.is_open();
    let has = [
        (LinkWire::Tcp, true),
        (LinkWire::Shm, rings && shared.door.get().is_some()),
        (LinkWire::Rdma, rings && shared.devices.has(&[])),
        (LinkWire::Quic, shared.quic.is_open()),
    ];
    has.into_iter().filter(|(_, has)| *has).map(|(wire, _)| wire.label().to_owned()).collect()
}

/// A port of this instance.
struct InstanceAt {
    said: InstancePort,
    /// Where the application listens.
    app: SocketAddr,
    /// The application listens.
    is_served: bool,
}

/// Where each port of the Service is reached: at explicit listeners, and where connections to the application are
/// intercepted.
fn ports(shared: &Shared, own: Option<&Service>, local: IpAddr) -> Vec<InstanceAt> {
    let reached = |mut address: SocketAddr| {
        if address.ip().is_unspecified() {
            address.set_ip(local);
        }
        address.to_string()
    };
    let link_address = shared.config.link.map(reached).unwrap_or_default();
    let at = |port: u16, address: SocketAddr, app: SocketAddr| {
        let said =
            InstancePort { port: port.into(), address: reached(address), link_address: link_address.clone() };
        InstanceAt { said, app, is_served: shared.inside.listens(app) }
    };
    let declared = || own.iter().flat_map(|own| &own.ports);
    let mut ports = Vec::new();
    for inbound in &shared.config.inbound {
        let target = |app: u16| declared().find(|port| port.target_port == app).map(|port| port.key.port);
        if let Some(port) = inbound.port.or_else(|| target(inbound.app.port())) {
            ports.push(at(port, inbound.listen, inbound.app));
        }
    }
    if shared.config.intercept.as_ref().is_some_and(|intercept| intercept.inbound) {
        for port in declared() {
            let address = SocketAddr::new(local, port.target_port);
            let is_said = |other: &InstanceAt| other.said.port == u32::from(port.key.port);
            if !ports.iter().any(is_said) {
                ports.push(at(port.key.port, address, address));
            }
        }
    }
    ports
}

/// Where the application is reached that serves this port of the Service here. None: nothing does. `local`: where others
/// reach this host.
pub(crate) fn application(shared: &Shared, local: IpAddr, port: u16) -> Option<SocketAddr> {
    let mesh = shared.mesh.load();
    let own = shared.service().and_then(|service| mesh.config.services.get(service)).map(|own| &**own);
    let served = ports(shared, own, local).into_iter().find(|at| at.said.port == u32::from(port));
    served.map(|at| at.app)
}

struct Metrics {
    connected: Gauge,
    known: Gauge,
    ready: Gauge,
    lease: Gauge,
    opened: Counter,
    lost: Counter,
    registrations: Counter,
    in_force: Counter,
    loads: Counter,
    waiting: Counter,
    places: Counter,
    plans: Counter,
    drains: Counter,
    counts: Counter,
}

impl Metrics {
    fn new() -> Self {
        describe_gauge!(
            "lighter_registry_connected",
            "Whether there is a stream on which this instance registers."
        );
        describe_gauge!(
            "lighter_registry_known",
            "Whether the control plane knows what is true of this instance now."
        );
        describe_gauge!("lighter_registry_ready", "Whether this instance takes traffic, as it says itself.");
        describe_gauge!("lighter_registry_lease_seconds", "How long a registration outlives its stream.");
        describe_counter!(
            "lighter_registry_streams_total",
            "Streams on which this instance registers that were opened, and those and tries that were lost."
        );
        describe_counter!("lighter_registry_reports_total", "Reports to the control plane that were sent.");
        describe_counter!("lighter_registry_drains_total", "Drains that the control plane asked for.");
        describe_counter!(
            "lighter_registry_plans_total",
            "Times that the control plane said which functions are to be active."
        );
        describe_counter!(
            "lighter_registry_counts_total",
            "Times that the control plane asked what callers have under way, as a migration waits for that."
        );
        let stream = |outcome: &'static str| counter!("lighter_registry_streams_total", "outcome" => outcome);
        let report = |what: &'static str| counter!("lighter_registry_reports_total", "report" => what);
        Metrics {
            connected: gauge!("lighter_registry_connected"),
            known: gauge!("lighter_registry_known"),
            ready: gauge!("lighter_registry_ready"),
            lease: gauge!("lighter_registry_lease_seconds"),
            opened: stream("opened"),
            lost: stream("lost"),
            registrations: report("registration"),
            in_force: report("in_force"),
            loads: report("load"),
            waiting: report("waiting"),
            places: report("place"),
            plans: counter!("lighter_registry_plans_total"),
            drains: counter!("lighter_registry_drains_total"),
            counts: counter!("lighter_registry_counts_total"),
        }
    }
}

/// How often it is looked whether the application listens, and what there is to do.
const LOOK: Duration = Duration::from_secs(1);

/// So many links are told of.
const MOST_LINKS: usize = 256;
