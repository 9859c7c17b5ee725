//! What is counted where a Service's state is.

use lighter_migrate::{Queue, RefusalCause, Stand};
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

/// Counters of the requests that come to this workload while its Service keeps state.
pub(crate) struct StateMetrics {
    parked: Counter,
    forwarded: Counter,
    returned: Counter,
    cut: Counter,
    refused: [Counter; REFUSED.len()],
    waiting: Gauge,
    peak: [Gauge; 2],
    serving: Gauge,
    epoch: Gauge,
}

impl StateMetrics {
    /// The counters. Nothing is counted yet.
    pub(crate) fn new() -> Self {
        describe();
        let refused = |cause: RefusalCause| counter!("lighter_state_refused_total", "cause" => cause.label());
        StateMetrics {
            parked: counter!("lighter_state_parked_total"),
            forwarded: counter!("lighter_state_forwarded_total"),
            returned: counter!("lighter_state_returned_total"),
            cut: counter!("lighter_state_cut_total"),
            refused: REFUSED.map(refused),
            waiting: gauge!("lighter_state_waiting"),
            peak: [gauge!("lighter_state_waiting_peak"), gauge!("lighter_state_waiting_peak_bytes")],
            serving: gauge!("lighter_state_serving"),
            epoch: gauge!("lighter_state_epoch"),
        }
    }

    /// A request waits.
    pub(crate) fn parked(&self) {
        self.parked.increment(1);
    }

    /// A request goes to where the Service is.
    pub(crate) fn forwarded(&self) {
        self.forwarded.increment(1);
    }

    /// A request goes back to its caller's sidecar.
    pub(crate) fn returned(&self) {
        self.returned.increment(1);
    }

    /// So many streams are cut.
    pub(crate) fn cut(&self, streams: u32) {
        self.cut.increment(streams.into());
    }

    /// A request was not executed.
    pub(crate) fn refused(&self, cause: RefusalCause) {
        if let Some(at) = REFUSED.iter().position(|known| *known == cause) {
            self.refused[at].increment(1);
        }
    }

    /// These wait.
    pub(crate) fn waiting(&self, parked: &Queue) {
        self.waiting.set(parked.len() as f64);
        let counts = parked.counts();
        self.peak[0].set(counts.most as f64);
        self.peak[1].set(counts.most_bytes as f64);
    }

    /// What this instance is to the Service.
    pub(crate) fn stands(&self, stand: Stand) {
        self.serving.set(f64::from(u8::from(stand.serves().is_some())));
        let (Stand::Opening { epoch }
        | Stand::Serving { epoch }
        | Stand::Parking { epoch }
        | Stand::Frozen { epoch }) = stand
        else {
            return;
        };
        self.epoch.set(epoch.0 as f64);
    }
}

fn describe() {
    describe_counter!(
        "lighter_state_parked_total",
        "Requests that had to wait while it was not known where the state of this workload's Service is."
    );
    describe_counter!(
        "lighter_state_forwarded_total",
        "Requests that were sent on to the instance that has the state."
    );
    describe_counter!(
        "lighter_state_returned_total",
        "Requests that were given back unexecuted to the sidecars of their callers, which take them to the instance that has the state."
    );
    describe_counter!(
        "lighter_state_cut_total",
        "Calls of gRPC and upgraded or opaque connections that were cut, so that the state can move."
    );
    describe_counter!(
        "lighter_state_refused_total",
        "Requests that were not executed, as the state is not here, or as they had waited, by why."
    );
    describe_gauge!("lighter_state_waiting", "Requests that wait until it is known where the state is.");
    describe_gauge!("lighter_state_waiting_peak", "How many of them waited at once, at most.");
    describe_gauge!("lighter_state_waiting_peak_bytes", "How many bytes those took, at most.");
    describe_gauge!("lighter_state_serving", "Whether this instance has the state and serves it.");
    describe_gauge!("lighter_state_epoch", "The last epoch of the state that this instance had.");
}

const REFUSED: [RefusalCause; 5] = [
    RefusalCause::Moved,
    RefusalCause::NotHere,
    RefusalCause::Full,
    RefusalCause::Waited,
    RefusalCause::Late,
];
