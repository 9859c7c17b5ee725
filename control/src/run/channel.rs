//! Messages between the sidecar and the process inside the application's namespace.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub(super) use lighter_proxy::messages::Channel;

/// What the sidecar asks of the process inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Order {
    /// Start the application.
    Start,
    /// Pass this signal on to the application.
    Signal(i32),
    /// Make sockets for one more sidecar, at the other end of the channel that comes with this.
    Sockets,
}

/// What a sidecar is told by whoever started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Tell {
    /// See [`Ask::Drain`](lighter_proxy::worker::Ask::Drain).
    Drain,
    /// See [`Ask::Finish`](lighter_proxy::worker::Ask::Finish).
    Finish,
    /// Hand over to the process at the other end of the channel that comes with this.
    GiveWay,
}

/// What a sidecar says to whoever started it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Said {
    /// It serves.
    Ready,
    /// It drains, and the application has no callers any more.
    CallersGone,
    /// Somebody asks for another process in its place.
    SuccessorWanted,
    /// It ended.
    Ended {
        /// Why, unless as it was told to.
        fault: Option<String>,
        /// Another process serves in its place.
        handed_over: bool,
    },
}

/// What a successor is given. With it come the channel to its predecessor, the one for sockets made inside, and the
/// netlink socket by which the rules' counters are read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Given {
    /// Which version of these messages is spoken.
    pub(super) version: u32,
    /// The process inside.
    pub(super) inside: i32,
    /// Where the admin port is.
    pub(super) admin: SocketAddr,
}

/// Raised when another binary would misunderstand [`Tell`], [`Said`] or [`Given`].
pub(super) const VERSION: u32 = 1;

/// What the process inside reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Report {
    /// Everything stands. With it come the listeners for outbound connections, then the pairs for DNS, then the
    /// netlink socket by which the rules' counters are read.
    Ready {
        /// Inode of the network namespace.
        netns: u64,
        /// Whether it is owned by a user namespace made for it.
        user_namespace: bool,
        /// How many of the descriptors are outbound listeners.
        outbound: usize,
    },
    /// It cannot be done, and why.
    Failed(String),
    /// The application runs.
    Started(u32),
    /// The application could not be started: why, and the status that a shell would end with.
    NotStarted(String, u8),
    /// The application ended with this status, as a shell gives it (128 and the signal's number).
    Ended(u8),
}

/// Asks for unconnected TCP sockets made inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wanted {
    pub(super) ipv6: bool,
    pub(super) count: usize,
    /// Instead of them, one by which the kernel is asked who listens inside.
    #[serde(default)]
    pub(super) listeners: bool,
}

/// The answer to [`Wanted`]: the sockets come with it, or the system's reason why there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Made {
    pub(super) errno: Option<i32>,
}
