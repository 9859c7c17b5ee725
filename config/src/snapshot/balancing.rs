//! How an endpoint is chosen, as a snapshot has it.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{LoadReports, SlowStart};

/// How an endpoint of a port is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Balancing {
    /// In which way.
    pub balancer: Balancer,
    /// By what a request is told apart where that is hashed: the first that it has.
    pub hash: Arc<[HashOn]>,
    /// Places of the lightest endpoint on a ring.
    pub ring_size: u32,
    /// Places in a table: a prime.
    pub table_size: u32,
    /// How an endpoint begins that is new or was away. None: with all of its share.
    pub slow_start: Option<SlowStart>,
    /// What is made of the load that endpoints report, where that says their shares.
    pub reports: LoadReports,
}

impl Default for Balancing {
    fn default() -> Self {
        Balancing {
            balancer: Balancer::PeakEwma,
            hash: Arc::new([HashOn::SourceAddress]),
            ring_size: 1024,
            table_size: 65_537,
            slow_start: None,
            reports: LoadReports::default(),
        }
    }
}

/// How an endpoint is chosen. All but the last two respect weights in their shares of requests, those in their shares of
/// what is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Balancer {
    /// Of two at random, the one where a request would take less time, by the latency of late and the requests there.
    PeakEwma,
    /// Of two at random, the one with fewer requests for its weight.
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// One after the other, each as often as the load that it reports says that it can take.
    WeightedRoundRobin,
    /// At random.
    Random,
    /// The next on a ring.
    RingHash,
    /// By a table, which is more even and less steady than a ring.
    Maglev,
}

impl Balancer {
    /// Each, in the order in which they are described.
    pub const ALL: [Balancer; 7] = [
        Balancer::PeakEwma,
        Balancer::LeastRequest,
        Balancer::RoundRobin,
        Balancer::WeightedRoundRobin,
        Balancer::Random,
        Balancer::RingHash,
        Balancer::Maglev,
    ];

    /// Its word in resources, on the wire and in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Balancer::PeakEwma => "peakEwma",
            Balancer::LeastRequest => "leastRequest",
            Balancer::RoundRobin => "roundRobin",
            Balancer::WeightedRoundRobin => "weightedRoundRobin",
            Balancer::Random => "random",
            Balancer::RingHash => "ringHash",
            Balancer::Maglev => "maglev",
        }
    }

    /// Whether it sends a request where its hash says.
    pub const fn hashes(self) -> bool {
        matches!(self, Balancer::RingHash | Balancer::Maglev)
    }
}

/// By what a request is told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashOn {
    /// The value of this header, in lower case.
    Header(Arc<str>),
    /// The value of this cookie.
    Cookie(Arc<str>),
    /// The caller's address.
    SourceAddress,
    /// The path without the query.
    Path,
}
