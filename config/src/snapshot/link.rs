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
}

impl Wires {
    /// All that there are.
    pub const ALL: Wires = Wires { shm: true, rdma: true };

    /// By the labels of wires. Those that are not known here nobody asks for.
    pub fn of<'l>(labels: impl IntoIterator<Item = &'l str>) -> Self {
        let mut wires = Wires::default();
        for label in labels {
            match label {
                "shm" => wires.shm = true,
                "rdma" => wires.rdma = true,
                _ => {}
            }
        }
        wires
    }

    /// The labels of those that are there.
    pub fn labels(self) -> impl Iterator<Item = &'static str> {
        [("shm", self.shm), ("rdma", self.rdma)].into_iter().filter_map(|(label, has)| has.then_some(label))
    }
}

/// Whether a wire is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WireUse {
    /// Once a link is hot.
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

impl Default for LinkPolicy {
    fn default() -> Self {
        LinkPolicy {
            shm: WireUse::May,
            rdma: WireUse::May,
            devices: Arc::default(),
            hot_bytes_per_second: 256 * 1024,
            ring_bytes: 1024 * 1024,
            back_off: Duration::from_secs(1),
            idle_timeout: Some(Duration::from_secs(60)),
        }
    }
}
