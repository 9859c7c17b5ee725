//! Where requests of a route may run beside its own backends.

use std::sync::Arc;
use std::time::Duration;

use crate::name::ServicePort;

/// An OffloadPolicy with every default filled in, together with what its Function and its Devices say.
#[derive(Clone, Debug, PartialEq)]
pub struct Offload {
    /// `namespace/name` of the policy.
    pub policy: Arc<str>,
    /// What is wanted least of.
    pub objective: Objective,
    /// An answer that takes longer misses the objective of the route.
    pub slo: Duration,
    /// What part of the answers may miss it, from 0 to 1.
    pub miss_share: f64,
    /// How long misses are counted, and how long a step back to devices lasts at least.
    pub window: Duration,
    /// How long a device has to answer before the request goes to the host. None: what the host can spare of `slo`.
    pub try_timeout: Option<Duration>,
    /// By what part the other side has to be better, so that requests go there.
    pub margin: f64,
    /// What part of the requests may find out how a place does.
    pub explore_share: f64,
    /// What runs.
    pub function: OffloadFunction,
    /// What it reads, as the host would. None: nothing but the request.
    pub dataset: Option<OffloadDataset>,
    /// What the route's own backends are like.
    pub host: PlaceProfile,
    /// Where it may run beside them.
    pub devices: Vec<OffloadDevice>,
}

/// What a route's OffloadPolicy wants least of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Objective {
    /// Time until the answer.
    #[default]
    Latency,
    /// Joules.
    Energy,
    /// Bytes that cross the network.
    Bytes,
}

impl Objective {
    /// As it is written.
    pub const fn label(self) -> &'static str {
        match self {
            Objective::Latency => "latency",
            Objective::Energy => "energy",
            Objective::Bytes => "bytes",
        }
    }

    /// What is written so.
    pub fn of(label: &str) -> Option<Self> {
        [Objective::Latency, Objective::Energy, Objective::Bytes].into_iter().find(|one| one.label() == label)
    }
}

/// What a Function is thought to take, until answers say better.
#[derive(Clone, Debug, PartialEq)]
pub struct OffloadFunction {
    /// Its name.
    pub name: Arc<str>,
    /// On the reference host, whatever the size, in seconds.
    pub seconds: f64,
    /// On the reference host, for each byte that it works on, in seconds.
    pub seconds_per_byte: f64,
    /// Bytes of an answer for each byte that it works on.
    pub out_share: f64,
}

/// What is read of a dataset.
#[derive(Clone, Debug, PartialEq)]
pub struct OffloadDataset {
    /// Its name.
    pub name: Arc<str>,
    /// The version that the host reads. Others are not the same data.
    pub version: Arc<str>,
    /// How many bytes a request reads of it, where the request does not say.
    pub bytes: u64,
}

/// A device that a route may use.
#[derive(Clone, Debug, PartialEq)]
pub struct OffloadDevice {
    /// `namespace/name` of the Device.
    pub name: Arc<str>,
    /// The port of the Service by which it is reached.
    pub target: ServicePort,
    /// What it is like.
    pub profile: PlaceProfile,
    /// Whether it holds the function.
    pub has_function: bool,
    /// The version of the dataset that it holds. None: it does not hold it.
    pub dataset: Option<Arc<str>>,
}

/// What a place is said to be like, until answers say better.
#[derive(Clone, Debug, PartialEq)]
pub struct PlaceProfile {
    /// How many times as long as on the reference host a function takes.
    pub compute_factor: f64,
    /// How many requests it works on at once.
    pub slots: u32,
    /// How fast requests and answers get there and back, in bytes a second.
    pub link_bytes_per_second: f64,
    /// How fast it reads the data, in bytes a second.
    pub data_bytes_per_second: f64,
    /// What it draws while it works, in watts above idle.
    pub busy_watts: f64,
    /// What it costs to move a byte to or from it, in joules.
    pub joules_per_byte: f64,
    /// Whether the data that it reads is moved to it over the network.
    pub is_data_moved: bool,
}

impl PlaceProfile {
    /// What a host is like of which nothing is said: its data comes over a network of 10 Gbit/s.
    pub const HOST: PlaceProfile = PlaceProfile {
        compute_factor: 1.0,
        slots: 64,
        link_bytes_per_second: 1.25e9,
        data_bytes_per_second: 1.25e9,
        busy_watts: 10.0,
        joules_per_byte: 1e-8,
        is_data_moved: true,
    };

    /// What a device is like of which nothing is said: slower at computing, and its data is at hand.
    pub const DEVICE: PlaceProfile = PlaceProfile {
        compute_factor: 4.0,
        slots: 4,
        link_bytes_per_second: 1.25e9,
        data_bytes_per_second: 3e9,
        busy_watts: 5.0,
        joules_per_byte: 1e-8,
        is_data_moved: false,
    };
}
