//! What is counted of requests that wait at their caller's sidecar while a Service moves.

use std::time::Duration;

use lighter_config::name::ServiceName;
use lighter_migrate::Queue;
use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};

/// Counters of the requests to one Service that wait here.
pub(crate) struct HeldMetrics {
    came: Counter,
    let_go: [Counter; LetGo::ALL.len()],
    waiting: Gauge,
    peak: [Gauge; 2],
    seconds: Histogram,
}

/// Why a request does not wait any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LetGo {
    /// The Service is reached elsewhere.
    Moved,
    /// It stays where it is.
    Stayed,
    /// That took too long.
    Expired,
    /// There was no room.
    Full,
    /// Its own time was over: it was not executed.
    Late,
    /// Its caller went away.
    Left,
    /// No control plane says when it is over.
    Unheard,
}

impl LetGo {
    const ALL: [LetGo; 7] =
        [LetGo::Moved, LetGo::Stayed, LetGo::Expired, LetGo::Full, LetGo::Late, LetGo::Left, LetGo::Unheard];

    const fn label(self) -> &'static str {
        match self {
            LetGo::Moved => "moved",
            LetGo::Stayed => "stayed",
            LetGo::Expired => "expired",
            LetGo::Full => "full",
            LetGo::Late => "late",
            LetGo::Left => "left",
            LetGo::Unheard => "unheard",
        }
    }
}

impl HeldMetrics {
    /// The counters of what waits for this Service.
    pub(crate) fn new(service: &ServiceName) -> Self {
        describe();
        let service = service.to_string();
        let let_go = |why: LetGo| counter!("lighter_hold_released_total", "cause" => why.label());
        HeldMetrics {
            came: counter!("lighter_hold_requests_total"),
            let_go: LetGo::ALL.map(let_go),
            waiting: gauge!("lighter_hold_waiting"),
            peak: [
                gauge!("lighter_hold_waiting_peak", "service" => service.clone()),
                gauge!("lighter_hold_waiting_peak_bytes", "service" => service),
            ],
            seconds: histogram!("lighter_hold_seconds"),
        }
    }

    /// A request waits, or has no room to.
    pub(crate) fn came(&self) {
        self.came.increment(1);
    }

    /// It does not any more, after so long.
    pub(crate) fn let_go(&self, why: LetGo, after: Duration) {
        self.let_go[why as usize].increment(1);
        self.seconds.record(after);
    }

    /// These wait, and so many did `before`. Those to other Services are counted with them.
    pub(crate) fn waiting(&self, held: &Queue, before: usize) {
        self.waiting.increment(held.len() as f64 - before as f64);
        let counts = held.counts();
        self.peak[0].set(counts.most as f64);
        self.peak[1].set(counts.most_bytes as f64);
    }

    /// The control plane had something to say.
    pub(crate) fn ordered(outcome: &'static str) {
        describe();
        counter!("lighter_hold_orders_total", "outcome" => outcome).increment(1);
    }
}

fn describe() {
    describe_counter!(
        "lighter_hold_requests_total",
        "Requests of this sidecar's callers that were to wait here while the state of a Service moved."
    );
    describe_counter!("lighter_hold_released_total", "Those that do not wait any more, by why.");
    describe_gauge!("lighter_hold_waiting", "Those that wait now.");
    describe_gauge!("lighter_hold_waiting_peak", "How many waited at once for a Service, at most.");
    describe_gauge!("lighter_hold_waiting_peak_bytes", "How many bytes those took, at most.");
    describe_histogram!("lighter_hold_seconds", "How long they waited.");
    describe_counter!(
        "lighter_hold_orders_total",
        "Times that the control plane said that requests to a Service are to wait, or are not any more."
    );
}
