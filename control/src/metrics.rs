//! What the control plane counts of itself: `lighter_control_*`, as Prometheus text.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use lighter_config::xds::Kind;
use lighter_migrate::Phase;
use lighter_place::Stays;

use crate::api::server::Early;
use crate::inject::review::Reviewed;
use crate::migrate::{Outcome, PHASES};
use crate::registry::sidecars::Sum;
use crate::state::State;

/// The counters of one control plane.
#[derive(Debug, Default)]
pub struct Metrics {
    kinds: [OfKind; Kind::ALL.len()],
    /// Snapshots that came in force.
    pub snapshots: AtomicU64,
    /// Resource files that were at fault.
    pub rejected_files: AtomicU64,
    /// Registrations that were taken.
    pub registrations: AtomicU64,
    /// Registrations that were refused.
    pub refused_registrations: AtomicU64,
    /// Leases that ended.
    pub expired_leases: AtomicU64,
    certificates: [AtomicU64; Signed::ALL.len()],
    /// Rounds of the planner.
    pub plans: AtomicU64,
    /// Plans that devices were told.
    pub told_plans: AtomicU64,
    /// Answers to probes: those that failed, and those that did not.
    probes: [AtomicU64; 2],
    /// Migrations that are over, by their outcome.
    pub migrations: [AtomicU64; Outcome::ALL.len()],
    /// Times that the state of a Service was lost.
    pub state_losses: AtomicU64,
    /// Times that an instance took over with what the journal of a state has.
    pub state_takeovers: AtomicU64,
    /// Migrations that were asked for as the instance that had a state was to drain.
    pub state_leaves: AtomicU64,
    /// Times that such an instance was told that there is nowhere for its state.
    pub state_releases: AtomicU64,
    /// Migrations that the planner asked for as another instance serves better, and that are over, by their outcome.
    pub planned_migrations: [AtomicU64; Outcome::ALL.len()],
    /// Rounds in which it asked for none of a Service that may move for gain, by why.
    pub planned_stays: [AtomicU64; Stays::ALL.len()],
    /// Those that did not bring what they promised, and those that did.
    pub judged_migrations: [AtomicU64; 2],
    /// Time in the phases of migrations, in microseconds.
    phases: [AtomicU64; PHASES.len()],
    reviews: [AtomicU64; Reviewed::ALL.len()],
    webhook_closed: [AtomicU64; 2],
}

/// What became of a request for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signed {
    /// The first one of a workload.
    Joined,
    /// A further one.
    Renewed,
    /// The join token was foreign, expired, or used before.
    TokenRefused,
    /// The request was not in order.
    Refused,
    /// The authority failed.
    Failed,
}

/// What is counted for a kind of resource.
#[derive(Debug, Default)]
struct OfKind {
    pushes: AtomicU64,
    resources: AtomicU64,
    bytes: AtomicU64,
    acks: AtomicU64,
    ack_micros: AtomicU64,
    nacks: AtomicU64,
}

impl Signed {
    const ALL: [Signed; 5] =
        [Signed::Joined, Signed::Renewed, Signed::TokenRefused, Signed::Refused, Signed::Failed];

    /// The label: in logs and in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Signed::Joined => "joined",
            Signed::Renewed => "renewed",
            Signed::TokenRefused => "token_refused",
            Signed::Refused => "refused",
            Signed::Failed => "failed",
        }
    }
}

impl Metrics {
    /// Counts a request for a certificate.
    pub fn signed(&self, outcome: Signed) {
        self.certificates[outcome as usize].fetch_add(1, Relaxed);
    }

    /// Counts an answer to a probe, or that there was none.
    pub fn probed(&self, is_well: bool) {
        self.probes[usize::from(is_well)].fetch_add(1, Relaxed);
    }

    /// Counts how long a migration was in a phase.
    pub fn migrated(&self, phase: Phase, took: Duration) {
        if let Some((_, micros)) = PHASES.iter().zip(&self.phases).find(|(of, _)| of.label() == phase.label())
        {
            micros.fetch_add(took.as_micros().try_into().unwrap_or(u64::MAX), Relaxed);
        }
    }

    /// Counts a review that an API server asked for.
    pub fn reviewed(&self, outcome: Reviewed) {
        self.reviews[outcome as usize].fetch_add(1, Relaxed);
    }

    /// Counts a connection to the webhook that was closed early.
    pub fn webhook_closed(&self, why: Early) {
        self.webhook_closed[why as usize].fetch_add(1, Relaxed);
    }

