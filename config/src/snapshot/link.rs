//! Which wires carry links.

use std::time::Duration;

/// Which wires carry the links to workloads of a Service: LinkPolicy with every default filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkPolicy {
    /// Memory that two sidecars of one host share.
    pub shm: WireUse,
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
            hot_bytes_per_second: 256 * 1024,
            ring_bytes: 256 * 1024,
            back_off: Duration::from_secs(1),
            idle_timeout: Some(Duration::from_secs(60)),
        }
    }
}
