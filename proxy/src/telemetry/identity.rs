//! What is counted of identities: refusals, and how long the own certificate lives.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use lighter_config::identity::Refusal;

use super::exposition::{Exposition, Family, Kind, Unit};
use super::recorder::recorder;
use super::shards::Cells;

/// What a sidecar asks its control plane for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// The first certificate, for a join token.
    Join,
    /// The next one, for the one before.
    Renew,
}

/// What became of a request for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestOutcome {
    /// The certificate is in force.
    Received,
    /// The control plane said no.
    Refused,
    /// There was no answer, or none that can be used.
    Failed,
}

/// Counts of identities.
pub struct IdentityMetrics {
    refusals: Cells,
    /// Open connections that are left, by why.
    left: Cells,
    /// When each reason was last said in the log, in seconds since 1970.
    said: [AtomicU64; REASONS],
    /// The end of the own certificate's life, in milliseconds since 1970; zero where there is none.
    not_after: AtomicU64,
    replacements: AtomicU64,
    /// By request and outcome.
    requests: [[AtomicU64; 3]; 2],
}

/// Counts of identities.
pub fn identity() -> &'static IdentityMetrics {
    &recorder().identity
}

impl IdentityMetrics {
    /// A certificate was not taken. It is counted, and said in the log: at most once a second for each reason, as
    /// anyone who can connect can make it happen.
    pub fn refused(&self, refusal: &Refusal) {
        let reason = refusal.index();
        self.refusals.add(reason, 1);
        let now = millis(SystemTime::now()) / 1000;
        if self.said[reason].swap(now, Relaxed) != now {
            tracing::warn!(reason = refusal.label(), "a certificate was refused: {refusal}");
        }
    }

    /// Open connections are left, since what was proved on them holds no more.
    pub fn left(&self, refusal: &Refusal, connections: u64) {
        self.left.add(refusal.index(), connections);
    }

    /// There is a new certificate or bundle.
    pub fn replaced(&self, not_after: SystemTime) {
        self.not_after.store(millis(not_after), Relaxed);
        self.replacements.fetch_add(1, Relaxed);
    }

    /// A certificate was asked for.
    pub fn requested(&self, request: Request, outcome: RequestOutcome) {
        self.requests[request as usize][outcome as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn collect(&self, out: &mut Exposition, now: SystemTime) {
        for (reason, label) in Refusal::LABELS.iter().enumerate() {
            out.sample(&REFUSALS, format_args!("reason=\"{label}\""), self.refusals.sum(reason));
        }
        for (reason, label) in Refusal::LABELS.iter().enumerate().filter(|(at, _)| self.left.sum(*at) > 0) {
            out.sample(&LEFT, format_args!("reason=\"{label}\""), self.left.sum(reason));
        }
        out.sample(&REPLACEMENTS, "", self.replacements.load(Relaxed));
        for (request, counts) in [Request::Join, Request::Renew].into_iter().zip(&self.requests) {
            for (outcome, count) in OUTCOMES.iter().zip(counts) {
                let labels = format_args!("request=\"{}\",outcome=\"{outcome}\"", request.label());
                out.sample(&REQUESTS, labels, count.load(Relaxed));
            }
        }
        let not_after = self.not_after.load(Relaxed);
        if not_after > 0 {
            out.sample(&SECONDS_LEFT, "", (not_after as f64 - millis(now) as f64) / 1000.0);
        }
    }
}

impl Request {
    /// Its name, in logs and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Request::Join => "join",
            Request::Renew => "renew",
        }
    }
}

impl Default for IdentityMetrics {
    fn default() -> Self {
        IdentityMetrics {
            refusals: Cells::new(REASONS),
            left: Cells::new(REASONS),
            said: Default::default(),
            not_after: AtomicU64::new(0),
            replacements: AtomicU64::new(0),
            requests: Default::default(),
        }
    }
}

fn millis(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

const REASONS: usize = Refusal::LABELS.len();

/// In the order of [`RequestOutcome`].
const OUTCOMES: [&str; 3] = ["received", "refused", "failed"];

static REFUSALS: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_identity_refusals",
    "Certificates of peers that were not taken, by reason.",
);
static LEFT: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_identity_connections_left",
    "Open connections that were left because what was proved on them was about to hold no more, by reason.",
);
static REPLACEMENTS: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_identity_replacements",
    "Certificates or bundles of this sidecar that came into force.",
);
static REQUESTS: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_identity_requests",
    "Certificates asked for of the control plane, by what for and what became of it.",
);
static SECONDS_LEFT: Family = Family::new(
    Kind::Gauge,
    Unit::None,
    "lighter_identity_seconds_left",
    "Until this sidecar's certificate ends; below zero once it has. Absent where it has none.",
);