    /// Counts an answer with so many resources, of so many bytes.
    pub fn pushed(&self, kind: Kind, resources: usize, bytes: usize) {
        let of = &self.kinds[kind as usize];
        of.pushes.fetch_add(1, Relaxed);
        of.resources.fetch_add(resources as u64, Relaxed);
        of.bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// Counts an answer that was accepted after so long.
    pub fn accepted(&self, kind: Kind, took: Duration) {
        let of = &self.kinds[kind as usize];
        of.acks.fetch_add(1, Relaxed);
        of.ack_micros.fetch_add(took.as_micros().try_into().unwrap_or(u64::MAX), Relaxed);
    }

    /// Counts an answer that was rejected.
    pub fn rejected(&self, kind: Kind) {
        self.kinds[kind as usize].nacks.fetch_add(1, Relaxed);
    }
}

/// Everything counted so far, as Prometheus text (version 0.0.4).
pub fn render(state: &State, now: Instant) -> String {
    let mut text = Text::default();
    let metrics = &state.metrics;
    let streams = state.streams.reading(&state.registry.sidecars, now);
    text.one("streams", "gauge", "ADS streams that are open.", streams.open as f64);
    text.one(
        "lag_seconds",
        "gauge",
        "How long the oldest answer waits that no client has accepted or rejected.",
        streams.lag.as_secs_f64(),
    );
    text.one(
        "rejecting_streams",
        "gauge",
        "ADS streams whose client rejected the last answer of some kind.",
        streams.rejecting as f64,
    );
    text.one(
        "behind_sidecars",
        "gauge",
        "Sidecars that do not run by what they were told last, as they report.",
        streams.behind as f64,
    );
    let Sum { sidecars, load } = state.registry.sidecars.sum();
    text.one("reporting_sidecars", "gauge", "Sidecars that report.", sidecars as f64);
    for (name, help, value) in [
        ("requests_in_flight", "Requests and opaque connections that", load.requests_in_flight as f64),
        ("requests_per_second", "Requests and opaque connections a second that", load.requests_per_second),
        ("cpus", "Processors that", load.cpus),
    ] {
        let doing = if name == "cpus" { "use" } else { "carry" };
        text.one(
            &format!("sidecar_{name}"),
            "gauge",
            &format!("{help} all sidecars together {doing}."),
            value,
        );
    }
    let count = |counter: fn(&OfKind) -> &AtomicU64| move |of: &OfKind| counter(of).load(Relaxed) as f64;
    text.by_kind(metrics, "pushes_total", "Answers sent.", count(|of| &of.pushes));
    text.by_kind(metrics, "pushed_resources_total", "Resources in answers sent.", count(|of| &of.resources));
    text.by_kind(metrics, "pushed_bytes_total", "Bytes of resources in answers sent.", count(|of| &of.bytes));
    text.by_kind(metrics, "acks_total", "Answers that were accepted.", count(|of| &of.acks));
    text.by_kind(metrics, "ack_seconds_total", "Time until answers were accepted.", |of| {
        of.ack_micros.load(Relaxed) as f64 / 1e6
    });
    text.by_kind(metrics, "nacks_total", "Answers that were rejected.", count(|of| &of.nacks));
    let services = state.index.snapshot().services.len() as f64;
    text.one("services", "gauge", "Services that are served.", services);
    let devices = state.registry.devices_registered();
    text.one("devices", "gauge", "Services of which an instance is registered as a device.", devices as f64);
    let withdrawn = state.registry.withdrawn() as f64;
    let help = "Instances that callers are not told of, as a migration took their work elsewhere.";
    text.one("withdrawn_instances", "gauge", help, withdrawn);
    text.one("instances", "gauge", "Instances that are registered.", state.registry.instances() as f64);
    for (name, help, counter) in [
        ("snapshots_total", "Changes of resources that came in force.", &metrics.snapshots),
        ("rejected_files_total", "Changes of resource files that were at fault.", &metrics.rejected_files),
        ("registrations_total", "Registrations that were taken.", &metrics.registrations),
        ("refused_registrations_total", "Registrations that were refused.", &metrics.refused_registrations),
        ("expired_leases_total", "Leases that ended without a word.", &metrics.expired_leases),
        (
            "state_losses_total",
            "Times that the state of a Service was lost, or may be.",
            &metrics.state_losses,
        ),
        (
            "state_takeovers_total",
            "Times that whoever kept the journal of a Service's state took it over, as the instance that had it was gone.",
            &metrics.state_takeovers,
        ),
        (
            "state_leaves_total",
            "Migrations that the control plane asked for, as the instance that had a state was to drain.",
            &metrics.state_leaves,
        ),
        (
            "state_releases_total",
            "Instances that were to drain and were told that their state does not move before.",
            &metrics.state_releases,
        ),
        ("plans_total", "Rounds in which it was planned where functions are active.", &metrics.plans),
        ("told_plans_total", "Plans that devices were told, as others than before.", &metrics.told_plans),
    ] {
        text.one(name, "counter", help, counter.load(Relaxed) as f64);
    }
    let help = "Functions of devices by what is planned: to be active (waited, wanted, used, lingers) or not (idle, elsewhere, \
                no_room, held_back).";
    text.head("planned_functions", "gauge", help);
    for (because, count) in state.plan.count() {
        let because = because.label();
        let _ = writeln!(text.0, "lighter_control_planned_functions{{because=\"{because}\"}} {count}");
    }
    text.head("certificates_total", "counter", "Requests for certificates, by what became of them.");
    for outcome in Signed::ALL {
        let count = metrics.certificates[outcome as usize].load(Relaxed);
        let _ =
            writeln!(text.0, "lighter_control_certificates_total{{outcome=\"{}\"}} {count}", outcome.label());
    }
    text.head("migrations_total", "counter", "Migrations that are over, by how they ended.");
    for (outcome, count) in Outcome::ALL.into_iter().zip(&metrics.migrations) {
        let (outcome, count) = (outcome.label(), count.load(Relaxed));
        let _ = writeln!(text.0, "lighter_control_migrations_total{{outcome=\"{outcome}\"}} {count}");
    }
    let help = "Migrations that the planner asked for, as another instance serves better, and that are over, by how they ended.";
    text.head("planned_migrations_total", "counter", help);
    for (outcome, count) in Outcome::ALL.into_iter().zip(&metrics.planned_migrations) {
        let (outcome, count) = (outcome.label(), count.load(Relaxed));
        let _ = writeln!(text.0, "lighter_control_planned_migrations_total{{outcome=\"{outcome}\"}} {count}");
    }
    let help = "Rounds of the planner in which the state of a Service that may move for gain was to stay where it is, by why.";
    text.head("planned_migrations_refused_total", "counter", help);
    for (reason, count) in Stays::ALL.into_iter().zip(&metrics.planned_stays) {
        let (reason, count) = (reason.label(), count.load(Relaxed));
        let _ = writeln!(
            text.0,
            "lighter_control_planned_migrations_refused_total{{reason=\"{reason}\"}} {count}"
        );
    }
    let help = "Moves for gain that were judged once they had settled: they brought at least half of what was foreseen, or did not.";
    text.head("planned_migrations_judged_total", "counter", help);
    for (verdict, count) in ["unpaid", "paid"].into_iter().zip(&metrics.judged_migrations) {
        let count = count.load(Relaxed);
        let _ = writeln!(
            text.0,
            "lighter_control_planned_migrations_judged_total{{verdict=\"{verdict}\"}} {count}"
        );
    }
    text.head("migrations_under_way", "gauge", "Migrations that are under way, by their phase.");
    for (phase, count) in state.migrations.phases() {
        let phase = phase.label();
        let _ = writeln!(text.0, "lighter_control_migrations_under_way{{phase=\"{phase}\"}} {count}");
    }
    text.head("migration_seconds_total", "counter", "Time that migrations were in a phase that is over.");
    for (phase, micros) in PHASES.into_iter().zip(&metrics.phases) {
        let (phase, seconds) = (phase.label(), micros.load(Relaxed) as f64 / 1e6);
        let _ = writeln!(text.0, "lighter_control_migration_seconds_total{{phase=\"{phase}\"}} {seconds}");
    }
    text.head("probes_total", "counter", "Endpoints of resources asked whether they are well.");
    for (outcome, count) in ["failed", "passed"].into_iter().zip(&metrics.probes) {
        let count = count.load(Relaxed);
        let _ = writeln!(text.0, "lighter_control_probes_total{{outcome=\"{outcome}\"}} {count}");
    }
    if state.config.webhook.is_some() {
        text.head("reviews_total", "counter", "Reviews of the admission webhook, by what became of them.");
        for outcome in Reviewed::ALL {
            let count = metrics.reviews[outcome as usize].load(Relaxed);
            let _ =
                writeln!(text.0, "lighter_control_reviews_total{{outcome=\"{}\"}} {count}", outcome.label());
        }
        let help = "Connections to the webhook closed early, by cause.";
        text.head("webhook_connections_closed_total", "counter", help);
        for (cause, count) in ["handshake", "shed"].into_iter().zip(&metrics.webhook_closed) {
            let count = count.load(Relaxed);
            let _ = writeln!(
                text.0,
                "lighter_control_webhook_connections_closed_total{{cause=\"{cause}\"}} {count}"
            );
        }
    }
    let unwell = state.index.unwell() as f64;
    text.one("unwell_endpoints", "gauge", "Endpoints of resources that do not answer their probe.", unwell);
    text.0
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn one(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.head(name, kind, help);
        // Infallible: a String takes every write.
        let _ = writeln!(self.0, "lighter_control_{name} {value}");
    }

    fn by_kind(&mut self, metrics: &Metrics, name: &str, help: &str, value: impl Fn(&OfKind) -> f64) {
        self.head(name, "counter", help);
        for (kind, of) in Kind::ALL.into_iter().zip(&metrics.kinds) {
            let _ = writeln!(self.0, "lighter_control_{name}{{type=\"{kind}\"}} {}", value(of));
        }
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ =
            write!(self.0, "# HELP lighter_control_{name} {help}\n# TYPE lighter_control_{name} {kind}\n");
    }
}
