//! LinkPolicy.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Duration;
use super::meta::TargetRef;

/// Which wires carry the links between two sidecars, beside TCP. What a policy for a Service leaves out is taken from
/// the policy for the whole mesh, then from the defaults.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LinkPolicySpec {
    /// The Services that this is about: links to their workloads. Default: the whole mesh.
    #[serde(default)]
    pub target_refs: Vec<TargetRef>,
    /// Which wires.
    #[serde(default)]
    pub wires: Wires,
    /// How QUIC connections find out how much the path takes. Default `cubic`.
    #[serde(default)]
    pub congestion: Option<Congestion>,
    /// How long a QUIC connection that was opened because TCP lost much has to lose next to nothing before TCP carries new
    /// requests again. Default 30s.
    #[serde(default)]
    pub quic_calm: Option<Duration>,
    /// The names of the RDMA devices that are used, as `rdma link` shows them, on whichever host has one of that name.
    /// Default: all.
    #[serde(default)]
    pub devices: Option<Vec<String>>,
    /// How many bytes a second a link carries, both ways together, when it is hot. Default 262144.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub hot_bytes_per_second: Option<u64>,
    /// How much lies in a ring at most, in each direction: a power of two from 65536 to 16777216. Default 1048576.
    #[serde(default)]
    pub ring_bytes: Option<u32>,
    /// How long a wire that failed between two sidecars is left alone at first; each time in a row twice as long, up to
    /// sixty times as long. Default 1s.
    #[serde(default)]
    pub back_off: Option<Duration>,
    /// How long a ring is kept that carries nothing; `0s`: for the life of its link. Default 60s.
    #[serde(default)]
    pub idle_timeout: Option<Duration>,
}

/// Which wires, beside TCP, on which every link begins.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Wires {
    /// Memory that the sidecars of one host share. Default `may`.
    #[serde(default)]
    pub shm: Option<WireUse>,
    /// Memory of each sidecar that the RDMA device of the other writes to, where both hosts have one. Default `may`.
    #[serde(default)]
    pub rdma: Option<WireUse>,
    /// A QUIC connection beside the TCP one, to the UDP port of the same number. With `may`: while much of what TCP sends
    /// is lost on the way. Default `may`.
    #[serde(default)]
    pub quic: Option<WireUse>,
}

/// How a QUIC connection finds out how much the path takes.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Congestion {
    /// CUBIC, as most TCP does.
    Cubic,
    /// BBR: by bandwidth and round trips, whatever is lost.
    Bbr,
    /// New Reno.
    NewReno,
}

/// Whether a wire is used.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum WireUse {
    /// Once a link is hot; of QUIC: while TCP loses much.
    May,
    /// From the beginning.
    Should,
    /// Never. Of the policies at the two ends, this one holds.
    MustNot,
}
