//! How endpoints are chosen, for sidecars and for whoever else reads Clusters.
//!
//! gRPC clients know round robin and the ring. They refuse a `lb_policy` that they do not know, and take the first policy
//! of a list that they do know; so what they do not know stands in a list, before round robin.

use prost::Message;
use prost_types::Any;

use super::{health, load_report};
use crate::snapshot::{Balancer, Balancing, HashOn, LoadReports, Port};
use crate::xds::type_url;
use crate::xds::wire::envoy::config::cluster::v3 as cluster;
use crate::xds::wire::envoy::config::core::v3::TypedExtensionConfig;
use crate::xds::wire::envoy::config::route::v3::route_action as route;
use crate::xds::wire::envoy::extensions::load_balancing_policies::maglev::v3::Maglev;
use crate::xds::wire::lighter::config::v1 as lighter;
use cluster::cluster::{LbConfig, LbPolicy, RingHashLbConfig};
use route::HashPolicy;
use route::hash_policy::{ConnectionProperties, Cookie, Header, PolicySpecifier};

/// All that is said, for sidecars.
pub(super) fn own(balancing: &Balancing) -> lighter::Balancing {
    lighter::Balancing {
        policy: balancing.balancer.label().to_string(),
        hash: balancing.hash.iter().map(hash_on).collect(),
        ring_size: balancing.ring_size,
        table_size: balancing.table_size,
        slow_start: balancing.slow_start.as_ref().map(health::start),
        reports: (balancing.reports != LoadReports::default()).then(|| load_report::own(&balancing.reports)),
    }
}

/// As much of it as a Cluster can say.
pub(super) fn fill_in(balancing: &Balancing, cluster: &mut cluster::Cluster) {
    let before_round_robin = |url: &str, config: Vec<u8>| {
        let policies = vec![policy(url, config), policy(type_url::ROUND_ROBIN, Vec::new())];
        Some(cluster::LoadBalancingPolicy { policies })
    };
    cluster.lb_policy = LbPolicy::RoundRobin.into();
    match balancing.balancer {
        Balancer::PeakEwma => {}
        Balancer::RoundRobin => {
            let policies = vec![policy(type_url::ROUND_ROBIN, Vec::new())];
            cluster.load_balancing_policy = Some(cluster::LoadBalancingPolicy { policies });
        }
        Balancer::WeightedRoundRobin => {
            let said = load_report::client_side(&balancing.reports).encode_to_vec();
            cluster.load_balancing_policy = before_round_robin(type_url::CLIENT_SIDE_WRR, said);
        }
        Balancer::LeastRequest => {
            cluster.load_balancing_policy = before_round_robin(type_url::LEAST_REQUEST, Vec::new());
        }
        Balancer::Random => cluster.load_balancing_policy = before_round_robin(type_url::RANDOM, Vec::new()),
        Balancer::RingHash => {
            cluster.lb_policy = LbPolicy::RingHash.into();
            let minimum_ring_size = Some(balancing.ring_size.into());
            cluster.lb_config = Some(LbConfig::RingHashLbConfig(RingHashLbConfig { minimum_ring_size }));
        }
        Balancer::Maglev => {
            let table = Maglev { table_size: Some(balancing.table_size.into()) };
            cluster.load_balancing_policy = before_round_robin(type_url::MAGLEV, table.encode_to_vec());
        }
    }
}

/// By what requests of a port's routes are told apart. A path cannot be said there.
pub(super) fn hash_policies(port: &Port) -> Vec<HashPolicy> {
    let balancing = &port.policy.balancing;
    let specifier = |on: &HashOn| match on {
        HashOn::Header(name) => Some(PolicySpecifier::Header(Header { header_name: name.to_string() })),
        HashOn::Cookie(name) => Some(PolicySpecifier::Cookie(Cookie { name: name.to_string() })),
        HashOn::SourceAddress => {
            Some(PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true }))
        }
        HashOn::Path => None,
    };
    let hash = balancing.hash.iter().filter(|_| balancing.balancer.hashes()).filter_map(specifier);
    hash.map(|specifier| HashPolicy { policy_specifier: Some(specifier), terminal: true }).collect()
}

fn policy(url: &str, value: Vec<u8>) -> cluster::load_balancing_policy::Policy {
    let config = TypedExtensionConfig {
        name: url.rsplit_once('/').map_or(url, |(_, name)| name).to_string(),
        typed_config: Some(Any { type_url: url.to_string(), value }),
    };
    cluster::load_balancing_policy::Policy { typed_extension_config: Some(config) }
}

fn hash_on(on: &HashOn) -> lighter::HashOn {
    use lighter::hash_on::On;
    let on = match on {
        HashOn::Header(name) => On::Header(name.to_string()),
        HashOn::Cookie(name) => On::Cookie(name.to_string()),
        HashOn::SourceAddress => On::SourceAddress(true),
        HashOn::Path => On::Path(true),
    };
    lighter::HashOn { on: Some(on) }
}
