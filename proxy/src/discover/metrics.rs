//! `lighter_xds_*`, resolved once.

use lighter_config::xds::Kind;
use lighter_config::xds::client::{Client, Received};
use lighter_config::xds::decode::Codec;
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

use super::Lookup;

/// What is counted of discovery.
pub(super) struct Metrics {
    connected: Gauge,
    streams: [Counter; 2],
    requests: Counter,
    unasked: Counter,
    kept: [Counter; 2],
    lookups: [Counter; 3],
    kinds: Vec<OfKind>,
}

struct OfKind {
    accepted: Counter,
    refused: Counter,
    in_force: Gauge,
    awaited: Gauge,
    faulty: Gauge,
}

fn describe() {
    describe_gauge!("lighter_xds_connected", "Whether there is a stream to the control plane.");
    describe_counter!(
        "lighter_xds_streams_total",
        "Streams to the control plane that were opened, and tries that failed."
    );
    describe_counter!("lighter_xds_requests_total", "Requests sent: what is asked for, accepted or refused.");
    describe_counter!(
        "lighter_xds_answers_total",
        "Answers by kind of resource: accepted whole, refused in part or whole, or unasked."
    );
    describe_gauge!(
        "lighter_xds_resources",
        "Resources in force, awaited, and those whose newest version was refused."
    );
    describe_counter!(
        "lighter_xds_lookups_total",
        "Lookups that connections and DNS queries waited for: held now, of nothing, or too late."
    );
    describe_counter!(
        "lighter_xds_state_writes_total",
        "Times that what is in force was written to disk, or that this failed."
    );
}

impl Metrics {
    pub(super) fn new() -> Self {
        describe();
        let stream = |outcome: &'static str| counter!("lighter_xds_streams_total", "outcome" => outcome);
        let kept = |outcome: &'static str| counter!("lighter_xds_state_writes_total", "outcome" => outcome);
        let lookup = |outcome: &'static str| counter!("lighter_xds_lookups_total", "outcome" => outcome);
        Metrics {
            connected: gauge!("lighter_xds_connected"),
            streams: ["opened", "failed"].map(stream),
            requests: counter!("lighter_xds_requests_total"),
            unasked: counter!("lighter_xds_answers_total", "kind" => "none", "outcome" => "unasked"),
            kept: ["written", "failed"].map(kept),
            lookups: ["held", "nothing", "late"].map(lookup),
            kinds: Kind::ALL.map(OfKind::new).into(),
        }
    }

    /// A stream was opened, or could not be.
    pub(super) fn stream(&self, opened: bool) {
        self.streams[usize::from(!opened)].increment(1);
    }

    /// A request was sent.
    pub(super) fn requested(&self) {
        self.requests.increment(1);
    }

    /// An answer was received.
    pub(super) fn received(&self, received: &Received) {
        match received {
            Received::Accepted(kind) => self.kinds[*kind as usize].accepted.increment(1),
            Received::Refused(kind, _) => self.kinds[*kind as usize].refused.increment(1),
            Received::Unasked => self.unasked.increment(1),
        }
    }

    /// What is in force was written down, or could not be.
    pub(super) fn kept(&self, written: bool) {
        self.kept[usize::from(!written)].increment(1);
    }

    pub(super) fn looked_up(&self, found: Lookup) {
        self.lookups[found as usize].increment(1);
    }

    /// How things stand.
    pub(super) fn show(&self, client: &Client<Codec>) {
        self.connected.set(f64::from(u8::from(client.is_connected())));
        let mut counts = [[0u32; 3]; Kind::ALL.len()];
        client.in_force().for_each(|(key, _)| counts[key.kind as usize][0] += 1);
        client.awaited().for_each(|key| counts[key.kind as usize][1] += 1);
        client.refused().for_each(|(key, _)| counts[key.kind as usize][2] += 1);
        for (of_kind, [in_force, awaited, refused]) in self.kinds.iter().zip(counts) {
            of_kind.in_force.set(f64::from(in_force));
            of_kind.awaited.set(f64::from(awaited));
            of_kind.faulty.set(f64::from(refused));
        }
    }
}

impl OfKind {
    fn new(kind: Kind) -> Self {
        let answers = |outcome: &'static str| counter!("lighter_xds_answers_total", "kind" => kind.label(), "outcome" => outcome);
        let resources =
            |state: &'static str| gauge!("lighter_xds_resources", "kind" => kind.label(), "state" => state);
        OfKind {
            accepted: answers("accepted"),
            refused: answers("refused"),
            in_force: resources("in_force"),
            awaited: resources("awaited"),
            faulty: resources("refused"),
        }
    }
}
