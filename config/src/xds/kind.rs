//! The kinds of resources that an ADS stream carries.

use std::fmt;

use super::type_url;

/// A kind of resource, in the order in which a server sends them: nothing is named before it was told of. What decides
/// who may talk goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `lighter.config.v1.Workload`.
    Workload,
    /// `envoy.config.cluster.v3.Cluster`.
    Cluster,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment`.
    Endpoints,
    /// `envoy.config.listener.v3.Listener`.
    Listener,
    /// `envoy.config.route.v3.RouteConfiguration`.
    Route,
    /// `lighter.config.v1.Service`.
    Service,
    /// `lighter.config.v1.Address`.
    Address,
}

impl Kind {
    /// Every kind, in order.
    pub const ALL: [Kind; 7] = [
        Kind::Workload,
        Kind::Cluster,
        Kind::Endpoints,
        Kind::Listener,
        Kind::Route,
        Kind::Service,
        Kind::Address,
    ];

    /// The kinds of the gRPC profile, which every xDS client knows.
    pub const STANDARD: [Kind; 4] = [Kind::Cluster, Kind::Endpoints, Kind::Listener, Kind::Route];

    /// The type URL of its messages.
    pub const fn url(self) -> &'static str {
        match self {
            Kind::Workload => type_url::WORKLOAD,
            Kind::Cluster => type_url::CLUSTER,
            Kind::Endpoints => type_url::ENDPOINT,
            Kind::Listener => type_url::LISTENER,
            Kind::Route => type_url::ROUTE,
            Kind::Service => type_url::SERVICE,
            Kind::Address => type_url::ADDRESS,
        }
    }

    /// The kind whose messages have this type URL.
    pub fn of_url(url: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.url() == url)
    }

    /// What metrics and logs call it.
    pub const fn label(self) -> &'static str {
        match self {
            Kind::Workload => "workload",
            Kind::Cluster => "cluster",
            Kind::Endpoints => "endpoints",
            Kind::Listener => "listener",
            Kind::Route => "route",
            Kind::Service => "service",
            Kind::Address => "address",
        }
    }

    /// Whether an answer has everything that is subscribed to, so that what is absent from it is gone. Of the other
    /// kinds an answer has what changed.
    pub const fn is_whole(self) -> bool {
        matches!(self, Kind::Cluster | Kind::Listener | Kind::Service | Kind::Workload)
    }

    /// Whether a client that names nothing means everything.
    pub const fn has_wildcard(self) -> bool {
        matches!(self, Kind::Cluster | Kind::Listener)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_url_of_its_own_and_its_place_in_the_order() {
        for (index, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(Kind::of_url(kind.url()), Some(kind));
            assert_eq!(kind as usize, index);
        }
        assert_eq!(Kind::of_url("type.googleapis.com/envoy.config.cluster.v2.Cluster"), None);
    }
}
