//! Which wires carry links.

use std::sync::Arc;
use std::time::Duration;

/// Which wires carry the links to workloads of a Service: LinkPolicy with every default filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkPolicy {
    /// Memory that two sidecars of one host share.
    pub shm: WireUse,
    /// Memory of each side that the other's RDMA device writes to.
    pub rdma: WireUse,
    /// A QUIC connection beside the TCP one.
    pub quic: WireUse,
    /// How QUIC connections find out how much the path takes.
    pub congestion: Congestion,
    /// How long a QUIC connection that was opened because TCP lost much has to lose next to nothing before TCP carries new
    /// requests again.
    pub quic_calm: Duration,
    /// The names of the RDMA devices that are used. None named: all.
    pub devices: Arc<[Arc<str>]>,
    /// How many bytes a second a hot link carries, both ways together.
    pub hot_bytes_per_second: u64,
    /// How much lies in a ring at most, in each direction: a power of two.
    pub ring_bytes: u32,
    /// How long a wire that failed between two sidecars is left alone at first; each time in a row twice as long, up to
    /// sixty times as long.
    pub back_off: Duration,
    /// How long a ring is kept that carries nothing. None: for the life of its link.
    pub idle_timeout: Option<Duration>,
}

/// What a sidecar has for links beside TCP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Wires {
    /// Memory to share with others of its host.
    pub shm: bool,
    /// An RDMA device.
    pub rdma: bool,
    /// A UDP port of the link port's number, for QUIC.
    pub quic: bool,
}

impl Wires {
    /// All that there are.
    pub const ALL: Wires = Wires { shm: true, rdma: true, quic: true };

    /// By the labels of wires. Those that are not known here nobody asks for.
    pub fn of<'l>(labels: impl IntoIterator<Item = &'l str>) -> Self {
        let mut wires = Wires::default();
        for label in labels {
            match label {
                "shm" => wires.shm = true,
                "rdma" => wires.rdma = true,
                "quic" => wires.quic = true,
                _ => {}
            }
        }
        wires
    }

    /// The labels of those that are there.
    pub fn labels(self) -> impl Iterator<Item = &'static str> {
        let has = [("shm", self.shm), ("rdma", self.rdma), ("quic", self.quic)];
        has.into_iter().filter_map(|(label, has)| has.then_some(label))
    }
}

/// Whether a wire is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WireUse {
    /// Once a link is hot; of QUIC, once TCP loses much.
    #[default]
    May,
    /// From the beginning.
    Should,
    /// Never.
    MustNot,
}

impl WireUse {
    /// As it is written.
    pub fn label(self) -> &'static str {
        match self {
            WireUse::May => "may",
            WireUse::Should => "should",
            WireUse::MustNot => "mustNot",
        }
    }
}

/// How a QUIC connection finds out how much the path takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Congestion {
    /// CUBIC (RFC 9438).
    #[default]
    Cubic,
    /// BBR: by bandwidth and round trips, whatever is lost.
    Bbr,
    /// New Reno (RFC 9002).
    NewReno,
}

impl Congestion {
    /// Every one.
    pub const ALL: [Congestion; 3] = [Congestion::Cubic, Congestion::Bbr, Congestion::NewReno];

    /// As it is written.
    pub fn label(self) -> &'static str {
        match self {
            Congestion::Cubic => "cubic",
            Congestion::Bbr => "bbr",
            Congestion::NewReno => "newReno",
        }
    }
}

impl Default for LinkPolicy {
    fn default() -> Self {
        LinkPolicy {
            shm: WireUse::May,
            rdma: WireUse::May,
            quic: WireUse::May,
            congestion: Congestion::default(),
            quic_calm: Duration::from_secs(30),
            devices: Arc::default(),
            hot_bytes_per_second: 256 * 1024,
            ring_bytes: 1024 * 1024,
            back_off: Duration::from_secs(1),
            idle_timeout: Some(Duration::from_secs(60)),
        }
    }
}
